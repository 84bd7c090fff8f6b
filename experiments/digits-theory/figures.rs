//! The chapter on the exact diffusion of the digits, made from the numbers of
//! [`crate::digits_theory::numbers`].

use crate::digits_theory::numbers::{Numbers, compute};
use ndarray::Array2;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::math::larger;
use tweedie_report::chapter::{
    along, command, digits, f, figure, images, p, picture, plot, scaled, scientific, section,
    states,
};
use tweedie_report::drawing::{Axis, Drawing, Film, Mark, Pictures, Series, Tone, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SERIES, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("digits-theory", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "digits-theory".into(),
        title: "The exact diffusion of handwritten digits".into(),
        lead: "Take 1,797 handwritten digits of 8 × 8 pixels. Pretend that they are draws of a Gaussian, or pretend that they are all there is: in both \
               cases the best possible denoiser, the score, and the path that a perfect sampler takes have closed forms. This chapter computes them, \
               shows where the two agree, and holds every formula it uses to a second computation."
            .into(),
        command,
        sections: vec![data(n), schedules(n), film(n), trajectory(n), emergence(n), comparison(n), receptive(n), elbo(n)],
    }
}

fn evidence(rows: &[Evidence]) -> Block {
    Block::Evidence(rows.to_vec())
}

fn data(n: &Numbers) -> Section {
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
    section(
        "data",
        "What the data look like to a Gaussian",
        vec![
            p(
                "A Gaussian knows two things of the digits: their mean $\\mu$ and their covariance, which is best seen through its eigenvectors, the principal \
               components $u_k$, with variances $\\lambda_k$.",
            ),
            f(
                "\\Sigma = \\frac{1}{n}\\sum_{i=1}^{n} (x_i-\\mu)(x_i-\\mu)^{\\mathsf T} = \\sum_{k=1}^{64} \\lambda_k\\, u_k u_k^{\\mathsf T}, \\qquad \\lambda_1 \\ge \\lambda_2 \\ge \\dots \\ge 0",
            ),
            p(format!(
                "Every closed form of this chapter acts on one component at a time, as a number that depends on $\\lambda_k$ and the noise level alone. So the spectrum \
                 decides everything: {half} components hold half of the variance, {most} hold 95 %. {} of the 64 pixels are blank in all digits ({}), so the \
                 covariance has rank {rank} and no inverse. Formulas that divide by $\\lambda_k$ fail on these data; the ones used here do not.",
                s.still.len(),
                s.still
                    .iter()
                    .map(|(r, c)| format!("row {}, column {}", r + 1, c + 1))
                    .collect::<Vec<_>>()
                    .join("; "),
            )),
            figure(
                "components",
                "Leading principal components of the digits, red positive and blue negative, each scaled to its own largest value.",
                "A grid of sixteen 8 by 8 images: smooth large strokes in the first components, finer and finer checkered patterns in the later ones.",
                vec![digits("", "", vec![], rows, Tone::Diverging)],
            ),
            figure(
                "walks",
                "The mean digit (middle column) moved along the three leading components by −2 to 2 standard deviations $\\sqrt{\\lambda_k}$. A Gaussian thinks that all of these, and \
                 all their blends, are digits.",
                "Three rows of five 8 by 8 images: the blurred mean digit in the middle turns into blurred shapes like a zero, a three or a seven towards the ends.",
                vec![digits(
                    "",
                    "",
                    ["−2 √λ", "−√λ", "mean", "+√λ", "+2 √λ"].map(String::from).to_vec(),
                    (0..3).map(walk).collect(),
                    Tone::Ink,
                )],
            ),
            figure(
                "spectrum",
                &format!(
                    "Left: variances of the {rank} components that vary. Right: their running sum as a share of the whole."
                ),
                "Two curves: the variances fall slowly at first and then by four orders of magnitude over the last components; the cumulative share rises steeply and flattens.",
                vec![
                    plot(
                        "Spectrum of the covariance",
                        Axis::log("k", "component k"),
                        Axis::log("variance", "variance λₖ"),
                        vec![Series::new(
                            "variance",
                            index(),
                            along(&s.variances),
                            Mark::Linked,
                            BLUE,
                        )],
                    ),
                    plot(
                        "Share of the variance",
                        Axis::linear("k", "first k components").over(0.0, 64.0),
                        Axis::linear("cumulative_share", "share").over(0.0, 1.0),
                        vec![Series::new(
                            "share",
                            index(),
                            along(&s.cumulative),
                            Mark::Linked,
                            BLUE,
                        )],
                    ),
                ],
            ),
            evidence(&s.evidence),
        ],
    )
}

