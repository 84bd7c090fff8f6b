//! The weightings in use, each as a function of log-SNR with its limits.
//!
//! A weighting is fixed by its weight on any one prediction's loss;
//! [`loss_ratio`](super::loss::loss_ratio) gives the others. Stated on the loss of v every
//! weighting here is finite at every SNR, zero and infinity included; stated on the loss of x0 or
//! eps some are infinite at the end where that loss vanishes, which is then the value returned,
//! never 0/0.

use crate::diffusion::kernel::Posterior;
use crate::diffusion::level::Level;
use crate::diffusion::prediction::{Frame, Prediction};
use crate::error::{Error, Result};
use crate::math::scalar::{Scalar, ldexp};
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;

/// One weighting of noise levels, stated on three losses of a variance-preserving path.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Weights<S> {
    /// Weight on `|x0_hat - x0|^2`.
    pub x0: S,
    /// Weight on `|eps_hat - eps|^2`.
    pub eps: S,
    /// Weight on `|v_hat - v|^2`.
    pub v: S,
}

/// The weightings of the literature.
///
/// Written `name` or `name:parameters` on the command line and in files, like `min-snr:5` or
/// `p2:1:0.5`; without parameters they take the papers' values.
///
/// # Example
/// ```
/// use tweedie::diffusion::weighting::Weighting;
/// let w: Weighting = "min-snr".parse().unwrap();
/// assert_eq!(w, Weighting::MinSnr { gamma: 5.0 });
/// // At zero terminal SNR the weight on the eps-loss is 1, not 0/0.
/// assert_eq!(w.weights(f64::NEG_INFINITY).eps, 1.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum Weighting {
    /// `simple`, also `snr`: 1 on the eps-loss, that is SNR on the x0-loss (Ho et al., 2020,
    /// equation 14).
    Simple,
    /// `x0`: 1 on the x0-loss.
    X0,
    /// `snr+1`: SNR + 1 on the x0-loss, that is 1 on the v-loss (Salimans & Ho, 2022, section 4).
    SnrPlusOne,
    /// `truncated-snr`: `max(SNR, 1)` on the x0-loss (Salimans & Ho, 2022, section 4).
    TruncatedSnr,
    /// `min-snr:gamma`: `min(SNR, gamma)` on the x0-loss, gamma 5 (Hang et al., 2023, section 3.4).
    MinSnr {
        /// The SNR above which the weight on the x0-loss stays constant, `> 0`.
        gamma: f64,
    },
    /// `edm:sigma_data`: `1 / c_out^2 = SNR + 1/sigma_data^2` on the x0-loss, sigma_data 0.5
    /// (Karras et al., 2022, table 1).
    Edm {
        /// Deviation of the data, `> 0`.
        sigma_data: f64,
    },
    /// `sigmoid:bias`: `sigmoid(bias - log_snr)` on the eps-loss, bias 2 (Kingma & Gao, 2023,
    /// section 5; Hoogeboom et al., 2024).
    Sigmoid {
        /// The log-SNR at which the weight on the eps-loss is one half.
        bias: f64,
    },
    /// `p2:k:gamma`: `1 / (k + SNR)^gamma` on the eps-loss, k 1 and gamma 1 (Choi et al., 2022,
    /// equation 8).
    P2 {
        /// Keeps the weight finite at SNR 0, `> 0`.
        k: f64,
        /// How strongly the clean end is weighted down, `>= 0`.
        gamma: f64,
    },
}

