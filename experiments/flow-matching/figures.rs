//! The chapter on flow matching, made from the numbers of [`crate::flow_matching::numbers`].

use crate::flow_matching::numbers::{Costs, Gap, Numbers, Settings, compute};
use ndarray::Array2;
use serde_json::Value;
use std::f64::consts::PI;
use tweedie::error::Result;
use tweedie_report::chapter::{Parts, Study, along, digits, images, percent, plot, settings};
use tweedie_report::drawing::{Axis, Drawing, Mark, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// The chapter.
pub struct FlowMatching;

impl Study for FlowMatching {
    const NAME: &'static str = "flow-matching";
    const ABOUT: &'static str = "straight lines and bent flows: one flow on every path, what crossing and bending cost, reflow, where Euler's steps go";
    const SECONDS: [f64; 2] = [2.0, 8.0];
    const TEXT: Editable = source!("flow-matching/text.md");
    const CODE: &'static str = env!("CODE_OF_flow-matching");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        same(n, &mut parts);
        straight(n, &mut parts);
        transport(n, &mut parts);
        modes(n, &mut parts);
        steps(n, &mut parts);
        spent(n, &mut parts);
        Ok(parts)
    }
}

fn same(n: &Numbers, parts: &mut Parts) {
    let colours = [BLUE, VERMILION, GREEN];
    let mut raw = Vec::new();
    let mut scaled = Vec::new();
    for (k, path) in n.line.paths.iter().enumerate() {
        for i in 0..path.states.ncols() {
            let label =
                if i == 0 { path.name.to_owned() } else { format!("_{} {}", path.name, i + 1) };
            raw.push(Series::new(
                &label,
                along(&path.times),
                path.states.column(i).iter().copied(),
                Mark::Line,
                colours[k],
            ));
            let angles = path.angles.iter().map(|a| a / (0.5 * PI));
            let mark = [Mark::Line, Mark::Dashed, Mark::Points][k];
            // Of the third path every eighth point: its line would cover the others'.
            let every = if mark == Mark::Points { 8 } else { 1 };
            scaled.push(Series::new(
                &label,
                angles.step_by(every),
                path.scaled.column(i).iter().copied().step_by(every),
                mark,
                colours[k],
            ));
        }
    }
    parts.figure(
        "same",
        vec![
            plot(
                "As drawn",
                Axis::linear("t", "t: 0 data, 1 noise").over(0.0, 1.0),
                Axis::linear("x", "state"),
                raw,
            ),
            plot(
                "One clock, one scale",
                Axis::linear("angle", "angle over π/2: 0 data, 1 noise").over(0.0, 1.0),
                Axis::linear("x_over_norm", "state over √(α² + σ²)"),
                scaled,
            ),
        ],
    );
    parts.checks("same", n.line.evidence.clone());
}

/// Trajectories in the plane, their starts and their ends.
fn flow(title: &str, paths: &[Array2<f64>], colour: Colour, mark: Mark) -> Drawing {
    let mut series: Vec<Series> = paths
        .iter()
        .enumerate()
        .map(|(k, path)| {
            let label = if k == 0 { "way".into() } else { format!("_way {}", k + 1) };
            Series::new(
                label,
                path.column(0).iter().copied(),
                path.column(1).iter().copied(),
                mark,
                colour,
            )
        })
        .collect();
    let at = |last: bool, j: usize| {
        paths.iter().map(move |path| path[[if last { path.nrows() - 1 } else { 0 }, j]])
    };
    series.push(Series::new("noise", at(false, 0), at(false, 1), Mark::Points, MUTED));
    series.push(Series::new("data", at(true, 0), at(true, 1), Mark::Points, INK));
    // Equal units on both axes of the frame.
    plot(
        title,
        Axis::linear("x", "x₁").over(-4.25, 4.25),
        Axis::linear("y", "x₂").over(-2.5, 2.5),
        series,
    )
}

