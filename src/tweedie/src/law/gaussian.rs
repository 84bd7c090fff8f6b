//! The Gaussian law: its denoiser is the Wiener filter, diagonal in the eigenbasis of the
//! covariance.

use crate::diffusion::level::Level;
use crate::diffusion::{Denoiser, PathPoint};
use crate::error::{Error, Result, finite};
use crate::law::{Law, SAMPLE_STREAM};
use crate::math::dd::Dd;
use crate::math::eigen::symmetric_eigen;
use crate::math::larger;
use crate::math::matmul::matmul;
use crate::math::moments::{Normalisation, mean_and_cov};
use crate::math::noise::Noise;
use crate::math::scalar::{Scalar, exponent, ldexp};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Zip, s};
use std::f64::consts::TAU;

/// `N(mean, U diag(lambda) U^T)` with r <= d modes: variance is zero off the span of U.
///
/// Full rank, low rank and rank-deficient covariances are one case: modes whose variance is zero
/// need not be stored.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::diffusion::{Denoiser, PathPoint};
/// use tweedie::law::Gaussian;
/// let law = Gaussian::diagonal(array![1.0, 0.0], array![3.0, 0.0]).unwrap();
/// let mut x0_hat = ndarray::Array2::zeros((1, 2));
/// law.denoise(array![[5.0, 5.0]].view(), &PathPoint::still(1.0, 1.0), x0_hat.view_mut()).unwrap();
/// assert_eq!(x0_hat, array![[4.0, 0.0]]); // 1 + 3/4 (5 - 1), and the coordinate without variance stays at its mean
/// ```
///
/// # Source
/// Wiener, "Extrapolation, Interpolation, and Smoothing of Stationary Time Series" (1949), in the
/// eigenbasis.
#[derive(Clone, Debug)]
pub struct Gaussian {
    mean: Array1<f64>,
    /// Variances of the modes, descending, all >= 0, shape (r).
    variances: Array1<f64>,
    /// Orthonormal modes as columns, shape (d, r).
    modes: Array2<f64>,
    /// Variance of each coordinate where the modes are coordinate axes, shape (d): then no matrix
    /// product is needed.
    axes: Option<Array1<f64>>,
}

/// The Wiener filter's gain of a mode of variance `lambda`: `E[x0|x_t]` moves by this much for each
/// unit of x_t.
///
/// # Formula
/// `alpha lambda / (alpha^2 lambda + sigma^2)`; 0/0 where `sigma = 0` and `alpha^2 lambda = 0`
/// (what a [`Gaussian`] denoises to there is its documented limit).
pub fn wiener_gain<S: Scalar>(lambda: S, alpha: S, sigma: S) -> S {
    let (var, e) = Level { alpha, sigma }.split_var(lambda);
    let (signal, spread) = (exponent(alpha.re()), exponent(lambda.re()));
    ldexp(ldexp(alpha, -signal) * ldexp(lambda, -spread) / var, signal + spread - 2 * e)
}

impl Gaussian {
    /// From a mean (d) and a symmetric positive semi-definite covariance (d, d).
    ///
    /// Eigenvalues within `d eps` of the largest are what rounding makes of 0, and become 0.
    ///
    /// # Errors
    /// Shapes that do not fit, NaN, an asymmetric matrix, an eigenvalue below `-1e-10` of the
    /// largest.
    pub fn new(mean: Array1<f64>, cov: ArrayView2<f64>) -> Result<Self> {
        let d = mean.len();
        if cov.dim() != (d, d) {
            return Err(Error::shape(
                "covariance",
                cov.shape(),
                format!("({d}, {d}), the mean's dimension"),
                "pass a square covariance",
            ));
        }
        finite("mean", mean.iter())?;
        finite("covariance", cov.iter())?;
        let size = cov.iter().map(|c| c.abs()).fold(0.0, larger);
        if let Some(((i, j), c)) =
            cov.indexed_iter().find(|&((i, j), c)| (c - cov[[j, i]]).abs() > 1e-10 * size)
        {
            let (what, allowed) = (
                format!("covariance[{i}, {j}]"),
                format!("covariance[{j}, {i}] = {}", cov[[j, i]]),
            );
            return Err(Error::domain(
                what,
                c,
                allowed,
                "pass a symmetric matrix, such as (c + c^T) / 2",
            ));
        }
        let mut e = symmetric_eigen(cov)?;
        let rounding = d as f64 * f64::EPSILON * e.values.first().copied().unwrap_or(0.0);
        e.values.mapv_inplace(|l| if l.abs() <= rounding { 0.0 } else { l });
        Self::from_modes(mean, e.values, e.vectors)
    }

    /// The Gaussian with the mean and covariance (divided by n) of data rows (n, d).
    ///
    /// # Errors
    /// No rows; NaN or infinity.
    pub fn from_data(data: ArrayView2<f64>) -> Result<Self> {
        let (mean, cov) = mean_and_cov(data, Normalisation::Points)?;
        Self::new(mean, cov.view())
    }

