//! The bound against the number of steps and the schedule: what is lost, at which rate, and what
//! the best schedule loses.

use super::Settings;
use super::line::{Line, Slice};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::elbo::{
    GaussianData, Part, Reverse, ReverseVar, continuous_diffusion_loss, continuous_transitions,
    gaussian_bound, mmse, transition,
};
use tweedie::diffusion::prediction::Frame;
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::math::larger;
use tweedie::math::quadrature::IntervalRule;
use tweedie_report::experiment::least;

/// A schedule: log-SNR at u in [0, 1], from the noisiest point to the cleanest.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Schedule {
    /// Its name.
    pub name: String,
    /// Nats lost by the posterior variance at each number of steps.
    pub lost: Vec<f64>,
    /// What `lost` times the number of steps goes to.
    pub constant: f64,
    /// Of one number of steps: t / T, log-SNR and width in log-SNR of each transition, and its
    /// nats.
    pub terms: Vec<[f64; 4]>,
}

/// All numbers of the limits.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Limit {
    /// Numbers of steps.
    pub steps: Vec<f64>,
    /// Nats of the transitions of the digits in continuous time.
    pub transitions: f64,
    /// Schedules between the same ends.
    pub schedules: Vec<Schedule>,
    /// Variance and nats lost by the digits' Gaussian, steps even in log-SNR.
    pub gaussian: Vec<(String, Vec<f64>)>,
    /// Variance and nats lost by the mixture, steps even in log-SNR.
    pub mixture: Vec<(String, Vec<f64>)>,
    /// Nats of the transitions of the mixture in continuous time.
    pub mixture_transitions: f64,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Log-SNR at a share of the way from noise to data.
type Way<'a> = Box<dyn Fn(f64) -> f64 + 'a>;

fn preserving(log_snr: f64) -> PathPoint {
    let frame = Frame::<f64>::variance_preserving(log_snr);
    PathPoint::still(frame.alpha, frame.sigma)
}

fn at(p: &PathPoint) -> (f64, f64) {
    (p.alpha, p.sigma)
}

/// `sqrt(sum_k w_k^2)` with the Wiener gains `w_k = snr lambda_k / (1 + snr lambda_k)`: the root of
/// the loss's density.
fn root(variances: &[f64], log_snr: f64) -> f64 {
    let snr = log_snr.exp();
    variances.iter().map(|l| (snr * l / (1.0 + snr * l)).powi(2)).sum::<f64>().sqrt()
}

/// The log-SNRs at even quantiles of `root`: the best schedule, by the trapezoidal rule and linear
/// interpolation over many points.
fn best_schedule(variances: &[f64], [last, first]: [f64; 2]) -> (impl Fn(f64) -> f64, f64) {
    let n = 4000;
    let width = (first - last) / n as f64;
    let mut sum = vec![0.0];
    for k in 0..n {
        let (a, b) = (last + width * k as f64, last + width * (k + 1) as f64);
        sum.push(sum[k] + 0.5 * width * (root(variances, a) + root(variances, b)));
    }
    let total = sum[n];
    let quantile = move |u: f64| {
        let want = u * total;
        let k = sum.partition_point(|s| *s < want).clamp(1, n);
        last + width * ((k - 1) as f64 + (want - sum[k - 1]) / (sum[k] - sum[k - 1]))
    };
    (quantile, total)
}

