//! The exact diffusion of 1,797 handwritten digits, under their Gaussian law and under their
//! empirical law.

use ndarray::{Array1, Array2, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};
use tweedie::diffusion::decoder::{LevelScale, nats_to_bits_per_dim};
use tweedie::diffusion::elbo::{
    GaussianData, Part, Reconstruction, Reverse, ReverseVar, gaussian_bound, mmse,
};
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::emergence::{emerged_fraction, emergence_sigma};
use tweedie::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use tweedie::exact::receptive_field::{
    effective_size, high_noise_field, low_noise_field, receptive_field,
};
use tweedie::law::empirical::Empirical;
use tweedie::law::{Gaussian, Law};
use tweedie::math::noise::Noise;
use tweedie::math::{larger, smaller};
use tweedie_report::experiment::{
    Context, Editable, Embedded, crossing, energy, farthest, geometric, level,
};

/// What `experiments/digits-theory/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Every k-th digit is held out.
    pub held_out_every: usize,
    /// Principal components drawn.
    pub components: usize,
    /// Steps of the discrete schedules.
    pub steps: usize,
    /// Noise levels of the trajectory strips, descending.
    pub strip_sigmas: Vec<f64>,
    /// Draws of noise whose ends are shown.
    pub pairs: usize,
    /// Frames of the film from data to noise, and as many back.
    pub film_frames: usize,
    /// Which of them, from 0, is followed in the strips.
    pub strip_draw: usize,
    /// Principal components whose emergence is drawn, from 1.
    pub emerging: Vec<usize>,
    /// Pixels (row, column) whose receptive fields are drawn.
    pub receptive_pixels: Vec<[usize; 2]>,
    /// Noise levels of the receptive fields.
    pub receptive_sigmas: Vec<f64>,
    /// Ends of the noise levels compared.
    pub sigma_range: [f64; 2],
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Noise levels of the comparisons.
    pub levels: usize,
    /// Noised copies of each digit at each level.
    pub copies: usize,
    /// Trajectories followed.
    pub trajectories: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("digits-theory/settings.toml");

    fn least(self) -> Self {
        let quick = Effort { levels: 7, copies: 1, trajectories: self.pairs };
        Self { quick, film_frames: 3, steps: 200, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let s = self;
        let descending = s.strip_sigmas.windows(2).all(|p| p[0] > p[1])
            && s.strip_sigmas.last().is_some_and(|v| *v > 0.0);
        vec![
            (s.held_out_every >= 2, "held_out_every: at least 2"),
            ((1..=64).contains(&s.components), "components: 1 to 64"),
            (s.steps >= 2, "steps: at least 2"),
            (descending, "strip_sigmas: positive, descending"),
            (s.film_frames >= 2, "film_frames: at least 2"),
            (s.pairs > s.strip_draw, "pairs: more than strip_draw"),
            (s.emerging.iter().all(|k| (1..=64).contains(k)), "emerging: 1 to 64"),
            (s.receptive_pixels.iter().flatten().all(|i| *i < 8), "receptive_pixels: 0 to 7"),
            (s.receptive_sigmas.iter().all(|v| *v > 0.0), "receptive_sigmas: positive"),
            (
                0.0 < s.sigma_range[0] && s.sigma_range[0] < s.sigma_range[1],
                "sigma_range: positive, ascending",
            ),
            (
                [s.quick, s.full]
                    .iter()
                    .all(|e| e.levels >= 2 && e.copies >= 1 && e.trajectories >= s.pairs),
                "quick, full: levels >= 2, copies >= 1, trajectories >= pairs",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// Mean, components, spectrum.
    pub spectrum: Spectrum,
    /// SNR of schedules and paths.
    pub snr: Snr,
    /// Digits on their way to noise and back.
    pub film: Film,
    /// Trajectories from shared noise.
    pub trajectories: Trajectories,
    /// Order of emergence.
    pub emergence: Emergence,
    /// Wiener against empirical.
    pub comparison: Comparison,
    /// Rows of the Jacobian.
    pub receptive: Receptive,
    /// The bound.
    pub elbo: Elbo,
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; a law or a schedule that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let noise = Noise::new(context.seed);
    let images = tweedie_nn::data::load("digits")?.images;
    let step = |k: usize, what: &str| (context.progress)(k, 7, what);
    step(0, "principal components");
    let gaussian = Gaussian::from_data(images.view())?;
    let empirical = Empirical::new(images.clone())?;
    let spectrum = Spectrum::new(&gaussian, images.view(), settings.components);
    step(1, "schedules");
    let snr = Snr::new(settings.steps)?;
    step(2, "trajectories");
    let sigmas = geometric(
        settings.strip_sigmas[0],
        settings.strip_sigmas[settings.strip_sigmas.len() - 1],
        effort.levels,
    );
    let trajectories =
        Trajectories::new(&settings, &gaussian, &empirical, &sigmas, effort.trajectories, &noise)?;
    let film = Film::new(&settings, &gaussian, &empirical, images.view(), &noise.child(FILM))?;
    step(3, "order of emergence");
    let emergence = Emergence::new(&settings, &gaussian, &trajectories);
    step(4, "Wiener against empirical");
    let comparison = Comparison::new(&settings, images.view(), effort, &noise)?;
    step(5, "receptive fields");
    let receptive = Receptive::new(&settings, &gaussian)?;
    step(6, "variational bound");
    let elbo = Elbo::new(&settings, &gaussian)?;
    step(7, "done");
    Ok(Numbers {
        settings,
        spectrum,
        snr,
        film,
        trajectories,
        emergence,
        comparison,
        receptive,
        elbo,
    })
}

/// Mean, principal components and spectrum of the digits.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Spectrum {
    /// Mean digit.
    pub mean: Vec<f64>,
    /// Leading components as rows, shape (k, 64).
    pub components: Array2<f64>,
    /// Variances of all 64 components, descending.
    pub variances: Vec<f64>,
    /// Share of the variance in the first k components, k = 1..=64.
    pub cumulative: Vec<f64>,
    /// Pixels that never change, as (row, column).
    pub still: Vec<(usize, usize)>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Spectrum {
    fn new(law: &Gaussian, images: ArrayView2<f64>, components: usize) -> Self {
        let variances = law.variances().to_vec();
        let total: f64 = variances.iter().sum();
        let cumulative = variances
            .iter()
            .scan(0.0, |sum, v| {
                *sum += v;
                Some(*sum / total)
            })
            .collect();
        let modes = law.modes().slice(s![.., ..components]).t().to_owned();
        let still: Vec<_> = (0..64)
            .filter(|j| images.column(*j).iter().all(|v| *v == images[[0, *j]]))
            .map(|j| (j / 8, j % 8))
            .collect();
        let rank = variances.iter().filter(|v| **v > 0.0).count();
        let n = images.nrows() as f64;
        let per_pixel: f64 = images
            .axis_iter(Axis(1))
            .map(|c| {
                let m = c.sum() / n;
                c.iter().map(|v| (v - m).powi(2)).sum::<f64>() / n
            })
            .sum();
        let gram = law.modes().t().dot(&law.modes()) - Array2::<f64>::eye(law.rank());
        let off = gram.iter().map(|v| v.abs()).fold(0.0, larger);
        let evidence = vec![
            Evidence::new(
                "components with variance: 64 less the pixels that never vary",
                rank as f64,
                (64 - still.len()) as f64,
                0.0,
            )
            .because("a count"),
            Evidence::new(
                "sum of the eigenvalues / sum of the pixels' variances",
                total / per_pixel,
                1.0,
                64.0 * f64::EPSILON,
            )
            .because("a sum of 64 numbers: an ulp each at worst"),
            Evidence::new("largest entry of |UᵀU − I|", off, 0.0, 64.0 * f64::EPSILON)
                .because("products of 64 terms"),
        ];
        Self {
            mean: law.mean().to_vec(),
            components: modes,
            variances,
            cumulative,
            still,
            evidence,
        }
    }
}

/// SNR of discrete schedules and of continuous paths.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Snr {
    /// Name, t / T, SNR.
    pub schedules: Vec<(String, Vec<f64>, Vec<f64>)>,
    /// Name, t, SNR.
    pub paths: Vec<(String, Vec<f64>, Vec<f64>)>,
    /// Name, SNR at t = 1, SNR at t = T, alpha at t = T, crossing of SNR = 1 as t / T.
    pub ends: Vec<(String, f64, f64, f64, f64)>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Snr {
    fn new(steps: usize) -> Result<Self> {
        let kinds =
            [Schedule::LINEAR, Schedule::SCALED_LINEAR, Schedule::COSINE, Schedule::SIGMOID];
        let (mut schedules, mut ends, mut evidence) = (Vec::new(), Vec::new(), Vec::new());
        for kind in kinds {
            let table = Table::new(kind, steps, false)?;
            let rows = table.rows();
            let at: Vec<f64> = rows.iter().map(|r| r.t as f64 / steps as f64).collect();
            let snr: Vec<f64> = rows.iter().map(|r| r.snr).collect();
            let even = rows.iter().position(|r| r.snr < 1.0).map_or(f64::NAN, |k| at[k]);
            ends.push((
                kind.name().to_string(),
                snr[0],
                snr[steps - 1],
                rows[steps - 1].alpha,
                even,
            ));
            let product =
                rows.iter().map(|r| r.alpha_step).product::<f64>() / rows[steps - 1].alpha_bar;
            let what = format!("{}: product of (1 − β) / ᾱ at t = T", kind.name());
            let why = "a product of T factors, each rounded twice by half an ulp";
            evidence
                .push(Evidence::new(what, product, 1.0, steps as f64 * f64::EPSILON).because(why));
            schedules.push((kind.name().to_string(), at, snr));
        }
        let kinds = [
            Path::VP,
            Path::Ve { sigma_min: 0.01, sigma_max: 50.0 },
            Path::Edm { sigma_max: 80.0 },
            Path::Cosine,
            Path::FlowMatching,
        ];
        let mut paths = Vec::new();
        for path in kinds {
            let at: Vec<f64> = (1..200).map(|k| k as f64 / 200.0).collect();
            let snr =
                at.iter().map(|t| Ok(path.still_at(*t)?.snr())).collect::<Result<Vec<f64>>>()?;
            paths.push((path.name().to_string(), at, snr));
        }
        Ok(Self { schedules, paths, ends, evidence })
    }
}

/// Part of the seed's noise that the film uses.
const FILM: u64 = 1 << 32;

/// Digits noised more and more, and taken back along the PF-ODE of both laws.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Film {
    /// Noise levels, ascending.
    pub sigmas: Vec<f64>,
    /// At each of them: `x0 + sigma eps`, one digit a row, always with the same noise.
    pub noised: Vec<Array2<f64>>,
    /// At the same levels: states under the Gaussian, and under the empirical law, which at the
    /// highest are the noised digits.
    pub back: [Vec<Array2<f64>>; 2],
    /// How many come back to the digit that they were.
    pub returned: usize,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Film {
    fn new(
        settings: &Settings,
        gaussian: &Gaussian,
        empirical: &Empirical,
        images: ArrayView2<f64>,
        noise: &Noise,
    ) -> Result<Self> {
        // The first ten of the set are a digit of each class, 0 to 9.
        let digits: Vec<usize> = (0..10).collect();
        let x0 = images.select(Axis(0), &digits);
        let eps = noise.normals(0, x0.raw_dim());
        let sigmas = geometric(
            settings.strip_sigmas[settings.strip_sigmas.len() - 1],
            settings.strip_sigmas[0],
            settings.film_frames,
        );
        let noised: Vec<Array2<f64>> = sigmas.iter().map(|sigma| &x0 + &(&eps * *sigma)).collect();
        let start = noised[noised.len() - 1].view();
        let points: Vec<PathPoint> = sigmas.iter().rev().map(|sigma| level(*sigma)).collect();
        let mut by_gaussian = points
            .iter()
            .map(|p| pf_ode_map(gaussian, start, points[0], p))
            .collect::<Result<Vec<_>>>()?;
        let mut by_memory = pf_ode_solve(empirical, start, &points)?;
        by_gaussian.reverse();
        by_memory.reverse();
        let nearest = empirical.nearest(by_memory[0].view(), 1.0);
        let left = &by_memory[0] - &images.select(Axis(0), &nearest);
        let farthest = left
            .rows()
            .into_iter()
            .map(|r| (r.dot(&r) / 64.0).sqrt() / sigmas[0])
            .fold(0.0, larger);
        let evidence = vec![
            Evidence::new(
                "empirical law: distance a pixel of the film's ends from the nearest digit, over σ there, the largest of 10",
                farthest,
                0.0,
                2.0,
            )
            .because("the flow ends at x₀ + σ z for a digit x₀ and a z about as long as noise"),
        ];
        let returned = nearest.iter().zip(&digits).filter(|(a, b)| a == b).count();
        Ok(Self { sigmas, noised, back: [by_gaussian, by_memory], returned, evidence })
    }
}

/// Exact PF-ODE trajectories from shared noise, under the Gaussian and under the empirical law.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Trajectories {
    /// One trajectory at the strip's levels: states and denoisers of the Gaussian, then of the
    /// empirical law, each (levels, 64).
    pub strip: [Array2<f64>; 4],
    /// Ends of the first trajectories under the Gaussian and the empirical law, each (pairs, 64).
    pub ends: [Array2<f64>; 2],
    /// Noise levels of the distances, descending.
    pub sigmas: Vec<f64>,
    /// Distance of the states: root of `E|x_G - x_E|^2 / E|x_E - mean|^2`.
    pub state_distance: Vec<f64>,
    /// Distance of the denoisers: root of `E|D_G - D_E|^2 / E|D_E - mean|^2`.
    pub denoiser_distance: Vec<f64>,
    /// Denoiser's coefficients on the components under the empirical law: root mean square over
    /// trajectories, (levels, 64).
    coefficients: Array2<f64>,
    /// Share of each component's final size in the Gaussian's own denoiser at `sigma*`, measured
    /// along its trajectories.
    emergence: Evidence,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Trajectories {
    fn new(
        settings: &Settings,
        gaussian: &Gaussian,
        empirical: &Empirical,
        sigmas: &[f64],
        n: usize,
        noise: &Noise,
    ) -> Result<Self> {
        let start = settings.strip_sigmas[0];
        let mut x = noise.normals(0, (n, 64));
        x *= start;
        let at = |sigmas: &[f64]| sigmas.iter().map(|v| level(*v)).collect::<Vec<_>>();
        let first = x.slice(s![settings.strip_draw..=settings.strip_draw, ..]);
        let strip_points = at(&settings.strip_sigmas);
        let rows = |states: &[Array2<f64>]| stack(states.iter().map(|x| x.row(0).to_owned()));
        let of = |law: &dyn Denoiser, states: &[Array2<f64>]| {
            let seen = states
                .iter()
                .zip(&settings.strip_sigmas)
                .map(|(x, sigma)| law.denoised(x.view(), &level(*sigma)));
            Ok(rows(&seen.collect::<Result<Vec<_>>>()?))
        };
        let g = strip_points
            .iter()
            .map(|p| pf_ode_map(gaussian, first, strip_points[0], p))
            .collect::<Result<Vec<_>>>()?;
        let e = pf_ode_solve(empirical, first, &strip_points)?;
        let strip = [rows(&g), of(gaussian, &g)?, rows(&e), of(empirical, &e)?];

        let points = at(sigmas);
        let all = pf_ode_solve(empirical, x.view(), &points)?;
        let mean = Law::mean(gaussian);
        let (mut state_distance, mut denoiser_distance) = (Vec::new(), Vec::new());
        let mut coefficients = Array2::zeros((sigmas.len(), 64));
        let mut last = (Array2::zeros((0, 64)), Array2::zeros((0, 64)));
        for (k, (e, p)) in all.iter().zip(&points).enumerate() {
            let g = pf_ode_map(gaussian, x.view(), points[0], p)?;
            let (dg, de) = (
                gaussian.denoised(g.view(), &level(p.sigma))?,
                empirical.denoised(e.view(), &level(p.sigma))?,
            );
            state_distance.push((energy(&(&g - e)) / energy(&(e - &mean))).sqrt());
            denoiser_distance.push((energy(&(&dg - &de)) / energy(&(&de - &mean))).sqrt());
            let c = (&de - &mean).dot(&gaussian.modes());
            coefficients
                .row_mut(k)
                .assign(&c.mapv(|v| v * v).mean_axis(Axis(0)).unwrap_or_default().mapv(f64::sqrt));
            last = (dg, de);
        }
        let ends = [
            last.0.slice(s![..settings.pairs, ..]).to_owned(),
            last.1.slice(s![..settings.pairs, ..]).to_owned(),
        ];

        let mut evidence = Vec::new();
        let end = points[points.len() - 1];
        let (down, middle) = (pf_ode_map(gaussian, x.view(), points[0], end)?, level(1.0));
        let by_two = pf_ode_map(
            gaussian,
            pf_ode_map(gaussian, x.view(), points[0], middle)?.view(),
            middle,
            end,
        )?;
        let relative = |a: &Array2<f64>, b: &Array2<f64>| (energy(&(a - b)) / energy(b)).sqrt();
        let what = "PF-ODE of the Gaussian: σ = 20 → 1 → 0.02 against 20 → 0.02, relative";
        let why = "two maps of two products with U, 64 terms each";
        evidence.push(
            Evidence::new(what, relative(&by_two, &down), 0.0, 256.0 * f64::EPSILON).because(why),
        );
        let back = pf_ode_map(gaussian, down.view(), end, points[0])?;
        let why = "off the data's subspace the way back multiplies by 1000, and the state's rounding with it";
        let tol = 256.0 * f64::EPSILON * start / end.sigma;
        evidence.push(
            Evidence::new("carried down and up again, relative", relative(&back, &x), 0.0, tol)
                .because(why),
        );
        let solved = pf_ode_solve(gaussian, first, &strip_points)?;
        let closed = &g[g.len() - 1];
        let what = "PF-ODE of the Gaussian integrated against its closed form, relative";
        let why = "the integrator allows 1e-13 a step";
        evidence.push(
            Evidence::new(what, relative(&solved[solved.len() - 1], closed), 0.0, 1e-9)
                .because(why),
        );
        let digits = empirical.points().select(Axis(0), &empirical.nearest(ends[1].view(), 1.0));
        let nearest =
            (&ends[1] - &digits).rows().into_iter().map(|r| r.dot(&r).sqrt()).fold(0.0, larger);
        let what = "distance of the empirical trajectories' ends to the nearest digit, largest";
        let why = "at σ = 0.02 the other digits weigh nothing in f64; what is left is the integrator's error";
        evidence.push(Evidence::new(what, nearest, 0.0, 1e-6).because(why));
        // Every component of the Gaussian's denoiser at its own sigma* and at the end, along the
        // same trajectories.
        let components = |sigma: f64| -> Result<Array1<f64>> {
            let d = gaussian.denoised(
                pf_ode_map(gaussian, x.view(), points[0], level(sigma))?.view(),
                &level(sigma),
            )? - &mean;
            Ok(d.dot(&gaussian.modes()).map_axis(Axis(0), |c| c.dot(&c).sqrt()))
        };
        let varying: Vec<usize> =
            (0..gaussian.rank()).filter(|k| gaussian.variances()[*k] > 0.0).collect();
        let least = 1e-6
            * farthest(varying.iter().map(|k| -1.0 / gaussian.variances()[*k].sqrt()))
                .recip()
                .abs();
        let whole = components(least)?;
        let halves = varying.iter().map(|k| {
            Ok(components(emergence_sigma(gaussian.variances()[*k], 0.5))?[*k] / whole[*k] - 0.5)
        });
        let what = "size of a component at its σ* / final size, along the Gaussian's trajectories, less ½: worst of all";
        let why = "at the end, σ = 1e-6 √λ of the smallest, the share is 1 - σ²/(2λ)";
        let emergence =
            Evidence::new(what, farthest(halves.collect::<Result<Vec<f64>>>()?), 0.0, 1e-11)
                .because(why);
        Ok(Self {
            emergence,
            strip,
            ends,
            sigmas: sigmas.to_vec(),
            state_distance,
            denoiser_distance,
            coefficients,
            evidence,
        })
    }
}

fn stack(rows: impl Iterator<Item = Array1<f64>>) -> Array2<f64> {
    let rows: Vec<_> = rows.collect();
    Array2::from_shape_fn((rows.len(), rows.first().map_or(0, Array1::len)), |(i, j)| rows[i][j])
}

/// When each component appears in the denoiser along a trajectory.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Emergence {
    /// For each drawn component: its number from 1, its share of its final size under the Gaussian,
    /// and measured under the empirical law.
    pub curves: Vec<(usize, Vec<f64>, Vec<f64>)>,
    /// Noise levels of the curves.
    pub sigmas: Vec<f64>,
    /// `sqrt(lambda)` of the components with variance.
    pub std: Vec<f64>,
    /// Closed form of the level at which half the final size is reached.
    pub predicted: Vec<f64>,
    /// The same, measured on empirical trajectories (NaN if outside the levels followed).
    pub measured: Vec<f64>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Emergence {
    fn new(settings: &Settings, law: &Gaussian, t: &Trajectories) -> Self {
        let last = t.coefficients.row(t.sigmas.len() - 1).to_owned();
        let measured_share =
            |k: usize| t.coefficients.column(k).iter().map(|c| c / last[k]).collect::<Vec<f64>>();
        let curves = settings
            .emerging
            .iter()
            .map(|k| {
                (
                    *k,
                    t.sigmas.iter().map(|v| emerged_fraction(law.variances()[k - 1], *v)).collect(),
                    measured_share(k - 1),
                )
            })
            .collect();
        let kept: Vec<usize> = (0..law.rank()).filter(|k| law.variances()[*k] > 0.0).collect();
        let std: Vec<f64> = kept.iter().map(|k| law.variances()[*k].sqrt()).collect();
        let predicted: Vec<f64> =
            kept.iter().map(|k| emergence_sigma(law.variances()[*k], 0.5)).collect();
        let measured = kept.iter().map(|k| crossing(&t.sigmas, &measured_share(*k), 0.5)).collect();
        let evidence = vec![t.emergence.clone()];
        Self { curves, sigmas: t.sigmas.clone(), std, predicted, measured, evidence }
    }
}

/// The Wiener filter and two simpler linear denoisers against the empirical denoiser.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Comparison {
    /// Noise levels, ascending.
    pub sigmas: Vec<f64>,
    /// On noised training digits, then on noised digits that no law has seen.
    pub on: [Compared; 2],
    /// Closed form of the Wiener filter's error on training digits:
    /// `tr(Sigma sigma^2 / (Sigma + sigma^2)) / d`.
    pub wiener_error: Vec<f64>,
    /// Number of training and of held-out digits.
    pub sizes: [usize; 2],
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// What is compared on one set of noised digits, a number for each level.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Compared {
    /// `1 - E|s_model - s_emp|^2 / E|s_emp|^2` of the Gaussian, the isotropic Gaussian and the mean
    /// alone.
    pub score: [Vec<f64>; 3],
    /// `1 - E|D_model - D_emp|^2 / E|D_emp - mean|^2` of the same (0 for the mean, by definition).
    pub denoiser: [Vec<f64>; 3],
    /// `E|D - x0|^2 / d` of the Gaussian and of the empirical denoiser.
    pub error: [Vec<f64>; 2],
    /// Standard error of the Gaussian's.
    pub error_stderr: Vec<f64>,
}

impl Comparison {
    fn new(
        settings: &Settings,
        images: ArrayView2<f64>,
        effort: Effort,
        noise: &Noise,
    ) -> Result<Self> {
        let held: Vec<usize> = (0..images.nrows())
            .filter(|i| i % settings.held_out_every == settings.held_out_every - 1)
            .collect();
        let kept: Vec<usize> = (0..images.nrows())
            .filter(|i| i % settings.held_out_every != settings.held_out_every - 1)
            .collect();
        let (train, test) = (images.select(Axis(0), &kept), images.select(Axis(0), &held));
        let gaussian = Gaussian::from_data(train.view())?;
        let empirical = Empirical::new(train.clone())?;
        let mean = Law::mean(&gaussian);
        let average = gaussian.variances().sum() / 64.0;
        let isotropic = Gaussian::isotropic(mean.clone(), average)?;
        let sigmas = geometric(settings.sigma_range[0], settings.sigma_range[1], effort.levels);
        let mut on = [Compared::default(), Compared::default()];
        // The training set is four times as large: as many of its digits are used, evenly spread,
        // so that both are equally sure.
        let stride = (train.nrows() / test.nrows()).max(1);
        let queries = [train.slice(s![..;stride, ..]).to_owned(), test.clone()];
        for &sigma in &sigmas {
            for (which, clean) in queries.iter().enumerate() {
                let out = &mut on[which];
                let (mut gap, mut of_score, mut of_denoiser) = ([0.0; 3], 0.0, 0.0);
                let (mut errors, mut empirical_error) = (Vec::new(), 0.0);
                for copy in 0..effort.copies {
                    let mut x = noise.normals(1 + (2 * copy + which) as u64, clean.raw_dim());
                    x *= sigma;
                    x += clean;
                    let exact = empirical.denoised(x.view(), &level(sigma))?;
                    let wiener = gaussian.denoised(x.view(), &level(sigma))?;
                    let models = [
                        &wiener - &exact,
                        isotropic.denoised(x.view(), &level(sigma))? - &exact,
                        &mean - &exact,
                    ];
                    for (sum, model) in gap.iter_mut().zip(&models) {
                        *sum += energy(model);
                    }
                    of_score += energy(&(&exact - &x));
                    of_denoiser += energy(&(&exact - &mean));
                    empirical_error += energy(&(&exact - clean));
                    errors.extend((&wiener - clean).rows().into_iter().map(|r| r.dot(&r) / 64.0));
                }
                for (model, gap) in gap.into_iter().enumerate() {
                    out.score[model].push(1.0 - gap / of_score);
                    out.denoiser[model].push(1.0 - gap / of_denoiser);
                }
                let n = errors.len() as f64;
                let error = errors.iter().sum::<f64>() / n;
                out.error[0].push(error);
                out.error[1].push(empirical_error / (64.0 * n));
                out.error_stderr.push(
                    (errors.iter().map(|e| (e - error).powi(2)).sum::<f64>() / (n * (n - 1.0)))
                        .sqrt(),
                );
            }
        }
        let wiener_error = sigmas
            .iter()
            .map(|v| {
                gaussian.variances().iter().map(|l| l * v * v / (l + v * v)).sum::<f64>() / 64.0
            })
            .collect::<Vec<f64>>();
        let mut evidence = Vec::new();
        for k in [0, sigmas.len() / 2, sigmas.len() - 1] {
            let what = format!(
                "Wiener filter's error on training digits at σ = {:.3} against its closed form",
                sigmas[k]
            );
            let why = "five standard errors of a mean over digits and noise";
            evidence.push(
                Evidence::new(
                    what,
                    on[0].error[0][k],
                    wiener_error[k],
                    5.0 * on[0].error_stderr[k],
                )
                .because(why),
            );
        }
        let last = sigmas.len() - 1;
        let what = "variance of the score explained at the highest noise, training digits";
        let why = format!(
            "what is left beyond mean and covariance is of relative order (λ/σ²)² with the largest λ, at σ = {}",
            sigmas[last]
        );
        let tol = (gaussian.variances()[0] / sigmas[last].powi(2)).powi(2);
        evidence.push(Evidence::new(what, on[0].score[0][last], 1.0, tol).because(why));
        Ok(Self { sizes: [train.nrows(), test.nrows()], sigmas, on, wiener_error, evidence })
    }
}

/// Rows of the Gaussian denoiser's Jacobian.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Receptive {
    /// For each pixel: the row at zero noise (a projection), at each level, and the limit of high
    /// noise (the covariance's row).
    pub rows: Vec<([usize; 2], Vec<Vec<f64>>)>,
    /// Noise levels of the sizes.
    pub sigmas: Vec<f64>,
    /// For each pixel: number of pixels that its row effectively reads, at each of those levels.
    pub sizes: Vec<Vec<f64>>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Receptive {
    fn new(settings: &Settings, law: &Gaussian) -> Result<Self> {
        let pixels: Vec<usize> =
            settings.receptive_pixels.iter().map(|p| 8 * p[0] + p[1]).collect();
        let mut fields = vec![low_noise_field(law, &pixels)?];
        for sigma in &settings.receptive_sigmas {
            fields.push(receptive_field(law, &pixels, level(*sigma))?);
        }
        fields.push(high_noise_field(law, &pixels)?);
        let rows = settings
            .receptive_pixels
            .iter()
            .enumerate()
            .map(|(i, p)| (*p, fields.iter().map(|f| f.row(i).to_vec()).collect()))
            .collect();
        let sigmas = geometric(settings.sigma_range[0], settings.sigma_range[1], 60);
        let sizes = sigmas
            .iter()
            .map(|v| Ok(effective_size(receptive_field(law, &pixels, level(*v))?.view())))
            .collect::<Result<Vec<_>>>()?;
        let sizes = (0..pixels.len()).map(|i| sizes.iter().map(|s| s[i]).collect()).collect();

        let all: Vec<usize> = (0..64).collect();
        let varying = || law.variances().into_iter().copied().filter(|l| *l > 0.0);
        let (low, high) = (
            1e-3 * varying().fold(f64::INFINITY, smaller).sqrt(),
            1e3 * varying().fold(0.0, larger).sqrt(),
        );
        let relative = |a: Array2<f64>, b: &Array2<f64>| (energy(&(&a - b)) / energy(b)).sqrt();
        let at_low =
            relative(receptive_field(law, &all, level(low))?, &low_noise_field(law, &all)?);
        let at_high = relative(
            receptive_field(law, &all, level(high))? * (high * high),
            &high_noise_field(law, &all)?,
        );
        let evidence = vec![
            Evidence::new(
                "low noise: Jacobian against the projection on the data's subspace, relative",
                at_low,
                0.0,
                1e-6,
            )
            .because("1 - λ/(λ + σ²) is below σ²/λ for every component, here 1e-6"),
            Evidence::new(
                "high noise: σ² Jacobian against the covariance, relative",
                at_high,
                0.0,
                1e-6,
            )
            .because("λ/(λ + σ²) is off λ/σ² by at most λ/σ² of it, here 1e-6"),
            Evidence::new(
                "Wiener filter against a difference quotient of its own Jacobian, relative",
                Self::difference(law)?,
                0.0,
                1e-12,
            )
            .because(
                "the filter is affine, so that only the rounding of states of size 10 is left",
            ),
        ];
        Ok(Self { rows, sigmas, sizes, evidence })
    }

    /// The denoiser is linear, so `D(x + h) - D(x) = J h` holds for a step of any size.
    fn difference(law: &Gaussian) -> Result<f64> {
        let step = Array2::from_shape_fn((1, 64), |(_, j)| (j as f64).sin());
        let x = Array2::from_shape_fn((1, 64), |(_, j)| (j as f64).cos());
        let jacobian = receptive_field(law, &(0..64).collect::<Vec<_>>(), level(0.7))?;
        let linear = step.dot(&jacobian.t());
        let quotient = law.denoised((&x + &step).view(), &level(0.7))?
            - law.denoised(x.view(), &level(0.7))?;
        Ok((energy(&(quotient - &linear)) / energy(&linear)).sqrt())
    }
}

/// The variational bound of the digits' Gaussian, term by term.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Elbo {
    /// Steps of the tables.
    pub steps: usize,
    /// Schedule, and bits/dim of the terms t = 1..=T (reconstruction, then transitions) with the
    /// best variance.
    pub terms: Vec<(String, Vec<f64>)>,
    /// Schedule, variance, and what each transition t = 2..=T costs more than with the best
    /// variance, in bits/dim.
    pub excess: Vec<(String, String, Vec<f64>)>,
    /// Schedule and the running sum in bits/dim of levels from t = 1 to T, best variance.
    pub running: Vec<(String, Vec<f64>)>,
    /// Schedule, variance, nats of prior, transitions, reconstruction, whole, its bits/dim of
    /// levels, and what it exceeds the entropy by, in nats.
    pub totals: Vec<(String, String, [f64; 6])>,
    /// Variance, numbers of steps, and nats lost against the least bound over the same points.
    pub lost: Vec<(String, Vec<f64>, Vec<f64>)>,
    /// Entropy of the dequantised Gaussian, in nats and in bits/dim of levels.
    pub entropy: [f64; 2],
    /// Checks.
    pub evidence: Vec<Evidence>,
}

const VARIANCES: [(&str, ReverseVar); 3] = [
    ("optimal", ReverseVar::Optimal),
    ("posterior", ReverseVar::Posterior),
    ("beta", ReverseVar::Beta),
];

impl Elbo {
    /// The digits have 17 levels a pixel. Uniform dequantisation spreads each over a spacing, which
    /// adds `spacing^2 / 12` to every variance and gives a density also to the pixels that never
    /// vary.
    fn new(settings: &Settings, law: &Gaussian) -> Result<Self> {
        let scale = LevelScale::end_to_end(17)?;
        let variances: Vec<f64> =
            law.variances().iter().map(|l| l + scale.spacing().powi(2) / 12.0).collect();
        let data = GaussianData { variances: &variances, mean_square: law.mean().dot(&law.mean()) };
        let error = |at: &PathPoint, lambda: f64| mmse(lambda, (at.alpha, at.sigma));
        let bound = |points: &[PathPoint], var: &ReverseVar| {
            gaussian_bound(
                points,
                data,
                error,
                &Reverse {
                    var: var.clone(),
                    reconstruction: Reconstruction::Optimal,
                    prior_var: 1.0,
                },
            )
        };
        let points = |kind: Schedule| -> Result<Vec<PathPoint>> {
            Ok(Table::new(kind, settings.steps, false)?
                .rows()
                .iter()
                .map(|r| PathPoint::still(r.alpha, r.sigma))
                .collect())
        };
        let entropy = data.entropy();
        let (mut terms, mut excess, mut running, mut totals, mut evidence) =
            (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
        for kind in [Schedule::LINEAR, Schedule::COSINE] {
            let name = kind.name().to_string();
            let points = points(kind)?;
            let steps: Vec<Vec<f64>> = VARIANCES
                .iter()
                .map(|(variance, var)| {
                    let b = bound(&points, var)?;
                    let parts = [Part::Prior, Part::Transition, Part::Reconstruction]
                        .map(|part| b.part(part));
                    let bits = b.bits_per_dim_of_levels(&scale);
                    totals.push((
                        name.clone(),
                        variance.to_string(),
                        [parts[0], parts[1], parts[2], b.nats(), bits, b.nats() - entropy],
                    ));
                    Ok(b.terms()
                        .iter()
                        .filter(|t| t.part != Part::Prior)
                        .map(|t| t.bits_per_dim)
                        .collect())
                })
                .collect::<Result<_>>()?;
            for (k, (variance, _)) in VARIANCES.iter().enumerate().skip(1) {
                excess.push((
                    name.clone(),
                    variance.to_string(),
                    steps[k].iter().zip(&steps[0]).skip(1).map(|(a, b)| a - b).collect(),
                ));
            }
            running.push((
                name.clone(),
                steps[0]
                    .iter()
                    .scan(scale.bits_offset(), |sum, v| {
                        *sum += v;
                        Some(*sum)
                    })
                    .collect(),
            ));
            terms.push((name, steps[0].clone()));
        }
        for kind in [Schedule::LINEAR, Schedule::SCALED_LINEAR, Schedule::COSINE, Schedule::SIGMOID]
        {
            let points = points(kind)?;
            let (got, want) = (
                bound(&points, &ReverseVar::Optimal)?.nats(),
                data.least_nelbo(&points[points.len() - 1], 1.0),
            );
            let what = format!("{}: perfect bound / (entropy + KL(q(x_T) ‖ N(0, I)))", kind.name());
            evidence.push(
                Evidence::new(what, got / want, 1.0, 1e-12)
                    .because("a sum of T terms for each of 64 components"),
            );
        }
        let all = points(Schedule::COSINE)?;
        let counts: Vec<usize> = [5, 10, 20, 50, 100, 200, 500, 1000]
            .into_iter()
            .filter(|k| *k <= settings.steps)
            .collect();
        let mut lost = Vec::new();
        for (variance, var) in &VARIANCES {
            let gaps = counts.iter().map(|k| {
                // Every (T / k)-th point, the last one included.
                let strided: Vec<PathPoint> =
                    (1..=*k).map(|i| all[i * settings.steps / k - 1]).collect();
                Ok(bound(&strided, var)?.nats() - data.least_nelbo(&strided[k - 1], 1.0))
            });
            lost.push((
                variance.to_string(),
                counts.iter().map(|k| *k as f64).collect::<Vec<_>>(),
                gaps.collect::<Result<Vec<f64>>>()?,
            ));
        }
        let offset = scale.bits_offset();
        Ok(Self {
            steps: settings.steps,
            terms,
            excess,
            running,
            totals,
            lost,
            entropy: [entropy, nats_to_bits_per_dim(entropy, 64) + offset],
            evidence,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("pairs = 10", "pairs = 10\ncolour = 3", "unknown field `colour`"),
            ("steps = 1000\n", "", "missing field `steps`"),
            ("components = 16", "components = 65", "components: 1 to 64"),
            ("strip_draw = 0", "strip_draw = 10", "pairs: more than strip_draw"),
            ("4.0, 2.5", "2.5, 4.0", "strip_sigmas: positive, descending"),
        ]);
    }

    #[test]
    fn crossing_interpolates_in_the_logarithm() {
        // 1/4 at 4 and 3/4 at 1: a half lies at the geometric mean.
        assert!((crossing(&[4.0, 1.0], &[0.25, 0.75], 0.5) - 2.0).abs() < 1e-15);
        assert!(crossing(&[4.0, 1.0], &[0.6, 0.75], 0.5).is_nan());
    }
}
