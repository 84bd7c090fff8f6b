//! What a piece of evidence is about, and the one rule that turns evidence into a verdict.

use tweedie::evidence::Evidence;

/// What a piece of evidence is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Role {
    /// The statement as the slide has it.
    Printed,
    /// The statement under the condition that the slide leaves out.
    WithCondition,
    /// The statement where that condition does not hold: expected to be off.
    WithoutCondition,
    /// The corrected statement.
    Corrected,
}

impl Role {
    /// `printed`, `with-condition`, `without-condition` or `corrected`.
    pub fn name(self) -> &'static str {
        match self {
            Role::Printed => "printed",
            Role::WithCondition => "with-condition",
            Role::WithoutCondition => "without-condition",
            Role::Corrected => "corrected",
        }
    }
}

/// What the evidence says of the statement.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// True as printed.
    Holds,
    /// True under a condition that the slide leaves out, false without it.
    HoldsIf,
    /// False as printed; a corrected form is true.
    Fails,
}

impl Verdict {
    /// The rule. Nothing else decides a verdict.
    ///
    /// - `holds`: there is evidence on the printed form and nothing else, and all of it agrees.
    /// - `holds-if`: evidence both with and without the condition; with it everything agrees,
    ///   without it something is off; printed evidence, if any, agrees.
    /// - `fails`: evidence on the printed and on the corrected form; something printed is off,
    ///   everything corrected agrees.
    /// - otherwise `None`: the check does not decide, which counts as a failure of the check.
    pub fn of(evidence: &[(Role, Evidence)]) -> Option<Verdict> {
        let of_role = |role: Role| {
            evidence.iter().filter(|e| e.0 == role).map(|e| e.1.holds()).collect::<Vec<_>>()
        };
        let agrees = |oks: &[bool]| !oks.is_empty() && oks.iter().all(|ok| *ok);
        let is_off = |oks: &[bool]| oks.iter().any(|ok| !ok);
        let printed = of_role(Role::Printed);
        let (with, without, corrected) = (
            of_role(Role::WithCondition),
            of_role(Role::WithoutCondition),
            of_role(Role::Corrected),
        );
        match (with.is_empty() && without.is_empty(), corrected.is_empty()) {
            (true, true) if agrees(&printed) => Some(Verdict::Holds),
            (false, true) if agrees(&with) && is_off(&without) && !is_off(&printed) => {
                Some(Verdict::HoldsIf)
            }
            (true, false) if is_off(&printed) && agrees(&corrected) => Some(Verdict::Fails),
            _ => None,
        }
    }

    /// `holds`, `holds-if` or `fails`.
    pub fn name(self) -> &'static str {
        match self {
            Verdict::Holds => "holds",
            Verdict::HoldsIf => "holds-if",
            Verdict::Fails => "fails",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_rule() {
        use Role::*;
        let of = |roles: &[(Role, bool)]| {
            Verdict::of(
                &roles
                    .iter()
                    .map(|(r, ok)| (*r, Evidence::new("", f64::from(u8::from(*ok)), 1.0, 0.0)))
                    .collect::<Vec<_>>(),
            )
        };
        assert_eq!(of(&[]), None);
        assert_eq!(of(&[(Printed, true), (Printed, true)]), Some(Verdict::Holds));
        assert_eq!(of(&[(Printed, true), (Printed, false)]), None);
        assert_eq!(of(&[(WithCondition, true), (WithoutCondition, false)]), Some(Verdict::HoldsIf));
        assert_eq!(of(&[(WithCondition, true), (WithoutCondition, true)]), None);
        assert_eq!(of(&[(WithCondition, true)]), None);
        assert_eq!(of(&[(WithCondition, false), (WithoutCondition, false)]), None);
        assert_eq!(of(&[(Printed, false), (Corrected, true)]), Some(Verdict::Fails));
        assert_eq!(of(&[(Printed, true), (Corrected, true)]), None);
        assert_eq!(of(&[(Printed, false), (Corrected, false)]), None);
        assert_eq!(of(&[(Printed, false), (Corrected, true), (WithCondition, true)]), None);
    }
}
