//! What a network is asked for: each target in pictures, what can't be known of it, and what its
//! errors become on their way to x0.

use super::scalings::subject;
use super::{Effort, farthest, frame, mean_and_stderr, preserving};
use ndarray::{Array2, Axis};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::elbo::mmse;
use tweedie::diffusion::loss::{loss_ratio, squared_errors};
use tweedie::diffusion::prediction::{Conversion, Frame, Prediction};
use tweedie::diffusion::{Denoiser, Path};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::empirical::Empirical;
use tweedie::law::{Gaussian, Law};
use tweedie::math::noise::Noise;

/// The predictions of this part.
pub const KINDS: [Prediction; 4] = [Prediction::X0, Prediction::Eps, Prediction::V, Prediction::F];

/// One prediction.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Target {
    /// Which.
    pub kind: Prediction,
    /// The target of the noised picture at each level, (levels, d).
    pub pictures: Array2<f64>,
    /// Its best linear prediction, which knows mean and covariance of the 10,000 pictures, (levels,
    /// d).
    pub best: Array2<f64>,
    /// What becomes of x0 when the network's output is off by the same error, (levels, d).
    pub spoilt: Array2<f64>,
    /// Root mean square of the target a pixel at each noise level.
    pub rms: Vec<f64>,
    /// Share of its mean square that no network can know: for Gaussian data of the digits'
    /// covariance.
    pub unknown: Vec<f64>,
    /// The same for the digits themselves, sampled, at [`Numbers::probes`].
    pub sampled: Vec<f64>,
    /// Error of x0 over the error of the output, at each level.
    pub amplification: Vec<f64>,
}

/// What is computed of the targets.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// Noise levels of the curves.
    pub sigmas: Vec<f64>,
    /// Levels of the sampled points.
    pub probes: Vec<f64>,
    /// The noised picture on the variance-preserving scale, (levels, d).
    pub noised: Array2<f64>,
    /// x0, eps, v, F.
    pub targets: Vec<Target>,
    /// Error of x0 over that of the velocity, on flow matching's path.
    pub velocity: Vec<f64>,
    /// Checks of the targets, and of the errors.
    pub evidence: [Vec<Evidence>; 2],
}

