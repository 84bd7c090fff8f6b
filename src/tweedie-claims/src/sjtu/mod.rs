//! Claims of the sjtu deck.

use crate::Claim;
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::Table;

pub(crate) mod chain;
mod elbo;
mod first;
mod forward;
mod latent;
mod likelihood;
mod reverse;
mod sampling;
mod score;
mod speed;
mod training;

/// Every claim file of the deck.
pub(super) const FILES: &[&[Claim]] = &[
    forward::CLAIMS,
    reverse::CLAIMS,
    training::LOSS,
    sampling::CLAIMS,
    training::TARGETS,
    elbo::CLAIMS,
    score::CLAIMS,
    speed::CLAIMS,
    latent::CLAIMS,
    likelihood::CLAIMS,
    first::CLAIMS,
];

/// The level of step t of a table, clean data at t = 0.
pub(crate) fn level(table: &Table, t: usize) -> Level<f64> {
    if t == 0 {
        Level::CLEAN
    } else {
        Level::new(table.rows()[t - 1].alpha, table.rows()[t - 1].sigma)
    }
}

/// The same as a point without rates.
pub(crate) fn still(table: &Table, t: usize) -> PathPoint {
    let level = level(table, t);
    PathPoint::still(level.alpha, level.sigma)
}
