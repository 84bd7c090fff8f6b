//! The ancestral sampler: the noise that it adds and what it costs.

use super::{level, still};
use crate::Claim;
use crate::Role::{Printed, WithCondition, WithoutCondition};
use nalgebra::{dmatrix, dvector};
use ndarray::{ArrayView2, ArrayViewMut2, array};
use std::sync::atomic::{AtomicUsize, Ordering};
use tweedie::diffusion::elbo::{
    GaussianData, Reconstruction, Reverse, ReverseVar, gaussian_bound, mmse,
};
use tweedie::diffusion::kernel::Transition;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::error::Result;
use tweedie::law::Gaussian;
use tweedie::math::gaussian::{Covariance, Normal};
use tweedie::sample::ancestral::{Ddpm, Variance};
use tweedie::sample::noise_source::Silence;
use tweedie::sample::runge_kutta::Heun;
use tweedie::sample::{Sampler, sample};

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "sjtu/sampler-variance",
        slide: "DDPM Sampling - Walk the Chain Backwards",
        statement: "The sampler adds noise of deviation sigma_t = sqrt(beta_t) for t > 1, and none at t = 1.",
        reading: "The slide states a choice; checked is for which data it is the exact deviation of q(x_{t-1}|x_t).",
        assumes: "Single steps of the full schedule; Gaussian data, for which the reverse kernel is exactly Gaussian.",
        printed: "",
        formula: r"\operatorname{Var}[x_{t-1} | x_t] = \tilde\beta_t + \frac{\bar\alpha_{t-1} \beta_t^2}{(1 - \bar\alpha_t)^2}
        \frac{\lambda (1 - \bar\alpha_t)}{\bar\alpha_t \lambda + 1 - \bar\alpha_t} = \beta_t \quad \text{for} \quad \lambda = 1",
        finding: "beta_t is the exact reverse variance if the data are white with unit variance and t > 1; the posterior's beta~_t \
        is exact for data that are a single point, and variances between 0 and 1 lie between the two. For a point, beta_t is 2.2 \
        times too much at t = 2 of DDPM's schedule; for data of variance 4 it is too little, by 0.33 percent at t = 300. At t = 1 \
        no noise is right for a point only: unit variance would need beta_1. A sampler that skips steps needs the variance of its \
        own stride.",
        mutants: &[
            "beta~ for beta",
            "beta of the step before",
            "beta as the deviation",
            "root of ln beta as the deviation",
            "beta of one step for a longer stride",
            "learned range interpolated without the logarithm",
        ],
        check: |p| {
            let (tilde, early) = (p.mutant("beta~ for beta"), p.mutant("beta of the step before"));
            let (deviation, stride) = (
                p.mutant("beta as the deviation"),
                p.mutant("beta of one step for a longer stride"),
            );
            let (logarithm, linear) = (
                p.mutant("root of ln beta as the deviation"),
                p.mutant("learned range interpolated without the logarithm"),
            );
            p.property(
                WithCondition,
                "sigma_t^2 against the exact reverse variance, data of unit variance, t > 1",
                128,
                "rounding of variances up to 1 that cancel",
                |t| {
                    let table = t.table(t.int(3, 100));
                    let step = t.int(2, table.steps());
                    let row = &table.rows()[step - 1];
                    let sigma = if tilde {
                        row.posterior_var.sqrt()
                    } else if early {
                        table.rows()[step - 2].beta.sqrt()
                    } else if deviation {
                        row.beta
                    } else if logarithm {
                        row.beta.ln().sqrt()
                    } else {
                        row.beta.sqrt()
                    };
                    t.compare(sigma * sigma, reverse_var(1.0, &table, step - 1, step), 32.0 * EPS);
                },
            );
            p.property(
                WithCondition,
                "The forward variance of any stride against the exact reverse variance, data of unit variance",
                128,
                "rounding of variances up to 1",
                |t| {
                    let table = t.table(t.int(4, 100));
                    let to = t.int(1, table.steps() - 2);
                    let from = t.int(to + 2, table.steps());
                    let q = Transition::between(level(&table, to), level(&table, from)).expect("a table's SNR falls");
                    let var = if stride { table.rows()[from - 1].beta } else { q.var };
                    t.compare(var, reverse_var(1.0, &table, to, from), 64.0 * EPS);
                },
            );
            p.property(
                WithCondition,
                "beta~_t plus what is not known of x0, against the exact reverse variance, any variance of the data",
                128,
                "rounding of variances that cancel",
                |t| {
                    let table = t.table(t.int(3, 100));
                    let step = t.int(2, table.steps());
                    let row = &table.rows()[step - 1];
                    let lambda = if t.int(0, 3) == 0 { 0.0 } else { t.log_uniform(0.01, 10.0) };
                    let got = row.posterior_var + row.posterior_coef_x0.powi(2) * mmse(lambda, (row.alpha, row.sigma));
                    t.compare(got, reverse_var(lambda, &table, step - 1, step), 64.0 * EPS * (1.0 + lambda));
                },
            );
            p.property(
                WithCondition,
                "Learned range beta^v beta~^(1 - v), data of variance between 0 and 1: the v of the exact variance, and the bound with it",
                96,
                "rounding of the two logarithms; v lies in 0..1",
                |t| {
                    let table = t.table(t.int(3, 100));
                    let step = t.int(2, table.steps());
                    let (row, lambda) = (&table.rows()[step - 1], t.uniform(0.05, 0.95));
                    let exact = reverse_var(lambda, &table, step - 1, step);
                    let v = if linear {
                        (exact - row.posterior_var) / (row.beta - row.posterior_var)
                    } else {
                        (exact / row.posterior_var).ln() / (row.beta / row.posterior_var).ln()
                    };
                    let points = [still(&table, step - 1), still(&table, step)];
                    let bound = |var: ReverseVar| {
                        let data = GaussianData { variances: &[lambda], mean_square: 0.0 };
                        let reverse = Reverse { var, reconstruction: Reconstruction::Gaussian(1.0), prior_var: 1.0 };
                        let best = |at: &PathPoint, lambda: f64| mmse(lambda, (at.alpha, at.sigma));
                        gaussian_bound(&points, data, best, &reverse).expect("two points").nats()
                    };
                    t.compare(v, 0.5, 0.5 + 1e-6);
                    t.compare(bound(ReverseVar::Interpolated(v)), bound(ReverseVar::Given(vec![exact])), 1e-13);
                },
            );
            let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            for (lambda, data, step) in
                [(0.0, "data that are one point", 2), (4.0, "data of variance 4", 300)]
            {
                let ratio =
                    table.rows()[step - 1].beta / reverse_var(lambda, &table, step - 1, step);
                let what = format!(
                    "sigma_t^2 over the exact reverse variance at t = {step} of DDPM's schedule, {data}"
                );
                p.number(WithoutCondition, what, ratio, 1.0, 1e-9, "equal variances");
            }
            p.number(
                WithoutCondition,
                "sigma_1^2 for data of unit variance, against the exact reverse variance",
                0.0,
                reverse_var(1.0, &table, 0, 1),
                1e-12,
                "equal variances",
            );
        },
    },
    Claim {
        id: "sjtu/one-nfe-per-step",
        slide: "DDPM Sampling - Walk the Chain Backwards",
        statement: "T = 1000 means 1000 network evaluations for each sample.",
        reading: "",
        assumes: "The ancestral sampler of the slide, which visits every step; one evaluation serves a whole batch.",
        printed: "",
        formula: r"\operatorname{NFE} = T",
        finding: "It holds: the sampler calls the denoiser once a step, the last one included. Classifier-free guidance doubles \
        the number, second-order methods spend two calls a step.",
        mutants: &["every second step skipped", "loop ends at t = 2", "two calls a step"],
        check: |p| {
            let (skipped, short, heun) = (
                p.mutant("every second step skipped"),
                p.mutant("loop ends at t = 2"),
                p.mutant("two calls a step"),
            );
            let calls = move |table: &Table| {
                let law = Counted {
                    law: Gaussian::isotropic(array![0.5], 0.3).expect("a variance"),
                    calls: AtomicUsize::new(0),
                };
                let first = usize::from(short);
                let grid: Vec<_> = (first..=table.steps())
                    .rev()
                    .step_by(if skipped { 2 } else { 1 })
                    .map(|step| still(table, step))
                    .collect();
                let sampler: &dyn Sampler =
                    if heun { &Heun::DETERMINISTIC } else { &Ddpm { variance: Variance::Beta } };
                let end = sample(sampler, &law, &grid, array![[0.3]], &mut Silence)
                    .expect("a grid from noise to data");
                (law.calls.load(Ordering::Relaxed) as f64, end.nfe as f64)
            };
            let (counted, _) =
                calls(&Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas"));
            p.number(
                Printed,
                "Calls of the denoiser over the 1000 steps of DDPM's schedule",
                counted,
                1000.0,
                0.0,
                "a count",
            );
            p.property(
                Printed,
                "Calls over any schedule of T steps, and the sampler's own count",
                24,
                "counts",
                |t| {
                    let steps = t.int(2, 60);
                    let (counted, own) = calls(&t.table(steps));
                    t.compare(counted, steps as f64, 0.0);
                    t.compare(own, counted, 0.0);
                },
            );
        },
    },
];

