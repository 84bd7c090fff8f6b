//! How straight the flow is, before and after one reflow.

use crate::diffusion::PathPoint;
use crate::diffusion::level::{Level, Moving};
use crate::error::{Error, Result};
use crate::exact::flow::velocity_gain;
use crate::exact::pf_ode::{mapped, pf_ode_map};
use crate::law::Gaussian;
use crate::math::quadrature::IntervalRule;
use ndarray::{Array2, ArrayView2};
use std::f64::consts::FRAC_PI_2;

/// Straightness of the flow of Gaussian data on the flow-matching path `x_t = (1 - t) x0 + t eps`;
/// 0 is straight.
///
/// # Formula
/// `int_0^1 E|(z_1 - z_0) - v(z_t, t)|^2 dt` along the PF-ODE's trajectories is
/// `(2 - pi/2) sum_k sqrt(lambda_k)`: with `rho^2 = (1 - t)^2 lambda + t^2` one has
/// `(d rho/dt)^2 = 1 + lambda - lambda / rho^2`, whose integral is
/// `1 + lambda - (pi/2) sqrt(lambda)`, and the straight line's is `(1 - sqrt(lambda))^2`. The mean
/// moves along a straight line and adds nothing.
///
/// # Source
/// Liu et al. 2023, "Flow straight and fast" (S of a flow).
pub fn straightness(law: &Gaussian) -> f64 {
    (2.0 - FRAC_PI_2) * law.variances().mapv(f64::sqrt).sum()
}

/// How much the lines between independent noise and data cross: the least possible flow-matching
/// loss.
///
/// # Formula
/// `int_0^1 E|(eps - x0) - v(x_t, t)|^2 dt = int sum_k lambda_k / rho_k^2 dt = (pi/2) sum_k
/// sqrt(lambda_k)`
///
/// # Source
/// Liu et al. 2023, "Flow straight and fast" (V of a coupling).
pub fn crossing(law: &Gaussian) -> f64 {
    FRAC_PI_2 * law.variances().mapv(f64::sqrt).sum()
}

/// Straightness of the flow on any path over t in [0, 1], by quadrature.
///
/// # Formula
/// `sum_k int_0^1 (rho' - (rho(1) - rho(0)))^2 dt + |mean|^2 int_0^1 (alpha' - (alpha(1) -
/// alpha(0)))^2 dt` with `rho = sqrt(alpha^2 lambda_k + sigma^2)`.
///
/// The panels halve towards both ends, because a mode bends where `sigma / alpha` is about
/// `sqrt(lambda)`.
///
/// # Errors
/// What `path` returns at a time in [0, 1].
pub fn straightness_on(law: &Gaussian, path: impl Fn(f64) -> Result<Moving>) -> Result<f64> {
    let (start, end) = (path(0.0)?.level.checked()?, path(1.0)?.level.checked()?);
    let mut lambdas = law.variances().to_vec();
    lambdas.resize(law.dim(), 0.0);
    let means = law.mean().dot(&law.mean());
    let mut failure = None;
    let mut integrand = |t: f64| {
        let at = match path(t) {
            Ok(moving) => moving,
            Err(e) => {
                failure.get_or_insert(e);
                return f64::NAN;
            }
        };
        let bend = |&lambda: &f64| {
            let rho = |level: Level| level.std(lambda);
            (velocity_gain(lambda, &at) * rho(at.level) - (rho(end) - rho(start))).powi(2)
        };
        lambdas.iter().map(bend).sum::<f64>()
            + means * (at.rates.alpha - (end.alpha - start.alpha)).powi(2)
    };
    let sum = towards_both_ends(&mut integrand)?;
    failure.map_or(Ok(sum), Err)
}

/// `int_0^1 f dt` over panels that halve towards both ends, where a feature of any width is met by
/// panels of its own size.
fn towards_both_ends(mut f: impl FnMut(f64) -> f64) -> Result<f64> {
    /// A feature narrower than 2^-60 belongs to a variance below 1e-36.
    const PANELS: i32 = 60;
    let rule = IntervalRule::new(16)?;
    let edge = |k: i32| if k > PANELS { 0.0 } else { 0.5f64.powi(k) };
    let panel = |k| rule.integral(edge(k + 1), edge(k), |t| f(t) + f(1.0 - t));
    Ok((1..=PANELS).map(panel).sum())
}

/// Clean ends of noise under the flow: the coupling (noise, data) that a reflow is trained on.
///
/// # Formula
/// `mean + sum_k sqrt(lambda_k) u_k u_k^T eps`: the flow-matching flow from t = 1, and the optimal
/// transport from N(0, I).
///
/// # Shapes
/// `eps` (n, d), result (n, d).
///
/// # Errors
/// `eps` that does not fit.
pub fn reflow_coupling(law: &Gaussian, eps: ArrayView2<f64>) -> Result<Array2<f64>> {
    pf_ode_map(law, eps, PathPoint::NOISE, PathPoint::CLEAN)
}