impl Limit {
    pub fn new(settings: &Settings, variances: &[f64], line: &Line) -> Result<Self> {
        let (ends, counts) = (settings.log_snr, &settings.steps);
        let [last, first] = ends;
        let data = GaussianData { variances, mean_square: 0.0 };
        let bound = |points: &[PathPoint], var: ReverseVar| {
            gaussian_bound(
                points,
                data,
                |p, l| mmse(l, at(p)),
                &Reverse { var, ..Reverse::optimal() },
            )
        };
        let limit: f64 = variances
            .iter()
            .map(|&l| continuous_transitions(l, at(&preserving(first)), at(&preserving(last))))
            .sum();
        // Points of a schedule, the cleanest first.
        let grid = |n: usize, of: &dyn Fn(f64) -> f64| -> Vec<PathPoint> {
            (0..=n)
                .map(|k| match k {
                    0 => preserving(first),
                    _ if k == n => preserving(last),
                    _ => preserving(of(1.0 - k as f64 / n as f64)),
                })
                .collect()
        };
        let along = |path: Path| -> Result<Way<'static>> {
            let (noisy, clean) = (path.t_from_log_snr(last)?, path.t_from_log_snr(first)?);
            Ok(Box::new(move |u: f64| {
                path.log_snr(noisy + u * (clean - noisy)).unwrap_or(f64::NAN)
            }))
        };
        let (best, total) = best_schedule(variances, ends);
        let even = |u: f64| last + u * (first - last);
        let named: Vec<(&'static str, Way)> = vec![
            ("VP, linear β", along(Path::VP)?),
            ("cosine", along(Path::Cosine)?),
            ("flow matching", along(Path::FlowMatching)?),
            ("even in log-SNR", Box::new(even)),
            ("the best", Box::new(best)),
        ];
        let rule = IntervalRule::new(12)?;
        let lost = |n: usize, of: &dyn Fn(f64) -> f64, var: ReverseVar| -> Result<f64> {
            Ok(bound(&grid(n, of), var)?.part(Part::Transition) - limit)
        };
        let schedules = named
            .iter()
            .map(|(name, of)| {
                let lost = counts
                    .iter()
                    .map(|&n| lost(n, of, ReverseVar::Posterior))
                    .collect::<Result<Vec<f64>>>()?;
                // 1/4 int root^2 (dl/du)^2 du, by parts of the schedule over which l hardly bends.
                let (panels, h) = (400, 1e-4);
                let density = |u: f64| {
                    let u = u.clamp(h, 1.0 - h);
                    let rate = (of(u + h) - of(u - h)) / (2.0 * h);
                    (root(variances, of(u)) * rate).powi(2)
                };
                let constant = 0.25 * rule.composite(0.0, 1.0, panels, density);
                let points = grid(settings.drawn_steps, of);
                let nats = bound(&points, ReverseVar::Posterior)?;
                let terms = points
                    .windows(2)
                    .zip(nats.terms().iter().filter(|t| t.part == Part::Transition))
                    .enumerate()
                    .map(|(k, (w, term))| {
                        let (clean, noisy) = (w[0].log_snr(), w[1].log_snr());
                        [
                            (k as f64 + 0.5) / settings.drawn_steps as f64,
                            0.5 * (clean + noisy),
                            clean - noisy,
                            term.nats,
                        ]
                    });
                Ok(Schedule { name: name.to_string(), lost, constant, terms: terms.collect() })
            })
            .collect::<Result<Vec<_>>>()?;
        let gaussian = [
            ("posterior", ReverseVar::Posterior),
            ("β, the forward step's", ReverseVar::Beta),
            ("best for each component", ReverseVar::Optimal),
        ]
        .into_iter()
        .map(|(name, var)| {
            Ok((
                name.to_string(),
                counts.iter().map(|&n| lost(n, &even, var.clone())).collect::<Result<Vec<_>>>()?,
            ))
        })
        .collect::<Result<Vec<_>>>()?;

