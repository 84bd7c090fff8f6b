//! The chapter on guidance, made from the numbers of [`crate::guidance::numbers`].

use crate::guidance::numbers::{Curve, EDM_STEPS, Map, Numbers, compute};
use ndarray::Array2;
use std::f64::consts::TAU;
use tweedie::error::Result;
use tweedie::math::{larger, smaller};
use tweedie_report::chapter::{
    along, command, digits, f, figure, images, p, picture, plot, section,
};
use tweedie_report::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::Context;
use tweedie_report::page::{Block, Chapter, Section, Table};
use tweedie_report::style::{BLUE, Colour, GREEN, MUTED, ORANGE, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("guidance", context)))
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "guidance".into(),
        title: "Guidance: what it samples".into(),
        lead: "Text-to-image models are hardly ever sampled as they were trained: at every step the prediction is pushed away from the unconditional one, several times as far as the condition itself goes. \
               The usual account is that this samples $p(x)\\,p(c\\mid x)^w$. It does not. Here both laws are known exactly, on a line, in the plane and on handwritten digits: this chapter shows where they \
               part, what guidance repairs in a model that does not listen, and what it costs."
            .into(),
        command,
        sections: vec![rule(n), line(n), plane(n), price(n), listening(n), levels(n)],
    }
}

/// Percent without decimals, or with one below ten.
fn percent(share: f64) -> String {
    if share < 0.0995 {
        format!("{:.1} %", 100.0 * share)
    } else {
        format!("{:.0} %", 100.0 * share)
    }
}

/// A density as a picture, its largest value ink.
fn shade(values: &[f64], note: impl ToString) -> Picture {
    let largest = values.iter().copied().fold(f64::MIN_POSITIVE, larger);
    picture(values.iter().map(|v| 2.0 * v / largest - 1.0), note)
}

fn pictures(
    n: &Numbers,
    heading: &str,
    columns: Vec<String>,
    rows: Vec<(&str, Vec<Picture>)>,
) -> Drawing {
    let side = n.plane.maps[0].tilted.len().isqrt();
    let rows = rows.into_iter().map(|(label, row)| (label.to_owned(), row)).collect();
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: heading.into(),
        columns,
        rows,
        shape: (side, side),
        tone: Tone::Ink,
    })
}

fn rule(n: &Numbers) -> Section {
    let columns = n.plane.classifier.iter().map(|(sigma, ..)| plain(*sigma)).collect();
    let densities = n.plane.classifier.iter().map(|(_, density, _)| shade(density, "")).collect();
    let classifiers = n
        .plane
        .classifier
        .iter()
        .map(|(_, _, class)| picture(class.iter().map(|r| 2.0 * r - 1.0), ""))
        .collect();
    section(
        "rule",
        "One rule, two stories",
        vec![
            p(
                "Classifier-free guidance takes two predictions, with the condition and without, and extrapolates from one through the other. Here $w = 0$ is the unconditional model and $w = 1$ the conditional one; \
                 in Ho and Salimans' paper these are $-1$ and $0$.",
            ),
            f(
                "\\hat x_0 = \\hat x_0(\\varnothing) + w\\,\\big(\\hat x_0(c) - \\hat x_0(\\varnothing)\\big)",
            ),
            p(
                "By Bayes' rule the difference is the gradient of a classifier that nobody had to train. So classifier guidance and classifier-free guidance are one and the same, term by term, as long as both \
                 predictions belong to the same joint law:",
            ),
            f("\\nabla\\log p(x_t\\mid c) - \\nabla\\log p(x_t) = \\nabla\\log p(c\\mid x_t)"),
            f(
                "\\text{guided score} = \\nabla\\log p(x_t) + w\\,\\nabla\\log p(c\\mid x_t) = \\nabla\\log\\Big[ p(x_t)\\, p(c\\mid x_t)^w \\Big]",
            ),
            figure(
                "classifier",
                "Four equal Gaussians; the two on the left are the class that is asked for. Above: the density of all four under growing noise, each picture stretched with the noise. Below: the classifier \
                 $p(c\\mid x_t)$ of noisy states, white 0 and black 1. Guidance pushes up the slope from white to black; in high noise this slope is gentle and everywhere, in low noise a cliff that most states are far from.",
                "Two rows of five pictures over growing noise. Above, four blobs melt into one disc. Below, a sharp curved border between a black left half and a white right half softens into an even grey ramp.",
                vec![pictures(
                    n,
                    "noise level σ",
                    columns,
                    vec![
                        ("density of noisy states", densities),
                        ("classifier p(c | x)", classifiers),
                    ],
                )],
            ),
            p(
                "So far everything is true, at every single noise level. The mistake is the next sentence: that a sampler which uses this score at all levels therefore samples the clean $p(x)\\,p(c\\mid x)^w$. \
                 For that the tilted laws of the noise levels would have to be noised versions of one another, and they are not.",
            ),
        ],
    )
}

