//! The variational view: a VAE's bound, DDPM's bound line by line, and its weights.

use crate::{Claim, Probe, Role, Trial};
use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2, array};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{
    GaussianData, Reconstruction, Reverse, ReverseVar, gaussian_bound, linear_error,
};
use tweedie::diffusion::kernel::{Posterior, Transition};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::schedule::Table;
use tweedie::diffusion::weighting::vlb_discrete;
use tweedie::exact::vae::{Encoder, LinearVae};
use tweedie::law::gaussian::wiener_gain;
use tweedie::math::gaussian::{
    Covariance, Normal, entropy_normal, kl_normal, kl_normal_mean, kl_normal_var,
    log_density_normal,
};
use tweedie::math::quadrature::NormalRule;
use tweedie::math::smaller;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/vae-elbo-gap",
        slide: "Recap of Variational Auto-Encoder",
        statement: "log p(x) is the ELBO plus KL(q(z) || p(z|x)), for any q.",
        reading: "",
        assumes: "A linear decoder with normal noise and any normal q, where every term is known; the identity itself needs no more than q > 0 where p(z|x) > 0.",
        printed: "",
        formula: r"\log p(x) = \underbrace{\mathbb{E}_q \log p(x|z) - D_{KL}(q(z)\|p(z))}_{ELBO} + D_{KL}(q(z)\|p(z|x))",
        finding: "Both sides agree for random decoders and random q. The gap is a divergence, and vanishes for q = p(z|x).",
        mutants: &[
            "KL the other way round",
            "posterior without the prior",
            "spread of q left out of the reconstruction",
        ],
        check: vae_gap,
    },
    Claim {
        id: "harvard/ddpm-elbo",
        slide: "Derivation of ELBO in DDPM",
        statement: "The lines of the derivation of DDPM's bound have one value, with an inequality in the third line only.",
        reading: "The fourth line has the product of q(x_{t-1}|x_0,x_t) in its denominator without the factor q(x_T|x_0), which the fifth line has. It is taken as the text has it: \
                  with the factor the two lines would be the same. In the last line but one the conditional q is read as part of the expectation's subscript.",
        assumes: "Gaussian data on a line, a random schedule of two to four steps, a random linear denoiser and random reverse variances: every expectation is exact.",
        printed: r"\mathbb{E}_q \log \frac{\prod_{t=1}^T p_\theta(x_{t-1}|x_t)\, p(x_T)}{\prod_{t=2}^T q(x_{t-1}|x_0,x_t)}",
        formula: r"\mathbb{E}_q \log \frac{\prod_{t=1}^T p_\theta(x_{t-1}|x_t)\, p(x_T)}{\prod_{t=2}^T q(x_{t-1}|x_0,x_t)\, q(x_T|x_0)} = \log p_\theta(x_0) - D_{KL}\left(q(x_{1:T}|x_0) \,\|\, p_\theta(x_{1:T}|x_0)\right)",
        finding: "The lines agree but for the fourth, which lacks q(x_T|x_0) and is off by its entropy, d/2 ln(2 pi e sigma_T^2), or 1.42 nats a dimension at sigma_T = 1; the fifth line has it. \
                  What the third line drops is exactly KL(q(x_{1:T}|x_0) || p(x_{1:T}|x_0)), the VAE's gap.",
        mutants: &[
            "KL the other way round",
            "prior term left out",
            "forward variance for the posterior's",
        ],
        check: ddpm_elbo,
    },
    Claim {
        id: "harvard/elbo-is-weighted-eps",
        slide: "Equivalence to score-based perspective",
        statement: "The training loss of the bound is the eps-prediction loss with some weighting.",
        reading: "",
        assumes: "Reverse variances that are fixed and not learned, and a mean built from eps as DDPM builds it. What the variances alone cost is a constant of the training.",
        printed: "",
        formula: r"D_{KL}(q(x_{t-1}|x_t,x_0)\|p_\theta(x_{t-1}|x_t)) = \frac{\beta_t^2}{2 \sigma_t^2 \alpha_t (1-\bar\alpha_t)} \left\|\varepsilon - \varepsilon_\theta\right\|^2 + \text{const}",
        finding: "Equal term by term for any prediction. The weight is beta_t/(2 alpha_t (1 - bar alpha_t)) for the reverse variance beta_t: on Ho's schedule it falls from 0.50 at t = 1 to \
                  0.0050 at t = 349 and rises to 0.010 at t = 1000, so that L_simple, with one weight for all, counts noisy steps up to 101 times more against the first than the bound does.",
        mutants: &["bar left out", "square of beta dropped", "index t-1 for t"],
        check: weighted_eps,
    },
];

