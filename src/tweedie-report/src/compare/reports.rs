//! Two reports: their settings, their numbers series by series, their checks.

use super::super::chapter::{picture, plot, thousands};
use super::super::drawing::{Axis, Drawing, Mark, Pictures, Series, Tone};
use super::super::foreign::Foreign;
use super::super::page::{Block, Chapter, Section, Table, f, figure, number, p, section};
use super::super::style::{BLUE, GREEN, INK, MUTED, ORANGE, PURPLE, SKY, VERMILION};
use super::settings::{self, Setting};
use super::{
    OF_REPORTS, Options, Part, ROWS, amount, code, command, counted, cut, file, folder, shown_of,
    source,
};
use crate::difference::checks::{self, Checked};
use crate::difference::values::{self, Found, paired};
use crate::difference::{Agreement, Gap, LEAST_SCALE};
use serde::Serialize;
use serde_json::{Value, json};
use std::collections::BTreeSet;
use std::path::Path;
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;
use tweedie::math::{larger, smaller};

/// Documents whose worst series are drawn.
const DRAWN: usize = 4;

/// Longer side over shorter of a picture that is drawn.
const SLIMMEST: usize = 16;

/// One name in a document of both reports.
#[derive(Serialize)]
struct Item {
    chapter: Foreign,
    /// The document, without `.json`.
    document: Foreign,
    name: Foreign,
    agreement: Agreement,
    found: Found,
}

/// A check of a chapter.
#[derive(Serialize)]
struct ChapterCheck {
    chapter: Foreign,
    #[serde(flatten)]
    checked: Checked,
}

/// All that was compared.
#[derive(Default, Serialize)]
struct Comparison {
    tolerance: f64,
    /// Names in the order of A's page, then what only B has.
    chapters: Vec<Foreign>,
    only_a: Vec<Foreign>,
    only_b: Vec<Foreign>,
    settings: Vec<Setting>,
    #[serde(skip)]
    items: Vec<Item>,
    #[serde(skip)]
    checks: Vec<ChapterCheck>,
}

impl Comparison {
    fn of(&self, agreement: Agreement) -> usize {
        self.items.iter().filter(|i| i.agreement == agreement).count()
    }

    /// What differs, the worst first.
    fn differing(&self) -> Vec<&Item> {
        let mut found: Vec<&Item> =
            self.items.iter().filter(|i| i.agreement != Agreement::Equal).collect();
        // A stable sort: of equals, the page's order.
        found.sort_by(|a, b| {
            (b.agreement, b.found.off()).partial_cmp(&(a.agreement, a.found.off())).expect("no NaN")
        });
        found
    }
}

pub fn compare(options: &Options) -> Result<Part> {
    let comparison = read(options)?;
    let c = &comparison;
    let (equal, within, beyond) =
        (c.of(Agreement::Equal), c.of(Agreement::Within), c.of(Agreement::Beyond));
    let worst = c.differing().first().map_or(String::new(), |worst| {
        let by = if worst.found.off().is_finite() {
            format!(", {:.1e} off", worst.found.off())
        } else {
            String::new()
        };
        let [chapter, document, name] =
            [&worst.chapter, &worst.document, &worst.name].map(Foreign::raw);
        format!("; farthest {chapter}/{document} ({}){by}", cut(name, 200))
    });
    let changed = c.checks.iter().filter(|k| k.checked.verdict_changed()).count();
    let says = format!(
        "{} of {}: {} equal to the bit, {} within {:e}, {} beyond{}{worst}",
        counted(c.items.len(), "series", "series"),
        counted(c.chapters.len(), "chapter", "chapters"),
        thousands(equal),
        thousands(within),
        c.tolerance,
        thousands(beyond),
        if changed > 0 {
            format!("; {}", counted(changed, "verdict changed", "verdicts changed"))
        } else {
            String::new()
        },
    );
    let document =
        json!({"summary": comparison, "series": comparison.items, "checks": comparison.checks});
    Ok(Part { says, chapters: vec![chapter(&comparison, options)?], document })
}

/// The names of a manifest's chapters, in its order.
fn chapters_of(manifest: &Value) -> Vec<String> {
    let list = manifest.get("experiments").and_then(Value::as_array).into_iter().flatten();
    list.filter_map(|e| e.get("name").and_then(Value::as_str)).map(String::from).collect()
}

