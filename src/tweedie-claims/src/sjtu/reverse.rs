//! The reverse kernels: nearly Gaussian for small steps, Gaussian given x0, and their mean by the
//! predicted noise.

use super::level;
use crate::Role::Printed;
use crate::{Claim, Trial};
use nalgebra::{DMatrix, DVector};
use ndarray::array;
use tweedie::diffusion::kernel::{Posterior, Transition};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::gaussian::{Covariance, Normal, log_density_normal};
use tweedie::math::quadrature::{IntervalRule, NormalRule};

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "sjtu/reverse-gaussian-for-small-beta",
        slide: "Modeling p_theta(x_{t-1} | x_t)",
        statement: "When beta_t is small the true reverse kernel q(x_{t-1}|x_t) is approximately Gaussian.",
        reading: "",
        assumes: "Distance from Gaussian is the KL divergence to the Gaussian of the same mean and variance; the data are mixtures \
        of two Gaussians in one dimension.",
        printed: "",
        formula: r"\operatorname{KL}\left(q(x_{t-1}|x_t) \,\|\, \mathcal{N}\right) = \frac{1}{12} \beta_t^3
        \left(\frac{\partial^3}{\partial x^3} \ln q(x_{t-1})\right)^2 + O(\beta_t^4)",
        finding: "It holds, and the distance falls like the third power of beta: halving the step divides it by 2^3. Small means \
        small against the scale on which the logarithm of the marginal q(x_{t-1}) bends. With one step, T = 1, the reverse kernel \
        is the data law itself: for two narrow modes at -1 and 1 it is 1.61 nats away from any Gaussian.",
        mutants: &[
            "posterior variance without that of x0",
            "second derivative for the third",
            "whole chain in one step",
        ],
        check: |p| {
            let (narrow, second) = (
                p.mutant("posterior variance without that of x0"),
                p.mutant(
                    "second derivative for the \
            third",
                ),
            );
            let single = p.mutant("whole chain in one step");
            let rule = NormalRule::new(48).expect("48 nodes");
            p.property(
                Printed,
                "Mean and variance of the reverse kernel by Tweedie's formula against its density",
                32,
                "48 Gauss-Hermite nodes and rounding",
                |t| {
                    let (law, s) = (two_modes(t), noise_level(t.uniform(0.3, 0.7)));
                    let beta = t.log_uniform(1e-3, 1e-2);
                    let (xt, to) = (t.uniform(-1.5, 1.5), after(s, beta));
                    let got = reverse_moments(&law, s, to, xt, narrow);
                    let want = Reverse::of(&law, s, beta, xt, &rule);
                    // beta is recovered from two rounded levels to eps, and enters the variance to
                    // first order.
                    t.compare(got.0, want.mean, 1e-13);
                    t.compare(got.1 / want.var, 1.0, 1e-11);
                },
            );
            p.property(
                Printed,
                "KL to the nearest Gaussian over its leading term, summed over 12 states, extrapolated to beta = 0",
                24,
                "beta and half of it leave the square of the next order, at most 100 beta at this noise",
                |t| {
                    let (law, s) = (two_modes(t), noise_level(t.uniform(0.5, 0.8)));
                    let beta = if single { 0.999 } else { t.log_uniform(1e-3, 4e-3) };
                    let states = t.normals(12);
                    let ratio = |beta: f64| {
                        let (mut kl, mut leading) = (0.0, 0.0);
                        for &xt in &states {
                            let reverse = Reverse::of(&law, s, beta, xt, &rule);
                            let log_q = |y: num_dual::Dual3_64| law.log_density_of(&[y], s.alpha.into(), s.sigma.into());
                            let (_, _, curvature, third) = num_dual::third_derivative(log_q, reverse.mean);
                            kl += reverse.kl;
                            leading += beta.powi(3) * if second { curvature } else { third }.powi(2) / 12.0;
                        }
                        kl / leading
                    };
                    t.compare(2.0 * ratio(0.5 * beta) - ratio(beta), 1.0, (100.0 * beta).powi(2).min(1.0));
                },
            );
            let (law, s) = (modes(1.0, 0.3), noise_level(0.5));
            let total = |beta: f64| {
                (-8..=8)
                    .map(|k| Reverse::of(&law, s, beta, 0.15 * f64::from(k), &rule).kl)
                    .sum::<f64>()
            };
            let start = if single { 0.9 } else { 2e-3 };
            p.number(
                Printed,
                "Order of the distance in beta, from beta = 0.002 and 0.001",
                (total(start) / total(0.5 * start)).log2(),
                3.0,
                0.02,
                "the next order in beta",
            );
            // T = 1: x_1 is nearly pure noise and says nothing of x_0; at x_1 = 0 both modes are
            // left, each with its variance.
            let (law, var) = (modes(1.0, 0.1), 0.01f64);
            let got = one_step_distance(&law, Level::new(4e-5f64.sqrt(), (1.0 - 4e-5f64).sqrt()));
            let want = 0.5 * ((1.0 + var) / var).ln() - 2f64.ln();
            p.number(
                Printed,
                "With T = 1: nats from the nearest Gaussian, modes at -1 and 1 of deviation 0.1",
                got,
                want,
                1e-4,
                "alpha_bar_1 = 4e-5 is left of the signal",
            );
        },
    },
    Claim {
        id: "sjtu/posterior-gaussian",
        slide: "What Should We Train On?",
        statement: "Given x0 as well, the reverse kernel q(x_{t-1}|x_t, x0) is Gaussian, with mean and variance in closed form.",
        reading: "The slide names the mean mu~_t and the variance beta~_t without their formulas; checked are those of Ho et al. \
        2020, equation 7.",
        assumes: "t > 1; at t = 1 the kernel is the point x0.",
        printed: "",
        formula: r"\tilde\mu_t = \frac{\sqrt{\bar\alpha_{t-1}} \beta_t}{1 - \bar\alpha_t} x_0 + \frac{\sqrt{\alpha_t} (1 -
        \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t, \quad \tilde\beta_t = \frac{1 - \bar\alpha_{t-1}}{1 - \bar\alpha_t} \beta_t",
        finding: "It holds: conditioning the joint Gaussian of (x_{t-1}, x_t) on x_t by linear algebra gives the same mean and \
        variance, for single steps and for any stride.",
        mutants: &[
            "coefficients swapped",
            "missing bar in the denominator",
            "alpha_bar_t for alpha_bar_{t-1}",
            "beta for beta~",
        ],
        check: |p| {
            let (swapped, bar) =
                (p.mutant("coefficients swapped"), p.mutant("missing bar in the denominator"));
            let (late, beta) =
                (p.mutant("alpha_bar_t for alpha_bar_{t-1}"), p.mutant("beta for beta~"));
            p.property(
                Printed,
                "Mean and variance of the table against conditioning of the joint Gaussian",
                128,
                "rounding; the variance is what is left of sigma^2",
                |t| {
                    let table = t.table(t.int(2, 100));
                    let step = t.int(2, table.steps());
                    let (row, before) = (&table.rows()[step - 1], &table.rows()[step - 2]);
                    let (mut x0_part, mut xt_part) = (row.posterior_coef_x0, row.posterior_coef_xt);
                    let mut var = row.posterior_var;
                    if swapped {
                        std::mem::swap(&mut x0_part, &mut xt_part);
                    }
                    if bar {
                        let factor = row.sigma.powi(2) / row.beta;
                        (x0_part, xt_part, var) =
                            (x0_part * factor, xt_part * factor, var * factor);
                    }
                    if late {
                        (xt_part, var) = (row.alpha_step.sqrt(), row.beta);
                    }
                    var = if beta { row.beta } else { var };
                    let d = t.int(1, 3);
                    let (x0, xt) = (t.normals(d), t.normals(d));
                    let want = conditioned(
                        &x0.to_vec(),
                        Level::new(before.alpha, before.sigma),
                        row.alpha_step.sqrt(),
                        row.beta,
                        &xt.to_vec(),
                    );
                    let size = 4.0 + x0.dot(&x0) + xt.dot(&xt);
                    let mean = &x0 * x0_part + &xt * xt_part;
                    t.compare_all(&mean, want.mean(), 32.0 * EPS * size);
                    t.compare_all(&vec![var; d], want.cov_matrix().diagonal().iter(), 32.0 * EPS);
                },
            );
            p.property(
                Printed,
                "The closed form between two levels of any stride against the same",
                128,
                "rounding, over the share of SNR lost",
                |t| {
                    let (s, u) =
                        (noise_level(t.uniform(0.05, 0.5)), noise_level(t.uniform(0.6, 0.99)));
                    let q = Posterior::between(s, u).expect("to a noisier level");
                    let (scale, x0, xt) = (u.alpha / s.alpha, t.normal(), t.normal());
                    let forward = u.sigma.powi(2) - scale.powi(2) * s.sigma.powi(2);
                    let want = conditioned(&[x0], s, scale, forward, &[xt]);
                    let (a, b) =
                        if swapped { (q.coef_xt, q.coef_x0) } else { (q.coef_x0, q.coef_xt) };
                    t.compare(
                        a * x0 + b * xt,
                        want.mean()[0],
                        64.0 * EPS * (1.0 + x0.abs() + xt.abs()),
                    );
                    t.compare(
                        if beta { forward } else { q.var },
                        want.cov_matrix()[(0, 0)],
                        64.0 * EPS,
                    );
                },
            );
        },
    },
    Claim {
        id: "sjtu/epsilon-mean",
        slide: "Epsilon-Prediction: Predict the Noise, Not the Mean",
        statement: "(x_t - beta_t / sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_t) is the posterior mean mu~_t at the x0 that \
        eps_theta implies.",
        reading: "",
        assumes: "The implied x0 is (x_t - sqrt(1 - alpha_bar_t) eps_theta) / sqrt(alpha_bar_t), so alpha_bar_t > 0.",
        printed: "",
        formula: r"\frac{1}{\sqrt{\alpha_t}} \left(x_t - \frac{\beta_t}{\sqrt{1 - \bar\alpha_t}} \varepsilon_\theta\right) =
        \tilde\mu_t\left(x_t, \frac{x_t - \sqrt{1 - \bar\alpha_t}\, \varepsilon_\theta}{\sqrt{\bar\alpha_t}}\right)",
        finding: "It holds at every step, t = 1 included, for any output eps_theta, right or wrong.",
        mutants: &[
            "alpha_bar under the outer root",
            "root of 1 - alpha_bar dropped",
            "root of beta",
            "noise added back",
        ],
        check: |p| {
            let (bar, unrooted) = (
                p.mutant("alpha_bar under the outer root"),
                p.mutant("root of 1 - alpha_bar dropped"),
            );
            let (rooted, sign) = (p.mutant("root of beta"), p.mutant("noise added back"));
            p.property(
                Printed,
                "The mean by eps_theta against the posterior mean at the implied x0",
                256,
                "rounding of x0, magnified by 1/alpha where the signal is small",
                |t| {
                    let table = t.table(t.int(1, 100));
                    let step = t.int(1, table.steps());
                    let row = &table.rows()[step - 1];
                    let (xt, eps) = (t.normal(), t.normal());
                    let noise = if rooted { row.beta.sqrt() } else { row.beta }
                        / if unrooted { row.sigma.powi(2) } else { row.sigma };
                    let outer = if bar { row.alpha } else { row.alpha_step.sqrt() };
                    let mean = (xt - if sign { -noise } else { noise } * eps) / outer;
                    let at = Frame::from(&PathPoint::still(row.alpha, row.sigma));
                    let x0 = Conversion::new(Prediction::Eps, Prediction::X0, at)
                        .expect("alpha > 0")
                        .apply(eps, xt);
                    let want = Posterior {
                        coef_x0: row.posterior_coef_x0,
                        coef_xt: row.posterior_coef_xt,
                        var: row.posterior_var,
                    }
                    .mean(x0, xt);
                    let size = xt.abs() + eps.abs();
                    t.compare(
                        mean,
                        want,
                        16.0 * EPS
                            * size
                            * (row.posterior_coef_x0 / row.alpha + 1.0 / row.alpha_step.sqrt()),
                    );
                },
            );
            p.property(
                Printed,
                "The same against the kernel between the two levels",
                128,
                "rounding of the levels, over the step's beta",
                |t| {
                    let table = t.table(t.int(2, 30));
                    let step = t.int(2, table.steps());
                    let row = &table.rows()[step - 1];
                    let (xt, eps) = (t.normal(), t.normal());
                    let outer = if bar { row.alpha } else { row.alpha_step.sqrt() };
                    let mean = (xt - row.beta / row.sigma * eps) / outer;
                    let want = Posterior::between(level(&table, step - 1), level(&table, step))
                        .expect("a table's SNR falls");
                    let x0 = (xt - row.sigma * eps) / row.alpha;
                    t.compare(mean, want.mean(x0, xt), 32.0 * EPS * (1.0 + x0.abs() + xt.abs()));
                },
            );
        },
    },
];

