//! Files that are never seen half-written, and those that only save work.

pub mod lock;
pub mod sums;

use sha2::{Digest, Sha256};
use std::fs::{File, Permissions};
use std::hash::{DefaultHasher, Hash, Hasher};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::SystemTime;
use tempfile::NamedTempFile;
use tweedie::error::{Error, Result};

/// How the names of unfinished files begin.
const ASIDE: &str = ".tweedie-";

/// Removes what a process that was killed while writing left in a folder. Only for folders that
/// nobody else writes to at the time.
pub fn sweep(folder: &Path) {
    // What can't be read or removed is in nobody's way.
    for entry in std::fs::read_dir(folder).into_iter().flatten().flatten() {
        if entry.file_name().to_string_lossy().starts_with(ASIDE) {
            let path = entry.path();
            let _ = if path.is_dir() {
                std::fs::remove_dir_all(path)
            } else {
                std::fs::remove_file(path)
            };
        }
    }
}

/// The name beside `path` under which something is made that is renamed to it, or under which it is
/// put before it is removed. [`sweep`] removes what is left there.
pub fn aside(path: &Path) -> PathBuf {
    path.with_file_name(format!(
        "{ASIDE}{}",
        path.file_name().unwrap_or_default().to_string_lossy()
    ))
}

/// Removes a folder under another name, so that a process that is killed at it leaves no part of it
/// in its place.
///
/// # Errors
/// A folder that can't be renamed or removed; one that is not there is none.
pub fn remove_folder(path: &Path) -> io::Result<()> {
    let gone = aside(path);
    for step in [
        std::fs::remove_dir_all(&gone),
        std::fs::rename(path, &gone),
        std::fs::remove_dir_all(&gone),
    ] {
        match step {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(e),
            _ => {}
        }
    }
    Ok(())
}

/// The file that a name stands for: links are followed, also one that leads to a file which is not
/// there yet.
pub fn resolved(path: &Path) -> PathBuf {
    let mut path = path.to_owned();
    // As many links as Linux follows.
    for _ in 0..40 {
        if let Ok(found) = path.canonicalize() {
            return found;
        }
        if path == Path::new(".") {
            // The folder that the process is in was removed.
            return path;
        }
        let folder =
            resolved(path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new(".")));
        match std::fs::read_link(&path) {
            Ok(to) => path = folder.join(to),
            Err(_) => return path.file_name().map_or(path.clone(), |name| folder.join(name)),
        }
    }
    path
}

/// Writes a file aside and gives it its name, so that the name holds all of it or what it held
/// before. Where the system can, the file has no name until then: a process that is stopped leaves
/// nothing.
///
/// The new file has the permissions of the one that it replaces. It is another file: other names of
/// the old one (hard links) keep what they held.
///
/// # Errors
/// A folder that is missing or may not be written, a full disk, a file that may not be written;
/// what the name held is then still there.
pub fn write(path: &Path, bytes: &[u8]) -> Result<()> {
    match Place::of(path)? {
        Place::Device(path) => {
            std::fs::OpenOptions::new().write(true).open(path).and_then(|mut f| f.write_all(bytes))
        }
        Place::File { path, old } => replace(&path, old, bytes),
    }
    // By the name that it was given, not the one that this stands for.
    .map_err(|e| refused(path, &e))
}

/// Refuses what [`write()`] would refuse but for want of room, and leaves nothing.
///
/// # Errors
/// As [`write()`].
pub fn ready(path: &Path) -> Result<()> {
    match Place::of(path)? {
        Place::Device(_) => Ok(()),
        Place::File { path: file, .. } => match nameless(folder_of(&file)) {
            Some(_) => Ok(()),
            None => aside_in(folder_of(&file), None).map(drop).map_err(|e| refused(path, &e)),
        },
    }
}

fn refused(path: &Path, e: &io::Error) -> Error {
    // tempfile adds the name of its temporary file, which would only confuse.
    let cause = e.to_string();
    Error::file(
        path,
        format!("cannot be written: {}", cause.split(" at path ").next().unwrap_or_default()),
        "check that its folder exists, may be written and has room",
    )
}

