//! Settings that differ: of two manifests, two recipes, two networks.

use super::super::foreign::Foreign;
use super::super::page::{Block, Table};
use super::{ROWS, code, cut, file, shown_of};
use crate::difference::Gap;
use crate::difference::values::{self, Content, paired};
use serde::Serialize;
use serde_json::Value;

/// A setting that differs, or that one of the two has.
#[derive(Serialize)]
pub struct Setting {
    name: Foreign,
    a: Option<Foreign>,
    b: Option<Foreign>,
}

/// The values of two documents that differ, by name.
pub fn differing(a: &Value, b: &Value) -> Vec<Setting> {
    let (a, b) = (values::items(a), values::items(b));
    let differ = paired(&a, &b).into_iter().filter(|(_, a, b)| match (a, b) {
        (Some(Content::Numbers(a)), Some(Content::Numbers(b))) if a.len() == b.len() => {
            Gap::of(a, b).differing > 0
        }
        (a, b) => a != b,
    });
    // What JSON calls null is, of a setting, that there is none.
    let shown = |content: Option<&Content>| {
        content.map(values::shown).filter(|text| text != "NaN").map(Foreign::from)
    };
    differ.map(|(name, a, b)| Setting { name: name.into(), a: shown(a), b: shown(b) }).collect()
}

/// A table of them, and a file of all.
pub fn table(settings: &[Setting], what: &str, name: &str) -> [Block; 2] {
    let cell =
        |text: &Option<Foreign>| text.as_ref().map_or("none".into(), |text| code(text.raw()));
    let table = Table {
        caption: shown_of(settings.len(), what),
        head: ["setting", "A", "B"].map(String::from).to_vec(),
        rows: settings
            .iter()
            .take(ROWS)
            .map(|s| {
                let name =
                    Foreign::from(cut(s.name.raw().trim_start_matches("experiments · "), 200));
                vec![name.to_string(), cell(&s.a), cell(&s.b)]
            })
            .collect(),
    };
    [Block::Table(table), file(name, "all of them", &settings)]
}
