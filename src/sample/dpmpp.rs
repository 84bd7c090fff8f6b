//! DPM-Solver++: exponential integrators in `lambda = ln(alpha / sigma)` on `x0_hat`, and their stochastic kin.
//!
//! The signal frame gives a constant `x0_hat` its exact weight `1 - exp(-h)`; what the methods add is how `x0_hat` changes over the step.
//! A step to `sigma = 0` is an infinite stretch of lambda, over which no polynomial can be extrapolated: there `x0_hat` is held.

use super::run::{Stretch, level_of};
use super::weights::{interpolation_weights, signal_moments};
use super::{Run, Sampler, intervals, noisy_intervals};
use crate::diffusion::PathPoint;
use crate::diffusion::kernel::Posterior;
use crate::diffusion::level::Level;
use crate::error::Result;

/// `dpmpp-2s`: singlestep of order two, `x0_hat` taken in the middle of the stretch.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver++", algorithm 1 (r = 1/2).
pub struct Dpmpp2s;

impl Sampler for Dpmpp2s {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        // From alpha = 0 the stretch has no middle either.
        intervals(grid) + noisy_intervals(grid) - usize::from(noisy_intervals(grid) > 0 && grid[0].alpha == 0.0)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (from, to, stretch) = (run.from(), run.to(), run.stretch()?);
        if stretch.h.is_infinite() {
            return run.ddim();
        }
        let middle = level_of((from.edm_sigma() * to.edm_sigma()).sqrt());
        let first = run.x0_hat();
        let second = run.x0_hat_after(&middle, &[(-(-0.5 * stretch.h).exp_m1(), &first)]);
        run.settle(&[(stretch.share, &second)]);
        run.recycle([first, second]);
        Ok(())
    }
}

/// `dpmpp-2m`: multistep of order two; the first step is DDIM's.
///
/// # Formula
/// `x0_hat + (h / 2 h_before) (x0_hat - x0_hat_before)` in the place of a constant `x0_hat`.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver++", algorithm 2.
pub struct Dpmpp2m {
    /// Hold `x0_hat` over the last step too, as public codes do on short grids (`lower_order_final`).
    pub lower_final: bool,
}

impl Sampler for Dpmpp2m {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let stretch = run.stretch()?;
        let mut past = run.recall();
        past.insert(0, run.x0_hat());
        let held = past.len() == 1 || stretch.h.is_infinite() || (self.lower_final && run.steps_left() == 0);
        let slope = if held { 0.0 } else { 0.5 * stretch.h / Stretch::between(&run.before(1), &run.from())?.h };
        match &past[..] {
            [m0, m1] => run.settle(&[(stretch.share * (1.0 + slope), m0), (-stretch.share * slope, m1)]),
            _ => run.settle(&[(stretch.share, &past[0])]),
        }
        run.remember(past, 1);
        Ok(())
    }
}

/// `dpmpp-3m`: multistep of order three, its start included.
///
/// # Formula
/// The parabola through the last three `x0_hat` integrated exactly over the step: `psi_1 m0 + psi_2 m' + psi_3 m''`, with m' and m''
/// the parabola's derivatives in lambda. To keep order three the first step is [`Dpmpp2s`]'s (one more evaluation) and the second the line
/// through two: their local errors are of order three. A DDIM start, as usual elsewhere, caps the method at order two.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver++", appendix B, with the second derivative restored: see [`Dpmpp3mPublished`].
pub struct Dpmpp3m;

impl Sampler for Dpmpp3m {
    fn order(&self) -> Option<u32> {
        Some(3)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + usize::from(noisy_intervals(grid) > 0 && grid[0].alpha > 0.0)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (from, to, stretch) = (run.from(), run.to(), run.stretch()?);
        let mut past = run.recall();
        past.insert(0, run.x0_hat());
        if stretch.h.is_infinite() {
            run.settle(&[(stretch.share, &past[0])]);
        } else if past.len() == 1 {
            let middle = level_of((from.edm_sigma() * to.edm_sigma()).sqrt());
            let second = run.x0_hat_after(&middle, &[(-(-0.5 * stretch.h).exp_m1(), &past[0])]);
            run.settle(&[(stretch.share, &second)]);
            run.recycle([second]);
        } else {
            let nodes = nodes(run, past.len())?;
            let weights = interpolation_weights(&nodes, &signal_moments(stretch.h, nodes.len()));
            run.settle(&weights.into_iter().zip(&past).collect::<Vec<_>>());
        }
        run.remember(past, 2);
        Ok(())
    }
}

/// Where the newest `n` evaluations lie in lambda, seen from the newest: 0, then negative.
pub(super) fn nodes(run: &Run, n: usize) -> Result<Vec<f64>> {
    nodes_of(run.grid(), run.index(), n)
}

/// Where points `k`, `k - 1`, ... lie in lambda, seen from point `k`.
pub(super) fn nodes_of(grid: &[PathPoint], k: usize, n: usize) -> Result<Vec<f64>> {
    let mut nodes = vec![0.0];
    for back in 1..n {
        nodes.push(nodes[back - 1] - Stretch::between(&grid[k - back], &grid[k - back + 1])?.h);
    }
    Ok(nodes)
}

