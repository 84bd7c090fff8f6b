//! DDPM and DDIM as steps of a numerical method.

use super::objectives::denoised;
use crate::{Claim, Probe, Role, Trial};
use ndarray::Array1;
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::kernel::Posterior;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::path::Path;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::sde::Sde;
use tweedie::exact::student::ddim_gain;
use tweedie::sample::ancestral::Ddim;
use tweedie::sample::flow::FmEuler;
use tweedie::sample::noise_source::Silence;
use tweedie::sample::sample;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/ddpm-is-sde-euler",
        slide: "Equivalence to score-based perspective",
        statement: "DDPM's sampling step is the Euler-Maruyama step of the reverse VP-SDE.",
        reading: "",
        assumes: "The reverse SDE with drift -beta/2 x - beta score over one unit of time, and eps = -sigma score.",
        printed: "",
        formula: r"\frac{1}{\sqrt{1-\beta}}\left(x + \beta\, s\right) - \left(x + \tfrac{\beta}{2} x + \beta s\right) = \beta^2\left(\tfrac{3}{8} x + \tfrac{1}{2} s\right) + O(\beta^3)",
        finding: "True to first order in beta: the means differ by beta^2 (3x/8 + score/2), the variances by beta^2 bar alpha_{t-1}/(1 - bar alpha_t), and the laws after a whole run by O(1/T). \
                  At beta = 0.02 the coefficients of x are 1.01015 and 1.01; at beta = 0.999, the cosine schedule's last, 31.6 and 1.5. \
                  DDPM's mean is exactly Euler's in other coordinates: for x/alpha in the time sigma^2/alpha^2.",
        mutants: &[
            "half of the score",
            "sigma for sigma^2 in the score",
            "beta for its root in the scale",
        ],
        check: ddpm,
    },
    Claim {
        id: "harvard/ddim-is-ode-euler",
        slide: "Summary",
        statement: "DDIM is the Euler step of the probability-flow ODE.",
        reading: "",
        assumes: "eta = 0.",
        printed: "",
        formula: r"\frac{x_s}{\alpha_s} = \frac{x_t}{\alpha_t} + \left(\frac{\sigma_s}{\alpha_s} - \frac{\sigma_t}{\alpha_t}\right)\varepsilon_\theta(x_t)",
        finding: "Exactly so for the state x/alpha in the time sigma/alpha, on every path, and equally for x/sigma in the time alpha/sigma; in t itself only on flow matching's straight path. \
                  On the VP path Euler's step in t is another step, which agrees to first order: from t = 0.2 to 0.1 its gain on data of variance 0.01 is 0.62 where DDIM's is 0.56.",
        mutants: &["x not divided by alpha", "sigma for sigma/alpha", "slope at the step's end"],
        check: ddim,
    },
];

/// A step of one beta from an earlier level.
fn step(t: &Trial, beta: f64) -> (Level<f64>, Level<f64>) {
    let kept = t.uniform(0.1, 0.9);
    (
        Level::new(kept.sqrt(), (1.0 - kept).sqrt()),
        Level::new((kept * (1.0 - beta)).sqrt(), (1.0 - kept * (1.0 - beta)).sqrt()),
    )
}

