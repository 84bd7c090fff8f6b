//! The price of a wrong law: the Wiener filter made from one mean and covariance, used on data with
//! others.

use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::exact::pf_ode::mapped;
use crate::law::Gaussian;
use crate::law::gaussian::wiener_gain;

/// Mean squared error, summed over the coordinates, of the Wiener filter of `model` on noised data
/// that have the moments of `data`.
///
/// # Formula
/// With the filter `x0_hat = m + J (x - alpha m)`,
/// `J = alpha Sigma (alpha^2 Sigma + sigma^2 I)^-1`, and `K = I - alpha J`:
/// `tr(K C K) + |K (mean - m)|^2 + sigma^2 tr(J^2)`, where `mean` and `C` are the data's. A filter
/// is linear, so this holds for data of any law with these moments, Gaussian or not. With
/// `data = model` it is the least error, `sum_k lambda_k sigma^2 / (alpha^2 lambda_k + sigma^2)`.
///
/// # Errors
/// Dimensions that differ; a pair of coefficients that is no level; `sigma = 0`, where the filter
/// off the model's span is 0/0.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::{diffusion::PathPoint, exact::mismatch::wiener_risk, law::Gaussian};
/// let law = |var| Gaussian::diagonal(array![0.0], array![var]).unwrap();
/// let at = PathPoint::still(1.0, 1.0);
/// assert_eq!(wiener_risk(&law(1.0), &law(1.0), &at).unwrap(), 0.5);
/// // A filter that expects too much lets too much noise through.
/// assert_eq!(wiener_risk(&law(3.0), &law(1.0), &at).unwrap(), 0.625);
/// ```
pub fn wiener_risk(model: &Gaussian, data: &Gaussian, at: impl Into<Level>) -> Result<f64> {
    let level = Level::of(at)?;
    if level.sigma == 0.0 {
        let why = "the filter is 0/0 off the model's span";
        return Err(Error::singular(
            "the Wiener filter",
            "sigma = 0",
            why,
            "start from a small positive sigma",
        ));
    }
    if model.dim() != data.dim() {
        return Err(Error::shape(
            "data",
            &[data.dim()],
            format!("({},), the model's dimension", model.dim()),
            "compare laws of one space",
        ));
    }
    let gain = |lambda: f64| wiener_gain(lambda, level.alpha, level.sigma);
    // 1 - alpha gain without the cancellation where the noise is low.
    let miss = |lambda: f64| level.noise_share(lambda);
    let spread = data.modes().t().to_owned()
        * &data.variances().mapv(f64::sqrt).insert_axis(ndarray::Axis(1));
    let shift = (&data.mean() - &model.mean()).insert_axis(ndarray::Axis(0));
    let energy = |x: ndarray::Array2<f64>| x.iter().map(|v| v * v).sum::<f64>();
    let signal = energy(mapped(model, spread.view(), 0.0, 0.0, miss)?)
        + energy(mapped(model, shift.view(), 0.0, 0.0, miss)?);
    let noise: f64 = model.variances().iter().map(|l| gain(*l).powi(2)).sum();
    Ok(signal + level.sigma * level.sigma * noise)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::PathPoint;
    use crate::diffusion::elbo::mmse;
    use crate::exact::testing::*;
    use nalgebra::DMatrix;
    use ndarray::{Array1, Array2};
    use proptest::prelude::*;

    proptest! {
        /// The error's covariance by dense matrices, the filter by a linear solve.
        #[test]
        fn the_risk_is_the_trace_of_the_errors_moments(model in gaussian(4), data in gaussian(4), [at, ..] in three_points()) {
            let dense = |law: &Gaussian| { let c = law.matrix(|l| l); DMatrix::from_fn(4, 4, |i, j| c[[i, j]]) };
            let (alpha, noise) = (at.alpha, DMatrix::identity(4, 4) * at.sigma.powi(2));
            let state = dense(&model) * (alpha * alpha) + &noise;
            let filter = state.cholesky().expect("positive definite").solve(&(dense(&model) * alpha)).transpose();
            let miss = DMatrix::identity(4, 4) - &filter * alpha;
            let shift = nalgebra::DVector::from_iterator(4, data.mean().iter().zip(model.mean()).map(|(a, b)| a - b));
            let want = (&miss * dense(&data) * miss.transpose() + &filter * &noise * filter.transpose()).trace() + (&miss * shift).norm_squared();
            let got = wiener_risk(&model, &data, at).unwrap();
            // Solving loses the condition of the state's covariance; the data are of size 10.
            let condition = 1.0 + alpha * alpha * 40.0 / at.sigma.powi(2);
            prop_assert!((got - want).abs() <= 1e-13 * condition * (1.0 + want), "{got} {want}");
        }

        /// No model does better than the data's own, which is the closed form of its modes.
        #[test]
        fn the_right_law_has_the_least_risk(model in gaussian(4), data in full_gaussian(4), [at, ..] in three_points()) {
            let least: f64 = data.variances().iter().map(|l| mmse(*l, (at.alpha, at.sigma))).sum();
            let own = wiener_risk(&data, &data, at).unwrap();
            prop_assert!((own - least).abs() <= 64.0 * f64::EPSILON * (1.0 + least));
            prop_assert!(wiener_risk(&model, &data, at).unwrap() >= least - 64.0 * f64::EPSILON * (1.0 + least));
        }
    }

    #[test]
    fn what_has_no_filter_is_refused() {
        let law = |d: usize| Gaussian::diagonal(Array1::zeros(d), Array1::ones(d)).unwrap();
        assert!(wiener_risk(&law(2), &law(2), PathPoint::CLEAN).is_err());
        assert!(wiener_risk(&law(2), &law(3), PathPoint::still(1.0, 1.0)).is_err());
        // A model without variance says its mean, and misses all of the data.
        let point = Gaussian::from_modes(Array1::zeros(2), Array1::zeros(0), Array2::zeros((2, 0)))
            .unwrap();
        assert_eq!(wiener_risk(&point, &law(2), PathPoint::still(1.0, 1.0)).unwrap(), 2.0);
    }
}
