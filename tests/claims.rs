//! The catalogue as a whole: complete, documented, registered, decided, and the same on any number of threads.

use pulldown_latex::config::RenderConfig;
use pulldown_latex::{Parser, Storage, push_mathml};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tweedie::claims::{self, Claim, Deck, Outcome, Recorded};

fn every() -> Vec<(Deck, &'static Claim)> {
    claims::all().collect()
}

#[test]
fn ids_are_unique_and_those_of_the_list() {
    let listed: Vec<&str> = include_str!("golden/claims.txt").lines().collect();
    let ids: Vec<&str> = every().iter().map(|(_, c)| c.id).collect();
    let (list, set): (BTreeSet<&str>, BTreeSet<&str>) = (listed.iter().copied().collect(), ids.iter().copied().collect());
    let (missing, unknown): (Vec<_>, Vec<_>) = (list.difference(&set).collect(), set.difference(&list).collect());
    assert!(missing.is_empty() && unknown.is_empty(), "missing {missing:?}, not in the list {unknown:?}");
    assert_eq!(ids, listed, "an id occurs twice, or the order is not the list's");
    for (deck, claim) in every() {
        assert!(claim.id.starts_with(&format!("{}/", deck.id())), "{} is not of the deck {}", claim.id, deck.id());
        assert_eq!(claims::find(claim.id).unwrap().1.id, claim.id);
    }
    let error = claims::find("ghent/lsimpel").err().expect("no such claim").to_string();
    assert!(error.contains("did you mean ghent/lsimple?"), "{error}");
}

