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
        if alpha >= 0.0 && sigma >= 0.0 && alpha + sigma > 0.0 && (alpha + sigma).is_finite() {
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
