//! Short names for what every chapter is made of.

use super::drawing::{Axis, Drawing, Plot, Series};
use super::page::{Block, Figure, Section};
use crate::error::{Error, Result};
use crate::experiment::Context;
use serde::Serialize;
use serde_json::Value;

/// The command that makes a chapter again, and the settings it was made with.
pub fn origin(name: &str, context: &Context, settings: &impl Serialize) -> Result<(String, Value)> {
    let settings =
        serde_json::to_value(settings).map_err(|e| Error::domain("settings", e, "plain numbers", "report this as a bug"))?;
    Ok((format!("cargo run --release -- report {name} --profile {} --seed {}", context.profile, context.seed), settings))
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
