//! How fast a GPU trains and samples, beside PyTorch and beside what it can do at best; and
//! NVIDIA's own checks of memory.

use super::super::bench::{self, median};
use super::run::{Done, Job, config, job, program};
use serde_json::Value;
use std::io::{Read, Seek};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use tweedie::diffusion::Path;
use tweedie::diffusion::prediction::Prediction;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::error::{Error, Result};
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::standard_start;
use tweedie::sample::registry::{Options, sampler};
use tweedie_device::{Place, Precision};
use tweedie_experiments::gpu::numbers::{Part, Rate, Results, Speed};
use tweedie_nn::cuda::Cuda;
use tweedie_nn::denoiser::Network;
use tweedie_nn::element::Element;
use tweedie_nn::pipeline::{Input, Setup, Time};

/// What the device does at best: bytes copied on it, and products of large square matrices.
pub fn rates(job: &Job, results: &mut Results) -> Result<Done> {
    let (gpu, bytes) = (job.gpu, job.profile.copy << 20);
    let (from, to) = (gpu.allocate(bytes)?, gpu.allocate(bytes)?);
    let seconds = median(job.profile.reps, || {
        gpu.copy(to.region(), from.region()).and_then(|()| gpu.synchronize())
    })?;
    // Each byte is read and written.
    results.rates.push(Rate {
        what: "copying on the device".into(),
        value: 2.0 * bytes as f64 / seconds * 1e-9,
        unit: "GB/s".into(),
    });
    drop((from, to));
    let n = job.profile.matrix;
    // 64-bit products may be a hundred times slower, and bound nothing here.
    for precision in [Precision::F32, Precision::Tf32, Precision::Bf16] {
        let cuda = Cuda::<f32>::forward_only(program("A")?, 1, gpu, precision)?;
        let seconds = median(job.profile.reps, cuda.square_product(n)?)?;
        let what = format!("product of matrices of {n} rows, {}", precision.name());
        results.rates.push(Rate {
            what,
            value: 2.0 * (n as f64).powi(3) / seconds * 1e-12,
            unit: "TFLOP/s".into(),
        });
    }
    Ok(Done::Yes(
        results
            .rates
            .iter()
            .map(|r| format!("{:.1} {}", r.value, r.unit))
            .collect::<Vec<_>>()
            .join(", "),
    ))
}

/// Times jobs, `CONFIG:PRECISION:BATCH`, while there is time; `run` says what came of one.
fn each(
    on: &Job,
    jobs: &[String],
    mut run: impl FnMut(&str, Precision, usize) -> Result<String>,
) -> Result<Done> {
    let begin = Instant::now();
    let notes = jobs.iter().map(|text| {
        let (name, precision, batch) = job(text)?;
        if begin.elapsed() > on.left {
            return Ok(format!("{text} found no time"));
        }
        Ok(format!("{text}: {}", run(name, precision, batch)?))
    });
    Ok(Done::Yes(notes.collect::<Result<Vec<_>>>()?.join("; ")))
}

