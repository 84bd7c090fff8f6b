//! What a report consists of, and the page it becomes.

use super::drawing::Drawing;
use super::foreign::Foreign;
use super::prose::prose;
use super::style;
use crate::experiment::Profile;
use base64::Engine;
use minijinja::{Environment, Value, context};
use pulldown_latex::config::{DisplayMode, RenderConfig};
use pulldown_latex::{Parser, Storage, push_mathml};
use rayon::prelude::*;
use sha2::{Digest, Sha256};
use std::collections::{BTreeSet, HashMap};
use tweedie::error::{Error, Result};
use tweedie::evidence::Evidence;

/// One experiment's part of the page, as [`crate::text`] makes it.
///
/// Texts are HTML with `$...$` for formulas in LaTeX; they are the program's own. What comes from
/// elsewhere gets into them as a `Foreign`, which escapes itself.
#[derive(Clone, Debug)]
pub struct Chapter {
    /// Name of the experiment and of its folder.
    pub name: String,
    /// Heading.
    pub title: String,
    /// What is shown and why it matters.
    pub lead: String,
    /// The command that makes it.
    pub command: String,
    /// Its parts.
    pub sections: Vec<Section>,
}

/// A heading with what stands under it.
#[derive(Clone, Debug)]
pub struct Section {
    /// Fragment in addresses.
    pub id: String,
    /// Heading.
    pub title: String,
    /// What stands under it, in order.
    pub blocks: Vec<Block>,
}

/// A part of a section.
#[derive(Clone, Debug)]
pub enum Block {
    /// A paragraph.
    Text(String),
    /// A displayed formula, in LaTeX.
    Formula(String),
    /// Pictures with a caption.
    Figure(Figure),
    /// A table with a caption.
    Table(Table),
    /// Numbers held to what they should be.
    Evidence(Vec<Evidence>),
    /// HTML that another part of the report has made.
    Markup(String),
    /// Files beside the figures, listed with what they are.
    Files(Vec<File>),
}

/// A file in the chapter's folder.
#[derive(Clone, Debug)]
pub struct File {
    /// Its name.
    pub name: String,
    /// What it holds.
    pub about: String,
    /// Its content.
    pub content: Vec<u8>,
}

/// Drawings that share a caption.
#[derive(Clone, Debug)]
pub struct Figure {
    /// Name of its files.
    pub id: String,
    /// What is seen.
    pub caption: String,
    /// What someone who does not see it is told, plain text.
    pub alt: String,
    /// Its drawings.
    pub drawings: Vec<Drawing>,
}

/// Rows of texts; all columns but the first are numbers.
#[derive(Clone, Debug)]
pub struct Table {
    /// What it lists.
    pub caption: String,
    /// Headings.
    pub head: Vec<String>,
    /// Rows.
    pub rows: Vec<Vec<String>>,
}

impl Figure {
    /// A figure whose plots stand at the same height.
    pub fn new(id: &str, caption: &str, alt: &str, mut drawings: Vec<Drawing>) -> Self {
        Drawing::align(&mut drawings);
        Self { id: id.into(), caption: caption.into(), alt: alt.into(), drawings }
    }

    /// Stem of the files of the k-th drawing.
    pub fn stem(&self, k: usize) -> String {
        if self.drawings.len() == 1 {
            self.id.clone()
        } else {
            format!("{}-{}", self.id, (b'a' + k as u8) as char)
        }
    }
}

impl Chapter {
    /// All figures, in order.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.sections
            .iter()
            .flat_map(|s| &s.blocks)
            .filter_map(|b| if let Block::Figure(f) = b { Some(f) } else { None })
    }

    /// All drawings, each with the stem of its files.
    pub fn drawings(&self) -> impl Iterator<Item = (String, &Drawing)> {
        self.figures()
            .flat_map(|f| f.drawings.iter().enumerate().map(|(k, drawing)| (f.stem(k), drawing)))
    }

    /// All files beside the figures.
    pub fn files(&self) -> impl Iterator<Item = &File> {
        self.sections
            .iter()
            .flat_map(|s| &s.blocks)
            .filter_map(|b| if let Block::Files(f) = b { Some(f) } else { None })
            .flatten()
    }

    /// All evidence, in order.
    pub fn evidence(&self) -> impl Iterator<Item = &Evidence> {
        self.sections
            .iter()
            .flat_map(|s| &s.blocks)
            .filter_map(|b| if let Block::Evidence(e) = b { Some(e) } else { None })
            .flatten()
    }
}

