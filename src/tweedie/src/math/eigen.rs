//! The symmetric eigenproblem behind one function: nalgebra, faer with `--features fast`, LAPACK
//! with `--features lapack`.

use crate::error::{Error, Result, finite};
use crate::math::larger;
use crate::math::scalar::{exponent, ldexp};
use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut1, ShapeBuilder};

/// `A = U diag(values) U^T` with the values in descending order.
///
/// Each eigenvector's largest component is positive, so that pictures and files do not flip from
/// one machine to another. Eigenvectors of one repeated eigenvalue are any orthonormal basis of its
/// space.
#[derive(Clone, Debug)]
pub struct Eigen {
    /// Eigenvalues, largest first, shape (d).
    pub values: Array1<f64>,
    /// Eigenvectors as columns, shape (d, d), column-major: `vectors.column(k)` belongs to
    /// `values[k]`.
    pub vectors: Array2<f64>,
}

/// Whether LAPACK is built in (`--features lapack`).
pub const LAPACK: bool = cfg!(feature = "lapack");

/// Who solves the eigenproblem.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Backend {
    /// nalgebra's, always there.
    Nalgebra,
    /// faer's, on all threads (`--features fast`), the default where it is built.
    #[cfg(feature = "fast")]
    Faer,
    /// The system's LAPACK through ndarray-linalg (`--features lapack`), the default before all
    /// where it is built.
    #[cfg(feature = "lapack")]
    Lapack,
}

impl Default for Backend {
    fn default() -> Self {
        #[cfg(feature = "lapack")]
        return Self::Lapack;
        #[cfg(all(feature = "fast", not(feature = "lapack")))]
        return Self::Faer;
        #[cfg(not(any(feature = "fast", feature = "lapack")))]
        Self::Nalgebra
    }
}

/// All eigenvalues and eigenvectors of a symmetric matrix (only its lower triangle is read) by the
/// default [`Backend`]; to the bit the same on any number of threads ([`Backend::Faer`]).
///
/// # Errors
/// A matrix that is not square, holds NaN or infinity, or on which the iteration does not converge.
///
/// # Example
/// ```
/// let e = tweedie::math::eigen::symmetric_eigen(ndarray::array![[2.0, 1.0], [1.0, 2.0]].view()).unwrap();
/// assert!((e.values[0] - 3.0).abs() < 1e-15 && (e.values[1] - 1.0).abs() < 1e-15);
/// ```
pub fn symmetric_eigen(a: ArrayView2<f64>) -> Result<Eigen> {
    symmetric_eigen_with(Backend::default(), a)
}

/// [`symmetric_eigen`] by a named [`Backend`].
///
/// # Errors
/// As [`symmetric_eigen`].
pub fn symmetric_eigen_with(backend: Backend, a: ArrayView2<f64>) -> Result<Eigen> {
    let (n, m) = a.dim();
    if n != m {
        return Err(Error::shape(
            "symmetric matrix",
            a.shape(),
            "a square matrix",
            "pass a covariance of shape (d, d)",
        ));
    }
    finite("symmetric matrix", a.iter())?;
    if n == 0 {
        return Ok(Eigen { values: Array1::zeros(0), vectors: Array2::zeros((0, 0)) });
    }
    // The iteration forms products of two entries, which a power of two keeps in range.
    let unit = exponent(a.iter().map(|x| x.abs()).fold(0.0, larger));
    if unit.abs() > 300 {
        let mut e = symmetric_eigen_with(backend, a.mapv(|x| ldexp(x, -unit)).view())?;
        e.values.mapv_inplace(|v| ldexp(v, unit));
        return Ok(e);
    }
    let mut e = match backend {
        Backend::Nalgebra => nalgebra_eigen(a)?,
        #[cfg(feature = "fast")]
        Backend::Faer => faer_eigen(a)?,
        #[cfg(feature = "lapack")]
        Backend::Lapack => lapack_eigen(a)?,
    };
    e.vectors.columns_mut().into_iter().for_each(orient);
    Ok(e)
}

/// Makes the first component within 1e-6 of the largest magnitude positive: the tolerance keeps
/// `[1, -1] / sqrt(2)`, whose two magnitudes differ by rounding alone, from flipping.
fn orient(mut u: ArrayViewMut1<f64>) {
    let largest = u.iter().map(|x| x.abs()).fold(0.0, larger);
    if u.iter().find(|x| x.abs() >= (1.0 - 1e-6) * largest).is_some_and(|x| *x < 0.0) {
        u.mapv_inplace(|x| -x);
    }
}

#[cfg(feature = "fast")]
fn faer_eigen(a: ArrayView2<f64>) -> Result<Eigen> {
    let (values, vectors) =
        tweedie_engines::eigen::symmetric(a).ok_or_else(|| no_convergence(a.nrows()))?;
    Ok(Eigen { values, vectors })
}

