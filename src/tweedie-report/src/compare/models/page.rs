//! The page of two models, made from what was computed of them.

use super::{Comparison, FORMATS, OF_MODELS, SPREAD, Said, farthest};
use crate::chapter::{along, picture, plot, thousands};
use crate::compare::{Options, amount, code, command, file, folder, measured, settings};
use crate::difference::Agreement;
use crate::difference::models::{Level, SURE, Tensor};
use crate::drawing::{Axis, Drawing, Mark, Picture, Pictures, Series, Tone, plain};
use crate::page::{Block, Chapter, Section, Table, f, figure, number, p, section};
use crate::style::{BLUE, GREEN, INK, MUTED, ORANGE, VERMILION};
use ndarray::ArrayView1;
use tweedie::evidence::Evidence;
use tweedie::math::larger;

/// Tensors in the table; all are in the JSON.
const TENSORS: usize = 12;

pub fn chapter(c: &Comparison, options: &Options) -> Chapter {
    let (weights, outputs) = (worst_tensor(c), farthest(c));
    let title = match &c.said {
        Some(_) if weights == 0.0 && outputs == 0.0 => "One model, twice",
        Some(_) if weights <= c.tolerance && outputs <= c.tolerance => {
            "Two models that are one but for rounding"
        }
        _ => "Two models, and where they differ",
    };
    let mut lead = format!("A is {}, B is {}. ", folder(&options.a), folder(&options.b));
    match &c.said {
        Some(said) => {
            lead += &format!(
                "Both are asked in f64 about the same noised images: {}. Their answers are at most {} of the data's root mean square apart. ",
                said.data,
                amount(outputs)
            );
            lead += &verdict_on_nearness(c, said);
        }
        None => lead += c.refused.as_deref().unwrap_or_default(),
    }
    let mut sections = vec![verdict(c), weights_section(c)];
    if let Some(said) = &c.said {
        sections.push(said_section(c, said));
        sections.push(samples_section(c, said));
    }
    Chapter {
        name: "models".into(),
        title: title.into(),
        lead,
        command: command(options),
        sections,
    }
}

/// Which of the two is nearer to what is right, in a sentence.
fn verdict_on_nearness(c: &Comparison, said: &Said) -> String {
    let target = if said.exact { "the exact denoiser" } else { "the clean images" };
    let names = ["A", "B"];
    let at =
        [0, 1].map(|k| said.levels.iter().filter(|l| l.nearer(c.tolerance) == Some(k)).count());
    let all = said.levels.len();
    match at {
        [0, 0] => format!(
            "At none of {all} noise levels is one nearer to {target} than chance and the tolerance explain."
        ),
        [0, n] | [n, 0] => {
            let name = names[usize::from(at[0] == 0)];
            format!("{name} is nearer to {target} at {n} of {all} noise levels, the other at none.")
        }
        [n, m] => format!("A is nearer to {target} at {n} of {all} noise levels, B at {m}."),
    }
}

fn worst_tensor(c: &Comparison) -> f64 {
    c.tensors.iter().map(|t| t.distance).fold(0.0, larger)
}

