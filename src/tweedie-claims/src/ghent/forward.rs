//! The forward kernel and where the linear schedule ends.

use crate::chain::{Step, joint};
use crate::{Claim, Probe, Role};
use tweedie::diffusion::elbo::prior;
use tweedie::diffusion::kernel::Transition;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::{Row, Schedule, Table};

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/forward-kernel-alpha",
        slide: "Forward Process Definition",
        statement: "q(x_t|x_{t-1}) = N(sqrt(alpha_t) x_{t-1}, (1 - alpha_t) I).",
        reading: "",
        assumes: "alpha_t = 1 - beta_t; DDPM tables of four kinds.",
        printed: "",
        formula: r"q(x_t \mid x_{t-1}) = \mathcal{N}\left(\sqrt{\alpha_t}\,x_{t-1},\; (1-\alpha_t)\,I\right), \qquad \alpha_t = 1 - \beta_t",
        finding: "It is the kernel between two neighbouring marginals, and t of them compose to the marginal sqrt(abar_t) x0, 1 - abar_t; data of unit variance keep it.",
        mutants: &[
            "abar_t for alpha_t",
            "mean without the root",
            "deviation 1 - alpha_t",
            "t off by one",
        ],
        check: forward_kernel,
    },
    Claim {
        id: "ghent/linear-schedule-end",
        slide: "Forward Process Definition",
        statement: "With beta from 0.0001 to 0.02 over T = 1000 steps x_T is approximately pure Gaussian noise.",
        reading: "One card of the slide says that x_t ~ N(0, I) is pure Gaussian noise; the last line of the next has the sign for approximately. The statement is held to approximately: to a hundredth of the signal, and of a nat for each number.",
        assumes: "The linear schedule of the deck; x0 scaled to [-1, 1].",
        printed: "",
        formula: r"x_{1000} = 0.0063528\,x_0 + 0.9999798\,\varepsilon, \qquad KL\left(q(x_T \mid x_0) \,\|\, \mathcal{N}(0, I)\right) \approx \frac{\bar\alpha_T}{2}\,\|x_0\|^2, \quad \bar\alpha_T = 0.000040358",
        finding: "It holds: 0.64 % of the signal is left, worth 2.0e-5 nats for each coordinate of square 1. In many dimensions that adds up: an all-white image of 512 x 512 x 3 is 15.9 nats away from pure noise, so its mean brightness can be read off x_T. Exactly pure noise needs the table rescaled to zero terminal SNR, which then ends with beta = 1.",
        mutants: &["root of abar left out", "100 steps", "betas linear in the root"],
        check: schedule_end,
    },
];

/// The level of step t, clean at t = 0.
pub(super) fn level(table: &Table, t: usize) -> Level<f64> {
    if t == 0 {
        Level::CLEAN
    } else {
        Level::new(table.rows()[t - 1].alpha, table.rows()[t - 1].sigma)
    }
}

