//! Exact log-likelihood by change of variables along the PF-ODE.

use crate::diffusion::PathPoint;
use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::exact::gains::log_psi;
use crate::exact::pf_ode::{Flow, pf_ode_map, regular};
use crate::law::{Gaussian, Law};
use ndarray::{Array1, ArrayView2, s};

/// `ln |det d x_to / d x_from|` of the PF-ODE's map for Gaussian data.
///
/// # Formula
/// `sum_k log_psi(lambda_k)` over all d directions, those off the modes with lambda = 0.
///
/// # Errors
/// As [`pf_ode_map`].
pub fn log_det(law: &Gaussian, from: impl Into<Level>, to: impl Into<Level>) -> Result<f64> {
    let (from, to) = regular(law, from, to)?;
    let off = law.dim() - law.rank();
    if from.sigma == 0.0 && to.sigma == 0.0 {
        return Ok(law.dim() as f64 * (to.alpha / from.alpha).ln());
    }
    let on: f64 = law.variances().iter().map(|&lambda| log_psi(lambda, from, to)).sum();
    Ok(if off == 0 { on } else { on + off as f64 * log_psi(0.0, from, to) })
}

/// Log density of `x` at `from` for Gaussian data, by the density of its image at `to`.
///
/// # Formula
/// `ln p_from(x) = ln p_to(x_to) + ln |det d x_to / d x|`, in nats.
///
/// The prior is the true marginal at `to`. Sampling code that puts `N(0, sigma^2 I)` in its place
/// reports the likelihood of another model.
///
/// # Shapes
/// `x` (n, d), result (n).
///
/// # Errors
/// As [`pf_ode_map`].
///
/// # Source
/// Chen et al. 2018, "Neural ordinary differential equations", theorem 1; Song et al. 2021, eq. 39.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::{diffusion::PathPoint, exact::likelihood::log_likelihood, law::{Gaussian, Law}};
/// let law = Gaussian::diagonal(array![1.0], array![4.0]).unwrap();
/// let (clean, noise) = (PathPoint::CLEAN, PathPoint::NOISE);
/// let x = array![[2.0]];
/// let by_flow = log_likelihood(&law, x.view(), &clean, &noise).unwrap();
/// assert!((by_flow[0] - law.log_density(x.view(), &clean)[0]).abs() < 1e-15);
/// ```
pub fn log_likelihood(
    law: &Gaussian,
    x: ArrayView2<f64>,
    from: &PathPoint,
    to: &PathPoint,
) -> Result<Array1<f64>> {
    let image = pf_ode_map(law, x, from, to)?;
    Ok(law.log_density(image.view(), to) + log_det(law, from, to)?)
}

