//! The chapter on objectives, made from the numbers of [`crate::equivalence::numbers`].

use crate::equivalence::numbers::linear::{Objective, at_level};
use crate::equivalence::numbers::manifold::Space;
use crate::equivalence::numbers::{Numbers, TARGETS, compute};
use tweedie::diffusion::prediction::Prediction;
use tweedie::error::Result;
use tweedie::math::{larger, smaller};
use tweedie_report::chapter::{along, command, f, figure, p, plot, scientific, section, thousands};
use tweedie_report::drawing::{Axis, Drawing, Mark, Series, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, Colour, GREEN, MUTED, PURPLE, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    chapter(&compute(context)?, command("equivalence", context))
}

fn chapter(n: &Numbers, command: String) -> Result<Chapter> {
    Ok(Chapter {
        name: "equivalence".into(),
        title: "Predict the data, the noise, or a mixture: what is the same and what is not".into(),
        lead: "A diffusion network may be trained to say what the clean picture was, what the noise was, or a combination of the two. Given the noisy picture each answer implies the others, so lectures call \
               the objectives equivalent. Equivalent in what? Here the question is put where it has an exact answer: linear denoisers, solved and descended; maps with a bottleneck; and a U-Net in double precision. \
               The best answer is always the same. The way to it, and what a limited network can reach, are not."
            .into(),
        command,
        sections: vec![minimiser(n)?, descent(n), stochastic(n), bottleneck(n), manifold(n), measured(n), trained(n)],
    })
}

const COLOURS: [Colour; 4] = [BLUE, VERMILION, GREEN, PURPLE];

/// A target as the page writes it.
fn label(target: Prediction) -> &'static str {
    match target {
        Prediction::X0 => "x₀",
        Prediction::Eps => "ε",
        Prediction::V => "v",
        _ => "velocity",
    }
}

/// Three digits, in powers of ten where it is small.
fn short(v: f64) -> String {
    if v >= 1e-3 || v == 0.0 {
        return plain(v);
    }
    scientific(v, 2)
}

/// One curve for each target.
fn curves<'a>(x: &'a [f64], y: impl Fn(usize) -> &'a [f64], mark: Mark) -> Vec<Series> {
    TARGETS
        .iter()
        .enumerate()
        .map(|(k, t)| Series::new(label(*t), along(x), along(y(k)), mark, COLOURS[k]))
        .collect()
}

