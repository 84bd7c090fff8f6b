//! Guidance by a classifier and without one.

use crate::{Claim, Probe, Role, Trial};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis, array};
use num_dual::Dual64;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::sde::tweedie_score;
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::exact::guidance::{guided_law, tilted_law};
use tweedie::law::Gaussian;
use tweedie::law::conditional::{ClassifierGuided, Guided};
use tweedie::law::mixture::Mixture;
use tweedie::math::larger;
use tweedie::math::quadrature::IntervalRule;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/classifier-guidance",
        slide: "Conditional Generation",
        statement: "The modified score is the base score plus w times the gradient of the classifier; for (0.5, -0.3, 0.2) and (0.1, 0.4, -0.2) with w = 2 the example adds them up.",
        reading: "The scan lost the formula and the result of the example; both are reconstructed from their labels. The classifier's gradient is that of ln p(c|x_t).",
        assumes: "An exact classifier of noisy states.",
        printed: "",
        formula: r"\nabla \log p(x_t) + w\, \nabla_{x_t} \log p(c|x_t) = \nabla_{x_t} \log \left[ p(x_t)\, p(c|x_t)^w \right]",
        finding: "At every level it is the score of the density p(x_t) p(c|x_t)^w up to its normalisation, and for w = 1 that of the class. The example gives (0.7, 0.5, -0.2). \
                  In a denoiser the gradient comes in with the factor w sigma^2/alpha.",
        mutants: &[
            "gradient subtracted",
            "gradient of the probability, not of its logarithm",
            "sigma for sigma^2 in the denoiser",
        ],
        check: classifier_guidance,
    },
    Claim {
        id: "ghent/cfg-formula",
        slide: "Classifier-Free Guidance",
        statement: "eps(null) + w (eps(c) - eps(null)) is classifier guidance with the implicit classifier p(c|x_t).",
        reading: "",
        assumes: "Both predictions are exact for the same joint law of data and class; two trained networks have errors of their own, and their difference need not be the gradient of any classifier.",
        printed: "",
        formula: r"\tilde\varepsilon = \varepsilon(x_t,\varnothing) + w\left(\varepsilon(x_t,c) - \varepsilon(x_t,\varnothing)\right) = \varepsilon(x_t,\varnothing) - w\,\sigma_t \nabla_{x_t} \log p(c|x_t)",
        finding: "By Bayes' rule eps(c) - eps(null) = -sigma_t grad log p(c|x_t), whatever the weight of the class. Here w = 1 is the conditional model itself; \
                  Ho and Salimans' own w is this one less 1.",
        mutants: &[
            "w counted from the conditional prediction",
            "condition and null swapped",
            "gradient without sigma",
        ],
        check: cfg_formula,
    },
    Claim {
        id: "ghent/cfg-diversity",
        slide: "Classifier-Free Guidance",
        statement: "A higher guidance scale gives better alignment with the condition and less diversity.",
        reading: "",
        assumes: "Gaussian data N(0, u) and a Gaussian class N(m, c) in each direction, guided along the exact probability-flow ODE from pure noise. \
                  Alignment is E[ln p(c|x)] under the produced law up to a constant, diversity its standard deviation.",
        printed: "",
        formula: r"\operatorname{Var}_w = u^{1-w} c^{w}, \qquad \frac{\operatorname{Var}_{w'}}{\operatorname{Var}_{w}} = \left(\frac{c}{u}\right)^{w'-w}",
        finding: "True in the directions in which the class is narrower than the data, c < u, and of alignment in comparison with w = 1: there the deviation falls by the factor sqrt(c/u) for each unit of w. \
                  Where the class is as wide as the data guidance moves the mean and takes no diversity away, and where it is wider guidance adds some (the deviation grows by 183% from w = 1 to 4 for c = 2u). \
                  Alignment does not rise for ever either: the sampled mean overshoots the point of best alignment, and 0.12 nats are lost from w = 2 to 4 for c = 0.3u and a class mean of two deviations. \
                  Under the density p(x) p(c|x)^w itself, which guided sampling does not produce, it rises with w.",
        mutants: &[
            "w counted from the null prediction",
            "variance of the tilted density",
            "step taken from the class alone",
        ],
        check: cfg_diversity,
    },
];

