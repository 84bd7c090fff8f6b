//! A U-Net trained on the digits, held to what is exact about them.

use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};
use tweedie::diffusion::PathPoint;
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;
use tweedie::exact::pf_ode::{pf_ode_map, pf_ode_solve};
use tweedie::exact::receptive_field::{high_noise_field, receptive_field};
use tweedie::law::empirical::Empirical;
use tweedie::law::{Gaussian, Law};
use tweedie::math::noise::Noise;
use tweedie::sample::registry::{Options, sampler};
use tweedie::sample::{sample, trajectory};
use tweedie_nn::denoiser::Network;
use tweedie_nn::train::validation::{Level, Validation};
use tweedie_nn::train::watched::watched;
use tweedie_nn::train::{Data, Settings as Recipe, Trainer, samples};
use tweedie_report::experiment::{Context, Editable, Embedded, Profile, energy, geometric, level};

/// What `experiments/digits-unet/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Ends of the noise levels of the comparison, ascending.
    pub sigma_range: [f64; 2],
    /// Principal components drawn, from 1.
    pub learning_components: Vec<usize>,
    /// Steps after which they are looked at, ascending.
    pub snapshots: Vec<u64>,
    /// Ends of the trajectories, descending.
    pub trajectory_sigmas: [f64; 2],
    /// Levels shown in the strips.
    pub strip_sigmas: Vec<f64>,
    /// Which trajectory is shown, from 0.
    pub strip_draw: usize,
    /// How many of the draws are filmed.
    pub filmed: usize,
    /// Samples drawn.
    pub samples: usize,
    /// Samples shown.
    pub shown: usize,
    /// Samples set beside their nearest training digit.
    pub neighbours: usize,
    /// The pixel (row, column) whose receptive field is drawn.
    pub receptive_pixel: [usize; 2],
    /// Noise levels of the receptive fields.
    pub receptive_sigmas: Vec<f64>,
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
    pub steps: u64,
    /// Noise levels of the comparison.
    pub levels: usize,
    /// Trajectories followed.
    pub trajectories: usize,
    /// Steps of a trajectory.
    pub trajectory_steps: usize,
    /// Noised digits over which a receptive field is averaged.
    pub fields: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("digits-unet/settings.toml");

    fn least(self) -> Self {
        let quick =
            Effort { steps: 2, levels: 2, trajectories: 11, trajectory_steps: 4, fields: 2 };
        Self { quick, snapshots: vec![1], samples: self.shown, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let s = self;
        vec![
            (
                0.0 < s.sigma_range[0] && s.sigma_range[0] < s.sigma_range[1],
                "sigma_range: positive, ascending",
            ),
            (
                s.learning_components.iter().all(|k| (1..=64).contains(k)),
                "learning_components: 1 to 64",
            ),
            (
                s.snapshots.windows(2).all(|p| p[0] < p[1]) && s.snapshots.first() > Some(&0),
                "snapshots: from 1, ascending",
            ),
            (
                s.trajectory_sigmas[0] > s.trajectory_sigmas[1] && s.trajectory_sigmas[1] > 0.0,
                "trajectory_sigmas: positive, descending",
            ),
            (
                s.strip_sigmas.iter().chain(&s.receptive_sigmas).all(|v| *v > 0.0),
                "strip_sigmas, receptive_sigmas: positive",
            ),
            (s.samples >= s.shown.max(s.neighbours), "samples: at least shown and neighbours"),
            (s.receptive_pixel.iter().all(|i| *i < 8), "receptive_pixel: 0 to 7"),
            (
                [s.quick, s.full].iter().all(|e| {
                    e.steps >= 1
                        && e.levels >= 2
                        && e.trajectories > s.strip_draw.max(s.filmed)
                        && s.filmed >= 1
                        && e.trajectory_steps >= 2
                        && (1..=179).contains(&e.fields)
                }),
                "quick, full: steps >= 1, levels >= 2, trajectories > strip_draw, filmed, trajectory_steps >= 2, fields 1 to 179",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// The recipe used.
    pub recipe: Recipe,
    /// Parameters of the network.
    pub params: usize,
    /// Loss of every step.
    pub losses: Vec<f64>,
    /// What is learnt when.
    pub learning: Learning,
    /// The network beside the Wiener filter and the exact denoiser, level by level: on training
    /// digits, then on held-out ones.
    pub levels: [Vec<Level>; 2],
    /// What it samples.
    pub samples: Samples,
    /// Trajectories from shared noise.
    pub trajectories: Trajectories,
    /// Rows of its Jacobian.
    pub receptive: Receptive,
    /// Checks of the comparison.
    pub evidence: Vec<Evidence>,
}

/// What is exact about the training digits.
struct Exact {
    memory: Empirical,
    gaussian: Gaussian,
    held_out: Array2<f64>,
}

/// The training's recipe, that of `tweedie train` but for steps, seed and samples.
///
/// # Errors
/// A recipe that does not parse.
pub fn recipe() -> Result<Recipe> {
    Recipe::parse(&source!("recipes/train-digits.toml").text()?.content)
}

/// Runs the experiment.
///
/// # Errors
/// Settings or a recipe that do not parse; a training that does not stay finite.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let mut recipe = recipe()?;
    if context.profile == Profile::Least {
        recipe.network.block_out_channels.fill(8);
        recipe.network.norm_num_groups = 4;
    }
    recipe.seed = context.seed;
    recipe.steps = effort.steps;
    recipe.samples.count = settings.samples;
    let data = Data::load(&recipe)?;
    let (train, held_out) = data.split().ok_or_else(|| {
        Error::domain("data of the recipe", "a law", "a set", "correct the recipe")
    })?;
    let exact = Exact {
        memory: Empirical::new(train.to_owned())?,
        gaussian: Gaussian::from_data(train)?,
        held_out: held_out.to_owned(),
    };
    let noise = Noise::new(context.seed).child(0x64_75);
    let validation = Validation::new(&data, train.nrows(), noise.child(1))?;

    // The training is nearly all of the work: the rest counts as a tenth of it.
    let total = effort.steps as usize + effort.steps as usize / 10 + 1;
    let step = |k: usize, what: &str| (context.progress)(k.min(total), total, what);
    let mut learning = Learning::begun(&exact);
    let stops: Vec<u64> = settings
        .snapshots
        .iter()
        .copied()
        .filter(|k| (1..effort.steps).contains(k))
        .chain([effort.steps])
        .collect();
    let look = |k, trainer: &Trainer<f32>, weights: &[f32]| {
        learning.look(k, &trainer.network(weights, BATCH)?, &exact, &settings, &noise.child(2))
    };
    let (trainer, losses) = watched(
        &recipe,
        &stops,
        context.training("digits").as_deref(),
        &|k| step(k as usize, "training"),
        look,
    )?;
    let learning = learning.done();

    step(effort.steps as usize, "comparing");
    let network = trainer.network(trainer.best_params(), BATCH)?;
    let sigmas = geometric(settings.sigma_range[0], settings.sigma_range[1], effort.levels);
    let points: Vec<PathPoint> = sigmas.iter().map(|v| level(*v)).collect();
    let measured = validation.measure(&network, trainer.loader().data(), &points)?;
    let of = |set: &str| measured.iter().filter(|l| l.set == set).cloned().collect::<Vec<_>>();
    let levels = [of("train"), of("held-out")];
    let evidence = checks(&levels);
    let drawn = samples::grid(&trainer, trainer.best_params())?;
    let in_order = drawn.select(Axis(0), &in_turn(drawn.nrows(), network.classes()));
    let samples = Samples::new(&in_order, &exact, settings.trajectory_sigmas[1], &noise.child(5));
    let trajectories = Trajectories::new(&settings, effort, &network, &exact, &noise.child(3))?;
    let receptive = Receptive::new(&settings, effort, &network, &exact, &noise.child(4))?;
    step(total, "done");
    Ok(Numbers {
        params: trainer.params().len(),
        settings,
        recipe,
        losses,
        learning,
        levels,
        samples,
        trajectories,
        receptive,
        evidence,
    })
}

/// States that the network is run on at a time.
const BATCH: usize = 64;

/// Clean digits with noise of this level.
fn noised(clean: ArrayView2<f64>, sigma: f64, noise: &Noise) -> Array2<f64> {
    let x = noise.normals(0, clean.raw_dim());
    x * sigma + clean
}

/// What the comparison must show, whatever the network.
fn checks([train, held_out]: &[Vec<Level>; 2]) -> Vec<Evidence> {
    let mut evidence = Vec::new();
    for l in train {
        // |x0 - D|^2 = |x0 - D*|^2 + |D* - D|^2 in the mean over the very law that D* is the posterior mean of.
        let cross = l.network - l.exact - l.excess;
        let what = format!(
            "training digits, σ = {:.3}: loss − least loss − distance² from the exact denoiser",
            l.edm_sigma
        );
        let why = "the error of a posterior mean is orthogonal to every function of the state; five standard errors of the loss";
        evidence.push(Evidence::new(what, cross, 0.0, 5.0 * l.network_stderr).because(why));
    }
    let off = |l: &Level| (l.edm_sigma / 0.5).ln().abs();
    if let Some(l) = held_out.iter().min_by(|a, b| off(a).total_cmp(&off(b))) {
        let wiener = l.wiener.unwrap_or(f64::NAN);
        let what = format!(
            "trained network, held-out digits, σ = {:.2}: loss over the Wiener filter's",
            l.edm_sigma
        );
        evidence.push(
            Evidence::at_most(what, l.network / wiener, 1.0, 0.0)
                .because("below 1 it has learnt more than the covariance"),
        );
        let what = format!(
            "trained network, held-out digits, σ = {:.2}: loss over that of the memory of all training digits",
            l.edm_sigma
        );
        evidence.push(
            Evidence::at_most(what, l.network / l.exact, 1.0, 0.0)
                .because("below 1 it has not just learnt them by heart"),
        );
    }
    evidence
}

/// The order in which principal components are learnt, seen in what the network samples.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Learning {
    /// Steps looked at.
    pub steps: Vec<f64>,
    /// For each component of the digits, at each of these steps: the samples' mean square about the
    /// digits' mean along it.
    pub produced: Vec<Vec<f64>>,
    /// Variances of the components.
    pub variances: Vec<f64>,
    /// For the components whose variance is below a half: `sqrt(lambda)`, and the step from which
    /// on the produced variance has come more than half of the way, in logarithms, from the 1 of
    /// white noise down to its own; NaN if it never stays there.
    pub half: Vec<(f64, f64)>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Learning {
    fn look(
        &mut self,
        step: u64,
        network: &Network<f32>,
        exact: &Exact,
        settings: &Settings,
        noise: &Noise,
    ) -> Result<()> {
        // A short run by a method of second order: the components are told apart by factors, not by
        // percents.
        let [from, to] = settings.trajectory_sigmas;
        let points: Vec<PathPoint> =
            geometric(from, to, 13).into_iter().map(level).chain([level(0.0)]).collect();
        let start = noised(Array2::zeros((settings.samples, 64)).view(), from, noise);
        let x = sample(
            &sampler("dpmpp-2m", &Options::default())?,
            network,
            &points,
            start,
            &mut noise.child(1),
        )?
        .x;
        let c = (x - &Law::mean(&exact.gaussian)).dot(&exact.gaussian.modes());
        self.steps.push(step as f64);
        let produced = c.mapv(|v| v * v).mean_axis(Axis(0)).expect("at least one sample");
        self.produced.iter_mut().zip(produced).for_each(|(curve, v)| curve.push(v));
        Ok(())
    }

    fn begun(exact: &Exact) -> Self {
        let rank = exact.gaussian.rank();
        let variances = exact.gaussian.variances().iter().take(rank).copied().collect();
        Self {
            steps: vec![],
            produced: vec![vec![]; rank],
            variances,
            half: vec![],
            evidence: vec![],
        }
    }

    fn done(mut self) -> Self {
        let falling = self.variances.iter().zip(&self.produced).filter(|(l, _)| **l < 0.5);
        self.half = falling
            .map(|(l, produced)| (l.sqrt(), last_crossing(&self.steps, produced, l.sqrt())))
            .collect();
        let reached: Vec<(f64, f64)> =
            self.half.iter().copied().filter(|h| h.1.is_finite()).collect();
        let n = reached.len() as f64;
        let what = format!(
            "trained network: rank correlation of a component's variance with the step at which it is half learnt, {n} components"
        );
        let why = "negative by more than three standard errors of no correlation, 1/√(n − 1)";
        let bound = -3.0 / (n - 1.0).sqrt();
        self.evidence =
            vec![Evidence::at_most(what, rank_correlation(&reached), bound, 0.0).because(why)];
        self
    }
}

/// Where a curve over steps falls below a value for good, by interpolation in the logarithms; its
/// first step if it always was.
fn last_crossing(steps: &[f64], values: &[f64], want: f64) -> f64 {
    match values.iter().rposition(|v| *v > want) {
        None => steps[0],
        Some(k) if k + 1 == values.len() => f64::NAN,
        Some(k) => {
            let u = (values[k] / want).ln() / (values[k] / values[k + 1]).ln();
            steps[k] * (steps[k + 1] / steps[k]).powf(u)
        }
    }
}

/// Spearman's: the correlation of the ranks, ties sharing the mean of theirs.
fn rank_correlation(pairs: &[(f64, f64)]) -> f64 {
    let ranks = |of: fn(&(f64, f64)) -> f64| -> Vec<f64> {
        let values: Vec<f64> = pairs.iter().map(of).collect();
        let below = |v: f64| values.iter().filter(|w| **w < v).count() as f64;
        let same = |v: f64| values.iter().filter(|w| **w == v).count() as f64;
        values.iter().map(|v| below(*v) + 0.5 * (same(*v) - 1.0)).collect()
    };
    let (a, b) = (ranks(|p| p.0), ranks(|p| p.1));
    let centre = (pairs.len() as f64 - 1.0) / 2.0;
    let dot = |a: &[f64], b: &[f64]| {
        a.iter().zip(b).map(|(a, b)| (a - centre) * (b - centre)).sum::<f64>()
    };
    dot(&a, &b) / (dot(&a, &a) * dot(&b, &b)).sqrt()
}

/// The order that takes from samples sorted by class one of each class in turn.
fn in_turn(n: usize, classes: usize) -> Vec<usize> {
    let classes = classes.max(1);
    let rank = |i: usize| {
        let class = (0..classes).rfind(|c| n * c / classes <= i).expect("class 0 begins at 0");
        (i - n * class / classes, class)
    };
    let mut order: Vec<usize> = (0..n).collect();
    order.sort_by_key(|i| rank(*i));
    order
}

/// What the network samples, and what it may have copied.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Samples {
    /// The samples, (n, 64).
    pub drawn: Array2<f64>,
    /// The training digit nearest to each.
    pub nearest: Array2<f64>,
    /// Root mean square distance over pixels to it, sample by sample.
    pub distances: Vec<f64>,
    /// The same from every held-out digit: how near two different digits come.
    pub between_digits: Vec<f64>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Samples {
    /// `left` is the noise with which a digit known by heart would come.
    fn new(drawn: &Array2<f64>, exact: &Exact, left: f64, noise: &Noise) -> Self {
        let nearest = |x: &Array2<f64>| {
            exact.memory.points().select(Axis(0), &exact.memory.nearest(x.view(), 1.0))
        };
        let distances = |x: &Array2<f64>| {
            (x - &nearest(x))
                .rows()
                .into_iter()
                .map(|r| (r.dot(&r) / r.len() as f64).sqrt())
                .collect::<Vec<f64>>()
        };
        let mean = |x: &[f64]| x.iter().sum::<f64>() / x.len() as f64;
        let blurred = Law::sample(&exact.gaussian, drawn.nrows(), noise);
        let own = distances(drawn);
        // No distance of whole laws: with a hundred samples an energy distance is 0.013 off, and
        // does not tell the digits from their Gaussian.
        let gaussian = "the same of as many draws of the Gaussian of the training digits: more than mean and covariance is learnt";
        let evidence = vec![
            Evidence::at_most(
                "trained network: distance of a sample from the nearest training digit, mean",
                mean(&own),
                mean(&distances(&blurred)),
                0.0,
            )
            .because(gaussian),
            Evidence::at_least("trained network: the same, with a memory's as the bound", mean(&own), left, 0.0)
                .because("a digit known by heart comes with the noise of the last level of the trajectories, and no more"),
        ];
        Self {
            nearest: nearest(drawn),
            distances: own,
            between_digits: distances(&exact.held_out),
            drawn: drawn.clone(),
            evidence,
        }
    }
}

/// Trajectories of the PF-ODE from shared noise: of the network, of the Gaussian in closed form, of
/// the training digits themselves.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Trajectories {
    /// Noise levels, descending.
    pub sigmas: Vec<f64>,
    /// Distance of the network's states from the Gaussian's and from the memory's: root of
    /// `E|x - x'|^2 / E|x_N - mean|^2`.
    pub distances: [Vec<f64>; 2],
    /// The levels of the strips.
    pub strip_sigmas: Vec<f64>,
    /// One trajectory: states of the network, the Gaussian, the memory, each (levels, 64).
    pub strips: [Array2<f64>; 3],
    /// The first trajectories at every level: states of the same three, each (filmed, 64).
    pub film: [Vec<Array2<f64>>; 3],
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Trajectories {
    fn new(
        settings: &Settings,
        effort: Effort,
        network: &Network<f32>,
        exact: &Exact,
        noise: &Noise,
    ) -> Result<Self> {
        let [from, to] = settings.trajectory_sigmas;
        let sigmas = geometric(from, to, effort.trajectory_steps + 1);
        let points: Vec<PathPoint> = sigmas.iter().map(|v| level(*v)).collect();
        let mut x = noise.normals(0, (effort.trajectories, 64));
        x *= from;
        let heun = sampler("heun", &Options::default())?;
        let (by_network, _) = trajectory(&heun, network, &points, x.clone(), &mut noise.child(1))?;
        let by_gaussian = points
            .iter()
            .map(|p| pf_ode_map(&exact.gaussian, x.view(), points[0], p))
            .collect::<Result<Vec<_>>>()?;
        let by_memory = pf_ode_solve(&exact.memory, x.view(), &points)?;
        let mean = Law::mean(&exact.gaussian);
        let distance = |other: &[Array2<f64>]| {
            by_network
                .iter()
                .zip(other)
                .map(|(a, b)| (energy(&(a - b)) / energy(&(a - &mean))).sqrt())
                .collect::<Vec<f64>>()
        };
        let nearest = |want: &f64| {
            let gap = |v: &f64| (v / want).ln().abs();
            (0..sigmas.len())
                .min_by(|a, b| gap(&sigmas[*a]).total_cmp(&gap(&sigmas[*b])))
                .expect("at least two levels")
        };
        // Where the largest component is as large as the noise; of a flow that knows the mean
        // alone, states stay in proportion to the noise.
        let k = nearest(&exact.gaussian.variances()[0].sqrt());
        let plain = (&x - &mean) * (sigmas[k] / from) + &mean;
        let apart = |a: &Array2<f64>| {
            (energy(&(a - &by_gaussian[k])) / energy(&(&by_gaussian[k] - &mean))).sqrt()
        };
        let evidence = vec![
            Evidence::at_most(
                format!("trained network: distance of its states from the Gaussian's at σ = {:.2}, relative", sigmas[k]),
                apart(&by_network[k]),
                apart(&plain),
                0.0,
            )
            .because("that of a flow that knows the mean digit alone: the covariance leads the network there"),
        ];
        let picked: Vec<usize> = settings.strip_sigmas.iter().map(nearest).collect();
        let strip = |states: &[Array2<f64>]| {
            let rows: Vec<_> = picked.iter().map(|k| states[*k].row(settings.strip_draw)).collect();
            ndarray::stack(Axis(0), &rows).expect("rows of one length")
        };
        let first = |states: &[Array2<f64>]| {
            states.iter().map(|x| x.slice(s![..settings.filmed, ..]).to_owned()).collect()
        };
        Ok(Self {
            film: [first(&by_network), first(&by_gaussian), first(&by_memory)],
            distances: [distance(&by_gaussian), distance(&by_memory)],
            strips: [strip(&by_network), strip(&by_gaussian), strip(&by_memory)],
            strip_sigmas: picked.iter().map(|k| sigmas[*k]).collect(),
            sigmas,
            evidence,
        })
    }
}

/// Of which pixels the denoiser makes one of its own.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Receptive {
    /// Noised digits averaged over.
    pub states: usize,
    /// Noise levels.
    pub sigmas: Vec<f64>,
    /// The row of the network's Jacobian, the mean over noised held-out digits, and the Wiener
    /// filter's; each (levels, 64).
    pub rows: [Array2<f64>; 2],
    /// Cosine of the angle between the two.
    pub cosine: Vec<f64>,
    /// Root mean square over states of what varies in the network's row, over the size of the mean
    /// row: 0 for a linear denoiser.
    pub spread: Vec<f64>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Receptive {
    fn new(
        settings: &Settings,
        effort: Effort,
        network: &Network<f32>,
        exact: &Exact,
        noise: &Noise,
    ) -> Result<Self> {
        let pixel = 8 * settings.receptive_pixel[0] + settings.receptive_pixel[1];
        let n = settings.receptive_sigmas.len();
        let mut rows = [Array2::zeros((n, 64)), Array2::zeros((n, 64))];
        let (mut cosine, mut spread) = (vec![], vec![]);
        for (k, sigma) in settings.receptive_sigmas.iter().enumerate() {
            let at = level(*sigma);
            let x = noised(
                exact.held_out.slice(s![..effort.fields, ..]),
                *sigma,
                &noise.child(k as u64),
            );
            let each = x
                .rows()
                .into_iter()
                .map(|x| Ok(network.jacobian_rows(x, &at, &[pixel])?.row(0).to_owned()));
            let each = each.collect::<Result<Vec<_>>>()?;
            let mean =
                each.iter().fold(Array1::zeros(64), |sum, row| sum + row) / effort.fields as f64;
            let wiener = receptive_field(&exact.gaussian, &[pixel], at)?.row(0).to_owned();
            let var = each.iter().map(|row| (row - &mean).mapv(|v| v * v).sum()).sum::<f64>()
                / effort.fields as f64;
            cosine.push(mean.dot(&wiener) / (mean.dot(&mean) * wiener.dot(&wiener)).sqrt());
            spread.push((var / mean.dot(&mean)).sqrt());
            rows[0].row_mut(k).assign(&mean);
            rows[1].row_mut(k).assign(&wiener);
        }
        // The lowest and the highest level, each with the field that belongs to the other end.
        let alike =
            |a: ArrayView1<f64>, b: ArrayView1<f64>| a.dot(&b) / (a.dot(&a) * b.dot(&b)).sqrt();
        let sigmas = &settings.receptive_sigmas;
        let order = |a: &usize, b: &usize| sigmas[*a].total_cmp(&sigmas[*b]);
        let (low, high) = ((0..n).min_by(order).unwrap_or(0), (0..n).max_by(order).unwrap_or(0));
        let single = Array1::from_shape_fn(64, |i| f64::from(u8::from(i == pixel)));
        let wide = high_noise_field(&exact.gaussian, &[pixel])?;
        let against = |k: usize, other: ArrayView1<f64>, why: &str| {
            let what = format!(
                "trained network, σ = {}: cosine of its field with the Wiener filter's",
                sigmas[k]
            );
            Evidence::at_least(what, cosine[k], alike(other, rows[1].row(k)), 0.0).because(why)
        };
        let evidence = vec![
            against(
                low,
                wide.row(0),
                "the cosine that the covariance's row has with it, the field of high noise",
            ),
            against(
                high,
                single.view(),
                "the cosine that the single pixel has with it, the field of low noise",
            ),
        ];
        Ok(Self { states: effort.fields, sigmas: sigmas.clone(), rows, cosine, spread, evidence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("shown = 40", "shown = 40\ncolour = 3", "unknown field `colour`"),
            ("neighbours = 10\n", "", "missing field `neighbours`"),
            ("samples = 256", "samples = 30", "samples: at least shown and neighbours"),
        ]);
    }

    #[test]
    fn ranks_crossings_and_turns() {
        assert_eq!((in_turn(7, 3), in_turn(3, 0)), (vec![0, 2, 4, 1, 3, 5, 6], vec![0, 1, 2]));
        let pairs = [(4.0, 10.0), (3.0, 20.0), (2.0, 30.0), (1.0, 30.0)];
        // Ranks 3 2 1 0 and 0 1 2.5 2.5: one tie costs 1 - rho = 0.051.
        assert!((rank_correlation(&pairs) + 0.948_683_298_050_513_8).abs() <= 1e-15);
        // Halfway in the logarithms, and from above for good.
        assert!((last_crossing(&[5.0, 10.0, 40.0], &[0.1, 4.0, 1.0], 2.0) - 20.0).abs() <= 1e-12);
        assert_eq!(
            (
                last_crossing(&[5.0, 10.0], &[0.1, 0.2], 2.0),
                last_crossing(&[5.0, 10.0], &[0.1, 3.0], 2.0).is_nan()
            ),
            (5.0, true)
        );
    }
}
