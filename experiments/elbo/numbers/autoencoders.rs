//! Single autoencoders at each noise level beside chains of them, for a mixture on a line: bounds,
//! produced laws, and what each misses.

use super::Settings;
use super::line::{Line, Slice};
use ndarray::Array2;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{gaussian_reconstruction, prior};
use tweedie::diffusion::kernel::Posterior;
use tweedie::diffusion::level::Level;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::likelihood::log_likelihood_solve;
use tweedie::math::gaussian::{entropy_normal, log_density_normal};
use tweedie::math::larger;
use tweedie_report::experiment::least;

/// A chain, or a single autoencoder.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Chain {
    /// Angles of its levels, the cleanest first.
    pub angles: Vec<f64>,
    /// The bound less the data's entropy, nats.
    pub bound: f64,
    /// `KL(data || produced law)`: what is really lost.
    pub lost: f64,
    /// The produced density at the data's states.
    pub density: Vec<f64>,
}

/// All numbers on autoencoders.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Autoencoders {
    /// States and the data's density.
    pub data: (Vec<f64>, Vec<f64>),
    /// Entropy of the data, nats.
    pub entropy: f64,
    /// Of single autoencoders: angle, prior term, and the whole bound over the entropy with the
    /// best decoder variance of each state, the best constant one, and `(sigma / alpha)^2`.
    pub single: Vec<[f64; 5]>,
    /// The drawn ones.
    pub drawn: Vec<Chain>,
    /// The best single one.
    pub best: Chain,
    /// The chains.
    pub chains: Vec<Chain>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Reach of the states that a chain of unit variance visits, deviations.
const REACH: f64 = 8.5;

fn slice(line: &Line, angle: f64) -> Result<Slice> {
    line.at_over(-2.0 * angle.tan().ln(), REACH / angle.cos())
}

fn level(angle: f64) -> Level<f64> {
    Level::new(angle.cos(), angle.sin())
}

/// Density at `to` of a step from states of this density: `x' ~ N(mean, var)` of each.
fn step(from: &[f64], spacing: f64, kernels: &[(f64, f64)], to: &[f64]) -> Vec<f64> {
    to.par_iter()
        .map(|x| {
            from.iter()
                .zip(kernels)
                .map(|(p, (mean, var))| p * spacing * log_density_normal(*x, *mean, *var).exp())
                .sum()
        })
        .collect()
}

/// Bound and produced law of the chain over these angles, with the best variance of each state in
/// every step.
fn chain(line: &Line, data: &Slice, entropy: f64, angles: &[f64]) -> Result<Chain> {
    let slices = angles.iter().map(|a| slice(line, *a)).collect::<Result<Vec<_>>>()?;
    let last = level(angles[angles.len() - 1]);
    let mut bound =
        prior((last.alpha, last.sigma), line.second_moment(), 1.0) + slices[0].mean(entropy_normal);
    bound += slices
        .windows(2)
        .map(|w| w[1].mean(|v| 0.5 * ((w[0].snr - w[1].snr) * v).ln_1p()))
        .sum::<f64>();
    // States of the variance-preserving path: the slices' times alpha.
    let states =
        |k: usize| -> Vec<f64> { slices[k].x.iter().map(|x| x * angles[k].cos()).collect() };
    let mut x = states(angles.len() - 1);
    let mut density: Vec<f64> = x.iter().map(|x| log_density_normal(*x, 0.0, 1.0).exp()).collect();
    for k in (0..angles.len()).rev() {
        let s = if k == 0 { Level::CLEAN } else { level(angles[k - 1]) };
        let q = Posterior::between(s, level(angles[k]))?;
        let of = &slices[k];
        let kernels: Vec<(f64, f64)> = (0..x.len())
            .map(|i| (q.mean(of.hat[i], x[i]), q.var + q.coef_x0 * q.coef_x0 * of.var[i]))
            .collect();
        let to = if k == 0 { data.x.clone() } else { states(k - 1) };
        density = step(&density, x[1] - x[0], &kernels, &to);
        x = to;
    }
    let cross: f64 = -data
        .weight
        .iter()
        .zip(&density)
        .filter(|p| *p.0 > 0.0)
        .map(|(w, p)| w * p.ln())
        .sum::<f64>();
    Ok(Chain { angles: angles.to_vec(), bound: bound - entropy, lost: cross - entropy, density })
}

