//! The chapter on the catalogue: what it found, the slips first. The whole ledger is a page of its
//! own, [`tweedie_report::ledger`].

use crate::claims::numbers::{Numbers, compute};
use tweedie::error::Result;
use tweedie_claims::Verdict;
use tweedie_report::chapter::{command, section};
use tweedie_report::experiment::Context;
use tweedie_report::ledger;
use tweedie_report::page::{Block, Chapter, Colophon, File};

/// Runs the catalogue and describes what it found.
pub fn run(context: &Context) -> Result<Chapter> {
    chapter(
        &compute(context)?,
        &Colophon::new(context.profile, context.seed),
        command("claims", context),
    )
}

fn chapter(n: &Numbers, colophon: &Colophon, command: String) -> Result<Chapter> {
    let count = |verdict| n.outcomes.iter().filter(|o| o.verdict == Some(verdict)).count();
    let (holds, holds_if, fails) =
        (count(Verdict::Holds), count(Verdict::HoldsIf), count(Verdict::Fails));
    let lead = format!(
        "Five public lecture decks on diffusion models make {} statements: derivations, closed forms, rules of thumb, numbers of an example. Each is here a check that \
         computes its own verdict. {holds} are true as they stand, {holds_if} are true under a condition that the slide leaves out, and {fails} are false as printed. \
         <a href=\"claims/index.html\">The ledger</a> has all of them, with formulas, evidence and sources.",
        n.outcomes.len()
    );
    let slips = n.outcomes.iter().filter(|o| o.verdict == Some(Verdict::Fails));
    let slips = slips.map(|o| ledger::entry(o, &n.recorded, false)).collect::<Result<String>>()?;
    let text = |t: &str| Block::Text(t.into());
    Ok(Chapter {
        name: "claims".into(),
        title: "What five lectures state".into(),
        lead,
        command,
        sections: vec![
            section(
                "verdicts",
                "What the checks found",
                vec![Block::Markup(ledger::counts(&n.outcomes)), text(RULE), files(n, colophon)?],
            ),
            section(
                "slips",
                "Slips, with their corrections",
                vec![text(GENTLY), Block::Markup(slips)],
            ),
            section("runs", "Runs", vec![text(RUNS), Block::Evidence(n.evidence.clone())]),
        ],
    })
}

const RULE: &str = "No verdict is written down by hand. A check compares numbers: of the statement as printed, of the statement with and without a condition, \
                    of a corrected statement. If the printed form agrees the verdict is <em>true</em>; if it agrees with the condition and is off without it, \
                    <em>true under a condition</em>; if it is off and the corrected form agrees, <em>false as printed</em>. Anything else is a broken check. Each check \
                    also has to reject wrong variants of what it tests: a dropped square, a missing bar, an index off by one, a variance for a deviation.";

const GENTLY: &str = "Most are slips of the pen in decks that are right in what they teach: a bracket, a bar, a root, rounded numbers. Each is shown as printed and corrected; \
                      the ledger has the comparisons that tell the two apart. The decks were read as text extracted from the slides, so that a slip may be the extraction's.";

const RUNS: &str = "Most evidence is the worst of many random cases. Another seed draws other schedules, laws, dimensions and times, and has to end with the same verdicts.";

fn files(n: &Numbers, colophon: &Colophon) -> Result<Block> {
    let file = |name: &str, about: &str, content: Vec<u8>| File {
        name: name.into(),
        about: about.into(),
        content,
    };
    Ok(Block::Files(vec![
        file(
            "index.html",
            "the ledger, to read, filter and print",
            ledger::html(&n.outcomes, &n.recorded, colophon)?.into_bytes(),
        ),
        file(
            "claims.json",
            "everything in it, as <code>tweedie verify --json</code> writes it",
            ledger::json(&n.outcomes, &n.recorded, n.seed),
        ),
        file("claims.csv", "one row a claim", ledger::claims_csv(&n.outcomes, &n.recorded)),
        file("evidence.csv", "one row a comparison", ledger::evidence_csv(&n.outcomes)),
    ]))
}

#[cfg(test)]
mod tests {
    use std::collections::HashSet;
    use tweedie_claims::{Recorded, Verdict, all};
    use tweedie_report::{Options, Profile, run};

    /// What a reader sees besides formulas: the body without MathML, tags, attributes and the
    /// script.
    fn visible(html: &str) -> String {
        let body = html.split("<body>").nth(1).unwrap().split("<script>").next().unwrap();
        let body: String = body
            .split("<math")
            .map(|part| part.split_once("</math>").map_or(part, |(_, rest)| rest))
            .collect();
        body.split('<').map(|part| part.split_once('>').map_or(part, |(_, text)| text)).collect()
    }

