//! A diffusion of one number with a linear Gaussian model: both processes are then normal laws of
//! (x_0, ..., x_T), and every statement on bounds can be held to dense linear algebra.

use super::still;
use crate::Trial;
use nalgebra::{DMatrix, DVector};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{
    Bound, GaussianData, Reconstruction, Reverse, ReverseVar, gaussian_bound, linear_error,
};
use tweedie::diffusion::kernel::Posterior;
use tweedie::diffusion::schedule::Table;
use tweedie::law::gaussian::wiener_gain;
use tweedie::math::gaussian::{Covariance, Normal};

/// Data `N(0, lambda)`, a schedule, and a reverse model with `x0_hat = gain x_t` and given
/// variances.
pub(crate) struct Chain {
    pub lambda: f64,
    pub table: Table,
    /// Gain of the denoiser at t = 1..=T.
    pub gains: Vec<f64>,
    /// Variance of p(x_{t-1}|x_t) for t = 1..=T.
    pub vars: Vec<f64>,
}

impl Chain {
    /// A random chain of a few steps whose model is some way off the exact reversal.
    pub fn random(t: &Trial) -> Self {
        let chain = Self::exact(t);
        let gains = chain.gains.iter().map(|g| g * t.uniform(0.7, 1.3)).collect();
        let vars = chain.vars.iter().map(|v| v * t.uniform(0.6, 1.8)).collect();
        Self { gains, vars, ..chain }
    }

    /// A random chain whose model is the exact reversal.
    pub fn exact(t: &Trial) -> Self {
        let betas: Vec<f64> = (0..t.int(2, 5)).map(|_| t.uniform(0.05, 0.6)).collect();
        let (lambda, table) =
            (t.log_uniform(0.2, 4.0), Table::from_betas(&betas).expect("betas in range"));
        let gains =
            table.rows().iter().map(|row| wiener_gain(lambda, row.alpha, row.sigma)).collect();
        let mut chain = Self { lambda, table, gains, vars: Vec::new() };
        // By conditioning, so that nothing of the formulas under test is used.
        let forward = chain.forward();
        let var = |step: usize| {
            let pair = forward.marginal(&[step - 1, step]).expect("coordinates of the chain");
            pair.condition(&[1], &[0.0]).expect("x_t has variance").cov_matrix()[(0, 0)]
        };
        chain.vars = (1..=chain.steps()).map(var).collect();
        chain
    }

    pub fn steps(&self) -> usize {
        self.table.steps()
    }

    /// q(x_0, ..., x_T), step by step with the betas.
    pub fn forward(&self) -> Normal {
        let start =
            Normal::new(DVector::zeros(1), Covariance::Isotropic(self.lambda)).expect("a variance");
        self.table
            .rows()
            .iter()
            .fold(start, |law, row| appended(&law, row.alpha_step.sqrt(), row.beta))
    }

    /// p(x_0, ..., x_T), from x_T ~ N(0, 1) down.
    pub fn model(&self) -> Normal {
        let start = Normal::new(DVector::zeros(1), Covariance::Isotropic(1.0)).expect("a variance");
        let down = (1..=self.steps())
            .rev()
            .fold(start, |law, step| appended(&law, self.gain_of_step(step), self.vars[step - 1]));
        down.marginal(&(0..=self.steps()).rev().collect::<Vec<_>>()).expect("all coordinates")
    }

    /// Factor of x_t in the mean of p(x_{t-1}|x_t).
    pub fn gain_of_step(&self, step: usize) -> f64 {
        let q = self.posterior(step);
        q.coef_xt + q.coef_x0 * self.gains[step - 1]
    }

    /// q(x_{t-1}|x_t, x_0); the point x_0 at t = 1.
    pub fn posterior(&self, step: usize) -> Posterior<f64> {
        let row = &self.table.rows()[step - 1];
        Posterior {
            coef_x0: row.posterior_coef_x0,
            coef_xt: row.posterior_coef_xt,
            var: row.posterior_var,
        }
    }

    /// The points x_1 to x_T; their time is the step.
    pub fn points(&self) -> Vec<PathPoint> {
        (1..=self.steps())
            .map(|step| PathPoint { t: Some(step as f64), ..still(&self.table, step) })
            .collect()
    }

    /// The bound of the model, averaged over the data, by the library's terms.
    pub fn bound(&self) -> Bound {
        let reverse = Reverse {
            var: ReverseVar::Given(self.vars[1..].to_vec()),
            reconstruction: Reconstruction::Gaussian(self.vars[0]),
            prior_var: 1.0,
        };
        let error = |at: &PathPoint, lambda: f64| {
            linear_error(
                lambda,
                self.gains[at.t.expect("a step") as usize - 1],
                (at.alpha, at.sigma),
            )
        };
        gaussian_bound(
            &self.points(),
            GaussianData { variances: &[self.lambda], mean_square: 0.0 },
            error,
            &reverse,
        )
        .expect("a valid chain")
    }
}

/// The joint law with one more coordinate, `scale` times the last one plus noise.
fn appended(law: &Normal, scale: f64, var: f64) -> Normal {
    let d = law.dim();
    let mut row = DMatrix::zeros(1, d);
    row[(0, d - 1)] = scale;
    law.joint(&row, &DVector::zeros(1), Covariance::Isotropic(var)).expect("a kernel")
}