    /// From modes: `modes` (d, r) orthonormal columns, `variances` (r).
    ///
    /// Variances between `-1e-10` of the largest and 0 are rounding and become 0; modes are sorted,
    /// largest variance first.
    ///
    /// # Errors
    /// Shapes that do not fit, NaN, a negative variance beyond rounding, columns whose products
    /// differ from the identity by more than 1e-8.
    pub fn from_modes(
        mean: Array1<f64>,
        variances: Array1<f64>,
        modes: Array2<f64>,
    ) -> Result<Self> {
        let (d, r) = (mean.len(), variances.len());
        if modes.dim() != (d, r) {
            return Err(Error::shape(
                "modes",
                modes.shape(),
                format!("({d}, {r})"),
                "one orthonormal column for each variance",
            ));
        }
        finite("mean", mean.iter())?;
        finite("variances", variances.iter())?;
        finite("modes", modes.iter())?;
        let mut gram = Array2::eye(r);
        matmul(1.0, modes.t(), modes.view(), -1.0, gram.view_mut());
        if let Some(((i, j), g)) = gram.indexed_iter().find(|(_, g)| g.abs() > 1e-8) {
            let what = format!("modes {i} and {j}: their product's distance from the identity");
            return Err(Error::domain(what, g, "at most 1e-8", "pass orthonormal columns"));
        }
        let largest = variances.iter().cloned().fold(0.0, larger);
        if let Some(v) = variances.iter().find(|v| **v < -1e-10 * largest) {
            return Err(Error::domain(
                "variance of a mode",
                v,
                ">= 0",
                "pass a positive semi-definite covariance",
            ));
        }
        Ok(Self::sorted(mean, variances.mapv(|v| v.max(0.0)), modes))
    }

    fn sorted(mean: Array1<f64>, variances: Array1<f64>, modes: Array2<f64>) -> Self {
        let mut order: Vec<usize> = (0..variances.len()).collect();
        order.sort_by(|&a, &b| variances[b].total_cmp(&variances[a]));
        Self {
            mean,
            variances: variances.select(Axis(0), &order),
            modes: modes.select(Axis(1), &order),
            axes: None,
        }
    }

    /// Independent coordinates with the given variances.
    ///
    /// # Errors
    /// Lengths that differ, NaN, a negative variance.
    pub fn diagonal(mean: Array1<f64>, variances: Array1<f64>) -> Result<Self> {
        if mean.len() != variances.len() {
            return Err(Error::shape(
                "variances",
                &[variances.len()],
                format!("({},), the mean's length", mean.len()),
                "one variance a coordinate",
            ));
        }
        finite("mean", mean.iter())?;
        finite("variances", variances.iter())?;
        if let Some(v) = variances.iter().find(|v| **v < 0.0) {
            return Err(Error::domain(
                "variance of a coordinate",
                v,
                ">= 0",
                "pass variances, not logarithms or deviations",
            ));
        }
        let d = mean.len();
        Ok(Self { axes: Some(variances.clone()), ..Self::sorted(mean, variances, Array2::eye(d)) })
    }

    /// The same variance in every direction; variance 0 is a point mass.
    ///
    /// # Errors
    /// NaN, a negative variance.
    pub fn isotropic(mean: Array1<f64>, variance: f64) -> Result<Self> {
        let d = mean.len();
        Self::diagonal(mean, Array1::from_elem(d, variance))
    }

    /// The law of the `rank` highest-variance modes only: the rest of the variance is dropped.
    pub fn truncated(&self, rank: usize) -> Self {
        let r = rank.min(self.rank());
        let (variances, modes) =
            (self.variances.slice(s![..r]).to_owned(), self.modes.slice(s![.., ..r]).to_owned());
        let axes =
            self.axes.as_ref().map(|_| Zip::from(modes.rows()).map_collect(|u| u.dot(&variances)));
        Self { mean: self.mean.clone(), variances, modes, axes }
    }

