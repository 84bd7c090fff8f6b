//! Langevin dynamics on known laws, the reverse SDEs, and what noise does for both, exact wherever
//! a closed form carries it.

pub mod digits;
pub mod family;
pub mod line;
pub mod plane;

use ndarray::Array2;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::error::Result;
use tweedie::math::noise::Noise;
use tweedie::sample::sde::Langevin;
use tweedie::sample::{NoiseSource, sample};
use tweedie_report::experiment::{Context, Editable, Embedded, farthest};

/// What `experiments/langevin/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Langevin dynamics on the digits' Gaussian.
    pub digits: digits::Settings,
    /// Clusters in the plane.
    pub plane: plane::Settings,
    /// Two modes on a line.
    pub line: line::Settings,
    /// The reverse processes on the digits' Gaussian.
    pub family: family::Settings,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Chains whose variances are measured.
    pub chains: usize,
    /// Particles in the plane.
    pub particles: usize,
    /// Steps of each reverse process in the plane.
    pub fine: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("langevin/settings.toml");

    fn least(self) -> Self {
        let line = line::Settings { separations: vec![2.0, 5.0], ..self.line };
        let family = family::Settings { evaluations: vec![10, 20, 40], ..self.family };
        Self { quick: Effort { chains: 128, particles: 1024, fine: 200 }, line, family, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let (d, p, l, f) = (&self.digits, &self.plane, &self.line, &self.family);
        let rising = |v: &[usize]| !v.is_empty() && v.windows(2).all(|p| p[0] < p[1]);
        let shares = |v: &[f64]| !v.is_empty() && v.iter().all(|s| *s > 0.0 && *s < 2.0);
        let falling = |v: &[f64]| v.len() >= 2 && v.windows(2).all(|p| p[0] > p[1]);
        vec![
            (
                d.sigma > 0.0 && shares(&[d.share]) && shares(&d.shares),
                "digits: sigma positive, shares between 0 and 2",
            ),
            (rising(&d.looks) && d.looks[0] == 0, "digits.looks: rising from 0"),
            (d.components.iter().all(|k| (1..=64).contains(k)), "digits.components: 1 to 64"),
            (!d.budgets.is_empty() && d.budgets[0] >= 1, "digits.budgets: at least 1"),
            (
                p.means.len() == p.weights.len() && p.means.len() >= 2 && p.std > 0.0,
                "plane: as many weights as means, std positive",
            ),
            (0.0 < p.low && p.low < p.high, "plane: 0 < low < high"),
            (
                rising(&p.looks) && p.looks[0] == 0 && p.corrections >= 1 && p.step > 0.0,
                "plane.looks: rising from 0",
            ),
            (
                p.looks.iter().all(|k| k % p.corrections.max(1) == 0),
                "plane.looks: multiples of corrections",
            ),
            (
                falling(&p.levels) && p.levels[0] == p.high && p.levels.last() == Some(&p.low),
                "plane.levels: falling from high to low",
            ),
            (
                l.std > 0.0 && l.weight > 0.5 && l.weight < 1.0,
                "line: std positive, weight between 1/2 and 1",
            ),
            (0.0 < l.range[0] && l.range[0] < l.range[1], "line.range: positive, ascending"),
            (
                shares(&[l.step]) && l.separations.windows(2).all(|p| p[0] < p[1]) && l.paths >= 1,
                "line: separations rising",
            ),
            (l.separations.contains(&l.measured), "line.measured: one of the separations"),
            (
                f.g.iter().all(|g| *g >= 0.0) && rising(&f.steps) && rising(&f.best),
                "family: g >= 0, steps rising",
            ),
            (0.0 < f.s_min && f.s_min < f.seen && f.seen < f.s_max, "family: s_min < seen < s_max"),
            (
                rising(&f.evaluations) && f.evaluations.iter().all(|n| n % 2 == 0),
                "family.evaluations: rising, even",
            ),
            (
                [self.quick, self.full]
                    .iter()
                    .all(|e| e.chains >= 16 && e.particles >= 16 && e.fine >= 20),
                "quick, full: chains, particles >= 16, fine >= 20",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// Langevin dynamics on the digits' Gaussian.
    pub digits: digits::Numbers,
    /// Clusters in the plane.
    pub plane: plane::Numbers,
    /// Two modes on a line.
    pub line: line::Numbers,
    /// The reverse processes.
    pub family: family::Numbers,
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; a law or a sampler that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let noise = Noise::new(context.seed).child(LANGEVIN);
    let step = |k: usize, what: &str| (context.progress)(k, 4, what);
    step(0, "Langevin dynamics on the digits");
    let digits = digits::Numbers::new(&settings.digits, effort, &noise.child(0))?;
    step(1, "two modes");
    let line = line::Numbers::new(&settings.line, effort, &noise.child(1))?;
    step(2, "clusters in the plane");
    let plane = plane::Numbers::new(&settings.plane, effort, &noise.child(2))?;
    step(3, "the family of reverse processes");
    let family = family::Numbers::new(&settings.family)?;
    step(4, "done");
    Ok(Numbers { settings, digits, plane, line, family })
}

/// Apart from the noise of other experiments: "lang" in ASCII.
const LANGEVIN: u64 = 0x6c61_6e67;

/// `steps` steps of Langevin dynamics of size `h` on the law at one noise level, by the library's
/// sampler.
///
/// # Shapes
/// `x` and the result (n, d).
fn chain(
    law: &dyn Denoiser,
    at: PathPoint,
    h: f64,
    steps: usize,
    x: Array2<f64>,
    noise: &mut dyn NoiseSource,
) -> Result<Array2<f64>> {
    // The sampler goes to the level of a grid's second point, which only has to be below the first.
    let grid = [PathPoint::still(at.alpha, 2.0 * at.sigma), at];
    Ok(sample(
        &Langevin { step: h / (at.sigma * at.sigma), corrections: steps },
        law,
        &grid,
        x,
        noise,
    )?
    .x)
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("[plane]\n", "[plane]\ncolour = 3\n", "unknown field `colour`"),
            ("corrections = 20", "corrections = 17", "multiples of corrections"),
            ("seen = 5.0", "seen = 500.0", "s_min < seen < s_max"),
            ("measured = 2.0", "measured = 2.1", "line.measured"),
        ]);
    }

    #[test]
    fn the_number_farthest_from_zero_may_be_none() {
        assert_eq!(farthest([1.0, -3.0, 2.0]), -3.0);
        assert!(farthest([1.0, f64::NAN, 9.0]).is_nan());
    }
}
