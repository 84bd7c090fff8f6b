//! Double-double numbers: an unevaluated sum of two `f64`, about 106 bits, through error-free
//! transformations.
//!
//! [`Dd`] implements num-dual's `DualNum`, so every closed form that is generic over
//! [`Scalar`](crate::math::scalar::Scalar) can be evaluated in 106 bits and rounded once;
//! `Dual<Dd, f64>` does the same for its derivative. Schedule tables and path points are made that
//! way, because plain `f64` loses them where they matter: numpy's `1 - alpha_bar` of the linear
//! schedule is off by 1.8e3 ulp.
//!
//! The 106 bits hold for numbers of 1e-290 to 1e308: below, low parts underflow, and at 1e-308 what
//! an `f64` has is left. There the elementary functions of a double are good to 2^-102 over their
//! domains, ends included (`tests/golden/mp/double_double.csv`). The sine, cosine and tangent of
//! |x| > 1e15 are NaN: the multiple of pi/2 next to such a number is no exact integer. A power
//! `x^y` multiplies its error by `y ln x`; a remainder is right where the quotient is below 2^53.
//!
//! # Source
//! T. J. Dekker, *A floating-point technique for extending the available precision* (1971), for the
//! two transformations.

use crate::math::scalar::{exponent, ldexp};
use num_dual::{DualNum, DualStruct, Mappable};
use num_traits::{FromPrimitive, Inv, Num, One, Signed, Zero};
use std::cmp::Ordering;
use std::fmt;
use std::iter::{Product, Sum};
use std::num::ParseFloatError;
use std::ops::{
    Add, AddAssign, Div, DivAssign, Mul, MulAssign, Neg, Rem, RemAssign, Sub, SubAssign,
};
use std::str::FromStr;

/// `hi + lo` with `|lo| <= ulp(hi) / 2`: `hi` is the value rounded to nearest.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Dd {
    hi: f64,
    lo: f64,
}

/// `a + b` exactly, as sum and error.
fn two_sum(a: f64, b: f64) -> (f64, f64) {
    let s = a + b;
    let bb = s - a;
    (s, (a - (s - bb)) + (b - bb))
}

/// `a * b` exactly, as product and error (barring underflow of the error, below about 1e-292).
fn two_prod(a: f64, b: f64) -> (f64, f64) {
    let p = a * b;
    (p, a.mul_add(b, -p))
}

impl Dd {
    /// 0.
    pub const ZERO: Dd = Dd { hi: 0.0, lo: 0.0 };
    /// pi / 2 to 106 bits; the next 53 bits keep `sin` and `cos` relative near their zeros.
    pub const HALF_PI: Dd = Dd { hi: std::f64::consts::FRAC_PI_2, lo: 6.123_233_995_736_766e-17 };
    /// ln 2.
    pub const LN_2: Dd = Dd { hi: std::f64::consts::LN_2, lo: 2.319_046_813_846_299_6e-17 };

    /// `hi + lo` exactly.
    pub fn sum_of(a: f64, b: f64) -> Self {
        let (hi, lo) = two_sum(a, b);
        Self::normal(hi, lo)
    }

    /// The nearest `f64`.
    pub fn hi(self) -> f64 {
        self.hi
    }

    /// What is left after rounding to [`hi`](Self::hi).
    pub fn lo(self) -> f64 {
        self.lo
    }

    /// The decimal that `x` prints as, which for `0.008` is 1/125 to 106 bits and not the double
    /// beside it.
    pub fn from_shortest_decimal(x: f64) -> Self {
        // Display of a finite double is a plain decimal; NaN and infinities parse as themselves.
        x.to_string().parse().unwrap_or(Self::from(x))
    }

    /// Renormalises `|hi| >= |lo|`; an overflow or NaN keeps no low part, so that infinities behave
    /// as in `f64`.
    fn normal(hi: f64, lo: f64) -> Self {
        let s = hi + lo;
        if s.is_finite() {
            Self { hi: s, lo: lo - (s - hi) }
        } else {
            Self { hi: if hi.is_finite() { s } else { hi }, lo: 0.0 }
        }
    }

    /// Multiplies by a power of two, exactly but for over- and underflow.
    fn ldexp(self, k: i32) -> Self {
        Self::normal(ldexp(self.hi, k), ldexp(self.lo, k))
    }

    /// `self - k c` for a constant c of three parts, 159 bits, so that what is left after the
    /// subtraction is good to 106.
    fn minus_multiple(self, k: f64, constant: Dd, tail: f64) -> Self {
        // Both products exactly: rounding `constant * k` to 106 bits would cost the bits that
        // cancel.
        let exact = |a: f64| {
            let (p, e) = two_prod(a, k);
            Dd::normal(p, e)
        };
        self - exact(constant.hi) - exact(constant.lo) - tail * k
    }

    fn is_plain(self) -> bool {
        self.hi.is_finite() && self.hi != 0.0
    }

    /// `e^r - 1` for |r| <= ln(2)/2, relative accuracy kept at 0: Taylor on r/256, then eight
    /// doublings `p -> p (p + 2)`.
    fn exp_m1_reduced(self) -> Self {
        let r = self.ldexp(-8);
        let (mut term, mut sum) = (r, r);
        for n in 2..=11 {
            term = term * r / n as f64;
            sum += term;
        }
        for _ in 0..8 {
            sum = sum * (sum + 2.0);
        }
        sum
    }

