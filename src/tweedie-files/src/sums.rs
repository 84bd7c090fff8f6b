//! SHA-256 of the files of a folder, in the format of `sha256sum`.

use sha2::{Digest, Sha256};
use std::fmt::Write;
use std::path::Path;
use tweedie::error::{Error, Result};

/// The names of all files in a folder and those in it, relative to it with `/` between, in order.
///
/// # Errors
/// What can't be read.
pub fn files(folder: &Path) -> std::io::Result<Vec<String>> {
    fn walk(folder: &Path, before: &str, out: &mut Vec<String>) -> std::io::Result<()> {
        for entry in std::fs::read_dir(folder)? {
            let entry = entry?;
            let name = format!("{before}{}", entry.file_name().to_string_lossy());
            // A link is a file of its own, wherever it leads.
            if entry.file_type()?.is_dir() {
                walk(&entry.path(), &format!("{name}/"), out)?
            } else {
                out.push(name)
            }
        }
        Ok(())
    }
    let mut out = vec![];
    walk(folder, "", &mut out)?;
    out.sort();
    Ok(out)
}

fn digest(bytes: &[u8]) -> String {
    Sha256::digest(bytes).iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

/// A line for each file in a folder: `sha256sum -c` in it finds the same.
///
/// # Errors
/// What can't be read.
pub fn of(folder: &Path) -> std::io::Result<String> {
    let line =
        |name: String| Ok(format!("{}  {name}\n", digest(&std::fs::read(folder.join(&name))?)));
    files(folder)?.into_iter().map(line).collect()
}

/// Holds the files in `folder` whose names begin with `within` to the sums that the file `sums`
/// lists.
///
/// # Errors
/// The first file that is missing, or not what it was; sums that can't be read.
pub fn verify(folder: &Path, sums: &Path, within: &str) -> Result<()> {
    let bad = |path: &Path, problem: String| {
        Err(Error::file(path, problem, "restore the folder, or use another checkpoint"))
    };
    let listed = match std::fs::read_to_string(sums) {
        Ok(text) => text,
        Err(e) => return bad(sums, format!("cannot be read: {e}")),
    };
    for line in listed.lines() {
        let Some((sum, name)) = line.split_once("  ").filter(|(sum, _)| sum.len() == 64) else {
            return bad(sums, "is no list of SHA-256 sums".into());
        };
        if !name.starts_with(within) {
            continue;
        }
        let path = folder.join(name);
        match std::fs::read(&path) {
            Err(e) => return bad(&path, format!("cannot be read: {e}")),
            Ok(bytes) if digest(&bytes) != sum => {
                return bad(
                    &path,
                    format!(
                        "has changed since it was written: its SHA-256 is not the one in {}",
                        sums.display()
                    ),
                );
            }
            Ok(_) => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_flipped_bit_and_every_missing_file_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let (root, sums) = (dir.path().join("root"), dir.path().join("SUMS"));
        std::fs::create_dir_all(root.join("deep")).unwrap();
        std::fs::write(root.join("a"), "abc").unwrap();
        std::fs::write(root.join("deep/b"), "").unwrap();
        assert_eq!(files(&root).unwrap(), ["a", "deep/b"]);
        let text = of(&root).unwrap();
        // FIPS 180-2's example, and the sum of nothing.
        assert_eq!(
            text,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad  a\n\
             e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855  deep/b\n"
        );
        std::fs::write(&sums, &text).unwrap();
        verify(&root, &sums, "").unwrap();
        for bit in 0..24 {
            let mut bytes = *b"abc";
            bytes[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(root.join("a"), bytes).unwrap();
            let message = verify(&root, &sums, "").unwrap_err().to_string();
            assert!(message.contains("root/a: has changed since it was written"), "{message}");
            verify(&root, &sums, "deep/").unwrap();
        }
        std::fs::write(root.join("a"), "abc").unwrap();
        std::fs::remove_file(root.join("deep/b")).unwrap();
        assert!(
            verify(&root, &sums, "").unwrap_err().to_string().contains("deep/b: cannot be read")
        );
        // A list that is cut off within a line, or something else.
        for text in [&text[..20], "x"] {
            std::fs::write(&sums, text).unwrap();
            assert!(
                verify(&root, &sums, "")
                    .unwrap_err()
                    .to_string()
                    .contains("is no list of SHA-256 sums")
            );
        }
    }
}
