//! A model's folder: the network, its weights, and what the network's output means.
//!
//! | file | what |
//! |---|---|
//! | `unet/config.json` | the network, as diffusers has it |
//! | `unet/diffusion_pytorch_model.safetensors` | its weights, as diffusers has them |
//! | `tweedie.json` | the [`Setup`], exactly |
//! | `scheduler/scheduler_config.json`, `model_index.json` | the same for diffusers, where one of its schedulers means the same |

use super::checkpoint::{self, WEIGHTS};
use super::config::UNetConfig;
use super::denoiser::Network;
use super::element::Element;
use super::program::Program;
use super::scheduler_config;
use super::unet::unet;
use serde::{Deserialize, Serialize};
use std::path::{Path as FilePath, PathBuf};
use tweedie::diffusion::Path;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::prediction::Prediction;
use tweedie::error::{Error, Result, suggested};
use tweedie::input;
use tweedie_device::Place;
use tweedie_files as file;

/// The name of the [`Setup`] in a folder.
pub const SETUP: &str = "tweedie.json";

/// What makes a denoiser of a network: on which path it was trained, what it is shown, what it
/// says.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Setup {
    /// The path of its training.
    pub path: Path,
    /// What its output is.
    pub prediction: Prediction,
    /// Deviation of the data, for [`Prediction::F`] and [`Input::UnitVariance`].
    pub sigma_data: f64,
    /// How it is shown the state.
    pub input: Input,
    /// How it is told the time.
    pub time: Time,
    /// Channels, height and width (c, h, w) of a state.
    pub shape: (usize, usize, usize),
    /// The class that stands for none, where labels were dropped in training: by convention the
    /// last row of the class table.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub null_class: Option<usize>,
}

/// How a network is shown the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Input {
    /// `x_t` as it is.
    State,
    /// `x_t / sqrt(sigma^2 + alpha^2 sigma_data^2)`, EDM's `c_in y`.
    UnitVariance,
}

/// What a network is told of the time; each number here is a factor.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Time {
    /// The path's time in [0, 1]; flow matching's networks have 1000.
    Scaled(f64),
    /// The step of a discrete table, counted from 0 as diffusers counts: `t T - 1`.
    Step,
    /// EDM's `c_noise = ln(sigma / alpha) / 4`.
    CNoise(f64),
    /// `ln(alpha^2 / sigma^2)`.
    LogSnr(f64),
    /// `sigma / alpha`, for Fourier embeddings, which take its logarithm.
    Sigma(f64),
}

impl Setup {
    /// Checks the parts against each other.
    ///
    /// # Errors
    /// A factor, `sigma_data` or size that is no positive number; steps without a table.
    pub fn validated(self) -> Result<Self> {
        let refuse = |key: &str, got: String, allowed: &str, mend: &str| {
            Err(Error::domain(format!("model setting `{key}`"), got, allowed, mend))
        };
        let positive = |x: f64| x > 0.0 && x.is_finite();
        if !positive(self.sigma_data) {
            return refuse(
                "sigma_data",
                self.sigma_data.to_string(),
                "a positive number",
                "give the data's standard deviation",
            );
        }
        let (c, h, w) = self.shape;
        if c == 0 || h == 0 || w == 0 {
            return refuse(
                "shape",
                format!("{:?}", self.shape),
                "1 or more each",
                "give channels, height and width",
            );
        }
        match self.time {
            Time::Step if !matches!(self.path, Path::Discrete(_)) => refuse(
                "time",
                format!("step on the path {}", self.path.name()),
                "step on a discrete table",
                "use scaled",
            ),
            Time::Scaled(by) | Time::CNoise(by) | Time::LogSnr(by) | Time::Sigma(by)
                if !positive(by) =>
            {
                refuse("time", by.to_string(), "a positive factor", "1 tells the time as it is")
            }
            _ => Ok(self),
        }
    }

    /// The lowest and the highest `sigma / alpha` that the network was trained on: its path's, a
    /// table's from the first row on.
    ///
    /// # Errors
    /// None for a path that passed [`Path::validated`].
    pub fn range(&self) -> Result<(f64, f64)> {
        let first = match (&self.path, self.time) {
            (Path::Discrete(table), Time::Step) => 1.0 / table.steps() as f64,
            _ => 0.0,
        };
        Ok((self.path.still_at(first)?.edm_sigma(), self.path.still_at(1.0)?.edm_sigma()))
    }

