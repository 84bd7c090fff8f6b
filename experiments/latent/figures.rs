//! The chapter on latents, made from the numbers of [`crate::latent::numbers`].

use crate::latent::numbers::{Counted, Numbers, Split, compute};
use tweedie::error::Result;
use tweedie_report::chapter::{
    along, command, digits, f, figure, images, p, percent, picture, plot, section, thousands,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SERIES, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("latent", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "latent".into(),
        title: "Diffusion in a latent: what is kept, what is lost, what is saved".into(),
        lead: "Large image models don't diffuse pixels. An autoencoder makes an image small, diffusion works on what it keeps, and a decoder paints the rest. For linear autoencoders and \
               Gaussian data all of this has closed forms: the bound that a VAE is trained on and its gap, which directions it keeps and why the others collapse, the exact law of what comes out of \
               the decoder, and how much of its error is the compression's and how much the sampler's. The operations of a real network are counted as well, where lectures say “64 times cheaper”."
            .into(),
        command,
        sections: vec![bound(n), code(n), floor(n), diffusion(n), counts(n)],
    }
}

/// A share to a tenth of a percent.
fn tenths(share: f64) -> String {
    format!("{:.1} %", 100.0 * share)
}

fn bound(n: &Numbers) -> Section {
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
    section(
        "bound",
        "A bound whose gap is known",
        vec![
            p(format!(
                "Let a decoder make 8 × 8 digits from {} numbers by a matrix and noise, $x = \\mu + Wz + s\\,\\varepsilon$ with $z \\sim N(0, I)$. Its likelihood is that of a Gaussian. An encoder $q(z|x)$ gives a lower bound on it, and the bound misses exactly the divergence \
                 of the encoder from the true posterior, digit by digit, whatever the encoder is:",
                n.settings.latents
            )),
            f(
                "\\ln p(x) = \\underbrace{\\mathbb{E}_{q}\\left[\\ln p(x|z)\\right] - \\mathrm{KL}\\big(q(z|x)\\,\\|\\,p(z)\\big)}_{\\text{bound}} + \\underbrace{\\mathrm{KL}\\big(q(z|x)\\,\\|\\,p(z|x)\\big)}_{\\text{gap}}",
            ),
            p(
                "So raising the bound does two things at once, and does not say which: it makes the data likelier, or the encoder more honest. Here the decoder is the likeliest one and stays as it is; only the encoder is spoilt, first its spread, then its gain.",
            ),
            figure(
                "bound",
                "Mean over digits of the bound, and of bound plus gap, each by its own formula. Left: the right encoder with all deviations multiplied by a factor. Right: with its answer multiplied by a factor; at 0 it does not look at the digit.",
                "Two plots: in each a flat line, on which the sum of bound and gap and the log-likelihood coincide, and a curve of the bound that touches it at factor 1 and falls away on both sides.",
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
            ),
            p(format!(
                "An encoder twice too wide costs {} nats a digit, one that never looks {}. None of it is visible in the bound alone: a model whose bound is bad may be a good model with a bad encoder.",
                plain(gap_near(&b.spread, 2.0)),
                plain(blind[2])
            )),
            Block::Evidence(b.evidence.clone()),
        ],
    )
}

/// Gap at the factor nearest to one.
fn gap_near(of: &[[f64; 3]], factor: f64) -> f64 {
    let off = |v: &[f64; 3]| (v[0] / factor).ln().abs();
    of.iter().min_by(|a, b| off(a).total_cmp(&off(b))).map_or(f64::NAN, |v| v[2])
}

