//! Writing a folder of results so that nobody ever sees half of one.

use crate::error::{Error, Result};
use signal_hook::consts::{SIGINT, SIGTERM};
use signal_hook::flag;
use std::fs;
use std::path::{Component, Path, PathBuf};
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
    /// Held for as long as the folder is in use, which tells it from what a process that was killed has left.
    _lock: Option<fs::File>,
    unbroken: Unbroken,
}

impl Staging {
    /// Starts filling `target`, which is made if it is missing.
    pub fn new(target: &Path) -> Result<Self> {
        fs::create_dir_all(target).map_err(|e| unwritable(target, e))?;
        sweep(target);
        let unbroken = Unbroken::new();
        let aside = tempfile::Builder::new().prefix(UNFINISHED).tempdir_in(target).map_err(|e| unwritable(target, e))?;
        Ok(Self { target: target.to_path_buf(), _lock: locked(aside.path()), aside, unbroken })
    }

    /// Writes one file, named relative to the target.
    ///
    /// # Errors
    /// A name that is absolute, empty, or leads elsewhere; a folder that can't be written; a request to end the process, which is obeyed when this is dropped.
    pub fn write(&self, name: &str, bytes: impl AsRef<[u8]>) -> Result<()> {
        if self.unbroken.asked() {
            return Err(Error::file(&self.target, "was not written: the process was asked to end", "run it again"));
        }
        let normal = |part: &str| matches!(Path::new(part).components().collect::<Vec<_>>()[..], [Component::Normal(_)]);
        if !name.split('/').all(|part| normal(part) && !part.contains(['\\', '\0'])) {
            let allowed = "names of folders and a file, with / between them";
            return Err(Error::domain("file of a report", format!("{name:?}"), allowed, "report this as a bug"));
        }
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
        let _lock = locked(replaced.path());
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

/// The lock of a folder, where no other process has it, and where folders can be locked.
fn locked(folder: &Path) -> Option<fs::File> {
    fs::File::open(folder).ok().filter(|file| file.try_lock().is_ok())
}

/// Removes what processes that were killed have left: what nobody has locked, and on a file system without locks what is old.
fn sweep(target: &Path) {
    const HOUR: Duration = Duration::from_secs(3600);
    // A folder is locked right after it was made.
    const MOMENT: Duration = Duration::from_secs(5);
    for entry in fs::read_dir(target).into_iter().flatten().flatten() {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        let age = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| at.elapsed().ok());
        let left = |age: Duration| age > HOUR || age > MOMENT && locked(&entry.path()).is_some();
        if (name.starts_with(UNFINISHED) || name.starts_with(REPLACED)) && age.is_some_and(left) {
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

    /// Whether the process has been asked to end.
    fn asked(&self) -> bool {
        self.0.iter().any(|request| request.noted.load(Ordering::Relaxed))
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
    fn nothing_is_written_elsewhere() {
        let outer = tempfile::tempdir().unwrap();
        let staging = Staging::new(&outer.path().join("site")).unwrap();
        let absolute = outer.path().join("absolute").display().to_string();
        for name in ["", ".", "..", "../x", "a/../../x", "a/..", "/x", "a//x", "a/", "./x", "a/./x", "a\\..\\x", "a\0", &absolute] {
            let message = staging.write(name, "x").unwrap_err().to_string();
            assert!(message.contains("file of a report"), "{name}: {message}");
        }
        staging.write("a/..b/c", "x").unwrap();
        staging.publish().unwrap();
        assert_eq!((names(outer.path()), names(&outer.path().join("site"))), (vec!["site".to_string()], vec!["a".to_string()]));
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn what_a_killed_process_left_is_swept_and_what_another_fills_is_not() {
        let target = tempfile::tempdir().unwrap();
        let working = Staging::new(target.path()).unwrap();
        let left = target.path().join(".unfinished-left");
        fs::create_dir(&left).unwrap();
        let at = std::time::SystemTime::now() - Duration::from_secs(60);
        for folder in [&left, working.aside.path()] {
            fs::File::open(folder).unwrap().set_modified(at).unwrap();
        }
        sweep(target.path());
        assert!(!left.exists() && working.aside.path().exists());
    }

    #[test]
    fn a_folder_that_is_a_file_is_refused() {
        let target = tempfile::NamedTempFile::new().unwrap();
        let message = Staging::new(target.path()).err().unwrap().to_string();
        assert!(message.contains("can't be written") && message.contains("--out"), "{message}");
    }
}
