//! Euler and Heun in the path's own time, on the marginal velocity `d_alpha x0_hat + d_sigma eps_hat`.

use super::combine::combine;
use super::{Run, Sampler, intervals, noisy_intervals};
use crate::diffusion::PathPoint;
use crate::error::{Error, Result};

/// `fm-euler`: on flow matching's straight path it is DDIM, on a curved one it is not.
///
/// # Formula
/// `x += (t_to - t) (d_alpha x0_hat + d_sigma eps_hat)`
///
/// # Source
/// Lipman et al. 2023, "Flow matching for generative modeling".
pub struct FmEuler;

impl Sampler for FmEuler {
    fn order(&self) -> Option<u32> {
        Some(1)
    }

    fn is_exact_for_a_point_mass(&self) -> bool {
        false
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let from = run.from();
        let dt = duration(run)?;
        let x0_hat = run.x0_hat();
        let (of_x, of_x0) = velocity(&from);
        run.advance(1.0 + dt * of_x, &[(dt * of_x0, &x0_hat)]);
        run.recycle([x0_hat]);
        Ok(())
    }
}

/// `fm-heun`: Heun's method in time; the last step, to `sigma = 0`, where the velocity is 0/0, is Euler's.
///
/// # Source
/// Heun 1900; diffusers' flow-matching Heun scheduler ends in the same way.
pub struct FmHeun;

impl Sampler for FmHeun {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + noisy_intervals(grid)
    }

    fn is_exact_for_a_point_mass(&self) -> bool {
        false
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        if run.to().sigma == 0.0 {
            return FmEuler.step(run);
        }
        let (from, to, dt) = (run.from(), run.to(), duration(run)?);
        let ((a, b), (a_to, b_to)) = (velocity(&from), velocity(&to));
        let first = run.x0_hat();
        // x_to = x + dt v: the state and the first slope have the same two ingredients.
        let mut end = run.copy();
        combine(&mut end, 1.0 + dt * a, &[(dt * b, &first)]);
        let second = run.x0_hat_of(&end, &to);
        let half = 0.5 * dt;
        run.advance(1.0 + half * a, &[(half * b, &first), (half * a_to, &end), (half * b_to, &second)]);
        run.recycle([first, second, end]);
        Ok(())
    }
}

/// `t_to - t`.
pub(super) fn duration(run: &Run) -> Result<f64> {
    let (from, to) = (run.from(), run.to());
    let dt = to.t - from.t;
    if dt < 0.0 && from.d_alpha.is_finite() && from.d_sigma.is_finite() {
        return Ok(dt);
    }
    let got = format!("t = {} to {}, rates {} and {}", from.t, to.t, from.d_alpha, from.d_sigma);
    Err(Error::domain("a step in the path's time", got, "falling times with finite rates", "take the grid from a path"))
}

/// Weights of `x` and of `x0_hat` in the velocity `d_alpha x0_hat + d_sigma (x - alpha x0_hat) / sigma`.
fn velocity(at: &PathPoint) -> (f64, f64) {
    let of_x = at.d_sigma / at.sigma;
    (of_x, at.d_alpha - at.alpha * of_x)
}
