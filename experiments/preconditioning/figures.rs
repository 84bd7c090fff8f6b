//! The chapter on preconditioning, targets, weights and averages, made from the numbers of
//! [`crate::preconditioning::numbers`].

use crate::preconditioning::numbers::{Numbers, Settings, compute};
use ndarray::Array2;
use serde_json::{Value, json};
use tweedie::diffusion::prediction::Prediction;
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie_report::chapter::{self, Parts, Study, along, as_json, digits, percent, picture, plot};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Embedded, Text};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// The chapter.
pub struct Preconditioning;

impl Study for Preconditioning {
    const NAME: &'static str = "preconditioning";
    const ABOUT: &'static str = "EDM's scalings, targets and what can be known of them, errors on their way to x0, weights, times, averages of weights";
    const SECONDS: [f64; 2] = [5.0, 20.0];
    const TEXT: Editable = source!("preconditioning/text.md");
    const CODE: &'static str = env!("CODE_OF_preconditioning");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        scalings(n, &mut parts);
        targets(n, &mut parts);
        amplified(n, &mut parts);
        times(n, &mut parts);
        averaging(n, &mut parts);
        Ok(parts)
    }
}

/// The settings as the manifest has them: its own, and the recipe that it shares with `grf`.
pub fn settings(text: Option<&Text>) -> Result<Value> {
    let shared = crate::grf::numbers::Settings::current()?.train;
    Ok(json!({ "experiment": chapter::settings::<Settings>(text)?, "recipe": as_json(&shared)? }))
}

/// Three digits after the point at most.
fn three(v: f64) -> String {
    plain((v * 1e3).round() / 1e3)
}

fn name(kind: Prediction) -> &'static str {
    match kind {
        Prediction::X0 => "x₀",
        Prediction::Eps => "ε",
        Prediction::V => "v",
        Prediction::Velocity => "velocity",
        Prediction::Score => "score",
        Prediction::F => "F",
    }
}

/// Rows of digits of 28 x 28 pixels at the levels of the settings.
fn strips(
    n: &Numbers,
    heading: &str,
    columns: Vec<String>,
    rows: Vec<(String, &Array2<f64>)>,
    tone: Tone,
) -> Drawing {
    let columns = if columns.is_empty() {
        n.settings.pictures.sigmas.iter().map(|s| plain(*s)).collect()
    } else {
        columns
    };
    let row = |(label, x): (String, &Array2<f64>)| {
        let pictures: Vec<Picture> =
            x.rows().into_iter().map(|r| picture(r.iter().copied(), "")).collect();
        (label, pictures)
    };
    let rows = rows.into_iter().map(row).collect();
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: heading.into(),
        columns,
        rows,
        shape: (28, 28),
        tone,
    })
}

fn sigma() -> Axis {
    Axis::log("sigma", "noise level σ")
}

fn scalings(n: &Numbers, parts: &mut Parts) {
    let s = &n.scalings;
    let colours = [VERMILION, ORANGE, GREEN];
    let names = ["c_skip", "c_out", "c_in"];
    let coefficients = s.coefficients.iter().zip(names).zip([BLUE, VERMILION, GREEN]);
    let coefficients = coefficients
        .map(|((y, name), colour)| {
            Series::new(name, along(&s.sigmas), along(y), Mark::Line, colour)
        })
        .collect();
    let measured = |of: &dyn Fn(usize) -> (Vec<f64>, Vec<f64>)| -> Vec<Series> {
        let mut series = Vec::new();
        for (k, (c, colour)) in s.choices.iter().zip(colours).enumerate() {
            let (exact, points) = of(k);
            series.push(Series::new(
                format!("σ_data = {}", three(c.sigma_data)),
                along(&s.sigmas),
                exact,
                Mark::Line,
                colour,
            ));
            series.push(Series::new(
                format!("_measured, {}", three(c.sigma_data)),
                along(&s.probes),
                points,
                Mark::Points,
                colour,
            ));
        }
        series
    };
    let mut silent: Vec<Series> = s
        .silent
        .iter()
        .zip([VERMILION, BLUE, GREEN, PURPLE])
        .map(|(q, colour)| {
            Series::new(name(q.kind), along(&s.sigmas), along(&q.error), Mark::Line, colour)
        })
        .collect();
    silent.push(Series::new("best linear", along(&s.sigmas), along(&s.least), Mark::Dashed, INK));
    let rows =
        s.data.iter().map(|d| vec![d.name.clone(), three(d.mean), three(d.std), three(d.rms)]);
    let first = &s.data[0];
    let edm = &s.choices[0];
    let mut pictures = vec![("what comes in, x / √(1 + σ²)".to_string(), &s.noised)];
    let said = [
        (1, "x₀-prediction: 0 is grey"),
        (0, "ε-prediction: the input"),
        (3, "F-prediction: c_skip of the input"),
    ];
    pictures.extend(said.iter().map(|(k, text)| ((*text).to_string(), &s.silent[*k].pictures)));
    parts.figure(
        "scalings",
        vec![
            plot(
                "(a) Coefficients",
                sigma(),
                Axis::log("coefficient", "coefficient").over(1e-3, 4.0),
                coefficients,
            ),
            plot(
                "(b) Input",
                sigma(),
                Axis::linear("rms", "root mean square"),
                measured(&|k| (s.choices[k].input.clone(), s.choices[k].measured[0].clone())),
            ),
            plot(
                "(c) Target",
                sigma(),
                Axis::linear("rms", "root mean square"),
                measured(&|k| (s.choices[k].target.clone(), s.choices[k].measured[1].clone())),
            ),
            plot(
                "(d) Before training",
                sigma(),
                Axis::log("error", "squared error a pixel").over(1e-4, 1e3),
                silent,
            ),
        ],
    );
    parts.table("scalings", ["data", "mean", "deviation", "root mean square"], rows);
    parts.figure("silent", vec![strips(n, "noise level σ", vec![], pictures, Tone::Ink)]);
    parts.checks("scalings", s.evidence.clone());
    parts.value("edm_sigma_data", edm.sigma_data);
    parts.value("digits_rms", first.rms);
    parts.value("edm_largest_target", edm.target.iter().copied().fold(0.0, larger));
    parts.value("digits_std", first.std);
    parts.value("largest_target_about_mean", s.choices[1].target.iter().copied().fold(0.0, larger));
}

