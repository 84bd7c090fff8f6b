//! Denoisers with a bottleneck, on data that lie in a subspace: what limited rank costs each
//! objective.

use super::linear::{Objective, at_level, curvature};
use super::{Settings, TARGETS};
use nalgebra::DMatrix;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::prediction::Prediction;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::low_rank::LowRank;
use tweedie::law::Gaussian;
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie_nn::adamw::{AdamW, State};

/// What the section on bottlenecks shows.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bottleneck {
    /// Dimension of the space, and of the subspace that holds the data.
    pub dims: [usize; 2],
    /// One noise level each.
    pub levels: Vec<Level>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Risks at one noise level, in units of the data's variance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Level {
    /// `sigma / alpha`.
    pub sigma: f64,
    /// By target: risk of the x0 that the best map of rank 0, 1, ... d implies.
    pub risk: Vec<Vec<f64>>,
    /// By target: (rank, risk) of maps trained as two thin matrices.
    pub trained: Vec<Vec<(usize, f64)>>,
    /// Risk of the best denoiser.
    pub least: f64,
}

impl Bottleneck {
    pub(super) fn new(settings: &Settings, law: &Gaussian, noise: &Noise) -> Result<Self> {
        let law = law.truncated(settings.manifold_rank);
        let (d, total) = (law.dim(), law.variances().sum());
        let (mut levels, mut evidence) = (Vec::new(), Vec::new());
        let (mut second, mut skipped, mut trained_worst, mut beaten) =
            (0.0f64, 0.0f64, 0.0f64, 0.0f64);
        for sigma in &settings.manifold_sigmas {
            let at = at_level(*sigma)?;
            let h = law.matrix(|l| curvature(l, &at));
            let root = law.matrix(|l| curvature(l, &at).sqrt());
            let least: f64 =
                law.variances().iter().map(|l| l * at.sigma.powi(2) / curvature(*l, &at)).sum();
            let (mut risk, mut trained) = (Vec::new(), Vec::new());
            for target in TARGETS {
                let objective = Objective::new(target, &at)?;
                let excess = (0..=d)
                    .map(|r| Ok(LowRank::new(&law, target, &at, r)?.excess()))
                    .collect::<Result<Vec<f64>>>()?;
                let full = law.matrix(|l| objective.best(l));
                let squares = squared_singular_values(&full.dot(&root));
                let whole: f64 = squares.iter().sum();
                second = excess
                    .iter()
                    .enumerate()
                    .map(|(r, e)| (e - squares[r..].iter().sum::<f64>()).abs() / whole)
                    .fold(second, larger);
                if target == Prediction::Eps {
                    let rest = &full - &Array2::from_diag_elem(d, 1.0 / at.sigma);
                    let squares = squared_singular_values(&rest.dot(&root));
                    skipped = larger(
                        skipped,
                        squares[settings.manifold_rank..].iter().sum::<f64>()
                            / squares.iter().sum::<f64>(),
                    );
                }
                let runs: Vec<(usize, f64)> = settings
                    .trained_ranks
                    .par_iter()
                    .map(|&r| (r, descend(&full, &h, r, settings.trained_steps, noise)))
                    .collect();
                for (r, e) in &runs {
                    // In units of what there is to learn, so that an exact 0 can be compared.
                    trained_worst = larger(trained_worst, (e - excess[*r]) / whole);
                    beaten = larger(beaten, (excess[*r] - e) / whole);
                }
                let relative = |e: f64| (least + e / objective.scale) / total;
                risk.push(excess.iter().map(|e| relative(*e)).collect());
                trained.push(runs.iter().map(|(r, e)| (*r, relative(*e))).collect());
            }
            levels.push(Level { sigma: *sigma, risk, trained, least: least / total });
        }
        let rounding = 64.0 * d as f64 * f64::EPSILON;
        let x0_at_rank = |l: &Level| l.risk[0][settings.manifold_rank] / l.least;
        let worst = levels.iter().map(x0_at_rank).fold(1.0, larger);
        evidence.push(
            Evidence::new(
                format!("x0-map of rank {}: risk / least risk", settings.manifold_rank),
                worst,
                1.0,
                rounding,
            )
            .because("no direction off the data has anything to predict"),
        );
        evidence.push(
            Evidence::new(
                "closed form less the singular values of the full map times √H, all ranks and targets",
                second,
                0.0,
                rounding,
            )
            .because("rounding of a dense singular value decomposition"),
        );
        evidence.push(
            Evidence::new(
                "eps with xₜ / σ added for free: share of the rest beyond the data's rank",
                skipped,
                0.0,
                rounding,
            )
            .because("rounding"),
        );
        evidence.push(
            Evidence::new(
                "two thin matrices, trained: loss above the closed form, share of what there is to learn",
                trained_worst,
                0.0,
                1e-3,
            )
            .because(format!("what {} steps of Adam leave", settings.trained_steps)),
        );
        evidence.push(
            Evidence::new("the same: loss below the closed form", beaten, 0.0, rounding)
                .because("no map of the rank is better, but for rounding"),
        );
        Ok(Self { dims: [d, settings.manifold_rank], levels, evidence })
    }
}

/// Descending.
fn squared_singular_values(a: &Array2<f64>) -> Vec<f64> {
    let mut squares: Vec<f64> = DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]])
        .singular_values()
        .iter()
        .map(|s| s * s)
        .collect();
    squares.sort_by(|x, y| y.total_cmp(x));
    squares
}

/// Excess loss of `A B`, A (d, r) and B (r, d), after training on the exact loss whose unlimited
/// minimiser is `full`.
fn descend(full: &Array2<f64>, h: &Array2<f64>, r: usize, steps: usize, noise: &Noise) -> f64 {
    let d = full.nrows();
    let mut params = vec![0.0; 2 * d * r];
    noise.fill_normal(r as u64, &mut params);
    params.iter_mut().for_each(|w| *w *= 0.3 / (d as f64).sqrt());
    let mut state = State::new(params.len());
    let (mut grads, mut excess) = (vec![0.0; params.len()], f64::NAN);
    for n in 0..=steps {
        let (a, b) = params.split_at(d * r);
        let a = ArrayView2::from_shape((d, r), a).expect("split there");
        let b = ArrayView2::from_shape((r, d), b).expect("split there");
        let error = a.dot(&b) - full;
        let slope = error.dot(h);
        excess = (&slope * &error).sum();
        grads.splice(.., b.dot(&slope.t()).t().iter().chain(&a.t().dot(&slope)).copied());
        let learning_rate = 0.02 * (1.0 - n as f64 / (steps + 1) as f64);
        AdamW { learning_rate, decay: 0.0, ..AdamW::default() }.step(
            &mut state,
            &mut params,
            &grads,
        );
    }
    excess
}
