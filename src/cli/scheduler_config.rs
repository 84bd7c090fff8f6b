//! `scheduler_config.json` of a diffusers pipeline: where its sampler steps, and what its model predicts.

use crate::diffusion::prediction::Prediction;
use crate::diffusion::schedule::{Schedule, Table};
use crate::diffusion::{Path, PathPoint};
use crate::error::{Error, Result};
use crate::sample::grid::{Grid, Spacing};
use serde::Deserialize;
use std::path::{Path as FilePath, PathBuf};

/// What a folder says, before flags override it.
pub struct Setting {
    /// The sampler that the scheduler is.
    pub sampler: &'static str,
    pub path: Path,
    /// All but the number of steps.
    pub grid: Grid,
    pub prediction: Prediction,
    /// End at the table's first row instead of the data.
    pub ends_noisy: bool,
    /// The shift depends on an image's size: it has to be given.
    pub dynamic_shift: bool,
}

/// The fields that decide something here. What is not named (clipping, thresholding, solver details) belongs to the sampler.
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
    ("KDPM2AncestralDiscreteScheduler", "dpm-2-ancestral", Levels::Betas(Spacing::Linspace, STABLE)),
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
    const NAME: &str = "scheduler_config.json";
    let inside = folder.join("scheduler").join(NAME);
    let file = if inside.exists() || !folder.join(NAME).exists() { inside } else { folder.join(NAME) };
    let text = std::fs::read_to_string(&file).map_err(|e| {
        Error::file(
            &file,
            format!("cannot be read: {e}"),
            "pass a diffusers pipeline folder, or choose --path or --schedule yourself",
        )
    })?;
    let text: Text = serde_json::from_str(&text)
        .map_err(|e| Error::file(&file, format!("is no scheduler config: {e}"), "save it again with save_pretrained"))?;
    Config { file, text }.setting()
}

struct Config {
    file: PathBuf,
    text: Text,
}

impl Config {
    fn refused(&self, what: &str, got: &str, allowed: impl std::fmt::Display) -> Error {
        Error::file(
            &self.file,
            format!("{what} '{got}', allowed: {allowed}"),
            "choose flags of 'tweedie sample' instead of --model",
        )
    }

    fn setting(&self) -> Result<Setting> {
        let text = &self.text;
        let Some(&(_, sampler, levels)) = CLASSES.iter().find(|c| c.0 == text._class_name) else {
            let names = CLASSES.iter().map(|c| c.0).collect::<Vec<_>>().join(", ");
            return Err(self.refused("_class_name", &text._class_name, names));
        };
        // DPM-Solver and its kin can be told to run on flow matching's levels.
        let flow = levels == Levels::Flow || text.use_flow_sigmas;
        let path = self.path(levels, flow)?;
        // The range of a trained table: its rows, from the last to the first.
        let total = text.num_train_timesteps.unwrap_or(1000);
        let first = match &path {
            Path::Discrete(table) => table.row(1).map(|r| r.sigma / r.alpha)?,
            _ => 1.0 / (total.max(2) as f64 - 1.0),
        };
        let everything = Grid { s_max: f64::INFINITY, s_min: first, ..Grid::new(self.spacing(levels, flow)?, 1) };
        let grid = match levels {
            _ if flow => Grid { shift: text.flow_shift.or(text.shift).unwrap_or(1.0), ..everything },
            Levels::Edm => {
                let (s_max, s_min) = (text.sigma_max.unwrap_or(80.0), text.sigma_min.unwrap_or(0.002));
                Grid { s_max, s_min, rho: text.rho.unwrap_or(7.0), ..everything }
            }
            Levels::ScoreVp | Levels::ScoreVe => Grid { s_min: text.sigma_min.unwrap_or(0.01), ..everything },
            _ => Grid { offset: text.steps_offset, ..everything },
        };
        let ends_noisy = match (text._class_name.as_str(), text.set_alpha_to_one) {
            ("PNDMScheduler", to_one) => !to_one.unwrap_or(false),
            ("DDIMScheduler", to_one) => !to_one.unwrap_or(true),
            _ => text.final_sigmas_type.as_deref() == Some("sigma_min"),
        };
        let prediction = self.prediction(levels, flow)?;
        Ok(Setting { sampler, path, grid, prediction, ends_noisy, dynamic_shift: text.use_dynamic_shifting })
    }

