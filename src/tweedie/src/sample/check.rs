//! Foreign trajectories and samples held to the exact answer, with what is wrong in words where it
//! can be told.
//!
//! A deterministic trajectory is compared with the exact flow from its own start. Being inaccurate
//! is no fault, so each step is also *read*: a step of any affine method is
//! `x_to = sum_j (a_j x_j + b_j x0_hat_j)` over the last few points, and least squares over the
//! recorded states gives the weights. Two things must then hold, or a point mass would not be
//! reproduced: `sum_j a_j sigma_j = sigma_to` and `sum_j (a_j alpha_j + b_j) = alpha_to`. Where
//! they do not, they say at which level the step really lands. Data of few modes fit too many
//! weights: a reading counts only where the exact flow's own state is no such combination. Where
//! the law does not vary at all in some direction, that direction is a point mass and every step is
//! held to it, read or not.
//!
//! A state inside that no reading explains is held to two distances, from the exact flow and from
//! one exact step off the state before it: DDIM's over the same points are the yardstick, with half
//! of the state's size as the floor, more with fewer than ten steps. The first state that fails
//! both is named.
//!
//! Stochastic trajectories and plain samples are compared by their law, with exact tests in the
//! modes of the true covariance; where the law is off, the first state that shows it is named, and
//! the noise that each step added is estimated.

use super::ancestral::Ddim;
use super::dpmpp::{nodes_of, published_weights};
use super::noise_source::Silence;
use super::order::{Order, order};
use super::propagate::{Response, Start, modes};
use super::run::LambdaStep;
use super::shortcut::Known;
use super::{grid, sample, sample_watched};
use crate::diffusion::PathPoint;
use crate::diffusion::kernel::{Posterior, Transition};
use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::exact::distance::w2_squared;
use crate::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use crate::exact::teleport::gaussian_with_moments_of;
use crate::law::{Gaussian, Law};
use crate::math::gaussian::w2_squared_normal;
use crate::math::moments::{Normalisation, mean_and_cov};
use crate::math::noise::Noise;
use crate::math::polar::nuclear_norm;
use crate::math::{larger, smaller};
use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2, ArrayBase, Axis, CowArray, Data, Ix2, Zip};
use serde::Serialize;
use statrs::distribution::{ChiSquared, ContinuousCDF, Normal};
use std::borrow::Cow;
use std::collections::VecDeque;

/// What was recorded of a foreign sampler.
#[derive(Clone, Debug)]
pub struct Recording {
    /// States in sampling order, each (n, d).
    pub x: Vec<Array2<f64>>,
    /// The coordinates of each state.
    pub points: Vec<PathPoint>,
    /// Whether the states were `f32`.
    pub single: bool,
}

/// How good a recording is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Verdict {
    /// The exact answer: to rounding for a flow, within the sampling error for a law.
    Exact,
    /// A method at work: no more than a discretisation's error.
    Converging,
    /// Something else.
    Off,
}

/// One point of a trajectory.
#[derive(Clone, Copy, Debug)]
pub struct StepReport {
    /// Index of the state; 0 is the start.
    pub k: usize,
    /// Its signal coefficient.
    pub alpha: f64,
    /// Its noise coefficient.
    pub sigma: f64,
    /// Root mean square error over root mean square of the exact states; for stochastic kinds the
    /// W2 of moments over it.
    pub rel_err: f64,
}

/// How far the law of the last states is from the true one.
#[derive(Clone, Copy, Debug)]
pub struct LawReport {
    /// Distance of the means.
    pub mean_err: f64,
    /// Frobenius norm of the difference of the covariances.
    pub cov_err: f64,
    /// W2 between the Gaussians with these moments.
    pub w2: f64,
    /// Its standard error, by leaving out a tenth at a time.
    pub w2_stderr: f64,
    /// Probability that draws of the true law look as unlikely, over all modes (Bonferroni).
    pub p_value: f64,
}

/// The outcome for one recording.
#[derive(Clone, Debug)]
pub struct Report {
    /// Steps recorded; 0 for plain samples.
    pub steps: usize,
    /// States in the batch.
    pub rows: usize,
    /// How good it is.
    pub verdict: Verdict,
    /// Largest relative error.
    pub max_rel_err: f64,
    /// Relative error of the last states.
    pub final_rel_err: f64,
    /// All of them.
    pub per_step: Vec<StepReport>,
    /// For stochastic kinds.
    pub law: Option<LawReport>,
    /// What is wrong, or worth knowing, in words.
    pub findings: Vec<String>,
}

/// Told what is done, of how many, and in words what they are.
pub type Watch<'a> = dyn Fn(usize, usize, &str) + 'a;

/// States of one batch, each (n, d), that are looked at in sampling order, as often as needed.
pub trait States {
    /// Calls `f` with each state and its index for as long as it says to go on.
    ///
    /// # Errors
    /// Those of `f`, and those of reading the states.
    fn each(&self, f: &mut dyn FnMut(usize, &Array2<f64>) -> Result<bool>) -> Result<()>;
}

impl States for Vec<Array2<f64>> {
    fn each(&self, f: &mut dyn FnMut(usize, &Array2<f64>) -> Result<bool>) -> Result<()> {
        for (k, x) in self.iter().enumerate() {
            if !f(k, x)? {
                break;
            }
        }
        Ok(())
    }
}

fn model<'a>(law: Known<'a>) -> &'a dyn Law {
    match law {
        Known::Gaussian(law) => law,
        Known::Any(law) => law,
    }
}

