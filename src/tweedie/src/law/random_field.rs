//! Periodic Gaussian random fields: the simplest law with the spectrum of natural images, diagonal
//! in the Fourier basis.

use crate::diffusion::{Denoiser, PathPoint};
use crate::error::{Error, Result, finite};
use crate::law::gaussian::{denoiser_gain, posterior_variance, score_gain};
use crate::law::{Law, SAMPLE_STREAM};
use crate::math::noise::Noise;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis};
use rayon::prelude::*;
use std::f64::consts::TAU;
use std::sync::Arc;
use tweedie_engines::fft::{self, Complex64};

/// A stationary Gaussian law on a periodic grid of h x w pixels; one-dimensional with h = 1.
///
/// Its covariance is circulant, so that the Fourier modes are its eigenvectors and the power
/// spectrum its eigenvalues. A state is the grid row by row, d = h w. Denoising costs two fast
/// Fourier transforms where the dense [`Gaussian`](crate::law::Gaussian) needs two products with a
/// (d, d) matrix.
///
/// # Example
/// ```
/// use tweedie::law::{Law, random_field::RandomField};
/// let law = RandomField::power_law(8, 8, 0.0, 2.0, 1.0, 0.0).unwrap();
/// assert!((law.autocovariance()[[0, 0]] - 1.0).abs() < 1e-14); // the variance of a pixel
/// assert_eq!(law.cov().dim(), (64, 64));
/// ```
///
/// # Source
/// Field 1987, "Relations between the statistics of natural images and the response properties of
/// cortical cells": slope 2.
#[derive(Clone)]
pub struct RandomField {
    mean: f64,
    /// Eigenvalue of mode (ky, kx), shape (h, w).
    spectrum: Array2<f64>,
    rows: Arc<fft::Real>,
    columns: Arc<fft::Complex>,
}

impl std::fmt::Debug for RandomField {
    fn fmt(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
        f.debug_struct("RandomField")
            .field("mean", &self.mean)
            .field("spectrum", &self.spectrum)
            .finish_non_exhaustive()
    }
}

impl RandomField {
    /// From the mean of a pixel and the covariance's eigenvalues in the order of the discrete
    /// Fourier transform, shape (h, w).
    ///
    /// # Errors
    /// An empty grid; NaN; a negative eigenvalue; eigenvalues of opposite frequencies that differ,
    /// which no real field has.
    pub fn new(mean: f64, spectrum: Array2<f64>) -> Result<Self> {
        let (h, w) = spectrum.dim();
        if spectrum.is_empty() {
            return Err(Error::shape(
                "spectrum",
                spectrum.shape(),
                "(h, w) of at least one pixel",
                "pass a grid",
            ));
        }
        finite("mean", [&mean])?;
        finite("spectrum", spectrum.iter())?;
        for ((ky, kx), &l) in spectrum.indexed_iter() {
            if l < 0.0 {
                return Err(Error::domain(
                    format!("spectrum[{ky}, {kx}]"),
                    l,
                    ">= 0",
                    "pass variances of the modes",
                ));
            }
            let opposite = spectrum[[(h - ky) % h, (w - kx) % w]];
            if (l - opposite).abs() > 1e-10 * l {
                let allowed = format!("{opposite}, as at the opposite frequency");
                return Err(Error::domain(
                    format!("spectrum[{ky}, {kx}]"),
                    l,
                    allowed,
                    "make the spectrum even",
                ));
            }
        }
        Ok(Self {
            mean,
            rows: Arc::new(fft::real(w)),
            columns: Arc::new(fft::complex(h)),
            spectrum,
        })
    }

