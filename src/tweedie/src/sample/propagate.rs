//! The exact law that a sampler makes of Gaussian data, noise included: by running the sampler
//! itself on impulses.
//!
//! An affine sampler acts on each mode of variance lambda as
//! `x_end = state x_start + mean m + sum_j gain_j z_j`. The four kinds of gain are read off the
//! very code that samples: a batch whose columns are the modes and whose rows are a unit start and
//! one unit draw each, on data of mean 0; and one more row, from 0, on data of mean 1. No sampling
//! error, no second implementation.

use super::noise_source::{Impulses, Silence};
use super::{NoiseSource, Run, Sampler, sample};
use crate::diffusion::PathPoint;
use crate::diffusion::level::Level;
use crate::error::Result;
use crate::law::Gaussian;
use crate::math::gaussian::{kl_normal, w2_squared_normal};
use ndarray::{Array1, Array2, Axis, s};

/// What a sampler does, over one grid, to modes of the given variances.
#[derive(Clone, Debug)]
pub struct Response {
    /// Data variance of each mode.
    pub lambdas: Array1<f64>,
    /// Gain on the start.
    pub state: Array1<f64>,
    /// Gain on the data's mean.
    pub mean: Array1<f64>,
    /// Variance that the run's own noise has put in.
    pub noise_var: Array1<f64>,
    /// Calls of the denoiser.
    pub nfe: usize,
    from: Level,
    to: Level,
}

/// A sampler that may know the law: [`Teleport`](super::shortcut::Teleport),
/// [`Exact`](super::shortcut::Exact), DDPM with the optimal variance.
pub trait Method {
    /// The sampler for this law.
    ///
    /// # Errors
    /// A law that it cannot be made for.
    fn on<'l>(&'l self, law: &'l Gaussian) -> Result<Box<dyn Sampler + 'l>>;
}

/// The law from which a run starts.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Start {
    /// The true marginal at the grid's first point: what is left is the sampler's own error.
    Marginal,
    /// `N(0, std^2)`, as real samplers start.
    Normal(f64),
}

/// One mode of a produced law beside the true one.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize, serde::Deserialize)]
pub struct ModeError {
    /// Data variance.
    pub lambda: f64,
    /// Mean produced, less the true one.
    pub mean_err: f64,
    /// Variance produced.
    pub var: f64,
    /// True variance at the grid's last point.
    pub want_var: f64,
}

impl ModeError {
    /// Squared 2-Wasserstein distance of the two normals.
    pub fn w2_squared(&self) -> f64 {
        w2_squared_normal(self.mean_err, self.var, 0.0, self.want_var)
    }

    /// `KL(produced || true)`, nats.
    pub fn kl(&self) -> f64 {
        match (self.var == 0.0, self.want_var == 0.0) {
            (true, true) if self.mean_err == 0.0 => 0.0,
            (false, false) => kl_normal(self.mean_err, self.var, 0.0, self.want_var),
            _ => f64::INFINITY,
        }
    }
}

impl Response {
    /// Of an affine sampler to modes of these variances; one that itself knows the law goes through
    /// [`of_method`](Self::of_method).
    ///
    /// # Errors
    /// As [`sample`].
    ///
    /// # Example
    /// ```
    /// use ndarray::array;
    /// use tweedie::diffusion::PathPoint;
    /// use tweedie::sample::{ancestral::Ddim, propagate::{Response, Start}};
    /// // One DDIM step from pure noise produces the mean, and no variance at all.
    /// let grid = [PathPoint::NOISE, PathPoint::CLEAN];
    /// let response = Response::of(&Ddim { eta: 0.0 }, &grid, array![4.0]).unwrap();
    /// let mode = response.errors(&array![1.5], Start::Normal(1.0))[0];
    /// assert_eq!((mode.mean_err, mode.var, mode.w2_squared()), (0.0, 0.0, 4.0));
    /// ```
    pub fn of(sampler: &dyn Sampler, grid: &[PathPoint], lambdas: Array1<f64>) -> Result<Self> {
        Self::of_method(&Borrowed(sampler), grid, lambdas)
    }

