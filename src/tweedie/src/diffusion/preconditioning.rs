//! EDM's preconditioning: the scalings that give a network unit-variance inputs and targets at
//! every noise level.
//!
//! All of it lives in EDM's coordinates, `y = x_t / alpha = x0 + sigma eps` with `sigma` the path's
//! [`edm_sigma`](crate::diffusion::PathPoint::edm_sigma).

use crate::error::{Error, Result};
use crate::math::scalar::{Scalar, exponent, hypot, ldexp};

/// The four scalings of `D(y) = c_skip y + c_out F(c_in y, c_noise)`, with D the denoiser and F the
/// network.
///
/// F's training target is [`Prediction::F`](crate::diffusion::prediction::Prediction::F).
///
/// # Example
/// ```
/// use tweedie::diffusion::preconditioning::Preconditioning;
/// // Noise as strong as the data: half of the input is kept.
/// let c = Preconditioning::edm(0.5, 0.5).unwrap();
/// assert!((c.c_skip - 0.5_f64).abs() < 1e-15 && (c.c_in - 2f64.sqrt()).abs() < 1e-15);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Preconditioning<S> {
    /// Share of the input passed to the output.
    pub c_skip: S,
    /// Factor of the network's output.
    pub c_out: S,
    /// Factor of the network's input.
    pub c_in: S,
    /// The noise level as the network is told it.
    pub c_noise: S,
}

impl<S: Scalar> Preconditioning<S> {
    /// EDM's choice for data of deviation `sigma_data`; at `sigma = 0` the identity, with
    /// `c_noise = -inf`.
    ///
    /// # Formula
    /// With `n^2 = sigma^2 + sigma_data^2`: `c_skip = sigma_data^2 / n^2`,
    /// `c_out = sigma sigma_data / n`, `c_in = 1 / n`, `c_noise = ln(sigma) / 4`.
    ///
    /// # Errors
    /// `sigma` negative or not finite, `sigma_data` not positive and finite.
    ///
    /// # Source
    /// Karras et al., "Elucidating the Design Space of Diffusion-Based Generative Models", 2022,
    /// table 1 and appendix B.6.
    pub fn edm(sigma: S, sigma_data: S) -> Result<Self> {
        let (s, sd) = (sigma.re(), sigma_data.re());
        if !(s >= 0.0 && s.is_finite()) {
            return Err(Error::domain(
                "sigma",
                s,
                ">= 0 and finite",
                "pass sigma / alpha of a path point with signal",
            ));
        }
        if !(sd > 0.0 && sd.is_finite()) {
            return Err(Error::domain(
                "sigma_data",
                sd,
                "> 0 and finite",
                "give the data's standard deviation",
            ));
        }
        let n = hypot(sigma, sigma_data);
        let share = sigma_data / n;
        Ok(Self {
            c_skip: share * share,
            c_out: sigma * share,
            c_in: n.recip(),
            c_noise: sigma.ln() * 0.25,
        })
    }

    /// The denoiser's output from the network's, `c_skip y + c_out f`.
    pub fn x0_hat(&self, f: S, y: S) -> S {
        self.c_skip * y + self.c_out * f
    }

    /// EDM's weight on the x0-loss, `lambda(sigma) = 1 / c_out^2`: it makes the loss of F
    /// unweighted.
    pub fn loss_weight(&self) -> S {
        // Squared last: 1/c_out is in range where c_out^2 is not.
        let root = self.c_out.recip();
        root * root
    }
}

/// Variance of the network's input `c_in y` along a direction in which the data has variance
/// `data_var`; 1 at `sigma_data^2`.
///
/// # Formula
/// `(data_var + sigma^2) / (sigma_data^2 + sigma^2)`
pub fn input_var<S: Scalar>(sigma: S, sigma_data: S, data_var: S) -> S {
    let (sigma, sigma_data, e) = in_unit(sigma, sigma_data);
    (ldexp(data_var, -2 * e) + sigma * sigma) / (sigma_data * sigma_data + sigma * sigma)
}

/// Variance of the network's target F along a direction in which the data has variance `data_var`;
/// 1 at `sigma_data^2`.
///
/// What one `sigma_data` does to data of many scales, mode by mode: the variance runs from 1 at
/// small sigma, where the target is noise, to `data_var / sigma_data^2` at large, where it is data.
///
/// # Formula
/// `(sigma^2 data_var + sigma_data^4) / (sigma_data^2 (sigma^2 + sigma_data^2))`
pub fn target_var<S: Scalar>(sigma: S, sigma_data: S, data_var: S) -> S {
    let ratio = data_var / sigma_data / sigma_data;
    let (sigma, sigma_data, _) = in_unit(sigma, sigma_data);
    let (s2, sd2) = (sigma * sigma, sigma_data * sigma_data);
    (s2 * ratio + sd2) / (s2 + sd2)
}

