//! Markov chains of one number with linear Gaussian steps, as one joint Gaussian: forward
//! processes, and samplers with linear denoisers.
//!
//! The joint law is dense linear algebra and knows nothing of diffusion: a second route for every
//! statement about a chain. The law of the last state alone takes one multiplication a step.

use crate::diffusion::PathPoint;
use crate::diffusion::kernel::Posterior;
use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::math::gaussian::{Covariance, Normal};
use nalgebra::{DMatrix, DVector};

/// One step `x' = scale x + shift + sqrt(var) eps` of a scalar chain.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Step {
    /// Factor of the state before.
    pub scale: f64,
    /// What is added to it.
    pub shift: f64,
    /// Variance of the fresh noise.
    pub var: f64,
}

impl Step {
    /// A step without shift.
    pub fn new(scale: f64, var: f64) -> Self {
        Self { scale, shift: 0.0, var }
    }
}

/// The joint law of (first state, second, ...) of the chain that starts from `N(mean, var)`; `var`
/// may be 0.
///
/// # Errors
/// A negative variance, NaN.
///
/// # Example
/// ```
/// use tweedie::exact::chain::{Step, joint};
/// // A random walk of two unit steps from 0: the states have variances 0, 1, 2, and neighbours share the smaller one.
/// let walk = joint(0.0, 0.0, &[Step::new(1.0, 1.0); 2]).unwrap().cov_matrix();
/// assert_eq!((walk[(1, 1)], walk[(2, 2)], walk[(1, 2)]), (1.0, 2.0, 1.0));
/// ```
pub fn joint(mean: f64, var: f64, steps: &[Step]) -> Result<Normal> {
    let start = Normal::new(DVector::from_element(1, mean), Covariance::Isotropic(var))?;
    steps.iter().try_fold(start, |law, step| {
        let last =
            DMatrix::from_fn(
                1,
                law.dim(),
                |_, j| if j + 1 == law.dim() { step.scale } else { 0.0 },
            );
        law.joint(&last, &DVector::from_element(1, step.shift), Covariance::Isotropic(step.var))
    })
}

/// Mean and variance of the last state alone, for chains of any length.
///
/// # Formula
/// `mean' = scale mean + shift`, `var' = scale^2 var + var_step`
pub fn end(mean: f64, var: f64, steps: &[Step]) -> (f64, f64) {
    steps
        .iter()
        .fold((mean, var), |(m, v), s| (s.scale * m + s.shift, s.scale * s.scale * v + s.var))
}

/// The steps of ancestral sampling, from x_T down to x_0, with the denoiser `x0_hat = gains[k] x_t`
/// at `points[k]`.
///
/// `points` are x_1 to x_T, the cleanest first; `vars[k]` is the variance of the step that leaves
/// `points[k]`, and `vars[0]` that of p(x_0|x_1).
///
/// # Formula
/// `x_s = (coef_xt + coef_x0 gain) x_t + sqrt(var) eps` with the coefficients of q(x_s|x_t,x0).
///
/// # Errors
/// As many gains and variances as points; SNRs that do not fall.
pub fn ancestral(points: &[PathPoint], gains: &[f64], vars: &[f64]) -> Result<Vec<Step>> {
    if gains.len() != points.len() || vars.len() != points.len() {
        let want = format!("({0},) and ({0},), one a point", points.len());
        return Err(Error::shape(
            "gains, variances",
            &[gains.len(), vars.len()],
            want,
            "p(x_0|x_1) has a variance of its own",
        ));
    }
    (0..points.len())
        .rev()
        .map(|k| {
            let s = if k == 0 { Level::CLEAN } else { Level::of(points[k - 1])? };
            let q = Posterior::between(s, Level::of(points[k])?)?;
            Ok(Step::new(q.coef_xt + q.coef_x0 * gains[k], vars[k]))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::gaussian::wiener_gain;
    use proptest::prelude::*;

    proptest! {
        /// The recursion is the last row of the joint law.
        #[test]
        fn the_end_is_the_joint_laws_last_marginal(mean in -2.0..2.0f64, var in 0.0..2.0f64, steps in prop::collection::vec((-1.5..1.5f64, -1.0..1.0f64, 0.0..2.0f64), 1..6)) {
            let steps: Vec<_> = steps.into_iter().map(|(scale, shift, var)| Step { scale, shift, var }).collect();
            let (law, got) = (joint(mean, var, &steps).unwrap(), end(mean, var, &steps));
            // Sums of at most six products of numbers below 1.5^10.
            prop_assert!((law.mean()[steps.len()] - got.0).abs() <= 1e-13 * 60.0);
            prop_assert!((law.cov_matrix()[(steps.len(), steps.len())] - got.1).abs() <= 1e-13 * 300.0);
        }

        /// With the best gains and the variances of q(x_s|x_t) by conditioning, the way back from
        /// the true marginal has the law of the way out.
        #[test]
        fn the_exact_reversal_returns_to_the_data(lambda in 0.1..4.0f64, sigmas in prop::collection::vec(0.1..0.9f64, 3)) {
            let noise = sigmas.iter().scan(0.0, |s: &mut f64, d| { *s += (1.0 - *s) * d; Some(*s) });
            let points: Vec<_> = noise.map(|var| PathPoint::still((1.0 - var).sqrt(), var.sqrt())).collect();
            let gains: Vec<_> = points.iter().map(|p| wiener_gain(lambda, p.alpha, p.sigma)).collect();
            let scale = |k: usize| if k == 0 { points[0].alpha } else { points[k].alpha / points[k - 1].alpha };
            let before = |k: usize| if k == 0 { 0.0 } else { points[k - 1].sigma.powi(2) };
            let out: Vec<_> = (0..3).map(|k| Step::new(scale(k), points[k].sigma.powi(2) - scale(k).powi(2) * before(k))).collect();
            let there = joint(0.0, lambda, &out).unwrap();
            let vars: Vec<_> = (0..3).map(|k| there.marginal(&[k, k + 1]).unwrap().condition(&[1], &[0.0]).unwrap().cov_matrix()[(0, 0)]).collect();
            let last = there.cov_matrix()[(3, 3)];
            let back = joint(0.0, last, &ancestral(&points, &gains, &vars).unwrap()).unwrap().marginal(&[3, 2, 1, 0]).unwrap();
            // Differences of variances near 1 over the smallest share of fresh noise, 0.1.
            prop_assert!((back.cov_matrix() - there.cov_matrix()).amax() <= 1e-13 * (1.0 + lambda));
        }
    }

    #[test]
    fn lists_that_do_not_fit_are_refused() {
        let points = [PathPoint::still(0.8, 0.6), PathPoint::still(0.6, 0.8)];
        assert!(
            ancestral(&points, &[1.0], &[1.0, 1.0])
                .unwrap_err()
                .to_string()
                .contains("one a point")
        );
        assert!(joint(0.0, -1.0, &[]).is_err());
    }
}
