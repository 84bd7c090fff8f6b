//! `tweedie sample`: run a sampler on a law.

use super::Outcome;
use super::law_file::{self, LawFile};
use super::options::{Parameters, PathName, ScheduleName};
use super::output::{self, Number, Target};
use super::scheduler_config::{self, Setting};
use crate::diffusion::prediction::Prediction;
use crate::diffusion::schedule::Table;
use crate::diffusion::{Denoiser, Path, PathPoint};
use crate::error::{Error, Result};
use crate::law::Law;
use crate::law::conditional::Guided;
use crate::math::noise::Noise;
use crate::sample::grid::{Grid, Spacing};
use crate::sample::model::{Clipped, Predicting};
use crate::sample::noise_source::standard_start;
use crate::sample::propagate::{Response, Start, modes};
use crate::sample::registry::{Named, Options, SAMPLERS, VarianceName, sampler};
use crate::sample::{sample, trajectory};
use ndarray::{Array1, Array2, Axis};
use ndarray_npy::NpzWriter;
use serde::Serialize;
use std::io::Cursor;
use std::path::PathBuf;

/// Run a sampler on a law whose denoiser is exact
#[derive(clap::Args)]
#[command(after_help = help())]
pub struct Args {
    /// Law of the data
    #[arg(long, value_name = "LAW.json")]
    law: Option<PathBuf>,
    /// Pipeline folder whose scheduler settings are taken (scheduler/scheduler_config.json); flags override them
    #[arg(long, value_name = "DIR", conflicts_with_all = ["schedule", "path"], required_unless_present = "law")]
    model: Option<PathBuf>,
    /// Method [default: the folder's]
    #[arg(long, value_name = "NAME", required_unless_present = "model")]
    sampler: Option<String>,
    /// Steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// Spacing of the steps [default: karras on a path, leading on a schedule]
    #[arg(long, value_name = "G")]
    grid: Option<Spacing>,
    /// Continuous path [default: edm]
    #[arg(long, value_name = "P", conflicts_with = "schedule")]
    path: Option<PathName>,
    /// Discrete schedule
    #[arg(long, value_name = "S")]
    schedule: Option<ScheduleName>,
    /// Steps of the discrete schedule
    #[arg(long, value_name = "T", default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    train_steps: u32,
    /// Rescale a discrete schedule so that alpha ends at exactly 0
    #[arg(long)]
    zero_terminal_snr: bool,
    /// What the model predicts [default: x0]
    #[arg(long, value_name = "P")]
    prediction: Option<Prediction>,
    /// Number of samples
    #[arg(short, value_name = "N", default_value_t = 16, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    n: u32,
    /// Seed of the start and of the noise
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Keep every state
    #[arg(long)]
    trajectory: bool,
    /// Write the samples to OUT.npz, '-' for standard output
    #[arg(short, long, value_name = "OUT.npz")]
    output: Target,
    /// Write what was done as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
    /// Exponent of the karras grid [default: 7]
    #[arg(long, value_name = "RHO")]
    rho: Option<f64>,
    /// Highest sigma/alpha of the grid, cut to the path's [default: 80]
    #[arg(long, value_name = "S")]
    s_max: Option<f64>,
    /// Lowest sigma/alpha before the last step, cut to the path's [default: 0.002]
    #[arg(long, value_name = "S")]
    s_min: Option<f64>,
    /// Time shift of the uniform and beta grids [default: 1]
    #[arg(long, value_name = "SHIFT")]
    shift: Option<f64>,
    /// Component of a mixture to guide towards, from 0
    #[arg(long, value_name = "C")]
    class: Option<usize>,
    /// Guidance weight: 0 unconditional, 1 the class itself, above 1 guided
    #[arg(long, value_name = "W", default_value_t = 1.0, allow_negative_numbers = true, requires = "class")]
    guidance: f64,
    /// Clip x0 to [-B, B], eps with it
    #[arg(long, value_name = "B")]
    clip: Option<f64>,
    /// Noise of ddim: 0 none, 1 DDPM's
    #[arg(long, value_name = "ETA", default_value_t = 0.0, allow_negative_numbers = true)]
    eta: f64,
    /// Variance of ddpm
    #[arg(long, value_name = "V", default_value = "posterior")]
    variance: VarianceName,
    /// Noise of reverse-sde-family, in units of the forward process's
    #[arg(long, value_name = "G", default_value_t = 1.0, allow_negative_numbers = true)]
    g: f64,
    /// Churn of edm-heun
    #[arg(long, value_name = "CHURN", default_value_t = 0.0, allow_negative_numbers = true)]
    churn: f64,
    /// Langevin steps a level, of langevin and pc
    #[arg(long, value_name = "N", default_value_t = 1)]
    corrections: usize,
    /// Steps that teleport+NAME skips
    #[arg(long, value_name = "K", default_value_t = 1)]
    skip: usize,
    #[command(flatten)]
    parameters: Parameters,
}

