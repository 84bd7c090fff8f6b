//! Patches of photographs: their spectra, the linear denoiser beside the one that recalls, and what
//! a sampler paints first.

mod denoising;
mod fields;
mod spectra;
mod trajectories;

use ndarray::{Array2, Axis, concatenate, s};
use serde::{Deserialize, Serialize};
use tweedie::error::{Error, Result};
use tweedie::math::noise::Noise;
use tweedie::sample::registry::SAMPLERS;
use tweedie_nn::data::photographs::{Colour, Photograph, photographs};
use tweedie_report::experiment::{Context, Editable, Embedded, energy};

pub use denoising::{Denoising, Source};
pub use fields::Fields;
pub use spectra::{Components, Spectra};
pub use trajectories::{Jump, Trajectories};

/// What `experiments/natural-patches/settings.toml` holds.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Pixels averaged in each direction.
    pub shrink: usize,
    /// Side of the squares whose spectrum is taken.
    pub spectrum_side: usize,
    /// Bins of frequencies.
    pub bins: usize,
    /// Ends of the frequencies of the fit, cycles a pixel.
    pub fit_range: [f64; 2],
    /// Fields of known slope on which the fit is tried.
    pub fields: usize,
    /// Side of the patches of components and trajectories.
    pub patch: usize,
    /// Step between the windows of a covariance.
    pub step: usize,
    /// Components drawn.
    pub components: usize,
    /// Side of the patches in colour.
    pub colour_patch: usize,
    /// Side of the patches that are denoised.
    pub denoise_patch: usize,
    /// Ends of the noise levels of the comparison.
    pub sigma_range: [f64; 2],
    /// Noise levels of the pictures.
    pub picture_sigmas: Vec<f64>,
    /// Photograph of the pictures.
    pub picture_of: String,
    /// Upper left corner of what is shown, (row, column).
    pub picture_corner: [usize; 2],
    /// Its side.
    pub picture_side: usize,
    /// Noise level of the table of photographs.
    pub transfer_sigma: f64,
    /// Noise levels of the strips, descending.
    pub strip_sigmas: Vec<f64>,
    /// Draws whose two ends are shown.
    pub pairs: usize,
    /// Which of them is followed in the strips.
    pub strip_draw: usize,
    /// Sampler of the teleportation.
    pub sampler: String,
    /// Its steps.
    pub sampler_steps: usize,
    /// Levels to which the start is carried in closed form, descending.
    pub jumps: Vec<f64>,
    /// Side of the patches of the receptive fields.
    pub field_patch: usize,
    /// Pixels (row, column) whose fields are drawn.
    pub field_pixels: Vec<[usize; 2]>,
    /// Noise levels of the fields.
    pub field_sigmas: Vec<f64>,
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Noise levels of the comparisons.
    pub levels: usize,
    /// Patches of each photograph that are denoised.
    pub queries: usize,
    /// Trajectories followed.
    pub trajectories: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("natural-patches/settings.toml");

    fn least(self) -> Self {
        let quick = Effort { levels: 5, queries: 60, trajectories: self.pairs };
        Self {
            quick,
            step: 8,
            fields: 8,
            field_patch: 12,
            field_pixels: vec![[6, 6], [0, 0]],
            ..self
        }
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        let s = self;
        let ascending = |r: [f64; 2]| 0.0 < r[0] && r[0] < r[1];
        let descending =
            |v: &[f64]| v.windows(2).all(|p| p[0] > p[1]) && v.last().is_some_and(|l| *l > 0.0);
        let start = s.strip_sigmas.first().copied().unwrap_or(0.0);
        vec![
            (s.shrink >= 1, "shrink: at least 1"),
            (
                s.spectrum_side >= 16 && s.bins >= 4 && s.fields >= 4,
                "spectrum_side, bins, fields: at least 16, 4, 4",
            ),
            (ascending(s.fit_range) && s.fit_range[1] <= 0.5, "fit_range: ascending, at most 0.5"),
            // From 384 dimensions on an eigendecomposition's last bits depend on the number of
            // threads.
            (
                [s.patch, s.denoise_patch, s.field_patch].iter().all(|n| (4..=19).contains(n))
                    && (4..=11).contains(&s.colour_patch),
                "patch, denoise_patch, field_patch: sides of 4 to 19; colour_patch: 4 to 11",
            ),
            (
                s.step >= 1 && (1..=s.patch * s.patch).contains(&s.components),
                "step, components: at least 1",
            ),
            (
                ascending(s.sigma_range) && s.transfer_sigma > 0.0,
                "sigma_range, transfer_sigma: positive, ascending",
            ),
            (
                s.picture_sigmas.iter().all(|v| *v > 0.0) && !s.picture_sigmas.is_empty(),
                "picture_sigmas: positive",
            ),
            (
                s.picture_side.is_multiple_of(s.denoise_patch) && s.picture_side > 0,
                "picture_side: a multiple of denoise_patch",
            ),
            (
                descending(&s.strip_sigmas) && s.strip_sigmas.len() >= 2,
                "strip_sigmas: positive, descending",
            ),
            (
                descending(&s.jumps) && s.jumps.first().is_some_and(|j| *j < start),
                "jumps: descending, below the start",
            ),
            (s.pairs > s.strip_draw, "pairs: more than strip_draw"),
            (
                SAMPLERS.iter().any(|e| e.name == s.sampler) && s.sampler_steps >= 2,
                "sampler, sampler_steps: a sampler, at least 2",
            ),
            (
                s.field_pixels.iter().flatten().all(|i| *i < s.field_patch),
                "field_pixels: within field_patch",
            ),
            (s.field_sigmas.iter().all(|v| *v > 0.0), "field_sigmas: positive"),
            (
                [s.quick, s.full]
                    .iter()
                    .all(|e| e.levels >= 3 && e.queries >= 2 && e.trajectories >= s.pairs),
                "quick, full: levels >= 3, queries >= 2, trajectories >= pairs",
            ),
        ]
    }
}

