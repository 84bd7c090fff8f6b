//! Three clusters in the plane: Langevin dynamics at one noise level, annealed, and the reverse
//! processes.

use super::{Effort, chain, farthest};
use nalgebra::SVector;
use ndarray::{Array1, Array2, ArrayView1};
use num_dual::{DualSVec64, gradient};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::math::normal::log_cdf_difference;
use tweedie::sample::ancestral::{Ddpm, Variance};
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::sample_watched;
use tweedie::sample::sde::{EulerMaruyama, Langevin};
use tweedie_report::experiment::level;

/// What the settings hold of this part.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Centres of the clusters.
    pub means: Vec<[f64; 2]>,
    /// Their weights.
    pub weights: Vec<f64>,
    /// Deviation of each.
    pub std: f64,
    /// Noise level of the plain chain, where the others end.
    pub low: f64,
    /// Noise level at which the others begin.
    pub high: f64,
    /// Evaluations at which the particles are looked at.
    pub looks: Vec<usize>,
    /// Steps at each level of annealed Langevin dynamics.
    pub corrections: usize,
    /// Their size over the variance of the noise.
    pub step: f64,
    /// Noise levels at which the marginals of the reverse processes are compared.
    pub levels: Vec<f64>,
}

/// Cells of a picture along each side.
pub const CELLS: usize = 40;
/// Half the width of the window, on the scale of [`Scene::shrink`].
const WINDOW: f64 = 4.4;
/// Cells of the tests along each side.
const COARSE: usize = 10;

/// The clusters, and the window through which they are seen.
struct Scene {
    law: Mixture,
    std: f64,
    /// Deviation of the whole law along a coordinate.
    spread: f64,
}

impl Scene {
    /// Factor that takes states of a noise level to about the spread of the data.
    fn shrink(&self, sigma: f64) -> f64 {
        self.spread / self.spread.hypot(sigma)
    }

    /// Exact mass of each cell, rows from the top.
    fn masses(&self, sigma: f64, cells: usize) -> Vec<f64> {
        let std = self.std.hypot(sigma);
        let edge = |k: usize| (2.0 * k as f64 / cells as f64 - 1.0) * WINDOW / self.shrink(sigma);
        let along = |mean: f64| -> Vec<f64> {
            (0..cells)
                .map(|k| {
                    log_cdf_difference((edge(k) - mean) / std, (edge(k + 1) - mean) / std).exp()
                })
                .collect()
        };
        let mut out = vec![0.0; cells * cells];
        for (c, w) in self.law.components().iter().zip(self.law.weights()) {
            let (x, y) = (along(c.mean()[0]), along(c.mean()[1]));
            for (i, out) in out.iter_mut().enumerate() {
                *out += w * x[i % cells] * y[cells - 1 - i / cells];
            }
        }
        out
    }

    /// Share of the particles in each cell.
    fn shares(&self, x: &Array2<f64>, sigma: f64, cells: usize) -> Vec<f64> {
        let mut out = vec![0.0; cells * cells];
        let place = |v: f64| ((v * self.shrink(sigma) / WINDOW + 1.0) * 0.5 * cells as f64).floor();
        let (inside, share) = (0.0..cells as f64, 1.0 / x.nrows() as f64);
        for x in x.rows() {
            let (i, j) = (place(x[0]), place(x[1]));
            if inside.contains(&i) && inside.contains(&j) {
                out[(cells - 1 - j as usize) * cells + i as usize] += share;
            }
        }
        out
    }

    /// `(chi^2 - k) / sqrt(2 k)` of the particles against the exact masses, over cells that expect
    /// five or more and all others together.
    fn score(&self, x: &Array2<f64>, sigma: f64) -> f64 {
        let n = x.nrows() as f64;
        let (want, got) = (self.masses(sigma, COARSE), self.shares(x, sigma, COARSE));
        let (mut chi2, mut cells, mut rest) = (0.0, 0.0, (1.0, 1.0));
        for (w, g) in want.iter().zip(&got).filter(|(w, _)| *w * n >= 5.0) {
            chi2 += n * (g - w).powi(2) / w;
            cells += 1.0;
            rest = (rest.0 - w, rest.1 - g);
        }
        if rest.0 * n >= 5.0 {
            chi2 += n * (rest.1 - rest.0).powi(2) / rest.0;
        } else {
            cells -= 1.0;
        }
        (chi2 - cells) / (2.0 * cells).sqrt()
    }

    /// The cluster whose centre is nearest.
    fn nearest(&self, x: ArrayView1<f64>) -> usize {
        let distance = |c: &Gaussian| (c.mean()[0] - x[0]).powi(2) + (c.mean()[1] - x[1]).powi(2);
        let all: Vec<f64> = self.law.components().iter().map(distance).collect();
        (0..all.len()).min_by(|a, b| all[*a].total_cmp(&all[*b])).unwrap_or(0)
    }

