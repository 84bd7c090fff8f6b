//! `scheduler_config.json` of a diffusers pipeline: where its sampler steps, what its model
//! predicts and is told.

use super::config::UNetConfig;
use super::pipeline::{Input, Setup, Time};
use serde::Deserialize;
use serde_json::{Value, json};
use std::path::{Path as FilePath, PathBuf};
use tweedie::diffusion::prediction::{Prediction, SIGMA_DATA};
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::{Error, Result};
use tweedie::input;
use tweedie::sample::grid::{Grid, Spacing, shifted};

/// What a folder says, before flags override it.
pub struct Setting {
    /// The sampler that the scheduler is.
    pub sampler: &'static str,
    pub path: Path,
    /// All but the number of steps.
    pub grid: Grid,
    pub prediction: Prediction,
    /// [`Spacing::Leading`] and [`Spacing::Linspace`] are those of one step more, without its last.
    pub one_more: bool,
    /// End at the table's first row instead of the data.
    pub ends_noisy: bool,
    /// The shift depends on an image's size: it has to be given.
    pub dynamic_shift: bool,
    /// Bound that a network's x0 is clipped to.
    pub clip: Option<f64>,
}

/// The fields that decide something here. What is not named (dynamic thresholding, solver details)
/// belongs to the sampler.
#[derive(Deserialize)]
struct Text {
    _class_name: String,
    beta_schedule: Option<String>,
    beta_start: Option<f64>,
    beta_end: Option<f64>,
    trained_betas: Option<Vec<f64>>,
    num_train_timesteps: Option<usize>,
    #[serde(default)]
    rescale_betas_zero_snr: bool,
    timestep_spacing: Option<String>,
    #[serde(default)]
    steps_offset: usize,
    set_alpha_to_one: Option<bool>,
    final_sigmas_type: Option<String>,
    prediction_type: Option<String>,
    #[serde(default)]
    use_karras_sigmas: bool,
    #[serde(default)]
    use_exponential_sigmas: bool,
    #[serde(default)]
    use_lu_lambdas: bool,
    #[serde(default)]
    use_beta_sigmas: bool,
    #[serde(default)]
    use_flow_sigmas: bool,
    flow_shift: Option<f64>,
    shift: Option<f64>,
    #[serde(default)]
    use_dynamic_shifting: bool,
    sigma_min: Option<f64>,
    sigma_max: Option<f64>,
    sigma_schedule: Option<String>,
    rho: Option<f64>,
    beta_min: Option<f64>,
    beta_max: Option<f64>,
    sigma_data: Option<f64>,
    timestep_type: Option<String>,
    clip_sample: Option<bool>,
    clip_sample_range: Option<f64>,
}

/// On what a scheduler's levels lie.
#[derive(Clone, Copy, PartialEq)]
enum Levels {
    /// A table of betas: default spacing, default betas.
    Betas(Spacing, (f64, f64)),
    Flow,
    Edm,
    ScoreVp,
    ScoreVe,
}

const DDPM: (f64, f64) = (1e-4, 0.02);
const STABLE: (f64, f64) = (0.00085, 0.012);

