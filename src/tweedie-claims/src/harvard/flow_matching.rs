//! Flow matching as a member of the family.

use super::objectives::{Points, WHY, denoised, wave};
use crate::{Claim, Probe, Role};
use ndarray::{Array1, array};
use num_dual::Dual64;
use statrs::distribution::{ContinuousCDF, Normal};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::level::{Level, Rates};
use tweedie::diffusion::loss::loss_ratio;
use tweedie::diffusion::path::Path;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::sde::pf_ode_velocity;
use tweedie::exact::flow::marginal_velocity;
use tweedie::exact::gains::psi;
use tweedie::exact::pf_ode::pf_ode_solve;
use tweedie::law::mixture::Mixture;
use tweedie::math::larger;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/flow-matching-optimum",
        slide: "Link to Flow Matching / Rectified flow",
        statement: "On x_t = (1-t) x0 + t z the optimum of flow matching is (x_t - E[x0|x_t]) / t.",
        reading: "",
        assumes: "0 < t <= 1; t = 0 is data and t = 1 noise, as on the slide.",
        printed: "",
        formula: r"u^*(x_t) = \mathbb{E}[z - x_0|x_t] = \frac{x_t - \mathbb{E}[x_0|x_t]}{t}",
        finding: "x_t - x0 = t (z - x0), so the target is (x_t - x0)/t and only x0 has to be averaged. At t = 1 it is z - E[x0].",
        mutants: &["sign", "1 - t for t", "x0 with the factor 1 - t"],
        check: optimum,
    },
    Claim {
        id: "harvard/flow-matching-sampling",
        slide: "Link to Flow Matching / Rectified flow",
        statement: "dx/dt = u*(x; t), run from t = 1 to t = 0, carries N(0, I) to the law of the data.",
        reading: "",
        assumes: "The exact u*, and an exact integration in time.",
        printed: "",
        formula: r"F_{\text{data}}(x_{t=0}) = \Phi(x_{t=1}) \text{ in one dimension}, \qquad \frac{dx}{dt} = u^*(x;t)",
        finding: "In one dimension the flow keeps the order of the states, so each must end at the quantile at which it started: it does, for random mixtures. \
                  In d dimensions the exact Gaussian trajectory has the velocity u* at every t.",
        mutants: &[
            "run on the variance-preserving circle's velocity",
            "noise and data swapped",
            "start of deviation 2",
        ],
        check: sampling,
    },
    Claim {
        id: "harvard/flow-matching-is-v",
        slide: "Link to Flow Matching / Rectified flow",
        statement: "Flow matching is the velocity objective alpha' x0 + sigma' z with alpha = 1 - t and sigma = t.",
        reading: "The slide calls this objective v-prediction; its formula has the rates of alpha and sigma, which is what is checked.",
        assumes: "Every data law: the targets agree term by term.",
        printed: "",
        formula: r"\dot\alpha_t x_0 + \dot\sigma_t z = z - x_0, \qquad \left\|u_\theta - u\right\|^2 = \frac{\left\|v_\theta - v\right\|^2}{(\alpha_t^2 + \sigma_t^2)^2}",
        finding: "The rates are -1 and 1 at every t. It is not the v = alpha z - sigma x0 of the slide before, which on this path is (1-t) z - t x0; but each is an affine function of the other, \
                  and the two losses differ by the weight 1/((1-t)^2 + t^2)^2, between 1 and 4.",
        mutants: &["v of the slide before", "direction of time", "weight without its square"],
        check: is_velocity,
    },
];

fn optimum(p: &mut Probe) {
    let (sign, other, shrunk) =
        (p.mutant("sign"), p.mutant("1 - t for t"), p.mutant("x0 with the factor 1 - t"));
    p.property(
        Role::Printed,
        "E[((x_t - E[x0|x_t])/t - (z - x0)) h(x_t)] for random data, times and waves h",
        96,
        WHY,
        |t| {
            let (data, time, h) = (Points::random(t, 3), t.uniform(0.35, 0.95), wave(t));
            let at = Path::FlowMatching.at(time).expect("inside the path");
            let f = |x: &Array1<f64>| {
                let kept = denoised(&data.law, x, &at) * if shrunk { 1.0 - time } else { 1.0 };
                (x - &kept) / if other { 1.0 - time } else { time } * if sign { -1.0 } else { 1.0 }
            };
            t.compare(data.residual(&at, |x0, z| z - x0, f, h), 0.0, 1e-12 * 30.0);
        },
    );
    p.property(
        Role::Printed,
        "the formula, against the library's marginal velocity of random mixtures",
        96,
        "1e-12 of (|x| + |x0|)/t",
        |t| {
            let (law, time, x) = (t.mixture(2, 3), t.uniform(0.05, 1.0), t.normal_rows(4, 2));
            let moving = Path::FlowMatching.moving_at(time).expect("inside the path");
            let at = moving.into();
            let mut x0_hat = x.clone();
            tweedie::diffusion::Denoiser::denoise(&law, x.view(), &at, x0_hat.view_mut())
                .expect("an exact law");
            let want = marginal_velocity(&law, x.view(), &moving).expect("t > 0");
            let size = x.iter().chain(&x0_hat).map(|v| v.abs()).fold(1.0, larger);
            let kept = &x0_hat * if shrunk { 1.0 - time } else { 1.0 };
            t.compare_all(&((&x - &kept) / time), &want, 1e-12 * size / time);
        },
    );
}

