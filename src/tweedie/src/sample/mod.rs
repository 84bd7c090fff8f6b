//! Samplers: one short file a family, declared order, injected noise.
//!
//! Every method here is *affine* in the denoiser's output: a step is a table of weights on the
//! state, on the `x0_hat` or `eps_hat` of this and earlier evaluations, and on fresh noise. A step
//! is therefore written in one of two frames, both free of singular subtractions:
//!
//! - the **signal frame**, for methods that integrate `x0_hat`:
//!   `x_to = (sigma_to / sigma_from) x + alpha_to sum_j w_j x0_hat_j` ([`Run::finish_from_x0`]), exact for
//!   a point mass, and down to `sigma_to = 0`;
//! - the **noise frame**, for methods that integrate `eps_hat` over `s = sigma / alpha`:
//!   `x_to / alpha_to = x / alpha_from + sum_j w_j eps_hat_j` ([`Run::finish_from_eps`]).
//!
//! Both hold on any path. What differs between VP, VE, EDM and flow matching is only the grid of
//! [`PathPoint`]s.
//!
//! | module | methods |
//! |---|---|
//! | [`ancestral`] | `ddpm`, `ddim`; `euler` and `euler-ancestral` are two of its members |
//! | [`runge_kutta`] | `heun`, `edm-heun`, `dpm-2-ancestral`, `rk4` in EDM's coordinates |
//! | [`flow`] | `fm-euler`, `fm-heun` in the path's own time |
//! | [`dpm_solver`] | `dpm-solver-1`, `-2` (which is `dpm-2`), `-3` |
//! | [`dpmpp`] | `dpmpp-2s`, `dpmpp-2m`, `dpmpp-3m`, `dpmpp-3m-published`, `dpmpp-sde`, `dpmpp-2m-sde` |
//! | [`adams`] | `lms`, `plms`, `deis`: multistep in `eps_hat` |
//! | [`unipc`] | `unipc` |
//! | [`sde`] | `em`, `reverse-sde-family`, `langevin`, `pc` |
//! | [`shortcut`] | `teleport+NAME`, `exact` |
//!
//! [`tableau`] records any of them as flat tables for a device.

pub mod adams;
pub mod ancestral;
pub mod certify;
pub mod check;
mod combine;
pub mod dpm_solver;
pub mod dpmpp;
pub mod flow;
pub mod grid;
pub mod model;
pub mod noise_source;
pub mod order;
pub mod propagate;
pub mod registry;
mod run;
pub mod runge_kutta;
pub mod sde;
pub mod shortcut;
pub mod tableau;
pub mod unipc;
mod weights;

use crate::diffusion::{Denoiser, PathPoint};
use crate::error::{Error, Result};
use ndarray::Array2;

pub use noise_source::NoiseSource;
pub use run::Run;

/// A method that carries states along a grid from noise to data.
pub trait Sampler: Sync {
    /// Order of convergence in the largest step, start-up steps included: of the state towards the
    /// PF-ODE's for a deterministic method, of the law of the state (its mean and variance) for a
    /// stochastic one. `None` where more steps alone do not converge.
    fn order(&self) -> Option<u32>;

    /// Calls of the denoiser over this grid.
    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid)
    }

    /// Whether it carries a point mass along its exact trajectory (its exact law, if stochastic),
    /// on any grid of any path.
    fn is_exact_for_a_point_mass(&self) -> bool {
        true
    }

    /// Whether it draws noise after the start.
    fn is_stochastic(&self) -> bool {
        false
    }

    /// Whether its states are combinations of states, predictions and draws with the same weights
    /// for every coordinate, as a [`Tableau`](tableau::Tableau) holds them: all but those that know the law.
    fn is_combination(&self) -> bool {
        true
    }

    /// One step, from [`Run::from`] to [`Run::to`]: replaces [`Run::x`].
    ///
    /// # Errors
    /// A step that the method cannot take between these points (pure noise without a finite
    /// `sigma / alpha`, a rate that is missing); what the denoiser refuses.
    fn step(&self, run: &mut Run) -> Result<()>;
}

