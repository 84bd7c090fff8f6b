use std::process::ExitCode;
use std::thread;

/// As much as systems give by default; what they are told to give (`ulimit -s`) may be too little.
const STACK: usize = 8 << 20;

fn main() -> ExitCode {
    let program = || tweedie::cli::run(std::env::args_os());
    let main = thread::Builder::new().name("main".into()).stack_size(STACK).spawn(program);
    match main.map(thread::JoinHandle::join) {
        Ok(Ok(code)) => code,
        // What it panicked with stands on stderr.
        Ok(Err(_)) => ExitCode::from(101),
        Err(_) => program(),
    }
}
