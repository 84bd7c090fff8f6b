//! Writing a folder of results so that nobody ever sees half of one.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use tempfile::TempDir;

/// A folder being filled beside the one it will be moved into.
///
/// Files are written to a hidden folder on the same file system; [`Staging::publish`] renames each top-level entry into place.
/// Dropped before that, everything is removed. Ctrl-C waits until then.
pub struct Staging {
    target: PathBuf,
    aside: TempDir,
    _unbroken: Unbroken,
}

impl Staging {
    /// Starts filling `target`, which is made if it is missing.
    pub fn new(target: &Path) -> Result<Self> {
        fs::create_dir_all(target).map_err(|e| unwritable(target, e))?;
        sweep(target);
        let unbroken = Unbroken::new();
        let aside = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(target).map_err(|e| unwritable(target, e))?;
        Ok(Self { target: target.to_path_buf(), aside, _unbroken: unbroken })
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
            tempfile::Builder::new().prefix(REPLACED).tempdir_in(&self.target).map_err(|e| unwritable(&self.target, e))?;
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

/// How the names of folders begin that are not there to stay.
const UNFINISHED: &str = ".unfinished-";
const REPLACED: &str = ".replaced-";

/// Removes what processes that were killed have left, told from those at work by its age.
fn sweep(target: &Path) {
    const HOUR: Duration = Duration::from_secs(3600);
    for entry in fs::read_dir(target).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        if (name.starts_with(UNFINISHED) || name.starts_with(REPLACED)) && age.is_some_and(|age| age > HOUR) {
            let _ = fs::remove_dir_all(entry.path());
        }
    }
}

/// While it lives, requests to end the process are noted; they are obeyed when it is dropped.
struct Unbroken(&'static [Request; 2]);

/// A signal that ends the process.
struct Request {
    signal: i32,
    /// Whether it does so when it comes.
    at_once: Arc<AtomicBool>,
    noted: Arc<AtomicBool>,
}

impl Unbroken {
    fn new() -> Self {
        // Registered for good: without any action left a signal would not end the process, but be ignored.
        static REQUESTS: OnceLock<[Request; 2]> = OnceLock::new();
        let registered = |signal| {
            let request = Request { signal, at_once: Arc::default(), noted: Arc::default() };
            // Where signals can't be noted they end the process as ever.
            let _ = flag::register(signal, request.noted.clone());
            let _ = flag::register_conditional_default(signal, request.at_once.clone());
            request
        };
        let requests = REQUESTS.get_or_init(|| [SIGINT, SIGTERM].map(registered));
        requests.iter().for_each(|r| r.at_once.store(false, Ordering::Relaxed));
        Self(requests)
    }
}

impl Drop for Unbroken {
    fn drop(&mut self) {
        for request in self.0 {
            request.at_once.store(true, Ordering::Relaxed);
            if request.noted.load(Ordering::Relaxed) {
                let _ = signal_hook::low_level::emulate_default_handler(request.signal);
            }
        }
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
