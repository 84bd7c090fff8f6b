//! The probability-flow ODE: its exact map for a Gaussian between any two levels, and a reference
//! integrator for every law.

use crate::diffusion::PathPoint;
use crate::diffusion::level::Level;
use crate::error::{Error, Result, finite};
use crate::exact::gains::{psi, psi_factors, xi};
use crate::exact::integrate::{Stopped, integrate};
use crate::law::{Gaussian, Law};
use crate::math::larger;
use ndarray::{Array1, Array2, ArrayView2, Axis, Zip, s};

/// State at `to` of the PF-ODE trajectories that pass `from` at `x`, for Gaussian data.
///
/// # Formula
/// `x_to = alpha_to mean + sum_k psi(lambda_k) u_k u_k^T (x - alpha_from mean)`, with [`psi`] of
/// lambda = 0 off the modes.
///
/// The map is the same on every path through the two levels, in both directions; `from` and `to`
/// may be noisier or cleaner.
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// `x` that does not fit; a pair of coefficients that is no level; `from.sigma = 0` with a singular
/// covariance, unless `to.sigma = 0` too (a mode without variance has collapsed to a point there:
/// any state at `to` comes from it).
///
/// # Source
/// Wang and Vastola 2023, "Diffusion models generate images like painters", the Gaussian score
/// model.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::{diffusion::PathPoint, exact::pf_ode::pf_ode_map, law::Gaussian};
/// let law = Gaussian::diagonal(array![1.0, 0.0], array![4.0, 0.0]).unwrap();
/// let noise = PathPoint::NOISE;
/// let data = pf_ode_map(&law, array![[1.0, 1.0]].view(), &noise, &PathPoint::CLEAN).unwrap();
/// assert_eq!(data, array![[3.0, 0.0]]);
/// ```
pub fn pf_ode_map(
    law: &Gaussian,
    x: ArrayView2<f64>,
    from: impl Into<Level>,
    to: impl Into<Level>,
) -> Result<Array2<f64>> {
    let (from, to) = regular(law, from, to)?;
    let off = (law.rank() < law.dim()).then_some(0.0);
    let lost = |lambda: f64| {
        let [a, b] = psi_factors(lambda, from, to);
        a > 0.0 && !(a * b).is_normal()
    };
    if from.sigma.max(to.sigma) > 0.0 && law.variances().iter().copied().chain(off).any(lost) {
        // The ratio of two deviations is out of range, where the state times it need not be.
        let half = mapped(law, x, from.alpha, 0.0, |lambda| psi_factors(lambda, from, to)[0])?;
        let gain = |lambda| psi_factors(lambda, from, to)[1];
        return mapped(law, half.view(), 0.0, to.alpha, gain);
    }
    let gain = move |lambda| {
        if from.sigma == 0.0 && to.sigma == 0.0 {
            to.alpha / from.alpha
        } else {
            psi(lambda, from, to)
        }
    };
    mapped(law, x, from.alpha, to.alpha, gain)
}

/// Denoiser `E[x0 | x_to]` on the trajectories that pass `from` at `x`, for Gaussian data: what a
/// sampler sees appear.
///
/// # Formula
/// `mean + sum_k xi(lambda_k) u_k u_k^T (x - alpha_from mean)`
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// As [`pf_ode_map`]; `to.sigma = 0` with a singular covariance is the limit (the mean, off the
/// data's span), not an error.
///
/// # Source
/// Wang and Vastola 2023, the Gaussian score model.
pub fn denoiser_along(
    law: &Gaussian,
    x: ArrayView2<f64>,
    from: impl Into<Level>,
    to: impl Into<Level>,
) -> Result<Array2<f64>> {
    let (from, to) = regular(law, from, to)?;
    // A mode without variance is never moved; the quotient itself would be 0/0 at to.sigma = 0.
    mapped(law, x, from.alpha, 1.0, |lambda| if lambda == 0.0 { 0.0 } else { xi(lambda, from, to) })
}

/// Part of `x - alpha mean` that lies off the data's span: the directions without variance, which
/// shrink as `sigma`.
///
/// # Formula
/// `z - sum over lambda_k > 0 of u_k u_k^T z` with `z = x - alpha mean`; along the PF-ODE it is
/// scaled by `sigma_to / sigma_from`.
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// `x` that does not fit; a pair of coefficients that is no level.
pub fn off_manifold(
    law: &Gaussian,
    x: ArrayView2<f64>,
    at: impl Into<Level>,
) -> Result<Array2<f64>> {
    let at = Level::of(at)?;
    let z = &fitting(law.dim(), x)? - &(&law.mean() * at.alpha);
    let on = mapped(law, x, at.alpha, 0.0, |lambda| if lambda > 0.0 { 1.0 } else { 0.0 })?;
    Ok(z - on)
}

