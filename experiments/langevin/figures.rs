//! The chapter on Langevin dynamics and the reverse processes, made from the numbers of
//! [`crate::langevin::numbers`].

use crate::langevin::numbers::family::Curve;
use crate::langevin::numbers::plane::{CELLS, Field};
use crate::langevin::numbers::{Numbers, compute};
use tweedie::error::Result;
use tweedie::math::larger;
use tweedie_report::chapter::{
    along, command, digits, f, figure, images, p, percent, picture, plot, section, significant,
    thousands,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Plot, Series, Tone, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, Colour, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("langevin", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "langevin".into(),
        title: "Langevin dynamics: why noise is the way".into(),
        lead: "Follow the score uphill, add noise, repeat: that is Langevin dynamics, and in the end it samples any law whose score is known. Then why does a diffusion model come down from pure noise, through a whole family of laws that nobody asked for? \
               Because of two things that can be computed exactly: at one noise level the fine structure dictates the step and the coarse structure the time, and what the score knows of the weights of separate modes is hardly anything. This chapter \
               shows both on laws that are known, then the reverse processes that noise makes possible, and what their noise is good for."
            .into(),
        command,
        sections: vec![uphill(n), pace(n), modes(n), family(n), errors(n)],
    }
}

/// Two significant digits.
fn short(v: f64) -> String {
    significant(v, 2)
}

/// A large number to two digits, its thousands apart.
fn about(v: f64) -> String {
    let size = 10f64.powf((v.log10().floor() - 1.0).max(0.0));
    thousands(((v / size).round() * size) as usize)
}

/// Arrows along the field, their length levelling off where it is strong.
fn arrows(field: &Field) -> Series {
    let mut points = Vec::new();
    for (x, s) in field.x.rows().into_iter().zip(field.score.rows()) {
        let size = s[0].hypot(s[1]);
        let length = 0.5 * size / (size + 1.0 / field.sigma.max(0.3));
        let (ux, uy) = (s[0] / size, s[1] / size);
        let tip = (x[0] + length * ux, x[1] + length * uy);
        let barb = |sign: f64| {
            let (sin, cos) = (sign * 2.6f64).sin_cos();
            (
                tip.0 + 0.36 * length * (cos * ux - sin * uy),
                tip.1 + 0.36 * length * (sin * ux + cos * uy),
            )
        };
        // What is not finite parts one arrow from the next.
        points.extend([(x[0], x[1]), tip, barb(1.0), tip, barb(-1.0), (f64::NAN, f64::NAN)]);
    }
    Series { label: "_score".into(), points, mark: Mark::Line, colour: INK }
}

fn uphill(n: &Numbers) -> Section {
    let plane = &n.plane;
    let panel = |field: &Field| {
        let draws = Series::new(
            "_draws",
            field.draws.column(0).to_vec(),
            field.draws.column(1).to_vec(),
            Mark::Points,
            SKY,
        );
        plot(
            &format!("σ = {}", plain(field.sigma)),
            Axis::linear("x", "first coordinate").over(-5.0, 5.0),
            Axis::linear("y", "second coordinate").over(-2.62, 3.22),
            vec![draws, arrows(field)],
        )
    };
    let weights: Vec<String> = n.settings.plane.weights.iter().map(|w| plain(*w)).collect();
    section(
        "uphill",
        "The score points uphill",
        vec![
            p(
                "The score $\\nabla \\ln p$ says in which direction a state becomes more probable, and nothing else: not how probable it is, since a constant factor of $p$ drops out. Langevin dynamics follows it in steps of size $h$ and \
                 adds noise, just enough that the law $p$ stays as it is while its particles move:",
            ),
            f("x' = x + h\\, \\nabla \\ln p(x) + \\sqrt{2h}\\, z, \\qquad z \\sim N(0, I)"),
            p(format!(
                "Here $p$ is a mixture of three clusters with weights {}, seen at two noise levels. At little noise every arrow leads to the nearest cluster, steeply, and from a distance all clusters pull alike whatever their weights. At much noise \
                 there is one hill, and it is where most of the weight is.",
                weights.join(", ")
            )),
            figure(
                "field",
                "The score of three clusters at two noise levels, over draws of the noised law. Lengths level off where the field is strong.",
                "Two fields of arrows over clouds of dots. At little noise there are three tight clouds and the arrows part into three basins; at much noise one wide cloud with all arrows towards its middle.",
                plane.fields.iter().map(panel).collect(),
            ),
            Block::Evidence(plane.evidence[0].clone()),
        ],
    )
}

