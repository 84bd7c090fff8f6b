//! The integration tests, one binary: linking is what they cost.

mod bad_input;
mod certificates;
mod claims;
mod cli;
mod compare;
mod gpu;
mod layers;
mod model_cli;
mod networks;
mod page;
mod sampler_cli;
mod schedulers;
mod training;
