//! The forward chain: one step, all steps at once, and where it ends.

use super::level;
use crate::Claim;
use crate::Role::{Printed, WithCondition, WithoutCondition};
use nalgebra::{DMatrix, DVector};
use std::f64::consts::{FRAC_1_SQRT_2, PI};
use tweedie::diffusion::elbo::prior;
use tweedie::diffusion::kernel::Transition;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::math::gaussian::{Covariance, Normal};
use tweedie::math::quadrature::NormalRule;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "sjtu/forward-kernel-variance-preserving",
        slide: "The Forward Markov Chain",
        statement: "One forward step keeps unit variance: if every coordinate of x_{t-1} has variance 1, so has every coordinate \
        of x_t.",
        reading: "",
        assumes: "The step's noise is independent of x_{t-1}; the coordinates of x_{t-1} may be correlated.",
        printed: "",
        formula: r"\operatorname{Var}[x_t] = (1 - \beta_t) \operatorname{Var}[x_{t-1}] + \beta_t = 1",
        finding: "It holds for any beta_t and any correlations, because the squares of the two coefficients add up to 1. A \
        variance other than 1 comes closer: its distance from 1 shrinks by the factor 1 - beta_t in each step.",
        mutants: &[
            "signal scaled by 1 - beta without the root",
            "beta as the deviation of the noise",
            "deviation for variance",
        ],
        check: |p| {
            let (unrooted, squared) = (
                p.mutant("signal scaled by 1 - beta without the root"),
                p.mutant("beta as the deviation of the noise"),
            );
            let rooted_noise = p.mutant("deviation for variance");
            p.property(
                Printed,
                "Variances of x_t, those of x_{t-1} being 1",
                128,
                "a few roundings of numbers up to 1",
                |t| {
                    let table = t.table(t.int(2, 50));
                    let row = &table.rows()[t.int(1, table.steps()) - 1];
                    let scale = if unrooted { row.alpha_step } else { row.alpha_step.sqrt() };
                    let var = if squared {
                        row.beta * row.beta
                    } else if rooted_noise {
                        row.beta.sqrt()
                    } else {
                        row.beta
                    };
                    let d = t.int(1, 5);
                    let after = one_step(&unit_variances(t, d), scale, var);
                    t.compare_all(after.diagonal().iter(), &vec![1.0; d], 16.0 * EPS);
                },
            );
            p.property(
                Printed,
                "The kernel between two rows of a table against sqrt(1 - beta) and beta",
                128,
                "rounding of the rows' coefficients",
                |t| {
                    let table = t.table(t.int(2, 200));
                    let step = t.int(1, table.steps());
                    let row = &table.rows()[step - 1];
                    let q = Transition::between(level(&table, step - 1), level(&table, step))
                        .expect("a table's SNR falls");
                    t.compare_rel(
                        if unrooted { q.scale * q.scale } else { q.scale },
                        row.alpha_step.sqrt(),
                        8.0,
                    );
                    let var = if squared {
                        q.var * q.var
                    } else if rooted_noise {
                        q.var.sqrt()
                    } else {
                        q.var
                    };
                    t.compare(var, row.beta, 16.0 * EPS);
                },
            );
            p.property(
                Printed,
                "Distance of any other variance from 1, against 1 - beta times the old distance",
                128,
                "rounding of variances up to 10",
                |t| {
                    let table = t.table(t.int(2, 50));
                    let row = &table.rows()[t.int(1, table.steps()) - 1];
                    let before = t.log_uniform(0.01, 10.0);
                    let q = Transition { scale: row.alpha_step.sqrt(), var: row.beta };
                    t.compare(
                        q.scale * q.scale * before + q.var - 1.0,
                        (1.0 - row.beta) * (before - 1.0),
                        16.0 * EPS * (1.0 + before),
                    );
                },
            );
        },
    },
    Claim {
        id: "sjtu/forward-marginal",
        slide: "The \"Nice Property\": Skip Ahead in Closed Form",
        statement: "Composing the first t kernels gives a Gaussian with mean sqrt(alpha_bar_t) x0 and variance 1 - alpha_bar_t.",
        reading: "",
        assumes: "alpha_bar_t is the product of 1 - beta_s over s = 1..t.",
        printed: "",
        formula: r"q(x_t | x_0) = \mathcal{N}\left(x_t; \sqrt{\bar\alpha_t}\, x_0, (1 - \bar\alpha_t) I\right)",
        finding: "It holds for every schedule: the steps composed one after the other give the tabulated coefficients, and the \
        integral over the state in between gives the density.",
        mutants: &[
            "missing bar",
            "alpha_bar off by one step",
            "root of alpha_bar dropped",
            "variance as the sum of the betas",
        ],
        check: |p| {
            let (bar, early) = (p.mutant("missing bar"), p.mutant("alpha_bar off by one step"));
            let (unrooted, summed) = (
                p.mutant("root of alpha_bar dropped"),
                p.mutant("variance as the sum of the betas"),
            );
            p.property(
                Printed,
                "Coefficient and variance of the table against the steps composed one by one",
                128,
                "4 roundings a step",
                |t| {
                    let table = t.table(t.int(2, 120));
                    let steps = t.int(2, table.steps());
                    let rows = &table.rows()[..steps];
                    let one = |beta: f64| Transition { scale: (1.0 - beta).sqrt(), var: beta };
                    let all = rows[1..]
                        .iter()
                        .fold(one(rows[0].beta), |all, row| all.then(one(row.beta)));
                    let row = if early { rows[steps - 2] } else { rows[steps - 1] };
                    let alpha = if bar {
                        row.alpha_step.sqrt()
                    } else if unrooted {
                        row.alpha_bar
                    } else {
                        row.alpha
                    };
                    let var = if bar {
                        row.beta
                    } else if summed {
                        rows.iter().map(|r| r.beta).sum()
                    } else {
                        row.sigma * row.sigma
                    };
                    // Relative to 1: a step of beta = 0.999 leaves a signal of which 1 - beta has
                    // lost digits.
                    t.compare(alpha, all.scale, 4.0 * EPS * steps as f64);
                    t.compare(var, all.var, 4.0 * EPS * steps as f64);
                },
            );
            let rule = NormalRule::new(64).expect("64 nodes");
            p.property(
                Printed,
                "Density of two steps, integrated over the state between them",
                64,
                "64 Gauss-Hermite nodes, converged to rounding",
                |t| {
                    // With an alpha_step of 0.3 to 0.6 between the two levels the integrand is no
                    // narrower than the rule's weight.
                    let (kept, step) = (t.uniform(0.5, 0.9), t.uniform(0.3, 0.6));
                    let at =
                        |alpha_bar: f64| Level::new(alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt());
                    let (s, u) = (at(kept), at(kept * step));
                    let first = Transition::between(Level::CLEAN, s).expect("from clean data");
                    let then = Transition::between(s, u).expect("to a noisier level");
                    let (x0, xt) = (t.uniform(-2.0, 2.0), t.uniform(-2.0, 2.0));
                    let composed = rule
                        .expectation(first.mean(x0), first.var, |x| then.log_density(xt, x).exp());
                    let direct = if early {
                        first
                    } else {
                        Transition::between(Level::CLEAN, u).expect("from clean data")
                    };
                    t.compare(direct.log_density(xt, x0).exp(), composed, 1e-13);
                },
            );
        },
    },
    Claim {
        id: "sjtu/forward-reparameterized",
        slide: "The \"Nice Property\": Skip Ahead in Closed Form",
        statement: "x_t = sqrt(alpha_bar_t) x0 + sqrt(1 - alpha_bar_t) eps with one standard normal eps has the law of the chain's \
        x_t, at a cost that does not grow with t.",
        reading: "",
        assumes: "The noises of the steps are independent standard normals.",
        printed: "",
        formula: r"x_t = \sqrt{\bar\alpha_t}\, x_0 + \sqrt{1 - \bar\alpha_t}\, \varepsilon, \quad \varepsilon = \sum_{s=1}^t
        \frac{c_s}{\sqrt{1 - \bar\alpha_t}} z_s, \quad \sum_{s=1}^t c_s^2 = 1 - \bar\alpha_t",
        finding: "It holds, and not only in law: the noises of a simulated chain add up to one eps of unit variance with which the \
        closed form gives the very same x_t. That one draw of eps replaces t of them, with the products alpha_bar tabulated, is read off the \
        formula.",
        mutants: &[
            "variance for deviation",
            "root of alpha_bar dropped",
            "noise of the last step alone",
        ],
        check: |p| {
            let (squared, unrooted) =
                (p.mutant("variance for deviation"), p.mutant("root of alpha_bar dropped"));
            let last_alone = p.mutant("noise of the last step alone");
            p.property(
                Printed,
                "x_t in one go against the chain simulated with noises that add up to the same eps",
                128,
                "a few roundings a step",
                |t| {
                    let table = t.table(t.int(2, 100));
                    let steps = t.int(1, table.steps());
                    let x0 = t.uniform(-3.0, 3.0);
                    let (mut x, mut noise, mut weight, mut z) = (x0, 0.0, 0.0, 0.0);
                    for row in &table.rows()[..steps] {
                        let (keep, add) = (row.alpha_step.sqrt(), row.beta.sqrt());
                        z = t.normal();
                        x = keep * x + add * z;
                        noise = keep * noise + add * z;
                        // Sum of the squares of the weights c_s, so that eps = noise / sigma has
                        // this variance over sigma^2.
                        weight = row.alpha_step * weight + row.beta;
                    }
                    let row = &table.rows()[steps - 1];
                    let (alpha, sigma) = (
                        if unrooted { row.alpha_bar } else { row.alpha },
                        if squared { row.sigma * row.sigma } else { row.sigma },
                    );
                    let eps = if last_alone { z } else { noise / row.sigma };
                    t.compare(
                        alpha * x0 + sigma * eps,
                        x,
                        8.0 * EPS * steps as f64 * (3.0 + noise.abs()),
                    );
                    t.compare(sigma * sigma, weight, 8.0 * EPS * steps as f64);
                },
            );
        },
    },
    Claim {
        id: "sjtu/terminal-standard-gaussian",
        slide: "Where Do We End Up?",
        statement: "The forward process always ends at the standard Gaussian, whatever x0.",
        reading: "",
        assumes: "Closeness is measured by KL(q(x_T|x0) || N(0, I)), which is zero only for equal laws; 1e-9 nats cannot be told \
        from 0 by fewer than some 1e9 samples.",
        printed: "",
        formula: r"\operatorname{KL} = \frac{1}{2}\left(\bar\alpha_T \left(\|x_0\|^2 - d\right) - d \ln(1 - \bar\alpha_T)\right)
        \to 0 \quad \text{if} \quad \bar\alpha_T \to 0",
        finding: "It holds in the limit alpha_bar_T to 0, that is if the betas add up to infinity, or exactly with a schedule of \
        zero terminal SNR. At finite T some signal is left: with Stable Diffusion's scaled-linear schedule and T = 1000, 38 nats \
        for a latent of 64 x 64 x 4 numbers of unit size; with DDPM's betas over T = 100 steps 694 nats for 3072 pixels of size 1; \
        and with betas 0.5/t^2 the signal falls with T toward sqrt(sin(pi/sqrt(2)) / (pi/sqrt(2))) = 0.5985 and no further.",
        mutants: &[
            "log of the deviation for that of the variance",
            "alpha_bar as the signal's coefficient",
            "betas with a finite sum",
        ],
        check: |p| {
            let (halved, unrooted) = (
                p.mutant("log of the deviation for that of the variance"),
                p.mutant("alpha_bar as the signal's coefficient"),
            );
            let summable = p.mutant("betas with a finite sum");
            let nats = move |table: &Table, square: f64, d: usize| {
                let last = &table.rows()[table.steps() - 1];
                let signal = if unrooted { last.alpha_bar } else { last.alpha };
                let kl = d as f64 * prior((signal, last.sigma), square / d as f64, 1.0);
                // Misread: half of the log-variance is left out of the divergence.
                if halved { kl + 0.5 * d as f64 * last.sigma.ln() } else { kl }
            };
            p.property(
                WithCondition,
                "KL of a table of any T against the divergence of two dense Gaussians",
                64,
                "rounding of d terms",
                |t| {
                    let table = t.table(t.int(2, 60));
                    let last = &table.rows()[table.steps() - 1];
                    let d = t.int(1, 4);
                    let x0 = DVector::from_fn(d, |_, _| t.uniform(-2.0, 2.0));
                    let end = Normal::new(
                        &x0 * last.alpha,
                        Covariance::Full(DMatrix::identity(d, d) * last.sigma.powi(2)),
                    )
                    .expect("a Gaussian");
                    let unit =
                        Normal::new(DVector::zeros(d), Covariance::Full(DMatrix::identity(d, d)))
                            .expect("a Gaussian");
                    t.compare(
                        nats(&table, x0.norm_squared(), d),
                        end.kl(&unit).expect("one dimension"),
                        64.0 * EPS * (d as f64 + x0.norm_squared()),
                    );
                },
            );
            p.property(
                WithCondition,
                "KL where the betas of any constant size add up to 45",
                32,
                "1e-9 nats; what is left is e^-45 of |x0|^2",
                |t| {
                    let beta = t.log_uniform(0.02, 0.3);
                    let betas: Vec<f64> = (1..=(45.0 / beta) as usize + 1)
                        .map(|k| if summable { beta / (k * k) as f64 } else { beta })
                        .collect();
                    let d = t.int(1, 3072);
                    let square = t.log_uniform(1e-3, 10.0) * d as f64;
                    t.compare(
                        nats(&Table::from_betas(&betas).expect("betas in range"), square, d),
                        0.0,
                        1e-9,
                    );
                },
            );
            p.property(
                WithCondition,
                "KL with a schedule rescaled to zero terminal SNR",
                32,
                "exact",
                |t| {
                    let (beta_start, beta_end) =
                        (t.log_uniform(1e-5, 1e-3), t.log_uniform(1e-2, 0.1));
                    let table =
                        Table::new(Schedule::Linear { beta_start, beta_end }, t.int(2, 100), true)
                            .expect("betas in range");
                    t.compare(nats(&table, t.log_uniform(1e-3, 1e4), 3), 0.0, 0.0);
                },
            );
            let pixels = 3072;
            let long = Table::new(Schedule::LINEAR, 4000, false).expect("DDPM's betas");
            p.number(
                WithCondition,
                "KL for 3072 pixels of size 1 with DDPM's betas over T = 4000",
                nats(&long, 3072.0, pixels),
                0.0,
                1e-9,
                "1e-9 nats",
            );
            let short = Table::new(Schedule::LINEAR, 100, false).expect("DDPM's betas");
            p.number(
                WithoutCondition,
                "The same over T = 100 steps",
                nats(&short, 3072.0, pixels),
                0.0,
                1e-9,
                "1e-9 nats",
            );
            let latent =
                Table::new(Schedule::SCALED_LINEAR, 1000, false).expect("Stable Diffusion's betas");
            let what = "KL for a latent of 64 x 64 x 4 numbers of size 1 with Stable Diffusion's betas over T = 1000";
            p.number(WithoutCondition, what, nats(&latent, 16384.0, 16384), 0.0, 1e-9, "1e-9 nats");
            let finite: Vec<f64> = (1..=20_000).map(|k: usize| 0.5 / (k * k) as f64).collect();
            let faded = Table::from_betas(&finite).expect("betas in range");
            // The product of 1 - a^2/t^2 over all t is sin(pi a)/(pi a).
            let limit = ((PI * FRAC_1_SQRT_2).sin() / (PI * FRAC_1_SQRT_2)).sqrt();
            p.number(
                WithCondition,
                "Signal left of the betas 0.5/t^2 over T = 20000, against its limit",
                faded.rows()[faded.steps() - 1].alpha,
                limit,
                1e-5,
                "the steps from T on add up to 0.5/T, and the signal has half of that",
            );
            p.number(
                WithoutCondition,
                "KL for one number 1 with the betas 0.5/t^2 over T = 20000",
                nats(&faded, 1.0, 1),
                0.0,
                1e-9,
                "1e-9 nats",
            );
        },
    },
];

/// A covariance with unit diagonal and random correlations.
fn unit_variances(t: &crate::Trial, d: usize) -> DMatrix<f64> {
    let rows = DMatrix::from_fn(d, d, |_, _| t.normal());
    let mut cov = DMatrix::from_fn(d, d, |i, j| {
        rows.row(i).dot(&rows.row(j)) / (rows.row(i).norm() * rows.row(j).norm())
    });
    cov.fill_diagonal(1.0);
    cov
}

/// Covariance of `scale x + noise` for x of the given covariance, by the joint law.
fn one_step(cov: &DMatrix<f64>, scale: f64, var: f64) -> DMatrix<f64> {
    let d = cov.nrows();
    let x = Normal::new(DVector::zeros(d), Covariance::Full(cov.clone())).expect("a covariance");
    let joint = x
        .joint(&(DMatrix::identity(d, d) * scale), &DVector::zeros(d), Covariance::Isotropic(var))
        .expect("a kernel");
    joint.marginal(&(d..2 * d).collect::<Vec<_>>()).expect("coordinates of the joint").cov_matrix()
}
