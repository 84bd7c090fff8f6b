//! The chapter on objectives, made from the numbers of [`crate::equivalence::numbers`].

use crate::equivalence::numbers::linear::{Objective, at_level};
use crate::equivalence::numbers::manifold::Space;
use crate::equivalence::numbers::{Numbers, Settings, TARGETS, compute};
use serde_json::Value;
use tweedie::diffusion::prediction::Prediction;
use tweedie::error::Result;
use tweedie::math::{larger, smaller};
use tweedie_report::chapter::{Parts, Study, along, plot, scientific, settings};
use tweedie_report::drawing::{Axis, Drawing, Mark, Series, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, Colour, GREEN, MUTED, PURPLE, VERMILION};

/// The chapter.
pub struct Equivalence;

impl Study for Equivalence {
    const NAME: &'static str = "equivalence";
    const ABOUT: &'static str = "x0-, eps-, v- and velocity-objectives: one minimiser, one path, and where a bottleneck or training parts them";
    const SECONDS: [f64; 2] = [67.0, 660.0];
    const TEXT: Editable = source!("equivalence/text.md");
    const CODE: &'static str = env!("CODE_OF_equivalence");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        minimiser(n, &mut parts)?;
        descent(n, &mut parts);
        stochastic(n, &mut parts);
        bottleneck(n, &mut parts);
        manifold(n, &mut parts);
        measured(n, &mut parts);
        trained(n, &mut parts);
        Ok(parts)
    }
}

const COLOURS: [Colour; 4] = [BLUE, VERMILION, GREEN, PURPLE];

/// A target as the page writes it.
fn label(target: Prediction) -> &'static str {
    match target {
        Prediction::X0 => "x₀",
        Prediction::Eps => "ε",
        Prediction::V => "v",
        _ => "velocity",
    }
}

/// Three digits, in powers of ten where it is small.
fn short(v: f64) -> String {
    if v >= 1e-3 || v == 0.0 {
        return plain(v);
    }
    scientific(v, 2)
}

/// One curve for each target.
fn curves<'a>(x: &'a [f64], y: impl Fn(usize) -> &'a [f64], mark: Mark) -> Vec<Series> {
    TARGETS
        .iter()
        .enumerate()
        .map(|(k, t)| Series::new(label(*t), along(x), along(y(k)), mark, COLOURS[k]))
        .collect()
}

fn minimiser(n: &Numbers, parts: &mut Parts) -> Result<()> {
    let s = &n.linear.solved;
    let gains = |stage: usize| {
        curves(
            &s.variances,
            |k| &s.filters[k][stage],
            if stage == 0 { Mark::Line } else { Mark::Points },
        )
    };
    let mut after = gains(1);
    // Discs of four sizes of the same place would hide each other: every fourth component belongs
    // to one target.
    for (k, series) in after.iter_mut().enumerate() {
        series.points = series
            .points
            .iter()
            .copied()
            .enumerate()
            .filter(|(i, _)| i % 4 == k)
            .map(|(_, p)| p)
            .collect();
    }
    let at = at_level(s.shown)?;
    let wiener =
        s.variances.iter().map(|l| at.alpha * l / (at.alpha * at.alpha * l + at.sigma * at.sigma));
    after.insert(0, Series::new("Wiener filter", along(&s.variances), wiener, Mark::Line, MUTED));
    let variance = || Axis::log("variance", "variance λ of the component");
    let mut rows = Vec::new();
    for (k, target) in TARGETS.into_iter().enumerate() {
        let what = [
            "$x_0$",
            "$\\varepsilon$",
            "$v = \\alpha\\varepsilon - \\sigma x_0$",
            "velocity $= \\varepsilon - x_0$",
        ][k];
        let mut row = vec![what.to_string()];
        for sigma in [0.1, 1.0, 10.0] {
            row.push(plain(Objective::new(target, &at_level(sigma)?)?.scale));
        }
        row.push(plain(n.linear.descent.starts[k]));
        let worst = s.errors[k].iter().copied().fold(0.0, larger);
        row.push(short(worst));
        rows.push(row);
    }
    parts.figure(
        "filters",
        vec![
            plot("The four solutions", variance(), Axis::linear("gain", "gain"), gains(0)),
            plot("Converted to x₀", variance(), Axis::linear("gain", "gain"), after),
        ],
    );
    parts.figure(
        "solved",
        vec![plot(
            "",
            Axis::log("sigma_over_alpha", "noise level σ/α"),
            Axis::log("largest_difference", "largest difference"),
            curves(&s.sigmas, |k| &s.errors[k], Mark::Line),
        )],
    );
    parts.table(
        "minimiser",
        ["target", "$\\sigma/\\alpha = 0.1$", "$1$", "$10$", "start", "difference"],
        rows,
    );
    parts.checks("minimiser", s.evidence.clone());
    parts.value("shown_sigma", s.shown);
    Ok(())
}