impl Weighting {
    /// The weighting at this log-SNR, `-inf` (zero terminal SNR) and `+inf` (clean data) included.
    ///
    /// # Formula
    /// With `snr = exp(log_snr)`, `alpha^2 = snr / (1 + snr)`, `sigma^2 = 1 / (1 + snr)`:
    /// `eps = x0 / snr`, `v = x0 / (1 + snr)`; the table below states each so that no 0/0 or
    /// inf/inf arises.
    ///
    /// | | on x0 at SNR 0, inf | on eps | on v |
    /// |---|---|---|---|
    /// | simple | 0, inf | 1, 1 | 0, 1 |
    /// | x0 | 1, 1 | inf, 0 | 1, 0 |
    /// | snr+1 | 1, inf | inf, 1 | 1, 1 |
    /// | truncated-snr | 1, inf | inf, 1 | 1, 1 |
    /// | min-snr | 0, gamma | 1, 0 | 0, 0 |
    /// | edm | 1/sigma_data^2, inf | inf, 1 | 1/sigma_data^2, 1 |
    /// | sigmoid | 0, e^bias | 1, 0 | 0, 0 |
    /// | p2 | 0, inf (gamma < 1), 1, 0 (gamma > 1) | k^-gamma, 0 | 0, 0 |
    pub fn weights<S: Scalar>(self, log_snr: S) -> Weights<S> {
        let (one, snr, inverse) = (S::one(), log_snr.exp(), (-log_snr).exp());
        // alpha^2 and sigma^2 of the variance-preserving path.
        let (p, q) = ((inverse + 1.0).recip(), (snr + 1.0).recip());
        match self {
            Self::Simple => Weights { x0: snr, eps: one, v: p },
            Self::X0 => Weights { x0: one, eps: inverse, v: q },
            Self::SnrPlusOne => Weights { x0: snr + 1.0, eps: inverse + 1.0, v: one },
            Self::TruncatedSnr => {
                Weights { x0: max(snr, one), eps: max(one, inverse), v: max(p, q) }
            }
            Self::MinSnr { gamma } => Weights {
                x0: min(snr, S::from(gamma)),
                eps: min(one, inverse * gamma),
                v: min(p, q * gamma),
            },
            Self::Edm { sigma_data } => {
                let flat = (sigma_data * sigma_data).recip();
                Weights { x0: snr + flat, eps: inverse * flat + 1.0, v: p + q * flat }
            }
            Self::Sigmoid { bias } => {
                let eps = ((log_snr - bias).exp() + 1.0).recip();
                // snr sigmoid(bias - log_snr) = e^bias sigmoid(log_snr - bias), or 1 / (1/snr +
                // e^-bias) where e^bias is out of range.
                let most = bias.exp();
                let x0 = if most.is_finite() {
                    ((-log_snr + bias).exp() + 1.0).recip() * most
                } else {
                    (inverse + (-bias).exp()).recip()
                };
                Weights { x0, eps, v: p * eps }
            }
            Self::P2 { k, gamma } => {
                // 1 / (k + snr)^gamma = (q / (k q + p))^gamma, finite parts at both ends.
                let base = q * k + p;
                let eps = (q / base).powf(gamma);
                Weights { x0: p * q.powf(gamma - 1.0) / base.powf(gamma), eps, v: p * eps }
            }
        }
    }

    /// The weight on the loss of any prediction at any point of a path (its log-SNR decides the
    /// weighting, its coefficients the prediction's scale).
    ///
    /// # Errors
    /// [`Frame::check`]; [`Error::Singular`] for a velocity whose loss can't see an error;
    /// parameters out of range.
    pub fn weight<S: Scalar>(self, target: Prediction, at: &Frame<S>) -> Result<S> {
        self.check()?;
        at.check(target)?;
        let w = self.weights(Level { alpha: at.alpha, sigma: at.sigma }.log_snr());
        Ok(match target {
            Prediction::X0 => w.x0,
            Prediction::Eps => w.eps,
            Prediction::Score => w.eps * at.sigma * at.sigma,
            Prediction::V | Prediction::Velocity | Prediction::F => {
                let (scaled, e) = at.in_unit();
                let det = target.determinant(&scaled);
                if det.re() == 0.0 {
                    let place = format!("alpha = {}, sigma = {}", at.alpha.re(), at.sigma.re());
                    let why = "this loss is 0 whatever the error";
                    return Err(Error::singular(
                        format!("weight of the {target}-loss"),
                        place,
                        why,
                        "weight another prediction's loss",
                    ));
                }
                let length = scaled.alpha * scaled.alpha + scaled.sigma * scaled.sigma;
                ldexp(w.v / det * length / det, 2 * e * (1 - target.degree()))
            }
        })
    }

