//! Ancestral sampling and DDIM: what they cost, what a step is, what lies between them.

use crate::{COMPARABLE, Claim, Probe, Role, Trial};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, array};
use std::sync::atomic::{AtomicUsize, Ordering};
use tweedie::diffusion::kernel::Posterior;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::error::Result;
use tweedie::exact::student::{ddim_gain, ddim_law};
use tweedie::law::Gaussian;
use tweedie::law::conditional::Guided;
use tweedie::law::gaussian::wiener_gain;
use tweedie::math::larger;
use tweedie::sample::ancestral::{Ddim, Ddpm, Variance};
use tweedie::sample::dpm_solver::DpmSolver2;
use tweedie::sample::noise_source::Silence;
use tweedie::sample::{Sampler, sample};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "ghent/ddpm-linear-cost",
        slide: "DDPM Sampling",
        statement: "Ancestral sampling takes O(T) forward passes of the network, typically T = 1000.",
        reading: "",
        assumes: "One noise prediction a step; passes are counted by a denoiser that counts its calls.",
        printed: "",
        formula: r"\text{passes}(T) = T",
        finding: "Exactly T passes, one after the other, since each needs the state that the last one left; the whole batch goes through each of them together.",
        mutants: &["guided, two predictions a step", "second-order step", "every second step"],
        check: linear_cost,
    },
    Claim {
        id: "ghent/ddim-update",
        slide: "DDIM - Fast Sampling",
        statement: "The DDIM step is x_{t-1} = sqrt(alpha_bar_{t-1}) x0_hat + sqrt(1 - alpha_bar_{t-1}) eps_hat.",
        reading: "On a subset of the steps t - 1 is the step of the subset that comes next.",
        assumes: "x0_hat and eps_hat belong together, x_t = sqrt(alpha_bar_t) x0_hat + sqrt(1 - alpha_bar_t) eps_hat.",
        printed: "",
        formula: r"x_s = \sqrt{\bar\alpha_s}\, \hat{x}_0 + \sqrt{1-\bar\alpha_s}\, \hat\varepsilon, \qquad \hat\varepsilon = \frac{x_t - \sqrt{\bar\alpha_t}\,\hat{x}_0}{\sqrt{1-\bar\alpha_t}}",
        finding: "It is the noise-free member of the DDIM family between any two steps, and keeps a point mass on its line exactly at every listed step of any subset. \
                  If x0_hat is changed, by clipping say, eps_hat has to be formed anew from it.",
        mutants: &[
            "step t - 1 on a subset",
            "x0_hat clipped, eps_hat kept",
            "x0_hat for eps_hat",
            "roots left out",
            "noise level not lowered",
        ],
        check: ddim_update,
    },
    Claim {
        id: "ghent/ddim-20x",
        slide: "DDIM - Fast Sampling",
        statement: "The subset (1, 20, 40, ..., 1000) of 1000 steps has 50 steps and makes sampling 20 times faster at comparable quality.",
        reading: "",
        assumes: "The linear schedule of 1000 steps; Gaussian data with the exact denoiser. Comparable: in W2 no more than a tenth of the data's deviation farther from the data law than 1000 ancestral steps; in one mode W2 is the difference of the deviations.",
        printed: "",
        formula: r"\left|\{1, 20, 40, \dots, 1000\}\right| = 51, \qquad \frac{1000}{51} = 19.6; \qquad \left|\{20, 40, \dots, 1000\}\right| = 50",
        finding: "It holds if the 50 counts the steps from one listed time to the next: there are 51 of these times, and the network is evaluated once more for the step from t = 1 to data. \
                  The 51 passes are 19.6 times fewer than 1000, which rounds to 20. Without the 1 in the list there are 50 passes. \
                  Quality is comparable: a mode of unit variance comes out of DDIM in 50 steps with 96.4% of its deviation, of ancestral sampling in 1000 with 99.6%. \
                  By this measure ancestral sampling in 50 steps, with 92.6%, is comparable too.",
        mutants: &["step 1 listed too", "previous step one below", "ancestral on the subset"],
        check: ddim_20x,
    },
    Claim {
        id: "ghent/ddim-ddpm-interpolation",
        slide: "DDIM - Fast Sampling",
        statement: "One can interpolate between DDPM and DDIM.",
        reading: "The slide names no parameter; the paper's is eta, with eta = 1 for DDPM (posterior variance) and eta = 0 for DDIM.",
        assumes: "0 <= eta <= 1; between any two steps.",
        printed: "",
        formula: r"q_\eta(x_s|x_t,x_0) = N\left(\alpha_s x_0 + \sqrt{\sigma_s^2 - \eta^2 \tilde\beta}\;\frac{x_t - \alpha_t x_0}{\sigma_t},\; \eta^2 \tilde\beta\, I\right), \qquad \tilde\beta = \sigma_s^2 \left(1 - \frac{\operatorname{SNR}_t}{\operatorname{SNR}_s}\right)",
        finding: "For every eta the step carries q(x_t|x0) to q(x_s|x0): the fresh noise is taken out of the old. At eta = 1 it is DDPM's posterior, mean and variance, at eta = 0 it draws nothing, \
                  and the sampler at eta = 1 reproduces the ancestral trajectory from the same noise. On a subset the variance is that of the stride.",
        mutants: &[
            "eta for eta^2",
            "noise added on top",
            "variance of one step on a subset",
            "deviation for the variance",
        ],
        check: interpolation,
    },
];