fn vae_gap(p: &mut Probe) {
    let (other_way, prior, spread) = (
        p.mutant("KL the other way round"),
        p.mutant("posterior without the prior"),
        p.mutant("spread of q left out of the reconstruction"),
    );
    // The encoder's and the posterior's (mean, variance) at x, the latter by Bayes' rule on a line.
    let laws =
        move |mean: &Array1<f64>, w: &Array2<f64>, noise_var: f64, q: &Encoder, x: &Array2<f64>| {
            let centred = &x.row(0) - mean;
            let own = (q.gain.row(0).dot(&centred) + q.shift[0], q.cov[[0, 0]]);
            let precision =
                w.iter().map(|w| w * w).sum::<f64>() / noise_var + if prior { 0.0 } else { 1.0 };
            (own, (w.column(0).dot(&centred) / noise_var / precision, 1.0 / precision))
        };
    p.property(
        Role::Printed,
        "ELBO + KL(q || p(z|x)), against log N(x; mean, W W^T + s^2 I)",
        128,
        "1e-12 of the terms",
        |t| {
            let (mean, weights, noise_var) =
                (t.normals(3), t.normal_rows(3, 1), t.uniform(0.2, 2.0));
            let q = Encoder {
                gain: t.normal_rows(1, 3) * 0.5,
                shift: t.normals(1),
                cov: array![[t.uniform(0.05, 2.0)]],
            };
            let x = t.normal_rows(1, 3) * 2.0;
            let vae = LinearVae::new(mean.clone(), weights.clone(), noise_var).expect("a decoder");
            let (own, posterior) = laws(&mean, &weights, noise_var, &q, &x);
            let (a, b) = if other_way { (posterior, own) } else { (own, posterior) };
            let gap = kl_normal(a.0, a.1, b.0, b.1);
            let missing = if spread {
                0.5 * own.1 * weights.iter().map(|w| w * w).sum::<f64>() / noise_var
            } else {
                0.0
            };
            let (elbo, evidence) = (
                vae.elbo(x.view(), &q).expect("fits")[0] + missing,
                vae.log_evidence(x.view()).expect("fits")[0],
            );
            let tol = 1e-12 * (1.0 + elbo.abs() + gap.abs());
            t.compare(elbo + gap, evidence, tol);
            t.compare(vae.gap(x.view(), &q).expect("fits")[0], gap, tol);
        },
    );
    let rule = NormalRule::new(12).expect("nodes");
    p.property(
        Role::Printed,
        "ELBO, against E_q of log p(x, z) - log q(z) by Gauss-Hermite quadrature",
        64,
        "1e-12 of the terms: the rule is exact for the quadratic inside",
        |t| {
            let (weight, noise_var, mean) =
                (t.normal_rows(2, 1), t.uniform(0.2, 2.0), t.normals(2));
            let vae = LinearVae::new(mean.clone(), weight.clone(), noise_var).expect("a decoder");
            let (x, shift, var) = (t.normals(2), t.normal(), t.uniform(0.05, 2.0));
            let q =
                Encoder { gain: Array2::zeros((1, 2)), shift: array![shift], cov: array![[var]] };
            let inside = |z: f64| {
                let decoder: f64 = (0..2)
                    .map(|i| log_density_normal(x[i], mean[i] + weight[[i, 0]] * z, noise_var))
                    .sum();
                decoder + log_density_normal(z, 0.0, 1.0) - log_density_normal(z, shift, var)
            };
            let row = x.clone().insert_axis(ndarray::Axis(0));
            let missing = if spread {
                0.5 * var * weight.iter().map(|w| w * w).sum::<f64>() / noise_var
            } else {
                0.0
            };
            let got = vae.elbo(row.view(), &q).expect("fits")[0] + missing;
            t.compare(got, rule.expectation(shift, var, inside), 1e-12 * (10.0 + got.abs()));
        },
    );
    p.property(Role::Printed, "the gap of q = p(z|x)", 32, "1e-12 nats", |t| {
        let (vae, x) = (
            LinearVae::new(t.normals(3), t.normal_rows(3, 1), t.uniform(0.2, 2.0))
                .expect("a decoder"),
            t.normal_rows(1, 3),
        );
        t.compare(vae.gap(x.view(), &vae.optimal_encoder()).expect("fits")[0], 0.0, 1e-12);
    });
}

