//! `tweedie train`: train a network by a recipe.

use super::Outcome;
use super::output;
use indicatif::{ProgressBar, ProgressStyle};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use std::time::Instant;
use tweedie::error::{Error, Result};
use tweedie::law_file;
use tweedie::math::noise::Noise;
use tweedie::number::json;
use tweedie_device::{self as device, Device, Place, Precision};
use tweedie_files::{self as file, lock::Lock};
use tweedie_nn::data::picture;
use tweedie_nn::element::Element;
use tweedie_nn::train::loader::VALIDATION;
use tweedie_nn::train::parallel::World;
use tweedie_nn::train::parallel::{Secret, meet};
use tweedie_nn::train::settings::Settings;
use tweedie_nn::train::validation::{Level, Validation};
use tweedie_nn::train::{Data, Step, Trainer, checkpoint, samples};

/// Train a network by a recipe, resumably
#[derive(clap::Args)]
#[command(after_help = "Examples:\n  tweedie train experiments/recipes/train-digits.toml\n  \
                  tweedie train experiments/recipes/train-digits.toml --out runs/digits --resume\n  \
                  tweedie sample --model runs/train-digits --sampler dpmpp-2m --steps 20 -o out.npz\n\n\
                  DIR holds checkpoints/step-N, each a model's folder with one for every average of its weights; checkpoints/latest, the newest's \
                  name; metrics.jsonl, a line a step; validation.jsonl, a line a noise level; samples/step-N.png; run.json, the settings, by which a run's \
                  folder is known: files of others that are in its way are refused. Ctrl-C saves and exits with 130; --resume goes on to the bit as \
                  if nothing had happened. One process at a time trains in a folder.")]
pub struct Args {
    /// What to train, on what, how: see experiments/recipes/train-digits.toml
    #[arg(value_name = "RECIPE.toml")]
    recipe: PathBuf,
    /// Where the run goes [default: runs/RECIPE]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Go on from the newest checkpoint in DIR, if there is one
    #[arg(long)]
    resume: bool,
    /// What to compute on [default: the recipe's]
    #[arg(long, value_name = "D")]
    device: Option<Device>,
    /// Number format [default: the recipe's]
    #[arg(long, value_name = "P")]
    precision: Option<Precision>,
    /// Seed of the initial weights and of every draw [default: the recipe's]
    #[arg(long, value_name = "N")]
    seed: Option<u64>,
    /// Steps of the whole run [default: the recipe's]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    steps: Option<u64>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let mut settings = Settings::read(&args.recipe)?;
    settings.seed = args.seed.unwrap_or(settings.seed);
    settings.steps = args.steps.unwrap_or(settings.steps);
    if let Some(precision) = args.precision {
        settings.precision = precision;
    }
    let device = match args.device {
        Some(device) => device,
        None => settings
            .device
            .parse()
            .map_err(|e| Error::file(&args.recipe, e, "write auto, cpu, cuda or cuda:N"))?,
    };
    let world = World::read(|name| std::env::var(name).ok())?;
    let name = args.recipe.file_stem().unwrap_or_default();
    let out = args.out.clone().unwrap_or_else(|| Path::new("runs").join(name));
    let place = together(&world, &out, device, settings.precision)?;
    match settings.precision {
        Precision::F64 => train::<f64>(args, settings, &place, &world, &out),
        _ => train::<f32>(args, settings, &place, &world, &out),
    }
}

/// Where this process trains: with several, the GPU of its number on its machine, joined to the
/// others.
fn together(world: &World, out: &Path, device: Device, precision: Precision) -> Result<Place> {
    if world.size == 1 {
        return device.place(precision);
    }
    let device = match device {
        // Where a launcher shows each process one device alone, that is number 0.
        Device::Auto | Device::Cuda(0) => {
            Device::Cuda(world.local_rank % device::gpu_count().max(1))
        }
        other => {
            let allowed = format!(
                "auto or cuda, because a launcher started {} processes, each with a GPU of its own",
                world.size
            );
            return Err(Error::domain(
                "device",
                format!("{other:?}"),
                allowed,
                "leave --device out, or start one process",
            ));
        }
    };
    let place = device.place(precision)?;
    if let Place::Gpu(gpu, _) = &place {
        let secret = Secret::of_run(out, |name| std::env::var(name).ok())?;
        gpu.join(
            meet(world, &secret, Duration::from_secs(300), tweedie_device::nccl::identity)?,
            world.rank,
            world.size,
        )?;
    }
    Ok(place)
}

