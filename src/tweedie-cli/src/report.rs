//! `tweedie report`: run experiments and write a page of their figures, or compare two folders.

use super::Outcome;
use super::options::choice;
use super::output::{self, Document, Target};
use std::path::{Path, PathBuf};
use tweedie::error::Result;
use tweedie_device::Device;
use tweedie_files::{self as file, Cache};
use tweedie_report::{self as report, Options, Profile, Text, compare};

/// Run experiments and write DIR/index.html: the main job
#[derive(clap::Args)]
#[command(after_help = format!(
    "Experiments:\n{}\nExamples:\n  tweedie report digits-theory --profile quick --out reports\n  \
     tweedie report --compare reports other-machine/reports      every number and check, by name\n  \
     tweedie report --compare runs/eps runs/v --out comparison   two training runs, or two models\n\n\
     --compare exits with 0 when all agrees within the tolerance, 1 when something does not, 2 on bad input.",
    experiments()
))]
pub struct Args {
    /// Experiments to run, or chapters to compare [default: all]
    #[arg(value_name = "NAME")]
    names: Vec<String>,
    /// How much to compute
    #[arg(long, value_name = "PROFILE", default_value = "quick", value_parser = choice::<Profile>())]
    profile: Profile,
    /// Folder of the page [default: reports, or reports/comparison]
    #[arg(long, value_name = "DIR")]
    out: Option<PathBuf>,
    /// Where to compute: auto, cpu, cuda or cuda:N
    #[arg(long, value_name = "DEVICE", default_value = "auto")]
    device: Device,
    /// Seed of every random draw
    #[arg(long, value_name = "N", default_value_t = 0, allow_negative_numbers = true)]
    seed: u64,
    /// Compute the one experiment that is named with the settings of this file, in place of
    /// experiments/NAME/settings.toml of the checkout
    #[arg(long, value_name = "FILE", conflicts_with = "compare")]
    settings: Option<PathBuf>,
    /// Compute everything, also what an earlier or a stopped run of this very program has kept in
    /// the user's cache
    #[arg(long)]
    fresh: bool,
    /// Compare two folders: two reports, two models or two training runs
    #[arg(long, value_names = ["A", "B"], num_args = 2)]
    compare: Option<Vec<PathBuf>>,
    /// Largest difference that passes, relative [default: 1e-9 for reports, 1e-5 for models and
    /// runs]
    #[arg(long, value_name = "T", requires = "compare", allow_negative_numbers = true)]
    tolerance: Option<f64>,
    /// Write what was found as JSON, - for standard output
    #[arg(long, value_name = "OUT.json", requires = "compare")]
    json: Option<Target>,
}

fn experiments() -> String {
    tweedie_experiments::EXPERIMENTS
        .iter()
        .map(|e| format!("  {}: {}\n", e.name, e.about))
        .collect()
}

pub fn run(args: &Args) -> Result<Outcome> {
    let device = args.device.for_closed_forms()?;
    if let Some([a, b]) = args.compare.as_deref() {
        return compared(args, a.clone(), b.clone());
    }
    let options = Options {
        names: args.names.clone(),
        profile: args.profile,
        out: args.out.clone().unwrap_or_else(|| "reports".into()),
        seed: args.seed,
        settings: args.settings.as_deref().map(Text::read).transpose()?,
        cache: Cache::of_user().filter(|_| !args.fresh),
    };
    let summary = report::run(tweedie_experiments::EXPERIMENTS, &options)?;
    let (kept, computed): (Vec<_>, Vec<_>) = summary.experiments.iter().partition(|e| e.1);
    let named =
        |of: &[&(String, bool)]| of.iter().map(|e| e.0.as_str()).collect::<Vec<_>>().join(", ");
    let experiments = match (kept.as_slice(), computed.as_slice()) {
        ([], all) => named(all),
        (all, []) => {
            format!("{} (all kept from an earlier run; --fresh computes them)", named(all))
        }
        (kept, computed) => {
            format!("{}; kept from an earlier run: {}", named(computed), named(kept))
        }
    };
    let mut text = format!(
        "{}: {experiments}, {} figures, {} of {} checks hold, {:.1} s on {device}\n",
        summary.index.display(),
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

fn compared(args: &Args, a: PathBuf, b: PathBuf) -> Result<Outcome> {
    let out = args.out.clone().unwrap_or_else(|| "reports/comparison".into());
    let [page, manifest] = ["index.html", "manifest.json"].map(|name| Target::File(out.join(name)));
    output::distinct(&[("--out", Some(&page)), ("--json", args.json.as_ref())])?;
    output::distinct(&[("--out", Some(&manifest)), ("--json", args.json.as_ref())])?;
    // The folder of the page is made, and what lies in it is written once it is there.
    let within = |path: &Path| file::resolved(path).starts_with(file::resolved(&out));
    if !matches!(&args.json, Some(Target::File(path)) if within(path)) {
        output::possible(&[("--json", args.json.as_ref())])?;
    }
    let summary = compare::run(&compare::Options {
        a,
        b,
        names: args.names.clone(),
        tolerance: args.tolerance,
        profile: args.profile,
        out,
        seed: args.seed,
    })?;
    if args.json != Some(Target::Stdout) {
        let mut text = format!("{}: {}\n", summary.index.display(), summary.says);
        for what in &summary.beyond {
            text.push_str(&format!("beyond tolerance: {what}\n"));
        }
        output::print(text)?;
    }
    if let Some(target) = &args.json {
        target.write(&Document::verdicts(&summary.document))?;
    }
    Ok(if summary.beyond.is_empty() { Outcome::Success } else { Outcome::CheckFailed })
}
