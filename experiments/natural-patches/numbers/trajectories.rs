//! From noise to patches: what appears when, and how far the Gaussian's closed form foretells the
//! way.

use super::{Components, Effort, Settings, spectra, windows};
use ndarray::{Array1, Array2, Axis, s};
use serde::{Deserialize, Serialize};
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::emergence::emergence_sigma;
use tweedie::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use tweedie::exact::teleport::teleport;
use tweedie::law::Gaussian;
use tweedie::law::empirical::Empirical;
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::noise_source::Silence;
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::sample;
use tweedie_nn::data::photographs::Photograph;
use tweedie_report::experiment::{
    crossing, energy, farthest, geometric, in_errors, level, squares,
};

/// Exact trajectories from shared noise under the Gaussian and the empirical law of the same
/// patches.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Trajectories {
    /// Patches of the laws.
    pub count: usize,
    /// Trajectories followed.
    pub followed: usize,
    /// One trajectory at the strip's levels: states and denoisers of the Gaussian, then of the
    /// empirical law, each (levels, d).
    pub strip: [Array2<f64>; 4],
    /// Ends of the first trajectories, of the Gaussian and of the empirical law, each (pairs, d).
    pub ends: [Array2<f64>; 2],
    /// Noise levels of the distances, descending.
    pub sigmas: Vec<f64>,
    /// Distance of the states: root of `E|x_G - x_E|^2 / E|x_E - mean|^2`.
    pub state_distance: Vec<f64>,
    /// Distance of the denoisers: root of `E|D_G - D_E|^2 / E|D_E - mean|^2`.
    pub denoiser_distance: Vec<f64>,
    /// Of each component: its frequency, its level of emergence in closed form, and the one
    /// measured on the empirical law (NaN if none).
    pub emergence: Vec<(f64, f64, f64)>,
    /// Slope of the level of emergence against frequency, sign turned, of components that are
    /// waves.
    pub emergence_slope: f64,
    /// Calls of the denoiser of the whole run, and the share of its ends that lie at another patch
    /// than the exact ones.
    pub whole: (usize, f64),
    /// Runs whose first part is a jump.
    pub jumps: Vec<Jump>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// A run that starts with the Gaussian's closed form.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Jump {
    /// Level to which it jumps.
    pub sigma: f64,
    /// Root mean square distance to the exact trajectory where it lands, over that trajectory's
    /// from the mean.
    pub landing: f64,
    /// Calls of the denoiser of the rest of the whole run's grid.
    pub calls: usize,
    /// Share of the ends that lie at another patch than the exact ones.
    pub elsewhere: f64,
}

