//! `tweedie sample`: run a sampler on a law or on a network.

use super::Outcome;
use super::options::{Parameters, PathName, ScheduleName, choice};
use super::output::{self, Document, Npz, Number, Target};
use indicatif::{ProgressBar, ProgressStyle};
use ndarray::{Array1, Array2, Axis};
use serde::Serialize;
use std::path::{Path as FilePath, PathBuf};
use tweedie::diffusion::prediction::Prediction;
use tweedie::diffusion::schedule::Table;
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::{Error, Result};
use tweedie::law::Law;
use tweedie::law::conditional::Guided;
use tweedie::law_file::{self, LawFile};
use tweedie::math::noise::Noise;
use tweedie::room;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::model::{Clipped, Predicting};
use tweedie::sample::noise_source::standard_start;
use tweedie::sample::propagate::{Response, Start, modes};
use tweedie::sample::registry::{Named, Options, SAMPLERS, VarianceName, sampler};
use tweedie::sample::sample_watched;
use tweedie::sample::shortcut::Known;
use tweedie::sample::{Sampled, Sampler};
use tweedie_device::{Device, Place, Precision};
use tweedie_nn::data::picture;
use tweedie_nn::element::Element;
use tweedie_nn::pipeline::{Pipeline, Setup};
use tweedie_nn::program::Pass;
use tweedie_nn::scheduler_config::{self, Setting};
use tweedie_nn::train::checkpoint::newest_model;

/// Run a sampler on a law, whose denoiser is exact, or on a network
#[derive(clap::Args, Clone)]
#[command(after_help = help())]
pub struct Args {
    /// Law of the data
    #[arg(long, value_name = "LAW.json")]
    law: Option<PathBuf>,
    /// Model folder: its network is sampled with its scheduler's settings; beside --law the law is,
    /// with these settings
    #[arg(long, value_name = "DIR", required_unless_present = "law")]
    model: Option<PathBuf>,
    /// Method [default: the folder's]
    #[arg(long, value_name = "NAME", required_unless_present = "model")]
    sampler: Option<String>,
    /// Steps
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=100_000))]
    steps: u32,
    /// Spacing of the steps [default: the folder's; karras on a path, leading on a schedule]
    #[arg(long, value_name = "G", value_parser = choice::<Spacing>())]
    grid: Option<Spacing>,
    /// Continuous path [default: the network's, edm for a law]
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
    /// What the model predicts [default: the folder's, x0 for a law]
    #[arg(long, value_name = "P", value_parser = choice::<Prediction>())]
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
    /// Highest sigma/alpha of the grid, cut to the path's [default: 80, the network's highest]
    #[arg(long, value_name = "S")]
    s_max: Option<f64>,
    /// Lowest sigma/alpha before the last step, cut to the path's [default: 0.002, the network's
    /// lowest]
    #[arg(long, value_name = "S")]
    s_min: Option<f64>,
    /// Time shift of the uniform and beta grids [default: 1]
    #[arg(long, value_name = "SHIFT")]
    shift: Option<f64>,
    /// Class of the network or component of the mixture, from 0
    #[arg(long, value_name = "C")]
    class: Option<usize>,
    /// Guidance weight: 0 unconditional, 1 the class itself, above 1 guided
    #[arg(
        long,
        value_name = "W",
        default_value_t = 1.0,
        allow_negative_numbers = true,
        requires = "class"
    )]
    guidance: f64,
    /// Number format of a network: f64, f32, and on a GPU tf32, bf16 [default: f32]
    #[arg(long, value_name = "P", conflicts_with = "law")]
    precision: Option<Precision>,
    /// What a network runs on: auto, cpu, cuda, cuda:N
    #[arg(long, value_name = "D", default_value = "auto", conflicts_with = "law")]
    device: Device,
    /// Write a network's samples as one picture to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE.png", conflicts_with = "law")]
    png: Option<Target>,
    /// Clip x0 to [-B, B], eps with it [default: the folder's, inf not to]
    #[arg(long, value_name = "B")]
    clip: Option<f64>,
    /// Noise of ddim: 0 none, 1 DDPM's
    #[arg(long, value_name = "ETA", default_value_t = 0.0, allow_negative_numbers = true)]
    eta: f64,
    /// Variance of ddpm
    #[arg(long, value_name = "V", default_value = "posterior", value_parser = choice::<VarianceName>())]
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
    let samplers: String =
        SAMPLERS.iter().map(|e| format!("  {:<20} {}\n", e.name, e.about)).collect();
    format!(
        "Samplers:\n{samplers}  {:<20} a jump by the Gaussian with the data's moments, then NAME\n\n\
         Examples:\n  tweedie sample --law law.json --sampler dpmpp-2m --steps 20 -n 1000 -o samples.npz\n  \
         tweedie sample --law law.json --sampler ddim --schedule linear --grid leading --steps 50 --trajectory -o run.npz\n  \
         tweedie sample --model ddpm-cifar10-32/ --sampler dpmpp-2m --steps 20 -o samples.npz --png samples.png\n  \
         tweedie sample --model runs/train-digits/ --class 3 --guidance 2 --sampler heun --steps 18 -o threes.npz --png threes.png\n  \
         tweedie sample --law law.json --model stable-diffusion/ --steps 25 -o samples.npz\n  \
         tweedie sample --law mixture.json --class 2 --guidance 3 --sampler heun --steps 18 -o guided.npz\n\n\
         OUT.npz holds x (n, d), d = c h w for a network; with --trajectory x (K+1, n, d), alpha and sigma (K+1), the format of 'tweedie \
         check'. A network can be sampled along another path than its own: it is then asked at the matching noise levels. For Gaussian data \
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
    /// Where the network ran.
    #[serde(skip_serializing_if = "Option::is_none")]
    device: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    clip: Option<f64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exact_w2: Option<Number>,
}

