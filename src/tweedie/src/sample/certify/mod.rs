//! Certificates: measured order, evaluations and exact error of a sampler on laws whose answer is
//! known.
//!
//! Three laws: a Gaussian, a mixture of three, and the digits' Gaussian. What an error is depends
//! on the method ([`Measure`]): that of the states for a deterministic one; that of the law, by
//! exact propagation, for a stochastic one on a Gaussian; on the mixture, where no closed form
//! carries a law through a sampler, that of the moments of many chains, with its standard error.

pub mod digits;

use super::grid::{Grid, Spacing};
use super::noise_source::{Silence, standard_start};
use super::order::{Order, order, sampled_order};
use super::propagate::{ModeError, Response, Start, modes};
use super::registry::{BELOW_DECLARED, Named, Options, sampler};
use super::shortcut::Known;
use super::{Sampler, sample};
use crate::diffusion::{Denoiser, Path, PathPoint};
use crate::error::{Error, Result};
use crate::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use crate::law::mixture::Mixture;
use crate::law::{Gaussian, Law};
use crate::math::noise::Noise;
use crate::number::or_word;
use ndarray::{Array1, Array2, ArrayView1, Axis};
use serde::{Deserialize, Serialize};

/// What the errors of a study are.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Measure {
    /// Root mean square over 32 fixed starts and all coordinates, against the exact flow.
    States,
    /// W2 of the produced law to the true one, from the true start, by exact propagation.
    Law,
    /// Distance of mean and second moments of chains from the true ones, in units of the true
    /// deviation.
    Sampled,
}

/// One run of a study.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct StudyRun {
    /// Steps of the grid.
    pub steps: usize,
    /// Calls of the denoiser.
    pub nfe: usize,
    /// Error at the end of the grid.
    #[serde(serialize_with = "or_word")]
    pub error: f64,
    /// Its standard error; 0 unless sampled.
    #[serde(serialize_with = "or_word")]
    pub stderr: f64,
}

/// Evaluations that an error takes.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
pub struct Reach {
    /// The error.
    #[serde(serialize_with = "or_word")]
    pub tol: f64,
    /// Calls of the denoiser, interpolated between runs in log-log.
    #[serde(serialize_with = "or_word")]
    pub nfe: f64,
    /// Whether no run was as accurate, so that the measured order had to be trusted beyond them.
    pub extrapolated: bool,
}

/// A convergence study.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Study {
    /// What its errors are.
    pub measure: Measure,
    /// Runs, by steps.
    pub runs: Vec<StudyRun>,
    /// The order they show, where enough of them are above rounding or above their standard errors.
    pub order: Option<Order>,
    /// Evaluations to errors of 1e-2, 1e-4 and 1e-6, where they are reached or the order is clear
    /// enough to say where they would be.
    pub reach: Vec<Reach>,
}

impl Study {
    fn new(measure: Measure, runs: Vec<StudyRun>) -> Self {
        let column = |pick: fn(&StudyRun) -> f64| runs.iter().map(pick).collect::<Vec<_>>();
        let (steps, errors) =
            (runs.iter().map(|r| r.steps).collect::<Vec<_>>(), column(|r| r.error));
        let order = match measure {
            Measure::Sampled => sampled_order(&steps, &errors, &column(|r| r.stderr)).ok(),
            // Rounding of a few hundred steps on states of size 10.
            Measure::States | Measure::Law => order(&steps, &errors, 1e-12).ok(),
        };
        let mut study = Self { measure, runs, order, reach: Vec::new() };
        study.reach = [1e-2, 1e-4, 1e-6].into_iter().filter_map(|tol| study.reach(tol)).collect();
        study
    }

    /// Fewest evaluations after which the error is at most `tol`; `None` where neither the runs nor
    /// their order can tell.
    pub fn reach(&self, tol: f64) -> Option<Reach> {
        let Some(k) = self.runs.iter().position(|r| r.error <= tol) else {
            let (last, order) = (
                self.runs.last()?,
                self.order.filter(|o| o.stderr <= 0.05 && self.measure != Measure::Sampled)?,
            );
            return Some(Reach {
                tol,
                nfe: last.nfe as f64 * (last.error / tol).powf(1.0 / order.slope),
                extrapolated: true,
            });
        };
        let run = self.runs[k];
        let nfe = match k.checked_sub(1).map(|k| self.runs[k]) {
            Some(before) if run.error > 0.0 => {
                let share = (before.error / tol).ln() / (before.error / run.error).ln();
                before.nfe as f64 * (run.nfe as f64 / before.nfe as f64).powf(share)
            }
            _ => run.nfe as f64,
        };
        Some(Reach { tol, nfe, extrapolated: false })
    }
}