/// A random level, away from both ends.
fn level(t: &Trial) -> PathPoint {
    PathPoint::still(t.uniform(0.2, 1.0), t.uniform(0.2, 2.0))
}

/// `ln p(c|x_t)` and its gradient by dual numbers, from the two densities alone.
fn classifier(law: &Mixture, c: usize, x: &Array1<f64>, at: &PathPoint) -> (f64, Array1<f64>) {
    let (alpha, sigma) = (Dual64::from_re(at.alpha), Dual64::from_re(at.sigma));
    let prior = law.weights()[c].ln();
    let along = |i: usize| {
        let x: Vec<Dual64> = x
            .iter()
            .enumerate()
            .map(
                |(j, &x)| if i == j { Dual64::from_re(x).derivative() } else { Dual64::from_re(x) },
            )
            .collect();
        law.components()[c].log_density_of(&x, alpha, sigma) - law.log_density_of(&x, alpha, sigma)
            + prior
    };
    (along(0).re, Array1::from_shape_fn(x.len(), |i| along(i).eps))
}

fn score_by_duals(law: &Mixture, x: &Array1<f64>, at: &PathPoint) -> Array1<f64> {
    let (alpha, sigma) = (Dual64::from_re(at.alpha), Dual64::from_re(at.sigma));
    Array1::from_shape_fn(x.len(), |i| {
        let x: Vec<Dual64> = x
            .iter()
            .enumerate()
            .map(
                |(j, &x)| if i == j { Dual64::from_re(x).derivative() } else { Dual64::from_re(x) },
            )
            .collect();
        law.log_density_of(&x, alpha, sigma).eps
    })
}

fn denoised(law: &dyn Denoiser, x: &Array1<f64>, at: &PathPoint) -> Array1<f64> {
    let mut out = Array2::zeros((1, x.len()));
    law.denoise(x.view().insert_axis(Axis(0)), at, out.view_mut()).expect("an exact law");
    out.remove_axis(Axis(0))
}

fn classifier_guidance(p: &mut Probe) {
    let (minus, probability, sigma) = (
        p.mutant("gradient subtracted"),
        p.mutant("gradient of the probability, not of its logarithm"),
        p.mutant("sigma for sigma^2 in the denoiser"),
    );
    // The base score of N(0, 1) noised to variance 2 is -x/2.
    let base = [0.5, -0.3, 0.2];
    let gradient = [0.1, 0.4, -0.2];
    let law = Gaussian::isotropic(Array1::zeros(3), 1.0).expect("a law");
    let at = PathPoint::still(1.0, 1.0);
    let sign = if minus { -1.0 } else { 1.0 };
    let given = |_: ArrayView2<f64>, _: &PathPoint, mut out: ArrayViewMut2<f64>| {
        out.assign(&(Array1::from(gradient.to_vec()) * sign));
        Ok(())
    };
    let guided = ClassifierGuided::new(&law, given, 2.0).expect("a finite weight");
    let x = Array1::from_iter(base.map(|s| -2.0 * s));
    let x0_hat = denoised(&guided, &x, &at);
    for (i, want) in [0.7, 0.5, -0.2].into_iter().enumerate() {
        let got = tweedie_score(x[i], x0_hat[i], Level::from(&at));
        p.number(
            Role::Printed,
            format!("the example, coordinate {}", i + 1),
            got,
            want,
            16.0 * f64::EPSILON,
            "rounding of a few numbers near 1",
        );
    }
    p.property(
        Role::Printed,
        "score of the guided denoiser, against grad of ln p(x_t) + w ln p(c|x_t) by dual numbers",
        64,
        "1e-11 of the terms: Tweedie's formula cancels about (alpha x0 + x)/sigma^2",
        |t| {
            let (law, at, c, w) = (t.mixture(2, 3), level(t), t.int(0, 2), t.uniform(0.0, 5.0));
            let x = t.normals(2) * 2.0;
            let (log, own) = classifier(&law, c, &x, &at);
            let mut factor = sign;
            if probability {
                factor *= log.exp();
            }
            if sigma {
                factor /= at.sigma;
            }
            let gradient = |x: ArrayView2<f64>, at: &PathPoint, mut out: ArrayViewMut2<f64>| {
                law.classifier_score(c, x, at, out.view_mut())?;
                out *= factor;
                Ok(())
            };
            let x0_hat = denoised(
                &ClassifierGuided::new(&law, gradient, w).expect("a finite weight"),
                &x,
                &at,
            );
            let want = score_by_duals(&law, &x, &at) + &own * w;
            for i in 0..2 {
                let size = (x[i].abs() + x0_hat[i].abs()) / at.sigma.powi(2) + 1.0;
                t.compare(
                    tweedie_score(x[i], x0_hat[i], Level::from(&at)),
                    want[i],
                    1e-11 * size * (1.0 + w),
                );
            }
        },
    );
}

