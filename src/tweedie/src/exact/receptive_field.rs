//! Receptive fields of the linear denoiser: which pixels it reads to restore one pixel, and how
//! many.

use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::exact::pf_ode::mapped;
use crate::law::Gaussian;
use crate::law::gaussian::wiener_gain;
use crate::math::larger;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis};

/// Receptive fields of some pixels: rows of the Jacobian `d E[x0 | x] / dx` of the Wiener filter.
///
/// # Formula
/// Row i of `alpha Sigma (alpha^2 Sigma + sigma^2 I)^-1`, which is symmetric.
///
/// At low noise the projector onto the data's span over alpha ([`low_noise_field`]), at high noise
/// `alpha / sigma^2` times the covariance ([`high_noise_field`]): from one pixel to everything that
/// it correlates with.
///
/// # Shapes
/// `pixels` (n), result (n, d).
///
/// # Errors
/// A pixel outside the data; a pair of coefficients that is no level; `sigma = 0`, where the filter
/// off the data's span is 0/0.
///
/// # Source
/// Wang and Vastola 2023, "The hidden linear structure in score-based models"; Kadkhodaie et al.
/// 2024 (geometry-adaptive bases).
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::{diffusion::PathPoint, exact::receptive_field::{effective_size, receptive_field}, law::Gaussian};
/// let law = Gaussian::new(array![0.0, 0.0], array![[1.0, 0.9], [0.9, 1.0]].view()).unwrap();
/// let size = |sigma| effective_size(receptive_field(&law, &[0], &PathPoint::still(1.0, sigma)).unwrap().view())[0];
/// assert!(size(0.01) < 1.01 && size(10.0) > 1.9); // from itself alone to both pixels
/// ```
pub fn receptive_field(
    law: &Gaussian,
    pixels: &[usize],
    at: impl Into<Level>,
) -> Result<Array2<f64>> {
    let level = Level::of(at)?;
    if level.sigma == 0.0 {
        let why = "the filter is 0/0 off the data's span";
        return Err(Error::singular(
            "the Wiener filter",
            "sigma = 0",
            why,
            "use low_noise_field, its limit",
        ));
    }
    rows(law, pixels, |lambda| wiener_gain(lambda, level.alpha, level.sigma))
}

/// Limit of `alpha` times the receptive fields as sigma goes to 0: rows of the projector onto the
/// modes that have variance.
///
/// # Shapes
/// `pixels` (n), result (n, d).
///
/// # Errors
/// A pixel outside the data.
pub fn low_noise_field(law: &Gaussian, pixels: &[usize]) -> Result<Array2<f64>> {
    rows(law, pixels, |lambda| if lambda > 0.0 { 1.0 } else { 0.0 })
}

/// Limit of `sigma^2 / alpha` times the receptive fields as sigma goes to infinity: rows of the
/// covariance.
///
/// # Shapes
/// `pixels` (n), result (n, d).
///
/// # Errors
/// A pixel outside the data.
pub fn high_noise_field(law: &Gaussian, pixels: &[usize]) -> Result<Array2<f64>> {
    rows(law, pixels, |lambda| lambda)
}

/// How many pixels each field effectively has: the participation ratio of its energy.
///
/// # Formula
/// `(sum_j w_j^2)^2 / sum_j w_j^4`: 1 for a single pixel, n for n equal weights; NaN for a field
/// that is 0 everywhere.
///
/// # Shapes
/// `fields` (n, d), result (n).
pub fn effective_size(fields: ArrayView2<f64>) -> Array1<f64> {
    fields.map_axis(Axis(1), participation_ratio)
}

fn participation_ratio(field: ArrayView1<f64>) -> f64 {
    // Scaled by the largest weight: fourth powers underflow below 1e-81, as a field's do at sigma =
    // 1e41.
    let largest = field.iter().map(|w| w.abs()).fold(0.0, larger);
    let (two, four) = field
        .iter()
        .map(|w| (w / largest).powi(2))
        .fold((0.0, 0.0), |(two, four), e| (two + e, four + e * e));
    two * two / four
}