/// The grid of the order studies: even in log-SNR on the cosine path from `sigma / alpha` = 10 to
/// 0.05, both ends fixed, so that only the number of steps changes; and where start-up steps weigh.
///
/// # Errors
/// No steps.
pub fn study_grid(steps: usize) -> Result<Vec<PathPoint>> {
    Grid { s_max: 10.0, s_min: 0.05, clean: false, ..Grid::new(Spacing::LogSnr, steps) }
        .points(&Path::Cosine)
}

/// Errors of a method at several numbers of steps, and the order they show; see [`Measure`] for
/// what an error is.
///
/// # Errors
/// What the method or the grid refuses.
pub fn study(
    method: &dyn Sampler,
    law: Known,
    steps: &[usize],
    grid: impl Fn(usize) -> Result<Vec<PathPoint>>,
) -> Result<Study> {
    let measure = match law {
        _ if !method.is_stochastic() => Measure::States,
        Known::Gaussian(_) => Measure::Law,
        Known::Any(_) => Measure::Sampled,
    };
    // The exact end is the same for all grids that share both ends.
    let mut reference: Option<(PathPoint, PathPoint, Array2<f64>)> = None;
    let mut runs = Vec::new();
    for &n in steps {
        let grid = grid(n)?;
        let (nfe, error, stderr) = match (measure, law) {
            (Measure::Law, Known::Gaussian(law)) => law_error(method, law, &grid)?,
            (Measure::Sampled, Known::Any(law)) => moment_error(method, law, &grid)?,
            _ => {
                let (first, last) = (grid[0], grid[grid.len() - 1]);
                let start = starts(model(law).dim(), first.sigma.hypot(first.alpha));
                let known = reference.take().filter(|(a, b, _)| (*a, *b) == (first, last));
                let exact = match (known, law) {
                    (Some((_, _, exact)), _) => exact,
                    (None, Known::Gaussian(law)) => pf_ode_map(law, start.view(), first, last)?,
                    (None, Known::Any(law)) => {
                        pf_ode_solve(law, start.view(), &[first, last])?.swap_remove(1)
                    }
                };
                let end = sample(method, model(law), &grid, start, &mut Silence)?;
                let gaps = &end.x - &exact;
                reference = Some((first, last, exact));
                (end.nfe, (gaps.iter().map(|e| e * e).sum::<f64>() / gaps.len() as f64).sqrt(), 0.0)
            }
        };
        runs.push(StudyRun { steps: n, nfe, error, stderr });
    }
    Ok(Study::new(measure, runs))
}

fn model<'a>(law: Known<'a>) -> &'a dyn Denoiser {
    match law {
        Known::Gaussian(law) => law,
        Known::Any(law) => law,
    }
}

/// 32 fixed starts spread over two deviations either way.
fn starts(d: usize, std: f64) -> Array2<f64> {
    Array2::from_shape_fn((32, d), |(i, j)| {
        std * ((((i * 7 + j * 11) % 32) as f64 + 0.5) / 8.0 - 2.0)
    })
}

fn law_error(
    method: &dyn Sampler,
    law: &Gaussian,
    grid: &[PathPoint],
) -> Result<(usize, f64, f64)> {
    let law = modes(law)?;
    let response = Response::of(method, grid, diagonal(&law))?;
    Ok((response.nfe, response.w2(&law.mean().to_owned(), Start::Marginal), 0.0))
}

/// Chains of a sampled study.
const CHAINS: usize = 1 << 15;

