//! Self-attention over the pixels of an image, head by head.

use crate::math::matmul::matmul_serial;
use crate::math::simd::vectorised;
use crate::nn::element::Element;
use ndarray::{ArrayView2, ArrayViewMut2, s};
use rayon::prelude::*;

/// What the operation is told apart from its arrays.
#[derive(Clone, Copy, Debug)]
pub struct Attention {
    pub rows: usize,
    pub channels: usize,
    pub heads: usize,
}

impl Attention {
    fn depth(&self) -> usize {
        self.channels / self.heads
    }

    fn scale<T: Element>(&self) -> T {
        T::of(1.0 / (self.depth() as f64).sqrt())
    }
}

/// One head of one image, (rows, depth), in an array of all channels.
fn head<T>(op: Attention, x: &[T], head: usize) -> ArrayView2<'_, T> {
    let all = ArrayView2::from_shape((op.rows, op.channels), x).expect("rows of all channels");
    all.slice_move(s![.., head * op.depth()..(head + 1) * op.depth()])
}

fn head_mut<T>(op: Attention, x: &mut [T], head: usize) -> ArrayViewMut2<'_, T> {
    let all = ArrayViewMut2::from_shape((op.rows, op.channels), x).expect("rows of all channels");
    all.slice_move(s![.., head * op.depth()..(head + 1) * op.depth()])
}

fn square<T>(rows: usize, x: &[T]) -> ArrayView2<'_, T> {
    ArrayView2::from_shape((rows, rows), x).expect("a square of the rows")
}

fn square_mut<T>(rows: usize, x: &mut [T]) -> ArrayViewMut2<'_, T> {
    ArrayViewMut2::from_shape((rows, rows), x).expect("a square of the rows")
}

/// What `matmul` keeps of its output.
fn kept<T: Element>(keep: bool) -> T {
    if keep { T::one() } else { T::zero() }
}

/// `out = softmax(q k^T / sqrt(depth)) v` in each head of each image.
///
/// # Shapes
/// `q`, `k`, `v`, `out` (images, rows, channels), a head `channels / heads` consecutive channels; `probabilities` (images, heads, rows, rows)
/// is kept for the gradient.
///
/// # Source
/// Vaswani et al., Attention Is All You Need, 2017, equation 1.
pub fn forward<T: Element>(op: Attention, q: &[T], k: &[T], v: &[T], probabilities: &mut [T], out: &mut [T]) {
    let (l, c) = (op.rows, op.channels);
    let batch = q.par_chunks_exact(l * c).zip(k.par_chunks_exact(l * c)).zip(v.par_chunks_exact(l * c));
    batch.zip(probabilities.par_chunks_exact_mut(op.heads * l * l)).zip(out.par_chunks_exact_mut(l * c)).for_each(
        |((((q, k), v), p), out)| {
            for (h, p) in p.chunks_exact_mut(l * l).enumerate() {
                matmul_serial(op.scale(), head(op, q, h), head(op, k, h).reversed_axes(), T::zero(), square_mut(l, p));
                vectorised(
                    #[inline(always)]
                    || {
                        for row in p.chunks_exact_mut(l) {
                            softmax(row);
                        }
                    },
                );
                matmul_serial(T::one(), square(l, p), head(op, v, h), T::zero(), head_mut(op, out, h));
            }
        },
    );
}

/// `exp(x - max) / sum`, in place.
#[inline(always)]
fn softmax<T: Element>(row: &mut [T]) {
    let largest = lanes(
        row,
        T::neg_infinity(),
        #[inline(always)]
        |m, x| if x > m { x } else { m },
    );
    for x in row.iter_mut() {
        *x = (*x - largest).fast_exp();
    }
    let inverse = T::one()
        / lanes(
            row,
            T::zero(),
            #[inline(always)]
            |s, x| s + x,
        );
    for x in row {
        *x *= inverse;
    }
}

/// A fold in sixteen running values, so that none waits for the one before.
#[inline(always)]
fn lanes<T: Element>(row: &[T], start: T, f: impl Fn(T, T) -> T) -> T {
    let mut running = [start; 16];
    let chunks = row.chunks_exact(16);
    let rest = chunks.remainder();
    for chunk in chunks {
        for i in 0..16 {
            running[i] = f(running[i], chunk[i]);
        }
    }
    let mut all = start;
    for x in running.iter().chain(rest) {
        all = f(all, *x);
    }
    all
}

