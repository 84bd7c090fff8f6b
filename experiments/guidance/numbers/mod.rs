//! Guidance: the law that guided sampling produces beside the law that it is said to sample, on a
//! line, in the plane, and on digits.

mod digits;
mod line;
mod plane;

use serde::{Deserialize, Serialize};
use tweedie::error::Result;
use tweedie::sample::registry::SAMPLERS;
use tweedie_report::experiment::{
    Context, Editable, Embedded, energy, farthest, geometric, in_errors, least, level,
    mean_and_stderr, squares,
};

pub use digits::{Cut, Digits, EDM_STEPS, Outcome};
pub use line::{Curve, Line};
pub use plane::{Map, Plane, Price};

/// What `experiments/guidance/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Scales of the plane's pictures.
    pub scales: Vec<f64>,
    /// Gaussian classes of Gaussian data, in one direction.
    pub line: LineSettings,
    /// A mixture in the plane.
    pub plane: PlaneSettings,
    /// Handwritten digits.
    pub digits: DigitsSettings,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// Data N(0, 1) and classes N(mean, variance).
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LineSettings {
    /// Mean of the classes.
    pub mean: f64,
    /// Variance of the class that is narrower than the data.
    pub narrow: f64,
    /// Variance of the class that is wider.
    pub wide: f64,
    /// Largest scale drawn.
    pub largest: f64,
    /// Scales at which a sampler is run.
    pub sampled: Vec<f64>,
    /// The sampler's lowest and highest noise level.
    pub range: [f64; 2],
    /// Its steps.
    pub steps: usize,
}

/// Equal Gaussians in the plane.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlaneSettings {
    /// Deviation of each.
    pub std: f64,
    /// Means of those that are the class; the last is nearest to the others.
    pub class: [[f64; 2]; 2],
    /// Means of the others.
    pub others: [[f64; 2]; 2],
    /// Half of the pictures' side.
    pub half_width: f64,
    /// Lowest and highest noise level of the flow.
    pub range: [f64; 2],
    /// Noise levels at which the two laws are compared, descending.
    pub levels: Vec<f64>,
    /// The scale at which they are.
    pub level_scale: f64,
    /// Noise levels of the classifier's pictures.
    pub classifier_levels: Vec<f64>,
    /// Trajectories drawn.
    pub trajectories: usize,
    /// Largest scale of the curves.
    pub largest: f64,
    /// From one scale to the next.
    pub scale_step: f64,
}

