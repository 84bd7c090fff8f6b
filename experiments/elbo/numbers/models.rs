//! One wrong denoiser, three models: what its bound, its stochastic sampler and its deterministic
//! sampler lose, for one Gaussian mode.

use super::Settings;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::f64::consts::{PI, TAU};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{
    GaussianData, Part, Reconstruction, Reverse, ReverseVar, continuous_transitions,
    gaussian_bound, linear_error,
};
use tweedie::diffusion::kernel::Posterior;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::prediction::Frame;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::chain::{Step, end};
use tweedie::law::gaussian::wiener_gain;
use tweedie::math::gaussian::kl_normal_var;
use tweedie::math::quadrature::IntervalRule;
use tweedie_report::experiment::farthest;

/// What is lost at each place of the error, for one width of it.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Lost {
    /// Width of the error in log-SNR.
    pub width: f64,
    /// Where it is made: log-SNR.
    pub at: Vec<f64>,
    /// Nats above the data's entropy: of the bound, of the stochastic sampler's law, of the
    /// deterministic sampler's law.
    pub nats: [Vec<f64>; 3],
}

/// All numbers on the three models.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Models {
    /// For each width.
    pub lost: Vec<Lost>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Variance of the data.
const LAMBDA: f64 = 1.0;

/// The denoiser `x0_hat = gain x` at alpha = 1, whose eps is off by
/// `size exp(-(l - at)^2 / (2 width^2))` root mean square.
#[derive(Clone, Copy)]
struct Wrong {
    size: f64,
    at: f64,
    width: f64,
}

impl Wrong {
    fn bump(&self, log_snr: f64) -> f64 {
        self.size * (-0.5 * ((log_snr - self.at) / self.width).powi(2)).exp()
    }

    fn gain(&self, log_snr: f64) -> f64 {
        let sigma = (-0.5 * log_snr).exp();
        wiener_gain(LAMBDA, 1.0, sigma)
            - self.bump(log_snr) * sigma / (LAMBDA + sigma * sigma).sqrt()
    }

    /// What the stochastic sampler loses by the solution of its linear equation,
    /// `d r/dl = 2 D r - r/(1 + lambda e^l)` with an error D of the gain and `r` the variance over
    /// the true one, less 1: an integral of what is put in at each level, times what the rest of
    /// the way leaves of it.
    fn forgotten(&self, [last, first]: [f64; 2], rule: &IntervalRule) -> f64 {
        let error = |l: f64| -self.bump(l) / (1.0 + LAMBDA * l.exp()).sqrt();
        let kept =
            |l: f64| (l - first).exp() * (1.0 + LAMBDA * first.exp()) / (1.0 + LAMBDA * l.exp());
        let rest = |l: f64| rule.composite(l, first, 24, error);
        let ratio = 1.0
            + rule.composite(last, first, 64, |l| 2.0 * error(l) * kept(l) * (2.0 * rest(l)).exp());
        kl_normal_var(1.0, ratio)
    }

    /// The most that the deterministic sampler can lose over the bound: what an error far in the
    /// noise does, where data count for nothing.
    ///
    /// The variance is off by `exp(-2 s)` with `s = int bump / 2` at the most, the bound is
    /// `int bump^2 / 2`.
    fn most_over_bound(&self) -> f64 {
        let s = 0.5 * self.size * self.width * TAU.sqrt();
        kl_normal_var(1.0, (-2.0 * s).exp())
            / (0.5 * self.size * self.size * self.width * PI.sqrt())
    }

    /// Bound, stochastic and deterministic sampler, from the true law at the noisy end to the clean
    /// end, in nats above the least.
    fn lost(&self, [last, first]: [f64; 2], rule: &IntervalRule) -> [f64; 3] {
        let var = |l: f64| LAMBDA + (-l).exp();
        let bound = rule.composite(last, first, 64, |l| 0.5 * self.bump(l).powi(2));
        // d ln x / d ln sigma = 1 - gain, and the part of it that is too much.
        let shift = -rule
            .composite(last, first, 64, |l| 0.5 * self.bump(l) / (1.0 + LAMBDA * l.exp()).sqrt());
        // dv/dl = -2 (1 - gain) v + sigma^2, by Runge and Kutta's method, for v over its true
        // value.
        let rate = |l: f64, ratio: f64| {
            let (noise, truth) = ((-l).exp(), var(l));
            // v = ratio truth, and the truth obeys the same equation with the right gain.
            let right = wiener_gain(LAMBDA, 1.0, noise.sqrt());
            2.0 * (self.gain(l) - right) * ratio + noise / truth * (1.0 - ratio)
        };
        let (n, mut ratio) = (1500, 1.0);
        let h = (first - last) / n as f64;
        for k in 0..n {
            let l = last + h * k as f64;
            let a = rate(l, ratio);
            let b = rate(l + 0.5 * h, ratio + 0.5 * h * a);
            let c = rate(l + 0.5 * h, ratio + 0.5 * h * b);
            let d = rate(l + h, ratio + h * c);
            ratio += h / 6.0 * (a + 2.0 * b + 2.0 * c + d);
        }
        [bound, kl_normal_var(1.0, ratio), kl_normal_var(1.0, (2.0 * shift).exp())]
    }
}

