//! Closed-form solutions: what a perfect sampler, student, guide or likelihood would give.
//!
//! Almost everything here is diagonal in the eigenbasis of the data covariance: each file states a
//! scalar formula for one mode of variance `lambda`, and applies it to a
//! [`Gaussian`](crate::law::Gaussian) mode by mode. Laws without closed forms go through the
//! reference integrator of [`pf_ode`].
//!
//! | module | question it answers |
//! |---|---|
//! | [`gains`] | how far does the PF-ODE move one mode, and its denoiser? |
//! | [`pf_ode`] | where does a perfect deterministic sampler take this state? |
//! | [`reverse_sde`] | which law does a perfect stochastic sampler produce, for every churn? |
//! | [`teleport`] | how much of the way can be skipped by pretending that the data are Gaussian? |
//! | [`receptive_field`] | which pixels does the linear denoiser read? |
//! | [`emergence`] | at which noise level does each principal component appear? |
//! | [`chain`] | which law do linear Gaussian steps make, one after the other? |
//! | [`consistency`], [`student`] | what should a consistency model, a k-step student, give? |
//! | [`flow`], [`reflow`] | is the flow the optimal transport, and how straight is it? |
//! | [`distance`] | how far apart are two Gaussian laws? |
//! | [`guidance`] | which law does guidance sample, and is it the tilted law? |
//! | [`langevin`] | which law does a Langevin chain of finite steps sample? |
//! | [`likelihood`] | what is the log-likelihood by change of variables? |
//! | [`low_rank`] | what does a bottleneck cost each prediction target? |
//! | [`averaging`] | what does an average of the weights leave of their noise? |
//! | [`mismatch`] | what does the Wiener filter of one law cost on data of another? |
//! | [`rate_distortion`] | how few nats say where a draw lies, up to an error? |
//! | [`vae`] | what can a linear-Gaussian autoencoder reach? |

pub mod averaging;
pub mod chain;
pub mod consistency;
pub mod distance;
pub mod emergence;
pub mod flow;
pub mod gains;
pub mod guidance;
mod integrate;
pub mod langevin;
pub mod likelihood;
pub mod low_rank;
pub mod mismatch;
pub mod pf_ode;
pub mod rate_distortion;
pub mod receptive_field;
pub mod reflow;
pub mod reverse_sde;
mod shared_modes;
pub mod student;
pub mod teleport;
#[cfg(test)]
mod testing;
pub mod vae;
