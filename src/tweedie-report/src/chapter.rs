//! Short names for what every chapter is made of.

use super::drawing::{Axis, Drawing, Picture, Pictures, Plot, Series, Tone, plain};
use super::page::{Block, Figure, Section};
use crate::experiment::{Context, Embedded, Text};
use ndarray::Array2;
use serde::Serialize;
use serde_json::Value;
use tweedie::error::{Error, Result};

/// The command that makes a chapter again.
pub fn command(name: &str, context: &Context) -> String {
    format!(
        "cargo run --release -- report {name} --profile {} --seed {}",
        context.profile, context.seed
    )
}

/// Settings as the manifest has them: those of a text, or the chapter's own.
pub fn settings<S: Embedded>(text: Option<&Text>) -> Result<Value> {
    as_json(&S::of(text)?)
}

/// Settings as the manifest has them.
pub fn as_json(settings: &impl Serialize) -> Result<Value> {
    serde_json::to_value(settings)
        .map_err(|e| Error::domain("settings", e, "plain numbers", "report this as a bug"))
}

/// A paragraph.
pub fn p(text: impl Into<String>) -> Block {
    Block::Text(text.into())
}

/// A displayed formula.
pub fn f(latex: &str) -> Block {
    Block::Formula(latex.into())
}

pub fn figure(id: &str, caption: &str, alt: &str, drawings: Vec<Drawing>) -> Block {
    Block::Figure(Figure::new(id, caption, alt, drawings))
}

pub fn section(id: &str, title: &str, blocks: Vec<Block>) -> Section {
    Section { id: id.into(), title: title.into(), blocks }
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
