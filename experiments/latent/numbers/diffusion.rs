//! Diffusion in a latent of k principal components: the exact law of what comes out, split into
//! what each part loses.

use super::{Effort, Settings};
use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2, Axis, s};
use serde::{Deserialize, Serialize};
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::pf_ode::pf_ode_solve;
use tweedie::law::Gaussian;
use tweedie::law::empirical::Empirical;
use tweedie::math::gaussian::{Covariance, Normal};
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::Silence;
use tweedie::sample::propagate::{ModeError, Response, Start};
use tweedie::sample::registry::{Named, Options, sampler};
use tweedie::sample::sample;
use tweedie_report::experiment::{farthest, level, mean_and_stderr};

/// Squared W2 over the total variance, by size of the latent k = 1..=d.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Split {
    /// Name of the data.
    pub name: String,
    /// What compression loses.
    pub compression: Vec<f64>,
    /// For each number of steps: what the sampler loses on the k components that are kept.
    pub sampler: Vec<(usize, Vec<f64>)>,
    /// For each budget.
    pub budgets: Vec<Budget>,
}

/// What an equal number of operations buys in latents of different sizes.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Budget {
    /// Operations, in steps of the dense linear denoiser of all pixels.
    pub steps_in_pixels: usize,
    /// Size of the latent, steps that it can pay, and W2 over the total deviation.
    pub rows: Vec<(usize, usize, f64)>,
}

impl Budget {
    /// The size that comes nearest to the data.
    pub fn best(&self) -> (usize, usize, f64) {
        self.rows.iter().copied().min_by(|a, b| a.2.total_cmp(&b.2)).unwrap_or((0, 0, f64::NAN))
    }

    /// All pixels, without a latent.
    pub fn pixels(&self) -> (usize, usize, f64) {
        self.rows.last().copied().unwrap_or((0, 0, f64::NAN))
    }
}

/// Diffusion in latents of digits and of patches.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Diffusion {
    /// Digits, patches of photographs.
    pub on: [Split; 2],
    /// Ends of the same noise under the empirical law in the settings' latents, decoded; each
    /// (pictures, 64).
    pub ends: Vec<Array2<f64>>,
    /// Draws followed.
    pub draws: usize,
    /// For each latent: share of the draws that end at the same digit as in the largest.
    pub same: Vec<f64>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Split {
    /// W2 over the total deviation with a latent of size k and the i-th number of steps.
    pub fn w2(&self, i: usize, k: usize) -> f64 {
        (self.compression[k - 1] + self.sampler[i].1[k - 1]).sqrt()
    }

    fn new(name: &'static str, law: &Gaussian, settings: &Settings) -> Result<Self> {
        let (d, total) = (law.dim(), law.variances().sum());
        let squares = |modes: &[ModeError]| {
            let mut sum = 0.0;
            modes
                .iter()
                .map(|m| {
                    sum += m.w2_squared();
                    sum / total
                })
                .collect::<Vec<f64>>()
        };
        let mut left = total;
        let compression = law
            .variances()
            .iter()
            .map(|l| {
                left = (left - l).max(0.0);
                left / total
            })
            .collect::<Vec<f64>>();
        let sampler = settings
            .steps
            .iter()
            .map(|&n| Ok((n, squares(&produced(law, settings, n)?))))
            .collect::<Result<Vec<_>>>()?;
        // A step of a dense denoiser of k numbers costs k^2 products, and the decoder, once, d k.
        let mut by_steps: HashMap<usize, Vec<f64>> = HashMap::new();
        let mut budgets = Vec::new();
        for &budget in &settings.budgets {
            let mut rows = Vec::new();
            for k in 1..=d {
                let products = budget * d * d - if k < d { d * k } else { 0 };
                let steps = (products / (k * k)).min(settings.most_steps);
                if steps < 2 {
                    continue;
                }
                let sampled = match by_steps.entry(steps) {
                    Entry::Occupied(known) => known.into_mut(),
                    Entry::Vacant(empty) => empty.insert(squares(&produced(law, settings, steps)?)),
                };
                rows.push((k, steps, (compression[k - 1] + sampled[k - 1]).sqrt()));
            }
            budgets.push(Budget { steps_in_pixels: budget, rows });
        }
        Ok(Self { name: name.into(), compression, sampler, budgets })
    }
}

fn grid(settings: &Settings, steps: usize) -> Result<Vec<PathPoint>> {
    let [s_min, s_max] = settings.sigma_range;
    Grid { s_min, s_max, ..Grid::new(Spacing::LogSnr, steps) }
        .points(&Path::Edm { sigma_max: s_max })
}

/// What the sampler makes of every component, started from noise alone; data about their mean.
fn produced(law: &Gaussian, settings: &Settings, steps: usize) -> Result<Vec<ModeError>> {
    let method = Named { name: &settings.sampler, options: Options::DEFAULT };
    let response =
        Response::of_method(&method, &grid(settings, steps)?, law.variances().to_owned())?;
    Ok(response.errors(&Array1::zeros(law.rank()), Start::Normal(settings.sigma_range[1])))
}

