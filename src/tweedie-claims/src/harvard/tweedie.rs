//! From the denoiser to the score: Tweedie's formula, and what the denoising loss is minimised by.

use super::tools::{EPS, Slopes, dense, level, noised, vector, wide_mixture};
use crate::Claim;
use crate::Role::{Corrected, Printed};
use nalgebra::{DMatrix, DVector};
use ndarray::Array2;
use num_dual::{DualNum, first_derivative};
use tweedie::diffusion::kernel::Transition;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::sde::{tweedie_score, tweedie_x0_hat};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::law::empirical::Empirical;
use tweedie::math::gaussian::{Covariance, Normal};
use tweedie::math::quadrature::IntervalRule;
use tweedie::math::{larger, smaller};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/tweedie",
        slide: "Denoising and Tweedie's formula",
        statement: "The mean of the clean sample given the noised one is the noised one plus sigma^2 times the score of the noised density.",
        reading: "",
        assumes: "x_sigma = x0 + sigma z with standard normal z; the data may have any law.",
        printed: "",
        formula: r"\mathbb{E}[x_0 | x_\sigma] = x_\sigma + \sigma^2 \nabla \log p(x_\sigma; \sigma)",
        finding: "It holds: for Gaussians against conditioning of the joint law, for mixtures against the exact posterior mean, with the score by dual numbers.",
        mutants: &["sigma for sigma^2", "minus sign", "score of the clean density"],
        check: |p| {
            let (rooted, sign) = (p.mutant("sigma for sigma^2"), p.pick(1.0, "minus sign", -1.0));
            let clean = p.mutant("score of the clean density");
            let x0_hat = move |x: f64, score: f64, sigma: f64| {
                let level =
                    if rooted { Level::new(1.0, sigma.sqrt()) } else { Level::new(1.0, sigma) };
                tweedie_x0_hat(x, sign * score, level)
            };
            let why = "1e4 roundings of the largest cancelling term";
            p.property(
                Printed,
                "Mixtures: the formula against the posterior mean",
                128,
                why,
                |t| {
                    let (law, at) =
                        (t.mixture(t.int(1, 4), t.int(1, 4)), level(t.log_uniform(0.03, 10.0)));
                    let x = noised(t, &law, &at);
                    let want = law.denoised(x.view(), &at).expect("an exact law");
                    let x = x.row(0).to_vec();
                    let slopes = Slopes::new(&law, &x, if clean { &PathPoint::CLEAN } else { &at });
                    for ((x, score), want) in x.iter().zip(&slopes.score).zip(&want) {
                        t.compare(
                            x0_hat(*x, *score, at.sigma),
                            *want,
                            1e4 * EPS * (1.0 + x.abs() + at.sigma * at.sigma * slopes.scale),
                        );
                    }
                },
            );
            p.property(
                Printed,
                "Gaussians: the formula against conditioning of the joint law",
                64,
                "solving with a condition of up to 1e4",
                |t| {
                    let (law, at) = (t.gaussian(3), level(t.log_uniform(0.03, 10.0)));
                    let x = noised(t, &law, &at).row(0).to_vec();
                    let joint = dense(&law)
                        .joint(
                            &DMatrix::identity(3, 3),
                            &DVector::zeros(3),
                            Covariance::Isotropic(at.sigma * at.sigma),
                        )
                        .expect("shapes fit");
                    let want = joint.condition(&[3, 4, 5], &x).expect("noise makes it regular");
                    for i in 0..3 {
                        let sigma = if clean { 0.0 } else { at.sigma };
                        let along = |xi| {
                            let mut point: Vec<num_dual::Dual64> =
                                x.iter().map(|v| (*v).into()).collect();
                            point[i] = xi;
                            law.log_density_of(&point, 1.0.into(), sigma.into())
                        };
                        t.compare(
                            x0_hat(x[i], first_derivative(along, x[i]).1, at.sigma),
                            want.mean()[i],
                            1e-10 * (1.0 + x[i].abs()),
                        );
                    }
                },
            );
        },
    },
    Claim {
        id: "harvard/tweedie-kernel-gradient",
        slide: "Proof of Tweedie's formula",
        statement: "The gradient of the noise kernel N(x_sigma; x0, sigma^2 I) in x_sigma is -(x_sigma - x0)/sigma^2 times the kernel.",
        reading: "",
        assumes: "sigma > 0; the gradient is taken in x_sigma at fixed x0.",
        printed: "",
        formula: r"\nabla_{x_\sigma} \mathcal{N}(x_\sigma; x_0, \sigma^2 I) = -\frac{x_\sigma - x_0}{\sigma^2} \mathcal{N}(x_\sigma; x_0, \sigma^2 I)",
        finding: "It holds in every dimension; averaged over the posterior it gives the score of the noised density.",
        mutants: &["sigma for sigma^2", "sign", "gradient of the logarithm"],
        check: |p| {
            let (rooted, sign) = (p.mutant("sigma for sigma^2"), p.pick(-1.0, "sign", 1.0));
            let logarithm = p.mutant("gradient of the logarithm");
            p.property(
                Printed,
                "The kernel's derivative by dual numbers, relative to the kernel",
                128,
                "rounding of the exponent, up to 50, times its slope",
                |t| {
                    let (d, sigma) = (t.int(1, 5), t.log_uniform(0.05, 10.0));
                    let (x0, z) = (t.normals(d), t.normals(d));
                    let x = &x0 + &(&z * sigma);
                    let kernel = Transition::between(Level::CLEAN, Level::new(1.0, sigma))
                        .expect("noise grows");
                    let lifted = Transition {
                        scale: num_dual::Dual64::from(kernel.scale),
                        var: kernel.var.into(),
                    };
                    let density =
                        (0..d).map(|i| kernel.log_density(x[i], x0[i])).sum::<f64>().exp();
                    for i in 0..d {
                        let others: f64 = (0..d)
                            .filter(|j| *j != i)
                            .map(|j| kernel.log_density(x[j], x0[j]))
                            .sum();
                        let gradient = first_derivative(
                            |y| (lifted.log_density(y, x0[i].into()) + others).exp(),
                            x[i],
                        )
                        .1;
                        let slope =
                            sign * (x[i] - x0[i]) / if rooted { sigma } else { sigma * sigma };
                        let want = if logarithm { slope } else { slope * density };
                        t.compare(
                            gradient,
                            want,
                            512.0 * EPS * density * (1.0 + z[i].abs() + 1.0 / sigma) / sigma,
                        );
                    }
                },
            );
        },
    },
    Claim {
        id: "harvard/mse-lemma-as-printed",
        slide: "Denoising score matching: General Lemma",
        statement: "The function f that minimises E|f(X) - Y|^2 is f*(X) = E[X | Y].",
        reading: "The scan prints E[X | Y]. Read as the map that puts the input x in Y's place, x to E[X | Y = x]: as it stands the right side is no function of X.",
        assumes: "Square-integrable X and Y.",
        printed: r"\operatorname{argmin}_f \mathbb{E} \|f(X) - Y\|^2 = \mathbb{E}[X | Y]",
        formula: r"\operatorname{argmin}_f \mathbb{E} \|f(X) - Y\|^2 = \mathbb{E}[Y | X]",
        finding: "The two letters are swapped: the minimiser is E[Y | X], the target's mean given the input. The deck uses it that way two lines below, \
                  D* = E[x0 | x_sigma], with the noised sample as input.",
        mutants: &["the printed slip", "posterior median", "mean of Y without X"],
        check: |p| {
            let (slip, unconditional) =
                (p.mutant("the printed slip"), p.mutant("mean of Y without X"));
            let median = p.mutant("posterior median");
            for (role, what) in [
                (
                    Printed,
                    "Joint Gaussians: the risk of x to E[X | Y = x] against the least risk of an affine map",
                ),
                (
                    Corrected,
                    "Joint Gaussians: the risk of x to E[Y | X = x] against the least risk of an affine map",
                ),
            ] {
                let given_y = role == Printed || slip;
                p.property(role, what, 64, "rounding with a condition of up to 1e3", |t| {
                    let law = dense(&t.gaussian(2));
                    let (mean, cov) = (law.mean().clone(), law.cov_matrix());
                    let at = |x: f64| {
                        if given_y { law.condition(&[1], &[x]) } else { law.condition(&[0], &[x]) }
                            .expect("regular")
                            .mean()[0]
                    };
                    let (offset, slope) =
                        if unconditional { (mean[1], 0.0) } else { (at(0.0), at(1.0) - at(0.0)) };
                    // E (offset + slope X - Y)^2, and its minimum over both numbers.
                    let bias = offset + slope * mean[0] - mean[1];
                    let risk = bias * bias + slope * slope * cov[(0, 0)]
                        - 2.0 * slope * cov[(0, 1)]
                        + cov[(1, 1)];
                    let least = cov[(1, 1)] - cov[(0, 1)] * cov[(0, 1)] / cov[(0, 0)];
                    t.compare(
                        risk,
                        least,
                        1e-12 * (1.0 + cov[(1, 1)] + slope * slope * cov[(0, 0)]),
                    );
                });
            }
            p.property(
                Corrected,
                "Random tables of probabilities: slope of the risk in each value of f at E[Y | X]",
                128,
                "sums of up to 6 terms",
                |t| {
                    let (rows, columns) = (t.int(2, 6), t.int(2, 6));
                    let joint = Array2::from_shape_fn((rows, columns), |_| t.uniform(0.0, 1.0));
                    let joint = &joint / joint.sum();
                    let y = t.normals(columns);
                    let mean_y: f64 =
                        joint.columns().into_iter().zip(&y).map(|(c, y)| c.sum() * y).sum();
                    for row in joint.rows() {
                        let conditional = if unconditional {
                            mean_y
                        } else if median {
                            weighted_median(
                                row.as_slice().expect("a row"),
                                y.as_slice().expect("a vector"),
                            )
                        } else {
                            row.dot(&y) / row.sum()
                        };
                        let slope: f64 =
                            row.iter().zip(&y).map(|(p, y)| 2.0 * p * (conditional - y)).sum();
                        t.compare(
                            slope,
                            0.0,
                            32.0 * EPS * row.iter().zip(&y).map(|(p, y)| p * y.abs()).sum::<f64>(),
                        );
                    }
                },
            );
        },
    },
    Claim {
        id: "harvard/dsm-optimum",
        slide: "Denoising score matching",
        statement: "The denoiser that minimises the denoising loss is the conditional mean D* = E[x0 | x_sigma].",
        reading: "",
        assumes: "No restriction on the denoiser: it may be any function of x_sigma.",
        printed: "",
        formula: r"\operatorname{argmin}_D \mathbb{E} \|D(x_0 + \sigma z; \sigma) - x_0\|^2 = \mathbb{E}[x_0 | x_\sigma]",
        finding: "It holds: the error of D* is orthogonal to every test function of x_sigma, so any other denoiser D* + h costs E h^2 more, no less.",
        mutants: &[
            "nearest data point",
            "score step of sigma for sigma^2",
            "the noised sample itself",
        ],
        check: |p| {
            let (nearest, short) =
                (p.mutant("nearest data point"), p.mutant("score step of sigma for sigma^2"));
            let identity = p.mutant("the noised sample itself");
            let rule = IntervalRule::new(16).expect("16 nodes");
            let why = "composite quadrature of 800 nodes over 10 deviations of noise";
            p.property(
                Printed,
                "Point masses on a line: E[(D - x0) h(x_sigma)], and the excess loss of D + h against E h^2",
                24,
                why,
                |t| {
                    let (m, sigma) = (t.int(2, 5), t.uniform(0.4, 2.0));
                    let points = Array2::from_shape_fn((m, 1), |_| 1.5 * t.normal());
                    let law = Empirical::new(points.clone()).expect("points");
                    let (a, b, c) = (t.normal(), t.normal(), t.normal());
                    let h = |x: f64| a + (b * x + c).sin();
                    // One batch: the nodes of the rule, once; each point's noised law then weighs
                    // them.
                    let (low, high) = (
                        points.iter().copied().fold(0.0, smaller) - 10.0 * sigma,
                        points.iter().copied().fold(0.0, larger) + 10.0 * sigma,
                    );
                    let mut nodes = Vec::new();
                    rule.composite(low, high, 50, |x| {
                        nodes.push(x);
                        0.0
                    });
                    let x = Array2::from_shape_vec((nodes.len(), 1), nodes).expect("a column");
                    let mut d = law.denoised(x.view(), &level(sigma)).expect("an exact law");
                    if nearest {
                        d = points.select(ndarray::Axis(0), &law.nearest(x.view(), 1.0));
                    } else if short {
                        d = &x + &((&d - &x) / sigma);
                    } else if identity {
                        d = x.clone();
                    }
                    let mean = |f: &dyn Fn(f64, f64, f64) -> f64| -> f64 {
                        let mut k = 0;
                        rule.composite(low, high, 50, |x| {
                            let density =
                                |y: f64| (-0.5 * ((x - y) / sigma).powi(2)).exp() / (sigma * std::f64::consts::TAU.sqrt());
                            let value = points.iter().map(|y| density(*y) * f(x, d[[k, 0]], *y)).sum::<f64>() / m as f64;
                            k += 1;
                            value
                        })
                    };
                    t.compare(mean(&|x, d, y| (d - y) * h(x)), 0.0, 1e-9);
                    let excess = mean(&|x, d, y| (d + h(x) - y).powi(2)) - mean(&|_, d, y| (d - y).powi(2));
                    t.compare(excess, mean(&|x, _, _| h(x) * h(x)), 1e-9);
                },
            );
            p.property(
                Printed,
                "Mixtures: D* against the conditional mean by quadrature",
                32,
                "composite quadrature of 960 nodes over 12 deviations",
                |t| {
                    let (law, sigma) = (wide_mixture(t, 0.2), t.uniform(0.3, 3.0));
                    let at = level(sigma);
                    let x = noised(t, &law, &at)[[0, 0]];
                    let weight = |y: f64| {
                        law.log_density_of(&[y], 1.0, 0.0).exp()
                            * (-0.5 * ((x - y) / sigma).powi(2)).exp()
                    };
                    let (low, high) = (x - 12.0 * sigma, x + 12.0 * sigma);
                    let want = rule.composite(low, high, 60, |y| y * weight(y))
                        / rule.composite(low, high, 60, weight);
                    let rows = Array2::from_elem((1, 1), x);
                    let exact = law.denoised(rows.view(), &at).expect("an exact law")[[0, 0]];
                    let got = if nearest {
                        law.components()
                            .iter()
                            .map(|c| c.mean()[0])
                            .min_by(|a, b| (a - x).abs().total_cmp(&(b - x).abs()))
                            .unwrap_or(x)
                    } else if short {
                        x + (exact - x) / sigma
                    } else if identity {
                        x
                    } else {
                        exact
                    };
                    t.compare(got, want, 1e-9);
                },
            );
        },
    },
    Claim {
        id: "harvard/score-from-denoiser",
        slide: "Denoising score matching; Score and denoiser",
        statement: "The score of the noised density is (D* - x)/sigma^2.",
        reading: "",
        assumes: "x_sigma = x0 + sigma z, unscaled; with a signal coefficient alpha it is (alpha D* - x)/sigma^2.",
        printed: "",
        formula: r"\nabla \log p(x; \sigma) = \frac{D^*(x; \sigma) - x}{\sigma^2}",
        finding: "It holds at every noise level. The division multiplies rounding of D* - x by 1/sigma^2.",
        mutants: &["sigma for sigma^2", "sign", "sigma^2 of another level"],
        check: |p| {
            let (rooted, sign) = (p.mutant("sigma for sigma^2"), p.pick(1.0, "sign", -1.0));
            let other = p.pick(1.0, "sigma^2 of another level", 1.1);
            p.property(
                Printed,
                "(D* - x)/sigma^2 against the gradient of the log density by dual numbers",
                256,
                "1e4 roundings of the largest term over sigma^2",
                |t| {
                    let (law, at) =
                        (t.mixture(t.int(1, 4), t.int(1, 4)), level(t.log_uniform(0.03, 10.0)));
                    let x = noised(t, &law, &at);
                    let d = law.denoised(x.view(), &at).expect("an exact law");
                    let slopes = Slopes::new(&law, x.as_slice().expect("one row"), &at);
                    let sigma = other * if rooted { at.sigma.sqrt() } else { at.sigma };
                    for ((x, d), want) in x.iter().zip(&d).zip(&slopes.score) {
                        let tol = 1e4
                            * EPS
                            * (slopes.scale * (1.0 + at.sigma)
                                + (1.0 + x.abs()) / (at.sigma * at.sigma));
                        t.compare(sign * tweedie_score(*x, *d, Level::new(1.0, sigma)), *want, tol);
                    }
                },
            );
            p.property(
                Printed,
                "Gaussians: (D* - x)/sigma^2 against a Cholesky solve",
                64,
                "solving with a condition of up to 1e4",
                |t| {
                    let (law, at) = (t.gaussian(4), level(t.log_uniform(0.05, 10.0)));
                    let x = noised(t, &law, &at);
                    let d = law.denoised(x.view(), &at).expect("an exact law");
                    let cov =
                        dense(&law).cov_matrix() + DMatrix::identity(4, 4) * (at.sigma * at.sigma);
                    let noised =
                        Normal::new(vector(law.mean().iter()), Covariance::Full(cov.clone()))
                            .expect("a covariance");
                    let want = cov
                        .cholesky()
                        .expect("positive definite")
                        .solve(&(noised.mean() - vector(x.iter())));
                    let sigma = other * if rooted { at.sigma.sqrt() } else { at.sigma };
                    for (i, (x, d)) in x.iter().zip(&d).enumerate() {
                        t.compare(
                            sign * tweedie_score(*x, *d, Level::new(1.0, sigma)),
                            want[i],
                            1e-11 * (1.0 + 10.0 / (at.sigma * at.sigma)),
                        );
                    }
                },
            );
        },
    },
];

/// Data without noise; a component's own width keeps its density finite.
/// The first value at which half of the weight is reached.
fn weighted_median(weights: &[f64], values: &[f64]) -> f64 {
    let mut order: Vec<usize> = (0..values.len()).collect();
    order.sort_by(|a, b| values[*a].total_cmp(&values[*b]));
    let half = 0.5 * weights.iter().sum::<f64>();
    let mut sum = 0.0;
    for i in &order {
        sum += weights[*i];
        if sum >= half {
            return values[*i];
        }
    }
    values[order[order.len() - 1]]
}
