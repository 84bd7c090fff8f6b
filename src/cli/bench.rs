//! `tweedie bench`: how fast a network runs here.

use super::Outcome;
use super::options::Precision;
use super::output::{self, Target};
use crate::device::Device;
use crate::error::{Error, Result};
use crate::math::matmul::matmul;
use crate::math::noise::Noise;
use crate::nn::adamw::{AdamW, State};
use crate::nn::config::UNetConfig;
use crate::nn::cpu::Cpu;
use crate::nn::element::Element;
use crate::nn::unet::unet;
use ndarray::Array2;
use serde::Serialize;
use std::path::PathBuf;
use std::time::Instant;

/// Time a network's forward pass and a whole training step
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tweedie bench unet --config ddpm-cifar10-32/unet/config.json --batch 4")]
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
#[command(after_help = "Example:\n  tweedie bench unet --config config.json --batch 32 --json -\n\n\
                  A training step is packing the weights, forward, the gradient of a mean square, backward, and AdamW. Before anything is timed the \
                  f32 output is held to the f64 one. Times are medians; on a busy machine compare ratios of one run alone.")]
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
    /// Number format
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
struct Figures {
    config: String,
    batch: usize,
    device: String,
    precision: &'static str,
    params: usize,
    forward_ms: f64,
    train_step_ms: f64,
    forward_fastest_ms: f64,
    train_step_fastest_ms: f64,
    images_per_s: f64,
    flops_per_step: usize,
    reps: usize,
    /// Floating-point operations a second of a product of two 1024 x 1024 matrices in this precision, in 1e9: the floor of the time is the
    /// network's operations at this rate.
    matrix_gflops: f64,
    /// Largest difference of the timed output from the f64 one, in units of its largest entry.
    error: f64,
    /// Where a step's time goes.
    parts: Vec<Part>,
}