/// All numbers of the experiment.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// The photographs, grey, as they are used.
    pub photographs: Vec<Photograph>,
    /// Power by spatial frequency.
    pub spectra: Spectra,
    /// Principal components, grey and in colour.
    pub components: Components,
    /// The Wiener filter beside the empirical denoiser.
    pub denoising: Denoising,
    /// From noise to patches.
    pub trajectories: Trajectories,
    /// Receptive fields.
    pub fields: Fields,
}

/// Runs the experiment.
///
/// # Errors
/// Settings that do not parse; patches larger than the photographs; a law that refuses them.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let effort = context.profile.of(settings.quick, settings.full);
    let noise = Noise::new(context.seed);
    let step = |k: usize, what: &str| (context.progress)(k, 5, what);
    let small = |colour| {
        photographs(colour).iter().map(|p| p.shrunk(settings.shrink)).collect::<Result<Vec<_>>>()
    };
    let (grey, colour) = (small(Colour::Grey)?, small(Colour::Rgb)?);
    step(0, "power spectra");
    let spectra = Spectra::new(&settings, &grey, &noise.child(0))?;
    step(1, "principal components");
    let components = Components::new(&settings, &grey, &colour, &spectra)?;
    step(2, "denoising");
    let denoising = Denoising::new(&settings, &grey, effort, &noise.child(1))?;
    step(3, "trajectories");
    let trajectories = Trajectories::new(&settings, &grey, effort, &components, &noise.child(2))?;
    step(4, "receptive fields");
    let fields = Fields::new(&settings, &grey, &spectra)?;
    step(5, "done");
    Ok(Numbers {
        settings,
        photographs: grey,
        spectra,
        components,
        denoising,
        trajectories,
        fields,
    })
}

/// A square part of a photograph, as tiles and put together again.
pub struct Part {
    /// Number of the photograph.
    pub photograph: usize,
    /// The part itself.
    pub clean: Array2<f64>,
    /// Its tiles in reading order, shape (tiles, side side).
    pub tiles: Array2<f64>,
}

