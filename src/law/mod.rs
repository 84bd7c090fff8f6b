//! Data laws whose noised marginals are known exactly; each is an exact [`Denoiser`]. Layer L3.

pub mod conditional;
pub mod empirical;
pub mod gaussian;
pub mod mixture;
pub mod random_field;

use crate::diffusion::{Denoiser, PathPoint};
use crate::math::noise::Noise;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Zip};

pub use gaussian::Gaussian;

/// The noise stream that [`Law::sample`] draws from: "law" in ASCII, away from the small numbers that samplers count with.
pub const SAMPLE_STREAM: u64 = 0x6c61_7700;

/// A data law p(x0) with the exact law of `x_t = alpha x0 + sigma eps`.
pub trait Law: Denoiser {
    /// `E[x0]`, shape (d).
    fn mean(&self) -> Array1<f64>;

    /// `Cov[x0]`, shape (d, d).
    fn cov(&self) -> Array2<f64>;

    /// `ln p(x_t)` of each row, in nats; the log-likelihood of clean data is at `PathPoint::still(1, 0)`.
    /// Where the law has no density (sigma = 0 and a singular covariance), `-inf` or `+inf`.
    fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64>;

    /// `Cov[x0 | x_t = x]`, shape (d, d).
    fn posterior_cov(&self, x: ArrayView1<f64>, at: &PathPoint) -> Array2<f64>;

    /// `n` independent draws of x0, shape (n, d), as a pure function of the noise source.
    fn sample(&self, n: usize, noise: &Noise) -> Array2<f64>;

    /// Jacobian of the denoiser, `d E[x0|x] / dx = (alpha / sigma^2) Cov[x0|x]`, shape (d, d).
    fn jacobian(&self, x: ArrayView1<f64>, at: &PathPoint) -> Array2<f64> {
        self.posterior_cov(x, at) * (at.alpha / (at.sigma * at.sigma))
    }

    /// `grad_x ln p(x_t)` of each row by Tweedie's formula, `(alpha E[x0|x] - x) / sigma^2`.
    ///
    /// # Shapes
    /// `x` and `out` (n, d).
    fn score(&self, x: ArrayView2<f64>, at: &PathPoint, mut out: ArrayViewMut2<f64>) {
        self.denoise(x, at, out.view_mut());
        let var = at.sigma * at.sigma;
        Zip::from(&mut out).and(&x).for_each(|s, &x| *s = (at.alpha * *s - x) / var);
    }
}

impl<D: Denoiser + ?Sized> Denoiser for Box<D> {
    fn dim(&self) -> usize {
        (**self).dim()
    }
    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) {
        (**self).denoise(x, at, out);
    }
}

impl<L: Law + ?Sized> Law for Box<L> {
    fn mean(&self) -> Array1<f64> {
        (**self).mean()
    }
    fn cov(&self) -> Array2<f64> {
        (**self).cov()
    }
    fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
        (**self).log_density(x, at)
    }
    fn posterior_cov(&self, x: ArrayView1<f64>, at: &PathPoint) -> Array2<f64> {
        (**self).posterior_cov(x, at)
    }
    fn sample(&self, n: usize, noise: &Noise) -> Array2<f64> {
        (**self).sample(n, noise)
    }
    fn jacobian(&self, x: ArrayView1<f64>, at: &PathPoint) -> Array2<f64> {
        (**self).jacobian(x, at)
    }
    fn score(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) {
        (**self).score(x, at, out);
    }
}