/// States at each of `points` of the PF-ODE trajectories that start in `x` at `points[0]`, for any
/// law, by an adaptive integrator.
///
/// # Formula
/// With `c` the data's root mean square deviation, `phi = atan2(sigma, c alpha)` and
/// `z = x / hypot(alpha, sigma / c)`, every path through the same (alpha, sigma) gives the same
/// equation `dz/du = cos(phi) z - E[x0 | x]` in `u = ln tan(phi / 2)`. It has no singular
/// coefficient, is regular at pure noise (`alpha = 0` is `u = 0`, where `ln(sigma / alpha)` is
/// infinite), and gives a mode of any variance a unit of u to bend in.
///
/// # Accuracy
/// Each step's estimated error in z is at most 1e-13 c, and on the way to more noise, where errors
/// grow as the noise does, at most 1e-13 c sin(phi); no step is held below 8 roundings of z. What
/// these become at the end depends on the law (between two clusters trajectories part):
/// [`pf_ode_measured`] estimates it. A mean beyond c costs no digits but the rounding of `x`
/// itself: the flow of the law moved to mean 0 ([`Law::translated`]) is followed; a law that can't
/// be moved is followed to the roundings of its mean.
///
/// An end at `sigma = 0` is reached by integrating to `phi = 1e-15` and denoising there, which is
/// off by at most 1e-15 c: from there on a mode either has its final value or is all noise. A start
/// at any positive sigma is taken as it is, to 2^-53 of its distance from the mean: of a deviation
/// from a data point no more is kept.
///
/// # Shapes
/// `x` (n, d), each result (n, d).
///
/// # Errors
/// `x` that does not fit or is not finite; a point that is no level; a start at `sigma = 0` (which
/// has a solution only for laws with a density, and a law cannot be asked for one: start from a
/// small sigma); a trajectory that the step control cannot follow, or not in 10,000 steps; what the
/// law's denoiser refuses.
///
/// # Source
/// Song et al. 2021, "Score-based generative modeling through stochastic differential equations",
/// eq. 13.
pub fn pf_ode_solve(
    law: &dyn Law,
    x: ArrayView2<f64>,
    points: &[PathPoint],
) -> Result<Vec<Array2<f64>>> {
    Ok(Flow::new(law).solve(x, points)?.0)
}

/// Trajectories with the accuracy that they were followed to.
#[derive(Clone, Debug)]
pub struct Solution {
    /// States at each point, each (n, d).
    pub states: Vec<Array2<f64>>,
    /// Estimated error of the states at each point: the largest of all entries, over the root mean
    /// square deviation of the law there, `hypot(alpha c, sigma)`.
    pub errors: Vec<f64>,
    /// Steps of the integrator.
    pub steps: usize,
}

/// [`pf_ode_solve`], and an estimate of the error that was reached, for twice the work.
///
/// # Formula
/// The error is twice the distance to a second run with 16 times the tolerance, whose start is a
/// rounding (2^-52 of z, of either sign) away, and half a unit in the last place of the states. So
/// it holds what the steps leave out, what rounding adds, and how the flow magnifies both. Where a
/// level k is noisier than one before it, i, two roundings of the state there are added,
/// `2^-51 |x_i - alpha_i mean|` times `sigma_k / sigma_i`: no law's flow magnifies more, since
/// `Cov[x0 | x] >= 0`. Each alpha is a rounded number, so that `alpha mean` is known to
/// `2^-53 |alpha mean|` at the start, by which the second run is moved too and which is added to
/// its roundings, and as much at the end. Where a law whose mean is beyond its deviation has no
/// [`Law::translated`], every step adds a rounding of the mean, 2^-52 of it. It is an estimate, not
/// a bound: tests find it above the true error on laws whose flow is known (in one dimension it
/// keeps quantiles).
///
/// # Shapes, errors, source
/// As [`pf_ode_solve`].
pub fn pf_ode_measured(
    law: &dyn Law,
    x: ArrayView2<f64>,
    points: &[PathPoint],
) -> Result<Solution> {
    let flow = Flow::new(law);
    let (states, steps) = flow.solve(x, points)?;
    let (others, _) =
        Flow { tol: 16.0 * flow.tol, nudge: f64::EPSILON, ..flow }.solve(x, points)?;
    let mean = law.mean();
    let far = mean.iter().map(|m| m.abs()).fold(0.0, larger);
    let stays = mean.iter().any(|m| m.abs() > flow.c) && law.translated((-&mean).view()).is_none();
    let of_mean = if stays { steps as f64 * f64::EPSILON * far } else { 0.0 };
    let largest = |gaps: &mut dyn Iterator<Item = f64>| {
        // A NaN becomes the largest.
        gaps.fold(0.0, larger)
    };
    // What alpha's rounding makes of the mean.
    let moved = |at: &PathPoint| 0.5 * f64::EPSILON * at.alpha * far;
    let errors = (0..points.len()).map(|k| {
        let at = &points[k];
        let gaps = states[k]
            .iter()
            .zip(&others[k])
            .map(|(a, b)| 2.0 * (a - b).abs() + 0.5 * (a.abs().next_up() - a.abs()));
        let risen =
            (0..k).filter(|&i| points[i].sigma * at.alpha < at.sigma * points[i].alpha).map(|i| {
                let centred = &states[i] - &(&mean * points[i].alpha);
                let rounded = 2.0 * f64::EPSILON * largest(&mut centred.iter().map(|z| z.abs()));
                let at_start = if i == 0 { moved(&points[0]) } else { 0.0 };
                (rounded + at_start) * at.sigma / points[i].sigma
            });
        let ends = if k == 0 { 0.0 } else { moved(at) };
        (largest(&mut { gaps }) + largest(&mut { risen }) + ends + at.alpha * of_mean)
            / (flow.c * at.alpha).hypot(at.sigma)
    });
    let errors = errors.collect();
    Ok(Solution { states, errors, steps })
}

