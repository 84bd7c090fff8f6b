//! Where results go: standard output or a file that is never seen half-written.

use crate::error::{Error, Result};
pub use crate::report::number::{Number, json};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;

/// A file, or `-` for standard output.
#[derive(Clone, Debug, PartialEq)]
pub enum Target {
    /// `-`.
    Stdout,
    /// Any other name.
    File(PathBuf),
}

impl FromStr for Target {
    type Err = std::convert::Infallible;

    fn from_str(s: &str) -> std::result::Result<Self, Self::Err> {
        Ok(if s == "-" { Target::Stdout } else { Target::File(s.into()) })
    }
}

impl Target {
    /// Writes all of it.
    ///
    /// # Errors
    /// A folder that is missing or may not be written, a full disk.
    pub fn write(&self, bytes: &[u8]) -> Result<()> {
        match self {
            Target::Stdout => print(bytes),
            Target::File(path) => write_file(path, bytes),
        }
    }
}

/// Writes to standard output. A reader that has seen enough (`head`) is no error.
pub fn print(bytes: impl AsRef<[u8]>) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes.as_ref()).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::file("standard output", format!("cannot be written: {e}"), "free space, or write to a file"))
        }
        _ => Ok(()),
    }
}

/// Writes a file aside and renames it, so that the name holds all of it or what it held before.
fn write_file(path: &Path, bytes: &[u8]) -> Result<()> {
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
    builder.prefix(".tweedie-");
    #[cfg(unix)]
    {
        use std::os::unix::fs::PermissionsExt;
        // As any new file: the process's umask takes away from this.
        builder.permissions(std::fs::Permissions::from_mode(0o666));
    }
    let mut file = builder.tempfile_in(folder).map_err(refused)?;
    file.write_all(bytes).map_err(refused)?;
    file.persist(&path).map_err(|e| refused(e.error))?;
    Ok(())
}

/// Lines of at most `width` characters (words longer than that apart), the first after `lead`, the others indented as far.
pub fn wrapped(text: &str, lead: &str, width: usize) -> String {
    let indent = lead.chars().count();
    let (mut out, mut line) = (String::new(), String::from(lead));
    let mut filled = false;
    for word in text.split_whitespace() {
        if filled && line.chars().count() + 1 + word.chars().count() > width {
            out.push_str(line.trim_end());
            out.push('\n');
            line = " ".repeat(indent);
            filled = false;
        }
        if filled {
            line.push(' ');
        }
        line.push_str(word);
        filled = true;
    }
    out + line.trim_end() + "\n"
}

/// A number for people: up to ten digits, without the zeros at the end.
pub fn short(x: f64) -> String {
    let trim =
        |text: &str| if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_owned() } else { text.to_owned() };
    if x == 0.0 {
        return "0".into();
    }
    if !x.is_finite() {
        return Number(x).to_string();
    }
    if (1e-4..1e10).contains(&x.abs()) {
        let decimals = 9 - x.abs().log10().floor() as i32;
        return trim(&format!("{x:.*}", decimals.max(0) as usize));
    }
    let text = format!("{x:.3e}");
    let (digits, exponent) = text.split_once('e').expect("scientific notation");
    format!("{}e{exponent}", trim(digits))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_is_replaced_whole_and_links_are_followed() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("out.csv");
        for content in ["first", "second"] {
            Target::File(path.clone()).write(content.as_bytes()).unwrap();
            assert_eq!(std::fs::read_to_string(&path).unwrap(), content);
        }
        #[cfg(unix)]
        {
            use std::os::unix::fs::PermissionsExt;
            assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o600, 0o600);
            let link = dir.path().join("link");
            std::os::unix::fs::symlink(&path, &link).unwrap();
            Target::File(link.clone()).write(b"third").unwrap();
            assert!(link.is_symlink());
            assert_eq!(std::fs::read_to_string(&path).unwrap(), "third");
            // A device stays a device.
            Target::File("/dev/null".into()).write(b"x").unwrap();
            assert!(!Path::new("/dev/null").is_file());
        }
        let names: Vec<_> = std::fs::read_dir(dir.path()).unwrap().map(|e| e.unwrap().file_name()).collect();
        assert!(names.iter().all(|n| !n.to_string_lossy().starts_with(".tweedie")), "{names:?}");
    }

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(wrapped("one two three four", "a  ", 11), "a  one two\n   three\n   four\n");
        assert_eq!(wrapped("", "lead ", 20), "lead\n");
        assert_eq!(wrapped("unbreakable word", "", 4), "unbreakable\nword\n");
    }

    #[test]
    fn short_numbers() {
        let got =
            [0.0, -0.0, 1.0, 0.1 + 0.2, -12.5, 786_432.0, 1e-4, 7.74e-10, 1.0 / 3.0, 1e300, f64::INFINITY, f64::NAN].map(short);
        assert_eq!(got, ["0", "0", "1", "0.3", "-12.5", "786432", "0.0001", "7.74e-10", "0.3333333333", "1e300", "inf", "nan"]);
    }
}
