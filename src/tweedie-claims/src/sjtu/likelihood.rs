//! The likelihood that the bound stays below.

use super::chain::Chain;
use super::still;
use crate::Claim;
use crate::Role::Printed;
use ndarray::Array2;
use std::f64::consts::{FRAC_PI_2, LN_2};
use tweedie::diffusion::decoder::{DiscretisedGaussian, nats_to_bits_per_dim};
use tweedie::diffusion::elbo::{Reverse, bound, prior};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::law::Law;
use tweedie::law::mixture::Mixture;
use tweedie::math::gaussian::{kl_normal, log_density_normal};
use tweedie::math::larger;
use tweedie::math::quadrature::{IntervalRule, NormalRule};

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "sjtu/likelihood-lower-bound",
    slide: "Did We Get All Three?",
    statement: "A diffusion model gives a lower bound of the likelihood.",
    reading: "",
    assumes: "For single data points: linear Gaussian reverse models, whose likelihood is known exactly. On average over the data: \
    Gaussian mixtures with the best denoiser and the best reverse variances.",
    printed: "",
    formula: r"\log p_\theta(x_0) - \operatorname{ELBO}(x_0) = \operatorname{KL}\left(q(x_{1:T} | x_0) \,\|\, p_\theta(x_{1:T} |
    x_0)\right) \ge 0",
    finding: "It holds at every data point and not only on average; what the bound misses is the divergence of the two processes \
    given x0. With the best denoiser of a mixture the gap closes as the steps get shorter.",
    mutants: &[
        "prior term dropped",
        "noise of x_1 forgotten",
        "half of every divergence",
        "error of the best denoiser understated",
        "tanh for the normal CDF",
        "bits/dim without the levels' spacing",
    ],
    check: |p| {
        let (no_prior, no_noise) =
            (p.mutant("prior term dropped"), p.mutant("noise of x_1 forgotten"));
        let (half, understated) = (
            p.mutant("half of every divergence"),
            p.mutant("error of the best denoiser understated"),
        );
        let (tanh, unscaled) =
            (p.mutant("tanh for the normal CDF"), p.mutant("bits/dim without the levels' spacing"));
        let four = NormalRule::new(4).expect("4 nodes");
        p.property(
            Printed,
            "What the bound misses at one data point, against the divergence of the processes given it",
            96,
            "4 nodes are exact for the quadratics; rounding",
            |t| {
                let chain = Chain::random(t);
                let x0 = t.normal() * 1.5;
                let elbo = elbo_at(&chain, x0, &four, no_prior, no_noise, half);
                let (q, model) = (chain.forward(), chain.model());
                let log_likelihood = model.marginal(&[0]).expect("x_0").log_density(&nalgebra::dvector![x0]).expect("a density");
                let (given_q, given_p) =
                    (q.condition(&[0], &[x0]).expect("a density"), model.condition(&[0], &[x0]).expect("a density"));
                t.compare(log_likelihood - elbo, given_q.kl(&given_p).expect("one dimension"), 1e-10);
                t.compare((elbo - log_likelihood).max(0.0), 0.0, 1e-11);
            },
        );
        p.property(
            Printed,
            "Mean bound of a mixture above its entropy, with 4, 8 and 16 steps: the largest shortfall",
            3,
            "even steps integrate smooth functions that vanish at both ends to 1e-8 nats",
            |t| {
                let law = t.mixture(1, 2);
                // All of the signal is gone at the end, so that the entropy of the data is what the
                // bound may reach.
                let entropy = -mean_of(&law, &PathPoint::CLEAN, |log_density, _| log_density);
                let gaps = [4, 8, 16].map(|steps| mean_bound(&law, steps, understated) - entropy);
                t.compare(gaps.iter().map(|g| -g).fold(0.0, larger), 0.0, 1e-8);
                // Shorter steps can only help, and here they do.
                t.compare((gaps[1] / gaps[0]).max(gaps[2] / gaps[1]).max(0.9), 0.9, 0.0);
            },
        );
        let (decoder, rule) = (
            DiscretisedGaussian::new(256).expect("256 levels"),
            IntervalRule::new(16).expect("16 nodes"),
        );
        p.property(
            Printed,
            "Integer levels 0..255: ln of the decoder's probability against its density integrated over the level's cell; and bits/dim of \
             the density, averaged over the cell, above it",
            96,
            "16 nodes are exact to 1e-13 where a cell is a sixth of a deviation; above by half the variance of ln p over the cell",
            |t| {
                let (scale, std) = (decoder.scale(), t.log_uniform(0.05, 0.5));
                let (level, width) = (t.int(1, 254), decoder.scale().spacing());
                let centre = scale.scaled(level as f64);
                let mean = centre + std * t.uniform(-6.0, 6.0);
                let over_cell = |f: &dyn Fn(f64) -> f64| rule.integral(centre - 0.5 * width, centre + 0.5 * width, f);
                let log_density = |x: f64| log_density_normal(x, mean, std * std);
                let cdf = |x: f64| {
                    let z = (x - mean) / std;
                    0.5 * (1.0 + (0.797_884_560_802_865_4 * (z + 0.044_715 * z.powi(3))).tanh())
                };
                let log_mass = if tanh {
                    (cdf(centre + 0.5 * width) - cdf(centre - 0.5 * width)).ln()
                } else {
                    decoder.log_mass(level, mean, std)
                };
                t.compare(log_mass, over_cell(&|x| log_density(x).exp()).ln(), 1e-12 * (1.0 + log_mass.abs()));
                let nats = -over_cell(&log_density) / width;
                let bits = if unscaled { nats_to_bits_per_dim(nats, 1) } else { scale.bits_per_dim(nats, 1) };
                let (slope, curvature) = ((mean - centre) * width / (std * std), (width / std).powi(2));
                let most = (slope * slope + curvature * curvature) / 12.0;
                t.compare(bits + log_mass / LN_2, 0.5 * most, 0.5 * most + 1e-12);
            },
        );
    },
}];

