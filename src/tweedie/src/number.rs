//! Numbers as the crate's files carry them. Layer L8.

use crate::error::acts;
use serde::{Serialize, Serializer};
use std::cell::Cell;
use std::io::{self, Write};

/// A number as JSON and CSV carry it: 17 significant digits; `inf`, `-inf` and `nan`, which JSON's
/// numbers lack, as strings.
#[derive(Clone, Copy, Debug)]
pub struct Number(pub f64);

impl std::fmt::Display for Number {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.0.is_finite() {
            true => write!(f, "{:.16e}", self.0),
            // Python, NumPy and pandas read these three.
            false => f.write_str(if self.0.is_nan() {
                "nan"
            } else if self.0 > 0.0 {
                "inf"
            } else {
                "-inf"
            }),
        }
    }
}

/// A number of a structure, as [`Number`]: of a plain one that is infinite or NaN serde_json makes
/// `null`.
///
/// # Example
/// ```
/// #[derive(serde::Serialize)]
/// struct Level {
///     #[serde(serialize_with = "tweedie::number::or_word")]
///     log_snr: f64,
/// }
/// let json = tweedie::number::json(&Level { log_snr: f64::NEG_INFINITY });
/// assert_eq!(json, b"{\"log_snr\":\"-inf\"}\n");
/// ```
///
/// # Errors
/// Those of the serializer.
pub fn or_word<S: Serializer>(x: &f64, serializer: S) -> std::result::Result<S::Ok, S::Error> {
    Number(*x).serialize(serializer)
}

/// [`or_word`], where there is a number.
///
/// # Errors
/// Those of the serializer.
pub fn or_word_if_any<S: Serializer>(
    x: &Option<f64>,
    serializer: S,
) -> std::result::Result<S::Ok, S::Error> {
    x.map(Number).serialize(serializer)
}

thread_local! {
    /// Whether a NaN was written since [`json_without_nan`] last looked.
    static NAN: Cell<bool> = const { Cell::new(false) };
}

/// [`json`]; `None` where one of its [`Number`]s is NaN.
pub fn json_without_nan(value: &impl Serialize) -> Option<Vec<u8>> {
    NAN.set(false);
    let bytes = json(value);
    (!NAN.take()).then_some(bytes)
}

impl Serialize for Number {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        if self.0.is_nan() {
            NAN.set(true);
        }
        if self.0.is_finite() {
            serializer.serialize_f64(self.0)
        } else {
            serializer.serialize_str(&self.to_string())
        }
    }
}

/// A text as a cell of a CSV file. One that a spreadsheet would take for a formula, and compute,
/// begins with an apostrophe there.
///
/// # Source
/// OWASP, *CSV Injection*.
pub fn cell(text: &str) -> String {
    let formula =
        text.starts_with(['=', '+', '-', '@', '\t', '\r']) && text.parse::<f64>().is_err();
    if formula { format!("'{text}") } else { text.to_owned() }
}

/// JSON on one line, numbers with 17 significant digits. What would act on a terminal is spelt out,
/// as JSON spells it.
pub fn json(value: &impl Serialize) -> Vec<u8> {
    struct Digits17;
    impl serde_json::ser::Formatter for Digits17 {
        fn write_f64<W: ?Sized + Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
            write!(writer, "{value:.16e}")
        }
        fn write_string_fragment<W: ?Sized + Write>(
            &mut self,
            writer: &mut W,
            fragment: &str,
        ) -> io::Result<()> {
            // All of them are of the first 65,536, which four digits hold.
            fragment.chars().try_for_each(|c| {
                if acts(c) { write!(writer, "\\u{:04x}", c as u32) } else { write!(writer, "{c}") }
            })
        }
    }
    let mut bytes = Vec::new();
    value
        .serialize(&mut serde_json::Serializer::with_formatter(&mut bytes, Digits17))
        .expect("plain data is JSON");
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn numbers_without_a_json_form_are_strings() {
        let text = String::from_utf8(json(
            &[0.1, f64::INFINITY, f64::NEG_INFINITY, f64::NAN, 0.0].map(Number),
        ))
        .unwrap();
        assert_eq!(text, "[1.0000000000000001e-1,\"inf\",\"-inf\",\"nan\",0.0000000000000000e0]\n");
    }

    #[test]
    fn json_of_any_text_is_shown_and_reads_back() {
        let text = "a\u{1b}[2J\u{9b}31m\u{7f}\u{202e} σ\u{1F600}\n\"\\";
        let bytes = String::from_utf8(json(&text)).unwrap();
        assert!(!bytes.trim_end().contains(acts), "{bytes:?}");
        assert_eq!(serde_json::from_str::<String>(&bytes).unwrap(), text);
    }

    #[test]
    fn a_cell_is_no_formula() {
        let cells = ["=1+2", "@SUM(A1)", "-2+3", "+x", "\t=1", "a=b", "-2.5", "+1e-3", "-inf", ""]
            .map(cell);
        assert_eq!(
            cells,
            ["'=1+2", "'@SUM(A1)", "'-2+3", "'+x", "'\t=1", "a=b", "-2.5", "+1e-3", "-inf", ""]
        );
    }

    #[test]
    fn a_nan_is_noticed_wherever_it_stands() {
        assert_eq!(
            json_without_nan(&[Number(0.5), Number(f64::INFINITY)]),
            Some(json(&[Number(0.5), Number(f64::INFINITY)]))
        );
        assert_eq!(
            json_without_nan(&[("nan", vec![Number(1.0)])]).map(|b| !b.is_empty()),
            Some(true)
        );
        assert_eq!(json_without_nan(&[vec![Number(1.0)], vec![Number(f64::NAN)]]), None);
        assert!(json_without_nan(&Number(1.0)).is_some());
    }

    proptest! {
        #[test]
        fn every_number_reads_back_to_the_bit(bits in any::<u64>()) {
            let x = f64::from_bits(bits);
            prop_assume!(x.is_finite());
            prop_assert_eq!(Number(x).to_string().parse::<f64>().unwrap().to_bits(), bits);
            let text = String::from_utf8(json(&Number(x))).unwrap();
            prop_assert_eq!(text.trim().parse::<f64>().unwrap().to_bits(), bits);
        }
    }
}
