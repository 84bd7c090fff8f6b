//! What a comparison of two reports, two models or two training runs computes, as plain numbers: no
//! file, no drawing.

pub mod checks;
pub mod models;
pub mod values;

use serde::{Serialize, Serializer};
use tweedie::math::larger;
use tweedie::number::Number;
pub(crate) use tweedie::number::{or_word, or_word_if_any};

/// How far two things agree, the worst last.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Agreement {
    /// To the bit.
    Equal,
    /// Within the tolerance.
    Within,
    /// Beyond it, or in one of the two only.
    Beyond,
}

impl std::fmt::Display for Agreement {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Agreement::Equal => "equal",
            Agreement::Within => "within",
            Agreement::Beyond => "beyond",
        })
    }
}

/// Least scale of a series of numbers.
///
/// What reports show is of order one: pixels, nats a pixel, ratios, errors in units of the data. A
/// curve of rounding errors has no digits to compare, and its own largest value, 1e-16, is no
/// measure of how far it may be off.
pub const LEAST_SCALE: f64 = 1e-3;

/// How far two lists of as many numbers are apart.
#[derive(Clone, Debug, PartialEq, Serialize)]
pub struct Gap {
    /// Numbers compared.
    pub count: usize,
    /// Those of them whose bits differ.
    pub differing: usize,
    /// Largest absolute value of both lists, at least [`LEAST_SCALE`].
    pub scale: f64,
    /// Largest difference over the scale; infinite where one of two is NaN, or they are infinite in
    /// different ways.
    #[serde(serialize_with = "or_word")]
    pub off: f64,
    /// Place of the largest difference.
    pub at: usize,
    /// The numbers there.
    #[serde(serialize_with = "or_word")]
    pub a: f64,
    #[serde(serialize_with = "or_word")]
    pub b: f64,
}

/// A list of [`or_word`].
pub(crate) fn or_words<S: Serializer>(
    x: &impl AsRef<[f64]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(x.as_ref().iter().copied().map(Number))
}

/// [`or_words`], where there are any.
pub(crate) fn or_words_if_any<S: Serializer>(
    x: &Option<[f64; 2]>,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    x.map(|x| x.map(Number)).serialize(serializer)
}

impl Gap {
    /// Between two lists of the same length.
    ///
    /// # Example
    /// ```
    /// use tweedie_report::difference::{Agreement, Gap};
    /// let gap = Gap::of(&[1.0, -4.0, 0.0], &[1.0, -4.0, 4e-9]);
    /// assert_eq!((gap.count, gap.differing, gap.off, gap.at), (3, 1, 1e-9, 2));
    /// assert_eq!(gap.agreement(1e-9), Agreement::Within);
    /// assert_eq!(Gap::of(&[f64::NAN], &[1.0]).agreement(1e-9), Agreement::Beyond);
    /// ```
    pub fn of(a: &[f64], b: &[f64]) -> Self {
        let scale =
            a.iter().chain(b).filter(|x| x.is_finite()).map(|x| x.abs()).fold(LEAST_SCALE, larger);
        let first = |x: &[f64]| x.first().copied().unwrap_or(0.0);
        let mut gap =
            Self { count: a.len(), differing: 0, scale, off: 0.0, at: 0, a: first(a), b: first(b) };
        for (at, (&a, &b)) in a.iter().zip(b).enumerate() {
            // Every NaN is the same answer: none.
            if a.to_bits() == b.to_bits() || a.is_nan() && b.is_nan() {
                continue;
            }
            gap.differing += 1;
            let off = (a - b).abs() / scale;
            let off = if off.is_nan() { f64::INFINITY } else { off };
            if off > gap.off || gap.differing == 1 {
                gap = Self { off, at, a, b, ..gap };
            }
        }
        gap
    }

    /// What that is under a tolerance.
    pub fn agreement(&self, tolerance: f64) -> Agreement {
        match self.differing {
            0 => Agreement::Equal,
            _ if self.off <= tolerance => Agreement::Within,
            _ => Agreement::Beyond,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn what_is_no_number_agrees_with_its_like_alone() {
        let (nan, inf) = (f64::NAN, f64::INFINITY);
        for (a, b, want) in [
            (nan, nan, Agreement::Equal),
            (inf, inf, Agreement::Equal),
            (inf, -inf, Agreement::Beyond),
            (inf, 1.0, Agreement::Beyond),
            (1.0, nan, Agreement::Beyond),
            (0.0, -0.0, Agreement::Within),
        ] {
            assert_eq!(Gap::of(&[1.0, a], &[1.0, b]).agreement(1e-9), want, "{a} {b}");
            // However large the tolerance that a person may ask for.
            assert_eq!(Gap::of(&[1.0, a], &[1.0, b]).agreement(1e300), want, "{a} {b}");
        }
        assert_eq!(Gap::of(&[], &[]).agreement(0.0), Agreement::Equal);
    }

    #[test]
    fn rounding_errors_are_not_measured_by_themselves() {
        assert_eq!(Gap::of(&[1e-16, 3e-16], &[2e-16, 1e-16]).agreement(1e-9), Agreement::Within);
        assert_eq!(Gap::of(&[1e-6, 3e-6], &[1e-6, 3.00001e-6]).agreement(1e-9), Agreement::Beyond);
    }

    proptest! {
        /// One number moved is found, where it is and as far as it was moved; neither the order of
        /// the two nor the unit of all matters.
        #[test]
        fn a_moved_number_is_found(x in prop::collection::vec(-5.0..5.0f64, 1..40), place in 0usize..40, by in 1e-6..3.0f64, unit in -3i32..8) {
            let unit = 2f64.powi(unit);
            let a: Vec<f64> = x.iter().map(|x| x * unit + unit * 6.0).collect();
            let at = place % a.len();
            let mut b = a.clone();
            b[at] += by * unit;
            let (gap, back) = (Gap::of(&a, &b), Gap::of(&b, &a));
            prop_assert_eq!((gap.count, gap.differing, gap.at), (a.len(), 1, at));
            prop_assert_eq!((gap.a, gap.b), (a[at], b[at]));
            prop_assert_eq!(gap.off, back.off);
            let largest = a.iter().chain(&b).copied().fold(0.0, larger);
            // One rounding of the sum, of a number up to 14 times the unit.
            prop_assert!((gap.off - by * unit / largest).abs() <= 8.0 * f64::EPSILON);
        }
    }
}
