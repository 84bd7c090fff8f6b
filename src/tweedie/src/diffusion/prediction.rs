//! What a network may predict, and every conversion between predictions.
//!
//! Each prediction is `a x0 + b eps` with coefficients of the path, and
//! `x_t = alpha x0 + sigma eps`: two equations for x0 and eps. So a conversion goes through (x0,
//! eps), six formulas in and six out, and is singular only where the two equations are: that is an
//! error, never a clamp.

use crate::choice::Choice;
use crate::diffusion::PathPoint;
use crate::diffusion::level::{Level, Moving, Rates};
use crate::error::{Error, Result};
use crate::math::scalar::{Scalar, exponent, hypot, ldexp};
use ndarray::{ArrayView2, ArrayViewMut2, Zip};
use serde::{Deserialize, Serialize};
use std::fmt;

/// EDM's deviation of the data, for images scaled to [-1, 1].
pub const SIGMA_DATA: f64 = 0.5;

/// What a network outputs at `x_t = alpha x0 + sigma eps`.
///
/// The best prediction of each kind is the same combination of `E[x0 | x_t]` and `E[eps | x_t]`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Prediction {
    /// The clean data.
    X0,
    /// The noise.
    Eps,
    /// `alpha eps - sigma x0` (Salimans & Ho, 2022, section 4).
    V,
    /// The rate of change of `x_t` at fixed (x0, eps), `d_alpha x0 + d_sigma eps` (Lipman et al.,
    /// 2023, section 4).
    Velocity,
    /// `-eps / sigma`, whose expectation is `grad ln p(x_t)` (Vincent, 2011).
    Score,
    /// EDM's preconditioned network output, `(sigma x0 - alpha sigma_data^2 eps) / (sigma_data n)`
    /// with `n^2 = sigma^2 + alpha^2 sigma_data^2` (Karras et al., 2022, equation 8).
    F,
}

impl fmt::Display for Prediction {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        f.write_str(self.name())
    }
}

impl Choice for Prediction {
    const CHOICES: &'static [Self] = &Self::ALL;

    fn name(self) -> &'static str {
        match self {
            Self::X0 => "x0",
            Self::Eps => "eps",
            Self::V => "v",
            Self::Velocity => "velocity",
            Self::Score => "score",
            Self::F => "f",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::X0 => "The clean data",
            Self::Eps => "The noise",
            Self::V => "alpha eps - sigma x0",
            Self::Velocity => "d_alpha x0 + d_sigma eps, the rate of change of x_t",
            Self::Score => "-eps / sigma",
            Self::F => "EDM's preconditioned network output",
        }
    }
}

impl Prediction {
    /// All predictions, in the order of their declaration.
    pub const ALL: [Self; 6] = [Self::X0, Self::Eps, Self::V, Self::Velocity, Self::Score, Self::F];

    /// The prediction of this kind for known data and noise: a training target.
    ///
    /// Not checked: a score at `sigma = 0` is infinite.
    ///
    /// # Panics
    /// A velocity in a frame without rates, which [`Frame::check`] refuses.
    pub fn target<S: Scalar>(self, x0: S, eps: S, at: &Frame<S>) -> S {
        let Frame { alpha, sigma, sigma_data, .. } = *at;
        match self {
            Self::X0 => x0,
            Self::Eps => eps,
            Self::V => alpha * eps - sigma * x0,
            Self::Velocity => {
                let rates = at.known_rates();
                rates.alpha * x0 + rates.sigma * eps
            }
            Self::Score => -eps / sigma,
            Self::F => (sigma / sigma_data * x0 - alpha * sigma_data * eps) / at.input_std(),
        }
    }

    /// The coefficients (a, b) of this prediction as `a x0 + b eps`.
    pub fn coefficients<S: Scalar>(self, at: &Frame<S>) -> (S, S) {
        (self.target(S::one(), S::zero(), at), self.target(S::zero(), S::one(), at))
    }

    /// The determinant `alpha b - sigma a` of `x_t` and this prediction `a x0 + b eps` as equations
    /// for (x0, eps).
    ///
    /// It says how much the prediction tells beyond `x_t`: an error of the prediction is
    /// `-determinant / sigma` times the error of the x0 that it implies, and where it vanishes
    /// nothing can be converted from it.
    ///
    /// # Formula
    /// x0 `-sigma`, eps `alpha`, v `alpha^2 + sigma^2`, velocity `alpha d_sigma - sigma d_alpha`,
    /// score `-alpha / sigma`, F `-n / sigma_data`.
    pub fn determinant<S: Scalar>(self, at: &Frame<S>) -> S {
        match self {
            Self::X0 => -at.sigma,
            Self::Eps => at.alpha,
            Self::V => at.alpha * at.alpha + at.sigma * at.sigma,
            Self::Velocity => {
                let level = Level { alpha: at.alpha, sigma: at.sigma };
                Moving { level, rates: at.known_rates() }.determinant()
            }
            Self::Score => -at.alpha / at.sigma,
            Self::F => -at.input_std() / at.sigma_data,
        }
    }
}

