//! Claims of the purdue deck.

mod random_walk;
mod reverse;
mod sampling;
mod training;
mod whole_chain;

use crate::claims::Claim;

/// Every claim file of the deck.
pub(super) const FILES: &[&[Claim]] =
    &[random_walk::CLAIMS, reverse::CLAIMS, training::CLAIMS, sampling::CLAIMS, whole_chain::CLAIMS];
