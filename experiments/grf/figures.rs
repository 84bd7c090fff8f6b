//! The chapter on a network trained on a Gaussian random field, made from the numbers of
//! [`crate::grf::numbers`].

use crate::grf::numbers::{Numbers, Settings, compute};
use ndarray::Array2;
use serde_json::Value;
use tweedie::error::Result;
use tweedie::math::{larger, smaller};
use tweedie_report::chapter::{Parts, Study, along, percent, picture, plot, settings};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, INK, MUTED, SERIES, VERMILION};

/// The chapter.
pub struct Grf;

impl Study for Grf {
    const NAME: &'static str = "grf";
    const ABOUT: &'static str = "a U-Net trained on Gaussian random fields: its excess risk and its samples' spectrum, against the exact law";
    const SECONDS: [f64; 2] = [46.0, 670.0];
    const TEXT: Editable = source!("grf/text.md");
    const CODE: &'static str = env!("CODE_OF_grf");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        parts.value("height", n.grid.0);
        parts.value("width", n.grid.1);
        denoiser(n, &mut parts);
        samples(n, &mut parts);
        Ok(parts)
    }
}

/// A frequency as it is drawn.
fn band(n: &Numbers, b: usize) -> String {
    format!("{} cycles/px", plain((n.bands.frequencies[b] * 1e3).round() / 1e3))
}

fn pictures(n: &Numbers, title: &str, rows: Vec<(String, Vec<Picture>)>, tone: Tone) -> Drawing {
    let (h, w) = n.grid;
    Drawing::Pictures(Pictures {
        title: title.into(),
        heading: String::new(),
        columns: vec![],
        rows,
        shape: (w, h),
        tone,
    })
}

fn denoiser(n: &Numbers, parts: &mut Parts) {
    let j = &n.judged;
    let sigma =
        || Axis::log("sigma", "noise level σ").over(j.sigmas[0], j.sigmas[j.sigmas.len() - 1]);
    let of = |pick: &dyn Fn(usize) -> f64| (0..j.sigmas.len()).map(pick).collect::<Vec<f64>>();
    let (excess, error) = (of(&|i| j.excess[i][0]), of(&|i| j.excess[i][1]));
    let total = vec![
        Series::new("least risk, exact", along(&j.sigmas), along(&j.least), Mark::Line, MUTED),
        Series::new("excess of the network", along(&j.sigmas), along(&excess), Mark::Linked, BLUE),
        Series::new(
            "_excess, upper",
            along(&j.sigmas),
            excess.iter().zip(&error).map(|(e, s)| e + 2.0 * s),
            Mark::Dashed,
            BLUE,
        ),
        Series::new(
            "_excess, lower",
            along(&j.sigmas),
            excess.iter().zip(&error).map(|(e, s)| e - 2.0 * s),
            Mark::Dashed,
            BLUE,
        ),
    ];
    let bands = (0..n.bands.count())
        .map(|b| {
            Series::new(
                band(n, b),
                along(&j.sigmas),
                j.by_band[b].iter().map(|v| v[0]),
                Mark::Linked,
                SERIES[b % SERIES.len()],
            )
        })
        .collect();
    let steps: Vec<f64> = n.learning.iter().map(|l| l.0 as f64 + 1.0).collect();
    let learning = (0..n.bands.count())
        .map(|b| {
            Series::new(
                band(n, b),
                along(&steps),
                n.learning.iter().map(|l| l.1[b]),
                Mark::Linked,
                SERIES[b % SERIES.len()],
            )
        })
        .collect();
    // Every other level, each picture on its own scale.
    let pixels: Vec<Picture> = j
        .by_pixel
        .iter()
        .step_by(2)
        .map(|of| {
            let largest = of.iter().copied().fold(0.0, larger);
            picture(of.iter().map(|v| 2.0 * v / largest - 1.0), percent(largest))
        })
        .collect();
    let columns = j.sigmas.iter().step_by(2).map(|s| plain(*s)).collect();
    let rows = j.sigmas.iter().enumerate().map(|(i, s)| {
        let mut row = vec![format!("σ = {}", plain(*s)), plain(j.least[i])];
        row.push(format!(
            "{:.4} ± {:.4} %",
            100.0 * excess[i] / j.least[i],
            100.0 * error[i] / j.least[i]
        ));
        row.extend([0, n.bands.count() - 1].map(|b| percent(j.by_band[b][i][0])));
        row
    });
    let sigma_data = n.settings.train.objective.sigma_data;
    parts.figure(
        "excess",
        vec![
            plot("Risk a pixel", sigma(), Axis::log("risk", "mean squared error"), total),
            plot(
                "Excess over the least risk, by band",
                sigma(),
                Axis::log("excess_over_least", "excess / least"),
                bands,
            ),
        ],
    );
    parts.figure(
        "learning",
        vec![plot(
            "",
            Axis::log("step_plus_1", "step + 1"),
            Axis::log("excess_over_least", "excess / least"),
            learning,
        )],
    );
    parts.figure(
        "border",
        vec![Drawing::Pictures(Pictures {
            title: String::new(),
            heading: "noise level σ".into(),
            columns,
            rows: vec![(String::new(), pixels)],
            shape: (n.grid.1, n.grid.0),
            tone: Tone::Ink,
        })],
    );
    parts.table("denoiser", ["noise", "least risk", "excess", "coarsest", "finest"], rows);
    parts.checks("denoiser", n.evidence[0].clone());
    parts.value("slope", n.settings.train.data.random_field.as_ref().map_or(f64::NAN, |f| f.slope));
    parts.value("params", n.params);
    parts.value("steps", n.steps as usize);
    parts.value("draws", n.draws);
    parts.value("sigma_data", sigma_data);
}