fn read(options: &Options) -> Result<Comparison> {
    let (a, b) = (&options.a, &options.b);
    let manifests = [a, b].map(|folder| source::json(&source::within(folder, "manifest.json")?));
    let [manifest_a, manifest_b] = manifests;
    let (mut manifest_a, mut manifest_b) = (manifest_a?, manifest_b?);
    for (folder, manifest) in [(a, &manifest_a), (b, &manifest_b)] {
        if chapters_of(manifest).is_empty() {
            let path = folder.join("manifest.json");
            return Err(Error::file(
                path,
                "names no experiments",
                "pass a folder that `tweedie report` wrote",
            ));
        }
        // They are names of folders, of files and of anchors.
        if let Some(name) = chapters_of(manifest).iter().find(|name| !source::is_chapter(name)) {
            let problem = format!(
                "names an experiment {:?}, which is not made of letters, digits, - and _",
                cut(name, 60)
            );
            return Err(Error::file(
                folder.join("manifest.json"),
                problem,
                "pass a folder that `tweedie report` wrote",
            ));
        }
    }
    let chosen = |name: &String| options.names.is_empty() || options.names.contains(name);
    let (of_a, of_b) = (chapters_of(&manifest_a), chapters_of(&manifest_b));
    if let Some(name) =
        options.names.iter().find(|name| !of_a.contains(name) && !of_b.contains(name))
    {
        let both: BTreeSet<&str> = of_a.iter().chain(&of_b).map(String::as_str).collect();
        let allowed = both.into_iter().collect::<Vec<_>>().join(", ");
        return Err(Error::domain("experiment", name, allowed, "name one that a report has"));
    }
    let (of_a, of_b): (Vec<String>, Vec<String>) =
        (of_a.into_iter().filter(chosen).collect(), of_b.into_iter().filter(chosen).collect());
    let alone = |one: &[String], other: &[String]| {
        one.iter().filter(|name| !other.contains(name)).cloned().collect::<Vec<_>>()
    };
    let (only_a, only_b) = (alone(&of_a, &of_b), alone(&of_b, &of_a));
    let mut c =
        Comparison { tolerance: options.tolerance.unwrap_or(OF_REPORTS), ..Comparison::default() };
    for name in of_a.iter().filter(|name| of_b.contains(name)) {
        chapter_of(&mut c, name, a, b);
    }
    // Of chapters in one alone no setting can differ.
    for manifest in [&mut manifest_a, &mut manifest_b] {
        if let Some(list) = manifest.get_mut("experiments").and_then(Value::as_array_mut) {
            list.retain(|e| {
                e.get("name").and_then(Value::as_str).is_some_and(|name| {
                    of_a.iter().any(|n| n == name) && of_b.iter().any(|n| n == name)
                })
            });
        }
    }
    c.settings = settings::differing(&manifest_a, &manifest_b);
    c.chapters = of_a.into_iter().chain(only_b.iter().cloned()).map(Foreign::from).collect();
    [c.only_a, c.only_b] =
        [only_a, only_b].map(|names| names.into_iter().map(Foreign::from).collect());
    Ok(c)
}

/// A document of a chapter, which lies in the report and nowhere else.
fn document_of(report: &Path, chapter: &str, document: &str) -> Result<Value> {
    source::json(&source::within(report, &format!("{chapter}/{document}"))?)
}