    /// `e^|x| / 2`, the hyperbolic sine and cosine of large |x|, in range where `e^|x|` is not.
    fn half_exp_abs(self) -> Self {
        let half = (self.abs() * 0.5).exp();
        half * (half * 0.5)
    }

    /// `2 atanh(z)` by its series, for |z| <= 0.12.
    fn two_atanh(z: Self) -> Self {
        let z2 = z * z;
        let (mut power, mut sum) = (z, z);
        for n in 1..=17 {
            power *= z2;
            sum += power / (2 * n + 1) as f64;
        }
        sum * 2.0
    }

    /// The spherical Bessel function of order n by its series, for |x| < 2, where the closed forms
    /// cancel.
    fn sph_j_series(self, n: i32) -> Self {
        let y = self * self * -0.5;
        let mut term = (1..=n).fold(Self::one(), |term, k| term * self / (2 * k + 1) as f64);
        let mut sum = term;
        for k in 1..=16 {
            term = term * y / (k * (2 * (n + k) + 1)) as f64;
            sum += term;
        }
        sum
    }

    /// Sine and cosine of |r| <= pi/4 by their series.
    fn sin_cos_reduced(r: Self) -> (Self, Self) {
        let r2 = r * r;
        let (mut s, mut c) = (r, Self::one());
        let (mut sin, mut cos) = (s, c);
        for n in 1..=14 {
            let k = 2.0 * n as f64;
            s = -s * r2 / (k * (k + 1.0));
            c = -c * r2 / (k * (k - 1.0));
            sin += s;
            cos += c;
        }
        (sin, cos)
    }
}

/// The part of pi/2 beyond [`Dd::HALF_PI`].
const HALF_PI_TAIL: f64 = -1.497_384_904_859_17e-33;
/// The part of ln 2 beyond [`Dd::LN_2`].
const LN_2_TAIL: f64 = 5.707_708_438_416_212e-34;
/// Arguments up to here have a sine: the multiple of pi/2 next to it is an exact integer.
const SIN_LIMIT: f64 = 1e15;
/// From here on `sqrt(x^2 + 1)` is x to 106 bits, and x^2 in range up to there.
const ROOT_IS_X: f64 = 1e17;

impl From<f64> for Dd {
    fn from(x: f64) -> Self {
        Self { hi: x, lo: 0.0 }
    }
}

impl Add for Dd {
    type Output = Dd;
    fn add(self, b: Dd) -> Dd {
        // The accurate sum (both low parts through two_sum): the sloppy one loses all bits when the
        // high parts cancel.
        let (s, e) = two_sum(self.hi, b.hi);
        let (t, f) = two_sum(self.lo, b.lo);
        let r = Dd::normal(s, e + t);
        Dd::normal(r.hi, r.lo + f)
    }
}

impl Neg for Dd {
    type Output = Dd;
    fn neg(self) -> Dd {
        Dd { hi: -self.hi, lo: -self.lo }
    }
}

impl Sub for Dd {
    type Output = Dd;
    fn sub(self, b: Dd) -> Dd {
        self + -b
    }
}

impl Mul for Dd {
    type Output = Dd;
    fn mul(self, b: Dd) -> Dd {
        let (p, e) = two_prod(self.hi, b.hi);
        Dd::normal(p, e + (self.hi * b.lo + self.lo * b.hi))
    }
}

impl Div for Dd {
    type Output = Dd;
    fn div(self, b: Dd) -> Dd {
        if self.hi.abs() > 1e300 && self.hi.is_finite() {
            // The product of the rounded quotient and b may be beyond the range where self is not.
            return (self.ldexp(-64) / b).ldexp(64);
        }
        let q1 = self.hi / b.hi;
        if !q1.is_finite() || !b.hi.is_finite() {
            return q1.into();
        }
        let r = self - b * Dd::from(q1);
        let q2 = r.hi / b.hi;
        let r = r - b * Dd::from(q2);
        let q = Dd::normal(q1, q2);
        Dd::normal(q.hi, q.lo + r.hi / b.hi)
    }
}

impl Rem for Dd {
    type Output = Dd;
    fn rem(self, b: Dd) -> Dd {
        let q = (self / b).hi.trunc();
        self - b * Dd::from(q)
    }
}

/// The operators on references, on a plain `f64` and with assignment, all through the five above.
macro_rules! forward {
    ($($op:ident $f:ident $assign:ident $g:ident),*) => {$(
        impl $op<&Dd> for Dd { type Output = Dd; fn $f(self, b: &Dd) -> Dd { $op::$f(self, *b) } }
        impl $op<f64> for Dd { type Output = Dd; fn $f(self, b: f64) -> Dd { $op::$f(self, Dd::from(b)) } }
        impl $assign for Dd { fn $g(&mut self, b: Dd) { *self = $op::$f(*self, b) } }
        impl $assign<f64> for Dd { fn $g(&mut self, b: f64) { *self = $op::$f(*self, b) } }
    )*};
}
forward!(Add add AddAssign add_assign, Sub sub SubAssign sub_assign, Mul mul MulAssign mul_assign, Div div DivAssign div_assign, Rem rem RemAssign rem_assign);