fn data(args: &Args, settings: &Settings) -> Result<Data> {
    let Some(law) = &settings.data.law else { return Data::load(settings) };
    // Relative to the recipe, so that the two can be moved together.
    let law = law_file::read(&args.recipe.parent().unwrap_or(Path::new("")).join(law))?;
    let shape = settings.data.shape.unwrap_or((1, 1, law.dim()));
    Data::law(law.into_law(), shape)
}

fn train<T: Element>(
    args: &Args,
    settings: Settings,
    place: &Place,
    world: &World,
    out: &Path,
) -> Result<Outcome> {
    let checkpoints = out.join("checkpoints");
    own(out)?;
    // Held before the newest checkpoint is looked for; a folder that is not there is made when
    // nothing is left to be refused.
    let writes = world.rank == 0;
    let mut lock = if writes && out.is_dir() { Some(hold(out)?) } else { None };
    let data = data(args, &settings)?;
    let mut trainer = match (newest(&checkpoints)?, args.resume) {
        (Some(newest), true) => {
            if writes && checkpoint::latest(&checkpoints)?.is_none() {
                super::note(format!(
                    "{} has no `latest`: going on from {}, the newest whole one",
                    checkpoints.display(),
                    newest.display()
                ));
            }
            if writes {
                super::note_missing_sums(&newest);
            }
            checkpoint::resume::<T>(&newest, settings, data, place)?
        }
        (Some(newest), false) => return Err(held(out, &newest)),
        (None, _) => Trainer::placed(settings, data, place)?,
    };
    // What can be refused is refused before anything is written.
    samples::plan(&trainer)?;
    let exact = Validation::new(
        trainer.loader().data(),
        trainer.settings().validation.images,
        Noise::new(trainer.settings().seed).child(VALIDATION),
    )?;
    if writes && lock.is_none() {
        std::fs::create_dir_all(out).map_err(|e| {
            Error::file(out, format!("cannot be made: {e}"), "pass an --out that may be written")
        })?;
        lock = Some(hold(out)?);
        if let Some(newest) = newest(&checkpoints)? {
            return Err(held(out, &newest));
        }
    }
    let stop = interrupted()?;
    if world.rank > 0 {
        // Rank 0 writes and shows what all of them do.
        while trainer.steps_done() < trainer.settings().steps && !stop.load(Ordering::Relaxed) {
            trainer.step()?;
        }
        return Ok(Outcome::Success);
    }
    for folder in [out, &checkpoints, &out.join("samples")] {
        file::sweep(folder);
    }
    let run = Run::new(out, &trainer)?;
    let outcome = run.all(&mut trainer, &exact, &checkpoints, &stop);
    drop(lock);
    outcome
}

/// By which a run's folder is known.
const MARKER: &str = "run.json";

/// `run.json`.
#[derive(Serialize, Deserialize)]
struct Marker {
    /// The version that last wrote to the run.
    tweedie: String,
    settings: serde_json::Value,
}

/// Refuses a folder with something in a run's way that no run has written.
fn own(out: &Path) -> Result<()> {
    let marker = std::fs::read(out.join(MARKER)).ok();
    let marked = marker.is_some_and(|bytes| serde_json::from_slice::<Marker>(&bytes).is_ok());
    // Older versions left no mark but their checkpoints.
    if marked || newest(&out.join("checkpoints"))?.is_some() {
        return Ok(());
    }
    let empty =
        |path: &Path| std::fs::read_dir(path).is_ok_and(|mut entries| entries.next().is_none());
    let names = [MARKER, "checkpoints", "metrics.jsonl", "validation.jsonl", "samples"]
        .map(|name| out.join(name));
    match names.iter().find(|path| path.symlink_metadata().is_ok() && !empty(path)) {
        None => Ok(()),
        Some(path) => {
            let mend = "move it elsewhere, or pass another --out";
            Err(Error::file(
                path,
                format!("is in the way, and {} is no folder of a run's", out.display()),
                mend,
            ))
        }
    }
}

/// The newest checkpoint: `latest`, or the newest whole one where nothing names it.
fn newest(checkpoints: &Path) -> Result<Option<PathBuf>> {
    match checkpoint::latest(checkpoints)? {
        None => checkpoint::newest_whole(checkpoints),
        latest => Ok(latest),
    }
}

fn held(out: &Path, newest: &Path) -> Error {
    let mend = "pass --resume to go on from it, or another --out";
    Error::file(out, format!("holds a run already ({})", newest.display()), mend)
}