fn samples(n: &Numbers, parts: &mut Parts) {
    let s = &n.samples;
    let at = &n.bands.frequencies;
    let frequency = || Axis::log("frequency", "frequency, cycles a pixel");
    let spectrum =
        |of: &[[f64; 2]]| s.truth.iter().zip(of).map(|(t, v)| t * v[0]).collect::<Vec<f64>>();
    let (by_network, by_exact) = (spectrum(&s.network), spectrum(&s.exact));
    let mut ratios = vec![
        Series::new("truth", [at[0], at[at.len() - 1]], [1.0, 1.0], Mark::Dashed, MUTED),
        Series::new("method, closed form", along(at), along(&s.method), Mark::Line, INK),
    ];
    for (name, of, colour) in
        [("exact denoiser", &s.exact, VERMILION), ("network", &s.network, BLUE)]
    {
        ratios.push(Series::new(name, along(at), of.iter().map(|v| v[0]), Mark::Linked, colour));
        for sign in [-2.0, 2.0] {
            let edge = of.iter().map(|v| v[0] + sign * v[1]);
            ratios.push(Series::new(
                format!("_{name}, {sign} standard errors"),
                along(at),
                edge,
                Mark::Dashed,
                colour,
            ));
        }
    }
    let off: Vec<f64> =
        s.network.iter().zip(&s.exact).map(|(n, e)| (n[0] / e[0] - 1.0).abs()).collect();
    let tone = |x: &Array2<f64>| -> Vec<Picture> {
        x.rows().into_iter().map(|r| picture(r.iter().map(|v| v / 3.0), "")).collect()
    };
    let rows = (0..n.bands.count()).map(|b| {
        let pair = |v: [f64; 2]| format!("{:.3} ± {:.3}", v[0], v[1]);
        vec![
            band(n, b),
            plain(s.truth[b]),
            format!("{:.3}", s.method[b]),
            pair(s.exact[b]),
            pair(s.network[b]),
            format!("{:.1} %", 100.0 * s.apart[b].sqrt()),
        ]
    });
    parts.figure(
        "samples",
        vec![pictures(
            n,
            "",
            vec![
                ("exact denoiser".into(), tone(&s.pictures[0])),
                ("network".into(), tone(&s.pictures[1])),
            ],
            Tone::Ink,
        )],
    );
    parts.figure(
        "spectrum",
        vec![
            plot(
                "Spectrum",
                frequency(),
                Axis::log("variance", "variance of a mode"),
                vec![
                    Series::new("truth", along(at), along(&s.truth), Mark::Line, MUTED),
                    Series::new(
                        "exact denoiser",
                        along(at),
                        along(&by_exact),
                        Mark::Points,
                        VERMILION,
                    ),
                    Series::new("network", along(at), along(&by_network), Mark::Points, BLUE),
                ],
            ),
            plot("Over the truth", frequency(), Axis::linear("ratio", "variance / truth"), ratios),
        ],
    );
    parts.table(
        "samples",
        ["band", "variance", "method", "exact denoiser", "network", "distance"],
        rows,
    );
    parts.checks("samples", n.evidence[1].clone());
    parts.value("evaluations", s.nfe);
    parts.value("samples", s.count);
    parts.value(
        "largest_excess",
        n.judged.excess.iter().zip(&n.judged.least).map(|(e, l)| e[0] / l).fold(0.0, larger),
    );
    parts.value("least_off", off.iter().copied().fold(f64::INFINITY, smaller));
    parts.value("largest_off", off.iter().copied().fold(0.0, larger));
    parts.value("rms_apart", (s.apart.iter().sum::<f64>() / s.apart.len() as f64).sqrt());
}
