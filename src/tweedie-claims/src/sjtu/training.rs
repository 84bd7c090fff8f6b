//! What the simple loss learns, and what the choice of its target changes.

use super::still;
use crate::Claim;
use crate::Role::{Printed, WithCondition, WithoutCondition};
use nalgebra::{dmatrix, dvector};
use ndarray::array;
use tweedie::diffusion::elbo::mmse;
use tweedie::diffusion::loss::{loss_ratio, squared_errors};
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::math::gaussian::{Covariance, Normal};
use tweedie::math::quadrature::IntervalRule;

const EPS: f64 = f64::EPSILON;

pub(super) const LOSS: &[Claim] = &[Claim {
    id: "sjtu/lsimple-optimum",
    slide: "DDPM Training",
    statement: "The minimiser of E||eps - eps_theta(x_t, t)||^2 is the conditional expectation E[eps|x_t].",
    reading: "",
    assumes: "eps_theta may be any function of (x_t, t); checked at one t at a time, on Gaussian mixtures in one dimension.",
    printed: "",
    formula: r"\mathbb{E}\|\varepsilon - f(x_t)\|^2 = \mathbb{E}\|\varepsilon - \mathbb{E}[\varepsilon | x_t]\|^2 +
    \mathbb{E}\|f(x_t) - \mathbb{E}[\varepsilon | x_t]\|^2",
    finding: "It holds: any departure from the conditional expectation adds exactly its own mean square to the loss. A perfect \
    network therefore returns an average of all noises that can have led to x_t, not the one that did.",
    mutants: &["noise of the likeliest component", "x0 in place of the noise", "sign of the noise"],
    check: |p| {
        let (likeliest, clean) =
            (p.mutant("noise of the likeliest component"), p.mutant("x0 in place of the noise"));
        let sign = p.mutant("sign of the noise");
        let rule = IntervalRule::new(20).expect("20 nodes");
        p.property(
            Printed,
            "What a departure h g(x) adds to the loss, against h^2 E g^2",
            24,
            "20 nodes on each of 48 panels, over 10 deviations",
            |t| {
                let law = t.mixture(1, t.int(2, 3));
                let sigma = t.uniform(0.3, 0.95);
                let at = PathPoint::still((1.0 - sigma * sigma).sqrt(), sigma);
                let to_eps = Conversion::new(Prediction::X0, Prediction::Eps, Frame::from(&at))
                    .expect("sigma > 0");
                // Each component by itself is Gaussian: its noise given x_t is linear, and its
                // density is known.
                let parts: Vec<_> = law
                    .components()
                    .iter()
                    .zip(law.weights())
                    .map(|(c, w)| (w, c.mean()[0], c.variances()[0]))
                    .collect();
                let var = |v: f64| at.alpha * at.alpha * v + sigma * sigma;
                let density = |&(w, m, v): &(f64, f64, f64), x: f64| {
                    w * tweedie::math::gaussian::log_density_normal(x, at.alpha * m, var(v)).exp()
                };
                let noise =
                    |&(_, m, v): &(f64, f64, f64), x: f64| sigma * (x - at.alpha * m) / var(v);
                let best = |x: f64| {
                    let mut x0_hat = array![[0.0]];
                    law.denoise(array![[x]].view(), &at, x0_hat.view_mut()).expect("an exact law");
                    let eps_hat = to_eps.apply(x0_hat[[0, 0]], x);
                    let top = parts
                        .iter()
                        .max_by(|a, b| density(a, x).total_cmp(&density(b, x)))
                        .expect("a component");
                    if likeliest {
                        noise(top, x)
                    } else if clean {
                        x0_hat[[0, 0]]
                    } else if sign {
                        -eps_hat
                    } else {
                        eps_hat
                    }
                };
                let (h, k, phase) =
                    (t.uniform(-1.0, 1.0), t.uniform(0.3, 3.0), t.uniform(0.0, 6.0));
                // Loss less what no function of x_t can remove, once with and once without the
                // departure.
                let added = rule.composite(-12.0, 12.0, 48, |x| {
                    let (f, g) = (best(x), h * (k * x + phase).sin());
                    parts
                        .iter()
                        .map(|c| {
                            density(c, x)
                                * ((f + g - noise(c, x)).powi(2) - (f - noise(c, x)).powi(2))
                        })
                        .sum()
                });
                let want = rule.composite(-12.0, 12.0, 48, |x| {
                    parts.iter().map(|c| density(c, x)).sum::<f64>()
                        * (h * (k * x + phase).sin()).powi(2)
                });
                t.compare(added, want, 1e-11);
            },
        );
    },
}];

