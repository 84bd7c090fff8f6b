//! Self-attention over the pixels of an image, head by head.
//!
//! Nothing of the size of all pairs of pixels is kept: a tile of 32 queries meets all keys, its
//! scores lie keys down and queries across, so that the softmax of a query runs down a column and
//! 32 of them side by side fill the vectors. Of each query the logarithm of its sum is kept, from
//! which the gradient computes its probabilities again (Dao et al., FlashAttention, 2022, section
//! 3).

use crate::element::Element;
use crate::tile::{Shared, TILE, accumulate, in_tiles, store, store_added, zeros};
use pulp::{Arch, Simd, WithSimd};
use rayon::prelude::*;
use tweedie::math::simd::vectorised;

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

    /// Where row `i` of a head of an image begins; heads are counted through all images.
    fn place(&self, head: usize, i: usize) -> usize {
        (head / self.heads * self.rows + i) * self.channels + head % self.heads * self.depth()
    }

    /// A tile of rows of one head turned on its side, (depth, TILE), times `scale`; zeros where
    /// there are no more rows.
    fn turned<T: Element>(&self, x: &[T], head: usize, first: usize, scale: T, out: &mut [T]) {
        out.fill(T::zero());
        for i in 0..TILE.min(self.rows - first) {
            let row = &x[self.place(head, first + i)..][..self.depth()];
            for (out, x) in out.chunks_exact_mut(TILE).zip(row) {
                out[i] = scale * *x;
            }
        }
    }
}

/// `out = softmax(q k^T / sqrt(depth)) v` in each head of each image.
///
/// # Shapes
/// `q`, `k`, `v`, `out` (images, rows, channels), a head `channels / heads` consecutive channels;
/// `log_sums` (images, heads, rows), the logarithm of each query's sum of exponentials, is kept for
/// the gradient.
///
/// # Source
/// Vaswani et al., Attention Is All You Need, 2017, equation 1.
pub fn forward<T: Element>(
    op: Attention,
    q: &[T],
    k: &[T],
    v: &[T],
    log_sums: &mut [T],
    out: &mut [T],
) {
    let (l, c, depth) = (op.rows, op.channels, op.depth());
    let out = Shared::new(out);
    log_sums.par_chunks_exact_mut(l).enumerate().for_each_init(
        || [l, depth, depth].map(|n| vec![T::zero(); n * TILE]),
        |[scores, queries, sums], (head, log_sums)| {
            let [k, v] = [k, v].map(|x| &x[op.place(head, 0)..]);
            for (tile, log_sums) in log_sums.chunks_mut(TILE).enumerate() {
                let first = tile * TILE;
                op.turned(q, head, first, op.scale(), queries);
                Product {
                    a: k,
                    steps: (c, 1),
                    rows: l,
                    depth,
                    b: queries,
                    add: false,
                    width: TILE,
                    out: scores,
                }
                .run();
                vectorised(
                    #[inline(always)]
                    || softmax(scores, log_sums),
                );
                Product {
                    a: v,
                    steps: (1, c),
                    rows: depth,
                    depth: l,
                    b: scores,
                    add: false,
                    width: TILE,
                    out: sums,
                }
                .run();
                for i in 0..log_sums.len() {
                    // SAFETY: `out` outlives the loop, and this task alone writes this head.
                    let row = unsafe { out.slice(op.place(head, first + i), depth) };
                    for (out, sums) in row.iter_mut().zip(sums.chunks_exact(TILE)) {
                        *out = sums[i];
                    }
                }
            }
        },
    );
}

