//! What each training objective has as its optimum.

use crate::{Claim, Probe, Role, Trial};
use ndarray::{Array1, Array2, Axis};
use tweedie::diffusion::level::Rates;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::law::empirical::Empirical;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/x0-optimum",
        slide: "Link to other forms of diffusion-loss",
        statement: "The network that minimises the x0-prediction loss is E[x0 | x_t].",
        reading: "",
        assumes: "Data on any few points, the noise normal. The network may be any function of x_t.",
        printed: "",
        formula: r"\operatorname{argmin}_f\, \mathbb{E}\left\|f(x_t) - x_0\right\|^2 = \mathbb{E}[x_0|x_t] \iff \mathbb{E}\left[(f(x_t) - x_0)\, h(x_t)\right] = 0 \text{ for all } h",
        finding: "What the optimum leaves of the target is orthogonal to every function of x_t, so that any change of it by h adds E[h^2] to the loss.",
        mutants: &["most probable x0", "x_t/alpha", "noise level for its square"],
        check: x0_optimum,
    },
    Claim {
        id: "harvard/eps-optimum",
        slide: "Link to other forms of diffusion-loss",
        statement: "The network that minimises the eps-prediction loss is (x_t - alpha_t E[x0|x_t]) / sigma_t.",
        reading: "",
        assumes: "sigma_t > 0. Any path: nothing is asked of alpha^2 + sigma^2.",
        printed: "",
        formula: r"\varepsilon^*(x_t) = \mathbb{E}[z|x_t] = \frac{x_t - \alpha_t \mathbb{E}[x_0|x_t]}{\sigma_t}",
        finding: "Take expectations of x_t = alpha_t x0 + sigma_t z given x_t and solve for E[z|x_t].",
        mutants: &["alpha left out", "sigma^2 for sigma", "sign"],
        check: eps_optimum,
    },
    Claim {
        id: "harvard/v-optimum",
        slide: "Link to other forms of diffusion-loss",
        statement: "The network that minimises the v-prediction loss is (alpha_t x_t - E[x0|x_t]) / sigma_t.",
        reading: "",
        assumes: "sigma_t > 0.",
        printed: "",
        formula: r"v^*(x_t) = \frac{\alpha_t x_t - (\alpha_t^2 + \sigma_t^2)\, \mathbb{E}[x_0|x_t]}{\sigma_t}",
        finding: "True on variance-preserving paths, alpha^2 + sigma^2 = 1, which the slide asks for one line below. On other paths E[x0|x_t] has the factor alpha^2 + sigma^2. \
                  On the flow-matching path the formula without it is off by (1 - alpha^2 - sigma^2)/sigma times E[x0|x_t], at t = 1/2 by E[x0|x_t] itself.",
        mutants: &[
            "x_t without alpha",
            "sigma for sigma^2 in the target",
            "x0 and noise swapped in the target",
        ],
        check: v_optimum,
    },
    Claim {
        id: "harvard/v-is-velocity",
        slide: "Link to other forms of diffusion-loss",
        statement: "If alpha^2 + sigma^2 = 1, v is proportional to the rate of change of alpha_t x0 + sigma_t z.",
        reading: "",
        assumes: "A path on the unit circle, alpha = cos(phi), sigma = sin(phi), run at any speed.",
        printed: "",
        formula: r"\dot\alpha_t x_0 + \dot\sigma_t z = \dot\phi_t\, (\alpha_t z - \sigma_t x_0), \qquad \tan \phi_t = \sigma_t/\alpha_t",
        finding: "The factor is the speed of the angle, which depends on t alone. Off the circle the two are not proportional: the circle is needed, not only sufficient.",
        mutants: &["x0 with a plus", "alpha and sigma swapped", "speed of the angle left out"],
        check: v_is_velocity,
    },
];

/// Data on the real line: a few points with probabilities.
pub(super) struct Points {
    pub law: Empirical,
    pub places: Vec<(f64, f64)>,
}

impl Points {
    pub fn random(t: &Trial, n: usize) -> Self {
        let places: Vec<_> = (0..n).map(|_| (t.uniform(0.2, 1.0), 1.5 * t.normal())).collect();
        let total: f64 = places.iter().map(|(w, _)| w).sum();
        let places: Vec<_> = places.into_iter().map(|(w, x)| (w / total, x)).collect();
        let column = Array2::from_shape_fn((n, 1), |(i, _)| places[i].1);
        let law = Empirical::weighted(column, places.iter().map(|(w, _)| *w).collect())
            .expect("positive weights");
        Self { law, places }
    }

