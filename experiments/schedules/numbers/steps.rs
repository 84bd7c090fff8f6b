//! Forward chains as random walks, a worked example, and how Gaussian one reverse step is.

use super::Settings;
use crate::elbo::numbers::line::{Line, Slice};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::kernel::{Posterior, Transition, random_walk, random_walk_posterior};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::chain::{Step, end};
use tweedie::math::gaussian::{entropy_normal, log_density_normal};
use tweedie::math::larger;
use tweedie::math::noise::Noise;

/// Paths of a chain with two deviations about their means.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Walks {
    /// Times.
    pub t: Vec<f64>,
    /// Paths, each as long as the times.
    pub paths: Vec<Vec<f64>>,
    /// For each start: mean less two deviations, and plus two.
    pub tubes: Vec<[Vec<f64>; 2]>,
}

/// All numbers on single steps.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Steps {
    /// The walk with unit steps, and the variance-preserving chain.
    pub walks: [Walks; 2],
    /// The worked example: state and norm after each step.
    pub example: Vec<([f64; 4], f64)>,
    /// For each drawn step: its width in log-SNR, and the standardised density of x_s given x_t.
    pub reverse: Vec<(f64, Vec<(f64, f64)>)>,
    /// Width in log-SNR and mean divergence of a reverse step from the Gaussian of its moments,
    /// nats.
    pub divergence: Vec<(f64, f64)>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// The reverse step from a slice at log-SNR `t` to one at `s`, at alpha = 1: mean and variance at
/// each state.
fn moments(s: &Slice, t: &Slice) -> Result<Vec<(f64, f64)>> {
    let at = |snr: f64| Level::new(1.0, 1.0 / snr.sqrt());
    let q = Posterior::between(at(s.snr), at(t.snr))?;
    Ok((0..t.x.len())
        .map(|i| (q.mean(t.hat[i], t.x[i]), q.var + q.coef_x0 * q.coef_x0 * t.var[i]))
        .collect())
}

/// `E KL(q(x_s|x_t) || N(its mean, its variance))`, nats, by entropies: what the chain rule leaves.
fn divergence(s: &Slice, t: &Slice) -> Result<f64> {
    let gaussian: f64 =
        t.weight.iter().zip(moments(s, t)?).map(|(w, (_, var))| w * entropy_normal(var)).sum();
    Ok(gaussian - (s.entropy() + entropy_normal(1.0 / t.snr - 1.0 / s.snr) - t.entropy()))
}

/// The same by the densities themselves.
fn divergence_by_densities(s: &Slice, t: &Slice) -> Result<f64> {
    let moments = moments(s, t)?;
    let noise = 1.0 / t.snr - 1.0 / s.snr;
    let sum = |i: usize| -> f64 {
        if t.weight[i] < 1e-14 {
            return 0.0;
        }
        let (mean, var) = moments[i];
        (0..s.x.len())
            .map(|j| {
                // ln q(x_s|x_t) by Bayes' rule.
                let log =
                    s.log_density[j] + log_density_normal(t.x[i], s.x[j], noise) - t.log_density[i];
                let spacing = s.x[1] - s.x[0];
                log.exp() * spacing * (log - log_density_normal(s.x[j], mean, var))
            })
            .sum::<f64>()
            * t.weight[i]
    };
    Ok((0..t.x.len()).into_par_iter().map(sum).collect::<Vec<f64>>().iter().sum())
}

