//! Distances between Gaussian laws: mode by mode where their covariances commute.

use crate::error::Result;
use crate::exact::shared_modes::shared_modes;
use crate::law::Gaussian;
use crate::math::gaussian::{Covariance, Normal, kl_normal, w2_squared_normal};
use nalgebra::{DMatrix, DVector};

/// Squared 2-Wasserstein distance of two Gaussians, singular ones included.
///
/// # Formula
/// `|m1 - m2|^2 + tr(A + B - 2 (A^(1/2) B A^(1/2))^(1/2))`; for commuting covariances
/// `|m1 - m2|^2 + sum_k (sqrt(a_k) - sqrt(b_k))^2`.
///
/// # Errors
/// Dimensions that differ.
///
/// # Source
/// Dowson and Landau 1982, "The Frechet distance between multivariate normal distributions".
pub fn w2_squared(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    match shared_modes(&[a, b]) {
        Ok(shared) => {
            let shift = &a.mean() - &b.mean();
            let pairs = shared.variances[0].iter().zip(&shared.variances[1]);
            Ok(shift.dot(&shift)
                + pairs.map(|(&a, &b)| w2_squared_normal(0.0, a, 0.0, b)).sum::<f64>())
        }
        Err(_) => normal(a)?.w2_squared(&normal(b)?),
    }
}

/// `KL(a || b)` in nats; infinite where `a` has mass that `b` has not, or is itself singular where
/// `b` is not.
///
/// # Formula
/// For commuting covariances the sum over the shared modes of the one-dimensional divergences; two
/// modes without variance at the same place add nothing.
///
/// # Errors
/// Dimensions that differ; a singular `b` whose covariance does not commute with `a`'s.
pub fn kl(a: &Gaussian, b: &Gaussian) -> Result<f64> {
    let Ok(shared) = shared_modes(&[a, b]) else { return normal(a)?.kl(&normal(b)?) };
    let (m1, m2) = (shared.modes.t().dot(&a.mean()), shared.modes.t().dot(&b.mean()));
    let terms = (0..a.dim()).map(|k| {
        let (v1, v2) = (shared.variances[0][k], shared.variances[1][k]);
        match (v1 == 0.0, v2 == 0.0) {
            (true, true) => {
                // Projections round to d eps of the means' length.
                let length = (a.mean().dot(&a.mean()) + b.mean().dot(&b.mean())).sqrt();
                let rounding = 8.0 * a.dim() as f64 * f64::EPSILON * length;
                if (m1[k] - m2[k]).abs() <= rounding { 0.0 } else { f64::INFINITY }
            }
            (false, false) => kl_normal(m1[k], v1, m2[k], v2),
            _ => f64::INFINITY,
        }
    });
    Ok(terms.sum())
}

/// The same law as a dense normal.
fn normal(law: &Gaussian) -> Result<Normal> {
    let cov = law.matrix(|lambda| lambda);
    // Mirrored, so that rounding of the product leaves no asymmetry.
    let cov = DMatrix::from_fn(law.dim(), law.dim(), |i, j| 0.5 * (cov[[i, j]] + cov[[j, i]]));
    Normal::new(
        DVector::from_iterator(law.dim(), law.mean().iter().copied()),
        Covariance::Full(cov),
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::testing::*;
    use ndarray::{Array1, array};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn shared_modes_and_dense_matrices_agree(a in full_gaussian(4), exponents in prop::collection::vec(-3.0..1.0f64, 4), mean in prop::collection::vec(-3.0..3.0f64, 4)) {
            let variances = exponents.iter().map(|e| 10f64.powf(*e)).collect();
            let b = Gaussian::from_modes(Array1::from(mean), variances, a.modes().to_owned()).unwrap();
            let (got, want) = (w2_squared(&a, &b).unwrap(), normal(&a).unwrap().w2_squared(&normal(&b).unwrap()).unwrap());
            // Dense roots: sqrt(eps) of nothing here, variances are at least 1e-4 of the largest.
            prop_assert!((got - want).abs() <= 1e-12 * (1.0 + want), "{got} {want}");
            let (got, want) = (kl(&a, &b).unwrap(), normal(&a).unwrap().kl(&normal(&b).unwrap()).unwrap());
            // Condition 1e4 of the covariances.
            prop_assert!((got - want).abs() <= 1e-10 * (1.0 + want), "{got} {want}");
        }

        #[test]
        fn a_law_is_at_no_distance_from_itself(a in gaussian(4)) {
            prop_assert_eq!(w2_squared(&a, &a).unwrap(), 0.0);
            prop_assert_eq!(kl(&a, &a).unwrap(), 0.0);
        }
    }

    #[test]
    fn singular_modes_are_infinitely_far() {
        let law = |v: f64| Gaussian::diagonal(array![0.0, 1.0], array![1.0, v]).unwrap();
        assert_eq!(kl(&law(0.0), &law(1.0)).unwrap(), f64::INFINITY);
        assert_eq!(kl(&law(1.0), &law(0.0)).unwrap(), f64::INFINITY);
        assert_eq!(w2_squared(&law(0.0), &law(1.0)).unwrap(), 1.0);
    }

    proptest! {
        /// In the plane that two singular laws share they are at their divergence there; off it
        /// only the means can differ.
        #[test]
        fn modes_without_variance_add_nothing_or_infinity(seed: u64, var in prop::array::uniform4(0.01..10.0f64), shift in 0.1..3.0f64, at in 1.0..100.0f64) {
            let modes = orthonormal(4, seed);
            let law = |mean: Array1<f64>, v: [f64; 2], stored: usize| {
                Gaussian::from_modes(modes.dot(&mean), array![v[0], v[1], 0.0, 0.0], modes.to_owned()).unwrap().truncated(stored)
            };
            // The far means are equal, so that only their projections' rounding could tell them
            // apart.
            let a = || law(array![0.0, 0.0, at, 0.0], [var[0], var[1]], 4);
            for stored in [2, 3, 4] {
                let b = law(array![shift, 0.0, at, 0.0], [var[2], var[3]], stored);
                let want = kl_normal(0.0, var[0], shift, var[2]) + kl_normal(0.0, var[1], 0.0, var[3]);
                // The shift comes back from means of length 100, over a variance of at least 0.01.
                prop_assert!((kl(&a(), &b).unwrap() - want).abs() <= 64.0 * f64::EPSILON * (want + at * shift / var[2].min(var[3])) * 4.0);
                let far = law(array![0.0, 0.0, at, shift], [var[2], var[3]], stored);
                prop_assert_eq!(kl(&a(), &far).unwrap(), f64::INFINITY);
                // A mean of any length along the plane stays within it to rounding, also against a
                // mean of 0.
                let along = law(array![at, at, 0.0, 0.0], [var[2], var[3]], stored);
                prop_assert!(kl(&law(Array1::zeros(4), [var[0], var[1]], 4), &along).unwrap().is_finite());
            }
        }
    }

    #[test]
    fn covariances_that_do_not_commute() {
        let a = Gaussian::diagonal(array![0.0, 0.0], array![4.0, 1.0]).unwrap();
        let b = Gaussian::new(array![0.0, 0.0], array![[2.0, 1.0], [1.0, 2.0]].view()).unwrap();
        // tr(A^(1/2) B A^(1/2))^(1/2) of 2x2: sqrt(tr + 2 sqrt(det)) with tr(AB) = 10, det(AB) = 12.
        let want: f64 = 5.0 + 4.0 - 2.0 * (10.0 + 2.0 * 12f64.sqrt()).sqrt();
        assert!((w2_squared(&a, &b).unwrap() - want).abs() <= 1e-14);
    }
}
