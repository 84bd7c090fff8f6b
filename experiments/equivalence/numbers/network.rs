//! U-Nets: one function measured by four losses, and four networks trained on them.

use super::{Effort, Settings, TARGETS};
use ndarray::{Array2, ArrayView2, Axis};
use serde::{Deserialize, Serialize};
use tweedie::diffusion::loss::loss_ratio;
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::weighting::Weighting;
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::Gaussian;
use tweedie::law::empirical::Empirical;
use tweedie::math::noise::Noise;
use tweedie::math::{larger, smaller};
use tweedie_nn::cpu::Cpu;
use tweedie_nn::train::Data;
use tweedie_nn::train::initial::initial;
use tweedie_nn::train::loader::Source;
use tweedie_nn::train::watched::watched;
use tweedie_nn::unet::unet;
use tweedie_report::experiment::{Context, geometric};

/// What the network's output is taken to be while one function is measured by all four losses.
pub const SAID: Prediction = Prediction::Velocity;

/// The weighting to which all losses are brought: 1 on the loss of eps.
const COMMON: Weighting = Weighting::Simple;

/// One U-Net in double precision, measured by four losses.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Measured {
    /// Numbers that are trained.
    pub params: usize,
    /// Images of the batch over all noise levels.
    pub batch: usize,
    /// By target, over that batch.
    pub losses: Vec<Losses>,
    /// Noise levels of the ratios.
    pub sigmas: Vec<f64>,
    /// By target: known factor between its loss and that of x0 at each level, and the ratio of
    /// their gradients' lengths seen there.
    pub ratios: Vec<[Vec<f64>; 2]>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// One target's loss of a batch, and its gradient by all weights of the network.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Losses {
    /// Re-weighted to the common weight: loss and length of its gradient.
    pub weighted: [f64; 2],
    /// As it is.
    pub plain: [f64; 2],
    /// Cosine of its plain gradient with that of x0.
    pub cosine: f64,
    /// Re-weighted loss of another function: the same raw output, taken to be this target.
    pub reread: f64,
}

/// A batch at known times.
struct Batch {
    x0: Array2<f64>,
    eps: Array2<f64>,
    times: Vec<f64>,
    frames: Vec<(PathPoint, Frame<f64>)>,
}

impl Batch {
    fn new(images: ArrayView2<f64>, times: &[f64], noise: &Noise) -> Result<Self> {
        let n = times.len();
        let rows: Vec<usize> =
            (0..n).map(|i| (noise.bits(0, i as u64) % images.nrows() as u64) as usize).collect();
        let x0 = images.select(Axis(0), &rows);
        let eps = noise.normals(1, x0.raw_dim());
        let frames = times
            .iter()
            .map(|t| {
                let at = Path::FlowMatching.at(*t)?;
                Ok((at, Frame::from(&at)))
            })
            .collect::<Result<_>>()?;
        Ok(Self { x0, eps, times: times.to_vec(), frames })
    }

    /// `x_t`, one channel.
    fn xt(&self) -> Array2<f64> {
        let mut xt = Array2::zeros(self.x0.raw_dim());
        for (i, (at, _)) in self.frames.iter().enumerate() {
            xt.row_mut(i).assign(&(&self.x0.row(i) * at.alpha + &self.eps.row(i) * at.sigma));
        }
        xt
    }

    /// What a network says of it.
    fn forward(&self, cpu: &mut Cpu<f64>) -> Result<Vec<f64>> {
        let times: Vec<f64> = self.times.iter().map(|t| 1000.0 * t).collect();
        // One channel: rows are images whether channels come first or last.
        Ok(cpu
            .forward(self.xt().as_slice().expect("a new array is contiguous"), &times, &[])?
            .to_vec())
    }

    /// Loss of what a network said as the prediction `said`, measured on `target`, and its gradient
    /// by what it said, through the conversion.
    fn loss(
        &self,
        y: &[f64],
        said: Prediction,
        target: Prediction,
        weighted: bool,
    ) -> Result<(f64, Vec<f64>)> {
        let (n, d) = self.x0.dim();
        let xt = self.xt();
        let mut loss = 0.0;
        let mut dy = vec![0.0; n * d];
        for (i, (_, frame)) in self.frames.iter().enumerate() {
            let conversion = Conversion::new(said, target, *frame)?;
            let weight =
                if weighted { COMMON.weight(target, frame)? } else { 1.0 } / (n * d) as f64;
            // A conversion is linear in the prediction.
            let slope = conversion.apply(1.0, 0.0);
            for j in 0..d {
                let want = target.target(self.x0[[i, j]], self.eps[[i, j]], frame);
                let error = conversion.apply(y[i * d + j], xt[[i, j]]) - want;
                loss += weight * error * error;
                dy[i * d + j] = 2.0 * weight * error * slope;
            }
        }
        Ok((loss, dy))
    }
}

