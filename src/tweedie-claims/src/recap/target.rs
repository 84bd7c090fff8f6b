//! Is noise prediction flawed? The same optimum for all targets, but not for predictors of limited
//! rank.

use crate::Claim;
use crate::Role::{WithCondition, WithoutCondition};
use crate::Trial;
use nalgebra::{DMatrix, SymmetricEigen};
use ndarray::{Array1, Array2, array, s};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::loss::loss_ratio;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::exact::low_rank::LowRank;
use tweedie::law::Gaussian;
use tweedie::math::smaller;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "recap/reparameterization-flawed",
    slide: "In a nutshell",
    statement: "The reparametrisation to noise prediction may be flawed.",
    reading: "The slide only refers to arXiv 2511.13720 (Li and He 2025), which argues that a network of limited capacity should \
    predict the data, because they lie on a low-dimensional manifold and noise does not. That argument is what is checked.",
    assumes: "Gaussian data on a random subspace of dimension r in R^d; affine predictors of x0, of eps and of v from x_t whose \
    matrix has rank at most k, each the exact optimum of its own loss (reduced-rank regression). No skip connection adds x_t to \
    the output.",
    printed: "",
    formula: r"\min_{\operatorname{rank} W \le k} \mathbb{E}\|y - W x_t\|^2 = \min_W \mathbb{E}\|y - W x_t\|^2 + \sum_{i > k}
    c_i^2, \quad c_i = \frac{a \alpha \lambda_i + b \sigma}{\sqrt{\alpha^2 \lambda_i + \sigma^2}}, \quad y = a x_0 + b
    \varepsilon",
    finding: "It holds if the rank is limited, k < d, and nothing bypasses the limit. With r <= k < d the x0-predictor is as good \
    as without a limit, while the eps-predictor must first spend its rank on the d - r directions without data: up to k = d - r it \
    drops every direction of the data, and the x0 that it implies is there x_t / alpha, noise and all. With d = 8, r = k = 2, unit \
    variances and SNR 1 its x0 has an error of 6, where the x0-predictor has 1 and the mean alone 2. v-prediction loses as well. \
    With k = d all three are the same predictor, and so they are at any k >= r if the output is given x_t / sigma for free: the \
    flaw is in the bottleneck, not in the target.",
    mutants: &[
        "target without the noise part",
        "smallest modes kept",
        "excess once for all dropped directions",
        "off-data directions forgotten",
    ],
    check: |p| {
        let (clean, smallest) =
            (p.mutant("target without the noise part"), p.mutant("smallest modes kept"));
        let (once, forgotten) = (
            p.mutant("excess once for all dropped directions"),
            p.mutant("off-data directions forgotten"),
        );
        // What the rank costs a prediction, by the library or by one of the wrong variants.
        let excess = move |case: &Case, target: Prediction, rank: usize| {
            let of = |target: Prediction, rank: usize| {
                LowRank::new(&case.law, target, &case.at, rank)
                    .expect(
                        "sigma > \
            0",
                    )
                    .excess()
            };
            if clean && target != Prediction::X0 {
                return of(Prediction::X0, rank);
            }
            if smallest {
                // The rank goes to the directions with the least to predict.
                return of(target, 0)
                    - (of(target, case.d - rank.min(case.d)) - of(target, case.d));
            }
            let off = of(target, case.d - 1) * (case.d - case.r) as f64;
            if once {
                of(target, rank) - of(target, rank + 1)
            } else if forgotten {
                (of(target, rank) - off).max(0.0)
            } else {
                of(target, rank)
            }
        };
        p.property(
            WithCondition,
            "Excess loss of the best predictors of x0, eps and v at any rank, against the eigenvalues of the dense regression",
            64,
            "rounding of a dense inverse with condition 1 + lambda/sigma^2",
            |t| {
                let case = Case::random(t);
                let rank = t.int(0, case.d);
                for target in [Prediction::X0, Prediction::Eps, Prediction::V] {
                    t.compare(excess(&case, target, rank), case.dense_excess(target, rank), 1e-13 * case.condition());
                }
            },
        );
        p.property(
            WithCondition,
            "Excess loss of the x0-predictor at any rank k >= r",
            64,
            "exact",
            |t| {
                let case = Case::random(t);
                t.compare(excess(&case, Prediction::X0, t.int(case.r, case.d)), 0.0, 0.0);
            },
        );
        p.property(
            WithCondition,
            "Excess loss of the eps-predictor at rank d - r <= k < d, against that of the data's weakest d - k modes",
            64,
            "rounding",
            |t| {
                let case = Case::random(t);
                let rank = t.int(case.d - case.r, case.d - 1);
                // Off the data c = 1, in a mode of the data sigma^2/var < 1: the largest variances
                // have the least to say of eps.
                let dropped: f64 =
                    case.law.variances().iter().take(case.d - rank).map(|l| case.at.sigma.powi(2) / case.var(*l)).sum();
                t.compare(excess(&case, Prediction::Eps, rank), dropped, 64.0 * EPS * case.d as f64);
            },
        );
        p.property(
            WithCondition,
            "Error of the x0 that the eps-predictor of rank k <= d - r implies, over its own excess: SNR",
            48,
            "rounding, magnified by sigma/alpha",
            |t| {
                let case = Case::random(t);
                let rank = t.int(1, case.d - case.r);
                // Its matrix is a projection off the data, where x_t is sigma eps; the x0 that
                // follows is x_t / alpha on the data.
                let best = LowRank::new(&case.law, Prediction::Eps, &case.at, rank).expect("sigma > 0");
                let frame = Frame::from(&case.at);
                let to_x0 = Conversion::new(Prediction::Eps, Prediction::X0, frame).expect("alpha > 0");
                let x = t.normal_rows(1, case.d);
                let mut x0_hat = x.clone();
                to_x0.apply_batch(best.predict(&x).view(), x.view(), x0_hat.view_mut()).expect("one shape");
                let centred = &x - &(&case.law.mean() * case.at.alpha);
                let on = case.law.modes().dot(&case.law.modes().t());
                let want = (&case.law.mean() + &(centred.dot(&on) / case.at.alpha)).dot(&on);
                t.compare_all(&x0_hat.dot(&on), &want, 1e-13 * (4.0 + x.dot(&x.t())[[0, 0]]) / case.at.alpha);
                let ratio = loss_ratio(Prediction::Eps, Prediction::X0, &frame).expect("sigma > 0");
                let x0_excess = excess(&case, Prediction::Eps, rank) / ratio;
                let want =
                    case.law.variances().iter().map(|l| case.at.sigma.powi(4) / case.at.alpha.powi(2) / case.var(*l)).sum::<f64>()
                        + (case.d - case.r - rank) as f64 / ratio;
                t.compare(x0_excess, want, 256.0 * EPS * want * case.d as f64);
            },
        );
        p.property(
            WithCondition,
            "Excess loss of v at r <= k < d, at least alpha^2 or the weakest mode of the data",
            48,
            "rounding",
            |t| {
                let case = Case::random(t);
                let rank = t.int(case.r, case.d - 1);
                let (alpha, sigma) = (case.at.alpha, case.at.sigma);
                let weakest = case
                    .law
                    .variances()
                    .iter()
                    .map(|l| (alpha * sigma * (1.0 - l)).powi(2) / case.var(*l))
                    .fold(alpha * alpha, smaller);
                t.compare((weakest - excess(&case, Prediction::V, rank)).max(0.0), 0.0, 64.0 * EPS);
            },
        );
        p.property(
            WithCondition,
            "With x_t / sigma given for free: rank that the rest of the eps-predictor needs, against r",
            32,
            "a count; zero to 1e-10",
            |t| {
                let case = Case::random(t);
                let whole = LowRank::new(&case.law, Prediction::Eps, &case.at, case.d).expect("sigma > 0");
                let rest = whole.matrix() - &(Array2::<f64>::eye(case.d) / case.at.sigma);
                let squares = SymmetricEigen::new(dense(&rest.t().dot(&rest))).eigenvalues;
                let rank = squares.iter().filter(|s| **s > 1e-10 * squares.max()).count();
                t.compare(rank as f64, if clean { case.d } else { case.r } as f64, 0.0);
            },
        );
        let plane = Gaussian::from_modes(
            Array1::zeros(8),
            array![1.0, 1.0],
            Array2::eye(8).slice(s![.., ..2]).to_owned(),
        )
        .expect("two axes");
        let case =
            Case { law: plane, at: PathPoint::still(0.5f64.sqrt(), 0.5f64.sqrt()), d: 8, r: 2 };
        for (target, want) in [(Prediction::X0, 1.0), (Prediction::Eps, 6.0)] {
            let ratio =
                loss_ratio(target, Prediction::X0, &Frame::from(&case.at)).expect("sigma > 0");
            // Each of the two modes keeps half of its variance in any case.
            let got = 1.0 + excess(&case, target, 2) / ratio;
            p.number(
                WithCondition,
                format!("Error of x0 by the {target}-predictor of rank 2, data of unit variance on a plane in R^8, SNR 1"),
                got,
                want,
                1e-12,
                "rounding",
            );
        }
        // The other side: where the statement's flaw is gone.
        p.property(
            WithoutCondition,
            "Whether the eps-predictor of full rank, k = d, loses anything",
            16,
            "true or false",
            |t| {
                let case = Case::random(t);
                t.compare(
                    f64::from(u8::from(excess(&case, Prediction::Eps, case.d) > 0.0)),
                    1.0,
                    0.0,
                );
            },
        );
    },
}];