/// Every document of a chapter that both reports have.
fn chapter_of(c: &mut Comparison, name: &str, a: &Path, b: &Path) {
    let (of_a, of_b) = (source::documents(a, name), source::documents(b, name));
    let all: BTreeSet<&String> = of_a.iter().chain(&of_b).collect();
    let mut put = |document: &str, name_within: &str, found: Found| {
        let agreement = found.agreement(c.tolerance);
        let [chapter, document, name] =
            [name, document.trim_end_matches(".json"), name_within].map(Foreign::from);
        c.items.push(Item { chapter, document, name, agreement, found });
    };
    if all.is_empty() {
        put(
            "",
            "the whole folder",
            Found::Texts("no documents".into(), "no documents".into(), Agreement::Beyond),
        );
    }
    for document in all {
        match (of_a.contains(document), of_b.contains(document)) {
            (true, false) => put(document, "the whole document", Found::OnlyA),
            (false, _) => put(document, "the whole document", Found::OnlyB),
            (true, true) => {
                match (document_of(a, name, document), document_of(b, name, document)) {
                    (Ok(a), Ok(b)) if document == "checks.json" => {
                        let checks =
                            checks::compare(&checks::read(&a), &checks::read(&b), c.tolerance);
                        c.checks.extend(
                            checks
                                .into_iter()
                                .map(|checked| ChapterCheck { chapter: name.into(), checked }),
                        );
                    }
                    (Ok(a), Ok(b)) => values::compare(&a, &b)
                        .into_iter()
                        .for_each(|(within, found)| put(document, &within, found)),
                    (a, b) => {
                        let state = |read: Result<Value>| {
                            read.map_or_else(|e| e.to_string(), |_| "readable".into())
                        };
                        put(
                            document,
                            "the whole document",
                            Found::Texts(state(a), state(b), Agreement::Beyond),
                        );
                    }
                }
            }
        }
    }
}

fn chapter(c: &Comparison, options: &Options) -> Result<Chapter> {
    let beyond = c.of(Agreement::Beyond) + c.only_a.len() + c.only_b.len();
    let bad_checks = c.checks.iter().filter(|k| k.checked.agreement == Agreement::Beyond).count();
    let title = match (beyond + bad_checks, c.of(Agreement::Within)) {
        (0, 0) => "Two reports with the same numbers",
        (0, _) => "Two reports with the same numbers but for rounding",
        _ => "Two reports, and where they differ",
    };
    let numbers: usize = c
        .items
        .iter()
        .map(|i| if let Found::Numbers(gap) = &i.found { gap.count } else { 0 })
        .sum();
    let lead = format!(
        "A is {}, B is {}. They share {}, with {} numbers in {} and {}. Of the series {} are equal to the bit, {} agree within the tolerance of {}, and {} do not.",
        folder(&options.a),
        folder(&options.b),
        counted(c.chapters.len() - c.only_a.len() - c.only_b.len(), "chapter", "chapters"),
        thousands(numbers),
        counted(c.items.len(), "series", "series"),
        counted(c.checks.len(), "check", "checks"),
        thousands(c.of(Agreement::Equal)),
        thousands(c.of(Agreement::Within)),
        amount(c.tolerance),
        thousands(c.of(Agreement::Beyond)),
    );
    let mut sections = vec![verdict(c), settings(c)];
    sections.extend(series(c, options)?);
    sections.extend(differing_checks(c));
    Ok(Chapter {
        name: "reports".into(),
        title: title.into(),
        lead,
        command: command(options),
        sections,
    })
}