fn verdict(c: &Comparison) -> Section {
    let unlike = c.tensors.iter().filter(|t| t.shapes[0] != t.shapes[1]).count();
    let alike = c.tensors.iter().filter(|t| t.shapes[0] == t.shapes[1]);
    let asked = "rounding in single precision, see above";
    let why = if c.tolerance == OF_MODELS { asked } else { "as asked for" };
    let mut evidence = vec![
        Evidence::new("tensors in one model only, or of other shapes", unlike as f64, 0.0, 0.0),
        Evidence::new(
            "largest distance of two tensors, over the length of A's",
            alike.map(|t| t.distance).fold(0.0, larger),
            0.0,
            c.tolerance,
        )
        .because(why),
    ];
    match &c.said {
        Some(said) => {
            let ends = said.samples.apart.last().copied().unwrap_or(f64::NAN);
            evidence.push(
                Evidence::new(
                    "root mean square distance of the answers at the noise level where they are farthest apart, over the data's",
                    farthest(c),
                    0.0,
                    c.tolerance,
                )
                .because(why),
            );
            evidence.push(
                Evidence::new(
                    "root mean square distance of the samples from the same starts, over the data's",
                    ends,
                    0.0,
                    SPREAD * c.tolerance,
                )
                .because(format!(
                    "{SPREAD} times that of an answer: errors add up over the steps and are multiplied where the flow spreads"
                )),
            );
        }
        None => evidence.push(Evidence::new(
            "models that can't be asked about the same states",
            1.0,
            0.0,
            0.0,
        )),
    }
    let mut blocks = vec![p(format!(
        "The tolerance is {}. {}",
        number(c.tolerance),
        if c.tolerance == OF_MODELS {
            "A network in f32 rounds every weight and every sum by about $6 \\cdot 10^{-8}$, and through some hundred operations its output is off by a few $10^{-6}$: what is below that is the same model. Trainings by different recipes are never that near, and the question is then which of the two is better, which the sections below answer."
        } else {
            "It was asked for with <code>--tolerance</code>."
        }
    ))];
    blocks.extend(c.notes.iter().map(p));
    blocks.extend(c.refused.iter().map(p));
    if c.settings.is_empty() {
        blocks.push(p(
            "Networks and setups are the same: the config of the U-Net, path, prediction, what the network is told of the time.",
        ));
    } else {
        blocks.push(p(
            "The settings differ; this does not count in the verdict, which is on numbers.",
        ));
        blocks.extend(settings::table(
            &c.settings,
            "settings that differ, of the network and of what its output means",
            "settings.json",
        ));
    }
    blocks.push(Block::Evidence(evidence));
    section("verdict", "The verdict", blocks)
}

fn weights_section(c: &Comparison) -> Section {
    let mut differing: Vec<&Tensor> =
        c.tensors.iter().filter(|t| t.agreement(c.tolerance) != Agreement::Equal).collect();
    let numbers: usize = c.tensors.iter().map(|t| t.count).sum();
    if differing.is_empty() {
        let said = format!(
            "All {} tensors, {} numbers, are equal to the bit.",
            c.tensors.len(),
            thousands(numbers)
        );
        return section(
            "weights",
            "The weights",
            vec![p(said), file("tensors.json", "every tensor", &c.tensors)],
        );
    }
    let moved: usize = c.tensors.iter().map(|t| t.differing).sum();
    let mut blocks = vec![p(format!(
        "{} of {} tensors differ, {} of {} numbers. The distance of two tensors is that of two vectors, over the length of A's.",
        differing.len(),
        c.tensors.len(),
        thousands(moved),
        thousands(numbers)
    ))];
    let at: Vec<(f64, f64)> = c
        .tensors
        .iter()
        .enumerate()
        .map(|(k, t)| (k as f64 + 1.0, t.distance))
        .filter(|t| t.1 > 0.0 && t.1.is_finite())
        .collect();
    if at.len() > 1 {
        let ends = [1.0, c.tensors.len() as f64];
        let lines = vec![
            Series::new("tolerance", ends, [c.tolerance; 2], Mark::Dashed, MUTED),
            Series::new(
                "tensors",
                at.iter().map(|t| t.0).collect::<Vec<_>>(),
                at.iter().map(|t| t.1).collect::<Vec<_>>(),
                Mark::Points,
                BLUE,
            ),
        ];
        blocks.push(figure(
            "tensors",
            "The distance of each tensor of B from A's, in the order in which the network uses them. What is equal to the bit is not drawn.",
            &format!("{} points, one for each tensor that differs, and a dashed line at the tolerance.", at.len()),
            vec![plot("", Axis::linear("tensor", "tensor, from the input to the output"), Axis::log("distance", "distance / length"), lines)],
        ));
    }
    differing.sort_by(|p, q| q.distance.total_cmp(&p.distance));
    let shape = |s: &Option<Vec<usize>>| {
        s.as_ref().map_or("none".into(), |s| {
            if s.is_empty() {
                "1".into()
            } else {
                s.iter().map(usize::to_string).collect::<Vec<_>>().join(" × ")
            }
        })
    };
    let cells = |t: &&Tensor| {
        let shapes = if t.shapes[0] == t.shapes[1] {
            shape(&t.shapes[0])
        } else {
            format!("{} and {}", shape(&t.shapes[0]), shape(&t.shapes[1]))
        };
        vec![
            code(&t.name),
            shapes,
            format!("{} of {}", thousands(t.differing), thousands(t.count)),
            amount(t.distance),
            amount(t.largest),
        ]
    };
    blocks.push(Block::Table(Table {
        caption: format!("The {} tensors that are farthest apart: shape, numbers whose bits differ, distance over length, largest difference of a number over the largest number.", differing.len().min(TENSORS)),
        head: ["tensor", "shape", "differ", "distance", "largest"].map(String::from).to_vec(),
        rows: differing.iter().take(TENSORS).map(cells).collect(),
    }));
    blocks.push(file("tensors.json", "every tensor", &c.tensors));
    section("weights", "The weights", blocks)
}

