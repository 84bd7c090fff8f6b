//! `tweedie bench`: how fast a network runs here.

use super::Outcome;
use super::output::{self, Document, Target};
use ndarray::Array2;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;
use tweedie::error::{Error, Result};
use tweedie::math::larger;
use tweedie::math::matmul::matmul;
use tweedie::math::noise::Noise;
use tweedie::number::or_word;
use tweedie_device::{Device, Place, Precision};
use tweedie_nn::adamw::{AdamW, State};
use tweedie_nn::config::UNetConfig;
use tweedie_nn::cpu::Cpu;
use tweedie_nn::cuda::Cuda;
use tweedie_nn::data::Dataset;
use tweedie_nn::element::Element;
use tweedie_nn::program::Pass;
use tweedie_nn::train::{Data, Settings, Trainer};
use tweedie_nn::unet::unet;

/// Time a network's forward pass and a whole training step
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  tweedie bench unet --config ddpm-cifar10-32/unet/config.json --batch 4"
)]
pub struct Args {
    #[command(subcommand)]
    command: Command,
}

#[derive(clap::Subcommand)]
enum Command {
    /// A U-Net of diffusers' config, with random weights
    Unet(UnetArgs),
}

#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  tweedie bench unet --config config.json --batch 32 --json -\n\n\
                  A training step is packing the weights, forward, the gradient of a mean square, backward, and AdamW. Before anything is timed the \
                  f32 output is held to the f64 one. Times are medians; on a busy machine compare ratios of one run alone."
)]
struct UnetArgs {
    /// diffusers' UNet2DModel config
    #[arg(long, value_name = "CONFIG.json")]
    config: PathBuf,
    /// Images in a batch
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u16).range(1..))]
    batch: u16,
    /// What to compute on
    #[arg(long, value_name = "D", default_value = "auto")]
    device: Device,
    /// Number format: f64, f32, and on a GPU tf32, bf16
    #[arg(long, value_name = "P", default_value = "f32")]
    precision: Precision,
    /// Repetitions, after one that does not count
    #[arg(long, value_name = "N", default_value = "9", value_parser = clap::value_parser!(u16).range(1..))]
    reps: u16,
    /// Write the figures as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
}

#[derive(Serialize)]
pub(super) struct Figures {
    pub config: String,
    pub batch: usize,
    pub device: String,
    pub precision: &'static str,
    pub params: usize,
    #[serde(serialize_with = "or_word")]
    pub forward_ms: f64,
    #[serde(serialize_with = "or_word")]
    pub train_step_ms: f64,
    #[serde(serialize_with = "or_word")]
    pub forward_fastest_ms: f64,
    #[serde(serialize_with = "or_word")]
    pub train_step_fastest_ms: f64,
    #[serde(serialize_with = "or_word")]
    pub images_per_s: f64,
    pub flops_per_step: usize,
    pub reps: usize,
    /// Floating-point operations a second of a product of two square matrices in this precision, in
    /// 1e9 (1024 rows on the CPU, 4096 on a GPU): the floor of the time is the network's operations
    /// at this rate.
    #[serde(serialize_with = "or_word")]
    pub matrix_gflops: f64,
    /// Largest difference of the timed output from the f64 one, in units of its largest entry.
    #[serde(serialize_with = "or_word")]
    pub error: f64,
    /// Where a step's time goes.
    pub parts: Vec<Part>,
}

/// Everything of one kind, in ms of one step.
#[derive(Serialize)]
pub(super) struct Part {
    pub part: &'static str,
    #[serde(serialize_with = "or_word")]
    pub forward_ms: f64,
    #[serde(serialize_with = "or_word")]
    pub backward_ms: f64,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let Command::Unet(args) = &args.command;
    let place = args.device.place(args.precision)?;
    let figures = match args.precision {
        Precision::F64 => time::<f64>(args, &place)?,
        _ => time::<f32>(args, &place)?,
    };
    if let Some(target) = &args.json {
        target.write(&Document::json(&figures)?)?;
    }
    if args.json != Some(Target::Stdout) {
        let rate = |flops: usize, ms: f64| {
            let gflops = flops as f64 / ms * 1e-6;
            let matrix = figures.matrix_gflops;
            format!(
                "{gflops:.0} GFLOP/s, {:.0} % of a matrix product's {matrix:.0}",
                100.0 * gflops / matrix
            )
        };
        output::print(format!(
            "{}, batch {}, {} on {}: {:.2} M parameters\nforward        {:9.2} ms  (fastest {:.2}; {})\ntraining step  {:9.2} ms  \
             (fastest {:.2}; {}), {:.1} images/s\nmedians of {}; off from f64 by {:.1e}\n",
            figures.config,
            figures.batch,
            figures.precision,
            figures.device,
            figures.params as f64 * 1e-6,
            figures.forward_ms,
            figures.forward_fastest_ms,
            rate(figures.flops_per_step / 3, figures.forward_ms),
            figures.train_step_ms,
            figures.train_step_fastest_ms,
            rate(figures.flops_per_step, figures.train_step_ms),
            figures.images_per_s,
            figures.reps,
            figures.error,
        ))?;
        let rows: String = figures
            .parts
            .iter()
            .map(|p| format!("  {:10} {:9.2} {:9.2}\n", p.part, p.forward_ms, p.backward_ms))
            .collect();
        output::print(format!("\nms of one step    forward  backward\n{rows}"))?;
    }
    Ok(Outcome::Success)
}

