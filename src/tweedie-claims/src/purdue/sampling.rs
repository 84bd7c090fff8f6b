//! The two samplers of the deck, on its unscaled chain.

use crate::{Claim, Probe, Role};
use ndarray::{Array2, array};
use num_dual::gradient;
use tweedie::diffusion::kernel::{Posterior, random_walk};
use tweedie::diffusion::level::{Level, Rates};
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::law::gaussian::wiener_gain;
use tweedie::law::{Gaussian, Law, mixture::Mixture};
use tweedie::math::larger;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "purdue/ddpm-step",
        slide: "Sampling(1): DDPM sampling simply samples the generative model sequentially",
        statement: "The ancestral step from x_t has the mean x_t - (1/t) eps_theta(x_t, t).",
        reading: "The first line of the slide reads x_t minus a fraction of eps_theta; the update below it has 1/t.",
        assumes: "The random walk with unit steps and the exact prediction.",
        printed: "",
        formula: r"\mathbb{E}[x_{t-1} \mid x_t] = x_t - \frac{1}{t}\,\mathbb{E}[x_t - x_0 \mid x_t]",
        finding: "It holds if eps is the whole noise x_t - x0 of variance t, as on the slide Training(1). For noise of unit variance, x_t = x0 + sqrt(t) eps, the mean is x_t - eps_theta/sqrt(t): with 1/t the step at t = 100 is a tenth of the right one.",
        mutants: &["plus sign", "1/(t-1)", "1/t dropped"],
        check: ddpm_step,
    },
    Claim {
        id: "purdue/ddim-x0",
        slide: "Sampling(2): DDIM redefines p_theta(x_{t-1}|x_t) in terms of q_sigma(x_{t-1}|x_t,x_0) where x_0 is approximated",
        statement: "x0 is approximated by x_t - sqrt(t) eps_theta(x_t, t).",
        reading: "",
        assumes: "The random walk with unit steps and the exact prediction.",
        printed: "",
        formula: r"\mathbb{E}[x_0 \mid x_t] = x_t - \sqrt{t}\;\mathbb{E}\left[\frac{x_t - x_0}{\sqrt{t}} \mid x_t\right]",
        finding: "It holds if eps has unit variance, x_t = x0 + sqrt(t) eps. The slide before, with its x_t - (1/t) eps_theta, needs the whole noise of variance t: no one network serves both slides but at t = 1. With the whole noise this formula removes sqrt(t) times too much, ten times at t = 100.",
        mutants: &["t for its root", "plus sign", "root left out"],
        check: ddim_x0,
    },
    Claim {
        id: "purdue/ddim-family",
        slide: "Sampling(2): DDIM redefines p_theta(x_{t-1}|x_t) in terms of q_sigma(x_{t-1}|x_t,x_0) where x_0 is approximated",
        statement: "q_sigma(x_{t-1}|x_t,x0), with x0 replaced by its prediction, defines samplers with marginals q_sigma(x_t|x0) that do not depend on sigma; a special case is deterministic, and a subset of the training times serves.",
        reading: "The two cases of the generative model are garbled in the scan; read as N(f_theta(x_1), sigma_1^2 I) at t = 1 and q_sigma(x_{t-1}|x_t, f_theta(x_t, t)) otherwise, as in Song et al. (2021).",
        assumes: "Any two times s < t; sigma^2 at most the variance of q(x_s|x0).",
        printed: "",
        formula: r"q_\sigma(x_s \mid x_t, x_0) = \mathcal{N}\left(x_0 + \sqrt{s - \sigma^2}\;\frac{x_t - x_0}{\sqrt{t}},\; \sigma^2 I\right) \;\Rightarrow\; q_\sigma(x_s \mid x_0) = \mathcal{N}(x_0,\, s\,I)",
        finding: "It holds while x0 is the datum itself: every sigma and every subset of times keeps N(x0, s I), and sigma = 0 is deterministic. It is lost where the prediction takes the place of x0, as in the sampler, unless the steps are fine: on Gaussian data of variance 1 with the exact prediction, ten steps from t = 100 (even in sqrt(t)) end with variance 0.44 at sigma = 0 and 0.37 with the posterior's sigma, where 1 is right.",
        mutants: &["noise added, direction kept", "previous time off by one", "x0 used as eps"],
        check: ddim_family,
    },
];

/// The mixture with `var` added to every covariance, as a data law of its own.
fn noised(law: &Mixture, var: f64) -> Mixture {
    let add = |g: &Gaussian| {
        Gaussian::from_modes(g.mean().to_owned(), &g.variances() + var, g.modes().to_owned())
            .expect("modes stay orthonormal")
    };
    Mixture::new(law.weights(), law.components().iter().map(add).collect()).expect("weights stay")
}

