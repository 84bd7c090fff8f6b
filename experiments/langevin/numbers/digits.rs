//! Langevin dynamics on the Gaussian of the digits: every mode at its own pace, and what a step
//! costs.

use super::{Effort, chain, farthest};
use ndarray::{Array1, Array2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::langevin::{gain, stationary_law, stationary_var, var_after};
use tweedie::law::{Gaussian, Law};
use tweedie::math::gaussian::w2_squared_normal;
use tweedie::math::noise::Noise;
use tweedie::math::smaller;
use tweedie::sample::Sampler;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::propagate::{ModeError, Response, Start};
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::sde::Langevin;
use tweedie_report::experiment::{geometric, level};

/// What the settings hold of this part.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Noise level at which the law is sampled.
    pub sigma: f64,
    /// Step of the chains drawn, over the smallest variance of the level.
    pub share: f64,
    /// Steps after which they are looked at.
    pub looks: Vec<usize>,
    /// Components whose variance is followed.
    pub components: Vec<usize>,
    /// Steps, over the smallest variance, of the stationary pictures.
    pub shares: Vec<f64>,
    /// Evaluations after which the best step is asked for.
    pub budgets: Vec<u32>,
}

/// One component's variance along the chain, over the stationary one.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Followed {
    /// Number of the component, from 1.
    pub component: usize,
    /// Its variance at the level.
    pub var: f64,
    /// Exact, at [`Numbers::counts`].
    pub exact: Vec<f64>,
    /// Of the sampled chains, at the looks.
    pub sampled: Vec<f64>,
}

/// A way to reach the level, and the distance of its law to the true one.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Way {
    /// What it is.
    pub name: String,
    /// Evaluations.
    pub nfe: Vec<f64>,
    /// W2 over the deviation of the law.
    pub w2: Vec<f64>,
}

/// What is computed on the digits.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// Variance of each of the 64 components at the level, descending.
    pub variances: Vec<f64>,
    /// Step of the chains drawn.
    pub step: f64,
    /// States of two chains after each of the looks, (looks, 64) each.
    pub strips: Vec<Array2<f64>>,
    /// Numbers of steps of the exact curves.
    pub counts: Vec<f64>,
    /// Components on their way.
    pub followed: Vec<Followed>,
    /// Steps over the variance, and stationary over true variance of a sampled chain.
    pub measured: (Vec<f64>, Vec<f64>),
    /// Draws of the stationary law for each of the shares, from the same normals, (draws, 64).
    pub stationary: Vec<Array2<f64>>,
    /// Steps over the smallest variance, and for each budget W2 over the deviation after so many
    /// steps; the last is the stationary law's.
    pub budget: (Vec<f64>, Vec<Vec<f64>>),
    /// Best step, over the smallest variance, and W2 with it, for each budget.
    pub best: Vec<(u32, f64, f64)>,
    /// Distance against evaluations.
    pub ways: Vec<Way>,
    /// Checks of the convergence, of the stationary law, and of the ways.
    pub evidence: [Vec<Evidence>; 2],
}

/// The law of the digits at one level in its own coordinates: all 64 variances, and the mean of
/// each.
pub(super) struct Modes {
    /// Data variances, descending, zeros included.
    pub lambdas: Array1<f64>,
    /// Mean along each mode; what lies off the modes counts as one of those without variance.
    pub mean: Array1<f64>,
}

impl Modes {
    pub(super) fn of(law: &Gaussian) -> Self {
        let (d, rank) = (law.dim(), law.rank());
        let mut lambdas = law.variances().to_vec();
        let mut mean = law.modes().t().dot(&Law::mean(law)).to_vec();
        if rank < d {
            let off = &Law::mean(law) - &law.modes().dot(&Array1::from(mean.clone()));
            mean.push(off.dot(&off).sqrt());
        }
        lambdas.resize(d, 0.0);
        mean.resize(d, 0.0);
        Self { lambdas: lambdas.into(), mean: mean.into() }
    }

