//! The noise that the deck's first sampler adds in every step.

use crate::{Claim, Probe, Role, Trial};
use tweedie::exact::chain::{Step, end, joint};
use tweedie::law::gaussian::wiener_gain;

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "purdue/ddpm-unit-noise",
    slide: "Sampling(1): DDPM sampling simply samples the generative model sequentially",
    statement: "Ancestral sampling adds noise of variance 1 in every step, x_{t-1} = x_t - (1/t) eps_theta(x_t, t) + z with z ~ N(0, I).",
    reading: "The update's last term is garbled in the scan; the slide draws z ~ N(0, I) in every step, and its model p_theta(x_{t-1}|x_t) has the covariance I.",
    assumes: "The random walk with unit steps over Gaussian data of variance lambda, the exact prediction eps_theta = E[x_t - x_0|x_t], and a start from the exact law of x_T.",
    printed: r"x_{t-1} = x_t - \tfrac{1}{t}\,\varepsilon_\theta(x_t, t) + z, \qquad z \sim \mathcal{N}(0, I)",
    formula: r"x_{t-1} = x_t - \tfrac{1}{t}\,\varepsilon_\theta(x_t, t) + z, \qquad z \sim \mathcal{N}\left(0, \left(1 - \tfrac{1}{t + \lambda}\right) I\right)",
    finding: "The forward step's variance is not the reverse step's: given x_t, x_{t-1} has the variance 1 - 1/(t + lambda). With unit noise the samples of T = 1000 steps have the variance 1.64 where the data have \
              1, and 1.0002 where they have 0.01: it tends to lambda^2 psi_1(lambda), psi_1 the trigamma function. Wide data hardly notice: at lambda = 100 it is 0.5 percent too much.",
    mutants: &["no noise", "variance 1/t", "variance of q(x_{t-1}|x_t,x0)", "whole eps removed"],
    check: unit_noise,
}];

/// The law of the samples: the steps from x_T to x_0 with fresh noise of a given variance in step
/// t.
fn sampled(lambda: f64, steps: usize, share: impl Fn(f64) -> f64, var: impl Fn(f64) -> f64) -> f64 {
    let chain: Vec<_> = (1..=steps)
        .rev()
        .map(|t| {
            let t = t as f64;
            // eps_theta = x_t - x0_hat.
            let eps = 1.0 - wiener_gain(lambda, 1.0, t.sqrt());
            Step::new(1.0 - share(t) * eps, var(t))
        })
        .collect();
    end(0.0, lambda + steps as f64, &chain).1
}

/// `psi_1(x)` by its series, the tail by Euler and Maclaurin.
fn trigamma(x: f64) -> f64 {
    const TERMS: i32 = 64;
    let y = x + f64::from(TERMS);
    let head: f64 = (0..TERMS).rev().map(|k| (x + f64::from(k)).powi(-2)).sum();
    head + y.recip() + 0.5 * y.powi(-2) + y.powi(-3) / 6.0 - y.powi(-5) / 30.0
}

fn unit_noise(p: &mut Probe) {
    let (none, inverse, posterior, whole) = (
        p.mutant("no noise"),
        p.mutant("variance 1/t"),
        p.mutant("variance of q(x_{t-1}|x_t,x0)"),
        p.mutant("whole eps removed"),
    );
    let share = move |t: f64| if whole { 1.0 } else { 1.0 / t };
    let right = move |lambda: f64, t: f64| match () {
        _ if none => 0.0,
        _ if inverse => 1.0 / t,
        _ if posterior => 1.0 - 1.0 / t,
        _ => 1.0 - 1.0 / (t + lambda),
    };
    for (lambda, what) in [(1.0, "1"), (0.01, "0.01")] {
        let got = sampled(lambda, 1000, share, |_| 1.0);
        let what =
            format!("unit noise, 1000 steps: variance of the samples for data of variance {what}");
        p.number(Role::Printed, what, got, lambda, 0.01 * lambda, "one percent");
    }
    p.number(
        Role::Printed,
        "unit noise, 1000 steps: variance too much for data of variance 100, of theirs",
        sampled(100.0, 1000, share, |_| 1.0) / 100.0 - 1.0,
        0.0,
        0.01,
        "one percent",
    );
    p.property(
        Role::Corrected,
        "variance 1 - 1/(t + lambda): the samples' variance, of the data's",
        64,
        "one rounding a step",
        |t| {
            let (lambda, steps) = (t.log_uniform(1e-3, 1e3), t.int(1, 400));
            let got = sampled(lambda, steps, share, |t| right(lambda, t));
            t.compare(
                got / lambda,
                1.0,
                8.0 * f64::EPSILON * (steps as f64 + 1.0) * (1.0 + 1.0 / lambda),
            );
        },
    );
    p.property(
        Role::Corrected,
        "1 - 1/(t + lambda), against Var[x_{t-1}|x_t] by conditioning the walk's joint law",
        64,
        "a difference of variances of size t + lambda",
        |t: &Trial| {
            let (lambda, time) = (t.log_uniform(1e-2, 1e2), t.int(1, 8));
            let walk = joint(0.0, lambda, &vec![Step::new(1.0, 1.0); time]).expect("variances");
            let pair = walk
                .marginal(&[time - 1, time])
                .and_then(|pair| pair.condition(&[1], &[0.0]))
                .expect("two states");
            let size = lambda + time as f64;
            t.compare(
                right(lambda, time as f64),
                pair.cov_matrix()[(0, 0)],
                64.0 * f64::EPSILON * size,
            );
        },
    );
    p.property(
        Role::Corrected,
        "unit noise, T steps: the samples' variance, against lambda^2 psi_1(lambda) but for a term of order 1/T^2",
        32,
        "the next term: lambda^2 / (T + lambda)^3, and roundings",
        |t| {
            let (lambda, steps) = (t.log_uniform(1e-2, 10.0), 2000);
            let far = lambda + steps as f64;
            let want = lambda * lambda * (trigamma(lambda) - 0.5 / (far * far));
            let tol = lambda * lambda / far.powi(3) + 4.0 * f64::EPSILON * steps as f64 * want;
            t.compare(sampled(lambda, steps, share, |_| 1.0), want, tol);
        },
    );
}
