//! The chapter on a trained U-Net, made from the numbers of [`crate::digits_unet::numbers`].

use crate::digits_unet::numbers::{Numbers, Settings, compute, recipe};
use serde_json::{Value, json};
use tweedie::error::Result;
use tweedie::number::Number;
use tweedie_nn::train::validation::Level;
use tweedie_report::chapter::{
    self, along, command, digits, f, figure, images, p, picture, plot, scaled, section, states,
    thousands,
};
use tweedie_report::drawing::{Axis, Drawing, Film, Mark, Picture, Pictures, Series, Tone, plain};
use tweedie_report::experiment::{Context, Text};
use tweedie_report::ledger::csv;
use tweedie_report::page::{Block, Chapter, File, Section, Table};
use tweedie_report::style::{BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, VERMILION};

/// Computes the experiment and describes it.
pub fn run(context: &Context) -> Result<Chapter> {
    Ok(chapter(&compute(context)?, command("digits-unet", context)))
}

/// Its settings, and the recipe of its training.
pub fn settings(text: Option<&Text>) -> Result<Value> {
    Ok(
        json!({ "experiment": chapter::settings::<Settings>(text)?, "recipe": chapter::as_json(&recipe()?)? }),
    )
}

fn chapter(n: &Numbers, command: String) -> Chapter {
    Chapter {
        name: "digits-unet".into(),
        title: "A trained network beside the exact answers".into(),
        lead: format!(
            "A U-Net of {:.1} million parameters is trained on the digits for {} steps, by the recipe of experiments/recipes/train-digits.toml, while this page is made. The digits' exact denoisers, the Wiener filter of \
             their covariance and the posterior mean under the training digits themselves, then say what it has learnt: at every noise level how far it is from either, which of them its trajectories follow, and \
             whether what it draws is new.",
            n.params as f64 * 1e-6,
            thousands(n.losses.len())
        ),
        command,
        sections: vec![samples(n), training(n), risk(n), trajectories(n), receptive(n)],
    }
}

/// Mean of a few numbers.
fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

fn samples(n: &Numbers) -> Section {
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
    section(
        "samples",
        "What it draws",
        vec![
            p(format!(
                "Samples by {} in {} evaluations, from the average of the weights over the last part of the run. The network was told the digit, one column each.",
                n.recipe.samples.sampler, n.recipe.samples.steps
            )),
            figure(
                "drawn",
                "Samples of the network, none picked: a column for each digit from 0 to 9.",
                "Rows of ten small images, handwritten digits from 0 to 9 in each.",
                vec![digits("", "", vec![], rows, Tone::Ink)],
            ),
            p(format!(
                "A sampler that is exact for the training digits can only return training digits. Has the network learnt them by heart? The nearest of them is at a root mean square distance of {:.3} in the mean; \
                 from a held-out digit, which nobody has copied, it is {:.3}.",
                mean(&s.distances),
                mean(&s.between_digits)
            )),
            figure(
                "nearest",
                "Samples, and below each the training digit nearest to it with its root mean square distance (pixels run from −1 to 1).",
                "Two rows of ten small images: each sample resembles the training digit below it, without being the same.",
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
            ),
            figure(
                "distances",
                "How many have a training digit within a distance: samples, and held-out digits.",
                "Two rising curves of shares against distance; a memory would have its curve at distance zero.",
                vec![plot(
                    "",
                    Axis::linear("distance", "distance to the nearest training digit"),
                    Axis::linear("share", "share within it").over(0.0, 1.0),
                    histogram,
                )],
            ),
            Block::Evidence(s.evidence.clone()),
        ],
    )
}

fn training(n: &Numbers) -> Section {
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
    section(
        "training",
        "Coarse before fine, in training too",
        vec![
            p(
                "A denoiser learns a direction at a rate that grows with its variance: the fine components come last. The untrained network says zero, and what is sampled from it is white noise of variance one; where a component has less \
                 than that, training has to take it away. Below, the variance of samples along each principal component while the network is trained, the digits' own as a dashed line.",
            ),
            figure(
                "learning",
                "Left: the loss, a mean over blocks of steps. Right: variance of the samples along components of the digits (discs), and the digits' own (dashed).",
                "Left: a loss that falls steeply and flattens. Right: curves that begin near one and reach their dashed lines one after the other, the lowest last.",
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
            ),
            figure(
                "half-learnt",
                "The step from which on the variance has come half of its way in logarithms, from one down to $\\lambda_k$, for the components with less than half.",
                "Points on logarithmic axes that fall from upper left to lower right: the smaller the deviation of a component, the later it is learnt.",
                vec![plot(
                    "",
                    Axis::log("std", "standard deviation √λₖ"),
                    Axis::log("step", "step"),
                    vec![Series::new("component", along(&std), along(&half), Mark::Points, BLUE)],
                )],
            ),
            Block::Evidence(l.evidence.clone()),
        ],
    )
}

