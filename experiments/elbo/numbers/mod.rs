//! The variational bound line by line, its limits, where its bits go, and how far it is from the
//! likelihoods that it bounds.

pub mod autoencoders;
pub mod bits;
pub mod limit;
pub mod line;
pub mod lines;
pub mod models;

use autoencoders::Autoencoders;
use bits::Bits;
use limit::Limit;
use line::Line;
use lines::{Lines, lines};
use models::Models;
use serde::{Deserialize, Serialize};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::Gaussian;
use tweedie::math::noise::Noise;
use tweedie_report::experiment::{Context, Editable, Embedded};

/// What `experiments/elbo/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Betas of the derivation's chain.
    pub betas: Vec<f64>,
    /// Variance of its data.
    pub lambda: f64,
    /// Its datum.
    pub datum: f64,
    /// Factor by which its wrong denoiser is too small.
    pub share: f64,
    /// Numbers of steps of the limits.
    pub steps: Vec<usize>,
    /// Log-SNR at the noisy and at the clean end.
    pub log_snr: [f64; 2],
    /// Steps at which terms are drawn.
    pub drawn_steps: usize,
    /// Weight, mean and deviation of each component of the mixture.
    pub mixture: Vec<[f64; 3]>,
    /// Angles of the single autoencoders drawn.
    pub angles: Vec<f64>,
    /// Numbers of steps of the chains.
    pub chains: Vec<usize>,
    /// Noise levels of the pictures, descending.
    pub picture_sigmas: Vec<f64>,
    /// The digit shown.
    pub digit: usize,
    /// Upper left corner of the piece of a photograph.
    pub crop: [usize; 2],
    /// Steps of the tables whose weights are drawn.
    pub table_steps: usize,
    /// Root mean square error of the wrong denoiser's eps.
    pub eps_error: f64,
    /// Widths of the error in log-SNR.
    pub widths: Vec<f64>,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Trajectories of the derivation's averages.
    pub trajectories: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("elbo/settings.toml");

    fn least(self) -> Self {
        Self { quick: Effort { trajectories: 8192 }, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let s = self;
        let rising = |v: &[usize]| v.windows(2).all(|p| p[0] < p[1]);
        let most = s.steps.last().copied().unwrap_or(0);
        let quarter = std::f64::consts::FRAC_PI_2;
        vec![
            (
                s.betas.len() >= 2 && s.betas.iter().all(|b| *b > 0.0 && *b < 1.0),
                "betas: at least two, between 0 and 1",
            ),
            (s.lambda > 0.0 && s.share > 0.0, "lambda, share: positive"),
            (
                most >= 4 && rising(&s.steps) && s.steps.iter().all(|n| *n > 0 && most % n == 0),
                "steps: rising divisors of the last",
            ),
            (
                most % 2 == 0 && s.steps.len() >= 4 && 2 * s.steps[s.steps.len() - 2] == most,
                "steps: at least four, the last two by a factor 2",
            ),
            (s.log_snr[0] < s.log_snr[1], "log_snr: ascending"),
            (s.drawn_steps >= 2 && s.table_steps >= 2, "drawn_steps, table_steps: at least 2"),
            (
                !s.mixture.is_empty() && s.mixture.iter().all(|c| c[0] > 0.0 && c[2] > 0.0),
                "mixture: weights and deviations > 0",
            ),
            (s.angles.iter().all(|a| *a > 0.0 && *a < quarter), "angles: between 0 and pi/2"),
            (
                s.chains.len() >= 2 && rising(&s.chains) && s.chains[0] >= 2,
                "chains: at least two, rising, from 2 on",
            ),
            (
                s.picture_sigmas.windows(2).all(|p| p[0] > p[1])
                    && s.picture_sigmas.last().is_some_and(|v| *v > 0.0),
                "picture_sigmas: positive, descending",
            ),
            (s.digit < 1797, "digit: below 1797"),
            (s.crop.iter().all(|c| *c <= 192), "crop: at most 192"),
            (
                s.eps_error > 0.0 && !s.widths.is_empty() && s.widths.iter().all(|w| *w > 0.0),
                "eps_error, widths: positive",
            ),
            (
                [s.quick, s.full].iter().all(|e| e.trajectories >= 1024),
                "trajectories: at least 1024",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// The derivation for each model, and its checks.
    pub lines: (Vec<Lines>, Vec<Evidence>),
    /// Steps and schedules.
    pub limit: Limit,
    /// Bits and weights.
    pub bits: Bits,
    /// Autoencoders.
    pub autoencoders: Autoencoders,
    /// Three models of one denoiser.
    pub models: Models,
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; a law or a schedule that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let noise = Noise::new(context.seed);
    let step = |k: usize, what: &str| (context.progress)(k, 5, what);
    let images = tweedie_nn::data::load("digits")?.images;
    let digits = Gaussian::from_data(images.view())?;
    let line = Line::new(&settings.mixture)?;
    step(0, "the derivation");
    let lines = lines(&settings, effort.trajectories, &noise.child(0))?;
    step(1, "steps and schedules");
    let varying: Vec<f64> = digits.variances().iter().copied().filter(|v| *v > 0.0).collect();
    let limit = Limit::new(&settings, &varying, &line)?;
    step(2, "bits");
    let bits = Bits::new(&settings, &digits, &images, &noise.child(1))?;
    step(3, "autoencoders");
    let autoencoders = Autoencoders::new(&settings, &line)?;
    step(4, "three models");
    let models = Models::new(&settings)?;
    step(5, "done");
    Ok(Numbers { settings, lines, limit, bits, autoencoders, models })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("datum = 1.5", "datum = 1.5\ncolour = 3", "unknown field `colour`"),
            ("digit = 3\n", "", "missing field `digit`"),
            ("[2, 4, 8, 16, 32", "[2, 4, 7, 16, 32", "rising divisors of the last"),
            ("log_snr = [-8.0", "log_snr = [8.0", "log_snr: ascending"),
        ]);
    }
}
