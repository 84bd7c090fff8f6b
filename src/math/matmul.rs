//! Matrix products on ndarray views by the `gemm` crate.

use gemm::Parallelism;
use ndarray::{ArrayView2, ArrayViewMut2, LinalgScalar};

/// `f32` and `f64`: what a matrix product is fast for.
pub trait Real: LinalgScalar + PartialEq + Send + Sync {}
impl Real for f32 {}
impl Real for f64 {}

/// `out = scale * a b + keep * out` on all threads, any strides.
///
/// `keep = 0` never reads `out`, so it may hold anything, NaN included.
///
/// # Shapes
/// `a` (n, k), `b` (k, m), `out` (n, m). Panics on a mismatch: callers validate.
///
/// # Example
/// ```
/// use ndarray::{array, Array2};
/// let mut out = Array2::zeros((1, 1));
/// tweedie::math::matmul::matmul(2.0, array![[1.0, 2.0]].view(), array![[3.0], [4.0]].view(), 0.0, out.view_mut());
/// assert_eq!(out[[0, 0]], 22.0);
/// ```
pub fn matmul<T: Real>(scale: T, a: ArrayView2<T>, b: ArrayView2<T>, keep: T, out: ArrayViewMut2<T>) {
    // Small products cost less than waking the pool.
    let threads = if a.nrows() * a.ncols() * b.ncols() < 32 * 32 * 32 { Parallelism::None } else { Parallelism::Rayon(0) };
    product(scale, a, b, keep, out, threads);
}

/// [`matmul`] on the calling thread alone, for callers that already run one block of rows a thread.
pub fn matmul_serial<T: Real>(scale: T, a: ArrayView2<T>, b: ArrayView2<T>, keep: T, out: ArrayViewMut2<T>) {
    product(scale, a, b, keep, out, Parallelism::None);
}

fn product<T: Real>(scale: T, a: ArrayView2<T>, b: ArrayView2<T>, keep: T, mut out: ArrayViewMut2<T>, threads: Parallelism) {
    let ((n, k), (kb, m)) = (a.dim(), b.dim());
    assert!(k == kb && out.dim() == (n, m), "matmul: ({n}, {k}) x ({kb}, {m}) into {:?}", out.dim());
    if n == 0 || m == 0 {
        return;
    }
    if k == 0 {
        out.mapv_inplace(|x| if keep == T::zero() { T::zero() } else { keep * x });
        return;
    }
    let (out_rs, out_cs) = (out.strides()[0], out.strides()[1]);
    let (a_rs, a_cs) = (a.strides()[0], a.strides()[1]);
    let (b_rs, b_cs) = (b.strides()[0], b.strides()[1]);
    // SAFETY: the three views are live, in bounds for the dimensions passed, and `out` is exclusively borrowed.
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
            threads,
        );
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::DMatrix;
    use ndarray::{Array2, ArrayView2, s};
    use proptest::prelude::*;

    fn to_nalgebra(a: ArrayView2<f64>) -> DMatrix<f64> {
        DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]])
    }

    proptest! {
        #[test]
        fn equals_nalgebra_for_any_strides(
            n in 0usize..40, k in 0usize..40, m in 0usize..40, seed: u64, scale in -2.0..2.0f64, keep in prop_oneof![Just(0.0), Just(1.0), -2.0..2.0f64],
            transpose: bool, serial: bool,
        ) {
            let noise = crate::math::noise::Noise::new(seed);
            let random = |stream: u64, r: usize, c: usize| Array2::from_shape_fn((r, c), |(i, j)| noise.normal(stream, (i * c + j) as u64));
            let a = random(0, k, n);
            // Every second column of a wider array: a stride that is neither row- nor column-major.
            let wide = random(1, k, 2 * m);
            let b = wide.slice(s![.., ..;2]);
            let mut out = if transpose { random(2, m, n).reversed_axes() } else { random(2, n, m) };
            let want = scale * to_nalgebra(a.t()) * to_nalgebra(b) + keep * to_nalgebra(out.view());
            let size = to_nalgebra(a.t()).abs() * to_nalgebra(b).abs() * scale.abs() + keep.abs() * to_nalgebra(out.view()).abs();
            if serial {
                matmul_serial(scale, a.t(), b, keep, out.view_mut());
            } else {
                matmul(scale, a.t(), b, keep, out.view_mut());
            }
            for ((i, j), got) in out.indexed_iter() {
                // Each of two sums of k + 1 terms rounds at most k + 2 times.
                prop_assert!((got - want[(i, j)]).abs() <= 2.0 * (k as f64 + 2.0) * f64::EPSILON * size[(i, j)]);
            }
        }
    }

    #[test]
    fn keep_zero_overwrites_nan() {
        let mut out = Array2::from_elem((2, 2), f64::NAN);
        matmul(1.0, Array2::eye(2).view(), Array2::eye(2).view(), 0.0, out.view_mut());
        assert_eq!(out, Array2::<f64>::eye(2));
        let mut out = Array2::from_elem((2, 2), f64::NAN);
        matmul(1.0, Array2::zeros((2, 0)).view(), Array2::zeros((0, 2)).view(), 0.0, out.view_mut());
        assert_eq!(out, Array2::<f64>::zeros((2, 2)));
    }
}
