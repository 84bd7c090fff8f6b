//! The closed form of the forward process and what the deck says follows from it.

use super::forward::level;
use crate::chain::{Model, Step, joint, kernels, steps_of};
use crate::{Claim, Probe, Role};
use nalgebra::DVector;
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::Part;
use tweedie::diffusion::kernel::Posterior;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::exact::likelihood::{log_det, log_likelihood_solve};
use tweedie::exact::pf_ode::pf_ode_map;
use tweedie::law::gaussian::wiener_gain;
use tweedie::law::{Gaussian, Law, mixture::Mixture};
use tweedie::math::smaller;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/direct-sampling",
        slide: "Cumulative Effect",
        statement: "x_t = sqrt(abar_t) x0 + sqrt(1 - abar_t) eps jumps from x0 to any t.",
        reading: "",
        assumes: "DDPM tables of four kinds; abar_t the product of 1 - beta up to t.",
        printed: "",
        formula: r"x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1-\bar\alpha_t}\,\varepsilon, \qquad \bar\alpha_t = \prod_{i=1}^{t} \alpha_i",
        finding: "Same law as t steps of the chain, and the same state for the eps that gathers the steps' noises, which is standard normal. A jump has the law of one x_t; jumps to two times with fresh noise are not a path of the chain.",
        mutants: &["alpha_t for abar_t", "root of abar_t left out", "product one step short"],
        check: direct_sampling,
    },
    Claim {
        id: "ghent/mean-preservation",
        slide: "Mathematical Properties",
        statement: "Mean preservation: E[x_t] = sqrt(abar_t) x0.",
        reading: "The card's heading is part of the statement.",
        assumes: "DDPM tables of four kinds; data with a mean.",
        printed: "",
        formula: r"\mathbb{E}[x_t \mid x_0] = \sqrt{\bar\alpha_t}\,x_0, \qquad \mathbb{E}[x_t] = \sqrt{\bar\alpha_t}\,\mathbb{E}[x_0]",
        finding: "The formula holds if x0 is given; over the data it is E[x0] that shrinks by the same factor. The mean is preserved, as the heading says, only if it is 0: otherwise it decays, to 0.64 % at the end of the linear schedule.",
        mutants: &[
            "root of abar_t left out",
            "alpha_t for abar_t",
            "sqrt(1 - abar_t) for sqrt(abar_t)",
        ],
        check: mean_preservation,
    },
    Claim {
        id: "ghent/variance-growth",
        slide: "Mathematical Properties",
        statement: "Variance growth: Var[x_t] = (1 - abar_t) I.",
        reading: "",
        assumes: "DDPM tables of four kinds; Gaussian data.",
        printed: "",
        formula: r"\mathrm{Var}[x_t \mid x_0] = (1-\bar\alpha_t)\,I, \qquad \mathrm{Var}[x_t] = \bar\alpha_t\,\mathrm{Var}[x_0] + (1-\bar\alpha_t)\,I",
        finding: "It holds if x0 is given: it is the variance of q(x_t|x0), and grows with t. The law of x_t over all data keeps a share of theirs: its variance stays 1 for data of variance 1, and falls for data of variance 4, from 4 to 1.",
        mutants: &["deviation for variance", "alpha_t for abar_t", "abar_t for 1 - abar_t"],
        check: variance_growth,
    },
    Claim {
        id: "ghent/exact-likelihood",
        slide: "Mathematical Properties",
        statement: "log p(x0) is at least the ELBO, and the exact log-likelihood can be computed.",
        reading: "",
        assumes: "For the bound: any linear-Gaussian reverse chain. For the exact value: the exact score, Gaussian and mixture data.",
        printed: "",
        formula: r"\log p(x_0) = ELBO + KL\left(q(x_{1:T} \mid x_0) \,\|\, p(x_{1:T} \mid x_0)\right), \qquad \log p(x_0) = \log p_T(x_T) + \log\left|\det \frac{\partial x_T}{\partial x_0}\right|",
        finding: "The inequality holds, and the gap is a divergence of the latents that the ELBO does not know. An exact value can be computed if it is taken from the probability-flow ODE by change of variables, which is the likelihood of that ODE's model. From the chain's bound it cannot: with the exact denoiser, posterior variances and 20 cosine steps the bound misses 0.79 nats at a datum one deviation from the mean.",
        mutants: &[
            "log-determinant left out",
            "N(0, I) for the marginal at the end",
            "prior term left out",
        ],
        check: exact_likelihood,
    },
];

