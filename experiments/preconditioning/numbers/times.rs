//! Which noise levels count: weights of losses, laws of training times, and their product.

use super::scalings::subject;
use super::{farthest, frame};
use ndarray::Array2;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::Path;
use tweedie::diffusion::elbo::mmse;
use tweedie::diffusion::loss::loss_ratio;
use tweedie::diffusion::prediction::{Frame, Prediction};
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::weighting::{Weighting, vlb_continuous};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::Gaussian;
use tweedie::math::noise::Noise;
use tweedie_nn::train::settings::TimeSettings;
use tweedie_nn::train::times::{TimeLaw, Times};

/// A weighting, on the loss of x0.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Weight {
    /// Its name.
    pub name: String,
    /// At each noise level, 1 at the level 1.
    pub on_x0: Vec<f64>,
}

/// A recipe: path, law of times, and weighted loss.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Recipe {
    /// What it is known as.
    pub name: String,
    /// Density of the training times over ln sigma, at each level.
    pub density: Vec<f64>,
    /// Share of the weighted least loss for each unit of ln sigma.
    pub loss: Vec<f64>,
    /// Noise levels below which half of the times and half of that loss lie, and the share of the
    /// loss above the first.
    pub halves: [f64; 3],
    /// Noise levels below which the given shares of the times lie.
    pub quantiles: Vec<f64>,
    /// The picture in noise of those levels, on the variance-preserving scale, (quantiles, d).
    pub pictures: Array2<f64>,
}

/// What is computed of weights and times.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// Noise levels.
    pub sigmas: Vec<f64>,
    /// Weightings.
    pub weights: Vec<Weight>,
    /// Recipes.
    pub recipes: Vec<Recipe>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// A recipe's path, times and weight on the loss of x0.
struct Ingredients {
    name: &'static str,
    path: Path,
    law: TimeLaw,
    /// Which loss is plain.
    loss: Prediction,
    /// On top of it.
    weighting: Option<Weighting>,
}

/// Range of all recipes: that of EDM's sampler is within it.
const RANGE: (f64, f64) = (0.002, 200.0);

impl Ingredients {
    fn times(&self) -> Result<Times> {
        Times::new(
            &self.path,
            &TimeSettings { law: self.law, range: Some(RANGE), ..TimeSettings::default() },
        )
    }

    /// Density over ln sigma, not cut to the range.
    fn density(&self, sigma: f64) -> Result<f64> {
        Ok(match self.law {
            TimeLaw::Uniform => {
                let highest = self.path.still_at(1.0)?.edm_sigma();
                if sigma > highest {
                    return Ok(0.0);
                }
                let at = self.path.moving_at(self.path.t_from_edm_sigma(sigma)?)?;
                // d ln(sigma / alpha) / dt is positive: noise grows.
                1.0 / (at.rates.sigma / at.level.sigma - at.rates.alpha / at.level.alpha)
            }
            TimeLaw::LogNormal { mean, std } => {
                let z = (sigma.ln() - mean) / std;
                (-0.5 * z * z).exp() / (std * std::f64::consts::TAU.sqrt())
            }
            TimeLaw::LogSnr => 1.0 / (RANGE.1 / RANGE.0).ln(),
        })
    }

    /// Weight on the squared error of x0.
    fn weight(&self, sigma: f64) -> Result<f64> {
        match self.weighting {
            Some(w) => Ok(w.weights(-2.0 * sigma.ln()).x0),
            None if self.loss == Prediction::Velocity => {
                let path = &self.path;
                loss_ratio(
                    self.loss,
                    Prediction::X0,
                    &Frame::from(&path.at(path.t_from_edm_sigma(sigma)?)?),
                )
            }
            None => loss_ratio(self.loss, Prediction::X0, &frame(sigma, 1.0)),
        }
    }
}

fn ingredients(sigma_data: f64) -> [Ingredients; 5] {
    let new = |name, path, law, loss, weighting| Ingredients { name, path, law, loss, weighting };
    let vp = || Path::VP;
    [
        new("DDPM: eps, uniform t", vp(), TimeLaw::Uniform, Prediction::Eps, None),
        new(
            "the same, min-SNR-5",
            vp(),
            TimeLaw::Uniform,
            Prediction::Eps,
            Some(Weighting::MinSnr { gamma: 5.0 }),
        ),
        new(
            "EDM: log-normal",
            Path::Edm { sigma_max: RANGE.1 },
            TimeLaw::LogNormal { mean: -1.2, std: 1.2 },
            Prediction::F,
            Some(Weighting::Edm { sigma_data }),
        ),
        new("flow, uniform t", Path::FlowMatching, TimeLaw::Uniform, Prediction::Velocity, None),
        new(
            "flow, logit-normal t",
            Path::FlowMatching,
            TimeLaw::LogNormal { mean: 0.0, std: 1.0 },
            Prediction::Velocity,
            None,
        ),
    ]
}