/// The gradient by all weights, after a run forward.
fn gradient(cpu: &mut Cpu<f64>, dy: &[f64]) -> Vec<f64> {
    let mut grads = vec![0.0; cpu.program().param_count()];
    cpu.backward(dy, &mut grads);
    grads
}

fn length(x: &[f64]) -> f64 {
    dot(x, x).sqrt()
}

fn dot(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| x * y).sum()
}

/// Length of the difference over the length.
fn apart(x: &[f64], y: &[f64]) -> f64 {
    x.iter().zip(y).map(|(x, y)| (x - y) * (x - y)).sum::<f64>().sqrt() / length(y)
}

impl Measured {
    pub(super) fn new(settings: &Settings, images: ArrayView2<f64>, noise: &Noise) -> Result<Self> {
        let n = settings.measured_batch;
        let program = unet(&settings.train.network, 8, 8)?;
        // Not the zero output with which training begins: there every gradient but the last layer's
        // would be 0.
        let params = initial(&program, &noise.child(0), false);
        let mut cpu = Cpu::new(program.clone(), n);
        cpu.load(&params);
        let times: Vec<f64> = (0..n).map(|i| (i as f64 + 0.5) / n as f64).collect();
        let batch = Batch::new(images, &times, &noise.child(1))?;
        let y = batch.forward(&mut cpu)?;
        let (mut losses, mut gradients) = (Vec::new(), Vec::new());
        let (mut plain_x0, mut loss_apart, mut gradient_apart, mut reread_apart) =
            (Vec::new(), 0.0f64, 0.0f64, 0.0f64);
        for target in TARGETS {
            let (loss, dy) = batch.loss(&y, SAID, target, true)?;
            let weighted = gradient(&mut cpu, &dy);
            let (plain_loss, dy) = batch.loss(&y, SAID, target, false)?;
            let plain = gradient(&mut cpu, &dy);
            if plain_x0.is_empty() {
                plain_x0.clone_from(&plain);
            }
            let reread = batch.loss(&y, target, target, true)?.0;
            losses.push(Losses {
                weighted: [loss, length(&weighted)],
                plain: [plain_loss, length(&plain)],
                cosine: dot(&plain, &plain_x0) / length(&plain) / length(&plain_x0),
                reread,
            });
            gradients.push(weighted);
            loss_apart = larger(loss_apart, (loss / losses[0].weighted[0] - 1.0).abs());
            gradient_apart =
                larger(gradient_apart, apart(&gradients[gradients.len() - 1], &gradients[0]));
            reread_apart = larger(reread_apart, (reread / losses[0].reread - 1.0).abs());
        }
        let least_cosine = losses.iter().map(|l| l.cosine).fold(1.0, smaller);

        let sigmas = geometric(0.05, 20.0, settings.measured_levels);
        let mut ratios = vec![[Vec::new(), Vec::new()]; TARGETS.len()];
        let (mut ratio_off, mut direction_off) = (0.0f64, 0.0f64);
        let mut cpu = Cpu::new(program, 8);
        cpu.load(&params);
        for (k, sigma) in sigmas.iter().enumerate() {
            let t = Path::FlowMatching.t_from_edm_sigma(*sigma)?;
            let batch = Batch::new(images, &[t; 8], &noise.child(2 + k as u64))?;
            let y = batch.forward(&mut cpu)?;
            let mut plain =
                |target| Ok(gradient(&mut cpu, &batch.loss(&y, SAID, target, false)?.1));
            let of_x0 = plain(Prediction::X0)?;
            for (target, ratios) in TARGETS.into_iter().zip(&mut ratios) {
                let known = loss_ratio(target, Prediction::X0, &batch.frames[0].1)?;
                let own = plain(target)?;
                let seen = length(&own) / length(&of_x0);
                ratio_off = larger(ratio_off, (seen / known - 1.0).abs());
                let scaled: Vec<f64> = of_x0.iter().map(|g| g * known).collect();
                direction_off = larger(direction_off, apart(&own, &scaled));
                ratios[0].push(known);
                ratios[1].push(seen);
            }
        }
        // A conversion at the ends of the path divides by as little as alpha or sigma, about 1 / n
        // in the batch and 1 / 20 at the levels.
        let (tol, tol_level) = (64.0 * f64::EPSILON * n as f64, 64.0 * f64::EPSILON * 20.0);
        let why = "rounding, magnified by the conversions at the ends of the path";
        let evidence = vec![
            Evidence::new("one network, re-weighted losses: largest relative difference from that of x0", loss_apart, 0.0, tol)
                .because(why),
            Evidence::new("the same of their gradients, all weights as one vector", gradient_apart, 0.0, tol).because(why),
            Evidence::new(
                "at one noise level: plain gradient less the known factor times that of x0, relative",
                direction_off,
                0.0,
                tol_level,
            )
            .because(why),
            Evidence::new(
                "at one noise level: length of the gradient over the known factor times that of x0, less 1",
                ratio_off,
                0.0,
                tol_level,
            )
            .because(why),
            Evidence::at_least(
                "over all levels, plain losses: largest angle of a gradient with that of x0, degrees",
                least_cosine.acos().to_degrees(),
                1e3 * (2.0 * tol).sqrt().to_degrees(),
                0.0,
            )
            .because("they point elsewhere, by a thousand times what rounding could turn them"),
            Evidence::at_least(
                "raw output re-read as another target: largest relative difference of the re-weighted losses from that of x0",
                reread_apart,
                1e3 * tol,
                0.0,
            )
            .because("these are different functions; a thousand times the rounding of one"),
        ];
        Ok(Self { params: params.len(), batch: n, losses, sigmas, ratios, evidence })
    }
}