fn pace(n: &Numbers) -> Section {
    let d = &n.digits;
    let s = &n.settings.digits;
    let (most, least) = (d.variances[0], d.variances[d.variances.len() - 1]);
    let strips = d.strips.iter().map(|x| (String::new(), images(x))).collect();
    let stationary: Vec<Vec<Picture>> = d.stationary.iter().map(images).collect();
    let rows = stationary.into_iter().zip(&s.shares).map(|(r, share)| {
        let excess: f64 =
            d.variances.iter().map(|v| v / (1.0 - share * least / (2.0 * v))).sum::<f64>()
                / d.variances.iter().sum::<f64>();
        (
            format!(
                "h / smallest variance = {}: variance too large by {}",
                plain(*share),
                percent(excess - 1.0)
            ),
            r,
        )
    });
    let colours = [BLUE, GREEN, ORANGE, VERMILION];
    let looks: Vec<f64> = s.looks.iter().map(|n| *n as f64).collect();
    let mut way: Vec<Series> = Vec::new();
    for (f, colour) in d.followed.iter().zip(colours) {
        way.push(Series::new(
            format!("component {}", f.component),
            along(&d.counts),
            along(&f.exact),
            Mark::Line,
            colour,
        ));
        way.push(Series::new(
            format!("_component {}, sampled", f.component),
            along(&looks),
            along(&f.sampled),
            Mark::Points,
            colour,
        ));
    }
    let ratio: Vec<f64> = (1..=97).map(|k| 0.02 * f64::from(k)).collect();
    let bias = vec![
        Series::new(
            "closed form",
            along(&ratio),
            ratio.iter().map(|r| 1.0 / (1.0 - r / 2.0)),
            Mark::Line,
            INK,
        ),
        Series::new(
            "sampled chains",
            along(&d.measured.0),
            along(&d.measured.1),
            Mark::Points,
            BLUE,
        ),
    ];
    let (shares, curves) = &d.budget;
    let names = s
        .budgets
        .iter()
        .map(|b| format!("{} steps", thousands(*b as usize)))
        .chain(["for ever".into()]);
    let budget = curves.iter().zip(names).zip([BLUE, GREEN, ORANGE, VERMILION, INK]);
    let budget = budget.map(|((w2, name), colour)| {
        let mark = if colour == INK { Mark::Dashed } else { Mark::Line };
        Series::new(name, along(shares), along(w2), mark, colour)
    });
    let ways = d.ways.iter().zip([VERMILION, ORANGE, GREEN, BLUE]);
    let ways = ways
        .map(|(w, colour)| Series::new(w.name, along(&w.nfe), along(&w.w2), Mark::Linked, colour));
    let table = d
        .best
        .iter()
        .map(|(steps, share, w2)| vec![thousands(*steps as usize), plain(*share), percent(*w2)]);
    let tenth = d.ways[0].nfe.iter().zip(&d.ways[0].w2).find(|v| *v.1 <= 0.05).map(|v| *v.0);
    let flow = d.ways[3].nfe.iter().zip(&d.ways[3].w2).find(|v| *v.1 <= 0.05).map(|v| *v.0);
    section(
        "pace",
        "Stiff modes set the step, flat ones the time",
        vec![
            p(format!(
                "On Gaussian data each principal component is a chain of its own, and its law is exact. Take the Gaussian of the 1,797 digits at the noise level $\\sigma = {}$: its variances run from {} down to {}, that of the noise alone. In a component \
                 of variance $v$ one step multiplies what is wrong with the mean by $1 - h/v$. So $h$ has to stay below twice the <em>smallest</em> variance, or the finest components blow up; and the <em>largest</em> then takes \
                 $v/h$ steps to forget where it began, here {}.",
                plain(s.sigma),
                plain(most),
                plain(least),
                about(most / d.step)
            )),
            f(
                "m_n = (1 - h/v)^n\\, m_0, \\qquad v_n = (1 - h/v)^{2n}\\, v_0 + 2h \\sum_{k<n} (1 - h/v)^{2k}",
            ),
            figure(
                "strips",
                "Two chains from white noise, with the exact score. The grain is right after a few steps; the shape takes thousands, and goes on changing.",
                "Two rows of eight grey pictures of 8 by 8 pixels, from noise on the left, through soft blots, to blurred digits on the right.",
                vec![digits("", "steps", s.looks.iter().map(|n| thousands(*n)).collect(), strips, Tone::Ink)],
            ),
            p(
                "This is diffusion's order of emergence upside down: a reverse process settles the coarse components first, while the noise still covers the fine ones, and each noise level has a step that suits it. \
                 Langevin dynamics at one level settles the fine ones first, at a step that suits nobody else.",
            ),
            p(
                "The step that is allowed is not yet a step that is right. At any $h$ the chain converges, but to another law: its noise has been added to a state that has not yet been pulled back, and every component is left with too much variance, \
                 $h/2$ of it to first order. For a component of large variance that is nothing; for the finest ones it is everything, and it looks like grain.",
            ),
            f("v_\\infty = \\frac{v}{1 - h/(2v)} = v + \\frac h2 + O(h^2)"),
            figure(
                "stationary",
                "Draws of the law that the chain really samples, from the same random numbers, for growing steps. The chain has a stationary law below 2; it is exact at none.",
                "Three rows of the same six blurred digits. The first is clean; in the next two grey pixels appear all over, at the borders too, where digits have none.",
                vec![digits("", "", vec![], rows.collect(), Tone::Ink)],
            ),
            figure(
                "budget",
                "(a) Variances along the chain over where they end; dots are sampled chains. (b) What the step does to the stationary variance. (c) Distance to the law after a number of steps, against the step. (d) What other ways need for the same law.",
                "Four plots. Four curves that level off at 1, the finest component within ten steps, the coarsest within thousands. A curve that rises from 1 without bound at a step of twice the variance. Curves against the step that fall and rise again, lower for more steps. Error against evaluations: Langevin dynamics high for long, the probability-flow solver lowest for long, then level.",
                vec![
                    plot("(a) Along the chain", Axis::log("step", "step n"), Axis::log("variance", "variance / stationary one"), way),
                    plot(
                        "(b) Where it ends",
                        Axis::linear("step_over_variance", "step h / variance").over(0.0, 2.0),
                        Axis::log("ratio", "stationary variance / variance").over(0.9, 40.0),
                        bias,
                    ),
                    plot(
                        "(c) Which step?",
                        Axis::log("step_over_smallest_variance", "step h / smallest variance"),
                        Axis::log("w2", "W₂ / deviation"),
                        budget.collect(),
                    ),
                    plot("(d) Other ways", Axis::log("nfe", "evaluations"), Axis::log("w2", "W₂ / deviation"), ways.collect()),
                ],
            ),
            p(format!(
                "A small step has not arrived and a large one arrives at a wrong law; in between is the best step, and even that buys little. {} \
                 The others come down from $\\sigma = 80$: each evaluation is spent at a noise level at which it settles what is due there. \
                 (Where the flow's curve levels off is due to the start: $N(0, 80^2 I)$ is not quite the law at $\\sigma = 80$, and the flow never forgets it.)",
                match (tenth, flow) {
                    (Some(chain), Some(flow)) => format!(
                        "To come within 5 % of the law's deviation, a chain at one noise level takes about {} evaluations, a solver of the probability-flow ODE about {}.",
                        about(chain),
                        about(flow)
                    ),
                    _ => "To come within 5 % of the law's deviation takes a chain at one noise level more evaluations than are drawn here.".into(),
                }
            )),
            Block::Table(Table {
                caption: "The best step of a chain on the digits' Gaussian, over the smallest variance, and the distance W₂ to the law that is left, over the law's deviation.".into(),
                head: ["steps", "best step", "W₂ / deviation"].map(String::from).to_vec(),
                rows: table.collect(),
            }),
            Block::Evidence(d.evidence.concat()),
        ],
    )
}

