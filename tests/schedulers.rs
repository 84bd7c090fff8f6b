//! Our samplers against trajectories of the public diffusers schedulers, on the same grid, start
//! and noise.

use ndarray::Array2;
use serde::Deserialize;
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::level::Rates;
use tweedie::law::Gaussian;
use tweedie::math::larger;
use tweedie::sample::noise_source::{Recorded, Silence};
use tweedie::sample::{
    NoiseSource, Sampler, adams, ancestral, dpm_solver, dpmpp, flow, grid, runge_kutta,
    sample_watched,
    unipc::{Scale, UniPc},
};

#[derive(Deserialize)]
struct Golden {
    mean: Vec<f64>,
    variances: Vec<f64>,
    runs: Vec<Recording>,
}

#[derive(Deserialize)]
struct Recording {
    id: String,
    method: String,
    family: String,
    alpha: Vec<f64>,
    sigma: Vec<f64>,
    /// Amplification of a relative perturbation of the model's output.
    sensitivity: f64,
    /// (points, batch, d).
    x: Vec<Vec<Vec<f64>>>,
    noise: Option<Vec<Vec<Vec<f64>>>>,
}

fn batch(rows: &[Vec<f64>]) -> Array2<f64> {
    Array2::from_shape_fn((rows.len(), rows[0].len()), |(i, j)| rows[i][j])
}

fn sampler(method: &str) -> Box<dyn Sampler> {
    let multistep = |m: &str| -> Option<Box<dyn Sampler>> {
        let (name, rest) = m.split_once('-')?;
        match name {
            "ddim" => Some(Box::new(ancestral::Ddim { eta: rest.parse().ok()? })),
            "deis" => Some(Box::new(adams::Deis { points: rest.parse().ok()?, lower_final: true })),
            "unipc" => {
                let (points, scale) = rest.split_once('-')?;
                let scale = if scale == "bh1" { Scale::Bh1 } else { Scale::Bh2 };
                Some(Box::new(UniPc { points: points.parse().ok()?, scale, lower_final: true }))
            }
            _ => None,
        }
    };
    match method {
        "ddpm-posterior" => Box::new(ancestral::Ddpm { variance: ancestral::Variance::Posterior }),
        "ddpm-beta" => Box::new(ancestral::Ddpm { variance: ancestral::Variance::Beta }),
        "euler" => Box::new(ancestral::Ddim { eta: 0.0 }),
        "euler-ancestral" => Box::new(ancestral::Ddim { eta: 1.0 }),
        "heun" => Box::new(runge_kutta::Heun::DETERMINISTIC),
        "dpm-2" => Box::new(dpm_solver::DpmSolver2),
        "dpm-2-ancestral" => Box::new(runge_kutta::Dpm2Ancestral),
        "lms" => Box::new(adams::Lms { points: 4 }),
        "plms" => Box::new(adams::Plms),
        "dpmpp-2m" => Box::new(dpmpp::Dpmpp2m { lower_final: true }),
        "dpmpp-2m-untapered" => Box::new(dpmpp::Dpmpp2m { lower_final: false }),
        "dpmpp-2m-sde" => Box::new(dpmpp::Dpmpp2mSde),
        "dpmpp-3m-published" => Box::new(dpmpp::Dpmpp3mPublished { lower_final: true }),
        "fm-euler" => Box::new(flow::FmEuler),
        "fm-heun" => Box::new(flow::FmHeun),
        other => multistep(other).unwrap_or_else(|| panic!("no sampler for {other}")),
    }
}

#[test]
fn diffusers_trajectories_are_reproduced() {
    let golden: Golden = serde_json::from_str(include_str!("golden/schedulers.json")).unwrap();
    let law = Gaussian::diagonal(golden.mean.into(), golden.variances.into()).unwrap();
    let (mut compared, mut refused, mut wrong) = (0, 0, Vec::new());
    for run in &golden.runs {
        let points: Vec<PathPoint> = (run.alpha.iter().zip(&run.sigma))
            .map(|(&alpha, &sigma)| match run.family.as_str() {
                "FM" => PathPoint { alpha, sigma, t: Some(sigma), rates: Some(Rates::STRAIGHT) },
                _ => PathPoint::still(alpha, sigma),
            })
            .collect();
        if grid::checked(&points).is_err() {
            // A last noise level that repeats, as several Karras grids have it.
            refused += 1;
            continue;
        }
        let mut silence = Silence;
        let mut recorded =
            run.noise.as_ref().map(|z| Recorded(z.iter().map(|z| batch(z)).collect()));
        let noise: &mut dyn NoiseSource = match &mut recorded {
            Some(r) => r,
            None => &mut silence,
        };
        let mut worst: f64 = 0.0;
        let sampler = sampler(&run.method);
        let scale = run.x.iter().flatten().flatten().map(|v| v.abs()).fold(0.0, larger);
        let end = sample_watched(&sampler, &law, &points, batch(&run.x[0]), noise, |k, x| {
            let want = batch(&run.x[k]);
            // States on the way are as large as their noise level.
            let size = want.iter().map(|v| v.abs()).fold(1.0, larger).min(scale);
            let gap = (x - &want).iter().map(|e| e.abs()).fold(0.0, larger);
            worst = if gap / size <= worst { worst } else { gap / size };
        });
        match end {
            Err(e) => wrong.push(format!("{} {}: {e}", run.id, run.method)),
            // Rounding of both programs, amplified as their own model's would be.
            Ok(_) if worst <= 1e-14 * run.sensitivity => compared += 1,
            Ok(end) => wrong.push(format!(
                "{} {} {}: {worst:e}, sensitivity {} ({} evaluations)",
                run.id, run.method, run.family, run.sensitivity, end.nfe
            )),
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert_eq!((compared, refused), (71, 11));
}
