//! A chapter's text: Markdown in which named values, figures and tables have their places.
//!
//! ~~~~text
//! # Noise schedules: where the time goes
//!
//! The lead: the first paragraph.
//!
//! ## Time and noise level {#levels}
//!
//! A paragraph with a formula $\ell(t)$ and a value: [[ middle.cosine | percent ]].
//!
//! $$
//! \mathrm{SNR}(t) = \frac{\alpha_t^2}{\sigma_t^2}
//! $$
//!
//! ```{figure} log-snr
//! The caption.
//!
//! alt: What someone who does not see it is told.
//! ```
//!
//! ```{checks} levels
//! ```
//! ~~~~
//!
//! `[[ ]]`, `[% %]` and `[# #]` are the expressions, statements and comments of Jinja templates.
//! They are filled in first, by [`minijinja`], what is inserted being escaped; then the whole is
//! read as Markdown, by [`pulldown_cmark`].

use crate::chapter::{Cells, Parts, about, percent, scientific, short, significant, thousands};
use crate::drawing::plain;
use crate::experiment::{Editable, Text};
use crate::page::{Block, Chapter, Figure, Section, Table, set_text};
use minijinja::syntax::SyntaxConfig;
use minijinja::value::ValueKind;
use minijinja::{AutoEscape, Environment, ErrorKind, Output, State, UndefinedBehavior, Value};
use pulldown_cmark::{CodeBlockKind, CowStr, Event, HeadingLevel, Options, Parser, Tag, TagEnd};
use std::fmt::Write;
use std::path::Path;
use tweedie::error::{Error, Result, nearest};

/// Reads a text, and refuses one whose expressions are none before anything is computed.
///
/// # Errors
/// A file that can't be read; an expression or a statement that is none.
pub fn read(source: &Editable) -> Result<Text> {
    let text = source.text()?;
    let parts = Parts::default();
    environment()
        .and_then(|env| env.template_from_str(&text.content).map(drop))
        .map_err(|e| refused(&text, &e, &parts))?;
    Ok(text)
}

/// The chapter that a text and its parts make, and the parts that the text does not show.
///
/// # Errors
/// A value, figure, table or filter that is not there; a text that is not in the form above; checks
/// that the text has no place for.
pub fn chapter(
    name: &str,
    command: String,
    text: &Text,
    parts: Parts,
) -> Result<(Chapter, Vec<String>)> {
    if let Some(name) = &parts.named_twice {
        let what = format!("two values are called {name}");
        return Err(Error::file(&text.file, what, "call one of them otherwise in figures.rs"));
    }
    let markdown = filled(text, &parts)?;
    let mut reader = Reader { file: &text.file, parts, title: None, lead: None, sections: vec![] };
    let mut events = Parser::new_ext(&markdown, OPTIONS);
    while let Some(event) = events.next() {
        reader.take(event, &mut events)?;
    }
    reader.chapter(name, command)
}

const OPTIONS: Options = Options::ENABLE_MATH
    .union(Options::ENABLE_HEADING_ATTRIBUTES)
    .union(Options::ENABLE_TABLES)
    .union(Options::ENABLE_SUPERSCRIPT);

/// The text with its values.
fn filled(text: &Text, parts: &Parts) -> Result<String> {
    let content = with_line_ends(&text.content);
    let filled = environment().and_then(|env| {
        env.template_from_str(&content).and_then(|template| template.render(&parts.values))
    });
    filled.map_err(|e| refused(text, &e, parts))
}

/// The text in which a statement takes the end of its line with it only where it stands alone on
/// it: elsewhere that is the space before the next sentence.
fn with_line_ends(text: &str) -> String {
    let kept = |line: &str| {
        let line = line.trim();
        line.ends_with("%]") && !(line.starts_with("[%") && line.matches("[%").count() == 1)
    };
    text.split_inclusive('\n')
        .map(|line| match line.strip_suffix('\n') {
            Some(body) if kept(body) => format!("{}[[ '' ]]\n", body.trim_end()),
            _ => line.to_owned(),
        })
        .collect()
}