impl Autoencoders {
    pub fn new(settings: &Settings, line: &Line) -> Result<Self> {
        let data = line.at_over(f64::INFINITY, 7.0)?;
        let entropy = data.entropy();
        let quarter = std::f64::consts::FRAC_PI_2;
        let single = (1..60)
            .into_par_iter()
            .map(|k| {
                let angle = quarter * k as f64 / 60.0;
                let (of, at) = (slice(line, angle)?, level(angle));
                let prior = prior((at.alpha, at.sigma), line.second_moment(), 1.0);
                let over = |reconstruction: f64| prior + reconstruction - entropy;
                let error = of.error();
                let wide = gaussian_reconstruction(error, 1.0 / of.snr);
                Ok([
                    angle,
                    prior,
                    over(of.mean(entropy_normal)),
                    over(entropy_normal(error)),
                    over(wide),
                ])
            })
            .collect::<Result<Vec<_>>>()?;
        let place = single.iter().min_by(|a, b| a[2].total_cmp(&b[2])).map_or(f64::NAN, |s| s[0]);
        let of = |angles: &[f64]| chain(line, &data, entropy, angles);
        let drawn = settings.angles.iter().map(|a| of(&[*a])).collect::<Result<Vec<_>>>()?;
        let best = of(&[place])?;
        let chains = settings
            .chains
            .iter()
            .map(|&n| of(&(1..=n).map(|k| quarter * k as f64 / (n + 1) as f64).collect::<Vec<_>>()))
            .collect::<Result<Vec<_>>>()?;

        let spacing = data.x[1] - data.x[0];
        let all: Vec<&Chain> = drawn.iter().chain([&best]).chain(&chains).collect();
        let mass = all
            .iter()
            .map(|c| (c.density.iter().sum::<f64>() * spacing - 1.0).abs())
            .fold(0.0, larger);
        let below = least(all.iter().map(|c| c.bound - c.lost));
        let lost = least(all.iter().map(|c| c.lost));
        // The exact likelihood of single data by the probability-flow ODE.
        let (clean, noise) = (PathPoint::still(1.0, 0.02), PathPoint::still(0.02, 1.0));
        let x =
            Array2::from_shape_vec((5, 1), vec![-1.5, -1.1, -0.2, 0.4, 1.7]).expect("five rows");
        let by_flow = log_likelihood_solve(&line.law, x.view(), &clean, &noise)?;
        let direct = tweedie::law::Law::log_density(&line.law, x.view(), &clean);
        let off = (&by_flow - &direct).iter().map(|v| v.abs()).fold(0.0, larger);
        let bounds: Vec<f64> = std::iter::once(&best).chain(&chains).map(|c| c.bound).collect();
        let fall = least(bounds.windows(2).map(|w| w[0] - w[1]));
        let evidence = vec![
            Evidence::new("mass of a produced density between −7 and 7, farthest from 1", mass, 0.0, 1e-5)
                .because("what a wide decoder puts beyond, and the step of the sums"),
            Evidence::at_least("bound less the produced law's loss, the least of all chains, nats", below, 0.0, 1e-9)
                .because("Jensen's inequality, and rounding"),
            Evidence::at_least("produced law's loss, the least of all chains, nats", lost, 0.0, 1e-9)
                .because("a divergence, and rounding"),
            Evidence::at_least(
                "fall of the bound from the best single one to the chains, and from chain to longer chain, the least, nats",
                fall,
                mass,
                0.0,
            )
            .because("more than the sums over states are off, by the mass that they lack of 1"),
            Evidence::new(
                "ln p(x) by the probability-flow ODE, against the mixture's density: five data, largest difference",
                off,
                0.0,
                1e-8,
            )
            .because("the integrator allows 1e-13 a step"),
        ];
        Ok(Self {
            entropy,
            single,
            drawn,
            best,
            chains,
            evidence,
            data: (data.x.clone(), data.log_density.iter().map(|l| l.exp()).collect()),
        })
    }
}
