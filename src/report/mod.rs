//! The main job: runs experiments and writes one self-contained page of their figures.
//!
//! This layer renders and computes nothing: numbers come from [`crate::experiment`], a chapter of the page is made of them here.

mod chapter;
mod claims;
mod digits_theory;
mod digits_unet;
pub mod drawing;
mod equivalence;
mod folder;
pub mod gpu;
mod grf;
pub mod ledger;
pub mod number;
pub mod page;
mod prose;
mod samplers;
pub mod style;

use crate::error::{Error, Result};
use crate::experiment;
use folder::Staging;
use indicatif::{ProgressBar, ProgressStyle};
use page::{Chapter, Colophon};
use serde_json::{Value, json};
use std::path::PathBuf;
use std::time::{Duration, Instant};

pub use crate::experiment::Profile;

/// What `tweedie report` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// Experiments to run, in this order; none means all.
    pub names: Vec<String>,
    /// How much is computed.
    pub profile: Profile,
    /// Folder that gets `index.html` and a folder for each experiment.
    pub out: PathBuf,
    /// Seed of every random draw.
    pub seed: u64,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The page.
    pub index: PathBuf,
    /// Experiments that ran.
    pub experiments: Vec<String>,
    /// Figures drawn.
    pub figures: usize,
    /// Checks made.
    pub checks: usize,
    /// Descriptions of the checks that did not hold.
    pub failed: Vec<String>,
    /// Wall-clock time.
    pub duration: Duration,
}

/// An experiment that can be run by name.
pub struct Experiment {
    /// Its name on the command line, of its settings file and of its folder.
    pub name: &'static str,
    /// One line of what it shows.
    pub about: &'static str,
    /// Computes and describes; the second part is its settings, for the manifest.
    run: fn(&experiment::Context) -> Result<(Chapter, Value)>,
}

/// Every experiment, in the order of the page.
pub const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "digits-theory",
        about: "the exact diffusion of 1,797 handwritten digits: spectrum, trajectories, emergence, Wiener against empirical, ELBO",
        run: digits_theory::run,
    },
    Experiment {
        name: "samplers",
        about: "what few steps cost, exactly: DDPM, DDIM, DPM-Solver, Heun, students; measured orders; work against precision",
        run: samplers::run,
    },
    Experiment {
        name: "digits-unet",
        about: "a U-Net trained on the digits: its samples, its loss, trajectories and receptive fields beside the exact ones",
        run: digits_unet::run,
    },
    Experiment {
        name: "equivalence",
        about: "x0-, eps-, v- and velocity-objectives: one minimiser, one path, and where a bottleneck or training parts them",
        run: equivalence::run,
    },
    Experiment {
        name: "grf",
        about: "a U-Net trained on Gaussian random fields: its excess risk and its samples' spectrum, against the exact law",
        run: grf::run,
    },
    Experiment {
        name: "claims",
        about: "151 statements of five lecture decks, each with the verdict that its check computes, slips and corrections first",
        run: claims::run,
    },
    Experiment {
        name: "gpu",
        about: "what the last run on a GPU found: every kernel and the networks against f64, throughput beside PyTorch",
        run: gpu::run,
    },
];

/// The experiments of these names, or all.
///
/// # Errors
/// A name that no experiment has; the message suggests the nearest.
pub fn select(names: &[String]) -> Result<Vec<&'static Experiment>> {
    if names.is_empty() {
        return Ok(EXPERIMENTS.iter().collect());
    }
    let mut chosen: Vec<&Experiment> = Vec::new();
    for name in names {
        let Some(experiment) = EXPERIMENTS.iter().find(|e| e.name == name) else {
            let nearest = EXPERIMENTS
                .iter()
                .map(|e| e.name)
                .max_by(|a, b| strsim::jaro_winkler(a, name).total_cmp(&strsim::jaro_winkler(b, name)));
            let all: Vec<_> = EXPERIMENTS.iter().map(|e| e.name).collect();
            return Err(Error::domain("experiment", name, all.join(", "), format!("did you mean {}?", nearest.unwrap_or("none"))));
        };
        if !chosen.iter().any(|e| e.name == experiment.name) {
            chosen.push(experiment);
        }
    }
    Ok(chosen)
}

