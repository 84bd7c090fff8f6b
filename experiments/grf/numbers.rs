//! A U-Net trained on a Gaussian random field, whose law is known: every error of the network and
//! of its samples, by noise level and frequency.

use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2, ArrayView2, ArrayViewMut2, Axis};
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use tweedie::diffusion::preconditioning::Preconditioning;
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::Law;
use tweedie::law::random_field::RandomField;
use tweedie::math::matmul::matmul;
use tweedie::math::noise::Noise;
use tweedie::sample::grid::{Grid, Spacing};
use tweedie::sample::propagate::{Response, Start};
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::{noise_source::Silence, sample};
use tweedie_nn::train::watched::watched;
use tweedie_nn::train::{Trainer, settings::RandomFieldSettings};
use tweedie_report::experiment::{
    Context, Editable, Embedded, farthest, geometric, level, mean_and_stderr,
};

/// What `experiments/grf/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Bands of frequencies, in equal ratios from the lowest to the highest.
    pub bands: usize,
    /// Ends of the noise levels at which the network is judged.
    pub judged_range: [f64; 2],
    /// How many.
    pub judged_levels: usize,
    /// Shares of the training after which it is judged on the way.
    pub on_the_way: Vec<f64>,
    /// Method of the samples, deterministic.
    pub sampler: String,
    /// Its steps.
    pub sampler_steps: usize,
    /// Noise levels of its grid, highest and lowest.
    pub sampler_range: [f64; 2],
    /// Samples drawn as pictures.
    pub pictures: usize,
    /// The training, but for its number of steps and its seed.
    pub train: tweedie_nn::train::Settings,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Steps of the training.
    pub train_steps: u64,
    /// Noised fields at each level.
    pub draws: usize,
    /// Samples.
    pub samples: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("grf/settings.toml");

    fn least(self) -> Self {
        Self { quick: Effort { train_steps: 3, draws: 16, samples: 16 }, judged_levels: 3, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let s = self;
        let ascending = |r: [f64; 2]| 0.0 < r[0] && r[0] < r[1];
        vec![
            (s.bands >= 2, "bands: at least 2"),
            (
                ascending(s.judged_range) && ascending(s.sampler_range) && s.judged_levels >= 2,
                "judged_range, sampler_range: positive, ascending",
            ),
            (s.on_the_way.iter().all(|v| *v > 0.0 && *v < 1.0), "on_the_way: between 0 and 1"),
            (s.train.data.random_field.is_some(), "train.data: a random_field"),
            (s.sampler_steps >= 1 && s.pictures >= 1, "sampler_steps, pictures: at least 1"),
            (
                [s.quick, s.full]
                    .iter()
                    .all(|e| e.train_steps >= 1 && e.draws >= 8 && e.samples >= s.pictures.max(8)),
                "quick, full: draws, samples >= 8",
            ),
        ]
    }

    fn with_valid_parts(self) -> Result<Self> {
        Ok(Self { train: self.train.validated()?, ..self })
    }
}

/// The real orthonormal basis `cas(2 pi (ky y / h + kx x / w)) / sqrt(h w)` with `cas = cos + sin`,
/// in which every periodic field of an even spectrum has independent coordinates: each mixes a
/// frequency with its opposite only, and their variances are equal.
///
/// # Source
/// Hartley 1942; Bracewell 1983, "Discrete Hartley transform".
fn hartley(h: usize, w: usize) -> Array2<f64> {
    Array2::from_shape_fn((h * w, h * w), |(i, k)| {
        // Whole turns taken off while the phase is an integer.
        let turn = |a: usize, n: usize| (a % n) as f64 / n as f64;
        let (sin, cos) =
            (TAU * (turn((i / w) * (k / w), h) + turn((i % w) * (k % w), w))).sin_cos();
        (cos + sin) / ((h * w) as f64).sqrt()
    })
}

