//! Matrix products on ndarray views: by the `gemm` crate with the feature `fast`, by ndarray's own
//! without it.

use ndarray::{ArrayView2, ArrayViewMut2, LinalgScalar};

/// `f32` and `f64`: what a matrix product is fast for.
pub trait Real: LinalgScalar + PartialEq + Send + Sync {
    /// `out = scale * a b + keep * out` of fitting matrices that are not empty, on all threads or
    /// on this one.
    #[doc(hidden)]
    fn product(
        scale: Self,
        a: ArrayView2<Self>,
        b: ArrayView2<Self>,
        keep: Self,
        out: ArrayViewMut2<Self>,
        threads: bool,
    );
}

#[cfg(feature = "fast")]
impl Real for f32 {
    fn product(
        scale: f32,
        a: ArrayView2<f32>,
        b: ArrayView2<f32>,
        keep: f32,
        out: ArrayViewMut2<f32>,
        threads: bool,
    ) {
        tweedie_engines::product::f32(scale, a, b, keep, out, threads);
    }
}

#[cfg(feature = "fast")]
impl Real for f64 {
    fn product(
        scale: f64,
        a: ArrayView2<f64>,
        b: ArrayView2<f64>,
        keep: f64,
        out: ArrayViewMut2<f64>,
        threads: bool,
    ) {
        tweedie_engines::product::f64(scale, a, b, keep, out, threads);
    }
}

/// By ndarray, on the calling thread.
#[cfg(not(feature = "fast"))]
fn plain<T: Real>(
    scale: T,
    a: ArrayView2<T>,
    b: ArrayView2<T>,
    keep: T,
    mut out: ArrayViewMut2<T>,
) {
    if keep == T::zero() {
        // What stands there may be NaN, which no product with 0 takes away.
        out.fill(T::zero());
    }
    ndarray::linalg::general_mat_mul(scale, &a, &b, keep, &mut out);
}

#[cfg(not(feature = "fast"))]
impl Real for f32 {
    fn product(
        scale: f32,
        a: ArrayView2<f32>,
        b: ArrayView2<f32>,
        keep: f32,
        out: ArrayViewMut2<f32>,
        _: bool,
    ) {
        plain(scale, a, b, keep, out);
    }
}

#[cfg(not(feature = "fast"))]
impl Real for f64 {
    fn product(
        scale: f64,
        a: ArrayView2<f64>,
        b: ArrayView2<f64>,
        keep: f64,
        out: ArrayViewMut2<f64>,
        _: bool,
    ) {
        plain(scale, a, b, keep, out);
    }
}

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
pub fn matmul<T: Real>(
    scale: T,
    a: ArrayView2<T>,
    b: ArrayView2<T>,
    keep: T,
    out: ArrayViewMut2<T>,
) {
    // Small products cost less than waking the pool.
    let threads = a.nrows() * a.ncols() * b.ncols() >= 32 * 32 * 32;
    product(scale, a, b, keep, out, threads);
}

/// [`matmul`] on the calling thread alone, for callers that already run one block of rows a thread.
pub fn matmul_serial<T: Real>(
    scale: T,
    a: ArrayView2<T>,
    b: ArrayView2<T>,
    keep: T,
    out: ArrayViewMut2<T>,
) {
    product(scale, a, b, keep, out, false);
}

fn product<T: Real>(
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
        "matmul: ({n}, {k}) x ({kb}, {m}) into {:?}",
        out.dim()
    );
    if n == 0 || m == 0 {
        return;
    }
    if k == 0 {
        out.mapv_inplace(|x| if keep == T::zero() { T::zero() } else { keep * x });
        return;
    }
    T::product(scale, a, b, keep, out, threads);
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
        matmul(
            1.0,
            Array2::zeros((2, 0)).view(),
            Array2::zeros((0, 2)).view(),
            0.0,
            out.view_mut(),
        );
        assert_eq!(out, Array2::<f64>::zeros((2, 2)));
    }
}
