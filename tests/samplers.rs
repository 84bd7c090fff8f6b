//! What holds for every sampler: order, evaluations, point masses, predictions, laws; and which
//! wrong variants that notices.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, array};
use std::sync::atomic::{AtomicUsize, Ordering};
use tweedie::diffusion::prediction::Prediction;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::exact::student::ddim_law;
use tweedie::law::conditional::Guided;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::sample::certify::{CERTIFIED_STEPS, study, study_grid};
use tweedie::sample::check::{Recording, Verdict, check_ode, check_samples, check_sde};
use tweedie::sample::grid::{Grid, Spacing, checked};
use tweedie::sample::model::{Clipped, Predicting};
use tweedie::sample::noise_source::{Rows, Silence, standard_start};
use tweedie::sample::propagate::{Response, Start};
use tweedie::sample::registry::{BELOW_DECLARED, Named, Options, SAMPLERS, sampler};
use tweedie::sample::shortcut::Known;
use tweedie::sample::unipc::{Scale, UniPc};
use tweedie::sample::{NoiseSource, Run, Sampler, ancestral, dpmpp, sample, trajectory};
use tweedie::{Error, Result};

fn gaussian() -> Gaussian {
    Gaussian::diagonal(array![0.5, -1.0, 0.3], array![4.0, 1.0, 0.04]).unwrap()
}

fn mixture() -> Mixture {
    let part =
        |m: f64, v: f64| Gaussian::diagonal(array![m, -0.5 * m], array![v, 0.5 * v]).unwrap();
    Mixture::new(array![0.3, 0.5, 0.2], vec![part(-1.5, 0.2), part(0.3, 0.4), part(2.0, 0.1)])
        .unwrap()
}

fn linear_table() -> Path {
    Path::Discrete(Table::new(Schedule::LINEAR, 1000, false).unwrap())
}

/// Every spacing on a path that has it, few steps and many, to the data and short of it.
fn grids(steps: usize) -> Vec<(String, Vec<PathPoint>)> {
    let mut all = Vec::new();
    for path in [Path::Cosine, Path::VP, Path::EDM, Path::VE, Path::FlowMatching, linear_table()] {
        for spacing in [
            Spacing::Uniform,
            Spacing::Karras,
            Spacing::LogSnr,
            Spacing::Exponential,
            Spacing::Beta,
            Spacing::Leading,
            Spacing::Trailing,
            Spacing::Linspace,
        ] {
            if matches!(spacing, Spacing::Leading | Spacing::Trailing | Spacing::Linspace)
                && !matches!(path, Path::Discrete(_))
            {
                continue;
            }
            for clean in [true, false] {
                let grid = Grid { s_max: 40.0, s_min: 0.02, clean, ..Grid::new(spacing, steps) };
                all.push((
                    format!("{} {spacing:?} {steps} {clean}", path.name()),
                    grid.points(&path).unwrap(),
                ));
            }
        }
    }
    all
}

/// Every sampler that needs no law, and those that need it with one.
fn all<'a>(law: &'a Gaussian) -> impl Iterator<Item = (&'static str, Box<dyn Sampler + 'a>)> {
    let options = Options {
        law: Some(Known::Gaussian(law)),
        churn: 3.0,
        g: 0.7,
        eta: 0.4,
        ..Options::default()
    };
    SAMPLERS.iter().map(move |e| (e.name, sampler(e.name, &options).unwrap()))
}

fn starts(n: usize, d: usize, at: &PathPoint) -> Array2<f64> {
    Array2::from_shape_fn((n, d), |(i, j)| at.sigma * (((i * 5 + j * 3) % 11) as f64 / 4.0 - 1.3))
}

fn worst(gaps: impl IntoIterator<Item = f64>) -> f64 {
    gaps.into_iter().map(|e| e.abs()).fold(0.0, larger)
}