/// Shares of particles or masses in the cells as a picture, on its own scale; roots, so that few
/// are seen too.
fn density(shares: &[f64]) -> Picture {
    let most = shares.iter().copied().fold(f64::MIN_POSITIVE, larger);
    picture(shares.iter().map(|s| 2.0 * (s / most).sqrt() - 1.0), "")
}

fn densities(heading: &str, columns: Vec<String>, rows: Vec<(String, Vec<Picture>)>) -> Drawing {
    let shape = (CELLS, CELLS);
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: heading.into(),
        columns,
        rows,
        shape,
        tone: Tone::Ink,
    })
}

fn modes(n: &Numbers) -> Section {
    let (line, plane) = (&n.line, &n.plane);
    let w = n.settings.line.weight;
    let [pair, merged] = &line.pairs;
    let names = [
        format!("{} right, {} left", plain(w), plain(1.0 - w)),
        format!("{} right, {} left", plain(1.0 - w), plain(w)),
    ];
    let both = |x: &[f64], of: &[Vec<f64>; 2]| -> Vec<Series> {
        let marks = [(Mark::Line, BLUE), (Mark::Dashed, VERMILION)];
        of.iter()
            .zip(&names)
            .zip(marks)
            .map(|((y, name), (mark, colour))| {
                Series::new(name, x.to_vec(), along(y), mark, colour)
            })
            .collect()
    };
    let score = || Axis::linear("score", "score");
    let rows = plane.runs.iter().map(|r| {
        (
            r.name.to_string(),
            r.pictures.iter().map(|v| density(v)).chain([density(&plane.truth)]).collect(),
        )
    });
    let columns =
        n.settings.plane.looks.iter().map(|k| thousands(*k)).chain(["truth".into()]).collect();
    let smallest = (0..n.settings.plane.weights.len())
        .min_by(|a, b| n.settings.plane.weights[*a].total_cmp(&n.settings.plane.weights[*b]))
        .unwrap_or(0);
    let largest = (0..n.settings.plane.weights.len())
        .max_by(|a, b| n.settings.plane.weights[*a].total_cmp(&n.settings.plane.weights[*b]))
        .unwrap_or(0);
    let mut shares: Vec<Series> = Vec::new();
    for (r, colour) in plane.runs.iter().zip([VERMILION, ORANGE, GREEN]) {
        shares.push(Series::new(
            r.name,
            along(&r.nfe),
            r.shares.iter().map(|s| s[largest]),
            Mark::Line,
            colour,
        ));
        shares.push(Series::new(
            format!("_{}, smallest", r.name),
            along(&r.nfe),
            r.shares.iter().map(|s| s[smallest]),
            Mark::Line,
            colour,
        ));
    }
    let last = plane.runs[0].nfe[plane.runs[0].nfe.len() - 1];
    for k in [largest, smallest] {
        let weight = n.settings.plane.weights[k];
        let name =
            if k == largest { "weight".to_string() } else { "_weight of the smallest".into() };
        shares.push(Series::new(name, [0.0, last], [weight, weight], Mark::Dashed, INK));
    }
    let [steps, barrier] = &line.crossing;
    let separations = &n.settings.line.separations;
    let stuck = &plane.runs[0].shares[plane.runs[0].shares.len() - 1];
    let annealed = &plane.runs[1].shares[plane.runs[1].shares.len() - 1];
    section(
        "modes",
        "What the score does not tell",
        vec![
            p(format!(
                "Two laws: two modes of deviation {} at ±1, once with weights {} and {}, once the other way round. Each is the other's mirror image, yet at little noise their scores are the same but in the gap between the modes, where no data are. \
                 A network that learns the score from data, by a mean over the data, is hardly told the weights: the mean square of the difference of the two scores is {} of that of the score at $\\sigma = {}$. At $\\sigma = {}$, where the \
                 modes merge, it is {}.",
                plain(n.settings.line.std),
                plain(w),
                plain(1.0 - w),
                percent(line.told[0]),
                plain(pair.sigma),
                plain(line.peak),
                percent(line.told[1])
            )),
            p(
                "This can be made exact. How fast noise makes two laws alike is the mean squared difference of their scores (de Bruijn's identity), so that all that tells them apart is spread over the noise levels, and the area under the curve is the whole divergence:",
            ),
            f(
                "-\\frac{d}{d \\ln \\sigma}\\, \\mathrm{KL}(p_\\sigma \\,\\|\\, q_\\sigma) = \\sigma^2\\, \\mathbb E_{p_\\sigma} \\left\\lVert \\nabla \\ln p_\\sigma - \\nabla \\ln q_\\sigma \\right\\rVert^2",
            ),
            figure(
                "weights",
                "(a), (b) Two laws that differ in their weights alone, and their scores, at little noise. (c) Their scores at more noise. (d) What the scores tell of the weights for each unit of ln σ; the area is the divergence of the two laws.",
                "Four plots. Two densities with one high and one low peak each, mirrored. Two saw-toothed scores on top of each other but for a shift of the jump in the middle. Two smooth scores at more noise, well apart. A single bump around the noise level at which the modes merge, zero at little noise.",
                vec![
                    plot(
                        &format!("(a) Density, σ = {}", plain(pair.sigma)),
                        Axis::linear("x", "x"),
                        Axis::linear("density", "density"),
                        both(&pair.x, &pair.density),
                    ),
                    plot(
                        &format!("(b) Score, σ = {}", plain(pair.sigma)),
                        Axis::linear("x", "x"),
                        score(),
                        both(&pair.x, &pair.score),
                    ),
                    plot(
                        &format!("(c) Score, σ = {}", plain(merged.sigma)),
                        Axis::linear("x", "x"),
                        score(),
                        both(&merged.x, &merged.score),
                    ),
                    Drawing::Plot(Plot::new(
                        "(d) Where the weights are known",
                        Axis::log("sigma", "noise level σ"),
                        Axis::linear("rate", "nats for each unit of ln σ"),
                        vec![Series::new(
                            "rate",
                            along(&line.sigmas),
                            along(&line.rate),
                            Mark::Line,
                            PURPLE,
                        )],
                    )),
                ],
            ),
            Block::Evidence(line.evidence[0].clone()),
            p(format!(
                "So Langevin dynamics at one low noise level has to find the weights by walking, through a gap that it almost never enters. How long that takes is a number: the chain's slowest eigenvalue. Behind a \
                 high barrier it is $\\tfrac{{1}}{{4h}} \\int dx/p(x)$ steps, the integral taken over the gap, where there is almost no $p$: with modes {} deviations from the middle about {} steps, with {} about {}. From white noise, each of the three clusters in the plane is left with what fell into its basin: the one of weight {} ends with {} of the particles, \
                 and in the second half of the run {} of {} changed cluster.",
                plain(separations[separations.len() / 2]),
                about(steps[separations.len() / 2]),
                plain(separations[separations.len() - 1]),
                about(steps[separations.len() - 1]),
                plain(n.settings.plane.weights[smallest]),
                percent(stuck[smallest]),
                thousands(plane.crossed),
                thousands(plane.particles)
            )),
            p(format!(
                "Noise is the way around the gap. Annealed Langevin dynamics (Song and Ermon's first sampler) and the reverse process begin where there is one hill, and come down while the particles can still walk between what will be clusters. \
                 Each level needs only to mend what has changed since the one above; after as many evaluations the cluster of weight {} has {} and {} of the particles.",
                plain(n.settings.plane.weights[smallest]),
                percent(annealed[smallest]),
                percent(plane.runs[2].shares[plane.runs[2].shares.len() - 1][smallest])
            )),
            figure(
                "particles",
                "Particles after a number of evaluations of the score, with the exact score. The lower rows come down in noise, and are drawn to the scale of the noised law; last, the truth.",
                "Three rows of pictures of particle densities. In the first, three spots appear at once and stay equally dark; in the others a round cloud contracts and parts into one dark, one middling and one pale spot, as in the last column.",
                vec![densities("evaluations", columns, rows.collect())],
            ),
            figure(
                "crossing",
                "Left: steps after which a chain has forgotten in which of two equal modes it began, and the law of a high barrier. Right: share of the particles nearest to the largest and to the smallest cluster; dashed, their weights.",
                "Left: an exponentially growing curve, the law beside it. Right: the plain chain's two shares are flat at about a third each; those of annealed Langevin and of the reverse process move to the dashed lines.",
                vec![
                    plot(
                        "Steps to cross",
                        Axis::linear(
                            "separation",
                            "distance from the middle / deviation of a mode",
                        ),
                        Axis::log("steps", "steps"),
                        vec![
                            Series::new(
                                "chain, exact",
                                along(separations),
                                along(steps),
                                Mark::Linked,
                                BLUE,
                            ),
                            Series::new(
                                "high barrier",
                                along(separations),
                                along(barrier),
                                Mark::Dashed,
                                MUTED,
                            ),
                        ],
                    ),
                    plot(
                        "Shares of two clusters",
                        Axis::linear("nfe", "evaluations"),
                        Axis::linear("share", "share of the particles").over(0.0, 0.8),
                        shares,
                    ),
                ],
            ),
            Block::Evidence([line.evidence[1].clone(), plane.evidence[1].clone()].concat()),
        ],
    )
}

