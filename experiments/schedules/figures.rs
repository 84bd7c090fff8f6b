//! The chapter on noise schedules, made from the numbers of [`crate::schedules::numbers`].

use crate::schedules::numbers::levels::Curve;
use crate::schedules::numbers::{Numbers, compute};
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie_report::chapter::{
    along, command, f, figure, p, picture, plot, scientific, section, significant, thousands,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("schedules", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "schedules".into(),
        title: "Noise schedules: where the time goes".into(),
        lead: "Every schedule walks from data to noise through the same noise levels; what it chooses is how long it stays at each, and where it stops. That choice decides which levels a network is trained on, how coarse a sampler's steps are, \
               how bright its pictures can be, and, in the limit of many steps, nothing at all about the bound. This chapter measures each of these, exactly."
            .into(),
        command,
        sections: vec![levels(n), terminal(n), steps(n), grids(n), learned(n)],
    }
}

/// Three significant digits; small numbers as powers of ten.
fn three(v: f64) -> String {
    if v == 0.0 || v.abs() >= 1e-3 {
        return significant(v, 3);
    }
    scientific(v, 2)
}

const COLOURS: [Colour; 6] = [BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY];

fn curves(of: &[Curve], pick: &dyn Fn(&Curve) -> Vec<(f64, f64)>) -> Vec<Series> {
    of.iter()
        .enumerate()
        .map(|(k, c)| {
            let points = pick(c);
            let mark = if k % 2 == 0 { Mark::Line } else { Mark::Dashed };
            Series::new(
                &c.name,
                points.iter().map(|p| p.0),
                points.iter().map(|p| p.1),
                mark,
                COLOURS[k % COLOURS.len()],
            )
        })
        .collect()
}

/// Pictures of photographs, which are stored light.
fn light(values: &[f64], note: impl ToString) -> Picture {
    picture(values.iter().map(|v| -v), note)
}

fn rows_of(columns: Vec<String>, rows: Vec<(String, Vec<Picture>)>, side: usize) -> Drawing {
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: String::new(),
        columns,
        rows,
        shape: (side, side),
        tone: Tone::Ink,
    })
}

