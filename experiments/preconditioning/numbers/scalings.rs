//! EDM's four scalings: what they make of the input and of the target on real data, and what a
//! network that says nothing then does.

use super::{farthest, mean_and_stderr, preserving};
use ndarray::{Array2, s};
use num_dual::Dual64;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::Denoiser;
use tweedie::diffusion::elbo::mmse;
use tweedie::diffusion::preconditioning::{Preconditioning, input_var, target_var};
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::Gaussian;
use tweedie::math::noise::Noise;
use tweedie_nn::train::Trainer;
use tweedie_nn::train::loader::Data;
use tweedie_report::experiment::Embedded;
use tweedie_report::experiment::level;

/// A data set's own scale.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Scale {
    /// Its name.
    pub name: String,
    /// Mean of all pixels.
    pub mean: f64,
    /// Their deviation about it.
    pub std: f64,
    /// Root of their mean square: what unit variances want for `sigma_data`.
    pub rms: f64,
}

/// Root mean squares of input and target for one `sigma_data`.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Choice {
    /// The deviation assumed.
    pub sigma_data: f64,
    /// Of the input, exact, at each level.
    pub input: Vec<f64>,
    /// Of the target, exact.
    pub target: Vec<f64>,
    /// Of both, measured at [`Numbers::probes`].
    pub measured: [Vec<f64>; 2],
}

/// What a network whose output is 0 does as a denoiser.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Silent {
    /// What it would predict.
    pub kind: Prediction,
    /// Mean squared error of x0 a pixel, at each level.
    pub error: Vec<f64>,
    /// Its x0_hat of the noised picture, (levels of the pictures, d).
    pub pictures: Array2<f64>,
}

/// What is computed of the scalings.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// Noise levels.
    pub sigmas: Vec<f64>,
    /// `c_skip`, `c_out`, `c_in` at each, for EDM's `sigma_data`.
    pub coefficients: [Vec<f64>; 3],
    /// Scales of the data sets.
    pub data: Vec<Scale>,
    /// EDM's choice, the deviation about the mean, the root mean square.
    pub choices: Vec<Choice>,
    /// Levels of the measured points.
    pub probes: Vec<f64>,
    /// Networks that say nothing.
    pub silent: Vec<Silent>,
    /// Mean squared error a pixel of the best denoiser of Gaussian data of the digits' mean and
    /// covariance.
    pub least: Vec<f64>,
    /// The noised picture on the variance-preserving scale, (levels, d).
    pub noised: Array2<f64>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// The U-Net of the random fields' recipe before its first step, as a denoiser, less `c_skip y`:
/// the largest difference.
fn untrained(noise: &Noise) -> Result<f64> {
    let recipe = crate::grf::numbers::Settings::current()?.train;
    let trainer = Trainer::<f32>::new(recipe.clone(), Data::load(&recipe)?)?;
    let network = trainer.network(trainer.params(), 4)?;
    let mut worst = 0.0;
    for sigma in [0.1, 1.0, 10.0] {
        let y = noise.child(4000).normals(0, (4, network.dim())) * sigma;
        let skip = Preconditioning::edm(sigma, recipe.objective.sigma_data)?.c_skip;
        worst =
            farthest([worst, farthest(&network.denoised(y.view(), &level(sigma))? - &(y * skip))]);
    }
    Ok(worst)
}

/// One picture of MNIST, and itself in noise at each level, at `alpha = 1`.
pub(super) fn subject(
    settings: &super::Settings,
    noise: &Noise,
) -> Result<(Array2<f64>, Array2<f64>, Array2<f64>)> {
    let images = tweedie_nn::data::load("mnist")?.images;
    let k = settings.pictures.image;
    let x0 = images.slice(s![k..=k, ..]).to_owned();
    // The same noise at every level.
    let eps = noise.normals(0, (1, x0.ncols()));
    let mut y = Array2::zeros((settings.pictures.sigmas.len(), x0.ncols()));
    for (mut row, sigma) in y.rows_mut().into_iter().zip(&settings.pictures.sigmas) {
        row.assign(&(&x0.row(0) + &(&eps.row(0) * *sigma)));
    }
    Ok((x0, eps, y))
}