fn family(n: &Numbers) -> Section {
    let (line, plane) = (&n.line, &n.plane);
    let mut rows =
        vec![("closed form".to_string(), plane.exact.iter().map(|v| density(v)).collect())];
    rows.extend(
        plane
            .marginals
            .iter()
            .map(|(g, v)| (format!("particles, g = {g}"), v.iter().map(|v| density(v)).collect())),
    );
    let paths = line.paths.iter().map(|(g, x, _)| {
        let series = x.columns().into_iter().enumerate().map(|(k, c)| {
            let shown = c.iter().zip(&line.levels).map(|(x, s)| x / (1.0 + s * s).sqrt());
            let colour = if c[c.len() - 1] > 0.0 { BLUE } else { VERMILION };
            Series {
                label: format!("_path {}", k + 1),
                points: line.levels.iter().copied().zip(shown).step_by(2).collect(),
                mark: Mark::Line,
                colour,
            }
        });
        plot(
            &format!("g = {g}"),
            Axis::log("sigma", "noise level σ")
                .over(line.levels[0], line.levels[line.levels.len() - 1]),
            Axis::linear("x_scaled", "x / √(1 + σ²)").over(-2.6, 2.6),
            series.collect(),
        )
    });
    let ends: Vec<String> = line
        .paths
        .iter()
        .map(|(g, _, share)| format!("{} with $g = {g}$", percent(*share)))
        .collect();
    section(
        "family",
        "One density, many processes",
        vec![
            p(
                "A reverse process is a Langevin step and a step down in noise at once. How much of the first goes with the second is free: for every $g$, the equation",
            ),
            f(
                "dx = \\frac{1 + g^2}{2}\\, \\nabla \\ln p_\\tau(x)\\, |d\\tau| + g\\, dW, \\qquad \\tau = \\sigma^2 \\text{ running down}",
            ),
            p(
                "has the same marginals $p_\\tau$: in the Fokker–Planck equation what the noise spreads is undone by the extra drift, because $\\nabla \\cdot (p \\nabla \\ln p) = \\nabla^2 p$. Without noise, $g = 0$, it is the probability-flow ODE; $g = 1$ \
                 is the time reversal of the noising. (Mind the sign: lecture notes print the drift with a plus here and with a minus there, for a clock that runs down in noise or up. Going down, the score is followed uphill.) \
                 Seen as densities all these processes are one. The particles below were drawn once from the law at the highest level, and then moved by three of the equations:",
            ),
            f(
                "-\\partial_\\tau p = -\\nabla \\cdot \\Big( \\frac{1 + g^2}{2}\\, p\\, \\nabla \\ln p \\Big) + \\frac{g^2}{2}\\, \\nabla^2 p = -\\frac12 \\nabla^2 p \\quad \\text{for every } g",
            ),
            figure(
                "marginals",
                "The noised law in closed form, and particles moved by three of the reverse processes, each from the same start.",
                "Four rows of six pictures of densities, from a round cloud on the left to three spots of different darkness on the right; the rows can't be told apart but for the particles' grain.",
                vec![densities(
                    "noise level σ",
                    plane.levels.iter().map(|s| short(*s)).collect(),
                    rows,
                )],
            ),
            p(format!(
                "Seen as particles they have little in common. On the line, with the same starts and the same random numbers: without noise a start decides where it ends, and no two paths cross. With noise a start decides nothing; a particle may change its \
                 mind until the modes have parted. And yet, of {} particles, {} end at the right mode, whose weight is {}. <em>That two processes have the same marginals says nothing of their paths.</em>",
                thousands(line.particles),
                ends.join(", "),
                percent(n.settings.line.weight)
            )),
            figure(
                "paths",
                "Particles from the same starts, on the scale of the noised law, coloured by the mode in which they end.",
                "Four plots of paths from much noise on the left to little on the right: smooth and ordered without noise, rough with g = 0.5 and 1, rougher still with g = 2, all ending in two bundles.",
                paths.collect(),
            ),
            Block::Evidence([plane.evidence[2].clone(), line.evidence[2].clone()].concat()),
        ],
    )
}