/// Holds a deterministic trajectory to the exact flow from its own start.
///
/// # Errors
/// Shapes that do not fit the law or each other; coefficients that are no levels; a law whose flow
/// cannot be followed.
pub fn check_ode(recording: &Recording, law: Known) -> Result<Report> {
    fits(recording, model(law).dim())?;
    let Recording { x, points, .. } = recording;
    let steps = x.len() - 1;
    let beyond = x.iter().enumerate().find_map(|(k, x)| Some((k, out_of_range(x)?)));
    if let Some(report) = unusable(points, x[0].nrows(), beyond, grid::checked(points).err()) {
        return Ok(report);
    }
    let flow = Flow::new(recording, law)?;
    // The simplest method over the same points is the yardstick: DDIM.
    let (mut found, mut of_ddim, mut sizes) = (Vec::new(), Vec::new(), Vec::new());
    let mut failed = None;
    sample_watched(
        &Ddim { eta: 0.0 },
        model(law),
        points,
        x[0].clone(),
        &mut Silence,
        |k, ddim| match flow.at(k) {
            Ok(exact) => {
                found.push(Distance::between(&x[k], &exact));
                of_ddim.push(Distance::between(ddim, &exact));
                sizes.push(rms(&exact).max(f64::MIN_POSITIVE));
            }
            Err(e) => failed = Some(e),
        },
    )?;
    if let Some(e) = failed {
        return Err(e);
    }
    let errors: Vec<f64> = found.iter().zip(&sizes).map(|(found, size)| found.rms / size).collect();
    let mut report = report(points, x[0].nrows(), &errors);
    // Rounding of a few hundred steps, or of storing the states.
    let rounding = if recording.single { 1e-5 } else { 1e-10 };
    if report.max_rel_err <= rounding {
        report.verdict = Verdict::Exact;
        return Ok(report);
    }
    let reading = read_steps(recording, law, &flow)?;
    let all_read = reading.iter().all(|r| matches!(r, Reading::Consistent(_) | Reading::Tangent));
    report.findings.extend(words(&reading, recording));
    if let (Known::Gaussian(law), true) = (law, report.findings.is_empty()) {
        report.findings.extend(off_the_point_mass(recording, law, &reading));
    }
    let faulty = reading.iter().any(|r| {
        matches!(r, Reading::Lands { .. } | Reading::Neighbour { .. } | Reading::StaleEps)
    });
    // So are the states inside that no reading explains, each beside the exact flow and beside one
    // step of it.
    let mut astray = None;
    for (k, reading) in reading.iter().enumerate().take(steps - 1) {
        if matches!(reading, Reading::Consistent(_) | Reading::Tangent | Reading::Clipped) {
            continue;
        }
        let to = k + 1;
        if found[to].within(2.0, &of_ddim[to], rounding * sizes[to]) {
            continue;
        }
        let (step, by_ddim) = flow.step(recording, law, k)?;
        // Right methods of higher order may be worse than DDIM where the noise is high, the more so
        // the fewer steps they take: only what is off by half of the state itself, and more with
        // fewer than ten steps, is none.
        let few = (10.0 / steps as f64).max(1.0).powi(2);
        let half = Distance {
            rms: 0.5 * few * sizes[to],
            row: 0.5 * few * sizes[to] * (report.rows as f64).sqrt(),
        };
        if !step.within(1.0, &half.or(&by_ddim, 4.0), rounding * sizes[to]) {
            let (p, size) = (points[to], sizes[to]);
            astray = Some(format!(
                "state {to} (alpha = {:.6}, sigma = {:.6}) is off the exact flow by {:.1e} of its size, and off one exact step from state {k} by \
                 {:.1e}; DDIM's are {:.1e} and {:.1e}: it is not where a sampler would land",
                p.alpha,
                p.sigma,
                found[to].rms / size,
                step.rms / size,
                of_ddim[to].rms / size,
                by_ddim.rms / size
            ));
            break;
        }
    }
    // A method that cannot be read is held to DDIM at the end too.
    let yardstick = of_ddim[steps].rms / sizes[steps];
    let slack = 2.0 * yardstick + rounding;
    let close = report.final_rel_err <= slack;
    let nonsense = astray.is_some();
    if let Some(text) = astray {
        report.findings.push(text);
    } else if !faulty && !all_read && !close {
        report.findings.push(format!(
            "the final error {:.2e} is more than twice DDIM's over the same points, {yardstick:.2e}",
            report.final_rel_err
        ));
        // A last step to sigma = 0 draws nothing.
        if (reading.iter().zip(&points[1..]))
            .all(|(r, to)| matches!(r, Reading::Unread) || to.sigma == 0.0)
        {
            report.findings.push("no step is a combination of states and x0: if the sampler draws noise, pass --kind sde".into());
        }
    }
    report.verdict = if !faulty && !nonsense && (all_read || close) {
        Verdict::Converging
    } else {
        Verdict::Off
    };
    Ok(report)
}

/// The order that several recordings of growing numbers of steps show, where all of them differ in
/// it.
pub fn order_of(reports: &[Report]) -> Option<Order> {
    let steps: Vec<usize> = reports.iter().map(|r| r.steps).collect();
    let mut distinct = steps.clone();
    distinct.sort_unstable();
    distinct.dedup();
    let errors: Vec<f64> = reports.iter().map(|r| r.final_rel_err).collect();
    if distinct.len() == steps.len() { order(&steps, &errors, 1e-12).ok() } else { None }
}

/// Holds the states at the last point (or each, for the table) of a stochastic trajectory to the
/// true marginals.
///
/// # Errors
/// As [`check_ode`]; fewer than two states.
pub fn check_sde(recording: &Recording, law: Known) -> Result<Report> {
    fits(recording, model(law).dim())?;
    check_sde_watched(&recording.x, &recording.points, law, &|_, _, _| {})
}

/// [`check_sde`] of states that need not be in memory together; `watch` is told how far it is.
///
/// # Errors
/// As [`check_sde`], and those of reading the states.
pub fn check_sde_watched(
    states: &dyn States,
    points: &[PathPoint],
    law: Known,
    watch: &Watch,
) -> Result<Report> {
    let fault = grid::checked(points).err();
    let truth = moments_of(law)?;
    let (mut rows, mut errors, mut beyond) = (0, Vec::new(), None);
    let mut ends = None;
    states.each(&mut |k, x| {
        watch(k, points.len(), "states");
        rows = x.nrows();
        beyond = beyond.or_else(|| Some((k, out_of_range(x)?)));
        if beyond.is_none() && fault.is_none() {
            errors.push(mode_distance(x, &truth, &points[k]));
        }
        if k + 1 == points.len() {
            ends = Some(x.clone());
        }
        Ok(true)
    })?;
    if let Some(report) = unusable(points, rows, beyond, fault) {
        return Ok(report);
    }
    let Some(ends) = ends.filter(|_| errors.len() == points.len()) else {
        return Err(Error::shape(
            "states, points",
            &[errors.len(), points.len()],
            "equal and not 0",
            "record alpha and sigma of every state, the start included",
        ));
    };
    let mut report = report(points, rows, &errors);
    let (found, _) = law_and_moments(&ends, law, &truth, &points[points.len() - 1], watch)?;
    report.verdict = if found.p_value > LEVEL {
        Verdict::Exact
    } else {
        // DDPM over the same points is a correct method: what it is off by is discretisation.
        let modes = modes(&truth)?;
        let ddpm = Response::of(&Ddim { eta: 1.0 }, points, Law::cov(&modes).diag().to_owned())?;
        let yardstick = ddpm.w2(&modes.mean().to_owned(), Start::Marginal);
        let slack = 2.0 * yardstick + 4.0 * found.w2_stderr;
        report.findings.push(format!(
            "W2 {:.2e}; DDPM's exact W2 over the same points is {yardstick:.2e}",
            found.w2
        ));
        if found.w2 <= slack {
            Verdict::Converging
        } else {
            report.findings.extend(first_state_off(states, points, law, &truth, watch)?);
            report.findings.extend(noise_off(states, points, model(law), watch)?);
            Verdict::Off
        }
    };
    report.law = Some(found);
    if let Some(text) = state_astray(&report) {
        report.verdict = Verdict::Off;
        report.findings.insert(0, text);
    }
    Ok(report)
}

