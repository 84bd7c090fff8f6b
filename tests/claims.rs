//! The catalogue as a whole: complete, documented, registered, decided, and the same on any number
//! of threads.

use pulldown_latex::config::RenderConfig;
use pulldown_latex::{Parser, Storage, push_mathml};
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use tweedie_claims::{self as claims, Claim, Deck, Outcome, Recorded};

fn every() -> Vec<(Deck, &'static Claim)> {
    claims::all().collect()
}

#[test]
fn ids_are_unique_and_those_on_record() {
    let recorded: BTreeSet<String> = Recorded::built_in().ids().collect();
    let ids: BTreeSet<String> = every().iter().map(|(_, c)| c.id.to_owned()).collect();
    let (missing, unknown): (Vec<_>, Vec<_>) =
        (recorded.difference(&ids).collect(), ids.difference(&recorded).collect());
    assert!(
        missing.is_empty() && unknown.is_empty(),
        "missing {missing:?}, not on record {unknown:?}"
    );
    assert_eq!(ids.len(), every().len(), "an id occurs twice");
    for (deck, claim) in every() {
        assert!(
            claim.id.starts_with(&format!("{}/", deck.id())),
            "{} is not of the deck {}",
            claim.id,
            deck.id()
        );
        assert_eq!(claims::find(claim.id).unwrap().1.id, claim.id);
    }
    let error = claims::find("ghent/lsimpel").err().expect("no such claim").to_string();
    assert!(error.contains("did you mean ghent/lsimple?"), "{error}");
}

/// What README counts is what there is.
#[test]
fn the_counts_of_the_readme() {
    let readme = include_str!("../README.md");
    for (noun, count, times) in [
        ("statements", every().len(), 3),
        ("samplers", tweedie::sample::registry::SAMPLERS.len(), 2),
        ("chapters", tweedie_experiments::EXPERIMENTS.len(), 1),
    ] {
        let words: Vec<&str> = readme.split_whitespace().collect();
        let is_noun = |word: &str| word.trim_end_matches([',', '.', ':']) == noun;
        let counted: Vec<usize> =
            words.windows(2).filter(|w| is_noun(w[1])).filter_map(|w| w[0].parse().ok()).collect();
        assert_eq!(counted, vec![count; times], "{noun}");
    }
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
        for (name, text) in [
            ("statement", claim.statement),
            ("reading", claim.reading),
            ("assumes", claim.assumes),
            ("finding", claim.finding),
        ] {
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
    let events = Parser::new(latex, &storage)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|e| format!("does not parse: {e}"))?;
    let mut out = String::new();
    push_mathml(
        &mut out,
        events.into_iter().map(Ok::<_, std::convert::Infallible>),
        RenderConfig::default(),
    )
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
        let folder = PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../.."))
            .join("src/tweedie-claims/src")
            .join(deck.id());
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
            for id in text
                .lines()
                .filter_map(|l| l.trim().strip_prefix("id: \""))
                .filter_map(|l| l.strip_suffix("\","))
            {
                assert!(ids.contains(id), "{id} of {} is not in the catalogue", path.display());
                found += 1;
            }
        }
    }
    assert_eq!(found, ids.len(), "claims whose id was not found in any file");
}

/// All that a run found, to the bit.
fn bits(outcome: &Outcome) -> String {
    let evidence: Vec<_> = outcome
        .evidence
        .iter()
        .map(|(role, e)| (role, &e.what, e.got.to_bits(), e.want.to_bits(), e.tol.to_bits()))
        .collect();
    format!("{} {:?} {evidence:?} {:?}", outcome.claim.id, outcome.verdict, outcome.mutants)
}

