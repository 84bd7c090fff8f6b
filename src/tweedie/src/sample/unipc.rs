//! UniPC: a multistep predictor and, with the evaluation made where it lands, a corrector that
//! costs nothing more.

use super::combine::combine;
use super::dpmpp::{by_ratio, nodes_of, polynomial_weights};
use super::run::LambdaStep;
use super::{Run, Sampler};
use crate::diffusion::PathPoint;
use crate::error::Result;
use ndarray::Array2;

/// The function B(h) that scales the corrections of lowest order; the others do not depend on it.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Scale {
    /// `B = h`.
    Bh1,
    /// `B = 1 - e^-h`.
    Bh2,
}

/// `unipc`: UniP-p predicts, UniC-p corrects; the last state is the predictor's, as published.
///
/// # Formula
/// Both are `psi_1 x0_hat` plus a combination of differences of `x0_hat`: the exact integral of the
/// polynomial through the nodes, except where only one difference is used (the line through two),
/// whose weight is `B(h) / 2`.
///
/// The corrector lifts the predictor's order by one, but the first step, UniP-1 corrected by
/// UniC-1, has a local error of order three: so the order is `min(p + 1, 3)`, and two where
/// `lower_final` makes the last step DDIM's. Out of `alpha = 0` both interpolate in
/// `alpha / sigma`, by exact integration, as [`dpmpp`](super::dpmpp) explains.
///
/// # Source
/// Zhao et al. 2023, "UniPC: a unified predictor-corrector framework", algorithms 1 and 2, in x0.
pub struct UniPc {
    /// p, 1 to 3.
    pub points: usize,
    /// B(h).
    pub scale: Scale,
    /// Lower p over the last steps, as public codes do (`lower_order_final`).
    pub lower_final: bool,
}

impl UniPc {
    /// How many of the evaluations remembered a step uses that is followed by `left - 1` others.
    fn used(&self, past: &[Array2<f64>], left: usize) -> usize {
        past.len().min(self.points).min(if self.lower_final { left } else { self.points })
    }

    /// Weights over step `k` of the `x0_hat` at points `k`, `k - 1`, ... (`n` of them), and with
    /// `ahead` of the one at its end too: two values by B(h), others by exact integration.
    fn weights(&self, grid: &[PathPoint], k: usize, n: usize, ahead: bool) -> Result<Vec<f64>> {
        if by_ratio(grid, k) || n + usize::from(ahead) != 2 {
            return polynomial_weights(grid, k, n, ahead);
        }
        let step = LambdaStep::between(&grid[k], &grid[k + 1])?;
        let b = match self.scale {
            Scale::Bh1 => step.h,
            Scale::Bh2 => step.h_phi_1,
        };
        let node = if ahead { step.h } else { nodes_of(grid, k, 2)?[1] };
        // 0 for a node at minus infinity, which pure noise is.
        let slope = 0.5 * b * step.h / node;
        Ok(vec![step.h_phi_1 - slope, slope])
    }
}

impl Sampler for UniPc {
    fn order(&self) -> Option<u32> {
        Some(if self.lower_final { 2 } else { (self.points as u32 + 1).min(3) })
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let mut past = run.take_history();
        let x0_hat = run.x0_hat()?;
        // The state where the previous step began is the oldest thing remembered.
        if let Some(mut before) = past.pop() {
            // Over the step just taken: the points where it began and before, and the one just
            // evaluated.
            let used = self.used(&past, run.steps_left() + 2);
            let weights = self.weights(run.grid(), run.index() - 1, used, true)?;
            let (from, to) = (run.before(1), run.from());
            let values = past[..used].iter().chain([&x0_hat]);
            let terms: Vec<_> = weights.into_iter().map(|w| to.alpha * w).zip(values).collect();
            combine(&mut before, to.sigma / from.sigma, &terms);
            std::mem::swap(&mut run.x, &mut before);
            run.recycle([before]);
        }
        past.insert(0, x0_hat);
        let used = self.used(&past, run.steps_left() + 1);
        let weights = if run.to().sigma == 0.0 {
            vec![run.lambda_step()?.h_phi_1]
        } else {
            self.weights(run.grid(), run.index(), used, false)?
        };
        let start = run.copy();
        run.finish_from_x0(&weights.into_iter().zip(&past).collect::<Vec<_>>());
        run.recycle(past.drain(self.points.min(past.len())..));
        past.push(start);
        run.keep_history(past, self.points + 1);
        Ok(())
    }
}