/// The gradients of [`forward`] by `q`, `k` and `v`.
///
/// # Formula
/// With p the probabilities: `dv = p^T dout`, `dp = dout v^T`, `ds = p (dp - sum_j p dp)`, `dq = ds k / sqrt(depth)`, `dk = ds^T q / sqrt(depth)`.
#[allow(clippy::too_many_arguments)]
pub fn backward<T: Element>(
    op: Attention,
    q: &[T],
    k: &[T],
    v: &[T],
    probabilities: &[T],
    dout: &[T],
    (dq, keep_q): (&mut [T], bool),
    (dk, keep_k): (&mut [T], bool),
    (dv, keep_v): (&mut [T], bool),
) {
    let l = op.rows;
    let size = l * op.channels;
    let arrays = dq.par_chunks_exact_mut(size).zip(dk.par_chunks_exact_mut(size)).zip(dv.par_chunks_exact_mut(size));
    arrays.enumerate().for_each_init(
        || vec![T::zero(); l * l],
        |ds, (image, ((dq, dk), dv))| {
            let [q, k, v, dout] = [q, k, v, dout].map(|x| &x[image * size..][..size]);
            for h in 0..op.heads {
                let p = &probabilities[(image * op.heads + h) * l * l..][..l * l];
                matmul_serial(T::one(), square(l, p).reversed_axes(), head(op, dout, h), kept(keep_v), head_mut(op, dv, h));
                matmul_serial(T::one(), head(op, dout, h), head(op, v, h).reversed_axes(), T::zero(), square_mut(l, ds));
                vectorised(
                    #[inline(always)]
                    || {
                        for (ds, p) in ds.chunks_exact_mut(l).zip(p.chunks_exact(l)) {
                            let inner = dot(ds, p);
                            for (d, p) in ds.iter_mut().zip(p) {
                                *d = *p * (*d - inner);
                            }
                        }
                    },
                );
                matmul_serial(op.scale(), square(l, ds), head(op, k, h), kept(keep_q), head_mut(op, dq, h));
                matmul_serial(op.scale(), square(l, ds).reversed_axes(), head(op, q, h), kept(keep_k), head_mut(op, dk, h));
            }
        },
    );
}

/// `sum a b`, in sixteen running sums.
#[inline(always)]
fn dot<T: Element>(a: &[T], b: &[T]) -> T {
    let mut sums = [T::zero(); 16];
    let (a, b) = (a.chunks_exact(16), b.chunks_exact(16));
    let (rest_a, rest_b) = (a.remainder(), b.remainder());
    for (a, b) in a.zip(b) {
        for i in 0..16 {
            sums[i] += a[i] * b[i];
        }
    }
    let mut sum = T::zero();
    for s in sums {
        sum += s;
    }
    for (a, b) in rest_a.iter().zip(rest_b) {
        sum += *a * *b;
    }
    sum
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::nn::op::testing::{assert_gradients, random};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn gradients(images in 1usize..3, rows in 1usize..20, heads in 1usize..4, depth in 1usize..4, seed: u64) {
            let op = Attention { rows, channels: heads * depth, heads };
            let size = images * rows * op.channels;
            let run = |x: &[Vec<f64>]| {
                let (mut out, mut p) = (vec![0.0; size], vec![0.0; images * heads * rows * rows]);
                forward(op, &x[0], &x[1], &x[2], &mut p, &mut out);
                (out, p)
            };
            assert_gradients(&[size; 3], seed, |x| run(x).0, |x, dout| {
                let p = run(x).1;
                let [mut dq, mut dk, mut dv] = [0; 3].map(|_| vec![f64::NAN; size]);
                backward(op, &x[0], &x[1], &x[2], &p, dout, (&mut dq, false), (&mut dk, false), (&mut dv, false));
                vec![dq, dk, dv]
            });
        }
    }

    #[test]
    fn equals_the_definition() {
        let op = Attention { rows: 18, channels: 6, heads: 2 };
        let [q, k, v] = [1, 2, 3].map(|stream| random(18 * 6, stream));
        let (mut out, mut p) = (vec![0.0; 18 * 6], vec![0.0; 2 * 18 * 18]);
        forward(op, &q, &k, &v, &mut p, &mut out);
        for (i, j) in (0..18).flat_map(|i| (0..6).map(move |j| (i, j))) {
            let head = j / 3 * 3;
            let weight = |m: usize| ((0..3).map(|d| q[i * 6 + head + d] * k[m * 6 + head + d]).sum::<f64>() / 3f64.sqrt()).exp();
            let want = (0..18).map(|m| weight(m) * v[m * 6 + j]).sum::<f64>() / (0..18).map(weight).sum::<f64>();
            assert!((out[i * 6 + j] - want).abs() <= 1e-13);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let op = Attention { rows: 3, channels: 1, heads: 1 };
        let (mut out, mut p) = (vec![0.0f32; 3], vec![0.0; 9]);
        forward(op, &[1e4, 0.0, -1e4], &[1e4, 0.0, -1e4], &[1.0, 2.0, 3.0], &mut p, &mut out);
        assert_eq!(out, [1.0, 2.0, 3.0]);
    }
}
