//! The chapter on guidance, made from the numbers of [`crate::guidance::numbers`].

use crate::guidance::numbers::{Curve, EDM_STEPS, Map, Numbers, Settings, compute};
use ndarray::Array2;
use serde_json::Value;
use std::f64::consts::TAU;
use tweedie::error::Result;
use tweedie::math::{larger, smaller};
use tweedie_report::chapter::{
    Parts, Study, along, digits, images, percent, picture, plot, settings,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, Colour, GREEN, MUTED, ORANGE, VERMILION};

/// The chapter.
pub struct Guidance;

impl Study for Guidance {
    const NAME: &'static str = "guidance";
    const ABOUT: &'static str = "what guidance samples: the produced law against the tilted one, a lost mode, digits at growing scales, where it works";
    const SECONDS: [f64; 2] = [7.0, 28.0];
    const TEXT: Editable = source!("guidance/text.md");
    const CODE: &'static str = env!("CODE_OF_guidance");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        rule(n, &mut parts);
        line(n, &mut parts);
        plane(n, &mut parts);
        price(n, &mut parts);
        listening(n, &mut parts);
        levels(n, &mut parts);
        Ok(parts)
    }
}

/// A density as a picture, its largest value ink.
fn shade(values: &[f64], note: impl ToString) -> Picture {
    let largest = values.iter().copied().fold(f64::MIN_POSITIVE, larger);
    picture(values.iter().map(|v| 2.0 * v / largest - 1.0), note)
}

fn pictures(
    n: &Numbers,
    heading: &str,
    columns: Vec<String>,
    rows: Vec<(&str, Vec<Picture>)>,
) -> Drawing {
    let side = n.plane.maps[0].tilted.len().isqrt();
    let rows = rows.into_iter().map(|(label, row)| (label.to_owned(), row)).collect();
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: heading.into(),
        columns,
        rows,
        shape: (side, side),
        tone: Tone::Ink,
    })
}

fn rule(n: &Numbers, parts: &mut Parts) {
    let columns = n.plane.classifier.iter().map(|(sigma, ..)| plain(*sigma)).collect();
    let densities = n.plane.classifier.iter().map(|(_, density, _)| shade(density, "")).collect();
    let classifiers = n
        .plane
        .classifier
        .iter()
        .map(|(_, _, class)| picture(class.iter().map(|r| 2.0 * r - 1.0), ""))
        .collect();
    parts.figure(
        "classifier",
        vec![pictures(
            n,
            "noise level σ",
            columns,
            vec![("density of noisy states", densities), ("classifier p(c | x)", classifiers)],
        )],
    );
}

fn curve(label: &str, c: &Curve, values: &[f64], mark: Mark, colour: Colour) -> Series {
    Series::new(label, along(&c.scales), along(values), mark, colour)
}