/// Gaussian data on a random subspace, at a random level of noise.
struct Case {
    law: Gaussian,
    at: PathPoint,
    d: usize,
    r: usize,
}

impl Case {
    fn random(t: &Trial) -> Self {
        let d = t.int(3, 8);
        let r = t.int(1, d - 1);
        let variances = Array1::from_shape_fn(r, |_| t.log_uniform(0.05, 5.0));
        let modes = t.rotation(d).slice(s![.., ..r]).to_owned();
        let law = Gaussian::from_modes(t.normals(d), variances, modes).expect("orthonormal modes");
        let sigma = t.uniform(0.2, 0.95);
        Self { law, at: PathPoint::still((1.0 - sigma * sigma).sqrt(), sigma), d, r }
    }

    /// Variance of x_t in a mode.
    fn var(&self, lambda: f64) -> f64 {
        self.at.alpha.powi(2) * lambda + self.at.sigma.powi(2)
    }

    fn condition(&self) -> f64 {
        (1.0 + self.law.variances()[0])
            * (1.0 + self.law.variances()[0] / self.at.sigma.powi(2))
            * self.d as f64
    }

    /// Sum of the smallest d - k eigenvalues of `C_yx C_xx^-1 C_xy`, by dense linear algebra
    /// (Eckart and Young).
    fn dense_excess(&self, target: Prediction, rank: usize) -> f64 {
        let (a, b) = target.coefficients(&Frame::from(&self.at));
        let (cov, one) = (dense(&self.law.matrix(|l| l)), DMatrix::identity(self.d, self.d));
        let xx = &cov * self.at.alpha.powi(2) + &one * self.at.sigma.powi(2);
        let yx = &cov * (a * self.at.alpha) + &one * (b * self.at.sigma);
        let inverse = xx.cholesky().expect("sigma > 0").inverse();
        let mut squares: Vec<f64> = SymmetricEigen::new(&yx * inverse * yx.transpose())
            .eigenvalues
            .iter()
            .copied()
            .collect();
        squares.sort_by(|x, y| y.total_cmp(x));
        squares[rank..].iter().sum()
    }
}

fn dense(a: &Array2<f64>) -> DMatrix<f64> {
    DMatrix::from_fn(a.nrows(), a.ncols(), |i, j| a[[i, j]])
}
