//! Where results go: standard output or a file that is never seen half-written.

use ndarray::{ArrayD, ArrayView, ArrayViewD, Dimension};
use ndarray_npy::NpzWriter;
use serde::Serialize;
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use tweedie::error::{Error, Result, printable};
pub use tweedie::number::Number;
use tweedie::number::{json, json_without_nan};
use tweedie_files as file;

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
            Target::File(path) => file::write(path, &document.0),
        }
    }
}

/// Writes text for people to standard output, made [`printable`]: names and messages in it may come
/// from files of anyone.
pub fn print(text: impl AsRef<str>) -> Result<()> {
    put(printable(text.as_ref()).as_bytes())
}

/// What a command writes. Results become one by the functions here alone, and what is not finite
/// does not: no command can write it unawares.
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

    /// JSON of verdicts, where NaN is a finding: who writes it says so in words and does not exit
    /// with 0.
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
                    return Err(not_finite(
                        format!("row {} of the table, {}", k + 1, columns[i]),
                        "NaN",
                        "numbers",
                    ));
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
        ndarray_npy::WriteNpyExt::write_npy(array, &mut bytes).expect(MEMORY);
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
    pub fn add<D: Dimension>(
        &mut self,
        name: &str,
        x: ArrayView<f64, D>,
        single: bool,
    ) -> Result<()> {
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
        Some((at, v)) => {
            Err(not_finite(format!("{name}{:?}", at.as_array_view().to_vec()), v, "finite numbers"))
        }
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

/// Refuses outputs of one run, by the options that name them, that would go to one place: the last
/// would replace or run into the others.
///
/// # Errors
/// Two names of one file, be it through links or `..`; standard output twice, also by its name in
/// `/dev` or as a file that it leads to.
pub fn distinct(outputs: &[(&str, Option<&Target>)]) -> Result<()> {
    let given: Vec<(&str, &Target)> =
        outputs.iter().filter_map(|(option, target)| Some((*option, (*target)?))).collect();
    for (k, (option, target)) in given.iter().enumerate() {
        if let Some((other, _)) = given[..k].iter().find(|(_, other)| same(other, target)) {
            let name = match target {
                Target::Stdout => "standard output".to_owned(),
                Target::File(path) => path.display().to_string(),
            };
            let what = format!("outputs {other} and {option}");
            return Err(Error::domain(
                what,
                format!("{name} for both"),
                "a place of its own for each",
                "write one of them elsewhere",
            ));
        }
    }
    Ok(())
}

/// Refuses outputs of one run before anything is computed: those that are not [`distinct`], and
/// those that can't be written, without which the others would be left.
///
/// # Errors
/// As [`distinct`]; a folder, or a file in one that is missing or may not be written.
pub fn possible(outputs: &[(&str, Option<&Target>)]) -> Result<()> {
    distinct(outputs)?;
    outputs.iter().filter_map(|(_, target)| *target).try_for_each(|target| match target {
        Target::Stdout => told(Ok(())),
        Target::File(path) => file::ready(path),
    })
}

/// Refuses an output that is one of the files that are read: it would be lost.
///
/// # Errors
/// The same file, be it through links or `..`.
pub fn spared<'a>(
    output: Option<&Target>,
    inputs: impl IntoIterator<Item = &'a PathBuf>,
) -> Result<()> {
    let Some(output) = output else { return Ok(()) };
    match inputs.into_iter().find(|input| same(output, &Target::File((*input).clone()))) {
        None => Ok(()),
        Some(input) => Err(Error::domain(
            "output",
            format!("{}, which is read", input.display()),
            "a file that is not an input of the command",
            "write it elsewhere",
        )),
    }
}

fn same(a: &Target, b: &Target) -> bool {
    match (a, b) {
        (Target::Stdout, Target::Stdout) => true,
        (Target::File(a), Target::File(b)) => {
            let (a, b) = (file::resolved(a), file::resolved(b));
            // What is thrown away mixes with nothing.
            a == b && a != Path::new("/dev/null")
        }
        (Target::Stdout, Target::File(path)) | (Target::File(path), Target::Stdout) => {
            leads_to(path)
        }
    }
}

/// Whether standard output goes to the file of this name.
fn leads_to(path: &Path) -> bool {
    #[cfg(unix)]
    {
        use std::os::unix::fs::MetadataExt;
        let file = |path: &Path| path.metadata().ok().map(|m| (m.dev(), m.ino()));
        file::resolved(path) != Path::new("/dev/null")
            && file(path).is_some_and(|it| file(Path::new("/dev/stdout")) == Some(it))
    }
    #[cfg(not(unix))]
    {
        let _ = path;
        false
    }
}