/// How values are named, and what can be made of them.
fn environment() -> std::result::Result<Environment<'static>, minijinja::Error> {
    let mut environment = Environment::new();
    environment.set_syntax(
        SyntaxConfig::builder()
            .variable_delimiters("[[", "]]")
            .block_delimiters("[%", "%]")
            .comment_delimiters("[#", "#]")
            .build()?,
    );
    environment.set_trim_blocks(true);
    environment.set_lstrip_blocks(true);
    environment.set_keep_trailing_newline(true);
    environment.set_undefined_behavior(UndefinedBehavior::Strict);
    environment.set_auto_escape_callback(|_| AutoEscape::Custom("markdown"));
    environment.set_formatter(inserted);
    let set = Value::from_safe_string;
    environment.add_filter("plain", move |v: f64| set(plain(v)));
    environment.add_filter("significant", move |v: f64, n: usize| set(significant(v, n.max(1))));
    environment.add_filter("scientific", move |v: f64, n: usize| set(scientific(v, n.max(1))));
    environment.add_filter("short", move |v: f64| set(short(v)));
    environment.add_filter("about", move |v: f64| set(about(v)));
    environment.add_filter("percent", move |v: f64| set(percent(v)));
    environment.add_filter("thousands", move |n: usize| set(thousands(n)));
    environment
        .add_filter("fixed", move |v: f64, n: usize| set(format!("{v:.n$}").replace('-', "−")));
    Ok(environment)
}

/// A value as the text has it: a number short, a word so that nothing in it is markup.
fn inserted(
    out: &mut Output,
    _: &State,
    value: &Value,
) -> std::result::Result<(), minijinja::Error> {
    let failed = |_| minijinja::Error::new(ErrorKind::WriteFailure, "out of memory");
    match value.kind() {
        ValueKind::Undefined => {
            Err(minijinja::Error::new(ErrorKind::UndefinedError, "nothing has this name"))
        }
        ValueKind::Number if !value.is_integer() => {
            let v = f64::try_from(value.clone())?;
            out.write_str(&plain(v)).map_err(failed)
        }
        ValueKind::Number => out.write_str(&value.to_string().replace('-', "−")).map_err(failed),
        ValueKind::String if value.is_safe() => {
            out.write_str(value.as_str().unwrap_or_default()).map_err(failed)
        }
        ValueKind::String => {
            out.write_str(&escaped(value.as_str().unwrap_or_default())).map_err(failed)
        }
        kind => Err(minijinja::Error::new(
            ErrorKind::InvalidOperation,
            format!("a {kind} is neither number nor text: name one of its entries"),
        )),
    }
}

/// Markdown that shows this text and nothing else.
fn escaped(text: &str) -> String {
    text.chars().fold(String::new(), |mut out, c| {
        match c {
            // Between blank lines it would be another paragraph.
            '\n' | '\r' => out.push(' '),
            // No character of its own begins a formula, a tag or an entity.
            '$' | '<' | '>' | '&' | '"' | '\'' => {
                let _ = write!(out, "&#{};", c as u32);
            }
            c if tweedie::error::acts(c) => out.push('\u{FFFD}'),
            c if c.is_ascii_punctuation() && !",.;:()%/+=-".contains(c) => out.extend(['\\', c]),
            c => out.push(c),
        }
        out
    })
}

/// What is wrong with the template, and on which line.
fn refused(text: &Text, e: &minijinja::Error, parts: &Parts) -> Error {
    let at = e.range().and_then(|range| text.content.get(range)).unwrap_or_default();
    let line = e.line().map_or(String::new(), |line| format!("line {line}: "));
    if e.kind() == ErrorKind::UndefinedError {
        let names = parts.values.keys().map(String::as_str);
        let first = at.split(['.', '|', '[']).next().unwrap_or_default().trim();
        let mend = if parts.values.contains_key(first) {
            format!("{first} has {}", entries(&parts.values[first]))
        } else {
            nearest(first, names.clone()).map_or_else(
                || format!("the values are {}", names.collect::<Vec<_>>().join(", ")),
                |near| format!("did you mean {near}?"),
            )
        };
        return Error::file(&text.file, format!("{line}no value is called {}", at.trim()), mend);
    }
    let why = e.detail().map_or_else(|| e.kind().to_string(), str::to_owned);
    let said = if at.is_empty() { String::new() } else { format!("{}: ", at.trim()) };
    Error::file(&text.file, format!("{line}{said}{why}"), FORM)
}

/// What else stands beside a name that is not there.
fn entries(value: &Value) -> String {
    let names: Vec<String> = match value.kind() {
        ValueKind::Map => {
            value.try_iter().into_iter().flatten().map(|name| name.to_string()).collect()
        }
        ValueKind::Seq => return format!("{} entries, from 0", value.len().unwrap_or(0)),
        kind => return format!("no entries, it is a {kind}"),
    };
    names.join(", ")
}

/// Where it is written what a text may have.
const FORM: &str = "CONTRIBUTING.md says what a chapter's text may have";