impl Numbers {
    pub(super) fn new(
        settings: &super::Settings,
        effort: Effort,
        sigmas: &[f64],
        rms: f64,
        noise: &Noise,
    ) -> Result<Self> {
        let (x0, eps, y) = subject(settings, &noise.child(0))?;
        let levels = &settings.pictures.sigmas;
        let mnist = tweedie_nn::data::load("mnist")?.images;
        let own_rms = (mnist.iter().map(|v| v * v).sum::<f64>() / mnist.len() as f64).sqrt();
        let known = Gaussian::from_data(mnist.view())?;
        let mut noised = y;
        let mut hats = Array2::zeros(noised.raw_dim());
        for (k, sigma) in levels.iter().enumerate() {
            noised.row_mut(k).mapv_inplace(|v| v / sigma.hypot(1.0));
            let x = noised.row(k).insert_axis(Axis(0));
            hats.row_mut(k).assign(&known.denoised(x, &preserving(*sigma))?.row(0));
        }
        let error = noise.child(1).normals(0, (1, x0.ncols())) * settings.pictures.error;

        let digits = tweedie_nn::data::load("digits")?.images;
        let law = Gaussian::from_data(digits.view())?;
        let d = law.dim() as f64;
        let least =
            |sigma: f64| law.variances().iter().map(|l| mmse(*l, (1.0, sigma))).sum::<f64>() / d;
        let probes: Vec<f64> = sigmas.iter().step_by((sigmas.len() / 12).max(1)).copied().collect();
        // Mean posterior variance of x0 a pixel when the data are the digits and nothing else.
        let empirical = Empirical::new(digits)?;
        let sampled = probes
            .iter()
            .enumerate()
            .map(|(k, sigma)| {
                let noise = noise.child(100 + k as u64);
                let at = preserving(*sigma);
                let x = empirical.sample(effort.draws, &noise) * at.alpha
                    + noise.normals(0, (effort.draws, 64)) * at.sigma;
                empirical.posterior_var(x.view(), &at).sum() / (effort.draws as f64 * d)
            })
            .collect::<Vec<f64>>();
        let share = |kind: Prediction, sigma: f64, error: f64| -> Result<f64> {
            let at = frame(sigma, rms);
            let (a, b) = kind.coefficients(&at);
            Ok(loss_ratio(kind, Prediction::X0, &at)? * error / (a * a * rms * rms + b * b))
        };
        let targets = KINDS
            .iter()
            .map(|&kind| {
                let mut target = Target {
                    kind,
                    pictures: Array2::zeros(noised.raw_dim()),
                    best: Array2::zeros(noised.raw_dim()),
                    spoilt: Array2::zeros(noised.raw_dim()),
                    rms: vec![],
                    unknown: vec![],
                    sampled: vec![],
                    amplification: vec![],
                };
                for (k, sigma) in levels.iter().enumerate() {
                    let at = frame(*sigma, own_rms);
                    let (to, back) = (
                        Conversion::new(Prediction::X0, kind, at)?,
                        Conversion::new(kind, Prediction::X0, at)?,
                    );
                    for j in 0..x0.ncols() {
                        let right = kind.target(x0[[0, j]], eps[[0, j]], &at);
                        target.pictures[[k, j]] = right;
                        target.best[[k, j]] = to.apply(hats[[k, j]], noised[[k, j]]);
                        target.spoilt[[k, j]] = back.apply(right + error[[0, j]], noised[[k, j]]);
                    }
                }
                for sigma in sigmas {
                    let at = frame(*sigma, rms);
                    let (a, b) = kind.coefficients(&at);
                    target.rms.push((a * a * rms * rms + b * b).sqrt());
                    target.unknown.push(share(kind, *sigma, least(*sigma))?);
                    target.amplification.push(loss_ratio(Prediction::X0, kind, &at)?.sqrt());
                }
                for (sigma, error) in probes.iter().zip(&sampled) {
                    target.sampled.push(share(kind, *sigma, *error)?);
                }
                Ok(target)
            })
            .collect::<Result<Vec<_>>>()?;
        let flow = |sigma: f64| -> Result<Frame<f64>> {
            Ok(Frame::from(&Path::FlowMatching.at(Path::FlowMatching.t_from_edm_sigma(sigma)?)?))
        };
        let velocity = sigmas
            .iter()
            .map(|s| Ok(loss_ratio(Prediction::X0, Prediction::Velocity, &flow(*s)?)?.sqrt()))
            .collect::<Result<Vec<f64>>>()?;

        let evidence = [
            known_and_unknown(&law, &targets, sigmas, rms, effort, noise)?,
            amplified(&targets, &velocity, sigmas, rms, noise)?,
        ];
        Ok(Self { sigmas: sigmas.to_vec(), probes, noised, targets, velocity, evidence })
    }
}

