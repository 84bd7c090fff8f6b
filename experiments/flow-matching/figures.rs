//! The chapter on flow matching, made from the numbers of [`crate::flow_matching::numbers`].

use crate::flow_matching::numbers::{Costs, Gap, Numbers, compute};
use ndarray::Array2;
use std::f64::consts::PI;
use tweedie::error::Result;
use tweedie_report::chapter::{along, command, digits, f, figure, images, p, plot, section};
use tweedie_report::drawing::{Axis, Drawing, Mark, Series, Tone, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("flow-matching", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "flow-matching".into(),
        title: "Flow matching: how straight is it?".into(),
        lead: "Flow matching is told as a new kind of model: no diffusion, straight lines from noise to data, optimal transport, few steps. Half of that is the old process with another clock; half of the rest is \
               true of the lines that the network is trained on and not of the flow that it learns. With laws whose flow is known every part of the story has a number. This chapter computes them, draws the flows, and \
               counts what Euler's steps cost."
            .into(),
        command,
        sections: vec![same(n), straight(n), transport(n), modes(n), steps(n), spent(n)],
    }
}

/// A share in percent.
fn percent(share: f64) -> String {
    match 100.0 * share {
        v if v >= 10.0 => format!("{v:.0} %"),
        v if v >= 1.0 => format!("{v:.1} %"),
        v => format!("{v:.2} %"),
    }
}

fn same(n: &Numbers) -> Section {
    let colours = [BLUE, VERMILION, GREEN];
    let mut raw = Vec::new();
    let mut scaled = Vec::new();
    for (k, path) in n.line.paths.iter().enumerate() {
        for i in 0..path.states.ncols() {
            let label =
                if i == 0 { path.name.to_owned() } else { format!("_{} {}", path.name, i + 1) };
            raw.push(Series::new(
                &label,
                along(&path.times),
                path.states.column(i).iter().copied(),
                Mark::Line,
                colours[k],
            ));
            let angles = path.angles.iter().map(|a| a / (0.5 * PI));
            let mark = [Mark::Line, Mark::Dashed, Mark::Points][k];
            // Of the third path every eighth point: its line would cover the others'.
            let every = if mark == Mark::Points { 8 } else { 1 };
            scaled.push(Series::new(
                &label,
                angles.step_by(every),
                path.scaled.column(i).iter().copied().step_by(every),
                mark,
                colours[k],
            ));
        }
    }
    section(
        "same",
        "The old process with another clock",
        vec![
            p(
                "Flow matching joins noise and data by a straight line in time, and learns the mean velocity of all lines that pass a point:",
            ),
            f(
                "x_t = (1-t)\\,x_0 + t\\,\\varepsilon, \\qquad u(x,t) = \\mathbb E[\\varepsilon - x_0 \\mid x_t = x] = \\frac{x - \\mathbb E[x_0\\mid x_t = x]}{t}",
            ),
            p(
                "That is a diffusion process with $\\alpha_t = 1-t$ and $\\sigma_t = t$. Every path $x_t = \\alpha_t x_0 + \\sigma_t\\varepsilon$ is the same process, in another unit of length and by another clock, so its denoiser, its law and \
                 its trajectories are those of DDPM. On the cosine path the velocity is $\\tfrac{\\pi}{2} v$, the target of v-prediction; on flow matching's it is $v$ times $1/(\\alpha_t^2+\\sigma_t^2)$, plus a multiple of the state.",
            ),
            figure(
                "same",
                &format!(
                    "{} draws of noise carried to a mixture of three Gaussians in one direction. Left: as each path draws them. Right: the same states over $\\sqrt{{\\alpha^2+\\sigma^2}}$, against the angle whose tangent is $\\sigma/\\alpha$: one flow. \
                     On flow matching's path all trajectories run from $\\sigma/\\alpha = {}$ to ${}$, as on the others.",
                    n.settings.line.draws.len(),
                    plain(n.settings.line.range[1]),
                    plain(n.settings.line.range[0])
                ),
                "Left, fifteen curves against time in three colours, each colour bending in its own way between the same ends. Right, the three colours lie on top of each other and form five curves.",
                vec![
                    plot(
                        "As drawn",
                        Axis::linear("t", "t: 0 data, 1 noise").over(0.0, 1.0),
                        Axis::linear("x", "state"),
                        raw,
                    ),
                    plot(
                        "One clock, one scale",
                        Axis::linear("angle", "angle over π/2: 0 data, 1 noise").over(0.0, 1.0),
                        Axis::linear("x_over_norm", "state over √(α² + σ²)"),
                        scaled,
                    ),
                ],
            ),
            Block::Evidence(n.line.evidence.clone()),
        ],
    )
}

