//! Images in NumPy's `.npy` and `.npz`.

use super::{Dataset, name_of};
use ndarray::ArrayD;
use std::path::Path;
use tweedie::error::{Error, Result};
use tweedie::npy::{Archive, Kind, decode};

/// The arrays that hold images and labels in an `.npz`, first match wins.
const IMAGES: [&str; 4] = ["images", "x", "data", "arr_0"];
const LABELS: [&str; 2] = ["labels", "y"];

/// A data set of one `.npy`: (n, d), (n, h, w) or (n, c, h, w); bytes 0..=255, or floats already in
/// [-1, 1], which stay as they are.
///
/// # Errors
/// As [`tweedie::npy::read`]; another number of axes, floats outside [-1, 1], integers other than
/// bytes.
pub fn dataset(path: &Path, bytes: &[u8]) -> Result<Dataset> {
    images(path, decode(path, bytes)?, None)
}

/// A data set of an `.npz`: images in `images`, `x`, `data`, `arr_0` or the only array, labels
/// (optional) in `labels` or `y`.
///
/// # Errors
/// As [`dataset`]; a damaged archive, no such array, labels that are not one small integer an
/// image.
pub fn dataset_npz(path: &Path, bytes: &[u8]) -> Result<Dataset> {
    let mut archive = Archive::of_bytes(path, bytes)?;
    let names = archive.names();
    let pick = |wanted: &[&str]| wanted.iter().find_map(|w| names.iter().find(|n| n == w));
    let name = match (pick(&IMAGES), names.as_slice()) {
        (Some(name), _) | (None, [name]) => name.clone(),
        _ => {
            let problem =
                format!("holds no array named {}, only: {}", IMAGES.join(", "), names.join(", "));
            return Err(Error::file(path, problem, "name the array of images 'images'"));
        }
    };
    let labels_name = pick(&LABELS).cloned();
    let mut entry = |name: &str| -> Result<(ArrayD<f64>, Kind)> {
        Ok(archive.finite(name)?.expect("the name came from the archive"))
    };
    let stored = entry(&name)?;
    let labels = labels_name.map(|l| entry(&l).map(|a| (l, a))).transpose()?;
    images(path, stored, labels)
}