/// The Wiener filter's error under each loss, on draws of the Gaussian, against the closed form.
fn known_and_unknown(
    law: &Gaussian,
    targets: &[Target],
    sigmas: &[f64],
    rms: f64,
    effort: Effort,
    noise: &Noise,
) -> Result<Vec<Evidence>> {
    let probes: Vec<usize> = [1, 2, 3, 4, 5].iter().map(|k| k * (sigmas.len() - 1) / 6).collect();
    let scores = probes
        .par_iter()
        .map(|&k| {
            let (at, point) = (frame(sigmas[k], rms), preserving(sigmas[k]));
            let noise = noise.child(200 + k as u64);
            let (x0, eps) =
                (law.sample(effort.draws, &noise), noise.normals(0, (effort.draws, law.dim())));
            let x = &x0 * point.alpha + &eps * point.sigma;
            let hat = law.denoised(x.view(), &point)?;
            let mut worst = 0.0;
            for target in targets {
                let mut out = hat.clone();
                Conversion::new(Prediction::X0, target.kind, at)?.apply_batch(
                    hat.view(),
                    x.view(),
                    out.view_mut(),
                )?;
                let errors =
                    squared_errors(target.kind, out.view(), x0.view(), eps.view(), &at)?.to_vec();
                let [mean, stderr] = mean_and_stderr(&errors);
                let want = target.unknown[k] * target.rms[k].powi(2) * law.dim() as f64;
                worst = farthest([worst, (mean - want) / stderr]);
            }
            Ok(worst)
        })
        .collect::<Result<Vec<f64>>>()?;
    // Of data of mean 0 and one variance, shares of x0 and of eps that can't be known.
    let both = farthest(sigmas.iter().map(|s| {
        let square = rms * rms;
        let x0 = mmse(square, (1.0, *s)) / square;
        let eps = mmse(square, (1.0, *s)) / (s * s);
        x0 + eps - 1.0
    }));
    let flat = farthest(targets[3].rms.iter().map(|r| r - 1.0));
    let eps = farthest(targets[1].rms.iter().map(|r| r - 1.0));
    let real =
        farthest(targets[0].unknown.iter().zip(&targets[1].unknown).map(|(x0, eps)| x0 + eps));
    Ok(vec![
        Evidence::at_most("the digits' covariance: unknown shares of x0 and of eps, their sum, the most of all levels", real, 1.0, 0.0)
            .because("known pixels tell of others, and the mean is known"),
        Evidence::new("error of the Wiener filter under each loss, sampled less closed form: worst of 5 levels and 4 losses, in standard errors", farthest(scores), 0.0, 5.0)
            .because(format!("{} draws", effort.draws)),
        Evidence::new("data of one variance: unknown shares of x0 and of eps, their sum less 1, worst level", both, 0.0, 1e-14)
            .because("what x_t tells of the one it leaves open in the other"),
        Evidence::new("root mean square of the target eps less 1, worst level", eps, 0.0, 0.0).because("the same at every level, exactly"),
        Evidence::new("root mean square of the target F less 1, worst level, σ_data being the digits' rms", flat, 0.0, 1e-14).because("rounding"),
    ])
}

/// Errors of the output carried to x0 by the conversions themselves, against their closed forms.
fn amplified(
    targets: &[Target],
    velocity: &[f64],
    sigmas: &[f64],
    rms: f64,
    noise: &Noise,
) -> Result<Vec<Evidence>> {
    let closed = |kind: Prediction, s: f64| match kind {
        Prediction::X0 => 1.0,
        Prediction::Eps => s,
        Prediction::V => s / s.hypot(1.0),
        _ => s * rms / s.hypot(rms),
    };
    let (mut by_formula, mut by_hand) = (0.0, 0.0);
    for target in targets {
        for (k, s) in sigmas.iter().enumerate() {
            by_formula =
                farthest([by_formula, target.amplification[k] / closed(target.kind, *s) - 1.0]);
            let back = Conversion::new(target.kind, Prediction::X0, frame(*s, rms))?;
            let (p, x) = (noise.normal(9, k as u64), noise.normal(10, k as u64));
            // An error of 1 is well above the rounding of two numbers of size 1.
            by_hand = farthest([
                by_hand,
                (back.apply(p + 1.0, x) - back.apply(p, x)).abs() / closed(target.kind, *s) - 1.0,
            ]);
        }
    }
    let flow = farthest(sigmas.iter().zip(velocity).map(|(s, a)| a / (s / (1.0 + s)) - 1.0));
    let most = |k: usize| farthest(targets[k].amplification.iter().copied());
    Ok(vec![
        Evidence::new(
            "factors of x0, eps, v and F over 1, σ/α, σ and c_out: less 1, worst",
            by_formula,
            0.0,
            1e-12,
        )
        .because("rounding"),
        Evidence::new("the same by converting two outputs that are 1 apart", by_hand, 0.0, 1e-9)
            .because("a difference, over a factor of 0.005 and more"),
        Evidence::new(
            "factor of flow matching's velocity over t: less 1, worst level",
            flow,
            0.0,
            1e-12,
        )
        .because("rounding"),
        Evidence::at_most("factor of v, the largest", most(2), 1.0, 0.0)
            .because("σ/α over its hypotenuse with 1"),
        Evidence::at_most("factor of F over σ_data, the largest", most(3) / rms, 1.0, 0.0)
            .because("likewise, with σ_data"),
    ])
}
