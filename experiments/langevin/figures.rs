//! The chapter on Langevin dynamics and the reverse processes, made from the numbers of
//! [`crate::langevin::numbers`].

use crate::langevin::numbers::family::Curve;
use crate::langevin::numbers::plane::{CELLS, Field};
use crate::langevin::numbers::{Numbers, Settings, compute};
use serde_json::Value;
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie_report::chapter::{
    Parts, Study, along, digits, images, percent, picture, plot, settings, significant, thousands,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Plot, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// The chapter.
pub struct Langevin;

impl Study for Langevin {
    const NAME: &'static str = "langevin";
    const ABOUT: &'static str = "Langevin dynamics, the score, annealing, the family of reverse SDEs, predictor and corrector, on known laws";
    const SECONDS: [f64; 2] = [12.0, 48.0];
    const TEXT: Editable = source!("langevin/text.md");
    const CODE: &'static str = env!("CODE_OF_langevin");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        uphill(n, &mut parts);
        pace(n, &mut parts);
        modes(n, &mut parts);
        family(n, &mut parts);
        errors(n, &mut parts);
        Ok(parts)
    }
}

/// Arrows along the field, their length levelling off where it is strong.
fn arrows(field: &Field) -> Series {
    let mut points = Vec::new();
    for (x, s) in field.x.rows().into_iter().zip(field.score.rows()) {
        let size = s[0].hypot(s[1]);
        let length = 0.5 * size / (size + 1.0 / field.sigma.max(0.3));
        let (ux, uy) = (s[0] / size, s[1] / size);
        let tip = (x[0] + length * ux, x[1] + length * uy);
        let barb = |sign: f64| {
            let (sin, cos) = (sign * 2.6f64).sin_cos();
            (
                tip.0 + 0.36 * length * (cos * ux - sin * uy),
                tip.1 + 0.36 * length * (sin * ux + cos * uy),
            )
        };
        // What is not finite parts one arrow from the next.
        points.extend([(x[0], x[1]), tip, barb(1.0), tip, barb(-1.0), (f64::NAN, f64::NAN)]);
    }
    Series { label: "_score".into(), points, mark: Mark::Line, colour: INK }
}

fn uphill(n: &Numbers, parts: &mut Parts) {
    let plane = &n.plane;
    let panel = |field: &Field| {
        let draws = Series::new(
            "_draws",
            field.draws.column(0).to_vec(),
            field.draws.column(1).to_vec(),
            Mark::Points,
            SKY,
        );
        plot(
            &format!("σ = {}", plain(field.sigma)),
            Axis::linear("x", "first coordinate").over(-5.0, 5.0),
            Axis::linear("y", "second coordinate").over(-2.62, 3.22),
            vec![draws, arrows(field)],
        )
    };
    parts.figure("field", plane.fields.iter().map(panel).collect());
    parts.checks("uphill", plane.evidence[0].clone());
}

