//! A folder that one process at a time writes to.

use std::fs::{File, TryLockError};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result};

/// The file in a folder that is locked for it. The system lets go of a lock whenever its process
/// ends, so none is ever stale.
const NAME: &str = ".tweedie.lock";

/// A folder held by this process, until it is dropped.
#[derive(Debug)]
pub struct Lock {
    path: PathBuf,
    file: Option<File>,
    unsure: Option<String>,
}

impl Lock {
    /// Takes a folder, which is there.
    ///
    /// # Errors
    /// One that another process holds, by its number and machine; one that can't be written.
    pub fn take(folder: &Path) -> Result<Self> {
        Self::locked(folder, |file| match file.try_lock() {
            Ok(()) => Ok(()),
            Err(TryLockError::WouldBlock) => Err(None),
            Err(TryLockError::Error(e)) => Err(Some(e)),
        })
    }

    /// [`Self::take`] as soon as nobody else holds it.
    ///
    /// # Errors
    /// A folder that can't be written.
    pub fn wait(folder: &Path) -> Result<Self> {
        Self::locked(folder, |file| file.lock().map_err(Some))
    }

    /// Why nobody knows whether another process writes to the folder too: some network drives have
    /// no locks.
    pub fn unsure(&self) -> Option<&str> {
        self.unsure.as_deref()
    }

    fn locked(
        folder: &Path,
        lock: impl Fn(&File) -> std::result::Result<(), Option<io::Error>>,
    ) -> Result<Self> {
        let path = folder.join(NAME);
        loop {
            let opened =
                File::options().read(true).write(true).create(true).truncate(false).open(&path);
            let mut file = opened.map_err(|e| {
                Error::file(
                    folder,
                    format!("cannot be written: {e}"),
                    "choose a folder that may be written and has room",
                )
            })?;
            match lock(&file) {
                Ok(()) if is_at(&file, &path) => {
                    // For whoever wants it: the lock itself does without.
                    let _ = file.set_len(0).and_then(|()| {
                        write!(file, "process {} on {}", std::process::id(), host())
                    });
                    return Ok(Self { path, file: Some(file), unsure: None });
                }
                // Its holder has let go of it, and removed it, since it was opened.
                Ok(()) => {}
                Err(None) => {
                    let mut holder = String::new();
                    let _ = file.read_to_string(&mut holder);
                    let holder = if holder.is_empty() { "another process" } else { &holder };
                    return Err(Error::file(
                        folder,
                        format!("is being written by {holder}"),
                        "wait until it has ended, or choose another folder",
                    ));
                }
                Err(Some(e)) => {
                    let unsure = format!(
                        "{} can't be locked ({e}): let no other process write there",
                        folder.display()
                    );
                    return Ok(Self { path, file: Some(file), unsure: Some(unsure) });
                }
            }
        }
    }
}

impl Drop for Lock {
    fn drop(&mut self) {
        // While it is still held: whoever has opened it meanwhile finds that it is gone, and opens
        // another.
        let _ = std::fs::remove_file(&self.path);
        self.file.take();
    }
}

/// Whether an open file is the one of this name.
#[cfg(unix)]
fn is_at(file: &File, path: &Path) -> bool {
    use std::os::unix::fs::MetadataExt;
    let same =
        |a: std::fs::Metadata, b: std::fs::Metadata| (a.dev(), a.ino()) == (b.dev(), b.ino());
    file.metadata().ok().zip(path.metadata().ok()).is_some_and(|(a, b)| same(a, b))
}

#[cfg(not(unix))]
fn is_at(_: &File, path: &Path) -> bool {
    path.exists()
}

fn host() -> String {
    let named = std::fs::read_to_string("/proc/sys/kernel/hostname").ok();
    let named =
        named.or_else(|| std::env::var("HOSTNAME").or_else(|_| std::env::var("COMPUTERNAME")).ok());
    named.map_or("this machine".into(), |name| name.trim().to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_has_one_holder_who_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let lock = Lock::take(dir.path()).unwrap();
        assert!(lock.unsure().is_none());
        let message = Lock::take(dir.path()).unwrap_err().to_string();
        let holder =
            format!("is being written by process {} on {}; wait", std::process::id(), host());
        assert!(message.contains(&holder), "{message}");
        drop(lock);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        // What a killed process has left holds nobody.
        std::fs::write(dir.path().join(NAME), "process 1 on elsewhere").unwrap();
        drop(Lock::take(dir.path()).unwrap());
        assert!(Lock::take(&dir.path().join("none")).is_err());
    }

    #[test]
    fn never_are_two_inside() {
        use std::sync::atomic::{AtomicUsize, Ordering};
        let dir = tempfile::tempdir().unwrap();
        let (inside, entered) = (AtomicUsize::new(0), AtomicUsize::new(0));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| {
                    for _ in 0..50 {
                        let lock = Lock::wait(dir.path()).unwrap();
                        assert_eq!(inside.fetch_add(1, Ordering::SeqCst), 0);
                        entered.fetch_add(1, Ordering::SeqCst);
                        inside.fetch_sub(1, Ordering::SeqCst);
                        drop(lock);
                    }
                });
            }
        });
        assert_eq!(entered.into_inner(), 200);
    }

    #[test]
    fn a_drive_without_locks_is_told() {
        let dir = tempfile::tempdir().unwrap();
        let none = || Err(Some(io::Error::from(io::ErrorKind::Unsupported)));
        let lock = Lock::locked(dir.path(), |_| none()).unwrap();
        assert!(
            lock.unsure()
                .unwrap()
                .contains("can't be locked (unsupported): let no other process write there")
        );
    }
}
