//! Linear denoisers at one noise level: solved, descended exactly, and descended on samples.
//!
//! For a target `y = a x0 + b eps` and a map `y_hat = W x_t` the loss `E||W x_t - y||^2 / 2` has
//! the gradient `W H - G` with `H = E[x_t x_t^T]`, which no target enters, and `G = E[y x_t^T]`. An
//! error of y is `det / -sigma` times the error of the x0 that it implies, so one step of size
//! `rate` on any of the losses is the same step on the implied x0-map M:
//! `M -> M - rate (M H - E[x0 x_t^T])`. Objectives differ in where they start (`W = 0` implies an
//! x0-map of its own) and in the scale of their loss.

use super::{Settings, TARGETS};
use nalgebra::DMatrix;
use ndarray::{Array2, ArrayView2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::loss::loss_ratio;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;
use tweedie::law::gaussian::wiener_gain;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::math::matmul::matmul_serial;
use tweedie::math::noise::Noise;
use tweedie_report::experiment::geometric;

const EPS: f64 = f64::EPSILON;

/// One prediction target at one point of a path, for centred data.
pub struct Objective {
    /// What is predicted.
    pub target: Prediction,
    /// Where.
    pub at: PathPoint,
    coefficients: (f64, f64),
    to_x0: Conversion<f64>,
    from_x0: Conversion<f64>,
    /// Its squared error over that of the x0 that it implies.
    pub scale: f64,
}

impl Objective {
    /// # Errors
    /// As [`Conversion::new`].
    pub fn new(target: Prediction, at: &PathPoint) -> Result<Self> {
        let frame = Frame::from(at);
        Ok(Self {
            target,
            at: *at,
            coefficients: target.coefficients(&frame),
            to_x0: Conversion::new(target, Prediction::X0, frame)?,
            from_x0: Conversion::new(Prediction::X0, target, frame)?,
            scale: loss_ratio(target, Prediction::X0, &frame)?,
        })
    }

    /// `E[y x_t^T]`.
    fn cross(&self, cov: &Array2<f64>) -> Array2<f64> {
        let (a, b) = self.coefficients;
        cov * (a * self.at.alpha) + Array2::from_diag_elem(cov.nrows(), b * self.at.sigma)
    }

    /// The x0-map that a map of `x_t` to this target implies. A conversion is linear in the pair
    /// (prediction, `x_t`), so it takes matrices entry by entry.
    pub fn to_x0(&self, w: &Array2<f64>) -> Array2<f64> {
        Array2::from_shape_fn(w.dim(), |(i, j)| self.to_x0.apply(w[[i, j]], one(i == j)))
    }

    /// The map to this target that an x0-map implies.
    pub fn from_x0(&self, m: &Array2<f64>) -> Array2<f64> {
        Array2::from_shape_fn(m.dim(), |(i, j)| self.from_x0.apply(m[[i, j]], one(i == j)))
    }

    /// Gain of the x0-map that `W = 0` implies: `b / det`.
    pub fn start(&self) -> f64 {
        self.to_x0.apply(0.0, 1.0)
    }

    /// Gain of the best map in a mode of this variance.
    pub fn best(&self, lambda: f64) -> f64 {
        let (a, b) = self.coefficients;
        (a * self.at.alpha * lambda + b * self.at.sigma) / curvature(lambda, &self.at)
    }
}

fn one(yes: bool) -> f64 {
    f64::from(u8::from(yes))
}

/// Variance of `x_t` in a mode, the curvature of every objective there.
pub fn curvature(lambda: f64, at: &PathPoint) -> f64 {
    at.alpha * at.alpha * lambda + at.sigma * at.sigma
}

fn second_moment(cov: &Array2<f64>, at: &PathPoint) -> Array2<f64> {
    cov * (at.alpha * at.alpha) + Array2::from_diag_elem(cov.nrows(), at.sigma * at.sigma)
}

fn largest(x: &Array2<f64>) -> f64 {
    x.iter().map(|v| v.abs()).fold(0.0, larger)
}

/// `tr(E H E^T)`: what an error of the map adds to its risk.
fn excess(error: &Array2<f64>, h: &Array2<f64>) -> f64 {
    (error.dot(h) * error).sum()
}

fn wiener(law: &Gaussian, at: &PathPoint) -> Array2<f64> {
    law.matrix(|l| wiener_gain(l, at.alpha, at.sigma))
}

/// The point of the straight path `x_t = (1 - t) x0 + t eps` at this noise level `sigma / alpha`.
pub fn at_level(sigma: f64) -> Result<PathPoint> {
    Path::FlowMatching.at(Path::FlowMatching.t_from_edm_sigma(sigma)?)
}

/// What the section on linear denoisers shows.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Linear {
    /// Normal equations.
    pub solved: Solved,
    /// Gradient descent on the exact loss.
    pub descent: Descent,
    /// Stochastic gradient descent.
    pub stochastic: Stochastic,
}