fn code(n: &Numbers) -> Section {
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
    section(
        "code",
        "What a VAE keeps: posterior collapse is arithmetic",
        vec![
            p(
                "Fix the decoder's noise $s^2$, as people do when they choose the weight of the reconstruction term, and ask for the likeliest weights. Each principal component of variance $\\lambda_k$ decides alone: above the noise it gets a latent, below it none.",
            ),
            f(
                "w_k^2 = \\max(0, \\lambda_k - s^2), \\qquad \\mathrm{KL}_k = \\tfrac12 \\ln\\frac{\\lambda_k}{s^2}, \\qquad \\text{error}_k = \\min(\\lambda_k, s^2)",
            ),
            p(
                "A latent that collapses, whose encoder says $N(0, I)$ for every image, is no failure of training: what it could tell is worth fewer nats than it costs. And these are formulas of another field: reverse water-filling. A linear VAE with given noise is, for Gaussian data, the best \
               code that there is for its error; the KL term is its rate in nats, and $s^2$ is the water level.",
            ),
            figure(
                "digits",
                "Digits, and what decoders of three noise levels make of their codes: the more noise is allowed, the fewer components rise above it.",
                "Four rows of eight 8 by 8 digits: the originals; blurred blobs from few latents; clearer digits; nearly the originals from many latents.",
                vec![digits("", "", vec![], rows, Tone::Ink)],
            ),
            figure(
                "rate",
                &format!(
                    "Left: rate against error. No code lies below the line (the digits' Gaussian taken as their law); VAEs with given noise lie on it, the likeliest VAEs with a given number of latents up to {} bits above. Right: bits of each latent, measured on the digits.",
                    plain(c.excess)
                ),
                "Left: a falling convex curve with dots on it, and others slightly above it. Right: three falling curves over the component number that reach zero bits at component 2 to 7, 10 to 25 and 25 to 45.",
                vec![
                    plot(
                        "Rate and error",
                        Axis::log("share_lost", "share of the variance lost"),
                        Axis::linear("bits", "bits a digit"),
                        vec![
                            Series::new("least rate", along(&c.least.0), along(&c.least.1), Mark::Line, MUTED),
                            Series::new("VAE, noise given", along(&given.0), along(&given.1), Mark::Points, BLUE),
                            Series::new("VAE, size given", along(&sized.0), along(&sized.1), Mark::Points, VERMILION),
                        ],
                    ),
                    plot("Bits of each latent", Axis::linear("k", "component k"), Axis::linear("bits", "bits"), bars.collect()),
                ],
            ),
            p(
                "One more identity says something of latent diffusion. Put the posteriors of all images together: mean by mean the variance is $(\\lambda_k - s^2)/\\lambda_k$, each posterior adds $s^2/\\lambda_k$, and the sum is 1. The latents of a perfect VAE are exactly $N(0, I)$ in their first two moments; on Gaussian data \
               nothing is left for a diffusion model to learn. Real latent models give the KL term a weight of about a millionth: they want the autoencoder to compress and not to model, and leave the modelling to diffusion.",
            ),
            Block::Table(Table {
                caption: "VAEs of given noise, measured on the digits: latents kept, share of the variance lost, rate.".into(),
                head: ["noise $s^2$", "latents", "variance lost", "bits a digit"].map(String::from).to_vec(),
                rows: table.collect(),
            }),
            Block::Evidence(c.evidence.clone()),
        ],
    )
}

