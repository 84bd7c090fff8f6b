//! UniPC: a multistep predictor and, with the evaluation made where it lands, a corrector that costs nothing more.

use super::combine::combine;
use super::dpmpp::nodes;
use super::run::Stretch;
use super::weights::{interpolation_weights, signal_moments};
use super::{Run, Sampler};
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
/// Both are `psi_1 x0_hat` plus a combination of differences of `x0_hat`: the exact integral of the polynomial through the nodes, except where
/// only one difference is used (the line through two), whose weight is `B(h) / 2`.
///
/// Its corrector lifts the predictor's order by one, start-up steps included: order p + 1, but two where `lower_final` makes the last step DDIM's.
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

    /// Weights of `x0_hat` at `nodes` over a stretch; the two-node case by B(h), the rest by exact integration.
    fn weights(&self, nodes: &[f64], stretch: Stretch) -> Vec<f64> {
        match nodes {
            [_, node] if node.is_finite() => {
                let b = match self.scale {
                    Scale::Bh1 => stretch.h,
                    Scale::Bh2 => stretch.share,
                };
                let slope = 0.5 * b * stretch.h / node;
                vec![stretch.share - slope, slope]
            }
            _ => interpolation_weights(nodes, &signal_moments(stretch.h, nodes.len())),
        }
    }
}

impl Sampler for UniPc {
    fn order(&self) -> Option<u32> {
        Some(if self.lower_final { 2 } else { self.points as u32 + 1 })
    }

    fn step(&self, run: &mut Run) -> Result<()> {
        let mut past = run.recall();
        let x0_hat = run.x0_hat();
        // The state where the previous step began is the oldest thing remembered.
        if let Some(mut before) = past.pop() {
            let back = Stretch::between(&run.before(1), &run.from())?;
            if back.h.is_finite() {
                // Seen from the previous point: itself, those before it, and the one just evaluated.
                let used = self.used(&past, run.steps_left() + 2);
                let mut at = vec![0.0];
                at.extend(nodes(run, used + 1)?[2..].iter().map(|t| t + back.h));
                at.push(back.h);
                let weights = self.weights(&at, back);
                let (from, to) = (run.before(1), run.from());
                let values = past[..used].iter().chain([&x0_hat]);
                let terms: Vec<_> = weights.into_iter().map(|w| to.alpha * w).zip(values).collect();
                combine(&mut before, to.sigma / from.sigma, &terms);
                std::mem::swap(&mut run.x, &mut before);
            }
            run.recycle([before]);
        }
        past.insert(0, x0_hat);
        let stretch = run.stretch()?;
        let used = self.used(&past, run.steps_left() + 1);
        let weights = if stretch.h.is_infinite() { vec![stretch.share] } else { self.weights(&nodes(run, used)?, stretch) };
        let start = run.copy();
        run.settle(&weights.into_iter().zip(&past).collect::<Vec<_>>());
        run.recycle(past.drain(self.points.min(past.len())..));
        past.push(start);
        run.remember(past, self.points + 1);
        Ok(())
    }
}