fn levels(n: &Numbers) -> Section {
    let l = &n.levels;
    let time = || Axis::linear("t", "t / T").over(0.0, 1.0);
    let log_snr = || Axis::linear("log_snr", "log-SNR").over(-12.0, 12.0);
    let across = || Axis::linear("log_snr", "log-SNR (data on the right)").over(-12.0, 12.0);
    let share = || Axis::linear("share", "share of the time per unit").over(0.0, 0.35);
    let strips = l
        .strips
        .iter()
        .map(|(name, row)| (name.clone(), row.iter().map(|v| light(v, "")).collect()))
        .collect();
    let middle = |of: &[Curve], name: &str| {
        of.iter().find(|c| c.name == name).map_or(f64::NAN, |c| 100.0 * c.middle)
    };
    let rows =
        l.tables.iter().map(|c| (c, "table")).chain(l.paths.iter().map(|c| (c, "path"))).map(
            |(c, kind)| {
                vec![format!("{}, {kind}", c.name), format!("{} %", three(100.0 * c.middle))]
            },
        );
    section(
        "levels",
        "Time and noise level",
        vec![
            p("What a noised picture tells depends on one number,"),
            f(
                "\\mathrm{SNR}(t) = \\frac{\\alpha_t^2}{\\sigma_t^2}, \\qquad \\ell = \\ln \\mathrm{SNR}, \\qquad p(\\ell) = \\left|\\frac{\\mathrm d t}{\\mathrm d \\ell}\\right|",
            ),
            p(format!(
                "and a schedule is a curve $\\ell(t)$. Where the curve is flat a training run with $t$ drawn evenly sees that noise level often, and a sampler with even steps makes small ones. Between SNR 100 and 1/100, where a picture goes from nearly clean to nearly lost, \
                 the linear schedule spends {} % of its time, the cosine {} %, flow matching {} %; EDM's path, if one walked it evenly in σ, only {} %, which is why nobody does.",
                three(middle(&l.tables, "linear")),
                three(middle(&l.tables, "cosine")),
                three(middle(&l.paths, "fm")),
                three(middle(&l.paths, "edm, even in σ"))
            )),
            figure(
                "log-snr",
                "Above: log-SNR against time, of discrete tables (left) and of continuous paths (right). Below: the time spent per unit of log-SNR, the same curves seen from the other side.",
                "Four plots. Above: falling curves of log-SNR against time; cosine and flow matching are symmetric and plunge at both ends, linear falls evenly after a steep start. Below: humps centred near zero for cosine and flow matching, wider and flatter ones for the others.",
                vec![
                    plot("Tables", time(), log_snr(), curves(&l.tables, &|c| c.log_snr.clone())),
                    plot("Paths", time(), log_snr(), curves(&l.paths, &|c| c.log_snr.clone())),
                    plot(
                        "Tables: time at each level",
                        across(),
                        share(),
                        curves(&l.tables, &|c| c.time.clone()),
                    ),
                    plot(
                        "Paths: time at each level",
                        across(),
                        share(),
                        curves(&l.paths, &|c| c.time.clone()),
                    ),
                ],
            ),
            figure(
                "strips",
                "The same picture with the same noise on each schedule, at the same shares of the way, on the variance-preserving scale.",
                "Six rows of seven small pictures of a face that drowns in noise from left to right. On the two linear schedules and on scaled-linear the face is lost first; on the cosine and sigmoid schedules and in flow matching it is seen longest.",
                vec![rows_of(
                    n.settings.strip.iter().map(|t| format!("t = {}", plain(*t))).collect(),
                    strips,
                    l.side,
                )],
            ),
            Block::Table(Table {
                caption: "Share of the time between SNR 100 and 1/100.".into(),
                head: ["schedule", "share"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(l.evidence.clone()),
        ],
    )
}

fn terminal(n: &Numbers) -> Section {
    let t = &n.terminal;
    let sides: Vec<f64> = n.settings.sides.iter().map(|s| *s as f64).collect();
    let side = n.settings.sides.iter().position(|s| *s == n.settings.drawn_side).unwrap_or(0);
    let of = |k: usize| -> Vec<Series> {
        t.ends
            .iter()
            .enumerate()
            .map(|(i, e)| {
                let mark = if i % 2 == 0 { Mark::Linked } else { Mark::Dashed };
                Series::new(
                    &e.name,
                    along(&sides),
                    e.kept[k].iter().map(|v| 100.0 * v),
                    mark,
                    COLOURS[i],
                )
            })
            .collect()
    };
    let pictures = t
        .pictures
        .iter()
        .map(|(name, row)| (name.clone(), row.iter().map(|v| light(v, "")).collect()))
        .collect();
    let percent = |v: f64| format!("{} %", three(100.0 * v));
    let table = t.ends.iter().map(|e| {
        vec![
            e.name.clone(),
            three(e.snr),
            three(e.alpha),
            three(e.kl),
            percent(e.kept[0][side]),
            percent(e.kept[1][side]),
        ]
    });
    let end = |name: &str, k: usize| {
        t.ends.iter().find(|e| e.name == name).map_or(f64::NAN, |e| e.kept[k][side])
    };
    let plot_of = |title: &str, k: usize| {
        plot(
            title,
            Axis::log("side", "side of the picture, pixels"),
            Axis::linear("percent", "brightness's deviation kept, %").over(0.0, 105.0),
            of(k),
        )
    };
    section(
        "terminal",
        "What is left at the end",
        vec![
            p(
                "Sampling starts from pure noise, as if the schedule ended there. It does not: at $t = T$ a trace $\\alpha_T\\, x_0$ is left, too faint to see, but a trained network knows how to read it. Noise is different in every pixel and averages out, so what can be read from a trace is what all pixels share: the brightness of the whole picture. \
                 With $v$ the variance of the mean of a picture of $d$ pixels, the SNR of its brightness is $d\\,v$ times as high:",
            ),
            f(
                "\\lambda = d\\, v, \\qquad \\frac{\\text{std produced}}{\\text{std of the data}} = \\frac{1}{\\sqrt{1 + \\mathrm{SNR}(T)\\, \\lambda}} \\text{ (flow)}, \\qquad \\sqrt{1 - \\left(\\frac{\\mathrm{SNR}(T)\\, \\lambda}{1 + \\mathrm{SNR}(T)\\, \\lambda}\\right)^2} \\text{ (reverse SDE)}",
            ),
            p(format!(
                "Both are exact for Gaussian data and a perfect network: the start has no brightness in it, the network believes what it reads, and the sample comes out average. The {} patches of {} × {} pixels of five photographs have brightness {} ± {} (of −1 to 1). Under Stable Diffusion's scaled-linear table, \
                 whose end has the highest SNR of all, a perfect sampler of pictures of {} × {} pixels makes {} of that deviation without noise and {} with; under DDPM's linear table it is {} and {}. The larger the picture, the worse: with {} pixels a side scaled-linear keeps {}. Very dark and very bright pictures can't be reached (Lin et al. 2024). \
                 The remedy is a schedule that ends at SNR zero, and a prediction that is defined there.",
                thousands(t.patches),
                n.settings.patch,
                n.settings.patch,
                plain((t.brightness[0] * 1e3).round() / 1e3),
                plain((t.brightness[1] * 1e3).round() / 1e3),
                n.settings.drawn_side,
                n.settings.drawn_side,
                percent(end("scaled-linear", 0)),
                percent(end("scaled-linear", 1)),
                percent(end("linear", 0)),
                percent(end("linear", 1)),
                n.settings.sides.last().copied().unwrap_or(0),
                percent(
                    t.ends
                        .iter()
                        .find(|e| e.name == "scaled-linear")
                        .and_then(|e| e.kept[0].last().copied())
                        .unwrap_or(f64::NAN)
                ),
            )),
            figure(
                "brightness",
                &format!(
                    "A picture at five quantiles of brightness: as the data have it, and as a perfect sampler of {} × {} pixels has it at the same quantile. Contrast is halved to leave room.",
                    n.settings.drawn_side, n.settings.drawn_side
                ),
                "Four rows of five pictures of a face. In the first row they go from very dark to very bright. In the two rows for scaled-linear the range is about half and two thirds as wide; for linear it is close to the data's.",
                vec![rows_of(
                    t.deviations.iter().map(|z| format!("{} std", plain(*z))).collect(),
                    pictures,
                    n.levels.side,
                )],
            ),
            figure(
                "reach",
                "Deviation of the brightness that a perfect sampler makes, as a share of the data's, against the side of a square picture. Left: deterministic. Right: stochastic.",
                "Two plots of falling curves against the side from 8 to 256 pixels: scaled-linear falls first and lowest, sigmoid and linear later, cosine and zero terminal SNR stay at 100 percent.",
                vec![plot_of("Deterministic", 0), plot_of("Stochastic", 1)],
            ),
            Block::Table(Table {
                caption: format!(
                    "The ends of the tables: SNR, signal coefficient, divergence of the digits' Gaussian from N(0, I) in nats (the prior's part of the bound's gap), and the deviation of brightness kept at {} × {} pixels, without noise and with.",
                    n.settings.drawn_side, n.settings.drawn_side
                ),
                head: ["schedule", "SNR(T)", "$\\alpha_T$", "KL", "kept, flow", "kept, SDE"]
                    .map(String::from)
                    .to_vec(),
                rows: table.collect(),
            }),
            Block::Evidence(t.evidence.clone()),
        ],
    )
}

fn steps(n: &Numbers) -> Section {
    let s = &n.steps;
    let walks =
        s.walks.iter().zip(["Unit steps, from 0", "Variance-preserving steps, from −3 and 3"]).map(
            |(w, title)| {
                let mut series = Vec::new();
                for (k, path) in w.paths.iter().enumerate() {
                    series.push(Series::new(
                        format!("_path {}", k + 1),
                        along(&w.t),
                        along(path),
                        Mark::Line,
                        [BLUE, VERMILION][k % w.tubes.len().max(1)],
                    ));
                }
                for (k, tube) in w.tubes.iter().enumerate() {
                    for side in tube {
                        series.push(Series::new(
                            format!("_mean and two deviations, start {}", k + 1),
                            along(&w.t),
                            along(side),
                            Mark::Dashed,
                            INK,
                        ));
                    }
                }
                plot(title, Axis::linear("t", "step t"), Axis::linear("x", "state"), series)
            },
        );
    let mut densities: Vec<Series> = s
        .reverse
        .iter()
        .zip([BLUE, GREEN, VERMILION])
        .map(|((width, curve), colour)| {
            Series::new(
                format!("step of {}", plain(*width)),
                curve.iter().map(|p| p.0),
                curve.iter().map(|p| p.1),
                Mark::Line,
                colour,
            )
        })
        .collect();
    let normal = |z: f64| (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt();
    let z: Vec<f64> = (-80..=80).map(|k| f64::from(k) / 20.0).collect();
    densities.push(Series::new(
        "Gaussian",
        along(&z),
        z.iter().map(|z| normal(*z)),
        Mark::Dashed,
        INK,
    ));
    let first = s.divergence[0];
    let divergence = vec![
        Series::new(
            "mixture",
            s.divergence.iter().map(|d| d.0),
            s.divergence.iter().map(|d| d.1),
            Mark::Linked,
            BLUE,
        ),
        Series::new(
            "third power",
            s.divergence.iter().map(|d| d.0),
            s.divergence.iter().map(|d| first.1 * (d.0 / first.0).powi(3)),
            Mark::Dashed,
            MUTED,
        ),
    ];
    let vector = |x: &[f64]| {
        format!(
            "({})",
            x.iter().map(|v| format!("{v:.2}").replace('-', "−")).collect::<Vec<_>>().join(", ")
        )
    };
    let example = s.example.iter().enumerate().map(|(t, (x, norm))| {
        let printed =
            if t == 0 { n.settings.example_start } else { n.settings.example_printed[t - 1] };
        vec![
            format!("$x_{t}$"),
            vector(x),
            vector(&printed),
            format!("{norm:.2}"),
            format!("{:.2}", n.settings.example_norms[t]),
        ]
    });
    let wrong = s
        .example
        .iter()
        .zip(&n.settings.example_norms)
        .filter(|((_, norm), printed)| (norm - **printed).abs() > 0.005 + 1e-12)
        .count();
    let off: Vec<f64> = s.example[1..]
        .iter()
        .zip(&n.settings.example_printed)
        .map(|((x, _), printed)| {
            x.iter().zip(printed).map(|(a, b)| (a - b).abs()).fold(0.0, larger)
        })
        .collect();
    // Half a unit of the last decimal, and what rounding adds.
    let states = off.iter().filter(|v| **v > 0.005 + 1e-12).count();
    let worst = off.iter().copied().fold(0.0, larger);
    section(
        "steps",
        "One step forward, one step back",
        vec![
            p(
                "A forward process is a random walk. In its plainest form, unit noise in every step, the deviation after $t$ steps is $\\sqrt t$, and the start is never forgotten: it only drowns. The variance-preserving chain shrinks before it adds, so the start fades and the spread tends to 1.",
            ),
            f(
                "x_t = x_{t-1} + \\varepsilon_t: \\quad q(x_t|x_0) = N(x_0,\\, t I), \\qquad x_t = \\sqrt{1 - \\beta_t}\\, x_{t-1} + \\sqrt{\\beta_t}\\, \\varepsilon_t: \\quad q(x_t|x_0) = N(\\sqrt{\\bar\\alpha_t}\\, x_0,\\, (1 - \\bar\\alpha_t) I)",
            ),
            figure(
                "walks",
                "Six paths of each chain, and two deviations about the mean (dashed). Left: unit steps. Right: DDPM's linear schedule.",
                "Left: six jagged paths from zero that spread within a parabola. Right: paths from plus and minus three that drift together into one band of constant width.",
                walks.collect(),
            ),
            p(format!(
                "One deck works an example with four coordinates, $\\beta = {}$. Its noise is printed, so its states can be computed: {wrong} of the {} printed norms are wrong, and {states} of the {} states, by up to {}. It makes a good exercise.",
                n.settings.example_betas.iter().map(|b| plain(*b)).collect::<Vec<_>>().join(", "),
                n.settings.example_norms.len(),
                n.settings.example_printed.len(),
                three((worst * 100.0).round() / 100.0)
            )),
            Block::Table(Table {
                caption: "The worked example: computed, and as printed.".into(),
                head: ["state", "computed", "printed", "norm", "norm printed"]
                    .map(String::from)
                    .to_vec(),
                rows: example.collect(),
            }),
            p(
                "Backwards, each step is modelled as a Gaussian. It is not one, unless the data are: it is the data's density at the lower noise times a Gaussian window, and the question is how wide the window is. With $\\Delta$ the width of the step in log-SNR, the window is as narrow as $\\sqrt\\Delta$ and sees little of the density's shape. The mean divergence \
                 from the Gaussian of the same mean and variance falls with the <em>third</em> power of the step: $T$ steps of $1/T$ lose $1/T^2$ in all, if mean <em>and</em> variance are right for each state.",
            ),
            figure(
                "reverse",
                &format!(
                    "A mixture of three on a line. Left: exact density of $x_s$ given $x_t = {}$ at log-SNR {}, standardised, for steps of three widths in log-SNR. Right: divergence of a step from the Gaussian of its moments, mean over $x_t$.",
                    plain(n.settings.step_state),
                    plain(n.settings.step_log_snr)
                ),
                "Left: the small step's density lies on the Gaussian; the widest has two peaks. Right: a curve that follows a line of slope three over small steps and bends over for wide ones.",
                vec![
                    plot(
                        "One reverse step",
                        Axis::linear("z", "(xₛ − mean) / deviation").over(-4.0, 4.0),
                        Axis::linear("density", "density"),
                        densities,
                    ),
                    plot(
                        "Divergence",
                        Axis::log("width", "step in log-SNR"),
                        Axis::log("nats", "nats"),
                        divergence,
                    ),
                ],
            ),
            Block::Evidence(s.evidence.clone()),
        ],
    )
}

fn grids(n: &Numbers) -> Section {
    let g = &n.grids;
    let plots = g.samplers.iter().map(|(title, ladders)| {
        let series = ladders.iter().enumerate().map(|(k, l)| {
            Series::new(
                l.name,
                along(&g.steps),
                l.w2.iter().map(|v| 100.0 * v),
                Mark::Linked,
                COLOURS[k % COLOURS.len()],
            )
        });
        plot(
            title,
            Axis::log("steps", "steps"),
            Axis::log("w2_percent", "W₂, % of the deviation"),
            series.collect(),
        )
    });
    let columns: Vec<String> =
        n.settings.resolution_sigmas.iter().map(|s| format!("σ = {}", plain(*s))).collect();
    let row = |k: usize| -> Vec<Picture> { g.pictures[k].iter().map(|v| light(v, "")).collect() };
    let [large, small] = g.sides;
    let factor = n.settings.factor;
    let at = |k: usize, steps: f64, name: &str| {
        let i = g.steps.iter().position(|s| *s == steps).unwrap_or(0);
        g.samplers[k].1.iter().find(|l| l.name == name).map_or(f64::NAN, |l| 100.0 * l.w2[i])
    };
    let shown = g.steps[g.steps.len() / 2 - 1];
    let best = |k: usize| {
        let i = g.steps.iter().position(|s| *s == shown).unwrap_or(0);
        g.samplers[k].1.iter().min_by(|a, b| a.w2[i].total_cmp(&b.w2[i])).map_or("", |l| l.name)
    };
    section(
        "grids",
        "A schedule is also a sampler's grid",
        vec![
            p(format!(
                "A network trained on one schedule can be sampled on another: only σ/α matters to it. So a schedule's second use, as the grid of a sampler with even steps, is free to choose. On the digits' Gaussian every sampler's error is exact. All grids below go from log-SNR {} to {}. With {shown} steps the best for DDIM is “{}”, \
                 for DPM-Solver++(2M) “{}”; even steps in flow matching's time are off by {} % and {} %, even steps in σ by {} % and {} %.",
                plain(n.settings.log_snr[0]),
                plain(n.settings.log_snr[1]),
                best(0),
                best(1),
                three(at(0, shown, "flow matching, even in t")),
                three(at(1, shown, "flow matching, even in t")),
                three(at(0, shown, "even in σ")),
                three(at(1, shown, "even in σ")),
            )),
            figure(
                "grids",
                "Distance of the produced law from the true one at the last level, against the number of steps, from the true law at the first.",
                "Two plots on logarithmic axes with six falling lines each; even in sigma is by far the highest in both; DPM-Solver++(2M) falls with twice the slope of DDIM.",
                plots.collect(),
            ),
            p(format!(
                "And a noise level is not a property of a number alone. Average blocks of {factor} × {factor} pixels: a photograph hardly changes, its noise falls by {factor}. So at the same σ a large picture is much less noised than a small one, and a schedule that was right for one resolution lingers at levels where the next one is still clear. \
                 To noise the <em>content</em> as much, σ/α must grow with the side; on flow matching's path that is a shift of time (Hoogeboom et al. 2023, Esser et al. 2024):",
            )),
            f(
                "\\frac{\\sigma}{\\alpha} \\to k\\, \\frac{\\sigma}{\\alpha}, \\qquad \\ell \\to \\ell - 2 \\ln k, \\qquad t \\to \\frac{k\\, t}{1 + (k - 1)\\, t}",
            ),
            figure(
                "resolution",
                &format!(
                    "Left: {large} × {large} pixels with noise σ. Right, from above: the same pictures averaged to {small} × {small}; a picture of {small} × {small} pixels with the same σ; and with σ/{factor}, which looks as the averaged one does."
                ),
                "A row of five large pictures of a face with rising noise, then three rows of small ones: the averaged pictures stay clear much longer than the small pictures with the same noise, and look like the small ones with a quarter of it.",
                vec![
                    rows_of(
                        columns.clone(),
                        vec![(format!("{large} × {large}, noise σ"), row(0))],
                        large,
                    ),
                    rows_of(
                        columns,
                        vec![
                            (format!("the same, averaged to {small} × {small}"), row(1)),
                            (format!("{small} × {small}, noise σ"), row(2)),
                            (format!("{small} × {small}, noise σ/{factor}"), row(3)),
                        ],
                        small,
                    ),
                ],
            ),
            Block::Evidence(g.evidence.clone()),
        ],
    )
}

fn learned(n: &Numbers) -> Section {
    let l = &n.learned;
    let colours = [BLUE, VERMILION, GREEN, PURPLE, INK];
    let densities = l.drawn.iter().zip(colours).map(|(d, colour)| {
        let mark = if d.name == "the best" { Mark::Dashed } else { Mark::Line };
        Series::new(d.name, along(&l.log_snrs), along(&d.density), mark, colour)
    });
    let mut running: Vec<Series> = l
        .drawn
        .iter()
        .zip(colours)
        .map(|(d, colour)| {
            let mark = if d.name == "the best" { Mark::Dashed } else { Mark::Line };
            Series::new(
                d.name,
                d.running.iter().map(|r| r.0),
                d.running.iter().map(|r| r.1),
                mark,
                colour,
            )
        })
        .collect();
    let most = l.drawn.first().and_then(|d| d.running.last()).map_or(1.0, |r| r.0);
    running.push(Series::new("_the bound", [1.0, most], [1.0, 1.0], Mark::Dashed, MUTED));
    let rows = l.drawn.iter().map(|d| {
        vec![
            d.name.to_string(),
            three(d.deviation),
            thousands((d.deviation / 0.01).powi(2).ceil() as usize),
        ]
    });
    let of = |name: &str| l.drawn.iter().find(|d| d.name == name).map_or(f64::NAN, |d| d.deviation);
    section(
        "learned",
        "Learning the schedule",
        vec![
            p(format!(
                "A network can learn its schedule along with its weights. What is there to learn? In continuous time the bound is an integral over log-SNR between two ends, the same for every schedule, here {} nats for the digits. But training never sees the integral: it draws a $t$, and the schedule is the density from which the levels are drawn. \
                 With $w = \\tfrac12 \\lVert \\varepsilon - \\hat\\varepsilon \\rVert^2$,",
                three(l.bound)
            )),
            f(
                "\\int \\mathbb E\\, w\\, \\mathrm d \\ell = \\mathbb E_{\\ell \\sim p}\\left[\\frac{w}{p(\\ell)}\\right], \\qquad \\int \\frac{\\mathbb E\\, w^2}{p(\\ell)}\\, \\mathrm d \\ell \\ge \\left(\\int \\sqrt{\\mathbb E\\, w^2}\\, \\mathrm d \\ell\\right)^2",
            ),
            p(format!(
                "The mean does not depend on $p$; the second moment, and with it the variance, does, and is least for $p \\propto \\sqrt{{\\mathbb E\\, w^2}}$. One draw on flow matching's schedule is off by {} times the bound, on VP's linear β by {} times, on the best schedule by {} times. Drawn evenly in σ the estimate is useless: nearly all draws fall where nothing is decided, the mean tends to settle far too low, until a rare draw throws it up.",
                three(of("flow matching")),
                three(of("VP, linear β")),
                three(of("the best")),
            )),
            figure(
                "learned",
                "Left: how often each schedule draws a level, and the best density for the digits' Gaussian. Right: running means of the estimate over the bound. All go to 1.",
                "Left: humps over log-SNR for cosine and flow matching, a spike at the noisy end for even in sigma, and the best density rising towards the data. Right: lines that converge to one at different speeds; even in sigma stays low with rare jumps.",
                vec![
                    plot(
                        "Density of the draws",
                        Axis::linear("log_snr", "log-SNR (data on the right)").over(n.settings.log_snr[0], n.settings.log_snr[1]),
                        Axis::linear("density", "density").over(0.0, 0.4),
                        densities.collect(),
                    ),
                    plot(
                        "Running mean",
                        Axis::log("draws", "draws"),
                        Axis::linear("mean_over_bound", "mean / bound").over(0.0, 2.0),
                        running,
                    ),
                ],
            ),
            Block::Table(Table {
                caption: "Deviation of one draw over the bound, exact, and how many draws make the mean good to 1 %.".into(),
                head: ["schedule", "deviation", "draws for 1 %"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(l.evidence.clone()),
        ],
    )
}