fn verdict(c: &Comparison) -> Section {
    let rows = c.chapters.iter().map(|name| {
        let of: Vec<&Item> = c.items.iter().filter(|i| i.chapter == *name).collect();
        let with = |agreement| of.iter().filter(|i| i.agreement == agreement).count();
        let farthest =
            of.iter().map(|i| i.found.off()).filter(|off| off.is_finite()).fold(0.0, larger);
        let checks: Vec<&Checked> =
            c.checks.iter().filter(|k| k.chapter == *name).map(|k| &k.checked).collect();
        let changed = checks.iter().filter(|k| k.verdict_changed()).count();
        let mut row = vec![code(name.raw())];
        if c.only_a.contains(name) || c.only_b.contains(name) {
            row.push(if c.only_a.contains(name) { "only in A".into() } else { "only in B".into() });
            row.extend(vec![String::new(); 6]);
        } else {
            row.extend(
                [
                    of.len(),
                    with(Agreement::Equal),
                    with(Agreement::Within),
                    with(Agreement::Beyond),
                ]
                .map(thousands),
            );
            row.extend([amount(farthest), thousands(checks.len()), thousands(changed)]);
        }
        row
    });
    let measured = c
        .items
        .iter()
        .map(|i| &i.found)
        .filter_map(|f| if let Found::Numbers(gap) = f { Some(gap.off) } else { None });
    let unlike = c
        .items
        .iter()
        .filter(|i| i.agreement == Agreement::Beyond && !matches!(i.found, Found::Numbers(_)))
        .count();
    let of_checks = c
        .checks
        .iter()
        .filter(|k| !k.checked.verdict_changed() && k.checked.agreement == Agreement::Beyond)
        .count();
    let changed = c.checks.iter().filter(|k| k.checked.verdict_changed()).count();
    let none = |what: &str, n: usize| Evidence::new(what, n as f64, 0.0, 0.0);
    let evidence = vec![
        Evidence::new(
            "largest difference of a number, over the largest of its series",
            measured.fold(0.0, larger),
            0.0,
            c.tolerance,
        )
        .because(if c.tolerance == OF_REPORTS {
            "rounding in another order, see above"
        } else {
            "as asked for"
        }),
        none(
            "series and texts that are in one report only, have other lengths, or say something else",
            unlike,
        ),
        none("chapters in one report only", c.only_a.len() + c.only_b.len()),
        none("checks that hold in one report only", changed),
        none(
            "other checks in one report only, or whose numbers differ beyond the tolerance",
            of_checks,
        ),
    ];
    section(
        "verdict",
        "The verdict",
        vec![
            p("Numbers are compared by name: chapter, document, series. A series is measured as a whole, by the largest absolute value of both, because a curve over ten decades is known to the rounding of its largest number and no better:"),
            f(r"\text{off} = \frac{\max_i |a_i - b_i|}{\max\left(\|a\|_\infty, \|b\|_\infty, 10^{-3}\right)}"),
            p(format!(
                "The least scale of $10^{{-3}}$ keeps curves of rounding errors from being measured by themselves. {} Two NaN are equal; a NaN and a number are beyond any tolerance.",
                if c.tolerance == OF_REPORTS {
                    "The tolerance of $10^{-9}$ is what the same program may differ by on another machine: some $10^{-16}$ at every operation, times sums of thousands of terms and condition numbers up to a million."
                } else {
                    "The tolerance is the one asked for with <code>--tolerance</code>."
                }
            )),
            Block::Table(Table {
                caption: "By chapter: series compared, how many are equal to the bit, within the tolerance and beyond it, the largest difference; checks compared, and how many of them hold in one report only.".into(),
                head: ["chapter", "series", "equal", "within", "beyond", "farthest", "checks", "changed"].map(String::from).to_vec(),
                rows: rows.collect(),
            }),
            file("chapters.json", "what both have, what one has, and the tolerance", c),
            Block::Evidence(evidence),
        ],
    )
}

fn settings(c: &Comparison) -> Section {
    let blocks = if c.settings.is_empty() {
        vec![p(
            "Version, profile, seed and the settings of every chapter that both have are the same. Times and threads are not compared.",
        )]
    } else {
        let said = "A difference of the numbers may have its reason here. What differs in this table does not count in the verdict: only numbers do. Times and threads are not compared.";
        let [table, file] =
            settings::table(&c.settings, "values of the manifests that differ", "settings.json");
        vec![p(said), table, file]
    };
    section("settings", "What the two were made with", blocks)
}