fn ddpm(p: &mut Probe) {
    let (half, linear, scale) = (
        p.mutant("half of the score"),
        p.mutant("sigma for sigma^2 in the score"),
        p.mutant("beta for its root in the scale"),
    );
    // Mean of DDPM's step, in its own terms, from the score.
    let mean = move |s: Level<f64>, at: Level<f64>, x: f64, score: f64| {
        let eps = -at.sigma * score * if linear { at.sigma } else { 1.0 };
        let frame = Frame::from(&PathPoint::still(at.alpha, at.sigma));
        let x0_hat = Conversion::new(Prediction::Eps, Prediction::X0, frame)
            .expect("alpha > 0")
            .apply(eps, x);
        let mean = Posterior::between(s, at).expect("ordered").mean(x0_hat, x);
        if scale { mean * at.alpha / s.alpha } else { mean }
    };
    let euler = move |beta: f64, x: f64, score: f64| {
        x - Sde { f: -0.5 * beta, g2: beta }.reverse_drift(x, score, if half { 0.0 } else { 1.0 })
    };
    p.property(
        Role::WithCondition,
        "small beta: difference of the two means over beta^2, against 3x/8 + score/2",
        128,
        "4 beta of the terms for the next order, and rounding over beta^2",
        |t| {
            let beta = t.log_uniform(1e-4, 1e-3);
            let ((s, at), x, score) = (step(t, beta), t.normal(), t.normal());
            let got = (mean(s, at, x, score) - euler(beta, x, score)) / (beta * beta);
            let size = x.abs() + score.abs();
            t.compare(got, 0.375 * x + 0.5 * score, size * (4.0 * beta + 1e-14 / (beta * beta)));
        },
    );
    p.property(
        Role::WithCondition,
        "posterior variance, against beta - beta^2 bar alpha_{t-1}/(1 - bar alpha_t)",
        128,
        "1e-14: rounding of the levels",
        |t| {
            let beta = t.log_uniform(1e-4, 0.5);
            let (s, at) = step(t, beta);
            t.compare(
                Posterior::between(s, at).expect("ordered").var,
                beta - (beta * s.alpha / at.sigma).powi(2),
                1e-14,
            );
        },
    );
    p.property(
        Role::WithCondition,
        "any beta, for x/alpha in the time tau = sigma^2/alpha^2: DDPM's mean, against Euler's step of dx = -score dtau",
        128,
        "1e-12 of the terms",
        |t| {
            let (s, at) = step(t, t.log_uniform(1e-3, 0.9));
            let (x, score) = (t.normal(), t.normal());
            let tau = |l: Level<f64>| (l.sigma / l.alpha).powi(2);
            let (y, slope) = (x / at.alpha, at.alpha * score * if half { 0.5 } else { 1.0 });
            let want = y + (tau(at) - tau(s)) * slope;
            t.compare(mean(s, at, x, score) / s.alpha, want, 1e-12 * (1.0 + tau(at)) * (y.abs() + slope.abs()));
        },
    );
    // Variance at the end of both chains over one Gaussian mode, by their own recurrences.
    let chains = |steps: usize| {
        let points: Vec<_> = (0..=steps)
            .map(|k| Path::VP.still_at(0.98 - 0.9 * k as f64 / steps as f64).expect("inside"))
            .collect();
        let lambda = 0.3;
        points.windows(2).fold((1.0, 1.0), |(ancestral, em), w| {
            let (at, s) = (Level::from(&w[0]), Level::from(&w[1]));
            let beta = 1.0 - (at.alpha / s.alpha).powi(2);
            let slope = -1.0 / (at.alpha * at.alpha * lambda + at.sigma * at.sigma);
            let (a, b) = (mean(s, at, 1.0, slope), euler(beta, 1.0, slope));
            (a * a * ancestral + Posterior::between(s, at).expect("ordered").var, b * b * em + beta)
        })
    };
    let difference = |steps: usize| {
        let (a, b) = chains(steps);
        (a - b).abs()
    };
    p.number(
        Role::WithCondition,
        "difference of the two final variances with 400 steps over that with 800",
        difference(400) / difference(800),
        2.0,
        0.05,
        "a difference of order 1/T halves but for its next order, 1% at 400 steps",
    );
    for (beta, name) in [
        (0.02_f64, "Ho's last step, beta = 0.02"),
        (0.999, "the cosine schedule's last step, beta = 0.999"),
    ] {
        let (s, at) = (
            Level::new(0.5f64.sqrt(), 0.5f64.sqrt()),
            Level::new((0.5 * (1.0 - beta)).sqrt(), (1.0 - 0.5 * (1.0 - beta)).sqrt()),
        );
        let what = format!("{name}: coefficient of x in DDPM's step, against Euler's");
        p.number(
            Role::WithoutCondition,
            what,
            mean(s, at, 1.0, 0.0),
            euler(beta, 1.0, 0.0),
            1e-12,
            "rounding",
        );
    }
}

