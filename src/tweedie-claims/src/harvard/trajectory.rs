//! Closed-form trajectories of Gaussian data, and the order in which features appear.

use super::tools::{EPS, by_sigma, level, matrix, noised, singular_gaussian, vector};
use crate::Claim;
use crate::Role::{Printed, WithCondition, WithoutCondition};
use crate::Trial;
use ndarray::{Array1, Array2};
use num_dual::{Dual64, DualNum};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::exact::emergence::{emerged_fraction, emergence_sigmas};
use tweedie::exact::flow::{gaussian_velocity, marginal_velocity};
use tweedie::exact::gains::{psi, xi};
use tweedie::exact::pf_ode::{denoiser_along, off_manifold, pf_ode_map, pf_ode_solve};
use tweedie::law::Gaussian;
use tweedie::math::larger;

const ALL: &str = "The sum over k without limits runs over a complete basis: components of variance 0 take part, with gain as lambda = 0 gives.";

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/gaussian-pf-ode",
        slide: "Gaussian score admits closed-form solution to probability flow ODE",
        statement: "For Gaussian data the ODE is dx/dsigma = -(1/sigma) sum over k of sigma^2/(lambda_k + sigma^2) u_k u_k^T (mu - x).",
        reading: ALL,
        assumes: "Gaussian data, sigma > 0.",
        printed: "",
        formula: r"\frac{dx}{d\sigma} = -\frac{1}{\sigma} \sum_k \frac{\sigma^2}{\lambda_k + \sigma^2} u_k u_k^T (\mu - x)",
        finding: "It holds. The components of variance 0 must be in the sum: the state shrinks towards mu along them at the rate (x - mu)/sigma, and a sum over \
                  the data's own components would leave that noise in the picture.",
        mutants: &["sum over components with variance only", "lambda in the numerator", "sign"],
        check: |p| {
            let (own, signal) = (
                p.mutant("sum over components with variance only"),
                p.mutant("lambda in the numerator"),
            );
            let sign = p.pick(1.0, "sign", -1.0);
            p.property(
                Printed,
                "The sum against the velocity from the denoiser, and against the library's closed form",
                128,
                "rounding of the state over sigma",
                |t| {
                    let (data, basis, lambdas) = with_complete_basis(t);
                    let at = by_sigma(t.log_uniform(0.02, 20.0));
                    let x = noised(t, &data, &at);
                    let z = &data.mean() - &x.row(0);
                    let mut rate = Array1::<f64>::zeros(data.dim());
                    let var = at.sigma * at.sigma;
                    for (k, (u, lambda)) in basis.columns().into_iter().zip(&lambdas).enumerate() {
                        if own && k >= data.rank() {
                            continue;
                        }
                        let gain = if signal { *lambda } else { var } / (lambda + var);
                        rate.scaled_add(-sign / at.sigma * gain * u.dot(&z), &u);
                    }
                    let tol = 256.0 * EPS * (1.0 + at.sigma + z.dot(&z).sqrt()) / at.sigma;
                    t.compare_all(&rate, marginal_velocity(&data, x.view(), &at.moving().expect("rates")).expect("a noisy level").row(0), tol);
                    t.compare_all(&rate, gaussian_velocity(&data, x.view(), &at.moving().expect("rates")).expect("a noisy level").row(0), tol);
                },
            );
        },
    },
    Claim {
        id: "harvard/gaussian-trajectory",
        slide: "Gaussian score admits closed-form solution to probability flow ODE",
        statement: "Its solution is x(sigma_t) = mu + sum over k of sqrt((sigma_t^2 + lambda_k)/(sigma_T^2 + lambda_k)) u_k u_k^T (x_T - mu).",
        reading: ALL,
        assumes: "Gaussian data.",
        printed: "",
        formula: r"x(\sigma_t) = \mu + \sum_k \sqrt{\frac{\sigma_t^2 + \lambda_k}{\sigma_T^2 + \lambda_k}} u_k u_k^T (x_T - \mu)",
        finding: "It holds: it satisfies the ODE at every level, it is the library's map, and an adaptive integrator of the denoiser ends in it.",
        mutants: &[
            "ratio without the root",
            "sum over components with variance only",
            "deviations for variances",
        ],
        check: |p| {
            let (unrooted, own) = (
                p.mutant("ratio without the root"),
                p.mutant("sum over components with variance only"),
            );
            let deviations = p.mutant("deviations for variances");
            let solution = move |data: &Gaussian,
                                 basis: &Array2<f64>,
                                 lambdas: &[f64],
                                 x: &Array2<f64>,
                                 start: f64,
                                 end: Dual64| {
                let z = &x.row(0) - &data.mean();
                let mut out: Vec<Dual64> = data.mean().iter().map(|m| (*m).into()).collect();
                for (k, (u, lambda)) in basis.columns().into_iter().zip(lambdas).enumerate() {
                    if own && k >= data.rank() {
                        continue;
                    }
                    let gain = if deviations {
                        (end + lambda.sqrt()) / (start + lambda.sqrt())
                    } else {
                        let ratio = (end * end + *lambda) / (start * start + lambda);
                        if unrooted { ratio } else { ratio.sqrt() }
                    };
                    out.iter_mut().zip(u).for_each(|(o, ui)| *o += gain * (u.dot(&z) * ui));
                }
                out
            };
            p.property(
                Printed,
                "Its derivative in sigma_t against the ODE's right side, and its value against the library's map",
                128,
                "rounding of the state over sigma",
                |t| {
                    let (data, basis, lambdas) = with_complete_basis(t);
                    let (start, end) = (t.log_uniform(0.5, 50.0), t.log_uniform(0.02, 20.0));
                    let x = noised(t, &data, &level(start));
                    let moved = solution(&data, &basis, &lambdas, &x, start, Dual64::new(end, 1.0));
                    let state = Array2::from_shape_fn((1, data.dim()), |(_, i)| moved[i].re);
                    let want = pf_ode_map(&data, x.view(), level(start), level(end)).expect("levels");
                    let size = 1.0 + state.iter().map(|x| x.abs()).sum::<f64>() + x.iter().map(|x| x.abs()).sum::<f64>();
                    t.compare_all(&state, &want, 256.0 * EPS * size);
                    let velocity = marginal_velocity(&data, state.view(), &by_sigma(end).moving().expect("rates")).expect("a noisy level");
                    for (m, v) in moved.iter().zip(&velocity) {
                        t.compare(m.eps, *v, 256.0 * EPS * size * (1.0 + 1.0 / end));
                    }
                },
            );
            p.property(
                Printed,
                "Its value against an adaptive integrator of the denoiser",
                4,
                "1e-13 of the data's deviation a step",
                |t| {
                    let (data, basis, lambdas) = with_complete_basis(t);
                    let (start, end) = (t.log_uniform(1.0, 20.0), t.log_uniform(0.05, 1.0));
                    let x = noised(t, &data, &level(start));
                    let got: Vec<f64> = solution(&data, &basis, &lambdas, &x, start, end.into())
                        .iter()
                        .map(|v| v.re)
                        .collect();
                    let want = pf_ode_solve(&data, x.view(), &[level(start), level(end)])
                        .expect("a noisy start");
                    t.compare_all(&got, &want[1], 1e-10 * (1.0 + start));
                },
            );
        },
    },
    Claim {
        id: "harvard/denoiser-trajectory",
        slide: "Gaussian theory predicts the spectral order of diffusion generation",
        statement: "Along it the denoiser is mu + sum over k of xi_k u_k u_k^T (x_T - mu) with xi = lambda/sqrt((sigma_t^2 + lambda)(sigma_T^2 + lambda)).",
        reading: "",
        assumes: "Gaussian data; the sum over the r components with variance suffices, as the slide has it.",
        printed: "",
        formula: r"\xi(t, \lambda) = \frac{\lambda}{\sqrt{(\sigma_t^2 + \lambda)(\sigma_T^2 + \lambda)}}",
        finding: "It holds: the Wiener gain at sigma_t times the state's gain. Without variance xi vanishes, so here the sum may stop at the data's own components.",
        mutants: &["root dropped", "the state's gain", "sigma_T left out"],
        check: |p| {
            let (unrooted, state) = (p.mutant("root dropped"), p.mutant("the state's gain"));
            let endless = p.mutant("sigma_T left out");
            p.property(
                Printed,
                "The sum against the Wiener filter at the state that the ODE has reached",
                128,
                "rounding of products with the modes",
                |t| {
                    let (data, _, _) = with_complete_basis(t);
                    let (start, end) = (t.log_uniform(0.5, 50.0), t.log_uniform(0.02, 20.0));
                    let x = noised(t, &data, &level(start));
                    let z = &x.row(0) - &data.mean();
                    let mut sum = data.mean().to_owned();
                    for (u, l) in data.modes().columns().into_iter().zip(data.variances()) {
                        let (now, then) = (end * end + l, start * start + l);
                        let gain = if unrooted {
                            l / (now * then)
                        } else if state {
                            (now / then).sqrt()
                        } else if endless {
                            (l / now).sqrt()
                        } else {
                            l / (now * then).sqrt()
                        };
                        sum.scaled_add(gain * u.dot(&z), &u);
                    }
                    let reached =
                        pf_ode_map(&data, x.view(), level(start), level(end)).expect("levels");
                    let tol = 512.0 * EPS * (1.0 + start);
                    t.compare_all(
                        &sum,
                        data.denoised(reached.view(), &level(end)).expect("an exact law").row(0),
                        tol,
                    );
                    t.compare_all(
                        &sum,
                        denoiser_along(&data, x.view(), level(start), level(end))
                            .expect("levels")
                            .row(0),
                        tol,
                    );
                },
            );
        },
    },
    Claim {
        id: "harvard/spectral-order",
        slide: "Gaussian theory predicts the spectral order of diffusion generation",
        statement: "In sampling, features (principal components) of higher variance emerge earlier.",
        reading: "A feature has emerged when its coefficient in the denoised picture has reached a given fraction of its final value.",
        assumes: "Gaussian data, or a linear denoiser.",
        printed: "",
        formula: r"\frac{\xi(t, \lambda)}{\xi(0, \lambda)} = \frac{1}{\sqrt{1 + \sigma_t^2 / \lambda}} \Rightarrow \sigma^*(\lambda) \propto \sqrt{\lambda}",
        finding: "It holds: a component emerges at a noise level proportional to its deviation, sigma* = sqrt(3 lambda) for one half, whatever sigma_T. In the noisy \
                  state itself there is no such order: its coefficient starts out large and shrinks.",
        mutants: &[
            "level proportional to the variance",
            "order of the inverse variances",
            "fraction squared",
        ],
        check: |p| {
            let (variance, inverse) = (
                p.mutant("level proportional to the variance"),
                p.mutant("order of the inverse variances"),
            );
            let squared = p.mutant("fraction squared");
            p.property(
                Printed,
                "Level at which each component of the denoised picture reaches a fraction of its end, by bisection",
                12,
                "bisection of 60 halvings, rounding near fraction 1",
                |t| {
                    let (data, start, fraction) = (t.gaussian(4), t.uniform(20.0, 100.0), t.uniform(0.1, 0.9));
                    let x = noised(t, &data, &level(start));
                    let coefficients = |sigma: f64| {
                        (denoiser_along(&data, x.view(), level(start), level(sigma)).expect("levels") - data.mean())
                            .dot(&data.modes())
                    };
                    let end = coefficients(0.0);
                    let levels =
                        emergence_sigmas(&data, if squared { fraction * fraction } else { fraction }).expect("inside (0, 1)");
                    for k in 0..4 {
                        let (mut low, mut high) = (1e-6f64, 1e4f64);
                        for _ in 0..60 {
                            let middle = (low * high).sqrt();
                            if coefficients(middle)[[0, k]] / end[[0, k]] > fraction { low = middle } else { high = middle }
                        }
                        let got = if variance { levels[k] * data.variances()[k].sqrt() } else { levels[k] };
                        t.compare(got, low, 1e-7 * low + 1e-11 * start / end[[0, k]].abs());
                    }
                },
            );
            p.property(
                Printed,
                "Number of pairs of components that emerge in the wrong order",
                128,
                "a count",
                |t| {
                    let (data, sigma) = (t.gaussian(8), t.log_uniform(0.01, 100.0));
                    let lambdas = data.variances().mapv(|l| if inverse { 1.0 / l } else { l });
                    let levels = emergence_sigmas(
                        &Gaussian::diagonal(Array1::zeros(8), lambdas.clone()).expect("variances"),
                        t.uniform(0.1, 0.9),
                    )
                    .expect("inside (0, 1)");
                    // `diagonal` sorts: put the levels back to the components of the data.
                    let level_of = |k: usize| if inverse { levels[7 - k] } else { levels[k] };
                    let wrong = (0..7)
                        .filter(|k| {
                            level_of(*k) < level_of(k + 1)
                                || emerged_fraction(lambdas[*k], sigma)
                                    < emerged_fraction(lambdas[k + 1], sigma)
                        })
                        .count();
                    t.compare(wrong as f64, 0.0, 0.0);
                },
            );
        },
    },
    Claim {
        id: "harvard/vp-trajectory",
        slide: "Gaussian analytical solution of x_t predicts evolution of noisy states",
        statement: "On a scaled (VP) path x_t is a_t mu + psi(t, 0) times the off-manifold part + the sum of psi(t, lambda_k) c_k u_k, with psi a ratio of deviations.",
        reading: "The off-manifold part is what the projection on the components leaves; the slide's formula for it is a claim of its own.",
        assumes: "Gaussian data, on any path x_t = a_t x0 + s_t eps: VP, VE, EDM, cosine and flow matching.",
        printed: "",
        formula: r"x_t = a_t \mu + \psi(t, 0) x_T^\perp + \sum_k \psi(t, \lambda_k) c_k u_k, \quad \psi = \sqrt{\frac{s_t^2 + \lambda a_t^2}{s_T^2 + \lambda a_T^2}}",
        finding: "It holds on every path, not on variance-preserving ones alone: only the two levels count. Off the manifold psi is s_t / s_T.",
        mutants: &["off-manifold part kept as it is", "a for a^2 in psi", "mean not scaled in c_k"],
        check: |p| {
            let (kept, linear) =
                (p.mutant("off-manifold part kept as it is"), p.mutant("a for a^2 in psi"));
            let unscaled = p.mutant("mean not scaled in c_k");
            let solution = move |data: &Gaussian,
                                 x: &Array2<f64>,
                                 from: &PathPoint,
                                 to: &PathPoint| {
                let gain = |lambda: f64| {
                    if linear {
                        ((to.sigma * to.sigma + lambda * to.alpha)
                            / (from.sigma * from.sigma + lambda * from.alpha))
                            .sqrt()
                    } else {
                        psi(lambda, Level::from(from), Level::from(to))
                    }
                };
                let c = (&x.row(0) - &(&data.mean() * if unscaled { 1.0 } else { from.alpha }))
                    .dot(&data.modes());
                let off = off_manifold(data, x.view(), from).expect("a level").row(0).to_owned();
                let mut out = &data.mean() * to.alpha + off * if kept { 1.0 } else { gain(0.0) };
                for ((u, l), c) in data.modes().columns().into_iter().zip(data.variances()).zip(&c)
                {
                    out.scaled_add(gain(*l) * c, &u);
                }
                out
            };
            p.property(
                Printed,
                "The sum against the library's map between two levels of a random path",
                128,
                "rounding of products with the modes",
                |t| {
                    let (data, _, _) = with_complete_basis(t);
                    let (from, to) = two_levels(t);
                    let x = noised(t, &data, &from);
                    let want = pf_ode_map(&data, x.view(), from, to).expect("levels");
                    t.compare_all(
                        &solution(&data, &x, &from, &to),
                        want.row(0),
                        512.0 * EPS * (1.0 + from.sigma + to.sigma) * 4.0,
                    );
                },
            );
            p.property(
                Printed,
                "The sum against an adaptive integrator of the denoiser",
                4,
                "1e-13 of the data's deviation a step",
                |t| {
                    let (data, _, _) = with_complete_basis(t);
                    let (from, to) = two_levels(t);
                    let x = noised(t, &data, &from);
                    let want = pf_ode_solve(&data, x.view(), &[from, to]).expect("a noisy start");
                    t.compare_all(
                        &solution(&data, &x, &from, &to),
                        &want[1],
                        1e-10 * (1.0 + from.sigma),
                    );
                },
            );
            p.property(
                Printed,
                "xi of the library against alpha lambda / var times psi",
                64,
                "a few roundings",
                |t| {
                    let (from, to) = two_levels(t);
                    let (lambda, a, b) =
                        (t.log_uniform(0.01, 10.0), Level::from(&from), Level::from(&to));
                    t.compare_rel(
                        xi(lambda, a, b),
                        to.alpha * lambda / b.var(lambda) * psi(lambda, a, b),
                        16.0,
                    );
                },
            );
        },
    },
    Claim {
        id: "harvard/off-manifold-projector",
        slide: "Gaussian analytical solution of x_t predicts evolution of noisy states",
        statement: "The off-manifold part of the state is x_T^perp = (I - U^T U)(x_T - a_T mu).",
        reading: "The layout of U is not defined on the slide; elsewhere the deck writes components as columns u_k, with projectors u_k u_k^T.",
        assumes: "r < d orthonormal components in d dimensions.",
        printed: "",
        formula: r"x_T^\perp = (I - U U^T)(x_T - a_T \mu), \quad U = (u_1, \dots, u_r) \in \mathbb{R}^{d \times r}",
        finding: "It is right if the components are the rows of U. With components as columns, as u_k u_k^T suggests, the projector is I - U U^T: U^T U is then the \
                  r x r identity, which does not act on states, and I - U^T U is zero.",
        mutants: &["plus sign", "mean not scaled", "projector on the manifold"],
        check: |p| {
            let (sign, unscaled) = (p.pick(-1.0, "plus sign", 1.0), p.mutant("mean not scaled"));
            let onto = p.mutant("projector on the manifold");
            let split = move |u: &Array2<f64>, z: &Array1<f64>| {
                let projected = u.t().dot(u).dot(z);
                if onto { projected } else { z + &(projected * sign) }
            };
            p.property(
                WithCondition,
                "Components as rows: (I - U^T U)(x - a mu) against the library's off-manifold part",
                128,
                "rounding of products with the modes",
                |t| {
                    let (data, x, at) = case(t);
                    let z = &x.row(0) - &(&data.mean() * if unscaled { 1.0 } else { at.alpha });
                    let want = off_manifold(&data, x.view(), at).expect("a level");
                    t.compare_all(
                        &split(&data.modes().t().to_owned(), &z),
                        want.row(0),
                        256.0 * EPS * (1.0 + z.dot(&z).sqrt()),
                    );
                },
            );
            p.property(
                WithCondition,
                "Components as rows: the part that is left has no coefficient on any component",
                64,
                "rounding of products with the modes",
                |t| {
                    let (data, x, at) = case(t);
                    let z = &x.row(0) - &(&data.mean() * at.alpha);
                    let left = split(&data.modes().t().to_owned(), &z).dot(&data.modes());
                    t.compare_all(
                        &left,
                        &Array1::zeros(data.rank()),
                        256.0 * EPS * (1.0 + z.dot(&z).sqrt()),
                    );
                },
            );
            p.property(
                WithoutCondition,
                "Components as columns, filled up by columns of zeros: the same against the library's off-manifold part",
                64,
                "rounding of products with the modes",
                |t| {
                    let (data, x, at) = case(t);
                    let z = &x.row(0) - &(&data.mean() * at.alpha);
                    let square =
                        Array2::from_shape_fn(
                            (data.dim(), data.dim()),
                            |(i, j)| if j < data.rank() { data.modes()[[i, j]] } else { 0.0 },
                        );
                    let want = off_manifold(&data, x.view(), at).expect("a level");
                    t.compare_all(&split(&square, &z), want.row(0), 256.0 * EPS * (1.0 + z.dot(&z).sqrt()));
                },
            );
            p.property(
                WithoutCondition,
                "Components as columns: largest entry of I - U^T U against that of the projector I - U U^T",
                64,
                "rounding of products with the modes",
                |t| {
                    let (data, ..) = case(t);
                    let largest = |m: Array2<f64>| (Array2::<f64>::eye(m.nrows()) - m).iter().map(|v| v.abs()).fold(0.0, larger);
                    let u = data.modes();
                    t.compare(largest(u.t().dot(&u)), largest(u.dot(&u.t())), 256.0 * EPS);
                },
            );
        },
    },
];