/// Runs the experiments and writes the page, its figures (SVG, PNG), their numbers (CSV, JSON) and a manifest.
///
/// Progress is shown on stderr when it is a terminal. The same seed gives the same numbers on any number of threads.
///
/// # Errors
/// An unknown name, a folder that can't be written, an experiment that fails.
pub fn run(options: &Options) -> Result<Summary> {
    let start = Instant::now();
    let experiments = select(&options.names)?;
    let staging = Staging::new(&options.out)?;
    let bar = ProgressBar::new(0);
    bar.set_style(
        ProgressStyle::with_template("{spinner} {prefix} {msg} [{bar:24}] {pos}/{len} {elapsed}")
            .unwrap_or(ProgressStyle::default_bar()),
    );
    bar.enable_steady_tick(Duration::from_millis(120));
    let (mut chapters, mut records) = (Vec::new(), Vec::new());
    for experiment in &experiments {
        let begin = Instant::now();
        bar.set_prefix(experiment.name);
        bar.set_position(0);
        let progress = |done: usize, of: usize, what: &str| {
            bar.set_length(of as u64);
            bar.set_position(done as u64);
            bar.set_message(what.to_string());
        };
        let (chapter, settings) =
            (experiment.run)(&experiment::Context { profile: options.profile, seed: options.seed, progress: &progress })?;
        bar.set_message("drawing");
        write_files(&staging, &chapter)?;
        let evidence = chapter
            .evidence()
            .map(|e| json!({"what": e.what, "got": e.got, "want": e.want, "tol": e.tol, "why": e.why, "ok": e.holds()}));
        staging.write(&format!("{}/checks.json", chapter.name), pretty(&evidence.collect::<Vec<_>>().into()))?;
        records.push(json!({"name": experiment.name, "settings": settings, "seconds": begin.elapsed().as_secs_f64()}));
        chapters.push(chapter);
    }
    let colophon = Colophon { version: env!("CARGO_PKG_VERSION").into(), profile: options.profile.to_string(), seed: options.seed };
    staging.write("index.html", page::html(&chapters, &colophon)?)?;
    let manifest = json!({
        "tweedie": colophon.version,
        "profile": colophon.profile,
        "seed": options.seed,
        "threads": rayon::current_num_threads(),
        "os": std::env::consts::OS,
        "arch": std::env::consts::ARCH,
        "seconds": start.elapsed().as_secs_f64(),
        "experiments": records,
    });
    staging.write("manifest.json", pretty(&manifest))?;
    staging.publish()?;
    bar.finish_and_clear();
    Ok(Summary {
        index: options.out.join("index.html"),
        experiments: experiments.iter().map(|e| e.name.to_string()).collect(),
        figures: chapters.iter().map(|c| c.figures().count()).sum(),
        checks: chapters.iter().map(|c| c.evidence().count()).sum(),
        failed: chapters.iter().flat_map(Chapter::evidence).filter(|e| !e.holds()).map(|e| e.what.clone()).collect(),
        duration: start.elapsed(),
    })
}