#[test]
fn every_claim_says_what_where_under_which_assumptions_and_what_was_found() {
    let mut wrong = Vec::new();
    for (_, claim) in every() {
        for (name, text) in [
            ("slide", claim.slide),
            ("statement", claim.statement),
            ("assumes", claim.assumes),
            ("formula", claim.formula),
            ("finding", claim.finding),
        ] {
            if text.trim().is_empty() {
                wrong.push(format!("{}: no {name}", claim.id));
            }
        }
        for (name, text) in
            [("statement", claim.statement), ("reading", claim.reading), ("assumes", claim.assumes), ("finding", claim.finding)]
        {
            // A line break in a literal that is not escaped leaves its indentation.
            if text.contains("  ") || text.contains('\n') || text != text.trim() {
                wrong.push(format!("{}: {name} has stray spaces or line breaks", claim.id));
            }
            if !text.is_empty() && !text.ends_with(['.', '?', ')']) {
                wrong.push(format!("{}: {name} does not end as a sentence", claim.id));
            }
        }
        if let Err(problem) = mathml(claim.formula) {
            wrong.push(format!("{}: the formula {problem}", claim.id));
        }
        let names: BTreeSet<_> = claim.mutants.iter().collect();
        if names.is_empty() || names.len() < claim.mutants.len() {
            wrong.push(format!("{}: no mutants, or two of one name", claim.id));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// A formula as the report typesets it.
fn mathml(latex: &str) -> Result<String, String> {
    let storage = Storage::new();
    let events = Parser::new(latex, &storage).collect::<Result<Vec<_>, _>>().map_err(|e| format!("does not parse: {e}"))?;
    let mut out = String::new();
    push_mathml(&mut out, events.into_iter().map(Ok::<_, std::convert::Infallible>), RenderConfig::default())
        .map_err(|e| format!("is not typeset: {e}"))?;
    if out.contains("<math") { Ok(out) } else { Err("is empty".into()) }
}

#[test]
fn a_broken_formula_is_noticed() {
    assert!(mathml(r"\frac{1}{2}").is_ok());
    assert!([r"\frac{1", r"\nosuchcommand x", r"\left( x"].iter().all(|f| mathml(f).is_err()));
}

#[test]
fn every_claim_file_is_registered() {
    let ids: BTreeSet<&str> = every().iter().map(|(_, c)| c.id).collect();
    let mut found = 0;
    for deck in Deck::ALL {
        let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("src/claims").join(deck.id());
        let module = std::fs::read_to_string(folder.join("mod.rs")).unwrap();
        for entry in std::fs::read_dir(&folder).unwrap() {
            let path = entry.unwrap().path();
            let stem = path.file_stem().unwrap().to_str().unwrap().to_owned();
            let text = std::fs::read_to_string(&path).unwrap();
            if stem == "mod" || !text.contains(": &[Claim] = &[") {
                continue;
            }
            assert!(
                module.contains(&format!("mod {stem};")) && module.contains(&format!("{stem}::")),
                "{} is not registered in mod.rs",
                path.display()
            );
            for id in text.lines().filter_map(|l| l.trim().strip_prefix("id: \"")).filter_map(|l| l.strip_suffix("\",")) {
                assert!(ids.contains(id), "{id} of {} is not in the catalogue", path.display());
                found += 1;
            }
        }
    }
    assert_eq!(found, ids.len(), "claims whose id was not found in any file");
}

/// All that a run found, to the bit.
fn bits(outcome: &Outcome) -> String {
    let evidence: Vec<_> =
        outcome.evidence.iter().map(|(role, e)| (role, &e.what, e.got.to_bits(), e.want.to_bits(), e.tol.to_bits())).collect();
    format!("{} {:?} {evidence:?} {:?}", outcome.claim.id, outcome.verdict, outcome.mutants)
}

#[test]
fn verdicts_are_decided_by_evidence_whatever_the_seed_and_the_threads_and_every_mutant_is_rejected() {
    let all = every();
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let runs = [claims::run(&all, 1), claims::run(&all, 20_260_101), pool(2).install(|| claims::run(&all, 0))];
    let alone = pool(1).install(|| claims::run(&all, 0));
    let recorded = Recorded::built_in();
    let mut wrong = Vec::new();
    for (run, seed) in runs.iter().zip([1, 20_260_101, 0]) {
        for o in run {
            if o.verdict.is_none() || o.verdict != recorded.get(o.claim.id) {
                wrong.push(format!("{} (seed {seed}): found {:?}, recorded {:?}", o.claim.id, o.verdict, recorded.get(o.claim.id)));
            }
            wrong.extend(
                o.mutants.iter().filter(|m| !m.1).map(|m| format!("{} (seed {seed}): mutant {:?} survives", o.claim.id, m.0)),
            );
        }
    }
    wrong.extend(
        runs[2]
            .iter()
            .zip(&alone)
            .filter(|(two, one)| bits(two) != bits(one))
            .map(|(two, _)| format!("{}: one thread and two differ", two.claim.id)),
    );
    // Evidence that is the same for every seed is no property; most claims have one.
    let fixed = runs[0].iter().zip(&runs[1]).filter(|(a, b)| bits(a) == bits(b)).count();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    assert!(2 * fixed < all.len(), "{fixed} of {} claims draw nothing at random", all.len());
    let mutants: usize = all.iter().map(|(_, c)| c.mutants.len()).sum();
    assert!(mutants >= 300, "only {mutants} mutants");
}

#[test]
fn every_deck_has_its_slips_and_its_truths_recorded() {
    let recorded = Recorded::built_in();
    let mut verdicts: BTreeMap<&str, BTreeSet<&str>> = BTreeMap::new();
    for (deck, claim) in every() {
        let verdict =
            recorded.get(claim.id).unwrap_or_else(|| panic!("{} has no recorded verdict: tweedie verify --record", claim.id));
        verdicts.entry(deck.id()).or_default().insert(verdict.name());
    }
    assert_eq!(recorded, Recorded::parse(&recorded.text()).unwrap(), "the snapshot holds claims that the catalogue does not have");
    assert!(verdicts.len() == 5 && verdicts.values().all(|v| v.len() >= 2), "{verdicts:?}");
}