/// Error of the mean and the second moments about the true mean, with what the chains' own noise
/// adds to its square taken off, and its standard error.
fn moment_error(
    method: &dyn Sampler,
    law: &dyn Law,
    grid: &[PathPoint],
) -> Result<(usize, f64, f64)> {
    // A certificate has no seed to choose: it would be another certificate.
    let noise = Noise::new(4);
    let (first, last, d) = (grid[0], grid[grid.len() - 1], law.dim());
    let start =
        law.sample(CHAINS, &noise) * first.alpha + standard_start(&noise, CHAINS, d) * first.sigma;
    let end = sample(method, law, grid, start, &mut noise.clone())?;
    let mean = law.mean() * last.alpha;
    let cov =
        law.cov() * (last.alpha * last.alpha) + Array2::<f64>::eye(d) * (last.sigma * last.sigma);
    let std = (cov.diag().sum() / d as f64).sqrt();
    // Mean first, then the upper triangle, whose off-diagonal entries count twice.
    let pairs: Vec<(usize, usize)> = (0..d).flat_map(|i| (i..d).map(move |j| (i, j))).collect();
    let weight = |i: usize, j: usize| if i == j { 1.0 } else { std::f64::consts::SQRT_2 };
    let statistics = |x: ArrayView1<f64>| {
        let y = (&x - &mean) / std;
        let squares: Vec<f64> = pairs
            .iter()
            .map(|&(i, j)| weight(i, j) * (y[i] * y[j] - cov[[i, j]] / (std * std)))
            .collect();
        y.into_iter().chain(squares).collect::<Array1<f64>>()
    };
    let n = CHAINS as f64;
    let rows: Vec<Array1<f64>> = end.x.axis_iter(Axis(0)).map(statistics).collect();
    let error = rows.iter().fold(Array1::<f64>::zeros(d + pairs.len()), |sum, u| sum + u) / n;
    let length = error.dot(&error).sqrt();
    let (mut own, mut along) = (0.0, 0.0);
    for u in &rows {
        let off = u - &error;
        own += off.dot(&off) / (n - 1.0);
        along += off.dot(&error).powi(2) / (n - 1.0);
    }
    Ok((end.nfe, (length * length - own / n).max(0.0).sqrt(), (along / n).sqrt() / length))
}

/// Variances of a diagonal law in the order of its coordinates.
fn diagonal(law: &Gaussian) -> Array1<f64> {
    Law::cov(law).diag().to_owned()
}

/// What declared and measured order say together.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Verdict {
    /// Within 0.1 on every law.
    #[serde(rename = "as declared")]
    AsDeclared,
    /// Lower than declared on some law.
    #[serde(rename = "order below declared")]
    BelowDeclared,
    /// Higher than declared on some law, and lower on none.
    #[serde(rename = "order above declared")]
    AboveDeclared,
    /// Nothing but rounding is left, at any number of steps.
    #[serde(rename = "exact")]
    Exact,
    /// The method does not converge by more steps alone, and says so.
    #[serde(rename = "no order declared")]
    NoneDeclared,
}

impl std::fmt::Display for Verdict {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Verdict::AsDeclared => "as declared",
            Verdict::BelowDeclared => "order below declared",
            Verdict::AboveDeclared => "order above declared",
            Verdict::Exact => "exact",
            Verdict::NoneDeclared => "no order declared",
        })
    }
}

/// A whole run from `N(0, 80^2)` to the data, on EDM's path and grid: the law it produces against
/// the data's, exactly.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub struct WholeRun {
    /// Steps of the grid.
    pub steps: usize,
    /// Calls of the denoiser.
    pub nfe: usize,
    /// W2 of the produced law to the data's.
    #[serde(serialize_with = "or_word")]
    pub w2: f64,
    /// Distance of the two means.
    #[serde(serialize_with = "or_word")]
    pub bias: f64,
    /// `KL(produced || data)` in nats, within the directions in which the data vary: in the others
    /// both laws are a point.
    #[serde(serialize_with = "or_word")]
    pub kl: f64,
}

/// What a sampler's certificate says.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Certificate {
    /// Name of the method.
    pub sampler: String,
    /// Order that it declares.
    pub declared: Option<u32>,
    /// Whether it draws noise on the way.
    pub stochastic: bool,
    /// On a Gaussian of three modes.
    pub gaussian: Study,
    /// On a mixture of three Gaussians in the plane.
    pub mixture: Study,
    /// On the Gaussian of the digits' mean and covariance.
    pub digits: Study,
    /// Whole runs on the digits' Gaussian.
    pub whole: Vec<WholeRun>,
    /// Declared against measured.
    pub verdict: Verdict,
}