fn write_files(staging: &Staging, chapter: &Chapter) -> Result<()> {
    for file in chapter.files() {
        staging.write(&format!("{}/{}", chapter.name, file.name), &file.content)?;
    }
    for figure in chapter.figures() {
        for (k, drawing) in figure.drawings.iter().enumerate() {
            let stem = format!("{}/{}", chapter.name, figure.stem(k));
            // The style goes after the opening tag of the root element.
            let svg = drawing.svg()?;
            let body = svg.find("<svg").and_then(|i| svg[i..].find('>').map(|j| i + j + 1)).unwrap_or(0);
            staging.write(&format!("{stem}.svg"), format!("{}{}{}", &svg[..body], style::svg_style(), &svg[body..]))?;
            staging.write(&format!("{stem}.png"), drawing.png()?)?;
            staging.write(&format!("{stem}.csv"), drawing.csv()?)?;
            staging.write(&format!("{stem}.json"), pretty(&drawing.json()))?;
        }
    }
    Ok(())
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashSet;
    use std::path::Path;

    fn options(out: &Path) -> Options {
        Options { names: vec!["digits-theory".into()], profile: Profile::Quick, out: out.to_path_buf(), seed: 0 }
    }

    /// All values of an attribute.
    fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
        html.split(&format!(" {name}=\"")).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
    }

    /// Every number in a JSON value, in order.
    fn numbers(value: &Value) -> Vec<f64> {
        match value {
            Value::Number(n) => n.as_f64().into_iter().collect(),
            Value::Array(a) => a.iter().flat_map(numbers).collect(),
            Value::Object(o) => o.values().flat_map(numbers).collect(),
            _ => Vec::new(),
        }
    }

    #[test]
    fn the_page_is_whole() {
        let out = tempfile::tempdir().unwrap();
        let summary = run(&options(out.path())).unwrap();
        assert!(summary.failed.is_empty(), "{:?}", summary.failed);
        assert!(summary.figures >= 14 && summary.checks >= 24);
        let html = std::fs::read_to_string(&summary.index).unwrap();

        // Nothing is fetched: links lead to fragments, to files beside the page, or to data within it.
        let ids = attributes(&html, "id");
        assert_eq!(ids.len(), ids.iter().collect::<HashSet<_>>().len(), "an id occurs twice");
        let links: Vec<_> = attributes(&html, "href").into_iter().chain(attributes(&html, "src")).collect();
        assert!(links.len() > 60);
        for link in links {
            match link.strip_prefix('#') {
                Some(id) => assert!(ids.contains(&id), "{link} leads nowhere"),
                None => assert!(link.starts_with("data:") || out.path().join(link).is_file(), "{link} is missing"),
            }
        }
        assert!(!html.contains("<script") && !html.contains("url(http"));

        // Every figure has a caption, every picture a description.
        assert_eq!(html.matches("<figure").count(), summary.figures);
        assert_eq!(html.matches("<figcaption>").count(), summary.figures);
        let pictures: Vec<_> = html.split("<svg ").skip(1).collect();
        assert!(pictures.len() >= summary.figures);
        for picture in pictures {
            assert!(
                picture.starts_with("role=\"img\" aria-label=\"") && attributes(&format!(" {picture}"), "aria-label")[0].len() > 40
            );
        }

        let left: HashSet<_> =
            std::fs::read_dir(out.path()).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        assert_eq!(left, ["digits-theory", "index.html", "manifest.json"].map(String::from).into());
        let manifest: Value = serde_json::from_str(&std::fs::read_to_string(out.path().join("manifest.json")).unwrap()).unwrap();
        assert_eq!(manifest["experiments"][0]["settings"]["steps"], 1000);

        // The committed gallery shows the numbers that the program computes today, up to rounding that differs between machines.
        let gallery = Path::new(env!("CARGO_MANIFEST_DIR")).join("reports/gallery");
        let mut compared = 0;
        for file in
            std::fs::read_dir(&gallery).unwrap().map(|e| e.unwrap().path()).filter(|p| p.extension().is_some_and(|e| e == "json"))
        {
            let read = |p: &Path| numbers(&serde_json::from_str(&std::fs::read_to_string(p).unwrap()).unwrap());
            let (old, new) = (read(&file), read(&out.path().join("digits-theory").join(file.file_name().unwrap())));
            assert_eq!(old.len(), new.len(), "{}: run `just gallery`", file.display());
            let off = old.iter().zip(&new).map(|(a, b)| (a - b).abs() / (1e-3 + a.abs())).fold(0.0, f64::max);
            assert!(off <= 1e-6, "{} is stale by {off:e}: run `just gallery`", file.display());
            compared += 1;
        }
        assert!(compared >= 4);
    }

    #[test]
    fn numbers_do_not_depend_on_the_number_of_threads() {
        let csv = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let context = experiment::Context { profile: Profile::Quick, seed: 3, progress: &|_, _, _| {} };
            let (chapter, _) = pool.install(|| (EXPERIMENTS[0].run)(&context)).unwrap();
            chapter.figures().flat_map(|f| f.drawings.iter().map(|d| d.csv().unwrap())).collect::<Vec<_>>()
        };
        assert!(csv(1) == csv(3));
    }

    #[test]
    fn an_unknown_experiment_is_refused_before_anything_is_written() {
        let out = tempfile::tempdir().unwrap();
        let wrong = Options { names: vec!["digit-theory".into()], ..options(&out.path().join("new")) };
        let message = run(&wrong).unwrap_err().to_string();
        let names: Vec<_> = EXPERIMENTS.iter().map(|e| e.name).collect();
        assert_eq!(message, format!("experiment: got digit-theory, allowed: {}; did you mean digits-theory?", names.join(", ")));
        assert!(!out.path().join("new").exists());
    }

    #[test]
    fn experiments_have_settings_and_unique_names() {
        let names: HashSet<_> = EXPERIMENTS.iter().map(|e| e.name).collect();
        assert_eq!(names.len(), EXPERIMENTS.len());
        for name in names {
            assert!(Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("experiments/{name}.toml")).is_file());
        }
    }
}
