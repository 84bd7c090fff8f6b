//! What a training recipe (`experiments/train-*.toml`) says, read strictly.

use super::learning_rate::Decay;
use super::times::TimeLaw;
use crate::config::{MOST_PIXELS, UNetConfig};
use crate::pipeline::{Input, Time};
use serde::{Deserialize, Deserializer, Serialize};
use std::path::Path;
use tweedie::diffusion::Path as NoisePath;
use tweedie::diffusion::prediction::{Prediction, SIGMA_DATA};
use tweedie::diffusion::weighting::Weighting;
use tweedie::error::{Error, Result, suggested};
use tweedie::input;
use tweedie::room::product;
use tweedie_device::Precision;

/// A training run, but for the data themselves.
///
/// # Example
/// ```
/// use tweedie_nn::train::Settings;
/// let error = Settings::parse("steps = 10\nbatchs = 4").unwrap_err().to_string();
/// assert!(error.contains("line 2: unknown field `batchs`") && error.contains("did you mean `batch`?"), "{error}");
/// ```
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Seed of the initial weights and of every draw.
    #[serde(default)]
    pub seed: u64,
    /// Steps of the optimiser in the whole run.
    pub steps: u64,
    /// Images of one step.
    pub batch: usize,
    /// Number format of the network.
    #[serde(default)]
    pub precision: Precision,
    /// Where the network runs: `auto`, `cpu`, `cuda` or `cuda:N`.
    #[serde(default = "auto")]
    pub device: String,
    /// What is learnt from.
    pub data: DataSettings,
    /// The network: the keys of diffusers' `UNet2DModel`, or `config = "FILE"`.
    #[serde(deserialize_with = "network")]
    pub network: UNetConfig,
    /// How data become noise.
    pub path: NoisePath,
    /// What the network is to say, and what an error costs.
    pub objective: ObjectiveSettings,
    /// Which noise levels are drawn.
    #[serde(default)]
    pub times: TimeSettings,
    /// AdamW and its learning rate.
    #[serde(default)]
    pub optimiser: OptimiserSettings,
    /// Averages of the weights.
    #[serde(default)]
    pub ema: EmaSettings,
    /// Class labels, for a network with `num_class_embeds`.
    #[serde(default)]
    pub labels: LabelSettings,
    /// When the run is saved.
    #[serde(default)]
    pub checkpoint: CheckpointSettings,
    /// When the loss is measured, level by level.
    #[serde(default)]
    pub validation: ValidationSettings,
    /// When samples are drawn.
    #[serde(default)]
    pub samples: SampleSettings,
}

fn auto() -> String {
    "auto".into()
}

/// What is learnt from: exactly one of `set`, `law` and `random_field`.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct DataSettings {
    /// A data set, as [`data::load`](crate::data::load) takes it.
    pub set: Option<String>,
    /// A law file, every batch a fresh draw of it.
    pub law: Option<String>,
    /// A Gaussian random field, every batch a fresh draw of it.
    pub random_field: Option<RandomFieldSettings>,
    /// Channels, height and width of a draw of `law`.
    pub shape: Option<(usize, usize, usize)>,
    /// Every k-th image of a set is kept out of training, 0 for none.
    pub held_out_every: usize,
    /// Whether an image is mirrored from left to right half of the time.
    pub flips: bool,
}

/// A [`RandomField`](tweedie::law::random_field::RandomField) with a power law for its spectrum.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct RandomFieldSettings {
    /// Height and width.
    pub size: (usize, usize),
    /// The variance of a mode falls with its frequency to this power.
    pub slope: f64,
    /// Variance of a pixel without the constant mode.
    pub var: f64,
    /// Eigenvalue of the constant mode.
    #[serde(default)]
    pub zero_mode: f64,
    /// Mean of a pixel.
    #[serde(default)]
    pub mean: f64,
}

/// What the network is to say, and what an error costs.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct ObjectiveSettings {
    /// What the network's output is.
    pub prediction: Prediction,
    /// Weight of the noise levels; without one, 1 on the prediction's own loss at every level.
    pub weighting: Option<Weighting>,
    /// Deviation of the data, of which `f` and the input `unit-variance` make use.
    #[serde(default = "sigma_data")]
    pub sigma_data: f64,
    /// What the network is shown of the state.
    #[serde(default = "state")]
    pub input: Input,
    /// What the network is told of the noise level; without it, the index of a table and `1000 t`
    /// on a continuous path.
    pub time: Option<Time>,
}

