//! NumPy's `.npy` and `.npz`: arrays of floats, integers or bytes.
//!
//! The header is checked against the bytes that follow it before anything is allocated or parsed further.

use super::{Dataset, name_of, opening};
use crate::error::{Error, Result};
use ndarray::{ArrayD, IxDyn, ShapeBuilder};
use py_literal::Value;
use std::io::{Cursor, Read};
use std::path::Path;
use zip::ZipArchive;

/// The arrays that hold images and labels in an `.npz`, first match wins.
const IMAGES: [&str; 4] = ["images", "x", "data", "arr_0"];
const LABELS: [&str; 2] = ["labels", "y"];

/// What an array's elements are: it decides how they become numbers in [-1, 1].
#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Bytes,
    Integers,
    /// Of 16 or 32 bits.
    Singles,
    Doubles,
}

/// An `.npz`, its arrays read as they are asked for.
pub struct Archive<'a, B> {
    path: &'a Path,
    zip: ZipArchive<Cursor<B>>,
}

impl<'a> Archive<'a, Vec<u8>> {
    /// The archive in a file.
    ///
    /// # Errors
    /// A file that is missing or no zip archive.
    pub fn open(path: &'a Path) -> Result<Self> {
        Self::new(path, super::read(path)?)
    }
}

impl<'a, B: AsRef<[u8]>> Archive<'a, B> {
    fn new(path: &'a Path, bytes: B) -> Result<Self> {
        let zip =
            ZipArchive::new(Cursor::new(bytes)).map_err(|e| broken_archive(path, format!("is no whole .npz archive: {e}")))?;
        Ok(Self { path, zip })
    }

    /// Names of the arrays.
    pub fn names(&self) -> Vec<String> {
        self.zip.file_names().map(|n| n.trim_end_matches(".npy").to_owned()).collect()
    }

    /// An array in f64, NaN and infinities included, and whether it was stored in `f32` or less; `None` where there is none of this name.
    ///
    /// # Errors
    /// A damaged entry, or one that is no array of numbers.
    pub fn array(&mut self, name: &str) -> Result<Option<(ArrayD<f64>, bool)>> {
        let Some(content) = self.content(name)? else { return Ok(None) };
        decode_any(self.path, name, &content).map(|(array, kind)| Some((array, kind == Kind::Singles)))
    }

    /// A unicode scalar, as `numpy.savez(..., name="text")` stores it; `None` where there is none.
    ///
    /// # Errors
    /// A damaged entry.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        let Some(content) = self.content(name)? else { return Ok(None) };
        let Ok((header, data)) = split(&content) else { return Ok(None) };
        let Ok((descr, ..)) = parse_header(header) else { return Ok(None) };
        // Four bytes a character, zeros after the last.
        let word: fn([u8; 4]) -> u32 = if descr.starts_with('>') { u32::from_be_bytes } else { u32::from_le_bytes };
        let letters = data.chunks_exact(4).filter_map(|c| char::from_u32(word(c.try_into().expect("four bytes"))));
        Ok(descr.get(1..).is_some_and(|d| d.starts_with('U')).then(|| letters.filter(|c| *c != '\0').collect()))
    }

    fn content(&mut self, name: &str) -> Result<Option<Vec<u8>>> {
        let Some(index) = self.zip.file_names().position(|n| n.trim_end_matches(".npy") == name) else { return Ok(None) };
        let broken = |what: &str, e: String| broken_archive(self.path, format!("array '{name}' cannot be {what}: {e}"));
        // Grown as bytes arrive: the sizes that the archive claims are not believed.
        let mut content = Vec::new();
        let mut file = self.zip.by_index(index).map_err(|e| broken("opened", e.to_string()))?;
        file.read_to_end(&mut content).map_err(|e| broken("unpacked", e.to_string()))?;
        Ok(Some(content))
    }
}

fn broken_archive(path: &Path, problem: String) -> Error {
    Error::file(path, problem, "write the file again with numpy.savez")
}

/// The array of an `.npy` file as it is stored, in f64; any float or integer type.
///
/// # Shapes
/// Whatever the file says; C order on return.
///
/// # Errors
/// A file that is missing, truncated, too long, of another format or of another element type, NaN and infinities.
pub fn read(path: impl AsRef<Path>) -> Result<ArrayD<f64>> {
    let path = path.as_ref();
    Ok(decode(path, "", &super::read(path)?)?.0)
}