/// The first state inside whose moments are none of a sampler at work: off by half of the law's
/// size beyond what so few rows are, and by four times what the state before it and the last one
/// are.
fn state_astray(report: &Report) -> Option<String> {
    let steps = &report.per_step;
    // W2 of the moments of n draws, over the law's size: `sqrt(3 / 2n)` for a Gaussian without a
    // mean.
    let few = 4.0 * (1.5 / report.rows as f64).sqrt();
    let last = report.final_rel_err;
    let k = (1..steps.len() - 1)
        .find(|&k| !(steps[k].rel_err <= (0.5 + few).max(4.0 * steps[k - 1].rel_err.max(last))))?;
    let StepReport { alpha, sigma, rel_err, .. } = steps[k];
    Some(format!(
        "state {k} (alpha = {alpha:.6}, sigma = {sigma:.6}) has moments at a W2 of {rel_err:.1e} of the law's size, state {} of {:.1e}, the last of \
         {last:.1e}: it is not where a sampler would land",
        k - 1,
        steps[k - 1].rel_err
    ))
}

/// Holds plain samples (n, d) to the law.
///
/// # Errors
/// A dimension that is not the law's; fewer than two samples.
pub fn check_samples(x: &Array2<f64>, law: Known) -> Result<Report> {
    check_samples_watched(x, law, &|_, _, _| {})
}

/// [`check_samples`]; `watch` is told how far it is.
///
/// # Errors
/// As [`check_samples`].
pub fn check_samples_watched(x: &Array2<f64>, law: Known, watch: &Watch) -> Result<Report> {
    let clean = PathPoint::still(1.0, 0.0);
    fit(std::slice::from_ref(x), model(law).dim())?;
    let beyond = out_of_range(x).map(|v| (0, v));
    if let Some(report) = unusable(&[clean], x.nrows(), beyond, None) {
        return Ok(report);
    }
    let truth = moments_of(law)?;
    let mut report = report(&[clean], x.nrows(), &[mode_distance(x, &truth, &clean)]);
    let (found, tests) = law_and_moments(x, law, &truth, &clean, watch)?;
    report.verdict = if found.p_value > LEVEL { Verdict::Exact } else { Verdict::Off };
    if report.verdict == Verdict::Off {
        report.findings.push(format!(
            "draws of the law itself would look like this with probability {:.1e} only",
            found.p_value
        ));
        report.findings.extend(worst_moment(&tests).map(|t| t.words()));
    }
    report.law = Some(found);
    Ok(report)
}

/// Chance at which a correct sampler is refused, at most.
pub const LEVEL: f64 = 1e-3;

fn fits(recording: &Recording, d: usize) -> Result<()> {
    let Recording { x, points, .. } = recording;
    if x.is_empty() || x.len() != points.len() {
        let got = [x.len(), points.len()];
        return Err(Error::shape(
            "states, points",
            &got,
            "equal and not 0",
            "record alpha and sigma of every state, the start included",
        ));
    }
    fit(x, d)
}

/// That all are batches of as many states of dimension `d`.
fn fit(x: &[Array2<f64>], d: usize) -> Result<()> {
    match x.iter().find(|y| y.ncols() != d || y.nrows() != x[0].nrows() || y.nrows() == 0) {
        None => Ok(()),
        Some(x) => Err(Error::shape(
            "states",
            x.shape(),
            format!("(n, {d}), the law's dimension"),
            "record the batch as rows",
        )),
    }
}

/// The exact flow from a recording's start.
enum Flow<'a> {
    /// In closed form, state by state.
    Closed(&'a Gaussian, &'a Recording),
    /// By the integrator, all states at once.
    Solved(Vec<Array2<f64>>),
}

impl<'a> Flow<'a> {
    fn new(recording: &'a Recording, law: Known<'a>) -> Result<Self> {
        Ok(match law {
            Known::Gaussian(law) => Self::Closed(law, recording),
            Known::Any(law) => {
                Self::Solved(pf_ode_solve(law, recording.x[0].view(), &recording.points)?)
            }
        })
    }

    /// Its state at a point.
    fn at(&self, k: usize) -> Result<CowArray<'_, f64, Ix2>> {
        match self {
            Self::Closed(law, Recording { x, points, .. }) => {
                pf_ode_map(law, x[0].view(), points[0], points[k]).map(CowArray::from)
            }
            Self::Solved(states) => Ok(states[k].view().into()),
        }
    }

    /// How far the recorded step from state k, and DDIM's from there, are from the exact one.
    fn step(&self, recording: &Recording, law: Known, k: usize) -> Result<(Distance, Distance)> {
        let Recording { x, points, .. } = recording;
        let ends = &points[k..k + 2];
        let exact = exact_step(recording, law, k)?;
        let ddim = sample(&Ddim { eta: 0.0 }, model(law), ends, x[k].clone(), &mut Silence)?;
        let exact = CowArray::from(exact);
        Ok((Distance::between(&x[k + 1], &exact), Distance::between(&ddim.x, &exact)))
    }
}

/// Distance of states from exact ones.
struct Distance {
    /// Root mean square.
    rms: f64,
    /// The same of the worst row: rows that change places are few.
    row: f64,
}

impl Distance {
    fn between(x: &Array2<f64>, exact: &CowArray<f64, Ix2>) -> Self {
        let squares = x
            .rows()
            .into_iter()
            .zip(exact.rows())
            .map(|(x, e)| x.iter().zip(e).map(|(x, e)| (x - e) * (x - e)).sum::<f64>());
        let squares: Vec<f64> = squares.collect();
        let worst = squares.iter().copied().fold(0.0, larger);
        Self {
            rms: (squares.iter().sum::<f64>() / x.len() as f64).sqrt(),
            row: (worst / x.ncols() as f64).sqrt(),
        }
    }

    /// Whether both are at most `factor` times another's, and `rounding`.
    fn within(&self, factor: f64, other: &Self, rounding: f64) -> bool {
        self.rms <= factor * other.rms + rounding
            && self.row <= factor * (2.0 * other.row) + 10.0 * rounding
    }

    /// The larger of this and a multiple of another.
    fn or(&self, other: &Self, factor: f64) -> Self {
        Self { rms: self.rms.max(factor * other.rms), row: self.row.max(factor * other.row) }
    }
}