/// Weights of the last three `x0_hat` in the published third-order update.
///
/// # Formula
/// `D1_0 = (m0 - m1) / r0`, `D1_1 = (m1 - m2) / r1` with `r = gap / h`; `D1 = D1_0 + r0 / (r0 + r1) (D1_0 - D1_1)`,
/// `D2 = (D1_0 - D1_1) / (r0 + r1)`; the update is `psi_1 m0 + psi_2 D1 / h + psi_3 D2 / h^2`.
pub(super) fn published_weights(stretch: Stretch, nodes: &[f64]) -> [f64; 3] {
    let h = stretch.h;
    let (r0, r1) = (-nodes[1] / h, (nodes[1] - nodes[2]) / h);
    let moments = signal_moments(h, 3);
    let (of_d1, of_d2) = (moments[1] / h, moments[2] / (h * h));
    let newer = of_d1 * (1.0 + r0 / (r0 + r1)) + of_d2 / (r0 + r1);
    let older = -of_d1 * r0 / (r0 + r1) - of_d2 / (r0 + r1);
    [stretch.share + newer / r0, older / r1 - newer / r0, -older / r1]
}

/// `dpmpp-3m-published`: the third-order multistep update as several public codes print it, which converges at order two.
///
/// # Formula
/// `psi_1 m0 + psi_2 D1 / h + psi_3 D2 / h^2` where `D2` is the *divided* difference of second order in units of h. The parabola's second
/// derivative is twice that: the term should read `2 psi_3 D2 / h^2`. Both the missing 2 and the DDIM start leave order two.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver++", appendix B, as in the DPM-Solver code, diffusers and k-diffusion.
pub struct Dpmpp3mPublished {
    /// Lower the order to two and one over the last two steps, as public codes do on short grids (`lower_order_final`).
    pub lower_final: bool,
}

impl Sampler for Dpmpp3mPublished {
    fn order(&self) -> Option<u32> {
        // As its sources declare it; two is what it has.
        Some(3)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let stretch = run.stretch()?;
        let mut past = run.recall();
        past.insert(0, run.x0_hat());
        let most = if self.lower_final { run.steps_left() + 1 } else { 3 };
        let order = past.len().min(most).min(if stretch.h.is_infinite() { 1 } else { 3 });
        let (nodes, h) = (nodes(run, order)?, stretch.h);
        match (&past[..order], &nodes[..]) {
            ([m0, m1, m2], _) => {
                let [w0, w1, w2] = published_weights(stretch, &nodes);
                run.settle(&[(w0, m0), (w1, m1), (w2, m2)]);
            }
            ([m0, m1], [_, t1]) => {
                let slope = -0.5 * h / t1;
                run.settle(&[(stretch.share * (1.0 + slope), m0), (-stretch.share * slope, m1)]);
            }
            _ => run.settle(&[(stretch.share, &past[0])]),
        }
        run.remember(past, 2);
        Ok(())
    }
}

/// `dpmpp-2m-sde`: the posterior step of DDPM with [`Dpmpp2m`]'s extrapolated `x0_hat`.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver++", section 5 (SDE-DPM-Solver++(2M)).
pub struct Dpmpp2mSde;

impl Sampler for Dpmpp2mSde {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn is_stochastic(&self) -> bool {
        true
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let (s, t) = run.levels();
        let (q, h) = (Posterior::between(s, t)?, run.stretch()?.h);
        let mut past = run.recall();
        past.insert(0, run.x0_hat());
        match &past[..] {
            [m0, m1] if h.is_finite() => {
                let slope = 0.5 * h / Stretch::between(&run.before(1), &run.from())?.h;
                run.advance(q.coef_xt, &[(q.coef_x0 * (1.0 + slope), m0), (-q.coef_x0 * slope, m1)]);
            }
            _ => run.advance(q.coef_xt, &[(q.coef_x0, &past[0])]),
        }
        run.remember(past, 1);
        run.add_noise(q.var.sqrt());
        Ok(())
    }
}

/// `dpmpp-sde`: a posterior step to the middle, then a posterior step over all of it with the `x0_hat` found there.
///
/// # Formula
/// The noise of the whole step is made of the half step's `z1` and a fresh `z2`, as increments of one Brownian motion run in
/// `s = sigma / alpha`: `z = sqrt(c) z1 + sqrt(1 - c) z2`, `c = (s - s_mid) / (s - s_to)`.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver++"; Crowson, k-diffusion, `sample_dpmpp_sde` (r = 1/2).
pub struct DpmppSde;

impl Sampler for DpmppSde {
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
        let (from, to, s) = (run.from(), run.to(), run.edm_sigma()?);
        if to.sigma == 0.0 {
            return run.ddim();
        }
        let s_to = to.edm_sigma();
        let middle = level_of((s * s_to).sqrt());
        let half = Posterior::between(Level::from(&middle), Level::from(&from))?;
        let whole = Posterior::between(Level::from(&to), Level::from(&from))?;
        let (first, z1) = (run.x0_hat(), run.normals());
        let second = run.x0_hat_from(&middle, half.coef_xt, &[(half.coef_x0, &first), (half.var.sqrt(), &z1)]);
        let (shared, std, z2) = ((s - middle.edm_sigma()) / (s - s_to), whole.var.sqrt(), run.normals());
        let noise = [(std * shared.sqrt(), &z1), (std * (1.0 - shared).sqrt(), &z2)];
        run.advance(whole.coef_xt, &[(whole.coef_x0, &second), noise[0], noise[1]]);
        run.recycle([first, second, z1, z2]);
        Ok(())
    }
}