/// A Gaussian of any rank, with a complete orthonormal basis that begins with its modes and the
/// variances along all of it.
fn with_complete_basis(t: &Trial) -> (Gaussian, Array2<f64>, Vec<f64>) {
    let d = t.int(2, 6);
    let data = singular_gaussian(t, d, t.int(1, d - 1));
    let mut basis = Array2::zeros((d, d));
    let mut lambdas = data.variances().to_vec();
    lambdas.resize(d, 0.0);
    // Gram and Schmidt on the modes and random vectors, twice for orthogonality to rounding.
    for k in 0..d {
        let mut u =
            if k < data.rank() { vector(data.modes().column(k)) } else { vector(&t.normals(d)) };
        for _ in 0..2 {
            let before = matrix(&basis);
            u = &u - &before * before.transpose() * &u;
            u /= u.norm();
        }
        basis.column_mut(k).iter_mut().zip(u.iter()).for_each(|(b, u)| *b = *u);
    }
    (data, basis, lambdas)
}

/// A noisier and a cleaner level of one random path.
fn two_levels(t: &Trial) -> (PathPoint, PathPoint) {
    let path = t.path();
    let at = |lo: f64, hi: f64| path.at(t.uniform(lo, hi)).expect("inside the path");
    (at(0.6, 0.99), at(0.05, 0.5))
}

/// Data of lower rank, one noised state, and its level.
fn case(t: &Trial) -> (Gaussian, Array2<f64>, PathPoint) {
    let d = t.int(3, 6);
    let data = singular_gaussian(t, d, t.int(1, d - 1));
    let at = t.point();
    let x = noised(t, &data, &at);
    (data, x, at)
}
