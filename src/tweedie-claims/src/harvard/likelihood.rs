//! Likelihoods: exact along the ODE, bounded along the chain.

use crate::{Claim, Probe, Role, Trial};
use nalgebra::DMatrix;
use ndarray::Array2;
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{
    Bound, GaussianData, Part, Reconstruction, Reverse, ReverseVar, gaussian_bound, mmse,
};
use tweedie::diffusion::kernel::{Posterior, Transition};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::path::Path;
use tweedie::exact::likelihood::{log_det, log_likelihood_solve};
use tweedie::exact::pf_ode::pf_ode_map;
use tweedie::law::Law;
use tweedie::law::gaussian::wiener_gain;
use tweedie::math::gaussian::cross_entropy_normal;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/nf-likelihood",
        slide: "Link to normalizing flow",
        statement: "A flow with an inverse and an explicit Jacobian gives the log-likelihood exactly, by the change of variables.",
        reading: "",
        assumes: "The probability-flow ODE as the flow, with the exact score and the exact law of its noisy end.",
        printed: "",
        formula: r"\log p_0(x_0) = \log p_T(x_T) + \log \left|\det \frac{\partial x_T}{\partial x_0}\right|",
        finding: "It returns the law's own density for random Gaussians, where the Jacobian is a product of gains, and for mixtures, where it is integrated along the trajectory. \
                  The density at the noisy end has to be the true one: N(0, sigma^2 I) in its place is the likelihood of another model.",
        mutants: &[
            "log-determinant subtracted",
            "Jacobian left out",
            "N(0, sigma^2 I) at the noisy end",
        ],
        check: change_of_variables,
    },
    Claim {
        id: "harvard/diffusion-bounds-likelihood",
        slide: "Link to normalizing flow",
        statement: "A diffusion model bounds its log-likelihood by the ELBO.",
        reading: "",
        assumes: "Gaussian data and the exact denoiser, with DDPM's reverse variances: the likelihood of the chain as a generative model is then known, and so is the bound.",
        printed: "",
        formula: r"-\mathbb{E}\log p_\theta(x_0) \le \text{NELBO}_T, \qquad \text{NELBO}_T + \mathbb{E}\log p_\theta(x_0) = O(1/T)",
        finding: "The bound holds. Its distance from the exact value falls like 1/T for the forward and for the posterior variance; with the best reverse variance it is 0 for Gaussian data, \
                  with any number of steps.",
        mutants: &[
            "transitions counted half",
            "prior term left out",
            "error of the cleaner level in each transition",
        ],
        check: bound_and_exact,
    },
];

fn change_of_variables(p: &mut Probe) {
    let (minus, none, prior) = (
        p.mutant("log-determinant subtracted"),
        p.mutant("Jacobian left out"),
        p.mutant("N(0, sigma^2 I) at the noisy end"),
    );
    let sign = if minus {
        -1.0
    } else if none {
        0.0
    } else {
        1.0
    };
    let ends = |t: &Trial| {
        (
            PathPoint::still(1.0, t.uniform(0.0, 0.3)),
            PathPoint::still(t.uniform(0.05, 0.9), t.uniform(0.5, 2.0)),
        )
    };
    p.property(
        Role::Printed,
        "log density at the noisy end and log-determinant together, against the density of random Gaussians in 3 dimensions",
        96,
        "1e-12 of the terms, times the ratio of the variances' roots, at most 100",
        |t| {
            let (law, (from, to), x) = (t.gaussian(3), ends(t), t.normal_rows(2, 3) * 2.0);
            let image = pf_ode_map(&law, x.view(), from, to).expect("regular");
            let density = if prior {
                image.map_axis(ndarray::Axis(1), |r| {
                    -0.5 * r.dot(&r) / to.sigma.powi(2) - 1.5 * (std::f64::consts::TAU * to.sigma.powi(2)).ln()
                })
            } else {
                law.log_density(image.view(), &to)
            };
            let got = density + sign * log_det(&law, from, to).expect("regular");
            let want = law.log_density(x.view(), &from);
            for (g, w) in got.iter().zip(&want) {
                t.compare(*g, *w, 1e-12 * 100.0 * (1.0 + w.abs()));
            }
        },
    );
    p.property(
        Role::Printed,
        "log-determinant, against that of the map's matrix, column by column",
        64,
        "1e-11: a determinant of a matrix of condition up to 100",
        |t| {
            let (law, (from, to)) = (t.gaussian(3), ends(t));
            let mut basis = Array2::zeros((4, 3));
            (0..3).for_each(|i| basis[[i + 1, i]] = 1.0);
            let image = pf_ode_map(&law, basis.view(), from, to).expect("regular");
            let matrix = DMatrix::from_fn(3, 3, |i, j| image[[j + 1, i]] - image[[0, i]]);
            t.compare(
                sign * log_det(&law, from, to).expect("regular"),
                matrix.determinant().abs().ln(),
                1e-11 * 10.0,
            );
        },
    );
    let normal_end = PathPoint::still(0.2, 1.0);
    p.property(
        Role::Printed,
        "log-likelihood of mixtures by the integrated trace of the Jacobian, against their density",
        3,
        "1e-9 nats: the integrator allows 1e-13 a step",
        |t| {
            let (law, from, x) = (t.mixture(2, 2), PathPoint::still(1.0, 0.3), t.normal_rows(2, 2));
            let want = law.log_density(x.view(), &from);
            let by_flow =
                log_likelihood_solve(&law, x.view(), &from, &normal_end).expect("regular");
            t.compare_all(&by_flow, &want, 1e-9);
        },
    );
}