/// A random chain over Gaussian data with a linear reverse model
/// `p(x_{t-1}|x_t) = N(gain x_t + offset, var)`.
struct Chain {
    mean: f64,
    lambda: f64,
    /// Levels 0..=T.
    levels: Vec<Level<f64>>,
    /// `(gain, offset, var)` of the step from t, at index t; index 0 unused.
    steps: Vec<(f64, f64, f64)>,
    share: f64,
}

impl Chain {
    fn random(t: &Trial) -> Self {
        let betas: Vec<f64> = (0..t.int(2, 4)).map(|_| t.uniform(0.05, 0.6)).collect();
        let table = Table::from_betas(&betas).expect("betas in range");
        let levels: Vec<_> = std::iter::once(Level::CLEAN)
            .chain(table.rows().iter().map(|r| Level::new(r.alpha, r.sigma)))
            .collect();
        let (mean, lambda, share) = (t.normal(), t.log_uniform(0.1, 3.0), t.uniform(0.5, 1.2));
        let mut steps = vec![(0.0, 0.0, 1.0)];
        for k in 1..levels.len() {
            let at = levels[k];
            let gain = share * wiener_gain(lambda, at.alpha, at.sigma);
            let offset = mean - gain * at.alpha * mean;
            steps.push(if k == 1 {
                (gain, offset, t.uniform(0.1, 1.0))
            } else {
                let q = Posterior::between(levels[k - 1], at).expect("ordered");
                (q.coef_xt + q.coef_x0 * gain, q.coef_x0 * offset, q.var * t.uniform(0.7, 2.0))
            });
        }
        Self { mean, lambda, levels, steps, share }
    }

    fn last(&self) -> usize {
        self.levels.len() - 1
    }

    /// `q(x_1..x_T | x0)`.
    fn forward(&self, x0: f64) -> Normal {
        let l = &self.levels;
        let mean = DVector::from_fn(self.last(), |i, _| l[i + 1].alpha * x0);
        let cov = DMatrix::from_fn(self.last(), self.last(), |i, j| {
            let (s, t) = (l[i.min(j) + 1], l[i.max(j) + 1]);
            t.alpha / s.alpha * s.sigma * s.sigma
        });
        Normal::new(mean, Covariance::Full(cov)).expect("a covariance")
    }

    /// `p(x_0..x_T)`.
    fn model(&self) -> Normal {
        let n = self.last() + 1;
        let (mut mean, mut var) = (DVector::zeros(n), DVector::zeros(n));
        var[n - 1] = 1.0;
        for t in (1..n).rev() {
            let (gain, offset, v) = self.steps[t];
            mean[t - 1] = gain * mean[t] + offset;
            var[t - 1] = gain * gain * var[t] + v;
        }
        let cov = DMatrix::from_fn(n, n, |i, j| {
            let (s, t) = (i.min(j), i.max(j));
            (s + 1..=t).map(|k| self.steps[k].0).product::<f64>() * var[t]
        });
        Normal::new(mean, Covariance::Full(cov)).expect("a covariance")
    }

    /// `E_q log` of the numerator: all reverse steps and the prior.
    fn numerator(&self, x0: f64) -> f64 {
        let moments = |t: usize| (self.levels[t].alpha * x0, self.levels[t].sigma.powi(2));
        let quadratic = |miss: f64, spread: f64, var: f64| {
            -0.5 * ((std::f64::consts::TAU * var).ln() + (miss * miss + spread) / var)
        };
        let steps: f64 = (1..=self.last())
            .map(|t| {
                let ((m_s, v_s), (m_t, v_t), (gain, offset, var)) =
                    (moments(t - 1), moments(t), self.steps[t]);
                let cov = self.levels[t].alpha / self.levels[t - 1].alpha * v_s;
                quadratic(
                    m_s - gain * m_t - offset,
                    v_s - 2.0 * gain * cov + gain * gain * v_t,
                    var,
                )
            })
            .sum();
        let (m, v) = moments(self.last());
        steps + quadratic(m, v, 1.0)
    }

    /// Log density of the model's step from `xt`.
    fn log_step(&self, t: usize, xs: f64, xt: f64) -> f64 {
        let (gain, offset, var) = self.steps[t];
        log_density_normal(xs, gain * xt + offset, var)
    }

