//! NumPy's `.npy` and `.npz`: arrays of floats, integers or bytes.
//!
//! The header is checked against the bytes that follow it before anything is allocated or parsed further.

use super::{Dataset, name_of, opening};
use crate::device::room;
use crate::error::{Error, Result};
use crate::file::input::open;
use ndarray::{Array2, ArrayD, IxDyn, ShapeBuilder};
use py_literal::Value;
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;
use zip::ZipArchive;
use zip::read::ZipFile;

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

/// An `.npz`, its arrays read as they are asked for, each straight from the archive into f64.
pub struct Archive<'a, R> {
    path: &'a Path,
    zip: ZipArchive<R>,
}

/// States of one shape, as an array of them is read.
pub struct States {
    /// Each (n, d).
    pub states: Vec<Array2<f64>>,
    /// Whether there were several, by an axis in front.
    pub several: bool,
    /// Whether they were stored in `f32` or less.
    pub single: bool,
}

/// Bytes that an array may unpack to whatever it was packed in, and how many times the packed ones beyond that. Deflate reaches 1032 with
/// one byte repeated; numbers that differ stay far below.
pub(super) const UNPACKED: (u64, u64) = (64 << 20, 200);

/// Whether so many bytes are more than `packed` ones can be believed to hold.
pub(super) fn is_bomb(unpacked: u64, packed: u64) -> bool {
    unpacked > UNPACKED.0 && unpacked / UNPACKED.1 > packed
}

impl<'a> Archive<'a, BufReader<File>> {
    /// The archive in a file.
    ///
    /// # Errors
    /// A file that is missing or no zip archive.
    pub fn open(path: &'a Path) -> Result<Self> {
        Self::new(path, BufReader::new(open(path, "check the path and its permissions")?.0))
    }
}

impl<'a, R: Read + Seek> Archive<'a, R> {
    fn new(path: &'a Path, reader: R) -> Result<Self> {
        let zip = ZipArchive::new(reader).map_err(|e| broken_archive(path, format!("is no whole .npz archive: {e}")))?;
        Ok(Self { path, zip })
    }

    /// Names of the arrays.
    pub fn names(&self) -> Vec<String> {
        self.zip.file_names().map(|n| n.trim_end_matches(".npy").to_owned()).collect()
    }

    /// An array in f64, NaN and infinities included, and whether it was stored in `f32` or less; `None` where there is none of this name.
    ///
    /// # Errors
    /// A damaged entry, one that is no array of numbers, or more of them than there is memory for.
    pub fn array(&mut self, name: &str) -> Result<Option<(ArrayD<f64>, bool)>> {
        let array = self.entry(name, |entry| entry.array())?;
        Ok(array.map(|(array, kind)| (array, kind == Kind::Singles)))
    }

    /// An array (k, n, d) as k states, or (n, d) as one, once `fits` has looked at its shape.
    ///
    /// # Errors
    /// As [`Archive::array`]; what `fits` refuses; another number of axes.
    pub fn states(&mut self, name: &str, fits: impl FnOnce(&[usize]) -> Result<()>) -> Result<Option<States>> {
        self.entry(name, |entry| {
            fits(&entry.shape)?;
            let single = entry.kind() == Kind::Singles;
            let (k, n, d) = match entry.shape[..] {
                [k, n, d] => (k, n, d),
                [n, d] => (1, n, d),
                _ => return Err(entry.broken(format!("shape {:?}, wanted 2 or 3 axes", entry.shape))),
            };
            let several = entry.shape.len() == 3;
            if entry.fortran {
                // Numbers of one state lie far apart: it is read whole.
                let whole = entry.array()?.0.into_shape_with_order((k, n, d)).expect("as many numbers");
                return Ok(States { states: whole.outer_iter().map(|x| x.to_owned()).collect(), several, single });
            }
            entry.fits_memory()?;
            let states = (0..k).map(|_| Ok(Array2::from_shape_vec((n, d), entry.values(n * d)?).expect("as many numbers")));
            let states = states.collect::<Result<_>>()?;
            entry.end()?;
            Ok(States { states, several, single })
        })
    }

    /// A unicode scalar, as `numpy.savez(..., name="text")` stores it; `None` where there is none.
    ///
    /// # Errors
    /// A damaged entry.
    pub fn text(&mut self, name: &str) -> Result<Option<String>> {
        /// Bytes that are looked at: more are no name.
        const LONGEST: u64 = 1 << 16;
        let path = self.path;
        let Some((source, _)) = self.source(name)? else { return Ok(None) };
        let mut content = Vec::new();
        source.take(LONGEST).read_to_end(&mut content).map_err(|e| broken_archive(path, format!("array '{name}': {e}")))?;
        let mut data = content.as_slice();
        let Ok((header, _)) = header(&mut data) else { return Ok(None) };
        let Ok((descr, ..)) = parse_header(&header) else { return Ok(None) };
        // Four bytes a character, zeros after the last.
        let word: fn([u8; 4]) -> u32 = if descr.starts_with('>') { u32::from_be_bytes } else { u32::from_le_bytes };
        let letters = data.chunks_exact(4).filter_map(|c| char::from_u32(word(c.try_into().expect("four bytes"))));
        Ok(descr.get(1..).is_some_and(|d| d.starts_with('U')).then(|| letters.filter(|c| *c != '\0').collect()))
    }