/// The modes of the field, sorted into bands.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bands {
    /// Mean frequency of each band, in cycles a pixel.
    pub frequencies: Vec<f64>,
    /// Modes of each band, as columns of the basis.
    modes: Vec<Vec<usize>>,
    basis: Array2<f64>,
    variances: Vec<f64>,
}

impl Bands {
    fn new(law: &RandomField, bands: usize) -> Self {
        let (h, w) = law.grid();
        let frequency = |k: usize| {
            let signed = |k: usize, n: usize| k.min(n - k) as f64 / n as f64;
            signed(k / w, h).hypot(signed(k % w, w))
        };
        let (lo, hi) = (1.0 / h.max(w) as f64, frequency((h / 2) * w + w / 2));
        let mut modes = vec![Vec::new(); bands];
        for k in 0..h * w {
            // The constant mode goes with the lowest band.
            let place = (frequency(k).max(lo) / lo).ln() / (hi / lo).ln() * bands as f64;
            modes[(place as usize).min(bands - 1)].push(k);
        }
        modes.retain(|m| !m.is_empty());
        let frequencies = modes
            .iter()
            .map(|m| m.iter().map(|k| frequency(*k)).sum::<f64>() / m.len() as f64)
            .collect();
        Self {
            frequencies,
            modes,
            basis: hartley(h, w),
            variances: law.spectrum().iter().copied().collect(),
        }
    }

    /// How many.
    pub fn count(&self) -> usize {
        self.modes.len()
    }

    /// Mean over the band's modes of a function of their variance.
    fn mean(&self, band: usize, of: impl Fn(f64) -> f64) -> f64 {
        self.modes[band].iter().map(|k| of(self.variances[*k])).sum::<f64>()
            / self.modes[band].len() as f64
    }

    fn coordinates(&self, x: ArrayView2<f64>) -> Array2<f64> {
        let mut z = Array2::zeros(x.raw_dim());
        matmul(1.0, x, self.basis.view(), 0.0, z.view_mut());
        z
    }

    /// Farthest from 0 in standard errors, over levels and bands: excess seen less that of a
    /// denoiser that scales mode `lambda` by `gain(lambda, sigma)`,
    /// `(gain - lambda / (lambda + sigma^2))^2 (lambda + sigma^2)`.
    ///
    /// The standard error is that of Gaussian coordinates, a square's deviation being sqrt(2) of
    /// its mean: one measured on few draws is small where the mean is, and the score then without
    /// bound.
    fn score_of_a_gain(
        &self,
        judged: &Judged,
        draws: usize,
        gain: impl Fn(f64, f64) -> Result<f64>,
    ) -> Result<f64> {
        let mut worst = 0.0f64;
        for (i, &sigma) in judged.sigmas.iter().enumerate() {
            let var = |l: f64| l + sigma * sigma;
            let gains =
                self.variances.iter().map(|l| gain(*l, sigma)).collect::<Result<Vec<f64>>>()?;
            for (modes, seen) in self.modes.iter().zip(&judged.by_band) {
                let sum = |of: &dyn Fn(usize, f64) -> f64| {
                    modes.iter().map(|k| of(*k, self.variances[*k])).sum::<f64>()
                };
                let of_mode = |k: usize, l: f64| (gains[k] - l / var(l)).powi(2) * var(l);
                let (excess, least) = (sum(&of_mode), sum(&|_, l| l * sigma * sigma / var(l)));
                let stderr = (2.0 * sum(&|k, l| of_mode(k, l).powi(2)) / draws as f64).sqrt();
                let z = (seen[i][0] * least - excess) / stderr;
                if z.is_nan() || z.abs() > worst.abs() {
                    worst = z;
                }
            }
        }
        Ok(worst)
    }

