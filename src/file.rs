//! Files that are never seen half-written, and those that only save work.

pub mod input;

use crate::error::{Error, Result};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;

/// How the names of unfinished files begin.
const ASIDE: &str = ".tweedie-";

/// Removes what a process that was killed while writing left in a folder. Only for folders that nobody else writes to at the time.
pub fn sweep(folder: &Path) {
    // What can't be read or removed is in nobody's way.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(ASIDE) {
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// Writes a file aside and renames it, so that the name holds all of it or what it held before.
///
/// # Errors
/// A folder that is missing or may not be written, a full disk; what the name held is then still there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    // tempfile adds the name of its temporary file, which would only confuse.
    let cause = |e: &io::Error| e.to_string().split(" at path ").next().unwrap_or_default().to_owned();
    let refused = |e: io::Error| {
        Error::file(path, format!("cannot be written: {}", cause(&e)), "check that its folder exists, may be written and has room")
    };
    // A link is followed; a device or a pipe (/dev/stdout, /dev/null) is written, not replaced.
    let path = path.canonicalize().unwrap_or_else(|_| path.to_owned());
    if path.is_dir() {
        return Err(Error::file(&path, "is a folder", "name a file in it"));
    }
    if path.exists() && !path.is_file() {
        return std::fs::OpenOptions::new().write(true).open(&path).and_then(|mut f| f.write_all(bytes)).map_err(refused);
    }
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut builder = tempfile::Builder::new();
    builder.prefix(ASIDE);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the process's umask takes away from this.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(refused)?;
    file.write_all(bytes).map_err(refused)?;
    // Only then is the room for it certain, and only then may it take the old one's name.
    file.as_file().sync_all().map_err(refused)?;
    file.persist(&path).map_err(|e| refused(e.error))?;
    Ok(())
}

/// A folder of results that are computed again where they are missing: nothing in it is needed, and nothing about it is an error.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The user's: `tweedie` in `XDG_CACHE_HOME` or `~/.cache`; none where neither is known.
    pub fn of_user() -> Option<Self> {
        let env = |key| std::env::var_os(key).filter(|v| !v.is_empty()).map(PathBuf::from);
        let folder = env("XDG_CACHE_HOME").or_else(|| Some(env("HOME")?.join(".cache")))?;
        Some(Self::new(folder.join("tweedie")))
    }

    /// Where the result with this key is kept, a text of everything that it depends on.
    pub fn path(&self, key: &str, kind: &str) -> PathBuf {
        // Two keys of one hash share a place: the file begins with its key.
        let mut hasher = DefaultHasher::new();
        key.hash(&mut hasher);
        self.folder.join(format!("{:016x}.{kind}", hasher.finish()))
    }

    /// What was kept for this very key.
    pub fn get(&self, key: &str, kind: &str) -> Option<Vec<u8>> {
        let bytes = std::fs::read(self.path(key, kind)).ok()?;
        let (length, rest) = bytes.split_first_chunk::<8>()?;
        let (stored, result) = rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        (stored == key.as_bytes() && !result.is_empty()).then(|| result.to_vec())
    }

    /// Keeps a result, and of its kind the `newest` last ones.
    pub fn put(&self, key: &str, kind: &str, result: &[u8], newest: usize) {
        let _ = std::fs::create_dir_all(&self.folder);
        let whole = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), result].concat();
        let _ = write(&self.path(key, kind), &whole);
        self.prune(kind, newest);
    }

    /// Removes all of a kind, files or folders, but the newest.
    pub fn prune(&self, kind: &str, newest: usize) {
        let of_kind = std::fs::read_dir(&self.folder).into_iter().flatten().flatten().map(|entry| entry.path());
        let of_kind = of_kind.filter(|path| path.extension().is_some_and(|e| e == kind));
        let age = |path: &PathBuf| path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
        let mut old: Vec<(SystemTime, PathBuf)> = of_kind.map(|path| (age(&path), path)).collect();
        old.sort_by(|a, b| b.cmp(a));
        for (_, path) in old.into_iter().skip(newest) {
            let _ = if path.is_dir() { std::fs::remove_dir_all(path) } else { std::fs::remove_file(path) };
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cache_gives_back_what_is_whole_and_its_own() {
        let dir = tempfile::tempdir().unwrap();
        let cache = Cache::new(dir.path().join("deep/down"));
        assert_eq!(cache.get("key", "x"), None);
        cache.put("key", "x", b"result", 2);
        assert_eq!(cache.get("key", "x").unwrap(), b"result");
        assert_eq!((cache.get("key", "y"), cache.get("other", "x")), (None, None));

        // Of another key with the same hash, cut off, empty.
        let whole = std::fs::read(cache.path("key", "x")).unwrap();
        std::fs::write(cache.path("other", "x"), &whole).unwrap();
        assert_eq!(cache.get("other", "x"), None);
        for length in [0, 7, 9, whole.len() - 6] {
            std::fs::write(cache.path("key", "x"), &whole[..length]).unwrap();
            assert_eq!(cache.get("key", "x"), None, "{length}");
        }

        std::fs::create_dir(cache.path("a run", "y")).unwrap();
        for k in 0..4 {
            cache.put(&k.to_string(), "x", b"result", 2);
        }
        let files = std::fs::read_dir(dir.path().join("deep/down")).unwrap().count();
        assert_eq!((files, cache.get("3", "x").is_some()), (3, true));
        // Where nothing can be kept nothing happens.
        Cache::new("/dev/null/none").put("key", "x", b"result", 1);
    }

    #[test]
    fn a_file_is_replaced_whole_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.csv");
        for content in ["first", "second"] {
            write(&path, content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o600, 0o600);
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            write(&link, b"third").unwrap();
            assert!(link.is_symlink());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "third");
            // A device stays a device.
            write(Path::new("/dev/null"), b"x").unwrap();
            assert!(!Path::new("/dev/null").is_file());
        }
        std::fs::write(dir.path().join(".tweedie-a1b2c3"), "half").unwrap();
        sweep(dir.path());
        sweep(&dir.path().join("missing"));
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().all(|n| !n.to_string_lossy().starts_with(".tweedie")), "{names:?}");
    }

    #[test]
    fn what_cannot_be_written_leaves_what_was_there() {
        let dir = tempfile::tempdir().unwrap();
        let message = write(dir.path(), b"x").unwrap_err().to_string();
        assert!(message.contains("is a folder"), "{message}");
        let message = write(&dir.path().join("none/out"), b"x").unwrap_err().to_string();
        assert!(message.contains("cannot be written"), "{message}");
        #[cfg(target_os = "linux")]
        assert!(write(Path::new("/dev/full"), b"x").is_err());
    }
}