/// What a name to write to stands for.
enum Place {
    /// A device or a pipe, which is written, not replaced.
    Device(PathBuf),
    /// A file, with the permissions of the one that is there.
    File { path: PathBuf, old: Option<Permissions> },
}

impl Place {
    fn of(path: &Path) -> Result<Self> {
        // A device or a pipe (/dev/stdout, /dev/null) is opened by this name: a pipe's resolved one
        // is none that can be.
        if path.exists() && !path.is_file() && !path.is_dir() {
            return Ok(Self::Device(path.to_owned()));
        }
        let path = resolved(path);
        if path.is_dir() {
            return Err(Error::file(&path, "is a folder", "name a file in it"));
        }
        let old = std::fs::metadata(&path).ok().map(|m| m.permissions());
        if old.as_ref().is_some_and(|old| old.readonly() || !writable(&path)) {
            return Err(Error::file(
                &path,
                "is read-only",
                "name another file, or make this one writable",
            ));
        }
        Ok(Self::File { path, old })
    }
}

fn folder_of(path: &Path) -> &Path {
    path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn replace(path: &Path, old: Option<Permissions>, bytes: &[u8]) -> io::Result<()> {
    let fill = |file: &mut File| {
        if let Some(old) = &old {
            file.set_permissions(old.clone())?;
        }
        file.write_all(bytes)?;
        // Only then is the room for it certain, and only then may it take the old one's name.
        file.sync_all()
    };
    let folder = folder_of(path);
    if let Some(mut file) = nameless(folder) {
        fill(&mut file)?;
        if old.is_none() && named(&file, path).is_ok() {
            return Ok(());
        }
        // A name that is taken can only be renamed to: the new file has another one for a moment.
        let mut builder = tempfile::Builder::new();
        if let Ok(aside) = builder.prefix(ASIDE).make_in(folder, |aside| named(&file, aside)) {
            return aside.persist(path).map(drop).map_err(|e| e.error);
        }
    }
    let mut file = aside_in(folder, old.clone())?;
    fill(file.as_file_mut())?;
    file.persist(path).map(drop).map_err(|e| e.error)
}

/// A new file under a name of its own.
fn aside_in(folder: &Path, old: Option<Permissions>) -> io::Result<NamedTempFile> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(ASIDE);
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the process's umask takes away from this.
        builder.permissions(old.unwrap_or(Permissions::from_mode(0o666)));
    }
    #[cfg(not(unix))]
    let _ = old;
    builder.tempfile_in(folder)
}

/// A new file without a name, where the system and the folder's file system have such: it is gone
/// with the process.
#[cfg(target_os = "linux")]
fn nameless(folder: &Path) -> Option<File> {
    use rustix::fs::{Mode, OFlags};
    let flags = OFlags::TMPFILE | OFlags::WRONLY | OFlags::CLOEXEC;
    rustix::fs::open(folder, flags, Mode::from_raw_mode(0o666)).ok().map(File::from)
}

#[cfg(not(target_os = "linux"))]
fn nameless(_: &Path) -> Option<File> {
    None
}

/// Gives a [`nameless`] file a name that is free.
#[cfg(target_os = "linux")]
fn named(file: &File, path: &Path) -> io::Result<()> {
    use rustix::fs::{AtFlags, CWD, linkat};
    use std::os::fd::AsRawFd;
    let this = format!("/proc/self/fd/{}", file.as_raw_fd());
    Ok(linkat(CWD, this, CWD, path, AtFlags::SYMLINK_FOLLOW)?)
}

#[cfg(not(target_os = "linux"))]
fn named(_: &File, _: &Path) -> io::Result<()> {
    Err(io::ErrorKind::Unsupported.into())
}

/// Content behind its length and SHA-256, by which [`opened`] knows it.
pub fn sealed(content: &[u8]) -> Vec<u8> {
    [&(content.len() as u64).to_le_bytes(), Sha256::digest(content).as_slice(), content].concat()
}