fn cfg_formula(p: &mut Probe) {
    let (extra, swapped, unit) = (
        p.mutant("w counted from the conditional prediction"),
        p.mutant("condition and null swapped"),
        p.mutant("gradient without sigma"),
    );
    let eps_of = |law: &dyn Denoiser, x: &Array1<f64>, at: &PathPoint| {
        let to_eps =
            Conversion::new(Prediction::X0, Prediction::Eps, Frame::from(at)).expect("sigma > 0");
        Array1::from_iter(
            denoised(law, x, at).iter().zip(x).map(|(&x0_hat, &x)| to_eps.apply(x0_hat, x)),
        )
    };
    let why = "1e-11 of the numbers that are added: eps = (x_t - alpha x0)/sigma cancels";
    let draw = |t: &Trial| {
        (t.mixture(2, 3), level(t), t.int(0, 2), t.uniform(0.0, 6.0), t.normals(2) * 2.0)
    };
    p.property(
        Role::Printed,
        "guided eps by the formula, against eps(null) - w sigma grad ln p(c|x_t) by dual numbers",
        96,
        why,
        |t| {
            let (law, at, c, w, x) = draw(t);
            let (mut cond, mut null) =
                (eps_of(&law.components()[c], &x, &at), eps_of(&law, &x, &at));
            if swapped {
                std::mem::swap(&mut cond, &mut null);
            }
            let guided = (if extra { &cond } else { &null }) + &((&cond - &null) * w);
            let gradient = classifier(&law, c, &x, &at).1;
            let want = -(score_by_duals(&law, &x, &at) + &gradient * w)
                * if unit { 1.0 } else { at.sigma };
            let size = 1.0 + w * cond.iter().chain(&null).map(|e| e.abs()).fold(0.0, larger);
            t.compare_all(&guided, &want, 1e-11 * size);
        },
    );
    p.property(
        Role::Printed,
        "the library's guided denoiser in eps, against the formula in eps",
        64,
        why,
        |t| {
            let (law, at, c, w, x) = draw(t);
            let guided =
                eps_of(&Guided::new(&law.components()[c], &law, w).expect("one space"), &x, &at);
            let (cond, null) = (eps_of(&law.components()[c], &x, &at), eps_of(&law, &x, &at));
            let size = 1.0 + w * cond.iter().chain(&null).map(|e| e.abs()).fold(0.0, larger);
            t.compare_all(&guided, &(&null + &((&cond - &null) * w)), 1e-11 * size);
        },
    );
    p.property(
        Role::Printed,
        "w = 1: the library's guided denoiser in eps, against the conditional prediction",
        16,
        why,
        |t| {
            let (law, at, c, _, x) = draw(t);
            let class = &law.components()[c];
            let size = 1.0 + eps_of(class, &x, &at).iter().map(|e| e.abs()).fold(0.0, larger);
            t.compare_all(
                &eps_of(&Guided::new(class, &law, 1.0).expect("one space"), &x, &at),
                &eps_of(class, &x, &at),
                1e-11 * size,
            );
        },
    );
}

