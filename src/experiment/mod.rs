//! What the experiments of the report compute, as plain numbers: no file, no clock, no drawing.

pub mod claims;
pub mod digits_theory;
pub mod samplers;

use serde::{Deserialize, Serialize};

/// How much an experiment computes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub enum Profile {
    /// Enough to see everything.
    Quick,
    /// Finer grids and more draws.
    Full,
}

impl std::fmt::Display for Profile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Profile::Quick => "quick",
            Profile::Full => "full",
        })
    }
}

/// What an experiment is given.
pub struct Context<'a> {
    /// How much to compute.
    pub profile: Profile,
    /// Seed of every random draw.
    pub seed: u64,
    /// Told (steps done, steps in all, what comes next).
    pub progress: &'a (dyn Fn(usize, usize, &str) + Sync),
}