    /// What `read` makes of an array; `None` where there is none of this name.
    fn entry<T>(&mut self, name: &str, read: impl FnOnce(&mut Entry) -> Result<T>) -> Result<Option<T>> {
        let path = self.path;
        let Some((mut source, unpacked)) = self.source(name)? else { return Ok(None) };
        let mut entry = Entry::begin(path, name, &mut source, unpacked)?;
        read(&mut entry).map(Some)
    }

    /// The bytes of an entry, and how many the archive says there are.
    fn source(&mut self, name: &str) -> Result<Option<(ZipFile<'_, R>, u64)>> {
        let Some(index) = self.zip.file_names().position(|n| n.trim_end_matches(".npy") == name) else { return Ok(None) };
        let path = self.path;
        let file = self.zip.by_index(index).map_err(|e| broken_archive(path, format!("array '{name}' cannot be opened: {e}")))?;
        let (unpacked, packed) = (file.size(), file.compressed_size());
        if is_bomb(unpacked, packed) {
            let [unpacked, packed] = [unpacked, packed].map(|n| room::words(n as f64));
            let problem = format!("array '{name}' unpacks from {packed} to {unpacked}, allowed: {} times as much", UNPACKED.1);
            return Err(Error::file(path, problem, "if it is meant, save it with numpy.savez, which does not pack"));
        }
        Ok(Some((file, unpacked)))
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
    let (file, length) = open(path, "check the path and its permissions")?;
    let mut source = BufReader::new(file);
    Ok(finite(path, Entry::begin(path, "", &mut source, length)?.array()?)?.0)
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
    let mut archive = Archive::new(path, Cursor::new(bytes))?;
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
        let stored = archive.entry(name, |entry| entry.array())?;
        finite(path, stored.expect("the name came from the archive"))
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
    let mut source = bytes;
    finite(path, Entry::begin(path, entry, &mut source, bytes.len() as u64)?.array()?)
}

fn finite(path: &Path, (array, kind): (ArrayD<f64>, Kind)) -> Result<(ArrayD<f64>, Kind)> {
    match array.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        None => Ok((array, kind)),
        Some((i, v)) => {
            Err(Error::file(path, format!("element {i} is {v}, wanted finite numbers"), "remove or replace it before saving"))
        }
    }
}

/// An array that is being read: its header was, its numbers are still to come.
struct Entry<'a> {
    path: &'a Path,
    name: &'a str,
    source: &'a mut dyn Read,
    shape: Vec<usize>,
    fortran: bool,
    element: Element,
    /// Bytes that follow the header, as the file says.
    data: u64,
}

impl<'a> Entry<'a> {
    /// Reads the header, and holds it to the `length` of all.
    fn begin(path: &'a Path, name: &'a str, source: &'a mut dyn Read, length: u64) -> Result<Self> {
        let broken = |problem| broken_array(path, name, problem);
        let (header, read) = header(source).map_err(broken)?;
        let (descr, fortran, shape) = parse_header(&header).map_err(broken)?;
        let element = Element::of(&descr).ok_or_else(|| {
            broken(format!("element type '{descr}', allowed: float16, float32, float64 and integers of 1 to 8 bytes"))
        })?;
        let entry = Self { path, name, source, shape, fortran, element, data: length.saturating_sub(read) };
        let numbers = room::product("array", &entry.shape).ok();
        // A shape such as (0, 2^63) holds nothing and still overflows.
        let indices = room::product("array", &entry.shape.iter().map(|&n| n.max(1)).collect::<Vec<_>>()).ok();
        if numbers.and(indices).and(numbers).map(|n| n as u64 * entry.element.size as u64) != Some(entry.data) {
            return Err(entry.broken(format!(
                "the header promises shape {:?} of '{descr}', and {} bytes of data follow it",
                entry.shape, entry.data
            )));
        }
        Ok(entry)
    }

    fn broken(&self, problem: String) -> Error {
        broken_array(self.path, self.name, problem)
    }

    fn kind(&self) -> Kind {
        self.element.kind
    }

    /// That there is memory for all of it in f64.
    fn fits_memory(&self) -> Result<()> {
        let numbers = self.shape.iter().product::<usize>() as f64;
        room::holds(format!("{}: shape {:?} in f64", self.path.display(), self.shape), 8.0 * numbers, "pass fewer of them")
    }

    /// The next `n` numbers.
    fn values(&mut self, n: usize) -> Result<Vec<f64>> {
        let mut values = Vec::new();
        values.try_reserve_exact(n).map_err(|e| self.broken(e.to_string()))?;
        let (mut buffer, size) = ([0; 1 << 15], self.element.size);
        while values.len() < n {
            let piece = &mut buffer[..(n - values.len()).min((1 << 15) / size) * size];
            self.source.read_exact(piece).map_err(|e| broken_array(self.path, self.name, format!("cannot be unpacked: {e}")))?;
            self.element.append(piece, &mut values);
        }
        Ok(values)
    }

