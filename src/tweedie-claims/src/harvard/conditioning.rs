//! Conditioning and guidance.

use super::objectives::{Points, WHY, denoised, level, wave};
use crate::{Claim, Probe, Role, Trial};
use ndarray::{Array1, Axis, array};
use num_dual::Dual64;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::sde::tweedie_score;
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::exact::guidance::{guided_law, tilted_law};
use tweedie::law::conditional::Guided;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::quadrature::IntervalRule;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/conditional-dsm",
        slide: "Training Conditioning Diffusion",
        statement: "The conditional denoising loss has the conditional score as its optimum.",
        reading: "",
        assumes: "Pairs (x0, c) from their joint law; where c is dropped at random the network is told so.",
        printed: "",
        formula: r"D^*(x;c,\sigma) = \mathbb{E}[x_0|x_\sigma = x, c], \qquad \frac{D^*(x;c,\sigma) - x}{\sigma^2} = \nabla_x \log p(x|c,\sigma)",
        finding: "The loss falls apart into one loss for each c, and the optimum of each is the denoiser of that class. With c dropped independently of x0, the null token's optimum is the \
                  unconditional denoiser.",
        mutants: &[
            "trained on all classes together",
            "score without its square",
            "c dropped for one class only",
        ],
        check: conditional_dsm,
    },
    Claim {
        id: "harvard/cfg-bayes",
        slide: "One interpretation of CFG",
        statement: "At one noise level the guided score is the gradient of log(p(x) p(c|x)^w).",
        reading: "",
        assumes: "p(x) and p(c|x) are those of the noised states of that level, both exact.",
        printed: "",
        formula: r"\nabla \log p(x) + w\left(\nabla \log p(x|c) - \nabla \log p(x)\right) = \nabla \log \left(p(x)\, p(c|x)^w\right)",
        finding: "True for every w, also negative ones: p(c) does not depend on x and drops out. The difference of log(p p(c|x)^w) between any two states is the integral of the guided score between them.",
        mutants: &[
            "w counted from the condition",
            "condition and null swapped",
            "p(c|x) without its power",
        ],
        check: cfg_bayes,
    },
    Claim {
        id: "harvard/cfg-samples-tilted-law",
        slide: "One interpretation of CFG",
        statement: "Sampling with the guided score as with a normal score samples the clean data's p(x) p(c|x)^w.",
        reading: "No slide states this. One says to treat the guided score as a normal score, another that it is the gradient of log(p(x) p(c|x)^w), which is a claim of its own and true at each noise level; this is what the two together suggest.",
        assumes: "Gaussian data N(0, u) and a Gaussian class N(m, c), the exact probability-flow ODE from pure noise.",
        printed: "",
        formula: r"\operatorname{Var}_{\text{guided}} = u^{1-w} c^{w}, \qquad \operatorname{Var}_{\text{tilted}} = \left(\frac{1-w}{u} + \frac{w}{c}\right)^{-1}",
        finding: "It holds if w is 0 or 1, or the class as wide as the data. Otherwise the tilted laws of the noised levels are not noised versions of one law, so no trajectory follows them: the variance comes \
                  out as the geometric mean of weights 1-w and w, not the harmonic one, 1/16 and not 1/7 for u = 1, c = 1/4, w = 2.",
        mutants: &[
            "guidance counted from the condition",
            "harmonic mean",
            "roles of data and class swapped",
        ],
        check: cfg_tilted,
    },
];