impl PartialOrd for Dd {
    fn partial_cmp(&self, b: &Dd) -> Option<Ordering> {
        match self.hi.partial_cmp(&b.hi) {
            Some(Ordering::Equal) => self.lo.partial_cmp(&b.lo),
            other => other,
        }
    }
}
impl PartialEq<f64> for Dd {
    fn eq(&self, b: &f64) -> bool {
        *self == Dd::from(*b)
    }
}
impl PartialOrd<f64> for Dd {
    fn partial_cmp(&self, b: &f64) -> Option<Ordering> {
        self.partial_cmp(&Dd::from(*b))
    }
}

impl fmt::Display for Dd {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:e}{:+e}", self.hi, self.lo)
    }
}

impl Zero for Dd {
    fn zero() -> Dd {
        0.0.into()
    }
    fn is_zero(&self) -> bool {
        self.hi == 0.0
    }
}
impl One for Dd {
    fn one() -> Dd {
        1.0.into()
    }
}
impl Num for Dd {
    type FromStrRadixErr = num_traits::ParseFloatError;
    fn from_str_radix(s: &str, radix: u32) -> Result<Dd, Self::FromStrRadixErr> {
        let plain = f64::from_str_radix(s, radix)?;
        Ok(if radix == 10 { s.parse().unwrap_or(Dd::from(plain)) } else { plain.into() })
    }
}
/// Decimals of any length: the 31 or so digits that fit are kept.
impl FromStr for Dd {
    type Err = ParseFloatError;
    fn from_str(s: &str) -> Result<Dd, ParseFloatError> {
        let plain: f64 = s.parse()?;
        let (mantissa, exponent) = s.split_once(['e', 'E']).unwrap_or((s, "0"));
        // An exponent beyond i32 is 0 or infinity already in `plain`.
        let (true, Ok(exponent)) = (plain.is_finite() && plain != 0.0, exponent.parse::<i32>())
        else {
            return Ok(plain.into());
        };
        // Of the significant digits the first 40 are read; each that is left out before the point
        // is a factor of 10.
        let (mut digits, mut read, mut power, mut fraction) =
            (Dd::zero(), 0, i64::from(exponent), false);
        for b in mantissa.bytes() {
            fraction |= b == b'.';
            if b.is_ascii_digit() && read < 40 {
                digits = digits * 10.0 + f64::from(b - b'0');
                read += i32::from(!digits.is_zero());
                power -= i64::from(fraction);
            } else if b.is_ascii_digit() {
                power += i64::from(!fraction);
            }
        }
        // In range: `plain` is, and `digits` is below 10^40. In two halves: 10^-323 is not a normal
        // number where 30 digits times it are.
        let half = power as i32 / 2;
        let value = digits * Dd::from(10.0).powi(half) * Dd::from(10.0).powi(power as i32 - half);
        Ok(if plain < 0.0 { -value } else { value })
    }
}
impl Inv for Dd {
    type Output = Dd;
    fn inv(self) -> Dd {
        Dd::one() / self
    }
}
impl Signed for Dd {
    fn abs(&self) -> Dd {
        if self.hi.is_sign_negative() { -*self } else { *self }
    }
    fn abs_sub(&self, b: &Dd) -> Dd {
        if *self <= *b { Dd::zero() } else { *self - *b }
    }
    fn signum(&self) -> Dd {
        self.hi.signum().into()
    }
    fn is_positive(&self) -> bool {
        self.hi > 0.0
    }
    fn is_negative(&self) -> bool {
        self.hi < 0.0
    }
}
impl Sum for Dd {
    fn sum<I: Iterator<Item = Dd>>(it: I) -> Dd {
        it.fold(Dd::zero(), Add::add)
    }
}
impl Product for Dd {
    fn product<I: Iterator<Item = Dd>>(it: I) -> Dd {
        it.fold(Dd::one(), Mul::mul)
    }
}
impl FromPrimitive for Dd {
    fn from_i64(n: i64) -> Option<Dd> {
        let hi = n as f64;
        // An i64 has up to 63 bits: the remainder is exact in i128 and small enough for f64.
        Some(Dd::sum_of(hi, (n as i128 - hi as i128) as f64))
    }
    fn from_u64(n: u64) -> Option<Dd> {
        let hi = n as f64;
        Some(Dd::sum_of(hi, (n as i128 - hi as i128) as f64))
    }
    fn from_f64(x: f64) -> Option<Dd> {
        Some(x.into())
    }
}
impl DualStruct for Dd {
    type Real = f64;
    type Inner = f64;
    fn re(&self) -> f64 {
        self.hi
    }
    fn from_inner(inner: &f64) -> Dd {
        (*inner).into()
    }
}
impl Mappable<Dd> for Dd {
    type Output<O> = O;
    fn map_dual<M: FnOnce(Dd) -> O, O>(self, f: M) -> O {
        f(self)
    }
}

impl DualNum for Dd {
    type Primitive = f64;
    const NDERIV: usize = 0;
    type InnerDual = Dd;