fn sampling(p: &mut Probe) {
    let circle = p.mutant("run on the variance-preserving circle's velocity");
    let (swapped, wide) = (p.mutant("noise and data swapped"), p.mutant("start of deviation 2"));
    let normal = Normal::standard();
    let cdf = |law: &Mixture, x: f64| -> f64 {
        law.weights()
            .iter()
            .zip(law.components())
            .map(|(w, c)| w * normal.cdf((x - c.mean()[0]) / c.variances()[0].sqrt()))
            .sum()
    };
    p.property(
        Role::Printed,
        "quantile at which a state ends under a random mixture, against the normal quantile at which it starts",
        6,
        "1e-9: the integrator allows 1e-13 a step, the normal distribution function about 1e-11",
        |t| {
            let (law, z) = (t.mixture(1, 3), array![[-1.2], [-0.3], [0.4], [1.7]] + t.uniform(-0.2, 0.2));
            let start = if wide { &z * 2.0 } else { z.clone() };
            let (noise, clean) = (PathPoint::NOISE, PathPoint::CLEAN);
            let end = pf_ode_solve(&law, start.view(), &[noise, clean]).expect("a mixture with a density").swap_remove(1);
            for (x, z) in end.iter().zip(&z) {
                t.compare(cdf(&law, *x), normal.cdf(if swapped { -z } else { *z }), 1e-9);
            }
        },
    );
    p.property(
        Role::Printed,
        "rate of the exact Gaussian trajectory from N(0, I) by dual numbers, against u* = (x - E[x0|x])/t",
        128,
        "1e-12 of the terms over t",
        |t| {
            let time = t.uniform(0.02, 0.98);
            let moving = Path::FlowMatching.moving_at(time).expect("inside the path");
            let at = moving.level;
            let (mean, lambda, z) = (t.normal(), t.log_uniform(0.01, 10.0), t.normal());
            let start = Level { alpha: Dual64::from(0.0), sigma: Dual64::from(1.0) };
            let gain = psi(Dual64::from(lambda), start, moving.dual());
            let x = at.alpha * mean + gain.re * z;
            let x0_hat = mean + at.alpha * lambda / (at.alpha * at.alpha * lambda + at.sigma * at.sigma) * (x - at.alpha * mean);
            let u = if circle {
                (at.alpha * x - x0_hat) / at.sigma
            } else {
                pf_ode_velocity(Prediction::X0, x0_hat, x, &Frame::from(&moving)).expect("t > 0")
            };
            t.compare(u, moving.rates.alpha * mean + gain.eps * z, 1e-12 * (1.0 + x.abs() + x0_hat.abs()) / time);
        },
    );
}

fn is_velocity(p: &mut Probe) {
    let (v, time, linear) = (
        p.mutant("v of the slide before"),
        p.mutant("direction of time"),
        p.mutant("weight without its square"),
    );
    let kind = if v { Prediction::V } else { Prediction::Velocity };
    p.property(
        Role::Printed,
        "target of the library's velocity objective on its flow-matching path, against z - x0",
        128,
        "the rates are exactly -1 and 1",
        |t| {
            let at = Path::FlowMatching.at(t.uniform(0.0, 1.0)).expect("inside the path");
            let mut frame = Frame::from(&at);
            if time {
                frame.rates = frame.rates.map(|r| Rates::new(-r.alpha, -r.sigma));
            }
            let (x0, z) = (t.normal(), t.normal());
            t.compare(kind.target(x0, z, &frame), z - x0, 1e-15 * (x0.abs() + z.abs()));
        },
    );
    p.property(
        Role::Printed,
        "squared error of the velocity over that of v for one and the same network, against 1/((1-t)^2 + t^2)^2",
        128,
        "1e-11: the two errors are differences of numbers of size 10",
        |t| {
            let at = Path::FlowMatching.at(t.uniform(0.05, 0.95)).expect("inside the path");
            let frame = Frame::from(&at);
            let (x0, z, wrong) = (t.normal(), t.normal(), t.uniform(0.5, 3.0));
            let x = at.alpha * x0 + at.sigma * z;
            let target = Prediction::V.target(x0, z, &frame);
            let u = Conversion::new(Prediction::V, Prediction::Velocity, frame).expect("never singular").apply(target + wrong, x);
            let got = ((u - (z - x0)) / wrong).powi(2);
            let n = at.alpha * at.alpha + at.sigma * at.sigma;
            t.compare(got, if linear { 1.0 / n } else { 1.0 / (n * n) }, 1e-11);
            t.compare(loss_ratio(Prediction::Velocity, Prediction::V, &frame).expect("never singular"), 1.0 / (n * n), 1e-13);
        },
    );
    for (t, want) in [(0.5, 4.0), (1.0, 1.0)] {
        let frame = Frame::from(&Path::FlowMatching.at(t).expect("on the path"));
        let got = loss_ratio(Prediction::Velocity, Prediction::V, &frame).expect("never singular");
        p.number(
            Role::Printed,
            format!("the same factor by the library at t = {t}"),
            got,
            want,
            1e-13,
            "rounding",
        );
    }
}
