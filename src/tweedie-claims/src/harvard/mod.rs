//! Claims of the Harvard deck.

use crate::Claim;

mod gaussian;
mod pde;
mod pf_ode;
mod real_data;
mod receptive_field;
mod teleportation;
mod tools;
mod trajectory;
mod tweedie;

mod adaln;
mod bound_sign;
mod conditioning;
mod connections;
mod discretisation;
mod elbo;
mod flow_matching;
mod likelihood;
mod objectives;
mod preconditioning;
mod solvers;
mod training;
mod vp;

/// Every claim file of the deck.
pub(super) const FILES: &[&[Claim]] = &[
    pde::CLAIMS,
    tweedie::CLAIMS,
    pf_ode::CLAIMS,
    gaussian::CLAIMS,
    trajectory::CLAIMS,
    real_data::CLAIMS,
    teleportation::CLAIMS,
    receptive_field::CLAIMS,
    vp::CLAIMS,
    objectives::CLAIMS,
    flow_matching::CLAIMS,
    connections::CLAIMS,
    elbo::CLAIMS,
    bound_sign::CLAIMS,
    discretisation::CLAIMS,
    likelihood::CLAIMS,
    conditioning::CLAIMS,
    preconditioning::CLAIMS,
    training::CLAIMS,
    solvers::CLAIMS,
    adaln::CLAIMS,
];
