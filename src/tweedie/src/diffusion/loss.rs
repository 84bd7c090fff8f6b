//! The squared losses of the predictions, and the exact factor between any two of them.

use crate::diffusion::prediction::{Frame, Prediction, same_shape};
use crate::error::{Error, Result};
use crate::math::scalar::{Scalar, ldexp};
use ndarray::{Array1, ArrayView2, Axis, Zip};

/// The factor w with `|error of a|^2 = w |error of b|^2`, for every prediction at this point that
/// errs.
///
/// Given `x_t` an error of one prediction fixes that of every other, so training on one loss is
/// training on another with this weight: the choice of a prediction is, as far as the loss goes, a
/// weighting over noise levels.
///
/// # Formula
/// `w = (det_a / det_b)^2` with [`Prediction::determinant`]. On a variance-preserving path of
/// `snr = alpha^2 / sigma^2`: eps against x0 `snr`, v against x0 `snr + 1`, v against eps
/// `1 + 1/snr`, score against eps `1 + snr`; on any path F against x0 `1/c_out^2` of EDM.
///
/// As a function of log-SNR alone: pass [`Frame::variance_preserving`].
///
/// # Errors
/// [`Frame::check`] of either prediction; [`Error::Singular`] where the factor is not finite:
/// against x0 at `sigma = 0`, against eps and the score at `alpha = 0`, where those losses can't
/// see an error, and where it is beyond 1.8e308.
///
/// # Source
/// Kingma & Gao, "Understanding Diffusion Objectives as the ELBO with Simple Data Augmentation",
/// 2023, the appendix on prediction types.
///
/// # Example
/// ```
/// use tweedie::diffusion::{loss::loss_ratio, prediction::{Frame, Prediction}};
/// let at = Frame::variance_preserving(4f64.ln());
/// let w = loss_ratio(Prediction::V, Prediction::X0, &at).unwrap();
/// assert!((w - 5.0).abs() < 1e-14);
/// ```
pub fn loss_ratio<S: Scalar>(a: Prediction, b: Prediction, at: &Frame<S>) -> Result<S> {
    at.check(a)?;
    at.check(b)?;
    if a == b {
        return Ok(S::one());
    }
    // In a unit of length in which v's determinant is in range; each prediction has its own power
    // of it.
    let (scaled, e) = at.in_unit();
    let ratio =
        ldexp(a.determinant(&scaled) / b.determinant(&scaled), e * (a.degree() - b.degree()));
    let factor = ratio * ratio;
    if factor.re().is_finite() {
        return Ok(factor);
    }
    let why = match b.determinant(&scaled).re() {
        0.0 => "this loss is 0 whatever the error",
        _ => "it is beyond 1.8e308, the square of a ratio of the path's coefficients",
    };
    let place = format!("alpha = {}, sigma = {}", at.alpha.re(), at.sigma.re());
    Err(Error::singular(
        format!("weight of the {b}-loss"),
        place,
        why,
        "weight another prediction's loss",
    ))
}

