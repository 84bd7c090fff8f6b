//! The score, Tweedie's formula, Langevin dynamics and the continuous limit.

use super::forward::level;
use crate::chain::{Step, joint};
use crate::{Claim, Probe, Role};
use nalgebra::SVector;
use ndarray::{Array2, array};
use num_dual::{Dual2_64, DualSVec64, gradient, second_derivative};
use tweedie::diffusion::kernel::{Posterior, Transition};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::sde::{Sde, tweedie_var, tweedie_x0_hat};
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::exact::langevin::{stationary_law, stationary_var, var_after};
use tweedie::exact::reverse_sde::{self, Churn};
use tweedie::exact::student::ddim_gain;
use tweedie::law::gaussian::wiener_gain;
use tweedie::law::{Gaussian, Law};
use tweedie::math::gaussian::log_density_normal;
use tweedie::math::quadrature::IntervalRule;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/eps-score",
        slide: "Deep Dive into Score Function",
        statement: "eps_theta(x_t, t) is approximately -sqrt(1 - abar_t) grad log p(x_t).",
        reading: "",
        assumes: "p is the law of x_t (the noised data), and eps_theta the best prediction E[eps|x_t]. Checked on Gaussian mixtures.",
        printed: "",
        formula: r"\mathbb{E}[\varepsilon \mid x_t] = -\sqrt{1-\bar\alpha_t}\;\nabla_{x_t} \log p(x_t)",
        finding: "An identity for the best eps-prediction; a network is as near to it as its training went. The score is that of the noised law: with the data's own score in its place it is off.",
        mutants: &["bar left out", "root left out", "sign", "score of the data"],
        check: eps_score,
    },
    Claim {
        id: "ghent/tweedie-relates-score",
        slide: "Deep Dive into Score Function",
        statement: "Tweedie's formula relates the score to the optimal denoiser.",
        reading: "The slide gives no formula; it is taken from Efron (2011).",
        assumes: "x_t = alpha x0 + sigma eps on any path with alpha, sigma > 0; optimal in mean square. Checked on Gaussian mixtures.",
        printed: "",
        formula: r"\mathbb{E}[x_0 \mid x_t] = \frac{x_t + \sigma^2\,\nabla \log p(x_t)}{\alpha}, \qquad \mathrm{Var}[x_0 \mid x_t] = \frac{\sigma^2}{\alpha^2}\left(1 + \sigma^2\,\nabla^2 \log p(x_t)\right)",
        finding: "The posterior mean by integration over x0 agrees with the score's formula, and the posterior variance, the least error, with that of second order.",
        mutants: &["sigma for its square", "alpha left out", "sign"],
        check: tweedie,
    },
    Claim {
        id: "ghent/langevin",
        slide: "Deep Dive into Score Function",
        statement: "The reverse process can be seen as Langevin sampling from the score.",
        reading: "",
        assumes: "The exact score of Gaussian data; the chain x' = x + h score(x) + sqrt(2h) z.",
        printed: "",
        formula: r"dx = \underbrace{\left(f x - \frac{g^2}{2} \nabla \log p_t\right) dt}_{\text{PF-ODE}} \underbrace{- \frac{g^2}{2} \nabla \log p_t\,dt + g\,dW}_{\text{Langevin}}, \qquad V_\infty = \frac{\lambda}{1 - h/(2\lambda)}",
        finding: "It holds if the Langevin step h = beta_t/2 is small and goes with a step of the probability-flow ODE, which lowers the noise level: the reverse SDE is the sum of the two. Langevin steps alone leave the law of their level as it is: from N(0, 1) they end the linear schedule with variance 0.14 for data of variance 0.04. And at a finite step the chain samples a wrong law: its stationary variance is too large by h/(2 lambda - h), a third at h = lambda/2, and from h = 2 lambda on there is none.",
        mutants: &["noise sqrt(h)", "half the drift", "whole score in the PF-ODE"],
        check: langevin,
    },
    Claim {
        id: "ghent/continuous-limit",
        slide: "Deep Dive into Score Function",
        statement: "As T grows the chain becomes a score-based SDE.",
        reading: "",
        assumes: "The linear schedule against the VP SDE with beta(t) from 0.1 to 20; for the law of the reverse chain, Gaussian data with the exact score.",
        printed: "",
        formula: r"\beta_i = \frac{\beta(i/T)}{T}: \qquad \log \bar\alpha_T = -\int_0^1 \beta\,dt - \frac{1}{2T} \int_0^1 \beta^2\,dt + O(T^{-2})",
        finding: "It holds if the betas shrink like 1/T. Then abar_T tends to e^-10.05 at first order, with 67/T left in its logarithm (abar_1000 is 6.5 % below the limit), and the samples' variance tends to that of the reverse SDE at first order too (0.9 % is missing at T = 1000 for data of variance 1). With the betas kept, more steps only add noise: at T = 10000 log abar_T is -101 and goes on falling.",
        mutants: &["betas not scaled", "root of abar_T", "half the score"],
        check: continuous_limit,
    },
];