/// Writes an `.npy` of f64 in C order.
///
/// # Errors
/// Whatever the writer says.
///
/// # Example
/// ```
/// let mut bytes = Vec::new();
/// tweedie::data::npy::write(&ndarray::array![[1.0, 2.0]].into_dyn(), &mut bytes).unwrap();
/// assert_eq!(&bytes[1..6], b"NUMPY");
/// ```
pub fn write(array: &ArrayD<f64>, out: impl std::io::Write) -> std::io::Result<()> {
    ndarray_npy::WriteNpyExt::write_npy(array, out).map_err(|e| match e {
        ndarray_npy::WriteNpyError::Io(e) => e,
        other => std::io::Error::other(other.to_string()),
    })
}

/// A data set of one `.npy`: (n, d), (n, h, w) or (n, c, h, w); bytes 0..=255, or floats already in [-1, 1], which stay as they are.
///
/// # Errors
/// As [`read`]; another number of axes, floats outside [-1, 1], integers other than bytes.
pub fn dataset(path: &Path, bytes: &[u8]) -> Result<Dataset> {
    images(path, decode(path, "", bytes)?, None)
}

/// A data set of an `.npz`: images in `images`, `x`, `data`, `arr_0` or the only array, labels (optional) in `labels` or `y`.
///
/// # Errors
/// As [`dataset`]; a damaged archive, no such array, labels that are not one small integer an image.
pub fn dataset_npz(path: &Path, bytes: &[u8]) -> Result<Dataset> {
    let mut archive = Archive::new(path, bytes)?;
    let names = archive.names();
    let pick = |wanted: &[&str]| wanted.iter().find_map(|w| names.iter().find(|n| n == w));
    let name = match (pick(&IMAGES), names.as_slice()) {
        (Some(name), _) | (None, [name]) => name.clone(),
        _ => {
            let problem = format!("holds no array named {}, only: {}", IMAGES.join(", "), names.join(", "));
            return Err(Error::file(path, problem, "name the array of images 'images'"));
        }
    };
    let labels_name = pick(&LABELS).cloned();
    let mut entry = |name: &str| -> Result<(ArrayD<f64>, Kind)> {
        decode(path, name, &archive.content(name)?.expect("the name came from the archive"))
    };
    let stored = entry(&name)?;
    let labels = labels_name.map(|l| entry(&l).map(|a| (l, a))).transpose()?;
    images(path, stored, labels)
}

fn images(path: &Path, (array, kind): (ArrayD<f64>, Kind), labels: Option<(String, (ArrayD<f64>, Kind))>) -> Result<Dataset> {
    let dims = array.shape().to_vec();
    let shape = match dims[..] {
        // Channels last is how pictures are usually held in memory, and would be read as a set of stripes.
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
        return Err(Error::file(path, format!("shape {dims:?} holds no image"), "pass at least one image of at least one value"));
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
            if v >= 0.0 && v <= f64::from(u32::MAX) && v.fract() == 0.0 { Ok(v as u32) } else { Err(wrong(v.to_string())) }
        };
        values.iter().map(class).collect()
    });
    Ok(Dataset { name: name_of(path), images, shape, labels: labels.transpose()?, source: path.display().to_string() })
}

/// One `.npy` in memory; `entry` names it inside an archive. NaN and infinities are refused.
fn decode(path: &Path, entry: &str, bytes: &[u8]) -> Result<(ArrayD<f64>, Kind)> {
    let (array, kind) = decode_any(path, entry, bytes)?;
    match array.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        None => Ok((array, kind)),
        Some((i, v)) => {
            Err(Error::file(path, format!("element {i} is {v}, wanted finite numbers"), "remove or replace it before saving"))
        }
    }
}

