//! `tweedie verify`: run the catalogue of claims and compare its verdicts with the recorded ones.

use super::Outcome;
use super::output::{self, Document, Target, wrapped};
use indicatif::{ProgressBar, ProgressStyle};
use rayon::prelude::*;
use std::path::{Path, PathBuf};
use tweedie::error::{Error, Result, nearest};
use tweedie::input;
use tweedie_claims::{self as claims, Claim, Deck, Recorded, Verdict};
use tweedie_report::ledger;

/// Where the built-in snapshot lies in the repository.
const SNAPSHOT: &str = "src/claims/verdicts.toml";

/// Run the catalogue of claims; exit 1 when a verdict differs from the recorded one
#[derive(clap::Args)]
#[command(
    after_help = "Examples:\n  tweedie verify                                   all claims, slips first\n  tweedie verify --claim 'ghent/*' --claim '*/snr*'\n  \
                  tweedie verify --json verdicts.json\n  tweedie verify --record                          after a verdict has changed for a reason\n\n\
                  A wrong variant of a statement that the claim's check does not reject counts as a failed check too."
)]
pub struct Args {
    /// Only claims whose id matches; '*' stands for any text, '?' for one character
    #[arg(long, value_name = "GLOB")]
    claim: Vec<String>,
    /// Write the results as JSON to FILE, or '-' for standard output
    #[arg(long, value_name = "FILE")]
    json: Option<Target>,
    /// Seed of the random cases
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
    /// Compare with the verdicts in FILE [default: the built-in ones]
    #[arg(long, value_name = "FILE")]
    snapshot: Option<PathBuf>,
    /// Write the verdicts found to the snapshot, the others as they are [default:
    /// src/claims/verdicts.toml]
    #[arg(long)]
    record: bool,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let record = Target::File(args.snapshot.clone().unwrap_or(SNAPSHOT.into()));
    output::possible(&[
        ("--record", args.record.then_some(&record)),
        ("--json", args.json.as_ref()),
    ])?;
    let chosen = choose(&args.claim)?;
    let mut recorded = snapshot(args)?;
    let bar = ProgressBar::new(chosen.len() as u64);
    bar.set_style(
        ProgressStyle::with_template("{spinner} claims [{bar:24}] {pos}/{len} {elapsed}")
            .unwrap_or(ProgressStyle::default_bar()),
    );
    let run = |(deck, claim): &(Deck, &'static Claim)| {
        let outcome = claim.run(*deck, args.seed);
        bar.inc(1);
        outcome
    };
    let outcomes: Vec<claims::Outcome> = chosen.par_iter().map(run).collect();
    bar.finish_and_clear();

    if args.record {
        outcomes.iter().for_each(|o| recorded.set(o.claim.id, o.verdict));
        record.write(&Document::made(recorded.text()))?;
    }
    if let Some(target) = &args.json {
        // A NaN among the evidence is no verdict on record.
        target.write(&Document::made(ledger::json(&outcomes, &recorded, args.seed)))?;
    }
    if args.json != Some(Target::Stdout) {
        output::print(text(&outcomes, &recorded, args.seed))?;
    }
    Ok(if outcomes.iter().all(|o| o.is_as(&recorded)) {
        Outcome::Success
    } else {
        Outcome::CheckFailed
    })
}

fn snapshot(args: &Args) -> Result<Recorded> {
    let read = |path: &Path| {
        let mend = "name a file that tweedie verify --record has written";
        input::text(path, mend)
    };
    match &args.snapshot {
        None => Ok(Recorded::built_in()),
        Some(path) if args.record && !path.exists() => Ok(Recorded::default()),
        Some(path) => Recorded::parse(&read(path)?),
    }
}

fn choose(globs: &[String]) -> Result<Vec<(Deck, &'static Claim)>> {
    if let Some(glob) = globs.iter().find(|glob| !claims::all().any(|(_, c)| matches(glob, c.id))) {
        let nearest = nearest(glob, claims::all().map(|(_, c)| c.id)).unwrap_or("'harvard/*'");
        return Err(Error::domain(
            "--claim",
            format!("'{glob}'"),
            "a pattern that some claim's id matches",
            format!("try {nearest}, or 'ghent/*' for a deck"),
        ));
    }
    Ok(claims::all()
        .filter(|(_, c)| globs.is_empty() || globs.iter().any(|glob| matches(glob, c.id)))
        .collect())
}

/// Whether a pattern with `*` and `?` matches all of a text, in steps of at most the product of
/// their lengths.
fn matches(glob: &str, text: &str) -> bool {
    let (glob, text) = (glob.as_bytes(), text.as_bytes());
    let (mut g, mut t) = (0, 0);
    // Behind the last star, and where the text goes on after what it stands for: what stars before
    // it stand for need not change any more.
    let mut star = None;
    while t < text.len() {
        match (glob.get(g), star) {
            (Some(b'*'), _) => {
                star = Some((g + 1, t));
                g += 1;
            }
            (Some(c), _) if *c == b'?' || *c == text[t] => (g, t) = (g + 1, t + 1),
            (_, Some((behind, from))) => {
                star = Some((behind, from + 1));
                (g, t) = (behind, from + 1);
            }
            _ => return false,
        }
    }
    glob[g..].iter().all(|c| *c == b'*')
}

