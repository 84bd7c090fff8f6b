//! Data sets as rows of numbers in [-1, 1]: three that travel inside the library, and readers for
//! the formats people have.
//!
//! One entry point, [`load`], takes the name of a data set or a path. Every reader treats its file
//! as hostile: no size is believed before the bytes are there, so a damaged file costs one clear
//! error and no memory.

pub mod cifar;
pub mod digits;
pub mod folder;
pub mod idx;
pub mod mnist;
pub mod numpy;
pub mod photographs;
pub mod picture;

use ndarray::Array2;
use std::path::Path;
use tweedie::error::{Error, Result, nearest};
use tweedie::npy::opening;

/// Images as rows, with what is known of them.
#[derive(Clone, Debug)]
pub struct Dataset {
    /// Short name: `digits`, or the file's name.
    pub name: String,
    /// Values in [-1, 1], shape (n, d) with d = c h w, a row in the order (c, h, w).
    pub images: Array2<f64>,
    /// Channels, height and width (c, h, w) of one image.
    pub shape: (usize, usize, usize),
    /// Class of each image, length n, where the source has one.
    pub labels: Option<Vec<u32>>,
    /// Origin and licence, or the path it was read from.
    pub source: String,
}

impl Dataset {
    /// Number of images n.
    pub fn len(&self) -> usize {
        self.images.nrows()
    }

    /// Whether there is no image.
    pub fn is_empty(&self) -> bool {
        self.images.nrows() == 0
    }

    /// Dimension d = c h w of one image.
    pub fn dim(&self) -> usize {
        self.images.ncols()
    }

    /// From bytes 0..=255 in the order (n, c, h, w); the length is the caller's promise.
    fn from_bytes(
        name: &str,
        bytes: &[u8],
        shape: (usize, usize, usize),
        labels: Option<Vec<u32>>,
        source: String,
    ) -> Self {
        let d = shape.0 * shape.1 * shape.2;
        let values = bytes.iter().map(|&v| from_byte(v)).collect();
        let images =
            Array2::from_shape_vec((bytes.len() / d, d), values).expect("bytes are whole images");
        Self { name: name.into(), images, shape, labels, source }
    }
}

/// A stored byte as a number in [-1, 1]: 0 is -1 and 255 is 1, exactly.
fn from_byte(v: u8) -> f64 {
    f64::from(v) / 127.5 - 1.0
}

/// What [`load`] takes, for messages and help.
pub const SPECS: &str = "digits, mnist, photographs[:HxW[:COUNT|grid[:grey|rgb]]], or the path of a .npy, .npz, IDX (gzip too) or CIFAR-10 .bin file, \
                         or of a folder (FOLDER:HxW resizes its pictures)";

/// The data set of a name or path.
///
/// | spec | what |
/// |---|---|
/// | `digits` | 1,797 digits of 8x8, embedded |
/// | `mnist` | 10,000 digits of 28x28, embedded |
/// | `photographs[:HxW[:COUNT\|grid[:grey\|rgb]]]` | patches of five photographs, embedded; `photographs` is `photographs:8x8:10000:grey`, drawn with seed 0 |
/// | a file | `.npy`, `.npz`, IDX (MNIST, Fashion-MNIST; gzip or not; labels from the file beside it), CIFAR-10 binary, told apart by content |
/// | a folder | PNG and JPEG pictures, `FOLDER:HxW` to crop and resize; or the files of CIFAR-10 or MNIST (their training part) |
///
/// # Errors
/// A name that is neither, a file that is damaged or of another kind, values outside what the
/// format allows: see each reader.
///
/// # Example
/// ```
/// let digits = tweedie_nn::data::load("digits").unwrap();
/// assert_eq!((digits.len(), digits.dim(), digits.shape), (1797, 64, (1, 8, 8)));
/// assert!(digits.images.iter().all(|x| (-1.0..=1.0).contains(x)));
/// ```
pub fn load(spec: &str) -> Result<Dataset> {
    let (head, rest) = spec.split_once(':').map_or((spec, None), |(head, rest)| (head, Some(rest)));
    match (head, rest) {
        ("digits", None) => return Ok(digits::load()),
        ("mnist", None) => return Ok(mnist::load()),
        ("photographs", rest) => return photographs::load(spec, rest),
        _ => {}
    }
    if Path::new(spec).exists() {
        return load_path(Path::new(spec), None);
    }
    if let Some((path, size)) = spec.rsplit_once(':')
        && Path::new(path).exists()
    {
        return load_path(Path::new(path), Some(parse_size(spec, size)?));
    }
    let mend = match nearest(head, ["digits", "mnist", "photographs"]) {
        Some(name) if name == head => format!("'{name}' takes no options: write '{name}'"),
        Some(name) => format!("did you mean '{name}'?"),
        None => "check the spelling of the name or the path".into(),
    };
    Err(Error::domain(
        "data set",
        format!("'{spec}', which is neither a name nor a file"),
        SPECS,
        mend,
    ))
}

