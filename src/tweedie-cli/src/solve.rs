//! `tweedie solve`: the exact PF-ODE map between two times.

use super::Outcome;
use super::options::{Parameters, PathName};
use super::output::{self, Document, Number, Target};
use ndarray::Axis;
use serde::Serialize;
use std::path::PathBuf;
use tweedie::error::{Error, Result};
use tweedie::exact::pf_ode::{pf_ode_map, pf_ode_measured};
use tweedie::law_file::{self, LawFile};
use tweedie::npy;

/// Move states along the probability-flow ODE of a law, exactly
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  tweedie solve --law law.json --path vp --from 1 --to 0 noise.npy -o data.npy\n\n\
                  law.json is for example {\"kind\": \"gaussian\", \"mean\": [0, 1], \"variances\": [4, 0.25]}. noise.npy holds the states at time --from, \
                  shape (n, d) or (d,). A Gaussian is solved in closed form, every other law by an adaptive integrator, which \
                  reports the error that it reached, relative to the law's deviation at --to."
)]
pub struct Args {
    /// Law of the data: gaussian, mixture or empirical
    #[arg(long, value_name = "LAW.json")]
    law: PathBuf,
    /// Noise path
    #[arg(long, value_name = "P")]
    path: PathName,
    /// Time of the states given, in [0, 1]; 1 is noise
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    from: f64,
    /// Time of the states wanted, in [0, 1]; 0 is data
    #[arg(long, value_name = "T", allow_negative_numbers = true)]
    to: f64,
    /// States at time --from
    #[arg(value_name = "X.npy")]
    states: PathBuf,
    /// Write the states at time --to, in f64 and the shape of X.npy; '-' for standard output
    #[arg(short, long, value_name = "Y.npy")]
    output: Target,
    /// Write what was done as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
    #[command(flatten)]
    parameters: Parameters,
}

#[derive(Serialize)]
struct Summary {
    states: usize,
    dim: usize,
    method: &'static str,
    /// Of the integrator: estimated error relative to the law's deviation at the end, and its
    /// steps.
    #[serde(flatten)]
    reached: Option<Reached>,
}

#[derive(Serialize)]
struct Reached {
    error: Number,
    steps: usize,
}

pub fn run(args: &Args) -> Result<Outcome> {
    output::possible(&[("-o", Some(&args.output)), ("--json", args.json.as_ref())])?;
    let law = law_file::read(&args.law)?;
    let path = args.parameters.path(args.path)?;
    let (from, to) = (path.still_at(args.from)?, path.still_at(args.to)?);
    let x = npy::read(&args.states)?;
    let shape = x.shape().to_vec();
    let (n, d) = match shape[..] {
        [d] => (1, d),
        [n, d] => (n, d),
        _ => (0, 0),
    };
    if n == 0 || d != law.dim() {
        let problem =
            format!("shape {shape:?}, wanted (n, {0}) or ({0},), the law's dimension", law.dim());
        return Err(Error::file(&args.states, problem, "pass states of the law's dimension"));
    }
    let x = x.into_shape_with_order((n, d)).expect("C order");
    let (y, method, reached) = match &law {
        LawFile::Gaussian(law) => (pf_ode_map(law, x.view(), from, to)?, "closed form", None),
        other => {
            let mut solution = pf_ode_measured(other.law(), x.view(), &[from, to])?;
            let reached = Reached { error: Number(solution.errors[1]), steps: solution.steps };
            (solution.states.swap_remove(1), "adaptive integrator", Some(reached))
        }
    };
    let y = if shape.len() == 1 { y.index_axis_move(Axis(0), 0).into_dyn() } else { y.into_dyn() };
    // Both are made before either is written.
    let accuracy = reached.as_ref().map_or(String::new(), |r| {
        format!(", {} steps, error about {:.0e} of the law's deviation", r.steps, r.error.0)
    });
    let (states, said) =
        (Document::npy(&y)?, Document::json(&Summary { states: n, dim: d, method, reached })?);
    args.output.write(&states)?;
    if let (Target::File(path), false) = (&args.output, args.json == Some(Target::Stdout)) {
        let plural = if n == 1 { "" } else { "s" };
        output::print(format!(
            "{}: {n} state{plural} of dimension {d}, {method}{accuracy}\n",
            path.display()
        ))?;
    }
    if let Some(target) = &args.json {
        target.write(&said)?;
    }
    Ok(Outcome::Success)
}
