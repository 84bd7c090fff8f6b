//! Do the x0-, eps-, v- and velocity-objectives train the same denoiser? Linear denoisers,
//! bottlenecks and U-Nets.

pub mod linear;
pub mod manifold;
pub mod network;
pub mod rank;

use serde::{Deserialize, Serialize};
use tweedie::diffusion::Path;
use tweedie::diffusion::prediction::Prediction;
use tweedie::error::Result;
use tweedie::law::Gaussian;
use tweedie::math::noise::Noise;
use tweedie_report::experiment::{Context, Editable, Embedded};

/// The objectives compared, on the straight path, where no two are multiples of each other.
pub const TARGETS: [Prediction; 4] =
    [Prediction::X0, Prediction::Eps, Prediction::V, Prediction::Velocity];

/// What `experiments/equivalence/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Ends of the noise levels `sigma / alpha` at which normal equations are solved.
    pub sigma_range: [f64; 2],
    /// Noise level at which the four filters are drawn.
    pub shown_sigma: f64,
    /// Time on the straight path of the descents.
    pub descent_time: f64,
    /// Step size of the exact descent, in units of the inverse largest curvature.
    pub descent_rate: f64,
    /// Its steps.
    pub descent_steps: usize,
    /// Components followed, from 1.
    pub descent_modes: Vec<usize>,
    /// Step size of the stochastic descent, in the same units.
    pub stochastic_rate: f64,
    /// Its samples a step.
    pub stochastic_batch: usize,
    /// Its steps.
    pub stochastic_steps: usize,
    /// Dimension of the subspace that holds the data of the bottleneck's comparison.
    pub manifold_rank: usize,
    /// Its noise levels.
    pub manifold_sigmas: Vec<f64>,
    /// Ranks of the maps that are trained.
    pub trained_ranks: Vec<usize>,
    /// Steps of their training.
    pub trained_steps: usize,
    /// Points of the spiral that the networks with a bottleneck learn.
    pub spiral_points: usize,
    /// Dimensions of the spaces that hold it.
    pub spiral_dims: Vec<usize>,
    /// Channels of their layers.
    pub spiral_width: usize,
    /// Draws of a step.
    pub spiral_batch: usize,
    /// Largest learning rate.
    pub spiral_rate: f64,
    /// Images of the batch that one network is measured on.
    pub measured_batch: usize,
    /// Noise levels at which gradients are compared one by one.
    pub measured_levels: usize,
    /// Noise levels at which trained networks are judged.
    pub judged_range: [f64; 2],
    /// How many.
    pub judged_levels: usize,
    /// The training of the U-Nets, but for their prediction, number of steps and seed.
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
    /// Noise levels of the normal equations.
    pub levels: usize,
    /// Independent runs of the stochastic descent.
    pub runs: usize,
    /// Steps of each network on the spiral.
    pub spiral_steps: usize,
    /// Its points, noised at each level, on which they are judged.
    pub spiral_draws: usize,
    /// Steps of each U-Net.
    pub train_steps: u64,
    /// Training images, noised at each level, on which the U-Nets are judged.
    pub judged: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("equivalence/settings.toml");

    fn least(self) -> Self {
        let quick = Effort {
            levels: 9,
            runs: 16,
            spiral_steps: 2,
            spiral_draws: 16,
            train_steps: 2,
            judged: 16,
        };
        Self { quick, stochastic_steps: 600, judged_levels: 3, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let s = self;
        let inside = |t: f64| t > 0.0 && t < 1.0;
        vec![
            (
                0.0 < s.sigma_range[0] && s.sigma_range[0] < s.sigma_range[1],
                "sigma_range: positive, ascending",
            ),
            (
                s.shown_sigma > 0.0 && s.manifold_sigmas.iter().all(|v| *v > 0.0),
                "shown_sigma, manifold_sigmas: positive",
            ),
            (inside(s.descent_time), "descent_time: between 0 and 1"),
            // Beyond 2 / (1 + 1 / B) the mean square of the fastest mode grows; beyond 1 an exact
            // descent overshoots.
            (
                inside(s.descent_rate) && inside(s.stochastic_rate),
                "descent_rate, stochastic_rate: between 0 and 1",
            ),
            (
                s.descent_steps >= 32 && s.stochastic_steps >= 32 && s.stochastic_batch >= 1,
                "steps: at least 32; stochastic_batch: at least 1",
            ),
            (s.descent_modes.iter().all(|k| (1..=61).contains(k)), "descent_modes: 1 to 61"),
            (
                (1..61).contains(&s.manifold_rank)
                    && s.trained_ranks.iter().all(|r| (1..=64).contains(r)),
                "ranks: 1 to 64",
            ),
            (
                s.spiral_points >= 3
                    && s.spiral_dims.iter().all(|d| *d >= 2)
                    && s.spiral_width >= 2
                    && s.spiral_batch >= 1
                    && s.spiral_rate > 0.0,
                "spiral: at least 3 points, 2 dimensions, width 2, batch 1; a positive rate",
            ),
            (
                s.measured_batch >= 2 && s.measured_levels >= 2 && s.judged_levels >= 2,
                "measured_batch, measured_levels, judged_levels: at least 2",
            ),
            (
                0.0 < s.judged_range[0] && s.judged_range[0] < s.judged_range[1],
                "judged_range: positive, ascending",
            ),
            (
                s.train.data.set.is_some() && s.train.path == Path::FlowMatching,
                "train: a data set on the straight path",
            ),
            (
                [s.quick, s.full].iter().all(|e| {
                    e.levels >= 2
                        && e.runs >= 8
                        && e.spiral_steps >= 1
                        && e.spiral_draws >= 2
                        && e.train_steps >= 1
                        && e.judged >= 2
                }),
                "quick, full: levels >= 2, runs >= 8, spiral_steps >= 1, spiral_draws >= 2, train_steps >= 1, judged >= 2",
            ),
        ]
    }

    fn with_valid_parts(self) -> Result<Self> {
        Ok(Self { train: self.train.validated()?, ..self })
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// Linear denoisers.
    pub linear: linear::Linear,
    /// Denoisers with a bottleneck.
    pub bottleneck: rank::Bottleneck,
    /// Networks with a bottleneck.
    pub manifold: manifold::Manifold,
    /// One U-Net, measured by four losses.
    pub measured: network::Measured,
    /// Four trained U-Nets.
    pub trained: network::Trained,
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; a law or a path that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let noise = Noise::new(context.seed);
    let images = tweedie_nn::data::load("digits")?.images;
    let law = Gaussian::from_data(images.view())?;
    let step = |k: usize, what: &str| (context.progress)(k, 8, what);
    step(0, "linear denoisers");
    let linear = linear::Linear::new(&settings, &law, &effort, &noise.child(0))?;
    step(1, "bottlenecks");
    let bottleneck = rank::Bottleneck::new(&settings, &law, &noise.child(1))?;
    let manifold =
        manifold::Manifold::new(&settings, &effort, &noise.child(3), &|what| step(2, what))?;
    step(3, "one U-Net");
    let measured = network::Measured::new(&settings, images.view(), &noise.child(2))?;
    let trained = network::Trained::new(&settings, &effort, context, &|k, what| step(4 + k, what))?;
    step(8, "done");
    Ok(Numbers { settings, linear, bottleneck, manifold, measured, trained })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("manifold_rank = 8", "manifold_rank = 8\ncolour = 3", "unknown field `colour`"),
            ("descent_time = 0.25\n", "", "missing field `descent_time`"),
            (
                "descent_rate = 0.5",
                "descent_rate = 2.5",
                "descent_rate, stochastic_rate: between 0 and 1",
            ),
        ]);
    }
}