fn minimiser(n: &Numbers) -> Result<Section> {
    let s = &n.linear.solved;
    let gains = |stage: usize| {
        curves(
            &s.variances,
            |k| &s.filters[k][stage],
            if stage == 0 { Mark::Line } else { Mark::Points },
        )
    };
    let mut after = gains(1);
    // Discs of four sizes of the same place would hide each other: every fourth component belongs
    // to one target.
    for (k, series) in after.iter_mut().enumerate() {
        series.points = series
            .points
            .iter()
            .copied()
            .enumerate()
            .filter(|(i, _)| i % 4 == k)
            .map(|(_, p)| p)
            .collect();
    }
    let at = at_level(s.shown)?;
    let wiener =
        s.variances.iter().map(|l| at.alpha * l / (at.alpha * at.alpha * l + at.sigma * at.sigma));
    after.insert(0, Series::new("Wiener filter", along(&s.variances), wiener, Mark::Line, MUTED));
    let variance = || Axis::log("variance", "variance λ of the component");
    let mut rows = Vec::new();
    for (k, target) in TARGETS.into_iter().enumerate() {
        let what = [
            "$x_0$",
            "$\\varepsilon$",
            "$v = \\alpha\\varepsilon - \\sigma x_0$",
            "velocity $= \\varepsilon - x_0$",
        ][k];
        let mut row = vec![what.to_string()];
        for sigma in [0.1, 1.0, 10.0] {
            row.push(plain(Objective::new(target, &at_level(sigma)?)?.scale));
        }
        row.push(plain(n.linear.descent.starts[k]));
        let worst = s.errors[k].iter().copied().fold(0.0, larger);
        row.push(short(worst));
        rows.push(row);
    }
    Ok(section(
        "minimiser",
        "One minimiser",
        vec![
            p(
                "Noise the data along the straight path, $x_t = \\alpha x_0 + \\sigma\\varepsilon$ with $\\alpha = 1-t$ and $\\sigma = t$: there no two of the four targets are multiples of each other. Each is \
                 $y = a x_0 + b\\varepsilon$, and with $x_t$ it makes two equations for $x_0$ and $\\varepsilon$, so that an answer $\\hat y$ implies",
            ),
            f(
                "\\hat x_0 = \\frac{b\\, x_t - \\sigma\\, \\hat y}{\\det}, \\qquad \\hat x_0 - x_0 = -\\frac{\\sigma}{\\det}\\, (\\hat y - y), \\qquad \\det = \\alpha b - \\sigma a",
            ),
            p(
                "Every squared error of $y$ is $(\\det/\\sigma)^2$ times that of the $x_0$ it implies, so both losses have their least value at the same function. For linear denoisers $\\hat y = W x_t$ of centred data with \
                 covariance $\\Sigma$ that function can be computed: four different normal equations, which share the matrix of second moments,",
            ),
            f(
                "W_y = \\mathbb E[y\\, x_t^{\\mathsf T}]\\, H^{-1}, \\qquad H = \\mathbb E[x_t x_t^{\\mathsf T}] = \\alpha^2 \\Sigma + \\sigma^2 I",
            ),
            p(
                "They are solved as they stand, dense matrices of 64 × 64 for the 1,797 digits, and converted. All four are the Wiener filter $\\alpha\\Sigma H^{-1}$, to rounding times the condition of the problem: what \
                 little is lost is lost by $\\varepsilon$ at high noise, where its $\\hat x_0$ is divided by a small $\\alpha$.",
            ),
            figure(
                "filters",
                &format!(
                    "The four solutions at $\\sigma/\\alpha = {}$: gain of each principal component before the conversion (left) and after it (right, every fourth component of each).",
                    plain(s.shown)
                ),
                "Left: four different curves of gain against variance, rising for x0 and falling for the others. Right: points of all four colours on one rising curve, the Wiener filter.",
                vec![
                    plot("The four solutions", variance(), Axis::linear("gain", "gain"), gains(0)),
                    plot("Converted to x₀", variance(), Axis::linear("gain", "gain"), after),
                ],
            ),
            figure(
                "solved",
                "Largest entry of each converted solution less the Wiener filter, over the noise level.",
                "Four curves on logarithmic axes, near 1e-14 at low noise. Towards high noise that of eps rises to 1e-13, that of velocity stays near 1e-15, those of x0 and v fall to 1e-17.",
                vec![plot(
                    "",
                    Axis::log("sigma_over_alpha", "noise level σ/α"),
                    Axis::log("largest_difference", "largest difference"),
                    curves(&s.sigmas, |k| &s.errors[k], Mark::Line),
                )],
            ),
            Block::Table(Table {
                caption: format!(
                    "The four objectives. Columns two to four: squared error of $y$ over that of the $x_0$ it implies; re-weighting to the loss of $x_0$ divides by it. Then the gain of the $\\hat x_0$ that the answer $\\hat y = 0$ \
                     implies at $t = {}$, and the largest difference of the figure.",
                    plain(n.settings.descent_time)
                ),
                head: ["target", "$\\sigma/\\alpha = 0.1$", "$1$", "$10$", "start", "difference"]
                    .map(String::from)
                    .to_vec(),
                rows,
            }),
            Block::Evidence(s.evidence.clone()),
        ],
    ))
}

/// Steps on a logarithmic axis, which has no place for step 0.
fn shifted(steps: &[usize]) -> Vec<f64> {
    steps.iter().map(|n| *n as f64 + 1.0).collect()
}