/// Trajectories in the plane, their starts and their ends.
fn flow(title: &str, paths: &[Array2<f64>], colour: Colour, mark: Mark) -> Drawing {
    let mut series: Vec<Series> = paths
        .iter()
        .enumerate()
        .map(|(k, path)| {
            let label = if k == 0 { "way".into() } else { format!("_way {}", k + 1) };
            Series::new(
                label,
                path.column(0).iter().copied(),
                path.column(1).iter().copied(),
                mark,
                colour,
            )
        })
        .collect();
    let at = |last: bool, j: usize| {
        paths.iter().map(move |path| path[[if last { path.nrows() - 1 } else { 0 }, j]])
    };
    series.push(Series::new("noise", at(false, 0), at(false, 1), Mark::Points, MUTED));
    series.push(Series::new("data", at(true, 0), at(true, 1), Mark::Points, INK));
    // Equal units on both axes of the frame.
    plot(
        title,
        Axis::linear("x", "x₁").over(-4.25, 4.25),
        Axis::linear("y", "x₂").over(-2.5, 2.5),
        series,
    )
}

/// Straight lines between the rows of two batches.
fn lines(from: &Array2<f64>, to: &Array2<f64>) -> Vec<Array2<f64>> {
    let line = |i: usize| {
        Array2::from_shape_fn((2, 2), |(k, j)| if k == 0 { from[[i, j]] } else { to[[i, j]] })
    };
    (0..from.nrows()).map(line).collect()
}

fn straight(n: &Numbers) -> Section {
    let q = &n.plane;
    let [noise, data] = &q.pairs;
    let ends = Array2::from_shape_fn(noise.dim(), |(i, j)| q.paths[i][[q.paths[i].nrows() - 1, j]]);
    section(
        "straight",
        "Straight lines, bent flow",
        vec![
            p(
                "What is straight is the line between one draw of noise and one data point, and such a line is the optimal transport between the two. But noise and data are drawn independently in training, so the lines cross. A flow can not: \
                 at one point and time it has one velocity, the mean of all lines there. Where lines cross the mean is none of them, and the flow bends.",
            ),
            figure(
                "flows",
                "The same draws of noise four times: with independent data points, as in training; along the exact flow; by straight lines to the ends of that flow, as one reflow pairs them; and by two steps of Euler's method along the bent flow, which miss them.",
                "Four plots of lines in the plane from scattered noise to three clusters. The first is a thicket of crossing straight lines; in the second curved paths sweep to the clusters without crossing; in the third straight lines fan out to the clusters; in the fourth polygons of two segments end between and inside of them.",
                vec![
                    flow("Trained on: independent pairs", &lines(noise, data), SKY, Mark::Line),
                    flow("Learned: the flow", &q.paths, BLUE, Mark::Line),
                    flow("After one reflow", &lines(noise, &ends), GREEN, Mark::Line),
                    flow(
                        &format!("Euler, {} steps of the flow", n.settings.plane.euler[0]),
                        &q.euler[0].1,
                        VERMILION,
                        Mark::Line,
                    ),
                ],
            ),
            p(format!(
                "<em>Reflow</em> trains again, on the pairs of noise and data that the flow has made. Their lines hardly ever cross (here not at all: on a lattice of noise every real eigenvalue of the flow's Jacobian is at least {}), so that the mean at a point is the one line \
                 through it: the second flow is straight, has the same ends, and one Euler step follows it exactly. In one direction, and for Gaussian data in any number of them, that is a theorem. A second reflow has nothing left to straighten; \
                 where practice needs one, it mends what the first network missed. And no reflow is better than the solver that made its pairs.",
                plain((q.least_eigenvalue * 1e3).round() / 1e3)
            )),
            f(
                "u_{\\text{reflowed}}\\big((1-t)\\,\\Phi(z) + t z,\\; t\\big) = z - \\Phi(z) \\quad \\text{for all } t",
            ),
        ],
    )
}

