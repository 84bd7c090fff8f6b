//! Receptive fields of the linear denoiser, in closed form and against a nonlinear one.

use super::real_data::Digits;
use super::tools::{dense, level, matrix, singular_gaussian};
use crate::Role::{Printed, WithCondition, WithoutCondition};
use crate::{Claim, Trial};
use nalgebra::DMatrix;
use ndarray::{Array1, Array2, Axis};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::exact::receptive_field::{high_noise_field, low_noise_field, receptive_field};
use tweedie::law::empirical::Empirical;
use tweedie::law::{Gaussian, Law};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/receptive-field",
        slide: "Theory: receptive field structure in linear denoiser",
        statement: "The receptive field of the linear denoiser, its gradient in x, is Sigma (sigma^2 I + Sigma)^{-1}; a pixel's field is a row of it.",
        reading: "",
        assumes: "The linear (Wiener) denoiser; sigma > 0.",
        printed: "",
        formula: r"\nabla_x D^*(x; \sigma) = \Sigma (\sigma^2 I + \Sigma)^{-1}, \quad \operatorname{RF}_{ij} = e_{ij}^T \Sigma (\sigma^2 I + \Sigma)^{-1}",
        finding: "It holds: differences of the denoiser between neighbouring states, a Cholesky solve and the library's fields agree. The matrix is symmetric, so its \
                  rows are its columns.",
        mutants: &["sigma for sigma^2", "inverse of the sum alone", "one minus it"],
        check: |p| {
            let (rooted, inverse) =
                (p.mutant("sigma for sigma^2"), p.mutant("inverse of the sum alone"));
            let complement = p.mutant("one minus it");
            p.property(
                Printed,
                "A solve with Sigma against differences of the denoiser and against the library's fields",
                128,
                "solving with a condition of up to 1e4",
                |t| {
                    let (d, sigma) = (t.int(2, 7), t.log_uniform(0.1, 10.0));
                    let law = singular_gaussian(t, d, t.int(1, d));
                    let cov = dense(&law).cov_matrix();
                    let noisy = &cov + DMatrix::identity(d, d) * if rooted { sigma } else { sigma * sigma };
                    let solver = noisy.cholesky().expect("positive definite");
                    let mut field = if inverse { solver.inverse() } else { solver.solve(&cov).transpose() };
                    if complement {
                        field = DMatrix::identity(d, d) - field;
                    }
                    let x = t.normals(d);
                    let mut states = Array2::zeros((d + 1, d));
                    for mut row in states.rows_mut() {
                        row.assign(&x);
                    }
                    (0..d).for_each(|j| states[[j, j]] += 1.0);
                    let moved = law.denoised(states.view(), &level(sigma)).expect("an exact law");
                    let library = receptive_field(&law, &(0..d).collect::<Vec<_>>(), level(sigma)).expect("pixels");
                    let tol = 1e-11 * (1.0 + 1.0 / sigma);
                    for i in 0..d {
                        for j in 0..d {
                            t.compare(field[(i, j)], moved[[j, i]] - moved[[d, i]], tol);
                            t.compare(field[(i, j)], library[[i, j]], tol);
                        }
                    }
                },
            );
        },
    },
    Claim {
        id: "harvard/receptive-field-low-noise",
        slide: "Receptive field: low noise limit",
        statement: "As sigma goes to 0 a pixel's receptive field becomes the pixel itself.",
        reading: "",
        assumes: "The linear denoiser.",
        printed: "",
        formula: r"\lim_{\sigma \to 0} \Sigma (\sigma^2 I + \Sigma)^{-1} = P_{\operatorname{range} \Sigma}, \text{ which is } I \text{ if } \Sigma \text{ is invertible}",
        finding: "It is true if Sigma is invertible and sigma^2 is small against its least eigenvalue. For singular Sigma, as of any data in a subspace, the limit is \
                  the projector on that subspace: still non-local. On the digits the corner pixel never varies, and its own limit is 0, not 1.",
        mutants: &[
            "field of the high-noise limit",
            "sigma at the least deviation",
            "half the identity",
        ],
        check: |p| {
            let high = p.mutant("field of the high-noise limit");
            let (reach, factor) = (
                p.pick(1e-4, "sigma at the least deviation", 1.0),
                p.pick(1.0, "half the identity", 0.5),
            );
            let field = move |law: &Gaussian, sigma: f64| {
                let pixels: Vec<usize> = (0..law.dim()).collect();
                if high {
                    high_noise_field(law, &pixels)
                } else {
                    receptive_field(law, &pixels, level(sigma))
                }
                .expect("pixels")
                    * factor
            };
            p.property(
                WithCondition,
                "Invertible Sigma, sigma a ten-thousandth of the least deviation: field against the unit vector",
                64,
                "sigma^2 / lambda is 1e-8",
                |t| {
                    let d = t.int(2, 7);
                    let law = t.gaussian(d);
                    t.compare_all(&field(&law, reach * law.variances()[d - 1].sqrt()), &Array2::eye(d), 1.01e-8);
                },
            );
            p.property(
                WithCondition,
                "Invertible Sigma, any sigma: largest distance from the identity is sigma^2 / (lambda_min + sigma^2)",
                64,
                "power iteration on the symmetric difference",
                |t| {
                    let d = t.int(2, 7);
                    let (law, sigma) = (t.gaussian(d), t.log_uniform(0.01, 1.0));
                    let gap = matrix(&(Array2::eye(d) - field(&law, sigma)));
                    let largest = ((&gap + gap.transpose()) * 0.5).symmetric_eigenvalues().max();
                    t.compare(largest, sigma * sigma / (law.variances()[d - 1] + sigma * sigma), 1e-12);
                },
            );
            p.property(
                WithoutCondition,
                "Singular Sigma, sigma = 1e-4 of the least positive deviation: field against the unit vector",
                64,
                "sigma^2 / lambda is 1e-8",
                |t| {
                    let d = t.int(3, 7);
                    let law = singular_gaussian(t, d, t.int(1, d - 1));
                    t.compare_all(&field(&law, reach * law.variances()[law.rank() - 1].sqrt()), &Array2::eye(d), 1.01e-8);
                },
            );
            let digits = Gaussian::from_data(tweedie_nn::data::digits::load().images.view())
                .expect("digits");
            let own = low_noise_field(&digits, &[0]).expect("a pixel")[[0, 0]];
            p.number(
                WithoutCondition,
                "Digits: weight of the corner pixel, which never varies, in its own field at zero noise",
                own,
                1.0,
                1e-9,
                "a projector's entry",
            );
            p.property(
                WithCondition,
                "Singular Sigma: field against the projector on the range, the limit that is always right",
                64,
                "sigma^2 / lambda is 1e-8",
                |t| {
                    let d = t.int(3, 7);
                    let law = singular_gaussian(t, d, t.int(1, d - 1));
                    t.compare_all(
                        &field(&law, reach * law.variances()[law.rank() - 1].sqrt()),
                        &law.modes().dot(&law.modes().t()),
                        1.01e-8,
                    );
                },
            );
        },
    },
    Claim {
        id: "harvard/receptive-field-high-noise",
        slide: "Receptive field: high noise limit",
        statement: "As sigma goes to infinity a pixel's receptive field becomes its row of Sigma/sigma^2: all correlated pixels.",
        reading: "",
        assumes: "The linear denoiser.",
        printed: "",
        formula: r"\lim_{\sigma \to \infty} \sigma^2 \Sigma (\sigma^2 I + \Sigma)^{-1} = \Sigma",
        finding: "It holds to first order in 1/sigma^2: the relative error is lambda_max / (lambda_max + sigma^2) at most, and the next term is -Sigma^2 / sigma^4.",
        mutants: &["Sigma / sigma", "correlations for covariances", "variances alone"],
        check: |p| {
            let (rooted, correlations) =
                (p.mutant("Sigma / sigma"), p.mutant("correlations for covariances"));
            let variances = p.mutant("variances alone");
            let limit = move |law: &Gaussian, sigma: f64| {
                let cov =
                    high_noise_field(law, &(0..law.dim()).collect::<Vec<_>>()).expect("pixels");
                let scaled = Array2::from_shape_fn(cov.raw_dim(), |(i, j)| {
                    if correlations {
                        cov[[i, j]] / (cov[[i, i]] * cov[[j, j]]).sqrt()
                    } else if variances && i != j {
                        0.0
                    } else {
                        cov[[i, j]]
                    }
                });
                scaled / if rooted { sigma } else { sigma * sigma }
            };
            let fields = |law: &Gaussian, sigma: f64| {
                receptive_field(law, &(0..law.dim()).collect::<Vec<_>>(), level(sigma))
                    .expect("pixels")
            };
            p.property(
                Printed,
                "sigma^2 times the field against sigma^2 times the limit, at 1e5 largest deviations",
                64,
                "relative error lambda_max / sigma^2 = 1e-10",
                |t| {
                    let law = t.gaussian(t.int(2, 7));
                    let sigma = 1e5 * law.variances()[0].sqrt();
                    let s2 = sigma * sigma;
                    t.compare_all(&(fields(&law, sigma) * s2), &(limit(&law, sigma) * s2), 1.1e-10 * law.variances()[0]);
                },
            );
            p.property(
                Printed,
                "What is missing, times sigma^4, against -Sigma^2, at 1e3 largest deviations",
                64,
                "the next term is 1e-6 of it; rounding of the difference 1e-10",
                |t| {
                    let law = t.gaussian(t.int(2, 7));
                    let (largest, sigma) = (law.variances()[0], 1e3 * law.variances()[0].sqrt());
                    let missing = (fields(&law, sigma) - limit(&law, sigma)) * sigma.powi(4);
                    let cov = Law::cov(&law);
                    t.compare_all(&missing, &(-cov.dot(&cov)), 2e-6 * largest * largest);
                },
            );
        },
    },
    Claim {
        id: "harvard/receptive-field-of-unet",
        slide: "Linear theory predicts the spatial and noise scale dependency of receptive field",
        statement: "The receptive field of the trained U-Net, rows of its Jacobian, follows the linear prediction in space and noise scale.",
        reading: "",
        assumes: "The network is the one in experiments/models/digits, 177,553 weights trained on 1,617 handwritten digits and asked for no class; Sigma is the covariance of the same \
                  digits. Fields are averaged over noised digits, as the slide's pictures are, of pixels with a variance of at least 0.2.",
        printed: "",
        formula: r"\mathbb{E}_x[\nabla_x D_\theta(x; \sigma)] \approx c\, \Sigma (\sigma^2 I + \Sigma)^{-1}, \quad c \le 1",
        finding: "True of the fields' shape, with sigma from 0.2 to 4: their cosine with the prediction is within 0.15 of 1, and where the exact denoiser of the training set, which memorises, has hardly a \
                  field at all, the network keeps the linear one. Their size follows at sigma = 4, within three tenths; below the data's deviation they are smaller, at 0.2 by two fifths. That is as it \
                  has to be: of the best denoiser sigma^2 times a pixel's weight in its own field is the variance left in it, and the network leaves less than a linear denoiser can. At high noise the field is \
                  small beside the network's error, and at sigma = 40 its shape is lost; the exact denoiser still follows there within a few percent.",
        mutants: &["sigma for sigma^2", "field of the low-noise limit", "another pixel's field"],
        check: |p| {
            let (rooted, local) =
                (p.mutant("sigma for sigma^2"), p.mutant("field of the low-noise limit"));
            let shifted = p.mutant("another pixel's field");
            let digits = Digits::load();
            let (law, exact) =
                (digits.gaussian(), Empirical::new(digits.train.clone()).expect("digits"));
            let cov = Law::cov(&law);
            let varying: Vec<usize> = (0..64).filter(|i| cov[[*i, *i]] >= 0.2).collect();
            const STATES: usize = 12;
            let noised = |t: &Trial, sigma: f64| {
                &digits.train.row(t.int(0, digits.train.nrows() - 1)) + &(t.normals(64) * sigma)
            };
            // Eight pixels, no two alike, with their mean fields and the linear prediction.
            let fields = |t: &Trial, sigma: f64, of: &Rows| {
                let first = t.int(0, varying.len() - 1);
                let pixels: Vec<usize> = (0..8)
                    .map(|k| varying[(first + k * (varying.len() / 8)) % varying.len()])
                    .collect();
                let mut mean = Array2::<f64>::zeros((8, 64));
                (0..STATES).for_each(|_| {
                    mean += &(of(&noised(t, sigma), &level(sigma), &pixels) / STATES as f64)
                });
                let told: Vec<usize> =
                    pixels.iter().map(|i| if shifted { (i + 1) % 64 } else { *i }).collect();
                let predicted = if local {
                    low_noise_field(&law, &told)
                } else {
                    receptive_field(&law, &told, level(if rooted { sigma.sqrt() } else { sigma }))
                };
                (pixels, mean, predicted.expect("pixels"))
            };
            let by_network = |x: &Array1<f64>, at: &PathPoint, pixels: &[usize]| {
                digits.network.jacobian_rows(x.view(), at, pixels).expect("pixels")
            };
            let by_exact = |x: &Array1<f64>, at: &PathPoint, pixels: &[usize]| {
                exact.jacobian(x.view(), at).expect("an exact law").select(Axis(0), pixels)
            };
            for (role, sigma) in [
                (WithCondition, 0.2),
                (WithCondition, 1.0),
                (WithCondition, 4.0),
                (WithoutCondition, 40.0),
            ] {
                let what = format!(
                    "sigma = {sigma}: cosine of the network's mean fields with the prediction, 8 pixels, 12 noised digits"
                );
                p.property(role, what, 1, "0.85 is taken as following in space", |t| {
                    let (_, seen, told) = fields(t, sigma, &by_network);
                    t.compare(
                        dot(&seen, &told) / (dot(&seen, &seen) * dot(&told, &told)).sqrt(),
                        1.0,
                        0.15,
                    );
                });
            }
            for (role, sigma) in [(WithCondition, 4.0), (WithoutCondition, 0.2)] {
                let what = format!(
                    "sigma = {sigma}: size of the network's mean fields, their projection on the prediction over it"
                );
                p.property(role, what, 1, "three tenths is taken as following in size", |t| {
                    let (_, seen, told) = fields(t, sigma, &by_network);
                    t.compare(dot(&seen, &told) / dot(&told, &told), 1.0, 0.3);
                });
            }
            p.property(
                WithCondition,
                "sigma = 0.2: sigma^2 times the pixels' own weights over the network's mean square error in them",
                1,
                "the scatter over 12 digits is 0.1; four of these",
                |t| {
                    let (pixels, seen, _) = fields(t, 0.2, &by_network);
                    let own: f64 = pixels.iter().enumerate().map(|(row, pixel)| seen[[row, *pixel]]).sum();
                    let clean = digits.train.select(Axis(0), &(0..64).map(|i| 25 * i).collect::<Vec<_>>());
                    let x = &clean + &(t.normal_rows(64, 64) * 0.2);
                    let error = digits.network.denoised(x.view(), &level(0.2)).expect("a network") - clean;
                    let left: f64 = pixels.iter().map(|i| error.column(*i).mapv(|e| e * e).mean().expect("digits")).sum();
                    t.compare(0.2 * 0.2 * own / left, 1.0, 0.4);
                },
            );
            for (role, sigma) in [(WithCondition, 40.0), (WithoutCondition, 0.2)] {
                let what = format!(
                    "sigma = {sigma}, exact denoiser of the training set: distance of its mean fields from the prediction, relative"
                );
                p.property(role, what, 1, "one tenth is taken as following", |t| {
                    let (_, seen, told) = fields(t, sigma, &by_exact);
                    let off = &seen - &told;
                    t.compare((dot(&off, &off) / dot(&told, &told)).sqrt(), 0.0, 0.1);
                });
            }
        },
    },
];

/// Rows of a denoiser's Jacobian at one state.
type Rows<'a> = dyn Fn(&Array1<f64>, &PathPoint, &[usize]) -> Array2<f64> + 'a;

/// Sum of products.
fn dot(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    a.iter().zip(b).map(|(a, b)| a * b).sum()
}