/// A denoiser that counts how often it is asked.
struct Counting<'a> {
    model: &'a dyn Denoiser,
    calls: &'a AtomicUsize,
}

impl Denoiser for Counting<'_> {
    fn dim(&self) -> usize {
        self.model.dim()
    }

    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        self.model.denoise(x, at, out)
    }
}

/// The points of these steps of a table, in this order, and the data.
fn points(table: &Table, steps: impl IntoIterator<Item = usize>) -> Vec<PathPoint> {
    let rows = steps.into_iter().map(|t| &table.rows()[t - 1]);
    rows.map(|r| PathPoint::still(r.alpha, r.sigma)).chain([PathPoint::CLEAN]).collect()
}

fn linear() -> Table {
    Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's schedule")
}

/// Passes that a sampler makes over a grid.
fn passes(sampler: &dyn Sampler, grid: &[PathPoint], t: &Trial, twice: bool) -> f64 {
    let (law, calls) = (t.gaussian(2), AtomicUsize::new(0));
    let model = Counting { model: &law, calls: &calls };
    let guided = Guided::new(&model, &model, 2.0).expect("one space");
    let model: &dyn Denoiser = if twice { &guided } else { &model };
    sample(sampler, model, grid, t.normal_rows(3, 2), &mut t.noise()).expect("a falling grid");
    calls.into_inner() as f64
}

fn linear_cost(p: &mut Probe) {
    let (guided, heun, skipping) = (
        p.mutant("guided, two predictions a step"),
        p.mutant("second-order step"),
        p.mutant("every second step"),
    );
    let ancestral = Ddpm { variance: Variance::Posterior };
    let sampler: &dyn Sampler = if heun { &DpmSolver2 } else { &ancestral };
    let count = |table: &Table, t: &Trial| {
        let steps = (1..=table.steps()).rev().step_by(if skipping { 2 } else { 1 });
        passes(sampler, &points(table, steps), t, guided)
    };
    p.property(
        Role::Printed,
        "passes counted over all T steps of a random schedule, against T",
        24,
        "whole numbers",
        |t| {
            let steps = t.int(5, 120);
            t.compare(count(&t.table(steps), t), steps as f64, 0.0);
        },
    );
    p.property(
        Role::Printed,
        "passes over the 1000 steps of the linear schedule",
        1,
        "whole numbers",
        |t| t.compare(count(&linear(), t), 1000.0, 0.0),
    );
    p.property(Role::Printed, "passes at 2T over passes at T", 12, "whole numbers", |t| {
        let steps = t.int(5, 60);
        t.compare(count(&t.table(2 * steps), t) / count(&t.table(steps), t), 2.0, 0.0);
    });
}

/// A falling subset of the steps of a table, at random.
fn subset(t: &Trial, steps: usize) -> Vec<usize> {
    let mut kept: Vec<usize> = (1..=steps).filter(|_| t.uniform(0.0, 1.0) < 0.2).collect();
    kept.extend([1, steps]);
    kept.sort_unstable_by(|a, b| b.cmp(a));
    kept.dedup();
    kept
}

