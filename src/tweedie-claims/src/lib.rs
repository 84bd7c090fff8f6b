//! The catalogue: what five lecture decks state, each with an executable check that decides its
//! verdict.
//!
//! A [`Claim`] is one statement. Its `check` computes [`Evidence`] through a [`Probe`]; the
//! [`Verdict`] follows from the evidence by one rule ([`Verdict::of`]), never from a constant. Each
//! claim also names its mutants, the wrong variants that its check must reject: the same check runs
//! with [`Probe::mutant`] answering true for one of them, and has to end differently.
//!
//! The decks were read as text that was extracted from the slides; nobody saw the slides
//! themselves. "The slide" is that text; where it is damaged or doubtful, the claim's `reading`
//! says what was taken for what, and "as printed" means as the text has it.
//!
//! One folder a deck, one file a claim or a tight family of claims; each file has a `CLAIMS` slice,
//! and the deck's module lists them.

mod chain;
pub mod probe;
pub mod recorded;
pub mod verdict;

pub mod ghent;
pub mod harvard;
pub mod purdue;
pub mod recap;
pub mod sjtu;

pub use probe::{Probe, Trial};
pub use recorded::Recorded;
pub use verdict::{Role, Verdict};

use rayon::prelude::*;
use tweedie::error::{Error, Result, nearest};
use tweedie::evidence::Evidence;

/// What a deck's "comparable samples" means, in every claim that says so: the law that a sampler
/// produces is farther from the data law than that of 1000 ancestral steps by at most this share of
/// the data's total deviation, both distances in W2.
pub(crate) const COMPARABLE: f64 = 0.1;

/// One of the five lecture decks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Deck {
    /// "Lecture 26: Diffusion Models", Tao Huang, Shanghai Jiao Tong University.
    Sjtu,
    /// "Diffusion Models", Purdue University.
    Purdue,
    /// "Diffusion model", the lecture after VAE and GAN.
    Recap,
    /// "Lecture 16: Generative Models - Diffusion", Ho-min Park, Ghent University.
    Ghent,
    /// "Introduction to Diffusion Models", Binxu Wang, Harvard AM 231/ES 201.
    Harvard,
}

impl Deck {
    /// All decks, in the catalogue's order.
    pub const ALL: [Deck; 5] = [Deck::Sjtu, Deck::Purdue, Deck::Recap, Deck::Ghent, Deck::Harvard];

    /// The prefix of its claims' ids.
    pub fn id(self) -> &'static str {
        match self {
            Deck::Sjtu => "sjtu",
            Deck::Purdue => "purdue",
            Deck::Recap => "recap",
            Deck::Ghent => "ghent",
            Deck::Harvard => "harvard",
        }
    }

    /// Title, author, place.
    pub fn title(self) -> &'static str {
        match self {
            Deck::Sjtu => "Lecture 26: Diffusion Models, Tao Huang, Shanghai Jiao Tong University",
            Deck::Purdue => "Diffusion Models, Purdue University",
            Deck::Recap => "Diffusion model (the lecture after VAE and GAN)",
            Deck::Ghent => {
                "Lecture 16: Generative Models - Diffusion, Ho-min Park, Ghent University"
            }
            Deck::Harvard => "Introduction to Diffusion Models, Binxu Wang, Harvard AM 231/ES 201",
        }
    }

    fn files(self) -> &'static [&'static [Claim]] {
        match self {
            Deck::Sjtu => sjtu::FILES,
            Deck::Purdue => purdue::FILES,
            Deck::Recap => recap::FILES,
            Deck::Ghent => ghent::FILES,
            Deck::Harvard => harvard::FILES,
        }
    }
}

/// One statement of a deck with the check that decides it.
pub struct Claim {
    /// Permanent: `deck/short-name`.
    pub id: &'static str,
    /// Where it stands: the slide's title.
    pub slide: &'static str,
    /// The statement in our words, as the slide makes it.
    pub statement: &'static str,
    /// What was read where the scan is doubtful, and why; empty where the slide is clear.
    pub reading: &'static str,
    /// What the check takes for granted.
    pub assumes: &'static str,
    /// The slip as the slide prints it, LaTeX; empty where nothing is wrong.
    pub printed: &'static str,
    /// What is checked, corrected where the slide slips, LaTeX.
    pub formula: &'static str,
    /// What was found: for `holds-if` the condition, for `fails` the correction, otherwise why it
    /// holds (a sentence or two).
    pub finding: &'static str,
    /// Names of the wrong variants that the check must reject.
    pub mutants: &'static [&'static str],
    /// Computes the evidence.
    pub check: fn(&mut Probe),
}

