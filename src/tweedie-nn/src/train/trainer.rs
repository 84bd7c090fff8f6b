//! The training loop's one step, and all that it carries along.

use super::ema::{Ema, Profile};
use super::initial::initial;
use super::learning_rate::learning_rate;
use super::loader::{Data, Draws, Loader, WEIGHTS};
use super::objective::{Batch, Objective};
use super::on_device::{OnDevice, Update};
use super::settings::Settings;
use super::times::Importance;
use crate::adamw::{AdamW, State};
use crate::config::UNetConfig;
use crate::cpu::Cpu;
use crate::denoiser::Network;
use crate::element::Element;
use crate::pipeline::{Setup, Time};
use crate::program::{Op, Pass, Program};
use crate::unet::unet;
use rayon::prelude::*;
use std::ops::Range;
use tweedie::diffusion::Path;
use tweedie::error::{Error, Result};
use tweedie::math::noise::Noise;
use tweedie::room;
use tweedie_device::Place;

/// What a step did.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Its number, from 1.
    pub step: u64,
    /// The batch's loss.
    pub loss: f64,
    /// Length of its gradient before it was clipped.
    pub grad_norm: f64,
    /// Learning rate.
    pub learning_rate: f64,
}

/// A network in training.
///
/// It neither prints nor reads the clock or a file: whoever owns it does. Two trainers of the same
/// settings and data make the same numbers to the bit, also when one was saved and
/// [resumed](super::checkpoint) on the way.
///
/// # Example
/// ```
/// use tweedie_nn::train::{Data, Settings, Trainer};
/// let settings = Settings::parse(r#"
///     steps = 3
///     batch = 4
///     [data]
///     random_field = { size = [4, 4], slope = 2.0, var = 0.25 }
///     [network]
///     in_channels = 1
///     out_channels = 1
///     block_out_channels = [4]
///     down_block_types = ["DownBlock2D"]
///     up_block_types = ["UpBlock2D"]
///     layers_per_block = 1
///     norm_num_groups = 2
///     add_attention = false
///     [path]
///     kind = "cosine"
///     [objective]
///     prediction = "v"
/// "#).unwrap();
/// let data = Data::load(&settings).unwrap();
/// let mut trainer = Trainer::<f32>::new(settings, data).unwrap();
/// let losses: Vec<f64> = (0..3).map(|_| trainer.step().unwrap().loss).collect();
/// assert!(losses.iter().all(|l| *l > 0.0));
/// ```
pub struct Trainer<T> {
    pub(super) settings: Settings,
    objective: Objective,
    loader: Loader,
    engine: Engine<T>,
    place: Place,
    /// Whether the state here is that of the run, and whether the device's is.
    truth: Truth,
    pub(super) params: Vec<T>,
    grads: Vec<T>,
    optimiser: AdamW,
    pub(super) averages: State<T>,
    pub(super) emas: Vec<Ema<T>>,
    pub(super) importance: Option<Importance>,
    pub(super) steps_done: u64,
    /// Parameters that are not trained: the frequencies of a Fourier embedding.
    frozen: Vec<Range<usize>>,
    draws: Draws,
    batch: Batch<T>,
    dy: Vec<T>,
}

/// What takes the steps.
enum Engine<T> {
    Cpu(Box<Cpu<T>>),
    Device(Box<OnDevice<T>>),
}

/// Who has the newest weights and averages: on the CPU always this side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Truth {
    Here,
    Both,
    Device,
}

impl<T: Element> Trainer<T> {
    /// Before the first step, on the CPU.
    ///
    /// # Errors
    /// Settings out of range; a network that does not fit the data; a law of times that the path
    /// does not have.
    pub fn new(settings: Settings, data: Data) -> Result<Self> {
        Self::placed(settings, data, &Place::Cpu)
    }

