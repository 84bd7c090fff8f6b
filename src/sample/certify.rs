//! Certificates: measured order, evaluations and exact error of a sampler on laws whose answer is known.

use super::grid::{Grid, Spacing};
use super::noise_source::Silence;
use super::order::{Order, order};
use super::propagate::{Response, Start, modes};
use super::shortcut::Known;
use super::{Sampler, sample};
use crate::diffusion::{Denoiser, Path, PathPoint};
use crate::error::Result;
use crate::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use crate::law::Law;
use ndarray::Array2;

/// One run of a study.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct StudyRun {
    /// Steps of the grid.
    pub steps: usize,
    /// Calls of the denoiser.
    pub nfe: usize,
    /// Error at the end of the grid: of the law (W2) for a stochastic method, else of the states (root mean square).
    pub error: f64,
}

/// A convergence study.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Study {
    /// Runs, by steps.
    pub runs: Vec<StudyRun>,
    /// The order they show, where enough of them are above rounding.
    pub order: Option<Order>,
}

impl Study {
    /// Fewest evaluations among the runs, interpolated in log-log, after which the error is at most `tol`.
    pub fn nfe_to(&self, tol: f64) -> Option<f64> {
        let k = self.runs.iter().position(|r| r.error <= tol)?;
        let run = self.runs[k];
        let Some(before) = k.checked_sub(1).map(|k| self.runs[k]) else { return Some(run.nfe as f64) };
        if run.error <= 0.0 {
            return Some(run.nfe as f64);
        }
        let share = (before.error / tol).ln() / (before.error / run.error).ln();
        Some((before.nfe as f64) * (run.nfe as f64 / before.nfe as f64).powf(share))
    }
}

/// The grid of the order studies: even in log-SNR on the cosine path from `sigma / alpha` = 10 to 0.05, both ends fixed, so that only
/// the number of steps changes; and where start-up steps weigh.
///
/// # Errors
/// No steps.
pub fn study_grid(steps: usize) -> Result<Vec<PathPoint>> {
    Grid { s_max: 10.0, s_min: 0.05, clean: false, ..Grid::new(Spacing::LogSnr, steps) }.points(&Path::Cosine)
}

/// Errors of a method at several numbers of steps, and the order they show.
///
/// Deterministic methods: root mean square over 32 fixed starts and all coordinates, against the exact flow. Stochastic ones on a
/// Gaussian: the exact W2 of their law to the true one, from the true start.
///
/// # Errors
/// A stochastic method on another law than a Gaussian: its error would be a sample's. What the method or the grid refuses.
pub fn study(method: &dyn Sampler, law: Known, steps: &[usize], grid: impl Fn(usize) -> Result<Vec<PathPoint>>) -> Result<Study> {
    let mut runs = Vec::new();
    for &n in steps {
        let grid = grid(n)?;
        let (nfe, error) = if method.is_stochastic() { law_error(method, law, &grid)? } else { state_error(method, law, &grid)? };
        runs.push(StudyRun { steps: n, nfe, error });
    }
    let errors: Vec<f64> = runs.iter().map(|r| r.error).collect();
    // Rounding of a few hundred steps on states of size 10.
    Ok(Study { runs, order: order(steps, &errors, 1e-12).ok() })
}

fn law_error(method: &dyn Sampler, law: Known, grid: &[PathPoint]) -> Result<(usize, f64)> {
    let Known::Gaussian(law) = law else {
        let what = "study of a stochastic sampler";
        return Err(crate::error::Error::domain(what, "a law that is no Gaussian", "a Gaussian", "compare samples instead"));
    };
    let law = modes(law)?;
    let response = Response::of(method, grid, diagonal(&law))?;
    Ok((response.nfe, response.w2(&law.mean().to_owned(), Start::Marginal)))
}

/// Variances of a diagonal law in the order of its coordinates.
fn diagonal(law: &crate::law::Gaussian) -> ndarray::Array1<f64> {
    Law::cov(law).diag().to_owned()
}

fn state_error(method: &dyn Sampler, law: Known, grid: &[PathPoint]) -> Result<(usize, f64)> {
    let (first, last) = (grid[0], grid[grid.len() - 1]);
    let model: &dyn Denoiser = match law {
        Known::Gaussian(law) => law,
        Known::Any(law) => law,
    };
    let start = starts(model.dim(), first.sigma.hypot(first.alpha));
    let exact = match law {
        Known::Gaussian(law) => pf_ode_map(law, start.view(), &first, &last)?,
        Known::Any(law) => pf_ode_solve(law, start.view(), &[first, last])?.swap_remove(1),
    };
    let end = sample(method, model, grid, start, &mut Silence)?;
    let gaps = &end.x - &exact;
    Ok((end.nfe, (gaps.iter().map(|e| e * e).sum::<f64>() / gaps.len() as f64).sqrt()))
}

/// 32 fixed starts spread over two deviations either way.
fn starts(d: usize, std: f64) -> Array2<f64> {
    Array2::from_shape_fn((32, d), |(i, j)| std * ((((i * 7 + j * 11) % 32) as f64 + 0.5) / 8.0 - 2.0))
}