fn descent(n: &Numbers) -> Section {
    let d = &n.linear.descent;
    let steps = shifted(&d.steps);
    let axis = || Axis::log("step_plus_1", "step + 1");
    let (mut modes, mut excess) = (Vec::new(), Vec::new());
    for (k, target) in TARGETS.iter().enumerate() {
        let [theory, seen] = &d.followed[k];
        excess.push(Series::new(
            format!("_{} closed form", label(*target)),
            along(&steps),
            along(&theory.excess),
            Mark::Line,
            COLOURS[k],
        ));
        excess.push(Series::new(
            label(*target),
            along(&steps),
            along(&seen.excess),
            Mark::Points,
            COLOURS[k],
        ));
        // Two targets tell the rates from the starts.
        if k < 2 {
            for (i, mode) in d.modes.iter().enumerate() {
                let name = format!("_{}, component {}", label(*target), mode + 1);
                modes.push(Series::new(
                    format!("{name}, closed form"),
                    along(&steps),
                    along(&theory.gains[i]),
                    Mark::Line,
                    COLOURS[k],
                ));
                let name = if i == 0 { label(*target).to_string() } else { name };
                modes.push(Series::new(
                    name,
                    along(&steps),
                    along(&seen.gains[i]),
                    Mark::Points,
                    COLOURS[k],
                ));
            }
        }
    }
    let components = d.modes.iter().map(|k| (k + 1).to_string()).collect::<Vec<_>>().join(", ");
    section(
        "descent",
        "The way there: same rates, other starts",
        vec![
            p(
                "The gradient of $\\tfrac12 \\mathbb E\\lVert W x_t - y\\rVert^2$ is $W H - \\mathbb E[y x_t^{\\mathsf T}]$. The curvature $H$ does not know the target. Put into the implied $x_0$-map $M$, a step of gradient \
                 descent is the same for all of them, and falls apart into the principal components:",
            ),
            f(
                "M \\leftarrow M - \\eta\\,\\big(M H - \\mathbb E[x_0 x_t^{\\mathsf T}]\\big), \\qquad m_k(n) - m_k^* = (1 - \\eta h_k)^n\\, \\big(m(0) - m_k^*\\big), \\qquad h_k = \\alpha^2\\lambda_k + \\sigma^2",
            ),
            p(format!(
                "So the plain losses, each on its own output, at one noise level and with one step size, differ in nothing but the start: an answer of nothing, $\\hat y = 0$, implies $\\hat x_0 = (b/\\det)\\, x_t$, which is 0 for \
                 $x_0$ and $x_t/\\alpha$ for $\\varepsilon$. Where that is nearer to the Wiener filter the objective has a head start: in the fine components for $x_0$, whose gain is small, in the coarse ones for the others. Started from one \
                 $\\hat x_0$, all four take the same path. Re-weighting the losses to a common one is what <em>breaks</em> this: it multiplies each step by $(\\sigma/\\det)^2$, and leaves a rate $1 - \\eta\\,(\\sigma/\\det)^2 h_k$. Here $t = {}$, \
                 $\\eta = {}/h_1$, from $W = 0$.",
                plain(n.settings.descent_time),
                plain(n.settings.descent_rate)
            )),
            figure(
                "descent",
                &format!(
                    "Gradient descent on the exact loss; lines are the closed form, points the iterated matrices. Left: distance of the gain from the Wiener filter's in components {components}, from fast to slow. Right: risk of $\\hat x_0$ above the least, in units of the data's variance."
                ),
                "Left: for each of three components a pair of falling curves that bend down at the same step for both targets, from different starts. Right: four curves that fall together, with points on them.",
                vec![
                    plot(
                        "Three components",
                        axis(),
                        Axis::log("distance", "distance of the gain").over(1e-9, 10.0),
                        modes,
                    ),
                    plot(
                        "Excess risk",
                        axis(),
                        Axis::log("excess_risk", "excess risk of x₀").over(1e-9, 10.0),
                        excess,
                    ),
                ],
            ),
            Block::Evidence(d.evidence.clone()),
        ],
    )
}