    /// Before the first step, on this device.
    ///
    /// # Errors
    /// As [`Trainer::new`]; a device without enough memory.
    pub fn placed(settings: Settings, data: Data, place: &Place) -> Result<Self> {
        let settings = settings.validated()?;
        let (c, h, w) = data.shape;
        let config = &settings.network;
        for (key, channels) in
            [("in_channels", config.in_channels), ("out_channels", config.out_channels)]
        {
            if channels != c {
                let allowed = format!("{c}, the channels of the data");
                return Err(Error::domain(
                    format!("network.{key}"),
                    channels,
                    allowed,
                    "correct the recipe",
                ));
            }
        }
        if let Some(size) = config.sample_shape().filter(|size| *size != (h, w)) {
            let allowed = format!("{h} x {w}, the size of the data, or none");
            return Err(Error::domain(
                "network.sample_size",
                format!("{} x {}", size.0, size.1),
                allowed,
                "correct the recipe",
            ));
        }
        let null_class = null_class(config, data.classes, settings.labels.drop)?;
        let setup = setup(&settings, &data, null_class)?;
        let program = unet(config, h, w)?;
        // Weights, gradients, AdamW's averages, and the averages of the weights.
        let copies = 4 + settings.ema.constant.len() + settings.ema.power.len();
        if matches!(place, Place::Cpu) {
            program.fits(
                settings.batch,
                &[Pass::Recorded, Pass::Backward],
                copies,
                size_of::<T>(),
            )?;
        }
        let images =
            settings.validation.images.max(settings.samples.count) as f64 * data.dim() as f64;
        room::holds(
            "images that are validated or sampled",
            24.0 * images,
            "correct validation.images or samples.count",
        )?;
        // A network without classes is told none.
        let label = config.num_class_embeds.map(|_| null_class.unwrap_or(0));
        let loader = Loader::new(&settings, data, label)?;
        let params: Vec<T> = initial(
            &program,
            &Noise::new(settings.seed).child(WEIGHTS),
            settings.optimiser.zero_output,
        )
        .into_iter()
        .map(T::of)
        .collect();
        let constant = settings.ema.constant.iter().map(|d| Profile::constant(*d));
        let profiles = constant.chain(settings.ema.power.iter().map(|w| Profile::power(*w)));
        let emas = profiles
            .map(|p| p.map(|profile| Ema { profile, params: params.clone() }))
            .collect::<Result<Vec<_>>>()?;
        let frozen: Vec<Range<usize>> = program
            .ops
            .iter()
            .filter_map(|op| match *op {
                Op::Fourier { weight, .. } => Some(program.params[weight].at.clone()),
                _ => None,
            })
            .collect();
        let o = &settings.optimiser;
        let batch = Batch::new(settings.batch, &setup);
        let engine = match place {
            Place::Cpu => Engine::Cpu(Box::new(Cpu::new(program, settings.batch))),
            Place::Gpu(gpu, precision) => Engine::Device(Box::new(OnDevice::new(
                program,
                &loader,
                emas.len(),
                &frozen,
                gpu,
                *precision,
            )?)),
        };
        Ok(Self {
            engine,
            place: place.clone(),
            truth: Truth::Here,
            frozen,
            optimiser: AdamW {
                learning_rate: 0.0,
                beta1: o.beta1,
                beta2: o.beta2,
                eps: o.eps,
                decay: o.weight_decay,
            },
            averages: State::new(params.len()),
            grads: vec![T::zero(); params.len()],
            importance: settings.times.importance.then(Importance::default),
            steps_done: 0,
            draws: loader.draws(),
            dy: vec![T::zero(); batch.x.len()],
            batch,
            objective: Objective { setup, weighting: settings.objective.weighting },
            params,
            emas,
            loader,
            settings,
        })
    }

