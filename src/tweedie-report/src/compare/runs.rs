//! Two training runs: their recipes, their losses step by step, and the models that they came to.

use super::super::chapter::{plot, thousands};
use super::super::difference::or_word;
use super::super::drawing::{Axis, Mark, Series, plain};
use super::super::foreign::Foreign;
use super::super::page::{Block, Chapter, Section, Table, figure, number, p, section};
use super::super::style::{BLUE, INK, MUTED, ORANGE};
use super::models::{self, OF_MODELS};
use super::settings::{self, Setting};
use super::{Options, Part, Progress, amount, command, counted, file, folder, measured, source};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::path::Path;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::math::larger;
use tweedie_nn::train::checkpoint::{latest, newest_model};

/// Points of a loss curve; a point is the mean of the steps up to the next.
const POINTS: usize = 60;

/// What a run wrote.
struct Run {
    /// Loss of each step.
    losses: BTreeMap<u64, f64>,
    /// Of the last validation: the images, the noise level, the losses of the network and of the
    /// exact denoiser.
    validation: Vec<Validated>,
    recipe: Option<Value>,
    /// Lines that could not be read.
    broken: usize,
}

/// Loss at one noise level.
#[derive(Clone, Debug, Serialize)]
struct Validated {
    step: u64,
    set: Foreign,
    #[serde(serialize_with = "or_word")]
    sigma: f64,
    #[serde(serialize_with = "or_word")]
    network: f64,
    #[serde(serialize_with = "or_word")]
    stderr: f64,
    #[serde(serialize_with = "or_word")]
    exact: f64,
}

#[derive(Serialize)]
struct Comparison {
    tolerance: f64,
    recipe: Vec<Setting>,
    steps: [usize; 2],
    /// Steps that both made.
    common: usize,
    /// The first step whose losses differ.
    parted: Option<u64>,
    /// Largest difference of two losses of a step, over the larger.
    #[serde(serialize_with = "or_word")]
    farthest: f64,
    validation: [Vec<Validated>; 2],
}

fn read(folder: &Path) -> Result<Run> {
    let (metrics, broken) = source::lines(&folder.join("metrics.jsonl"))?;
    let (validated, broken_too) = source::lines(&folder.join("validation.jsonl"))?;
    // What is infinite is a word.
    let number = |line: &Value, key: &str| {
        let value = line.get(key);
        let number = value.and_then(Value::as_f64);
        number.or_else(|| value?.as_str()?.parse().ok()).unwrap_or(f64::NAN)
    };
    let step = |line: &Value| line.get("step").and_then(Value::as_u64);
    let losses =
        metrics.iter().filter_map(|line| Some((step(line)?, number(line, "loss")))).collect();
    let last = validated.iter().filter_map(step).max();
    let validation = validated.iter().filter(|line| step(line) == last).filter_map(|line| {
        Some(Validated {
            step: step(line)?,
            set: line.get("set")?.as_str()?.into(),
            sigma: number(line, "edm_sigma"),
            network: number(line, "network"),
            stderr: number(line, "network_stderr"),
            exact: number(line, "exact"),
        })
    });
    let state = match latest(&folder.join("checkpoints"))? {
        Some(checkpoint) => Some(source::json(&checkpoint.join("training/state.json"))?),
        None => None,
    };
    let recipe = state.and_then(|state| state.get("settings").cloned());
    Ok(Run { losses, validation: validation.collect(), recipe, broken: broken + broken_too })
}

