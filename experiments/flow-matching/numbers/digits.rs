//! Digits from few Euler steps, and where on the way these steps are spent.

use super::plane::even;
use super::{DigitsSettings, Effort, Gap};
use ndarray::{Array1, Array2, Axis, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;
use tweedie::exact::pf_ode::pf_ode_solve;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing, shifted};
use tweedie::sample::noise_source::{Silence, standard_start};
use tweedie::sample::propagate::{Response, Start, modes};
use tweedie::sample::registry::{Named, Options, sampler};
use tweedie::sample::{Sampler, flow::FmEuler, sample};
use tweedie_report::experiment::farthest;

/// A method on a grid.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Curve {
    /// What it is.
    pub name: String,
    /// Steps.
    pub steps: Vec<f64>,
    /// W2 of the produced law to the data, over the data's deviation.
    pub w2: Vec<f64>,
    /// Log-SNR of the points of a grid with few steps, pure noise and data left out.
    pub log_snr: Vec<f64>,
}

/// The numbers of the digits.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Digits {
    /// Steps, and the first ten samples of Euler's method, shape (10, 64).
    pub euler: Vec<(usize, Array2<f64>)>,
    /// The ends of the exact flow from the same noise, shape (10, 64).
    pub exact: Array2<f64>,
    /// Distances of Euler's samples from the exact ones.
    pub gaps: Vec<Gap>,
    /// Euler's method on several grids and a second-order method, on the digits' Gaussian.
    pub curves: Vec<Curve>,
    /// Log-SNR at which half of the digits' variance has been decided: where `sigma / alpha` is the
    /// root of a component's variance, weighed by variance, the quantiles 0.1, 0.5 and 0.9.
    pub decided: [f64; 3],
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// A row of the comparison: its name, the sampler, and the grid of so many steps.
type Way<'a> =
    (&'static str, &'static str, Box<dyn Fn(usize) -> Result<Vec<PathPoint>> + Sync + 'a>);

impl Digits {
    pub(super) fn new(s: &DigitsSettings, effort: Effort, noise: &Noise) -> Result<Self> {
        let data = tweedie_nn::data::load("digits")?;
        let labels = data.labels.ok_or_else(|| {
            Error::domain("digits", "no labels", "a label an image", "report this")
        })?;
        let rows = |c: u32| (0..labels.len()).filter(|i| labels[*i] == c).collect::<Vec<_>>();
        let classes =
            (0..10).map(|c| Gaussian::from_data(data.images.select(Axis(0), &rows(c)).view()));
        let mixture = Mixture::new(
            Array1::from_shape_fn(10, |c| rows(c as u32).len() as f64),
            classes.collect::<Result<Vec<_>>>()?,
        )?;
        let z = standard_start(noise, effort.digit_draws, 64);
        let exact =
            pf_ode_solve(&mixture, z.view(), &[even(1)?[0], PathPoint::CLEAN])?.swap_remove(1);
        let run = |n: usize| -> Result<(Array2<f64>, Gap)> {
            let x = sample(&FmEuler, &mixture, &even(n)?, z.clone(), &mut Silence)?.x;
            let gap = Gap::new(n, &mixture, &x, &exact);
            Ok((x, gap))
        };
        let ten = |x: &Array2<f64>| x.slice(s![..10, ..]).to_owned();
        let runs = s.euler.par_iter().map(|n| run(*n)).collect::<Result<Vec<_>>>()?;

        let gaussian = modes(&Gaussian::from_data(data.images.view())?)?;
        let ways = ways(s);
        let curves =
            ways.par_iter().map(|way| curve(&gaussian, s, way)).collect::<Result<Vec<_>>>()?;
        let evidence = evidence(&gaussian, s, &curves, &runs, &mixture)?;
        Ok(Self {
            euler: runs.iter().map(|(x, gap)| (gap.steps, ten(x))).collect(),
            exact: ten(&exact),
            gaps: runs.iter().map(|r| r.1).collect(),
            curves,
            decided: decided(&gaussian),
            evidence,
        })
    }
}

fn ways(s: &DigitsSettings) -> Vec<Way<'_>> {
    let [s_min, s_max] = s.range;
    let spaced = move |spacing: Spacing| {
        move |n: usize| Grid { s_min, s_max, ..Grid::new(spacing, n) }.points(&Path::FlowMatching)
    };
    vec![
        ("even in t", "fm-euler", Box::new(even)),
        (
            "shifted",
            "fm-euler",
            Box::new(move |n| {
                (0..=n)
                    .map(|k| Path::FlowMatching.at(shifted(1.0 - k as f64 / n as f64, s.shift)))
                    .collect()
            }),
        ),
        (
            "cosine, even in t",
            "ddim",
            Box::new(|n| {
                (0..=n).map(|k| Path::Cosine.still_at(1.0 - k as f64 / n as f64)).collect()
            }),
        ),
        ("Karras", "fm-euler", Box::new(spaced(Spacing::Karras))),
        ("even in log-SNR", "fm-euler", Box::new(spaced(Spacing::LogSnr))),
        ("2nd order, log-SNR", "dpmpp-2m", Box::new(spaced(Spacing::LogSnr))),
    ]
}