fn report(points: &[PathPoint], rows: usize, errors: &[f64]) -> Report {
    let line = |(k, (p, &rel_err)): (usize, (&PathPoint, &f64))| StepReport {
        k,
        alpha: p.alpha,
        sigma: p.sigma,
        rel_err,
    };
    Report {
        steps: points.len() - 1,
        rows,
        verdict: Verdict::Off,
        max_rel_err: errors.iter().copied().fold(0.0, larger),
        final_rel_err: errors[errors.len() - 1],
        per_step: points.iter().zip(errors).enumerate().map(line).collect(),
        law: None,
        findings: Vec::new(),
    }
}

/// Squares of larger numbers, and the squares of these, are none.
const LARGEST: f64 = 1e70;

/// A number of a state beyond what can be reckoned with.
fn out_of_range(x: &Array2<f64>) -> Option<f64> {
    x.iter().copied().find(|v| !(v.abs() <= LARGEST))
}

/// The report of a recording in which nothing more can be read: state k holds a number that is out
/// of range, or its grid is none.
fn unusable(
    points: &[PathPoint],
    rows: usize,
    beyond: Option<(usize, f64)>,
    fault: Option<Error>,
) -> Option<Report> {
    let text = match (beyond, fault) {
        (Some((k, v)), _) => {
            let p = points[k];
            let what = if v.is_finite() {
                format!("{v:e}, beyond {LARGEST:e}")
            } else {
                "NaN or infinity".into()
            };
            format!(
                "state {k} (alpha = {}, sigma = {}) holds {what}: look at the step before it",
                p.alpha, p.sigma
            )
        }
        (None, Some(fault)) => format!("the grid: {fault}"),
        (None, None) => return None,
    };
    let mut report = report(points, rows, &vec![f64::NAN; points.len()]);
    report.findings.push(text);
    Some(report)
}

fn rms<S: Data<Elem = f64>>(x: &ArrayBase<S, Ix2>) -> f64 {
    (x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64).sqrt()
}

/// What a step turned out to be.
#[derive(Clone, Debug)]
enum Reading {
    /// Weights that reproduce a point mass; true where they are the published third-order ones.
    Consistent(bool),
    /// Weights that land on the tangent of a variance-preserving path: Euler's step in its time.
    Tangent,
    /// Weights that land at another level than the file says.
    Lands { alpha: f64, sigma: f64, x0_as_eps: bool },
    /// The model was evaluated at the level of a neighbouring point.
    Neighbour { ahead: bool },
    /// x0 was clipped, the eps of before kept.
    StaleEps,
    /// x0 was clipped.
    Clipped,
    /// No such combination.
    Unread,
}

/// Where the exact flow takes state k of a recording over its next step.
fn exact_step(recording: &Recording, law: Known, k: usize) -> Result<Array2<f64>> {
    let ends = &recording.points[k..k + 2];
    match law {
        Known::Gaussian(law) => pf_ode_map(law, recording.x[k].view(), ends[0], ends[1]),
        Known::Any(law) => Ok(pf_ode_solve(law, recording.x[k].view(), ends)?
            .pop()
            .expect("a state for each point")),
    }
}

/// Evaluations before the last that a multistep method may use.
const PAST: usize = 3;

fn read_steps(recording: &Recording, known: Known, flow: &Flow) -> Result<Vec<Reading>> {
    let Recording { x, points, single } = recording;
    let law = model(known);
    let at = |k: usize, level: &PathPoint| law.denoised(x[k].view(), level);
    // Of this step and those before it that are looked at, the newest first.
    let mut x0_hats = VecDeque::new();
    // States are off by rounding, steps by a few times that; and so much a landing may be off at
    // most.
    let (tol, allowed) = if *single { (5e-6, 1e-3) } else { (1e-11, 1e-6) };
    (0..x.len() - 1)
        .map(|k| {
            let from = points[k];
            x0_hats.truncate(PAST);
            x0_hats.push_front(at(k, &from)?);
            let control = flow.at(k + 1)?.into_owned();
            let fit = |columns: &[&Array2<f64>]| least_squares(columns, &x[k + 1], &control, tol);
            let reading = read_step(recording, k, &x0_hats, &fit, &at, tol, allowed)?;
            if !matches!(reading, Reading::Lands { .. }) {
                return Ok(reading);
            }
            // Where a law is as good as linear over the columns, they give the exact step from the
            // same state too, and as landing elsewhere: a method whose inner evaluations are not
            // recorded (Heun's) is no more to blame.
            let exact = exact_step(recording, known, k)?;
            let fit = |columns: &[&Array2<f64>]| least_squares(columns, &x[k + 1], &exact, tol);
            read_step(recording, k, &x0_hats, &fit, &at, tol, allowed)
        })
        .collect()
}

/// Reads the step from state k; `x0_hats` are those of this state and of the ones before it.
fn read_step(
    recording: &Recording,
    k: usize,
    x0_hats: &VecDeque<Array2<f64>>,
    fit: &dyn Fn(&[&Array2<f64>]) -> Fit,
    at: &dyn Fn(usize, &PathPoint) -> Result<Array2<f64>>,
    tol: f64,
    allowed: f64,
) -> Result<Reading> {
    let Recording { x, points, .. } = recording;
    let (from, to) = (points[k], points[k + 1]);
    // x0_hat's of the last steps, then eps_hat's, which bring their states along.
    let mut least = f64::INFINITY;
    'reading: for back in 0..=PAST.min(k) {
        for states in if back == 0 { 1..=1 } else { 1..=2 } {
            let old = if states == 2 { back } else { 0 };
            let mut columns: Vec<&Array2<f64>> = (0..=old).map(|j| &x[k - j]).collect();
            columns.extend((0..=back).map(|j| &x0_hats[j]));
            let (w, error) = match fit(&columns) {
                Fit::Weights(w, error) => (w, error),
                Fit::No(residual) => {
                    least = smaller(least, residual);
                    continue;
                }
                // More columns would tell less.
                Fit::Untold if back == 0 => return Ok(Reading::Unread),
                Fit::Untold => break 'reading,
            };
            let (a, b) = w.split_at(old + 1);
            let sigma: f64 = a.iter().enumerate().map(|(j, a)| a * points[k - j].sigma).sum();
            let alpha = a.iter().enumerate().map(|(j, a)| a * points[k - j].alpha).sum::<f64>()
                + b.iter().sum::<f64>();
            let size = from.sigma.hypot(from.alpha);
            // A sound method would do it, but where the landing itself is known to less than a
            // thousandth, the weights do not say.
            if error * size > 1e-3 * to.sigma.hypot(to.alpha) {
                return Ok(Reading::Unread);
            }
            let near =
                (sigma - to.sigma).abs().max((alpha - to.alpha).abs()) <= (allowed + error) * size;
            if near {
                return Ok(Reading::Consistent(
                    old == 0 && back == 2 && lacks_factor_two(points, k, b),
                ));
            }
            // Euler in the time of a variance-preserving path leaves the circle along its tangent.
            let on_circle =
                |p: &PathPoint| (p.alpha * p.alpha + p.sigma * p.sigma - 1.0).abs() <= 1e-6;
            let (step_alpha, step_sigma) = (to.alpha - from.alpha, to.sigma - from.sigma);
            let forward = (alpha - from.alpha) * step_alpha + (sigma - from.sigma) * step_sigma
                > 0.5 * (step_alpha * step_alpha + step_sigma * step_sigma);
            let along = from.alpha * (alpha - from.alpha) + from.sigma * (sigma - from.sigma);
            if on_circle(&from) && on_circle(&to) && forward && along.abs() <= allowed + error {
                return Ok(Reading::Tangent);
            }
            // x0 fed where eps belongs: x0_used = (x - sigma x0_hat) / alpha.
            let swapped = to.alpha / from.alpha;
            let x0_as_eps = back == 0
                && ((a[0] - swapped).abs() + (b[0] - (to.sigma - swapped * from.sigma)).abs())
                    <= allowed * (1.0 + swapped);
            return Ok(Reading::Lands { alpha, sigma, x0_as_eps });
        }
    }
    // A sound reading that fails by little leaves no room for an unsound one.
    if least <= 100.0 * tol {
        return Ok(Reading::Unread);
    }
    for (ahead, level) in [(true, Some(to)), (false, k.checked_sub(1).map(|j| points[j]))] {
        let Some(level) = level.filter(|l| l.sigma > 0.0) else { continue };
        if fit(&[&x[k], &at(k, &level)?]).is_one() {
            return Ok(Reading::Neighbour { ahead });
        }
    }
    let clipped = x0_hats[0].mapv(|v| v.clamp(-1.0, 1.0));
    if fit(&[&x[k], &clipped]).is_one() {
        return Ok(Reading::Clipped);
    }
    let stale = fit(&[&x[k], &x0_hats[0], &clipped]).is_one();
    Ok(if stale { Reading::StaleEps } else { Reading::Unread })
}

