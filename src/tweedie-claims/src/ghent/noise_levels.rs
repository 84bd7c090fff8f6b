//! Which noise levels training meets, and EDM's.

use crate::{Claim, Probe, Role, Trial};
use tweedie::diffusion::Path;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::math::noise::normal_quantile;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie_nn::train::settings::TimeSettings;
use tweedie_nn::train::times::{TimeLaw, Times};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/curriculum",
        slide: "Why is this Process Necessary?",
        statement: "Training is a curriculum: it starts easy, with small noise, and gradually increases the difficulty.",
        reading: "\"Start easy (small noise), gradually increase difficulty\" is read as the order of training; the slide DDPM Training draws t ~ Uniform{1, ..., T} in every step.",
        assumes: "The deck's own algorithm: in every step of training a time drawn from the uniform law, whatever steps came before.",
        printed: r"\mathbb{E}\, t \text{ rises with the step of training}",
        formula: r"t \sim \text{Uniform}\{1, \dots, T\} \text{ in every step}",
        finding: "No step of the deck's algorithm knows how many came before it: times of the first and of the last tenth of the training have one law, and one mean, half of T. Noise is ordered in \
                  sampling alone, and there it falls.",
        mutants: &["times sorted", "range that grows", "range that shrinks"],
        check: curriculum,
    },
    Claim {
        id: "ghent/edm-exponential-noise",
        slide: "Key Concepts & Innovations",
        statement: "EDM uses exponential noise.",
        reading: "The slide has four words. They are read both as the law of the noise levels in training and as the spacing of the levels in sampling, evenly in ln sigma.",
        assumes: "EDM as its authors print it: ln sigma normal with mean -1.2 and deviation 1.2 in training; 18 levels from 80 to 0.002 with rho = 7 in sampling.",
        printed: r"\sigma \sim \text{Exp}, \qquad \ln\sigma_i \text{ evenly spaced}",
        formula: r"\ln\sigma \sim \mathcal{N}(-1.2,\, 1.2^2), \qquad \sigma_i^{1/7} \text{ evenly spaced}",
        finding: "In training the levels are log-normal: the mean is 2.05 times the median, and 1.44 times for an exponential law. In sampling the seventh root is even: the first step divides sigma by 1.39, the \
                  last between two levels by 3.76, where even steps in ln sigma divide by 1.87 everywhere.",
        mutants: &["rho = 1", "levels in ln sigma", "deviation squared", "uniform in ln sigma"],
        check: exponential,
    },
];

fn curriculum(p: &mut Probe) {
    let (sorted, grows, shrinks) =
        (p.mutant("times sorted"), p.mutant("range that grows"), p.mutant("range that shrinks"));
    const STEPS: usize = 20_000;
    const TENTH: usize = STEPS / 10;
    let table = Table::new(Schedule::LINEAR, 1000, false).expect("Ho's schedule");
    let times =
        Times::new(&Path::Discrete(table), &TimeSettings::default()).expect("a table's rows");
    // Mean times, of T, of the first and of the last tenth of a training.
    let means = |t: &Trial| {
        let source = t.noise();
        let at = |k: usize| {
            let (u, seen) = (source.uniform(0, k as u64), (k as f64 + 1.0) / STEPS as f64);
            let u = match () {
                _ if grows => u * seen,
                _ if shrinks => u * (1.0 - seen),
                _ => u,
            };
            times.quantile(u).expect("in range")
        };
        let mut drawn: Vec<f64> = (0..STEPS).map(at).collect();
        if sorted {
            drawn.sort_by(f64::total_cmp);
        }
        let mean = |of: &[f64]| of.iter().sum::<f64>() / TENTH as f64;
        (mean(&drawn[..TENTH]), mean(&drawn[STEPS - TENTH..]))
    };
    // Of a mean of uniform numbers.
    let stderr = (12.0 * TENTH as f64).sqrt().recip();
    p.property(
        Role::Printed,
        "mean time of the last tenth of the training less that of the first, of T, against a ramp from no noise to all",
        4,
        "half of the ramp",
        |t| {
            let (first, last) = means(t);
            t.compare(last - first, 0.9, 0.45);
        },
    );
    p.property(Role::Corrected, "the same, against none", 4, "6 standard errors", |t| {
        let (first, last) = means(t);
        t.compare(last - first, 0.0, 6.0 * stderr * 2f64.sqrt());
    });
    p.property(
        Role::Corrected,
        "mean time of the first tenth, of T, against a half",
        4,
        "6 standard errors",
        |t| {
            t.compare(means(t).0, 0.5 + 0.5e-3, 6.0 * stderr);
        },
    );
}

