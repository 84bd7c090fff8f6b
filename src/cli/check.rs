//! `tweedie check`: foreign trajectories and samples held to the exact answer.

use super::Outcome;
use super::law_file;
use super::output::{self, Document, Number, Target};
use crate::data::npy::{self, Archive};
use crate::diffusion::PathPoint;
use crate::error::{Error, Result};
use crate::sample::check::{Recording, Report, StepReport, Verdict, check_ode, check_samples, check_sde, order_of};
use crate::sample::order::Order;
use crate::sample::shortcut::Known;
use clap::ValueEnum;
use ndarray::{Array1, Array2, Ix1};
use serde::Serialize;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// Hold a foreign sampler's trajectory or samples to the exact answer
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  tweedie check run-10.npz run-20.npz run-40.npz --law law.json\n  tweedie check samples.npz --law law.json --kind samples\n\n\
                  A trajectory holds x (K+1, n, d) in sampling order and alpha, sigma (K+1), the coordinates x_t = alpha x0 + sigma eps of each state; \
                  samples hold x (n, d). Verdicts: exact (rounding, or sampling error), converging (a discretisation at work), off (something is wrong). \
                  Exit code 1 when a verdict is off. A law of several variances, one of them 0, and a mean other than 0 lets most be read from a trajectory."
)]
pub struct Args {
    /// Recordings
    #[arg(value_name = "TRAJ.npz", required = true)]
    files: Vec<PathBuf>,
    /// Law of the data that the model denoises exactly
    #[arg(long, value_name = "LAW.json")]
    law: PathBuf,
    /// What was recorded [default: ode, samples where x is (n, d)]
    #[arg(long, value_name = "KIND")]
    kind: Option<Kind>,
    /// Write the reports as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
}

/// What was recorded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum, Serialize)]
#[serde(rename_all = "lowercase")]
enum Kind {
    /// Trajectory of a deterministic sampler
    Ode,
    /// Trajectory of a stochastic sampler
    Sde,
    /// Samples of x0
    Samples,
}

/// What `--json` writes.
#[derive(Serialize)]
struct Output {
    files: Vec<FileLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    order: Option<OrderLine>,
}

#[derive(Serialize)]
struct FileLine {
    file: String,
    name: String,
    kind: Kind,
    steps: usize,
    rows: usize,
    #[serde(skip_serializing_if = "Option::is_none")]
    nfe: Option<i64>,
    verdict: Verdict,
    findings: Vec<String>,
    max_rel_err: Number,
    final_rel_err: Number,
    per_step: Vec<StepLine>,
    #[serde(skip_serializing_if = "Option::is_none")]
    law: Option<LawLine>,
}

#[derive(Serialize)]
struct StepLine {
    k: usize,
    alpha: Number,
    sigma: Number,
    rel_err: Number,
}

#[derive(Serialize)]
struct LawLine {
    mean_err: Number,
    cov_err: Number,
    w2: Number,
    w2_stderr: Number,
    p_value: Number,
}

#[derive(Serialize)]
struct OrderLine {
    slope: Number,
    stderr: Number,
    files: usize,
}

/// One file and what was found in it.
struct Line {
    file: PathBuf,
    stored: Stored,
    kind: Kind,
    report: Report,
}

impl From<Line> for FileLine {
    fn from(line: Line) -> Self {
        let Line { file, stored, kind, report } = line;
        let name = stored.name.unwrap_or_else(|| file.file_stem().unwrap_or_default().to_string_lossy().into_owned());
        let step = |s: StepReport| StepLine { k: s.k, alpha: Number(s.alpha), sigma: Number(s.sigma), rel_err: Number(s.rel_err) };
        Self {
            file: file.display().to_string(),
            name,
            kind,
            steps: report.steps,
            rows: report.rows,
            nfe: stored.nfe,
            verdict: report.verdict,
            findings: report.findings,
            max_rel_err: Number(report.max_rel_err),
            final_rel_err: Number(report.final_rel_err),
            per_step: report.per_step.into_iter().map(step).collect(),
            law: report.law.map(|l| LawLine {
                mean_err: Number(l.mean_err),
                cov_err: Number(l.cov_err),
                w2: Number(l.w2),
                w2_stderr: Number(l.w2_stderr),
                p_value: Number(l.p_value),
            }),
        }
    }
}

