//! Signal-to-noise ratio, the shape of schedules, learning them, and the v-parameterisation.

use crate::{Claim, Probe, Role, Trial};
use num_dual::{Dual64, DualNum};
use std::f64::consts::{FRAC_PI_2, PI};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{
    GaussianData, Part, Reverse, ReverseVar, continuous_transitions, gaussian_bound, mmse,
};
use tweedie::diffusion::kernel::Transition;
use tweedie::diffusion::loss::loss_ratio;
use tweedie::diffusion::path::Path;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::schedule::{Row, Schedule, Table};
use tweedie::diffusion::weighting::vlb_continuous;
use tweedie::math::larger;
use tweedie::math::quadrature::IntervalRule;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/snr",
        slide: "Noise Schedule Improvements",
        statement: "The signal-to-noise ratio at step t is alpha_bar_t / (1 - alpha_bar_t).",
        reading: "",
        assumes: "Data of unit second moment; in general the ratio of the powers is that second moment times SNR(t).",
        printed: "",
        formula: r"\operatorname{SNR}(t) = \frac{\bar\alpha_t}{1-\bar\alpha_t} = \frac{\mathbb{E}\lVert\sqrt{\bar\alpha_t}\,x_0\rVert^2}{\mathbb{E}\lVert\sqrt{1-\bar\alpha_t}\,\varepsilon\rVert^2}",
        finding: "It is the ratio of the powers of signal and noise after t kernels, and falls with every step. Early in the schedule 1 - alpha_bar cancels: \
                  a table in single precision has the first SNR of the linear schedule wrong by 1.7e-4 of itself.",
        mutants: &[
            "amplitudes, not powers",
            "alpha_step for alpha_bar",
            "alpha_bar of the step before",
            "table in single precision",
        ],
        check: snr,
    },
    Claim {
        id: "ghent/cosine-smoother",
        slide: "Noise Schedule Improvements",
        statement: "The cosine schedule makes a smoother transition from data to noise than the linear one.",
        reading: "",
        assumes: "1000 steps; linear betas from 1e-4 to 0.02; cosine with offset 0.008 and betas capped at 0.999.",
        printed: "",
        formula: r"\max_t\, (\bar\alpha_{t-1} - \bar\alpha_t), \qquad \max_t\, \left(\log \operatorname{SNR}(t-1) - \log \operatorname{SNR}(t)\right)",
        finding: "True if one looks at alpha_bar, or at log-SNR in the middle half of the schedule: cosine's largest fall of alpha_bar in one step is 0.0016 against 0.0027, \
                  its steepest fall of log-SNR there 58% of linear's, and it spends 880 of 1000 steps between SNR 100 and 1/100, linear 647. \
                  At the noisy end it is the rougher one: its last step alone takes 6.9 off the log-SNR, the linear schedule's 0.02.",
        mutants: &["cosine not squared", "cosine table off by one", "steps divided as integers"],
        check: cosine,
    },
    Claim {
        id: "ghent/learned-schedule",
        slide: "Noise Schedule Improvements",
        statement: "A network can learn the optimal schedule during training.",
        reading: "",
        assumes: "The objective is the variational bound with the exact denoiser of Gaussian data, fixed (posterior) reverse variances, and fixed ends of the schedule.",
        printed: "",
        formula: r"\frac{1}{2}\int_0^1 \left(-\frac{d \log \operatorname{SNR}}{dt}\right) \mathbb{E}\lVert\varepsilon - \hat\varepsilon\rVert^2\, dt = \frac{1}{2} \sum_k \log \frac{1 + \lambda_k \operatorname{SNR}_{\max}}{1 + \lambda_k \operatorname{SNR}_{\min}}",
        finding: "True in discrete time: with T steps between fixed ends the bound depends on where they are, and a search over the log-SNRs lowers it. In the limit of many steps only the SNRs at the two ends are left in \
                  the bound, and there is nothing between them to learn but the variance of its Monte-Carlo estimate.",
        mutants: &["rate of log-SNR left out", "error at the cleaner end of a step", "no search"],
        check: learned,
    },
    Claim {
        id: "ghent/velocity",
        slide: "Noise Schedule Improvements",
        statement: "The v-parameterisation predicts the velocity v = alpha eps - sigma x0 instead of the noise.",
        reading: "The slide has no formula; v is Salimans and Ho's.",
        assumes: "A variance-preserving path, alpha = cos(phi) and sigma = sin(phi).",
        printed: "",
        formula: r"v = \alpha\,\varepsilon - \sigma\,x_0 = \frac{d x_\phi}{d\phi}, \qquad x_0 = \alpha\,x_\phi - \sigma\,v, \qquad \varepsilon = \sigma\,x_\phi + \alpha\,v",
        finding: "It is the rate of change of the state per unit of the angle phi, gives x0 and eps by a rotation at every noise level, and still tells x0 at pure noise, where the predicted noise no longer does. \
                  On paths that do not preserve variance the rate of change is another combination, alpha' x0 + sigma' eps.",
        mutants: &["sign", "alpha and sigma swapped", "eps - x0"],
        check: velocity,
    },
];

