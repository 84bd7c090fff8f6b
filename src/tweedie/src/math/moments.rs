//! Mean and covariance of data rows.

use crate::error::{Error, Result, finite};
use crate::math::matmul::matmul;
use ndarray::{Array1, Array2, ArrayView2, Axis};

/// What the sum of squared deviations is divided by.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Normalisation {
    /// n: the covariance of the law that has its mass on the n points. Every law of this crate uses
    /// this one.
    #[default]
    Points,
    /// n - 1: the unbiased estimate of the covariance of the population that the points were drawn
    /// from.
    Unbiased,
}

/// Mean of the rows, shape (d).
///
/// # Shapes
/// `x` (n, d).
///
/// # Errors
/// No rows; NaN or infinity.
pub fn mean(x: ArrayView2<f64>) -> Result<Array1<f64>> {
    finite("data", x.iter())?;
    x.mean_axis(Axis(0)).ok_or_else(|| {
        Error::shape("data", x.shape(), "at least one row", "pass data of shape (n, d)")
    })
}

/// Mean (d) and covariance (d, d) of the rows.
///
/// # Formula
/// `cov = (x - mean)^T (x - mean) / n`, or `/ (n - 1)` for [`Normalisation::Unbiased`].
///
/// The data are centred before the product: `x^T x / n - mean mean^T` would lose the covariance of
/// data far from the origin (at mean 1e8 and variance 1 it has no correct digit).
///
/// # Shapes
/// `x` (n, d).
///
/// # Errors
/// No rows (one row for the unbiased estimate); NaN or infinity.
///
/// # Example
/// ```
/// use tweedie::math::moments::{Normalisation, mean_and_cov};
/// let (mean, cov) = mean_and_cov(ndarray::array![[0.0], [2.0]].view(), Normalisation::Points).unwrap();
/// assert_eq!((mean[0], cov[[0, 0]]), (1.0, 1.0));
/// ```
pub fn mean_and_cov(
    x: ArrayView2<f64>,
    normalisation: Normalisation,
) -> Result<(Array1<f64>, Array2<f64>)> {
    let mean = mean(x)?;
    let (n, d) = x.dim();
    let divisor = match normalisation {
        Normalisation::Points => n,
        Normalisation::Unbiased if n > 1 => n - 1,
        Normalisation::Unbiased => {
            return Err(Error::shape(
                "data",
                x.shape(),
                "at least two rows",
                "use Normalisation::Points or more data",
            ));
        }
    };
    let centred = &x - &mean;
    let mut cov = Array2::zeros((d, d));
    matmul(1.0 / divisor as f64, centred.t(), centred.view(), 0.0, cov.view_mut());
    // The two halves of the product are summed in different orders; a covariance is symmetric to
    // the last bit.
    for i in 0..d {
        for j in 0..i {
            cov[[j, i]] = cov[[i, j]];
        }
    }
    Ok((mean, cov))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::noise::Noise;
    use ndarray::array;
    use proptest::prelude::*;

    proptest! {
        /// Second route: the mean of all pairwise differences,
        /// `cov = sum_ij (x_i - x_j)(x_i - x_j)^T / (2 n^2)`, needs no mean.
        #[test]
        fn cov_is_half_the_mean_pairwise_difference(n in 2usize..12, d in 1usize..6, seed: u64, shift in -1e6..1e6f64) {
            let noise = Noise::new(seed);
            let x = Array2::from_shape_fn((n, d), |(i, j)| shift + noise.normal(0, (i * d + j) as u64));
            let (mean, cov) = mean_and_cov(x.view(), Normalisation::Points).unwrap();
            let (_, unbiased) = mean_and_cov(x.view(), Normalisation::Unbiased).unwrap();
            for a in 0..d {
                let direct: f64 = x.column(a).sum() / n as f64;
                // The mean's rounding, n eps |shift|, is what the centred data inherit.
                prop_assert!((mean[a] - direct).abs() <= 2.0 * n as f64 * f64::EPSILON * (shift.abs() + 10.0));
                for b in 0..d {
                    let mut want = 0.0;
                    for i in 0..n {
                        for j in 0..n {
                            want += (x[[i, a]] - x[[j, a]]) * (x[[i, b]] - x[[j, b]]);
                        }
                    }
                    want /= 2.0 * (n * n) as f64;
                    // An error e of the mean moves the covariance by e^2 plus rounding of entries
                    // of size |x - mean| <= 10.
                    let e = n as f64 * f64::EPSILON * (shift.abs() + 10.0);
                    prop_assert!((cov[[a, b]] - want).abs() <= 100.0 * n as f64 * f64::EPSILON + 20.0 * e);
                    prop_assert!((unbiased[[a, b]] * (n - 1) as f64 - cov[[a, b]] * n as f64).abs() <= 8.0 * n as f64 * f64::EPSILON * (cov[[a, a]] + cov[[b, b]]));
                    prop_assert_eq!(cov[[a, b]], cov[[b, a]]);
                }
            }
        }
    }

    #[test]
    fn refuses_what_has_no_moments() {
        assert!(mean(Array2::zeros((0, 3)).view()).is_err());
        assert!(mean(array![[f64::NAN]].view()).is_err());
        assert!(mean_and_cov(array![[1.0]].view(), Normalisation::Unbiased).is_err());
        let (m, c) = mean_and_cov(array![[1.0, 2.0]].view(), Normalisation::Points).unwrap();
        assert_eq!((m, c), (array![1.0, 2.0], Array2::zeros((2, 2))));
    }
}
