//! `tweedie gpu`: what runs on a GPU, checked and timed there, in one call.

mod run;
mod speed;

use super::{Outcome, output};
use std::path::PathBuf;
use tweedie::error::Result;
use tweedie_device::Precision;
use tweedie_experiments::gpu::numbers::FOLDER;

/// Check and time everything that runs on a GPU
#[derive(clap::Args)]
#[command(
    args_conflicts_with_subcommands = true,
    after_help = "Examples:\n  tweedie gpu --python python3 --peers benches/peers/gpu.py --commit $(git rev-parse --short HEAD)\n  tweedie gpu --quick --only operations\n  \
                  tweedie gpu source --precision bf16 > kernels.cu\n\n\
                  Every operation alone and whole networks are held to f64 in every precision, a trained model and its samples to the CPU's; then training and \
                  sampling are timed, beside PyTorch where --python has it, and what the device can do at best. Needs NVIDIA's driver and NVRTC; cuBLAS and cuDNN are \
                  used where they are. Results are written as each part ends. Exit code 1: something is off by more than rounding."
)]
pub struct Args {
    #[command(subcommand)]
    command: Option<Command>,
    #[command(flatten)]
    run: RunArgs,
}

#[derive(clap::Args)]
pub struct RunArgs {
    /// Number of the CUDA device
    #[arg(long, value_name = "N", default_value = "0")]
    number: usize,
    /// Small shapes and few repetitions: seconds, also on an emulator
    #[arg(long)]
    quick: bool,
    /// Seconds in which to be done; parts that find no time are left out
    #[arg(long, value_name = "S", default_value = "540", value_parser = clap::value_parser!(u64).range(1..))]
    limit: u64,
    /// Only these parts, commas between them
    #[arg(long, value_name = "PARTS", value_delimiter = ',')]
    only: Vec<String>,
    /// A Python with PyTorch, to time it beside
    #[arg(long, value_name = "PYTHON", requires = "peers")]
    python: Option<PathBuf>,
    /// The script that times PyTorch: benches/peers/gpu.py of a checkout. None is looked for: it is
    /// run
    #[arg(long, value_name = "FILE")]
    peers: Option<PathBuf>,
    /// Commit to be named in the results
    #[arg(long, value_name = "HASH", default_value = "unknown")]
    commit: String,
    /// Folder for gpu.json, tables and a page
    #[arg(long, value_name = "DIR", default_value = FOLDER)]
    out: PathBuf,
}

#[derive(clap::Subcommand)]
enum Command {
    /// Print the kernels' source, as it is given to NVRTC: for whoever wants to compile it without
    /// a GPU
    Source(SourceArgs),
}

#[derive(clap::Args)]
#[command(after_help = "The first line holds NVRTC's options but for the architecture.")]
struct SourceArgs {
    /// Number format: f64, f32, tf32, bf16
    #[arg(long, value_name = "P", default_value = "f32")]
    precision: Precision,
}

pub fn run(args: &Args) -> Result<Outcome> {
    match &args.command {
        Some(Command::Source(args)) => {
            use tweedie_nn::cuda::source;
            output::print(format!(
                "// {}\n{}",
                source::options(args.precision).join(" "),
                source::source()
            ))?;
            Ok(Outcome::Success)
        }
        None => run::run(&args.run),
    }
}
