//! Patches of five public-domain photographs, embedded: natural images whose spectra and
//! covariances are worth looking at.

use super::{Dataset, folder::planes, parse_size};
use ndarray::{Array2, Array3, s};
use serde::{Deserialize, Serialize};
use tweedie::error::{Error, Result};
use tweedie::math::noise::Noise;

const FILES: [(&str, &[u8]); 5] = [
    ("astronaut", include_bytes!("../../../../experiments/data/astronaut.png")),
    ("camera", include_bytes!("../../../../experiments/data/camera.png")),
    ("chelsea", include_bytes!("../../../../experiments/data/chelsea.png")),
    ("coffee", include_bytes!("../../../../experiments/data/coffee.png")),
    ("rocket", include_bytes!("../../../../experiments/data/rocket.jpg")),
];

/// More values than this (8 GiB) is taken for a slip of the finger.
const MOST_VALUES: usize = 1 << 30;

/// Grey or colour.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Colour {
    /// One channel, the luma of the stored values; all five photographs.
    Grey,
    /// Three channels; the four photographs that have colour.
    Rgb,
}

/// Which patches.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// This many, uniform over all positions of all photographs, with replacement.
    Random(usize, Noise),
    /// All that tile the photographs without overlap, from the upper left corner.
    Grid,
}

/// One photograph.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Photograph {
    /// Name of the file.
    pub name: String,
    /// Values in [-1, 1] as stored (gamma-encoded), shape (c, h, w).
    pub pixels: Array3<f64>,
}

impl Photograph {
    /// The photograph with each square of `factor` x `factor` pixels replaced by its mean; what is
    /// left over at the right and at the bottom is cut off.
    ///
    /// # Errors
    /// A factor of 0, or larger than the photograph.
    pub fn shrunk(&self, factor: usize) -> Result<Self> {
        let (_, h, w) = self.pixels.dim();
        if !(1..=h.min(w)).contains(&factor) {
            return Err(Error::domain(
                "factor of a photograph",
                factor,
                format!("1 to {}", h.min(w)),
                "choose a smaller factor",
            ));
        }
        let mut pixels = Array3::zeros((self.pixels.dim().0, h / factor, w / factor));
        let blocks = self.pixels.exact_chunks((1, factor, factor));
        ndarray::Zip::from(&mut pixels)
            .and(blocks)
            .for_each(|out, block| *out = block.sum() / (factor * factor) as f64);
        Ok(Self { name: self.name.clone(), pixels })
    }

    /// All windows of `side` x `side` pixels whose corners are `step` pixels apart, from the upper
    /// left one, shape (count, c side side).
    ///
    /// # Errors
    /// A window of no pixels or larger than the photograph; a step of 0.
    pub fn windows(&self, side: usize, step: usize) -> Result<Array2<f64>> {
        let (channels, h, w) = self.pixels.dim();
        if !(1..=h.min(w)).contains(&side) || step == 0 {
            let got = format!("side {side}, step {step}");
            return Err(Error::domain(
                "windows of a photograph",
                got,
                format!("sides 1 to {}, steps from 1", h.min(w)),
                "choose others",
            ));
        }
        let windows = self.pixels.windows_with_stride((channels, side, side), (1, step, step));
        let values: Vec<f64> = windows.into_iter().flatten().copied().collect();
        let count = values.len() / (channels * side * side);
        Ok(Array2::from_shape_vec((count, channels * side * side), values).expect("whole windows"))
    }
}

/// The photographs themselves.
pub fn photographs(colour: Colour) -> Vec<Photograph> {
    let decode = |(name, bytes): (&'static str, &[u8])| {
        let picture = image::load_from_memory(bytes).expect("the embedded file is whole");
        let channels = match colour {
            Colour::Grey => 1,
            Colour::Rgb if picture.color().has_color() => 3,
            Colour::Rgb => return None,
        };
        let (h, w) = (picture.height() as usize, picture.width() as usize);
        let pixels = Array3::from_shape_vec((channels, h, w), planes(picture, channels).collect())
            .expect("c h w values");
        Some(Photograph { name: name.into(), pixels })
    };
    FILES.into_iter().filter_map(decode).collect()
}

