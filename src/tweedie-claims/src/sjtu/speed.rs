//! Fewer evaluations: better solvers, and students of the teacher's map.

use super::still;
use crate::Role::{WithCondition, WithoutCondition};
use crate::{COMPARABLE, Claim, Probe};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Zip};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::path::Path;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::error::Result;
use tweedie::exact::consistency::{consistency_map, consistency_solve};
use tweedie::exact::gains::psi;
use tweedie::exact::student::{ddim_chain_gain, distilled_denoiser_gain};
use tweedie::law::gaussian::wiener_gain;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::normal::log_cdf;
use tweedie::sample::ancestral::Ddim;
use tweedie::sample::dpm_solver::DpmSolver3;
use tweedie::sample::dpmpp::Dpmpp2m;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::Silence;
use tweedie::sample::{Sampler, sample};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "sjtu/fast-samplers-20-50-nfe",
        slide: "The Sampling Speed Problem: T = 1000 Is Too Slow",
        statement: "DDIM and DPM-Solver reach samples comparable to those of 1000 ancestral steps in 20 to 50 evaluations.",
        reading: "",
        assumes: "Comparable means: in W2 the produced law is no more than a tenth of the data's total deviation farther from the \
        data law than that of 1000 ancestral steps with the posterior's variance. Exact for Gaussian data, here with the \
        covariance of the handwritten digits (64 modes) or with power-law spectra, the exact denoiser, DDPM's schedule and a start \
        in N(0, I).",
        printed: "",
        formula: r"W_2^2 = \sum_k \left(\sqrt{v_k} - \sqrt{\lambda_k}\right)^2",
        finding: "It holds if DDIM, which is of first order, takes its 50 evaluations and not 20. For the digits W2, as a share of \
        the data's total deviation, is 0.7 percent after 1000 ancestral steps; DDIM is at 5 percent after 50 evaluations, on the two \
        grids tried, and at 12 percent after 20, just outside what is called comparable here. With steps even in log-SNR \
        DPM-Solver-3 is at 0.3 percent after 28 evaluations and DPM-Solver++(2M) after 50, nearer to the data than the ancestral \
        sampler; with steps even in t DPM-Solver-3 is at 1 percent after 49.",
        mutants: &[
            "steps even in t",
            "first order in place of third",
            "alpha_bar for alpha on the grid",
        ],
        check: |p| {
            let (even, first, bar) = (
                p.mutant("steps even in t"),
                p.mutant("first order in place of third"),
                p.mutant("alpha_bar for alpha on the grid"),
            );
            let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            let path = Path::Discrete(table.clone());
            let grid = |spacing: Spacing, steps: usize| {
                let (s_min, s_max) =
                    (still(&table, 1).edm_sigma(), still(&table, 1000).edm_sigma());
                let points = Grid { s_min, s_max, ..Grid::new(spacing, steps) }
                    .points(&path)
                    .expect("levels of the path");
                points
                    .into_iter()
                    .map(|p| if bar { PathPoint { alpha: p.alpha * p.alpha, ..p } } else { p })
                    .collect::<Vec<_>>()
            };
            // Distances over the data's total deviation, of the run and of ancestral sampling, and
            // evaluations.
            let run = |sampler: &dyn Sampler, points: &[PathPoint], variances: &Array1<f64>| {
                let law = Gaussian::diagonal(Array1::zeros(variances.len()), variances.clone())
                    .expect("variances");
                // The end of a unit start is the gain of each mode.
                let end =
                    sample(sampler, &law, points, Array2::ones((1, variances.len())), &mut Silence)
                        .expect("a grid from noise to data");
                let share =
                    |stds: ArrayView1<f64>| distance(stds, variances) / variances.sum().sqrt();
                (share(end.x.row(0)), share(ancestral(&table, variances).view()), end.nfe)
            };
            let third = |steps: usize, variances: &Array1<f64>| {
                let points = grid(
                    if even { Spacing::Uniform } else { Spacing::LogSnr },
                    if first { 3 * steps - 2 } else { steps },
                );
                if first {
                    run(&Ddim { eta: 0.0 }, &points, variances)
                } else {
                    run(&DpmSolver3, &points, variances)
                }
            };
            let digits = Gaussian::from_data(tweedie_nn::data::digits::load().images.view())
                .expect("finite images")
                .variances()
                .to_owned();
            let comparable = "comparable: a tenth of the deviation";
            let nearer = "below 1: no farther from the data than 1000 ancestral steps";
            let called = |method: String, nfe: usize| {
                format!(
                    "W2 over the data's deviation, digits: {method} with {nfe} evaluations, against 1000 ancestral steps"
                )
            };
            let better = |p: &mut Probe, method: &str, (share, best, nfe): (f64, f64, usize)| {
                p.number(
                    WithCondition,
                    called(format!("{method}, steps even in log-SNR,"), nfe),
                    share,
                    best,
                    COMPARABLE,
                    comparable,
                );
                p.number(
                    WithCondition,
                    format!(
                        "{method} with {nfe} evaluations: W2 over that of 1000 ancestral steps"
                    ),
                    share / best,
                    0.0,
                    1.0,
                    nearer,
                );
                p.number(
                    WithCondition,
                    format!("Evaluations of this run of {method}"),
                    nfe as f64,
                    35.0,
                    15.0,
                    "20 to 50",
                );
            };
            for steps in [10, 17] {
                better(p, "DPM-Solver-3", third(steps, &digits));
            }
            better(
                p,
                "DPM-Solver++(2M)",
                run(&Dpmpp2m { lower_final: true }, &grid(Spacing::LogSnr, 50), &digits),
            );
            p.property(
                WithCondition,
                "DPM-Solver-3 with 49 evaluations on random power-law spectra, over 1000 ancestral steps",
                8,
                nearer,
                |t| {
                    let (slope, scale) = (t.uniform(1.0, 3.0), t.uniform(1.0, 10.0));
                    let (share, best, _) = third(17, &Array1::from_shape_fn(32, |k| scale * (1.0 + k as f64).powf(-slope)));
                    t.compare(share / best, 0.0, 1.0);
                },
            );
            for (spacing, even) in [(Spacing::LogSnr, "log-SNR"), (Spacing::Uniform, "t")] {
                for (role, steps) in [(WithCondition, 50), (WithoutCondition, 20)] {
                    let (share, best, nfe) =
                        run(&Ddim { eta: 0.0 }, &grid(spacing, steps), &digits);
                    p.number(
                        role,
                        called(format!("DDIM, steps even in {even},"), nfe),
                        share,
                        best,
                        COMPARABLE,
                        comparable,
                    );
                }
            }
            let (share, best, nfe) = run(&DpmSolver3, &grid(Spacing::Uniform, 17), &digits);
            p.number(
                WithCondition,
                called("DPM-Solver-3, steps even in t,".into(), nfe),
                share,
                best,
                COMPARABLE,
                comparable,
            );
        },
    },
    Claim {
        id: "sjtu/distillation-1-4-nfe",
        slide: "The Sampling Speed Problem: T = 1000 Is Too Slow",
        statement: "A distilled student needs 1 to 4 evaluations.",
        reading: "",
        assumes: "The start has the law of x_t at the noisiest point. Gaussian data for the students of k steps, Gaussian mixtures \
        in one dimension for the consistency map.",
        printed: "",
        formula: r"f(x, t) = m + \sum_k \sqrt{\frac{\lambda_k}{\alpha_t^2 \lambda_k + \sigma_t^2}}\, u_k u_k^T (x - \alpha_t m)",
        finding: "It holds if the student has learned the teacher's flow map exactly: then 1, 2, 3 or 4 evaluations give exactly \
        the data law, and one evaluation of the consistency map carries the noise to a mixture. It is the learned map and not the \
        number of steps that does it: of the deviation of unit-variance data the teacher itself keeps 0.6 percent in one step and \
        61 percent in 4.",
        mutants: &[
            "student outputs the posterior mean",
            "square root forgotten in the map",
            "student of the wrong interval",
        ],
        check: |p| {
            let (mean, unrooted) = (
                p.mutant("student outputs the posterior mean"),
                p.mutant("square root forgotten in the map"),
            );
            let wrong = p.mutant("student of the wrong interval");
            for nfe in 1..=4 {
                p.property(
                    WithCondition,
                    format!(
                        "Deviation of the student's samples in {nfe} of its steps, over the data's"
                    ),
                    24,
                    "rounding of a step's difference of terms, over the smallest step",
                    |t| {
                        let table = t.table(100);
                        let lambda = t.log_uniform(0.05, 5.0);
                        let law =
                            Gaussian::isotropic(Array1::zeros(1), lambda).expect("a variance");
                        let grid: Vec<_> =
                            (0..=nfe).rev().map(|k| still(&table, 100 * k / nfe)).collect();
                        let student = Student { lambda, grid: &grid, mean, wrong };
                        let end = sample(
                            &Ddim { eta: 0.0 },
                            &student,
                            &grid,
                            Array2::ones((1, 1)),
                            &mut Silence,
                        )
                        .expect("a grid");
                        t.compare(end.nfe as f64, nfe as f64, 0.0);
                        let start = Level::from(&grid[0]).var(lambda).sqrt();
                        t.compare(end.x[[0, 0]] * start / law.variances()[0].sqrt(), 1.0, 1e-12);
                    },
                );
            }
            p.property(
                WithCondition,
                "The consistency map of Gaussian data: covariance of its output against the data's",
                64,
                "rounding, over the smallest variance of x_t",
                |t| {
                    let (d, sigma) = (t.int(1, 4), t.uniform(0.3, 0.99));
                    let (law, at) =
                        (t.gaussian(d), PathPoint::still((1.0 - sigma * sigma).sqrt(), sigma));
                    let noised = law.matrix(|l| Level::from(&at).var(l));
                    // Rows alpha mean + e_k give the linear part of the map, row by row.
                    let rows = Array2::<f64>::eye(d) + &(&law.mean() * at.alpha);
                    let mut ends = consistency_map(&law, rows.view(), at)
                        .expect("rows of the law's dimension")
                        - law.mean();
                    if unrooted {
                        law.map_modes(
                            rows.view(),
                            at.alpha,
                            0.0,
                            |l| l / Level::from(&at).var(l),
                            ends.view_mut(),
                        );
                    }
                    let cov = ends.t().dot(&noised).dot(&ends);
                    t.compare_all(&cov, &law.cov(), 1e-12 * law.variances()[0] / (sigma * sigma));
                },
            );
            p.property(
                WithCondition,
                "The consistency map of a mixture: probability below its output against that below its input",
                6,
                "the integrator's 1e-13 a step",
                |t| {
                    let law = t.mixture(1, 2);
                    let at = PathPoint::still(t.uniform(0.1, 0.7), t.uniform(0.5, 1.0));
                    let x = Array2::from_shape_fn((3, 1), |_| t.uniform(-1.5, 1.5));
                    let ends = if mean {
                        law.denoised(x.view(), &at).expect("an exact law")
                    } else {
                        consistency_solve(&law, x.view(), at).expect(
                            "a smooth \
                        law",
                        )
                    };
                    for (start, end) in x.iter().zip(&ends) {
                        t.compare(
                            probability_below(&law, *end, 1.0, 0.0),
                            probability_below(&law, *start, at.alpha, at.sigma),
                            1e-10,
                        );
                    }
                },
            );
            let table = Table::new(Schedule::LINEAR, 1000, false).expect("DDPM's betas");
            for nfe in [1, 4] {
                let levels: Vec<_> =
                    (0..=nfe).rev().map(|k| Level::from(&still(&table, 1000 * k / nfe))).collect();
                let gain = ddim_chain_gain(1.0, &levels);
                p.number(
                    WithoutCondition,
                    format!("Deviation of the teacher's samples in {nfe} of its own steps, unit-variance data, DDPM's schedule"),
                    gain,
                    1.0,
                    1e-9,
                    "equal deviations",
                );
            }
        },
    },
];