#[test]
fn evaluations_are_as_declared_and_every_small_number_of_steps_reaches_the_data() {
    let law = gaussian();
    let mut from_pure_noise = 0;
    for steps in 1..=12 {
        let mut grids = grids(steps);
        // Flow matching from t = 1, where sigma / alpha is infinite.
        grids.push((
            "fm from 1".into(),
            Grid { s_max: f64::INFINITY, ..Grid::new(Spacing::Uniform, steps) }
                .points(&Path::FlowMatching)
                .unwrap(),
        ));
        for (what, grid) in &grids {
            for (name, method) in all(&law) {
                let end =
                    match sample(&method, &law, grid, starts(2, 3, &grid[0]), &mut Noise::new(1)) {
                        Ok(end) => end,
                        Err(Error::Singular { .. }) if grid[0].alpha == 0.0 => continue,
                        Err(e) => panic!("{name} on {what}: {e}"),
                    };
                from_pure_noise += usize::from(grid[0].alpha == 0.0);
                assert_eq!(end.nfe, method.nfe(grid), "{name} on {what}");
                // A step to the data may draw nothing.
                if !method.is_stochastic() {
                    assert_eq!(end.draws, 0, "{name} on {what} draws noise and does not say so");
                } else if grid.windows(2).any(|w| w[1].sigma > 0.0) {
                    assert!(end.draws > 0, "{name} on {what} says that it draws noise");
                }
                // Euler-Maruyama and Langevin blow up on steep grids, but not to NaN.
                assert!(end.x.iter().all(|x| x.is_finite()), "{name} on {what}: {}", end.x);
            }
        }
    }
    assert!(from_pure_noise >= 12 * 8, "only {from_pure_noise} runs could start from pure noise");
}

/// A law whose denoiser gives up at one evaluation, counted from 0.
struct Refuses {
    law: Gaussian,
    left: AtomicUsize,
}

impl Refuses {
    fn at(law: &Gaussian, evaluation: usize) -> Self {
        Self { law: law.clone(), left: AtomicUsize::new(evaluation) }
    }
}

impl Denoiser for Refuses {
    fn dim(&self) -> usize {
        self.law.dim()
    }

    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        match self.left.fetch_sub(1, Ordering::Relaxed) {
            0 => Err(Error::device("test", "is lost", "find it")),
            _ => self.law.denoise(x, at, out),
        }
    }
}

impl Law for Refuses {
    fn mean(&self) -> Array1<f64> {
        Law::mean(&self.law)
    }
    fn cov(&self) -> Array2<f64> {
        self.law.cov()
    }
    fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
        self.law.log_density(x, at)
    }
    fn posterior_cov(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        self.law.posterior_cov(x, at)
    }
    fn sample(&self, n: usize, noise: &Noise) -> Array2<f64> {
        Law::sample(&self.law, n, noise)
    }
}

/// The error itself, at whichever evaluation of a run it comes up: no state is made of what was not
/// computed.
#[test]
fn what_a_denoiser_refuses_ends_every_sampler() {
    let law = gaussian();
    let mut names = vec![];
    for path in [Path::EDM, linear_table()] {
        let grid = Grid::new(Spacing::Uniform, 5).points(&path).unwrap();
        for (name, method) in all(&law) {
            let run = |model: &dyn Denoiser| {
                sample(&method, model, &grid, starts(2, 3, &grid[0]), &mut Noise::new(1))
            };
            let nfe = run(&law).unwrap().nfe;
            for k in 0..nfe {
                let refused = run(&Refuses::at(&law, k));
                assert!(
                    matches!(refused, Err(Error::Device { .. })),
                    "{name} on {}, evaluation {k} of {nfe}: {refused:?}",
                    path.name()
                );
                // Through each of the models that wrap another.
                let inner = &Refuses::at(&law, k);
                let clipped = run(&Clipped { inner, bound: 3.0 });
                let inner = &Refuses::at(&law, k);
                let predicting = run(&Predicting { inner, kind: Prediction::V });
                let inner = &Refuses::at(&law, k);
                let guided = run(&Guided::new(&law, inner, 2.0).unwrap());
                for wrapped in [clipped, predicting, guided] {
                    assert!(matches!(wrapped, Err(Error::Device { .. })), "{name}: {wrapped:?}");
                }
            }
            if nfe > 0 {
                names.push(name);
            }
        }
    }
    // Only the method that knows the law asks no model; it asks the law.
    assert_eq!(names.len(), 2 * (SAMPLERS.len() - 1));
    let grid = Grid::new(Spacing::Uniform, 5).points(&Path::EDM).unwrap();
    let refuses = Refuses::at(&law, 40);
    let options = Options::default().on(Known::Any(&refuses));
    let exact = sampler("exact", &options).unwrap();
    let refused = sample(&exact, &law, &grid, starts(2, 3, &grid[0]), &mut Silence);
    assert!(matches!(refused, Err(Error::Device { .. })), "{refused:?}");
}

