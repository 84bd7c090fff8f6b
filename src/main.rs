use std::process::ExitCode;

fn main() -> ExitCode {
    tweedie::cli::run(std::env::args_os())
}