impl Prediction {
    /// The power of the path's unit of length that [`determinant`](Self::determinant) carries.
    pub(crate) fn degree(self) -> i32 {
        match self {
            Self::X0 | Self::Eps | Self::F => 1,
            Self::V | Self::Velocity => 2,
            Self::Score => 0,
        }
    }
}

/// All that a conversion reads of the path at one time, in any scalar.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Frame<S> {
    /// Signal coefficient.
    pub alpha: S,
    /// Noise coefficient.
    pub sigma: S,
    /// Rates of both, where they are known; read by the velocity only.
    pub rates: Option<Rates<S>>,
    /// Deviation of the data; read by F only.
    pub sigma_data: S,
}

impl From<&PathPoint> for Frame<f64> {
    /// The frame of a path point, with EDM's [`SIGMA_DATA`].
    fn from(point: &PathPoint) -> Self {
        let PathPoint { alpha, sigma, rates, .. } = *point;
        Self { alpha, sigma, rates, sigma_data: SIGMA_DATA }
    }
}

impl<S: Scalar> From<&Moving<S>> for Frame<S> {
    /// The frame of a moving level, with EDM's [`SIGMA_DATA`].
    fn from(&Moving { level: Level { alpha, sigma }, rates }: &Moving<S>) -> Self {
        Self { alpha, sigma, rates: Some(rates), sigma_data: S::from(SIGMA_DATA) }
    }
}

impl<S: Scalar> Frame<S> {
    /// The variance-preserving frame of this log-SNR, with rates per unit of log-SNR and EDM's
    /// [`SIGMA_DATA`].
    ///
    /// # Formula
    /// `alpha^2 = 1 / (1 + exp(-log_snr))`, `sigma^2 = 1 / (1 + exp(log_snr))`,
    /// `d_alpha = alpha sigma^2 / 2`, `d_sigma = -sigma alpha^2 / 2`. An infinite log-SNR gives the
    /// clean or the pure-noise end.
    pub fn variance_preserving(log_snr: S) -> Self {
        let share = |x: S| ((-x).exp() + 1.0).recip();
        let (signal, noise) = (share(log_snr), share(-log_snr));
        // The root of e^x is in range twice as far as e^x, and there 1 + e^x is 1.
        let root = |x: S, share: S| if x.re() < -600.0 { (x * 0.5).exp() } else { share.sqrt() };
        let (alpha, sigma) = (root(log_snr, signal), root(-log_snr, noise));
        Self {
            alpha,
            sigma,
            rates: Some(Rates { alpha: alpha * noise * 0.5, sigma: -sigma * signal * 0.5 }),
            sigma_data: S::from(SIGMA_DATA),
        }
    }

    /// The same frame for data of another deviation.
    pub fn with_sigma_data(self, sigma_data: S) -> Self {
        Self { sigma_data, ..self }
    }

    /// Deviation of `x_t` for data of deviation `sigma_data`:
    /// `sqrt(sigma^2 + alpha^2 sigma_data^2)`.
    pub fn input_std(&self) -> S {
        hypot(self.sigma, self.alpha * self.sigma_data)
    }

    /// The same frame in another unit of length, a power of two `2^e`, so that its larger
    /// coefficient is in [1, 2); the data's deviation is a length of its own and stays.
    pub(crate) fn in_unit(&self) -> (Self, i32) {
        let e = exponent(self.alpha.re().abs().max(self.sigma.re().abs()));
        let [alpha, sigma] = [self.alpha, self.sigma].map(|x| ldexp(x, -e));
        let rates = self.rates.map(|r| Rates::new(ldexp(r.alpha, -e), ldexp(r.sigma, -e)));
        (Self { alpha, sigma, rates, ..*self }, e)
    }

    /// That this prediction is defined here.
    ///
    /// # Errors
    /// Coefficients that are negative, not finite or both 0; a velocity where a rate is not finite
    /// or not known; a score at `sigma = 0`; an F without a positive `sigma_data`.
    pub fn check(&self, prediction: Prediction) -> Result<()> {
        let (alpha, sigma) = (self.alpha.re(), self.sigma.re());
        let finite = 0.0..f64::INFINITY;
        if !(finite.contains(&alpha) && finite.contains(&sigma) && (alpha, sigma) != (0.0, 0.0)) {
            return Err(Error::domain(
                "path coefficients",
                self.place(),
                "finite, >= 0 and not both 0",
                "take them from a path",
            ));
        }
        match prediction {
            Prediction::Velocity => {
                let why = match self.rates.map(|r| [r.alpha, r.sigma].map(|x| x.re())) {
                    Some([a, s]) if a.is_finite() && s.is_finite() => return Ok(()),
                    Some([a, s]) => format!("its rates are ({a}, {s})"),
                    None => "its rates are not known".to_owned(),
                };
                Err(Error::singular(
                    "velocity",
                    self.place(),
                    why,
                    "take a point with finite rates from a path",
                ))
            }
            Prediction::Score if sigma == 0.0 => Err(Error::singular(
                "score -eps / sigma",
                self.place(),
                "there is no noise",
                "use x0, v or velocity at sigma = 0",
            )),
            Prediction::F if !(self.sigma_data.re() > 0.0 && self.sigma_data.re().is_finite()) => {
                Err(Error::domain(
                    "sigma_data",
                    self.sigma_data.re(),
                    "> 0 and finite",
                    "give the data's standard deviation",
                ))
            }
            _ => Ok(()),
        }
    }

