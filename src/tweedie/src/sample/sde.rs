//! Methods for the stochastic equations: Euler-Maruyama on the reverse family, annealed Langevin,
//! predictor-corrector.

use super::flow::{FmEuler, duration};
use super::{Run, Sampler, intervals, noisy_intervals};
use crate::diffusion::PathPoint;
use crate::diffusion::kernel::Posterior;
use crate::diffusion::sde::Sde;
use crate::error::Result;

/// `reverse-sde-family`: Euler-Maruyama in the path's time on the reverse process with noise `g`;
/// `em` is `g = 1`, Anderson's reversal.
///
/// # Formula
/// `x += dt [f x - (1 + g^2)/2 g_path^2 score] + g g_path sqrt(|dt|) z`,
/// `score = (alpha x0_hat - x) / sigma^2`; no noise in a step to `sigma = 0`, which is DDIM's where
/// the path ends short of the data.
///
/// # Source
/// Maruyama 1955; Song et al. 2021, "Score-based generative modeling through stochastic
/// differential equations", equation 6; the Harvard deck, "There is a parametric family of SDE that
/// all reverse the noising process".
pub struct EulerMaruyama {
    /// Noise, in units of the forward process's.
    pub g: f64,
}

impl Sampler for EulerMaruyama {
    fn order(&self) -> Option<u32> {
        Some(1)
    }

    fn is_stochastic(&self) -> bool {
        self.g > 0.0
    }

    fn is_exact_for_a_point_mass(&self) -> bool {
        false
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        // Without noise it is the flow's Euler step, which pure noise has too; with noise, f and
        // g_path are infinite there.
        if self.g == 0.0 {
            return FmEuler.step(run);
        }
        let Some((dt, moving)) = duration(run)? else { return run.ddim() };
        let (from, to, sde) = (moving.level, run.to(), Sde::at(&moving)?);
        // The drift is affine in (x, score), and the score in (x, x0_hat).
        let of_score = sde.reverse_drift(0.0, 1.0, self.g);
        let var = from.sigma * from.sigma;
        let x0_hat = run.x0_hat()?;
        run.advance(
            1.0 + dt * (sde.f - of_score / var),
            &[(dt * of_score * from.alpha / var, &x0_hat)],
        );
        run.recycle([x0_hat]);
        if to.sigma > 0.0 {
            run.add_noise(self.g * (sde.g2 * -dt).sqrt());
        }
        Ok(())
    }
}

/// `corrections` steps of unadjusted Langevin dynamics at the level `at`, where the states already
/// are.
///
/// # Formula
/// `x += step sigma^2 score + sqrt(2 step) sigma z`
fn langevin(run: &mut Run, at: &PathPoint, step: f64, corrections: usize) -> Result<()> {
    for _ in 0..corrections {
        let x0_hat = run.x0_hat_at(at)?;
        run.advance(1.0 - step, &[(step * at.alpha, &x0_hat)]);
        run.recycle([x0_hat]);
        run.add_noise((2.0 * step).sqrt() * at.sigma);
    }
    Ok(())
}

/// `langevin`: annealed Langevin dynamics, a few steps at each noise level of the grid.
///
/// More levels alone do not converge: every level keeps the bias of its step, `1 / (1 - step / 2)`
/// on the variance where the noise dominates. The last step, to `sigma = 0`, is one denoising.
///
/// # Source
/// Song and Ermon 2019, "Generative modeling by estimating gradients of the data distribution",
/// algorithm 1; the last denoising from Jolicoeur-Martineau et al. 2021.
pub struct Langevin {
    /// Step in units of `sigma^2`.
    pub step: f64,
    /// Steps at each level.
    pub corrections: usize,
}

impl Sampler for Langevin {
    fn order(&self) -> Option<u32> {
        None
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) - noisy_intervals(grid) + self.corrections * noisy_intervals(grid)
    }

    fn is_stochastic(&self) -> bool {
        true
    }

    fn is_exact_for_a_point_mass(&self) -> bool {
        false
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (from, to) = (run.from(), run.to());
        if to.sigma == 0.0 {
            return run.ddim();
        }
        // The next level's law is nearly this one's in x / alpha.
        run.edm_sigma()?;
        run.advance(to.alpha / from.alpha, &[]);
        langevin(run, &to, self.step, self.corrections)
    }
}

/// `pc`: DDPM's step as predictor, Langevin steps at the new level as corrector.
///
/// # Formula
/// Corrector step `2 r^2 sigma^2`: Song's `2 (r |z| / |score|)^2` with the norms' ratio at its
/// expected value sigma, so that the method stays affine and its law exact.
///
/// # Source
/// Song et al. 2021, "Score-based generative modeling through stochastic differential equations",
/// algorithms 2 and 3.
pub struct PredictorCorrector {
    /// Signal-to-noise ratio r of the corrector.
    pub r: f64,
    /// Corrector steps at each level.
    pub corrections: usize,
}

impl Sampler for PredictorCorrector {
    fn order(&self) -> Option<u32> {
        None
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + self.corrections * noisy_intervals(grid)
    }

    fn is_stochastic(&self) -> bool {
        true
    }

    fn is_exact_for_a_point_mass(&self) -> bool {
        false
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (s, t) = run.levels();
        let q = Posterior::between(s, t)?;
        let x0_hat = run.x0_hat()?;
        run.advance(q.coef_xt, &[(q.coef_x0, &x0_hat)]);
        run.recycle([x0_hat]);
        run.add_noise(q.var.sqrt());
        let to = run.to();
        if to.sigma > 0.0 {
            langevin(run, &to, 2.0 * self.r * self.r, self.corrections)?;
        }
        Ok(())
    }
}
