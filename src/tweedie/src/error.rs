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
    #[error("{what}: got shape {}, wanted {want}; {mend}", cut(format!("{got:?}"), SHORT))]
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
            what: cut(brief(what.to_string()), SHORT),
            got: cut(brief(got.to_string()), SHORT),
            allowed: brief(allowed.to_string()),
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
            at: brief(at.to_string()),
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
            problem: cut(problem.to_string(), LONG),
            mend: mend.to_string(),
        }
    }
}

/// Most characters of what may come from anyone's file: of a value, and of a sentence about it.
const SHORT: usize = 200;
const LONG: usize = 1000;

/// A text without its middle where it is longer: it may be all of a file.
fn cut(text: String, most: usize) -> String {
    let length = text.chars().count();
    if length <= most {
        return text;
    }
    let head: String = text.chars().take(3 * most / 4).collect();
    let tail: String = text.chars().skip(length - most / 4).collect();
    format!("{head} ... ({length} characters) ... {tail}")
}

/// A text with its long numbers in scientific notation: `{}` makes 300 digits of 1e-300.
fn brief(text: String) -> String {
    /// As many as every digit of a number from 1e-4 to 1e17 takes.
    const DIGITS: usize = 24;
    let digit = |c: char| c.is_ascii_digit() || c == '.';
    let (mut out, mut rest) = (String::new(), text.as_str());
    while let Some(start) = rest.find(digit) {
        let end = rest[start..].find(|c| !digit(c)).map_or(rest.len(), |n| start + n);
        let number = &rest[start..end];
        let word = |c: Option<char>| c.is_some_and(|c| c.is_alphanumeric() || c == '_');
        let alone = !word(rest[..start].chars().last()) && !word(rest[end..].chars().next());
        out += &rest[..start];
        match number.parse::<f64>() {
            Ok(x) if alone && number.len() > DIGITS && x.is_finite() => out += &format!("{x:e}"),
            _ => out += number,
        }
        rest = &rest[end..];
    }
    out + rest
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_are_of_a_readable_length() {
        let said = |got: &dyn std::fmt::Display| Error::domain("x", got, "0", "y").to_string();
        assert_eq!(said(&1e-300), "x: got 1e-300, allowed: 0; y");
        assert_eq!(said(&-1.5e300), "x: got -1.5e300, allowed: 0; y");
        assert_eq!(said(&"(2e-5, 0.25)"), "x: got (2e-5, 0.25), allowed: 0; y");
        // No number of a usual size, and nothing within a word.
        let kept = ["0.00012345678901234567".to_owned(), "a".to_owned() + &"0".repeat(40)];
        kept.iter().for_each(|text| assert!(said(text).contains(text)));
        let between = Error::domain("x", 1, format!("above {}", 1e-200), "y").to_string();
        assert_eq!(between, "x: got 1, allowed: above 1e-200; y");

        assert!(said(&"σ".repeat(10_000)).chars().count() < 300);
        let shape = Error::shape("x", &[1; 30_000], "(n,)", "y").to_string();
        assert!(shape.len() < 300 && shape.ends_with("wanted (n,); y"), "{shape}");
        let file = Error::file("p", format!("says {}, wanted z", "a".repeat(10_000)), "y");
        assert!(file.to_string().len() < 1100 && file.to_string().ends_with("wanted z; y"));
    }
}