/// The gradients of [`forward`] by `q`, `k` and `v`, given its output.
///
/// # Formula
/// With p the probabilities: `dv = p^T dout`, `dp = dout v^T`, `ds = p (dp - sum_j p dp)`, the sum
/// being `dout . out`, `dq = ds k / sqrt(depth)`, `dk = ds^T q / sqrt(depth)`.
#[allow(clippy::too_many_arguments)]
pub fn backward<T: Element>(
    op: Attention,
    q: &[T],
    k: &[T],
    v: &[T],
    out: &[T],
    log_sums: &[T],
    dout: &[T],
    dq: (&mut [T], bool),
    dk: (&mut [T], bool),
    dv: (&mut [T], bool),
) {
    let (l, c, depth) = (op.rows, op.channels, op.depth());
    let [dq, dk, dv] = [dq, dk, dv].map(|(x, keep)| (Shared::new(x), keep));
    // Columns of the gradients of keys and values, in tiles of their own.
    let tiles = depth.div_ceil(TILE);
    log_sums.par_chunks_exact(l).enumerate().for_each_init(
        || {
            [l, l, depth, depth, depth, tiles * l, tiles * l, TILE]
                .map(|n| vec![T::zero(); n * TILE])
        },
        |[p, ds, queries, douts, sums, keys, values, packed], (head, log_sums)| {
            let write =
                |(to, keep): (Shared<T>, bool), row: usize, x: &mut dyn Iterator<Item = T>| {
                    // SAFETY: the gradients outlive the loop, and this task alone writes this head.
                    let to = unsafe { to.slice(op.place(head, row), depth) };
                    for (to, x) in to.iter_mut().zip(x) {
                        *to = if keep { *to + x } else { x };
                    }
                };
            let start = op.place(head, 0);
            keys.fill(T::zero());
            values.fill(T::zero());
            for (tile, log_sums) in log_sums.chunks(TILE).enumerate() {
                let (first, count) = (tile * TILE, log_sums.len());
                op.turned(q, head, first, op.scale(), queries);
                op.turned(dout, head, first, T::one(), douts);
                let (k, v) = (&k[start..], &v[start..]);
                Product {
                    a: k,
                    steps: (c, 1),
                    rows: l,
                    depth,
                    b: queries,
                    add: false,
                    width: TILE,
                    out: p,
                }
                .run();
                Product {
                    a: v,
                    steps: (c, 1),
                    rows: l,
                    depth,
                    b: douts,
                    add: false,
                    width: TILE,
                    out: ds,
                }
                .run();
                let mut inner = [T::zero(); TILE];
                for (i, inner) in inner.iter_mut().enumerate().take(count) {
                    let at = op.place(head, first + i);
                    *inner = out[at..at + depth]
                        .iter()
                        .zip(&dout[at..at + depth])
                        .map(|(o, d)| *o * *d)
                        .sum();
                }
                vectorised(
                    #[inline(always)]
                    || score_gradients(log_sums, &inner, p, ds),
                );
                Product {
                    a: k,
                    steps: (1, c),
                    rows: depth,
                    depth: l,
                    b: ds,
                    add: false,
                    width: TILE,
                    out: sums,
                }
                .run();
                for i in 0..count {
                    write(
                        dq,
                        first + i,
                        &mut sums.chunks_exact(TILE).map(|s| op.scale::<T>() * s[i]),
                    );
                }
                for (x, scores, to) in [(q, &*ds, &mut *keys), (dout, &*p, &mut *values)] {
                    for (j, to) in to.chunks_exact_mut(l * TILE).enumerate() {
                        let width = TILE.min(depth - j * TILE);
                        for (i, packed) in packed.chunks_exact_mut(TILE).enumerate().take(count) {
                            packed[..width].copy_from_slice(
                                &x[op.place(head, first + i) + j * TILE..][..width],
                            );
                        }
                        Product {
                            a: scores,
                            steps: (TILE, 1),
                            rows: l,
                            depth: count,
                            b: packed,
                            add: true,
                            width,
                            out: to,
                        }
                        .run();
                    }
                }
            }
            for (x, to, scale) in [(keys, dk, op.scale()), (values, dv, T::one())] {
                for row in 0..l {
                    write(
                        to,
                        row,
                        &mut (0..depth).map(|j| scale * x[(j / TILE * l + row) * TILE + j % TILE]),
                    );
                }
            }
        },
    );
}

/// Scores (keys, TILE) to the probabilities of each column, and the logarithms of the sums.
#[inline(always)]
fn softmax<T: Element>(scores: &mut [T], log_sums: &mut [T]) {
    let mut largest = [T::neg_infinity(); TILE];
    for row in scores.as_chunks::<TILE>().0 {
        for i in 0..TILE {
            largest[i] = if row[i] > largest[i] { row[i] } else { largest[i] };
        }
    }
    let mut sums = [T::zero(); TILE];
    for row in scores.as_chunks_mut::<TILE>().0 {
        for i in 0..TILE {
            row[i] = (row[i] - largest[i]).fast_exp();
            sums[i] += row[i];
        }
    }
    for row in scores.as_chunks_mut::<TILE>().0 {
        for i in 0..TILE {
            row[i] /= sums[i];
        }
    }
    for i in 0..log_sums.len() {
        log_sums[i] = largest[i] + sums[i].ln();
    }
}

/// From scores and `dp`, both (keys, TILE), the probabilities and `ds`.
#[inline(always)]
fn score_gradients<T: Element>(log_sums: &[T], inner: &[T; TILE], p: &mut [T], ds: &mut [T]) {
    let mut log_sum = [T::zero(); TILE];
    log_sum[..log_sums.len()].copy_from_slice(log_sums);
    for (p, ds) in p.as_chunks_mut::<TILE>().0.iter_mut().zip(ds.as_chunks_mut::<TILE>().0) {
        for i in 0..TILE {
            p[i] = (p[i] - log_sum[i]).fast_exp();
            ds[i] = p[i] * (ds[i] - inner[i]);
        }
    }
}

