//! The checks of two reports, compared by what they check.

use super::values::paired;
use super::{Agreement, Gap, or_word};
use serde::Serialize;
use serde_json::Value;
use tweedie::evidence::Evidence;

/// One check of a report.
#[derive(Clone, Copy, Debug, PartialEq, Serialize)]
pub struct Check {
    /// The number; NaN where the report has none.
    #[serde(serialize_with = "or_word")]
    pub got: f64,
    /// What it should be.
    #[serde(serialize_with = "or_word")]
    pub want: f64,
    /// How far it may be off.
    #[serde(serialize_with = "or_word")]
    pub tol: f64,
    /// Whether it held.
    pub ok: bool,
}

/// A check in both reports, or in one.
#[derive(Clone, Debug, Serialize)]
pub struct Checked {
    /// What was checked.
    pub what: String,
    /// In A.
    pub a: Option<Check>,
    /// In B.
    pub b: Option<Check>,
    /// Difference of the two numbers and of what they should be, where both are there.
    pub gap: Option<Gap>,
    /// How far the two agree.
    pub agreement: Agreement,
}

impl Checked {
    /// Whether it holds in one of the two only.
    pub fn verdict_changed(&self) -> bool {
        matches!((self.a, self.b), (Some(a), Some(b)) if a.ok != b.ok)
    }
}

/// Largest tolerance, over what should come out and at least one, of a check of rounding: such a
/// number has no digits to compare.
const ROUNDING: f64 = 1e-6;

/// The checks of a `checks.json`, by what they check; an entry that names nothing is left out.
pub fn read(document: &Value) -> Vec<(String, Check)> {
    let entry = |entry: &Value| {
        let number = |key: &str| entry.get(key).and_then(Value::as_f64).unwrap_or(f64::NAN);
        let (got, want, tol) = (number("got"), number("want"), number("tol"));
        let holds = || Evidence::new("", got, want, tol).holds();
        let ok = entry.get("ok").and_then(Value::as_bool).unwrap_or_else(holds);
        Some((entry.get("what")?.as_str()?.to_owned(), Check { got, want, tol, ok }))
    };
    document.as_array().into_iter().flatten().filter_map(entry).collect()
}

/// The checks of both. Two agree when both hold or both do not, and their numbers are within the
/// tolerance; a check of rounding errors, whose own tolerance is tiny, also when they are within
/// that of each other.
pub fn compare(a: &[(String, Check)], b: &[(String, Check)], tolerance: f64) -> Vec<Checked> {
    let checked = |(what, a, b): (&str, Option<&Check>, Option<&Check>)| {
        let gap = a.zip(b).map(|(a, b)| Gap::of(&[a.got, a.want], &[b.got, b.want]));
        let agreement = match (a, b, &gap) {
            (Some(a), Some(b), Some(gap)) if a.ok == b.ok => {
                let rounding = a.tol.min(b.tol) <= ROUNDING * a.want.abs().max(1.0);
                let near =
                    rounding && a.want == b.want && (a.got - b.got).abs() <= a.tol.max(b.tol);
                gap.agreement(if near { f64::INFINITY } else { tolerance })
            }
            _ => Agreement::Beyond,
        };
        Checked { what: what.to_owned(), a: a.copied(), b: b.copied(), gap, agreement }
    };
    paired(a, b).into_iter().map(checked).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_check_agrees_by_its_verdict_and_its_number() {
        let one = |what: &str, got: f64, tol: f64| json!({"what": what, "got": got, "want": 0.0, "tol": tol});
        let a = json!([one("same", 0.5, 1.0), one("rounding", 1e-12, 1e-10), one("moved", 0.5, 1.0), one("verdict", 0.99, 1.0), one("gone", 0.0, 1.0), {"x": 1}]);
        let b = json!([
            one("same", 0.5, 1.0),
            one("rounding", 9e-11, 1e-10),
            one("moved", 0.6, 1.0),
            one("verdict", 1.01, 1.0),
            one("new", f64::NAN, 1.0)
        ]);
        let found = compare(&read(&a), &read(&b), 1e-9);
        let told: Vec<_> =
            found.iter().map(|c| (c.what.as_str(), c.agreement, c.verdict_changed())).collect();
        let (equal, within, beyond) = (Agreement::Equal, Agreement::Within, Agreement::Beyond);
        assert_eq!(
            told,
            [
                ("same", equal, false),
                ("rounding", within, false),
                ("moved", beyond, false),
                ("verdict", beyond, true),
                ("gone", beyond, false),
                ("new", beyond, false)
            ]
        );
        assert!(!found[5].b.unwrap().ok);
        // A NaN is a word, not null, which would be a check that names no number.
        let written = serde_json::to_value(&found[5]).unwrap();
        assert_eq!(written["b"], json!({"got": "nan", "want": 0.0, "tol": 1.0, "ok": false}));
    }
}