    /// Takes one step.
    ///
    /// # Errors
    /// A loss or gradient that is not finite; the weights are then those before this step.
    pub fn step(&mut self) -> Result<Step> {
        let step = self.steps_done + 1;
        let finite = |what: &str, x: f64| {
            if x.is_finite() {
                return Ok(x);
            }
            let mend = "lower optimiser.learning_rate or narrow times.range, and resume from the last checkpoint";
            Err(Error::singular(
                format!("the {what} of training"),
                format!("step {step}"),
                format!("it is {x}"),
                mend,
            ))
        };
        let (draws, batch) = (&mut self.draws, &mut self.batch);
        let clip = self.settings.optimiser.clip;
        self.optimiser.learning_rate =
            learning_rate(&self.settings.optimiser, self.steps_done, self.settings.steps);
        let (loss, grad_norm) = match &mut self.engine {
            Engine::Cpu(cpu) => {
                self.loader.draw(self.steps_done, self.importance.as_ref(), draws)?;
                self.objective.prepare(
                    draws.x0.view(),
                    draws.eps.view(),
                    &draws.times,
                    &draws.densities,
                    batch,
                )?;
                cpu.load(&self.params);
                let y = cpu.forward(&batch.x, &batch.times, &draws.labels)?;
                let loss = finite("loss", batch.loss(y, &mut self.dy))?;
                cpu.backward(&self.dy, &mut self.grads);
                let grad_norm = finite("gradient", norm(&self.grads))?;
                if clip > 0.0 && grad_norm > clip {
                    let scale = T::of(clip / grad_norm);
                    self.grads.iter_mut().for_each(|g| *g *= scale);
                }
                let frozen: Vec<Vec<T>> =
                    self.frozen.iter().map(|at| self.params[at.clone()].to_vec()).collect();
                self.optimiser.step(&mut self.averages, &mut self.params, &self.grads);
                for (at, kept) in self.frozen.iter().zip(frozen) {
                    self.params[at.clone()].copy_from_slice(&kept);
                }
                for ema in &mut self.emas {
                    ema.update(&self.params, step);
                }
                (loss, grad_norm)
            }
            Engine::Device(device) => {
                if self.truth == Truth::Here {
                    device.upload(
                        &self.params,
                        &self.averages,
                        self.emas.iter().map(|ema| &ema.params[..]),
                    )?;
                    self.truth = Truth::Both;
                }
                self.loader.plan(self.steps_done, self.importance.as_ref(), draws)?;
                let keep: Vec<f64> = self.emas.iter().map(|ema| ema.profile.keep(step)).collect();
                let steps = self.averages.steps + 1;
                let update = Update { optimiser: &self.optimiser, clip, steps, keep: &keep };
                let done =
                    device.step(&self.loader, self.steps_done, draws, &self.objective, &update)?;
                let (loss, grad_norm) =
                    (finite("loss", done.loss)?, finite("gradient", done.grad_norm)?);
                (batch.errors, batch.weights) = (done.errors, done.weights);
                self.averages.steps = steps;
                self.truth = Truth::Device;
                (loss, grad_norm)
            }
        };
        if let Some(importance) = &mut self.importance {
            for i in 0..draws.uniforms.len() {
                importance.learn(
                    draws.uniforms[i],
                    batch.errors[i] * batch.weights[i] * draws.densities[i],
                );
            }
        }
        self.steps_done = step;
        Ok(Step { step, loss, grad_norm, learning_rate: self.optimiser.learning_rate })
    }

    /// Brings weights and averages here from the device that takes the steps; without one nothing
    /// is to be done.
    ///
    /// # Errors
    /// A lost device.
    pub fn sync(&mut self) -> Result<()> {
        if let (Engine::Device(device), Truth::Device) = (&mut self.engine, self.truth) {
            let emas = self.emas.iter_mut().map(|ema| &mut ema.params[..]);
            device.download(&mut self.params, &mut self.averages, emas)?;
            self.truth = Truth::Both;
        }
        Ok(())
    }

    /// Panics where what is here is older than what the device has.
    fn assert_synced(&self) {
        assert_ne!(self.truth, Truth::Device, "weights are read after Trainer::sync");
    }

    /// Says that weights or averages were changed here.
    pub(super) fn changed_here(&mut self) {
        self.truth = Truth::Here;
    }

    /// Where the steps are taken.
    pub fn place(&self) -> &Place {
        &self.place
    }

    /// Steps taken.
    pub fn steps_done(&self) -> u64 {
        self.steps_done
    }

    /// The settings.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The objective.
    pub fn objective(&self) -> &Objective {
        &self.objective
    }

    /// What makes a denoiser of the network.
    pub fn setup(&self) -> &Setup {
        &self.objective.setup
    }