/// Two modes at -m and m of the given deviation, with equal weights.
fn modes(m: f64, std: f64) -> Mixture {
    let side = |m: f64| Gaussian::isotropic(array![m], std * std).expect("a variance");
    Mixture::new(array![0.5, 0.5], vec![side(-m), side(m)]).expect("two components")
}

/// Two modes some distance apart, of random deviations and weights.
fn two_modes(t: &Trial) -> Mixture {
    let side = |sign: f64| {
        Gaussian::isotropic(array![sign * t.uniform(0.8, 1.5)], t.uniform(0.2, 0.5).powi(2))
            .expect("a variance")
    };
    let weight = t.uniform(0.3, 0.7);
    Mixture::new(array![weight, 1.0 - weight], vec![side(-1.0), side(1.0)]).expect("two components")
}

/// The variance-preserving level of this sigma.
fn noise_level(sigma: f64) -> Level<f64> {
    Level::new((1.0 - sigma * sigma).sqrt(), sigma)
}

/// The level one step of `beta` later.
fn after(s: Level<f64>, beta: f64) -> Level<f64> {
    Level::new(s.alpha * (1.0 - beta).sqrt(), (s.sigma * s.sigma * (1.0 - beta) + beta).sqrt())
}

/// Mean and variance of q(x_s|x_t) from the law's E[x0|x_t] and Cov[x0|x_t]; `narrow` forgets the
/// latter.
fn reverse_moments(
    law: &Mixture,
    s: Level<f64>,
    t: Level<f64>,
    xt: f64,
    narrow: bool,
) -> (f64, f64) {
    let (q, at) =
        (Posterior::between(s, t).expect("to a noisier level"), PathPoint::still(t.alpha, t.sigma));
    let mut x0_hat = array![[0.0]];
    law.denoise(array![[xt]].view(), &at, x0_hat.view_mut()).expect("an exact law");
    let spread = q.coef_x0.powi(2)
        * law.posterior_cov(array![xt].view(), &at).expect("an exact law")[[0, 0]];
    (q.mean(x0_hat[[0, 0]], xt), if narrow { q.var } else { q.var + spread })
}

