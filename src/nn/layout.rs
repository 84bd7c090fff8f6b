//! Images between files (channels first) and the network (channels last).

use ndarray::ArrayD;

/// (n, channels, height, width) as (n, height, width, channels), in one vector. Panics for another number of axes: callers validate.
pub fn channels_last(x: &ArrayD<f64>) -> Vec<f64> {
    x.view().permuted_axes(ndarray::IxDyn(&[0, 2, 3, 1])).iter().copied().collect()
}

/// The way back: (n, height, width, channels) in one slice as an array (n, channels, height, width).
pub fn channels_first(x: &[f64], n: usize, height: usize, width: usize, channels: usize) -> ArrayD<f64> {
    let x = ndarray::ArrayView4::from_shape((n, height, width, channels), x).expect("n images of height x width x channels");
    x.permuted_axes([0, 3, 1, 2]).as_standard_layout().into_owned().into_dyn()
}
