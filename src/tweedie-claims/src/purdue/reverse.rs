//! What the Gaussian prior and the Gaussian reverse step rest on: limits of many steps.

use crate::{Claim, Probe, Role};
use ndarray::{Array1, Array2, array};
use num_dual::{Dual3_64, third_derivative};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::sde::{tweedie_var, tweedie_x0_hat};
use tweedie::law::{Gaussian, Law, mixture::Mixture};
use tweedie::math::gaussian::log_density_normal;
use tweedie::math::quadrature::IntervalRule;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "purdue/prior-moments",
        slide: "Model: The reverse process approximates the posterior transition of q",
        statement: "As T grows, q(x_T) = N(mu_data, Sigma_data + T I).",
        reading: "The slide says in small print that this is approximate for finite T; the statement is read as that limit.",
        assumes: "Data with finite moments; unit steps, alpha = 1. Checked on Gaussian mixtures.",
        printed: "",
        formula: r"q(x_T) \to \mathcal{N}(\mu_{data},\; \Sigma_{data} + T\,I), \qquad KL \approx \frac{\kappa_3^2}{12\,(\sigma^2 + T)^3} + \frac{\kappa_4^2}{48\,(\sigma^2 + T)^4}",
        finding: "Mean and covariance are these for every T, exactly. The shape becomes Gaussian: in one dimension the divergence from this normal law falls like T^-3 (T^-4 for symmetric data), with the third and fourth cumulant of the data as coefficients. For Gaussian data it is 0 at every T, checked at T = 1.",
        mutants: &["data covariance left out", "T as a deviation", "mean left out"],
        check: prior_moments,
    },
    Claim {
        id: "purdue/reverse-gaussian-limit",
        slide: "Model: The reverse process approximates the posterior transition of q",
        statement: "As T grows q(x_{t-1}|x_t) is Gaussian; for finite T it is not.",
        reading: "",
        assumes: "x_s with a smooth density: data from a Gaussian mixture, s > 0.",
        printed: "",
        formula: r"KL\left(q(x_s \mid x_t) \,\|\, \mathcal{N}(x_t + \delta\,\nabla \log q_t,\; \delta + \delta^2\,\nabla^2 \log q_t)\right) = \frac{\delta^3}{12}\left(\nabla^3 \log q_t(x_t)\right)^2 + O(\delta^4), \quad \delta = t - s",
        finding: "It holds if T grows by cutting a fixed amount of noise into smaller steps: the divergence from the matched Gaussian is of third order in the step's variance delta, so that all T steps together lose O(T^-2). With the deck's unit steps more steps only add noise at the far end: q(x_0|x_1 = 0) of data near -2 and +2 is 2.30 nats from the Gaussian of its own mean and variance, whatever T. And for Gaussian data the reverse step is Gaussian at every T.",
        mutants: &["forward variance", "score reversed"],
        check: reverse_gaussian,
    },
];

/// `KL(p || g)` of two densities given as one `x -> (ln p, ln g)`, as an integral of what is never
/// negative.
fn kl(from: f64, to: f64, panels: usize, logs: impl Fn(f64) -> (f64, f64)) -> f64 {
    IntervalRule::new(16).expect("nodes").composite(from, to, panels, |x| {
        let (p, g) = logs(x);
        let d = g - p;
        // p (e^d - 1 - d), in the form that keeps digits where the two nearly agree.
        if d.abs() < 1.0 { p.exp() * (d.exp_m1() - d) } else { g.exp() - p.exp() * (1.0 + d) }
    })
}

/// Log density of a one-dimensional mixture plus noise of variance `var`.
fn log_density(law: &Mixture, x: f64, var: f64) -> f64 {
    law.log_density_of(&[x], 1.0, var.sqrt())
}