fn curve(label: &str, c: &Curve, values: &[f64], mark: Mark, colour: Colour) -> Series {
    Series::new(label, along(&c.scales), along(values), mark, colour)
}

fn line(n: &Numbers) -> Section {
    let scale = || Axis::linear("w", "guidance scale w").over(0.0, n.settings.line.largest);
    let three = |title: &str, axis: Axis, curves: &[Curve; 3], of: fn(&Curve) -> &Vec<f64>| {
        let [tilted, produced, sampled] = curves;
        let series = vec![
            curve("tilted law", tilted, of(tilted), Mark::Dashed, BLUE),
            curve("produced law", produced, of(produced), Mark::Line, VERMILION),
            curve("sampler", sampled, of(sampled), Mark::Points, VERMILION),
        ];
        plot(title, scale(), axis, series)
    };
    let (narrow, wide) = (&n.line.narrow, &n.line.wide);
    let s = &n.settings.line;
    let two = |of: &Curve| of.at(2.0).map_or(f64::NAN, |v| v.1 * v.1);
    let row = |w: f64| {
        let cell = |c: &Curve, pick: fn((f64, f64)) -> f64| {
            c.at(w).map(pick).filter(|v| v.is_finite()).map_or("none".into(), plain)
        };
        let mut row = vec![plain(w)];
        for c in [narrow, wide] {
            row.extend([
                cell(&c[0], |v| v.0),
                cell(&c[1], |v| v.0),
                cell(&c[0], |v| v.1),
                cell(&c[1], |v| v.1),
            ]);
        }
        row
    };
    section(
        "line",
        "By hand: a Gaussian class in Gaussian data",
        vec![
            p(
                "In one direction let the data be $N(0, u)$ and the class $N(m, c)$. Both laws are Gaussian for every $w$. The tilted law adds precisions, so its variance is a weighted <em>harmonic</em> mean of the two; the guided \
                 flow multiplies rates of contraction, and its variance comes out as the weighted <em>geometric</em> mean:",
            ),
            f(
                "v_{\\text{tilted}} = \\Big(\\frac{1-w}{u} + \\frac{w}{c}\\Big)^{-1}, \\qquad v_{\\text{produced}} = u^{1-w}\\, c^{\\,w}",
            ),
            p(format!(
                "For the narrow class, with {} of the data's variance, and $w = 2$ that is {} against {}. They agree at $w = 0$, at $w = 1$, and where the class is exactly as wide as the data: nowhere else.",
                plain(s.narrow),
                plain(two(&narrow[0])),
                plain(two(&narrow[1])),
            )),
            figure(
                "line",
                &format!(
                    "Data $N(0, 1)$ with a class of mean {} and variance {} (above) or {} (below). Lines are closed forms; points are what a sampler made of noise. The dashed lines of the wide class end at $w = {}$: \
                     from there on the tilted law has no finite integral.",
                    plain(s.mean),
                    plain(s.narrow),
                    plain(s.wide),
                    plain(n.line.improper_from)
                ),
                "Four plots against the guidance scale. Narrow class: the produced deviation falls exponentially, the tilted one levels off; the produced mean rises far beyond the tilted one. Wide class: the produced mean and deviation grow steadily while the tilted ones diverge. Sampled points lie on the produced curves.",
                vec![
                    three("Mean, narrow class", Axis::linear("mean", "mean"), narrow, |c| &c.means),
                    three(
                        "Deviation, narrow class",
                        Axis::linear("std", "deviation").over(0.0, 1.05),
                        narrow,
                        |c| &c.stds,
                    ),
                    three(
                        "Mean, wide class",
                        Axis::linear("mean", "mean").over(0.0, 20.0),
                        wide,
                        |c| &c.means,
                    ),
                    three(
                        "Deviation, wide class",
                        Axis::linear("std", "deviation").over(0.0, 8.0),
                        wide,
                        |c| &c.stds,
                    ),
                ],
            ),
            p(format!(
                "Three things are worth remembering. Where the class is narrower than the data, every unit of $w$ multiplies the deviation by $\\sqrt{{c/u}} = {}$: guidance takes away diversity much faster than the tilted law would. \
                 Where it is wider, guidance <em>adds</em> diversity, without end. And the mean does not stop at the class: at $w = {}$ it is at {}, when the class is at {}.",
                plain(s.narrow.sqrt()),
                plain(s.sampled[s.sampled.len() - 1]),
                plain(narrow[1].at(s.sampled[s.sampled.len() - 1]).map_or(f64::NAN, |v| v.0)),
                plain(s.mean)
            )),
            Block::Table(Table {
                caption: format!(
                    "Mean and deviation of the tilted (t) and of the produced (p) law, for the class of variance {} and for that of variance {}.",
                    plain(s.narrow),
                    plain(s.wide)
                ),
                head: [
                    "$w$",
                    "mean t",
                    "mean p",
                    "dev. t",
                    "dev. p",
                    "wide: mean t",
                    "mean p",
                    "dev. t",
                    "dev. p",
                ]
                .map(String::from)
                .to_vec(),
                rows: s.sampled.iter().map(|w| row(*w)).collect(),
            }),
            Block::Evidence(n.line.evidence.clone()),
        ],
    )
}