#[test]
fn verdicts_are_decided_by_evidence_whatever_the_seed_and_the_threads_and_every_mutant_is_rejected()
{
    let all = every();
    let pool = |threads| rayon::ThreadPoolBuilder::new().num_threads(threads).build().unwrap();
    let runs = [
        claims::run(&all, 1),
        claims::run(&all, 20_260_101),
        pool(2).install(|| claims::run(&all, 0)),
    ];
    let alone = pool(1).install(|| claims::run(&all, 0));
    let recorded = Recorded::built_in();
    let mut wrong = Vec::new();
    for (run, seed) in runs.iter().zip([1, 20_260_101, 0]) {
        for o in run {
            if o.verdict.is_none() || o.verdict != recorded.get(o.claim.id) {
                wrong.push(format!(
                    "{} (seed {seed}): found {:?}, recorded {:?}",
                    o.claim.id,
                    o.verdict,
                    recorded.get(o.claim.id)
                ));
            }
            wrong.extend(
                o.mutants
                    .iter()
                    .filter(|m| !m.1)
                    .map(|m| format!("{} (seed {seed}): mutant {:?} survives", o.claim.id, m.0)),
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
        let verdict = recorded.get(claim.id).unwrap_or_else(|| {
            panic!("{} has no recorded verdict: tweedie verify --record", claim.id)
        });
        verdicts.entry(deck.id()).or_default().insert(verdict.name());
    }
    assert_eq!(
        recorded,
        Recorded::parse(&recorded.text()).unwrap(),
        "the snapshot holds claims that the catalogue does not have"
    );
    assert!(verdicts.len() == 5 && verdicts.values().all(|v| v.len() >= 2), "{verdicts:?}");
}

/// A number as a sentence writes it, and the text on either side.
struct Numeral<'a> {
    text: &'a str,
    before: &'a str,
    after: &'a str,
}

/// The numbers of a text: digits, perhaps grouped in threes, with decimals or a power of ten; or a
/// fraction of two whole numbers.
fn numerals(text: &str) -> Vec<Numeral<'_>> {
    let bytes = text.as_bytes();
    let digit = |i: usize| bytes.get(i).is_some_and(u8::is_ascii_digit);
    let run = |mut i: usize| {
        while digit(i) {
            i += 1;
        }
        i
    };
    let (mut found, mut i) = (Vec::new(), 0);
    while i < bytes.len() {
        if !digit(i) {
            i += 1;
            continue;
        }
        let from = i;
        i = run(i);
        while bytes.get(i) == Some(&b',') && run(i + 1) == i + 4 {
            i += 4;
        }
        let whole = i;
        if bytes.get(i) == Some(&b'.') && digit(i + 1) {
            i = run(i + 1);
        }
        if bytes.get(i) == Some(&b'e')
            && (digit(i + 1) || bytes.get(i + 1) == Some(&b'-') && digit(i + 2))
        {
            i = run(i + 2);
        }
        if i == whole && bytes.get(i) == Some(&b'/') && digit(i + 1) {
            i = run(i + 1);
        }
        found.push(Numeral { text: &text[from..i], before: &text[..from], after: &text[i..] });
    }
    found
}

impl Numeral<'_> {
    /// Its value, and half a unit of its last digit; a fraction is exact.
    fn value(&self) -> (f64, f64) {
        let number = |s: &str| s.replace(',', "").parse::<f64>().expect("digits");
        if let Some((above, below)) = self.text.split_once('/') {
            return (number(above) / number(below), 1e-9);
        }
        let (digits, power) = self.text.split_once('e').unwrap_or((self.text, "0"));
        let decimals = digits.split_once('.').map_or(0, |(_, d)| d.len() as i32);
        (number(self.text), 0.5 * 10f64.powi(power.parse::<i32>().expect("a power") - decimals))
    }

    /// Whether it belongs to a formula: an operator, an index, an argument or a factor of a symbol.
    fn is_of_a_formula(&self) -> bool {
        let operators = [" + ", " - ", " * ", " / "];
        let word = |c: char| c.is_alphanumeric() || "_^/*".contains(c);
        // A sign stands between it and what it belongs to: T^-3, x_{t-1}.
        let before = self.before.strip_suffix('-').unwrap_or(self.before);
        let argument =
            before.strip_suffix('(').is_some_and(|rest| rest.ends_with(char::is_alphabetic));
        let after = self.after.strip_prefix('-').unwrap_or(self.after);
        let factor = ["sqrt(", "ln ", "ln(", "pi", "lambda", "n ", "n^", "d "]
            .iter()
            .any(|s| self.after[1.min(self.after.len())..].starts_with(s));
        before.ends_with(word)
            || argument
            || after.starts_with(|c: char| word(c) || c == '(')
            || operators.iter().any(|o| self.before.ends_with(o) || self.after.starts_with(o))
            || self.after.starts_with(' ') && factor
    }

    /// Whether one of these values is printed so; where a percent sign follows, as percent, or as
    /// what is missing to the whole.
    fn prints(&self, values: &[f64]) -> bool {
        let (x, half) = self.value();
        let rest = self.after.trim_start();
        let percent = ["%", "percent", "per cent"].iter().any(|sign| rest.starts_with(sign));
        let shown = |v: f64| {
            if percent { vec![100.0 * v.abs(), 100.0 * (1.0 - v).abs()] } else { vec![v.abs()] }
        };
        values.iter().any(|v| shown(*v).into_iter().any(|v| (v - x).abs() <= half * (1.0 + 1e-9)))
    }
}

