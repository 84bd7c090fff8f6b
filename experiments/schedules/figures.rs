//! What the chapter on noise schedules shows of its numbers.

use crate::schedules::numbers::levels::Curve;
use crate::schedules::numbers::{Numbers, Settings, compute};
use serde_json::Value;
use std::collections::BTreeMap;
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie_report::chapter::{
    Parts, Study, along, percent, picture, plot, settings, short, thousands,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// The chapter.
pub struct Schedules;

impl Study for Schedules {
    const NAME: &'static str = "schedules";
    const ABOUT: &'static str = "noise levels and time, terminal SNR and brightness, single steps, grids, resolution, learned schedules";
    const SECONDS: [f64; 2] = [1.0, 4.0];
    const TEXT: Editable = source!("schedules/text.md");
    const CODE: &'static str = env!("CODE_OF_schedules");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        levels(n, &mut parts);
        terminal(n, &mut parts);
        steps(n, &mut parts);
        grids(n, &mut parts);
        learned(n, &mut parts);
        Ok(parts)
    }
}

const COLOURS: [Colour; 6] = [BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY];

fn curves(of: &[Curve], pick: &dyn Fn(&Curve) -> Vec<(f64, f64)>) -> Vec<Series> {
    of.iter()
        .enumerate()
        .map(|(k, c)| {
            let points = pick(c);
            let mark = if k % 2 == 0 { Mark::Line } else { Mark::Dashed };
            Series::new(
                &c.name,
                points.iter().map(|p| p.0),
                points.iter().map(|p| p.1),
                mark,
                COLOURS[k % COLOURS.len()],
            )
        })
        .collect()
}

/// Pictures of photographs, which are stored light.
fn light(values: &[f64], note: impl ToString) -> Picture {
    picture(values.iter().map(|v| -v), note)
}

fn rows_of(columns: Vec<String>, rows: Vec<(String, Vec<Picture>)>, side: usize) -> Drawing {
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: String::new(),
        columns,
        rows,
        shape: (side, side),
        tone: Tone::Ink,
    })
}

fn levels(n: &Numbers, parts: &mut Parts) {
    let l = &n.levels;
    let time = || Axis::linear("t", "t / T").over(0.0, 1.0);
    let log_snr = || Axis::linear("log_snr", "log-SNR").over(-12.0, 12.0);
    let across = || Axis::linear("log_snr", "log-SNR (data on the right)").over(-12.0, 12.0);
    let share = || Axis::linear("share", "share of the time per unit").over(0.0, 0.35);
    let curve = |c: &Curve| c.log_snr.clone();
    let spent = |c: &Curve| c.time.clone();
    parts.figure(
        "log-snr",
        vec![
            plot("Tables", time(), log_snr(), curves(&l.tables, &curve)),
            plot("Paths", time(), log_snr(), curves(&l.paths, &curve)),
            plot("Tables: time at each level", across(), share(), curves(&l.tables, &spent)),
            plot("Paths: time at each level", across(), share(), curves(&l.paths, &spent)),
        ],
    );
    let strips = l
        .strips
        .iter()
        .map(|(name, row)| (name.clone(), row.iter().map(|v| light(v, "")).collect()))
        .collect();
    let times = n.settings.strip.iter().map(|t| format!("t = {}", plain(*t))).collect();
    parts.figure("strips", vec![rows_of(times, strips, l.side)]);

    let kinds = [(&l.tables, "table"), (&l.paths, "path")];
    let all = kinds.iter().flat_map(|(curves, kind)| curves.iter().map(move |c| (c, kind)));
    let rows = all.map(|(c, kind)| vec![format!("{}, {kind}", c.name), percent(c.middle)]);
    parts.table("middle", ["schedule", "share"], rows);
    let middle = |of: &[Curve]| -> BTreeMap<String, f64> {
        of.iter().map(|c| (c.name.clone(), c.middle)).collect()
    };
    parts.value("middle_of_tables", middle(&l.tables));
    parts.value("middle_of_paths", middle(&l.paths));
    parts.checks("levels", l.evidence.clone());
}