fn time<T: Element>(args: &UnetArgs, place: &Place) -> Result<Figures> {
    let config = UNetConfig::read(&args.config)?;
    let run = Run {
        name: args.config.display().to_string(),
        batch: args.batch.into(),
        precision: args.precision,
        reps: args.reps.into(),
        matrix: if matches!(place, Place::Cpu) { 1024 } else { 4096 },
    };
    measure::<T>(&config, run, place)
}

/// What is to be timed.
pub(super) struct Run {
    /// Of the config.
    pub name: String,
    pub batch: usize,
    pub precision: Precision,
    pub reps: usize,
    /// Rows of the square matrices whose product is the floor.
    pub matrix: usize,
}

/// Holds a network with random weights to f64, then times it.
///
/// # Errors
/// A config without a size; an output that is off; a device without enough memory.
pub(super) fn measure<T: Element>(config: &UNetConfig, run: Run, place: &Place) -> Result<Figures> {
    let Run { name, batch, precision, reps, matrix } = run;
    let (height, width) = config.sample_shape().ok_or_else(|| {
        Error::domain(
            "U-Net config `sample_size`",
            "null",
            "a size",
            "add sample_size to the config",
        )
    })?;
    let program = unet(config, height, width)?;
    // In f64 the weights, one image and its network; then what is timed.
    program.fits(1, &[Pass::Recorded, Pass::Backward], 2, 8)?;
    program.fits(batch, &[Pass::Recorded, Pass::Backward], 8, size_of::<T>())?;
    let noise = Noise::new(0);
    // Weights of a deviation that keeps activations near 1.
    let mut params = vec![0.0; program.param_count()];
    for (i, param) in program.params.iter().enumerate() {
        let fan_in = param.shape[1..].iter().product::<usize>().max(1) as f64;
        let offset =
            if param.name.contains("norm") && param.name.ends_with("weight") { 1.0 } else { 0.0 };
        for (j, w) in params[param.at.clone()].iter_mut().enumerate() {
            *w = offset
                + noise.normal(i as u64, j as u64) / fan_in.sqrt()
                    * if param.shape.len() == 1 { 0.1 } else { 1.0 };
        }
    }
    let mut x = vec![0.0; batch * program.tensors[program.input].size()];
    noise.fill_normal(u64::MAX, &mut x);
    let times: Vec<f64> = (0..batch)
        .map(|i| (1 + i * 997 % 1000) as f64 / if program.divide_by_time { 1000.0 } else { 1.0 })
        .collect();
    let labels =
        config.num_class_embeds.map_or(vec![], |classes| (0..batch).map(|i| i % classes).collect());

    // One image in f64 is enough to know that what is timed is the network.
    let mut exact = Cpu::<f64>::new(program.clone(), 1);
    exact.load(&params);
    let first = |x: &[f64]| x[..x.len() / batch].to_vec();
    let want = exact.forward(&first(&x), &times[..1], &labels[..labels.len().min(1)])?.to_vec();
    drop(exact);

    let of = |x: &[f64]| x.iter().map(|x| T::of(*x)).collect::<Vec<T>>();
    let flops = 3 * batch * program.ops.iter().map(|op| program.flops(op)).sum::<usize>();
    let n = params.len();
    let (x, params) = (of(&x), of(&params));
    let mut run: Box<dyn Timed<T>> = match place {
        Place::Cpu => {
            let mut cpu = Cpu::new(program, batch);
            cpu.load(&params);
            let (adamw, state) = (AdamW::default(), State::new(n));
            Box::new(OnCpu {
                cpu,
                x,
                times,
                labels,
                params,
                grads: vec![T::zero(); n],
                adamw,
                state,
            })
        }
        Place::Gpu(gpu, precision) => {
            let mut cuda = Cuda::new(program, batch, gpu, *precision)?;
            cuda.load(&params)?;
            let trainer = Trainer::placed(recipe(config, batch)?, images(config, batch)?, place)?;
            Box::new(OnGpu { cuda, trainer, x, times, labels, grads: vec![T::zero(); n] })
        }
    };
    let got = run.forward()?;
    let largest = want.iter().map(|y| y.abs()).fold(0.0, larger);
    let error =
        got.iter().zip(&want).map(|(g, w)| (g.wide() - w).abs()).fold(0.0, larger) / largest;
    let most = match precision {
        Precision::F64 | Precision::F32 => 1e-3,
        // Some hundred roundings on the way, each at most half of this, none of them aligned.
        Precision::Tf32 | Precision::Bf16 => 50.0 * precision.unit_roundoff(),
    };
    if !(error <= most) {
        let allowed = format!("at most {most:.1e}");
        return Err(Error::domain(
            "network output",
            format!("{error:e} off from f64"),
            allowed,
            "report this as a bug",
        ));
    }
    let (mut forward, mut step) = (Vec::new(), Vec::new());
    for rep in 0..=reps {
        let start = Instant::now();
        run.pass()?;
        let forward_time = start.elapsed();
        let start = Instant::now();
        run.step()?;
        if rep > 0 {
            forward.push(forward_time.as_secs_f64() * 1e3);
            step.push(start.elapsed().as_secs_f64() * 1e3);
        }
    }
    forward.sort_by(f64::total_cmp);
    step.sort_by(f64::total_cmp);
    let median = |t: &[f64]| t[t.len() / 2];
    let parts = run.parts()?;
    Ok(Figures {
        config: name,
        batch,
        device: place.to_string(),
        precision: precision.name(),
        params: n,
        forward_ms: median(&forward),
        train_step_ms: median(&step),
        forward_fastest_ms: forward[0],
        train_step_fastest_ms: step[0],
        images_per_s: 1e3 * batch as f64 / median(&step),
        flops_per_step: flops,
        reps,
        matrix_gflops: run.matrix_gflops(matrix, reps)?,
        error,
        parts,
    })
}