/// A step in the path's own time needs to know it, and the rates at both of its ends.
#[test]
fn a_time_or_a_rate_that_is_not_known_is_said() {
    let law = gaussian();
    let at = |t| Path::FlowMatching.at(t).unwrap();
    let said = |name: &str, grid: &[PathPoint]| {
        let method = sampler(name, &Options::default()).unwrap();
        sample(&method, &law, grid, starts(2, 3, &grid[0]), &mut Noise::new(1)).map(|end| end.x)
    };
    let timeless = PathPoint::from(at(0.5).level());
    let rateless = Path::FlowMatching.still_at(0.5).unwrap();
    for name in ["fm-euler", "fm-heun", "em"] {
        assert!(said(name, &[at(0.9), at(0.5), at(0.1)]).is_ok());
        let refused = said(name, &[at(0.9), timeless, at(0.1)]).unwrap_err().to_string();
        assert!(refused.contains("t = 0.9 to none"), "{name}: {refused}");
        let refused = said(name, &[at(0.9), rateless, at(0.1)]).unwrap_err().to_string();
        let (landing, leaving) = ("rates are not known", "finite rates");
        assert!(
            refused.contains(if name == "fm-heun" { landing } else { leaving }),
            "{name}: {refused}"
        );
    }
    // What steps in the level alone needs neither.
    let level = said("ddim", &[at(0.9), timeless, at(0.1)]).unwrap();
    assert_eq!(level, said("ddim", &[at(0.9), at(0.5), at(0.1)]).unwrap());
}

/// Methods whose formula is infinite in pure noise, alpha = 0: they step in sigma / alpha or its
/// logarithm, or by the rate of an SDE.
const NOT_FROM_PURE_NOISE: [&str; 13] = [
    "deis",
    "dpm-2",
    "dpm-2-ancestral",
    "dpm-solver-2",
    "dpm-solver-3",
    "edm-heun",
    "em",
    "heun",
    "langevin",
    "lms",
    "plms",
    "reverse-sde-family",
    "rk4",
];

/// From the end of every path that is noise to the data themselves, which VE and its like never
/// reach.
#[test]
fn every_sampler_runs_on_every_path_from_end_to_end() {
    let law = gaussian();
    let without_signal = Path::Discrete(Table::new(Schedule::LINEAR, 1000, true).unwrap());
    let paths = [
        Path::VP,
        Path::VE,
        Path::EDM,
        Path::Cosine,
        Path::FlowMatching,
        linear_table(),
        without_signal,
    ];
    let mut refused = Vec::new();
    for path in &paths {
        let mut spacings = vec![Spacing::Uniform, Spacing::LogSnr, Spacing::Karras];
        if matches!(path, Path::Discrete(_)) {
            spacings.extend([Spacing::Trailing, Spacing::Linspace]);
        }
        for spacing in spacings {
            // As far as the path goes at both ends, where it has a level to space by.
            let table = matches!(spacing, Spacing::Trailing | Spacing::Linspace);
            let s_min = if path.still_at(0.0).unwrap().sigma > 0.0 && !table { 0.0 } else { 1e-3 };
            let s_max = if spacing == Spacing::Uniform { f64::INFINITY } else { 1e4 };
            for steps in [2, 9, 40] {
                let grid = Grid { s_max, s_min, ..Grid::new(spacing, steps) }.points(path).unwrap();
                for (name, method) in all(&law) {
                    match sample(&method, &law, &grid, starts(2, 3, &grid[0]), &mut Noise::new(1)) {
                        // Euler's step in time multiplies rounding on a steep path, but not to NaN.
                        Ok(end) => assert!(
                            end.x.iter().all(|x| x.is_finite()),
                            "{name} on {} {spacing:?}: {}",
                            path.name(),
                            end.x
                        ),
                        Err(error) => {
                            let pure =
                                grid[0].alpha == 0.0 && matches!(error, Error::Singular { .. });
                            assert!(pure, "{name} on {} {spacing:?}: {error}", path.name());
                            refused.push(name);
                        }
                    }
                }
            }
        }
    }
    refused.sort_unstable();
    refused.dedup();
    assert_eq!(refused, NOT_FROM_PURE_NOISE);
}

/// The order that a method declares is that from any start, pure noise too.
#[test]
fn orders_hold_from_pure_noise() {
    let (law, mixture) = (gaussian(), mixture());
    let pure = |path: Path| {
        move |n: usize| {
            Grid {
                s_max: f64::INFINITY,
                s_min: 0.05,
                clean: false,
                ..Grid::new(Spacing::Uniform, n)
            }
            .points(&path)
        }
    };
    for (name, method) in all(&law) {
        let Some(declared) = method.order().filter(|_| !BELOW_DECLARED.contains(&name)) else {
            continue;
        };
        if NOT_FROM_PURE_NOISE.contains(&name) {
            continue;
        }
        for path in [Path::FlowMatching, Path::Cosine] {
            let of = path.name();
            let mut found = vec![
                study(&method, Known::Gaussian(&law), &CERTIFIED_STEPS, pure(path.clone()))
                    .unwrap(),
            ];
            if !method.is_stochastic() {
                found.push(
                    study(&method, Known::Any(&mixture), &CERTIFIED_STEPS, pure(path)).unwrap(),
                );
            }
            for study in found {
                let order = study.order.unwrap();
                assert!(
                    order.slope >= f64::from(declared) - 0.1,
                    "{name} on {of}: {order:?}, declared {declared}, {:?}",
                    study.runs
                );
            }
        }
    }
}

