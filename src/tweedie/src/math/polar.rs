//! The orthogonal factor of a square matrix, and the sum of singular values of any: by faer with
//! the feature `fast`, by one-sided Jacobi rotations without it.

use crate::error::{Error, Result};
use nalgebra::DMatrix;
use ndarray::ArrayView2;

/// `U V^T` of a square matrix `U S V^T`: the orthogonal matrix nearest to it. Where singular values
/// are 0 it is one of several.
///
/// # Errors
/// An iteration that does not converge.
///
/// # Source
/// Without `fast`: Demmel and Veselic, "Jacobi's method is more accurate than QR", 1992. nalgebra
/// 0.35's own SVD misses its matrix by up to 1e-6, for 1 in 1000 products of random 4 x 4 roots.
pub fn orthogonal_factor(a: &DMatrix<f64>) -> Result<DMatrix<f64>> {
    #[cfg(feature = "fast")]
    let factor = by_faer(a);
    #[cfg(not(feature = "fast"))]
    let factor = by_jacobi(a);
    factor.ok_or_else(no_convergence)
}

/// The sum of the singular values of a matrix, `tr (A^T A)^(1/2)`.
///
/// # Errors
/// An iteration that does not converge.
///
/// # Example
/// ```
/// let a = ndarray::array![[0.0, -3.0], [2.0, 0.0], [0.0, 4.0]];
/// assert!((tweedie::math::polar::nuclear_norm(a.view()).unwrap() - 7.0).abs() <= 1e-14);
/// ```
pub fn nuclear_norm(a: ArrayView2<f64>) -> Result<f64> {
    #[cfg(feature = "fast")]
    let values = tweedie_engines::polar::singular_values(a);
    #[cfg(not(feature = "fast"))]
    let values = lengths_by_jacobi(a);
    Ok(values.ok_or_else(no_convergence)?.iter().sum())
}

fn no_convergence() -> Error {
    Error::domain(
        "singular values",
        "no convergence",
        "finite covariances",
        "check the scale of the data",
    )
}

#[cfg(feature = "fast")]
fn by_faer(a: &DMatrix<f64>) -> Option<DMatrix<f64>> {
    let view = ndarray::Array2::from_shape_fn((a.nrows(), a.ncols()), |k| a[k]);
    let factor = tweedie_engines::polar::orthogonal(view.view())?;
    Some(DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| factor[[i, j]]))
}

/// The singular values, in any order.
#[cfg(any(test, not(feature = "fast")))]
fn lengths_by_jacobi(a: ArrayView2<f64>) -> Option<Vec<f64>> {
    // Pairs of columns are turned: of the transpose, where it has fewer.
    let a = if a.nrows() < a.ncols() { a.reversed_axes() } else { a };
    let a = DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]]);
    Some(turned(a)?.0.column_iter().map(|c| c.norm()).collect())
}

/// [`orthogonal_factor`] by Jacobi rotations.
#[cfg(any(test, not(feature = "fast")))]
fn by_jacobi(a: &DMatrix<f64>) -> Option<DMatrix<f64>> {
    let (us, v) = turned(a.clone())?;
    Some(completed(us) * v.transpose())
}

/// Turns pairs of columns of `A` until all are orthogonal: `A V = U S`, column by column; `U S` and
/// `V`.
#[cfg(any(test, not(feature = "fast")))]
fn turned(mut us: DMatrix<f64>) -> Option<(DMatrix<f64>, DMatrix<f64>)> {
    const SWEEPS: usize = 60;
    let n = us.ncols();
    let mut v = DMatrix::<f64>::identity(n, n);
    let small = n as f64 * f64::EPSILON;
    // A column that is rounding beside the whole has no direction that could settle.
    let rounding = small * us.norm();
    for _ in 0..SWEEPS {
        let mut turned = false;
        for p in 0..n {
            for q in p + 1..n {
                let (x, y) = (us.column(p).norm(), us.column(q).norm());
                let dot = us.column(p).dot(&us.column(q));
                if !dot.is_finite() {
                    return None;
                }
                if dot.abs() <= small * x * y || x.min(y) <= rounding {
                    continue;
                }
                turned = true;
                let zeta = (y - x) * (y + x) / (2.0 * dot);
                let t = zeta.signum() / (zeta.abs() + zeta.hypot(1.0));
                let c = t.hypot(1.0).recip();
                for m in [&mut us, &mut v] {
                    for i in 0..m.nrows() {
                        let (a, b) = (m[(i, p)], m[(i, q)]);
                        (m[(i, p)], m[(i, q)]) = (c * (a - t * b), c * (t * a + b));
                    }
                }
            }
        }
        if !turned {
            return Some((us, v));
        }
    }
    None
}

