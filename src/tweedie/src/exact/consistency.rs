//! The consistency map: from any point of a PF-ODE trajectory straight to its clean end.

use crate::diffusion::PathPoint;
use crate::diffusion::level::Level;
use crate::error::Result;
use crate::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use crate::law::{Gaussian, Law};
use ndarray::{Array2, ArrayView2};

/// What a perfect consistency model returns for Gaussian data: the clean end of the trajectory
/// through `x`.
///
/// # Formula
/// `f(x, t) = mean + sum_k sqrt(lambda_k / (alpha^2 lambda_k + sigma^2)) u_k u_k^T (x - alpha
/// mean)`.
///
/// It differs from the denoiser `E[x0 | x]`, whose gain is
/// `alpha lambda / (alpha^2 lambda + sigma^2)`: the denoiser averages over all data that may have
/// given `x` and has too little variance, the consistency map has exactly the data's. At
/// `sigma = 0` it is `x / alpha`.
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// `x` that does not fit; a pair of coefficients that is no level.
///
/// # Source
/// Song et al. 2023, "Consistency models", section 3.
pub fn consistency_map(
    law: &Gaussian,
    x: ArrayView2<f64>,
    at: impl Into<Level>,
) -> Result<Array2<f64>> {
    pf_ode_map(law, x, at, Level::CLEAN)
}

/// The consistency map of any law, by the reference integrator.
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// As [`pf_ode_solve`].
pub fn consistency_solve(
    law: &dyn Law,
    x: ArrayView2<f64>,
    at: impl Into<Level>,
) -> Result<Array2<f64>> {
    Ok(pf_ode_solve(law, x, &[at.into().into(), PathPoint::CLEAN])?.swap_remove(1))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::testing::*;
    use ndarray::Array1;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn all_points_of_a_trajectory_have_one_end(law in gaussian(4), [a, b, _] in three_points(), seed: u64) {
            let x = normal_rows(3, 4, seed);
            let later = pf_ode_map(&law, x.view(), a, b).unwrap();
            let (here, there) = (consistency_map(&law, x.view(), a).unwrap(), consistency_map(&law, later.view(), b).unwrap());
            // Rounding of the intermediate state, against its size there, comes through with the
            // gain of its mode: at most 1 / alpha.
            let scale = 1.0 + size(&here) + (size(&later) + 3.0 * b.alpha) / b.alpha;
            prop_assert!(gap(&here, &there) <= 64.0 * f64::EPSILON * scale);
        }

        /// Whitening by the state's covariance and colouring by the data's: the end has the data's
        /// covariance.
        #[test]
        fn the_end_has_the_law_of_the_data(law in full_gaussian(3), [at, ..] in three_points()) {
            let origin = consistency_map(&law, (&law.mean() * at.alpha).insert_axis(ndarray::Axis(0)).view(), at).unwrap();
            let units = Array2::<f64>::eye(3) + &(&law.mean() * at.alpha);
            let matrix = consistency_map(&law, units.view(), at).unwrap() - &origin;
            let cov = (&law.modes() * &law.variances()).dot(&law.modes().t());
            let state_cov = &cov * (at.alpha * at.alpha) + Array2::<f64>::eye(3) * (at.sigma * at.sigma);
            let got = matrix.dot(&state_cov).dot(&matrix.t());
            // The unit rows round against the mean (up to 3 alpha), the products against the
            // state's covariance.
            prop_assert!(gap(&got, &cov) <= 1e-13 * (1.0 + size(&state_cov) * (1.0 + size(&matrix)).powi(2)));
        }
    }

    #[test]
    fn clean_data_is_kept_also_by_a_singular_law() {
        let law = Gaussian::diagonal(Array1::ones(2), ndarray::array![1.0, 0.0]).unwrap();
        let x = ndarray::array![[0.5, 2.0]];
        assert_eq!(consistency_map(&law, x.view(), PathPoint::CLEAN).unwrap(), x);
    }
}