fn pace(n: &Numbers, parts: &mut Parts) {
    let d = &n.digits;
    let s = &n.settings.digits;
    let (most, least) = (d.variances[0], d.variances[d.variances.len() - 1]);
    let strips = d.strips.iter().map(|x| (String::new(), images(x))).collect();
    let stationary: Vec<Vec<Picture>> = d.stationary.iter().map(images).collect();
    let rows = stationary.into_iter().zip(&s.shares).map(|(r, share)| {
        let excess: f64 =
            d.variances.iter().map(|v| v / (1.0 - share * least / (2.0 * v))).sum::<f64>()
                / d.variances.iter().sum::<f64>();
        (
            format!(
                "h / smallest variance = {}: variance too large by {}",
                plain(*share),
                percent(excess - 1.0)
            ),
            r,
        )
    });
    let colours = [BLUE, GREEN, ORANGE, VERMILION];
    let looks: Vec<f64> = s.looks.iter().map(|n| *n as f64).collect();
    let mut way: Vec<Series> = Vec::new();
    for (f, colour) in d.followed.iter().zip(colours) {
        way.push(Series::new(
            format!("component {}", f.component),
            along(&d.counts),
            along(&f.exact),
            Mark::Line,
            colour,
        ));
        way.push(Series::new(
            format!("_component {}, sampled", f.component),
            along(&looks),
            along(&f.sampled),
            Mark::Points,
            colour,
        ));
    }
    let ratio: Vec<f64> = (1..=97).map(|k| 0.02 * f64::from(k)).collect();
    let bias = vec![
        Series::new(
            "closed form",
            along(&ratio),
            ratio.iter().map(|r| 1.0 / (1.0 - r / 2.0)),
            Mark::Line,
            INK,
        ),
        Series::new(
            "sampled chains",
            along(&d.measured.0),
            along(&d.measured.1),
            Mark::Points,
            BLUE,
        ),
    ];
    let (shares, curves) = &d.budget;
    let names = s
        .budgets
        .iter()
        .map(|b| format!("{} steps", thousands(*b as usize)))
        .chain(["for ever".into()]);
    let budget = curves.iter().zip(names).zip([BLUE, GREEN, ORANGE, VERMILION, INK]);
    let budget = budget.map(|((w2, name), colour)| {
        let mark = if colour == INK { Mark::Dashed } else { Mark::Line };
        Series::new(name, along(shares), along(w2), mark, colour)
    });
    let ways = d.ways.iter().zip([VERMILION, ORANGE, GREEN, BLUE]);
    let ways = ways
        .map(|(w, colour)| Series::new(&w.name, along(&w.nfe), along(&w.w2), Mark::Linked, colour));
    let table = d
        .best
        .iter()
        .map(|(steps, share, w2)| vec![thousands(*steps as usize), plain(*share), percent(*w2)]);
    let tenth = d.ways[0].nfe.iter().zip(&d.ways[0].w2).find(|v| *v.1 <= 0.05).map(|v| *v.0);
    let flow = d.ways[3].nfe.iter().zip(&d.ways[3].w2).find(|v| *v.1 <= 0.05).map(|v| *v.0);
    parts.figure(
        "strips",
        vec![digits(
            "",
            "steps",
            s.looks.iter().map(|n| thousands(*n)).collect(),
            strips,
            Tone::Ink,
        )],
    );
    parts.figure("stationary", vec![digits("", "", vec![], rows.collect(), Tone::Ink)]);
    parts.figure(
        "budget",
        vec![
            plot(
                "(a) Along the chain",
                Axis::log("step", "step n"),
                Axis::log("variance", "variance / stationary one"),
                way,
            ),
            plot(
                "(b) Where it ends",
                Axis::linear("step_over_variance", "step h / variance").over(0.0, 2.0),
                Axis::log("ratio", "stationary variance / variance").over(0.9, 40.0),
                bias,
            ),
            plot(
                "(c) Which step?",
                Axis::log("step_over_smallest_variance", "step h / smallest variance"),
                Axis::log("w2", "W₂ / deviation"),
                budget.collect(),
            ),
            plot(
                "(d) Other ways",
                Axis::log("nfe", "evaluations"),
                Axis::log("w2", "W₂ / deviation"),
                ways.collect(),
            ),
        ],
    );
    parts.table("pace", ["steps", "best step", "W₂ / deviation"], table);
    parts.checks("pace", d.evidence.concat());
    parts.value("largest_variance", most);
    parts.value("least_variance", least);
    parts.value("steps_to_forget", most / d.step);
    parts.value("chain_evaluations", tenth);
    parts.value("flow_evaluations", flow);
}

/// Shares of particles or masses in the cells as a picture, on its own scale; roots, so that few
/// are seen too.
fn density(shares: &[f64]) -> Picture {
    let most = shares.iter().copied().fold(f64::MIN_POSITIVE, larger);
    picture(shares.iter().map(|s| 2.0 * (s / most).sqrt() - 1.0), "")
}

fn densities(heading: &str, columns: Vec<String>, rows: Vec<(String, Vec<Picture>)>) -> Drawing {
    let shape = (CELLS, CELLS);
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: heading.into(),
        columns,
        rows,
        shape,
        tone: Tone::Ink,
    })
}