/// A paragraph.
pub(super) fn p(text: impl Into<String>) -> Block {
    Block::Text(text.into())
}

/// A displayed formula.
pub(super) fn f(latex: &str) -> Block {
    Block::Formula(latex.into())
}

pub(super) fn figure(id: &str, caption: &str, alt: &str, drawings: Vec<Drawing>) -> Block {
    Block::Figure(Figure::new(id, caption, alt, drawings))
}

pub(super) fn section(id: &str, title: &str, blocks: Vec<Block>) -> Section {
    Section { id: id.into(), title: title.into(), blocks }
}

/// What the page says of the run that made it.
#[derive(Clone, Debug)]
pub struct Colophon {
    /// Crate version.
    pub version: String,
    /// `quick` or `full`.
    pub profile: String,
    /// The seed.
    pub seed: u64,
}

impl Colophon {
    /// Of a run of this program.
    pub fn new(profile: Profile, seed: u64) -> Self {
        Self { version: super::manifest::VERSION.into(), profile: profile.to_string(), seed }
    }
}

/// A drawing as its files have it.
pub struct Rendered {
    pub svg: String,
    pub png: Vec<u8>,
}

/// Every drawing of some chapters, by the path of its file without the ending.
pub type Drawn = HashMap<String, Rendered>;

/// Draws all figures, on all cores.
///
/// # Errors
/// A drawing that can't be drawn.
pub fn draw(chapters: &[Chapter]) -> Result<Drawn> {
    let of = |chapter| {
        Chapter::drawings(chapter)
            .map(move |(stem, drawing)| (format!("{}/{stem}", chapter.name), drawing))
    };
    let all: Vec<_> = chapters.iter().flat_map(of).collect();
    all.into_par_iter()
        .map(|(path, drawing)| Ok((path, Rendered { svg: drawing.svg()?, png: drawing.png()? })))
        .collect()
}

/// The whole page as one HTML document that needs no other file.
///
/// # Errors
/// A formula that is not LaTeX.
///
/// # Panics
/// For a figure that is not among the drawn.
pub fn html(chapters: &[Chapter], drawn: &Drawn, colophon: &Colophon) -> Result<String> {
    let mut figures = 0;
    let mut parts = Vec::new();
    for chapter in chapters {
        let mut sections = Vec::new();
        for section in &chapter.sections {
            let blocks = section
                .blocks
                .iter()
                .map(|b| block(b, &chapter.name, drawn, &mut figures))
                .collect::<Result<Vec<_>>>()?;
            sections.push(context! { id => format!("{}-{}", chapter.name, section.id), title => section.title, blocks });
        }
        let failed = chapter.evidence().filter(|e| !e.holds()).count();
        parts.push(context! {
            name => chapter.name, title => chapter.title, lead => text(&chapter.lead)?, command => chapter.command, sections,
            checks => chapter.evidence().count(), failed,
        });
    }
    let checks: Vec<bool> =
        chapters.iter().flat_map(Chapter::evidence).map(Evidence::holds).collect();
    let failed = checks.iter().filter(|holds| !**holds).count();
    let styles = chapters
        .iter()
        .flat_map(Chapter::drawings)
        .filter_map(|(_, drawing)| drawing.style())
        .collect();
    render(
        "page.html",
        &Own {
            css: format!("{}{}", style::page_css(), include_str!("templates/ledger.css")),
            styles,
            script: "",
        },
        context! { figures, checks => checks.len(), failed, chapters => parts, version => colophon.version, profile => colophon.profile, seed => colophon.seed },
    )
}

