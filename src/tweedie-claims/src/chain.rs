//! Scalar Markov chains as one joint Gaussian, by dense linear algebra: the second route that knows
//! nothing of diffusion.

use crate::Trial;
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{Bound, Reconstruction, Reverse, ReverseVar, bound};
use tweedie::diffusion::kernel::{Posterior, Transition, random_walk};
use tweedie::diffusion::level::Level;
use tweedie::math::gaussian::Normal;

pub(super) use tweedie::exact::chain::Step;

/// The joint law of (first state, second, ...) of the chain that starts from `N(mean, var)`; `var`
/// may be 0.
pub(super) fn joint(mean: f64, var: f64, steps: &[Step]) -> Normal {
    tweedie::exact::chain::joint(mean, var, steps).expect("variances >= 0")
}

/// Levels of x_1 to x_T: a table of any kind, or the random walk.
pub(super) fn levels(t: &Trial, steps: usize) -> Vec<Level<f64>> {
    if t.int(0, 4) == 0 {
        (1..=steps).map(|k| random_walk(k as f64)).collect()
    } else {
        t.table(steps).rows().iter().map(|r| Level::new(r.alpha, r.sigma)).collect()
    }
}

/// The kernels from x0 to x_1, x_1 to x_2 and so on.
pub(super) fn kernels(levels: &[Level<f64>]) -> Vec<Transition<f64>> {
    let from = std::iter::once(Level::CLEAN).chain(levels.iter().copied());
    from.zip(levels).map(|(s, t)| Transition::between(s, *t).expect("noise grows")).collect()
}

/// The kernels as steps of a chain.
pub(super) fn steps_of(kernels: &[Transition<f64>]) -> Vec<Step> {
    kernels.iter().map(|q| Step::new(q.scale, q.var)).collect()
}

/// A random model of the reverse chain: `x0_hat = gain x_t + shift` at each step, variances, the
/// prior's variance.
pub(super) struct Model {
    pub levels: Vec<Level<f64>>,
    pub gains: Vec<f64>,
    pub shifts: Vec<f64>,
    pub vars: Vec<f64>,
    pub prior_var: f64,
}

impl Model {
    /// A model over levels drawn at random.
    pub fn draw(t: &Trial, steps: usize) -> Self {
        let levels = levels(t, steps);
        let from = std::iter::once(Level::CLEAN).chain(levels.iter().copied());
        // Variances around those of the forward steps, so that no term dwarfs the others.
        let vars = from
            .zip(&levels)
            .map(|(s, u)| {
                Transition::between(s, *u).expect("noise grows").var * t.log_uniform(0.3, 3.0)
            })
            .collect();
        Self {
            gains: (0..steps).map(|_| t.uniform(0.0, 1.0)).collect(),
            shifts: (0..steps).map(|_| 0.3 * t.normal()).collect(),
            vars,
            prior_var: levels[steps - 1].sigma.powi(2) * t.log_uniform(0.5, 2.0),
            levels,
        }
    }

    /// The bound at x0 by the closed forms of its terms.
    pub fn bound(&self, x0: f64) -> Bound {
        let points: Vec<_> =
            self.levels.iter().map(|l| PathPoint::still(l.alpha, l.sigma)).collect();
        let errors: Vec<f64> = (0..points.len())
            .map(|k| {
                let miss = x0 - self.gains[k] * points[k].alpha * x0 - self.shifts[k];
                miss * miss + (self.gains[k] * points[k].sigma).powi(2)
            })
            .collect();
        let reverse = Reverse {
            var: ReverseVar::Given(self.vars[1..].to_vec()),
            reconstruction: Reconstruction::Gaussian(self.vars[0]),
            prior_var: self.prior_var,
        };
        bound(&points, 1, x0 * x0, &errors, &reverse).expect("a bound")
    }

    /// The joint law p(x_T, x_{T-1}, ..., x_0), in this order.
    pub fn joint(&self) -> Normal {
        let steps: Vec<Step> = (0..self.levels.len())
            .rev()
            .map(|k| {
                let s = if k == 0 { Level::CLEAN } else { self.levels[k - 1] };
                let q = Posterior::between(s, self.levels[k]).expect("noise grows");
                Step {
                    scale: q.coef_xt + q.coef_x0 * self.gains[k],
                    shift: q.coef_x0 * self.shifts[k],
                    var: self.vars[k],
                }
            })
            .collect();
        joint(0.0, self.prior_var, &steps)
    }
}
