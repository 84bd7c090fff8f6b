//! The chapter on samplers, made from the numbers of [`crate::samplers::numbers`].

use crate::samplers::numbers::{Comparison, Numbers, Produced, Settings, compute};
use serde_json::Value;
use std::collections::BTreeMap;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::math::smaller;
use tweedie::number::{Number, json};
use tweedie::sample::certify::{Certificate, Measure, Study};
use tweedie_report::chapter::{self, Parts, along, plot, scientific, settings, short};
use tweedie_report::drawing::{Axis, Drawing, Mark, Plot, Series, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::ledger::csv;
use tweedie_report::page::File;
use tweedie_report::style::{
    BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SERIES, SKY, VERMILION,
};

/// The chapter.
pub struct Samplers;

impl chapter::Study for Samplers {
    const NAME: &'static str = "samplers";
    const ABOUT: &'static str = "what few steps cost, exactly: DDPM, DDIM, DPM-Solver, Heun, students; measured orders; work against precision";
    const SECONDS: [f64; 2] = [15.0, 60.0];
    const TEXT: Editable = source!("samplers/text.md");
    const CODE: &'static str = env!("CODE_OF_samplers");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        propagation(n, &mut parts);
        headline(n, &mut parts);
        few(n, &mut parts);
        precision(n, &mut parts);
        orders(n, &mut parts);
        Ok(parts)
    }
}

fn file(name: &str, about: &str, content: Vec<u8>) -> File {
    File { name: name.into(), about: about.into(), content }
}

fn headline_csv(n: &Numbers) -> Vec<u8> {
    let rows = n.spectra.iter().flat_map(|c| c.rows.iter().map(move |r| (&c.name, r)));
    csv(
        &["data", "sampler", "nfe", "w2_over_std", "bias_over_std", "variance_kept"],
        rows.map(|(data, r)| {
            let numbers = [r.w2(), r.bias(), r.variance_kept()].map(|v| Number(v).to_string());
            [data.to_owned(), r.name.clone(), r.nfe.to_string()]
                .into_iter()
                .chain(numbers)
                .collect()
        }),
    )
}

fn laws_csv(n: &Numbers) -> Vec<u8> {
    let rows = n.spectra.iter().flat_map(|c| {
        c.rows
            .iter()
            .flat_map(move |r| r.modes.iter().enumerate().map(move |(k, m)| (&c.name, r, k, m)))
    });
    csv(
        &["data", "sampler", "nfe", "k", "variance", "mean_err", "variance_produced"],
        rows.map(|(data, r, k, m)| {
            let numbers = [m.lambda, m.mean_err, m.var].map(|v| Number(v).to_string());
            [data.to_owned(), r.name.clone(), r.nfe.to_string(), (k + 1).to_string()]
                .into_iter()
                .chain(numbers)
                .collect()
        }),
    )
}

fn certificates_csv(n: &Numbers) -> Vec<u8> {
    let rows = n.certificates.iter().flat_map(|c| {
        c.studies().into_iter().flat_map(move |(law, s)| s.runs.iter().map(move |r| (c, law, r)))
    });
    csv(
        &["sampler", "declared", "law", "steps", "nfe", "error", "stderr"],
        rows.map(|(c, law, r)| {
            let declared = c.declared.map_or(String::new(), |p| p.to_string());
            let numbers = [r.error, r.stderr].map(|v| Number(v).to_string());
            [c.sampler.clone(), declared, law.to_owned(), r.steps.to_string(), r.nfe.to_string()]
                .into_iter()
                .chain(numbers)
                .collect()
        }),
    )
}

/// With a capital, for titles.
fn titled(c: &Comparison) -> String {
    c.name[..1].to_uppercase() + &c.name[1..]
}

/// A share as percent, to three digits, four from 100 on.
fn in_percent(share: f64) -> String {
    match 100.0 * share {
        v if v >= 10.0 => format!("{v:.1}"),
        v if v >= 1.0 => format!("{v:.2}"),
        v => plain((v * 1e3).round() / 1e3),
    }
}

fn row<'a>(c: &'a Comparison, name: &str) -> Option<&'a Produced> {
    c.rows.iter().find(|r| r.name.starts_with(name))
}

/// W2 of a row, in percent.
/// Error of a law, as a share.
fn share(of: Option<&Produced>) -> f64 {
    of.map_or(f64::NAN, Produced::w2)
}