/// The table: what went wrong, slips with their corrections, conditions, then the rest by deck.
fn text(outcomes: &[claims::Outcome], recorded: &Recorded, seed: u64) -> String {
    let mut out = String::new();
    for (verdict, title) in [
        (Some(Verdict::Fails), "False as printed"),
        (Some(Verdict::HoldsIf), "True under a condition"),
        (None, "Undecided"),
    ] {
        let found: Vec<_> = outcomes.iter().filter(|o| o.verdict == verdict).collect();
        if !found.is_empty() {
            out.push_str(&format!("{title} ({})\n\n", found.len()));
        }
        for o in found {
            out.push_str(&format!(
                "{}\n{}{}\n",
                o.claim.id,
                wrapped(o.claim.statement, "  says   ", 110),
                wrapped(o.claim.finding, "  found  ", 110)
            ));
        }
    }
    for deck in Deck::ALL {
        let found: Vec<_> = outcomes
            .iter()
            .filter(|o| o.deck == deck && o.verdict == Some(Verdict::Holds))
            .collect();
        if !found.is_empty() {
            out.push_str(&format!(
                "True: {} ({})\n\n{}\n",
                deck.title(),
                found.len(),
                found
                    .iter()
                    .map(|o| wrapped(o.claim.statement, &format!("{:<44}", o.claim.id), 150))
                    .collect::<String>()
            ));
        }
    }
    for o in outcomes.iter().filter(|o| !o.is_as(recorded)) {
        let name = |v: Option<Verdict>| v.map_or("nothing", Verdict::name);
        if o.verdict.is_none() || o.verdict != recorded.get(o.claim.id) {
            out.push_str(&format!(
                "not as recorded: {} is found {}, recorded {}\n",
                o.claim.id,
                o.verdict.map_or("undecided", Verdict::name),
                name(recorded.get(o.claim.id))
            ));
        }
        for (mutant, _) in o.mutants.iter().filter(|m| !m.1) {
            out.push_str(&format!("not rejected: {}, wrong variant '{mutant}'\n", o.claim.id));
        }
    }
    let count = |v| outcomes.iter().filter(|o| o.verdict == Some(v)).count();
    let (killed, all): (usize, usize) =
        outcomes.iter().fold((0, 0), |(k, n), o| (k + o.rejected(), n + o.mutants.len()));
    let checks: usize = outcomes.iter().map(|o| o.evidence.len()).sum();
    out.push_str(&format!(
        "{} claims: {} true, {} true under a condition, {} false as printed; {checks} pieces of evidence; {killed} of {all} wrong variants rejected; seed {seed}\n",
        outcomes.len(),
        count(Verdict::Holds),
        count(Verdict::HoldsIf),
        count(Verdict::Fails)
    ));
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        for (glob, text, want) in [
            ("ghent/*", "ghent/snr", true),
            ("*snr*", "ghent/snr", true),
            ("ghent/sn?", "ghent/snr", true),
            ("ghent/snr", "ghent/snr", true),
            ("", "ghent/snr", false),
            ("ghent", "ghent/snr", false),
            ("ghent/snr?", "ghent/snr", false),
            ("*", "", true),
            ("", "", true),
            ("?", "", false),
            ("*?", "", false),
            ("a*b*c", "a-b-b-c", true),
            ("a*b*c", "a-c-b", false),
            ("*ab", "aab", true),
        ] {
            assert_eq!(matches(glob, text), want, "{glob} {text}");
        }
        // Tried one way after another, these would take longer than the universe is old.
        let many = "*".repeat(10_000) + "x";
        assert!(!matches(&many, &"ghent/snr".repeat(20)));
        assert!(!matches(&("*a".repeat(50) + "b"), &"a".repeat(200)));
    }

    /// All patterns of up to five characters on all texts of up to five, against the definition.
    #[test]
    fn globs_by_their_definition() {
        fn defined(glob: &[u8], text: &[u8]) -> bool {
            match (glob, text) {
                ([], []) => true,
                ([b'*', ..], _) => (0..=text.len()).any(|k| defined(&glob[1..], &text[k..])),
                ([b'?', ..], [_, ..]) => defined(&glob[1..], &text[1..]),
                ([g, ..], [t, ..]) if g == t => defined(&glob[1..], &text[1..]),
                _ => false,
            }
        }
        let words = |letters: &[char]| {
            let mut all = vec![String::new()];
            let mut last = all.clone();
            for _ in 0..5 {
                last = last
                    .iter()
                    .flat_map(|w| letters.iter().map(move |c| format!("{w}{c}")))
                    .collect();
                all.extend(last.clone());
            }
            all
        };
        let texts = words(&['a', 'b']);
        for glob in words(&['a', 'b', '*', '?']) {
            for text in &texts {
                assert_eq!(
                    matches(&glob, text),
                    defined(glob.as_bytes(), text.as_bytes()),
                    "{glob} {text}"
                );
            }
        }
    }
}