fn prior_moments(p: &mut Probe) {
    let (no_cov, deviation, no_mean) = (
        p.mutant("data covariance left out"),
        p.mutant("T as a deviation"),
        p.mutant("mean left out"),
    );
    // The printed prior for data of this mean and variance.
    let printed = |mean: f64, var: f64, time: f64| {
        (
            if no_mean { 0.0 } else { mean },
            (if no_cov { 0.0 } else { var }) + if deviation { time * time } else { time },
        )
    };
    p.property(
        Role::Printed,
        "mean and variance of q(x_T), by integration of its density",
        64,
        "quadrature to 1e-13 of the scale",
        |t| {
            let data = t.mixture(1, 3);
            let time = t.log_uniform(1.0, 1e3);
            let (mean, var) = printed(Law::mean(&data)[0], Law::cov(&data)[[0, 0]], time);
            let reach = 12.0 * (1.0 + time).sqrt() + 12.0;
            let rule = IntervalRule::new(16).expect("nodes");
            let moment = |k: i32, about: f64| {
                rule.composite(-reach, reach, 40, |x| {
                    (x - about).powi(k) * log_density(&data, x, time).exp()
                })
            };
            let centre = moment(1, 0.0);
            t.compare(mean, centre, 1e-12 * reach);
            t.compare(var, moment(2, centre), 1e-12 * reach * reach);
        },
    );
    p.property(
        Role::Printed,
        "covariance of q(x_T) in three dimensions: Sigma_data + T I against the noised mixture's own",
        64,
        "c eps",
        |t| {
            let data = t.mixture(3, 2);
            let time = t.log_uniform(1.0, 1e3);
            let noised = noised(&data, time);
            let diagonal = printed(0.0, 0.0, time).1;
            let cov = Law::cov(&data) * if no_cov { 0.0 } else { 1.0 } + Array2::from_diag_elem(3, diagonal);
            t.compare_all(&cov, &Law::cov(&noised), 64.0 * EPS * (10.0 + time));
        },
    );
    let why = "the next term of Edgeworth's series, r^5 with r = var/(var + T), times cumulants of order 1; and 1e-6 for the quadrature";
    p.property(
        Role::Printed,
        "KL(q(x_T) || the printed law) at T = 200 var, against its leading terms",
        64,
        why,
        |t| {
            let data = t.mixture(1, 2);
            let [mean, v, k3, k4] = cumulants(&data);
            let time = 200.0 * v;
            let (m, w) = printed(mean, v, time);
            let got =
                kl(mean - 11.0 * (time + v).sqrt(), mean + 11.0 * (time + v).sqrt(), 24, |x| {
                    (log_density(&data, x, time), log_density_normal(x, m, w))
                });
            let total = v + time;
            let want = k3 * k3 / (12.0 * total.powi(3)) + k4 * k4 / (48.0 * total.powi(4));
            t.compare(got, want, 3.0 * (v / total).powi(5) + 1e-6 * want);
        },
    );
    let why = "rounding of two log densities";
    p.property(Role::Printed, "KL for Gaussian data, at T = 1 already", 64, why, |t| {
        let data = Mixture::new(array![1.0], vec![t.gaussian(1)]).expect("one component");
        let (m, w) = printed(Law::mean(&data)[0], Law::cov(&data)[[0, 0]], 1.0);
        let reach = 11.0 * (1.0 + Law::cov(&data)[[0, 0]]).sqrt();
        let centre = Law::mean(&data)[0];
        let got = kl(centre - reach, centre + reach, 24, |x| {
            (log_density(&data, x, 1.0), log_density_normal(x, m, w))
        });
        t.compare(got, 0.0, 1e-24);
    });
}

/// The mixture with `var` added to every covariance, as a mixture of its own.
fn noised(law: &Mixture, var: f64) -> Mixture {
    let add = |g: &Gaussian| {
        Gaussian::from_modes(g.mean().to_owned(), &g.variances() + var, g.modes().to_owned())
            .expect("modes stay orthonormal")
    };
    Mixture::new(law.weights(), law.components().iter().map(add).collect()).expect("weights stay")
}

/// Mean, variance, third and fourth cumulant of a one-dimensional mixture.
fn cumulants(law: &Mixture) -> [f64; 4] {
    let mean = Law::mean(law)[0];
    let moment = |f: &dyn Fn(f64, f64) -> f64| -> f64 {
        law.weights()
            .iter()
            .zip(law.components())
            .map(|(w, c)| w * f(c.mean()[0] - mean, c.variances()[0]))
            .sum()
    };
    let (m2, m3) = (moment(&|d, v| d * d + v), moment(&|d, v| d * (d * d + 3.0 * v)));
    let m4 = moment(&|d, v| d.powi(4) + 6.0 * d * d * v + 3.0 * v * v);
    [mean, m2, m3, m4 - 3.0 * m2 * m2]
}

/// Divergence of `q(x_s | x_t = x)` from `N(mean, var)`, for the random walk at times `s < t`.
fn reverse_gap(
    law: &Mixture,
    [s, t]: [f64; 2],
    x: f64,
    [mean, var]: [f64; 2],
    panels: usize,
) -> f64 {
    let evidence = log_density(law, x, t);
    // At s = 0 the mixture must have a density of its own, which it has.
    kl(mean - 11.0 * var.sqrt(), mean + 11.0 * var.sqrt(), panels, |xs| {
        (
            log_density(law, xs, s) + log_density_normal(x, xs, t - s) - evidence,
            log_density_normal(xs, mean, var),
        )
    })
}