fn eps_score(p: &mut Probe) {
    let (no_bar, no_root) = (p.mutant("bar left out"), p.mutant("root left out"));
    let (sign, clean) = (p.mutant("sign"), p.mutant("score of the data"));
    let why = "x_t - alpha x0_hat is divided by sigma; responsibilities and the score carry eps times exponents of up to 100";
    p.property(
        Role::Printed,
        "E[eps|x_t] of a mixture against the derivative of its log density",
        256,
        why,
        |t| {
            let (law, table) = (t.mixture(2, 3), t.table(t.int(2, 100)));
            let row = table.rows()[t.int(1, table.steps()) - 1];
            let xt = law.sample(1, &t.noise()) * row.alpha + t.normal_rows(1, 2) * row.sigma;
            let mut x0_hat = Array2::zeros((1, 2));
            law.denoise(xt.view(), &PathPoint::still(row.alpha, row.sigma), x0_hat.view_mut())
                .expect("an exact law");
            let (alpha, sigma) = if clean { (1.0, 0.0) } else { (row.alpha, row.sigma) };
            let log_density = |x: SVector<DualSVec64<2>, 2>| {
                law.log_density_of(&[x[0], x[1]], alpha.into(), sigma.into())
            };
            let (_, score) = gradient(log_density, &SVector::<f64, 2>::new(xt[[0, 0]], xt[[0, 1]]));
            let var = 1.0 - if no_bar { row.alpha_step } else { row.alpha_bar };
            let factor = if no_root { var } else { var.sqrt() } * if sign { 1.0 } else { -1.0 };
            let size = 1.0 + xt.iter().map(|x| x.abs()).sum::<f64>();
            for i in 0..2 {
                let eps = (xt[[0, i]] - row.alpha * x0_hat[[0, i]]) / row.sigma;
                t.compare(factor * score[i], eps, 512.0 * EPS * size / row.sigma);
            }
        },
    );
}

fn tweedie(p: &mut Probe) {
    let (linear, unscaled, sign) =
        (p.mutant("sigma for its square"), p.mutant("alpha left out"), p.mutant("sign"));
    let why = "quadrature to 1e-12 of the width, score and curvature times sigma^2 / alpha";
    p.property(
        Role::Printed,
        "posterior mean and variance by integration over x0, against score and curvature of log p(x_t)",
        96,
        why,
        |t| {
            let law = t.mixture(1, 2);
            let (alpha, edm_sigma) = (t.uniform(0.1, 1.0), t.log_uniform(0.15, 20.0));
            let at = Level::new(alpha, alpha * edm_sigma);
            let x = alpha * (law.sample(1, &t.noise())[[0, 0]] + edm_sigma * t.normal());
            let (log_p, score, curvature) =
                second_derivative(|x: Dual2_64| law.log_density_of(&[x], at.alpha.into(), at.sigma.into()), x);
            let rule = IntervalRule::new(16).expect("nodes");
            let joint = |x0: f64| {
                let prior = law.log_density_of(&[x0], 1.0, 0.0);
                (prior + log_density_normal(x, at.alpha * x0, at.sigma * at.sigma) - log_p).exp()
            };
            let moment = |k: i32, about: f64| rule.composite(-18.0, 18.0, 96, |x0| (x0 - about).powi(k) * joint(x0));
            let mean = moment(1, 0.0);
            let shown = if linear { Level::new(at.alpha, at.sigma.sqrt()) } else { at };
            let shown = if unscaled { Level::new(1.0, shown.sigma) } else { shown };
            let got = tweedie_x0_hat(x, if sign { -score } else { score }, shown);
            t.compare(moment(0, 0.0), 1.0, 1e-10);
            t.compare(got, mean, 1e-10 * (1.0 + edm_sigma));
            t.compare(tweedie_var(curvature, shown), moment(2, mean), 1e-10 * (1.0 + edm_sigma * edm_sigma));
        },
    );
}