/// Whether three weights are those of the third-order update without its factor two.
fn lacks_factor_two(points: &[PathPoint], k: usize, weights: &[f64]) -> bool {
    let (Ok(step), Ok(nodes)) =
        (LambdaStep::between(&points[k], &points[k + 1]), nodes_of(points, k, 3))
    else {
        return false;
    };
    if !step.h.is_finite() || !nodes.iter().all(|t| t.is_finite()) {
        return false;
    }
    let published = published_weights(step, &nodes).map(|w| w * points[k + 1].alpha);
    weights.iter().zip(published).all(|(w, p)| (w - p).abs() <= 1e-4 * p.abs())
}

/// Whether columns give a state.
enum Fit {
    /// They do, with these weights, a sum of which is known to the second number.
    Weights(Vec<f64>, f64),
    /// They do not, by so much of its size.
    No(f64),
    /// The data cannot tell: columns that are nearly dependent, or that give any such state.
    Untold,
}

impl Fit {
    fn is_one(&self) -> bool {
        matches!(self, Self::Weights(..))
    }
}

/// Whether columns give `y` to within `tol` of its size, and do not give `control`, a state of the
/// same kind that they should not.
fn least_squares(
    columns: &[&Array2<f64>],
    y: &Array2<f64>,
    control: &Array2<f64>,
    tol: f64,
) -> Fit {
    let (rows, n) = (y.len(), columns.len());
    let norms: Vec<f64> =
        columns.iter().map(|c| c.iter().map(|v| v * v).sum::<f64>().sqrt()).collect();
    if rows < n + 3 || norms.iter().any(|s| *s == 0.0 || !s.is_finite()) {
        return Fit::Untold;
    }
    // A part of a large state gives the weights, all of it the residual.
    let every = rows.div_ceil(1 << 17);
    let part = rows.div_ceil(every);
    let scaled =
        columns.iter().zip(&norms).flat_map(|(c, s)| c.iter().step_by(every).map(move |v| v / s));
    let design = DMatrix::from_iterator(part, n, scaled);
    let svd = design.svd(true, true);
    let (widest, smallest) = (svd.singular_values.max(), svd.singular_values.min());
    if !(smallest > 1e-7 * widest) {
        return Fit::Untold;
    }
    // Weights, the residual over the target's size, and that size.
    let solved = |y: &Array2<f64>| {
        let target = DVector::from_iterator(part, y.iter().step_by(every).copied());
        let w = svd.solve(&target, 0.0).expect("both factors were asked for");
        let mut rest = y.clone();
        columns.iter().zip(&norms).zip(w.iter()).for_each(|((c, s), w)| rest.scaled_add(-w / s, c));
        (w, largest(&rest) / largest(y), target.norm())
    };
    let (w, residual, size) = solved(y);
    if solved(control).1 <= 10.0 * tol {
        return Fit::Untold;
    }
    if !(residual <= tol) {
        return Fit::No(residual);
    }
    let narrowest = norms.iter().copied().fold(f64::INFINITY, smaller);
    Fit::Weights(
        w.iter().zip(&norms).map(|(w, s)| w / s).collect(),
        10.0 * tol * size / (smallest * narrowest),
    )
}

/// Largest magnitude; NaN where there is one.
fn largest(x: &Array2<f64>) -> f64 {
    x.iter().map(|v| v.abs()).fold(0.0, larger)
}

/// The first unread step that does not carry directions without variance as `alpha x0 + sigma eps`.
fn off_the_point_mass(
    recording: &Recording,
    law: &Gaussian,
    readings: &[Reading],
) -> Option<String> {
    let Recording { x, points, single } = recording;
    let largest = law.variances().iter().copied().fold(0.0, larger);
    let still: Vec<Array2<f64>> = (x.iter().zip(points))
        .map(|(x, at)| {
            let mut out = Array2::zeros(x.raw_dim());
            let gain = |l: f64| if l <= 1e-14 * largest { 1.0 } else { 0.0 };
            law.map_modes(x.view(), at.alpha, 0.0, gain, out.view_mut());
            out
        })
        .collect();
    let gap = |k: usize| {
        rms(&(&still[k + 1] - &(&still[k] * (points[k + 1].sigma / points[k].sigma))))
            / rms(&x[k + 1])
    };
    let tol = if *single { 1e-5 } else { 1e-10 };
    let k =
        (0..readings.len()).find(|&k| matches!(readings[k], Reading::Unread) && gap(k) > tol)?;
    Some(format!(
        "step {k}: a direction in which the data do not vary is not carried as alpha x0 + sigma eps, off by {:.1e} of the state; a method \
         in ln sigma or in time may do that, one in sigma or in x0 may not",
        gap(k)
    ))
}

