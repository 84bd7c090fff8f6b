//! Unadjusted Langevin dynamics on a Gaussian: the exact law of the discretised chain, and its
//! bias.
//!
//! The chain is `x' = x + step score(x) + sqrt(2 step) z`. Its continuous limit has the target as
//! stationary law; at a finite step each mode has too much variance, by a factor that depends on
//! `step / var` alone.

use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::exact::shared_modes::shared_modes;
use crate::law::Gaussian;
use crate::math::scalar::Scalar;
use crate::math::smaller;

/// Factor of a deviation from the mean in one step, in a mode of target variance `var`: the chain
/// forgets where it is below 1.
///
/// # Formula
/// `1 - step / var`
pub fn gain<S: Scalar>(var: S, step: S) -> S {
    -step / var + 1.0
}

/// Variance of the chain's stationary law in a mode of target variance `var`, for `step < 2 var`.
///
/// # Formula
/// `var / (1 - step / (2 var))`: the fixed point of `V' = gain^2 V + 2 step`, too large by the
/// relative `step / (2 var - step)`.
///
/// # Source
/// Roberts and Tweedie 1996, "Exponential convergence of Langevin distributions and their discrete
/// approximations" (the chain); Wibisono 2018, "Sampling as optimization in the space of measures"
/// (its bias on a Gaussian).
///
/// # Example
/// ```
/// use tweedie::exact::langevin::stationary_var;
/// assert_eq!(stationary_var(1.0, 1.0), 2.0); // from a step of twice the variance on there is no stationary law
/// ```
pub fn stationary_var<S: Scalar>(var: S, step: S) -> S {
    var / (-step / (var * 2.0) + 1.0)
}

/// Variance of one mode after `steps` steps from variance `start`, for any step: the chain may
/// diverge.
///
/// # Formula
/// `gain^(2 n) start + 2 step (1 + gain^2 + ... + gain^(2 n - 2))`
pub fn var_after<S: Scalar>(var: S, start: S, step: S, steps: u32) -> S {
    let gain = gain(var, step);
    let shrink = gain * gain;
    // Step by step, not by the sum of the geometric series: that is 0/0 at step = 2 var, where the
    // gain is -1.
    (0..steps).fold(start, |v, _| shrink * v + step * 2.0)
}

/// Stationary law of the chain on the noised law of Gaussian `data` at one level, in all d
/// directions.
///
/// # Formula
/// Mean `alpha mean`; in each mode [`stationary_var`] of `alpha^2 lambda + sigma^2`.
///
/// # Errors
/// A step that is not positive, or not below twice the smallest variance of the level: the chain
/// then has no stationary law.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::{diffusion::PathPoint, exact::langevin::stationary_law, law::Gaussian};
/// let data = Gaussian::diagonal(array![3.0, 0.0], array![2.0, 0.5]).unwrap();
/// let law = stationary_law(&data, &PathPoint::CLEAN, 0.5).unwrap();
/// // A quarter of the step over the variance of 2, the whole of it over that of 1/2.
/// assert!((law.variances()[0] - 2.0 / 0.875).abs() < 1e-15 && law.variances()[1] == 1.0);
/// assert!(stationary_law(&data, &PathPoint::CLEAN, 1.5).is_err());
/// ```
pub fn stationary_law(data: &Gaussian, at: impl Into<Level>, step: f64) -> Result<Gaussian> {
    let level = Level::of(at)?;
    let shared = shared_modes(&[data])?;
    let vars = shared.variances[0].mapv(|lambda| level.var(lambda));
    let least = vars.iter().copied().fold(f64::INFINITY, smaller);
    if !(step > 0.0 && step < 2.0 * least) {
        let allowed = format!("between 0 and {}, twice the smallest variance", 2.0 * least);
        return Err(Error::domain(
            "Langevin step",
            step,
            allowed,
            "take a smaller step, or more noise",
        ));
    }
    Gaussian::from_modes(
        &data.mean() * level.alpha,
        vars.mapv(|var| stationary_var(var, step)),
        shared.modes,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::PathPoint;
    use crate::exact::testing::{gaussian, point};
    use crate::law::Law;
    use crate::math::gaussian::{Covariance, Normal};
    use nalgebra::{DMatrix, DVector};
    use proptest::prelude::*;

    proptest! {
        /// Second route: the joint law of all states by dense linear algebra.
        #[test]
        fn the_law_after_n_steps_is_that_of_the_joint_gaussian(var in 0.1..10.0f64, start in 0.0..10.0f64, share in 0.01..2.2f64, steps in 1u32..8) {
            let step = share * var;
            let gain = DMatrix::from_element(1, 1, 1.0 - step / var);
            let mut law = Normal::new(DVector::zeros(1), Covariance::Isotropic(start)).unwrap();
            for _ in 0..steps {
                law = law.joint(&gain, &DVector::zeros(1), Covariance::Isotropic(2.0 * step)).unwrap().marginal(&[1]).unwrap();
            }
            let got = var_after(var, start, step, steps);
            // 1 - share loses digits near share = 1, to eps absolutely, against noise of variance 2
            // step.
            prop_assert!((got - law.cov_matrix()[(0, 0)]).abs() <= 16.0 * f64::EPSILON * (1.0 + start + step) * f64::from(steps));
        }

        #[test]
        fn one_step_leaves_the_stationary_law_alone(data in gaussian(3), t in 0.1..0.95f64, family in 0u8..3, share in 0.01..1.99f64) {
            let at = point(family, t);
            let level = Level::of(at).unwrap();
            let least = data.variances().iter().copied().chain((data.rank() < 3).then_some(0.0)).map(|l| level.var(l)).fold(f64::INFINITY, smaller);
            let step = share * least;
            let law = stationary_law(&data, at, step).unwrap();
            prop_assert_eq!(law.mean(), &data.mean() * at.alpha);
            // x + step score(x) as a matrix: I + step times the score's gain.
            let map = data.matrix(|lambda| 1.0 - step / level.var(lambda));
            let next = map.dot(&law.cov()).dot(&map.t()) + ndarray::Array2::from_diag_elem(3, 2.0 * step);
            let size = law.variances()[0].max(step);
            for (got, want) in next.iter().zip(&law.cov()) {
                prop_assert!((got - want).abs() <= 64.0 * f64::EPSILON * size, "{got} {want}");
            }
        }
    }

    #[test]
    fn steps_without_a_stationary_law_are_refused() {
        let data =
            Gaussian::diagonal(ndarray::array![0.0, 0.0], ndarray::array![1.0, 0.0]).unwrap();
        let level = PathPoint::still(1.0, 0.5);
        for step in [0.0, -0.1, 0.5, f64::NAN] {
            let message = stationary_law(&data, level, step).unwrap_err().to_string();
            assert!(message.contains("between 0 and 0.5"), "{step}: {message}");
        }
        assert!(stationary_law(&data, level, 0.499).is_ok());
    }
}
