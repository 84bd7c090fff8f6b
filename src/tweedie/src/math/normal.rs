//! The standard normal's distribution function and the mass of an interval, in the log domain, to a
//! few ulp everywhere.

use crate::math::dd::Dd;
use crate::math::quadrature::IntervalRule;
use std::f64::consts::FRAC_1_SQRT_2;
use std::sync::LazyLock;

/// `ln sqrt(2 pi)`.
pub const LN_SQRT_TAU: f64 = 0.918_938_533_204_672_7;

/// `ln Phi(x)`, for any x and both infinities.
///
/// # Example
/// ```
/// use tweedie::math::normal::log_cdf;
/// assert_eq!(log_cdf(0.0), 0.5f64.ln());
/// // The naive ln(Phi(x)) gives -inf below -38.6 and 0 above 8.3.
/// assert!((log_cdf(-60.0) + 1805.0135606805671).abs() < 1e-12);
/// assert!((log_cdf(10.0) + 7.619853024160527e-24).abs() < 1e-38);
/// ```
pub fn log_cdf(x: f64) -> f64 {
    log_cdf_difference(f64::NEG_INFINITY, x)
}

/// `ln(Phi(b) - Phi(a))`, the log mass of the interval [a, b]; either end may be infinite.
///
/// `-inf` for an empty interval (a = b), NaN for a > b. At most 8 ulp from the exact value for the
/// `f64` ends given, from bins of width 1e-300 to the whole line, and symmetric to the bit:
/// `(-b, -a)` gives the same as `(a, b)`.
///
/// # Formula
/// With `Q = 1 - Phi`, `phi` the density, `m = (a + b)/2 >= 0` (else mirrored), `h = (b - a)/2`:
/// - most of the mass inside: `ln_1p(-(Q(b) + Q(-a)))`;
/// - on both sides of 0, or nearly: `ln((erf(b/sqrt 2) - erf(a/sqrt 2))/2)`, a sum of two positive
///   terms or one with little cancellation;
/// - `a >= 0`, `Q(b)` well below `Q(a)`: `ln(Q(a) - Q(b))`; far out
///   `-a^2/2 - ln sqrt(2 pi) + ln(M(a) - e^(-2 m h) M(b))` with Mills' ratio `M = Q/phi`;
/// - `a > 0`, a narrow bin, where every difference cancels (at a = 4, width 1e-6: 11 of 16 digits):
///   `ln phi(m) + ln(2 h int_0^1 cosh(m h s) e^(-h^2 s^2/2) ds)`, a positive integrand over which
///   ten Gauss-Legendre nodes are exact.
///
/// # Example
/// ```
/// use tweedie::math::normal::log_cdf_difference;
/// assert!((log_cdf_difference(-1.0, 1.0) - 0.6826894921370859f64.ln()).abs() < 1e-15);
/// assert_eq!(log_cdf_difference(4.0, 4.001), log_cdf_difference(-4.001, -4.0));
/// ```
pub fn log_cdf_difference(a: f64, b: f64) -> f64 {
    if a == b {
        f64::NEG_INFINITY
    } else {
        log_mass(a.into(), b.into(), Dd::sum_of(a, b) * 0.5, 0.5 * (b - a))
    }
}

/// `ln(Phi(centre + half_width) - Phi(centre - half_width))`, the log mass of a bin given by its
/// middle.
///
/// For a bin that is narrow against its distance from 0 this is better posed than its two ends:
/// after `a = (edge - mean)/std` the width `b - a` has lost digits that `half_width` still has
/// (mean 0, std 1, a bin of width 2/255 at 1: two digits of sixteen).
pub fn log_bin_mass(centre: f64, half_width: f64) -> f64 {
    log_mass(
        Dd::sum_of(centre, -half_width),
        Dd::sum_of(centre, half_width),
        centre.into(),
        half_width,
    )
}

