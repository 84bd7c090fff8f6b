//! The registry of chapters, run whole.

use crate::EXPERIMENTS;
use serde_json::Value;
use std::collections::HashSet;
use std::path::Path;
use std::time::Instant;
use tweedie_files::Cache;
use tweedie_report::experiment::{self, Profile, Text};
use tweedie_report::{Options, Summary};

fn run(options: &Options) -> tweedie::Result<Summary> {
    tweedie_report::run(EXPERIMENTS, options)
}

fn options(out: &Path) -> Options {
    Options {
        names: vec!["digits-theory".into()],
        profile: Profile::Quick,
        out: out.to_path_buf(),
        seed: 0,
        settings: None,
        cache: None,
    }
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
    let links: Vec<_> =
        attributes(&html, "href").into_iter().chain(attributes(&html, "src")).collect();
    assert!(links.len() > 60);
    for link in links {
        match link.strip_prefix('#') {
            Some(id) => assert!(ids.contains(&id), "{link} leads nowhere"),
            None => assert!(
                link.starts_with("data:") || out.path().join(link).is_file(),
                "{link} is missing"
            ),
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
            picture.starts_with("role=\"img\" aria-label=\"")
                && attributes(&format!(" {picture}"), "aria-label")[0].len() > 40
        );
    }

    let left: HashSet<_> = std::fs::read_dir(out.path())
        .unwrap()
        .map(|e| e.unwrap().file_name().into_string().unwrap())
        .collect();
    assert_eq!(left, ["digits-theory", "index.html", "manifest.json"].map(String::from).into());
    let manifest: Value =
        serde_json::from_str(&std::fs::read_to_string(out.path().join("manifest.json")).unwrap())
            .unwrap();
    assert_eq!(manifest["experiments"][0]["settings"]["steps"], 1000);
}

/// All that is exact or a matter of chance holds with little effort; what a network must be trained
/// for is named so, and for a whole run to say.
#[test]
fn the_checks_of_every_chapter_hold() {
    let (mut failed, mut earned) = (Vec::new(), Vec::new());
    for experiment in EXPERIMENTS {
        let begin = Instant::now();
        let context = experiment::Context {
            profile: Profile::Least,
            seed: 1,
            settings: None,
            progress: &|_, _, _| {},
            trainings: None,
        };
        let (chapter, unshown) =
            experiment.chapter(&context).unwrap_or_else(|e| panic!("{}: {e}", experiment.name));
        assert!(unshown.is_empty() || experiment.name == "gpu", "{}: {unshown:?}", experiment.name);
        let (trained, exact): (Vec<_>, Vec<_>) =
            chapter.evidence().partition(|e| e.what.starts_with("trained"));
        failed.extend(
            exact.iter().filter(|e| !e.holds()).map(|e| format!("{}: {e:?}", experiment.name)),
        );
        assert!(
            experiment.name == "gpu" || !exact.is_empty(),
            "{} checks nothing",
            experiment.name
        );
        earned.extend((!trained.is_empty()).then_some((experiment.name, trained.len())));
        assert!(
            chapter.figures().all(|f| f.alt.len() >= 40 && !f.drawings.is_empty()),
            "{}",
            experiment.name
        );
        println!(
            "{}: {} checks, {:.1} s",
            experiment.name,
            exact.len(),
            begin.elapsed().as_secs_f64()
        );
    }
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(earned, [("digits-unet", 8), ("equivalence", 3), ("grf", 2)]);
}

#[test]
fn numbers_do_not_depend_on_the_number_of_threads() {
    let csv = |threads: usize| {
        let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
        let context = experiment::Context {
            profile: Profile::Quick,
            seed: 3,
            settings: None,
            progress: &|_, _, _| {},
            trainings: None,
        };
        let (chapter, _) = pool.install(|| EXPERIMENTS[0].chapter(&context)).unwrap();
        chapter
            .figures()
            .flat_map(|f| f.drawings.iter().map(|d| d.csv().unwrap()))
            .collect::<Vec<_>>()
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
    let kept = |options: &Options| {
        run(options).unwrap().experiments.iter().map(|e| e.1).collect::<Vec<_>>()
    };
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
    assert_eq!(
        message,
        format!(
            "experiment: got digit-theory, allowed: {}; did you mean digits-theory?",
            names.join(", ")
        )
    );
    assert!(!out.path().join("new").exists());
}

#[test]
fn experiments_have_settings_and_unique_names() {
    let names: HashSet<_> = EXPERIMENTS.iter().map(|e| e.name).collect();
    assert_eq!(names.len(), EXPERIMENTS.len());
    for name in names {
        let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join(name);
        assert!(folder.join("settings.toml").is_file());
        assert!(folder.join("text.md").is_file());
    }
}

#[test]
fn settings_of_a_file_take_the_place_of_one_chapters_own() {
    let dir = tempfile::tempdir().unwrap();
    let own = include_str!(concat!(env!("CARGO_MANIFEST_DIR"), "/samplers/settings.toml"));
    let given = |names: &[&str], text: &str| Options {
        names: names.iter().map(|name| (*name).to_owned()).collect(),
        settings: Some(Text { file: "mine.toml".into(), content: text.to_owned().into() }),
        ..options(dir.path())
    };
    let line = own.lines().find(|l| l.starts_with("deterministic = [")).unwrap();
    let edited = own.replacen(line, "deterministic = [\"ddim\", \"heun\"]", 1);
    run(&given(&["samplers"], &edited)).unwrap();
    let manifest = std::fs::read_to_string(dir.path().join("manifest.json")).unwrap();
    let manifest: Value = serde_json::from_str(&manifest).unwrap();
    let methods = &manifest["experiments"][0]["settings"]["deterministic"];
    assert_eq!(*methods, serde_json::json!(["ddim", "heun"]));
    let refused = |options: &Options| run(options).unwrap_err().to_string();
    assert!(refused(&given(&["samplers", "elbo"], own)).contains("got 2, allowed: one"));
    assert!(refused(&given(&["gpu"], own)).contains("mine.toml: holds settings"));
    let misspelt = own.replacen("deterministic", "determinstic", 1);
    let said = refused(&given(&["samplers"], &misspelt));
    assert!(said.starts_with("mine.toml: ") && said.contains("did you mean `deterministic`?"));
}