    /// That nothing follows.
    fn end(&mut self) -> Result<()> {
        match self.source.read(&mut [0]) {
            Ok(0) => Ok(()),
            Ok(_) => Err(self.broken("more bytes follow the last number".into())),
            // A checksum is compared at the end.
            Err(e) => Err(self.broken(format!("cannot be unpacked: {e}"))),
        }
    }

    /// All of it, in C order.
    fn array(&mut self) -> Result<(ArrayD<f64>, Kind)> {
        self.fits_memory()?;
        let values = self.values(self.shape.iter().product())?;
        self.end()?;
        let array =
            ArrayD::from_shape_vec(IxDyn(&self.shape).set_f(self.fortran), values).expect("as many numbers as the shape has");
        // Moved, where it is in C order already.
        let array = if self.fortran { array.as_standard_layout().into_owned() } else { array };
        Ok((array, self.kind()))
    }
}

fn broken_array(path: &Path, name: &str, problem: String) -> Error {
    let problem = if name.is_empty() { problem } else { format!("array '{name}': {problem}") };
    Error::file(path, problem, "write it again with numpy, as uint8, float32 or float64")
}

/// How an array's numbers are stored.
#[derive(Clone, Copy)]
struct Element {
    kind: Kind,
    size: usize,
    big_endian: bool,
    /// Floats, signed or unsigned integers.
    class: u8,
}

impl Element {
    /// By numpy's name: the byte order ('<', '>', or '|' where it means nothing), then the type.
    fn of(descr: &str) -> Option<Self> {
        let (order, element) = descr.split_at_checked(1)?;
        let (kind, size) = match element {
            "u1" => (Kind::Bytes, 1),
            "i1" => (Kind::Integers, 1),
            "u2" | "i2" => (Kind::Integers, 2),
            "u4" | "i4" => (Kind::Integers, 4),
            "u8" | "i8" => (Kind::Integers, 8),
            "f2" => (Kind::Singles, 2),
            "f4" => (Kind::Singles, 4),
            "f8" => (Kind::Doubles, 8),
            _ => return None,
        };
        Some(Self { kind, size, big_endian: order == ">", class: element.as_bytes()[0] })
    }

    /// Appends the numbers that whole elements are.
    fn append(self, bytes: &[u8], out: &mut Vec<f64>) {
        macro_rules! append {
            ($t:ty, $to_f64:expr) => {{
                let chunks = bytes.chunks_exact(size_of::<$t>()).map(|c| c.try_into().expect("exact chunks"));
                out.extend(chunks.map(|c| $to_f64(if self.big_endian { <$t>::from_be_bytes(c) } else { <$t>::from_le_bytes(c) })));
            }};
        }
        match (self.class, self.size) {
            (b'u', 1) => append!(u8, f64::from),
            (b'i', 1) => append!(i8, f64::from),
            (b'u', 2) => append!(u16, f64::from),
            (b'i', 2) => append!(i16, f64::from),
            (b'u', 4) => append!(u32, f64::from),
            (b'i', 4) => append!(i32, f64::from),
            (b'u', _) => append!(u64, |v| v as f64),
            (b'i', _) => append!(i64, |v| v as f64),
            (_, 2) => append!(half::f16, f64::from),
            (_, 4) => append!(f32, f64::from),
            _ => append!(f64, |v| v),
        }
    }
}

/// The header's text and how many bytes were read for it.
fn header(source: &mut dyn Read) -> std::result::Result<(String, u64), String> {
    /// Longest header: numpy's own have some 100 bytes.
    const LONGEST: u64 = 1 << 16;
    let mut next = |n: u64| -> std::result::Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        (&mut *source).take(n).read_to_end(&mut bytes).map_err(|e| format!("cannot be read: {e}"))?;
        Ok(bytes)
    };
    let magic = next(6)?;
    if magic != b"\x93NUMPY" {
        return Err(format!("begins with {}, a .npy file begins with 93 4e 55 4d 50 59", opening(&magic)));
    }
    let ends = "ends inside the header";
    let version = next(2)?;
    let bytes = match version.first() {
        Some(1) => 2,
        Some(2 | 3) => 4,
        Some(version) => return Err(format!("format version {version}, allowed: 1, 2 and 3")),
        None => return Err(ends.into()),
    };
    let length = next(bytes)?;
    if version.len() < 2 || (length.len() as u64) < bytes {
        return Err(ends.into());
    }
    let length = length.iter().rev().fold(0u64, |n, &b| n << 8 | u64::from(b));
    if length > LONGEST {
        return Err(format!("the header has {length} bytes, allowed: at most {LONGEST}"));
    }
    let text = next(length)?;
    if (text.len() as u64) < length {
        return Err(ends.into());
    }
    let text = String::from_utf8(text).map_err(|_| "the header is not text")?;
    Ok((text, 8 + bytes + length))
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
