//! Analytic teleportation: skip the first steps of a sampler by the exact solution for Gaussian
//! data with the law's two moments.

use crate::diffusion::level::Level;
use crate::error::Result;
use crate::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use crate::law::{Gaussian, Law};
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// The Gaussian with the mean and covariance of any law: what a denoiser cannot be told from at
/// high noise.
///
/// # Errors
/// A covariance that is not positive semi-definite, or not finite.
pub fn gaussian_with_moments_of(law: &dyn Law) -> Result<Gaussian> {
    Gaussian::new(law.mean(), law.cov().view())
}

/// State at `to` as if the data were `gaussian`: exact for Gaussian data, and at no evaluation of
/// the denoiser.
///
/// # Formula
/// [`pf_ode_map`] of the Gaussian with the data's moments.
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// As [`pf_ode_map`].
///
/// # Source
/// Wang and Vastola 2023, "The hidden linear structure in score-based models" (analytical
/// teleportation).
pub fn teleport(
    gaussian: &Gaussian,
    x: ArrayView2<f64>,
    from: impl Into<Level>,
    to: impl Into<Level>,
) -> Result<Array2<f64>> {
    pf_ode_map(gaussian, x, from, to)
}

/// Root mean square error, over the coordinates of each row, of teleporting `x` from one level to
/// another.
///
/// # Formula
/// `|teleport(x) - pf_ode_solve(x)| / sqrt(d)`, in units of the state at `to`; 0 for a Gaussian law
/// but for rounding.
///
/// # Shapes
/// `x` (n, d), result (n).
///
/// # Errors
/// As [`pf_ode_solve`] and [`teleport`].
pub fn teleport_error(
    law: &dyn Law,
    x: ArrayView2<f64>,
    from: impl Into<Level>,
    to: impl Into<Level>,
) -> Result<Array1<f64>> {
    let (from, to): (Level, Level) = (from.into(), to.into());
    let jumped = teleport(&gaussian_with_moments_of(law)?, x, from, to)?;
    let solved = pf_ode_solve(law, x, &[from.into(), to.into()])?.swap_remove(1);
    Ok((jumped - solved).map_axis(Axis(1), |row| (row.dot(&row) / row.len() as f64).sqrt()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::PathPoint;
    use crate::exact::testing::*;
    use crate::law::mixture::Mixture;
    use ndarray::array;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn a_gaussian_is_teleported_without_error(law in gaussian(3), (a, b) in (0.01..0.99f64, 0.01..0.99f64), family in 0u8..3, seed: u64) {
            let (from, to) = (point(family, a.max(b)), point(family, a.min(b)));
            let x = pf_ode_map(&law, normal_rows(2, 3, seed).view(), PathPoint::NOISE, from).unwrap();
            let error = teleport_error(&law, x.view(), from, to).unwrap();
            // The integrator's 1e-11, and the covariance's eigenvalues to eps of the largest, whose
            // root moves small modes by sqrt(eps).
            let c = (law.variances().sum() / 3.0).sqrt().max(1e-3);
            let moved = (law.variances().sum() * 1e-15 / (to.sigma / to.alpha).powi(2)).min(3e-8 * c) * (1.0 + to.sigma);
            let tol = 1e-11 * (c + 1.0) * to.alpha.hypot(to.sigma / c) + 10.0 * moved;
            prop_assert!(error.iter().all(|e| *e <= tol), "{error} {tol}");
        }
    }

    #[test]
    fn a_mixture_is_teleported_well_only_at_high_noise() {
        let part = |mean: f64| Gaussian::diagonal(array![mean, 0.0], array![0.1, 0.1]).unwrap();
        let law = Mixture::new(array![0.5, 0.5], vec![part(-1.0), part(1.0)]).unwrap();
        let start = PathPoint::still(1.0, 80.0);
        let x = normal_rows(8, 2, 1) * 80.0;
        let errors = [20.0, 5.0, 1.0, 0.2].map(|s| {
            teleport_error(&law, x.view(), start, PathPoint::still(1.0, s)).unwrap().mean().unwrap()
        });
        // Relative to the state at that level; the first cumulant that differs, the fourth, enters
        // as the inverse fourth power of sigma.
        let relative: Vec<f64> =
            errors.iter().zip([20.0, 5.0, 1.0, 0.2]).map(|(e, s)| e / f64::hypot(1.0, s)).collect();
        assert!(relative[0] <= 1e-5 && relative[1] <= 1e-3 && relative[3] >= 0.05, "{relative:?}");
        assert!(relative.windows(2).all(|p| p[0] < p[1]), "{relative:?}");
    }

    #[test]
    fn the_error_is_the_root_mean_square_over_coordinates() {
        let part =
            |mean: f64| Gaussian::diagonal(array![mean, 0.0, 0.0], array![0.1, 0.2, 0.3]).unwrap();
        let law = Mixture::new(array![0.3, 0.7], vec![part(-1.0), part(1.0)]).unwrap();
        let (from, to) = (PathPoint::still(1.0, 5.0), PathPoint::still(1.0, 0.2));
        let x = normal_rows(2, 3, 1) * 5.0;
        let jumped =
            pf_ode_map(&gaussian_with_moments_of(&law).unwrap(), x.view(), from, to).unwrap();
        let solved = pf_ode_solve(&law, x.view(), &[from, to]).unwrap().swap_remove(1);
        let got = teleport_error(&law, x.view(), from, to).unwrap();
        for i in 0..2 {
            let squares: f64 = (0..3).map(|j| (jumped[[i, j]] - solved[[i, j]]).powi(2)).sum();
            assert!(
                (got[i] - (squares / 3.0).sqrt()).abs() <= 8.0 * f64::EPSILON * got[i]
                    && got[i] > 1e-3
            );
        }
    }
}