fn load_path(path: &Path, size: Option<(usize, usize)>) -> Result<Dataset> {
    if path.is_dir() {
        return match (cifar::is_folder(path), idx::training_file(path)) {
            (true, _) => cifar::folder(path),
            (_, Some(file)) => idx::dataset(&file, &read(&file)?),
            _ => folder::load(path, size),
        };
    }
    if size.is_some() {
        return Err(Error::file(
            path,
            "a size after the path is for a folder of pictures, and this is a file",
            "leave the size out",
        ));
    }
    let bytes = read(path)?;
    match bytes.as_slice() {
        _ if path.extension().is_some_and(|e| e == "bin") => cifar::dataset(path, &bytes),
        [0x93, b'N', ..] => numpy::dataset(path, &bytes),
        [b'P', b'K', ..] => numpy::dataset_npz(path, &bytes),
        [0x1f, 0x8b, ..] | [0, 0, ..] => idx::dataset(path, &bytes),
        _ => Err(Error::file(
            path,
            format!("begins with {}, which is no format known here", opening(&bytes)),
            "pass a .npy, .npz, IDX (gzip too) or CIFAR-10 .bin file, or a folder of PNG or JPEG pictures",
        )),
    }
}

/// Height and width of `HxW`.
fn parse_size(spec: &str, size: &str) -> Result<(usize, usize)> {
    let parsed = size.split_once('x').and_then(|(h, w)| Some((h.parse().ok()?, w.parse().ok()?)));
    match parsed {
        Some((h @ 1..=65_535, w @ 1..=65_535)) => Ok((h, w)),
        _ => Err(Error::domain(
            format!("size in '{spec}'"),
            format!("'{size}'"),
            "HxW with both in 1..65535",
            "write for example 32x32",
        )),
    }
}

/// The name a data set takes from its path.
fn name_of(path: &Path) -> String {
    path.file_name().unwrap_or(path.as_os_str()).to_string_lossy().into_owned()
}

/// A whole file.
fn read(path: &Path) -> Result<Vec<u8>> {
    tweedie::input::read(path, "check the path and its permissions")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_span_the_range_exactly() {
        assert_eq!((from_byte(0), from_byte(255)), (-1.0, 1.0));
        // Mid-grey lies between 127 and 128.
        assert_eq!(from_byte(127), -from_byte(128));
    }

    #[test]
    fn a_name_mistyped_gets_a_suggestion() {
        let message = |spec: &str| load(spec).unwrap_err().to_string();
        assert!(message("digts").ends_with("did you mean 'digits'?"), "{}", message("digts"));
        assert!(message("photograph:8x8").ends_with("did you mean 'photographs'?"));
        assert!(message("digits:100").ends_with("'digits' takes no options: write 'digits'"));
        assert!(
            message("/no/such/file.npy").ends_with("check the spelling of the name or the path")
        );
        assert!(
            message("digts")
                .starts_with("data set: got 'digts', which is neither a name nor a file, allowed: digits, mnist, photographs")
        );
    }

    #[test]
    fn files_of_no_known_format_are_refused() {
        let dir = tempfile::tempdir().unwrap();
        for (content, says) in [
            (&b""[..], "nothing (it is empty)"),
            (b"x,y\n", "bytes [78, 2c, 79, 0a]"),
            (b"\x93", "bytes [93]"),
        ] {
            let path = dir.path().join("points.csv");
            std::fs::write(&path, content).unwrap();
            let message = load(path.to_str().unwrap()).unwrap_err().to_string();
            assert!(
                message.contains(says) && message.starts_with(path.to_str().unwrap()),
                "{message}"
            );
        }
    }
}
