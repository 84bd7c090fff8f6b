//! Gaussian quadrature: expectations under a normal law and integrals over an interval, by the
//! `gauss-quad` crate.

use crate::error::{Error, Result};
use gauss_quad::{hermite::GaussHermite, legendre::GaussLegendre};
use std::num::NonZeroUsize;

/// Gauss-Hermite rule for expectations under a normal law.
///
/// # Formula
/// `E f(X) = sum_i w_i f(mean + sqrt(2 var) z_i) / sqrt(pi)`, exact for polynomials of degree
/// `2 nodes - 1`.
///
/// # Example
/// ```
/// use tweedie::math::quadrature::NormalRule;
/// let fourth = NormalRule::new(8).unwrap().expectation(1.0, 0.25, |x| x.powi(4));
/// assert!((fourth - (1.0 + 6.0 * 0.25 + 3.0 * 0.0625)).abs() < 1e-13);
/// ```
#[derive(Clone, Debug)]
pub struct NormalRule(GaussHermite);

impl NormalRule {
    /// The rule of this many nodes.
    ///
    /// # Errors
    /// Fewer than 2 nodes, or more than 512 (the nodes come from a dense eigenproblem).
    pub fn new(nodes: usize) -> Result<Self> {
        let bad = || {
            Error::domain(
                "nodes of a Gauss-Hermite rule",
                nodes,
                "2 to 512",
                "20 to 60 serve smooth functions",
            )
        };
        let nodes =
            NonZeroUsize::new(nodes).filter(|n| (2..=512).contains(&n.get())).ok_or_else(bad)?;
        Ok(Self(GaussHermite::new(nodes)))
    }

    /// `E f(X)` for `X ~ N(mean, var)`, `var >= 0`.
    pub fn expectation(&self, mean: f64, var: f64, mut f: impl FnMut(f64) -> f64) -> f64 {
        let spread = (2.0 * var).sqrt();
        self.0.integrate(|z| f(mean + spread * z)) / std::f64::consts::PI.sqrt()
    }
}

/// Gauss-Legendre rule for integrals over an interval, whole or cut into panels.
///
/// # Example
/// ```
/// use tweedie::math::quadrature::IntervalRule;
/// let rule = IntervalRule::new(12).unwrap();
/// assert!((rule.integral(0.0, 1.0, f64::exp) - 1f64.exp_m1()).abs() < 1e-15);
/// assert!((rule.composite(0.0, 20.0, 8, f64::cos) - 20f64.sin()).abs() < 1e-14);
/// ```
#[derive(Clone, Debug)]
pub struct IntervalRule(GaussLegendre);

impl IntervalRule {
    /// The rule of this many nodes.
    ///
    /// # Errors
    /// Fewer than 2 nodes.
    pub fn new(nodes: usize) -> Result<Self> {
        let bad = || {
            Error::domain(
                "nodes of a Gauss-Legendre rule",
                nodes,
                ">= 2",
                "12 to 40 serve smooth functions",
            )
        };
        let nodes = NonZeroUsize::new(nodes).filter(|n| n.get() >= 2).ok_or_else(bad)?;
        Ok(Self(GaussLegendre::new(nodes)))
    }

