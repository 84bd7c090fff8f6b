//! The derivation of the bound, each line a number: one datum, a chain of a few steps, a linear
//! Gaussian model.

use super::Settings;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{
    Part, Reconstruction, Reverse, ReverseVar, bound, linear_error, mmse,
};
use tweedie::diffusion::kernel::{Posterior, Transition};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::Table;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::chain::{Step, ancestral, end, joint};
use tweedie::law::gaussian::wiener_gain;
use tweedie::math::gaussian::{entropy_normal, log_density_normal};
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie_report::experiment::least;

/// The lines of one model at the datum.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Lines {
    /// What is wrong with the model.
    pub name: String,
    /// `ln p(x0)`, in closed form.
    pub log_evidence: f64,
    /// `ln` of the mean weight `p(x_{0:T}) / q(x_{1:T}|x0)` over draws of q, with its standard
    /// error.
    pub by_weights: [f64; 2],
    /// `E_q ln p(x_{0:T}) / q(x_{1:T}|x0)` of the two dense joint laws.
    pub jensen: f64,
    /// Mean over the draws of the rearranged logarithm, with its standard error.
    pub rearranged: [f64; 2],
    /// Reconstruction, transitions from t = 2, prior: the bound's terms, with the sign that they
    /// have in it.
    pub terms: Vec<f64>,
    /// `KL(q(x_{1:T}|x0) || p(x_{1:T}|x0))` of the dense laws.
    pub gap: f64,
    /// The rearranged line as one deck prints it, without `q(x_T|x0)`.
    pub misprinted: f64,
    /// Density of `ln w - ln p(x0)`: centres and heights.
    pub histogram: (Vec<f64>, Vec<f64>),
    /// K, and the gap of the bound by K draws, `ln p(x0) - E ln (w_1 + ... + w_K)/K`.
    pub many: (Vec<f64>, Vec<f64>),
    /// Least eigenvalue of the form whose positivity makes the weights' fourth moment finite.
    fourth: f64,
    /// Largest difference of the two forms of the logarithm along a trajectory.
    slack: f64,
}

impl Lines {
    /// The bound, sum of its terms.
    pub fn bound(&self) -> f64 {
        self.terms.iter().sum()
    }
}

/// A model: gains of the denoiser and variances of the steps, from x_1 on.
struct Model {
    name: &'static str,
    gains: Vec<f64>,
    vars: Vec<f64>,
}

