//! Noise schedules: time and noise level, what is left at the end, single steps, grids and
//! resolution, learned schedules.

pub mod grids;
pub mod learned;
pub mod levels;
pub mod steps;
pub mod terminal;

use grids::Grids;
use learned::Learned;
use levels::Levels;
use ndarray::Array1;
use serde::{Deserialize, Serialize};
use steps::Steps;
use terminal::Terminal;
use tweedie::error::Result;
use tweedie::law::Gaussian;
use tweedie::math::noise::Noise;
use tweedie_nn::data::photographs::{Colour, photographs};
use tweedie_report::experiment::{Context, Editable, Embedded};

/// What `experiments/schedules/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Steps of the discrete tables.
    pub steps: usize,
    /// Shares of the way drawn in the strips.
    pub strip: Vec<f64>,
    /// Upper left corner of the piece of a photograph.
    pub crop: [usize; 2],
    /// Side of the patches whose brightness is measured.
    pub patch: usize,
    /// Sides of the pictures whose brightness is followed.
    pub sides: Vec<usize>,
    /// The one at which brightness is drawn.
    pub drawn_side: usize,
    /// Betas of the worked example.
    pub example_betas: Vec<f64>,
    /// Its noise.
    pub example_noise: Vec<[f64; 4]>,
    /// Its start.
    pub example_start: [f64; 4],
    /// Its states as printed.
    pub example_printed: Vec<[f64; 4]>,
    /// Its norms as printed, of the start first.
    pub example_norms: Vec<f64>,
    /// Steps of the random walk.
    pub walk: usize,
    /// Weight, mean and deviation of each component of the mixture.
    pub mixture: Vec<[f64; 3]>,
    /// Log-SNR before the reverse step.
    pub step_log_snr: f64,
    /// The state there.
    pub step_state: f64,
    /// Widths in log-SNR of the reverse steps drawn.
    pub step_widths: Vec<f64>,
    /// Numbers of steps of the samplers.
    pub sampler_steps: Vec<usize>,
    /// Log-SNR at the noisy and at the clean end.
    pub log_snr: [f64; 2],
    /// Noise levels of the pictures at two resolutions.
    pub resolution_sigmas: Vec<f64>,
    /// Factor between the two.
    pub factor: usize,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Draws of the continuous bound's estimate.
    pub draws: usize,
    /// Random walks.
    pub walks: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("schedules/settings.toml");

    fn least(self) -> Self {
        Self { quick: Effort { draws: 1024, walks: 512 }, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let s = self;
        let rising = |v: &[usize]| v.windows(2).all(|p| p[0] < p[1]);
        let example = s.example_betas.len();
        vec![
            (s.steps >= 100, "steps: at least 100"),
            (
                !s.strip.is_empty() && s.strip.iter().all(|t| *t > 0.0 && *t <= 1.0),
                "strip: above 0, at most 1",
            ),
            (s.crop.iter().all(|c| *c <= 192), "crop: at most 192"),
            ((1..=128).contains(&s.patch), "patch: 1 to 128"),
            (
                rising(&s.sides) && s.sides.contains(&s.drawn_side),
                "sides: rising, drawn_side among them",
            ),
            (
                example >= 1 && s.example_betas.iter().all(|b| *b > 0.0 && *b < 1.0),
                "example_betas: between 0 and 1",
            ),
            (
                s.example_noise.len() == example
                    && s.example_printed.len() == example
                    && s.example_norms.len() == example + 1,
                "example_noise, example_printed: one a beta; example_norms: one more",
            ),
            (s.walk >= 10, "walk: at least 10"),
            (
                !s.mixture.is_empty() && s.mixture.iter().all(|c| c[0] > 0.0 && c[2] > 0.0),
                "mixture: weights and deviations > 0",
            ),
            (
                !s.step_widths.is_empty() && s.step_widths.iter().all(|w| *w > 0.0),
                "step_widths: positive",
            ),
            (
                s.sampler_steps.len() >= 2 && rising(&s.sampler_steps) && s.sampler_steps[0] >= 2,
                "sampler_steps: at least two, rising, from 2 on",
            ),
            (s.log_snr[0] < s.log_snr[1] && s.log_snr[0] > -8.7, "log_snr: ascending, above -8.7"),
            (s.resolution_sigmas.iter().all(|v| *v > 0.0), "resolution_sigmas: positive"),
            (s.factor >= 2 && 64 % s.factor == 0, "factor: a divisor of 64, at least 2"),
            (
                [s.quick, s.full].iter().all(|e| e.draws >= 256 && e.walks >= 256),
                "draws, walks: at least 256",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// Levels and times.
    pub levels: Levels,
    /// Ends.
    pub terminal: Terminal,
    /// Single steps.
    pub steps: Steps,
    /// Grids and resolution.
    pub grids: Grids,
    /// Learned schedules.
    pub learned: Learned,
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
    let digits = Gaussian::from_data(tweedie_nn::data::load("digits")?.images.view())?;
    let [top, left] = settings.crop;
    let mut shown = photographs(Colour::Grey).swap_remove(0);
    shown.pixels = shown.pixels.slice(ndarray::s![.., top..top + 64, left..left + 64]).to_owned();
    let photo: Array1<f64> = shown.pixels.iter().copied().collect();
    let half: Array1<f64> = shown.shrunk(2)?.pixels.iter().copied().collect();
    step(0, "levels");
    let levels = Levels::new(&settings, &half, &noise.child(0))?;
    step(1, "what is left at the end");
    let terminal = Terminal::new(&settings, &digits, &half)?;
    step(2, "single steps");
    let steps = Steps::new(&settings, effort.walks, &noise.child(1))?;
    step(3, "grids");
    let grids = Grids::new(&settings, &digits, &photo, &noise.child(2))?;
    step(4, "learned schedules");
    let varying: Vec<f64> = digits.variances().iter().copied().filter(|v| *v > 0.0).collect();
    let learned = Learned::new(&settings, &varying, effort.draws, &noise.child(3))?;
    step(5, "done");
    Ok(Numbers { settings, levels, terminal, steps, grids, learned })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("walk = 100", "walk = 100\ncolour = 3", "unknown field `colour`"),
            ("patch = 64\n", "", "missing field `patch`"),
            ("drawn_side = 64", "drawn_side = 65", "drawn_side among them"),
            ("factor = 4", "factor = 5", "a divisor of 64"),
        ]);
    }
}
