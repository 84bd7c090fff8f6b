//! DPM-Solver++: exponential integrators in `lambda = ln(alpha / sigma)` on `x0_hat`, and their
//! stochastic kin.
//!
//! The signal frame gives a constant `x0_hat` its exact weight `1 - exp(-h)`; what the methods add
//! is how `x0_hat` changes over the step. A step to `sigma = 0` is an infinite step of lambda,
//! over which no polynomial can be extrapolated: there `x0_hat` is held.
//!
//! Out of pure noise the step is infinite too, and however fine the grid, its first steps are
//! wide in lambda (`ln 2`, `ln 3/2`, ... on an even one). But in `u = alpha / sigma` the flow is
//! regular at 0: `d(x / sigma) = x0_hat du`, with `x0_hat` smooth in u. So a run that starts at
//! `alpha = 0` interpolates in u until signal and noise are equal, and in lambda from there
//! (`by_ratio`): each method keeps its order.

use super::run::{LambdaStep, level_of};
use super::weights::{interpolation_weights, signal_moments};
use super::{Run, Sampler, intervals, noisy_intervals};
use crate::diffusion::PathPoint;
use crate::diffusion::kernel::Posterior;
use crate::diffusion::level::Level;
use crate::error::Result;
use ndarray::Array2;

/// Whether step `k` interpolates in `u = alpha / sigma` and not in `lambda = ln u`: the first out
/// of `alpha = 0` and those after it that end with no more signal than noise.
pub(super) fn by_ratio(grid: &[PathPoint], k: usize) -> bool {
    grid[0].alpha == 0.0 && (k == 0 || grid[k + 1].alpha <= grid[k + 1].sigma)
}

/// Where points `k`, `k - 1`, ... (`n` of them) lie, seen from point `k`, in the variable of step
/// `k`; u is in units of its value at the step's end.
fn places(grid: &[PathPoint], k: usize, n: usize) -> Result<Vec<f64>> {
    if !by_ratio(grid, k) {
        return nodes_of(grid, k, n);
    }
    let end = grid[k + 1];
    let mut places = vec![0.0];
    for back in 1..n {
        let (older, newer) = (grid[k - back], grid[k - back + 1]);
        let ratio = newer.alpha / end.alpha * (end.sigma / newer.sigma);
        places.push(places[back - 1] - ratio * LambdaStep::between(&older, &newer)?.h_phi_1);
    }
    Ok(places)
}

/// Weights over step `k` of the `x0_hat` at points `k`, `k - 1`, ... (`n` of them), and with
/// `ahead` of the one at its end too: the exact integral of the polynomial through them, in the
/// signal frame.
pub(super) fn polynomial_weights(
    grid: &[PathPoint],
    k: usize,
    n: usize,
    ahead: bool,
) -> Result<Vec<f64>> {
    let (mut nodes, step) = (places(grid, k, n)?, LambdaStep::between(&grid[k], &grid[k + 1])?);
    let ratio = by_ratio(grid, k);
    if ahead {
        nodes.push(if ratio { step.h_phi_1 } else { step.h });
    }
    let moments = if ratio {
        // Integrals of tau^i / i! du, the step being `h phi_1(-h)` wide.
        let next = |m: &mut f64, i| {
            *m *= step.h_phi_1 / i as f64;
            Some(*m)
        };
        (1..=nodes.len()).scan(1.0, next).collect()
    } else {
        signal_moments(step.h, nodes.len())
    };
    Ok(interpolation_weights(&nodes, &moments))
}

/// Half of the step's width over that of the step before, in the step's variable: what the line
/// through two `x0_hat` adds of their difference.
fn half_reach(run: &Run, step: LambdaStep) -> Result<f64> {
    let width = if by_ratio(run.grid(), run.index()) { step.h_phi_1 } else { step.h };
    Ok(-0.5 * width / places(run.grid(), run.index(), 2)?[1])
}

/// The middle of the step in its variable, and the weight of a constant `x0_hat` on the way there.
fn middle(run: &Run, step: LambdaStep) -> (PathPoint, f64) {
    let (from, to) = (run.from(), run.to());
    if by_ratio(run.grid(), run.index()) {
        let half = 0.5 * step.h_phi_1;
        return (level_of(to.edm_sigma() / (1.0 - half)), half / (1.0 - half));
    }
    (level_of((from.edm_sigma() * to.edm_sigma()).sqrt()), -(-0.5 * step.h).exp_m1())
}