/// Schedulers known, the sampler each of them is, and the defaults that its config may leave out.
const CLASSES: &[(&str, &str, Levels)] = &[
    ("DDPMScheduler", "ddpm", Levels::Betas(Spacing::Leading, DDPM)),
    ("DDIMScheduler", "ddim", Levels::Betas(Spacing::Leading, DDPM)),
    ("PNDMScheduler", "plms", Levels::Betas(Spacing::Leading, DDPM)),
    ("EulerDiscreteScheduler", "euler", Levels::Betas(Spacing::Linspace, DDPM)),
    ("EulerAncestralDiscreteScheduler", "euler-ancestral", Levels::Betas(Spacing::Linspace, DDPM)),
    ("LMSDiscreteScheduler", "lms", Levels::Betas(Spacing::Linspace, DDPM)),
    ("HeunDiscreteScheduler", "heun", Levels::Betas(Spacing::Linspace, STABLE)),
    ("KDPM2DiscreteScheduler", "dpm-2", Levels::Betas(Spacing::Linspace, STABLE)),
    (
        "KDPM2AncestralDiscreteScheduler",
        "dpm-2-ancestral",
        Levels::Betas(Spacing::Linspace, STABLE),
    ),
    ("DPMSolverSinglestepScheduler", "dpmpp-2s", Levels::Betas(Spacing::Linspace, DDPM)),
    ("DPMSolverMultistepScheduler", "dpmpp-2m", Levels::Betas(Spacing::Linspace, DDPM)),
    ("DPMSolverSDEScheduler", "dpmpp-sde", Levels::Betas(Spacing::Linspace, STABLE)),
    ("UniPCMultistepScheduler", "unipc", Levels::Betas(Spacing::Linspace, DDPM)),
    ("DEISMultistepScheduler", "deis", Levels::Betas(Spacing::Linspace, DDPM)),
    ("FlowMatchEulerDiscreteScheduler", "fm-euler", Levels::Flow),
    ("FlowMatchHeunDiscreteScheduler", "fm-heun", Levels::Flow),
    ("EDMEulerScheduler", "euler", Levels::Edm),
    ("EDMDPMSolverMultistepScheduler", "dpmpp-2m", Levels::Edm),
    ("ScoreSdeVpScheduler", "em", Levels::ScoreVp),
    ("ScoreSdeVeScheduler", "pc", Levels::ScoreVe),
];

/// The setting of a pipeline folder, or of the folder that holds the config itself.
///
/// # Errors
/// A file that is missing or no config; a scheduler or a setting that has no counterpart here.
pub fn read(folder: &FilePath) -> Result<Setting> {
    Config::open(folder)?.setting()
}

/// What the network beside a folder's scheduler is shown and says.
///
/// # Errors
/// As [`read`]; a scheduler that does not tell the network's time; a network without `sample_size`.
pub fn setup(folder: &FilePath, network: &UNetConfig) -> Result<Setup> {
    let scheduler = Config::open(folder)?;
    let Setting { path, prediction, .. } = scheduler.setting()?;
    let (input, time) = scheduler.input_and_time()?;
    let (height, width) = network.sample_shape().ok_or_else(|| {
        Error::domain(
            "U-Net config `sample_size`",
            "null",
            "a size, which the states have",
            "add sample_size to config.json",
        )
    })?;
    let shape = (network.in_channels, height, width);
    Setup {
        path,
        prediction,
        sigma_data: scheduler.text.sigma_data.unwrap_or(SIGMA_DATA),
        input,
        time,
        shape,
        null_class: None,
    }
    .validated()
}

/// A scheduler of diffusers, written down.
pub struct Written {
    /// `scheduler_config.json`.
    pub config: Value,
    /// `model_index.json`, where diffusers' `DDPMPipeline` samples the model as it is.
    pub model_index: Option<Value>,
}

