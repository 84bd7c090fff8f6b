//! The parts of the run in the order of their importance, under one limit of time.

use super::super::output;
use super::{Outcome, RunArgs, speed};
use serde::Deserialize;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant};
use tweedie::error::{Error, Result};
use tweedie_device::gpu::{Gpu, Program as Kernels};
use tweedie_device::{self as device, Precision};
use tweedie_experiments::gpu::checks::{self, Errors};
use tweedie_experiments::gpu::numbers::{Results, Stage};
use tweedie_nn::bundled::digits_program;
use tweedie_nn::config::UNetConfig;
use tweedie_nn::cuda::source;
use tweedie_nn::program::Program;
use tweedie_nn::unet::unet;

/// `experiments/gpu/settings.toml`.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Settings {
    quick: Profile,
    full: Profile,
}

/// What is checked and timed.
#[derive(Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Profile {
    pub shapes: usize,
    pub size: usize,
    pub channels: usize,
    pub networks: Vec<String>,
    pub digits: usize,
    pub samples: usize,
    pub steps: usize,
    pub training: Vec<String>,
    pub sampling: Vec<String>,
    pub reps: usize,
    pub matrix: usize,
    pub copy: usize,
}

/// The parts, by the names of `--only`.
const PARTS: [&str; 12] = [
    "kernels",
    "operations",
    "rates",
    "training",
    "sampling",
    "pytorch",
    "networks",
    "digits",
    "more-training",
    "more-sampling",
    "layers",
    "sanitizer",
];

/// What is said of a device that can't record work.
const UNRECORDED: &str = "work is queued piece by piece because of";

/// Time without which a part is not begun.
const LEAST: Duration = Duration::from_secs(5);

pub fn run(args: &RunArgs) -> Result<Outcome> {
    for part in &args.only {
        if !PARTS.contains(&&part[..]) {
            let mend = tweedie::error::nearest(part, PARTS)
                .map_or("choose some".into(), |near| format!("did you mean {near}?"));
            return Err(Error::domain(
                "part of the run",
                format!("'{part}'"),
                PARTS.join(", "),
                mend,
            ));
        }
    }
    Results::claim(&args.out)?;
    let (start, limit) = (Instant::now(), Duration::from_secs(args.limit));
    let settings: Settings =
        toml::from_str(include_str!("../../../../experiments/gpu/settings.toml")).map_err(|e| {
            Error::file(
                "experiments/gpu/settings.toml",
                tweedie::error::suggested(e),
                "restore the file",
            )
        })?;
    let profile = if args.quick { settings.quick } else { settings.full };
    let gpu = Gpu::open(args.number)?;
    let mut results = Results {
        tweedie: env!("CARGO_PKG_VERSION").into(),
        commit: args.commit.clone(),
        date: date(),
        device: gpu.name.clone(),
        machine: machine(&gpu),
        quick: args.quick,
        ..Results::default()
    };
    output::print(format!(
        "{gpu}: {}\n",
        results
            .machine
            .iter()
            .map(|(name, value)| format!("{name} {value}"))
            .collect::<Vec<_>>()
            .join(", ")
    ))?;
    // What is in use stays loaded.
    let mut kernels = vec![];
    for part in PARTS
        .into_iter()
        .filter(|part| args.only.is_empty() || args.only.iter().any(|only| only == part))
    {
        let (begin, left) = (Instant::now(), limit.saturating_sub(start.elapsed()));
        let mut stage = Stage { name: part.into(), ..Stage::default() };
        if left < LEAST.min(limit / 4) {
            (stage.status, stage.note) =
                ("not run".into(), format!("the limit of {} s was spent", args.limit));
        } else {
            let job = Job { args, gpu: &gpu, profile: &profile, left };
            // A panic of one part is no reason to lose the others.
            let done = catch_unwind(AssertUnwindSafe(|| match part {
                "kernels" => job.kernels(&mut kernels),
                _ => job.run(part, &mut results),
            }));
            (stage.status, stage.note) = match done {
                Ok(Ok(Done::Yes(note))) => ("done".into(), note),
                Ok(Ok(Done::No(why))) => ("not run".into(), why),
                Ok(Err(e)) => ("failed".into(), e.to_string()),
                Err(_) => {
                    ("failed".into(), "it panicked: its message stands on standard error".into())
                }
            };
        }
        stage.seconds = begin.elapsed().as_secs_f64();
        let Stage { status, seconds, note, .. } = &stage;
        output::print(format!("{part:14} {status:8} {seconds:7.1} s  {note}\n"))?;
        results.stages.push(stage);
        if let Some(why) =
            gpu.unrecorded().filter(|_| !results.machine.iter().any(|(name, _)| name == UNRECORDED))
        {
            results.machine.push((UNRECORDED.into(), why.into()));
        }
        // What there is so far stays, whatever comes.
        results.write(&args.out)?;
    }
    summary(args, &results)?;
    Ok(if results.failures().is_empty() { Outcome::Success } else { Outcome::CheckFailed })
}