/// Log density of `x` at `from` for any law, by the reference integrator, with the trace of the
/// denoiser's Jacobian.
///
/// # Formula
/// As [`log_likelihood`], with `d ln |det| / dphi = (d cos(phi) - tr(d x0_hat / dz)) / sin(phi)`
/// integrated beside the state (see [`pf_ode_solve`](crate::exact::pf_ode::pf_ode_solve) for phi
/// and z).
///
/// # Shapes
/// `x` (n, d), result (n).
///
/// # Errors
/// As [`pf_ode_solve`](crate::exact::pf_ode::pf_ode_solve), at `sigma = 0` at either end.
pub fn log_likelihood_solve(
    law: &dyn Law,
    x: ArrayView2<f64>,
    from: &PathPoint,
    to: &PathPoint,
) -> Result<Array1<f64>> {
    if to.sigma == 0.0 {
        let why = "the log-determinant is -inf for a law without a density";
        return Err(Error::singular(
            "the change of variables",
            "to.sigma = 0",
            why,
            "end at pure noise, where the density is known",
        ));
    }
    let end = Flow::new(law).with_log_det().solve(x, &[*from, *to])?.0.swap_remove(1);
    let d = law.dim();
    Ok(law.log_density(end.slice(s![.., ..d]), to) + end.column(d))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::testing::*;
    use crate::law::mixture::Mixture;
    use ndarray::array;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn change_of_variables_is_the_density(law in gaussian(4), [from, to, _] in three_points(), seed: u64) {
            // Rows that the law itself may have given, at every level.
            let eps = normal_rows(3, 4, seed);
            let x = crate::exact::pf_ode::pf_ode_map(&law, eps.view(), PathPoint::NOISE, from).unwrap();
            let (got, want) = (log_likelihood(&law, x.view(), &from, &to).unwrap(), law.log_density(x.view(), &from));
            for (got, want) in got.iter().zip(&want) {
                // Squares over the variance: the state rounds against the mean and the largest
                // mode, the variance is at least sigma^2.
                let rounding = |at: &PathPoint| { let r = (at.alpha * (3.0 + 10.0) + at.sigma) / at.sigma; 4.0 * r * size(&eps) };
                prop_assert!((got - want).abs() <= 16.0 * f64::EPSILON * (want.abs() + 100.0 + rounding(&from) + rounding(&to)), "{got} {want}");
            }
        }
    }

    #[test]
    fn ends_without_a_density_are_refused() {
        let law = Gaussian::diagonal(array![0.0, 0.0], array![1.0, 0.0]).unwrap();
        let (clean, noise, x) = (PathPoint::CLEAN, PathPoint::NOISE, array![[1.0, 0.0]]);
        assert!(log_likelihood(&law, x.view(), &clean, &noise).is_err());
        assert!(log_likelihood_solve(&law, x.view(), &clean, &noise).is_err());
        assert!(log_likelihood_solve(&law, x.view(), &noise, &clean).is_err());
        assert_eq!(log_det(&law, clean, PathPoint::still(2.0, 0.0)).unwrap(), 2.0 * 2f64.ln());
    }

    proptest! {
        #[test]
        fn the_integrated_trace_is_the_sum_of_log_gains(law in gaussian(3), [from, to, _] in three_points(), seed: u64) {
            let x = normal_rows(1, 3, seed);
            let end = Flow::new(&law).with_log_det().solve(x.view(), &[from, to]).unwrap().0.swap_remove(1);
            let want = log_det(&law, from, to).unwrap();
            // 1e-13 d a step, about 30 steps.
            prop_assert!((end[[0, 3]] - want).abs() <= 1e-11 * (1.0 + want.abs()), "{} {want}", end[[0, 3]]);
        }

        /// Over all of the noise, on a law whose density is known otherwise.
        #[test]
        fn a_mixtures_density_flows_with_it(t in 0.1..0.9f64, family in 0u8..3, seed: u64) {
            let part = |m: f64, v: f64| Gaussian::diagonal(array![m, -m], array![v, 0.3]).unwrap();
            let law = Mixture::new(array![0.4, 0.6], vec![part(-1.0, 0.2), part(0.5, 1.0)]).unwrap();
            let from = point(family, t);
            let x = normal_rows(1, 2, seed) * from.alpha.hypot(from.sigma);
            let got = log_likelihood_solve(&law, x.view(), &from, &PathPoint::NOISE).unwrap()[0];
            let want = law.log_density(x.view(), &from)[0];
            prop_assert!((got - want).abs() <= 1e-10 * (1.0 + want.abs()), "{got} {want}");
        }
    }

    #[test]
    fn clean_ends_of_a_full_law() {
        let law = Gaussian::diagonal(array![0.0, 0.0], array![4.0, 9.0]).unwrap();
        let (clean, noise) = (PathPoint::still(0.5, 0.0), PathPoint::NOISE);
        // From deviations 0.5 2 and 0.5 3 to 1; between clean levels only the scale changes.
        assert!((log_det(&law, clean, noise).unwrap() + 1.5f64.ln()).abs() <= 4.0 * f64::EPSILON);
        assert!((log_det(&law, noise, clean).unwrap() - 1.5f64.ln()).abs() <= 4.0 * f64::EPSILON);
        assert_eq!(log_det(&law, clean, PathPoint::still(2.0, 0.0)).unwrap(), 2.0 * 4f64.ln());
    }
}