impl Numbers {
    pub(super) fn new(settings: &super::Settings, sigmas: &[f64], noise: &Noise) -> Result<Self> {
        let sets =
            settings.data.iter().map(|d| tweedie_nn::data::load(d)).collect::<Result<Vec<_>>>()?;
        let data: Vec<Scale> = sets
            .iter()
            .map(|set| {
                let n = set.images.len() as f64;
                let mean = set.images.sum() / n;
                let std = (set.images.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / n).sqrt();
                let rms = (set.images.iter().map(|v| v * v).sum::<f64>() / n).sqrt();
                Scale { name: set.name.clone(), mean, std, rms }
            })
            .collect();
        let edm = |sigma: f64, sd: f64| Preconditioning::edm(sigma, sd);
        let all =
            sigmas.iter().map(|s| edm(*s, settings.sigma_data)).collect::<Result<Vec<_>>>()?;
        let coefficients = [
            all.iter().map(|c| c.c_skip).collect(),
            all.iter().map(|c| c.c_out).collect(),
            all.iter().map(|c| c.c_in).collect(),
        ];

        // Measured on the images themselves.
        let images = &sets[0].images;
        let square = data[0].rms * data[0].rms;
        let probes: Vec<f64> = sigmas.iter().step_by((sigmas.len() / 9).max(1)).copied().collect();
        let (mut choices, mut worst) = (Vec::new(), 0.0f64);
        for (i, sd) in [settings.sigma_data, data[0].std, data[0].rms].into_iter().enumerate() {
            let root = |of: fn(f64, f64, f64) -> f64| {
                sigmas.iter().map(|s| of(*s, sd, square).sqrt()).collect()
            };
            let mut measured = [vec![], vec![]];
            for (k, sigma) in probes.iter().enumerate() {
                let c = edm(*sigma, sd)?;
                let z =
                    noise.child((100 * i + k) as u64).normals(0, (images.nrows(), images.ncols()));
                let (mut input, mut target) = (Vec::new(), Vec::new());
                for (x0, z) in images.rows().into_iter().zip(z.rows()) {
                    let (mut a, mut b) = (0.0, 0.0);
                    for (x0, z) in x0.iter().zip(z) {
                        let y = x0 + sigma * z;
                        a += (c.c_in * y).powi(2);
                        b += ((x0 - c.c_skip * y) / c.c_out).powi(2);
                    }
                    input.push(a / images.ncols() as f64);
                    target.push(b / images.ncols() as f64);
                }
                for (j, (rows, of)) in
                    [(&input, input_var as fn(f64, f64, f64) -> f64), (&target, target_var)]
                        .into_iter()
                        .enumerate()
                {
                    // The images are all there are: only the noise is drawn, and their spread makes
                    // this error too large rather than too small.
                    let [mean, stderr] = mean_and_stderr(rows);
                    worst = farthest([worst, (mean - of(*sigma, sd, square)) / stderr]);
                    measured[j].push(mean.sqrt());
                }
            }
            choices.push(Choice {
                sigma_data: sd,
                input: root(input_var),
                target: root(target_var),
                measured,
            });
        }

        let law = Gaussian::from_data(images.view())?;
        let d = images.ncols() as f64;
        let least = sigmas
            .iter()
            .map(|s| law.variances().iter().map(|l| mmse(*l, (1.0, *s))).sum::<f64>() / d)
            .collect::<Vec<_>>();
        let (_, _, y) = subject(settings, &noise.child(1000))?;
        let square_of = |k: usize| data[k].rms.powi(2);
        let mnist = settings.data.iter().position(|d| d == "mnist").unwrap_or(0);
        let mut silent = Vec::new();
        for kind in [Prediction::Eps, Prediction::X0, Prediction::V, Prediction::F] {
            // x0_hat is a multiple of y; which one, the library's conversion says.
            let share = |sigma: f64, sd: f64| -> Result<f64> {
                let at = Frame::from(&level(sigma));
                let at = if kind == Prediction::V {
                    Frame::from(&preserving(sigma))
                } else {
                    at.with_sigma_data(sd)
                };
                Ok(Conversion::new(kind, Prediction::X0, at)?.apply(0.0, at.alpha))
            };
            let error = sigmas
                .iter()
                .map(|s| {
                    share(*s, data[0].rms)
                        .map(|k| (1.0 - k).powi(2) * square_of(0) + (k * s).powi(2))
                })
                .collect::<Result<Vec<_>>>()?;
            let mut pictures = y.clone();
            for (mut row, sigma) in pictures.rows_mut().into_iter().zip(&settings.pictures.sigmas) {
                row *= share(*sigma, data[mnist].rms)?;
            }
            silent.push(Silent { kind, error, pictures });
        }
        let mut noised = y;
        for (mut row, sigma) in noised.rows_mut().into_iter().zip(&settings.pictures.sigmas) {
            row /= sigma.hypot(1.0);
        }

        // Independent routes: the least c_out by dual numbers; the error of the noiseless network
        // by sampling on the digits.
        let slope = farthest(sigmas.iter().zip(&all).map(|(sigma, c)| {
            let (skip, sd) = (Dual64::from(c.c_skip).derivative(), settings.sigma_data);
            let out2 = (Dual64::from(1.0) - skip) * (Dual64::from(1.0) - skip) * (sd * sd)
                + skip * skip * (sigma * sigma);
            out2.eps / (sd * sd + sigma * sigma)
        }));
        let above =
            farthest(all.iter().zip(sigmas).map(|(c, s)| c.c_out / s.min(settings.sigma_data)));
        let unit = farthest(
            sigmas.iter().zip(&silent[3].error).map(|(s, e)| e / mmse(square, (1.0, *s)) - 1.0),
        );
        let n = images.nrows();
        let mut sampled = 0.0f64;
        for (k, sigma) in [0.3, 1.0, 4.0].into_iter().enumerate() {
            let c = edm(sigma, data[0].rms)?;
            let z = noise.child(2000 + k as u64).normals(0, (n, images.ncols()));
            let want = (1.0 - c.c_skip).powi(2) * square + (c.c_skip * sigma).powi(2);
            let rows: Vec<f64> = images
                .rows()
                .into_iter()
                .zip(z.rows())
                .map(|(x, z)| {
                    x.iter()
                        .zip(z)
                        .map(|(x, z)| (c.c_skip * (x + sigma * z) - x).powi(2))
                        .sum::<f64>()
                        / d
                })
                .collect();
            let [mean, stderr] = mean_and_stderr(&rows);
            sampled = farthest([sampled, (mean - want) / stderr]);
        }
        let best = {
            let at = level(1.0);
            let z = noise.child(3000).normals(0, (n, images.ncols()));
            let x = images + &z;
            let hat = law.denoised(x.view(), &at)?;
            let rows: Vec<f64> = hat
                .rows()
                .into_iter()
                .zip(images.rows())
                .map(|(h, x)| h.iter().zip(x).map(|(h, x)| (h - x).powi(2)).sum::<f64>() / d)
                .collect();
            let [mean, stderr] = mean_and_stderr(&rows);
            let want = law.variances().iter().map(|l| mmse(*l, (1.0, 1.0))).sum::<f64>() / d;
            (mean - want) / stderr
        };
        let unet = untrained(noise)?;
        let many = "the worst of some dozens";
        let evidence = vec![
            Evidence::new(
                "mean squares of input and target on the digits, measured less exact: worst level and choice, in standard errors",
                worst,
                0.0,
                5.0,
            )
            .because(many),
            Evidence::new(
                "rate of c_out² with c_skip, by dual numbers, at EDM's c_skip: worst level, over σ² + σ_data²",
                slope,
                0.0,
                1e-14,
            )
            .because("rounding: there c_out is least"),
            Evidence::at_most("c_out over the smaller of σ and σ_data, the most of all levels", above, 1.0, 1e-15)
                .because("half the harmonic mean of their squares is less than either; rounding"),
            Evidence::new(
                "error of a silent F-network with σ_data = rms, over that of the best filter of one number: less 1, worst level",
                unit,
                0.0,
                1e-13,
            )
            .because("the skip is the Wiener filter of data of one variance"),
            Evidence::new(
                "error of the same on noised digits, sampled less exact: worst of three levels, in standard errors",
                sampled,
                0.0,
                5.0,
            )
            .because(format!("{n} digits")),
            Evidence::new(
                "an untrained U-Net with preconditioning: its denoiser less c_skip y, worst of three levels",
                unet,
                0.0,
                1e-6,
            )
            .because("its last convolution is 0; single precision"),
            Evidence::new(
                "least error at σ = 1: Wiener filter on noised digits less closed form, in standard errors",
                best,
                0.0,
                5.0,
            )
            .because(format!("{n} of the digits whose mean and covariance the filter has")),
        ];
        Ok(Self {
            sigmas: sigmas.to_vec(),
            coefficients,
            data,
            choices,
            probes,
            silent,
            least,
            noised,
            evidence,
        })
    }
}
