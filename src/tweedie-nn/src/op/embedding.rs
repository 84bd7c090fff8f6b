//! What a time or a label becomes before the first linear layer.

use crate::element::Element;
use std::f64::consts::TAU;

/// `[sin(t w_k), cos(t w_k)]`, halves swapped where `flip`, with
/// `w_k = 10000^(-k / (half - shift))`; computed in f64, rounded once.
///
/// # Shapes
/// `times` (images), `out` (images, channels); an odd last channel is zero.
///
/// # Source
/// Ho, Jain and Abbeel, Denoising Diffusion Probabilistic Models, 2020, appendix B; the shift is
/// diffusers' `freq_shift`.
pub fn sinusoid<T: Element>(flip: bool, shift: f64, times: &[f64], channels: usize, out: &mut [T]) {
    let half = channels / 2;
    let frequency = |k: usize| (-(10_000f64.ln()) * k as f64 / (half as f64 - shift)).exp();
    angles(flip, times, channels, |t, k| t * frequency(k), out);
}

/// `[sin(2 pi w_k log t), cos(2 pi w_k log t)]`, halves swapped where `flip`.
///
/// # Source
/// Song et al., Score-Based Generative Modeling through SDEs, 2021, appendix H.2 (random Fourier
/// features of the log noise level).
pub fn fourier<T: Element>(flip: bool, weight: &[T], times: &[f64], out: &mut [T]) {
    angles(flip, times, 2 * weight.len(), |t, k| TAU * weight[k].wide() * t.ln(), out);
}

fn angles<T: Element>(
    flip: bool,
    times: &[f64],
    channels: usize,
    angle: impl Fn(f64, usize) -> f64,
    out: &mut [T],
) {
    let half = channels / 2;
    for (&t, out) in times.iter().zip(out.chunks_exact_mut(channels)) {
        out.fill(T::zero());
        for k in 0..half {
            let (sin, cos) = angle(t, k).sin_cos();
            let (first, second) = if flip { (cos, sin) } else { (sin, cos) };
            (out[k], out[half + k]) = (T::of(first), T::of(second));
        }
    }
}

/// Row `index[image]` of `weight` for each image.
pub fn lookup<T: Element>(weight: &[T], index: &[usize], channels: usize, out: &mut [T]) {
    for (&i, out) in index.iter().zip(out.chunks_exact_mut(channels)) {
        out.copy_from_slice(&weight[i * channels..][..channels]);
    }
}

/// The gradient of [`lookup`] by the table.
pub fn lookup_backward<T: Element>(
    index: &[usize],
    channels: usize,
    dout: &[T],
    dweight: &mut [T],
) {
    dweight.fill(T::zero());
    for (&i, dout) in index.iter().zip(dout.chunks_exact(channels)) {
        dweight[i * channels..][..channels].iter_mut().zip(dout).for_each(|(w, d)| *w += *d);
    }
}
