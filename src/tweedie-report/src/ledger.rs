//! The ledger: every claim of the catalogue with its verdict, formulas, evidence and rejected
//! variants, as a page, as JSON and as CSV.

use super::page::{self, Colophon};
use super::prose::prose;
use minijinja::{Value, context};
use serde::Serialize;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::number::{self, Number, cell};
use tweedie_claims::{Deck, Outcome, Recorded, Role, Verdict};

/// Verdicts in the order in which the ledger shows them: what to mend first.
pub const ORDER: [Option<Verdict>; 4] =
    [Some(Verdict::Fails), Some(Verdict::HoldsIf), Some(Verdict::Holds), None];

/// What a reader calls a verdict.
pub fn called(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Holds) => "true",
        Some(Verdict::HoldsIf) => "true under a condition",
        Some(Verdict::Fails) => "false as printed",
        None => "undecided",
    }
}

/// The ledger as one HTML document that needs no other file. It can be filtered where scripts run,
/// and is a whole list where not.
///
/// # Errors
/// A formula that is not LaTeX.
pub fn html(outcomes: &[Outcome], recorded: &Recorded, colophon: &Colophon) -> Result<String> {
    let mut groups = Vec::new();
    for verdict in ORDER {
        let found: Vec<&Outcome> = outcomes.iter().filter(|o| o.verdict == verdict).collect();
        if !found.is_empty() {
            let entries = page::markup(
                found.iter().map(|o| entry(o, recorded, true)).collect::<Result<String>>()?,
            );
            groups.push(context! { key => verdict.map_or("undecided", Verdict::name), name => called(verdict), count => found.len(), entries });
        }
    }
    let decks: Vec<Value> = Deck::ALL
        .into_iter()
        .map(|deck| context! { id => deck.id(), title => deck.title() })
        .collect();
    page::render(
        "ledger.html",
        &page::Own {
            css: include_str!("templates/ledger.css").into(),
            styles: [].into(),
            script: include_str!("templates/ledger.js").trim_end(),
        },
        context! {
            groups, decks, counts => page::markup(counts(outcomes)),
            claims => outcomes.len(), evidence => outcomes.iter().map(|o| o.evidence.len()).sum::<usize>(),
            rejected => outcomes.iter().map(Outcome::rejected).sum::<usize>(), mutants => outcomes.iter().map(|o| o.mutants.len()).sum::<usize>(),
            version => colophon.version, seed => colophon.seed,
        },
    )
}

/// How many claims of each deck have which verdict, as a table.
pub fn counts(outcomes: &[Outcome]) -> String {
    let row = |name: &str, of: &[&Outcome]| {
        let verdicts =
            ORDER[..3].iter().map(|v| of.iter().filter(|o| o.verdict == *v).count().to_string());
        let comparisons: usize = of.iter().map(|o| o.evidence.len()).sum();
        let (rejected, mutants): (usize, usize) =
            (of.iter().map(|o| o.rejected()).sum(), of.iter().map(|o| o.mutants.len()).sum());
        let cells = verdicts.chain([comparisons.to_string(), format!("{rejected} of {mutants}")]);
        format!(
            "<tr><td>{}</td>{}</tr>\n",
            page::escaped(name),
            cells.map(|c| format!("<td>{c}</td>")).collect::<String>()
        )
    };
    let deck = |deck: Deck| {
        row(deck.title(), &outcomes.iter().filter(|o| o.deck == deck).collect::<Vec<_>>())
    };
    format!(
        "<div class=\"table counts\"><table>\n<thead><tr><th>deck</th><th>false</th><th>on a condition</th><th>true</th><th>comparisons</th>\
         <th>variants rejected</th></tr></thead>\n<tbody>\n{}</tbody>\n<tfoot>{}</tfoot>\n</table></div>\n",
        Deck::ALL.map(deck).concat(),
        row("All", &outcomes.iter().collect::<Vec<_>>())
    )
}

