//! Two models: what differs in their settings and weights, what they say of the same noised data,
//! what is sampled with them.

mod page;

use super::settings::{self, Setting};
use super::{Options, Part, Progress, code};
use crate::difference::Agreement;
use crate::difference::models::{
    Level, Probe, Samples, Tensor, at_level, grid, rounded, samples, tensors,
};
use crate::experiment::geometric;
use serde::Serialize;
use serde_json::{Value, json};
use std::path::Path;
use tweedie::diffusion::prediction::{Prediction, SIGMA_DATA};
use tweedie::diffusion::schedule::{Schedule, Table as Betas};
use tweedie::diffusion::{Denoiser, Path as NoisePath};
use tweedie::error::{Error, Result};
use tweedie::law::random_field::RandomField;
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie_device::Place;
use tweedie_nn::checkpoint;
use tweedie_nn::data;
use tweedie_nn::denoiser::Network;
use tweedie_nn::pipeline::{Input, Pipeline, SETUP, Setup, Time};
use tweedie_nn::program::Program;
use tweedie_nn::scheduler_config;
use tweedie_nn::train::loader::Data;

/// Tolerance of models: a network in f32 rounds every weight and every sum by 6e-8, and through
/// some hundred operations its output is off by a few 1e-6.
pub const OF_MODELS: f64 = 1e-5;

/// Samples may be farther apart than what is said at one noise level: errors add up over the steps,
/// and are multiplied where the flow spreads.
const SPREAD: f64 = 100.0;

/// Formats whose rounding of A's weights measures the distance of B: name and unit roundoff.
const FORMATS: [(&str, f64); 2] = [("f32", 5.960_464_477_539_063e-8), ("bf16", 0.001_953_125)];

/// Lowest and highest noise level at which anything is compared.
const LEVELS: (f64, f64) = (0.02, 80.0);

/// Multiplications and additions that a comparison may take in the quick and in the full profile,
/// of one level or step and one network.
const WORK: [f64; 2] = [4e9, 4e10];

/// A model, read.
struct Model {
    pipeline: Pipeline,
    program: Program,
    params: Vec<f64>,
    /// Whether its setup was assumed.
    bare: bool,
}

/// What is assumed of a network that lies there without its scheduler: DDPM's.
fn assumed(folder: &Path) -> Result<Pipeline> {
    let (config, weights) = checkpoint::open(folder)?;
    let (height, width) = config.sample_shape().ok_or_else(|| {
        let allowed = "a size, because nothing else says of which size the model's states are";
        Error::domain(
            "U-Net config `sample_size`",
            "null",
            allowed,
            "add sample_size to config.json",
        )
    })?;
    let setup = Setup {
        path: NoisePath::Discrete(Betas::new(
            Schedule::LINEAR,
            config.num_train_timesteps.unwrap_or(1000),
            false,
        )?),
        prediction: Prediction::Eps,
        sigma_data: SIGMA_DATA,
        input: Input::State,
        time: Time::Step,
        shape: (config.in_channels, height, width),
        null_class: None,
    };
    Ok(Pipeline { config, setup: setup.validated()?, weights })
}

fn open(folder: &Path) -> Result<Model> {
    let bare = !folder.join(SETUP).is_file() && !scheduler_config::is_in(folder);
    let pipeline = if bare { assumed(folder)? } else { Pipeline::open(folder)? };
    let program = pipeline.program()?;
    let params = checkpoint::read::<f64>(&pipeline.weights, &program)?;
    Ok(Model { pipeline, program, params, bare })
}

impl Model {
    /// As a denoiser in f64: of all classes together, of the first where it knows no "none".
    fn network(&self, params: &[f64], batch: usize) -> Result<Network<f64>> {
        let network = Network::placed(
            self.program.clone(),
            params,
            self.pipeline.setup.clone(),
            batch,
            &Place::Cpu,
        )?;
        if network.classes() > 0 && self.pipeline.setup.null_class.is_none() {
            network.with_label(0)
        } else {
            Ok(network)
        }
    }

    /// All that says what the network is.
    fn settings(&self) -> Value {
        json!({"network": self.pipeline.config, "setup": self.pipeline.setup})
    }

    /// Operations of one image.
    fn work(&self) -> f64 {
        self.program.ops.iter().map(|op| self.program.flops(op) as f64).sum()
    }

    fn range(&self) -> Result<(f64, f64)> {
        self.pipeline.setup.range()
    }

