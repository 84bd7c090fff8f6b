//! The bound of the log-likelihood: Jensen, the telescope, and its first two terms.

use crate::Claim;
use crate::Role::{Printed, WithCondition, WithoutCondition};
use crate::sjtu::chain::Chain;
use crate::sjtu::level;
use nalgebra::{DMatrix, DVector, dvector};
use std::f64::consts::TAU;
use tweedie::diffusion::decoder::gaussian_nats;
use tweedie::diffusion::elbo::{
    GaussianData, Part, Reconstruction, Reverse, ReverseVar, gaussian_bound, linear_error,
};
use tweedie::diffusion::kernel::{Posterior, Transition};
use tweedie::diffusion::level::Level;
use tweedie::math::gaussian::{Covariance, Normal, kl_normal, log_density_normal};
use tweedie::math::quadrature::NormalRule;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "recap/elbo-jensen",
        slide: "Training",
        statement: "The mean log-likelihood E[log p_theta(x0)] is at least the mean over q of log p_theta(x_{0:T}) / \
        q(x_{1:T}|x0).",
        reading: "In the scan the second line lacks the inequality sign; it is Jensen's, from the logarithm of the mean to the \
        mean of the logarithm.",
        assumes: "Checked exactly for Gaussian data and linear Gaussian reverse models of up to 5 steps, for which both sides are \
        closed forms.",
        printed: "",
        formula: r"\mathbb{E}_{q(x_0)} \log p_\theta(x_0) \ge \mathbb{E}_{q(x_{0:T})} \log \frac{p_\theta(x_{0:T})}{q(x_{1:T} |
        x_0)}",
        finding: "It holds, and the difference is the mean divergence of q(x_{1:T}|x0) from the model's own posterior of the \
        latents; it vanishes for the exact reversal.",
        mutants: &[
            "q(x_{0:T}) in the denominator",
            "latents drawn from the model",
            "latents left out of the denominator",
        ],
        check: |p| {
            let (joint, model_draws) = (
                p.mutant("q(x_{0:T}) in the denominator"),
                p.mutant("latents drawn from the model"),
            );
            let bare = p.mutant("latents left out of the denominator");
            let sides = move |chain: &Chain| {
                let (q, model) = (chain.forward(), chain.model());
                let (data, marginal) =
                    (q.marginal(&[0]).expect("x_0"), model.marginal(&[0]).expect("x_0"));
                let left = -data.cross_entropy(&marginal).expect("one dimension");
                // E_q log p(x_{0:T}) - E_q log q(x_{1:T}|x0), entropies of dense Gaussians.
                let log_model = if model_draws {
                    -model.entropy()
                } else {
                    -q.cross_entropy(&model).expect("one dimension")
                };
                let log_latents = if joint {
                    -q.entropy()
                } else if bare {
                    0.0
                } else {
                    -(q.entropy() - data.entropy())
                };
                (left, log_model - log_latents)
            };
            p.property(
                Printed,
                "By how much the right side exceeds the left, at most 0",
                128,
                "rounding of dense Gaussians",
                |t| {
                    let (left, right) = sides(&Chain::random(t));
                    t.compare((right - left).max(0.0), 0.0, 1e-11);
                },
            );
            p.property(
                Printed,
                "The difference against the mean divergence of the latents given x0",
                64,
                "rounding; x0 at two points that have the data's variance is exact for a quadratic",
                |t| {
                    let chain = Chain::random(t);
                    let (left, right) = sides(&chain);
                    let (q, model) = (chain.forward(), chain.model());
                    let at = |x0: f64| {
                        let (q, model) = (
                            q.condition(&[0], &[x0]).expect("a density"),
                            model.condition(&[0], &[x0]).expect("a density"),
                        );
                        q.kl(&model).expect("one dimension")
                    };
                    let std = chain.lambda.sqrt();
                    t.compare(left - right, 0.5 * (at(std) + at(-std)), 1e-11);
                },
            );
            p.property(
                Printed,
                "The right side against the bound summed term by term",
                64,
                "rounding",
                |t| {
                    let chain = Chain::random(t);
                    t.compare(sides(&chain).1, -chain.bound().nats(), 1e-11);
                },
            );
        },
    },
    Claim {
        id: "recap/elbo-telescopes",
        slide: "Training",
        statement: "Conditioning the forward kernels on x0 makes the bound telescope into a reconstruction, a prior and one \
        transition term for each t = 2..T.",
        reading: "The scan scatters the fractions; the product over t and the sum from t = 2 follow from the lines before and \
        after.",
        assumes: "The forward process is a Markov chain, so that q(x_t|x_{t-1}) = q(x_t|x_{t-1}, x0).",
        printed: "",
        formula: r"\log \frac{p_\theta(x_{0:T})}{q(x_{1:T} | x_0)} = \log \frac{p_\theta(x_T)}{q(x_T | x_0)} + \sum_{t=2}^T \log
        \frac{p_\theta(x_{t-1} | x_t)}{q(x_{t-1} | x_t, x_0)} + \log p_\theta(x_0 | x_1)",
        finding: "It holds at every single trajectory, not only on average: Bayes' rule turns each forward kernel around, and the \
        marginals q(x_t|x0) cancel but for the last.",
        mutants: &[
            "sum from t = 1",
            "q(x_1|x0) left over for q(x_T|x0)",
            "forward kernels not turned around",
            "beta for beta~",
        ],
        check: |p| {
            let (early, first) =
                (p.mutant("sum from t = 1"), p.mutant("q(x_1|x0) left over for q(x_T|x0)"));
            let (forward, beta) =
                (p.mutant("forward kernels not turned around"), p.mutant("beta for beta~"));
            p.property(
                Printed,
                "Both sides at one trajectory",
                256,
                "rounding of log densities, over the narrowest step",
                |t| {
                    let betas: Vec<f64> = (0..t.int(2, 8)).map(|_| t.uniform(0.02, 0.6)).collect();
                    let table = tweedie::diffusion::schedule::Table::from_betas(&betas)
                        .expect("betas in range");
                    let steps = table.steps();
                    let mut x = vec![t.normal()];
                    for row in table.rows() {
                        x.push(
                            row.alpha_step.sqrt() * x[x.len() - 1] + row.beta.sqrt() * t.normal(),
                        );
                    }
                    // A model with any Gaussian kernels.
                    let kernels: Vec<(f64, f64)> =
                        (0..steps).map(|_| (t.uniform(0.5, 1.2), t.uniform(0.05, 0.5))).collect();
                    let log_p = |step: usize| {
                        log_density_normal(
                            x[step - 1],
                            kernels[step - 1].0 * x[step],
                            kernels[step - 1].1,
                        )
                    };
                    let log_prior = log_density_normal(x[steps], 0.0, 1.0);
                    let step_kernel = |step: usize| Transition {
                        scale: (1.0 - betas[step - 1]).sqrt(),
                        var: betas[step - 1],
                    };
                    let left = log_prior
                        + (1..=steps)
                            .map(|step| {
                                log_p(step) - step_kernel(step).log_density(x[step], x[step - 1])
                            })
                            .sum::<f64>();
                    let posterior = |step: usize| {
                        let q = Posterior::between(level(&table, step - 1), level(&table, step))
                            .expect("a table's SNR falls");
                        Posterior { var: if beta { betas[step - 1] } else { q.var }, ..q }
                    };
                    let transitions = (2..=steps).map(|step| {
                        let log_q = if forward {
                            step_kernel(step).log_density(x[step], x[step - 1])
                        } else {
                            posterior(step).log_density(x[step - 1], x[step], x[0])
                        };
                        log_p(step) - log_q
                    });
                    let last = level(&table, if first { 1 } else { steps });
                    let log_last = Transition::between(Level::CLEAN, last)
                        .expect("to a noisy level")
                        .log_density(x[if first { 1 } else { steps }], x[0]);
                    let right = log_prior - log_last
                        + transitions.sum::<f64>()
                        + log_p(1) * if early { 2.0 } else { 1.0 };
                    let size: f64 = x.iter().map(|x| x * x).sum::<f64>() / 0.01;
                    t.compare(right, left, 64.0 * EPS * (10.0 + size));
                },
            );
            p.property(
                Printed,
                "On average: the library's three parts against the dense Gaussians of both processes",
                64,
                "rounding",
                |t| {
                    let chain = Chain::random(t);
                    let bound = chain.bound();
                    let parts: f64 =
                        [Part::Reconstruction, Part::Prior, Part::Transition].iter().map(|part| bound.part(*part)).sum();
                    let q = chain.forward();
                    let want = q.kl(&chain.model()).expect("one dimension") + q.marginal(&[0]).expect("x_0").entropy();
                    t.compare(parts + if first { 1.0 } else { 0.0 }, want, 1e-11);
                },
            );
        },
    },
    Claim {
        id: "recap/first-term-squared-loss",
        slide: "Training",
        statement: "For unit variance the first term, E[log p_theta(x0|x_1)], equals -1/2 E||x0 - mu_theta(x_1)||^2.",
        reading: "The scan shows -E 1/2 ||X_0 - mu_{theta,1}(X_1)||^2 on the right and no further term. The slide is about what is \
        trained, and two slides later the deck ignores the variance terms in so many words.",
        assumes: "p_theta(x0|x_1) = N(x0; mu_theta(x_1), I) in d dimensions.",
        printed: "",
        formula: r"\mathbb{E} \log p_\theta(x_0 | x_1) = -\frac{1}{2}\, \mathbb{E}\|x_0 - \mu_\theta(x_1)\|^2 - \frac{d}{2} \ln 2\pi",
        finding: "It holds if terms that no training changes are left out: between any two models the differences are equal, so \
        that the squared loss has the same gradient and the same minimiser. As a value it lacks the constant -(d/2) ln(2 pi): a \
        likelihood computed without it is too high by 0.919 nats for each dimension.",
        mutants: &[
            "constant left out",
            "constant once for all dimensions",
            "half forgotten",
            "constant with the wrong sign",
        ],
        check: |p| {
            let (none, once) =
                (p.mutant("constant left out"), p.mutant("constant once for all dimensions"));
            let (half, sign) =
                (p.mutant("half forgotten"), p.mutant("constant with the wrong sign"));
            let zero = ndarray::Array2::zeros((1, 1));
            p.number(
                WithoutCondition,
                "The value in one dimension where the error is 0, against the log density",
                0.0,
                -gaussian_nats(zero.view(), zero.view(), 1.0).expect("one shape")[0],
                1e-12,
                "rounding",
            );
            p.property(
                WithoutCondition,
                "-1/2 of the squared error against the log density",
                32,
                "rounding",
                |t| {
                    let (x0, mean) = (t.normal_rows(1, 3), t.normal_rows(1, 3));
                    let square: f64 = (&x0 - &mean).mapv(|e| e * e).sum();
                    t.compare(
                        -0.5 * square,
                        -gaussian_nats(x0.view(), mean.view(), 1.0).expect("one shape")[0],
                        1e-12,
                    );
                },
            );
            p.property(
                WithCondition,
                "With the constant, against the dense Gaussian and the library's reconstruction term",
                128,
                "rounding",
                |t| {
                    let d = t.int(1, 8);
                    let (x0, mean) = (t.normal_rows(1, d), t.normal_rows(1, d));
                    let square: f64 = (&x0 - &mean).mapv(|e| e * e).sum();
                    let constant = if none {
                        0.0
                    } else if once {
                        0.5
                    } else {
                        0.5 * d as f64
                    } * TAU.ln()
                        * if sign { -1.0 } else { 1.0 };
                    let got = -square * if half { 1.0 } else { 0.5 } - constant;
                    let point = |row: &ndarray::Array2<f64>| DVector::from_iterator(d, row.iter().copied());
                    let dense = Normal::new(point(&mean), Covariance::Full(DMatrix::identity(d, d))).expect("a Gaussian");
                    t.compare(got, dense.log_density(&point(&x0)).expect("a density"), 16.0 * EPS * (1.0 + d as f64 + square));
                    t.compare(
                        got,
                        -gaussian_nats(x0.view(), mean.view(), 1.0).expect("one shape")[0],
                        16.0 * EPS * (1.0 + d as f64 + square),
                    );
                },
            );
            p.property(
                WithCondition,
                "Difference between two models, where the constant cancels",
                64,
                "rounding",
                |t| {
                    let (x0, a, b) =
                        (t.normal_rows(1, 3), t.normal_rows(1, 3), t.normal_rows(1, 3));
                    let nats = |mean: &ndarray::Array2<f64>| {
                        gaussian_nats(x0.view(), mean.view(), 1.0).expect("one shape")[0]
                    };
                    let square = |mean: &ndarray::Array2<f64>| (&x0 - mean).mapv(|e| e * e).sum();
                    let size = square(&a) + square(&b);
                    t.compare(
                        if half { 1.0 } else { 0.5 } * (square(&a) - square(&b)),
                        nats(&a) - nats(&b),
                        32.0 * EPS * (4.0 + size),
                    );
                },
            );
        },
    },
    Claim {
        id: "recap/prior-term-constant",
        slide: "Training",
        statement: "The second term, the divergence of q(x_T|x0) from p(x_T), has no learnable parameter.",
        reading: "",
        assumes: "The schedule and the prior are fixed, as on the slides; a learned schedule would enter it.",
        printed: "",
        formula: r"\operatorname{KL}\left(\mathcal{N}(\sqrt{\bar\alpha_T}\, x_0, (1 - \bar\alpha_T) I) \,\|\, \mathcal{N}(0,
        I)\right)",
        finding: "It holds: whatever the model's means and variances, the prior term of the bound is the same number, which the \
        schedule and the data alone decide.",
        mutants: &[
            "marginal q(x_T) for q(x_T|x0)",
            "model's last mean in place of the prior's",
            "variance of the prior fitted",
        ],
        check: |p| {
            let (marginal, mean) = (
                p.mutant("marginal q(x_T) for q(x_T|x0)"),
                p.mutant("model's last mean in place of the prior's"),
            );
            let fitted = p.mutant("variance of the prior fitted");
            let rule = NormalRule::new(4).expect("4 nodes");
            p.property(
                Printed,
                "Prior term under two models with other means and variances",
                96,
                "the same number",
                |t| {
                    let chain = Chain::exact(t);
                    let term = |gains: Vec<f64>, vars: Vec<f64>| {
                        let reverse = Reverse {
                            var: ReverseVar::Given(vars[1..].to_vec()),
                            reconstruction: Reconstruction::Gaussian(vars[0]),
                            // A prior of its own for each model, of the variance of its last
                            // kernel, would be a parameter.
                            prior_var: if fitted { vars[vars.len() - 1] } else { 1.0 },
                        };
                        let data = GaussianData { variances: &[chain.lambda], mean_square: 0.0 };
                        let error = |at: &tweedie::diffusion::PathPoint, l: f64| {
                            linear_error(
                                l,
                                gains[at.t.expect("a step") as usize - 1],
                                (at.alpha, at.sigma),
                            )
                        };
                        let bound = gaussian_bound(&chain.points(), data, error, &reverse)
                            .expect("a valid chain");
                        bound.part(Part::Prior)
                            + if mean { 0.5 * gains[gains.len() - 1].powi(2) } else { 0.0 }
                    };
                    let scaled = |values: &[f64]| {
                        values.iter().map(|v| v * t.uniform(0.5, 1.5)).collect::<Vec<_>>()
                    };
                    let first = term(scaled(&chain.gains), scaled(&chain.vars));
                    t.compare(first, term(scaled(&chain.gains), scaled(&chain.vars)), 0.0);
                },
            );
            p.property(
                Printed,
                "Prior term against the divergence, averaged over x0",
                96,
                "4 nodes are exact for the square; rounding",
                |t| {
                    let chain = Chain::random(t);
                    let last = chain.points()[chain.steps() - 1];
                    let (scale, var) = (last.alpha, last.sigma * last.sigma);
                    let got = if marginal {
                        kl_normal(0.0, scale * scale * chain.lambda + var, 0.0, 1.0)
                    } else {
                        chain.bound().part(Part::Prior)
                    };
                    let unit =
                        Normal::new(dvector![0.0], Covariance::Isotropic(1.0)).expect("a variance");
                    let want = rule.expectation(0.0, chain.lambda, |x0| {
                        let end = Normal::new(dvector![scale * x0], Covariance::Isotropic(var))
                            .expect("a variance");
                        end.kl(&unit).expect("one dimension")
                    });
                    t.compare(got, want, 64.0 * EPS * (1.0 + want));
                },
            );
        },
    },
];