/// Steps on a logarithmic axis, which has no place for step 0.
fn shifted(steps: &[usize]) -> Vec<f64> {
    steps.iter().map(|n| *n as f64 + 1.0).collect()
}

fn descent(n: &Numbers, parts: &mut Parts) {
    let d = &n.linear.descent;
    let steps = shifted(&d.steps);
    let axis = || Axis::log("step_plus_1", "step + 1");
    let (mut modes, mut excess) = (Vec::new(), Vec::new());
    for (k, target) in TARGETS.iter().enumerate() {
        let [theory, seen] = &d.followed[k];
        excess.push(Series::new(
            format!("_{} closed form", label(*target)),
            along(&steps),
            along(&theory.excess),
            Mark::Line,
            COLOURS[k],
        ));
        excess.push(Series::new(
            label(*target),
            along(&steps),
            along(&seen.excess),
            Mark::Points,
            COLOURS[k],
        ));
        // Two targets tell the rates from the starts.
        if k < 2 {
            for (i, mode) in d.modes.iter().enumerate() {
                let name = format!("_{}, component {}", label(*target), mode + 1);
                modes.push(Series::new(
                    format!("{name}, closed form"),
                    along(&steps),
                    along(&theory.gains[i]),
                    Mark::Line,
                    COLOURS[k],
                ));
                let name = if i == 0 { label(*target).to_string() } else { name };
                modes.push(Series::new(
                    name,
                    along(&steps),
                    along(&seen.gains[i]),
                    Mark::Points,
                    COLOURS[k],
                ));
            }
        }
    }
    let components = d.modes.iter().map(|k| (k + 1).to_string()).collect::<Vec<_>>().join(", ");
    parts.figure(
        "descent",
        vec![
            plot(
                "Three components",
                axis(),
                Axis::log("distance", "distance of the gain").over(1e-9, 10.0),
                modes,
            ),
            plot(
                "Excess risk",
                axis(),
                Axis::log("excess_risk", "excess risk of x₀").over(1e-9, 10.0),
                excess,
            ),
        ],
    );
    parts.checks("descent", d.evidence.clone());
    parts.value("components", components);
}

fn stochastic(n: &Numbers, parts: &mut Parts) {
    let s = &n.linear.stochastic;
    let steps = shifted(&s.steps);
    let (mut risk, mut apart) = (Vec::new(), Vec::new());
    for (k, target) in TARGETS.iter().enumerate() {
        let seen = s.seen[k].iter().map(|v| v[0]);
        risk.push(Series::new(
            format!("_{} expected", label(*target)),
            along(&steps),
            along(&s.expected[k]),
            Mark::Line,
            COLOURS[k],
        ));
        risk.push(Series::new(label(*target), along(&steps), seen, Mark::Points, COLOURS[k]));
        if k > 0 {
            apart.push(Series::new(
                format!("{} from x₀", label(*target)),
                along(&steps),
                along(&s.apart[k]),
                Mark::Line,
                COLOURS[k],
            ));
        }
    }
    let ends = [steps[0], steps[steps.len() - 1]];
    risk.push(Series::new("floor", ends, [s.floor; 2], Mark::Dashed, MUTED));
    apart.push(Series::new("floor of each", ends, [s.floor; 2], Mark::Dashed, MUTED));
    let axis = || Axis::log("step_plus_1", "step + 1");
    let value = |label: &str| Axis::log("excess_risk", label).over(1e-8, 10.0);
    parts.figure(
        "stochastic",
        vec![
            plot("Excess risk", axis(), Axis::log("excess_risk", "excess risk of x₀"), risk),
            plot("Distance between objectives", axis(), value("risk of the difference"), apart),
        ],
    );
    parts.checks("stochastic", s.evidence.clone());
    parts.value("sgd_batch", s.batch);
    parts.value("sgd_floor", s.floor);
    parts.value("sgd_least", s.least);
    parts.value("sgd_runs", s.runs);
}

