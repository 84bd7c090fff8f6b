//! The chapter on the variational bound, made from the numbers of [`crate::elbo::numbers`].

use crate::elbo::numbers::autoencoders::Chain;
use crate::elbo::numbers::bits::Coded;
use crate::elbo::numbers::{Numbers, Settings, compute};
use serde_json::Value;
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie_report::chapter::{Parts, Study, along, picture, plot, settings, significant};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Plot, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// The chapter.
pub struct Elbo;

impl Study for Elbo {
    const NAME: &'static str = "elbo";
    const ABOUT: &'static str = "the variational bound line by line, against steps and schedules, in bits, and three likelihoods of one network";
    const SECONDS: [f64; 2] = [3.0, 12.0];
    const TEXT: Editable = source!("elbo/text.md");
    const CODE: &'static str = env!("CODE_OF_elbo");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        lines(n, &mut parts);
        limit(n, &mut parts);
        bits(n, &mut parts);
        autoencoders(n, &mut parts);
        models(n, &mut parts);
        Ok(parts)
    }
}

/// Three significant digits.
fn three(v: f64) -> String {
    significant(v, 3)
}

/// Four decimals, with a real minus sign.
fn decimals(v: f64) -> String {
    format!("{v:.4}").replace('-', "−")
}

fn lines(n: &Numbers, parts: &mut Parts) {
    let models = &n.lines.0;
    let colours = [BLUE, GREEN, VERMILION];
    let mut weights: Vec<Series> = Vec::new();
    let mut many: Vec<Series> = Vec::new();
    for (l, colour) in models.iter().zip(colours) {
        weights.push(Series::new(
            &l.name,
            along(&l.histogram.0),
            along(&l.histogram.1),
            Mark::Line,
            colour,
        ));
        let mean = l.bound() - l.log_evidence;
        weights.push(Series::new(
            format!("_mean, {}", l.name),
            [mean, mean],
            [0.0, 1.2],
            Mark::Dashed,
            colour,
        ));
        many.push(Series::new(&l.name, along(&l.many.0), along(&l.many.1), Mark::Linked, colour));
    }
    let pair = |v: [f64; 2]| format!("{} ± {:.4}", decimals(v[0]), v[1]);
    let row = |what: &str, of: &dyn Fn(usize) -> String| -> Vec<String> {
        std::iter::once(what.to_owned()).chain((0..models.len()).map(of)).collect()
    };
    let steps = n.settings.betas.len();
    let mut rows = vec![
        row("$\\ln p(x_0)$, closed form", &|k| decimals(models[k].log_evidence)),
        row("$= \\ln \\mathbb E_q\\, w$, by draws of $q$", &|k| pair(models[k].by_weights)),
        row("$\\ge \\mathbb E_q \\ln w$, two dense Gaussians", &|k| decimals(models[k].jensen)),
        row("$=$ rearranged, by draws", &|k| pair(models[k].rearranged)),
        row("$=$ sum of the terms below", &|k| decimals(models[k].bound())),
        row("reconstruction", &|k| decimals(models[k].terms[0])),
    ];
    rows.extend(
        (2..=steps)
            .map(|t| row(&format!("transition, t = {t}"), &|k| decimals(models[k].terms[t - 1]))),
    );
    rows.push(row("prior", &|k| decimals(models[k].terms[steps])));
    rows.push(row("lost at the inequality", &|k| {
        decimals(models[k].log_evidence - models[k].bound())
    }));
    rows.push(row("$\\mathrm{KL}(q(x_{1:T}|x_0)\\,\\|\\,p(x_{1:T}|x_0))$", &|k| {
        decimals(models[k].gap)
    }));
    let off = models[0].misprinted - models[0].rearranged[0];
    parts.figure(
        "jensen",
        vec![
            plot(
                "Weights",
                Axis::linear("log_weight", "ln w − ln p(x₀), nats").over(-4.0, 2.0),
                Axis::linear("density", "density").over(0.0, 3.0),
                weights,
            ),
            plot(
                "Bounds of K trajectories",
                Axis::log("k", "trajectories K"),
                Axis::log("nats", "ln p(x₀) − bound, nats"),
                many,
            ),
        ],
    );
    parts.table(
        "lines",
        std::iter::once("line").chain(models.iter().map(|l| l.name.as_str())),
        rows,
    );
    parts.checks("lines", n.lines.1.clone());
    parts.value("steps", steps);
    parts.value("entropy_left_out", off);
}

