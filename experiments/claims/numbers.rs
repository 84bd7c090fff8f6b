//! The catalogue of claims, run with one seed or several.

use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::sync::atomic::{AtomicUsize, Ordering};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie_claims::{self as claims, Outcome, Recorded};
use tweedie_report::experiment::{Context, Editable, Embedded, Profile};

/// What `experiments/claims/settings.toml` holds.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Effort of the quick profile.
    pub quick: Effort,
    /// Effort of the full profile.
    pub full: Effort,
}

/// How much is computed.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Effort {
    /// Seeds the catalogue is run with.
    pub seeds: usize,
}

impl Embedded for Settings {
    const SOURCE: Editable = source!("claims/settings.toml");

    fn least(self) -> Self {
        self
    }

    fn rules(&self) -> Vec<(bool, &'static str)> {
        vec![(
            [self.quick, self.full].iter().all(|e| e.seeds > 0),
            "quick, full: seeds: at least 1",
        )]
    }
}

/// What the runs found.
#[derive(Deserialize, Serialize)]
pub struct Numbers {
    /// The settings used.
    pub settings: Settings,
    /// Seed of the first run.
    pub seed: u64,
    /// How much was computed.
    pub profile: Profile,
    /// What the first run found, in the catalogue's order.
    pub outcomes: Vec<Outcome>,
    /// Claims decided as recorded and wrong variants rejected, for each run.
    pub evidence: Vec<Evidence>,
}

/// Runs every claim with its mutants, once a seed. The result does not depend on the number of
/// threads.
///
/// # Errors
/// Settings that are not valid.
pub fn compute(context: &Context) -> Result<Numbers> {
    let settings: Settings = context.settings()?;
    let seeds = context.profile.of(settings.quick, settings.full).seeds;
    let (all, recorded) = (claims::all().collect::<Vec<_>>(), Recorded::built_in());
    let done = AtomicUsize::new(0);
    let mut runs = (0..seeds as u64).map(|k| {
        let seed = context.seed.wrapping_add(k);
        let run = |(deck, claim): &(claims::Deck, &'static claims::Claim)| {
            let outcome = claim.run(*deck, seed);
            (context.progress)(
                done.fetch_add(1, Ordering::Relaxed) + 1,
                seeds * all.len(),
                claim.id,
            );
            outcome
        };
        (seed, all.par_iter().map(run).collect::<Vec<_>>())
    });
    let mut evidence = Vec::new();
    let mut count = |seed: u64, outcomes: &[Outcome]| {
        let as_recorded = outcomes
            .iter()
            .filter(|o| o.verdict.is_some() && o.verdict == recorded.get(o.claim.id))
            .count();
        let rejected: usize = outcomes.iter().map(Outcome::rejected).sum();
        let mutants: usize = outcomes.iter().map(|o| o.mutants.len()).sum();
        let whole = |what: String, got: usize, want: usize| {
            Evidence::new(what, got as f64, want as f64, 0.0).because("a count")
        };
        evidence.push(whole(
            format!("claims decided as recorded, seed {seed}"),
            as_recorded,
            outcomes.len(),
        ));
        evidence.push(whole(format!("wrong variants rejected, seed {seed}"), rejected, mutants));
    };
    let (seed, outcomes) = runs.next().expect("at least one seed");
    count(seed, &outcomes);
    runs.for_each(|(seed, outcomes)| count(seed, &outcomes));
    Ok(Numbers { settings, seed, profile: context.profile, outcomes, evidence })
}

#[cfg(test)]
mod tests {
    use super::{Embedded, Settings};
    use tweedie_report::experiment::Text;

    #[test]
    fn settings_are_checked() {
        assert!(Settings::current().is_ok());
        let error = |text: &str| {
            let text = Text { file: "x.toml".into(), content: text.to_owned().into() };
            Settings::parse(&text).unwrap_err().to_string()
        };
        assert!(error("[quick]\nseeds = 0\n[full]\nseeds = 2").contains("seeds: at least 1"));
        assert!(error("[quick]\nseeds = 1").contains("missing field"));
        assert!(error("[quick]\nseed = 1\n[full]\nseeds = 2").contains("unknown field"));
    }
}