impl Trajectories {
    pub(super) fn new(
        settings: &Settings,
        photographs: &[Photograph],
        effort: Effort,
        components: &Components,
        noise: &Noise,
    ) -> Result<Self> {
        let side = settings.patch;
        let patches = windows(photographs, side, side)?;
        let (count, d) = patches.dim();
        let gaussian = Gaussian::from_data(patches.view())?;
        let empirical = Empirical::new(patches)?;
        let strip_sigmas = &settings.strip_sigmas;
        let (start, end) = (level(strip_sigmas[0]), level(strip_sigmas[strip_sigmas.len() - 1]));
        let mut x = noise.normals(0, (effort.trajectories, d));
        x *= start.sigma;
        let mean = gaussian.mean().to_owned();
        let relative =
            |a: &Array2<f64>, b: &Array2<f64>| (energy(&(a - b)) / energy(&(b - &mean))).sqrt();

        // All levels at which the exact trajectories are needed, in one integration.
        let sigmas = geometric(start.sigma, end.sigma, effort.levels);
        let mut all: Vec<f64> = [&sigmas[..], strip_sigmas, &settings.jumps].concat();
        all.sort_by(|a, b| b.total_cmp(a));
        all.dedup();
        let points: Vec<PathPoint> = all.iter().map(|s| level(*s)).collect();
        let states = pf_ode_solve(&empirical, x.view(), &points)?;
        let exact = |sigma: f64| {
            &states[all.iter().position(|s| *s == sigma).expect("a level of the list")]
        };
        let closed = |sigma: f64| pf_ode_map(&gaussian, x.view(), start, level(sigma));

        let first = settings.strip_draw;
        let mut strip = [(); 4].map(|()| Array2::zeros((strip_sigmas.len(), d)));
        for (k, &sigma) in strip_sigmas.iter().enumerate() {
            let (g, e) = (closed(sigma)?, exact(sigma));
            let (dg, de) = (
                gaussian.denoised(g.view(), &level(sigma))?,
                empirical.denoised(e.view(), &level(sigma))?,
            );
            for (out, of) in strip.iter_mut().zip([&g, &dg, e, &de]) {
                out.row_mut(k).assign(&of.row(first));
            }
        }
        let (mut state_distance, mut denoiser_distance) = (Vec::new(), Vec::new());
        let mut coefficients = Array2::zeros((sigmas.len(), d));
        for (k, &sigma) in sigmas.iter().enumerate() {
            let (g, e) = (closed(sigma)?, exact(sigma));
            let (dg, de) = (
                gaussian.denoised(g.view(), &level(sigma))?,
                empirical.denoised(e.view(), &level(sigma))?,
            );
            state_distance.push(relative(&g, e));
            denoiser_distance.push(relative(&dg, &de));
            let c = (&de - &mean).dot(&gaussian.modes());
            coefficients.row_mut(k).assign(&c.map_axis(Axis(0), |c| c.dot(&c).sqrt()));
        }
        let last = (closed(end.sigma)?, exact(end.sigma));
        let ends = [&last.0, last.1].map(|x| x.slice(s![..settings.pairs, ..]).to_owned());

        let frequencies = spectra::frequencies(&gaussian, side);
        let final_size = coefficients.row(sigmas.len() - 1).to_owned();
        let emergence: Vec<(f64, f64, f64)> = (0..gaussian.rank())
            .filter(|k| gaussian.variances()[*k] > 0.0)
            .map(|k| {
                let share: Vec<f64> =
                    coefficients.column(k).iter().map(|c| c / final_size[k]).collect();
                (
                    frequencies[k],
                    emergence_sigma(gaussian.variances()[k], 0.5),
                    crossing(&sigmas, &share, 0.5),
                )
            })
            .collect();
        let (f, star): (Vec<f64>, Vec<f64>) = emergence.iter().skip(1).map(|e| (e.0, e.1)).unzip();
        let line = spectra::fitted(&f, &star, [0.0, spectra::WAVES]);
        let emergence_slope = line.slope;

        // Teleportation.
        let method = sampler(&settings.sampler, &Options::DEFAULT)?;
        let spacing = Grid {
            s_max: start.sigma,
            s_min: end.sigma,
            clean: false,
            ..Grid::new(Spacing::LogSnr, settings.sampler_steps)
        };
        let grid = spacing.points(&Path::Edm { sigma_max: start.sigma })?;
        let home = empirical.nearest(last.1.view(), 1.0);
        // Calls, and of each end, 1 if it lies elsewhere.
        let run = |points: &[PathPoint], from: Array2<f64>| -> Result<(usize, Vec<f64>)> {
            let done = sample(method.as_ref(), &empirical, points, from, &mut Silence)?;
            let ends = empirical.nearest(done.x.view(), 1.0);
            Ok((done.nfe, ends.iter().zip(&home).map(|(a, b)| f64::from(a != b)).collect()))
        };
        let share = |ends: &[f64]| ends.iter().sum::<f64>() / ends.len() as f64;
        let whole = run(&grid, x.clone())?;
        let whole = (whole.0, share(&whole.1));
        let jumped = |to: &PathPoint| teleport(&gaussian, x.view(), start, to);
        let mut fates = Vec::new();
        let jumps = settings
            .jumps
            .iter()
            .map(|&sigma| {
                let rest: Vec<PathPoint> =
                    grid.iter().copied().filter(|p| p.edm_sigma() <= sigma).collect();
                let (calls, ends) = run(&rest, jumped(&rest[0])?)?;
                let elsewhere = share(&ends);
                fates.push(ends);
                Ok(Jump {
                    sigma,
                    landing: relative(&jumped(&level(sigma))?, exact(sigma)),
                    calls,
                    elsewhere,
                })
            })
            .collect::<Result<Vec<_>>>()?;

        let middle = level((start.sigma * end.sigma).sqrt());
        let two = pf_ode_map(
            &gaussian,
            pf_ode_map(&gaussian, x.view(), start, middle)?.view(),
            middle,
            end,
        )?;
        let few = x.slice(s![..2, ..]);
        let solved = pf_ode_solve(&gaussian, few, &[start, end])?.swap_remove(1);
        // Every component along the same trajectories, at its own level and at the end.
        let sizes = |sigma: f64| -> Result<Array1<f64>> {
            let d = (gaussian.denoised(closed(sigma)?.view(), &level(sigma))? - &mean)
                .dot(&gaussian.modes());
            Ok(d.map_axis(Axis(0), |c| c.dot(&c).sqrt()))
        };
        let whole_size = sizes(1e-6)?;
        let waves = emergence.iter().enumerate().filter(|(_, e)| e.0 <= spectra::WAVES);
        let halves = waves
            .map(|(k, e)| Ok(sizes(e.1)?[k] / whole_size[k] - 0.5))
            .collect::<Result<Vec<f64>>>()?;
        let skewed = third_order(&empirical, &gaussian, &((&x - &mean) / start.sigma));
        let (first_jump, last_jump) = (&jumps[0], &jumps[jumps.len() - 1]);
        let evidence = vec![
            Evidence::new("Gaussian's map in two parts against one, relative", relative(&two, &last.0), 0.0, 1e-12)
                .because("four products with 256 terms, of states up to 80 against patches of size 0.5"),
            Evidence::new(
                "Gaussian's PF-ODE integrated against its closed form, relative",
                relative(&solved, &last.0.slice(s![..2, ..]).to_owned()),
                0.0,
                1e-9,
            )
            .because("the integrator's tolerance, 1e-13 a step, over some hundreds of steps"),
            Evidence::new(
                "size of each wave at its own level of emergence / final size, along the Gaussian's trajectories, less ½: worst",
                farthest(halves),
                0.0,
                1e-8,
            )
            .because("at the end, 1e-6, the share is 1 - sigma^2 / (2 lambda)"),
            Evidence::new(
                "slope of the level of emergence against frequency, less half that of the components' variances",
                emergence_slope - 0.5 * components.line.slope,
                0.0,
                4.0 * line.stderr.hypot(0.5 * components.line.stderr),
            )
            .because("four standard errors, of the scatter about both lines: windows side by side, and overlapping ones"),
            foretold(first_jump, &skewed, &gaussian, start.sigma),
            foretold(&jumps[1], &skewed, &gaussian, start.sigma),
            Evidence::at_least(
                format!(
                    "ends at another patch: more after the jump to {} than after that to {}, in standard errors",
                    last_jump.sigma, first_jump.sigma
                ),
                in_errors(fates[fates.len() - 1].iter().zip(&fates[0]).map(|(last, first)| last - first)),
                3.0,
                0.0,
            )
            .because(format!("three standard errors, of {} pairs from the same noise", effort.trajectories)),
        ];
        Ok(Self {
            count,
            followed: effort.trajectories,
            strip,
            ends,
            sigmas,
            state_distance,
            denoiser_distance,
            emergence,
            emergence_slope,
            whole,
            jumps,
            evidence,
        })
    }

