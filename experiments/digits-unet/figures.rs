//! The chapter on a trained U-Net, made from the numbers of [`crate::digits_unet::numbers`].

use crate::digits_unet::numbers::{Numbers, Settings, compute, recipe};
use serde_json::{Value, json};
use tweedie::error::Result;
use tweedie::number::Number;
use tweedie_nn::train::validation::Level;
use tweedie_report::chapter::{
    self, Parts, Study, along, digits, images, picture, plot, scaled, states,
};
use tweedie_report::drawing::{Axis, Drawing, Film, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::ledger::csv;
use tweedie_report::page::File;
use tweedie_report::style::{BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, VERMILION};

/// The chapter.
pub struct DigitsUnet;

impl Study for DigitsUnet {
    const NAME: &'static str = "digits-unet";
    const ABOUT: &'static str = "a U-Net trained on the digits: its samples, its loss, trajectories and receptive fields beside the exact ones";
    const SECONDS: [f64; 2] = [73.0, 405.0];
    const TEXT: Editable = source!("digits-unet/text.md");
    const CODE: &'static str = env!("CODE_OF_digits-unet");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let mut parts = Parts::new(&n.settings);
        parts.value("million_params", n.params as f64 * 1e-6);
        parts.value("training_steps", n.losses.len());
        samples(n, &mut parts);
        training(n, &mut parts);
        risk(n, &mut parts);
        trajectories(n, &mut parts);
        receptive(n, &mut parts);
        Ok(parts)
    }
}

/// Its settings, and the recipe of its training.
pub fn settings(text: Option<&Text>) -> Result<Value> {
    Ok(
        json!({ "experiment": chapter::settings::<Settings>(text)?, "recipe": chapter::as_json(&recipe()?)? }),
    )
}

/// Mean of a few numbers.
fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

fn samples(n: &Numbers, parts: &mut Parts) {
    let s = &n.samples;
    let drawn = images(&s.drawn);
    let rows =
        drawn[..n.settings.shown].chunks(10).map(|row| (String::new(), row.to_vec())).collect();
    let beside = n.settings.neighbours;
    let near: Vec<Picture> = (0..beside)
        .map(|i| picture(s.nearest.row(i).iter().copied(), format!("{:.2}", s.distances[i])))
        .collect();
    let mut histogram = Vec::new();
    for (label, distances, mark, colour) in [
        ("samples", &s.distances, Mark::Line, VERMILION),
        ("held-out digits", &s.between_digits, Mark::Dashed, BLUE),
    ] {
        let mut sorted = distances.clone();
        sorted.sort_by(f64::total_cmp);
        let share = (0..sorted.len()).map(|i| (i + 1) as f64 / sorted.len() as f64);
        histogram.push(Series::new(label, sorted.clone(), share, mark, colour));
    }
    parts.figure("drawn", vec![digits("", "", vec![], rows, Tone::Ink)]);
    parts.figure(
        "nearest",
        vec![digits(
            "",
            "",
            vec![],
            vec![
                ("sample".into(), drawn[..beside].to_vec()),
                ("nearest training digit".into(), near),
            ],
            Tone::Ink,
        )],
    );
    parts.figure(
        "distances",
        vec![plot(
            "",
            Axis::linear("distance", "distance to the nearest training digit"),
            Axis::linear("share", "share within it").over(0.0, 1.0),
            histogram,
        )],
    );
    parts.checks("samples", s.evidence.clone());
    parts.value("sampler", &n.recipe.samples.sampler);
    parts.value("sampler_steps", n.recipe.samples.steps);
    parts.value("mean_distance", mean(&s.distances));
    parts.value("mean_between_digits", mean(&s.between_digits));
}