/// The run's folder, for this process alone.
fn hold(out: &Path) -> Result<Lock> {
    let lock = Lock::take(out)?;
    if let Some(unsure) = lock.unsure() {
        super::note(unsure);
    }
    Ok(lock)
}

/// Set by Ctrl-C and by a request to terminate; the second one ends the process at once.
fn interrupted() -> Result<Arc<AtomicBool>> {
    let stop = Arc::new(AtomicBool::new(false));
    for signal in [signal_hook::consts::SIGINT, signal_hook::consts::SIGTERM] {
        signal_hook::flag::register_conditional_shutdown(signal, INTERRUPTED.into(), stop.clone())
            .and_then(|_| signal_hook::flag::register(signal, stop.clone()))
            .map_err(|e| {
                Error::domain("signal handler", e, "a system with signals", "report this as a bug")
            })?;
    }
    Ok(stop)
}

/// What a shell reports of a command ended by Ctrl-C.
pub const INTERRUPTED: u8 = 130;

/// A line of `metrics.jsonl`.
#[derive(Serialize)]
struct Metrics {
    step: u64,
    loss: f64,
    grad_norm: f64,
    learning_rate: f64,
    /// Of the last step alone.
    images_per_s: f64,
}

/// A line of `validation.jsonl`.
#[derive(Serialize)]
struct Validated<'a> {
    step: u64,
    #[serde(flatten)]
    level: &'a Level,
}

/// What a run writes beside its checkpoints, and shows.
struct Run {
    out: PathBuf,
    metrics: Lines,
    validation: Lines,
    bar: ProgressBar,
}

impl Run {
    fn new<T: Element>(out: &Path, trainer: &Trainer<T>) -> Result<Self> {
        std::fs::create_dir_all(out).map_err(|e| {
            Error::file(out, format!("cannot be made: {e}"), "pass an --out that may be written")
        })?;
        let done = trainer.steps_done();
        let [metrics, validation] =
            ["metrics.jsonl", "validation.jsonl"].map(|name| Kept::read(out.join(name), done));
        let (metrics, validation) = (metrics?, validation?);
        let settings = serde_json::to_value(trainer.settings())
            .map_err(|e| Error::file(out, e, "report this as a bug"))?;
        file::write(
            &out.join(MARKER),
            &json(&Marker { tweedie: env!("CARGO_PKG_VERSION").into(), settings }),
        )?;
        let style = "{bar:30} {pos}/{len} steps, {msg}, {eta} left";
        let bar = ProgressBar::new(trainer.settings().steps)
            .with_style(ProgressStyle::with_template(style).expect("a template of known keys"))
            .with_position(done);
        Ok(Self {
            out: out.to_owned(),
            metrics: Lines::open(metrics)?,
            validation: Lines::open(validation)?,
            bar,
        })
    }

    /// Every step that is left.
    fn all<T: Element>(
        mut self,
        trainer: &mut Trainer<T>,
        exact: &Validation,
        checkpoints: &Path,
        stop: &AtomicBool,
    ) -> Result<Outcome> {
        let Settings { steps, batch, ref checkpoint, .. } = *trainer.settings();
        let (save_every, keep) = (checkpoint.every, checkpoint.keep);
        let (begun, first) = (Instant::now(), trainer.steps_done());
        let mut smooth = Smooth::default();
        while trainer.steps_done() < steps {
            let start = Instant::now();
            let Step { step, loss, grad_norm, learning_rate } = trainer.step()?;
            let images_per_s = batch as f64 / start.elapsed().as_secs_f64();
            self.metrics.put(&Metrics { step, loss, grad_norm, learning_rate, images_per_s })?;
            let speed = batch as f64 * (step - first) as f64 / begun.elapsed().as_secs_f64();
            self.bar.set_message(format!("loss {:.4}, {speed:.0} images/s", smooth.take(loss)));
            self.bar.set_position(step);
            let looked = self.look(trainer, exact);
            let stopped = stop.load(Ordering::Relaxed);
            // After all that a step writes, so that nothing is written twice; and whatever became
            // of it, so that no step is lost.
            if due(trainer, save_every) || stopped || looked.is_err() {
                checkpoint::save(trainer, checkpoints, keep)?;
            }
            looked?;
            if stopped && step < steps {
                self.bar.abandon();
                let folder = self.out.display();
                output::print(format!(
                    "{folder}: stopped and saved after step {step} of {steps}; go on with --resume\n"
                ))?;
                return Ok(Outcome::Interrupted);
            }
        }
        self.bar.finish_and_clear();
        let model = checkpoint::newest_model(&self.out)?.unwrap_or_default();
        let (folder, model) = (self.out.display(), model.display());
        let done = match steps - first {
            0 => format!("all {steps} steps were done before"),
            n => {
                let (seconds, place) = (begun.elapsed().as_secs_f64(), trainer.place());
                format!(
                    "{n} steps of {batch} images in {seconds:.1} s on {place}, loss {:.4}",
                    smooth.0
                )
            }
        };
        output::print(format!("{folder}: {done}; model {model}\n"))?;
        Ok(Outcome::Success)
    }

