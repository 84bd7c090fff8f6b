//! NumPy's `.npy` and `.npz`: arrays of floats, integers or bytes.
//!
//! The header is checked against the bytes that follow it before anything is allocated or parsed
//! further.

use crate::error::{Error, Result};
use crate::input::open;
use crate::room;
use ndarray::{Array2, ArrayD, IxDyn, ShapeBuilder};
use std::fs::File;
use std::io::{BufReader, Cursor, Read, Seek};
use std::path::Path;
use zip::ZipArchive;
use zip::read::ZipFile;

/// What an array's elements are.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Kind {
    /// Unsigned integers of 8 bits.
    Bytes,
    /// Other integers.
    Integers,
    /// Floats of 16 or 32 bits.
    Singles,
    /// Floats of 64 bits.
    Doubles,
}

/// An `.npz`, its arrays read as they are asked for, each straight from the archive into f64.
pub struct Archive<'a, R> {
    path: &'a Path,
    zip: ZipArchive<R>,
}

/// How an array holds states of one shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Layout {
    /// How many there are.
    pub count: usize,
    /// Whether there are several, by an axis in front.
    pub several: bool,
    /// Whether they are stored in `f32` or less.
    pub single: bool,
}

/// Bytes that an array may unpack to whatever it was packed in, and how many times the packed ones
/// beyond that. Deflate reaches 1032 with one byte repeated; numbers that differ stay far below.
pub const UNPACKED: (u64, u64) = (64 << 20, 200);

/// Whether so many bytes are more than `packed` ones can be believed to hold.
pub fn is_bomb(unpacked: u64, packed: u64) -> bool {
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

impl<'a> Archive<'a, Cursor<&'a [u8]>> {
    /// The archive in memory; `path` names it in messages.
    ///
    /// # Errors
    /// Bytes that are no zip archive.
    pub fn of_bytes(path: &'a Path, bytes: &'a [u8]) -> Result<Self> {
        Self::new(path, Cursor::new(bytes))
    }
}

impl<'a, R: Read + Seek> Archive<'a, R> {
    fn new(path: &'a Path, reader: R) -> Result<Self> {
        let zip = ZipArchive::new(reader)
            .map_err(|e| broken_archive(path, format!("is no whole .npz archive: {e}")))?;
        Ok(Self { path, zip })
    }

    /// Names of the arrays.
    pub fn names(&self) -> Vec<String> {
        self.zip.file_names().map(|n| n.trim_end_matches(".npy").to_owned()).collect()
    }

    /// An array in f64, NaN and infinities included, and whether it was stored in `f32` or less;
    /// `None` where there is none of this name.
    ///
    /// # Errors
    /// A damaged entry, one that is no array of numbers, or more of them than there is memory for.
    pub fn array(&mut self, name: &str) -> Result<Option<(ArrayD<f64>, bool)>> {
        let array = self.entry(name, |entry| entry.array())?;
        Ok(array.map(|(array, kind)| (array, kind == Kind::Singles)))
    }

    /// An array of finite numbers in f64, and what they were stored as; `None` where there is none
    /// of this name.
    ///
    /// # Errors
    /// As [`Archive::array`]; NaN and infinities.
    pub fn finite(&mut self, name: &str) -> Result<Option<(ArrayD<f64>, Kind)>> {
        let path = self.path;
        self.entry(name, |entry| entry.array())?.map(|array| finite(path, array)).transpose()
    }

    /// How an array (k, n, d) holds k states, or (n, d) one, once `fits` has looked at its shape;
    /// `None` where there is none of this name.
    ///
    /// # Errors
    /// A damaged entry or one that is no array of numbers; what `fits` refuses; another number of
    /// axes.
    pub fn layout(
        &mut self,
        name: &str,
        fits: impl FnOnce(&[usize]) -> Result<()>,
    ) -> Result<Option<Layout>> {
        self.entry(name, |entry| {
            fits(&entry.shape)?;
            Ok(entry.states()?.0)
        })
    }

