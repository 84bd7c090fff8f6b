//! Images between files (channels first) and the network (channels last).

use super::element::Element;
use ndarray::{ArrayD, ArrayView2, ArrayViewMut2};

/// (n, channels, height, width) as (n, height, width, channels), in one vector. Panics for another
/// number of axes: callers validate.
pub fn channels_last(x: &ArrayD<f64>) -> Vec<f64> {
    x.view().permuted_axes(ndarray::IxDyn(&[0, 2, 3, 1])).iter().copied().collect()
}

/// The way back: (n, height, width, channels) in one slice as an array (n, channels, height,
/// width).
pub fn channels_first(
    x: &[f64],
    n: usize,
    height: usize,
    width: usize,
    channels: usize,
) -> ArrayD<f64> {
    let x = ndarray::ArrayView4::from_shape((n, height, width, channels), x)
        .expect("n images of height x width x channels");
    x.permuted_axes([0, 3, 1, 2]).as_standard_layout().into_owned().into_dyn()
}

/// Rows (c, h, w), times a factor, as the network's images, channels last; images beyond the rows
/// are zero.
pub fn images_from<T: Element>(
    (c, h, w): (usize, usize, usize),
    rows: ArrayView2<f64>,
    factor: f64,
    images: &mut [T],
) {
    let mut images = images.chunks_exact_mut(c * h * w);
    for (row, image) in rows.rows().into_iter().zip(&mut images) {
        for (i, x) in row.iter().enumerate() {
            image[i % (h * w) * c + i / (h * w)] = T::of(factor * x);
        }
    }
    images.for_each(|image| image.fill(T::zero()));
}

/// The network's images, channels last, as rows (c, h, w): as many as there are rows.
pub fn images_to<T: Element>(
    (c, h, w): (usize, usize, usize),
    images: &[T],
    mut rows: ArrayViewMut2<f64>,
) {
    for (mut row, image) in rows.rows_mut().into_iter().zip(images.chunks_exact(c * h * w)) {
        for (i, x) in row.iter_mut().enumerate() {
            *x = image[i % (h * w) * c + i / (h * w)].wide();
        }
    }
}