    fn from_re(re: Dd) -> Dd {
        re
    }
    fn scale(self, factor: &Dd) -> Dd {
        self * factor
    }
    fn recip(&self) -> Dd {
        self.inv()
    }
    fn powi(&self, n: i32) -> Dd {
        let raised = |mut base: Dd| {
            let (mut power, mut k) = (Dd::one(), n.unsigned_abs());
            while k > 0 {
                if k & 1 == 1 {
                    power *= base;
                }
                base = base * base;
                k >>= 1;
            }
            power
        };
        if n >= 0 {
            return raised(*self);
        }
        // Where the power is out of range its inverse need not be.
        let power = raised(*self);
        if power.hi.is_normal() { power.inv() } else { raised(self.inv()) }
    }
    fn powf(&self, n: f64) -> Dd {
        if n == n.trunc() && n.abs() <= 1024.0 {
            self.powi(n as i32)
        } else {
            (self.ln() * n).exp()
        }
    }
    fn sqrt(&self) -> Dd {
        if !self.is_plain() {
            return self.hi.sqrt().into();
        }
        // One Newton step from the correctly rounded root, of a number near 1 whose low parts are
        // in range; a NaN stays one.
        let e = exponent(self.hi).div_euclid(2);
        let x = self.ldexp(-2 * e);
        let root = x.hi.sqrt();
        let r = x - Dd::from(root) * Dd::from(root);
        Dd::normal(root, r.hi / (2.0 * root)).ldexp(e)
    }
    fn cbrt(&self) -> Dd {
        if !self.is_plain() {
            return self.hi.cbrt().into();
        }
        let e = exponent(self.hi).div_euclid(3);
        let x = self.ldexp(-3 * e);
        let root = Dd::from(x.hi.cbrt());
        (root - (root * root * root - x) / (root * root * 3.0)).ldexp(e)
    }
    fn exp(&self) -> Dd {
        if !(self.hi.abs() < 746.0) {
            return self.hi.exp().into();
        }
        let k = (self.hi / Self::LN_2.hi).round();
        (self.minus_multiple(k, Self::LN_2, LN_2_TAIL).exp_m1_reduced() + 1.0).ldexp(k as i32)
    }
    fn exp2(&self) -> Dd {
        if !(self.hi.abs() < 1076.0) {
            return self.hi.exp2().into();
        }
        let k = self.hi.round();
        (((*self - k) * Self::LN_2).exp_m1() + 1.0).ldexp(k as i32)
    }
    fn exp_m1(&self) -> Dd {
        if self.hi.abs() <= 0.34 { self.exp_m1_reduced() } else { self.exp() - 1.0 }
    }
    fn ln(&self) -> Dd {
        if !self.is_plain() {
            return self.hi.ln().into();
        }
        if (0.8..1.25).contains(&self.hi) {
            return Self::two_atanh((*self - 1.0) / (*self + 1.0));
        }
        // x = m 2^e with m in [1/sqrt 2, sqrt 2), so that the sum cancels nowhere.
        let e = exponent(self.hi);
        let e = e + i32::from(ldexp(self.hi, -e) > std::f64::consts::SQRT_2);
        let m = self.ldexp(-e);
        let y = Dd::from(m.hi.ln());
        (y + (m * (-y).exp() - 1.0)).minus_multiple(f64::from(-e), Self::LN_2, LN_2_TAIL)
    }
    fn log(&self, base: f64) -> Dd {
        self.ln() / Dd::from(base).ln()
    }
    fn log2(&self) -> Dd {
        self.ln() / Self::LN_2
    }
    fn log10(&self) -> Dd {
        self.log(10.0)
    }
    fn ln_1p(&self) -> Dd {
        if self.hi.abs() <= 0.2 {
            Self::two_atanh(*self / (*self + 2.0))
        } else {
            (*self + 1.0).ln()
        }
    }
    fn sin(&self) -> Dd {
        self.sin_cos().0
    }
    fn cos(&self) -> Dd {
        self.sin_cos().1
    }
    fn tan(&self) -> Dd {
        let (s, c) = self.sin_cos();
        s / c
    }
    fn sin_cos(&self) -> (Dd, Dd) {
        if !(self.hi.abs() <= SIN_LIMIT) {
            return (f64::NAN.into(), f64::NAN.into());
        }
        let k = (self.hi / Self::HALF_PI.hi).round();
        let r = self.minus_multiple(k, Self::HALF_PI, HALF_PI_TAIL);
        let (s, c) = Self::sin_cos_reduced(r);
        match k.rem_euclid(4.0) as u8 {
            0 => (s, c),
            1 => (c, -s),
            2 => (-s, -c),
            _ => (-c, s),
        }
    }
    fn asin(&self) -> Dd {
        self.atan2(((Dd::one() - *self) * (*self + 1.0)).sqrt())
    }
    fn acos(&self) -> Dd {
        ((Dd::one() - *self) * (*self + 1.0)).sqrt().atan2(*self)
    }
    fn atan(&self) -> Dd {
        let y = Dd::from(self.hi.atan());
        if !self.is_plain() {
            return y;
        }
        // Newton on sin y - x cos y = 0, whose derivative is cos y + x sin y.
        let (s, c) = y.sin_cos();
        y - (s - *self * c) / (c + *self * s)
    }
    fn atan2(&self, x: Dd) -> Dd {
        let y = Dd::from(self.hi.atan2(x.hi));
        // On the axes, at pi/2 and pi, the step below finds the low part too: acos(0) is as good as
        // its neighbours.
        if !(self.hi.is_finite() && x.hi.is_finite()) || (self.hi, x.hi) == (0.0, 0.0) {
            return y;
        }
        let e = exponent(self.hi.abs().max(x.hi.abs()));
        let (v, x) = (self.ldexp(-e), x.ldexp(-e));
        let (s, c) = y.sin_cos();
        y - (s * x - c * v) / (c * x + s * v)
    }
    fn sinh(&self) -> Dd {
        // On |x|: at x = -10, e^x - 1 is near -1 and e^x would come from a cancelling sum.
        let e = self.abs().exp_m1();
        let y = if self.hi.abs() > 40.0 { self.half_exp_abs() } else { (e + e / (e + 1.0)) * 0.5 };
        if self.is_negative() { -y } else { y }
    }
    fn cosh(&self) -> Dd {
        if self.hi.abs() > 40.0 {
            return self.half_exp_abs();
        }
        let e = self.exp();
        (e + e.inv()) * 0.5
    }
    fn tanh(&self) -> Dd {
        if self.hi.abs() > 40.0 {
            return self.hi.signum().into();
        }
        let e = (self.abs() * 2.0).exp_m1();
        let y = e / (e + 2.0);
        if self.is_negative() { -y } else { y }
    }
    fn asinh(&self) -> Dd {
        let a = self.abs();
        // ln(a + sqrt(a^2 + 1)) through ln_1p, so that a small argument keeps its bits.
        let y = if a.hi > ROOT_IS_X {
            a.ln() + Self::LN_2
        } else {
            (a + a * a / ((a * a + 1.0).sqrt() + 1.0)).ln_1p()
        };
        if self.is_negative() { -y } else { y }
    }
    fn acosh(&self) -> Dd {
        if self.hi > ROOT_IS_X {
            return self.ln() + Self::LN_2;
        }
        // Through ln_1p of the distance from 1, which is exact.
        let t = *self - 1.0;
        (t + (t * (*self + 1.0)).sqrt()).ln_1p()
    }
    fn atanh(&self) -> Dd {
        // On |x|: near -1 the argument of ln_1p would be near -1, where it has lost its bits.
        let a = self.abs();
        let y = (a * 2.0 / (Dd::one() - a)).ln_1p() * 0.5;
        if self.is_negative() { -y } else { y }
    }
    fn sph_j0(&self) -> Dd {
        if self.hi.abs() < 2.0 { self.sph_j_series(0) } else { self.sin() / *self }
    }
    fn sph_j1(&self) -> Dd {
        if self.hi.abs() < 2.0 {
            return self.sph_j_series(1);
        }
        let (s, c) = self.sin_cos();
        (s / *self - c) / *self
    }
    fn sph_j2(&self) -> Dd {
        if self.hi.abs() < 2.0 {
            self.sph_j_series(2)
        } else {
            self.sph_j1() * 3.0 / *self - self.sph_j0()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use astro_float::{BigFloat, Consts, RoundingMode};
    use proptest::prelude::*;

    const P: usize = 256;
    const RM: RoundingMode = RoundingMode::ToEven;

    fn big(x: Dd) -> BigFloat {
        BigFloat::from_f64(x.hi, P).add(&BigFloat::from_f64(x.lo, P), P, RM)
    }

    /// |got / want - 1| in units of 2^-104, by 256-bit arithmetic.
    fn error(got: Dd, want: &BigFloat) -> f64 {
        if want.is_zero() {
            return if got.is_zero() { 0.0 } else { f64::INFINITY };
        }
        let rel = big(got).sub(want, P, RM).div(want, P, RM).abs();
        let text = rel.mul(&BigFloat::from_f64(2f64.powi(104), P), P, RM).to_string();
        text.parse().unwrap_or(f64::NAN)
    }

    fn dd() -> impl Strategy<Value = Dd> {
        (-1.0..1.0f64, -1.0..1.0f64, -30i32..30)
            .prop_map(|(a, b, k)| Dd::normal(a, b * a * 1e-17).ldexp(k))
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(512))]

        #[test]
        fn arithmetic_has_106_bits(a in dd(), b in dd()) {
            let (x, y) = (big(a), big(b));
            prop_assert!(error(a * b, &x.mul(&y, P, RM)) <= 8.0);
            prop_assert!(error(a / b, &x.div(&y, P, RM)) <= 8.0);
            prop_assert!(error(a + b, &x.add(&y, P, RM)) <= 8.0);
            prop_assert!(error(a.abs().sqrt(), &x.abs().sqrt(P, RM)) <= 8.0);
        }

        #[test]
        fn functions_have_100_bits(a in -20.0..20.0f64, tiny in -60i32..0) {
            let mut cc = Consts::new().unwrap();
            // Both moderate arguments and ones near the functions' zeros, where only the relative
            // error tells.
            for x in [Dd::from(a), Dd::from(a).ldexp(tiny)] {
                let b = big(x);
                let one = BigFloat::from_f64(1.0, P);
                prop_assert!(error(x.exp(), &b.exp(P, RM, &mut cc)) <= 64.0, "exp {x}");
                let wide = 2 * P;
                let em1 = b.exp(wide, RM, &mut cc).sub(&one, wide, RM);
                prop_assert!(error(x.exp_m1(), &em1) <= 64.0, "exp_m1 {x}");
                prop_assert!(error(x.sin(), &b.sin(P, RM, &mut cc)) <= 64.0, "sin {x}");
                prop_assert!(error(x.cos(), &b.cos(P, RM, &mut cc)) <= 64.0, "cos {x}");
                prop_assert!(error(x.atan(), &b.atan(P, RM, &mut cc)) <= 64.0, "atan {x}");
                prop_assert!(error(x.tanh(), &b.tanh(P, RM, &mut cc)) <= 128.0, "tanh {x}");
                prop_assert!(error(x.sinh(), &b.sinh(P, RM, &mut cc)) <= 128.0, "sinh {x}");
                prop_assert!(error(x.asinh(), &b.asinh(P, RM, &mut cc)) <= 128.0, "asinh {x}");
                let p = x.abs();
                prop_assert!(error(p.ln_1p(), &big(p).add(&one, wide, RM).ln(wide, RM, &mut cc)) <= 64.0, "ln_1p {x}");
                prop_assert!(error(p.cbrt(), &big(p).cbrt(P, RM)) <= 64.0, "cbrt {x}");
                if !p.is_zero() {
                    prop_assert!(error(p.ln(), &big(p).ln(wide, RM, &mut cc)) <= 64.0, "ln {x}");
                }
            }
        }
    }

