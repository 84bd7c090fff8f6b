//! The main job: runs experiments and writes one self-contained page of their figures.
//!
//! This layer renders and computes nothing: numbers come from [`crate::experiment`], a chapter of the page is made of them here.

mod chapter;
mod claims;
pub mod compare;
mod digits_theory;
mod digits_unet;
pub mod drawing;
mod elbo;
mod equivalence;
mod flow_matching;
mod folder;
mod foreign;
pub mod gpu;
mod grf;
mod guidance;
mod langevin;
mod latent;
pub mod ledger;
mod manifest;
mod natural_patches;
pub mod number;
pub mod page;
mod preconditioning;
mod progress;
mod prose;
mod samplers;
mod schedules;
pub mod style;

use crate::error::{Error, Result};
use crate::experiment;
use crate::file::Cache;
use folder::Staging;
use page::{Chapter, Colophon, Drawn};
use progress::Progress;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
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
    /// Where chapters and trainings are kept, and taken from by a later run of the same program; none, and all is computed.
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
    /// Seconds that it takes, quick and full, on two cores: what the time left is reckoned by. Roughly: a run corrects them by its own speed.
    seconds: [f64; 2],
    /// What, beside profile and seed, its numbers depend on.
    settings: fn() -> Result<Value>,
    /// Computes and describes.
    run: fn(&experiment::Context) -> Result<Chapter>,
}