/// Training steps, with the parts of each.
pub fn training(on: &Job, jobs: &[String], results: &mut Results) -> Result<Done> {
    each(on, jobs, |name, precision, batch| {
        let run = bench::Run {
            name: name.into(),
            batch,
            precision,
            reps: on.profile.reps,
            matrix: on.profile.matrix.min(4096),
        };
        let place = Place::Gpu(on.gpu.clone(), precision);
        let figures = match precision {
            Precision::F64 => bench::measure::<f64>(&config(name)?, run, &place)?,
            _ => bench::measure::<f32>(&config(name)?, run, &place)?,
        };
        let note = format!(
            "{:.2} ms, {:.0} images/s, {:.1e} off from f64",
            figures.train_step_ms, figures.images_per_s, figures.error
        );
        results.speeds.push(Speed {
            by: "tweedie".into(),
            config: name.into(),
            what: "train".into(),
            precision: precision.name().into(),
            batch,
            ms: figures.train_step_ms,
            fastest_ms: figures.train_step_fastest_ms,
            images_per_s: figures.images_per_s,
            tflops: figures.flops_per_step as f64 / figures.train_step_ms * 1e-9,
        });
        let program = program(name)?;
        let copying = results
            .rates
            .iter()
            .find(|r| r.unit == "GB/s")
            .map_or(f64::INFINITY, |r| 1e6 * r.value);
        let arithmetic = 1e6 * figures.matrix_gflops;
        for part in figures.parts {
            let bound = program.ops.iter().filter(|op| op.kind() == part.part).map(|op| {
                let params: usize =
                    op.params().into_iter().map(|p| program.params[p].at.len()).sum();
                let bytes = (batch * program.traffic(op) + params) * precision.bytes();
                ((batch * program.flops(op)) as f64 / arithmetic).max(bytes as f64 / copying)
            });
            results.parts.push(Part {
                config: name.into(),
                precision: precision.name().into(),
                part: part.part.into(),
                forward_ms: part.forward_ms,
                backward_ms: part.backward_ms,
                forward_bound_ms: bound.sum(),
            });
        }
        Ok(note)
    })
}

/// Whole runs of DDIM with a network of eps, on the device from start to end.
pub fn sampling(on: &Job, jobs: &[String], results: &mut Results) -> Result<Done> {
    each(on, jobs, |name, precision, batch| {
        let speed = match precision {
            Precision::F64 => sampled::<f64>(on, name, precision, batch)?,
            _ => sampled::<f32>(on, name, precision, batch)?,
        };
        let note = format!("{:.2} ms a step, {:.0} images/s", speed.ms, speed.images_per_s);
        results.speeds.push(speed);
        Ok(note)
    })
}

fn sampled<T: Element>(on: &Job, name: &str, precision: Precision, batch: usize) -> Result<Speed> {
    let program = program(name)?;
    let params: Vec<T> = tweedie_experiments::gpu::checks::weights(&program, Precision::F32)
        .into_iter()
        .map(T::of)
        .collect();
    let input = &program.tensors[program.input];
    let path = Path::Discrete(Table::new(Schedule::LINEAR, 1000, false)?);
    let setup = Setup {
        path: path.clone(),
        prediction: Prediction::Eps,
        sigma_data: 0.5,
        input: Input::State,
        time: Time::Step,
        shape: (input.channels, input.height, input.width),
        null_class: None,
    };
    let (flops, d) = (program.ops.iter().map(|op| program.flops(op)).sum::<usize>(), input.size());
    let network =
        Network::placed(program, &params, setup, batch, &Place::Gpu(on.gpu.clone(), precision))?;
    let steps = if on.args.quick { 2 } else { 50 };
    let (ddim, grid) =
        (sampler("ddim", &Options::DEFAULT)?, Grid::new(Spacing::Leading, steps).points(&path)?);
    let noise = Noise::new(5);
    let start = standard_start(&noise, batch, d);
    let mut times = vec![];
    for _ in 0..=on.profile.reps.div_ceil(6) {
        let begin = Instant::now();
        let end = network.sampled(&ddim, &grid, start.view(), noise, None)?;
        let seconds = begin.elapsed().as_secs_f64();
        if !end.is_some_and(|end| end.x.iter().all(|x| x.is_finite())) {
            return Err(Error::domain(
                "samples",
                "NaN, or none",
                "finite numbers from the device",
                "report this as a bug",
            ));
        }
        times.push(1e3 * seconds / steps as f64);
    }
    // The first run made the libraries ready.
    let mut times = times.split_off(1);
    times.sort_by(f64::total_cmp);
    let ms = times[times.len() / 2];
    Ok(Speed {
        by: "tweedie".into(),
        config: name.into(),
        what: "sample".into(),
        precision: precision.name().into(),
        batch,
        ms,
        fastest_ms: times[0],
        images_per_s: 1e3 * batch as f64 / ms,
        tflops: (batch * flops) as f64 / ms * 1e-9,
    })
}