/// `E[x0|x]` where x is `law` plus noise of variance `var`.
fn denoised(law: &Mixture, x: &Array2<f64>, var: f64) -> Array2<f64> {
    let mut out = Array2::zeros(x.raw_dim());
    law.denoise(x.view(), &PathPoint::still(1.0, var.sqrt()), out.view_mut())
        .expect("an exact law");
    out
}

fn ddpm_step(p: &mut Probe) {
    let (plus, late, dropped) =
        (p.mutant("plus sign"), p.mutant("1/(t-1)"), p.mutant("1/t dropped"));
    let step = move |time: f64| match () {
        _ if plus => -1.0 / time,
        _ if late => 1.0 / (time - 1.0),
        _ if dropped => 1.0,
        _ => 1.0 / time,
    };
    let case = |t: &crate::Trial, unit: bool| {
        let (data, time) = (t.mixture(2, 3), t.int(2, 200) as f64);
        let xt = data.sample(1, &t.noise()) + t.normal_rows(1, 2) * time.sqrt();
        let whole = &xt - &denoised(&data, &xt, time);
        let eps_theta = if unit { whole / time.sqrt() } else { whole };
        let got = &xt - &(eps_theta * step(time));
        // The other way: x_{t-1} has a law of its own, and x_t is x_{t-1} plus unit noise.
        let want = denoised(&noised(&data, time - 1.0), &xt, 1.0);
        let size = xt.iter().map(|x| x.abs()).fold(3.0, larger);
        t.compare_all(&got, &want, 256.0 * EPS * size * time);
    };
    let why = "responsibilities carry eps times their exponents, up to t";
    p.property(
        Role::WithCondition,
        "eps the whole noise of variance t: the step's mean against E[x_{t-1}|x_t] of a mixture",
        128,
        why,
        |t| case(t, false),
    );
    p.property(Role::WithoutCondition, "eps of unit variance: the same", 128, why, |t| {
        case(t, true)
    });
    let law = Gaussian::isotropic(array![0.0], 1.0).expect("a variance");
    let removed = |scale: f64| {
        let mut hat = array![[0.0]];
        law.denoise(array![[8.0]].view(), &PathPoint::still(1.0, 10.0), hat.view_mut())
            .expect("an exact law");
        let eps_theta = (8.0 - hat[[0, 0]]) / scale;
        // The right step is that of the score: E[x_{t-1}|x_t] - x_t with marginal variance 101.
        -step(100.0) * eps_theta / (-8.0 / 101.0)
    };
    p.number(
        Role::WithCondition,
        "t = 100, whole noise: the step taken, of the right one",
        removed(1.0),
        1.0,
        1e-14,
        "c eps",
    );
    p.number(
        Role::WithoutCondition,
        "t = 100, unit noise: the step taken, of the right one",
        removed(10.0),
        1.0,
        1e-14,
        "c eps",
    );
}

fn ddim_x0(p: &mut Probe) {
    let (square, plus, no_root) =
        (p.mutant("t for its root"), p.mutant("plus sign"), p.mutant("root left out"));
    let factor = move |time: f64| match () {
        _ if square => time,
        _ if plus => -time.sqrt(),
        _ if no_root => 1.0,
        _ => time.sqrt(),
    };
    let case = |t: &crate::Trial, unit: bool| {
        let (data, time) = (t.mixture(2, 3), t.int(2, 200) as f64);
        let xt = data.sample(1, &t.noise()) + t.normal_rows(1, 2) * time.sqrt();
        // The exact eps-prediction from the derivative of the log density, not from the denoiser.
        let (_, score) = gradient(
            |x: nalgebra::SVector<num_dual::DualSVec64<2>, 2>| {
                data.log_density_of(&[x[0], x[1]], 1.0.into(), time.sqrt().into())
            },
            &nalgebra::SVector::<f64, 2>::new(xt[[0, 0]], xt[[0, 1]]),
        );
        let sigma = if unit { time.sqrt() } else { 1.0 };
        let frame = Frame {
            alpha: 1.0,
            sigma: time.sqrt(),
            rates: Some(Rates::new(0.0, 1.0)),
            sigma_data: 0.5,
        };
        let to_eps = Conversion::new(Prediction::Score, Prediction::Eps, frame).expect("sigma > 0");
        let want = denoised(&data, &xt, time);
        let size = xt.iter().map(|x| x.abs()).fold(3.0, larger);
        for i in 0..2 {
            let eps_theta = to_eps.apply(score[i], xt[[0, i]]) * time.sqrt() / sigma;
            t.compare(
                xt[[0, i]] - factor(time) * eps_theta,
                want[[0, i]],
                256.0 * EPS * size * time,
            );
        }
    };
    let why = "the score carries eps times the exponents, times t";
    p.property(
        Role::WithCondition,
        "eps of unit variance: x_t - sqrt(t) eps_theta against E[x0|x_t] of a mixture",
        128,
        why,
        |t| case(t, true),
    );
    p.property(
        Role::WithoutCondition,
        "eps the whole noise, as on the slide before: the same",
        128,
        why,
        |t| case(t, false),
    );
    // Both slides with one network: mean of the step by each slide's formula, at t = 100 and x_t -
    // E[x0|x_t] = 5.
    let both = |eps_theta: f64| (1.0 / 100.0 * eps_theta, factor(100.0) * eps_theta / 100.0);
    let (step, through_x0) = both(0.5);
    p.number(
        Role::WithoutCondition,
        "t = 100, one network of unit noise: step of the DDPM slide over that through this x0",
        step / through_x0,
        1.0,
        1e-14,
        "c eps",
    );
}

