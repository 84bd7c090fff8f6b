//! What a run on a GPU found: its numbers, and where the last run's are.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use tweedie::error::{Error, Result};
use tweedie_report::experiment::Text;

/// Folder of a run's results, in a checkout.
pub const FOLDER: &str = "reports/gpu";

/// The same in the checkout that the program was built from: the report shows what lies there,
/// wherever it runs and is written to.
const CHECKOUT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../reports/gpu");
/// What a run writes into its folder.
const FILES: [&str; 5] = ["gpu.json", "checks.csv", "speeds.csv", "parts.csv", "index.html"];

/// Of those in the folder of a page's chapter, the ones that it need not keep: the chapter shows
/// them again, or they are an emulator's.
pub fn shown_again(chapter: &Path) -> &'static [&'static str] {
    let Ok(Some(there)) = Results::read(chapter) else { return &[] };
    let again = || last_run().is_ok_and(|shown| shown.as_ref() == Some(&there));
    if there.device.contains("emulator") || again() { &FILES } else { &[] }
}

/// Everything that a run found, as `gpu.json` holds it.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Results {
    pub tweedie: String,
    pub commit: String,
    /// UTC.
    pub date: String,
    /// The driver's name of the device.
    pub device: String,
    /// Compute capability, driver, memory, libraries: name and value.
    pub machine: Vec<(String, String)>,
    /// Small shapes and few repetitions.
    pub quick: bool,
    pub stages: Vec<Stage>,
    pub checks: Vec<Check>,
    pub speeds: Vec<Speed>,
    pub rates: Vec<Rate>,
    pub parts: Vec<Part>,
}

/// A part of the run.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Stage {
    pub name: String,
    /// `done`, `failed`, `not run`.
    pub status: String,
    pub seconds: f64,
    /// Why not, or what else there is to say.
    pub note: String,
}

/// The worst of some errors of one kind.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Check {
    /// Of which network or shapes.
    pub of: String,
    /// Kind of operation, or part of a network.
    pub what: String,
    /// `forward` or `backward`.
    pub way: String,
    pub precision: String,
    /// Cases of which this is the worst.
    pub cases: usize,
    /// Largest error, in units of the largest entry of the f64 result.
    pub error: f64,
    /// What the precision's unit roundoff predicts.
    pub predicted: f64,
    /// How much is let pass.
    pub allowed: f64,
    /// Where the worst was.
    pub worst: String,
}

impl Check {
    /// Whether it is small enough; NaN never is.
    pub fn holds(&self) -> bool {
        self.error <= self.allowed
    }
}

/// How fast something ran.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Speed {
    /// `tweedie`, or PyTorch's variant.
    pub by: String,
    pub config: String,
    /// `train` or `sample` (one evaluation and step).
    pub what: String,
    pub precision: String,
    pub batch: usize,
    /// Median and fastest.
    pub ms: f64,
    pub fastest_ms: f64,
    pub images_per_s: f64,
    /// Floating-point operations a second, in 1e12.
    pub tflops: f64,
}

/// What the device can do at best.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Rate {
    pub what: String,
    pub value: f64,
    pub unit: String,
}

/// All operations of one kind in one step, each waited for.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Part {
    pub config: String,
    pub precision: String,
    pub part: String,
    pub forward_ms: f64,
    pub backward_ms: f64,
    /// Least time of the forward pass by arithmetic and by memory.
    pub forward_bound_ms: f64,
}

