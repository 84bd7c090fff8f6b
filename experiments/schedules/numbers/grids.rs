//! The same samplers on each schedule's grid, exactly; and what a noise level means at another
//! resolution.

use super::Settings;
use ndarray::{Array1, Array2};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::Path;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::Gaussian;
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing, shifted};
use tweedie::sample::propagate::{Response, Start};
use tweedie::sample::registry::{Named, Options};

/// One grid's errors.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Ladder {
    /// The grid.
    pub name: String,
    /// W2 of the produced law over the data's total deviation, for each number of steps.
    pub w2: Vec<f64>,
}

/// All numbers on grids.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Grids {
    /// Numbers of steps.
    pub steps: Vec<f64>,
    /// For each sampler its name and its ladders.
    pub samplers: Vec<(String, Vec<Ladder>)>,
    /// Pictures: noised, and noised and averaged; the small picture with the same noise, and with
    /// less.
    pub pictures: [Vec<Vec<f64>>; 4],
    /// Sides of the two pictures.
    pub sides: [usize; 2],
    /// Time on flow matching's path, and the shifted time that noises the coarse picture as much.
    pub shift: Vec<(f64, f64)>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Means of blocks of `factor` x `factor` pixels.
fn averaged(picture: &Array1<f64>, side: usize, factor: usize) -> Array1<f64> {
    let small = side / factor;
    (0..small * small)
        .map(|p| {
            let (i, j) = (p / small * factor, p % small * factor);
            let block =
                (0..factor * factor).map(|q| picture[(i + q / factor) * side + j + q % factor]);
            block.sum::<f64>() / (factor * factor) as f64
        })
        .collect()
}

impl Grids {
    pub fn new(
        settings: &Settings,
        digits: &Gaussian,
        photo: &Array1<f64>,
        noise: &Noise,
    ) -> Result<Self> {
        let [last, first] = settings.log_snr;
        let (s_max, s_min) = ((-0.5 * last).exp(), (-0.5 * first).exp());
        let lambdas: Array1<f64> =
            digits.variances().iter().copied().filter(|v| *v > 0.0).collect();
        let total: f64 = lambdas.sum();
        let centre = Array1::zeros(lambdas.len());
        let kinds = [
            ("VP, even in t", Path::VP, Spacing::Uniform),
            ("cosine, even in t", Path::Cosine, Spacing::Uniform),
            ("flow matching, even in t", Path::FlowMatching, Spacing::Uniform),
            ("even in σ", Path::EDM, Spacing::Uniform),
            ("Karras, ρ = 7", Path::EDM, Spacing::Karras),
            ("even in log-SNR", Path::VP, Spacing::LogSnr),
        ];
        let w2 =
            |sampler: &'static str, path: &Path, spacing: Spacing, steps: usize| -> Result<f64> {
                let grid = Grid { s_max, s_min, clean: false, ..Grid::new(spacing, steps) }
                    .points(path)?;
                let response = Response::of_method(
                    &Named { name: sampler, options: Options::DEFAULT },
                    &grid,
                    lambdas.clone(),
                )?;
                // Over alpha, so that paths of other scales compare.
                Ok(response.w2(&centre, Start::Marginal)
                    / grid[grid.len() - 1].alpha
                    / total.sqrt())
            };
        let samplers = [("DDIM", "ddim"), ("DPM-Solver++(2M)", "dpmpp-2m")]
            .into_iter()
            .map(|(title, sampler)| {
                let ladders = kinds
                    .par_iter()
                    .map(|(name, path, spacing)| {
                        let w2 = settings
                            .sampler_steps
                            .iter()
                            .map(|n| w2(sampler, path, *spacing, *n))
                            .collect::<Result<_>>()?;
                        Ok(Ladder { name: name.to_string(), w2 })
                    })
                    .collect::<Result<Vec<_>>>()?;
                Ok((title.to_string(), ladders))
            })
            .collect::<Result<Vec<_>>>()?;