fn ddim_update(p: &mut Probe) {
    let (below, kept, x0_for_eps) = (
        p.mutant("step t - 1 on a subset"),
        p.mutant("x0_hat clipped, eps_hat kept"),
        p.mutant("x0_hat for eps_hat"),
    );
    let (roots, not_lowered) = (p.mutant("roots left out"), p.mutant("noise level not lowered"));
    let level = |table: &Table, t: usize| match t {
        0 => Level::CLEAN,
        t => Level::new(table.rows()[t - 1].alpha, table.rows()[t - 1].sigma),
    };
    let update = move |x0_hat: f64, eps_hat: f64, from: Level<f64>, to: Level<f64>| {
        let eps_hat = if x0_for_eps { x0_hat } else { eps_hat };
        match (roots, not_lowered) {
            (true, _) => to.alpha.powi(2) * x0_hat + to.sigma.powi(2) * eps_hat,
            (_, true) => to.alpha * x0_hat + from.sigma * eps_hat,
            _ => to.alpha * x0_hat + to.sigma * eps_hat,
        }
    };
    p.property(
        Role::Printed,
        "clipped x0_hat: the step, against the noise-free kernel of the DDIM family",
        128,
        "64 ulp of the terms",
        |t| {
            let table = t.table(t.int(10, 200));
            let now = t.int(2, table.steps());
            let (from, to) = (level(&table, now), level(&table, t.int(0, now - 1)));
            let (x, raw) = (from.alpha.hypot(from.sigma) * 2.0 * t.normal(), 1.5 * t.normal());
            let x0_hat = raw.clamp(-1.0, 1.0);
            let eps_hat = (x - from.alpha * if kept { raw } else { x0_hat }) / from.sigma;
            let want = Posterior::ddim(to, from, 0.0).expect("to is cleaner").mean(x0_hat, x);
            t.compare(
                update(x0_hat, eps_hat, from, to),
                want,
                64.0 * f64::EPSILON * (1.0 + x.abs() + to.sigma * eps_hat.abs()),
            );
        },
    );
    p.property(
        Role::Printed,
        "point mass: the state at every step of a random subset, against alpha x0 + sigma eps",
        48,
        "1e-13 of the terms: up to 40 steps",
        |t| {
            let table = t.table(t.int(40, 200));
            let law = Gaussian::isotropic(t.normals(2), 0.0).expect("a point");
            let eps = t.normals(2);
            let at = |level: Level<f64>| &law.mean() * level.alpha + &eps * level.sigma;
            let steps = [subset(t, table.steps()), vec![0]].concat();
            let mut x = at(level(&table, steps[0]));
            for pair in steps.windows(2) {
                let (from, to) = (level(&table, pair[0]), level(&table, pair[1]));
                let aim = if below { level(&table, pair[0] - 1) } else { to };
                let eps_hat = (&x - &(&law.mean() * from.alpha)) / from.sigma;
                x = Array1::from_shape_fn(2, |i| update(law.mean()[i], eps_hat[i], from, aim));
                t.compare_all(
                    &x,
                    &at(to),
                    1e-13 * (1.0 + eps.dot(&eps).sqrt() + law.mean().dot(&law.mean()).sqrt()),
                );
            }
        },
    );
    p.property(
        Role::Printed,
        "Gaussian data: the step with the Wiener filter, against the gain of each mode",
        64,
        "1e-13 of the terms",
        |t| {
            let table = t.table(t.int(10, 100));
            let now = t.int(2, table.steps());
            let (from, to) = (level(&table, now), level(&table, t.int(0, now - 1)));
            let (lambda, x) = (t.log_uniform(1e-2, 10.0), t.normal());
            let x0_hat = wiener_gain(lambda, from.alpha, from.sigma) * x;

            let want = ddim_gain(lambda, from, to) * x;
            t.compare(
                update(x0_hat, (x - from.alpha * x0_hat) / from.sigma, from, to),
                want,
                1e-13 * (x.abs() / from.sigma + x0_hat.abs()),
            );
        },
    );
    p.property(
        Role::Printed,
        "the library's DDIM sampler on the same subset, against the steps one by one",
        16,
        "1e-12 of the terms: up to 40 steps",
        |t| {
            let table = t.table(t.int(40, 200));
            let law = t.gaussian(2);
            let steps = subset(t, table.steps());
            let start = t.normal_rows(2, 2);
            let got = sample(
                &Ddim { eta: 0.0 },
                &law,
                &points(&table, steps.iter().copied()),
                start.clone(),
                &mut t.noise(),
            )
            .expect("a falling grid")
            .x;
            let mut x = start;
            for pair in [steps, vec![0]].concat().windows(2) {
                let (from, to) = (
                    level(&table, pair[0]),
                    level(&table, if below { pair[0] - 1 } else { pair[1] }),
                );
                let mut x0_hat = Array2::zeros(x.dim());
                law.denoise(x.view(), &PathPoint::still(from.alpha, from.sigma), x0_hat.view_mut())
                    .expect("an exact law");
                x.zip_mut_with(&x0_hat, |x, &x0_hat| {
                    *x = update(x0_hat, (*x - from.alpha * x0_hat) / from.sigma, from, to)
                });
            }
            t.compare_all(&x, &got, 1e-12 * got.iter().map(|v| v.abs()).fold(10.0, larger));
        },
    );
}