fn snr(p: &mut Probe) {
    let (roots, step, before, single) = (
        p.mutant("amplitudes, not powers"),
        p.mutant("alpha_step for alpha_bar"),
        p.mutant("alpha_bar of the step before"),
        p.mutant("table in single precision"),
    );
    let formula = move |rows: &[Row], t: usize| {
        let row = if before { &rows[t.max(2) - 2] } else { &rows[t - 1] };
        // 1 - alpha_bar as the table holds it, without cancellation.
        let (kept, lost) =
            if step { (row.alpha_step, row.beta) } else { (row.alpha_bar, row.sigma * row.sigma) };
        match (roots, single) {
            (true, _) => (kept / lost).sqrt(),
            (_, true) => f64::from(kept as f32) / f64::from(1.0 - kept as f32),
            _ => kept / lost,
        }
    };
    p.property(
        Role::Printed,
        "alpha_bar/(1 - alpha_bar), against the power of the signal over that of the noise after t kernels",
        96,
        "1e-12: up to 300 products of rounded kernels",
        |t| {
            let table = t.table(t.int(5, 300));
            let step = t.int(1, table.steps());
            let chain = table.rows()[..step]
                .iter()
                .map(|r| Transition { scale: r.alpha_step.sqrt(), var: r.beta })
                .reduce(Transition::then)
                .expect("a step");
            let want = chain.scale * chain.scale / chain.var;
            t.compare(formula(table.rows(), step), want, 1e-12 * want);
        },
    );
    p.property(Role::Printed, "it falls at every step (1 if so)", 64, "true or false", |t| {
        let table = t.table(t.int(5, 300));
        let falls = (2..=table.steps())
            .all(|s| before && s == 2 || formula(table.rows(), s) < formula(table.rows(), s - 1));
        t.compare(f64::from(falls), 1.0, 0.0);
    });
    let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's schedule");
    p.number(
        Role::Printed,
        "linear schedule, t = 1: 1/beta_1 - 1",
        formula(table.rows(), 1),
        9999.0,
        1e-11,
        "8 ulp of 9999",
    );
    let single = 1.0f32 - 1e-4f32;
    p.number(
        Role::Printed,
        "the same from alpha_bar in single precision, relative error",
        (f64::from(single / (1.0 - single)) / 9999.0 - 1.0).abs(),
        0.0,
        0.5 * f64::from(f32::EPSILON) / 1e-4,
        "half an ulp of alpha_bar, over beta",
    );
}

/// Largest value of `f` at the steps `from..=to`, with the row before.
fn largest(table: &Table, from: usize, to: usize, f: impl Fn(&Row, &Row) -> f64) -> f64 {
    (from..=to).map(|t| f(&table.rows()[t - 2], &table.rows()[t - 1])).fold(0.0, larger)
}