/// Var[x_to | x_from] for data of variance lambda, by conditioning the pair; clean data at
/// `to = 0`.
fn reverse_var(lambda: f64, table: &Table, to: usize, from: usize) -> f64 {
    let (s, u) = (level(table, to), level(table, from));
    let rows = &table.rows()[to..from];
    let (scale, var) = rows.iter().fold((1.0, 0.0), |(scale, var), row| {
        (scale * row.alpha_step.sqrt(), var * row.alpha_step + row.beta)
    });
    let start = s.alpha * s.alpha * lambda + s.sigma * s.sigma;
    let x = Normal::new(dvector![0.0], Covariance::Isotropic(start)).expect("a variance");
    let joint =
        x.joint(&dmatrix![scale], &dvector![0.0], Covariance::Isotropic(var)).expect("a kernel");
    assert!(u.sigma > 0.0, "x_t has noise");
    joint.condition(&[1], &[0.0]).expect("x_t has variance").cov_matrix()[(0, 0)]
}

/// A law that counts how often it is asked.
struct Counted {
    law: Gaussian,
    calls: AtomicUsize,
}

impl Denoiser for Counted {
    fn dim(&self) -> usize {
        Denoiser::dim(&self.law)
    }

    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.law.denoise(x, at, out)
    }
}