fn stochastic(n: &Numbers) -> Section {
    let s = &n.linear.stochastic;
    let steps = shifted(&s.steps);
    let (mut risk, mut apart) = (Vec::new(), Vec::new());
    for (k, target) in TARGETS.iter().enumerate() {
        let seen = s.seen[k].iter().map(|v| v[0]);
        risk.push(Series::new(
            format!("_{} expected", label(*target)),
            along(&steps),
            along(&s.expected[k]),
            Mark::Line,
            COLOURS[k],
        ));
        risk.push(Series::new(label(*target), along(&steps), seen, Mark::Points, COLOURS[k]));
        if k > 0 {
            apart.push(Series::new(
                format!("{} from x₀", label(*target)),
                along(&steps),
                along(&s.apart[k]),
                Mark::Line,
                COLOURS[k],
            ));
        }
    }
    let ends = [steps[0], steps[steps.len() - 1]];
    risk.push(Series::new("floor", ends, [s.floor; 2], Mark::Dashed, MUTED));
    apart.push(Series::new("floor of each", ends, [s.floor; 2], Mark::Dashed, MUTED));
    let axis = || Axis::log("step_plus_1", "step + 1");
    let value = |label: &str| Axis::log("excess_risk", label).over(1e-8, 10.0);
    section(
        "stochastic",
        "On samples: one noise floor",
        vec![
            p(format!(
                "Training sees samples, not expectations: here {} fresh ones a step. A step on any of the losses still is one step on the implied $x_0$-map, with the same sample in it. For Gaussian data the mean square of the \
                 error follows a recursion that closes, because the fourth moments are known. With $k_i$ the mean square error of the map in component $i$ and $R^*$ the least risk,",
                s.batch
            )),
            f(
                "k_i \\leftarrow k_i \\Big(1 - 2\\eta h_i + \\eta^2 h_i^2 \\big(1+\\tfrac1B\\big)\\Big) + \\frac{\\eta^2 h_i}{B}\\Big(\\sum_j h_j k_j + R^*\\Big)",
            ),
            f(
                "R_\\infty - R^* = R^*\\, \\frac{A}{1-A}, \\qquad A = \\frac1B \\sum_i \\frac{\\eta h_i}{2 - \\eta h_i (1+1/B)}",
            ),
            p(format!(
                "After the starts are forgotten all objectives jitter about the Wiener filter, with an excess risk of {} of the data's variance at this step size ($\\eta = {}/h_1$; the least risk is {}): the noise of training is not \
                 smaller for one target than for another. With the same samples they do not just jitter alike, they are one and the same: the difference of two maps knows no noise, only the products of the sampled curvatures, and goes to zero.",
                plain(s.floor),
                plain(n.settings.stochastic_rate),
                plain(s.least)
            )),
            figure(
                "stochastic",
                &format!(
                    "Stochastic gradient descent, {} runs, the same samples for all objectives. Left: mean excess risk of $\\hat x_0$ (points) and its exact expectation (lines). Right: excess risk that the difference between two objectives' maps would cause.",
                    s.runs
                ),
                "Left: four curves from different starts fall together onto a dashed floor near 0.02, points on the lines. Right: three curves fall far below that floor, to 1e-8.",
                vec![
                    plot(
                        "Excess risk",
                        axis(),
                        Axis::log("excess_risk", "excess risk of x₀"),
                        risk,
                    ),
                    plot(
                        "Distance between objectives",
                        axis(),
                        value("risk of the difference"),
                        apart,
                    ),
                ],
            ),
            Block::Evidence(s.evidence.clone()),
        ],
    )
}

