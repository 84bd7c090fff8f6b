//! What a network is given, what it is asked for, and how its errors are counted: preconditioning,
//! targets, weights, times and averages.

pub mod averaging;
pub mod scalings;
pub mod targets;
pub mod times;

use serde::{Deserialize, Serialize};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::prediction::Frame;
use tweedie::error::Result;
use tweedie::math::noise::Noise;
use tweedie_report::experiment::{
    Context, Editable, Embedded, farthest, geometric, mean_and_stderr,
};

/// What `experiments/preconditioning/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Data sets whose deviation is asked for; the first is that of all curves.
    pub data: Vec<String>,
    /// The deviation that EDM's code assumes.
    pub sigma_data: f64,
    /// Noise levels of the curves.
    pub range: [f64; 2],
    /// Pictures of one digit.
    pub pictures: Pictures,
    /// The linear denoiser.
    pub averaging: averaging::Settings,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// Pictures of one digit of MNIST.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Pictures {
    /// Its number.
    pub image: usize,
    /// Noise levels.
    pub sigmas: Vec<f64>,
    /// Error of the network in each pixel.
    pub error: f64,
    /// Shares of the training times.
    pub quantiles: Vec<f64>,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Noise levels of a curve.
    pub levels: usize,
    /// Noised digits at each level where a mean is sampled.
    pub draws: usize,
    /// Steps of the linear denoiser.
    pub steps: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("preconditioning/settings.toml");

    fn least(self) -> Self {
        // Of a longer average half of so short a run is the way there.
        let averaging = averaging::Settings { decays: vec![0.9, 0.99], ..self.averaging };
        Self { quick: Effort { levels: 41, draws: 64, steps: 4000 }, averaging, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let (p, a) = (&self.pictures, &self.averaging);
        let rising = |v: &[f64]| !v.is_empty() && v.windows(2).all(|p| p[0] < p[1]);
        vec![
            (
                !self.data.is_empty() && self.sigma_data > 0.0,
                "data: at least one; sigma_data: positive",
            ),
            (0.0 < self.range[0] && self.range[0] < self.range[1], "range: positive, ascending"),
            (p.image < 10_000 && p.error > 0.0, "pictures: image below 10000, error positive"),
            (rising(&p.sigmas) && p.sigmas[0] > 0.0, "pictures.sigmas: positive, rising"),
            (
                rising(&p.quantiles) && p.quantiles.iter().all(|q| *q > 0.0 && *q < 1.0),
                "pictures.quantiles: rising within (0, 1)",
            ),
            (
                a.sigma > 0.0 && a.batch >= 1 && a.rate > 0.0 && a.rate < 1.0,
                "averaging: sigma positive, rate within (0, 1)",
            ),
            (
                rising(&a.decays) && a.decays.iter().all(|g| *g > 0.0 && *g < 1.0),
                "averaging.decays: rising within (0, 1)",
            ),
            (a.pixel.iter().all(|i| *i < 8), "averaging.pixel: 0 to 7"),
            (
                [self.quick, self.full]
                    .iter()
                    .all(|e| e.levels >= 3 && e.draws >= 16 && e.steps >= 100),
                "quick, full: levels >= 3, draws >= 16, steps >= 100",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// EDM's coefficients, and what they do on data.
    pub scalings: scalings::Numbers,
    /// Targets, what can't be known of them, and errors on their way to x0.
    pub targets: targets::Numbers,
    /// Weights and times.
    pub times: times::Numbers,
    /// Averages of weights.
    pub averaging: averaging::Numbers,
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; a law or a conversion that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let noise = Noise::new(context.seed).child(PRECONDITIONING);
    let step = |k: usize, what: &str| (context.progress)(k, 4, what);
    let sigmas = geometric(settings.range[0], settings.range[1], effort.levels);
    step(0, "scalings on data");
    let scalings = scalings::Numbers::new(&settings, &sigmas, &noise.child(0))?;
    step(1, "targets");
    let rms = scalings.data[0].rms;
    let targets = targets::Numbers::new(&settings, effort, &sigmas, rms, &noise.child(1))?;
    step(2, "weights and times");
    let times = times::Numbers::new(&settings, &sigmas, rms, &noise.child(2))?;
    step(3, "averages of weights");
    let averaging = averaging::Numbers::new(&settings.averaging, effort, &noise.child(3))?;
    step(4, "done");
    Ok(Numbers { settings, scalings, targets, times, averaging })
}

/// Apart from the noise of other experiments: "prec" in ASCII.
const PRECONDITIONING: u64 = 0x7072_6563;

/// The variance-preserving level of this `sigma / alpha`.
fn preserving(edm_sigma: f64) -> PathPoint {
    let radius = edm_sigma.hypot(1.0);
    PathPoint::still(1.0 / radius, edm_sigma / radius)
}

/// The same as a frame, for data of this deviation.
fn frame(edm_sigma: f64, sigma_data: f64) -> Frame<f64> {
    Frame::from(&preserving(edm_sigma)).with_sigma_data(sigma_data)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("[pictures]\n", "[pictures]\ncolour = 3\n", "unknown field `colour`"),
            ("sigma_data = 0.5", "sigma_data = 0.0", "sigma_data: positive"),
            ("rate = 0.1", "rate = 1.5", "rate within (0, 1)"),
            ("quantiles = [0.02,", "quantiles = [0.2,", "quantiles: rising"),
        ]);
    }
}