fn forward_kernel(p: &mut Probe) {
    let (bar, no_root) = (p.mutant("abar_t for alpha_t"), p.mutant("mean without the root"));
    let (squared, off) = (p.mutant("deviation 1 - alpha_t"), p.mutant("t off by one"));
    let printed = |row: &Row, next: &Row| {
        let row = if off { next } else { row };
        let alpha = if bar { row.alpha_bar } else { row.alpha_step };
        let var = 1.0 - alpha;
        Transition {
            scale: if no_root { alpha } else { alpha.sqrt() },
            var: if squared { var * var } else { var },
        }
    };
    let why = "alpha and sigma rounded to f64 know a step's share of noise to eps over it";
    p.property(
        Role::Printed,
        "mean factor and variance against the kernel between the marginals at t - 1 and t",
        256,
        why,
        |t| {
            let table = t.table(t.int(3, 200));
            let time = t.int(1, table.steps() - 1);
            let got = printed(&table.rows()[time - 1], &table.rows()[time]);
            let want = Transition::between(level(&table, time - 1), level(&table, time))
                .expect("noise grows");
            t.compare_rel(got.scale, want.scale, 8.0);
            t.compare(got.var, want.var, 16.0 * EPS);
        },
    );
    let why = "products and sums of up to 12 rounded steps";
    p.property(
        Role::Printed,
        "t printed steps as one joint Gaussian against the table's alpha and sigma^2",
        128,
        why,
        |t| {
            let steps = t.int(2, 12);
            let table = t.table(steps + 1);
            let x0 = t.normal();
            let chain: Vec<Step> = table
                .rows()
                .windows(2)
                .map(|w| printed(&w[0], &w[1]))
                .map(|q| Step::new(q.scale, q.var))
                .collect();
            let law = joint(x0, 0.0, &chain);
            let last = &table.rows()[steps - 1];
            t.compare(law.mean()[steps], last.alpha * x0, 64.0 * EPS * x0.abs());
            t.compare(law.cov_matrix()[(steps, steps)], last.sigma * last.sigma, 64.0 * EPS);
            // Unit variance in, unit variance out.
            t.compare(joint(x0, 1.0, &chain).cov_matrix()[(steps, steps)], 1.0, 64.0 * EPS);
        },
    );
}

fn schedule_end(p: &mut Probe) {
    let no_root = p.mutant("root of abar left out");
    let steps = p.pick(1000, "100 steps", 100);
    let schedule = p.pick(
        Schedule::LINEAR,
        "betas linear in the root",
        Schedule::ScaledLinear { beta_start: 1e-4, beta_end: 0.02 },
    );
    let table = Table::new(schedule, steps, false).expect("a valid schedule");
    let last = table.rows()[steps - 1];
    let signal = if no_root { last.alpha_bar } else { last.alpha };
    let kl = |second_moment: f64| prior((signal, last.sigma), second_moment, 1.0);
    let white = 512.0 * 512.0 * 3.0;
    let why = "a hundredth is taken as approximately none";
    p.number(Role::Printed, "signal left in x_1000, for each unit of x0", signal, 0.0, 0.01, why);
    p.number(
        Role::Printed,
        "KL(q(x_1000|x0) || N(0, I)) for one coordinate of square 1, nats",
        kl(1.0),
        0.0,
        0.01,
        why,
    );

    // The logarithm of the product, step by step in plain f64.
    let log_bar: f64 =
        (0..1000).map(|k| (-(1e-4 + (0.02 - 1e-4) * f64::from(k) / 999.0)).ln_1p()).sum();
    let why = "a sum of 1000 logarithms, each good to an ulp, of size 10";
    let bar = log_bar.exp();
    p.number(
        Role::Printed,
        "signal left in x_1000 against exp of half the sum of ln(1 - beta)",
        signal,
        bar.sqrt(),
        1e-16,
        why,
    );
    p.number(
        Role::Printed,
        "alpha_bar_1000 against exp of that sum",
        last.alpha_bar,
        bar,
        1e-18,
        why,
    );
    p.number(Role::Printed, "noise in x_1000", last.sigma, (1.0 - bar).sqrt(), 4.0 * EPS, why);
    let what = "KL of an all-white image of 512 x 512 x 3, nats, against half of its square norm times alpha_bar";
    p.number(
        Role::Printed,
        what,
        white * kl(1.0),
        0.5 * white * bar,
        1e-3,
        "the variance's part is a quarter of alpha_bar^2 a number",
    );
    let rescaled = Table::new(schedule, steps, true).expect("a valid schedule").rows()[steps - 1];
    p.number(
        Role::Printed,
        "signal left after rescaling to zero terminal SNR",
        rescaled.alpha,
        0.0,
        0.0,
        "exact",
    );
    p.number(Role::Printed, "its last beta", rescaled.beta, 1.0, 0.0, "exact");
}