pub fn compare(options: &Options, progress: &Progress) -> Result<Part> {
    let (a, b) = (read(&options.a)?, read(&options.b)?);
    let common: Vec<(u64, f64, f64)> =
        a.losses.iter().filter_map(|(step, x)| Some((*step, *x, *b.losses.get(step)?))).collect();
    let off = |x: f64, y: f64| match (x - y).abs() / x.abs().max(y.abs()) {
        _ if x.to_bits() == y.to_bits() || x.is_nan() && y.is_nan() => 0.0,
        off if off.is_nan() => f64::INFINITY,
        off => off,
    };
    let none = Value::Null;
    let c = Comparison {
        tolerance: options.tolerance.unwrap_or(OF_MODELS),
        recipe: settings::differing(
            a.recipe.as_ref().unwrap_or(&none),
            b.recipe.as_ref().unwrap_or(&none),
        ),
        steps: [a.losses.len(), b.losses.len()],
        common: common.len(),
        parted: common.iter().find(|(_, x, y)| off(*x, *y) > 0.0).map(|c| c.0),
        farthest: common.iter().map(|(_, x, y)| off(*x, *y)).fold(0.0, larger),
        validation: [a.validation.clone(), b.validation.clone()],
    };
    let apart: Vec<(f64, f64)> =
        common.iter().map(|(step, x, y)| (*step as f64, off(*x, *y))).collect();
    let mut chapters = vec![chapter(&c, &a, &b, &apart, options)];
    let mut says = format!(
        "{} in both, {}",
        counted(c.common, "step", "steps"),
        c.parted.map_or("losses equal to the bit".into(), |step| format!(
            "losses part at step {step}, at most {:.1e} of them",
            c.farthest
        ))
    );
    let mut document = json!({"run": c});
    if let (Some(model_a), Some(model_b)) = (newest_model(&options.a)?, newest_model(&options.b)?) {
        let models = models::compare(&model_a, &model_b, [a.recipe, b.recipe], options, progress)?;
        says = format!("{says}; {}", models.says);
        document["models"] = models.document;
        chapters.extend(models.chapters);
    }
    Ok(Part { says, chapters, document })
}

fn chapter(c: &Comparison, a: &Run, b: &Run, apart: &[(f64, f64)], options: &Options) -> Chapter {
    let title = if c.parted.is_none() && c.common > 0 && c.steps[0] == c.steps[1] {
        "One training, twice"
    } else {
        "Two trainings"
    };
    let lead = format!(
        "A is {}, B is {}. A has {}, B {}, and both have the first {}. {}",
        folder(&options.a),
        folder(&options.b),
        counted(c.steps[0], "step", "steps"),
        thousands(c.steps[1]),
        thousands(c.common),
        match c.parted {
            None if c.common == 0 => "There is no step to compare.".into(),
            None => "Their losses are equal to the bit, step by step.".into(),
            Some(step) => format!(
                "Their losses part at step {}, and are then up to {} of their size apart.",
                thousands(step as usize),
                amount(c.farthest)
            ),
        }
    );
    let mut sections = vec![verdict(c, a, b)];
    if !a.losses.is_empty() && !b.losses.is_empty() {
        sections.push(losses(a, b, apart));
    }
    if c.validation.iter().all(|v| !v.is_empty()) {
        sections.push(validation(c));
    }
    Chapter { name: "run".into(), title: title.into(), lead, command: command(options), sections }
}

fn verdict(c: &Comparison, a: &Run, b: &Run) -> Section {
    let mut blocks = vec![];
    match (&a.recipe, &b.recipe) {
        (Some(_), Some(_)) if c.recipe.is_empty() => blocks.push(p("Both were made by the same recipe.")),
        (Some(_), Some(_)) => {
            blocks.push(p("The recipes differ; this does not count in the verdict, which is on numbers."));
            blocks.extend(settings::table(&c.recipe, "settings of the recipes that differ", "recipe.json"));
        }
        _ => blocks
            .push(p("One of the two has no checkpoint, and so neither recipe nor model to compare: there are its losses alone.")),
    }
    if a.broken + b.broken > 0 {
        let n = a.broken + b.broken;
        blocks.push(p(format!(
            "{} of the records could not be read and {} left out.",
            counted(n, "line", "lines"),
            if n == 1 { "is" } else { "are" }
        )));
    }
    let why =
        if c.tolerance == OF_MODELS { "rounding in single precision" } else { "as asked for" };
    blocks.push(Block::Evidence(vec![
        Evidence::new(
            "steps that one of the two has and the other has not",
            (c.steps[0] + c.steps[1] - 2 * c.common) as f64,
            0.0,
            0.0,
        ),
        Evidence::new(
            "largest difference of the two losses of a step, over the larger",
            c.farthest,
            0.0,
            c.tolerance,
        )
        .because(why),
    ]));
    section("verdict", "The verdict", blocks)
}

/// A curve of means over steps that grow in equal ratios.
fn binned(points: impl Iterator<Item = (f64, f64)>) -> Vec<(f64, f64)> {
    let mut out: Vec<(f64, f64, f64, f64)> = vec![];
    for (x, y) in points {
        let bin = (x.ln() * POINTS as f64 / 10.0).floor();
        match out.last_mut() {
            Some(last) if last.0 == bin => *last = (bin, last.1 + x, last.2 + y, last.3 + 1.0),
            _ => out.push((bin, x, y, 1.0)),
        }
    }
    out.into_iter().map(|(_, x, y, n)| (x / n, y / n)).collect()
}

