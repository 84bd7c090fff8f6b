//! SHA-256 of the files of a folder, in the format of `sha256sum`.

use sha2::{Digest, Sha256};
use std::collections::BTreeSet;
use std::fmt::Write;
use std::path::{Component, Path};
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
/// The first file that is missing, not what it was or not listed; sums that can't be read, or name
/// what lies outside the folder.
pub fn verify(folder: &Path, sums: &Path, within: &str) -> Result<()> {
    let bad = |path: &Path, problem: String| {
        Err(Error::file(path, problem, "restore the folder, or use another checkpoint"))
    };
    let listed = match std::fs::read_to_string(sums) {
        Ok(text) => text,
        Err(e) => return bad(sums, format!("cannot be read: {e}")),
    };
    let lines = listed.lines().map(|line| line.split_once("  ").filter(|(sum, _)| sum.len() == 64));
    let Some(lines) = lines.collect::<Option<Vec<_>>>() else {
        return bad(sums, "is no list of SHA-256 sums".into());
    };
    // Nothing is read before all names are known to lie in the folder, and all its files to be
    // named: a list that was cut off would let damage pass.
    let inside =
        |name: &str| Path::new(name).components().all(|c| matches!(c, Component::Normal(_)));
    if let Some((_, name)) = lines.iter().find(|(_, name)| name.is_empty() || !inside(name)) {
        let problem = format!("names `{name}`, allowed: files of {}", folder.display());
        return bad(sums, problem);
    }
    let named: BTreeSet<&str> = lines.iter().map(|(_, name)| *name).collect();
    let there = match files(folder) {
        Ok(there) => there,
        Err(e) => return bad(folder, format!("cannot be read: {e}")),
    };
    let unnamed = there
        .iter()
        .filter(|name| name.starts_with(within) && folder.join(name) != sums)
        .find(|name| !named.contains(name.as_str()));
    if let Some(name) = unnamed {
        return bad(
            sums,
            format!(
                "does not name {name}, a file beside those that it names: it was cut off, or the file was added"
            ),
        );
    }
    for (sum, name) in lines.into_iter().filter(|(_, name)| name.starts_with(within)) {
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
        // A list that is cut off between lines, a file that was added, names that lead elsewhere.
        std::fs::write(root.join("deep/b"), "").unwrap();
        let (first, _) = text.split_at(text.find('\n').unwrap() + 1);
        for (listed, within) in [("", ""), ("", "deep/"), (first, ""), (first, "deep/")] {
            std::fs::write(&sums, listed).unwrap();
            let message = verify(&root, &sums, within).unwrap_err().to_string();
            assert!(message.contains("SUMS: does not name "), "{message}");
        }
        // Of what is not asked about nothing need be named.
        std::fs::write(&sums, &text[first.len()..]).unwrap();
        verify(&root, &sums, "deep/").unwrap();
        for name in ["/etc/passwd", "../../x", "deep/../../x", ""] {
            std::fs::write(&sums, format!("{text}{}  {name}\n", "0".repeat(64))).unwrap();
            let message = verify(&root, &sums, "").unwrap_err().to_string();
            assert!(message.contains(&format!("SUMS: names `{name}`, allowed: ")), "{message}");
        }
        std::fs::remove_file(root.join("deep/b")).unwrap();
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