/// Sorted here, since the library leaves the values in the order of its iteration.
fn nalgebra_eigen(a: ArrayView2<f64>) -> Result<Eigen> {
    let n = a.nrows();
    let lower = DMatrix::from_fn(n, n, |i, j| a[[i.max(j), i.min(j)]]);
    let e = SymmetricEigen::try_new(lower, f64::EPSILON, 0).ok_or_else(|| no_convergence(n))?;
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| e.eigenvalues[j].total_cmp(&e.eigenvalues[i]));
    Ok(Eigen {
        values: order.iter().map(|&k| e.eigenvalues[k]).collect(),
        vectors: Array2::from_shape_fn((n, n).f(), |(i, j)| e.eigenvectors[(i, order[j])]),
    })
}

/// By `-A` too, for the order.
#[cfg(feature = "lapack")]
fn lapack_eigen(a: ArrayView2<f64>) -> Result<Eigen> {
    use ndarray_linalg::{Eigh, UPLO};
    // ndarray-linalg reads the other triangle of a row-major matrix than the one it is asked for:
    // both hold the same here.
    let negative = Array2::from_shape_fn(a.raw_dim(), |(i, j)| -a[[i.max(j), i.min(j)]]);
    let (values, vectors) = negative.eigh(UPLO::Lower).map_err(|_| no_convergence(a.nrows()))?;
    Ok(Eigen { values: -values, vectors })
}