fn direct_sampling(p: &mut Probe) {
    let (step, no_root) = (p.mutant("alpha_t for abar_t"), p.mutant("root of abar_t left out"));
    let short = p.mutant("product one step short");
    // (mean factor, noise factor) as the slide has them.
    let jump = |table: &Table, t: usize| {
        let row = table.rows()[t - 1];
        let bar = match () {
            _ if step => row.alpha_step,
            _ if short => level(table, t - 1).alpha.powi(2),
            _ => row.alpha_bar,
        };
        (if no_root { bar } else { bar.sqrt() }, (1.0 - bar).sqrt())
    };
    let why = "up to 12 rounded steps";
    p.property(
        Role::Printed,
        "mean and variance of the jump against the joint law of the chain",
        128,
        why,
        |t| {
            let table = t.table(t.int(2, 12));
            let (time, x0) = (t.int(1, table.steps()), t.normal());
            let chain: Vec<Step> = table.rows()[..time]
                .iter()
                .map(|r| Step::new(r.alpha_step.sqrt(), r.beta))
                .collect();
            let law = joint(x0, 0.0, &chain);
            let (scale, std) = jump(&table, time);
            t.compare(scale * x0, law.mean()[time], 64.0 * EPS * x0.abs());
            t.compare(std * std, law.cov_matrix()[(time, time)], 64.0 * EPS);
        },
    );
    let why = "up to 100 rounded steps; 1 - abar_t is formed from a rounded abar_t, so its root is off by eps / sqrt(1 - abar_t)";
    p.property(
        Role::Printed,
        "the state itself: t steps against one jump with the steps' noises gathered",
        128,
        why,
        |t| {
            let table = t.table(t.int(2, 100));
            let (time, x0) = (t.int(1, table.steps()), t.normal());
            let (mut x, mut gathered, mut weights) = (x0, 0.0, 0.0);
            for r in &table.rows()[..time] {
                let eps = t.normal();
                x = r.alpha_step.sqrt() * x + r.beta.sqrt() * eps;
                gathered = r.alpha_step.sqrt() * gathered + r.beta.sqrt() * eps;
                weights = r.alpha_step * weights + r.beta;
            }
            // Squared weights that add up to 1 make the gathered noise standard normal.
            let eps = gathered / weights.sqrt();
            let (scale, std) = jump(&table, time);
            t.compare(
                scale * x0 + std * eps,
                x,
                4.0 * EPS * time as f64 * (1.0 + x0.abs() + eps.abs() * (1.0 + std.recip())),
            );
            t.compare(weights, std * std, 4.0 * EPS * time as f64);
        },
    );
}

fn mean_preservation(p: &mut Probe) {
    let (no_root, step) = (p.mutant("root of abar_t left out"), p.mutant("alpha_t for abar_t"));
    let noise = p.mutant("sqrt(1 - abar_t) for sqrt(abar_t)");
    let factor = |table: &Table, t: usize| {
        let row = table.rows()[t - 1];
        match () {
            _ if no_root => row.alpha_bar,
            _ if step => row.alpha_step.sqrt(),
            _ if noise => row.sigma,
            _ => row.alpha,
        }
    };
    // The chain from x0 ~ N(mean, var), with its step kernels alone.
    let chain = |table: &Table, t: usize, mean: f64, var: f64| {
        let steps: Vec<Step> =
            table.rows()[..t].iter().map(|r| Step::new(r.alpha_step.sqrt(), r.beta)).collect();
        joint(mean, var, &steps).mean()[t]
    };
    let why = "up to 12 rounded steps";
    p.property(
        Role::WithCondition,
        "x0 given: sqrt(abar_t) x0 against the mean of t steps",
        128,
        why,
        |t| {
            let table = t.table(t.int(2, 12));
            let (time, x0) = (t.int(1, table.steps()), 2.0 * t.normal());
            t.compare(
                factor(&table, time) * x0,
                chain(&table, time, x0, 0.0),
                64.0 * EPS * x0.abs(),
            );
        },
    );
    p.property(
        Role::WithCondition,
        "data of mean 0: the mean is preserved",
        64,
        "exact: 0 times any factor",
        |t| {
            let table = t.table(t.int(2, 12));
            t.compare(chain(&table, table.steps(), 0.0, t.log_uniform(0.1, 10.0)), 0.0, 0.0);
        },
    );
    p.property(
        Role::WithoutCondition,
        "x0 drawn from data of mean m: sqrt(abar_t) x0 against the mean of x_t",
        64,
        why,
        |t| {
            let table = t.table(t.int(2, 12));
            let (time, mean, std) = (t.int(1, table.steps()), t.normal(), t.log_uniform(0.3, 3.0));
            let x0 = mean + std * t.normal();
            t.compare(
                factor(&table, time) * x0,
                chain(&table, time, mean, std * std),
                64.0 * EPS * (x0.abs() + mean.abs()),
            );
        },
    );
    let ddpm = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's schedule");
    let why = "1 if preserved";
    p.number(
        Role::WithoutCondition,
        "linear schedule: E[x_1000] for each unit of E[x_0]",
        factor(&ddpm, 1000),
        1.0,
        1e-3,
        why,
    );
}

