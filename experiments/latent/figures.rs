//! The chapter on latents, made from the numbers of [`crate::latent::numbers`].

use crate::latent::numbers::{Counted, Numbers, Settings, Split, compute};
use serde_json::Value;
use tweedie::error::Result;
use tweedie_report::chapter::{Parts, Study, along, digits, images, picture, plot, settings};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::style::{BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SERIES, VERMILION};

/// The chapter.
pub struct Latent;

impl Study for Latent {
    const NAME: &'static str = "latent";
    const ABOUT: &'static str = "linear VAEs and principal components: bound and gap, collapse, what compression and sampler each lose, what a latent saves";
    const SECONDS: [f64; 2] = [6.0, 24.0];
    const TEXT: Editable = source!("latent/text.md");
    const CODE: &'static str = env!("CODE_OF_latent");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        bound(n, &mut parts);
        code(n, &mut parts);
        floor(n, &mut parts);
        diffusion(n, &mut parts);
        counts(n, &mut parts);
        Ok(parts)
    }
}

/// A share to a tenth of a percent.
fn tenths(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn bound(n: &Numbers, parts: &mut Parts) {
    let b = &n.bound;
    let curves = |of: &[[f64; 3]]| {
        let at = |i: usize| of.iter().map(move |v| v[i]).collect::<Vec<f64>>();
        let (factor, elbo, gap) = (at(0), at(1), at(2));
        let sum: Vec<f64> = elbo.iter().zip(&gap).map(|(e, g)| e + g).collect();
        vec![
            Series::new("bound + gap", along(&factor), along(&sum), Mark::Line, INK),
            Series::new("bound (ELBO)", along(&factor), along(&elbo), Mark::Line, BLUE),
            Series::new(
                "log p, directly",
                along(&factor),
                factor.iter().map(|_| b.evidence_nats),
                Mark::Dashed,
                ORANGE,
            ),
        ]
    };
    let blind = b.gain[0];
    let nats = || {
        Axis::linear("nats", "nats a digit").over(b.evidence_nats - 60.0, b.evidence_nats + 10.0)
    };
    parts.figure(
        "bound",
        vec![
            plot(
                "Spread of the encoder",
                Axis::log("factor", "deviation / right deviation"),
                nats(),
                curves(&b.spread),
            ),
            plot(
                "Gain of the encoder",
                Axis::linear("factor", "gain / right gain"),
                nats(),
                curves(&b.gain),
            ),
        ],
    );
    parts.checks("bound", b.evidence.clone());
    parts.value("gap_at_twice_the_spread", gap_near(&b.spread, 2.0));
    parts.value("gap_of_the_blind", blind[2]);
}

/// Gap at the factor nearest to one.
fn gap_near(of: &[[f64; 3]], factor: f64) -> f64 {
    let off = |v: &[f64; 3]| (v[0] / factor).ln().abs();
    of.iter().min_by(|a, b| off(a).total_cmp(&off(b))).map_or(f64::NAN, |v| v[2])
}

fn code(n: &Numbers, parts: &mut Parts) {
    let c = &n.code;
    let given: (Vec<f64>, Vec<f64>) = c.given_noise.iter().map(|g| (g.2, g.3)).unzip();
    let sized: (Vec<f64>, Vec<f64>) = c.given_size.iter().map(|g| (g.1, g.2)).unzip();
    let colours = [VERMILION, BLUE, GREEN, PURPLE];
    let bars = c.drawn.iter().zip(colours).map(|((var, bits, _), colour)| {
        let index = (1..=c.variances.len()).map(|k| k as f64);
        let padded: Vec<f64> =
            bits.iter().copied().chain(std::iter::repeat(0.0)).take(c.variances.len()).collect();
        Series::new(format!("s² = {}", plain(*var)), index, padded, Mark::Linked, colour)
    });
    let mut rows = vec![("digits".to_string(), images(&n.floor.digits[0]))];
    rows.extend(c.drawn.iter().map(|(var, bits, x)| {
        let spent: f64 = bits.iter().sum();
        (
            format!("s² = {}: {} latents, {:.0} bits a digit", plain(*var), bits.len(), spent),
            images(x),
        )
    }));
    let table = c.given_noise.iter().map(|(var, kept, lost, bits)| {
        vec![plain(*var), kept.to_string(), tenths(*lost), format!("{bits:.1}")]
    });
    parts.figure("digits", vec![digits("", "", vec![], rows, Tone::Ink)]);
    parts.figure(
        "rate",
        vec![
            plot(
                "Rate and error",
                Axis::log("share_lost", "share of the variance lost"),
                Axis::linear("bits", "bits a digit"),
                vec![
                    Series::new(
                        "least rate",
                        along(&c.least.0),
                        along(&c.least.1),
                        Mark::Line,
                        MUTED,
                    ),
                    Series::new(
                        "VAE, noise given",
                        along(&given.0),
                        along(&given.1),
                        Mark::Points,
                        BLUE,
                    ),
                    Series::new(
                        "VAE, size given",
                        along(&sized.0),
                        along(&sized.1),
                        Mark::Points,
                        VERMILION,
                    ),
                ],
            ),
            plot(
                "Bits of each latent",
                Axis::linear("k", "component k"),
                Axis::linear("bits", "bits"),
                bars.collect(),
            ),
        ],
    );
    parts.table("code", ["noise $s^2$", "latents", "variance lost", "bits a digit"], table);
    parts.checks("code", c.evidence.clone());
    parts.value("latents_excess_bits", c.excess);
}

fn floor(n: &Numbers, parts: &mut Parts) {
    let l = &n.floor;
    let index =
        |of: &[f64]| (0..of.len()).map(|k| k as f64 / (of.len() - 1) as f64).collect::<Vec<f64>>();
    let curve = |k: usize, name: &str, colour, mark| {
        Series::new(name, along(&index(&l.lost[k])), along(&l.lost[k]), mark, colour)
    };
    let side = n.settings.picture_side;
    let sizes = std::iter::once(n.settings.patch * n.settings.patch)
        .chain(n.settings.patch_sizes.iter().copied());
    let whole = n.settings.patch * n.settings.patch;
    let photograph: Vec<Picture> = l
        .photograph
        .iter()
        .map(|(pixels, error)| picture(pixels.iter().copied(), plain((error * 1e4).round() / 1e4)))
        .collect();
    let sizes = sizes.map(|k| if k == whole { "all".into() } else { k.to_string() }).collect();
    let mut rows = vec![("digits".to_string(), images(&l.digits[0]))];
    rows.extend(
        n.settings
            .digit_sizes
            .iter()
            .zip(&l.digits[1..])
            .map(|(k, x)| (format!("{k} of 64 numbers"), images(x))),
    );
    parts.figure(
        "floor",
        vec![
            digits("Digits", "", vec![], rows, Tone::Ink),
            Drawing::Pictures(Pictures {
                title: "A photograph".into(),
                heading: format!("numbers of {whole}, squared error a pixel below"),
                columns: sizes,
                rows: vec![(String::new(), photograph)],
                shape: (side, side),
                tone: Tone::Light,
            }),
            plot(
                "Variance lost",
                Axis::linear("share_kept", "share of the numbers kept").over(0.0, 1.0),
                Axis::log("share_lost", "share of the variance lost").over(1e-4, 1.0),
                vec![
                    curve(0, "digits", BLUE, Mark::Line),
                    curve(1, "patches of photographs", VERMILION, Mark::Dashed),
                ],
            ),
        ],
    );
    parts.checks("floor", l.evidence.clone());
    parts.value("pixels_for_1_percent", l.size_for(0, 0.01));
    parts.value("latents_for_1_percent", l.size_for(1, 0.01));
    parts.value("whole", whole);
}

fn split_plot(title: &str, s: &Split) -> Drawing {
    let sizes: Vec<f64> = (1..=s.compression.len()).map(|k| k as f64).collect();
    let mut series = vec![Series::new(
        "compression alone",
        along(&sizes),
        s.compression.iter().map(|v| v.sqrt()),
        Mark::Line,
        INK,
    )];
    series.extend(s.sampler.iter().enumerate().zip(SERIES).map(|((i, (steps, _)), colour)| {
        Series::new(
            format!("{steps} steps"),
            along(&sizes),
            (1..=sizes.len()).map(move |k| s.w2(i, k)),
            Mark::Line,
            colour,
        )
    }));
    plot(
        title,
        Axis::log("k", "numbers in the latent"),
        Axis::log("w2_over_std", "W₂ / deviation").over(0.01, 1.0),
        series,
    )
}

fn budget_plot(title: &str, s: &Split) -> Drawing {
    let mut series = Vec::new();
    for (b, colour) in s.budgets.iter().zip([VERMILION, BLUE, GREEN]) {
        let (k, w2): (Vec<f64>, Vec<f64>) = b.rows.iter().map(|r| (r.0 as f64, r.2)).unzip();
        series.push(Series::new(
            format!("{} steps in pixels", b.steps_in_pixels),
            along(&k),
            along(&w2),
            Mark::Line,
            colour,
        ));
        let best = b.best();
        series.push(Series::new("_best", [best.0 as f64], [best.2], Mark::Points, colour));
    }
    plot(
        title,
        Axis::log("k", "numbers in the latent"),
        Axis::log("w2_over_std", "W₂ / deviation"),
        series,
    )
}

fn diffusion(n: &Numbers, parts: &mut Parts) {
    let d = &n.diffusion;
    let [of_digits, of_patches] = &d.on;
    let rows = n.settings.followed_sizes.iter().zip(&d.ends).zip(&d.same).map(|((k, x), same)| {
        let label = if *k == n.settings.followed_sizes[n.settings.followed_sizes.len() - 1] {
            format!("{k} numbers, all that vary")
        } else {
            format!(
                "{k} numbers: {} of {} draws end at the same digit as with all",
                (same * d.draws as f64).round(),
                d.draws
            )
        };
        (label, images(x))
    });
    let table = d.on.iter().flat_map(|s| {
        s.budgets.iter().map(move |b| {
            let (best, pixels) = (b.best(), b.pixels());
            vec![
                format!("{}, {}", s.name, b.steps_in_pixels),
                best.0.to_string(),
                best.1.to_string(),
                tenths(best.2),
                pixels.1.to_string(),
                tenths(pixels.2),
            ]
        })
    });
    let small = &of_patches.budgets[0];
    parts.figure(
        "split",
        vec![split_plot("Digits", of_digits), split_plot("Patches of photographs", of_patches)],
    );
    parts.figure(
        "budget",
        vec![budget_plot("Digits", of_digits), budget_plot("Patches of photographs", of_patches)],
    );
    parts.table(
        "diffusion",
        ["data, budget", "best size", "its steps", "W₂", "steps in pixels", "W₂ in pixels"],
        table,
    );
    parts.figure("ends", vec![digits("", "", vec![], rows.collect(), Tone::Ink)]);
    parts.checks("diffusion", d.evidence.clone());
    parts.value("budget", small.steps_in_pixels);
    parts.value("pixels_numbers", small.pixels().0);
    parts.value("pixels_error", small.pixels().2);
    parts.value("best_numbers", small.best().0);
    parts.value("best_steps", small.best().1);
    parts.value("best_error", small.best().2);
}

fn counts(n: &Numbers, parts: &mut Parts) {
    let c = &n.counts;
    let (_, pixels, latent) = &c.networks[1];
    let ratio = |a: usize, b: usize| if b == 0 { "–".into() } else { plain(a as f64 / b as f64) };
    let giga = |v: usize| format!("{:.2}", v as f64 / 1e9);
    let rows = c.networks.iter().flat_map(|(name, a, b)| {
        let part = |what: &str, of: fn(&Counted) -> usize| {
            vec![format!("{name}: {what}"), giga(of(a)), giga(of(b)), ratio(of(a), of(b))]
        };
        let mut rows = vec![part("convolutions", |c| c.convolutions)];
        if a.attention > 0 {
            rows.push(part("attention", |c| c.attention));
        }
        rows.push(part("all", Counted::operations));
        rows
    });
    let sides: Vec<f64> = c.by_side.iter().map(|s| s.side as f64).collect();
    let of = |pick: fn(&Counted) -> usize| {
        c.by_side.iter().map(|s| pick(s) as f64).collect::<Vec<f64>>()
    };
    let curves = [
        ("convolutions", of(|c| c.convolutions), BLUE),
        ("attention", of(|c| c.attention), VERMILION),
        ("norms, activations", of(|c| c.pointwise), GREEN),
        ("time embedding", of(|c| c.fixed), PURPLE),
    ];
    let curves = curves.into_iter().map(|(name, counts, colour)| {
        Series::new(name, along(&sides), counts, Mark::Linked, colour)
    });
    let per_step = pixels.operations() as f64 / latent.operations() as f64;
    let mut saved: Vec<Series> = c
        .saved
        .iter()
        .zip([BLUE, VERMILION, GREEN])
        .map(|((share, rows), colour)| {
            let (x, y): (Vec<f64>, Vec<f64>) = rows.iter().copied().unzip();
            Series::new(
                format!("decoder = {} steps in pixels", plain(*share)),
                x,
                y,
                Mark::Linked,
                colour,
            )
        })
        .collect();
    saved.push(Series::new("a step alone", [1.0, 1000.0], [per_step; 2], Mark::Dashed, MUTED));
    let few = c.saved.last().map_or(f64::NAN, |s| s.1.first().map_or(f64::NAN, |r| r.1));
    let many = c.saved.last().map_or(f64::NAN, |s| s.1.last().map_or(f64::NAN, |r| r.1));
    let (a, b) = (&c.networks[0].1, &c.networks[0].2);
    let all = &c.networks[2];
    parts.figure(
        "counts",
        vec![
            plot(
                "One step",
                Axis::log("side", "side of the image, pixels"),
                Axis::log("operations", "operations"),
                curves.collect(),
            ),
            plot(
                "A whole run",
                Axis::log("steps", "steps"),
                Axis::log("times_cheaper", "times cheaper"),
                saved,
            ),
        ],
    );
    parts.table("counts", ["what", "pixels", "latent", "times"], rows);
    parts.checks("counts", c.evidence.clone());
    parts.value("state_of_pixels", a.state);
    parts.value("state_of_latent", b.state);
    parts.value("state_ratio", a.state as f64 / b.state as f64);
    parts.value("million_weights", pixels.weights as f64 / 1e6);
    parts.value("convolution_ratio", a.convolutions as f64 / b.convolutions as f64);
    parts.value("per_step", per_step);
    parts.value("operation_ratio", a.operations() as f64 / b.operations() as f64);
    parts.value(
        "operation_ratio_with_attention",
        all.1.operations() as f64 / all.2.operations() as f64,
    );
    parts.value("memory_ratio", a.activations as f64 / b.activations as f64);
    parts.value("megabytes_of_weights", pixels.weights as f64 * 4.0 / 1e6);
    parts.value(
        "largest_decoder_share",
        n.settings.decoder_shares.last().copied().unwrap_or(f64::NAN),
    );
    parts.value("saved_of_many_steps", many);
    parts.value("lost_of_few_steps", 1.0 / few);
}