/// One claim as HTML; in the ledger with its evidence, elsewhere as a summary that leads there.
pub fn entry(outcome: &Outcome, recorded: &Recorded, whole: bool) -> Result<String> {
    let claim = outcome.claim;
    let key = outcome.verdict.map_or("undecided", Verdict::name);
    let right = page::displayed(claim.formula)?;
    let forms = if claim.printed.is_empty() {
        format!("<div class=\"forms\"><div class=\"formula\">{right}</div></div>")
    } else {
        let printed = page::displayed(claim.printed)?;
        format!(
            "<div class=\"forms two\"><div class=\"form printed\"><b>as printed</b><div class=\"formula\">{printed}</div></div>\
             <div class=\"form right\"><b>corrected</b><div class=\"formula\">{right}</div></div></div>"
        )
    };
    let head = |anchor: &str, link: &str| {
        format!(
            "<article class=\"claim {key}\"{anchor}>\n<p class=\"tag\"><span class=\"verdict\">{}</span> {link}</p>\n<h3>{}</h3>\n{forms}\n<p class=\"finding\">{}</p>\n",
            called(outcome.verdict),
            prose(claim.statement),
            prose(claim.finding)
        )
    };
    let id = claim.id;
    if !whole {
        return Ok(
            head("", &format!("<a href=\"claims/index.html#{id}\">{id}</a>")) + "</article>\n"
        );
    }
    let search = page::escaped(
        &[id, claim.slide, claim.statement, claim.finding, claim.assumes, claim.reading]
            .join(" ")
            .to_lowercase(),
    );
    let anchor = format!(
        " id=\"{id}\" data-deck=\"{}\" data-verdict=\"{key}\" data-text=\"{search}\"",
        outcome.deck.id()
    );
    let mut html = head(&anchor, &format!("<a class=\"anchor\" href=\"#{id}\">{id}</a>"));
    html += "<dl>\n";
    let slide = format!("{}; slide “{}”", page::escaped(outcome.deck.title()), prose(claim.slide));
    for (name, text) in
        [("assumes", prose(claim.assumes)), ("read as", prose(claim.reading)), ("source", slide)]
    {
        if !text.is_empty() {
            html += &format!("<dt>{name}</dt><dd>{text}</dd>\n");
        }
    }
    html += "</dl>\n";
    if outcome.verdict != recorded.get(id) {
        html += &format!("<p class=\"fails\">Recorded as {}.</p>\n", called(recorded.get(id)));
    }
    html += &details(outcome);
    Ok(html + "</article>\n")
}

/// What is folded away: the evidence by what it is about, and the wrong variants.
fn details(outcome: &Outcome) -> String {
    let of_role = |role: Role| {
        outcome
            .evidence
            .iter()
            .filter(|e| e.0 == role)
            .map(|e| e.1.clone())
            .collect::<Vec<Evidence>>()
    };
    let roles = [
        ("as printed", of_role(Role::Printed)),
        ("with the condition", of_role(Role::WithCondition)),
        ("without the condition", of_role(Role::WithoutCondition)),
        ("corrected", of_role(Role::Corrected)),
    ];
    let groups: Vec<(&str, &[Evidence])> = roles
        .iter()
        .filter(|r| !r.1.is_empty())
        .map(|(name, rows)| (*name, rows.as_slice()))
        .collect();
    let mutant = |(name, rejected): &(&str, bool)| {
        let (class, word) =
            if *rejected { ("holds", "rejected") } else { ("fails", "NOT rejected") };
        format!("<li class=\"{class}\"><span>{}</span> <em>{word}</em></li>\n", prose(name))
    };
    let (count, of) = (outcome.rejected(), outcome.mutants.len());
    let plural = if outcome.evidence.len() == 1 { "" } else { "s" };
    format!(
        "<details><summary>{} comparison{plural}; {count} of {of} wrong variants rejected</summary>\n{}<p class=\"caption\">Wrong variants that the check has to reject</p>\n<ul class=\"mutants\">\n{}</ul>\n</details>\n",
        outcome.evidence.len(),
        page::evidence(&groups),
        outcome.mutants.iter().map(mutant).collect::<String>()
    )
}

