//! Exact laws of the reverse SDE family: the same marginals for every churn, if it starts from the
//! right one.

use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::exact::gains::{log_psi, psi};
use crate::exact::pf_ode::regular;
use crate::exact::shared_modes::shared_modes;
use crate::law::Gaussian;
use crate::math::scalar::Scalar;

/// How much noise a reverse process adds, and removes again, on its way from noise to data.
///
/// In unscaled states `x / alpha` and in the time `tau = edm_sigma^2`, in which the forward process
/// is plain Brownian motion, the family is `dx = (1 + g^2) / 2 score |dtau| + g dW` with tau
/// running down. On a path with forward diffusion coefficient `g_path` the same process is
/// `dx = [f x - (1 + g^2) / 2 g_path^2 score] dt + g g_path dW`, so that `g` is the eta of the SDE
/// samplers.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Churn {
    /// Constant `g`: 0 is the PF-ODE, 1 is Anderson's time reversal.
    Constant(f64),
    /// Constant Langevin rate per unit of `edm_sigma`: `g^2 = rate * edm_sigma`.
    Langevin(f64),
}

/// Logarithm of what churn leaves of a deviation from the true marginal, beyond what the PF-ODE
/// does to it: 0 without churn.
///
/// # Formula
/// `-int g^2 / 2 dtau / (lambda + tau)` over tau from `tau_to` to `tau_from`. Constant g: `g^2`
/// times the [`log_psi`] of the unscaled state. Langevin:
/// `-rate (s - sqrt(lambda) atan(s / sqrt(lambda)))`, the bracket taken between the two
/// `s = edm_sigma`: with the difference h of these, `p = s_from s_to` and
/// `q = sqrt(lambda) h / (lambda + p)` it is `h p / (lambda + p) + sqrt(lambda) (q - atan q)`, two
/// terms of one sign. From `alpha = 0` (infinite `edm_sigma`) it is `-inf`: everything is
/// forgotten.
pub fn log_forgetting<S: Scalar>(lambda: S, from: Level<S>, to: Level<S>, churn: Churn) -> S {
    match churn {
        // The PF-ODE also starts from alpha = 0, where the general case would be 0 times infinity.
        Churn::Constant(0.0) | Churn::Langevin(0.0) => lambda * 0.0,
        Churn::Constant(g) => {
            let unscaled =
                |level: Level<S>| Level { alpha: S::one(), sigma: level.sigma / level.alpha };
            log_psi(lambda, unscaled(from), unscaled(to)) * (g * g)
        }
        Churn::Langevin(rate) => {
            let alphas = from.alpha * to.alpha;
            // The difference of the two s as the change of each coefficient: both have one sign on
            // a path.
            let h = ((to.sigma - from.sigma) * from.alpha - from.sigma * (to.alpha - from.alpha))
                / alphas;
            let product = from.sigma * to.sigma;
            let var = lambda * alphas + product;
            if lambda.re() == 0.0 || var.re() == 0.0 || alphas.re() == 0.0 {
                // A point mass, and an end at infinity.
                return h * rate;
            }
            let root = lambda.sqrt();
            (h * product / var + root * less_atan(root * h * alphas / var)) * rate
        }
    }
}

/// `q - atan q`, with its digits near 0.
fn less_atan<S: Scalar>(q: S) -> S {
    if q.re().abs() > 0.5 {
        return q - q.atan();
    }
    // q^3 / 3 - q^5 / 5 + ...: below 1/2 the 27th term is 4^-26 / 55 of the first.
    let square = q * q;
    let series = (0..27).rev().fold(q * 0.0, |sum, n| -sum * square + 1.0 / f64::from(2 * n + 3));
    q * square * series
}

/// Gain on the mean of one mode, from one level to a cleaner one.
///
/// # Formula
/// `psi exp(log_forgetting)`; constant g: `(alpha_to / alpha_from) psi_bar^(1 + g^2)` with
/// `psi_bar` the gain of the unscaled state.
///
/// # Source
/// Harvard deck, the family of reverse SDEs; Karras et al. 2022, "Elucidating the design space",
/// eq. 6.
pub fn mean_gain<S: Scalar>(lambda: S, from: Level<S>, to: Level<S>, churn: Churn) -> S {
    psi(lambda, from, to) * log_forgetting(lambda, from, to, churn).exp()
}