fn series(c: &Comparison, options: &Options) -> Result<Option<Section>> {
    let differing = c.differing();
    if differing.is_empty() {
        return Ok(None);
    }
    let offs: Vec<(f64, Agreement)> = differing
        .iter()
        .map(|i| (i.found.off(), i.agreement))
        .filter(|o| o.0.is_finite() && o.0 > 0.0)
        .collect();
    let mut blocks = vec![];
    if offs.len() > 1 {
        let rank = |agreement| {
            let of = offs.iter().enumerate().filter(move |(_, o)| o.1 == agreement);
            of.map(|(k, o)| (k as f64 + 1.0, o.0)).collect::<Vec<_>>()
        };
        let points = |label: &str, at: Vec<(f64, f64)>, colour| {
            Series::new(
                label,
                at.iter().map(|p| p.0).collect::<Vec<_>>(),
                at.iter().map(|p| p.1).collect::<Vec<_>>(),
                Mark::Points,
                colour,
            )
        };
        let ends = [1.0, offs.len() as f64];
        let mut lines = vec![
            Series::new("tolerance", ends, [c.tolerance; 2], Mark::Dashed, MUTED),
            points("within", rank(Agreement::Within), BLUE),
            points("beyond", rank(Agreement::Beyond), VERMILION),
        ];
        lines.retain(|line| !line.points.is_empty());
        blocks.push(figure(
            "ladder",
            "Every series with a difference, from the farthest to the nearest. What is equal to the bit is not drawn.",
            &format!(
                "{} points that fall from left to right, those above a dashed line of the tolerance in another colour.",
                offs.len()
            ),
            vec![plot(
                "",
                Axis::linear("rank", "series, the farthest first"),
                Axis::log("off", "largest difference / scale"),
                lines,
            )],
        ));
    }
    let cells = |i: &Item| {
        let (count, off, a, b) = match &i.found {
            Found::Numbers(g) => (
                format!("{} of {}", thousands(g.differing), thousands(g.count)),
                amount(g.off),
                number(g.a),
                number(g.b),
            ),
            Found::Lengths(a, b) => (
                String::new(),
                "other length".into(),
                counted(*a, "number", "numbers"),
                counted(*b, "number", "numbers"),
            ),
            Found::Texts(a, b, _) => (String::new(), "other text".into(), code(a), code(b)),
            Found::OnlyA => (String::new(), "only in A".into(), String::new(), String::new()),
            Found::OnlyB => (String::new(), "only in B".into(), String::new(), String::new()),
        };
        vec![
            format!("{} {}", code(&place(i)), Foreign::from(cut(i.name.raw(), 200))),
            count,
            off,
            a,
            b,
            i.agreement.to_string(),
        ]
    };
    blocks.push(Block::Table(Table {
        caption: shown_of(differing.len(), "series with a difference, the farthest first: how many of their numbers differ, the largest difference over the scale, and the two numbers where it is"),
        head: ["series", "differ", "off", "A", "B", ""].map(String::from).to_vec(),
        rows: differing.iter().take(ROWS).map(|i| cells(i)).collect(),
    }));
    blocks.push(file("series.json", "all series of both reports, equal ones too", &c.items));
    blocks.extend(overlays(&differing, options)?);
    Ok(Some(section("series", "The series, the farthest first", blocks)))
}

/// Where an item stands: chapter and document.
fn place(item: &Item) -> String {
    format!("{}/{}", item.chapter.raw(), item.document.raw())
}

/// The figures of A and B on top of each other, of the documents with the farthest series. Their
/// files are numbered: what a document is called is no name for a file here.
fn overlays(differing: &[&Item], options: &Options) -> Result<Vec<Block>> {
    let mut seen: Vec<String> = vec![];
    let mut blocks = vec![];
    for item in
        differing.iter().filter(|i| matches!(i.found, Found::Numbers(_) | Found::Lengths(..)))
    {
        let place = place(item);
        if seen.contains(&place) || blocks.len() == DRAWN {
            continue;
        }
        let read = |report: &Path| {
            document_of(report, item.chapter.raw(), &format!("{}.json", item.document.raw()))
        };
        let (a, b) = (read(&options.a)?, read(&options.b)?);
        let id = format!("overlay-{}", blocks.len() + 1);
        let of = format!("{} of {}", cut(item.document.raw(), 90), item.chapter.raw());
        let shown = code(&place);
        seen.push(place);
        if let Some(drawings) = curves(&a, &b) {
            blocks.push(figure(
                &id,
                &format!("{shown}: the farthest series of A (line) and B (dashed), and the absolute difference."),
                &format!("Left: the curves of both reports on the same axes. Right: the absolute difference of the two, of the figure {of}."),
                drawings,
            ));
        } else if let Some(drawings) = pictures(&a, &b) {
            blocks.push(figure(
                &id,
                &format!("{shown}: the pictures that are farthest apart, of A and of B, and A − B, blue to red about zero, each on its own scale; the largest difference is below it."),
                &format!("Rows of pictures of A and B and a row of their differences, of the figure {of}."),
                drawings,
            ));
        }
    }
    Ok(blocks)
}

/// A list of numbers of a document.
fn list(value: &Value, key: &str) -> Vec<f64> {
    value
        .get(key)
        .and_then(Value::as_array)
        .into_iter()
        .flatten()
        .map(|v| v.as_f64().unwrap_or(f64::NAN))
        .collect()
}

