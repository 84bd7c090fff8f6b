//! `tweedie doctor`: what this machine has, and what that means.

use super::Outcome;
use super::output::{self, Document, Target};
use std::fmt::Write;
use tweedie::error::Result;
use tweedie_device::{self as device, Cuda, Survey};

/// What this machine has (threads, SIMD, memory, LAPACK, CUDA), and what that means
#[derive(clap::Args)]
#[command(after_help = "Example:\n  tweedie doctor --json -      the same for programs")]
pub struct Args {
    /// Write the findings as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let survey = device::survey();
    if let Some(target) = &args.json {
        target.write(&Document::json(&survey)?)?;
    }
    if args.json != Some(Target::Stdout) {
        output::print(text(&survey))?;
    }
    Ok(Outcome::Success)
}

fn text(survey: &Survey) -> String {
    let mut out = String::new();
    let mut line = |name: &str, what: String| {
        let _ = writeln!(out, "{name:<10} {what}");
    };
    line("tweedie", format!("{} on {}", env!("CARGO_PKG_VERSION"), survey.platform));
    if let Some(cpu) = &survey.cpu {
        line("cpu", cpu.clone());
    }
    line("threads", format!("{} (RAYON_NUM_THREADS sets another number)", survey.threads));
    let products = match survey.simd.as_slice() {
        [.., "avx512f"] => "matrix products use AVX-512",
        s if s.contains(&"fma") => "matrix products use AVX2 and FMA",
        ["neon"] => "matrix products use NEON",
        _ => "matrix products are scalar, and slow",
    };
    line(
        "simd",
        format!(
            "{} ({products})",
            if survey.simd.is_empty() { "none".into() } else { survey.simd.join(" ") }
        ),
    );
    line(
        "memory",
        match survey.memory {
            Some(m) => format!("{} available of {}", gib(m.available), gib(m.total)),
            None => "unknown on this system".into(),
        },
    );
    line(
        "lapack",
        match survey.lapack {
            true => "built in, as a second opinion for eigenproblems".into(),
            false => {
                "not built in; nothing needs it (cargo build --features lapack gives a second opinion for eigenproblems)".into()
            }
        },
    );
    match &survey.cuda {
        None => line("cuda", "not built in: everything runs on the CPU".into()),
        Some(cuda) => cuda_lines(cuda, &mut line),
    }
    out
}

fn cuda_lines(cuda: &Cuda, line: &mut impl FnMut(&str, String)) {
    match &cuda.problem {
        Some(problem) => line(
            "cuda",
            format!("{problem}: everything runs on the CPU, which closed forms do anyway"),
        ),
        None => line(
            "cuda",
            format!(
                "{} device{}: networks run there unless told otherwise (--device cpu); closed forms run on the CPU in f64",
                cuda.devices.len(),
                if cuda.devices.len() == 1 { "" } else { "s" }
            ),
        ),
    }
    for (n, gpu) in cuda.devices.iter().enumerate() {
        line(
            &format!("  cuda:{n}"),
            format!(
                "{}, compute capability {}.{}, {}",
                gpu.name,
                gpu.capability.0,
                gpu.capability.1,
                gib(gpu.memory)
            ),
        );
    }
    for library in &cuda.libraries {
        let found = match (&library.path, &library.version, &library.problem) {
            (Some(path), Some(version), _) => format!("{version} at {}", path.display()),
            (Some(path), None, _) => {
                format!("at {}, which does not tell its version", path.display())
            }
            (None, _, Some(problem)) => problem.clone(),
            (None, _, None) => {
                format!("missing; would serve for {} ({})", library.purpose, library.remedy)
            }
        };
        line(&format!("  {}", library.name), found);
    }
}

fn gib(bytes: u64) -> String {
    format!("{:.1} GiB", bytes as f64 / (1u64 << 30) as f64)
}