    #[test]
    fn sine_and_cosine_keep_relative_accuracy_at_their_zeros() {
        let mut cc = Consts::new().unwrap();
        for k in [1.0, 2.0, 3.0, 7.0] {
            let x = Dd::HALF_PI * Dd::from(k);
            let (s, c) = x.sin_cos();
            let small = if s.abs() < c.abs() { s } else { c };
            let b = big(x);
            let want = if s.abs() < c.abs() {
                b.sin(2 * P, RM, &mut cc)
            } else {
                b.cos(2 * P, RM, &mut cc)
            };
            // The argument itself is known to 2^-106, its distance from the zero only to the tail's
            // 53 bits.
            assert!(error(small, &want) <= 2f64.powi(54), "k = {k}: {small}");
        }
    }

    #[test]
    fn decimals_keep_their_digits() {
        let third: Dd = "3.33333333333333333333333333333333e-1".parse().unwrap();
        assert!((third * 3.0 - 1.0).hi().abs() <= 1e-30);
        assert_eq!("-1.5e3".parse::<Dd>().unwrap().hi(), -1500.0);
        assert_eq!(
            "1.23456789012345678901234567890e-294".parse::<Dd>().unwrap().hi(),
            1.2345678901234568e-294
        );
        assert_eq!("inf".parse::<Dd>().unwrap().hi(), f64::INFINITY);
        // Long mantissas with the power that makes up for them.
        let zeros = "0".repeat(310);
        for text in [
            format!("1{zeros}e-10"),
            format!("1{zeros}.000e-10"),
            format!("0.{zeros}1e611"),
            format!("1.{zeros}{zeros}e300"),
        ] {
            let (got, want) = (text.parse::<Dd>().unwrap(), "1e300".parse::<Dd>().unwrap());
            assert!((got / want - 1.0).abs().hi() <= 1e-28, "{got}");
        }
        let (digits, cut) = (
            "123456789".repeat(40),
            "1.23456789123456789123456789123456789123".parse::<Dd>().unwrap(),
        );
        assert!((format!("{digits}e-359").parse::<Dd>().unwrap() / cut - 1.0).abs().hi() <= 1e-28);
        assert_eq!("5e-324".parse::<Dd>().unwrap().hi(), 5e-324);
        assert!((Dd::from_shortest_decimal(0.008) * 125.0 - 1.0).hi().abs() <= 1e-31);
        assert!("1.2.3".parse::<Dd>().is_err());
    }