fn bottleneck(n: &Numbers, parts: &mut Parts) {
    let b = &n.bottleneck;
    let [d, k] = b.dims;
    let ranks: Vec<f64> = (0..=d).map(|r| r as f64).collect();
    let drawing = |l: &crate::equivalence::numbers::rank::Level| -> Drawing {
        let mut series = curves(&ranks, |i| &l.risk[i], Mark::Line);
        for (i, trained) in l.trained.iter().enumerate() {
            let (r, risk): (Vec<f64>, Vec<f64>) =
                trained.iter().map(|(r, v)| (*r as f64, *v)).unzip();
            series.push(Series::new(
                format!("_{} trained", label(TARGETS[i])),
                r,
                risk,
                Mark::Points,
                COLOURS[i],
            ));
        }
        series.push(Series::new("no limit", [0.0, d as f64], [l.least; 2], Mark::Dashed, MUTED));
        plot(
            &format!("σ/α = {}", plain(l.sigma)),
            Axis::linear("rank", "rank of the map").over(0.0, d as f64),
            Axis::log("risk", "risk of x₀ / variance"),
            series,
        )
    };
    parts.figure("bottleneck", b.levels.iter().map(drawing).collect());
    parts.checks("bottleneck", b.evidence.clone());
    parts.value("subspace", k);
    parts.value("ambient", d);
    parts.value("codimension", d - k);
}

fn manifold(n: &Numbers, parts: &mut Parts) {
    let m = &n.manifold;
    let ends = [m.sigmas[0], m.sigmas[m.sigmas.len() - 1]];
    let risks = |s: &Space| -> Drawing {
        let sum = |excess: &[f64]| -> Vec<f64> {
            excess.iter().zip(&s.least).map(|(e, l)| e + l).collect()
        };
        let mut series = Vec::new();
        for (k, target) in TARGETS.iter().enumerate() {
            if s.bound[k][0] > 0.0 {
                let name = format!("_{} bound", label(*target));
                series.push(Series::new(
                    name,
                    along(&m.sigmas),
                    sum(&s.bound[k]),
                    Mark::Dashed,
                    COLOURS[k],
                ));
            }
            series.push(Series::new(
                label(*target),
                along(&m.sigmas),
                sum(&s.excess[k]),
                Mark::Linked,
                COLOURS[k],
            ));
        }
        series.push(Series::new(
            "least risk",
            along(&m.sigmas),
            along(&s.least),
            Mark::Line,
            MUTED,
        ));
        plot(
            &format!("d = {}", s.dim),
            Axis::log("sigma_over_alpha", "noise level σ/α").over(ends[0], ends[1]),
            Axis::log("risk", "risk of x₀ / variance").over(5e-4, 100.0),
            series,
        )
    };
    let drawn = |s: &Space| -> Drawing {
        let column = |x: &ndarray::Array2<f64>, j: usize| x.column(j).to_vec();
        let mut series =
            vec![Series::new("data", column(&m.curve, 0), column(&m.curve, 1), Mark::Line, MUTED)];
        for k in [2, 0] {
            series.push(Series::new(
                label(TARGETS[k]),
                column(&s.samples[k], 0),
                column(&s.samples[k], 1),
                Mark::Points,
                COLOURS[k],
            ));
        }
        plot(
            &format!("d = {}", s.dim),
            Axis::linear("first", "first coordinate in the plane").over(-3.0, 3.0),
            Axis::linear("second", "second coordinate").over(-3.0, 3.0),
            series,
        )
    };
    // A level at which the spiral's turns are told apart.
    let shown = m.sigmas.iter().position(|s| *s >= 0.3).unwrap_or(0);
    let mut rows = Vec::new();
    for s in &m.spaces {
        for (k, target) in TARGETS.iter().enumerate() {
            rows.push(vec![
                format!("d = {}, {}", s.dim, label(*target)),
                short(s.least[shown] + s.excess[k][shown]),
                short(s.least[shown] + s.bound[k][shown]),
                short(s.linear[k][shown]),
                short(s.distance[k]),
            ]);
        }
    }
    let last = &m.spaces[m.spaces.len() - 1];
    parts.figure("manifold", m.spaces.iter().map(risks).collect());
    parts.figure("spiral", m.spaces.iter().map(drawn).collect());
    parts.table("manifold", ["space, target", "network", "bound", "linear", "distance"], rows);
    parts.checks("manifold", m.evidence.clone());
    parts.value("curve_points", m.curve.nrows());
    parts.value("width", m.width);
    parts.value("manifold_steps", m.steps);
    parts.value("first_space", m.spaces[0].dim);
    parts.value("last_space", last.dim);
    parts.value("manifold_sigma", m.sigmas[shown]);
}

