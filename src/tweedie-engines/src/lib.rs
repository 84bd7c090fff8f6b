#![doc = include_str!("../README.md")]

pub mod fft;

#[cfg(feature = "fast")]
pub mod eigen;
#[cfg(feature = "fast")]
pub mod polar;
#[cfg(feature = "fast")]
pub mod product;