    /// Mean square of the coordinates in each band, scaled by a function of each mode's variance:
    /// over the rows, with its standard error.
    fn power(&self, x: ArrayView2<f64>, scale: impl Fn(f64) -> f64) -> Vec<[f64; 2]> {
        let z = self.coordinates(x);
        let scales: Vec<f64> = self.variances.iter().map(|l| scale(*l)).collect();
        self.modes
            .iter()
            .map(|modes| {
                let rows: Vec<f64> = z
                    .axis_iter(Axis(0))
                    .map(|z| {
                        modes.iter().map(|k| z[*k] * z[*k] * scales[*k]).sum::<f64>()
                            / modes.len() as f64
                    })
                    .collect();
                mean_and_stderr(&rows)
            })
            .collect()
    }
}

/// The network against the exact denoiser.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Judged {
    /// Noise levels.
    pub sigmas: Vec<f64>,
    /// At each level: least risk a pixel, exact.
    pub least: Vec<f64>,
    /// Excess risk a pixel, with its standard error.
    pub excess: Vec<[f64; 2]>,
    /// By band, at each level: excess over the band's least risk, with its standard error.
    pub by_band: Vec<Vec<[f64; 2]>>,
    /// At each level: excess at each pixel over the least risk.
    pub by_pixel: Vec<Vec<f64>>,
    /// Farthest from 0 over the levels, in standard errors: the exact denoiser's sampled risk less
    /// its closed form, and `<network - exact, exact - x0>`.
    pub scores: [f64; 2],
}

/// The best linear filter that sees a square of pixels and no farther: what a network of that
/// receptive field can do without bending.
struct Local<'a> {
    law: &'a RandomField,
    bands: &'a Bands,
    /// Pixels on each side of the middle.
    reach: i64,
}

impl Local<'_> {
    /// Its gain on every mode: normal equations over the pixels of the square, with the covariances
    /// that the spectrum implies.
    fn gains(&self, sigma: f64) -> Array1<f64> {
        let (h, w) = self.law.grid();
        let wave = |k: usize, (dy, dx): (i64, i64)| {
            (TAU * ((k / w) as f64 * dy as f64 / h as f64 + (k % w) as f64 * dx as f64 / w as f64))
                .cos()
        };
        let covariance = |at: (i64, i64)| {
            self.bands.variances.iter().enumerate().map(|(k, l)| l * wave(k, at)).sum::<f64>()
                / (h * w) as f64
        };
        let side = -self.reach..=self.reach;
        let places: Vec<(i64, i64)> =
            side.clone().flat_map(|y| side.clone().map(move |x| (y, x))).collect();
        let between =
            |i: usize, j: usize| covariance((places[i].0 - places[j].0, places[i].1 - places[j].1));
        let n = places.len();
        let state =
            DMatrix::from_fn(n, n, |i, j| between(i, j) + if i == j { sigma * sigma } else { 0.0 });
        let cross = DVector::from_fn(n, |i, _| covariance(places[i]));
        let weights = state.lu().solve(&cross).expect("a covariance with noise is regular");
        Array1::from_shape_fn(h * w, |k| {
            places.iter().zip(&weights).map(|(at, c)| c * wave(k, *at)).sum()
        })
    }

    /// What it has above the least risk of a pixel, over that.
    fn excess(&self, sigma: f64) -> f64 {
        let var = |l: f64| l + sigma * sigma;
        let gains = self.gains(sigma);
        let modes = || self.bands.variances.iter().zip(&gains);
        let excess: f64 = modes().map(|(l, g)| (g - l / var(*l)).powi(2) * var(*l)).sum();
        excess / modes().map(|(l, _)| l * sigma * sigma / var(*l)).sum::<f64>()
    }
}

impl Denoiser for Local<'_> {
    fn dim(&self) -> usize {
        self.law.dim()
    }

    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        let mean = Law::mean(self.law);
        // The basis is its own inverse.
        let z = self.bands.coordinates((&(&x / at.alpha) - &mean).view())
            * self.gains(at.sigma / at.alpha);
        out.assign(&(self.bands.coordinates(z.view()) + &mean));
        Ok(())
    }
}

/// Fields noised once, with the answer that the network should give.
struct Exam {
    questions: Vec<Question>,
}