/// `ln(Phi(b) - Phi(a))` with the middle and the half width beside the ends.
///
/// Ends and middle in double-double: far out a mass changes by `x` for each unit of an end x, so
/// that half an ulp of x is `x^2/2` ulp of a mass, 70 at x = 12.
pub(crate) fn log_mass(a: Dd, b: Dd, centre: Dd, half_width: f64) -> f64 {
    if half_width == 0.0 {
        return f64::NEG_INFINITY;
    }
    if half_width < 0.0 {
        return f64::NAN;
    }
    let (a, b, m, h) =
        if centre < 0.0 { (-b, -a, -centre, half_width) } else { (a, b, centre, half_width) };
    if a < 0.0 {
        let outside = upper_tail(b) + upper_tail(-a);
        return if outside <= 0.5 {
            (-outside).ln_1p()
        } else {
            log_erf_difference(a.hi(), b.hi())
        };
    }
    // ln(phi(a)/phi(b)): above 2, Q(b) is less than 0.14 Q(a).
    let drop = 2.0 * m.hi() * h;
    if drop > 2.0 {
        if a < 5.0 {
            (upper_tail(a) - upper_tail(b)).ln()
        } else {
            -half_square(a) - LN_SQRT_TAU
                + (mills_ratio(a.hi()) - (-drop).exp() * mills_ratio(b.hi())).ln()
        }
    } else if a <= b * 0.25 {
        log_erf_difference(a.hi(), b.hi())
    } else {
        -half_square(m) - LN_SQRT_TAU + (2.0 * h * mean_of_cosh(m.hi() * h, h)).ln()
    }
}

/// `x^2 / 2`.
fn half_square(x: Dd) -> f64 {
    let square = 0.5 * x.hi() * x.hi();
    if x.lo() == 0.0 { square } else { square + x.hi() * x.lo() }
}

fn log_erf_difference(a: f64, b: f64) -> f64 {
    (0.5 * (libm::erf(b * FRAC_1_SQRT_2) - libm::erf(a * FRAC_1_SQRT_2))).ln()
}

/// `int_0^1 cosh(k s) e^(-h^2 s^2/2) ds` for k <= 1, h < 1.
fn mean_of_cosh(k: f64, h: f64) -> f64 {
    static RULE: LazyLock<IntervalRule> =
        LazyLock::new(|| IntervalRule::new(10).expect("ten nodes"));
    RULE.integral(0.0, 1.0, |s| (k * s).cosh() * (-0.5 * (h * s).powi(2)).exp())
}

/// `Q(x) = 1 - Phi(x)` for x >= 0, to 2 ulp down to the subnormal numbers.
///
/// `erfc(x/sqrt 2)/2` alone loses x^2 eps to the rounding of its argument (32 ulp at x = 8): what
/// was rounded off is put back to first order.
pub(crate) fn upper_tail(x: Dd) -> f64 {
    // FRAC_1_SQRT_2 + LOW is 1/sqrt 2 to 107 bits.
    const LOW: f64 = -4.833646656726457e-17;
    let (x, lo) = (x.hi(), x.lo());
    if x > 39.0 {
        return 0.0;
    }
    let z = x * FRAC_1_SQRT_2;
    let rest = x.mul_add(FRAC_1_SQRT_2, -z) + x * LOW + lo * FRAC_1_SQRT_2;
    0.5 * libm::erfc(z) - rest * (-z * z).exp() * (0.5 * std::f64::consts::FRAC_2_SQRT_PI)
}