/// Every experiment, in the order of the page.
pub const EXPERIMENTS: &[Experiment] = &[
    Experiment {
        name: "digits-theory",
        about: "the exact diffusion of 1,797 handwritten digits: spectrum, trajectories, emergence, Wiener against empirical, ELBO",
        seconds: [9.0, 36.0],
        settings: chapter::settings::<experiment::digits_theory::Settings>,
        run: digits_theory::run,
    },
    Experiment {
        name: "schedules",
        about: "noise levels and time, terminal SNR and brightness, single steps, grids, resolution, learned schedules",
        seconds: [1.0, 4.0],
        settings: chapter::settings::<experiment::schedules::Settings>,
        run: schedules::run,
    },
    Experiment {
        name: "elbo",
        about: "the variational bound line by line, against steps and schedules, in bits, and three likelihoods of one network",
        seconds: [3.0, 12.0],
        settings: chapter::settings::<experiment::elbo::Settings>,
        run: elbo::run,
    },
    Experiment {
        name: "preconditioning",
        about: "EDM's scalings, targets and what can be known of them, errors on their way to x0, weights, times, averages of weights",
        seconds: [5.0, 20.0],
        settings: chapter::settings::<experiment::preconditioning::Settings>,
        run: preconditioning::run,
    },
    Experiment {
        name: "natural-patches",
        about: "five photographs: spectra near 1/f^2, the Wiener filter against recall, coarse before fine, teleportation, receptive fields",
        seconds: [13.0, 52.0],
        settings: chapter::settings::<experiment::natural_patches::Settings>,
        run: natural_patches::run,
    },
    Experiment {
        name: "langevin",
        about: "Langevin dynamics, the score, annealing, the family of reverse SDEs, predictor and corrector, on known laws",
        seconds: [12.0, 48.0],
        settings: chapter::settings::<experiment::langevin::Settings>,
        run: langevin::run,
    },
    Experiment {
        name: "samplers",
        about: "what few steps cost, exactly: DDPM, DDIM, DPM-Solver, Heun, students; measured orders; work against precision",
        seconds: [15.0, 60.0],
        settings: chapter::settings::<experiment::samplers::Settings>,
        run: samplers::run,
    },
    Experiment {
        name: "flow-matching",
        about: "straight lines and bent flows: one flow on every path, what crossing and bending cost, reflow, where Euler's steps go",
        seconds: [2.0, 8.0],
        settings: chapter::settings::<experiment::flow_matching::Settings>,
        run: flow_matching::run,
    },
    Experiment {
        name: "guidance",
        about: "what guidance samples: the produced law against the tilted one, a lost mode, digits at growing scales, where it works",
        seconds: [7.0, 28.0],
        settings: chapter::settings::<experiment::guidance::Settings>,
        run: guidance::run,
    },
    Experiment {
        name: "latent",
        about: "linear VAEs and principal components: bound and gap, collapse, what compression and sampler each lose, what a latent saves",
        seconds: [6.0, 24.0],
        settings: chapter::settings::<experiment::latent::Settings>,
        run: latent::run,
    },
    Experiment {
        name: "digits-unet",
        about: "a U-Net trained on the digits: its samples, its loss, trajectories and receptive fields beside the exact ones",
        seconds: [73.0, 405.0],
        settings: digits_unet::settings,
        run: digits_unet::run,
    },
    Experiment {
        name: "equivalence",
        about: "x0-, eps-, v- and velocity-objectives: one minimiser, one path, and where a bottleneck or training parts them",
        seconds: [67.0, 660.0],
        settings: chapter::settings::<experiment::equivalence::Settings>,
        run: equivalence::run,
    },
    Experiment {
        name: "grf",
        about: "a U-Net trained on Gaussian random fields: its excess risk and its samples' spectrum, against the exact law",
        seconds: [46.0, 670.0],
        settings: chapter::settings::<experiment::grf::Settings>,
        run: grf::run,
    },
    Experiment {
        name: "claims",
        about: "the statements of five lecture decks, each with the verdict that its check computes, slips and corrections first",
        seconds: [5.0, 20.0],
        settings: chapter::settings::<experiment::claims::Settings>,
        run: claims::run,
    },
    Experiment {
        name: "gpu",
        about: "what the last run on a GPU found: every kernel and the networks against f64, throughput beside PyTorch",
        seconds: [1.0, 4.0],
        settings: gpu::settings,
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

/// Runs the experiments and writes the page, its figures (SVG, PNG), their numbers (CSV, JSON) and a manifest.
///
/// Progress is shown on stderr when it is a terminal. The same seed gives the same numbers on any number of threads. A run that was stopped goes
/// on where it was, if there is a cache: with the experiments that it had not finished, and within their trainings.
///
/// # Errors
/// An unknown name, a folder that can't be written, an experiment that fails.
pub fn run(options: &Options) -> Result<Summary> {
    let start = Instant::now();
    let experiments = select(&options.names)?;
    // What can be refused is refused before anything is computed.
    Staging::new(&options.out)?.claim(experiments.iter().map(|e| e.name).chain(["index.html", folder::MANIFEST]))?;
    let settings = experiments.iter().map(|e| (e.settings)()).collect::<Result<Vec<_>>>()?;
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
    let progress =
        Progress::new(missing.iter().map(|k| options.profile.of(experiments[*k].seconds[0], experiments[*k].seconds[1])));
    for (turn, k) in missing.into_iter().enumerate() {
        let (begin, experiment) = (Instant::now(), experiments[k]);
        let trainings = options.cache.as_ref().map(|cache| cache.path(&key(k), TRAININGS.0));
        let chapter = (experiment.run)(&experiment::Context {
            profile: options.profile,
            seed: options.seed,
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
    let (chapters, seconds): (Vec<Chapter>, Vec<f64>) = done.into_iter().flatten().map(|k| (k.chapter, k.seconds)).unzip();

    progress.say("drawing");
    let colophon = Colophon::new(options.profile, options.seed);
    let drawn = page::draw(&chapters)?;
    let page = page::html(&chapters, &drawn, &colophon)?;
    // Only then: while a folder is filled, a request to end is obeyed at its next file, before that at once.
    let staging = Staging::new(&options.out)?;
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
        experiments: experiments.iter().zip(from_cache).map(|(e, kept)| (e.name.to_string(), kept)).collect(),
        figures: chapters.iter().map(|c| c.figures().count()).sum(),
        checks: chapters.iter().map(|c| c.evidence().count()).sum(),
        failed: chapters.iter().flat_map(Chapter::evidence).filter(|e| !e.holds()).map(|e| e.what.clone()).collect(),
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
    staging.write(&format!("{}/checks.json", chapter.name), pretty(&evidence.collect::<Vec<_>>().into()))?;
    chapter.drawings().collect::<Vec<_>>().into_par_iter().try_for_each(|(stem, drawing)| {
        let path = format!("{}/{stem}", chapter.name);
        // The style goes after the opening tag of the root element.
        let page::Rendered { svg, png } = &drawn[&path];
        let body = svg.find("<svg").and_then(|i| svg[i..].find('>').map(|j| i + j + 1)).unwrap_or(0);
        staging.write(&format!("{path}.svg"), format!("{}{}{}", &svg[..body], style::svg_style(), &svg[body..]))?;
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
    use std::collections::HashSet;
    use std::path::Path;

    fn options(out: &Path) -> Options {
        Options { names: vec!["digits-theory".into()], profile: Profile::Quick, out: out.to_path_buf(), seed: 0, cache: None }
    }

    /// All values of an attribute.
    fn attributes<'a>(html: &'a str, name: &str) -> Vec<&'a str> {
        html.split(&format!(" {name}=\"")).skip(1).map(|rest| rest.split('"').next().unwrap()).collect()
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
    }

    /// All that is exact or a matter of chance holds with little effort; what a network must be trained for is named so, and for a whole run to say.
    #[test]
    fn the_checks_of_every_chapter_hold() {
        let (mut failed, mut earned) = (Vec::new(), Vec::new());
        for experiment in EXPERIMENTS {
            let begin = Instant::now();
            let context = experiment::Context { profile: Profile::Least, seed: 1, progress: &|_, _, _| {}, trainings: None };
            let chapter = (experiment.run)(&context).unwrap_or_else(|e| panic!("{}: {e}", experiment.name));
            let (trained, exact): (Vec<_>, Vec<_>) = chapter.evidence().partition(|e| e.what.starts_with("trained"));
            failed.extend(exact.iter().filter(|e| !e.holds()).map(|e| format!("{}: {e:?}", experiment.name)));
            assert!(experiment.name == "gpu" || !exact.is_empty(), "{} checks nothing", experiment.name);
            earned.extend((!trained.is_empty()).then_some((experiment.name, trained.len())));
            assert!(chapter.figures().all(|f| f.alt.len() >= 40 && !f.drawings.is_empty()), "{}", experiment.name);
            println!("{}: {} checks, {:.1} s", experiment.name, exact.len(), begin.elapsed().as_secs_f64());
        }
        assert!(failed.is_empty(), "{failed:#?}");
        assert_eq!(earned, [("digits-unet", 8), ("equivalence", 3), ("grf", 2)]);
    }

    #[test]
    fn numbers_do_not_depend_on_the_number_of_threads() {
        let csv = |threads: usize| {
            let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
            let context = experiment::Context { profile: Profile::Quick, seed: 3, progress: &|_, _, _| {}, trainings: None };
            let chapter = pool.install(|| (EXPERIMENTS[0].run)(&context)).unwrap();
            chapter.figures().flat_map(|f| f.drawings.iter().map(|d| d.csv().unwrap())).collect::<Vec<_>>()
        };
        assert!(csv(1) == csv(3));
    }

    #[test]
    fn a_second_run_takes_what_the_first_has_kept() {
        let dir = tempfile::tempdir().unwrap();
        let with = |out: &str, seed, cache: &str| Options {
            cache: Some(Cache::new(dir.path().join(cache))),
            seed,
            names: vec!["gpu".into(), "samplers".into()],
            ..options(&dir.path().join(out))
        };
        let kept = |options: &Options| run(options).unwrap().experiments.iter().map(|e| e.1).collect::<Vec<_>>();
        assert_eq!(kept(&with("a", 0, "cache")), [false, false]);
        assert_eq!(kept(&with("b", 0, "cache")), [true, true]);
        let page = |out: &str| std::fs::read(dir.path().join(out).join("index.html")).unwrap();
        assert!(page("a") == page("b"));
        // Another seed, and what can't be read, are computed.
        assert_eq!(kept(&Options { names: vec!["gpu".into()], ..with("c", 1, "cache") }), [false]);
        for file in std::fs::read_dir(dir.path().join("cache")).unwrap() {
            let path = file.unwrap().path();
            let bytes = std::fs::read(&path).unwrap();
            std::fs::write(&path, &bytes[..bytes.len() / 2]).unwrap();
        }
        assert_eq!(kept(&Options { names: vec!["gpu".into()], ..with("d", 0, "cache") }), [false]);
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
