//! The bound: its terms, their closed forms, and the weights that the simple loss drops.

use super::chain::Chain;
use super::level;
use crate::Claim;
use crate::Role::{Corrected, Printed, WithCondition, WithoutCondition};
use nalgebra::{DMatrix, DVector};
use tweedie::diffusion::elbo::{Part, prior, vlb_weight};
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::weighting::{Weighting, vlb_discrete};
use tweedie::math::gaussian::{Covariance, Normal, kl_normal, kl_normal_var, log_density_normal};
use tweedie::math::quadrature::NormalRule;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "sjtu/elbo-decomposition",
        slide: "Diffusion as a Hierarchical VAE",
        statement: "log p_theta(x0) is at least E_q[log p_theta(x0|x_1)] minus the sum over t = 2..T of the KL of \
        q(x_{t-1}|x_t,x0) to p_theta(x_{t-1}|x_t), minus the KL of q(x_T|x0) to p(x_T).",
        reading: "The bracket that opens after E_q closes at the end of the formula: the KL terms are averaged over q as well.",
        assumes: "Checked exactly, averaged over the data, for Gaussian data and reverse models that are linear and Gaussian with \
        any gains and variances.",
        printed: "",
        formula: r"\log p_\theta(x_0) \ge \mathbb{E}_q \log p_\theta(x_0|x_1) - \sum_{t=2}^T \mathbb{E}_q
        \operatorname{KL}\left(q(x_{t-1}|x_t,x_0) \,\|\, p_\theta(x_{t-1}|x_t)\right) - \operatorname{KL}\left(q(x_T|x_0) \,\|\,
        p(x_T)\right)",
        finding: "It holds. The terms add up to the divergence of the two processes as laws of (x_0, ..., x_T), which is never \
        less than that of their marginals at x_0, and equal to it for the exact reversal.",
        mutants: &[
            "prior term dropped",
            "sum starts at t = 3",
            "reconstruction with the wrong sign",
            "KL counted as a gain",
        ],
        check: |p| {
            let (no_prior, short) =
                (p.mutant("prior term dropped"), p.mutant("sum starts at t = 3"));
            let (sign, gain) =
                (p.mutant("reconstruction with the wrong sign"), p.mutant("KL counted as a gain"));
            let nelbo = move |chain: &Chain| {
                let bound = chain.bound();
                let second = bound
                    .terms()
                    .iter()
                    .find(|term| term.part == Part::Transition)
                    .map_or(0.0, |term| term.nats);
                let transitions = bound.part(Part::Transition) - if short { second } else { 0.0 };
                let reconstruction = bound.part(Part::Reconstruction);
                let prior = if no_prior { 0.0 } else { bound.part(Part::Prior) };
                prior
                    + if gain { -transitions } else { transitions }
                    + if sign { -reconstruction } else { reconstruction }
            };
            p.property(
                Printed,
                "Sum of the terms against the divergence of the joint laws plus the entropy of the data",
                128,
                "rounding of dense (T+1)-dimensional Gaussians",
                |t| {
                    let chain = Chain::random(t);
                    let (q, model) = (chain.forward(), chain.model());
                    let data = q.marginal(&[0]).expect("x_0");
                    t.compare(nelbo(&chain), q.kl(&model).expect("one dimension") + data.entropy(), 1e-11);
                },
            );
            p.property(
                Printed,
                "By how much the bound exceeds the exact mean of log p_theta(x0), at most 0",
                128,
                "rounding",
                |t| {
                    let chain = Chain::random(t);
                    let (data, model) = (
                        chain.forward().marginal(&[0]).expect("x_0"),
                        chain.model().marginal(&[0]).expect("x_0"),
                    );
                    let excess = data.cross_entropy(&model).expect("one dimension") - nelbo(&chain);
                    t.compare(excess.max(0.0), 0.0, 1e-11);
                },
            );
            p.property(
                Printed,
                "Gap of the bound when the model is the exact reversal but for its prior",
                64,
                "rounding; the gap is that of the last marginal",
                |t| {
                    let chain = Chain::exact(t);
                    let q = chain.forward();
                    let end = q.marginal(&[chain.steps()]).expect("x_T");
                    let unit = Normal::new(DVector::zeros(1), Covariance::Isotropic(1.0))
                        .expect("a variance");
                    let data = q.marginal(&[0]).expect("x_0");
                    t.compare(
                        nelbo(&chain) - data.entropy(),
                        end.kl(&unit).expect("one dimension"),
                        1e-11,
                    );
                },
            );
        },
    },
    Claim {
        id: "sjtu/kl-closed-form",
        slide: "Diffusion as a Hierarchical VAE",
        statement: "Each KL term of the bound is between two Gaussians and has a closed form.",
        reading: "",
        assumes: "The model's reverse kernels are Gaussian and t >= 2: at t = 1 the posterior is a point, which is why that term \
        is a likelihood and not a divergence.",
        printed: "",
        formula: r"\operatorname{KL} = \frac{d}{2}\left(\frac{\tilde\beta_t}{\sigma_t^2} - 1 -
        \ln\frac{\tilde\beta_t}{\sigma_t^2}\right) + \frac{\|\tilde\mu_t - \mu_\theta\|^2}{2 \sigma_t^2}",
        finding: "It holds: the closed form equals the integral of q ln(q/p), and in d dimensions the divergence of the dense \
        Gaussians.",
        mutants: &[
            "variance ratio upside down",
            "mean gap not squared",
            "log of deviations",
            "divided by the posterior's variance",
        ],
        check: |p| {
            let (upside, gap) =
                (p.mutant("variance ratio upside down"), p.mutant("mean gap not squared"));
            let (deviations, own) =
                (p.mutant("log of deviations"), p.mutant("divided by the posterior's variance"));
            let kl = move |m1: f64, v1: f64, m2: f64, v2: f64| {
                let right = if upside {
                    kl_normal_var(v2, v1) + kl_normal(m1, v2, m2, v2)
                } else {
                    kl_normal(m1, v1, m2, v2)
                };
                let mean = (m1 - m2).powi(2) / (2.0 * v2);
                if gap {
                    right - mean + (m1 - m2).abs() / (2.0 * v2)
                } else if deviations {
                    right + 0.25 * (v1 / v2).ln()
                } else if own {
                    right - mean + (m1 - m2).powi(2) / (2.0 * v1)
                } else {
                    right
                }
            };
            let rule = NormalRule::new(8).expect("8 nodes");
            p.property(
                Printed,
                "A transition's KL against the integral of q ln(q/p)",
                128,
                "8 nodes are exact for the quadratic; rounding of the logarithms",
                |t| {
                    let table = t.table(t.int(3, 60));
                    let row = &table.rows()[t.int(2, table.steps()) - 1];
                    let (m1, v1) = (t.normal(), row.posterior_var);
                    let v2 = row.beta * t.uniform(0.3, 1.5);
                    let m2 = m1 + v2.sqrt() * t.uniform(0.3, 2.0);
                    let want = rule.expectation(m1, v1, |x| {
                        log_density_normal(x, m1, v1) - log_density_normal(x, m2, v2)
                    });
                    // x itself is rounded to eps, in units of the narrower deviation.
                    t.compare(
                        kl(m1, v1, m2, v2),
                        want,
                        64.0 * EPS * (1.0 + (1.0 + m1.abs()) * (1.0 + v1 / v2) / v2.min(v1).sqrt())
                            + 1e-13 * want,
                    );
                },
            );
            p.property(
                Printed,
                "In d dimensions: the sum over coordinates against two dense Gaussians",
                64,
                "rounding, over the ratio of the variances",
                |t| {
                    let table = t.table(t.int(3, 60));
                    let row = &table.rows()[t.int(2, table.steps()) - 1];
                    let (d, v1) = (t.int(1, 4), row.posterior_var);
                    let v2 = row.beta * t.uniform(0.3, 1.5);
                    let shift: Vec<f64> = (0..d).map(|_| v2.sqrt() * t.uniform(0.3, 2.0)).collect();
                    let dense = |m: &[f64], v: f64| {
                        Normal::new(
                            DVector::from_column_slice(m),
                            Covariance::Full(DMatrix::identity(d, d) * v),
                        )
                        .expect("a Gaussian")
                    };
                    let want =
                        dense(&shift, v1).kl(&dense(&vec![0.0; d], v2)).expect("one dimension");
                    t.compare(
                        shift.iter().map(|m| kl(*m, v1, 0.0, v2)).sum(),
                        want,
                        64.0 * EPS * d as f64 * (1.0 + want + v1 / v2 + v2 / v1),
                    );
                },
            );
            p.property(
                Printed,
                "The prior term, averaged over x0, against the same integral",
                64,
                "rounding",
                |t| {
                    let last = level(&t.table(t.int(1, 60)), 1);
                    let (mean, var) = (t.normal(), t.log_uniform(0.1, 3.0));
                    let want = rule.expectation(mean, var, |x0| {
                        kl(last.alpha * x0, last.sigma.powi(2), 0.0, 1.0)
                    });
                    t.compare(
                        prior((last.alpha, last.sigma), mean * mean + var, 1.0),
                        want,
                        64.0 * EPS * (1.0 + want),
                    );
                },
            );
        },
    },
    Claim {
        id: "sjtu/kl-is-weighted-eps-error",
        slide: "From ELBO to L_simple",
        statement: "Each KL term equals E[w_t ||eps - eps_theta(x_t, t)||^2].",
        reading: "The expectation over x0 and eps stands on the right side only; it is read on both.",
        assumes: "The model's mean is written with eps_theta, its variance is isotropic.",
        printed: "",
        formula: r"\operatorname{KL}_t = w_t \|\varepsilon - \varepsilon_\theta\|^2, \quad w_t = \frac{\beta_t^2}{2 \sigma_t^2
        \alpha_t (1 - \bar\alpha_t)} = \frac{\beta_t}{2 \alpha_t (1 - \bar\alpha_{t-1})} \quad \text{if} \quad \sigma_t^2 =
        \tilde\beta_t",
        finding: "It holds if the model's variance is the posterior's, beta~_t. With any other variance a constant is added that \
        no training changes; for sigma_t^2 = beta_t it is (r - 1 - ln r)/2 a dimension with r = beta~_t/beta_t: 0.121 nats at t = \
        2 of DDPM's schedule, and less at every later step.",
        mutants: &[
            "alpha_bar_t for alpha_bar_{t-1}",
            "alpha_t forgotten",
            "half forgotten",
            "weight of the x0 error",
        ],
        check: |p| {
            let (late, alpha) =
                (p.mutant("alpha_bar_t for alpha_bar_{t-1}"), p.mutant("alpha_t forgotten"));
            let (half, clean) = (p.mutant("half forgotten"), p.mutant("weight of the x0 error"));
            p.property(
                WithCondition,
                "KL with the posterior's variance against w_t times the squared error",
                256,
                "rounding of the two means, over the step's deviation",
                |t| {
                    let table = t.table(t.int(2, 60));
                    let step = t.int(2, table.steps());
                    let row = &table.rows()[step - 1];
                    let (x0, eps, eps_hat) = (t.normal(), t.normal(), t.normal());
                    let xt = row.alpha * x0 + row.sigma * eps;
                    let mean = |eps: f64| (xt - row.beta / row.sigma * eps) / row.alpha_step.sqrt();
                    let target = row.posterior_coef_x0 * x0 + row.posterior_coef_xt * xt;
                    let want =
                        kl_normal(target, row.posterior_var, mean(eps_hat), row.posterior_var);
                    let mut w = if late { row.vlb_weight_beta } else { row.vlb_weight_posterior };
                    w *= if alpha { row.alpha_step } else { 1.0 }
                        * if half { 2.0 } else { 1.0 }
                        * if clean { row.snr } else { 1.0 };
                    // The means agree to eps of their size; what that is worth in the square over
                    // the variance.
                    let slack = 32.0 * EPS * (xt.abs() + eps_hat.abs() + x0.abs())
                        / row.alpha_step.sqrt()
                        / row.posterior_var.sqrt();
                    t.compare(
                        w * (eps - eps_hat).powi(2),
                        want,
                        slack * (want.sqrt() + slack) + 64.0 * EPS * want,
                    );
                },
            );
            p.property(
                WithCondition,
                "Three forms of w_t: the table's, the bound's, the general weighting's",
                128,
                "rounding of two levels, over the SNR lost between them",
                |t| {
                    let table = t.table(t.int(2, 60));
                    let step = t.int(2, table.steps());
                    let (row, s, u) =
                        (&table.rows()[step - 1], level(&table, step - 1), level(&table, step));
                    let general = vlb_discrete(s, u, row.posterior_var).expect("a variance").eps;
                    let want = if late { row.vlb_weight_beta } else { row.vlb_weight_posterior };
                    let tol = 64.0 * EPS * want * (1.0 + 1.0 / row.beta * row.sigma.powi(2));
                    t.compare(vlb_weight((s.alpha, s.sigma), (u.alpha, u.sigma), 0.0), want, tol);
                    t.compare(general, want, 2.0 * tol);
                },
            );
            let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            let row = &table.rows()[1];
            let constant = kl_normal_var(row.posterior_var, row.beta);
            p.number(
                WithoutCondition,
                "KL at t = 2 of DDPM's schedule with variance beta_t, one dimension, when eps_theta = eps",
                constant,
                0.0,
                1e-12,
                "w_t times no error",
            );
            let later: Vec<f64> = table.rows()[1..]
                .iter()
                .map(|row| kl_normal_var(row.posterior_var, row.beta))
                .collect();
            p.number(
                WithCondition,
                "Steps of DDPM's schedule from t = 3 on at which this constant is not below that of t = 2",
                later[1..].iter().filter(|c| !(**c < later[0])).count() as f64,
                0.0,
                0.0,
                "a count",
            );
        },
    },
    Claim {
        id: "sjtu/weight-proportional-inverse-snr",
        slide: "From ELBO to L_simple",
        statement: "The weight w_t of the eps-error is proportional to 1/SNR(t) and weights small-noise steps down; setting w_t = \
        1 moves training toward the noisier steps.",
        reading: "",
        assumes: "w_t is the weight of ||eps - eps_theta||^2 in the bound with the posterior's variance; with variance beta_t it \
        is that times beta~_t/beta_t.",
        printed: r"w_t \propto \frac{1}{\operatorname{SNR}(t)}",
        formula: r"w_t = \frac{1}{2}\left(\frac{\operatorname{SNR}(t-1)}{\operatorname{SNR}(t)} - 1\right)",
        finding: "The bound's weight is half of the relative drop of the SNR in the step, and it is largest where the noise is \
        small: with DDPM's schedule 0.60 at t = 2 and 0.010 at t = 1000, where 1/SNR would rise by a factor of 1e8. The conclusion \
        on the slide is right, for the opposite reason: the bound weights small-noise steps up, so w_t = 1 moves training toward \
        the noisier ones. A weight 1/SNR on the eps-error is what a plain x0-loss amounts to.",
        mutants: &[
            "proportional to 1/SNR",
            "difference of the SNRs for their ratio",
            "ratio upside down",
            "half forgotten",
        ],
        check: |p| {
            let (printed, difference) = (
                p.mutant("proportional to 1/SNR"),
                p.mutant("difference of the SNRs for their ratio"),
            );
            let (upside, half) = (p.mutant("ratio upside down"), p.mutant("half forgotten"));
            let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            let (first, last) = (&table.rows()[1], &table.rows()[999]);
            let ratio = last.vlb_weight_posterior / first.vlb_weight_posterior;
            p.number(
                Printed,
                "w_1000/w_2 with DDPM's schedule against SNR(2)/SNR(1000)",
                ratio,
                first.snr / last.snr,
                1e-9 * first.snr / last.snr,
                "proportional numbers",
            );
            p.property(
                Printed,
                "w_t SNR(t) at two random steps, as a ratio",
                32,
                "rounding",
                |t| {
                    let table = t.table(t.int(20, 100));
                    let (a, b) = (&table.rows()[t.int(1, 9)], &table.rows()[t.int(10, 19)]);
                    t.compare(
                        a.vlb_weight_posterior * a.snr / (b.vlb_weight_posterior * b.snr),
                        1.0,
                        1e-9,
                    );
                },
            );
            p.property(
                Corrected,
                "w_t against half of the relative drop of the SNR",
                256,
                "rounding of the SNRs, over their difference",
                |t| {
                    let table = t.table(t.int(2, 100));
                    let step = t.int(2, table.steps());
                    let (before, row) = (&table.rows()[step - 2], &table.rows()[step - 1]);
                    let mut w = 0.5 * (before.snr / row.snr - 1.0);
                    if printed {
                        w = 1.0 / row.snr;
                    } else if difference {
                        w = 0.5 * (before.snr - row.snr);
                    } else if upside {
                        w = 0.5 * (row.snr / before.snr - 1.0).abs();
                    }
                    w *= if half { 2.0 } else { 1.0 };
                    t.compare(w, row.vlb_weight_posterior, 16.0 * EPS * before.snr / row.snr);
                },
            );
            for step in [2, 1000] {
                let (before, row) = (&table.rows()[step - 2], &table.rows()[step - 1]);
                let want = 0.5 * (before.snr / row.snr - 1.0);
                p.number(
                    Corrected,
                    format!(
                        "w_{step} with DDPM's schedule against half of the relative drop of the SNR"
                    ),
                    row.vlb_weight_posterior,
                    want,
                    16.0 * EPS * before.snr / row.snr,
                    "rounding of the SNRs, over their difference",
                );
            }
            p.property(
                Corrected,
                "Weight 1/SNR on eps against a plain x0-loss",
                64,
                "rounding of an exponential",
                |t| {
                    let log_snr = t.uniform(-10.0, 10.0);
                    t.compare_rel(Weighting::X0.weights(log_snr).eps, (-log_snr).exp(), 8.0);
                },
            );
            let share = |weight: &dyn Fn(usize) -> f64| {
                (2..=100).map(weight).sum::<f64>() / (2..=1000).map(weight).sum::<f64>()
            };
            let vlb = share(&|step| table.rows()[step - 1].vlb_weight_posterior);
            p.fact(
                Corrected,
                "The 99 cleanest steps of DDPM's schedule have a larger share of the bound's weights than of w_t = 1",
                vlb > 2.0 * share(&|_| 1.0),
            );
        },
    },
];