    /// W2 over the total deviation of the law.
    pub(super) fn relative(&self, errors: &[ModeError]) -> f64 {
        (errors.iter().map(ModeError::w2_squared).sum::<f64>()
            / errors.iter().map(|m| m.want_var).sum::<f64>())
        .sqrt()
    }
}

/// Distance of the chain's law after `steps` steps from `N(0, I)` to its target, over the target's
/// deviation; `None` is for ever.
fn w2_after(modes: &Modes, vars: &[f64], h: f64, steps: Option<u32>) -> f64 {
    let mode = |(var, mean): (&f64, &f64)| match steps {
        Some(n) => w2_squared_normal(
            gain(*var, h).powi(n as i32) * -mean,
            var_after(*var, 1.0, h, n),
            0.0,
            *var,
        ),
        None => w2_squared_normal(0.0, stationary_var(*var, h), 0.0, *var),
    };
    (vars.iter().zip(&modes.mean).map(mode).sum::<f64>() / vars.iter().sum::<f64>()).sqrt()
}

impl Numbers {
    pub(super) fn new(settings: &Settings, effort: Effort, noise: &Noise) -> Result<Self> {
        let law = Gaussian::from_data(tweedie_nn::data::load("digits")?.images.view())?;
        let (at, modes) = (level(settings.sigma), Modes::of(&law));
        let vars: Vec<f64> = modes.lambdas.iter().map(|l| Level::from(&at).var(*l)).collect();
        let least = vars[vars.len() - 1];
        let step = settings.share * least;
        let looks = &settings.looks;
        let last = looks[looks.len() - 1];

        let mut strips = vec![Array2::zeros((looks.len(), law.dim())); 2];
        let mut x = noise.child(0).normals(0, (2, law.dim()));
        for (k, n) in looks.iter().enumerate() {
            if k > 0 {
                x = chain(&law, at, step, n - looks[k - 1], x, &mut noise.child(100 + k as u64))?;
            }
            strips.iter_mut().zip(x.rows()).for_each(|(s, x)| s.row_mut(k).assign(&x));
        }

        let mut counts: Vec<f64> =
            geometric(1.0, last as f64, 80).iter().map(|n| n.round()).collect();
        counts.dedup();
        let mut followed: Vec<Followed> = settings
            .components
            .iter()
            .map(|&component| {
                let var = vars[component - 1];
                let exact = counts
                    .iter()
                    .map(|n| var_after(var, 1.0, step, *n as u32) / stationary_var(var, step))
                    .collect();
                Followed { component, var, exact, sampled: vec![] }
            })
            .collect();
        let chosen = Gaussian::diagonal(
            Array1::zeros(followed.len()),
            settings.components.iter().map(|k| modes.lambdas[k - 1]).collect(),
        )?;
        let (mut x, mut worst) =
            (noise.child(1).normals(0, (effort.chains, followed.len())), 0.0f64);
        for (k, n) in looks.iter().enumerate() {
            if k > 0 {
                x = chain(
                    &chosen,
                    at,
                    step,
                    n - looks[k - 1],
                    x,
                    &mut noise.child(200 + k as u64),
                )?;
            }
            for (f, column) in followed.iter_mut().zip(x.axis_iter(Axis(1))) {
                let stationary = stationary_var(f.var, step);
                let (got, want) = (
                    column.dot(&column) / effort.chains as f64,
                    var_after(f.var, 1.0, step, *n as u32),
                );
                worst = farthest([worst, (got / want - 1.0) * (effort.chains as f64 / 2.0).sqrt()]);
                f.sampled.push(got / stationary);
            }
        }
        let response = Response::of(
            &Langevin { step: step / at.sigma.powi(2), corrections: 100 },
            &[level(2.0 * at.sigma), at],
            modes.lambdas.clone(),
        )?;
        let made = response.errors(&modes.mean, Start::Normal(1.0));
        let apart = farthest(
            made.iter().zip(&vars).map(|(m, v)| m.var / var_after(*v, 1.0, step, 100) - 1.0),
        );
        let means = farthest(
            made.iter()
                .zip(&vars)
                .zip(&modes.mean)
                .map(|((m, v), mean)| m.mean_err + gain(*v, step).powi(100) * mean),
        );
        let convergence = vec![
            Evidence::new(
                "sampled variances over their closed form: worst component and look, in standard errors",
                worst,
                0.0,
                5.0,
            )
            .because(format!("the worst of {}, of {} chains", looks.len() * followed.len(), effort.chains)),
            Evidence::new(
                "variances after 100 steps: response of the sampler's code over the closed form, less 1, worst component",
                apart,
                0.0,
                1e-11,
            )
            .because("100 steps, each a few roundings; x0_hat is taken off the state again at a tenth of its noise"),
            Evidence::new("means after 100 steps: the same, apart", means, 0.0, 1e-11).because("the same"),
        ];

        // The chain's stationary variance over its target's, measured on a mode of variance 1 (0.01
        // of it noise, so that there is a score).
        let shares: Vec<f64> = (1..=9).map(|k| 0.2 * k as f64).chain([1.9]).collect();
        let one = Gaussian::isotropic(Array1::zeros(1), 0.99)?;
        let ratios: Vec<f64> = shares
            .par_iter()
            .enumerate()
            .map(|(k, share)| {
                let x = noise.child(300 + k as u64).normals(0, (effort.chains, 1));
                let x = chain(&one, level(0.1), *share, 200, x, &mut noise.child(400 + k as u64))?;
                Ok(x.iter().map(|v| v * v).sum::<f64>() / effort.chains as f64)
            })
            .collect::<Result<_>>()?;
        let bias = farthest(shares.iter().zip(&ratios).map(|(s, r)| {
            (r / stationary_var(1.0, *s) - 1.0) * (effort.chains as f64 / 2.0).sqrt()
        }));
        let z = noise.child(2).normals(0, (6, law.dim()));
        let stationary = settings
            .shares
            .iter()
            .map(|s| {
                // One symmetric root for all, so that the same normals make the same digits.
                let root =
                    law.matrix(|l| stationary_var(Level::from(&at).var(l), s * least).sqrt());
                z.dot(&root) + &Law::mean(&law)
            })
            .collect();
        let (share, curve) = budget(settings, &modes, &vars, least);
        let best: Vec<(u32, f64, f64)> = settings
            .budgets
            .iter()
            .zip(&curve)
            .map(|(n, w2)| {
                let k = (0..w2.len()).min_by(|a, b| w2[*a].total_cmp(&w2[*b])).unwrap_or(0);
                (*n, share[k], w2[k])
            })
            .collect();
        let ways = ways(settings, &modes, &vars)?;
        let total: f64 = stationary_law(&law, at, least)?.variances().sum();
        let in_all: f64 = vars.iter().map(|v| stationary_var(*v, least)).sum();
        let small = 1e-4 * least;
        let first_order: f64 = 64.0 * small / 2.0;
        let excess: f64 = vars.iter().map(|v| stationary_var(*v, small) - v).sum();
        let by_code = Response::of(
            &Langevin { step: step / at.sigma.powi(2), corrections: 300 },
            &[level(2.0 * at.sigma), at],
            modes.lambdas.clone(),
        )?;
        let by_code = modes.relative(&by_code.errors(&modes.mean, Start::Normal(1.0)));
        let bias = vec![
            Evidence::new(
                "stationary variance of sampled chains over its closed form: worst step, in standard errors",
                bias,
                0.0,
                5.0,
            )
            .because(format!("the worst of {}, of {} chains of 200 steps", shares.len(), effort.chains)),
            Evidence::new(
                "total variance of the stationary law of all pixels at h = the smallest variance, over the sum over the components",
                total / in_all,
                1.0,
                1e-12,
            )
            .because("64 modes, each to a few ulp of the largest"),
            Evidence::new(
                "excess of the total variance over 64 h/2, at h = 10⁻⁴ of the smallest variance",
                excess / first_order,
                1.0,
                1e-4,
            )
            .because("to first order every component gains h/2, whatever its variance; the next order is h / (2 var)"),
            Evidence::new(
                "W₂ after 300 steps by the response of the sampler's code, over the closed form's",
                by_code / w2_after(&modes, &vars, step, Some(300)),
                1.0,
                1e-10,
            )
            .because("300 steps, each a few roundings"),
        ];
        Ok(Self {
            variances: vars,
            step,
            strips,
            counts,
            followed,
            measured: (shares, ratios),
            stationary,
            budget: (share, curve),
            best,
            ways,
            evidence: [convergence, bias],
        })
    }
}

