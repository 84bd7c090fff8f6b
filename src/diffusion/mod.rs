//! The diffusion process itself, for any data: noise schedules and paths, kernels, predictions, weightings, the ELBO.
//!
//! Everything a formula needs of a schedule at one time is a [`PathPoint`]: VP, VE, EDM, cosine, flow matching and the discrete
//! DDPM tables differ only in how they make one.

pub mod decoder;
pub mod denoiser;
pub mod elbo;
pub mod kernel;
pub mod level;
pub mod loss;
pub mod path;
pub mod preconditioning;
pub mod prediction;
pub mod reparametrise;
pub mod schedule;
pub mod sde;
pub mod weighting;

pub use denoiser::Denoiser;
pub use path::{Path, PathPoint};