    /// Validates and samples where it is time to.
    fn look<T: Element>(&mut self, trainer: &mut Trainer<T>, exact: &Validation) -> Result<()> {
        let Settings { batch, ref validation, samples: ref sampling, .. } =
            trainer.settings().clone();
        let step = trainer.steps_done();
        if due(trainer, validation.every) || due(trainer, sampling.every) {
            trainer.sync()?;
        }
        if due(trainer, validation.every) {
            let network = trainer.network(trainer.best_params(), batch)?;
            let levels = trainer.loader().times().levels(validation.levels)?;
            let measured = exact.measure(&network, trainer.loader().data(), &levels)?;
            for level in &measured {
                self.validation.put(&Validated { step, level })?;
            }
        }
        let shape = trainer.setup().shape;
        // Other numbers of channels have no picture.
        if due(trainer, sampling.every) && matches!(shape.0, 1 | 3) {
            let x = samples::grid(trainer, trainer.best_params())?;
            let folder = self.out.join("samples");
            std::fs::create_dir_all(&folder)
                .map_err(|e| Error::file(&folder, format!("cannot be made: {e}"), "free space"))?;
            file::write(
                &folder.join(format!("step-{step}.png")),
                &picture::grid(x.view(), shape)?,
            )?;
        }
        Ok(())
    }
}

/// Whether it is time for what happens every so many steps and at the end.
fn due<T: Element>(trainer: &Trainer<T>, every: u64) -> bool {
    let step = trainer.steps_done();
    step == trainer.settings().steps || every != 0 && step.is_multiple_of(every)
}

/// A running mean of the loss, for people.
#[derive(Default)]
struct Smooth(f64, f64);

impl Smooth {
    fn take(&mut self, x: f64) -> f64 {
        // The weight of the newest falls to 1/50: at first this is the plain mean.
        self.1 = (self.1 + 1.0).min(50.0);
        self.0 += (x - self.0) / self.1;
        self.0
    }
}

/// What stays of a JSONL file when a run goes on after step `done`: later lines, of steps that will
/// be made again, are dropped, and so is half a line.
struct Kept {
    path: PathBuf,
    lines: String,
}

impl Kept {
    /// Writes nothing.
    ///
    /// # Errors
    /// A file that can't be read, or not be written.
    fn read(path: PathBuf, done: u64) -> Result<Self> {
        #[derive(Deserialize)]
        struct Numbered {
            step: u64,
        }
        let old = match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => vec![],
            old => old.map_err(|e| {
                let mend = "check its permissions, or move it elsewhere";
                Error::file(&path, format!("cannot be read: {e}"), mend)
            })?,
        };
        file::ready(&path)?;
        let lines = String::from_utf8_lossy(&old)
            .split_inclusive('\n')
            .filter(|line| {
                line.ends_with('\n')
                    && serde_json::from_str::<Numbered>(line).is_ok_and(|l| l.step <= done)
            })
            .collect();
        Ok(Self { path, lines })
    }
}

/// A JSONL file that grows.
struct Lines {
    path: PathBuf,
    file: File,
}

impl Lines {
    /// Opens a file to go on after the lines that are kept.
    fn open(Kept { path, lines }: Kept) -> Result<Self> {
        file::write(&path, lines.as_bytes())?;
        let file = File::options().append(true).open(&path).map_err(|e| {
            let mend = "check its folder and the disk's room";
            Error::file(&path, format!("cannot be written: {e}"), mend)
        })?;
        Ok(Self { path, file })
    }

    fn put(&mut self, line: &impl Serialize) -> Result<()> {
        let mut text = serde_json::to_string(line)
            .map_err(|e| Error::file(&self.path, e, "report this as a bug"))?;
        text.push('\n');
        let refused = |e| {
            Error::file(
                &self.path,
                format!("cannot be written: {e}"),
                "free space, and pass --resume",
            )
        };
        self.file.write_all(text.as_bytes()).map_err(refused)
    }
}