/// What the evidence of a run says in numbers: computed values, except those that are the worst of
/// random cases, what they should be, and how far they may be off.
fn values(outcome: &Outcome) -> Vec<f64> {
    outcome
        .evidence
        .iter()
        .flat_map(|(_, e)| (e.cases == 1).then_some(e.got).into_iter().chain([e.want, e.tol]))
        .collect()
}

/// The numbers of a text that nothing backs: neither these settings nor, in each of the runs, the
/// evidence.
fn unbacked<'a>(text: &'a str, settings: &[f64], runs: &[Vec<f64>]) -> Vec<&'a str> {
    let backed = |n: &Numeral| {
        settings.contains(&n.value().0)
            || n.is_of_a_formula()
            || runs.iter().all(|values| n.prints(values))
    };
    numerals(text).into_iter().filter(|n| !backed(n)).map(|n| n.text).collect()
}

/// A number in a finding is one of these: a setting, which the statement, the assumptions, the
/// whole numbers of the two formulas or the evidence's own descriptions name; part of a formula; or
/// a value of the evidence at the digits printed, with any seed. A decimal in a formula is a
/// setting or such a value. Small whole numbers are soon found among these; the test is for what
/// was measured.
#[test]
fn every_number_of_a_finding_is_a_setting_or_a_value_of_the_evidence() {
    let all = every();
    let runs = [claims::run(&all, 0), claims::run(&all, 5)];
    let mut wrong = Vec::new();
    for (first, second) in runs[0].iter().zip(&runs[1]) {
        let claim = first.claim;
        let evidence = [values(first), values(second)];
        let stated = [claim.statement, claim.assumes]
            .into_iter()
            .chain(first.evidence.iter().map(|(_, e)| e.what.as_str()));
        let value = |n: Numeral| n.value().0;
        let decimal = |n: &Numeral| n.text.contains('.');
        let mut settings: Vec<f64> = stated.flat_map(numerals).map(value).collect();
        settings.extend(numerals(claim.printed).into_iter().map(value));
        let formula = numerals(claim.formula).into_iter().filter(decimal);
        let unbacked_decimals = formula
            .filter(|n| !settings.contains(&n.value().0) && !evidence.iter().all(|v| n.prints(v)));
        wrong.extend(unbacked_decimals.map(|n| format!("{}: {} in the formula", claim.id, n.text)));
        settings.extend(numerals(claim.formula).into_iter().filter(|n| !decimal(n)).map(value));
        wrong.extend(
            unbacked(claim.finding, &settings, &evidence)
                .into_iter()
                .map(|n| format!("{}: {n}", claim.id)),
        );
    }
    assert!(wrong.is_empty(), "numbers that no evidence backs:\n{}", wrong.join("\n"));
}

#[test]
fn a_number_that_no_evidence_backs_is_noticed() {
    let settings = [300.0, 1617.0];
    let found = |text, values: &[f64]| unbacked(text, &settings, &[values.to_vec()]);
    let nothing: [&str; 0] = [];
    assert_eq!(found("at t = 300 of 1,617 it is 49 times too much", &[101.2]), ["49"]);
    assert_eq!(found("at t = 300 of 1,617 it is 101 times too much", &[101.2]), nothing);
    assert_eq!(
        found("0.64 % is left, 0.0064 of it, 99.4 percent is gone, and 0.65 is not", &[0.00635]),
        ["0.65"]
    );
    assert_eq!(
        found(
            "the factor is 2 sqrt(k)/(1 + k), of order T^-3, x_1, sqrt(6), h/2 and 1/16, but 1/7 of 8",
            &[0.0625]
        ),
        ["1/7", "8"]
    );
    assert_eq!(
        found("1.7e-4 and 1.8e-4, 786,432 and 786,433", &[1.68e-4, 786_432.0]),
        ["1.8e-4", "786,433"]
    );
    // Backed in one run only.
    assert_eq!(unbacked("it is 0.5", &settings, &[vec![0.5], vec![0.7]]), ["0.5"]);
}