fn measured(n: &Numbers, parts: &mut Parts) {
    let m = &n.measured;
    let mut ratios = Vec::new();
    for (k, target) in TARGETS.iter().enumerate() {
        let [known, seen] = &m.ratios[k];
        ratios.push(Series::new(
            format!("_{} known", label(*target)),
            along(&m.sigmas),
            along(known),
            Mark::Line,
            COLOURS[k],
        ));
        ratios.push(Series::new(
            label(*target),
            along(&m.sigmas),
            along(seen),
            Mark::Points,
            COLOURS[k],
        ));
    }
    let rows = m.losses.iter().zip(TARGETS).map(|(l, target)| {
        let digits = |v: f64| format!("{v:.12}");
        vec![
            label(target).to_string(),
            digits(l.weighted[0]),
            digits(l.weighted[1]),
            plain(l.plain[0]),
            plain(l.plain[1]),
            plain(l.cosine),
            plain(l.reread),
        ]
    });
    parts.figure(
        "gradients",
        vec![plot(
            "",
            Axis::log("sigma_over_alpha", "noise level σ/α"),
            Axis::log("ratio", "gradient / gradient of x₀"),
            ratios,
        )],
    );
    parts.table(
        "measured",
        ["loss of", "re-weighted", "its gradient", "plain", "its gradient", "cosine", "re-read"],
        rows,
    );
    parts.checks("measured", m.evidence.clone());
    parts.value("unet_params", m.params);
    parts.value("path_batch", m.batch);
}

fn trained(n: &Numbers, parts: &mut Parts) {
    let t = &n.trained;
    let sigma = || {
        Axis::log("sigma_over_alpha", "noise level σ/α")
            .over(t.sigmas[0], t.sigmas[t.sigmas.len() - 1])
    };
    let mut excess = curves(&t.sigmas, |k| &t.excess[k], Mark::Linked);
    excess.push(Series::new(
        "Wiener filter",
        along(&t.sigmas),
        along(&t.wiener),
        Mark::Dashed,
        MUTED,
    ));
    excess.push(Series::new("least risk", along(&t.sigmas), along(&t.least), Mark::Line, MUTED));
    let largest = t.excess.iter().flatten().copied().fold(1.0, larger);
    let best: Vec<f64> = (0..t.sigmas.len())
        .map(|i| t.excess.iter().map(|e| e[i]).fold(f64::INFINITY, smaller))
        .collect();
    let relative: Vec<Vec<f64>> =
        t.excess.iter().map(|e| e.iter().zip(&best).map(|(e, b)| e / b).collect()).collect();
    let rows = t.sigmas.iter().enumerate().map(|(i, s)| {
        let mut row = vec![format!("σ/α = {}", plain(*s))];
        row.extend(t.excess.iter().chain([&t.wiener, &t.least]).map(|e| short(e[i])));
        row
    });
    let asked = (0..=TARGETS.len()).map(|k| {
        let mut row = vec![
            TARGETS.get(k).map_or("exact optimum".into(), |t| format!("{}-network", label(*t))),
        ];
        row.extend(t.losses.iter().map(|l| match l.excess.get(k) {
            Some(e) => format!("{} (+{} %)", plain(l.least + e), plain(100.0 * e / l.least)),
            None => plain(l.least),
        }));
        row
    });
    parts.figure(
        "trained",
        vec![
            plot(
                "Excess risk",
                sigma(),
                Axis::log("excess_risk", "risk / variance").over(1e-5, 2.0 * largest),
                excess,
            ),
            plot(
                "Over the best of the four",
                sigma(),
                Axis::log("over_best", "excess / best"),
                curves(&t.sigmas, |k| &relative[k], Mark::Linked),
            ),
        ],
    );
    parts.figure(
        "spent",
        vec![plot(
            "",
            sigma(),
            Axis::linear("excess_loss", "excess loss / ln(σ/α)"),
            curves(&t.sigmas, |k| &t.spent[k], Mark::Linked),
        )],
    );
    parts.table("trained", ["", "loss of x₀", "of ε", "of v", "of velocity"], asked);
    parts.table(
        "trained-2",
        ["noise level", "x₀", "ε", "v", "velocity", "Wiener", "least risk"],
        rows,
    );
    parts.checks("trained", t.evidence.clone());
    parts.value("training_steps", t.steps as usize);
    parts.value("training_batch", t.batch);
    parts.value("training_images", t.images);
    parts.value("least_sigma", t.sigmas[0]);
    parts.value("largest_sigma", t.sigmas[t.sigmas.len() - 1]);
}
