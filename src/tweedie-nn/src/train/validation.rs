//! The loss by noise level, beside the least there can be.

use super::loader::{Data, Source};
use ndarray::{Array2, Axis, Zip, s};
use serde::{Deserialize, Serialize};
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::error::{Error, Result};
use tweedie::exact::teleport::gaussian_with_moments_of;
use tweedie::law::empirical::Empirical;
use tweedie::law::{Gaussian, Law};
use tweedie::math::noise::Noise;
use tweedie::number::{or_word, or_word_if_any};

/// Losses of x0 at one noise level, each a mean square over images and pixels, all on the same
/// draws.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Level {
    /// The images: `train`, `held-out`, or `law` for fresh draws of a law.
    pub set: String,
    /// `sigma / alpha`.
    #[serde(serialize_with = "or_word")]
    pub edm_sigma: f64,
    /// `ln(alpha^2 / sigma^2)`.
    #[serde(serialize_with = "or_word")]
    pub log_snr: f64,
    /// Images.
    pub images: usize,
    /// Loss of the network.
    #[serde(serialize_with = "or_word")]
    pub network: f64,
    /// Its standard error, over the images.
    #[serde(serialize_with = "or_word")]
    pub network_stderr: f64,
    /// Loss of the exact denoiser of what was trained on: of the law, or of the training images as
    /// point masses. On them and on draws of the law nothing can have less; on held-out images it
    /// is what memory alone is worth.
    #[serde(serialize_with = "or_word")]
    pub exact: f64,
    /// Loss of the best linear denoiser, that of the Gaussian with the moments of what was trained
    /// on; none where the images are too large for a full covariance.
    #[serde(serialize_with = "or_word_if_any")]
    pub wiener: Option<f64>,
    /// Mean square of the network's distance from the exact denoiser: its excess loss, where the
    /// exact denoiser is the best.
    #[serde(serialize_with = "or_word")]
    pub excess: f64,
}

/// What a network is measured against, made once in a run.
pub struct Validation {
    sets: Vec<(&'static str, Array2<f64>)>,
    exact: Exact,
    wiener: Option<Gaussian>,
    noise: Noise,
}

/// The exact denoiser of what is trained on.
enum Exact {
    /// The training images.
    Memory(Empirical),
    /// The law that is drawn from, which the data own.
    Law,
}

/// Largest dimension for which the best linear denoiser is computed: its eigenproblem grows with
/// the cube.
const LARGEST_COVARIANCE: usize = 1024;

impl Validation {
    /// At most `images` of each set, the same in every measurement.
    ///
    /// # Errors
    /// Moments that are no covariance.
    pub fn new(data: &Data, images: usize, noise: Noise) -> Result<Self> {
        let some = |x: &Array2<f64>| {
            // Evenly spread over the set, whose order may mean something.
            let n = x.nrows().min(images);
            x.select(Axis(0), &(0..n).map(|i| i * x.nrows() / n).collect::<Vec<_>>())
        };
        let small = data.dim() <= LARGEST_COVARIANCE;
        Ok(match &data.source {
            Source::Images { train, held_out, .. } => Self {
                sets: [("train", some(train)), ("held-out", some(held_out))]
                    .into_iter()
                    .filter(|(_, x)| x.nrows() > 1)
                    .collect(),
                exact: Exact::Memory(Empirical::new(train.clone())?),
                wiener: (small && train.nrows() > 1)
                    .then(|| Gaussian::from_data(train.view()))
                    .transpose()?,
                noise,
            },
            Source::Law(law) => Self {
                sets: vec![("law", law.sample(images, &noise.child(0)))],
                exact: Exact::Law,
                wiener: small.then(|| gaussian_with_moments_of(law)).transpose()?,
                noise,
            },
        })
    }

