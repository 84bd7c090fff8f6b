//! Euler and Heun in the path's own time, on the marginal velocity
//! `d_alpha x0_hat + d_sigma eps_hat`.
//!
//! A path that ends short of the data (VE, whose least noise is `sigma_min`) has no time for the
//! step that is left: it is DDIM's, the denoising with which Song et al. 2021 end theirs.

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
        let Some(dt) = duration(run)? else { return run.ddim() };
        let x0_hat = run.x0_hat()?;
        let (of_x, of_x0) = velocity(&from);
        run.advance(1.0 + dt * of_x, &[(dt * of_x0, &x0_hat)]);
        run.recycle([x0_hat]);
        Ok(())
    }
}

/// `fm-heun`: Heun's method in time; the last step, to `sigma = 0`, where the velocity is 0/0, is
/// Euler's.
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
        let Some(dt) = duration(run)? else { return run.ddim() };
        let (from, to) = (run.from(), run.to());
        let ((a, b), (a_to, b_to)) = (velocity(&from), velocity(&to));
        let first = run.x0_hat()?;
        // x_to = x + dt v: the state and the first slope have the same two ingredients.
        let mut end = run.copy();
        combine(&mut end, 1.0 + dt * a, &[(dt * b, &first)]);
        let second = run.x0_hat_of(&end, &to)?;
        let half = 0.5 * dt;
        run.advance(
            1.0 + half * a,
            &[(half * b, &first), (half * a_to, &end), (half * b_to, &second)],
        );
        run.recycle([first, second, end]);
        Ok(())
    }
}

/// `t_to - t`; `None` for the step to data that lie off the path.
///
/// # Errors
/// A point without a time before that; a time that does not fall; a rate that is not finite.
pub(super) fn duration(run: &Run) -> Result<Option<f64>> {
    let (from, to) = (run.from(), run.to());
    if to.sigma == 0.0 && to.t.is_nan() && !from.t.is_nan() {
        return Ok(None);
    }
    let dt = to.t - from.t;
    let refused = |got: String, allowed: &str, mend: &str| {
        Err(Error::domain("a step in the path's time", got, allowed, mend))
    };
    if !(dt < 0.0) {
        return refused(
            format!("t = {} to {}", from.t, to.t),
            "falling times",
            "take the grid from a path",
        );
    }
    if !(from.d_alpha.is_finite() && from.d_sigma.is_finite()) {
        let got = format!("rates {} and {} at t = {}", from.d_alpha, from.d_sigma, from.t);
        return refused(
            got,
            "finite rates",
            "start the grid a little off the end of the path, or use a method in sigma / alpha, such as ddim",
        );
    }
    Ok(Some(dt))
}

/// Weights of `x` and of `x0_hat` in the velocity
/// `d_alpha x0_hat + d_sigma (x - alpha x0_hat) / sigma`.
fn velocity(at: &PathPoint) -> (f64, f64) {
    let of_x = at.d_sigma / at.sigma;
    (of_x, at.d_alpha - at.alpha * of_x)
}