fn words(readings: &[Reading], recording: &Recording) -> Vec<String> {
    let points = &recording.points;
    let mut findings = Vec::new();
    let mut tell = |which: &dyn Fn(&Reading) -> bool, text: &dyn Fn(usize) -> String| {
        let steps: Vec<usize> = (0..readings.len()).filter(|&k| which(&readings[k])).collect();
        if let Some(&first) = steps.first() {
            let more = if steps.len() > 1 {
                format!(" (and {} more steps like it)", steps.len() - 1)
            } else {
                String::new()
            };
            findings.push(format!("step {first}: {}{more}", text(first)));
        }
    };
    tell(&|r| matches!(r, Reading::Lands { x0_as_eps: true, .. }), &|_| {
        "the model's x0 is used as if it were eps".into()
    });
    tell(&|r| matches!(r, Reading::Lands { x0_as_eps: false, .. }), &|k| {
        let Reading::Lands { alpha, sigma, .. } = readings[k] else {
            unreachable!("selected above")
        };
        let to = points[k + 1];
        let close = |a: f64, b: f64| (a - b).abs() <= 1e-6 * b.abs().max(1e-3);
        let meant = match points.iter().position(|p| close(alpha, p.alpha) && close(sigma, p.sigma))
        {
            Some(j) => format!("which is point {j}: an index is off"),
            None if close(alpha, to.sigma) && close(sigma, to.alpha) => {
                "alpha and sigma are swapped".into()
            }
            None => {
                "which is no point of this file: the step's own next time is not the grid's".into()
            }
        };
        format!(
            "its weights land at alpha = {alpha:.6}, sigma = {sigma:.6}, the file says {:.6}, {:.6}; {meant}",
            to.alpha, to.sigma
        )
    });
    tell(&|r| matches!(r, Reading::Neighbour { .. }), &|k| {
        let ahead = matches!(readings[k], Reading::Neighbour { ahead: true });
        format!(
            "the model was evaluated at the level of the {} point: a time is off by one",
            if ahead { "next" } else { "previous" }
        )
    });
    tell(&|r| matches!(r, Reading::StaleEps), &|_| {
        "x0 is clipped to [-1, 1] but eps is the one of before: x_t is no longer alpha x0 + sigma eps".into()
    });
    tell(&|r| matches!(r, Reading::Clipped), &|_| "x0 is clipped to [-1, 1]".into());
    // Of steps that land elsewhere some may look like a tangent's.
    let lands = readings.iter().any(|r| matches!(r, Reading::Lands { .. }));
    tell(&|r| matches!(r, Reading::Tangent) && !lands, &|_| {
        "Euler's step in the path's time: right in the limit, but a point mass is not reproduced"
            .into()
    });
    tell(&|r| matches!(r, Reading::Consistent(true)), &|_| {
        "the third-order update lacks the factor 2 of its second difference: the method converges at order 2".into()
    });
    findings
}

/// The Gaussian with the law's moments.
fn moments_of(law: Known<'_>) -> Result<Cow<'_, Gaussian>> {
    match law {
        Known::Gaussian(law) => Ok(Cow::Borrowed(law)),
        Known::Any(law) => gaussian_with_moments_of(law).map(Cow::Owned),
    }
}

/// Deviations from the true mean in mode coordinates, (n, modes), and the true variances.
fn in_modes(x: &Array2<f64>, truth: &Gaussian, at: &PathPoint) -> (Array2<f64>, Array1<f64>) {
    let centred = x - &(&truth.mean() * at.alpha);
    let variances = truth.variances().mapv(|l| at.alpha * at.alpha * l + at.sigma * at.sigma);
    (truth.coordinates(centred.view()), variances)
}

/// W2 of the moments, mode by mode, over the root mean square of the true law.
fn mode_distance(x: &Array2<f64>, truth: &Gaussian, at: &PathPoint) -> f64 {
    let (y, variances) = in_modes(x, truth, at);
    let n = y.nrows() as f64;
    let mut sum = 0.0;
    for (y, v) in y.columns().into_iter().zip(&variances) {
        let mean = y.sum() / n;
        let var = y.iter().map(|y| (y - mean) * (y - mean)).sum::<f64>() / (n - 1.0).max(1.0);
        sum += w2_squared_normal(mean, var, 0.0, *v);
    }
    let size = variances.sum() + at.alpha * at.alpha * truth.mean().dot(&truth.mean());
    (sum / size).sqrt()
}

/// Distances and the test of the moments of `x` against the true law at a level.
///
/// # Formula
/// In each mode the mean's `sqrt(n / v) mean` is standard normal and `(n - 1) var / v` chi-squared
/// with n - 1 degrees of freedom, exactly for a Gaussian law; for others nearly so, from some ten
/// rows on, with the degrees of freedom that the law's own fourth moment gives (from at most 65536
/// of its draws). The p-value is the smallest of all times their number: a correct sampler falls
/// below a level no more often than that.
///
/// # Errors
/// Fewer than two rows; moments that are no covariance.
pub fn law_report(x: &Array2<f64>, law: Known, at: &PathPoint) -> Result<LawReport> {
    let truth = moments_of(law)?;
    Ok(law_and_moments(x, law, &truth, at, &|_, _, _| {})?.0)
}

/// [`law_report`], and the tests of the moments that its p-value is the worst of.
fn law_and_moments(
    x: &Array2<f64>,
    law: Known,
    truth: &Gaussian,
    at: &PathPoint,
    watch: &Watch,
) -> Result<(LawReport, Vec<MomentTest>)> {
    let n = x.nrows();
    if n < 2 {
        return Err(Error::shape(
            "samples",
            x.shape(),
            "(n, d) with n >= 2",
            "record more than one sample",
        ));
    }
    // Jackknife over ten groups, fewer where there are fewer rows.
    let groups = n.min(10);
    let tell = |done| watch(done, groups + 2, "moments and W2");
    tell(0);
    let tests = moment_tests(x, law, truth, at);
    let p_value = worst_moment(&tests).map_or(1.0, |t| t.p);
    let noise = at.sigma * at.sigma;
    let (mean, mut cov) = mean_and_cov(x.view(), Normalisation::Unbiased)?;
    cov -= &truth.matrix(|l| at.alpha * at.alpha * l + noise);
    let cov_err = cov.iter().map(|c| c * c).sum::<f64>().sqrt();
    drop(cov);
    let mean_err = (&mean - &(&truth.mean() * at.alpha)).iter().map(|m| m * m).sum::<f64>().sqrt();
    tell(1);
    let distance = ToMarginal::new(x, truth, at);
    let w2 = distance.of_rows(|_| true)?;
    let without = (0..groups)
        .map(|g| {
            tell(2 + g);
            distance.of_rows(|i| i % groups != g)
        })
        .collect::<Result<Vec<_>>>()?;
    let average = without.iter().sum::<f64>() / groups as f64;
    let spread: f64 = without.iter().map(|w| (w - average) * (w - average)).sum();
    let w2_stderr = (spread * (groups - 1) as f64 / groups as f64).sqrt();
    Ok((LawReport { mean_err, cov_err, w2, w2_stderr, p_value }, tests))
}

/// W2 of the moments of rows of states from the true marginal.
///
/// # Formula
/// `|m - alpha mean|^2 + tr A + tr B - 2 |X B^(1/2)|_*`, where the n centred rows over `sqrt n` are
/// X, `A = X^T X`, B is the marginal's covariance and `| |_*` the sum of the singular values: of
/// `A^(1/2) B^(1/2)` they are the same. So rows are left out without an eigenproblem of their own
/// covariance, and singular values without vectors are a few times cheaper than that.
struct ToMarginal<'a> {
    x: &'a Array2<f64>,
    truth: &'a Gaussian,
    at: &'a PathPoint,
    /// The rows times `B^(1/2)`.
    weighted: Array2<f64>,
    /// `tr B`.
    trace: f64,
}