impl Certificate {
    /// The studies with the names of their laws.
    pub fn studies(&self) -> [(&'static str, &Study); 3] {
        [("gaussian", &self.gaussian), ("mixture", &self.mixture), ("digits", &self.digits)]
    }

    /// Whether the verdict is the one on record: no order other than the declared one, except below
    /// it for [`BELOW_DECLARED`].
    pub fn is_as_recorded(&self) -> bool {
        match self.verdict {
            Verdict::BelowDeclared => BELOW_DECLARED.contains(&self.sampler.as_str()),
            Verdict::AboveDeclared => false,
            _ => !BELOW_DECLARED.contains(&self.sampler.as_str()),
        }
    }
}

/// Numbers of steps of a certificate.
pub const CERTIFIED_STEPS: [usize; 8] = [4, 8, 16, 32, 64, 128, 256, 512];

/// Numbers of steps where the error is sampled: beyond them it drowns in the chains' own noise.
pub const SAMPLED_STEPS: [usize; 4] = [8, 16, 32, 64];

/// What certificates tell the methods that can be told something: churn of `edm-heun`, noise `g` of
/// `reverse-sde-family`.
pub const SETTINGS: Options<'static> = Options { churn: 5.0, g: 0.5, ..Options::DEFAULT };

/// The Gaussian of 1,797 handwritten digits (8 x 8, UCI) in the coordinates of its modes: means and
/// variances, the largest variance first. Samplers that treat all directions alike have on it the
/// errors that they have on the digits' own Gaussian, at a coordinate's cost.
///
/// # Errors
/// None.
pub fn digits() -> Result<Gaussian> {
    let column = |j: usize| digits::MODES.iter().map(|mode| mode[j]).collect();
    Gaussian::diagonal(column(0), column(1))
}

/// The laws on which samplers are certified.
#[derive(Clone, Debug)]
pub struct Bench {
    /// Three modes, of deviations 2, 1 and 0.2.
    pub gaussian: Gaussian,
    /// Three Gaussians in the plane.
    pub mixture: Mixture,
    /// The digits' mean and covariance, in the coordinates of their modes.
    pub digits: Gaussian,
}

impl Bench {
    /// Makes the laws.
    ///
    /// # Errors
    /// None that these laws give.
    pub fn new() -> Result<Self> {
        let part = |m: f64, v: f64| {
            Gaussian::diagonal(ndarray::array![m, -0.5 * m], ndarray::array![v, 0.5 * v])
        };
        Ok(Self {
            gaussian: Gaussian::diagonal(
                ndarray::array![0.5, -1.0, 0.3],
                ndarray::array![4.0, 1.0, 0.04],
            )?,
            mixture: Mixture::new(
                ndarray::array![0.3, 0.5, 0.2],
                vec![part(-1.5, 0.2)?, part(0.3, 0.4)?, part(2.0, 0.1)?],
            )?,
            digits: digits()?,
        })
    }

    /// The certificate of a method by name.
    ///
    /// # Errors
    /// A name that is none.
    pub fn certify(&self, name: &str) -> Result<Certificate> {
        let on = |law, sampled: bool| {
            let method = sampler(name, &SETTINGS.on(law))?;
            let steps: &[usize] =
                if sampled && method.is_stochastic() { &SAMPLED_STEPS } else { &CERTIFIED_STEPS };
            Ok::<_, Error>((
                method.order(),
                method.is_stochastic(),
                study(&method, law, steps, study_grid)?,
            ))
        };
        let (declared, stochastic, gaussian) = on(Known::Gaussian(&self.gaussian), false)?;
        let mixture = on(Known::Any(&self.mixture), true)?.2;
        let digits = on(Known::Gaussian(&self.digits), false)?.2;
        let whole = [5, 10, 20, 50]
            .into_iter()
            .map(|steps| self.whole_run(name, steps))
            .collect::<Result<_>>()?;
        let verdict = verdict(declared, [&gaussian, &mixture, &digits]);
        Ok(Certificate {
            sampler: name.to_owned(),
            declared,
            stochastic,
            gaussian,
            mixture,
            digits,
            whole,
            verdict,
        })
    }

