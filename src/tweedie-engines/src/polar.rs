//! The polar decomposition and singular values by faer.

use crate::eigen::{PARALLEL_FROM, SHARES};
use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::svd::{ComputeSvdVectors, svd, svd_scratch};
use ndarray::{Array2, ArrayView2};

/// The orthogonal factor `U V^T` of a square matrix `U S V^T`. None where the iteration does not
/// converge.
pub fn orthogonal(a: ArrayView2<f64>) -> Option<Array2<f64>> {
    let n = a.nrows();
    let svd = faer::Mat::from_fn(n, n, |i, j| a[[i, j]]).svd().ok()?;
    let polar = svd.U() * svd.V().transpose();
    Some(Array2::from_shape_fn((n, n), |(i, j)| polar[(i, j)]))
}

/// The singular values of a matrix, largest first, to the bit the same on any number of threads.
/// None where the iteration does not converge.
pub fn singular_values(a: ArrayView2<f64>) -> Option<Vec<f64>> {
    let (n, d) = a.dim();
    let a = a.as_standard_layout();
    // What lies row by row is the transpose column by column, of the same values.
    let columns =
        faer::MatRef::from_column_major_slice(a.as_slice().expect("standard layout"), d, n);
    let mut values = vec![0.0; n.min(d)];
    let none = ComputeSvdVectors::No;
    let mut solve = |threads| {
        let scratch = svd_scratch::<f64>(d, n, none, none, threads, Default::default());
        svd(
            columns,
            faer::diag::DiagMut::from_slice_mut(&mut values),
            None,
            None,
            threads,
            MemStack::new(&mut MemBuffer::new(scratch)),
            Default::default(),
        )
    };
    let solved = if n.min(d) < PARALLEL_FROM {
        solve(faer::Par::Seq)
    } else {
        // As in the eigenproblem, which meets as often.
        spindle::SPIN_LIMIT.store(4096, std::sync::atomic::Ordering::Relaxed);
        spindle::with_lock(SHARES, || solve(faer::Par::rayon(SHARES)))
    };
    solved.ok()?;
    Some(values)
}