/// Pictures of a model's shape; three channels are drawn as their mean, which is what ink can show.
fn grey(c: &Comparison, x: ArrayView1<f64>) -> Vec<f64> {
    let (channels, h, w) = c.shape;
    (0..h * w)
        .map(|i| (0..channels).map(|k| x[k * h * w + i]).sum::<f64>() / channels as f64)
        .collect()
}

fn pictures(
    c: &Comparison,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Picture>)>,
    tone: Tone,
) -> Drawing {
    let (_, h, w) = c.shape;
    Drawing::Pictures(Pictures {
        title: String::new(),
        heading: String::new(),
        columns,
        rows,
        shape: (w, h),
        tone,
    })
}

fn said_section(c: &Comparison, said: &Said) -> Section {
    let sigmas: Vec<f64> = said.levels.iter().map(|l| l.sigma).collect();
    let sigma = || Axis::log("sigma", "noise level σ").over(sigmas[0], sigmas[sigmas.len() - 1]);
    let of = |pick: &dyn Fn(&Level) -> f64| said.levels.iter().map(pick).collect::<Vec<f64>>();
    let mut apart =
        vec![Series::new("A and B", along(&sigmas), of(&|l| l.apart), Mark::Linked, VERMILION)];
    for (k, (name, _)) in FORMATS.iter().enumerate() {
        apart.push(Series::new(
            format!("A rounded to {name}"),
            along(&sigmas),
            of(&|l| l.yardsticks[k]),
            Mark::Dashed,
            [BLUE, GREEN][k],
        ));
    }
    let target = if said.exact { "the exact denoiser" } else { "the clean images" };
    let mut risk = vec![
        Series::new("A", along(&sigmas), of(&|l| l.risk[0]), Mark::Linked, BLUE),
        Series::new("B", along(&sigmas), of(&|l| l.risk[1]), Mark::Dashed, ORANGE),
    ];
    if c.has_linear {
        risk.insert(
            0,
            Series::new(
                "best linear",
                along(&sigmas),
                of(&|l| l.linear.unwrap_or(f64::NAN)),
                Mark::Line,
                MUTED,
            ),
        );
    }
    let share = |l: &Level, by: f64| {
        let mean = (l.risk[0] + l.risk[1]) / 2.0;
        if mean > 0.0 { 100.0 * (l.excess[0] + by * l.excess[1]) / mean } else { 0.0 }
    };
    let band = |by: f64, label: &str, mark| {
        Series::new(label, along(&sigmas), of(&|l| share(l, by)), mark, VERMILION)
    };
    let excess = vec![
        Series::new("_equal", [sigmas[0], sigmas[sigmas.len() - 1]], [0.0, 0.0], Mark::Line, MUTED),
        band(0.0, "A less B", Mark::Linked),
        band(-2.0, "_lower", Mark::Dashed),
        band(2.0, "_upper", Mark::Dashed),
    ];
    let rows = said.levels.iter().map(|l| {
        let nearer = l.nearer(c.tolerance).map_or("neither", |k| ["A", "B"][k]);
        let [of_a, of_b] = l.risk;
        vec![
            format!("σ = {}", plain(l.sigma)),
            amount(l.apart),
            amount(of_a),
            amount(of_b),
            measured(l.excess[0], l.excess[1]),
            nearer.into(),
        ]
    });
    let mut blocks = vec![
        p(format!(
            "Both see the same {} noised images at each noise level: {}. What is compared is the estimate of the clean image, $D(x) = \\mathbb E[x_0 \\mid x]$, whatever the network itself predicts; both are evaluated in f64, so that all that is left is the models' own difference.",
            thousands(said.images),
            said.data
        )),
        f(
            r"\text{apart}(\sigma) = \sqrt{\frac{\mathbb E \left\lVert D_A(x) - D_B(x) \right\rVert^2}{\mathbb E \left\lVert x_0 \right\rVert^2}}, \qquad x = x_0 + \sigma \varepsilon",
        ),
        p(
            "Two yardsticks stand beside it: how far A is from itself with every weight moved by up to half a unit in the last place of f32, and of bf16. A B that lies at one of them may be A in another number format.",
        ),
        figure(
            "apart",
            "How far the two are apart, and A from itself with rounded weights.",
            "The distance of the two models against the noise level, beside two dashed yardsticks of rounding.",
            vec![plot("", sigma(), Axis::log("apart", "distance / data"), apart)],
        ),
        p(format!(
            "{} One is called nearer where the difference of the errors, image by image, is more than {SURE} standard errors from 0, and the two are farther apart than the tolerance.{}",
            verdict_on_nearness(c, said),
            if said.exact {
                " The distance from the exact denoiser is the excess risk: what a model's loss is above the least there can be."
            } else {
                ""
            }
        )),
        figure(
            "nearer",
            &format!(
                "Left: mean squared distance a pixel from {target}; lower is better. Right: A's less B's, over their mean, with two standard errors (dashed); above 0 B is nearer."
            ),
            &format!(
                "Left: the errors of A and of B against the noise level{}. Right: their relative difference about a line at 0, between dashed lines of two standard errors.",
                if c.has_linear { ", with that of the best linear denoiser" } else { "" }
            ),
            vec![
                plot(
                    "Distance from what is right",
                    sigma(),
                    Axis::log("error", "mean squared error, a pixel"),
                    risk,
                ),
                plot(
                    "A's less B's",
                    sigma(),
                    Axis::linear("relative_excess", "(A − B) / mean, %"),
                    excess,
                ),
            ],
        ),
        Block::Table(Table {
            caption: format!(
                "By noise level: the distance of the two over the data's root mean square; the mean squared distance of each from {target}, and the difference with its standard error."
            ),
            head: ["noise", "apart", "A's error", "B's error", "A's less B's", "nearer"]
                .map(String::from)
                .to_vec(),
            rows: rows.collect(),
        }),
        file("levels.json", "the same, every digit", &said.levels),
    ];
    if said.levels.iter().any(|l| l.apart > 0.0) {
        let worst = said.levels.iter().max_by(|p, q| p.apart.total_cmp(&q.apart)).expect("levels");
        let [clean, noised, of_a, of_b] = &worst.farthest;
        let ink = |x: &[f64]| picture(grey(c, ArrayView1::from(x)), "");
        // Shrunk to the contrast of data.
        let noised: Vec<f64> = noised.iter().map(|v| v / 1f64.hypot(worst.sigma)).collect();
        let apart: Vec<f64> = of_a.iter().zip(of_b).map(|(a, b)| (a - b).abs()).collect();
        // Dark where it is large, whatever its size, which stands below.
        let scaled = |x: &[f64]| {
            let largest = x.iter().copied().fold(f64::MIN_POSITIVE, larger);
            let shades: Vec<f64> = x.iter().map(|v| 2.0 * v / largest - 1.0).collect();
            picture(grey(c, ArrayView1::from(&shades)), note(largest))
        };
        let row = vec![ink(clean), ink(&noised), ink(of_a), ink(of_b), scaled(&apart)];
        let columns = ["clean", "noised", "A", "B", "|A − B|"].map(String::from).to_vec();
        let by_pixel: Vec<Picture> =
            said.levels.iter().step_by(2).map(|l| scaled(&l.by_pixel)).collect();
        let at: Vec<String> =
            said.levels.iter().step_by(2).map(|l| format!("σ = {}", plain(l.sigma))).collect();
        blocks.push(figure(
            "where",
            &format!(
                "Left: the image on which the two are farthest apart, at σ = {}, and their difference. Right: the distance at each pixel over all images. Differences are dark where they are large, with the largest below; those on the right are over the data's root mean square.",
                plain(worst.sigma)
            ),
            "Left: five pictures, clean, noised, what A makes of it, what B does, and the absolute difference of the two. Right: one picture for every second noise level with the distance at each pixel.",
            vec![
                pictures(c, columns, vec![(String::new(), row)], Tone::Ink),
                pictures(c, at, vec![(String::new(), by_pixel)], Tone::Ink),
            ],
        ));
    }
    section("answers", "What they say", blocks)
}

