//! Euler and Heun in the path's own time, on the marginal velocity
//! `d_alpha x0_hat + d_sigma eps_hat`.
//!
//! A path that ends short of the data (VE, whose least noise is `sigma_min`) has no time for the
//! step that is left: it is DDIM's, the denoising with which Song et al. 2021 end theirs.

use super::combine::combine;
use super::{Run, Sampler, intervals, noisy_intervals};
use crate::diffusion::PathPoint;
use crate::diffusion::level::{Level, Moving};
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
        let Some((dt, from)) = duration(run)? else { return run.ddim() };
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
        let Some((dt, from)) = duration(run)? else { return run.ddim() };
        let to = run.to();
        let ((a, b), (a_to, b_to)) = (velocity(&from), velocity(&to.moving()?));
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

/// `t_to - t`, and where the step begins; `None` for the step to data that lie off the path.
///
/// # Errors
/// A point without a time before that; a time that does not fall; a rate that is not known or not
/// finite.
pub(super) fn duration(run: &Run) -> Result<Option<(f64, Moving)>> {
    let (from, to) = (run.from(), run.to());
    if to.sigma == 0.0 && to.t.is_none() && from.t.is_some() {
        return Ok(None);
    }
    let refused = |got: String, allowed: &str, mend: &str| {
        Err(Error::domain("a step in the path's time", got, allowed, mend))
    };
    let known = |t: Option<f64>| t.map_or("none".to_owned(), |t| t.to_string());
    let Some(dt) = from.t.zip(to.t).map(|(t, t_to)| t_to - t).filter(|dt| *dt < 0.0) else {
        return refused(
            format!("t = {} to {}", known(from.t), known(to.t)),
            "falling times",
            "take the grid from a path",
        );
    };
    match from.moving() {
        Ok(moving) if moving.rates.alpha.is_finite() && moving.rates.sigma.is_finite() => {
            Ok(Some((dt, moving)))
        }
        _ => refused(
            format!("a point without them at t = {}", known(from.t)),
            "finite rates",
            "start the grid a little off the end of the path, or use a method in sigma / alpha, such as ddim",
        ),
    }
}

/// Weights of `x` and of `x0_hat` in the velocity
/// `d_alpha x0_hat + d_sigma (x - alpha x0_hat) / sigma`.
fn velocity(&Moving { level: Level { alpha, sigma }, rates }: &Moving) -> (f64, f64) {
    let of_x = rates.sigma / sigma;
    (of_x, rates.alpha - alpha * of_x)
}
