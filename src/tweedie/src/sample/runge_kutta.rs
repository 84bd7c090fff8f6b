//! Runge-Kutta methods for `d(x/alpha) = eps_hat ds` in EDM's noise level `s = sigma / alpha`.
//!
//! Where a step ends at `s = 0` the slope there is 0/0; each of them then takes the Euler step,
//! which is DDIM's.

use super::run::level_of;
use super::{Run, Sampler, intervals, noisy_intervals};
use crate::diffusion::PathPoint;
use crate::error::Result;

/// Heun's method, with EDM's churn: `heun` is the one without.
///
/// # Formula
/// Churn raises the level to `s' = s (1 + gamma)`, `gamma = min(churn / N, sqrt(2) - 1)`, by fresh
/// noise `sqrt(s'^2 - s^2) s_noise z` where `s_min <= s <= s_max`. Then
/// `x/alpha += (ds / 2) (eps_hat(s') + eps_hat(s_to))`, the second slope at the Euler step's end.
///
/// # Source
/// Karras et al. 2022, "Elucidating the design space", algorithms 1 and 2.
pub struct Heun {
    /// Total churn S_churn, spread over the steps.
    pub churn: f64,
    /// Lowest level that is churned, S_tmin.
    pub s_min: f64,
    /// Highest level that is churned, S_tmax.
    pub s_max: f64,
    /// Deviation of the fresh noise, S_noise.
    pub s_noise: f64,
}

impl Heun {
    /// Without churn: algorithm 1.
    pub const DETERMINISTIC: Heun =
        Heun { churn: 0.0, s_min: 0.0, s_max: f64::INFINITY, s_noise: 1.0 };
}

impl Sampler for Heun {
    fn order(&self) -> Option<u32> {
        // Noise of deviation other than 1 is a bias of its own.
        (self.churn == 0.0 || self.s_noise == 1.0).then_some(2)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + noisy_intervals(grid)
    }

    fn is_stochastic(&self) -> bool {
        self.churn > 0.0
    }

    fn is_exact_for_a_point_mass(&self) -> bool {
        self.churn == 0.0 || self.s_noise == 1.0
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let s = run.edm_sigma()?;
        if self.churn > 0.0 && (self.s_min..=self.s_max).contains(&s) {
            let gamma = (self.churn / run.steps() as f64).min(std::f64::consts::SQRT_2 - 1.0);
            let alpha = run.from().alpha;
            run.add_noise(alpha * self.s_noise * s * (gamma * (2.0 + gamma)).sqrt());
            run.raise_noise(1.0 + gamma);
        }
        if run.to().sigma == 0.0 {
            return run.ddim();
        }
        let to = run.to();
        let ds = to.edm_sigma() - run.edm_sigma()?;
        let first = run.eps_hat()?;
        let second = run.eps_hat_after(&to, &[(ds, &first)])?;
        run.finish_from_eps(&[(0.5 * ds, &first), (0.5 * ds, &second)]);
        run.recycle([first, second]);
        Ok(())
    }
}

/// `dpm-2-ancestral`: the midpoint step down to `s_down`, then noise `s_up` back up to the next
/// level.
///
/// # Formula
/// `s_up = s_to sqrt(1 - s_to^2 / s^2)`, `s_down = s_to^2 / s`; the slope is taken at
/// `sqrt(s s_down)`. Exact steps would keep every marginal, so its law is of the midpoint rule's
/// order.
///
/// # Source
/// Crowson, k-diffusion, `sample_dpm_2_ancestral`, from Karras et al. 2022, algorithm 2.
pub struct Dpm2Ancestral;

impl Sampler for Dpm2Ancestral {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + noisy_intervals(grid)
    }

    fn is_stochastic(&self) -> bool {
        true
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (s, s_to) = (run.edm_sigma()?, run.to().edm_sigma());
        if s_to == 0.0 {
            return run.ddim();
        }
        let ratio = s_to / s;
        // Not s_to^2 - s_up^2, which in f32 turns negative on steep grids.
        let (s_down, s_up) = (s_to * ratio, s_to * ((1.0 - ratio) * (1.0 + ratio)).sqrt());
        let middle = level_of((s * s_down).sqrt());
        let first = run.eps_hat()?;
        let second = run.eps_hat_after(&middle, &[(middle.edm_sigma() - s, &first)])?;
        run.finish_from_eps(&[(s_down - s, &second)]);
        run.recycle([first, second]);
        let alpha = run.to().alpha;
        run.add_noise(alpha * s_up);
        Ok(())
    }
}

/// The classical Runge-Kutta method of order four in `u = ln s`, where the slope is `s eps_hat`.
///
/// # Source
/// Kutta 1901; in `ln s` the slopes of a point mass grow no faster than the state.
pub struct Rk4;

impl Sampler for Rk4 {
    fn order(&self) -> Option<u32> {
        Some(4)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + 3 * noisy_intervals(grid)
    }

    fn is_exact_for_a_point_mass(&self) -> bool {
        false
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (s, to) = (run.edm_sigma()?, run.to());
        if to.sigma == 0.0 {
            return run.ddim();
        }
        let (du, middle) = (-run.lambda_step()?.h, level_of((s * to.edm_sigma()).sqrt()));
        let s_mid = middle.edm_sigma();
        let e1 = run.eps_hat()?;
        let e2 = run.eps_hat_after(&middle, &[(0.5 * du * s, &e1)])?;
        let e3 = run.eps_hat_after(&middle, &[(0.5 * du * s_mid, &e2)])?;
        let e4 = run.eps_hat_after(&to, &[(du * s_mid, &e3)])?;
        let sixth = du / 6.0;
        run.finish_from_eps(&[
            (sixth * s, &e1),
            (2.0 * sixth * s_mid, &e2),
            (2.0 * sixth * s_mid, &e3),
            (sixth * to.edm_sigma(), &e4),
        ]);
        run.recycle([e1, e2, e3, e4]);
        Ok(())
    }
}
