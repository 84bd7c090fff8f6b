//! Typesetting of sentences: the ASCII mathematics of the catalogue's prose becomes letters,
//! indices and exponents.
//!
//! A terminal shows `sqrt(abar_{t-1})` as it is written; a page shows a root, a letter under its
//! bar and a low index. Only what these sentences use is known: Greek names, `_` and `^`, `abar`,
//! `~` and `_hat` as accents, `sqrt`, `grad`, norms, comparisons, minus signs and powers of ten.

use super::page::escaped;

/// A sentence as HTML.
pub fn prose(text: &str) -> String {
    let mut setter =
        Setter { text: text.chars().collect(), at: 0, out: String::new(), quoted: false };
    while setter.at < setter.text.len() {
        setter.step();
    }
    setter.out
}

struct Setter {
    text: Vec<char>,
    at: usize,
    out: String,
    /// Whether a double quotation mark is open.
    quoted: bool,
}

/// The letter of that name; small ones as mathematical italics, as formulas have them.
fn greek(name: &str) -> Option<&'static str> {
    Some(match name {
        "alpha" => "𝛼",
        "beta" => "𝛽",
        "gamma" => "𝛾",
        "delta" => "𝛿",
        "eps" => "𝜀",
        "eta" => "𝜂",
        "theta" => "𝜃",
        "kappa" => "𝜅",
        "lambda" => "𝜆",
        "mu" => "𝜇",
        "xi" => "𝜉",
        "pi" => "𝜋",
        "rho" => "𝜌",
        "sigma" => "𝜎",
        "Sigma" => "Σ",
        "tau" => "𝜏",
        "phi" => "𝜑",
        "Phi" => "Φ",
        "psi" => "𝜓",
        "perp" => "⊥",
        _ => return None,
    })
}

/// A letter under a mark, as MathML: a combining character would run into a tall letter.
fn accented(letter: &str, mark: char) -> String {
    let letter = letter.trim_start_matches("<i>").trim_end_matches("</i>");
    format!(
        "<math><mover accent=\"true\"><mi>{letter}</mi><mo stretchy=\"false\">{mark}</mo></mover></math>"
    )
}

impl Setter {
    fn peek(&self, ahead: usize) -> char {
        self.text.get(self.at + ahead).copied().unwrap_or(' ')
    }

    fn before(&self) -> char {
        self.at.checked_sub(1).map_or(' ', |k| self.text[k])
    }

    fn rest_starts(&self, with: &str) -> bool {
        with.chars().enumerate().all(|(k, c)| self.text.get(self.at + k) == Some(&c))
    }

    fn run(&self, accepts: impl Fn(char) -> bool) -> String {
        self.text[self.at..].iter().copied().take_while(|c| accepts(*c)).collect()
    }

    fn put(&mut self, html: &str, length: usize) {
        self.out.push_str(html);
        self.at += length;
    }

    fn step(&mut self) {
        let c = self.peek(0);
        if c.is_ascii_alphabetic() {
            return self.word();
        }
        if c.is_ascii_digit() {
            return self.number();
        }
        for (written, set) in [
            ("||", "‖"),
            ("<=", "≤"),
            (">=", "≥"),
            ("->", "→"),
            ("...", "…"),
            (" - ", " − "),
            (" * ", " · "),
            (" ~ ", " ∼ "),
            (" = ", "\u{a0}= "),
            (" > ", "\u{a0}&gt; "),
            (" < ", "\u{a0}&lt; "),
        ] {
            if self.rest_starts(written) {
                return self.put(set, written.len());
            }
        }
        match c {
            '^' | '_' if !self.peek(1).is_whitespace() => {
                let tag = if c == '^' { "sup" } else { "sub" };
                self.at += 1;
                let script = self.script();
                self.out.push_str(&format!("<{tag}>{script}</{tag}>"));
            }
            '-' if self.is_minus() => self.put("−", 1),
            '-' if self.before().is_ascii_digit() && self.peek(1).is_ascii_digit() => {
                self.put("–", 1)
            }
            '\'' => self.put("’", 1),
            '"' => {
                self.quoted = !self.quoted;
                self.put(if self.quoted { "“" } else { "”" }, 1);
            }
            other => self.put(&escaped(&other.to_string()), 1),
        }
    }