fn exponential(p: &mut Probe) {
    let (one, even, squared, flat) = (
        p.mutant("rho = 1"),
        p.mutant("levels in ln sigma"),
        p.mutant("deviation squared"),
        p.mutant("uniform in ln sigma"),
    );
    let spacing = if even { Spacing::LogSnr } else { Spacing::Karras };
    let grid = Grid { rho: if one { 1.0 } else { 7.0 }, clean: false, ..Grid::new(spacing, 17) };
    let sigmas: Vec<f64> =
        grid.points(&Path::EDM).expect("EDM's range").iter().map(|p| p.sigma).collect();
    let ratios: Vec<f64> = sigmas.windows(2).map(|w| w[0] / w[1]).collect();
    let even = (80.0f64 / 0.002).powf(1.0 / 17.0);
    for (k, what) in [(0, "first"), (16, "last")] {
        let what = format!("sigma over the next one, {what} step: against even steps in ln sigma");
        p.number(Role::Printed, what, ratios[k], even, 0.05 * even, "five percent");
    }
    // sigma^(1/7) has even steps: the k-th is known from the ends alone.
    let root = |k: usize| {
        let (a, b) = (80f64.powf(1.0 / 7.0), 0.002f64.powf(1.0 / 7.0));
        a + (b - a) * k as f64 / 17.0
    };
    for (k, what) in [(0, "first"), (16, "last")] {
        let want = (root(k) / root(k + 1)).powi(7);
        let what =
            format!("sigma over the next one, {what} step: against even steps of the seventh root");
        p.number(Role::Corrected, what, ratios[k], want, 1e-12 * want, "powers");
    }

    let law = if flat {
        TimeLaw::LogSnr
    } else {
        TimeLaw::LogNormal { mean: -1.2, std: if squared { 1.44 } else { 1.2 } }
    };
    let settings = TimeSettings { law, range: Some((1e-5, 80.0)), ..TimeSettings::default() };
    let times = Times::new(&Path::EDM, &settings).expect("EDM's range");
    let level =
        |u: f64| Path::EDM.still_at(times.quantile(u).expect("in range")).expect("a level").sigma;
    const LEVELS: usize = 100_000;
    let mean =
        (0..LEVELS).map(|k| level((k as f64 + 0.5) / LEVELS as f64)).sum::<f64>() / LEVELS as f64;
    let over = mean / level(0.5);
    p.number(
        Role::Printed,
        "training: mean over median of sigma, against an exponential law",
        over,
        1.0 / 2f64.ln(),
        0.1,
        "a tenth",
    );
    p.number(
        Role::Corrected,
        "training: mean over median of sigma, against a log-normal law",
        over,
        (0.5 * 1.2f64 * 1.2).exp(),
        0.02,
        "the law is cut at sigma = 80, and summed at 100,000 of its quantiles",
    );
    p.property(
        Role::Corrected,
        "quantiles of sigma in training, against those of the log-normal law",
        32,
        "the cut at sigma = 80",
        |t| {
            let u = t.uniform(0.02, 0.98);
            let want = (-1.2 + 1.2 * normal_quantile(u)).exp();
            t.compare(level(u) / want, 1.0, 1e-3);
        },
    );
}