/// Fields at one noise level: clean, noised, and what the exact denoiser makes of them, each
/// (draws, d).
struct Question {
    at: PathPoint,
    x0: Array2<f64>,
    x: Array2<f64>,
    best: Array2<f64>,
}

impl Exam {
    fn new(law: &RandomField, sigmas: &[f64], draws: usize, noise: &Noise) -> Result<Self> {
        let question = |(k, sigma): (usize, &f64)| {
            let at = level(*sigma);
            let noise = noise.child(k as u64);
            let x0 = law.sample(draws, &noise);
            let eps = noise.normals(0, x0.raw_dim());
            let x = &x0 + &(eps * *sigma);
            let best = law.denoised(x.view(), &at)?;
            Ok(Question { at, x0, x, best })
        };
        Ok(Self { questions: sigmas.iter().enumerate().map(question).collect::<Result<_>>()? })
    }

    fn draws(&self) -> usize {
        self.questions[0].x0.nrows()
    }

    fn judge(&self, model: &dyn Denoiser, bands: &Bands) -> Result<Judged> {
        let mut out = Judged {
            sigmas: vec![],
            least: vec![],
            excess: vec![],
            by_band: vec![vec![]; bands.count()],
            by_pixel: vec![],
            scores: [0.0; 2],
        };
        let inner = |a: &Array2<f64>, b: &Array2<f64>| -> [f64; 2] {
            let rows = a.axis_iter(Axis(0)).zip(b.axis_iter(Axis(0)));
            mean_and_stderr(&rows.map(|(a, b)| a.dot(&b) / a.len() as f64).collect::<Vec<_>>())
        };
        for Question { at, x0, x, best } in &self.questions {
            let risk = |l: f64| l * at.sigma.powi(2) / (l + at.sigma.powi(2));
            let (error, rest) = (model.denoised(x.view(), at)? - best, best - x0);
            let least = bands.variances.iter().map(|l| risk(*l)).sum::<f64>()
                / bands.variances.len() as f64;
            let (sampled, cross) = (inner(&rest, &rest), inner(&error, &rest));
            for (worst, z) in
                out.scores.iter_mut().zip([(sampled[0] - least) / sampled[1], cross[0] / cross[1]])
            {
                if z.is_nan() || z.abs() > worst.abs() {
                    *worst = z;
                }
            }
            for (b, [mean, stderr]) in bands.power(error.view(), |_| 1.0).into_iter().enumerate() {
                let least = bands.mean(b, risk);
                out.by_band[b].push([mean / least, stderr / least]);
            }
            let pixels = error.mapv(|e| e * e).mean_axis(Axis(0)).expect("at least one draw");
            out.by_pixel.push(pixels.iter().map(|p| p / least).collect());
            out.sigmas.push(at.sigma);
            out.least.push(least);
            out.excess.push(inner(&error, &error));
        }
        Ok(out)
    }
}

