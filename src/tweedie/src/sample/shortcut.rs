//! Steps that need no evaluation: the exact flow, and teleportation by the Gaussian with the data's
//! moments.

use super::{Run, Sampler};
use crate::diffusion::PathPoint;
use crate::error::Result;
use crate::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use crate::law::{Gaussian, Law};

/// A law that a method may know beforehand; a Gaussian is kept apart, because it has closed forms.
#[derive(Clone, Copy)]
pub enum Known<'a> {
    /// Closed forms.
    Gaussian(&'a Gaussian),
    /// Adaptive integrator, errors about 1e-13 of the data's deviation.
    Any(&'a dyn Law),
}

/// `exact`: the PF-ODE itself, by the closed form of a Gaussian or the reference integrator of any
/// other law.
pub struct Exact<'a>(pub Known<'a>);

impl Sampler for Exact<'_> {
    /// No discretisation, no order: its error does not depend on the grid.
    fn order(&self) -> Option<u32> {
        None
    }

    fn nfe(&self, _: &[PathPoint]) -> usize {
        0
    }

    fn is_combination(&self) -> bool {
        false
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (from, to) = (run.from(), run.to());
        run.x = match self.0 {
            Known::Gaussian(law) => pf_ode_map(law, run.x.view(), from, to)?,
            Known::Any(law) => pf_ode_solve(law, run.x.view(), &[from, to])?.swap_remove(1),
        };
        Ok(())
    }
}

/// `teleport+NAME`: the first `skipped` steps of the grid by the Gaussian flow, at no evaluation,
/// the others by the method.
///
/// # Source
/// Wang and Vastola 2023, "The hidden linear structure in score-based models" (analytical
/// teleportation).
pub struct Teleport<S> {
    /// The Gaussian with the data's mean and covariance.
    pub gaussian: Gaussian,
    /// Steps of the grid to skip.
    pub skipped: usize,
    /// The method for the rest.
    pub then: S,
}

impl<S: Sampler> Sampler for Teleport<S> {
    fn order(&self) -> Option<u32> {
        // Where the data are not Gaussian the jump leaves an error that no number of steps takes
        // away.
        None
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        self.then.nfe(&grid[self.skipped.min(grid.len() - 1)..])
    }

    fn is_stochastic(&self) -> bool {
        self.then.is_stochastic()
    }

    fn is_exact_for_a_point_mass(&self) -> bool {
        self.then.is_exact_for_a_point_mass()
    }

    fn is_combination(&self) -> bool {
        false
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        if run.index() >= self.skipped {
            return self.then.step(run);
        }
        run.x = pf_ode_map(&self.gaussian, run.x.view(), run.from(), run.to())?;
        Ok(())
    }
}
