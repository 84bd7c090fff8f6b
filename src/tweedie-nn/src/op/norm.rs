//! Group normalisation with its affine map, the time's modulation and SiLU, as one operation.

use crate::element::Element;
use rayon::prelude::*;
use tweedie::math::simd::vectorised;

/// What the operation is told apart from its arrays.
#[derive(Clone, Copy, Debug)]
pub struct Norm {
    pub channels: usize,
    pub groups: usize,
    pub eps: f64,
    pub silu: bool,
}

/// `out = act(((x - mean_g) / sqrt(var_g + eps) gamma + beta) (1 + scale) + shift)`, mean and
/// variance (divided by n) over the pixels and channels of a group in one image.
///
/// # Shapes
/// `x`, `out` (images, rows, channels); `gamma`, `beta` (channels); `modulation` (images, 2
/// channels), scales then shifts, or empty; `stats` (images, groups, 2): mean and reciprocal
/// deviation, kept for the gradient.
///
/// # Source
/// Wu and He, Group Normalization, 2018, section 3.1.
pub fn forward<T: Element>(
    op: Norm,
    x: &[T],
    gamma: &[T],
    beta: &[T],
    modulation: &[T],
    stats: &mut [T],
    out: &mut [T],
) {
    let (c, images) = (op.channels, stats.len() / (2 * op.groups));
    let size = x.len() / images.max(1);
    x.par_chunks_exact(size)
        .zip(out.par_chunks_exact_mut(size))
        .zip(stats.par_chunks_exact_mut(2 * op.groups))
        .enumerate()
        .for_each(|(image, ((x, out), stats))| {
            vectorised(
                #[inline(always)]
                || {
                    statistics(op, x, stats);
                    let (a, b) =
                        affine(op, gamma, beta, modulation_of(modulation, image, c), stats);
                    for (x, out) in x.chunks_exact(c).zip(out.chunks_exact_mut(c)) {
                        if op.silu {
                            for (((x, out), a), b) in x.iter().zip(out).zip(&a).zip(&b) {
                                let z = *x * *a + *b;
                                *out = z * sigmoid(z);
                            }
                        } else {
                            for (((x, out), a), b) in x.iter().zip(out).zip(&a).zip(&b) {
                                *out = *x * *a + *b;
                            }
                        }
                    }
                },
            )
        });
}

