//! IDX, the format of MNIST and Fashion-MNIST, gzip or not.

use super::{Dataset, name_of, opening, read};
use std::cmp::Ordering;
use std::io::Read;
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};
use tweedie::npy::is_bomb;
use tweedie::room;

const MEND: &str = "download the file again, or pass another";

/// Images (n, h, w) of bytes; labels from the file beside it whose name has `labels-idx1` for
/// `images-idx3`, where there is one.
///
/// # Errors
/// Another magic number, sizes that the file does not have, a damaged gzip stream, as many labels
/// as images not.
pub fn dataset(path: &Path, bytes: &[u8]) -> Result<Dataset> {
    let (sizes, pixels) = decode(path, bytes)?;
    let [n, h, w] = sizes[..] else {
        let problem = format!(
            "holds an array of {} axes {sizes:?}, wanted images of 3 axes (n, h, w)",
            sizes.len()
        );
        return Err(Error::file(path, problem, "pass the file of images, not of labels"));
    };
    if n * h * w == 0 {
        return Err(Error::file(path, format!("shape {sizes:?} holds no image"), MEND));
    }
    room::holds(
        format!("{}: shape {sizes:?} in f64", path.display()),
        8.0 * pixels.len() as f64,
        "pass fewer images",
    )?;
    let labels = match labels_file(path) {
        Some(file) => Some(labels(&file, n)?),
        None => None,
    };
    Ok(Dataset::from_bytes(&name_of(path), &pixels, (1, h, w), labels, path.display().to_string()))
}

/// The training images of a folder that holds the files under their usual names.
pub(super) fn training_file(folder: &Path) -> Option<PathBuf> {
    ["train-images-idx3-ubyte", "train-images-idx3-ubyte.gz", "train-images.idx3-ubyte"]
        .map(|name| folder.join(name))
        .into_iter()
        .find(|p| p.is_file())
}

/// The labels that belong to a file of images.
fn labels_file(images: &Path) -> Option<PathBuf> {
    let name = images.file_name()?.to_str()?;
    let labels = name.replace("images", "labels").replace("idx3", "idx1");
    (labels != name).then(|| images.with_file_name(labels)).filter(|p| p.is_file())
}

fn labels(path: &Path, n: usize) -> Result<Vec<u32>> {
    let (sizes, values) = decode(path, &read(path)?)?;
    if sizes != [n] {
        return Err(Error::file(
            path,
            format!("holds an array of shape {sizes:?}, wanted {n} labels, one an image"),
            "put the labels of these images beside them",
        ));
    }
    Ok(values.into_iter().map(u32::from).collect())
}

/// The sizes and bytes of one IDX array.
fn decode(path: &Path, bytes: &[u8]) -> Result<(Vec<usize>, Vec<u8>)> {
    if bytes.starts_with(&[0x1f, 0x8b]) {
        array(path, flate2::read::MultiGzDecoder::new(bytes), Some(bytes.len() as u64))
    } else {
        array(path, bytes, None)
    }
}