fn summary(args: &RunArgs, results: &Results) -> Result<()> {
    let mut text = String::new();
    for s in &results.speeds {
        let (by, config, what, precision) = (&s.by, &s.config, &s.what, &s.precision);
        text += &format!(
            "{config} {what:6} batch {:4} {by:28} {precision:5} {:9.2} ms {:10.0} images/s\n",
            s.batch, s.ms, s.images_per_s
        );
    }
    let failures = results.failures();
    failures.iter().for_each(|failure| text += &format!("FAILED {failure}\n"));
    let checks: usize = results.checks.iter().map(|c| c.cases).sum();
    text += &format!(
        "{checks} checks of {} kinds, {} failures; {}\n",
        results.checks.len(),
        failures.len(),
        args.out.join("index.html").display()
    );
    output::print(text)
}

/// How a part came to its end.
pub enum Done {
    /// With something to say.
    Yes(String),
    /// It could not be begun, and why.
    No(String),
}

/// One part and what it needs.
pub struct Job<'a> {
    pub args: &'a RunArgs,
    pub gpu: &'a Arc<Gpu>,
    pub profile: &'a Profile,
    pub left: Duration,
}

impl Job<'_> {
    /// Compiles the kernels, or finds them compiled, for every precision.
    fn kernels(&self, kernels: &mut Vec<Arc<Kernels>>) -> Result<Done> {
        for precision in [Precision::F64, Precision::F32, Precision::Bf16] {
            kernels.push(source::kernels(self.gpu, precision)?);
        }
        Ok(Done::Yes(format!("{} programs", kernels.len())))
    }

    fn run(&self, part: &str, results: &mut Results) -> Result<Done> {
        let Profile { networks, training, sampling, .. } = self.profile;
        match part {
            "operations" => self.hold(results, |errors| {
                let Profile { shapes, size, channels, .. } = *self.profile;
                let programs = checks::random_operations(shapes, size, channels);
                (1..=2).try_for_each(|batch| {
                    checks::operations(self.gpu, "random shapes", &programs, 2 * batch - 1, errors)
                })
            }),
            "networks" => self.hold(results, |errors| {
                networks.iter().try_for_each(|network| {
                    let (name, batch) = named(network)?;
                    checks::network(self.gpu, name, &program(name)?, batch, errors)
                })
            }),
            "layers" => self.hold(results, |errors| {
                networks.iter().try_for_each(|network| {
                    let (name, batch) = named(network)?;
                    checks::operations(
                        self.gpu,
                        name,
                        &checks::apart(&program(name)?),
                        batch,
                        errors,
                    )
                })
            }),
            "digits" => self.hold(results, |errors| {
                let Profile { digits, samples, steps, .. } = *self.profile;
                checks::trained(self.gpu, digits, samples, steps, errors)
            }),
            "rates" => speed::rates(self, results),
            "training" => speed::training(self, &training[..training.len().min(1)], results),
            "more-training" => speed::training(self, &training[training.len().min(1)..], results),
            "sampling" => speed::sampling(self, &sampling[..sampling.len().min(1)], results),
            "more-sampling" => speed::sampling(self, &sampling[sampling.len().min(1)..], results),
            "pytorch" => speed::pytorch(self, results),
            _ => speed::sanitizer(self),
        }
    }

    /// Makes checks, and keeps what was found before something went wrong.
    fn hold(
        &self,
        results: &mut Results,
        checks: impl FnOnce(&mut Errors) -> Result<()>,
    ) -> Result<Done> {
        let mut errors = Errors::default();
        let done = checks(&mut errors);
        let checks = errors.checks();
        let note = format!(
            "{} checks of {} kinds",
            checks.iter().map(|c| c.cases).sum::<usize>(),
            checks.len()
        );
        results.checks.extend(checks);
        done.map(|()| Done::Yes(note))
    }
}

/// `NAME:BATCH`.
fn named(text: &str) -> Result<(&str, usize)> {
    let parsed = text.split_once(':').and_then(|(name, batch)| Some((name, batch.parse().ok()?)));
    parsed.ok_or_else(|| {
        Error::domain("experiments/gpu/settings.toml", text, "NAME:BATCH", "restore the file")
    })
}

