//! Measured order of convergence: from errors at several numbers of steps to a slope with its
//! standard error.

use crate::error::{Error, Result};
use nalgebra::{DMatrix, DVector};

/// A measured order.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct Order {
    /// `p` of `error ~ steps^-p`.
    #[serde(serialize_with = "crate::number::or_word")]
    pub slope: f64,
    /// Its standard error, from how far the errors are off the fitted law.
    #[serde(serialize_with = "crate::number::or_word")]
    pub stderr: f64,
    /// Runs used: those with the most steps whose error is above rounding.
    pub runs: usize,
}

/// Fits `ln error = c - p ln steps + b / steps` to the tail of a convergence study.
///
/// The term `b / steps` is the method's next order: without it the slope of a finite tail is off by
/// `b / steps`, with it only by the order after that. Errors at or below `floor` (rounding) are
/// left out; the last `TAIL` of the others are used, and where only three are left the term is
/// dropped.
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
        return Err(Error::shape(
            "errors",
            &[errors.len()],
            format!("({},), one a number of steps", steps.len()),
            "pass pairs",
        ));
    }
    crate::error::finite("errors", errors)?;
    let mut runs: Vec<(f64, f64)> = steps
        .iter()
        .zip(errors)
        .filter(|(_, e)| **e > floor)
        .map(|(n, e)| (*n as f64, e.ln()))
        .collect();
    runs.sort_by(|a, b| a.0.total_cmp(&b.0));
    let runs = &runs[runs.len().saturating_sub(TAIL)..];
    let n = runs.len();
    if n < 3 {
        let got = format!("{n} errors above {floor:e}");
        return Err(Error::domain(
            "convergence study",
            got,
            "three or more",
            "run more numbers of steps, or fewer steps each",
        ));
    }
    let rows: Vec<(f64, f64, f64)> = runs.iter().map(|r| (r.0, r.1, 1.0)).collect();
    let (slope, var, scatter) = fitted(&rows)?;
    Ok(Order { slope, stderr: (scatter * var).sqrt(), runs: n })
}

/// Weighted least squares of `ln error = c - p ln steps + b / steps` on rows (steps, ln error,
/// weight), without the last term for three rows: p, its variance if the weights are inverse
/// variances, and the mean square of the weighted residuals.
fn fitted(rows: &[(f64, f64, f64)]) -> Result<(f64, f64, f64)> {
    let (n, terms) = (rows.len(), if rows.len() == 3 { 2 } else { 3 });
    let root = |i: usize| rows[i].2.sqrt();
    let design = DMatrix::from_fn(n, terms, |i, j| {
        root(i)
            * match j {
                0 => 1.0,
                1 => -rows[i].0.ln(),
                _ => 1.0 / rows[i].0,
            }
    });
    let y = DVector::from_fn(n, |i, _| root(i) * rows[i].1);
    let singular = || {
        Error::domain(
            "numbers of steps",
            "equal ones",
            "different ones",
            "double the steps from run to run",
        )
    };
    let inverse = (design.transpose() * &design).try_inverse().ok_or_else(singular)?;
    let fit = &inverse * design.transpose() * &y;
    let scatter = (y - design * &fit).norm_squared() / (n - terms) as f64;
    Ok((fit[1], inverse[(1, 1)], scatter))
}

/// [`order`] of errors that have standard errors of their own: each run weighs as much as it is
/// known.
///
/// Runs below two standard errors are left out. The standard error of the order is the runs', or
/// what their scatter about the fit says if that is more: a tail that is not straight yet scatters
/// too.
///
/// # Errors
/// Lengths that differ; fewer than three runs left; NaN.
pub fn sampled_order(steps: &[usize], errors: &[f64], stderrs: &[f64]) -> Result<Order> {
    if steps.len() != errors.len() || stderrs.len() != errors.len() {
        let got = [errors.len(), stderrs.len()];
        return Err(Error::shape(
            "errors",
            &got,
            format!("({0}), ({0}): one a number of steps", steps.len()),
            "pass triples",
        ));
    }
    crate::error::finite("errors", errors.iter().chain(stderrs))?;
    let triples = steps.iter().zip(errors).zip(stderrs);
    let rows: Vec<(f64, f64, f64)> = triples
        .filter(|((_, e), s)| **e > 2.0 * **s)
        .map(|((n, e), s)| (*n as f64, e.ln(), (e / s).powi(2)))
        .collect();
    if rows.len() < 3 {
        let got = format!("{} errors above two standard errors", rows.len());
        return Err(Error::domain(
            "convergence study",
            got,
            "three or more",
            "draw more chains, or take fewer steps",
        ));
    }
    let (slope, var, scatter) = fitted(&rows)?;
    Ok(Order { slope, stderr: (scatter.max(1.0) * var).sqrt(), runs: rows.len() })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::noise::Noise;

    #[test]
    fn the_next_order_is_told_apart() {
        let steps = [4, 8, 16, 32, 64];
        for p in 1..=4 {
            let errors = steps.map(|n| (n as f64).powi(-p) * (1.0 + 2.0 / n as f64));
            let fit = order(&steps, &errors, 1e-14).unwrap();
            assert!((fit.slope - f64::from(p)).abs() <= 0.03, "{fit:?}");
        }
        assert!(order(&steps, &[1.0, 0.5, 0.0, 0.0, 0.0], 1e-12).is_err());
        assert!(order(&steps, &[f64::NAN; 5], 1e-12).is_err());
    }

    /// Its standard error covers the truth as often as one of a normal should.
    #[test]
    fn a_sampled_order_knows_how_well_it_is_known() {
        let (steps, noise) = ([8, 16, 32, 64], Noise::new(1));
        let off = |trial: u64| {
            let error = |k: usize| (1.0 + 1.0 / steps[k] as f64) * 8.0 / steps[k] as f64;
            let errors: Vec<f64> =
                (0..4).map(|k| error(k) + 0.01 * noise.normal(trial, k as u64)).collect();
            let fit = sampled_order(&steps, &errors, &[0.01; 4]).unwrap();
            (fit.slope - 1.0) / fit.stderr
        };
        let beyond = (0..1000).filter(|&trial| off(trial).abs() > 2.0).count();
        // 4.6 % of normals; the standard error is at least the nominal one, so fewer rather than
        // more: 4 standard errors of a count above.
        assert!(beyond <= 46 + 4 * 7, "{beyond}");
        assert!(sampled_order(&steps, &[0.5, 0.01, 0.01, 0.01], &[0.01; 4]).is_err());
        assert!(sampled_order(&steps, &[0.5; 4], &[0.01; 3]).is_err());
    }
}