    /// The network's operations.
    pub fn program(&self) -> &Program {
        match &self.engine {
            Engine::Cpu(cpu) => cpu.program(),
            Engine::Device(device) => device.program(),
        }
    }

    /// Where batches come from.
    pub fn loader(&self) -> &Loader {
        &self.loader
    }

    /// The weights, in the program's order.
    ///
    /// # Panics
    /// As all that reads weights: before [`Trainer::sync`], where a device took steps.
    pub fn params(&self) -> &[T] {
        self.assert_synced();
        &self.params
    }

    /// Begins from other weights.
    ///
    /// # Panics
    /// For another number of them than the program has.
    pub fn set_params(&mut self, params: &[T]) {
        self.params.copy_from_slice(params);
        self.changed_here();
    }

    /// The averages of the weights, constant ones first, each group in the order of the settings.
    pub fn emas(&self) -> &[Ema<T>] {
        self.assert_synced();
        &self.emas
    }

    /// The weights of average i.
    pub fn ema(&self, i: usize) -> &[T] {
        self.assert_synced();
        &self.emas[i].params
    }

    /// The last average, or the weights themselves where there is none.
    pub fn best_params(&self) -> &[T] {
        self.assert_synced();
        self.emas.last().map_or(&self.params, |ema| &ema.params)
    }

    /// The network with these weights as a denoiser, run on `batch` states at a time.
    ///
    /// # Errors
    /// As [`Network::new`].
    pub fn network(&self, params: &[T], batch: usize) -> Result<Network<T>> {
        Network::placed(self.program().clone(), params, self.setup().clone(), batch, &self.place)
    }
}

/// The class that dropped labels become: the row behind the data's classes.
fn null_class(config: &UNetConfig, classes: usize, drop: f64) -> Result<Option<usize>> {
    let refuse = |got: String, allowed: String, mend: &str| {
        Err(Error::domain("network.num_class_embeds", got, allowed, mend))
    };
    match config.num_class_embeds {
        None if drop > 0.0 => refuse(
            "null".into(),
            format!("{}, because labels.drop is above 0", classes + 1),
            "set it, or drop no labels",
        ),
        None => Ok(None),
        Some(rows) if classes == 0 => {
            refuse(rows.to_string(), "null: the data have no labels".into(), "leave it out")
        }
        Some(rows) => {
            let null = drop > 0.0;
            let want = classes + usize::from(null);
            if rows != want {
                let allowed = format!(
                    "{want}: a row for each class{}",
                    if null { " and one for none" } else { "" }
                );
                return refuse(rows.to_string(), allowed, "correct the recipe");
            }
            Ok(null.then_some(classes))
        }
    }
}

fn setup(settings: &Settings, data: &Data, null_class: Option<usize>) -> Result<Setup> {
    let objective = &settings.objective;
    let time = objective.time.unwrap_or(match settings.path {
        Path::Discrete(_) => Time::Step,
        // Their time is the noise level itself, most of it spent where hardly anything happens.
        Path::Edm { .. } | Path::Ve { .. } => Time::CNoise(250.0),
        _ => Time::Scaled(1000.0),
    });
    let Settings { ref path, .. } = *settings;
    Setup {
        path: path.clone(),
        prediction: objective.prediction,
        sigma_data: objective.sigma_data,
        input: objective.input,
        time,
        shape: data.shape,
        null_class,
    }
    .validated()
}

