//! A trained network that travels with the library.

use super::checkpoint::from_bytes;
use super::config::UNetConfig;
use super::denoiser::Network;
use super::element::Element;
use super::pipeline::Setup;
use super::program::Program;
use super::unet::unet;
use std::path::Path;
use tweedie::error::{Error, Result};
use tweedie_device::Place;

const FOLDER: &str = "experiments/models/digits";

/// The digits' network of `experiments/recipes/train-digits-small.toml`, 0.2 M parameters:
/// v-prediction on the cosine path, a class for each digit and one for none, which it answers for
/// unless [`Network::with_label`] asks for a digit. Run on `batch` states at a time.
///
/// It was trained on the digits of [`data::load`](crate::data::load)`("digits")` but every 10th.
///
/// # Errors
/// None but a broken build.
///
/// # Example
/// ```
/// use tweedie::diffusion::Denoiser;
/// let network = tweedie_nn::bundled::digits::<f32>(1).unwrap();
/// assert_eq!((network.dim(), network.classes()), (64, 10));
/// ```
pub fn digits<T: Element>(batch: usize) -> Result<Network<T>> {
    digits_at(batch, &Place::Cpu)
}

/// [`digits`] on a device.
///
/// # Errors
/// A device without enough memory.
pub fn digits_at<T: Element>(batch: usize, place: &Place) -> Result<Network<T>> {
    let setup: Setup =
        serde_json::from_str(include_str!("../../../experiments/models/digits/tweedie.json"))
            .map_err(|e| Error::file(FOLDER, e, "restore the file"))?;
    let program = digits_program()?;
    let weights = include_bytes!(
        "../../../experiments/models/digits/unet/diffusion_pytorch_model.safetensors"
    );
    let params = from_bytes::<T>(weights, Path::new(FOLDER), &program)?;
    Network::placed(program, &params, setup, batch, place)
}

/// Its operations.
///
/// # Errors
/// As [`digits`].
pub fn digits_program() -> Result<Program> {
    unet(
        &UNetConfig::parse(include_str!("../../../experiments/models/digits/unet/config.json"))?,
        8,
        8,
    )
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, Axis, Zip};
    use tweedie::diffusion::prediction::Prediction;
    use tweedie::diffusion::{Denoiser, Path};
    use tweedie::law::Gaussian;
    use tweedie::math::noise::Noise;

    /// Mean square of x0's error over digits that were held out, each noised by the same draws.
    fn loss(denoiser: &dyn Denoiser, x0: &Array2<f64>, level: f64) -> f64 {
        let at = Path::Cosine.at(Path::Cosine.t_from_edm_sigma(level).unwrap()).unwrap();
        let mut xt = Array2::zeros(x0.raw_dim());
        Noise::new(9).fill_normal(0, xt.as_slice_mut().unwrap());
        Zip::from(&mut xt).and(x0).for_each(|x, x0| *x = at.alpha * x0 + at.sigma * *x);
        let mut out = Array2::zeros(x0.raw_dim());
        denoiser.denoise(xt.view(), &at, out.view_mut()).unwrap();
        (out - x0).mapv(|e| e * e).mean().unwrap()
    }

    #[test]
    fn it_denoises_digits_that_it_never_saw_better_than_any_linear_map() {
        let digits_data = crate::data::load("digits").unwrap();
        let (held_out, seen): (Vec<usize>, Vec<usize>) =
            (0..digits_data.len()).partition(|i| (i + 1) % 10 == 0);
        let x0 = digits_data.images.select(Axis(0), &held_out);
        let wiener = Gaussian::from_data(digits_data.images.select(Axis(0), &seen).view()).unwrap();
        let network = digits::<f32>(64).unwrap();
        assert_eq!(network.setup().prediction, Prediction::V);
        for (level, better) in [(0.1, 0.7), (0.25, 0.7), (0.65, 0.8), (1.7, 1.05)] {
            let (by_network, by_wiener) = (loss(&network, &x0, level), loss(&wiener, &x0, level));
            assert!(by_network <= better * by_wiener, "{level}: {by_network} {by_wiener}");
        }
        // Told what it is, it does better still.
        let labels = digits_data.labels.unwrap();
        for digit in 0..10 {
            let rows: Vec<usize> =
                held_out.iter().copied().filter(|i| labels[*i] == digit).collect();
            let x0 = digits_data.images.select(Axis(0), &rows);
            let told = loss(&network.with_label(digit as usize).unwrap(), &x0, 1.7);
            assert!(told < loss(&network, &x0, 1.7), "{digit}");
        }
    }
}