    /// The losses of a network at these levels, set by set.
    ///
    /// # Errors
    /// Data of another kind than it was made for.
    pub fn measure(
        &self,
        network: &dyn Denoiser,
        data: &Data,
        levels: &[PathPoint],
    ) -> Result<Vec<Level>> {
        let law: &dyn Law = match (&self.exact, &data.source) {
            (Exact::Memory(memory), _) => memory,
            (Exact::Law, Source::Law(law)) => law,
            (Exact::Law, Source::Images { .. }) => {
                return Err(Error::domain(
                    "validation data",
                    "images",
                    "the law that it was made for",
                    "pass the same data",
                ));
            }
        };
        let mut out = Vec::new();
        for (set, x0) in &self.sets {
            for (k, at) in levels.iter().enumerate() {
                // The same noise at every measurement, another at every level.
                let mut xt = Array2::zeros(x0.raw_dim());
                self.noise
                    .child(1)
                    .fill_normal(k as u64, xt.as_slice_mut().expect("a new array is contiguous"));
                Zip::from(&mut xt).and(x0).for_each(|x, x0| *x = at.alpha * x0 + at.sigma * *x);
                let (by_network, by_law) =
                    (network.denoised(xt.view(), at)?, law.denoised(xt.view(), at)?);
                let losses = square_distances(&by_network, x0);
                let n = losses.len() as f64;
                let network = mean(&losses);
                let var = losses.iter().map(|l| (l - network).powi(2)).sum::<f64>() / (n - 1.0);
                out.push(Level {
                    set: (*set).to_owned(),
                    edm_sigma: at.edm_sigma(),
                    log_snr: at.log_snr(),
                    images: losses.len(),
                    network,
                    network_stderr: (var / n).sqrt(),
                    exact: mean(&square_distances(&by_law, x0)),
                    wiener: self
                        .wiener
                        .as_ref()
                        .map(|w| Ok(mean(&square_distances(&w.denoised(xt.view(), at)?, x0))))
                        .transpose()?,
                    excess: mean(&square_distances(&by_network, &by_law)),
                });
            }
        }
        Ok(out)
    }
}

/// Mean square over the pixels, image by image.
fn square_distances(a: &Array2<f64>, b: &Array2<f64>) -> Vec<f64> {
    let d = a.ncols() as f64;
    (0..a.nrows())
        .map(|i| {
            Zip::from(a.slice(s![i, ..]))
                .and(b.slice(s![i, ..]))
                .fold(0.0, |s, a, b| s + (a - b) * (a - b))
                / d
        })
        .collect()
}

fn mean(x: &[f64]) -> f64 {
    x.iter().sum::<f64>() / x.len() as f64
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie::diffusion::Path;
    use tweedie::law::random_field::RandomField;

    /// As a line of a file has it: a table may end without signal.
    #[test]
    fn a_level_without_signal_is_written_in_words() {
        let field = RandomField::power_law(4, 4, 0.3, 2.0, 0.5, 0.3).unwrap();
        let data = Data::law(Box::new(field.clone()), (1, 4, 4)).unwrap();
        let validation = Validation::new(&data, 8, Noise::new(1)).unwrap();
        let levels = validation.measure(&field, &data, &[PathPoint::still(0.0, 1.0)]).unwrap();
        let written: serde_json::Value =
            serde_json::from_slice(&tweedie::number::json(&levels[0])).unwrap();
        assert_eq!((&written["log_snr"], &written["edm_sigma"]), (&"-inf".into(), &"inf".into()));
        assert_eq!(written["excess"], 0.0);
    }

    #[test]
    fn the_least_loss_of_a_field_is_its_closed_form() {
        let field = RandomField::power_law(4, 4, 0.3, 2.0, 0.5, 0.3).unwrap();
        let data = Data::law(Box::new(field.clone()), (1, 4, 4)).unwrap();
        let validation = Validation::new(&data, 4000, Noise::new(1)).unwrap();
        let levels: Vec<PathPoint> =
            [0.05, 0.4, 0.9].iter().map(|t| Path::Cosine.at(*t).unwrap()).collect();
        // A denoiser that is off by 0.1 everywhere: its excess is 0.01.
        struct Off(RandomField);
        impl Denoiser for Off {
            fn dim(&self) -> usize {
                self.0.dim()
            }
            fn denoise(
                &self,
                x: ndarray::ArrayView2<f64>,
                at: &PathPoint,
                mut out: ndarray::ArrayViewMut2<f64>,
            ) -> Result<()> {
                self.0.denoise(x, at, out.view_mut())?;
                out += 0.1;
                Ok(())
            }
        }
        for (level, at) in
            validation.measure(&Off(field.clone()), &data, &levels).unwrap().iter().zip(&levels)
        {
            let var = |l: &f64| l * at.sigma.powi(2) / (at.alpha.powi(2) * l + at.sigma.powi(2));
            let want = field.spectrum().iter().map(var).sum::<f64>() / 16.0;
            assert!((level.exact - want).abs() <= 4.0 * level.network_stderr, "{level:?} {want}");
            // The field is Gaussian, so that the best linear denoiser is the best; a dense
            // eigenproblem against Fourier transforms.
            assert!((level.wiener.unwrap() - level.exact).abs() <= 1e-12, "{level:?}");
            assert!((level.excess - 0.01).abs() <= 1e-12);
            // By Pythagoras, the cross term averaging out.
            assert!((level.network - want - 0.01).abs() <= 5.0 * level.network_stderr);
        }
    }

    #[test]
    fn memory_is_the_best_on_what_it_remembers_and_nowhere_else() {
        let data = Data::images(crate::data::load("digits").unwrap(), 10).unwrap();
        let validation = Validation::new(&data, 100, Noise::new(1)).unwrap();
        let Source::Images { train, .. } = &data.source else { panic!() };
        let linear = Gaussian::from_data(train.view()).unwrap();
        let levels: Vec<PathPoint> =
            [0.1, 0.6].iter().map(|t| Path::Cosine.at(*t).unwrap()).collect();
        let measured = validation.measure(&linear, &data, &levels).unwrap();
        let [near, far, near_held_out, far_held_out] = &measured[..] else {
            panic!("{}", measured.len())
        };
        assert_eq!(
            (near.set.as_str(), far_held_out.set.as_str(), near.images),
            ("train", "held-out", 100)
        );
        assert!(measured.iter().all(|l| l.wiener == Some(l.network)));
        assert!(near.exact <= 1e-9 && far.exact < far.network, "{near:?} {far:?}");
        assert!(near_held_out.exact > near_held_out.network, "{near_held_out:?}");
    }
}