/// Each number of points, scale and ending of UniPC: what it declares is what it has.
#[test]
fn unipc_has_the_order_that_it_declares() {
    let law = gaussian();
    for points in 1..=3 {
        for scale in [Scale::Bh1, Scale::Bh2] {
            for lower_final in [false, true] {
                let method = UniPc { points, scale, lower_final };
                let study = study(
                    &method,
                    Known::Gaussian(&law),
                    &[40, 80, 160, 320, 640, 1280],
                    study_grid,
                )
                .unwrap();
                let (order, declared) = (study.order.unwrap(), f64::from(method.order().unwrap()));
                // One step of the lower order at an end is a small part of the error at first:
                // slopes come down to 3 from 3.6, and to 2 from 2.9.
                assert!(
                    (order.slope - declared).abs() <= 0.25,
                    "{points} {scale:?} {lower_final}: {order:?}, {:?}",
                    study.runs
                );
            }
        }
    }
}

#[test]
fn a_point_mass_is_reproduced() {
    let place = array![0.7, -1.2];
    let law = Gaussian::diagonal(place.clone(), array![0.0, 0.0]).unwrap();
    for steps in [1, 2, 3, 5, 12] {
        for (what, grid) in grids(steps) {
            for (name, method) in all(&law).filter(|(_, m)| m.is_exact_for_a_point_mass()) {
                if method.is_stochastic() {
                    let response = Response::of(&method, &grid, array![0.0]).unwrap();
                    let error = response.errors(&array![0.7], Start::Marginal)[0];
                    // As below: a slope at the end of a step divides the state's rounding by its
                    // sigma, and is taken over all of s.
                    let tol = 1e-12 * (1.0 + grid[0].edm_sigma());
                    assert!(
                        error.mean_err.abs() <= tol,
                        "{name} on {what}: mean {}",
                        error.mean_err
                    );
                    let tol = tol * (2.0 * error.want_var.sqrt() + tol);
                    assert!(
                        (error.var - error.want_var).abs() <= tol,
                        "{name} on {what}: {} {}",
                        error.var,
                        error.want_var
                    );
                    continue;
                }
                for kind in Prediction::ALL {
                    let model = Predicting { inner: &law, kind };
                    let eps = array![1.1, -0.4];
                    let state = |p: &PathPoint| &place * p.alpha + &eps * p.sigma;
                    let start = state(&grid[0]).insert_axis(ndarray::Axis(0));
                    let (states, _) =
                        trajectory(&method, &model, &grid, start, &mut Silence).unwrap();
                    for (x, p) in states.iter().zip(&grid) {
                        // An eps of rounding size times sigma / alpha is an x0 of that size, at s =
                        // 40 for eps and the score; and see above.
                        let tol = 1e-12 * p.alpha.hypot(p.sigma) * (1.0 + grid[0].edm_sigma());
                        let gap = worst(&x.row(0) - &state(p));
                        assert!(gap <= tol, "{name} as {kind} on {what} at {p:?}: {gap:e}");
                        // And to the bit where the data is reached, from a model of x0.
                        assert!(
                            p.sigma > 0.0
                                || kind != Prediction::X0
                                || gap <= 4.0 * f64::EPSILON
                                || ["lms", "plms", "exact"].contains(&name),
                            "{name}: {gap:e}"
                        );
                    }
                }
            }
        }
    }
}

#[test]
fn the_prediction_type_changes_nothing() {
    let law = mixture();
    let grid = Grid { s_max: 20.0, s_min: 0.05, ..Grid::new(Spacing::LogSnr, 12) }
        .points(&Path::Cosine)
        .unwrap();
    let options = Options { law: Some(Known::Any(&law)), ..Options::default() };
    for entry in SAMPLERS.iter().filter(|e| e.name != "exact") {
        let method = sampler(entry.name, &options).unwrap();
        let run = |model: &dyn Denoiser| {
            sample(&method, model, &grid, starts(4, 2, &grid[0]), &mut Noise::new(5)).unwrap().x
        };
        let want = run(&law);
        for kind in Prediction::ALL {
            let got = run(&Predicting { inner: &law, kind });
            // Rounding of x0 grows by sigma / alpha = 20 through eps.
            assert!(
                worst(&got - &want) <= 1e-11 * (1.0 + worst(want.iter().copied())),
                "{} as {kind}",
                entry.name
            );
        }
    }
}