    #[test]
    fn the_ledger_is_whole() {
        let out = tempfile::tempdir().unwrap();
        let options = Options {
            settings: None,
            names: vec!["claims".into()],
            profile: Profile::Quick,
            out: out.path().into(),
            seed: 0,
            cache: None,
        };
        let summary = run(crate::EXPERIMENTS, &options).unwrap();
        assert!(summary.failed.is_empty(), "{:?}", summary.failed);
        assert_eq!((summary.figures, summary.checks), (0, 2));
        let read = |name: &str| std::fs::read_to_string(out.path().join(name)).unwrap();
        let (index, ledger) = (read("index.html"), read("claims/index.html"));

        // Every claim has its anchor, its formula, its verdict as recorded, its evidence; a slip
        // has both forms.
        let recorded = Recorded::built_in();
        let mut slips = 0;
        for (deck, claim) in all() {
            let anchor = format!(" id=\"{}\" data-deck=\"{}\" ", claim.id, deck.id());
            let (before, rest) =
                ledger.split_once(&anchor).unwrap_or_else(|| panic!("{} has no anchor", claim.id));
            assert!(!rest.contains(&anchor), "{} occurs twice", claim.id);
            let verdict = recorded.get(claim.id).unwrap();
            assert!(
                before.ends_with(&format!("<article class=\"claim {}\"", verdict.name())),
                "{}",
                claim.id
            );
            let entry = rest.split("</article>").next().unwrap();
            assert!(
                entry.contains("<math")
                    && entry.contains("<details>")
                    && entry.contains("<dt>source</dt>"),
                "{}",
                claim.id
            );
            assert_eq!(
                entry.matches("<em>rejected</em>").count(),
                claim.mutants.len(),
                "{}",
                claim.id
            );
            let slip = verdict == Verdict::Fails;
            assert_eq!(
                slip,
                !claim.printed.is_empty(),
                "{}: a slip, and only a slip, has a printed form",
                claim.id
            );
            assert_eq!(
                entry.contains("form printed") && entry.contains("form right"),
                slip,
                "{}",
                claim.id
            );
            assert_eq!(
                index.contains(&format!("href=\"claims/index.html#{}\"", claim.id)),
                slip,
                "{}",
                claim.id
            );
            slips += usize::from(slip);
        }
        assert_eq!(ledger.matches("<article ").count(), all().count());
        assert_eq!(index.matches("<article class=\"claim fails\"").count(), slips);

        // Nothing is left as LaTeX or as ASCII mathematics, and nothing is fetched.
        for (name, page) in [("index", &index), ("ledger", &ledger)] {
            let text = visible(page);
            assert!(text.len() > 5_000);
            for mark in ['\\', '$', '_', '^', '~'] {
                if let Some(at) = text.find(mark) {
                    panic!(
                        "{name}: {mark} is not set in …{}…",
                        text[at.saturating_sub(60)..].chars().take(120).collect::<String>()
                    );
                }
            }
            assert!(
                !page.contains("url(http")
                    && !page.contains("src=\"http")
                    && !page.contains("href=\"http")
            );
        }
        let ids: HashSet<&str> =
            ledger.split(" id=\"").skip(1).map(|rest| rest.split('"').next().unwrap()).collect();
        for link in ledger.split(" href=\"").skip(1).map(|rest| rest.split('"').next().unwrap()) {
            match link.split_once('#') {
                Some(("", id)) => assert!(ids.contains(id), "{link} leads nowhere"),
                Some((file, _)) => {
                    assert!(out.path().join("claims").join(file).is_file(), "{link} is missing")
                }
                None => assert!(
                    link.starts_with("data:") || out.path().join("claims").join(link).is_file(),
                    "{link} is missing"
                ),
            }
        }

        // The files beside it have the same claims.
        let json: serde_json::Value = serde_json::from_str(&read("claims/claims.json")).unwrap();
        let claims = json["claims"].as_array().unwrap();
        assert!(claims.iter().map(|c| c["id"].as_str().unwrap()).eq(all().map(|(_, c)| c.id)));
        let rows = |name: &str| {
            csv::Reader::from_reader(read(name).as_bytes())
                .into_records()
                .map(Result::unwrap)
                .count()
        };
        assert_eq!(rows("claims/claims.csv"), claims.len());
        assert_eq!(
            rows("claims/evidence.csv"),
            claims.iter().map(|c| c["evidence"].as_array().unwrap().len()).sum::<usize>()
        );
    }
}
