//! Claims of the ghent deck.

mod advanced;
mod attention;
mod cross_attention;
mod example;
mod forward;
mod guidance;
mod latent;
mod noise_levels;
mod properties;
mod reverse;
mod sampling;
mod schedules;
mod score;
mod training;

use crate::Claim;

/// Every claim file of the deck.
pub(super) const FILES: &[&[Claim]] = &[
    forward::CLAIMS,
    example::CLAIMS,
    properties::CLAIMS,
    reverse::CLAIMS,
    score::CLAIMS,
    training::CLAIMS,
    sampling::CLAIMS,
    guidance::CLAIMS,
    latent::CLAIMS,
    schedules::CLAIMS,
    advanced::CLAIMS,
    attention::CLAIMS,
    cross_attention::CLAIMS,
    noise_levels::CLAIMS,
];