fn cosine(p: &mut Probe) {
    let (bare, late, integers) = (
        p.mutant("cosine not squared"),
        p.mutant("cosine table off by one"),
        p.mutant("steps divided as integers"),
    );
    let linear = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's schedule");
    let f = |u: f64| ((u + 0.008) / 1.008 * FRAC_PI_2).cos().powi(2);
    let betas = |g: &dyn Fn(f64) -> f64, at: &dyn Fn(usize) -> f64| {
        let betas: Vec<f64> =
            (1..=1000).map(|t| (1.0 - g(at(t)) / g(at(t - 1))).clamp(1e-300, 0.999)).collect();
        Table::from_betas(&betas).expect("betas in (0, 1)")
    };
    let cosine = if bare {
        betas(&|u| f(u).sqrt(), &|t| t as f64 / 1000.0)
    } else if late {
        betas(&f, &|t| (t + 1).min(1000) as f64 / 1000.0)
    } else if integers {
        betas(&f, &|t| (t / 1000) as f64)
    } else {
        Table::new(Schedule::COSINE, 1000, false).expect("the paper's schedule")
    };
    // The paper's formula, wherever no beta is capped.
    let worst = cosine.rows()[..999]
        .iter()
        .map(|r| (r.alpha_bar - f(r.t as f64 / 1000.0) / f(0.0)).abs())
        .fold(0.0, larger);
    p.number(
        Role::WithCondition,
        "cosine table against cos^2((t/T + 0.008)/1.008 pi/2), normalised: worst difference up to t = 999",
        worst,
        0.0,
        1e-14,
        "rounding of the cosines",
    );
    let fall = |table: &Table| largest(table, 2, 1000, |s, t| s.alpha_bar - t.alpha_bar);
    // The continuous slopes: alpha_bar = exp(-B), B = 0.1 t + 9.95 t^2 for linear, steepest where
    // beta^2 = beta'.
    let t = ((19.9f64).sqrt() - 0.1) / 19.9;
    let steepest = (19.9f64).sqrt() * (-(0.1 * t + 9.95 * t * t)).exp() / 1000.0;
    p.number(
        Role::WithCondition,
        "largest fall of alpha_bar in one step, linear",
        fall(&linear),
        steepest,
        0.01 * steepest,
        "1%: a step is 1/1000 of the time, and betas are not a rate",
    );
    let steepest = FRAC_PI_2 / 1.008 / f(0.0) / 1000.0;
    p.number(
        Role::WithCondition,
        "largest fall of alpha_bar in one step, cosine",
        fall(&cosine),
        steepest,
        1e-5 * steepest,
        "a step is 1/1000 of the time: relative curvature 1e-6",
    );
    let rate = |table: &Table| largest(table, 251, 750, |s, t| s.log_snr - t.log_snr);
    for (what, ratio) in [
        (
            "largest fall of alpha_bar in one step, cosine over linear",
            fall(&cosine) / fall(&linear),
        ),
        (
            "largest fall of log-SNR in one step of the middle half, cosine over linear",
            rate(&cosine) / rate(&linear),
        ),
    ] {
        p.number(Role::WithCondition, what, ratio, 0.0, 1.0, "below 1 cosine's is the smaller");
    }
    let between = |table: &Table| {
        table.rows().iter().filter(|r| r.log_snr.abs() <= 100f64.ln()).count() as f64
    };
    p.number(
        Role::WithCondition,
        "steps between SNR 100 and 1/100, cosine",
        between(&cosine),
        880.0,
        0.0,
        "a count",
    );
    p.number(
        Role::WithCondition,
        "steps between SNR 100 and 1/100, linear",
        between(&linear),
        647.0,
        0.0,
        "a count",
    );
    let last = |table: &Table| table.rows()[998].log_snr - table.rows()[999].log_snr;
    p.number(
        Role::WithoutCondition,
        "fall of log-SNR in the last step: cosine, which should not exceed linear's",
        last(&cosine),
        last(&linear),
        last(&linear),
        "at most twice it",
    );
}