        // The mixture, on the finest grid once; coarser ones are every so many of its points.
        let most = counts[counts.len() - 1];
        let slices: Vec<Slice> = (0..=most)
            .into_par_iter()
            .map(|k| line.at(even(1.0 - k as f64 / most as f64)))
            .collect::<Result<_>>()?;
        let information = 0.5 * (slices[0].information() - slices[most].information());
        let of_variance = |var: usize, n: usize| -> f64 {
            let stride = most / n;
            let sum: f64 = (1..=n)
                .map(|k| {
                    let (s, t) = (&slices[(k - 1) * stride], &slices[k * stride]);
                    let drop = s.snr - t.snr;
                    let r = [0.0, (drop * t.error()).ln_1p(), f64::NAN][var];
                    if var == 2 {
                        t.mean(|v| 0.5 * (drop * v).ln_1p())
                    } else {
                        transition(r, drop, t.error())
                    }
                })
                .sum();
            sum - information
        };
        let mixture: Vec<(String, Vec<f64>)> =
            ["posterior", "best constant", "best for each state"]
                .into_iter()
                .enumerate()
                .map(|(k, name)| (name.into(), counts.iter().map(|&n| of_variance(k, n)).collect()))
                .collect();

        let worst =
            |name: &str| schedules.iter().find(|s| s.name == name).map_or(f64::NAN, |s| s.constant);
        let finest = counts.len() - 1;
        let mut evidence = vec![];
        for s in &schedules {
            evidence.push(
                Evidence::new(
                    format!(
                        "{}: nats lost times T, carried on from the two largest T to infinity, over ¼∫‖w‖² (dl/du)² du",
                        s.name
                    ),
                    (2.0 * s.lost[finest] * counts[finest] as f64 - s.lost[finest - 1] * counts[finest - 1] as f64) / s.constant,
                    1.0,
                    0.03,
                )
                .because("terms of third order in 1/T, at 128 and 256 steps"),
            );
        }
        evidence.push(
            Evidence::new(
                "the best schedule: its constant, against (½∫‖w‖ dl)²",
                worst("the best"),
                0.25 * total * total,
                1e-3 * total * total,
            )
            .because("its rate is a difference quotient of an interpolated table"),
        );
        let others = schedules.iter().filter(|s| s.name != "the best").map(|s| s.constant);
        evidence.push(
            Evidence::at_least(
                "least constant of the other schedules over the best one's",
                least(others) / worst("the best"),
                1.0,
                1e-3,
            )
            .because("no schedule may beat it, but for the difference quotient of its own"),
        );
        let spread = gaussian[2].1.iter().map(|v| v.abs()).fold(0.0, larger);
        evidence.push(
            Evidence::new(
                "digits, best variance of each component: nats lost, at any T",
                spread,
                0.0,
                1e-11,
            )
            .because("rounding of up to 256 terms for each of 64 components"),
        );
        let by_errors = continuous_diffusion_loss(last, first, |l| {
            variances.iter().map(|&v| mmse(v, at(&preserving(l)))).sum()
        })?;
        evidence.push(
            Evidence::new(
                "digits: half the integral of the least error over SNR, against the closed form",
                by_errors / limit,
                1.0,
                1e-12,
            )
            .because("adaptive quadrature"),
        );
        let by_mixture = {
            // Simpson's rule over the slices.
            let h = (first - last) / most as f64;
            let f = |k: usize| 0.5 * slices[k].snr * slices[k].error();
            let inner: f64 = (1..most).map(|k| f(k) * if k % 2 == 1 { 4.0 } else { 2.0 }).sum();
            (f(0) + f(most) + inner) * h / 3.0
        };
        evidence.push(
            Evidence::new(
                "mixture: half the integral of the least error, against the entropies at both ends",
                by_mixture,
                information,
                1e-6,
            )
            .because("Simpson's rule of 256 intervals"),
        );
        for (k, (name, lost)) in mixture.iter().enumerate() {
            let slope = (lost[finest - 1] / lost[finest]).log2();
            let want = if k == 2 { 2.0 } else { 1.0 };
            evidence.push(
                Evidence::new(
                    format!("mixture, variance {name}: rate between the two largest T"),
                    slope,
                    want,
                    0.15,
                )
                .because("the next term of the expansion"),
            );
        }
        Ok(Self {
            steps: counts.iter().map(|n| *n as f64).collect(),
            transitions: limit,
            schedules,
            gaussian,
            mixture,
            mixture_transitions: information,
            evidence,
        })
    }
}
