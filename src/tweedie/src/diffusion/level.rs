//! A noise level: the two coefficients of `x = alpha x0 + sigma eps`, in any scalar; and a level on
//! the move, with their rates.

use crate::diffusion::PathPoint;
use crate::error::{Error, Result};
use crate::math::scalar::{Scalar, exponent, ldexp, ln_ratio};
use num_dual::Dual64;

/// The coefficients of `x = alpha x0 + sigma eps` at one time: all that most closed forms read of a
/// [`PathPoint`].
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

    /// `ln(alpha^2 / sigma^2)`.
    pub fn log_snr(&self) -> S {
        ln_ratio(self.alpha, self.sigma) * 2.0
    }

    /// Signal-to-noise ratio `alpha^2 / sigma^2`.
    pub fn snr(&self) -> S {
        (self.alpha / self.sigma).powi(2)
    }

    /// Noise level of the unscaled data, `sigma / alpha` (EDM's sigma).
    pub fn edm_sigma(&self) -> S {
        self.sigma / self.alpha
    }

    /// Variance of `x` in a mode whose data variance is `lambda`, `alpha^2 lambda + sigma^2`.
    ///
    /// It over- and underflows where variances do: deviations beyond 1e154 or below 1e-162. What
    /// divides by a variance takes [`split_var`](Self::split_var).
    pub fn var(self, lambda: S) -> S {
        self.alpha * self.alpha * lambda + self.sigma * self.sigma
    }

    /// [`var`](Self::var) as (v, e), `var = v 4^e` with `2^e` the order of the deviation: v is of
    /// the order of 1 for any level that is one.
    pub fn split_var(self, lambda: S) -> (S, i32) {
        let (alpha, spread) = (exponent(self.alpha.re()), exponent(lambda.re()));
        let signal = 2 * alpha + spread;
        let e = match (self.alpha.re() == 0.0 || lambda.re() == 0.0, self.sigma.re() == 0.0) {
            (true, _) => exponent(self.sigma.re()),
            (_, true) => signal.div_euclid(2),
            _ => exponent(self.sigma.re()).max(signal.div_euclid(2)),
        };
        let (a, s) = (ldexp(self.alpha, -alpha), ldexp(self.sigma, -e));
        (ldexp(a * a * ldexp(lambda, -spread), signal - 2 * e) + s * s, e)
    }

    /// Deviation of `x` in a mode whose data variance is `lambda`,
    /// `sqrt(alpha^2 lambda + sigma^2)`.
    pub fn std(self, lambda: S) -> S {
        let (v, e) = self.split_var(lambda);
        ldexp(v.sqrt(), e)
    }

    /// `sigma^2 / var`, the share of the noise in the variance of a mode.
    pub fn noise_share(self, lambda: S) -> S {
        let ((v, e), sigma) = (self.split_var(lambda), exponent(self.sigma.re()));
        let s = ldexp(self.sigma, -sigma);
        ldexp(s * s / v, 2 * (sigma - e))
    }

    /// `(alpha alpha' lambda + sigma sigma') / (alpha^2 lambda + sigma^2)` with another level, or
    /// rates, as the primed ones: what a mode's state moves by for each unit of itself, in one DDIM
    /// step or in unit time.
    pub fn projection(self, other: Self, lambda: S) -> S {
        let (var, e) = self.split_var(lambda);
        let term = |a: S, b: S, c: S| {
            let [i, j, k] = [a, b, c].map(|x| exponent(x.re()));
            (ldexp(a, -i) * ldexp(b, -j) * ldexp(c, -k), i + j + k - 2 * e)
        };
        let ((signal, i), (noise, j)) =
            (term(self.alpha, other.alpha, lambda), term(self.sigma, other.sigma, S::one()));
        // A term that is 0 has no size.
        let top = match (signal.re() == 0.0, noise.re() == 0.0) {
            (true, _) => j,
            (_, true) => i,
            _ => i.max(j),
        };
        ldexp((ldexp(signal, i - top) + ldexp(noise, j - top)) / var, top)
    }

    /// Two levels with their alphas over the order of the larger one, and their sigmas likewise,
    /// powers of two: the ratio of the two SNRs stays as it is, to the bit, and `alpha sigma'` is
    /// in range.
    pub fn in_common_units(s: Self, t: Self) -> (Self, Self) {
        let order = |x: S, y: S| exponent(x.re().max(y.re()));
        let (i, j) = (order(s.alpha, t.alpha), order(s.sigma, t.sigma));
        let scaled = |l: Self| Self { alpha: ldexp(l.alpha, -i), sigma: ldexp(l.sigma, -j) };
        (scaled(s), scaled(t))
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
        Err(Error::domain(
            "(alpha, sigma)",
            got,
            "finite, >= 0, not both 0",
            "take the point from a path",
        ))
    }
}