/// Mills' ratio `Q(x)/phi(x)` for x >= 5, by Laplace's continued fraction
/// `1/(x + 1/(x + 2/(x + 3/(x + ...))))`, all terms positive.
fn mills_ratio(x: f64) -> f64 {
    // Thirty levels leave less than 1e-17 at x = 5, where it converges slowest.
    1.0 / (1..=30).rev().fold(x, |tail, k| x + f64::from(k) / tail)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::larger;
    use proptest::prelude::*;

    /// Distance in units of the last place of `want`.
    fn ulps(got: f64, want: f64) -> f64 {
        (got - want).abs() / (want.abs().next_up() - want.abs())
    }

    /// Rows (a, b, value) of mpmath, 30 digits, read as the nearest f64.
    fn golden(file: &str) -> Vec<(f64, f64, f64)> {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../../tests/golden/mp/");
        let mut reader = csv::Reader::from_path(format!("{path}{file}")).unwrap();
        reader.deserialize().map(|row| row.unwrap()).collect()
    }

    #[test]
    fn golden_differences_within_8_ulp() {
        for (file, rows) in [("log_cdf_difference.csv", 144), ("log_cdf_difference_wide.csv", 600)]
        {
            let table = golden(file);
            assert_eq!(table.len(), rows, "{file}");
            let mut worst = (0.0, 0.0, 0.0);
            for (a, b, want) in table {
                let error = ulps(log_cdf_difference(a, b), want);
                assert!(error <= 8.0, "{file}: {error} ulp at [{a}, {b}]");
                worst = if error > worst.0 { (error, a, b) } else { worst };
            }
            println!("{file}: worst error {} ulp at [{}, {}]", worst.0, worst.1, worst.2);
        }
    }

    proptest! {
        /// Quadrature of the density relative to its largest value, in panels: nothing in common
        /// with the forms above.
        #[test]
        fn mass_by_quadrature(centre in -30.0f64..30.0, log_half in -30.0f64..1.5) {
            let half = log_half.exp();
            let (a, b) = (centre - half, centre + half);
            let peak = if a > 0.0 { a } else if b < 0.0 { b } else { 0.0 };
            let rule = IntervalRule::new(30).unwrap();
            // (x - peak)(x + peak) keeps the digits of x^2 - peak^2.
            let relative = rule.composite(a, b, 40, |x| (-0.5 * (x - peak) * (x + peak)).exp());
            let want = relative.ln() - LN_SQRT_TAU - 0.5 * peak * peak;
            let got = log_bin_mass(centre, half);
            // The ends a, b are rounded: a relative error eps |centre|/half of the width, an
            // absolute one of the log.
            let tol = 16.0 * f64::EPSILON * (1.0 + want.abs() + centre.abs() / half);
            prop_assert!((got - want).abs() <= tol, "{got} {want}");
            prop_assert!((log_cdf_difference(a, b) - want).abs() <= tol);
        }

        /// Masses of neighbours add up, through every branch.
        #[test]
        fn masses_add(mut x in prop::array::uniform3(-45.0f64..45.0), scale in prop::sample::select(vec![1.0, 0.1, 0.01])) {
            x.sort_by(f64::total_cmp);
            let [a, b, c] = x.map(|x| x * scale);
            let (ab, bc, ac) = (log_cdf_difference(a, b), log_cdf_difference(b, c), log_cdf_difference(a, c));
            let top = ab.max(bc);
            let sum = top + (ab.min(bc) - top).exp().ln_1p();
            prop_assert!((sum - ac).abs() <= 16.0 * f64::EPSILON * (1.0 + ac.abs()), "{sum} {ac}");
        }

        #[test]
        fn symmetric_to_the_bit(a in -50.0f64..50.0, b in -50.0f64..50.0) {
            let (a, b) = (a.min(b), a.max(b));
            prop_assert_eq!(log_cdf_difference(a, b).to_bits(), log_cdf_difference(-b, -a).to_bits());
        }

        /// Orientation: a longer interval holds more.
        #[test]
        fn monotone(a in -40.0f64..40.0, w in 1e-3f64..10.0) {
            prop_assert!(log_cdf_difference(a, a + w) <= log_cdf_difference(a, a + 1.001 * w));
            prop_assert!(log_cdf(a) < log_cdf(a + w) || a > 38.0);
        }
    }

    #[test]
    fn ends() {
        let inf = f64::INFINITY;
        assert_eq!(log_cdf_difference(-inf, inf), 0.0);
        assert_eq!(log_cdf(inf), 0.0);
        assert_eq!(log_cdf(-inf), -inf);
        assert_eq!(log_cdf_difference(0.0, inf), 0.5f64.ln());
        assert_eq!(log_cdf_difference(-0.0, 0.0), -inf);
        assert_eq!(log_cdf_difference(2.0, 2.0), -inf);
        assert!(log_cdf_difference(2.0, 1.0).is_nan());
        assert!(log_cdf_difference(f64::NAN, 1.0).is_nan() && log_cdf(f64::NAN).is_nan());
        // A bin far narrower than the spacing of its ends still has its mass.
        assert!((log_bin_mass(1.0, 1e-200) - (-0.5 - LN_SQRT_TAU + 2e-200f64.ln())).abs() <= 1e-13);
    }

    #[test]
    fn tanh_approximation_is_noticed() {
        // The approximation in OpenAI's discretised likelihood, 0.5 (1 + tanh(sqrt(2/pi) (x +
        // 0.044715 x^3))), must not pass for Phi.
        let tanh_cdf = |x: f64| {
            0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        };
        let worst = (-600..600)
            .map(|i| f64::from(i) * 0.01)
            .map(|x| (tanh_cdf(x) - log_cdf(x).exp()).abs())
            .fold(0.0, larger);
        assert!((1e-4..3e-4).contains(&worst), "{worst}");
    }

    #[test]
    fn half_a_square_has_its_rest() {
        // 1.375^2 / 2 = 0.9453125 is exact; the rest, of 1.1 units of it, is rounded to one.
        let rest = 0.8 * 2f64.powi(-53);
        for (lo, units) in [(0.0, 0.0), (rest, 1.0), (-rest, -1.0)] {
            let want = 0.945_312_5 + units * 2f64.powi(-53);
            assert_eq!(half_square(Dd::sum_of(1.375, lo)), want);
        }
    }
}