impl Linear {
    pub(super) fn new(
        settings: &Settings,
        law: &Gaussian,
        effort: &super::Effort,
        noise: &Noise,
    ) -> Result<Self> {
        Ok(Self {
            solved: Solved::new(settings, law, effort)?,
            descent: Descent::new(settings, law)?,
            stochastic: Stochastic::new(settings, law, effort.runs, noise)?,
        })
    }
}

/// Each objective's normal equations, solved densely and converted to x0.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Solved {
    /// Noise levels `sigma / alpha`.
    pub sigmas: Vec<f64>,
    /// By target: largest entry of the converted map less the Wiener filter.
    pub errors: Vec<Vec<f64>>,
    /// By target: eps times the condition of solving and converting.
    pub rounding: Vec<Vec<f64>>,
    /// Noise level of the filters drawn.
    pub shown: f64,
    /// Variances of the modes, largest first.
    pub variances: Vec<f64>,
    /// By target: gain of each mode before the conversion, and after it.
    pub filters: Vec<[Vec<f64>; 2]>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Solved {
    fn new(settings: &Settings, law: &Gaussian, effort: &super::Effort) -> Result<Self> {
        let cov = Law::cov(law);
        let [lo, hi] = settings.sigma_range;
        let sigmas = geometric(lo, hi, effort.levels);
        let solve = |at: &PathPoint, objective: &Objective| -> Result<Array2<f64>> {
            let (h, g) = (dense(&second_moment(&cov, at)), dense(&objective.cross(&cov)));
            // W H = G, and both are symmetric.
            let inverse = h.cholesky().ok_or_else(|| {
                Error::singular(
                    "normal equations",
                    format!("sigma = {}", at.sigma),
                    "no noise",
                    "add some",
                )
            })?;
            let w = inverse.solve(&g.transpose());
            Ok(Array2::from_shape_fn(cov.dim(), |(i, j)| w[(j, i)]))
        };
        let (mut errors, mut rounding) =
            (vec![Vec::new(); TARGETS.len()], vec![Vec::new(); TARGETS.len()]);
        for sigma in &sigmas {
            let at = at_level(*sigma)?;
            let want = wiener(law, &at);
            for (k, target) in TARGETS.into_iter().enumerate() {
                let objective = Objective::new(target, &at)?;
                errors[k].push(largest(&(objective.to_x0(&solve(&at, &objective)?) - &want)));
                let top = curvature(law.variances()[0], &at);
                let size = law
                    .variances()
                    .iter()
                    .chain([&0.0])
                    .map(|l| objective.best(*l).abs())
                    .fold(0.0, larger);
                let (b, det) = (objective.coefficients.1, target.determinant(&Frame::from(&at)));
                rounding[k].push(
                    EPS * (b.abs() + at.sigma * size * top / (at.sigma * at.sigma)) / det.abs(),
                );
            }
        }
        let at = at_level(settings.shown_sigma)?;
        let gains = |w: &Array2<f64>| {
            law.modes().columns().into_iter().map(|u| u.dot(&w.dot(&u))).collect::<Vec<f64>>()
        };
        let filters = TARGETS
            .into_iter()
            .map(|target| {
                let objective = Objective::new(target, &at)?;
                let w = solve(&at, &objective)?;
                Ok([gains(&w), gains(&objective.to_x0(&w))])
            })
            .collect::<Result<Vec<_>>>()?;
        let d = cov.nrows() as f64;
        let evidence = TARGETS
            .iter()
            .zip(errors.iter().zip(&rounding))
            .map(|(target, (e, r))| {
                let worst = e.iter().zip(r).map(|(e, r)| e / r).fold(0.0, larger);
                Evidence::new(
                    format!(
                        "{target} solved and converted, less the Wiener filter, over ε · condition"
                    ),
                    worst,
                    0.0,
                    d,
                )
                .because("sums of 64 terms, an ulp each at worst")
            })
            .collect();
        let variances = law.variances().to_vec();
        Ok(Self {
            sigmas,
            errors,
            rounding,
            shown: settings.shown_sigma,
            variances,
            filters,
            evidence,
        })
    }
}