fn curve(
    label: &str,
    points: &[(f64, f64)],
    mark: Mark,
    colour: super::super::style::Colour,
) -> Series {
    Series { label: label.into(), points: points.to_vec(), mark, colour }
}

fn losses(a: &Run, b: &Run, apart: &[(f64, f64)]) -> Section {
    let of = |run: &Run| binned(run.losses.iter().map(|(step, loss)| (*step as f64, *loss)));
    let (of_a, of_b) = (of(a), of(b));
    let step = || Axis::log("step", "step");
    let mut drawings = vec![plot(
        "Loss",
        step(),
        Axis::log("loss", "loss, mean of the steps"),
        vec![curve("A", &of_a, Mark::Line, BLUE), curve("B", &of_b, Mark::Dashed, ORANGE)],
    )];
    if apart.iter().any(|p| p.1 > 0.0) {
        let positive: Vec<(f64, f64)> =
            apart.iter().copied().filter(|p| p.1 > 0.0 && p.1.is_finite()).collect();
        drawings.push(plot(
            "Their difference, step by step",
            step(),
            Axis::log("off", "|A − B| / loss"),
            vec![curve("difference", &positive, Mark::Points, INK)],
        ));
    }
    section(
        "losses",
        "The losses",
        vec![
            p(
                "Two runs of one recipe on the same kind of machine are equal to the bit. Where rounding differs, the difference starts at the last digit and grows with every step, because training is sensitive to where it has been; where the recipe differs, it is there from the first step.",
            ),
            figure(
                "losses",
                "Left: the loss of the batches, averaged over steps in equal ratios. Right: the difference of the two losses of each step, over the larger; steps without a difference are not drawn.",
                "Left: two falling loss curves on logarithmic axes, A solid and B dashed. Right, where there is any: the relative difference of the two, step by step.",
                drawings,
            ),
        ],
    )
}

fn validation(c: &Comparison) -> Section {
    let [a, b] = &c.validation;
    let sets: Vec<&Foreign> =
        a.iter().map(|v| &v.set).filter(|set| b.iter().any(|v| v.set == **set)).collect();
    let train = Foreign::from("train");
    let set =
        sets.iter().find(|set| set.raw() == "held-out").or(sets.first()).copied().unwrap_or(&train);
    let of = |side: &[Validated], pick: fn(&Validated) -> f64| {
        side.iter()
            .filter(|v| v.set == *set)
            .map(|v| (v.sigma, pick(v)))
            .collect::<Vec<(f64, f64)>>()
    };
    let series = vec![
        curve("exact", &of(a, |v| v.exact), Mark::Line, MUTED),
        curve("A", &of(a, |v| v.network), Mark::Linked, BLUE),
        curve("B", &of(b, |v| v.network), Mark::Dashed, ORANGE),
    ];
    let rows = a.iter().filter(|x| x.set == *set).filter_map(|x| {
        // Without signal both are infinite.
        let level = |y: f64| y == x.sigma || (y - x.sigma).abs() <= 1e-9 * x.sigma;
        let y = b.iter().find(|y| y.set == x.set && level(y.sigma))?;
        let told = |v: &Validated| measured(v.network, v.stderr);
        Some(vec![
            format!("σ = {}", plain(x.sigma)),
            number(x.exact),
            told(x),
            told(y),
            number(x.network - y.network),
        ])
    });
    section(
        "validation",
        "The validation",
        vec![
            p(format!(
                "The loss of $x_0$ by noise level as the runs measured it themselves, after step {} of A and step {} of B. The exact denoiser of what was trained on is the least there can be on training images and on draws of a law; on held-out images it is what memory alone is worth.",
                thousands(a[0].step as usize),
                thousands(b[0].step as usize)
            )),
            figure(
                "validation",
                &format!("Loss by noise level, of the set “{set}”."),
                "Curves of the loss against the noise level: A, B, and the exact denoiser of the training data.",
                vec![plot("", Axis::log("sigma", "noise level σ"), Axis::log("loss", "loss of x₀, a pixel"), series)],
            ),
            Block::Table(Table {
                caption: "By noise level, where both measured it: the exact denoiser's loss, A's and B's with their standard errors over the images, and A's less B's.".into(),
                head: ["noise", "exact", "A", "B", "A − B"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            file("validation.json", "the last validation of both, all sets", &c.validation),
        ],
    )
}