    /// Dimension d.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }
    /// Number of stored modes r.
    pub fn rank(&self) -> usize {
        self.variances.len()
    }
    /// Mean, shape (d).
    pub fn mean(&self) -> ArrayView1<'_, f64> {
        self.mean.view()
    }
    /// Variances of the modes, largest first, shape (r).
    pub fn variances(&self) -> ArrayView1<'_, f64> {
        self.variances.view()
    }
    /// Orthonormal modes as columns, shape (d, r).
    pub fn modes(&self) -> ArrayView2<'_, f64> {
        self.modes.view()
    }

    /// Applies a function of the covariance: each mode is scaled by `gain(lambda)`, what lies off
    /// the modes by `gain(0)`.
    ///
    /// # Formula
    /// `out = to mean + sum_k gain(lambda_k) u_k u_k^T z + gain(0) (z - U U^T z)` with
    /// `z = x - from mean`.
    ///
    /// Every closed form of a Gaussian (Wiener filter, score, PF-ODE map, whitening) is one call of
    /// this.
    ///
    /// # Shapes
    /// `x` and `out` (n, d).
    pub fn map_modes(
        &self,
        x: ArrayView2<f64>,
        from: f64,
        to: f64,
        gain: impl Fn(f64) -> f64,
        mut out: ArrayViewMut2<f64>,
    ) {
        if let Some(axes) = &self.axes {
            let (shift, lift, gains) = (&self.mean * from, &self.mean * to, axes.mapv(gain));
            each_row(x, out, |x, out| {
                Zip::from(out)
                    .and(x)
                    .and(&shift)
                    .and(&lift)
                    .and(&gains)
                    .for_each(|o, x, s, l, g| *o = l + g * (x - s));
            });
            return;
        }
        let off = if self.rank() < self.dim() { gain(0.0) } else { 0.0 };
        // Off-mode part: off (z - U c) = off z + U (-off c), folded into the second product.
        let gains = self.variances.mapv(|l| gain(l) - off);
        let (shift, lift) = (&self.mean * from, &self.mean * to);
        // A block of rows stays in the cache between the passes, and its coordinates are the only
        // memory needed: z lies in `out`.
        let mut coordinates = Array2::zeros((x.nrows().min(BLOCK), self.rank()));
        for (x, mut out) in
            x.axis_chunks_iter(Axis(0), BLOCK).zip(out.axis_chunks_iter_mut(Axis(0), BLOCK))
        {
            let mut c = coordinates.slice_mut(s![..x.nrows(), ..]);
            each_row(x, out.view_mut(), |x, out| {
                Zip::from(out).and(x).and(&shift).for_each(|z, x, s| *z = x - s)
            });
            matmul(1.0, out.view(), self.modes.view(), 0.0, c.view_mut());
            each_row_mut(c.view_mut(), |c| Zip::from(c).and(&gains).for_each(|c, g| *c *= g));
            matmul(1.0, c.view(), self.modes.t(), off, out.view_mut());
            if to != 0.0 {
                each_row_mut(out, |out| Zip::from(out).and(&lift).for_each(|o, l| *o += l));
            }
        }
    }

    /// Coordinates of rows along the modes, `x U`, shape (n, r): a choice of columns where the modes
    /// are coordinate axes.
    pub(crate) fn coordinates(&self, x: ArrayView2<f64>) -> Array2<f64> {
        if self.axes.is_some() {
            let axis =
                |u: ArrayView1<f64>| u.iter().position(|u| *u != 0.0).expect("a unit vector");
            let axes: Vec<usize> = self.modes.columns().into_iter().map(axis).collect();
            return x.select(Axis(1), &axes);
        }
        let mut out = Array2::zeros((x.nrows(), self.rank()));
        matmul(1.0, x, self.modes.view(), 0.0, out.view_mut());
        out
    }

    /// A function of the covariance as a matrix, shape (d, d): the linear part of
    /// [`map_modes`](Self::map_modes).
    ///
    /// # Formula
    /// `sum_k gain(lambda_k) u_k u_k^T + gain(0) (I - U U^T)`
    pub fn matrix(&self, gain: impl Fn(f64) -> f64) -> Array2<f64> {
        if let Some(axes) = &self.axes {
            return Array2::from_diag(&axes.mapv(gain));
        }
        let off = if self.rank() < self.dim() { gain(0.0) } else { 0.0 };
        let gains = self.variances.mapv(|l| gain(l) - off);
        let mut out = Array2::from_diag_elem(self.dim(), off);
        matmul(1.0, (&self.modes * &gains).view(), self.modes.t(), 1.0, out.view_mut());
        out
    }

    /// Differential entropy of `x_t`, in nats; of the data at [`PathPoint::CLEAN`], `-inf`
    /// where the covariance is singular.
    ///
    /// # Formula
    /// `sum_k ln(2 pi e (alpha^2 lambda_k + sigma^2)) / 2` over all d directions
    pub fn entropy(&self, at: &PathPoint) -> f64 {
        0.5 * (self.log_det(at) + self.dim() as f64 * (1.0 + TAU.ln()))
    }

    /// What of the rows `z` with coordinates `c` lies off the modes, shape (n, d), or (n, 0) where
    /// nothing can. The residual itself, not `|z|^2 - |c|^2`: that difference is rounding where z
    /// lies almost in the support.
    fn off_modes(&self, mut z: Array2<f64>, c: ArrayView2<f64>) -> Array2<f64> {
        if self.rank() == self.dim() {
            return Array2::zeros((z.nrows(), 0));
        }
        matmul(-1.0, c, self.modes.t(), 1.0, z.view_mut());
        z
    }

    /// `ln det(alpha^2 Sigma + sigma^2 I)`.
    fn log_det(&self, at: &PathPoint) -> f64 {
        let noise = at.sigma * at.sigma;
        let on: f64 = self.variances.iter().map(|l| (at.alpha * at.alpha * l + noise).ln()).sum();
        // 0 ln 0 is 0: without off-mode directions sigma = 0 is allowed.
        let off = self.dim() - self.rank();
        if off == 0 { on } else { on + off as f64 * noise.ln() }
    }

    /// `ln p(x_t)` of one state over any [`Scalar`], for derivatives in `x`, `alpha` and `sigma`;
    /// needs `sigma > 0` or full rank.
    ///
    /// # Shapes
    /// `x` (d).
    pub fn log_density_of<S: Scalar>(&self, x: &[S], alpha: S, sigma: S) -> S {
        let noise = sigma * sigma;
        let mut residual: Vec<S> = x.iter().zip(&self.mean).map(|(&x, &m)| x - alpha * m).collect();
        let z = residual.clone();
        let mut sum = S::from(0.0);
        for (u, &lambda) in self.modes.columns().into_iter().zip(&self.variances) {
            let c = z.iter().zip(u).fold(S::from(0.0), |sum, (&z, &u)| sum + z * u);
            let var = alpha * alpha * lambda + noise;
            sum += c * c / var + var.ln();
            residual.iter_mut().zip(u).for_each(|(r, &u)| *r -= c * u);
        }
        if self.rank() < self.dim() {
            let off = residual.iter().fold(S::from(0.0), |sum, &r| sum + r * r);
            sum += off / noise + noise.ln() * (self.dim() - self.rank()) as f64;
        }
        (sum + self.dim() as f64 * TAU.ln()) * -0.5
    }
}

/// Rows of a block: 1024 rows of a 28 x 28 image are 6 MB.
const BLOCK: usize = 1024;

/// `f(x row, out row)`, in parallel where there is work for more than one thread.
fn each_row(
    x: ArrayView2<f64>,
    mut out: ArrayViewMut2<f64>,
    f: impl Fn(ArrayView1<f64>, ndarray::ArrayViewMut1<f64>) + Sync + Send,
) {
    let rows = Zip::from(out.rows_mut()).and(x.rows());
    if x.len() < PARALLEL_FROM {
        rows.for_each(|out, x| f(x, out))
    } else {
        rows.par_for_each(|out, x| f(x, out))
    }
}

