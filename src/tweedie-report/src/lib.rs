//! The main job: runs experiments and writes one self-contained page of their figures.
//!
//! This layer renders and computes nothing: numbers come from [`crate::experiment`], a chapter of
//! the page is made of them here.

pub mod chapter;
pub mod compare;
pub mod difference;
pub mod drawing;
pub mod experiment;
mod folder;
pub mod foreign;
pub mod ledger;
pub mod manifest;
pub mod page;
mod progress;
mod prose;
pub mod style;

use folder::Staging;
use page::{Chapter, Colophon, Drawn};
use progress::Progress;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};
use tweedie::error::{Error, Result, nearest};
use tweedie_files::Cache;

pub use crate::experiment::{Profile, Text};

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
    /// Settings to compute the one experiment that is named with, in place of its own.
    pub settings: Option<Text>,
    /// Where chapters and trainings are kept, and taken from by a later run of the same program;
    /// none, and all is computed.
    pub cache: Option<Cache>,
}

/// What a run did.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The page.
    pub index: PathBuf,
    /// Experiments on the page, each with whether it was taken from the cache.
    pub experiments: Vec<(String, bool)>,
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
    /// Seconds that it takes, quick and full, on two cores: what the time left is reckoned by.
    /// Roughly: a run corrects them by its own speed.
    pub seconds: [f64; 2],
    /// Which files in its folder are other commands' and may go, because the chapter shows them
    /// again.
    pub shown_again: fn(&Path) -> &'static [&'static str],
    /// What, beside profile and seed, its numbers depend on.
    pub settings: fn(Option<&Text>) -> Result<Value>,
    /// Computes and describes.
    pub run: fn(&experiment::Context) -> Result<Chapter>,
}

/// The experiments of these names, or all.
///
/// # Errors
/// A name that no experiment has; the message suggests the nearest.
pub fn select(all: &'static [Experiment], names: &[String]) -> Result<Vec<&'static Experiment>> {
    if names.is_empty() {
        return Ok(all.iter().collect());
    }
    let mut chosen: Vec<&Experiment> = Vec::new();
    for name in names {
        let Some(experiment) = all.iter().find(|e| e.name == name) else {
            let all: Vec<_> = all.iter().map(|e| e.name).collect();
            let mend = nearest(name, all.iter().copied())
                .map_or("choose some of them".into(), |near| format!("did you mean {near}?"));
            return Err(Error::domain("experiment", name, all.join(", "), mend));
        };
        if !chosen.iter().any(|e| e.name == experiment.name) {
            chosen.push(experiment);
        }
    }
    Ok(chosen)
}

/// A chapter as it is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    chapter: Chapter,
    /// Wall-clock time that it took.
    seconds: f64,
}

/// Kinds of files and folders in the cache, and how many of each stay there.
const CHAPTERS: (&str, usize) = ("chapter", 64);
const TRAININGS: (&str, usize) = ("trainings", 8);