    fn check(self) -> Result<()> {
        let positive = |name: &str, x: f64| {
            if x > 0.0 && x.is_finite() {
                Ok(())
            } else {
                Err(Error::domain(name, x, "> 0 and finite", "use the paper's value"))
            }
        };
        match self {
            Self::Simple | Self::X0 | Self::SnrPlusOne | Self::TruncatedSnr => Ok(()),
            Self::MinSnr { gamma } => positive("min-snr's gamma", gamma),
            Self::Edm { sigma_data } => positive("edm's sigma_data", sigma_data),
            Self::Sigmoid { bias } if bias.is_finite() => Ok(()),
            Self::Sigmoid { bias } => Err(Error::domain(
                "sigmoid's bias",
                bias,
                "a finite number",
                "use the paper's value, 2",
            )),
            Self::P2 { gamma, .. } if !(gamma >= 0.0 && gamma.is_finite()) => Err(Error::domain(
                "p2's gamma",
                gamma,
                ">= 0 and finite",
                "use the paper's value, 1",
            )),
            Self::P2 { k, .. } => positive("p2's k", k),
        }
    }
}

fn max<S: Scalar>(a: S, b: S) -> S {
    if a.re() >= b.re() { a } else { b }
}

fn min<S: Scalar>(a: S, b: S) -> S {
    if a.re() <= b.re() { a } else { b }
}

impl fmt::Display for Weighting {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Simple => f.write_str("simple"),
            Self::X0 => f.write_str("x0"),
            Self::SnrPlusOne => f.write_str("snr+1"),
            Self::TruncatedSnr => f.write_str("truncated-snr"),
            Self::MinSnr { gamma } => write!(f, "min-snr:{gamma}"),
            Self::Edm { sigma_data } => write!(f, "edm:{sigma_data}"),
            Self::Sigmoid { bias } => write!(f, "sigmoid:{bias}"),
            Self::P2 { k, gamma } => write!(f, "p2:{k}:{gamma}"),
        }
    }
}

impl FromStr for Weighting {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let unknown = || {
            let allowed = "simple (or snr), x0, snr+1, truncated-snr, min-snr[:GAMMA], edm[:SIGMA_DATA], sigmoid[:BIAS], p2[:K:GAMMA]";
            Error::domain(
                "weighting",
                text,
                allowed,
                "write a name, with its parameters after colons",
            )
        };
        let mut parts = text.split(':');
        let name = parts.next().unwrap_or_default();
        let parameters: Vec<f64> =
            parts.map(|p| p.parse().map_err(|_| unknown())).collect::<Result<_>>()?;
        let weighting = match (name, parameters.as_slice()) {
            ("simple" | "snr", []) => Self::Simple,
            ("x0", []) => Self::X0,
            ("snr+1", []) => Self::SnrPlusOne,
            ("truncated-snr", []) => Self::TruncatedSnr,
            ("min-snr", []) => Self::MinSnr { gamma: 5.0 },
            ("min-snr", &[gamma]) => Self::MinSnr { gamma },
            ("edm", []) => Self::Edm { sigma_data: super::prediction::SIGMA_DATA },
            ("edm", &[sigma_data]) => Self::Edm { sigma_data },
            ("sigmoid", []) => Self::Sigmoid { bias: 2.0 },
            ("sigmoid", &[bias]) => Self::Sigmoid { bias },
            ("p2", []) => Self::P2 { k: 1.0, gamma: 1.0 },
            ("p2", &[k, gamma]) => Self::P2 { k, gamma },
            _ => return Err(unknown()),
        };
        weighting.check()?;
        Ok(weighting)
    }
}