pub fn lines(
    settings: &Settings,
    trajectories: usize,
    noise: &Noise,
) -> Result<(Vec<Lines>, Vec<Evidence>)> {
    let table = Table::from_betas(&settings.betas)?;
    let points: Vec<PathPoint> =
        table.rows().iter().map(|r| PathPoint::still(r.alpha, r.sigma)).collect();
    let lambda = settings.lambda;
    let wiener: Vec<f64> = points.iter().map(|p| wiener_gain(lambda, p.alpha, p.sigma)).collect();
    let clean = std::iter::once(Level::CLEAN)
        .chain(table.rows().iter().map(|r| Level::new(r.alpha, r.sigma)));
    let levels: Vec<Level<f64>> = clean.collect();
    let posteriors =
        levels.windows(2).map(|w| Posterior::between(w[0], w[1])).collect::<Result<Vec<_>>>()?;
    // The best variance is the posterior's and what x0 leaves open.
    let best = |gains: &[f64]| -> Vec<f64> {
        let open = |k: usize| linear_error(lambda, gains[k], (points[k].alpha, points[k].sigma));
        posteriors
            .iter()
            .enumerate()
            .map(|(k, q)| q.var + q.coef_x0 * q.coef_x0 * open(k))
            .collect()
    };
    let wrong: Vec<f64> = wiener.iter().map(|g| settings.share * g).collect();
    let exact = best(&wiener);
    let small = posteriors
        .iter()
        .zip(&exact)
        .enumerate()
        .map(|(k, (q, v))| if k == 0 { *v } else { q.var })
        .collect();
    let models = [
        Model { name: "exact reversal", vars: exact, gains: wiener.clone() },
        Model { name: "posterior variance", vars: small, gains: wiener },
        Model { name: "wrong denoiser", vars: best(&wrong), gains: wrong },
    ];
    let all = models
        .iter()
        .map(|m| one(m, &points, &levels, &posteriors, settings.datum, trajectories, noise))
        .collect::<Result<Vec<_>>>()?;
    let mut evidence = Vec::new();
    for l in &all {
        let named = |what: &str| format!("{}: {what}", l.name);
        let size = l.terms.iter().map(|t| t.abs()).sum::<f64>();
        // An exact model has weights that all are the same: what is left of their spread is
        // rounding.
        let four = |se: f64| 4.0 * se + 1e-12;
        evidence.push(
            Evidence::new(
                named("ln of the mean weight over draws of q, against ln p(x0)"),
                l.by_weights[0],
                l.log_evidence,
                four(l.by_weights[1]),
            )
            .because("four standard errors"),
        );
        evidence.push(
            Evidence::new(
                named("the terms of the bound, against E_q ln p/q of two dense Gaussians"),
                l.bound(),
                l.jensen,
                1e-12 * size,
            )
            .because("rounding of the terms"),
        );
        evidence.push(
            Evidence::new(
                named("mean of the rearranged logarithm over draws, against the terms"),
                l.rearranged[0],
                l.bound(),
                four(l.rearranged[1]),
            )
            .because("four standard errors"),
        );
        evidence.push(
            Evidence::new(
                named("largest difference of the two forms of the logarithm on one trajectory"),
                l.slack,
                0.0,
                1e-11,
            )
            .because("log densities of up to a hundred nats, rounded"),
        );
        evidence.push(
            Evidence::new(
                named("ln p(x0) less the bound, against KL(q(x_{1:T}|x0) ‖ p(x_{1:T}|x0))"),
                l.log_evidence - l.bound(),
                l.gap,
                1e-10 * (1.0 + size),
            )
            .because("the joint law is conditioned and inverted"),
        );
    }
    evidence.push(
        Evidence::at_least(
            "least eigenvalue of the form whose exponential is the fourth moment of a model's weights, the least of all models",
            least(all.iter().map(|l| l.fourth)),
            0.0,
            0.0,
        )
        .because("below 0 there is no such moment, and standard errors would say nothing"),
    );
    // The datum averaged out, one chain against the library's bound over Gaussian data: posterior
    // variances, Wiener filter.
    let drops: f64 = points
        .windows(2)
        .map(|w| {
            let error = mmse(lambda, (w[1].alpha, w[1].sigma));
            0.5 * (w[0].snr() - w[1].snr()) * error
        })
        .sum();
    let second =
        |x0: f64| -> Result<f64> { Ok(one_bound(&models[1], &points, x0)?.part(Part::Transition)) };
    // A quadratic in x0: two points that have the data's variance average it.
    let std = lambda.sqrt();
    evidence.push(
        Evidence::new(
            "posterior variance: transitions averaged over x0, against half the drops of SNR times the least error",
            0.5 * (second(std)? + second(-std)?),
            drops,
            1e-13 * (1.0 + drops),
        )
        .because("rounding"),
    );
    Ok((all, evidence))
}

fn one_bound(
    model: &Model,
    points: &[PathPoint],
    x0: f64,
) -> Result<tweedie::diffusion::elbo::Bound> {
    let errors: Vec<f64> = points
        .iter()
        .zip(&model.gains)
        .map(|(p, g)| (x0 - g * p.alpha * x0).powi(2) + (g * p.sigma).powi(2))
        .collect();
    let reverse = Reverse {
        var: ReverseVar::Given(model.vars[1..].to_vec()),
        reconstruction: Reconstruction::Gaussian(model.vars[0]),
        prior_var: 1.0,
    };
    bound(points, 1, x0 * x0, &errors, &reverse)
}