/// The content of what [`sealed`] made; none of anything else, be it cut off or one bit of it
/// flipped.
pub fn opened(bytes: &[u8]) -> Option<&[u8]> {
    let (length, rest) = bytes.split_first_chunk::<8>()?;
    let (digest, content) = rest.split_first_chunk::<32>()?;
    let whole = u64::from_le_bytes(*length) == content.len() as u64
        && Sha256::digest(content).as_slice() == digest;
    whole.then_some(content)
}

/// SHA-256 of a folder: of the names and the content of all that is in it.
///
/// # Errors
/// What can't be read.
pub fn fingerprint(folder: &Path) -> io::Result<[u8; 32]> {
    let mut all = std::fs::read_dir(folder)?.collect::<io::Result<Vec<_>>>()?;
    all.sort_by_key(std::fs::DirEntry::file_name);
    let mut hasher = Sha256::new();
    for entry in all {
        let (name, path) = (entry.file_name(), entry.path());
        let digest: [u8; 32] = if path.is_dir() {
            fingerprint(&path)?
        } else {
            Sha256::digest(std::fs::read(&path)?).into()
        };
        // Everything of a fixed length: no two folders make one text.
        hasher.update([u8::from(path.is_dir())]);
        hasher.update(Sha256::digest(name.as_encoded_bytes()));
        hasher.update(digest);
    }
    Ok(hasher.finalize().into())
}

/// Whether this process may write an existing file.
fn writable(path: &Path) -> bool {
    let denied = [io::ErrorKind::PermissionDenied, io::ErrorKind::ReadOnlyFilesystem];
    std::fs::OpenOptions::new()
        .write(true)
        .open(path)
        .map_or_else(|e| !denied.contains(&e.kind()), |_| true)
}

/// A folder of results that are computed again where they are missing: nothing in it is needed, and
/// nothing about it is an error. What is not to the bit as it was put there is missing too.
#[derive(Clone, Debug)]
pub struct Cache {
    folder: PathBuf,
}

impl Cache {
    /// In this folder.
    pub fn new(folder: impl Into<PathBuf>) -> Self {
        Self { folder: folder.into() }
    }

    /// The user's: `tweedie` in `XDG_CACHE_HOME` or `~/.cache`; none where neither is known. A path
    /// that is not absolute is ignored, as the
    /// [specification](https://specifications.freedesktop.org/basedir-spec/latest/) asks: it would
    /// be another cache in every folder, and anyone's.
    pub fn of_user() -> Option<Self> {
        Self::told_by(|key| std::env::var_os(key))
    }

    fn told_by(variable: impl Fn(&str) -> Option<std::ffi::OsString>) -> Option<Self> {
        let env = |key| variable(key).map(PathBuf::from).filter(|path| path.is_absolute());
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
        let (length, rest) = opened(&bytes)?.split_first_chunk::<8>()?;
        let (stored, result) =
            rest.split_at_checked(usize::try_from(u64::from_le_bytes(*length)).ok()?)?;
        (stored == key.as_bytes() && !result.is_empty()).then(|| result.to_vec())
    }

    /// Keeps a result, and of its kind the `newest` last ones.
    pub fn put(&self, key: &str, kind: &str, result: &[u8], newest: usize) {
        let _ = std::fs::create_dir_all(&self.folder);
        let whole = [&(key.len() as u64).to_le_bytes()[..], key.as_bytes(), result].concat();
        let _ = write(&self.path(key, kind), &sealed(&whole));
        self.prune(kind, newest);
    }

    /// Removes a result that turned out to be of no use.
    pub fn forget(&self, key: &str, kind: &str) {
        let _ = std::fs::remove_file(self.path(key, kind));
    }