fn dense(a: &Array2<f64>) -> DMatrix<f64> {
    DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]])
}

/// Gradient descent on the exact loss, from `W = 0`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Descent {
    /// Step size.
    pub rate: f64,
    /// Steps at which the rest was recorded.
    pub steps: Vec<usize>,
    /// Components followed, from 0.
    pub modes: Vec<usize>,
    /// By target: what is predicted, and what was seen.
    pub followed: Vec<[Followed; 2]>,
    /// By target: gain of the x0-map that `W = 0` implies.
    pub starts: Vec<f64>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// One descent.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Followed {
    /// By followed component: distance of its x0-gain from the Wiener filter's, at each recorded
    /// step.
    pub gains: Vec<Vec<f64>>,
    /// Risk of x0 above the least, in units of the data's variance, at each recorded step.
    pub excess: Vec<f64>,
}

impl Descent {
    fn new(settings: &Settings, law: &Gaussian) -> Result<Self> {
        let at = Path::FlowMatching.at(settings.descent_time)?;
        let cov = Law::cov(law);
        let (h, want) = (second_moment(&cov, &at), wiener(law, &at));
        let top = curvature(law.variances()[0], &at);
        let rate = settings.descent_rate / top;
        let total: f64 = law.variances().sum();
        let steps = recorded(settings.descent_steps);
        let modes: Vec<usize> = settings.descent_modes.iter().map(|k| k - 1).collect();
        let record = |m: &Array2<f64>, f: &mut Followed| {
            let error = m - &want;
            f.excess.push(excess(&error, &h) / total);
            f.gains.resize(modes.len(), Vec::new());
            for (gains, &k) in f.gains.iter_mut().zip(&modes) {
                let u = law.modes().column(k).to_owned();
                gains.push(u.dot(&error.dot(&u)).abs());
            }
        };
        let (mut followed, mut starts, mut worst) = (Vec::new(), Vec::new(), 0.0f64);
        let mut from_one_start = Vec::new();
        let mut weighted = 0.0f64;
        for target in TARGETS {
            let objective = Objective::new(target, &at)?;
            let cross = objective.cross(&cov);
            let descend =
                |w: &mut Array2<f64>, rate: f64| *w = &*w - &((w.dot(&h) - &cross) * rate);
            // The x0-gain that the closed form predicts.
            let predicted = |lambda: f64, start: f64, rate: f64, n: usize| {
                let best = wiener_gain(lambda, at.alpha, at.sigma);
                best + (start - best) * (1.0 - rate * curvature(lambda, &at)).powi(n as i32)
            };
            let (mut theory, mut seen) = (Followed::default(), Followed::default());
            let mut w = Array2::zeros(cov.dim());
            for n in 0..=settings.descent_steps {
                if steps.contains(&n) {
                    let (map, closed) = (
                        objective.to_x0(&w),
                        law.matrix(|l| predicted(l, objective.start(), rate, n)),
                    );
                    worst = larger(worst, largest(&(&map - &closed)) / (1.0 + objective.start()));
                    record(&map, &mut seen);
                    record(&closed, &mut theory);
                }
                descend(&mut w, rate);
            }
            followed.push([theory, seen]);
            starts.push(objective.start());
            // From the map that x_t = x0 would ask for, the same for all.
            let mut w = objective.from_x0(&Array2::from_diag_elem(cov.nrows(), 1.0 / at.alpha));
            (0..settings.descent_steps / 4).for_each(|_| descend(&mut w, rate));
            from_one_start.push(objective.to_x0(&w));
            // Re-weighted to the x0-loss, a step is 1 / scale times as long.
            let slow = rate * (1.0 / objective.scale).min(1.0);
            let mut w = Array2::zeros(cov.dim());
            (0..32).for_each(|_| descend(&mut w, slow));
            let closed = law.matrix(|l| predicted(l, objective.start(), slow, 32));
            weighted = larger(
                weighted,
                largest(&(objective.to_x0(&w) - closed)) / (1.0 + objective.start()),
            );
        }
        let apart =
            from_one_start.iter().map(|map| largest(&(map - &from_one_start[0]))).fold(0.0, larger);
        // Each step errs by sums of 64 terms, and what it errs by shrinks like the descent itself:
        // at worst by 1 - rate sigma^2 a step.
        let tol = 64.0 * EPS * top
            / (settings.descent_rate * at.sigma * at.sigma)
            / at.alpha.min(at.sigma);
        let why = "64 ulps a step, forgotten as fast as the slowest mode converges";
        let evidence = vec![
            Evidence::new(
                "descent of all objectives: largest entry of the x0-map less the closed form",
                worst,
                0.0,
                tol,
            )
            .because(why),
            Evidence::new(
                "the same with each loss re-weighted to that of x0, after 32 steps",
                weighted,
                0.0,
                tol,
            )
            .because(why),
            Evidence::new(
                "from one x0-map, all objectives: largest difference of their x0-maps",
                apart,
                0.0,
                tol,
            )
            .because(why),
        ];
        Ok(Self { rate, steps, modes, followed, starts, evidence })
    }
}