fn each_row_mut(
    mut out: ArrayViewMut2<f64>,
    f: impl Fn(ndarray::ArrayViewMut1<f64>) + Sync + Send,
) {
    let n = out.len();
    let rows = Zip::from(out.rows_mut());
    if n < PARALLEL_FROM { rows.for_each(f) } else { rows.par_for_each(f) }
}

/// Elements from which an elementwise pass is worth waking the pool for.
const PARALLEL_FROM: usize = 1 << 16;

/// [`wiener_gain`] with its limits: a direction without variance stays at the mean, also at
/// `sigma = 0`, and all do at `alpha = 0`.
pub(crate) fn denoiser_gain(lambda: f64, at: &PathPoint) -> f64 {
    if lambda == 0.0 || at.alpha == 0.0 { 0.0 } else { wiener_gain(lambda, at.alpha, at.sigma) }
}

/// What the score multiplies `x - alpha mean` by; 0 within a direction that has neither variance
/// nor noise.
pub(crate) fn score_gain(lambda: f64, at: &PathPoint) -> f64 {
    let var = at.alpha * at.alpha * lambda + at.sigma * at.sigma;
    if var == 0.0 { 0.0 } else { -1.0 / var }
}

/// Variance that is left of a mode's `lambda` once `x_t` is known; 0 / 0 is a direction without
/// variance, or nothing seen at all.
pub(crate) fn posterior_variance(lambda: f64, at: &PathPoint) -> f64 {
    let (signal, noise) = (at.alpha * at.alpha, at.sigma * at.sigma);
    if lambda == 0.0 || signal == 0.0 {
        lambda
    } else {
        lambda * (noise / (signal * lambda + noise))
    }
}

impl Denoiser for Gaussian {
    fn dim(&self) -> usize {
        self.mean.len()
    }

    /// The Wiener filter. At `sigma = 0` its limit: `x / alpha` projected on the support; at
    /// `alpha = 0` the mean.
    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.map_modes(x, at.alpha, 1.0, |l| denoiser_gain(l, at), out);
        Ok(())
    }
}

impl Law for Gaussian {
    fn mean(&self) -> Array1<f64> {
        self.mean.clone()
    }

    fn cov(&self) -> Array2<f64> {
        self.matrix(|l| l)
    }