    #[test]
    fn inverse_functions_invert() {
        for i in 1..50 {
            let x = Dd::from(i as f64 / 50.0);
            for (name, y) in [
                ("asin", x.asin().sin()),
                ("acos", x.acos().cos()),
                ("atanh", x.atanh().tanh()),
                ("acosh", (x + 1.0).acosh().cosh() - 1.0),
            ] {
                assert!(((y - x) / x).abs().hi <= 1e-28, "{name}({x}): {y}");
            }
        }
    }

    #[test]
    fn ends_of_the_range() {
        for x in [1.1e15, 8.1e16, f64::MAX, f64::INFINITY] {
            assert!(
                Dd::from(x).sin().hi.is_nan()
                    && Dd::from(-x).cos().hi.is_nan()
                    && Dd::from(x).tan().hi.is_nan()
            );
        }
        let close =
            |got: Dd, want: Dd| assert!((got / want - 1.0).abs().hi <= 1e-28, "{got} {want}");
        let max = Dd::from(f64::MAX);
        close(max / Dd::from(3.0) * 2.0, max / Dd::from(1.5));
        close((max.sqrt() * 2f64.powi(-512)).powi(2), Dd::sum_of(1.0, -2f64.powi(-53)));
        close(max.cbrt().ln() * 3.0, max.ln());
        // Of 1e-310 an f64 holds 45 bits, and the double-double number no more.
        assert!((Dd::from(10.0).powi(-310).hi / 1e-310 - 1.0).abs() <= 1e-13);
        close(Dd::from(5e-324).ln(), Dd::LN_2 * -1074.0);
        close(Dd::from(5e-324).sqrt(), Dd::from(2.0).powi(-537));
        close(Dd::from(1e300).atan2(Dd::from(1e300)), Dd::HALF_PI * 0.5);
        close(Dd::from(f64::MAX).atan2(Dd::from(-f64::MAX)), Dd::HALF_PI * 1.5);
        close(Dd::from(1e-320).atan2(Dd::from(1e-320)), Dd::HALF_PI * 0.5);
        assert_eq!(
            (Dd::one().atanh().hi, (-Dd::one()).atanh().hi),
            (f64::INFINITY, f64::NEG_INFINITY)
        );
        assert!(Dd::from(2.0).atanh().hi.is_nan() && Dd::from(0.5).acosh().hi.is_nan());
    }