/// An axis as its document names it; logarithmic where its numbers need that to be seen, which a
/// document does not say.
fn axis(a: &Value, key: &str, values: &[f64]) -> Axis {
    let word = |what: &str| {
        a.get(key)
            .and_then(|axis| axis.get(what))
            .and_then(Value::as_str)
            .map_or_else(|| key.to_owned(), |text| cut(text, 60))
    };
    let ends = values
        .iter()
        .filter(|v| v.is_finite())
        .fold((f64::INFINITY, 0.0f64), |(l, h), v| (smaller(l, *v), larger(h, *v)));
    let axis = if ends.0 > 0.0 && ends.1 > 50.0 * ends.0 { Axis::log } else { Axis::linear };
    axis(&word("name"), &word("label"))
}

/// A curve's x and y.
type Curve = (Vec<f64>, Vec<f64>);

/// The farthest three series of a plot, overlaid; none where the document is no plot.
fn curves(a: &Value, b: &Value) -> Option<Vec<Drawing>> {
    let series = |document: &Value| -> Option<Vec<(String, Curve)>> {
        let of =
            |s: &Value| Some((s.get("label")?.as_str()?.to_owned(), (list(s, "x"), list(s, "y"))));
        document.get("series")?.as_array()?.iter().map(of).collect()
    };
    let (of_a, of_b) = (series(a)?, series(b)?);
    let off =
        |a: &[f64], b: &[f64]| if a.len() == b.len() { Gap::of(a, b).off } else { f64::INFINITY };
    let mut found: Vec<_> =
        paired(&of_a, &of_b).into_iter().filter_map(|(name, a, b)| Some((name, a?, b?))).collect();
    found.retain(|(_, a, b)| a != b);
    found.sort_by(|p, q| off(&q.1.1, &q.2.1).total_cmp(&off(&p.1.1, &p.2.1)));
    found.truncate(3);
    let (mut overlay, mut apart) = (vec![], vec![]);
    let pairs = [(BLUE, ORANGE), (PURPLE, GREEN), (INK, SKY)];
    for ((name, a, b), (colour_a, colour_b)) in found.iter().zip(pairs) {
        let name = cut(name, 60);
        overlay.push(Series::new(
            format!("A: {name}"),
            a.0.clone(),
            a.1.clone(),
            Mark::Line,
            colour_a,
        ));
        overlay.push(Series::new(
            format!("B: {name}"),
            b.0.clone(),
            b.1.clone(),
            Mark::Dashed,
            colour_b,
        ));
        let difference = a.1.iter().zip(&b.1).map(|(a, b)| (a - b).abs());
        apart.push(Series::new(
            name,
            a.0.clone(),
            difference.collect::<Vec<_>>(),
            Mark::Linked,
            colour_a,
        ));
    }
    let along = |pick: fn(&(f64, f64)) -> f64| {
        overlay.iter().flat_map(|s| s.points.iter().map(pick)).collect::<Vec<f64>>()
    };
    let (x, y) = (axis(a, "x", &along(|p| p.0)), axis(a, "y", &along(|p| p.1)));
    let label = format!("|A − B| of {}", y.label);
    (!overlay.is_empty()).then(|| {
        vec![
            plot("A and B", x.clone(), y, overlay),
            plot("Their difference", x, Axis::log("difference", &label), apart),
        ]
    })
}

