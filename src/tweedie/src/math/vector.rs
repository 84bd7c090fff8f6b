//! Hot loops over slices: the softmax's exponential and squared distances, the same bits on every
//! processor and thread count.
//!
//! Each loop is written once with fused multiply-adds in a fixed order and compiled twice, for any
//! processor and for those with AVX2 and FMA; a fused multiply-add is exactly rounded everywhere,
//! so both give the same bits and only the speed differs.

use crate::math::dd::Dd;

/// Sums run in this many lanes, added pairwise at the end.
const LANES: usize = 8;

/// Compiles a loop for AVX2 too and picks at run time.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident($($arg:ident: $type:ty),*) -> $out:ty, $loop:ident) => {
        $(#[$doc])*
        pub fn $name($($arg: $type),*) -> $out {
            #[cfg(target_arch = "x86_64")]
            {
                #[target_feature(enable = "avx2,fma")]
                fn fast($($arg: $type),*) -> $out {
                    $loop($($arg),*)
                }
                if std::arch::is_x86_feature_detected!("avx2") && std::arch::is_x86_feature_detected!("fma") {
                    // SAFETY: the processor has what the function was compiled for.
                    return unsafe { fast($($arg),*) };
                }
            }
            $loop($($arg),*)
        }
    };
}

dispatch! {
    /// Replaces each value by `exp(value - shift)` and returns the sum; every `exp` is within 1 ulp
    /// of the platform's.
    ///
    /// Exponents above 709 give infinity, exponents below -708 give 0: gradual underflow would cost
    /// time for weights that no sum notices.
    ///
    /// # Example
    /// ```
    /// let mut weights = [1.0, 2.0, f64::NEG_INFINITY];
    /// let sum = tweedie::math::vector::exp_shifted(&mut weights, 2.0);
    /// assert_eq!((weights[1], weights[2]), (1.0, 0.0));
    /// assert_eq!(sum, weights[0] + 1.0);
    /// ```
    exp_shifted(values: &mut [f64], shift: f64) -> f64, exp_shifted_loop
}

dispatch! {
    /// `|x - scale y|^2`, each difference rounded once: near zero it keeps the digits that
    /// `|x|^2 - 2 scale x.y + scale^2 |y|^2` loses.
    ///
    /// # Shapes
    /// `x` and `y` of one length.
    ///
    /// # Example
    /// ```
    /// assert_eq!(tweedie::math::vector::distance_squared(&[3.0, 4.0], 1.0, &[0.0, 0.0]), 25.0);
    /// ```
    distance_squared(x: &[f64], scale: f64, y: &[f64]) -> f64, distance_squared_loop
}

dispatch! {
    /// `|x - scale y|^2` to about 106 bits: what is left of two distances that nearly agree.
    ///
    /// # Shapes
    /// `x` and `y` of one length.
    ///
    /// # Example
    /// ```
    /// use tweedie::math::vector::distance_squared_unrounded;
    /// // (1 + 2^-40)^2 less 1 is 2^-39 + 2^-80, whose second part no f64 beside 1 can hold.
    /// let far = distance_squared_unrounded(&[1.0 + 2f64.powi(-40)], 1.0, &[0.0]);
    /// assert_eq!((far - 1.0).hi(), 2f64.powi(-39) + 2f64.powi(-80));
    /// ```
    distance_squared_unrounded(x: &[f64], scale: f64, y: &[f64]) -> Dd, distance_squared_unrounded_loop
}

dispatch! {
    /// Adds `shift` to `values` and returns the largest, `-inf` if there is none; NaN is never the
    /// largest.
    ///
    /// # Shapes
    /// `values` and `shift` of one length.
    add_and_max(values: &mut [f64], shift: &[f64]) -> f64, add_and_max_loop
}

#[inline(always)]
fn sum_lanes(s: [f64; LANES]) -> f64 {
    ((s[0] + s[4]) + (s[2] + s[6])) + ((s[1] + s[5]) + (s[3] + s[7]))
}

#[inline(always)]
fn exp_shifted_loop(values: &mut [f64], shift: f64) -> f64 {
    let mut sums = [0.0; LANES];
    let (chunks, rest) = values.as_chunks_mut::<LANES>();
    for chunk in chunks {
        for (v, s) in chunk.iter_mut().zip(&mut sums) {
            *v = exp(*v - shift);
            *s += *v;
        }
    }
    for (v, s) in rest.iter_mut().zip(&mut sums) {
        *v = exp(*v - shift);
        *s += *v;
    }
    sum_lanes(sums)
}