/// The equation of [`pf_ode_solve`], ready to be followed.
#[derive(Clone, Copy)]
pub(crate) struct Flow<'a> {
    law: &'a dyn Law,
    /// The data's root mean square deviation, 1 for a point mass.
    c: f64,
    /// Error allowed in one step, relative to the data's deviation.
    tol: f64,
    /// Share of the starting state by which it is moved.
    nudge: f64,
    with_log_det: bool,
}

impl<'a> Flow<'a> {
    pub(crate) fn new(law: &'a dyn Law) -> Self {
        let std = law.cov().diag().mean().unwrap_or(0.0).sqrt();
        Self {
            law,
            c: if std > 0.0 { std } else { 1.0 },
            tol: 1e-13,
            nudge: 0.0,
            with_log_det: false,
        }
    }

    /// Follows `ln |det d x_point / d x_start|` in one more column (of no meaning at `sigma = 0`).
    pub(crate) fn with_log_det(self) -> Self {
        Self { with_log_det: true, ..self }
    }

    /// States at each of the points, and the number of steps.
    pub(crate) fn solve(
        &self,
        x: ArrayView2<f64>,
        points: &[PathPoint],
    ) -> Result<(Vec<Array2<f64>>, usize)> {
        /// Angle from which a trajectory to `sigma = 0` is finished by denoising.
        const CLEAN: f64 = 1e-15;
        let Self { law, c, tol, nudge, with_log_det } = *self;
        let (n, d) = fitting(law.dim(), x)?.dim();
        finite("states", x.iter())?;
        let levels = points.iter().map(Level::of).collect::<Result<Vec<_>>>()?;
        let Some(&start) = levels.first() else {
            return Err(Error::shape(
                "points",
                &[0],
                "at least one",
                "pass the starting point first",
            ));
        };
        if levels[..levels.len() - 1].iter().any(|l| l.sigma == 0.0) {
            let why = "the map out of sigma = 0 exists only for a law with a density";
            return Err(Error::singular(
                "the PF-ODE",
                "a start at sigma = 0",
                why,
                "start from a small positive sigma",
            ));
        }
        // A law far from 0 is moved there; one near it stays, since moving rounds its points.
        let centre = law.mean();
        let moved = if centre.iter().any(|m| m.abs() > c) {
            law.translated((-&centre).view())
        } else {
            None
        };
        let (law, mean) = match &moved {
            Some(moved) => (moved.as_ref(), Array1::zeros(d)),
            None => (law, centre.clone()),
        };
        let time = |l: Level| (0.5 * l.sigma.atan2(c * l.alpha)).tan().ln();
        let radius = |l: Level| l.alpha.hypot(l.sigma / c);

        // The state is centred, y = z - cos(phi) mean.
        let mut y = Array2::zeros((n, d + usize::from(with_log_det)));
        Zip::indexed(y.slice_mut(s![.., ..d])).and(&x).and_broadcast(&centre).for_each(
            |(i, j), y, x, m| {
                let sign = if (i + j) % 2 == 0 { 1.0 } else { -1.0 };
                let (y0, of_mean) = ((-start.alpha).mul_add(*m, *x), 0.5 * start.alpha * m.abs());
                *y = (y0 + sign * nudge * (y0 + of_mean)) / radius(start);
            },
        );
        let (mut z, mut denoised) = (Array2::zeros((n, d)), Array2::zeros((n, d)));
        let mut slope = |u: f64, y: &Array2<f64>, dy: &mut Array2<f64>| {
            let (cos, sin) = (-u.tanh(), u.cosh().recip());
            // 1 - cos, with its digits near the data.
            let rest = 2.0 / (1.0 + (-2.0 * u).exp());
            let at = PathPoint::still(cos, c * sin);
            let y = y.slice(s![.., ..d]);
            Zip::from(&mut z).and(&y).and_broadcast(&mean).for_each(|z, y, m| *z = y + cos * m);
            law.denoise(z.view(), &at, denoised.view_mut())?;
            let (mut dz, mut d_log_det) = dy.view_mut().split_at(Axis(1), d);
            Zip::from(&mut dz)
                .and(&y)
                .and(&denoised)
                .and_broadcast(&mean)
                .for_each(|dz, y, e, m| *dz = (y - (e - m)) - rest * y);
            if with_log_det {
                for (mut out, z) in d_log_det.rows_mut().into_iter().zip(z.rows()) {
                    out.fill(d as f64 * cos - law.jacobian(z, &at)?.diag().sum());
                }
            }
            Ok(())
        };
        let mut states = Vec::with_capacity(points.len());
        let (mut now, mut steps) = (time(start), 0);
        for (k, &level) in levels.iter().enumerate() {
            let before = if k == 0 { start } else { levels[k - 1] };
            // From a start that is cleaner than CLEAN it is denoised there.
            let to =
                if level.sigma == 0.0 { (0.5 * CLEAN).tan().ln().min(now) } else { time(level) };
            let rises = levels[k..].iter().any(|l| time(*l) > now);
            let allowed = |u: f64, y: &Array2<f64>| {
                let part = tol * if rises { u.cosh().recip() } else { 1.0 };
                Array2::from_shape_fn(y.dim(), |(i, j)| {
                    if j < d {
                        (part * c).max(8.0 * f64::EPSILON * (y[[i, j]].abs() + mean[j].abs()))
                    } else {
                        tol * d as f64
                    }
                })
            };
            let (end, taken) = integrate(&mut slope, y, (now, to), allowed).map_err(|stopped| {
                let (place, why) = match stopped {
                    Stopped::Stuck { at, why } => (at, why),
                    Stopped::Slope(error) => return error,
                };
                let ratio = |u: f64| c * 2.0 * (u.exp() / (1.0 - u.exp().powi(2)));
                let at = format!(
                    "sigma / alpha = {}, on the way from {} to {}",
                    ratio(place),
                    before.sigma / before.alpha,
                    level.sigma / level.alpha
                );
                Error::singular(
                    "the PF-ODE's trajectory",
                    at,
                    why,
                    "end there, or start there in a second run",
                )
            })?;
            (y, steps, now) = (end, steps + taken, to);
            if level.sigma == 0.0 {
                // cos(phi) = 1: the slope is what denoising takes away.
                let mut noise = Array2::zeros(y.dim());
                slope(now, &y, &mut noise)?;
                y -= &noise;
            }
            let mut state = y.clone();
            let (mut xs, mut log_det) = state.view_mut().split_at(Axis(1), d);
            Zip::from(&mut xs)
                .and_broadcast(&centre)
                .for_each(|x, m| *x = level.alpha.mul_add(*m, *x * radius(level)));
            log_det += d as f64 * (radius(level) / radius(start)).ln();
            states.push(state);
        }
        Ok((states, steps))
    }
}