    /// A sign or a difference, where a hyphen would join words.
    fn is_minus(&self) -> bool {
        let alone = |k: usize| {
            let letter = |k: usize| self.text.get(k).is_some_and(|c| c.is_ascii_alphabetic());
            letter(k) && !letter(k + 1) && !(k > 0 && letter(k - 1))
        };
        let right = self.peek(1).is_ascii_digit() || alone(self.at + 1);
        match self.before() {
            ' ' | '(' | '[' | '{' | '=' | ',' | '|' | '/' => !self.peek(1).is_whitespace(),
            '0'..='9' => alone(self.at + 1),
            ')' | '}' => right,
            letter if letter.is_ascii_alphabetic() => alone(self.at - 1) && right,
            _ => false,
        }
    }

    fn number(&mut self) {
        let digits = self.run(|c| c.is_ascii_digit() || c == '.');
        let digits = digits.trim_end_matches('.').to_string();
        self.at += digits.len();
        let sign = usize::from(self.peek(1) == '-');
        if self.peek(0) == 'e' && self.peek(1 + sign).is_ascii_digit() {
            self.at += 1;
            let exponent = self.script();
            let mantissa =
                if digits == "1" { String::new() } else { format!("{digits}&#x202F;·&#x202F;") };
            self.out.push_str(&format!("{mantissa}10<sup>{exponent}</sup>"));
        } else {
            self.out.push_str(&digits);
        }
    }

    /// What stands after `^` or `_`: a group in braces, a number, a word.
    fn script(&mut self) -> String {
        if self.peek(0) == '{' {
            let inner = self.run(|c| c != '}');
            self.at += inner.len() + 1;
            return prose(&inner[1..]);
        }
        let sign = if self.peek(0) == '-' { "−" } else { "" };
        self.at += usize::from(!sign.is_empty());
        let digits = self.run(|c| c.is_ascii_digit() || c == '.');
        let body = if digits.is_empty() {
            self.run(|c| c.is_ascii_alphanumeric())
        } else {
            digits.trim_end_matches('.').to_string()
        };
        self.at += body.len();
        format!("{sign}{}", prose(&body))
    }

    fn word(&mut self) {
        let word = self.run(|c| c.is_ascii_alphabetic());
        let next = self.peek(word.len());
        let symbol = match word.as_str() {
            "sqrt" => return self.root(),
            "grad" if ["grad log", "grad ln", "grad of"].iter().any(|w| self.rest_starts(w)) => {
                return self.put("∇", 4);
            }
            "x" if self.is_times() => return self.put("×", 1),
            "dx" | "dt" | "dp" | "dW" => format!("d<i>{}</i>", &word[1..]),
            "dsigma" => "d𝜎".into(),
            "dtau" => "d𝜏".into(),
            // Expectations stand upright.
            "E" if "[|_".contains(next) => word.clone(),
            "U" if self.rest_starts("U-Net") => word.clone(),
            _ if word.len() == 1 && self.is_variable(&word, next) => format!("<i>{word}</i>"),
            "abar" => accented("𝛼", '¯'),
            name => match greek(name) {
                Some(letter) => letter.into(),
                None if next == '_' => word.clone(),
                None => return self.put(&word, word.len()),
            },
        };
        let single = word.len() == 1;
        self.at += word.len();
        self.decorated(symbol, single);
    }

    /// A letter on its own is a variable, but for the article, the identity, and what an apostrophe
    /// leaves of a word.
    fn is_variable(&self, word: &str, next: char) -> bool {
        let part_of_word = self.before() == '\'' || (self.before() == '.' && next == '.');
        !part_of_word
            && (!["a", "A", "I"].contains(&word) || "_^~'".contains(next) || next.is_ascii_digit())
    }

    fn is_times(&self) -> bool {
        self.at >= 2
            && self.before() == ' '
            && self.text[self.at - 2].is_ascii_digit()
            && self.peek(1) == ' '
            && self.peek(2).is_ascii_digit()
    }