/// Runs the experiments and writes the page, its figures (SVG, PNG), their numbers (CSV, JSON) and
/// a manifest.
///
/// Progress is shown on stderr when it is a terminal. The same seed gives the same numbers on any
/// number of threads. A run that was stopped goes on where it was, if there is a cache: with the
/// experiments that it had not finished, and within their trainings.
///
/// # Errors
/// An unknown name, a folder that can't be written, an experiment that fails.
pub fn run(all: &'static [Experiment], options: &Options) -> Result<Summary> {
    let start = Instant::now();
    let experiments = select(all, &options.names)?;
    // What can be refused is refused before anything is computed. The folder is made for that, and
    // again when there is something to write: a run that is stopped leaves no empty one.
    let made = folder::missing(&options.out);
    let again: Vec<String> = experiments
        .iter()
        .flat_map(|e| {
            (e.shown_again)(&options.out.join(e.name))
                .iter()
                .map(|file| format!("{}/{file}", e.name))
        })
        .collect();
    Staging::new(&options.out)?
        .replacing(again.iter().cloned())
        .claim(experiments.iter().map(|e| e.name).chain(["index.html", folder::MANIFEST]))?;
    // None is removed that holds anything.
    made.iter().take_while(|folder| std::fs::remove_dir(folder).is_ok()).for_each(drop);
    let given = options.settings.as_ref();
    if given.is_some() && experiments.len() != 1 {
        return Err(Error::domain(
            "experiments with settings of a file",
            experiments.len(),
            "one, whose settings they are",
            "name one experiment, or leave the file out",
        ));
    }
    let settings = experiments.iter().map(|e| (e.settings)(given)).collect::<Result<Vec<_>>>()?;
    let key = |k: usize| {
        let (program, name) = (manifest::program(), experiments[k].name);
        format!("{program}\n{name}, {}, seed {}\n{}", options.profile, options.seed, settings[k])
    };
    let kept = |k: usize| {
        let bytes = options.cache.as_ref()?.get(&key(k), CHAPTERS.0)?;
        postcard::from_bytes::<Kept>(&bytes).ok()
    };
    let mut done: Vec<Option<Kept>> = (0..experiments.len()).map(kept).collect();
    let from_cache: Vec<bool> = done.iter().map(Option::is_some).collect();
    let missing: Vec<usize> = (0..experiments.len()).filter(|k| !from_cache[*k]).collect();
    let progress = Progress::new(
        missing
            .iter()
            .map(|k| options.profile.of(experiments[*k].seconds[0], experiments[*k].seconds[1])),
    );
    for (turn, k) in missing.into_iter().enumerate() {
        let (begin, experiment) = (Instant::now(), experiments[k]);
        let trainings = options.cache.as_ref().map(|cache| cache.path(&key(k), TRAININGS.0));
        let chapter = (experiment.run)(&experiment::Context {
            profile: options.profile,
            seed: options.seed,
            settings: given,
            progress: &|step, of, what| progress.tell(turn, experiment.name, step, of, what),
            trainings: trainings.as_deref(),
        })?;
        let computed = Kept { chapter, seconds: begin.elapsed().as_secs_f64() };
        if let (Some(cache), Ok(bytes)) = (&options.cache, postcard::to_stdvec(&computed)) {
            cache.put(&key(k), CHAPTERS.0, &bytes, CHAPTERS.1);
            // They have served.
            let _ = trainings.map(std::fs::remove_dir_all);
            cache.prune(TRAININGS.0, TRAININGS.1);
        }
        done[k] = Some(computed);
    }
    let (chapters, seconds): (Vec<Chapter>, Vec<f64>) =
        done.into_iter().flatten().map(|k| (k.chapter, k.seconds)).unzip();

    progress.say("drawing");
    let colophon = Colophon::new(options.profile, options.seed);
    let drawn = page::draw(&chapters)?;
    let page = page::html(&chapters, &drawn, &colophon)?;
    // Only then: while a folder is filled, a request to end is obeyed at its next file, before that
    // at once.
    let staging = Staging::new(&options.out)?.replacing(again);
    write_site(&staging, &chapters, &drawn, &page)?;
    let of = |k: usize| json!({"name": experiments[k].name, "settings": settings[k], "seconds": seconds[k]});
    let mut manifest = manifest::of_the_machine();
    let run = json!({
        "profile": colophon.profile,
        "seed": options.seed,
        "seconds": start.elapsed().as_secs_f64(),
        "experiments": (0..experiments.len()).map(of).collect::<Vec<_>>(),
    });
    manifest.extend(run.as_object().cloned().unwrap_or_default());
    staging.write(folder::MANIFEST, pretty(&manifest.into()))?;
    staging.publish()?;
    progress.clear();
    Ok(Summary {
        index: options.out.join("index.html"),
        experiments: experiments
            .iter()
            .zip(from_cache)
            .map(|(e, kept)| (e.name.to_string(), kept))
            .collect(),
        figures: chapters.iter().map(|c| c.figures().count()).sum(),
        checks: chapters.iter().map(|c| c.evidence().count()).sum(),
        failed: chapters
            .iter()
            .flat_map(Chapter::evidence)
            .filter(|e| !e.holds())
            .map(|e| e.what.clone())
            .collect(),
        duration: start.elapsed(),
    })
}

/// Chapters, each in its folder, and the page of them.
fn write_site(staging: &Staging, chapters: &[Chapter], drawn: &Drawn, page: &str) -> Result<()> {
    chapters.iter().try_for_each(|chapter| write_files(staging, chapter, drawn))?;
    staging.write("index.html", page)
}

/// The figures, their numbers, the checks and all else of a chapter's folder.
fn write_files(staging: &Staging, chapter: &Chapter, drawn: &Drawn) -> Result<()> {
    for file in chapter.files() {
        staging.write(&format!("{}/{}", chapter.name, file.name), &file.content)?;
    }
    let evidence = chapter.evidence().map(
        |e| json!({"what": e.what, "got": e.got, "want": e.want, "tol": e.tol, "side": e.side, "why": e.why, "ok": e.holds()}),
    );
    staging.write(
        &format!("{}/checks.json", chapter.name),
        pretty(&evidence.collect::<Vec<_>>().into()),
    )?;
    chapter.drawings().collect::<Vec<_>>().into_par_iter().try_for_each(|(stem, drawing)| {
        let path = format!("{}/{stem}", chapter.name);
        // The style goes after the opening tag of the root element.
        let page::Rendered { svg, png } = &drawn[&path];
        let body =
            svg.find("<svg").and_then(|i| svg[i..].find('>').map(|j| i + j + 1)).unwrap_or(0);
        staging.write(
            &format!("{path}.svg"),
            format!("{}{}{}", &svg[..body], style::svg_style(), &svg[body..]),
        )?;
        staging.write(&format!("{path}.png"), png)?;
        staging.write(&format!("{path}.csv"), drawing.csv()?)?;
        staging.write(&format!("{path}.json"), pretty(&drawing.json()))
    })
}

fn pretty(value: &Value) -> String {
    format!("{value:#}\n")
}