/// Longest that PyTorch may take of the whole.
const PEERS: Duration = Duration::from_secs(260);

/// PyTorch on the same device, by `benches/peers/gpu.py`.
pub fn pytorch(on: &Job, results: &mut Results) -> Result<Done> {
    let (Some(python), Some(peers)) = (&on.args.python, &on.args.peers) else {
        return Ok(Done::No("no --python was given".into()));
    };
    if !peers.is_file() {
        return Ok(Done::No(format!("{} is not here", peers.display())));
    }
    // The script ends itself before it is ended.
    let limit = PEERS.min(on.left * 2 / 3);
    let mut command = Command::new(python);
    command.arg(peers).args([
        "--limit",
        &limit.as_secs().to_string(),
        "--device",
        &format!("cuda:{}", on.args.number),
    ]);
    let (output, ended) = finished(&mut command, limit + Duration::from_secs(20))?;
    let mut problems: Vec<(String, Vec<String>)> = vec![];
    for line in output.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok()) {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        let number = |key: &str| line[key].as_f64().unwrap_or(f64::NAN);
        let variant = text("variant");
        if let Some(problem) = line["error"].as_str() {
            let run = format!("{} {variant}", text("config"));
            match problems.iter_mut().find(|(p, _)| p == problem) {
                Some((_, runs)) => runs.push(run),
                None => problems.push((problem.to_owned(), vec![run])),
            }
            continue;
        }
        let program = program(&text("config"))?;
        let params = number("parameters");
        if params != program.param_count() as f64 {
            let allowed = format!("{}, as here", program.param_count());
            return Err(Error::domain(
                "parameters of PyTorch's network",
                params,
                allowed,
                "both have to read one config",
            ));
        }
        let flops =
            program.ops.iter().map(|op| program.flops(op)).sum::<usize>() as f64 * number("batch");
        let flops = if text("what") == "train" { 3.0 * flops } else { flops };
        results.speeds.push(Speed {
            by: format!("PyTorch {variant}"),
            config: text("config"),
            what: text("what"),
            precision: if variant.ends_with("32") {
                variant.replace("fp32", "f32")
            } else {
                "bf16".into()
            },
            batch: number("batch") as usize,
            ms: number("ms"),
            fastest_ms: number("least_ms"),
            images_per_s: number("images_per_s"),
            tflops: flops / number("ms") * 1e-9,
        });
        if !results.machine.iter().any(|(name, _)| name == "PyTorch") {
            results.machine.push(("PyTorch".into(), text("torch")));
        }
    }
    if !ended.success {
        problems.push((ended.problem, vec!["gpu.py".into()]));
    }
    let note = problems
        .into_iter()
        .map(|(problem, runs)| format!("{}: {problem}", runs.join(", ")))
        .collect::<Vec<_>>()
        .join("; ");
    let ran = results.speeds.iter().any(|s| s.by.starts_with("PyTorch"));
    Ok(if ran { Done::Yes(note) } else { Done::No(note) })
}