impl Steps {
    pub fn new(settings: &Settings, walks: usize, noise: &Noise) -> Result<Self> {
        let mut evidence = Vec::new();
        // The walk with unit steps.
        let n = settings.walk;
        let walk = |i: usize| -> Vec<f64> {
            let mut x = vec![0.0];
            for t in 0..n {
                x.push(x[t] + noise.normal(1 + t as u64, i as u64));
            }
            x
        };
        let deviations: Vec<f64> = (0..=n).map(|t| random_walk(t as f64).sigma).collect();
        let unit = Walks {
            t: (0..=n).map(|t| t as f64).collect(),
            paths: (0..6).map(walk).collect(),
            tubes: vec![[-2.0, 2.0].map(|k| deviations.iter().map(|s| k * s).collect())],
        };
        let ends: Vec<f64> = (0..walks).into_par_iter().map(|i| walk(i)[n]).collect();
        let var = ends.iter().map(|x| x * x).sum::<f64>() / walks as f64;
        let t = n as f64;
        evidence.push(
            Evidence::new(
                format!("variance after {n} unit steps, {walks} walks"),
                var,
                t,
                4.0 * t * (2.0 / walks as f64).sqrt(),
            )
            .because("four standard errors of a variance"),
        );
        // Back along the bridges to x0 = 0: the marginals of the walk.
        let bridges: Vec<Step> = (n / 2 + 1..=n)
            .rev()
            .map(|t| {
                let q = random_walk_posterior(t as f64 - 1.0, t as f64);
                Step::new(q.coef_xt, q.var)
            })
            .collect();
        evidence.push(
            Evidence::new(
                "back from T to T/2 by N((1 − 1/t) x_t + x_0/t, 1 − 1/t): variance",
                end(0.0, t, &bridges).1,
                (n / 2) as f64,
                1e-12 * t,
            )
            .because("rounding of fifty steps"),
        );
        // The variance-preserving chain.
        let table = Table::new(Schedule::LINEAR, settings.steps, false)?;
        let every = (settings.steps / 100).max(1);
        let starts = [-3.0, 3.0];
        let level = |t: usize| {
            if t == 0 {
                Level::CLEAN
            } else {
                Level::new(table.rows()[t - 1].alpha, table.rows()[t - 1].sigma)
            }
        };
        let times: Vec<usize> = (0..=settings.steps).step_by(every).collect();
        let path = |k: usize| -> Result<Vec<f64>> {
            let mut x = vec![starts[k % 2]];
            for (j, w) in times.windows(2).enumerate() {
                let q = Transition::between(level(w[0]), level(w[1]))?;
                x.push(q.mean(x[j]) + q.var.sqrt() * noise.normal(1000 + j as u64, k as u64));
            }
            Ok(x)
        };
        let tube = |start: f64| {
            [-2.0, 2.0].map(|k| {
                times.iter().map(|t| level(*t).alpha * start + k * level(*t).sigma).collect()
            })
        };
        let preserving = Walks {
            t: times.iter().map(|t| *t as f64).collect(),
            paths: (0..6).map(path).collect::<Result<_>>()?,
            tubes: starts.into_iter().map(tube).collect(),
        };

        // The worked example.
        let betas = Table::from_betas(&settings.example_betas)?;
        let norm = |x: &[f64]| x.iter().map(|v| v * v).sum::<f64>().sqrt();
        let mut example = vec![(settings.example_start, norm(&settings.example_start))];
        for (row, eps) in betas.rows().iter().zip(&settings.example_noise) {
            let x = example[example.len() - 1].0;
            let x =
                std::array::from_fn(|i| row.alpha_step.sqrt() * x[i] + row.beta.sqrt() * eps[i]);
            example.push((x, norm(&x)));
        }
        // Without the states between: each noise with the factor that is left of it.
        let last = betas.steps();
        let left =
            |from: usize| betas.rows()[from..].iter().map(|r| r.alpha_step).product::<f64>().sqrt();
        let off = (0..4)
            .map(|i| {
                let fresh: f64 = (0..last)
                    .map(|k| {
                        left(k + 1)
                            * settings.example_betas[k].sqrt()
                            * settings.example_noise[k][i]
                    })
                    .sum();
                (left(0) * settings.example_start[i] + fresh - example[last].0[i]).abs()
            })
            .fold(0.0, larger);
        evidence.push(
            Evidence::new(
                "worked example: last state step by step, against all at once",
                off,
                0.0,
                1e-15 * 8.0,
            )
            .because("a few roundings"),
        );

        // Reverse steps of a mixture.
        let line = Line::new(&settings.mixture)?;
        let from = line.at(settings.step_log_snr)?;
        let nearest = (0..from.x.len())
            .min_by(|a, b| {
                (from.x[*a] - settings.step_state)
                    .abs()
                    .total_cmp(&(from.x[*b] - settings.step_state).abs())
            })
            .unwrap_or(0);
        let reverse = settings
            .step_widths
            .iter()
            .map(|width| {
                let to = line.at(settings.step_log_snr + width)?;
                let (mean, var) = moments(&to, &from)?[nearest];
                let noise = 1.0 / from.snr - 1.0 / to.snr;
                let curve =
                    to.x.iter()
                        .zip(&to.log_density)
                        .map(|(x, l)| {
                            let log = l + log_density_normal(from.x[nearest], *x, noise)
                                - from.log_density[nearest];
                            ((x - mean) / var.sqrt(), log.exp() * var.sqrt())
                        })
                        .filter(|p| p.0.abs() <= 5.0);
                Ok((*width, curve.collect()))
            })
            .collect::<Result<Vec<_>>>()?;
        let widths: Vec<f64> = (0..22).map(|k| 0.04 * 1.25f64.powi(k)).collect();
        let divergences: Vec<(f64, f64)> = widths
            .par_iter()
            .map(|w| Ok((*w, divergence(&line.at(settings.step_log_snr + w)?, &from)?)))
            .collect::<Result<_>>()?;
        let slope =
            (divergences[4].1 / divergences[0].1).ln() / (divergences[4].0 / divergences[0].0).ln();
        evidence.push(
            Evidence::new(
                "power of the step with which a reverse step's divergence from a Gaussian falls, small steps",
                slope,
                3.0,
                0.1,
            )
            .because("the next term of the expansion, at steps of 0.04 to 0.1"),
        );
        let wide = line.at(settings.step_log_snr + 1.0)?;
        evidence.push(
            Evidence::new(
                "mean divergence of a step of 1 in log-SNR, by entropies over by its densities",
                divergence(&wide, &from)? / divergence_by_densities(&wide, &from)?,
                1.0,
                1e-8,
            )
            .because("sums over 801 by 801 states, states of weight below 1e-14 left out"),
        );
        Ok(Self { walks: [unit, preserving], example, reverse, divergence: divergences, evidence })
    }
}