/// The gradients of [`forward`]: of `x` into `dx`, of `gamma`, `beta` and `modulation` into theirs.
/// `dout` is overwritten.
///
/// # Formula
/// With `xhat` the normalised input and `dz` the gradient before the activation:
/// `dbeta = sum dz (1 + scale)`, `dgamma = sum dz (1 + scale) xhat`, `dshift = sum dz`,
/// `dscale = sum dz (gamma xhat + beta)`, and
/// `dx = (e - mean_g(e) - xhat mean_g(e xhat)) / deviation` with `e = dz (1 + scale) gamma`.
#[allow(clippy::too_many_arguments)]
pub fn backward<T: Element>(
    op: Norm,
    x: &[T],
    gamma: &[T],
    beta: &[T],
    modulation: &[T],
    stats: &[T],
    dout: &mut [T],
    (dx, keep): (&mut [T], bool),
    dgamma: &mut [T],
    dbeta: &mut [T],
    (dmodulation, keep_modulation): (&mut [T], bool),
) {
    let (c, images) = (op.channels, stats.len() / (2 * op.groups));
    let size = x.len() / images.max(1);
    let count = T::of((size / op.groups) as f64);
    // sum dz and sum dz xhat of each channel, image by image; summed over images in order
    // afterwards.
    let mut sums = vec![T::zero(); images * 2 * c];
    x.par_chunks_exact(size)
        .zip(dout.par_chunks_exact_mut(size))
        .zip(dx.par_chunks_exact_mut(size))
        .zip(sums.par_chunks_exact_mut(2 * c))
        .enumerate()
        .for_each(|(image, (((x, dout), dx), sums))| {
            let stats = &stats[image * 2 * op.groups..][..2 * op.groups];
            let modulation = modulation_of(modulation, image, c);
            vectorised(
                #[inline(always)]
                || {
                    let (a, b) = affine(op, gamma, beta, modulation, stats);
                    let (mean, inverse) = per_channel(op, stats);
                    let (s1, s2) = sums.split_at_mut(c);
                    for (x, dout) in x.chunks_exact(c).zip(dout.chunks_exact_mut(c)) {
                        let at = a
                            .iter()
                            .zip(&b)
                            .zip(mean.iter().zip(&inverse))
                            .zip(s1.iter_mut().zip(s2.iter_mut()));
                        for ((x, d), (((a, b), (mean, inverse)), (s1, s2))) in
                            x.iter().zip(dout).zip(at)
                        {
                            if op.silu {
                                let z = *x * *a + *b;
                                let s = sigmoid(z);
                                *d *= s * (T::one() + z * (T::one() - s));
                            }
                            *s1 += *d;
                            *s2 += *d * ((*x - *mean) * *inverse);
                        }
                    }
                    // dx = p dz + q x + r, channel by channel.
                    let (mut p, mut q, mut r) =
                        (vec![T::zero(); c], vec![T::zero(); c], vec![T::zero(); c]);
                    let width = c / op.groups;
                    for g in 0..op.groups {
                        let (mean, inverse) = (stats[2 * g], stats[2 * g + 1]);
                        let (mut m1, mut m2) = (T::zero(), T::zero());
                        for k in g * width..(g + 1) * width {
                            let e = gamma[k] * scale_of(modulation, k);
                            p[k] = e * inverse;
                            m1 += e * s1[k];
                            m2 += e * s2[k];
                        }
                        let (m1, m2) = (m1 / count, m2 / count);
                        for k in g * width..(g + 1) * width {
                            q[k] = -inverse * inverse * m2;
                            r[k] = -inverse * m1 - q[k] * mean;
                        }
                    }
                    for ((x, d), dx) in
                        x.chunks_exact(c).zip(dout.chunks_exact(c)).zip(dx.chunks_exact_mut(c))
                    {
                        let at = p.iter().zip(&q).zip(&r);
                        for (((x, d), dx), ((p, q), r)) in x.iter().zip(d).zip(dx).zip(at) {
                            let old = if keep { *dx } else { T::zero() };
                            *dx = old + *p * *d + *q * *x + *r;
                        }
                    }
                },
            )
        });
    dgamma.fill(T::zero());
    dbeta.fill(T::zero());
    for (image, sums) in sums.chunks_exact(2 * c).enumerate() {
        let modulation = modulation_of(modulation, image, c);
        for k in 0..c {
            let scale = scale_of(modulation, k);
            dbeta[k] += scale * sums[k];
            dgamma[k] += scale * sums[c + k];
        }
        if !modulation.is_empty() {
            let d = &mut dmodulation[image * 2 * c..][..2 * c];
            for k in 0..c {
                let old = |x: T| if keep_modulation { x } else { T::zero() };
                d[k] = old(d[k]) + gamma[k] * sums[c + k] + beta[k] * sums[k];
                d[c + k] = old(d[c + k]) + sums[k];
            }
        }
    }
}

/// `1 / (1 + exp(-z))`.
#[inline(always)]
pub fn sigmoid<T: Element>(z: T) -> T {
    T::one() / (T::one() + (-z).fast_exp())
}

fn modulation_of<T>(modulation: &[T], image: usize, channels: usize) -> &[T] {
    if modulation.is_empty() {
        modulation
    } else {
        &modulation[image * 2 * channels..][..2 * channels]
    }
}

/// `1 + scale` of a channel.
#[inline(always)]
fn scale_of<T: Element>(modulation: &[T], k: usize) -> T {
    if modulation.is_empty() { T::one() } else { T::one() + modulation[k] }
}

/// Mean and reciprocal deviation of each group of one image, the variance around the mean so that
/// nothing cancels.
#[inline(always)]
fn statistics<T: Element>(op: Norm, x: &[T], stats: &mut [T]) {
    let (c, width) = (op.channels, op.channels / op.groups);
    let count = (x.len() / op.groups) as f64;
    let mut sums = vec![T::zero(); c];
    for x in x.chunks_exact(c) {
        for (s, x) in sums.iter_mut().zip(x) {
            *s += *x;
        }
    }
    for (stats, sums) in stats.chunks_exact_mut(2).zip(sums.chunks_exact(width)) {
        stats[0] = T::of(sums.iter().map(|s| s.wide()).sum::<f64>() / count);
    }
    let mean: Vec<T> = (0..c).map(|k| stats[k / width * 2]).collect();
    sums.fill(T::zero());
    for x in x.chunks_exact(c) {
        for ((s, x), mean) in sums.iter_mut().zip(x).zip(&mean) {
            *s += (*x - *mean) * (*x - *mean);
        }
    }
    for (stats, sums) in stats.chunks_exact_mut(2).zip(sums.chunks_exact(width)) {
        stats[1] =
            T::of(1.0 / (sums.iter().map(|s| s.wide()).sum::<f64>() / count + op.eps).sqrt());
    }
}