/// The scheduler of diffusers that means the same as a setup, if there is one.
pub fn of(setup: &Setup, network: &UNetConfig) -> Option<Written> {
    let (class, mut config) = match (&setup.path, setup.time, setup.input) {
        (Path::Discrete(table), Time::Step, Input::State) => {
            let prediction = match setup.prediction {
                Prediction::Eps => "epsilon",
                Prediction::X0 => "sample",
                Prediction::V => "v_prediction",
                _ => return None,
            };
            let mut config = match table.origin().map(|(schedule, _)| schedule) {
                None => {
                    json!({"trained_betas": table.rows().iter().map(|row| row.beta).collect::<Vec<_>>()})
                }
                Some(Schedule::COSINE) => json!({"beta_schedule": "squaredcos_cap_v2"}),
                Some(Schedule::Cosine { .. }) => return None,
                Some(Schedule::Linear { beta_start, beta_end }) => {
                    json!({"beta_schedule": "linear", "beta_start": beta_start, "beta_end": beta_end})
                }
                Some(Schedule::ScaledLinear { beta_start, beta_end }) => {
                    json!({"beta_schedule": "scaled_linear", "beta_start": beta_start, "beta_end": beta_end})
                }
                Some(Schedule::Sigmoid { beta_start, beta_end }) => {
                    json!({"beta_schedule": "sigmoid", "beta_start": beta_start, "beta_end": beta_end})
                }
            };
            config["num_train_timesteps"] = table.steps().into();
            config["rescale_betas_zero_snr"] =
                table.origin().is_some_and(|(_, rescaled)| rescaled).into();
            config["prediction_type"] = prediction.into();
            // Clipping is the scheduler's default and no part of the model.
            config["clip_sample"] = false.into();
            ("DDPMScheduler", config)
        }
        (Path::FlowMatching, Time::Scaled(steps), Input::State)
            if setup.prediction == Prediction::Velocity && steps.fract() == 0.0 && steps < 1e7 =>
        {
            (
                "FlowMatchEulerDiscreteScheduler",
                json!({"num_train_timesteps": steps as u64, "shift": 1.0}),
            )
        }
        (Path::Edm { sigma_max }, Time::CNoise(1.0), Input::UnitVariance)
            if setup.prediction == Prediction::F =>
        {
            let config = json!({"sigma_min": 0.002, "sigma_max": sigma_max, "sigma_data": setup.sigma_data, "prediction_type": "epsilon"});
            ("EDMEulerScheduler", config)
        }
        _ => return None,
    };
    config["_class_name"] = class.into();
    // The pipeline shows the network the state as it is and no class.
    let plain = setup.input == Input::State && network.num_class_embeds.is_none();
    let model_index = plain
        .then(|| json!({"_class_name": "DDPMPipeline", "scheduler": ["diffusers", class], "unet": ["diffusers", "UNet2DModel"]}));
    Some(Written { config, model_index })
}

fn refused(file: &FilePath, what: &str, got: &str, allowed: impl std::fmt::Display) -> Error {
    Error::file(
        file,
        format!("{what} '{got}', allowed: {allowed}"),
        "choose flags of 'tweedie sample' instead of --model",
    )
}

/// A scheduler's config with what its class is here.
struct Config {
    file: PathBuf,
    text: Text,
    sampler: &'static str,
    levels: Levels,
}

/// The config of a pipeline folder's scheduler, or the one in the folder itself.
fn file_in(folder: &FilePath) -> PathBuf {
    const NAME: &str = "scheduler_config.json";
    let inside = folder.join("scheduler").join(NAME);
    if inside.exists() || !folder.join(NAME).exists() { inside } else { folder.join(NAME) }
}

/// The text with `null` for the numbers that Python writes and JSON does not have: `Infinity`,
/// `-Infinity`, `NaN`.
///
/// Saved configs of diffusers' DPM-Solver hold one (`lambda_min_clipped`); nothing that is read
/// here may be one.
fn without_infinities(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for (i, part) in text.split('"').enumerate() {
        if i > 0 {
            out.push('"');
        }
        // Strings are the odd parts: no key or name of a scheduler holds a quotation mark.
        match i % 2 {
            0 => {
                out += &part
                    .replace("-Infinity", "null")
                    .replace("Infinity", "null")
                    .replace("NaN", "null")
            }
            _ => out += part,
        }
    }
    out
}

/// Whether a folder has a scheduler's config.
pub fn is_in(folder: &FilePath) -> bool {
    file_in(folder).is_file()
}

