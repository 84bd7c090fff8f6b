//! What a run on a GPU found: its numbers, the page of them, and the chapter of the report that
//! shows the last run, if there was one.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::Path;
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;
use tweedie::math::larger;
use tweedie::number::cell;
use tweedie_report::chapter::{p, section};
use tweedie_report::experiment::{Context, Text};
use tweedie_report::foreign::Foreign;
use tweedie_report::page::{self, Block, Chapter, Colophon, Drawn, File, Section, Table};

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

    /// Writes `gpu.json`, a CSV file for each table, and `index.html`, which needs no other file.
    ///
    /// # Errors
    /// A folder that can't be written.
    pub fn write(&self, folder: &Path) -> Result<()> {
        std::fs::create_dir_all(folder).map_err(|e| {
            Error::file(folder, e, "choose a folder that can be written with --out")
        })?;
        let colophon = Colophon {
            version: self.tweedie.clone(),
            profile: if self.quick { "quick" } else { "full" }.into(),
            seed: 0,
        };
        let mut chapter = chapter(self)?;
        // Links to the files lead from the report's page; here they lie beside it.
        chapter.sections.retain(|s| s.id != "gpu-files");
        for file in files(self)? {
            tweedie_files::write(&folder.join(&file.name), &file.content)?;
        }
        tweedie_files::write(
            &folder.join("index.html"),
            page::html(&[chapter], &Drawn::new(), &colophon)?.as_bytes(),
        )
    }

    /// The same with every text changed. All fields are named, so that a new one can't be
    /// forgotten.
    fn with_texts(&self, change: impl Fn(&str) -> String) -> Self {
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
    fn fastest(&self, config: &str, what: &str, who: impl Fn(&Speed) -> bool) -> Option<&Speed> {
        let those = self.speeds.iter().filter(|s| s.config == config && s.what == what && who(s));
        those.max_by(|a, b| a.images_per_s.total_cmp(&b.images_per_s))
    }
}

