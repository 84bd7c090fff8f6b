//! What the chapter on a GPU shows of a run, and the page of it.

pub use crate::gpu::numbers::FOLDER;
use crate::gpu::numbers::{Check, Results, Speed, last_run, settings, shown_again};
use serde::Serialize;
use serde_json::Value;
use std::path::Path;
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;
use tweedie::math::larger;
use tweedie::number::cell;
use tweedie_report::chapter::{Parts, Study};
use tweedie_report::experiment::{Context, Editable, Profile, Text};
use tweedie_report::foreign::Foreign;
use tweedie_report::page::{self, Chapter, Colophon, Drawn, File};
use tweedie_report::text;

/// The chapter.
pub struct Gpu;

impl Study for Gpu {
    const NAME: &'static str = "gpu";
    const ABOUT: &'static str = "what the last run on a GPU found: every kernel and the networks against f64, throughput beside PyTorch";
    const SECONDS: [f64; 2] = [1.0, 4.0];
    const TEXT: Editable = source!("gpu/text.md");
    const CODE: &'static str = env!("CODE_OF_gpu");
    type Numbers = Option<Results>;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings(text)
    }

    fn compute(_: &Context) -> Result<Option<Results>> {
        last_run()
    }

    fn parts(results: &Option<Results>) -> Result<Parts> {
        let mut parts = Parts::default();
        parts.value("ran", results.is_some());
        if let Some(results) = results {
            shown(results, &mut parts);
            parts.files("files", files(results)?);
        }
        parts.value("listed", results.is_some());
        Ok(parts)
    }

    fn shown_again(folder: &Path) -> &'static [&'static str] {
        shown_again(folder)
    }

    fn command(_: Profile, _: u64) -> String {
        COMMAND.into()
    }
}

/// What makes a run.
const COMMAND: &str = "just gpu";

impl Results {
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
        for file in files(self)? {
            tweedie_files::write(&folder.join(&file.name), &file.content)?;
        }
        tweedie_files::write(
            &folder.join("index.html"),
            page::html(&[alone(self)?], &Drawn::new(), &colophon)?.as_bytes(),
        )
    }
}

/// The chapter of a run alone, without its list of files: they lie beside it.
fn alone(results: &Results) -> Result<Chapter> {
    let mut parts = Parts::default();
    parts.value("ran", true);
    parts.value("listed", false);
    shown(results, &mut parts);
    text::chapter(Gpu::NAME, COMMAND.into(), &text::read(&Gpu::TEXT)?, parts).map(|made| made.0)
}

/// What is shown of a run.
fn shown(results: &Results, parts: &mut Parts) {
    parts.value("device", &results.device);
    parts.value("date", &results.date);
    parts.value("commit", &results.commit);
    parts.value("machine", &results.machine);
    parts.value("quick", results.quick);
    // Texts come from a file, of whatever machine. Those of values escape themselves; in tables
    // every text is from here on markup that shows it.
    let r = &results.with_texts(|text| Foreign::from(text).to_string());
    let goals = goals(r);
    parts.value("goals", !goals.is_empty());
    parts.table("goals", ["", "tweedie", "PyTorch", "ratio"], goals);

    let (ops, networks): (Vec<&Check>, Vec<&Check>) =
        r.checks.iter().partition(|c| !WHOLE.iter().any(|whole| c.what.starts_with(whole)));
    parts.value("checked", !r.checks.is_empty());
    check_table(parts, "operations", &ops);
    check_table(parts, "networks", &networks);
    if !r.checks.is_empty() {
        parts.checks("checks", evidence(r));
    }

    let speeds = r.speeds.iter().map(|s| {
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
    parts.value("timed", !r.speeds.is_empty());
    let head = ["", "precision", "batch", "ms, median", "ms, fastest", "images/s", "TFLOP/s"];
    parts.table("speeds", head, speeds);

    let rates = r
        .rates
        .iter()
        .map(|rate| vec![rate.what.clone(), format!("{:.1}", rate.value), rate.unit.clone()]);
    parts.value("bounded", !r.rates.is_empty() || !r.parts.is_empty());
    parts.table("rates", ["", "rate", "unit"], rates);
    let kinds = r.parts.iter().map(|part| {
        let share = 100.0 * part.forward_bound_ms / part.forward_ms;
        vec![
            format!("{} {}, {}", part.config, part.precision, part.part),
            format!("{:.3}", part.forward_ms),
            format!("{:.3}", part.forward_bound_ms),
            if share.is_finite() { format!("{share:.0} %") } else { String::new() },
            format!("{:.3}", part.backward_ms),
        ]
    });
    let head = ["", "forward, ms", "bound, ms", "share", "backward, ms"];
    parts.table("parts", head, kinds);

    let stages = r.stages.iter().map(|s| {
        vec![s.name.clone(), format!("{:.1}", s.seconds), s.status.clone(), s.note.clone()]
    });
    parts.table("stages", ["", "s", "", ""], stages);
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

/// One row for what is compared, one column for each precision: the error, and in brackets its
/// prediction.
fn check_table(parts: &mut Parts, id: &str, checks: &[&Check]) {
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
    parts.table(id, [&["", "cases"][..], &PRECISIONS].concat(), rows);
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
    use crate::gpu::numbers::{Part, Rate, Stage};

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
                &[alone(&foreign).unwrap()],
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
            &[alone(&results).unwrap()],
            &Drawn::new(),
            &Colophon { version: String::new(), profile: String::new(), seed: 0 },
        )
        .unwrap();
        assert!(html.contains("too large"));
    }
}
