//! Gaussians whose covariances commute share their modes: one orthonormal basis in which each of
//! them is diagonal.

use crate::error::{Error, Result};
use crate::law::Gaussian;
use crate::math::eigen::symmetric_eigen;
use crate::math::larger;
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
/// A law that has all its modes distinct fixes the basis; otherwise (equal variances, low rank) a
/// combination of the covariances with incommensurable weights does.
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
    // A stored basis keeps each variance to its last digit, also the smallest; so it is tried
    // first.
    let stored = laws.iter().filter(|l| l.rank() == d).map(|l| Ok(l.modes().to_owned()));
    let combined = [0.0, 1.0, 2.0].into_iter().map(|shift: f64| {
        let mut sum = Array2::zeros((d, d));
        for (i, law) in laws.iter().enumerate() {
            let largest = law.variances().iter().copied().fold(f64::MIN_POSITIVE, larger);
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
    if modes == law.modes() {
        return Some(law.variances().to_owned());
    }
    // Rows of the factor are what the modes see of each stored mode: cov = factor factor^T.
    let factor = modes.t().dot(&law.modes()) * &law.variances().mapv(f64::sqrt);
    let norms: Array1<f64> = factor.map_axis(Axis(1), |row| row.dot(&row));
    let largest = norms.iter().copied().fold(0.0, larger);
    let cov = factor.dot(&factor.t());
    // Orthonormal to a few eps times d: what is smaller than that against the largest variance is
    // rounding.
    let share = 64.0 * f64::EPSILON * modes.nrows() as f64;
    let rounding = share * largest;
    // A mode without variance comes back as the square of its rounding, and two such laws would
    // differ by whatever that is.
    let nothing = share * rounding;
    let variances = norms.mapv(|v| if v <= nothing { 0.0 } else { v });
    cov.indexed_iter().all(|((i, j), v)| i == j || v.abs() <= rounding).then_some(variances)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::testing::*;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(16))]

        /// Laws that were diagonalised apart, and two functions of one covariance with repeated and
        /// with vanishing eigenvalues.
        #[test]
        fn functions_of_one_covariance_share_its_modes(d in prop::sample::select(vec![2usize, 5, 96]), scale in -8.0..8.0f64, seed: u64) {
            let modes = orthonormal(d, seed);
            let law = |f: &dyn Fn(usize) -> f64| {
                let cov = (&modes * &Array1::from_shape_fn(d, f)).dot(&modes.t());
                Gaussian::new(Array1::zeros(d), ((&cov + &cov.t()) * 0.5).view()).unwrap()
            };
            let scale = 10f64.powf(scale);
            let (a, b) = (law(&|k| scale * (1 + k % 2) as f64), law(&|k| if k < d / 2 { 0.0 } else { 3.0 + (k % 3) as f64 }));
            let shared = shared_modes(&[&a, &b]).unwrap();
            let size = [2.0 * scale, 5.0];
            for (k, law) in [&a, &b].into_iter().enumerate() {
                let back = (&shared.modes * &shared.variances[k]).dot(&shared.modes.t());
                // Eigenvectors are orthonormal to a few eps times d.
                prop_assert!(gap(&back, &law.matrix(|v| v)) <= 64.0 * f64::EPSILON * d as f64 * size[k]);
            }
        }
    }

    /// In a basis of neither law: what is no variance is 0, and what is a small one is kept.
    #[test]
    fn modes_without_variance_come_back_without() {
        let modes = orthonormal(6, 1);
        for scale in [1e-8, 1.0, 1e8] {
            let law = |v: [f64; 3]| {
                let v = Array1::from_shape_fn(6, |k| v.get(k).map_or(0.0, |v| v * scale));
                Gaussian::from_modes(Array1::zeros(6), v, modes.clone()).unwrap().truncated(3)
            };
            let shared = shared_modes(&[&law([2.0, 1.0, 1e-16]), &law([4.0, 3.0, 2.0])]).unwrap();
            for (got, want) in shared.variances.iter().zip([[1e-16, 1.0, 2.0], [2.0, 3.0, 4.0]]) {
                let mut got = got.to_vec();
                got.sort_by(f64::total_cmp);
                assert_eq!(got[..3], [0.0; 3]);
                assert!(
                    got[3..].iter().zip(want).all(|(g, w)| (g / (w * scale) - 1.0).abs() <= 1e-12),
                    "{got:?}"
                );
            }
        }
    }

    #[test]
    fn laws_that_do_not_fit_are_refused() {
        let law = |d| Gaussian::isotropic(Array1::zeros(d), 1.0).unwrap();
        assert!(matches!(shared_modes(&[&law(2), &law(3)]), Err(Error::Shape { .. })));
        // Off by 1e-9 from commuting: beyond rounding.
        let (a, b) =
            (ndarray::array![[2.0, 0.0], [0.0, 1.0]], ndarray::array![[1.0, 1e-9], [1e-9, 3.0]]);
        let [a, b] = [a, b].map(|cov| Gaussian::new(Array1::zeros(2), cov.view()).unwrap());
        assert!(matches!(shared_modes(&[&a, &b]), Err(Error::Domain { .. })));
    }
}