    /// The nearest noise level that the network was trained on: a row of its table, where it is
    /// told the step.
    fn nearest_seen(&self, sigma: f64) -> Result<f64> {
        let Setup { path, time, .. } = &self.pipeline.setup;
        let (Time::Step, NoisePath::Discrete(table)) = (time, path) else { return Ok(sigma) };
        let rows = table.steps() as f64;
        let row = (path.t_from_edm_sigma(sigma)? * rows).round().max(1.0);
        Ok(path.still_at(row / rows)?.edm_sigma())
    }
}

/// What two models say and make, where they are of one shape.
#[derive(Serialize)]
struct Said {
    /// What the data are.
    data: String,
    exact: bool,
    images: usize,
    levels: Vec<Level>,
    samples: Samples,
}

#[derive(Serialize)]
struct Comparison {
    tolerance: f64,
    settings: Vec<Setting>,
    tensors: Vec<Tensor>,
    /// Why nothing was evaluated.
    refused: Option<String>,
    said: Option<Said>,
    #[serde(skip)]
    shape: (usize, usize, usize),
    #[serde(skip)]
    notes: Vec<String>,
    #[serde(skip)]
    has_linear: bool,
}

pub fn compare(
    a: &Path,
    b: &Path,
    recipes: [Option<Value>; 2],
    options: &Options,
    progress: &Progress,
) -> Result<Part> {
    let (mut model_a, mut model_b) = (open(a)?, open(b)?);
    let mut notes = vec![];
    match (model_a.bare, model_b.bare) {
        (false, false) => {}
        (true, true) => notes.push("Neither folder says what its network was trained for. Both are taken for networks of DDPM: the linear table, predicting the noise."),
        (one, _) => {
            let shape = |m: &Model| m.pipeline.setup.shape;
            if shape(&model_a) == shape(&model_b) {
                let (bare, whole) = if one { (&mut model_a, &model_b) } else { (&mut model_b, &model_a) };
                bare.pipeline.setup = whole.pipeline.setup.clone();
                notes.push("One of the two folders does not say what its network was trained for; it is taken for the same as the other's.");
            }
        }
    }
    let (a, b) = (&model_a, &model_b);
    let mut c = Comparison {
        tolerance: options.tolerance.unwrap_or(OF_MODELS),
        settings: settings::differing(&a.settings(), &b.settings()),
        tensors: tensors(&a.program, &a.params, &b.program, &b.params),
        refused: None,
        said: None,
        shape: a.pipeline.setup.shape,
        notes: notes.into_iter().map(String::from).collect(),
        has_linear: false,
    };
    let (shape_a, shape_b) = (a.pipeline.setup.shape, b.pipeline.setup.shape);
    let (low, high) = {
        let (of_a, of_b) = (a.range()?, b.range()?);
        (of_a.0.max(of_b.0).max(LEVELS.0), of_a.1.min(of_b.1).min(LEVELS.1))
    };
    if shape_a != shape_b {
        c.refused = Some(format!(
            "A's states are of shape {shape_a:?}, B's of {shape_b:?}: there is no state to ask both about."
        ));
    } else if low >= high {
        c.refused = Some("No noise level was seen by both in training.".into());
    } else {
        said(&mut c, a, b, [low, high], recipes, options, progress)?;
    }
    let says = says(&c);
    let chapter = page::chapter(&c, options);
    Ok(Part { says, chapters: vec![chapter], document: json!(c) })
}

/// What both say, and the samples.
fn said(
    c: &mut Comparison,
    a: &Model,
    b: &Model,
    range: [f64; 2],
    recipes: [Option<Value>; 2],
    options: &Options,
    progress: &Progress,
) -> Result<()> {
    let (count, steps) = (options.profile.of(8, 16), options.profile.of(12, 24));
    let affordable = WORK[options.profile.of(0, 1)] / a.work().max(b.work());
    let images = (affordable as usize).clamp(4, options.profile.of(128, 1024));
    let starts = (affordable as usize / 4).clamp(4, options.profile.of(32, 128));
    let noise = Noise::new(options.seed);
    let (probe, data) = probe(c.shape, recipes, images, &noise.child(0))?;
    let batch = images.clamp(1, 16);
    let (net_a, net_b) = (a.network(&a.params, batch)?, b.network(&b.params, batch)?);
    let likes = FORMATS.iter().enumerate().map(|(k, (_, unit))| {
        let params = rounded(&a.params, *unit, &noise.child(1 + k as u64));
        a.network(&params, batch)
    });
    let likes = likes.collect::<Result<Vec<_>>>()?;
    let likes: Vec<&dyn Denoiser> = likes.iter().map(|like| like as &dyn Denoiser).collect();
    // A hair inside, so that a level that is the end of a path stays on it.
    let (low, high) = (range[0] * (1.0 + 1e-9), range[1] * (1.0 - 1e-9));
    let seen = |sigma: f64| [a, b].iter().try_fold(sigma, |sigma, model| model.nearest_seen(sigma));
    let mut sigmas =
        geometric(low, high, count).into_iter().map(seen).collect::<Result<Vec<f64>>>()?;
    sigmas.dedup();
    let count = sigmas.len();
    let mut levels = vec![];
    for (k, sigma) in sigmas.iter().enumerate() {
        progress(k, count + 1, "noise levels");
        levels.push(at_level(&net_a, &net_b, &likes, &probe, *sigma, k as u64, &noise.child(8))?);
    }
    progress(count, count + 1, "samples");
    let points = grid([low, high], steps, seen)?;
    let drawn = samples(&net_a, &net_b, &likes, &probe, starts, &points, &noise.child(9))?;
    c.has_linear = probe.has_linear();
    c.said = Some(Said {
        data,
        exact: probe.is_exact(),
        images: probe.images(),
        levels,
        samples: drawn,
    });
    Ok(())
}

