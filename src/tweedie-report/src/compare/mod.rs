//! Two reports, two models or two training runs side by side: where they differ, beyond tolerance
//! or not.

mod models;
mod reports;
mod runs;
mod settings;
mod source;

use super::folder::{MANIFEST, Staging};
use super::foreign::Foreign;
use super::page::{self, Block, Chapter, Colophon, File};
use super::{Profile, pretty, write_site};
use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;
use serde_json::{Value, json};
use source::Kind;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tweedie::error::{Error, Result, acts};

/// What `tweedie report --compare A B` is asked for.
#[derive(Clone, Debug)]
pub struct Options {
    /// One folder.
    pub a: PathBuf,
    /// The other, of the same kind.
    pub b: PathBuf,
    /// Chapters of reports to compare; none means all.
    pub names: Vec<String>,
    /// Largest difference that passes, over the scale of what is compared; none means the kind's
    /// own.
    pub tolerance: Option<f64>,
    /// How much is computed, of models.
    pub profile: Profile,
    /// Folder that gets `index.html`.
    pub out: PathBuf,
    /// Seed of every random draw.
    pub seed: u64,
}

/// What a comparison found.
#[derive(Clone, Debug)]
pub struct Summary {
    /// The page.
    pub index: PathBuf,
    /// One line of what was found.
    pub says: String,
    /// What differs beyond the tolerance, a line each.
    pub beyond: Vec<String>,
    /// Everything that was found.
    pub document: Value,
}

/// Told (steps done, steps in all, what comes next).
type Progress<'a> = dyn Fn(usize, usize, &str) + 'a;

/// What the comparison of one kind of folder makes.
struct Part {
    says: String,
    chapters: Vec<Chapter>,
    document: Value,
}

/// Tolerance of reports: the same program on another machine, or with its sums in another order,
/// rounds otherwise by some 1e-16 at every operation, which sums of thousands of terms and
/// condition numbers up to a million leave below 1e-9 of a figure's largest number.
pub const OF_REPORTS: f64 = 1e-9;

/// Compares two folders and writes the page.
///
/// # Errors
/// Folders that are of different kinds, of no known kind, or too damaged to be read at all; a
/// folder that can't be written, or that is one of the two compared.
pub fn run(options: &Options) -> Result<Summary> {
    let (a, b) = (&options.a, &options.b);
    let kind = source::kind(a, b)?;
    if let Some(tolerance) = options.tolerance.filter(|t| !(*t >= 0.0 && t.is_finite())) {
        return Err(Error::domain(
            "--tolerance",
            tolerance,
            "0 or more",
            "0 lets nothing pass but equal bits",
        ));
    }
    if kind != Kind::Report && !options.names.is_empty() {
        let allowed = format!("no names: a {kind} has no chapters");
        return Err(Error::domain(
            "experiments of a comparison",
            options.names.join(", "),
            allowed,
            "leave them out",
        ));
    }
    if [a, b].into_iter().any(|folder| source::same_folder(folder, &options.out)) {
        let mend = "choose another folder with --out";
        return Err(Error::domain(
            "--out",
            options.out.display(),
            "a folder that is not compared",
            mend,
        ));
    }
    // Its chapters' names follow from what is compared, which may be refused: until then no folder
    // is made.
    if options.out.is_dir() {
        Staging::new(&options.out)?.claim(["index.html", MANIFEST])?;
    }
    let bar = ProgressBar::new(0);
    let style = ProgressStyle::with_template("{spinner} {msg} [{bar:24}] {pos}/{len} {elapsed}");
    bar.set_style(style.unwrap_or(ProgressStyle::default_bar()));
    bar.enable_steady_tick(Duration::from_millis(120));
    let progress = |done: usize, of: usize, what: &str| {
        bar.set_length(of as u64);
        bar.set_position(done as u64);
        bar.set_message(what.to_string());
    };
    let part = match kind {
        Kind::Report => reports::compare(options)?,
        Kind::Run => runs::compare(options, &progress)?,
        Kind::Model => models::compare(a, b, [recipe(a), recipe(b)], options, &progress)?,
    };
    let colophon = Colophon::new(options.profile, options.seed);
    let drawn = page::draw(&part.chapters)?;
    let page = page::html(&part.chapters, &drawn, &colophon)?;
    let staging = Staging::new(&options.out)?;
    write_site(&staging, &part.chapters, &drawn, &page)?;
    let beyond: Vec<String> = part
        .chapters
        .iter()
        .flat_map(Chapter::evidence)
        .filter(|e| !e.holds())
        .map(|e| format!("{}: {}", e.what, short(e.got)))
        .collect();
    let mut document = json!({
        "tweedie": colophon.version,
        "kind": kind.to_string(),
        "a": a, "b": b,
        "profile": options.profile, "seed": options.seed,
        "within_tolerance": beyond.is_empty(),
        "beyond": beyond,
    });
    staging.write(MANIFEST, pretty(&document))?;
    document["found"] = part.document;
    staging.publish()?;
    bar.finish_and_clear();
    Ok(Summary { index: options.out.join("index.html"), says: part.says, beyond, document })
}