fn cfg_diversity(p: &mut Probe) {
    let (from_null, tilted, class_alone) = (
        p.mutant("w counted from the null prediction"),
        p.mutant("variance of the tilted density"),
        p.mutant("step taken from the class alone"),
    );
    let one = |mean: f64, var: f64| Gaussian::diagonal(array![mean], array![var]).expect("a law");
    // (mean, variance) of the guided law at the data, started from N(0, 1) where next to nothing of
    // the data is left.
    let noise = PathPoint::still(1e-9, 1.0);
    let produced = move |u: f64, m: f64, c: f64, w: f64| {
        let w = if from_null {
            1.0 - w
        } else if class_alone {
            1.0
        } else {
            w
        };
        let law = guided_law(&one(0.0, u), &one(m, c), w, &one(0.0, 1.0), noise, PathPoint::CLEAN)
            .expect("variances > 0");
        let var = if tilted { 1.0 / ((1.0 - w) / u + w / c) } else { law.variances()[0] };
        (law.mean()[0], var)
    };
    // E[ln p(x|c) - ln p(x)] under N(mean, var): E[ln p(c|x)] up to ln p(c).
    let alignment = |u: f64, m: f64, c: f64, (mean, var): (f64, f64)| {
        0.5 * ((u / c).ln() + (var + mean * mean) / u - (var + (mean - m).powi(2)) / c)
    };
    p.property(
        Role::WithCondition,
        "c < u: log variance of the guided law, against the integral of the variance's equation",
        48,
        "1e-7: the start holds 1e-9 of signal, the integral is cut at tau = 1e18",
        |t| {
            let (u, m, w) = (t.log_uniform(0.5, 5.0), t.uniform(-2.0, 2.0), t.uniform(1.0, 5.0));
            let c = u * t.uniform(0.1, 0.8);
            // In tau = edm_sigma^2: d ln var / d tau = (1 - w)/(u + tau) + w/(c + tau), from var =
            // tau at the start.
            let rule = IntervalRule::new(16).expect("nodes");
            let integral = rule.composite(1e-18f64.ln(), 1e18f64.ln(), 80, |l| {
                let tau = l.exp();
                tau * ((1.0 - w) / (u + tau) + w / (c + tau))
            });
            t.compare(produced(u, m, c, w).1.ln(), 1e18f64.ln() - integral, 1e-7);
        },
    );
    p.property(
        Role::WithCondition,
        "c < u: a higher w has less variance, and any w above 1 better alignment than w = 1 (1 if so)",
        96,
        "true or false",
        |t| {
            let (u, m) = (t.log_uniform(0.5, 5.0), t.uniform(-2.0, 2.0));
            let c = u * t.uniform(0.1, 0.8);
            let w = t.uniform(1.05, 5.0);
            let [class, low, high] = [1.0, w, w + t.uniform(0.2, 2.0)].map(|w| produced(u, m, c, w));
            t.compare(
                f64::from(high.1 < low.1 && low.1 < class.1 && alignment(u, m, c, low) > alignment(u, m, c, class)),
                1.0,
                0.0,
            );
        },
    );
    p.property(
        Role::WithCondition,
        "c < u: under the density p(x) p(c|x)^w itself alignment rises with every w (1 if so)",
        96,
        "true or false",
        |t| {
            let (u, m, w) = (t.log_uniform(0.5, 5.0), t.uniform(-2.0, 2.0), t.uniform(0.0, 5.0));
            let c = u * t.uniform(0.1, 0.8);
            let under = |w: f64| {
                let law = tilted_law(
                    &one(0.0, u),
                    &one(m, c),
                    if from_null { 1.0 - w } else { w },
                    PathPoint::CLEAN,
                );
                law.map_or(f64::NAN, |law| alignment(u, m, c, (law.mean()[0], law.variances()[0])))
            };
            t.compare(f64::from(under(w + t.uniform(0.1, 2.0)) > under(w)), 1.0, 0.0);
        },
    );
    let growth =
        |c: f64| (produced(1.0, 1.0, c, 4.0).1 / produced(1.0, 1.0, c, 1.0).1).sqrt() - 1.0;
    p.number(
        Role::WithoutCondition,
        "c = u: deviation lost from w = 1 to 4, against what a class of half the variance loses",
        -growth(1.0),
        -growth(0.5),
        1e-6,
        "the start holds 1e-9 of signal",
    );
    p.number(
        Role::WithoutCondition,
        "c = 2u: deviation gained from w = 1 to 4, as a share of it",
        growth(2.0),
        0.0,
        1e-6,
        "the start holds 1e-9 of signal",
    );
    let aligned = |w: f64| alignment(1.0, 2.0, 0.3, produced(1.0, 2.0, 0.3, w));
    p.number(
        Role::WithoutCondition,
        "c = 0.3u, m = 2 sqrt(u): nats of alignment lost from w = 2 to 4",
        aligned(2.0) - aligned(4.0),
        0.0,
        1e-6,
        "the start holds 1e-9 of signal",
    );
}