/// A circle around a mean.
fn circle([x, y]: [f64; 2], radius: f64) -> (impl Iterator<Item = f64>, impl Iterator<Item = f64>) {
    let angles = || (0..=64).map(|k| TAU * f64::from(k) / 64.0);
    (angles().map(move |a| x + radius * a.cos()), angles().map(move |a| y + radius * a.sin()))
}

fn trajectories(n: &Numbers, title: &str, paths: &[Array2<f64>], colour: Colour) -> Drawing {
    let s = &n.settings.plane;
    let mut series = Vec::new();
    for (means, label, colour) in [(s.class, "class", GREEN), (s.others, "others", MUTED)] {
        for (k, mean) in means.into_iter().enumerate() {
            let (x, y) = circle(mean, 1.5 * s.std);
            series.push(Series::new(
                if k == 0 { label.into() } else { format!("_{label}") },
                x,
                y,
                Mark::Line,
                colour,
            ));
        }
    }
    for (k, path) in paths.iter().enumerate() {
        let label = if k == 0 { "path".into() } else { format!("_path {}", k + 1) };
        series.push(Series::new(
            label,
            path.column(0).iter().copied(),
            path.column(1).iter().copied(),
            Mark::Line,
            colour,
        ));
    }
    let last = |j: usize| paths.iter().map(move |path| path[[path.nrows() - 1, j]]);
    series.push(Series::new("end", last(0), last(1), Mark::Points, colour));
    // Equal units on both axes of the frame.
    let half = s.half_width;
    plot(
        title,
        Axis::linear("x", "x₁").over(-1.7 * half, 1.7 * half),
        Axis::linear("y", "x₂").over(-half, half),
        series,
    )
}