fn propagation(n: &Numbers, parts: &mut Parts) {
    let spectra = n.spectra.iter().zip([BLUE, VERMILION]).map(|(c, colour)| {
        let total: f64 = c.variances.iter().sum();
        let index = (1..=c.variances.len()).map(|k| k as f64);
        Series::new(&c.name, index, c.variances.iter().map(move |v| v / total), Mark::Line, colour)
    });
    let side = n.settings.patch;
    parts.figure(
        "spectra",
        vec![plot(
            "",
            Axis::log("k", "component k"),
            Axis::log("share", "share of the variance"),
            spectra.collect(),
        )],
    );
    parts.value("side", side);
}

fn headline(n: &Numbers, parts: &mut Parts) {
    let [digits, photographs] = &n.spectra;
    let table = digits.rows.iter().zip(&photographs.rows).map(|(d, p)| {
        vec![
            d.name.clone(),
            d.nfe.to_string(),
            in_percent(d.w2()),
            in_percent(d.variance_kept()),
            in_percent(p.w2()),
            in_percent(p.variance_kept()),
        ]
    });
    let evaluations = || Axis::log("nfe", "evaluations of the network");
    let ladder = |c: &Comparison| {
        let colours = [VERMILION, BLUE, GREEN, PURPLE, INK];
        let mut series: Vec<Series> = c
            .runs
            .iter()
            .zip(colours)
            .map(|((name, nfe, w2), colour)| {
                Series::new(name, along(nfe), w2.iter().map(|v| 100.0 * v), Mark::Linked, colour)
            })
            .collect();
        let ends = [5.0, 1000.0];
        series.push(Series::new("exact flow", ends, [100.0 * c.floor; 2], Mark::Dashed, MUTED));
        plot(&titled(c), evaluations(), Axis::log("w2_percent", "W₂, % of the deviation"), series)
    };
    let shown: [(&str, &str, Colour); 6] = [
        ("DDPM-", "DDPM-1000", VERMILION),
        ("DDIM-50", "DDIM-50", BLUE),
        ("DPM-Solver-3, at most 20", "DPM-Solver-3, 19", PURPLE),
        ("DPM-Solver++(2M)-20", "2M-20", GREEN),
        ("Heun-18", "Heun-18", INK),
        ("teleport to σ/α = 3, then 2M-8", "teleport, 2M-8", ORANGE),
    ];
    let per_mode = |c: &Comparison| {
        let series = shown.iter().filter_map(|(name, label, colour)| {
            let (variances, gaps) = row(c, name)?.deviations();
            Some(Series::new(label, variances, gaps, Mark::Line, *colour))
        });
        let (most, least) =
            (c.variances[0], c.variances.iter().copied().fold(f64::INFINITY, smaller));
        plot(
            &titled(c),
            Axis::log("variance", "variance λ of the component (coarse to fine)")
                .over(most * 1.2, (least / 1.2).max(1e-6 * most)),
            Axis::log("deviation_error", "relative error of the deviation").over(1e-5, 1.0),
            series.collect(),
        )
    };
    let better = |c: &Comparison, name: &str| {
        let bar = row(c, "DDPM-").map_or(f64::NAN, Produced::w2);
        c.runs
            .iter()
            .find(|r| r.0 == name)
            .and_then(|(_, nfe, w2)| nfe.iter().zip(w2).find(|(_, w)| **w <= bar))
            .map(|(n, _)| *n)
    };
    parts.table(
        "headline",
        [
            "sampler",
            "evaluations",
            "W₂, digits",
            "variance, digits",
            "W₂, photographs",
            "variance, photographs",
        ],
        table,
    );
    parts.figure("ladder", vec![ladder(digits), ladder(photographs)]);
    parts.figure("modes", vec![per_mode(digits), per_mode(photographs)]);
    parts.files(
        "headline",
        vec![
            file(
                "headline.csv",
                "the table: W₂, bias and variance kept of every row",
                headline_csv(n),
            ),
            file(
                "laws.csv",
                "every component of every law in the table: mean and variance produced and true",
                laws_csv(n),
            ),
        ],
    );
    parts
        .checks("headline-2", n.spectra.iter().flat_map(|c| named(&c.name, &c.evidence)).collect());
    parts.value("digits_ddpm", share(row(digits, "DDPM-")));
    parts.value("digits_ddpm_other_variance", share(row(digits, "DDPM-1000, variance")));
    parts.value("digits_ddim_50", share(row(digits, "DDIM-50")));
    parts.value("dpm_solver_3", better(digits, "DPM-Solver-3"));
    parts.value("dpmpp_2m", better(digits, "DPM-Solver++(2M)"));
    parts.value("heun", better(digits, "Heun, EDM's grid"));
    parts.value("ddim", better(digits, "DDIM"));
    parts.value("consistency_floor", photographs.floor);
    parts.value(
        "consistency_bias",
        row(photographs, "consistency").map_or(f64::NAN, Produced::bias),
    );
}