fn targets(n: &Numbers, parts: &mut Parts) {
    let t = &n.targets;
    let mut rows = vec![("input x".to_string(), &t.noised)];
    for target in [&t.targets[0], &t.targets[1], &t.targets[2]] {
        rows.push((format!("target {}", name(target.kind)), &target.pictures));
        rows.push((format!("best linear prediction of {}", name(target.kind)), &target.best));
    }
    let colours = [BLUE, VERMILION, GREEN, PURPLE];
    let mut unknown: Vec<Series> = Vec::new();
    for (target, colour) in t.targets.iter().zip(colours) {
        unknown.push(Series::new(
            name(target.kind),
            along(&t.sigmas),
            along(&target.unknown),
            Mark::Line,
            colour,
        ));
        unknown.push(Series::new(
            format!("_{}, digits", name(target.kind)),
            along(&t.probes),
            along(&target.sampled),
            Mark::Points,
            colour,
        ));
    }
    let sizes = t.targets.iter().zip(colours);
    let sizes = sizes
        .map(|(target, colour)| {
            Series::new(name(target.kind), along(&t.sigmas), along(&target.rms), Mark::Line, colour)
        })
        .collect();
    parts.figure("targets", vec![strips(n, "noise level σ", vec![], rows, Tone::Diverging)]);
    parts.figure(
        "unknown",
        vec![
            plot(
                "What can't be known",
                sigma(),
                Axis::linear("share", "share of the mean square").over(0.0, 1.0),
                unknown,
            ),
            plot("Size", sigma(), Axis::linear("rms", "root mean square").over(0.0, 1.2), sizes),
        ],
    );
    parts.checks("targets", t.evidence[0].clone());
}

fn amplified(n: &Numbers, parts: &mut Parts) {
    let t = &n.targets;
    let colours = [BLUE, VERMILION, GREEN, PURPLE];
    let mut factors: Vec<Series> = t
        .targets
        .iter()
        .zip(colours)
        .map(|(q, colour)| {
            Series::new(name(q.kind), along(&t.sigmas), along(&q.amplification), Mark::Line, colour)
        })
        .collect();
    factors.push(Series::new(
        "flow velocity",
        along(&t.sigmas),
        along(&t.velocity),
        Mark::Dashed,
        ORANGE,
    ));
    let rows =
        t.targets.iter().map(|q| (format!("{}-prediction", name(q.kind)), &q.spoilt)).collect();
    let top = n.settings.pictures.sigmas[n.settings.pictures.sigmas.len() - 1];
    parts.figure("spoilt", vec![strips(n, "noise level σ", vec![], rows, Tone::Ink)]);
    parts.figure(
        "factors",
        vec![plot(
            "",
            sigma(),
            Axis::log("factor", "error of x₀ / error of the output").over(3e-3, 100.0),
            factors,
        )],
    );
    parts.checks("amplified", t.evidence[1].clone());
    parts.value("largest_sigma", top);
}

