//! What the experiments of the report compute, as plain numbers: no file, no clock, no drawing.

pub mod claims;
pub mod digits_theory;
pub mod digits_unet;
pub mod equivalence;
pub mod grf;
pub mod samplers;

use crate::diffusion::{Denoiser, PathPoint};
use crate::error::{Error, Result};
use ndarray::Array2;
use serde::de::DeserializeOwned;
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

impl Profile {
    /// What belongs to it.
    pub fn of<T>(self, quick: T, full: T) -> T {
        match self {
            Profile::Quick => quick,
            Profile::Full => full,
        }
    }
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

/// An experiment's settings, from the text of its file in `experiments/`.
fn parsed<S: DeserializeOwned>(file: &str, text: &str) -> Result<S> {
    toml::from_str(text).map_err(|e| unlike(file, e.to_string()))
}

/// The settings, if they keep every rule.
fn keeping<S>(file: &str, settings: S, rules: &[(bool, &str)]) -> Result<S> {
    match rules.iter().find(|r| !r.0) {
        None => Ok(settings),
        Some((_, rule)) => Err(unlike(file, (*rule).into())),
    }
}

fn unlike(file: &str, problem: String) -> Error {
    Error::file(format!("experiments/{file}"), problem, "compare it with the file in the repository")
}

/// `n` noise levels in equal ratios, both ends included.
fn geometric(from: f64, to: f64, n: usize) -> Vec<f64> {
    (0..n).map(|k| from * (to / from).powf(k as f64 / (n - 1) as f64)).collect()
}

/// Point of the unscaled path: `alpha = 1`.
fn level(sigma: f64) -> PathPoint {
    PathPoint::still(1.0, sigma)
}

/// Sum of squares.
fn energy(x: &Array2<f64>) -> f64 {
    x.iter().map(|v| v * v).sum()
}

/// What a denoiser makes of each row.
fn denoised(model: &dyn Denoiser, x: &Array2<f64>, at: &PathPoint) -> Array2<f64> {
    let mut out = Array2::zeros(x.raw_dim());
    model.denoise(x.view(), at, out.view_mut());
    out
}

#[cfg(test)]
mod testing {
    use crate::error::Result;

    /// A settings file is read as it stands, and refused with each of some (text, what it becomes, complaint).
    pub fn assert_strict<S>(parse: impl Fn(&str) -> Result<S>, file: &str, cases: &[(&str, &str, &str)]) {
        assert!(parse(file).is_ok());
        for (from, to, complaint) in cases {
            assert!(file.contains(from), "{from}");
            let message = parse(&file.replacen(from, to, 1)).err().expect("a refusal").to_string();
            assert!(message.contains(complaint), "{message}");
        }
    }
}