impl Config {
    fn open(folder: &FilePath) -> Result<Self> {
        let file = file_in(folder);
        let text = input::settings(
            &file,
            "pass a diffusers pipeline folder, or choose --path or --schedule yourself",
        )?;
        let text = without_infinities(&text);
        // Keys that are not read may not stand twice either: nobody can say which was meant.
        let text: Text = input::unique_keys(text.as_bytes())
            .and_then(|()| serde_json::from_str(&text))
            .map_err(|e| {
                Error::file(
                    &file,
                    format!("is no scheduler config: {e}"),
                    "save it again with save_pretrained",
                )
            })?;
        /// Rows of a table at most: diffusers' have 1000, and each is computed in double-double.
        const ROWS: usize = 100_000;
        let rows = text
            .num_train_timesteps
            .unwrap_or(0)
            .max(text.steps_offset)
            .max(text.trained_betas.as_ref().map_or(0, Vec::len));
        if rows > ROWS {
            return Err(refused(
                &file,
                "num_train_timesteps, steps_offset or trained_betas",
                &rows.to_string(),
                format!("at most {ROWS}"),
            ));
        }
        let Some(&(_, sampler, levels)) = CLASSES.iter().find(|c| c.0 == text._class_name) else {
            let names = CLASSES.iter().map(|c| c.0).collect::<Vec<_>>().join(", ");
            return Err(refused(&file, "_class_name", &text._class_name, names));
        };
        // DPM-Solver and its kin can be told to run on flow matching's levels.
        let levels = if text.use_flow_sigmas { Levels::Flow } else { levels };
        Ok(Config { file, text, sampler, levels })
    }

    /// What diffusers' pipelines give the network with this scheduler.
    fn input_and_time(&self) -> Result<(Input, Time)> {
        let text = &self.text;
        Ok(match self.levels {
            Levels::Flow => {
                (Input::State, Time::Scaled(text.num_train_timesteps.unwrap_or(1000) as f64))
            }
            Levels::Edm => (Input::UnitVariance, Time::CNoise(1.0)),
            Levels::ScoreVe => (Input::State, Time::Sigma(1.0)),
            Levels::Betas(..) => {
                match (text.timestep_type.as_deref(), text.prediction_type.as_deref()) {
                    (Some("continuous"), Some("v_prediction")) => (Input::State, Time::CNoise(1.0)),
                    _ => (Input::State, Time::Step),
                }
            }
            Levels::ScoreVp => {
                let allowed = "a scheduler that says what time its network is told";
                return Err(self.refused("_class_name", &text._class_name, allowed));
            }
        })
    }

    fn refused(&self, what: &str, got: &str, allowed: impl std::fmt::Display) -> Error {
        refused(&self.file, what, got, allowed)
    }

    fn setting(&self) -> Result<Setting> {
        let text = &self.text;
        let (sampler, levels) = (self.sampler, self.levels);
        let path = self.path()?;
        // The range of a trained table: its rows, from the last to the first.
        let total = text.num_train_timesteps.unwrap_or(1000).max(2);
        let first = match &path {
            Path::Discrete(table) => table.row(1).map(|r| r.sigma / r.alpha)?,
            _ => 1.0 / (total as f64 - 1.0),
        };
        let everything =
            Grid { s_max: f64::INFINITY, s_min: first, ..Grid::new(self.spacing()?, 1) };
        let grid = match levels {
            Levels::Flow => {
                let shift = text.flow_shift.or(text.shift).unwrap_or(1.0);
                // The class shifts its table of `total` times, and then again the points between
                // the table's ends.
                let last = if text.use_dynamic_shifting {
                    1.0 / total as f64
                } else {
                    shifted(1.0 / total as f64, shift)
                };
                Grid { shift, s_min: last / (1.0 - last), ..everything }
            }
            Levels::Edm => {
                let (s_max, s_min) =
                    (text.sigma_max.unwrap_or(80.0), text.sigma_min.unwrap_or(0.002));
                Grid { s_max, s_min, rho: text.rho.unwrap_or(7.0), ..everything }
            }
            Levels::ScoreVp | Levels::ScoreVe => {
                Grid { s_min: text.sigma_min.unwrap_or(0.01), ..everything }
            }
            _ => Grid { offset: text.steps_offset, ..everything },
        };
        let ends_noisy = match (text._class_name.as_str(), text.set_alpha_to_one) {
            ("PNDMScheduler", to_one) => !to_one.unwrap_or(false),
            ("DDIMScheduler", to_one) => !to_one.unwrap_or(true),
            _ => text.final_sigmas_type.as_deref() == Some("sigma_min"),
        };
        let prediction = self.prediction()?;
        // Two of the classes clip unless they are told not to.
        let clips = text
            .clip_sample
            .unwrap_or(matches!(text._class_name.as_str(), "DDPMScheduler" | "DDIMScheduler"));
        let clip = clips.then(|| text.clip_sample_range.unwrap_or(1.0));
        let one_more = matches!(sampler, "dpmpp-2m" | "dpmpp-2s" | "unipc" | "deis")
            && matches!(levels, Levels::Betas(..));
        Ok(Setting {
            sampler,
            path,
            grid,
            prediction,
            one_more,
            ends_noisy,
            dynamic_shift: text.use_dynamic_shifting,
            clip,
        })
    }