/// What a page brings with it that a browser acts on.
pub(super) struct Own {
    /// Its style sheet, besides that of all pages.
    pub css: String,
    /// Style elements in its drawings.
    pub styles: BTreeSet<String>,
    /// Its script, or nothing.
    pub script: &'static str,
}

/// Markup that the program has written. Templates escape every other text.
pub(super) fn markup(html: impl Into<String>) -> Value {
    Value::from_safe_string(html.into())
}

/// A template of the folder, within the frame that all pages share.
///
/// A page says by a content security policy what it consists of: its one script and its style
/// sheets, by their hashes, and pictures and fonts within it. A browser runs and fetches nothing
/// else, whatever else should get into it.
pub(super) fn render(template: &str, own: &Own, values: Value) -> Result<String> {
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    for (name, source) in TEMPLATES {
        environment.add_template(name, source).map_err(page_failed)?;
    }
    let css = [&style::font_css(), include_str!("templates/page.css"), &own.css]
        .map(|part| part.trim_end())
        .join("\n");
    let hash = |text: &str| {
        format!(
            "'sha256-{}'",
            base64::engine::general_purpose::STANDARD.encode(Sha256::digest(text))
        )
    };
    let styles: Vec<String> =
        std::iter::once(&css).chain(&own.styles).map(|style| hash(style)).collect();
    let script = if own.script.is_empty() { "'none'".into() } else { hash(own.script) };
    // Attributes place the frames of films and the parts of formulas. Browsers that do not tell
    // them from elements take `style-src`.
    let policy = format!(
        "default-src 'none'; script-src {script}; style-src 'unsafe-inline'; style-src-elem {}; style-src-attr 'unsafe-inline'; \
         img-src data:; font-src data:; base-uri 'none'; form-action 'none'",
        styles.join(" ")
    );
    let shared = context! { css => markup(css), script => markup(own.script), policy => markup(policy), ..values };
    environment.get_template(template).and_then(|t| t.render(shared)).map_err(page_failed)
}

/// All templates. Their names end in `.html`, so that the engine escapes what is no [`markup`].
const TEMPLATES: [(&str, &str); 4] = [
    ("base.html", include_str!("templates/base.html")),
    ("block.html", include_str!("templates/block.html")),
    ("page.html", include_str!("templates/page.html")),
    ("ledger.html", include_str!("templates/ledger.html")),
];

/// What `block.html` shows of a block.
fn block(block: &Block, folder: &str, drawn: &Drawn, figures: &mut usize) -> Result<Value> {
    let line = |cells: &[String]| cells.iter().map(|cell| text(cell)).collect::<Result<Vec<_>>>();
    Ok(match block {
        Block::Text(t) => context! { kind => "text", text => text(t)? },
        Block::Formula(latex) => {
            context! { kind => "formula", formula => markup(displayed(latex)?) }
        }
        Block::Figure(f) => {
            *figures += 1;
            figure_shown(f, folder, drawn, *figures)?
        }
        Block::Table(t) => {
            let rows = t.rows.iter().map(|row| line(row)).collect::<Result<Vec<_>>>()?;
            context! { kind => "table", caption => text(&t.caption)?, head => line(&t.head)?, rows }
        }
        Block::Evidence(e) => {
            context! { kind => "evidence", evidence => markup(evidence(&[("", e)])) }
        }
        Block::Markup(html) => context! { kind => "markup", html => markup(html) },
        Block::Files(files) => {
            let files: Vec<Value> = files
                .iter()
                .map(|f| context! { name => f.name, about => markup(&f.about) })
                .collect();
            context! { kind => "files", folder, files }
        }
    })
}

