//! Two modes on a line: what the score knows of their weights at each noise level, how long a chain
//! takes to cross, and how the reverse processes move single particles.

use super::{Effort, chain, farthest};
use ndarray::{Array2, array, s};
use num_dual::Dual64;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::noise::Noise;
use tweedie::math::quadrature::IntervalRule;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::sample_watched;
use tweedie::sample::sde::EulerMaruyama;
use tweedie_report::experiment::{geometric, level};

/// What the settings hold of this part.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Deviation of a mode; they stand at +1 and -1.
    pub std: f64,
    /// Weight of the one at +1.
    pub weight: f64,
    /// Noise levels over which the weights' share of the score is followed.
    pub range: [f64; 2],
    /// Distances of a mode from the middle over its deviation, of the times to cross.
    pub separations: Vec<f64>,
    /// Step of those chains over a mode's variance.
    pub step: f64,
    /// The distance at which the time is also measured.
    pub measured: f64,
    /// Trajectories drawn.
    pub paths: usize,
}

/// The same two modes with the weights one way round and the other, at one noise level.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Pair {
    /// The noise level.
    pub sigma: f64,
    /// States.
    pub x: Vec<f64>,
    /// Densities of the two laws there.
    pub density: [Vec<f64>; 2],
    /// Their scores.
    pub score: [Vec<f64>; 2],
}

/// What is computed on the line.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// At little noise and at much.
    pub pairs: [Pair; 2],
    /// Noise levels.
    pub sigmas: Vec<f64>,
    /// KL divergence of the two laws at each, nats.
    pub kl: Vec<f64>,
    /// What of it is lost for each unit of ln sigma: `sigma^2 E|difference of the scores|^2`.
    pub rate: Vec<f64>,
    /// Level where that is largest.
    pub peak: f64,
    /// Mean square of the difference of the scores over that of the score, at little noise and at
    /// the peak.
    pub told: [f64; 2],
    /// Steps to forget the mode, for each separation: of the chain, and by the barrier's integral.
    pub crossing: [Vec<f64>; 2],
    /// Noise levels of the trajectories, falling.
    pub levels: Vec<f64>,
    /// `g`, states of the particles drawn, (levels, paths), and share of all particles that end at
    /// +1.
    pub paths: Vec<(f64, Array2<f64>, f64)>,
    /// Particles in all.
    pub particles: usize,
    /// Checks of the scores, of the crossing, and of the trajectories.
    pub evidence: [Vec<Evidence>; 3],
}

/// Modes at `+at` and `-at`.
fn modes(at: f64, std: f64, weight: f64) -> Result<Mixture> {
    let mode = |m: f64| Gaussian::isotropic(array![m], std * std);
    Mixture::new(array![weight, 1.0 - weight], vec![mode(at)?, mode(-at)?])
}

/// Log density and score at one state.
fn slope(law: &Mixture, x: f64, sigma: f64) -> (f64, f64) {
    let d =
        law.log_density_of(&[Dual64::from(x).derivative()], Dual64::from(1.0), Dual64::from(sigma));
    (d.re, d.eps)
}

/// The two laws, and integrals over the line at a noise level.
struct Swapped {
    laws: [Mixture; 2],
    std: f64,
    rule: IntervalRule,
}

impl Swapped {
    /// Mean under the first law of a function of both log densities and scores.
    fn mean(&self, sigma: f64, f: impl Fn((f64, f64), (f64, f64)) -> f64) -> f64 {
        let reach = 1.0 + 9.0 * self.std.hypot(sigma);
        self.rule.composite(-reach, reach, 48, |x| {
            let [p, q] = [0, 1].map(|k| slope(&self.laws[k], x, sigma));
            p.0.exp() * f(p, q)
        })
    }

    fn kl(&self, sigma: f64) -> f64 {
        self.mean(sigma, |p, q| p.0 - q.0)
    }

    fn rate(&self, sigma: f64) -> f64 {
        sigma * sigma * self.mean(sigma, |p, q| (p.1 - q.1).powi(2))
    }

    fn told(&self, sigma: f64) -> f64 {
        self.rate(sigma) / (sigma * sigma * self.mean(sigma, |p, _| p.1 * p.1))
    }

    fn pair(&self, sigma: f64) -> Pair {
        let reach = 1.0 + 2.2 * self.std.hypot(sigma);
        let x: Vec<f64> = (0..=240).map(|k| reach * (f64::from(k) / 120.0 - 1.0)).collect();
        let at: [Vec<(f64, f64)>; 2] =
            [0, 1].map(|k| x.iter().map(|x| slope(&self.laws[k], *x, sigma)).collect());
        let density = at.each_ref().map(|v| v.iter().map(|s| s.0.exp()).collect());
        Pair { sigma, density, score: at.each_ref().map(|v| v.iter().map(|s| s.1).collect()), x }
    }
}