/// What `tweedie verify --json` writes.
pub fn json(outcomes: &[Outcome], recorded: &Recorded, seed: u64) -> Vec<u8> {
    #[derive(Serialize)]
    struct Results<'a> {
        seed: u64,
        claims: Vec<Entry<'a>>,
    }
    #[derive(Serialize)]
    struct Entry<'a> {
        id: &'a str,
        deck: Deck,
        slide: &'a str,
        statement: &'a str,
        /// What was read where the scan is doubtful; empty where it is clear.
        reading: &'a str,
        assumptions: &'a str,
        verdict: Option<Verdict>,
        recorded: Option<Verdict>,
        /// What was found, whatever the verdict.
        finding: &'a str,
        /// Under which condition it holds, or `null`.
        condition: Option<&'a str>,
        /// What is right instead, or `null`.
        correction: Option<&'a str>,
        /// The slip in LaTeX, or `null`.
        printed: Option<&'a str>,
        /// What is checked, corrected where the slide slips, LaTeX.
        formula: &'a str,
        evidence: Vec<Item<'a>>,
        mutants: Vec<Mutant<'a>>,
    }
    #[derive(Serialize)]
    struct Item<'a> {
        role: Role,
        what: &'a str,
        got: Number,
        want: Number,
        tol: Number,
        why: &'a str,
        cases: usize,
        ok: bool,
    }
    #[derive(Serialize)]
    struct Mutant<'a> {
        name: &'a str,
        rejected: bool,
    }
    let claims = outcomes
        .iter()
        .map(|o| {
            let found = |verdict| (o.verdict == Some(verdict)).then_some(o.claim.finding);
            Entry {
                id: o.claim.id,
                deck: o.deck,
                slide: o.claim.slide,
                statement: o.claim.statement,
                reading: o.claim.reading,
                assumptions: o.claim.assumes,
                verdict: o.verdict,
                recorded: recorded.get(o.claim.id),
                finding: o.claim.finding,
                condition: found(Verdict::HoldsIf),
                correction: found(Verdict::Fails),
                printed: (!o.claim.printed.is_empty()).then_some(o.claim.printed),
                formula: o.claim.formula,
                evidence: o
                    .evidence
                    .iter()
                    .map(|(role, e)| Item {
                        role: *role,
                        what: &e.what,
                        got: Number(e.got),
                        want: Number(e.want),
                        tol: Number(e.tol),
                        why: &e.why,
                        cases: e.cases,
                        ok: e.holds(),
                    })
                    .collect(),
                mutants: o
                    .mutants
                    .iter()
                    .map(|&(name, rejected)| Mutant { name, rejected })
                    .collect(),
            }
        })
        .collect();
    number::json(&Results { seed, claims })
}

/// One row a claim.
pub fn claims_csv(outcomes: &[Outcome], recorded: &Recorded) -> Vec<u8> {
    let head = [
        "id",
        "deck",
        "slide",
        "verdict",
        "recorded",
        "statement",
        "finding",
        "assumes",
        "printed",
        "formula",
        "evidence",
        "mutants",
        "rejected",
        "reading",
    ];
    let name = |verdict: Option<Verdict>| verdict.map_or("", Verdict::name).to_owned();
    csv(
        &head,
        outcomes.iter().map(|o| {
            let c = o.claim;
            let (verdict, on_record) = (name(o.verdict), name(recorded.get(c.id)));
            let text = |s: &str| s.to_owned();
            vec![
                text(c.id),
                text(o.deck.id()),
                text(c.slide),
                verdict,
                on_record,
                text(c.statement),
                text(c.finding),
                text(c.assumes),
                text(c.printed),
                text(c.formula),
                o.evidence.len().to_string(),
                o.mutants.len().to_string(),
                o.rejected().to_string(),
                text(c.reading),
            ]
        }),
    )
}

/// One row a piece of evidence.
pub fn evidence_csv(outcomes: &[Outcome]) -> Vec<u8> {
    let rows = outcomes.iter().flat_map(|o| {
        o.evidence.iter().map(|(role, e)| {
            let numbers = [e.got, e.want, e.tol].map(|v| Number(v).to_string());
            let [got, want, tol] = numbers;
            vec![
                o.claim.id.to_owned(),
                role.name().to_owned(),
                e.what.clone(),
                got,
                want,
                tol,
                e.why.clone(),
                e.cases.to_string(),
                e.holds().to_string(),
            ]
        })
    });
    csv(&["id", "role", "what", "got", "want", "tol", "why", "cases", "ok"], rows)
}

pub fn csv(head: &[&str], rows: impl Iterator<Item = Vec<String>>) -> Vec<u8> {
    let mut writer = csv::Writer::from_writer(Vec::new());
    let written = writer.write_record(head).and_then(|()| {
        rows.into_iter().try_for_each(|row| writer.write_record(row.iter().map(|text| cell(text))))
    });
    written
        .and_then(|()| writer.into_inner().map_err(|e| e.into_error().into()))
        .expect("rows of equal length, written to memory")
}