    /// The time that the network is told at time `t` of [`Setup::path`], where the level is `at`.
    ///
    /// # Errors
    /// A point where it is infinite, or before a table's first step.
    pub fn time_at(&self, t: f64, at: Level) -> Result<f64> {
        let time = match (self.time, &self.path) {
            (Time::Scaled(by), _) => by * t,
            (Time::Step, Path::Discrete(table)) => {
                let step = t * table.steps() as f64 - 1.0;
                // A time that was found from a noise level is a whole step but for rounding.
                if (step - step.round()).abs() <= 1e-9 { step.round() } else { step }
            }
            (Time::Step, _) => f64::NAN,
            (Time::CNoise(by), _) => -by * at.log_snr() / 8.0,
            (Time::LogSnr(by), _) => by * at.log_snr(),
            (Time::Sigma(by), _) => by * at.edm_sigma(),
        };
        if self.time == Time::Step && time < 0.0 {
            let (got, allowed) = (format!("step {time}"), "steps from 0");
            return Err(Error::domain(
                "time of the network",
                got,
                allowed,
                "keep to noise levels from the table's first row on",
            ));
        }
        if time.is_finite() {
            return Ok(time);
        }
        let place = format!("t = {t}, alpha = {}, sigma = {}", at.alpha, at.sigma);
        Err(Error::singular(
            "time of the network",
            place,
            "it is infinite there",
            "stop short of this end of the path",
        ))
    }
}

/// A model's folder, opened: its weights are still to be read.
#[derive(Clone, Debug)]
pub struct Pipeline {
    /// The network.
    pub config: UNetConfig,
    /// What its output means.
    pub setup: Setup,
    /// The file of its weights.
    pub weights: PathBuf,
}

impl Pipeline {
    /// Opens a folder: a diffusers pipeline, or what [`write()`] wrote. The setup is read from
    /// `tweedie.json`, else from the scheduler's config.
    ///
    /// # Errors
    /// A folder without a network; a config or setup that is refused, or that does not fit the
    /// network.
    pub fn open(folder: &FilePath) -> Result<Self> {
        let (config, weights) = checkpoint::open(folder)?;
        let path = folder.join(SETUP);
        let setup = if path.is_file() {
            let bad = |problem: String| {
                Error::file(
                    &path,
                    problem,
                    "write it with this version of tweedie, or correct the key",
                )
            };
            let text = input::settings(&path, "write it with this version of tweedie")?;
            let setup: Setup = serde_json::from_str(&text)
                .map_err(|e| bad(format!("is no model setup: {}", suggested(e))))?;
            let setup = setup.validated()?;
            let ((c, h, w), channels) = (setup.shape, config.in_channels);
            let (height, width) = config.sample_shape().unwrap_or((h, w));
            if (c, h, w) != (channels, height, width) {
                return Err(bad(format!(
                    "`shape` is {c} x {h} x {w}, the network's config says {channels} x {height} x {width}"
                )));
            }
            setup
        } else {
            scheduler_config::setup(folder, &config)?
        };
        Ok(Self { config, setup, weights })
    }

    /// The network's operations.
    ///
    /// # Errors
    /// As [`unet()`].
    pub fn program(&self) -> Result<Program> {
        unet(&self.config, self.setup.shape.1, self.setup.shape.2)
    }

    /// The denoiser on a device, run on `batch` states at a time.
    ///
    /// # Errors
    /// As [`checkpoint::read`] and [`Network::placed`].
    pub fn network<T: Element>(&self, batch: usize, place: &Place) -> Result<Network<T>> {
        let program = self.program()?;
        let params = checkpoint::read::<T>(&self.weights, &program)?;
        Network::placed(program, &params, self.setup.clone(), batch, place)
    }
}

/// Writes a model's folder, which is made if it is missing. Every file is written aside and
/// renamed, `tweedie.json` last.
///
/// # Errors
/// A folder that cannot be written.
pub fn write<T: Element>(
    folder: &FilePath,
    config: &UNetConfig,
    setup: &Setup,
    program: &Program,
    params: &[T],
) -> Result<()> {
    let made = |folder: &FilePath| {
        std::fs::create_dir_all(folder).map_err(|e| {
            Error::file(
                folder,
                format!("cannot be made: {e}"),
                "choose a folder that may be written and has room",
            )
        })
    };
    let put = |name: &str, value: serde_json::Value| {
        let path = folder.join(name);
        made(path.parent().unwrap_or(folder))?;
        // Settings are maps of strings and numbers: they always have a text.
        file::write(&path, format!("{value:#}\n").as_bytes())
    };
    let config =
        UNetConfig { sample_size: Some((setup.shape.1, setup.shape.2).into()), ..config.clone() };
    put("unet/config.json", value(&config))?;
    file::write(&folder.join("unet").join(WEIGHTS), &checkpoint::to_bytes(params, program)?)?;
    if let Some(scheduler) = scheduler_config::of(setup, &config) {
        put("scheduler/scheduler_config.json", scheduler.config)?;
        if let Some(index) = scheduler.model_index {
            put("model_index.json", index)?;
        }
    }
    put(SETUP, value(setup))
}

fn value(x: &impl Serialize) -> serde_json::Value {
    serde_json::to_value(x).expect("structures of strings and numbers")
}
