//! What an exponential moving average does to weights that fluctuate about an optimum.
//!
//! The average is `m' = g m + (1 - g) w'` of a stationary sequence of weights whose correlation
//! falls by a factor `a` a step, as that of stochastic gradient steps on a quadratic loss does
//! along each eigenvector: `a = 1 - rate * curvature`.

use crate::math::scalar::Scalar;

/// Variance of the average over that of the weights.
///
/// # Formula
/// `(1 - g) / (1 + g) * (1 + a g) / (1 - a g)`: one over the [`window`] for independent weights, 1
/// for weights that do not move.
///
/// Only the correlation `a^|k|` enters, so that it holds for noise that depends on the weights too,
/// as that of mini-batches does.
///
/// # Domain
/// `a` in (-1, 1), `g` in (0, 1).
///
/// # Source
/// Harvard deck, training details; Busbridge et al. 2023, "How to scale your EMA", for the role of
/// the correlation.
///
/// # Example
/// ```
/// use tweedie::exact::averaging::{variance_ratio, window};
/// assert!((variance_ratio(0.0_f64, 0.99) * window(0.99) - 1.0).abs() < 1e-13);
/// // An average of 20,000 steps over weights that move on a scale of 1,000 keeps 9 % of their variance.
/// assert!((variance_ratio(0.999_f64, 0.9999) - 0.09).abs() < 0.002);
/// ```
pub fn variance_ratio<S: Scalar>(correlation: S, decay: S) -> S {
    let both = correlation * decay;
    (-decay + 1.0) / (decay + 1.0) * (both + 1.0) / (-both + 1.0)
}

/// Number of independent weights whose plain mean has the average's variance.
///
/// # Formula
/// `(1 + g) / (1 - g)`
pub fn window<S: Scalar>(decay: S) -> S {
    (decay + 1.0) / (-decay + 1.0)
}

/// Steps by which the average is behind a weight that drifts at a constant rate.
///
/// # Formula
/// `g / (1 - g)`
pub fn lag<S: Scalar>(decay: S) -> S {
    decay / (-decay + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Second route: the double sum over the correlations, `(1-g)^2 sum_ij g^(i+j) a^|i-j|`,
        /// its two sums one after the other.
        #[test]
        fn the_variance_is_the_sum_of_all_correlations(a in -0.95..0.95f64, g in 0.05..0.95f64) {
            let n = (1e-17f64.ln() / g.ln()).ceil() as i32;
            let sum: f64 = (0..n).map(|i| (0..n).map(|j| g.powi(i + j) * a.powi((i - j).abs())).sum::<f64>()).sum();
            let want = (1.0 - g) * (1.0 - g) * sum;
            // Terms of both signs where a < 0: against the sum of their sizes, 1.
            prop_assert!((variance_ratio(a, g) - want).abs() <= 1e-13, "{} {want}", variance_ratio(a, g));
        }

        /// Second route: the recursion itself, on a weight that is its own step's number, and the
        /// shares of independent weights.
        #[test]
        fn lag_and_window_are_those_of_the_recursion(g in 0.05..0.95f64) {
            let n = (1e-17f64.ln() / g.ln()).ceil() as i32;
            let behind = f64::from(n) - (1..=n).fold(0.0, |m, k| g * m + (1.0 - g) * f64::from(k));
            prop_assert!((behind - lag(g)).abs() <= 1e-12 * f64::from(n));
            let squares: f64 = (0..n).map(|k| ((1.0 - g) * g.powi(k)).powi(2)).sum();
            prop_assert!((window(g) * squares - 1.0).abs() <= 1e-13);
        }
    }
}
