//! Matrix products by the `gemm` crate.

use gemm::Parallelism;
use ndarray::{ArrayView2, ArrayViewMut2, LinalgScalar};

/// `out = scale * a b + keep * out` in f64, on all threads or on this one alone; `keep = 0` never
/// reads `out`. The shapes are the caller's promise, which is checked: (n, k), (k, m), (n, m).
pub fn f64(
    scale: f64,
    a: ArrayView2<f64>,
    b: ArrayView2<f64>,
    keep: f64,
    out: ArrayViewMut2<f64>,
    threads: bool,
) {
    product(scale, a, b, keep, out, threads);
}

/// [`f64()`] in f32.
pub fn f32(
    scale: f32,
    a: ArrayView2<f32>,
    b: ArrayView2<f32>,
    keep: f32,
    out: ArrayViewMut2<f32>,
    threads: bool,
) {
    product(scale, a, b, keep, out, threads);
}

fn product<T: LinalgScalar + PartialEq>(
    scale: T,
    a: ArrayView2<T>,
    b: ArrayView2<T>,
    keep: T,
    mut out: ArrayViewMut2<T>,
    threads: bool,
) {
    let ((n, k), (kb, m)) = (a.dim(), b.dim());
    assert!(
        k == kb && out.dim() == (n, m),
        "product: ({n}, {k}) x ({kb}, {m}) into {:?}",
        out.dim()
    );
    let (out_rs, out_cs) = (out.strides()[0], out.strides()[1]);
    let (a_rs, a_cs) = (a.strides()[0], a.strides()[1]);
    let (b_rs, b_cs) = (b.strides()[0], b.strides()[1]);
    // SAFETY: the three views are live, in bounds for the dimensions passed, and `out` is
    // exclusively borrowed.
    unsafe {
        gemm::gemm(
            n,
            m,
            k,
            out.as_mut_ptr(),
            out_cs,
            out_rs,
            keep != T::zero(),
            a.as_ptr(),
            a_cs,
            a_rs,
            b.as_ptr(),
            b_cs,
            b_rs,
            keep,
            scale,
            false,
            false,
            false,
            if threads { Parallelism::Rayon(0) } else { Parallelism::None },
        );
    }
}