    /// `E[(f(x_t) - target(x0, z)) h(x_t)]` by the trapezoidal rule over the noise, which for
    /// analytic integrands that vanish at both ends is exact to rounding.
    pub fn residual(
        &self,
        at: &PathPoint,
        target: impl Fn(f64, f64) -> f64,
        f: impl Fn(&Array1<f64>) -> Array1<f64>,
        h: impl Fn(f64) -> f64,
    ) -> f64 {
        const STEP: f64 = 1.0 / 32.0;
        let noise = Array1::from_shape_fn(609, |j| (j as f64 - 304.0) * STEP);
        let density =
            noise.mapv(|z: f64| STEP * (-0.5 * z * z).exp() / std::f64::consts::TAU.sqrt());
        self.places
            .iter()
            .map(|&(weight, x0)| {
                let x = noise.mapv(|z| at.alpha * x0 + at.sigma * z);
                let predicted = f(&x);
                let sum: f64 = (0..x.len())
                    .map(|j| density[j] * (predicted[j] - target(x0, noise[j])) * h(x[j]))
                    .sum();
                weight * sum
            })
            .sum()
    }
}

/// The denoiser at many states of the real line.
pub(super) fn denoised(law: &dyn Denoiser, x: &Array1<f64>, at: &PathPoint) -> Array1<f64> {
    let mut out = Array2::zeros((x.len(), 1));
    law.denoise(x.view().insert_axis(Axis(1)), at, out.view_mut()).expect("an exact law");
    out.remove_axis(Axis(1))
}

/// A random function of the state: the waves determine any function.
pub(super) fn wave(t: &Trial) -> impl Fn(f64) -> f64 + use<> {
    let (frequency, phase) = (t.uniform(0.0, 3.0), t.uniform(0.0, std::f64::consts::TAU));
    move |x| (frequency * x + phase).cos()
}

pub(super) const WHY: &str =
    "1e-12 of the largest numbers in the average: the rule is exact but for rounding";

/// A level where one panel of the rule resolves the posterior.
pub(super) fn level(t: &Trial) -> PathPoint {
    PathPoint::still(t.uniform(0.3, 1.0), t.uniform(0.35, 2.0))
}

fn on_the_circle(t: &Trial) -> PathPoint {
    let (sigma, alpha) = t.uniform(0.35, 1.45).sin_cos();
    PathPoint::still(alpha, sigma)
}

fn scale(at: &PathPoint) -> f64 {
    1e-12 * 10.0 * (1.0 + at.alpha + at.sigma) / at.sigma
}

fn x0_optimum(p: &mut Probe) {
    let (mode, scaled, square) = (
        p.mutant("most probable x0"),
        p.mutant("x_t/alpha"),
        p.mutant("noise level for its square"),
    );
    p.property(
        Role::Printed,
        "E[(E[x0|x_t] - x0) h(x_t)] for random data, levels and waves h",
        96,
        WHY,
        |t| {
            let (data, at, h) = (Points::random(t, 3), level(t), wave(t));
            let optimum = |x: &Array1<f64>| {
                if scaled {
                    x / at.alpha
                } else if mode {
                    let log = |x: f64, (w, x0): (f64, f64)| {
                        w.ln() - 0.5 * ((x - at.alpha * x0) / at.sigma).powi(2)
                    };
                    let best = |x: f64| {
                        data.places
                            .iter()
                            .copied()
                            .max_by(|a, b| log(x, *a).total_cmp(&log(x, *b)))
                            .map_or(0.0, |b| b.1)
                    };
                    x.mapv(best)
                } else if square {
                    denoised(&data.law, x, &PathPoint::still(at.alpha, at.sigma * at.sigma))
                } else {
                    denoised(&data.law, x, &at)
                }
            };
            t.compare(data.residual(&at, |x0, _| x0, optimum, h), 0.0, scale(&at));
        },
    );
    p.property(
        Role::Printed,
        "what a change of the optimum by a wave h adds to the loss, against E[h^2]",
        48,
        WHY,
        |t| {
            let (data, at, h) = (Points::random(t, 3), level(t), wave(t));
            let loss = |f: &dyn Fn(&Array1<f64>) -> Array1<f64>| {
                // One datum at a time, so that the square may depend on it.
                data.places
                    .iter()
                    .map(|&(w, x0)| {
                        let one = Points { law: data.law.clone(), places: vec![(w, x0)] };
                        one.residual(&at, |_, _| 0.0, |x| f(x).mapv(|f| (f - x0).powi(2)), |_| 1.0)
                    })
                    .sum::<f64>()
            };
            let best =
                |x: &Array1<f64>| if scaled { x / at.alpha } else { denoised(&data.law, x, &at) };
            let added = loss(&|x| best(x) + x.mapv(&h)) - loss(&best);
            let square = data.residual(&at, |_, _| 0.0, |x| x.mapv(|x| h(x).powi(2)), |_| 1.0);
            t.compare(added, square, 10.0 * scale(&at));
        },
    );
}

