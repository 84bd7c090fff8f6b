//! Spectral order of emergence: modes of large variance appear first, each at its own noise level.

use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::law::Gaussian;
use crate::math::scalar::{Scalar, exponent, ldexp};
use ndarray::Array1;

/// Share of its final value that a mode of the denoised picture has reached, along a PF-ODE
/// trajectory.
///
/// # Formula
/// `xi(lambda; from, to) / xi(lambda; from, data) = alpha sqrt(lambda) / sqrt(alpha^2 lambda +
/// sigma^2) = 1 / sqrt(1 + edm_sigma^2 / lambda)`, whatever level the trajectory comes from.
///
/// # Source
/// Wang and Vastola 2023, "Diffusion models generate images like painters", the Gaussian score
/// model; lecture decks, order of emergence.
pub fn emerged_fraction<S: Scalar>(lambda: S, edm_sigma: S) -> S {
    let (var, e) = Level { alpha: S::one(), sigma: edm_sigma }.split_var(lambda);
    let spread = exponent(lambda.re());
    let unit = spread.div_euclid(2);
    ldexp((ldexp(lambda, -2 * unit) / var).sqrt(), unit - e)
}

/// Noise level `sigma / alpha` at which a mode of the denoised picture reaches `fraction` of its
/// final value.
///
/// # Formula
/// `sqrt(lambda (1 - fraction) (1 + fraction)) / fraction`: proportional to the mode's own
/// deviation, so the order is that of the variances.
///
/// A path's own time of emergence is its time at this `edm_sigma`.
///
/// # Domain
/// `fraction` in (0, 1].
///
/// # Example
/// ```
/// use tweedie::exact::emergence::emergence_sigma;
/// // Half of the variance (fraction sqrt(1/2)) has appeared when the noise is as large as the mode.
/// assert!((emergence_sigma(9.0, 0.5f64.sqrt()) - 3.0).abs() < 1e-14);
/// ```
pub fn emergence_sigma<S: Scalar>(lambda: S, fraction: S) -> S {
    (lambda * (-fraction + 1.0) * (fraction + 1.0)).sqrt() / fraction
}

/// Emergence sigma of every stored mode of a law, in the order of [`Gaussian::variances`]:
/// descending.
///
/// # Shapes
/// Result (r).
///
/// # Errors
/// A fraction outside (0, 1].
pub fn emergence_sigmas(law: &Gaussian, fraction: f64) -> Result<Array1<f64>> {
    if !(fraction > 0.0 && fraction <= 1.0) {
        return Err(Error::domain("fraction", fraction, "(0, 1]", "a half is usual"));
    }
    Ok(law.variances().mapv(|lambda| emergence_sigma(lambda, fraction)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::PathPoint;
    use crate::diffusion::level::Level;
    use crate::exact::gains::xi;
    use crate::exact::pf_ode::denoiser_along;
    use crate::exact::testing::*;
    use proptest::prelude::*;

    proptest! {
        /// By the denoiser itself, on a trajectory of any path, at the sigma found: in each mode
        /// `fraction` of what it ends with.
        #[test]
        fn at_the_emergence_sigma_the_denoiser_is_there(law in full_gaussian(4), fraction in 0.05..0.999f64, [from, ..] in three_points(), seed: u64) {
            let x = normal_rows(1, 4, seed);
            let in_modes = |to: &PathPoint| (denoiser_along(&law, x.view(), from, to).unwrap() - law.mean()).dot(&law.modes());
            let end = in_modes(&PathPoint::CLEAN);
            for (k, sigma) in emergence_sigmas(&law, fraction).unwrap().iter().enumerate() {
                let there = in_modes(&PathPoint::still(1.0, *sigma));
                // Projection onto mode k rounds against the whole picture.
                let rounding = 1e-13 * (1.0 + size(&end) + 3.0);
                prop_assert!((there[[0, k]] - fraction * end[[0, k]]).abs() <= rounding);
            }
        }

        #[test]
        fn larger_modes_emerge_first(a in -12.0..12.0f64, gap in 0.001..5.0f64, fraction in 0.01..0.99f64) {
            let (small, large) = (10f64.powf(a), 10f64.powf(a + gap));
            prop_assert!(emergence_sigma(small, fraction) < emergence_sigma(large, fraction));
        }

        #[test]
        fn the_fraction_is_the_normalised_xi(e in -12.0..12.0f64, from in levels(), to in levels()) {
            let lambda = 10f64.powf(e);
            let want = xi(lambda, from, to) / xi(lambda, from, Level { alpha: 1.0, sigma: 0.0 });
            let got = emerged_fraction(lambda, to.sigma / to.alpha);
            prop_assert!((got - want).abs() <= 16.0 * f64::EPSILON * want);
            // Inverse: the sigma at that fraction is the level's own. 1 - fraction keeps the digits
            // of fraction against 1.
            if got < 0.999 {
                let sigma = emergence_sigma(lambda, got);
                prop_assert!((sigma / (to.sigma / to.alpha) - 1.0).abs() <= 16.0 * f64::EPSILON / (1.0 - got));
            }
        }
    }

    #[test]
    fn fractions_outside_are_refused() {
        let law = Gaussian::diagonal(Array1::zeros(1), Array1::ones(1)).unwrap();
        for f in [0.0, -0.5, 1.1, f64::NAN] {
            assert!(emergence_sigmas(&law, f).is_err());
        }
    }
}
