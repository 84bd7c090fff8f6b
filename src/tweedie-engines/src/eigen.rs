//! The symmetric eigenproblem by faer.

use faer::dyn_stack::{MemBuffer, MemStack};
use faer::linalg::evd::{ComputeEigenvectors, self_adjoint_evd, self_adjoint_evd_scratch};
use ndarray::{Array1, Array2, ArrayView2, ShapeBuilder};

/// From here on two threads gain.
pub const PARALLEL_FROM: usize = 384;

/// How many shares a parallel eigenproblem is cut into, on any number of threads; more threads than
/// that are not used.
pub const SHARES: usize = 8;

/// Eigenvalues of a symmetric matrix, largest first, and its eigenvectors as columns of a
/// column-major array; only the lower triangle is read. None where the iteration does not converge.
///
/// Solves for `-A`, whose ascending order is `A`'s descending one: what the solver writes is then
/// the answer, and is not copied.
pub fn symmetric(a: ArrayView2<f64>) -> Option<(Array1<f64>, Array2<f64>)> {
    let n = a.nrows();
    let negative = faer::Mat::from_fn(n, n, |i, j| if i >= j { -a[[i, j]] } else { 0.0 });
    let (mut values, mut vectors) = (Array1::zeros(n), vec![0.0; n * n]);
    let mut solve = |threads| {
        let scratch = self_adjoint_evd_scratch::<f64>(
            n,
            ComputeEigenvectors::Yes,
            threads,
            Default::default(),
        );
        self_adjoint_evd(
            negative.as_ref(),
            faer::diag::DiagMut::from_slice_mut(
                values.as_slice_mut().expect("one block of memory"),
            ),
            Some(faer::MatMut::from_column_major_slice_mut(&mut vectors, n, n)),
            threads,
            MemStack::new(&mut MemBuffer::new(scratch)),
            Default::default(),
        )
    };
    let solved = if n < PARALLEL_FROM {
        solve(faer::Par::Seq)
    } else {
        // The order of sums follows from the number of shares that the work is cut into, whoever
        // does them: as it is the same everywhere, so is the result. The reduction to tridiagonal
        // form meets twice a column: workers that stay awake between meetings take 19 ms at d = 784
        // where the pool's sleeping ones take 40 and a single thread takes 27. Spinning longer than
        // this (some 0.2 ms) gains nothing on an idle machine, and on a busy one keeps the worker
        // that is waited for from running.
        spindle::SPIN_LIMIT.store(4096, std::sync::atomic::Ordering::Relaxed);
        spindle::with_lock(SHARES, || solve(faer::Par::rayon(SHARES)))
    };
    solved.ok()?;
    values.mapv_inplace(|v| 0.0 - v);
    Some((values, Array2::from_shape_vec((n, n).f(), vectors).expect("n columns of n")))
}
