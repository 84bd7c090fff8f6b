//! `tweedie check`: foreign trajectories and samples held to the exact answer.

use super::options::choice;
use super::output::{self, Document, Number, Target};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use std::fmt::Write;
use std::path::PathBuf;
use std::time::Duration;
use tweedie::error::{Result, printable};
use tweedie::law_file;
use tweedie::recording::{self, Checked, Kind, Outcome};
use tweedie::sample::check::{Report, StepReport, Verdict};

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
    #[arg(long, value_name = "KIND", value_parser = choice::<Kind>())]
    kind: Option<Kind>,
    /// Write the reports as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
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
    nfe: Option<u64>,
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

impl From<Checked> for FileLine {
    fn from(Checked { file, name, kind, nfe, report }: Checked) -> Self {
        let step = |s: StepReport| StepLine {
            k: s.k,
            alpha: Number(s.alpha),
            sigma: Number(s.sigma),
            rel_err: Number(s.rel_err),
        };
        Self {
            file: file.display().to_string(),
            name,
            kind,
            steps: report.steps,
            rows: report.rows,
            nfe,
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

pub fn run(args: &Args) -> Result<crate::Outcome> {
    let read = args.files.iter().chain([&args.law]);
    output::spared(args.json.as_ref(), read)?;
    output::possible(&[("--json", args.json.as_ref())])?;
    let law = law_file::read(&args.law)?;
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{spinner} {msg} [{bar:24}] {pos}/{len} {elapsed}");
    bar.set_style(style.unwrap_or(ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(120));
    let outcome = recording::check_watched(&args.files, &law, args.kind, &|done, of, what| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.set_message(printable(what).into_owned());
    });
    bar.finish_and_clear();
    let outcome = outcome?;
    if args.json != Some(Target::Stdout) {
        output::print(text(&outcome))?;
    }
    let holds = outcome.holds();
    if let Some(target) = &args.json {
        let Outcome { recordings, order, flows } = outcome;
        let order = order.map(|o| OrderLine {
            slope: Number(o.slope),
            stderr: Number(o.stderr),
            files: flows,
        });
        // NaN is an error that is off: it is said, and the exit code is 1.
        target.write(&Document::verdicts(&Output {
            files: recordings.into_iter().map(FileLine::from).collect(),
            order,
        }))?;
    }
    Ok(if holds { crate::Outcome::Success } else { crate::Outcome::CheckFailed })
}

fn text(outcome: &Outcome) -> String {
    let mut text = String::new();
    for line in &outcome.recordings {
        let Report { verdict, steps, rows, max_rel_err, final_rel_err, law, findings, .. } =
            &line.report;
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
    if let Some(o) = outcome.order {
        let _ =
            writeln!(text, "order {:.2} +- {:.2} over {} files", o.slope, o.stderr, outcome.flows);
    }
    text
}