/// Makes a chapter of the events of its Markdown.
struct Reader<'a> {
    file: &'a Path,
    parts: Parts,
    title: Option<String>,
    lead: Option<String>,
    sections: Vec<Section>,
}

impl Reader<'_> {
    fn wrong(&self, what: impl std::fmt::Display, mend: impl Into<String>) -> Error {
        let place = match (self.sections.last(), &self.title) {
            (Some(section), _) => format!("under \"{}\": ", section.title),
            (None, Some(_)) => "before the first section: ".into(),
            (None, None) => String::new(),
        };
        Error::file(self.file, format!("{place}{what}"), mend.into())
    }

    /// The next block, whose first event this is.
    fn take<'e>(&mut self, first: Event<'e>, rest: &mut Parser<'e>) -> Result<()> {
        match first {
            Event::Start(Tag::Heading { level: HeadingLevel::H1, .. }) => {
                if self.title.replace(words(&inner(rest))).is_some() {
                    return Err(self.wrong("a second title", "begin sections with ##"));
                }
            }
            Event::Start(Tag::Heading { level: HeadingLevel::H2, id, .. }) => {
                let title = words(&inner(rest));
                let Some(id) = id else {
                    let mend = "give it one, as in ## A heading {#its-id}";
                    return Err(self.wrong(format!("\"{title}\" has no id"), mend));
                };
                if self.sections.iter().any(|s| *s.id == *id) {
                    return Err(self.wrong(format!("a second section {id}"), "rename one"));
                }
                self.sections.push(Section { id: id.to_string(), title, blocks: vec![] });
            }
            Event::Start(Tag::Heading { level, .. }) => {
                return Err(self.wrong(
                    format!("a heading of {level}"),
                    "use # for the title and ## for sections",
                ));
            }
            Event::Start(Tag::Paragraph) => {
                let events = inner(rest);
                match &events[..] {
                    [Event::DisplayMath(latex)] => {
                        let formula =
                            Block::Formula(latex.split_whitespace().collect::<Vec<_>>().join(" "));
                        self.push(formula)?;
                    }
                    _ if self.lead.is_none() && self.sections.is_empty() => {
                        self.lead = Some(html(events));
                    }
                    _ => self.push(Block::Text(html(events)))?,
                }
            }
            Event::Start(Tag::CodeBlock(CodeBlockKind::Fenced(info))) if info.starts_with('{') => {
                let content = words(&inner(rest));
                self.place(&info, &content)?;
            }
            // A list, a quotation, a table: as Markdown has them.
            Event::Start(tag) => {
                let mut events = vec![Event::Start(tag.clone())];
                events.extend(inner(rest));
                events.push(Event::End(tag.to_end()));
                self.push(Block::Markup(set_text(&html(events))?))?;
            }
            Event::Rule => self.push(Block::Markup("<hr>".into()))?,
            other => return Err(self.wrong(format!("{other:?} stands alone"), FORM)),
        }
        Ok(())
    }

    fn push(&mut self, block: Block) -> Result<()> {
        let Some(section) = self.sections.last_mut() else {
            return Err(
                self.wrong("more than one paragraph", "begin a section: ## A heading {#its-id}")
            );
        };
        section.blocks.push(block);
        Ok(())
    }

    /// The part that a fenced block names.
    fn place(&mut self, info: &str, content: &str) -> Result<()> {
        let (kind, id) = info[1..].split_once('}').unwrap_or((&info[1..], ""));
        let id = id.trim();
        let block = match kind {
            "figure" => {
                let drawings = self.taken(kind, id, |parts| &mut parts.figures)?;
                let (caption, alt) = content.rsplit_once("alt:").unwrap_or((content, ""));
                let alt = alt.split_whitespace().collect::<Vec<_>>().join(" ");
                if alt.is_empty() {
                    let mend = "end it with a paragraph \"alt: ...\" that tells what is seen";
                    return Err(self.wrong(format!("the figure {id} has no description"), mend));
                }
                Block::Figure(Figure::new(id, &caption_of(caption), &alt, drawings))
            }
            "table" => {
                let Cells { head, rows } = self.taken(kind, id, |parts| &mut parts.tables)?;
                Block::Table(Table { caption: caption_of(content), head, rows })
            }
            "checks" => Block::Evidence(self.taken(kind, id, |parts| &mut parts.checks)?),
            "files" => Block::Files(self.taken(kind, id, |parts| &mut parts.files)?),
            "markup" => Block::Markup(self.taken(kind, id, |parts| &mut parts.markup)?),
            _ => {
                let allowed = "figure, table, checks, files or markup in the braces";
                return Err(self.wrong(format!("{{{kind}}} is no part"), allowed));
            }
        };
        self.push(block)
    }

    fn taken<T>(
        &mut self,
        kind: &str,
        id: &str,
        of: impl Fn(&mut Parts) -> &mut Vec<(String, T)>,
    ) -> Result<T> {
        let all = of(&mut self.parts);
        if let Some(k) = all.iter().position(|(name, _)| name == id) {
            return Ok(all.remove(k).1);
        }
        let left: Vec<String> = all.iter().map(|(name, _)| name.clone()).collect();
        let mend = nearest(id, left.iter().map(String::as_str)).map_or_else(
            || {
                format!(
                    "not yet shown: {}",
                    if left.is_empty() { "none".into() } else { left.join(", ") }
                )
            },
            |near| format!("did you mean {near}?"),
        );
        Err(self.wrong(format!("{{{kind}}} {id:?} is not there, or already shown"), mend))
    }

    fn chapter(self, name: &str, command: String) -> Result<(Chapter, Vec<String>)> {
        // A report that leaves out a check says that all is well without having looked.
        if let Some((id, _)) = self.parts.checks.first() {
            let mend = format!("add ```{{checks}} {id}");
            return Err(Error::file(self.file, format!("has no place for the checks {id}"), mend));
        }
        let missing = |what: &str, how: &str| {
            Error::file(self.file, format!("has no {what}"), format!("begin it with {how}"))
        };
        let Parts { figures, tables, files, markup, .. } = self.parts;
        let unshown = figures
            .into_iter()
            .map(|(id, _)| format!("figure {id}"))
            .chain(tables.into_iter().map(|(id, _)| format!("table {id}")))
            .chain(files.into_iter().map(|(id, _)| format!("files {id}")))
            .chain(markup.into_iter().map(|(id, _)| format!("markup {id}")));
        let chapter = Chapter {
            name: name.into(),
            command,
            title: self.title.ok_or_else(|| missing("title", "# A title"))?,
            lead: self.lead.ok_or_else(|| missing("lead", "a paragraph under its title"))?,
            sections: self.sections,
        };
        Ok((chapter, unshown.collect()))
    }
}

