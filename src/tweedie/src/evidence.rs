//! A number held to what it should be: what every check of the crate computes, and what reports
//! render.

use serde::{Deserialize, Serialize};

/// Where the number may lie.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    /// Within the tolerance of what it should be, on both sides.
    #[default]
    Within,
    /// Anywhere below, or above by no more than the tolerance.
    AtMost,
    /// Anywhere above, or below by no more than the tolerance.
    AtLeast,
}

impl Side {
    /// The sign before a bound; empty for a value.
    pub fn sign(self) -> &'static str {
        match self {
            Side::Within => "",
            Side::AtMost => "≤ ",
            Side::AtLeast => "≥ ",
        }
    }
}

/// One comparison: what was compared, got, want, and the tolerance with its reason.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Evidence {
    /// What was compared.
    pub what: String,
    /// The number.
    pub got: f64,
    /// What it should be, or the bound that it should keep.
    pub want: f64,
    /// How far it may be off.
    pub tol: f64,
    /// Which of the two `want` is.
    pub side: Side,
    /// Why that far; empty where the tolerance speaks for itself.
    pub why: String,
    /// Number of random cases of which this is the worst; 1 for a single number.
    pub cases: usize,
}

impl Evidence {
    /// `got` should be within `tol` of `want`.
    pub fn new(what: impl Into<String>, got: f64, want: f64, tol: f64) -> Self {
        Self { what: what.into(), got, want, tol, side: Side::Within, why: String::new(), cases: 1 }
    }

    /// `got` should be at most `bound`, and may exceed it by `tol`: what rounding or chance adds.
    pub fn at_most(what: impl Into<String>, got: f64, bound: f64, tol: f64) -> Self {
        Self { side: Side::AtMost, ..Self::new(what, got, bound, tol) }
    }

    /// `got` should be at least `bound`, and may fall short of it by `tol`.
    pub fn at_least(what: impl Into<String>, got: f64, bound: f64, tol: f64) -> Self {
        Self { side: Side::AtLeast, ..Self::new(what, got, bound, tol) }
    }

    /// The same with the reason for its tolerance.
    pub fn because(self, why: impl Into<String>) -> Self {
        Self { why: why.into(), ..self }
    }

    /// How far the number is from what it should be; with a bound, how far beyond it, negative
    /// where it keeps it.
    pub fn off(&self) -> f64 {
        match self.side {
            // Equal infinities agree.
            _ if self.got == self.want => 0.0,
            Side::Within => (self.got - self.want).abs(),
            Side::AtMost => self.got - self.want,
            Side::AtLeast => self.want - self.got,
        }
    }

    /// Whether it is where it should be; NaN never is.
    pub fn holds(&self) -> bool {
        self.off() <= self.tol
    }
}

#[cfg(test)]
mod tests {
    use super::Evidence;

    #[test]
    fn evidence_holds_up_to_its_tolerance_and_never_for_nan() {
        let holds = |got, want, tol| Evidence::new("", got, want, tol).because("told").holds();
        assert!(
            holds(1.0, 1.5, 0.5)
                && holds(2.0, 2.0, 0.0)
                && holds(f64::INFINITY, f64::INFINITY, 0.0)
        );
        assert!(
            !holds(1.0, 1.5, 0.49)
                && !holds(1.0, 1.0, f64::NAN)
                && !holds(f64::INFINITY, f64::NEG_INFINITY, 1.0)
        );
        assert!(!holds(f64::NAN, 1.0, f64::INFINITY) && !holds(1.0, f64::NAN, f64::INFINITY));
    }

    #[test]
    fn a_bound_has_one_side() {
        let most = |got, tol| Evidence::at_most("", got, 2.0, tol);
        let least = |got, tol| Evidence::at_least("", got, 2.0, tol);
        assert!(
            most(-9.0, 0.0).holds()
                && most(2.0, 0.0).holds()
                && most(2.25, 0.25).holds()
                && !most(2.25, 0.125).holds()
        );
        assert!(
            least(9.0, 0.0).holds()
                && least(2.0, 0.0).holds()
                && least(1.75, 0.25).holds()
                && !least(1.75, 0.125).holds()
        );
        assert_eq!([most(1.5, 0.0).off(), least(1.5, 0.0).off()], [-0.5, 0.5]);
        assert!(!most(f64::NAN, f64::INFINITY).holds() && !least(f64::NAN, f64::INFINITY).holds());
        assert!(!Evidence::at_most("", 1.0, f64::NAN, 1.0).holds() && !most(1.0, f64::NAN).holds());
    }
}
