//! Gaussian densities, entropies and distances, and conditioning of a joint Gaussian.
//!
//! The scalar closed forms are generic over [`Scalar`] and keep their relative accuracy where the
//! textbook forms cancel. [`Normal`] has the same quantities in any dimension through dense linear
//! algebra (nalgebra); its [`Normal::condition`] is the second route by which posteriors and Wiener
//! filters elsewhere in the crate are checked: it knows nothing of diffusion.

use crate::error::{Error, Result, finite};
use crate::math::polar::orthogonal_factor;
use crate::math::scalar::Scalar;
use nalgebra::{Cholesky, DMatrix, DVector, Dyn, SymmetricEigen};
use std::f64::consts::TAU;

/// `x - ln(1 + x)` for `x > -1`, to a few ulp also where the two terms agree to all digits.
///
/// # Formula
/// With `r = x / (2 + x)`: `ln(1 + x) = 2 atanh(r)`, hence
/// `x - ln(1 + x) = r (x - 2 r^2 (1/3 + r^2/5 + r^4/7 + ...))`.
///
/// The naive form at `x = 1e-12` returns a multiple of 2e-28, wrong in the fifth digit at best, and
/// 0 for `x = 1e-17`.
///
/// # Example
/// ```
/// use tweedie::math::gaussian::x_minus_ln_1p;
/// assert_eq!(x_minus_ln_1p(1e-20), 0.5e-40);
/// ```
pub fn x_minus_ln_1p<S: Scalar>(x: S) -> S {
    if (-0.5..=1.0).contains(&x.re()) { x_minus_2_atanh(x, x / (x + 2.0)) } else { x - x.ln_1p() }
}

/// `x - 2 atanh(r)` for `r = x / (2 + x)`, `|r| <= 1/3`: beyond that the plain subtraction costs a
/// few ulp at most.
fn x_minus_2_atanh<S: Scalar>(x: S, r: S) -> S {
    let s = r * r;
    // Enough terms for 106 bits (36 digits), so that double-double numbers get what they pay for;
    // at least two, so that the first three derivatives at x = 0 are there as well.
    let terms = (36.0 * std::f64::consts::LN_10 / -s.re().ln()).ceil().max(2.0) as usize;
    let series =
        (0..terms).rev().fold(S::zero(), |sum, k| sum * s + S::from((2 * k + 3) as f64).recip());
    r * (x - s * series * 2.0)
}

/// `ln(2 pi var)`, also where the product is out of range.
pub(crate) fn ln_tau_times<S: Scalar>(var: S) -> S {
    let product = var * TAU;
    if product.re().is_normal() { product.ln() } else { var.ln() + S::from(TAU).ln() }
}

/// `ln N(x; mean, var)` in nats, for `var > 0`.
///
/// # Formula
/// `-((x - mean)^2 / var + ln(2 pi var)) / 2`
pub fn log_density_normal<S: Scalar>(x: S, mean: S, var: S) -> S {
    let z = x - mean;
    -(z / var * z + ln_tau_times(var)) * 0.5
}

/// Differential entropy of `N(., var)` in nats; `-inf` for a point mass.
///
/// # Formula
/// `(1 + ln(2 pi var)) / 2`
pub fn entropy_normal<S: Scalar>(var: S) -> S {
    (ln_tau_times(var) + 1.0) * 0.5
}

/// Cross-entropy `-E[ln N(x; m2, v2)]` over `x ~ N(m1, v1)` in nats, for `v2 > 0`.
///
/// # Formula
/// `(ln(2 pi v2) + (v1 + (m1 - m2)^2) / v2) / 2`
pub fn cross_entropy_normal<S: Scalar>(m1: S, v1: S, m2: S, v2: S) -> S {
    (ln_tau_times(v2) + v1 / v2) * 0.5 + kl_normal_mean(m1, m2, v2)
}

/// `KL(N(m1, v1) || N(m2, v2))` in nats, for `v1 >= 0` (infinite at 0) and `v2 > 0`; at most 4 ulp
/// from the exact value.
///
/// # Formula
/// `(v1/v2 - 1 - ln(v1/v2)) / 2 + (m1 - m2)^2 / (2 v2)`: [`kl_normal_var`] plus [`kl_normal_mean`].
///
/// # Example
/// ```
/// use tweedie::math::gaussian::kl_normal;
/// assert_eq!(kl_normal(1.0, 1.0, 0.0, 1.0), 0.5);
/// // The textbook form gives 0 here.
/// let kl = kl_normal(0.0, 1.0 + f64::EPSILON, 0.0, 1.0);
/// assert!((kl / (f64::EPSILON.powi(2) / 4.0) - 1.0).abs() < 1e-15);
/// ```
pub fn kl_normal<S: Scalar>(m1: S, v1: S, m2: S, v2: S) -> S {
    kl_normal_var(v1, v2) + kl_normal_mean(m1, m2, v2)
}