fn risk(n: &Numbers) -> Section {
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
    section(
        "risk",
        "Between memory and the Wiener filter",
        vec![
            p(
                "On noised training digits nothing has a smaller loss than the posterior mean $D^\\star$ under those very digits, and what a network loses above it is its squared distance from it, to the last digit:",
            ),
            f(
                "\\mathbb E\\,\\lVert x_0 - D \\rVert^2 = \\underbrace{\\mathbb E\\,\\lVert x_0 - D^\\star \\rVert^2}_{\\text{least loss}} + \\mathbb E\\,\\lVert D - D^\\star \\rVert^2",
            ),
            p(
                "(The identity holds in the mean over noise; the table shows one draw.) A network that reached the least loss would have learnt the digits by heart, and its sampler would return them. At high noise all three agree: there the data are as good as Gaussian, and a network has nothing to learn \
                 beyond mean and covariance. At low noise the memory's loss on training digits goes to zero, and on held-out digits it is the worst of all. The network stays between: it beats the linear filter on both, and on \
                 digits that it has not seen it beats the memory.",
            ),
            figure(
                "loss-by-level",
                "Loss of x₀ by noise level, on training digits and on held-out ones, all three on the same draws.",
                "Two plots on logarithmic axes. Right of sigma 5 the three curves coincide. To the left, on training digits the memory falls off towards zero, on held-out digits it stays highest, and the network lies below the Wiener filter on both.",
                vec![losses("Training digits", train), losses("Held-out digits", held_out)],
            ),
            figure(
                "over-wiener",
                "The network's loss over the Wiener filter's: 1 is all that a linear denoiser can do.",
                "Two curves that are 1 at high noise, fall to about 0.6 between sigma 1 and 0.2, and rise again a little at low noise.",
                vec![plot(
                    "",
                    sigma(),
                    Axis::linear("ratio", "loss over Wiener's"),
                    vec![
                        over_wiener(train, "training digits", Mark::Line, BLUE),
                        over_wiener(held_out, "held-out digits", Mark::Linked, VERMILION),
                        Series::new("_1", [n.settings.sigma_range[0], n.settings.sigma_range[1]], [1.0, 1.0], Mark::Dashed, MUTED),
                    ],
                )],
            ),
            Block::Table(Table {
                caption: "Losses of x₀, a pixel, and the network's squared distance from the exact denoiser.".into(),
                head: ["σ", "network, training", "least", "Wiener", "distance²", "network, held out", "memory", "Wiener"]
                    .map(String::from)
                    .to_vec(),
                rows: rows.collect(),
            }),
            Block::Files(vec![File {
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
            }]),
            Block::Evidence(n.evidence.clone()),
        ],
    )
}

fn trajectories(n: &Numbers) -> Section {
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
    section(
        "trajectories",
        "Where the noise leads it",
        vec![
            p(format!(
                "From the same noise, the network's probability-flow trajectory, the closed form of the Gaussian law, and that of the training digits. Down to $\\sigma = {}$ the closed form is within {} of the \
                 network's states: so far the way is drawn by mean and covariance. Below, the network takes its own way.",
                plain(
                    (t.sigmas
                        [t.distances[0].iter().take_while(|d| **d <= CLOSE).count().max(1) - 1]
                        * 10.0)
                        .round()
                        / 10.0
                ),
                chapter::percent(CLOSE)
            )),
            figure(
                "strips",
                "One draw of noise taken to data three ways. States are divided by $\\sqrt{1 + \\sigma^2}$ for display.",
                "Three rows of ten small images over falling noise, alike for the first four; then the Gaussian's stays a blur, while the network's and the memory's become digits.",
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
            ),
            figure(
                "film",
                "Ten draws of noise taken to data three ways, level by level. (The film holds under the pointer.)",
                "A film of three rows of ten small images that begin as the same noise. The network's and the training digits' become digits, the Gaussian's blurred shapes.",
                vec![Drawing::Film(Film { frames: (0..t.sigmas.len()).map(frame).collect() })],
            ),
            figure(
                "apart",
                "Root mean square distance of the network's states from the other two, relative to their distance from the mean digit.",
                "Two curves against falling noise: both near zero down to sigma 4, then rising; the distance from the Gaussian levels off below that from the training digits.",
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
            ),
            Block::Evidence(t.evidence.clone()),
        ],
    )
}

fn receptive(n: &Numbers) -> Section {
    let r = &n.receptive;
    let [network, wiener] = &r.rows;
    let [y, x] = n.settings.receptive_pixel;
    section(
        "receptive",
        "Which pixels it looks at",
        vec![
            p(format!(
                "The derivative of one pixel of $D(x)$ by every pixel of $x$, here of row {}, column {}, counted from 1. For the Wiener filter it is the same for every state; the network's is the mean over {} noised digits, each by one \
                 backward pass. At low noise both read the pixel itself; at high noise both gather what the covariance says about it.",
                y + 1,
                x + 1,
                r.states
            )),
            figure(
                "fields",
                "Rows of the Jacobian by noise level: blue negative, red positive, each picture on its own scale.",
                "Two rows of five pictures that resemble each other: a single red pixel at low noise, spreading over its neighbours and then over strokes of the digit as noise rises.",
                vec![digits(
                    "",
                    "noise level σ",
                    r.sigmas.iter().map(|s| plain(*s)).collect(),
                    vec![
                        ("network".into(), images(network)),
                        ("Wiener filter".into(), images(wiener)),
                    ],
                    Tone::Diverging,
                )],
            ),
            figure(
                "fields-alike",
                "Left: cosine of the angle between the two rows. Right: how much the network's row changes from state to state, over its mean: a linear denoiser's does not.",
                "Left: close to 1. Right: large where the network is not linear, small at the lowest and highest noise.",
                vec![
                    plot(
                        "Network and Wiener filter",
                        Axis::log("sigma", "noise level σ"),
                        Axis::linear("cosine", "cosine").over(0.0, 1.05),
                        vec![Series::new(
                            "cosine",
                            along(&r.sigmas),
                            along(&r.cosine),
                            Mark::Linked,
                            BLUE,
                        )],
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
            ),
            Block::Evidence(r.evidence.clone()),
        ],
    )
}
