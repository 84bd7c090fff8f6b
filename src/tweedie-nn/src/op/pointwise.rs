//! Maps without parameters: SiLU, sums, concatenation, halving and doubling of an image.

use super::norm::sigmoid;
use crate::element::Element;
use rayon::prelude::*;

/// `out = x sigmoid(x)`.
pub fn silu<T: Element>(x: &[T], out: &mut [T]) {
    x.iter().zip(out).for_each(|(x, out)| *out = *x * sigmoid(*x));
}

/// `dx = dout s (1 + x (1 - s))` with `s = sigmoid(x)`.
pub fn silu_backward<T: Element>(x: &[T], dout: &[T], dx: &mut [T], keep: bool) {
    for ((x, dout), dx) in x.iter().zip(dout).zip(dx) {
        let s = sigmoid(*x);
        let d = *dout * s * (T::one() + *x * (T::one() - s));
        *dx = if keep { *dx + d } else { d };
    }
}

/// `out = scale x`, added where `keep`.
pub fn copy<T: Element>(scale: T, x: &[T], out: &mut [T], keep: bool) {
    out.par_chunks_mut(1 << 14).zip(x.par_chunks(1 << 14)).for_each(|(out, x)| {
        for (o, x) in out.iter_mut().zip(x) {
            *o = if keep { *o + scale * *x } else { scale * *x };
        }
    });
}

/// `out = a + b`.
pub fn add<T: Element>(a: &[T], b: &[T], out: &mut [T]) {
    a.iter().zip(b).zip(out).for_each(|((a, b), out)| *out = *a + *b);
}

/// Channels of `a`, then of `b`.
pub fn concat<T: Element>(a: &[T], ca: usize, b: &[T], cb: usize, out: &mut [T]) {
    out.par_chunks_exact_mut(ca + cb)
        .zip(a.par_chunks_exact(ca))
        .zip(b.par_chunks_exact(cb))
        .with_min_len(512)
        .for_each(|((out, a), b)| {
            out[..ca].copy_from_slice(a);
            out[ca..].copy_from_slice(b);
        });
}

/// The channels `from..from + width` of `dout`: one half of the gradient of [`concat()`].
pub fn slice<T: Element>(
    dout: &[T],
    channels: usize,
    from: usize,
    dx: &mut [T],
    width: usize,
    keep: bool,
) {
    dx.par_chunks_exact_mut(width).zip(dout.par_chunks_exact(channels)).with_min_len(512).for_each(
        |(dx, d)| {
            let d = &d[from..from + width];
            if keep {
                dx.iter_mut().zip(d).for_each(|(x, d)| *x += *d);
            } else {
                dx.copy_from_slice(d);
            }
        },
    );
}

/// Each pixel of `small` (height, width) the `scale`-fold sum of its four in `large` (2 height, 2
/// width); added where `keep`.
///
/// The average is the sum with scale 1/4; the gradient of [`double`] is the sum with scale 1.
pub fn halve<T: Element>(
    (height, width): (usize, usize),
    channels: usize,
    scale: T,
    large: &[T],
    small: &mut [T],
    keep: bool,
) {
    let row = 2 * width * channels;
    small.par_chunks_exact_mut(width * channels).enumerate().for_each(|(y, small)| {
        let (image, y) = (y / height, y % height);
        let above = &large[(image * 2 * height + 2 * y) * row..][..row];
        let below = &large[(image * 2 * height + 2 * y + 1) * row..][..row];
        for (x, small) in small.chunks_exact_mut(channels).enumerate() {
            let (left, right) = (2 * x * channels, (2 * x + 1) * channels);
            for (k, s) in small.iter_mut().enumerate() {
                let sum = scale
                    * ((above[left + k] + above[right + k]) + (below[left + k] + below[right + k]));
                *s = if keep { *s + sum } else { sum };
            }
        }
    });
}

/// Each pixel of `small` (height, width) four times in `large`, times `scale`; added where `keep`.
pub fn double<T: Element>(
    (height, width): (usize, usize),
    channels: usize,
    scale: T,
    small: &[T],
    large: &mut [T],
    keep: bool,
) {
    large.par_chunks_exact_mut(2 * width * channels).enumerate().for_each(|(y, large)| {
        let (image, y) = (y / (2 * height), y % (2 * height));
        let row = &small[(image * height + y / 2) * width * channels..][..width * channels];
        for (x, large) in large.chunks_exact_mut(channels).enumerate() {
            for (l, s) in large.iter_mut().zip(&row[x / 2 * channels..]) {
                *l = if keep { *l + scale * *s } else { scale * *s };
            }
        }
    });
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::testing::assert_gradients;
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(48))]
        #[test]
        fn gradients(images in 1usize..3, height in 1usize..4, width in 1usize..4, ca in 1usize..5, cb in 1usize..5, seed: u64) {
            let n = images * height * width;
            let size = (height, width);
            let map = |len: usize, f: &dyn Fn(&mut [f64])| { let mut out = vec![f64::NAN; len]; f(&mut out); out };
            assert_gradients(&[n * ca], seed, |x| map(n * ca, &|out| silu(&x[0], out)),
                |x, d| vec![map(n * ca, &|dx| silu_backward(&x[0], d, dx, false))]);
            assert_gradients(&[n * ca, n * cb], seed, |x| map(n * (ca + cb), &|out| concat(&x[0], ca, &x[1], cb, out)),
                |_, d| vec![map(n * ca, &|dx| slice(d, ca + cb, 0, dx, ca, false)), map(n * cb, &|dx| slice(d, ca + cb, ca, dx, cb, false))]);
            assert_gradients(&[4 * n * ca], seed, |x| map(n * ca, &|out| halve(size, ca, 0.25, &x[0], out, false)),
                |_, d| vec![map(4 * n * ca, &|dx| double(size, ca, 0.25, d, dx, false))]);
            assert_gradients(&[n * ca], seed, |x| map(4 * n * ca, &|out| double(size, ca, 1.0, &x[0], out, false)),
                |_, d| vec![map(n * ca, &|dx| halve(size, ca, 1.0, d, dx, false))]);
            assert_gradients(&[n, n], seed, |x| map(n, &|out| add(&x[0], &x[1], out)), |_, d| vec![d.to_vec(), d.to_vec()]);
        }
    }

    #[test]
    fn keeping_adds() {
        let mut out = vec![1.0, 2.0];
        copy(2.0, &[10.0, 20.0], &mut out, true);
        assert_eq!(out, [21.0, 42.0]);
        let mut small = vec![1.0];
        halve((1, 1), 1, 0.25, &[1.0, 2.0, 3.0, 6.0], &mut small, true);
        assert_eq!(small, [4.0]);
    }
}