/// The farthest six pictures of a document, with their differences; none where it has none.
fn pictures(a: &Value, b: &Value) -> Option<Vec<Drawing>> {
    let all = |document: &Value| -> Option<Vec<(String, Vec<f64>)>> {
        let rows = document
            .get("rows")?
            .as_array()?
            .iter()
            .filter_map(|row| row.get("pictures")?.as_array())
            .flatten();
        Some(
            rows.map(|q| {
                (
                    q.get("note").and_then(Value::as_str).unwrap_or_default().to_owned(),
                    list(q, "values"),
                )
            })
            .collect(),
        )
    };
    let side = |key: &str| a.get(key).and_then(Value::as_u64).map(|n| n as usize);
    let (of_a, of_b, shape) = (all(a)?, all(b)?, (side("width")?, side("height")?));
    // A row of pictures is as tall as its shape says: a strip of pixels would be a page of its own.
    let drawable =
        shape.0 <= shape.1.saturating_mul(SLIMMEST) && shape.1 <= shape.0.saturating_mul(SLIMMEST);
    let whole = |v: &[f64]| drawable && shape.0.checked_mul(shape.1) == Some(v.len());
    let mut pairs: Vec<_> = of_a
        .iter()
        .zip(&of_b)
        .map(|(a, b)| (&a.1, &b.1))
        .filter(|(a, b)| a != b && whole(a) && whole(b))
        .collect();
    pairs.sort_by(|p, q| Gap::of(q.0, q.1).off.total_cmp(&Gap::of(p.0, p.1).off));
    pairs.truncate(6);
    let rows = |rows, tone| {
        Drawing::Pictures(Pictures {
            title: String::new(),
            heading: String::new(),
            columns: vec![],
            rows,
            shape,
            tone,
        })
    };
    let [of_a, of_b] = [0, 1].map(|k| {
        pairs.iter().map(|(a, b)| picture([a, b][k].iter().copied(), "")).collect::<Vec<_>>()
    });
    let signed = pairs.iter().any(|(a, b)| a.iter().chain(*b).any(|v| v.abs() > 1.5));
    let apart = pairs.iter().map(|(a, b)| {
        let apart: Vec<f64> = a.iter().zip(*b).map(|(a, b)| a - b).collect();
        let largest = apart.iter().map(|v| v.abs()).fold(0.0, larger);
        picture(apart, format!("{largest:.1e}"))
    });
    let apart: Vec<_> = apart.collect();
    (!pairs.is_empty()).then(|| {
        let tone = if signed { Tone::Diverging } else { Tone::Ink };
        let both = vec![("A".into(), of_a), ("B".into(), of_b)];
        vec![rows(both, tone), rows(vec![("A − B".into(), apart)], Tone::Diverging)]
    })
}

fn differing_checks(c: &Comparison) -> Option<Section> {
    let mut differing: Vec<&ChapterCheck> =
        c.checks.iter().filter(|k| k.checked.agreement != Agreement::Equal).collect();
    let off = |k: &Checked| k.gap.as_ref().map_or(f64::INFINITY, |g| g.off);
    differing.sort_by(|p, q| {
        let key = |k: &Checked| (k.verdict_changed(), k.agreement, off(k));
        key(&q.checked).partial_cmp(&key(&p.checked)).expect("no NaN")
    });
    if differing.is_empty() {
        return None;
    }
    let cells = |k: &&ChapterCheck| {
        let said = |check: Option<checks::Check>| {
            check.map_or(String::new(), |c| {
                format!("{}{}", number(c.got), if c.ok { "" } else { ", is off" })
            })
        };
        let Checked { what, a, b, agreement, .. } = &k.checked;
        let state = match (a, b) {
            (Some(_), None) => "only in A".into(),
            (None, _) => "only in B".into(),
            _ if k.checked.verdict_changed() => "verdict changed".into(),
            _ => agreement.to_string(),
        };
        let off = k.checked.gap.as_ref().map_or(String::new(), |gap| amount(gap.off));
        vec![
            format!("{} {}", code(k.chapter.raw()), Foreign::from(cut(what, 300))),
            said(*a),
            said(*b),
            a.or(*b).map_or(String::new(), |c| number(c.tol)),
            off,
            state,
        ]
    };
    let rows = differing.iter().take(ROWS).map(cells).collect();
    Some(section(
        "checks",
        "The checks",
        vec![
            p(format!(
                "A check counts as different when it holds in one report only, or when its number moved by more than the tolerance. The number of a check of rounding errors, whose own tolerance is at most $10^{{-6}}$, may move within that: it has no digits to compare. Scales are at least {}, as above.",
                number(LEAST_SCALE)
            )),
            Block::Table(Table {
                caption: shown_of(
                    differing.len(),
                    "checks with a difference: the number in A and in B, the check's own tolerance, and the difference over the scale",
                ),
                head: ["check", "A", "B", "its tolerance", "off", ""].map(String::from).to_vec(),
                rows,
            }),
            file("checks.json", "all checks of both reports", &c.checks),
        ],
    ))
}