impl Part {
    /// `n` x `n` pixels from a corner (row, column) on, in tiles of `side` x `side`.
    ///
    /// # Errors
    /// No photograph of that name; a part beyond its borders, or that tiles do not fill.
    pub fn new(
        photographs: &[Photograph],
        name: &str,
        [top, left]: [usize; 2],
        n: usize,
        side: usize,
    ) -> Result<Self> {
        let fits = |p: &Photograph| {
            top + n <= p.pixels.dim().1
                && left + n <= p.pixels.dim().2
                && side > 0
                && n.is_multiple_of(side)
        };
        let Some(k) = photographs.iter().position(|p| p.name == name && fits(p)) else {
            let got = format!("{name} at ({top}, {left}), {n} pixels in tiles of {side}");
            let names = photographs.iter().map(|p| p.name.as_str()).collect::<Vec<_>>().join(", ");
            return Err(Error::domain(
                "part of a photograph",
                got,
                format!("whole tiles within one of {names}"),
                "mend the settings",
            ));
        };
        let pixels = photographs[k].pixels.slice(s![.., top..top + n, left..left + n]).to_owned();
        let tiles = Photograph { name: name.into(), pixels: pixels.clone() }.windows(side, side)?;
        Ok(Self { photograph: k, clean: pixels.index_axis_move(Axis(0), 0), tiles })
    }

    /// The picture that tiles make, row-major, and its mean squared distance from the part.
    pub fn whole(&self, tiles: &Array2<f64>) -> (Vec<f64>, f64) {
        let n = self.clean.nrows();
        let across = (tiles.nrows() as f64).sqrt().round() as usize;
        let side = n / across;
        let picture = Array2::from_shape_fn((n, n), |(y, x)| {
            tiles[[y / side * across + x / side, y % side * side + x % side]]
        });
        let error = energy(&(&picture - &self.clean)) / (n * n) as f64;
        (picture.into_raw_vec_and_offset().0, error)
    }
}

/// Windows of all photographs together.
pub fn windows(photographs: &[Photograph], side: usize, step: usize) -> Result<Array2<f64>> {
    let all = photographs.iter().map(|p| p.windows(side, step)).collect::<Result<Vec<_>>>()?;
    Ok(stacked(&all.iter().collect::<Vec<_>>()))
}

/// Batches of equal dimension below each other.
pub fn stacked(batches: &[&Array2<f64>]) -> Array2<f64> {
    let views: Vec<_> = batches.iter().map(|b| b.view()).collect();
    concatenate(Axis(0), &views).expect("rows of one length")
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie_report::experiment::testing::assert_strict;

    #[test]
    fn settings_are_strict() {
        assert_strict::<Settings>(&[
            ("shrink = 2", "shrink = 0", "shrink: at least 1"),
            ("fit_range = [0.02", "fit_range = [0.3", "fit_range"),
            ("picture_side = 64", "picture_side = 60", "a multiple of denoise_patch"),
            ("jumps = [60.0", "jumps = [90.0", "below the start"),
            ("strip_draw = 6", "strip_draw = 8", "more than strip_draw"),
            ("bins = 16", "bin = 16", "unknown field"),
        ]);
    }

    #[test]
    fn a_part_is_put_together_as_it_was() {
        let photographs = photographs(Colour::Grey);
        let part = Part::new(&photographs, "coffee", [10, 20], 48, 16).unwrap();
        assert_eq!(
            (part.photograph, part.tiles.dim(), part.clean[[1, 2]]),
            (3, (9, 256), photographs[3].pixels[[0, 11, 22]])
        );
        let (pixels, error) = part.whole(&part.tiles);
        assert_eq!((pixels, error), (part.clean.iter().copied().collect(), 0.0));
        for (name, corner, n) in
            [("tea", [0, 0], 48), ("coffee", [390, 0], 48), ("coffee", [0, 0], 40)]
        {
            assert!(Part::new(&photographs, name, corner, n, 16).is_err());
        }
    }
}
