//! Two JSON documents of a report, compared by the names of what is in them.

use super::{Agreement, Gap};
use serde::Serialize;
use serde_json::Value;
use std::collections::{HashMap, VecDeque};

/// What stands under one name.
#[derive(Clone, Debug, PartialEq)]
pub enum Content {
    /// A number, or a list of them.
    Numbers(Vec<f64>),
    /// Anything else.
    Text(String),
}

/// What became of one name.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// Numbers in both, as many.
    Numbers(Gap),
    /// Numbers in both, but not as many.
    Lengths(usize, usize),
    /// Texts, or a text and numbers.
    Texts(String, String, Agreement),
    /// In A alone.
    OnlyA,
    /// In B alone.
    OnlyB,
}

impl Found {
    /// How far the two agree.
    pub fn agreement(&self, tolerance: f64) -> Agreement {
        match self {
            Found::Numbers(gap) => gap.agreement(tolerance),
            Found::Texts(.., agreement) => *agreement,
            _ => Agreement::Beyond,
        }
    }

    /// What worst is measured by: the difference over the scale, infinite where there is none to
    /// measure.
    pub fn off(&self) -> f64 {
        match self {
            Found::Numbers(gap) => gap.off,
            Found::Texts(.., Agreement::Equal | Agreement::Within) => 0.0,
            _ => f64::INFINITY,
        }
    }
}

/// Keys that say how long something took or how it was spread, which no two runs share.
pub const CLOCKS: [&str; 8] = [
    "seconds",
    "duration",
    "elapsed",
    "threads",
    "images_per_s",
    "seconds_per_step",
    "started",
    "finished",
];

/// What names an object of a list.
const NAMES: [&str; 5] = ["label", "what", "id", "name", "title"];

/// Everything in a document under its name, in the document's order; clocks are left out.
///
/// An object of a list goes by its own name where it has one, and by its place where not. A list of
/// numbers is one item, also where its rows are lists; what a report writes for numbers that JSON
/// lacks (null, "nan", "inf") are numbers.
pub fn items(document: &Value) -> Vec<(String, Content)> {
    let mut out = Vec::new();
    collect("", document, &mut out);
    out
}

fn collect(path: &str, value: &Value, out: &mut Vec<(String, Content)>) {
    let below =
        |key: &str| if path.is_empty() { key.to_owned() } else { format!("{path} · {key}") };
    if let Some(numbers) = numbers(value) {
        return out.push((path.to_owned(), Content::Numbers(numbers)));
    }
    match value {
        Value::Object(map) => {
            map.iter()
                .filter(|(key, _)| !CLOCKS.contains(&key.as_str()))
                .for_each(|(key, value)| collect(&below(key), value, out));
        }
        Value::Array(list) => {
            for (place, value) in list.iter().enumerate() {
                let named = NAMES
                    .iter()
                    .find_map(|key| Some((key, value.get(key)?.as_str()?)))
                    .filter(|(_, name)| !name.is_empty());
                let path = below(named.map_or(&(place + 1).to_string(), |(_, name)| name));
                match (value, named) {
                    // Its name is said already.
                    (Value::Object(map), Some((key, _))) if map.len() > 1 => {
                        collect(
                            &path,
                            &map.iter()
                                .filter(|(k, _)| k != key)
                                .map(|(k, v)| (k.clone(), v.clone()))
                                .collect(),
                            out,
                        );
                    }
                    _ => collect(&path, value, out),
                }
            }
        }
        Value::String(text) => out.push((path.to_owned(), Content::Text(text.clone()))),
        other => out.push((path.to_owned(), Content::Text(other.to_string()))),
    }
}

/// A number or a list of them, rows after each other.
fn numbers(value: &Value) -> Option<Vec<f64>> {
    match value {
        Value::Number(x) => x.as_f64().map(|x| vec![x]),
        Value::Null => Some(vec![f64::NAN]),
        Value::String(text) => match text.as_str() {
            "nan" => Some(vec![f64::NAN]),
            "inf" => Some(vec![f64::INFINITY]),
            "-inf" => Some(vec![f64::NEG_INFINITY]),
            _ => None,
        },
        Value::Array(list) => Some(list.iter().map(numbers).collect::<Option<Vec<_>>>()?.concat()),
        _ => None,
    }
}

/// How far two texts agree: with numbers of a few digits in them, by one in the last of three.
fn texts(a: &str, b: &str) -> Agreement {
    let written = |text: &str| -> Vec<f64> {
        let parts = text.split(|c: char| !(c.is_ascii_digit() || c == '.'));
        parts.filter_map(|part| part.trim_matches('.').parse().ok()).collect()
    };
    let (numbers_a, numbers_b) = (written(a), written(b));
    let near = |(a, b): (&f64, &f64)| (a - b).abs() <= 0.011 * a.abs().max(b.abs());
    if a == b {
        Agreement::Equal
    } else if masked(a) == masked(b)
        && numbers_a.len() == numbers_b.len()
        && numbers_a.iter().zip(&numbers_b).all(near)
    {
        Agreement::Within
    } else {
        Agreement::Beyond
    }
}

/// A text without its numbers.
fn masked(text: &str) -> String {
    let mut out = String::new();
    for c in text.chars() {
        match c {
            '0'..='9' | '.' if out.ends_with('#') => {}
            '0'..='9' => out.push('#'),
            c => out.push(c),
        }
    }
    out
}