fn line(n: &Numbers, parts: &mut Parts) {
    let scale = || Axis::linear("w", "guidance scale w").over(0.0, n.settings.line.largest);
    let three = |title: &str, axis: Axis, curves: &[Curve; 3], of: fn(&Curve) -> &Vec<f64>| {
        let [tilted, produced, sampled] = curves;
        let series = vec![
            curve("tilted law", tilted, of(tilted), Mark::Dashed, BLUE),
            curve("produced law", produced, of(produced), Mark::Line, VERMILION),
            curve("sampler", sampled, of(sampled), Mark::Points, VERMILION),
        ];
        plot(title, scale(), axis, series)
    };
    let (narrow, wide) = (&n.line.narrow, &n.line.wide);
    let s = &n.settings.line;
    let two = |of: &Curve| of.at(2.0).map_or(f64::NAN, |v| v.1 * v.1);
    let row = |w: f64| {
        let cell = |c: &Curve, pick: fn((f64, f64)) -> f64| {
            c.at(w).map(pick).filter(|v| v.is_finite()).map_or("none".into(), plain)
        };
        let mut row = vec![plain(w)];
        for c in [narrow, wide] {
            row.extend([
                cell(&c[0], |v| v.0),
                cell(&c[1], |v| v.0),
                cell(&c[0], |v| v.1),
                cell(&c[1], |v| v.1),
            ]);
        }
        row
    };
    parts.figure(
        "line",
        vec![
            three("Mean, narrow class", Axis::linear("mean", "mean"), narrow, |c| &c.means),
            three(
                "Deviation, narrow class",
                Axis::linear("std", "deviation").over(0.0, 1.05),
                narrow,
                |c| &c.stds,
            ),
            three("Mean, wide class", Axis::linear("mean", "mean").over(0.0, 20.0), wide, |c| {
                &c.means
            }),
            three(
                "Deviation, wide class",
                Axis::linear("std", "deviation").over(0.0, 8.0),
                wide,
                |c| &c.stds,
            ),
        ],
    );
    parts.table(
        "line",
        [
            "$w$",
            "mean t",
            "mean p",
            "dev. t",
            "dev. p",
            "wide: mean t",
            "mean p",
            "dev. t",
            "dev. p",
        ],
        s.sampled.iter().map(|w| row(*w)),
    );
    parts.checks("line", n.line.evidence.clone());
    parts.value("narrow_tilted", two(&narrow[0]));
    parts.value("narrow_guided", two(&narrow[1]));
    parts.value("improper_from", n.line.improper_from);
    parts.value("narrow_std", s.narrow.sqrt());
    parts.value("largest_sampled", s.sampled[s.sampled.len() - 1]);
    parts.value(
        "mean_at_largest",
        narrow[1].at(s.sampled[s.sampled.len() - 1]).map_or(f64::NAN, |v| v.0),
    );
}

/// A circle around a mean.
fn circle([x, y]: [f64; 2], radius: f64) -> (impl Iterator<Item = f64>, impl Iterator<Item = f64>) {
    let angles = || (0..=64).map(|k| TAU * f64::from(k) / 64.0);
    (angles().map(move |a| x + radius * a.cos()), angles().map(move |a| y + radius * a.sin()))
}

fn trajectories(n: &Numbers, title: &str, paths: &[Array2<f64>], colour: Colour) -> Drawing {
    let s = &n.settings.plane;
    let mut series = Vec::new();
    for (means, label, colour) in [(s.class, "class", GREEN), (s.others, "others", MUTED)] {
        for (k, mean) in means.into_iter().enumerate() {
            let (x, y) = circle(mean, 1.5 * s.std);
            series.push(Series::new(
                if k == 0 { label.into() } else { format!("_{label}") },
                x,
                y,
                Mark::Line,
                colour,
            ));
        }
    }
    for (k, path) in paths.iter().enumerate() {
        let label = if k == 0 { "path".into() } else { format!("_path {}", k + 1) };
        series.push(Series::new(
            label,
            path.column(0).iter().copied(),
            path.column(1).iter().copied(),
            Mark::Line,
            colour,
        ));
    }
    let last = |j: usize| paths.iter().map(move |path| path[[path.nrows() - 1, j]]);
    series.push(Series::new("end", last(0), last(1), Mark::Points, colour));
    // Equal units on both axes of the frame.
    let half = s.half_width;
    plot(
        title,
        Axis::linear("x", "x₁").over(-1.7 * half, 1.7 * half),
        Axis::linear("y", "x₂").over(-half, half),
        series,
    )
}