/// A size below a picture.
fn note(x: f64) -> String {
    if x == 0.0 || x >= 1e-3 { plain(x) } else { format!("{x:.1e}") }
}

fn samples_section(c: &Comparison, said: &Said) -> Section {
    let s = &said.samples;
    let shown = s.x[0].nrows().min(8);
    let tone =
        |k: usize| (0..shown).map(|i| picture(grey(c, s.x[k].row(i)), "")).collect::<Vec<_>>();
    let names = ["A", "B", "exact denoiser"];
    let mut rows: Vec<(String, Vec<Picture>)> =
        (0..s.x.len()).map(|k| (names[k].to_owned(), tone(k))).collect();
    rows.iter_mut().skip(1).take(1).for_each(|row| {
        row.1.iter_mut().zip(&s.of_each).for_each(|(picture, off)| picture.note = note(*off));
    });
    let end = s.apart.last().copied().unwrap_or(f64::NAN);
    let mut told = format!(
        "Samples by {} in {} steps, from the same {} starts at σ = {}. The two of a start are {} of the data's root mean square apart on average",
        code(s.sampler),
        s.steps,
        thousands(s.x[0].nrows()),
        plain(s.sigmas[0]),
        amount(end)
    );
    let yard: Vec<String> = FORMATS
        .iter()
        .zip(&s.yardsticks)
        .map(|((name, _), y)| format!("{} with A's weights rounded to {name}", amount(*y)))
        .collect();
    told += &format!("; {}.", yard.join(", "));
    if let (Some([a, b]), Some([excess, stderr])) = (s.from_exact, s.excess) {
        let nearer = match excess.abs() > SURE * stderr {
            true if excess > 0.0 => "B is nearer",
            true => "A is nearer",
            false => "neither is nearer than chance explains",
        };
        told += &format!(
            " From the samples of the exact denoiser A's are {} away, B's {}: {nearer}.",
            amount(a),
            amount(b)
        );
    }
    let positive: Vec<(f64, f64)> =
        s.sigmas.iter().copied().zip(s.apart.iter().copied()).filter(|p| p.0 > 0.0).collect();
    let mut blocks = vec![
        p(told),
        figure(
            "samples",
            "Samples from the same starts, a column each. Below B's: how far it is from A's, over the data's root mean square.",
            &format!(
                "{} rows of {shown} pictures; the pictures of a column were made from the same start.",
                rows.len()
            ),
            vec![pictures(c, vec![], rows, Tone::Ink)],
        ),
    ];
    if s.apart.iter().any(|v| *v > 0.0) {
        let line = Series::new(
            "A and B",
            positive.iter().map(|p| p.0).collect::<Vec<_>>(),
            positive.iter().map(|p| p.1).collect::<Vec<_>>(),
            Mark::Linked,
            INK,
        );
        let (first, last) = (positive[0].0, positive[positive.len() - 1].0);
        blocks.push(figure(
            "parting",
            "Where the two part: distance of the two states on the way from noise (left) to data, over the states' own size.",
            "One curve from left, high noise, to right, low noise: the distance of the two trajectories of a start.",
            vec![plot(
                "",
                Axis::log("sigma", "noise level σ").over(first, last),
                Axis::log("apart", "distance / state"),
                vec![line],
            )],
        ));
    }
    blocks.push(file("samples.json", "distances on the way, and of each pair of samples", s));
    section("samples", "What they make", blocks)
}
