//! The posterior q(x_{t-1}|x_t, x0): its mean and its variance.

use crate::Claim;
use crate::Role::{Corrected, Printed};
use crate::sjtu::level;
use nalgebra::{DMatrix, DVector};
use tweedie::diffusion::kernel::Posterior;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::{Row, Schedule, Table};
use tweedie::math::gaussian::{Covariance, Normal};

const EPS: f64 = f64::EPSILON;

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "recap/posterior-mean",
        slide: "Training",
        statement: "The mean of q(x_{t-1}|x_t, x0) is sqrt(alpha_t)(1 - abar_{t-1})/(1 - abar_t) x_t + sqrt(abar_{t-1})(1 - \
        alpha_t)/(1 - abar_t) x0.",
        reading: "Bars and indices are lost in the scan; they follow from the loss two slides later, where the same two fractions \
        stand, and from Bayes' rule.",
        assumes: "t >= 1; at t = 1 the mean is x0.",
        printed: "",
        formula: r"\frac{\sqrt{\alpha_t} (1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t} x_t + \frac{\sqrt{\bar\alpha_{t-1}} (1 -
        \alpha_t)}{1 - \bar\alpha_t} x_0",
        finding: "It holds, against conditioning of the joint Gaussian of (x_{t-1}, x_t) given x0.",
        mutants: &[
            "coefficients swapped",
            "bar missing in the numerator",
            "root of alpha_t dropped",
            "alpha_bar_t for alpha_bar_{t-1}",
        ],
        check: |p| {
            let (swapped, bar) =
                (p.mutant("coefficients swapped"), p.mutant("bar missing in the numerator"));
            let (unrooted, late) =
                (p.mutant("root of alpha_t dropped"), p.mutant("alpha_bar_t for alpha_bar_{t-1}"));
            p.property(
                Printed,
                "The printed mean against conditioning and against the library's",
                256,
                "rounding of 1 - abar, over 1 - abar_t",
                |t| {
                    let table = t.table(t.int(2, 60));
                    let step = t.int(2, table.steps());
                    let (before, row) = (&table.rows()[step - 2], &table.rows()[step - 1]);
                    let (alpha, previous) = (
                        row.alpha_step,
                        if late {
                            row.alpha_bar
                        } else if bar {
                            before.alpha_step
                        } else {
                            before.alpha_bar
                        },
                    );
                    let on_xt = if unrooted { alpha } else { alpha.sqrt() } * (1.0 - previous)
                        / (1.0 - row.alpha_bar);
                    let on_x0 = previous.sqrt() * (1.0 - alpha) / (1.0 - row.alpha_bar);
                    let (on_xt, on_x0) = if swapped { (on_x0, on_xt) } else { (on_xt, on_x0) };
                    let d = t.int(1, 3);
                    let (x0, xt) = (t.normals(d), t.normals(d));
                    let mean = &xt * on_xt + &x0 * on_x0;
                    let want = conditioned(
                        x0.as_slice().expect("one row"),
                        before,
                        row,
                        xt.as_slice().expect("one row"),
                    );
                    let tol =
                        32.0 * EPS * (4.0 + x0.dot(&x0) + xt.dot(&xt)) / (1.0 - row.alpha_bar);
                    t.compare_all(&mean, want.mean(), tol);
                    let library = Posterior::between(level(&table, step - 1), level(&table, step))
                        .expect("a table's SNR falls");
                    let same: Vec<f64> =
                        x0.iter().zip(&xt).map(|(x0, xt)| library.mean(*x0, *xt)).collect();
                    t.compare_all(&mean, &same, tol);
                },
            );
        },
    },
    Claim {
        id: "recap/posterior-variance",
        slide: "Training",
        statement: "The variance of q(x_{t-1}|x_t, x0) is (1 - alpha_t)(1 - sqrt(abar_{t-1}))/(1 - abar_t).",
        reading: "The scan gives the same mark for the root here as for the roots in the mean's coefficients, and none in the factor \
        1 - abar_{t-1} of the mean next to it. It is judged as the scan has it.",
        assumes: "t >= 2; at t = 1 both forms are 0.",
        printed: r"\tilde\beta_t = \frac{(1 - \alpha_t)\left(1 - \sqrt{\bar\alpha_{t-1}}\right)}{1 - \bar\alpha_t}",
        formula: r"\tilde\beta_t = \frac{(1 - \alpha_t)(1 - \bar\alpha_{t-1})}{1 - \bar\alpha_t}",
        finding: "The root over abar_{t-1} is one too many: without it the formula is right. As printed the variance is too small \
        by the factor 1/(1 + sqrt(abar_{t-1})), which is 0.50001 at t = 2 of DDPM's schedule, so that a sampler would add 0.71 of \
        the deviation that it should, and comes right only at the noisy end.",
        mutants: &[
            "root over alpha_bar_{t-1}",
            "variance of the step",
            "alpha_bar_t for alpha_bar_{t-1}",
            "variance and deviation confused",
        ],
        check: |p| {
            let (root, forward) =
                (p.mutant("root over alpha_bar_{t-1}"), p.mutant("variance of the step"));
            let (late, deviation) = (
                p.mutant("alpha_bar_t for alpha_bar_{t-1}"),
                p.mutant("variance and deviation confused"),
            );
            let printed = |before: &Row, row: &Row| {
                (1.0 - row.alpha_step) * (1.0 - before.alpha) / (1.0 - row.alpha_bar)
            };
            let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            let (before, row) = (&table.rows()[0], &table.rows()[1]);
            p.number(
                Printed,
                "Printed over exact variance at t = 2 of DDPM's schedule",
                printed(before, row) / row.posterior_var,
                1.0,
                1e-9,
                "equal variances",
            );
            p.number(
                Printed,
                "The same as deviations",
                (printed(before, row) / row.posterior_var).sqrt(),
                1.0,
                1e-9,
                "equal deviations",
            );
            p.property(
                Printed,
                "The printed variance against conditioning",
                64,
                "rounding of 1 - abar, over 1 - abar_t",
                |t| {
                    let table = t.table(t.int(2, 60));
                    let step = t.int(2, table.steps());
                    let (before, row) = (&table.rows()[step - 2], &table.rows()[step - 1]);
                    t.compare(
                        printed(before, row),
                        conditioned(&[0.0], before, row, &[0.0]).cov_matrix()[(0, 0)],
                        32.0 * EPS / (1.0 - row.alpha_bar),
                    );
                },
            );
            p.property(
                Corrected,
                "Without the root, against conditioning, the table and the kernel",
                256,
                "rounding of 1 - abar, over 1 - abar_t",
                |t| {
                    let table = t.table(t.int(2, 60));
                    let step = t.int(2, table.steps());
                    let (before, row) = (&table.rows()[step - 2], &table.rows()[step - 1]);
                    let previous = if late {
                        row.alpha_bar
                    } else if root {
                        before.alpha
                    } else {
                        before.alpha_bar
                    };
                    let mut var = (1.0 - row.alpha_step) * (1.0 - previous) / (1.0 - row.alpha_bar);
                    if forward {
                        var = row.beta;
                    } else if deviation {
                        var = var.sqrt();
                    }
                    let tol = 32.0 * EPS / (1.0 - row.alpha_bar);
                    t.compare(
                        var,
                        conditioned(&[0.3], before, row, &[1.0]).cov_matrix()[(0, 0)],
                        tol,
                    );
                    t.compare(var, row.posterior_var, tol);
                    let kernel = Posterior::between(level(&table, step - 1), level(&table, step))
                        .expect("a table's SNR falls");
                    t.compare(var, kernel.var, tol);
                },
            );
            p.property(
                Corrected,
                "Corrected over printed variance against 1 + sqrt(abar_{t-1})",
                64,
                "rounding, over 1 - abar_{t-1}",
                |t| {
                    let table = t.table(t.int(2, 60));
                    let step = t.int(2, table.steps());
                    let (before, row) = (&table.rows()[step - 2], &table.rows()[step - 1]);
                    t.compare(
                        row.posterior_var / printed(before, row),
                        1.0 + before.alpha,
                        64.0 * EPS / (1.0 - before.alpha) / (1.0 - row.alpha_step),
                    );
                },
            );
        },
    },
];

/// q(x_{t-1} | x_t, x0) by conditioning the joint Gaussian of (x_{t-1}, x_t) given x0.
fn conditioned(x0: &[f64], before: &Row, row: &Row, xt: &[f64]) -> Normal {
    let (d, s) = (x0.len(), Level::new(before.alpha, before.sigma));
    let xs = Normal::new(
        DVector::from_column_slice(x0) * s.alpha,
        Covariance::Isotropic(s.sigma * s.sigma),
    )
    .expect("a Gaussian");
    let scale = DMatrix::identity(d, d) * row.alpha_step.sqrt();
    let joint =
        xs.joint(&scale, &DVector::zeros(d), Covariance::Isotropic(row.beta)).expect("a kernel");
    joint.condition(&(d..2 * d).collect::<Vec<_>>(), xt).expect("x_t has noise")
}
