//! The network: a U-Net as a static list of operations, and the executors that run it forward and backward.
//!
//! `config` is diffusers' `config.json`; `unet` turns it into a `program`; `cpu` runs the program in f32 or f64; `checkpoint` reads and
//! writes diffusers' folders; `adamw` takes a step.

pub mod adamw;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod element;
pub mod gather;
pub mod layout;
pub mod op;
pub mod program;
pub mod unet;
