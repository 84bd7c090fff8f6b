//! The command line: one file per command.
//!
//! Exit codes: 0 on success, 1 when a check did not hold, 2 on bad input or a broken environment,
//! with one line `error: ...` on stderr, 130 when training was interrupted and saved.

mod bench;
mod certify;
mod check;
mod doctor;
mod explain;
mod gpu;
mod net;
mod options;
mod output;
mod report;
mod sample;
mod solve;
mod tabulate;
mod train;
mod verify;

use clap::{CommandFactory, Parser, Subcommand};
use std::ffi::OsString;
use std::io::Write;
use std::path::Path;
use std::process::ExitCode;
use std::thread;
use tweedie::error::{Error, Result};
use tweedie_nn::checkpoint::without_sums;

/// As much as systems give by default; what they are told to give (`ulimit -s`) may be too little.
const STACK: usize = 8 << 20;

fn main() -> ExitCode {
    tweedie_report::manifest::built_from(option_env!("TWEEDIE_COMMIT").unwrap_or("unknown"));
    let program = || run(std::env::args_os());
    let main = thread::Builder::new().name("main".into()).stack_size(STACK).spawn(program);
    match main.map(thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        // What it panicked with stands on stderr.
        Ok(Err(_)) => ExitCode::from(101),
        Err(_) => program(),
    }
}

#[derive(Parser)]
#[command(
    name = "tweedie",
    version,
    about = "The exact answers for diffusion models, and a bench that holds any implementation to them",
    after_help = "Examples:\n  tweedie report                                      the main job, as a page of figures\n  \
                  tweedie tabulate --schedule linear -o linear.csv    DDPM's tables, every digit right\n  \
                  tweedie solve --help                                a command's options, with an example\n\n\
                  An output file is replaced as a whole when all of it is written, never written into: it keeps its permissions, and a\n\
                  read-only one is refused.\n\n\
                  Exit codes: 0 success, 1 a check did not hold, 2 bad input."
)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand)]
enum Command {
    Report(report::Args),
    Verify(verify::Args),
    Explain(explain::Args),
    Tabulate(tabulate::Args),
    Solve(solve::Args),
    Sample(Box<sample::Args>),
    Certify(certify::Args),
    Check(check::Args),
    Train(train::Args),
    Net(net::Args),
    Bench(bench::Args),
    Gpu(gpu::Args),
    Doctor(doctor::Args),
}

/// What a command that came to its end found.
enum Outcome {
    Success,
    CheckFailed,
    /// By Ctrl-C, after what there was has been saved.
    Interrupted,
}

/// Runs one command line, program name first, and gives the process's exit code.
fn run(args: impl IntoIterator<Item = OsString>) -> ExitCode {
    let args: Vec<OsString> = args.into_iter().collect();
    let cli = match Cli::try_parse_from(&args) {
        Ok(cli) => cli,
        Err(e) => return usage(&e, &args),
    };
    if let Err(e) = threads() {
        return fail(&e.to_string());
    }
    let outcome = match cli.command {
        Command::Report(args) => report::run(&args),
        Command::Verify(args) => verify::run(&args),
        Command::Explain(args) => explain::run(&args),
        Command::Tabulate(args) => tabulate::run(&args),
        Command::Solve(args) => solve::run(&args),
        Command::Sample(args) => sample::run(&args),
        Command::Certify(args) => certify::run(&args),
        Command::Check(args) => check::run(&args),
        Command::Train(args) => train::run(&args),
        Command::Net(args) => net::run(&args),
        Command::Bench(args) => bench::run(&args),
        Command::Gpu(args) => gpu::run(&args),
        Command::Doctor(args) => doctor::run(&args),
    };
    match outcome {
        Ok(Outcome::Success) => ExitCode::SUCCESS,
        Ok(Outcome::CheckFailed) => ExitCode::from(1),
        Ok(Outcome::Interrupted) => ExitCode::from(train::INTERRUPTED),
        Err(e) => fail(&e.to_string()),
    }
}

/// Most threads that are asked of the system, though a larger machine has its own number of
/// processors.
const THREADS: usize = 1024;

/// Checks the one setting from outside that the number of threads follows: what rayon would ignore,
/// or spend a minute on, is refused.
fn threads() -> Result<()> {
    const NAME: &str = "RAYON_NUM_THREADS";
    let Some(text) = std::env::var_os(NAME).filter(|text| !text.is_empty()) else { return Ok(()) };
    let most = std::thread::available_parallelism().map_or(1, usize::from).max(THREADS);
    match text.to_str().and_then(|text| text.parse::<usize>().ok()) {
        Some(n) if n <= most => Ok(()),
        _ => {
            let (got, allowed) =
                (text.to_string_lossy(), format!("1 to {most}, or 0 for one on each processor"));
            Err(Error::domain(NAME, got, allowed, "unset it"))
        }
    }
}

/// A line on stderr that changes nothing.
fn note(text: impl std::fmt::Display) {
    let _ = writeln!(std::io::stderr(), "note: {text}");
}

/// Says of a model of a training run's checkpoint that nobody could tell whether it is damaged,
/// where an older version wrote it.
fn note_missing_sums(model: &Path) {
    if let Some(checkpoint) = without_sums(model) {
        note(format!(
            "{} was written without checksums: damage to it can't be noticed",
            checkpoint.display()
        ));
    }
}

/// One line on stderr, exit code 2.
fn fail(message: &str) -> ExitCode {
    // A path or a decoder's message may hold line breaks; a closed stderr is no reason to panic.
    let line = message.split_whitespace().collect::<Vec<_>>().join(" ");
    let _ = writeln!(std::io::stderr(), "error: {}", tweedie::error::printable(&line));
    ExitCode::from(2)
}

/// What clap says of a command line that it does not accept: help goes out as it is, everything
/// else as one line.
fn usage(error: &clap::Error, args: &[OsString]) -> ExitCode {
    use clap::error::ErrorKind::{
        DisplayHelp, DisplayHelpOnMissingArgumentOrSubcommand, DisplayVersion,
    };
    match error.kind() {
        DisplayHelp | DisplayVersion => {
            return output::told(error.print())
                .map_or_else(|e| fail(&e.to_string()), |()| ExitCode::SUCCESS);
        }
        DisplayHelpOnMissingArgumentOrSubcommand => {
            let _ = error.print();
            return ExitCode::from(2);
        }
        _ => {}
    }
    // What was wrong, then an indented line each for values, tips and missing arguments, then
    // usage.
    let text = error.render().to_string();
    let body: Vec<&str> = text
        .lines()
        .map(str::trim)
        .take_while(|l| !l.starts_with("Usage:") && !l.starts_with("For more information"))
        .collect();
    let line = body
        .join(" ")
        .replace(" [possible values: ", "; allowed: ")
        .replace(']', "")
        .replace(" tip: ", "; ");
    let line = line.split_whitespace().collect::<Vec<_>>().join(" ").replace(" ;", ";");
    let command = args
        .get(1)
        .and_then(|a| a.to_str())
        .filter(|a| Cli::command().find_subcommand(a).is_some());
    let help = command.map_or("tweedie --help".to_owned(), |c| format!("tweedie {c} --help"));
    fail(&format!("{}; see '{help}'", line.trim_start_matches("error: ")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definition_is_sound() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_command_has_an_example() {
        for command in Cli::command().get_subcommands() {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(
                help.contains(&format!("tweedie {}", command.get_name())),
                "{}",
                command.get_name()
            );
        }
    }
}