fn no_convergence(n: usize) -> Error {
    Error::domain(
        "symmetric eigenproblem",
        format!("no convergence at d = {n}"),
        "a finite symmetric matrix",
        "check the scale of the data",
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::matmul::matmul;
    use crate::math::noise::Noise;
    use nalgebra::DMatrix;
    use ndarray::{Axis, array};
    use proptest::prelude::*;
    #[cfg(feature = "fast")]
    use tweedie_engines::eigen::{PARALLEL_FROM, SHARES};

    /// `B B^T` with B (d, r): a covariance of rank r.
    fn random_cov(d: usize, r: usize, seed: u64) -> Array2<f64> {
        let noise = Noise::new(seed);
        let b = Array2::from_shape_fn((d, r), |(i, j)| noise.normal(0, (i * r + j) as u64));
        b.dot(&b.t())
    }

    /// Largest errors of `A = U S U^T` and `U^T U = I`, both relative to `d eps`: of the order of 1
    /// for a backward stable solver.
    fn defects(a: &Array2<f64>, e: &Eigen) -> (f64, f64) {
        let d = a.nrows();
        let unit = (d.max(4) as f64) * f64::EPSILON;
        let mut back = Array2::zeros((d, d));
        matmul(1.0, (&e.vectors * &e.values).view(), e.vectors.t(), 0.0, back.view_mut());
        let norm = e.values.iter().map(|v| v.abs()).fold(f64::MIN_POSITIVE, larger);
        let gram = e.vectors.t().dot(&e.vectors) - Array2::<f64>::eye(d);
        let largest = |m: &Array2<f64>| m.iter().map(|x| x.abs()).fold(0.0, larger);
        (largest(&(&back - a)) / (unit * norm), largest(&gram) / unit)
    }

    fn assert_eigen(a: &Array2<f64>, backend: Backend) {
        let e = symmetric_eigen_with(backend, a.view()).unwrap();
        let (reconstruction, orthogonality) = defects(a, &e);
        assert!(reconstruction <= 8.0 && orthogonality <= 8.0, "{reconstruction} {orthogonality}");
        assert!(e.values.windows(2).into_iter().all(|w| w[0] >= w[1]));
        for u in e.vectors.axis_iter(Axis(1)) {
            let largest = u.iter().map(|x| x.abs()).fold(0.0, larger);
            assert!(u.iter().find(|x| x.abs() >= (1.0 - 1e-6) * largest).is_none_or(|x| *x > 0.0));
        }
    }

    /// Those that are compiled, the one of every build first.
    const BACKENDS: &[Backend] = &[
        Backend::Nalgebra,
        #[cfg(feature = "fast")]
        Backend::Faer,
        #[cfg(feature = "lapack")]
        Backend::Lapack,
    ];

    proptest! {
        #[test]
        fn reconstructs_and_agrees_with_nalgebra(d in 1usize..24, deficiency in 0usize..24, seed: u64) {
            let a = random_cov(d, d.saturating_sub(deficiency).max(1), seed);
            BACKENDS.iter().for_each(|backend| assert_eigen(&a, *backend));
            let e = symmetric_eigen(a.view()).unwrap();
            let mut want: Vec<f64> = DMatrix::from_fn(d, d, |i, j| a[[i, j]]).symmetric_eigen().eigenvalues.iter().copied().collect();
            want.sort_by(|x, y| y.total_cmp(x));
            for (got, want) in e.values.iter().zip(&want) {
                // Weyl: each backward stable solver moves an eigenvalue by at most its own d eps
                // |A|.
                prop_assert!((got - want).abs() <= 16.0 * d.max(4) as f64 * f64::EPSILON * e.values[0]);
            }
        }
    }

    #[test]
    fn degenerate_matrices() {
        for &backend in BACKENDS {
            for d in [1, 2, 7, 130] {
                assert_eigen(&Array2::eye(d), backend);
                assert_eigen(&Array2::zeros((d, d)), backend);
                assert_eigen(&Array2::ones((d, d)), backend);
                assert_eigen(&random_cov(d, 1, 5), backend);
            }
            assert_eigen(&array![[-2.0]], backend);
            assert_eigen(&array![[0.0, 1e-200], [1e-200, 0.0]], backend);
            assert_eigen(&array![[1e200, 1e199], [1e199, -1e200]], backend);
            for unit in [1e-300, 1e300] {
                let e =
                    symmetric_eigen_with(backend, (array![[2.0, 1.0], [1.0, 2.0]] * unit).view())
                        .unwrap();
                assert!(
                    (e.values[0] / unit - 3.0).abs() <= 1e-14
                        && (e.values[1] / unit - 1.0).abs() <= 1e-14
                );
            }
            assert_eq!(
                symmetric_eigen_with(backend, Array2::zeros((0, 0)).view()).unwrap().values.len(),
                0
            );
        }
        assert_eq!(symmetric_eigen(array![[-2.0]].view()).unwrap().vectors, array![[1.0]]);
    }

    #[test]
    fn sign_does_not_depend_on_the_input_sign_of_the_basis() {
        let e = symmetric_eigen(array![[1.0, -1.0], [-1.0, 1.0]].view()).unwrap();
        assert!(e.vectors[[0, 0]] > 0.0 && e.vectors[[1, 0]] < 0.0);
    }

    #[test]
    #[cfg(feature = "fast")]
    fn large_matrix_on_all_threads() {
        assert_eigen(&random_cov(PARALLEL_FROM, 150, 9), Backend::Faer);
    }

    #[test]
    #[cfg(feature = "fast")]
    fn results_do_not_depend_on_the_number_of_threads() {
        for d in [PARALLEL_FROM - 1, PARALLEL_FROM, 500] {
            let a = random_cov(d, d - 100, 4);
            let on = |threads: usize| {
                let pool = rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
                let e = pool.install(|| symmetric_eigen_with(Backend::Faer, a.view()).unwrap());
                (e.values, e.vectors)
            };
            let one = on(1);
            for threads in [2, 3, SHARES + 1] {
                assert!(on(threads) == one, "d = {d} on {threads} threads");
            }
        }
    }

    /// Problems that share the pool wait for each other's workers, and must not wait for ever.
    #[test]
    #[cfg(feature = "fast")]
    fn large_matrices_from_within_the_pool() {
        use rayon::prelude::*;
        (0..6)
            .into_par_iter()
            .for_each(|seed| assert_eigen(&random_cov(PARALLEL_FROM, 20, seed), Backend::Faer));
    }

    #[test]
    fn reads_the_lower_triangle_only() {
        let mut a = random_cov(5, 5, 3);
        let want = symmetric_eigen(a.view()).unwrap();
        for i in 0..5 {
            for j in i + 1..5 {
                a[[i, j]] = 7.0;
            }
        }
        assert_eq!(symmetric_eigen(a.view()).unwrap().values, want.values);
    }

    #[test]
    fn refuses_bad_matrices() {
        assert!(symmetric_eigen(Array2::zeros((2, 3)).view()).is_err());
        assert!(symmetric_eigen(array![[f64::NAN]].view()).is_err());
    }

    #[cfg(feature = "lapack")]
    #[test]
    fn lapack_and_faer_agree() {
        for (d, r) in [(1, 1), (2, 1), (30, 30), (64, 20), (200, 200)] {
            let a = random_cov(d, r, d as u64);
            let (x, y) = (
                symmetric_eigen_with(Backend::Faer, a.view()).unwrap(),
                symmetric_eigen_with(Backend::Lapack, a.view()).unwrap(),
            );
            for k in 0..d {
                let unit = 16.0 * d.max(4) as f64 * f64::EPSILON * x.values[0];
                assert!((x.values[k] - y.values[k]).abs() <= unit, "d = {d}, k = {k}");
                // Davis-Kahan: a simple eigenvector moves by at most the perturbation over its gap.
                let gap = (0..d)
                    .filter(|&j| j != k)
                    .map(|j| (x.values[j] - x.values[k]).abs())
                    .fold(f64::INFINITY, crate::math::smaller);
                let difference =
                    (&x.vectors.column(k) - &y.vectors.column(k)).mapv(|v| v * v).sum().sqrt();
                if gap > 1e3 * unit {
                    assert!(
                        difference <= 4.0 * unit / gap,
                        "d = {d}, k = {k}: {difference} at gap {gap}"
                    );
                }
            }
        }
    }
}