/// The folder's setting or the default, with the flags put over it; the network's path where there
/// is a network.
fn setting(args: &Args, network: Option<&Setup>) -> Result<Setting> {
    let plain = |path: Path, prediction| {
        let (sampler, spacing) = match path {
            Path::Discrete(_) => ("ddim", Spacing::Leading),
            Path::FlowMatching if network.is_some() => ("fm-euler", Spacing::Uniform),
            _ => ("ddim", Spacing::Karras),
        };
        Setting {
            sampler,
            path,
            grid: Grid::new(spacing, 1),
            prediction,
            one_more: false,
            ends_noisy: false,
            dynamic_shift: false,
            clip: None,
        }
    };
    let prediction = network.map_or(Prediction::X0, |setup| setup.prediction);
    let mut setting = match (&args.model, args.schedule, args.path) {
        (Some(_), Some(_), _) | (Some(_), _, Some(_)) if args.law.is_some() => {
            let (got, allowed) = (
                "--schedule or --path beside --law and --model",
                "one of them: the folder says the schedule",
            );
            return Err(Error::domain("schedule", got, allowed, "leave one out"));
        }
        (_, Some(name), _) => {
            let table = Table::new(
                args.parameters.schedule(name)?,
                args.train_steps as usize,
                args.zero_terminal_snr,
            )?;
            plain(Path::Discrete(table), prediction)
        }
        (_, None, Some(name)) => plain(args.parameters.path(name)?, prediction),
        (Some(folder), None, None) => match network {
            None => scheduler_config::read(folder)?,
            Some(setup) if !scheduler_config::is_in(folder) => {
                plain(setup.path.clone(), prediction)
            }
            // The setup says exactly what the network is; the scheduler knows how to sample it, if
            // it is of the same path.
            Some(setup) => match scheduler_config::read(folder)? {
                scheduler if scheduler.path == setup.path => Setting { prediction, ..scheduler },
                _ => plain(setup.path.clone(), prediction),
            },
        },
        (None, None, None) => plain(args.parameters.path(PathName::Edm)?, prediction),
    };
    if setting.dynamic_shift && args.shift.is_none() {
        let (what, allowed) = (
            "shift of this folder",
            "a number, because the folder's depends on the image's size (use_dynamic_shifting)",
        );
        return Err(Error::domain(what, "none", allowed, "pass --shift, for example 3"));
    }
    let grid = &mut setting.grid;
    if let Some((lowest, highest)) = network.map(Setup::range).transpose()? {
        (grid.s_min, grid.s_max) = (grid.s_min.max(lowest), grid.s_max.min(highest));
    }
    grid.steps = args.steps as usize;
    grid.spacing = args.grid.unwrap_or(grid.spacing);
    grid.rho = args.rho.unwrap_or(grid.rho);
    grid.s_max = args.s_max.unwrap_or(grid.s_max);
    grid.s_min = args.s_min.unwrap_or(grid.s_min);
    grid.shift = args.shift.unwrap_or(grid.shift);
    setting.prediction = args.prediction.unwrap_or(setting.prediction);
    // A law is not clipped because a folder's networks are.
    setting.clip = args.clip.or(setting.clip.filter(|_| network.is_some()));
    Ok(setting)
}