/// Columns of length 1; those of length 0, and what is rounding beside the longest, become
/// directions that the others leave free.
#[cfg(any(test, not(feature = "fast")))]
fn completed(mut us: DMatrix<f64>) -> DMatrix<f64> {
    let n = us.ncols();
    let lengths: Vec<f64> = us.column_iter().map(|c| c.norm()).collect();
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by(|&i, &j| lengths[j].total_cmp(&lengths[i]));
    let floor = n as f64 * f64::EPSILON * order.first().map_or(0.0, |&k| lengths[k]);
    for k in 0..n {
        let j = order[k];
        let mut column = us.column(j).clone_owned();
        if lengths[j] <= floor {
            // Of the axes the one that is farthest from all directions so far.
            let free =
                |i: usize| 1.0 - order[..k].iter().map(|&l| us[(i, l)] * us[(i, l)]).sum::<f64>();
            let axis = (0..n).max_by(|&a, &b| free(a).total_cmp(&free(b))).unwrap_or(0);
            column.fill(0.0);
            column[axis] = 1.0;
            // Twice, for the digits.
            for _ in 0..2 {
                for &l in &order[..k] {
                    let other = us.column(l).clone_owned();
                    column -= &other * other.dot(&column);
                }
            }
        }
        us.set_column(j, &(&column / column.norm()));
    }
    us
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::eigen::symmetric_eigen;
    use crate::math::noise::Noise;
    use ndarray::Array2;

    fn random(n: usize, seed: u64) -> DMatrix<f64> {
        let mut x = vec![0.0; n * n];
        Noise::new(seed).fill_normal(0, &mut x);
        DMatrix::from_vec(n, n, x)
    }

    /// `Q^T Q = 1`, and `Q^T A` is symmetric with eigenvalues >= 0, which only the orthogonal
    /// factor does.
    fn assert_factor(a: &DMatrix<f64>, q: &DMatrix<f64>) {
        let n = a.ncols();
        assert!((q.transpose() * q - DMatrix::identity(n, n)).amax() <= 1e-13 * n as f64);
        let h = q.transpose() * a;
        assert!((&h - h.transpose()).amax() <= 1e-13 * n as f64 * a.norm());
        assert!(h.symmetric_eigenvalues().min() >= -1e-13 * n as f64 * a.norm());
    }

    #[test]
    fn both_ways_find_the_factor() {
        for n in [1, 2, 3, 5, 8, 20] {
            for seed in 0..40 {
                let a = random(n, seed);
                for scale in [1.0, 1e-100, 1e100] {
                    let a = &a * scale;
                    let q = by_jacobi(&a).unwrap();
                    assert_factor(&a, &q);
                    assert!((&q - orthogonal_factor(&a).unwrap()).amax() <= 1e-9, "{n} {seed}");
                }
            }
        }
    }

    /// Both ways, and `tr (A^T A)^(1/2)` by the eigenproblem, which squares and so keeps half the
    /// digits.
    #[test]
    fn singular_values_add_up() {
        for (n, m) in [(1, 1), (5, 2), (2, 5), (20, 20), (30, 7), (400, 390)] {
            let square = random(n.max(m), 1);
            let a = Array2::from_shape_fn((n, m), |(i, j)| square[(i, j)]);
            let got = nuclear_norm(a.view()).unwrap();
            if n < 100 {
                let want: f64 = lengths_by_jacobi(a.view()).unwrap().iter().sum();
                assert!((got - want).abs() <= 1e-13 * want, "{n} {m}: {got} {want}");
            }
            let values = symmetric_eigen(a.t().dot(&a).view()).unwrap().values;
            let want: f64 = values.iter().map(|v| v.max(0.0).sqrt()).sum();
            assert!((got - want).abs() <= 1e-6 * want, "{n} {m}: {got} {want}");
        }
        assert_eq!(nuclear_norm(Array2::zeros((3, 2)).view()).unwrap(), 0.0);
    }

    #[test]
    fn singular_matrices_have_a_factor() {
        for n in [2, 4, 7] {
            let mut a = random(n, 3);
            a.column_mut(0).fill(0.0);
            assert_factor(&a, &by_jacobi(&a).unwrap());
            assert_factor(&a, &orthogonal_factor(&a).unwrap());
        }
        let zero = DMatrix::zeros(3, 3);
        assert_factor(&zero, &by_jacobi(&zero).unwrap());
        assert!(by_jacobi(&DMatrix::from_element(2, 2, f64::NAN)).is_none());
    }

    #[test]
    fn a_free_direction_is_found_beside_a_negative_one() {
        for first in [-1.0, 1.0] {
            let u = completed(DMatrix::from_row_slice(2, 2, &[first, 0.0, 0.0, 0.0]));
            assert!((u.transpose() * &u - DMatrix::identity(2, 2)).norm() <= 1e-15, "{u}");
        }
    }
}