fn eps_optimum(p: &mut Probe) {
    let (bare, square, sign) =
        (p.mutant("alpha left out"), p.mutant("sigma^2 for sigma"), p.mutant("sign"));
    p.property(
        Role::Printed,
        "E[((x_t - alpha E[x0|x_t])/sigma - z) h(x_t)] for random data, levels and waves h",
        96,
        WHY,
        |t| {
            let (data, at, h) = (Points::random(t, 3), level(t), wave(t));
            let optimum = |x: &Array1<f64>| {
                let kept = denoised(&data.law, x, &at) * if bare { 1.0 } else { at.alpha };
                (x - &kept) / if square { at.sigma * at.sigma } else { at.sigma }
                    * if sign { -1.0 } else { 1.0 }
            };
            t.compare(data.residual(&at, |_, z| z, optimum, h), 0.0, scale(&at));
        },
    );
    p.property(
        Role::Printed,
        "the library's eps from E[x0|x_t], against E[z|x_t] by Bayes' rule",
        96,
        "1e-12 of (|x_t| + |x0|)/sigma",
        |t| {
            let (data, at, x) = (Points::random(t, 4), level(t), 2.0 * t.normal());
            let likelihood = |x0: f64| (-0.5 * ((x - at.alpha * x0) / at.sigma).powi(2)).exp();
            let norm: f64 = data.places.iter().map(|&(w, x0)| w * likelihood(x0)).sum();
            let want: f64 = data
                .places
                .iter()
                .map(|&(w, x0)| w * likelihood(x0) / norm * (x - at.alpha * x0) / at.sigma)
                .sum();
            let to_eps = Conversion::new(Prediction::X0, Prediction::Eps, Frame::from(&at))
                .expect("sigma > 0");
            let x0_hat = denoised(&data.law, &Array1::from_elem(1, x), &at)[0]
                / if bare { at.alpha } else { 1.0 };
            t.compare(to_eps.apply(x0_hat, x), want, 1e-12 * (1.0 + x.abs() + 5.0) / at.sigma);
        },
    );
}