fn ddim_family(p: &mut Probe) {
    let kept = p.mutant("noise added, direction kept");
    let off = p.mutant("previous time off by one");
    let as_eps = p.mutant("x0 used as eps");
    let kernel = move |s: f64, t: f64, eta: f64| {
        let s = random_walk(if off { s + 1.0 } else { s });
        let t = random_walk(t);
        let q = Posterior::ddim(s, t, eta).expect("eta between 0 and 1");
        if kept {
            let still = Posterior::ddim(s, t, 0.0).expect("eta = 0");
            return Posterior { var: q.var, ..still };
        }
        q
    };
    let why = "sums of positive terms, rounded roots of the times";
    p.property(
        Role::WithCondition,
        "x0 given: mean and variance of x_s after random steps over a random subset of times, against N(x0, s)",
        256,
        why,
        |t| {
            let mut time = 1000.0;
            let x0 = t.normal();
            // What is fed in as x0: the datum, or by mistake the noise it was mixed with.
            let fed = if as_eps { 0.5 - x0 } else { x0 };
            let (mut mean, mut var) = (x0, time);
            while time > 2.0 {
                let s = t.int(1, time as usize - 2) as f64;
                let eta = if t.int(0, 2) == 0 { 0.0 } else { t.uniform(0.0, 1.0) };
                let q = kernel(s, time, eta);
                (mean, var) = (q.mean(fed, mean), q.coef_xt * q.coef_xt * var + q.var);
                t.compare(mean, x0, 64.0 * EPS * (x0.abs() + fed.abs()) * 1e2);
                t.compare(var, s, 64.0 * EPS * s * 1e2);
                time = s;
            }
        },
    );
    p.property(
        Role::WithCondition,
        "sigma = 0: no noise, and the state of the same (x0, eps) at the earlier time",
        128,
        "rounded roots",
        |t| {
            let (time, x0, eps) = (t.int(2, 1000), t.normal(), t.normal());
            let s = t.int(0, time - 2) as f64;
            let q = kernel(s, time as f64, 0.0);
            let xt = x0 + (time as f64).sqrt() * eps;
            t.compare(q.var, 0.0, 0.0);
            t.compare(
                q.mean(if as_eps { eps } else { x0 }, xt),
                x0 + s.sqrt() * eps,
                64.0 * EPS * (x0.abs() + xt.abs() + 1.0),
            );
        },
    );
    // The sampler on Gaussian data of variance 1, at noise levels from 10 to 0 evenly: the exact
    // prediction is linear, so that its law is a recursion of variances.
    let end = |steps: usize, eta: f64| {
        let level = |k: usize| Level::new(1.0, 10.0 * (1.0 - k as f64 / steps as f64));
        (0..steps).fold(101.0, |var, k| {
            let (t, s) = (level(k), level(k + 1));
            let q = Posterior::ddim(s, t, eta).expect("eta between 0 and 1");
            let gain = q.coef_x0 * wiener_gain(1.0, 1.0, t.sigma) + q.coef_xt;
            gain * gain * var + q.var
        })
    };
    let why = "1 is the data's; nothing is random here";
    let [ode, stochastic] = [0.0, 1.0].map(|eta| end(10, eta));
    p.number(
        Role::WithoutCondition,
        "prediction for x0, 10 steps from t = 100, sigma = 0: variance of the samples",
        ode,
        1.0,
        1e-3,
        why,
    );
    p.number(
        Role::WithoutCondition,
        "prediction for x0, 10 steps, posterior's sigma: the same",
        stochastic,
        1.0,
        1e-3,
        why,
    );
    p.number(
        Role::WithoutCondition,
        "prediction for x0, 10 steps: the second over the first",
        stochastic / ode,
        1.0,
        1e-3,
        "1 if sigma did not matter",
    );
    let why = "extrapolated from 2048 and 4096 steps: second order in 1/steps, times 100";
    for (name, eta) in [("sigma = 0", 0.0), ("posterior's sigma", 1.0)] {
        let limit = 2.0 * end(4096, eta) - end(2048, eta);
        p.number(
            Role::WithCondition,
            format!("prediction for x0, steps without end, {name}: variance of the samples"),
            limit,
            1.0,
            1e-3,
            why,
        );
    }
}