/// What the two are compared on: the data of a recipe that one of them was trained by, else digits
/// for models of their size, else random fields.
fn probe(
    shape: (usize, usize, usize),
    recipes: [Option<Value>; 2],
    images: usize,
    noise: &Noise,
) -> Result<(Probe, String)> {
    let (channels, h, w) = shape;
    let [of_a, of_b] = recipes.each_ref().map(|r| r.as_ref().and_then(|r| r.get("data")));
    let both = if of_a == of_b {
        "neither was trained on"
    } else {
        "one of the two was not trained on; of the other it is not known"
    };
    for recipe in recipes.into_iter().flatten() {
        // A recipe whose data are elsewhere is no reason to fail.
        let Ok(settings) = serde_json::from_value::<tweedie_nn::train::Settings>(recipe) else {
            continue;
        };
        let Ok(data) = Data::load(&settings) else { continue };
        if data.shape == shape {
            let d = &settings.data;
            let about = match (&d.set, &d.random_field) {
                (Some(set), _) if d.held_out_every > 0 => {
                    format!("images of {} that {both}", code(set))
                }
                (Some(set), _) => {
                    format!("images of {}, which at least one of the two was trained on", code(set))
                }
                _ => "fresh draws of the random field of a recipe, whose exact denoiser is known"
                    .into(),
            };
            return Ok((Probe::new(data, images, noise)?, about));
        }
    }
    if shape == (1, 8, 8) {
        let data = Data::images(data::load("digits")?, 10)?;
        let about = "every tenth of the 8 × 8 digits; whether the models saw them in training is not known here".into();
        return Ok((Probe::new(data, images, noise)?, about));
    }
    let law = RandomField::power_law(h, w, 0.0, 2.0, 0.25, 0.25)?;
    let about = format!(
        "Gaussian random fields of {h} × {w} pixels with the spectrum of natural images{}, whose exact denoiser is known",
        if channels == 1 { "" } else { ", independent in each channel" }
    );
    Ok((Probe::by_channel(law, channels, images, noise), about))
}

fn farthest(c: &Comparison) -> f64 {
    c.said.iter().flat_map(|s| &s.levels).map(|l| l.apart).fold(0.0, larger)
}

fn says(c: &Comparison) -> String {
    let with =
        |agreement| c.tensors.iter().filter(|t| t.agreement(c.tolerance) == agreement).count();
    let outputs = match &c.said {
        Some(said) if farthest(c) == 0.0 && said.samples.apart.iter().all(|v| *v == 0.0) => {
            "answers and samples equal to the bit".into()
        }
        Some(said) => {
            let nearer = [0, 1]
                .map(|k| said.levels.iter().filter(|l| l.nearer(c.tolerance) == Some(k)).count());
            format!(
                "answers at most {:.1e} of the data's scale apart, samples {:.1e}; A nearer to the {} at {} of {} noise levels, B at {}",
                farthest(c),
                said.samples.apart.last().copied().unwrap_or(0.0),
                if said.exact { "exact answer" } else { "clean images" },
                nearer[0],
                said.levels.len(),
                nearer[1]
            )
        }
        None => "answers not compared".into(),
    };
    let (equal, all) = (with(Agreement::Equal), c.tensors.len());
    let differing = c.settings.len();
    format!(
        "{equal} of {all} tensors equal to the bit, {} beyond {:e}; {differing} settings differ; {outputs}",
        with(Agreement::Beyond),
        c.tolerance
    )
}