fn bottleneck(n: &Numbers) -> Section {
    let b = &n.bottleneck;
    let [d, k] = b.dims;
    let ranks: Vec<f64> = (0..=d).map(|r| r as f64).collect();
    let drawing = |l: &crate::equivalence::numbers::rank::Level| -> Drawing {
        let mut series = curves(&ranks, |i| &l.risk[i], Mark::Line);
        for (i, trained) in l.trained.iter().enumerate() {
            let (r, risk): (Vec<f64>, Vec<f64>) =
                trained.iter().map(|(r, v)| (*r as f64, *v)).unzip();
            series.push(Series::new(
                format!("_{} trained", label(TARGETS[i])),
                r,
                risk,
                Mark::Points,
                COLOURS[i],
            ));
        }
        series.push(Series::new("no limit", [0.0, d as f64], [l.least; 2], Mark::Dashed, MUTED));
        plot(
            &format!("σ/α = {}", plain(l.sigma)),
            Axis::linear("rank", "rank of the map").over(0.0, d as f64),
            Axis::log("risk", "risk of x₀ / variance"),
            series,
        )
    };
    section(
        "bottleneck",
        "A bottleneck parts them",
        vec![
            p(format!(
                "Pictures fill little of the space that they live in; noise fills all of it. So a network that can not carry everything should say $x_0$, says an argument of 2025 (Li and He). It can be decided exactly for maps of limited rank. \
                 Take the Gaussian of the digits' {k} leading components: data on a {k}-dimensional subspace of {d} dimensions. The best map of rank $r$ keeps the $r$ largest singular values of the full one in the metric of $x_t$ (Eckart and Young):"
            )),
            f(
                "\\min_{\\operatorname{rank} W \\le r} \\mathbb E\\lVert W x_t - y\\rVert^2 = R_y^* + \\sum_{i>r} s_i^2, \\qquad s_i = \\text{singular values of } W_y H^{1/2}",
            ),
            p(format!(
                "For $x_0$ all but {k} of them are zero: rank {k} is enough, and more is no use. $\\varepsilon$ has to be said in every direction, also in the {} where there is nothing but noise, and that is where its singular values are largest: the data \
                 come last. Only at full rank is it as good. With a skip connection that adds $x_t/\\sigma$ for free the rest of $\\varepsilon$ has rank {k} again: the flaw is the bottleneck's, not the target's. A U-Net carries the picture past \
                 its narrow places; a transformer that is narrower than its patches are large can not.",
                d - k
            )),
            figure(
                "bottleneck",
                "Risk of the implied $\\hat x_0$ against the rank of the map. Lines: closed form. Points: products of two thin matrices, trained on the exact loss from random weights.",
                &format!(
                    "Two plots. The curve of x0 falls to the dashed least risk at rank {k} and stays there; those of eps, v and velocity fall slowly and reach it only near rank {d}; trained points lie on all curves."
                ),
                b.levels.iter().map(drawing).collect(),
            ),
            Block::Evidence(b.evidence.clone()),
        ],
    )
}