        let mut evidence = Vec::new();
        let on = |path: &Path, spacing: Spacing| w2("ddim", path, spacing, 20);
        evidence.push(
            Evidence::new(
                "DDIM on the same log-SNRs: error on VP over error on flow matching's path",
                on(&Path::VP, Spacing::LogSnr)? / on(&Path::FlowMatching, Spacing::LogSnr)?,
                1.0,
                1e-10,
            )
            .because("rounding; the path's own scale does not matter"),
        );
        let points = Grid { s_max, s_min, clean: false, ..Grid::new(Spacing::Uniform, 20) }
            .points(&Path::Cosine)?;
        let product: f64 = lambdas
            .iter()
            .map(|l| {
                let std = |k: usize| (points[k].alpha.powi(2) * l + points[k].sigma.powi(2)).sqrt();
                let end = (1..points.len()).fold(std(0), |x, k| {
                    let (t, s) = (&points[k - 1], &points[k]);
                    let gain = t.alpha * l / (t.alpha.powi(2) * l + t.sigma.powi(2));
                    x * (s.alpha * gain + s.sigma / t.sigma * (1.0 - t.alpha * gain))
                });
                (end - std(points.len() - 1)).powi(2)
            })
            .sum();
        let want = product.sqrt() / points[points.len() - 1].alpha / total.sqrt();
        evidence.push(
            Evidence::new(
                "DDIM, cosine, 20 steps: error by running the sampler over error by its gains",
                on(&Path::Cosine, Spacing::Uniform)? / want,
                1.0,
                1e-10,
            )
            .because("twenty products, rounded"),
        );
        // 2M is of order two, DDIM of order one, on every smooth grid.
        for (k, (title, ladders)) in samplers.iter().enumerate() {
            let ladder = &ladders[5].w2;
            let n = settings.sampler_steps.len();
            let steps = |i: usize| settings.sampler_steps[i] as f64;
            let slope = (ladder[n - 2] / ladder[n - 1]).ln() / (steps(n - 1) / steps(n - 2)).ln();
            evidence.push(
                Evidence::new(
                    format!(
                        "{title}, even in log-SNR: order between the two largest numbers of steps"
                    ),
                    slope,
                    1.0 + k as f64,
                    0.25,
                )
                .because("the next term of the expansion"),
            );
        }

        let (side, factor) = ((photo.len() as f64).sqrt() as usize, settings.factor);
        let mut eps = Array1::zeros(photo.len());
        noise.fill_normal(0, eps.as_slice_mut().unwrap_or(&mut []));
        let small = averaged(photo, side, factor);
        let mut fresh = Array1::zeros(small.len());
        noise.fill_normal(1, fresh.as_slice_mut().unwrap_or(&mut []));
        let scaled = |x: Array1<f64>, sigma: f64| (x / (1.0 + sigma * sigma).sqrt()).to_vec();
        let each = |of: &dyn Fn(f64) -> Vec<f64>| {
            settings.resolution_sigmas.iter().map(|s| of(*s)).collect::<Vec<_>>()
        };
        let less = 1.0 / factor as f64;
        let pictures = [
            each(&|s| scaled(photo + &(&eps * s), s)),
            each(&|s| scaled(averaged(&(photo + &(&eps * s)), side, factor), s * less)),
            each(&|s| scaled(&small + &(&fresh * s), s)),
            each(&|s| scaled(&small + &(&fresh * (s * less)), s * less)),
        ];
        // Over many draws: the noise of a mean of blocks.
        let draws = 64;
        let blocks = Array2::from_shape_fn((draws, photo.len()), |(i, j)| {
            noise.normal(2 + i as u64, j as u64)
        });
        let squares: f64 = blocks
            .rows()
            .into_iter()
            .map(|r| averaged(&r.to_owned(), side, factor).iter().map(|v| v * v).sum::<f64>())
            .sum();
        let cells = (draws * small.len()) as f64;
        evidence.push(
            Evidence::new(
                format!(
                    "variance of the noise after averaging {factor} × {factor} pixels, times {}",
                    factor * factor
                ),
                squares / cells * (factor * factor) as f64,
                1.0,
                4.0 * (2.0 / cells).sqrt(),
            )
            .because("four standard errors of a variance"),
        );
        let mut shift = Vec::new();
        let mut worst = 0.0f64;
        for k in 1..100 {
            let t = f64::from(k) / 100.0;
            let moved = shifted(t, factor as f64);
            let ratio = Path::FlowMatching.still_at(moved)?.edm_sigma()
                / Path::FlowMatching.still_at(t)?.edm_sigma()
                / factor as f64;
            worst = larger(worst, (ratio - 1.0).abs());
            shift.push((t, moved));
        }
        evidence.push(
            Evidence::new(
                format!(
                    "shifted time: σ/α over {factor} times the unshifted one's, farthest from 1"
                ),
                worst,
                0.0,
                1e-13,
            )
            .because("σ/α of a time rounded near 1"),
        );
        Ok(Self {
            steps: settings.sampler_steps.iter().map(|n| *n as f64).collect(),
            samplers,
            pictures,
            sides: [side, side / factor],
            shift,
            evidence,
        })
    }
}