fn variance_growth(p: &mut Probe) {
    let (root, step) = (p.mutant("deviation for variance"), p.mutant("alpha_t for abar_t"));
    let signal = p.mutant("abar_t for 1 - abar_t");
    let printed = |table: &Table, t: usize| {
        let row = table.rows()[t - 1];
        let var = if step { 1.0 - row.alpha_step } else { 1.0 - row.alpha_bar };
        match () {
            _ if root => var.sqrt(),
            _ if signal => row.alpha_bar,
            _ => var,
        }
    };
    let chain = |table: &Table, t: usize, var: f64| {
        let steps: Vec<Step> =
            table.rows()[..t].iter().map(|r| Step::new(r.alpha_step.sqrt(), r.beta)).collect();
        joint(0.3, var, &steps).cov_matrix()[(t, t)]
    };
    let why = "up to 12 rounded steps";
    p.property(
        Role::WithCondition,
        "x0 given: 1 - abar_t against the variance after t steps",
        128,
        why,
        |t| {
            let table = t.table(t.int(2, 12));
            let time = t.int(1, table.steps());
            t.compare(printed(&table, time), chain(&table, time, 0.0), 64.0 * EPS);
        },
    );
    p.property(
        Role::WithCondition,
        "x0 given: the least growth of the variance over all steps is not negative",
        64,
        "f64 roundings of 1 - abar",
        |t| {
            let table = t.table(t.int(2, 200));
            let least = (2..=table.steps())
                .map(|k| printed(&table, k) - printed(&table, k - 1))
                .fold(f64::INFINITY, smaller);
            t.compare(least.min(0.0), 0.0, EPS);
        },
    );
    p.property(
        Role::WithoutCondition,
        "x0 drawn from data of variance 0.1 to 10: the same against the variance of x_t",
        64,
        why,
        |t| {
            let table = t.table(t.int(2, 12));
            let time = t.int(1, table.steps());
            t.compare(
                printed(&table, time),
                chain(&table, time, t.log_uniform(0.1, 10.0)),
                64.0 * EPS * 10.0,
            );
        },
    );
    let table = Table::new(Schedule::Linear { beta_start: 0.01, beta_end: 0.5 }, 12, false)
        .expect("a valid schedule");
    let over = |lambda: f64| {
        (0..=12).map(|t| if t == 0 { lambda } else { chain(&table, t, lambda) }).collect::<Vec<_>>()
    };
    let why = "1 - abar, if it were the variance over the data";
    let half = table.rows().iter().position(|r| r.alpha_bar < 0.5).expect("ends near 0") + 1;
    p.number(
        Role::WithoutCondition,
        format!("data of variance 1, step {half}: variance of x_t"),
        over(1.0)[half],
        printed(&table, half),
        1e-3,
        why,
    );
    p.fact(
        Role::WithoutCondition,
        "data of variance 4: the variance of x_t grows",
        over(4.0).windows(2).all(|w| w[1] > w[0]),
    );
}