fn learned(p: &mut Probe) {
    let (rate_out, clean_end, no_search) = (
        p.mutant("rate of log-SNR left out"),
        p.mutant("error at the cleaner end of a step"),
        p.mutant("no search"),
    );
    let at = |point: &PathPoint| (point.alpha, point.sigma);
    let preserving = |log_snr: f64| {
        let frame = Frame::<f64>::variance_preserving(log_snr);
        PathPoint::still(frame.alpha, frame.sigma)
    };
    // Transitions of a chain over these log-SNRs, posterior variances, exact denoiser.
    let transitions = move |variances: &[f64], log_snrs: &[f64]| {
        let points: Vec<PathPoint> = log_snrs.iter().map(|&l| preserving(l)).collect();
        let error =
            |q: &PathPoint, lambda: f64| match points.iter().position(|r| r.alpha == q.alpha) {
                Some(k) if clean_end && k > 0 => mmse(lambda, at(&points[k - 1])),
                _ => mmse(lambda, at(q)),
            };
        let data = GaussianData { variances, mean_square: 0.0 };
        let reverse = Reverse { var: ReverseVar::Posterior, ..Reverse::optimal() };
        gaussian_bound(&points, data, error, &reverse)
            .expect("a falling SNR")
            .part(Part::Transition)
    };
    // Coordinate descent over the inner log-SNRs by golden sections.
    let search = move |variances: &[f64], start: &[f64]| {
        let mut log_snrs = start.to_vec();
        for _ in 0..if no_search { 0 } else { 4 } {
            for k in 1..log_snrs.len() - 1 {
                let (mut a, mut b) = (log_snrs[k + 1], log_snrs[k - 1]);
                let mut value = |l: f64| {
                    log_snrs[k] = l;
                    transitions(variances, &log_snrs)
                };
                let golden = 0.5 * (5f64.sqrt() - 1.0);
                for _ in 0..12 {
                    let (l, r) = (b - golden * (b - a), a + golden * (b - a));
                    if value(l) < value(r) { b = r } else { a = l }
                }
                log_snrs[k] = 0.5 * (a + b);
            }
        }
        log_snrs
    };
    let (first, last) = (4.0, -2.0);
    let limit = move |variances: &[f64]| {
        variances
            .iter()
            .map(|&l| continuous_transitions(l, at(&preserving(first)), at(&preserving(last))))
            .sum::<f64>()
    };
    let modes = |t: &Trial| (0..3).map(|_| t.log_uniform(0.05, 5.0)).collect::<Vec<_>>();
    p.property(
        Role::WithCondition,
        "T = 8 between fixed ends: the search lowers the bound by a thousandth or more, and not below the limit of many steps (1 if so)",
        16,
        "true or false",
        |t| {
            let variances = modes(t);
            let mut inner: Vec<f64> = (0..6).map(|_| t.uniform(last, first)).collect();
            inner.sort_by(|a, b| b.total_cmp(a));
            let start = [&[first], inner.as_slice(), &[last]].concat();
            let (before, after) = (transitions(&variances, &start), transitions(&variances, &search(&variances, &start)));
            t.compare(f64::from(after < 0.999 * before && after > limit(&variances)), 1.0, 0.0);
        },
    );
    // The same in continuous time along a path, by quadrature of weight times error over its own
    // time.
    let rule = IntervalRule::new(20).expect("nodes");
    let along = move |path: &Path, variances: &[f64]| {
        let t = |l: f64| path.t_from_log_snr(l).expect("on the path");
        rule.composite(t(first), t(last), 8, |t| {
            let point = path.at(t).expect("inside the path");
            let weight = if rate_out {
                1.0
            } else {
                vlb_continuous(&Frame::from(&point)).expect("rates").eps
            };
            weight * variances.iter().map(|&l| point.snr() * mmse(l, at(&point))).sum::<f64>()
        })
    };
    p.property(
        Role::Printed,
        "continuous time, any path: the integral over t, against the closed form of its two ends",
        24,
        "1e-10 of it: 8 panels of 20 nodes",
        |t| {
            let variances = modes(t);
            let want = limit(&variances);
            t.compare(along(&t.path(), &variances), want, 1e-10 * want);
        },
    );
    let variances = [3.0, 0.5, 0.1];
    let uniform: Vec<f64> = (0..8).map(|k| first + (last - first) * k as f64 / 7.0).collect();
    let gained =
        transitions(&variances, &uniform) - transitions(&variances, &search(&variances, &uniform));
    let change = along(&Path::VP, &variances) - along(&Path::FlowMatching, &variances);
    p.number(
        Role::WithoutCondition,
        "continuous time: nats gained by another path between the same ends, against those that 8 steps gain by the search",
        change.abs(),
        gained,
        1e-6,
        "quadrature is good to 1e-10",
    );
}