fn ddim_20x(p: &mut Probe) {
    let (one_too, below, ancestral) = (
        p.mutant("step 1 listed too"),
        p.mutant("previous step one below"),
        p.mutant("ancestral on the subset"),
    );
    let table = linear();
    let listed: Vec<usize> = (1..=50).rev().map(|k| 20 * k).chain([1]).collect();
    let without: Vec<usize> = if one_too { listed.clone() } else { listed[..50].to_vec() };
    let ddim = Ddim { eta: 0.0 };
    let whole = points(&table, listed.iter().copied());
    p.property(
        Role::WithCondition,
        "passes from t = 1000 to t = 1 over the subset as listed, against 50",
        1,
        "whole numbers",
        |t| {
            t.compare(passes(&ddim, &whole[..listed.len()], t, false), 50.0, 0.0);
        },
    );
    p.property(
        Role::WithoutCondition,
        "passes with the step from t = 1 to data, against 50",
        1,
        "whole numbers",
        |t| {
            t.compare(passes(&ddim, &whole, t, false), 50.0, 0.0);
        },
    );
    p.property(
        Role::WithCondition,
        "1000 passes over those of the subset as listed",
        1,
        "rounds to 20",
        |t| {
            t.compare(1000.0 / passes(&ddim, &whole, t, false), 20.0, 0.5);
        },
    );
    p.property(
        Role::WithCondition,
        "passes over (20, 40, ..., 1000), against 50",
        1,
        "whole numbers",
        |t| {
            t.compare(passes(&ddim, &points(&table, without.iter().copied()), t, false), 50.0, 0.0);
        },
    );
    // Share of a mode's deviation that comes out, started from N(0, 1).
    let grid = points(&table, without.iter().copied());
    let one = |var: f64| Gaussian::diagonal(array![0.0], array![var]).expect("a law");
    let ancestral_share = |lambda: f64, grid: &[PathPoint]| {
        let var = grid.windows(2).fold(1.0, |var, pair| {
            let q = Posterior::between(Level::from(&pair[1]), Level::from(&pair[0]))
                .expect("a falling grid");
            let gain = q.coef_x0 * wiener_gain(lambda, pair[0].alpha, pair[0].sigma) + q.coef_xt;
            gain * gain * var + q.var
        });
        (var / lambda).sqrt()
    };
    let ddim_share = |lambda: f64| {
        if ancestral {
            return ancestral_share(lambda, &grid);
        }
        let law = if below {
            // Each step aims at the level one step below, and the next believes to start from the
            // next of the subset.
            let gain: f64 = without
                .iter()
                .map(|&t| {
                    let (from, to) = (&table.rows()[t - 1], &table.rows()[t - 2]);
                    ddim_gain(
                        lambda,
                        (&PathPoint::still(from.alpha, from.sigma)).into(),
                        (&PathPoint::still(to.alpha, to.sigma)).into(),
                    )
                })
                .product();
            one(gain * gain)
        } else {
            ddim_law(&one(lambda), &one(1.0), &grid).expect("one space")
        };
        (law.variances()[0] / lambda).sqrt()
    };
    let all = points(&table, (1..=1000).rev());
    let best = ancestral_share(1.0, &all);
    let why = "comparable: within a tenth of the deviation";
    let what = "variance 1: share of the deviation, DDIM in 50 steps, against ancestral in 1000 steps (posterior variance)";
    p.number(Role::WithCondition, what, ddim_share(1.0), best, COMPARABLE, why);
    let what = "variance 1: share of the deviation, ancestral in 50 steps, against 1000";
    p.number(Role::WithCondition, what, ancestral_share(1.0, &grid), best, COMPARABLE, why);
    p.property(
        Role::WithCondition,
        "variances from 0.1 to 10: DDIM in 50 steps, against ancestral in 1000",
        64,
        why,
        |t| {
            let lambda = t.log_uniform(0.1, 10.0);
            t.compare(ddim_share(lambda), ancestral_share(lambda, &all), COMPARABLE);
        },
    );
    p.property(
        Role::WithCondition,
        "the library's DDIM in 50 steps, run from a unit start, against these shares",
        16,
        "50 roundings",
        |t| {
            let lambda = t.log_uniform(0.1, 10.0);
            let end = sample(&ddim, &one(lambda), &grid, array![[1.0]], &mut Silence)
                .expect("a falling grid")
                .x;
            t.compare(end[[0, 0]] / lambda.sqrt(), ddim_share(lambda), 1e-11);
        },
    );
}

