//! The forward chain with unit steps: its marginal and its posterior.

use crate::chain::{Step, joint};
use crate::{Claim, Probe, Role};
use tweedie::diffusion::kernel::{Posterior, Transition, random_walk, random_walk_posterior};
use tweedie::diffusion::level::Level;

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "purdue/random-walk-marginal",
        slide: "Model: The forward process can be collapsed into a single step, i.e., q(x_t|x_0) is known in closed form",
        statement: "Adding standard normal noise t times gives q(x_t|x0) = N(x0, t I).",
        reading: "The scan loses the value of w_mu(t); it is 1, as the simplified kernel N(x_{t-1}, I) below it has x_{t-1} for its mean.",
        assumes: "x_t = x_{t-1} + eps with independent eps ~ N(0, I) in every step (the deck's simplified w_mu(t) = 1 and w_sigma(t) = 1).",
        printed: "",
        formula: r"q(x_t \mid x_0) = \mathcal{N}(x_0,\; t\,I)",
        finding: "Variances of independent steps add: the variance, not the deviation, is t. The marginal agrees with the joint law of the whole walk, built step by step.",
        mutants: &["t as a deviation", "one step short", "steps averaged"],
        check: marginal,
    },
    Claim {
        id: "purdue/random-walk-posterior",
        slide: "Model: The reverse transition conditioned on x_0 is known in closed form",
        statement: "q(x_{t-1}|x_t,x0) = N((1 - 1/t) x_t + (1/t) x0, (1 - 1/t) I).",
        reading: "",
        assumes: "The random walk with unit steps, t >= 1.",
        printed: "",
        formula: r"q(x_{t-1} \mid x_t, x_0) = \mathcal{N}\left(\left(1-\frac{1}{t}\right) x_t + \frac{1}{t}\,x_0,\; \left(1-\frac{1}{t}\right) I\right)",
        finding: "It is a Brownian bridge seen one step before its end; at t = 1 it is the point x0. The general posterior kernel with alpha = 1 and sigma = sqrt(t) gives the same numbers.",
        mutants: &["weights of x_t and x0 swapped", "unit variance", "t off by one"],
        check: posterior,
    },
    Claim {
        id: "purdue/posterior-bayes",
        slide: "Model: The reverse transition conditioned on x_0 is known in closed form",
        statement: "q(x_{t-1}|x_t,x0) = q(x_t|x_{t-1}) q(x_{t-1}|x0) / q(x_t|x0).",
        reading: "The scan of the derivation is garbled; its third line replaces q(x_t|x_{t-1},x0) by q(x_t|x_{t-1}), as the remark on the Markov property beside it says.",
        assumes: "Any Gaussian forward chain, any two times s < t: the deck's walk, and DDPM tables of four kinds.",
        printed: "",
        formula: r"q(x_{t-1} \mid x_t, x_0) = \frac{q(x_t \mid x_{t-1})\, q(x_{t-1} \mid x_0)}{q(x_t \mid x_0)}",
        finding: "Bayes' rule, with x0 dropped from q(x_t|x_{t-1},x0) by the Markov property. All four densities are known in closed form, and the two sides agree pointwise.",
        mutants: &[
            "denominator left out",
            "q(x_t|x0) in the numerator",
            "forward variance for the posterior's",
        ],
        check: bayes,
    },
];

fn marginal(p: &mut Probe) {
    let (as_deviation, short, averaged) =
        (p.mutant("t as a deviation"), p.mutant("one step short"), p.mutant("steps averaged"));
    let level = |steps: usize| {
        let time = steps as f64;
        match () {
            _ if as_deviation => Level::new(1.0, time),
            _ if short => random_walk(time - 1.0),
            _ if averaged => random_walk(1.0 / time),
            _ => random_walk(time),
        }
    };
    let why = "means and sums of unit variances are exact; sigma = sqrt(t) is squared again, 2 ulp";
    p.property(
        Role::Printed,
        "mean and variance of x_t: closed form against the joint law of the walk",
        128,
        why,
        |t| {
            let (x0, steps) = (3.0 * t.normal(), t.int(2, 40));
            let q = Transition::between(Level::CLEAN, level(steps)).expect("noise grows");
            let walk = joint(x0, 0.0, &vec![Step::new(1.0, 1.0); steps]);
            t.compare(q.mean(x0), walk.mean()[steps], 0.0);
            t.compare_rel(q.var, walk.cov_matrix()[(steps, steps)], 4.0);
        },
    );
    let why = "variances of up to 1000 steps added one by one, half an ulp each at most";
    p.property(
        Role::Printed,
        "the kernel of t steps against t kernels of one step, one after the other",
        64,
        why,
        |t| {
            let steps = t.int(2, 1000);
            let q = Transition::between(Level::CLEAN, level(steps)).expect("noise grows");
            let step = |s: f64| {
                Transition::between(random_walk(s), random_walk(s + 1.0)).expect("noise grows")
            };
            let walk = (1..steps).fold(step(0.0), |q, s| q.then(step(s as f64)));
            t.compare(q.scale, walk.scale, 0.0);
            // A step's variance is a difference of squared roots near t.
            t.compare_rel(q.var, walk.var, 8.0 * steps as f64);
        },
    );
}