    /// Gives the states of an array to `f` one after the other, each (n, d), for as long as it says
    /// to go on; `None` where there is none of this name. Only one is in memory, but for an array
    /// in Fortran order, where the numbers of one lie far apart.
    ///
    /// # Errors
    /// As [`Archive::array`] and [`Archive::layout`]; those of `f`.
    pub fn each_state(
        &mut self,
        name: &str,
        mut f: impl FnMut(usize, Array2<f64>) -> Result<bool>,
    ) -> Result<Option<Layout>> {
        self.entry(name, |entry| {
            let (layout, n, d) = entry.states()?;
            let k = layout.count;
            if entry.fortran {
                let whole =
                    entry.array()?.0.into_shape_with_order((k, n, d)).expect("as many numbers");
                for (k, x) in whole.outer_iter().enumerate() {
                    if !f(k, x.to_owned())? {
                        break;
                    }
                }
                return Ok(layout);
            }
            entry.fits_memory(&[n, d])?;
            for k in 0..k {
                let x =
                    Array2::from_shape_vec((n, d), entry.values(n * d)?).expect("as many numbers");
                if !f(k, x)? {
                    return Ok(layout);
                }
            }
            entry.end()?;
            Ok(layout)
        })
    }

    /// All states of an array together.
    ///
    /// # Errors
    /// As [`Archive::each_state`]; more of them than there is memory for.
    pub fn states(&mut self, name: &str) -> Result<Vec<Array2<f64>>> {
        self.entry(name, |entry| entry.fits_memory(&entry.shape))?;
        let mut states = Vec::new();
        self.each_state(name, |_, x| {
            states.push(x);
            Ok(true)
        })?;
        Ok(states)
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
        source
            .take(LONGEST)
            .read_to_end(&mut content)
            .map_err(|e| broken_archive(path, format!("array '{name}': {e}")))?;
        let mut data = content.as_slice();
        let Ok((header, _)) = header(&mut data) else { return Ok(None) };
        let Ok((descr, _, shape)) = parse_header(&header) else { return Ok(None) };
        if !descr.get(1..).is_some_and(|d| d.starts_with('U')) {
            return Ok(None);
        }
        if shape.iter().any(|n| *n != 1) {
            let problem = format!("array '{name}' has shape {shape:?}, wanted (), one text");
            return Err(Error::file(path, problem, "store one text"));
        }
        // Four bytes a character, zeros after the last.
        let word: fn([u8; 4]) -> u32 =
            if descr.starts_with('>') { u32::from_be_bytes } else { u32::from_le_bytes };
        let letters = data
            .chunks_exact(4)
            .filter_map(|c| char::from_u32(word(c.try_into().expect("four bytes"))));
        Ok(Some(letters.filter(|c| *c != '\0').collect()))
    }

    /// What `read` makes of an array; `None` where there is none of this name.
    fn entry<T>(
        &mut self,
        name: &str,
        read: impl FnOnce(&mut Entry) -> Result<T>,
    ) -> Result<Option<T>> {
        let path = self.path;
        let Some((mut source, unpacked)) = self.source(name)? else { return Ok(None) };
        let mut entry = Entry::begin(path, name, &mut source, unpacked)?;
        read(&mut entry).map(Some)
    }

