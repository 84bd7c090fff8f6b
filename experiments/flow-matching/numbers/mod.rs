//! Flow matching: what is straight and what is not, transport, reflow, and what Euler's steps cost,
//! exact.

mod digits;
mod line;
mod plane;

use ndarray::{Array2, ArrayView1, array};
use serde::{Deserialize, Serialize};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::reflow::{straightness, straightness_on};
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie_report::experiment::{Context, Editable, Embedded, energy, geometric};

pub use digits::{Curve, Digits};
pub use line::Line;
pub use plane::{Costs, Plane};

/// What `experiments/flow-matching/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// A mixture in one direction, on several paths.
    pub line: LineSettings,
    /// A mixture in the plane.
    pub plane: PlaneSettings,
    /// Straightness by variance.
    pub modes: ModesSettings,
    /// Handwritten digits.
    pub digits: DigitsSettings,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// A mixture in one direction.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct LineSettings {
    /// Means of its Gaussians.
    pub means: Vec<f64>,
    /// Their deviations.
    pub stds: Vec<f64>,
    /// Their weights.
    pub weights: Vec<f64>,
    /// Draws of noise whose trajectories are drawn.
    pub draws: Vec<f64>,
    /// Lowest and highest noise level.
    pub range: [f64; 2],
    /// Points of a trajectory.
    pub points: usize,
    /// Steps of the integrations that are compared.
    pub steps: usize,
}

/// A mixture in the plane.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct PlaneSettings {
    /// Means of its Gaussians.
    pub means: Vec<[f64; 2]>,
    /// Their deviation.
    pub std: f64,
    /// Their weights.
    pub weights: Vec<f64>,
    /// Trajectories drawn.
    pub trajectories: usize,
    /// Steps of Euler's method in the pictures.
    pub euler: [usize; 2],
    /// Steps of the curve.
    pub steps: Vec<usize>,
    /// Nodes in time of the integrals.
    pub nodes: usize,
    /// Side of the lattice on which the flow is differentiated.
    pub lattice: usize,
    /// How far it reaches, in deviations of the noise.
    pub reach: f64,
}

/// Variances of the straightness curves.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct ModesSettings {
    /// Least and largest.
    pub range: [f64; 2],
    /// How many.
    pub points: usize,
}