fn terminal(n: &Numbers, parts: &mut Parts) {
    let t = &n.terminal;
    let sides: Vec<f64> = n.settings.sides.iter().map(|s| *s as f64).collect();
    let side = n.settings.sides.iter().position(|s| *s == n.settings.drawn_side).unwrap_or(0);
    let of = |k: usize| -> Vec<Series> {
        t.ends
            .iter()
            .enumerate()
            .map(|(i, e)| {
                let mark = if i % 2 == 0 { Mark::Linked } else { Mark::Dashed };
                Series::new(
                    &e.name,
                    along(&sides),
                    e.kept[k].iter().map(|v| 100.0 * v),
                    mark,
                    COLOURS[i],
                )
            })
            .collect()
    };
    let pictures = t
        .pictures
        .iter()
        .map(|(name, row)| (name.clone(), row.iter().map(|v| light(v, "")).collect()))
        .collect();
    let table = t.ends.iter().map(|e| {
        vec![
            e.name.clone(),
            short(e.snr),
            short(e.alpha),
            short(e.kl),
            percent(e.kept[0][side]),
            percent(e.kept[1][side]),
        ]
    });
    let plot_of = |title: &str, k: usize| {
        plot(
            title,
            Axis::log("side", "side of the picture, pixels"),
            Axis::linear("percent", "brightness's deviation kept, %").over(0.0, 105.0),
            of(k),
        )
    };
    let deviations = t.deviations.iter().map(|z| format!("{} std", plain(*z))).collect();
    parts.figure("brightness", vec![rows_of(deviations, pictures, n.levels.side)]);
    parts.figure("reach", vec![plot_of("Deterministic", 0), plot_of("Stochastic", 1)]);
    let head = ["schedule", "SNR(T)", "$\\alpha_T$", "KL", "kept, flow", "kept, SDE"];
    parts.table("ends", head, table);
    let kept: BTreeMap<&str, [f64; 2]> =
        t.ends.iter().map(|e| (e.name.as_str(), [e.kept[0][side], e.kept[1][side]])).collect();
    parts.value("kept", kept);
    let largest = t.ends.iter().find(|e| e.name == "scaled-linear").and_then(|e| e.kept[0].last());
    parts.value("kept_at_the_largest", largest);
    parts.value("patches", t.patches);
    parts.value("brightness", t.brightness);
    parts.checks("terminal", t.evidence.clone());
}