    /// Removes all of a kind, files or folders, but the newest.
    pub fn prune(&self, kind: &str, newest: usize) {
        let of_kind = std::fs::read_dir(&self.folder)
            .into_iter()
            .flatten()
            .flatten()
            .map(|entry| entry.path());
        let of_kind = of_kind.filter(|path| path.extension().is_some_and(|e| e == kind));
        let age = |path: &PathBuf| {
            path.metadata().and_then(|m| m.modified()).unwrap_or(SystemTime::UNIX_EPOCH)
        };
        let mut old: Vec<(SystemTime, PathBuf)> = of_kind.map(|path| (age(&path), path)).collect();
        old.sort_by(|a, b| b.cmp(a));
        for (_, path) in old.into_iter().skip(newest) {
            let _ = if path.is_dir() {
                std::fs::remove_dir_all(path)
            } else {
                std::fs::remove_file(path)
            };
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
        for length in 0..whole.len() {
            std::fs::write(cache.path("key", "x"), &whole[..length]).unwrap();
            assert_eq!(cache.get("key", "x"), None, "{length}");
        }
        // Any bit flipped; something after the end; garbage of the same length.
        for bit in 0..8 * whole.len() {
            let mut flipped = whole.clone();
            flipped[bit / 8] ^= 1 << (bit % 8);
            std::fs::write(cache.path("key", "x"), flipped).unwrap();
            assert_eq!(cache.get("key", "x"), None, "bit {bit}");
        }
        for garbage in [[&whole[..], b"x"].concat(), vec![0; whole.len()], vec![0xFF; whole.len()]]
        {
            std::fs::write(cache.path("key", "x"), garbage).unwrap();
            assert_eq!(cache.get("key", "x"), None);
        }
        std::fs::write(cache.path("key", "x"), &whole).unwrap();
        assert_eq!(cache.get("key", "x").unwrap(), b"result");
        cache.forget("key", "x");
        assert_eq!(cache.get("key", "x"), None);

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
    fn only_absolute_paths_are_the_users_cache() {
        let of = |set: &[(&str, &str)]| {
            let cache = Cache::told_by(|key| set.iter().find(|s| s.0 == key).map(|s| s.1.into()));
            cache.map(|cache| cache.folder.display().to_string())
        };
        let home = ("HOME", "/home/a");
        assert_eq!(of(&[home, ("XDG_CACHE_HOME", "/var/b")]).unwrap(), "/var/b/tweedie");
        for ignored in ["", "cache", "./cache", "../cache"] {
            assert_eq!(of(&[home, ("XDG_CACHE_HOME", ignored)]).unwrap(), "/home/a/.cache/tweedie");
        }
        assert_eq!(of(&[("HOME", "here"), ("XDG_CACHE_HOME", "there")]), None);
    }

    #[test]
    fn a_fingerprint_is_of_names_and_contents() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, content: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, content).unwrap();
        };
        put("a", "1");
        put("b/c", "2");
        let first = fingerprint(dir.path()).unwrap();
        assert_eq!(first, fingerprint(dir.path()).unwrap());
        put("b/c", "3");
        let second = fingerprint(dir.path()).unwrap();
        put("b/c", "2");
        put("b/d", "");
        let third = fingerprint(dir.path()).unwrap();
        std::fs::rename(dir.path().join("b/d"), dir.path().join("d")).unwrap();
        let fourth = fingerprint(dir.path()).unwrap();
        let all = std::collections::HashSet::from([first, second, third, fourth]);
        assert_eq!(all.len(), 4);
        assert!(fingerprint(&dir.path().join("none")).is_err());
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
        let names: Vec<_> =
            std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().all(|n| !n.to_string_lossy().starts_with(".tweedie")), "{names:?}");
    }

    #[test]
    #[cfg(unix)]
    fn a_replaced_file_keeps_its_permissions_and_a_read_only_one_is_refused() {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir().unwrap();
        let (path, other) = (dir.path().join("out.csv"), dir.path().join("other"));
        let mode = || std::fs::metadata(&path).unwrap().permissions().mode() & 0o7777;
        std::fs::write(&path, "old").unwrap();
        std::fs::hard_link(&path, &other).unwrap();
        // 0o666 is wider than any umask leaves of a new file.
        for bits in [0o600, 0o666, 0o751] {
            std::fs::set_permissions(&path, std::fs::Permissions::from_mode(bits)).unwrap();
            write(&path, b"new").unwrap();
            assert_eq!((mode(), std::fs::read_to_string(&path).unwrap().as_str()), (bits, "new"));
        }
        assert_eq!(std::fs::read_to_string(&other).unwrap(), "old");

        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o444)).unwrap();
        let message = write(&path, b"newer").unwrap_err().to_string();
        assert!(
            message
                .ends_with("out.csv: is read-only; name another file, or make this one writable"),
            "{message}"
        );
        assert_eq!((mode(), std::fs::read_to_string(&path).unwrap().as_str()), (0o444, "new"));
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 2);
    }

    #[test]
    #[cfg(target_os = "linux")]
    fn a_file_has_no_name_before_it_is_whole() {
        let dir = tempfile::tempdir().unwrap();
        // Where the file system has no such files there is nothing to see.
        let Some(mut file) = nameless(dir.path()) else { return };
        file.write_all(b"half").unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        let path = dir.path().join("out");
        file.write_all(b" and half").unwrap();
        named(&file, &path).unwrap();
        assert_eq!(std::fs::read_to_string(&path).unwrap(), "half and half");
        // A name that is taken is not lost to another file.
        assert!(named(&nameless(dir.path()).unwrap(), &path).is_err());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn what_could_not_be_written_is_known_before() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("file"), "old").unwrap();
        for name in ["file", "new"] {
            ready(&dir.path().join(name)).unwrap();
        }
        for (name, says) in [
            ("", "is a folder"),
            ("none/out", "cannot be written"),
            ("file/out", "cannot be written"),
        ] {
            let path = dir.path().join(name);
            let [early, late] = [ready(&path), write(&path, b"x")].map(|r| r.unwrap_err());
            assert!(early.to_string().contains(says), "{early}");
            assert_eq!(early.to_string(), late.to_string());
        }
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1);
        assert_eq!(std::fs::read_to_string(dir.path().join("file")).unwrap(), "old");
        #[cfg(unix)]
        ready(Path::new("/dev/null")).unwrap();
        // By the name that was given.
        let path = Path::new("no such folder/out");
        for refused in [ready(path), write(path, b"x")] {
            let said = refused.unwrap_err().to_string();
            assert!(said.starts_with("no such folder/out: cannot be written: "), "{said}");
        }
    }

    #[test]
    #[cfg(unix)]
    fn a_link_to_a_file_that_is_not_there_makes_it() {
        let dir = tempfile::tempdir().unwrap();
        let (link, second) = (dir.path().join("link"), dir.path().join("second"));
        std::fs::create_dir(dir.path().join("far")).unwrap();
        std::os::unix::fs::symlink("far/new", &link).unwrap();
        std::os::unix::fs::symlink("link", &second).unwrap();
        write(&second, b"x").unwrap();
        assert!(link.is_symlink() && second.is_symlink());
        assert_eq!(std::fs::read_to_string(dir.path().join("far/new")).unwrap(), "x");
        // Links in a circle end.
        let (a, b) = (dir.path().join("a"), dir.path().join("b"));
        std::os::unix::fs::symlink(&a, &b).unwrap();
        std::os::unix::fs::symlink(&b, &a).unwrap();
        resolved(&a);
        // Also in folders that are not there yet.
        assert_eq!(resolved(&dir.path().join("new/./x")), resolved(&dir.path().join("./new/x")));
    }

    #[test]
    fn a_folder_is_removed_under_another_name() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("step-3");
        // What a kill left of an earlier one is in nobody's way.
        for folder in [path.clone(), aside(&path)] {
            std::fs::create_dir(&folder).unwrap();
            std::fs::write(folder.join("x"), "x").unwrap();
        }
        remove_folder(&path).unwrap();
        remove_folder(&path).unwrap();
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
        std::fs::create_dir(aside(&path)).unwrap();
        sweep(dir.path());
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 0);
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