    /// `ln p(x_{t-1}|x_t) - ln q(x_{t-1}|x_0,x_t)`.
    fn log_ratio(&self, t: usize, x0: f64, xs: f64, xt: f64) -> f64 {
        let q = Posterior::between(self.levels[t - 1], self.levels[t]).expect("ordered");
        self.log_step(t, xs, xt) - q.log_density(xs, xt, x0)
    }

    /// `ln p(x_T) - ln q(x_T|x_0)`.
    fn log_prior_ratio(&self, x0: f64, x: f64) -> f64 {
        let last = self.levels[self.last()];
        log_density_normal(x, 0.0, 1.0) - log_density_normal(x, last.alpha * x0, last.sigma.powi(2))
    }

    /// The seventh and the eighth line: each term averaged by itself, the pair (x_{t-1}, x_t) drawn
    /// forward from x_{t-1} or backward from x_t.
    fn term_by_term(&self, x0: f64, rule: &NormalRule, backward: bool) -> f64 {
        let over = |t: usize, f: &dyn Fn(f64) -> f64| {
            let at = self.levels[t];
            rule.expectation(at.alpha * x0, at.sigma.powi(2), f)
        };
        let transitions = (2..=self.last()).map(|t| {
            let (s, u) = (self.levels[t - 1], self.levels[t]);
            if backward {
                let q = Posterior::between(s, u).expect("ordered");
                over(t, &|xt| {
                    rule.expectation(q.mean(x0, xt), q.var, |xs| self.log_ratio(t, x0, xs, xt))
                })
            } else {
                let q = Transition::between(s, u).expect("ordered");
                over(t - 1, &|xs| {
                    rule.expectation(q.mean(xs), q.var, |xt| self.log_ratio(t, x0, xs, xt))
                })
            }
        });
        over(1, &|x1| self.log_step(1, x0, x1))
            + transitions.sum::<f64>()
            + over(self.last(), &|x| self.log_prior_ratio(x0, x))
    }

    /// Entropies of the posteriors `q(x_{t-1}|x_0,x_t)`, t = 2..T.
    fn posterior_entropy(&self, forward: bool) -> f64 {
        let pairs = self.levels[1..].windows(2);
        pairs
            .map(|w| {
                let var = Posterior::between(w[0], w[1]).expect("ordered").var;
                entropy_normal(if forward {
                    w[1].sigma.powi(2) - (w[1].alpha / w[0].alpha * w[0].sigma).powi(2)
                } else {
                    var
                })
            })
            .sum()
    }

    /// The last line: reconstruction, transitions, prior.
    fn bound(&self, x0: f64, other_way: bool, prior: bool) -> f64 {
        let l = &self.levels;
        let (gain, offset, var) = self.steps[1];
        let miss = x0 - gain * l[1].alpha * x0 - offset;
        let reconstruction = -0.5
            * ((std::f64::consts::TAU * var).ln()
                + (miss * miss + (gain * l[1].sigma).powi(2)) / var);
        let transitions: f64 = (2..=self.last())
            .map(|t| {
                let (q, (gain, offset, var)) =
                    (Posterior::between(l[t - 1], l[t]).expect("ordered"), self.steps[t]);
                let miss = q.coef_x0 * x0 - offset + (q.coef_xt - gain) * l[t].alpha * x0;
                let square = miss * miss + ((q.coef_xt - gain) * l[t].sigma).powi(2);
                if other_way {
                    kl_normal_var(var, q.var) + square / (2.0 * q.var)
                } else {
                    kl_normal_var(q.var, var) + square / (2.0 * var)
                }
            })
            .sum();
        let last = l[self.last()];
        let prior = if prior {
            kl_normal_var(last.sigma.powi(2), 1.0) + kl_normal_mean(last.alpha * x0, 0.0, 1.0)
        } else {
            0.0
        };
        reconstruction - transitions - prior
    }
}