/// Velocity after one reflow, `E[eps - x0 | (1 - t) x0 + t eps = x]` under [`reflow_coupling`]:
/// constant along each trajectory.
///
/// # Formula
/// In each mode `eps = (x - (1 - t) mean) / ((1 - t) sqrt(lambda) + t)`, velocity
/// `(1 - sqrt(lambda)) eps - mean`. The coupling's lines do not cross, so that straightness and
/// crossing are both 0, and one Euler step from noise gives the data exactly.
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// `x` that does not fit; a time outside [0, 1]; t = 0 with a singular covariance, where the noise
/// can not be read off the state.
///
/// # Source
/// Liu et al. 2023, "Flow straight and fast", section 3.3, the straightening effect.
pub fn reflowed_velocity(law: &Gaussian, x: ArrayView2<f64>, t: f64) -> Result<Array2<f64>> {
    if !(0.0..=1.0).contains(&t) {
        return Err(Error::domain("t", t, "[0, 1]", "0 is data, 1 is noise"));
    }
    if t == 0.0 && (law.rank() < law.dim() || law.variances().iter().any(|v| *v == 0.0)) {
        let why = "all trajectories of a mode without variance end in one point";
        return Err(Error::singular(
            "the reflowed velocity of a singular covariance",
            "t = 0",
            why,
            "take a small positive t",
        ));
    }
    mapped(law, x, 1.0 - t, -1.0, |lambda| (1.0 - lambda.sqrt()) / ((1.0 - t) * lambda.sqrt() + t))
}

/// Transport cost `E|eps - x0|^2` of independent noise and data, and of the coupling after one
/// reflow.
///
/// # Formula
/// `|mean|^2 + sum_k (1 + lambda_k)` over all d directions, and
/// `|mean|^2 + sum_k (1 - sqrt(lambda_k))^2`, the squared Wasserstein distance: a reflow of a
/// Gaussian reaches the optimum at once.
pub fn transport_costs(law: &Gaussian) -> (f64, f64) {
    let shared = law.mean().dot(&law.mean()) + (law.dim() - law.rank()) as f64;
    let sum = |f: fn(f64) -> f64| shared + law.variances().mapv(f).sum();
    (sum(|lambda| 1.0 + lambda), sum(|lambda| (1.0 - lambda.sqrt()).powi(2)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::distance::w2_squared;
    use crate::exact::testing::*;
    use ndarray::{Array1, array};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn straightness_in_closed_form_is_its_integral(law in gaussian(4)) {
            let (got, want) = (straightness(&law), straightness_on(&law, |t| point(2, t).moving()).unwrap());
            // Each panel is good to rounding; the integrand is at most (1 + lambda).
            prop_assert!((got - want).abs() <= 1e-13 * (4.0 + law.variances().sum()), "{got} {want}");
        }

        #[test]
        fn crossing_is_the_integrated_conditional_variance(law in gaussian(4)) {
            // Cov[eps - x0 | x_t] of the joint Gaussian: (1 + lambda) - Cov[eps - x0, x_t]^2 /
            // Var[x_t].
            let integrand = |t: f64| law.variances().iter().map(|l| {
                let (cross, var) = (t - (1.0 - t) * l, (1.0 - t) * (1.0 - t) * l + t * t);
                1.0 + l - cross * cross / var
            }).sum::<f64>();
            let want = towards_both_ends(integrand).unwrap();
            prop_assert!((crossing(&law) - want).abs() <= 1e-13 * (4.0 + law.variances().sum()));
        }

        /// One Euler step of any length along the reflowed velocity stays on the line that joins
        /// noise and data.
        #[test]
        fn after_a_reflow_the_lines_are_straight(law in gaussian(4), seed: u64, t in 0.01..1.0f64, s in 0.0..1.0f64) {
            let eps = normal_rows(3, 4, seed);
            let x0 = reflow_coupling(&law, eps.view()).unwrap();
            let on_line = |t: f64| &x0 * (1.0 - t) + &eps * t;
            let x = on_line(t);
            let velocity = reflowed_velocity(&law, x.view(), t).unwrap();
            // The noise is read off the state over (1 - t) sqrt(lambda) + t >= t / 2.
            let tol = 64.0 * f64::EPSILON * (1.0 + size(&x0) + size(&eps)) / t;
            prop_assert!(gap(&velocity, &(&eps - &x0)) <= tol);
            prop_assert!(gap(&(&x + &(&velocity * (s - t))), &on_line(s)) <= tol);
        }

        #[test]
        fn a_reflow_reaches_the_optimal_cost(law in gaussian(4)) {
            let (independent, reflowed) = transport_costs(&law);
            let noise = Gaussian::isotropic(Array1::zeros(4), 1.0).unwrap();
            let optimal = w2_squared(&law, &noise).unwrap();
            prop_assert!((reflowed - optimal).abs() <= 1e-12 * (1.0 + optimal));
            prop_assert!(reflowed <= independent);
        }
    }

    #[test]
    fn one_mode_by_hand() {
        let law = Gaussian::diagonal(array![5.0], array![4.0]).unwrap();
        assert_eq!(straightness(&law), 4.0 - std::f64::consts::PI);
        assert_eq!(transport_costs(&law), (30.0, 26.0));
        assert!(reflowed_velocity(&law, array![[1.0]].view(), 1.5).is_err());
        // The variance-preserving path is not straight even for unit variance, where it does not
        // move a centred state.
        let centred = Gaussian::diagonal(array![0.0], array![1.0]).unwrap();
        assert!(straightness_on(&centred, |t| point(0, t).moving()).unwrap() <= 1e-28);
        assert!(straightness_on(&law, |t| point(0, t).moving()).unwrap() > straightness(&law));
    }

    #[test]
    fn at_the_data_only_a_full_law_tells_its_noise() {
        let full = Gaussian::diagonal(array![0.0, 0.0], array![4.0, 0.25]).unwrap();
        let x = array![[2.0, 1.0]];
        assert_eq!(reflowed_velocity(&full, x.view(), 0.0).unwrap(), array![[-1.0, 1.0]]);
        let flat = Gaussian::diagonal(array![0.0, 0.0], array![4.0, 0.0]).unwrap();
        for law in [flat, full.truncated(1)] {
            assert!(matches!(reflowed_velocity(&law, x.view(), 0.0), Err(Error::Singular { .. })));
            assert!(reflowed_velocity(&law, x.view(), 0.5).is_ok());
        }
    }
}