/// What unequal variances add to [`kl_normal`], per coordinate, in nats.
///
/// # Formula
/// `(x - ln(1 + x)) / 2` with `x = (v1 - v2) / v2`
///
/// The difference is formed before the quotient: it is exact for `v1` within a factor 2 of `v2`,
/// while `v1/v2 - 1` has lost all digits of `x` at `v1 = v2 (1 + 1e-16)`.
pub fn kl_normal_var<S: Scalar>(v1: S, v2: S) -> S {
    let ratio = v1 / v2;
    if (0.5..=2.0).contains(&ratio.re()) {
        let gap = v1 - v2;
        return x_minus_2_atanh(gap / v2, gap / (v1 + v2)) * 0.5;
    }
    // Where the ratio itself under- or overflows, its logarithm does not.
    let ln_ratio = if ratio.re().is_normal() { ratio.ln() } else { v1.ln() - v2.ln() };
    // Ordered so that the first of the two sums is exact where it matters, for ratios from 1/4 to 4.
    (if ratio.re() < 0.5 { -ln_ratio - 1.0 + ratio } else { ratio - 1.0 - ln_ratio }) * 0.5
}

/// What unequal means add to [`kl_normal`], per coordinate, in nats.
///
/// # Formula
/// `(m1 - m2)^2 / (2 v2)`
pub fn kl_normal_mean<S: Scalar>(m1: S, m2: S, v2: S) -> S {
    // Divided before it is squared: (1e200)^2 / 1e300 overflows on the way otherwise.
    let gap = m1 - m2;
    gap / v2 * gap * 0.5
}

/// Squared 2-Wasserstein distance of `N(m1, v1)` and `N(m2, v2)`, for variances `>= 0`.
///
/// # Formula
/// `(m1 - m2)^2 + (sqrt(v1) - sqrt(v2))^2`, the roots' difference as
/// `(v1 - v2) / (sqrt(v1) + sqrt(v2))`.
pub fn w2_squared_normal<S: Scalar>(m1: S, v1: S, m2: S, v2: S) -> S {
    let (mean_gap, roots) = (m1 - m2, v1.sqrt() + v2.sqrt());
    let std_gap = if roots.re() == 0.0 { S::zero() } else { (v1 - v2) / roots };
    mean_gap * mean_gap + std_gap * std_gap
}

/// The covariance of a [`Normal`]: how much of the matrix has to be stored.
#[derive(Clone, Debug, PartialEq)]
pub enum Covariance {
    /// `var I`.
    Isotropic(f64),
    /// One variance a coordinate, shape (d).
    Diagonal(DVector<f64>),
    /// Any symmetric positive semi-definite matrix, shape (d, d).
    Full(DMatrix<f64>),
}

/// `N(mean, cov)` of any dimension, dense: densities, entropies, distances, conditioning.
///
/// It is meant for small d and for checks; the data law with a fast denoiser is another type, in
/// the layer of laws.
///
/// # Example
/// ```
/// use nalgebra::{dmatrix, dvector};
/// use tweedie::math::gaussian::{Covariance, Normal};
/// // (x0, x_t = x0 + eps): observing x_t = 2 halves it and leaves half the variance.
/// let joint = Normal::new(dvector![0.0, 0.0], Covariance::Full(dmatrix![1.0, 1.0; 1.0, 2.0])).unwrap();
/// let posterior = joint.condition(&[1], &[2.0]).unwrap();
/// assert!((posterior.mean()[0] - 1.0).abs() < 1e-15 && (posterior.cov_matrix()[(0, 0)] - 0.5).abs() < 1e-15);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Normal {
    mean: DVector<f64>,
    cov: Covariance,
}

impl Normal {
    /// The law `N(mean, cov)`.
    ///
    /// # Errors
    /// Shapes that do not fit, NaN or infinity, a negative variance, a matrix that is asymmetric
    /// beyond rounding. That a full matrix is positive semi-definite shows where its root or
    /// inverse is first needed.
    pub fn new(mean: DVector<f64>, cov: Covariance) -> Result<Self> {
        let d = mean.len();
        finite("mean", mean.iter())?;
        let shape = match &cov {
            Covariance::Isotropic(_) => None,
            Covariance::Diagonal(var) => (var.len() != d).then(|| vec![var.len()]),
            Covariance::Full(m) => (m.shape() != (d, d)).then(|| vec![m.nrows(), m.ncols()]),
        };
        if let Some(got) = shape {
            return Err(Error::shape(
                "covariance",
                &got,
                format!("the mean's dimension, {d}"),
                "give one row and column a coordinate",
            ));
        }
        let variances = match &cov {
            Covariance::Isotropic(var) => DVector::from_element(1, *var),
            Covariance::Diagonal(var) => var.clone(),
            Covariance::Full(m) => {
                finite("covariance", m.iter())?;
                let skew = (m - m.transpose()).amax();
                if skew > 1e-12 * m.amax() {
                    return Err(Error::domain(
                        "covariance",
                        format!("asymmetry {skew:e}"),
                        "a symmetric matrix",
                        "pass (C + C^T) / 2",
                    ));
                }
                m.diagonal()
            }
        };
        finite("variance", variances.iter())?;
        match variances.iter().find(|v| **v < 0.0) {
            Some(v) => Err(Error::domain(
                "variance",
                v,
                ">= 0",
                "pass a positive semi-definite covariance",
            )),
            None => Ok(Self { mean, cov }),
        }
    }

