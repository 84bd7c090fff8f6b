//! Where results go: standard output or a file that is never seen half-written.

use crate::data::npy;
use crate::error::{Error, Result, printable};
pub use crate::report::number::Number;
use crate::report::number::{json, json_without_nan};
use ndarray::{ArrayD, ArrayView, ArrayViewD, Dimension};
use ndarray_npy::NpzWriter;
use serde::Serialize;
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
    pub fn write(&self, document: &Document) -> Result<()> {
        match self {
            Target::Stdout => put(&document.0),
            Target::File(path) => crate::file::write(path, &document.0),
        }
    }
}

/// Writes text for people to standard output, made [`printable`]: names and messages in it may come from files of anyone.
pub fn print(text: impl AsRef<str>) -> Result<()> {
    put(printable(text.as_ref()).as_bytes())
}

/// What a command writes. Results become one by the functions here alone, and what is not finite does not: no command can write it unawares.
pub struct Document(Vec<u8>);

const MEMORY: &str = "memory takes every byte";

impl Document {
    /// JSON of results, in which infinities are the strings that [`Number`] makes of them.
    ///
    /// # Errors
    /// A NaN.
    pub fn json(value: &impl Serialize) -> Result<Self> {
        json_without_nan(value).map(Self).ok_or_else(|| not_finite("results", "NaN", "numbers"))
    }

    /// JSON of verdicts, where NaN is a finding: who writes it says so in words and does not exit with 0.
    pub fn verdicts(value: &impl Serialize) -> Self {
        Self(json(value))
    }

    /// Lines of CSV under their names; infinities are kept.
    ///
    /// # Errors
    /// A NaN, by its line and column.
    pub fn csv(columns: &[&str], rows: impl Iterator<Item = Vec<Cell>>) -> Result<Self> {
        let mut text = columns.join(",") + "\n";
        for (k, row) in rows.enumerate() {
            for (i, cell) in row.iter().enumerate() {
                if let Cell::Real(Number(x)) = cell
                    && x.is_nan()
                {
                    return Err(not_finite(format!("row {} of the table, {}", k + 1, columns[i]), "NaN", "numbers"));
                }
                text += if i == 0 { "" } else { "," };
                text += &match cell {
                    Cell::Step(t) => t.to_string(),
                    Cell::Real(x) => x.to_string(),
                };
            }
            text.push('\n');
        }
        Ok(Self(text.into_bytes()))
    }

    /// An `.npy` of f64.
    ///
    /// # Errors
    /// A number that is not finite.
    pub fn npy(array: &ArrayD<f64>) -> Result<Self> {
        finite("states", array.view())?;
        let mut bytes = Vec::new();
        npy::write(array, &mut bytes).expect(MEMORY);
        Ok(Self(bytes))
    }

    /// What holds no results, or results that are known to be finite: settings, a picture, weights.
    pub fn made(bytes: impl Into<Vec<u8>>) -> Self {
        Self(bytes.into())
    }
}

/// An entry of a table.
#[derive(Serialize)]
#[serde(untagged)]
pub enum Cell {
    Step(usize),
    Real(Number),
}

/// An `.npz` on its way.
pub struct Npz(NpzWriter<io::Cursor<Vec<u8>>>);

impl Npz {
    /// Without arrays.
    pub fn new() -> Self {
        Self(NpzWriter::new(io::Cursor::new(Vec::new())))
    }

    /// An array of f64, or of f32 where it was computed in that.
    ///
    /// # Errors
    /// A number that is not finite, in the format that it is stored in.
    pub fn add<D: Dimension>(&mut self, name: &str, x: ArrayView<f64, D>, single: bool) -> Result<()> {
        finite(name, x.view().into_dyn())?;
        if single {
            let x = x.mapv(|x| x as f32);
            if x.iter().any(|x| !x.is_finite()) {
                return Err(not_finite(name, "infinity in f32", "finite numbers"));
            }
            self.0.add_array(name, &x).expect(MEMORY);
        } else {
            self.0.add_array(name, &x).expect(MEMORY);
        }
        Ok(())
    }

    /// A count.
    pub fn count(&mut self, name: &str, n: usize) {
        self.0.add_array(name, &ndarray::arr0(n as i64)).expect(MEMORY);
    }

    /// The whole of it.
    pub fn document(self) -> Document {
        Document(self.0.finish().expect(MEMORY).into_inner())
    }
}

fn finite(name: &str, x: ArrayViewD<f64>) -> Result<()> {
    match x.indexed_iter().find(|(_, x)| !x.is_finite()) {
        None => Ok(()),
        Some((at, v)) => Err(not_finite(format!("{name}{:?}", at.as_array_view().to_vec()), v, "finite numbers")),
    }
}

fn not_finite(what: impl ToString, got: impl ToString, allowed: &str) -> Error {
    Error::domain(
        what,
        got,
        allowed,
        "nothing was written: a setting, a law or a network leaves the range of the numbers, choose one that does not",
    )
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