/// Evidence that says on which data it was made.
fn named<'a>(data: &'a str, rows: &'a [Evidence]) -> impl Iterator<Item = Evidence> + 'a {
    rows.iter().map(move |e| Evidence { what: format!("{data}, {}", e.what), ..e.clone() })
}

fn few(n: &Numbers, parts: &mut Parts) {
    let curves = |c: &Comparison| {
        let colours = [BLUE, GREEN, SKY, ORANGE, VERMILION, MUTED];
        let series = c.few.iter().zip(colours).map(|((name, nfe, w2), colour)| {
            let mark = if name.starts_with("consistency") { Mark::Dashed } else { Mark::Linked };
            Series::new(name, along(nfe), w2.iter().map(|v| 100.0 * v), mark, colour)
        });
        plot(
            &titled(c),
            Axis::log("nfe", "evaluations of the network"),
            Axis::log("w2_percent", "W₂, % of the deviation"),
            series.collect(),
        )
    };
    let [digits, photographs] = &n.spectra;
    parts.figure("few-steps", vec![curves(digits), curves(photographs)]);
    parts.value("one_step_of_ddim", share(row(digits, "DDIM, 1 step")));
    parts.value("student", share(row(digits, "student")));
}

fn precision(n: &Numbers, parts: &mut Parts) {
    let curve = |name: &String, k: usize, of: &dyn Fn(&Certificate) -> Study| {
        let study = of(n.certificate(name)?);
        let (nfe, errors): (Vec<f64>, Vec<f64>) =
            study.runs.iter().map(|r| (r.nfe as f64, r.error)).unzip();
        Some(Series::new(name, nfe, errors, Mark::Linked, SERIES[k % SERIES.len()]))
    };
    let all = |names: &[String], of: &dyn Fn(&Certificate) -> Study| -> Vec<Series> {
        names.iter().enumerate().filter_map(|(k, name)| curve(name, k, of)).collect()
    };
    let nfe = || Axis::log("nfe", "evaluations of the denoiser");
    let states = || Axis::log("rms_error", "error of the states");
    let law = || Axis::log("error", "error of the law");
    parts.figure(
        "work",
        vec![
            plot(
                "Digits' Gaussian",
                nfe(),
                states(),
                all(&n.settings.deterministic, &|c| c.digits.clone()),
            ),
            plot(
                "Mixture of three",
                nfe(),
                states(),
                all(&n.settings.deterministic, &|c| c.mixture.clone()),
            ),
        ],
    );
    parts.figure(
        "work-stochastic",
        vec![
            plot(
                "Digits' Gaussian, exact",
                nfe(),
                law(),
                all(&n.settings.stochastic, &|c| c.digits.clone()),
            ),
            plot(
                "Mixture of three, sampled",
                nfe(),
                law(),
                all(&n.settings.stochastic, &|c| seen(&c.mixture)),
            ),
        ],
    );
}

/// The runs whose error is told from the chains' noise.
fn seen(study: &Study) -> Study {
    Study {
        runs: study.runs.iter().copied().filter(|r| r.error > 3.0 * r.stderr).collect(),
        ..study.clone()
    }
}

/// A triangle whose long side has slope `-order` between two numbers of steps, its corner above the
/// line or below it.
fn triangle(order: i32, from: (f64, f64), to: f64, above: bool) -> Series {
    let (x, y) = from;
    let low = y * (to / x).powi(-order);
    let corner = if above { (to, y) } else { (x, low) };
    Series::new(
        format!("_slope {order}"),
        [x, to, corner.0, x],
        [y, low, corner.1, y],
        Mark::Line,
        MUTED,
    )
}

