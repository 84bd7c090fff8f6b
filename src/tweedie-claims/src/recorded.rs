//! The snapshot of verdicts: what the catalogue last found, so that a change of the code that
//! changes a verdict is noticed.

use crate::{Verdict, all};
use std::collections::BTreeMap;
use tweedie::error::{Error, Result};

/// Verdicts by deck and the rest of the id: the file `verdicts.toml`.
#[derive(Clone, Debug, Default, PartialEq, serde::Deserialize)]
#[serde(transparent)]
pub struct Recorded(BTreeMap<String, BTreeMap<String, Verdict>>);

impl Recorded {
    /// The snapshot that is built in.
    ///
    /// # Panics
    /// When the built-in file is not valid, which a test excludes.
    pub fn built_in() -> Self {
        Self::parse(include_str!("verdicts.toml")).expect("the built-in snapshot is valid")
    }

    /// Reads a snapshot.
    ///
    /// # Errors
    /// Text that is not TOML with one table of verdicts a deck.
    pub fn parse(text: &str) -> Result<Self> {
        toml::from_str(text).map_err(|e| {
            let allowed = "tables of name = \"holds\", \"holds-if\" or \"fails\"";
            Error::domain(
                "snapshot of verdicts",
                e.message(),
                allowed,
                "write it again with tweedie verify --record",
            )
        })
    }

    /// The ids of all claims on record.
    pub fn ids(&self) -> impl Iterator<Item = String> {
        self.0.iter().flat_map(|(deck, claims)| claims.keys().map(move |k| format!("{deck}/{k}")))
    }

    /// The verdict of a claim, if it has one.
    pub fn get(&self, id: &str) -> Option<Verdict> {
        let (deck, name) = id.split_once('/')?;
        self.0.get(deck)?.get(name).copied()
    }

    /// Sets the verdict of a claim, or takes it out.
    pub fn set(&mut self, id: &str, verdict: Option<Verdict>) {
        let (deck, name) = id.split_once('/').unwrap_or((id, ""));
        let table = self.0.entry(deck.into()).or_default();
        match verdict {
            Some(verdict) => table.insert(name.into(), verdict),
            None => table.remove(name),
        };
    }

    /// The file, claims in the catalogue's order; what the catalogue does not have is left out.
    pub fn text(&self) -> String {
        let mut text = String::from(
            "# The catalogue's verdicts, written by `tweedie verify --record`: a run that finds another one exits 1.\n",
        );
        let mut section = None;
        for (deck, claim) in all() {
            let Some(verdict) = self.get(claim.id) else { continue };
            if section != Some(deck) {
                section = Some(deck);
                text.push_str(&format!("\n[{}]\n", deck.id()));
            }
            let name = claim.id.split_once('/').map_or(claim.id, |(_, name)| name);
            text.push_str(&format!("{name} = \"{}\"\n", verdict.name()));
        }
        text
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_snapshot_is_read_as_it_is_written() {
        let mut snapshot = Recorded::default();
        let ids: Vec<&str> = all().map(|(_, c)| c.id).collect();
        for (id, verdict) in
            ids.iter().zip([Verdict::Holds, Verdict::HoldsIf, Verdict::Fails].into_iter().cycle())
        {
            snapshot.set(id, Some(verdict));
        }
        assert_eq!(Recorded::parse(&snapshot.text()).unwrap(), snapshot);
        snapshot.set(ids[0], None);
        assert_eq!(
            (snapshot.get(ids[0]), snapshot.get(ids[1]), snapshot.get("none")),
            (None, Some(Verdict::HoldsIf), None)
        );
        let error = Recorded::parse("[ghent]\nlsimple = \"maybe\"\n").unwrap_err().to_string();
        assert!(error.starts_with("snapshot of verdicts: got unknown variant `maybe`"), "{error}");
    }
}