fn exact_likelihood(p: &mut Probe) {
    let (no_det, wrong_end) =
        (p.mutant("log-determinant left out"), p.mutant("N(0, I) for the marginal at the end"));
    let no_prior = p.mutant("prior term left out");
    let elbo = |model: &Model, x0: f64| {
        let bound = model.bound(x0);
        -(bound.nats() - if no_prior { bound.part(Part::Prior) } else { 0.0 })
    };
    // (ln p(x0), KL of the latents given x0) of a model, by its joint Gaussian.
    let exact = |model: &Model, x0: f64| {
        let steps = model.levels.len();
        let law = model.joint();
        let evidence = law
            .marginal(&[steps])
            .and_then(|l| l.log_density(&DVector::from_element(1, x0)))
            .expect("a density");
        let latents: Vec<usize> = (1..=steps).rev().collect();
        let forward =
            joint(x0, 0.0, &steps_of(&kernels(&model.levels))).marginal(&latents).expect("a law");
        (
            evidence,
            forward
                .kl(&law.condition(&[steps], &[x0]).expect("x0 has variance"))
                .expect("one dimension"),
        )
    };
    let why = "dense inverses of chains whose steps share little fresh noise: eps over the smallest share, times the terms' size";
    let slack = |model: &Model, nats: f64| {
        let least = kernels(&model.levels).iter().map(|q| q.var).fold(1.0, smaller);
        512.0 * EPS * (model.levels.len() as f64 + nats.abs()) / least
    };
    p.property(
        Role::Printed,
        "log p(x0) - ELBO of a random reverse chain, against the KL of the latents given x0",
        128,
        why,
        |t| {
            let (model, x0) = (Model::draw(t, t.int(2, 6)), t.normal());
            let (evidence, gap) = exact(&model, x0);
            let bound = elbo(&model, x0);
            t.compare(evidence - bound, gap, slack(&model, bound));
            // Not negative, up to the same rounding.
            t.compare((evidence - bound).min(0.0), 0.0, slack(&model, bound));
        },
    );

    let flow = |law: &Gaussian, x: &ndarray::Array2<f64>, end: &PathPoint| {
        let start = PathPoint::CLEAN;
        let image = pf_ode_map(law, x.view(), start, end).expect("full rank");
        let at_end = if wrong_end {
            let standard =
                Gaussian::isotropic(ndarray::Array1::zeros(law.dim()), 1.0).expect("a variance");
            standard.log_density(image.view(), &start)[0]
        } else {
            law.log_density(image.view(), end)[0]
        };
        at_end + if no_det { 0.0 } else { log_det(law, start, end).expect("full rank") }
    };
    p.property(
        Role::WithCondition,
        "PF-ODE, Gaussian data: change of variables against the log density",
        128,
        "sums of d logarithms",
        |t| {
            let law = t.gaussian(4);
            let x = law.sample(1, &t.noise());
            let end = t.path().still_at(t.uniform(0.3, 0.95)).expect("inside the path");
            let want = law.log_density(x.view(), &PathPoint::CLEAN)[0];
            t.compare(flow(&law, &x, &end), want, 1e-11 * (1.0 + want.abs()));
        },
    );
    let why = "the reference integrator's 1e-12, over some 10 nats";
    p.property(
        Role::WithCondition,
        "PF-ODE, mixture data at sigma = 0.05: the integrated log-determinant against the log density",
        4,
        why,
        |t| {
            let law: Mixture = t.mixture(2, 2);
            let x = law.sample(1, &t.noise());
            // Not from sigma = 0: the integrator wants a law that is known to have a density.
            let (start, end) = (PathPoint::still(1.0, 0.05), PathPoint::still(0.6, 0.8));
            let got = log_likelihood_solve(&law, x.view(), &start, &end).expect("a smooth law")[0];
            t.compare(got, law.log_density(x.view(), &start)[0], 1e-8);
        },
    );
    let table = Table::new(Schedule::COSINE, 20, false).expect("a valid schedule");
    let levels: Vec<Level<f64>> = (1..=20).map(|t| level(&table, t)).collect();
    let model = wiener_model(levels, 0.25);
    // One standard deviation from the mean.
    let x0 = 0.5;
    let (evidence, _) = exact(&model, x0);
    let why = "0 if the bound were the likelihood; nats";
    p.number(
        Role::WithoutCondition,
        "20 cosine steps, exact denoiser, posterior variances: log p(x0) - ELBO",
        evidence - elbo(&model, x0),
        0.0,
        1e-3,
        why,
    );
}

/// The exact denoiser of data `N(0, lambda)` with the posterior's variances, and the best one for
/// the last step.
fn wiener_model(levels: Vec<Level<f64>>, lambda: f64) -> Model {
    let gains = levels.iter().map(|l| wiener_gain(lambda, l.alpha, l.sigma)).collect();
    let mut vars = vec![
        lambda * levels[0].sigma.powi(2)
            / (levels[0].alpha.powi(2) * lambda + levels[0].sigma.powi(2)),
    ];
    vars.extend(
        levels.windows(2).map(|w| Posterior::between(w[0], w[1]).expect("noise grows").var),
    );
    Model { shifts: vec![0.0; levels.len()], gains, vars, prior_var: 1.0, levels }
}