fn manifold(n: &Numbers) -> Section {
    let m = &n.manifold;
    let ends = [m.sigmas[0], m.sigmas[m.sigmas.len() - 1]];
    let risks = |s: &Space| -> Drawing {
        let sum = |excess: &[f64]| -> Vec<f64> {
            excess.iter().zip(&s.least).map(|(e, l)| e + l).collect()
        };
        let mut series = Vec::new();
        for (k, target) in TARGETS.iter().enumerate() {
            if s.bound[k][0] > 0.0 {
                let name = format!("_{} bound", label(*target));
                series.push(Series::new(
                    name,
                    along(&m.sigmas),
                    sum(&s.bound[k]),
                    Mark::Dashed,
                    COLOURS[k],
                ));
            }
            series.push(Series::new(
                label(*target),
                along(&m.sigmas),
                sum(&s.excess[k]),
                Mark::Linked,
                COLOURS[k],
            ));
        }
        series.push(Series::new(
            "least risk",
            along(&m.sigmas),
            along(&s.least),
            Mark::Line,
            MUTED,
        ));
        plot(
            &format!("d = {}", s.dim),
            Axis::log("sigma_over_alpha", "noise level σ/α").over(ends[0], ends[1]),
            Axis::log("risk", "risk of x₀ / variance").over(5e-4, 100.0),
            series,
        )
    };
    let drawn = |s: &Space| -> Drawing {
        let column = |x: &ndarray::Array2<f64>, j: usize| x.column(j).to_vec();
        let mut series =
            vec![Series::new("data", column(&m.curve, 0), column(&m.curve, 1), Mark::Line, MUTED)];
        for k in [2, 0] {
            series.push(Series::new(
                label(TARGETS[k]),
                column(&s.samples[k], 0),
                column(&s.samples[k], 1),
                Mark::Points,
                COLOURS[k],
            ));
        }
        plot(
            &format!("d = {}", s.dim),
            Axis::linear("first", "first coordinate in the plane").over(-3.0, 3.0),
            Axis::linear("second", "second coordinate").over(-3.0, 3.0),
            series,
        )
    };
    // A level at which the spiral's turns are told apart.
    let shown = m.sigmas.iter().position(|s| *s >= 0.3).unwrap_or(0);
    let mut rows = Vec::new();
    for s in &m.spaces {
        for (k, target) in TARGETS.iter().enumerate() {
            rows.push(vec![
                format!("d = {}, {}", s.dim, label(*target)),
                short(s.least[shown] + s.excess[k][shown]),
                short(s.least[shown] + s.bound[k][shown]),
                short(s.linear[k][shown]),
                short(s.distance[k]),
            ]);
        }
    }
    let last = &m.spaces[m.spaces.len() - 1];
    section(
        "manifold",
        "No depth helps",
        vec![
            p(format!(
                "Is that a matter of linear maps? Put {} points of a spiral into a plane, turn the plane at random into a space of $d$ dimensions, and train networks on them whose layers are {} channels wide, three of them with \
                 nonlinearities between and no skip past them ({} steps, one network for each target, the same draws). Whatever the layers do, the last one is linear: what the network says at one noise level lies in a space of $h = {}$ \
                 dimensions. What it should say of $y = a x_0 + b\\varepsilon$ is $b\\varepsilon$ in all $d-2$ directions off the plane, where $x_t$ shows $\\varepsilon$ as it is. So, for any depth, any nonlinearity and any training,",
                m.curve.nrows(),
                m.width,
                thousands(m.steps),
                m.width
            )),
            f(
                "\\mathbb E\\lVert \\hat y - \\mathbb E[y|x_t] \\rVert^2 \\ge (d-2-h)\\, b^2, \\qquad \\mathbb E\\lVert \\hat x_0 - \\mathbb E[x_0|x_t] \\rVert^2 \\ge (d-2-h)\\, \\left(\\frac{\\sigma b}{\\det}\\right)^2",
            ),
            p(format!(
                "For $x_0$, $b = 0$: there is no such bound. The optimum is known here as well: $x_t$ off the plane says nothing of the data, and in the plane it is the softmax over the points. In {} dimensions, fewer than the network is \
                 wide, all four networks come near it. In {} the bounds rule: the networks of $\\varepsilon$, $v$ and velocity have come near the least that their width allows, which is not enough to \
                 denoise; the best linear map of that rank does as well. The network of $x_0$ is about as good as it was in {}.",
                m.spaces[0].dim, last.dim, m.spaces[0].dim
            )),
            figure(
                "manifold",
                &format!(
                    "Risk of the implied $\\hat x_0$ over the noise level, networks {} channels wide. Dashed: least risk of any network of that width.",
                    m.width
                ),
                "Two plots. In 2 dimensions the four curves lie near the grey curve of the least risk, but for eps at high noise. In 64 only x0 does; eps, v and velocity lie on dashed curves far above it, by factors of ten to thousands.",
                m.spaces.iter().map(risks).collect(),
            ),
            figure(
                "spiral",
                "Samples of the networks of $x_0$ and $v$, seen in the plane: 128 of each by 24 steps of DPM-Solver++ from the same noise.",
                "Two plots of a spiral. In 2 dimensions the samples of both networks lie on it. In 64 those of x0 do, and those of v are spread over the plane.",
                m.spaces.iter().map(drawn).collect(),
            ),
            Block::Table(Table {
                caption: format!(
                    "Risk of $\\hat x_0$ over the variance at $\\sigma/\\alpha = {}$: of the network, the least that one of its width can have, that of the best linear map of rank {}. Last, root mean square distance of a sample from \
                     the nearest point of the data, whose deviation is $\\sqrt 2$.",
                    plain(m.sigmas[shown]),
                    m.width
                ),
                head: ["space, target", "network", "bound", "linear", "distance"]
                    .map(String::from)
                    .to_vec(),
                rows,
            }),
            Block::Evidence(m.evidence.clone()),
        ],
    )
}