/// Four networks from the same weights and on the same draws, each trained to say one target.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Trained {
    /// Steps of each.
    pub steps: u64,
    /// Images of a step.
    pub batch: usize,
    /// Training images.
    pub images: usize,
    /// Noise levels `sigma / alpha`.
    pub sigmas: Vec<f64>,
    /// By target: mean square of the distance of its x0 from the exact optimum's over the data's
    /// variance, on noised training images.
    pub excess: Vec<Vec<f64>>,
    /// The same of the Wiener filter of the training images.
    pub wiener: Vec<f64>,
    /// Least risk, that of the exact optimum.
    pub least: Vec<f64>,
    /// By target: its plain loss a pixel, over times uniform on the judged range.
    pub losses: Vec<Weighed>,
    /// Noise level by noise level, what the excess of each network adds to the velocity's loss in
    /// equal steps of the level's logarithm.
    pub spent: Vec<Vec<f64>>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// One loss, asked of every network.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Weighed {
    /// That of the exact optimum.
    pub least: f64,
    /// By the target that a network was trained to say: what its loss has above that.
    pub excess: Vec<f64>,
}

impl Trained {
    pub(super) fn new(
        settings: &Settings,
        effort: &Effort,
        context: &Context,
        told: &dyn Fn(usize, &str),
    ) -> Result<Self> {
        let mut recipe = settings.train.clone();
        (recipe.steps, recipe.seed) = (effort.train_steps, context.seed);
        let data = Data::load(&recipe)?;
        let Source::Images { train, .. } = &data.source else {
            unreachable!("the recipe names a data set")
        };
        let (optimum, wiener) =
            (Empirical::new(train.clone())?, Gaussian::from_data(train.view())?);
        let total: f64 = wiener.variances().sum();
        let n = effort.judged.min(train.nrows());
        let x0 = train.select(Axis(0), &(0..n).map(|i| i * train.nrows() / n).collect::<Vec<_>>());
        let [lo, hi] = settings.judged_range;
        let sigmas = geometric(lo, hi, settings.judged_levels);
        let noise = Noise::new(context.seed).child(JUDGED);
        let mut states = Vec::new();
        for (k, sigma) in sigmas.iter().enumerate() {
            let at = super::linear::at_level(*sigma)?;
            let eps = noise.normals(k as u64, x0.raw_dim());
            let xt = &x0 * at.alpha + &eps * at.sigma;
            let best = optimum.denoised(xt.view(), &at)?;
            states.push((at, xt, best));
        }
        let square =
            |a: &Array2<f64>, b: &Array2<f64>| (a - b).mapv(|e| e * e).sum() / n as f64 / total;
        let judge = |model: &dyn Denoiser| {
            states
                .iter()
                .map(|(at, xt, best)| Ok(square(&model.denoised(xt.view(), at)?, best)))
                .collect::<Result<Vec<f64>>>()
        };
        // The error of the optimum is orthogonal to every function of the state: mean of the
        // product, in standard errors.
        let aslant = |model: &dyn Denoiser| {
            let of = |(at, xt, best): &(PathPoint, Array2<f64>, Array2<f64>)| {
                let products =
                    ((model.denoised(xt.view(), at)? - best) * (best - &x0)).sum_axis(Axis(1));
                let error = products.std(1.0) / (n as f64).sqrt();
                // Where the optimum is exact there is nothing to be orthogonal to.
                Ok(products.mean().expect("images").abs() / error.max(1e-9 * total))
            };
            Ok(states.iter().map(of).collect::<Result<Vec<f64>>>()?.into_iter().fold(0.0, larger))
        };
        let least: Vec<f64> = states.iter().map(|(_, _, best)| square(best, &x0)).collect();
        let wiener = judge(&wiener)?;
        let images = train.nrows();
        let (mut excess, mut slant) = (Vec::new(), 0.0f64);
        for (k, target) in TARGETS.into_iter().enumerate() {
            recipe.objective.prediction = target;
            let stops = [recipe.steps / 2, recipe.steps];
            let step =
                |step| told(k, &format!("{target}-network, step {step} of {}", recipe.steps));
            let (trainer, _) = watched(
                &recipe,
                &stops,
                context.training(&target.to_string()).as_deref(),
                &step,
                |_, _, _| Ok(()),
            )?;
            let network = trainer.network(trainer.best_params(), 128)?;
            excess.push(judge(&network)?);
            slant = larger(slant, aslant(&network)?);
        }
        // dt = alpha sigma d ln(sigma / alpha) on the straight path.
        let step = (hi / lo).ln() / (sigmas.len() - 1) as f64;
        let span =
            Path::FlowMatching.t_from_edm_sigma(hi)? - Path::FlowMatching.t_from_edm_sigma(lo)?;
        let density = |target, k: usize| {
            let at = &states[k].0;
            Ok(loss_ratio(target, Prediction::X0, &Frame::from(at))? * at.alpha * at.sigma * total
                / x0.ncols() as f64
                / span)
        };
        let weighed = |target| {
            let last = sigmas.len() - 1;
            let weights: Vec<f64> = (0..=last)
                .map(|k| {
                    Ok(density(target, k)? * step * if k == 0 || k == last { 0.5 } else { 1.0 })
                })
                .collect::<Result<_>>()?;
            let sum = |risk: &Vec<f64>| risk.iter().zip(&weights).map(|(r, w)| r * w).sum::<f64>();
            Ok(Weighed { least: sum(&least), excess: excess.iter().map(sum).collect() })
        };
        let losses = TARGETS.into_iter().map(weighed).collect::<Result<Vec<_>>>()?;
        let spent = excess
            .iter()
            .map(|e| {
                e.iter()
                    .enumerate()
                    .map(|(k, e)| Ok(e * density(Prediction::Velocity, k)?))
                    .collect::<Result<Vec<f64>>>()
            })
            .collect::<Result<Vec<_>>>()?;
        let (first, last) = (0, sigmas.len() - 1);
        let evidence = vec![
            Evidence::new(
                "errors of the optimum against those of the networks: largest mean product, in standard errors",
                slant,
                0.0,
                5.0,
            )
            .because("they are orthogonal, so that risks are least risk plus excess; the largest of 44"),
            Evidence::at_most(
                format!("trained networks, σ/α = {lo}: excess of the ε-network over that of the x₀-network"),
                excess[1][first] / excess[0][first],
                1.0,
                0.0,
            )
            .because("below 1: little noise is easier to name than to subtract"),
            Evidence::at_most(
                format!("trained networks, σ/α = {hi}: excess of the x₀-network over that of the ε-network"),
                excess[0][last] / excess[1][last],
                1.0,
                0.0,
            )
            .because("below 1: what is left of the data is easier to name than all of the noise"),
        ];
        Ok(Self {
            steps: recipe.steps,
            batch: recipe.batch,
            images,
            sigmas,
            excess,
            wiener,
            least,
            losses,
            spent,
            evidence,
        })
    }
}

/// Part of the seed's noise on which networks are judged: none that their training uses.
const JUDGED: u64 = 1 << 32;
