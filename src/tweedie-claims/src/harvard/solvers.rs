//! Solvers of higher order, and the map that distillation learns.

use crate::{Claim, Probe, Role};
use ndarray::array;
use tweedie::diffusion::level::Level;
use tweedie::diffusion::path::Path;
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::exact::consistency::{consistency_map, consistency_solve};
use tweedie::exact::gains::psi;
use tweedie::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use tweedie::exact::reverse_sde::{Churn, mean_gain, variance};
use tweedie::law::Gaussian;
use tweedie::math::larger;
use tweedie::sample::adams::Plms;
use tweedie::sample::ancestral::Ddim;
use tweedie::sample::dpm_solver::{DpmSolver2, DpmSolver3};
use tweedie::sample::dpmpp::{Dpmpp2m, Dpmpp2s, Dpmpp3m, Dpmpp3mPublished};
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::Silence;
use tweedie::sample::runge_kutta::Heun;
use tweedie::sample::{Sampler, sample};

pub(super) const CLAIMS: &[Claim] = &[
    Claim {
        id: "harvard/higher-order-solvers",
        slide: "Efficient generation",
        statement: "DDIM, Heun, PLDM, DPM-Solver++ and DPM-Solver-v3 are ODE solvers of higher order.",
        reading: "The slide lists the five as \"higher-order, better ODE solver\"; higher means above one. PLDM is read as PLMS, the pseudo linear multistep method. Of DPM-Solver++ the methods 2S, 2M and 3M are measured, and DPM-Solver-2 and -3 from which they come. DPM-Solver-v3, which needs statistics of the model, is not checked.",
        assumes: "Gaussian data and the exact denoiser, so that the exact trajectory is known; a grid even in log-SNR that ends before sigma = 0; from 80 to 160 steps.",
        printed: "",
        formula: r"\text{order} = \log_2 \frac{\text{error with } N \text{ steps}}{\text{error with } 2N \text{ steps}}",
        finding: "It holds if DDIM is left out, which is Euler's step and of order 1. Measured on the others: 2 for Heun, PLMS, DPM-Solver-2, DPM-Solver++ 2S and 2M; 3 for DPM-Solver-3 and for the \
                  three-step multistep DPM-Solver++ with a second-order start. The three-step update as public code has it lacks a factor of 2 in its second difference and converges at order 2.",
        mutants: &[
            "DDIM in Heun's place",
            "third-order update as printed",
            "start states off the trajectory",
        ],
        check: orders,
    },
    Claim {
        id: "harvard/consistency-learns-trajectory",
        slide: "Efficient generation",
        statement: "The solution of the ODE is a deterministic map, which a consistency model can learn.",
        reading: "",
        assumes: "The exact probability-flow ODE.",
        printed: "",
        formula: r"f(x_t, t) = f(x_s, s) = x_0 \text{ along each trajectory}, \qquad f(x, 0) = x",
        finding: "The end is one function of the state at any level, constant along trajectories and the identity at sigma = 0, so that regression on it leaves no error. \
                  It is not the denoiser, whose regression leaves the posterior variance, and a reverse SDE has no such map: its end keeps a variance given the state.",
        mutants: &["denoiser for the map", "state without its scaling", "reverse SDE for the ODE"],
        check: consistency,
    },
];

fn orders(p: &mut Probe) {
    let (euler, published, off) = (
        p.mutant("DDIM in Heun's place"),
        p.mutant("third-order update as printed"),
        p.mutant("start states off the trajectory"),
    );
    let heun: &dyn Sampler = if euler { &Ddim { eta: 0.0 } } else { &Heun::DETERMINISTIC };
    let third: &dyn Sampler =
        if published { &Dpmpp3mPublished { lower_final: false } } else { &Dpmpp3m };
    let law = Gaussian::diagonal(array![0.5, -1.0, 0.2], array![2.0, 0.3, 0.01]).expect("a law");
    let start = array![[0.7, -1.1, 0.4], [-1.3, 0.2, 0.9]];
    let error = |sampler: &dyn Sampler, steps: usize| {
        let grid =
            Grid { s_min: 0.05, s_max: 20.0, clean: false, ..Grid::new(Spacing::LogSnr, steps) };
        let grid = grid.points(&Path::Cosine).expect("on the path");
        let exact = pf_ode_map(&law, start.view(), grid[0], grid[grid.len() - 1]).expect("regular");
        let from = if off { &start + 1e-3 } else { start.clone() };
        let end = sample(sampler, &law, &grid, from, &mut Silence).expect("a grid with signal").x;
        (end - exact).iter().map(|e| e.abs()).fold(0.0, larger)
    };
    let methods: [(Role, &str, &dyn Sampler, f64); 9] = [
        (
            Role::WithoutCondition,
            "DDIM, which should be above one, at least 2",
            &Ddim { eta: 0.0 },
            2.0,
        ),
        (Role::WithCondition, "Heun", heun, 2.0),
        (Role::WithCondition, "PLMS", &Plms, 2.0),
        (Role::WithCondition, "DPM-Solver-2", &DpmSolver2, 2.0),
        (Role::WithCondition, "DPM-Solver-3", &DpmSolver3, 3.0),
        (Role::WithCondition, "DPM-Solver++ 2S", &Dpmpp2s, 2.0),
        (Role::WithCondition, "DPM-Solver++ 2M", &Dpmpp2m { lower_final: false }, 2.0),
        (Role::WithCondition, "DPM-Solver++ 3M with a second-order start", third, 3.0),
        (
            Role::WithCondition,
            "DPM-Solver++ 3M as in public code",
            &Dpmpp3mPublished { lower_final: false },
            2.0,
        ),
    ];
    for (role, name, sampler, want) in methods {
        let got = (error(sampler, 80) / error(sampler, 160)).log2();
        p.number(
            role,
            format!("{name}: observed order"),
            got,
            want,
            0.2,
            "the next order is about 1/80 of each error, times its constant",
        );
    }
}