    fn path(&self) -> Result<Path> {
        let text = &self.text;
        let betas = match self.levels {
            Levels::Flow => return Ok(Path::FlowMatching),
            Levels::Edm => {
                return Path::Edm { sigma_max: text.sigma_max.unwrap_or(80.0) }.validated();
            }
            Levels::ScoreVp => {
                return Path::Vp {
                    beta_min: text.beta_min.unwrap_or(0.1),
                    beta_max: text.beta_max.unwrap_or(20.0),
                }
                .validated();
            }
            Levels::ScoreVe => {
                return Path::Ve {
                    sigma_min: text.sigma_min.unwrap_or(0.01),
                    sigma_max: text.sigma_max.unwrap_or(1348.0),
                }
                .validated();
            }
            Levels::Betas(_, betas) => betas,
        };
        if let Some(betas) = &text.trained_betas {
            return Ok(Path::Discrete(Table::from_betas(betas)?));
        }
        let (beta_start, beta_end) =
            (text.beta_start.unwrap_or(betas.0), text.beta_end.unwrap_or(betas.1));
        let schedule = match text.beta_schedule.as_deref().unwrap_or("linear") {
            "linear" => Schedule::Linear { beta_start, beta_end },
            "scaled_linear" => Schedule::ScaledLinear { beta_start, beta_end },
            "squaredcos_cap_v2" => Schedule::COSINE,
            "sigmoid" => Schedule::Sigmoid { beta_start, beta_end },
            name => {
                return Err(self.refused(
                    "beta_schedule",
                    name,
                    "linear, scaled_linear, squaredcos_cap_v2, sigmoid",
                ));
            }
        };
        Ok(Path::Discrete(Table::new(
            schedule,
            text.num_train_timesteps.unwrap_or(1000),
            text.rescale_betas_zero_snr,
        )?))
    }

    fn spacing(&self) -> Result<Spacing> {
        let text = &self.text;
        let of_betas = match self.levels {
            _ if text.use_karras_sigmas => return Ok(Spacing::Karras),
            // Even in ln(sigma / alpha) is even in log-SNR.
            _ if text.use_exponential_sigmas || text.use_lu_lambdas => return Ok(Spacing::LogSnr),
            _ if text.use_beta_sigmas => return Ok(Spacing::Beta),
            Levels::Betas(spacing, _) => spacing,
            Levels::Edm => {
                return match text.sigma_schedule.as_deref() {
                    None | Some("karras") => Ok(Spacing::Karras),
                    Some("exponential") => Ok(Spacing::LogSnr),
                    Some(name) => Err(self.refused("sigma_schedule", name, "karras, exponential")),
                };
            }
            _ => return Ok(Spacing::Uniform),
        };
        match text.timestep_spacing.as_deref() {
            None => Ok(of_betas),
            Some("leading") => Ok(Spacing::Leading),
            Some("trailing") => Ok(Spacing::Trailing),
            Some("linspace") => Ok(Spacing::Linspace),
            Some(name) => {
                Err(self.refused("timestep_spacing", name, "leading, trailing, linspace"))
            }
        }
    }

    fn prediction(&self) -> Result<Prediction> {
        match (self.text.prediction_type.as_deref(), self.levels) {
            (None | Some("flow_prediction"), Levels::Flow) => Ok(Prediction::Velocity),
            (None, Levels::ScoreVp | Levels::ScoreVe) => Ok(Prediction::Score),
            // EDM's schedulers call the preconditioned network's output epsilon.
            (None | Some("epsilon"), Levels::Edm) => Ok(Prediction::F),
            (None | Some("epsilon"), _) => Ok(Prediction::Eps),
            (Some("sample"), _) => Ok(Prediction::X0),
            (Some("v_prediction"), Levels::Betas(..)) => Ok(Prediction::V),
            (Some(name), _) => Err(self.refused(
                "prediction_type",
                name,
                "epsilon, sample, v_prediction, flow_prediction on flow levels",
            )),
        }
    }
}