/// q(x_{t-1}|x_t) of one dimension from its density, which is proportional to q(x_{t-1})
/// q(x_t|x_{t-1}).
struct Reverse {
    mean: f64,
    var: f64,
    /// KL to the Gaussian of this mean and variance, in nats.
    kl: f64,
}

impl Reverse {
    fn of(law: &Mixture, s: Level<f64>, beta: f64, xt: f64, rule: &NormalRule) -> Self {
        // As a function of x_{t-1} the forward kernel is a Gaussian of this centre and variance, up
        // to a factor.
        let (centre, width) = (xt / (1.0 - beta).sqrt(), beta / (1.0 - beta));
        let log_q = |y: f64| law.log_density_of(&[y], s.alpha, s.sigma);
        let top = log_q(centre);
        let ratio = |y: f64| (log_q(y) - top).exp();
        let total = rule.expectation(centre, width, ratio);
        let mean = rule.expectation(centre, width, |y| y * ratio(y)) / total;
        let var = rule.expectation(centre, width, |y| (y - mean).powi(2) * ratio(y)) / total;
        let log_ratio = |y: f64| {
            log_density_normal(y, centre, width) - log_density_normal(y, mean, var) + log_q(y)
                - top
                - total.ln()
        };
        let kl = rule.expectation(centre, width, |y| ratio(y) * log_ratio(y)) / total;
        Self { mean, var, kl }
    }
}