    /// A power law: the variance of a mode falls with its frequency to the power `slope` (about 2
    /// in natural images).
    ///
    /// # Formula
    /// `lambda_k` proportional to `|f|^-slope`, `f = (ky / h, kx / w)` cycles a pixel; without the
    /// constant mode a pixel has variance `var = sum_{k != 0} lambda_k / (h w)`. The power law has
    /// no value at frequency 0: `zero_mode` is that eigenvalue, and `zero_mode / (h w)` the
    /// variance of the field's mean over the grid.
    ///
    /// # Errors
    /// As [`new`](Self::new); a positive `var` on a grid of one pixel.
    pub fn power_law(
        h: usize,
        w: usize,
        mean: f64,
        slope: f64,
        var: f64,
        zero_mode: f64,
    ) -> Result<Self> {
        finite("slope, var, zero_mode", [&slope, &var, &zero_mode])?;
        if h * w < 2 && var != 0.0 {
            return Err(Error::domain(
                "var",
                var,
                "0 on a grid of one pixel",
                "give the one mode there is by zero_mode",
            ));
        }
        let signed = |k: usize, n: usize| k.min(n - k) as f64 / n as f64;
        let power = Array2::from_shape_fn((h, w), |k| {
            if k == (0, 0) { 0.0 } else { signed(k.0, h).hypot(signed(k.1, w)).powf(-slope) }
        });
        let scale = if var == 0.0 { 0.0 } else { var * (h * w) as f64 / power.sum() };
        let mut spectrum = power * scale;
        spectrum.iter_mut().take(1).for_each(|zero| *zero = zero_mode);
        Self::new(mean, spectrum)
    }

    /// Height and width of the grid.
    pub fn grid(&self) -> (usize, usize) {
        self.spectrum.dim()
    }

