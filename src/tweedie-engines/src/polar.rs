//! The polar decomposition by faer.

use ndarray::{Array2, ArrayView2};

/// The orthogonal factor `U V^T` of a square matrix `U S V^T`. None where the iteration does not
/// converge.
pub fn orthogonal(a: ArrayView2<f64>) -> Option<Array2<f64>> {
    let n = a.nrows();
    let svd = faer::Mat::from_fn(n, n, |i, j| a[[i, j]]).svd().ok()?;
    let polar = svd.U() * svd.V().transpose();
    Some(Array2::from_shape_fn((n, n), |(i, j)| polar[(i, j)]))
}
