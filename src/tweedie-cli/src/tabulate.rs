//! `tweedie tabulate`: a schedule's exact tables.

use super::Outcome;
use super::options::{Parameters, ScheduleName, label};
use super::output::{self, Cell, Document, Number, Target};
use serde::Serialize;
use tweedie::diffusion::path::PathRow;
use tweedie::diffusion::schedule::{Row, Table};
use tweedie::error::{Error, Result};

/// The exact tables of a noise schedule, each number rounded once from 106 bits
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  tweedie tabulate --schedule linear --steps 1000 -o linear.csv\n  tweedie tabulate --schedule vp --at 0.001,0.5,1\n\n\
                  Discrete schedules have rows t = 1..N; paths have rows at t = k/N, k = 1..N, or at the times of --at, t = 0 being data and 1 noise."
)]
pub struct Args {
    /// Schedule or path
    #[arg(long, value_name = "S")]
    schedule: ScheduleName,
    /// Number of steps [default: 1000]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000), conflicts_with = "at")]
    steps: Option<u32>,
    /// Times in [0, 1] at which to tabulate a path
    #[arg(long, value_name = "T,T,...", value_delimiter = ',', allow_negative_numbers = true)]
    at: Vec<f64>,
    /// Rescale a discrete schedule so that alpha ends at exactly 0
    #[arg(long)]
    zero_terminal_snr: bool,
    /// Write CSV to FILE instead of standard output
    #[arg(short, long, value_name = "FILE")]
    output: Option<Target>,
    /// Write the table as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
    #[command(flatten)]
    parameters: Parameters,
}

const DISCRETE: [&str; 13] = [
    "t",
    "beta",
    "alpha_step",
    "alpha_bar",
    "alpha",
    "sigma",
    "snr",
    "log_snr",
    "posterior_coef_x0",
    "posterior_coef_xt",
    "posterior_var",
    "vlb_weight_beta",
    "vlb_weight_posterior",
];
const CONTINUOUS: [&str; 7] = ["t", "alpha", "sigma", "d_alpha", "d_sigma", "snr", "log_snr"];

/// What CSV and JSON show; the rows are as wide as `columns`.
#[derive(Serialize)]
struct Output {
    schedule: String,
    columns: &'static [&'static str],
    rows: Vec<Vec<Cell>>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    output::possible(&[("-o", args.output.as_ref()), ("--json", args.json.as_ref())])?;
    let table = tabulate(args)?;
    if let Some(target) = &args.json {
        target.write(&Document::json(&table)?)?;
    }
    // Two documents on one stream would be neither.
    if args.output.is_some() || args.json != Some(Target::Stdout) {
        let csv = Document::csv(table.columns, table.rows.into_iter())?;
        args.output.as_ref().unwrap_or(&Target::Stdout).write(&csv)?;
    }
    Ok(Outcome::Success)
}

fn tabulate(args: &Args) -> Result<Output> {
    let steps = args.steps.unwrap_or(1000) as usize;
    let name = args.schedule;
    let path = name.path().filter(|_| !args.at.is_empty() || name != ScheduleName::Cosine);
    let schedule = label(&name);
    let Some(path) = path else {
        if !args.at.is_empty() {
            let allowed = "vp, ve, edm, cosine, fm, which are continuous";
            return Err(Error::domain(
                "schedule with --at",
                format!("'{schedule}', whose steps are discrete"),
                allowed,
                "give --steps instead of --at",
            ));
        }
        let table = Table::new(args.parameters.schedule(name)?, steps, args.zero_terminal_snr)?;
        return Ok(Output {
            schedule,
            columns: &DISCRETE,
            rows: table.rows().iter().map(discrete_row).collect(),
        });
    };
    if args.zero_terminal_snr {
        let allowed = "linear, scaled-linear, cosine, sigmoid, with --steps";
        return Err(Error::domain(
            "schedule with --zero-terminal-snr",
            format!("'{schedule}', a continuous path"),
            allowed,
            "leave --zero-terminal-snr out",
        ));
    }
    let path = args.parameters.path(path)?;
    let grid = (1..=steps).map(|k| k as f64 / steps as f64);
    let times = if args.at.is_empty() { grid.collect() } else { args.at.clone() };
    let rows =
        times.into_iter().map(|t| Ok(continuous_row(&path.row(t)?))).collect::<Result<_>>()?;
    Ok(Output { schedule, columns: &CONTINUOUS, rows })
}

fn discrete_row(row: &Row) -> Vec<Cell> {
    let Row {
        t,
        beta,
        alpha_step,
        alpha_bar,
        alpha,
        sigma,
        snr,
        log_snr,
        posterior_coef_x0,
        posterior_coef_xt,
        posterior_var,
        vlb_weight_beta,
        vlb_weight_posterior,
    } = *row;
    let reals = [
        beta,
        alpha_step,
        alpha_bar,
        alpha,
        sigma,
        snr,
        log_snr,
        posterior_coef_x0,
        posterior_coef_xt,
        posterior_var,
        vlb_weight_beta,
        vlb_weight_posterior,
    ];
    std::iter::once(Cell::Step(t)).chain(reals.map(|x| Cell::Real(Number(x)))).collect()
}

fn continuous_row(row: &PathRow) -> Vec<Cell> {
    let PathRow { t, alpha, sigma, d_alpha, d_sigma, snr, log_snr } = *row;
    [t, alpha, sigma, d_alpha, d_sigma, snr, log_snr].map(|x| Cell::Real(Number(x))).into()
}