    fn path(&self, levels: Levels, flow: bool) -> Result<Path> {
        let text = &self.text;
        let betas = match levels {
            _ if flow => return Ok(Path::FlowMatching),
            Levels::Edm | Levels::Flow => return Path::Edm { sigma_max: text.sigma_max.unwrap_or(80.0) }.validated(),
            Levels::ScoreVp => {
                return Path::Vp { beta_min: text.beta_min.unwrap_or(0.1), beta_max: text.beta_max.unwrap_or(20.0) }.validated();
            }
            Levels::ScoreVe => {
                return Path::Ve { sigma_min: text.sigma_min.unwrap_or(0.01), sigma_max: text.sigma_max.unwrap_or(1348.0) }
                    .validated();
            }
            Levels::Betas(_, betas) => betas,
        };
        if let Some(betas) = &text.trained_betas {
            return Ok(Path::Discrete(Table::from_betas(betas)?));
        }
        let (beta_start, beta_end) = (text.beta_start.unwrap_or(betas.0), text.beta_end.unwrap_or(betas.1));
        let schedule = match text.beta_schedule.as_deref().unwrap_or("linear") {
            "linear" => Schedule::Linear { beta_start, beta_end },
            "scaled_linear" => Schedule::ScaledLinear { beta_start, beta_end },
            "squaredcos_cap_v2" => Schedule::COSINE,
            "sigmoid" => Schedule::Sigmoid { beta_start, beta_end },
            name => return Err(self.refused("beta_schedule", name, "linear, scaled_linear, squaredcos_cap_v2, sigmoid")),
        };
        Ok(Path::Discrete(Table::new(schedule, text.num_train_timesteps.unwrap_or(1000), text.rescale_betas_zero_snr)?))
    }

    fn spacing(&self, levels: Levels, flow: bool) -> Result<Spacing> {
        let text = &self.text;
        let of_betas = match levels {
            _ if text.use_karras_sigmas => return Ok(Spacing::Karras),
            // Even in ln(sigma / alpha) is even in log-SNR.
            _ if text.use_exponential_sigmas || text.use_lu_lambdas => return Ok(Spacing::LogSnr),
            _ if text.use_beta_sigmas => return Ok(Spacing::Beta),
            _ if flow => return Ok(Spacing::Uniform),
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
            Some(name) => Err(self.refused("timestep_spacing", name, "leading, trailing, linspace")),
        }
    }

    fn prediction(&self, levels: Levels, flow: bool) -> Result<Prediction> {
        match (self.text.prediction_type.as_deref(), levels) {
            (None | Some("flow_prediction"), _) if flow => Ok(Prediction::Velocity),
            (None, Levels::ScoreVp | Levels::ScoreVe) => Ok(Prediction::Score),
            // EDM's schedulers call the preconditioned network's output epsilon.
            (None | Some("epsilon"), Levels::Edm) => Ok(Prediction::F),
            (None | Some("epsilon"), _) => Ok(Prediction::Eps),
            (Some("sample"), _) => Ok(Prediction::X0),
            (Some("v_prediction"), Levels::Betas(..)) => Ok(Prediction::V),
            (Some(name), _) => {
                Err(self.refused("prediction_type", name, "epsilon, sample, v_prediction, flow_prediction on flow levels"))
            }
        }
    }
}

impl Setting {
    /// The points of so many steps, the last one where the folder says.
    ///
    /// # Errors
    /// As [`Grid::points`].
    pub fn points(&self) -> Result<Vec<PathPoint>> {
        let mut points = self.grid.points(&self.path)?;
        if let (true, Path::Discrete(table)) = (self.ends_noisy, &self.path) {
            let first = table.row(1)?;
            points.pop();
            // Where the last step starts from the first row it would go nowhere: it is left out.
            if points.len() == 1 || points[points.len() - 1].sigma > first.sigma {
                points.push(PathPoint { alpha: first.alpha, sigma: first.sigma, ..self.path.at(1.0 / table.steps() as f64)? });
            }
        }
        crate::sample::grid::checked(&points)?;
        Ok(points)
    }
}