#[inline(always)]
fn distance_squared_loop(x: &[f64], scale: f64, y: &[f64]) -> f64 {
    let mut sums = [0.0; LANES];
    let ((x_chunks, x_rest), (y_chunks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for ((x, y), s) in x.iter().zip(y).zip(&mut sums) {
            let z = (-scale).mul_add(*y, *x);
            *s = z.mul_add(z, *s);
        }
    }
    for ((x, y), s) in x_rest.iter().zip(y_rest).zip(&mut sums) {
        let z = (-scale).mul_add(*y, *x);
        *s = z.mul_add(z, *s);
    }
    sum_lanes(sums)
}

#[inline(always)]
fn distance_squared_unrounded_loop(x: &[f64], scale: f64, y: &[f64]) -> Dd {
    let (mut sums, mut rests) = ([0.0; LANES], [0.0; LANES]);
    // Products and sums with their rounding errors (Dekker, Knuth; Ogita, Rump and Oishi's `Dot2`).
    let add = |x: f64, y: f64, sum: &mut f64, rest: &mut f64| {
        let product = scale * y;
        let rounded = x - product;
        let back = rounded - x;
        let error = (x - (rounded - back)) - (product + back) - scale.mul_add(y, -product);
        let z = rounded + error;
        let z_rest = error - (z - rounded);
        let square = z * z;
        let total = *sum + square;
        let back = total - *sum;
        *rest +=
            (*sum - (total - back)) + (square - back) + z.mul_add(z, -square) + 2.0 * z * z_rest;
        *sum = total;
    };
    let ((x_chunks, x_rest), (y_chunks, y_rest)) = (x.as_chunks::<LANES>(), y.as_chunks::<LANES>());
    for (x, y) in x_chunks.iter().zip(y_chunks) {
        for (((x, y), sum), rest) in x.iter().zip(y).zip(&mut sums).zip(&mut rests) {
            add(*x, *y, sum, rest);
        }
    }
    for (((x, y), sum), rest) in x_rest.iter().zip(y_rest).zip(&mut sums).zip(&mut rests) {
        add(*x, *y, sum, rest);
    }
    sums.iter().zip(&rests).map(|(sum, rest)| Dd::sum_of(*sum, *rest)).sum()
}

#[inline(always)]
fn add_and_max_loop(values: &mut [f64], shift: &[f64]) -> f64 {
    let mut largest = [f64::NEG_INFINITY; LANES];
    let ((chunks, rest), (shift_chunks, shift_rest)) =
        (values.as_chunks_mut::<LANES>(), shift.as_chunks::<LANES>());
    for (v, s) in chunks.iter_mut().zip(shift_chunks) {
        for ((v, s), m) in v.iter_mut().zip(s).zip(&mut largest) {
            *v += s;
            *m = if *v > *m { *v } else { *m };
        }
    }
    for ((v, s), m) in rest.iter_mut().zip(shift_rest).zip(&mut largest) {
        *v += s;
        *m = if *v > *m { *v } else { *m };
    }
    largest.into_iter().fold(f64::NEG_INFINITY, f64::max)
}

/// `exp(x) = 2^k exp(r)` with `|r| <= ln 2 / 2`, and the Taylor series to r^13, whose remainder is
/// below 5e-18.
#[inline(always)]
fn exp(x: f64) -> f64 {
    /// 1.5 * 2^52: adding it leaves the nearest integer in the low bits.
    const ROUND: f64 = 6_755_399_441_055_744.0;
    const LN_2_HI: f64 = std::f64::consts::LN_2;
    const LN_2_LO: f64 = 2.319_046_813_846_299_6e-17;
    /// 1 / n! for n = 2..=13.
    const C: [f64; 12] = {
        let (mut c, mut factorial, mut n) = ([0.0; 12], 1.0, 2);
        while n < 14 {
            factorial *= n as f64;
            c[n - 2] = 1.0 / factorial;
            n += 1;
        }
        c
    };
    let shifted = x.mul_add(std::f64::consts::LOG2_E, ROUND);
    let k = shifted - ROUND;
    // Fused, the first product needs no spare bits in LN_2_HI.
    let r = (-k).mul_add(LN_2_LO, (-k).mul_add(LN_2_HI, x));
    // Estrin's order: half as deep as Horner's, and the small terms still come first.
    let (r2, r4) = (r * r, (r * r) * (r * r));
    let pair = |i: usize| C[i + 1].mul_add(r, C[i]);
    let low = pair(2).mul_add(r2, pair(0));
    let middle = pair(6).mul_add(r2, pair(4));
    let high = pair(10).mul_add(r2, pair(8));
    let q = high.mul_add(r4, middle).mul_add(r4, low);
    let exp_r = 1.0 + q.mul_add(r2, r);
    // The exponent field of 2^k; bits above it are shifted out.
    let power = f64::from_bits((shifted.to_bits().wrapping_add(1023)) << 52);
    if x < -708.0 {
        0.0
    } else if x > 709.0 {
        // Above the largest shifted exponent, 0, by far; never reached by a softmax.
        f64::INFINITY
    } else {
        exp_r * power
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::larger;
    use proptest::prelude::*;

    fn ulps(a: f64, b: f64) -> u64 {
        a.to_bits().abs_diff(b.to_bits())
    }

    #[test]
    fn exp_is_within_one_ulp_of_the_platform_s() {
        let mut x: Vec<f64> =
            (0..=2_000_000).map(|i| -708.0 + i as f64 * (1417.0 / 2_000_000.0)).collect();
        x.extend((-400..0).flat_map(|e| [2f64.powi(e), -2f64.powi(e)]));
        let mut y = x.clone();
        exp_shifted(&mut y, 0.0);
        let worst = x.iter().zip(&y).map(|(x, y)| ulps(*y, x.exp())).max().unwrap();
        assert!(worst <= 1, "{worst}");
    }

    #[test]
    fn exp_at_the_ends() {
        let mut y = [0.0, f64::NEG_INFINITY, -1e300, -708.1, f64::NAN, 1e3, -0.0, 1.0, 2.0];
        let sum = exp_shifted(&mut y, 0.0);
        assert_eq!(y[..4], [1.0, 0.0, 0.0, 0.0]);
        assert!(y[4].is_nan() && sum.is_nan());
        assert_eq!(y[5..7], [f64::INFINITY, 1.0]);
        assert_eq!(exp_shifted(&mut [], 0.0), 0.0);
    }

    proptest! {
        /// Both compilations of each loop give the same bits.
        #[test]
        fn dispatch_changes_no_bit(v in prop::collection::vec(-50.0..5.0f64, 0..70), shift in -2.0..2.0f64) {
            let (mut a, mut b) = (v.clone(), v.clone());
            prop_assert_eq!(exp_shifted(&mut a, shift).to_bits(), exp_shifted_loop(&mut b, shift).to_bits());
            prop_assert_eq!(&a, &b);
            let want: f64 = v.iter().map(|v| (v - shift).exp()).sum();
            prop_assert!((a.iter().sum::<f64>() - want).abs() <= 2.0 * v.len() as f64 * f64::EPSILON * want);
            prop_assert_eq!(distance_squared(&v, shift, &a).to_bits(), distance_squared_loop(&v, shift, &a).to_bits());
            let want: f64 = v.iter().zip(&a).map(|(x, y)| (x - shift * y).powi(2)).sum();
            prop_assert!((distance_squared(&v, shift, &a) - want).abs() <= 4.0 * (v.len() as f64 + 1.0) * f64::EPSILON * (want + v.len() as f64));
            let (mut c, mut d) = (v.clone(), v.clone());
            prop_assert_eq!(add_and_max(&mut c, &a), add_and_max_loop(&mut d, &a));
            prop_assert_eq!(add_and_max(&mut c, &a), c.iter().copied().fold(f64::NEG_INFINITY, larger));
        }
    }

    proptest! {
        /// Second route: the sum in double-double numbers, also where x and scale y cancel.
        #[test]
        fn unrounded_distances_have_106_bits(
            y in prop::collection::vec(-5.0..5.0f64, 1..40), scale in -2.0..2.0f64, off in -80i32..2,
            seed: u64,
        ) {
            let noise = crate::math::noise::Noise::new(seed);
            let x: Vec<f64> = y.iter().enumerate()
                .map(|(i, y)| scale * y + 2f64.powi(off) * noise.normal(0, i as u64)).collect();
            let want: Dd = x.iter().zip(&y).map(|(x, y)| {
                let z = Dd::from(*x) - Dd::from(scale) * *y;
                z * z
            }).sum();
            let got = distance_squared_unrounded(&x, scale, &y);
            let error = ((got - want) / want).hi().abs();
            prop_assert!(error <= (x.len() + 8) as f64 * 2f64.powi(-102), "{error:e}");
        }
    }
}