fn plane(n: &Numbers, parts: &mut Parts) {
    let maps = &n.plane.maps;
    let columns = maps.iter().map(|m| format!("w = {}", plain(m.scale))).collect();
    let note = |m: &Map| format!("apart {}", plain((m.total_variation() * 100.0).round() / 100.0));
    let (last, two) =
        (&maps[maps.len() - 1], maps.iter().find(|m| m.scale == 2.0).unwrap_or(&maps[2]));
    let rows = maps.iter().map(|m| {
        vec![
            plain(m.scale),
            plain((m.total_variation() * 1e3).round() / 1e3),
            percent(m.shares[0]),
            percent(m.shares[1]),
        ]
    });
    parts.figure(
        "laws",
        vec![pictures(
            n,
            "",
            columns,
            vec![
                ("tilted: p(x) p(c | x)ʷ", maps.iter().map(|m| shade(&m.tilted, "")).collect()),
                (
                    "produced by the guided flow",
                    maps.iter().map(|m| shade(&m.produced, "")).collect(),
                ),
            ],
        )],
    );
    parts.table(
        "plane",
        ["$w$", "total variation", "near part, tilted", "near part, produced"],
        rows,
    );
    parts.figure(
        "trajectories",
        vec![
            trajectories(n, "w = 1", &n.plane.trajectories[0], BLUE),
            trajectories(
                n,
                &format!("w = {}", plain(last.scale)),
                &n.plane.trajectories[1],
                VERMILION,
            ),
        ],
    );
    parts.figure(
        "levels",
        vec![pictures(
            n,
            "noise level σ",
            n.plane.levels.iter().map(|m| plain(m.sigma)).collect(),
            vec![
                (
                    "tilted law of the level",
                    n.plane.levels.iter().map(|m| shade(&m.tilted, "")).collect(),
                ),
                (
                    "law of the guided flow's states",
                    n.plane.levels.iter().map(|m| shade(&m.produced, note(m))).collect(),
                ),
            ],
        )],
    );
    parts.checks("plane", n.plane.evidence.clone());
    parts.value("tilted_lower", last.shares[0]);
    parts.value("picture_scale", last.scale);
    parts.value("guided_lower_at_two", two.shares[1]);
    parts.value("second_scale", two.scale);
    parts.value("guided_lower", last.shares[1]);
}

fn price(n: &Numbers, parts: &mut Parts) {
    let price = &n.plane.price;
    let two = |title: &str, axis: Axis, values: &[Vec<f64>; 2]| {
        let series = |label: &str, k: usize, mark, colour| {
            Series::new(label, along(&price.scales), along(&values[k]), mark, colour)
        };
        plot(
            title,
            Axis::linear("w", "guidance scale w").over(0.0, n.settings.plane.largest),
            axis,
            vec![
                series("tilted law", 0, Mark::Dashed, BLUE),
                series("produced law", 1, Mark::Line, VERMILION),
            ],
        )
    };
    let last = price.scales.len() - 1;
    let one = price.scales.iter().position(|w| *w == 1.0).unwrap_or(0);
    let best = (0..=last)
        .max_by(|a, b| price.likelihood[1][*a].total_cmp(&price.likelihood[1][*b]))
        .unwrap_or(0);
    parts.figure(
        "price",
        vec![
            two("Doubt", Axis::log("doubt", "−E ln p(c | x), nats").over(1e-6, 10.0), &price.doubt),
            two("Spread", Axis::linear("spread", "root mean square"), &price.spread),
            two("Near mode", Axis::linear("near", "share of the law").over(0.0, 0.6), &price.near),
            two("Likelihood", Axis::linear("log_p", "E ln p(x), nats"), &price.likelihood),
        ],
    );
    parts.checks("price", n.plane.price_evidence.clone());
    parts.value("doubt_at_one", (price.doubt[1][one] * 1e3).round() / 1e3);
    parts.value("doubt_unguided", price.doubt[1][0]);
    parts.value("spread_at_one", price.spread[1][one]);
    parts.value("spread_at_largest", price.spread[1][last]);
    parts.value("price_scale", price.scales[last]);
    parts.value("tilted_spread_at_largest", price.spread[0][last]);
    parts.value("best_scale", price.scales[best]);
}