fn conditional_dsm(p: &mut Probe) {
    let (together, square, one_class) = (
        p.mutant("trained on all classes together"),
        p.mutant("score without its square"),
        p.mutant("c dropped for one class only"),
    );
    let classes = |t: &Trial| {
        let (a, b, weight) = (Points::random(t, 2), Points::random(t, 3), t.uniform(0.2, 0.8));
        let law = Mixture::new(array![weight, 1.0 - weight], vec![a.law.clone(), b.law.clone()])
            .expect("positive weights");
        (law, [a, b])
    };
    p.property(
        Role::Printed,
        "E[(E[x0|x_t,c] - x0) h(x_t)] within each class, for random classes and waves h",
        64,
        WHY,
        |t| {
            let ((law, data), at, h) = (classes(t), level(t), wave(t));
            for (c, class) in data.iter().enumerate() {
                let f = |x: &Array1<f64>| {
                    if together {
                        denoised(&law, x, &at)
                    } else {
                        denoised(law.class(c).expect("a class"), x, &at)
                    }
                };
                t.compare(
                    class.residual(&at, |x0, _| x0, f, &h),
                    0.0,
                    1e-11 * (2.0 + at.alpha) / at.sigma,
                );
            }
        },
    );
    p.property(
        Role::Printed,
        "(D(x; c) - x)/sigma^2, against the gradient of log p(x|c) by dual numbers",
        96,
        "1e-11 of (|x| + |x0|)/sigma^2",
        |t| {
            let (law, sigma, c, x) =
                (t.mixture(1, 3), t.uniform(0.2, 2.0), t.int(0, 2), 2.0 * t.normal());
            let at = PathPoint::still(1.0, sigma);
            let class = law.class(c).expect("a class");
            let one = Array1::from_elem(1, x);
            let x0_hat =
                if together { denoised(&law, &one, &at)[0] } else { denoised(class, &one, &at)[0] };
            let score =
                tweedie_score(x, x0_hat, Level::from(&at)) * if square { sigma } else { 1.0 };
            let want = class
                .log_density_of(
                    &[Dual64::from(x).derivative()],
                    Dual64::from(1.0),
                    Dual64::from(sigma),
                )
                .eps;
            t.compare(score, want, 1e-11 * (x.abs() + x0_hat.abs() + 1.0) / (sigma * sigma));
        },
    );
    p.property(
        Role::Printed,
        "null token, c dropped at random: E[(D - x0) h(x_t)] over all classes, D unconditional",
        64,
        WHY,
        |t| {
            let ((law, data), at, h) = (classes(t), level(t), wave(t));
            let f = |x: &Array1<f64>| {
                if one_class {
                    denoised(law.class(0).expect("a class"), x, &at)
                } else {
                    denoised(&law, x, &at)
                }
            };
            let total: f64 = law
                .weights()
                .iter()
                .zip(&data)
                .map(|(w, class)| w * class.residual(&at, |x0, _| x0, f, &h))
                .sum();
            t.compare(total, 0.0, 1e-11 * (2.0 + at.alpha) / at.sigma);
        },
    );
}

fn cfg_bayes(p: &mut Probe) {
    let (extra, swapped, power) = (
        p.mutant("w counted from the condition"),
        p.mutant("condition and null swapped"),
        p.mutant("p(c|x) without its power"),
    );
    let score = move |law: &Mixture, c: usize, w: f64, x: &Array1<f64>, at: &PathPoint| {
        let class = law.class(c).expect("a class");
        let w = if extra { w + 1.0 } else { w };
        let guided = if swapped { Guided::new(law, class, w) } else { Guided::new(class, law, w) }
            .expect("one space");
        let row = x.view().insert_axis(Axis(0));
        let mut x0_hat = row.to_owned();
        guided.denoise(row, at, x0_hat.view_mut()).expect("an exact law");
        Array1::from_shape_fn(x.len(), |i| tweedie_score(x[i], x0_hat[[0, i]], Level::from(at)))
    };
    p.property(
        Role::Printed,
        "score of the library's guided denoiser, against the gradient of log p + w log p(c|x) by dual numbers",
        96,
        "1e-11 of the scores that are added, w of them",
        |t| {
            let (law, at, c, w, x) = (t.mixture(2, 3), level(t), t.int(0, 2), t.uniform(-2.0, 6.0), t.normals(2) * 2.0);
            let got = score(&law, c, w, &x, &at);
            let (alpha, sigma) = (Dual64::from(at.alpha), Dual64::from(at.sigma));
            for i in 0..2 {
                let x: Vec<Dual64> = (0..2).map(|j| Dual64::new(x[j], f64::from(u8::from(i == j)))).collect();
                let (all, class) = (law.log_density_of(&x, alpha, sigma), law.components()[c].log_density_of(&x, alpha, sigma));
                let tilted = all + (class - all) * if power { 1.0 } else { w };
                t.compare(
                    got[i],
                    tilted.eps,
                    1e-11 * (1.0 + w.abs()) * (10.0 + all.eps.abs() + class.eps.abs()) / at.sigma.powi(2),
                );
            }
        },
    );
    let rule = IntervalRule::new(20).expect("nodes");
    p.property(
        Role::Printed,
        "integral of the guided score from one state to another, against the difference of log p + w log p(c|x)",
        16,
        "1e-8: 80 nodes on the line between",
        |t| {
            let (law, at, c, w) =
                (t.mixture(2, 2), PathPoint::still(t.uniform(0.3, 0.8), t.uniform(0.6, 1.5)), t.int(0, 1), t.uniform(-1.0, 4.0));
            let (from, to) = (t.normals(2), t.normals(2));
            let step = &to - &from;
            let got = rule.composite(0.0, 1.0, 4, |s| score(&law, c, w, &(&from + &(&step * s)), &at).dot(&step));
            let w = if power { 1.0 } else { w };
            let log = |x: &Array1<f64>| {
                let row = x.view().insert_axis(Axis(0));
                law.log_density(row, &at)[0] + w * law.log_responsibilities(row, &at)[[0, c]]
            };
            t.compare(got, log(&to) - log(&from), 1e-8 * (10.0 + got.abs()));
        },
    );
}