fn limit(n: &Numbers, parts: &mut Parts) {
    let l = &n.limit;
    let colours = [BLUE, VERMILION, GREEN, PURPLE, INK];
    let steps = || Axis::log("steps", "steps T");
    let lost = || Axis::log("nats", "nats lost");
    let by_schedule = |pick: &dyn Fn(&crate::elbo::numbers::limit::Schedule) -> Vec<(f64, f64)>,
                       mark: Mark|
     -> Vec<Series> {
        l.schedules
            .iter()
            .zip(colours)
            .map(|(s, colour)| {
                let points = pick(s);
                Series::new(
                    &s.name,
                    points.iter().map(|p| p.0),
                    points.iter().map(|p| p.1),
                    if s.name == "the best" { Mark::Dashed } else { mark },
                    colour,
                )
            })
            .collect()
    };
    let mixture = l.mixture.iter().zip([VERMILION, BLUE, GREEN]).map(|((name, nats), colour)| {
        Series::new(name, along(&l.steps), along(nats), Mark::Linked, colour)
    });
    let gaussian =
        l.gaussian.iter().take(2).zip([VERMILION, ORANGE]).map(|((name, nats), colour)| {
            Series::new(name, along(&l.steps), along(nats), Mark::Linked, colour)
        });
    let finest = l.steps.len() - 1;
    let rows = l.schedules.iter().map(|s| {
        let at = |k: usize| three(s.lost[k]);
        vec![s.name.to_string(), at(1), at(3), at(finest), three(s.constant)]
    });
    let [noisy, clean] = n.settings.log_snr;
    let constant =
        |name: &str| l.schedules.iter().find(|s| s.name == name).map_or(f64::NAN, |s| s.constant);
    let order = |lost: &[f64]| (lost[finest - 1] / lost[finest]).log2();
    parts.figure(
        "schedules",
        vec![
            plot(
                "Loss against steps",
                steps(),
                lost(),
                by_schedule(
                    &|s| l.steps.iter().copied().zip(s.lost.iter().copied()).collect(),
                    Mark::Linked,
                ),
            ),
            plot(
                "Cost of each transition",
                Axis::linear("u", "t / T, from data to noise").over(0.0, 1.0),
                Axis::log("nats", "nats"),
                by_schedule(&|s| s.terms.iter().map(|t| (t[0], t[3])).collect(), Mark::Line),
            ),
        ],
    );
    parts.table(
        "steps",
        vec![
            "schedule".into(),
            format!("T = {}", l.steps[1]),
            format!("T = {}", l.steps[3]),
            format!("T = {}", l.steps[finest]),
            "loss × T".into(),
        ],
        rows,
    );
    parts.figure(
        "variances",
        vec![
            plot("Digits' Gaussian", steps(), lost(), gaussian.collect()),
            plot("Mixture", steps(), lost(), mixture.collect()),
        ],
    );
    parts.checks("steps", l.evidence.clone());
    parts.value("transitions", l.transitions);
    parts.value("noisy_end", noisy);
    parts.value("clean_end", clean);
    parts.value("vp_over_best", constant("VP, linear β") / constant("the best"));
    parts.value("flow_matching_over_best", constant("flow matching") / constant("the best"));
    parts.value("cosine_over_best", constant("cosine") / constant("the best"));
    parts.value("rate_posterior", order(&l.mixture[0].1));
    parts.value("rate_constant", order(&l.mixture[1].1));
    parts.value("rate_each_state", order(&l.mixture[2].1));
}

fn strips(n: &Numbers, c: &Coded) -> Drawing {
    let columns: Vec<String> =
        n.settings.picture_sigmas.iter().map(|s| format!("σ = {}", plain(*s))).collect();
    let noised = c.noised.iter().map(|v| picture(along(v), "")).collect();
    let denoised: Vec<Picture> = c
        .denoised
        .iter()
        .zip(&c.bits)
        .map(|(v, bits)| picture(along(v), format!("{} bit", significant(*bits, 2))))
        .collect();
    // Ink is dark: photographs are stored light.
    let flip = |row: Vec<Picture>| -> Vec<Picture> {
        if c.name == "photographs" {
            row.into_iter()
                .map(|p| Picture { values: p.values.iter().map(|v| -v).collect(), ..p })
                .collect()
        } else {
            row
        }
    };
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: String::new(),
        columns,
        rows: vec![
            ("noised".into(), flip(noised)),
            ("denoised; bits a pixel so far below".into(), flip(denoised)),
        ],
        shape: (c.shape.1, c.shape.0),
        tone: Tone::Ink,
    })
}

