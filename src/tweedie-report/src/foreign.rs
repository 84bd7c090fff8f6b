//! Text from outside the program: names and values of folders that are compared, of results of
//! other machines.

use serde::Serialize;
use std::fmt::{Display, Formatter, Result};
use tweedie::error::acts;

/// Text that someone else wrote. Displayed, and so in whatever `format!` makes of it, it is HTML
/// that shows this text: nothing in it is markup, a formula or a character that acts. Only
/// [`Foreign::raw`] gives it as it is, for what escapes by itself: drawings, attributes of
/// templates, JSON.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(transparent)]
pub struct Foreign(String);

impl Foreign {
    /// The text as it came.
    pub fn raw(&self) -> &str {
        &self.0
    }
}

impl<T: Into<String>> From<T> for Foreign {
    fn from(text: T) -> Self {
        Self(text.into())
    }
}

impl Display for Foreign {
    fn fmt(&self, f: &mut Formatter<'_>) -> Result {
        self.0.chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            // Would begin a formula.
            '$' => f.write_str("&#36;"),
            c if acts(c) => f.write_str("\u{FFFD}"),
            c => write!(f, "{c}"),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_text_is_only_text() {
        let text = Foreign::from("\"><script>'$x$' & \u{1b}[2J");
        assert_eq!(
            format!("{text}"),
            "&quot;&gt;&lt;script&gt;&#39;&#36;x&#36;&#39; &amp; \u{FFFD}[2J"
        );
        assert_eq!(text.raw().len(), 22);
        assert_eq!(serde_json::to_string(&Foreign::from("<b>")).unwrap(), "\"<b>\"");
    }
}