/// NVIDIA's compute-sanitizer over the operations, for reads and writes out of bounds and for
/// races.
pub fn sanitizer(on: &Job) -> Result<Done> {
    let Some(tool) = sanitizer_path() else {
        return Ok(Done::No("compute-sanitizer was not found".into()));
    };
    let own =
        std::env::current_exe().map_err(|e| Error::file("tweedie", e, "start it by its path"))?;
    let folder = tempfile::tempdir()
        .map_err(|e| Error::file(std::env::temp_dir(), e, "make it writable"))?;
    let (begin, mut notes) = (Instant::now(), vec![]);
    for check in ["memcheck", "racecheck"] {
        let left = on.left.saturating_sub(begin.elapsed());
        let mut command = Command::new(&tool);
        command.args(["--tool", check, "--error-exitcode", "9"]).arg(&own).args([
            "gpu",
            "--quick",
            "--only",
            "operations",
        ]);
        command.args(["--number", &on.args.number.to_string(), "--out"]).arg(folder.path());
        let (output, ended) = finished(&mut command, left)?;
        if ended.code == Some(9) {
            let found = output
                .lines()
                .find(|l| l.contains("ERROR SUMMARY") || l.contains("RACECHECK SUMMARY"))
                .unwrap_or("errors");
            return Err(Error::device(
                "compute-sanitizer",
                format!("{check}: {found}"),
                format!("run {} yourself", tool.display()),
            ));
        }
        notes.push(if ended.success {
            format!("{check}: nothing found")
        } else {
            format!("{check}: {}", ended.problem)
        });
    }
    Ok(Done::Yes(notes.join("; ")))
}

fn sanitizer_path() -> Option<std::path::PathBuf> {
    let list = |key: &str| {
        std::env::var_os(key).map_or(vec![], |paths| std::env::split_paths(&paths).collect())
    };
    let homes =
        ["CUDA_HOME", "CUDA_PATH"].into_iter().flat_map(list).chain(["/usr/local/cuda".into()]);
    let folders = list("PATH")
        .into_iter()
        .chain(homes.flat_map(|home| [home.join("bin"), home.join("compute-sanitizer")]));
    folders.map(|folder| folder.join("compute-sanitizer")).find(|tool| tool.is_file())
}

/// How a program ended.
struct Ended {
    success: bool,
    code: Option<i32>,
    problem: String,
}

/// Runs a program for as long as it may take: what it wrote, and how it ended.
fn finished(command: &mut Command, limit: Duration) -> Result<(String, Ended)> {
    let name = command.get_program().display().to_string();
    let failed = |e: std::io::Error| Error::file(&name, e, "name a program that can be started");
    // A file, because a pipe that nobody reads stops whoever writes to it.
    let mut out = tempfile::tempfile().map_err(failed)?;
    let copy = || out.try_clone().map(Stdio::from);
    let mut child = command
        .stdin(Stdio::null())
        .stdout(copy().map_err(failed)?)
        .stderr(copy().map_err(failed)?)
        .spawn()
        .map_err(failed)?;
    let begin = Instant::now();
    let status = loop {
        match child.try_wait().map_err(failed)? {
            Some(status) => break Some(status),
            None if begin.elapsed() < limit => std::thread::sleep(Duration::from_millis(50)),
            None => {
                let _ = child.kill();
                let _ = child.wait();
                break None;
            }
        }
    };
    let mut bytes = vec![];
    out.rewind().and_then(|()| out.read_to_end(&mut bytes)).map_err(failed)?;
    let output = String::from_utf8_lossy(&bytes).into_owned();
    let last =
        output.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("nothing was said");
    let problem = match status {
        None => format!("not done within {} s", limit.as_secs()),
        Some(status) => format!("{status}: {last}"),
    };
    let (success, code) = (status.is_some_and(|s| s.success()), status.and_then(|s| s.code()));
    Ok((output, Ended { success, code, problem }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn programs_are_ended_in_time() {
        let (output, ended) = finished(
            Command::new("sh").args(["-c", "echo one; echo two >&2; exit 3"]),
            Duration::from_secs(20),
        )
        .unwrap();
        assert_eq!((output.as_str(), ended.code, ended.success), ("one\ntwo\n", Some(3), false));
        assert!(ended.problem.ends_with("two"));
        let (_, ended) =
            finished(Command::new("sleep").arg("20"), Duration::from_millis(100)).unwrap();
        assert!(
            !ended.success && ended.code.is_none() && ended.problem.contains("not done within")
        );
        assert!(finished(&mut Command::new("no-such-program"), Duration::ZERO).is_err());
    }
}
