//! A number held to what it should be: what every check of the crate computes, and what reports render.

use serde::{Deserialize, Serialize};

/// One comparison: what was compared, got, want, and the tolerance with its reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was compared.
    pub what: String,
    /// The number.
    pub got: f64,
    /// What it should be.
    pub want: f64,
    /// How far it may be off.
    pub tol: f64,
    /// Why that far; empty where the tolerance speaks for itself.
    pub why: String,
    /// Number of random cases of which this is the worst; 1 for a single number.
    pub cases: usize,
}

impl Evidence {
    /// `got` should be within `tol` of `want`.
    pub fn new(what: impl Into<String>, got: f64, want: f64, tol: f64) -> Self {
        Self { what: what.into(), got, want, tol, why: String::new(), cases: 1 }
    }

    /// The same with the reason for its tolerance.
    pub fn because(self, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..self }
    }

    /// Whether it is; equal infinities agree, NaN never does.
    pub fn holds(&self) -> bool {
        (self.got - self.want).abs() <= self.tol || (self.got == self.want && self.got.is_infinite())
    }
}

#[cfg(test)]
mod tests {
    use super::Evidence;

    #[test]
    fn evidence_holds_up_to_its_tolerance_and_never_for_nan() {
        let holds = |got, want, tol| Evidence::new("", got, want, tol).because("told").holds();
        assert!(holds(1.0, 1.5, 0.5) && holds(2.0, 2.0, 0.0) && holds(f64::INFINITY, f64::INFINITY, 0.0));
        assert!(!holds(1.0, 1.5, 0.49) && !holds(1.0, 1.0, f64::NAN) && !holds(f64::INFINITY, f64::NEG_INFINITY, 1.0));
        assert!(!holds(f64::NAN, 1.0, f64::INFINITY) && !holds(1.0, f64::NAN, f64::INFINITY));
    }
}