fn floor(n: &Numbers) -> Section {
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
    section(
        "floor",
        "What no diffusion brings back",
        vec![
            p(format!(
                "Whatever happens in the latent, the decoder can only make what it can say. With $k$ principal components the sum of the other variances is lost for good, $\\sum_{{i>k}} \\lambda_i$. Photographs compress better than digits: 1 % of the variance is lost with {} of 64 numbers of a digit, and with {} of {} of a patch. \
                 But variance is not what eyes look at: what is lost is all fine, and sharpness is made of it.",
                l.size_for(0, 0.01),
                l.size_for(1, 0.01),
                whole,
            )),
            figure(
                "floor",
                "Digits from their first principal components; part of a photograph in tiles, from the first components of the other photographs; share of the variance lost against the share of numbers kept.",
                "Rows of digits that turn from two or three blurred shapes into readable digits at 8 to 16 numbers. A cat's eye, and the same as flat tiles, as tiles with ramps, as blurred tiles and nearly as it was. Two falling curves on a logarithmic axis, that of photographs far below that of digits at first.",
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
            ),
            Block::Evidence(l.evidence.clone()),
        ],
    )
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

fn diffusion(n: &Numbers) -> Section {
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
    section(
        "diffusion",
        "Two errors, one budget",
        vec![
            p(format!(
                "Now diffuse in the latent: {} from pure noise, with the exact denoiser of the $k$ components, then decode. Sampler and decoder are linear, so what comes out is Gaussian, and its distance to the data is known and splits in two:",
                n.settings.sampler
            )),
            f(
                "W_2^2 = \\underbrace{\\sum_{i>k} \\lambda_i}_{\\text{compression}} + \\underbrace{\\sum_{i\\le k} \\left(\\sqrt{v_i} - \\sqrt{\\lambda_i}\\right)^2}_{\\text{sampler}}",
            ),
            p(
                "The first sum falls with $k$ and no sampler can lower it; the second falls with steps. The curves below leave the floor one after the other: with few steps more latent dimensions buy nothing.",
            ),
            figure(
                "split",
                "Distance of what is generated from the data, over the data's deviation, by size of the latent and number of steps.",
                "Two plots: a falling black curve, the floor of compression, and four curves that follow it at small latents and level off, the higher the fewer steps.",
                vec![split_plot("Digits", of_digits), split_plot("Patches of photographs", of_patches)],
            ),
            p(format!(
                "With the exact denoiser and as many steps as one likes all pixels are best: compression alone never helps. It pays where operations are limited. Let a denoiser of $k$ numbers cost $k^2$ products a step, as a dense linear one does, and the decoder $dk$ once. For the price of {} steps in pixels, patches of {} numbers \
                 come to {} of the deviation; a latent of {} numbers, with {} steps for the same price, to {}.",
                small.steps_in_pixels,
                small.pixels().0,
                tenths(small.pixels().2),
                small.best().0,
                small.best().1,
                tenths(small.best().2),
            )),
            figure(
                "budget",
                "The same distance at equal numbers of operations, in steps of the denoiser of all pixels: small latents get more steps. Discs: the best size.",
                "Two plots of three curves each that fall, reach a least value marked by a disc, and rise to the right end, which is diffusion in pixels; the larger the budget, the further right the disc.",
                vec![budget_plot("Digits", of_digits), budget_plot("Patches of photographs", of_patches)],
            ),
            Block::Table(Table {
                caption: "Equal operations: the best latent, its steps and W₂ over the deviation, against all pixels.".into(),
                head: ["data, budget", "best size", "its steps", "W₂", "steps in pixels", "W₂ in pixels"]
                    .map(String::from)
                    .to_vec(),
                rows: table.collect(),
            }),
            p(
                "And a picture from the law that is no Gaussian: the same noise, projected on latents of several sizes, followed exactly under the empirical law of the digits there, and decoded. Each end is a digit of the data set seen through $k$ components. A smaller latent does not only blur: the noise ends at other digits, since which \
               digit it will be is decided by distances, and distances have lost coordinates.",
            ),
            figure(
                "ends",
                "The same draws of noise in latents of several sizes, decoded. The last row has all components with variance.",
                "Five rows of eight 8 by 8 digits, from blurs of two numbers to crisp digits; many columns show different digits in different rows.",
                vec![digits("", "", vec![], rows.collect(), Tone::Ink)],
            ),
            Block::Evidence(d.evidence.clone()),
        ],
    )
}

fn counts(n: &Numbers) -> Section {
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
    section(
        "counts",
        "64 times cheaper? Counted",
        vec![
            p(format!(
                "Lectures compare images of 512 × 512 × 3 with latents of 64 × 64 × 4 and say “64 times”. There are {} numbers against {}: {} times fewer, since the latent has four channels for three colours. 64 is the ratio of positions. Which of the two counts depends on what is counted, and some of it is neither. \
                 Below, operations of a U-Net with {} million weights are added up from the program that runs it.",
                thousands(a.state),
                thousands(b.state),
                ratio(a.state, b.state),
                plain((pixels.weights as f64 / 1e6 * 10.0).round() / 10.0)
            )),
            f("\\frac{512\\cdot 512\\cdot 3}{64\\cdot 64\\cdot 4} = 48, \\qquad \\left(\\frac{512}{64}\\right)^2 = 64, \\qquad \\left(\\frac{512}{64}\\right)^4 = 4096"),
            p(format!(
                "A convolution between layers of equal width costs in proportion to the positions: 64 ({} here, as products with what lies beyond the border are not computed and a small image has more border). Attention compares all positions with all: 4096. The time's embedding does not know the image: 1. So a step of this network, which attends on its two coarsest levels, is {} times cheaper; without attention {}; attending on all levels {}. \
                 Memory: the state shrinks by 48, activations by {}, the weights, {} MB in single precision in both cases, not at all.",
                ratio(a.convolutions, b.convolutions),
                plain(per_step),
                plain(a.operations() as f64 / b.operations() as f64),
                plain(all.1.operations() as f64 / all.2.operations() as f64),
                ratio(a.activations, b.activations),
                plain(pixels.weights as f64 * 4.0 / 1e6),
            )),
            figure(
                "counts",
                "Left: operations of one step against the image's side, by kind. Right: how many times cheaper a whole run is in the latent, where the decoder runs once and costs as much as some steps in pixels.",
                "Left: straight lines on logarithmic axes: attention is steepest and overtakes the convolutions, the time embedding is flat. Right: curves that rise with the number of steps towards a dashed line; with one step they start near 1 and 4.",
                vec![
                    plot("One step", Axis::log("side", "side of the image, pixels"), Axis::log("operations", "operations"), curves.collect()),
                    plot("A whole run", Axis::log("steps", "steps"), Axis::log("times_cheaper", "times cheaper"), saved),
                ],
            ),
            p(format!(
                "And a run is not a step. The decoder works on all pixels, once. If it costs as much as {} step in pixels, a thousand steps in the latent are {} times cheaper, and a single one costs {} of what it does in pixels: the fewer steps a sampler needs, the less the latent saves.",
                plain(n.settings.decoder_shares.last().copied().unwrap_or(f64::NAN)),
                plain(many),
                percent(1.0 / few),
            )),
            Block::Table(Table {
                caption: "Operations of one step, in 10⁹: 512 × 512 × 3 pixels against a latent of 64 × 64 × 4, by where the network attends.".into(),
                head: ["what", "pixels", "latent", "times"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(c.evidence.clone()),
        ],
    )
}
