//! The linear VAE: its bound under any encoder, and the code that the best one is.

use super::Settings;
use ndarray::{Array2, s};
use serde::{Deserialize, Serialize};
use std::f64::consts::{LN_2, TAU};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::rate_distortion::rate;
use tweedie::exact::vae::{Encoder, LinearVae};
use tweedie::law::Gaussian;
use tweedie::math::{larger, smaller};
use tweedie_report::experiment::{energy, farthest, geometric, least};

/// Mean bound and gap over digits, nats a digit, of one decoder under two families of encoders.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bound {
    /// Mean log evidence.
    pub evidence_nats: f64,
    /// The right encoder with its deviations multiplied by a factor: factor, bound, gap.
    pub spread: Vec<[f64; 3]>,
    /// The right encoder with its gain multiplied by a factor: factor, bound, gap.
    pub gain: Vec<[f64; 3]>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Bound {
    pub(super) fn new(settings: &Settings, law: &Gaussian, digits: &Array2<f64>) -> Result<Self> {
        let vae = LinearVae::max_likelihood(law, settings.latents)?;
        let every = (digits.nrows() / settings.tried).max(1);
        let x = digits.slice(s![..;every, ..]);
        let exact = vae.log_evidence(x)?;
        let best = vae.optimal_encoder();
        let mut worst = 0.0f64;
        let mut least_gap = f64::INFINITY;
        let mut tried = |encoder: &Encoder| -> Result<[f64; 2]> {
            let (elbo, gap) = (vae.elbo(x, encoder)?, vae.gap(x, encoder)?);
            let off = (&elbo + &gap - &exact) / &elbo;
            worst = off.iter().map(|v| v.abs()).fold(worst, larger);
            least_gap = gap.iter().copied().fold(least_gap, smaller);
            Ok([elbo.mean().unwrap_or(f64::NAN), gap.mean().unwrap_or(f64::NAN)])
        };
        let with = |factor: f64, [elbo, gap]: [f64; 2]| [factor, elbo, gap];
        let spread = geometric(0.2, 5.0, 41)
            .into_iter()
            .map(|c| Ok(with(c, tried(&Encoder { cov: &best.cov * (c * c), ..best.clone() })?)))
            .collect::<Result<Vec<_>>>()?;
        let gain = (0..=40)
            .map(|i| i as f64 / 20.0)
            .map(|a| Ok(with(a, tried(&Encoder { gain: &best.gain * a, ..best.clone() })?)))
            .collect::<Result<Vec<_>>>()?;
        let [_, at_best] = tried(&best)?;

        // Of all digits, the model's mean log evidence by the variances alone.
        let whole = vae.log_evidence(digits.view())?.mean().unwrap_or(f64::NAN);
        let d = law.dim() as f64;
        let kept: f64 = law.variances().iter().take(settings.latents).map(|l| l.ln()).sum();
        let by_variances = -0.5
            * (kept + (d - settings.latents as f64) * vae.noise_var().ln() + d * (1.0 + TAU.ln()));
        let evidence = vec![
            Evidence::new(
                "log p - bound - gap over the bound, farthest from 0 over all encoders and digits",
                worst,
                0.0,
                1e-11,
            )
            .because(
                "three formulas with 64 terms each, and a decoder noise of 1/10 of the variances",
            ),
            Evidence::at_least("smallest gap of any encoder and digit", least_gap, 0.0, 1e-10)
                .because("a divergence has no sign but by rounding"),
            Evidence::new("gap of the right encoder", at_best, 0.0, 1e-10)
                .because("it is the posterior"),
            Evidence::new(
                "mean log evidence of all digits / that from their variances",
                whole / by_variances,
                1.0,
                1e-11,
            )
            .because("another formula, of 64 logarithms"),
        ];
        Ok(Self { evidence_nats: exact.mean().unwrap_or(f64::NAN), spread, gain, evidence })
    }
}

