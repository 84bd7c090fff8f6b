//! The reverse processes on the digits' Gaussian: how much noise, and what corrector steps buy,
//! exact.

use super::digits::Modes;
use super::farthest;
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::reverse_sde::{Churn, log_forgetting, mean_gain, variance};
use tweedie::law::Gaussian;
use tweedie::math::gaussian::w2_squared_normal;
use tweedie::sample::Sampler;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::propagate::{ModeError, Response, Start};
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::sde::{EulerMaruyama, PredictorCorrector};
use tweedie_report::experiment::geometric;

/// What the settings hold of this part.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Noise of the processes, in units of the forward one's.
    pub g: Vec<f64>,
    /// Steps of the curves.
    pub steps: Vec<usize>,
    /// Highest noise level, from which the data can't be seen.
    pub s_max: f64,
    /// One from which they can: the start `N(0, seen^2)` is then wrong.
    pub seen: f64,
    /// Lowest noise level.
    pub s_min: f64,
    /// Steps whose best noise is asked for.
    pub best: Vec<usize>,
    /// Strengths of the corrector.
    pub correctors: Vec<f64>,
    /// Evaluations.
    pub evaluations: Vec<usize>,
}

/// Distances against evaluations.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Curve {
    /// What it is.
    pub name: String,
    /// Evaluations, or another variable.
    pub x: Vec<f64>,
    /// W2 over the deviation of the law.
    pub w2: Vec<f64>,
}

/// What is computed of the family.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// For each g: error of Euler-Maruyama against steps, from the right law.
    pub steps: Vec<Curve>,
    /// For each number of steps and at last for infinitely many: error against g, from a start that
    /// is wrong.
    pub noise: Vec<Curve>,
    /// Best g, and the error with it, without noise, and with that of the time reversal, for each
    /// of those.
    pub best: Vec<(String, f64, [f64; 3])>,
    /// For each g: what is left of a wrong start in each component, against the component's
    /// variance over that of the noise at the start.
    pub forgetting: Vec<Curve>,
    /// Predictor alone, with a corrector of each strength, and a solver of the flow, against
    /// evaluations, from the right law.
    pub correctors: Vec<Curve>,
    /// The same from a start that is wrong.
    pub mended: Vec<Curve>,
    /// Checks of the family, and of the correctors.
    pub evidence: [Vec<Evidence>; 2],
}

struct Bench {
    modes: Modes,
    s_min: f64,
}

impl Bench {
    fn grid(&self, s_max: f64, steps: usize) -> Result<Vec<PathPoint>> {
        Grid { s_max, s_min: self.s_min, clean: false, ..Grid::new(Spacing::LogSnr, steps) }
            .points(&Path::Edm { sigma_max: s_max })
    }

    fn errors(
        &self,
        method: &dyn Sampler,
        s_max: f64,
        steps: usize,
        start: Start,
    ) -> Result<(usize, Vec<ModeError>)> {
        let response = Response::of(method, &self.grid(s_max, steps)?, self.modes.lambdas.clone())?;
        Ok((response.nfe, response.errors(&self.modes.mean, start)))
    }

    fn w2(
        &self,
        method: &dyn Sampler,
        s_max: f64,
        steps: usize,
        start: Start,
    ) -> Result<(f64, f64)> {
        let (nfe, errors) = self.errors(method, s_max, steps, start)?;
        Ok((nfe as f64, self.modes.relative(&errors)))
    }

    /// Mean, less the true one, and variance of each component at the end of the process itself,
    /// from `N(0, s_max^2)`.
    fn exact(&self, g: f64, s_max: f64) -> Vec<ModeError> {
        let (from, to) = (Level::new(1.0, s_max), Level::new(1.0, self.s_min));
        let mode = |(lambda, mean): (&f64, &f64)| ModeError {
            lambda: *lambda,
            mean_err: -mean * mean_gain(*lambda, from, to, Churn::Constant(g)),
            var: variance(*lambda, s_max * s_max, from, to, Churn::Constant(g)),
            want_var: to.var(*lambda),
        };
        self.modes.lambdas.iter().zip(&self.modes.mean).map(mode).collect()
    }
}

fn curve(name: String, points: Vec<(f64, f64)>) -> Curve {
    let (x, w2) = points.into_iter().unzip();
    Curve { name, x, w2 }
}