fn schedules(n: &Numbers) -> Section {
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
    section(
        "schedules",
        "Schedules are paths through one number",
        vec![
            p(
                "Noising mixes a clean digit with Gaussian noise. What a denoiser can do depends on the mixture only through the signal-to-noise ratio; schedules differ in \
               how much time they spend at each.",
            ),
            f(
                "x_t = \\alpha_t\\, x_0 + \\sigma_t\\, \\varepsilon, \\qquad \\mathrm{SNR}(t) = \\frac{\\alpha_t^2}{\\sigma_t^2}",
            ),
            p(
                "The discrete schedules below never reach SNR zero: at the last step a trace $\\alpha_T$ of the signal is left, although sampling starts from pure noise as if there were none. \
               What that costs here is the prior term of the bound, in the last section; on large images it shows as wrong brightness (Lin et al. 2024).",
            ),
            figure(
                "snr",
                "SNR on a logarithmic axis, which is log-SNR up to a factor. Left: discrete schedules of 1,000 steps. Right: continuous paths.",
                "Two sets of falling curves. Among the discrete schedules linear and sigmoid end near 4e-5, scaled-linear near 5e-3, cosine below 1e-8.",
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
            ),
            Block::Table(Table {
                caption: "Ends of the discrete schedules, and where signal and noise are equal."
                    .into(),
                head: [
                    "schedule",
                    "SNR at $t=1$",
                    "SNR at $t=T$",
                    "log-SNR at $T$",
                    "$\\alpha_T$",
                    "SNR = 1 at $t/T$",
                ]
                .map(String::from)
                .to_vec(),
                rows: rows.collect(),
            }),
            evidence(&n.snr.evidence),
        ],
    )
}

/// A number that may be very small.
fn small(v: f64) -> String {
    if v >= 1e-3 {
        return plain(v);
    }
    scientific(v, 3)
}

fn film(n: &Numbers) -> Section {
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
    section(
        "film",
        "From data to noise and back",
        vec![
            p(format!(
                "Ten digits get more and more noise. From there a perfect sampler goes back: not by taking away the noise that was added, which it does not know, but along the flow below. \
                 Under the empirical law it arrives at digits of the data set, and {returned} back to the digit that it was: at σ = {} little is left by which to tell which one that would be.",
                plain(film.sigmas[levels - 1])
            )),
            figure(
                "film",
                "Ten digits on their way to noise and back, along exact paths. States are divided by $\\sqrt{1+\\sigma^2}$ for display. (The film holds under the pointer.)",
                "A film of three rows of ten small images. All three dissolve into the same noise. Then the first row runs backwards to the digits it began with, the second becomes ten blurred shapes, the third ten crisp digits, which need not be those it began with.",
                vec![Drawing::Film(Film { frames: there.chain(back).collect() })],
            ),
            evidence(&film.evidence),
        ],
    )
}

