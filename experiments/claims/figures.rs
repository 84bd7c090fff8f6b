//! What the chapter on the catalogue shows of what it found, the slips first. The whole ledger is a
//! page of its own, [`tweedie_report::ledger`].

use crate::claims::numbers::{Numbers, Settings, compute};
use serde_json::Value;
use tweedie::error::Result;
use tweedie_claims::{Recorded, Verdict};
use tweedie_report::chapter::{Parts, Study, settings};
use tweedie_report::experiment::{Context, Editable, Text};
use tweedie_report::ledger;
use tweedie_report::page::{Colophon, File};

/// The chapter.
pub struct Claims;

impl Study for Claims {
    const NAME: &'static str = "claims";
    const ABOUT: &'static str = "the statements of five lecture decks, each with the verdict that its check computes, slips and corrections first";
    const SECONDS: [f64; 2] = [5.0, 20.0];
    const TEXT: Editable = source!("claims/text.md");
    const CODE: &'static str = env!("CODE_OF_claims");
    type Numbers = Numbers;

    fn settings(text: Option<&Text>) -> Result<Value> {
        settings::<Settings>(text)
    }

    fn compute(context: &Context) -> Result<Numbers> {
        compute(context)
    }

    fn parts(n: &Numbers) -> Result<Parts> {
        let recorded = Recorded::built_in();
        let count = |v| n.outcomes.iter().filter(|o| o.verdict == Some(v)).count();
        let slips = n.outcomes.iter().filter(|o| o.verdict == Some(Verdict::Fails));
        let slips =
            slips.map(|o| ledger::entry(o, &recorded, false)).collect::<Result<String>>()?;
        let mut parts = Parts::new(&n.settings);
        parts.value("claims", n.outcomes.len());
        parts.value("holds", count(Verdict::Holds));
        parts.value("holds_if", count(Verdict::HoldsIf));
        parts.value("fails", count(Verdict::Fails));
        parts.markup("counts", ledger::counts(&n.outcomes));
        parts.markup("slips", slips);
        parts.files("ledger", files(n, &recorded)?);
        parts.checks("runs", n.evidence.clone());
        Ok(parts)
    }
}

fn files(n: &Numbers, recorded: &Recorded) -> Result<Vec<File>> {
    let colophon = Colophon::new(n.profile, n.seed);
    let file = |name: &str, about: &str, content: Vec<u8>| File {
        name: name.into(),
        about: about.into(),
        content,
    };
    Ok(vec![
        file(
            "index.html",
            "the ledger, to read, filter and print",
            ledger::html(&n.outcomes, recorded, &colophon)?.into_bytes(),
        ),
        file(
            "claims.json",
            "everything in it, as <code>tweedie verify --json</code> writes it",
            ledger::json(&n.outcomes, recorded, n.seed),
        ),
        file("claims.csv", "one row a claim", ledger::claims_csv(&n.outcomes, recorded)),
        file("evidence.csv", "one row a comparison", ledger::evidence_csv(&n.outcomes)),
    ])
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