fn measured(n: &Numbers) -> Section {
    let m = &n.measured;
    let mut ratios = Vec::new();
    for (k, target) in TARGETS.iter().enumerate() {
        let [known, seen] = &m.ratios[k];
        ratios.push(Series::new(
            format!("_{} known", label(*target)),
            along(&m.sigmas),
            along(known),
            Mark::Line,
            COLOURS[k],
        ));
        ratios.push(Series::new(
            label(*target),
            along(&m.sigmas),
            along(seen),
            Mark::Points,
            COLOURS[k],
        ));
    }
    let rows = m.losses.iter().zip(TARGETS).map(|(l, target)| {
        let digits = |v: f64| format!("{v:.12}");
        vec![
            label(target).to_string(),
            digits(l.weighted[0]),
            digits(l.weighted[1]),
            plain(l.plain[0]),
            plain(l.plain[1]),
            plain(l.cosine),
            plain(l.reread),
        ]
    });
    section(
        "measured",
        "One U-Net, four losses",
        vec![
            p(format!(
                "A network is not linear, but the argument is about what is done with its output. Take a U-Net of {} weights in double precision, with random weights, and say that its output is a velocity. Convert that output, at each picture's own \
                 noise level, to all four predictions, measure each against its own target, and give each loss the weight that makes it the loss of $\\varepsilon$. Losses and gradients by all weights, through the conversion and back through the \
                 network, are then the same numbers, to rounding:",
                thousands(m.params)
            )),
            f(
                "\\left(\\frac{\\det_y}{\\det_{y'}}\\right)^{2}\\, \\lVert \\hat y' - y' \\rVert^2 = \\lVert \\hat y - y\\rVert^2 \\;\\Rightarrow\\; \\nabla_\\theta \\text{ the same}",
            ),
            p(
                "Left plain, the losses weigh the noise levels differently. At one level the gradients still have one direction, and lengths in the known ratio $(\\det/\\sigma)^2$. Over a batch of many levels they no longer have one direction: \
                 these are different objectives, as different as weightings are. And a network whose raw output is re-read as another target is simply another function, with another loss.",
            ),
            figure(
                "gradients",
                "Length of the plain gradient of each loss over that of $x_0$'s, one noise level at a time; lines are the known factor.",
                "Points on four curves on logarithmic axes: x0 constant at one; eps falling with slope minus two; v and velocity falling like it at low noise and levelling off at high noise.",
                vec![plot(
                    "",
                    Axis::log("sigma_over_alpha", "noise level σ/α"),
                    Axis::log("ratio", "gradient / gradient of x₀"),
                    ratios,
                )],
            ),
            Block::Table(Table {
                caption: format!(
                    "One network and one batch of {} pictures over the whole path. Re-weighted to the loss of $\\varepsilon$: loss, and length of the gradient by all weights. Plain: the same, and the cosine of the gradient with that of the $x_0$-loss. Last, \
                     the re-weighted loss of the function that the same raw output is when it is taken for this target.",
                    m.batch
                ),
                head: [
                    "loss of",
                    "re-weighted",
                    "its gradient",
                    "plain",
                    "its gradient",
                    "cosine",
                    "re-read",
                ]
                .map(String::from)
                .to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(m.evidence.clone()),
        ],
    )
}

fn trained(n: &Numbers) -> Section {
    let t = &n.trained;
    let sigma = || {
        Axis::log("sigma_over_alpha", "noise level σ/α")
            .over(t.sigmas[0], t.sigmas[t.sigmas.len() - 1])
    };
    let mut excess = curves(&t.sigmas, |k| &t.excess[k], Mark::Linked);
    excess.push(Series::new(
        "Wiener filter",
        along(&t.sigmas),
        along(&t.wiener),
        Mark::Dashed,
        MUTED,
    ));
    excess.push(Series::new("least risk", along(&t.sigmas), along(&t.least), Mark::Line, MUTED));
    let largest = t.excess.iter().flatten().copied().fold(1.0, larger);
    let best: Vec<f64> = (0..t.sigmas.len())
        .map(|i| t.excess.iter().map(|e| e[i]).fold(f64::INFINITY, smaller))
        .collect();
    let relative: Vec<Vec<f64>> =
        t.excess.iter().map(|e| e.iter().zip(&best).map(|(e, b)| e / b).collect()).collect();
    let rows = t.sigmas.iter().enumerate().map(|(i, s)| {
        let mut row = vec![format!("σ/α = {}", plain(*s))];
        row.extend(t.excess.iter().chain([&t.wiener, &t.least]).map(|e| short(e[i])));
        row
    });
    let asked = (0..=TARGETS.len()).map(|k| {
        let mut row = vec![
            TARGETS.get(k).map_or("exact optimum".into(), |t| format!("{}-network", label(*t))),
        ];
        row.extend(t.losses.iter().map(|l| match l.excess.get(k) {
            Some(e) => format!("{} (+{} %)", plain(l.least + e), plain(100.0 * e / l.least)),
            None => plain(l.least),
        }));
        row
    });
    section(
        "trained",
        "Four networks, trained",
        vec![
            p(format!(
                "Now as it is done: four U-Nets from the same initial weights, trained on the same pictures, noise and times ({} steps of {}, times uniform), each on the plain loss of its own raw output. The best denoiser of the {} training \
                 pictures is known (that of the empirical law, a softmax over all of them), so what each network lacks is known too: by Pythagoras its risk is the least risk plus",
                thousands(t.steps as usize),
                t.batch,
                thousands(t.images)
            )),
            f(
                "\\mathbb E\\lVert \\hat x_0 - \\mathbb E[x_0|x_t] \\rVert^2, \\qquad \\hat x_0 - x_0 = -\\frac{\\sigma}{\\det}\\,(\\hat y - y)",
            ),
            p(
                "An error of the output of one size everywhere is an error of $x_0$ of $|\\sigma/\\det|$ times that size: $\\sigma/\\alpha$ for $\\varepsilon$, 1 for $x_0$. So $\\varepsilon$ is good where there is little noise and fails where there \
                 is much; $x_0$ the other way round; $v$ and velocity stay near the better of the two at both ends. That is the reason for them, and it is no difference in what is optimal. Around \
                 $\\sigma/\\alpha = 1$ the optimum picks one training picture out of many, which none of the networks has had the time to learn: there they are alike. At high noise the optimum is nearly linear, and \
                 the Wiener filter is closer to it than any of them.",
            ),
            figure(
                "trained",
                "Left: excess risk of the four trained networks over the noise level, in units of the data's variance, with that of the Wiener filter and the least risk (cut at 10⁻⁵). Right: excess over that of the best of the four.",
                "Left: at low noise the curve of x0 is the highest, in the middle all are alike, at high noise that of eps rises far above all. Right: x0 at four on the left and one on the right, eps at one on the left and a thousand on the right, v and velocity in between.",
                vec![
                    plot(
                        "Excess risk",
                        sigma(),
                        Axis::log("excess_risk", "risk / variance").over(1e-5, 2.0 * largest),
                        excess,
                    ),
                    plot(
                        "Over the best of the four",
                        sigma(),
                        Axis::log("over_best", "excess / best"),
                        curves(&t.sigmas, |k| &relative[k], Mark::Linked),
                    ),
                ],
            ),
            p(
                "The same four, asked by each loss in turn. A loss of $\\hat y$ is a weighting of the errors of $\\hat x_0$ over the noise levels, and any network can be asked by any of them. All have their least value at the same \
                 function, the last row of the table; what a network has above it is where its training did not bring it. Drawn over the noise level in one weighting, that of the velocity-loss, the four differ little where much is to be \
                 learnt, around $\\sigma/\\alpha = 0.5$, and much where a target has little to say: there an error of its output that its own loss hardly sees is a large error of the others.",
            ),
            figure(
                "spent",
                "What each network lacks, weighted as by the velocity-loss: excess of the loss a pixel, in equal steps of the logarithm of the noise level. The area below a curve is that network's entry in the last column of the table, above the optimum's.",
                "Four curves over the noise level with one hump around a half, where the optimum picks one training digit; that of x0 rises again towards low noise, that of eps towards high noise, v and velocity at neither end.",
                vec![plot(
                    "",
                    sigma(),
                    Axis::linear("excess_loss", "excess loss / ln(σ/α)"),
                    curves(&t.sigmas, |k| &t.spent[k], Mark::Linked),
                )],
            ),
            Block::Table(Table {
                caption: format!(
                    "Losses a pixel, times uniform between $\\sigma/\\alpha = {}$ and ${}$, by exact least risk plus excess: a network in each row, a loss in each column, and by how much it is above the optimum. On the diagonal what each was trained on.",
                    plain(t.sigmas[0]),
                    plain(t.sigmas[t.sigmas.len() - 1])
                ),
                head: ["", "loss of x₀", "of ε", "of v", "of velocity"].map(String::from).to_vec(),
                rows: asked.collect(),
            }),
            Block::Table(Table {
                caption: "Excess risk of $\\hat x_0$ over the data's variance, and the least risk."
                    .into(),
                head: ["noise level", "x₀", "ε", "v", "velocity", "Wiener", "least risk"]
                    .map(String::from)
                    .to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(t.evidence.clone()),
        ],
    )
}
