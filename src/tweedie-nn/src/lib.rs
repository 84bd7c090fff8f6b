//! The network: a U-Net as a static list of operations, the executors that run it forward and
//! backward, and the denoiser that it is.
//!
//! `config` is diffusers' `config.json`; `unet` turns it into a `program`; `cpu` runs the program
//! in f32 or f64, `cuda` on a GPU, `executor` on whichever it is; `checkpoint` reads and writes its
//! weights; `pipeline` is a model folder, with what its output means and when (`Setup`); `denoiser`
//! makes one `E[x0 | x_t]` on any path; `adamw` takes a step.

pub mod adamw;
pub mod bundled;
pub mod checkpoint;
pub mod config;
pub mod cpu;
pub mod cuda;
pub mod data;
pub mod denoiser;
pub mod element;
pub mod executor;
pub mod gather;
pub mod layout;
pub mod op;
pub mod pipeline;
pub mod program;
pub mod scheduler_config;
mod tile;
pub mod train;
pub mod unet;