impl Models {
    pub fn new(settings: &Settings) -> Result<Self> {
        let ends = settings.log_snr;
        let rule = IntervalRule::new(12)?;
        let wrong = |at: f64, width: f64| Wrong { size: settings.eps_error, at, width };
        let lost: Vec<Lost> = settings
            .widths
            .iter()
            .map(|&width| {
                let at: Vec<f64> = (0..=48)
                    .map(|k| -6.0 + 0.25 * f64::from(k))
                    .filter(|l| *l <= ends[1])
                    .collect();
                let all: Vec<[f64; 3]> =
                    at.par_iter().map(|at| wrong(*at, width).lost(ends, &rule)).collect();
                Lost { width, nats: [0, 1, 2].map(|k| all.iter().map(|l| l[k]).collect()), at }
            })
            .collect();

        // The same by fine steps: the library's bound, ancestral sampling with the posterior's
        // variance, DDIM.
        let (n, case) = (8192, wrong(-1.0, settings.widths[settings.widths.len() - 1]));
        let grid: Vec<f64> =
            (0..=n).map(|k| ends[1] + (ends[0] - ends[1]) * k as f64 / n as f64).collect();
        let points: Vec<PathPoint> = grid
            .iter()
            .map(|l| {
                let frame = Frame::<f64>::variance_preserving(*l);
                PathPoint { t: Some(*l), ..PathPoint::still(frame.alpha, frame.sigma) }
            })
            .collect();
        let error = |p: &PathPoint, lambda: f64| {
            linear_error(lambda, case.gain(p.t.expect("a log-SNR")) / p.alpha, (p.alpha, p.sigma))
        };
        let reverse = Reverse {
            var: ReverseVar::Posterior,
            reconstruction: Reconstruction::Gaussian(1.0),
            prior_var: 1.0,
        };
        let data = GaussianData { variances: &[LAMBDA], mean_square: 0.0 };
        let pair = |p: &PathPoint| (p.alpha, p.sigma);
        let limit = continuous_transitions(LAMBDA, pair(&points[0]), pair(&points[n]));
        let right = gaussian_bound(
            &points,
            data,
            |p, l| tweedie::diffusion::elbo::mmse(l, pair(p)),
            &reverse,
        )?
        .part(Part::Transition);
        let bound = gaussian_bound(&points, data, error, &reverse)?.part(Part::Transition) - right;
        // At alpha = 1.
        let sigma = |k: usize| (-0.5 * grid[k]).exp();
        let steps = (1..=n)
            .rev()
            .map(|k| {
                let q =
                    Posterior::between(Level::new(1.0, sigma(k - 1)), Level::new(1.0, sigma(k)))?;
                Ok(Step::new(q.coef_xt + q.coef_x0 * case.gain(grid[k]), q.var))
            })
            .collect::<Result<Vec<_>>>()?;
        let var = |k: usize| LAMBDA + sigma(k).powi(2);
        let (_, ancestral) = end(0.0, var(n), &steps);
        let ddim = (1..=n).rev().fold(var(n), |v, k| {
            let gain = case.gain(grid[k]);
            v * (gain + sigma(k - 1) / sigma(k) * (1.0 - gain)).powi(2)
        });
        let got = case.lost(ends, &rule);
        let fine = [bound, kl_normal_var(var(0), ancestral), kl_normal_var(var(0), ddim)];
        let names = ["the bound", "ancestral sampling", "DDIM"];
        let mut evidence: Vec<Evidence> = (0..3)
            .map(|k| {
                Evidence::new(
                    format!("{} in {n} steps, nats lost over the limit's", names[k]),
                    fine[k] / got[k],
                    1.0,
                    0.02,
                )
                .because("steps of 0.0017 in log-SNR, to first order")
            })
            .collect();
        evidence.push(
            Evidence::new(
                "transitions of the right denoiser in these steps over the limit's",
                right / limit,
                1.0,
                1e-3,
            )
            .because("the same"),
        );
        let over =
            |l: &Lost, k: usize| farthest(l.nats[k].iter().zip(&l.nats[0]).map(|(a, b)| a / b));
        evidence.push(
            Evidence::at_most(
                "stochastic sampler's loss over the bound's, the most",
                farthest(lost.iter().map(|l| over(l, 1))),
                1.0,
                1e-6,
            )
            .because("no law is farther than its path, but for rounding"),
        );
        for l in &lost {
            let first = wrong(l.at[0], l.width);
            evidence.push(
                Evidence::at_most(
                    format!("error of width {}: deterministic sampler's loss over the bound's, the most", l.width),
                    over(l, 2),
                    first.most_over_bound(),
                    1e-9,
                )
                .because("what an error costs that is made where data count for nothing, in closed form; rounding"),
            );
            evidence.push(
                Evidence::new(
                    format!("error of width {} at the noisiest place: nats that the stochastic sampler loses, step by step over the solved equation", l.width),
                    l.nats[1][0] / first.forgotten(ends, &rule),
                    1.0,
                    1e-5,
                )
                .because("fourth order in steps of about 0.01; a loss is a difference of numbers near 1"),
            );
        }
        evidence.push(
            Evidence::at_least(
                format!(
                    "error of width {}: deterministic sampler's loss over the bound's, the most",
                    case.width
                ),
                over(&lost[lost.len() - 1], 2),
                1.0,
                0.0,
            )
            .because("above 1 it is no bound of this sampler's loss"),
        );
        Ok(Self { lost, evidence })
    }
}
