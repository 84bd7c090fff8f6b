//! The score: of the kernel, of the marginal, and where it points.

use crate::Claim;
use crate::Role::{Printed, WithCondition, WithoutCondition};
use ndarray::{Array1, Array2, Axis, array};
use num_dual::{Dual64, first_derivative};
use tweedie::diffusion::kernel::Transition;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::law::{Gaussian, Law};

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "sjtu/conditional-score",
        slide: "Epsilon-Prediction Is Score Estimation",
        statement: "The gradient of log q(x_t|x0) in x_t is -eps / sqrt(1 - alpha_bar_t), where eps is the noise that made x_t.",
        reading: "",
        assumes: "t >= 1, so that there is noise.",
        printed: "",
        formula: r"\nabla_{x_t} \log q(x_t|x_0) = -\frac{x_t - \sqrt{\bar\alpha_t}\, x_0}{1 - \bar\alpha_t} =
        -\frac{\varepsilon}{\sqrt{1 - \bar\alpha_t}}",
        finding: "It holds on every path, against the derivative of the log density by dual numbers.",
        mutants: &["sign", "variance for deviation", "alpha in the denominator"],
        check: |p| {
            let (sign, squared, alpha) = (
                p.mutant("sign"),
                p.mutant("variance for deviation"),
                p.mutant("alpha in the denominator"),
            );
            p.property(
                Printed,
                "-eps/sigma against the derivative of the log density",
                256,
                "rounding of x_t - alpha x0, over the variance",
                |t| {
                    let at = if t.int(0, 1) == 0 {
                        t.point()
                    } else {
                        super::still(&t.table(50), t.int(1, 50))
                    };
                    let (x0, eps) = (t.normal(), t.normal());
                    let kernel =
                        Transition::between(Level::CLEAN, Level::from(&at)).expect("sigma > 0");
                    let kernel =
                        Transition::<Dual64> { scale: kernel.scale.into(), var: kernel.var.into() };
                    let xt = at.alpha * x0 + at.sigma * eps;
                    let (_, want) = first_derivative(|x| kernel.log_density(x, x0.into()), xt);
                    let mut score = Prediction::Score.target(x0, eps, &Frame::from(&at));
                    if squared {
                        score /= at.sigma;
                    } else if alpha {
                        // On paths that keep alpha = 1 this is worse still: there it is -eps.
                        score *= at.sigma / at.alpha;
                    }
                    t.compare(
                        if sign { -score } else { score },
                        want,
                        16.0 * EPS * ((at.alpha * x0).abs() / at.sigma + eps.abs()) / at.sigma,
                    );
                },
            );
        },
    },
    Claim {
        id: "sjtu/eps-is-score",
        slide: "Epsilon-Prediction Is Score Estimation",
        statement: "Predicting eps is estimating the score of the marginal q(x_t), up to a known scalar.",
        reading: "The slide derives the conditional score; that the best prediction is then the score of the marginal is Vincent's \
        identity, which is checked.",
        assumes: "eps_theta is the best prediction, E[eps|x_t].",
        printed: "",
        formula: r"\nabla_x \log q_t(x) = -\frac{\mathbb{E}[\varepsilon | x_t = x]}{\sigma_t}",
        finding: "It holds for any data law; the scalar is -1/sigma_t. Checked on Gaussian mixtures, against the gradient of the \
        log density by dual numbers.",
        mutants: &[
            "sign",
            "variance for deviation",
            "conditional score of one component",
            "alpha forgotten",
        ],
        check: |p| {
            let (sign, squared) = (p.mutant("sign"), p.mutant("variance for deviation"));
            let (single, unscaled) =
                (p.mutant("conditional score of one component"), p.mutant("alpha forgotten"));
            p.property(
                Printed,
                "-E[eps|x_t]/sigma against the gradient of log q_t",
                96,
                "rounding of differences, over the noise variance",
                |t| {
                    let d = t.int(1, 3);
                    let law = t.mixture(d, t.int(2, 3));
                    let sigma = t.uniform(0.2, 0.98);
                    let at = PathPoint::still((1.0 - sigma * sigma).sqrt(), sigma);
                    let x = t.normals(d) * 1.5;
                    let mut x0_hat = Array2::zeros((1, d));
                    let rows = x.view().insert_axis(Axis(0));
                    if single {
                        law.components()[0]
                            .denoise(rows, &at, x0_hat.view_mut())
                            .expect("an exact law")
                    } else {
                        law.denoise(rows, &at, x0_hat.view_mut()).expect("an exact law")
                    }
                    let to_eps = Conversion::new(Prediction::X0, Prediction::Eps, Frame::from(&at))
                        .expect("sigma > 0");
                    let mut score = vec![0.0; d];
                    for k in 0..d {
                        let eps = if unscaled {
                            (x[k] - x0_hat[[0, k]]) / sigma
                        } else {
                            to_eps.apply(x0_hat[[0, k]], x[k])
                        };
                        let scaled = -eps / if squared { sigma * sigma } else { sigma };
                        score[k] = if sign { -scaled } else { scaled };
                    }
                    let want: Vec<f64> = (0..d)
                        .map(|k| {
                            derivative(
                                &|x| law.log_density_of(x, at.alpha.into(), at.sigma.into()),
                                &x,
                                k,
                            )
                        })
                        .collect();
                    t.compare_all(&score, &want, 1e-12 / (sigma * sigma));
                },
            );
        },
    },
    Claim {
        id: "sjtu/score-points-uphill",
        slide: "Epsilon-Prediction Is Score Estimation",
        statement: "The score is the direction of fastest increase of the density and points toward the modes.",
        reading: "",
        assumes: "Toward a mode means along the straight line to it.",
        printed: "",
        formula: r"\max_{\|u\| = 1} \partial_u \log p(x) = \|\nabla \log p(x)\|, \quad \nabla \log p(x) = \frac{m - x}{\lambda}
        \quad \text{for} \quad p = \mathcal{N}(m, \lambda I)",
        finding: "The first half holds. The second holds if the law is an isotropic Gaussian, where the score is a positive \
        multiple of mode minus x. Already for a Gaussian with variances 1 and 0.01 the cosine between the two falls to 0.198 (in \
        general to 2 sqrt(k)/(1 + k) for a ratio k of the variances): the score first crosses to the ridge, then follows it. \
        Between two modes it vanishes.",
        mutants: &["downhill", "mode of the data for that of x_t", "eps for the score"],
        check: |p| {
            let (down, unscaled) =
                (p.mutant("downhill"), p.mutant("mode of the data for that of x_t"));
            let noise = p.mutant("eps for the score");
            p.property(
                Printed,
                "Slope of the log density along the score, against the steepest slope",
                64,
                "rounding of the gradient, over the noise variance",
                |t| {
                    let d = t.int(2, 4);
                    let law = t.mixture(d, 2);
                    let sigma = t.uniform(0.3, 0.95);
                    let at = PathPoint::still((1.0 - sigma * sigma).sqrt(), sigma);
                    let x = t.normals(d);
                    let score = score_of(&law, &x, &at) * if down { -1.0 } else { 1.0 };
                    let gradient: Array1<f64> = (0..d)
                        .map(|k| {
                            derivative(
                                &|x| law.log_density_of(x, at.alpha.into(), at.sigma.into()),
                                &x,
                                k,
                            )
                        })
                        .collect();
                    let steepest = norm(&gradient);
                    t.compare(
                        gradient.dot(&score) / norm(&score),
                        steepest,
                        1e-12 / (sigma * sigma),
                    );
                    // No other direction rises faster.
                    let other = t.normals(d);
                    t.compare(
                        (gradient.dot(&other).abs() / norm(&other) - steepest).max(0.0),
                        0.0,
                        1e-12 / (sigma * sigma),
                    );
                },
            );
            p.property(
                WithCondition,
                "Score times variance against mode minus x, isotropic Gaussian data",
                128,
                "rounding",
                |t| {
                    let (d, lambda) = (t.int(1, 4), t.log_uniform(0.05, 5.0));
                    let law = Gaussian::isotropic(t.normals(d), lambda).expect("a variance");
                    let sigma = t.uniform(0.2, 0.9);
                    let at = PathPoint::still((1.0 - sigma * sigma).sqrt(), sigma);
                    let x = t.normals(d);
                    let mode = &law.mean() * if unscaled { 1.0 } else { at.alpha };
                    let mut score = score_of(&law, &x, &at);
                    if noise {
                        score *= -sigma;
                    }
                    score *= if down { -1.0 } else { 1.0 };
                    let along = (at.alpha.powi(2) * lambda + sigma * sigma) * score;
                    t.compare_all(
                        &along,
                        &(&mode - &x),
                        64.0 * EPS * (1.0 + lambda) * (4.0 + norm(&x)) / (sigma * sigma),
                    );
                },
            );
            let ridge = Gaussian::diagonal(array![0.0, 0.0], array![1.0, 0.01]).expect("variances");
            let clean = PathPoint::still(1.0, 1e-8);
            // The worst direction has components in the ratio of the deviations.
            let x = array![1.0, 0.1];
            let score = score_of(&ridge, &x, &clean);
            let cosine = -score.dot(&x) / (norm(&score) * norm(&x));
            p.number(
                WithoutCondition,
                "Cosine of score and direction to the mode, variances 1 and 0.01",
                cosine,
                1.0,
                1e-9,
                "parallel vectors",
            );
            let pair = tweedie::law::mixture::Mixture::new(
                array![0.5, 0.5],
                vec![
                    Gaussian::isotropic(array![-1.0], 0.04).expect("a variance"),
                    Gaussian::isotropic(array![1.0], 0.04).expect("a variance"),
                ],
            );
            let middle = score_of(&pair.expect("two components"), &array![0.0], &clean);
            p.fact(
                WithoutCondition,
                "Halfway between two modes the score is not zero",
                middle[0] != 0.0,
            );
        },
    },
];

/// Partial derivative of a function of several dual numbers.
fn derivative(f: &dyn Fn(&[Dual64]) -> Dual64, x: &Array1<f64>, k: usize) -> f64 {
    let x: Vec<Dual64> =
        x.iter().enumerate().map(|(i, &x)| Dual64::new(x, f64::from(u8::from(i == k)))).collect();
    f(&x).eps
}

fn score_of(law: &dyn Law, x: &Array1<f64>, at: &PathPoint) -> Array1<f64> {
    let mut score = Array2::zeros((1, x.len()));
    law.score(x.view().insert_axis(Axis(0)), at, score.view_mut()).expect("an exact law");
    score.row(0).to_owned()
}

fn norm(x: &Array1<f64>) -> f64 {
    x.dot(x).sqrt()
}