/// The chapter: the last run's, or that there was none.
pub fn run(_: &Context) -> Result<Chapter> {
    last_run()?.map_or_else(|| Ok(without()), |results| chapter(&results))
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

fn last_run() -> Result<Option<Results>> {
    Ok(Results::read(Path::new(CHECKOUT))?.filter(|results| !results.device.contains("emulator")))
}

fn described(lead: String, sections: Vec<Section>) -> Chapter {
    Chapter {
        name: "gpu".into(),
        title: "On a GPU".into(),
        lead,
        command: "just gpu".into(),
        sections,
    }
}

fn without() -> Chapter {
    let text = "Not yet run on a GPU. Where there is one, <code>just gpu</code> holds every kernel and the whole networks to f64 in every precision, times training \
                and sampling beside PyTorch in the same run, and writes its results to <code>reports/gpu/</code>, from which this chapter is made. Until then the kernels \
                are compiled for their devices, and run on the host under an emulator of the driver.";
    described(
        "Networks, samplers and training run on CUDA devices too, by the same list of operations."
            .into(),
        vec![section("gpu-none", "Not yet run on a GPU", vec![p(text)])],
    )
}

fn chapter(results: &Results) -> Result<Chapter> {
    // They come from a file, of whatever machine: from here on every text of theirs is markup that
    // shows it.
    let r = &results.with_texts(|text| Foreign::from(text).to_string());
    let machine: Vec<String> =
        r.machine.iter().map(|(name, value)| format!("{name} {value}")).collect();
    let quick =
        if r.quick { " This was a quick run: small shapes, whose times say nothing." } else { "" };
    let lead =
        format!("On {}, {}, commit {}: {}.{quick}", r.device, r.date, r.commit, machine.join("; "));
    let mut sections = vec![];
    let goals = goals(r);
    if !goals.is_empty() {
        sections.push(section(
            "gpu-goals",
            "Beside PyTorch",
            vec![table(
                "The fastest of each, in the same run on the same device.",
                &["", "tweedie", "PyTorch", "ratio"],
                goals,
            )],
        ));
    }
    if !r.checks.is_empty() {
        let (ops, networks): (Vec<&Check>, Vec<&Check>) =
            r.checks.iter().partition(|c| !WHOLE.iter().any(|whole| c.what.starts_with(whole)));
        let blocks = vec![
            p(
                "Every operation alone, forward and backward, on random numbers that the precision holds exactly, in memory whose every byte was set so that what is read \
               before it is written is not a number. An error is the largest difference from the f64 operation on the CPU, in units of the largest entry. What rounding \
               predicts follows from the unit roundoff of storage, factors and sums, and the length of the sums; eight times that is let pass, because the largest of \
               many errors is several deviations. In brackets: the prediction.",
            ),
            check_table("Operations alone.", &ops),
            check_table(
                "Whole networks, and the trained digits model. Predictions: the square root of the sum over operations of their squares, over three; three times that is let pass.",
                &networks,
            ),
            Block::Evidence(evidence(r)),
        ];
        sections.push(section("gpu-checks", "Held to f64", blocks));
    }
    if !r.speeds.is_empty() {
        let rows = r.speeds.iter().map(|s| {
            vec![
                format!("{} {}, {}", s.config, s.what, s.by),
                s.precision.clone(),
                s.batch.to_string(),
                format!("{:.2}", s.ms),
                format!("{:.2}", s.fastest_ms),
                format!("{:.0}", s.images_per_s),
                if s.tflops > 0.0 { format!("{:.1}", s.tflops) } else { String::new() },
            ]
        });
        let head = ["", "precision", "batch", "ms, median", "ms, fastest", "images/s", "TFLOP/s"];
        let caption = "A training step: forward, loss, backward, AdamW, an average of the weights; tweedie's noises its images too. A sampling step: one evaluation and the \
                       combination of states. A is 8 x 8 with 0.7 M parameters, B 32 x 32 with 2.6 M, C is DDPM's for CIFAR-10 with 35.7 M.";
        sections.push(section(
            "gpu-speed",
            "Throughput",
            vec![table(caption, &head, rows.collect())],
        ));
    }
    if !r.rates.is_empty() || !r.parts.is_empty() {
        let rates = r
            .rates
            .iter()
            .map(|rate| vec![rate.what.clone(), format!("{:.1}", rate.value), rate.unit.clone()])
            .collect();
        let parts = r.parts.iter().map(|part| {
            let share = 100.0 * part.forward_bound_ms / part.forward_ms;
            vec![
                format!("{} {}, {}", part.config, part.precision, part.part),
                format!("{:.3}", part.forward_ms),
                format!("{:.3}", part.forward_bound_ms),
                if share.is_finite() { format!("{share:.0} %") } else { String::new() },
                format!("{:.3}", part.backward_ms),
            ]
        });
        let caption = "Where a step goes when each operation is waited for, which costs some ten microseconds each. The bound is the longer of arithmetic at the measured matrix \
                       rate and memory at the measured copying rate.";
        sections.push(section(
            "gpu-roofline",
            "What the device bounds",
            vec![
                table("Measured here.", &["", "rate", "unit"], rates),
                table(
                    caption,
                    &["", "forward, ms", "bound, ms", "share", "backward, ms"],
                    parts.collect(),
                ),
            ],
        ));
    }
    let stages = r
        .stages
        .iter()
        .map(|s| {
            vec![s.name.clone(), format!("{:.1}", s.seconds), s.status.clone(), s.note.clone()]
        })
        .collect();
    sections.push(section(
        "gpu-stages",
        "The run",
        vec![table("Parts of the run, in their order.", &["", "s", "", ""], stages)],
    ));
    sections.push(section("gpu-files", "Files", vec![Block::Files(files(results)?)]));
    Ok(described(lead, sections))
}

/// How parts of whole networks are called, in checks.
const WHOLE: [&str; 4] = ["output", "gradient", "x0_hat", "samples"];

/// What the project wants to reach, as far as the run says something of it.
fn goals(r: &Results) -> Vec<Vec<String>> {
    let ours = |s: &Speed| s.by == "tweedie";
    let eager = |s: &Speed| s.by.starts_with("PyTorch") && !s.by.contains("compile");
    let row = |text: &str, config: &str, what: &str, them: &dyn Fn(&Speed) -> bool| {
        let (us, them) = (r.fastest(config, what, ours)?, r.fastest(config, what, them)?);
        let told =
            |s: &Speed| format!("{:.0} images/s ({}, {})", s.images_per_s, s.by, s.precision);
        Some(vec![
            text.into(),
            told(us),
            told(them),
            format!("{:.2}", us.images_per_s / them.images_per_s),
        ])
    };
    [
        row("C, training; wanted 1.3 of the fastest variant", "C", "train", &|s| !ours(s)),
        row("C, sampling; wanted 2 of the fastest eager one", "C", "sample", &eager),
        row("C, sampling; the fastest variant", "C", "sample", &|s| !ours(s)),
        row("B, training", "B", "train", &|s| !ours(s)),
        row("A, training", "A", "train", &|s| !ours(s)),
    ]
    .into_iter()
    .flatten()
    .collect()
}

fn table(caption: &str, head: &[&str], rows: Vec<Vec<String>>) -> Block {
    Block::Table(Table {
        caption: caption.into(),
        head: head.iter().map(|h| (*h).into()).collect(),
        rows,
    })
}

/// One row for what is compared, one column for each precision: the error, and in brackets its
/// prediction.
fn check_table(caption: &str, checks: &[&Check]) -> Block {
    let mut kinds: Vec<(&str, &str, &str)> = vec![];
    for c in checks {
        if !kinds.contains(&(&c.of, &c.what, &c.way)) {
            kinds.push((&c.of, &c.what, &c.way));
        }
    }
    let rows = kinds.iter().map(|kind| {
        let of_kind = |precision: &str| {
            checks
                .iter()
                .find(|c| (&c.of[..], &c.what[..], &c.way[..]) == *kind && c.precision == precision)
        };
        let cell = |precision: &str| match of_kind(precision) {
            None => String::new(),
            Some(c) if c.error == 0.0 => format!("0 ({:.0e})", c.predicted),
            Some(c) if c.holds() => format!("{:.1e} ({:.0e})", c.error, c.predicted),
            Some(c) => format!("<strong>{:.1e} ({:.0e}) too large</strong>", c.error, c.predicted),
        };
        let cases =
            PRECISIONS.iter().filter_map(|p| of_kind(p)).map(|c| c.cases).max().unwrap_or(0);
        let name = format!("{}, {} {}", kind.0, kind.1, kind.2);
        [name, cases.to_string()].into_iter().chain(PRECISIONS.map(cell)).collect()
    });
    table(caption, &[&["", "cases"][..], &PRECISIONS].concat(), rows.collect())
}

/// In the order of the tables' columns.
const PRECISIONS: [&str; 4] = ["f64", "f32", "tf32", "bf16"];

/// The worst in each precision, in units of what is allowed.
fn evidence(r: &Results) -> Vec<Evidence> {
    let worst = |precision: &str| {
        let those = r.checks.iter().filter(|c| c.precision == precision);
        those.map(|c| c.error / c.allowed).fold(0.0, larger)
    };
    let cases = |precision: &str| {
        r.checks.iter().filter(|c| c.precision == precision).map(|c| c.cases).sum::<usize>()
    };
    let one = |precision: &str| Evidence {
        cases: cases(precision),
        ..Evidence::new(
            format!("{precision}: the largest error over what is allowed"),
            worst(precision),
            0.0,
            1.0,
        )
    };
    PRECISIONS.into_iter().filter(|precision| cases(precision) > 0).map(one).collect()
}

/// The files of a run but for its page.
fn files(r: &Results) -> Result<Vec<File>> {
    let file = |name: &str, about: &str, content: Vec<u8>| File {
        name: name.into(),
        about: about.into(),
        content,
    };
    let mut json = serde_json::to_vec_pretty(r)
        .map_err(|e| Error::domain("results", e, "plain data", "report this as a bug"))?;
    json.push(b'\n');
    let r = &r.with_texts(cell);
    Ok(vec![
        file("gpu.json", "everything", json),
        file("checks.csv", "one row a check", csv(&r.checks)?),
        file("speeds.csv", "one row a measurement", csv(&r.speeds)?),
        file("parts.csv", "one row a kind of operation", csv(&r.parts)?),
    ])
}

fn csv(rows: &[impl Serialize]) -> Result<Vec<u8>> {
    let failed = |e: csv::Error| Error::domain("results", e, "plain rows", "report this as a bug");
    let mut writer = csv::Writer::from_writer(vec![]);
    rows.iter().try_for_each(|row| writer.serialize(row)).map_err(failed)?;
    writer.into_inner().map_err(|e| Error::domain("results", e, "memory", "report this as a bug"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn results() -> Results {
        let check = |what: &str, error: f64| Check {
            of: "random shapes".into(),
            what: what.into(),
            way: "forward".into(),
            precision: "bf16".into(),
            cases: 3,
            error,
            predicted: 0.01,
            allowed: 0.08,
            worst: "here".into(),
        };
        let speed = |by: &str, what: &str, images_per_s: f64| Speed {
            by: by.into(),
            config: "C".into(),
            what: what.into(),
            precision: "bf16".into(),
            batch: 128,
            ms: 10.0,
            fastest_ms: 9.0,
            images_per_s,
            tflops: 100.0,
        };
        Results {
            tweedie: "0.1.0".into(),
            device: "A <device> & $more$".into(),
            checks: vec![check("dense", 0.02), check("output", 0.07)],
            speeds: vec![
                speed("tweedie", "train", 3000.0),
                speed("PyTorch bf16", "train", 1000.0),
                speed("PyTorch compile", "train", 2000.0),
                speed("tweedie", "sample", 9000.0),
                speed("PyTorch bf16", "sample", 3000.0),
                speed("PyTorch compile", "sample", 5000.0),
            ],
            stages: vec![Stage {
                name: "operations".into(),
                status: "done".into(),
                seconds: 1.0,
                note: String::new(),
            }],
            rates: vec![Rate { what: "copying".into(), value: 3000.0, unit: "GB/s".into() }],
            parts: vec![Part {
                config: "C".into(),
                precision: "bf16".into(),
                part: "dense".into(),
                ..Part::default()
            }],
            ..Results::default()
        }
    }

    #[test]
    fn results_are_written_and_read() {
        let folder = tempfile::tempdir().unwrap();
        assert_eq!(Results::read(folder.path()).unwrap(), None);
        let results = results();
        results.write(folder.path()).unwrap();
        assert_eq!(Results::read(folder.path()).unwrap(), Some(results.clone()));
        let html = std::fs::read_to_string(folder.path().join("index.html")).unwrap();
        for says in ["A &lt;device&gt; &amp; &#36;more&#36;", "1.50", "3.00", "1.80", "operations"]
        {
            assert!(html.contains(says), "{says}");
        }
        assert!(!html.contains("src=\"http") && !html.contains("too large"));
        assert_eq!(
            std::fs::read_to_string(folder.path().join("speeds.csv")).unwrap().lines().count(),
            7
        );
        std::fs::write(folder.path().join("gpu.json"), "{").unwrap();
        assert!(Results::read(folder.path()).unwrap_err().to_string().contains("just gpu"));
    }

    #[test]
    fn results_of_anyone_are_shown_as_text() {
        let hostile = "=\"><script>alert(1)</script>$x$\u{1b}[2J";
        for quick in [false, true] {
            // Numbers stay: every table is there.
            let foreign = Results { quick, ..results().with_texts(|_| hostile.into()) };
            let page = page::html(
                &[chapter(&foreign).unwrap()],
                &Drawn::new(),
                &Colophon { version: String::new(), profile: String::new(), seed: 0 },
            )
            .unwrap();
            assert!(page.matches("&lt;script&gt;").count() > 20, "{page}");
            assert!(
                !page.contains("<script") && !page.contains('\u{1b}') && !page.contains("<math"),
                "{page}"
            );
            for file in files(&foreign).unwrap().iter().filter(|file| file.name.ends_with(".csv")) {
                let text = String::from_utf8(file.content.clone()).unwrap();
                assert!(
                    text.contains("'=") && !text.contains(",=") && !text.contains(",\"="),
                    "{text}"
                );
            }
        }
    }

    #[test]
    fn what_does_not_hold_is_said() {
        let mut results = results();
        assert!(results.failures().is_empty() && evidence(&results).iter().all(Evidence::holds));
        for k in 0..results.checks.len() {
            let mut poisoned = results.clone();
            poisoned.checks[k].error = f64::NAN;
            assert!(
                poisoned.failures().len() == 1 && !evidence(&poisoned).iter().all(Evidence::holds),
                "{k}"
            );
        }
        results.checks[1].error = f64::NAN;
        results.stages[0].status = "failed".into();
        assert_eq!(results.failures().len(), 2);
        assert!(!evidence(&results).iter().all(Evidence::holds));
        let html = page::html(
            &[chapter(&results).unwrap()],
            &Drawn::new(),
            &Colophon { version: String::new(), profile: String::new(), seed: 0 },
        )
        .unwrap();
        assert!(html.contains("too large"));
    }
}
