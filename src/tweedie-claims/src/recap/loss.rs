//! From divergences to squared errors: of means, and of noise; and the sampler that uses the
//! result.

use crate::Role::{Printed, WithCondition, WithoutCondition};
use crate::sjtu::{level, still};
use crate::{Claim, Trial};
use nalgebra::{DMatrix, DVector};
use ndarray::{Array2, array};
use tweedie::diffusion::Denoiser;
use tweedie::diffusion::kernel::Transition;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::weighting::vlb_discrete;
use tweedie::law::Gaussian;
use tweedie::math::gaussian::{Covariance, Normal, kl_normal};
use tweedie::math::quadrature::IntervalRule;
use tweedie::sample::ancestral::{Ddpm, Variance};
use tweedie::sample::noise_source::{Recorded, Silence};
use tweedie::sample::sample;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "recap/kl-gaussians",
        slide: "Training",
        statement: "KL(N(mu1, s1^2 I) || N(mu2, s2^2 I)) = log(s2/s1) + (s1^2 + ||mu1 - mu2||^2)/(2 s2^2) - 1/2.",
        reading: "The scan keeps of the right side the fraction (sigma_1^2 + ||mu_1 - mu_2||^2)/(2 sigma_2^2) and loses what stands \
        beside it. The logarithm and the -1/2 are supplied from the formula in one dimension, for which alone that fraction, with \
        its sigma_1^2 once, is right.",
        assumes: "s1, s2 > 0.",
        printed: "",
        formula: r"\operatorname{KL} = d \ln\frac{\sigma_2}{\sigma_1} + \frac{d\, \sigma_1^2 + \|\mu_1 - \mu_2\|^2}{2 \sigma_2^2}
        - \frac{d}{2}",
        finding: "It holds if d = 1. In d dimensions the logarithm, sigma_1^2 and 1/2 each come d times, only the distance of the \
        means does not: with sigma_1 = 1 and sigma_2 = 2 the form for one dimension gives 0.318 nats, and 3 dimensions have 0.954. The part \
        with the means, which training sees, is right in every dimension.",
        mutants: &[
            "arguments exchanged",
            "log of the variances",
            "distance not squared",
            "divided by s1^2",
        ],
        check: |p| {
            let (exchanged, log) =
                (p.mutant("arguments exchanged"), p.mutant("log of the variances"));
            let (linear, own) = (p.mutant("distance not squared"), p.mutant("divided by s1^2"));
            let printed = move |m1: &DVector<f64>, s1: f64, m2: &DVector<f64>, s2: f64| {
                let (s1, s2) = if exchanged { (s2, s1) } else { (s1, s2) };
                let gap = (m1 - m2).norm();
                let square = if linear { gap } else { gap * gap };
                (s2 / s1).ln() * if log { 2.0 } else { 1.0 }
                    + (s1 * s1 + square) / (2.0 * if own { s1 * s1 } else { s2 * s2 })
                    - 0.5
            };
            let dense = |m: &DVector<f64>, s: f64| {
                let d = m.len();
                Normal::new(m.clone(), Covariance::Full(DMatrix::identity(d, d) * (s * s)))
                    .expect("a Gaussian")
            };
            let random = |t: &Trial, d: usize| {
                (DVector::from_fn(d, |_, _| t.normal()), t.log_uniform(0.2, 5.0))
            };
            p.property(
                WithCondition,
                "The printed form in one dimension, against dense linear algebra and the library's",
                128,
                "rounding, over the ratio of the variances",
                |t| {
                    let ((m1, s1), (m2, s2)) = (random(t, 1), random(t, 1));
                    let want = dense(&m1, s1).kl(&dense(&m2, s2)).expect("one dimension");
                    let tol = 64.0 * EPS * (1.0 + want + (s1 / s2).powi(2) + (s2 / s1).powi(2));
                    t.compare(printed(&m1, s1, &m2, s2), want, tol);
                    t.compare(
                        printed(&m1, s1, &m2, s2),
                        kl_normal(m1[0], s1 * s1, m2[0], s2 * s2),
                        tol,
                    );
                },
            );
            p.property(
                WithCondition,
                "What the means add, in any dimension",
                64,
                "rounding",
                |t| {
                    let d = t.int(1, 6);
                    let ((m1, s1), (m2, s2)) = (random(t, d), random(t, d));
                    let added = dense(&m1, s1).kl(&dense(&m2, s2)).expect("one dimension")
                        - dense(&m2, s1).kl(&dense(&m2, s2)).expect("one dimension");
                    let tol = 64.0
                        * EPS
                        * d as f64
                        * (1.0 + added + (s1 / s2).powi(2) + (s2 / s1).powi(2));
                    t.compare(printed(&m1, s1, &m2, s2) - printed(&m2, s1, &m2, s2), added, tol);
                },
            );
            let zero = DVector::zeros(3);
            let got = printed(&zero, 1.0, &zero, 2.0);
            p.number(
                WithoutCondition,
                "In 3 dimensions, equal means, s1 = 1 and s2 = 2",
                got,
                dense(&zero, 1.0).kl(&dense(&zero, 2.0)).expect("one dimension"),
                1e-12,
                "rounding",
            );
        },
    },
    Claim {
        id: "recap/loss-is-mean-matching",
        slide: "Training",
        statement: "Ignoring the variance terms, the loss is the sum over t of ||mu_theta(x_t) - mu_t(x_t, x0)||^2.",
        reading: "The sum of the last line starts at t = 1, where mu_1(x_1, x0) = x0 takes up the first term; the common factor \
        1/2 is dropped there.",
        assumes: "The model's variances are fixed, not learned.",
        printed: "",
        formula: r"\sum_t \operatorname{KL}_t = \sum_t \frac{1}{2 \sigma_t^2} \|\mu_\theta(x_t) - \tilde\mu_t(x_t, x_0)\|^2 +
        \text{const}",
        finding: "It holds, up to a factor and a constant, if all steps have one and the same model variance (the slides take \
        Sigma = I). With sigma_t^2 = beta_t the terms have the weights 1/(2 beta_t), which over DDPM's schedule differ by a factor \
        of 200: dropping them changes what a network of limited capacity learns, though not the best mean at any one step.",
        mutants: &[
            "mean of the forward kernel",
            "error not squared",
            "x0 coefficient without the bar",
            "one variance a step",
        ],
        check: |p| {
            let (forward, linear) =
                (p.mutant("mean of the forward kernel"), p.mutant("error not squared"));
            let (bar, own) =
                (p.mutant("x0 coefficient without the bar"), p.mutant("one variance a step"));
            p.property(
                WithCondition,
                "Difference of the summed losses of two models, against half of that of the squared errors",
                128,
                "rounding of the sums; the constants cancel",
                |t| {
                    let table = t.table(t.int(2, 20));
                    let (x0, shared) = (t.normal(), t.uniform(0.5, 2.0));
                    let (mut losses, mut squares, mut size) = (0.0, 0.0, 0.0);
                    for row in table.rows() {
                        let xt = row.alpha * x0 + row.sigma * t.normal();
                        let target = row.posterior_coef_x0 * x0 + row.posterior_coef_xt * xt;
                        let matched = if forward {
                            row.alpha_step.sqrt() * xt
                        } else if bar {
                            row.alpha_step.sqrt() * row.beta / (1.0 - row.alpha_bar) * x0 + row.posterior_coef_xt * xt
                        } else {
                            target
                        };
                        let var = if own { row.beta } else { shared };
                        for (mean, sign) in [(t.normal(), 1.0), (t.normal(), -1.0)] {
                            // At t = 1 the posterior is the point x0: its term is -ln N(x0; mean,
                            // var) but for a constant.
                            let kl = if row.t == 1 {
                                0.5 * (target - mean).powi(2) / var
                            } else {
                                kl_normal(target, row.posterior_var, mean, var)
                            };
                            losses += sign * kl;
                            squares += sign * if linear { (matched - mean).abs() } else { (matched - mean).powi(2) };
                            size += kl;
                        }
                    }
                    t.compare(squares / (2.0 * shared), losses, 256.0 * EPS * (1.0 + size));
                },
            );
            p.property(WithCondition, "Target mean at t = 1 against x0", 64, "rounding", |t| {
                let row = t.table(t.int(1, 50)).rows()[0];
                let (x0, xt) = (t.normal(), t.normal());
                t.compare(
                    row.posterior_coef_x0 * x0 + row.posterior_coef_xt * xt,
                    x0,
                    4.0 * EPS * x0.abs(),
                );
            });
            let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            let weight = |step: usize| 0.5 / table.rows()[step - 1].beta;
            p.number(
                WithoutCondition,
                "Weight of the squared error at t = 1 over that at t = 1000, variances beta_t of DDPM's schedule",
                weight(1) / weight(1000),
                1.0,
                1e-9,
                "equal weights",
            );
        },
    },
    Claim {
        id: "recap/noise-reparameterization",
        slide: "In a nutshell",
        statement: "Mean matching is, reparametrised, the prediction of noise.",
        reading: "The slide says so in words and shows the unweighted noise loss of Ho et al. 2020, algorithm 1.",
        assumes: "mu_theta is written with eps_theta as in algorithm 2.",
        printed: "",
        formula: r"\|\mu_\theta - \tilde\mu_t\|^2 = \frac{(1 - \alpha_t)^2}{\alpha_t (1 - \bar\alpha_t)} \|\varepsilon -
        \varepsilon_\theta\|^2",
        finding: "It holds up to the weight (1 - alpha_t)^2 / (alpha_t (1 - abar_t)) at each t, and has the same minimiser at each \
        t by itself. The loss of algorithm 1, where that weight is 1, is another loss: over DDPM's schedule the weight rises from \
        1.0e-4 to 4.1e-4, with a dip to 4.0e-5 at t = 27.",
        mutants: &[
            "alpha_t forgotten",
            "bar missing",
            "weight not squared",
            "residual with the wrong sign",
        ],
        check: |p| {
            let (alpha, bar) = (p.mutant("alpha_t forgotten"), p.mutant("bar missing"));
            let (linear, sign) =
                (p.mutant("weight not squared"), p.mutant("residual with the wrong sign"));
            let weight = move |row: &tweedie::diffusion::schedule::Row| {
                let beta = if linear { row.beta } else { row.beta * row.beta };
                beta / (if alpha { 1.0 } else { row.alpha_step }
                    * if bar { row.beta } else { row.sigma.powi(2) })
            };
            p.property(
                WithCondition,
                "Squared error of the mean against the weighted squared error of the noise",
                256,
                "rounding of the two means",
                |t| {
                    let table = t.table(t.int(1, 60));
                    let row = &table.rows()[t.int(1, table.steps()) - 1];
                    let (x0, eps, eps_hat) = (t.normal(), t.normal(), t.normal());
                    let xt = row.alpha * x0 + row.sigma * eps;
                    let residual = row.beta / row.sigma * eps_hat;
                    let mean =
                        (xt + if sign { residual } else { -residual }) / row.alpha_step.sqrt();
                    let target = row.posterior_coef_x0 * x0 + row.posterior_coef_xt * xt;
                    let got = (mean - target).powi(2);
                    let slack =
                        16.0 * EPS * (xt.abs() + x0.abs() + residual.abs()) / row.alpha_step.sqrt();
                    let want = weight(row) * (eps - eps_hat).powi(2);
                    t.compare(got, want, slack * (2.0 * want.sqrt() + slack) + 32.0 * EPS * want);
                },
            );
            p.property(
                WithCondition,
                "The weight over twice the variance against the library's weight of the noise error",
                128,
                "rounding, over the step's beta",
                |t| {
                    let table = t.table(t.int(2, 60));
                    let step = t.int(2, table.steps());
                    let row = &table.rows()[step - 1];
                    let var = t.log_uniform(0.01, 1.0);
                    let want = vlb_discrete(level(&table, step - 1), level(&table, step), var).expect("a variance").eps;
                    t.compare(weight(row) / (2.0 * var), want, 64.0 * EPS * want * (1.0 + row.sigma.powi(2) / row.beta));
                },
            );
            let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            for step in [1, 27, 1000] {
                let row = &table.rows()[step - 1];
                let got = row.beta.powi(2) / (row.alpha_step * row.sigma.powi(2));
                p.number(
                    WithoutCondition,
                    format!("Weight at t = {step} of DDPM's schedule"),
                    got,
                    1.0,
                    1e-9,
                    "the weight of algorithm 1",
                );
            }
        },
    },
    Claim {
        id: "recap/algorithm-2-step",
        slide: "In a nutshell",
        statement: "The sampler's step is x_{t-1} = (x_t - (1 - alpha_t)/sqrt(1 - abar_t) eps_theta(x_t, t))/sqrt(alpha_t) + \
        sigma_t z, for t = T..1, without noise at t = 1.",
        reading: "The scan has \"for t = 1, ..., 1\"; the first 1 is T.",
        assumes: "eps_theta is the best prediction E[eps|x_t].",
        printed: "",
        formula: r"\mathbb{E}[x_{t-1} | x_t] = \frac{1}{\sqrt{\alpha_t}} \left(x_t - \frac{1 - \alpha_t}{\sqrt{1 -
        \bar\alpha_t}}\, \mathbb{E}[\varepsilon | x_t]\right)",
        finding: "It holds: the deterministic part is the exact mean of q(x_{t-1}|x_t) for any data, and the library's ancestral \
        sampler takes the same step. With unit-variance Gaussian data and sigma_t^2 = beta_t every step is exact; the last one, \
        without noise, is short of beta_1 of variance. Which sigma_t is right for other data is another claim.",
        mutants: &[
            "alpha_bar under the outer root",
            "noise added back",
            "root of 1 - abar dropped",
            "variance of z for its deviation",
        ],
        check: |p| {
            let (bar, sign) =
                (p.mutant("alpha_bar under the outer root"), p.mutant("noise added back"));
            let (unrooted, squared) =
                (p.mutant("root of 1 - abar dropped"), p.mutant("variance of z for its deviation"));
            let stepped =
                move |row: &tweedie::diffusion::schedule::Row, xt: f64, eps: f64, z: f64| {
                    let residual = (1.0 - row.alpha_step)
                        / if unrooted { row.sigma.powi(2) } else { row.sigma }
                        * eps;
                    let outer = if bar { row.alpha } else { row.alpha_step.sqrt() };
                    (xt + if sign { residual } else { -residual }) / outer
                        + if squared { row.beta } else { row.beta.sqrt() } * z
                };
            let rule = IntervalRule::new(20).expect("20 nodes");
            p.property(
                Printed,
                "Mean of the step against that of the density q(x_{t-1}|x_t) of a mixture",
                24,
                "20 nodes on 60 panels, 1e-10",
                |t| {
                    let law = t.mixture(1, 2);
                    let betas: Vec<f64> = (0..t.int(2, 6)).map(|_| t.uniform(0.1, 0.4)).collect();
                    let table = Table::from_betas(&betas).expect("betas in range");
                    let step = t.int(2, table.steps());
                    let (row, s, at) =
                        (&table.rows()[step - 1], level(&table, step - 1), still(&table, step));
                    let xt = t.uniform(-2.0, 2.0);
                    let mut x0_hat = array![[0.0]];
                    law.denoise(array![[xt]].view(), &at, x0_hat.view_mut()).expect("an exact law");
                    let eps = Conversion::new(Prediction::X0, Prediction::Eps, Frame::from(&at))
                        .expect("sigma > 0")
                        .apply(x0_hat[[0, 0]], xt);
                    let kernel = Transition { scale: row.alpha_step.sqrt(), var: row.beta };
                    let density = |x: f64| {
                        (law.log_density_of(&[x], s.alpha, s.sigma) + kernel.log_density(xt, x))
                            .exp()
                    };
                    let total = rule.composite(-10.0, 10.0, 60, density);
                    let mean = rule.composite(-10.0, 10.0, 60, |x| x * density(x)) / total;
                    t.compare(stepped(row, xt, eps, 0.0), mean, 1e-10);
                },
            );
            p.property(
                Printed,
                "The step with noise against the library's ancestral sampler",
                96,
                "rounding, magnified by 1/alpha where the signal is small",
                |t| {
                    let table = t.table(t.int(2, 60));
                    let step = t.int(2, table.steps());
                    let row = &table.rows()[step - 1];
                    let (from, to) = (still(&table, step), still(&table, step - 1));
                    let law = Gaussian::isotropic(array![t.normal()], t.log_uniform(0.05, 5.0))
                        .expect("a variance");
                    let (xt, z) = (t.normal() * 1.5, t.normal());
                    let mut x0_hat = array![[0.0]];
                    law.denoise(array![[xt]].view(), &from, x0_hat.view_mut())
                        .expect("an exact law");
                    let eps = (xt - from.alpha * x0_hat[[0, 0]]) / from.sigma;
                    let sampler = Ddpm { variance: Variance::Beta };
                    let end = sample(
                        &sampler,
                        &law,
                        &[from, to],
                        array![[xt]],
                        &mut Recorded(vec![Array2::from_elem((1, 1), z)]),
                    )
                    .expect("a grid");
                    // The variance of the step comes from two rounded levels: eps of sigma^2, over
                    // the root of beta.
                    let slack = 64.0
                        * EPS
                        * (4.0 + xt.abs() + x0_hat[[0, 0]].abs() + z.abs() / row.beta.sqrt());
                    t.compare(
                        stepped(row, xt, eps, z),
                        end.x[[0, 0]],
                        slack / row.alpha_step.sqrt(),
                    );
                },
            );
            p.property(
                Printed,
                "The last step against x0_hat, without noise",
                32,
                "rounding, magnified by 1/alpha",
                |t| {
                    let table = t.table(t.int(1, 60));
                    let row = &table.rows()[0];
                    let law = Gaussian::isotropic(array![t.normal()], t.log_uniform(0.05, 5.0))
                        .expect("a variance");
                    let xt = t.normal();
                    let end = sample(
                        &Ddpm { variance: Variance::Beta },
                        &law,
                        &[still(&table, 1), still(&table, 0)],
                        array![[xt]],
                        &mut Silence,
                    )
                    .expect("a grid");
                    let eps = (xt - row.alpha * end.x[[0, 0]]) / row.sigma;
                    t.compare(
                        stepped(row, xt, eps, 0.0),
                        end.x[[0, 0]],
                        32.0 * EPS * (1.0 + xt.abs() + end.x[[0, 0]].abs()) / row.alpha,
                    );
                },
            );
            p.property(
                Printed,
                "Variance after each step from x_T down, unit-variance data, against 1",
                32,
                "rounding of each step",
                |t| {
                    let table = t.table(t.int(3, 40));
                    let mut var = 1.0;
                    for row in table.rows().iter().rev() {
                        // E[eps|x_t] = sigma x_t for such data, so that the step is linear in (x_t,
                        // z).
                        let (on_x, on_z) =
                            (stepped(row, 1.0, row.sigma, 0.0), stepped(row, 0.0, 0.0, 1.0));
                        let last = row.t == 1;
                        var = on_x * on_x * var + if last { 0.0 } else { on_z * on_z };
                        t.compare(
                            var,
                            if last { 1.0 - row.beta } else { 1.0 },
                            64.0 * EPS * table.steps() as f64,
                        );
                    }
                },
            );
        },
    },
];