fn bits(n: &Numbers, parts: &mut Parts) {
    let b = &n.bits;
    let [digits, photos] = &b.coded;
    let rate = b.coded.iter().zip([BLUE, VERMILION]).map(|(c, colour)| {
        Series::new(
            &c.name,
            c.curve.iter().map(|v| v[1]),
            c.curve.iter().map(|v| 100.0 * v[2]),
            Mark::Line,
            colour,
        )
    });
    let along_way = b.coded.iter().zip([BLUE, VERMILION]).map(|(c, colour)| {
        Series::new(
            &c.name,
            c.curve.iter().map(|v| v[0]),
            c.curve.iter().map(|v| v[1]),
            Mark::Line,
            colour,
        )
    });
    let middle = n.settings.picture_sigmas.len() / 2 - 1;
    // The bits at an error of two per cent of the range, and at the end.
    let visible = |c: &Coded| c.curve.iter().find(|v| v[2] <= 0.02).map_or(f64::NAN, |v| v[1]);
    let end = |c: &Coded| c.curve[c.curve.len() - 1][1];
    let t = |k: usize| b.weights.iter().map(move |w| (w[0], w[k]));
    let mut weights: Vec<Series> = [("ε", 1, BLUE), ("x₀", 2, VERMILION), ("v", 3, GREEN)]
        .into_iter()
        .map(|(name, k, colour)| {
            Series::new(name, t(k).map(|p| p.0), t(k).map(|p| p.1), Mark::Line, colour)
        })
        .collect();
    weights.push(Series::new("1 on ε", [0.0, 1.0], [1.0, 1.0], Mark::Dashed, MUTED));
    let shares = b.objectives.iter().zip([INK, BLUE, VERMILION, GREEN]).map(|(o, colour)| {
        Series::new(
            &o.name,
            along(&b.log_snrs),
            along(&o.share),
            if o.name == "the bound" { Mark::Dashed } else { Mark::Line },
            colour,
        )
    });
    let rows = b.objectives.iter().map(|o| {
        let mut row = vec![o.name.to_string()];
        row.extend(o.quartiles.iter().map(|s| three(*s)));
        row.push(three(o.at_half[0]));
        row.push(format!("{} %", three(100.0 * o.at_half[1])));
        row
    });
    let (first, last) = (&b.weights[0], &b.weights[b.weights.len() - 1]);
    parts.figure("photograph", vec![strips(n, photos)]);
    parts.figure("digit", vec![strips(n, digits)]);
    parts.figure(
        "rate",
        vec![
            plot(
                "Rate and distortion",
                Axis::linear("bits", "bits a pixel"),
                Axis::log("error_percent", "error of a pixel, % of the range"),
                rate.collect(),
            ),
            plot(
                "Bits along the way",
                Axis::log("sigma", "noise level σ (sampling runs to the right)")
                    .over(30.0, digits.curve[digits.curve.len() - 1][0]),
                Axis::linear("bits", "bits a pixel"),
                along_way.collect(),
            ),
        ],
    );
    parts.figure(
        "weights",
        vec![
            plot(
                "Weights in the divergence",
                Axis::linear("t_over_T", "t / T").over(0.0, 1.0),
                Axis::log("weight", "weight"),
                weights,
            ),
            plot(
                "Share of the objective",
                Axis::linear("log_snr", "log-SNR (data on the right)").over(-9.0, 9.0),
                Axis::linear("share", "share per unit of log-SNR"),
                shares.collect(),
            ),
        ],
    );
    parts.table(
        "bits",
        ["objective", "¼ above", "½ above", "¾ above", "bits a pixel there", "error there"],
        rows,
    );
    parts.checks("bits", b.evidence.clone());
    parts.value("visible_bits_of_photographs", visible(photos));
    parts.value("bits_of_photographs", end(photos));
    parts.value("invisible_share", 1.0 - visible(photos) / end(photos));
    parts.value("bits_of_digits", end(digits));
    parts.value("middle_sigma", n.settings.picture_sigmas[middle]);
    parts.value("middle_bits", digits.bits[middle]);
    parts.value("weight_at_2", first[1]);
    parts.value("weight_at_T", last[1]);
}