/// Samples of the network beside those of the exact denoiser, from the same starts and by the same
/// method.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Samples {
    /// Variance of each band, exact.
    pub truth: Vec<f64>,
    /// By band: mean square of the network's samples over the variance, with its standard error.
    pub network: Vec<[f64; 2]>,
    /// The same with the exact denoiser.
    pub exact: Vec<[f64; 2]>,
    /// The same for infinitely many samples of the exact denoiser: what the method makes, in closed
    /// form.
    pub method: Vec<f64>,
    /// By band: mean square of the distance of the two from each other, over the variance.
    pub apart: Vec<f64>,
    /// By band: mean square of samples by the best filter of 3 x 3 pixels, over the variance, with
    /// its standard error.
    pub local: Vec<[f64; 2]>,
    /// First samples of the exact denoiser and of the network, each (pictures, d).
    pub pictures: [Array2<f64>; 2],
    /// Calls of the network.
    pub nfe: usize,
    /// How many.
    pub count: usize,
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// Height and width.
    pub grid: (usize, usize),
    /// Numbers that are trained.
    pub params: usize,
    /// Steps of the training.
    pub steps: u64,
    /// Noised fields at each level.
    pub draws: usize,
    /// Bands of frequencies.
    pub bands: Bands,
    /// The trained network.
    pub judged: Judged,
    /// Steps, and by band the mean over the levels of excess over least risk after them.
    pub learning: Vec<(u64, Vec<f64>)>,
    /// Its samples.
    pub samples: Samples,
    /// Checks of the judging, and of the samples.
    pub evidence: [Vec<Evidence>; 2],
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; a law or a network that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let mut recipe = settings.train.clone();
    (recipe.steps, recipe.seed) = (effort.train_steps, context.seed);
    let RandomFieldSettings { size: (h, w), slope, var, zero_mode, mean } =
        recipe.data.random_field.clone().expect("asked for by the rules");
    let law = RandomField::power_law(h, w, mean, slope, var, zero_mode)?;
    let noise = Noise::new(context.seed).child(JUDGED);
    let bands = Bands::new(&law, settings.bands);
    let [lo, hi] = settings.judged_range;
    let sigmas = geometric(lo, hi, settings.judged_levels);
    let on_the_way =
        Exam::new(&law, &geometric(lo, hi, 5), effort.draws.div_ceil(4).max(8), &noise.child(0))?;
    let steps = recipe.steps;
    let told = |step: u64, what: &str| (context.progress)(step as usize, steps as usize, what);

    let on_the_way_steps =
        settings.on_the_way.iter().map(|share| ((share * steps as f64) as u64).max(1));
    let stops: Vec<u64> = [0, steps].into_iter().chain(on_the_way_steps).collect();
    let (mut learning, mut untrained) = (Vec::new(), 0.0f64);
    let look = |step, trainer: &Trainer<f32>, weights: &[f32]| {
        let judged = on_the_way.judge(&trainer.network(weights, 64)?, &bands)?;
        let mean = |x: &Vec<[f64; 2]>| x.iter().map(|v| v[0]).sum::<f64>() / x.len() as f64;
        learning.push((step, judged.by_band.iter().map(mean).collect()));
        if step == 0 {
            // Its last convolution is 0, so that only the skip of the preconditioning speaks.
            untrained = bands.score_of_a_gain(&judged, on_the_way.draws(), |_, sigma| {
                Ok(Preconditioning::edm(sigma, recipe.objective.sigma_data)?.c_skip)
            })?;
        }
        Ok(())
    };
    let (trainer, _) = watched(
        &recipe,
        &stops,
        context.training("grf").as_deref(),
        &|step| told(step, "training"),
        look,
    )?;
    told(steps, "judging");
    let network = trainer.network(trainer.best_params(), 64)?;
    let exam = Exam::new(&law, &sigmas, effort.draws, &noise.child(1))?;
    let judged = exam.judge(&network, &bands)?;
    let samples = Samples::new(&settings, &law, &network, &bands, effort.samples, &noise.child(2))?;

    let mean = |of: &mut dyn Iterator<Item = f64>| of.sum::<f64>() / judged.sigmas.len() as f64;
    let relative = mean(&mut judged.excess.iter().zip(&judged.least).map(|(e, l)| e[0] / l));
    let local = Local { law: &law, bands: &bands, reach: REACH };
    let by_local = mean(&mut judged.sigmas.iter().map(|s| local.excess(*s)));
    let by_method = farthest(
        samples
            .exact
            .iter()
            .zip(&samples.method)
            .map(|([got, stderr], want)| (got - want) / stderr),
    );
    // In logarithms, so that a band of half the variance is as far off as one of twice.
    let off = |of: &[[f64; 2]]| {
        farthest(of.iter().zip(&samples.exact).map(|(n, e)| (n[0] / e[0]).ln())).abs()
    };
    let many = "the worst of some dozens";
    let side = 2 * REACH + 1;
    let evidence = [
        vec![
            Evidence::new(
                "risk of the exact denoiser, sampled less closed form: worst level, in standard errors",
                judged.scores[0],
                0.0,
                5.0,
            )
            .because(many),
            Evidence::new("⟨network − exact, exact − x₀⟩: worst level, in standard errors", judged.scores[1], 0.0, 5.0)
                .because("what is left of x₀ is independent of all that is seen"),
            Evidence::new(
                "untrained network: excess less that of its skip alone, worst level and band, in standard errors",
                untrained,
                0.0,
                6.0,
            )
            .because(format!("{many}, of {} draws each", on_the_way.draws())),
            Evidence::at_most("trained network: excess over the least risk, mean over the levels", relative, by_local, 0.0)
                .because(format!("that of the best linear filter of {side} × {side} pixels at each level, in closed form: it has learnt to look farther")),
        ],
        vec![
            Evidence::new(
                "exact denoiser: variance of the samples less the method's closed form, worst band, in standard errors",
                by_method,
                0.0,
                5.0,
            )
            .because(many),
            Evidence::at_most(
                "trained network: logarithm of the samples' variance over that of the exact denoiser's, worst band",
                off(&samples.network),
                off(&samples.local),
                0.0,
            )
            .because(format!("that of samples by the best linear filter of {side} × {side} pixels, from the same starts")),
        ],
    ];
    Ok(Numbers {
        settings,
        grid: (h, w),
        params: trainer.params().len(),
        steps,
        draws: effort.draws,
        bands,
        judged,
        learning,
        samples,
        evidence,
    })
}