/// The same with whatever numbers it holds.
fn decode_any(path: &Path, entry: &str, bytes: &[u8]) -> Result<(ArrayD<f64>, Kind)> {
    let broken = |problem: String| {
        let problem = if entry.is_empty() { problem } else { format!("array '{entry}': {problem}") };
        Error::file(path, problem, "write it again with numpy, as uint8, float32 or float64")
    };
    let (header, data) = split(bytes).map_err(broken)?;
    let (descr, fortran, shape) = parse_header(header).map_err(broken)?;
    // The byte order ('<', '>', or '|' where it means nothing), then the type.
    let (order, element) = descr.split_at_checked(1).unwrap_or_default();
    let Some((values, size)) = numbers(element, order == ">", data) else {
        return Err(broken(format!("element type '{descr}', allowed: float16, float32, float64 and integers of 1 to 8 bytes")));
    };
    let wrong_size =
        || broken(format!("the header promises shape {shape:?} of '{descr}', and {} bytes of data follow it", data.len()));
    if shape.iter().try_fold(size, |n, &d| n.checked_mul(d)) != Some(data.len()) {
        return Err(wrong_size());
    }
    // A shape such as (0, 2^63) holds nothing and still overflows.
    let array = ArrayD::from_shape_vec(IxDyn(&shape).set_f(fortran), values).map_err(|_| wrong_size())?;
    let kind = match element {
        "u1" => Kind::Bytes,
        "f2" | "f4" => Kind::Singles,
        "f8" => Kind::Doubles,
        _ => Kind::Integers,
    };
    Ok((array.as_standard_layout().into_owned(), kind))
}

/// All whole elements in `data` and the size of one; `None` for a type that is no number.
fn numbers(element: &str, big_endian: bool, data: &[u8]) -> Option<(Vec<f64>, usize)> {
    macro_rules! read {
        ($t:ty, $to_f64:expr) => {{
            let chunks = data.chunks_exact(size_of::<$t>()).map(|c| c.try_into().expect("exact chunks"));
            let values = chunks.map(|c| $to_f64(if big_endian { <$t>::from_be_bytes(c) } else { <$t>::from_le_bytes(c) }));
            (values.collect(), size_of::<$t>())
        }};
    }
    Some(match element {
        "u1" => read!(u8, f64::from),
        "i1" => read!(i8, f64::from),
        "u2" => read!(u16, f64::from),
        "i2" => read!(i16, f64::from),
        "u4" => read!(u32, f64::from),
        "i4" => read!(i32, f64::from),
        "u8" => read!(u64, |v| v as f64),
        "i8" => read!(i64, |v| v as f64),
        "f2" => read!(half::f16, f64::from),
        "f4" => read!(f32, f64::from),
        "f8" => read!(f64, |v| v),
        _ => return None,
    })
}

/// The header's text and the data behind it.
fn split(bytes: &[u8]) -> std::result::Result<(&str, &[u8]), String> {
    if !bytes.starts_with(b"\x93NUMPY") {
        return Err(format!("begins with {}, a .npy file begins with 93 4e 55 4d 50 59", opening(bytes)));
    }
    let (start, length) = match bytes.get(6..12) {
        Some(&[1, _, a, b, ..]) => (10, u16::from_le_bytes([a, b]).into()),
        Some(&[2 | 3, _, a, b, c, d]) => (12, u32::from_le_bytes([a, b, c, d]) as usize),
        Some(&[version, ..]) => return Err(format!("format version {version}, allowed: 1, 2 and 3")),
        _ => return Err("ends inside the header".into()),
    };
    let header = bytes[start.min(bytes.len())..].get(..length).ok_or("ends inside the header")?;
    let text = std::str::from_utf8(header).map_err(|_| "the header is not text")?;
    Ok((text, &bytes[start + length..]))
}