impl Numbers {
    pub(super) fn new(settings: &Settings) -> Result<Self> {
        let law = Gaussian::from_data(tweedie_nn::data::load("digits")?.images.view())?;
        let bench = Bench { modes: Modes::of(&law), s_min: settings.s_min };
        let (far, seen) = (settings.s_max, settings.seen);
        let steps = settings
            .g
            .par_iter()
            .map(|g| {
                let at = |n: &usize| {
                    Ok((*n as f64, bench.w2(&EulerMaruyama { g: *g }, far, *n, Start::Marginal)?.1))
                };
                Ok(curve(format!("g = {g}"), settings.steps.iter().map(at).collect::<Result<_>>()?))
            })
            .collect::<Result<Vec<_>>>()?;

        let strengths: Vec<f64> = (0..=30).map(|k| 0.1 * f64::from(k)).collect();
        let mut noise = settings
            .best
            .par_iter()
            .map(|n| {
                let at = |g: &f64| {
                    Ok((*g, bench.w2(&EulerMaruyama { g: *g }, seen, *n, Start::Normal(seen))?.1))
                };
                Ok(curve(format!("{n} steps"), strengths.iter().map(at).collect::<Result<_>>()?))
            })
            .collect::<Result<Vec<_>>>()?;
        noise.push(curve(
            "exact".into(),
            strengths.iter().map(|g| (*g, bench.modes.relative(&bench.exact(*g, seen)))).collect(),
        ));
        let best = noise
            .iter()
            .map(|c| {
                let k = (0..c.x.len()).min_by(|a, b| c.w2[*a].total_cmp(&c.w2[*b])).unwrap_or(0);
                (c.name.clone(), c.x[k], [c.w2[k], c.w2[0], c.w2[10]])
            })
            .collect();
        let ratios = geometric(1e-3, 1e2, 60);
        let (from, to) = (Level::new(1.0, seen), Level::new(1.0, settings.s_min));
        let forgetting = settings
            .g
            .iter()
            .map(|g| {
                curve(
                    format!("g = {g}"),
                    ratios
                        .iter()
                        .map(|l| (*l, log_forgetting(*l, from, to, Churn::Constant(*g)).exp()))
                        .collect(),
                )
            })
            .collect();

        let pair = |r: f64, s_max: f64, start: Start| -> Result<Curve> {
            let run = |n: &usize| {
                bench.w2(&PredictorCorrector { r, corrections: 1 }, s_max, n / 2, start)
            };
            Ok(curve(
                format!("with corrector, r = {r}"),
                settings.evaluations.iter().map(run).collect::<Result<_>>()?,
            ))
        };
        let all = |s_max: f64, start: Start| -> Result<Vec<Curve>> {
            let ddpm = sampler("ddpm", &Options::DEFAULT)?;
            let alone = |n: &usize| bench.w2(&*ddpm, s_max, *n, start);
            let mut curves = vec![curve(
                "predictor alone".into(),
                settings.evaluations.iter().map(alone).collect::<Result<_>>()?,
            )];
            for r in &settings.correctors {
                curves.push(pair(*r, s_max, start)?);
            }
            let flow = sampler("dpmpp-2m", &Options::DEFAULT)?;
            let flow = |n: &usize| bench.w2(&*flow, s_max, *n, start);
            curves.push(curve(
                "PF-ODE, DPM-Solver++(2M)".into(),
                settings.evaluations.iter().map(flow).collect::<Result<_>>()?,
            ));
            Ok(curves)
        };
        let (correctors, mended) = (all(far, Start::Marginal)?, all(seen, Start::Normal(seen))?);

        // Euler's errors of the means and variances themselves are smooth in the step, so that two
        // grids extrapolate to the process.
        let mut family = Vec::new();
        for g in &settings.g {
            let (method, n) = (EulerMaruyama { g: *g }, 400);
            let [coarse, fine] =
                [n, 2 * n].map(|n| bench.errors(&method, seen, n, Start::Normal(seen)));
            let (coarse, fine, exact) = (coarse?.1, fine?.1, bench.exact(*g, seen));
            let off = farthest(
                coarse
                    .iter()
                    .zip(&fine)
                    .zip(&exact)
                    .map(|((c, f), e)| (2.0 * f.var - c.var) / e.var - 1.0),
            );
            family.push(
                Evidence::new(format!("g = {g}: variances by Euler–Maruyama, extrapolated from 400 and 800 steps, over the exact ones, less 1, worst component"), off, 0.0, 5e-3)
                    .because("second order in the step, which is (1 + g²) times 0.0115 and less"),
            );
        }
        // The process of g = 1 is the forward one backwards, so its gain is the regression of the
        // end on the start.
        let exact = bench.exact(1.0, far);
        let regression = |(m, mean): (&ModeError, &f64)| {
            let (end, start) =
                (Level::new(1.0, settings.s_min).var(m.lambda), Level::new(1.0, far).var(m.lambda));
            (m.mean_err + mean * end / start) / m.want_var.sqrt()
        };
        family.push(
            Evidence::new(
                "g = 1: what is left of the missing mean from the highest level, less its regression, worst component, over its deviation",
                farthest(exact.iter().zip(&bench.modes.mean).map(regression)),
                0.0,
                1e-12,
            )
            .because("the ratio of the variances at the end and at the start; rounding"),
        );
        let none = bench.modes.relative(&bench.exact(0.0, seen));
        let flow = exact_flow(&bench, seen);
        family.push(
            Evidence::new(
                "g = 0 from a wrong start: W₂ over that of the linear map of the probability-flow ODE",
                none / flow,
                1.0,
                1e-12,
            )
            .because("rounding"),
        );
        let idle = pair(1e-9, far, Start::Marginal)?;
        let ddpm = sampler("ddpm", &Options::DEFAULT)?;
        let (half, n) = (settings.evaluations[2] / 2, 2);
        let alone = bench.w2(&*ddpm, far, half, Start::Marginal)?.1;
        let fixed = corrected(&bench, settings.correctors[1], far, half)?;
        let by_code = bench
            .errors(
                &PredictorCorrector { r: settings.correctors[1], corrections: 1 },
                far,
                half,
                Start::Marginal,
            )?
            .1;
        let off = farthest(by_code.iter().zip(&fixed).map(|(m, v)| m.var / v - 1.0));
        let corrector = vec![
            Evidence::new(format!("a corrector of no strength: W₂ over that of the {half} steps of its predictor"), idle.w2[n] / alone, 1.0, 1e-6)
                .because("r² of 10⁻¹⁸, and rounding"),
            Evidence::new("variances with a corrector, over the recursion v → (1 − h/s)² v + 2h after each predictor step, less 1, worst component", off, 0.0, 1e-11)
                .because("some dozens of steps, each a few roundings"),
        ];
        Ok(Self {
            steps,
            noise,
            best,
            forgetting,
            correctors,
            mended,
            evidence: [family, corrector],
        })
    }
}

