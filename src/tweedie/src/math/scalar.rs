//! What a closed form needs of a number, so that one formula serves `f64`, double-double and dual
//! numbers.

use num_dual::DualNum;

/// Any real number type over `f64`: `f64` itself, [`Dd`](crate::math::dd::Dd), and num-dual's dual
/// numbers over either.
///
/// A formula written once over `Scalar` is evaluated in plain precision, in 106 bits (then rounded
/// once), and with exact derivatives: `Dual<Dd>` gives a rate in 106 bits without a derivative
/// written by hand.
pub trait Scalar: DualNum<Primitive = f64> + Copy {}
impl<T: DualNum<Primitive = f64> + Copy> Scalar for T {}

/// The e with `2^e <= |x| < 2^(e+1)`; 0 for zero, infinities and NaN.
///
/// Squares and products of numbers divided by such powers stay within range, and lose no bit where
/// they did before.
#[inline]
pub fn exponent(x: f64) -> i32 {
    // A subnormal number is lifted into the normal range first.
    let (x, lift) = if x.is_subnormal() { (x * 2f64.powi(64), 64) } else { (x, 0) };
    if x == 0.0 || !x.is_finite() { 0 } else { ((x.to_bits() >> 52) & 0x7ff) as i32 - 1023 - lift }
}

/// `x 2^e`: exact where the result is a normal number.
#[inline]
pub fn ldexp<S: Scalar>(mut x: S, mut e: i32) -> S {
    // 2^e itself may be out of range where the product is not.
    for _ in 0..2 {
        if (-1022..=1023).contains(&e) {
            break;
        }
        let step = e.clamp(-1022, 1023);
        x *= power_of_two(step);
        e -= step;
    }
    x * power_of_two(e.clamp(-1022, 1023))
}

/// `2^e` for e of -1022 to 1023.
fn power_of_two(e: i32) -> f64 {
    f64::from_bits(((e + 1023) as u64) << 52)
}

/// `sqrt(a^2 + b^2)`, also where a square is out of range.
pub fn hypot<S: Scalar>(a: S, b: S) -> S {
    let e = exponent(a.re().abs().max(b.re().abs()));
    let (x, y) = (ldexp(a, -e), ldexp(b, -e));
    ldexp((x * x + y * y).sqrt(), e)
}

/// `ln(a/b)`, also where the quotient is out of range.
pub fn ln_ratio<S: Scalar>(a: S, b: S) -> S {
    let ratio = a / b;
    if ratio.re().is_normal() { ratio.ln() } else { a.ln() - b.ln() }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::dd::Dd;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn numbers_split_into_a_part_of_the_order_of_one_and_a_power(m in 1.0..2.0f64, e in -1074..1024i32) {
            let x = ldexp(m, e);
            // A subnormal number may have been rounded up to the next power.
            prop_assert!(exponent(x) == e || (!x.is_normal() && exponent(x) == e + 1));
            prop_assert!(!x.is_normal() || (ldexp(x, -e) == m && ldexp(ldexp(x, -e), e) == x));
        }

        /// Right angles: 3, 4 and 5 of any unit.
        #[test]
        fn hypotenuses_of_any_size(e in -1060..1020i32) {
            let [a, b, c] = [3.0, 4.0, 5.0].map(|x| ldexp(x, e));
            prop_assert_eq!(hypot(a, b), c);
            prop_assert_eq!(hypot(-b, a), c);
            let e = e.max(-1020);
            let want = 2.0 * f64::from(e) * std::f64::consts::LN_2;
            prop_assert!((ln_ratio(ldexp(1.0, e), ldexp(1.0, -e)) - want).abs() <= 2.0 * f64::EPSILON * want.abs());
        }
    }

    #[test]
    fn ends() {
        let inf = f64::INFINITY;
        assert_eq!([0.0, -0.0, inf, -inf, f64::NAN].map(exponent), [0; 5]);
        assert_eq!((exponent(5e-324), exponent(f64::MAX), exponent(-1.5)), (-1074, 1023, 0));
        assert_eq!((ldexp(1.0, 3000), ldexp(1.0, -3000), ldexp(1.5, -1074)), (inf, 0.0, 1e-323));
        assert_eq!((ldexp(5e-324, 2097), ldexp(f64::MAX, -2097)), (2f64.powi(1023), 1e-323));
        assert_eq!((hypot(0.0, 0.0), hypot(inf, 1.0), hypot(1e200, 1e-200)), (0.0, inf, 1e200));
        assert!(hypot(f64::NAN, 1.0).is_nan());
        assert_eq!((ln_ratio(0.0, 1.0), ln_ratio(1.0, 0.0)), (-inf, inf));
        assert_eq!(ldexp(Dd::sum_of(1.0, 1e-20), 3), Dd::sum_of(8.0, 8e-20));
    }
}
