//! The chapter on a network trained on a Gaussian random field, made from the numbers of
//! [`crate::grf::numbers`].

use crate::grf::numbers::{Numbers, compute};
use ndarray::Array2;
use tweedie::error::Result;
use tweedie::math::{larger, smaller};
use tweedie_report::chapter::{
    along, command, f, figure, p, percent, picture, plot, section, thousands,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, INK, MUTED, SERIES, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("grf", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    let (h, w) = n.grid;
    Chapter {
        name: "grf".into(),
        title: "A trained network, marked against the answer sheet".into(),
        lead: format!(
            "How good is a trained diffusion network? On photographs nobody knows: the best possible denoiser is out of reach, and samples are judged by scores. So train a U-Net on pictures whose law is known exactly: Gaussian random fields of \
             {h} × {w} pixels with the spectrum of natural images. The best denoiser is a convolution in closed form, each frequency is a question of its own, and all that the network gets wrong, and all that its samples get wrong, can be said in numbers."
        ),
        command,
        sections: vec![denoiser(n), samples(n)],
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

fn denoiser(n: &Numbers) -> Section {
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
    section(
        "denoiser",
        "What the network gets wrong",
        vec![
            p(format!(
                "The field is periodic and stationary, so its covariance is diagonal in frequency, with variances $\\lambda_k \\propto |f|^{{-{}}}$. The best denoiser shrinks each frequency by its own factor, and has a risk that no network can beat:",
                plain(n.settings.train.data.random_field.as_ref().map_or(f64::NAN, |f| f.slope))
            )),
            f("D^*(x) = \\sum_k \\frac{\\lambda_k}{\\lambda_k + \\sigma^2}\\, z_k u_k, \\qquad R^* = \\frac1d \\sum_k \\frac{\\lambda_k \\sigma^2}{\\lambda_k + \\sigma^2}"),
            f("R(D_\\theta) = R^* + \\tfrac1d\\, \\mathbb E\\left\\lVert D_\\theta(x) - D^*(x)\\right\\rVert^2"),
            p(format!(
                "A U-Net of {} weights, with EDM's preconditioning, is trained for {} steps of {} fresh fields: there is no training set to remember, and no field is seen twice. Its excess risk is then averaged over {} noised fields at each level, \
                 mode by mode in the real (Hartley) basis of the field.",
                thousands(n.params),
                thousands(n.steps as usize),
                n.settings.train.batch,
                thousands(n.draws)
            )),
            figure(
                "excess",
                "Left: risk a pixel that no denoiser avoids, and what the network adds to it (dashed: two standard errors). Right: what it adds in each band of frequencies, over the least risk of that band.",
                "Left: the least risk rises with noise and levels off; the excess stays below it by orders of magnitude. Right: one curve for each of six bands.",
                vec![
                    plot("Risk a pixel", sigma(), Axis::log("risk", "mean squared error"), total),
                    plot("Excess over the least risk, by band", sigma(), Axis::log("excess_over_least", "excess / least"), bands),
                ],
            ),
            p(format!(
                "In which order is this learnt? Before the first step the network says nothing, and EDM's skip $c_{{\\text{{skip}}}}\\, x$ speaks alone: with $\\sigma_{{\\text{{data}}}} = {}$ it is the best filter for a mode of variance $\\sigma_{{\\text{{data}}}}^2$, wrong for \
                 larger and smaller ones by a known amount (checked below). So the bands near that variance have little to learn, the coarsest have most, and they take the longest.",
                plain(sigma_data)
            )),
            p(
                "And where in the picture is the rest? The field knows no border, it goes on at the other side. A convolution that pads with zeros does not know that: the network pays for it along the border, and most at noise levels at which a pixel is \
                 estimated from its neighbours.",
            ),
            figure(
                "learning",
                "Excess over the least risk in each band, mean over noise levels, against steps of training (of the weights themselves, not of their average).",
                "Curves for six bands that start apart, at rest for fifty steps, and fall: the coarsest band starts highest and comes down last.",
                vec![plot("", Axis::log("step_plus_1", "step + 1"), Axis::log("excess_over_least", "excess / least"), learning)],
            ),
            figure(
                "border",
                "Excess at each pixel of the trained network, dark where it is large; below each picture its largest value over the least risk.",
                "Six pictures of 16 by 16 pixels, one for each noise level, pale within and dark along the border and in the corners.",
                vec![Drawing::Pictures(Pictures {
                    title: String::new(),
                    heading: "noise level σ".into(),
                    columns,
                    rows: vec![(String::new(), pixels)],
                    shape: (n.grid.1, n.grid.0),
                    tone: Tone::Ink,
                })],
            ),
            Block::Table(Table {
                caption: "Least risk of a pixel, and the network's excess over it: of all bands with its standard error, of the coarsest, and of the finest.".into(),
                head: ["noise", "least risk", "excess", "coarsest", "finest"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(n.evidence[0].clone()),
        ],
    )
}

fn samples(n: &Numbers) -> Section {
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
    section(
        "samples",
        "What its samples get wrong",
        vec![
            p(format!(
                "Samples are made by a deterministic method ({}, {} calls), once with the network and once with the exact denoiser, from the same starts, which are drawn from the exact law at the highest noise level. So three things are told \
                 apart: chance (standard errors over {} samples), the method (what it does to the exact denoiser's modes, in closed form), and the network. The mean squared distance between the two samples of a start is also an upper bound on the squared W₂ distance \
                 of their laws.",
                n.settings.sampler,
                s.nfe,
                thousands(s.count)
            )),
            p(format!(
                "The way from noise to data multiplies errors: a denoiser whose risk is nowhere more than {} above the least makes samples whose bands are {} to {} off in variance, and which lie {} of a deviation from where they should. The risk, which is all \
                 that training sees, says little of that.",
                percent(n.judged.excess.iter().zip(&n.judged.least).map(|(e, l)| e[0] / l).fold(0.0, larger)),
                percent(off.iter().copied().fold(f64::INFINITY, smaller)),
                percent(off.iter().copied().fold(0.0, larger)),
                percent((s.apart.iter().sum::<f64>() / s.apart.len() as f64).sqrt()),
            )),
            figure(
                "samples",
                "Samples from the same starts: above with the exact denoiser, below with the network.",
                "Two rows of eight cloud-like grey pictures of 16 by 16 pixels; each picture of the lower row looks like the one above it.",
                vec![pictures(
                    n,
                    "",
                    vec![("exact denoiser".into(), tone(&s.pictures[0])), ("network".into(), tone(&s.pictures[1]))],
                    Tone::Ink,
                )],
            ),
            figure(
                "spectrum",
                "Left: variance in each band of frequencies. Right: the same over the truth, with two standard errors.",
                "Left: three falling lines on logarithmic axes, on top of each other. Right: ratios near one: the exact denoiser's within its errors, the network's off by some percent.",
                vec![
                    plot(
                        "Spectrum",
                        frequency(),
                        Axis::log("variance", "variance of a mode"),
                        vec![
                            Series::new("truth", along(at), along(&s.truth), Mark::Line, MUTED),
                            Series::new("exact denoiser", along(at), along(&by_exact), Mark::Points, VERMILION),
                            Series::new("network", along(at), along(&by_network), Mark::Points, BLUE),
                        ],
                    ),
                    plot("Over the truth", frequency(), Axis::linear("ratio", "variance / truth"), ratios),
                ],
            ),
            Block::Table(Table {
                caption: "By band: variance of a mode, and that of the samples over it: of the method with the exact denoiser in closed form, of its samples, and of the network's, with standard errors. Last, root mean square distance of the network's sample from the exact denoiser's with the same start, in units of the band's deviation.".into(),
                head: ["band", "variance", "method", "exact denoiser", "network", "distance"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(n.evidence[1].clone()),
        ],
    )
}
