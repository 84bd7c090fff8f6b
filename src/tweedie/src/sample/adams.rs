//! Multistep methods on `eps_hat`: `lms`, `plms`, `deis`. They differ in the variable in which they
//! extrapolate it.

use super::dpmpp::nodes;
use super::weights::{interpolation_weights, noise_moments};
use super::{Run, Sampler, intervals};
use crate::diffusion::PathPoint;
use crate::error::Result;

/// `lms`: Adams-Bashforth in `s = sigma / alpha` on any grid, starting from lower orders.
///
/// Its first step is Euler's, whose local error is of order two, so the whole is of order two
/// however many points it remembers.
///
/// # Formula
/// `x/alpha += integral over [s, s_to] of the polynomial through the last eps_hat`
///
/// # Source
/// Crowson, k-diffusion, `sample_lms`; Bashforth and Adams 1883.
pub struct Lms {
    /// Evaluations remembered, 1 to 4.
    pub points: usize,
}

impl Sampler for Lms {
    fn order(&self) -> Option<u32> {
        Some(self.points.min(2) as u32)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let s = run.edm_sigma()?;
        let mut past = run.take_history();
        past.insert(0, run.eps_hat()?);
        let mut nodes = vec![0.0];
        nodes.extend((1..past.len()).map(|back| run.before(back).edm_sigma() - s));
        let ds = run.to().edm_sigma() - s;
        // Integral of tau^i / i! over [0, ds].
        let mut moment = 1.0;
        let moments: Vec<f64> = (1..=nodes.len())
            .map(|i| {
                moment *= ds / i as f64;
                moment
            })
            .collect();
        let weights = interpolation_weights(&nodes, &moments);
        run.finish_from_eps(&weights.into_iter().zip(&past).collect::<Vec<_>>());
        run.keep_history(past, self.points - 1);
        Ok(())
    }
}

/// `plms`: PNDM's pseudo linear multistep, the weights of an even grid on any grid, with a Heun
/// start.
///
/// An even grid in t is not even in s, so order two is all there is; on an even grid in s it would
/// be more.
///
/// # Formula
/// `x/alpha += (s_to - s) (55 e0 - 59 e1 + 37 e2 - 9 e3) / 24`
///
/// # Source
/// Liu et al. 2022, "Pseudo numerical methods for diffusion models on manifolds" (the linear
/// multistep method).
pub struct Plms;

/// Adams-Bashforth weights of order 2 to 4 on an even grid.
const ADAMS: [&[f64]; 3] = [
    &[1.5, -0.5],
    &[23.0 / 12.0, -16.0 / 12.0, 5.0 / 12.0],
    &[55.0 / 24.0, -59.0 / 24.0, 37.0 / 24.0, -9.0 / 24.0],
];

impl Sampler for Plms {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        // The Heun start needs a second slope, which sigma = 0 has not.
        intervals(grid) + usize::from(intervals(grid) > 0 && grid[1].sigma > 0.0)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (s, to) = (run.edm_sigma()?, run.to());
        let ds = to.edm_sigma() - s;
        let mut past = run.take_history();
        if past.is_empty() && to.sigma == 0.0 {
            return run.ddim();
        }
        past.insert(0, run.eps_hat()?);
        if past.len() == 1 {
            let second = run.eps_hat_after(&to, &[(ds, &past[0])])?;
            run.finish_from_eps(&[(0.5 * ds, &past[0]), (0.5 * ds, &second)]);
            run.recycle([second]);
        } else {
            let terms: Vec<_> = ADAMS[past.len() - 2].iter().map(|w| ds * w).zip(&past).collect();
            run.finish_from_eps(&terms);
        }
        run.keep_history(past, 3);
        Ok(())
    }
}

/// `deis`: the polynomial through the last `eps_hat` in `lambda`, integrated exactly over `s`;
/// starting from lower orders.
///
/// Its first step is DDIM's, which caps it at order two.
///
/// # Source
/// Zhang and Chen 2023, "Fast sampling of diffusion models with exponential integrator",
/// extrapolating in `ln(sigma / alpha)` as diffusers does.
pub struct Deis {
    /// Evaluations remembered, 1 to 3.
    pub points: usize,
    /// Lower the order over the last steps, as public codes do on short grids
    /// (`lower_order_final`).
    pub lower_final: bool,
}

impl Sampler for Deis {
    fn order(&self) -> Option<u32> {
        Some(self.points.min(2) as u32)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        if run.to().sigma == 0.0 {
            return run.ddim();
        }
        let (s, h) = (run.edm_sigma()?, run.lambda_step()?.h);
        let mut past = run.take_history();
        past.insert(0, run.eps_hat()?);
        let most = if self.lower_final { run.steps_left() + 1 } else { past.len() };
        let nodes = nodes(run, past.len().min(most))?;
        let weights = interpolation_weights(&nodes, &noise_moments(h, nodes.len()));
        run.finish_from_eps(&weights.into_iter().map(|w| -s * w).zip(&past).collect::<Vec<_>>());
        run.keep_history(past, self.points - 1);
        Ok(())
    }
}
