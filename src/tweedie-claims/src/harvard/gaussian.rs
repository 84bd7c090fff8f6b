//! The Gaussian case: linear scores, the Wiener filter, and why any data look Gaussian to a linear
//! denoiser.

use super::tools::{EPS, dense, level, matrix, noised, scores, singular_gaussian, vector};
use crate::Claim;
use crate::Role::Printed;
use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2, Axis, s};
use tweedie::diffusion::Denoiser;
use tweedie::law::{Gaussian, Law};
use tweedie::math::gaussian::{Covariance, Normal};
use tweedie::math::moments::{Normalisation, mean_and_cov};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/gaussian-score",
        slide: "Linear Score ~ Gaussian statistics of data",
        statement: "The score of N(mu, Sigma) is Sigma^{-1}(mu - x), a linear function of x.",
        reading: "Linear in the wide sense: affine, as mu need not be 0.",
        assumes: "Sigma is invertible; otherwise there is no density.",
        printed: "",
        formula: r"\nabla \log \mathcal{N}(x; \mu, \Sigma) = \Sigma^{-1} (\mu - x)",
        finding: "It holds: the law's score, a Cholesky solve and the derivative of the log density agree.",
        mutants: &["sign", "Sigma for its inverse", "inverse deviations"],
        check: |p| {
            let sign = p.pick(1.0, "sign", -1.0);
            let (forward, rooted) =
                (p.mutant("Sigma for its inverse"), p.mutant("inverse deviations"));
            p.property(
                Printed,
                "Score by the modes against a Cholesky solve and against dual numbers",
                128,
                "solving with a condition of up to 1e3",
                |t| {
                    let d = t.int(1, 6);
                    let law = t.gaussian(d);
                    let x = law.sample(1, &t.noise());
                    let got = scores(&law, x.view(), &level(0.0));
                    let gap = vector(law.mean().iter()) - vector(x.iter());
                    let cov = dense(&law).cov_matrix();
                    let want = if forward {
                        &cov * &gap
                    } else if rooted {
                        matrix(&law.matrix(|l| 1.0 / l.sqrt())) * &gap
                    } else {
                        cov.cholesky().expect("positive definite").solve(&gap)
                    };
                    let least = law.variances()[d - 1];
                    for i in 0..d {
                        let along = |xi| {
                            let mut point: Vec<num_dual::Dual64> =
                                x.iter().map(|v| (*v).into()).collect();
                            point[i] = xi;
                            law.log_density_of(&point, 1.0.into(), 0.0.into())
                        };
                        let tol = 1e4 * EPS * (1.0 + gap.norm()) / least;
                        t.compare(got[[0, i]], sign * want[i], tol);
                        t.compare(
                            num_dual::first_derivative(along, x[[0, i]]).1,
                            sign * want[i],
                            tol,
                        );
                    }
                },
            );
            p.property(
                Printed,
                "Score of a weighted mean of two points against the weighted mean of their scores",
                64,
                "rounding over the least variance",
                |t| {
                    let law = t.gaussian(4);
                    let (x, w) = (t.normal_rows(2, 4), t.uniform(-1.0, 2.0));
                    let s = scores(&law, x.view(), &level(0.0));
                    let between = (&x.row(0) * w + &x.row(1) * (1.0 - w)).insert_axis(Axis(0));
                    let got = scores(&law, between.view(), &level(0.0));
                    let want = &s.row(0) * w + &s.row(1) * (1.0 - w);
                    t.compare_all(got.row(0), &want, 512.0 * EPS * 10.0 / law.variances()[3]);
                },
            );
        },
    },
    Claim {
        id: "harvard/gaussian-noised-score",
        slide: "Gaussian score recovers Wiener filter",
        statement: "At noise scale sigma the law is N(mu, Sigma + sigma^2 I) and its score is (Sigma + sigma^2 I)^{-1}(mu - x).",
        reading: "",
        assumes: "sigma > 0; Sigma may be singular.",
        printed: "",
        formula: r"p(x; \sigma) = \mathcal{N}(\mu, \Sigma + \sigma^2 I), \quad s(x; \sigma) = (\Sigma + \sigma^2 I)^{-1} (\mu - x)",
        finding: "It holds, for singular covariances too: noise adds its variance in every direction.",
        mutants: &["sigma for sigma^2", "deviations add", "Sigma alone"],
        check: |p| {
            let (rooted, alone) = (p.mutant("sigma for sigma^2"), p.mutant("Sigma alone"));
            let deviations = p.mutant("deviations add");
            p.property(
                Printed,
                "Log density and score against the marginal of the joint law of (x0, x_sigma)",
                128,
                "solving with a condition of up to 1e4",
                |t| {
                    let (d, sigma) = (t.int(2, 6), t.log_uniform(0.1, 10.0));
                    let law = singular_gaussian(t, d, t.int(1, d));
                    let x = noised(t, &law, &level(sigma));
                    let noise = Covariance::Isotropic(if rooted {
                        sigma
                    } else if alone {
                        1e-6
                    } else {
                        sigma * sigma
                    });
                    let joint = dense(&law)
                        .joint(&DMatrix::identity(d, d), &DVector::zeros(d), noise)
                        .expect("shapes fit");
                    let mut marginal =
                        joint.marginal(&(d..2 * d).collect::<Vec<_>>()).expect("coordinates");
                    if deviations {
                        let wide = matrix(&law.matrix(|l| (l.sqrt() + sigma).powi(2)));
                        marginal = Normal::new(
                            marginal.mean().clone(),
                            Covariance::Full((&wide + wide.transpose()) * 0.5),
                        )
                        .expect("a covariance");
                    }
                    let tol = 1e-11 * (1.0 + 1.0 / sigma) / sigma;
                    t.compare(
                        law.log_density(x.view(), &level(sigma))[0],
                        marginal.log_density(&vector(x.iter())).expect("regular"),
                        10.0 * tol,
                    );
                    let want = marginal
                        .cov_matrix()
                        .cholesky()
                        .expect("positive definite")
                        .solve(&(marginal.mean() - vector(x.iter())));
                    t.compare_all(scores(&law, x.view(), &level(sigma)).row(0), want.iter(), tol);
                },
            );
        },
    },
    Claim {
        id: "harvard/wiener-filter",
        slide: "Gaussian score recovers Wiener filter",
        statement: "The denoiser is mu + Sigma (Sigma + sigma^2 I)^{-1}(x - mu), a sum over principal components with gains lambda/(lambda + sigma^2).",
        reading: "",
        assumes: "Gaussian data; components of variance 0 may be left out of the sum, as their gain is 0.",
        printed: "",
        formula: r"D = \mu + \Sigma (\Sigma + \sigma^2 I)^{-1} (x - \mu) = \mu + \sum_k \frac{\lambda_k}{\lambda_k + \sigma^2} u_k u_k^T (x - \mu)",
        finding: "It holds: the matrix form, the sum over components, the library's filter and conditioning of the joint law are the same.",
        mutants: &["sigma for sigma^2", "sigma^2 in the numerator", "mean not added back"],
        check: |p| {
            let (rooted, kept) =
                (p.mutant("sigma for sigma^2"), p.pick(1.0, "mean not added back", 0.0));
            let noise_share = p.mutant("sigma^2 in the numerator");
            p.property(
                Printed,
                "Sum, matrix form and library's filter against conditioning of the joint law",
                128,
                "solving with a condition of up to 1e4",
                |t| {
                    let (d, sigma) = (t.int(2, 6), t.log_uniform(0.1, 10.0));
                    let law = singular_gaussian(t, d, t.int(1, d));
                    let x = noised(t, &law, &level(sigma));
                    let joint = dense(&law)
                        .joint(
                            &DMatrix::identity(d, d),
                            &DVector::zeros(d),
                            Covariance::Isotropic(sigma * sigma),
                        )
                        .expect("shapes fit");
                    let want = joint
                        .condition(&(d..2 * d).collect::<Vec<_>>(), x.as_slice().expect("one row"))
                        .expect("regular");
                    let var = if rooted { sigma } else { sigma * sigma };
                    let z = &x.row(0) - &law.mean();
                    let mut sum = &law.mean() * kept;
                    for (lambda, u) in law.variances().iter().zip(law.modes().columns()) {
                        let gain = if noise_share { var } else { *lambda } / (lambda + var);
                        sum.scaled_add(gain * u.dot(&z), &u);
                    }
                    let cov = dense(&law).cov_matrix();
                    let noisy = &cov + DMatrix::identity(d, d) * var;
                    let filtered = vector(law.mean().iter()) * kept
                        + &cov
                            * noisy.cholesky().expect("positive definite").solve(&vector(z.iter()));
                    let tol = 1e-11 * (1.0 + 1.0 / sigma);
                    t.compare_all(&sum, want.mean().iter(), tol);
                    t.compare_all(filtered.iter(), want.mean().iter(), tol);
                    t.compare_all(
                        law.denoised(x.view(), &level(sigma)).expect("an exact law").row(0),
                        want.mean().iter(),
                        tol,
                    );
                },
            );
        },
    },
    Claim {
        id: "harvard/linear-optimum-any-data",
        slide: "Gaussian score: optimal under linear constraint",
        statement: "For any data set the linear denoiser W x + b of least denoising loss is the Wiener filter of the data's mean and covariance.",
        reading: "",
        assumes: "The expectation runs over the data set itself, so its covariance is divided by n.",
        printed: "",
        formula: r"\operatorname{argmin}_{W, b} \mathbb{E} \|W (x_0 + \sigma z) + b - x_0\|^2: \quad W = \Sigma (\Sigma + \sigma^2 I)^{-1}, \quad b = (I - W) \mu",
        finding: "It holds: least squares on noised points with the exact moments of noise finds the filter, for clustered and skewed sets and for pixels of \
                  handwritten digits. The covariance is that of the points (divided by n): the unbiased one is not optimal.",
        mutants: &[
            "covariance divided by n - 1",
            "second moment for covariance",
            "sigma for sigma^2",
        ],
        check: |p| {
            let (unbiased, uncentred) =
                (p.mutant("covariance divided by n - 1"), p.mutant("second moment for covariance"));
            let rooted = p.mutant("sigma for sigma^2");
            let filter = move |data: &Array2<f64>, sigma: f64| {
                let rule = if unbiased { Normalisation::Unbiased } else { Normalisation::Points };
                let (mean, mut cov) = mean_and_cov(data.view(), rule).expect("rows");
                if uncentred {
                    cov = data.t().dot(data) / data.nrows() as f64;
                }
                let law = Gaussian::new(mean, cov.view()).expect("a covariance");
                let at = level(if rooted { sigma.sqrt() } else { sigma });
                let weights =
                    law.jacobian(Array1::zeros(law.dim()).view(), &at).expect("an exact law");
                let offset =
                    law.denoised(Array2::zeros((1, law.dim())).view(), &at).expect("an exact law");
                (weights, offset.row(0).to_owned())
            };
            let compare = |t: &crate::Trial, data: &Array2<f64>, sigma: f64| {
                let (weights, offset) = filter(data, sigma);
                let (w, b) = least_squares(data, sigma);
                t.compare_all(&weights, &w, 1e-10);
                t.compare_all(&offset, &b, 1e-10);
            };
            let why = "least squares by orthogonal factors, condition up to 1e3";
            p.property(
                Printed,
                "Random clustered and skewed sets: filter against least squares on noised points",
                64,
                why,
                |t| {
                    let (n, d) = (t.int(6, 20), t.int(1, 3));
                    // Two clusters and a squared coordinate: far from Gaussian.
                    let mut data = t.normal_rows(n, d);
                    data.slice_mut(s![..n / 3, ..]).mapv_inplace(|x| 0.2 * x + 3.0);
                    data.column_mut(0).mapv_inplace(|x| x * x.abs());
                    compare(t, &data, t.uniform(0.2, 3.0));
                },
            );
            let digits = tweedie_nn::data::digits::load().images;
            p.property(
                Printed,
                "Five pixels of 60 handwritten digits: filter against least squares on noised points",
                8,
                why,
                |t| {
                    let first = t.int(0, 1700);
                    let pixels: Vec<usize> = (0..5).map(|k| 18 + 9 * k % 40 + t.int(0, 3)).collect();
                    let mut pixels = pixels;
                    pixels.sort_unstable();
                    pixels.dedup();
                    compare(t, &digits.slice(s![first..first + 60, ..]).select(Axis(1), &pixels), t.uniform(0.2, 3.0));
                },
            );
        },
    },
];

/// The best affine denoiser by least squares on `x0 + sigma z` for every data point and z at
/// `+-sqrt(d) e_i`, which have mean 0 and covariance I exactly, as the loss asks of noise: it is
/// quadratic in z.
fn least_squares(data: &Array2<f64>, sigma: f64) -> (Array2<f64>, Array1<f64>) {
    let (n, d) = data.dim();
    let rows = 2 * d * n;
    let reach = sigma * (d as f64).sqrt();
    let design = DMatrix::from_fn(rows, d + 1, |r, j| {
        let (point, direction) = (r / (2 * d), r % (2 * d));
        let kick = if direction / 2 == j {
            reach * if direction % 2 == 0 { 1.0 } else { -1.0 }
        } else {
            0.0
        };
        if j == d { 1.0 } else { data[[point, j]] + kick }
    });
    let target = DMatrix::from_fn(rows, d, |r, j| data[[r / (2 * d), j]]);
    let qr = design.qr();
    let solution = qr
        .r()
        .solve_upper_triangular(&(qr.q().transpose() * target))
        .expect("noise makes the design regular");
    (
        Array2::from_shape_fn((d, d), |(i, j)| solution[(j, i)]),
        Array1::from_shape_fn(d, |i| solution[(d, i)]),
    )
}
