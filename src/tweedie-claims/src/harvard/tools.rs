//! What the first half of the deck's checks share.

use crate::Trial;
use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2, ArrayView2};
use num_dual::{first_derivative, second_derivative};
use tweedie::diffusion::level::Rates;
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::gaussian::{Covariance, Normal};
use tweedie::math::larger;
use tweedie::sample::ancestral::Ddim;
use tweedie::sample::noise_source::Silence;
use tweedie::sample::sample;

pub(super) const EPS: f64 = f64::EPSILON;

/// The deck's unscaled noising: `x_sigma = x0 + sigma z`.
pub(super) fn level(sigma: f64) -> PathPoint {
    PathPoint::still(1.0, sigma)
}

pub(super) fn scores(law: &dyn Law, x: ArrayView2<f64>, at: &PathPoint) -> Array2<f64> {
    let mut out = Array2::zeros(x.raw_dim());
    law.score(x, at, out.view_mut()).expect("an exact law");
    out
}

/// One noised draw, shape (1, d).
pub(super) fn noised(t: &Trial, law: &dyn Law, at: &PathPoint) -> Array2<f64> {
    law.sample(1, &t.noise()) * at.alpha + t.normal_rows(1, law.dim()) * at.sigma
}

/// Log density of the noised law at one point with its gradient and its second derivatives along
/// the axes, by dual numbers.
pub(super) struct Slopes {
    pub log_density: f64,
    pub score: Vec<f64>,
    pub curvature: Vec<f64>,
    /// Size of the terms that cancel in the second derivatives: inverse variances and squared
    /// scores of the components.
    pub scale: f64,
}

impl Slopes {
    pub fn new(law: &Mixture, x: &[f64], at: &PathPoint) -> Self {
        let mut out =
            Slopes { log_density: 0.0, score: Vec::new(), curvature: Vec::new(), scale: 0.0 };
        for i in 0..x.len() {
            let along = |xi| {
                let mut point: Vec<num_dual::Dual2_64> = x.iter().map(|v| (*v).into()).collect();
                point[i] = xi;
                law.log_density_of(&point, at.alpha.into(), at.sigma.into())
            };
            let (value, score, curvature) = second_derivative(along, x[i]);
            out.log_density = value;
            out.score.push(score);
            out.curvature.push(curvature);
        }
        let rows = ArrayView2::from_shape((1, x.len()), x).expect("one row");
        out.scale = law
            .components()
            .iter()
            .map(|c| {
                scores(c, rows, at).iter().map(|s| s * s).sum::<f64>()
                    + c.variances()
                        .iter()
                        .map(|l| 1.0 / (at.alpha * at.alpha * l + at.sigma * at.sigma))
                        .sum::<f64>()
            })
            .fold(0.0, larger);
        out
    }

    /// `Laplacian p / p`.
    pub fn laplacian(&self) -> f64 {
        self.curvature.iter().sum::<f64>() + self.score.iter().map(|s| s * s).sum::<f64>()
    }
}

/// `d/dt ln p` of the noised law at a fixed point, `alpha` and `sigma` moving at their rates.
pub(super) fn log_density_rate(law: &Mixture, x: &[f64], at: &PathPoint) -> f64 {
    let rates = at.rates.expect("rates");
    let along = |t: num_dual::Dual64| {
        let point: Vec<_> = x.iter().map(|v| (*v).into()).collect();
        law.log_density_of(&point, t * rates.alpha + at.alpha, t * rates.sigma + at.sigma)
    };
    first_derivative(along, 0.0).1
}

/// The deck's Brownian clock: `alpha = 1`, `sigma = sqrt(t)`.
pub(super) fn brownian(time: f64) -> PathPoint {
    PathPoint {
        alpha: 1.0,
        sigma: time.sqrt(),
        t: Some(time),
        rates: Some(Rates::new(0.0, 0.5 / time.sqrt())),
    }
}

/// The unscaled path with `sigma` itself as the clock.
pub(super) fn by_sigma(sigma: f64) -> PathPoint {
    PathPoint { alpha: 1.0, sigma, t: Some(sigma), rates: Some(Rates::new(0.0, 1.0)) }
}

/// A mixture on a line whose components are at least `least` wide, smooth enough for quadrature.
pub(super) fn wide_mixture(t: &Trial, least: f64) -> Mixture {
    let weights = Array1::from_shape_fn(3, |_| t.uniform(0.2, 1.0));
    let parts = (0..3)
        .map(|_| Gaussian::isotropic(t.normals(1) * 2.0, t.uniform(least, 2.0)).expect("positive"))
        .collect();
    Mixture::new(weights, parts).expect("positive weights")
}

/// A Gaussian whose `d - rank` last modes have no variance and are not stored.
pub(super) fn singular_gaussian(t: &Trial, d: usize, rank: usize) -> Gaussian {
    t.gaussian(d).truncated(rank)
}

pub(super) fn matrix(a: &Array2<f64>) -> DMatrix<f64> {
    DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]])
}

pub(super) fn vector<'a>(a: impl IntoIterator<Item = &'a f64>) -> DVector<f64> {
    DVector::from_vec(a.into_iter().copied().collect())
}

/// The law as a dense normal of the mathematics layer, which shares no code with the law's
/// eigenbasis.
pub(super) fn dense(law: &Gaussian) -> Normal {
    let cov = matrix(&Law::cov(law));
    Normal::new(vector(law.mean().iter()), Covariance::Full((&cov + cov.transpose()) * 0.5))
        .expect("a covariance")
}

/// DDIM through these noise levels and from the last of them to `end`: one evaluation of the
/// denoiser each.
pub(super) fn ddim(law: &dyn Denoiser, x: Array2<f64>, sigmas: &[f64], end: f64) -> Array2<f64> {
    let grid: Vec<PathPoint> = sigmas.iter().chain([&end]).map(|sigma| level(*sigma)).collect();
    sample(&Ddim { eta: 0.0 }, law, &grid, x, &mut Silence).expect("noise falls").x
}
