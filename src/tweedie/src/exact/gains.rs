//! The two gains of one mode along the PF-ODE: `psi` moves the state, `xi` moves its denoiser.

use crate::diffusion::level::Level;
use crate::math::scalar::{Scalar, exponent, ldexp};

/// Gain of the PF-ODE on one mode: the ratio of its standard deviations at the two levels.
///
/// # Formula
/// `psi = sqrt((sigma_to^2 + lambda alpha_to^2) / (sigma_from^2 + lambda alpha_from^2))`;
/// `x_to - alpha_to mean = psi (x_from - alpha_from mean)`.
///
/// Infinite or NaN where `lambda = 0` and `from.sigma = 0`: all mass sits in one point there.
///
/// # Source
/// Wang and Vastola 2023, "Diffusion models generate images like painters", the Gaussian score
/// model; Harvard deck, Gaussian solution.
///
/// # Example
/// ```
/// use tweedie::exact::gains::psi;
/// use tweedie::diffusion::level::Level;
/// let (from, to) = (Level { alpha: 0.0, sigma: 1.0 }, Level { alpha: 1.0, sigma: 0.0 });
/// assert_eq!(psi(4.0, from, to), 2.0); // noise to data: the mode's own deviation
/// ```
pub fn psi<S: Scalar>(lambda: S, from: Level<S>, to: Level<S>) -> S {
    let ((to, e_to), (from, e_from)) = (to.split_var(lambda), from.split_var(lambda));
    ldexp((to / from).sqrt(), e_to - e_from)
}

/// [`psi`] as two factors of like size, which are in range also where psi itself is not, and the
/// state that is multiplied by both is.
pub(crate) fn psi_factors(lambda: f64, from: Level, to: Level) -> [f64; 2] {
    let ((to, e_to), (from, e_from)) = (to.split_var(lambda), from.split_var(lambda));
    let (e, half) = (e_to - e_from, (e_to - e_from) / 2);
    [ldexp((to / from).sqrt(), half), ldexp(1.0, e - half)]
}

/// `ln psi`, which the log-determinant of the flow adds up, exact to rounding also where the two
/// levels are close.
///
/// # Formula
/// `ln(var_to / var_from) / 2`, taken as `ln_1p((larger - smaller) / smaller) / 2` with the
/// difference of squares factored. At lambda = 1e-12, sigma = 1e-8 to 1e-8 (1 + 1e-12) the
/// logarithm of the rounded ratio keeps 4 digits; over the smaller variance `ln_1p` never amplifies
/// the error of its argument.
pub fn log_psi<S: Scalar>(lambda: S, from: Level<S>, to: Level<S>) -> S {
    let ((var_to, e_to), (var_from, e_from)) = (to.split_var(lambda), from.split_var(lambda));
    if (e_to - e_from).abs() > 2 {
        // A logarithm of a ratio far from 1, which itself may be out of range.
        return (var_to / var_from).ln() * 0.5 + S::from(2.0).ln() * f64::from(e_to - e_from);
    }
    // Both in one unit of length, in which the smaller variance is of the order of 1.
    let e = e_to.min(e_from);
    let unit = match exponent(lambda.re()) {
        _ if lambda.re() == 0.0 => e - exponent(to.alpha.re().max(from.alpha.re())),
        spread => (spread + 1).div_euclid(2),
    };
    let difference = |a: S, b: S, e: i32| (ldexp(a, e) - ldexp(b, e)) * (ldexp(a, e) + ldexp(b, e));
    let signal = difference(to.alpha, from.alpha, unit - e) * ldexp(lambda, -2 * unit);
    let growth = signal + difference(to.sigma, from.sigma, -e);
    let (to, from) = (ldexp(var_to, 2 * (e_to - e)), ldexp(var_from, 2 * (e_from - e)));
    if growth.re() >= 0.0 { (growth / from).ln_1p() * 0.5 } else { (-growth / to).ln_1p() * -0.5 }
}