    /// Dimension d.
    pub fn dim(&self) -> usize {
        self.mean.len()
    }

    /// Mean, shape (d).
    pub fn mean(&self) -> &DVector<f64> {
        &self.mean
    }

    /// The covariance as stored.
    pub fn cov(&self) -> &Covariance {
        &self.cov
    }

    /// The covariance as a matrix, shape (d, d).
    pub fn cov_matrix(&self) -> DMatrix<f64> {
        match &self.cov {
            Covariance::Isotropic(var) => {
                DMatrix::from_diagonal_element(self.dim(), self.dim(), *var)
            }
            Covariance::Diagonal(var) => DMatrix::from_diagonal(var),
            Covariance::Full(m) => m.clone(),
        }
    }

    /// Log density at `x` in nats.
    ///
    /// # Errors
    /// A point of another dimension; a singular covariance, which has no density.
    pub fn log_density(&self, x: &DVector<f64>) -> Result<f64> {
        self.same_dim(x.len())?;
        if let Some(var) = self.variances() {
            self.refuse_zero(&var)?;
            return Ok((0..self.dim())
                .map(|i| log_density_normal(x[i], self.mean[i], var[i]))
                .sum());
        }
        let root = self.root()?;
        let z = solve_lower(&root, &(x - &self.mean));
        Ok(-0.5 * (z.norm_squared() + log_det(&root) + self.dim() as f64 * TAU.ln()))
    }

    /// Differential entropy in nats; `-inf` for a singular covariance.
    pub fn entropy(&self) -> f64 {
        match (self.variances(), self.root()) {
            (Some(var), _) => var.iter().map(|&v| entropy_normal(v)).sum(),
            (None, Ok(root)) => 0.5 * (log_det(&root) + self.dim() as f64 * (1.0 + TAU.ln())),
            (None, Err(_)) => f64::NEG_INFINITY,
        }
    }

    /// Cross-entropy `-E[ln other(x)]` over this law, in nats.
    ///
    /// # Errors
    /// Another dimension; a singular covariance of `other`.
    pub fn cross_entropy(&self, other: &Self) -> Result<f64> {
        other.same_dim(self.dim())?;
        if let (Some(v1), Some(v2)) = (self.variances(), other.variances()) {
            other.refuse_zero(&v2)?;
            return Ok((0..self.dim())
                .map(|i| cross_entropy_normal(self.mean[i], v1[i], other.mean[i], v2[i]))
                .sum());
        }
        let root = other.root()?;
        let gap = solve_lower(&root, &(&self.mean - &other.mean));
        let trace = root.solve(&self.cov_matrix()).trace();
        Ok(0.5 * (self.dim() as f64 * TAU.ln() + log_det(&root) + trace + gap.norm_squared()))
    }

    /// `KL(self || other)` in nats; `inf` where this law is singular and `other` is not.
    ///
    /// # Formula
    /// `sum_i (delta_i - ln(1 + delta_i)) / 2 + |L^-1 (m1 - m2)|^2 / 2`, `delta` the eigenvalues of
    /// `L^-1 (C1 - C2) L^-T`, `C2 = L L^T`. The difference is taken before the inverse, so that
    /// nearly equal laws keep their digits.
    ///
    /// # Errors
    /// Another dimension; a singular covariance of `other`.
    pub fn kl(&self, other: &Self) -> Result<f64> {
        other.same_dim(self.dim())?;
        if let (Some(v1), Some(v2)) = (self.variances(), other.variances()) {
            other.refuse_zero(&v2)?;
            return Ok((0..self.dim())
                .map(|i| kl_normal(self.mean[i], v1[i], other.mean[i], v2[i]))
                .sum());
        }
        let root = other.root()?;
        if self.root().is_err() {
            return Ok(f64::INFINITY);
        }
        let half = solve_lower(&root, &(self.cov_matrix() - other.cov_matrix()));
        let delta = symmetric_part(&solve_lower(&root, &half.transpose()));
        let var: f64 = delta.symmetric_eigenvalues().iter().map(|&x| x_minus_ln_1p(x)).sum();
        let gap = solve_lower(&root, &(&self.mean - &other.mean));
        Ok(0.5 * (var + gap.norm_squared()))
    }