fn training(n: &Numbers, parts: &mut Parts) {
    let block = (n.losses.len() / 100).max(1);
    let (steps, losses): (Vec<f64>, Vec<f64>) = n
        .losses
        .chunks_exact(block)
        .enumerate()
        .map(|(k, l)| ((k * block) as f64 + 0.5 * (block + 1) as f64, mean(l)))
        .unzip();
    let l = &n.learning;
    let mut curves: Vec<Series> = Vec::new();
    let last = l.steps.last().copied().unwrap_or(1.0);
    for (k, colour) in
        n.settings.learning_components.iter().zip([BLUE, VERMILION, GREEN, PURPLE, ORANGE])
    {
        if let (Some(produced), Some(variance)) = (l.produced.get(k - 1), l.variances.get(k - 1)) {
            curves.push(Series::new(
                format!("k = {k}"),
                along(&l.steps),
                along(produced),
                Mark::Linked,
                colour,
            ));
            curves.push(Series::new(
                format!("_λ of {k}"),
                [l.steps[0], last],
                [*variance; 2],
                Mark::Dashed,
                colour,
            ));
        }
    }
    let (std, half): (Vec<f64>, Vec<f64>) =
        l.half.iter().copied().filter(|h| h.1.is_finite()).unzip();
    parts.figure(
        "learning",
        vec![
            plot(
                "Loss",
                Axis::log("step", "step"),
                Axis::log("loss", "loss"),
                vec![Series::new("loss", along(&steps), along(&losses), Mark::Line, BLUE)],
            ),
            plot(
                "Variance of the samples",
                Axis::log("step", "step"),
                Axis::log("variance", "variance"),
                curves,
            ),
        ],
    );
    parts.figure(
        "half-learnt",
        vec![plot(
            "",
            Axis::log("std", "standard deviation √λₖ"),
            Axis::log("step", "step"),
            vec![Series::new("component", along(&std), along(&half), Mark::Points, BLUE)],
        )],
    );
    parts.checks("training", l.evidence.clone());
}

fn risk(n: &Numbers, parts: &mut Parts) {
    let sigma = || Axis::log("sigma", "noise level σ");
    let curve = |levels: &[Level], label: &str, of: &dyn Fn(&Level) -> f64, mark: Mark, colour| {
        Series::new(label, levels.iter().map(|l| l.edm_sigma), levels.iter().map(of), mark, colour)
    };
    let losses = |title: &str, levels: &[Level]| {
        plot(
            title,
            sigma(),
            Axis::log("loss", "loss of x₀, a pixel").over(1e-4, 1.0),
            vec![
                curve(levels, "training digits by heart", &|l| l.exact, Mark::Dashed, VERMILION),
                curve(levels, "Wiener filter", &|l| l.wiener.unwrap_or(f64::NAN), Mark::Line, BLUE),
                curve(levels, "network", &|l| l.network, Mark::Linked, INK),
            ],
        )
    };
    let [train, held_out] = &n.levels;
    let over_wiener = |levels: &[Level], label: &str, mark, colour| {
        curve(levels, label, &|l| l.network / l.wiener.unwrap_or(f64::NAN), mark, colour)
    };
    let rows = train.iter().zip(held_out).step_by(2).map(|(t, h)| {
        let three = |v: f64| plain((v * 1e4).round() / 1e4);
        let mut row = vec![plain((t.edm_sigma * 1e3).round() / 1e3)];
        row.extend(
            [
                t.network,
                t.exact,
                t.wiener.unwrap_or(f64::NAN),
                t.excess,
                h.network,
                h.exact,
                h.wiener.unwrap_or(f64::NAN),
            ]
            .map(three),
        );
        row
    });
    parts.figure(
        "loss-by-level",
        vec![losses("Training digits", train), losses("Held-out digits", held_out)],
    );
    parts.figure(
        "over-wiener",
        vec![plot(
            "",
            sigma(),
            Axis::linear("ratio", "loss over Wiener's"),
            vec![
                over_wiener(train, "training digits", Mark::Line, BLUE),
                over_wiener(held_out, "held-out digits", Mark::Linked, VERMILION),
                Series::new(
                    "_1",
                    [n.settings.sigma_range[0], n.settings.sigma_range[1]],
                    [1.0, 1.0],
                    Mark::Dashed,
                    MUTED,
                ),
            ],
        )],
    );
    parts.table(
        "risk",
        [
            "σ",
            "network, training",
            "least",
            "Wiener",
            "distance²",
            "network, held out",
            "memory",
            "Wiener",
        ],
        rows,
    );
    parts.files("risk", vec![File {
                name: "levels.csv".into(),
                about: "every level and set: losses of the network with its standard error, the exact denoiser, the Wiener filter"
                    .into(),
                content: csv(
                    &["set", "edm_sigma", "images", "network", "network_stderr", "exact", "wiener", "excess"],
                    n.levels.iter().flatten().map(|l| {
                        let numbers = [l.network, l.network_stderr, l.exact, l.wiener.unwrap_or(f64::NAN), l.excess];
                        [l.set.clone(), Number(l.edm_sigma).to_string(), l.images.to_string()]
                            .into_iter()
                            .chain(numbers.map(|v| Number(v).to_string()))
                            .collect()
                    }),
                ),
            }]);
    parts.checks("risk-2", n.evidence.clone());
}

