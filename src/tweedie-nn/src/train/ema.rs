//! Averages of the weights over the steps of a run.

use crate::element::Element;
use rayon::prelude::*;
use tweedie::error::{Error, Result};

/// How an average weighs the weights `w_1 .. w_n` of the steps so far.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Profile {
    /// `w_k` in proportion to `decay^(n - k)`: the usual average, without the initial weights that
    /// a plain recursion drags along.
    Constant {
        /// In (0, 1).
        decay: f64,
    },
    /// `w_k` in proportion to `k^gamma`, very nearly: the average spans the same share of the run
    /// at every step (EDM2).
    Power {
        /// Standard deviation of the profile in units of the run's length, in (0, 0.28).
        width: f64,
        /// The exponent that belongs to it.
        gamma: f64,
    },
}

impl Profile {
    /// An average that forgets at a constant rate.
    ///
    /// # Errors
    /// A decay outside (0, 1).
    pub fn constant(decay: f64) -> Result<Self> {
        if decay > 0.0 && decay < 1.0 {
            Ok(Self::Constant { decay })
        } else {
            Err(Error::domain(
                "ema.constant",
                decay,
                "(0, 1)",
                "0.999 remembers about the last thousand steps",
            ))
        }
    }

    /// An average of this relative width.
    ///
    /// # Formula
    /// `gamma` solves `width^2 = (gamma + 1) / ((gamma + 2)^2 (gamma + 3))`.
    ///
    /// # Errors
    /// A width outside (0, 0.28): 0.2887, the widest, is the plain mean of all steps.
    ///
    /// # Source
    /// Karras et al., "Analyzing and Improving the Training Dynamics of Diffusion Models" (EDM2),
    /// 2024, section 3 and algorithm 2.
    ///
    /// # Example
    /// ```
    /// use tweedie_nn::train::ema::Profile;
    /// let Profile::Power { gamma, .. } = Profile::power(0.1).unwrap() else { panic!() };
    /// assert!((gamma - 6.94).abs() < 0.005);
    /// ```
    pub fn power(width: f64) -> Result<Self> {
        if !(width > 0.0 && width <= 0.28) {
            return Err(Error::domain("ema.power", width, "(0, 0.28]", "0.05 to 0.15 are usual"));
        }
        // The width falls as gamma rises, and gamma + 2 < 1 / width.
        let (mut low, mut high) = (0.0, 1.0 / width);
        for _ in 0..200 {
            let gamma = 0.5 * (low + high);
            let square: f64 = (gamma + 1.0) / ((gamma + 2.0) * (gamma + 2.0) * (gamma + 3.0));
            if square.sqrt() > width { low = gamma } else { high = gamma }
        }
        Ok(Self::Power { width, gamma: 0.5 * (low + high) })
    }

    /// What step n (from 1) keeps of the average before it; 0 at the first.
    ///
    /// # Formula
    /// Constant `(d - d^n) / (1 - d^n)`, power `(1 - 1/n)^(gamma + 1)`.
    pub fn keep(self, n: u64) -> f64 {
        match self {
            Self::Constant { .. } if n == 1 => 0.0,
            // By expm1: 1 - d^n has lost digits while d^n is near 1.
            Self::Constant { decay } => 1.0 - (1.0 - decay) / -(n as f64 * decay.ln()).exp_m1(),
            Self::Power { gamma, .. } => (1.0 - 1.0 / n as f64).powf(gamma + 1.0),
        }
    }

    /// A name for folders: `ema-0.999`, `ema-power-0.1`.
    pub fn name(self) -> String {
        match self {
            Self::Constant { decay } => format!("ema-{decay}"),
            Self::Power { width, .. } => format!("ema-power-{width}"),
        }
    }
}

/// One running average.
#[derive(Clone, Debug)]
pub struct Ema<T> {
    /// What it averages by.
    pub profile: Profile,
    /// The average.
    pub params: Vec<T>,
}

impl<T: Element> Ema<T> {
    /// Takes in the weights after step n (from 1).
    ///
    /// # Formula
    /// `average = average + (1 - keep) (w - average)`
    pub fn update(&mut self, params: &[T], n: u64) {
        let rest = T::of(1.0 - self.profile.keep(n));
        const BLOCK: usize = 1 << 14;
        self.params.par_chunks_mut(BLOCK).zip(params.par_chunks(BLOCK)).for_each(|(average, w)| {
            average.iter_mut().zip(w).for_each(|(a, w)| *a += rest * (*w - *a));
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Second route: the weighted mean itself.
        #[test]
        fn the_constant_average_is_the_weighted_mean(decay in 0.01..0.9999f64, w in prop::collection::vec(-1.0..1.0f64, 1..60)) {
            let mut ema = Ema { profile: Profile::constant(decay).unwrap(), params: vec![9.0] };
            for (k, w) in w.iter().enumerate() {
                ema.update(&[*w], k as u64 + 1);
            }
            let weights: Vec<f64> = (0..w.len()).rev().map(|age| decay.powi(age as i32)).collect();
            let want = w.iter().zip(&weights).map(|(w, p)| w * p).sum::<f64>() / weights.iter().sum::<f64>();
            // A few roundings a step, each at most 1 ulp of the largest weight 1.
            prop_assert!((ema.params[0] - want).abs() <= 8.0 * w.len() as f64 * f64::EPSILON, "{} {want}", ema.params[0]);
        }

        /// Second route for gamma: mean and deviation of the steps under the profile, by summation
        /// over a long run.
        #[test]
        fn the_power_average_has_its_width(width in 0.03..0.25f64) {
            let profile = Profile::power(width).unwrap();
            let n = 4000u64;
            // Weight of step k in the average after n steps: (1 - keep(k)) times all that is kept
            // later.
            let mut kept = 1.0;
            let (mut mean, mut square, mut total) = (0.0, 0.0, 0.0);
            for k in (1..=n).rev() {
                let weight = (1.0 - profile.keep(k)) * kept;
                kept *= profile.keep(k);
                let u = k as f64 / n as f64;
                (mean, square, total) = (mean + weight * u, square + weight * u * u, total + weight);
            }
            prop_assert!((total - 1.0).abs() <= 1e-12);
            // The profile is (k^(gamma+1) - (k-1)^(gamma+1)) instead of k^gamma: off by O(gamma /
            // n), and so is the width.
            let got: f64 = (square - mean * mean).sqrt();
            prop_assert!((got - width).abs() <= 2.0 / n as f64, "{got} {width}");
        }
    }

    #[test]
    fn the_first_step_is_taken_whole() {
        for profile in [Profile::constant(0.999).unwrap(), Profile::power(0.1).unwrap()] {
            assert_eq!(profile.keep(1), 0.0);
            assert!(profile.keep(2) > 0.0 && profile.keep(1_000_000) < 1.0);
        }
        assert!(
            Profile::constant(1.0).is_err()
                && Profile::power(0.3).is_err()
                && Profile::power(f64::NAN).is_err()
        );
        assert_eq!(
            (Profile::constant(0.99).unwrap().name(), Profile::power(0.1).unwrap().name()),
            ("ema-0.99".into(), "ema-power-0.1".into())
        );
    }
}