fn autoencoders(n: &Numbers, parts: &mut Parts) {
    let a = &n.autoencoders;
    let density = |c: &Chain, title: String| {
        plot(
            &title,
            Axis::linear("x", "x").over(-3.0, 3.0),
            Axis::linear("density", "density").over(0.0, 1.5),
            vec![
                Series::new("data", along(&a.data.0), along(&a.data.1), Mark::Line, MUTED),
                Series::new("produced", along(&a.data.0), along(&c.density), Mark::Line, BLUE),
            ],
        )
    };
    let mut drawn: Vec<Drawing> = a
        .drawn
        .iter()
        .map(|c| {
            density(
                c,
                format!(
                    "One autoencoder, σ/α = {}: {} nats lost",
                    three(c.angles[0].tan()),
                    three(c.lost)
                ),
            )
        })
        .collect();
    if let Some(c) = a.chains.last() {
        drawn.push(density(c, format!("Chain of {}: {} nats lost", c.angles.len(), three(c.lost))));
    }
    let column = |k: usize| a.single.iter().map(move |s| (s[0].tan(), s[k]));
    let curve = |name: &str, k: usize, mark: Mark, colour: Colour| {
        Series::new(name, column(k).map(|p| p.0), column(k).map(|p| p.1), mark, colour)
    };
    let mut curves = vec![
        curve("variance of each state", 2, Mark::Line, BLUE),
        curve("one variance", 3, Mark::Line, GREEN),
        curve("variance (σ/α)²", 4, Mark::Line, VERMILION),
        curve("prior term alone", 1, Mark::Dashed, MUTED),
    ];
    for (c, colour) in a.chains.iter().zip([ORANGE, SKY, PURPLE, INK]) {
        curves.push(Series::new(
            format!("_chain of {}", c.angles.len()),
            [0.03, 30.0],
            [c.bound; 2],
            Mark::Dashed,
            colour,
        ));
    }
    let mut single = Plot::new(
        "",
        Axis::log("sigma_over_alpha", "noise level of the code, σ/α").over(0.03, 30.0),
        Axis::log("nats", "bound less the entropy, nats").over(0.005, 10.0),
        curves,
    );
    for c in &a.chains {
        single = single.noted(11.0, c.bound * 1.4, format!("T = {}", c.angles.len()));
    }
    let rows = std::iter::once(("best single one".to_owned(), &a.best))
        .chain(a.chains.iter().map(|c| (format!("chain of {}", c.angles.len()), c)))
        .map(|(name, c)| vec![name, three(c.bound), three(c.lost), three(c.bound - c.lost)]);
    parts.figure("densities", drawn);
    parts.figure("single", vec![Drawing::Plot(single)]);
    parts.table("autoencoders", ["model", "bound − entropy", "lost", "Jensen's part"], rows);
    parts.checks("autoencoders", a.evidence.clone());
    parts.value("best_gain", a.best.angles[0].tan());
    parts.value("best_bound", a.best.bound);
    parts.value(
        "gain_over_constant_variance",
        a.single.iter().find(|s| s[0] == a.best.angles[0]).map_or(f64::NAN, |s| s[3] - s[2]),
    );
}

fn models(n: &Numbers, parts: &mut Parts) {
    let m = &n.models;
    let plots = m.lost.iter().map(|l| {
        let names = [
            ("bound", INK, Mark::Dashed),
            ("stochastic sampler", BLUE, Mark::Line),
            ("deterministic sampler", VERMILION, Mark::Line),
        ];
        let series = l.nats.iter().zip(names).map(|(nats, (name, colour, mark))| {
            Series::new(name, along(&l.at), along(nats), mark, colour)
        });
        plot(
            &format!("Error {} wide in log-SNR", plain(l.width)),
            Axis::linear("log_snr", "where the error is, log-SNR (data right)").over(-6.0, 6.0),
            Axis::log("nats", "nats lost").over(1e-6, 1.0),
            series.collect(),
        )
    });
    let most = |k: usize| {
        m.lost
            .iter()
            .flat_map(|l| l.nats[k].iter().zip(&l.nats[0]).map(|(a, b)| a / b))
            .fold(0.0, larger)
    };
    parts.figure("three", plots.collect());
    parts.checks("models", m.evidence.clone());
    parts.value("three_likelihoods_apart", most(2));
}