fn ddpm_elbo(p: &mut Probe) {
    let (other_way, no_prior, forward) = (
        p.mutant("KL the other way round"),
        p.mutant("prior term left out"),
        p.mutant("forward variance for the posterior's"),
    );
    let why = "1e-11 of the terms: the densities of a chain of at most four steps";
    let draw = |t: &Trial| {
        let chain = Chain::random(t);
        let x0 = chain.mean + chain.lambda.sqrt() * t.normal();
        (chain, x0)
    };
    p.property(Role::Printed, "fourth line as printed, against the third", 96, why, |t| {
        let (chain, x0) = draw(t);
        let numerator = chain.numerator(x0);
        t.compare(
            numerator + chain.posterior_entropy(false),
            numerator + chain.forward(x0).entropy(),
            1e-11 * (10.0 + numerator.abs()),
        );
    });
    p.property(
        Role::Corrected,
        "fourth line with q(x_T|x_0), which is the fifth, against the third",
        96,
        why,
        |t| {
            let (chain, x0) = draw(t);
            let numerator = chain.numerator(x0);
            let ends = entropy_normal(chain.levels[chain.last()].sigma.powi(2));
            let got = numerator + chain.posterior_entropy(forward) + ends;
            t.compare(
                got,
                numerator + chain.forward(x0).entropy(),
                1e-11 * (10.0 + numerator.abs()),
            );
        },
    );
    p.property(
        Role::Corrected,
        "sixth line's bracket at one trajectory, against the third's",
        96,
        "1e-9 of the terms: the joint covariance is inverted",
        |t| {
            let (chain, x0) = draw(t);
            let (mut x, n) = (vec![x0], chain.last());
            for k in 1..=n {
                let q = Transition::between(chain.levels[k - 1], chain.levels[k]).expect("ordered");
                x.push(q.mean(x[k - 1]) + q.var.sqrt() * t.normal());
            }
            let log_model: f64 = (1..=n).map(|k| chain.log_step(k, x[k - 1], x[k])).sum::<f64>()
                + log_density_normal(x[n], 0.0, 1.0);
            let log_latents = chain
                .forward(x0)
                .log_density(&DVector::from_column_slice(&x[1..]))
                .expect("a density");
            let ratios: f64 = (2..=n).map(|k| chain.log_ratio(k, x0, x[k - 1], x[k])).sum();
            let got = chain.log_step(1, x0, x[1]) + ratios + chain.log_prior_ratio(x0, x[n]);
            t.compare(
                got,
                log_model - log_latents,
                1e-9 * (10.0 + log_model.abs() + log_latents.abs()),
            );
        },
    );
    let four = NormalRule::new(4).expect("nodes");
    for (line, backward) in [
        ("seventh line, pairs drawn from x_{t-1}", false),
        ("eighth line, pairs drawn from x_t", true),
    ] {
        let what = format!("{line}, by quadrature, against the third");
        p.property(
            Role::Corrected,
            what,
            48,
            "1e-10 of the terms: 4 nodes are exact for quadratics",
            |t| {
                let (chain, x0) = draw(t);
                let numerator = chain.numerator(x0);
                let got = chain.term_by_term(x0, &four, backward);
                t.compare(
                    got,
                    numerator + chain.forward(x0).entropy(),
                    1e-10 * (10.0 + numerator.abs()),
                );
            },
        );
    }
    p.number(
        Role::Corrected,
        "what the fourth line lacks in one dimension at sigma_T = 1, against ln(2 pi e)/2",
        entropy_normal(1.0),
        0.5 * (std::f64::consts::TAU * std::f64::consts::E).ln(),
        1e-15,
        "an ulp",
    );
    p.property(Role::Corrected, "last line, against the third", 96, why, |t| {
        let (chain, x0) = draw(t);
        let numerator = chain.numerator(x0);
        t.compare(
            chain.bound(x0, other_way, !no_prior),
            numerator + chain.forward(x0).entropy(),
            1e-11 * (10.0 + numerator.abs()),
        );
    });
    p.property(
        Role::Corrected,
        "log p(x_0) less the last line, against KL(q(x_{1:T}|x_0) || p(x_{1:T}|x_0)) of the joint normal laws",
        96,
        "1e-9 of the terms: the joint covariance is conditioned and inverted",
        |t| {
            let (chain, x0) = draw(t);
            let model = chain.model();
            let evidence = log_density_normal(x0, model.mean()[0], model.cov_matrix()[(0, 0)]);
            let gap = chain.forward(x0).kl(&model.condition(&[0], &[x0]).expect("a density")).expect("a density");
            let bound = chain.bound(x0, other_way, !no_prior);
            t.compare(evidence - bound, gap, 1e-9 * (1.0 + evidence.abs() + bound.abs()));
        },
    );
    let rule = NormalRule::new(6).expect("nodes");
    p.property(
        Role::Corrected,
        "last line averaged over the data, against the library's bound",
        64,
        "1e-11 of the terms; the average is of a quadratic",
        |t| {
            let (chain, _) = draw(t);
            let points: Vec<_> =
                chain.levels[1..].iter().map(|l| PathPoint::still(l.alpha, l.sigma)).collect();
            let error = |at: &PathPoint, lambda: f64| {
                linear_error(
                    lambda,
                    chain.share * wiener_gain(lambda, at.alpha, at.sigma),
                    (at.alpha, at.sigma),
                )
            };
            let reverse = Reverse {
                var: ReverseVar::Given(chain.steps[2..].iter().map(|s| s.2).collect()),
                reconstruction: Reconstruction::Gaussian(chain.steps[1].2),
                prior_var: 1.0,
            };
            let data = GaussianData { variances: &[chain.lambda], mean_square: chain.mean.powi(2) };
            let want = gaussian_bound(&points, data, error, &reverse).expect("a chain").nats();
            let got = -rule
                .expectation(chain.mean, chain.lambda, |x0| chain.bound(x0, other_way, !no_prior));
            t.compare(got, want, 1e-11 * (10.0 + want.abs()));
        },
    );
}