    /// Accents, indices, exponents, primes and stars that follow a symbol at once.
    fn decorated(&mut self, mut symbol: String, single: bool) {
        let (mut low, mut high) = (Vec::new(), String::new());
        loop {
            let c = self.peek(0);
            let accent = [("_bar", '¯'), ("_hat", 'ˆ'), ("~", '˜')]
                .into_iter()
                .find(|(name, _)| self.rest_starts(name));
            if let Some((name, mark)) = accent {
                symbol = accented(&symbol, mark);
                self.at += name.len();
            } else if c.is_ascii_digit() && single && low.is_empty() {
                let digits = self.run(|c| c.is_ascii_digit());
                self.at += digits.len();
                low.push(digits);
            } else if c == '_' && !self.peek(1).is_whitespace() {
                self.at += 1;
                low.push(self.script());
            } else if c == '^' && !self.peek(1).is_whitespace() {
                self.at += 1;
                high.push_str(&self.script());
            } else if c == '\'' && !self.peek(1).is_ascii_alphabetic() {
                self.at += 1;
                high.push('′');
            } else if c == '*' && !self.peek(1).is_ascii_alphanumeric() {
                self.at += 1;
                high.push('∗');
            } else {
                break;
            }
        }
        self.out.push_str(&symbol);
        if !low.is_empty() {
            self.out.push_str(&format!("<sub>{}</sub>", low.join(",")));
        }
        if !high.is_empty() {
            self.out.push_str(&format!("<sup>{high}</sup>"));
        }
    }

    /// `sqrt(...)`; the brackets go where one symbol stands in them.
    fn root(&mut self) {
        self.put("√", 4);
        if self.peek(0) == ' ' {
            self.at += 1;
        } else if self.peek(0) == '(' {
            let mut index = false;
            let inner = self.text[self.at + 1..].iter().take_while(|c| {
                index = **c == '{' || (index && **c != '}');
                index || c.is_ascii_alphanumeric() || "_.}".contains(**c)
            });
            let inner = inner.count();
            if self.peek(inner + 1) == ')' {
                let body: String = self.text[self.at + 1..=self.at + inner].iter().collect();
                self.out.push_str(&prose(&body));
                self.at += inner + 2;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{accented, prose};

    #[test]
    fn ascii_mathematics_is_set() {
        let (bar, tilde, hat) = (accented("𝛼", '¯'), accented("𝛽", '˜'), accented("x", 'ˆ'));
        for (written, set) in [
            ("sqrt(abar_{t-1})", format!("√{bar}<sub><i>t</i>−1</sub>")),
            ("sqrt(1 - alpha_bar_t)", format!("√(1 − {bar}<sub><i>t</i></sub>)")),
            ("E[x0|x_t] - x0_hat", format!("E[<i>x</i><sub>0</sub>|<i>x</i><sub><i>t</i></sub>] − {hat}<sub>0</sub>")),
            ("||eps - eps_theta||^2", "‖𝜀 − 𝜀<sub>𝜃</sub>‖<sup>2</sup>".into()),
            ("beta~_t's and x'", format!("{tilde}<sub><i>t</i></sub>’s and <i>x</i><sup>′</sup>")),
            ("a step's law, a U-Net, the betas", "a step’s law, a U-Net, the betas".into()),
            ("64 x 64 x 4 at 1e-9 or 2.0e-5.", "64 × 64 × 4 at 10<sup>−9</sup> or 2.0&#x202F;·&#x202F;10<sup>−5</sup>.".into()),
            ("-1/2 grad log p <= x0-loss, 1-w", "−1/2 ∇ log <i>p</i> ≤ <i>x</i><sub>0</sub>-loss, 1−<i>w</i>".into()),
            ("u_k^T D*(x) \"so\"", "<i>u</i><sub><i>k</i></sub><sup><i>T</i></sup> <i>D</i><sup>∗</sup>(<i>x</i>) “so”".into()),
            ("20-50 & x ~ N, x_T^perp", "20–50 &amp; <i>x</i> ∼ <i>N</i>, <i>x</i><sub><i>T</i></sub><sup>⊥</sup>".into()),
            ("T = 1 < t", "<i>T</i>\u{a0}= 1\u{a0}&lt; <i>t</i>".into()),
        ] {
            assert_eq!(prose(written), set);
        }
    }

    #[test]
    fn text_without_mathematics_stays() {
        for text in ["Where Do We End Up?", "Gauß, 3.5 of them (as printed): so it is; \u{3c3}", ""]
        {
            assert_eq!(prose(text), text);
        }
    }
}