pub fn run(args: &Args) -> Result<Outcome> {
    output::possible(&[
        ("-o", Some(&args.output)),
        ("--json", args.json.as_ref()),
        ("--png", args.png.as_ref()),
    ])?;
    // A training run's folder stands for its newest model.
    let newest = args.model.as_deref().map(newest_model).transpose()?.flatten();
    let args = &Args { model: newest.or_else(|| args.model.clone()), ..args.clone() };
    match (&args.law, &args.model) {
        (None, Some(folder)) => {
            let precision = args.precision.unwrap_or_default();
            let place = args.device.place(precision)?;
            match precision {
                Precision::F64 => of_network::<f64>(args, folder, &place),
                _ => of_network::<f32>(args, folder, &place),
            }
        }
        (Some(path), _) => of_law(args, &law_file::read(path)?),
        (None, None) => unreachable!("clap wants one of them"),
    }
}

fn of_law(args: &Args, file: &LawFile) -> Result<Outcome> {
    let setting = setting(args, None)?;
    let points = setting.points()?;
    let guided = guided(args, file)?;
    let mut model: &dyn Denoiser = file.law();
    if let Some(guided) = &guided {
        model = guided;
    }
    let predicting = Predicting { inner: model, kind: setting.prediction };
    predicting.defined(&points)?;
    // Guided or clipped, the model's law is none of the known ones.
    let as_given = guided.is_none() && args.clip.is_none();
    let options = options(args, as_given.then(|| file.known()));
    let (end, mut summary) = sampled(args, &setting, &points, &predicting, options, None)?;
    if let (LawFile::Gaussian(law), true) = (file, as_given) {
        let law = modes(law)?;
        let name = &summary.sampler;
        let response = Response::of_method(
            &Named { name, options },
            &points,
            Law::cov(&law).diag().to_owned(),
        )?;
        summary.exact_w2 =
            Some(Number(response.w2(&law.mean().to_owned(), Start::Normal(start_std(&points[0])))));
    }
    report(args, &points, &end, &summary, None)
}

/// Memory for the activations of one batch; larger batches are no faster.
const ACTIVATIONS: usize = 1 << 29;