/// What one run of a claim's check gave. Written down it is the claim's id, the evidence, and which
/// mutants were rejected.
#[derive(Clone, serde::Serialize, serde::Deserialize)]
#[serde(try_from = "Written", into = "Written")]
pub struct Outcome {
    pub claim: &'static Claim,
    pub deck: Deck,
    /// `None` where the evidence decides nothing: a broken check.
    pub verdict: Option<Verdict>,
    /// What was computed, each piece with what it is about.
    pub evidence: Vec<(Role, Evidence)>,
    /// Each mutant and whether the check rejected it.
    pub mutants: Vec<(&'static str, bool)>,
}

impl Outcome {
    /// Number of mutants that the check rejected.
    pub fn rejected(&self) -> usize {
        self.mutants.iter().filter(|m| m.1).count()
    }

    /// Whether the check decided as recorded and rejected every mutant.
    pub fn is_as(&self, recorded: &Recorded) -> bool {
        self.verdict.is_some()
            && self.verdict == recorded.get(self.claim.id)
            && self.rejected() == self.mutants.len()
    }
}

/// An [`Outcome`] as it is written down.
#[derive(serde::Serialize, serde::Deserialize)]
struct Written {
    claim: String,
    evidence: Vec<(Role, Evidence)>,
    rejected: Vec<bool>,
}

impl From<Outcome> for Written {
    fn from(outcome: Outcome) -> Self {
        Self {
            claim: outcome.claim.id.into(),
            evidence: outcome.evidence,
            rejected: outcome.mutants.iter().map(|m| m.1).collect(),
        }
    }
}

impl TryFrom<Written> for Outcome {
    type Error = Error;

    fn try_from(written: Written) -> Result<Self> {
        let (deck, claim) = find(&written.claim)?;
        if claim.mutants.len() != written.rejected.len() {
            let allowed = "one for each mutant of the claim";
            let got = written.rejected.len();
            return Err(Error::domain("mutants", got, allowed, "run the claim again"));
        }
        Ok(Self {
            claim,
            deck,
            verdict: Verdict::of(&written.evidence),
            evidence: written.evidence,
            mutants: claim.mutants.iter().copied().zip(written.rejected).collect(),
        })
    }
}

/// All claims in the catalogue's order.
pub fn all() -> impl Iterator<Item = (Deck, &'static Claim)> {
    Deck::ALL.into_iter().flat_map(|deck| {
        deck.files().iter().flat_map(|file| file.iter()).map(move |claim| (deck, claim))
    })
}

/// The claim of this id.
///
/// # Errors
/// An unknown id, with the nearest one.
pub fn find(id: &str) -> Result<(Deck, &'static Claim)> {
    all().find(|(_, c)| c.id == id).ok_or_else(|| {
        let near = nearest(id, all().map(|(_, c)| c.id))
            .map_or(String::new(), |near| format!("did you mean {near}? "));
        let mend = format!("{near}`tweedie verify` lists all");
        Error::domain("claim", id, "an id of the catalogue", mend)
    })
}

impl Claim {
    /// Runs the check and every mutant.
    pub fn run(&'static self, deck: Deck, seed: u64) -> Outcome {
        let evidence = Probe::run(self, seed, None);
        let verdict = Verdict::of(&evidence);
        let mutants = self
            .mutants
            .iter()
            .map(|mutant| {
                let mutated = Verdict::of(&Probe::run(self, seed, Some(mutant)));
                (*mutant, verdict.is_some() && mutated != verdict)
            })
            .collect();
        Outcome { claim: self, deck, verdict, evidence, mutants }
    }
}

/// Runs the given claims on all cores; the result does not depend on how many there are.
pub fn run(claims: &[(Deck, &'static Claim)], seed: u64) -> Vec<Outcome> {
    claims.par_iter().map(|(deck, claim)| claim.run(*deck, seed)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    /// `CLAIM=sjtu/forward cargo test --lib claims -- --nocapture` prints the evidence of the
    /// claims whose id starts so.
    #[test]
    fn every_claim_is_decided_and_every_mutant_rejected() {
        let filter = std::env::var("CLAIM").unwrap_or_default();
        let chosen: Vec<_> = all().filter(|(_, c)| c.id.starts_with(&filter)).collect();
        let mut wrong = Vec::new();
        for seed in [1, 2, 3] {
            for o in run(&chosen, seed) {
                if !filter.is_empty() && seed == 1 {
                    println!("{}: {:?}", o.claim.id, o.verdict);
                    for (role, e) in &o.evidence {
                        println!(
                            "  [{:?}] {}: got {:e}, want {:e}, tol {:e} ({}; {} cases) {}",
                            role,
                            e.what,
                            e.got,
                            e.want,
                            e.tol,
                            e.why,
                            e.cases,
                            e.holds()
                        );
                    }
                    println!("  mutants {:?}", o.mutants);
                }
                if o.verdict.is_none() {
                    wrong.push(format!(
                        "{} (seed {seed}): the evidence decides nothing",
                        o.claim.id
                    ));
                }
                wrong.extend(
                    o.mutants.iter().filter(|m| !m.1).map(|m| {
                        format!("{} (seed {seed}): mutant {:?} survives", o.claim.id, m.0)
                    }),
                );
            }
        }
        assert!(wrong.is_empty(), "{}", wrong.join("\n"));
    }
}
