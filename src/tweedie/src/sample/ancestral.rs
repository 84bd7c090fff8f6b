//! DDPM and the DDIM family: draw `x_s` from `q(x_s | x_t, x0_hat)`.

use super::{Run, Sampler};
use crate::diffusion::PathPoint;
use crate::diffusion::kernel::{Posterior, Transition};
use crate::error::Result;

/// What is not known of x0 at a point, a coordinate: the average of `Cov[x0 | x_t]`'s eigenvalues.
pub type Spread<'a> = dyn Fn(&PathPoint) -> Result<f64> + Sync + 'a;

/// The variance that DDPM's reverse step adds.
pub enum Variance<'a> {
    /// That of the forward step, `beta_t` (diffusers' `fixed_large`).
    Beta,
    /// That of the posterior `q(x_s | x_t, x0)` (diffusers' `fixed_small`).
    Posterior,
    /// The best isotropic one: the posterior's plus what is not known of x0, `coef_x0^2` times the
    /// average of `Cov[x0 | x_t]`'s eigenvalues over x_t, which the function gives. Source: Bao et
    /// al. 2022, "Analytic-DPM", theorem 1.
    Optimal(Box<Spread<'a>>),
}

/// DDPM's ancestral sampling, on any stride.
///
/// # Formula
/// `x_s = coef_x0 x0_hat + coef_xt x + sqrt(var) z`; the last step, to `sigma = 0`, adds no noise.
///
/// # Source
/// Ho et al. 2020, "Denoising diffusion probabilistic models", algorithm 2.
pub struct Ddpm<'a> {
    /// Variance of the noise added.
    pub variance: Variance<'a>,
}

impl Sampler for Ddpm<'_> {
    fn order(&self) -> Option<u32> {
        Some(1)
    }

    fn is_stochastic(&self) -> bool {
        true
    }

    fn is_exact_for_a_point_mass(&self) -> bool {
        matches!(self.variance, Variance::Posterior)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (s, t) = run.levels();
        let q = Posterior::between(s, t)?;
        let var = match &self.variance {
            _ if s.sigma == 0.0 => 0.0,
            Variance::Beta => Transition::between(s, t)?.var,
            Variance::Posterior => q.var,
            Variance::Optimal(spread) => q.var + q.coef_x0 * q.coef_x0 * spread(&run.from())?,
        };
        let x0_hat = run.x0_hat()?;
        run.advance_noisy(q.coef_xt, &[(q.coef_x0, &x0_hat)], var.sqrt());
        run.recycle([x0_hat]);
        Ok(())
    }
}

/// DDIM: deterministic at `eta = 0`, DDPM with the posterior's variance at `eta = 1`.
///
/// `euler` is the same method as `eta = 0`: Euler's step of `d(x/alpha) = eps_hat ds` in
/// `s = sigma / alpha`, gathered in x0_hat. So is `dpm-solver-1`. `euler-ancestral` is the same as
/// `eta = 1`: its `sigma_up` is the posterior's deviation.
///
/// # Formula
/// `x_s = alpha_s x0_hat + sqrt(sigma_s^2 - var) eps_hat + sqrt(var) z`,
/// `var = eta^2 sigma_s^2 (1 - snr_t / snr_s)`
///
/// # Source
/// Song, Meng, Ermon 2021, "Denoising diffusion implicit models", equation 12.
pub struct Ddim {
    /// Share of the posterior's deviation that is fresh noise.
    pub eta: f64,
}

impl Sampler for Ddim {
    fn order(&self) -> Option<u32> {
        Some(1)
    }

    fn is_stochastic(&self) -> bool {
        self.eta > 0.0
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (s, t) = run.levels();
        let q = Posterior::ddim(s, t, self.eta)?;
        let x0_hat = run.x0_hat()?;
        run.advance_noisy(q.coef_xt, &[(q.coef_x0, &x0_hat)], q.var.sqrt());
        run.recycle([x0_hat]);
        Ok(())
    }
}
