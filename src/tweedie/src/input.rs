//! How a file is read: a regular file, of a length that there is room for.

use crate::error::{Error, Result};
use crate::room;
use serde::de::{Deserialize, Deserializer, Error as _, MapAccess, SeqAccess, Visitor};
use std::collections::HashSet;
use std::fs::File;
use std::io::Read;
use std::path::Path;

/// Longest text of settings (a recipe, a network's or a scheduler's config): the largest real ones,
/// tables of betas, have some 100 kB.
pub const SETTINGS: u64 = 16 << 20;

/// A regular file and its length.
///
/// A pipe or a device has no length to hold to the memory there is, and may have no end.
///
/// # Errors
/// A file that is missing, may not be read or is none; `mend` says what to do.
pub fn open(path: &Path, mend: &str) -> Result<(File, u64)> {
    let unreadable = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"), mend);
    // Asked before it is opened: to open a pipe waits for its other end.
    let kind = std::fs::metadata(path).map_err(unreadable)?;
    if kind.is_dir() {
        return Err(Error::file(path, "cannot be read: it is a folder", mend));
    }
    if !kind.is_file() {
        return Err(Error::file(
            path,
            "cannot be read: it is a pipe or a device, wanted a file",
            "save it as a file first",
        ));
    }
    let file = File::open(path).map_err(unreadable)?;
    Ok((file, kind.len()))
}

/// All bytes of a file.
///
/// # Errors
/// As [`open`]; more bytes than there is memory for.
pub fn read(path: &Path, mend: &str) -> Result<Vec<u8>> {
    let (file, length) = open(path, mend)?;
    room::holds(path.display(), length as f64, "pass a smaller file")?;
    let mut bytes = Vec::new();
    let unreadable = |e: std::io::Error| Error::file(path, format!("cannot be read: {e}"), mend);
    bytes
        .try_reserve_exact(length as usize)
        .map_err(|e| Error::file(path, e, "pass a smaller file"))?;
    // What grows while it is read is read no further.
    file.take(length).read_to_end(&mut bytes).map_err(unreadable)?;
    Ok(bytes)
}

/// The text of a file of settings.
///
/// # Errors
/// As [`open`]; more than [`SETTINGS`] bytes; bytes that are no UTF-8.
pub fn settings(path: &Path, mend: &str) -> Result<String> {
    let (_, length) = open(path, mend)?;
    if length > SETTINGS {
        let problem = format!("has {length} bytes, wanted settings of at most {SETTINGS}");
        return Err(Error::file(path, problem, mend));
    }
    text(path, mend)
}

/// The text of a file.
///
/// # Errors
/// As [`read`]; bytes that are no UTF-8.
pub fn text(path: &Path, mend: &str) -> Result<String> {
    String::from_utf8(read(path, mend)?)
        .map_err(|_| Error::file(path, "cannot be read: it is not text", mend))
}

/// Refuses JSON in which a key stands twice: of a plain value serde_json keeps the last.
///
/// # Errors
/// The key, or what is no JSON.
///
/// # Example
/// ```
/// use tweedie::input::unique_keys;
/// unique_keys(br#"{"a": {"b": 1}, "c": [{"b": 1}, {"b": 2}]}"#).unwrap();
/// let said = unique_keys(br#"{"a": [{"b": 1, "b": 1}]}"#).unwrap_err().to_string();
/// assert!(said.starts_with("duplicate key `b` at line 1"), "{said}");
/// ```
pub fn unique_keys(json: &[u8]) -> serde_json::Result<()> {
    serde_json::from_slice::<Unique>(json).map(|_| ())
}

/// Any JSON of unique keys.
struct Unique;

impl<'de> Deserialize<'de> for Unique {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> std::result::Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Unique;

            fn expecting(&self, f: &mut std::fmt::Formatter) -> std::fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> std::result::Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_bool<E>(self, _: bool) -> std::result::Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_i64<E>(self, _: i64) -> std::result::Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_u64<E>(self, _: u64) -> std::result::Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_f64<E>(self, _: f64) -> std::result::Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_str<E>(self, _: &str) -> std::result::Result<Unique, E> {
                Ok(Unique)
            }
            fn visit_seq<A: SeqAccess<'de>>(
                self,
                mut list: A,
            ) -> std::result::Result<Unique, A::Error> {
                while list.next_element::<Unique>()?.is_some() {}
                Ok(Unique)
            }
            fn visit_map<A: MapAccess<'de>>(
                self,
                mut map: A,
            ) -> std::result::Result<Unique, A::Error> {
                let mut seen = HashSet::new();
                while let Some(key) = map.next_key::<String>()? {
                    if seen.contains(&key) {
                        return Err(A::Error::custom(format_args!("duplicate key `{key}`")));
                    }
                    seen.insert(key);
                    map.next_value::<Unique>()?;
                }
                Ok(Unique)
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_files_are_read() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("x");
        std::fs::write(&path, "whole").unwrap();
        assert_eq!(
            (read(&path, "").unwrap(), settings(&path, "").unwrap()),
            (b"whole".to_vec(), "whole".to_owned())
        );
        std::fs::write(&path, [0xff]).unwrap();
        assert!(text(&path, "mend").unwrap_err().to_string().ends_with("it is not text; mend"));
        assert!(
            read(&dir.path().join("none"), "mend").unwrap_err().to_string().ends_with("; mend")
        );
        assert!(read(dir.path(), "mend").unwrap_err().to_string().contains("it is a folder"));
        File::create(&path).unwrap().set_len(SETTINGS + 1).unwrap();
        assert!(
            settings(&path, "mend")
                .unwrap_err()
                .to_string()
                .contains("wanted settings of at most 16777216; mend")
        );
        // Longer than any memory, and not a byte of it on the disk.
        if File::create(&path).unwrap().set_len(1 << 43).is_ok() {
            assert!(read(&path, "mend").unwrap_err().to_string().starts_with("memory for "));
        }
        #[cfg(unix)]
        for device in ["/dev/zero", "/dev/null"] {
            let got = read(Path::new(device), "mend").unwrap_err().to_string();
            assert!(got.contains("it is a pipe or a device, wanted a file"), "{got}");
        }
    }
}