pub(super) const TARGETS: &[Claim] = &[
    Claim {
        id: "sjtu/x0-and-eps-equivalent",
        slide: "Think: Why Predict Noise Instead of Image?",
        statement: "Predicting x0 and predicting eps are mathematically equivalent.",
        reading: "",
        assumes: "x_t is known to the sampler, as it always is.",
        printed: "",
        formula: r"\hat x_0 = \frac{x_t - \sigma_t \hat\varepsilon}{\alpha_t}, \quad \|\varepsilon - \hat\varepsilon\|^2 =
        \operatorname{SNR}(t)\, \|x_0 - \hat x_0\|^2",
        finding: "It holds if 0 < SNR(t) < infinity and the losses are weighted accordingly: each prediction then determines the \
        other, and the eps-loss is the x0-loss times SNR(t). Without that weight the two losses ask for different things: over \
        DDPM's schedule their ratio falls from 9999 to 4.0e-5. And at zero terminal SNR eps says nothing of x0.",
        mutants: &["inverse SNR", "x0 taken for eps", "division by alpha forgotten"],
        check: |p| {
            let (inverse, taken) = (p.mutant("inverse SNR"), p.mutant("x0 taken for eps"));
            let undivided = p.mutant("division by alpha forgotten");
            let there = |at: Frame<f64>| {
                Conversion::new(Prediction::X0, Prediction::Eps, at).expect("sigma > 0")
            };
            let back = |at: Frame<f64>| {
                Conversion::new(Prediction::Eps, Prediction::X0, at).expect("alpha > 0")
            };
            p.property(
                WithCondition,
                "x0 from the eps that follows from x0",
                256,
                "8 roundings, magnified by sigma/alpha on the way back",
                |t| {
                    let at = Frame::from(&t.point());
                    let (x0, xt) = (t.normal(), t.normal());
                    let eps = if taken { x0 } else { there(at).apply(x0, xt) };
                    let again = back(at).apply(eps, xt) * if undivided { at.alpha } else { 1.0 };
                    let tol = 8.0 * EPS * back(at).condition(there(at).condition(x0, xt), xt);
                    // On paths with alpha = 1 the division does nothing, on the others it must
                    // show.
                    t.compare(again, x0, tol);
                },
            );
            p.property(
                WithCondition,
                "Squared error of eps against SNR times that of x0",
                256,
                "rounding of the two differences",
                |t| {
                    let at = Frame::from(&t.point());
                    let d = t.int(1, 5);
                    let (x0, eps, x0_hat) =
                        (t.normal_rows(1, d), t.normal_rows(1, d), t.normal_rows(1, d));
                    let xt = &x0 * at.alpha + &eps * at.sigma;
                    let mut eps_hat = x0_hat.clone();
                    there(at)
                        .apply_batch(x0_hat.view(), xt.view(), eps_hat.view_mut())
                        .expect("one shape");
                    let got =
                        squared_errors(Prediction::Eps, eps_hat.view(), x0.view(), eps.view(), &at)
                            .expect("one shape")[0];
                    let x0_error =
                        squared_errors(Prediction::X0, x0_hat.view(), x0.view(), eps.view(), &at)
                            .expect("one shape")[0];
                    let snr = loss_ratio(Prediction::Eps, Prediction::X0, &at).expect("sigma > 0");
                    // eps_hat has the rounding of x_t / sigma.
                    let scale = 8.0 * EPS * (1.0 + at.alpha / at.sigma) * 4.0;
                    t.compare(
                        got,
                        if inverse { snr.recip() } else { snr } * x0_error,
                        8.0 * scale * got.sqrt() + 64.0 * EPS * got,
                    );
                },
            );
            let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            for step in [1, 1000] {
                let at = Frame::from(&still(&table, step));
                let ratio = loss_ratio(Prediction::Eps, Prediction::X0, &at).expect("sigma > 0");
                p.number(
                    WithoutCondition,
                    format!(
                        "eps-loss over x0-loss without a weight, DDPM's schedule at t = {step}"
                    ),
                    ratio,
                    1.0,
                    1e-12,
                    "equal losses",
                );
            }
            let end = Frame::from(&PathPoint::NOISE);
            p.fact(
                WithoutCondition,
                "At zero terminal SNR eps determines x0",
                Conversion::new(Prediction::Eps, Prediction::X0, end).is_ok(),
            );
        },
    },
    Claim {
        id: "sjtu/eps-target-scale",
        slide: "Think: Why Predict Noise Instead of Image?",
        statement: "The scale of ||eps|| is the same at every t, while x0-prediction has its hardest task at t = T.",
        reading: "The slide asks questions; checked is the answer that they lead to, with the irreducible error of each target at \
        each t.",
        assumes: "Difficulty is the least mean squared error that any predictor can reach; computed for Gaussian data, mode by \
        mode.",
        printed: "",
        formula: r"\frac{\operatorname{mmse}_{x_0}}{\lambda} = \frac{\sigma_t^2}{\alpha_t^2 \lambda + \sigma_t^2}, \quad
        \operatorname{mmse}_\varepsilon = \frac{\alpha_t^2 \lambda}{\alpha_t^2 \lambda + \sigma_t^2}, \quad \text{sum} = 1",
        finding: "It holds. But the scale of x0 does not depend on t either; what moves is how much of each target can be known. \
        As shares of the target's variance the two irreducible errors add up to 1: x0 is unknowable at t = T (0.99996 of it with \
        DDPM's schedule and unit variance, where eps has 4.0e-5) and eps is unknowable at t = 1 (0.9999).",
        mutants: &[
            "SNR inverted in the eps error",
            "variance-exploding scale",
            "sigma for its square",
        ],
        check: |p| {
            let (inverted, exploding) =
                (p.mutant("SNR inverted in the eps error"), p.mutant("variance-exploding scale"));
            let unsquared = p.mutant("sigma for its square");
            p.property(
                Printed,
                "Mean square of the eps target at any point of any path",
                128,
                "exact",
                |t| {
                    let at = Frame::from(&t.point());
                    let (a, b) = Prediction::Eps.coefficients(&at);
                    let b = if exploding { at.sigma } else { b };
                    t.compare(a * a * t.log_uniform(0.01, 10.0) + b * b, 1.0, 0.0);
                },
            );
            p.property(
                Printed,
                "Least errors of x0 and of eps against conditioning of their joint Gaussian with x_t",
                128,
                "rounding of variances that cancel",
                |t| {
                    let lambda = t.log_uniform(0.05, 5.0);
                    let sigma = t.uniform(0.1, 0.99);
                    let at = PathPoint::still((1.0 - sigma * sigma).sqrt(), sigma);
                    let x0_error = if unsquared { mmse(lambda, (at.alpha, sigma.sqrt())) } else { mmse(lambda, (at.alpha, sigma)) };
                    let snr = loss_ratio(Prediction::Eps, Prediction::X0, &Frame::from(&at)).expect("sigma > 0");
                    let eps_error = x0_error * if inverted { snr.recip() } else { snr };
                    let sources = Normal::new(dvector![0.0, 0.0], Covariance::Diagonal(dvector![lambda, 1.0])).expect("variances");
                    let joint =
                        sources.joint(&dmatrix![at.alpha, sigma], &dvector![0.0], Covariance::Isotropic(0.0)).expect("a sum");
                    let left = joint.condition(&[2], &[t.normal()]).expect("x_t has variance").cov_matrix();
                    t.compare(x0_error, left[(0, 0)], 16.0 * EPS * lambda);
                    t.compare(eps_error, left[(1, 1)], 16.0 * EPS);
                    t.compare(x0_error / lambda + eps_error, 1.0, 16.0 * EPS);
                },
            );
            let linear = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            for (step, t) in [(1, "1"), (1000, "T = 1000")] {
                let (at, row) = (still(&linear, step), &linear.rows()[step - 1]);
                let snr = loss_ratio(Prediction::Eps, Prediction::X0, &Frame::from(&at))
                    .expect("sigma > 0");
                let x0_error =
                    mmse(1.0, (at.alpha, if unsquared { at.sigma.sqrt() } else { at.sigma }));
                let eps_error = x0_error * if inverted { snr.recip() } else { snr };
                let why = "rounding; for unit variance x_t has variance 1";
                let what = format!(
                    "DDPM's schedule at t = {t}, unit variance: least error of x0, against 1 - alpha_bar"
                );
                p.number(Printed, what, x0_error, 1.0 - row.alpha_bar, 16.0 * EPS, why);
                let what = format!(
                    "DDPM's schedule at t = {t}, unit variance: least error of eps, against alpha_bar"
                );
                p.number(Printed, what, eps_error, row.alpha_bar, 16.0 * EPS, why);
            }
            p.property(
                Printed,
                "Rises of the x0 error and falls of the eps error from step to step",
                64,
                "counts of steps",
                |t| {
                    let table = t.table(t.int(2, 200));
                    let lambda = t.log_uniform(0.01, 10.0);
                    let errors: Vec<(f64, f64)> = (1..=table.steps())
                        .map(|step| {
                            let at = still(&table, step);
                            let snr =
                                loss_ratio(Prediction::Eps, Prediction::X0, &Frame::from(&at))
                                    .expect("sigma > 0");
                            let x0_error = mmse(lambda, (at.alpha, at.sigma));
                            (x0_error, x0_error * if inverted { snr.recip() } else { snr })
                        })
                        .collect();
                    let steps = (table.steps() - 1) as f64;
                    t.compare(
                        errors.windows(2).filter(|w| w[1].0 >= w[0].0).count() as f64,
                        steps,
                        0.0,
                    );
                    t.compare(
                        errors.windows(2).filter(|w| w[1].1 <= w[0].1).count() as f64,
                        steps,
                        0.0,
                    );
                },
            );
        },
    },
];
