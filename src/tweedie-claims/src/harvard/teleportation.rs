//! Analytical teleportation: the first steps of a sampler replaced by the Gaussian's closed form.

use super::tools::{ddim, level, noised};
use crate::Claim;
use crate::Role::{WithCondition, WithoutCondition};
use ndarray::{Array1, Array2};
use tweedie::diffusion::PathPoint;
use tweedie::exact::pf_ode::pf_ode_solve;
use tweedie::exact::teleport::{gaussian_with_moments_of, teleport, teleport_error};
use tweedie::law::{Gaussian, Law};

/// Where the trajectories start, in deviations of the data.
const START: f64 = 60.0;
/// Steps of the whole run.
const STEPS: usize = 24;
/// How much worse counts as the same accuracy.
const SAME: f64 = 1.05;

pub(super) const CLAIMS: &[Claim] = &[Claim {
    id: "harvard/teleportation",
    slide: "Gaussian solution enables analytical teleportation to accelerate sampling",
    statement: "Jumping analytically from sigma_T to a lower sigma and integrating from there saves evaluations of the denoiser at the same accuracy.",
    reading: "Same accuracy: the error against the exact trajectory is at most 5 % larger than that of the whole run.",
    assumes: "Random mixtures on a plane with their exact denoiser; 24 DDIM steps in equal ratios of sigma from 60 deviations down to a hundredth of one.",
    printed: "",
    formula: r"x(\sigma) \approx \mu + \sum_k \sqrt{\frac{\sigma^2 + \lambda_k}{\sigma_T^2 + \lambda_k}} u_k u_k^T (x_T - \mu)",
    finding: "It is true if the jump ends well above the data's deviation, where any law looks Gaussian: down to ten deviations it saves 5 of 24 evaluations and \
              loses nothing. Down to a fifth of the deviation, inside the mixture's structure, it lands on the wrong trajectory and the error is several times larger.",
    mutants: &["jump by the ratio of noise levels", "no mean", "jump into the structure"],
    check: |p| {
        let (ratio, meanless) =
            (p.mutant("jump by the ratio of noise levels"), p.mutant("no mean"));
        // What a jump leaves out, the third cumulant, weighs as the squared ratio of deviation and
        // sigma: a hundredth.
        let high = p.pick(10.0, "jump into the structure", 0.2);
        let jump = move |law: &dyn Law, x: &Array2<f64>, from: &PathPoint, to: &PathPoint| {
            let fitted = gaussian_with_moments_of(law).expect("moments");
            let fitted = if meanless {
                Gaussian::new(Array1::zeros(law.dim()), law.cov().view()).expect("a covariance")
            } else {
                fitted
            };
            if ratio {
                &law.mean() + &((x - &law.mean()) * (to.sigma / from.sigma))
            } else {
                teleport(&fitted, x.view(), from, to).expect("levels")
            }
        };
        for (role, stop, what) in [
            (
                WithCondition,
                high,
                "Jump to 10 deviations: error of the shorter run over that of the whole run",
            ),
            (
                WithoutCondition,
                0.2,
                "Jump to a fifth of the deviation: error of the shorter run over that of the whole run",
            ),
        ] {
            p.property(role, what, 3, "the same accuracy within 5 %", |t| {
                let law = t.mixture(2, 3);
                let std = (Law::cov(&law).diag().sum() / 2.0).sqrt();
                let sigmas = grid(std);
                let start = level(sigmas[0]);
                let x = law.sample(6, &t.noise()) + t.normal_rows(6, 2) * start.sigma;
                let exact = pf_ode_solve(&law, x.view(), &[start, level(0.0)])
                    .expect("a noisy start")
                    .swap_remove(1);
                let error =
                    |end: Array2<f64>| (end - &exact).iter().map(|e| e * e).sum::<f64>().sqrt();
                let whole = error(ddim(&law, x.clone(), &sigmas, 0.0));
                let kept: Vec<f64> = sigmas.iter().copied().filter(|s| *s <= stop * std).collect();
                let short = error(ddim(&law, jump(&law, &x, &start, &level(kept[0])), &kept, 0.0));
                t.compare((short / whole).max(1.0), 1.0, SAME - 1.0);
            });
        }
        let sigmas = grid(1.0);
        let saved = sigmas.iter().filter(|s| **s > high).count();
        p.number(
            WithCondition,
            "Evaluations saved of 24 by the jump to 10 deviations",
            saved as f64,
            5.0,
            0.0,
            "a count",
        );
        p.property(
            WithCondition,
            "Gaussian data: error of the jump itself, to any level",
            4,
            "reference integrator of 1e-13 a step",
            |t| {
                let law = t.gaussian(3);
                let (from, to) =
                    (level(t.log_uniform(10.0, 60.0)), level(t.log_uniform(0.05, 5.0)));
                let x = noised(t, &law, &from);
                let solved = pf_ode_solve(&law, x.view(), &[from, to])
                    .expect("a noisy start")
                    .swap_remove(1);
                t.compare_all(&jump(&law, &x, &from, &to), &solved, 1e-9);
                t.compare(teleport_error(&law, x.view(), from, to).expect("levels")[0], 0.0, 1e-9);
            },
        );
    },
}];

/// Noise levels of the whole run, the data's deviation given.
fn grid(std: f64) -> Vec<f64> {
    (0..STEPS).map(|k| std * START * (0.01 / START).powf(k as f64 / (STEPS - 1) as f64)).collect()
}