    #[test]
    fn infinities_behave_as_in_f64() {
        let zero = Dd::zero();
        assert_eq!((Dd::one() / zero).hi, f64::INFINITY);
        assert_eq!(zero.ln().hi, f64::NEG_INFINITY);
        assert!((zero / zero).hi.is_nan());
        assert_eq!(Dd::from(1e4).exp().hi, f64::INFINITY);
        assert_eq!((Dd::one() / Dd::from(f64::INFINITY)).hi, 0.0);
        assert_eq!((Dd::from(f64::INFINITY) + 1.0).hi, f64::INFINITY);
    }

    proptest! {
        /// Where the high parts cancel the sum of the low ones is all that is left, and exact.
        #[test]
        fn cancelling_sums_are_exact(hi in -1.0..1.0f64, a in -1.0..1.0f64, b in -1e-3..1e-3f64) {
            let (a, b) = (a * 2f64.powi(-55), b * 2f64.powi(-55));
            prop_assert_eq!(Dd { hi, lo: a } + Dd { hi: -hi, lo: b }, Dd::sum_of(a, b));
        }

        #[test]
        fn other_functions_have_100_bits(x in 0.01..30.0f64, y in -30.0..30.0f64) {
            let mut cc = Consts::new().unwrap();
            let wide = 4 * P;
            let (a, b) = (Dd::from(x), BigFloat::from_f64(x, P));
            let ln = |x: &BigFloat, cc: &mut Consts| x.ln(wide, RM, cc);
            let (log, two, ten) = (ln(&b, &mut cc), ln(&BigFloat::from_f64(2.0, P), &mut cc), ln(&BigFloat::from_f64(10.0, P), &mut cc));
            // A logarithm near 1 keeps its relative accuracy, a power multiplies its error by the
            // exponent y ln x up to 100.
            prop_assert!(error(a.log2(), &log.div(&two, wide, RM)) <= 128.0);
            prop_assert!(error(a.log10(), &log.div(&ten, wide, RM)) <= 128.0);
            let power = log.mul(&BigFloat::from_f64(y, P), wide, RM).exp(wide, RM, &mut cc);
            prop_assert!(error(a.powf(y), &power) <= 128.0 * (1.0 + (y * x.ln()).abs()), "{x} ^ {y}");
            let power = two.mul(&BigFloat::from_f64(y, P), wide, RM).exp(wide, RM, &mut cc);
            prop_assert!(error(Dd::from(y).exp2(), &power) <= 128.0 * (1.0 + y.abs()), "2 ^ {y}");
            let (sin, cos) = (b.sin(wide, RM, &mut cc), b.cos(wide, RM, &mut cc));
            prop_assert!(error(a.tan(), &sin.div(&cos, wide, RM)) <= 256.0, "tan {x}");
            // j_n vanishes at places that only the reduced argument knows: absolute accuracy there,
            // against 1/x.
            let q = sin.div(&b, wide, RM);
            let j1 = q.sub(&cos, wide, RM).div(&b, wide, RM);
            let j2 = j1.mul(&BigFloat::from_f64(3.0, P), wide, RM).div(&b, wide, RM).sub(&q, wide, RM);
            for (n, got, want) in [(0, a.sph_j0(), q), (1, a.sph_j1(), j1), (2, a.sph_j2(), j2)] {
                let gap = big(got).sub(&want, wide, RM).to_string().parse::<f64>().unwrap().abs();
                let size = if x < 2.0 { got.hi.abs() } else { 1.0 / x };
                prop_assert!(gap <= 256.0 * 2f64.powi(-104) * size, "j{n}({x}): {gap:e}");
            }
        }

        /// On a circle of any radius, all the way round, the axes among them.
        #[test]
        fn the_angle_of_a_point(angle in -3.1..3.1f64, quarter in prop::option::of(-1i32..=2), radius in 0.1..10.0f64) {
            let exact = quarter.map_or(Dd::from(angle), |q| Dd::HALF_PI * f64::from(q));
            let (s, c) = match quarter {
                Some(q) => ([-1.0, 0.0, 1.0, 0.0][(q + 1) as usize].into(), [0.0, 1.0, 0.0, -1.0][(q + 1) as usize].into()),
                None => exact.sin_cos(),
            };
            prop_assert!((Dd::atan2(&(s * radius), c * radius) - exact).abs().hi <= 64.0 * 2f64.powi(-104));
        }
    }