fn sigma_data() -> f64 {
    SIGMA_DATA
}

fn state() -> Input {
    Input::State
}

/// Which noise levels are drawn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct TimeSettings {
    /// Law of the noise levels: `uniform` in the path's time, `log-snr`, or `log-normal:MEAN:STD`
    /// of `ln(sigma/alpha)`.
    pub law: TimeLaw,
    /// Noise levels `sigma / alpha` drawn, cut to the path's; without it [0.002, 80], of a table
    /// all rows.
    pub range: Option<(f64, f64)>,
    /// Whether a batch has one draw in each of as many equal parts of the law.
    pub stratified: bool,
    /// Whether levels are drawn in proportion to the root mean square of their losses, and weighted
    /// by the inverse.
    pub importance: bool,
}

impl Default for TimeSettings {
    fn default() -> Self {
        Self { law: TimeLaw::Uniform, range: None, stratified: true, importance: false }
    }
}

/// AdamW and its learning rate.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct OptimiserSettings {
    /// Learning rate after the warm-up.
    pub learning_rate: f64,
    /// Decay of the average gradient.
    pub beta1: f64,
    /// Decay of the average squared gradient.
    pub beta2: f64,
    /// Added to the root.
    pub eps: f64,
    /// Decoupled weight decay.
    pub weight_decay: f64,
    /// Steps in which the rate rises to its full value.
    pub warm_up: u64,
    /// What the rate does then.
    pub decay: Decay,
    /// Longest gradient, longer ones being shortened to just that; 0 for any. torch's
    /// `clip_grad_norm_` divides by the length plus 1e-6, so that a gradient clipped there is
    /// shorter by 1e-6 over its length: 1e-6 of itself at a length of 1.
    pub clip: f64,
    /// Whether the last convolution begins at 0, so that the network's first output is 0.
    pub zero_output: bool,
}

impl Default for OptimiserSettings {
    fn default() -> Self {
        Self {
            learning_rate: 1e-3,
            beta1: 0.9,
            beta2: 0.999,
            eps: 1e-8,
            weight_decay: 0.0,
            warm_up: 0,
            decay: Decay::Constant,
            clip: 1.0,
            zero_output: true,
        }
    }
}

/// Averages of the weights, several at once: those of `constant` first.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct EmaSettings {
    /// Averages that forget at a constant rate, by their decay in (0, 1).
    pub constant: Vec<f64>,
    /// Averages over a constant share of the run, by their relative width in (0, 0.28).
    pub power: Vec<f64>,
}

/// Class labels.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct LabelSettings {
    /// Share of the labels replaced by the class "none", the last row of the table, for
    /// classifier-free guidance.
    pub drop: f64,
}

/// When the run is saved; it always is at its end.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct CheckpointSettings {
    /// Steps between checkpoints, 0 for none before the end.
    pub every: u64,
    /// Checkpoints kept, the newest.
    pub keep: usize,
}

impl Default for CheckpointSettings {
    fn default() -> Self {
        Self { every: 0, keep: 2 }
    }
}

/// When the loss is measured, level by level, on images that are not trained on.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct ValidationSettings {
    /// Steps between measurements, 0 for one at the end, where there is something held out.
    pub every: u64,
    /// Noise levels, evenly in log-SNR over the range that is drawn.
    pub levels: usize,
    /// Images at each level.
    pub images: usize,
}

impl Default for ValidationSettings {
    fn default() -> Self {
        Self { every: 0, levels: 12, images: 256 }
    }
}

/// When samples are drawn, and how.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct SampleSettings {
    /// Steps between grids of samples, 0 for one at the end.
    pub every: u64,
    /// Samples of a grid.
    pub count: usize,
    /// Method, as in `tweedie sample`.
    pub sampler: String,
    /// Its steps.
    pub steps: usize,
    /// Weight of classifier-free guidance, for a network with classes and dropped labels; 1 is the
    /// class itself.
    pub guidance: f64,
}

impl Default for SampleSettings {
    fn default() -> Self {
        Self { every: 0, count: 64, sampler: "dpmpp-2m".into(), steps: 20, guidance: 1.0 }
    }
}