impl<S: Sampler + ?Sized> Sampler for Box<S> {
    fn order(&self) -> Option<u32> {
        (**self).order()
    }
    fn nfe(&self, grid: &[PathPoint]) -> usize {
        (**self).nfe(grid)
    }
    fn is_exact_for_a_point_mass(&self) -> bool {
        (**self).is_exact_for_a_point_mass()
    }
    fn is_stochastic(&self) -> bool {
        (**self).is_stochastic()
    }
    fn is_combination(&self) -> bool {
        (**self).is_combination()
    }
    fn step(&self, run: &mut Run) -> Result<()> {
        (**self).step(run)
    }
}

/// Number of steps of a grid.
fn intervals(grid: &[PathPoint]) -> usize {
    grid.len().saturating_sub(1)
}

/// Number of steps of a grid that do not end at `sigma = 0`.
fn noisy_intervals(grid: &[PathPoint]) -> usize {
    intervals(grid) - usize::from(grid.last().is_some_and(|p| p.sigma == 0.0))
}

/// What a sampler produced.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// States at the last point of the grid, shape (n, d).
    pub x: Array2<f64>,
    /// Calls of the denoiser.
    pub nfe: usize,
    /// Draws of noise, each of one normal an element.
    pub draws: usize,
}

/// Runs a sampler from the states `x` at the first point of a grid to the last.
///
/// # Shapes
/// `x` (n, d).
///
/// # Errors
/// `x` that does not fit the model; a grid that [`grid::checked`] refuses; a step that the sampler
/// refuses; an evaluation that the model refuses.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::diffusion::{Path, PathPoint};
/// use tweedie::law::Gaussian;
/// use tweedie::sample::{ancestral::Ddim, noise_source::Silence, sample};
/// // A point mass is reproduced exactly, in however few steps.
/// let law = Gaussian::isotropic(array![3.0], 0.0).unwrap();
/// let grid = [Path::Cosine.at(0.9).unwrap(), Path::Cosine.at(0.4).unwrap(), PathPoint::CLEAN];
/// let end = sample(&Ddim { eta: 0.0 }, &law, &grid, array![[0.7], [-2.0]], &mut Silence).unwrap();
/// assert_eq!((end.x, end.nfe), (array![[3.0], [3.0]], 2));
/// ```
pub fn sample(
    sampler: &dyn Sampler,
    model: &dyn Denoiser,
    grid: &[PathPoint],
    x: Array2<f64>,
    noise: &mut dyn NoiseSource,
) -> Result<Sampled> {
    sample_watched(sampler, model, grid, x, noise, |_, _| {})
}

/// [`sample`], showing `see(k, state)` for every point `grid[k]`, the start included.
///
/// # Errors
/// As [`sample`].
pub fn sample_watched(
    sampler: &dyn Sampler,
    model: &dyn Denoiser,
    grid: &[PathPoint],
    x: Array2<f64>,
    noise: &mut dyn NoiseSource,
    mut see: impl FnMut(usize, &Array2<f64>),
) -> Result<Sampled> {
    grid::checked(grid)?;
    if x.ncols() != model.dim() {
        let want = format!("(n, {}), the model's dimension", model.dim());
        return Err(Error::shape("starting states", x.shape(), want, "pass one state in each row"));
    }
    let mut run = Run::new(model, grid, x.as_standard_layout().into_owned(), noise);
    see(0, &run.x);
    for k in 0..intervals(grid) {
        run.at_step(k);
        sampler.step(&mut run)?;
        see(k + 1, &run.x);
    }
    Ok(run.finish())
}

/// [`sample`], keeping the state at every point of the grid.
///
/// # Errors
/// As [`sample`].
pub fn trajectory(
    sampler: &dyn Sampler,
    model: &dyn Denoiser,
    grid: &[PathPoint],
    x: Array2<f64>,
    noise: &mut dyn NoiseSource,
) -> Result<(Vec<Array2<f64>>, Sampled)> {
    let mut states = Vec::with_capacity(grid.len());
    let end = sample_watched(sampler, model, grid, x, noise, |_, x| states.push(x.clone()))?;
    Ok((states, end))
}