/// `out[m] = sum_k a[m][k] b[k]`, or that added, for rows of one tile.
struct Product<'a, T> {
    a: &'a [T],
    /// From one m to the next and from one k to the next in `a`.
    steps: (usize, usize),
    rows: usize,
    depth: usize,
    /// (depth, TILE)
    b: &'a [T],
    add: bool,
    /// Columns that are wanted.
    width: usize,
    /// (rows, TILE)
    out: &'a mut [T],
}

impl<T: Element> Product<'_, T> {
    fn run(self) {
        Arch::new().dispatch(Tiles(self));
    }
}

struct Tiles<'a, T>(Product<'a, T>);

impl<T: Element> WithSimd for Tiles<'_, T> {
    type Output = ();

    #[inline(always)]
    fn with_simd<S: Simd>(self, simd: S) {
        let narrow = self.0.width <= TILE / 2;
        in_tiles!(self, simd, 12, 6, narrow: narrow);
    }
}

impl<T: Element> Tiles<'_, T> {
    #[inline(always)]
    fn run<S: Simd, const P: usize, const V: usize>(self, simd: S) {
        let Product { a, steps, rows, depth, b, add, out, .. } = self.0;
        assert!((rows - 1) * steps.0 + (depth - 1) * steps.1 < a.len());
        for first in (0..rows).step_by(P) {
            // Rows behind the last one repeat it: computed, not written.
            let start: [usize; P] = std::array::from_fn(|i| (first + i).min(rows - 1) * steps.0);
            let mut acc = zeros::<S, T, P, V>(simd);
            for (k, b) in b.chunks_exact(TILE).enumerate().take(depth) {
                // SAFETY: `start` is that of a row, so that the index is at most the one asserted.
                let a: [T; P] =
                    std::array::from_fn(|i| unsafe { *a.get_unchecked(start[i] + k * steps.1) });
                accumulate(simd, &mut acc, &a, b);
            }
            for (acc, out) in
                acc.into_iter().zip(out[first * TILE..].chunks_exact_mut(TILE)).take(rows - first)
            {
                if add {
                    store_added::<S, T, V>(simd, acc, out);
                } else {
                    store::<S, T, V>(acc, out);
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::testing::{assert_gradients, random};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn gradients(images in 1usize..3, rows in 1usize..40, heads in 1usize..4, depth in 1usize..6, seed: u64) {
            let op = Attention { rows, channels: heads * depth, heads };
            let size = images * rows * op.channels;
            let run = |x: &[Vec<f64>]| {
                let (mut out, mut log_sums) = (vec![0.0; size], vec![0.0; images * heads * rows]);
                forward(op, &x[0], &x[1], &x[2], &mut log_sums, &mut out);
                (out, log_sums)
            };
            assert_gradients(&[size; 3], seed, |x| run(x).0, |x, dout| {
                let (out, log_sums) = run(x);
                let [mut dq, mut dk, mut dv] = [0; 3].map(|_| vec![f64::NAN; size]);
                backward(op, &x[0], &x[1], &x[2], &out, &log_sums, dout, (&mut dq, false), (&mut dk, false), (&mut dv, false));
                vec![dq, dk, dv]
            });
        }
    }

    #[test]
    fn equals_the_definition() {
        let op = Attention { rows: 18, channels: 6, heads: 2 };
        let [q, k, v] = [1, 2, 3].map(|stream| random(18 * 6, stream));
        let (mut out, mut log_sums) = (vec![0.0; 18 * 6], vec![0.0; 2 * 18]);
        forward(op, &q, &k, &v, &mut log_sums, &mut out);
        for (i, j) in (0..18).flat_map(|i| (0..6).map(move |j| (i, j))) {
            let head = j / 3 * 3;
            let weight = |m: usize| {
                ((0..3).map(|d| q[i * 6 + head + d] * k[m * 6 + head + d]).sum::<f64>()
                    / 3f64.sqrt())
                .exp()
            };
            let want = (0..18).map(|m| weight(m) * v[m * 6 + j]).sum::<f64>()
                / (0..18).map(weight).sum::<f64>();
            assert!((out[i * 6 + j] - want).abs() <= 1e-13);
        }
    }

    #[test]
    fn large_scores_do_not_overflow() {
        let op = Attention { rows: 3, channels: 1, heads: 1 };
        let (mut out, mut log_sums) = (vec![0.0f32; 3], vec![0.0; 3]);
        forward(
            op,
            &[1e4, 0.0, -1e4],
            &[1e4, 0.0, -1e4],
            &[1.0, 2.0, 3.0],
            &mut log_sums,
            &mut out,
        );
        assert_eq!(out, [1.0, 2.0, 3.0]);
    }
}