fn trajectory(n: &Numbers) -> Section {
    let t = &n.trajectories;
    let sigmas = &n.settings.strip_sigmas;
    let state = |x| states(x, sigmas);
    let [gx, gd, ex, ed] = &t.strip;
    section(
        "trajectory",
        "The path of a perfect sampler",
        vec![
            p(
                "A deterministic sampler integrates the probability-flow ODE from noise to data. Along the path that leaves the data unscaled, $\\alpha = 1$ and $\\sigma$ falling, it reads",
            ),
            f(
                "\\frac{\\mathrm d x}{\\mathrm d \\sigma} = \\frac{x - D(x, \\sigma)}{\\sigma}, \\qquad D(x, \\sigma) = \\mathbb E[x_0 \\mid x_0 + \\sigma\\varepsilon = x]",
            ),
            p(
                "For a Gaussian it is solved by hand. Each component of the state is multiplied by a gain $\\psi$ and each component of the denoiser by $\\xi$:",
            ),
            f(
                "x_{\\sigma} = \\mu + \\sum_k \\psi_k\\, c_k\\, u_k, \\qquad D(x_\\sigma,\\sigma) = \\mu + \\sum_k \\xi_k\\, c_k\\, u_k, \\qquad c_k = u_k^{\\mathsf T}(x_{\\sigma_1} - \\mu)",
            ),
            f(
                "\\psi_k = \\sqrt{\\frac{\\lambda_k + \\sigma^2}{\\lambda_k + \\sigma_1^2}}, \\qquad \\xi_k = \\frac{\\lambda_k}{\\lambda_k + \\sigma^2}\\,\\psi_k = \\frac{\\lambda_k}{\\sqrt{(\\lambda_k+\\sigma^2)(\\lambda_k+\\sigma_1^2)}}",
            ),
            p(
                "For the empirical law, which puts $1/n$ on every digit, the denoiser is a weighted mean of all digits and the ODE is integrated to high accuracy. \
               Both start from the same noise. While the noise is high the two agree, and what they agree on decides the outline of the sample: up to there the data are as good as Gaussian. \
               Then the empirical path falls into one of the digits it knows, and the Gaussian one stops at a blend.",
            ),
            figure(
                "strip",
                "One draw of noise, taken to data by both laws. States are divided by $\\sqrt{1+\\sigma^2}$ for display.",
                "Four rows of ten small images over falling noise. States turn from noise into a shape. Both denoisers start at the blurred mean digit; the empirical one ends at a crisp digit, the Gaussian one at a smeared shape.",
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
            ),
            figure(
                "ends",
                "Ten draws of noise and where the two laws take each of them: the Gaussian's sample is a blurred version of the digit that the empirical law ends at, when the two agree.",
                "Two rows of ten small images: Gaussian samples above, training digits below; several pairs resemble each other.",
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
            ),
            p(
                "How far the two trajectories are apart, over many draws: a distance of 1 is that of the digits from their mean.",
            ),
            figure(
                "distance",
                "Root mean square distance between the two laws' trajectories from shared noise, relative to the distance of the empirical trajectory from the mean.",
                "Two curves against falling noise. The denoisers' distance rises from 0.06 at sigma 20 through 0.5 at sigma 2 to 0.88; the states' stays near 0 until sigma 2 and then rises to 0.85.",
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
            ),
            evidence(&t.evidence),
        ],
    )
}