fn images(
    path: &Path,
    (array, kind): (ArrayD<f64>, Kind),
    labels: Option<(String, (ArrayD<f64>, Kind))>,
) -> Result<Dataset> {
    let dims = array.shape().to_vec();
    let shape = match dims[..] {
        // Channels last is how pictures are usually held in memory, and would be read as a set of
        // stripes.
        [_, h, _, 1 | 3 | 4] if h > 4 => {
            return Err(Error::file(
                path,
                format!("shape {dims:?} has its channels last, wanted (n, c, h, w)"),
                "transpose it with x.transpose(0, 3, 1, 2)",
            ));
        }
        [_, d] => (1, 1, d),
        [_, h, w] => (1, h, w),
        [_, c, h, w] => (c, h, w),
        _ => {
            return Err(Error::file(
                path,
                format!("shape {dims:?}, wanted (n, d), (n, h, w) or (n, c, h, w)"),
                "reshape the array",
            ));
        }
    };
    let (n, d) = (dims[0], shape.0 * shape.1 * shape.2);
    if n == 0 || d == 0 {
        return Err(Error::file(
            path,
            format!("shape {dims:?} holds no image"),
            "pass at least one image of at least one value",
        ));
    }
    let mut images = array.into_shape_with_order((n, d)).expect("C order");
    match kind {
        Kind::Bytes => images.mapv_inplace(|v| v / 127.5 - 1.0),
        Kind::Integers => {
            return Err(Error::file(
                path,
                "images are integers of more than 8 bits, wanted bytes (uint8) or floats",
                "save them with astype('uint8')",
            ));
        }
        Kind::Singles | Kind::Doubles => {
            if let Some(v) = images.iter().find(|v| v.abs() > 1.0) {
                return Err(Error::file(
                    path,
                    format!("floats must lie in [-1, 1], got {v}"),
                    "rescale them before saving, or save bytes (uint8)",
                ));
            }
        }
    }
    let labels = labels.map(|(name, (values, _))| {
        let wrong = |got: String| {
            Error::file(
                path,
                format!("labels '{name}': got {got}, wanted {n} integers >= 0, one an image"),
                "save one class index an image",
            )
        };
        if values.shape() != [n] {
            return Err(wrong(format!("shape {:?}", values.shape())));
        }
        let class = |&v: &f64| {
            if v >= 0.0 && v <= f64::from(u32::MAX) && v.fract() == 0.0 {
                Ok(v as u32)
            } else {
                Err(wrong(v.to_string()))
            }
        };
        values.iter().map(class).collect()
    });
    Ok(Dataset {
        name: name_of(path),
        images,
        shape,
        labels: labels.transpose()?,
        source: path.display().to_string(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2, Array3, array};
    use ndarray_npy::{NpzWriter, WriteNpyExt};
    use proptest::prelude::*;
    use std::io::Cursor;

    /// A version 1 file with this header text and data.
    fn file(header: &str, data: &[u8]) -> Vec<u8> {
        let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
        bytes.extend((header.len() as u16).to_le_bytes());
        bytes.extend(header.as_bytes());
        bytes.extend(data);
        bytes
    }

    fn header(descr: &str, fortran: &str, shape: &str) -> String {
        format!("{{'descr': '{descr}', 'fortran_order': {fortran}, 'shape': {shape}, }}\n")
    }

    fn message(bytes: &[u8]) -> String {
        dataset(Path::new("x.npy"), bytes).unwrap_err().to_string()
    }

    #[test]
    fn fortran_order_is_transposed() {
        let data: Vec<u8> =
            [1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0].map(|v| f64::to_le_bytes(v / 8.0)).concat();
        let images = dataset(Path::new("x.npy"), &file(&header("<f8", "True", "(2, 3)"), &data))
            .unwrap()
            .images;
        assert_eq!(images * 8.0, array![[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]);
    }

    #[test]
    fn data_sets_of_two_three_and_four_axes() {
        let shape = |shape: &str| {
            dataset(Path::new("x.npy"), &file(&header("|u1", "False", shape), &[255; 24])).unwrap()
        };
        for (axes, want) in
            [("(2, 12)", (1, 1, 12)), ("(2, 3, 4)", (1, 3, 4)), ("(2, 3, 2, 2)", (3, 2, 2))]
        {
            let data = shape(axes);
            assert_eq!((data.shape, data.images.dim()), (want, (2, 12)));
            assert!(data.images.iter().all(|&v| v == 1.0));
        }
    }

    #[test]
    fn bad_arrays_are_refused_with_a_remedy() {
        let f8 = |shape: &str, values: &[f64]| {
            file(
                &header("<f8", "False", shape),
                &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>(),
            )
        };
        let again = "write it again with numpy, as uint8, float32 or float64";
        for (bytes, want) in [
            (
                f8("(1, 2)", &[0.5, f64::NAN]),
                "x.npy: element 1 is NaN, wanted finite numbers; remove or replace it before saving".into(),
            ),
            (
                f8("(1, 2)", &[0.5, 255.0]),
                "x.npy: floats must lie in [-1, 1], got 255; rescale them before saving, or save bytes (uint8)".into(),
            ),
            (f8("(2,)", &[0.5, 0.5]), "x.npy: shape [2], wanted (n, d), (n, h, w) or (n, c, h, w); reshape the array".into()),
            (f8("(0, 2)", &[]), "x.npy: shape [0, 2] holds no image; pass at least one image of at least one value".into()),
            (
                f8("(1, 5, 1, 3)", &[0.0; 15]),
                "x.npy: shape [1, 5, 1, 3] has its channels last, wanted (n, c, h, w); transpose it with x.transpose(0, 3, 1, 2)"
                    .into(),
            ),
            (
                f8("(1, 3)", &[0.0; 2]),
                format!("x.npy: the header promises shape [1, 3] of '<f8', and 16 bytes of data follow it; {again}"),
            ),
            (
                f8("(1, 1)", &[0.0; 2]),
                format!("x.npy: the header promises shape [1, 1] of '<f8', and 16 bytes of data follow it; {again}"),
            ),
            (
                file(&header("<c8", "False", "(1, 1)"), &[0; 8]),
                format!("x.npy: element type '<c8', allowed: float16, float32, float64 and integers of 1 to 8 bytes; {again}"),
            ),
            (
                file(&header("<i4", "False", "(1, 1)"), &[0; 4]),
                "x.npy: images are integers of more than 8 bits, wanted bytes (uint8) or floats; save them with astype('uint8')"
                    .into(),
            ),
            (
                file("{'descr': [('a', '<f8')], 'shape': (1,)}\n", &[]),
                format!("x.npy: structured element types are not supported; {again}"),
            ),
            (file("nonsense\n", &[]), format!("x.npy: the header is not numpy's; {again}")),
            (b"\x93NUMPY\x09\x00\x00\x00\x00\x00".to_vec(), format!("x.npy: format version 9, allowed: 1, 2 and 3; {again}")),
            (
                b"PK\x03\x04".to_vec(),
                format!("x.npy: begins with bytes [50, 4b, 03, 04], a .npy file begins with 93 4e 55 4d 50 59; {again}"),
            ),
        ] {
            assert_eq!(message(&bytes), want);
        }
    }

    #[test]
    fn huge_promises_cost_nothing() {
        for shape in [
            "(9223372036854775807, 2)",
            "(0, 9223372036854775807, 9)",
            "(4611686018427387904, 4)",
            "(99999999999999999999999999, 1)",
            "(1000000000000, 1)",
            "(-1, 2)",
        ] {
            assert!(
                dataset(Path::new("x.npy"), &file(&header("<f8", "False", shape), &[0; 16]))
                    .is_err(),
                "{shape}"
            );
        }
        // A header that claims 4 GiB of text, and one that nests 60,000 brackets.
        let mut long = b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec();
        long.extend([b' '; 64]);
        assert!(message(&long).contains("the header has 4294967295 bytes, allowed: at most 65536"));
        assert!(message(&file(&"[".repeat(60_000), &[])).contains("structured"));
    }

    fn npz(add: impl FnOnce(&mut NpzWriter<Cursor<Vec<u8>>>)) -> Vec<u8> {
        let mut writer = NpzWriter::new_compressed(Cursor::new(Vec::new()));
        add(&mut writer);
        writer.finish().unwrap().into_inner()
    }

    #[test]
    fn archives_hold_images_and_labels() {
        let bytes = npz(|w| {
            w.add_array("labels", &array![3i64, 1]).unwrap();
            w.add_array("images", &Array3::<u8>::from_elem((2, 2, 3), 255)).unwrap();
        });
        let data = dataset_npz(Path::new("a.npz"), &bytes).unwrap();
        assert_eq!(
            (data.shape, data.labels, data.images.sum()),
            ((1, 2, 3), Some(vec![3, 1]), 12.0)
        );
        // The only array needs no name.
        let data = dataset_npz(
            Path::new("a.npz"),
            &npz(|w| w.add_array("anything", &Array2::<f64>::zeros((2, 2))).unwrap()),
        )
        .unwrap();
        assert_eq!((data.shape, data.labels), ((1, 1, 2), None));
    }

    #[test]
    fn bad_archives_are_refused() {
        let says = |bytes: &[u8], want: &str| {
            let got = dataset_npz(Path::new("a.npz"), bytes).unwrap_err().to_string();
            assert!(got.starts_with("a.npz: ") && got.contains(want), "{got}");
        };
        let image = Array2::<f64>::zeros((2, 2));
        says(&npz(|_| ()), "holds no array named images, x, data, arr_0, only: ");
        says(
            &npz(|w| {
                w.add_array("a", &image).unwrap();
                w.add_array("b", &image).unwrap()
            }),
            "only: a, b; name the array of images 'images'",
        );
        for labels in [
            Array1::from(vec![0.5, 1.0]),
            Array1::from(vec![-1.0, 1.0]),
            Array1::from(vec![1.0]),
            Array1::from(vec![1e12, 0.0]),
        ] {
            says(
                &npz(|w| {
                    w.add_array("x", &image).unwrap();
                    w.add_array("y", &labels).unwrap()
                }),
                "wanted 2 integers >= 0, one an image; save one class index an image",
            );
        }
        says(b"PK\x03\x04", "is no whole .npz archive");
    }

    #[test]
    fn every_prefix_is_an_error_and_none_panics() {
        let mut npy = Vec::new();
        array![[0.25f64, -1.0], [0.5, 1.0]].write_npy(&mut npy).unwrap();
        for n in 0..npy.len() {
            assert!(dataset(Path::new("x.npy"), &npy[..n]).is_err(), "{n}");
        }
        let npz = npz(|w| w.add_array("x", &array![[0.25f32, -1.0]]).unwrap());
        for n in 0..npz.len() {
            assert!(dataset_npz(Path::new("x.npz"), &npz[..n]).is_err(), "{n}");
        }
    }

    proptest! {
        /// One byte changed anywhere: an answer or an error, never a panic. (An .npz has checksums:
        /// its values never change silently.)
        #[test]
        fn a_changed_byte_never_panics(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let mut npy = Vec::new();
            array![[0.25f64, -1.0], [0.5, 1.0]].write_npy(&mut npy).unwrap();
            let i = at.index(npy.len());
            npy[i] ^= flip;
            let _ = dataset(Path::new("x.npy"), &npy);
            let image = array![[0.25f32, -1.0], [0.5, 1.0]];
            let mut archive = npz(|w| w.add_array("x", &image).unwrap());
            let i = at.index(archive.len());
            archive[i] ^= flip;
            if let Ok(data) = dataset_npz(Path::new("x.npz"), &archive) {
                prop_assert_eq!(data.images, image.mapv(f64::from));
            }
        }

        #[test]
        fn random_headers_never_panic(text in "\\PC{0,80}") {
            let _ = dataset(Path::new("x.npy"), &file(&text, &[0; 16]));
            let _ = dataset(Path::new("x.npy"), &file(&header(&text.replace('\'', ""), "False", "(1, 2)"), &[0; 16]));
        }
    }
}