/// The singlestep of order two: `x0_hat` taken in the middle.
fn midpoint(run: &mut Run, step: LambdaStep, first: &Array2<f64>) -> Result<()> {
    let (middle, share) = middle(run, step);
    let second = run.x0_hat_after(&middle, &[(share, first)])?;
    run.finish_from_x0(&[(step.h_phi_1, &second)]);
    run.recycle([second]);
    Ok(())
}

/// `dpmpp-2s`: singlestep of order two, `x0_hat` taken in the middle of the step.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver++", algorithm 1 (r = 1/2).
pub struct Dpmpp2s;

impl Sampler for Dpmpp2s {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + noisy_intervals(grid)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let step = run.lambda_step()?;
        if run.to().sigma == 0.0 {
            return run.ddim();
        }
        let first = run.x0_hat()?;
        midpoint(run, step, &first)?;
        run.recycle([first]);
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
    /// Hold `x0_hat` over the last step too, as public codes do on short grids
    /// (`lower_order_final`).
    pub lower_final: bool,
}

impl Sampler for Dpmpp2m {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let step = run.lambda_step()?;
        let mut past = run.take_history();
        past.insert(0, run.x0_hat()?);
        let held =
            past.len() == 1 || step.h.is_infinite() || (self.lower_final && run.steps_left() == 0);
        let slope = if held { 0.0 } else { half_reach(run, step)? };
        match &past[..] {
            [m0, m1] => run
                .finish_from_x0(&[(step.h_phi_1 * (1.0 + slope), m0), (-step.h_phi_1 * slope, m1)]),
            _ => run.finish_from_x0(&[(step.h_phi_1, &past[0])]),
        }
        run.keep_history(past, 1);
        Ok(())
    }
}

/// `dpmpp-3m`: multistep of order three, its start included.
///
/// # Formula
/// The parabola through the last three `x0_hat` integrated exactly over the step:
/// `psi_1 m0 + psi_2 m' + psi_3 m''`, with m' and m'' the parabola's derivatives in lambda. To keep
/// order three the first step is [`Dpmpp2s`]'s (one more evaluation) and the second the line
/// through two: their local errors are of order three. A DDIM start, as usual elsewhere, caps the
/// method at order two.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver++", appendix B, with the second derivative restored: see
/// [`Dpmpp3mPublished`].
pub struct Dpmpp3m;

impl Sampler for Dpmpp3m {
    fn order(&self) -> Option<u32> {
        Some(3)
    }

    fn nfe(&self, grid: &[PathPoint]) -> usize {
        intervals(grid) + usize::from(noisy_intervals(grid) > 0)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let step = run.lambda_step()?;
        let mut past = run.take_history();
        past.insert(0, run.x0_hat()?);
        if run.to().sigma == 0.0 {
            run.finish_from_x0(&[(step.h_phi_1, &past[0])]);
        } else if past.len() == 1 {
            midpoint(run, step, &past[0])?;
        } else {
            let weights = polynomial_weights(run.grid(), run.index(), past.len(), false)?;
            run.finish_from_x0(&weights.into_iter().zip(&past).collect::<Vec<_>>());
        }
        run.keep_history(past, 2);
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
        nodes.push(nodes[back - 1] - LambdaStep::between(&grid[k - back], &grid[k - back + 1])?.h);
    }
    Ok(nodes)
}

/// Weights of the last three `x0_hat` in the published third-order update.
///
/// # Formula
/// `D1_0 = (m0 - m1) / r0`, `D1_1 = (m1 - m2) / r1` with `r = gap / h`;
/// `D1 = D1_0 + r0 / (r0 + r1) (D1_0 - D1_1)`, `D2 = (D1_0 - D1_1) / (r0 + r1)`; the update is
/// `psi_1 m0 + psi_2 D1 / h + psi_3 D2 / h^2`.
pub(super) fn published_weights(step: LambdaStep, nodes: &[f64]) -> [f64; 3] {
    let h = step.h;
    let (r0, r1) = (-nodes[1] / h, (nodes[1] - nodes[2]) / h);
    let moments = signal_moments(h, 3);
    let (of_d1, of_d2) = (moments[1] / h, moments[2] / (h * h));
    let newer = of_d1 * (1.0 + r0 / (r0 + r1)) + of_d2 / (r0 + r1);
    let older = -of_d1 * r0 / (r0 + r1) - of_d2 / (r0 + r1);
    [step.h_phi_1 + newer / r0, older / r1 - newer / r0, -older / r1]
}