/// Patches of the given height and width; a label is the number of the photograph.
///
/// # Shapes
/// images (count, c h w).
///
/// # Errors
/// A patch of no pixels or larger than the smallest photograph; no patch, or more than 2^30 values.
///
/// # Example
/// ```
/// use tweedie_nn::data::photographs::{Choice, Colour, patches};
/// use tweedie::math::noise::Noise;
/// let data = patches(8, 8, Colour::Grey, Choice::Random(100, Noise::new(0))).unwrap();
/// assert_eq!(data.images.dim(), (100, 64));
/// ```
pub fn patches(height: usize, width: usize, colour: Colour, choice: Choice) -> Result<Dataset> {
    let photos = photographs(colour);
    let most =
        |axis| photos.iter().map(|p| p.pixels.shape()[axis]).min().expect("there are photographs");
    let (most_h, most_w) = (most(1), most(2));
    if !(1..=most_h).contains(&height) || !(1..=most_w).contains(&width) {
        return Err(Error::domain(
            "patch of photographs",
            format!("{height}x{width}"),
            format!("1x1 to {most_h}x{most_w}"),
            "choose a smaller patch",
        ));
    }
    let places: Vec<(usize, usize, usize)> = match choice {
        Choice::Grid => {
            let tiles =
                |p: &Photograph| (p.pixels.shape()[1] / height, p.pixels.shape()[2] / width);
            photos
                .iter()
                .enumerate()
                .flat_map(|(k, p)| {
                    (0..tiles(p).0)
                        .flat_map(move |i| (0..tiles(p).1).map(move |j| (k, i * height, j * width)))
                })
                .collect()
        }
        Choice::Random(count, noise) => {
            let values = photos[0].pixels.shape()[0] * height * width;
            if count == 0 || count > MOST_VALUES / values {
                return Err(Error::domain(
                    "number of patches",
                    count,
                    format!("1 to {} of this size", MOST_VALUES / values),
                    "ask for fewer",
                ));
            }
            // One draw chooses photograph and position together, so that every position is equally
            // likely.
            let free: Vec<(usize, usize)> = photos
                .iter()
                .map(|p| (p.pixels.shape()[1] - height + 1, p.pixels.shape()[2] - width + 1))
                .collect();
            let total: usize = free.iter().map(|(h, w)| h * w).sum();
            let place = |i| {
                let mut at = (noise.uniform(0, i) * total as f64) as usize;
                let k = free
                    .iter()
                    .position(|(h, w)| {
                        at < h * w || {
                            at -= h * w;
                            false
                        }
                    })
                    .expect("uniform < 1");
                (k, at / free[k].1, at % free[k].1)
            };
            (0..count as u64).map(place).collect()
        }
    };
    let channels = photos[0].pixels.shape()[0];
    let mut images = Array2::zeros((places.len(), channels * height * width));
    for (&(k, y, x), mut row) in places.iter().zip(images.rows_mut()) {
        let patch = photos[k].pixels.slice(s![.., y..y + height, x..x + width]);
        row.iter_mut().zip(patch).for_each(|(out, &v)| *out = v);
    }
    Ok(Dataset {
        name: "photographs".into(),
        images,
        shape: (channels, height, width),
        labels: Some(places.iter().map(|p| p.0 as u32).collect()),
        source: "Photographs of scikit-image: astronaut (NASA, public domain), camera, chelsea, coffee, rocket (CC0)".into(),
    })
}