    /// Of a method that is made for a law: it is made for the laws of the impulses.
    ///
    /// # Errors
    /// As [`sample`], and what [`Method::on`] says.
    pub fn of_method(
        method: &dyn Method,
        grid: &[PathPoint],
        lambdas: Array1<f64>,
    ) -> Result<Self> {
        let d = lambdas.len();
        let run = |mean: f64, rows: Array2<f64>, noise: &mut dyn NoiseSource| {
            let law = Gaussian::diagonal(Array1::from_elem(d, mean), lambdas.clone())?;
            let sampler = method.on(&law)?;
            sample(&sampler, &law, grid, rows, noise)
        };
        let offset = run(1.0, Array2::zeros((1, d)), &mut Silence)?;
        let mut rows = Array2::zeros((1 + offset.draws, d));
        rows.row_mut(0).fill(1.0);
        let gains = run(0.0, rows, &mut Impulses { first: 1 })?.x;
        Ok(Self {
            state: gains.row(0).to_owned(),
            mean: offset.x.row(0).to_owned(),
            noise_var: gains.slice(s![1.., ..]).map_axis(Axis(0), |g| g.dot(&g)),
            nfe: offset.nfe,
            from: Level::of(grid[0])?,
            to: Level::of(grid[grid.len() - 1])?,
            lambdas,
        })
    }

    /// Mean and variance produced in each mode, against the true marginal at the grid's last point.
    ///
    /// # Shapes
    /// `mean` (modes): the data's mean in mode coordinates.
    pub fn errors(&self, mean: &Array1<f64>, start: Start) -> Vec<ModeError> {
        let mode = |k: usize| {
            let (lambda, m) = (self.lambdas[k], mean[k]);
            let (start_mean, start_var) = match start {
                Start::Marginal => (self.from.alpha * m, self.from.var(lambda)),
                Start::Normal(std) => (0.0, std * std),
            };
            let gain = self.state[k];
            ModeError {
                lambda,
                mean_err: gain * start_mean + (self.mean[k] - self.to.alpha) * m,
                var: gain * gain * start_var + self.noise_var[k],
                want_var: self.to.var(lambda),
            }
        };
        (0..self.lambdas.len()).map(mode).collect()
    }

    /// 2-Wasserstein distance of the produced law to the true one.
    pub fn w2(&self, mean: &Array1<f64>, start: Start) -> f64 {
        self.errors(mean, start).iter().map(ModeError::w2_squared).sum::<f64>().sqrt()
    }
}

/// A sampler behind a reference.
struct Borrowed<'a>(&'a dyn Sampler);

impl Method for Borrowed<'_> {
    fn on<'l>(&'l self, _: &'l Gaussian) -> Result<Box<dyn Sampler + 'l>> {
        Ok(Box::new(Borrowed(self.0)))
    }
}

impl Sampler for Borrowed<'_> {
    fn order(&self) -> Option<u32> {
        self.0.order()
    }
    fn step(&self, run: &mut Run) -> Result<()> {
        self.0.step(run)
    }
}

/// A Gaussian in its own modes: the diagonal law of its coordinates, directions without variance
/// included where there are any.
///
/// # Shapes
/// Result of dimension rank, or rank + 1 where the rank is below d: the last coordinate then stands
/// for all directions off the modes, with the length of the mean's part there as its mean.
pub fn modes(law: &Gaussian) -> Result<Gaussian> {
    let mut mean = law.modes().t().dot(&law.mean()).to_vec();
    let mut variances = law.variances().to_vec();
    if law.rank() < law.dim() {
        let off = &law.mean() - &law.modes().dot(&Array1::from(mean.clone()));
        mean.push(off.dot(&off).sqrt());
        variances.push(0.0);
    }
    Gaussian::diagonal(mean.into(), variances.into())
}
