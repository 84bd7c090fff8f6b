//! Gaussians whose covariances commute share their modes: one orthonormal basis in which each of them is diagonal.

use crate::error::{Error, Result};
use crate::law::Gaussian;
use crate::math::eigen::symmetric_eigen;
use ndarray::{Array1, Array2, Axis};

/// A basis in which several commuting covariances are diagonal.
pub(crate) struct SharedModes {
    /// Orthonormal columns, shape (d, d).
    pub modes: Array2<f64>,
    /// Variances of each law along the columns, shape (d) each.
    pub variances: Vec<Array1<f64>>,
}

/// The common modes of `laws`.
///
/// A law that has all its modes distinct fixes the basis; otherwise (equal variances, low rank) a combination of the covariances with
/// incommensurable weights does.
///
/// # Errors
/// Dimensions that differ; covariances that do not commute (beyond rounding).
pub(crate) fn shared_modes(laws: &[&Gaussian]) -> Result<SharedModes> {
    let d = laws[0].dim();
    if let Some(other) = laws.iter().find(|l| l.dim() != d) {
        return Err(Error::shape(
            "mean",
            &[other.dim()],
            format!("({d},), the other law's dimension"),
            "pass laws on the same space",
        ));
    }
    // A stored basis keeps each variance to its last digit, also the smallest; so it is tried first.
    let stored = laws.iter().filter(|l| l.rank() == d).map(|l| Ok(l.modes().to_owned()));
    let combined = [0.0, 1.0, 2.0].into_iter().map(|shift: f64| {
        let mut sum = Array2::zeros((d, d));
        for (i, law) in laws.iter().enumerate() {
            let largest = law.variances().iter().fold(f64::MIN_POSITIVE, |m: f64, v| m.max(*v));
            let weight = (2.0 + shift + (i as f64).sqrt()).sqrt() / largest;
            let scaled = &law.modes() * &law.variances().mapv(|v| v * weight);
            sum += &scaled.dot(&law.modes().t());
        }
        symmetric_eigen(sum.view()).map(|e| e.vectors)
    });
    for modes in stored.chain(combined) {
        let modes = modes?;
        if let Some(variances) = laws.iter().map(|l| diagonal_in(&modes, l)).collect() {
            return Ok(SharedModes { modes, variances });
        }
    }
    Err(Error::domain(
        "covariances",
        "a pair that does not commute",
        "commuting covariances (shared modes)",
        "diagonalise both in one basis",
    ))
}

/// Variances of `law` along the columns of `modes`, or `None` if it is not diagonal there.
fn diagonal_in(modes: &Array2<f64>, law: &Gaussian) -> Option<Array1<f64>> {
    // Rows of the factor are what the modes see of each stored mode: cov = factor factor^T.
    let factor = modes.t().dot(&law.modes()) * &law.variances().mapv(f64::sqrt);
    let norms: Array1<f64> = factor.map_axis(Axis(1), |row| row.dot(&row));
    let largest = norms.iter().fold(0.0, |m: f64, v| m.max(*v));
    let cov = factor.dot(&factor.t());
    // Orthonormal to a few eps times d: what is smaller than that against the largest variance is rounding.
    let rounding = 64.0 * f64::EPSILON * modes.nrows() as f64 * largest;
    cov.indexed_iter().all(|((i, j), v)| i == j || v.abs() <= rounding).then_some(norms)
}