/// The slow mode of a chain between two equal modes of unit variance at `+m` and `-m`: the odd
/// function whose mean decays slowest.
///
/// On states `y` of a grid the chain's expectation is a sum,
/// `E[f(x')] = sum_y [N(y; x + h score, 2h) - N(-y; ...)] f(y) dy`, spectrally accurate; its
/// largest eigenvalue is found by iteration.
struct Slow {
    law: Mixture,
    step: f64,
    spacing: f64,
    y: Vec<f64>,
    values: Vec<f64>,
    /// Factor of its mean in one step.
    eigenvalue: f64,
}

/// Of the unit variance of a mode, so much is noise: the sampler's score comes from a denoiser.
const NOISE: f64 = 0.1;

impl Slow {
    fn new(m: f64, step: f64) -> Result<Self> {
        let law = modes(m, (1.0 - NOISE * NOISE).sqrt(), 0.5)?;
        let spacing = (2.0 * step).sqrt() / 6.0;
        let n = ((m + 8.0) / spacing).ceil() as usize;
        let y: Vec<f64> = (0..n).map(|k| (k as f64 + 0.5) * spacing).collect();
        let mut slow = Self { law, step, spacing, values: vec![1.0; n], y, eigenvalue: 0.0 };
        let rows: Vec<Vec<f64>> = slow.y.iter().map(|x| slow.kernel(*x)).collect();
        // The next odd mode decays within about 1/step steps.
        for _ in 0..(30.0 / step) as usize {
            let next: Vec<f64> = rows
                .iter()
                .map(|row| row.iter().zip(&slow.values).map(|(k, v)| k * v).sum())
                .collect();
            let norm = |v: &[f64]| v.iter().map(|v| v * v).sum::<f64>().sqrt();
            slow.eigenvalue = norm(&next) / norm(&slow.values);
            let size = norm(&next);
            slow.values = next.iter().map(|v| v / size).collect();
        }
        Ok(slow)
    }

    fn kernel(&self, x: f64) -> Vec<f64> {
        let (to, var) = (x + self.step * slope(&self.law, x, NOISE).1, 2.0 * self.step);
        let normal = |y: f64| (-0.5 * (y - to).powi(2) / var).exp() / (TAU * var).sqrt();
        self.y.iter().map(|y| (normal(*y) - normal(-y)) * self.spacing).collect()
    }

    /// The odd function at any state.
    fn at(&self, x: f64) -> f64 {
        self.kernel(x).iter().zip(&self.values).map(|(k, v)| k * v).sum::<f64>() / self.eigenvalue
    }

    fn steps(&self) -> f64 {
        -1.0 / self.eigenvalue.ln()
    }

    /// The continuous process's time behind a high barrier, in steps: `int dx / p(x) / (4 step)`
    /// between the modes.
    ///
    /// Not Kramers' parabola for the top of the barrier: between two modes of a mixture `1 / p`
    /// falls off like `1 / cosh`, however high it is.
    ///
    /// # Source
    /// Kramers 1940, "Brownian motion in a field of force and the diffusion model of chemical
    /// reactions", before the parabola is put in.
    fn barrier(&self, m: f64) -> Result<f64> {
        let rule = IntervalRule::new(16)?;
        Ok(rule.composite(-m, m, 32, |x| (-slope(&self.law, x, NOISE).0).exp()) / (4.0 * self.step))
    }
}