impl Setting {
    /// The points of so many steps, the last one where the folder says.
    ///
    /// # Errors
    /// As [`Grid::points`].
    pub fn points(&self) -> Result<Vec<PathPoint>> {
        let one_more =
            self.one_more && matches!(self.grid.spacing, Spacing::Leading | Spacing::Linspace);
        let mut points = Grid { steps: self.grid.steps + usize::from(one_more), ..self.grid }
            .points(&self.path)?;
        if one_more {
            points.remove(points.len() - 2);
        }
        if let (true, Path::Discrete(table)) = (self.ends_noisy, &self.path) {
            let first = table.row(1)?;
            points.pop();
            // Where the last step starts from the first row it would go nowhere: it is left out.
            if points.len() == 1 || points[points.len() - 1].sigma > first.sigma {
                points.push(PathPoint {
                    alpha: first.alpha,
                    sigma: first.sigma,
                    ..self.path.at(1.0 / table.steps() as f64)?
                });
            }
        }
        tweedie::sample::grid::checked(&points)?;
        Ok(points)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The grid of a config, as sigmas of the state.
    fn sigmas(config: &str, steps: usize) -> Vec<f64> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("scheduler_config.json"), config).unwrap();
        let mut setting = read(dir.path()).unwrap();
        setting.grid.steps = steps;
        setting.points().unwrap().iter().map(|p| p.sigma).collect()
    }

    /// Where diffusers 0.42.1 steps: `scheduler.timesteps` after `set_timesteps(5)`, as rows of the
    /// linear table.
    #[test]
    fn tables_are_stepped_through_as_each_class_does() {
        let table = Table::new(Schedule::LINEAR, 1000, false).unwrap();
        for (class, keys, timesteps) in [
            ("DDIMScheduler", "", [800, 600, 400, 200, 0]),
            ("DPMSolverMultistepScheduler", "", [999, 799, 599, 400, 200]),
            (
                "DPMSolverMultistepScheduler",
                r#", "timestep_spacing": "leading", "steps_offset": 1"#,
                [831, 665, 499, 333, 167],
            ),
            ("UniPCMultistepScheduler", "", [999, 799, 599, 400, 200]),
            (
                "DEISMultistepScheduler",
                r#", "timestep_spacing": "leading""#,
                [830, 664, 498, 332, 166],
            ),
            (
                "DPMSolverMultistepScheduler",
                r#", "timestep_spacing": "trailing""#,
                [999, 799, 599, 399, 199],
            ),
            (
                "EulerDiscreteScheduler",
                r#", "timestep_spacing": "trailing""#,
                [999, 799, 599, 399, 199],
            ),
            ("PNDMScheduler", r#", "set_alpha_to_one": true"#, [800, 600, 400, 200, 0]),
        ] {
            let config =
                format!(r#"{{"_class_name": "{class}", "lambda_min_clipped": -Infinity{keys}}}"#);
            let want: Vec<f64> =
                timesteps.iter().map(|t| table.row(t + 1).unwrap().sigma).chain([0.0]).collect();
            assert_eq!(sigmas(&config, 5), want, "{config}");
        }
        // Its sigmas, in f32: the table's last is 0.001 shifted to 0.00299, and shifted again with
        // the rest.
        let sigmas =
            sigmas(r#"{"_class_name": "FlowMatchEulerDiscreteScheduler", "shift": 3.0}"#, 4);
        let want = [1.0, 0.857_692_3, 0.602_150_56, 0.008_928_572, 0.0];
        assert!(sigmas.iter().zip(want).all(|(s, w)| (s - w).abs() <= 1e-6), "{sigmas:?}");
    }
}