#[test]
fn clipping_keeps_state_and_eps_together() {
    let law = mixture();
    let model = Clipped { inner: &law, bound: 0.5 };
    let grid = Grid { s_max: 20.0, s_min: 0.05, clean: false, ..Grid::new(Spacing::LogSnr, 6) }
        .points(&Path::Cosine)
        .unwrap();
    let start = starts(4, 2, &grid[0]);
    let (states, _) =
        trajectory(&ancestral::Ddim { eta: 0.0 }, &model, &grid, start, &mut Silence).unwrap();
    for (k, pair) in states.windows(2).enumerate() {
        let (from, to) = (grid[k], grid[k + 1]);
        let mut x0_hat = Array2::zeros(pair[0].raw_dim());
        model.denoise(pair[0].view(), &from, x0_hat.view_mut()).unwrap();
        let eps_hat = (&pair[0] - &(&x0_hat * from.alpha)) / from.sigma;
        let want = &x0_hat * to.alpha + &eps_hat * to.sigma;
        assert!(worst(&pair[1] - &want) <= 1e-14, "step {k}");
    }
}

#[test]
fn propagated_laws_are_closed_forms_and_sample_moments() {
    let law = gaussian();
    let grid = Grid { s_max: 20.0, s_min: 0.1, clean: false, ..Grid::new(Spacing::Karras, 10) }
        .points(&Path::Cosine)
        .unwrap();
    let last = grid[10];
    // The chain of DDIM gains is a formula.
    let response =
        Response::of(&ancestral::Ddim { eta: 0.0 }, &grid, law.variances().to_owned()).unwrap();
    let prior = Gaussian::isotropic(Array1::zeros(3), 1.0).unwrap();
    let want = ddim_law(&law, &prior, &grid).unwrap();
    for (k, mode) in response.errors(&law.mean().to_owned(), Start::Normal(1.0)).iter().enumerate()
    {
        assert!((mode.var - Law::cov(&want)[[k, k]]).abs() <= 1e-14 * (1.0 + mode.var));
        assert!((mode.mean_err - (want.mean()[k] - last.alpha * law.mean()[k])).abs() <= 1e-14);
    }
    // Everything else against 40000 samples, at five standard errors.
    let n = 40_000;
    let noise = Noise::new(3);
    for (name, method) in all(&law) {
        let options = Options { churn: 3.0, g: 0.7, eta: 0.4, ..Options::default() };
        let response =
            Response::of_method(&Named { name, options }, &grid, Law::cov(&law).diag().to_owned())
                .unwrap();
        let end = sample(&method, &law, &grid, standard_start(&noise, n, 3), &mut noise.clone())
            .unwrap()
            .x;
        for (k, mode) in response.errors(&Law::mean(&law), Start::Normal(1.0)).iter().enumerate() {
            let column = end.column(k);
            let mean = column.mean().unwrap();
            let var = column.iter().map(|x| (x - mean).powi(2)).sum::<f64>() / (n - 1) as f64;
            let want = last.alpha * Law::mean(&law)[k] + mode.mean_err;
            assert!(
                (mean - want).abs() <= 5.0 * (mode.var / n as f64).sqrt(),
                "{name} mode {k}: mean {mean} {want}"
            );
            assert!(
                (var / mode.var - 1.0).abs() <= 5.0 * (2.0 / n as f64).sqrt(),
                "{name} mode {k}: variance {var} {}",
                mode.var
            );
        }
    }
}

#[test]
fn a_run_split_by_rows_draws_the_same_bits() {
    let law = gaussian();
    let grid = Grid::new(Spacing::Karras, 6).points(&Path::EDM).unwrap();
    let noise = Noise::new(11);
    let start = standard_start(&noise, 7, 3) * 80.0;
    for (name, method) in all(&law).filter(|(_, m)| m.is_stochastic()) {
        let whole = sample(&method, &law, &grid, start.clone(), &mut noise.clone()).unwrap().x;
        let tail = start.slice(ndarray::s![3.., ..]).to_owned();
        let part = sample(&method, &law, &grid, tail, &mut Rows { noise, first_row: 3 }).unwrap().x;
        assert_eq!(part, whole.slice(ndarray::s![3.., ..]), "{name}");
    }
}