/// Distance against the step, for each budget and for ever.
fn budget(
    settings: &Settings,
    modes: &Modes,
    vars: &[f64],
    least: f64,
) -> (Vec<f64>, Vec<Vec<f64>>) {
    let shares = geometric(2e-3, 1.98, 48);
    let curves = settings.budgets.par_iter().map(|n| Some(*n)).chain([None]);
    let curves = curves
        .map(|n| shares.iter().map(|s| w2_after(modes, vars, s * least, n)).collect())
        .collect();
    (shares, curves)
}

/// Distance against evaluations: Langevin dynamics with the best step, annealed, and samplers that
/// come down from much noise.
fn ways(settings: &Settings, modes: &Modes, vars: &[f64]) -> Result<Vec<Way>> {
    const HIGH: f64 = 80.0;
    let shares = geometric(2e-3, 1.98, 48);
    let least = vars[vars.len() - 1];
    let counts = geometric(5.0, 1e4, 24);
    let best = |n: &f64| {
        shares
            .iter()
            .map(|s| w2_after(modes, vars, s * least, Some(n.round() as u32)))
            .fold(f64::INFINITY, smaller)
    };
    let mut ways = vec![Way {
        name: "Langevin, best step".into(),
        w2: counts.par_iter().map(best).collect(),
        nfe: counts,
    }];
    let path = Path::Edm { sigma_max: HIGH };
    let grid = |spacing: Spacing, steps: usize| -> Result<Vec<PathPoint>> {
        Grid { s_max: HIGH, s_min: settings.sigma, clean: false, ..Grid::new(spacing, steps) }
            .points(&path)
    };
    let run =
        |name: &'static str, method: &dyn Sampler, grids: Vec<Vec<PathPoint>>| -> Result<Way> {
            let points = grids
                .par_iter()
                .map(|g| {
                    let response = Response::of(method, g, modes.lambdas.clone())?;
                    Ok((
                        response.nfe as f64,
                        modes.relative(&response.errors(&modes.mean, Start::Normal(HIGH))),
                    ))
                })
                .collect::<Result<Vec<_>>>()?;
            let (nfe, w2) = points.into_iter().unzip();
            Ok(Way { name: name.into(), nfe, w2 })
        };
    let levels = |corrections: usize| {
        [8, 12, 20, 32, 50, 80, 130, 200, 320]
            .iter()
            .filter(move |l| **l * corrections <= 640)
            .map(|l| grid(Spacing::LogSnr, *l))
            .collect::<Result<Vec<_>>>()
    };
    ways.push(run("annealed Langevin", &Langevin { step: 0.5, corrections: 2 }, levels(2)?)?);
    for (name, shown) in [("ddpm", "reverse SDE (DDPM)"), ("dpmpp-2m", "PF-ODE (DPM++ 2M)")] {
        let grids = [5, 8, 12, 20, 32, 50, 80, 130, 200, 320]
            .iter()
            .map(|n| grid(Spacing::LogSnr, *n))
            .collect::<Result<_>>()?;
        ways.push(run(shown, &*sampler(name, &Options::DEFAULT)?, grids)?);
    }
    Ok(ways)
}