    fn known_rates(&self) -> Rates<S> {
        self.rates.expect("a frame whose rates are checked")
    }

    fn place(&self) -> String {
        format!("alpha = {}, sigma = {}", self.alpha.re(), self.sigma.re())
    }
}

/// The map from one prediction to another at one point of a path, known to exist there.
///
/// # Example
/// ```
/// use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
/// use tweedie::diffusion::PathPoint;
/// let at = Frame::from(&PathPoint::still(0.6, 0.8));
/// let (x0, eps) = (2.0, -1.0);
/// let xt = 0.6 * x0 + 0.8 * eps;
/// let to_x0 = Conversion::new(Prediction::V, Prediction::X0, at).unwrap();
/// let v = 0.6 * eps - 0.8 * x0;
/// assert!((to_x0.apply(v, xt) - x0).abs() < 1e-15);
/// // Pure noise holds nothing of x0, and eps adds nothing to it.
/// assert!(Conversion::new(Prediction::Eps, Prediction::X0, Frame::from(&PathPoint::NOISE)).is_err());
/// ```
#[derive(Clone, Copy, Debug)]
pub struct Conversion<S> {
    from: Prediction,
    to: Prediction,
    at: Frame<S>,
}

impl<S: Scalar> Conversion<S> {
    /// The conversion at this frame.
    ///
    /// Defined at both ends wherever the answer is: at `alpha = 0` from x0, v, velocity and F to
    /// anything, and between eps and score; at `sigma = 0` from eps, v, velocity and F to anything
    /// but the score, and from the score too, whose eps is there `-sigma score = 0`.
    ///
    /// # Errors
    /// [`Frame::check`] of either prediction; [`Error::Singular`] where `from` and `x_t` don't
    /// determine `to`: x0 (and all that needs it) from eps or the score at `alpha = 0`; eps (and
    /// all that needs it) from x0 at `sigma = 0`; anything from a velocity whose
    /// [`Prediction::determinant`] is 0.
    pub fn new(from: Prediction, to: Prediction, at: Frame<S>) -> Result<Self> {
        use Prediction::*;
        // A score at sigma = 0 can be read (a smooth law's is finite) but not be made.
        at.check(if from == Score { Eps } else { from })?;
        at.check(to)?;
        let (needs_x0, needs_eps) = (!matches!(to, Eps | Score), to != X0);
        let (what, why) = (
            format!("{to} from {from}"),
            "x_t and the prediction are the same equation for x0 and eps",
        );
        let lost = match from {
            _ if from == to => false,
            X0 => needs_eps && at.sigma.re() == 0.0,
            Eps | Score => needs_x0 && at.alpha.re() == 0.0,
            Velocity => Self { from, to, at }.rows().det.re() == 0.0,
            V | F => false,
        };
        if lost {
            return Err(Error::singular(
                what,
                at.place(),
                why,
                "predict v or f, which are never singular, or stop short of this end",
            ));
        }
        Ok(Self { from, to, at })
    }

    /// The prediction `to` of one coordinate, from the prediction `from` and `x_t`, by way of x0
    /// and eps: without a value (infinite or NaN) where one of these is beyond the range of the
    /// numbers.
    pub fn apply(&self, prediction: S, xt: S) -> S {
        use Prediction::*;
        match self.to {
            to if to == self.from => prediction,
            X0 => self.x0(prediction, xt),
            // What follows from one of the two must not touch the other: it may be singular.
            Eps | Score => self.to.target(S::zero(), self.eps(prediction, xt), &self.at),
            to => to.target(self.x0(prediction, xt), self.eps(prediction, xt), &self.at),
        }
    }

