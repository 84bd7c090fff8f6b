//! A noise level: the two coefficients of `x = alpha x0 + sigma eps`, in any scalar.

use crate::diffusion::PathPoint;
use crate::error::{Error, Result};
use crate::math::scalar::Scalar;
use num_dual::Dual64;

/// The coefficients of `x = alpha x0 + sigma eps` at one time: all that most closed forms read of a [`PathPoint`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Level<S = f64> {
    /// Signal coefficient, `>= 0`.
    pub alpha: S,
    /// Noise coefficient, `>= 0`.
    pub sigma: S,
}

impl<S: Scalar> Level<S> {
    /// A level of these coefficients.
    pub fn new(alpha: S, sigma: S) -> Self {
        Self { alpha, sigma }
    }

    /// Clean data: `alpha = 1`, `sigma = 0`.
    pub fn clean() -> Self {
        Self { alpha: S::one(), sigma: S::zero() }
    }

    /// `ln(alpha^2 / sigma^2)`.
    pub fn log_snr(&self) -> S {
        (self.alpha / self.sigma).ln() * 2.0
    }

    /// Variance of `x` in a mode whose data variance is `lambda`, `alpha^2 lambda + sigma^2`.
    pub fn var(self, lambda: S) -> S {
        self.alpha * self.alpha * lambda + self.sigma * self.sigma
    }

    /// Itself, if it is a level at all.
    ///
    /// # Errors
    /// A coefficient that is negative, NaN or infinite, or both of them 0.
    pub fn checked(self) -> Result<Self> {
        let (alpha, sigma) = (self.alpha.re(), self.sigma.re());
        let finite = 0.0..f64::INFINITY;
        if finite.contains(&alpha) && finite.contains(&sigma) && (alpha, sigma) != (0.0, 0.0) {
            return Ok(self);
        }
        let got = format!("({alpha}, {sigma})");
        Err(Error::domain("(alpha, sigma)", got, "finite, >= 0, not both 0", "take the point from a path"))
    }
}

impl Level {
    /// The level of a path point.
    ///
    /// # Errors
    /// As [`checked`](Self::checked).
    pub fn of(point: &PathPoint) -> Result<Self> {
        Self::from(point).checked()
    }
}

impl From<&PathPoint> for Level {
    fn from(point: &PathPoint) -> Self {
        Self { alpha: point.alpha, sigma: point.sigma }
    }
}

impl Level<Dual64> {
    /// The level together with its rate in t, so that any closed form of levels is differentiated along the path.
    pub fn with_rates(point: &PathPoint) -> Self {
        Self { alpha: Dual64::new(point.alpha, point.d_alpha), sigma: Dual64::new(point.sigma, point.d_sigma) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_a_ratio() {
        let (level, point) = (Level::new(0.5, 0.25), PathPoint::still(0.5, 0.25));
        assert_eq!((level.log_snr(), point.log_snr()), (2.0 * std::f64::consts::LN_2, 2.0 * std::f64::consts::LN_2));
        assert_eq!((level.var(3.0), point.snr(), point.edm_sigma()), (0.75 + 0.0625, 4.0, 0.5));
    }

    #[test]
    fn levels_reach_to_the_ends_of_what_is_finite() {
        for (alpha, sigma) in [(0.0, 1.0), (1.0, 0.0), (1e-320, 0.0), (1e200, 1e200), (f64::MAX, f64::MAX)] {
            assert!(Level::new(alpha, sigma).checked().is_ok(), "({alpha}, {sigma})");
        }
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        for (alpha, sigma) in [(0.0, 0.0), (-1.0, 2.0), (2.0, -1.0), (inf, 1.0), (1.0, inf), (nan, 1.0), (1.0, nan)] {
            assert!(Level::new(alpha, sigma).checked().is_err(), "({alpha}, {sigma})");
        }
    }
}