    /// Eigenvalues of the covariance in the order of the discrete Fourier transform, shape (h, w).
    pub fn spectrum(&self) -> ArrayView2<'_, f64> {
        self.spectrum.view()
    }

    /// Covariance of two pixels as a function of their (cyclic) distance, shape (h, w).
    pub fn autocovariance(&self) -> Array2<f64> {
        self.kernel(|l| l)
    }

    /// The convolution kernel of a function of the covariance, shape (h, w): the receptive field of
    /// a pixel.
    ///
    /// # Formula
    /// Inverse Fourier transform of `gain(lambda_k)`
    pub fn kernel(&self, gain: impl Fn(f64) -> f64) -> Array2<f64> {
        let mut out = Array2::zeros(self.grid());
        let half = self.half(gain).into_iter().map(Complex64::from).collect();
        self.inverse(half, out.as_slice_mut().expect("a new array is contiguous"));
        out
    }

    /// Applies a function of the covariance: each Fourier mode is scaled by `gain(lambda)`.
    ///
    /// # Formula
    /// `out = to mean + F^-1 gain(lambda) F (x - from mean)`
    ///
    /// # Shapes
    /// `x` and `out` (n, h w).
    pub fn map_modes(
        &self,
        x: ArrayView2<f64>,
        from: f64,
        to: f64,
        gain: impl Fn(f64) -> f64,
        mut out: ArrayViewMut2<f64>,
    ) {
        let gains = self.half(gain);
        let rows: Vec<_> = x.axis_iter(Axis(0)).zip(out.axis_iter_mut(Axis(0))).collect();
        rows.into_par_iter().for_each(|(x, mut out)| {
            let mut modes = self.transform(x.iter().map(|x| x - from * self.mean).collect());
            modes.iter_mut().zip(&gains).for_each(|(m, g)| *m *= g);
            let mut field = vec![0.0; x.len()];
            self.inverse(modes, &mut field);
            out.iter_mut().zip(field).for_each(|(out, f)| *out = f + to * self.mean);
        });
    }

    /// Differential entropy of `x_t`, in nats.
    ///
    /// # Formula
    /// `sum_k ln(2 pi e (alpha^2 lambda_k + sigma^2)) / 2`
    pub fn entropy(&self, at: &PathPoint) -> f64 {
        0.5 * (self.log_det(at) + self.spectrum.len() as f64 * (1.0 + TAU.ln()))
    }

    fn log_det(&self, at: &PathPoint) -> f64 {
        self.spectrum.iter().map(|l| (at.alpha * at.alpha * l + at.sigma * at.sigma).ln()).sum()
    }

    /// Columns kx = 0..=w/2 of the modes are enough for a real field.
    fn half_width(&self) -> usize {
        self.spectrum.ncols() / 2 + 1
    }

    /// `gain(lambda)` of the stored half of the modes, column by column.
    fn half(&self, gain: impl Fn(f64) -> f64) -> Vec<f64> {
        let h = self.spectrum.nrows();
        (0..self.half_width() * h).map(|i| gain(self.spectrum[[i % h, i / h]])).collect()
    }

    /// Unnormalised Fourier transform: half of the modes, column by column.
    fn transform(&self, mut field: Vec<f64>) -> Vec<Complex64> {
        let ((h, w), half) = (self.grid(), self.half_width());
        let mut modes = vec![Complex64::default(); half * h];
        let mut row_modes = vec![Complex64::default(); half];
        for (i, row) in field.chunks_exact_mut(w).enumerate() {
            self.rows
                .forward
                .process(row, &mut row_modes)
                .expect("buffers have the planned lengths");
            row_modes.iter().enumerate().for_each(|(k, m)| modes[k * h + i] = *m);
        }
        self.columns.forward.process(&mut modes);
        modes
    }

    /// Normalised inverse of [`transform`](Self::transform).
    fn inverse(&self, mut modes: Vec<Complex64>, out: &mut [f64]) {
        let ((h, w), half) = (self.grid(), self.half_width());
        self.columns.inverse.process(&mut modes);
        let mut row_modes = vec![Complex64::default(); half];
        for (i, row) in out.chunks_exact_mut(w).enumerate() {
            row_modes
                .iter_mut()
                .enumerate()
                .for_each(|(k, m)| *m = modes[k * h + i] / (h * w) as f64);
            // Frequency 0 and the highest of an even width are their own opposites, hence real;
            // rounding leaves an imaginary part.
            row_modes[0].im = 0.0;
            if w % 2 == 0 {
                row_modes[half - 1].im = 0.0;
            }
            self.rows
                .inverse
                .process(&mut row_modes, row)
                .expect("buffers have the planned lengths, and real ends");
        }
    }

    /// The circulant matrix of a function of the covariance, shape (h w, h w).
    fn matrix(&self, gain: impl Fn(f64) -> f64) -> Array2<f64> {
        let (h, w) = self.grid();
        let kernel = self.kernel(gain);
        Array2::from_shape_fn((h * w, h * w), |(i, j)| {
            kernel[[(h + i / w - j / w) % h, (w + i % w - j % w) % w]]
        })
    }
}

impl Denoiser for RandomField {
    fn dim(&self) -> usize {
        self.spectrum.len()
    }

    /// The Wiener filter, as a convolution; limits as in [`Gaussian`](crate::law::Gaussian).
    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.map_modes(x, at.alpha, 1.0, |l| denoiser_gain(l, at), out);
        Ok(())
    }
}

impl Law for RandomField {
    fn mean(&self) -> Array1<f64> {
        Array1::from_elem(self.dim(), self.mean)
    }

    fn cov(&self) -> Array2<f64> {
        self.matrix(|l| l)
    }

