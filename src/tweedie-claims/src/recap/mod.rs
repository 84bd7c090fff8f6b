//! Claims of the recap deck.

use crate::Claim;

mod bound;
mod forward;
mod loss;
mod posterior;
mod target;

/// Every claim file of the deck.
pub(super) const FILES: &[&[Claim]] =
    &[forward::CLAIMS, bound::CLAIMS, posterior::CLAIMS, loss::CLAIMS, target::CLAIMS];
