//! The reference's tests against numbers and methods from elsewhere, one binary: linking is what
//! they cost.

mod accuracy;
mod sampler_mutants;
mod samplers;
