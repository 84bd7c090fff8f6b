//! Gaussian data and Gaussian classes in one direction: both laws in closed form, and a sampler
//! beside them.

use super::{Effort, LineSettings};
use ndarray::{Array2, ArrayView2, ArrayViewMut2, array};
use serde::{Deserialize, Serialize};
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;
use tweedie::exact::distance::w2_squared;
use tweedie::exact::guidance::{guided_law, tilted_law};
use tweedie::law::Gaussian;
use tweedie::law::conditional::{ClassifierGuided, Guided};
use tweedie::math::larger;
use tweedie::math::moments::{Normalisation, mean_and_cov};
use tweedie::math::noise::Noise;
use tweedie::math::quadrature::IntervalRule;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::{Silence, standard_start};
use tweedie::sample::runge_kutta::Rk4;
use tweedie::sample::sample;

/// Mean and deviation against the scale.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Curve {
    /// Scales.
    pub scales: Vec<f64>,
    /// Means.
    pub means: Vec<f64>,
    /// Standard deviations; NaN where the law does not exist.
    pub stds: Vec<f64>,
}

impl Curve {
    fn push(&mut self, scale: f64, (mean, std): (f64, f64)) {
        self.scales.push(scale);
        self.means.push(mean);
        self.stds.push(std);
    }

    /// (mean, deviation) at a scale that is one of its own.
    pub fn at(&self, scale: f64) -> Option<(f64, f64)> {
        let k = self.scales.iter().position(|w| (w - scale).abs() < 1e-9)?;
        Some((self.means[k], self.stds[k]))
    }
}

/// The numbers of one direction.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Line {
    /// Narrow class: tilted law, produced law, sampler's draws.
    pub narrow: [Curve; 3],
    /// Wide class: the same.
    pub wide: [Curve; 3],
    /// Scale from which on the tilted law of the wide class does not exist.
    pub improper_from: f64,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

fn one(mean: f64, var: f64) -> Result<Gaussian> {
    Gaussian::diagonal(array![mean], array![var])
}

fn moments(law: &Gaussian) -> (f64, f64) {
    (law.mean()[0], law.variances()[0].sqrt())
}

impl Line {
    pub(super) fn new(s: &LineSettings, effort: Effort, noise: &Noise) -> Result<Self> {
        let data = one(0.0, 1.0)?;
        let mut evidence = Vec::new();
        let curves = |var: f64, evidence: &mut Vec<Evidence>| -> Result<[Curve; 3]> {
            let class = one(s.mean, var)?;
            let steps = (s.largest / 0.125).round() as usize;
            let (mut tilted, mut produced, mut sampled) =
                (Curve::default(), Curve::default(), Curve::default());
            for k in 0..=steps {
                let w = s.largest * k as f64 / steps as f64;
                let law = tilted_law(&data, &class, w, PathPoint::CLEAN);
                tilted.push(w, law.as_ref().map_or((f64::NAN, f64::NAN), moments));
                produced.push(w, moments(&produced_law(&data, &class, w)?));
            }
            let start = standard_start(noise, effort.draws, 1) * s.range[1];
            for &w in &s.sampled {
                let draws = draw(&Guided::new(&class, &data, w)?, s, start.clone())?;
                let (mean, cov) = mean_and_cov(draws.view(), Normalisation::Points)?;
                let got = (mean[0], cov[[0, 0]].sqrt());
                let want = moments(&guided_law(
                    &data,
                    &class,
                    w,
                    &one(0.0, s.range[1].powi(2))?,
                    still(s.range[1]),
                    still(s.range[0]),
                )?);
                let root = (effort.draws as f64).sqrt();
                // Four standard errors of a mean, and of a deviation, of a normal law.
                let what = |of| {
                    format!(
                        "class variance {var}, w = {w}: {of} of the sampler's draws against the closed form"
                    )
                };
                let tol = 4.0 * want.1 / root;
                evidence.push(
                    Evidence::new(what("mean"), got.0, want.0, tol).because("4 standard errors"),
                );
                let tol = 4.0 * want.1 / (2.0f64.sqrt() * root);
                evidence.push(
                    Evidence::new(what("deviation"), got.1, want.1, tol)
                        .because("4 standard errors"),
                );
                sampled.push(w, got);
            }
            Ok([tilted, produced, sampled])
        };
        let mut draws = Vec::new();
        let (narrow, wide) = (curves(s.narrow, &mut draws)?, curves(s.wide, &mut draws)?);
        let improper_from = s.wide / (s.wide - 1.0);
        let class = one(s.mean, s.narrow)?;
        evidence.push(identity(&data, &class, noise)?);
        let (mean, var) = tilted_by_quadrature(s.mean, s.narrow)?;
        let tilted = tilted_law(&data, &class, 3.0, PathPoint::CLEAN)?;
        let why = "400 panels of 20 nodes leave rounding only";
        evidence.push(
            Evidence::new("mean of p(x) p(c|x)³ by quadrature", mean, tilted.mean()[0], 1e-10)
                .because(why),
        );
        evidence.push(
            Evidence::new("its variance by quadrature", var, tilted.variances()[0], 1e-10)
                .because(why),
        );
        for w in [0.0, 1.0] {
            let gap = w2_squared(
                &produced_law(&data, &class, w)?,
                &tilted_law(&data, &class, w, PathPoint::CLEAN)?,
            )?
            .sqrt();
            let why = "the start holds 1e-9 of the signal";
            evidence.push(
                Evidence::new(format!("w = {w}: W₂ of produced and tilted law"), gap, 0.0, 1e-8)
                    .because(why),
            );
        }
        for (name, var) in [("narrow", s.narrow), ("wide", s.wide)] {
            let got = produced_law(&data, &one(s.mean, var)?, 3.0)?.variances()[0];
            let what = format!("{name} class, w = 3: produced variance / (u⁻² c³)");
            evidence.push(
                Evidence::new(what, got / var.powi(3), 1.0, 1e-8)
                    .because("the start holds 1e-9 of the signal"),
            );
        }
        let law = one(s.mean, s.wide)?;
        let (mut there, mut gone) = (1.0, 2.0 * improper_from);
        for _ in 0..60 {
            let middle = 0.5 * (there + gone);
            *(if tilted_law(&data, &law, middle, PathPoint::CLEAN).is_ok() {
                &mut there
            } else {
                &mut gone
            }) = middle;
        }
        evidence.push(
            Evidence::new(
                "wide class: largest scale at which the tilted law exists, by halving",
                there,
                improper_from,
                1e-12,
            )
            .because("there its precision, (1 − w)/u + w/c, falls through 0; rounding"),
        );
        evidence.push(worst(draws));
        Ok(Self { narrow, wide, improper_from, evidence })
    }
}