/// The recipe of the run that a model is a checkpoint of, or an average in one; none of any other
/// model.
fn recipe(model: &Path) -> Option<Value> {
    let state = [model.to_owned(), model.join("..")]
        .into_iter()
        .find_map(|folder| source::json(&folder.join("training/state.json")).ok());
    state?.get("settings").cloned()
}

/// The command that makes a comparison again.
fn command(options: &Options) -> String {
    let names: String = options.names.iter().map(|name| format!(" {name}")).collect();
    let tolerance = options.tolerance.map_or(String::new(), |t| format!(" --tolerance {t:e}"));
    format!(
        "tweedie report{names} --compare {} {}{tolerance}",
        options.a.display(),
        options.b.display()
    )
}

/// The beginning of a name or a value from a folder, of a length that a table or a legend bears,
/// and without what acts where it is shown.
fn cut(text: &str, longest: usize) -> String {
    let shown = |c| if acts(c) { char::REPLACEMENT_CHARACTER } else { c };
    let mut cut: String = text.chars().take(longest).map(shown).collect();
    if text.chars().nth(longest).is_some() {
        cut.push('…');
    }
    cut
}

/// A name or a value from a folder, set as code and cut.
fn code(text: &str) -> String {
    format!("<code>{}</code>", Foreign::from(cut(text, 90)))
}

/// A folder's name for people.
fn folder(path: &Path) -> String {
    format!("<code>{}</code>", Foreign::from(path.display().to_string()))
}

/// A document beside a table.
fn file(name: &str, about: &str, content: &impl Serialize) -> Block {
    let content = serde_json::to_value(content).expect("plain data is JSON");
    Block::Files(vec![File {
        name: name.into(),
        about: about.into(),
        content: pretty(&content).into_bytes(),
    }])
}

/// Rows of a table that a reader still goes through; all of them are in the JSON beside it.
const ROWS: usize = 24;

/// A caption that says when its table shows a part.
fn shown_of(n: usize, what: &str) -> String {
    let all = super::chapter::thousands(n);
    if n > ROWS { format!("The first {ROWS} of {all} {what}.") } else { format!("{all} {what}.") }
}

/// A number and what it counts.
fn counted(n: usize, one: &str, many: &str) -> String {
    format!("{} {}", super::chapter::thousands(n), if n == 1 { one } else { many })
}

/// A number of a line on a terminal.
fn short(x: f64) -> String {
    if x.fract() == 0.0 { x.to_string() } else { format!("{x:.2e}") }
}

/// A number with its standard error, to the error's second digit.
fn measured(x: f64, stderr: f64) -> String {
    let digits = 1.0 - stderr.log10().floor();
    if (0.0..=6.0).contains(&digits) {
        let digits = digits as usize;
        return format!("{x:.digits$} ± {stderr:.digits$}").replace('-', "−");
    }
    format!("{} ± {}", page::number(x), page::number(stderr))
}

/// A share or a distance in a table or a sentence.
fn amount(x: f64) -> String {
    match x {
        0.0 => "0".into(),
        x if x.is_finite() => page::number(x),
        _ => "no measure".into(),
    }
}
