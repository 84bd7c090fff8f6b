//! Folders of PNG and JPEG pictures.

use super::{Dataset, name_of};
use image::{DynamicImage, ImageDecoder, ImageReader, imageops::FilterType};
use ndarray::Array2;
use rayon::prelude::*;
use std::io::BufReader;
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};
use tweedie::room;

/// All `.png`, `.jpg` and `.jpeg` files of a folder in the order of their names; other files are
/// passed over.
///
/// With a size (height, width) each picture is cropped about its centre to that aspect ratio and
/// resized; without, all must have one size. Colour if any picture has colour; transparency is
/// dropped; 16-bit pictures keep their depth; values are used as stored (no gamma).
///
/// # Errors
/// A folder without pictures, a picture that cannot be decoded, sizes that differ; a size of more
/// pixels than an image may have, or than there is memory for, before any picture is decoded.
pub fn load(path: &Path, size: Option<(usize, usize)>) -> Result<Dataset> {
    let files = pictures(path)?;
    if files.is_empty() {
        return Err(Error::file(
            path,
            "holds no .png, .jpg or .jpeg file",
            "pass a folder of pictures",
        ));
    }
    let room = |(h, w): (usize, usize)| {
        let numbers = 3.0 * h as f64 * w as f64 * files.len() as f64;
        room::holds(
            format!("{}: {} pictures of {h}x{w} in f64", path.display(), files.len()),
            8.0 * numbers,
            "give a smaller size",
        )
    };
    if let Some((h, w)) = size {
        let pixels = room::product("size of the pictures", &[h, w])?;
        if pixels as u64 > LARGEST.1 {
            return Err(Error::domain(
                "size of the pictures",
                format!("{h}x{w} (height x width), {pixels} pixels"),
                format!("at most {} as an image of a data set", LARGEST.1),
                "give a smaller size",
            ));
        }
        room((h, w))?;
    }
    let fit = |picture: DynamicImage| match size {
        Some((h, w)) if (picture.height() as usize, picture.width() as usize) != (h, w) => {
            picture.resize_to_fill(w as u32, h as u32, FilterType::CatmullRom)
        }
        _ => picture,
    };
    let decoded: Vec<DynamicImage> =
        files.par_iter().map(|file| open(file, size.is_some()).map(fit)).collect::<Result<_>>()?;
    let (h, w) = (decoded[0].height() as usize, decoded[0].width() as usize);
    if let Some(k) =
        decoded.iter().position(|p| (p.height() as usize, p.width() as usize) != (h, w))
    {
        let problem = format!(
            "is {}x{} (height x width), and {} before it is {h}x{w}",
            decoded[k].height(),
            decoded[k].width(),
            name_of(&files[0])
        );
        return Err(Error::file(
            &files[k],
            problem,
            format!("give a size to crop and resize to: {}:{h}x{w}", path.display()),
        ));
    }
    room((h, w))?;
    let channels = if decoded.iter().any(|p| p.color().has_color()) { 3 } else { 1 };
    let mut images = Array2::zeros((decoded.len(), channels * h * w));
    for (picture, mut row) in decoded.into_iter().zip(images.rows_mut()) {
        for (out, value) in row.iter_mut().zip(planes(picture, channels)) {
            *out = value;
        }
    }
    Ok(Dataset {
        name: name_of(path),
        images,
        shape: (channels, h, w),
        labels: None,
        source: path.display().to_string(),
    })
}

fn pictures(folder: &Path) -> Result<Vec<PathBuf>> {
    let unreadable = |e| {
        Error::file(folder, format!("cannot be read: {e}"), "check the path and its permissions")
    };
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder).map_err(unreadable)? {
        let path = entry.map_err(unreadable)?.path();
        let extension = path.extension().unwrap_or_default().to_ascii_lowercase();
        if ["png", "jpg", "jpeg"].iter().any(|e| extension == *e) {
            files.push(path);
        }
    }
    files.sort();
    Ok(files)
}

/// Most pixels of a picture that is resized, and of one that is taken as it is: each of these
/// becomes a number of f64, three times in colour.
const LARGEST: (u64, u64) = (1 << 27, 1 << 22);

fn open(path: &Path, resized: bool) -> Result<DynamicImage> {
    let refused = |e: &dyn std::fmt::Display| {
        Error::file(
            path,
            format!("is no picture that can be decoded: {e}"),
            "replace it or take it out of the folder",
        )
    };
    let (file, _) = tweedie::input::open(path, "replace it or take it out of the folder")?;
    // The reader goes by content, not extension, and refuses pictures of more than 512 MiB before
    // it allocates them.
    let reader =
        ImageReader::new(BufReader::new(file)).with_guessed_format().map_err(|e| refused(&e))?;
    let decoder = reader.into_decoder().map_err(|e| refused(&e))?;
    let (w, h) = decoder.dimensions();
    let (pixels, most) = (u64::from(h) * u64::from(w), if resized { LARGEST.0 } else { LARGEST.1 });
    if pixels > most {
        let problem = format!(
            "is {h}x{w} (height x width), {pixels} pixels, allowed: at most {most}{}",
            if resized { "" } else { " as an image of a data set" }
        );
        return Err(Error::file(
            path,
            problem,
            "make it smaller, or give a size to crop and resize to: FOLDER:HxW",
        ));
    }
    DynamicImage::from_decoder(decoder).map_err(|e| refused(&e))
}