/// `photographs[:HxW[:COUNT|grid[:grey|rgb]]]`, by default 8x8, 10,000 patches with seed 0, grey.
pub(super) fn load(spec: &str, options: Option<&str>) -> Result<Dataset> {
    let mut options = options.into_iter().flat_map(|o| o.split(':'));
    let (height, width) = options.next().map_or(Ok((8, 8)), |size| parse_size(spec, size))?;
    let choice = match options.next() {
        None => Choice::Random(10_000, Noise::new(0)),
        Some("grid") => Choice::Grid,
        Some(count) => match count.parse() {
            Ok(count) => Choice::Random(count, Noise::new(0)),
            Err(_) => {
                return Err(Error::domain(
                    format!("patches in '{spec}'"),
                    format!("'{count}'"),
                    "a count, or 'grid'",
                    "write for example photographs:8x8:10000",
                ));
            }
        },
    };
    let colour = match options.next() {
        None | Some("grey") => Colour::Grey,
        Some("rgb") => Colour::Rgb,
        Some(other) => {
            return Err(Error::domain(
                format!("colour in '{spec}'"),
                format!("'{other}'"),
                "grey, rgb",
                "write for example photographs:8x8:10000:rgb",
            ));
        }
    };
    match options.next() {
        None => patches(height, width, colour, choice),
        Some(rest) => Err(Error::domain(
            "data set",
            format!("'{rest}' at the end of '{spec}'"),
            super::SPECS,
            "leave it out",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_shrunk_photograph_has_the_means_of_its_blocks() {
        let pixels = Array3::from_shape_fn((2, 5, 7), |(c, i, j)| (100 * c + 10 * i + j) as f64);
        let small = Photograph { name: String::new(), pixels }.shrunk(3).unwrap().pixels;
        assert_eq!(small.dim(), (2, 1, 2));
        assert_eq!(small.iter().copied().collect::<Vec<_>>(), [11.0, 14.0, 111.0, 114.0]);
    }

    #[test]
    fn photographs_are_whole() {
        let photographs_grey = photographs(Colour::Grey);
        let sizes: Vec<_> =
            photographs_grey.iter().map(|p| (p.name.as_str(), p.pixels.dim())).collect();
        let want = [
            ("astronaut", (1, 256, 256)),
            ("camera", (1, 512, 512)),
            ("chelsea", (1, 300, 451)),
            ("coffee", (1, 400, 600)),
            ("rocket", (1, 427, 640)),
        ];
        assert_eq!(sizes, want);
        assert!(
            photographs(Colour::Rgb).iter().all(|p| p.pixels.dim().0 == 3 && p.name != "camera")
        );
        assert!(
            photographs(Colour::Rgb)
                .iter()
                .all(|p| p.pixels.iter().all(|v| (-1.0..=1.0).contains(v)))
        );
    }

    #[test]
    fn a_random_patch_is_a_window_of_its_photograph() {
        let photos = photographs(Colour::Rgb);
        let data = patches(5, 7, Colour::Rgb, Choice::Random(20, Noise::new(1))).unwrap();
        for (row, &label) in data.images.rows().into_iter().zip(data.labels.as_ref().unwrap()) {
            let patch = row.to_shape((3, 5, 7)).unwrap();
            assert!(
                photos[label as usize].pixels.windows((3, 5, 7)).into_iter().any(|w| w == patch)
            );
        }
    }

    #[test]
    fn the_seed_decides_and_every_photograph_gets_its_share() {
        let draw =
            |seed| patches(8, 8, Colour::Grey, Choice::Random(10_000, Noise::new(seed))).unwrap();
        let (a, b, c) = (draw(0), draw(0), draw(1));
        assert_eq!(a.images, b.images);
        assert_ne!(a.images, c.images);
        assert_eq!(a.images, crate::data::load("photographs").unwrap().images);
        let shares: Vec<f64> = [(256, 256), (512, 512), (300, 451), (400, 600), (427, 640)]
            .iter()
            .map(|(h, w)| f64::from((h - 7) * (w - 7)))
            .collect();
        let total: f64 = shares.iter().sum();
        for (k, share) in shares.iter().enumerate() {
            let p = share / total;
            let got = a.labels.as_ref().unwrap().iter().filter(|&&l| l == k as u32).count() as f64;
            // Binomial count, five standard deviations.
            assert!(
                (got - 1e4 * p).abs() <= 5.0 * (1e4 * p * (1.0 - p)).sqrt(),
                "photograph {k}: {got} of 10000, wanted {}",
                1e4 * p
            );
        }
    }

    #[test]
    fn a_grid_tiles_without_overlap() {
        let data = crate::data::load("photographs:256x256:grid:rgb").unwrap();
        // One tile each of astronaut and chelsea, two each of coffee and rocket.
        assert_eq!(
            (data.images.dim(), data.labels.unwrap()),
            ((6, 3 * 65_536), vec![0, 1, 2, 2, 3, 3])
        );
        let coffee = &photographs(Colour::Rgb)[2].pixels;
        assert_eq!(
            data.images.row(3).to_shape((3, 256, 256)).unwrap(),
            coffee.slice(s![.., ..256, 256..512])
        );
    }

    #[test]
    fn shrinking_averages_squares_and_windows_are_read_in_order() {
        let coffee = &photographs(Colour::Rgb)[2];
        let small = coffee.shrunk(3).unwrap();
        assert_eq!(small.pixels.dim(), (3, 133, 200));
        let square: f64 = coffee.pixels.slice(s![1, 6..9, 30..33]).iter().sum();
        assert!((small.pixels[[1, 2, 10]] - square / 9.0).abs() <= 1e-15);
        let windows = small.windows(8, 5).unwrap();
        let (down, across) = ((133 - 8) / 5 + 1, (200 - 8) / 5 + 1);
        assert_eq!(windows.dim(), (down * across, 3 * 64));
        let third_of_second_row = windows.row(across + 2).to_shape((3, 8, 8)).unwrap().to_owned();
        assert_eq!(third_of_second_row, small.pixels.slice(s![.., 5..13, 10..18]));
        assert!(coffee.shrunk(0).is_err() && coffee.shrunk(401).is_err());
        assert!(
            small.windows(0, 1).is_err()
                && small.windows(134, 1).is_err()
                && small.windows(8, 0).is_err()
        );
    }

    #[test]
    fn bad_options_are_refused() {
        for (spec, want) in [
            (
                "photographs:257x8",
                "patch of photographs: got 257x8, allowed: 1x1 to 256x256; choose a smaller patch",
            ),
            (
                "photographs:8",
                "size in 'photographs:8': got '8', allowed: HxW with both in 1..65535; write for example 32x32",
            ),
            (
                "photographs:8x8:many",
                "patches in 'photographs:8x8:many': got 'many', allowed: a count, or 'grid'; write for example photographs:8x8:10000",
            ),
            (
                "photographs:8x8:0",
                "number of patches: got 0, allowed: 1 to 16777216 of this size; ask for fewer",
            ),
            (
                "photographs:8x8:99999999999999",
                "number of patches: got 99999999999999, allowed: 1 to 16777216 of this size; ask for fewer",
            ),
            (
                "photographs:8x8:9:blue",
                "colour in 'photographs:8x8:9:blue': got 'blue', allowed: grey, rgb; write for example photographs:8x8:10000:rgb",
            ),
        ] {
            assert_eq!(crate::data::load(spec).unwrap_err().to_string(), want);
        }
        assert!(crate::data::load("photographs:8x8:9:rgb:x").is_err());
    }
}