/// Pairs by name: the k-th of a name in A with the k-th in B, then what is left by names without
/// their numbers, because a name may say what was computed. In the order of A, and what only B has
/// after.
pub fn paired<'a, A, B>(
    a: &'a [(String, A)],
    b: &'a [(String, B)],
) -> Vec<(&'a str, Option<&'a A>, Option<&'a B>)> {
    let mut partner: Vec<Option<usize>> = vec![None; a.len()];
    let mut free = vec![true; b.len()];
    for key in [str::to_owned, masked] {
        let mut places: HashMap<String, VecDeque<usize>> = HashMap::new();
        for (k, (name, _)) in b.iter().enumerate().filter(|(k, _)| free[*k]) {
            places.entry(key(name)).or_default().push_back(k);
        }
        for ((name, _), partner) in
            a.iter().zip(&mut partner).filter(|(_, partner)| partner.is_none())
        {
            *partner = places.get_mut(&key(name)).and_then(VecDeque::pop_front);
            partner.iter().for_each(|k| free[*k] = false);
        }
    }
    let both = a
        .iter()
        .zip(&partner)
        .map(|((name, a), partner)| (name.as_str(), Some(a), partner.map(|k| &b[k].1)));
    let rest = b
        .iter()
        .zip(&free)
        .filter(|(_, free)| **free)
        .map(|((name, b), _)| (name.as_str(), None, Some(b)));
    both.chain(rest).collect()
}

/// Everything in two documents, compared by name.
pub fn compare(a: &Value, b: &Value) -> Vec<(String, Found)> {
    let (a, b) = (items(a), items(b));
    let found = |a: Option<&Content>, b: Option<&Content>| match (a, b) {
        (Some(Content::Numbers(a)), Some(Content::Numbers(b))) if a.len() == b.len() => {
            Found::Numbers(Gap::of(a, b))
        }
        (Some(Content::Numbers(a)), Some(Content::Numbers(b))) => Found::Lengths(a.len(), b.len()),
        (Some(Content::Text(a)), Some(Content::Text(b))) => {
            Found::Texts(a.clone(), b.clone(), texts(a, b))
        }
        (Some(a), Some(b)) => Found::Texts(shown(a), shown(b), Agreement::Beyond),
        (_, None) => Found::OnlyA,
        (None, _) => Found::OnlyB,
    };
    paired(&a, &b).into_iter().map(|(name, a, b)| (name.to_owned(), found(a, b))).collect()
}

/// A content for people, cut to a line.
pub fn shown(content: &Content) -> String {
    match content {
        Content::Text(text) => text.clone(),
        Content::Numbers(x) if x.len() == 1 => x[0].to_string(),
        Content::Numbers(x) => {
            let first: Vec<String> = x.iter().take(8).map(f64::to_string).collect();
            format!(
                "{}{}",
                first.join(", "),
                if x.len() > 8 { format!(", … ({} numbers)", x.len()) } else { String::new() }
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn names(found: &[(String, Found)]) -> Vec<(&str, Agreement)> {
        found.iter().map(|(name, found)| (name.as_str(), found.agreement(1e-9))).collect()
    }

    #[test]
    fn a_figure_is_compared_series_by_series() {
        let figure = |last: f64, note: &str| {
            json!({
                "title": "t",
                "series": [{"label": "one", "x": [1, 2], "y": [3.0, last]}, {"label": "two", "x": [], "y": [null, "inf"]}],
                "rows": [{"label": "r", "pictures": [{"note": note, "values": [[0.5, 1], [2, 3]]}]}],
                "seconds": last,
            })
        };
        let same = compare(&figure(4.0, "12 %"), &figure(4.0, "12 %"));
        assert!(same.iter().all(|(_, found)| found.agreement(0.0) == Agreement::Equal));
        let other = compare(&figure(4.0, "12.1 %"), &figure(4.1, "12.2 %"));
        let differing: Vec<_> =
            names(&other).into_iter().filter(|n| n.1 != Agreement::Equal).collect();
        assert_eq!(
            differing,
            [
                ("rows · r · pictures · 1 · note", Agreement::Within),
                ("series · one · y", Agreement::Beyond)
            ]
        );
        assert!(other.iter().any(|(name, found)| name.ends_with("values")
            && matches!(found, Found::Numbers(g) if g.count == 4)));
        assert_eq!(texts("12 %", "13 %"), Agreement::Beyond);
        assert_eq!(texts("holds", "fails"), Agreement::Beyond);
    }

    #[test]
    fn what_moved_is_paired_by_name_and_what_is_missing_is_named() {
        let a = json!([{"what": "first"}, {"what": "at 17 of 20", "got": 1}, {"what": "twice", "got": 1}, {"what": "twice", "got": 2}]);
        let b = json!([{"what": "twice", "got": 1}, {"what": "at 18 of 20", "got": 1}, {"what": "twice", "got": 2}, {"what": "last", "got": 3}]);
        let found = compare(&a, &b);
        assert_eq!(
            names(&found),
            [
                ("first · what", Agreement::Beyond),
                ("at 17 of 20 · got", Agreement::Equal),
                ("twice · got", Agreement::Equal),
                ("twice · got", Agreement::Equal),
                ("last · got", Agreement::Beyond),
            ]
        );
        assert_eq!((&found[0].1, &found[4].1), (&Found::OnlyA, &Found::OnlyB));
    }

    #[test]
    fn other_lengths_and_other_kinds_are_beyond() {
        let found = compare(
            &json!({"x": [1, 2], "y": "text", "z": []}),
            &json!({"x": [1], "y": 3, "z": []}),
        );
        assert_eq!(found[0].1, Found::Lengths(2, 1));
        assert!(
            matches!(&found[1].1, Found::Texts(a, b, Agreement::Beyond) if a == "text" && b == "3")
        );
        assert_eq!(found[2].1.agreement(0.0), Agreement::Equal);
    }
}
