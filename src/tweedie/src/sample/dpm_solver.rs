//! DPM-Solver: exponential Runge-Kutta steps in `lambda = ln(alpha / sigma)` on `eps_hat`.
//!
//! In the noise frame the exponential of order one is Euler's step in `s = sigma / alpha`, so that
//! `dpm-solver-1` is `ddim` and `dpm-solver-2` is the midpoint rule in s with the midpoint taken in
//! `ln s`, which is Karras' `dpm-2`. A step to `sigma = 0`, an infinite step of lambda, is
//! DDIM's.

use super::run::level_of;
use super::weights::noise_moments;
use super::{Run, Sampler, intervals, noisy_intervals};
use crate::diffusion::PathPoint;
use crate::error::Result;

/// `dpm-solver-2`, which is also `dpm-2`.
///
/// # Formula
/// `x_to/alpha_to = x/alpha + (s_to - s) eps_hat(s_mid)`, `s_mid = sqrt(s s_to)`
///
/// # Source
/// Lu et al. 2022, "DPM-Solver", algorithm 1 (r1 = 1/2); Karras et al. 2022.
pub struct DpmSolver2;

impl Sampler for DpmSolver2 {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + noisy_intervals(grid)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (s, s_to) = (run.edm_sigma()?, run.to().edm_sigma());
        if s_to == 0.0 {
            return run.ddim();
        }
        let middle = level_of((s * s_to).sqrt());
        let first = run.eps_hat()?;
        let second = run.eps_hat_after(&middle, &[(middle.edm_sigma() - s, &first)])?;
        run.finish_from_eps(&[(s_to - s, &second)]);
        run.recycle([first, second]);
        Ok(())
    }
}

/// `dpm-solver-3`: stages at one and two thirds of the step.
///
/// # Formula
/// With `c_k(h)` the integrals of `e^{h - tau} tau^(k-1) / (k-1)!` times `-s_end`: `u2` adds
/// `c_2(2h/3) / (h/3) (e1 - e0)`, the end adds `c_2(h) / (2h/3) (e2 - e0)`.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver", algorithm 2 (r1 = 1/3, r2 = 2/3).
pub struct DpmSolver3;

impl Sampler for DpmSolver3 {
    fn order(&self) -> Option<u32> {
        Some(3)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + 2 * noisy_intervals(grid)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (s, to) = (run.edm_sigma()?, run.to());
        if to.sigma == 0.0 {
            return run.ddim();
        }
        let h = run.lambda_step()?.h;
        let (third, two_thirds) =
            (level_of(s * (-h / 3.0).exp()), level_of(s * (-2.0 * h / 3.0).exp()));
        // Moments 1 and 2 of the kernel e^-tau, in units of s.
        let (stage, end) = (noise_moments(2.0 * h / 3.0, 2), noise_moments(h, 2));
        let e0 = run.eps_hat()?;
        let e1 = run.eps_hat_after(&third, &[(s * (-h / 3.0).exp_m1(), &e0)])?;
        let slope = -s * stage[1] * 3.0 / h;
        let e2 = run.eps_hat_after(&two_thirds, &[(-s * stage[0] - slope, &e0), (slope, &e1)])?;
        let slope = -s * end[1] * 1.5 / h;
        run.finish_from_eps(&[(-s * end[0] - slope, &e0), (slope, &e2)]);
        run.recycle([e0, e1, e2]);
        Ok(())
    }
}
