//! The chapter on the exact diffusion of the digits, made from the numbers of
//! [`crate::digits_theory::numbers`].

use crate::digits_theory::numbers::{Numbers, Settings, compute};
use ndarray::Array2;
use serde_json::Value;
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie_report::chapter::{
    Parts, Study, along, digits, images, picture, plot, scaled, scientific, settings, states,
};
use tweedie_report::drawing::{Axis, Drawing, Film, Mark, Pictures, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SERIES, VERMILION};

/// The chapter.
pub struct DigitsTheory;

impl Study for DigitsTheory {
    const NAME: &'static str = "digits-theory";
    const ABOUT: &'static str = "the exact diffusion of 1,797 handwritten digits: spectrum, trajectories, emergence, Wiener against empirical, ELBO";
    const SECONDS: [f64; 2] = [9.0, 36.0];
    const TEXT: Editable = source!("digits-theory/text.md");
    const CODE: &'static str = env!("CODE_OF_digits-theory");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        data(n, &mut parts);
        schedules(n, &mut parts);
        film(n, &mut parts);
        trajectory(n, &mut parts);
        emergence(n, &mut parts);
        comparison(n, &mut parts);
        receptive(n, &mut parts);
        elbo(n, &mut parts);
        Ok(parts)
    }
}

fn data(n: &Numbers, parts: &mut Parts) {
    let s = &n.spectrum;
    let rank = s.variances.iter().filter(|v| **v > 0.0).count();
    let half = s.cumulative.iter().position(|c| *c >= 0.5).map_or(0, |k| k + 1);
    let most = s.cumulative.iter().position(|c| *c >= 0.95).map_or(0, |k| k + 1);
    let index = || (1..=rank).map(|k| k as f64);
    let walk = |k: usize| {
        let row = [-2.0, -1.0, 0.0, 1.0, 2.0].map(|a| {
            let scale = a * s.variances[k].sqrt();
            picture(s.mean.iter().zip(s.components.row(k)).map(|(m, u)| m + scale * u), "")
        });
        (format!("component {}", k + 1), row.to_vec())
    };
    let components = s
        .components
        .rows()
        .into_iter()
        .enumerate()
        .map(|(k, u)| picture(u.iter().copied(), plain(s.variances[k])))
        .collect::<Vec<_>>();
    let rows = components
        .chunks(8)
        .enumerate()
        .map(|(i, c)| {
            (
                format!("components {} to {}, variance below each", 8 * i + 1, 8 * i + c.len()),
                c.to_vec(),
            )
        })
        .collect();
    parts.figure("components", vec![digits("", "", vec![], rows, Tone::Diverging)]);
    parts.figure(
        "walks",
        vec![digits(
            "",
            "",
            ["−2 √λ", "−√λ", "mean", "+√λ", "+2 √λ"].map(String::from).to_vec(),
            (0..3).map(walk).collect(),
            Tone::Ink,
        )],
    );
    parts.figure(
        "spectrum",
        vec![
            plot(
                "Spectrum of the covariance",
                Axis::log("k", "component k"),
                Axis::log("variance", "variance λₖ"),
                vec![Series::new("variance", index(), along(&s.variances), Mark::Linked, BLUE)],
            ),
            plot(
                "Share of the variance",
                Axis::linear("k", "first k components").over(0.0, 64.0),
                Axis::linear("cumulative_share", "share").over(0.0, 1.0),
                vec![Series::new("share", index(), along(&s.cumulative), Mark::Linked, BLUE)],
            ),
        ],
    );
    parts.checks("data", s.evidence.clone());
    parts.value("components_of_half", half);
    parts.value("components_of_most", most);
    parts.value("blank_pixels", s.still.len());
    parts.value(
        "blank_places",
        s.still
            .iter()
            .map(|(r, c)| format!("row {}, column {}", r + 1, c + 1))
            .collect::<Vec<_>>()
            .join("; "),
    );
    parts.value("rank", rank);
}