/// What is timed.
trait Timed<T> {
    /// The network's output for the batch.
    fn forward(&mut self) -> Result<&[T]>;

    /// A forward pass, its output left where it was made.
    fn pass(&mut self) -> Result<()>;

    /// A training step.
    fn step(&mut self) -> Result<()>;

    /// One more step, timed part by part, the dearest first.
    fn parts(&mut self) -> Result<Vec<Part>>;

    /// Median rate of a square matrix product, in 1e9 operations a second.
    fn matrix_gflops(&self, rows: usize, reps: usize) -> Result<f64>;
}

/// Median of `reps` times in seconds, after a run that does not count.
pub(super) fn median(reps: usize, mut run: impl FnMut() -> Result<()>) -> Result<f64> {
    run()?;
    let mut times = vec![];
    for _ in 0..reps.max(1) {
        let start = Instant::now();
        run()?;
        times.push(start.elapsed().as_secs_f64());
    }
    times.sort_by(f64::total_cmp);
    Ok(times[times.len() / 2])
}

/// Median rate of a product of square matrices, in 1e9 operations a second.
fn gflops(rows: usize, reps: usize, product: impl FnMut() -> Result<()>) -> Result<f64> {
    Ok(2.0 * rows.pow(3) as f64 / median(2 * reps + 1, product)? * 1e-9)
}

/// Adds the time since `last` to a part.
fn add(parts: &mut Vec<Part>, last: &mut Instant, part: &'static str, way: Way) {
    let now = Instant::now();
    let ms = 1e3 * (now - std::mem::replace(last, now)).as_secs_f64();
    let at = parts.iter().position(|p| p.part == part).unwrap_or_else(|| {
        parts.push(Part { part, forward_ms: 0.0, backward_ms: 0.0 });
        parts.len() - 1
    });
    match way {
        Way::Forward => parts[at].forward_ms += ms,
        Way::Backward => parts[at].backward_ms += ms,
    }
}

fn dearest_first(mut parts: Vec<Part>) -> Vec<Part> {
    parts.sort_by(|a, b| (b.forward_ms + b.backward_ms).total_cmp(&(a.forward_ms + a.backward_ms)));
    parts
}

/// A network in training on a GPU: its own images, noise and optimiser, as `tweedie train` has
/// them.
struct OnGpu<T> {
    cuda: Cuda<T>,
    trainer: Trainer<T>,
    x: Vec<T>,
    times: Vec<f64>,
    labels: Vec<usize>,
    grads: Vec<T>,
}

/// The recipe of a step that is timed.
fn recipe(config: &UNetConfig, batch: usize) -> Result<Settings> {
    let network = toml::to_string(config)
        .map_err(|e| Error::domain("U-Net config", e, "one that TOML can say", "report this"))?;
    Settings::parse(&format!(
        "steps = 1000000\nbatch = {batch}\n[data]\n[path]\nkind = \"vp\"\nbeta_min = 0.1\nbeta_max = 20.0\n[objective]\nprediction = \"eps\"\n\
         [ema]\nconstant = [0.9999]\n[network]\n{network}"
    ))
}