/// KL from q(x_0|x_1 = 0) of one single step to the Gaussian of its mean and variance, by
/// integration over x_0.
fn one_step_distance(law: &Mixture, level: Level<f64>) -> f64 {
    let rule = IntervalRule::new(20).expect("20 nodes");
    let kernel = Transition { scale: level.alpha, var: level.sigma * level.sigma };
    let log_joint = |x: f64| law.log_density_of(&[x], 1.0, 0.0) + kernel.log_density(0.0, x);
    let mean_of =
        |f: &dyn Fn(f64) -> f64| rule.composite(-3.0, 3.0, 40, |x| log_joint(x).exp() * f(x));
    let total = mean_of(&|_| 1.0);
    let mean = mean_of(&|x| x) / total;
    let var = mean_of(&|x| (x - mean).powi(2)) / total;
    mean_of(&|x| log_joint(x) - total.ln() - log_density_normal(x, mean, var)) / total
}

/// q(x_s | x_t, x0) in d dimensions by conditioning the joint Gaussian of (x_s, x_t) given x0.
fn conditioned(x0: &[f64], s: Level<f64>, scale: f64, var: f64, xt: &[f64]) -> Normal {
    let d = x0.len();
    let xs = Normal::new(
        DVector::from_column_slice(x0) * s.alpha,
        Covariance::Isotropic(s.sigma * s.sigma),
    )
    .expect("a Gaussian");
    let joint = xs
        .joint(&(DMatrix::identity(d, d) * scale), &DVector::zeros(d), Covariance::Isotropic(var))
        .expect("a kernel");
    joint.condition(&(d..2 * d).collect::<Vec<_>>(), xt).expect("x_t has noise")
}
