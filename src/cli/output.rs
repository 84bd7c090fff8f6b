//! Where results go: standard output or a file that is never seen half-written.

use crate::error::{Error, Result, printable};
pub use crate::report::number::{Number, json};
use std::io::{self, Write};
use std::path::PathBuf;
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
            Target::Stdout => put(bytes),
            Target::File(path) => crate::file::write(path, bytes),
        }
    }
}

/// Writes text for people to standard output, made [`printable`]: names and messages in it may come from files of anyone.
pub fn print(text: impl AsRef<str>) -> Result<()> {
    put(printable(text.as_ref()).as_bytes())
}

/// Writes to standard output. A reader that has seen enough (`head`) is no error.
fn put(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    match stdout.write_all(bytes).and_then(|()| stdout.flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => {
            Err(Error::file("standard output", format!("cannot be written: {e}"), "free space, or write to a file"))
        }
        _ => Ok(()),
    }
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
