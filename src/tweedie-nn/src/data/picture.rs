//! Many small images as one picture.

use image::{GrayImage, ImageFormat, RgbImage};
use ndarray::ArrayView2;
use tweedie::error::{Error, Result};

/// The shortest side that an image is shown at: smaller ones are enlarged by a whole factor.
const SMALLEST: usize = 64;

/// Gap between images, in pixels, white.
const GAP: usize = 2;

/// A PNG of images side by side, about as many across as down: -1 is black, 1 is white, what lies
/// beyond is cut.
///
/// # Shapes
/// `images` (n, c h w), a row in the order (c, h, w).
///
/// # Errors
/// No images; other than 1 or 3 channels; rows of another length; numbers that are not finite.
///
/// # Example
/// ```
/// let digits = tweedie_nn::data::load("digits").unwrap();
/// let png = tweedie_nn::data::picture::grid(digits.images.slice(ndarray::s![..12, ..]), digits.shape).unwrap();
/// assert!(png.starts_with(b"\x89PNG"));
/// ```
pub fn grid(images: ArrayView2<f64>, (c, h, w): (usize, usize, usize)) -> Result<Vec<u8>> {
    let n = images.nrows();
    if n == 0 || !matches!(c, 1 | 3) || h == 0 || w == 0 || images.ncols() != c * h * w {
        let want = format!("(n, {c} {h} {w}) with n at least 1, and 1 or 3 channels");
        return Err(Error::shape(
            "images of a picture",
            images.shape(),
            want,
            "pictures are grey or RGB",
        ));
    }
    tweedie::error::finite("images of a picture", images)?;
    let factor = SMALLEST.div_ceil(h.min(w));
    let columns = (1..=n).find(|k| k * k >= n).unwrap_or(n);
    let (tile_h, tile_w) = (h * factor + GAP, w * factor + GAP);
    let (height, width) = (n.div_ceil(columns) * tile_h + GAP, columns * tile_w + GAP);
    if height.max(width) > 1 << 15 {
        let allowed = format!("sides up to {}", 1 << 15);
        return Err(Error::domain(
            "size of a picture",
            format!("{height} x {width}"),
            allowed,
            "show fewer images",
        ));
    }
    let byte = |x: f64| ((x + 1.0) * 127.5).round().clamp(0.0, 255.0) as u8;
    let mut bytes = vec![255; height * width * c];
    for (k, image) in images.rows().into_iter().enumerate() {
        let (top, left) = (k / columns * tile_h + GAP, k % columns * tile_w + GAP);
        for (y, x) in (0..h * factor).flat_map(|y| (0..w * factor).map(move |x| (y, x))) {
            for channel in 0..c {
                let value = byte(image[(channel * h + y / factor) * w + x / factor]);
                bytes[((top + y) * width + left + x) * c + channel] = value;
            }
        }
    }
    let mut png = std::io::Cursor::new(Vec::new());
    let (width, height) = (width as u32, height as u32);
    let written = if c == 1 {
        GrayImage::from_raw(width, height, bytes).map(|i| i.write_to(&mut png, ImageFormat::Png))
    } else {
        RgbImage::from_raw(width, height, bytes).map(|i| i.write_to(&mut png, ImageFormat::Png))
    };
    written.expect("as many bytes as pixels").expect("memory takes every byte");
    Ok(png.into_inner())
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array2, array};

    #[test]
    fn images_lie_in_reading_order_and_channels_in_theirs() {
        // Red, green and blue images of one row of two pixels, the second dark.
        let images = Array2::from_shape_fn((3, 6), |(k, i)| if i == 2 * k { 1.0 } else { -1.0 });
        let png = grid(images.view(), (3, 1, 2)).unwrap();
        let picture = image::load_from_memory(&png).unwrap().into_rgb8();
        assert_eq!(picture.dimensions(), (2 * (128 + 2) + 2, 2 * (64 + 2) + 2));
        let at = |x, y| picture.get_pixel(x, y).0;
        assert_eq!([at(3, 3), at(133, 3), at(3, 69)], [[255, 0, 0], [0, 255, 0], [0, 0, 255]]);
        assert_eq!([at(2 + 64, 3), at(0, 0), at(133, 69)], [[0; 3], [255; 3], [255; 3]]);
    }

    #[test]
    fn what_is_no_picture_is_refused() {
        let one = array![[0.0, 0.0]];
        for (images, shape) in [
            (one.view(), (2, 1, 1)),
            (one.view(), (1, 1, 3)),
            (Array2::zeros((0, 2)).view(), (1, 1, 2)),
        ] {
            assert!(matches!(grid(images, shape), Err(Error::Shape { .. })));
        }
        assert!(grid(array![[f64::NAN]].view(), (1, 1, 1)).is_err());
        let grey = image::load_from_memory(&grid(array![[9.0, -9.0]].view(), (1, 1, 2)).unwrap())
            .unwrap()
            .into_luma8();
        assert_eq!([grey.get_pixel(3, 3).0, grey.get_pixel(127, 3).0], [[255], [0]]);
    }
}