/// Values in [-1, 1] in the order (c, h, w). Through 16 bits a byte v becomes 257 v / 32767.5 - 1,
/// which is v / 127.5 - 1.
pub(super) fn planes(picture: DynamicImage, channels: usize) -> impl Iterator<Item = f64> {
    let interleaved = if channels == 1 {
        picture.into_luma16().into_raw()
    } else {
        picture.into_rgb16().into_raw()
    };
    let pixels = interleaved.len() / channels;
    (0..channels * pixels)
        .map(move |i| f64::from(interleaved[(i % pixels) * channels + i / pixels]) / 32767.5 - 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use image::{GrayImage, ImageFormat, Luma, Rgb, RgbImage};
    use std::io::Cursor;

    fn png(picture: &DynamicImage) -> Vec<u8> {
        let mut bytes = Cursor::new(Vec::new());
        picture.write_to(&mut bytes, ImageFormat::Png).unwrap();
        bytes.into_inner()
    }

    fn grey(h: u32, w: u32) -> DynamicImage {
        GrayImage::from_fn(w, h, |x, y| Luma([(51 * (x + w * y) % 256) as u8])).into()
    }

    #[test]
    fn pictures_come_in_the_order_of_their_names_channel_first() {
        let dir = tempfile::tempdir().unwrap();
        let colour =
            RgbImage::from_fn(
                2,
                1,
                |x, _| if x == 0 { Rgb([0, 51, 102]) } else { Rgb([153, 204, 255]) },
            );
        std::fs::write(dir.path().join("b.PNG"), png(&colour.into())).unwrap();
        std::fs::write(dir.path().join("a.png"), png(&grey(1, 2))).unwrap();
        std::fs::write(dir.path().join("notes.txt"), "not a picture").unwrap();
        let data = load(dir.path(), None).unwrap();
        assert_eq!((data.shape, data.images.dim()), ((3, 1, 2), (2, 6)));
        let bytes = data.images.mapv(|v| ((v + 1.0) * 127.5).round());
        assert_eq!(
            bytes,
            ndarray::array![
                [0.0, 51.0, 0.0, 51.0, 0.0, 51.0],
                [0.0, 153.0, 51.0, 204.0, 102.0, 255.0]
            ]
        );
        // A grey byte is the number that every other reader makes of it.
        std::fs::remove_file(dir.path().join("b.PNG")).unwrap();
        assert_eq!(
            load(dir.path(), None).unwrap().images.row(0).to_vec(),
            [crate::data::from_byte(0), crate::data::from_byte(51)]
        );
    }

    #[test]
    fn a_size_crops_about_the_centre_and_resizes() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("wide.png"), png(&grey(2, 6))).unwrap();
        std::fs::write(dir.path().join("tall.png"), png(&grey(4, 2))).unwrap();
        let got = load(dir.path(), None).unwrap_err().to_string();
        assert!(
            got.contains("wide.png: is 2x6 (height x width), and tall.png before it is 4x2; give a size to crop and resize to: "),
            "{got}"
        );
        let spec = format!("{}:2x2", dir.path().display());
        let data = crate::data::load(&spec).unwrap();
        assert_eq!((data.shape, data.len()), ((1, 2, 2), 2));
        // The wide one is only cropped: columns 2 and 3 of 6.
        let bytes: Vec<f64> =
            data.images.row(1).iter().map(|v| ((v + 1.0) * 127.5).round()).collect();
        assert_eq!(bytes, [102.0, 153.0, (51 * 8 % 256) as f64, (51 * 9 % 256) as f64]);
        for bad in ["2", "0x2", "2x", "axb", "99999x2"] {
            let got = crate::data::load(&format!("{}:{bad}", dir.path().display()))
                .unwrap_err()
                .to_string();
            assert!(
                got.ends_with(&format!(
                    "got '{bad}', allowed: HxW with both in 1..65535; write for example 32x32"
                )),
                "{got}"
            );
        }
    }

    #[test]
    fn a_size_is_refused_before_anything_is_resized() {
        let dir = tempfile::tempdir().unwrap();
        // Nothing that could be decoded: the size is looked at first.
        std::fs::write(dir.path().join("a.png"), "no picture").unwrap();
        for size in ["65535x65535", "30000x30000", "2049x2048"] {
            let got = crate::data::load(&format!("{}:{size}", dir.path().display()))
                .unwrap_err()
                .to_string();
            assert!(
                got.starts_with(&format!("size of the pictures: got {size} (height x width), "))
                    && got.ends_with("an image of a data set; give a smaller size"),
                "{got}"
            );
        }
    }

    #[test]
    fn folders_without_pictures_and_broken_pictures_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        let got = load(dir.path(), None).unwrap_err().to_string();
        assert!(
            got.ends_with("holds no .png, .jpg or .jpeg file; pass a folder of pictures"),
            "{got}"
        );
        let whole = png(&grey(3, 3));
        let path = dir.path().join("p.png");
        // The last 12 bytes are the end marker, which decoders do not need.
        for n in 0..whole.len() - 12 {
            std::fs::write(&path, &whole[..n]).unwrap();
            let got = load(dir.path(), None).unwrap_err().to_string();
            assert!(
                got.starts_with(&format!("{}: is no picture that can be decoded", path.display())),
                "{got}"
            );
            assert!(!got.contains('\n'));
        }
        // A header that claims 2^31 x 2^31 pixels.
        let mut huge = whole.clone();
        huge[16..24].copy_from_slice(&[0x7f, 0xff, 0xff, 0xff, 0x7f, 0xff, 0xff, 0xff]);
        std::fs::write(&path, &huge).unwrap();
        assert!(load(dir.path(), None).is_err());
    }
}
