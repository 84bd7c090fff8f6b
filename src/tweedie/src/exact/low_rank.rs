//! Predictors of limited rank: what a bottleneck costs each prediction target, by reduced-rank
//! regression.

use crate::diffusion::PathPoint;
use crate::diffusion::prediction::{Frame, Prediction};
use crate::error::{Error, Result};
use crate::law::Gaussian;
use ndarray::{Array1, Array2};

/// The best predictor of a target that is an affine function of `x_t` of limited rank, for Gaussian
/// data (or for any data with these two moments).
///
/// # Formula
/// Of a target `y = a x0 + b eps` the mode of variance `lambda` can be predicted with the gain
/// `g = c / sqrt(v)`, where `c = (a alpha lambda + b sigma) / sqrt(v)` and
/// `v = alpha^2 lambda + sigma^2`; all directions off the modes are modes with `lambda = 0`. The
/// best predictor of rank k keeps the k modes with the largest `c^2`, and each mode that it drops
/// adds its `c^2` to the loss `E||y - y_hat||^2`.
///
/// So a target that is all noise off the data (eps, v, velocity) needs rank d, however few
/// dimensions the data have, while for x0 the `c` of every direction without data is 0.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::diffusion::{PathPoint, prediction::Prediction};
/// use tweedie::{exact::low_rank::LowRank, law::Gaussian};
/// // A line in the plane, at equal signal and noise.
/// let law = Gaussian::diagonal(array![0.0, 0.0], array![1.0, 0.0]).unwrap();
/// let at = PathPoint::still(0.6, 0.8);
/// assert_eq!(LowRank::new(&law, Prediction::X0, &at, 1).unwrap().excess(), 0.0);
/// let eps = LowRank::new(&law, Prediction::Eps, &at, 1).unwrap();
/// assert!((eps.excess() - 0.64).abs() < 1e-15); // it drops the data: off the line there is more to predict
/// ```
///
/// # Source
/// Izenman 1975, "Reduced-rank regression for the multivariate linear model", with the identity as
/// weight; Li and He 2025 (arXiv 2511.13720), "Back to basics: let denoising generative models
/// denoise", for the question.
#[derive(Clone, Debug)]
pub struct LowRank {
    mean: Array1<f64>,
    shift: Array1<f64>,
    matrix: Array2<f64>,
    excess: f64,
    kept: usize,
}

impl LowRank {
    /// The best predictor of `target` at this point of rank at most `rank`.
    ///
    /// Where several modes tie, the ones of larger variance are kept.
    ///
    /// # Errors
    /// `sigma = 0`, where `x_t` has no variance off the data; a target that is not defined at the
    /// point ([`Frame::check`]).
    pub fn new(law: &Gaussian, target: Prediction, at: &PathPoint, rank: usize) -> Result<Self> {
        let frame = Frame::from(at);
        frame.check(target)?;
        if at.sigma == 0.0 {
            let why = "x_t is the data themselves, and off them there is nothing to regress on";
            return Err(Error::singular(
                "a predictor of limited rank",
                "sigma = 0",
                why,
                "take a point with noise",
            ));
        }
        let (d, r) = (law.dim(), law.rank());
        let (a, b) = target.coefficients(&frame);
        let var = |lambda: f64| at.alpha * at.alpha * lambda + at.sigma * at.sigma;
        let cross = |lambda: f64| a * at.alpha * lambda + b * at.sigma;
        let strength = |lambda: f64| cross(lambda) * cross(lambda) / var(lambda);

        // The stored modes, largest variance first, then the d - r directions off them, which are
        // all alike.
        let mut order: Vec<(usize, f64)> =
            law.variances().iter().map(|&l| strength(l)).enumerate().collect();
        order.extend((r..d).map(|k| (k, strength(0.0))));
        order.sort_by(|x, y| y.1.total_cmp(&x.1));
        let kept = order.iter().take(rank).filter(|(_, c)| *c > 0.0).count();
        let excess = order[kept..].iter().map(|(_, c)| c).sum();

        let modes = with_complement(law, order[..kept].iter().any(|(k, _)| *k >= r));
        let mut matrix = Array2::zeros((d, d));
        for &(k, _) in &order[..kept] {
            let lambda = if k < r { law.variances()[k] } else { 0.0 };
            let u = modes.column(k);
            let gain = cross(lambda) / var(lambda);
            for (mut row, u_i) in matrix.rows_mut().into_iter().zip(u) {
                row.scaled_add(gain * u_i, &u);
            }
        }
        Ok(Self { mean: &law.mean() * at.alpha, shift: &law.mean() * a, matrix, excess, kept })
    }