fn schedules(n: &Numbers, parts: &mut Parts) {
    let curves = |of: &[(String, Vec<f64>, Vec<f64>)]| -> Vec<Series> {
        of.iter()
            .enumerate()
            .map(|(k, (name, t, snr))| {
                Series::new(
                    name,
                    along(t),
                    along(snr),
                    if k % 2 == 0 { Mark::Line } else { Mark::Dashed },
                    SERIES[k],
                )
            })
            .collect()
    };
    let rows = n.snr.ends.iter().map(|(name, first, last, alpha, even)| {
        vec![
            name.clone(),
            plain(*first),
            small(*last),
            plain(last.ln()),
            plain(*alpha),
            plain(*even),
        ]
    });
    parts.figure(
        "snr",
        vec![
            plot(
                "Discrete schedules",
                Axis::linear("t_over_T", "t / T").over(0.0, 1.0),
                Axis::log("snr", "SNR"),
                curves(&n.snr.schedules),
            ),
            plot(
                "Continuous paths",
                Axis::linear("t", "t").over(0.0, 1.0),
                Axis::log("snr", "SNR"),
                curves(&n.snr.paths),
            ),
        ],
    );
    parts.table(
        "schedules",
        [
            "schedule",
            "SNR at $t=1$",
            "SNR at $t=T$",
            "log-SNR at $T$",
            "$\\alpha_T$",
            "SNR = 1 at $t/T$",
        ],
        rows,
    );
    parts.checks("schedules", n.snr.evidence.clone());
}

/// A number that may be very small.
fn small(v: f64) -> String {
    if v >= 1e-3 {
        return plain(v);
    }
    scientific(v, 3)
}

fn film(n: &Numbers, parts: &mut Parts) {
    let film = &n.film;
    let frame = |heading: String, k: usize, by: [&Vec<Array2<f64>>; 2]| {
        let row = |x: &Array2<f64>| scaled(x, film.sigmas[k]);
        let rows = vec![
            ("noise added, and the same noise taken away".into(), row(&film.noised[k])),
            ("back under the Gaussian law".into(), row(&by[0][k])),
            ("back under the empirical law".into(), row(&by[1][k])),
        ];
        Pictures {
            title: String::new(),
            heading,
            columns: vec![],
            rows,
            shape: (8, 8),
            tone: Tone::Ink,
        }
    };
    let levels = film.sigmas.len();
    let there = (0..levels)
        .map(|k| frame(format!("forward, σ = {}", plain(film.sigmas[k])), k, [&film.noised; 2]));
    let back = (0..levels).rev().map(|k| {
        frame(format!("backward, σ = {}", plain(film.sigmas[k])), k, [&film.back[0], &film.back[1]])
    });
    let returned = match film.returned {
        0 => "none of the ten comes".to_string(),
        1 => "one of the ten comes".to_string(),
        n => format!("{n} of the ten come"),
    };
    parts.figure("film", vec![Drawing::Film(Film { frames: there.chain(back).collect() })]);
    parts.checks("film", film.evidence.clone());
    parts.value("returned", returned);
    parts.value("last_sigma", film.sigmas[levels - 1]);
}

fn trajectory(n: &Numbers, parts: &mut Parts) {
    let t = &n.trajectories;
    let sigmas = &n.settings.strip_sigmas;
    let state = |x| states(x, sigmas);
    let [gx, gd, ex, ed] = &t.strip;
    parts.figure(
        "strip",
        vec![digits(
            "",
            "noise level σ",
            sigmas.iter().map(|s| plain(*s)).collect(),
            vec![
                ("Gaussian law: state".into(), state(gx)),
                ("Gaussian law: denoiser".into(), images(gd)),
                ("Empirical law: state".into(), state(ex)),
                ("Empirical law: denoiser".into(), images(ed)),
            ],
            Tone::Ink,
        )],
    );
    parts.figure(
        "ends",
        vec![digits(
            "",
            "",
            vec![],
            vec![
                ("Gaussian law".into(), images(&t.ends[0])),
                ("Empirical law".into(), images(&t.ends[1])),
            ],
            Tone::Ink,
        )],
    );
    parts.figure(
        "distance",
        vec![plot(
            "",
            Axis::log("sigma", "noise level σ (sampling runs to the right)")
                .over(t.sigmas[0], t.sigmas[t.sigmas.len() - 1]),
            Axis::linear("relative_distance", "relative distance"),
            vec![
                Series::new(
                    "denoiser D",
                    along(&t.sigmas),
                    along(&t.denoiser_distance),
                    Mark::Line,
                    VERMILION,
                ),
                Series::new(
                    "state x",
                    along(&t.sigmas),
                    along(&t.state_distance),
                    Mark::Dashed,
                    BLUE,
                ),
            ],
        )],
    );
    parts.checks("trajectory", t.evidence.clone());
}