/// Digits whose conditional model does not always listen.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DigitsSettings {
    /// Probability with which the model misses its label.
    pub missed: f64,
    /// Scales that are sampled.
    pub scales: Vec<f64>,
    /// Method, deterministic.
    pub sampler: String,
    /// Its steps.
    pub steps: usize,
    /// Its lowest and highest noise level.
    pub range: [f64; 2],
    /// Noise level at which the exact classifier judges.
    pub judged_at: f64,
    /// Scale of the runs in which guidance is left out above or below a level.
    pub cut_scale: f64,
    /// These levels, ascending.
    pub cuts: Vec<f64>,
    /// Share of guidance's whole effect that counts as nothing.
    pub negligible: f64,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Pixels of a side of the plane's pictures.
    pub pixels: usize,
    /// Steps of the plane's flow.
    pub flow_steps: usize,
    /// Draws, on the line and in the plane.
    pub draws: usize,
    /// Draws of noise for each digit.
    pub digit_draws: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("guidance/settings.toml");

    fn least(self) -> Self {
        Self { quick: Effort { pixels: 32, flow_steps: 32, draws: 1000, digit_draws: 10 }, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let (s, l, p, d) = (self, &self.line, &self.plane, &self.digits);
        let scales =
            |v: &[f64]| v.len() >= 3 && v[..2] == [0.0, 1.0] && v.windows(2).all(|p| p[0] < p[1]);
        let range = |r: [f64; 2]| 0.0 < r[0] && r[0] < r[1] && r[1].is_finite();
        vec![
            (scales(&s.scales) && scales(&d.scales), "scales: ascending, from 0 and 1 on"),
            (
                0.0 < l.narrow && l.narrow < 1.0 && l.wide > 1.0,
                "narrow, wide: below and above 1, positive",
            ),
            (
                l.largest > 1.0 && l.sampled.iter().all(|w| (0.0..=l.largest).contains(w)),
                "sampled: 0 to largest",
            ),
            ([l.range, p.range, d.range].into_iter().all(range), "range: positive, ascending"),
            (l.steps >= 8 && d.steps >= 8, "steps: at least 8"),
            (p.std > 0.0 && p.half_width > 0.0, "std, half_width: positive"),
            (
                p.levels.len() >= 2
                    && p.levels.windows(2).all(|v| v[0] > v[1])
                    && p.levels.iter().all(|v| *v >= p.range[0]),
                "levels: descending, within range",
            ),
            (p.classifier_levels.iter().all(|v| *v > 0.0), "classifier_levels: positive"),
            (
                p.largest >= 2.0 && p.scale_step > 0.0 && p.scale_step <= 1.0,
                "largest, scale_step: at least 2, at most 1",
            ),
            ((0.0..1.0).contains(&d.missed), "missed: at least 0, below 1"),
            (
                SAMPLERS.iter().any(|e| e.name == d.sampler),
                "sampler: one of `tweedie sample --list`",
            ),
            (d.scales.contains(&d.cut_scale), "cut_scale: one of the scales"),
            (
                d.cuts.windows(2).all(|v| v[0] < v[1]) && d.cuts.first().is_some_and(|v| *v > 0.0),
                "cuts: positive, ascending",
            ),
            (d.negligible > 0.0 && d.negligible < 1.0, "negligible: between 0 and 1"),
            (
                [s.quick, s.full].iter().all(|e| {
                    e.pixels >= 8
                        && e.flow_steps >= 8
                        && e.draws >= p.trajectories.max(100)
                        && e.digit_draws >= 1
                }),
                "quick, full: pixels, flow_steps >= 8, draws >= 100, digit_draws >= 1",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// Gaussian classes, in closed form.
    pub line: Line,
    /// The mixture.
    pub plane: Plane,
    /// The digits.
    pub digits: Digits,
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; a law or a grid that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let noise = tweedie::math::noise::Noise::new(context.seed);
    let step = |k: usize, what: &str| (context.progress)(k, 3, what);
    step(0, "Gaussian classes");
    let line = Line::new(&settings.line, effort, &noise.child(0))?;
    step(1, "a mixture in the plane");
    let plane = Plane::new(&settings, effort, &noise.child(1))?;
    step(2, "guided digits");
    let digits = Digits::new(&settings.digits, effort, &noise.child(2))?;
    step(3, "done");
    Ok(Numbers { settings, line, plane, digits })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie::math::noise::Noise;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("missed = 0.3", "missed = 1.0", "missed"),
            ("narrow = 0.25", "narrow = 1.25", "narrow"),
            ("cut_scale = 3.0", "cut_scale = 3.5", "cut_scale"),
            ("[digits]", "[digits]\nextra = 1", "extra"),
            ("scales = [0.0, 1.0, 2.0, 4.0]", "scales = [1.0, 0.0, 2.0]", "scales"),
            ("levels = [5.0, 2.0", "levels = [2.0, 5.0", "levels"),
        ]);
    }

    #[test]
    fn the_line_s_checks_hold_with_little_effort() {
        let settings = Settings::current().unwrap();
        let effort = Effort { pixels: 24, flow_steps: 32, draws: 500, digit_draws: 1 };
        let line = Line::new(&settings.line, effort, &Noise::new(7)).unwrap();
        for e in line.evidence.iter() {
            assert!(e.holds(), "{e:?}");
        }
    }
}