impl<'a> ToMarginal<'a> {
    fn new(x: &'a Array2<f64>, truth: &'a Gaussian, at: &'a PathPoint) -> Self {
        let variance = |l: f64| at.alpha * at.alpha * l + at.sigma * at.sigma;
        let mut weighted = Array2::zeros(x.raw_dim());
        truth.map_modes(x.view(), at.alpha, 0.0, |l| variance(l).sqrt(), weighted.view_mut());
        let off = (truth.dim() - truth.rank()) as f64 * variance(0.0);
        let trace = truth.variances().iter().map(|&l| variance(l)).sum::<f64>() + off;
        Self { x, truth, at, weighted, trace }
    }

    /// Of the rows that are kept.
    fn of_rows(&self, keep: impl Fn(usize) -> bool) -> Result<f64> {
        /// Below this share of the traces their difference loses digits, six of sixteen at it.
        const SHARE: f64 = 1e-6;
        let rows: Vec<usize> = (0..self.x.nrows()).filter(|&i| keep(i)).collect();
        let n = rows.len() as f64;
        let centred = |x: &Array2<f64>| {
            let mut part = x.select(Axis(0), &rows);
            let mean = part.sum_axis(Axis(0)) / n;
            part -= &mean;
            (part, mean)
        };
        let (part, mean) = centred(self.x);
        let spread = part.iter().map(|v| v * v).sum::<f64>() / n;
        drop(part);
        let shift = mean - &self.truth.mean() * self.at.alpha;
        let common = nuclear_norm(centred(&self.weighted).0.view())? / n.sqrt();
        let squared = shift.dot(&shift) + (spread + self.trace - 2.0 * common);
        if squared >= SHARE * (spread + self.trace) {
            return Ok(squared.sqrt());
        }
        let part = Gaussian::from_data(self.x.select(Axis(0), &rows).view())?;
        Ok(w2_squared(&part, &marginal(self.truth, self.at)?)?.max(0.0).sqrt())
    }
}

/// One moment of one mode beside the true one.
struct MomentTest {
    /// Variance of the mode at its level.
    variance: f64,
    /// Whether it is the mean or the variance that is tested.
    of_mean: bool,
    /// Deviation of the mean in standard deviations, or the ratio of the variances.
    got: f64,
    /// Two-sided, times the number of tests.
    p: f64,
}

impl MomentTest {
    fn words(&self) -> String {
        let Self { variance, got, .. } = *self;
        match self.of_mean {
            _ if variance == 0.0 => {
                "a direction in which the law does not vary is off its place".into()
            }
            true => format!(
                "in the direction of variance {variance:.3e} the mean is off by {got:.3} standard deviations"
            ),
            false => format!(
                "in the direction of variance {variance:.3e} the variance is {got:.3} of the true one"
            ),
        }
    }
}

fn worst_moment(tests: &[MomentTest]) -> Option<&MomentTest> {
    tests.iter().min_by(|a, b| a.p.total_cmp(&b.p))
}

/// Mean and variance of every mode.
fn moment_tests(x: &Array2<f64>, law: Known, truth: &Gaussian, at: &PathPoint) -> Vec<MomentTest> {
    let (y, variances) = in_modes(x, truth, at);
    let n = x.nrows() as f64;
    let spread = match law {
        Known::Gaussian(_) => None,
        Known::Any(law) => Some(spread_of_squares(law, truth, at)),
    };
    let count = (2 * variances.len()) as f64;
    // Below this a mode's variance is a covariance's rounding: it has one place only, met to the
    // rounding of f32 at worst.
    let floor = 1e-12 * variances.iter().copied().fold(0.0, larger);
    let near = 1e-5 * (1.0 + x.iter().map(|v| v.abs()).fold(0.0, larger));
    let mut tests = Vec::with_capacity(2 * variances.len());
    for (k, (y, &variance)) in y.columns().into_iter().zip(&variances).enumerate() {
        let mean = y.sum() / n;
        if variance <= floor {
            let p = if y.iter().all(|y| y.abs() <= near) { 1.0 } else { 0.0 };
            tests.push(MomentTest { variance: 0.0, of_mean: true, got: mean, p });
            continue;
        }
        let off = mean / variance.sqrt();
        let p = 2.0 * Normal::standard().sf(n.sqrt() * off.abs());
        tests.push(MomentTest { variance, of_mean: true, got: off, p: (p * count).min(1.0) });
        let ratio = y.iter().map(|y| (y - mean) * (y - mean)).sum::<f64>() / ((n - 1.0) * variance);
        let freedom = match &spread {
            None => n - 1.0,
            Some(spread) => 2.0 * (n - 1.0) * (variance / spread[k]).powi(2),
        };
        let p = match ChiSquared::new(freedom) {
            Ok(chi) => 2.0 * chi.cdf(freedom * ratio).min(chi.sf(freedom * ratio)),
            // Squares that overflow are no variance.
            Err(_) => 0.0,
        };
        tests.push(MomentTest { variance, of_mean: false, got: ratio, p: (p * count).min(1.0) });
    }
    tests
}

/// The first state of a stochastic trajectory whose law is off, and in what.
fn first_state_off(
    states: &dyn States,
    points: &[PathPoint],
    law: Known,
    truth: &Gaussian,
    watch: &Watch,
) -> Result<Option<String>> {
    let mut first = None;
    states.each(&mut |k, x| {
        watch(k, points.len(), "looking for the first state that is off");
        let at = &points[k];
        let tests = moment_tests(x, law, truth, at);
        let off = worst_moment(&tests).filter(|t| t.p * points.len() as f64 <= LEVEL);
        first = off.map(|test| {
            format!(
                "state {k} (alpha = {:.6}, sigma = {:.6}) is the first that is off: {}",
                at.alpha,
                at.sigma,
                test.words()
            )
        });
        Ok(first.is_none())
    })?;
    Ok(first)
}