#[test]
fn tables_are_stepped_as_their_names_say() {
    let path = linear_table();
    let Path::Discrete(table) = &path else { unreachable!() };
    let rows = |spacing, steps| -> Vec<usize> {
        let points = Grid::new(spacing, steps).points(&path).unwrap();
        let row = |p: &PathPoint| {
            1 + table.rows().iter().position(|r| (r.alpha, r.sigma) == (p.alpha, p.sigma)).unwrap()
        };
        points[..steps].iter().map(row).collect()
    };
    // One more than the 0-based timesteps of diffusers: leading 900..0, trailing 999..99, linspace
    // 999..0.
    assert_eq!(rows(Spacing::Leading, 10), (0..10).map(|k| 901 - 100 * k).collect::<Vec<_>>());
    assert_eq!(rows(Spacing::Trailing, 10), (0..10).map(|k| 1000 - 100 * k).collect::<Vec<_>>());
    assert_eq!(rows(Spacing::Linspace, 4), vec![1000, 667, 334, 1]);
    for spacing in [Spacing::Leading, Spacing::Trailing, Spacing::Linspace] {
        assert_eq!(rows(spacing, 1000), (1..=1000).rev().collect::<Vec<_>>());
        assert!(Grid::new(spacing, 1001).points(&path).is_err());
    }
    assert!(Grid::new(Spacing::Trailing, 10).points(&Path::VP).is_err());
}

#[test]
fn grids_that_repeat_a_level_are_refused() {
    let at = |s: f64| PathPoint::still(1.0, s);
    assert!(checked(&[at(2.0), at(1.0), at(0.0)]).is_ok());
    for bad in [
        vec![at(2.0), at(1.0), at(1.0)],
        vec![at(1.0), at(2.0)],
        vec![at(2.0), at(0.0), at(0.0)],
        vec![at(f64::NAN), at(0.0)],
        vec![at(1.0)],
    ] {
        assert!(checked(&bad).is_err(), "{bad:?}");
    }
    assert!(Grid { s_min: 80.0, ..Grid::new(Spacing::Karras, 5) }.points(&Path::EDM).is_err());
    assert!(Grid::new(Spacing::Karras, 0).points(&Path::EDM).is_err());
}

fn wide() -> Gaussian {
    Gaussian::diagonal(array![1.5, -1.0, 0.0, 2.0, 0.1], array![4.0, 1.0, 0.25, 0.04, 0.0]).unwrap()
}

#[test]
fn check_accepts_every_sound_sampler() {
    // Data of two modes fit four weights, whatever they are: less can be read, and nothing wrong.
    accepts_every_sound_sampler(&wide(), true);
    accepts_every_sound_sampler(
        &Gaussian::diagonal(array![0.5, -1.0], array![4.0, 0.25]).unwrap(),
        false,
    );
    accepts_every_sound_sampler(
        &Gaussian::diagonal(array![0.0, 0.0], array![1.0, 1.0]).unwrap(),
        false,
    );
}

fn accepts_every_sound_sampler(law: &Gaussian, told: bool) {
    let (options, d) = (Options::default(), law.dim());
    let grid = Grid { s_max: 10.0, s_min: 0.05, ..Grid::new(Spacing::LogSnr, 24) }
        .points(&Path::Cosine)
        .unwrap();
    for entry in SAMPLERS.iter().filter(|e| e.name != "exact") {
        let method = sampler(entry.name, &options).unwrap();
        let n = if method.is_stochastic() { 4000 } else { 6 };
        let mut start = starts(6, d, &grid[0]);
        if method.is_stochastic() {
            let noise = Noise::new(2);
            start = law.sample(n, &noise) * grid[0].alpha
                + standard_start(&noise, n, d) * grid[0].sigma;
        }
        let (x, _) = trajectory(&method, law, &grid, start, &mut Noise::new(8)).unwrap();
        let recording = Recording { x, points: grid.clone(), single: false };
        let report = if method.is_stochastic() {
            check_sde(&recording, Known::Gaussian(law))
        } else {
            check_ode(&recording, Known::Gaussian(law))
        }
        .unwrap();
        // One Langevin step a level does not follow 24 levels: it is no convergent method.
        let want = if entry.name == "langevin" { Verdict::Off } else { Verdict::Converging };
        assert!(
            report.verdict == want || report.verdict == Verdict::Exact,
            "{}: {:?} {:?}",
            entry.name,
            report.findings,
            report.law
        );
        let lacks = report.findings.iter().any(|f| f.contains("lacks the factor 2"));
        assert_eq!(
            lacks,
            told && entry.name == "dpmpp-3m-published",
            "{}: {:?}",
            entry.name,
            report.findings
        );
    }
}