/// Two deviations over `2^e`, the order of the larger one, so that their squares are in range.
fn in_unit<S: Scalar>(sigma: S, sigma_data: S) -> (S, S, i32) {
    let e = exponent(sigma.re().abs().max(sigma_data.re().abs()));
    (ldexp(sigma, -e), ldexp(sigma_data, -e), e)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::level::Rates;
    use crate::diffusion::prediction::{Conversion, Frame, Prediction};
    use num_dual::{Dual2_64, second_derivative};
    use proptest::prelude::*;

    const EPS: f64 = f64::EPSILON;

    fn sigma() -> impl Strategy<Value = f64> {
        (-6.0..6.0f64).prop_map(|e| 10f64.powf(e))
    }

    proptest! {
        #[test]
        fn inputs_and_targets_have_unit_variance_and_c_out_is_least(sigma in sigma(), sd in 0.05..5.0f64) {
            let c = Preconditioning::edm(sigma, sd).unwrap();
            let input = c.c_in.powi(2) * (sd * sd + sigma * sigma);
            prop_assert!((input - 1.0).abs() <= 8.0 * EPS);
            prop_assert!((input_var(sigma, sd, sd * sd) - 1.0).abs() <= 4.0 * EPS && (target_var(sigma, sd, sd * sd) - 1.0).abs() <= 8.0 * EPS);
            // What the network has to supply, x0 - c y, has variance (1 - c)^2 sd^2 + c^2 sigma^2:
            // c_out^2, and least at c_skip.
            let residual = |c: Dual2_64| (c - 1.0) * (c - 1.0) * (sd * sd) + c * c * (sigma * sigma);
            let (var, slope, curvature) = second_derivative(residual, c.c_skip);
            prop_assert!((c.c_out.powi(2) - var).abs() <= 16.0 * EPS * var);
            // 1 - c_skip is known to eps.
            prop_assert!(slope.abs() <= 8.0 * EPS * sd * sd && curvature > 0.0, "{slope}");
            prop_assert!((c.loss_weight() - (sigma * sigma + sd * sd) / (sigma * sd).powi(2)).abs() <= 8.0 * EPS * c.loss_weight());
        }

        #[test]
        fn the_target_s_variance_is_that_of_the_residual(sigma in sigma(), sd in 0.05..5.0f64, data_var in 0.0..9.0f64) {
            let c = Preconditioning::edm(sigma, sd).unwrap();
            // By its parts, 1 - c_skip = sigma^2 / n^2 taken from the complement.
            let rest = Preconditioning::edm(sd, sigma).unwrap().c_skip;
            let want = (rest.powi(2) * data_var + c.c_skip.powi(2) * sigma * sigma) / c.c_out.powi(2);
            prop_assert!((target_var(sigma, sd, data_var) - want).abs() <= 16.0 * EPS * want);
        }

        #[test]
        fn the_denoiser_from_f_is_the_conversion_of_f(sigma in sigma(), sd in 0.05..5.0f64, f in -3.0..3.0f64, y in -3.0..3.0f64) {
            let c = Preconditioning::edm(sigma, sd).unwrap();
            let at = Frame { alpha: 1.0, sigma, rates: Some(Rates::new(0.0, 1.0)), sigma_data: sd };
            let conversion = Conversion::new(Prediction::F, Prediction::X0, at).unwrap();
            prop_assert!((conversion.apply(f, y) - c.x0_hat(f, y)).abs() <= 8.0 * EPS * conversion.condition(f, y));
        }
    }

    #[test]
    fn the_end_without_noise_is_the_identity_and_bad_deviations_are_refused() {
        assert_eq!(Preconditioning::edm(16.0, 0.5).unwrap().c_noise, std::f64::consts::LN_2);
        let c = Preconditioning::edm(0.0, 0.5).unwrap();
        assert_eq!(
            (c.x0_hat(7.0, 3.0), c.c_noise, c.loss_weight()),
            (3.0, f64::NEG_INFINITY, f64::INFINITY)
        );
        for (sigma, sd) in
            [(-1.0, 0.5), (f64::NAN, 0.5), (f64::INFINITY, 0.5), (1.0, 0.0), (1.0, f64::NAN)]
        {
            assert!(matches!(Preconditioning::edm(sigma, sd), Err(Error::Domain { .. })));
        }
    }
}
