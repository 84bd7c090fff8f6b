//! The probability-flow ODE as a sampler: what it carries, where it may start, and what the
//! denoiser says of its end.

use super::tools::{EPS, Slopes, by_sigma, level, noised};
use crate::Claim;
use crate::Role::{Printed, WithCondition, WithoutCondition};
use ndarray::{Array1, Array2};
use tweedie::diffusion::Denoiser;
use tweedie::diffusion::kernel::Posterior;
use tweedie::diffusion::level::Level;
use tweedie::exact::distance::w2_squared;
use tweedie::exact::emergence::emerged_fraction;
use tweedie::exact::flow::marginal_velocity;
use tweedie::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use tweedie::exact::reverse_sde::{Churn, reverse_law};
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::normal::log_cdf;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/pf-ode",
        slide: "Sampling Diffusion models",
        statement: "The ODE dx/dsigma = -sigma grad log p = -(D - x)/sigma carries the noised law, for Gaussian data N(mu, Sigma + sigma_T^2 I), to the data law.",
        reading: "",
        assumes: "The exact denoiser, and a start from the noised law itself.",
        printed: "",
        formula: r"\frac{dx}{d\sigma} = -\sigma \nabla \log p(x; \sigma) = -\frac{D(x, \sigma) - x}{\sigma}",
        finding: "It holds: Gaussians arrive with the data's mean and covariance, and on a line every quantile of a mixture arrives at the data's quantile.",
        mutants: &["sigma dropped before the score", "sign", "half the score"],
        check: |p| {
            let (bare, sign) =
                (p.mutant("sigma dropped before the score"), p.pick(-1.0, "sign", 1.0));
            let factor = p.pick(1.0, "half the score", 0.5);
            p.property(
                Printed,
                "-sigma grad log p by dual numbers, -(D - x)/sigma, and the library's velocity",
                128,
                "1e4 roundings of the largest term",
                |t| {
                    let (law, at) =
                        (t.mixture(t.int(1, 4), t.int(1, 3)), by_sigma(t.log_uniform(0.05, 10.0)));
                    let x = noised(t, &law, &at);
                    let velocity = marginal_velocity(&law, x.view(), &at.moving().expect("rates"))
                        .expect("a noisy level");
                    let d = law.denoised(x.view(), &at).expect("an exact law");
                    let slopes = Slopes::new(&law, x.as_slice().expect("one row"), &at);
                    for (((x, d), v), score) in x.iter().zip(&d).zip(&velocity).zip(&slopes.score) {
                        let tol = 1e4
                            * EPS
                            * ((1.0 + x.abs()) / at.sigma
                                + at.sigma * slopes.scale * (1.0 + at.sigma));
                        t.compare(
                            sign * factor * if bare { 1.0 } else { at.sigma } * score,
                            *v,
                            tol,
                        );
                        t.compare(
                            sign * factor * (d - x)
                                / if bare { at.sigma * at.sigma } else { at.sigma },
                            *v,
                            tol,
                        );
                    }
                },
            );
            let why = "reference integrator of 1e-13 a step, through a slope of up to 1e2";
            p.property(
                Printed,
                "Mixtures on a line: quantile of the data at the end against quantile of the noised law at the start",
                8,
                why,
                |t| {
                    let (law, start) = (t.mixture(1, 3), t.uniform(1.0, 10.0));
                    let x = noised(t, &law, &level(start));
                    let end = pf_ode_solve(&law, x.view(), &[level(start), level(0.0)]).expect("a noisy start");
                    t.compare(cdf(&law, end[1][[0, 0]], 0.0), cdf(&law, x[[0, 0]], start), 1e-9);
                },
            );
            p.property(
                Printed,
                "Gaussians: mean and covariance at the end against the data's",
                64,
                "rounding of square roots and products",
                |t| {
                    let (data, start) = (t.gaussian(4), t.log_uniform(1.0, 100.0));
                    let from = data.variances().mapv(|l| l + start * start);
                    let noisy =
                        Gaussian::from_modes(data.mean().to_owned(), from, data.modes().to_owned())
                            .expect("orthonormal modes");
                    // The images of the mean and of one deviation along each mode.
                    let images =
                        &noisy.mean() + &(&noisy.modes() * &noisy.variances().mapv(f64::sqrt)).t();
                    let mean = pf_ode_map(
                        &data,
                        noisy.mean().insert_axis(ndarray::Axis(0)),
                        level(start),
                        level(0.0),
                    )
                    .expect("levels");
                    let columns = pf_ode_map(&data, images.view(), level(start), level(0.0))
                        .expect("levels")
                        - &mean;
                    t.compare_all(mean.row(0), data.mean(), 1e-13 * (1.0 + start));
                    t.compare_all(
                        &columns.t().dot(&columns),
                        &Law::cov(&data),
                        1e-12 * (1.0 + start),
                    );
                },
            );
        },
    },
    Claim {
        id: "harvard/large-sigma-start",
        slide: "Sampling Diffusion models: initialisation",
        statement: "Starting from N(0, sigma_T^2 I) with sigma_T much larger than 1 is good enough.",
        reading: "Good enough: the law reached is within 1 % of the data's deviation in Wasserstein distance.",
        assumes: "Gaussian data, for which the law reached is exact; the ODE is solved exactly.",
        printed: "",
        formula: r"W_2^2 = \sum_k \frac{\lambda_k m_k^2}{\lambda_k + \sigma_T^2} + \lambda_k \left( 1 - \frac{\sigma_T}{\sqrt{\lambda_k + \sigma_T^2}} \right)^2, \quad m_k = u_k^T \mu",
        finding: "It is true where sigma_T is large against the data's largest deviation and against its mean, not against 1: the neglected mean costs \
                  |mu| sqrt(lambda)/sigma_T, first order in 1/sigma_T, the neglected covariance sqrt(lambda) lambda/(2 sigma_T^2). With sigma_T of 100 deviations, and \
                  the mean no longer than the deviation, the error is at most 1 %; with sigma_T = 100 and data of deviation above 100 it is far above.",
        mutants: &[
            "variance sigma_T for sigma_T^2",
            "sigma_T of one deviation",
            "start twice as wide",
        ],
        check: |p| {
            let rooted = p.mutant("variance sigma_T for sigma_T^2");
            let reach = p.pick(100.0, "sigma_T of one deviation", 1.0);
            let width = p.pick(1.0, "start twice as wide", 2.0);
            // Law reached from N(0, sigma_T^2 I), and its distance from the data relative to the
            // data's deviation.
            let error = move |data: &Gaussian, sigma: f64| {
                let var = width * width * if rooted { sigma } else { sigma * sigma };
                let start = Gaussian::from_modes(
                    Array1::zeros(data.dim()),
                    Array1::from_elem(data.dim(), var),
                    data.modes().to_owned(),
                )
                .expect("orthonormal");
                let reached =
                    reverse_law(data, &start, level(sigma), level(0.0), Churn::Constant(0.0))
                        .expect("from noise to data");
                (w2_squared(&reached, data).expect("one dimension"), data.variances().sum())
            };
            p.property(
                WithCondition,
                "sigma_T = 100 largest deviations, mean no longer than the deviation: error over deviation",
                64,
                "1 %: what good enough is taken to mean",
                |t| {
                    let data = scaled(t, t.log_uniform(0.1, 1000.0), 1.0);
                    let (w2, total) = error(&data, reach * data.variances()[0].sqrt());
                    t.compare((w2 / total).sqrt(), 0.0, 0.0101);
                },
            );
            p.property(
                WithCondition,
                "Squared error against the closed form",
                64,
                "difference of roots that agree to 1e-4",
                |t| {
                    let data = scaled(t, t.log_uniform(0.1, 1000.0), t.uniform(0.0, 3.0));
                    let sigma = t.uniform(1.0, 100.0) * data.variances()[0].sqrt();
                    let along = data.modes().t().dot(&data.mean());
                    let want: f64 = data
                        .variances()
                        .iter()
                        .zip(&along)
                        .map(|(l, m)| {
                            l * m * m / (l + sigma * sigma)
                                + l * (1.0 - sigma / (l + sigma * sigma).sqrt()).powi(2)
                        })
                        .sum();
                    let (w2, total) = error(&data, sigma);
                    t.compare(w2, want, 1e-12 * (total + along.dot(&along)));
                },
            );
            p.property(
                WithoutCondition,
                "sigma_T = 100 for data of deviation 100 to 1000: error over deviation",
                64,
                "1 %: what good enough is taken to mean",
                |t| {
                    let data = scaled(t, t.log_uniform(100.0, 1000.0), 1.0);
                    let (w2, total) = error(&data, 100.0);
                    t.compare((w2 / total).sqrt(), 0.0, 0.0101);
                },
            );
            p.property(
                WithoutCondition,
                "sigma_T = 100 for data of deviation 1 whose mean is 50 deviations long: error over deviation",
                64,
                "1 %: what good enough is taken to mean",
                |t| {
                    let data = scaled(t, 1.0, 50.0);
                    let (w2, total) = error(&data, 100.0);
                    t.compare((w2 / total).sqrt(), 0.0, 0.0101);
                },
            );
        },
    },
    Claim {
        id: "harvard/one-step-lookahead",
        slide: "Relation between Denoiser and Generated Sample",
        statement: "The denoiser at a noised state is a one-step look-ahead of the final sample.",
        reading: "Look-ahead: the end that a single step of the sampler from sigma to 0 would reach.",
        assumes: "The unscaled ODE with sigma as its clock. How near that is to the final sample is computed for Gaussian data.",
        printed: "",
        formula: r"x + (0 - \sigma) \frac{x - D(x, \sigma)}{\sigma} = D(x, \sigma)",
        finding: "It holds to the letter: one Euler (or DDIM) step from sigma to 0 ends in D, for any law. It is not the final sample yet: in a mode of variance \
                  lambda it has gone the fraction 1/sqrt(1 + sigma^2/lambda) of the way from the mean to it.",
        mutants: &["step of sigma^2", "step in the wrong direction", "the final sample itself"],
        check: |p| {
            let (squared, sign) =
                (p.mutant("step of sigma^2"), p.pick(1.0, "step in the wrong direction", -1.0));
            let whole = p.mutant("the final sample itself");
            p.property(
                Printed,
                "One Euler step from sigma to 0, and one DDIM step, against D",
                128,
                "cancellation of the state, up to 50 times larger",
                |t| {
                    let (law, at) =
                        (t.mixture(t.int(1, 4), t.int(1, 3)), by_sigma(t.log_uniform(0.05, 10.0)));
                    let x = noised(t, &law, &at);
                    let velocity = marginal_velocity(&law, x.view(), &at.moving().expect("rates"))
                        .expect("a noisy level");
                    let length = if squared { at.sigma * at.sigma } else { at.sigma };
                    let step = Posterior::ddim(Level::CLEAN, Level::new(1.0, at.sigma), 0.0)
                        .expect("noise falls");
                    for ((x, v), d) in x
                        .iter()
                        .zip(&velocity)
                        .zip(&law.denoised(x.view(), &at).expect("an exact law"))
                    {
                        t.compare(x - sign * length * v, *d, 64.0 * EPS * (1.0 + x.abs()));
                        t.compare(step.mean(*d, *x), *d, 64.0 * EPS * (1.0 + x.abs()));
                    }
                },
            );
            p.property(
                Printed,
                "Gaussians: D - mu against the fraction 1/sqrt(1 + sigma^2/lambda) of the final x0 - mu",
                64,
                "rounding of products with the modes",
                |t| {
                    let (data, sigma) = (t.gaussian(4), t.log_uniform(0.01, 50.0));
                    let x = noised(t, &data, &level(sigma));
                    let end = pf_ode_map(&data, x.view(), level(sigma), level(0.0)).expect("levels") - data.mean();
                    let ahead = data.denoised(x.view(), &level(sigma)).expect("an exact law") - data.mean();
                    let (end, ahead): (Array2<f64>, Array2<f64>) = (end.dot(&data.modes()), ahead.dot(&data.modes()));
                    for (k, lambda) in data.variances().iter().enumerate() {
                        let fraction = if whole { 1.0 } else { emerged_fraction(*lambda, sigma) };
                        t.compare(ahead[[0, k]], fraction * end[[0, k]], 1e-12);
                    }
                },
            );
        },
    },
];

/// `P(x_sigma <= x)` of a mixture on a line.
fn cdf(law: &Mixture, x: f64, sigma: f64) -> f64 {
    let part = |(c, w): (&Gaussian, &f64)| {
        w * log_cdf((x - c.mean()[0]) / (c.variances()[0] + sigma * sigma).sqrt()).exp()
    };
    law.components().iter().zip(&law.weights()).map(part).sum()
}

/// A random Gaussian whose root total variance is `deviation` and whose mean is `mean` times that
/// long.
fn scaled(t: &crate::Trial, deviation: f64, mean: f64) -> Gaussian {
    let law = t.gaussian(4);
    let scale = deviation * deviation / law.variances().sum();
    let direction = t.normals(4);
    let length = direction.dot(&direction).sqrt();
    Gaussian::from_modes(
        direction * (mean * deviation / length),
        &law.variances() * scale,
        law.modes().to_owned(),
    )
    .expect("orthonormal modes")
}