impl Results {
    /// The last run, if there is one.
    ///
    /// # Errors
    /// A file that is none of ours.
    pub fn read(folder: &Path) -> Result<Option<Self>> {
        let path = folder.join("gpu.json");
        match std::fs::read(&path) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => Ok(None),
            Err(e) => Err(Error::file(&path, e, "make it readable, or remove it")),
            Ok(bytes) => serde_json::from_slice(&bytes).map(Some).map_err(|e| {
                Error::file(
                    &path,
                    format!("is no result of `tweedie gpu`: {e}"),
                    "remove it, and run `just gpu` again",
                )
            }),
        }
    }

    /// Refuses a folder in which files of a run would replace someone else's.
    ///
    /// # Errors
    /// The first of them, where there is no `gpu.json` of a run's.
    pub fn claim(folder: &Path) -> Result<()> {
        if matches!(Self::read(folder), Ok(Some(_))) {
            return Ok(());
        }
        match FILES.map(|name| folder.join(name)).into_iter().find(|path| path.exists()) {
            None => Ok(()),
            Some(path) => {
                let mend = "move it elsewhere, or choose another --out";
                Err(Error::file(&path, "is in the way, and no `tweedie gpu` has written it", mend))
            }
        }
    }

    /// The same with every text changed. All fields are named, so that a new one can't be
    /// forgotten.
    pub(super) fn with_texts(&self, change: impl Fn(&str) -> String) -> Self {
        let Self {
            tweedie,
            commit,
            date,
            device,
            machine,
            quick,
            stages,
            checks,
            speeds,
            rates,
            parts,
        } = self;
        let stage = |Stage { name, status, seconds, note }: &Stage| Stage {
            name: change(name),
            status: change(status),
            seconds: *seconds,
            note: change(note),
        };
        let check = |Check {
                         of,
                         what,
                         way,
                         precision,
                         cases,
                         error,
                         predicted,
                         allowed,
                         worst,
                     }: &Check| Check {
            of: change(of),
            what: change(what),
            way: change(way),
            precision: change(precision),
            cases: *cases,
            error: *error,
            predicted: *predicted,
            allowed: *allowed,
            worst: change(worst),
        };
        let speed = |Speed {
                         by,
                         config,
                         what,
                         precision,
                         batch,
                         ms,
                         fastest_ms,
                         images_per_s,
                         tflops,
                     }: &Speed| Speed {
            by: change(by),
            config: change(config),
            what: change(what),
            precision: change(precision),
            batch: *batch,
            ms: *ms,
            fastest_ms: *fastest_ms,
            images_per_s: *images_per_s,
            tflops: *tflops,
        };
        let rate = |Rate { what, value, unit }: &Rate| Rate {
            what: change(what),
            value: *value,
            unit: change(unit),
        };
        let part =
            |Part { config, precision, part, forward_ms, backward_ms, forward_bound_ms }: &Part| {
                Part {
                    config: change(config),
                    precision: change(precision),
                    part: change(part),
                    forward_ms: *forward_ms,
                    backward_ms: *backward_ms,
                    forward_bound_ms: *forward_bound_ms,
                }
            };
        Self {
            tweedie: change(tweedie),
            commit: change(commit),
            date: change(date),
            device: change(device),
            machine: machine.iter().map(|(name, value)| (change(name), change(value))).collect(),
            quick: *quick,
            stages: stages.iter().map(stage).collect(),
            checks: checks.iter().map(check).collect(),
            speeds: speeds.iter().map(speed).collect(),
            rates: rates.iter().map(rate).collect(),
            parts: parts.iter().map(part).collect(),
        }
    }

    /// Everything that did not hold or did not come to its end.
    pub fn failures(&self) -> Vec<String> {
        let checks = self.checks.iter().filter(|c| !c.holds());
        let checks = checks.map(|c| {
            let Check { of, what, way, precision, error, allowed, worst, .. } = c;
            format!("{of}, {what} {way} in {precision}: off by {error:.1e}, allowed {allowed:.1e} ({worst})")
        });
        let stages = self
            .stages
            .iter()
            .filter(|s| s.status == "failed")
            .map(|s| format!("{}: {}", s.name, s.note));
        checks.chain(stages).collect()
    }

    /// The fastest of those of a config, a job and whoever else `who` lets through.
    pub(super) fn fastest(
        &self,
        config: &str,
        what: &str,
        who: impl Fn(&Speed) -> bool,
    ) -> Option<&Speed> {
        let those = self.speeds.iter().filter(|s| s.config == config && s.what == what && who(s));
        those.max_by(|a, b| a.images_per_s.total_cmp(&b.images_per_s))
    }
}

/// Which run it shows.
pub fn settings(text: Option<&Text>) -> Result<Value> {
    if let Some(text) = text {
        let problem = "holds settings, and the chapter gpu has none: it shows what a run found";
        return Err(Error::file(&text.file, problem, "leave --settings out"));
    }
    let of = |run: Results| json!({"date": run.date, "commit": run.commit, "device": run.device});
    Ok(last_run()?.map_or(Value::Null, of))
}

/// The last run on a device, if there was one.
///
/// # Errors
/// As [`Results::read`].
pub fn last_run() -> Result<Option<Results>> {
    Ok(Results::read(Path::new(CHECKOUT))?.filter(|results| !results.device.contains("emulator")))
}
