//! The fewest nats that say where a draw of a Gaussian lies, up to a mean squared error: reverse
//! water-filling.

use crate::error::{Error, Result};
use crate::law::Gaussian;

/// Level up to which every mode's error is let rise, so that the errors sum to `distortion`.
///
/// # Formula
/// The `theta` with `sum_k min(lambda_k, theta) = distortion`.
///
/// # Errors
/// A distortion outside (0, sum of the variances].
pub fn water_level(law: &Gaussian, distortion: f64) -> Result<f64> {
    let variances = law.variances();
    let total: f64 = variances.sum();
    if !(distortion > 0.0 && distortion <= total) {
        return Err(Error::domain(
            "distortion",
            distortion,
            format!("above 0, up to the variance {total}"),
            "ask for a larger error",
        ));
    }
    // From the smallest mode up: those below the level are given up whole, the others share what is
    // left evenly.
    let mut below = 0.0;
    for (k, lambda) in variances.iter().enumerate().rev() {
        let level = (distortion - below) / (k + 1) as f64;
        if level <= *lambda {
            return Ok(level);
        }
        below += lambda;
    }
    Ok(variances.first().copied().unwrap_or(0.0))
}

/// Least rate, in nats a draw, of any code whose mean squared error, summed over the coordinates,
/// is `distortion`.
///
/// # Formula
/// `sum_k max(0, ln(lambda_k / theta)) / 2` at the [`water_level`] theta.
///
/// # Errors
/// As [`water_level`].
///
/// # Source
/// Shannon 1959; Cover and Thomas, "Elements of Information Theory", theorem 10.3.3.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::{exact::rate_distortion::rate, law::Gaussian};
/// let law = Gaussian::diagonal(array![0.0, 0.0], array![4.0, 1.0]).unwrap();
/// // An error of 1 + 1: the second coordinate is not coded at all.
/// assert_eq!(rate(&law, 2.0).unwrap(), 2f64.ln());
/// ```
pub fn rate(law: &Gaussian, distortion: f64) -> Result<f64> {
    let level = water_level(law, distortion)?;
    Ok(law.variances().iter().map(|l| 0.5 * (l / level).ln().max(0.0)).sum())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::testing::*;
    use ndarray::{Array1, array};
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn the_level_spends_the_distortion(law in gaussian(4), share in 0.001..1.0f64) {
            let total: f64 = law.variances().sum();
            prop_assume!(total > 1e-6);
            let level = water_level(&law, share * total).unwrap();
            let spent: f64 = law.variances().iter().map(|l| l.min(level)).sum();
            prop_assert!((spent - share * total).abs() <= 16.0 * f64::EPSILON * total);
        }

        /// Any other way to share the same error between the modes needs no fewer nats: the rate is
        /// the least of a convex problem.
        #[test]
        fn no_other_allocation_needs_less(variances in variances(4), share in 0.01..0.99f64, other in prop::collection::vec(0.01..1.0f64, 4)) {
            let law = Gaussian::diagonal(Array1::zeros(4), variances).unwrap();
            let positive: Vec<f64> = law.variances().iter().copied().filter(|l| *l > 0.0).collect();
            prop_assume!(!positive.is_empty());
            let total: f64 = positive.iter().sum();
            let distortion = share * total;
            // Errors of at most the variances, scaled towards the variances until they sum to the
            // distortion.
            let start: Vec<f64> = positive.iter().zip(&other).map(|(l, u)| l * u * share).collect();
            let sum: f64 = start.iter().sum();
            prop_assume!(sum < distortion);
            let u = (distortion - sum) / (total - sum);
            let nats: f64 = positive.iter().zip(&start).map(|(l, e)| 0.5 * (l / (e + u * (l - e))).ln()).sum();
            prop_assert!(rate(&law, distortion).unwrap() <= nats + 1e-12 * (1.0 + nats));
        }
    }

    #[test]
    fn distortions_outside_are_refused() {
        let law = Gaussian::diagonal(array![0.0, 0.0], array![4.0, 1.0]).unwrap();
        assert_eq!(rate(&law, 5.0).unwrap(), 0.0);
        for distortion in [0.0, -1.0, 5.1, f64::NAN] {
            assert!(rate(&law, distortion).is_err());
        }
    }
}