/// W2 between centred Gaussians with the same modes: produced deviations (or gains of a unit start)
/// against the data's variances.
fn distance(stds: ArrayView1<f64>, variances: &Array1<f64>) -> f64 {
    Zip::from(stds).and(variances).fold(0.0, |sum, s, l| sum + (s.abs() - l.sqrt()).powi(2)).sqrt()
}

/// Deviation of each mode after all ancestral steps with the posterior's variance, from a start in
/// N(0, I); none is added at t = 1.
fn ancestral(table: &Table, variances: &Array1<f64>) -> Array1<f64> {
    let mut law = Array1::<f64>::ones(variances.len());
    for row in table.rows().iter().rev() {
        Zip::from(&mut law).and(variances).for_each(|v, l| {
            let gain = row.posterior_coef_xt
                + row.posterior_coef_x0 * wiener_gain(*l, row.alpha, row.sigma);
            *v = gain * gain * *v + row.posterior_var;
        });
    }
    law.mapv_into(f64::sqrt)
}

/// A perfect student: its DDIM step along the grid is the exact PF-ODE map.
struct Student<'a> {
    lambda: f64,
    grid: &'a [PathPoint],
    mean: bool,
    wrong: bool,
}

impl Denoiser for Student<'_> {
    fn dim(&self) -> usize {
        1
    }

    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        let k = self.grid.iter().position(|p| p.sigma == at.sigma).expect("a point of the grid");
        let (from, to) = (Level::from(at), Level::from(&self.grid[k + 1]));
        let learned =
            if self.wrong { Level { alpha: from.alpha, sigma: 0.5 * from.sigma } } else { to };
        let gain = if self.mean {
            wiener_gain(self.lambda, from.alpha, from.sigma)
        } else {
            distilled_denoiser_gain(psi(self.lambda, from, learned), from, to)
        };
        out.assign(&(&x * gain));
        Ok(())
    }
}

/// P(x_t <= x) of a mixture in one dimension.
fn probability_below(law: &Mixture, x: f64, alpha: f64, sigma: f64) -> f64 {
    let part = |c: &Gaussian| {
        log_cdf(
            (x - alpha * c.mean()[0]) / (alpha * alpha * c.variances()[0] + sigma * sigma).sqrt(),
        )
        .exp()
    };
    law.components().iter().zip(law.weights()).map(|(c, w)| w * part(c)).sum()
}
