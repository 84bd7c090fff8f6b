#![doc = include_str!("../README.md")]

pub mod choice;
pub mod error;
pub mod evidence;
pub mod number;
pub mod room;

pub mod input;
pub mod npy;

pub mod math;

pub mod diffusion;

pub mod law;

pub mod exact;

pub mod sample;

pub mod law_file;
pub mod recording;

pub use error::{Error, Result};

/// The README of the whole project has an example, which is a test.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