/// The config by diffusers' own reader, which names a wrong key.
fn network<'de, D: Deserializer<'de>>(
    deserializer: D,
) -> std::result::Result<UNetConfig, D::Error> {
    let table = serde_json::Value::deserialize(deserializer)?;
    UNetConfig::parse(&table.to_string()).map_err(|e| {
        serde::de::Error::custom(match e {
            // How to mend it is said once, of the recipe.
            Error::Domain { what, got, allowed, .. } => {
                format!("{what}: {got}, allowed: {allowed}")
            }
            e => e.to_string(),
        })
    })
}

impl Settings {
    /// Reads a recipe; a `config` of its network is a path relative to it.
    ///
    /// # Errors
    /// A file that can't be read, is no TOML, has an unknown or missing key or a value out of
    /// range, by name and line.
    pub fn read(path: &Path) -> Result<Self> {
        let text =
            input::settings(path, "pass a recipe such as experiments/recipes/train-digits.toml")?;
        let folder = path.parent().unwrap_or(Path::new(""));
        Self::parse_beside(&text, folder, |problem| {
            Error::file(path, problem, "compare it with experiments/recipes/train-digits.toml")
        })
    }

    /// Reads the text of a recipe.
    ///
    /// # Errors
    /// As [`Settings::read`], but for the file.
    pub fn parse(text: &str) -> Result<Self> {
        let refused = |problem| {
            Error::domain(
                "training recipe",
                problem,
                "the keys of experiments/recipes/train-digits.toml",
                "correct it",
            )
        };
        Self::parse_beside(text, Path::new(""), refused)
    }

    fn parse_beside(text: &str, folder: &Path, refused: impl Fn(String) -> Error) -> Result<Self> {
        let explained = |e: toml::de::Error| {
            let line = e.span().map_or(String::new(), |s| {
                format!("line {}: ", text[..s.start].matches('\n').count() + 1)
            });
            refused(format!("{line}{}", suggested(e.message())))
        };
        let mut table: toml::Table = toml::from_str(text).map_err(explained)?;
        let settings: Self = match table
            .get("network")
            .and_then(|n| n.get("config"))
            .and_then(|c| c.as_str())
        {
            // Read from the text itself, so that an error has its line.
            None => toml::from_str(text).map_err(explained)?,
            Some(file) => {
                let config = UNetConfig::read(&folder.join(file))?;
                if table["network"].as_table().is_some_and(|t| t.len() > 1) {
                    return Err(refused(
                        "[network] has `config` and other keys: put them into the config".into(),
                    ));
                }
                table.insert(
                    "network".into(),
                    toml::Value::try_from(config).map_err(|e| refused(e.to_string()))?,
                );
                table.try_into().map_err(|e: toml::de::Error| refused(suggested(e.message())))?
            }
        };
        settings.validated()
    }

