//! What every chapter is made of: numbers, the parts that they become, and a text that has places
//! for them.

use super::drawing::{Axis, Drawing, Picture, Pictures, Plot, Series, Tone, plain};
use super::page::File;
use crate::experiment::{Context, Editable, Embedded, Profile, Text};
use minijinja::Value as Named;
use ndarray::Array2;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::Path;
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;

/// A chapter of the report, a folder of `experiments/`.
///
/// It computes numbers, which are kept; draws them, which is done each time; and has a text with
/// places for what was drawn.
pub trait Study {
    /// Its name on the command line and of its folder.
    const NAME: &'static str;
    /// One line of what it shows.
    const ABOUT: &'static str;
    /// Seconds that it takes, quick and full, on two cores: what the time left is reckoned by.
    /// Roughly: a run corrects them by its own speed.
    const SECONDS: [f64; 2];
    /// Its text: [`crate::text`] says in which form.
    const TEXT: Editable;
    /// What the code that computes the numbers is known by: they are kept for this very code.
    const CODE: &'static str;
    /// All that is computed.
    type Numbers: Serialize + DeserializeOwned;

    /// What, beside profile and seed, its numbers depend on, as the manifest has it.
    ///
    /// # Errors
    /// Settings that are not valid.
    fn settings(text: Option<&Text>) -> Result<Value>;

    /// Computes the numbers.
    ///
    /// # Errors
    /// Settings that are not valid; what the computation refuses.
    fn compute(context: &Context) -> Result<Self::Numbers>;

    /// What is shown of them: drawings, tables, checks, and the values that the text names.
    ///
    /// # Errors
    /// A file that can't be made.
    fn parts(numbers: &Self::Numbers) -> Result<Parts>;

    /// Which files in its folder are other commands' and may go, because the chapter shows them
    /// again.
    fn shown_again(_folder: &Path) -> &'static [&'static str] {
        &[]
    }

    /// The command that makes it again.
    fn command(profile: Profile, seed: u64) -> String {
        format!("cargo run --release -- report {} --profile {profile} --seed {seed}", Self::NAME)
    }
}

/// What a chapter's text may name, each kind in the order of its making.
#[derive(Default)]
pub struct Parts {
    pub(crate) values: BTreeMap<String, Named>,
    pub(crate) named_twice: Option<String>,
    pub(crate) figures: Vec<(String, Vec<Drawing>)>,
    pub(crate) tables: Vec<(String, Cells)>,
    pub(crate) checks: Vec<(String, Vec<Evidence>)>,
    pub(crate) files: Vec<(String, Vec<File>)>,
    pub(crate) markup: Vec<(String, String)>,
}

/// The texts of a table.
pub(crate) struct Cells {
    pub head: Vec<String>,
    pub rows: Vec<Vec<String>>,
}

impl Parts {
    /// Parts of a chapter with these settings, which the text knows as `settings`.
    pub fn new(settings: &impl Serialize) -> Self {
        let mut parts = Self::default();
        parts.value("settings", settings);
        parts
    }

    /// A value, or several in a structure: `[[ name ]]`, `[[ name.field ]]`. Numbers are given as
    /// they are; how many digits are shown is the text's to say.
    pub fn value(&mut self, name: &str, value: impl Serialize) {
        if self.values.insert(name.into(), Named::from_serialize(value)).is_some() {
            self.named_twice = Some(name.into());
        }
    }

    /// The drawings of a figure; its caption and description are the text's.
    pub fn figure(&mut self, id: &str, drawings: Vec<Drawing>) {
        self.figures.push((id.into(), drawings));
    }

    /// The head and the rows of a table, whose caption is the text's: HTML in which `$...$` is a
    /// formula.
    pub fn table<H: Into<String>>(
        &mut self,
        id: &str,
        head: impl IntoIterator<Item = H>,
        rows: impl IntoIterator<Item = Vec<String>>,
    ) {
        let head = head.into_iter().map(Into::into).collect();
        self.tables.push((id.into(), Cells { head, rows: rows.into_iter().collect() }));
    }

    /// Numbers held to what they should be. The text has to show them.
    pub fn checks(&mut self, id: &str, evidence: Vec<Evidence>) {
        self.checks.push((id.into(), evidence));
    }

    /// Files beside the figures.
    pub fn files(&mut self, id: &str, files: Vec<File>) {
        self.files.push((id.into(), files));
    }

    /// HTML that another part of the report has made.
    pub fn markup(&mut self, id: &str, html: String) {
        self.markup.push((id.into(), html));
    }
}