fn figure_shown(f: &Figure, folder: &str, drawn: &Drawn, number: usize) -> Result<Value> {
    let mut drawings = Vec::new();
    for (k, drawing) in f.drawings.iter().enumerate() {
        let (stem, alone) = (f.stem(k), f.drawings.len() == 1);
        let svg = &drawn[&format!("{folder}/{stem}")].svg;
        // The template opens it, with a role and a label.
        let svg = svg
            .strip_prefix("<svg ")
            .ok_or_else(|| page_failed("a drawing that is no SVG element"))?;
        let label = if alone {
            f.alt.clone()
        } else {
            format!("{} Part {} of {}.", f.alt, k + 1, f.drawings.len())
        };
        let shape = match drawing {
            Drawing::Plot(_) if alone => "drawing plot",
            _ if alone || drawing.is_wide() => "drawing wide",
            _ => "drawing",
        };
        let part = if alone { String::new() } else { format!("({}) ", (b'a' + k as u8) as char) };
        drawings.push(context! { stem, label, shape, part, svg => markup(svg) });
    }
    Ok(
        context! { kind => "figure", folder, id => f.id, number, caption => text(&f.caption)?, drawings },
    )
}

/// Rows of evidence under their headings; an empty heading is left out.
pub(super) fn evidence(groups: &[(&str, &[Evidence])]) -> String {
    let row = |e: &Evidence| {
        let (class, word) = if e.holds() { ("holds", "holds") } else { ("fails", "is off") };
        let cases = if e.cases > 1 {
            format!("worst of {} random cases; ", e.cases)
        } else {
            String::new()
        };
        let why = if e.why.is_empty() {
            cases.trim_end_matches("; ").into()
        } else {
            format!("{cases}tolerance: {}", prose(&e.why))
        };
        let note = if why.is_empty() { String::new() } else { format!("<small>{why}</small>") };
        format!(
            "<tr class=\"{class}\"><td>{}{note}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{word}</td></tr>\n",
            prose(&e.what),
            number(e.got),
            e.side.sign().to_owned() + &number(e.want),
            number(e.off()),
            number(e.tol)
        )
    };
    let group = |(heading, rows): &(&str, &[Evidence])| {
        let heading = if heading.is_empty() {
            String::new()
        } else {
            format!("<tr class=\"group\"><th colspan=\"6\">{heading}</th></tr>\n")
        };
        format!("<tbody>{heading}{}</tbody>", rows.iter().map(row).collect::<String>())
    };
    format!(
        "<div class=\"table evidence\"><table>\
         <thead><tr><th>what</th><th>got</th><th>want</th><th>off by</th><th>tolerance</th><th></th></tr></thead>{}</table></div>\n",
        groups.iter().map(group).collect::<String>()
    )
}