/// Element type, whether the layout is Fortran's, and shape, of a header such as
/// `{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }`.
fn parse_header(text: &str) -> std::result::Result<(String, bool, Vec<usize>), String> {
    let unreadable = || "the header is not numpy's".to_string();
    // The parser recurses on brackets, and a plain array's header has two: more could only be a structured type or an attack on the stack.
    if text.matches(['(', '[', '{']).count() > 2 {
        return Err("structured element types are not supported".into());
    }
    let Ok(Value::Dict(entries)) = text.trim_end().parse() else { return Err(unreadable()) };
    let get = |key: &str| entries.iter().find(|(k, _)| k.as_string().is_some_and(|k| k == key)).map(|(_, v)| v);
    let (Some(Value::String(descr)), Some(Value::Boolean(fortran)), Some(Value::Tuple(shape))) =
        (get("descr"), get("fortran_order"), get("shape"))
    else {
        return Err(unreadable());
    };
    let shape = shape.iter().map(|d| usize::try_from(d.as_integer()?).ok()).collect::<Option<_>>().ok_or_else(unreadable)?;
    Ok((descr.clone(), *fortran, shape))
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::{Array1, Array2, Array3, array};
    use ndarray_npy::{NpzWriter, WriteNpyExt};
    use proptest::prelude::*;

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
    fn every_element_type_and_order_reads_back() {
        let read = |descr: &str, data: &[u8]| decode(Path::new("x.npy"), "", &file(&header(descr, "False", "(2,)"), data)).unwrap();
        let values = |descr: &str, data: &[u8]| read(descr, data).0.into_raw_vec_and_offset().0;
        assert_eq!(values("<f8", &[0.1f64, -2.5].map(f64::to_le_bytes).concat()), [0.1, -2.5]);
        assert_eq!(values(">f8", &[0.1f64, -2.5].map(f64::to_be_bytes).concat()), [0.1, -2.5]);
        assert_eq!(values("<f4", &[0.1f32, -2.5].map(f32::to_le_bytes).concat()), [f64::from(0.1f32), -2.5]);
        assert_eq!(values("<f2", &[0x3c00u16, 0xc100].map(u16::to_le_bytes).concat()), [1.0, -2.5]);
        assert_eq!(values(">i2", &[300i16, -2].map(i16::to_be_bytes).concat()), [300.0, -2.0]);
        assert_eq!(values("<i8", &[1i64 << 40, -2].map(i64::to_le_bytes).concat()), [(1i64 << 40) as f64, -2.0]);
        assert_eq!(values("|u1", &[0, 255]), [0.0, 255.0]);
        assert_eq!(
            ["|u1", "|i1", "<f2", "<f4", "<f8"].map(|descr| read(descr, &vec![0; 2 * usize::from(descr.as_bytes()[2] - b'0')]).1),
            [Kind::Bytes, Kind::Integers, Kind::Singles, Kind::Singles, Kind::Doubles]
        );
    }

    #[test]
    fn fortran_order_is_transposed() {
        let data: Vec<u8> = [1.0f64, 2.0, 3.0, 4.0, 5.0, 6.0].map(|v| f64::to_le_bytes(v / 8.0)).concat();
        let images = dataset(Path::new("x.npy"), &file(&header("<f8", "True", "(2, 3)"), &data)).unwrap().images;
        assert_eq!(images * 8.0, array![[1.0, 3.0, 5.0], [2.0, 4.0, 6.0]]);
    }

    #[test]
    fn data_sets_of_two_three_and_four_axes() {
        let shape = |shape: &str| dataset(Path::new("x.npy"), &file(&header("|u1", "False", shape), &[255; 24])).unwrap();
        for (axes, want) in [("(2, 12)", (1, 1, 12)), ("(2, 3, 4)", (1, 3, 4)), ("(2, 3, 2, 2)", (3, 2, 2))] {
            let data = shape(axes);
            assert_eq!((data.shape, data.images.dim()), (want, (2, 12)));
            assert!(data.images.iter().all(|&v| v == 1.0));
        }
    }

    #[test]
    fn what_is_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        let x = array![[1.0, f64::MIN_POSITIVE], [-1e300, 0.1]].into_dyn();
        write(&x, std::fs::File::create(&path).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), x);
        // A transposed view is written in C order.
        let t = x.t().to_owned();
        write(&t, std::fs::File::create(&path).unwrap()).unwrap();
        assert_eq!(read(&path).unwrap(), t);
    }

    #[test]
    fn bad_arrays_are_refused_with_a_remedy() {
        let f8 = |shape: &str, values: &[f64]| {
            file(&header("<f8", "False", shape), &values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<_>>())
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
            assert!(dataset(Path::new("x.npy"), &file(&header("<f8", "False", shape), &[0; 16])).is_err(), "{shape}");
        }
        // A header that claims 4 GiB of text, and one that nests 60,000 brackets.
        let mut long = b"\x93NUMPY\x02\x00\xff\xff\xff\xff".to_vec();
        long.extend([b' '; 64]);
        assert!(message(&long).contains("ends inside the header"));
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
        assert_eq!((data.shape, data.labels, data.images.sum()), ((1, 2, 3), Some(vec![3, 1]), 12.0));
        // The only array needs no name.
        let data =
            dataset_npz(Path::new("a.npz"), &npz(|w| w.add_array("anything", &Array2::<f64>::zeros((2, 2))).unwrap())).unwrap();
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
        for labels in
            [Array1::from(vec![0.5, 1.0]), Array1::from(vec![-1.0, 1.0]), Array1::from(vec![1.0]), Array1::from(vec![1e12, 0.0])]
        {
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
        /// One byte changed anywhere: an answer or an error, never a panic. (An .npz has checksums: its values never change silently.)
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
