//! One law in one direction on three paths: other curves, the same trajectories.

use super::LineSettings;
use ndarray::{Array1, Array2, array};
use serde::{Deserialize, Serialize};
use statrs::distribution::{ContinuousCDF, Normal};
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::pf_ode::pf_ode_solve;
use tweedie::law::Gaussian;
use tweedie::law::mixture::Mixture;
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::sample::flow::FmHeun;
use tweedie::sample::noise_source::Silence;
use tweedie::sample::sample;

/// Trajectories of shared draws of noise on one path.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct OnPath {
    /// Name of the path.
    pub name: String,
    /// Times, from noise to data.
    pub times: Vec<f64>,
    /// The angle `atan2(sigma, alpha)`, 0 for data and pi/2 for noise.
    pub angles: Vec<f64>,
    /// States, shape (points, draws).
    pub states: Array2<f64>,
    /// States over `hypot(alpha, sigma)`.
    pub scaled: Array2<f64>,
}

/// The numbers of one direction.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    /// On flow matching's path, the cosine path, and VP.
    pub paths: Vec<OnPath>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Line {
    pub(super) fn new(s: &LineSettings, noise: &Noise) -> Result<Self> {
        let parts = s
            .means
            .iter()
            .zip(&s.stds)
            .map(|(m, std)| Gaussian::diagonal(array![*m], array![std * std]));
        let law =
            Mixture::new(Array1::from(s.weights.clone()), parts.collect::<Result<Vec<_>>>()?)?;
        let kinds = [
            (Path::FlowMatching, "flow matching"),
            (Path::Cosine, "cosine"),
            (Path::VP, "VP, linear β"),
        ];
        let paths = kinds
            .iter()
            .map(|(path, name)| on_path(&law, path, name, s))
            .collect::<Result<Vec<_>>>()?;
        let mut evidence = vec![velocities(noise)?];
        // Each path integrated in its own time, by a method that knows nothing of the others.
        let ends = kinds[..2]
            .iter()
            .map(|(path, _)| integrated(&law, path, s))
            .collect::<Result<Vec<_>>>()?;
        let exact = &paths[0].scaled.row(s.points - 1);
        for (end, (_, name)) in ends.iter().zip(&kinds) {
            let gap = end.iter().zip(exact).map(|(a, b)| (a - b).abs()).fold(0.0, larger);
            let what = format!(
                "{name}: {} steps of Heun's method in its own time against the reference integrator",
                s.steps
            );
            evidence.push(
                Evidence::new(what, gap, 0.0, 1e-4)
                    .because("second order, near an end at σ/α = 0.01"),
            );
        }
        let worst = paths[1..].iter().map(|p| {
            let of = |q: &OnPath, k: usize| q.scaled.row(k).to_owned();
            let ends = [0, s.points - 1]
                .map(|k| (of(p, k) - of(&paths[0], k)).iter().map(|v| v.abs()).fold(0.0, larger));
            ends[0].max(ends[1])
        });
        let what = "ends of the trajectories on the three paths, over hypot(α, σ): largest gap";
        evidence.push(
            Evidence::new(what, worst.fold(0.0, larger), 0.0, 1e-9)
                .because("the integrator allows 1e-13 a step"),
        );
        evidence.push(quantiles(&law, s)?);
        Ok(Self { paths, evidence })
    }
}

/// A path's points evenly in its time, between the two noise levels.
fn points(path: &Path, s: &LineSettings, n: usize) -> Result<Vec<PathPoint>> {
    let (first, last) = (path.t_from_edm_sigma(s.range[1])?, path.t_from_edm_sigma(s.range[0])?);
    (0..n).map(|k| path.at(first + (last - first) * k as f64 / (n - 1) as f64)).collect()
}

fn start(s: &LineSettings, at: &PathPoint) -> Array2<f64> {
    Array2::from_shape_fn((s.draws.len(), 1), |(i, _)| s.draws[i] * at.alpha.hypot(at.sigma))
}

fn on_path(law: &Mixture, path: &Path, name: &'static str, s: &LineSettings) -> Result<OnPath> {
    let points = points(path, s, s.points)?;
    let solved = pf_ode_solve(law, start(s, &points[0]).view(), &points)?;
    let states = Array2::from_shape_fn((points.len(), s.draws.len()), |(k, i)| solved[k][[i, 0]]);
    let scaled = Array2::from_shape_fn(states.dim(), |(k, i)| {
        states[[k, i]] / points[k].alpha.hypot(points[k].sigma)
    });
    let angles = points.iter().map(|p| p.sigma.atan2(p.alpha)).collect();
    Ok(OnPath {
        name: name.into(),
        times: points.iter().filter_map(|p| p.t).collect(),
        angles,
        states,
        scaled,
    })
}

fn integrated(law: &Mixture, path: &Path, s: &LineSettings) -> Result<Vec<f64>> {
    let grid = points(path, s, s.steps + 1)?;
    let end = sample(&FmHeun, law, &grid, start(s, &grid[0]), &mut Silence)?.x;
    let last = grid[s.steps];
    Ok(end.iter().map(|x| x / last.alpha.hypot(last.sigma)).collect())
}

/// The velocity on the cosine path is pi/2 times v; on flow matching's it is an affine function of
/// v and the state.
fn velocities(noise: &Noise) -> Result<Evidence> {
    let mut worst = 0.0f64;
    for k in 0..64 {
        let [x0, eps] = [0, 1].map(|j| noise.normal(j, k));
        let t = 0.05 + 0.9 * noise.uniform(2, k);
        let cosine = Frame::from(&Path::Cosine.at(t)?);
        let of = |kind: Prediction, frame: &Frame<f64>| kind.target(x0, eps, frame);
        worst = larger(
            worst,
            (of(Prediction::Velocity, &cosine)
                - std::f64::consts::FRAC_PI_2 * of(Prediction::V, &cosine))
            .abs(),
        );
        let at = Path::FlowMatching.at(t)?;
        let frame = Frame::from(&at);
        let x = at.alpha * x0 + at.sigma * eps;
        let converted = Conversion::new(Prediction::V, Prediction::Velocity, frame)?
            .apply(of(Prediction::V, &frame), x);
        worst = larger(worst, (converted - (eps - x0)).abs());
    }
    let what = "velocity = π/2 v on the cosine path, and v converted = ε − x₀ on flow matching's: largest gap";
    Ok(Evidence::new(what, worst, 0.0, 64.0 * f64::EPSILON)
        .because("a few operations on numbers of size 3"))
}

/// In one direction the flow keeps the order of states: each ends at the quantile at which it
/// started, which is the optimal transport.
fn quantiles(law: &Mixture, s: &LineSettings) -> Result<Evidence> {
    let normal = Normal::standard();
    let cdf = |x: f64| -> f64 {
        let parts = law.weights().into_iter().zip(law.components());
        parts.map(|(w, c)| w * normal.cdf((x - c.mean()[0]) / c.variances()[0].sqrt())).sum()
    };
    let z = Array2::from_shape_fn((s.draws.len(), 1), |(i, _)| s.draws[i]);
    let ends = pf_ode_solve(law, z.view(), &[PathPoint::NOISE, PathPoint::CLEAN])?.swap_remove(1);
    let gap = ends.iter().zip(&z).map(|(x, z)| (cdf(*x) - normal.cdf(*z)).abs()).fold(0.0, larger);
    let what =
        "quantile at which a trajectory ends against the one at which it starts: largest gap";
    Ok(Evidence::new(what, gap, 0.0, 1e-9)
        .because("the normal distribution function is good to 1e-11"))
}