fn steps(n: &Numbers, parts: &mut Parts) {
    let s = &n.steps;
    let walks =
        s.walks.iter().zip(["Unit steps, from 0", "Variance-preserving steps, from −3 and 3"]).map(
            |(w, title)| {
                let mut series = Vec::new();
                for (k, path) in w.paths.iter().enumerate() {
                    series.push(Series::new(
                        format!("_path {}", k + 1),
                        along(&w.t),
                        along(path),
                        Mark::Line,
                        [BLUE, VERMILION][k % w.tubes.len().max(1)],
                    ));
                }
                for (k, tube) in w.tubes.iter().enumerate() {
                    for side in tube {
                        series.push(Series::new(
                            format!("_mean and two deviations, start {}", k + 1),
                            along(&w.t),
                            along(side),
                            Mark::Dashed,
                            INK,
                        ));
                    }
                }
                plot(title, Axis::linear("t", "step t"), Axis::linear("x", "state"), series)
            },
        );
    let mut densities: Vec<Series> = s
        .reverse
        .iter()
        .zip([BLUE, GREEN, VERMILION])
        .map(|((width, curve), colour)| {
            Series::new(
                format!("step of {}", plain(*width)),
                curve.iter().map(|p| p.0),
                curve.iter().map(|p| p.1),
                Mark::Line,
                colour,
            )
        })
        .collect();
    let normal = |z: f64| (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    let z: Vec<f64> = (-80..=80).map(|k| f64::from(k) / 20.0).collect();
    densities.push(Series::new(
        "Gaussian",
        along(&z),
        z.iter().map(|z| normal(*z)),
        Mark::Dashed,
        INK,
    ));
    let first = s.divergence[0];
    let divergence = vec![
        Series::new(
            "mixture",
            s.divergence.iter().map(|d| d.0),
            s.divergence.iter().map(|d| d.1),
            Mark::Linked,
            BLUE,
        ),
        Series::new(
            "third power",
            s.divergence.iter().map(|d| d.0),
            s.divergence.iter().map(|d| first.1 * (d.0 / first.0).powi(3)),
            Mark::Dashed,
            MUTED,
        ),
    ];
    let vector = |x: &[f64]| {
        format!(
            "({})",
            x.iter().map(|v| format!("{v:.2}").replace('-', "−")).collect::<Vec<_>>().join(", ")
        )
    };
    let example = s.example.iter().enumerate().map(|(t, (x, norm))| {
        let printed =
            if t == 0 { n.settings.example_start } else { n.settings.example_printed[t - 1] };
        vec![
            format!("$x_{t}$"),
            vector(x),
            vector(&printed),
            format!("{norm:.2}"),
            format!("{:.2}", n.settings.example_norms[t]),
        ]
    });
    let wrong = s
        .example
        .iter()
        .zip(&n.settings.example_norms)
        .filter(|((_, norm), printed)| (norm - **printed).abs() > 0.005 + 1e-12)
        .count();
    let off: Vec<f64> = s.example[1..]
        .iter()
        .zip(&n.settings.example_printed)
        .map(|((x, _), printed)| {
            x.iter().zip(printed).map(|(a, b)| (a - b).abs()).fold(0.0, larger)
        })
        .collect();
    // Half a unit of the last decimal, and what rounding adds.
    let states = off.iter().filter(|v| **v > 0.005 + 1e-12).count();
    let worst = off.iter().copied().fold(0.0, larger);
    parts.figure("walks", walks.collect());
    let head = ["state", "computed", "printed", "norm", "norm printed"];
    parts.table("example", head, example);
    parts.value("wrong_norms", wrong);
    parts.value("wrong_states", states);
    parts.value("worst_state", (worst * 100.0).round() / 100.0);
    parts.figure(
        "reverse",
        vec![
            plot(
                "One reverse step",
                Axis::linear("z", "(xₛ − mean) / deviation").over(-4.0, 4.0),
                Axis::linear("density", "density"),
                densities,
            ),
            plot(
                "Divergence",
                Axis::log("width", "step in log-SNR"),
                Axis::log("nats", "nats"),
                divergence,
            ),
        ],
    );
    parts.checks("steps", s.evidence.clone());
}

fn grids(n: &Numbers, parts: &mut Parts) {
    let g = &n.grids;
    let plots = g.samplers.iter().map(|(title, ladders)| {
        let series = ladders.iter().enumerate().map(|(k, l)| {
            Series::new(
                &l.name,
                along(&g.steps),
                l.w2.iter().map(|v| 100.0 * v),
                Mark::Linked,
                COLOURS[k % COLOURS.len()],
            )
        });
        plot(
            title,
            Axis::log("steps", "steps"),
            Axis::log("w2_percent", "W₂, % of the deviation"),
            series.collect(),
        )
    });
    let columns: Vec<String> =
        n.settings.resolution_sigmas.iter().map(|s| format!("σ = {}", plain(*s))).collect();
    let row = |k: usize| -> Vec<Picture> { g.pictures[k].iter().map(|v| light(v, "")).collect() };
    let [large, small] = g.sides;
    let factor = n.settings.factor;
    parts.figure("grids", plots.collect());
    parts.figure(
        "resolution",
        vec![
            rows_of(columns.clone(), vec![(format!("{large} × {large}, noise σ"), row(0))], large),
            rows_of(
                columns,
                vec![
                    (format!("the same, averaged to {small} × {small}"), row(1)),
                    (format!("{small} × {small}, noise σ"), row(2)),
                    (format!("{small} × {small}, noise σ/{factor}"), row(3)),
                ],
                small,
            ),
        ],
    );
    let shown = g.steps.len() / 2 - 1;
    let off: Vec<BTreeMap<&str, f64>> = g
        .samplers
        .iter()
        .map(|(_, ladders)| ladders.iter().map(|l| (l.name.as_str(), l.w2[shown])).collect())
        .collect();
    let best = |k: usize| {
        let ladders = &g.samplers[k].1;
        ladders
            .iter()
            .min_by(|a, b| a.w2[shown].total_cmp(&b.w2[shown]))
            .map_or("", |l| l.name.as_str())
    };
    parts.value("steps", g.steps[shown] as usize);
    parts.value("best", [best(0), best(1)]);
    parts.value("off", off);
    parts.value("sides", g.sides);
    parts.checks("grids", g.evidence.clone());
}

fn learned(n: &Numbers, parts: &mut Parts) {
    let l = &n.learned;
    let colours = [BLUE, VERMILION, GREEN, PURPLE, INK];
    let densities = l.drawn.iter().zip(colours).map(|(d, colour)| {
        let mark = if d.name == "the best" { Mark::Dashed } else { Mark::Line };
        Series::new(&d.name, along(&l.log_snrs), along(&d.density), mark, colour)
    });
    let mut running: Vec<Series> = l
        .drawn
        .iter()
        .zip(colours)
        .map(|(d, colour)| {
            let mark = if d.name == "the best" { Mark::Dashed } else { Mark::Line };
            Series::new(
                &d.name,
                d.running.iter().map(|r| r.0),
                d.running.iter().map(|r| r.1),
                mark,
                colour,
            )
        })
        .collect();
    let most = l.drawn.first().and_then(|d| d.running.last()).map_or(1.0, |r| r.0);
    running.push(Series::new("_the bound", [1.0, most], [1.0, 1.0], Mark::Dashed, MUTED));
    let rows = l.drawn.iter().map(|d| {
        vec![
            d.name.to_string(),
            short(d.deviation),
            thousands((d.deviation / 0.01).powi(2).ceil() as usize),
        ]
    });
    let [from, to] = n.settings.log_snr;
    parts.figure(
        "learned",
        vec![
            plot(
                "Density of the draws",
                Axis::linear("log_snr", "log-SNR (data on the right)").over(from, to),
                Axis::linear("density", "density").over(0.0, 0.4),
                densities.collect(),
            ),
            plot(
                "Running mean",
                Axis::log("draws", "draws"),
                Axis::linear("mean_over_bound", "mean / bound").over(0.0, 2.0),
                running,
            ),
        ],
    );
    parts.table("draws", ["schedule", "deviation", "draws for 1 %"], rows);
    parts.value("bound", l.bound);
    let deviation: BTreeMap<&str, f64> =
        l.drawn.iter().map(|d| (d.name.as_str(), d.deviation)).collect();
    parts.value("deviation", deviation);
    parts.checks("learned", l.evidence.clone());
}