/// The bound at one data point, term by term.
fn elbo_at(
    chain: &Chain,
    x0: f64,
    rule: &NormalRule,
    no_prior: bool,
    no_noise: bool,
    half: bool,
) -> f64 {
    let at = |step: usize| still(&chain.table, step);
    let share = if half { 0.5 } else { 1.0 };
    let first = at(1);
    let spread = if no_noise { 0.0 } else { first.sigma.powi(2) };
    let mut elbo = rule.expectation(first.alpha * x0, spread, |x1| {
        log_density_normal(x0, chain.gain_of_step(1) * x1, chain.vars[0])
    });
    for step in 2..=chain.steps() {
        let (q, level) = (chain.posterior(step), at(step));
        elbo -= share
            * rule.expectation(level.alpha * x0, level.sigma.powi(2), |xt| {
                kl_normal(
                    q.mean(x0, xt),
                    q.var,
                    chain.gain_of_step(step) * xt,
                    chain.vars[step - 1],
                )
            });
    }
    let last = at(chain.steps());
    if no_prior { elbo } else { elbo - share * prior((last.alpha, last.sigma), x0 * x0, 1.0) }
}

/// The bound of a mixture with its own denoiser and the best variances, over a schedule of zero
/// terminal SNR.
fn mean_bound(law: &Mixture, steps: usize, understated: bool) -> f64 {
    // Even steps of the angle: x_1 keeps 1e-3 of the noise variance for every number of steps.
    let first = 1e-3f64.sqrt().asin();
    let angle = |k: usize| first + k as f64 / (steps - 1) as f64 * (FRAC_PI_2 - first);
    let points: Vec<_> = (0..steps)
        .map(|k| {
            PathPoint::still(if k + 1 == steps { 0.0 } else { angle(k).cos() }, angle(k).sin())
        })
        .collect();
    let second_moment = Law::cov(law)[[0, 0]] + Law::mean(law)[0].powi(2);
    let error = |at: &PathPoint| second_moment - mean_of(law, at, |_, x0_hat| x0_hat * x0_hat);
    let errors: Vec<f64> =
        points.iter().map(|at| error(at) * if understated { 1e-2 } else { 1.0 }).collect();
    bound(&points, 1, second_moment, &errors, &Reverse::optimal()).expect("a valid bound").nats()
}

/// Mean over x_t of a function of its log density and denoiser, by even steps.
fn mean_of(law: &Mixture, at: &PathPoint, f: impl Fn(f64, f64) -> f64) -> f64 {
    const STEP: f64 = 0.03;
    let x = Array2::from_shape_fn((801, 1), |(i, _)| STEP * (i as f64 - 400.0));
    let mut x0_hat = x.clone();
    law.denoise(x.view(), at, x0_hat.view_mut()).expect("an exact law");
    STEP * law
        .log_density(x.view(), at)
        .iter()
        .zip(&x0_hat)
        .map(|(l, x0)| l.exp() * f(*l, *x0))
        .sum::<f64>()
}