    /// The bytes of an entry, and how many the archive says there are.
    fn source(&mut self, name: &str) -> Result<Option<(ZipFile<'_, R>, u64)>> {
        let Some(index) = self.zip.file_names().position(|n| n.trim_end_matches(".npy") == name)
        else {
            return Ok(None);
        };
        let path = self.path;
        let file = self
            .zip
            .by_index(index)
            .map_err(|e| broken_archive(path, format!("array '{name}' cannot be opened: {e}")))?;
        let (unpacked, packed) = (file.size(), file.compressed_size());
        if is_bomb(unpacked, packed) {
            let [unpacked, packed] = [unpacked, packed].map(|n| room::words(n as f64));
            let problem = format!(
                "array '{name}' unpacks from {packed} to {unpacked}, allowed: {} times as much",
                UNPACKED.1
            );
            return Err(Error::file(
                path,
                problem,
                "if it is meant, save it with numpy.savez, which does not pack",
            ));
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
/// A file that is missing, truncated, too long, of another format or of another element type, NaN
/// and infinities.
pub fn read(path: impl AsRef<Path>) -> Result<ArrayD<f64>> {
    let path = path.as_ref();
    let (file, length) = open(path, "check the path and its permissions")?;
    let mut source = BufReader::new(file);
    Ok(finite(path, Entry::begin(path, "", &mut source, length)?.array()?)?.0)
}

/// One `.npy` in memory, and what its numbers were stored as; `path` names it in messages.
///
/// # Errors
/// As [`read`].
pub fn decode(path: &Path, bytes: &[u8]) -> Result<(ArrayD<f64>, Kind)> {
    let mut source = bytes;
    finite(path, Entry::begin(path, "", &mut source, bytes.len() as u64)?.array()?)
}

/// The first bytes of a file, for messages.
pub fn opening(bytes: &[u8]) -> String {
    match bytes.len() {
        0 => "nothing (it is empty)".into(),
        _ => format!("bytes {:02x?}", &bytes[..bytes.len().min(4)]),
    }
}

fn finite(path: &Path, (array, kind): (ArrayD<f64>, Kind)) -> Result<(ArrayD<f64>, Kind)> {
    match array.iter().enumerate().find(|(_, v)| !v.is_finite()) {
        None => Ok((array, kind)),
        Some((i, v)) => Err(Error::file(
            path,
            format!("element {i} is {v}, wanted finite numbers"),
            "remove or replace it before saving",
        )),
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
        let entry =
            Self { path, name, source, shape, fortran, element, data: length.saturating_sub(read) };
        let numbers = room::product("array", &entry.shape).ok();
        // A shape such as (0, 2^63) holds nothing and still overflows.
        let indices =
            room::product("array", &entry.shape.iter().map(|&n| n.max(1)).collect::<Vec<_>>()).ok();
        if numbers.and(indices).and(numbers).map(|n| n as u64 * entry.element.size as u64)
            != Some(entry.data)
        {
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

    /// How it holds states, and the shape (n, d) of one.
    fn states(&self) -> Result<(Layout, usize, usize)> {
        let (count, n, d) = match self.shape[..] {
            [k, n, d] => (k, n, d),
            [n, d] => (1, n, d),
            _ => return Err(self.broken(format!("shape {:?}, wanted 2 or 3 axes", self.shape))),
        };
        let (several, single) = (self.shape.len() == 3, self.kind() == Kind::Singles);
        Ok((Layout { count, several, single }, n, d))
    }

    /// That there is memory in f64 for what has this shape.
    fn fits_memory(&self, shape: &[usize]) -> Result<()> {
        let numbers = shape.iter().product::<usize>() as f64;
        room::holds(
            format!("{}: shape {shape:?} in f64", self.path.display()),
            8.0 * numbers,
            "pass fewer of them",
        )
    }

    /// The next `n` numbers.
    fn values(&mut self, n: usize) -> Result<Vec<f64>> {
        let mut values = Vec::new();
        values.try_reserve_exact(n).map_err(|e| self.broken(e.to_string()))?;
        let (mut buffer, size) = ([0; 1 << 15], self.element.size);
        while values.len() < n {
            let piece = &mut buffer[..(n - values.len()).min((1 << 15) / size) * size];
            self.source.read_exact(piece).map_err(|e| {
                broken_array(self.path, self.name, format!("cannot be unpacked: {e}"))
            })?;
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
        self.fits_memory(&self.shape)?;
        let values = self.values(self.shape.iter().product())?;
        self.end()?;
        let array = ArrayD::from_shape_vec(IxDyn(&self.shape).set_f(self.fortran), values)
            .expect("as many numbers as the shape has");
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
                let chunks = bytes
                    .chunks_exact(size_of::<$t>())
                    .map(|c| c.try_into().expect("exact chunks"));
                out.extend(chunks.map(|c| {
                    $to_f64(if self.big_endian {
                        <$t>::from_be_bytes(c)
                    } else {
                        <$t>::from_le_bytes(c)
                    })
                }));
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
        (&mut *source)
            .take(n)
            .read_to_end(&mut bytes)
            .map_err(|e| format!("cannot be read: {e}"))?;
        Ok(bytes)
    };
    let magic = next(6)?;
    if magic != b"\x93NUMPY" {
        return Err(format!(
            "begins with {}, a .npy file begins with 93 4e 55 4d 50 59",
            opening(&magic)
        ));
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
/// `{'descr': '<f8', 'fortran_order': False, 'shape': (3, 2), }`: the dictionary of three keys, in
/// any order, that numpy writes.
fn parse_header(text: &str) -> std::result::Result<(String, bool, Vec<usize>), String> {
    let unreadable = || "the header is not numpy's".to_string();
    // A plain array's header has two brackets: more are a structured type.
    if text.matches(['(', '[', '{']).count() > 2 {
        return Err("structured element types are not supported".into());
    }
    let mut rest = text
        .trim()
        .strip_prefix('{')
        .and_then(|t| t.strip_suffix('}'))
        .ok_or_else(unreadable)?
        .trim();
    let (mut descr, mut fortran, mut shape) = (None, None, None);
    while !rest.is_empty() {
        let (key, value) = quoted(rest).ok_or_else(unreadable)?;
        let value = value.trim_start().strip_prefix(':').ok_or_else(unreadable)?.trim_start();
        let known = match key {
            "descr" if descr.is_none() => quoted(value).map(|(d, after)| {
                descr = Some(d.to_owned());
                after
            }),
            "fortran_order" if fortran.is_none() => {
                let word = [("True", true), ("False", false)]
                    .into_iter()
                    .find(|(word, _)| value.starts_with(word));
                word.map(|(word, is)| {
                    fortran = Some(is);
                    &value[word.len()..]
                })
            }
            "shape" if shape.is_none() => {
                value.strip_prefix('(').and_then(|v| v.split_once(')')).and_then(|(list, after)| {
                    shape = Some(sizes(list)?);
                    Some(after)
                })
            }
            _ => None,
        };
        let after = known.ok_or_else(unreadable)?.trim_start();
        rest = match after.strip_prefix(',') {
            Some(next) => next.trim_start(),
            None if after.is_empty() => after,
            None => return Err(unreadable()),
        };
    }
    descr.zip(fortran).zip(shape).map(|((d, f), s)| (d, f, s)).ok_or_else(unreadable)
}

/// What stands between quotes at the beginning, and what follows.
fn quoted(text: &str) -> Option<(&str, &str)> {
    let quote = text.chars().next().filter(|c| matches!(c, '\'' | '"'))?;
    text[1..].split_once(quote)
}

/// The sizes of a tuple; Python 2 wrote some of them with an L behind.
fn sizes(list: &str) -> Option<Vec<usize>> {
    let list = list.trim();
    if list.is_empty() {
        return Some(vec![]);
    }
    let size = |text: &str| {
        let digits = text.trim().trim_end_matches('L');
        digits.bytes().all(|b| b.is_ascii_digit()).then(|| digits.parse().ok()).flatten()
    };
    // A tuple of one is `(3,)`.
    match list.strip_suffix(',') {
        Some(list) => list.split(',').map(size).collect(),
        None if list.contains(',') => list.split(',').map(size).collect(),
        None => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use ndarray::array;

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

    #[test]
    fn every_element_type_and_order_reads_back() {
        let read = |descr: &str, data: &[u8]| {
            decode(Path::new("x.npy"), &file(&header(descr, "False", "(2,)"), data)).unwrap()
        };
        let values = |descr: &str, data: &[u8]| read(descr, data).0.into_raw_vec_and_offset().0;
        assert_eq!(values("<f8", &[0.1f64, -2.5].map(f64::to_le_bytes).concat()), [0.1, -2.5]);
        assert_eq!(values(">f8", &[0.1f64, -2.5].map(f64::to_be_bytes).concat()), [0.1, -2.5]);
        assert_eq!(
            values("<f4", &[0.1f32, -2.5].map(f32::to_le_bytes).concat()),
            [f64::from(0.1f32), -2.5]
        );
        assert_eq!(values("<f2", &[0x3c00u16, 0xc100].map(u16::to_le_bytes).concat()), [1.0, -2.5]);
        assert_eq!(values(">i2", &[300i16, -2].map(i16::to_be_bytes).concat()), [300.0, -2.0]);
        assert_eq!(
            values("<i8", &[1i64 << 40, -2].map(i64::to_le_bytes).concat()),
            [(1i64 << 40) as f64, -2.0]
        );
        assert_eq!(values("|u1", &[0, 255]), [0.0, 255.0]);
        assert_eq!(
            ["|u1", "|i1", "<f2", "<f4", "<f8"].map(|descr| read(
                descr,
                &vec![0; 2 * usize::from(descr.as_bytes()[2] - b'0')]
            )
            .1),
            [Kind::Bytes, Kind::Integers, Kind::Singles, Kind::Singles, Kind::Doubles]
        );
    }

    #[test]
    fn what_is_written_reads_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x.npy");
        let x = array![[1.0, f64::MIN_POSITIVE], [-1e300, 0.1]].into_dyn();
        ndarray_npy::write_npy(&path, &x).unwrap();
        assert_eq!(read(&path).unwrap(), x);
        // A transposed view is written in C order.
        let t = x.t().to_owned();
        ndarray_npy::write_npy(&path, &t).unwrap();
        assert_eq!(read(&path).unwrap(), t);
    }
}