/// Straight lines between the rows of two batches.
fn lines(from: &Array2<f64>, to: &Array2<f64>) -> Vec<Array2<f64>> {
    let line = |i: usize| {
        Array2::from_shape_fn((2, 2), |(k, j)| if k == 0 { from[[i, j]] } else { to[[i, j]] })
    };
    (0..from.nrows()).map(line).collect()
}

fn straight(n: &Numbers, parts: &mut Parts) {
    let q = &n.plane;
    let [noise, data] = &q.pairs;
    let ends = Array2::from_shape_fn(noise.dim(), |(i, j)| q.paths[i][[q.paths[i].nrows() - 1, j]]);
    parts.figure(
        "flows",
        vec![
            flow("Trained on: independent pairs", &lines(noise, data), SKY, Mark::Line),
            flow("Learned: the flow", &q.paths, BLUE, Mark::Line),
            flow("After one reflow", &lines(noise, &ends), GREEN, Mark::Line),
            flow(
                &format!("Euler, {} steps of the flow", n.settings.plane.euler[0]),
                &q.euler[0].1,
                VERMILION,
                Mark::Line,
            ),
        ],
    );
    parts.value("least_eigenvalue", (q.least_eigenvalue * 1e3).round() / 1e3);
}

fn transport(n: &Numbers, parts: &mut Parts) {
    let q = &n.plane;
    let row = |name: &str, c: &Costs| {
        let cell = |v: f64| format!("{} ({})", plain(v), percent(v / c.independent));
        vec![
            name.to_owned(),
            plain(c.independent),
            cell(c.crossing),
            cell(c.bending),
            cell(c.flow),
            cell(c.swapped),
            cell(c.bound),
        ]
    };
    parts.table(
        "transport",
        ["data", "independent", "crossing", "bending", "flow", "swapped", "bound"],
        vec![
            row("three Gaussians in the plane", &q.mixture),
            row("the digits as a Gaussian", &q.digits),
        ],
    );
    parts.checks("transport", q.evidence.clone());
    parts.value("antisymmetry", q.antisymmetry);
    parts.value("swapped_over_flow", q.mixture.swapped / q.mixture.flow);
    parts.value("flow_over_independent", q.mixture.flow / q.mixture.independent);
}

fn modes(n: &Numbers, parts: &mut Parts) {
    let m = &n.modes;
    let at = |values: &[f64], v: f64| {
        let k = (0..values.len()).min_by(|a, b| {
            (m.variances[*a].ln() - v.ln()).abs().total_cmp(&(m.variances[*b].ln() - v.ln()).abs())
        });
        k.map_or(f64::NAN, |k| values[k])
    };
    parts.figure(
        "bending",
        vec![plot(
            "",
            Axis::log("variance", "variance λ of the component"),
            Axis::linear("bending", "bending over 1 + λ").over(0.0, 0.26),
            vec![
                Series::new(
                    "flow matching",
                    along(&m.variances),
                    along(&m.flow_matching),
                    Mark::Line,
                    BLUE,
                ),
                Series::new(
                    "cosine",
                    along(&m.variances),
                    along(&m.cosine),
                    Mark::Dashed,
                    VERMILION,
                ),
            ],
        )],
    );
    parts.checks("modes", m.evidence.clone());
    parts.value("bend_at_one", at(&m.flow_matching, 1.0));
}