/// Length of a vector, summed in blocks so that the result does not depend on the number of
/// threads.
fn norm<T: Element>(x: &[T]) -> f64 {
    let sums: Vec<f64> =
        x.par_chunks(1 << 14).map(|x| x.iter().map(|x| x.wide() * x.wide()).sum()).collect();
    sums.iter().sum::<f64>().sqrt()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(more: &str) -> Settings {
        let text = format!(
            "steps = 60\nbatch = 8\n[data]\nrandom_field = {{ size = [4, 4], slope = 2.0, var = 0.25, mean = 0.5 }}\n[network]\nin_channels = 1\n\
             out_channels = 1\nblock_out_channels = [8]\ndown_block_types = [\"DownBlock2D\"]\nup_block_types = [\"UpBlock2D\"]\nlayers_per_block = 1\n\
             norm_num_groups = 2\nadd_attention = false\n{more}"
        );
        Settings::parse(&text).unwrap()
    }

    fn trainer<T: Element>(more: &str) -> Trainer<T> {
        let settings = settings(more);
        let data = Data::load(&settings).unwrap();
        Trainer::new(settings, data).unwrap()
    }

    const V: &str = "[path]\nkind = \"cosine\"\n[objective]\nprediction = \"v\"\n[ema]\nconstant = [0.9]\npower = [0.1]\n[optimiser]\nlearning_rate = 1e-2";

    #[test]
    fn equal_settings_make_equal_weights_and_the_loss_falls() {
        let (mut a, mut b) = (trainer::<f32>(V), trainer::<f32>(V));
        let losses: Vec<f64> = (0..60).map(|_| a.step().unwrap().loss).collect();
        for _ in 0..60 {
            b.step().unwrap();
        }
        assert!(
            a.params() == b.params()
                && a.ema(0) == b.ema(0)
                && a.ema(1) == b.ema(1)
                && a.ema(0) != a.params()
        );
        assert!(a.best_params() == a.ema(1));
        // What the first step was asked, asked again.
        let mut again = trainer::<f32>(V);
        again.set_params(a.params());
        assert!(again.step().unwrap().loss < 0.8 * losses[0], "{losses:?}");
    }

    /// The first loss is that of a network that says 0: known before any step, in any precision.
    #[test]
    fn the_first_loss_is_the_targets_mean_square() {
        let (mut single, mut double) = (trainer::<f32>(V), trainer::<f64>(V));
        let (a, b) = (single.step().unwrap(), double.step().unwrap());
        let square = double.batch.target.iter().map(|t| t * t).sum::<f64>()
            / double.batch.target.len() as f64;
        // 128 numbers added in another order; and rounded to f32.
        assert!((b.loss - square).abs() <= 1e-13 && (a.loss - square).abs() <= 1e-6);
        assert!((a.grad_norm / b.grad_norm - 1.0).abs() <= 1e-4);
    }

    #[test]
    fn every_prediction_on_every_path_takes_a_step() {
        let paths = [
            "kind = \"vp\"\nbeta_min = 0.1\nbeta_max = 20.0",
            "kind = \"ve\"\nsigma_min = 0.01\nsigma_max = 50.0",
            "kind = \"edm\"\nsigma_max = 80.0",
            "kind = \"cosine\"",
            "kind = \"fm\"",
            "kind = \"discrete\"\nsteps = 100\nschedule = { kind = \"linear\", beta_start = 1e-4, beta_end = 0.02 }",
        ];
        for path in paths {
            for prediction in ["x0", "eps", "v", "velocity", "score", "f"] {
                let mut trainer = trainer::<f32>(&format!(
                    "[path]\n{path}\n[objective]\nprediction = \"{prediction}\"\nweighting = \"simple\""
                ));
                let step = trainer.step().unwrap_or_else(|e| panic!("{path} {prediction}: {e}"));
                assert!(step.loss > 0.0 && step.grad_norm > 0.0, "{path} {prediction}");
            }
        }
    }

    #[test]
    fn fourier_frequencies_stay() {
        let fourier = "time_embedding_type = \"fourier\"\n[path]\nkind = \"edm\"\nsigma_max = 80.0\n[objective]\nprediction = \"f\"\ninput = \"unit-variance\"\n\
                       time = { sigma = 1.0 }\n[optimiser]\nweight_decay = 0.5\nlearning_rate = 0.1";
        let mut trainer = trainer::<f64>(fourier);
        let at = trainer
            .program()
            .params
            .iter()
            .find(|p| p.name == "time_proj.weight")
            .unwrap()
            .at
            .clone();
        let before = trainer.params().to_vec();
        trainer.step().unwrap();
        assert_eq!(trainer.params()[at.clone()], before[at.clone()]);
        assert!(
            trainer.params()[at.end..]
                .iter()
                .zip(&before[at.end..])
                .all(|(a, b)| a != b || *a == 0.0)
        );
    }
}