fn transport(n: &Numbers) -> Section {
    let q = &n.plane;
    let row = |name: &str, c: &Costs| {
        let cell = |v: f64| format!("{} ({})", plain(v), percent(v / c.independent));
        vec![
            name.to_owned(),
            plain(c.independent),
            cell(c.crossing),
            cell(c.bending),
            cell(c.flow),
            cell(c.swapped),
            cell(c.bound),
        ]
    };
    section(
        "transport",
        "Where the transport goes",
        vec![
            p(
                "Three defects can be told apart, and they add up. Independent pairs cost $\\mathbb E|\\varepsilon-x_0|^2$ of transport. Part of it is lost where lines cross: no velocity field can follow two lines at once, and this part is the loss \
                 that the best network is left with. Part is lost because the flow bends. What remains is the cost of the pairs that the flow makes:",
            ),
            f(
                "\\mathbb E|\\varepsilon-x_0|^2 = \\underbrace{\\int_0^1 \\mathbb E\\,\\mathrm{Var}(\\varepsilon-x_0\\mid x_t)\\,\\mathrm dt}_{\\text{crossing}} + \\underbrace{\\int_0^1 \\mathbb E\\,|z - \\Phi(z) - u|^2\\,\\mathrm dt}_{\\text{bending}} + \\underbrace{\\mathbb E|z - \\Phi(z)|^2}_{\\text{flow}}",
            ),
            p("For Gaussian data all three are closed forms, component by component: $\\tfrac{\\pi}{2}\\sqrt\\lambda$, $(2-\\tfrac{\\pi}{2})\\sqrt\\lambda$ and $(1-\\sqrt\\lambda)^2$, and the last is the optimum."),
            Block::Table(Table {
                caption: "Transport from noise to data. Swapped: the flow's pairs after swapping two ends each as long as that makes them cheaper. The last column is a lower bound of every way of pairing, W₂² of the Gaussians with the same moments; for the digits' Gaussian it is the optimum itself.".into(),
                head: ["data", "independent", "crossing", "bending", "flow", "swapped", "bound"].map(String::from).to_vec(),
                rows: vec![row("three Gaussians in the plane", &q.mixture), row("the digits as a Gaussian", &q.digits)],
            }),
            p(format!(
                "So: is the flow the optimal transport? For Gaussian data, yes. In one direction, yes: the flow keeps the order of states. Otherwise not, and it can be seen without computing the optimum. An optimal map is the gradient of a convex \
                 function, so its Jacobian is symmetric. That of the flow in the plane is not: entries differ by up to {} of its size. It is a subtle defect, which swaps of two ends hardly find: all swaps that help leave {} of the cost. And the flow's pairs cost {} of what the training pairs do.",
                percent(q.antisymmetry),
                percent(q.mixture.swapped / q.mixture.flow),
                percent(q.mixture.flow / q.mixture.independent)
            )),
            Block::Evidence(q.evidence.clone()),
        ],
    )
}

fn modes(n: &Numbers) -> Section {
    let m = &n.modes;
    let at = |values: &[f64], v: f64| {
        let k = (0..values.len()).min_by(|a, b| {
            (m.variances[*a].ln() - v.ln()).abs().total_cmp(&(m.variances[*b].ln() - v.ln()).abs())
        });
        k.map_or(f64::NAN, |k| values[k])
    };
    section(
        "modes",
        "Straight in which units?",
        vec![
            p(
                "Straightness belongs to the data as much as to the path. Along a component of variance $\\lambda$ the flow moves every state in proportion to the deviation of $x_t$, so it is straight where that deviation is linear in time:",
            ),
            f(
                "\\rho(t) = \\sqrt{\\alpha_t^2\\lambda + \\sigma_t^2}, \\qquad \\text{bending} = \\int_0^1 \\big(\\dot\\rho - (\\rho(1) - \\rho(0))\\big)^2 \\mathrm dt",
            ),
            figure(
                "bending",
                "Bending of one component on two paths, as a share of the transport cost $1+\\lambda$ of independent pairs.",
                "Two curves against the variance on a logarithmic axis. Flow matching's rises from near zero to a maximum of 0.21 at variance 1 and falls again; the cosine path's falls from 0.2 to zero at variance 1 and rises again.",
                vec![plot(
                    "",
                    Axis::log("variance", "variance λ of the component"),
                    Axis::linear("bending", "bending over 1 + λ").over(0.0, 0.26),
                    vec![
                        Series::new(
                            "flow matching",
                            along(&m.variances),
                            along(&m.flow_matching),
                            Mark::Line,
                            BLUE,
                        ),
                        Series::new(
                            "cosine",
                            along(&m.variances),
                            along(&m.cosine),
                            Mark::Dashed,
                            VERMILION,
                        ),
                    ],
                )],
            ),
            p(format!(
                "Flow matching's path is straight where the data have next to no variance: a point of data, or a fine detail. It bends most ({}) at $\\lambda = 1$: halfway between noise and data of the same size the sum of the two halves is too small by \
                 $\\sqrt 2$. The cosine path is the other way round, exactly straight on whitened data. Latents are usually scaled to unit variance, which is where flow matching's path bends most.",
                percent(at(&m.flow_matching, 1.0))
            )),
            Block::Evidence(m.evidence.clone()),
        ],
    )
}