impl Numbers {
    pub(super) fn new(
        settings: &super::Settings,
        sigmas: &[f64],
        rms: f64,
        noise: &Noise,
    ) -> Result<Self> {
        let sd = settings.sigma_data;
        let named = [
            ("eps", Weighting::Simple),
            ("x0", Weighting::X0),
            ("v", Weighting::SnrPlusOne),
            ("min-SNR-5", Weighting::MinSnr { gamma: 5.0 }),
            ("EDM (F)", Weighting::Edm { sigma_data: sd }),
            ("sigmoid", Weighting::Sigmoid { bias: 2.0 }),
        ];
        let on_x0 = |w: Weighting, s: f64| w.weights(-2.0 * s.ln()).x0;
        let weights = named
            .iter()
            .map(|(name, w)| Weight {
                name: name.to_string(),
                on_x0: sigmas.iter().map(|s| on_x0(*w, *s) / on_x0(*w, 1.0)).collect(),
            })
            .collect();

        let law = Gaussian::from_data(tweedie_nn::data::load("digits")?.images.view())?;
        let least = |sigma: f64| {
            law.variances().iter().map(|l| mmse(*l, (1.0, sigma))).sum::<f64>() / law.dim() as f64
        };
        let (x0, eps, _) = subject(settings, noise)?;
        let width = (sigmas[sigmas.len() - 1] / sigmas[0]).ln() / (sigmas.len() - 1) as f64;
        let all = ingredients(sd);
        let recipes = all
            .iter()
            .map(|r| {
                let density = sigmas.iter().map(|s| r.density(*s)).collect::<Result<Vec<_>>>()?;
                let loss = sigmas
                    .iter()
                    .zip(&density)
                    .map(|(s, d)| Ok(if *d > 0.0 { d * r.weight(*s)? * least(*s) } else { 0.0 }))
                    .collect::<Result<Vec<f64>>>()?;
                let total = loss.iter().sum::<f64>() * width;
                let times = r.times()?;
                let quantiles = settings
                    .pictures
                    .quantiles
                    .iter()
                    .map(|q| Ok(r.path.still_at(times.quantile(*q)?)?.edm_sigma()))
                    .collect::<Result<Vec<f64>>>()?;
                let mut pictures = Array2::zeros((quantiles.len(), x0.ncols()));
                for (mut row, sigma) in pictures.rows_mut().into_iter().zip(&quantiles) {
                    row.assign(&((&x0.row(0) + &(&eps.row(0) * *sigma)) / sigma.hypot(1.0)));
                }
                let loss: Vec<f64> = loss.iter().map(|l| l / total).collect();
                let median = r.path.still_at(times.quantile(0.5)?)?.edm_sigma();
                let mut below = 0.0;
                let half = sigmas.iter().zip(&loss).find(|(_, l)| {
                    below += *l * width;
                    below >= 0.5
                });
                let above = sigmas
                    .iter()
                    .zip(&loss)
                    .filter(|(s, _)| **s > median)
                    .map(|(_, l)| l * width)
                    .sum();
                let halves = [median, half.map_or(f64::NAN, |(s, _)| *s), above];
                Ok(Recipe { name: r.name.into(), density, loss, halves, quantiles, pictures })
            })
            .collect::<Result<Vec<_>>>()?;
        let evidence = checks(&all, &recipes, sigmas, settings, rms)?;
        Ok(Self { sigmas: sigmas.to_vec(), weights, recipes, evidence })
    }
}