/// Handwritten digits.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct DigitsSettings {
    /// Steps of Euler's method in the pictures.
    pub euler: Vec<usize>,
    /// Steps of the curves.
    pub steps: Vec<usize>,
    /// Shift of flow matching's time.
    pub shift: f64,
    /// Steps of the grids that are shown.
    pub shown: usize,
    /// Lowest and highest noise level of the log-SNR and Karras grids.
    pub range: [f64; 2],
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Trajectories of the integrals in the plane.
    pub draws: usize,
    /// Digits carried through the flow.
    pub digit_draws: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("flow-matching/settings.toml");

    fn least(self) -> Self {
        Self { quick: Effort { draws: 200, digit_draws: 10 }, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let (s, l, p, d) = (self, &self.line, &self.plane, &self.digits);
        let range = |r: [f64; 2]| 0.0 < r[0] && r[0] < r[1] && r[1].is_finite();
        let rising =
            |v: &[usize]| v.first().is_some_and(|k| *k >= 1) && v.windows(2).all(|p| p[0] < p[1]);
        vec![
            (
                l.means.len() == l.stds.len() && l.means.len() == l.weights.len(),
                "line: as many means as stds and weights",
            ),
            (l.stds.iter().all(|v| *v > 0.0) && p.std > 0.0, "stds: positive"),
            (
                !l.draws.is_empty() && l.points >= 2 && l.steps >= 10,
                "line: draws, points >= 2, steps >= 10",
            ),
            (p.means.len() == p.weights.len(), "plane: as many means as weights"),
            (
                [l.range, s.modes.range, d.range].into_iter().all(range),
                "range: positive, ascending",
            ),
            (
                [&p.euler[..], &p.steps, &d.euler, &d.steps].into_iter().all(rising)
                    && p.euler.iter().all(|n| p.steps.contains(n)),
                "euler, steps: rising, those of the pictures among those of the curve",
            ),
            (
                p.nodes >= 4 && p.lattice >= 2 && p.reach > 0.0,
                "plane: nodes >= 4, lattice >= 2, reach positive",
            ),
            (s.modes.points >= 2 && d.shown >= 2, "modes.points, shown: at least 2"),
            (d.shift >= 1.0, "shift: at least 1"),
            (
                [s.quick, s.full]
                    .iter()
                    .all(|e| e.draws >= p.trajectories.max(16) && e.digit_draws >= 10),
                "quick, full: draws at least trajectories, digit_draws at least 10",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// One direction on several paths.
    pub line: Line,
    /// The plane.
    pub plane: Plane,
    /// Straightness by variance.
    pub modes: Modes,
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
    let step = |k: usize, what: &str| (context.progress)(k, 4, what);
    step(0, "one flow on three paths");
    let line = Line::new(&settings.line, &noise.child(0))?;
    step(1, "straight and bent in the plane");
    let plane = Plane::new(&settings.plane, effort, &noise.child(1))?;
    step(2, "straightness by variance");
    let modes = Modes::new(&settings.modes)?;
    step(3, "Euler's steps on digits");
    let digits = Digits::new(&settings.digits, effort, &noise.child(2))?;
    step(4, "done");
    Ok(Numbers { settings, line, plane, modes, digits })
}

/// How far a sampler's ends are from the exact ones, from the same noise.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub struct Gap {
    /// Steps.
    pub steps: usize,
    /// Root mean square distance over the data's deviation.
    pub rms: f64,
    /// Median distance over the data's deviation.
    pub median: f64,
    /// Share of draws that end at another component of the mixture.
    pub elsewhere: f64,
}

impl Gap {
    /// Of ends (n, d) and exact ends, by which component of the mixture each belongs to at a low
    /// noise level.
    fn new(steps: usize, law: &Mixture, got: &Array2<f64>, exact: &Array2<f64>) -> Self {
        let (n, total) = (got.nrows() as f64, law.cov().diag().sum());
        let mut squares: Vec<f64> =
            (got - exact).rows().into_iter().map(|r| r.dot(&r) / total).collect();
        let rms = (squares.iter().sum::<f64>() / n).sqrt();
        squares.sort_by(f64::total_cmp);
        let median = squares[squares.len() / 2].sqrt();
        let of = |x: &Array2<f64>| {
            let r =
                law.log_responsibilities(x.view(), &tweedie_report::experiment::level(JUDGED_AT));
            let largest =
                |row: ArrayView1<f64>| (0..row.len()).max_by(|a, b| row[*a].total_cmp(&row[*b]));
            r.rows().into_iter().map(largest).collect::<Vec<_>>()
        };
        let elsewhere = of(got).iter().zip(of(exact)).filter(|(a, b)| **a != *b).count() as f64 / n;
        Self { steps, rms, median, elsewhere }
    }
}

/// Noise level at which a sample is said to belong to a component: some components have no density
/// at 0.
const JUDGED_AT: f64 = 0.3;

/// Bending of one mode by its variance.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Modes {
    /// Variances.
    pub variances: Vec<f64>,
    /// Straightness over `1 + lambda` on flow matching's path.
    pub flow_matching: Vec<f64>,
    /// The same on the cosine path.
    pub cosine: Vec<f64>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Modes {
    fn new(settings: &ModesSettings) -> Result<Self> {
        use tweedie::diffusion::Path;
        let variances = geometric(settings.range[0], settings.range[1], settings.points);
        let one = |lambda: f64| Gaussian::diagonal(array![0.0], array![lambda]);
        let on = |path: &Path, lambda: f64| straightness_on(&one(lambda)?, |t| path.moving_at(t));
        let share = |of: &dyn Fn(f64) -> Result<f64>| {
            variances.iter().map(|l| Ok(of(*l)? / (1.0 + l))).collect::<Result<Vec<_>>>()
        };
        let flow_matching = share(&|l| Ok(straightness(&one(l)?)))?;
        let cosine = share(&|l| on(&Path::Cosine, l))?;
        let by_quadrature = on(&Path::FlowMatching, 0.3)? / straightness(&one(0.3)?);
        let evidence = vec![
            Evidence::new(
                "straightness of variance 0.3 on flow matching's path, by quadrature / (2 − π/2) √λ",
                by_quadrature,
                1.0,
                1e-12,
            )
            .because("960 nodes on a smooth integrand"),
            Evidence::new("straightness of variance 1 on the cosine path", on(&Path::Cosine, 1.0)?, 0.0, 1e-12)
                .because("the deviation is 1 at every time"),
        ];
        Ok(Self { variances, flow_matching, cosine, evidence })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie::math::noise::Noise;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("shift = 3.0", "shift = 0.5", "shift"),
            ("std = 0.25", "std = 0.0", "stds"),
            ("euler = [2, 6]", "euler = [6, 2]", "rising"),
            ("[modes]", "[modes]\nextra = 1", "extra"),
            ("digit_draws = 20", "digit_draws = 2", "digit_draws"),
        ]);
    }

    #[test]
    fn checks_hold_with_little_effort() {
        let mut settings = Settings::current().unwrap();
        (settings.plane.nodes, settings.plane.lattice) = (24, 3);
        let plane =
            Plane::new(&settings.plane, Effort { draws: 64, digit_draws: 10 }, &Noise::new(7))
                .unwrap();
        for e in plane.evidence.iter().chain(&Modes::new(&settings.modes).unwrap().evidence) {
            assert!(e.holds(), "{e:?}");
        }
    }
}