impl TryFrom<String> for Weighting {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<Weighting> for String {
    fn from(weighting: Weighting) -> Self {
        weighting.to_string()
    }
}

/// The weights that make one transition's KL of the discrete bound, for a reverse step of variance
/// `reverse_var` from level `t` to level `s`: `KL = weight |error|^2` plus what the variances alone
/// cost.
///
/// # Formula
/// On the x0-loss `coef_x0^2 / (2 reverse_var)` with the [`Posterior`]'s `coef_x0`; on the
/// eps-loss, in Ho's terms, `beta^2 / (2 reverse_var alpha_step (1 - alpha_bar))`. A `reverse_var`
/// of 0 gives infinity, as it should: the last step's posterior is a point. At zero terminal SNR
/// the weight on the eps-loss is infinite, that on v finite.
///
/// # Errors
/// As [`Posterior::between`]; a negative variance.
///
/// # Source
/// Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, equation 12.
pub fn vlb_discrete<S: Scalar>(s: Level<S>, t: Level<S>, reverse_var: S) -> Result<Weights<S>> {
    if reverse_var.re().is_nan() || reverse_var.re() < 0.0 {
        return Err(Error::domain(
            "reverse variance",
            reverse_var.re(),
            ">= 0",
            "pass the variance of the reverse step",
        ));
    }
    let coef_x0 = Posterior::between(s, t)?.coef_x0;
    Ok(from_x0(coef_x0 / reverse_var * coef_x0 * 0.5, t))
}

/// The weights that make the continuous-time bound `integral over t of weight |error|^2`.
///
/// # Formula
/// On the x0-loss `-d(snr)/dt / 2`, on the eps-loss `-d(log_snr)/dt / 2`: one half per unit of
/// log-SNR, whatever the schedule.
///
/// # Errors
/// [`Frame::check`] for the rates; [`Error::Singular`] at `sigma = 0`, where the SNR's rate is
/// infinite.
///
/// # Source
/// Kingma et al., "Variational Diffusion Models", 2021, the discrete- and the continuous-time loss.
pub fn vlb_continuous<S: Scalar>(at: &Frame<S>) -> Result<Weights<S>> {
    at.check(Prediction::Velocity)?;
    if at.sigma.re() == 0.0 {
        let place = format!("alpha = {}, sigma = 0", at.alpha.re());
        return Err(Error::singular(
            "d(snr)/dt",
            place,
            "the signal-to-noise ratio is infinite",
            "start the integral at a positive sigma",
        ));
    }
    let det = Prediction::Velocity.determinant(at);
    // -d(snr)/dt / 2 = alpha det / sigma^3; the eps weight det / (alpha sigma) is formed without
    // it, for alpha = 0.
    let x0 = at.alpha / at.sigma * (det / at.sigma) / at.sigma;
    Ok(Weights { eps: det / (at.alpha * at.sigma), ..from_x0(x0, Level::new(at.alpha, at.sigma)) })
}

/// A weight on the x0-loss at level t carried to the losses of eps and v.
fn from_x0<S: Scalar>(x0: S, t: Level<S>) -> Weights<S> {
    let edm_sigma = t.sigma / t.alpha;
    let per_v = t.sigma / (t.alpha * t.alpha + t.sigma * t.sigma);
    Weights { x0, eps: x0 * edm_sigma * edm_sigma, v: x0 * per_v * per_v }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::level::Rates;
    use crate::diffusion::loss::loss_ratio;
    use crate::diffusion::preconditioning::Preconditioning;
    use crate::math::gaussian::kl_normal;
    use num_dual::{Dual64, DualNum, first_derivative};
    use proptest::prelude::*;
    use std::f64::consts::FRAC_PI_2;

    const EPS: f64 = f64::EPSILON;
    const INF: f64 = f64::INFINITY;

    fn close(got: f64, want: f64, tol: f64) -> bool {
        (got - want).abs() <= tol * want.abs()
    }

    fn any_weighting() -> impl Strategy<Value = Weighting> {
        let positive = || (-2.0..2.0f64).prop_map(|e| 10f64.powf(e));
        prop_oneof![
            Just(Weighting::Simple),
            Just(Weighting::X0),
            Just(Weighting::SnrPlusOne),
            Just(Weighting::TruncatedSnr),
            positive().prop_map(|gamma| Weighting::MinSnr { gamma }),
            positive().prop_map(|sigma_data| Weighting::Edm { sigma_data }),
            (-5.0..5.0f64).prop_map(|bias| Weighting::Sigmoid { bias }),
            (positive(), 0.0..3.0f64).prop_map(|(k, gamma)| Weighting::P2 { k, gamma }),
        ]
    }

    proptest! {
        #[test]
        fn the_weights_are_one_weighting_and_the_papers_formula(w in any_weighting(), log_snr in -60.0..60.0f64) {
            let got = w.weights(log_snr);
            let at = Frame::variance_preserving(log_snr);
            let snr = log_snr.exp();
            // As printed, each on the loss that its paper states it on.
            let (stated, loss) = match w {
                Weighting::Simple => (1.0, Prediction::Eps),
                Weighting::X0 => (1.0, Prediction::X0),
                Weighting::SnrPlusOne => (snr + 1.0, Prediction::X0),
                Weighting::TruncatedSnr => (snr.max(1.0), Prediction::X0),
                Weighting::MinSnr { gamma } => (snr.min(gamma), Prediction::X0),
                Weighting::Edm { sigma_data } => (Preconditioning::edm((-0.5 * log_snr).exp(), sigma_data).unwrap().loss_weight(), Prediction::X0),
                Weighting::Sigmoid { bias } => (1.0 / (1.0 + (log_snr - bias).exp()), Prediction::Eps),
                Weighting::P2 { k, gamma } => ((k + snr).powf(-gamma), Prediction::Eps),
            };
            // exp(log_snr) and the powers up to 3 carry eps of their arguments, up to 60 each.
            let tol = 256.0 * EPS;
            for (kind, got) in [(Prediction::X0, got.x0), (Prediction::Eps, got.eps), (Prediction::V, got.v)] {
                let want = stated * loss_ratio(loss, kind, &at).unwrap();
                prop_assert!(close(got, want, tol), "{w} on {kind}: {got} {want}");
            }
            for target in Prediction::ALL {
                let want = got.x0 * loss_ratio(Prediction::X0, target, &at).unwrap();
                prop_assert!(close(w.weight(target, &at).unwrap(), want, tol), "{w} on {target}");
            }
        }

        #[test]
        fn weights_on_a_scaled_path_follow_its_log_snr(w in any_weighting(), sigma in (-10.0..10.0f64).prop_map(|e| 10f64.powf(e))) {
            let at = Frame { alpha: 1.0, sigma, rates: Some(Rates::new(0.0, 1.0)), sigma_data: 0.7 };
            let x0 = w.weight(Prediction::X0, &at).unwrap();
            for target in Prediction::ALL {
                let want = x0 * loss_ratio(Prediction::X0, target, &at).unwrap();
                prop_assert!(close(w.weight(target, &at).unwrap(), want, 256.0 * EPS), "{w} on {target}");
            }
        }

        #[test]
        fn the_discrete_weight_is_what_an_error_adds_to_the_kl(
            alpha_bar in 0.01..0.99f64, beta in 0.01..0.99f64, reverse_var in 0.01..2.0f64, error in 0.1..2.0f64, x0 in -2.0..2.0f64, xt in -2.0..2.0f64,
        ) {
            let next = alpha_bar * (1.0 - beta);
            let (s, t) = (Level::new(alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()), Level::new(next.sqrt(), (1.0 - next).sqrt()));
            let w = vlb_discrete(s, t, reverse_var).unwrap();
            let q = Posterior::between(s, t).unwrap();
            let kl = |x0_hat: f64| kl_normal(q.mean(x0, xt), q.var, q.mean(x0_hat, xt), reverse_var);
            // The means differ by coef_x0 error and are known to eps of themselves; then the KL
            // without error is taken off.
            let mean = q.mean(x0, xt).abs() + q.mean(x0.abs(), xt.abs()) + q.coef_x0 * error;
            let tol = 16.0 * EPS * (mean * q.coef_x0 * error / reverse_var + kl(x0 + error));
            prop_assert!((kl(x0 + error) - kl(x0) - w.x0 * error * error).abs() <= tol);
            let ho = beta * beta / (2.0 * reverse_var * (1.0 - beta) * (1.0 - next));
            prop_assert!(close(w.eps, ho, 64.0 * EPS / (beta * (1.0 - alpha_bar).min(1.0 - beta))));
            let at = Frame { alpha: t.alpha, sigma: t.sigma, rates: Some(Rates::new(0.0, 0.0)), sigma_data: 1.0 };
            prop_assert!(close(w.v, w.eps * loss_ratio(Prediction::Eps, Prediction::V, &at).unwrap(), 16.0 * EPS));
        }

        #[test]
        fn the_continuous_weight_is_half_the_rate_of_snr(t in 0.01..0.99f64) {
            let path = |t: Dual64| ((t * FRAC_PI_2).cos(), (t * FRAC_PI_2).sin());
            let (a, s) = path(Dual64::from(t).derivative());
            let at = Frame { alpha: a.re, sigma: s.re, rates: Some(Rates::new(a.eps, s.eps)), sigma_data: 0.5 };
            let (snr, rate) = first_derivative(|t| { let (a, s) = path(t); (a / s).powi(2) }, t);
            let w = vlb_continuous(&at).unwrap();
            prop_assert!(close(w.x0, -0.5 * rate, 16.0 * EPS) && close(w.eps, -0.5 * rate / snr, 16.0 * EPS));
            prop_assert!(close(w.v, w.x0 / (snr + 1.0), 16.0 * EPS));
        }

        #[test]
        fn a_weighting_survives_text_and_json(w in any_weighting()) {
            prop_assert_eq!(w.to_string().parse::<Weighting>().unwrap(), w);
            prop_assert_eq!(serde_json::from_str::<Weighting>(&serde_json::to_string(&w).unwrap()).unwrap(), w);
        }
    }

    #[test]
    fn both_ends_of_snr_have_the_documented_limits() {
        let sd2: f64 = 0.25;
        let e2 = 2f64.exp();
        let p2 = |gamma| Weighting::P2 { k: 4.0, gamma };
        // (x0, eps, v) at SNR 0 and at infinity.
        let table = [
            (Weighting::Simple, (0.0, 1.0, 0.0), (INF, 1.0, 1.0)),
            (Weighting::X0, (1.0, INF, 1.0), (1.0, 0.0, 0.0)),
            (Weighting::SnrPlusOne, (1.0, INF, 1.0), (INF, 1.0, 1.0)),
            (Weighting::TruncatedSnr, (1.0, INF, 1.0), (INF, 1.0, 1.0)),
            (Weighting::MinSnr { gamma: 5.0 }, (0.0, 1.0, 0.0), (5.0, 0.0, 0.0)),
            (Weighting::Edm { sigma_data: 0.5 }, (1.0 / sd2, INF, 1.0 / sd2), (INF, 1.0, 1.0)),
            (Weighting::Sigmoid { bias: 2.0 }, (0.0, 1.0, 0.0), (e2, 0.0, 0.0)),
            (p2(0.5), (0.0, 0.5, 0.0), (INF, 0.0, 0.0)),
            (p2(1.0), (0.0, 0.25, 0.0), (1.0, 0.0, 0.0)),
            (p2(2.0), (0.0, 0.0625, 0.0), (0.0, 0.0, 0.0)),
        ];
        let pure = Frame { rates: Some(Rates::new(-1.0, 0.0)), ..Frame::variance_preserving(-INF) };
        for (w, zero, infinite) in table {
            for (log_snr, (x0, eps, v)) in [(-INF, zero), (INF, infinite)] {
                assert_eq!(w.weights(log_snr), Weights { x0, eps, v }, "{w} at log-SNR {log_snr}");
            }
            // The losses that see an error in pure noise have finite weights there.
            for target in [Prediction::X0, Prediction::V, Prediction::Velocity, Prediction::F] {
                assert!(w.weight(target, &pure).unwrap().is_finite(), "{w} on {target}");
            }
        }
        let (s, noise) = (Level::new(0.6, 0.8), Level::NOISE);
        let posterior_var = 0.64;
        let w = vlb_discrete(s, noise, posterior_var).unwrap();
        assert!(close(w.x0, 0.36 / (2.0 * 0.64), 4.0 * EPS) && w.v == w.x0 && w.eps == INF);
        assert_eq!(vlb_discrete(Level::CLEAN, s, 0.0).unwrap().x0, INF);
        let w = vlb_continuous(&pure).unwrap();
        assert_eq!((w.x0, w.eps, w.v), (0.0, INF, 0.0));
    }

    #[test]
    fn names_and_parameters_are_checked() {
        assert_eq!("p2:1:0.5".parse::<Weighting>().unwrap(), Weighting::P2 { k: 1.0, gamma: 0.5 });
        assert_eq!("snr".parse::<Weighting>().unwrap(), Weighting::Simple);
        assert_eq!("edm".parse::<Weighting>().unwrap(), Weighting::Edm { sigma_data: 0.5 });
        assert_eq!("min-snr".parse::<Weighting>().unwrap(), Weighting::MinSnr { gamma: 5.0 });
        assert_eq!("sigmoid".parse::<Weighting>().unwrap(), Weighting::Sigmoid { bias: 2.0 });
        assert_eq!("p2".parse::<Weighting>().unwrap(), Weighting::P2 { k: 1.0, gamma: 1.0 });
        for bad in [
            "",
            "uniform",
            "min-snr:",
            "min-snr:x",
            "min-snr:0",
            "min-snr:nan",
            "simple:1",
            "p2:1",
            "p2:0:1",
            "p2:1:-1",
            "edm:-1",
            "sigmoid:inf",
        ] {
            assert!(matches!(bad.parse::<Weighting>(), Err(Error::Domain { .. })), "{bad}");
        }
        let message = "uniform".parse::<Weighting>().unwrap_err().to_string();
        assert!(
            message.starts_with("weighting: got uniform, allowed: simple (or snr), x0, snr+1"),
            "{message}"
        );
        let at = Frame::variance_preserving(0.0);
        assert!(Weighting::MinSnr { gamma: -1.0 }.weight(Prediction::X0, &at).is_err());
        assert!(matches!(
            vlb_discrete(Level::CLEAN, Level::new(0.6, 0.8), -1.0),
            Err(Error::Domain { .. })
        ));
        assert!(matches!(
            vlb_continuous(&Frame { alpha: 1.0, sigma: 0.0, ..at }),
            Err(Error::Singular { .. })
        ));
        let parallel =
            Frame { alpha: 1.0, sigma: 2.0, rates: Some(Rates::new(0.5, 1.0)), sigma_data: 0.5 };
        assert!(matches!(
            Weighting::Simple.weight(Prediction::Velocity, &parallel),
            Err(Error::Singular { .. })
        ));
    }

    proptest! {
        /// A loss of x0 is a loss of v times the square of what x0 moves with v,
        /// `-sigma / (alpha^2 + sigma^2)` at a given x_t.
        #[test]
        fn weights_on_v_are_right_off_the_unit_circle(alpha in 0.1..3.0f64, sigma in 0.1..3.0f64, x0 in 0.1..2.0f64) {
            let moved = first_derivative(
                |v| {
                    let [alpha, sigma, zero] = [alpha, sigma, 0.0].map(Dual64::from);
                    let at = Frame { alpha, sigma, rates: Some(Rates::new(zero, zero)), sigma_data: zero };
                    crate::diffusion::prediction::Conversion::new(Prediction::V, Prediction::X0, at).unwrap().apply(v, Dual64::from(0.3))
                },
                0.7,
            )
            .1;
            let got = from_x0(x0, Level::new(alpha, sigma)).v;
            prop_assert!((got - x0 * moved * moved).abs() <= 16.0 * EPS * got);
        }
    }

    #[test]
    fn a_bias_whose_exponential_is_out_of_range() {
        // snr sigmoid(bias - log_snr) = e^log_snr / (1 + e^(log_snr - bias)).
        for log_snr in [705.0, 700.0, 100.0, -100.0] {
            let bias = 710.0;
            let snr = f64::exp(log_snr);
            let want = snr / (1.0 + f64::exp(log_snr - bias));
            let got = Weighting::Sigmoid { bias }.weights(log_snr).x0;
            assert!((got / want - 1.0).abs() <= 1e-12, "{log_snr}: {got} {want}");
        }
    }
}