/// Writes to standard output. A reader that has seen enough (`head`) is no error.
fn put(bytes: &[u8]) -> Result<()> {
    let mut stdout = io::stdout().lock();
    told(stdout.write_all(bytes))
}

/// What became of writing to standard output.
pub fn told(written: io::Result<()>) -> Result<()> {
    let failed = |e: String| {
        Error::file(
            "standard output",
            format!("cannot be written: {e}"),
            "free space, or write to a file",
        )
    };
    if closed() {
        return Err(failed("it is closed".into()));
    }
    match written.and_then(|()| io::stdout().flush()) {
        Err(e) if e.kind() != io::ErrorKind::BrokenPipe => Err(failed(e.to_string())),
        _ => Ok(()),
    }
}

/// Whether the process began without a standard output. Rust opens `/dev/null` in its place before
/// `main`, so this is asked before that, among the initialisers that the system runs.
#[cfg(target_os = "linux")]
fn closed() -> bool {
    use std::sync::atomic::{AtomicBool, Ordering};
    static CLOSED: AtomicBool = AtomicBool::new(false);
    extern "C" fn ask() {
        // SAFETY: fcntl asks for a flag of a descriptor, which need not be open.
        CLOSED.store(unsafe { libc::fcntl(1, libc::F_GETFD) } == -1, Ordering::Relaxed);
    }
    // SAFETY: what is in this section is called once, before `main`; `ask` needs nothing of Rust's
    // runtime.
    #[used]
    #[unsafe(link_section = ".init_array")]
    static ASK: extern "C" fn() = ask;
    // Named here, so that the linker keeps it.
    std::hint::black_box(&ASK);
    CLOSED.load(Ordering::Relaxed)
}

#[cfg(not(target_os = "linux"))]
fn closed() -> bool {
    false
}

/// Lines of at most `width` characters (words longer than that apart), the first after `lead`, the
/// others indented as far.
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
    let trim = |text: &str| {
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_owned()
        } else {
            text.to_owned()
        }
    };
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
    #[cfg(unix)]
    fn one_place_is_found_under_two_names() {
        let dir = tempfile::tempdir().unwrap();
        let at = |name: &str| Target::File(dir.path().join(name));
        let refused = |a: &Target, b: &Target| {
            distinct(&[("-o", Some(a)), ("--png", None), ("--json", Some(b))]).is_err()
        };
        std::fs::create_dir(dir.path().join("sub")).unwrap();
        std::os::unix::fs::symlink("x", dir.path().join("link")).unwrap();
        std::os::unix::fs::symlink("sub", dir.path().join("there")).unwrap();
        // Whether the file is there or not.
        for content in [None, Some("old")] {
            if let Some(content) = content {
                std::fs::write(dir.path().join("x"), content).unwrap();
            }
            for other in ["x", "./x", "sub/../x", "link", "sub/../link"] {
                assert!(refused(&at("x"), &at(other)) && refused(&at(other), &at("x")), "{other}");
            }
            assert!(refused(&at("sub/x"), &at("there/x")));
            assert!(!refused(&at("x"), &at("y")) && !refused(&at("x"), &at("sub/x")));
        }
        // Another name of one file is another file once it is replaced.
        std::fs::hard_link(dir.path().join("x"), dir.path().join("hard")).unwrap();
        assert!(!refused(&at("x"), &at("hard")));
        let null = || Target::File("/dev/null".into());
        assert!(!refused(&null(), &null()) && !refused(&null(), &Target::Stdout));
        assert!(refused(&Target::Stdout, &Target::Stdout) && !refused(&Target::Stdout, &at("x")));
        let said = distinct(&[("-o", Some(&Target::Stdout)), ("--json", Some(&Target::Stdout))])
            .unwrap_err()
            .to_string();
        assert_eq!(
            said,
            "outputs -o and --json: got standard output for both, allowed: a place of its own for each; write one of them elsewhere"
        );
    }

    #[test]
    fn text_is_wrapped_between_words() {
        assert_eq!(wrapped("one two three four", "a  ", 11), "a  one two\n   three\n   four\n");
        assert_eq!(wrapped("", "lead ", 20), "lead\n");
        assert_eq!(wrapped("unbreakable word", "", 4), "unbreakable\nword\n");
    }

    #[test]
    fn short_numbers() {
        let got = [
            0.0,
            -0.0,
            1.0,
            0.1 + 0.2,
            -12.5,
            786_432.0,
            1e-4,
            7.74e-10,
            1.0 / 3.0,
            1e300,
            f64::INFINITY,
            f64::NAN,
        ]
        .map(short);
        assert_eq!(
            got,
            [
                "0",
                "0",
                "1",
                "0.3",
                "-12.5",
                "786432",
                "0.0001",
                "7.74e-10",
                "0.3333333333",
                "1e300",
                "inf",
                "nan"
            ]
        );
    }
}