    /// The equations `alpha x0 + sigma eps = x_t`, `a x0 + b eps = p` of v and velocity, each over
    /// the order of its coefficients: as they stand, the determinant is out of range where sigma is
    /// beyond 1e154.
    fn rows(&self) -> Rows<S> {
        let (a, b) = match self.from {
            Prediction::Velocity => {
                let rates = self.at.known_rates();
                (rates.alpha, rates.sigma)
            }
            _ => (-self.at.sigma, self.at.alpha),
        };
        let order = |x: S, y: S| exponent(x.re().abs().max(y.re().abs()));
        let unit = (order(self.at.alpha, self.at.sigma), order(a, b));
        let (alpha, sigma) = (ldexp(self.at.alpha, -unit.0), ldexp(self.at.sigma, -unit.0));
        let (a, b) = (ldexp(a, -unit.1), ldexp(b, -unit.1));
        Rows { alpha, sigma, a, b, det: alpha * b - sigma * a, unit }
    }

    fn x0(&self, p: S, xt: S) -> S {
        use Prediction::*;
        let Frame { alpha, sigma, sigma_data, .. } = self.at;
        match self.from {
            X0 => p,
            Eps => (xt - sigma * p) / alpha,
            V | Velocity => {
                let Rows { sigma, b, det, unit, .. } = self.rows();
                (scaled(b, xt, -unit.0) - scaled(sigma, p, -unit.1)) / det
            }
            Score => (xt + sigma * (sigma * p)) / alpha,
            F => {
                let n = self.at.input_std();
                (alpha * sigma_data / n * xt + sigma * p) * (sigma_data / n)
            }
        }
    }

    fn eps(&self, p: S, xt: S) -> S {
        use Prediction::*;
        let Frame { alpha, sigma, sigma_data, .. } = self.at;
        match self.from {
            X0 => (xt - alpha * p) / sigma,
            Eps => p,
            V | Velocity => {
                let Rows { alpha, a, det, unit, .. } = self.rows();
                (scaled(alpha, p, -unit.1) - scaled(a, xt, -unit.0)) / det
            }
            Score => -sigma * p,
            F => {
                let n = self.at.input_std();
                (sigma / n * xt - alpha * sigma_data * p) / n
            }
        }
    }
}

/// See [`Conversion::rows`].
struct Rows<S> {
    alpha: S,
    sigma: S,
    a: S,
    b: S,
    det: S,
    /// Exponents of the two rows' orders.
    unit: (i32, i32),
}

impl Conversion<f64> {
    /// [`Conversion::apply`] to each element.
    ///
    /// # Shapes
    /// `prediction`, `xt` and `out` (n, d).
    ///
    /// # Errors
    /// Shapes that differ.
    pub fn apply_batch(
        &self,
        prediction: ArrayView2<f64>,
        xt: ArrayView2<f64>,
        out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        same_shape("x_t", xt.dim(), prediction.dim())?;
        same_shape("out", out.dim(), prediction.dim())?;
        Zip::from(out).and(prediction).and(xt).par_for_each(|out, &p, &x| *out = self.apply(p, x));
        Ok(())
    }

    /// The conversion's condition: [`Conversion::apply`] with every product taken positive,
    /// `>= |apply|`.
    ///
    /// The error of `apply` is at most a few eps times this, and a relative error of the inputs
    /// grows to no more than this; a round trip errs by at most `8 eps` times the way back's
    /// condition at the way out's (Skeel's condition of the two equations). It is large where `to`
    /// is nearly undetermined, like x0 from eps at small alpha.
    pub fn condition(&self, prediction: f64, xt: f64) -> f64 {
        use Prediction::*;
        let (p, x, at) = (prediction.abs(), xt.abs(), &self.at);
        if self.from == self.to {
            return p;
        }
        let (x0, eps) = match self.from {
            V | Velocity => {
                let Rows { alpha, sigma, a, b, det, unit } = self.rows();
                let (p, x, det) = (ldexp(p, -unit.1), ldexp(x, -unit.0), det.abs());
                // Only the velocity's determinant can cancel, where both rates have one sign.
                let cancelled = if self.from == Velocity {
                    ((alpha * b).abs() + (sigma * a).abs()) / det
                } else {
                    1.0
                };
                (
                    cancelled * ((b.abs() * x + sigma * p) / det),
                    cancelled * ((a.abs() * x + alpha * p) / det),
                )
            }
            // Without the determinant, alpha: eps and the score give each other also where it is 0.
            Eps => ((x + at.sigma * p) / at.alpha, p),
            Score => ((x + at.sigma * (at.sigma * p)) / at.alpha, at.sigma * p),
            X0 | F => {
                let (a, b) = self.from.coefficients(at);
                let det = self.from.determinant(at).abs();
                ((b.abs() * x + at.sigma * p) / det, (a.abs() * x + at.alpha * p) / det)
            }
        };
        let (a, b) = self.to.coefficients(at);
        match self.to {
            Eps | Score => b.abs() * eps,
            _ => a.abs() * x0 + b.abs() * eps,
        }
    }
}

pub(crate) fn same_shape(what: &str, got: (usize, usize), want: (usize, usize)) -> Result<()> {
    if got == want {
        Ok(())
    } else {
        Err(Error::shape(what, &[got.0, got.1], format!("{want:?}"), "pass arrays of one shape"))
    }
}