/// `|prediction - target|^2` of each state, summed over its coordinates (divide by d for the mean
/// squared error).
///
/// # Shapes
/// `prediction`, `x0` and `eps` (n, d); the result (n).
///
/// # Errors
/// Shapes that differ; [`Frame::check`].
pub fn squared_errors(
    kind: Prediction,
    prediction: ArrayView2<f64>,
    x0: ArrayView2<f64>,
    eps: ArrayView2<f64>,
    at: &Frame<f64>,
) -> Result<Array1<f64>> {
    at.check(kind)?;
    same_shape("x0", x0.dim(), prediction.dim())?;
    same_shape("eps", eps.dim(), prediction.dim())?;
    let squares = Zip::from(prediction)
        .and(x0)
        .and(eps)
        .map_collect(|&p, &x0, &eps| (p - kind.target(x0, eps, at)).powi(2));
    Ok(squares.sum_axis(Axis(1)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::level::Rates;
    use crate::diffusion::prediction::Conversion;
    use crate::diffusion::prediction::tests::any_frame;
    use Prediction::*;
    use ndarray::Array2;
    use proptest::prelude::*;

    const EPS: f64 = f64::EPSILON;

    proptest! {
        #[test]
        fn the_ratio_is_that_of_an_error_carried_over(at in any_frame(), error in 0.1..3.0f64) {
            for (a, b) in Prediction::ALL.into_iter().flat_map(|a| Prediction::ALL.map(|b| (a, b))) {
                let (Ok(ratio), Ok(conversion)) = (loss_ratio(a, b, &at), Conversion::new(b, a, at)) else { continue };
                // Conversions are linear: at x_t = 0 they carry an error over by itself.
                let carried = conversion.apply(error, 0.0);
                // The x0 and eps parts have opposite signs where a rate is of the wrong sign, or in
                // b itself.
                let tol = 16.0 * EPS * conversion.condition(error, 0.0) * (2.0 * carried.abs() + 16.0 * EPS * conversion.condition(error, 0.0));
                prop_assert!((carried * carried - ratio * error * error).abs() <= tol, "{a} of {b} at {at:?}: {} {ratio}", (carried / error).powi(2));
            }
        }

        #[test]
        fn ratios_are_the_known_functions_of_log_snr(log_snr in -60.0..60.0f64) {
            let at = Frame::variance_preserving(log_snr);
            let snr = log_snr.exp();
            let sd2 = at.sigma_data.powi(2);
            // EDM's weight 1/c_out^2 at its sigma^2 = 1/snr.
            let edm = (1.0 / snr + sd2) / (sd2 / snr);
            // Velocity per unit of log-SNR: alpha sigma / 2 in place of v's 1.
            let velocity = 0.25 * snr / (1.0 + snr).powi(2) * (snr + 1.0);
            let known = [(Eps, X0, snr), (V, X0, snr + 1.0), (V, Eps, 1.0 + 1.0 / snr), (Score, Eps, 1.0 + snr), (F, X0, edm), (Velocity, X0, velocity)];
            for (a, b, want) in known {
                let (w, inverse) = (loss_ratio(a, b, &at).unwrap(), loss_ratio(b, a, &at).unwrap());
                prop_assert!((w - want).abs() <= 24.0 * EPS * want, "{a} of {b}: {w} {want}");
                prop_assert!((inverse * w - 1.0).abs() <= 4.0 * EPS);
            }
        }
    }

    #[test]
    fn squared_errors_scale_by_the_ratio() {
        let at = Frame { rates: Some(Rates::new(-1.0, 1.0)), ..Frame::variance_preserving(0.7) };
        let fill =
            |k: f64| Array2::from_shape_fn((4, 3), |(i, j)| (k * (1 + i + 4 * j) as f64).sin());
        let (x0, eps, noise) = (fill(1.0), fill(2.0), fill(3.0));
        let xt = &x0 * at.alpha + &eps * at.sigma;
        let x0_hat = &x0 + &noise;
        let base = squared_errors(X0, x0_hat.view(), x0.view(), eps.view(), &at).unwrap();
        for kind in Prediction::ALL {
            let mut prediction = Array2::zeros((4, 3));
            Conversion::new(X0, kind, at)
                .unwrap()
                .apply_batch(x0_hat.view(), xt.view(), prediction.view_mut())
                .unwrap();
            let got = squared_errors(kind, prediction.view(), x0.view(), eps.view(), &at).unwrap();
            let want = &base * loss_ratio(kind, X0, &at).unwrap();
            assert!(
                got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 64.0 * EPS * w),
                "{kind}: {got} {want}"
            );
        }
        assert!(matches!(
            squared_errors(X0, x0_hat.view(), x0.t(), eps.view(), &at),
            Err(Error::Shape { .. })
        ));
    }

    #[test]
    fn a_factor_out_of_range_is_refused() {
        let at = Frame { alpha: 1e-200, ..Frame::variance_preserving(0.0) };
        assert!(loss_ratio(X0, Eps, &at).unwrap_err().to_string().contains("beyond 1.8e308"));
        // v's determinant is 1e400, its ratio to a velocity's is not.
        let wide: Frame<f64> = Frame {
            alpha: 1.0,
            sigma: 1e200,
            rates: Some(Rates::new(0.0, 1e200)),
            sigma_data: 0.5,
        };
        assert!((loss_ratio(Velocity, Eps, &wide).unwrap_err().to_string()).contains("beyond"));
        assert!((loss_ratio(Velocity, X0, &wide).unwrap() - 1.0f64).abs() <= 4.0 * EPS);
        assert!((loss_ratio(F, X0, &wide).unwrap() - 4.0f64).abs() <= 16.0 * EPS);
        let back = Frame { rates: Some(Rates::new(0.0, 1e300)), sigma: 1e300, ..wide };
        assert!((loss_ratio(F, Velocity, &back).unwrap() - 4.0f64).abs() <= 16.0 * EPS);
    }

    #[test]
    fn a_loss_that_sees_no_error_is_refused_and_one_that_needs_none_vanishes() {
        let (clean, pure) = (
            Frame::variance_preserving(f64::INFINITY),
            Frame::variance_preserving(f64::NEG_INFINITY),
        );
        assert!(matches!(loss_ratio(Eps, X0, &clean), Err(Error::Singular { .. })));
        let why = loss_ratio(Eps, X0, &clean).unwrap_err().to_string();
        assert!(why.contains("this loss is 0 whatever the error"), "{why}");
        assert!(matches!(loss_ratio(X0, Eps, &pure), Err(Error::Singular { .. })));
        assert!(matches!(loss_ratio(Score, Eps, &clean), Err(Error::Singular { .. })));
        assert_eq!(
            (loss_ratio(X0, Eps, &clean).unwrap(), loss_ratio(Eps, X0, &pure).unwrap()),
            (0.0, 0.0)
        );
        assert_eq!(
            (loss_ratio(V, X0, &pure).unwrap(), loss_ratio(V, Eps, &clean).unwrap()),
            (1.0, 1.0)
        );
        assert_eq!(loss_ratio(X0, X0, &clean).unwrap(), 1.0);
    }
}
