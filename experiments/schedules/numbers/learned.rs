//! A learned schedule: the continuous bound's value does not depend on it, the variance of its
//! estimate does.

use super::Settings;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::Path;
use tweedie::diffusion::elbo::mmse;
use tweedie::diffusion::prediction::Frame;
use tweedie::diffusion::weighting::vlb_continuous;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::math::noise::Noise;
use tweedie_report::experiment::least;

/// A way to draw noise levels.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Drawn {
    /// Its name.
    pub name: String,
    /// Density over log-SNR on the grid.
    pub density: Vec<f64>,
    /// Deviation of one draw's estimate over the bound.
    pub deviation: f64,
    /// Number of draws and their mean over the bound.
    pub running: Vec<(f64, f64)>,
}

/// All numbers on learned schedules.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Learned {
    /// Nats of the continuous bound between the ends.
    pub bound: f64,
    /// Log-SNR of the densities.
    pub log_snrs: Vec<f64>,
    /// The ways.
    pub drawn: Vec<Drawn>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Points of the grid of log-SNRs.
const NODES: usize = 1401;

impl Learned {
    pub fn new(
        settings: &Settings,
        variances: &[f64],
        draws: usize,
        noise: &Noise,
    ) -> Result<Self> {
        let [last, first] = settings.log_snr;
        let width = (first - last) / (NODES - 1) as f64;
        let log_snrs: Vec<f64> = (0..NODES).map(|k| last + width * k as f64).collect();
        let integral = |f: &dyn Fn(usize) -> f64| {
            let inner: f64 = (1..NODES - 1).map(f).sum();
            width * (inner + 0.5 * (f(0) + f(NODES - 1)))
        };
        // Variance of each component of the error of eps, with the best denoiser.
        let errors = |l: f64| -> Vec<f64> {
            let sigma = (-0.5 * l).exp();
            variances.iter().map(|v| l.exp() * mmse(*v, (1.0, sigma))).collect()
        };
        let first_moment: Vec<f64> =
            log_snrs.iter().map(|l| 0.5 * errors(*l).iter().sum::<f64>()).collect();
        // E (|e|^2 / 2)^2 of a Gaussian: squared mean and variance.
        let second_moment: Vec<f64> = log_snrs
            .iter()
            .zip(&first_moment)
            .map(|(l, m)| m * m + 0.5 * errors(*l).iter().map(|e| e * e).sum::<f64>())
            .collect();
        let bound: f64 = variances
            .iter()
            .map(|v| 0.5 * ((v * (first.exp() - last.exp())) / (1.0 + v * last.exp())).ln_1p())
            .sum();

        let along = |path: Path| -> Result<Vec<f64>> {
            let span = path.t_from_log_snr(last)? - path.t_from_log_snr(first)?;
            log_snrs
                .iter()
                .map(|l| {
                    let point = path.at(path.t_from_log_snr(*l)?)?;
                    Ok(1.0 / (2.0 * vlb_continuous(&Frame::from(&point))?.eps * span))
                })
                .collect()
        };
        let roots: Vec<f64> = second_moment.iter().map(|m| m.sqrt()).collect();
        let best = integral(&|k| roots[k]);
        let kinds = [
            ("VP, linear β", along(Path::VP)?),
            ("cosine", along(Path::Cosine)?),
            ("flow matching", along(Path::FlowMatching)?),
            ("even in σ", along(Path::EDM)?),
            ("the best", roots.iter().map(|r| r / best).collect()),
        ];
        let mut evidence = Vec::new();
        let value = integral(&|k| first_moment[k]);
        evidence.push(
            Evidence::new(
                "half the error of ε, integrated over log-SNR, over the information gained",
                value / bound,
                1.0,
                1e-4,
            )
            .because("trapezoidal rule of 1,400 intervals"),
        );
        let drawn = kinds
            .into_iter()
            .enumerate()
            .map(|(way, (name, density))| {
                let mut sum = vec![0.0];
                for k in 1..NODES {
                    sum.push(sum[k - 1] + 0.5 * width * (density[k - 1] + density[k]));
                }
                let total = sum[NODES - 1];
                let second = integral(&|k| second_moment[k] / density[k]);
                let deviation = (second - value * value).max(0.0).sqrt() / value;
                // A draw: a level by inversion of the density, then the error of eps itself.
                let source = noise.child(way as u64);
                let losses: Vec<f64> = (0..draws)
                    .into_par_iter()
                    .map(|i| {
                        let want = source.uniform(0, i as u64) * total;
                        let k = sum.partition_point(|s| *s < want).clamp(1, NODES - 1);
                        let share = (want - sum[k - 1]) / (sum[k] - sum[k - 1]);
                        let l = log_snrs[k - 1] + width * share;
                        // The density that inversion of a piecewise linear sum draws from.
                        let p = (sum[k] - sum[k - 1]) / width / total;
                        let square: f64 = errors(l)
                            .iter()
                            .enumerate()
                            .map(|(j, e)| e * source.normal(1 + j as u64, i as u64).powi(2))
                            .sum();
                        0.5 * square / p
                    })
                    .collect();
                let mean = losses.iter().sum::<f64>() / draws as f64;
                evidence.push(
                    Evidence::new(
                        format!("{name}: mean of {draws} draws over the bound"),
                        mean / bound,
                        1.0,
                        4.0 * deviation / (draws as f64).sqrt(),
                    )
                    .because("four standard errors, of the variance in closed form"),
                );
                evidence.push(
                    Evidence::new(
                        format!("{name}: its density over log-SNR, integrated"),
                        total,
                        1.0,
                        0.02,
                    )
                    .because("trapezoidal rule; the density even in σ has a steep end"),
                );
                let mut so_far = 0.0;
                let running = losses
                    .iter()
                    .enumerate()
                    .filter_map(|(i, loss)| {
                        so_far += loss;
                        let n = i + 1;
                        // Sixteen points in each doubling.
                        let marked = (16.0 * (n as f64).log2()).floor()
                            > (16.0 * (i.max(1) as f64).log2()).floor()
                            || n == 1;
                        marked.then_some((n as f64, so_far / n as f64 / bound))
                    })
                    .collect();
                Ok(Drawn { name: name.into(), density, deviation, running })
            })
            .collect::<Result<Vec<_>>>()?;
        let own = drawn.last().map_or(f64::NAN, |d| d.deviation);
        let others = least(drawn[..drawn.len() - 1].iter().map(|d| d.deviation));
        evidence.push(
            Evidence::at_least(
                "least deviation of the other densities over the best one's",
                others / own,
                1.0,
                0.0,
            )
            .because("Cauchy and Schwarz: none has a smaller one"),
        );
        evidence.push(
            Evidence::new(
                "the best density's second moment over (∫ root of the second moment dl)²",
                (own * own + 1.0) * value * value / (best * best),
                1.0,
                1e-12,
            )
            .because("rounding of sums"),
        );
        Ok(Self { bound, log_snrs, drawn, evidence })
    }
}