/// A number for a table: short where it is round, otherwise five digits.
pub(super) fn number(v: f64) -> String {
    let magnitude = v.abs();
    let short = if v == 0.0 {
        "0".into()
    } else if !v.is_finite() {
        v.to_string()
    } else if (1e-3..1e5).contains(&magnitude) {
        let digits = (4 - magnitude.log10().floor() as i32).clamp(0, 8) as usize;
        let text = format!("{v:.digits$}");
        if text.contains('.') {
            text.trim_end_matches('0').trim_end_matches('.').to_string()
        } else {
            text
        }
    } else {
        let text = format!("{v:.1e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        format!("{}&#x202F;·&#x202F;10<sup>{exponent}</sup>", mantissa.trim_end_matches(".0"))
    };
    short.replace('-', "−")
}

/// The program's own text with its `$...$` typeset.
fn text(source: &str) -> Result<Value> {
    Ok(markup(set_text(source)?))
}

/// The same as HTML.
pub(super) fn set_text(source: &str) -> Result<String> {
    let parts = source.split('$').enumerate();
    let set = parts.map(|(k, part)| {
        if k % 2 == 0 { Ok(part.to_string()) } else { formula(part, DisplayMode::Inline) }
    });
    set.collect()
}

/// A displayed formula. On a narrow page it breaks before its relations, between the terms of a
/// long sum, and where `\quad` or `\qquad` separates parts.
pub(super) fn displayed(latex: &str) -> Result<String> {
    let mut out = String::new();
    for (gap, part) in breakable(latex) {
        out += if gap { " <span class=\"gap\"></span>" } else { "<wbr>" };
        // An empty group before it makes the sign one between terms.
        let sum = !gap && !out.is_empty() && part.starts_with(['+', '-']);
        out += &formula(
            &if sum { format!("{{}}{part}") } else { part.to_owned() },
            DisplayMode::Block,
        )?;
    }
    // Inline, in display style: parts on one line then share the mathematical baseline.
    let inline = out
        .trim_start_matches("<wbr>")
        .replace("display=\"block\"", "display=\"inline\" displaystyle=\"true\"");
    Ok(inline)
}

/// The parts of a formula between which a line may break, outside of all braces and brackets; each
/// with whether a gap precedes it.
fn breakable(latex: &str) -> Vec<(bool, &str)> {
    // Characters of LaTeX before a sign at which a sum may break; a sign that is no sum's follows a
    // relation, so closer.
    const LONG: usize = 32;
    let (mut depth, mut at, mut start, mut gap) = (0, 0, 0, false);
    let mut parts = Vec::new();
    while let Some(first) = latex[at..].chars().next() {
        let rest = &latex[at..];
        let name = || rest[1..].bytes().take_while(u8::is_ascii_alphabetic).count().max(1);
        let token = &rest[..if first == '\\' { 1 + name() } else { first.len_utf8() }];
        at += token.len();
        match token {
            "{" | "(" | "[" | "\\begin" => depth += 1,
            "}" | ")" | "]" | "\\end" => depth -= 1,
            // Their brackets are part of them: one of a pair may be round and the other square, or
            // a point.
            "\\left" => (depth, at) = (depth + 1, at + 1),
            "\\right" => (depth, at) = (depth - 1, at + 1),
            "\\quad" | "\\qquad" | "=" | "\\approx" | "\\le" | "\\ge" | "\\Rightarrow"
            | "\\iff"
                if depth == 0 =>
            {
                let separates = token.ends_with("quad");
                parts.push((gap, &latex[start..at - token.len()]));
                (start, gap) = (if separates { at } else { at - token.len() }, separates);
            }
            "+" | "-" if depth == 0 && at - start > LONG => {
                parts.push((gap, &latex[start..at - 1]));
                (start, gap) = (at - 1, false);
            }
            _ => {}
        }
    }
    parts.push((gap, &latex[start..]));
    parts.retain(|p| !p.1.trim().is_empty());
    parts
}

/// A formula as MathML.
fn formula(latex: &str, display_mode: DisplayMode) -> Result<String> {
    let storage = Storage::new();
    let events: Vec<_> =
        Parser::new(latex, &storage).collect::<std::result::Result<_, _>>().map_err(|e| {
            Error::domain(
                "formula of the report",
                format!("{latex}: {e}"),
                "LaTeX mathematics",
                "correct the formula",
            )
        })?;
    let mut out = String::new();
    let config = RenderConfig { display_mode, ..RenderConfig::default() };
    push_mathml(&mut out, events.into_iter().map(Ok::<_, std::convert::Infallible>), config)
        .map_err(page_failed)?;
    // The micro sign has no italic in mathematical fonts, the letter mu has.
    out = out.replace('\u{B5}', "\u{1D707}").replace("<mover>", "<mover accent=\"true\">");
    // Marks over a letter, which come as identifiers: those of ASCII are large, and few fonts have
    // an overline.
    for (mark, accent) in [('^', 'ˆ'), ('~', '˜'), ('\u{203E}', '¯'), ('˙', '˙')] {
        out = out.replace(
            &format!("<mi>{mark}</mi></mover>"),
            &format!("<mo stretchy=\"false\">{accent}</mo></mover>"),
        );
    }
    Ok(out)
}

pub(super) fn escaped(text: &str) -> String {
    Foreign::from(text).to_string()
}

fn page_failed(problem: impl ToString) -> Error {
    Error::domain(
        "page of the report",
        problem.to_string(),
        "a template that renders",
        "report this as a bug of the report",
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_become_mathml_and_mistakes_become_errors() {
        let inline = text("mean $\\mu$ & all").unwrap().to_string();
        assert!(
            inline.starts_with("mean <math")
                && inline.contains('\u{1D707}')
                && inline.ends_with("</math> & all"),
            "{inline}"
        );
        let message = text("$\\frac{1}$").unwrap_err().to_string();
        assert!(message.contains("formula of the report"), "{message}");
    }

    #[test]
    fn formulas_break_between_brackets_only() {
        let parts = breakable(
            r"a = \left[f(x = 1)\right) + \frac{b = c}{2} \le d, \quad \text{if} \quad e = [0, 1]",
        );
        let want = [
            (false, "a "),
            (false, r"= \left[f(x = 1)\right) + \frac{b = c}{2} "),
            (false, r"\le d, "),
            (true, r" \text{if} "),
        ];
        assert_eq!(parts[..4], want);
        assert_eq!(parts[4..], [(true, " e "), (false, "= [0, 1]")]);
        assert_eq!(breakable(r"\left\{x\right\} = y").len(), 2);
        let sum = r"-a = -\operatorname{KL}\left(q \,\|\, p\right) - \text{const} + c";
        let want = [
            (false, "-a "),
            (false, r"= -\operatorname{KL}\left(q \,\|\, p\right) "),
            (false, r"- \text{const} + c"),
        ];
        assert_eq!(breakable(sum), want);
    }

    #[test]
    fn numbers_of_a_table_are_short() {
        assert_eq!(number(0.5), "0.5");
        assert_eq!(number(-3.0), "−3");
        assert_eq!(number(1.4e-14), "1.4&#x202F;·&#x202F;10<sup>−14</sup>");
        assert_eq!(number(f64::NAN), "NaN");
        assert_eq!(number(f64::INFINITY), "inf");
    }

    #[test]
    fn templates_declare_nothing_safe_and_policies_name_everything_that_acts() {
        for (name, source) in TEMPLATES {
            assert!(
                name.ends_with(".html")
                    && !source.contains("safe")
                    && !source.contains("autoescape"),
                "{name}"
            );
        }
        let own = Own { css: "b{}".into(), styles: ["i{}".to_string()].into(), script: "1 < 2" };
        let values = context! { groups => Vec::<Value>::new(), version => "<b>" };
        let page = render("ledger.html", &own, values).unwrap();
        let policy =
            page.split("Security-Policy\" content=\"").nth(1).unwrap().split('"').next().unwrap();
        // printf '1 < 2' | openssl dgst -sha256 -binary | base64
        assert!(
            policy.contains("script-src 'sha256-T8Xibs7zV8KTQdRXjpKJTlizX17SudRlddrZKaeFg9E=';"),
            "{policy}"
        );
        assert!(
            policy.contains(" 'sha256-e6jWDOyGxCCjebQhFRQYe5n6sSPlNhc3njC4Jta3SyM=';"),
            "{policy}"
        );
        assert!(
            page.contains("<script>1 < 2</script>")
                && !page.contains("<b>")
                && page.contains("b{}</style>"),
            "{page}"
        );
    }

    #[test]
    fn figures_and_tables_show_foreign_text_as_text() {
        let hostile = "\"><script>alert(1)</script>";
        let foreign = Foreign::from(hostile);
        let figure = Figure {
            id: hostile.into(),
            caption: format!("{foreign}"),
            alt: hostile.into(),
            drawings: vec![],
        };
        let table = Table {
            caption: format!("{foreign}"),
            head: vec![format!("{foreign}")],
            rows: vec![vec![format!("{foreign}")]],
        };
        let file = File { name: hostile.into(), about: format!("{foreign}"), content: vec![] };
        let blocks = vec![
            Block::Text(format!("{foreign}")),
            Block::Figure(figure),
            Block::Table(table),
            Block::Files(vec![file]),
        ];
        let section = Section { id: hostile.into(), title: hostile.into(), blocks };
        let chapter = Chapter {
            name: hostile.into(),
            title: hostile.into(),
            lead: format!("{foreign}"),
            command: hostile.into(),
            sections: vec![section],
        };
        let colophon = Colophon { version: hostile.into(), profile: hostile.into(), seed: 0 };
        let page = html(&[chapter], &Drawn::new(), &colophon).unwrap();
        assert!(page.matches("&lt;script&gt;").count() > 12 && !page.contains("<script"), "{page}");
    }
}
