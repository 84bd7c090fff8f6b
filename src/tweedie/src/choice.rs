//! Choices by name: what a command line, a page or another language's binding offers, and how it
//! describes each.

use std::fmt::Debug;

/// One of a few, each with a name and a few words of what it is.
///
/// # Example
/// ```
/// use tweedie::choice::Choice;
/// use tweedie::sample::grid::Spacing;
/// assert_eq!(Spacing::named("log-snr"), Some(Spacing::LogSnr));
/// assert!(Spacing::CHOICES.iter().all(|c| Spacing::named(c.name()) == Some(*c)));
/// ```
pub trait Choice: Copy + Debug + Send + Sync + 'static {
    /// All of them.
    const CHOICES: &'static [Self];

    /// Its name.
    fn name(self) -> &'static str;

    /// What it is, in a few words.
    fn about(self) -> &'static str;

    /// The choice of this name.
    fn named(name: &str) -> Option<Self> {
        Self::CHOICES.iter().copied().find(|c| c.name() == name)
    }
}
