//! Claims of the purdue deck.

mod random_walk;
mod reverse;
mod sampling;
mod training;
mod unit_noise;
mod whole_chain;

use crate::Claim;

/// Every claim file of the deck.
pub(super) const FILES: &[&[Claim]] = &[
    random_walk::CLAIMS,
    reverse::CLAIMS,
    training::CLAIMS,
    sampling::CLAIMS,
    unit_noise::CLAIMS,
    whole_chain::CLAIMS,
];