fn interpolation(p: &mut Probe) {
    let (once, on_top, one_step, deviation) = (
        p.mutant("eta for eta^2"),
        p.mutant("noise added on top"),
        p.mutant("variance of one step on a subset"),
        p.mutant("deviation for the variance"),
    );
    let level =
        |table: &Table, t: usize| Level::new(table.rows()[t - 1].alpha, table.rows()[t - 1].sigma);
    let kernel = move |table: &Table, s: usize, t: usize, eta: f64| {
        let (early, late) = (level(table, s), level(table, t));
        let mut q = Posterior::ddim(early, late, eta).expect("s is cleaner");
        if once {
            q.var /= eta.max(f64::MIN_POSITIVE);
        }
        if on_top {
            q.coef_xt = early.sigma / late.sigma;
            q.coef_x0 = early.alpha - late.alpha * q.coef_xt;
        }
        if one_step {
            q.var = eta * eta * table.rows()[t - 1].posterior_var;
        }
        if deviation {
            q.var = q.var.sqrt();
        }
        q
    };
    let draw = |t: &Trial| {
        let table = t.table(t.int(10, 200));
        let late = t.int(3, table.steps());
        (t.int(1, late - 1), late, table)
    };
    p.property(
        Role::Printed,
        "any eta: mean and variance of x_s given x0 after the step from q(x_t|x0), against alpha_s and sigma_s^2",
        128,
        "32 ulp",
        |t| {
            let (s, late, table) = draw(t);
            let (q, from, to) = (kernel(&table, s, late, t.uniform(0.0, 1.0)), level(&table, late), level(&table, s));
            t.compare(q.coef_x0 + q.coef_xt * from.alpha, to.alpha, 32.0 * f64::EPSILON);
            t.compare(q.coef_xt.powi(2) * from.sigma.powi(2) + q.var, to.sigma.powi(2), 32.0 * f64::EPSILON * to.sigma.powi(2));
        },
    );
    p.property(
        Role::Printed,
        "eta = 1, neighbouring steps: kernel, against DDPM's posterior in the table",
        64,
        "1e-11: the table's levels are rounded, and a step is a small difference of them",
        |t| {
            let table = t.table(t.int(10, 200));
            let step = t.int(2, table.steps());
            let (q, row) = (kernel(&table, step - 1, step, 1.0), &table.rows()[step - 1]);
            t.compare(q.coef_x0, row.posterior_coef_x0, 1e-11);
            t.compare(q.coef_xt, row.posterior_coef_xt, 1e-11);
            t.compare(q.var, row.posterior_var, 1e-11);
        },
    );
    p.property(
        Role::Printed,
        "eta = 0: variance of the step",
        32,
        "no noise is drawn at all",
        |t| {
            let (s, late, table) = draw(t);
            t.compare(kernel(&table, s, late, 0.0).var, 0.0, 0.0);
        },
    );
    p.property(
        Role::Printed,
        "eta = 1: the DDIM sampler on a subset, against ancestral sampling with the same noise",
        16,
        "1e-12 of the states: up to 40 steps",
        |t| {
            let table = t.table(t.int(40, 200));
            let (law, start, noise) = (t.gaussian(2), t.normal_rows(3, 2), t.noise());
            let grid = points(&table, subset(t, table.steps()));
            let end = |sampler: &dyn Sampler| {
                sample(sampler, &law, &grid, start.clone(), &mut noise.clone())
                    .expect("a falling grid")
            };
            let (ddim, ddpm) =
                (end(&Ddim { eta: 1.0 }), end(&Ddpm { variance: Variance::Posterior }));
            t.compare_all(
                &ddim.x,
                &ddpm.x,
                1e-12 * ddpm.x.iter().map(|v| v.abs()).fold(10.0, larger),
            );
            t.compare(ddim.draws as f64, ddpm.draws as f64, 0.0);
            t.compare(end(&Ddim { eta: 0.0 }).draws as f64, 0.0, 0.0);
        },
    );
}
