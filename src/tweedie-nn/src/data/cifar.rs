//! CIFAR-10 in its binary version.

use super::{Dataset, name_of, read};
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};

/// One label, then 1,024 red, 1,024 green and 1,024 blue bytes.
const RECORD: usize = 1 + 3 * 32 * 32;

/// One file of records: 32x32 pictures in colour with their class 0..=9.
///
/// # Errors
/// A size that is no multiple of a record, a label beyond 9.
///
/// # Source
/// A. Krizhevsky, "Learning Multiple Layers of Features from Tiny Images" (2009), binary version.
pub fn dataset(path: &Path, bytes: &[u8]) -> Result<Dataset> {
    let mut pixels = Vec::with_capacity(bytes.len());
    let mut labels = Vec::new();
    append(path, bytes, &mut pixels, &mut labels)?;
    Ok(Dataset::from_bytes(
        &name_of(path),
        &pixels,
        (3, 32, 32),
        Some(labels),
        path.display().to_string(),
    ))
}

/// The training part of a folder: `data_batch_1.bin` to `data_batch_5.bin`, as many as are there.
///
/// # Errors
/// As [`dataset`].
pub fn folder(path: &Path) -> Result<Dataset> {
    let (mut pixels, mut labels) = (Vec::new(), Vec::new());
    for file in batches(path) {
        append(&file, &read(&file)?, &mut pixels, &mut labels)?;
    }
    Ok(Dataset::from_bytes(
        &name_of(path),
        &pixels,
        (3, 32, 32),
        Some(labels),
        path.display().to_string(),
    ))
}

/// Whether a folder holds CIFAR-10's training files.
pub(super) fn is_folder(path: &Path) -> bool {
    batches(path).next().is_some()
}

fn batches(folder: &Path) -> impl Iterator<Item = PathBuf> {
    let folder = folder.to_owned();
    (1..=5).map(move |k| folder.join(format!("data_batch_{k}.bin"))).filter(|p| p.is_file())
}

fn append(path: &Path, bytes: &[u8], pixels: &mut Vec<u8>, labels: &mut Vec<u32>) -> Result<()> {
    if bytes.is_empty() || !bytes.len().is_multiple_of(RECORD) {
        let problem = format!(
            "{} bytes, wanted a multiple of {RECORD}: a label and 32x32x3 bytes a picture",
            bytes.len()
        );
        return Err(Error::file(path, problem, "pass CIFAR-10's binary version, whole"));
    }
    for (i, record) in bytes.chunks_exact(RECORD).enumerate() {
        if record[0] > 9 {
            let problem = format!("record {i} has label {}, wanted 0 to 9", record[0]);
            return Err(Error::file(
                path,
                problem,
                "pass CIFAR-10's binary version (CIFAR-100 has two labels a picture)",
            ));
        }
        labels.push(record[0].into());
        pixels.extend(&record[1..]);
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Two records whose channels are constant.
    fn file() -> Vec<u8> {
        let record = |label: u8, rgb: [u8; 3]| {
            [vec![label], rgb.iter().flat_map(|&v| vec![v; 1024]).collect()].concat()
        };
        [record(3, [0, 51, 255]), record(9, [102, 153, 204])].concat()
    }

    #[test]
    fn records_read_back() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("data_batch_2.bin");
        std::fs::write(&path, file()).unwrap();
        std::fs::write(dir.path().join("data_batch_4.bin"), &file()[..RECORD]).unwrap();
        let data = crate::data::load(path.to_str().unwrap()).unwrap();
        assert_eq!(
            (data.images.dim(), data.shape, data.labels.unwrap()),
            ((2, 3072), (3, 32, 32), vec![3, 9])
        );
        assert_eq!(
            (data.images[[0, 0]], data.images[[0, 1023]], data.images[[0, 2048]]),
            (-1.0, -1.0, 1.0)
        );
        let all = crate::data::load(dir.path().to_str().unwrap()).unwrap();
        assert_eq!(all.labels.unwrap(), [3, 9, 3]);
    }

    #[test]
    fn every_prefix_but_a_whole_record_is_an_error() {
        let bytes = file();
        for n in (0..bytes.len()).filter(|&n| n != RECORD) {
            assert!(dataset(Path::new("x.bin"), &bytes[..n]).is_err(), "{n}");
        }
        let got = dataset(Path::new("x.bin"), &bytes[..7]).unwrap_err().to_string();
        assert_eq!(
            got,
            "x.bin: 7 bytes, wanted a multiple of 3073: a label and 32x32x3 bytes a picture; pass CIFAR-10's binary version, whole"
        );
    }

    #[test]
    fn labels_beyond_nine_are_refused() {
        let mut bytes = file();
        bytes[RECORD] = 10;
        let got = dataset(Path::new("x.bin"), &bytes).unwrap_err().to_string();
        assert_eq!(
            got,
            "x.bin: record 1 has label 10, wanted 0 to 9; pass CIFAR-10's binary version (CIFAR-100 has two labels a picture)"
        );
    }
}