fn modes(n: &Numbers, parts: &mut Parts) {
    let (line, plane) = (&n.line, &n.plane);
    let w = n.settings.line.weight;
    let [pair, merged] = &line.pairs;
    let names = [
        format!("{} right, {} left", plain(w), plain(1.0 - w)),
        format!("{} right, {} left", plain(1.0 - w), plain(w)),
    ];
    let both = |x: &[f64], of: &[Vec<f64>; 2]| -> Vec<Series> {
        let marks = [(Mark::Line, BLUE), (Mark::Dashed, VERMILION)];
        of.iter()
            .zip(&names)
            .zip(marks)
            .map(|((y, name), (mark, colour))| {
                Series::new(name, x.to_vec(), along(y), mark, colour)
            })
            .collect()
    };
    let score = || Axis::linear("score", "score");
    let rows = plane.runs.iter().map(|r| {
        (
            r.name.to_string(),
            r.pictures.iter().map(|v| density(v)).chain([density(&plane.truth)]).collect(),
        )
    });
    let columns =
        n.settings.plane.looks.iter().map(|k| thousands(*k)).chain(["truth".into()]).collect();
    let smallest = (0..n.settings.plane.weights.len())
        .min_by(|a, b| n.settings.plane.weights[*a].total_cmp(&n.settings.plane.weights[*b]))
        .unwrap_or(0);
    let largest = (0..n.settings.plane.weights.len())
        .max_by(|a, b| n.settings.plane.weights[*a].total_cmp(&n.settings.plane.weights[*b]))
        .unwrap_or(0);
    let mut shares: Vec<Series> = Vec::new();
    for (r, colour) in plane.runs.iter().zip([VERMILION, ORANGE, GREEN]) {
        shares.push(Series::new(
            &r.name,
            along(&r.nfe),
            r.shares.iter().map(|s| s[largest]),
            Mark::Line,
            colour,
        ));
        shares.push(Series::new(
            format!("_{}, smallest", r.name),
            along(&r.nfe),
            r.shares.iter().map(|s| s[smallest]),
            Mark::Line,
            colour,
        ));
    }
    let last = plane.runs[0].nfe[plane.runs[0].nfe.len() - 1];
    for k in [largest, smallest] {
        let weight = n.settings.plane.weights[k];
        let name =
            if k == largest { "weight".to_string() } else { "_weight of the smallest".into() };
        shares.push(Series::new(name, [0.0, last], [weight, weight], Mark::Dashed, INK));
    }
    let [steps, barrier] = &line.crossing;
    let separations = &n.settings.line.separations;
    let stuck = &plane.runs[0].shares[plane.runs[0].shares.len() - 1];
    let annealed = &plane.runs[1].shares[plane.runs[1].shares.len() - 1];
    parts.figure(
        "weights",
        vec![
            plot(
                &format!("(a) Density, σ = {}", plain(pair.sigma)),
                Axis::linear("x", "x"),
                Axis::linear("density", "density"),
                both(&pair.x, &pair.density),
            ),
            plot(
                &format!("(b) Score, σ = {}", plain(pair.sigma)),
                Axis::linear("x", "x"),
                score(),
                both(&pair.x, &pair.score),
            ),
            plot(
                &format!("(c) Score, σ = {}", plain(merged.sigma)),
                Axis::linear("x", "x"),
                score(),
                both(&merged.x, &merged.score),
            ),
            Drawing::Plot(Plot::new(
                "(d) Where the weights are known",
                Axis::log("sigma", "noise level σ"),
                Axis::linear("rate", "nats for each unit of ln σ"),
                vec![Series::new(
                    "rate",
                    along(&line.sigmas),
                    along(&line.rate),
                    Mark::Line,
                    PURPLE,
                )],
            )),
        ],
    );
    parts.checks("modes", line.evidence[0].clone());
    parts.figure("particles", vec![densities("evaluations", columns, rows.collect())]);
    parts.figure(
        "crossing",
        vec![
            plot(
                "Steps to cross",
                Axis::linear("separation", "distance from the middle / deviation of a mode"),
                Axis::log("steps", "steps"),
                vec![
                    Series::new(
                        "chain, exact",
                        along(separations),
                        along(steps),
                        Mark::Linked,
                        BLUE,
                    ),
                    Series::new(
                        "high barrier",
                        along(separations),
                        along(barrier),
                        Mark::Dashed,
                        MUTED,
                    ),
                ],
            ),
            plot(
                "Shares of two clusters",
                Axis::linear("nfe", "evaluations"),
                Axis::linear("share", "share of the particles").over(0.0, 0.8),
                shares,
            ),
        ],
    );
    parts.checks("modes-2", [line.evidence[1].clone(), plane.evidence[1].clone()].concat());
    parts.value("weight", w);
    parts.value("other_weight", 1.0 - w);
    parts.value("told_of_both", line.told[0]);
    parts.value("pair_sigma", pair.sigma);
    parts.value("told_peak_sigma", line.peak);
    parts.value("told_of_one", line.told[1]);
    parts.value("middle_separation", separations[separations.len() / 2]);
    parts.value("middle_steps", steps[separations.len() / 2]);
    parts.value("largest_separation", separations[separations.len() - 1]);
    parts.value("largest_steps", steps[separations.len() - 1]);
    parts.value("smallest_weight", n.settings.plane.weights[smallest]);
    parts.value("smallest_by_langevin", stuck[smallest]);
    parts.value("crossed", plane.crossed);
    parts.value("plane_particles", plane.particles);
    parts.value("smallest_by_annealing", annealed[smallest]);
    parts.value("smallest_by_ddpm", plane.runs[2].shares[plane.runs[2].shares.len() - 1][smallest]);
}

