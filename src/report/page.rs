//! What a report consists of, and the page it becomes.

use super::drawing::Drawing;
use super::style;
use crate::error::{Error, Result};
use crate::experiment::Evidence;
use minijinja::{Environment, context};
use pulldown_latex::config::{DisplayMode, RenderConfig};
use pulldown_latex::{Parser, Storage, push_mathml};

/// One experiment's part of the page.
///
/// Texts are HTML with `$...$` for formulas in LaTeX; they are the program's own, never a user's.
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
        if self.drawings.len() == 1 { self.id.clone() } else { format!("{}-{}", self.id, (b'a' + k as u8) as char) }
    }
}

impl Chapter {
    /// All figures, in order.
    pub fn figures(&self) -> impl Iterator<Item = &Figure> {
        self.sections.iter().flat_map(|s| &s.blocks).filter_map(|b| if let Block::Figure(f) = b { Some(f) } else { None })
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

/// The whole page as one HTML document that needs no other file.
///
/// # Errors
/// A formula that is not LaTeX, a drawing that can't be drawn.
pub fn html(chapters: &[Chapter], colophon: &Colophon) -> Result<String> {
    let mut figures = 0;
    let mut parts = Vec::new();
    for chapter in chapters {
        let mut sections = Vec::new();
        for section in &chapter.sections {
            let blocks = section.blocks.iter().map(|b| block(b, &chapter.name, &mut figures)).collect::<Result<String>>()?;
            sections.push(context! { id => format!("{}-{}", chapter.name, section.id), title => section.title, body => blocks });
        }
        let failed = chapter.evidence().filter(|e| !e.holds()).count();
        parts.push(context! {
            name => chapter.name, title => chapter.title, lead => text(&chapter.lead)?, command => chapter.command, sections,
            checks => chapter.evidence().count(), failed,
        });
    }
    let mut environment = Environment::new();
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.add_template("page.html", include_str!("templates/page.html")).map_err(page_failed)?;
    let template = environment.get_template("page.html").map_err(page_failed)?;
    template
        .render(context! {
            css => include_str!("templates/page.css"), figure_css => style::page_css(), font_css => style::font_css(), chapters => parts,
            version => colophon.version, profile => colophon.profile, seed => colophon.seed,
        })
        .map_err(page_failed)
}

fn block(block: &Block, folder: &str, figures: &mut usize) -> Result<String> {
    Ok(match block {
        Block::Text(t) => format!("<p>{}</p>\n", text(t)?),
        Block::Formula(latex) => {
            // What `\qquad` separates may stand on lines of its own where the page is narrow.
            let parts = latex.split("\\qquad").map(|part| formula(part, DisplayMode::Block));
            // Inline, in display style: parts on one line then share the mathematical baseline.
            let inline = parts
                .collect::<Result<Vec<String>>>()?
                .join(" ")
                .replace("display=\"block\"", "display=\"inline\" displaystyle=\"true\"");
            format!("<div class=\"formula\">{inline}</div>\n")
        }
        Block::Figure(f) => {
            *figures += 1;
            figure(f, folder, *figures)?
        }
        Block::Table(t) => table(t)?,
        Block::Evidence(e) => evidence(e),
    })
}

fn figure(f: &Figure, folder: &str, number: usize) -> Result<String> {
    let alt = escaped(&f.alt);
    let (mut body, mut links) = (String::new(), Vec::new());
    for (k, drawing) in f.drawings.iter().enumerate() {
        let stem = f.stem(k);
        let svg = drawing.svg()?;
        let label = if f.drawings.len() == 1 { alt.clone() } else { format!("{alt} Part {} of {}.", k + 1, f.drawings.len()) };
        let svg = svg.replacen("<svg ", &format!("<svg role=\"img\" aria-label=\"{label}\" "), 1);
        let shape = match drawing {
            Drawing::Plot(_) if f.drawings.len() == 1 => " plot",
            _ if f.drawings.len() == 1 || drawing.is_wide() => " wide",
            _ => "",
        };
        body += &format!("<div class=\"drawing{shape}\">{svg}</div>\n");
        let kinds: Vec<_> = ["svg", "png", "csv", "json"]
            .iter()
            .map(|kind| format!("<a href=\"{folder}/{stem}.{kind}\" aria-label=\"{stem} as {kind}\">{kind}</a>"))
            .collect();
        let part = if f.drawings.len() == 1 { String::new() } else { format!("({}) ", (b'a' + k as u8) as char) };
        links.push(format!("<span>{part}{}</span>", kinds.join(" ")));
    }
    Ok(format!(
        "<figure id=\"{folder}-figure-{id}\">\n<div class=\"drawings\">\n{body}</div>\n<figcaption><b>Figure {number}.</b> {caption} <span class=\"files\">{links}</span></figcaption>\n</figure>\n",
        id = f.id,
        caption = text(&f.caption)?,
        links = links.join(" ")
    ))
}

fn table(t: &Table) -> Result<String> {
    let row = |cells: &[String], tag: &str| -> Result<String> {
        let cells: Result<String> = cells.iter().map(|c| Ok(format!("<{tag}>{}</{tag}>", text(c)?))).collect();
        Ok(format!("<tr>{}</tr>\n", cells?))
    };
    let body: String = t.rows.iter().map(|r| row(r, "td")).collect::<Result<_>>()?;
    Ok(format!(
        "<p class=\"caption\">{}</p>\n<div class=\"table\"><table><thead>{}</thead><tbody>{body}</tbody></table></div>\n",
        text(&t.caption)?,
        row(&t.head, "th")?
    ))
}

fn evidence(rows: &[Evidence]) -> String {
    let body: String = rows
        .iter()
        .map(|e| {
            let (class, word) = if e.holds() { ("holds", "holds") } else { ("fails", "fails") };
            format!(
                "<tr class=\"{class}\"><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{}</td><td>{word}</td></tr>\n",
                escaped(&e.what),
                number(e.got),
                number(e.want),
                number((e.got - e.want).abs()),
                number(e.tol)
            )
        })
        .collect();
    format!(
        "<p class=\"caption\">Checks</p>\n<div class=\"table evidence\"><table>\
         <thead><tr><th>what</th><th>got</th><th>want</th><th>off by</th><th>tolerance</th><th></th></tr></thead><tbody>{body}</tbody></table></div>\n"
    )
}

/// A number for a table: short where it is round, otherwise five digits.
fn number(v: f64) -> String {
    let magnitude = v.abs();
    let short = if v == 0.0 {
        "0".into()
    } else if !v.is_finite() {
        v.to_string()
    } else if (1e-3..1e5).contains(&magnitude) {
        let digits = (4 - magnitude.log10().floor() as i32).clamp(0, 8) as usize;
        let text = format!("{v:.digits$}");
        if text.contains('.') { text.trim_end_matches('0').trim_end_matches('.').to_string() } else { text }
    } else {
        let text = format!("{v:.1e}");
        let (mantissa, exponent) = text.split_once('e').unwrap_or((&text, "0"));
        format!("{}&#x202F;·&#x202F;10<sup>{exponent}</sup>", mantissa.trim_end_matches(".0"))
    };
    short.replace('-', "−")
}

/// Text with its `$...$` typeset.
fn text(source: &str) -> Result<String> {
    source
        .split('$')
        .enumerate()
        .map(|(k, part)| if k % 2 == 0 { Ok(part.to_string()) } else { formula(part, DisplayMode::Inline) })
        .collect()
}

/// A formula as MathML.
fn formula(latex: &str, display_mode: DisplayMode) -> Result<String> {
    let storage = Storage::new();
    let events: Vec<_> = Parser::new(latex, &storage)
        .collect::<std::result::Result<_, _>>()
        .map_err(|e| Error::domain("formula of the report", format!("{latex}: {e}"), "LaTeX mathematics", "correct the formula"))?;
    let mut out = String::new();
    let config = RenderConfig { display_mode, ..RenderConfig::default() };
    push_mathml(&mut out, events.into_iter().map(Ok::<_, std::convert::Infallible>), config).map_err(page_failed)?;
    // The micro sign has no italic in mathematical fonts; the letter mu has.
    Ok(out.replace('\u{B5}', "\u{1D707}"))
}

fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

fn page_failed(problem: impl ToString) -> Error {
    Error::domain("page of the report", problem.to_string(), "a template that renders", "report this as a bug of the report")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn formulas_become_mathml_and_mistakes_become_errors() {
        let inline = text("mean $\\mu$ & all").unwrap();
        assert!(inline.starts_with("mean <math") && inline.contains('\u{1D707}') && inline.ends_with("</math> & all"), "{inline}");
        let message = text("$\\frac{1}$").unwrap_err().to_string();
        assert!(message.contains("formula of the report"), "{message}");
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
    fn text_of_attributes_is_escaped() {
        assert_eq!(escaped("a < \"b\" & c"), "a &lt; &quot;b&quot; &amp; c");
    }
}