fn still(sigma: f64) -> PathPoint {
    PathPoint::still(1.0, sigma)
}

/// The law that guided sampling makes of pure noise.
fn produced_law(data: &Gaussian, class: &Gaussian, w: f64) -> Result<Gaussian> {
    guided_law(data, class, w, &one(0.0, 1.0)?, PathPoint::still(1e-9, 1.0), PathPoint::CLEAN)
}

fn draw(model: &dyn Denoiser, s: &LineSettings, start: Array2<f64>) -> Result<Array2<f64>> {
    let [s_min, s_max] = s.range;
    let grid = Grid { s_min, s_max, clean: false, ..Grid::new(Spacing::LogSnr, s.steps) }
        .points(&Path::Edm { sigma_max: s_max })?;
    Ok(sample(&Rk4, model, &grid, start, &mut Silence)?.x)
}

/// The evidence whose number is farthest from what it should be, in units of its tolerance.
fn worst(all: Vec<Evidence>) -> Evidence {
    let far =
        |e: &Evidence| if e.got.is_nan() { f64::INFINITY } else { (e.got - e.want).abs() / e.tol };
    let cases = all.len();
    let worst = all.into_iter().max_by(|a, b| far(a).total_cmp(&far(b)));
    let mut worst = worst.unwrap_or_else(|| Evidence::new("no draws", f64::NAN, 0.0, 0.0));
    worst.what = format!("farthest of {cases}: {}", worst.what);
    worst
}

/// Classifier guidance with the classifier written out by Bayes' rule, against classifier-free
/// guidance.
fn identity(data: &Gaussian, class: &Gaussian, noise: &Noise) -> Result<Evidence> {
    let gradient = |x: ArrayView2<f64>, at: &PathPoint, mut out: ArrayViewMut2<f64>| {
        // d/dx of ln p(x | c) - ln p(x), by central differences of the two log densities.
        let h = 1e-5;
        let log_ratio = |x: f64| {
            class.log_density_of(&[x], at.alpha, at.sigma)
                - data.log_density_of(&[x], at.alpha, at.sigma)
        };
        out.zip_mut_with(&x, |out, x| *out = (log_ratio(x + h) - log_ratio(x - h)) / (2.0 * h));
        Ok(())
    };
    let (w, x) = (3.0, standard_start(noise, 64, 1) * 2.0);
    let (free, classifier) =
        (Guided::new(class, data, w)?, ClassifierGuided::new(data, gradient, w)?);
    let gap = |sigma: f64| {
        let gap = free.denoised(x.view(), &still(sigma))?
            - classifier.denoised(x.view(), &still(sigma))?;
        Ok(gap.iter().map(|v| v.abs()).fold(0.0, larger))
    };
    let gaps = [0.2, 1.0, 4.0].into_iter().map(gap).collect::<Result<Vec<f64>>>()?;
    let what = "guided denoiser, classifier-free against the classifier's gradient by differences, largest gap";
    let why = "differences of numbers of size 100 over 1e-5, times w σ²";
    Ok(Evidence::new(what, gaps.into_iter().fold(0.0, larger), 0.0, 1e-6).because(why))
}

/// Mean and variance of `p(x) p(c | x)^3` on a line, `p(c | x)` proportional to `p(x | c) / p(x)`.
fn tilted_by_quadrature(mean: f64, var: f64) -> Result<(f64, f64)> {
    let rule = IntervalRule::new(20)?;
    let density = |x: f64| {
        let (class, data) = ((-(x - mean).powi(2) / (2.0 * var)).exp(), (-x * x / 2.0).exp());
        data * (class / data).powi(3)
    };
    let moment =
        |f: &dyn Fn(f64) -> f64| rule.composite(mean - 8.0, mean + 8.0, 400, |x| f(x) * density(x));
    let total = moment(&|_| 1.0);
    if !(total > 0.0) {
        return Err(Error::domain("mass of a tilted law", total, "> 0", "report this"));
    }
    let centre = moment(&|x| x) / total;
    Ok((centre, moment(&|x| (x - centre).powi(2)) / total))
}