    /// At `sigma = 0` with a singular covariance: `+inf` on the support (to rounding), `-inf` off
    /// it.
    fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
        let (d, (h, w)) = (self.dim() as f64, self.grid());
        let normalisation = self.log_det(at) + d * TAU.ln();
        let var = self.half(|l| at.alpha * at.alpha * l + at.sigma * at.sigma);
        let rows: Vec<_> = x.axis_iter(Axis(0)).collect();
        let log_density = rows.into_par_iter().map(|x| {
            let modes = self.transform(x.iter().map(|x| x - at.alpha * self.mean).collect());
            let (mut sum, mut off) = (0.0, 0.0);
            for (i, (m, var)) in modes.iter().zip(&var).enumerate() {
                // Parseval; a column that stands for its opposite too counts twice.
                let twice = if i / h == 0 || 2 * (i / h) == w { 1.0 } else { 2.0 };
                let square = twice * m.norm_sqr() / d;
                if *var == 0.0 { off += square } else { sum += square / var }
            }
            let length = x.dot(&x).sqrt() + (at.alpha * self.mean).abs() * d.sqrt();
            let rounding = 8.0 * d * f64::EPSILON * length;
            if off.sqrt() > rounding { f64::NEG_INFINITY } else { -0.5 * (sum + normalisation) }
        });
        log_density.collect::<Vec<_>>().into()
    }

    /// By the same amount in every pixel: the law stays homogeneous.
    fn translated(&self, by: ArrayView1<f64>) -> Option<Box<dyn Law>> {
        by.iter()
            .all(|b| *b == by[0])
            .then(|| Box::new(Self { mean: self.mean + by[0], ..self.clone() }) as Box<dyn Law>)
    }

    fn posterior_cov(&self, _x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        Ok(self.matrix(|l| posterior_variance(l, at)))
    }

    /// White noise, filtered by the square root of the spectrum.
    fn sample(&self, n: usize, noise: &Noise) -> Array2<f64> {
        let mut eps = Array2::zeros((n, self.dim()));
        noise.fill_normal(SAMPLE_STREAM, eps.as_slice_mut().expect("a new array is contiguous"));
        let mut out = Array2::zeros((n, self.dim()));
        self.map_modes(eps.view(), 0.0, 1.0, f64::sqrt, out.view_mut());
        out
    }

    fn jacobian(&self, _x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        Ok(self.matrix(|l| denoiser_gain(l, at)))
    }

    /// From the modes, as [`Gaussian`](crate::law::Gaussian)'s.
    fn score(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.map_modes(x, at.alpha, 0.0, |l| score_gain(l, at), out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::Gaussian;
    use crate::math::larger;
    use crate::math::moments::{Normalisation, mean_and_cov};
    use ndarray::{array, s};
    use proptest::prelude::*;

    const EPS: f64 = f64::EPSILON;

    proptest! {
        /// Second route: the dense Gaussian whose covariance is written out pixel by pixel as a sum
        /// of cosines, no Fourier transform.
        #[test]
        fn equals_the_dense_gaussian(
            h in 1usize..6, w in 1usize..7, slope in -1.0..3.0f64, zero_mode in prop_oneof![Just(0.0), 0.1..3.0f64], mean in -1.0..1.0f64,
            alpha in 0.0..1.2f64, log_sigma in -3.0..1.0f64, seed: u64,
        ) {
            let d = h * w;
            let law = RandomField::power_law(h, w, mean, slope, if d > 1 { 0.8 } else { 0.0 }, zero_mode).unwrap();
            let cov = Array2::from_shape_fn((d, d), |(i, j)| {
                let (dy, dx) = (i / w + h - j / w, i % w + w - j % w);
                law.spectrum().indexed_iter().map(|((ky, kx), l)| {
                    l * (TAU * ((ky * dy % h) as f64 / h as f64 + (kx * dx % w) as f64 / w as f64)).cos()
                }).sum::<f64>() / d as f64
            });
            let tiny = 64.0 * d as f64 * EPS;
            let top = law.spectrum().iter().cloned().fold(0.0, larger);
            prop_assert!((&Law::cov(&law) - &cov).iter().all(|e| e.abs() <= tiny * top));
            let dense = Gaussian::new(Law::mean(&law), cov.view()).unwrap();
            let noise = Noise::new(seed);
            let x = Array2::from_shape_fn((3, d), |(i, j)| noise.normal(0, (i * d + j) as u64));
            let at = PathPoint::still(alpha, log_sigma.exp());
            let condition = 1.0 + alpha * alpha * top / at.sigma.powi(2);
            let size = x.iter().map(|v| v.abs()).fold(3.0, larger) * (d as f64).sqrt();
            let (mut a, mut b) = (Array2::zeros((3, d)), Array2::zeros((3, d)));
            law.denoise(x.view(), &at, a.view_mut()).unwrap();
            dense.denoise(x.view(), &at, b.view_mut()).unwrap();
            prop_assert!((&a - &b).iter().all(|e| e.abs() <= tiny * condition * size / at.sigma.min(1.0)));
            law.score(x.view(), &at, a.view_mut()).unwrap();
            dense.score(x.view(), &at, b.view_mut()).unwrap();
            prop_assert!((&a - &b).iter().all(|e| e.abs() <= tiny * condition * size / at.sigma.powi(2)));
            let (p, q) = (law.log_density(x.view(), &at), dense.log_density(x.view(), &at));
            prop_assert!(p.iter().zip(&q).all(|(p, q)| (p - q).abs() <= tiny * condition * (size * size / at.sigma.powi(2) + 10.0 * d as f64)));
            prop_assert!((law.entropy(&at) - dense.entropy(&at)).abs() <= tiny * condition * 10.0 * d as f64);
            let (p, q) = (law.posterior_cov(x.row(0), &at).unwrap(), dense.posterior_cov(x.row(0), &at).unwrap());
            prop_assert!((&p - &q).iter().all(|e| e.abs() <= tiny * condition * top));
            let (p, q) = (law.jacobian(x.row(0), &at).unwrap(), dense.jacobian(x.row(0), &at).unwrap());
            prop_assert!((&p - &q).iter().all(|e| e.abs() <= tiny * condition / at.sigma.min(1.0)));
        }
    }

    #[test]
    fn power_law_has_its_slope_and_variance() {
        let law = RandomField::power_law(1, 64, 0.0, 2.0, 1.5, 7.0).unwrap();
        assert_eq!(law.spectrum()[[0, 0]], 7.0);
        assert!((law.spectrum()[[0, 4]] / law.spectrum()[[0, 8]] - 4.0).abs() <= 8.0 * EPS);
        assert!((law.autocovariance()[[0, 0]] - 1.5 - 7.0 / 64.0).abs() <= 16.0 * EPS);
        // On a square grid frequencies a 3-4-5 triangle apart from the axes have the power of
        // frequency 5 on an axis.
        let law = RandomField::power_law(16, 16, 0.0, 1.7, 1.0, 0.0).unwrap();
        assert!((law.spectrum()[[3, 13 - 1]] / law.spectrum()[[0, 5]] - 1.0).abs() <= 8.0 * EPS);
    }

    #[test]
    fn limits_at_both_ends() {
        // No constant mode: the field's sum is 0, and other states are off the support.
        let law = RandomField::power_law(2, 4, 0.5, 1.0, 1.0, 0.0).unwrap();
        let x = law.sample(2, &Noise::new(1));
        let mut out = Array2::zeros(x.raw_dim());
        law.denoise((&x * 0.5 + 3.0).view(), &PathPoint::still(0.5, 0.0), out.view_mut()).unwrap();
        assert!((&out - &x).iter().all(|e| e.abs() <= 64.0 * EPS * 10.0));
        law.denoise(x.view(), &PathPoint::still(0.0, 0.0), out.view_mut()).unwrap();
        assert!(out.iter().all(|v| *v == 0.5));
        let still = PathPoint::CLEAN;
        assert_eq!(law.log_density(x.view(), &still)[0], f64::INFINITY);
        assert_eq!(law.log_density((&x + 1.0).view(), &still)[0], f64::NEG_INFINITY);
        assert_eq!(law.entropy(&still), f64::NEG_INFINITY);
    }

    #[test]
    fn samples_have_the_law_s_moments() {
        let (law, n) = (RandomField::power_law(2, 3, 0.3, 1.5, 1.0, 0.5).unwrap(), 20_000);
        let draws = law.sample(n, &Noise::new(5));
        let (mean, cov) = mean_and_cov(draws.view(), Normalisation::Points).unwrap();
        let want = Law::cov(&law);
        for i in 0..6 {
            assert!((mean[i] - 0.3).abs() <= 5.0 * (want[[i, i]] / n as f64).sqrt());
            for j in 0..6 {
                let error =
                    ((want[[i, i]] * want[[j, j]] + want[[i, j]].powi(2)) / n as f64).sqrt();
                assert!((cov[[i, j]] - want[[i, j]]).abs() <= 5.0 * error);
            }
        }
        assert_eq!(law.sample(2, &Noise::new(5)), draws.slice(s![..2, ..]));
    }

    #[test]
    fn refuses_what_is_no_spectrum() {
        assert!(RandomField::new(0.0, Array2::zeros((0, 3))).is_err());
        assert!(RandomField::new(0.0, array![[1.0, -1.0]]).is_err());
        assert!(
            RandomField::new(0.0, array![[1.0, 2.0, 3.0]])
                .unwrap_err()
                .to_string()
                .contains("even")
        );
        assert!(RandomField::new(f64::NAN, array![[1.0]]).is_err());
        assert!(RandomField::power_law(1, 1, 0.0, 2.0, 1.0, 1.0).is_err());
        assert!(RandomField::power_law(4, 4, 0.0, 2.0, -1.0, 1.0).is_err());
    }

    #[test]
    fn frequencies_are_cycles_a_pixel_on_any_grid() {
        // Two rows of eight: the highest frequency down is 1/2, across too; the lowest across is
        // 1/8.
        let law = RandomField::power_law(2, 8, 0.0, 2.0, 1.0, 0.0).unwrap();
        let spectrum = law.spectrum();
        assert!((spectrum[[1, 0]] / spectrum[[0, 4]] - 1.0).abs() <= 8.0 * EPS);
        assert!((spectrum[[0, 1]] / spectrum[[0, 4]] - 16.0).abs() <= 128.0 * EPS);
    }

    #[test]
    fn large_grids_of_every_parity_denoise() {
        for (h, w) in [(7, 6), (9, 10), (8, 15), (13, 12)] {
            let law = RandomField::power_law(h, w, 0.4, 1.5, 1.0, 0.5).unwrap();
            let x = law.sample(3, &Noise::new(2));
            let mut out = Array2::zeros(x.raw_dim());
            let at = PathPoint::still(0.8, 0.6);
            law.denoise((&x * 0.8).view(), &at, out.view_mut()).unwrap();
            let want = ((&x - 0.4) * 0.8).dot(&law.jacobian(x.row(0), &at).unwrap()) + 0.4;
            assert!((&out - &want).iter().all(|e| e.abs() <= 1e-13), "{h} x {w}");
        }
    }

    /// Without noise a field has infinite density on its support, to the rounding of the states'
    /// own size, and none off it.
    #[test]
    fn the_support_is_met_to_rounding_at_any_scale() {
        let field = |mean: f64| RandomField::power_law(5, 6, mean, 1.0, 1.0, 0.0).unwrap();
        let density = |mean: f64, x: &Array2<f64>, alpha: f64| {
            field(mean).log_density(x.view(), &PathPoint::still(alpha, 0.0))[0]
        };
        let x = field(0.0).sample(1, &Noise::new(4));
        let zero = Array2::zeros((1, 30));
        assert_eq!(density(0.0, &zero, 1.0), f64::INFINITY);
        for scale in [1e-6, 1.0, 1e6] {
            assert_eq!(density(0.0, &(&x * scale), 1.0), f64::INFINITY);
            assert_eq!(density(scale, &(&x + 0.5 * scale), 0.5), f64::INFINITY);
            // The constant mode is off the support.
            for off in [1e-12, 1e-3] {
                assert_eq!(density(0.0, &((&x + off) * scale), 1.0), f64::NEG_INFINITY);
            }
        }
    }
}