fn emergence(n: &Numbers) -> Section {
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
    section(
        "emergence",
        "Coarse before fine: the order of emergence",
        vec![
            p(
                "Along a trajectory the denoiser's picture fills in component by component. Under the Gaussian law the size of component $k$, as a share of its final size, is",
            ),
            f(
                "\\frac{\\xi_k(\\sigma)}{\\xi_k(0)} = \\sqrt{\\frac{\\lambda_k}{\\lambda_k + \\sigma^2}}, \\qquad \\text{which is } \\tfrac12 \\text{ at } \\sigma_k^\\star = \\sqrt{3 \\lambda_k}",
            ),
            p(
                "so components appear in the order of their variance, each when the noise has fallen to a fixed multiple of its standard deviation. Natural images hold most variance in coarse \
               features; hence samplers paint outlines first. The same is measured on trajectories of the empirical law, which is not Gaussian at all: the leading components follow the \
               prediction, later ones appear earlier than it says, all together near $\\sigma \\approx 1$, where the trajectory settles on one digit and with it on all its details.",
            ),
            figure(
                "emergence",
                "Left: share of the final size, closed form (lines) and empirical trajectories (discs, root mean square). Right: the level at which half is reached against the component's standard deviation.",
                "Left: S-shaped curves rising one after the other as noise falls. Right: points close to a straight line on logarithmic axes for large standard deviations, above it for small ones.",
                vec![
                    plot(
                        "Share of the final size",
                        Axis::log("sigma", "noise level σ")
                            .over(e.sigmas[0], e.sigmas[e.sigmas.len() - 1]),
                        Axis::linear("share", "share").over(0.0, 1.1),
                        curves,
                    ),
                    plot(
                        "Level at which half is reached",
                        Axis::log("std", "standard deviation √λₖ"),
                        Axis::log("emergence_sigma", "σ*"),
                        vec![
                            Series::new(
                                "√(3 λ)",
                                along(&e.std),
                                along(&e.predicted),
                                Mark::Line,
                                INK,
                            ),
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
            ),
            evidence(&e.evidence),
        ],
    )
}

fn comparison(n: &Numbers) -> Section {
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
    section(
        "comparison",
        "How far a Gaussian explains the exact score",
        vec![
            p(
                "The empirical law is what a network with unlimited capacity would learn from these digits. How much of its score does a Gaussian with the same mean and covariance explain? \
               Noise a digit, $x = x_0 + \\sigma\\varepsilon$; let $s$ and $D$ be score and denoiser of the empirical law, and $\\hat s, \\hat D$ those of the model. Averaged over digits and noise,",
            ),
            f(
                "R^2_{\\text{score}} = 1 - \\frac{\\mathbb E\\lVert \\hat s - s\\rVert^2}{\\mathbb E\\lVert s\\rVert^2}, \\qquad R^2_{\\text{denoiser}} = 1 - \\frac{\\mathbb E\\lVert \\hat D - D\\rVert^2}{\\mathbb E\\lVert D - \\mu\\rVert^2}, \\qquad s = \\frac{D - x}{\\sigma^2}",
            ),
            p(format!(
                "Both errors are the same up to $\\sigma^4$; the denominators differ, and with them the impression. At high noise the score is nearly $-x/\\sigma^2$ whatever the data are, so even the mean alone \
                 ($\\hat D = \\mu$) explains it; the denoiser's fraction takes that credit away, and shows where the Gaussian is worst: at $\\sigma \\approx 1$, where the trajectories part too. The isotropic model has the mean and the average variance, $\\hat\\Sigma = \\bar\\lambda I$. Laws are made from {} digits; {} are held out. \
                 This is the comparison of Wang and Vastola (2024) with everything exact.",
                c.sizes[0], c.sizes[1]
            )),
            figure(
                "explained",
                "Fraction of the exact score (left) and of the exact denoiser (right) explained by linear models. The mean alone explains nothing of the denoiser by definition; values below −0.2 are cut.",
                "Left: all models explain nearly all of the score above sigma 3; below, the full Gaussian falls last and the mean alone first. Right: on known digits the Gaussian explains all of the denoiser at both ends and 0.67 of it near sigma 0.9; on held-out digits 0.75 at low noise; the isotropic model only 0.2 at high noise.",
                vec![
                    plot(
                        "Score",
                        sigma(),
                        fraction("fraction explained"),
                        fractions(|c| &c.score, true),
                    ),
                    plot(
                        "Denoiser",
                        sigma(),
                        fraction("fraction explained"),
                        fractions(|c| &c.denoiser, false),
                    ),
                ],
            ),
            p(
                "Explaining the empirical denoiser is not the same as denoising well. On digits it was made from, the empirical denoiser is unbeatable: below $\\sigma \\approx 0.5$ it simply recalls. On digits it has not seen \
               it recalls a wrong one, and its error stops falling at the distance to the nearest digit it knows, while the Wiener filter's goes on: at low noise the Gaussian, which has forgotten nearly everything, \
               is the better denoiser by orders of magnitude. Between the two lies what generalisation has to fill.",
            ),
            figure(
                "error",
                "Mean squared error per pixel of both denoisers on noised digits; the Wiener filter's closed form is $\\frac1d \\operatorname{tr}\\big(\\sigma^2\\Sigma(\\Sigma+\\sigma^2 I)^{-1}\\big)$.",
                "Error against noise on logarithmic axes: the Wiener filter falls as noise falls on both sets; the empirical denoiser drops to zero on known digits and stays near 0.07 on held-out ones.",
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
            ),
            evidence(&c.evidence),
        ],
    )
}

fn receptive(n: &Numbers) -> Section {
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
    section(
        "receptive",
        "Which pixels the denoiser reads",
        vec![
            p(
                "The Jacobian of the Gaussian's denoiser does not depend on the state; its rows are the filters with which each pixel is estimated.",
            ),
            f(
                "\\frac{\\partial D}{\\partial x} = \\Sigma\\,(\\Sigma + \\sigma^2 I)^{-1} = \\sum_k \\frac{\\lambda_k}{\\lambda_k+\\sigma^2}\\, u_k u_k^{\\mathsf T}",
            ),
            p(
                "As $\\sigma \\to 0$ this is the projection on the subspace that the digits span; as $\\sigma \\to \\infty$ it is $\\Sigma/\\sigma^2$.",
            ),
            p(
                "With little noise a pixel reads itself. With more noise it leans on the pixels that go with it, near ones first and then, at high noise, everything it correlates with anywhere in the picture: \
               the receptive field grows from a point to the whole image, and it is not the same for every pixel. A network with a fixed small receptive field can not be this denoiser at high noise.",
            ),
            figure(
                "receptive",
                "Rows of the Jacobian for three pixels over the noise level; red positive, blue negative, each scaled to its own largest absolute value, printed below it. First and last columns are the limits (the last one is $\\Sigma$'s row).",
                "Three rows of seven 8 by 8 images: a single red pixel at low noise grows into a patch and then into a pattern over the whole image with red and blue regions.",
                vec![digits("", "noise level σ", columns, rows.collect(), Tone::Diverging)],
            ),
            figure(
                "receptive-size",
                "Number of pixels that each of those filters effectively reads, $(\\sum_j w_j^2)^2 / \\sum_j w_j^4$: 1 for a single pixel, $m$ for $m$ equal weights.",
                "Three curves against noise: one pixel at low noise, rising between sigma 0.2 and 5 to between 3 and 6 and flat beyond.",
                vec![plot(
                    "",
                    Axis::log("sigma", "noise level σ")
                        .over(r.sigmas[0], r.sigmas[r.sigmas.len() - 1]),
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
            ),
            evidence(&r.evidence),
        ],
    )
}

fn elbo(n: &Numbers) -> Section {
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
            Series::new(*variance, along(steps), along(nats), Mark::Linked, c)
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
    section(
        "elbo",
        "The bound, term by term",
        vec![
            p("A diffusion model is trained on a bound on the negative log-likelihood, a sum over the steps:"),
            f("\\mathcal L = \\underbrace{L_T}_{\\text{prior}} + \\sum_{t=2}^{T} \\underbrace{L_{t-1}}_{\\text{transition}} + \\underbrace{L_0}_{\\text{reconstruction}}, \\qquad L_T = \\mathrm{KL}\\big(q(x_T|x_0)\\,\\|\\,p(x_T)\\big),"),
            f("L_{t-1} = \\mathrm{KL}\\big(q(x_{t-1}|x_t,x_0)\\,\\|\\,p(x_{t-1}|x_t)\\big), \\qquad L_0 = -\\ln p(x_0|x_1),"),
            p("averaged over data and noise. With the Wiener filter as denoiser a transition splits into the components. With $\\Delta_t = \\mathrm{SNR}(t-1) - \\mathrm{SNR}(t)$, the component's error \
               $e_k = \\lambda_k / (1 + \\mathrm{SNR}(t) \\lambda_k)$, and $r$ the relative excess of the reverse variance over the posterior's, it is"),
            f("L_{t-1} = \\tfrac12 \\sum_k \\Big[ \\ln(1+r) - \\frac{r}{1+r} + \\frac{\\Delta_t\\, e_k}{1+r} \\Big] \\;\\ge\\; \\tfrac12 \\sum_k \\ln(1 + \\Delta_t\\, e_k)"),
            p(format!(
                "The least value belongs to the variance $r = \\Delta_t e_k$, different for each component. With it the sum telescopes: the whole bound is the entropy of the data plus                  $\\mathrm{{KL}}(q(x_T)\\,\\|\\,N(0,I))$, for every schedule and every number of steps; nothing is lost. The digits have 17 levels a pixel; uniform dequantisation spreads each over its spacing of 1/8, which adds                  $\\tfrac1{{12}}\\cdot\\tfrac1{{64}}$ to every variance and gives the blank pixels a density. The entropy of this Gaussian is {} nats, {:.4} bits/dim of levels.",
                nats(e.entropy[0]),
                e.entropy[1]
            )),
            figure(
                "elbo-terms",
                "Left: transitions, in bits/dim a step (best variance, T = 1,000). Right: the running sum from the data side in bits/dim of levels; it ends at the entropy but for the prior term.",
                "Left: on a logarithmic axis, terms fall from about 0.1 bits per dimension at the first steps by four orders of magnitude for the linear schedule, more evenly for cosine. Right: both running sums rise and end at the entropy.",
                vec![
                    plot("Transitions", time(), Axis::log("bits_per_dim", "bits/dim a step"), terms),
                    plot("Running sum", time(), Axis::linear("bits_per_dim", "bits/dim"), running),
                ],
            ),
            p(format!(
                "Two variances are fixed in practice. The forward step's, $\\beta_t$, is the best one for a component of variance 1 (Ho et al. 2020), and close to it for every component that stands above the noise: on the cosine schedule it loses \
                 {:.2} nats of the whole digit at 1,000 steps, and half as much for twice as many. The posterior's is the best one for a datum that is known: it loses {:.1} nats, nearly all of them in the first steps, \
                 where the SNR changes by a factor however many steps there are; more steps hardly help.",
                last("beta"),
                last("posterior")
            )),
            figure(
                "elbo-variances",
                "Left: what each transition costs above the best variance. Right: nats lost by the whole bound over its least value, for every T/k-th step of the cosine schedule.",
                "Left: on a logarithmic axis, the posterior variance's excess falls from 0.3 bits per dimension at the first steps by many orders of magnitude; that of beta is smaller and more even. Right: the loss of beta falls as one over the number of steps from 100 steps on; that of the posterior variance stays near 30 nats.",
                vec![
                    plot("Excess of a transition", time(), Axis::log("excess_bits_per_dim", "bits/dim a step"), excess.collect()),
                    plot("Excess of the bound, cosine", Axis::log("steps", "number of steps"), Axis::log("nats", "nats"), lost.collect()),
                ],
            ),
            Block::Table(Table {
                caption: "The bound of the digits' Gaussian, T = 1,000, nats of a whole digit unless said otherwise; the reconstruction has its best Gaussian variance throughout.".into(),
                head: ["schedule, variance", "prior", "transitions", "reconstruction", "bound", "bits/dim", "over entropy"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            evidence(&e.evidence),
        ],
    )
}