    /// Nodes and weights on [0, 1], in no order: `int_0^1 f(x) dx` is `sum_i w_i f(x_i)`.
    pub fn nodes(&self) -> impl Iterator<Item = (f64, f64)> + '_ {
        self.0.iter().map(|(x, w)| (0.5 * (x + 1.0), 0.5 * w))
    }

    /// `int_a^b f(x) dx` by the nodes of one panel, exact for polynomials of degree `2 nodes - 1`.
    pub fn integral(&self, a: f64, b: f64, f: impl FnMut(f64) -> f64) -> f64 {
        self.0.integrate(a, b, f)
    }

    /// `int_a^b f(x) dx` over `panels` equal panels.
    pub fn composite(&self, a: f64, b: f64, panels: usize, mut f: impl FnMut(f64) -> f64) -> f64 {
        let cut = |i: usize| a + (b - a) * (i as f64 / panels as f64);
        (0..panels).map(|i| self.0.integrate(cut(i), cut(i + 1), &mut f)).sum()
    }

    /// `int_a^b f(x) dx`, halving panels until whole and halves agree.
    ///
    /// The tolerance is relative to one panel's estimate of `int |f|` and shared out by panel
    /// width: the sum of the estimated errors stays below `tol int |f|`. A peak that falls between
    /// all the nodes of the first panels goes unseen: cut the interval there.
    ///
    /// # Errors
    /// Ends or an integrand that are not finite; a tolerance that 60 halvings do not reach (a
    /// singularity, or a tolerance below rounding).
    pub fn adaptive(&self, a: f64, b: f64, tol: f64, mut f: impl FnMut(f64) -> f64) -> Result<f64> {
        const HALVINGS: u32 = 60;
        if !(a.is_finite() && b.is_finite() && tol > 0.0) {
            return Err(Error::domain(
                "adaptive integral",
                format!("[{a}, {b}] at {tol}"),
                "finite ends, tol > 0",
                "transform an infinite interval first",
            ));
        }
        // The scale is the integral of |f|, so that an integral that is zero by symmetry still
        // ends.
        let scale = self.0.integrate(a, b, |x| f(x).abs()).abs();
        let mut todo = vec![(a, b, self.0.integrate(a, b, &mut f), 0)];
        let mut total = 0.0;
        while let Some((l, r, whole, halvings)) = todo.pop() {
            let middle = 0.5 * (l + r);
            let (left, right) =
                (self.0.integrate(l, middle, &mut f), self.0.integrate(middle, r, &mut f));
            let error = (left + right - whole).abs();
            if error <= tol * scale * (r - l).abs() / (b - a).abs()
                || error <= f64::EPSILON * whole.abs()
                || l == r
            {
                total += left + right;
            } else if halvings == HALVINGS || !error.is_finite() {
                return Err(Error::singular(
                    "adaptive integral",
                    format!("[{l:e}, {r:e}]"),
                    "whole and halves still differ",
                    "split at the singularity or ask for less",
                ));
            } else {
                todo.push((l, middle, left, halvings + 1));
                todo.push((middle, r, right, halvings + 1));
            }
        }
        Ok(total)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// The moment generating function: `E exp(k X) = exp(k mean + k^2 var/2)`.
        #[test]
        fn normal_rule_gives_the_generating_function(mean in -2.0f64..2.0, var in 0.0f64..2.0, k in -1.5f64..1.5) {
            let rule = NormalRule::new(40).unwrap();
            let want = (k * mean + 0.5 * k * k * var).exp();
            // Weights are squared eigenvector components, good to a few eps of the largest; the
            // nodes reach sqrt(2 var) 8.1, where the integrand is up to e^24 times a weight of
            // e^-65: nothing is amplified beyond the sum of absolute terms, which is the value.
            prop_assert!((rule.expectation(mean, var, |x| (k * x).exp()) - want).abs() <= 1e-13 * want);
        }

        /// Fundamental theorem of calculus.
        #[test]
        fn interval_rules_undo_a_derivative(a in -3.0f64..3.0, b in -3.0f64..3.0, k in -3.0f64..3.0) {
            let (f, antiderivative) = (|x: f64| k * (k * x).cos(), |x: f64| (k * x).sin());
            let rule = IntervalRule::new(20).unwrap();
            let want = antiderivative(b) - antiderivative(a);
            // The sum of |terms| is at most |k (b - a)| <= 18.
            prop_assert!((rule.integral(a, b, f) - want).abs() <= 1e-13);
            prop_assert!((rule.composite(a, b, 3, f) - want).abs() <= 1e-13);
            prop_assert!((rule.adaptive(a, b, 1e-13, f).unwrap() - want).abs() <= 1e-13 * 18.0);
        }
    }

    #[test]
    fn adaptive_finds_a_narrow_peak() {
        // Lorentzian of width 1e-4: one panel of 20 nodes misses it.
        let w = 1e-4;
        let f = |x: f64| w / (x * x + w * w);
        let want = (0.3 / w).atan() + (0.9 / w).atan();
        let rule = IntervalRule::new(20).unwrap();
        assert!((rule.integral(-0.3, 0.9, f) - want).abs() > 0.1);
        assert!((rule.adaptive(-0.3, 0.9, 1e-13, f).unwrap() - want).abs() <= 1e-12 * want);
    }

    #[test]
    fn refuses_what_it_cannot_do() {
        let rule = IntervalRule::new(8).unwrap();
        assert!(rule.adaptive(0.0, 1.0, 1e-12, |x| 1.0 / x).is_err());
        assert!(rule.adaptive(0.0, f64::INFINITY, 1e-12, |x| x).is_err());
        assert!(rule.adaptive(-1.0, 1.0, 1e-12, |x| x).unwrap().abs() <= 1e-15);
        assert!(
            NormalRule::new(1).is_err()
                && NormalRule::new(1000).is_err()
                && IntervalRule::new(0).is_err()
        );
    }

    proptest! {
        /// The promise itself, at two nodes, where the estimated error is close to the true one:
        /// `tol int |f|`, at any place and scale.
        #[test]
        fn adaptive_errors_are_a_share_of_the_integral(k in 1.0..4.0f64, scale in -12.0..3.0f64, digits in 5.0..9.0f64) {
            let rule = IntervalRule::new(2).unwrap();
            let (scale, tol) = (10f64.powf(scale), 10f64.powf(-digits));
            for (a, width) in [(0.0, 1.0), (1000.0, 1.0), (-50.0, 100.5)] {
                let f = |x: f64| scale * (k * (x - a) / width).exp();
                let want = scale * width / k * k.exp_m1();
                let got = rule.adaptive(a, a + width, tol, f).unwrap();
                prop_assert!((got - want).abs() <= tol * want, "{} {want}", got - want);
            }
        }
    }

    #[test]
    fn sixty_halvings_are_the_limit() {
        // 1/|x| down to 1e-19, 2^-63: till then the panel at 0 is at each halving as wrong as
        // before.
        let rule = IntervalRule::new(8).unwrap();
        let f = |x: f64| x.hypot(1e-19).recip();
        for (a, b) in [(0.0, 1.0), (-1.0, 0.0)] {
            assert!(matches!(rule.adaptive(a, b, 1e-6, f), Err(Error::Singular { .. })));
            assert!(rule.adaptive(a / 1e3, b / 1e3, 1e-6, f).is_ok());
        }
    }

    #[test]
    fn what_is_no_integral_is_named() {
        let rule = IntervalRule::new(8).unwrap();
        let inf = f64::INFINITY;
        for (a, b, tol) in [
            (inf, 1.0, 1e-6),
            (0.0, inf, 1e-6),
            (f64::NAN, 1.0, 1e-6),
            (0.0, 1.0, 0.0),
            (0.0, 1.0, -1.0),
            (0.0, 1.0, f64::NAN),
        ] {
            assert!(
                matches!(rule.adaptive(a, b, tol, |x| x), Err(Error::Domain { .. })),
                "[{a}, {b}] at {tol}"
            );
        }
    }

    #[test]
    fn nodes_are_those_of_the_unit_interval() {
        let rule = IntervalRule::new(12).unwrap();
        for k in 0..24 {
            let got: f64 = rule.nodes().map(|(x, w)| w * x.powi(k)).sum();
            assert!((got * f64::from(k + 1) - 1.0).abs() <= 1e-14, "{k}: {got}");
        }
    }
}