fn w2(law: &Gaussian, method: &'static str, grid: &[PathPoint]) -> Result<f64> {
    let variances = law.cov().diag().to_owned();
    let total = variances.sum();
    let response =
        Response::of_method(&Named { name: method, options: Options::DEFAULT }, grid, variances)?;
    Ok(response.w2(&law.mean().to_owned(), Start::Normal(grid[0].sigma)) / total.sqrt())
}

fn curve(law: &Gaussian, s: &DigitsSettings, (name, method, grid): &Way) -> Result<Curve> {
    let w2 = s.steps.iter().map(|n| w2(law, method, &grid(*n)?)).collect::<Result<Vec<_>>>()?;
    let inner = grid(s.shown)?
        .into_iter()
        .filter(|p| p.alpha > 0.0 && p.sigma > 0.0)
        .map(|p| p.log_snr())
        .collect();
    Ok(Curve {
        name: name.to_string(),
        steps: s.steps.iter().map(|n| *n as f64).collect(),
        w2,
        log_snr: inner,
    })
}

/// Quantiles of `ln(1 / lambda)` over the variance.
fn decided(law: &Gaussian) -> [f64; 3] {
    let mut lambdas: Vec<f64> = law.variances().iter().copied().filter(|l| *l > 0.0).collect();
    lambdas.sort_by(|a, b| b.total_cmp(a));
    let total: f64 = lambdas.iter().sum();
    [0.1, 0.5, 0.9].map(|share| {
        let mut sum = 0.0;
        let at = lambdas.iter().find(|l| {
            sum += **l;
            sum >= share * total
        });
        at.map_or(f64::NAN, |l| -l.ln())
    })
}

fn evidence(
    gaussian: &Gaussian,
    s: &DigitsSettings,
    curves: &[Curve],
    runs: &[(Array2<f64>, Gap)],
    mixture: &Mixture,
) -> Result<Vec<Evidence>> {
    let grid = even(8)?;
    let ddim = w2(gaussian, "ddim", &grid)?;
    let euler = w2(gaussian, "fm-euler", &grid)?;
    let mut evidence = vec![
        Evidence::new(
            "8 steps even in t: W₂ of Euler over that of DDIM on the same grid",
            euler / ddim,
            1.0,
            1e-10,
        )
        .because("the same step, rounded otherwise"),
    ];
    if let Some((one, _)) = runs.iter().find(|r| r.1.steps == 1) {
        let gap = (one - &mixture.mean()).iter().map(|v| v.abs()).fold(0.0, larger);
        evidence.push(
            Evidence::new(
                "one Euler step from any noise gives the mean digit: largest gap",
                gap,
                0.0,
                1e-12,
            )
            .because("rounding"),
        );
        let what = "a single step has no variance: its W₂ over the data's deviation";
        evidence.push(
            Evidence::new(what, w2(gaussian, "fm-euler", &even(1)?)?, 1.0, 1e-12)
                .because("rounding"),
        );
    }
    let shrinks = farthest(runs.windows(2).map(|p| p[1].1.median / p[0].1.median));
    evidence.push(
        Evidence::at_most(
            "Euler's median distance from the exact samples, over that of the next fewer steps drawn, the most",
            shrinks,
            1.0,
            0.0,
        )
        .because("a method that converges"),
    );
    let at = |name: &str, n: usize| {
        let curve = curves.iter().find(|c| c.name == name)?;
        Some(curve.w2[s.steps.iter().position(|k| *k == n)?])
    };
    if let (Some(a), Some(b)) = (at("even in t", 128), at("even in t", 64)) {
        evidence.push(
            Evidence::new("even in t: W₂ of 128 steps over that of 64", a / b, 0.5, 0.1)
                .because("first order, not yet quite in its limit"),
        );
    }
    if let (Some(first), Some(second)) = (at("even in log-SNR", 16), at("2nd order, log-SNR", 16)) {
        evidence.push(
            Evidence::at_most(
                "16 steps: W₂ of a method of second order over Euler's on the same grid",
                second / first,
                1.0,
                0.0,
            )
            .because("Euler's own is the bound"),
        );
    }
    // The response of a sampler, which the curves are read from, against running it on draws.
    let start = standard_start(&Noise::new(0), 2000, gaussian.dim());
    let method: Box<dyn Sampler> = sampler("fm-euler", &Options::DEFAULT)?;
    let x = sample(&*method, gaussian, &even(4)?, start, &mut Silence)?.x;
    let response = Response::of_method(
        &Named { name: "fm-euler", options: Options::DEFAULT },
        &even(4)?,
        gaussian.cov().diag().to_owned(),
    )?;
    let want: f64 = response
        .errors(&gaussian.mean().to_owned(), Start::Normal(1.0))
        .iter()
        .map(|m| m.var)
        .sum();
    let mean = x.mean_axis(Axis(0)).unwrap_or_default();
    let each: Vec<f64> = (&x - &mean).rows().into_iter().map(|r| r.dot(&r)).collect();
    let n = each.len() as f64;
    let got = each.iter().sum::<f64>() / (n - 1.0);
    let error = (each.iter().map(|v| (v - got).powi(2)).sum::<f64>() / n / n).sqrt();
    evidence.push(
        Evidence::new(
            "variance after 4 Euler steps: 2000 draws against the sampler's response",
            got,
            want,
            4.0 * error,
        )
        .because("4 standard errors"),
    );
    Ok(evidence)
}