fn posterior(p: &mut Probe) {
    let (swapped, unit, off) = (
        p.mutant("weights of x_t and x0 swapped"),
        p.mutant("unit variance"),
        p.mutant("t off by one"),
    );
    let printed = |time: f64| {
        let q = random_walk_posterior(time - 1.0, time);
        match () {
            _ if swapped => Posterior { coef_x0: q.coef_xt, coef_xt: q.coef_x0, ..q },
            _ if unit => Posterior { var: 1.0, ..q },
            _ if off => random_walk_posterior(time, time + 1.0),
            _ => q,
        }
    };
    let why = "conditioning forms (t-1) - (t-1)^2/t, which loses a factor t";
    p.property(
        Role::Printed,
        "mean and variance: closed form against conditioning of (x_{t-1}, x_t) on x_t",
        256,
        why,
        |t| {
            let time = t.int(1, 1000) as f64;
            let (x0, xt) = (3.0 * t.normal(), 30.0 * t.normal());
            let q = printed(time);
            let walk = joint(x0, 0.0, &[Step::new(1.0, time - 1.0), Step::new(1.0, 1.0)]);
            let conditional = walk.condition(&[2], &[xt]).expect("x_t has variance t");
            t.compare(q.mean(x0, xt), conditional.mean()[1], 8.0 * EPS * (x0.abs() + xt.abs()));
            t.compare(q.var, conditional.cov_matrix()[(1, 1)], 4.0 * EPS * time);
        },
    );
    let why = "sqrt(t) and sqrt(t-1) are rounded: their gap of 1/(2 sqrt t) keeps eps * t";
    p.property(
        Role::Printed,
        "the deck's weights against the general posterior at alpha = 1, sigma = sqrt(t)",
        128,
        why,
        |t| {
            let time = t.int(1, 1000) as f64;
            let q = printed(time);
            let general = Posterior::between(random_walk(time - 1.0), random_walk(time))
                .expect("noise grows");
            t.compare(q.coef_x0, general.coef_x0, 8.0 * EPS);
            t.compare(q.coef_xt, general.coef_xt, 8.0 * EPS);
            t.compare(q.var, general.var, 8.0 * EPS * time);
        },
    );
}

fn bayes(p: &mut Probe) {
    let no_denominator = p.mutant("denominator left out");
    let late_prior = p.mutant("q(x_t|x0) in the numerator");
    let forward_var = p.mutant("forward variance for the posterior's");
    let why = "each log density carries eps times its size; a residual x - mean carries eps |x| / std, times its z-score";
    p.property(
        Role::Printed,
        "log of the left side against the log of the right side",
        256,
        why,
        |t| {
            let (s, u) = if t.int(0, 1) == 0 {
                let time = t.int(2, 500);
                (random_walk((time - t.int(1, time - 1)) as f64), random_walk(time as f64))
            } else {
                let table = t.table(t.int(4, 60));
                let later = t.int(2, table.steps());
                let row = |k: usize| table.rows()[k - 1];
                let level = |k: usize| Level::new(row(k).alpha, row(k).sigma);
                (level(later - t.int(1, later - 1)), level(later))
            };
            let x0 = 2.0 * t.normal();
            let (first, step) =
                (Transition::between(Level::CLEAN, s).unwrap(), Transition::between(s, u).unwrap());
            let direct = Transition::between(Level::CLEAN, u).unwrap();
            let exact = Posterior::between(s, u).unwrap();
            let left = if forward_var { Posterior { var: step.var, ..exact } } else { exact };
            let xs = first.mean(x0) + first.var.sqrt() * t.normal();
            let xt = step.mean(xs) + step.var.sqrt() * t.normal();
            let prior = if late_prior { direct } else { first };
            let terms =
                [step.log_density(xt, xs), prior.log_density(xs, x0), -direct.log_density(xt, x0)];
            let right = terms[0] + terms[1] + if no_denominator { 0.0 } else { terms[2] };
            let size = terms.iter().map(|x| x.abs()).sum::<f64>();
            let residuals =
                10.0 * (x0.abs() + xs.abs() + xt.abs()) / exact.var.min(step.var).sqrt();
            t.compare(left.log_density(xs, xt, x0), right, 16.0 * EPS * (1.0 + size + residuals));
        },
    );
    p.property(
        Role::Printed,
        "the Markov property: q(x_t|x_{t-1}, x0) by conditioning, against q(x_t|x_{t-1})",
        64,
        "conditioning on two states, c eps",
        |t| {
            let table = t.table(2);
            let row = |k: usize| table.rows()[k - 1];
            let level = |k: usize| Level::new(row(k).alpha, row(k).sigma);
            let steps = [
                Transition::between(Level::CLEAN, level(1)).unwrap(),
                Transition::between(level(1), level(2)).unwrap(),
            ];
            let law =
                joint(t.normal(), t.uniform(0.5, 2.0), &steps.map(|q| Step::new(q.scale, q.var)));
            let (x0, x1) = (t.normal(), t.normal());
            let conditional = law.condition(&[0, 1], &[x0, x1]).expect("both have variance");
            // (x0, x1) are close to proportional where the first step is small.
            let condition = 1.0 / steps[0].var;
            t.compare(
                conditional.mean()[0],
                steps[1].mean(x1),
                64.0 * EPS * condition * (x0.abs() + x1.abs()),
            );
            t.compare(conditional.cov_matrix()[(0, 0)], steps[1].var, 64.0 * EPS * condition);
        },
    );
}