fn orders(n: &Numbers, parts: &mut Parts) {
    let measured = |declared: bool, s: &Study| match s.order {
        Some(o) if declared && o.stderr <= 0.25 => {
            format!(
                "{:.3} ± {:.3}{}",
                o.slope,
                o.stderr,
                if s.measure == Measure::Sampled { " s" } else { "" }
            )
        }
        _ => "–".into(),
    };
    let rows = n.certificates.iter().map(|c| {
        let mut row = vec![c.sampler.clone(), c.declared.map_or("–".into(), |p| p.to_string())];
        row.extend(c.studies().map(|(_, s)| measured(c.declared.is_some(), s)));
        row.push(c.verdict.to_string());
        row
    });
    let work = n.certificates.iter().map(|c| {
        let reach = |tol: f64| match c.digits.reach(tol) {
            Some(r) if r.nfe >= 99_999.5 => format!("~{}", scientific(r.nfe, 2)),
            Some(r) => format!("{}{:.0}", if r.extrapolated { "~" } else { "" }, r.nfe),
            None => "–".into(),
        };
        let mut row = vec![c.sampler.clone()];
        row.extend([1e-2, 1e-4, 1e-6].map(reach));
        row.extend(
            c.whole
                .iter()
                .find(|r| r.steps == 20)
                .into_iter()
                .flat_map(|r| [r.nfe.to_string(), short(r.w2), short(r.bias), short(r.kl)]),
        );
        row
    });
    let colours = [BLUE, VERMILION, GREEN];
    let mut third: Vec<Series> = n
        .third
        .iter()
        .zip(colours)
        .map(|((name, s), colour)| {
            Series::new(
                name,
                s.runs.iter().map(|r| r.steps as f64),
                s.runs.iter().map(|r| r.error),
                Mark::Linked,
                colour,
            )
        })
        .collect();
    // Below the right curve, and above the others.
    let at = |k: usize, steps: usize| {
        n.third[k].1.runs.iter().find(|r| r.steps == steps).map_or(f64::NAN, |r| r.error)
    };
    let (low, high) = ((64.0, at(0, 64) / 3.0), (128.0, at(1, 128).max(at(2, 128)) * 2.5));
    third.push(triangle(3, low, 256.0, false));
    third.push(triangle(2, high, 400.0, true));
    let third = Plot::new(
        "",
        Axis::log("steps", "steps"),
        Axis::log("rms_error", "error of the states"),
        third,
    )
    .noted(low.0 * 0.8, low.1 / 8.0, "3")
    .noted(400.0, high.1 / 3.0, "2");
    parts.figure("third-order", vec![Drawing::Plot(third)]);
    parts.checks("orders", n.third_evidence.clone());
    parts.table(
        "orders",
        ["sampler", "declared", "Gaussian", "mixture", "digits", "verdict"],
        rows,
    );
    parts.table(
        "orders-2",
        ["sampler", "to 10⁻²", "to 10⁻⁴", "to 10⁻⁶", "evaluations", "W₂", "bias", "KL"],
        work,
    );
    parts.files(
        "orders",
        vec![
            file(
                "certificates.json",
                "all of it, as <code>tweedie certify --json</code> writes it",
                json(&BTreeMap::from([("certificates", &n.certificates)])),
            ),
            file("certificates.csv", "one row a run", certificates_csv(n)),
        ],
    );
    parts.checks("orders-3", n.certified.clone());
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::Experiment;
    use tweedie_report::experiment::Profile;

    #[test]
    fn the_chapter_is_whole() {
        let context = Context {
            settings: None,
            profile: Profile::Least,
            seed: 0,
            progress: &|_, _, _| {},
            trainings: None,
        };
        let chapter = Experiment::of::<Samplers>().chapter(&context).unwrap().0;
        let lines = |name: &str| {
            chapter
                .files()
                .find(|f| f.name == name)
                .unwrap()
                .content
                .iter()
                .filter(|b| **b == b'\n')
                .count()
        };
        assert_eq!([lines("headline.csv"), lines("laws.csv")], [1 + 2 * 18, 1 + 18 * (64 + 256)]);
        assert!(lines("certificates.csv") > 29 * 16 && lines("certificates.json") == 1);
        // No curve is lost on the way from a name to a certificate.
        for f in chapter.figures() {
            for d in &f.drawings {
                let Drawing::Plot(p) = d else { continue };
                assert!(
                    p.series.len() >= 2 && p.series.iter().all(|s| !s.points.is_empty()),
                    "{}",
                    f.id
                );
            }
        }
    }

    #[test]
    fn triangles_have_their_slope() {
        let t = triangle(3, (10.0, 1.0), 100.0, true);
        assert_eq!(t.points[0], t.points[3]);
        assert_eq!(t.points[2], (100.0, 1.0));
        let [(x0, y0), (x1, y1)] = [t.points[0], t.points[1]];
        assert!(((y1 / y0).ln() / (x1 / x0).ln() + 3.0).abs() < 1e-14);
    }

    #[test]
    fn shares_are_short() {
        assert_eq!(
            [0.0, 0.00042, 0.0071234, 0.0256, 0.1234, 1.0012].map(in_percent),
            ["0", "0.042", "0.712", "2.56", "12.3", "100.1"]
        );
    }
}
