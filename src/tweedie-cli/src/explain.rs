//! `tweedie explain`: one claim of the catalogue as a page.

use super::Outcome;
use super::output::{self, short, wrapped};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie_claims::{self as claims, Recorded, Role, Verdict};

/// One claim as a page: statement, source, evidence, the slips that its check rejects
#[derive(clap::Args)]
#[command(
    after_help = "Example:\n  tweedie explain ghent/lvlb-sum\n\n`tweedie verify` lists the ids. Exit code 1 when the verdict is not the recorded one."
)]
pub struct Args {
    /// The claim's id, deck/name
    #[arg(value_name = "ID")]
    id: String,
    /// Seed of the random cases
    #[arg(long, value_name = "N", default_value_t = 0)]
    seed: u64,
}

pub fn run(args: &Args) -> Result<Outcome> {
    let (deck, claim) = claims::find(&args.id)?;
    let outcome = claim.run(deck, args.seed);
    let recorded = Recorded::built_in();
    output::print(page(&outcome, &recorded))?;
    Ok(if outcome.is_as(&recorded) { Outcome::Success } else { Outcome::CheckFailed })
}

const WIDTH: usize = 110;

fn page(outcome: &claims::Outcome, recorded: &Recorded) -> String {
    let claim = outcome.claim;
    let verdict = match outcome.verdict {
        Some(Verdict::Holds) => "true",
        Some(Verdict::HoldsIf) => "true under a condition",
        Some(Verdict::Fails) => "false as printed",
        None => "undecided: the evidence neither supports nor corrects it",
    };
    let mut out = format!("{}: {verdict}\n\n{}\n", claim.id, wrapped(claim.statement, "  ", WIDTH));
    let source = format!("{}; slide \"{}\"", outcome.deck.title(), claim.slide);
    // Where nothing is printed wrong, the formula is the slide's own; where something is, the two
    // stand side by side.
    let formula = if claim.printed.is_empty() { "formula" } else { "corrected" };
    for (name, text) in [
        ("source", source.as_str()),
        ("reading", claim.reading),
        ("assumes", claim.assumes),
        ("printed", claim.printed),
        (formula, claim.formula),
        ("finding", claim.finding),
    ] {
        if !text.is_empty() {
            out.push_str(&wrapped(text, &format!("{name:<10}"), WIDTH));
        }
    }
    if outcome.verdict != recorded.get(claim.id) {
        out.push_str(&format!(
            "recorded {}\n",
            recorded.get(claim.id).map_or("nothing", Verdict::name)
        ));
    }
    out.push_str("\nevidence\n");
    for (role, e) in &outcome.evidence {
        out.push_str(&evidence(*role, e));
    }
    out.push_str("\nwrong variants\n");
    for (name, rejected) in &outcome.mutants {
        out.push_str(&format!(
            "  {}  {name}\n",
            if *rejected { "rejected    " } else { "NOT REJECTED" }
        ));
    }
    out
}

fn evidence(role: Role, e: &Evidence) -> String {
    let about = match role {
        Role::Printed => "as printed",
        Role::WithCondition => "with the condition",
        Role::WithoutCondition => "without the condition",
        Role::Corrected => "corrected",
    };
    let agrees = if e.holds() { "agrees" } else { "is off" };
    let cases = if e.cases == 1 {
        String::new()
    } else {
        format!(", the worst of {} random cases", e.cases)
    };
    let numbers = format!(
        "got {}, want {}, difference {}, tolerance {}{cases}",
        short(e.got),
        short(e.want),
        short((e.got - e.want).abs()),
        short(e.tol)
    );
    [
        wrapped(&format!("{about}, {agrees}: {}", e.what), "  ", WIDTH),
        wrapped(&numbers, "      ", WIDTH),
        wrapped(&format!("tolerance: {}", e.why), "      ", WIDTH),
    ]
    .concat()
}