impl Diffusion {
    pub(super) fn new(
        settings: &Settings,
        digits_law: &Gaussian,
        digits: &Array2<f64>,
        patches: &Gaussian,
        effort: Effort,
        noise: &Noise,
    ) -> Result<Self> {
        let on = [
            Split::new("digits", digits_law, settings)?,
            Split::new("patches", patches, settings)?,
        ];

        // The same noise in every latent.
        let start = level(settings.sigma_range[1]);
        let eps = noise.normals(0, (effort.draws, digits_law.dim()));
        let (mut ends, mut places) = (Vec::new(), Vec::new());
        for &k in &settings.followed_sizes {
            let modes = digits_law.modes().slice(s![.., ..k]).to_owned();
            let law = Empirical::new((digits - &digits_law.mean()).dot(&modes))?;
            let x = eps.dot(&modes) * start.sigma;
            let end = pf_ode_solve(&law, x.view(), &[start, level(0.0)])?.swap_remove(1);
            places.push(law.nearest(end.view(), 1.0));
            ends.push(end.slice(s![..settings.pictures, ..]).dot(&modes.t()) + digits_law.mean());
        }
        let reference = &places[places.len() - 1];
        let same: Vec<f64> = places
            .iter()
            .map(|p| {
                p.iter().zip(reference).filter(|(a, b)| a == b).count() as f64
                    / reference.len() as f64
            })
            .collect();

        let (steps, k) = (settings.steps[0], settings.digit_sizes[settings.digit_sizes.len() / 2]);
        let i = 0;
        let modes = produced(digits_law, settings, steps)?;
        let dense = dense_w2(digits_law, &modes, k)?;
        let [sampled, stderr] = sampled_variance(settings, digits_law, steps, k, effort, noise)?;
        let exact: f64 = modes[..k].iter().map(|m| m.var).sum();
        let small = &on[1].budgets[0];
        // All components, at the two largest numbers of steps.
        let [few, many] = [2, 1].map(|back| &on[0].sampler[settings.steps.len() - back]);
        let loss = |of: &(usize, Vec<f64>)| of.1[digits_law.rank() - 1].sqrt();
        let order = (loss(few) / loss(many)).ln() / (many.0 as f64 / few.0 as f64).ln();
        let evidence = vec![
            Evidence::new(
                format!("W2 of digits from a latent of {k} in {steps} steps: dense covariances / the split"),
                dense / (on[0].w2(i, k) * digits_law.variances().sum().sqrt()),
                1.0,
                1e-6,
            )
            .because("roots of singular 64 x 64 matrices lose half of the digits"),
            Evidence::new(
                format!("variance of {} decoded samples less the exact, in standard errors", effort.samples),
                (sampled - exact) / stderr,
                0.0,
                5.0,
            )
            .because("five standard errors"),
            Evidence::new(
                "variances of the components: response of the sampler / its run on one start for each, largest gap over the largest",
                ran(settings, digits_law, steps, &modes)?,
                0.0,
                1e-12,
            )
            .because("the sampler is linear: squares of what it makes of a unit start"),
            Evidence::at_least(
                format!("all components: order by which the sampler's W2 falls from {} to {} steps", few.0, many.0),
                order,
                f64::from(sampler(&settings.sampler, &Options::DEFAULT)?.order().unwrap_or(1)),
                0.25,
            )
            .because("the order that the method declares, less what the next term of the expansion may take"),
            Evidence::at_most(
                "smallest budget on patches: W2 of the best latent / of all pixels",
                small.best().2 / small.pixels().2,
                1.0,
                0.0,
            )
            .because("without a latent the same number of operations makes what is the bound"),
        ];
        Ok(Self { on, ends, draws: effort.draws, same, evidence })
    }
}

/// Variances by running the sampler on starts along one component each, against those of its
/// response.
fn ran(settings: &Settings, law: &Gaussian, steps: usize, modes: &[ModeError]) -> Result<f64> {
    let latent = Gaussian::diagonal(Array1::zeros(law.rank()), law.variances().to_owned())?;
    let start = Array2::from_diag_elem(law.rank(), settings.sigma_range[1]);
    let method = sampler(&settings.sampler, &Options::DEFAULT)?;
    let end = sample(method.as_ref(), &latent, &grid(settings, steps)?, start, &mut Silence)?.x;
    let gaps = modes.iter().enumerate().map(|(k, m)| end[[k, k]].powi(2) - m.var);
    Ok(farthest(gaps) / modes[0].var)
}

/// W2 of the decoded law to the data by dense covariances.
fn dense_w2(law: &Gaussian, modes: &[ModeError], k: usize) -> Result<f64> {
    let d = law.dim();
    let normal = |variances: &dyn Fn(usize) -> f64| {
        let v = Array1::from_shape_fn(d, variances);
        let cov = (&law.modes() * &v).dot(&law.modes().t());
        let cov = DMatrix::from_fn(d, d, |i, j| 0.5 * (cov[[i, j]] + cov[[j, i]]));
        Normal::new(DVector::zeros(d), Covariance::Full(cov))
    };
    let produced = normal(&|i| if i < k { modes[i].var } else { 0.0 })?;
    Ok(produced.w2_squared(&normal(&|i| law.variances()[i])?)?.sqrt())
}

/// Mean squared length of decoded samples about the mean, with its standard error: the sampler run
/// in the latent.
fn sampled_variance(
    settings: &Settings,
    law: &Gaussian,
    steps: usize,
    k: usize,
    effort: Effort,
    noise: &Noise,
) -> Result<[f64; 2]> {
    let latent = Gaussian::diagonal(Array1::zeros(k), law.variances().slice(s![..k]).to_owned())?;
    let mut z = noise.normals(1, (effort.samples, k));
    z *= settings.sigma_range[1];
    let method = sampler(&settings.sampler, &Options::DEFAULT)?;
    let end = sample(method.as_ref(), &latent, &grid(settings, steps)?, z, &mut Silence)?.x;
    let decoded = end.dot(&law.modes().slice(s![.., ..k]).t());
    Ok(mean_and_stderr(&decoded.map_axis(Axis(1), |x| x.dot(&x)).to_vec()))
}