fn help() -> String {
    let samplers: String = SAMPLERS.iter().map(|e| format!("  {:<20} {}\n", e.name, e.about)).collect();
    format!(
        "Samplers:\n{samplers}  {:<20} a jump by the Gaussian with the data's moments, then NAME\n\n\
         Examples:\n  tweedie sample --law law.json --sampler dpmpp-2m --steps 20 -n 1000 -o samples.npz\n  \
         tweedie sample --law law.json --sampler ddim --schedule linear --grid leading --steps 50 --trajectory -o run.npz\n  \
         tweedie sample --law law.json --model stable-diffusion/ --steps 25 -o samples.npz\n  \
         tweedie sample --law mixture.json --class 2 --guidance 3 --sampler heun --steps 18 -o guided.npz\n\n\
         OUT.npz holds x (n, d); with --trajectory x (K+1, n, d), alpha and sigma (K+1), the format of 'tweedie check'. For Gaussian data \
         the exact W2 distance of the sampler's law to the data's is printed too.",
        "teleport+NAME"
    )
}

#[derive(Serialize)]
struct Summary {
    sampler: String,
    prediction: Prediction,
    steps: usize,
    nfe: usize,
    samples: u32,
    dim: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    exact_w2: Option<Number>,
}

/// The folder's setting or the default, with the flags put over it.
fn setting(args: &Args) -> Result<Setting> {
    let plain = |path, spacing| Setting {
        sampler: "ddim",
        path,
        grid: Grid::new(spacing, 1),
        prediction: Prediction::X0,
        ends_noisy: false,
        dynamic_shift: false,
    };
    let mut setting = match (&args.model, args.schedule) {
        (Some(folder), _) => scheduler_config::read(folder)?,
        (None, Some(name)) => {
            let table = Table::new(args.parameters.schedule(name)?, args.train_steps as usize, args.zero_terminal_snr)?;
            plain(Path::Discrete(table), Spacing::Leading)
        }
        (None, None) => plain(args.parameters.path(args.path.unwrap_or(PathName::Edm))?, Spacing::Karras),
    };
    if setting.dynamic_shift && args.shift.is_none() {
        let (what, allowed) =
            ("shift of this folder", "a number, because the folder's depends on the image's size (use_dynamic_shifting)");
        return Err(Error::domain(what, "none", allowed, "pass --shift, for example 3"));
    }
    let grid = &mut setting.grid;
    grid.steps = args.steps as usize;
    grid.spacing = args.grid.unwrap_or(grid.spacing);
    grid.rho = args.rho.unwrap_or(grid.rho);
    grid.s_max = args.s_max.unwrap_or(grid.s_max);
    grid.s_min = args.s_min.unwrap_or(grid.s_min);
    grid.shift = args.shift.unwrap_or(grid.shift);
    setting.prediction = args.prediction.unwrap_or(setting.prediction);
    Ok(setting)
}

/// The law that was given; the network that could stand in its place is not there yet.
fn law(args: &Args) -> Result<LawFile> {
    match &args.law {
        Some(path) => law_file::read(path),
        None => {
            let allowed = "a law beside the folder: the folder's network comes with the U-Net";
            Err(Error::domain(
                "model",
                "--model without --law",
                allowed,
                "pass --law LAW.json, which is then sampled with the folder's settings",
            ))
        }
    }
}