fn steps(n: &Numbers) -> Section {
    let d = &n.digits;
    let rows = d
        .euler
        .iter()
        .map(|(k, x)| (if *k == 1 { "1 step".into() } else { format!("{k} steps") }, images(x)))
        .chain([("the exact flow; after a reflow, 1 step".into(), images(&d.exact))])
        .collect();
    let q = &n.plane;
    let at = |of: &[Gap], k: usize, value: fn(&Gap) -> f64| {
        of.iter().find(|e| e.steps == k).map_or("?".into(), |e| percent(value(e)))
    };
    let curve = |label: &str, of: &[Gap], value: fn(&Gap) -> f64, mark, colour| {
        Series::new(label, of.iter().map(|e| e.steps as f64), of.iter().map(value), mark, colour)
    };
    section(
        "steps",
        "What a step costs",
        vec![
            p(
                "A bent flow asks for steps. The law here is a mixture of ten Gaussians, one for each digit; its flow is known to thirteen digits. Euler's method starts from the same ten draws of noise and takes steps even in time.",
            ),
            f(
                "x_{t-h} = x_t - h\\, u(x_t, t) = \\frac{t-h}{t}\\, x_t + \\frac{h}{t}\\,\\mathbb E[x_0\\mid x_t]",
            ),
            figure(
                "digits",
                "Digits from Euler's method on flow matching's path, and from the exact flow. One step gives the mean of all digits, whatever the noise; a perfect reflow gives the last row in one step.",
                "Six rows of ten small digits. One step: ten times the same grey blur. Two steps: blurred digit shapes. Four and eight steps: recognisable digits, paler than the exact ones. Thirty-two steps and the exact row look the same.",
                vec![digits("", "", vec![], rows, Tone::Ink)],
            ),
            p(format!(
                "One step can't do anything: at $t = 1$ the state says nothing of the data, the best velocity points to the mean. After 8 steps half of the digits are within {} of the data's deviation of where the exact flow puts them, after 32 within {}; in the plane it is {} and {}. \
                 For such a typical draw twice the steps are half the error, on this path as on any other. The root mean square is another matter: it is ruled by the few draws on a watershed, which Euler's first, longest and blindest steps \
                 put on the wrong side ({} of the draws in the plane with 8 steps, {} with 32), and these end at another digit.",
                at(&d.gaps, 8, |e| e.median),
                at(&d.gaps, 32, |e| e.median),
                at(&q.gaps, 8, |e| e.median),
                at(&q.gaps, 32, |e| e.median),
                at(&q.gaps, 8, |e| e.elsewhere),
                at(&q.gaps, 32, |e| e.elsewhere),
            )),
            figure(
                "euler",
                "Left: Euler's steps in the plane, from the same noise as above. Right: distance of Euler's ends from those of the exact flow, over the data's deviation; after a reflow it is 0 from the first step on.",
                "Left, polygons of six segments from noise towards three clusters, missing them slightly. Right, falling curves on logarithmic axes: the two medians approach a slope of minus one, the root mean squares lie above and flatten.",
                vec![
                    flow(
                        &format!("Euler, {} steps", n.settings.plane.euler[1]),
                        &q.euler[1].1,
                        VERMILION,
                        Mark::Line,
                    ),
                    plot(
                        "Error of the ends",
                        Axis::log("steps", "steps"),
                        Axis::log("error", "distance over the deviation"),
                        vec![
                            curve("plane, median", &q.gaps, |e| e.median, Mark::Linked, BLUE),
                            curve("root mean square", &q.gaps, |e| e.rms, Mark::Dashed, BLUE),
                            curve("digits, median", &d.gaps, |e| e.median, Mark::Linked, VERMILION),
                            curve("root mean square ", &d.gaps, |e| e.rms, Mark::Dashed, VERMILION),
                        ],
                    ),
                ],
            ),
        ],
    )
}

