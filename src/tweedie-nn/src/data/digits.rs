//! The 1,797 UCI digits, embedded.

use super::Dataset;
use ndarray::Array2;
use std::io::Read;

/// 65 columns a line: 64 pixels 0..=16 row by row, then the label.
const FILE: &[u8] = include_bytes!("../../../../experiments/data/digits.csv.gz");

/// The test part of UCI's handwritten digits: 1,797 images of 8x8, pixels 0..=16 mapped to [-1, 1].
///
/// # Formula
/// `pixel / 8 - 1`, exact in f64.
///
/// # Source
/// E. Alpaydin and C. Kaynak, "Optical Recognition of Handwritten Digits", UCI Machine Learning
/// Repository, CC BY 4.0.
///
/// # Example
/// ```
/// let digits = tweedie_nn::data::digits::load();
/// assert_eq!(digits.labels.unwrap()[..3], [0, 1, 2]);
/// ```
pub fn load() -> Dataset {
    let mut text = String::new();
    flate2::read::GzDecoder::new(FILE)
        .read_to_string(&mut text)
        .expect("the embedded file is whole");
    let mut values = Vec::with_capacity(1797 * 64);
    let mut labels = Vec::with_capacity(1797);
    for line in text.lines() {
        let mut fields = line
            .split(',')
            .map(|f| f.parse::<u8>().expect("the embedded file holds small integers"));
        values.extend(fields.by_ref().take(64).map(|v| f64::from(v) / 8.0 - 1.0));
        labels.push(fields.next().expect("a label ends each line").into());
    }
    Dataset {
        name: "digits".into(),
        images: Array2::from_shape_vec((labels.len(), 64), values).expect("64 pixels a line"),
        shape: (1, 8, 8),
        labels: Some(labels),
        source:
            "UCI Optical Recognition of Handwritten Digits (test part, 1,797 images), CC BY 4.0"
                .into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tweedie::law::Gaussian;
    use tweedie::sample::certify::digits::MODES;

    /// `UPDATE=1` writes the table anew.
    #[test]
    fn certificates_have_the_spectrum_of_these_digits() {
        let law = Gaussian::from_data(load().images.view()).unwrap();
        let mut mean = law.modes().t().dot(&law.mean()).to_vec();
        let mut variances = law.variances().to_vec();
        if law.rank() < law.dim() {
            // What the mean has off the modes.
            let off = &law.mean() - &law.modes().dot(&ndarray::Array1::from(mean.clone()));
            mean.push(off.dot(&off).sqrt());
            variances.push(0.0);
        }
        let modes: Vec<[f64; 2]> = mean.into_iter().zip(variances).map(|(m, v)| [m, v]).collect();
        if std::env::var_os("UPDATE").is_some() {
            let rows: String =
                modes.iter().map(|[m, v]| format!("    [{m:?}, {v:?}],\n")).collect();
            let text = format!(
                "//! Written by `UPDATE=1 cargo test --release -p tweedie-nn certificates_have`.\n\n\
                 /// Mean and variance of each of the digits' modes.\n\
                 pub const MODES: [[f64; 2]; {}] = [\n{rows}];\n",
                modes.len()
            );
            std::fs::write(
                concat!(env!("CARGO_MANIFEST_DIR"), "/../tweedie/src/sample/certify/digits.rs"),
                text,
            )
            .unwrap();
        }
        assert_eq!(modes.len(), MODES.len());
        // Signs of modes are a convention, and another machine's sums round otherwise.
        let scale = modes[0][1];
        for ([m, v], [want_m, want_v]) in modes.iter().zip(MODES) {
            assert!(
                (v - want_v).abs() <= 1e-12 * scale && (m.abs() - want_m.abs()).abs() <= 1e-9,
                "{m} {v}, wanted {want_m} {want_v}"
            );
        }
    }

    #[test]
    fn digits_are_the_published_ones() {
        let digits = load();
        assert_eq!((digits.images.dim(), digits.shape), ((1797, 64), (1, 8, 8)));
        // First line of the file: a zero whose row 0 is 0 0 5 13 9 1 0 0.
        let first: Vec<f64> =
            digits.images.row(0).iter().take(8).map(|x| (x + 1.0) * 8.0).collect();
        assert_eq!(first, [0.0, 0.0, 5.0, 13.0, 9.0, 1.0, 0.0, 0.0]);
        // Counts of the classes and the sum of all pixels, as scikit-learn's `load_digits` has
        // them.
        let labels = digits.labels.unwrap();
        let counts: Vec<usize> =
            (0..10).map(|k| labels.iter().filter(|&&l| l == k).count()).collect();
        assert_eq!(counts, [178, 182, 177, 183, 181, 182, 181, 179, 174, 180]);
        assert_eq!(digits.images.iter().map(|x| (x + 1.0) * 8.0).sum::<f64>(), 561_718.0);
        assert!(digits.images.iter().all(|x| (-1.0..=1.0).contains(x)));
    }
}