/// The config of a network by its letter.
pub fn config(name: &str) -> Result<UNetConfig> {
    UNetConfig::parse(match name {
        "A" => include_str!("../../../../experiments/unet/A.json"),
        "B" => include_str!("../../../../experiments/unet/B.json"),
        "C" => include_str!("../../../../experiments/unet/C.json"),
        _ => {
            return Err(Error::domain(
                "network",
                format!("'{name}'"),
                "A, B, C",
                "correct experiments/gpu/settings.toml",
            ));
        }
    })
}

/// The operations of a network by its letter, or of the bundled one.
pub fn program(name: &str) -> Result<Program> {
    if name == "digits" {
        return digits_program();
    }
    let config = config(name)?;
    let (h, w) = config.sample_shape().unwrap_or((32, 32));
    unet(&config, h, w)
}

/// `CONFIG:PRECISION:BATCH`.
pub fn job(text: &str) -> Result<(&str, Precision, usize)> {
    let parts: Vec<&str> = text.split(':').collect();
    let refuse = || {
        Error::domain(
            "experiments/gpu/settings.toml",
            text,
            "CONFIG:PRECISION:BATCH",
            "restore the file",
        )
    };
    let [name, precision, batch] = parts[..] else { return Err(refuse()) };
    Ok((name, precision.parse()?, batch.parse().map_err(|_| refuse())?))
}

/// What the results depend on besides the device's name.
fn machine(gpu: &Gpu) -> Vec<(String, String)> {
    let mut machine = vec![
        ("compute capability".to_owned(), format!("{}.{}", gpu.capability.0, gpu.capability.1)),
        ("memory".to_owned(), format!("{:.1} GiB", gpu.memory as f64 / (1u64 << 30) as f64)),
        ("multiprocessors".to_owned(), gpu.multiprocessors.to_string()),
        ("driver for CUDA".to_owned(), format!("{}.{}", gpu.driver.0, gpu.driver.1)),
    ];
    let libraries = device::survey().cuda.map_or(vec![], |cuda| cuda.libraries);
    for library in libraries.into_iter().filter(|l| l.name != "driver") {
        let version = match (&library.path, library.version) {
            (None, _) => "missing".to_owned(),
            (Some(_), version) => version.unwrap_or_else(|| "of unknown version".into()),
        };
        machine.push((library.name.to_owned(), version));
    }
    machine
}

/// The date and time now, UTC.
fn date() -> String {
    jiff::Timestamp::now().strftime("%Y-%m-%d %H:%M UTC").to_string()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_settings_are_sound() {
        let settings: Settings =
            toml::from_str(include_str!("../../../../experiments/gpu/settings.toml")).unwrap();
        for profile in [settings.quick, settings.full] {
            for network in &profile.networks {
                let (name, batch) = named(network).unwrap();
                assert!(batch > 0 && !program(name).unwrap().ops.is_empty());
            }
            for text in profile.training.iter().chain(&profile.sampling) {
                let (name, _, batch) = job(text).unwrap();
                assert!(config(name).is_ok() && batch > 0);
            }
        }
    }

    /// The emulator stands in for the device elsewhere; here the CPU does, so that what is compared
    /// is known to be comparable.
    #[test]
    fn operations_apart_and_of_random_shapes_run() {
        use tweedie_nn::cpu::Cpu;
        let of_network = checks::apart(&program("A").unwrap());
        assert!(of_network.len() > 20 && of_network.len() < program("A").unwrap().ops.len());
        for program in checks::random_operations(3, 6, 24).iter().chain(&of_network) {
            let op = &program.ops[0];
            let mut cpu = Cpu::<f64>::new(program.clone(), 2);
            cpu.load(&checks::weights(program, Precision::F32));
            let inputs: Vec<Vec<f64>> =
                op.inputs().iter().map(|t| vec![0.5; 2 * program.tensors[*t].size()]).collect();
            let out = cpu.alone(0, &inputs, &[1.0, 2.0], &[0, 1]).unwrap();
            assert!(out.iter().all(|x| x.is_finite()), "{op:?}");
            let mut grads = vec![0.0; program.param_count()];
            let back = cpu.alone_back(0, &vec![1.0; out.len()], &mut grads);
            assert!(
                back.len() == op.inputs().len()
                    && back.iter().flatten().chain(&grads).all(|x| x.is_finite()),
                "{op:?}"
            );
        }
    }
}