fn trajectories(n: &Numbers, parts: &mut Parts) {
    let t = &n.trajectories;
    let row = |x| states(x, &t.strip_sigmas);
    let [network, gaussian, memory] = &t.strips;
    /// Relative distance that is called close.
    const CLOSE: f64 = 0.05;
    const NAMES: [&str; 3] = ["network", "Gaussian, closed form", "training digits"];
    let frame = |k: usize| Pictures {
        title: String::new(),
        heading: format!("σ = {}", plain(t.sigmas[k])),
        columns: vec![],
        rows: NAMES
            .iter()
            .zip(&t.film)
            .map(|(name, states)| (name.to_string(), scaled(&states[k], t.sigmas[k])))
            .collect(),
        shape: (8, 8),
        tone: Tone::Ink,
    };
    parts.figure(
        "strips",
        vec![digits(
            "",
            "noise level σ",
            t.strip_sigmas.iter().map(|s| plain((s * 100.0).round() / 100.0)).collect(),
            vec![
                (NAMES[0].into(), row(network)),
                (NAMES[1].into(), row(gaussian)),
                (NAMES[2].into(), row(memory)),
            ],
            Tone::Ink,
        )],
    );
    parts.figure(
        "film",
        vec![Drawing::Film(Film { frames: (0..t.sigmas.len()).map(frame).collect() })],
    );
    parts.figure(
        "apart",
        vec![plot(
            "",
            Axis::log("sigma", "noise level σ (sampling runs to the right)")
                .over(t.sigmas[0], t.sigmas[t.sigmas.len() - 1]),
            Axis::linear("relative_distance", "relative distance"),
            vec![
                Series::new(
                    "from the Gaussian's",
                    along(&t.sigmas),
                    along(&t.distances[0]),
                    Mark::Line,
                    BLUE,
                ),
                Series::new(
                    "from the training digits'",
                    along(&t.sigmas),
                    along(&t.distances[1]),
                    Mark::Dashed,
                    VERMILION,
                ),
            ],
        )],
    );
    parts.checks("trajectories", t.evidence.clone());
    parts.value(
        "close_down_to",
        (t.sigmas[t.distances[0].iter().take_while(|d| **d <= CLOSE).count().max(1) - 1] * 10.0)
            .round()
            / 10.0,
    );
    parts.value("close", CLOSE);
}

fn receptive(n: &Numbers, parts: &mut Parts) {
    let r = &n.receptive;
    let [network, wiener] = &r.rows;
    let [y, x] = n.settings.receptive_pixel;
    parts.figure(
        "fields",
        vec![digits(
            "",
            "noise level σ",
            r.sigmas.iter().map(|s| plain(*s)).collect(),
            vec![("network".into(), images(network)), ("Wiener filter".into(), images(wiener))],
            Tone::Diverging,
        )],
    );
    parts.figure(
        "fields-alike",
        vec![
            plot(
                "Network and Wiener filter",
                Axis::log("sigma", "noise level σ"),
                Axis::linear("cosine", "cosine").over(0.0, 1.05),
                vec![Series::new("cosine", along(&r.sigmas), along(&r.cosine), Mark::Linked, BLUE)],
            ),
            plot(
                "From state to state",
                Axis::log("sigma", "noise level σ"),
                Axis::linear("spread", "relative change"),
                vec![Series::new(
                    "change",
                    along(&r.sigmas),
                    along(&r.spread),
                    Mark::Linked,
                    VERMILION,
                )],
            ),
        ],
    );
    parts.checks("receptive", r.evidence.clone());
    parts.value("pixel_row", y + 1);
    parts.value("pixel_column", x + 1);
    parts.value("states", r.states);
}