fn langevin(p: &mut Probe) {
    let (little, half, whole) = (
        p.mutant("noise sqrt(h)"),
        p.mutant("half the drift"),
        p.mutant("whole score in the PF-ODE"),
    );
    p.property(
        Role::WithCondition,
        "reverse drift less PF-ODE drift, with the noise g dW: change of the variance of a level, of g^2",
        128,
        "cancellation of drift terms of size f and g^2 over the variance",
        |t| {
            let point = t.point();
            let sde = Sde::at(&point.moving().expect("rates")).expect("inside the path");
            let lambda = t.log_uniform(0.1, 10.0);
            let var = point.alpha * point.alpha * lambda + point.sigma * point.sigma;
            // Backward in time the drift changes sign; at x = 1 the score of a centred Gaussian is
            // -1/var.
            let drift = |eta: f64| -sde.reverse_drift(1.0, -1.0 / var, eta);
            let ode = if whole { drift(1.0) } else { drift(0.0) };
            let langevin = (drift(1.0) - ode) * if half { 0.5 } else { 1.0 };
            let noise = if little { 0.5 * sde.g2 } else { sde.g2 };
            let size = (2.0 * sde.f.abs() * var + sde.g2) / sde.g2;
            t.compare((2.0 * langevin * var + noise) / sde.g2, 0.0, 16.0 * EPS * size);
        },
    );
    let why = "n steps, each a few roundings";
    p.property(
        Role::WithCondition,
        "variance after n steps of the chain, against the joint law of its states",
        128,
        why,
        |t| {
            let (var, start, steps) = (t.log_uniform(0.1, 10.0), t.uniform(0.0, 5.0), t.int(1, 20));
            let h = t.uniform(0.01, 1.9) * var;
            // The chain as its formula has it: x + h score + sqrt(2h) z.
            let drift = if half { 0.5 * h } else { h };
            let chain = vec![Step::new(1.0 - drift / var, if little { h } else { 2.0 * h }); steps];
            let want = joint(0.0, start, &chain).cov_matrix()[(steps, steps)];
            t.compare(
                var_after(var, start, h, steps as u32),
                want,
                32.0 * EPS * steps as f64 * (start + var + h),
            );
        },
    );
    p.property(
        Role::WithCondition,
        "stationary variance: closed form against 4000 steps of the chain",
        32,
        "what is left of the start, 0.99^8000 = 1e-35, and 4000 roundings",
        |t| {
            let var = t.log_uniform(0.1, 10.0);
            let h = t.uniform(0.01, 1.9) * var;
            t.compare_rel(var_after(var, 0.0, h, 4000), stationary_var(var, h), 4000.0);
        },
    );
    let relative_bias = |h: f64| stationary_var(1.0, h) - 1.0;
    let why = "the next order in h";
    p.number(
        Role::WithCondition,
        "bias of the stationary variance over h/2, at h = 1e-5 of the variance",
        relative_bias(1e-5) / 0.5e-5,
        1.0,
        1e-5,
        why,
    );

    // DDPM's linear schedule on data of variance 0.04, from the standard normal: each step from t
    // to t - 1 is a PF-ODE step, then Langevin.
    let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's schedule");
    let lambda = 0.04;
    let end = |with_ode: bool| {
        (1..=1000).rev().fold(1.0, |v, t| {
            let [from, to] = [level(&table, t), level(&table, t - 1)];
            let moved = if with_ode { v * ddim_gain(lambda, from, to).powi(2) } else { v };
            let target = if with_ode { to } else { from }.var(lambda);
            let h = 0.5 * table.rows()[t - 1].beta;
            let drift = if half { 0.5 * h } else { h };
            (1.0 - drift / target).powi(2) * moved + if little { h } else { 2.0 * h }
        })
    };
    let why = "discretisation of 1000 steps, first order";
    p.number(
        Role::WithCondition,
        "PF-ODE steps with Langevin steps h = beta_t/2, linear schedule: variance of samples for data of variance 0.04",
        end(true),
        lambda,
        0.05 * lambda,
        why,
    );
    p.number(
        Role::WithoutCondition,
        "the Langevin steps alone: variance of samples for data of variance 0.04",
        end(false),
        lambda,
        0.05 * lambda,
        why,
    );
    p.number(
        Role::WithoutCondition,
        "h = lambda/2: stationary variance over lambda",
        stationary_var(1.0, 0.5),
        1.0,
        1e-3,
        "1 if the chain sampled its target",
    );
    let data = Gaussian::isotropic(array![0.0], 1.0).expect("a variance");
    let settles = stationary_law(&data, PathPoint::CLEAN, 2.5).is_ok();
    p.fact(Role::WithoutCondition, "h = 2.5 lambda: the chain has a stationary law", settles);
}

