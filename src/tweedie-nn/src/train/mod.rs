//! Training: from a recipe to a denoiser.
//!
//! | module | what |
//! |---|---|
//! | [`settings`] | the recipe, read strictly |
//! | [`loader`] | clean images and the draws that noise them, a pure function of (seed, step) |
//! | [`times`] | which noise levels are drawn |
//! | [`objective`] | what the network is shown, what it should have said, what its error costs |
//! | [`trainer`] | one step: forward, loss, backward, AdamW, averages |
//! | [`parallel`] | several processes, each with its rows of every batch |
//! | [`ema`], [`learning_rate`], [`initial`] | averages of the weights, the rate over a run, the weights it begins with |
//! | [`watched`] | a whole training, looked at on the way, that goes on where it was stopped |
//! | [`validation`] | the loss by noise level, beside the least there can be |
//! | [`samples`] | samples on the way |
//! | [`checkpoint`] | a run on disk: saved whole or not at all, resumed to the bit |

pub mod checkpoint;
pub mod ema;
pub mod initial;
pub mod learning_rate;
pub mod loader;
pub mod objective;
mod on_device;
pub mod parallel;
pub mod samples;
pub mod settings;
pub mod times;
pub mod trainer;
pub mod validation;
pub mod watched;

pub use loader::Data;
pub use settings::Settings;
pub use trainer::{Step, Trainer};