fn curves(of: &[Curve], colours: &[Colour]) -> Vec<Series> {
    of.iter()
        .zip(colours)
        .map(|(c, colour)| Series::new(&c.name, along(&c.x), along(&c.w2), Mark::Linked, *colour))
        .collect()
}

fn errors(n: &Numbers) -> Section {
    let (family, s) = (&n.family, &n.settings.family);
    let colours = [BLUE, GREEN, ORANGE, VERMILION, INK, PURPLE];
    let lines = |of: &[Curve]| -> Vec<Series> {
        curves(of, &colours).into_iter().map(|s| Series { mark: Mark::Line, ..s }).collect()
    };
    let nfe = || Axis::log("nfe", "evaluations");
    let w2 = || Axis::log("w2", "W₂ / deviation");
    let rows = family.best.iter().map(|(name, g, errors)| {
        let mut row = vec![name.clone(), plain(*g)];
        row.extend(errors.map(percent));
        if name == "exact" {
            row[1] = "the more the better".into();
        }
        row
    });
    section(
        "errors",
        "What noise and correctors buy",
        vec![
            p(format!(
                "If all $g$ are right, which is best? In exact arithmetic, from the right start, with infinitely many steps, it makes no difference. Give up the last, and it still makes little difference (left, the digits' Gaussian from $\\sigma = {}$), as long as the steps are small enough for the noise: with much of it the equation is stiff, and Euler's method breaks. Give up the \
                 right start as well: begin at $\\sigma = {}$ with $N(0, \\sigma^2 I)$, which leaves out the mean and the variance of the data. The flow keeps that error for ever; noise forgets it, by a factor that is exact:",
                plain(s.s_max),
                plain(s.seen)
            )),
            f("\\frac{\\text{error left}}{\\text{error left by the flow}} = \\Big( \\frac{\\lambda + \\tau_{\\text{end}}}{\\lambda + \\tau_{\\text{start}}} \\Big)^{g^2/2}"),
            p("So there is a best $g$ for a given number of steps (right), and a reason for the churn of practical samplers: it is not that noise is better, but that it forgets errors made before, of the start as here, or of a network."),
            figure(
                "noise",
                "Left: error of Euler's steps from the right law. Right: error against the noise g from a wrong start, for a number of steps, and for the process itself.",
                "Left: four falling lines of slope one close together. Right: curves that fall from g = 0; the exact one goes on falling, those of finitely many steps level off or rise, the one of 20 steps steeply.",
                vec![
                    plot("From the right start", nfe(), w2(), curves(&family.steps, &colours)),
                    plot("From a wrong start", Axis::linear("g", "noise g"), w2().over(1e-3, 1.0), lines(&family.noise)),
                ],
            ),
            Block::Table(Table {
                caption: "The digits' Gaussian from a wrong start: best g of those up to 3, and W₂ over the deviation with it, without noise, and with that of the time reversal.".into(),
                head: ["steps", "best g", "with it", "g = 0", "g = 1"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            Block::Evidence(family.evidence[0].clone()),
            p(format!(
                "A predictor–corrector sampler spends half of its evaluations on Langevin steps at the level it has reached. Does that pay? At equal evaluations its predictor has half the steps, and twice the error of first order, which the \
                 corrector first has to make good: {}. What it is good at is what noise is good at, forgetting. A better predictor does more for the first kind of error (the solver of the flow, which never forgets), and nothing for the second.",
                verdict(n)
            )),
            figure(
                "correctors",
                "Evaluations spent on predictor steps alone (DDPM), half of them on one corrector step of strength r at each level, or on a solver of the flow.",
                "Two plots of error against evaluations. From the right start the flow's solver is lowest by far; the predictor alone falls with slope one, those with correctors begin higher and fall faster. From a wrong start the flow's solver stays level, and those with correctors fall lowest.",
                vec![
                    plot("From the right start", nfe(), w2(), curves(&family.correctors, &colours)),
                    plot("From a wrong start", nfe(), w2(), curves(&family.mended, &colours)),
                ],
            ),
            Block::Evidence(family.evidence[1].clone()),
        ],
    )
}

/// From how many evaluations on the corrector of the original paper's strength beats its predictor
/// alone, in words.
fn verdict(n: &Numbers) -> String {
    let (family, s) = (&n.family, &n.settings.family);
    let from = |of: &[Curve]| {
        let first = of[0].w2.iter().zip(&of[2].w2).position(|(alone, with)| with < alone);
        first.map_or("at none of these budgets".to_string(), |k| {
            format!("at {} evaluations at the earliest", thousands(s.evaluations[k]))
        })
    };
    format!(
        "with the original paper's strength $r = {}$ it beats the predictor alone {} from the right start, and {} from a wrong one",
        plain(s.correctors[1]),
        from(&family.correctors),
        from(&family.mended)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn large_numbers_are_rounded() {
        assert_eq!([7.0, 123.0, 98765.0].map(about), ["7", "120", "99,000"]);
    }
}