fn of_network<T: Element>(args: &Args, folder: &FilePath, place: &Place) -> Result<Outcome> {
    super::note_missing_sums(folder);
    let mut pipeline = Pipeline::open(folder)?;
    pipeline.setup.prediction = args.prediction.unwrap_or(pipeline.setup.prediction);
    let setting = setting(args, Some(&pipeline.setup))?;
    let points = setting.points()?;
    let numbers = pipeline.program()?.plan(Pass::Forward).len();
    let batch = (ACTIVATIONS / (numbers * size_of::<T>())).clamp(1, 64).min(args.n as usize);
    let network = pipeline.network::<T>(batch, place)?;
    let of_class = args.class.map(|c| network.with_label(c)).transpose()?;
    let guided = match &of_class {
        Some(of_class) if args.guidance != 1.0 => {
            if network.setup().null_class.is_none() {
                let allowed = "1, for a network that was not trained without labels too (null_class of tweedie.json)";
                return Err(Error::domain(
                    "guidance",
                    args.guidance,
                    allowed,
                    "leave --guidance out",
                ));
            }
            Some(Guided::new(of_class, &network, args.guidance)?)
        }
        _ => None,
    };
    of_class.as_ref().unwrap_or(&network).defined(&points)?;
    let model: &dyn Denoiser = match (&guided, &of_class) {
        (Some(guided), _) => guided,
        (None, Some(of_class)) => of_class,
        (None, None) => &network,
    };
    // States that are written down or clipped on the way are this side's; otherwise the whole run
    // stays on the network's device.
    let stays = !args.trajectory && setting.clip.is_none_or(|bound| bound == f64::INFINITY);
    let on_device = |method: &dyn Sampler, start: &Array2<f64>, noise: Noise| {
        let guidance = guided.as_ref().map(|_| (&network, args.guidance));
        of_class.as_ref().unwrap_or(&network).sampled(
            method,
            &points,
            start.view(),
            noise,
            guidance,
        )
    };
    let on_device: Option<&OnDevice> = if stays { Some(&on_device) } else { None };
    let (end, mut summary) =
        sampled(args, &setting, &points, model, options(args, None), on_device)?;
    summary.device = Some(place.to_string());
    if end.x.iter().any(|x| !x.is_finite()) {
        let (got, allowed) = ("numbers that are not finite", "finite numbers");
        return Err(Error::domain(
            "samples",
            got,
            allowed,
            "the network's output overflows: try --precision f64, or --clip 1",
        ));
    }
    let shape = network.setup().shape;
    let drawn = args.png.as_ref().map(|_| picture::grid(end.x.view(), shape)).transpose()?;
    report(args, &points, &end, &summary, drawn.map(Document::made))
}

fn options<'a>(args: &Args, law: Option<Known<'a>>) -> Options<'a> {
    Options {
        law,
        variance: args.variance,
        eta: args.eta,
        g: args.g,
        churn: args.churn,
        corrections: args.corrections,
        skipped: args.skip,
    }
}

/// What a run leaves behind.
struct Ran {
    states: Vec<Array2<f64>>,
    x: Array2<f64>,
    nfe: usize,
}

/// A run of a sampler from its starts on the device of a network, where there is one that can.
type OnDevice<'a> = dyn Fn(&dyn Sampler, &Array2<f64>, Noise) -> Result<Option<Sampled>> + 'a;

fn sampled(
    args: &Args,
    setting: &Setting,
    points: &[PathPoint],
    model: &dyn Denoiser,
    options: Options,
    on_device: Option<&OnDevice>,
) -> Result<(Ran, Summary)> {
    let clipped = Clipped { inner: model, bound: setting.clip.unwrap_or(f64::INFINITY) };
    if !(clipped.bound > 0.0) {
        return Err(Error::domain(
            "clip",
            clipped.bound,
            "above 0",
            "leave it out to keep x0 as it is",
        ));
    }
    let name = args.sampler.as_deref().unwrap_or(setting.sampler);
    let method = sampler(name, &options)?;
    // The state, its prediction and what a multistep method remembers; every state where they are
    // kept, and again as they are written.
    let kept = if args.trajectory { 3 * points.len() } else { 0 };
    let numbers = f64::from(args.n) * model.dim() as f64 * (8 + kept) as f64;
    room::holds(
        format!("{} samples of dimension {}", args.n, model.dim()),
        8.0 * numbers,
        "ask for fewer samples, or without --trajectory",
    )?;
    let mut noise = Noise::new(args.seed);
    let start = standard_start(&noise, args.n as usize, model.dim()) * start_std(&points[0]);
    let bar = ProgressBar::new(points.len() as u64 - 1);
    let style = ProgressStyle::with_template(
        "{spinner} steps [{bar:24}] {pos}/{len} {elapsed} (left {eta})",
    );
    bar.set_style(style.unwrap_or(ProgressStyle::default_bar()));
    let mut states = Vec::new();
    let end = match on_device.map(|run| run(&method, &start, noise)).transpose()?.flatten() {
        Some(end) => end,
        None => sample_watched(&method, &clipped, points, start, &mut noise, |k, x| {
            bar.set_position(k as u64);
            if args.trajectory {
                states.push(x.clone());
            }
        })?,
    };
    bar.finish_and_clear();
    let summary = Summary {
        sampler: name.to_owned(),
        prediction: setting.prediction,
        steps: points.len() - 1,
        nfe: end.nfe,
        samples: args.n,
        dim: model.dim(),
        clip: setting.clip.filter(|bound| bound.is_finite()),
        exact_w2: None,
        device: None,
    };
    Ok((Ran { states, x: end.x, nfe: end.nfe }, summary))
}

