//! Writing a folder of results so that nobody ever sees half of one.

use crate::error::{Error, Result};
use std::fs;
use std::path::{Path, PathBuf};
use tempfile::TempDir;

/// A folder being filled beside the one it will be moved into.
///
/// Files are written to a hidden folder on the same file system; [`Staging::publish`] renames each top-level entry into place.
/// Dropped before that, everything is removed.
pub struct Staging {
    target: PathBuf,
    aside: TempDir,
}

impl Staging {
    /// Starts filling `target`, which is made if it is missing.
    pub fn new(target: &Path) -> Result<Self> {
        fs::create_dir_all(target).map_err(|e| unwritable(target, e))?;
        let aside = tempfile::Builder::new().prefix(".unfinished-").tempdir_in(target).map_err(|e| unwritable(target, e))?;
        Ok(Self { target: target.to_path_buf(), aside })
    }

    /// Writes one file, named relative to the target.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        let path = self.aside.path().join(name);
        if let Some(folder) = path.parent() {
            fs::create_dir_all(folder).map_err(|e| unwritable(&self.target.join(name), e))?;
        }
        fs::write(&path, bytes).map_err(|e| unwritable(&self.target.join(name), e))
    }

    /// Moves everything into place; a folder of the same name is replaced whole, so no stale file stays in it.
    ///
    /// Folders move before files: `index.html`, which refers to them, comes last.
    pub fn publish(self) -> Result<()> {
        let read = fs::read_dir(self.aside.path()).and_then(|d| d.collect::<std::io::Result<Vec<_>>>());
        let mut entries: Vec<PathBuf> = read.map_err(|e| unwritable(&self.target, e))?.iter().map(fs::DirEntry::path).collect();
        entries.sort_by_key(|p| (p.is_file(), p.clone()));
        let replaced =
            tempfile::Builder::new().prefix(".replaced-").tempdir_in(&self.target).map_err(|e| unwritable(&self.target, e))?;
        for from in entries {
            let Some(name) = from.file_name() else { continue };
            let to = self.target.join(name);
            if to.is_dir() {
                fs::rename(&to, replaced.path().join(name)).map_err(|e| unwritable(&to, e))?;
            }
            fs::rename(&from, &to).map_err(|e| unwritable(&to, e))?;
        }
        Ok(())
    }
}

fn unwritable(path: &Path, problem: std::io::Error) -> Error {
    Error::file(path, format!("can't be written: {problem}"), "choose a folder that can be written with --out")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(folder: &Path) -> Vec<String> {
        let mut names: Vec<_> = fs::read_dir(folder).unwrap().map(|e| e.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    #[test]
    fn nothing_is_seen_before_it_is_published_and_nothing_stale_after() {
        let target = tempfile::tempdir().unwrap();
        fs::create_dir(target.path().join("x")).unwrap();
        fs::write(target.path().join("x/stale.svg"), "old").unwrap();
        fs::write(target.path().join("other.md"), "kept").unwrap();

        let abandoned = Staging::new(target.path()).unwrap();
        abandoned.write("x/new.svg", "new").unwrap();
        drop(abandoned);
        assert_eq!(names(target.path()), ["other.md", "x"]);
        assert_eq!(names(&target.path().join("x")), ["stale.svg"]);

        let staging = Staging::new(target.path()).unwrap();
        staging.write("x/new.svg", "new").unwrap();
        staging.write("index.html", "page").unwrap();
        staging.publish().unwrap();
        assert_eq!(names(target.path()), ["index.html", "other.md", "x"]);
        assert_eq!(names(&target.path().join("x")), ["new.svg"]);
    }

    #[test]
    fn a_folder_that_is_a_file_is_refused() {
        let target = tempfile::NamedTempFile::new().unwrap();
        let message = Staging::new(target.path()).err().unwrap().to_string();
        assert!(message.contains("can't be written") && message.contains("--out"), "{message}");
    }
}