/// Part of the seed's noise on which networks are judged: none that their training uses.
const JUDGED: u64 = 1 << 32;

/// Pixels on each side of the middle that the local filter sees: those of one convolution of the
/// network.
const REACH: i64 = 1;

impl Samples {
    fn new(
        settings: &Settings,
        law: &RandomField,
        network: &dyn Denoiser,
        bands: &Bands,
        count: usize,
        noise: &Noise,
    ) -> Result<Self> {
        let [s_min, s_max] = settings.sampler_range;
        let grid = Grid { s_min, s_max, ..Grid::new(Spacing::LogSnr, settings.sampler_steps) }
            .points(&Path::Edm { sigma_max: s_max })?;
        // From the exact law of x_t, so that no start is to blame.
        let start = noise.normals(0, (count, law.dim()));
        let start = law.sample(count, noise) + start * s_max;
        let method = sampler(&settings.sampler, &Options::DEFAULT)?;
        let response = Response::of(&*method, &grid, bands.variances.iter().copied().collect())?;
        let made: Vec<f64> = response
            .errors(&Array1::zeros(bands.variances.len()), Start::Marginal)
            .iter()
            .map(|m| m.var / m.lambda)
            .collect();
        let run =
            |model: &dyn Denoiser| sample(&*method, model, &grid, start.clone(), &mut Silence);
        let (ours, exact, local) =
            (run(network)?, run(law)?, run(&Local { law, bands, reach: REACH })?);
        let centred = |x: &Array2<f64>| x - &Law::mean(law);
        let power = |x: &Array2<f64>| bands.power(x.view(), f64::recip);
        let first = |x: &Array2<f64>| x.slice(ndarray::s![..settings.pictures, ..]).to_owned();
        Ok(Self {
            truth: (0..bands.count()).map(|b| bands.mean(b, |l| l)).collect(),
            network: power(&centred(&ours.x)),
            exact: power(&centred(&exact.x)),
            local: power(&centred(&local.x)),
            method: bands
                .modes
                .iter()
                .map(|modes| modes.iter().map(|k| made[*k]).sum::<f64>() / modes.len() as f64)
                .collect(),
            apart: power(&(&ours.x - &exact.x)).iter().map(|v| v[0]).collect(),
            pictures: [first(&exact.x), first(&ours.x)],
            nfe: ours.nfe,
            count,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie::law::gaussian::wiener_gain;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("bands = ", "colour = 3\nbands = ", "unknown field `colour`"),
            ("[quick]\ntrain_steps", "[quick]\ntrain_step", "unknown field `train_step`"),
            ("judged_levels = ", "judged_levels = 1 # ", "judged_range"),
        ]);
    }