/// The first step whose noise is not the posterior's, `sigma_to^2 (1 - snr_from / snr_to)`.
///
/// The noise is what states and `x0_hat` of this step and the one before do not explain. Its
/// variance is known to `sqrt(2 / rows)`: only more than five of these count.
fn noise_off(
    states: &dyn States,
    points: &[PathPoint],
    law: &dyn Law,
    watch: &Watch,
) -> Result<Option<String>> {
    let mut found = None;
    // Of what a step is made but for its noise: the state before it, its x0_hat, and that of the
    // one before.
    let mut columns: Vec<Array2<f64>> = Vec::new();
    states.each(&mut |to, x| {
        watch(to, points.len(), "looking at the noise of each step");
        let mut older = None;
        if to > 0 {
            found = noise_of_step(to - 1, points, &columns, x);
            older = Some(columns.swap_remove(1));
        }
        columns = vec![x.clone()];
        if found.is_none() && to + 1 < points.len() {
            columns.push(law.denoised(x.view(), &points[to])?);
        }
        columns.extend(older);
        Ok(found.is_none())
    })?;
    Ok(found)
}

/// What is wrong with the noise of the step from state k to `end`, which is a combination of
/// columns but for it.
fn noise_of_step(
    k: usize,
    points: &[PathPoint],
    columns: &[Array2<f64>],
    end: &Array2<f64>,
) -> Option<String> {
    let (from, to) = (points[k], points[k + 1]);
    let rows = end.len();
    if to.sigma == 0.0 || from.alpha == 0.0 || rows < 100 {
        return None;
    }
    let design =
        DMatrix::from_iterator(rows, columns.len(), columns.iter().flat_map(|c| c.iter().copied()));
    let target = DVector::from_iterator(rows, end.iter().copied());
    let w = design.clone().svd(true, true).solve(&target, 0.0).ok()?;
    let freedom = (rows - columns.len()) as f64;
    let got = (&design * w - target).norm_squared() / freedom;
    let posterior = Posterior::between(Level::from(&to), Level::from(&from)).ok()?.var;
    let forward = Transition::between(Level::from(&to), Level::from(&from)).ok()?.var;
    let is = |var: f64| (got / var - 1.0).abs() <= 5.0 * (2.0 / freedom).sqrt();
    if is(posterior) {
        return None;
    }
    let known = if is(forward) { "; it is the forward step's, an upper bound" } else { "" };
    Some(format!(
        "step {k}: it adds noise of variance {got:.4e}, {:.4} of the posterior's {posterior:.4e}{known}",
        got / posterior
    ))
}

/// Law of `x_t` for Gaussian data.
fn marginal(law: &Gaussian, at: &PathPoint) -> Result<Gaussian> {
    let noise = at.sigma * at.sigma;
    let cov = law.matrix(|l| at.alpha * at.alpha * l + noise);
    let cov = (&cov + &cov.t()) * 0.5;
    Gaussian::new(&law.mean() * at.alpha, cov.view())
}

/// Deviation of the squared deviation in each mode, from draws of the law.
fn spread_of_squares(law: &dyn Law, truth: &Gaussian, at: &PathPoint) -> Array1<f64> {
    // In high dimension fewer, or they would take gigabytes.
    let draws = ((1 << 22) / law.dim()).clamp(1 << 12, 1 << 16);
    let noise = Noise::new(0).child(1);
    let mut x = law.sample(draws, &noise);
    let mut eps = Array2::zeros(x.raw_dim());
    noise.fill_normal(0, eps.as_slice_mut().expect("standard layout"));
    Zip::from(&mut x).and(&eps).for_each(|x, e| *x = at.alpha * *x + at.sigma * e);
    let (y, _) = in_modes(&x, truth, at);
    let squares = y.mapv(|y| y * y);
    squares.std_axis(Axis(0), 0.0)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The distance by singular values is that of dense covariances: with fewer rows than
    /// dimensions and more, for laws of full rank and below it, axes and none, with noise and
    /// without; and it is kept where it is nothing beside the traces.
    #[test]
    fn the_distance_of_rows_is_that_of_their_covariance() {
        let noise = Noise::new(5);
        let cov = |d: usize, rank: usize| {
            let root = Array2::from_shape_fn((d, rank), |(i, j)| {
                noise.normal(9, (i * rank + j) as u64) / (1 + j) as f64
            });
            root.dot(&root.t())
        };
        let mean = |d: usize| Array1::from_shape_fn(d, |i| i as f64 / d as f64);
        let laws = [
            Gaussian::new(mean(6), cov(6, 6).view()).unwrap(),
            Gaussian::new(mean(6), cov(6, 3).view()).unwrap(),
            Gaussian::new(mean(6), cov(6, 3).view()).unwrap().truncated(3),
            Gaussian::diagonal(mean(5), Array1::from(vec![0.3, 2.0, 0.0, 1.0, 4.0])).unwrap(),
            Gaussian::isotropic(mean(3), 0.0).unwrap(),
        ];
        for (k, law) in laws.iter().enumerate() {
            for (rows, alpha, sigma) in [(4, 1.0, 0.0), (40, 0.8, 0.6), (40, 1.0, 0.0)] {
                let at = PathPoint::still(alpha, sigma);
                let x = law.sample(rows, &noise.child(k as u64)) * (1.2 * alpha) + sigma * 0.1;
                let distance = ToMarginal::new(&x, law, &at);
                for keep in [|_: usize| true, |i: usize| i % 4 != 1] {
                    let kept: Vec<usize> = (0..rows).filter(|&i| keep(i)).collect();
                    let part = Gaussian::from_data(x.select(Axis(0), &kept).view()).unwrap();
                    let want = w2_squared(&part, &marginal(law, &at).unwrap()).unwrap().sqrt();
                    let got = distance.of_rows(keep).unwrap();
                    // Roots of rounded variances: sqrt eps of the largest deviation on either side.
                    let size = (distance.trace + want * want).sqrt();
                    assert!((got - want).abs() <= 1e-6 * size, "{k} {rows} {at:?}: {got} {want}");
                }
            }
        }
        // Rows that have the law's moments to rounding.
        let law = Gaussian::diagonal(mean(2), Array1::from(vec![4.0, 1.0])).unwrap();
        let signs = ndarray::array![[1.0, 1.0], [1.0, -1.0], [-1.0, 1.0], [-1.0, -1.0]];
        let x = &signs * &ndarray::array![2.0, 1.0] + &mean(2);
        let at = PathPoint::still(1.0, 0.0);
        let none = ToMarginal::new(&x, &law, &at).of_rows(|_| true).unwrap();
        assert!(none <= 1e-15, "{none}");
    }
}
