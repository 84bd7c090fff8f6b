//! The integration tests, one binary: linking is what they cost.

mod accuracy;
mod claims;
mod cli;
mod layers;
mod samplers;
mod schedulers;