    /// What the limit of rank adds to the least loss `E||y - y_hat||^2` of an affine predictor.
    pub fn excess(&self) -> f64 {
        self.excess
    }

    /// Rank in use: less than the limit where no further mode has anything to predict.
    pub fn rank(&self) -> usize {
        self.kept
    }

    /// The predictor's matrix, shape (d, d).
    pub fn matrix(&self) -> &Array2<f64> {
        &self.matrix
    }

    /// The prediction of each row: `E[y] + matrix (x - alpha mean)`.
    ///
    /// # Shapes
    /// `x` and the result (n, d).
    pub fn predict(&self, x: &Array2<f64>) -> Array2<f64> {
        (x - &self.mean).dot(&self.matrix.t()) + &self.shift
    }
}

/// The law's modes, followed if asked for by an orthonormal basis of the rest, shape (d, r) or (d,
/// d).
fn with_complement(law: &Gaussian, complete: bool) -> Array2<f64> {
    let (d, r) = (law.dim(), law.rank());
    let mut basis = Array2::zeros((d, if complete { d } else { r }));
    basis.slice_mut(ndarray::s![.., ..r]).assign(&law.modes());
    let mut filled = r;
    while filled < basis.ncols() {
        // The axis that the basis covers least keeps at least (d - filled) / d of its square: Gram
        // and Schmidt, twice, is stable.
        let covered = |i: usize| basis.row(i).iter().take(filled).map(|u| u * u).sum::<f64>();
        let axis = (0..d).min_by(|&i, &j| covered(i).total_cmp(&covered(j))).expect("d > 0");
        let mut v = Array1::zeros(d);
        v[axis] = 1.0;
        for _ in 0..2 {
            let on = basis.slice(ndarray::s![.., ..filled]).t().dot(&v);
            v -= &basis.slice(ndarray::s![.., ..filled]).dot(&on);
        }
        v /= v.dot(&v).sqrt();
        basis.column_mut(filled).assign(&v);
        filled += 1;
    }
    basis
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::level::Rates;
    use crate::exact::testing::{gaussian, normal_rows};
    use nalgebra::{DMatrix, SymmetricEigen};
    use proptest::prelude::*;

    const TARGETS: [Prediction; 4] =
        [Prediction::X0, Prediction::Eps, Prediction::V, Prediction::Velocity];

    fn dense(a: &Array2<f64>) -> DMatrix<f64> {
        DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]])
    }

    /// `E||y - W z||^2` with `z = x_t - alpha mean`, from the covariances.
    fn loss(w: &DMatrix<f64>, cov: &DMatrix<f64>, (a, b): (f64, f64), at: &PathPoint) -> f64 {
        let one = DMatrix::identity(cov.nrows(), cov.nrows());
        let (xx, yx) = (
            cov * at.alpha.powi(2) + &one * at.sigma.powi(2),
            cov * (a * at.alpha) + &one * (b * at.sigma),
        );
        let yy = cov * (a * a) + &one * (b * b);
        (yy - w * yx.transpose() * 2.0 + w * xx * w.transpose()).trace()
    }

    proptest! {
        /// Second route: Eckart and Young on the dense `W_full Cov[x_t]^(1/2)`, whose singular
        /// values decide.
        #[test]
        fn excess_is_the_discarded_part_of_the_singular_values(
            law in gaussian(4),
            sigma in 0.1..1.0f64,
            rank in 0usize..5,
            k in 0usize..4,
        ) {
            let at = PathPoint { alpha: 0.7, sigma, t: Some(0.5), rates: Some(Rates::new(-0.8, 0.9)) };
            let best = LowRank::new(&law, TARGETS[k], &at, rank).unwrap();
            let (a, b) = TARGETS[k].coefficients(&Frame::from(&at));
            let one = DMatrix::identity(4, 4);
            let cov = dense(&law.matrix(|l| l));
            let (xx, yx) = (&cov * at.alpha.powi(2) + &one * sigma * sigma, &cov * (a * at.alpha) + &one * (b * sigma));
            let inverse = xx.clone().cholesky().unwrap().inverse();
            let mut squares: Vec<f64> = SymmetricEigen::new(&yx * &inverse * yx.transpose()).eigenvalues.iter().copied().collect();
            squares.sort_by(|x, y| y.total_cmp(x));
            let size = 1.0 + cov.trace();
            // The dense inverse has a condition number of at most size / sigma^2.
            let tol = 1e-14 * size * size / (sigma * sigma);
            prop_assert!((best.excess() - squares[rank.min(4)..].iter().sum::<f64>()).abs() <= tol);
            // And the matrix does attain it.
            let full = loss(&(&yx * inverse), &cov, (a, b), &at);
            prop_assert!((loss(&dense(best.matrix()), &cov, (a, b), &at) - full - best.excess()).abs() <= tol);
            // As many modes as the limit allows or as have anything to predict: those clear of 0
            // must be in, those at 0 need not.
            let (clear, any) = (squares.iter().filter(|s| **s > tol).count(), squares.iter().filter(|s| **s >= -tol).count());
            prop_assert!((rank.min(clear)..=rank.min(any)).contains(&best.rank()));
            prop_assert!(dense(best.matrix()).rank(1e-12) <= best.rank());
        }

        /// No other matrix of that rank does better: neither a random one, nor one near the best.
        #[test]
        fn no_matrix_of_the_rank_is_better(
            law in gaussian(4),
            sigma in 0.1..1.0f64,
            rank in 1usize..4,
            k in 0usize..4,
            seed: u64,
            step in -3.0..0.0f64,
        ) {
            let at = PathPoint { alpha: 0.7, sigma, t: Some(0.5), rates: Some(Rates::new(-0.8, 0.9)) };
            let best = LowRank::new(&law, TARGETS[k], &at, rank).unwrap();
            let (cov, target) = (dense(&law.matrix(|l| l)), TARGETS[k].coefficients(&Frame::from(&at)));
            let least = loss(&dense(best.matrix()), &cov, target, &at);
            // Products with full matrices on both sides keep the rank and reach every matrix of it.
            let one = DMatrix::identity(4, 4);
            let turn = |seed| &one + dense(&normal_rows(4, 4, seed)) * 10f64.powf(step);
            let cut = turn(seed) * dense(best.matrix()) * turn(seed ^ 1);
            prop_assert!(loss(&cut, &cov, target, &at) >= least - 1e-13 * (1.0 + cov.trace()));
        }

        #[test]
        fn full_rank_is_the_posterior_mean(law in gaussian(4), sigma in 0.1..1.0f64, seed: u64) {
            let at = PathPoint::still(0.7, sigma);
            let x = normal_rows(3, 4, seed);
            let mut want = x.clone();
            crate::diffusion::Denoiser::denoise(&law, x.view(), &at, want.view_mut()).unwrap();
            let got = LowRank::new(&law, Prediction::X0, &at, law.rank()).unwrap().predict(&x);
            prop_assert!(got.iter().zip(&want).all(|(g, w)| (g - w).abs() <= 1e-13 * (10.0 + w.abs()) / sigma));
        }
    }

    #[test]
    fn what_cannot_be_regressed_is_refused() {
        let law = Gaussian::isotropic(Array1::zeros(2), 1.0).unwrap();
        assert!(LowRank::new(&law, Prediction::X0, &PathPoint::CLEAN, 1).is_err());
        assert!(LowRank::new(&law, Prediction::Velocity, &PathPoint::still(0.6, 0.8), 1).is_err());
        let none = LowRank::new(&law, Prediction::Eps, &PathPoint::still(0.6, 0.8), 0).unwrap();
        assert_eq!((none.rank(), none.matrix().sum()), (0, 0.0));
    }
}