    /// Share of the particles nearest to each cluster.
    fn counts(&self, x: &Array2<f64>) -> Vec<f64> {
        let mut out = vec![0.0; self.law.components().len()];
        x.rows().into_iter().for_each(|x| out[self.nearest(x)] += 1.0);
        out.iter().map(|c| c / x.nrows() as f64).collect()
    }
}

/// The score over a part of the plane.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Field {
    /// Noise level.
    pub sigma: f64,
    /// Places (n, 2).
    pub x: Array2<f64>,
    /// Scores there.
    pub score: Array2<f64>,
    /// Draws of the law at that level.
    pub draws: Array2<f64>,
}

/// Particles on their way by one method.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Run {
    /// What it is.
    pub name: String,
    /// Evaluations at which shares are known.
    pub nfe: Vec<f64>,
    /// Share of the particles nearest to each cluster there.
    pub shares: Vec<Vec<f64>>,
    /// Share of the particles in each cell after each of the looks.
    pub pictures: Vec<Vec<f64>>,
}

/// What is computed in the plane.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The score at little noise and at much.
    pub fields: [Field; 2],
    /// The plain chain, the annealed one, and the reverse SDE.
    pub runs: Vec<Run>,
    /// Exact masses at the lowest level.
    pub truth: Vec<f64>,
    /// Step of the plain chain.
    pub step: f64,
    /// Particles that changed cluster in the second half of the plain chain.
    pub crossed: usize,
    /// Noise levels at which the marginals are compared.
    pub levels: Vec<f64>,
    /// Exact masses at each of them.
    pub exact: Vec<Vec<f64>>,
    /// `g`, and share of the particles in each cell at each of the levels.
    pub marginals: Vec<(f64, Vec<Vec<f64>>)>,
    /// Particles.
    pub particles: usize,
    /// Checks of the field, of the runs, and of the marginals.
    pub evidence: [Vec<Evidence>; 3],
}