fn times(n: &Numbers, parts: &mut Parts) {
    let t = &n.times;
    let colours: [Colour; 6] = [VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY];
    let weights = t.weights.iter().zip(colours);
    let weights = weights
        .map(|(w, colour)| {
            Series::new(&w.name, along(&t.sigmas), along(&w.on_x0), Mark::Line, colour)
        })
        .collect();
    let line = |k: usize, y: &[f64]| {
        let mark = if k == 1 { Mark::Dashed } else { Mark::Line };
        Series::new(
            &t.recipes[k].name,
            along(&t.sigmas),
            along(y),
            mark,
            [VERMILION, MUTED, PURPLE, BLUE, GREEN][k],
        )
    };
    let densities = [0, 2, 3, 4].map(|k| line(k, &t.recipes[k].density)).into();
    let losses = (0..t.recipes.len()).map(|k| line(k, &t.recipes[k].loss)).collect();
    let shown =
        [0, 2, 3, 4].map(|k| (t.recipes[k].name.to_string(), &t.recipes[k].pictures)).into();
    let quantiles = n.settings.pictures.quantiles.iter().map(|q| percent(*q)).collect();
    let rows = t.recipes.iter().enumerate().filter(|(k, _)| *k != 1).map(|(_, r)| {
        let mut row = vec![r.name.to_string()];
        row.extend(r.quantiles.iter().map(|s| three(*s)));
        row
    });
    let head: Vec<String> = ["recipe".to_string()]
        .into_iter()
        .chain(n.settings.pictures.quantiles.iter().map(|q| percent(*q)))
        .collect();
    parts.figure(
        "weights",
        vec![
            plot(
                "Weight on the error of x₀",
                sigma(),
                Axis::log("weight", "weight").over(1e-4, 1e4),
                weights,
            ),
            plot(
                "Training times",
                sigma(),
                Axis::linear("density", "density over ln σ"),
                densities,
            ),
        ],
    );
    parts.figure(
        "seen",
        vec![strips(n, "share of the training times", quantiles, shown, Tone::Ink)],
    );
    parts.table("times", head, rows);
    parts.figure(
        "loss",
        vec![plot(
            "",
            sigma(),
            Axis::linear("share", "share of the loss for each unit of ln σ"),
            losses,
        )],
    );
    parts.checks("times", t.evidence.clone());
    parts.value("median_of_vp", t.recipes[0].halves[0]);
    parts.value("above_of_vp", (t.recipes[0].halves[2] * 1e3).round() / 1e3);
    parts.value("above_of_edm", (t.recipes[2].halves[2] * 1e3).round() / 1e3);
}

fn averaging(n: &Numbers, parts: &mut Parts) {
    let a = &n.averaging;

    let label = |decay: f64| {
        if decay == 0.0 { "weights".to_string() } else { format!("average, {}", plain(decay)) }
    };
    let colours = [VERMILION, ORANGE, GREEN, BLUE, PURPLE];
    let excess = a.averages.iter().zip(colours);
    let excess = excess
        .map(|(v, colour)| {
            Series::new(label(v.decay), along(&a.steps), along(&v.excess), Mark::Line, colour)
        })
        .collect();
    let (windows, curves) = &a.curves;
    let curves = curves.iter().zip([INK, BLUE, GREEN, VERMILION]);
    let curves = curves
        .map(|((c, y), colour)| {
            Series::new(format!("a = {}", plain(*c)), along(windows), along(y), Mark::Line, colour)
        })
        .collect();
    let filter = |values: &[f64], note: String| picture(values.iter().copied(), note);
    let mut filters = vec![filter(&a.exact, "exact".into())];
    filters.extend(a.averages.iter().map(|v| {
        filter(&v.filter, if v.decay == 0.0 { "weights".into() } else { plain(v.decay) })
    }));
    let rows = a.averages[1..]
        .iter()
        .map(|v| vec![format!("{}", v.decay), percent(v.left[0]), percent(v.left[1])]);
    parts.figure(
        "filters",
        vec![digits("", "", vec![], vec![(String::new(), filters)], Tone::Diverging)],
    );
    parts.figure(
        "averages",
        vec![
            plot(
                "Excess risk",
                Axis::log("step", "step"),
                Axis::log("excess", "excess / least risk"),
                excess,
            ),
            plot(
                "Variance left",
                Axis::log("window", "window (1 + g)/(1 − g)"),
                Axis::log("ratio", "Var m / Var w"),
                curves,
            ),
        ],
    );
    parts.table("averaging", ["decay g", "measured", "closed form"], rows);
    parts.checks("averaging", a.evidence.clone());
}