    /// At `sigma = 0` with a singular covariance: `+inf` on the support (to rounding), `-inf` off
    /// it.
    fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
        let (alpha, noise) = (at.alpha, at.sigma * at.sigma);
        let normalisation = self.log_det(at) + self.dim() as f64 * TAU.ln();
        let mean_size = alpha.abs() * self.mean.dot(&self.mean).sqrt();
        let mut out = Array1::zeros(x.nrows());
        for (x, mut out) in
            x.axis_chunks_iter(Axis(0), BLOCK).zip(out.axis_chunks_iter_mut(Axis(0), BLOCK))
        {
            let z = &x - &(&self.mean * alpha);
            let (c, residual, variances) = match &self.axes {
                Some(axes) => (z, Array2::zeros((x.nrows(), 0)), axes),
                None => {
                    let mut c = Array2::zeros((x.nrows(), self.rank()));
                    matmul(1.0, z.view(), self.modes.view(), 0.0, c.view_mut());
                    let residual = self.off_modes(z, c.view());
                    (c, residual, &self.variances)
                }
            };
            Zip::from(&mut out).and(x.rows()).and(c.rows()).and(residual.rows()).for_each(
                |out, x, c, residual| {
                    let mut off = residual.dot(&residual);
                    let mut sum = 0.0;
                    for (c, lambda) in c.iter().zip(variances) {
                        let var = alpha * alpha * lambda + noise;
                        if var == 0.0 { off += c * c } else { sum += c * c / var }
                    }
                    // Products over d terms round to d eps of the vectors' length.
                    let rounding =
                        8.0 * self.dim() as f64 * f64::EPSILON * (x.dot(&x).sqrt() + mean_size);
                    *out = if noise > 0.0 {
                        -0.5 * (sum + off / noise + normalisation)
                    } else if off.sqrt() > rounding {
                        f64::NEG_INFINITY
                    } else {
                        -0.5 * (sum + normalisation)
                    };
                },
            );
        }
        out
    }

    /// To 106 bits at positive `sigma`, of the law whose modes are the rounded ones.
    fn log_density_unrounded(&self, x: ArrayView1<f64>, at: &PathPoint) -> Dd {
        if at.sigma > 0.0 {
            let x: Vec<Dd> = x.iter().map(|x| Dd::from(*x)).collect();
            return self.log_density_of(&x, at.alpha.into(), at.sigma.into());
        }
        self.log_density(x.insert_axis(Axis(0)), at)[0].into()
    }

    fn translated(&self, by: ArrayView1<f64>) -> Option<Box<dyn Law>> {
        Some(Box::new(Self { mean: &self.mean + &by, ..self.clone() }))
    }

    fn posterior_cov(&self, _x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        Ok(self.matrix(|l| posterior_variance(l, at)))
    }

    /// Each draw is `mean + U sqrt(lambda) eps` with r normals.
    fn sample(&self, n: usize, noise: &Noise) -> Array2<f64> {
        let mut eps = Array2::zeros((n, self.rank()));
        noise.fill_normal(SAMPLE_STREAM, eps.as_slice_mut().expect("a new array is contiguous"));
        eps *= &self.variances.mapv(f64::sqrt);
        let mut out = Array2::zeros((n, self.dim()));
        matmul(1.0, eps.view(), self.modes.t(), 0.0, out.view_mut());
        out += &self.mean;
        out
    }

    /// The Wiener filter's matrix, without the division by `sigma^2`.
    fn jacobian(&self, _x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        Ok(self.matrix(|l| denoiser_gain(l, at)))
    }

    /// `-(alpha^2 Sigma + sigma^2 I)^-1 (x - alpha mean)` from the modes:
    /// `(alpha x0_hat - x) / sigma^2` cancels where `alpha^2 lambda >> sigma^2` (at lambda = 1,
    /// sigma = 1e-8 it has no correct digit).
    ///
    /// At `sigma = 0` with a singular covariance: the score within the support.
    fn score(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.map_modes(x, at.alpha, 0.0, |l| score_gain(l, at), out);
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use nalgebra::{DMatrix, DVector};
    use ndarray::array;

    use proptest::prelude::*;

    const EPS: f64 = f64::EPSILON;

    /// A law of dimension d whose covariance has rank r, and where the problem is small enough for
    /// nalgebra.
    fn random_law(d: usize, r: usize, seed: u64) -> Gaussian {
        let noise = Noise::new(seed);
        let b = Array2::from_shape_fn((d, r), |(i, j)| noise.normal(0, (i * r + j) as u64));
        let mean = Array1::from_shape_fn(d, |i| noise.normal(1, i as u64));
        Gaussian::new(mean, b.dot(&b.t()).view()).unwrap()
    }

    fn random_states(n: usize, d: usize, seed: u64) -> Array2<f64> {
        let noise = Noise::new(seed);
        Array2::from_shape_fn((n, d), |(i, j)| 2.0 * noise.normal(2, (i * d + j) as u64))
    }

    fn to_nalgebra(a: ArrayView2<f64>) -> DMatrix<f64> {
        DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]])
    }

    proptest! {
        /// Second route: conditioning of the joint Gaussian of (x0, x_t), by nalgebra's Cholesky
        /// and no eigenbasis.
        #[test]
        fn equals_joint_gaussian_conditioning(
            d in 1usize..9, deficiency in 0usize..4, stored in 0usize..9, seed: u64, alpha in 0.0..1.5f64, log_sigma in -3.0..1.0f64,
        ) {
            let r = d.saturating_sub(deficiency).max(1);
            let law = random_law(d, r, seed);
            // Modes beyond the rank have variance 0: storing any number of them is the same law.
            let law = law.truncated(stored.clamp(r, d));
            let x = random_states(3, d, seed);
            let at = PathPoint::still(alpha, log_sigma.exp());
            let (cov, mean) = (to_nalgebra(law.cov().view()), DVector::from_iterator(d, Law::mean(&law)));
            let marginal = &cov * alpha.powi(2) + DMatrix::identity(d, d) * at.sigma.powi(2);
            let cholesky = marginal.clone().cholesky().unwrap();
            let top = law.variances()[0];
            let condition = (alpha.powi(2) * top + at.sigma.powi(2)) / at.sigma.powi(2);
            let tol = 32.0 * d as f64 * EPS * condition;

            let mut got = Array2::zeros((3, d));
            let mut score = Array2::zeros((3, d));
            law.denoise(x.view(), &at, got.view_mut()).unwrap();
            law.score(x.view(), &at, score.view_mut()).unwrap();
            let log_density = law.log_density(x.view(), &at);
            for i in 0..3 {
                let z = DVector::from_iterator(d, x.row(i).iter().copied()) - &mean * alpha;
                let solved = cholesky.solve(&z);
                let want = &mean + &cov * &solved * alpha;
                let size = mean.norm() + alpha * top * z.norm() / at.sigma.powi(2).max(alpha.powi(2) * top);
                let log_det = 2.0 * cholesky.l().diagonal().iter().map(|l| l.ln()).sum::<f64>();
                let want_log = -0.5 * (z.dot(&solved) + log_det + d as f64 * TAU.ln());
                for j in 0..d {
                    prop_assert!((got[[i, j]] - want[j]).abs() <= tol * size.max(1.0));
                    prop_assert!((score[[i, j]] + solved[j]).abs() <= tol * z.norm() / at.sigma.powi(2));
                }
                let size = z.dot(&z) / at.sigma.powi(2) + log_det.abs() + 10.0 * d as f64;
                prop_assert!((log_density[i] - want_log).abs() <= tol * size);
            }
            let posterior = &cov - &cov * cholesky.solve(&cov) * alpha.powi(2);
            let got = law.posterior_cov(x.row(0), &at).unwrap();
            let jacobian = law.jacobian(x.row(0), &at).unwrap();
            for ((i, j), g) in got.indexed_iter() {
                prop_assert!((g - posterior[(i, j)]).abs() <= tol * top);
                prop_assert!((jacobian[[i, j]] - g * alpha / at.sigma.powi(2)).abs() <= tol * top.max(jacobian[[i, i]].abs()) / at.sigma.powi(2));
            }
            let entropy = 0.5 * (2.0 * cholesky.l().diagonal().iter().map(|l| l.ln()).sum::<f64>() + d as f64 * (1.0 + TAU.ln()));
            prop_assert!((law.entropy(&at) - entropy).abs() <= tol * (10.0 * d as f64 + entropy.abs()));
        }

        /// Second route: the score is the dual-number gradient of the log density, and Tweedie's
        /// formula turns it into the denoiser.
        #[test]
        fn score_is_the_gradient_of_the_log_density(d in 1usize..6, deficiency in 0usize..3, seed: u64, alpha in 0.0..1.5f64, log_sigma in -2.0..1.0f64) {
            let law = random_law(d, d.saturating_sub(deficiency).max(1), seed);
            let x = random_states(1, d, seed);
            let at = PathPoint::still(alpha, log_sigma.exp());
            let (value, slope) = log_density_gradient(&law, &x, &at);
            let mut score = Array2::zeros((1, d));
            law.score(x.view(), &at, score.view_mut()).unwrap();
            let mut x0_hat = Array2::zeros((1, d));
            law.denoise(x.view(), &at, x0_hat.view_mut()).unwrap();
            let noise = at.sigma.powi(2);
            let condition = (alpha.powi(2) * law.variances()[0] + noise) / noise;
            let size = (x.row(0).dot(&x.row(0)).sqrt() + alpha * law.mean().dot(&law.mean()).sqrt()) / noise;
            let tol = 32.0 * d as f64 * EPS * condition * size;
            prop_assert!((law.log_density(x.view(), &at)[0] - value).abs() <= tol * size + 64.0 * d as f64 * EPS * (10.0 + value.abs()));
            for j in 0..d {
                prop_assert!((score[[0, j]] - slope[j]).abs() <= tol);
                prop_assert!((at.alpha * x0_hat[[0, j]] - (x[[0, j]] + noise * slope[j])).abs() <= tol * noise);
            }
        }

        /// Composition: gains multiply, so the square root's map applied twice is the map itself;
        /// and a diagonal law's short cut is the same law as its dense twin.
        #[test]
        fn maps_compose_and_short_cuts_agree(d in 1usize..7, zeros in 0usize..3, seed: u64, from in -2.0..2.0f64, to in -2.0..2.0f64) {
            let noise = Noise::new(seed);
            let x = random_states(4, d, seed);
            let mean = Array1::from_shape_fn(d, |i| noise.normal(3, i as u64));
            let variances = Array1::from_shape_fn(d, |i| if i < zeros { 0.0 } else { noise.normal(4, i as u64).powi(2) });
            let short = Gaussian::diagonal(mean.clone(), variances.clone()).unwrap();
            let dense = Gaussian::from_modes(mean, variances, Array2::eye(d)).unwrap();
            let gain = |l: f64| 1.0 / (0.1 + l);
            for law in [short.clone(), dense.clone(), short.truncated(d - zeros.min(d)), dense.truncated(d - zeros.min(d))] {
                let mut once = Array2::zeros((4, d));
                let (mut half, mut twice) = (once.clone(), once.clone());
                law.map_modes(x.view(), from, to, gain, once.view_mut());
                law.map_modes(x.view(), from, 1.0, |l| gain(l).sqrt(), half.view_mut());
                law.map_modes(half.view(), 1.0, to, |l| gain(l).sqrt(), twice.view_mut());
                let mut want = once.clone();
                dense.map_modes(x.view(), from, to, gain, want.view_mut());
                let size = 10.0 * (x.iter().chain(law.mean()).map(|v| v.abs()).fold(0.0, larger) * 3.0 + 1.0);
                for (a, b) in once.iter().zip(&twice).chain(once.iter().zip(&want)) {
                    prop_assert!((a - b).abs() <= 32.0 * d as f64 * EPS * size);
                }
                prop_assert_eq!(law.matrix(gain).diag().sum() > 0.0, true);
            }
        }
    }

    fn log_density_gradient(law: &Gaussian, x: &Array2<f64>, at: &PathPoint) -> (f64, Vec<f64>) {
        let state = DVector::from_iterator(x.ncols(), x.row(0).iter().copied());
        let mut value = f64::NAN;
        let slope = (0..x.ncols())
            .map(|k| {
                let dual: Vec<_> = state
                    .iter()
                    .enumerate()
                    .map(|(j, &x)| num_dual::Dual64::new(x, if j == k { 1.0 } else { 0.0 }))
                    .collect();
                let f = law.log_density_of(&dual, at.alpha.into(), at.sigma.into());
                value = f.re;
                f.eps
            })
            .collect();
        (value, slope)
    }

    #[test]
    fn limits_at_both_ends() {
        let law = Gaussian::new(array![1.0, 1.0], array![[1.0, 1.0], [1.0, 1.0]].view()).unwrap();
        let x = array![[2.0, 2.0], [3.0, 1.0]];
        let mut out = Array2::zeros((2, 2));
        for law in [law.clone(), law.truncated(1)] {
            // sigma = 0: x / alpha projected on the support, the diagonal.
            law.denoise(x.view(), &PathPoint::still(0.5, 0.0), out.view_mut()).unwrap();
            assert!(out.iter().all(|v| (v - 4.0).abs() <= 8.0 * EPS), "{out}");
            let log_density = law.log_density(x.view(), &PathPoint::still(0.5, 0.0));
            assert_eq!(log_density.to_vec(), [f64::INFINITY, f64::NEG_INFINITY]);
            law.score(x.view(), &PathPoint::still(0.5, 0.0), out.view_mut()).unwrap();
            assert!(out.iter().all(|v| v.is_finite()));
            // alpha = 0: nothing is known of x0, also when there is no noise either.
            for sigma in [1.0, 0.0] {
                law.denoise(x.view(), &PathPoint::still(0.0, sigma), out.view_mut()).unwrap();
                assert_eq!(out, Array2::<f64>::ones((2, 2)));
                assert!(
                    (&law.posterior_cov(x.row(0), &PathPoint::still(0.0, sigma)).unwrap()
                        - &Law::cov(&law))
                        .iter()
                        .all(|e| e.abs() <= 4.0 * EPS)
                );
                assert_eq!(
                    law.jacobian(x.row(0), &PathPoint::still(0.0, sigma)).unwrap(),
                    Array2::<f64>::zeros((2, 2))
                );
            }
            assert_eq!(law.entropy(&PathPoint::CLEAN), f64::NEG_INFINITY);
            assert!(
                law.posterior_cov(x.row(0), &PathPoint::CLEAN).unwrap().iter().all(|v| *v == 0.0)
            );
        }
        let full = Gaussian::isotropic(array![1.0, 1.0], 4.0).unwrap();
        full.denoise(x.view(), &PathPoint::still(0.5, 0.0), out.view_mut()).unwrap();
        assert_eq!(out, &x * 2.0);
        assert!(
            (full.log_density(array![[0.5, 0.5]].view(), &PathPoint::still(0.5, 0.0))[0]
                + TAU.ln())
            .abs()
                <= 4.0 * EPS
        );
    }

    #[test]
    fn score_keeps_its_digits_at_small_sigma() {
        // Tweedie's formula loses alpha^2 lambda / sigma^2 = 1e20 eps here.
        let law = Gaussian::from_modes(
            array![0.0, 0.0],
            array![1.0, 1e-30],
            array![[0.6, 0.8], [0.8, -0.6]],
        )
        .unwrap();
        let at = PathPoint::still(1.0, 1e-10);
        let mut score = Array2::zeros((1, 2));
        law.score(array![[0.6, 0.8]].view(), &at, score.view_mut()).unwrap();
        // Along the mode of variance 1 the score is -1; across it x is 0 to 1e-16, and the score
        // -1e-16 / 1e-20.
        let along = 0.6 * score[[0, 0]] + 0.8 * score[[0, 1]];
        assert!((along + 1.0).abs() <= 1e-16 / 1e-20 * 8.0 * EPS + 8.0 * EPS, "{along}");
        let diagonal = Gaussian::diagonal(array![0.0, 0.0], array![1.0, 0.0]).unwrap();
        diagonal.score(array![[0.5, 1e-10]].view(), &at, score.view_mut()).unwrap();
        assert!(
            (score[[0, 0]] + 0.5).abs() <= EPS && (score[[0, 1]] * 1e-10 + 1.0).abs() <= 4.0 * EPS
        );
    }

    #[test]
    fn samples_have_the_law_s_moments() {
        let n = 20_000;
        for law in [
            random_law(4, 4, 1),
            random_law(4, 2, 2).truncated(2),
            Gaussian::diagonal(array![3.0, -1.0], array![0.0, 2.0]).unwrap(),
        ] {
            let (mean, cov) =
                mean_and_cov(law.sample(n, &Noise::new(7)).view(), Normalisation::Points).unwrap();
            let want = law.cov();
            for i in 0..law.dim() {
                let error = (want[[i, i]] / n as f64).sqrt();
                // Five standard errors: one seed in two million fails; rounding where the variance
                // is 0.
                assert!((mean[i] - law.mean()[i]).abs() <= 5.0 * error + 1e-12);
                for j in 0..law.dim() {
                    let error =
                        ((want[[i, i]] * want[[j, j]] + want[[i, j]].powi(2)) / n as f64).sqrt();
                    assert!((cov[[i, j]] - want[[i, j]]).abs() <= 5.0 * error + 1e-12);
                }
            }
            // A draw does not depend on how many are drawn.
            assert!(
                (&law.sample(3, &Noise::new(7))
                    - &law.sample(5, &Noise::new(7)).slice(s![..3, ..]))
                    .iter()
                    .all(|e| e.abs() <= 1e-14)
            );
        }
    }

    #[test]
    fn from_data_is_the_data_s_own_law() {
        let data = array![[0.0, 1.0], [2.0, 1.0], [4.0, 4.0]];
        let law = Gaussian::from_data(data.view()).unwrap();
        assert!((&law.mean() - &array![2.0, 2.0]).iter().all(|e| e.abs() <= 4.0 * EPS));
        let want = array![[8.0 / 3.0, 2.0], [2.0, 2.0]];
        assert!((&Law::cov(&law) - &want).iter().all(|e| e.abs() <= 32.0 * EPS));
        // Three points span a plane at most: of ten coordinates eight directions have no variance,
        // exactly.
        let wide = Array2::from_shape_fn((3, 10), |(i, j)| ((i * 10 + j) as f64).sin());
        assert_eq!(
            Gaussian::from_data(wide.view())
                .unwrap()
                .variances()
                .iter()
                .filter(|v| **v > 0.0)
                .count(),
            2
        );
    }

    #[test]
    fn refuses_what_is_no_law() {
        let refused = |r: Result<Gaussian>| r.unwrap_err().to_string();
        assert!(
            refused(Gaussian::new(array![0.0, 0.0], array![[1.0]].view())).contains("covariance")
        );
        assert!(
            refused(Gaussian::new(array![0.0, 0.0], array![[1.0, 2.0], [0.0, 1.0]].view()))
                .contains("symmetric")
        );
        assert!(
            refused(Gaussian::new(array![0.0, 0.0], array![[1.0, 2.0], [2.0, 1.0]].view()))
                .contains("semi-definite")
        );
        assert!(refused(Gaussian::new(array![f64::NAN], array![[1.0]].view())).contains("mean[0]"));
        assert!(
            refused(Gaussian::from_modes(array![0.0, 0.0], array![1.0], array![[1.0], [1.0]]))
                .contains("orthonormal")
        );
        assert!(refused(Gaussian::diagonal(array![0.0], array![-1.0])).contains(">= 0"));
        assert!(Gaussian::diagonal(array![0.0], array![1.0, 1.0]).is_err());
        assert!(Gaussian::from_data(Array2::zeros((0, 2)).view()).is_err());
    }

    proptest! {
        /// One formula over any scalar, another by matrix products: full and truncated laws.
        #[test]
        fn both_densities_agree(d in 1usize..6, stored in 1usize..6, seed: u64, alpha in 0.1..1.2f64, sigma in 0.1..2.0f64) {
            let law = random_law(d, d, seed).truncated(stored.min(d));
            let x = random_states(2, d, seed);
            let want = law.log_density(x.view(), &PathPoint::still(alpha, sigma));
            for (x, want) in x.rows().into_iter().zip(want) {
                let got = law.log_density_of(&x.to_vec(), alpha, sigma);
                // Squares of states of size 10 over a variance of 0.01 at least.
                prop_assert!((got - want).abs() <= 64.0 * EPS * d as f64 * (100.0 + want.abs()) / (sigma * sigma), "{got} {want}");
            }
            // Of full rank also without noise, where what the modes leave over is 0/0.
            let (law, x) = (Gaussian::diagonal(x.row(0).to_owned(), x.row(0).mapv(|v| 0.1 + v * v)).unwrap(), x.row(1));
            let want = law.log_density(x.insert_axis(Axis(0)), &PathPoint::still(alpha, 0.0))[0];
            let got = law.log_density_of(&x.to_vec(), alpha, 0.0);
            prop_assert!((got - want).abs() <= 64.0 * EPS * d as f64 * (100.0 + want.abs()) / (alpha * alpha), "{got} {want}");
        }
    }

    #[test]
    fn negative_variances_are_judged_against_the_largest() {
        for scale in [1e-8, 1.0, 1e8] {
            let law = |lowest: f64| {
                Gaussian::from_modes(
                    Array1::zeros(2),
                    array![scale, scale * lowest],
                    Array2::eye(2),
                )
            };
            assert_eq!(law(-1e-12).unwrap().variances()[1], 0.0);
            assert!(law(-1e-8).is_err());
        }
    }

    /// Without noise a singular law has infinite density on its support, to the rounding of the
    /// states' own size, and none off it.
    #[test]
    fn the_support_is_met_to_rounding_at_any_scale() {
        let angle = 0.7f64;
        let modes = array![[angle.cos(), -angle.sin()], [angle.sin(), angle.cos()]];
        let (along, across) = (modes.column(0).to_owned(), modes.column(1).to_owned());
        let stored = |mean: Array1<f64>| {
            Gaussian::from_modes(mean, array![2.0, 0.0], modes.clone()).unwrap()
        };
        for truncate in [false, true] {
            let density = |mean: &Array1<f64>, x: &Array1<f64>, alpha: f64| {
                let law =
                    if truncate { stored(mean.clone()).truncated(1) } else { stored(mean.clone()) };
                law.log_density(x.view().insert_axis(Axis(0)), &PathPoint::still(alpha, 0.0))[0]
            };
            let zero = Array1::zeros(2);
            assert_eq!(density(&zero, &zero, 1.0), f64::INFINITY);
            for scale in [1e-6, 1.0, 1e6] {
                // A state on the line; a state at 0 of a law whose mean lies far along the line.
                assert_eq!(density(&zero, &(&along * scale), 1.0), f64::INFINITY);
                assert_eq!(density(&(&along * scale), &zero, 1.0), f64::INFINITY);
                assert_eq!(density(&(&along * scale), &(&along * 3.0), 0.5), f64::INFINITY);
                for off in [1e-13, 1e-3] {
                    assert_eq!(
                        density(&zero, &((&along + &(&across * off)) * scale), 1.0),
                        f64::NEG_INFINITY
                    );
                }
                // The mean counts as much as alpha lets through.
                assert_eq!(
                    density(&(&along * scale), &(&across * (1e-10 * scale)), 1e-6),
                    f64::NEG_INFINITY
                );
            }
        }
    }

    #[test]
    fn covariances_of_any_size() {
        // Eigenvalues 3 and 1 of a unit down to where numbers end; of 1e-310 a double holds 45
        // bits.
        for (unit, tol) in [(1e-310, 1e-12), (1e-300, 1e-14), (1e300, 1e-14)] {
            let law =
                Gaussian::new(array![0.0, 0.0], (array![[2.0, 1.0], [1.0, 2.0]] * unit).view())
                    .unwrap();
            assert!(
                (law.variances()[0] / unit - 3.0).abs() <= tol
                    && (law.variances()[1] / unit - 1.0).abs() <= tol,
                "{unit:e}"
            );
        }
        assert_eq!(
            Gaussian::new(array![0.0], array![[5e-324]].view()).unwrap().variances()[0],
            5e-324
        );
        assert!((wiener_gain(1e300, 1.0, 1e200f64) / 1e-100 - 1.0).abs() <= 4.0 * f64::EPSILON);
        assert_eq!(wiener_gain(1e-300, 1.0, 1e-200), 1.0);
    }

    #[test]
    fn a_point_mass_has_an_unrounded_density() {
        let law = Gaussian::isotropic(array![1.0, 2.0], 0.0).unwrap();
        let at = PathPoint::still(0.5, 0.0);
        for (x, want) in [(array![0.5, 1.0], f64::INFINITY), (array![0.5, 1.5], f64::NEG_INFINITY)]
        {
            assert_eq!(law.log_density_unrounded(x.view(), &at).hi(), want);
        }
    }
}