    /// The lowest jump after which, and after all higher ones, no more ends lie elsewhere than
    /// those of the whole run.
    pub fn free_jump(&self) -> Option<&Jump> {
        self.jumps.iter().take_while(|j| j.elsewhere <= self.whole.1).last()
    }
}

/// What the third cumulants of the patches do to each trajectory, `z` being its start over its
/// noise level, from the mean: rows of `(k3[z, z] - k3[I]) / 6`, by which, times `1 / sigma^2`, its
/// state leaves the Gaussian's.
///
/// To leading order in `1 / sigma` the denoisers differ by `(k3[z, z] - k3[I]) / (2 sigma^2)`, and
/// `d(x / sigma) = -D d ln sigma / sigma`.
fn third_order(empirical: &Empirical, gaussian: &Gaussian, z: &Array2<f64>) -> Array2<f64> {
    let u = &empirical.points() - &gaussian.mean();
    let along = z.dot(&u.t()).mapv(|a| a * a);
    let lengths = Array1::from(squares(&u));
    (&along - &lengths).dot(&u) / (6.0 * u.nrows() as f64)
}

/// The error of a jump over that which third cumulants make of it.
fn foretold(jump: &Jump, skewed: &Array2<f64>, gaussian: &Gaussian, start: f64) -> Evidence {
    let d = gaussian.dim() as f64;
    let size = (energy(skewed) / (skewed.nrows() as f64 * d)).sqrt();
    let want = size * (jump.sigma.powi(-3) - start.powi(-3));
    Evidence::new(
        format!("error of the jump to {} over that of the patches' third cumulants", jump.sigma),
        jump.landing / want,
        1.0,
        gaussian.variances()[0].sqrt() / jump.sigma,
    )
    .because("the next order is smaller by the largest deviation over sigma")
}