fn consistency(p: &mut Probe) {
    let (denoiser, unscaled, sde) = (
        p.mutant("denoiser for the map"),
        p.mutant("state without its scaling"),
        p.mutant("reverse SDE for the ODE"),
    );
    let map = move |law: &Gaussian, x: ndarray::ArrayView2<f64>, at: &PathPoint| {
        if denoiser {
            let mut out = x.to_owned();
            law.denoise(x, at, out.view_mut()).expect("an exact law");
            out
        } else if unscaled {
            consistency_map(law, x, PathPoint::still(1.0, at.edm_sigma())).expect("regular")
        } else {
            consistency_map(law, x, at).expect("regular")
        }
    };
    p.property(
        Role::Printed,
        "the map at two levels of one exact trajectory, and the trajectory's clean end, random Gaussians",
        96,
        "1e-11 of the states",
        |t| {
            let (law, path, x) = (t.gaussian(2), t.path(), t.normal_rows(3, 2) * 2.0);
            let (from, to) = (path.at(t.uniform(0.6, 0.95)).expect("inside"), path.at(t.uniform(0.1, 0.6)).expect("inside"));
            let x = &x * from.alpha.hypot(from.sigma);
            let later = pf_ode_map(&law, x.view(), from, to).expect("regular");
            let end = pf_ode_map(&law, x.view(), from, PathPoint::CLEAN).expect("regular");
            let size = end.iter().map(|e| e.abs()).fold(1.0, larger);
            t.compare_all(&map(&law, later.view(), &to), &map(&law, x.view(), &from), 1e-11 * size);
            t.compare_all(&map(&law, later.view(), &to), &end, 1e-11 * size);
        },
    );
    p.property(
        Role::Printed,
        "the map at sigma = 0, against the identity",
        32,
        "1e-12: the gains round",
        |t| {
            let (law, x) = (t.gaussian(2), t.normal_rows(3, 2));
            t.compare_all(&map(&law, x.view(), &PathPoint::CLEAN), &x, 1e-13 * 10.0);
        },
    );
    p.property(
        Role::Printed,
        "mixtures: the integrated map from two levels of one trajectory",
        3,
        "1e-9: the integrator allows 1e-13 a step",
        |t| {
            let (law, x) = (t.mixture(1, 2), t.normal_rows(3, 1));
            let (from, to) = (
                Path::Cosine.at(0.9).expect("inside"),
                Path::Cosine.at(t.uniform(0.2, 0.7)).expect("inside"),
            );
            let later = pf_ode_solve(&law, x.view(), &[from, to]).expect("regular").swap_remove(1);
            let (a, b) = (
                consistency_solve(&law, x.view(), from).expect("regular"),
                consistency_solve(&law, later.view(), to).expect("regular"),
            );
            t.compare_all(&a, &b, 1e-9);
        },
    );
    p.property(
        Role::Printed,
        "variance of the end given the state, one mode: none, as the squared gain times the state's variance is all there is",
        64,
        "1e-12 of the variance",
        |t| {
            let (lambda, at) = (t.log_uniform(0.01, 5.0), t.point());
            let (from, to) = (Level::from(&at), Level { alpha: 1.0, sigma: 0.0 });
            let churn = Churn::Constant(if sde { 1.0 } else { 0.0 });
            t.compare(variance(lambda, 0.0, from, to, churn), 0.0, 1e-12 * lambda);
            t.compare(mean_gain(lambda, from, to, churn), psi(lambda, from, to), 1e-12 * (1.0 + psi(lambda, from, to)));
        },
    );
}