fn v_optimum(p: &mut Probe) {
    let bare = p.mutant("x_t without alpha");
    let (linear, swapped) = (
        p.mutant("sigma for sigma^2 in the target"),
        p.mutant("x0 and noise swapped in the target"),
    );
    let target = move |at: PathPoint| {
        move |x0: f64, z: f64| {
            if linear {
                at.alpha * z - at.sigma * at.sigma * x0
            } else if swapped {
                at.alpha * x0 - at.sigma * z
            } else {
                Prediction::V.target(x0, z, &Frame::from(&at))
            }
        }
    };
    let printed = move |data: &Points, x: &Array1<f64>, at: &PathPoint, factor: f64| {
        (x * if bare { 1.0 } else { at.alpha } - denoised(&data.law, x, at) * factor) / at.sigma
    };
    p.property(
        Role::WithCondition,
        "alpha^2 + sigma^2 = 1: E[(v* - v) h(x_t)] for random data and waves h",
        96,
        WHY,
        |t| {
            let (data, at, h) = (Points::random(t, 3), on_the_circle(t), wave(t));
            t.compare(
                data.residual(&at, target(at), |x| printed(&data, x, &at, 1.0), h),
                0.0,
                scale(&at),
            );
        },
    );
    p.property(
        Role::WithCondition,
        "any path, with the factor alpha^2 + sigma^2 before E[x0|x_t]: E[(v* - v) h(x_t)]",
        96,
        WHY,
        |t| {
            let (data, at, h) = (Points::random(t, 3), level(t), wave(t));
            let factor = at.alpha * at.alpha + at.sigma * at.sigma;
            t.compare(
                data.residual(&at, target(at), |x| printed(&data, x, &at, factor), h),
                0.0,
                scale(&at) * (1.0 + at.sigma),
            );
        },
    );
    let half = PathPoint::still(0.5, 0.5);
    let one = Points {
        law: Empirical::new(Array2::ones((1, 1))).expect("a point"),
        places: vec![(1.0, 1.0)],
    };
    let x = Array1::from_elem(1, 0.5);
    // One point at x0 = 1 and x_t = 0.5: z = 0, v = -0.5.
    let got = printed(&one, &x, &half, 1.0)[0];
    p.number(
        Role::WithoutCondition,
        "flow matching at t = 1/2, all data at 1, x_t = 1/2: the printed optimum, against v",
        got,
        Prediction::V.target(1.0, 0.0, &Frame::from(&half)),
        1e-14,
        "numbers exact in binary",
    );
}

fn v_is_velocity(p: &mut Probe) {
    let (plus, swapped, still) = (
        p.mutant("x0 with a plus"),
        p.mutant("alpha and sigma swapped"),
        p.mutant("speed of the angle left out"),
    );
    p.property(
        Role::Printed,
        "alpha' x0 + sigma' z, against the angle's speed times v, on the circle",
        256,
        "rounding of a few operations",
        |t| {
            let (angle, speed, x0, z) =
                (t.uniform(0.01, 1.56), t.uniform(-3.0, 3.0), t.normal(), t.normal());
            let (sigma, alpha) = angle.sin_cos();
            let frame = Frame {
                alpha,
                sigma,
                rates: Some(Rates::new(-sigma * speed, alpha * speed)),
                sigma_data: 0.5,
            };
            let v = if plus {
                alpha * z + sigma * x0
            } else if swapped {
                sigma * z - alpha * x0
            } else {
                Prediction::V.target(x0, z, &frame)
            };
            let factor = if still { 1.0 } else { speed };
            t.compare(
                factor * v,
                Prediction::Velocity.target(x0, z, &frame),
                1e-14 * (1.0 + speed.abs()) * (x0.abs() + z.abs()),
            );
        },
    );
    p.property(
        Role::Printed,
        "on the library's variance-preserving paths the factor is d(atan(sigma/alpha))/dt",
        64,
        "1e-12 of the terms: alpha^2 + sigma^2 is 1 to rounding",
        |t| {
            let path = if t.int(0, 1) == 0 {
                tweedie::diffusion::path::Path::Cosine
            } else {
                tweedie::diffusion::path::Path::Vp {
                    beta_min: t.log_uniform(0.02, 0.5),
                    beta_max: t.uniform(5.0, 20.0),
                }
            };
            let at = path.moving_at(t.uniform(0.05, 0.95)).expect("inside the path");
            let frame = Frame::from(&at);
            let speed = if still { 1.0 } else { at.determinant() };
            let (x0, z) = (t.normal(), t.normal());
            let size = (at.rates.alpha.abs() + at.rates.sigma.abs()) * (x0.abs() + z.abs());
            t.compare(
                speed * Prediction::V.target(x0, z, &frame),
                Prediction::Velocity.target(x0, z, &frame),
                1e-12 * size,
            );
        },
    );
    // Off the circle: flow matching has the rates (-1, 1) at every t, and v the direction (-sigma,
    // alpha).
    let at = tweedie::diffusion::path::Path::FlowMatching.at(0.25).expect("inside the path");
    let frame = Frame::from(&at);
    let ((a, b), (c, d)) =
        (Prediction::V.coefficients(&frame), Prediction::Velocity.coefficients(&frame));
    p.fact(
        Role::Printed,
        "off the circle, flow matching at t = 1/4, v and the velocity are not proportional",
        (a * d - b * c).abs() > 0.1,
    );
}