    /// Checks every number; [`Trainer::new`](super::Trainer::new) does so too.
    ///
    /// # Errors
    /// A value out of its range, by its key.
    pub fn validated(self) -> Result<Self> {
        let o = &self.optimiser;
        let d = &self.data;
        let share = |x: f64| (0.0..1.0).contains(&x);
        let small =
            |sizes: &[usize]| product("", sizes).is_ok_and(|n| (1..=MOST_PIXELS).contains(&n));
        let averages = self.ema.constant.len() + self.ema.power.len();
        let sources = [d.set.is_some(), d.law.is_some(), d.random_field.is_some()];
        let rules = [
            (self.steps >= 1, "steps", self.steps.to_string(), "at least 1"),
            ((1..=65_536).contains(&self.batch), "batch", self.batch.to_string(), "1 to 65536"),
            (
                sources.iter().filter(|s| **s).count() <= 1,
                "[data]",
                format!("{sources:?}"),
                "one of set, law, random_field",
            ),
            (
                d.held_out_every != 1,
                "data.held_out_every",
                "1".into(),
                "0 for none, or 2 or more: 1 leaves nothing to train on",
            ),
            (
                o.learning_rate > 0.0 && o.learning_rate.is_finite(),
                "optimiser.learning_rate",
                o.learning_rate.to_string(),
                "> 0",
            ),
            (share(o.beta1), "optimiser.beta1", o.beta1.to_string(), "[0, 1)"),
            (share(o.beta2), "optimiser.beta2", o.beta2.to_string(), "[0, 1)"),
            (o.eps > 0.0 && o.eps.is_finite(), "optimiser.eps", o.eps.to_string(), "> 0"),
            (
                o.weight_decay >= 0.0 && o.weight_decay.is_finite(),
                "optimiser.weight_decay",
                o.weight_decay.to_string(),
                ">= 0",
            ),
            (
                o.clip >= 0.0 && o.clip.is_finite(),
                "optimiser.clip",
                o.clip.to_string(),
                ">= 0, 0 for none",
            ),
            (share(self.labels.drop), "labels.drop", self.labels.drop.to_string(), "[0, 1)"),
            (
                self.objective.sigma_data > 0.0 && self.objective.sigma_data.is_finite(),
                "objective.sigma_data",
                self.objective.sigma_data.to_string(),
                "> 0",
            ),
            (
                self.times.range.is_none_or(|(lo, hi)| lo > 0.0 && hi > lo && hi.is_finite()),
                "times.range",
                format!("{:?}", self.times.range),
                "two rising positive numbers",
            ),
            (self.checkpoint.keep >= 1, "checkpoint.keep", "0".into(), "at least 1"),
            (
                (2..=1000).contains(&self.validation.levels),
                "validation.levels",
                self.validation.levels.to_string(),
                "2 to 1000",
            ),
            (
                (2..=1_000_000).contains(&self.validation.images),
                "validation.images",
                self.validation.images.to_string(),
                "2 to 1000000",
            ),
            (
                d.random_field.as_ref().is_none_or(|f| small(&[f.size.0, f.size.1])),
                "data.random_field.size",
                format!("{:?}", d.random_field.as_ref().map_or((0, 0), |f| f.size)),
                "1 to 4194304 pixels",
            ),
            (
                d.shape.is_none_or(|(c, h, w)| small(&[c, h, w])),
                "data.shape",
                format!("{:?}", d.shape.unwrap_or_default()),
                "1 to 4194304 numbers",
            ),
            (
                averages <= 16,
                "ema.constant, ema.power",
                averages.to_string(),
                "at most 16 averages",
            ),
            (
                self.checkpoint.keep <= 1_000_000,
                "checkpoint.keep",
                self.checkpoint.keep.to_string(),
                "at most 1000000",
            ),
            (
                (1..=10_000).contains(&self.samples.count),
                "samples.count",
                self.samples.count.to_string(),
                "1 to 10000",
            ),
            (
                self.samples.guidance.is_finite(),
                "samples.guidance",
                self.samples.guidance.to_string(),
                "a finite number",
            ),
            (
                self.samples.guidance == 1.0 || self.labels.drop > 0.0,
                "samples.guidance",
                self.samples.guidance.to_string(),
                "1, because no labels are dropped: there is no network without a class to guide away from",
            ),
            (
                (1..=100_000).contains(&self.samples.steps),
                "samples.steps",
                self.samples.steps.to_string(),
                "1 to 100000",
            ),
        ];
        match rules.into_iter().find(|r| !r.0) {
            None => Ok(self),
            Some((_, key, got, allowed)) => {
                Err(Error::domain(key, got, allowed, "correct the recipe"))
            }
        }
    }

    /// The first key, as `table.key`, in which a run of `self` can't go on from one of `saved`: all
    /// that the numbers depend on. More steps are more of the same run, and how often it is saved
    /// or looked at changes nothing.
    pub fn departs_from(&self, saved: &Self) -> Option<String> {
        const FREE: [&str; 5] = ["steps", "device", "checkpoint", "validation", "samples"];
        let json = |s: &Self| serde_json::to_value(s).unwrap_or_default();
        if self.steps < saved.steps {
            return Some("steps".into());
        }
        let (a, b) = (json(self), json(saved));
        let keys = a.as_object().into_iter().flat_map(|o| o.keys());
        keys.filter(|k| !FREE.contains(&k.as_str()))
            .find_map(|k| differing(&a[k], &b[k]).map(|rest| format!("{k}{rest}")))
    }
}

/// Where two values differ, as the rest of a key.
fn differing(a: &serde_json::Value, b: &serde_json::Value) -> Option<String> {
    match (a.as_object(), b.as_object()) {
        (Some(x), Some(y)) => {
            let keys = x.keys().chain(y.keys().filter(|k| !x.contains_key(*k)));
            keys.into_iter().find_map(|k| differing(&a[k], &b[k]).map(|rest| format!(".{k}{rest}")))
        }
        _ => (a != b).then(String::new),
    }
}
