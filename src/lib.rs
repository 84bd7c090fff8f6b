//! The exact answers for diffusion models, and a bench that holds any implementation to them.
//!
//! # The crate's map
//!
#![doc = include_str!("../ARCHITECTURE.md")]

pub mod error;
pub mod evidence;

pub mod math;

pub mod data;
pub mod device;
pub mod file;

pub mod diffusion;

pub mod law;

pub mod exact;

pub mod sample;

pub mod nn;

pub mod train;

pub mod claims;

pub mod experiment;

pub mod report;

pub mod cli;

pub use error::{Error, Result};

/// The README's example is a test.
#[cfg(doctest)]
#[doc = include_str!("../README.md")]
struct Readme;