/// From a stream, and the bytes that it was packed in if it was.
fn array(path: &Path, mut stream: impl Read, packed: Option<u64>) -> Result<(Vec<usize>, Vec<u8>)> {
    let broken = |problem: String| Error::file(path, problem, MEND);
    let ends = |e: std::io::Error| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => broken("ends inside the header".into()),
        _ => broken(format!("the gzip stream is damaged: {e}")),
    };
    let mut magic = [0; 4];
    stream.read_exact(&mut magic).map_err(ends)?;
    let [0, 0, 8, axes @ 1..=4] = magic else {
        return Err(broken(format!(
            "begins with {}, an IDX file of bytes begins with 00 00 08 and its number of axes (1 to 4)",
            opening(&magic)
        )));
    };
    let mut sizes = Vec::new();
    for _ in 0..axes {
        let mut size = [0; 4];
        stream.read_exact(&mut size).map_err(ends)?;
        sizes.push(u32::from_be_bytes(size) as usize);
    }
    let Some(promised) = sizes.iter().try_fold(1u64, |n, &s| n.checked_mul(s as u64)) else {
        return Err(broken(format!(
            "the header promises shape {sizes:?}, more than any file holds"
        )));
    };
    if let Some(packed) = packed.filter(|&packed| is_bomb(promised, packed)) {
        return Err(broken(format!(
            "the header promises shape {sizes:?}, {promised} bytes, and the file has {packed}"
        )));
    }
    // Grown as bytes arrive, never by the header's promise; one byte more shows what follows the
    // end.
    let mut data = Vec::new();
    stream.take(promised.saturating_add(1)).read_to_end(&mut data).map_err(|e| match e.kind() {
        std::io::ErrorKind::UnexpectedEof => broken("the gzip stream ends early".into()),
        _ => broken(format!("the gzip stream is damaged: {e}")),
    })?;
    match (data.len() as u64).cmp(&promised) {
        Ordering::Equal => Ok((sizes, data)),
        Ordering::Less => Err(broken(format!(
            "the header promises shape {sizes:?}, {promised} bytes, and only {} follow",
            data.len()
        ))),
        Ordering::Greater => Err(broken(format!(
            "the header promises shape {sizes:?}, {promised} bytes, and more follow"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::io::Write;

    fn idx(sizes: &[u32], data: &[u8]) -> Vec<u8> {
        let mut bytes = vec![0, 0, 8, sizes.len() as u8];
        bytes.extend(sizes.iter().flat_map(|s| s.to_be_bytes()));
        bytes.extend(data);
        bytes
    }

    fn gz(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::best());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn message(bytes: &[u8]) -> String {
        dataset(Path::new("t-images-idx3-ubyte"), bytes).unwrap_err().to_string()
    }

    #[test]
    fn images_and_labels_read_back_gzip_or_not() {
        let dir = tempfile::tempdir().unwrap();
        let (images, labels) = (idx(&[2, 1, 3], &[0, 51, 102, 153, 204, 255]), idx(&[2], &[7, 1]));
        for (suffix, pack) in [("", (|b| b.to_vec()) as fn(&[u8]) -> Vec<u8>), (".gz", gz)] {
            let path = dir.path().join(format!("train-images-idx3-ubyte{suffix}"));
            std::fs::write(&path, pack(&images)).unwrap();
            std::fs::write(
                dir.path().join(format!("train-labels-idx1-ubyte{suffix}")),
                pack(&labels),
            )
            .unwrap();
            let data = crate::data::load(path.to_str().unwrap()).unwrap();
            assert_eq!((data.shape, data.labels), ((1, 1, 3), Some(vec![7, 1])));
            let want = [-1.0, -0.6, -0.2, 0.2, 0.6, 1.0];
            assert!(
                data.images.iter().zip(want).all(|(got, want)| (got - want).abs() <= f64::EPSILON)
            );
        }
        // The folder means its training part.
        assert_eq!(crate::data::load(dir.path().to_str().unwrap()).unwrap().len(), 2);
        std::fs::write(dir.path().join("train-labels-idx1-ubyte"), idx(&[3], &[7, 1, 1])).unwrap();
        let got = crate::data::load(dir.path().to_str().unwrap()).unwrap_err().to_string();
        assert!(
            got.ends_with("holds an array of shape [3], wanted 2 labels, one an image; put the labels of these images beside them"),
            "{got}"
        );
    }

    #[test]
    fn bad_files_are_refused() {
        let again = "download the file again, or pass another";
        let name = "t-images-idx3-ubyte";
        for (bytes, want) in [
            (vec![0, 0], format!("{name}: ends inside the header; {again}")),
            (
                idx(&[1, 2], &[0; 2]),
                format!(
                    "{name}: holds an array of 2 axes [1, 2], wanted images of 3 axes (n, h, w); pass the file of images, not of labels"
                ),
            ),
            (
                vec![0, 0, 13, 3],
                format!(
                    "{name}: begins with bytes [00, 00, 0d, 03], an IDX file of bytes begins with 00 00 08 and its number of axes (1 to 4); {again}"
                ),
            ),
            (
                idx(&[1, 2, 2], &[0; 3]),
                format!(
                    "{name}: the header promises shape [1, 2, 2], 4 bytes, and only 3 follow; {again}"
                ),
            ),
            (
                idx(&[1, 2, 2], &[0; 5]),
                format!(
                    "{name}: the header promises shape [1, 2, 2], 4 bytes, and more follow; {again}"
                ),
            ),
            (idx(&[0, 2, 2], &[]), format!("{name}: shape [0, 2, 2] holds no image; {again}")),
            // 2^96 bytes promised: nothing is allocated for them.
            (
                idx(&[u32::MAX; 3], &[0; 5]),
                format!(
                    "{name}: the header promises shape [4294967295, 4294967295, 4294967295], more than any file holds; {again}"
                ),
            ),
            (
                idx(&[1 << 20, 1 << 20, 1], &[0; 5]),
                format!(
                    "{name}: the header promises shape [1048576, 1048576, 1], 1099511627776 bytes, and only 5 follow; {again}"
                ),
            ),
        ] {
            assert_eq!(message(&bytes), want);
        }
        // A stream cut inside its checksum still has all its bytes, and is refused.
        let whole = gz(&idx(&[1, 2, 2], &[0; 4]));
        assert!(message(&whole[..whole.len() - 2]).contains("the gzip stream ends early"));
        let mut wrong = whole.clone();
        let n = wrong.len();
        wrong[n - 6] ^= 1;
        assert!(message(&wrong).contains("the gzip stream is damaged"), "{}", message(&wrong));
    }

    #[test]
    fn every_prefix_is_an_error_and_none_panics() {
        let plain = idx(&[2, 2, 2], &[1, 2, 3, 4, 5, 6, 7, 8]);
        for bytes in [gz(&plain), plain] {
            for n in 0..bytes.len() {
                assert!(dataset(Path::new("x"), &bytes[..n]).is_err(), "{n} of {}", bytes.len());
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_never_panic(tail in prop::collection::vec(any::<u8>(), 0..64), zip in any::<bool>()) {
            let bytes = [&[0, 0, 8][..], &tail].concat();
            let _ = dataset(Path::new("x"), &if zip { gz(&bytes) } else { bytes });
        }

        /// A gzip stream carries a checksum: a changed byte is an error, or is one of the fields
        /// that mean nothing (time, system).
        #[test]
        fn a_changed_byte_never_changes_the_pixels(at in any::<prop::sample::Index>(), flip in 1u8..) {
            let pixels = [1, 2, 3, 4, 5, 6, 7, 8];
            let mut bytes = gz(&idx(&[2, 2, 2], &pixels));
            let i = at.index(bytes.len());
            bytes[i] ^= flip;
            if let Ok((_, got)) = decode(Path::new("x"), &bytes) {
                prop_assert_eq!(got, pixels);
            }
        }
    }
}