pub fn run(args: &Args) -> Result<Outcome> {
    let file = law_file::read(&args.law)?;
    let law = file.known();
    let mut lines = Vec::new();
    for path in &args.files {
        let mut stored = Stored::read(path, file.dim())?;
        let kind = args.kind.unwrap_or(if matches!(stored.states, States::Samples(_)) { Kind::Samples } else { Kind::Ode });
        let report = stored.held_to(law, kind).map_err(|e| match e {
            Error::File { .. } => e,
            other => Error::file(path, format!("cannot be checked: {other}"), "see 'tweedie check --help' for the format"),
        })?;
        lines.push(Line { file: path.clone(), stored, kind, report });
    }
    let flows: Vec<Report> = lines.iter().filter(|l| l.kind == Kind::Ode).map(|l| l.report.clone()).collect();
    let order = order_of(&flows);
    if let Some(o) = order.filter(|o| o.slope + 2.0 * o.stderr < 0.5) {
        for line in lines.iter_mut().filter(|l| l.kind == Kind::Ode && l.report.verdict == Verdict::Converging) {
            line.report.verdict = Verdict::Off;
            line.report.findings.push(format!("the error does not fall with the number of steps: order {:.2}", o.slope));
        }
    }
    let text = text(&lines, order, flows.len());
    let good = lines.iter().all(|l| l.report.verdict != Verdict::Off);
    if args.json != Some(Target::Stdout) {
        output::print(text)?;
    }
    if let Some(target) = &args.json {
        let order = order.map(|o| OrderLine { slope: Number(o.slope), stderr: Number(o.stderr), files: flows.len() });
        // NaN is an error that is off: it is said, and the exit code is 1.
        target.write(&Document::verdicts(&Output { files: lines.into_iter().map(FileLine::from).collect(), order }))?;
    }
    Ok(if good { Outcome::Success } else { Outcome::CheckFailed })
}

fn text(lines: &[Line], order: Option<Order>, files: usize) -> String {
    let mut text = String::new();
    for line in lines {
        let Report { verdict, steps, rows, max_rel_err, final_rel_err, law, findings, .. } = &line.report;
        let file = line.file.display();
        let word = match verdict {
            Verdict::Exact => "exact",
            Verdict::Converging => "converging",
            Verdict::Off => "off",
        };
        let _ = match law {
            Some(l) => writeln!(
                text,
                "{file}: {word}, {rows} rows, W2 {:.3e} +- {:.1e}, mean off by {:.2e}, covariance by {:.2e}, p {:.2e}",
                l.w2, l.w2_stderr, l.mean_err, l.cov_err, l.p_value
            ),
            None => writeln!(
                text,
                "{file}: {word}, {steps} steps, relative error {final_rel_err:.3e} at the end, {max_rel_err:.3e} at most"
            ),
        };
        for finding in findings {
            let _ = writeln!(text, "  {finding}");
        }
    }
    if let Some(o) = order {
        let _ = writeln!(text, "order {:.2} +- {:.2} over {files} files", o.slope, o.stderr);
    }
    text
}

/// What a file holds.
struct Stored {
    path: PathBuf,
    states: States,
    levels: Option<(Array1<f64>, Array1<f64>)>,
    nfe: Option<i64>,
    name: Option<String>,
}

enum States {
    Trajectory { x: Vec<Array2<f64>>, single: bool },
    Samples(Array2<f64>),
}

const FORMAT: &str = "save x (K+1, n, d), alpha and sigma (K+1) as float32 or float64 with numpy.savez";

