//! Measured order of convergence: from errors at several numbers of steps to a slope with its standard error.

use crate::error::{Error, Result};
use nalgebra::{DMatrix, DVector};

/// A measured order.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Order {
    /// `p` of `error ~ steps^-p`.
    pub slope: f64,
    /// Its standard error, from how far the errors are off the fitted law.
    pub stderr: f64,
    /// Runs used: those with the most steps whose error is above rounding.
    pub runs: usize,
}

/// Fits `ln error = c - p ln steps + b / steps` to the tail of a convergence study.
///
/// The term `b / steps` is the method's next order: without it the slope of a finite tail is off by `b / steps`, with it only by the order
/// after that. Errors at or below `floor` (rounding) are left out; the last `TAIL` of the others are used, and where only three are left
/// the term is dropped.
///
/// # Errors
/// Lengths that differ; fewer than three errors above the floor; an error that is NaN.
///
/// # Example
/// ```
/// use tweedie::sample::order::order;
/// let steps = [8, 16, 32, 64, 128];
/// let errors = steps.map(|n| { let h = 1.0 / n as f64; 3.0 * h * h * (1.0 + 2.0 * h) });
/// let fit = order(&steps, &errors, 1e-14).unwrap();
/// assert!((fit.slope - 2.0).abs() < 0.02);
/// ```
pub fn order(steps: &[usize], errors: &[f64], floor: f64) -> Result<Order> {
    /// Runs fitted.
    const TAIL: usize = 5;
    if steps.len() != errors.len() {
        return Err(Error::shape("errors", &[errors.len()], format!("({},), one a number of steps", steps.len()), "pass pairs"));
    }
    crate::error::finite("errors", errors)?;
    let mut runs: Vec<(f64, f64)> =
        steps.iter().zip(errors).filter(|(_, e)| **e > floor).map(|(n, e)| (*n as f64, e.ln())).collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let runs = &runs[runs.len().saturating_sub(TAIL)..];
    let n = runs.len();
    if n < 3 {
        let got = format!("{n} errors above {floor:e}");
        return Err(Error::domain("convergence study", got, "three or more", "run more numbers of steps, or fewer steps each"));
    }
    let terms = if n == 3 { 2 } else { 3 };
    let design = DMatrix::from_fn(n, terms, |i, j| match j {
        0 => 1.0,
        1 => -runs[i].0.ln(),
        _ => 1.0 / runs[i].0,
    });
    let y = DVector::from_fn(n, |i, _| runs[i].1);
    let singular = || Error::domain("numbers of steps", "equal ones", "different ones", "double the steps from run to run");
    let inverse = (design.transpose() * &design).try_inverse().ok_or_else(singular)?;
    let fit = &inverse * design.transpose() * &y;
    let residual = (y - design * &fit).norm_squared() / (n - terms) as f64;
    Ok(Order { slope: fit[1], stderr: (residual * inverse[(1, 1)]).sqrt(), runs: n })
}