/// Everything before the activation as `a x + b` of each channel.
#[inline(always)]
fn affine<T: Element>(
    op: Norm,
    gamma: &[T],
    beta: &[T],
    modulation: &[T],
    stats: &[T],
) -> (Vec<T>, Vec<T>) {
    let width = op.channels / op.groups;
    (0..op.channels)
        .map(|k| {
            let (mean, inverse, scale) =
                (stats[k / width * 2], stats[k / width * 2 + 1], scale_of(modulation, k));
            let shift = if modulation.is_empty() { T::zero() } else { modulation[op.channels + k] };
            (gamma[k] * inverse * scale, (beta[k] - mean * inverse * gamma[k]) * scale + shift)
        })
        .unzip()
}

/// Mean and reciprocal deviation spread over the channels.
#[inline(always)]
fn per_channel<T: Element>(op: Norm, stats: &[T]) -> (Vec<T>, Vec<T>) {
    let width = op.channels / op.groups;
    (0..op.channels).map(|k| (stats[k / width * 2], stats[k / width * 2 + 1])).unzip()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::op::testing::{assert_gradients, random};
    use proptest::prelude::*;

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn gradients(images in 1usize..3, rows in 1usize..6, groups in 1usize..4, width in 1usize..4, silu: bool, modulated: bool, seed: u64) {
            // One number in a group has no deviation.
            prop_assume!(rows * width > 1);
            let c = groups * width;
            let op = Norm { channels: c, groups, eps: 1e-3, silu };
            let inputs = [images * rows * c, c, c, if modulated { images * 2 * c } else { 0 }];
            let run = |x: &[Vec<f64>]| {
                let (mut out, mut stats) = (vec![0.0; inputs[0]], vec![0.0; images * groups * 2]);
                forward(op, &x[0], &x[1], &x[2], &x[3], &mut stats, &mut out);
                (out, stats)
            };
            assert_gradients(&inputs, seed, |x| run(x).0, |x, dout| {
                let stats = run(x).1;
                let [mut dx, mut dgamma, mut dbeta, mut dmodulation] = inputs.map(|n| vec![f64::NAN; n]);
                let mut dout = dout.to_vec();
                backward(op, &x[0], &x[1], &x[2], &x[3], &stats, &mut dout, (&mut dx, false), &mut dgamma, &mut dbeta, (&mut dmodulation, false));
                vec![dx, dgamma, dbeta, dmodulation]
            });
        }
    }

    #[test]
    fn groups_come_out_with_mean_zero_and_variance_one() {
        let op = Norm { channels: 6, groups: 2, eps: 1e-12, silu: false };
        let x: Vec<f64> = random(5 * 6, 3).iter().map(|x| 1e6 + 3.0 * x).collect();
        let (mut out, mut stats) = (vec![0.0; 30], vec![0.0; 4]);
        forward(op, &x, &[1.0; 6], &[0.0; 6], &[], &mut stats, &mut out);
        for group in 0..2 {
            let values: Vec<f64> =
                out.chunks(6).flat_map(|row| row[group * 3..group * 3 + 3].to_vec()).collect();
            let (mean, square) = (
                values.iter().sum::<f64>() / 15.0,
                values.iter().map(|v| v * v).sum::<f64>() / 15.0,
            );
            // The mean of numbers near 1e6 is rounded at 1e-10.
            assert!(mean.abs() <= 1e-9 && (square - 1.0).abs() <= 1e-9, "{mean} {square}");
        }
    }

    #[test]
    fn f32_sigmoid_is_within_two_ulp() {
        for i in -2000..2000 {
            let z = i as f32 * 0.0437;
            let want = 1.0 / (1.0 + (-f64::from(z)).exp());
            assert!(
                ((f64::from(sigmoid(z)) - want) / want).abs() <= 2.0 * f64::from(f32::EPSILON),
                "{z}"
            );
        }
        assert!(
            sigmoid(f32::NAN).is_nan()
                && sigmoid(f32::INFINITY) == 1.0
                && sigmoid(-1e30f32) < 1e-37
        );
    }
}