impl Level {
    /// Clean data.
    pub const CLEAN: Self = Self { alpha: 1.0, sigma: 0.0 };
    /// Pure noise of deviation 1.
    pub const NOISE: Self = Self { alpha: 0.0, sigma: 1.0 };

    /// The level of whatever is at one.
    ///
    /// # Errors
    /// As [`checked`](Self::checked).
    pub fn of(at: impl Into<Self>) -> Result<Self> {
        at.into().checked()
    }
}

impl From<PathPoint> for Level {
    fn from(point: PathPoint) -> Self {
        point.level()
    }
}

impl From<&PathPoint> for Level {
    fn from(point: &PathPoint) -> Self {
        point.level()
    }
}

impl From<&Level> for Level {
    fn from(level: &Level) -> Self {
        *level
    }
}

/// Rates of change of a level's coefficients in the path's time.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Rates<S = f64> {
    /// d alpha / dt.
    pub alpha: S,
    /// d sigma / dt.
    pub sigma: S,
}

impl<S> Rates<S> {
    /// Rates of these values.
    pub const fn new(alpha: S, sigma: S) -> Self {
        Self { alpha, sigma }
    }
}

impl Rates {
    /// Those of the straight path from data to noise, flow matching's: `eps - x0`.
    pub const STRAIGHT: Self = Self { alpha: -1.0, sigma: 1.0 };
}

/// A level on its way along a path: with its rates, which every velocity is made of.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Moving<S = f64> {
    /// Where it is.
    pub level: Level<S>,
    /// How it changes.
    pub rates: Rates<S>,
}

impl<S: Scalar> Moving<S> {
    /// `alpha d_sigma - sigma d_alpha`: above 0 where noise gains on the signal.
    pub fn determinant(&self) -> S {
        self.level.alpha * self.rates.sigma - self.level.sigma * self.rates.alpha
    }
}

impl Moving {
    /// The level with its rates as dual parts, so that any closed form of levels is differentiated
    /// along the path.
    pub fn dual(&self) -> Level<Dual64> {
        Level {
            alpha: Dual64::new(self.level.alpha, self.rates.alpha),
            sigma: Dual64::new(self.level.sigma, self.rates.sigma),
        }
    }
}

impl From<&Moving> for Level {
    fn from(moving: &Moving) -> Self {
        moving.level
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_level_has_a_ratio() {
        let (level, point) = (Level::new(0.5, 0.25), PathPoint::still(0.5, 0.25));
        assert_eq!(
            (level.log_snr(), point.log_snr()),
            (2.0 * std::f64::consts::LN_2, 2.0 * std::f64::consts::LN_2)
        );
        assert_eq!((level.var(3.0), point.snr(), point.edm_sigma()), (0.75 + 0.0625, 4.0, 0.5));
    }

    #[test]
    fn levels_reach_to_the_ends_of_what_is_finite() {
        for (alpha, sigma) in
            [(0.0, 1.0), (1.0, 0.0), (1e-320, 0.0), (1e200, 1e200), (f64::MAX, f64::MAX)]
        {
            assert!(Level::new(alpha, sigma).checked().is_ok(), "({alpha}, {sigma})");
        }
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        for (alpha, sigma) in
            [(0.0, 0.0), (-1.0, 2.0), (2.0, -1.0), (inf, 1.0), (1.0, inf), (nan, 1.0), (1.0, nan)]
        {
            assert!(Level::new(alpha, sigma).checked().is_err(), "({alpha}, {sigma})");
        }
    }

    #[test]
    fn variances_and_projections_of_any_size() {
        // A clean level's variance, split in its own unit of length.
        for (alpha, lambda) in [(1e-200, 1.0), (1e200, 1.0), (1e-150, 1e-290), (1e150, 1e290)] {
            let (v, e) = Level::new(alpha, 0.0).split_var(lambda);
            assert!((0.25..=16.0).contains(&v), "{alpha} {lambda}: {v}");
            let log: f64 = 2.0 * f64::ln(alpha) + f64::ln(lambda);
            let got = v.ln() + 2.0 * f64::from(e) * std::f64::consts::LN_2;
            assert!((got / log - 1.0).abs() <= 4.0 * f64::EPSILON);
        }
        // One of the two terms is 0, or far below the other: what is left is the other's.
        let projection = |(alpha, sigma), (to_alpha, to_sigma), lambda| -> f64 {
            Level::new(alpha, sigma).projection(Level::new(to_alpha, to_sigma), lambda)
        };
        assert_eq!(projection((0.0, 1.0), (1e200, 1.0), 1e300), 1.0);
        assert_eq!(projection((1e-150, 0.0), (1e-150, 1e300), 1.0), 1.0);
        assert_eq!(projection((1e-200, 1.0), (1e-200, 1.0), 1.0), 1.0);
        assert_eq!(projection((1.0, 1e-200), (1.0, 1e-200), 1.0), 1.0);
    }
}
