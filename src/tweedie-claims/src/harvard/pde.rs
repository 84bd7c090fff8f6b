//! Densities that move: the heat, Liouville and Fokker-Planck equations, and the processes that run
//! them backwards.

use super::tools::{EPS, Slopes, brownian, log_density_rate, noised, wide_mixture};
use crate::Claim;
use crate::Role::{Printed, WithCondition, WithoutCondition};
use num_dual::{DualNum, first_derivative, second_derivative};
use tweedie::diffusion::kernel::{Transition, random_walk};
use tweedie::diffusion::level::Rates;
use tweedie::diffusion::sde::Sde;
use tweedie::exact::flow::marginal_velocity;
use tweedie::exact::reverse_sde::{Churn, reverse_law};
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::quadrature::NormalRule;
use tweedie::math::scalar::Scalar;

/// Rounding of dual numbers through a log-sum-exp, relative to the terms that cancel.
const PDE: f64 = 1e4 * EPS;
const WHY_PDE: &str = "dual numbers: no truncation, 1e4 roundings of the largest cancelling term";

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/heat-equation",
        slide: "Forward process: adding noise and diffusion equation",
        statement: "Brownian motion dx = dW turns the density p0 into its convolution with N(0, t I), which solves dp/dt = 1/2 Laplacian p.",
        reading: "",
        assumes: "Random Gaussian mixtures in one to four dimensions; a density of any other law is a limit of such.",
        printed: "",
        formula: r"p(x; t) = p_0 * \mathcal{N}(0, t I), \quad \partial_t p = \frac{1}{2} \nabla^2 p",
        finding: "Both halves hold: the noised marginals compose like Brownian increments (variance t - s, not its square), and they solve the equation with \
                  the factor 1/2 at every point.",
        mutants: &[
            "factor one half dropped",
            "noise of deviation t",
            "increment of deviation t - s",
        ],
        check: |p| {
            let half = p.pick(0.5, "factor one half dropped", 1.0);
            let (linear, increment) =
                (p.mutant("noise of deviation t"), p.mutant("increment of deviation t - s"));
            p.property(
                Printed,
                "dp/dt against half the Laplacian, both over p",
                128,
                WHY_PDE,
                |t| {
                    let (law, time) =
                        (t.mixture(t.int(1, 4), t.int(1, 4)), t.log_uniform(0.01, 10.0));
                    let mut at = brownian(time);
                    if linear {
                        (at.sigma, at.rates) = (time, Some(Rates::new(0.0, 1.0)));
                    }
                    let x = noised(t, &law, &at);
                    let x = x.row(0).to_vec();
                    let slopes = Slopes::new(&law, &x, &at);
                    t.compare(
                        log_density_rate(&law, &x, &at),
                        half * slopes.laplacian(),
                        PDE * slopes.scale,
                    );
                },
            );
            let rule = NormalRule::new(48).expect("48 nodes");
            let why = "quadrature of 48 nodes of a function wider than the increment";
            p.property(
                Printed,
                "p(x; t) against p(.; s) averaged over the increment from s to t",
                64,
                why,
                |t| {
                    let (law, s) = (wide_mixture(t, 0.5), t.uniform(0.1, 2.0));
                    let (later, x) = (s + t.uniform(0.01, 0.4), 2.0 * t.normal());
                    let q = Transition::between(random_walk(s), random_walk(later))
                        .expect("noise grows");
                    let var = if increment { q.var * q.var } else { q.var };
                    let density = |x: f64, time: f64| {
                        law.log_density_of(&[x], 1.0, random_walk(time).sigma).exp()
                    };
                    let averaged = rule.expectation(x, var, |y| density(y, s));
                    t.compare(averaged, density(x, later), 1e-10);
                },
            );
        },
    },
    Claim {
        id: "harvard/liouville",
        slide: "Probability flow and Liouville Equation",
        statement: "If every point moves by dx = f(x; t) dt, the density moves by dp/dt = -div(f p).",
        reading: "",
        assumes: "f is smooth, so that the flow is invertible.",
        printed: "",
        formula: r"\partial_t p = -\nabla \cdot (f p) = -p \nabla \cdot f - f \cdot \nabla p",
        finding: "It holds for a nonlinear flow solved in closed form and for the marginal velocity of random mixtures on random paths.",
        mutants: &["advection only: div f dropped", "sign", "f for its own score-free part"],
        check: |p| {
            let (advection, sign) =
                (p.mutant("advection only: div f dropped"), p.pick(1.0, "sign", -1.0));
            let unscored = p.mutant("f for its own score-free part");
            let divergence = if advection { 0.0 } else { 1.0 };
            // dx = a sin(x) dt is solved by tan(x_t / 2) = exp(a t) tan(x_0 / 2), so p(x; t) is p0
            // at the origin of x times d origin / dx.
            p.property(
                Printed,
                "A sine flow, solved in closed form: dp/dt over p",
                128,
                WHY_PDE,
                |t| {
                    let (law, a, time, x) = (
                        t.mixture(1, 3),
                        t.uniform(-1.5, 1.5),
                        t.uniform(0.0, 1.5),
                        t.uniform(-2.5, 2.5),
                    );
                    let (_, rate) = first_derivative(|s| sine_flow(&law, a, x.into(), s), time);
                    let (_, slope) = first_derivative(|y| sine_flow(&law, a, y, time.into()), x);
                    let (f, div) = (a * x.sin(), a * x.cos());
                    let scale =
                        1.0 + (a * slope).abs() + Slopes::new(&law, &[x], &brownian(1e-3)).scale;
                    t.compare(rate, -sign * (divergence * div + f * slope), PDE * scale);
                },
            );
            p.property(
                Printed,
                "The marginal velocity of a random mixture: dp/dt over p",
                128,
                WHY_PDE,
                |t| {
                    let (law, at) = (t.mixture(3, t.int(1, 3)), t.point());
                    let x = noised(t, &law, &at);
                    let moving = at.moving().expect("rates");
                    let v = marginal_velocity(&law, x.view(), &moving).expect("a noisy level");
                    let rates = moving.rates;
                    let jacobian = law.jacobian(x.row(0), &at).expect("an exact law");
                    // v = d_sigma x / sigma + (d_alpha - d_sigma alpha / sigma) E[x0 | x]
                    let along = rates.sigma / at.sigma;
                    let mut div =
                        3.0 * along + (rates.alpha - along * at.alpha) * jacobian.diag().sum();
                    let mut f = v.row(0).to_vec();
                    if unscored {
                        f = x.row(0).mapv(|x| x * rates.alpha / at.alpha).to_vec();
                        div = 3.0 * rates.alpha / at.alpha;
                    }
                    let x = x.row(0).to_vec();
                    let slopes = Slopes::new(&law, &x, &at);
                    let carried: f64 = f.iter().zip(&slopes.score).map(|(f, s)| f * s).sum();
                    let sizes = (rates.alpha.abs() + rates.sigma.abs())
                        * (1.0 + x.iter().map(|x| x.abs()).sum::<f64>())
                        * (slopes.scale + slopes.scale.sqrt() / at.sigma + 1.0 / at.sigma);
                    t.compare(
                        log_density_rate(&law, &x, &at),
                        -sign * (divergence * div + carried),
                        PDE * sizes,
                    );
                },
            );
        },
    },
    Claim {
        id: "harvard/reverse-ode",
        slide: "Reverse noising process via score function",
        statement: "Moving every point by f = 1/2 grad log p makes the density obey dp/dt = -1/2 Laplacian p: the diffusion run backwards.",
        reading: "The time of the moving points runs against that of the noising process, as the slide's arrow t to -t says.",
        assumes: "p is the density of the noising process at the matching time; random Gaussian mixtures.",
        printed: "",
        formula: r"f = \frac{1}{2} \nabla \log p \Rightarrow -\nabla \cdot (f p) = -\frac{1}{2} \nabla^2 p",
        finding: "It holds: f p is half the gradient of p, so the divergence is half the Laplacian. It is the probability-flow ODE of dx = dW with time \
                  reversed, and it returns a Gaussian's noised law to any earlier one exactly.",
        mutants: &[
            "factor one half dropped",
            "sign of the score",
            "gradient of p for that of log p",
        ],
        check: |p| {
            let factor = p.pick(0.5, "factor one half dropped", 1.0)
                * p.pick(1.0, "sign of the score", -1.0);
            let raw = p.mutant("gradient of p for that of log p");
            p.property(
                Printed,
                "-div(f p) against -1/2 Laplacian p, both over p",
                128,
                WHY_PDE,
                |t| {
                    let (law, at) =
                        (t.mixture(t.int(1, 4), t.int(1, 4)), brownian(t.log_uniform(0.01, 10.0)));
                    let x = noised(t, &law, &at).row(0).to_vec();
                    let slopes = Slopes::new(&law, &x, &at);
                    let (norm2, trace) = (
                        slopes.score.iter().map(|s| s * s).sum::<f64>(),
                        slopes.curvature.iter().sum::<f64>(),
                    );
                    // f = grad p: its divergence is Laplacian p = p (trace + norm2).
                    let density = if raw { slopes.log_density.exp() } else { 1.0 };
                    let got = if raw {
                        -factor * density * (trace + 2.0 * norm2)
                    } else {
                        -factor * (trace + norm2)
                    };
                    t.compare(got, -log_density_rate(&law, &x, &at), PDE * slopes.scale);
                },
            );
            p.property(
                Printed,
                "f against the reversed probability-flow ODE of the library",
                64,
                "rounding of one product",
                |t| {
                    let (at, score) = (brownian(t.log_uniform(0.01, 10.0)), t.normal());
                    let sde = Sde::at(&at.moving().expect("rates")).expect("noise grows");
                    let f = if raw {
                        factor * score * (-0.5 * score * score).exp()
                    } else {
                        factor * score
                    };
                    t.compare(
                        f,
                        -sde.reverse_drift(t.normal(), score, 0.0),
                        8.0 * EPS * score.abs(),
                    );
                },
            );
            p.property(
                Printed,
                "Variance of a Gaussian carried from time T back to t, against its variance at t",
                64,
                "midpoint rule of 400 steps in log time, extrapolated once",
                |t| {
                    let (lambda, end, start) = (
                        t.log_uniform(0.05, 10.0),
                        t.log_uniform(0.01, 1.0),
                        t.log_uniform(1.5, 20.0),
                    );
                    // x / sd is linear: d ln x / dt = -factor * (score / x) in the noising clock.
                    let gain = log_gain(end, start, |time| -factor * -1.0 / (lambda + time)).exp();
                    let got = (lambda + start) / (gain * gain);
                    t.compare(got, lambda + end, 1e-8 * (lambda + end));
                },
            );
        },
    },
    Claim {
        id: "harvard/fokker-planck",
        slide: "Probability flow and Liouville & Fokker Planck Equation",
        statement: "If every point moves by dx = f(x; t) dt + g(t) dW, the density moves by dp/dt = -div(f p) + 1/2 g^2 Laplacian p.",
        reading: "The slide writes dW ~ N(0, dt I), which is the increment of standard Brownian motion.",
        assumes: "f is smooth and g depends on time alone, as on the slide; a g that depends on x would add terms.",
        printed: "",
        formula: r"\partial_t p = -\nabla \cdot (f p) + \frac{1}{2} g^2 \nabla^2 p",
        finding: "It holds for the linear SDE of every path, whose marginals are known independently, and for one small step of a nonlinear drift computed by \
                  quadrature.",
        mutants: &["g for g^2", "factor one half dropped", "sign of the drift"],
        check: |p| {
            let deviation = p.mutant("g for g^2");
            let (half, sign) = (
                p.pick(0.5, "factor one half dropped", 1.0),
                p.pick(1.0, "sign of the drift", -1.0),
            );
            p.property(
                Printed,
                "The linear SDE of a random path, from a random mixture: dp/dt over p",
                128,
                WHY_PDE,
                |t| {
                    let (law, at) = (t.mixture(3, t.int(1, 3)), t.point());
                    let x = noised(t, &law, &at).row(0).to_vec();
                    let slopes = Slopes::new(&law, &x, &at);
                    let sde = Sde::at(&at.moving().expect("rates")).expect("noise grows");
                    let g2 = if deviation { sde.g2.sqrt() } else { sde.g2 };
                    let carried: f64 =
                        x.iter().zip(&slopes.score).map(|(x, s)| sde.f * x * s).sum();
                    let size = (sde.f.abs() * (1.0 + x.iter().map(|x| x * x).sum::<f64>())
                        + sde.g2)
                        * (1.0 + slopes.scale);
                    t.compare(
                        log_density_rate(&law, &x, &at),
                        -sign * (3.0 * sde.f + carried) + half * g2 * slopes.laplacian(),
                        PDE * size,
                    );
                },
            );
            let rule = NormalRule::new(16).expect("16 nodes");
            let why = "extrapolation of steps 1e-2, 5e-3, 2.5e-3 to 0, off by the third order of the step";
            p.property(
                Printed,
                "A nonlinear drift: rate of the density over one short step, by quadrature",
                64,
                why,
                |t| {
                    let (law, x) = (wide_mixture(t, 0.7), t.uniform(-2.0, 2.0));
                    let (a, b, g) =
                        (t.uniform(-1.0, 1.0), t.uniform(0.5, 1.5), t.uniform(0.3, 1.3));
                    let (f, slope) = (|y: f64| a * (b * y).sin(), |y: f64| a * b * (b * y).cos());
                    let (value, p1, p2) = second_derivative(
                        |y| law.log_density_of(&[y], 1.0.into(), 0.0.into()).exp(),
                        x,
                    );
                    let g2 = if deviation { g } else { g * g };
                    let want = -sign * (slope(x) * value + f(x) * p1) + half * g2 * p2;
                    let density = |y: f64| law.log_density_of(&[y], 1.0, 0.0).exp();
                    // After one Euler step of length h the density at x is the mean of p(y) /
                    // (dx/dy) over the y that the noise leaves.
                    let rate = |h: f64| {
                        let after = rule.expectation(0.0, g * g * h, |noise| {
                            let y = (0..60).fold(x, |y, _| x - noise - h * f(y));
                            density(y) / (1.0 + h * slope(y))
                        });
                        (after - value) / h
                    };
                    let (r1, r2, r4) = (rate(1e-2), rate(5e-3), rate(2.5e-3));
                    t.compare((8.0 * r4 - 6.0 * r2 + r1) / 3.0, want, 1e-4);
                },
            );
        },
    },
    Claim {
        id: "harvard/reverse-sde-family",
        slide: "Reverse noising process via score function (SDE)",
        statement: "For every g, the drift f = 1/2 (1 + g^2) grad log p with noise g dW reverses the noising process.",
        reading: "As for the ODE, the time of the moving points runs against that of the noising process.",
        assumes: "The process starts from the noised law itself; the score is exact. g may change with time.",
        printed: "",
        formula: r"-\nabla \cdot \left( \frac{1 + g^2}{2} p \nabla \log p \right) + \frac{g^2}{2} \nabla^2 p = -\frac{1}{2} \nabla^2 p",
        finding: "It holds: what the noise spreads, g^2 / 2 times the Laplacian, the extra drift undoes exactly. The exact laws of Gaussian data agree for \
                  constant and for changing g.",
        mutants: &[
            "g for g^2 in the drift",
            "drift of the ODE with noise",
            "noise without its half in the drift",
        ],
        check: |p| {
            let (rooted, ode) =
                (p.mutant("g for g^2 in the drift"), p.mutant("drift of the ODE with noise"));
            let doubled = p.mutant("noise without its half in the drift");
            let coefficient = move |g: f64| {
                if rooted {
                    0.5 * (1.0 + g)
                } else if ode {
                    0.5
                } else if doubled {
                    0.5 + g * g
                } else {
                    0.5 * (1.0 + g * g)
                }
            };
            p.property(
                Printed,
                "Fokker-Planck of the family against -dp/dt of the noising, over p",
                128,
                WHY_PDE,
                |t| {
                    let (law, at, g) = (
                        t.mixture(t.int(1, 4), t.int(1, 4)),
                        brownian(t.log_uniform(0.01, 10.0)),
                        t.uniform(0.1, 3.0),
                    );
                    let x = noised(t, &law, &at).row(0).to_vec();
                    let slopes = Slopes::new(&law, &x, &at);
                    let divergence = coefficient(g)
                        * (slopes.curvature.iter().sum::<f64>()
                            + slopes.score.iter().map(|s| s * s).sum::<f64>());
                    t.compare(
                        -divergence + 0.5 * g * g * slopes.laplacian(),
                        -log_density_rate(&law, &x, &at),
                        PDE * (1.0 + g * g) * slopes.scale,
                    );
                },
            );
            p.property(
                Printed,
                "Drift against the reverse SDE of the library, its time reversed",
                64,
                "rounding of three products",
                |t| {
                    let (at, g, score) =
                        (brownian(t.log_uniform(0.01, 10.0)), t.uniform(0.1, 3.0), t.normal());
                    let sde = Sde::at(&at.moving().expect("rates")).expect("noise grows");
                    let want = -sde.reverse_drift(t.normal(), score, g);
                    t.compare(coefficient(g) * score, want, 8.0 * EPS * want.abs());
                },
            );
            p.property(
                Printed,
                "Exact law of the reverse process against the noised law",
                64,
                "rounding of exponentials of up to 50",
                |t| {
                    let (data, rate) = (t.gaussian(3), t.uniform(0.1, 3.0));
                    let (from, to) =
                        (brownian(t.log_uniform(2.0, 50.0)), brownian(t.log_uniform(0.01, 1.0)));
                    let churn = if t.int(0, 1) == 0 {
                        Churn::Constant(rate)
                    } else {
                        Churn::Langevin(rate)
                    };
                    let law = reverse_law(
                        &data,
                        &at_time(&data, from.t.expect("a time")),
                        from,
                        to,
                        churn,
                    )
                    .expect("levels of one path");
                    let want = at_time(&data, to.t.expect("a time"));
                    t.compare_all(law.mean().iter(), want.mean().iter(), 1e-12);
                    t.compare_all(
                        &Law::cov(&law),
                        &Law::cov(&want),
                        1e-12 * (1.0 + want.variances()[0]),
                    );
                },
            );
        },
    },
    Claim {
        id: "harvard/reverse-summary-signs",
        slide: "Summary of sampling process",
        statement: "The reverse processes are dx = -1/2 grad log p dt and dx = -1/2 (1 + g^2) grad log p dt + g dW.",
        reading: "The two earlier slides write the same processes with +1/2 and with time reversed; this one has a minus sign and does not say which way t runs.",
        assumes: "The exact score; dW has variance |dt|. Random Gaussian mixtures and random g.",
        printed: "",
        formula: r"dx = -\frac{1}{2} (1 + g^2) \nabla \log p(x; t) \, dt + g \, dW, \quad dt < 0",
        finding: "The minus signs are right in the clock of the noising process, t running from T down to 0 (dt < 0). Read with dt > 0 the ODE diffuses forward \
                  once more, and the SDE spreads the density at the rate 1/2 + g^2 instead of -1/2.",
        mutants: &["plus sign", "g for g^2 in the drift", "drift of the ODE with noise"],
        check: |p| {
            let sign = p.pick(-1.0, "plus sign", 1.0);
            let (rooted, ode) =
                (p.mutant("g for g^2 in the drift"), p.mutant("drift of the ODE with noise"));
            // Rate of ln p in process time |dt|, for a step of the given sign; want: -1/2 Laplacian
            // p / p.
            let rate = move |slopes: &Slopes, g: f64, direction: f64| {
                let churn = if ode {
                    0.0
                } else if rooted {
                    g
                } else {
                    g * g
                };
                let drift = sign * 0.5 * (1.0 + churn) * direction;
                let divergence = drift
                    * (slopes.curvature.iter().sum::<f64>()
                        + slopes.score.iter().map(|s| s * s).sum::<f64>());
                -divergence + 0.5 * g * g * slopes.laplacian()
            };
            for (role, direction, what) in [
                (
                    WithCondition,
                    -1.0,
                    "t runs down (dt < 0): rate of the density against -dp/dt of the noising",
                ),
                (
                    WithoutCondition,
                    1.0,
                    "t runs up (dt > 0): rate of the density against -dp/dt of the noising",
                ),
            ] {
                p.property(role, what, 128, WHY_PDE, |t| {
                    let (law, at) =
                        (t.mixture(t.int(1, 4), t.int(1, 4)), brownian(t.log_uniform(0.01, 10.0)));
                    let g = if t.int(0, 1) == 0 { 0.0 } else { t.uniform(0.1, 3.0) };
                    let x = noised(t, &law, &at).row(0).to_vec();
                    let slopes = Slopes::new(&law, &x, &at);
                    t.compare(
                        rate(&slopes, g, direction),
                        -log_density_rate(&law, &x, &at),
                        PDE * (1.0 + g * g) * slopes.scale,
                    );
                });
            }
            p.property(
                WithCondition,
                "Drift against the library's reverse drift, which is for dt < 0",
                64,
                "rounding of three products",
                |t| {
                    let (at, g, score) =
                        (brownian(t.log_uniform(0.01, 10.0)), t.uniform(0.1, 3.0), t.normal());
                    let sde = Sde::at(&at.moving().expect("rates")).expect("noise grows");
                    let churn = if ode {
                        0.0
                    } else if rooted {
                        g
                    } else {
                        g * g
                    };
                    let got = sign * 0.5 * (1.0 + churn) * score;
                    t.compare(got, sde.reverse_drift(t.normal(), score, g), 8.0 * EPS * got.abs());
                },
            );
        },
    },
];