/// Steps from 0 to `last`, all the first ones and then in about equal ratios.
fn recorded(last: usize) -> Vec<usize> {
    let mut steps: Vec<usize> =
        (0..).map(|k| 1.25f64.powi(k).round() as usize).take_while(|n| *n < last).collect();
    steps.insert(0, 0);
    steps.push(last);
    steps.dedup();
    steps
}

/// Stochastic gradient descent on fresh Gaussian samples, from `W = 0`, the same samples for all
/// objectives.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Stochastic {
    /// Samples a step.
    pub batch: usize,
    /// Independent runs.
    pub runs: usize,
    /// Step size.
    pub rate: f64,
    /// Recorded steps.
    pub steps: Vec<usize>,
    /// By target: expected excess risk of x0 over the data's variance.
    pub expected: Vec<Vec<f64>>,
    /// By target: its mean over the runs, and the standard error of that.
    pub seen: Vec<Vec<[f64; 2]>>,
    /// By target: excess risk that the difference of its x0-map from the x0-objective's would
    /// cause, mean over the runs.
    pub apart: Vec<Vec<f64>>,
    /// Expected excess risk after infinitely many steps.
    pub floor: f64,
    /// Least risk of x0 over the data's variance.
    pub least: f64,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Stochastic {
    fn new(settings: &Settings, law: &Gaussian, runs: usize, noise: &Noise) -> Result<Self> {
        let at = Path::FlowMatching.at(settings.descent_time)?;
        let (batch, last) = (settings.stochastic_batch, settings.stochastic_steps);
        let rate = settings.stochastic_rate / curvature(law.variances()[0], &at);
        let total: f64 = law.variances().sum();
        let steps = recorded(last);
        let cov = Law::cov(law);
        let (h, want) = (second_moment(&cov, &at), wiener(law, &at));
        let objectives =
            TARGETS.map(|t| Objective::new(t, &at)).into_iter().collect::<Result<Vec<_>>>()?;

        let moments = Moments::new(law, &at, rate, batch);
        let expected = objectives
            .iter()
            .map(|o| moments.excess(o, &steps).iter().map(|e| e / total).collect())
            .collect::<Vec<Vec<f64>>>();
        let floor = moments.floor() / total;

        let all: Vec<Run> = (0..runs as u64)
            .into_par_iter()
            .map(|r| Run::new(law, &objectives, &h, &want, rate, batch, &steps, &noise.child(r)))
            .collect();
        let n = runs as f64;
        let (mut seen, mut apart) = (Vec::new(), Vec::new());
        for k in 0..objectives.len() {
            seen.push(
                (0..steps.len())
                    .map(|i| {
                        let mean = all.iter().map(|r| r.excess[k][i]).sum::<f64>() / n;
                        let var = all.iter().map(|r| (r.excess[k][i] - mean).powi(2)).sum::<f64>()
                            / (n - 1.0);
                        [mean / total, (var / n).sqrt() / total]
                    })
                    .collect::<Vec<_>>(),
            );
            apart.push(
                (0..steps.len())
                    .map(|i| all.iter().map(|r| r.apart[k][i]).sum::<f64>() / n / total)
                    .collect::<Vec<_>>(),
            );
        }
        let mut evidence: Vec<Evidence> = objectives
            .iter()
            .zip(seen.iter().zip(&expected))
            .map(|(o, (seen, expected))| {
                let scores =
                    seen.iter().zip(expected).skip(1).map(|([mean, se], want)| (mean - want) / se);
                let worst =
                    scores.fold(0.0f64, |m, z| if z.is_nan() || z.abs() > m.abs() { z } else { m });
                Evidence::new(
                    format!(
                        "{}: excess risk over all steps, seen less expected, in standard errors",
                        o.target
                    ),
                    worst,
                    0.0,
                    5.0,
                )
                .because("the worst of some thirty correlated steps")
            })
            .collect();
        let late: Vec<f64> = all.iter().map(|r| r.late / total).collect();
        let mean = late.iter().sum::<f64>() / n;
        let se = (late.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / (n * (n - 1.0))).sqrt();
        evidence.push(
            Evidence::new(
                "stationary excess risk / expected: mean over the last half of the steps",
                mean / floor,
                1.0,
                5.0 * se / floor,
            )
            .because("five standard errors, from independent runs"),
        );
        let met = apart.iter().map(|a| a[a.len() - 1]).fold(0.0, larger);
        evidence.push(
            Evidence::new(
                "after the last step, same samples: excess risk of the objectives' difference / floor",
                met / floor,
                0.0,
                1e-2,
            )
            .because("what is left of the different starts"),
        );
        let least =
            law.variances().iter().map(|l| l * at.sigma.powi(2) / curvature(*l, &at)).sum::<f64>()
                / total;
        Ok(Self { batch, runs, rate, steps, expected, seen, apart, floor, least, evidence })
    }
}