/// `dpmpp-3m-published`: the third-order multistep update as several public codes print it, which
/// converges at order two.
///
/// # Formula
/// `psi_1 m0 + psi_2 D1 / h + psi_3 D2 / h^2` where `D2` is the *divided* difference of second
/// order in units of h. The parabola's second derivative is twice that: the term should read
/// `2 psi_3 D2 / h^2`. Both the missing 2 and the DDIM start leave order two.
///
/// # Source
/// Lu et al. 2022, "DPM-Solver++", appendix B, as in the DPM-Solver code, diffusers and
/// k-diffusion.
pub struct Dpmpp3mPublished {
    /// Lower the order to two and one over the last two steps, as public codes do on short grids
    /// (`lower_order_final`).
    pub lower_final: bool,
}

impl Sampler for Dpmpp3mPublished {
    fn order(&self) -> Option<u32> {
        // As its sources declare it; two is what it has.
        Some(3)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let step = run.lambda_step()?;
        let mut past = run.take_history();
        past.insert(0, run.x0_hat()?);
        let most = if self.lower_final { run.steps_left() + 1 } else { 3 };
        let order = past.len().min(most).min(if step.h.is_infinite() { 1 } else { 3 });
        let (nodes, h) = (nodes(run, order)?, step.h);
        match (&past[..order], &nodes[..]) {
            ([m0, m1, m2], _) => {
                let [w0, w1, w2] = published_weights(step, &nodes);
                run.finish_from_x0(&[(w0, m0), (w1, m1), (w2, m2)]);
            }
            ([m0, m1], [_, t1]) => {
                let slope = -0.5 * h / t1;
                run.finish_from_x0(&[
                    (step.h_phi_1 * (1.0 + slope), m0),
                    (-step.h_phi_1 * slope, m1),
                ]);
            }
            _ => run.finish_from_x0(&[(step.h_phi_1, &past[0])]),
        }
        run.keep_history(past, 2);
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
        let (q, step) = (Posterior::between(s, t)?, run.lambda_step()?);
        let mut past = run.take_history();
        past.insert(0, run.x0_hat()?);
        match &past[..] {
            [m0, m1] if step.h.is_finite() => {
                let slope = half_reach(run, step)?;
                run.advance(
                    q.coef_xt,
                    &[(q.coef_x0 * (1.0 + slope), m0), (-q.coef_x0 * slope, m1)],
                );
            }
            _ => run.advance(q.coef_xt, &[(q.coef_x0, &past[0])]),
        }
        run.keep_history(past, 1);
        run.add_noise(q.var.sqrt());
        Ok(())
    }
}

/// `dpmpp-sde`: a posterior step to the middle, then a posterior step over all of it with the
/// `x0_hat` found there.
///
/// # Formula
/// The noise of the whole step is made of the half step's `z1` and a fresh `z2`, as increments of
/// one Brownian motion run in `s = sigma / alpha`: `z = sqrt(c) z1 + sqrt(1 - c) z2`,
/// `c = (s - s_mid) / (s - s_to)`.
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
        let (from, to) = (run.from(), run.to());
        if to.sigma == 0.0 {
            return run.ddim();
        }
        let (middle, _) = middle(run, run.lambda_step()?);
        let half = Posterior::between(Level::from(&middle), Level::from(&from))?;
        let whole = Posterior::between(Level::from(&to), Level::from(&from))?;
        let (first, z1) = (run.x0_hat()?, run.normals());
        let second = run.x0_hat_from(
            &middle,
            half.coef_xt,
            &[(half.coef_x0, &first), (half.var.sqrt(), &z1)],
        )?;
        let (s, s_mid, s_to) = (from.edm_sigma(), middle.edm_sigma(), to.edm_sigma());
        // Out of pure noise nearly all of the time in s lies before the middle.
        let shared = if s.is_infinite() { 1.0 } else { (s - s_mid) / (s - s_to) };
        let (std, z2) = (whole.var.sqrt(), run.normals());
        let noise = [(std * shared.sqrt(), &z1), (std * (1.0 - shared).sqrt(), &z2)];
        run.advance(whole.coef_xt, &[(whole.coef_x0, &second), noise[0], noise[1]]);
        run.recycle([first, second, z1, z2]);
        Ok(())
    }
}

/// `dpmpp-3m` after a DDIM start: the right update, and a start whose local error is of order two.
pub struct Dpmpp3mAfterDdim;

impl Sampler for Dpmpp3mAfterDdim {
    fn order(&self) -> Option<u32> {
        Some(2)
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        if run.index() > 0 {
            return Dpmpp3m.step(run);
        }
        let share = run.lambda_step()?.h_phi_1;
        let x0_hat = run.x0_hat()?;
        run.finish_from_x0(&[(share, &x0_hat)]);
        run.keep_history(vec![x0_hat], 2);
        Ok(())
    }
}