fn continuous_limit(p: &mut Probe) {
    let (kept, root, half) =
        (p.mutant("betas not scaled"), p.mutant("root of abar_T"), p.mutant("half the score"));
    let linear = |steps: usize, scaled: bool| {
        let share = if scaled { 1000.0 / steps as f64 } else { 1.0 };
        Table::new(
            Schedule::Linear { beta_start: 1e-4 * share, beta_end: 0.02 * share },
            steps,
            false,
        )
        .expect("a valid schedule")
    };
    let tables = [500, 1000, 2000].map(|steps| linear(steps, !kept));
    let log_bar = |table: &Table| {
        let row = table.rows()[table.steps() - 1];
        if root { row.alpha.ln() } else { row.alpha_bar.ln() }
    };
    let end = Path::VP.at(1.0).expect("the end of the path");
    let limit = 2.0 * end.alpha.ln();
    let gaps = tables.each_ref().map(|table| log_bar(table) - limit);
    let why = "the next order, about 10/T relative";
    p.number(
        Role::WithCondition,
        "log abar_T against the VP SDE's: order in 1/T, from T = 1000 and 2000",
        (gaps[1] / gaps[2]).log2(),
        1.0,
        0.02,
        why,
    );
    // beta(t) = 0.1 + 19.9 t.
    let rule = IntervalRule::new(4).expect("nodes");
    let squares = rule.integral(0.0, 1.0, |t| (0.1 + 19.9 * t).powi(2));
    p.number(
        Role::WithCondition,
        "T (log abar_T - limit) extrapolated from T = 1000 and 2000, against minus half the integral of beta^2",
        4000.0 * gaps[2] - 1000.0 * gaps[1],
        -0.5 * squares,
        0.02,
        "second order in 1/T",
    );
    p.number(
        Role::WithCondition,
        "abar_T over its limit at T = 1000, against the exponential of minus half the integral of beta^2 over T",
        gaps[1].exp(),
        (-0.5 * squares / 1000.0).exp(),
        1e-3,
        "second order in 1/T",
    );
    p.property(
        Role::WithCondition,
        "drift and noise of one step, times T, against f and g^2 of the SDE",
        64,
        "the step's second order, beta(t)^2/T; and eps T",
        |t| {
            let table = &tables[2];
            let (steps, time) = (table.steps() as f64, t.int(2, 2000));
            let q = Transition::between(level(table, time - 1), level(table, time))
                .expect("noise grows");
            // The table's betas are beta(t)/T at T even times from 0 to 1.
            let at = Path::VP.at((time - 1) as f64 / (steps - 1.0)).expect("inside the path");
            let sde = Sde::at(&at.moving().expect("rates")).expect("inside the path");
            let tol = 0.2 * sde.g2 * sde.g2 / steps + 1e-10;
            t.compare((q.scale - 1.0) * steps, sde.f, tol);
            t.compare(q.var * steps, sde.g2, tol);
        },
    );
    // The reverse chain with the exact score of N(0, lambda), from N(0, 1): variance of its
    // samples.
    let samples = |table: &Table, lambda: f64| {
        (1..=table.steps()).rev().fold(1.0, |v, t| {
            let (s, u) = (level(table, t - 1), level(table, t));
            let q = Posterior::between(s, u).expect("noise grows");
            let exact = wiener_gain(lambda, u.alpha, u.sigma);
            // x_t / alpha is the denoiser without its score term.
            let gain = if half { 0.5 * (exact + 1.0 / u.alpha) } else { exact };
            (q.coef_xt + q.coef_x0 * gain).powi(2) * v + q.var
        })
    };
    let why = "the next order in 1/T: 0.1 in the exponent for data of variance 0.05";
    p.property(
        Role::WithCondition,
        "variance of the reverse chain's samples against the reverse SDE's: order in 1/T, from T = 1000 and 2000",
        16,
        why,
        |t| {
            let lambda = t.log_uniform(0.05, 5.0);
            let from = Level::from(&end);
            let limit = reverse_sde::variance(lambda, 1.0, from, Level::CLEAN, Churn::Constant(1.0));
            let [coarse, fine] = [1, 2].map(|k| samples(&tables[k], lambda) - limit);
            t.compare((coarse / fine).log2(), 1.0, 0.15);
        },
    );
    let why = "first order: 9/T";
    let ended = samples(&tables[1], 1.0);
    p.number(
        Role::WithCondition,
        "variance of the reverse chain's samples at T = 1000, data of variance 1",
        ended,
        1.0,
        0.01,
        why,
    );
    let more = linear(10_000, false);
    p.number(
        Role::WithoutCondition,
        "betas kept from 0.0001 to 0.02, T = 10000: log abar_T",
        more.rows()[9999].alpha_bar.ln(),
        limit,
        1.0,
        "the limit of scaled betas",
    );
}