/// Gain of the denoiser along the PF-ODE on one mode: what `E[x0 | x_to]` moves for each unit of
/// `x_from`.
///
/// # Formula
/// `xi = alpha_to lambda / sqrt((sigma_to^2 + lambda alpha_to^2) (sigma_from^2 + lambda
/// alpha_from^2))`, the Wiener gain at `to` times [`psi`].
///
/// # Source
/// Wang and Vastola 2023, the Gaussian score model.
pub fn xi<S: Scalar>(lambda: S, from: Level<S>, to: Level<S>) -> S {
    let ((var_to, e_to), (var_from, e_from)) = (to.split_var(lambda), from.split_var(lambda));
    let (alpha, spread) = (exponent(to.alpha.re()), exponent(lambda.re()));
    // Everything of the order of 1, the powers of two apart: a product of two variances is out of
    // range long before xi is.
    let gain = ldexp(to.alpha, -alpha) * ldexp(lambda, -spread) / (var_to * var_from).sqrt();
    ldexp(gain, alpha + spread - e_to - e_from)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::testing::levels;
    use crate::law::gaussian::wiener_gain;
    use crate::math::larger;
    use proptest::prelude::*;

    /// Distance in units of the last place of `want`.
    fn ulps(got: f64, want: f64) -> f64 {
        let spacing = f64::from_bits(want.abs().to_bits() + 1) - want.abs();
        (got - want).abs() / spacing
    }

    #[test]
    fn gains_match_fifty_digits() {
        let mut reader = csv::Reader::from_path(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/golden/mp/gains.csv"
        ))
        .unwrap();
        let mut rows = 0;
        let mut worst = [0.0f64; 3];
        for row in reader.deserialize::<[f64; 7]>() {
            let [lambda, sigma_t, sigma_from, _, want_psi, want_xi, want_log] = row.unwrap();
            let (from, to) =
                (Level { alpha: 1.0, sigma: sigma_from }, Level { alpha: 1.0, sigma: sigma_t });
            let errors = [
                ulps(psi(lambda, from, to), want_psi),
                ulps(xi(lambda, from, to), want_xi),
                ulps(log_psi(lambda, from, to), want_log),
            ];
            for (w, e) in worst.iter_mut().zip(errors) {
                *w = larger(*w, e);
                assert!(
                    e <= 4.0,
                    "lambda {lambda}, sigma {sigma_from} to {sigma_t}: {errors:?} ulp"
                );
            }
            rows += 1;
        }
        assert_eq!(rows, 1331);
        println!("worst ulp of psi, xi, log_psi: {worst:?}");
    }

    #[test]
    fn log_psi_keeps_its_digits_between_close_levels() {
        // psi = sqrt(1 + delta (2 + delta)) at lambda = 0, hence ln psi = ln_1p(delta) with delta
        // the exact relative difference.
        let (from, to) =
            (Level { alpha: 1.0, sigma: 1.0 }, Level { alpha: 1.0, sigma: 1.0 + f64::EPSILON });
        assert!(ulps(log_psi(0.0, from, to), f64::EPSILON.ln_1p()) <= 1.0);
        assert_eq!(log_psi(0.0, from, from), 0.0);
    }

    #[test]
    fn squares_out_of_range_do_not_matter() {
        let level = |alpha, sigma| Level { alpha, sigma };
        let one = |x: f64| assert!((x - 1.0).abs() <= 4.0 * f64::EPSILON, "{x:e}");
        one(xi(1e155, level(1.0, 0.5), level(1.0, 0.25)));
        one(xi(1e-200, level(1.0, 1e-170), level(1.0, 0.0)));
        one(psi(1.0, level(0.0, 1e200), level(0.0, 1e200)));
        one(psi(1e300, level(1e150, 1.0), level(1e100, 0.0)) * 1e50);
        one(log_psi(0.0, level(1.0, 1e-300), level(1.0, 1e300)) / (600.0 * std::f64::consts::LN_10));
        let small = 2f64.powi(-27);
        one(log_psi(1e-300, level(1.0, 1e-200), level(1.0 + small, 1e-200)) / small.ln_1p());
    }

    #[test]
    fn levels_that_are_none_are_refused() {
        for (alpha, sigma) in [(0.0, 0.0), (-1.0, 1.0), (f64::NAN, 1.0), (1.0, f64::INFINITY)] {
            assert!(Level::of(crate::diffusion::PathPoint::still(alpha, sigma)).is_err());
        }
    }

    proptest! {
        #[test]
        fn gains_compose_and_invert(lambda in -12.0..12.0f64, (a, b, c) in (levels(), levels(), levels())) {
            let lambda = 10f64.powf(lambda);
            // Each gain carries at most 5 roundings.
            let tol = 16.0 * f64::EPSILON;
            prop_assert!((psi(lambda, a, b) * psi(lambda, b, c) / psi(lambda, a, c) - 1.0).abs() <= tol);
            prop_assert!((psi(lambda, a, b) * psi(lambda, b, a) - 1.0).abs() <= tol);
            let wiener = wiener_gain(lambda, b.alpha, b.sigma);
            prop_assert!((xi(lambda, a, b) - wiener * psi(lambda, a, b)).abs() <= tol * xi(lambda, a, b));
        }

        #[test]
        fn log_psi_is_the_logarithm(lambda in -12.0..12.0f64, (a, b) in (levels(), levels())) {
            let lambda = 10f64.powf(lambda);
            let log = psi(lambda, a, b).ln();
            // The naive logarithm is good to a few eps absolute; where alpha and sigma move against
            // each other the factored difference has the condition of the variances themselves,
            // which is absolute too.
            prop_assert!((log_psi(lambda, a, b) - log).abs() <= 16.0 * f64::EPSILON * (1.0 + log.abs()));
        }
    }

    #[test]
    fn a_flat_mode_s_gain_does_not_see_alpha() {
        // ln psi is that of the noise alone, whatever the size of alpha.
        for unit in [1e-300, 1e-100, 1.0, 1e100, 1e300] {
            for alpha in [1e-200, 1e-10, 1.0, 1e100] {
                let level = |alpha, sigma| Level { alpha, sigma };
                let got = log_psi(0.0, level(alpha, unit), level(alpha * 0.5, unit * 1.5));
                let want = 1.5f64.ln();
                assert!((got / want - 1.0).abs() <= 4.0 * f64::EPSILON, "{unit} {alpha}: {got}");
            }
        }
    }
}