/// Images to train on: their content does not matter to the time.
fn images(config: &UNetConfig, batch: usize) -> Result<Data> {
    let (h, w) = config.sample_shape().expect("asked for before");
    let shape = (config.in_channels, h, w);
    // One of each class at least, so that the data have as many as the network.
    let n = batch.max(config.num_class_embeds.unwrap_or(0));
    let mut x = Array2::zeros((n, shape.0 * h * w));
    Noise::new(1).fill_normal(0, x.as_slice_mut().expect("a new array is contiguous"));
    let labels =
        config.num_class_embeds.map(|classes| (0..n).map(|i| (i % classes) as u32).collect());
    Data::images(
        Dataset { name: "noise".into(), images: x, shape, labels, source: String::new() },
        0,
    )
}

impl<T: Element> Timed<T> for OnGpu<T> {
    fn forward(&mut self) -> Result<&[T]> {
        self.cuda.forward(&self.x, &self.times, &self.labels)
    }

    fn pass(&mut self) -> Result<()> {
        self.cuda.forward_on_device()?;
        self.cuda.gpu().synchronize()
    }

    fn step(&mut self) -> Result<()> {
        self.trainer.step().map(drop)
    }

    fn parts(&mut self) -> Result<Vec<Part>> {
        let kinds: Vec<&'static str> = self.cuda.program().ops.iter().map(|op| op.kind()).collect();
        self.forward()?;
        let dy = self.x.clone();
        self.cuda.backward(&dy, &mut self.grads)?;
        let (mut parts, mut last) = (vec![], Instant::now());
        self.cuda.forward_observed(&mut |i| {
            add(&mut parts, &mut last, kinds[i], Way::Forward);
            Ok(())
        })?;
        last = Instant::now();
        self.cuda.backward_observed(&mut |i| {
            add(&mut parts, &mut last, kinds[i], Way::Backward);
            Ok(())
        })?;
        Ok(dearest_first(parts))
    }

    fn matrix_gflops(&self, rows: usize, reps: usize) -> Result<f64> {
        gflops(rows, reps, self.cuda.square_product(rows)?)
    }
}

/// A network in training on the CPU, on one batch.
struct OnCpu<T> {
    cpu: Cpu<T>,
    x: Vec<T>,
    times: Vec<f64>,
    labels: Vec<usize>,
    params: Vec<T>,
    grads: Vec<T>,
    adamw: AdamW,
    state: State<T>,
}

/// The way that a part of a step belongs to.
#[derive(Clone, Copy, PartialEq)]
enum Way {
    Forward,
    Backward,
}

impl<T: Element> OnCpu<T> {
    /// A training step, calling `after` when a part of it is done.
    fn observed(&mut self, after: &mut dyn FnMut(&'static str, Way)) -> Result<()> {
        let kinds: Vec<&'static str> = self.cpu.program().ops.iter().map(|op| op.kind()).collect();
        self.cpu.load(&self.params);
        after("packing", Way::Forward);
        let y = self.cpu.forward_observed(&self.x, &self.times, &self.labels, &mut |i| {
            after(kinds[i], Way::Forward)
        })?;
        let scale = T::of(2.0 / y.len() as f64);
        let dy: Vec<T> = y.iter().map(|y| scale * *y).collect();
        after("loss", Way::Backward);
        self.cpu.backward_observed(&dy, &mut self.grads, &mut |i| after(kinds[i], Way::Backward));
        self.adamw.step(&mut self.state, &mut self.params, &self.grads);
        after("adamw", Way::Backward);
        Ok(())
    }
}

impl<T: Element> Timed<T> for OnCpu<T> {
    fn forward(&mut self) -> Result<&[T]> {
        self.cpu.forward(&self.x, &self.times, &self.labels)
    }

    fn pass(&mut self) -> Result<()> {
        self.forward().map(drop)
    }

    fn step(&mut self) -> Result<()> {
        self.observed(&mut |_, _| {})
    }

    fn parts(&mut self) -> Result<Vec<Part>> {
        let (mut parts, mut last) = (vec![], Instant::now());
        self.observed(&mut |part, way| add(&mut parts, &mut last, part, way))?;
        Ok(dearest_first(parts))
    }

    fn matrix_gflops(&self, rows: usize, reps: usize) -> Result<f64> {
        let a = Array2::from_shape_fn((rows, rows), |(i, j)| {
            T::of(((i * 7 + j * 13) % 17) as f64 / 17.0)
        });
        let mut c = a.clone();
        gflops(rows, reps, || {
            matmul(T::one(), a.view(), a.t(), T::zero(), c.view_mut());
            Ok(())
        })
    }
}