/// Exact second moments of the error of stochastic gradient descent on Gaussian data.
///
/// With `E = M - M*`, batches of B and a residual r of `x0 - M* x_t`, which is independent of `x_t`, a step is
/// `E -> E (I - rate H_B) + rate mean(r x_t^T)`. Let `k_i = E||E u_i||^2`. By `E[x x^T K x x^T] = 2 H K H + H tr(H K)`,
/// `k_i -> k_i (1 - 2 rate h_i + rate^2 h_i^2 (1 + 1/B)) + rate^2 h_i (sum_j h_j k_j + least) / B`.
struct Moments {
    /// Curvature and Wiener gain of every direction.
    modes: Vec<(f64, f64)>,
    least: f64,
    rate: f64,
    batch: f64,
}

impl Moments {
    fn new(law: &Gaussian, at: &PathPoint, rate: f64, batch: usize) -> Self {
        let all = law
            .variances()
            .into_iter()
            .copied()
            .chain(std::iter::repeat_n(0.0, law.dim() - law.rank()));
        let modes = all.map(|l| (curvature(l, at), wiener_gain(l, at.alpha, at.sigma))).collect();
        let least = law.variances().iter().map(|l| l * at.sigma.powi(2) / curvature(*l, at)).sum();
        Self { modes, least, rate, batch: batch as f64 }
    }

    fn excess(&self, objective: &Objective, steps: &[usize]) -> Vec<f64> {
        let mut k: Vec<f64> =
            self.modes.iter().map(|(_, best)| (objective.start() - best).powi(2)).collect();
        let mut out = Vec::new();
        for n in 0..=steps[steps.len() - 1] {
            let excess: f64 = self.modes.iter().zip(&k).map(|((h, _), k)| h * k).sum();
            if steps.contains(&n) {
                out.push(excess);
            }
            for ((h, _), k) in self.modes.iter().zip(&mut k) {
                let step = self.rate * h;
                *k = *k * (1.0 - 2.0 * step + step * step * (1.0 + 1.0 / self.batch))
                    + self.rate * step * (excess + self.least) / self.batch;
            }
        }
        out
    }

    /// The fixed point: `least A / (1 - A)` with
    /// `A = sum_i (rate h_i / B) / (2 - rate h_i (1 + 1/B))`.
    fn floor(&self) -> f64 {
        let b = self.batch;
        let a: f64 = self
            .modes
            .iter()
            .map(|(h, _)| self.rate * h / b / (2.0 - self.rate * h * (1.0 + 1.0 / b)))
            .sum();
        self.least * a / (1.0 - a)
    }
}