    /// The basis is orthonormal and takes the covariance apart into the spectrum.
    #[test]
    fn the_basis_diagonalises_every_even_spectrum() {
        for (h, w) in [(4, 4), (3, 6), (5, 2)] {
            let law = RandomField::power_law(h, w, 0.3, 1.7, 1.0, 0.4).unwrap();
            let bands = Bands::new(&law, 3);
            let inner = bands.coordinates(bands.basis.t());
            assert!((inner - Array2::<f64>::eye(h * w)).iter().all(|e| e.abs() <= 1e-14));
            let taken_apart = bands.basis.t().dot(&Law::cov(&law)).dot(&bands.basis);
            let want = Array2::from_diag(
                &law.spectrum().iter().copied().collect::<ndarray::Array1<f64>>(),
            );
            assert!((taken_apart - want).iter().all(|e| e.abs() <= 1e-13), "{h} x {w}");
            assert_eq!(bands.modes.iter().map(Vec::len).sum::<usize>(), h * w);
        }
    }

    /// Its closed form is what it makes on fields, and a filter that sees the whole grid is the
    /// exact denoiser.
    #[test]
    fn the_local_filter_is_the_best_of_its_size() {
        let law = RandomField::power_law(5, 5, 0.3, 2.0, 1.0, 1.0).unwrap();
        let bands = Bands::new(&law, 3);
        let [one, three, whole] = [0, 1, 2].map(|reach| Local { law: &law, bands: &bands, reach });
        let excess = [&one, &three, &whole].map(|f| f.excess(0.8));
        assert!(
            excess[0] > excess[1] && excess[1] > 1e-4 && excess[2].abs() <= 1e-12,
            "{excess:?}"
        );
        let exam = Exam::new(&law, &[0.8], 4000, &Noise::new(5)).unwrap();
        let judged = exam.judge(&three, &bands).unwrap();
        let gain = |l: f64, _: f64| {
            Ok(three.gains(0.8)[bands.variances.iter().position(|v| *v == l).unwrap()])
        };
        let z = bands.score_of_a_gain(&judged, 4000, gain).unwrap();
        let seen = judged.excess[0][0] / judged.least[0];
        assert!((seen / excess[1] - 1.0).abs() <= 0.1 && z.is_finite(), "{seen} {}", excess[1]);
    }

    /// A denoiser of the wrong gain has a known excess risk in every band.
    #[test]
    fn the_exam_finds_a_known_error() {
        struct Damped(RandomField);
        impl Denoiser for Damped {
            fn dim(&self) -> usize {
                self.0.dim()
            }
            fn denoise(
                &self,
                x: ArrayView2<f64>,
                at: &PathPoint,
                out: ndarray::ArrayViewMut2<f64>,
            ) -> Result<()> {
                self.0.map_modes(
                    x,
                    at.alpha,
                    1.0,
                    |l| 0.9 * wiener_gain(l, at.alpha, at.sigma),
                    out,
                );
                Ok(())
            }
        }
        let law = RandomField::power_law(6, 6, 0.0, 2.0, 1.0, 1.0).unwrap();
        let bands = Bands::new(&law, 3);
        let exam = Exam::new(&law, &[0.5, 2.0], 2000, &Noise::new(3)).unwrap();
        let judged = exam.judge(&Damped(law), &bands).unwrap();
        let damped = bands
            .score_of_a_gain(&judged, 2000, |l, sigma| Ok(0.9 * wiener_gain(l, 1.0, sigma)))
            .unwrap();
        let whole = bands
            .score_of_a_gain(&judged, 2000, |l, sigma| Ok(wiener_gain(l, 1.0, sigma)))
            .unwrap();
        assert!(damped.abs() <= 5.0 && whole.abs() >= 20.0, "{damped} {whole}");
        assert!(judged.scores.iter().all(|z| z.abs() <= 5.0));
    }
}