/// Settings as the manifest has them: those of a text, or the chapter's own.
///
/// # Errors
/// As [`Embedded::parse`].
pub fn settings<S: Embedded>(text: Option<&Text>) -> Result<Value> {
    as_json(&S::of(text)?)
}

/// Settings as the manifest has them.
///
/// # Errors
/// None of settings that are plain numbers.
pub fn as_json(settings: &impl Serialize) -> Result<Value> {
    serde_json::to_value(settings)
        .map_err(|e| Error::domain("settings", e, "plain numbers", "report this as a bug"))
}

pub fn plot(title: &str, x: Axis, y: Axis, series: Vec<Series>) -> Drawing {
    Drawing::Plot(Plot::new(title, x, y, series))
}

/// A column of numbers for a series.
pub fn along(values: &[f64]) -> impl Iterator<Item = f64> + '_ {
    values.iter().copied()
}

/// A whole number with its thousands apart.
pub fn thousands(n: usize) -> String {
    let digits = n.to_string();
    let groups: Vec<&str> =
        digits.as_bytes().rchunks(3).rev().filter_map(|g| std::str::from_utf8(g).ok()).collect();
    groups.join(",")
}

/// A number to so many significant digits.
pub fn significant(v: f64, digits: usize) -> String {
    plain(format!("{v:.*e}", digits - 1).parse().unwrap_or(v))
}

/// A number as a formula, a power of ten with so many significant digits before it.
pub fn scientific(v: f64, digits: usize) -> String {
    let text = format!("{v:.*e}", digits - 1);
    let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
    format!("${mantissa} \\cdot 10^{{{exponent}}}$")
}

/// Three significant digits, as a formula with a power of ten where they are far from one.
pub fn short(v: f64) -> String {
    if v == 0.0 || (1e-3..1e4).contains(&v.abs()) || !v.is_finite() {
        return significant(v, 3);
    }
    scientific(v, 2)
}

/// A large number to two digits, its thousands apart.
pub fn about(v: f64) -> String {
    let size = 10f64.powf((v.log10().floor() - 1.0).max(0.0));
    thousands(((v / size).round() * size) as usize)
}

/// A share in percent, to three digits.
pub fn percent(share: f64) -> String {
    format!("{} %", plain(100.0 * share))
}

/// One image of a row of them, with a note below.
pub fn picture(values: impl IntoIterator<Item = f64>, note: impl ToString) -> Picture {
    Picture { values: values.into_iter().collect(), note: note.to_string() }
}

/// States of a trajectory at `alpha = 1`, on the variance-preserving scale, where pure noise and
/// clean data have about the same contrast.
pub fn states(x: &Array2<f64>, sigmas: &[f64]) -> Vec<Picture> {
    x.rows()
        .into_iter()
        .zip(sigmas)
        .map(|(r, s)| picture(r.iter().map(|v| v / (1.0 + s * s).sqrt()), ""))
        .collect()
}

/// States of one level at `alpha = 1`, each row an image, on the variance-preserving scale.
pub fn scaled(x: &Array2<f64>, sigma: f64) -> Vec<Picture> {
    x.rows()
        .into_iter()
        .map(|r| picture(r.iter().map(|v| v / (1.0 + sigma * sigma).sqrt()), ""))
        .collect()
}

/// Each row as an image.
pub fn images(x: &Array2<f64>) -> Vec<Picture> {
    x.rows().into_iter().map(|r| picture(r.iter().copied(), "")).collect()
}

/// Rows of digits of 8 x 8 pixels.
pub fn digits(
    title: &str,
    heading: &str,
    columns: Vec<String>,
    rows: Vec<(String, Vec<Picture>)>,
    tone: Tone,
) -> Drawing {
    Drawing::Pictures(Pictures {
        title: title.into(),
        heading: heading.into(),
        columns,
        rows,
        shape: (8, 8),
        tone,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_as_long_as_they_need_be() {
        assert_eq!([7.0, 123.0, 98765.0].map(about), ["7", "120", "99,000"]);
        assert_eq!(
            [0.1234, 1.0, 0.00123, -0.5].map(percent),
            ["12.3 %", "100 %", "0.123 %", "−50 %"]
        );
        assert_eq!([0.0, 0.012345, 123.45].map(short), ["0", "0.0123", "123"]);
        assert_eq!(short(1.5e-7), "$1.5 \\cdot 10^{-7}$");
        assert_eq!(short(-2e5), "$-2.0 \\cdot 10^{5}$");
        assert_eq!(thousands(1_234_567), "1,234,567");
    }
}
