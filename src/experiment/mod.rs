//! What the experiments of the report compute, as plain numbers: no file, no clock, no drawing. Layer L5.

pub mod digits_theory;

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

/// A number held to what it should be.
#[derive(Clone, Debug, Serialize)]
pub struct Evidence {
    /// What was measured.
    pub what: String,
    /// The number.
    pub got: f64,
    /// What it should be.
    pub want: f64,
    /// How far it may be off.
    pub tol: f64,
}

impl Evidence {
    /// `got` should be within `tol` of `want`.
    pub fn new(what: impl ToString, got: f64, want: f64, tol: f64) -> Self {
        Self { what: what.to_string(), got, want, tol }
    }

    /// Whether it is; NaN never holds.
    pub fn holds(&self) -> bool {
        (self.got - self.want).abs() <= self.tol
    }
}

#[cfg(test)]
mod tests {
    use super::Evidence;

    #[test]
    fn evidence_holds_up_to_its_tolerance_and_never_for_nan() {
        assert!(Evidence::new("", 1.0, 1.5, 0.5).holds());
        assert!(!Evidence::new("", 1.0, 1.5, 0.49).holds());
        assert!(!Evidence::new("", f64::NAN, 1.0, f64::INFINITY).holds());
    }
}