fn velocity(p: &mut Probe) {
    let (sign, swapped, plain) =
        (p.mutant("sign"), p.mutant("alpha and sigma swapped"), p.mutant("eps - x0"));
    let target = move |x0: f64, eps: f64, frame: &Frame<f64>| match (sign, swapped, plain) {
        (true, ..) => -Prediction::V.target(x0, eps, frame),
        (_, true, _) => frame.sigma * eps - frame.alpha * x0,
        (.., true) => eps - x0,
        _ => Prediction::V.target(x0, eps, frame),
    };
    p.property(
        Role::Printed,
        "alpha eps - sigma x0, against the derivative of cos(phi) x0 + sin(phi) eps by dual numbers",
        128,
        "8 ulp of the terms",
        |t| {
            let (x0, eps, phi) = (t.normal(), t.normal(), t.uniform(0.0, FRAC_PI_2));
            let (sin, cos) = Dual64::from_re(phi).derivative().sin_cos();
            let frame = Frame::from(&PathPoint::still(cos.re, sin.re));
            t.compare(target(x0, eps, &frame), (cos * x0 + sin * eps).eps, 8.0 * f64::EPSILON * (x0.abs() + eps.abs()));
        },
    );
    p.property(
        Role::Printed,
        "on the cosine path the state's rate in t, over pi/2",
        64,
        "16 ulp of the terms",
        |t| {
            let (x0, eps) = (t.normal(), t.normal());
            let frame = Frame::from(&Path::Cosine.at(t.uniform(0.0, 1.0)).expect("on the path"));
            let rate = Prediction::Velocity.target(x0, eps, &frame) * 2.0 / PI;
            t.compare(target(x0, eps, &frame), rate, 16.0 * f64::EPSILON * (x0.abs() + eps.abs()));
        },
    );
    p.property(
        Role::Printed,
        "x0 and eps from v by rotation, both by hand and by the library, pure noise included",
        128,
        "32 ulp of the terms",
        |t| {
            let (x0, eps, phi) = (t.normal(), t.normal(), t.uniform(0.0, FRAC_PI_2));
            let (sigma, alpha) = if t.int(0, 7) == 0 { (1.0, 0.0) } else { phi.sin_cos() };
            let frame = Frame::from(&PathPoint::still(alpha, sigma));
            let (x, v) = (alpha * x0 + sigma * eps, target(x0, eps, &frame));
            let tol = 32.0 * f64::EPSILON * (x0.abs() + eps.abs());
            let by = |to| {
                Conversion::new(Prediction::V, to, frame).expect("v is never singular").apply(v, x)
            };
            t.compare(alpha * x - sigma * v, x0, tol);
            t.compare(sigma * x + alpha * v, eps, tol);
            t.compare(by(Prediction::X0), x0, tol);
            t.compare(by(Prediction::Eps), eps, tol);
        },
    );
    p.fact(
        Role::Printed,
        "at pure noise x0 does not follow from eps",
        Conversion::new(Prediction::Eps, Prediction::X0, Frame::from(&PathPoint::NOISE)).is_err(),
    );
    let at = Frame::variance_preserving(3f64.ln());
    let ratio = loss_ratio(Prediction::V, Prediction::Eps, &at).expect("finite");
    p.number(
        Role::Printed,
        "at SNR 3, squared error of v over that of eps: 1 + 1/SNR",
        ratio,
        4.0 / 3.0,
        8.0 * f64::EPSILON,
        "8 ulp",
    );
}