/// One run of all objectives on the same samples.
struct Run {
    /// By target and recorded step.
    excess: Vec<Vec<f64>>,
    apart: Vec<Vec<f64>>,
    /// Mean excess of the x0-objective over the last half of the steps.
    late: f64,
}

impl Run {
    #[expect(clippy::too_many_arguments, reason = "what all runs share")]
    fn new(
        law: &Gaussian,
        objectives: &[Objective],
        h: &Array2<f64>,
        want: &Array2<f64>,
        rate: f64,
        batch: usize,
        steps: &[usize],
        noise: &Noise,
    ) -> Self {
        let (d, rank, last) = (law.dim(), law.rank(), steps[steps.len() - 1]);
        let at = &objectives[0].at;
        let colour = &law.modes() * &law.variances().mapv(f64::sqrt);
        let mut maps = vec![Array2::<f64>::zeros((d, d)); objectives.len()];
        let (mut excesses, mut apart) =
            (vec![Vec::new(); maps.len()], vec![Vec::new(); maps.len()]);
        let (mut late, mut late_count) = (0.0, 0);
        let mut draws = vec![0.0; batch * (rank + d)];
        for n in 0..=last {
            if steps.contains(&n) {
                let x0_maps: Vec<_> =
                    objectives.iter().zip(&maps).map(|(o, w)| o.to_x0(w)).collect();
                for (k, m) in x0_maps.iter().enumerate() {
                    excesses[k].push(excess(&(m - want), h));
                    apart[k].push(excess(&(m - &x0_maps[0]), h));
                }
            }
            // Far enough apart to be worth a product of matrices.
            if n >= last / 2 && n % 16 == 0 {
                late += excess(&(objectives[0].to_x0(&maps[0]) - want), h);
                late_count += 1;
            }
            noise.fill_normal(n as u64, &mut draws);
            let (z, eps) = draws.split_at(batch * rank);
            let z = ArrayView2::from_shape((batch, rank), z).expect("as many as drawn");
            let eps = ArrayView2::from_shape((batch, d), eps).expect("as many as drawn");
            let x0 = z.dot(&colour.t());
            let x = &x0 * at.alpha + &eps * at.sigma;
            for (o, w) in objectives.iter().zip(&mut maps) {
                let (a, b) = o.coefficients;
                let mut error = &x0 * -a - &eps * b;
                matmul_serial(1.0, x.view(), w.t(), 1.0, error.view_mut());
                matmul_serial(-rate / batch as f64, error.t(), x.view(), 1.0, w.view_mut());
            }
        }
        Self { excess: excesses, apart, late: late / f64::from(late_count) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

    #[test]
    fn the_floor_is_where_the_moments_end() {
        let law = Gaussian::diagonal(array![0.0, 0.0, 0.0], array![2.0, 0.5, 0.0]).unwrap();
        let at = Path::FlowMatching.at(0.4).unwrap();
        let moments = Moments::new(&law, &at, 0.3, 4);
        let objective = Objective::new(Prediction::Eps, &at).unwrap();
        let end = moments.excess(&objective, &[0, 2000]);
        assert!((end[1] / moments.floor() - 1.0).abs() <= 1e-13);
        // At first it is the risk of x_t / alpha, less the least: the noise itself, 3 sigma^2 /
        // alpha^2.
        assert!((end[0] + moments.least - 3.0 * (at.sigma / at.alpha).powi(2)).abs() <= 1e-14);
    }

    #[test]
    fn a_map_goes_to_x0_and_back() {
        let at = Path::FlowMatching.at(0.3).unwrap();
        for target in TARGETS {
            let objective = Objective::new(target, &at).unwrap();
            let w = Array2::from_shape_fn((3, 3), |(i, j)| (1.0 + i as f64 + 3.0 * j as f64).sin());
            assert!(largest(&(objective.from_x0(&objective.to_x0(&w)) - &w)) <= 1e-14, "{target}");
            assert!(
                (objective.to_x0(&Array2::zeros((2, 2)))
                    - Array2::from_diag_elem(2, objective.start()))
                .iter()
                .all(|v| *v == 0.0)
            );
        }
    }
}
