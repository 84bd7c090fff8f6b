//! The chapter on preconditioning, targets, weights and averages, made from the numbers of
//! [`crate::preconditioning::numbers`].

use crate::preconditioning::numbers::{Numbers, Settings, compute};
use ndarray::Array2;
use serde_json::{Value, json};
use tweedie::diffusion::prediction::Prediction;
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie_report::chapter::{
    along, as_json, command, digits, f, figure, p, percent, picture, plot, section, settings as own,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::{Context, Embedded, Text};
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// The settings as the manifest has them: its own, and the recipe that it shares with `grf`.
pub fn settings(text: Option<&Text>) -> Result<Value> {
    let shared = crate::grf::numbers::Settings::current()?.train;
    Ok(json!({ "experiment": own::<Settings>(text)?, "recipe": as_json(&shared)? }))
}

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("preconditioning", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "preconditioning".into(),
        title: "Preconditioning: what the network is asked".into(),
        lead: "Predict the image, the noise, a velocity, or EDM's F: the best answer to each is the same answer. What differs is everything around it: how large the network's input and output are, what a network that knows nothing already does, \
               how much of the target can be known at all, what an error of the output becomes on its way to the image, and which noise levels the loss is made of. All of that is exact, and most of it can be seen."
            .into(),
        command,
        sections: vec![scalings(n), targets(n), amplified(n), times(n), averaging(n)],
    }
}

/// Three digits after the point at most.
fn three(v: f64) -> String {
    plain((v * 1e3).round() / 1e3)
}

fn name(kind: Prediction) -> &'static str {
    match kind {
        Prediction::X0 => "x₀",
        Prediction::Eps => "ε",
        Prediction::V => "v",
        Prediction::Velocity => "velocity",
        Prediction::Score => "score",
        Prediction::F => "F",
    }
}

/// Rows of digits of 28 x 28 pixels at the levels of the settings.
fn strips(
    n: &Numbers,
    heading: &str,
    columns: Vec<String>,
    rows: Vec<(String, &Array2<f64>)>,
    tone: Tone,
) -> Drawing {
    let columns = if columns.is_empty() {
        n.settings.pictures.sigmas.iter().map(|s| plain(*s)).collect()
    } else {
        columns
    };
    let row = |(label, x): (String, &Array2<f64>)| {
        let pictures: Vec<Picture> =
            x.rows().into_iter().map(|r| picture(r.iter().copied(), "")).collect();
        (label, pictures)
    };
    let rows = rows.into_iter().map(row).collect();
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: heading.into(),
        columns,
        rows,
        shape: (28, 28),
        tone,
    })
}

fn sigma() -> Axis {
    Axis::log("sigma", "noise level σ")
}