    /// Squared 2-Wasserstein distance; singular covariances allowed.
    ///
    /// # Formula
    /// `|m1 - m2|^2 + |A - B U|_F^2` with `A = C1^(1/2)`, `B = C2^(1/2)` and U the orthogonal polar
    /// factor of `B^T A`. That is the Bures distance `tr(C1 + C2 - 2 (A C2 A)^(1/2))` as the norm
    /// of a difference: the trace form of two equal laws of unit variance returns rounding of
    /// 1e-16, a distance of 1e-8.
    ///
    /// # Errors
    /// Another dimension; a covariance with a negative eigenvalue beyond rounding.
    ///
    /// # Source
    /// Bhatia, Jain, Lim, "On the Bures-Wasserstein distance between positive definite matrices",
    /// 2019, theorem 1.
    pub fn w2_squared(&self, other: &Self) -> Result<f64> {
        other.same_dim(self.dim())?;
        if let (Some(v1), Some(v2)) = (self.variances(), other.variances()) {
            return Ok((0..self.dim())
                .map(|i| w2_squared_normal(self.mean[i], v1[i], other.mean[i], v2[i]))
                .sum());
        }
        let (a, b) = (sqrt_psd(&self.cov_matrix())?, sqrt_psd(&other.cov_matrix())?);
        let polar = orthogonal_factor(&(&b * &a))?;
        Ok((&self.mean - &other.mean).norm_squared() + (a - b * polar).norm_squared())
    }

    /// The joint law of `(x, A x + b + noise)` for x of this law, in this order.
    ///
    /// # Shapes
    /// `a` (m, d), `b` (m), noise covariance of dimension m; the joint has dimension d + m.
    ///
    /// # Errors
    /// Shapes that do not fit; a noise covariance that [`Normal::new`] refuses.
    pub fn joint(&self, a: &DMatrix<f64>, b: &DVector<f64>, noise: Covariance) -> Result<Self> {
        self.same_dim(a.ncols())?;
        let noise = Self::new(a * &self.mean, noise)?;
        noise.same_dim(b.len())?;
        let (d, m, cov) = (self.dim(), noise.dim(), self.cov_matrix());
        let cross = a * &cov;
        let below = &cross * a.transpose() + noise.cov_matrix();
        let mut joint = DMatrix::zeros(d + m, d + m);
        joint.view_mut((0, 0), (d, d)).copy_from(&cov);
        joint.view_mut((d, 0), (m, d)).copy_from(&cross);
        joint.view_mut((0, d), (d, m)).copy_from(&cross.transpose());
        joint.view_mut((d, d), (m, m)).copy_from(&symmetric_part(&below));
        let mean = DVector::from_iterator(
            d + m,
            self.mean.iter().copied().chain((noise.mean + b).iter().copied()),
        );
        Self::new(mean, Covariance::Full(joint))
    }

    /// The law of the coordinates `keep`, in that order.
    ///
    /// # Errors
    /// A coordinate out of range or named twice.
    pub fn marginal(&self, keep: &[usize]) -> Result<Self> {
        self.distinct(keep)?;
        let cov = self.cov_matrix().select_rows(keep).select_columns(keep);
        Self::new(self.mean.select_rows(keep), Covariance::Full(cov))
    }

    /// The law of the other coordinates, in their order, given that the coordinates `on` have these
    /// `values`.
    ///
    /// # Formula
    /// `mean_a + C_ab C_bb^-1 (values - mean_b)` and `C_aa - C_ab C_bb^-1 C_ba`, by a Cholesky
    /// factor of `C_bb`.
    ///
    /// # Errors
    /// A coordinate out of range or named twice, as many values as coordinates, `C_bb` not positive
    /// definite.
    ///
    /// # Source
    /// Bishop, "Pattern Recognition and Machine Learning", 2006, equations 2.81 and 2.82.
    pub fn condition(&self, on: &[usize], values: &[f64]) -> Result<Self> {
        self.distinct(on)?;
        if values.len() != on.len() {
            return Err(Error::shape(
                "values",
                &[values.len()],
                format!("({},)", on.len()),
                "give one value for each coordinate conditioned on",
            ));
        }
        let rest: Vec<usize> = (0..self.dim()).filter(|i| !on.contains(i)).collect();
        let cov = self.cov_matrix();
        let block =
            |rows: &[usize], columns: &[usize]| cov.select_rows(rows).select_columns(columns);
        let root = cholesky(block(on, on))?;
        let gap = DVector::from_column_slice(values) - self.mean.select_rows(on);
        let mean = self.mean.select_rows(&rest) + block(&rest, on) * root.solve(&gap);
        // C_aa - W^T W is symmetric by construction.
        let w = solve_lower(&root, &block(on, &rest));
        Self::new(mean, Covariance::Full(block(&rest, &rest) - w.tr_mul(&w)))
    }

    /// The variances, unless the covariance is a full matrix.
    fn variances(&self) -> Option<DVector<f64>> {
        match &self.cov {
            Covariance::Isotropic(var) => Some(DVector::from_element(self.dim(), *var)),
            Covariance::Diagonal(var) => Some(var.clone()),
            Covariance::Full(_) => None,
        }
    }

    fn root(&self) -> Result<Cholesky<f64, Dyn>> {
        cholesky(self.cov_matrix())
    }