/// The chain over one Gaussian mode on a grid even in log-SNR, exactly denoised.
struct Chain {
    lambda: f64,
    mean: f64,
    points: Vec<PathPoint>,
    var: ReverseVar,
}

impl Chain {
    /// From log-SNR 6 down to `end`.
    fn new(steps: usize, end: f64, [lambda, mean]: [f64; 2], var: ReverseVar) -> Self {
        let points = (0..=steps)
            .map(|k| {
                let t = Path::Cosine
                    .t_from_log_snr(6.0 + (end - 6.0) * k as f64 / steps as f64)
                    .expect("on the path");
                let at = Path::Cosine.still_at(t).expect("inside");
                PathPoint::still(at.alpha, at.sigma)
            })
            .collect();
        Self { lambda, mean, points, var }
    }

    /// The library's bound; with `cleaner` each level is given the error of the level before it.
    fn bound(&self, cleaner: bool) -> Bound {
        let data = GaussianData { variances: &[self.lambda], mean_square: self.mean * self.mean };
        let reverse = Reverse {
            var: self.var.clone(),
            reconstruction: Reconstruction::Optimal,
            prior_var: 1.0,
        };
        let error = |at: &PathPoint, lambda: f64| {
            let k =
                self.points.iter().position(|p| p.sigma == at.sigma).expect("a point of the chain");
            let at = self.points[if cleaner { k.saturating_sub(1) } else { k }];
            mmse(lambda, (at.alpha, at.sigma))
        };
        gaussian_bound(&self.points, data, error, &reverse).expect("a chain")
    }

    /// `-E ln p_model(x0)`: the model's law is normal, its mean and variance follow from its steps.
    fn exact(&self) -> f64 {
        let (mut mean, mut var) = (0.0, 1.0);
        for w in self.points.windows(2).rev() {
            let (s, t) = (Level::from(&w[0]), Level::from(&w[1]));
            let q = Posterior::between(s, t).expect("ordered");
            let gain = wiener_gain(self.lambda, t.alpha, t.sigma);
            let spread = match self.var {
                ReverseVar::Beta => Transition::between(s, t).expect("ordered").var,
                ReverseVar::Posterior => q.var,
                _ => q.var + q.coef_x0 * q.coef_x0 * mmse(self.lambda, (t.alpha, t.sigma)),
            };
            let whole = q.coef_xt + q.coef_x0 * gain;
            mean = whole * mean + q.coef_x0 * (1.0 - gain * t.alpha) * self.mean;
            var = whole * whole * var + spread;
        }
        let first = self.points[0];
        let gain = wiener_gain(self.lambda, first.alpha, first.sigma);
        mean = gain * mean + (1.0 - gain * first.alpha) * self.mean;
        var = gain * gain * var + mmse(self.lambda, (first.alpha, first.sigma));
        cross_entropy_normal(self.mean, self.lambda, mean, var)
    }
}

fn bound_and_exact(p: &mut Probe) {
    let (half, no_prior, cleaner) = (
        p.mutant("transitions counted half"),
        p.mutant("prior term left out"),
        p.mutant("error of the cleaner level in each transition"),
    );
    let bound = move |chain: &Chain| {
        let counted = chain.bound(cleaner);
        let share =
            |part: Part, cut: bool, kept: f64| counted.part(part) * if cut { kept } else { 1.0 };
        share(Part::Reconstruction, false, 1.0)
            + share(Part::Transition, half, 0.5)
            + share(Part::Prior, no_prior, 0.0)
    };
    p.property(
        Role::Printed,
        "how far the bound falls below the exact value, for random variances, means and numbers of steps",
        64,
        "1e-12 nats of rounding",
        |t| {
            let var = if t.int(0, 1) == 0 { ReverseVar::Beta } else { ReverseVar::Posterior };
            let chain = Chain::new(t.int(1, 60), t.uniform(-12.0, -1.0), [t.log_uniform(0.05, 5.0), 3.0 * t.normal()], var);
            t.compare((chain.exact() - bound(&chain)).max(0.0), 0.0, 1e-12);
        },
    );
    for (name, var) in [("forward", ReverseVar::Beta), ("posterior", ReverseVar::Posterior)] {
        let gap = |steps: usize| {
            let chain = Chain::new(steps, -20.0, [0.5, 1.0], var.clone());
            bound(&chain) - chain.exact()
        };
        p.number(
            Role::Printed,
            format!("{name} variance: distance of the bound from the exact value with 256 steps over that with 512"),
            gap(256) / gap(512),
            2.0,
            0.05,
            "a distance of order 1/T halves but for its next order, about 2% at 256 steps",
        );
    }
    p.property(
        Role::Printed,
        "best variance: bound, against the exact value",
        32,
        "what the start in N(0, 1) costs: half of the e^-20 of signal left, times the squared mean; and 1e-11 nats of rounding",
        |t| {
            let (steps, lambda, mean) = (t.int(1, 40), t.log_uniform(0.05, 5.0), t.normal());
            let chain = Chain::new(steps, -20.0, [lambda, mean], ReverseVar::Optimal);
            t.compare(bound(&chain), chain.exact(), 0.5 * (-20f64).exp() * mean * mean + 1e-11);
        },
    );
}