fn emergence(n: &Numbers, parts: &mut Parts) {
    let e = &n.emergence;
    let colours = [BLUE, VERMILION, GREEN, PURPLE, ORANGE];
    let mut curves = Vec::new();
    for (i, (k, exact, measured)) in e.curves.iter().enumerate() {
        let colour = colours[i % colours.len()];
        curves.push(Series::new(
            format!("k = {k}"),
            along(&e.sigmas),
            along(exact),
            Mark::Line,
            colour,
        ));
        curves.push(Series::new(
            format!("_k = {k}, empirical"),
            along(&e.sigmas),
            along(measured),
            Mark::Points,
            colour,
        ));
    }
    parts.figure(
        "emergence",
        vec![
            plot(
                "Share of the final size",
                Axis::log("sigma", "noise level σ").over(e.sigmas[0], e.sigmas[e.sigmas.len() - 1]),
                Axis::linear("share", "share").over(0.0, 1.1),
                curves,
            ),
            plot(
                "Level at which half is reached",
                Axis::log("std", "standard deviation √λₖ"),
                Axis::log("emergence_sigma", "σ*"),
                vec![
                    Series::new("√(3 λ)", along(&e.std), along(&e.predicted), Mark::Line, INK),
                    Series::new(
                        "empirical law",
                        along(&e.std),
                        along(&e.measured),
                        Mark::Points,
                        BLUE,
                    ),
                ],
            ),
        ],
    );
    parts.checks("emergence", e.evidence.clone());
}

fn comparison(n: &Numbers, parts: &mut Parts) {
    let c = &n.comparison;
    let fractions = |pick: fn(&crate::digits_theory::numbers::Compared) -> &[Vec<f64>; 3],
                     baseline: bool| {
        let [train, test] = [pick(&c.on[0]), pick(&c.on[1])];
        let mut all = vec![
            Series::new(
                "Gaussian, digits it knows",
                along(&c.sigmas),
                along(&train[0]),
                Mark::Line,
                BLUE,
            ),
            Series::new(
                "Gaussian, held out",
                along(&c.sigmas),
                along(&test[0]),
                Mark::Dashed,
                VERMILION,
            ),
            Series::new(
                "isotropic, held out",
                along(&c.sigmas),
                along(&test[1]),
                Mark::Dashed,
                GREEN,
            ),
        ];
        if baseline {
            all.push(Series::new(
                "mean alone, held out",
                along(&c.sigmas),
                along(&test[2]),
                Mark::Dashed,
                PURPLE,
            ));
        }
        all
    };
    let sigma =
        || Axis::log("sigma", "noise level σ").over(c.sigmas[0], c.sigmas[c.sigmas.len() - 1]);
    let fraction = |label: &str| Axis::linear("fraction_explained", label).over(-0.2, 1.0);
    parts.figure(
        "explained",
        vec![
            plot("Score", sigma(), fraction("fraction explained"), fractions(|c| &c.score, true)),
            plot(
                "Denoiser",
                sigma(),
                fraction("fraction explained"),
                fractions(|c| &c.denoiser, false),
            ),
        ],
    );
    parts.figure(
        "error",
        vec![plot(
            "",
            sigma(),
            Axis::log("mean_squared_error", "mean squared error per pixel").over(1e-5, 1.0),
            vec![
                Series::new(
                    "empirical, digits it knows",
                    along(&c.sigmas),
                    along(&c.on[0].error[1]),
                    Mark::Line,
                    BLUE,
                ),
                Series::new(
                    "empirical, held out",
                    along(&c.sigmas),
                    along(&c.on[1].error[1]),
                    Mark::Dashed,
                    BLUE,
                ),
                Series::new(
                    "Wiener, digits it knows",
                    along(&c.sigmas),
                    along(&c.on[0].error[0]),
                    Mark::Line,
                    VERMILION,
                ),
                Series::new(
                    "Wiener, held out",
                    along(&c.sigmas),
                    along(&c.on[1].error[0]),
                    Mark::Dashed,
                    VERMILION,
                ),
                Series::new(
                    "Wiener, closed form",
                    along(&c.sigmas),
                    along(&c.wiener_error),
                    Mark::Points,
                    MUTED,
                ),
            ],
        )],
    );
    parts.checks("comparison", c.evidence.clone());
    parts.value("training_digits", c.sizes[0]);
    parts.value("held_out_digits", c.sizes[1]);
}