/// `x` if its rows have `d` entries.
pub(crate) fn fitting(d: usize, x: ArrayView2<f64>) -> Result<ArrayView2<f64>> {
    if x.ncols() == d {
        return Ok(x);
    }
    Err(Error::shape(
        "states",
        x.shape(),
        format!("(n, {d}), the law's dimension"),
        "pass one state in each row",
    ))
}

/// Both as levels, if the map of this law out of the first exists.
pub(crate) fn regular(
    law: &Gaussian,
    from: impl Into<Level>,
    to: impl Into<Level>,
) -> Result<(Level, Level)> {
    let (from, to) = (Level::of(from)?, to.into());
    if from.sigma == 0.0
        && to.sigma > 0.0
        && (law.rank() < law.dim() || law.variances().iter().any(|v| *v == 0.0))
    {
        let why = "psi is infinite in the directions without variance";
        return Err(Error::singular(
            "the PF-ODE map of a singular covariance",
            "from.sigma = 0",
            why,
            "start from a positive sigma",
        ));
    }
    Ok((from, to.checked()?))
}

/// [`Gaussian::map_modes`] into a new array.
pub(crate) fn mapped(
    law: &Gaussian,
    x: ArrayView2<f64>,
    from: f64,
    to: f64,
    gain: impl Fn(f64) -> f64,
) -> Result<Array2<f64>> {
    let mut out = Array2::zeros(fitting(law.dim(), x)?.dim());
    law.map_modes(x, from, to, gain, out.view_mut());
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Denoiser;
    use crate::exact::flow::marginal_velocity;
    use crate::exact::testing::*;
    use crate::law::empirical::Empirical;
    use crate::law::mixture::Mixture;
    use crate::math::dd::Dd;
    use crate::math::{larger, smaller};
    use ndarray::{Array1, array};
    use num_dual::{Dual64, DualNum};
    use proptest::prelude::*;

    const DATA: PathPoint = PathPoint::CLEAN;

    proptest! {
        /// The rate of the closed form, by dual numbers along the path, is the PF-ODE's velocity
        /// where the state then is.
        #[test]
        fn the_map_solves_the_ode(law in gaussian(4), [from, to, _] in three_points(), seed: u64) {
            let x = normal_rows(3, 4, seed);
            let state = pf_ode_map(&law, x.view(), from, to).unwrap();
            let still = |p: &PathPoint| Level { alpha: Dual64::from(p.alpha), sigma: Dual64::from(p.sigma) };
            let moving = to.moving().unwrap();
            let rate_of = |lambda: f64| psi(Dual64::from(lambda), still(&from), moving.dual()).eps;
            let mut rate = Array2::zeros(x.dim());
            law.map_modes(x.view(), from.alpha, moving.rates.alpha, rate_of, rate.view_mut());
            let velocity = marginal_velocity(&law, state.view(), &moving).unwrap();
            // The velocity divides the state's rounding (against its mean, up to 3) by sigma.
            let condition = (1.0 + moving.rates.alpha.abs() + moving.rates.sigma.abs() / to.sigma) * (10.0 + size(&state)) + size(&rate);
            prop_assert!(gap(&rate, &velocity) <= 64.0 * f64::EPSILON * condition);
        }

        #[test]
        fn the_map_composes_and_inverts(law in gaussian(4), [a, b, c] in three_points(), seed: u64) {
            let x = normal_rows(3, 4, seed);
            let map = |x: &Array2<f64>, from, to| pf_ode_map(&law, x.view(), from, to).unwrap();
            let at_b = map(&x, &a, &b);
            let (via, direct) = (map(&at_b, &b, &c), map(&x, &a, &c));
            // The middle state rounds against its size, and what that is in each mode leaves with
            // at most the largest gain.
            let lambdas = law.variances().to_vec().into_iter().chain([0.0]);
            let growth = |from: &PathPoint, to: &PathPoint| {
                lambdas.clone().map(|l| psi(l, Level::from(from), Level::from(to))).fold(1.0, larger)
            };
            let middle = 10.0 * b.alpha + size(&at_b);
            prop_assert!(gap(&via, &direct) <= 64.0 * f64::EPSILON * (growth(&b, &c) * middle + growth(&a, &c) * (10.0 + size(&x))));
            prop_assert!(gap(&map(&at_b, &b, &a), &x) <= 64.0 * f64::EPSILON * (growth(&b, &a) * middle + 10.0 + size(&x)));
        }

        #[test]
        fn the_denoiser_along_the_way_is_the_denoiser_there(law in gaussian(4), [from, to, _] in three_points(), seed: u64) {
            let x = normal_rows(3, 4, seed);
            let state = pf_ode_map(&law, x.view(), from, to).unwrap();
            let mut want = Array2::zeros(x.dim());
            law.denoise(state.view(), &to, want.view_mut()).unwrap();
            let got = denoiser_along(&law, x.view(), from, to).unwrap();
            // The Wiener gain is at most 1 / (2 sigma / sqrt(lambda)) and at most 1 / alpha.
            let gain = (1.0 / to.alpha).min(10.0 / to.sigma);
            let growth = (to.alpha / from.alpha).max(to.sigma / from.sigma);
            prop_assert!(gap(&got, &want) <= 64.0 * f64::EPSILON * (10.0 + gain * (10.0 + size(&state) + growth * (10.0 + size(&x)))));
        }

        #[test]
        fn off_the_manifold_only_the_noise_shrinks(law in gaussian(4), [from, to, _] in three_points(), seed: u64) {
            let x = normal_rows(3, 4, seed);
            let state = pf_ode_map(&law, x.view(), from, to).unwrap();
            let (before, after) = (off_manifold(&law, x.view(), from).unwrap(), off_manifold(&law, state.view(), to).unwrap());
            let ratio = to.sigma / from.sigma;
            let growth = ratio.max(to.alpha / from.alpha).max(1.0);
            prop_assert!(gap(&(before * ratio), &after) <= 64.0 * f64::EPSILON * growth * (10.0 + size(&x)));
        }

        /// The integrator against the closed form, at every rank, forward and backward, to the
        /// clean end as well.
        #[test]
        fn the_integrator_reproduces_the_closed_form(law in gaussian(3), [from, to, _] in three_points(), seed: u64) {
            let x = pf_ode_map(&law, normal_rows(2, 3, seed).view(), PathPoint::NOISE, from).unwrap();
            let states = pf_ode_solve(&law, x.view(), &[from, to, DATA]).unwrap();
            let std = (law.variances().sum() / 3.0).sqrt();
            let c = if std > 0.0 { std } else { 1.0 };
            for (state, at) in states.iter().skip(1).zip([to, DATA]) {
                let want = pf_ode_map(&law, x.view(), from, at).unwrap();
                // 1e-13 c a step in units of hypot(alpha, sigma / c), at most 100 steps; going up,
                // a small mode's error grows with psi <= sigma ratio.
                let growth = (to.edm_sigma() / from.edm_sigma()).max(1.0);
                let unit = (c + 10.0 * f64::EPSILON / 1e-13 * 3.0) * at.alpha.hypot(at.sigma / c) * growth;
                prop_assert!(gap(state, &want) <= 1e-11 * unit, "{} {unit} {from:?} {at:?}", gap(state, &want));
            }
        }

        /// Two legs against one, and there and back, on a law without a closed form.
        #[test]
        fn a_mixture_is_followed_consistently(mut points in three_points(), seed: u64) {
            let part = |mean: Array1<f64>, var: Array1<f64>| Gaussian::diagonal(mean, var).unwrap();
            let parts = vec![part(array![-1.0, 0.0], array![0.2, 0.05]), part(array![1.5, 0.5], array![0.02, 0.5])];
            let law = Mixture::new(array![0.3, 0.7], parts).unwrap();
            points.sort_by(|a, b| b.edm_sigma().total_cmp(&a.edm_sigma()));
            let [a, b, c] = points;
            // What pure noise has become at the noisiest of the three.
            let eps = normal_rows(2, 2, seed);
            let x = pf_ode_solve(&law, eps.view(), &[PathPoint::NOISE, a]).unwrap().swap_remove(1);
            let run = |x: &Array2<f64>, points: &[PathPoint]| pf_ode_solve(&law, x.view(), points).unwrap().pop().unwrap();
            let (direct, via) = (run(&x, &[a, c]), run(&x, &[a, b, c]));
            // Between the modes the flow is unstable: errors grow by the measured growth of a small
            // difference, on each leg.
            let growth = |x: &Array2<f64>, from, to| gap(&run(&(x + 1e-6), &[from, to]), &run(x, &[from, to])) / 1e-6;
            let unit = |at: &PathPoint| 1e-11 * 3.0 * at.alpha.hypot(at.sigma);
            let tol = unit(&c) + unit(&a) * growth(&x, a, c) + unit(&b) * growth(&run(&x, &[a, b]), b, c);
            prop_assert!(gap(&via, &direct) <= tol, "{} {tol}", gap(&via, &direct));
            let back = unit(&a) + (unit(&c) + tol) * growth(&direct, c, a);
            prop_assert!(gap(&run(&direct, &[c, a]), &x) <= back, "{} {back}", gap(&run(&direct, &[c, a]), &x));
        }
    }

    #[test]
    fn an_empirical_law_ends_in_one_of_its_points() {
        let points = array![[0.0, 0.0], [1.0, 0.0], [0.0, 2.0]];
        let law = Empirical::new(points.clone()).unwrap();
        let x = normal_rows(20, 2, 3);
        let end = pf_ode_solve(&law, x.view(), &[PathPoint::NOISE, DATA]).unwrap().swap_remove(1);
        for row in end.rows() {
            let nearest = points
                .rows()
                .into_iter()
                .map(|p| (&p - &row).mapv(f64::abs).sum())
                .fold(f64::INFINITY, smaller);
            // Denoised at the end, not only nearly clean: a noise of 1e-15 is taken away, and
            // rounding is left.
            assert!(nearest <= 4.0 * f64::EPSILON, "{row} {nearest:e}");
        }
    }

    #[test]
    fn singular_starts_are_refused() {
        let full = Gaussian::diagonal(array![0.0, 0.0], array![1.0, 1.0]).unwrap();
        let flat = Gaussian::diagonal(array![0.0, 0.0], array![1.0, 0.0]).unwrap();
        let x = array![[1.0, 2.0]];
        let noise = PathPoint::NOISE;
        assert!(pf_ode_map(&full, x.view(), DATA, noise).is_ok());
        for law in [flat.clone(), full.truncated(1)] {
            assert!(matches!(pf_ode_map(&law, x.view(), DATA, noise), Err(Error::Singular { .. })));
            assert!(denoiser_along(&law, x.view(), DATA, noise).is_err());
            assert_eq!(pf_ode_map(&law, x.view(), DATA, DATA).unwrap(), x);
        }
        assert!(matches!(
            pf_ode_solve(&full, x.view(), &[DATA, noise]),
            Err(Error::Singular { .. })
        ));
        assert!(pf_ode_solve(&full, x.view(), &[]).is_err());
        assert!(pf_ode_map(&full, array![[1.0]].view(), noise, DATA).is_err());
    }

    #[test]
    fn clean_levels_and_flat_modes_by_hand() {
        let law = Gaussian::diagonal(array![1.0, 0.0], array![4.0, 0.0]).unwrap();
        let x = array![[3.0, 2.0]];
        let clean = |alpha| PathPoint::still(alpha, 0.0);
        // Between clean levels the state is scaled, off the data as well.
        assert_eq!(
            pf_ode_map(&law, x.view(), clean(0.5), clean(2.0)).unwrap(),
            array![[12.0, 8.0]]
        );
        // A stored mode of variance 0 is off the manifold like one that is not stored.
        for law in [&law, &law.truncated(1)] {
            assert_eq!(
                off_manifold(law, x.view(), PathPoint::still(1.0, 1.0)).unwrap(),
                array![[0.0, 2.0]]
            );
        }
    }

    /// In one dimension the flow keeps quantiles, so that a law without a closed form has one: two
    /// modes far apart about a mean.
    #[test]
    fn a_mean_costs_no_steps_and_no_digits() {
        let part = |m: f64| Gaussian::isotropic(array![m], 0.01).unwrap();
        let modes =
            |m: f64| Mixture::new(array![1.0, 1.0], vec![part(m - 1.0), part(m + 1.0)]).unwrap();
        let solve = |m: f64| {
            let points = [PathPoint::still(1.0, 2.0), DATA];
            let solution = pf_ode_measured(&modes(m), array![[m + 0.75]].view(), &points).unwrap();
            (solution.states[1][[0, 0]] - m, solution.steps, solution.errors[1])
        };
        let (about_0, steps, error) = solve(0.0);
        assert!(error <= 1e-11, "{error:e}");
        for m in [1e4, 1e6, 1e9, 1e12] {
            let (x, taken, said) = solve(m);
            // Half a unit in the last place of x itself, and a rounding of the start (0 here).
            let unit = m * f64::EPSILON;
            assert!((x - about_0).abs() <= unit + 1e-12, "{m:e}: {x} {about_0}");
            assert_eq!(taken, steps);
            assert!(said >= (x - about_0).abs() && said <= unit + 1e-11, "{m:e}: {said:e}");
        }
    }

    /// From a level whose alpha is a rounded number the error that is said holds what that makes of
    /// the mean: a Gaussian against its map in double-double.
    #[test]
    fn a_rounded_alpha_is_counted() {
        let (t, end) = (0.02, 0.9);
        let exact = |t: f64| (Dd::from(1.0) - Dd::from(t), Dd::from(t));
        let points = [t, end].map(|t: f64| PathPoint::still(1.0 - t, t));
        for m in [0.0, 1e6, 1e9, 1e12, 1e15] {
            let law = Gaussian::isotropic(array![m], 1.0).unwrap();
            for z in [-1.5, 0.25, 3.0] {
                let x = (1.0 - t) * m + z;
                let solution = pf_ode_measured(&law, array![[x]].view(), &points).unwrap();
                let ((a, s), (b, r)) = (exact(t), exact(end));
                let gain = ((b * b + r * r) / (a * a + s * s)).sqrt();
                let want = b * m + gain * (Dd::from(x) - a * m);
                let off = (want - solution.states[1][[0, 0]]).hi().abs();
                let off = off / points[1].alpha.hypot(points[1].sigma);
                let said = solution.errors[1];
                assert!(off <= said, "{m:e} {z}: {off:e} {said:e}");
                assert!(said <= 1e-11 + 64.0 * f64::EPSILON * m, "{m:e} {z}: {said:e}");
            }
        }
    }

    /// A ratio of deviations that no number holds, between states that numbers do.
    #[test]
    fn a_gain_out_of_range_is_no_loss() {
        let (noise, x) = (PathPoint::still(1.0, 1e300), array![[-1.13e300, 0.5e300]]);
        let axes = Gaussian::diagonal(array![0.0, 0.0], array![1e-300, 4e-300]).unwrap();
        for law in [axes.clone(), axes.truncated(2)] {
            let data = pf_ode_map(&law, x.view(), noise, DATA).unwrap();
            let near = |got: f64, want: f64| {
                assert!((got / want - 1.0).abs() <= 8.0 * f64::EPSILON, "{got:e} {want:e}")
            };
            near(data[[0, 0]], -1.13e-150);
            near(data[[0, 1]], 1e-150);
            let back = pf_ode_map(&law, data.view(), DATA, noise).unwrap();
            near(back[[0, 0]], x[[0, 0]]);
            near(back[[0, 1]], x[[0, 1]]);
        }
    }

    /// A law that can't be moved: an error that is said, in bounded time.
    #[test]
    fn what_a_mean_costs_is_said() {
        struct Fixed(Mixture);
        impl Denoiser for Fixed {
            fn dim(&self) -> usize {
                1
            }
            fn denoise(
                &self,
                x: ArrayView2<f64>,
                at: &PathPoint,
                out: ndarray::ArrayViewMut2<f64>,
            ) -> Result<()> {
                self.0.denoise(x, at, out)
            }
        }
        impl Law for Fixed {
            fn mean(&self) -> Array1<f64> {
                Law::mean(&self.0)
            }
            fn cov(&self) -> Array2<f64> {
                Law::cov(&self.0)
            }
            fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
                self.0.log_density(x, at)
            }
            fn posterior_cov(
                &self,
                x: ndarray::ArrayView1<f64>,
                at: &PathPoint,
            ) -> Result<Array2<f64>> {
                self.0.posterior_cov(x, at)
            }
            fn sample(&self, n: usize, noise: &crate::math::noise::Noise) -> Array2<f64> {
                self.0.sample(n, noise)
            }
        }
        let m = 1e6;
        let part = |m: f64| Gaussian::isotropic(array![m], 0.01).unwrap();
        let modes = Mixture::new(array![1.0, 1.0], vec![part(m - 1.0), part(m + 1.0)]).unwrap();
        let (x, points) = (array![[m + 0.75]], [PathPoint::still(1.0, 2.0), DATA]);
        let want = pf_ode_solve(&modes, x.view(), &points).unwrap()[1][[0, 0]];
        let got = pf_ode_measured(&Fixed(modes), x.view(), &points).unwrap();
        let error = (got.states[1][[0, 0]] - want).abs();
        assert!(error <= got.errors[1] && got.errors[1] <= 1e-6, "{error:e} {:e}", got.errors[1]);
        assert!(got.steps < 1000, "{}", got.steps);
    }

    #[test]
    fn tiny_starts_are_taken_as_they_are() {
        // One point: x - x0 grows with sigma, from wherever it starts.
        let law = Gaussian::diagonal(array![0.5, 0.25], array![0.0, 0.0]).unwrap();
        for sigma in [1e-14, 1e-18, 1e-40] {
            let from = PathPoint::still(1.0, sigma);
            let to = PathPoint::still(1.0, 1e3 * sigma);
            let mut x = array![[0.5, 0.25]];
            x += 3.0 * sigma;
            let grown = (&x - &array![[0.5, 0.25]]) * 1e3;
            let got = &pf_ode_solve(&law, x.view(), &[from, to]).unwrap()[1] - &array![[0.5, 0.25]];
            let off = &got - &grown;
            // Eight roundings of z in each of some ten steps.
            assert!(
                off.iter().all(|e| e.abs() <= 80.0 * f64::EPSILON * 0.5),
                "{sigma}: {off} of {grown}"
            );
        }
        // Two points 1 apart: a start at the first with a deviation of 2 sigma ends 2 sigma off its
        // quantile, as far as its digits reach. They are those of its distance from the mean, and
        // what is lost of them is said.
        let two = Empirical::new(array![[0.0], [1.0]]).unwrap();
        for sigma in [1e-9, 1e-12, 1e-20] {
            let points = [PathPoint::still(1.0, sigma), PathPoint::still(1.0, 1e-3)];
            let solution = pf_ode_measured(&two, array![[2.0 * sigma]].view(), &points).unwrap();
            let off = (solution.states[1][[0, 0]] - 2e-3).abs() / 0.5f64.hypot(1e-3);
            assert!(off <= solution.errors[1], "{sigma}: {off:e} {:e}", solution.errors[1]);
            assert!(sigma < 1e-9 || solution.errors[1] <= 1e-8, "{:e}", solution.errors[1]);
        }
        // And is denoised where it stands on the way to the data.
        assert_eq!(
            pf_ode_solve(&two, array![[2e-20]].view(), &[PathPoint::still(1.0, 1e-20), DATA])
                .unwrap()[1],
            array![[0.0]]
        );
        assert!(
            pf_ode_solve(&two, array![[f64::NAN]].view(), &[PathPoint::still(1.0, 1.0), DATA])
                .is_err()
        );
    }

    #[test]
    fn an_end_that_is_not_reached_is_said() {
        // A denoiser that jumps back and forth with its noise, from a level on.
        struct Saw {
            from: f64,
            jumps: f64,
        }
        impl Denoiser for Saw {
            fn dim(&self) -> usize {
                1
            }
            fn denoise(
                &self,
                _: ArrayView2<f64>,
                at: &PathPoint,
                mut out: ndarray::ArrayViewMut2<f64>,
            ) -> Result<()> {
                let jumps = at.sigma < self.from * at.alpha;
                out.fill(if jumps { (at.sigma * self.jumps).floor().rem_euclid(2.0) } else { 0.5 });
                Ok(())
            }
        }
        impl Law for Saw {
            fn mean(&self) -> Array1<f64> {
                array![0.5]
            }
            fn cov(&self) -> Array2<f64> {
                array![[0.25]]
            }
            fn log_density(&self, _: ArrayView2<f64>, _: &PathPoint) -> Array1<f64> {
                array![0.0]
            }
            fn posterior_cov(
                &self,
                _: ndarray::ArrayView1<f64>,
                _: &PathPoint,
            ) -> Result<Array2<f64>> {
                Ok(array![[0.0]])
            }
            fn sample(&self, n: usize, _: &crate::math::noise::Noise) -> Array2<f64> {
                Array2::zeros((n, 1))
            }
        }
        for (from, jumps) in [(f64::INFINITY, 1e5), (0.5, 1e10)] {
            let points = [PathPoint::still(1.0, 2.0), DATA];
            let said = pf_ode_solve(&Saw { from, jumps }, array![[0.0]].view(), &points)
                .unwrap_err()
                .to_string();
            for part in ["sigma / alpha = ", "on the way from 2 to 0", "step", "end there"] {
                assert!(said.contains(part), "{said}");
            }
            let place = said.split("sigma / alpha = ").nth(1).unwrap().split(',').next().unwrap();
            let ratio: f64 = place.parse().unwrap();
            // Jumps so fine are followed no further.
            let most = if from == 0.5 { 0.499..=0.5001 } else { 0.0..=2.0 };
            assert!(most.contains(&ratio), "{said}");
        }
    }

    /// Two roundings of the state at the cleaner level and alpha's of the mean, magnified as the
    /// noise is: the documented estimate, where it is by far the largest part of the error.
    #[test]
    fn what_a_rise_magnifies_is_the_rounding_of_its_start() {
        let law = Gaussian::new(array![0.5, -0.25], array![[1.0, 0.3], [0.3, 0.5]].view()).unwrap();
        for ((alpha, sigma), (to_alpha, to_sigma)) in [
            ((0.9, 1e-7), (0.6, 0.8)),
            ((1e-3, 1e-10), (1e-8, 1.0)),
            ((1e4, 1e-3), (1.0, 1.0)),
            ((1e6, 2.0), (1e8, 1e8)),
        ] {
            let points = [PathPoint::still(alpha, sigma), PathPoint::still(to_alpha, to_sigma)];
            let offset = array![2.0, 1.5] * alpha;
            let x = (Law::mean(&law) * alpha + &offset).insert_axis(Axis(0));
            let solution = pf_ode_measured(&law, x.view(), &points).unwrap();
            let c = 0.75f64.sqrt();
            let rounded = 2.0 * f64::EPSILON * offset[0] + 0.5 * f64::EPSILON * alpha * 0.5;
            let want = rounded * to_sigma / sigma / (c * to_alpha).hypot(to_sigma);
            assert!((solution.errors[1] / want - 1.0).abs() <= 0.02, "{solution:?} {want}");
        }
    }

    /// A state far off the data has a rounding of its own size in every step, and is followed in
    /// as few as another: closed form.
    #[test]
    fn a_state_far_off_is_followed_to_its_own_rounding() {
        let law = Gaussian::isotropic(array![0.0, 0.0], 1.0).unwrap();
        let points = [PathPoint::still(0.6, 0.8), PathPoint::still(1.0, 0.01)];
        let solve = |size: f64| {
            let x = array![[size, -0.5 * size]];
            let (states, steps) = Flow::new(&law).solve(x.view(), &points).unwrap();
            // The standard deviations are 1 and hypot(1, 0.01).
            let want = &x * 1f64.hypot(0.01);
            assert!((&states[1] - &want).iter().all(|e| e.abs() <= 1e-11 * size), "{states:?}");
            steps
        };
        let near = solve(1.0);
        for size in [1e4, 1e8] {
            let far = solve(size);
            assert!(far <= 2 * near, "{size}: {far} {near}");
        }
    }
}
