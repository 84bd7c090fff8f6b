//! `tweedie report`: run experiments and write a page of their figures.

use super::Outcome;
use super::output;
use crate::device::Device;
use crate::error::Result;
use crate::report::{self, Options, Profile};
use std::path::PathBuf;

/// Run experiments and write DIR/index.html: the main job
#[derive(clap::Args)]
#[command(after_help = format!("Experiments:\n{}\nExample:\n  tweedie report digits-theory --profile quick --out reports", experiments()))]
pub struct Args {
    /// Experiments to run [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How much to compute
    #[arg(long, value_name = "PROFILE", value_enum, default_value_t = Profile::Quick)]
    profile: Profile,
    /// Folder of the page
    #[arg(long, value_name = "DIR", default_value = "reports")]
    out: PathBuf,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Device,
    /// Seed of every random draw
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
}

fn experiments() -> String {
    report::EXPERIMENTS.iter().map(|e| format!("  {}: {}\n", e.name, e.about)).collect()
}

pub fn run(args: &Args) -> Result<Outcome> {
    let device = args.device.for_closed_forms()?;
    let options = Options { names: args.names.clone(), profile: args.profile, out: args.out.clone(), seed: args.seed };
    let summary = report::run(&options)?;
    let mut text = format!(
        "{}: {}, {} figures, {} of {} checks hold, {:.1} s on {device}\n",
        summary.index.display(),
        summary.experiments.join(", "),
        summary.figures,
        summary.checks - summary.failed.len(),
        summary.checks,
        summary.duration.as_secs_f64()
    );
    for what in &summary.failed {
        text.push_str(&format!("does not hold: {what}\n"));
    }
    output::print(text)?;
    Ok(if summary.failed.is_empty() { Outcome::Success } else { Outcome::CheckFailed })
}