    fn same_dim(&self, d: usize) -> Result<()> {
        if d == self.dim() {
            Ok(())
        } else {
            Err(Error::shape(
                "Gaussian",
                &[d],
                format!("({},)", self.dim()),
                "compare within one dimension",
            ))
        }
    }

    fn refuse_zero(&self, var: &DVector<f64>) -> Result<()> {
        if var.iter().all(|&v| v > 0.0) { Ok(()) } else { Err(no_density()) }
    }

    fn distinct(&self, coordinates: &[usize]) -> Result<()> {
        match coordinates
            .iter()
            .enumerate()
            .find(|(k, i)| **i >= self.dim() || coordinates[..*k].contains(i))
        {
            Some((_, i)) => Err(Error::domain(
                "coordinate",
                i,
                format!("distinct indices below {}", self.dim()),
                "name each coordinate once",
            )),
            None => Ok(()),
        }
    }
}

fn no_density() -> Error {
    Error::singular(
        "Gaussian density",
        "this covariance",
        "it is not positive definite",
        "drop the directions without variance, or add noise",
    )
}

fn cholesky(cov: DMatrix<f64>) -> Result<Cholesky<f64, Dyn>> {
    Cholesky::new(cov).ok_or_else(no_density)
}

fn log_det(root: &Cholesky<f64, Dyn>) -> f64 {
    2.0 * root.l_dirty().diagonal().iter().map(|l| l.ln()).sum::<f64>()
}

/// `L^-1 b`.
fn solve_lower<C: nalgebra::Dim>(
    root: &Cholesky<f64, Dyn>,
    b: &nalgebra::OMatrix<f64, Dyn, C>,
) -> nalgebra::OMatrix<f64, Dyn, C>
where
    nalgebra::DefaultAllocator: nalgebra::allocator::Allocator<Dyn, C>,
{
    let mut x = b.clone();
    // The diagonal of a Cholesky factor is positive, so the triangular solve can't fail.
    root.l_dirty().solve_lower_triangular_mut(&mut x);
    x
}

fn symmetric_part(m: &DMatrix<f64>) -> DMatrix<f64> {
    (m + m.transpose()) * 0.5
}