fn report(
    args: &Args,
    points: &[PathPoint],
    end: &Ran,
    summary: &Summary,
    drawn: Option<Document>,
) -> Result<Outcome> {
    // All are made before any is written.
    let (samples, said) = (npz(&end.states, &end.x, points, end.nfe)?, Document::json(summary)?);
    args.output.write(&samples)?;
    if let (Some(target), Some(drawn)) = (&args.png, &drawn) {
        target.write(drawn)?;
    }
    if let Some(target) = &args.json {
        target.write(&said)?;
    }
    let to_stdout = [args.json.as_ref(), args.png.as_ref()].contains(&Some(&Target::Stdout));
    if let (Target::File(path), false) = (&args.output, to_stdout) {
        let w2 = summary
            .exact_w2
            .as_ref()
            .map_or(String::new(), |w| format!(", exact W2 of its law to the data {:.6e}", w.0));
        let on = summary.device.as_ref().map_or(String::new(), |device| format!(" on {device}"));
        let Summary { sampler, samples, dim, nfe, .. } = summary;
        output::print(format!(
            "{}: {samples} samples of dimension {dim} by {sampler}, {nfe} evaluations{on}{w2}\n",
            path.display()
        ))?;
    }
    Ok(Outcome::Success)
}

/// The mixture's component, guided away from the whole, where a class was asked for.
fn guided<'a>(args: &Args, file: &'a LawFile) -> Result<Option<Guided<'a>>> {
    match (args.class, file) {
        (None, _) => Ok(None),
        (Some(c), LawFile::Mixture(law)) => {
            Ok(Some(Guided::new(law.class(c)?, law, args.guidance)?))
        }
        (Some(c), _) => Err(Error::domain(
            "class",
            c,
            "a law of kind mixture, whose components are the classes",
            "leave --class out",
        )),
    }
}

/// Deviation of the start: 1 on a variance-preserving path, sigma on the others.
fn start_std(at: &PathPoint) -> f64 {
    let total = at.alpha.hypot(at.sigma);
    if (total - 1.0).abs() <= 1e-9 { 1.0 } else { at.sigma }
}

fn npz(
    states: &[Array2<f64>],
    end: &Array2<f64>,
    points: &[PathPoint],
    nfe: usize,
) -> Result<Document> {
    let mut npz = Npz::new();
    if states.is_empty() {
        npz.add("x", end.view(), false)?;
    } else {
        let views: Vec<_> = states.iter().map(|x| x.view()).collect();
        npz.add("x", ndarray::stack(Axis(0), &views).expect("states of one shape").view(), false)?;
        let column = |f: fn(&PathPoint) -> f64| points.iter().map(f).collect::<Array1<f64>>();
        npz.add("alpha", column(|p| p.alpha).view(), false)?;
        npz.add("sigma", column(|p| p.sigma).view(), false)?;
    }
    npz.count("nfe", nfe);
    Ok(npz.document())
}