/// Everything of one kind, in ms of one step.
#[derive(Serialize)]
struct Part {
    part: &'static str,
    forward_ms: f64,
    backward_ms: f64,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let Command::Unet(args) = &args.command;
    let device = args.device.for_networks()?;
    let figures =
        if args.precision.double_on_cpu()? { time::<f64>(args, device, "f64")? } else { time::<f32>(args, device, "f32")? };
    if let Some(target) = &args.json {
        target.write(&output::json(&figures))?;
    }
    if args.json != Some(Target::Stdout) {
        let rate = |flops: usize, ms: f64| {
            let gflops = flops as f64 / ms * 1e-6;
            format!(
                "{gflops:.0} GFLOP/s, {:.0} % of a matrix product's {:.0}",
                100.0 * gflops / figures.matrix_gflops,
                figures.matrix_gflops
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
        let rows: String =
            figures.parts.iter().map(|p| format!("  {:10} {:9.2} {:9.2}\n", p.part, p.forward_ms, p.backward_ms)).collect();
        output::print(format!("\nms of one step    forward  backward\n{rows}"))?;
    }
    Ok(Outcome::Success)
}

fn time<T: Element>(args: &UnetArgs, device: String, precision: &'static str) -> Result<Figures> {
    let config = UNetConfig::read(&args.config)?;
    let (height, width) = config
        .sample_shape()
        .ok_or_else(|| Error::domain("U-Net config `sample_size`", "null", "a size", "add sample_size to the config"))?;
    let program = unet(&config, height, width)?;
    let batch = usize::from(args.batch);
    let noise = Noise::new(0);
    // Weights of a deviation that keeps activations near 1.
    let mut params = vec![0.0; program.param_count()];
    for (i, param) in program.params.iter().enumerate() {
        let fan_in = param.shape[1..].iter().product::<usize>().max(1) as f64;
        let offset = if param.name.contains("norm") && param.name.ends_with("weight") { 1.0 } else { 0.0 };
        for (j, w) in params[param.at.clone()].iter_mut().enumerate() {
            *w = offset + noise.normal(i as u64, j as u64) / fan_in.sqrt() * if param.shape.len() == 1 { 0.1 } else { 1.0 };
        }
    }
    let mut x = vec![0.0; batch * program.tensors[program.input].size()];
    noise.fill_normal(u64::MAX, &mut x);
    let times: Vec<f64> =
        (0..batch).map(|i| (1 + i * 997 % 1000) as f64 / if program.divide_by_time { 1000.0 } else { 1.0 }).collect();
    let labels = config.num_class_embeds.map_or(vec![], |classes| (0..batch).map(|i| i % classes).collect());

    // One image in f64 is enough to know that what is timed is the network.
    let mut exact = Cpu::<f64>::new(program.clone(), 1);
    exact.load(&params);
    let first = |x: &[f64]| x[..x.len() / batch].to_vec();
    let want = exact.forward(&first(&x), &times[..1], &labels[..labels.len().min(1)])?.to_vec();
    drop(exact);

    let of = |x: &[f64]| x.iter().map(|x| T::of(*x)).collect::<Vec<T>>();
    let flops = 3 * batch * program.ops.iter().map(|op| program.flops(op)).sum::<usize>();
    let n = params.len();
    let mut run = Run {
        cpu: Cpu::new(program, batch),
        x: of(&x),
        times,
        labels,
        params: of(&params),
        grads: vec![T::zero(); n],
        adamw: AdamW::default(),
        state: State::new(n),
    };
    run.cpu.load(&run.params);
    let got = run.forward()?;
    let largest = want.iter().fold(0.0, |m: f64, y| m.max(y.abs()));
    let error =
        got.iter().zip(&want).map(|(g, w)| (g.wide() - w).abs()).fold(0.0, |m: f64, e| if e <= m { m } else { e }) / largest;
    if !(error <= 1e-3) {
        return Err(Error::domain("network output", format!("{error:e} off from f64"), "at most 1e-3", "report this as a bug"));
    }
    let (mut forward, mut step) = (Vec::new(), Vec::new());
    for rep in 0..=args.reps {
        let start = Instant::now();
        run.forward()?;
        let forward_time = start.elapsed();
        let start = Instant::now();
        run.step(&mut |_, _| {})?;
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
        config: args.config.display().to_string(),
        batch,
        device,
        precision,
        params: n,
        forward_ms: median(&forward),
        train_step_ms: median(&step),
        forward_fastest_ms: forward[0],
        train_step_fastest_ms: step[0],
        images_per_s: 1e3 * batch as f64 / median(&step),
        flops_per_step: flops,
        reps: args.reps.into(),
        matrix_gflops: matrix_gflops::<T>(args.reps.into()),
        error,
        parts,
    })
}

/// Median rate of a square matrix product, in 1e9 operations a second.
fn matrix_gflops<T: Element>(reps: usize) -> f64 {
    const N: usize = 1024;
    let a = Array2::from_shape_fn((N, N), |(i, j)| T::of(((i * 7 + j * 13) % 17) as f64 / 17.0));
    let mut c = a.clone();
    let mut times: Vec<f64> = (0..=2 * reps)
        .map(|_| {
            let start = Instant::now();
            matmul(T::one(), a.view(), a.t(), T::zero(), c.view_mut());
            start.elapsed().as_secs_f64()
        })
        .collect();
    times.sort_by(f64::total_cmp);
    2.0 * (N * N * N) as f64 / times[reps] * 1e-9
}

/// A network in training, on one batch.
struct Run<T> {
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

impl<T: Element> Run<T> {
    fn forward(&mut self) -> Result<&[T]> {
        self.cpu.forward(&self.x, &self.times, &self.labels)
    }

    /// A training step, calling `after` when a part of it is done.
    fn step(&mut self, after: &mut dyn FnMut(&'static str, Way)) -> Result<()> {
        let kinds: Vec<&'static str> = self.cpu.program().ops.iter().map(|op| op.kind()).collect();
        self.cpu.load(&self.params);
        after("packing", Way::Forward);
        let y = self.cpu.forward_observed(&self.x, &self.times, &self.labels, &mut |i| after(kinds[i], Way::Forward))?;
        let scale = T::of(2.0 / y.len() as f64);
        let dy: Vec<T> = y.iter().map(|y| scale * *y).collect();
        after("loss", Way::Backward);
        self.cpu.backward_observed(&dy, &mut self.grads, &mut |i| after(kinds[i], Way::Backward));
        self.adamw.step(&mut self.state, &mut self.params, &self.grads);
        after("adamw", Way::Backward);
        Ok(())
    }

    /// One more step, timed part by part, the dearest first.
    fn parts(&mut self) -> Result<Vec<Part>> {
        let mut parts: Vec<Part> = Vec::new();
        let mut last = Instant::now();
        self.step(&mut |part, way| {
            let now = Instant::now();
            let ms = 1e3 * (now - std::mem::replace(&mut last, now)).as_secs_f64();
            let at = parts.iter().position(|p| p.part == part).unwrap_or_else(|| {
                parts.push(Part { part, forward_ms: 0.0, backward_ms: 0.0 });
                parts.len() - 1
            });
            match way {
                Way::Forward => parts[at].forward_ms += ms,
                Way::Backward => parts[at].backward_ms += ms,
            }
        })?;
        parts.sort_by(|a, b| (b.forward_ms + b.backward_ms).total_cmp(&(a.forward_ms + a.backward_ms)));
        Ok(parts)
    }
}