/// Score and its two derivatives of the random walk's marginal at time t.
fn score_jet(law: &Mixture, x: f64, t: f64) -> [f64; 3] {
    let sigma = Dual3_64::from(t.sqrt());
    let (_, first, second, third) =
        third_derivative(|x| law.log_density_of(&[x], Dual3_64::from(1.0), sigma), x);
    [first, second, third]
}

fn reverse_gaussian(p: &mut Probe) {
    let (forward_var, reversed) = (p.mutant("forward variance"), p.mutant("score reversed"));
    // Mean and variance of q(x_s|x_t) by Tweedie's formulas, x_t being x_s plus noise of variance
    // delta.
    let matched = |x: f64, delta: f64, [score, curvature, _]: [f64; 3]| {
        let step = Level::new(1.0, delta.sqrt());
        let mean = tweedie_x0_hat(x, if reversed { -score } else { score }, step);
        [mean, if forward_var { delta } else { tweedie_var(curvature, step) }]
    };
    let why = "the step 0.002 and half of it leave the square of the next order, at most 100 times the squared step for \
               derivatives of ln q up to the fifth";
    p.property(
        Role::WithCondition,
        "small steps: KL(q(x_s|x_t) || matched Gaussian) over delta^3, extrapolated to delta = 0, against (d^3 ln q)^2 / 12",
        64,
        why,
        |t| {
            let (data, time) = (t.mixture(1, 2), t.uniform(1.0, 4.0));
            let x = data.sample(1, &t.noise())[[0, 0]] + time.sqrt() * t.normal();
            let jet = score_jet(&data, x, time);
            let rate = |delta: f64| reverse_gap(&data, [time - delta, time], x, matched(x, delta, jet), 8) / delta.powi(3);
            let want = jet[2] * jet[2] / 12.0;
            // Where the third derivative passes through 0 the fourth, which comes next, is what
            // there is: the two steps take it out.
            t.compare(2.0 * rate(0.001) - rate(0.002), want, 0.01 * want + 100.0 * 0.002 * 0.002);
        },
    );
    let data = near_two();
    let total = |steps: usize| -> f64 {
        // The noise from variance 1 to 5 cut into equal steps, each seen from one typical state.
        let delta = 4.0 / steps as f64;
        (1..=steps)
            .map(|k| {
                let time = 1.0 + k as f64 * delta;
                reverse_gap(
                    &data,
                    [time - delta, time],
                    1.0,
                    matched(1.0, delta, score_jet(&data, 1.0, time)),
                    6,
                )
            })
            .sum()
    };
    let (coarse, fine) = (total(40), total(80));
    let why = "the next order in 1/T";
    p.number(
        Role::WithCondition,
        "order in T of the KL of all steps together, from T = 40 and 80",
        (coarse / fine).log2(),
        2.0,
        0.1,
        why,
    );
    p.fact(
        Role::WithCondition,
        "at T = 80 steps, not Gaussian data: the KL is more than 1e-9, so not Gaussian",
        fine > 1e-9,
    );

    let jet_of = |law: &Mixture, x: f64| {
        let at = PathPoint::still(1.0, 1.0);
        let mut mean = Array2::zeros((1, 1));
        tweedie::diffusion::Denoiser::denoise(law, array![[x]].view(), &at, mean.view_mut())
            .expect("an exact law");
        [
            mean[[0, 0]],
            law.posterior_cov(Array1::from_elem(1, x).view(), &at).expect("an exact law")[[0, 0]],
        ]
    };
    let stuck = reverse_gap(&data, [0.0, 1.0], 0.0, jet_of(&data, 0.0), 200);
    let why = "0 would be Gaussian; nothing in it depends on T";
    p.number(
        Role::WithoutCondition,
        "unit steps, any T: KL of q(x_0|x_1 = 0) from its Gaussian, data near -2 and +2",
        stuck,
        0.0,
        1e-3,
        why,
    );
    let gaussian =
        Mixture::new(array![1.0], vec![Gaussian::isotropic(array![0.5], 2.0).expect("variance")])
            .expect("weight");
    let none = reverse_gap(&gaussian, [0.0, 1.0], 1.0, jet_of(&gaussian, 1.0), 20);
    p.fact(
        Role::WithoutCondition,
        "Gaussian data, one unit step: the KL is more than 1e-9, so not Gaussian",
        none > 1e-9,
    );
}

/// Two narrow humps at -2 and +2, of variance 0.01.
fn near_two() -> Mixture {
    let hump = |m: f64| Gaussian::isotropic(array![m], 0.01).expect("a variance");
    Mixture::new(array![1.0, 1.0], vec![hump(-2.0), hump(2.0)]).expect("two weights")
}