#[test]
fn a_correct_sampler_is_refused_no_more_often_than_stated() {
    let (g, m) = (gaussian(), mixture());
    for (law, exact) in [(&g as &dyn Law, Known::Gaussian(&g)), (&m, Known::Any(&m))] {
        let (runs, level) = (300, 0.05);
        let p = |seed| {
            check_samples(&law.sample(60, &Noise::new(seed)), exact).unwrap().law.unwrap().p_value
        };
        // Each mixture check draws 65536 for its fourth moments: fewer runs there.
        let runs = if matches!(exact, Known::Any(_)) { runs / 3 } else { runs };
        let refused =
            (0..runs).filter(|&seed| p(1000 + seed) <= level).count() as f64 / runs as f64;
        // Bonferroni is conservative: at most the level, and three standard errors.
        assert!(refused <= level + 3.0 * (level * (1.0 - level) / runs as f64).sqrt(), "{refused}");
    }
    // And an incorrect one is refused: 5 in 100 too little deviation, at 20000 draws.
    let narrow = (g.sample(20_000, &Noise::new(1)) - &Law::mean(&g)) * 0.95 + &Law::mean(&g);
    assert_eq!(check_samples(&narrow, Known::Gaussian(&g)).unwrap().verdict, Verdict::Off);
    assert_eq!(
        check_samples(&g.sample(20_000, &Noise::new(1)), Known::Gaussian(&g)).unwrap().verdict,
        Verdict::Exact
    );
}

#[test]
fn the_missing_factor_and_the_warm_up_each_cost_an_order() {
    let law = mixture();
    let slope = |method: &dyn Sampler| {
        study(method, Known::Any(&law), &CERTIFIED_STEPS[2..], study_grid)
            .unwrap()
            .order
            .unwrap()
            .slope
    };
    assert!((slope(&dpmpp::Dpmpp3m) - 3.0).abs() <= 0.1);
    assert!((slope(&dpmpp::Dpmpp3mPublished { lower_final: false }) - 2.0).abs() <= 0.1);
    let cold = slope(&dpmpp::Dpmpp3mAfterDdim);
    assert!((cold - 2.0).abs() <= 0.1, "{cold}");
}

#[test]
fn a_wrong_previous_time_is_more_accurate_and_still_wrong() {
    // DDIM on a linspace grid whose own previous time is t - T/N: the point mass shows it at every
    // listed time.
    let path = linear_table();
    let Path::Discrete(table) = &path else { unreachable!() };
    let grid = Grid::new(Spacing::Linspace, 20).points(&path).unwrap();
    let law = Gaussian::diagonal(array![0.7], array![0.0]).unwrap();
    let (mut x, eps) = (grid[0].alpha * 0.7 + grid[0].sigma, 1.0);
    let mut drift: f64 = 0.0;
    for (k, from) in grid[..20].iter().enumerate() {
        let row = 1 + table.rows().iter().position(|r| r.alpha == from.alpha).unwrap();
        let (alpha, sigma) = row
            .checked_sub(50)
            .and_then(|r| table.row(r).ok())
            .map_or((1.0, 0.0), |r| (r.alpha, r.sigma));
        let mut m = Array2::zeros((1, 1));
        law.denoise(array![[x]].view(), from, m.view_mut()).unwrap();
        x = alpha * m[[0, 0]] + sigma * (x - from.alpha * m[[0, 0]]) / from.sigma;
        drift = larger(drift, (x - grid[k + 1].alpha * 0.7 - grid[k + 1].sigma * eps).abs());
    }
    assert!(drift > 1e-3, "{drift}");
}

#[test]
fn variances_of_the_stride_and_of_the_table_are_two_things() {
    // diffusers 3006: one step's beta used over a stride of 50 leaves far too little noise.
    struct OneStepBeta(Vec<f64>);
    impl Sampler for OneStepBeta {
        fn order(&self) -> Option<u32> {
            Some(1)
        }
        fn is_stochastic(&self) -> bool {
            true
        }
        fn step(&self, run: &mut Run) -> Result<()> {
            let (from, to, m) = (run.from(), run.to(), run.x0_hat().unwrap());
            let loss = 1.0 - (from.alpha * to.sigma / (to.alpha * from.sigma)).powi(2);
            run.advance(
                from.alpha * to.sigma * to.sigma / (to.alpha * from.sigma * from.sigma),
                &[(to.alpha * loss, &m)],
            );
            let var = self.0[run.index()] * (to.sigma / from.sigma).powi(2);
            run.add_noise(var.sqrt());
            Ok(())
        }
    }
    let path = linear_table();
    let Path::Discrete(table) = &path else { unreachable!() };
    let grid = &Grid::new(Spacing::Trailing, 20).points(&path).unwrap()[..20];
    let betas = grid
        .iter()
        .map(|p| table.rows().iter().find(|r| r.alpha == p.alpha).unwrap().beta)
        .collect();
    let kept = |method: &dyn Sampler| {
        let mode = Response::of(method, grid, array![0.0])
            .unwrap()
            .errors(&array![0.0], Start::Marginal)[0];
        mode.var / mode.want_var
    };
    assert!(
        (kept(&ancestral::Ddpm { variance: ancestral::Variance::Posterior }) - 1.0).abs() <= 1e-12
    );
    assert!(kept(&OneStepBeta(betas)) < 0.5);
}

