//! What compression keeps: the linear VAE and its code, diffusion in its latent, and what that
//! costs and saves.

mod code;
mod cost;
mod diffusion;

use crate::natural_patches::numbers::{Part, stacked, windows};
use ndarray::{Array2, s};
use serde::{Deserialize, Serialize};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::Gaussian;
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::sample::registry::SAMPLERS;
use tweedie_nn::config::UNetConfig;
use tweedie_nn::data::photographs::{Colour, photographs};
use tweedie_report::experiment::{Context, Editable, Embedded, energy};

pub use code::{Bound, Code};
pub use cost::{Counted, Counts};
pub use diffusion::{Budget, Diffusion, Split};

/// What `experiments/latent/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Latent dimensions of the bound's VAE.
    pub latents: usize,
    /// Digits on which it is tried.
    pub tried: usize,
    /// Noise variances of the decoder.
    pub noise_vars: Vec<f64>,
    /// Those drawn.
    pub drawn_vars: Vec<f64>,
    /// Digits drawn.
    pub pictures: usize,
    /// Sizes of the digits' latents drawn.
    pub digit_sizes: Vec<usize>,
    /// Sizes of the patches' latents drawn.
    pub patch_sizes: Vec<usize>,
    /// Pixels of photographs averaged in each direction.
    pub shrink: usize,
    /// Side of their patches.
    pub patch: usize,
    /// Photograph drawn.
    pub picture_of: String,
    /// Upper left corner of what is drawn, (row, column).
    pub picture_corner: [usize; 2],
    /// Its side.
    pub picture_side: usize,
    /// Sampler.
    pub sampler: String,
    /// Lowest and highest noise level of its grid.
    pub sigma_range: [f64; 2],
    /// Steps compared.
    pub steps: Vec<usize>,
    /// Budgets, in steps of the dense linear denoiser of all pixels.
    pub budgets: Vec<usize>,
    /// Steps that no budget exceeds.
    pub most_steps: usize,
    /// Latents in which the digits' empirical law is followed.
    pub followed_sizes: Vec<usize>,
    /// Sides of images, for counting.
    pub sides: Vec<usize>,
    /// Cost of a decoder over that of a step in pixels.
    pub decoder_shares: Vec<f64>,
    /// The network that is counted, but for its channels and where it attends.
    pub network: UNetConfig,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Draws whose ends are compared.
    pub draws: usize,
    /// Samples that check the produced law.
    pub samples: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("latent/settings.toml");

    fn least(self) -> Self {
        let quick = Effort { draws: self.pictures, samples: 400 };
        Self { quick, followed_sizes: vec![2, 61], budgets: vec![2], most_steps: 32, ..self }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let s = self;
        let rising = |v: &[usize]| !v.is_empty() && v[0] >= 1 && v.windows(2).all(|p| p[0] < p[1]);
        let positive = |v: &[f64]| !v.is_empty() && v.iter().all(|v| *v > 0.0);
        let within = |v: &[usize], most: usize| rising(v) && v[v.len() - 1] <= most;
        vec![
            ((1..=32).contains(&s.latents) && s.tried >= 2, "latents: 1 to 32; tried: at least 2"),
            (
                positive(&s.noise_vars) && positive(&s.drawn_vars),
                "noise_vars, drawn_vars: positive",
            ),
            (
                s.noise_vars.iter().chain(&s.drawn_vars).all(|v| *v < 2.7),
                "noise_vars, drawn_vars: below the digits' largest variance, 2.7",
            ),
            (
                within(&s.digit_sizes, 61) && within(&s.followed_sizes, 61),
                "digit_sizes, followed_sizes: rising, at most 61",
            ),
            // From 384 dimensions on an eigendecomposition's last bits depend on the number of
            // threads.
            (s.shrink >= 1 && (4..=19).contains(&s.patch), "shrink: at least 1; patch: 4 to 19"),
            (
                within(&s.patch_sizes, s.patch * s.patch),
                "patch_sizes: rising, at most the pixels of a patch",
            ),
            (SAMPLERS.iter().any(|e| e.name == s.sampler), "sampler: a sampler's name"),
            (
                0.0 < s.sigma_range[0] && s.sigma_range[0] < s.sigma_range[1],
                "sigma_range: positive, ascending",
            ),
            (
                rising(&s.steps) && rising(&s.budgets) && s.most_steps >= 2,
                "steps, budgets: rising; most_steps: at least 2",
            ),
            (
                rising(&s.sides) && s.sides.iter().all(|n| n.is_power_of_two() && *n >= 32),
                "sides: rising powers of two from 32",
            ),
            (s.sides.len() >= 4, "sides: at least four, of which the largest is 8 times another"),
            (positive(&s.decoder_shares), "decoder_shares: positive"),
            ((1..=64).contains(&s.pictures), "pictures: 1 to 64"),
            (
                [s.quick, s.full].iter().all(|e| e.draws >= s.pictures && e.samples >= 100),
                "quick, full: draws >= pictures, samples >= 100",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// The bound of one VAE under many encoders.
    pub bound: Bound,
    /// What VAEs keep, and at what price.
    pub code: Code,
    /// What is lost for good.
    pub floor: Floor,
    /// Diffusion in the latent.
    pub diffusion: Diffusion,
    /// Numbers, operations and memory.
    pub counts: Counts,
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; a law, a sampler or a network that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let noise = Noise::new(context.seed);
    let step = |k: usize, what: &str| (context.progress)(k, 5, what);
    let digits = tweedie_nn::data::load("digits")?.images;
    let law = Gaussian::from_data(digits.view())?;
    step(0, "bound");
    let bound = Bound::new(&settings, &law, &digits)?;
    step(1, "codes");
    let code = Code::new(&settings, &law, &digits)?;
    step(2, "reconstruction");
    let small = photographs(Colour::Grey)
        .iter()
        .map(|p| p.shrunk(settings.shrink))
        .collect::<Result<Vec<_>>>()?;
    let part = Part::new(
        &small,
        &settings.picture_of,
        settings.picture_corner,
        settings.picture_side,
        settings.patch,
    )?;
    let patches = Gaussian::from_data(windows(&small, settings.patch, settings.patch)?.view())?;
    let others = small.iter().enumerate().filter(|(k, _)| *k != part.photograph);
    let others = others
        .map(|(_, p)| p.windows(settings.patch, settings.patch / 2))
        .collect::<Result<Vec<_>>>()?;
    let foreign = Gaussian::from_data(stacked(&others.iter().collect::<Vec<_>>()).view())?;
    let floor = Floor::new(&settings, &law, &digits, &patches, &foreign, &part);
    step(3, "diffusion in the latent");
    let diffusion = Diffusion::new(&settings, &law, &digits, &patches, effort, &noise)?;
    step(4, "counts");
    let counts = Counts::new(&settings)?;
    step(5, "done");
    Ok(Numbers { settings, bound, code, floor, diffusion, counts })
}

/// The rows carried to their first `k` principal components and back.
fn kept(law: &Gaussian, x: &Array2<f64>, k: usize) -> Array2<f64> {
    let modes = law.modes().slice(s![.., ..k]).to_owned();
    (x - &law.mean()).dot(&modes).dot(&modes.t()) + law.mean()
}

/// Reconstruction from k principal components.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Floor {
    /// Share of the variance that is lost with the first k components, k = 0..=d: of digits, of
    /// patches of photographs.
    pub lost: [Vec<f64>; 2],
    /// Digits: themselves, then from each of the settings' sizes.
    pub digits: Vec<Array2<f64>>,
    /// Part of a photograph, then from each of the settings' sizes by components of the other
    /// photographs: pixels and mean squared error.
    pub photograph: Vec<(Vec<f64>, f64)>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Floor {
    fn new(
        settings: &Settings,
        law: &Gaussian,
        digits: &Array2<f64>,
        patches: &Gaussian,
        foreign: &Gaussian,
        part: &Part,
    ) -> Self {
        let lost = [law, patches].map(|law| {
            let total: f64 = law.variances().sum();
            let mut left = total;
            let rest = law.variances().to_vec().into_iter().map(|l| {
                left = (left - l).max(0.0);
                left / total
            });
            std::iter::once(1.0).chain(rest.collect::<Vec<_>>()).collect::<Vec<f64>>()
        });
        let some = digits.slice(s![..settings.pictures, ..]).to_owned();
        let pictures = settings.digit_sizes.iter().map(|k| kept(law, &some, *k));
        let total = law.variances().sum();
        let worst = settings.digit_sizes.iter().map(|k| {
            let seen = energy(&(kept(law, digits, *k) - digits)) / (digits.nrows() as f64 * total);
            (seen - lost[0][*k]).abs()
        });
        let evidence = vec![
            Evidence::new(
                "digits decoded from k components: share of the variance lost, less the sum of the other variances' shares, farthest",
                worst.fold(0.0, larger),
                0.0,
                1e-12,
            )
            .because("1,797 digits are their own law: sums of some 100,000 squares"),
        ];
        let photograph = std::iter::once(part.whole(&part.tiles))
            .chain(settings.patch_sizes.iter().map(|k| part.whole(&kept(foreign, &part.tiles, *k))))
            .collect();
        Self {
            lost,
            digits: std::iter::once(some.clone()).chain(pictures).collect(),
            photograph,
            evidence,
        }
    }

    /// Latent size from which less than this share of the variance is lost: of digits (0) or
    /// patches (1).
    pub fn size_for(&self, data: usize, share: f64) -> usize {
        self.lost[data].iter().position(|l| *l <= share).unwrap_or(self.lost[data].len())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("latents = 8", "latents = 0", "latents: 1 to 32"),
            ("sampler = \"ddim\"", "sampler = \"dim\"", "a sampler's name"),
            ("digit_sizes = [2, 4", "digit_sizes = [4, 4", "digit_sizes"),
            ("noise_vars = [2.0", "noise_vars = [3.0", "below the digits' largest"),
            ("draws = 16", "draws = 1", "draws >= pictures"),
            ("tried = 200", "tries = 200", "unknown field"),
        ]);
    }
}