fn weighted_eps(p: &mut Probe) {
    let (bar, square, index) =
        (p.mutant("bar left out"), p.mutant("square of beta dropped"), p.mutant("index t-1 for t"));
    p.property(
        Role::Printed,
        "KL of one transition less what its variances cost, against the weight times |eps - eps_hat|^2",
        192,
        "1e-9 relative: the two means differ by at least 1e-4 of their size, and beta is known to 1e-13",
        |t| {
            let betas: Vec<f64> = (0..6).map(|_| t.uniform(0.01, 0.5)).collect();
            let table = Table::from_betas(&betas).expect("betas in range");
            let k = t.int(2, 6);
            let (row, before) = (table.rows()[k - 1], table.rows()[k - 2]);
            let (s, at) = (Level::new(before.alpha, before.sigma), Level::new(row.alpha, row.sigma));
            let (x0, eps, error) = (t.normal(), t.normal(), t.uniform(0.3, 2.0));
            let x = at.alpha * x0 + at.sigma * eps;
            let q = Posterior::between(s, at).expect("ordered");
            let frame = Frame::from(&PathPoint::still(at.alpha, at.sigma));
            let x0_hat = Conversion::new(Prediction::Eps, Prediction::X0, frame).expect("alpha > 0").apply(eps + error, x);
            let var = q.var * t.uniform(0.8, 3.0);
            let kl = kl_normal_mean(q.mean(x0, x), q.mean(x0_hat, x), var);
            let row = if index { before } else { row };
            let noise = if bar { row.beta } else { 1.0 - row.alpha_bar };
            let beta2 = if square { row.beta } else { row.beta * row.beta };
            let weight = beta2 / (2.0 * var * row.alpha_step * noise);
            t.compare(weight * error * error, kl, 1e-9 * kl);
            t.compare(vlb_discrete(s, at, var).expect("ordered").eps * error * error, kl, 1e-9 * kl);
        },
    );
    let table = Table::new(tweedie::diffusion::schedule::Schedule::LINEAR, 1000, false)
        .expect("Ho's schedule");
    let of = |k: usize| {
        let row = table.rows()[k - 1];
        let noise = if bar { row.beta } else { 1.0 - row.alpha_bar };
        (if square { 1.0 } else { row.beta }) / (2.0 * row.alpha_step * noise)
    };
    p.property(
        Role::Printed,
        "weight for the reverse variance beta in the library's table of Ho's schedule, against beta/(2 alpha (1 - bar alpha))",
        64,
        "1e-11: 1 - bar alpha cancels in f64 down to 1e-4",
        |t| {
            let k = t.int(2, 1000);
            t.compare(of(if index { k - 1 } else { k }), table.rows()[k - 1].vlb_weight_beta, 1e-11);
        },
    );
    for k in [1, 349, 1000] {
        let what = format!("weight at t = {k} of Ho's schedule");
        p.number(
            Role::Printed,
            what,
            of(k),
            table.rows()[k - 1].vlb_weight_beta,
            1e-11,
            "1 - bar alpha cancels in f64 down to 1e-4",
        );
    }
    let least = |of: &dyn Fn(usize) -> f64| (1..=1000).map(of).fold(f64::INFINITY, smaller);
    p.number(
        Role::Printed,
        "weight at t = 1 over the least, against the table's",
        of(1) / least(&of),
        table.rows()[0].vlb_weight_beta / least(&|k| table.rows()[k - 1].vlb_weight_beta),
        1e-8,
        "two weights, each to 1e-11",
    );
}