impl Stored {
    /// States of dimension `d`.
    fn read(path: &Path, d: usize) -> Result<Self> {
        let refused = |problem: String| Error::file(path, problem, FORMAT);
        let mut archive = Archive::open(path)?;
        let fits = |shape: &[usize]| match shape {
            [.., dim] if matches!(shape.len(), 2 | 3) && *dim != d => {
                Err(refused(format!("cannot be checked: x has shape {shape:?}, wanted {d} for its last axis, the law's dimension")))
            }
            [0, _] | [_, 0, _] | [0, _, _] => Err(refused(format!("x has shape {shape:?}, wanted at least one state"))),
            [_, _] | [_, _, _] => Ok(()),
            _ => Err(refused(format!("x has shape {shape:?}, wanted (K+1, n, d), or (n, d) for samples"))),
        };
        let Some(npy::States { mut states, several, single }) = archive.states("x", fits)? else {
            return Err(refused(format!("holds no array 'x', only: {}", archive.names().join(", "))));
        };
        let states = match several {
            true => States::Trajectory { x: states, single },
            false => States::Samples(states.remove(0)),
        };
        let mut column = |name: &str| -> Result<Option<Array1<f64>>> {
            let Some((array, _)) = archive.array(name)? else { return Ok(None) };
            let shape = array.shape().to_vec();
            let wrong = |_| refused(format!("{name} has shape {shape:?}, wanted (K+1,), one entry a state"));
            array.into_dimensionality::<Ix1>().map(Some).map_err(wrong)
        };
        let levels = match (column("alpha")?, column("sigma")?) {
            (Some(alpha), Some(sigma)) => Some((alpha, sigma)),
            (None, None) => None,
            (alpha, _) => {
                let (has, lacks) = if alpha.is_some() { ("alpha", "sigma") } else { ("sigma", "alpha") };
                return Err(refused(format!("holds {has} and no {lacks}")));
            }
        };
        let nfe = archive.array("nfe")?.and_then(|(a, _)| a.first().copied()).map(|nfe| nfe as i64);
        Ok(Self { path: path.to_owned(), states, levels, nfe, name: archive.text("name")? })
    }

    /// The states are given away.
    fn held_to(&mut self, law: Known, kind: Kind) -> Result<Report> {
        let refused = |problem: &str| Err(Error::file(&self.path, problem, FORMAT));
        match (&mut self.states, kind, &self.levels) {
            (States::Samples(x), Kind::Samples, _) => check_samples(x, law),
            // The last states of a trajectory are samples too.
            (States::Trajectory { x, .. }, Kind::Samples, _) if !x.is_empty() => check_samples(&x[x.len() - 1], law),
            (States::Trajectory { x, single }, Kind::Ode | Kind::Sde, Some((alpha, sigma))) => {
                if alpha.len() != x.len() || sigma.len() != alpha.len() {
                    let got = format!("x has {} states, alpha {} and sigma {} entries", x.len(), alpha.len(), sigma.len());
                    return refused(&got);
                }
                levels_fit(&self.path, alpha, sigma)?;
                let recording = Recording {
                    x: std::mem::take(x),
                    points: alpha.iter().zip(sigma).map(|(&a, &s)| PathPoint::still(a, s)).collect(),
                    single: *single,
                };
                if kind == Kind::Ode { check_ode(&recording, law) } else { check_sde(&recording, law) }
            }
            (States::Samples(_), ..) => refused("x has shape (n, d), which is no trajectory: pass --kind samples"),
            _ => refused(
                "holds no alpha and sigma, without which a state has no level; pass --kind samples for its last states alone",
            ),
        }
    }
}

/// That every state has a level, and that they are in sampling order.
fn levels_fit(path: &Path, alpha: &Array1<f64>, sigma: &Array1<f64>) -> Result<()> {
    let level = |(a, s): (&f64, &f64)| *a >= 0.0 && *s >= 0.0 && (a + s).is_finite() && a + s > 0.0;
    if let Some(k) = alpha.iter().zip(sigma).position(|p| !level(p)) {
        let problem = format!("state {k} has alpha = {} and sigma = {}, allowed: finite, >= 0, not both 0", alpha[k], sigma[k]);
        return Err(Error::file(path, problem, "record the coordinates of x_t = alpha x0 + sigma eps"));
    }
    let last = alpha.len() - 1;
    if last == 0 {
        return Err(Error::file(path, "holds one state, wanted the start and every step's end", FORMAT));
    }
    if alpha[0] * sigma[last] > alpha[last] * sigma[0] {
        return Err(Error::file(path, "runs from data to noise", "save the states in sampling order, from noise to data"));
    }
    Ok(())
}