/// W2 of what the probability-flow ODE makes of `N(0, s_max^2)`: it scales each component by the
/// ratio of the true deviations.
fn exact_flow(bench: &Bench, s_max: f64) -> f64 {
    let s_min2 = bench.s_min * bench.s_min;
    let mode = |(lambda, mean): (&f64, &f64)| {
        let scale = ((lambda + s_min2) / (lambda + s_max * s_max)).sqrt();
        w2_squared_normal(-mean * scale, (s_max * scale).powi(2), 0.0, lambda + s_min2)
    };
    let sum: f64 = bench.modes.lambdas.iter().zip(&bench.modes.mean).map(mode).sum();
    (sum / bench.modes.lambdas.iter().map(|l| l + s_min2).sum::<f64>()).sqrt()
}

/// Variances after predictor and corrector steps, by their recursion: the predictor draws from
/// `q(x_s | x_t, x0_hat)`, written out at `alpha = 1`.
fn corrected(bench: &Bench, r: f64, s_max: f64, steps: usize) -> Result<Vec<f64>> {
    let grid = bench.grid(s_max, steps)?;
    Ok(bench
        .modes
        .lambdas
        .iter()
        .map(|lambda| {
            grid.windows(2).fold(lambda + s_max * s_max, |v, w| {
                let (from, to) = (w[0].sigma.powi(2), w[1].sigma.powi(2));
                let kept = to / from;
                let state = kept + (1.0 - kept) * lambda / (lambda + from);
                let predicted = state * state * v + to * (1.0 - kept);
                let h = 2.0 * r * r * to;
                (1.0 - h / (lambda + to)).powi(2) * predicted + 2.0 * h
            })
        })
        .collect())
}
