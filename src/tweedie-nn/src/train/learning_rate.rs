//! The learning rate over a run.

use super::settings::OptimiserSettings;
use serde::{Deserialize, Serialize};

/// What the rate does after the warm-up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Decay {
    /// Stays.
    Constant,
    /// Falls evenly to 0.
    Linear,
    /// Falls to 0 as half a cosine (Loshchilov and Hutter, SGDR, 2017, equation 5, one cycle).
    Cosine,
    /// Falls with the root of the step from a tenth of the run on (Karras et al., EDM2, 2024,
    /// equation 67).
    InverseSqrt,
}

/// The rate of step `step` (from 0) of `steps`.
///
/// # Formula
/// `learning_rate min(1, (step + 1) / warm_up) decay(u)` with `u = step / steps`: 1, `1 - u`,
/// `(1 + cos(pi u)) / 2` or `1 / sqrt(max(1, 10 u))`.
///
/// # Example
/// ```
/// use tweedie_nn::train::learning_rate::{Decay, learning_rate};
/// use tweedie_nn::train::settings::OptimiserSettings;
/// let rule = OptimiserSettings { learning_rate: 0.5, warm_up: 4, decay: Decay::Linear, ..Default::default() };
/// assert_eq!(learning_rate(&rule, 0, 100), 0.125);
/// assert_eq!(learning_rate(&rule, 50, 100), 0.25);
/// ```
pub fn learning_rate(rule: &OptimiserSettings, step: u64, steps: u64) -> f64 {
    let u = step as f64 / steps as f64;
    let warm = if step < rule.warm_up { (step + 1) as f64 / rule.warm_up as f64 } else { 1.0 };
    let decay = match rule.decay {
        Decay::Constant => 1.0,
        Decay::Linear => 1.0 - u,
        Decay::Cosine => 0.5 * (1.0 + (std::f64::consts::PI * u).cos()),
        Decay::InverseSqrt => (10.0 * u).max(1.0).sqrt().recip(),
    };
    rule.learning_rate * warm * decay
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_rise_then_fall() {
        for decay in [Decay::Constant, Decay::Linear, Decay::Cosine, Decay::InverseSqrt] {
            let rule =
                OptimiserSettings { learning_rate: 2.0, warm_up: 10, decay, ..Default::default() };
            let rates: Vec<f64> = (0..100).map(|k| learning_rate(&rule, k, 100)).collect();
            assert!(rates[..9].windows(2).all(|r| r[0] < r[1]), "{decay:?} {rates:?}");
            assert!(rates[10..].windows(2).all(|r| r[0] >= r[1]), "{decay:?}");
            assert!(rates.iter().all(|r| *r > 0.0 && *r <= 2.0));
        }
        let rule =
            OptimiserSettings { decay: Decay::Cosine, learning_rate: 1.0, ..Default::default() };
        // cos(pi / 2) is 6e-17.
        assert!((learning_rate(&rule, 50, 100) - 0.5).abs() <= 1e-16);
    }
}