impl Numbers {
    pub(super) fn new(settings: &Settings, effort: Effort, noise: &Noise) -> Result<Self> {
        let Settings { std, weight, .. } = *settings;
        let laws = [modes(1.0, std, weight)?, modes(1.0, std, 1.0 - weight)?];
        let swapped = Swapped { laws, std, rule: IntervalRule::new(16)? };
        let [lo, hi] = settings.range;
        let sigmas = geometric(lo, hi, 61);
        let (kl, rate): (Vec<f64>, Vec<f64>) =
            sigmas.par_iter().map(|s| (swapped.kl(*s), swapped.rate(*s))).unzip();
        let peak = (0..sigmas.len())
            .max_by(|a, b| rate[*a].total_cmp(&rate[*b]))
            .map_or(f64::NAN, |k| sigmas[k]);
        let little = lo.max(0.4 * std);
        let area = IntervalRule::new(8)?.composite(lo.ln(), hi.ln(), 24, |u| swapped.rate(u.exp()));
        let whole = (2.0 * weight - 1.0) * (weight / (1.0 - weight)).ln();
        let mut by_law = Array2::zeros((9, 1));
        let probe = Array2::from_shape_fn((9, 1), |(k, _)| 0.5 * (k as f64 - 4.0));
        swapped.laws[0].score(probe.view(), &level(little), by_law.view_mut())?;
        let gap = farthest(
            probe.iter().zip(&by_law).map(|(x, s)| s - slope(&swapped.laws[0], *x, little).1),
        );
        let scores = vec![
            Evidence::new(
                "area under the curve, over the fall of the KL divergence between the same noise levels",
                area / (kl[0] - kl[60]),
                1.0,
                1e-8,
            )
            .because("two quadratures of smooth functions, the second's difference of two"),
            Evidence::new(
                "KL divergence at the lowest noise, over (2w − 1) ln(w/(1 − w)) of two modes that do not touch",
                kl[0] / whole,
                1.0,
                1e-2,
            )
            .because("what the overlap of the modes takes"),
            Evidence::new(
                "score by Tweedie's formula, less the derivative of ln p by dual numbers: worst of 9 states",
                gap,
                0.0,
                1e-10,
            )
            .because("1/σ² times a few roundings"),
        ];
        let told = [swapped.told(little), swapped.told(peak)];

        let slows = settings
            .separations
            .par_iter()
            .map(|m| Slow::new(*m, settings.step))
            .collect::<Result<Vec<_>>>()?;
        let crossing = [
            slows.iter().map(Slow::steps).collect::<Vec<_>>(),
            slows
                .iter()
                .zip(&settings.separations)
                .map(|(s, m)| s.barrier(*m))
                .collect::<Result<_>>()?,
        ];
        let slow = Slow::new(settings.measured, settings.step)?;
        let n = slow.steps().ceil() as usize;
        let start = Array2::from_elem((effort.chains, 1), settings.measured);
        let end = chain(&slow.law, level(NOISE), settings.step, n, start, &mut noise.child(0))?;
        let seen: Vec<f64> = end.iter().map(|x| slow.at(*x)).collect();
        let count = seen.len() as f64;
        let mean = seen.iter().sum::<f64>() / count;
        let stderr =
            (seen.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (count * (count - 1.0))).sqrt();
        let want = slow.eigenvalue.powi(n as i32) * slow.at(settings.measured);
        // Half the step is half the error in time, to first order.
        let m = settings.separations[settings.separations.len() - 1];
        let far = [0.2, 0.1]
            .into_par_iter()
            .map(|share| Slow::new(m, share * settings.step))
            .collect::<Result<Vec<_>>>()?;
        let small = 2.0 * far[1].steps() - 2.0 * far[0].steps();
        let crossings = vec![
            Evidence::new(
                format!("what {n} steps leave of the slow mode, sampled less eigenvalue: in standard errors"),
                (mean - want) / stderr,
                0.0,
                5.0,
            )
            .because(format!("{} chains", effort.chains)),
            Evidence::new(
                "time to forget the mode, extrapolated to small steps, over ¼ ∫ dx/p, at the largest separation",
                small / far[1].barrier(m)?,
                1.0,
                0.03,
            )
            .because("second order in the step, which at 0.01 is a quarter of what the top of the barrier allows"),
        ];

        let path = Path::Edm { sigma_max: hi };
        let grid: Vec<PathPoint> =
            Grid { s_max: hi, s_min: lo, clean: false, ..Grid::new(Spacing::LogSnr, effort.fine) }
                .points(&path)?;
        let from = swapped.laws[0].sample(effort.particles, &noise.child(1))
            + noise.child(2).normals(0, (effort.particles, 1)) * hi;
        let paths = [0.0, 0.5, 1.0, 2.0]
            .par_iter()
            .map(|g| {
                let mut drawn = Array2::zeros((grid.len(), settings.paths));
                let mut source = noise.child(3);
                let end = sample_watched(
                    &EulerMaruyama { g: *g },
                    &swapped.laws[0],
                    &grid,
                    from.clone(),
                    &mut source,
                    |k, x| {
                        drawn.row_mut(k).assign(&x.slice(s![..settings.paths, 0]));
                    },
                )?;
                Ok((
                    *g,
                    drawn,
                    end.x.iter().filter(|x| **x > 0.0).count() as f64 / effort.particles as f64,
                ))
            })
            .collect::<Result<Vec<_>>>()?;
        let stderr = (weight * (1.0 - weight) / effort.particles as f64).sqrt();
        let trajectories = paths
            .iter()
            .map(|(g, _, share)| {
                Evidence::new(
                    format!("g = {g}: share of the particles that end at +1"),
                    *share,
                    weight,
                    5.0 * stderr + 2.0 / effort.fine as f64,
                )
                .because(format!(
                    "five standard errors of {} particles, and {} steps",
                    effort.particles, effort.fine
                ))
            })
            .collect();
        Ok(Self {
            pairs: [swapped.pair(little), swapped.pair(1.0)],
            sigmas,
            kl,
            rate,
            peak,
            told,
            crossing,
            levels: grid.iter().map(PathPoint::edm_sigma).collect(),
            paths,
            particles: effort.particles,
            evidence: [scores, crossings, trajectories],
        })
    }
}