/// What VAEs of given decoder noise keep, measured on the digits.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Code {
    /// Variances of the digits' components, descending.
    pub variances: Vec<f64>,
    /// Share of the variance lost and least rate, bits a digit: the rate-distortion function.
    pub least: (Vec<f64>, Vec<f64>),
    /// For each noise variance: latents kept, share of the variance lost, rate in bits.
    pub given_noise: Vec<(f64, usize, f64, f64)>,
    /// For each size: the likeliest VAE's share lost and rate in bits.
    pub given_size: Vec<(usize, f64, f64)>,
    /// The most bits by which one of these exceeds the least rate at its error.
    pub excess: f64,
    /// For each drawn noise variance: bits of each latent, digits as decoded from the encoder's
    /// means.
    pub drawn: Vec<(f64, Vec<f64>, Array2<f64>)>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Code {
    pub(super) fn new(settings: &Settings, law: &Gaussian, digits: &Array2<f64>) -> Result<Self> {
        let total: f64 = law.variances().sum();
        let measured = |vae: &LinearVae| -> Result<(f64, f64)> {
            let (distortion, rate) =
                vae.distortion_and_rate(digits.view(), &vae.optimal_encoder())?;
            Ok((distortion.mean().unwrap_or(f64::NAN), rate.mean().unwrap_or(f64::NAN)))
        };
        let (mut off, mut bound_off, mut not_normal) = (0.0f64, 0.0f64, 0.0f64);
        let mut given_noise = Vec::new();
        for &noise_var in &settings.noise_vars {
            let vae = LinearVae::with_noise(law, noise_var)?;
            let (distortion, nats) = measured(&vae)?;
            off = larger(off, (nats / rate(law, distortion)? - 1.0).abs());
            let elbo = vae.elbo(digits.view(), &vae.optimal_encoder())?.mean().unwrap_or(f64::NAN);
            let parts =
                -0.5 * (law.dim() as f64 * (TAU * noise_var).ln() + distortion / noise_var) - nats;
            bound_off = larger(bound_off, (elbo / parts - 1.0).abs());
            // All posteriors together.
            let encoder = vae.optimal_encoder();
            let together = encoder.gain.dot(&law.matrix(|l| l)).dot(&encoder.gain.t())
                + &encoder.cov
                - Array2::<f64>::eye(encoder.shift.len());
            not_normal = together.iter().map(|v| v.abs()).fold(not_normal, larger);
            given_noise.push((noise_var, vae.weights().ncols(), distortion / total, nats / LN_2));
        }
        let given_size = settings
            .digit_sizes
            .iter()
            .map(|&k| {
                let (distortion, nats) = measured(&LinearVae::max_likelihood(law, k)?)?;
                Ok((k, distortion / total, nats / LN_2))
            })
            .collect::<Result<Vec<_>>>()?;
        let excess = given_size
            .iter()
            .map(|(_, lost, bits)| Ok(bits - rate(law, lost * total)? / LN_2))
            .collect::<Result<Vec<f64>>>()?;
        let (below, excess) = (least(excess.iter().copied()), farthest(excess));
        let shares = geometric(0.005, 1.0, 60);
        let bits = shares
            .iter()
            .map(|s| Ok(rate(law, (s * total).min(total))? / LN_2))
            .collect::<Result<Vec<f64>>>()?;
        let some = digits.slice(s![..settings.pictures, ..]).to_owned();
        let drawn = settings
            .drawn_vars
            .iter()
            .map(|&noise_var| {
                let vae = LinearVae::with_noise(law, noise_var)?;
                let encoder = vae.optimal_encoder();
                let latents = |x: &Array2<f64>| (x - &law.mean()).dot(&encoder.gain.t());
                let codes = latents(digits);
                // The divergence of each latent, mean over the digits.
                let bits = (0..codes.ncols()).map(|k| {
                    let (c, var) = (codes.column(k), encoder.cov[[k, k]]);
                    0.5 * (c.dot(&c) / c.len() as f64 + var - 1.0 - var.ln()) / LN_2
                });
                Ok((noise_var, bits.collect(), latents(&some).dot(&vae.weights().t()) + law.mean()))
            })
            .collect::<Result<Vec<(f64, Vec<f64>, Array2<f64>)>>>()?;
        let by_latents = drawn.iter().map(|(noise_var, bits, _)| {
            let formula: Vec<f64> = law
                .variances()
                .iter()
                .take(bits.len())
                .map(|l| 0.5 * (l / noise_var).log2())
                .collect();
            bits.iter().zip(&formula).map(|(b, f)| (b - f).abs()).fold(0.0, larger)
        });
        // Decoded from the encoder's means a kept component comes back times 1 - s^2 / lambda.
        let sharpness = settings.drawn_vars.iter().map(|&noise_var| {
            let vae = LinearVae::with_noise(law, noise_var)?;
            let codes = (digits - &law.mean()).dot(&vae.optimal_encoder().gain.t());
            let seen = energy(&(codes.dot(&vae.weights().t()) + law.mean() - digits))
                / digits.nrows() as f64;
            let left: f64 = law
                .variances()
                .iter()
                .map(|l| if *l > noise_var { noise_var * noise_var / l } else { *l })
                .sum();
            Ok(seen / left - 1.0)
        });
        let sharpness = farthest(sharpness.collect::<Result<Vec<f64>>>()?);
        let evidence = vec![
            Evidence::new(
                "rate of a VAE with given noise / least rate of any code with its error, farthest from 1",
                off,
                0.0,
                1e-10,
            )
            .because("measured on the digits, against water-filling of their variances"),
            Evidence::at_least("VAEs of given size: smallest excess over the least rate, bits", below, 0.0, 1e-9)
                .because("no code is below it"),
            Evidence::new("bound of these VAEs / its two parts put together, farthest from 1", bound_off, 0.0, 1e-12)
                .because("one sum in two orders"),
            Evidence::new("covariance of all digits' posteriors together, farthest from the identity", not_normal, 0.0, 1e-10)
                .because("products of 64 terms over a noise of down to 1/100 of the variance"),
            Evidence::new(
                "bits of each latent, measured, less log2(lambda / s^2) / 2, farthest",
                by_latents.fold(0.0, larger),
                0.0,
                1e-10,
            )
            .because("means of 1,797 squares"),
            Evidence::new(
                "error of all digits decoded from their means, over sum of s^4 / lambda of the kept components and lambda of the others, less 1, worst of the noises drawn",
                sharpness,
                0.0,
                1e-10,
            )
            .because("sums of some 100,000 squares"),
        ];
        Ok(Self {
            variances: law.variances().to_vec(),
            least: (shares, bits),
            given_noise,
            given_size,
            excess,
            drawn,
            evidence,
        })
    }
}