fn receptive(n: &Numbers, parts: &mut Parts) {
    let r = &n.receptive;
    let mut columns = vec!["σ → 0".to_string()];
    columns.extend(n.settings.receptive_sigmas.iter().map(|s| plain(*s)));
    columns.push("σ → ∞".into());
    let rows = r.rows.iter().map(|([row, column], fields)| {
        let pictures = fields
            .iter()
            .map(|f| picture(f.iter().copied(), plain(f.iter().map(|v| v.abs()).fold(0.0, larger))))
            .collect();
        (format!("pixel in row {}, column {}", row + 1, column + 1), pictures)
    });
    parts.figure(
        "receptive",
        vec![digits("", "noise level σ", columns, rows.collect(), Tone::Diverging)],
    );
    parts.figure(
        "receptive-size",
        vec![plot(
            "",
            Axis::log("sigma", "noise level σ").over(r.sigmas[0], r.sigmas[r.sigmas.len() - 1]),
            Axis::linear("effective_pixels", "pixels read"),
            r.rows
                .iter()
                .zip(&r.sizes)
                .enumerate()
                .map(|(k, (([row, column], _), sizes))| {
                    Series::new(
                        format!("row {}, column {}", row + 1, column + 1),
                        along(&r.sigmas),
                        along(sizes),
                        if k == 1 { Mark::Dashed } else { Mark::Line },
                        SERIES[k % SERIES.len()],
                    )
                })
                .collect(),
        )],
    );
    parts.checks("receptive", r.evidence.clone());
}

fn elbo(n: &Numbers, parts: &mut Parts) {
    let e = &n.elbo;
    let at = |from: usize| (from..=e.steps).map(|t| t as f64 / e.steps as f64);
    let time = || Axis::linear("t_over_T", "t / T").over(0.0, 1.0);
    let colours = [BLUE, VERMILION];
    let terms = e
        .terms
        .iter()
        .zip(colours)
        .map(|((name, bits), c)| Series::new(name, at(2), along(&bits[1..]), Mark::Line, c))
        .collect();
    let mut running: Vec<Series> = e
        .running
        .iter()
        .zip(colours)
        .map(|((name, bits), c)| Series::new(name, at(1), along(bits), Mark::Line, c))
        .collect();
    running.push(Series::new("entropy", [0.0, 1.0], [e.entropy[1]; 2], Mark::Dashed, MUTED));
    let excess = e.excess.iter().enumerate().map(|(k, (name, variance, bits))| {
        Series::new(
            format!("{name}, {variance}"),
            at(2),
            along(bits),
            if *variance == "beta" { Mark::Dashed } else { Mark::Line },
            colours[k / 2 % 2],
        )
    });
    let lost = e.lost.iter().filter(|l| l.0 != "optimal").zip(colours).map(
        |((variance, steps, nats), c)| {
            Series::new(variance, along(steps), along(nats), Mark::Linked, c)
        },
    );
    let last = |name: &str| {
        e.lost.iter().find(|l| l.0 == name).and_then(|l| l.2.last().copied()).unwrap_or(f64::NAN)
    };
    let nats = |v: f64| format!("{v:.3}").replace('-', "−");
    let rows = e.totals.iter().map(
        |(schedule, variance, [prior, transitions, reconstruction, whole, bits, over])| {
            let fixed = [*transitions, *reconstruction, *whole].map(nats);
            let mut row = vec![format!("{schedule}, {variance}"), small(*prior)];
            row.extend(fixed);
            row.extend([format!("{bits:.4}"), small(*over)]);
            row
        },
    );
    parts.figure(
        "elbo-terms",
        vec![
            plot("Transitions", time(), Axis::log("bits_per_dim", "bits/dim a step"), terms),
            plot("Running sum", time(), Axis::linear("bits_per_dim", "bits/dim"), running),
        ],
    );
    parts.figure(
        "elbo-variances",
        vec![
            plot(
                "Excess of a transition",
                time(),
                Axis::log("excess_bits_per_dim", "bits/dim a step"),
                excess.collect(),
            ),
            plot(
                "Excess of the bound, cosine",
                Axis::log("steps", "number of steps"),
                Axis::log("nats", "nats"),
                lost.collect(),
            ),
        ],
    );
    parts.table(
        "elbo",
        [
            "schedule, variance",
            "prior",
            "transitions",
            "reconstruction",
            "bound",
            "bits/dim",
            "over entropy",
        ],
        rows,
    );
    parts.checks("elbo", e.evidence.clone());
    parts.value("entropy_nats", e.entropy[0]);
    parts.value("entropy_bits", e.entropy[1]);
    parts.value("lost_by_beta", last("beta"));
    parts.value("lost_by_posterior", last("posterior"));
}