fn checks(
    all: &[Ingredients],
    recipes: &[Recipe],
    sigmas: &[f64],
    settings: &super::Settings,
    rms: f64,
) -> Result<Vec<Evidence>> {
    let rule = tweedie::math::quadrature::IntervalRule::new(12)?;
    // The quantile function against the density's integral up to it: both cut to the range.
    let mut gap = 0.0;
    for (r, recipe) in all.iter().zip(recipes) {
        let mut failed = None;
        let top = r.path.still_at(1.0)?.edm_sigma().min(RANGE.1);
        let mut mass = |to: f64| {
            rule.composite(RANGE.0.ln(), to.ln(), 48, |u| {
                r.density(u.exp()).unwrap_or_else(|e| {
                    failed = Some(e);
                    f64::NAN
                })
            })
        };
        let whole = mass(top * (1.0 - 1e-12));
        for (q, sigma) in settings.pictures.quantiles.iter().zip(&recipe.quantiles) {
            gap = farthest([gap, mass(*sigma) / whole - q]);
        }
        if let Some(error) = failed {
            return Err(error);
        }
    }
    // Uniform t under the eps-loss against the bound's own weight: how far DDPM's simple loss is
    // from the bound.
    let vp = &all[0];
    let bound = farthest([0.1, 0.3, 0.5, 0.7, 0.9].map(|t| {
        let Ok(at) = vp.path.at(t) else { return f64::NAN };
        let (Ok(weights), Ok(density)) =
            (vlb_continuous(&Frame::from(&at)), vp.density(at.edm_sigma()))
        else {
            return f64::NAN;
        };
        // -d(log SNR)/dt / 2 is d ln(sigma / alpha) / dt, one over the density.
        weights.eps * density - 1.0
    }));
    // ln of a product of 1 - beta is -sum of beta + beta^2 / 2, and d ln(sigma / alpha) = -d ln
    // abar / (2 (1 - abar)).
    let table = Table::new(Schedule::LINEAR, 1000, false)?;
    let betas: Vec<f64> = table.rows().iter().map(|r| r.beta).collect();
    let largest = farthest(betas.iter().copied());
    let table = Path::Discrete(table);
    let discrete = farthest([200, 500, 800].map(|k| {
        match (table.still_at(k as f64 / 1000.0), vp.path.still_at(k as f64 / 1000.0)) {
            (Ok(a), Ok(b)) => {
                let sum: f64 = betas[..k].iter().map(|b| b + 0.5 * b * b).sum();
                let abar = b.alpha * b.alpha;
                (a.edm_sigma() / b.edm_sigma()).ln() / (0.5 * (sum + abar.ln()) / (1.0 - abar))
                    - 1.0
            }
            _ => f64::NAN,
        }
    }));
    // Flow matching's weight on x0 is 1 / t^2, and a logit-normal t is a log-normal sigma / alpha =
    // t / (1 - t).
    let flow = farthest(sigmas.iter().map(|s| {
        let t = s / (1.0 + s);
        all[3].weight(*s).map_or(f64::NAN, |w| w * t * t - 1.0)
    }));
    let logistic = farthest(
        sigmas
            .iter()
            .map(|s| all[3].density(*s).map_or(f64::NAN, |d| d * (1.0 + s) * (1.0 + s) / s - 1.0)),
    );
    // EDM's weighted loss of a silent network is 1 at every level, when sigma_data is the data's.
    let even = farthest(sigmas.iter().map(|s| {
        Weighting::Edm { sigma_data: rms }.weights(-2.0 * s.ln()).x0 * mmse(rms * rms, (1.0, *s))
            - 1.0
    }));
    let minimum = farthest(sigmas.iter().map(|s| {
        let w = Weighting::MinSnr { gamma: 5.0 }.weights(-2.0 * s.ln());
        w.x0 / s.powi(-2).min(5.0) - 1.0
    }));
    Ok(vec![
        Evidence::new("quantiles of the training times: integral of the density up to them, less the share, worst", gap, 0.0, 1e-6)
            .because("quantiles are found in t, whose roundings the steep ends of a path magnify"),
        Evidence::new(
            "uniform t under eps: the density over ln σ times the bound's weight at t, less 1, worst of 5 times",
            bound,
            0.0,
            1e-12,
        )
        .because("the bound weighs ln σ evenly, so the simple loss weighs it by its density"),
        Evidence::new(
            "DDPM's table of 1000 steps against the path that stands for it: difference of ln σ over the sum of β + β²/2 less the integral, less 1, worst of three times",
            discrete,
            0.0,
            2.0 * largest,
        )
        .because(format!("the next term is smaller by β: twice the largest, {largest}")),
        Evidence::new("flow matching: weight on x0 times t², less 1, worst level", flow, 0.0, 1e-10)
            .because("1 − t loses digits near t = 1"),
        Evidence::new(
            "flow matching, uniform t: density over ln σ over that of the logistic law, less 1, worst level",
            logistic,
            0.0,
            1e-10,
        )
        .because("the same"),
        Evidence::new(
            "EDM's weight times the error of the silent network, σ_data being the data's: less 1, worst level",
            even,
            0.0,
            1e-12,
        )
        .because("unit variance of the target at every level"),
        Evidence::new("min-SNR: weight on x0 over min(SNR, 5), less 1, worst level", minimum, 0.0, 1e-12)
            .because("rounding of an exponential"),
    ])
}
