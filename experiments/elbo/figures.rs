//! The chapter on the variational bound, made from the numbers of [`crate::elbo::numbers`].

use crate::elbo::numbers::autoencoders::Chain;
use crate::elbo::numbers::bits::Coded;
use crate::elbo::numbers::{Numbers, compute};
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie_report::chapter::{along, command, f, figure, p, picture, plot, section, significant};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Plot, Series, Tone, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("elbo", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "elbo".into(),
        title: "The bound, with every term known".into(),
        lead: "A diffusion model is trained on a bound of its likelihood, derived in half a page that few check. Here every line of it is a number: for one datum, \
               for the digits as a Gaussian, and for a mixture, whose likelihoods are known. It shows where the one inequality is, what more steps and other schedules buy, \
               what the bits are spent on and what the usual loss leaves out of them, and that one network has three likelihoods, of which the bound bounds one."
            .into(),
        command,
        sections: vec![lines(n), limit(n), bits(n), autoencoders(n), models(n)],
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

fn lines(n: &Numbers) -> Section {
    let models = &n.lines.0;
    let colours = [BLUE, GREEN, VERMILION];
    let mut weights: Vec<Series> = Vec::new();
    let mut many: Vec<Series> = Vec::new();
    for (l, colour) in models.iter().zip(colours) {
        weights.push(Series::new(
            l.name,
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
        many.push(Series::new(l.name, along(&l.many.0), along(&l.many.1), Mark::Linked, colour));
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
    section(
        "lines",
        "The derivation, a number a line",
        vec![
            p(format!(
                "Take data that are one number, $x_0 \\sim N(0, {})$, a forward chain of {steps} steps, and a model that samples backwards with a linear denoiser. The model's density at the datum \
                 $x_0 = {}$ is known. With the weight $w$ of a trajectory, the ratio of what the model gives it to how often the forward process draws it, the derivation reads",
                plain(n.settings.lambda),
                plain(n.settings.datum)
            )),
            f("\\ln p(x_0) = \\ln \\mathbb E_q\\, w \\ge \\mathbb E_q \\ln w, \\qquad w = \\frac{p(x_{0:T})}{q(x_{1:T}|x_0)},"),
            f("\\ln w = \\ln p(x_0|x_1) - \\sum_{t=2}^{T} \\ln \\frac{q(x_{t-1}|x_t,x_0)}{p(x_{t-1}|x_t)} - \\ln \\frac{q(x_T|x_0)}{p(x_T)}"),
            p(
                "All equal signs hold, the last one on every single trajectory. The inequality is Jensen's: the mean of a logarithm is below the logarithm of the mean, and by how much is the spread of $\\ln w$, \
                 seen in the left figure. For the exact reversal all trajectories weigh nearly the same, and the bound is nearly tight at four steps. A wrong denoiser, or too small a variance, makes \
                 some trajectories weigh far more than others.",
            ),
            figure(
                "jensen",
                "Left: density of $\\ln w - \\ln p(x_0)$ over trajectories of the forward process; the mean of $w / p(x_0)$ is 1 for all, dashed are the means of the logarithm, the bounds. Right: what is lost if the \
                 bound is made of the mean weight of K trajectories.",
                "Left: the exact reversal is a spike at zero; the other two models are spread over nats, their means below zero. Right: three falling curves on logarithmic axes, the loss falls towards one over K.",
                vec![
                    plot("Weights", Axis::linear("log_weight", "ln w − ln p(x₀), nats").over(-4.0, 2.0), Axis::linear("density", "density").over(0.0, 3.0), weights),
                    plot("Bounds of K trajectories", Axis::log("k", "trajectories K"), Axis::log("nats", "ln p(x₀) − bound, nats"), many),
                ],
            ),
            Block::Table(Table {
                caption: "Each line in nats. Between the second row and the third is the only inequality; what is lost there is the last row, the divergence of the forward process from the model's own posterior of its trajectories.".into(),
                head: std::iter::once("line").chain(models.iter().map(|l| l.name)).map(String::from).collect(),
                rows,
            }),
            p(format!(
                "A slip to look for: one deck's rearranged line lacks $q(x_T|x_0)$ in the denominator. As printed it is not equal to its neighbours: it is off by the entropy of $q(x_T|x_0)$, here {} nats a dimension.",
                decimals(off)
            )),
            Block::Evidence(n.lines.1.clone()),
        ],
    )
}

fn limit(n: &Numbers) -> Section {
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
                    s.name,
                    points.iter().map(|p| p.0),
                    points.iter().map(|p| p.1),
                    if s.name == "the best" { Mark::Dashed } else { mark },
                    colour,
                )
            })
            .collect()
    };
    let mixture = l.mixture.iter().zip([VERMILION, BLUE, GREEN]).map(|((name, nats), colour)| {
        Series::new(*name, along(&l.steps), along(nats), Mark::Linked, colour)
    });
    let gaussian =
        l.gaussian.iter().take(2).zip([VERMILION, ORANGE]).map(|((name, nats), colour)| {
            Series::new(*name, along(&l.steps), along(nats), Mark::Linked, colour)
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
    section(
        "steps",
        "More steps, other schedules",
        vec![
            p(
                "With the posterior's variance, a transition costs half the drop of the SNR times the squared error at its noisier end. Summed over many small steps that is an integral, and the integral does not know in which time it was walked through:",
            ),
            f(
                "\\sum_{t} \\tfrac12 \\big(\\mathrm{SNR}(t-1) - \\mathrm{SNR}(t)\\big)\\, \\mathbb E \\lVert x_0 - \\hat x_0 \\rVert^2 \\;\\to\\; \\tfrac12 \\int \\mathbb E \\lVert x_0 - \\hat x_0 \\rVert^2\\, \\mathrm d\\,\\mathrm{SNR}",
            ),
            p(format!(
                "So in the limit the schedule does not matter: only its two ends do. At any finite $T$ it does. For Gaussian data the loss above the limit of {} nats can be written down. With $\\ell = \\ln \\mathrm{{SNR}}$ at \
                 share $u$ of the way, and the Wiener gains $w_k$ of the components,",
                three(l.transitions)
            )),
            f(
                "\\text{loss} = \\frac1T \\cdot \\frac14 \\int_0^1 \\lVert w(\\ell) \\rVert^2 \\left(\\frac{\\mathrm d \\ell}{\\mathrm d u}\\right)^2 \\mathrm d u + O(T^{-2}) \\ge \\frac1T \\left( \\frac12 \\int \\lVert w(\\ell) \\rVert\\, \\mathrm d \\ell \\right)^2",
            ),
            f("w_k = \\frac{e^\\ell \\lambda_k}{1 + e^\\ell \\lambda_k}"),
            p(format!(
                "by Cauchy and Schwarz, with equality for the schedule that spends its time in proportion to $\\lVert w \\rVert$: none at the noisy end, where there is nothing to be lost, and evenly in log-SNR at the clean end. \
                 For the digits from log-SNR {} to {} VP's linear β has {} times the loss of the best schedule, flow matching {} times, the cosine {} times.",
                plain(noisy),
                plain(clean),
                three(constant("VP, linear β") / constant("the best")),
                three(constant("flow matching") / constant("the best")),
                three(constant("cosine") / constant("the best")),
            )),
            figure(
                "schedules",
                &format!(
                    "The digits' Gaussian. Left: nats that the bound loses to its limit, posterior variance. Right: the cost of each of {} transitions along the way; each curve adds up to the limit and what is lost.",
                    n.settings.drawn_steps
                ),
                "Left: five parallel falling lines of slope minus one, the best schedule lowest. Right: on a logarithmic axis, falling curves: VP, cosine and flow matching pay most in the first transitions, the best schedule pays nearly evenly along the way.",
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
                        by_schedule(
                            &|s| s.terms.iter().map(|t| (t[0], t[3])).collect(),
                            Mark::Line,
                        ),
                    ),
                ],
            ),
            Block::Table(Table {
                caption: format!(
                    "Nats lost by the digits' Gaussian with the posterior variance, and what the loss times T goes to. The limit itself is {} nats for all.",
                    three(l.transitions)
                ),
                head: vec![
                    "schedule".into(),
                    format!("T = {}", l.steps[1]),
                    format!("T = {}", l.steps[3]),
                    format!("T = {}", l.steps[finest]),
                    "loss × T".into(),
                ],
                rows: rows.collect(),
            }),
            p(format!(
                "The variance matters as well. For a Gaussian the best one of each component loses nothing at any $T$. For other data the reverse step is no Gaussian, and something is lost at finite $T$ whatever is done. How fast that goes \
                 depends on what the variance may know: with the posterior's or the best constant one as $1/T$, with the best one for each state $x_t$, which is $\\tilde\\beta_t$ plus what $x_t$ leaves open of $x_0$, \
                 as $1/T^2$ (measured on the mixture: orders {}, {} and {}). A network that learns the variance of each state buys an order.",
                three(order(&l.mixture[0].1)),
                three(order(&l.mixture[1].1)),
                three(order(&l.mixture[2].1))
            )),
            figure(
                "variances",
                "Steps even in log-SNR. Left: the digits' Gaussian with the two variances in use; the best one of each component loses nothing and is not on this axis. Right: the mixture of three on a line, with three choices of the variance.",
                "Left: two falling lines of slope minus one. Right: the posterior variance and the best constant one fall with slope minus one, the best variance for each state with slope minus two and far below.",
                vec![
                    plot("Digits' Gaussian", steps(), lost(), gaussian.collect()),
                    plot("Mixture", steps(), lost(), mixture.collect()),
                ],
            ),
            Block::Evidence(l.evidence.clone()),
        ],
    )
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

fn bits(n: &Numbers) -> Section {
    let b = &n.bits;
    let [digits, photos] = &b.coded;
    let rate = b.coded.iter().zip([BLUE, VERMILION]).map(|(c, colour)| {
        Series::new(
            c.name,
            c.curve.iter().map(|v| v[1]),
            c.curve.iter().map(|v| 100.0 * v[2]),
            Mark::Line,
            colour,
        )
    });
    let along_way = b.coded.iter().zip([BLUE, VERMILION]).map(|(c, colour)| {
        Series::new(
            c.name,
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
            o.name,
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
    section(
        "bits",
        "What the bits are spent on",
        vec![
            p(
                "The terms of the bound can be read as a message: each transition sends what the picture at the next lower noise tells more. After the steps down to noise level σ the receiver knows, of a Gaussian,",
            ),
            f("\\frac{1}{2 \\ln 2} \\sum_k \\ln\\left(1 + \\frac{\\lambda_k}{\\sigma^2}\\right) \\text{ bits}, \\qquad \\text{and is off by } \\mathbb E\\lVert x_0 - \\hat x_0\\rVert^2 = \\sum_k \\frac{\\lambda_k \\sigma^2}{\\lambda_k + \\sigma^2}."),
            p(format!(
                "The pictures show what has arrived. A photograph (each tile of 8 × 8 pixels is taken for a draw of the Gaussian of such tiles of five photographs, so the tiles' borders show) is as good as complete to the eye when it is right to 2 % of the range: that \
                 takes {} bits a pixel. The bound goes on counting: down to the rounding noise of 256 grey levels it is {} bits, of which {} % are spent on what nobody sees. For the digits, down to the same noise, it is {} bits; at $\\sigma = {}$, with {} bits a pixel, the shape is there.",
                three(visible(photos)),
                three(end(photos)),
                three(100.0 * (1.0 - visible(photos) / end(photos))),
                three(end(digits)),
                plain(n.settings.picture_sigmas[middle]),
                three(digits.bits[middle])
            )),
            figure(
                "photograph",
                "A piece of a photograph on its way (states on the variance-preserving scale), and the best estimate from it. Below each: bits a pixel received so far, mean over the law.",
                "Two rows of seven pictures of a face from pure noise to a clean picture. The estimates begin as flat grey tiles, become a blurred and then a sharp face from the middle of the row on, long before most bits have been received.",
                vec![strips(n, photos)],
            ),
            figure(
                "digit",
                "The same for a digit under the digits' Gaussian.",
                "Two rows of seven small pictures of a digit from noise to clean; the estimate starts as the blurred mean of all digits and becomes a three by the middle of the row.",
                vec![strips(n, digits)],
            ),
            figure(
                "rate",
                "Left: error against bits received. Right: bits received against the noise level; each halving of a low noise level costs one bit in every component, whatever the picture.",
                "Left: two curves that fall steeply within the first half bit and then straight, by a factor two a bit. Right: two curves rising from zero as the noise falls, straight on the logarithmic axis at low noise.",
                vec![
                    plot("Rate and distortion", Axis::linear("bits", "bits a pixel"), Axis::log("error_percent", "error of a pixel, % of the range"), rate.collect()),
                    plot("Bits along the way", Axis::log("sigma", "noise level σ (sampling runs to the right)").over(30.0, digits.curve[digits.curve.len() - 1][0]), Axis::linear("bits", "bits a pixel"), along_way.collect()),
                ],
            ),
            p("Training does not use the bound as it is. A transition's divergence is a weighted squared error of whatever the network predicts,"),
            f("\\mathrm{KL}_t = \\tfrac12\\Big(\\frac{\\mathrm{SNR}(t-1)}{\\mathrm{SNR}(t)} - 1\\Big) \\lVert \\varepsilon - \\hat\\varepsilon \\rVert^2 = \\tfrac12 \\big(\\mathrm{SNR}(t-1) - \\mathrm{SNR}(t)\\big) \\lVert x_0 - \\hat x_0 \\rVert^2 = \\dots"),
            p(format!(
                "and the usual loss puts weight 1 on the error of ε instead. On the linear schedule the bound's weight is {} at $t = 2$ and {} at $t = T$: the bound weights the <em>clean</em> steps up (one deck has it rising like $1/\\mathrm{{SNR}}$, with the opposite sign in the argument and the \
                 same conclusion). Seen over noise levels, the plain ε-loss takes weight from the bits that nobody sees and gives it to the levels where the picture is decided.",
                three(first[1]),
                three(last[1])
            )),
            figure(
                "weights",
                "Left: weights of the squared errors in a transition's divergence, linear schedule, posterior variance. Right: how each objective spreads over log-SNR for the digits, each scaled to area 1 over the range drawn.",
                "Left: on a logarithmic axis the weight of the x0 error falls by more than eight orders of magnitude along the schedule, that of eps by about two, v's in between. Right: the bound rises to a plateau at high SNR; the three losses are bumps at lower SNR.",
                vec![
                    plot("Weights in the divergence", Axis::linear("t_over_T", "t / T").over(0.0, 1.0), Axis::log("weight", "weight"), weights),
                    plot("Share of the objective", Axis::linear("log_snr", "log-SNR (data on the right)").over(-9.0, 9.0), Axis::linear("share", "share per unit of log-SNR"), shares.collect()),
                ],
            ),
            Block::Table(Table {
                caption: "Noise levels σ/α above which lie a quarter, half and three quarters of an objective on the digits (exact denoiser, log-SNR from −9 to 9), and what a digit has received at the middle one.".into(),
                head: ["objective", "¼ above", "½ above", "¾ above", "bits a pixel there", "error there"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(b.evidence.clone()),
        ],
    )
}

fn autoencoders(n: &Numbers) -> Section {
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
    section(
        "autoencoders",
        "One autoencoder, or a chain of them",
        vec![
            p(
                "A chain of one step is a variational autoencoder whose encoder, $q(z|x) = N(\\alpha x, \\sigma^2)$, has nothing to learn, and whose best decoder has the denoiser as its mean. One deck introduces diffusion this way: train one for every \
                 noise level, with decoder $N(z - t\\,\\hat\\varepsilon(z), t^2)$ at noise $t$, and all objectives become the same squared error of ε, so that one network can serve them all. That is right, if the second parameter is read as a standard deviation. But it does \
                 not say why one should want all of them: <em>each</em> of those autoencoders is a model of the data. How good is it?",
            ),
            f("-\\mathrm{ELBO} = \\mathrm{KL}\\big(q(z|x_0)\\,\\|\\,N(0, 1)\\big) + \\mathbb E_q\\big[-\\ln p(x_0|z)\\big]"),
            p(format!(
                "On the mixture of three everything is known. With little noise in its code an autoencoder reconstructs well, but the codes are as lumpy as the data and the prior is not; with much noise the codes are as the prior wants them and say nothing. The best single \
                 one is at σ/α = {}, and its bound is {} nats above the entropy. It gains {} nats from a decoder variance that depends on the code over one constant variance there; with the deck's variance $(\\sigma/\\alpha)^2$, which is right only where \
                 the noise is small, it is worse at every level. Chains, here with levels at even angles, are better from four steps on: every step then has a small gap to bridge, small enough for a Gaussian.",
                three(a.best.angles[0].tan()),
                three(a.best.bound),
                three(a.single.iter().find(|s| s[0] == a.best.angles[0]).map_or(f64::NAN, |s| s[3] - s[2]))
            )),
            figure(
                "densities",
                "What the models sample: codes from N(0, 1), decoded with the best mean and the best variance of each code.",
                "Four plots of densities on a line. Data: three peaks. The autoencoder of low noise gives peaks with mass smeared between and outside; the middle one broad peaks; the one of high noise one broad bump; the chain nearly the data.",
                drawn,
            ),
            figure(
                "single",
                "What the bound of a single autoencoder exceeds the entropy by, against the noise in its code, for three choices of the decoder's variance; dashed lines across: chains of T steps, variance of each state.",
                "On logarithmic axes: curves for single autoencoders are high at both ends with a minimum in the middle; dashed horizontal lines of the chains lie below them, lower for more steps.",
                vec![Drawing::Plot(single)],
            ),
            Block::Table(Table {
                caption: "The bound over the entropy splits in two: what the model really loses, KL(data ‖ produced law), by quadrature of its density, and what the bound does not see of the model's likelihood, Jensen's part. Nats.".into(),
                head: ["model", "bound − entropy", "lost", "Jensen's part"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(a.evidence.clone()),
        ],
    )
}

fn models(n: &Numbers) -> Section {
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
    section(
        "models",
        "One network, three likelihoods",
        vec![
            p(
                "A denoiser is not yet a model. Sampled with noise (ancestral sampling, the reverse SDE) it makes one law, sampled without (DDIM, the probability-flow ODE) another, and the likelihood that is computed by change of variables along the ODE is that of \
                 the second. For the exact denoiser the three agree. For a wrong one they do not, and the bound is a statement on the first only:",
            ),
            f(
                "\\mathrm{KL}(\\text{data}\\,\\|\\,p_{\\text{SDE}}) \\;\\le\\; \\tfrac12 \\int \\mathbb E\\lVert \\hat\\varepsilon - \\varepsilon^\\star \\rVert^2\\, \\mathrm d \\ell, \\qquad p_{\\text{ODE}}\\text{: no such bound}",
            ),
            p(format!(
                "Let the data be $N(0,1)$, and let the denoiser be right but for an error of {} in ε (root mean square) around one noise level. The bound charges it the same wherever it is made (but for what the two ends cut off). The stochastic sampler forgets: \
                 what goes wrong at high noise is drowned by the noise that comes after, and costs nearly nothing. The deterministic one never forgets: an error at high noise moves the whole sample and stays. Where \
                 the error is confined to a narrow band its loss is below the bound; where it is wide, its loss is up to {} times the bound. So a low bound is no promise on the samples of a deterministic sampler, nor on its exact likelihood.",
                plain(n.settings.eps_error),
                three(most(2))
            )),
            figure(
                "three",
                "Nats that each model loses, against the place of the error, for a narrow error and a wide one.",
                "Two plots on logarithmic axes against log-SNR. The bound is flat. The stochastic sampler's loss falls steeply towards the noisy end. The deterministic sampler's is flat at the noisy end and falls towards the data; in the wide case it lies above the bound.",
                plots.collect(),
            ),
            Block::Evidence(m.evidence.clone()),
        ],
    )
}