fn plane(n: &Numbers) -> Section {
    let maps = &n.plane.maps;
    let columns = maps.iter().map(|m| format!("w = {}", plain(m.scale))).collect();
    let note = |m: &Map| format!("apart {}", plain((m.total_variation() * 100.0).round() / 100.0));
    let (last, two) =
        (&maps[maps.len() - 1], maps.iter().find(|m| m.scale == 2.0).unwrap_or(&maps[2]));
    let rows = maps.iter().map(|m| {
        vec![
            plain(m.scale),
            plain((m.total_variation() * 1e3).round() / 1e3),
            percent(m.shares[0]),
            percent(m.shares[1]),
        ]
    });
    section(
        "plane",
        "In the plane: a lost mode",
        vec![
            p(
                "Now the four Gaussians. The density that guidance produces is exact, but for the pixels: every pixel is carried back through the guided flow to pure noise, whose density is known, and multiplied by how much the \
                 flow has squeezed its surroundings on the way.",
            ),
            f("p_{\\text{produced}}(x) = N\\big(\\Phi^{-1}(x);\\, 0, \\sigma_{\\max}^2 I\\big)\\; \\Big|\\det \\frac{\\partial \\Phi^{-1}}{\\partial x}\\Big|"),
            figure(
                "laws",
                "The tilted law and the law that is produced, by scale; each picture has its own scale of grey.",
                "Two rows of four density pictures. The tilted law keeps both blobs of the class and only trims their right side. The produced law thins the nearer blob and at the largest scale has lost it, with the other one squeezed to its outer edge.",
                vec![pictures(
                    n,
                    "",
                    columns,
                    vec![
                        ("tilted: p(x) p(c | x)ʷ", maps.iter().map(|m| shade(&m.tilted, "")).collect()),
                        ("produced by the guided flow", maps.iter().map(|m| shade(&m.produced, "")).collect()),
                    ],
                )],
            ),
            p(format!(
                "The tilted law hardly changes: $p(c\\mid x)$ is nearly 1 on the class, and a power of 1 is 1. Half of the class lies around its lower mean, which is nearer to the others; the tilted law keeps {} of its mass there at $w = {}$. Guided sampling keeps {} at $w = {}$, \
                 and {} at $w = {}$. A whole mode of the class goes, not because it is a bad example of the class, but because in high noise, where the modes are not yet apart, it lies on the side of the others.",
                percent(last.shares[0]),
                plain(last.scale),
                percent(two.shares[1]),
                plain(two.scale),
                percent(last.shares[1]),
                plain(last.scale),
            )),
            Block::Table(Table {
                caption: "How far the two laws are apart (total variation: the share of samples that would have to be moved), and the near part: how much of each lies nearest to the lower mean of the class.".into(),
                head: ["$w$", "total variation", "near part, tilted", "near part, produced"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            figure(
                "trajectories",
                &format!(
                    "The same {} draws of noise at $w = 1$ and $w = {}$, from noise to data, divided by $\\sqrt{{1+\\sigma^2}}$. Circles are the four Gaussians at 1.5 deviations.",
                    n.settings.plane.trajectories,
                    plain(last.scale)
                ),
                "Two plots of paths in the plane. At scale 1 the paths spread over both circles of the class. At the large scale all of them swing out to the upper left, some beyond the circles, before they bend back to the outer circle.",
                vec![
                    trajectories(n, "w = 1", &n.plane.trajectories[0], BLUE),
                    trajectories(n, &format!("w = {}", plain(last.scale)), &n.plane.trajectories[1], VERMILION),
                ],
            ),
            p("Followed down the noise levels, the two laws start as one and part before any detail of the data can be seen. Below that the produced law has only to settle into what is left:"),
            figure(
                "levels",
                &format!("The two laws of $w = {}$ at falling noise, each picture stretched with the noise; below, their total variation.", plain(n.settings.plane.level_scale)),
                "Two rows of five density pictures at falling noise. Both rows start as a similar grey disc left of the centre; the tilted one splits into two blobs, the produced one condenses to one on the outer side.",
                vec![pictures(
                    n,
                    "noise level σ",
                    n.plane.levels.iter().map(|m| plain(m.sigma)).collect(),
                    vec![
                        ("tilted law of the level", n.plane.levels.iter().map(|m| shade(&m.tilted, "")).collect()),
                        ("law of the guided flow's states", n.plane.levels.iter().map(|m| shade(&m.produced, note(m))).collect()),
                    ],
                )],
            ),
            Block::Evidence(n.plane.evidence.clone()),
        ],
    )
}

fn price(n: &Numbers) -> Section {
    let price = &n.plane.price;
    let two = |title: &str, axis: Axis, values: &[Vec<f64>; 2]| {
        let series = |label: &str, k: usize, mark, colour| {
            Series::new(label, along(&price.scales), along(&values[k]), mark, colour)
        };
        plot(
            title,
            Axis::linear("w", "guidance scale w").over(0.0, n.settings.plane.largest),
            axis,
            vec![
                series("tilted law", 0, Mark::Dashed, BLUE),
                series("produced law", 1, Mark::Line, VERMILION),
            ],
        )
    };
    let last = price.scales.len() - 1;
    let one = price.scales.iter().position(|w| *w == 1.0).unwrap_or(0);
    let best = (0..=last)
        .max_by(|a, b| price.likelihood[1][*a].total_cmp(&price.likelihood[1][*b]))
        .unwrap_or(0);
    section(
        "price",
        "Alignment and diversity",
        vec![
            p(
                "A higher scale gives better alignment with the condition and less diversity: so every lecture says. With exact laws both can be measured: alignment by the doubt that the exact classifier has about the samples, diversity by their spread and by the share of the near mode. And a third thing with them, how likely the samples are among the data, by $\\mathbb E\\,\\ln p(x)$.",
            ),
            f(
                "\\text{doubt} = -\\mathbb E\\,\\ln p(c\\mid x), \\qquad \\text{spread} = \\sqrt{\\mathbb E\\,|x - \\mathbb E x|^2}",
            ),
            figure(
                "price",
                "The mixture of the last section: what the scale buys and what it costs, under the law that guidance is said to sample and under the one that it does.",
                "Four plots against the guidance scale. Doubt falls slowly for the tilted law and exponentially for the produced one. From scale 1 on spread and near mode stay level for the tilted law and fall steeply for the produced one. The likelihood of the produced samples rises up to a small scale and then falls far below.",
                vec![
                    two(
                        "Doubt",
                        Axis::log("doubt", "−E ln p(c | x), nats").over(1e-6, 10.0),
                        &price.doubt,
                    ),
                    two("Spread", Axis::linear("spread", "root mean square"), &price.spread),
                    two(
                        "Near mode",
                        Axis::linear("near", "share of the law").over(0.0, 0.6),
                        &price.near,
                    ),
                    two("Likelihood", Axis::linear("log_p", "E ln p(x), nats"), &price.likelihood),
                ],
            ),
            p(format!(
                "Nearly all the doubt there was has gone at $w = 1$ ({} nats are left of {}), since the model is exact: $w = 1$ <em>is</em> the class. What follows buys next to nothing, and is paid for. The spread falls from {} to {} at $w = {}$, \
                 while that of the tilted law stays at {}. And the samples are most likely among the data at $w = {}$; beyond, they leave the data on the far side, where there is nothing that the model was trained on.",
                plain((price.doubt[1][one] * 1e3).round() / 1e3),
                plain(price.doubt[1][0]),
                plain(price.spread[1][one]),
                plain(price.spread[1][last]),
                plain(price.scales[last]),
                plain(price.spread[0][last]),
                plain(price.scales[best]),
            )),
            Block::Evidence(n.plane.price_evidence.clone()),
        ],
    )
}

fn listening(n: &Numbers) -> Section {
    let d = &n.digits;
    let s = &n.settings.digits;
    let scales = || Axis::linear("w", "guidance scale w").over(0.0, s.scales[s.scales.len() - 1]);
    let column = |of: fn(&crate::guidance::numbers::Outcome) -> f64| {
        d.outcomes.iter().map(of).collect::<Vec<_>>()
    };
    let x = || along(&s.scales);
    let mut rows = vec![("the class itself, exact".into(), images(&d.exact))];
    rows.extend(d.outcomes.iter().map(|o| {
        (
            format!("w = {}: {} of all samples right", plain(o.scale), percent(o.right)),
            images(&o.pictures),
        )
    }));
    let at = |w: f64| d.outcomes.iter().find(|o| o.scale == w);
    let (one, cut) = (at(1.0), at(s.cut_scale));
    let nearest = d
        .outcomes
        .iter()
        .filter(|o| o.scale >= 1.0)
        .min_by(|a, b| a.distance.total_cmp(&b.distance));
    let last = &d.outcomes[d.outcomes.len() - 1];
    let share =
        |o: Option<&crate::guidance::numbers::Outcome>| o.map_or("?".into(), |o| percent(o.right));
    let table = d.outcomes.iter().map(|o| {
        vec![
            plain(o.scale),
            percent(o.right),
            plain(o.distance),
            percent(o.beyond),
            plain(o.spread),
        ]
    });
    section(
        "listening",
        "Why it is used all the same",
        vec![
            p(format!(
                "If $w = 1$ is right, why does nobody use it? Because networks are not exact. A common fault is a model that does not listen: its conditional prediction is too near the unconditional one. Such a model has an exact form. \
                 Let each class of digits be a Gaussian, and let the model's law given the label be the right class most of the time, and with probability {} any digit at all:",
                plain(s.missed)
            )),
            f(&format!("p_\\theta(x\\mid c) = {}\\, p(x\\mid c) + {}\\, p(x)", plain(1.0 - s.missed), plain(s.missed))),
            figure(
                "digits",
                "The same ten draws of noise, one for each digit from 0 to 9. First row: what the class's own law makes of them. Below: the model that does not always listen, at growing scales. At $w = 0$ the label plays no part.",
                "Eight rows of ten small digits. The first row shows 0 to 9. At scale 0 the digits do not follow the label; at 1 some are wrong; at larger scales nearly all are right; at the largest they are right but harsh, with black strokes and hard white holes.",
                vec![digits("", "asked for", (0..10).map(|c| c.to_string()).collect(), rows, Tone::Ink)],
            ),
            p(format!(
                "Here guidance earns its place. Of the class that was asked for are {} of the samples at $w = 1$ and {} at $w = {}$. The implicit classifier of a model that hardly listens is timid, and a power of it is bold again. \
                 Beyond that the picture turns: the samples are nearest to the exact ones at $w = {}$, and then walk away from the data, into strokes blacker than black. Of all pixel values {} are beyond the range \
                 of the data at $w = {}$, against {} at $w = 1$: the burnt colours that everybody knows who has turned the scale up.",
                share(one),
                share(cut),
                plain(s.cut_scale),
                nearest.map_or("?".into(), |o| plain(o.scale)),
                percent(last.beyond),
                plain(last.scale),
                one.map_or("?".into(), |o| percent(o.beyond)),
            )),
            figure(
                "sweet-spot",
                &format!("{} samples a scale. Distances are root mean square, to the sample that the class's own law makes of the same noise, over the classes' own deviation.", d.draws),
                "Four plots against the guidance scale: the share of right samples rises from a tenth to one; the distance to the exact samples falls to a minimum and rises again; the share of pixels beyond the range of the data rises from scale 1 on; the spread of a class falls to a minimum and rises again.",
                vec![
                    plot(
                        "Of the class asked for",
                        scales(),
                        Axis::linear("right", "share of samples").over(0.0, 1.05),
                        vec![Series::new("right", x(), column(|o| o.right), Mark::Linked, GREEN)],
                    ),
                    plot(
                        "Distance to the exact samples",
                        scales(),
                        Axis::linear("distance", "root mean square"),
                        vec![Series::new("distance", x(), column(|o| o.distance), Mark::Linked, BLUE)],
                    ),
                    plot(
                        "Beyond black and white",
                        scales(),
                        Axis::linear("beyond", "share of pixels"),
                        vec![Series::new("beyond", x(), column(|o| o.beyond), Mark::Linked, VERMILION)],
                    ),
                    plot(
                        "Spread of a class",
                        scales(),
                        Axis::linear("spread", "over the class's own"),
                        vec![Series::new("spread", x(), column(|o| o.spread), Mark::Linked, ORANGE)],
                    ),
                ],
            ),
            Block::Table(Table {
                caption: "A model that misses its label, by guidance scale. Spread is that of a class's samples about their mean, 1 for the class itself.".into(),
                head: ["$w$", "right", "distance", "beyond range", "spread"].map(String::from).to_vec(),
                rows: table.collect(),
            }),
            p(format!(
                "One thing is not as told: diversity. The spread of a class's samples falls at first, when the wrong digits go, to {} of the class's own, and then rises again, to {} at $w = {}$. \
                 Guidance does not narrow samples as such: as on the line, it narrows the directions in which the class is narrower than the data and widens the others, and which of them weigh more is up to the data.",
                plain(d.outcomes.iter().filter(|o| o.scale >= 1.0).map(|o| o.spread).fold(f64::INFINITY, smaller)),
                plain(last.spread),
                plain(last.scale),
            )),
            Block::Evidence(d.evidence.clone()),
        ],
    )
}

fn levels(n: &Numbers) -> Section {
    let (d, s) = (&n.digits, &n.settings.digits);
    let sigmas = || d.cuts.iter().map(|c| c.sigma);
    let axis = || Axis::log("sigma", "noise level σ of the cut");
    section(
        "levels",
        "Where in the noise guidance works",
        vec![
            p(format!(
                "Guidance doubles the cost of a step, so it matters where it works. The runs of $w = {}$ were made again with guidance only above a noise level, and only below it; outside, the conditional model goes alone and the \
                 other is not asked.",
                plain(s.cut_scale)
            )),
            figure(
                "cuts",
                "Left: how much the samples change when guidance is left out on one side of a noise level, as a share of what it changes at all. Right: the share of samples that are right.",
                "Two plots against the noise level of a cut on a logarithmic axis. Leaving guidance out below a level changes nothing at low levels and then rises to 1; leaving it out above starts at 1 and falls. The share of right samples mirrors this.",
                vec![
                    plot(
                        "Change of the samples",
                        axis(),
                        Axis::linear("change", "share of the whole change").over(0.0, 1.3),
                        vec![
                            Series::new(
                                "none below",
                                sigmas(),
                                d.cuts.iter().map(|c| c.below),
                                Mark::Linked,
                                BLUE,
                            ),
                            Series::new(
                                "none above",
                                sigmas(),
                                d.cuts.iter().map(|c| c.above),
                                Mark::Linked,
                                ORANGE,
                            ),
                        ],
                    ),
                    plot(
                        "Of the class asked for",
                        axis(),
                        Axis::linear("right", "share of samples").over(0.5, 1.02),
                        vec![
                            Series::new(
                                "none below",
                                sigmas(),
                                d.cuts.iter().map(|c| c.right[0]),
                                Mark::Linked,
                                BLUE,
                            ),
                            Series::new(
                                "none above",
                                sigmas(),
                                d.cuts.iter().map(|c| c.right[1]),
                                Mark::Linked,
                                ORANGE,
                            ),
                        ],
                    ),
                ],
            ),
            p(format!(
                "Below $\\sigma = {}$ guidance changes less than {} of what it changes in all: the class is decided by then, both predictions are the same, and their difference is nothing however large the scale. On EDM's grid of {EDM_STEPS} steps {} \
                 lie below that, and each of them can save its second evaluation. At the other end there is no such rest: what guidance does in high noise, where it can see no more than the difference of two mean pictures, stays in the sample.",
                plain(d.idle_below),
                percent(s.negligible),
                d.idle_steps,
            )),
            p(
                "What to take home. Compare at $w = 1$ first: an exact model needs nothing else, so what a larger scale repairs is the model's fault and can be repaired in the model. Choose the scale by what is lost (modes, contrast), for \
                 alignment alone always says: more. Do not read a guided sample as a draw of $p(x)\\,p(c\\mid x)^w$. And leave guidance out where noise is low.",
            ),
        ],
    )
}

#[cfg(test)]
mod tests {
    use super::percent;

    #[test]
    fn shares_are_short() {
        assert_eq!(
            [0.0051, 0.0994, 0.0996, 0.5, 1.0].map(percent),
            ["0.5 %", "9.9 %", "10 %", "50 %", "100 %"]
        );
    }
}
