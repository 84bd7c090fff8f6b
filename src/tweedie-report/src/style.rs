//! The colours of every figure, in light and in dark.
//!
//! Figures are drawn once, in the light colours. What shows them (the page, or the SVG file itself)
//! carries a style sheet that restates each colour in its dark variant by attribute selectors, so
//! that a picture needs neither a script nor a second copy.

use base64::Engine;
use plotters::style::RGBColor;
use serde::{Deserialize, Serialize};

/// One colour in its two variants.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Colour {
    light: u32,
    dark: u32,
}

/// Text and axes.
pub const INK: Colour = Colour { light: 0x1D1D1F, dark: 0xECEAE4 };
/// Secondary text.
pub const MUTED: Colour = Colour { light: 0x5F6368, dark: 0xA9ABB0 };
/// Grid lines and frames.
pub const GRID: Colour = Colour { light: 0xDFE1E5, dark: 0x3A3D44 };
/// What a figure is drawn on.
pub const CARD: Colour = Colour { light: 0xFFFFFF, dark: 0x1B1D22 };

/// Okabe and Ito's palette, which stays apart in every common colour blindness; yellow is left out
/// (too pale on white), and the dark colours are lifted where the card is dark.
///
/// # Source
/// Okabe and Ito, *Color Universal Design* (2008).
pub const SERIES: [Colour; 7] = [BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, INK];
/// Okabe-Ito blue.
pub const BLUE: Colour = Colour { light: 0x0072B2, dark: 0x4FA8E0 };
/// Okabe-Ito vermilion.
pub const VERMILION: Colour = Colour { light: 0xD55E00, dark: 0xF5824A };
/// Okabe-Ito bluish green.
pub const GREEN: Colour = Colour { light: 0x009E73, dark: 0x2CC79A };
/// Okabe-Ito reddish purple.
pub const PURPLE: Colour = Colour { light: 0xB5578C, dark: 0xDD93BC };
/// Okabe-Ito orange.
pub const ORANGE: Colour = Colour { light: 0xE69F00, dark: 0xF2B233 };
/// Okabe-Ito sky blue.
pub const SKY: Colour = Colour { light: 0x56B4E9, dark: 0x8CCBF0 };

const THEMED: [Colour; 10] = [INK, MUTED, GRID, CARD, BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY];

impl Colour {
    /// The light variant, for plotters.
    pub fn rgb(self) -> RGBColor {
        let [_, r, g, b] = self.light.to_be_bytes();
        RGBColor(r, g, b)
    }
}

/// `prefix rule` for every themed colour, each value made by `value(light, dark)`.
fn rules(prefix: &str, value: impl Fn(&str, &str) -> String) -> String {
    THEMED
        .iter()
        .map(|c| {
            let (light, dark) = (format!("#{:06X}", c.light), format!("#{:06X}", c.dark));
            let value = value(&light, &dark);
            format!("{prefix}[fill=\"{light}\"]{{fill:{value}}}{prefix}[stroke=\"{light}\"]{{stroke:{value}}}\n")
        })
        .collect()
}

/// The rules of a page that switches by `color-scheme`.
pub fn page_css() -> String {
    rules(".drawing ", |light, dark| format!("light-dark({light},{dark})"))
}

/// The style element of an SVG file that stands alone.
pub fn svg_style() -> String {
    format!(
        "<style>@media screen and (prefers-color-scheme:dark){{\n{}}}</style>\n",
        rules("", |_, dark| dark.to_string())
    )
}

/// The page's fonts: see `fonts/README.md`.
pub fn font_css() -> String {
    let faces: [(&str, &str, &[u8]); 4] = [
        ("TeX Gyre Pagella", "", include_bytes!("fonts/pagella-regular.woff2")),
        ("TeX Gyre Pagella", "font-style:italic;", include_bytes!("fonts/pagella-italic.woff2")),
        ("TeX Gyre Pagella", "font-weight:700;", include_bytes!("fonts/pagella-bold.woff2")),
        ("TeX Gyre Pagella Math", "", include_bytes!("fonts/pagella-math.woff2")),
    ];
    let face = |(family, style, bytes): (&str, &str, &[u8])| {
        let data = base64::engine::general_purpose::STANDARD.encode(bytes);
        format!(
            "@font-face{{font-family:\"{family}\";{style}src:url(data:font/woff2;base64,{data}) format(\"woff2\")}}\n"
        )
    };
    faces.into_iter().map(face).collect()
}
