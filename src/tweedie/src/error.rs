//! One error type for the whole crate: every message says what was wrong, what was got, what is
//! allowed, and how to mend it.

use std::borrow::Cow;
use std::fmt::Write;
use std::path::{Path, PathBuf};

/// What every fallible function of this crate returns.
pub type Result<T> = std::result::Result<T, Error>;

/// Bad input or a broken environment, as one line.
///
/// The command line prints it after `error: ` and exits with code 2.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A number, name or combination outside what is allowed.
    #[error("{what}: got {got}, allowed: {allowed}; {mend}")]
    Domain { what: String, got: String, allowed: String, mend: String },
    /// An array whose shape does not fit.
    #[error("{what}: got shape {got:?}, wanted {want}; {mend}")]
    Shape { what: String, got: Vec<usize>, want: String, mend: String },
    /// A formula asked for at a point where it has no finite value.
    #[error("{what} is singular at {at}: {why}; {mend}")]
    Singular { what: String, at: String, why: String, mend: String },
    /// A file that is missing, unreadable, unwritable, truncated or not what it claims to be.
    #[error("{}: {problem}; {mend}", path.display())]
    File { path: PathBuf, problem: String, mend: String },
    /// A device that is missing, full, lost or too old.
    #[error("device {device}: {problem}; {mend}")]
    Device { device: String, problem: String, mend: String },
}

impl Error {
    /// A [`Error::Domain`] from anything printable.
    pub fn domain(
        what: impl ToString,
        got: impl ToString,
        allowed: impl ToString,
        mend: impl ToString,
    ) -> Self {
        Self::Domain {
            what: what.to_string(),
            got: got.to_string(),
            allowed: allowed.to_string(),
            mend: mend.to_string(),
        }
    }

    /// A [`Error::Shape`].
    pub fn shape(
        what: impl ToString,
        got: &[usize],
        want: impl ToString,
        mend: impl ToString,
    ) -> Self {
        Self::Shape {
            what: what.to_string(),
            got: got.to_vec(),
            want: want.to_string(),
            mend: mend.to_string(),
        }
    }

    /// A [`Error::Singular`].
    pub fn singular(
        what: impl ToString,
        at: impl ToString,
        why: impl ToString,
        mend: impl ToString,
    ) -> Self {
        Self::Singular {
            what: what.to_string(),
            at: at.to_string(),
            why: why.to_string(),
            mend: mend.to_string(),
        }
    }

    /// An [`Error::Device`].
    pub fn device(device: impl ToString, problem: impl ToString, mend: impl ToString) -> Self {
        Self::Device {
            device: device.to_string(),
            problem: problem.to_string(),
            mend: mend.to_string(),
        }
    }

    /// A [`Error::File`].
    pub fn file(path: impl AsRef<Path>, problem: impl ToString, mend: impl ToString) -> Self {
        Self::File {
            path: path.as_ref().to_path_buf(),
            problem: problem.to_string(),
            mend: mend.to_string(),
        }
    }
}

/// Refuses NaN and infinities by name and position.
///
/// # Errors
/// [`Error::Domain`] naming the first element that is not finite.
pub fn finite<'a>(what: &str, values: impl IntoIterator<Item = &'a f64>) -> Result<()> {
    match values.into_iter().enumerate().find(|(_, v)| !v.is_finite()) {
        None => Ok(()),
        Some((i, v)) => {
            Err(Error::domain(format!("{what}[{i}]"), v, "finite numbers", "remove or replace it"))
        }
    }
}

/// Text as a terminal can be given it, whoever wrote it: control characters but for tabs and line
/// breaks, which may move the cursor, colour, or rename the window, and marks that turn the
/// direction of writing are spelt out. All that the command line prints for people goes through
/// here.
///
/// # Example
/// ```
/// use tweedie::error::printable;
/// assert_eq!(printable("a\u{1b}[2Jb \u{202e}c\n"), "a\\u{1b}[2Jb \\u{202e}c\n");
/// assert_eq!(printable("σ²\t≤ 1"), "σ²\t≤ 1");
/// ```
pub fn printable(text: &str) -> Cow<'_, str> {
    if !text.contains(acts) {
        return text.into();
    }
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        // Writing to a string does not fail.
        let _ = if acts(c) { write!(out, "{}", c.escape_unicode()) } else { out.write_char(c) };
    }
    out.into()
}

/// Whether a character is no part of a text, but does something where it is shown: a control
/// character but for tabs and line breaks, a mark of direction.
pub fn acts(c: char) -> bool {
    c.is_control() && c != '\n' && c != '\t'
        || matches!(c, '\u{61c}' | '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}')
}

/// The known name nearest to a misspelt one, if any is near.
pub fn nearest<'a>(name: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let near = |k: &str| strsim::jaro_winkler(k, name);
    known.into_iter().max_by(|a, b| near(a).total_cmp(&near(b))).filter(|k| near(k) > 0.75)
}

/// What serde says of a settings file that it refuses, with a suggestion where a key or a choice is
/// misspelt.
///
/// # Example
/// ```
/// let said = "unknown field `sigma_dta`, expected one of `path`, `sigma_data`";
/// assert!(tweedie::error::suggested(said).ends_with("; did you mean `sigma_data`?"));
/// ```
pub fn suggested(refusal: impl ToString) -> String {
    let text = refusal.to_string();
    let mut names = text.split('`').skip(1).step_by(2);
    let unknown = text.contains("unknown field") || text.contains("unknown variant");
    match names.next().filter(|_| unknown).and_then(|name| nearest(name, names)) {
        Some(near) => format!("{text}; did you mean `{near}`?"),
        None => text,
    }
}
