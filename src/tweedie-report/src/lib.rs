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
pub mod text;

use chapter::{Parts, Study};
use experiment::{Context, Editable};
use folder::Staging;
use page::{Chapter, Colophon, Drawn};
use progress::Progress;
use rayon::prelude::*;
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

/// A [`Study`] that can be run by name.
pub struct Experiment {
    /// [`Study::NAME`].
    pub name: &'static str,
    /// [`Study::ABOUT`].
    pub about: &'static str,
    seconds: [f64; 2],
    code: &'static str,
    text: Editable,
    settings: fn(Option<&Text>) -> Result<Value>,
    shown_again: fn(&Path) -> &'static [&'static str],
    command: fn(Profile, u64) -> String,
    compute: fn(&Context) -> Result<Vec<u8>>,
    parts: fn(&[u8]) -> Result<Parts>,
}

impl Experiment {
    /// That of a chapter's folder.
    pub const fn of<S: Study>() -> Self {
        Self {
            name: S::NAME,
            about: S::ABOUT,
            seconds: S::SECONDS,
            code: S::CODE,
            text: S::TEXT,
            settings: S::settings,
            shown_again: S::shown_again,
            command: S::command,
            compute: |context| {
                // By name, so that what is tagged or left out is read again.
                rmp_serde::to_vec_named(&S::compute(context)?).map_err(|e| unkept::<S>(&e))
            },
            parts: |numbers| {
                S::parts(&rmp_serde::from_slice(numbers).map_err(|e| unkept::<S>(&e))?)
            },
        }
    }

    /// Computes the chapter, keeping nothing, and names the parts that its text does not show.
    ///
    /// # Errors
    /// What [`Study`] and [`text::chapter`] refuse.
    pub fn chapter(&self, context: &Context) -> Result<(Chapter, Vec<String>)> {
        let parts = (self.parts)(&(self.compute)(context)?)?;
        self.told(context.profile, context.seed, &text::read(&self.text)?, parts)
    }

    fn told(
        &self,
        profile: Profile,
        seed: u64,
        text: &Text,
        parts: Parts,
    ) -> Result<(Chapter, Vec<String>)> {
        text::chapter(self.name, (self.command)(profile, seed), text, parts)
    }
}

fn unkept<S: Study>(problem: &dyn std::fmt::Display) -> Error {
    let what = format!("numbers of {}: {problem}", S::NAME);
    Error::domain("chapter", what, "numbers that can be kept", "report this as a bug")
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

/// What numbers that are kept have become, and the wall-clock time that they took.
struct Kept {
    parts: Parts,
    seconds: f64,
}

/// Kinds of files and folders in the cache, and how many of each stay there.
const NUMBERS: (&str, usize) = ("numbers", 64);
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
    let texts = experiments.iter().map(|e| text::read(&e.text)).collect::<Result<Vec<_>>>()?;
    let key = |k: usize| {
        let (experiment, machine) = (experiments[k], manifest::arithmetic());
        format!(
            "{} {}\n{machine}\n{}, seed {}\n{}",
            experiment.name, experiment.code, options.profile, options.seed, settings[k]
        )
    };
    let kept = |k: usize| {
        let bytes = options.cache.as_ref()?.get(&key(k), NUMBERS.0)?;
        let (numbers, seconds) = bytes.split_last_chunk()?;
        Some(Kept {
            parts: (experiments[k].parts)(numbers).ok()?,
            seconds: f64::from_le_bytes(*seconds),
        })
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
        let mut numbers = (experiment.compute)(&Context {
            profile: options.profile,
            seed: options.seed,
            settings: given,
            progress: &|step, of, what| progress.tell(turn, experiment.name, step, of, what),
            trainings: trainings.as_deref(),
        })?;
        let seconds = begin.elapsed().as_secs_f64();
        done[k] = Some(Kept { parts: (experiment.parts)(&numbers)?, seconds });
        if let Some(cache) = &options.cache {
            numbers.extend(seconds.to_le_bytes());
            cache.put(&key(k), NUMBERS.0, &numbers, NUMBERS.1);
            // A stopped run would have gone on with them.
            let _ = trainings.map(std::fs::remove_dir_all);
            cache.prune(TRAININGS.0, TRAININGS.1);
        }
    }
    let seconds: Vec<f64> = done.iter().flatten().map(|k| k.seconds).collect();
    let chapters = done.into_iter().flatten().enumerate().map(|(k, kept)| {
        let made = experiments[k].told(options.profile, options.seed, &texts[k], kept.parts)?;
        Ok(made.0)
    });
    let chapters = chapters.collect::<Result<Vec<Chapter>>>()?;

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

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::atomic::{AtomicUsize, Ordering};

    static COMPUTED: AtomicUsize = AtomicUsize::new(0);

    /// A chapter whose text says this.
    struct Says<const TEXT: usize>;

    const TEXTS: [&str; 3] = [
        "# T\n\nThe value is [[ x ]].\n",
        "# T\n\nIts value: [[ x ]].\n",
        "# T\n\nIts value: [[ x \n",
    ];

    impl<const TEXT: usize> Study for Says<TEXT> {
        const NAME: &'static str = "says";
        const ABOUT: &'static str = "";
        const SECONDS: [f64; 2] = [1.0, 1.0];
        const TEXT: Editable = Editable { name: "text.md", path: "", built: TEXTS[TEXT] };
        const CODE: &'static str = "1";
        type Numbers = f64;

        fn settings(_: Option<&Text>) -> Result<Value> {
            Ok(json!({}))
        }

        fn compute(_: &Context) -> Result<f64> {
            COMPUTED.fetch_add(1, Ordering::Relaxed);
            Ok(2.5)
        }

        fn parts(x: &f64) -> Result<Parts> {
            let mut parts = Parts::default();
            parts.value("x", x);
            Ok(parts)
        }
    }

    static STUDIES: [[Experiment; 1]; 3] = [
        [Experiment::of::<Says<0>>()],
        [Experiment::of::<Says<1>>()],
        [Experiment::of::<Says<2>>()],
    ];

    /// Another sentence is no reason to compute; one that can't be filled in is refused before.
    #[test]
    fn an_edited_text_makes_another_page_of_the_same_numbers() {
        let dir = tempfile::tempdir().unwrap();
        let options = |out: &str, cache: &str| Options {
            names: vec![],
            profile: Profile::Quick,
            out: dir.path().join(out),
            seed: 0,
            settings: None,
            cache: Some(Cache::new(dir.path().join(cache))),
        };
        for (k, says) in ["The value is 2.5.", "Its value: 2.5."].into_iter().enumerate() {
            let summary = run(&STUDIES[k], &options("out", "cache")).unwrap();
            assert!(std::fs::read_to_string(summary.index).unwrap().contains(says));
            assert_eq!(COMPUTED.load(Ordering::Relaxed), 1);
        }
        let said = run(&STUDIES[2], &options("out", "other")).unwrap_err().to_string();
        assert!(said.starts_with("text.md: line 3"), "{said}");
        assert_eq!(COMPUTED.load(Ordering::Relaxed), 1);
    }
}