fn scalings(n: &Numbers) -> Section {
    let s = &n.scalings;
    let colours = [VERMILION, ORANGE, GREEN];
    let names = ["c_skip", "c_out", "c_in"];
    let coefficients = s.coefficients.iter().zip(names).zip([BLUE, VERMILION, GREEN]);
    let coefficients = coefficients
        .map(|((y, name), colour)| {
            Series::new(name, along(&s.sigmas), along(y), Mark::Line, colour)
        })
        .collect();
    let measured = |of: &dyn Fn(usize) -> (Vec<f64>, Vec<f64>)| -> Vec<Series> {
        let mut series = Vec::new();
        for (k, (c, colour)) in s.choices.iter().zip(colours).enumerate() {
            let (exact, points) = of(k);
            series.push(Series::new(
                format!("σ_data = {}", three(c.sigma_data)),
                along(&s.sigmas),
                exact,
                Mark::Line,
                colour,
            ));
            series.push(Series::new(
                format!("_measured, {}", three(c.sigma_data)),
                along(&s.probes),
                points,
                Mark::Points,
                colour,
            ));
        }
        series
    };
    let mut silent: Vec<Series> = s
        .silent
        .iter()
        .zip([VERMILION, BLUE, GREEN, PURPLE])
        .map(|(q, colour)| {
            Series::new(name(q.kind), along(&s.sigmas), along(&q.error), Mark::Line, colour)
        })
        .collect();
    silent.push(Series::new("best linear", along(&s.sigmas), along(&s.least), Mark::Dashed, INK));
    let rows =
        s.data.iter().map(|d| vec![d.name.clone(), three(d.mean), three(d.std), three(d.rms)]);
    let first = &s.data[0];
    let edm = &s.choices[0];
    let mut pictures = vec![("what comes in, x / √(1 + σ²)".to_string(), &s.noised)];
    let said = [
        (1, "x₀-prediction: 0 is grey"),
        (0, "ε-prediction: the input"),
        (3, "F-prediction: c_skip of the input"),
    ];
    pictures.extend(said.iter().map(|(k, text)| ((*text).to_string(), &s.silent[*k].pictures)));
    section(
        "scalings",
        "Unit variance, and whose?",
        vec![
            p(
                "A network trains best on inputs and targets of about unit size at every noise level. EDM gets there by scalings around the network: what comes in is $y = x_0 + \\sigma z$, and the denoiser is",
            ),
            f(
                "D(y) = c_{\\text{skip}}\\, y + c_{\\text{out}}\\, F_\\theta(c_{\\text{in}}\\, y), \\qquad F^* = \\frac{x_0 - c_{\\text{skip}}\\, y}{c_{\\text{out}}}",
            ),
            f(
                "c_{\\text{skip}} = \\frac{\\sigma_{\\text{data}}^2}{\\sigma^2 + \\sigma_{\\text{data}}^2}, \\qquad c_{\\text{out}} = \\frac{\\sigma\\, \\sigma_{\\text{data}}}{\\sqrt{\\sigma^2 + \\sigma_{\\text{data}}^2}}, \\qquad c_{\\text{in}} = \\frac{1}{\\sqrt{\\sigma^2 + \\sigma_{\\text{data}}^2}}",
            ),
            p(format!(
                "Unit variance of the input fixes $c_{{\\text{{in}}}}$, that of the target fixes $c_{{\\text{{out}}}}$ once $c_{{\\text{{skip}}}}$ is chosen, and $c_{{\\text{{skip}}}}$ is chosen to make $c_{{\\text{{out}}}}$, by which an error is multiplied, least. One thing is left to ask, and is often \
                 not asked: <em>which</em> $\\sigma_{{\\text{{data}}}}$? The derivation takes the mean to be 0. Images in $[-1, 1]$ have one, so that the number wanted is not the deviation but the root mean square. EDM's code has {}, \
                 and the digits here {}: with {} the target is up to {} times as large as meant (at high noise, where the network has to say the image), and with the deviation about the mean, {}, still {} times.",
                plain(edm.sigma_data),
                three(first.rms),
                plain(edm.sigma_data),
                three(edm.target.iter().copied().fold(0.0, larger)),
                three(first.std),
                three(s.choices[1].target.iter().copied().fold(0.0, larger)),
            )),
            figure(
                "scalings",
                "(a) EDM's coefficients. (b), (c) Size of the network's input and target on the digits; dots are measured on noised digits. (d) Error of a denoiser whose network says 0, with the digits' root mean square for $\\sigma_{\\text{data}}$.",
                "Four plots against the noise level. A falling skip, a rising and levelling output scale and a falling input scale. Sizes of input and target for three choices of sigma data: only the root mean square keeps both at 1. Errors of silent networks: eps rises without bound, x0 is flat, F is the lower envelope.",
                vec![
                    plot(
                        "(a) Coefficients",
                        sigma(),
                        Axis::log("coefficient", "coefficient").over(1e-3, 4.0),
                        coefficients,
                    ),
                    plot(
                        "(b) Input",
                        sigma(),
                        Axis::linear("rms", "root mean square"),
                        measured(&|k| {
                            (s.choices[k].input.clone(), s.choices[k].measured[0].clone())
                        }),
                    ),
                    plot(
                        "(c) Target",
                        sigma(),
                        Axis::linear("rms", "root mean square"),
                        measured(&|k| {
                            (s.choices[k].target.clone(), s.choices[k].measured[1].clone())
                        }),
                    ),
                    plot(
                        "(d) Before training",
                        sigma(),
                        Axis::log("error", "squared error a pixel").over(1e-4, 1e3),
                        silent,
                    ),
                ],
            ),
            Block::Table(Table {
                caption:
                    "Pixels of three data sets in [−1, 1]: unit variances ask for the last column."
                        .into(),
                head: ["data", "mean", "deviation", "root mean square"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            p(
                "What is a skip good for? A fresh network ends in a layer of zeros and says 0. What that means depends on what it predicts: no image at all, no noise at all, or $c_{\\text{skip}}\\, y$, which is the best denoiser that knows nothing of images but \
                 their size. Training begins where a Wiener filter of one number ends.",
            ),
            figure(
                "silent",
                "Denoisers that have learnt nothing: a network of output 0 behind each prediction.",
                "Four rows of eight pictures of a handwritten digit from little noise to much. The noised digit; a row of grey; the noised digit again, which becomes pure black and white noise; and the noised digit that fades into grey.",
                vec![strips(n, "noise level σ", vec![], pictures, Tone::Ink)],
            ),
            Block::Evidence(s.evidence.clone()),
        ],
    )
}

fn targets(n: &Numbers) -> Section {
    let t = &n.targets;
    let mut rows = vec![("input x".to_string(), &t.noised)];
    for target in [&t.targets[0], &t.targets[1], &t.targets[2]] {
        rows.push((format!("target {}", name(target.kind)), &target.pictures));
        rows.push((format!("best linear prediction of {}", name(target.kind)), &target.best));
    }
    let colours = [BLUE, VERMILION, GREEN, PURPLE];
    let mut unknown: Vec<Series> = Vec::new();
    for (target, colour) in t.targets.iter().zip(colours) {
        unknown.push(Series::new(
            name(target.kind),
            along(&t.sigmas),
            along(&target.unknown),
            Mark::Line,
            colour,
        ));
        unknown.push(Series::new(
            format!("_{}, digits", name(target.kind)),
            along(&t.probes),
            along(&target.sampled),
            Mark::Points,
            colour,
        ));
    }
    let sizes = t.targets.iter().zip(colours);
    let sizes = sizes
        .map(|(target, colour)| {
            Series::new(name(target.kind), along(&t.sigmas), along(&target.rms), Mark::Line, colour)
        })
        .collect();
    section(
        "targets",
        "Same answer, other questions",
        vec![
            p(
                "Each target is a combination of the image and the noise, and $x_t = \\alpha x_0 + \\sigma \\varepsilon$ is another. Whoever knows one target, and the input, knows all; the best prediction of each is the same combination of $\\mathbb E[x_0 | x_t]$ and $x_t$:",
            ),
            f(
                "v = \\alpha\\, \\varepsilon - \\sigma\\, x_0, \\qquad F = \\frac{\\sigma\\, x_0 - \\alpha\\, \\sigma_{\\text{data}}^2\\, \\varepsilon}{\\sigma_{\\text{data}} \\sqrt{\\sigma^2 + \\alpha^2 \\sigma_{\\text{data}}^2}}",
            ),
            p(
                "But the questions look different. With little noise the image can be read off the input, and the noise is what is left over: asked for $\\varepsilon$ a network has to find a faint grain exactly. With much noise it is the other way round: \
                 $\\varepsilon$ is the input itself, and asked for $x_0$ a network can only say the mean of all images. The targets $v$ and $F$ go over from the one to the other: always the part that can't be read off. (At little noise the noise is told where digits never are, at the border: there the image is known, and the rest is noise.)",
            ),
            figure(
                "targets",
                "One digit in noise, its targets, and the best linear prediction of each, which knows the mean and the covariance of MNIST's 10,000 digits. Blue is negative, red positive, each picture on its own scale.",
                "Seven rows of eight pictures from little noise to much: the noised digit; the digit, and its prediction, sharp at first and a blurred mean of all digits at last; noise, and its prediction, right at the border at first and everywhere at last; and v, which is noise at first and the negative of the digit at last.",
                vec![strips(n, "noise level σ", vec![], rows, Tone::Diverging)],
            ),
            p(
                "Is it true that noise prediction is the even task, because $\\lVert \\varepsilon \\rVert$ is the same at every level? So is the size of $x_0$; what changes is how much of it can be known. As shares of the target's mean square the unknowable parts \
                 of $x_0$ and of $\\varepsilon$ add up to 1 for data of one variance: what the input tells of one it leaves open in the other. With the digits' covariance both are less, because pixels tell of each other, and $x_0$ is never quite unknown: \
                 its mean is not. And if the data are the 1,797 digits and nothing else (dots), then at little noise even $\\varepsilon$ is known, to whoever knows them by heart. A network that has learnt what digits look like, and none of them by heart, lies between the lines and the dots.",
            ),
            figure(
                "unknown",
                "Left: share of each target that no network can know, for Gaussian data with the digits' covariance, and for the 1,797 digits themselves (dots). Right: size of the targets.",
                "Left: the unknown share of x0 rises with the noise from 0 to two fifths, that of eps falls from nearly 1 to 0, those of v and F follow eps at little noise and x0 at much; the dots are 0 up to a noise level of a half and join the lines at much noise. Right: eps and F are 1 everywhere, x0 is constant, v goes from 1 to the size of the data.",
                vec![
                    plot(
                        "What can't be known",
                        sigma(),
                        Axis::linear("share", "share of the mean square").over(0.0, 1.0),
                        unknown,
                    ),
                    plot(
                        "Size",
                        sigma(),
                        Axis::linear("rms", "root mean square").over(0.0, 1.2),
                        sizes,
                    ),
                ],
            ),
            Block::Evidence(t.evidence[0].clone()),
        ],
    )
}

fn amplified(n: &Numbers) -> Section {
    let t = &n.targets;
    let colours = [BLUE, VERMILION, GREEN, PURPLE];
    let mut factors: Vec<Series> = t
        .targets
        .iter()
        .zip(colours)
        .map(|(q, colour)| {
            Series::new(name(q.kind), along(&t.sigmas), along(&q.amplification), Mark::Line, colour)
        })
        .collect();
    factors.push(Series::new(
        "flow velocity",
        along(&t.sigmas),
        along(&t.velocity),
        Mark::Dashed,
        ORANGE,
    ));
    let rows =
        t.targets.iter().map(|q| (format!("{}-prediction", name(q.kind)), &q.spoilt)).collect();
    let top = n.settings.pictures.sigmas[n.settings.pictures.sigmas.len() - 1];
    section(
        "amplified",
        "From an error of the output to an error of the image",
        vec![
            p(format!(
                "A network is never right. Let its output be off by the same small error, {} in each pixel, whatever it predicts. On the way to $\\hat x_0$ that error is multiplied by a factor that depends on the prediction and the noise level alone:",
                plain(n.settings.pictures.error)
            )),
            f(
                "x_0: 1, \\qquad \\varepsilon: \\frac{\\sigma}{\\alpha}, \\qquad v: \\frac{\\sigma}{\\alpha^2 + \\sigma^2}, \\qquad \\text{velocity}: t, \\qquad F: c_{\\text{out}}",
            ),
            figure(
                "spoilt",
                "The digit from the right output plus one and the same error of the network, at eight noise levels.",
                "Four rows of eight pictures of a digit. With x0-prediction the same faint grain at every level; with eps no grain at little noise and nothing but grain at much; with v and F no grain at little noise and a faint one at much.",
                vec![strips(n, "noise level σ", vec![], rows, Tone::Ink)],
            ),
            p(format!(
                "At $\\sigma = {}$ an error of the noise is {} times as large in the image: a sampler that starts there begins with a guess that is nowhere near an image. An error of $x_0$ costs the same everywhere, also where the input has less noise than the network \
                 has error, and leaving the input alone would have been better. $v$ and $F$ avoid both: their factors fall with the noise at the clean end and are bounded at the other, by 1 and by $\\sigma_{{\\text{{data}}}}$.",
                plain(top),
                plain(top)
            )),
            figure(
                "factors",
                "Error of the image over the error of the output. The dashed line is flow matching's velocity, on its own path.",
                "Curves against the noise level on logarithmic axes: x0 is flat at 1, eps rises without bound, v and the velocity rise and level off at 1, F levels off a little lower.",
                vec![plot(
                    "",
                    sigma(),
                    Axis::log("factor", "error of x₀ / error of the output").over(3e-3, 100.0),
                    factors,
                )],
            ),
            Block::Evidence(t.evidence[1].clone()),
        ],
    )
}

fn times(n: &Numbers) -> Section {
    let t = &n.times;
    let colours: [Colour; 6] = [VERMILION, BLUE, GREEN, ORANGE, PURPLE, SKY];
    let weights = t.weights.iter().zip(colours);
    let weights = weights
        .map(|(w, colour)| {
            Series::new(w.name, along(&t.sigmas), along(&w.on_x0), Mark::Line, colour)
        })
        .collect();
    let line = |k: usize, y: &[f64]| {
        let mark = if k == 1 { Mark::Dashed } else { Mark::Line };
        Series::new(
            t.recipes[k].name,
            along(&t.sigmas),
            along(y),
            mark,
            [VERMILION, MUTED, PURPLE, BLUE, GREEN][k],
        )
    };
    let densities = [0, 2, 3, 4].map(|k| line(k, &t.recipes[k].density)).into();
    let losses = (0..t.recipes.len()).map(|k| line(k, &t.recipes[k].loss)).collect();
    let shown =
        [0, 2, 3, 4].map(|k| (t.recipes[k].name.to_string(), &t.recipes[k].pictures)).into();
    let quantiles = n.settings.pictures.quantiles.iter().map(|q| percent(*q)).collect();
    let rows = t.recipes.iter().enumerate().filter(|(k, _)| *k != 1).map(|(_, r)| {
        let mut row = vec![r.name.to_string()];
        row.extend(r.quantiles.iter().map(|s| three(*s)));
        row
    });
    let head = ["recipe".to_string()]
        .into_iter()
        .chain(n.settings.pictures.quantiles.iter().map(|q| percent(*q)))
        .collect();
    section(
        "times",
        "What the loss is made of",
        vec![
            p(
                "Because an error of one prediction is a multiple of the error of another, every loss is a loss of $x_0$ with a weight for each noise level. Choosing a prediction with a plain loss is choosing a weight; the weightings of the literature are others; and how often a level is drawn in training multiplies in:",
            ),
            f(
                "\\mathcal L = \\int p(\\ln \\sigma)\\; w(\\sigma)\\; \\mathbb E \\lVert \\hat x_0 - x_0 \\rVert^2\\, d \\ln \\sigma, \\qquad w_\\varepsilon = \\mathrm{SNR}, \\quad w_v = \\mathrm{SNR} + 1, \\quad w_F = \\mathrm{SNR} + \\frac{1}{\\sigma_{\\text{data}}^2}, \\quad w_{\\text{min-SNR}} = \\min(\\mathrm{SNR}, 5)",
            ),
            p(
                "Two recipes that differ in everything, path, prediction and law of times, can so be laid on one axis. On it, logit-normal times of flow matching are log-normal noise levels, as EDM's are, only with more noise; and drawing $t$ evenly \
                 on a path is never even: DDPM spends its times at high noise.",
            ),
            figure(
                "weights",
                "Left: weight of a squared error of the image, 1 at σ = 1. Right: how often a noise level is drawn in training.",
                "Left: falling lines on logarithmic axes, eps steepest, min-SNR and sigmoid flat at little noise, v and F flat at much. Right: four bumps over the noise level: EDM at the least noise, flow matching around 1, DDPM at the most.",
                vec![
                    plot(
                        "Weight on the error of x₀",
                        sigma(),
                        Axis::log("weight", "weight").over(1e-4, 1e4),
                        weights,
                    ),
                    plot(
                        "Training times",
                        sigma(),
                        Axis::linear("density", "density over ln σ"),
                        densities,
                    ),
                ],
            ),
            figure(
                "seen",
                "What the network gets to see: the digit at those noise levels below which the given share of its training times lies.",
                "Four rows of seven pictures of a digit with more and more noise. EDM's row stays legible to its middle and beyond; DDPM's is noise from its middle on; those of flow matching lie between.",
                vec![strips(n, "share of the training times", quantiles, shown, Tone::Ink)],
            ),
            Block::Table(Table {
                caption: "Noise levels σ/α below which the given share of the training times lies."
                    .into(),
                head,
                rows: rows.collect(),
            }),
            p(format!(
                "Where does the loss come from in the end? Put the best denoiser in: what is left is the loss that no network can remove. Times and loss need not meet. DDPM's recipe spends half of its times above $\\sigma = {}$, where only {} of that loss is: there \
                 $\\varepsilon$ is the input, and nearly every step is a step on what is known already. Min-SNR moves the loss away from little noise, not the times. EDM's law of times lies where its loss lies: {} of it above the median of the times.",
                three(t.recipes[0].halves[0]),
                percent((t.recipes[0].halves[2] * 1e3).round() / 1e3),
                percent((t.recipes[2].halves[2] * 1e3).round() / 1e3),
            )),
            figure(
                "loss",
                "Share of the least weighted loss for each unit of ln σ, for Gaussian data with the digits' covariance.",
                "Five bumps over the noise level, between a hundredth and ten: those of DDPM and EDM to the left of a half, those of flow matching to the right of it, that of min-SNR the narrowest, cut off to the left.",
                vec![plot(
                    "",
                    sigma(),
                    Axis::linear("share", "share of the loss for each unit of ln σ"),
                    losses,
                )],
            ),
            Block::Evidence(t.evidence.clone()),
        ],
    )
}

fn averaging(n: &Numbers) -> Section {
    let a = &n.averaging;
    let s = &n.settings.averaging;
    let label = |decay: f64| {
        if decay == 0.0 { "weights".to_string() } else { format!("average, {}", plain(decay)) }
    };
    let colours = [VERMILION, ORANGE, GREEN, BLUE, PURPLE];
    let excess = a.averages.iter().zip(colours);
    let excess = excess
        .map(|(v, colour)| {
            Series::new(label(v.decay), along(&a.steps), along(&v.excess), Mark::Line, colour)
        })
        .collect();
    let (windows, curves) = &a.curves;
    let curves = curves.iter().zip([INK, BLUE, GREEN, VERMILION]);
    let curves = curves
        .map(|((c, y), colour)| {
            Series::new(format!("a = {}", plain(*c)), along(windows), along(y), Mark::Line, colour)
        })
        .collect();
    let filter = |values: &[f64], note: String| picture(values.iter().copied(), note);
    let mut filters = vec![filter(&a.exact, "exact".into())];
    filters.extend(a.averages.iter().map(|v| {
        filter(&v.filter, if v.decay == 0.0 { "weights".into() } else { plain(v.decay) })
    }));
    let rows = a.averages[1..]
        .iter()
        .map(|v| vec![format!("{}", v.decay), percent(v.left[0]), percent(v.left[1])]);
    section(
        "averaging",
        "Averaging the weights",
        vec![
            p(format!(
                "The loss never falls to 0: its gradient is noise around the optimum, and with a constant learning rate the weights wander for ever. That is why diffusion models are sampled with an exponential average of their weights, $m' = g m + (1-g) w'$. \
                 What that does is exact wherever the expected step is linear. Take a linear denoiser of the digits at $\\sigma = {}$, trained with {} noised digits a step. Along an eigenvector of the input's covariance of curvature $c$, the weights \
                 keep the share $a = 1 - \\eta c$ of what is wrong with them, and are correlated by $a^k$ over $k$ steps:",
                plain(s.sigma),
                s.batch
            )),
            f("\\frac{\\operatorname{Var} m}{\\operatorname{Var} w} = \\frac{1 - g}{1 + g} \\cdot \\frac{1 + a g}{1 - a g}, \\qquad \\text{window} = \\frac{1 + g}{1 - g}, \\qquad \\text{lag} = \\frac{g}{1 - g}"),
            figure(
                "filters",
                "Weights with which one pixel is read from the noised digit: the exact Wiener filter, the weights after the last step, and their averages with three decays. Blue is negative, red positive.",
                "Five pictures of 8 by 8 pixels: a clean red spot with pale surroundings; the same under strong coloured noise; and three in which the noise is less and less, the last like the first.",
                vec![digits("", "", vec![], vec![(String::new(), filters)], Tone::Diverging)],
            ),
            p(
                "The average costs nothing in training and takes away nearly all of the noise that a learning rate leaves; it does what a smaller learning rate would do, without the slower way. The price is lag: early on, while the weights still run, \
                 the longest average is the worst.",
            ),
            figure(
                "averages",
                "Left: excess over the least risk along the training. Right: what an average leaves of the weights' variance, against its window, for weights of correlation a from step to step.",
                "Left: the weights' curve falls first and levels off highest; the averages fall later, the longer the later, and level off lower. Right: four falling curves that stay at 1 until the window exceeds the weights' own memory.",
                vec![
                    plot("Excess risk", Axis::log("step", "step"), Axis::log("excess", "excess / least risk"), excess),
                    plot("Variance left", Axis::log("window", "window (1 + g)/(1 − g)"), Axis::log("ratio", "Var m / Var w"), curves),
                ],
            ),
            Block::Table(Table {
                caption: "Excess risk of the average over that of the weights, in the second half of the run: measured, and by the closed form.".into(),
                head: ["decay g", "measured", "closed form"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(a.evidence.clone()),
        ],
    )
}