#[test]
fn the_ancestral_noise_is_a_number_on_the_steepest_grid() {
    // diffusers 14213: sigma_to^2 - sigma_up^2 in f32 turns negative where nearly all of the noise
    // is fresh.
    let (s, s_to) = (3.0e4f32, 1.234_567_9f32);
    let up = (s_to * s_to * (s * s - s_to * s_to) / (s * s)).sqrt();
    assert!(!(s_to * s_to - up * up > 0.0), "the naive form would have done");
    let grid = [PathPoint::still(1.0, 3.0e8), PathPoint::still(1.0, 1.0), PathPoint::CLEAN];
    let law = gaussian();
    for (name, method) in all(&law)
        .filter(|(n, m)| m.is_stochastic() && m.is_exact_for_a_point_mass() && *n != "ddim")
    {
        let end = sample(&method, &law, &grid, starts(4, 3, &grid[0]), &mut Noise::new(3)).unwrap();
        assert!(end.x.iter().all(|x| x.is_finite()), "{name}");
    }
}

#[test]
fn ddpm_s_optimal_variance_is_the_best_isotropic_one() {
    // For isotropic data one step with the optimal variance has the exact law, and no other
    // variance has.
    let law = Gaussian::isotropic(array![0.4, -0.4], 0.6).unwrap();
    let grid = [Path::Cosine.at(0.8).unwrap(), Path::Cosine.at(0.4).unwrap()];
    let error = |name: tweedie::sample::registry::VarianceName| {
        let method = sampler(
            "ddpm",
            &Options { law: Some(Known::Gaussian(&law)), variance: name, ..Options::default() },
        )
        .unwrap();
        Response::of(&method, &grid, array![0.6]).unwrap().w2(&array![0.4], Start::Marginal)
    };
    use tweedie::sample::registry::VarianceName::*;
    assert!(error(Optimal) <= 1e-15, "{}", error(Optimal));
    assert!(error(Beta) > 1e-3 && error(Posterior) > 1e-3);
}

#[test]
fn teleportation_saves_its_evaluations_and_is_exact_for_a_gaussian() {
    let law = gaussian();
    let grid = Grid { s_max: 40.0, s_min: 0.05, clean: false, ..Grid::new(Spacing::LogSnr, 10) }
        .points(&Path::Cosine)
        .unwrap();
    let options = Options { law: Some(Known::Gaussian(&law)), skipped: 6, ..Options::default() };
    let (jump, plain) =
        (sampler("teleport+dpmpp-2m", &options).unwrap(), sampler("dpmpp-2m", &options).unwrap());
    assert_eq!((jump.nfe(&grid), plain.nfe(&grid)), (4, 10));
    let exact = sampler("exact", &options).unwrap();
    let run =
        |m: &dyn Sampler, grid: &[PathPoint], x| sample(m, &law, grid, x, &mut Silence).unwrap();
    let x = starts(5, 3, &grid[0]);
    let middle = run(&exact, &grid[..7], x.clone()).x;
    let (end, want) = (run(&jump, &grid, x), run(&plain, &grid[6..], middle));
    assert_eq!(end.nfe, 4);
    assert!(worst(&end.x - &want.x) <= 1e-13);
}

/// A noise source can be anything: here the same draw each time.
struct Same(f64);

impl NoiseSource for Same {
    fn fill(&mut self, _: usize, out: &mut Array2<f64>) {
        out.fill(self.0);
    }
}

#[test]
fn two_samplers_can_share_their_noise() {
    let law = gaussian();
    let grid = Grid::new(Spacing::Karras, 8).points(&Path::EDM).unwrap();
    let run =
        |m: &dyn Sampler| sample(m, &law, &grid, starts(2, 3, &grid[0]), &mut Same(0.3)).unwrap().x;
    let ddpm = run(&ancestral::Ddpm { variance: ancestral::Variance::Posterior });
    // DDPM with the posterior's variance, DDIM at eta = 1 and Euler ancestral are one method.
    assert!(worst(&ddpm - &run(&ancestral::Ddim { eta: 1.0 })) <= 1e-13);
}