fn cfg_tilted(p: &mut Probe) {
    let (extra, harmonic, swapped) = (
        p.mutant("guidance counted from the condition"),
        p.mutant("harmonic mean"),
        p.mutant("roles of data and class swapped"),
    );
    let one = |mean: f64, var: f64| Gaussian::diagonal(array![mean], array![var]).expect("a law");
    let clean = PathPoint::CLEAN;
    let produced = move |u: f64, m: f64, c: f64, w: f64| {
        let w = if extra { w + 1.0 } else { w };
        let (data, class) =
            if swapped { (one(m, c), one(0.0, u)) } else { (one(0.0, u), one(m, c)) };
        let law = guided_law(&data, &class, w, &one(0.0, 1.0), PathPoint::still(1e-9, 1.0), clean)
            .expect("variances > 0");
        let law = if harmonic { tilted_law(&data, &class, w, clean).unwrap_or(law) } else { law };
        (law.mean()[0], law.variances()[0])
    };
    let tilted = |u: f64, m: f64, c: f64, w: f64| {
        let precision = (1.0 - w) / u + w / c;
        (w * m / c / precision, 1.0 / precision)
    };
    let why = "1e-7: the start holds 1e-9 of signal";
    p.number(
        Role::WithoutCondition,
        "u = 1, c = 1/4, w = 2: variance of the guided samples, against that of p(x) p(c|x)^2",
        produced(1.0, 1.0, 0.25, 2.0).1,
        1.0 / 7.0,
        1e-7,
        why,
    );
    p.number(
        Role::WithoutCondition,
        "the same with m = 1: mean of the guided samples, against that of p(x) p(c|x)^2",
        produced(1.0, 1.0, 0.25, 2.0).0,
        tilted(1.0, 1.0, 0.25, 2.0).0,
        1e-7,
        why,
    );
    p.property(
        Role::WithCondition,
        "log variance of the guided samples, against (1-w) log u + w log c",
        64,
        why,
        |t| {
            let (u, c, w) =
                (t.log_uniform(0.1, 5.0), t.log_uniform(0.1, 5.0), t.uniform(-1.0, 5.0));
            t.compare(
                produced(u, t.normal(), c, w).1.ln(),
                (1.0 - w) * u.ln() + w * c.ln(),
                1e-7 * (1.0 + w.abs()),
            );
        },
    );
    p.property(
        Role::WithCondition,
        "mean and variance of the guided samples, against the guided ODE integrated by Runge-Kutta",
        12,
        "1e-6: 1600 steps of fourth order in log tau, from tau = e^36 to e^-30",
        |t| {
            let (u, m, c, w) =
                (t.log_uniform(0.2, 4.0), t.normal(), t.log_uniform(0.2, 4.0), t.uniform(0.0, 3.0));
            // In tau = sigma^2 the velocity of x is -score/2; one trajectory from 0 is the mean,
            // one from 1 adds the gain.
            let slope = |log: f64, x: f64| {
                0.5 * log.exp() * ((1.0 - w) * x / (u + log.exp()) + w * (x - m) / (c + log.exp()))
            };
            let (high, low, steps) = (36.0, -30.0, 1600);
            let h = (low - high) / f64::from(steps);
            let run = |start: f64| {
                (0..steps).fold(start, |x, k| {
                    let l = high + h * f64::from(k);
                    let a = slope(l, x);
                    let b = slope(l + 0.5 * h, x + 0.5 * h * a);
                    let c = slope(l + 0.5 * h, x + 0.5 * h * b);
                    let d = slope(l + h, x + h * c);
                    x + h / 6.0 * (a + 2.0 * b + 2.0 * c + d)
                })
            };
            let (mean, std) = (run(0.0), run((0.5f64 * high).exp()));
            let (got_mean, got_var) = produced(u, m, c, w);
            t.compare(got_mean, mean, 1e-6 * (1.0 + m.abs() * w));
            t.compare(got_var.sqrt(), std - mean, 1e-6 * (1.0 + std.abs()));
        },
    );
    p.property(
        Role::WithCondition,
        "w = 0 or 1, or a class as wide as the data: guided and tilted law agree",
        48,
        why,
        |t| {
            let (u, m, wide) = (t.log_uniform(0.2, 4.0), t.normal(), t.int(0, 1) == 0);
            let (c, w) = if wide {
                (u, t.uniform(0.0, 4.0))
            } else {
                (t.log_uniform(0.2, 4.0), t.int(0, 1) as f64)
            };
            let (got, want) = (produced(u, m, c, w), tilted(u, m, c, w));
            t.compare(got.0, want.0, 1e-7 * (1.0 + w * m.abs()));
            t.compare(got.1, want.1, 1e-7 * want.1.max(1.0));
        },
    );
}