impl Numbers {
    pub(super) fn new(settings: &Settings, effort: Effort, noise: &Noise) -> Result<Self> {
        let var = settings.std * settings.std;
        let parts = settings
            .means
            .iter()
            .map(|m| Gaussian::isotropic(Array1::from(m.to_vec()), var))
            .collect::<Result<_>>()?;
        let law = Mixture::new(Array1::from(settings.weights.clone()), parts)?;
        let spread = (Law::cov(&law).diag().sum() / 2.0).sqrt();
        let scene = Scene { law, std: settings.std, spread };
        let fields = [field(&scene, settings.low, noise)?, field(&scene, 1.5, noise)?];
        let gap = farthest(fields.iter().flat_map(|f| {
            let by_dual = |x: ArrayView1<f64>| {
                let log_density = |x: SVector<DualSVec64<2>, 2>| {
                    scene.law.log_density_of(&[x[0], x[1]], 1.0.into(), f.sigma.into())
                };
                gradient(log_density, &SVector::<f64, 2>::new(x[0], x[1])).1
            };
            let rows = f.x.rows().into_iter().zip(f.score.rows());
            rows.map(|(x, s)| {
                let want = by_dual(x);
                (s[0] - want[0]).hypot(s[1] - want[1]) / (1.0 + want.norm())
            })
            .collect::<Vec<_>>()
        }));
        let uphill = vec![
            Evidence::new(
                "score from the denoiser, less the gradient of ln p by dual numbers: worst arrow, over its length",
                gap,
                0.0,
                1e-10,
            )
            .because("exponents of up to a thousand, each to an ulp"),
        ];

        let budget = settings.looks[settings.looks.len() - 1];
        let corrections = settings.corrections;
        let at = level(settings.low);
        let step = 0.3 * (var + settings.low.powi(2));
        let path = Path::Edm { sigma_max: settings.high };
        let grid = |steps: usize| -> Result<Vec<PathPoint>> {
            Grid {
                s_max: settings.high,
                s_min: settings.low,
                clean: false,
                ..Grid::new(Spacing::LogSnr, steps)
            }
            .points(&path)
        };
        let n = effort.particles;
        let mut runs: Vec<Run> =
            ["Langevin at low noise", "annealed Langevin", "reverse SDE (DDPM)"]
                .map(|name| Run {
                    name: name.into(),
                    nfe: vec![],
                    shares: vec![],
                    pictures: vec![],
                })
                .into();
        let see = |run: &mut Run, nfe: usize, x: &Array2<f64>, sigma: f64| {
            run.nfe.push(nfe as f64);
            run.shares.push(scene.counts(x));
            if settings.looks.contains(&nfe) {
                run.pictures.push(scene.shares(x, sigma, CELLS));
            }
        };
        let mut x = noise.child(0).normals(0, (n, 2)) * spread;
        let mut halfway = Vec::new();
        for k in 0..=budget / corrections {
            if k > 0 {
                x = chain(&scene.law, at, step, corrections, x, &mut noise.child(100 + k as u64))?;
            }
            see(&mut runs[0], k * corrections, &x, settings.low);
            if k == budget / corrections / 2 {
                halfway = x.rows().into_iter().map(|x| scene.nearest(x)).collect();
            }
        }
        let crossed =
            x.rows().into_iter().zip(&halfway).filter(|(x, c)| scene.nearest(*x) != **c).count();
        let start = noise.child(1).normals(0, (n, 2)) * settings.high;
        let coarse = grid(budget / corrections)?;
        let annealed = Langevin { step: settings.step, corrections };
        sample_watched(
            &annealed,
            &scene.law,
            &coarse,
            start.clone(),
            &mut noise.child(2),
            |k, x| {
                see(&mut runs[1], k * corrections, x, coarse[k].edm_sigma());
            },
        )?;
        let fine = grid(budget)?;
        let ddpm = Ddpm { variance: Variance::Posterior };
        sample_watched(&ddpm, &scene.law, &fine, start, &mut noise.child(3), |k, x| {
            if k % corrections == 0 {
                see(&mut runs[2], k, x, fine[k].edm_sigma());
            }
        })?;
        let weights = scene.law.weights();
        let off = |run: &Run| {
            farthest(run.shares[run.shares.len() - 1].iter().zip(&weights).map(|(s, w)| s - w))
        };
        let stderr = (0.25 / n as f64).sqrt();
        let mut passing = vec![
            Evidence::new(
                "share of the particles of the plain chain that change cluster in its second half",
                crossed as f64 / n as f64,
                0.0,
                0.01,
            )
            .because(
                "a barrier of some ten nats; what is counted are particles between the clusters",
            ),
        ];
        for (run, steps) in [(&runs[1], "20 levels of 20 steps"), (&runs[2], "400 steps")] {
            let tol = 5.0 * stderr + 0.02;
            passing.push(
                Evidence::new(
                    format!("{}: share of a cluster less its weight, the worst", run.name),
                    off(run),
                    0.0,
                    tol,
                )
                .because(format!("five standard errors of {n} particles, and 0.02 for {steps}")),
            );
        }

        let fine = grid(effort.fine)?;
        let nearest = |sigma: f64| {
            let off = |k: usize| (fine[k].edm_sigma() / sigma).ln().abs();
            (0..fine.len()).min_by(|a, b| off(*a).total_cmp(&off(*b))).unwrap_or(0)
        };
        let stops: Vec<usize> = settings.levels.iter().map(|s| nearest(*s)).collect();
        let levels: Vec<f64> = stops.iter().map(|k| fine[*k].edm_sigma()).collect();
        let from = scene.law.sample(n, &noise.child(4))
            + noise.child(5).normals(0, (n, 2)) * settings.high;
        let moved = [0.0, 1.0, 2.0]
            .par_iter()
            .map(|g| {
                let (mut pictures, mut worst) = (Vec::new(), 0.0f64);
                sample_watched(
                    &EulerMaruyama { g: *g },
                    &scene.law,
                    &fine,
                    from.clone(),
                    &mut noise.child(6),
                    |k, x| {
                        if stops.contains(&k) {
                            pictures.push(scene.shares(x, fine[k].edm_sigma(), CELLS));
                            worst = larger(worst, scene.score(x, fine[k].edm_sigma()));
                        }
                    },
                )?;
                Ok((*g, pictures, worst))
            })
            .collect::<Result<Vec<_>>>()?;
        let same = moved
            .iter()
            .map(|(g, _, worst)| {
                Evidence::new(
                    format!("g = {g}: (χ² − k)/√(2k) of the particles in the cells of a grid, worst level"),
                    *worst,
                    0.0,
                    6.0,
                )
                .because(format!("the worst of {}; {n} particles, {} steps", stops.len(), effort.fine))
            })
            .collect();
        Ok(Self {
            fields,
            runs,
            truth: scene.masses(settings.low, CELLS),
            step,
            crossed,
            exact: levels.iter().map(|s| scene.masses(*s, CELLS)).collect(),
            levels,
            marginals: moved.into_iter().map(|(g, pictures, _)| (g, pictures)).collect(),
            particles: n,
            evidence: [uphill, passing, same],
        })
    }
}

fn field(scene: &Scene, sigma: f64, noise: &Noise) -> Result<Field> {
    const COLUMNS: usize = 17;
    const ROWS: usize = 10;
    let x = Array2::from_shape_fn((COLUMNS * ROWS, 2), |(k, i)| {
        let along = |k: usize, n: usize| 2.0 * k as f64 / (n - 1) as f64 - 1.0;
        if i == 0 {
            4.5 * along(k % COLUMNS, COLUMNS)
        } else {
            0.3 + 2.5 * along(k / COLUMNS, ROWS)
        }
    });
    let mut score = Array2::zeros(x.raw_dim());
    scene.law.score(x.view(), &level(sigma), score.view_mut())?;
    let draws =
        scene.law.sample(250, &noise.child(7)) + noise.child(8).normals(0, (250, 2)) * sigma;
    Ok(Field { sigma, x, score, draws })
}