/// `ln p(x; t)` of `p0` carried by `dx = a sin(x) dt` over `time`.
fn sine_flow<S: Scalar>(law: &Mixture, a: f64, x: S, time: S) -> S {
    let shrink = (time * -a).exp();
    let half = (x * 0.5).tan();
    let origin = (shrink * half).atan() * 2.0;
    let stretch = shrink * (half * half + 1.0) / (shrink * shrink * half * half + 1.0);
    law.log_density_of(&[origin], S::one(), S::from(0.0)) + stretch.ln()
}

/// The data's law at one time of the Brownian clock.
fn at_time(data: &Gaussian, time: f64) -> Gaussian {
    Gaussian::from_modes(
        data.mean().to_owned(),
        data.variances().mapv(|l| l + time),
        data.modes().to_owned(),
    )
    .expect("orthonormal modes")
}

/// `int_a^b rate(t) dt` for positive ends, by the midpoint rule in log time with one extrapolation.
fn log_gain(a: f64, b: f64, rate: impl Fn(f64) -> f64) -> f64 {
    let (la, lb) = (a.ln(), b.ln());
    let midpoint = |n: usize| -> f64 {
        let h = (lb - la) / n as f64;
        (0..n).map(|k| (la + (k as f64 + 0.5) * h).exp()).map(|t| rate(t) * t * h).sum()
    };
    (4.0 * midpoint(400) - midpoint(200)) / 3.0
}