fn spent(n: &Numbers) -> Section {
    let d = &n.digits;
    let colours = [BLUE, SKY, VERMILION, PURPLE, ORANGE, GREEN];
    let grids = d.curves.iter().take(5).zip(colours).enumerate().map(|(k, (c, colour))| {
        Series::new(
            c.name,
            along(&c.log_snr),
            std::iter::repeat(5.0 - k as f64),
            Mark::Points,
            colour,
        )
    });
    let mut grids: Vec<Series> = grids.collect();
    let [first, half, last] = d.decided;
    grids.push(Series::new("_digits appear", [first, last], [0.0, 0.0], Mark::Line, INK));
    let curves = d.curves.iter().zip(colours).map(|(c, colour)| {
        let mark = if c.name.starts_with("2nd") { Mark::Dashed } else { Mark::Linked };
        Series::new(c.name, along(&c.steps), along(&c.w2), mark, colour)
    });
    let at = |name: &str, k: usize| {
        let found = d.curves.iter().find(|c| c.name == name);
        found
            .and_then(|c| Some(percent(c.w2[c.steps.iter().position(|s| *s == k as f64)?])))
            .unwrap_or("?".into())
    };
    let best = |k: usize| {
        let found = d
            .curves
            .iter()
            .take(5)
            .filter_map(|c| Some((c.name, c.w2[c.steps.iter().position(|s| *s == k as f64)?])));
        found
            .min_by(|a, b| a.1.total_cmp(&b.1))
            .map_or(("?", "?".into()), |(name, w2)| (name, percent(w2)))
    };
    let (name8, w8) = best(8);
    let (name32, w32) = best(32);
    let table = d.curves.iter().map(|c| {
        let mut row = vec![c.name.to_owned()];
        row.extend([2, 4, 8, 16, 32, 64, 128].map(|k| at(c.name, k)));
        row
    });
    section(
        "spent",
        "What the clock is good for",
        vec![
            p(
                "If the trajectories are the same on every path, what does flow matching's clock change? For a sampler, one thing: at which noise levels steps even in time fall. Its log-SNR is",
            ),
            f(
                "\\ln\\frac{\\alpha_t^2}{\\sigma_t^2} = 2\\ln\\frac{1-t}{t}, \\qquad t' = \\frac{s\\,t}{1+(s-1)\\,t} \\;\\Rightarrow\\; \\text{log-SNR} - 2\\ln s",
            ),
            p(
                "A shift of $s$, as large text-to-image models use it, moves every step towards the noise by $2\\ln s$. The digits' Gaussian has a sampler's whole law in closed form, so every grid can be judged without sampling.",
            ),
            figure(
                "grids",
                &format!(
                    "Left: where {} steps fall, pure noise and data left out; the black line is where the digits appear: from 10 % to 90 % of their variance lies in components with $\\sigma/\\alpha = \\sqrt\\lambda$ there. \
                     Right: exact W₂ of the produced law to the data, over the data's deviation. All but the dashed line are Euler's method; Karras and log-SNR start at $\\sigma/\\alpha = {}$, whose trace of the data is what the dashed line levels off at.",
                    n.settings.digits.shown,
                    plain(n.settings.digits.range[1])
                ),
                "Left, five rows of points along log-SNR: even in t and cosine cluster around zero, shifted lies further towards noise, Karras and log-SNR spread over a wide range. Right, falling curves on logarithmic axes, with those of even in t lowest for few steps and the second-order method far below from six steps on.",
                vec![
                    plot(
                        "Where steps fall",
                        Axis::linear("log_snr", "log-SNR: noise left, data right").over(-9.0, 13.0),
                        Axis::linear("row", "a row a grid, in this order").over(-0.6, 5.6),
                        grids,
                    ),
                    plot("What they give", Axis::log("steps", "steps"), Axis::log("w2", "W₂ over the deviation"), curves.collect()),
                ],
            ),
            Block::Table(Table {
                caption: "W₂ to the data by number of steps, over the data's deviation; the digits as a Gaussian.".into(),
                head: ["grid", "2", "4", "8", "16", "32", "64", "128"].map(String::from).to_vec(),
                rows: table.collect(),
            }),
            p(format!(
                "Half of the digits' variance has appeared at log-SNR {}. With 8 steps the best grid for Euler is “{name8}” ({w8}), with 32 “{name32}” ({w32}). Steps even in flow matching's time put most of them near log-SNR 0, where data of \
                 unit size are decided, and that is the merit of the clock. It is not order: a second-order method on a plain log-SNR grid is {} off after 32 steps, and the straightest path with Euler {}.",
                plain((half * 10.0).round() / 10.0),
                at("2nd order, log-SNR", 32),
                at("even in t", 32),
            )),
            p(
                "What to take home. Flow matching is diffusion; a checkpoint of one is a checkpoint of the other. Its regression target is straight, its flow is not. Few steps come from three things that have nothing to do with the name: \
                 a grid that fits the data's spectrum, a solver of higher order, and reflow or distillation, which change the model.",
            ),
            Block::Evidence(d.evidence.clone()),
        ],
    )
}