fn family(n: &Numbers, parts: &mut Parts) {
    let (line, plane) = (&n.line, &n.plane);
    let mut rows =
        vec![("closed form".to_string(), plane.exact.iter().map(|v| density(v)).collect())];
    rows.extend(
        plane
            .marginals
            .iter()
            .map(|(g, v)| (format!("particles, g = {g}"), v.iter().map(|v| density(v)).collect())),
    );
    let paths = line.paths.iter().map(|(g, x, _)| {
        let series = x.columns().into_iter().enumerate().map(|(k, c)| {
            let shown = c.iter().zip(&line.levels).map(|(x, s)| x / (1.0 + s * s).sqrt());
            let colour = if c[c.len() - 1] > 0.0 { BLUE } else { VERMILION };
            Series {
                label: format!("_path {}", k + 1),
                points: line.levels.iter().copied().zip(shown).step_by(2).collect(),
                mark: Mark::Line,
                colour,
            }
        });
        plot(
            &format!("g = {g}"),
            Axis::log("sigma", "noise level σ")
                .over(line.levels[0], line.levels[line.levels.len() - 1]),
            Axis::linear("x_scaled", "x / √(1 + σ²)").over(-2.6, 2.6),
            series.collect(),
        )
    });
    parts.figure(
        "marginals",
        vec![densities(
            "noise level σ",
            plane.levels.iter().map(|s| significant(*s, 2)).collect(),
            rows,
        )],
    );
    parts.figure("paths", paths.collect());
    parts.checks("family", [plane.evidence[2].clone(), line.evidence[2].clone()].concat());
    parts.value("particles", line.particles);
    parts.value("ends", line.paths.iter().map(|(g, _, share)| (*g, *share)).collect::<Vec<_>>());
}

fn curves(of: &[Curve], colours: &[Colour]) -> Vec<Series> {
    of.iter()
        .zip(colours)
        .map(|(c, colour)| Series::new(&c.name, along(&c.x), along(&c.w2), Mark::Linked, *colour))
        .collect()
}

fn errors(n: &Numbers, parts: &mut Parts) {
    let family = &n.family;
    let colours = [BLUE, GREEN, ORANGE, VERMILION, INK, PURPLE];
    let lines = |of: &[Curve]| -> Vec<Series> {
        curves(of, &colours).into_iter().map(|s| Series { mark: Mark::Line, ..s }).collect()
    };
    let nfe = || Axis::log("nfe", "evaluations");
    let w2 = || Axis::log("w2", "W₂ / deviation");
    let rows = family.best.iter().map(|(name, g, errors)| {
        let mut row = vec![name.clone(), plain(*g)];
        row.extend(errors.map(percent));
        if name == "exact" {
            row[1] = "the more the better".into();
        }
        row
    });
    parts.figure(
        "noise",
        vec![
            plot("From the right start", nfe(), w2(), curves(&family.steps, &colours)),
            plot(
                "From a wrong start",
                Axis::linear("g", "noise g"),
                w2().over(1e-3, 1.0),
                lines(&family.noise),
            ),
        ],
    );
    parts.table("errors", ["steps", "best g", "with it", "g = 0", "g = 1"], rows);
    parts.checks("errors", family.evidence[0].clone());
    parts.figure(
        "correctors",
        vec![
            plot("From the right start", nfe(), w2(), curves(&family.correctors, &colours)),
            plot("From a wrong start", nfe(), w2(), curves(&family.mended, &colours)),
        ],
    );
    parts.checks("errors-2", family.evidence[1].clone());
    let first = |of: &[Curve]| {
        let k = of[0].w2.iter().zip(&of[2].w2).position(|(alone, with)| with < alone)?;
        Some(n.settings.family.evaluations[k])
    };
    parts.value("corrected_from", first(&n.family.correctors));
    parts.value("mended_from", first(&n.family.mended));
}