fn ddim(p: &mut Probe) {
    let (undivided, sigma, implicit) = (
        p.mutant("x not divided by alpha"),
        p.mutant("sigma for sigma/alpha"),
        p.mutant("slope at the step's end"),
    );
    let random = |t: &Trial| {
        let path = t.path();
        let (a, b) = (t.uniform(0.02, 0.98), t.uniform(0.02, 0.98));
        (path.at(a.max(b)).expect("inside"), path.at(a.min(b)).expect("inside"))
    };
    p.property(
        Role::WithCondition,
        "x/alpha in the time sigma/alpha: Euler's step, against DDIM's of the library, any path and any eps",
        192,
        "1e-12 of the terms",
        |t| {
            let ((at, s), x, eps) = (random(t), t.normal(), t.normal());
            let x0_hat = Conversion::new(Prediction::Eps, Prediction::X0, Frame::from(&at)).expect("alpha > 0").apply(eps, x);
            let want = Posterior::ddim(Level::from(&s), Level::from(&at), 0.0).expect("ordered").mean(x0_hat, x);
            let (from, to) = if sigma { (at.sigma, s.sigma) } else { (at.edm_sigma(), s.edm_sigma()) };
            let got = if undivided { x + s.alpha * (to - from) * eps } else { s.alpha * (x / at.alpha + (to - from) * eps) };
            let size = s.alpha * ((x / at.alpha).abs() + at.edm_sigma() * eps.abs()) + x0_hat.abs();
            t.compare(got, want, 1e-12 * size);
        },
    );
    p.property(
        Role::WithCondition,
        "x/sigma in the time alpha/sigma: Euler's step with slope x0, against DDIM's of the library",
        128,
        "1e-12 of the terms",
        |t| {
            let ((at, s), x, x0_hat) = (random(t), t.normal(), t.normal());
            let want = Posterior::ddim(Level::from(&s), Level::from(&at), 0.0).expect("ordered").mean(x0_hat, x);
            let got = s.sigma * (x / at.sigma + (s.alpha / s.sigma - at.alpha / at.sigma) * x0_hat);
            t.compare(got, want, 1e-12 * (x.abs() + x0_hat.abs() * (1.0 + s.alpha + s.sigma * at.alpha / at.sigma)));
        },
    );
    p.property(
        Role::WithCondition,
        "whole runs over a mixture: the sampler DDIM, against Euler's steps written out; and Euler in t on flow matching",
        24,
        "1e-10 of the states: six steps, each rounded",
        |t| {
            let (law, x) = (t.mixture(1, 3), t.normals(3));
            let path = if t.int(0, 1) == 0 { Path::FlowMatching } else { Path::VP };
            let grid: Vec<_> = (0..6).map(|k| path.at(0.95 - 0.15 * k as f64).expect("inside")).collect();
            let start = x.clone().insert_axis(ndarray::Axis(1));
            let end = sample(&Ddim { eta: 0.0 }, &law, &grid, start.clone(), &mut Silence).expect("a grid").x;
            let eps = |x: &Array1<f64>, at: &PathPoint| (x - &(denoised(&law, x, at) * at.alpha)) / at.sigma;
            let written = grid.windows(2).fold(x, |x, w| {
                let ds = w[1].edm_sigma() - w[0].edm_sigma();
                let step = |slope: Array1<f64>| (&x / w[0].alpha + slope * ds) * w[1].alpha;
                let next = step(eps(&x, &w[0]));
                if implicit { step(eps(&next, &w[1])) } else { next }
            });
            t.compare_all(&written, end.column(0), 1e-10 * 5.0);
            if path == Path::FlowMatching {
                let euler = sample(&FmEuler, &law, &grid, start, &mut Silence).expect("a grid").x;
                t.compare_all(&euler, &end, 1e-10 * 5.0);
            }
        },
    );
    let (at, s) = (Path::VP.moving_at(0.2).expect("inside"), Path::VP.at(0.1).expect("inside"));
    let lambda = 0.01;
    let (level, rates) = (at.level, at.rates);
    let velocity = (level.alpha * rates.alpha * lambda + level.sigma * rates.sigma)
        / (level.alpha * level.alpha * lambda + level.sigma * level.sigma);
    let gain = ddim_gain(lambda, level, s.level());
    p.number(
        Role::WithoutCondition,
        "in the time t on the VP path, from 0.2 to 0.1 with data of variance 0.01: gain of Euler's step, against DDIM's",
        1.0 - 0.1 * velocity,
        gain,
        1e-12,
        "rounding",
    );
}