fn steps(n: &Numbers, parts: &mut Parts) {
    let d = &n.digits;
    let rows = d
        .euler
        .iter()
        .map(|(k, x)| (if *k == 1 { "1 step".into() } else { format!("{k} steps") }, images(x)))
        .chain([("the exact flow; after a reflow, 1 step".into(), images(&d.exact))])
        .collect();
    let q = &n.plane;
    let at =
        |of: &[Gap], k: usize, value: fn(&Gap) -> f64| of.iter().find(|e| e.steps == k).map(value);
    let curve = |label: &str, of: &[Gap], value: fn(&Gap) -> f64, mark, colour| {
        Series::new(label, of.iter().map(|e| e.steps as f64), of.iter().map(value), mark, colour)
    };
    parts.figure("digits", vec![digits("", "", vec![], rows, Tone::Ink)]);
    parts.figure(
        "euler",
        vec![
            flow(
                &format!("Euler, {} steps", n.settings.plane.euler[1]),
                &q.euler[1].1,
                VERMILION,
                Mark::Line,
            ),
            plot(
                "Error of the ends",
                Axis::log("steps", "steps"),
                Axis::log("error", "distance over the deviation"),
                vec![
                    curve("plane, median", &q.gaps, |e| e.median, Mark::Linked, BLUE),
                    curve("root mean square", &q.gaps, |e| e.rms, Mark::Dashed, BLUE),
                    curve("digits, median", &d.gaps, |e| e.median, Mark::Linked, VERMILION),
                    curve("root mean square ", &d.gaps, |e| e.rms, Mark::Dashed, VERMILION),
                ],
            ),
        ],
    );
    parts.value("digits_gap_8", at(&d.gaps, 8, |e| e.median));
    parts.value("digits_gap_32", at(&d.gaps, 32, |e| e.median));
    parts.value("plane_gap_8", at(&q.gaps, 8, |e| e.median));
    parts.value("plane_gap_32", at(&q.gaps, 32, |e| e.median));
    parts.value("elsewhere_8", at(&q.gaps, 8, |e| e.elsewhere));
    parts.value("elsewhere_32", at(&q.gaps, 32, |e| e.elsewhere));
}

fn spent(n: &Numbers, parts: &mut Parts) {
    let d = &n.digits;
    let colours = [BLUE, SKY, VERMILION, PURPLE, ORANGE, GREEN];
    let grids = d.curves.iter().take(5).zip(colours).enumerate().map(|(k, (c, colour))| {
        Series::new(
            &c.name,
            along(&c.log_snr),
            std::iter::repeat(5.0 - k as f64),
            Mark::Points,
            colour,
        )
    });
    let mut grids: Vec<Series> = grids.collect();
    let [first, half, last] = d.decided;
    grids.push(Series::new("_digits appear", [first, last], [0.0, 0.0], Mark::Line, INK));
    let curves = d.curves.iter().zip(colours).map(|(c, colour)| {
        let mark = if c.name.starts_with("2nd") { Mark::Dashed } else { Mark::Linked };
        Series::new(&c.name, along(&c.steps), along(&c.w2), mark, colour)
    });
    let at = |name: &str, k: usize| {
        let curve = d.curves.iter().find(|c| c.name == name)?;
        Some(curve.w2[curve.steps.iter().position(|s| *s == k as f64)?])
    };
    let best = |k: usize| {
        let found = d.curves.iter().take(5).filter_map(|c| {
            Some((c.name.as_str(), c.w2[c.steps.iter().position(|s| *s == k as f64)?]))
        });
        found.min_by(|a, b| a.1.total_cmp(&b.1)).unwrap_or(("?", f64::NAN))
    };
    let (name8, w8) = best(8);
    let (name32, w32) = best(32);
    let table = d.curves.iter().map(|c| {
        let mut row = vec![c.name.to_owned()];
        row.extend([2, 4, 8, 16, 32, 64, 128].map(|k| at(&c.name, k).map_or("?".into(), percent)));
        row
    });
    parts.figure(
        "grids",
        vec![
            plot(
                "Where steps fall",
                Axis::linear("log_snr", "log-SNR: noise left, data right").over(-9.0, 13.0),
                Axis::linear("row", "a row a grid, in this order").over(-0.6, 5.6),
                grids,
            ),
            plot(
                "What they give",
                Axis::log("steps", "steps"),
                Axis::log("w2", "W₂ over the deviation"),
                curves.collect(),
            ),
        ],
    );
    parts.table("spent", ["grid", "2", "4", "8", "16", "32", "64", "128"], table);
    parts.checks("spent", d.evidence.clone());
    parts.value("half_way", (half * 10.0).round() / 10.0);
    parts.value("best_of_8", name8);
    parts.value("error_of_8", w8);
    parts.value("best_of_32", name32);
    parts.value("error_of_32", w32);
    parts.value("second_order_of_32", at("2nd order, log-SNR", 32));
    parts.value("even_in_t_of_32", at("even in t", 32));
}