/// `2^k a x`, by the order of operations that stays within range.
fn scaled<S: Scalar>(a: S, x: S, k: i32) -> S {
    let product = a * x;
    // A coefficient that is 0 leaves nothing, however large what it multiplies becomes.
    let whole =
        a.re() == 0.0 || product.re().is_finite() && product.re().abs() >= f64::MIN_POSITIVE;
    if whole { ldexp(product, k) } else { a * ldexp(x, k) }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;
    use crate::math::gaussian::log_density_normal;
    use nalgebra::{Matrix2, Vector2};
    use ndarray::Array2;
    use num_dual::{Dual64, DualNum, first_derivative};
    use proptest::prelude::*;
    use std::f64::consts::FRAC_PI_2;

    const EPS: f64 = f64::EPSILON;

    fn frame(alpha: f64, sigma: f64, d_alpha: f64, d_sigma: f64, sigma_data: f64) -> Frame<f64> {
        Frame { alpha, sigma, rates: Some(Rates::new(d_alpha, d_sigma)), sigma_data }
    }

    /// A point of any kind of path, to the ends of what f64 holds: log-SNR up to +-80.
    pub(crate) fn any_frame() -> impl Strategy<Value = Frame<f64>> {
        let power = |a: f64, b: f64| (a..b).prop_map(|e| 10f64.powf(e));
        let vp = (-80.0..80.0f64, power(-1.0, 3.0)).prop_map(|(log_snr, rate)| {
            let at = Frame::variance_preserving(log_snr);
            let rates = at.rates.map(|r| Rates::new(-rate * r.alpha, -rate * r.sigma));
            Frame { rates, ..at }
        });
        let ve = (power(-15.0, 15.0), power(-3.0, 3.0))
            .prop_map(|(sigma, rate)| frame(1.0, sigma, 0.0, sigma * rate, 0.5));
        let edm = power(-15.0, 15.0).prop_map(|sigma| frame(1.0, sigma, 0.0, 1.0, 0.5));
        let cosine = (1e-12..1.0 - 1e-12f64).prop_map(|t| {
            let (sigma, alpha) = (FRAC_PI_2 * t).sin_cos();
            frame(alpha, sigma, -FRAC_PI_2 * sigma, FRAC_PI_2 * alpha, 0.5)
        });
        let fm =
            prop_oneof![0.0..1.0f64, power(-15.0, 0.0), power(-15.0, 0.0).prop_map(|s| 1.0 - s)]
                .prop_map(|t| frame(1.0 - t, t, -1.0, 1.0, 0.5));
        // No known path: both rates of one sign, so that the velocity's determinant cancels.
        let odd = (power(-2.0, 2.0), power(-2.0, 2.0), -3.0..3.0f64, -3.0..3.0f64)
            .prop_map(|(alpha, sigma, da, ds)| frame(alpha, sigma, da, ds, 0.5));
        (prop_oneof![vp, ve, edm, cosine, fm, odd], power(-1.0, 1.0))
            .prop_map(|(at, sd)| at.with_sigma_data(sd))
    }

    fn pairs() -> impl Iterator<Item = (Prediction, Prediction)> {
        Prediction::ALL.into_iter().flat_map(|a| Prediction::ALL.map(|b| (a, b)))
    }

    proptest! {
        #[test]
        fn all_conversions_are_right_and_round_trip(at in any_frame(), x0 in -3.0..3.0f64, eps in -3.0..3.0f64) {
            let xt = at.alpha * x0 + at.sigma * eps;
            for (a, b) in pairs() {
                let (Ok(there), Ok(back)) = (Conversion::new(a, b, at), Conversion::new(b, a, at)) else { continue };
                let (p, q) = (a.target(x0, eps, &at), b.target(x0, eps, &at));
                let got = there.apply(p, xt);
                let condition = there.condition(p, xt);
                // p and x_t are themselves rounded, in terms that may cancel (v = 0): their error
                // is eps of the positive sum, which the condition of the positive sum carries over.
                // That positive sum exceeds any cancelled one.
                let size = |k: Prediction| { let (u, w) = k.coefficients(&at); (u * x0).abs() + (w * eps).abs() };
                let given = there.condition(size(a), (at.alpha * x0).abs() + (at.sigma * eps).abs());
                prop_assert!((got - q).abs() <= 8.0 * EPS * (given + size(b)), "{a} to {b} at {at:?}: {got} for {q}");
                prop_assert!(got.abs() <= condition * (1.0 + 16.0 * EPS));
                let bound = back.condition(condition, xt);
                let again = back.apply(got, xt);
                prop_assert!((again - p).abs() <= 8.0 * EPS * bound, "{a} to {b} at {at:?}: {p} became {again}, {} eps", (again - p).abs() / (EPS * bound));
            }
        }

        #[test]
        fn conversions_solve_the_two_equations(at in any_frame(), p in -3.0..3.0f64, xt in -3.0..3.0f64) {
            // The second route: the 2 x 2 system by LU, where it is not near singular.
            for (a, b) in pairs() {
                let (Ok(conversion), (u, w)) = (Conversion::new(a, b, at), a.coefficients(&at)) else { continue };
                let rows = Matrix2::new(at.alpha, at.sigma, u, w);
                let Some(inverse) = rows.try_inverse() else { continue };
                let condition = rows.norm() * inverse.norm();
                if condition.is_nan() || condition > 1e6 {
                    continue;
                }
                let solved = rows.lu().solve(&Vector2::new(xt, p)).unwrap();
                let (u, w) = b.coefficients(&at);
                let want = u * solved[0] + w * solved[1];
                let size = (u.abs() + w.abs()) * inverse.norm() * (xt.abs() + p.abs());
                prop_assert!((conversion.apply(p, xt) - want).abs() <= 16.0 * EPS * condition * size, "{a} to {b} at {at:?}");
                let det = rows.determinant();
                let error = 4.0 * EPS * ((at.alpha * rows[(1, 1)]).abs() + (at.sigma * rows[(1, 0)]).abs());
                prop_assert!((a.determinant(&at) - det).abs() <= error, "{a} at {at:?}");
            }
        }

        #[test]
        fn the_velocity_is_the_rate_of_x_t_and_the_score_that_of_its_log_density(t in 0.01..0.99f64, x0 in -3.0..3.0f64, eps in -3.0..3.0f64) {
            let path = |t: Dual64| { let angle = t * FRAC_PI_2; (angle.cos(), angle.sin()) };
            let (alpha, sigma) = path(Dual64::from(t).derivative());
            let at = frame(alpha.re, sigma.re, alpha.eps, sigma.eps, 1.0);
            let (xt, rate) = first_derivative(|t| { let (a, s) = path(t); a * x0 + s * eps }, t);
            let velocity = Prediction::Velocity.target(x0, eps, &at);
            prop_assert!((velocity - rate).abs() <= 4.0 * EPS * 3.0 * FRAC_PI_2 * 2.0);
            let (_, score) = first_derivative(|x| log_density_normal(x, (alpha.re * x0).into(), (sigma.re * sigma.re).into()), xt);
            // x_t - alpha x0 cancels to sigma eps.
            let error = 4.0 * EPS * (xt.abs() + (alpha.re * x0).abs()) / (sigma.re * sigma.re);
            prop_assert!((Prediction::Score.target(x0, eps, &at) - score).abs() <= error + 4.0 * EPS * score.abs());
            // On a unit circle at constant angular speed the velocity is v at that speed; F of unit
            // data is -v.
            let v = Prediction::V.target(x0, eps, &at);
            prop_assert!((velocity - FRAC_PI_2 * v).abs() <= 16.0 * EPS * 6.0);
            prop_assert!((Prediction::F.target(x0, eps, &at) + v).abs() <= 16.0 * EPS * 6.0);
        }
    }

    #[test]
    fn exactly_the_determined_conversions_exist_at_both_ends() {
        use Prediction::*;
        let refused = |at: Frame<f64>| -> Vec<_> {
            pairs().filter(|&(a, b)| Conversion::new(a, b, at).is_err()).collect()
        };
        let noise = refused(frame(0.0, 1.0, -1.0, 1.0, 0.5));
        let want: Vec<_> = pairs()
            .filter(|&(a, b)| a != b && matches!(a, Eps | Score) && !matches!(b, Eps | Score))
            .collect();
        assert_eq!(noise, want);
        let data = refused(frame(1.0, 0.0, -1.0, 1.0, 0.5));
        let want: Vec<_> = pairs().filter(|&(a, b)| b == Score || (a == X0 && b != X0)).collect();
        assert_eq!(data, want);
        // A velocity that says the same as x_t.
        let parallel = refused(frame(1.0, 2.0, 0.5, 1.0, 0.5));
        assert_eq!(
            parallel,
            Prediction::ALL
                .map(|b| (Velocity, b))
                .into_iter()
                .filter(|p| p.1 != Velocity)
                .collect::<Vec<_>>()
        );
    }

    #[test]
    fn the_limits_at_both_ends_are_the_formulas_values() {
        use Prediction::*;
        let apply = |a, b, at, p, xt| Conversion::new(a, b, at).unwrap().apply(p, xt);
        let noise = frame(0.0, 1.0, -1.0, 1.0, 0.5);
        assert_eq!(apply(V, X0, noise, -3.0, 0.7), 3.0);
        assert_eq!(apply(Velocity, X0, noise, -2.3, 0.7), 3.0);
        assert_eq!(apply(F, X0, noise, 6.0, 0.7), 3.0);
        assert_eq!(apply(X0, Score, noise, 3.0, 0.7), -0.7);
        assert_eq!(apply(Eps, Score, noise, 0.7, 0.7), -0.7);
        let data = frame(1.0, 0.0, -1.0, 1.0, 0.5);
        assert_eq!(apply(Eps, X0, data, 9.0, 3.0), 3.0);
        assert_eq!(apply(Score, X0, data, 9.0, 3.0), 3.0);
        assert_eq!(apply(Score, Velocity, data, 9.0, 3.0), -3.0);
        assert_eq!(apply(Velocity, Eps, data, -2.0, 3.0), 1.0);
        // x_t / alpha is beyond the range, and eps does not depend on it.
        let tiny = Frame {
            alpha: 1e-300,
            sigma: 0.0,
            rates: Some(Rates::new(-1.0, 1.0)),
            sigma_data: 0.5,
        };
        assert_eq!(apply(V, Eps, tiny, 2e-300, 1e10), 2.0);
        let (clean, pure) = (
            Frame::variance_preserving(f64::INFINITY),
            Frame::variance_preserving(f64::NEG_INFINITY),
        );
        assert_eq!((clean.alpha, clean.sigma, pure.alpha, pure.sigma), (1.0, 0.0, 0.0, 1.0));
    }

    #[test]
    fn what_a_prediction_lacks_is_said() {
        let at = Frame::from(&PathPoint::still(0.6, 0.8));
        let message =
            Conversion::new(Prediction::Eps, Prediction::Velocity, at).unwrap_err().to_string();
        assert!(message.contains("rates are not known"), "{message}");
        let message =
            Conversion::new(Prediction::Eps, Prediction::X0, frame(0.0, 1.0, 0.0, 0.0, 0.5))
                .unwrap_err()
                .to_string();
        assert!(message.contains("x0 from eps is singular at alpha = 0, sigma = 1"), "{message}");
        assert!(matches!(
            Conversion::new(Prediction::F, Prediction::X0, at.with_sigma_data(0.0)),
            Err(Error::Domain { .. })
        ));
        for bad in [
            frame(-1.0, 1.0, 0.0, 0.0, 0.5),
            frame(f64::NAN, 1.0, 0.0, 0.0, 0.5),
            frame(0.0, 0.0, 0.0, 0.0, 0.5),
        ] {
            assert!(matches!(
                Conversion::new(Prediction::V, Prediction::X0, bad),
                Err(Error::Domain { .. })
            ));
        }
    }

    #[test]
    fn a_batch_is_its_elements_and_shapes_are_checked() {
        let at = frame(0.6, 0.8, -1.0, 1.0, 0.5);
        let (p, xt) = (
            Array2::from_shape_fn((3, 5), |(i, j)| i as f64 - j as f64),
            Array2::from_shape_fn((3, 5), |(i, j)| (i * j) as f64),
        );
        let mut out = Array2::zeros((3, 5));
        for (a, b) in pairs() {
            let conversion = Conversion::new(a, b, at).unwrap();
            conversion.apply_batch(p.view(), xt.view(), out.view_mut()).unwrap();
            Zip::from(&out)
                .and(&p)
                .and(&xt)
                .for_each(|&out, &p, &xt| assert_eq!(out, conversion.apply(p, xt)));
            assert!(matches!(
                conversion.apply_batch(p.view(), xt.t(), out.view_mut()),
                Err(Error::Shape { .. })
            ));
            assert!(matches!(
                conversion.apply_batch(p.view(), xt.view(), out.slice_mut(ndarray::s![1.., ..])),
                Err(Error::Shape { .. })
            ));
        }
    }

    #[test]
    fn names_are_the_command_line_s() {
        let names: Vec<String> = Prediction::ALL.iter().map(ToString::to_string).collect();
        assert_eq!(names, ["x0", "eps", "v", "velocity", "score", "f"]);
        for (kind, name) in Prediction::ALL.into_iter().zip(&names) {
            assert_eq!(Prediction::named(name).unwrap(), kind);
            assert_eq!(serde_json::to_string(&kind).unwrap(), format!("\"{name}\""));
            assert_eq!(serde_json::from_str::<Prediction>(&format!("\"{name}\"")).unwrap(), kind);
        }
    }

    proptest! {
        /// x0, eps and the score of anything but a velocity are sums of two terms: the condition is
        /// the sum of their sizes.
        #[test]
        fn the_condition_takes_both_terms_positive(at in any_frame(), p in -3.0..3.0f64, xt in -3.0..3.0f64) {
            for (from, to) in pairs().filter(|(a, b)| *a != Prediction::Velocity && matches!(b, Prediction::X0 | Prediction::Eps | Prediction::Score)) {
                let Ok(conversion) = Conversion::new(from, to, at) else { continue };
                let want = conversion.apply(p, 0.0).abs() + conversion.apply(0.0, xt).abs();
                prop_assert!((conversion.condition(p, xt) - want).abs() <= 16.0 * EPS * want, "{from} to {to} at {at:?}");
            }
        }
    }

    #[test]
    fn conditions_at_the_ends() {
        let [noise, clean] = [(0.0, 2.0), (2.0, 0.0)]
            .map(|(alpha, sigma)| Frame::from(&PathPoint::still(alpha, sigma)));
        let condition = |from, to, at| Conversion::new(from, to, at).unwrap().condition(3.0, 5.0);
        // Of pure noise eps is known without x0, of clean data x0 without eps.
        assert_eq!(condition(Prediction::Eps, Prediction::Score, noise), 1.5);
        assert_eq!(condition(Prediction::Score, Prediction::Eps, noise), 6.0);
        assert_eq!(condition(Prediction::Eps, Prediction::X0, clean), 2.5);
        assert_eq!(condition(Prediction::Score, Prediction::X0, clean), 2.5);
    }

    #[test]
    fn frames_are_checked_to_the_ends_of_what_is_finite() {
        let check =
            |alpha, sigma| Frame::from(&PathPoint::still(alpha, sigma)).check(Prediction::X0);
        for (alpha, sigma) in [(0.0, 1.0), (1.0, 0.0), (1e200, 1e200), (f64::MAX, f64::MAX)] {
            assert!(check(alpha, sigma).is_ok(), "({alpha}, {sigma})");
        }
        let (inf, nan) = (f64::INFINITY, f64::NAN);
        for (alpha, sigma) in
            [(0.0, 0.0), (-1.0, 2.0), (2.0, -1.0), (inf, 1.0), (1.0, inf), (nan, 1.0), (1.0, nan)]
        {
            assert!(check(alpha, sigma).is_err(), "({alpha}, {sigma})");
        }
    }

    #[test]
    fn variance_preserving_frames_reach_as_far_as_their_roots() {
        // Out there alpha = e^(log_snr / 2), and sigma its mirror image.
        for log_snr in [-1400.0, -800.0, -601.0, -599.0, -100.0] {
            let want = f64::exp(0.5 * log_snr);
            let (noisy, clean) =
                (Frame::variance_preserving(log_snr), Frame::variance_preserving(-log_snr));
            for got in [noisy.alpha, clean.sigma] {
                assert!((got / want - 1.0).abs() <= 4.0 * EPS, "{log_snr}: {got} {want}");
            }
            assert_eq!((noisy.sigma, clean.alpha), (1.0, 1.0));
        }
    }

    /// Rates of one sign cancel in the velocity's determinant: a rounding of them moves the data
    /// by so much more, and the condition says so.
    #[test]
    fn the_condition_sees_a_determinant_that_cancels() {
        let gap = 1e-6;
        let at = frame(1.0, 1.0, 1.0, 1.0 + gap, 0.5);
        let conversion = Conversion::new(Prediction::Velocity, Prediction::X0, at).unwrap();
        let moved = frame(1.0, 1.0, 1.0, 1.0 + gap * (1.0 + 1e-4), 0.5);
        let other = Conversion::new(Prediction::Velocity, Prediction::X0, moved).unwrap();
        // A relative change of 1e-10 of one rate.
        let change = (other.apply(2.0, 1.0) - conversion.apply(2.0, 1.0)).abs() / 1e-10;
        let condition = conversion.condition(2.0, 1.0);
        assert!(change <= condition && condition <= 8.0 * change, "{change} {condition}");
        // v's determinant is a sum of squares.
        let at = frame(1.0, 1.0, 1.0, 1.0, 0.5);
        let v = Conversion::new(Prediction::V, Prediction::X0, at).unwrap();
        assert_eq!(v.condition(2.0, 1.0), v.apply(-2.0, 1.0).abs());
        let at = frame(3.0, 4.0, 1.0, 1.0, 0.5);
        let v = Conversion::new(Prediction::V, Prediction::X0, at).unwrap();
        // (alpha x + sigma p) / (alpha^2 + sigma^2)
        assert!((v.condition(2.0, 1.0) / (11.0 / 25.0) - 1.0).abs() <= 4.0 * EPS);
    }

    #[test]
    fn products_out_of_range_are_scaled_first() {
        let two = |k| 2f64.powi(k);
        for (a, x, k, want) in [
            (two(600), two(600), -700, two(500)),
            (two(-600), two(-600), 700, two(-500)),
            (two(-600), two(600), 600, two(600)),
            (two(600), two(-600), -600, two(-600)),
            (0.0, two(600), 600, 0.0),
        ] {
            assert_eq!(scaled(a, x, k), want);
        }
    }

    #[test]
    fn each_prediction_says_what_it_is() {
        let about: std::collections::HashSet<_> =
            Prediction::ALL.iter().map(|p| p.about()).collect();
        assert_eq!(about.len(), Prediction::ALL.len());
        assert!(about.iter().all(|text| text.len() > 5));
    }
}