fn one(
    model: &Model,
    points: &[PathPoint],
    levels: &[Level<f64>],
    posteriors: &[Posterior<f64>],
    x0: f64,
    trajectories: usize,
    noise: &Noise,
) -> Result<Lines> {
    let last = points.len();
    let kernels =
        levels.windows(2).map(|w| Transition::between(w[0], w[1])).collect::<Result<Vec<_>>>()?;
    let back = ancestral(points, &model.gains, &model.vars)?;
    let (mean, var) = end(0.0, 1.0, &back);
    let log_evidence = log_density_normal(x0, mean, var);
    // Dense: q(x_0..x_T) with x0 given, p in the same order.
    let forward =
        joint(x0, 0.0, &kernels.iter().map(|q| Step::new(q.scale, q.var)).collect::<Vec<_>>())?;
    let backward = joint(0.0, 1.0, &back)?.marginal(&(0..=last).rev().collect::<Vec<_>>())?;
    let latents = forward.marginal(&(1..=last).collect::<Vec<_>>())?;
    let jensen = latents.entropy() - forward.cross_entropy(&backward)?;
    let given = backward.condition(&[0], &[x0])?;
    let gap = latents.kl(&given)?;
    // E_q w^4 is an integral of exp of a quadratic form: 4 times the model's precision less 3 times
    // the forward process's.
    let precisions = given.cov_matrix().try_inverse().zip(latents.cov_matrix().try_inverse());
    let fourth =
        precisions.map_or(f64::NAN, |(p, q)| (p * 4.0 - q * 3.0).symmetric_eigenvalues().min());
    let terms = one_bound(model, points, x0)?.terms().iter().map(|t| -t.nats).collect();
    // Both forms of ln p(x_{0:T})/q(x_{1:T}|x0) along each trajectory.
    let logs: Vec<[f64; 2]> = (0..trajectories)
        .into_par_iter()
        .map(|i| {
            let mut x = vec![x0];
            for (k, q) in kernels.iter().enumerate() {
                x.push(q.mean(x[k]) + q.var.sqrt() * noise.normal(k as u64, i as u64));
            }
            let reverse = |t: usize| {
                log_density_normal(x[t - 1], back[last - t].scale * x[t], back[last - t].var)
            };
            let prior = log_density_normal(x[last], 0.0, 1.0);
            let plain = prior
                + (1..=last)
                    .map(|t| reverse(t) - kernels[t - 1].log_density(x[t], x[t - 1]))
                    .sum::<f64>();
            let turned = (2..=last)
                .map(|t| reverse(t) - posteriors[t - 1].log_density(x[t - 1], x[t], x0))
                .sum::<f64>();
            let (alpha, sigma) = (levels[last].alpha, levels[last].sigma);
            let rearranged = prior - log_density_normal(x[last], alpha * x0, sigma * sigma)
                + turned
                + reverse(1);
            [plain, rearranged]
        })
        .collect();
    let slack = logs.iter().map(|[a, b]| (a - b).abs()).fold(0.0, larger);
    let n = trajectories as f64;
    let moments = |f: &dyn Fn(&[f64; 2]) -> f64| {
        let mean = logs.iter().map(f).sum::<f64>() / n;
        let var = logs.iter().map(|l| (f(l) - mean).powi(2)).sum::<f64>() / (n - 1.0);
        [mean, (var / n).sqrt()]
    };
    let weights = moments(&|l| (l[0] - log_evidence).exp());
    let rearranged = moments(&|l| l[1]);
    // ln(1 + x) at x = mean - 1: the error carries over.
    let by_weights = [log_evidence + weights[0].ln(), weights[1] / weights[0]];
    let misprinted = rearranged[0] - entropy_normal(levels[last].sigma.powi(2));
    // The mean weight has mean 1: `m - 1 - ln m` has the mean of `-ln m`, is never negative, and
    // varies far less.
    let many = (0..=10).map(|k| 1usize << k).filter(|k| trajectories / k >= 32).filter_map(|k| {
        let gaps: Vec<f64> = logs
            .chunks_exact(k)
            .map(|g| g.iter().map(|l| (l[0] - log_evidence).exp()).sum::<f64>() / k as f64)
            .map(|m| m - 1.0 - m.ln())
            .collect();
        let count = gaps.len() as f64;
        let mean = gaps.iter().sum::<f64>() / count;
        let var = gaps.iter().map(|l| (l - mean).powi(2)).sum::<f64>() / (count - 1.0);
        // What chance alone may make of it is left out.
        (mean > 4.0 * (var / count).sqrt()).then_some((k as f64, mean))
    });
    Ok(Lines {
        name: model.name.into(),
        log_evidence,
        by_weights,
        jensen,
        rearranged,
        terms,
        gap,
        fourth,
        misprinted,
        histogram: histogram(logs.iter().map(|l| l[0] - log_evidence), n),
        many: many.unzip(),
        slack,
    })
}

/// Density over [-6, 3] in bins of 0.1.
fn histogram(values: impl Iterator<Item = f64>, n: f64) -> (Vec<f64>, Vec<f64>) {
    let (from, width, bins) = (-6.0, 0.1, 90);
    let mut counts = vec![0.0; bins];
    for v in values {
        let k = ((v - from) / width).floor();
        if (0.0..bins as f64).contains(&k) {
            counts[k as usize] += 1.0 / (n * width);
        }
    }
    ((0..bins).map(|k| from + width * (k as f64 + 0.5)).collect(), counts)
}