fn listening(n: &Numbers, parts: &mut Parts) {
    let d = &n.digits;
    let s = &n.settings.digits;
    let scales = || Axis::linear("w", "guidance scale w").over(0.0, s.scales[s.scales.len() - 1]);
    let column = |of: fn(&crate::guidance::numbers::Outcome) -> f64| {
        d.outcomes.iter().map(of).collect::<Vec<_>>()
    };
    let x = || along(&s.scales);
    let mut rows = vec![("the class itself, exact".into(), images(&d.exact))];
    rows.extend(d.outcomes.iter().map(|o| {
        (
            format!("w = {}: {} of all samples right", plain(o.scale), percent(o.right)),
            images(&o.pictures),
        )
    }));
    let at = |w: f64| d.outcomes.iter().find(|o| o.scale == w);
    let (one, cut) = (at(1.0), at(s.cut_scale));
    let nearest = d
        .outcomes
        .iter()
        .filter(|o| o.scale >= 1.0)
        .min_by(|a, b| a.distance.total_cmp(&b.distance));
    let last = &d.outcomes[d.outcomes.len() - 1];
    let table = d.outcomes.iter().map(|o| {
        vec![
            plain(o.scale),
            percent(o.right),
            plain(o.distance),
            percent(o.beyond),
            plain(o.spread),
        ]
    });
    parts.figure(
        "digits",
        vec![digits("", "asked for", (0..10).map(|c| c.to_string()).collect(), rows, Tone::Ink)],
    );
    parts.figure(
        "sweet-spot",
        vec![
            plot(
                "Of the class asked for",
                scales(),
                Axis::linear("right", "share of samples").over(0.0, 1.05),
                vec![Series::new("right", x(), column(|o| o.right), Mark::Linked, GREEN)],
            ),
            plot(
                "Distance to the exact samples",
                scales(),
                Axis::linear("distance", "root mean square"),
                vec![Series::new("distance", x(), column(|o| o.distance), Mark::Linked, BLUE)],
            ),
            plot(
                "Beyond black and white",
                scales(),
                Axis::linear("beyond", "share of pixels"),
                vec![Series::new("beyond", x(), column(|o| o.beyond), Mark::Linked, VERMILION)],
            ),
            plot(
                "Spread of a class",
                scales(),
                Axis::linear("spread", "over the class's own"),
                vec![Series::new("spread", x(), column(|o| o.spread), Mark::Linked, ORANGE)],
            ),
        ],
    );
    parts.table("listening", ["$w$", "right", "distance", "beyond range", "spread"], table);
    parts.checks("listening", d.evidence.clone());
    parts.value("kept_share", 1.0 - s.missed);
    parts.value("share_at_one", one.map(|o| o.right));
    parts.value("share_at_cut", cut.map(|o| o.right));
    parts.value("nearest_scale", nearest.map(|o| o.scale));
    parts.value("beyond_range", last.beyond);
    parts.value("largest_scale", last.scale);
    parts.value("beyond_range_at_one", one.map(|o| o.beyond));
    parts.value("draws", d.draws);
    parts.value(
        "least_spread",
        d.outcomes.iter().filter(|o| o.scale >= 1.0).map(|o| o.spread).fold(f64::INFINITY, smaller),
    );
    parts.value("spread_of_draws", last.spread);
}

fn levels(n: &Numbers, parts: &mut Parts) {
    let (d, s) = (&n.digits, &n.settings.digits);
    let sigmas = || d.cuts.iter().map(|c| c.sigma);
    let axis = || Axis::log("sigma", "noise level σ of the cut");
    parts.figure(
        "cuts",
        vec![
            plot(
                "Change of the samples",
                axis(),
                Axis::linear("change", "share of the whole change").over(0.0, 1.3),
                vec![
                    Series::new(
                        "none below",
                        sigmas(),
                        d.cuts.iter().map(|c| c.below),
                        Mark::Linked,
                        BLUE,
                    ),
                    Series::new(
                        "none above",
                        sigmas(),
                        d.cuts.iter().map(|c| c.above),
                        Mark::Linked,
                        ORANGE,
                    ),
                ],
            ),
            plot(
                "Of the class asked for",
                axis(),
                Axis::linear("right", "share of samples").over(0.5, 1.02),
                vec![
                    Series::new(
                        "none below",
                        sigmas(),
                        d.cuts.iter().map(|c| c.right[0]),
                        Mark::Linked,
                        BLUE,
                    ),
                    Series::new(
                        "none above",
                        sigmas(),
                        d.cuts.iter().map(|c| c.right[1]),
                        Mark::Linked,
                        ORANGE,
                    ),
                ],
            ),
        ],
    );
    parts.value("cut_scale", s.cut_scale);
    parts.value("idle_below", d.idle_below);
    parts.value("edm_steps", EDM_STEPS);
    parts.value("idle_steps", d.idle_steps);
}