    #[test]
    fn small_pieces() {
        let x = Dd::sum_of(7.0, 2f64.powi(-60));
        assert_eq!(
            (x % Dd::from(2.0), -x % 2.0),
            (Dd::sum_of(1.0, 2f64.powi(-60)), Dd::sum_of(-1.0, -2f64.powi(-60)))
        );
        assert!(x != 7.0 && Dd::from(7.0) == 7.0 && x > 7.0 && Dd::from(7.0) < 7.5 && x < 7.5);
        assert_eq!(Dd::from(-1.5).to_string(), "-1.5e0+0e0");
        assert!(Dd::zero().is_zero() && !x.is_zero());
        assert!(x.is_positive() && !Dd::zero().is_positive() && !(-x).is_positive());
        assert!((-x).is_negative() && !Dd::zero().is_negative() && !x.is_negative());
        assert_eq!(
            (x.abs_sub(&Dd::one()), Dd::one().abs_sub(&x), x.abs_sub(&x)),
            (x - 1.0, Dd::zero(), Dd::zero())
        );
        assert_eq!(x.scale(&Dd::from(4.0)), Dd::sum_of(28.0, 2f64.powi(-58)));
        // j_n(x) = x^n / (2n + 1)!! (1 - x^2 / (4n + 6) + ...), where sine and cosine would cancel.
        let y = Dd::from(1e-8);
        let (y2, one) = (y * y, Dd::one());
        for (got, want) in [
            (y.sph_j0(), one - y2 / 6.0),
            (y.sph_j1(), y / 3.0 * (one - y2 / 10.0)),
            (y.sph_j2(), y2 / 15.0 * (one - y2 / 14.0)),
        ] {
            assert!((got / want - 1.0).abs().hi <= 1e-30);
        }
        assert_eq!(
            [Dd::zero().sph_j0(), Dd::zero().sph_j1(), Dd::zero().sph_j2()],
            [one, Dd::zero(), Dd::zero()]
        );
        // Integers beyond 53 bits are exact.
        assert_eq!(Dd::from_i64(i64::MIN + 1), Some(Dd::sum_of(i64::MIN as f64, 1.0)));
        assert_eq!(Dd::from_u64(u64::MAX), Some(Dd::sum_of(u64::MAX as f64, -1.0)));
        assert_eq!(Dd::from_f64(0.1), Some(Dd::from(0.1)));
        // In base 10 all digits are read, in another one what fits a double.
        assert_eq!(Dd::from_str_radix("0.1", 10).unwrap(), "0.1".parse::<Dd>().unwrap());
        assert_eq!(Dd::from_str_radix("11", 2).unwrap(), Dd::from(3.0));
        // Leading zeros: neither half of 10^-251 may come near the ends of the range.
        let text = format!("0.{}1e-50", "0".repeat(200));
        assert!((text.parse::<Dd>().unwrap().hi / 1e-251 - 1.0).abs() <= 4.0 * f64::EPSILON);
    }

    #[test]
    fn powers_and_inverses_keep_their_signs() {
        let [two, three] = [2.0, 3.0].map(Dd::from);
        assert_eq!(
            ((-two).powf(3.0), (-two).powi(-1), two.powi(0)),
            (Dd::from(-8.0), Dd::from(-0.5), Dd::one())
        );
        assert!((two.log(8.0) * 3.0 - 1.0).abs().hi <= 1e-30);
        // cosh is even: which of its two inverses is returned shows in the sign.
        assert!(((three.acosh() - (three * three - 1.0).sqrt().asinh()) / three).abs().hi <= 1e-30);
        assert_eq!(Dd::from(1000.0).tanh(), Dd::one());
        assert_eq!(Dd::from(745.0).exp(), Dd::from(f64::INFINITY));
        assert!((-two).sqrt().hi.is_nan() && (-two).ln().hi.is_nan());
        assert_eq!(Dd::from(f64::INFINITY).atan2(three).hi, std::f64::consts::FRAC_PI_2);
        assert_eq!(three.atan2(f64::INFINITY.into()), Dd::zero());
        assert_eq!(Dd::zero().atan2(Dd::zero()), Dd::zero());
    }

    #[test]
    fn hyperbolic_functions_reach_as_far_as_their_values() {
        // e^x / 2 is in range where e^x is not; 2 a where a^2 is not.
        for x in [710.0, 710.4, -710.0] {
            let want = (Dd::from(f64::abs(x)) - Dd::LN_2).exp() * f64::signum(x);
            assert!(((Dd::from(x).sinh() - want) / want).hi().abs() <= 1e-29, "{x}");
        }
        for x in [1e200, 1e300, -1e200] {
            let want = (Dd::from(f64::abs(x)).ln() + Dd::LN_2) * f64::signum(x);
            assert!(((Dd::from(x).asinh() - want) / want).hi().abs() <= 1e-30, "{x}");
        }
    }
}