/// The events up to the end of the block that has begun.
fn inner<'e>(events: &mut Parser<'e>) -> Vec<Event<'e>> {
    let mut depth = 1;
    let mut inside = Vec::new();
    for event in events {
        match event {
            Event::Start(_) => depth += 1,
            Event::End(_) => depth -= 1,
            _ => {}
        }
        if depth == 0 {
            break;
        }
        inside.push(event);
    }
    inside
}

/// The words of some events, without markup.
fn words(events: &[Event]) -> String {
    events
        .iter()
        .map(|event| match event {
            Event::Text(text) | Event::Code(text) => text.as_ref(),
            Event::SoftBreak | Event::HardBreak => " ",
            _ => "",
        })
        .collect()
}

/// A caption's Markdown as a page's text.
fn caption_of(markdown: &str) -> String {
    let events = Parser::new_ext(markdown.trim(), OPTIONS)
        .filter(|e| !matches!(e, Event::Start(Tag::Paragraph) | Event::End(TagEnd::Paragraph)));
    html(events.collect())
}

/// Some events as a page's text: HTML in which `$...$` is a formula, and no other dollar is.
fn html(events: Vec<Event>) -> String {
    let dollars = |text: &CowStr| text.contains('$');
    let mut out = String::new();
    let set = events.into_iter().map(|event| match event {
        Event::InlineMath(latex) => Event::InlineHtml(format!("${latex}$").into()),
        Event::DisplayMath(latex) => Event::InlineHtml(format!("$\\displaystyle {latex}$").into()),
        Event::Text(text) if dollars(&text) => {
            let mut safe = String::new();
            pulldown_cmark::html::push_html(&mut safe, std::iter::once(Event::Text(text)));
            Event::InlineHtml(safe.replace('$', "&#36;").into())
        }
        Event::Code(text) if dollars(&text) => {
            let mut safe = String::new();
            pulldown_cmark::html::push_html(&mut safe, std::iter::once(Event::Code(text)));
            Event::InlineHtml(safe.replace('$', "&#36;").into())
        }
        Event::SoftBreak => Event::Text(" ".into()),
        other => other,
    });
    pulldown_cmark::html::push_html(&mut out, set);
    out
}

#[cfg(test)]
mod tests;