/// The symmetric root of a positive semi-definite matrix; eigenvalues within `-1e-10` of the
/// largest are rounding and become 0.
fn sqrt_psd(m: &DMatrix<f64>) -> Result<DMatrix<f64>> {
    let e = SymmetricEigen::new(m.clone());
    let lowest = e.eigenvalues.min();
    if lowest < -1e-10 * e.eigenvalues.amax() {
        return Err(Error::domain(
            "eigenvalue of a covariance",
            lowest,
            ">= 0",
            "pass a positive semi-definite covariance",
        ));
    }
    let roots = e.eigenvalues.map(|l| l.max(0.0).sqrt());
    Ok(&e.eigenvectors * DMatrix::from_diagonal(&roots) * e.eigenvectors.transpose())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::dd::Dd;
    use crate::math::larger;
    use crate::math::quadrature::{IntervalRule, NormalRule};
    use num_dual::{first_derivative, third_derivative};
    use proptest::prelude::*;

    const EPS: f64 = f64::EPSILON;

    fn ulps(got: f64, want: f64) -> f64 {
        (got - want).abs() / (want.abs().next_up() - want.abs())
    }

    #[test]
    fn kl_normal_is_within_4_ulp_of_the_golden_values() {
        let mut reader = csv::Reader::from_path(concat!(
            env!("CARGO_MANIFEST_DIR"),
            "/../../tests/golden/mp/kl_1d.csv"
        ))
        .unwrap();
        let rows: Vec<[f64; 5]> = reader.deserialize().map(|row| row.unwrap()).collect();
        assert_eq!(rows.len(), 162);
        let worst = rows
            .iter()
            .map(|&[m1, v1, m2, v2, kl]| ulps(kl_normal(m1, v1, m2, v2), kl))
            .fold(0.0, larger);
        println!("kl_normal: {worst} ulp");
        assert!(worst <= 4.0, "{worst} ulp");
    }

    #[test]
    fn kl_normal_survives_ratios_that_under_and_overflow() {
        // (v1/v2 - 1 - ln(v1/v2)) / 2 with v1/v2 = 1e-600.
        let want = 0.5 * (600.0 * std::f64::consts::LN_10 - 1.0);
        assert!(ulps(kl_normal(0.0, 1e-300, 0.0, 1e300), want) <= 4.0);
        assert!(ulps(kl_normal(1e200, 1e300, 0.0, 1e300), 0.5e100) <= 4.0);
        assert_eq!(kl_normal(0.0, 0.0, 0.0, 1.0), f64::INFINITY);
        assert_eq!(kl_normal(0.0, 1e300, 0.0, 1e-300), f64::INFINITY);
        assert_eq!(kl_normal(3.0, 2.0, 3.0, 2.0), 0.0);
    }

    #[test]
    fn x_minus_ln_1p_has_its_derivatives_at_zero() {
        // x^2/2 - x^3/3 + ...
        assert_eq!(third_derivative(x_minus_ln_1p, 0.0), (0.0, 0.0, 1.0, -2.0));
    }

    /// An integral of a polynomial times the density of N(mean, var), exactly but for rounding.
    fn expect(mean: f64, var: f64, f: impl Fn(f64) -> f64) -> f64 {
        let rule = NormalRule::new(8).unwrap();
        rule.expectation(mean, var, f)
    }

    /// A well-conditioned covariance from any d * d numbers in [-1, 1]: eigenvalues in [0.1, 0.1 +
    /// d^2].
    fn covariance(d: usize, entries: &[f64]) -> DMatrix<f64> {
        let a = DMatrix::from_row_slice(d, d, entries);
        symmetric_part(&(&a * a.transpose())) + DMatrix::from_diagonal_element(d, d, 0.1)
    }

    fn law(d: usize) -> impl Strategy<Value = Normal> {
        (prop::collection::vec(-2.0..2.0f64, d), prop::collection::vec(-1.0..1.0f64, d * d))
            .prop_map(move |(mean, entries)| {
                Normal::new(mean.into(), Covariance::Full(covariance(d, &entries))).unwrap()
            })
    }

    fn diagonal_law(d: usize) -> impl Strategy<Value = Normal> {
        (prop::collection::vec(-2.0..2.0f64, d), prop::collection::vec(0.1..4.0f64, d)).prop_map(
            |(mean, var)| Normal::new(mean.into(), Covariance::Diagonal(var.into())).unwrap(),
        )
    }

    fn full(law: &Normal) -> Normal {
        Normal::new(law.mean.clone(), Covariance::Full(law.cov_matrix())).unwrap()
    }

    proptest! {
        #[test]
        fn x_minus_ln_1p_is_the_integral_of_u_over_1_plus_u(x in prop_oneof![-0.9..4.0f64, (-300.0..0.0f64).prop_map(|e| 10f64.powf(e / 2.0))]) {
            // One sign, hence no cancellation: 40 nodes leave only the rounding of 40 terms.
            let want = IntervalRule::new(40).unwrap().integral(0.0, x, |u| u / (1.0 + u));
            prop_assert!((x_minus_ln_1p(x) - want).abs() <= 40.0 * EPS * want, "{} {}", x_minus_ln_1p(x), want);
        }

        #[test]
        fn the_kl_is_within_4_ulp_of_double_double(m in -10.0..1.0f64, v2 in -9.0..9.0f64, ratio in prop_oneof![-2.0..2.0f64, -14.0..14.0f64], near in -16.0..0.0f64) {
            // Any ratio of variances, and ratios next to 1; gaps of the means from 1e-10 to 10
            // deviations.
            let v2 = 10f64.powf(v2);
            for v1 in [v2 * 10f64.powf(ratio), v2 * (1.0 + ratio / 16.0 * 10f64.powf(near))] {
                for m1 in [0.0, v2.sqrt() * 10f64.powf(m)] {
                    let want: f64 = kl_normal(Dd::from(m1), v1.into(), 0.0.into(), v2.into()).hi();
                    prop_assert!(ulps(kl_normal(m1, v1, 0.0, v2), want) <= 4.0, "{m1:e} {v1:e} {v2:e}");
                }
            }
        }

        #[test]
        fn scalar_forms_are_their_expectations(m1 in -3.0..3.0f64, m2 in -3.0..3.0f64, v1 in 0.05..5.0f64, v2 in 0.05..5.0f64) {
            let log_ratio = |x: f64| log_density_normal(x, m1, v1) - log_density_normal(x, m2, v2);
            // The integrands are quadratic, the quadrature exact: what is left is the rounding of
            // terms of this size.
            let scale = 1.0 + (v1 + (m1 - m2).powi(2)) / v2 + v1.ln().abs() + v2.ln().abs();
            let close = |a: f64, b: f64| (a - b).abs() <= 32.0 * EPS * scale;
            prop_assert!(close(kl_normal(m1, v1, m2, v2), expect(m1, v1, log_ratio)));
            prop_assert!(close(entropy_normal(v1), -expect(m1, v1, |x| log_density_normal(x, m1, v1))));
            prop_assert!(close(cross_entropy_normal(m1, v1, m2, v2), -expect(m1, v1, |x| log_density_normal(x, m2, v2))));
            // W2 by the monotone coupling x = m + s z.
            let transport = expect(0.0, 1.0, |z| (m1 - m2 + (v1.sqrt() - v2.sqrt()) * z).powi(2));
            prop_assert!((w2_squared_normal(m1, v1, m2, v2) - transport).abs() <= 32.0 * EPS * (v1 + v2 + m1 * m1 + m2 * m2));
        }

        #[test]
        fn the_score_is_the_derivative_of_the_log_density(x in -5.0..5.0f64, mean in -5.0..5.0f64, var in 1e-3..1e3f64) {
            let (_, score) = first_derivative(|x| log_density_normal(x, mean.into(), var.into()), x);
            let want = (mean - x) / var;
            prop_assert!((score - want).abs() <= 4.0 * EPS * want.abs());
        }

        #[test]
        fn a_diagonal_law_and_its_matrix_agree(p in diagonal_law(4), q in diagonal_law(4), x in prop::collection::vec(-3.0..3.0f64, 4)) {
            let (pf, qf, x) = (full(&p), full(&q), DVector::from(x));
            // Condition numbers up to 40, sums of four terms up to about 1e3.
            let close = |a: f64, b: f64| (a - b).abs() <= 256.0 * EPS * (10.0 + a.abs());
            prop_assert!(close(p.log_density(&x).unwrap(), pf.log_density(&x).unwrap()));
            prop_assert!(close(p.entropy(), pf.entropy()));
            prop_assert!(close(p.cross_entropy(&q).unwrap(), pf.cross_entropy(&qf).unwrap()));
            prop_assert!(close(p.kl(&q).unwrap(), pf.kl(&qf).unwrap()));
            prop_assert!(close(p.kl(&q).unwrap(), p.kl(&qf).unwrap()));
            prop_assert!(close(p.w2_squared(&q).unwrap(), pf.w2_squared(&qf).unwrap()));
        }

        #[test]
        fn kl_is_cross_entropy_less_entropy_and_w2_the_trace_form(p in law(4), q in law(4)) {
            // Eigenvalues in [0.1, 16.1]: the condition number is at most 161, and KL terms at most
            // a few hundred.
            let (kl, cross) = (p.kl(&q).unwrap(), p.cross_entropy(&q).unwrap());
            prop_assert!((kl - (cross - p.entropy())).abs() <= 161.0 * 64.0 * EPS * (1.0 + cross.abs()));
            let a = sqrt_psd(&p.cov_matrix()).unwrap();
            let geometric = sqrt_psd(&symmetric_part(&(&a * q.cov_matrix() * &a))).unwrap().trace();
            let total = p.cov_matrix().trace() + q.cov_matrix().trace();
            let want = (p.mean() - q.mean()).norm_squared() + total - 2.0 * geometric;
            prop_assert!((p.w2_squared(&q).unwrap() - want).abs() <= 161.0 * 16.0 * EPS * (total + want));
        }

        #[test]
        fn w2_of_a_scaled_law_keeps_its_digits(p in law(4), h in -8.0..-1.0f64) {
            // W2(N(m, C), N(m, (1 + h)^2 C))^2 = h^2 tr C; the roots carry eps relative to sqrt(tr
            // C), so the distance eps / h.
            let h = 10f64.powf(h);
            let scaled = Normal::new(p.mean.clone(), Covariance::Full(p.cov_matrix() * (1.0 + h).powi(2))).unwrap();
            let want = h * h * p.cov_matrix().trace();
            prop_assert!((p.w2_squared(&scaled).unwrap() / want - 1.0).abs() <= 161.0 * EPS / h);
        }

        #[test]
        fn a_joint_density_is_the_marginal_times_the_conditional(
            p in law(3), a in prop::collection::vec(-1.0..1.0f64, 6), b in prop::collection::vec(-1.0..1.0f64, 2),
            x in prop::collection::vec(-2.0..2.0f64, 5), noise in 0.1..2.0f64,
        ) {
            let a = DMatrix::from_row_slice(2, 3, &a);
            let joint = p.joint(&a, &b.clone().into(), Covariance::Isotropic(noise)).unwrap();
            let (x0, y) = (DVector::from_column_slice(&x[..3]), DVector::from_column_slice(&x[3..]));
            let forward = p.log_density(&x0).unwrap()
                + Normal::new(&a * &x0 + DVector::from(b), Covariance::Isotropic(noise)).unwrap().log_density(&y).unwrap();
            let whole = joint.log_density(&x.clone().into()).unwrap();
            let backward = joint.marginal(&[3, 4]).unwrap().log_density(&y).unwrap()
                + joint.condition(&[3, 4], y.as_slice()).unwrap().log_density(&x0).unwrap();
            // Condition at most (16 + 6 * 16 + 2) / 0.05, terms up to the log density itself.
            let tol = 2e3 * 8.0 * EPS * (10.0 + whole.abs());
            prop_assert!((whole - forward).abs() <= tol && (whole - backward).abs() <= tol, "{whole} {forward} {backward}");
        }

        #[test]
        fn conditioning_agrees_with_the_precision_matrix(p in law(5), x in prop::collection::vec(-2.0..2.0f64, 2)) {
            let posterior = p.condition(&[1, 3], &x).unwrap();
            let precision = p.cov_matrix().try_inverse().unwrap();
            let (rest, on) = ([0usize, 2, 4], [1usize, 3]);
            let cov = precision.select_rows(&rest).select_columns(&rest).try_inverse().unwrap();
            let gap = DVector::from_column_slice(&x) - p.mean().select_rows(&on);
            let mean = p.mean().select_rows(&rest) - &cov * precision.select_rows(&rest).select_columns(&on) * gap;
            // Condition of a 5 x 5 covariance: at most 25.1 / 0.1, squared in the two inverses.
            let tol = 251.0 * 251.0 * 8.0 * EPS;
            prop_assert!((posterior.cov_matrix() - cov).amax() <= tol && (posterior.mean() - mean).amax() <= tol);
        }
    }

    #[test]
    fn singular_and_misshapen_laws_are_refused() {
        let flat = Normal::new(
            DVector::zeros(2),
            Covariance::Full(nalgebra::dmatrix![1.0, 1.0; 1.0, 1.0]),
        )
        .unwrap();
        let round = Normal::new(DVector::zeros(2), Covariance::Isotropic(1.0)).unwrap();
        assert_eq!((flat.entropy(), flat.kl(&round).unwrap()), (f64::NEG_INFINITY, f64::INFINITY));
        assert!(matches!(round.kl(&flat), Err(Error::Singular { .. })));
        assert!(matches!(flat.log_density(&DVector::zeros(2)), Err(Error::Singular { .. })));
        assert!(matches!(flat.condition(&[0, 1], &[0.0, 0.0]), Err(Error::Singular { .. })));
        // Bures: eigenvalues (2, 0) against (1, 1): (sqrt 2 - 1)^2 + 1.
        let want = (2f64.sqrt() - 1.0).powi(2) + 1.0;
        assert!((flat.w2_squared(&round).unwrap() - want).abs() <= 16.0 * EPS);
        let point = Normal::new(DVector::zeros(2), Covariance::Isotropic(0.0)).unwrap();
        assert_eq!((point.entropy(), point.w2_squared(&point).unwrap()), (f64::NEG_INFINITY, 0.0));
        assert!(matches!(round.cross_entropy(&point), Err(Error::Singular { .. })));
        assert!(matches!(round.condition(&[2], &[0.0]), Err(Error::Domain { .. })));
        assert!(matches!(round.marginal(&[0, 0]), Err(Error::Domain { .. })));
        assert!(matches!(round.condition(&[0], &[]), Err(Error::Shape { .. })));
        assert!(
            Normal::new(
                DVector::zeros(2),
                Covariance::Full(nalgebra::dmatrix![1.0, 0.5; 0.0, 1.0])
            )
            .is_err()
        );
        assert!(Normal::new(DVector::zeros(2), Covariance::Isotropic(-1.0)).is_err());
        assert!(Normal::new(DVector::zeros(2), Covariance::Diagonal(DVector::zeros(3))).is_err());
        assert!(
            Normal::new(DVector::from_element(1, f64::NAN), Covariance::Isotropic(1.0)).is_err()
        );
    }

    #[test]
    fn diagonal_laws_are_compared_coordinate_by_coordinate() {
        // An ulp apart the divergence is eps^2/4 in each coordinate; no dense route has a digit of
        // it.
        let law = |var: f64| {
            Normal::new(DVector::zeros(3), Covariance::Diagonal(DVector::from_element(3, var)))
                .unwrap()
        };
        let (a, b) = (law(1.0 + EPS), law(1.0));
        assert!((a.kl(&b).unwrap() / (0.75 * EPS * EPS) - 1.0).abs() <= 1e-12);
        assert!((a.w2_squared(&b).unwrap() / (0.75 * EPS * EPS) - 1.0).abs() <= 1e-12);
        let other = Normal::new(DVector::zeros(2), Covariance::Isotropic(1.0)).unwrap();
        for result in
            [a.kl(&other), other.kl(&a), a.w2_squared(&other), full(&a).w2_squared(&other)]
        {
            assert!(matches!(result, Err(Error::Shape { .. })));
        }
    }

    #[test]
    fn roots_forgive_rounding_at_any_scale_and_nothing_else() {
        for scale in [1e-8, 1.0, 1e8] {
            let root = |lowest: f64| {
                sqrt_psd(&DMatrix::from_diagonal(&DVector::from_vec(vec![scale, scale * lowest])))
            };
            assert_eq!(root(-1e-12).unwrap()[(1, 1)], 0.0);
            assert!(root(-1e-8).is_err());
        }
        assert_eq!(sqrt_psd(&DMatrix::zeros(2, 2)).unwrap(), DMatrix::zeros(2, 2));
    }

    #[test]
    fn unequal_variances_are_good_to_3_ulp_at_moderate_ratios() {
        let worst = (0..20_000).map(|i| 0.1 * 100f64.powf(f64::from(i) / 2e4)).map(|ratio| {
            let exact = kl_normal_var(Dd::from(ratio), Dd::from(1.0));
            ((Dd::from(kl_normal_var(ratio, 1.0)) - exact) / (exact.hi().next_up() - exact.hi()))
                .hi()
                .abs()
        });
        let worst = worst.fold(0.0, larger);
        assert!(worst <= 3.0, "{worst} ulp");
    }
}