    fn whole_run(&self, name: &str, steps: usize) -> Result<WholeRun> {
        let grid = Grid::new(Spacing::Karras, steps).points(&Path::EDM)?;
        let response =
            Response::of_method(&Named { name, options: SETTINGS }, &grid, diagonal(&self.digits))?;
        let errors = response.errors(&self.digits.mean().to_owned(), Start::Normal(grid[0].sigma));
        let sum = |term: fn(&ModeError) -> f64| errors.iter().map(term).sum::<f64>();
        Ok(WholeRun {
            steps,
            nfe: response.nfe,
            w2: sum(ModeError::w2_squared).sqrt(),
            bias: sum(|e| e.mean_err * e.mean_err).sqrt(),
            kl: sum(|e| if e.lambda > 0.0 { e.kl() } else { 0.0 }),
        })
    }
}

/// [`Bench::certify`] on a bench of its own.
///
/// # Errors
/// A name that is none.
///
/// # Example
/// ```
/// use tweedie::sample::certify::{Verdict, certify};
/// assert_eq!(certify("ddim").unwrap().verdict, Verdict::AsDeclared);
/// ```
pub fn certify(name: &str) -> Result<Certificate> {
    Bench::new()?.certify(name)
}

/// Declared against measured: within 0.1; a sampled order decides only beyond three standard errors
/// more.
fn verdict(declared: Option<u32>, studies: [&Study; 3]) -> Verdict {
    // What is left of an exact method is rounding, or the reference integrator's.
    if studies.iter().all(|s| s.runs.iter().all(|r| r.error <= 1e-9)) {
        return Verdict::Exact;
    }
    let Some(declared) = declared else { return Verdict::NoneDeclared };
    let gap = |s: &&Study| {
        let (order, margin) = (s.order?, if s.measure == Measure::Sampled { 3.0 } else { 0.0 });
        Some((order.slope - f64::from(declared), 0.1 + margin * order.stderr))
    };
    let gaps: Vec<(f64, f64)> = studies.iter().filter_map(gap).collect();
    match () {
        _ if gaps.is_empty() || gaps.iter().any(|(gap, tol)| !(*gap >= -tol)) => {
            Verdict::BelowDeclared
        }
        _ if gaps.iter().any(|(gap, tol)| gap > tol) => Verdict::AboveDeclared,
        _ => Verdict::AsDeclared,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Errors `c steps^-order`.
    fn falling(measure: Measure, order: i32, stderr: f64) -> Study {
        let run =
            |n: usize| StudyRun { steps: n, nfe: 2 * n, error: (n as f64).powi(-order), stderr };
        Study::new(measure, CERTIFIED_STEPS.map(run).to_vec())
    }

    #[test]
    fn evaluations_are_interpolated_and_extrapolated_along_the_line() {
        let study = falling(Measure::States, 2, 0.0);
        for (tol, extrapolated) in [(1e-2, false), (1e-4, false), (1e-6, true)] {
            let reach = study.reach(tol).unwrap();
            // 2 evaluations a step, tol^(-1/2) steps.
            assert!((reach.nfe / (2.0 / tol.sqrt()) - 1.0).abs() <= 1e-12, "{reach:?}");
            assert_eq!(reach.extrapolated, extrapolated);
        }
        assert_eq!(study.reach(0.1).unwrap().nfe, 8.0);
        // Sampled errors end in noise: nothing is said beyond the runs.
        assert!(falling(Measure::Sampled, 2, 1e-9).reach(1e-6).is_none());
    }

    #[test]
    fn verdicts() {
        let says = |declared, orders: [i32; 3]| {
            let [a, b, c] = orders.map(|p| falling(Measure::States, p, 0.0));
            verdict(declared, [&a, &b, &c])
        };
        assert_eq!(says(Some(2), [2, 2, 2]), Verdict::AsDeclared);
        assert_eq!(says(Some(3), [3, 2, 4]), Verdict::BelowDeclared);
        assert_eq!(says(Some(1), [1, 2, 1]), Verdict::AboveDeclared);
        assert_eq!(says(None, [1, 2, 1]), Verdict::NoneDeclared);
        // A method whose order cannot be measured is not as declared.
        let stuck = Study::new(
            Measure::States,
            CERTIFIED_STEPS
                .map(|n| StudyRun { steps: n, nfe: n, error: 0.5, stderr: 0.0 })
                .to_vec(),
        );
        assert_eq!(verdict(Some(1), [&stuck; 3]), Verdict::BelowDeclared);
        let lost = Study::new(
            Measure::States,
            vec![StudyRun { steps: 4, nfe: 4, error: f64::NAN, stderr: 0.0 }],
        );
        assert_eq!(verdict(Some(1), [&lost; 3]), Verdict::BelowDeclared);
        let written = String::from_utf8(crate::number::json(&lost)).unwrap();
        assert!(written.contains(r#""error":"nan""#), "{written}");
        let rounding = falling(Measure::States, 20, 0.0);
        assert_eq!(verdict(Some(1), [&rounding; 3]), Verdict::Exact);
        // Noise decides nothing: one order off, one standard error wide.
        let noisy = Study {
            order: Some(Order { slope: 1.0, stderr: 1.0, runs: 4 }),
            ..falling(Measure::Sampled, 1, 1e-9)
        };
        assert_eq!(
            verdict(
                Some(2),
                [&falling(Measure::Law, 2, 0.0), &noisy, &falling(Measure::Law, 2, 0.0)]
            ),
            Verdict::AsDeclared
        );
    }
}