/// Variance of one mode at `to`, of a reverse process that has variance `start` at `from`.
///
/// # Formula
/// `var_to + mean_gain^2 (start - var_from)` with `var` the true marginal's variance, taken without
/// cancellation as `mean_gain^2 start + var_to (1 - exp(2 log_forgetting))`: what is left of the
/// start, and what the noise has put in.
///
/// It holds for every `g(tau)`: with `P = lambda + tau` the unscaled variance obeys
/// `dV/dP = (1 + g^2) V / P - g^2`, solved by `V = P`, and the difference to that solution by the
/// square of the mean's gain. An error of the start is forgotten the faster the larger g is.
pub fn variance<S: Scalar>(lambda: S, start: S, from: Level<S>, to: Level<S>, churn: Churn) -> S {
    let gain = mean_gain(lambda, from, to, churn);
    gain * gain * start - to.var(lambda) * (log_forgetting(lambda, from, to, churn) * 2.0).exp_m1()
}

/// Law at `to` of the reverse process of Gaussian `data` that starts at `from` with law `start`.
///
/// # Formula
/// Mode by mode: [`mean_gain`] on `mean - alpha mean0`, and [`variance`].
///
/// # Errors
/// Covariances that do not commute; `to` noisier than `from`; a churn that is negative or not
/// finite; a pair that is no level.
///
/// # Source
/// Harvard deck, the family of reverse SDEs; Anderson 1982.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::{diffusion::PathPoint, exact::reverse_sde::{Churn, reverse_law}, law::Gaussian};
/// let data = Gaussian::diagonal(array![0.0], array![3.0]).unwrap();
/// let marginal = Gaussian::diagonal(array![0.0], array![4.0]).unwrap();
/// let (from, to) = (PathPoint::still(1.0, 1.0), PathPoint::CLEAN);
/// for g in [0.0, 1.0, 2.0] {
///     let law = reverse_law(&data, &marginal, &from, &to, Churn::Constant(g)).unwrap();
///     assert!((law.variances()[0] - 3.0).abs() < 1e-15 * 4.0); // every g ends in the data
/// }
/// ```
pub fn reverse_law(
    data: &Gaussian,
    start: &Gaussian,
    from: impl Into<Level>,
    to: impl Into<Level>,
    churn: Churn,
) -> Result<Gaussian> {
    let (a, b) = regular(data, from, to)?;
    let (Churn::Constant(strength) | Churn::Langevin(strength)) = churn;
    if !(strength.is_finite() && strength >= 0.0) {
        return Err(Error::domain(
            "churn",
            strength,
            "finite, >= 0",
            "0 is the PF-ODE, a constant of 1 the time reversal",
        ));
    }
    if b.sigma * a.alpha > a.sigma * b.alpha {
        let got = format!("edm_sigma {} to {}", a.edm_sigma(), b.edm_sigma());
        return Err(Error::domain(
            "levels of a reverse process",
            got,
            "from noise to data",
            "swap the two points",
        ));
    }
    let shared = shared_modes(&[data, start])?;
    let (lambdas, starts) = (&shared.variances[0], &shared.variances[1]);
    let offset = shared.modes.t().dot(&(&start.mean() - &(&data.mean() * a.alpha)));
    // Two clean levels differ by their scale alone, and psi would be 0/0 in the modes without
    // variance.
    let scale = b.alpha / a.alpha;
    let gain = |&l: &f64| if a.sigma == 0.0 { scale } else { mean_gain(l, a, b, churn) };
    let var = |(&l, &v): (&f64, &f64)| {
        if a.sigma == 0.0 { scale * scale * v } else { variance(l, v, a, b, churn) }
    };
    let mean = shared.modes.dot(&(offset * &lambdas.map(gain))) + &(&data.mean() * b.alpha);
    Gaussian::from_modes(mean, lambdas.iter().zip(starts).map(var).collect(), shared.modes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::PathPoint;
    use crate::exact::testing::*;
    use crate::math::quadrature::IntervalRule;
    use ndarray::Array1;
    use num_dual::Dual64;
    use proptest::prelude::*;

    fn churns() -> impl Strategy<Value = Churn> {
        prop_oneof![
            (0.0..2.0f64).prop_map(Churn::Constant),
            (0.0..3.0f64).prop_map(Churn::Langevin)
        ]
    }

    /// Noisier point first.
    fn ordered([a, b, _]: [PathPoint; 3]) -> (PathPoint, PathPoint) {
        if a.edm_sigma() >= b.edm_sigma() { (a, b) } else { (b, a) }
    }

    /// `int (1 + g^2) / 2 dtau / (lambda + tau)` by quadrature in ln sigma, in panels.
    fn exponent(lambda: f64, from: &PathPoint, to: &PathPoint, churn: Churn) -> f64 {
        let rule = IntervalRule::new(20).unwrap();
        let (a, b) = (to.edm_sigma().ln(), from.edm_sigma().ln());
        let integrand = |u: f64| {
            let s = u.exp();
            let g2 = match churn {
                Churn::Constant(g) => g * g,
                Churn::Langevin(rate) => rate * s,
            };
            (1.0 + g2) * s * s / (lambda + s * s)
        };
        let panels = ((b - a) / 0.5).ceil().max(1.0) as usize;
        let width = (b - a) / panels as f64;
        (0..panels)
            .map(|k| rule.integral(a + width * k as f64, a + width * (k + 1) as f64, integrand))
            .sum()
    }

    proptest! {
        #[test]
        fn the_gain_is_the_exponential_of_its_integral(e in -4.0..2.0f64, zero in prop::bool::weighted(0.1), points in three_points(), churn in churns()) {
            let lambda = if zero { 0.0 } else { 10f64.powf(e) };
            let (from, to) = ordered(points);
            let got = mean_gain(lambda, Level::from(&from), Level::from(&to), churn);
            let want = exponent(lambda, &from, &to, churn);
            // In the logarithm: 1e-13 of quadrature and of the exponent's size, and s in the
            // Langevin primitive (up to 80) before its difference.
            let got = -(got * from.alpha / to.alpha).ln();
            let at_stake = 1.0 + want + from.edm_sigma();
            prop_assert!((got - want).abs() <= 1e-13 * at_stake, "{got} {want}");
        }

        /// The law's rate at `to`, by dual numbers, is the drift and diffusion of the SDE there.
        #[test]
        fn the_law_solves_the_moment_equations(e in -3.0..1.0f64, start in 0.0..3.0f64, points in three_points(), churn in churns()) {
            let lambda = 10f64.powf(e);
            let (from, to) = ordered(points);
            let lift = |p: &PathPoint| Level { alpha: Dual64::from(p.alpha), sigma: Dual64::from(p.sigma) };
            let gain = mean_gain(Dual64::from(lambda), lift(&from), to.moving().unwrap().dual(), churn);
            let var = variance(Dual64::from(lambda), Dual64::from(start), lift(&from), to.moving().unwrap().dual(), churn);
            let s = to.edm_sigma();
            let g2 = match churn { Churn::Constant(g) => g * g, Churn::Langevin(rate) => rate * s };
            let rates = to.rates.unwrap();
            let f = rates.alpha / to.alpha;
            let g2_path = 2.0 * to.sigma * (rates.sigma - f * to.sigma);
            let slope = f + 0.5 * (1.0 + g2) * g2_path / Level::from(&to).var(lambda);
            let (want_gain, want_var) = (slope * gain.re, 2.0 * slope * var.re - g2 * g2_path);
            let rate = f.abs() + slope.abs() + g2 * g2_path;
            // The Langevin primitive's two terms are quotients whose rates nearly cancel, within
            // each and between them: 8 eps of the largest part, of some fifteen roundings.
            let strength = if let Churn::Langevin(strength) = churn { strength } else { 0.0 };
            let (s_from, product) = (from.edm_sigma(), from.edm_sigma() * s);
            let terms = 1.0 + (s_from - s).abs() * s_from / (lambda + product);
            let cancelling = 8.0 * f64::EPSILON * strength * ((rates.sigma - f * to.sigma) / to.alpha).abs() * terms;
            prop_assert!((gain.eps - want_gain).abs() <= (1e-12 * rate + cancelling) * gain.re, "{gain:?} {want_gain}");
            let at_stake = rate * (1.0 + Level::from(&to).var(lambda) + gain.re * gain.re * (start + Level::from(&from).var(lambda)));
            prop_assert!((var.eps - want_var).abs() <= 1e-12 * at_stake + 2.0 * cancelling * (Level::from(&to).var(lambda) + gain.re * gain.re * start), "{var:?} {want_var}");
        }

        #[test]
        fn every_churn_keeps_the_marginals(data in gaussian(4), points in three_points(), churn in churns()) {
            let (from, to) = ordered(points);
            let cov = |at: &PathPoint| {
                let u = data.modes();
                (&u * &data.variances()).dot(&u.t()) * (at.alpha * at.alpha) + ndarray::Array2::<f64>::eye(4) * (at.sigma * at.sigma)
            };
            let start = Gaussian::new(&data.mean() * from.alpha, cov(&from).view()).unwrap();
            let law = reverse_law(&data, &start, from, to, churn).unwrap();
            if from.edm_sigma() > to.edm_sigma() {
                let message = reverse_law(&data, &start, to, from, churn).unwrap_err().to_string();
                prop_assert!(message.contains("from noise to data"), "{message}");
            }
            let got = (&law.modes() * &law.variances()).dot(&law.modes().t());
            // The start's covariance is rounded against its largest variance; the gain is at most
            // alpha_to / alpha_from.
            let size = size(&cov(&from)) * (to.alpha / from.alpha).powi(2).max(1.0) + size(&cov(&to));
            prop_assert!(gap(&got, &cov(&to)) <= 1e-13 * size);
            let mean_gap = (&law.mean() - &(&data.mean() * to.alpha)).mapv(f64::abs).sum();
            prop_assert!(mean_gap <= 1e-14 * 20.0 * (1.0 + to.alpha / from.alpha));
        }

        #[test]
        fn two_legs_are_one(data in full_gaussian(3), starts in prop::collection::vec(0.0..2.0f64, 3), points in three_points(), churn in churns()) {
            let mut points = points;
            points.sort_by(|a, b| b.edm_sigma().total_cmp(&a.edm_sigma()));
            let start = Gaussian::from_modes(Array1::ones(3), Array1::from(starts), data.modes().to_owned()).unwrap();
            let [a, b, c] = points;
            let middle = reverse_law(&data, &start, a, b, churn).unwrap();
            let via = reverse_law(&data, &middle, b, c, churn).unwrap();
            let direct = reverse_law(&data, &start, a, c, churn).unwrap();
            let cov = |l: &Gaussian| (&l.modes() * &l.variances()).dot(&l.modes().t());
            let scale = size(&cov(&start)) + size(&cov(&middle)) + size(&cov(&direct)) + a.sigma * a.sigma + 10.0 * a.alpha * a.alpha;
            let growth = (c.alpha / a.alpha).max(1.0);
            prop_assert!(gap(&cov(&via), &cov(&direct)) <= 1e-13 * scale * growth * growth);
            prop_assert!((&via.mean() - &direct.mean()).mapv(f64::abs).sum() <= 1e-13 * 20.0 * growth);
        }
    }

    #[test]
    fn singular_starts_and_wrong_directions_are_refused() {
        let data = Gaussian::diagonal(Array1::zeros(2), ndarray::array![1.0, 0.0]).unwrap();
        let start = Gaussian::diagonal(Array1::zeros(2), ndarray::array![1.0, 1.0]).unwrap();
        let (noise, clean) = (PathPoint::NOISE, PathPoint::CLEAN);
        let law = |from, to, churn| reverse_law(&data, &start, from, to, churn);
        assert!(law(&noise, &clean, Churn::Constant(0.0)).is_ok());
        // From pure noise any churn forgets the start altogether.
        assert_eq!(
            law(&noise, &clean, Churn::Constant(1.0)).unwrap().variances(),
            data.variances()
        );
        assert_eq!(
            law(&noise, &clean, Churn::Langevin(1.0)).unwrap().variances(),
            data.variances()
        );
        assert!(law(&clean, &noise, Churn::Constant(0.0)).is_err());
        assert!(law(&noise, &clean, Churn::Constant(f64::NAN)).is_err());
        assert!(law(&noise, &clean, Churn::Langevin(-1.0)).is_err());
    }

    #[test]
    fn without_churn_the_flow_is_the_pf_ode() {
        let (from, to) = (Level { alpha: 0.3, sigma: 0.9 }, Level { alpha: 0.8, sigma: 0.2 });
        for churn in [Churn::Constant(0.0), Churn::Langevin(0.0)] {
            assert_eq!(mean_gain(2.0, from, to, churn), psi(2.0, from, to));
            assert_eq!(log_forgetting(2.0, from, to, churn), 0.0);
        }
    }

    #[test]
    fn levels_that_are_equally_noisy_are_one_step_apart_in_scale_alone() {
        let data = Gaussian::diagonal(Array1::ones(2), ndarray::array![1.0, 0.25]).unwrap();
        let start =
            Gaussian::diagonal(ndarray::array![2.0, 3.0], ndarray::array![2.0, 5.0]).unwrap();
        let between = |a: (f64, f64), b: (f64, f64)| {
            reverse_law(
                &data,
                &start,
                PathPoint::still(a.0, a.1),
                PathPoint::still(b.0, b.1),
                Churn::Constant(1.0),
            )
            .unwrap()
        };
        // From 0.5 to 2 the state grows fourfold: mean - 0.5 mean0 to mean - 2 mean0, the variance
        // by 16.
        for law in [between((0.5, 0.0), (2.0, 0.0)), between((0.5, 0.25), (2.0, 1.0))] {
            assert_eq!((law.mean()[0], law.mean()[1]), (8.0, 12.0));
            let [a, b] = [0, 1].map(|k| law.matrix(|v| v)[[k, k]]);
            assert!(
                (a - 32.0).abs() <= 1e-14 * 32.0 && (b - 80.0).abs() <= 1e-14 * 80.0,
                "{a} {b}"
            );
        }
        for churn in [f64::INFINITY, f64::NAN, -1.0] {
            let (from, to) = (PathPoint::still(1.0, 1.0), PathPoint::still(1.0, 0.5));
            let message = reverse_law(&data, &start, from, to, Churn::Constant(churn))
                .unwrap_err()
                .to_string();
            assert!(message.starts_with("churn"), "{message}");
        }
    }

    #[test]
    fn what_is_forgotten_keeps_its_digits() {
        let langevin = |lambda: f64, s: f64, t: f64| {
            log_forgetting(lambda, Level::new(1.0, s), Level::new(1.0, t), Churn::Langevin(1.0))
        };
        // s - atan s = s^3 / 3 - s^5 / 5 + ..., where the two terms agree to ten digits; and to a
        // level of the same ratio on another scale.
        let (s, want) = (1e-5f64, -1e-15 / 3.0 + 1e-25 / 5.0);
        assert!((langevin(1.0, s, 0.0) / want - 1.0).abs() <= 8.0 * f64::EPSILON);
        let scaled = log_forgetting(
            1.0,
            Level::new(0.5, 0.5 * s),
            Level::new(0.25, 0.0),
            Churn::Langevin(1.0),
        );
        assert!((scaled / want - 1.0).abs() <= 8.0 * f64::EPSILON);
        // On both sides of the series' border, and against arctangents far from it.
        for s in [0.4999f64, 0.5, 0.5001, 3.0, 80.0] {
            assert!(
                (langevin(1.0, s, 0.0) / (s.atan() - s) - 1.0).abs() <= 64.0 * f64::EPSILON,
                "{s}"
            );
        }
        // A point mass forgets by the difference of the levels; at equal ones nothing is forgotten.
        assert_eq!(langevin(0.0, 2.0, 0.5), -1.5);
        assert_eq!(langevin(0.0, 2.0, 0.0), -2.0);
        assert_eq!(langevin(3.0, 0.7, 0.7), 0.0);
        assert_eq!(
            log_forgetting(1.0, Level::NOISE, Level::CLEAN, Churn::Langevin(1.0)),
            f64::NEG_INFINITY
        );
    }

    #[test]
    fn a_point_mass_forgets_by_the_difference_of_the_levels() {
        // int dtau / tau of sqrt(tau) / 2: the difference of the two s, also where their product
        // is out of range.
        for unit in [1e-200, 1.0, 1e200] {
            let [from, to] = [1.0, 0.25].map(|s| Level { alpha: 1.0, sigma: s * unit });
            let got: f64 = log_forgetting(0.0, from, to, Churn::Langevin(2.0));
            assert!((got / (-1.5 * unit) - 1.0).abs() <= 4.0 * f64::EPSILON, "{unit}: {got}");
        }
    }
}
