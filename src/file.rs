//! Files that are never seen half-written.

use crate::error::{Error, Result};
use std::io::{self, Write};
use std::path::Path;

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

#[cfg(test)]
mod tests {
    use super::*;

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