pub fn run(args: &Args) -> Result<Outcome> {
    let file = law(args)?;
    let setting = setting(args)?;
    let points = setting.points()?;
    let guided = guided(args, &file)?;
    let mut model: &dyn Denoiser = file.law();
    if let Some(guided) = &guided {
        model = guided;
    }
    let predicting = Predicting { inner: model, kind: setting.prediction };
    predicting.defined(&points)?;
    let clipped = Clipped { inner: &predicting, bound: args.clip.unwrap_or(f64::INFINITY) };
    if !(clipped.bound > 0.0) {
        return Err(Error::domain("clip", clipped.bound, "above 0", "leave it out to keep x0 as it is"));
    }
    // Guided or clipped, the model's law is none of the known ones.
    let as_given = guided.is_none() && args.clip.is_none();
    let options = Options {
        law: as_given.then(|| file.known()),
        variance: args.variance,
        eta: args.eta,
        g: args.g,
        churn: args.churn,
        corrections: args.corrections,
        skipped: args.skip,
    };
    let name = args.sampler.as_deref().unwrap_or(setting.sampler);
    let method = sampler(name, &options)?;
    let std = start_std(&points[0]);
    let mut noise = Noise::new(args.seed);
    let start = standard_start(&noise, args.n as usize, model.dim()) * std;
    let (states, end) = if args.trajectory {
        trajectory(&method, &clipped, &points, start, &mut noise)?
    } else {
        (Vec::new(), sample(&method, &clipped, &points, start, &mut noise)?)
    };
    args.output.write(&npz(&states, &end.x, &points, end.nfe))?;
    let exact_w2 = match &file {
        LawFile::Gaussian(law) if as_given => {
            let law = modes(law)?;
            let response = Response::of_method(&Named { name, options }, &points, Law::cov(&law).diag().to_owned())?;
            Some(response.w2(&law.mean().to_owned(), Start::Normal(std)))
        }
        _ => None,
    };
    let summary = Summary {
        sampler: name.to_owned(),
        prediction: setting.prediction,
        steps: points.len() - 1,
        nfe: end.nfe,
        samples: args.n,
        dim: model.dim(),
        exact_w2: exact_w2.map(Number),
    };
    if let Some(target) = &args.json {
        target.write(&output::json(&summary))?;
    }
    if let (Target::File(path), false) = (&args.output, args.json == Some(Target::Stdout)) {
        let w2 = exact_w2.map_or(String::new(), |w| format!(", exact W2 of its law to the data {w:.6e}"));
        let (n, d, nfe) = (args.n, model.dim(), end.nfe);
        output::print(format!("{}: {n} samples of dimension {d} by {name}, {nfe} evaluations{w2}\n", path.display()))?;
    }
    Ok(Outcome::Success)
}

/// The mixture's component, guided away from the whole, where a class was asked for.
fn guided<'a>(args: &Args, file: &'a LawFile) -> Result<Option<Guided<'a>>> {
    match (args.class, file) {
        (None, _) => Ok(None),
        (Some(c), LawFile::Mixture(law)) => Ok(Some(Guided::new(law.class(c)?, law, args.guidance)?)),
        (Some(c), _) => {
            Err(Error::domain("class", c, "a law of kind mixture, whose components are the classes", "leave --class out"))
        }
    }
}

/// Deviation of the start: 1 on a variance-preserving path, sigma on the others.
fn start_std(at: &PathPoint) -> f64 {
    let total = at.alpha.hypot(at.sigma);
    if (total - 1.0).abs() <= 1e-9 { 1.0 } else { at.sigma }
}

fn npz(states: &[Array2<f64>], end: &Array2<f64>, points: &[PathPoint], nfe: usize) -> Vec<u8> {
    let mut writer = NpzWriter::new(Cursor::new(Vec::new()));
    const MEMORY: &str = "memory takes every byte";
    if states.is_empty() {
        writer.add_array("x", end).expect(MEMORY);
    } else {
        let views: Vec<_> = states.iter().map(|x| x.view()).collect();
        writer.add_array("x", &ndarray::stack(Axis(0), &views).expect("states of one shape")).expect(MEMORY);
        let column = |f: fn(&PathPoint) -> f64| points.iter().map(f).collect::<Array1<f64>>();
        writer.add_array("alpha", &column(|p| p.alpha)).expect(MEMORY);
        writer.add_array("sigma", &column(|p| p.sigma)).expect(MEMORY);
    }
    writer.add_array("nfe", &ndarray::arr0(nfe as i64)).expect(MEMORY);
    writer.finish().expect(MEMORY).into_inner()
}