/// Rows of the function of the covariance that scales each mode by `gain`.
fn rows(law: &Gaussian, pixels: &[usize], gain: impl Fn(f64) -> f64) -> Result<Array2<f64>> {
    let d = law.dim();
    if let Some(i) = pixels.iter().find(|i| **i >= d) {
        return Err(Error::domain(
            "pixel",
            i,
            format!("0 to {}", d.saturating_sub(1)),
            "index a coordinate of the data",
        ));
    }
    let units =
        Array2::from_shape_fn((pixels.len(), d), |(n, j)| if pixels[n] == j { 1.0 } else { 0.0 });
    mapped(law, units.view(), 0.0, 0.0, gain)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::PathPoint;
    use crate::exact::testing::*;
    use nalgebra::DMatrix;
    use proptest::prelude::*;

    proptest! {
        /// The joint Gaussian of (x0, x_t): the field solves `J Cov[x_t] = Cov[x0, x_t]`.
        #[test]
        fn fields_are_the_regression_of_data_on_state(law in gaussian(5), [at, ..] in three_points()) {
            let field = receptive_field(&law, &[0, 1, 2, 3, 4], at).unwrap();
            let cov = (&law.modes() * &law.variances()).dot(&law.modes().t());
            let state_cov = &cov * (at.alpha * at.alpha) + Array2::<f64>::eye(5) * (at.sigma * at.sigma);
            let (noisy, cross) = (DMatrix::from_fn(5, 5, |i, j| state_cov[[i, j]]), DMatrix::from_fn(5, 5, |i, j| cov[[i, j]] * at.alpha));
            let solved = noisy.cholesky().expect("positive definite at sigma > 0").solve(&cross);
            let want = Array2::from_shape_fn((5, 5), |(i, j)| solved[(i, j)]);
            // A linear solve loses the condition number of the state's covariance.
            let condition = 1.0 + at.alpha * at.alpha * size(&cov) * 5.0 / (at.sigma * at.sigma);
            prop_assert!(gap(&field, &want) <= 64.0 * f64::EPSILON * condition / at.alpha.max(at.sigma));
        }

        #[test]
        fn the_limits_are_approached(law in full_gaussian(4)) {
            let all = [0, 1, 2, 3];
            // The next terms: sigma^2 / lambda and lambda / sigma^2, with lambda in 1e-3..10.
            let low = receptive_field(&law, &all, PathPoint::still(0.5, 1e-8)).unwrap() * 0.5;
            prop_assert!(gap(&low, &low_noise_field(&law, &all).unwrap()) <= 1e-11);
            let high = receptive_field(&law, &all, PathPoint::still(0.5, 1e8)).unwrap() * 2e16;
            prop_assert!(gap(&high, &high_noise_field(&law, &all).unwrap()) <= 1e-13 * size(&high));
        }

        #[test]
        fn the_effective_size_counts_equal_weights(n in 1usize..20, zeros in 0usize..20, w in prop_oneof![Just(1e-100), Just(1.0), Just(-3.0)]) {
            let field = Array2::from_shape_fn((1, n + zeros), |(_, j)| if j < n { w } else { 0.0 });
            prop_assert!((effective_size(field.view())[0] - n as f64).abs() <= 1e-12);
        }
    }

    #[test]
    fn what_has_no_field_is_refused() {
        let law = Gaussian::diagonal(Array1::zeros(2), Array1::ones(2)).unwrap();
        assert!(receptive_field(&law, &[2], PathPoint::still(1.0, 1.0)).is_err());
        assert!(receptive_field(&law, &[0], PathPoint::CLEAN).is_err());
    }

    #[test]
    fn modes_without_variance_are_not_read() {
        let law = Gaussian::diagonal(Array1::zeros(2), ndarray::array![2.0, 0.0]).unwrap();
        for law in [&law, &law.truncated(1)] {
            assert_eq!(
                low_noise_field(law, &[0, 1]).unwrap(),
                ndarray::array![[1.0, 0.0], [0.0, 0.0]]
            );
        }
    }
}
