//! Discrete DDPM schedules: the betas of T steps and every table that follows from them.
//!
//! # Formula
//! `alpha_step = 1 - beta`, `alpha_bar_t = prod_{s <= t} alpha_step_s`, `alpha = sqrt(alpha_bar)`,
//! `sigma = sqrt(1 - alpha_bar)`.
//!
//! Tables are built in double-double and rounded once. In plain `f64` the products are harmless but
//! `1 - alpha_bar` cancels: at t = 1 of the linear schedule it is 1e-4 with an error of 1e-16, and
//! a table in `f32` holds it to 1.7e-4 only. Here it grows by
//! `var_t = var_{t-1} + beta_t (1 - var_{t-1})`, which never subtracts nearly equal numbers.

use crate::error::{Error, Result};
use crate::math::dd::Dd;
use crate::math::larger;
use crate::math::scalar::{Scalar, exponent, ldexp, ln_ratio};
use num_dual::DualNum;
use num_traits::{One, Zero};
use serde::{Deserialize, Serialize};

/// A rule for the betas of T steps.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
pub enum Schedule {
    /// `beta` linear from `beta_start` at t = 1 to `beta_end` at t = T. Source: Ho et al. 2020
    /// (arXiv 2006.11239), section 4.
    Linear { beta_start: f64, beta_end: f64 },
    /// `sqrt(beta)` linear. Source: Rombach et al. 2022 (arXiv 2112.10752).
    ScaledLinear { beta_start: f64, beta_end: f64 },
    /// `alpha_bar_t = f(t) / f(0)`, `f(t) = cos^2((t/T + offset) / (1 + offset) pi/2)`, each beta
    /// at most `max_beta`; `offset` is taken as the decimal that it prints as (0.008 is 1/125).
    /// Source: Nichol & Dhariwal 2021 (arXiv 2102.09672), eq. 17.
    Cosine { offset: f64, max_beta: f64 },
    /// `beta = beta_start + (beta_end - beta_start) sigmoid(u)`, u linear from -6 to 6. Source: Xu
    /// et al. 2022 (arXiv 2203.02923).
    Sigmoid { beta_start: f64, beta_end: f64 },
}

impl Schedule {
    /// DDPM's linear schedule, 1e-4 to 0.02.
    pub const LINEAR: Schedule = Schedule::Linear { beta_start: 1e-4, beta_end: 0.02 };
    /// Stable Diffusion's, 0.00085 to 0.012 in the root.
    pub const SCALED_LINEAR: Schedule =
        Schedule::ScaledLinear { beta_start: 0.00085, beta_end: 0.012 };
    /// Nichol & Dhariwal's, offset 0.008, betas capped at 0.999.
    pub const COSINE: Schedule = Schedule::Cosine { offset: 0.008, max_beta: 0.999 };
    /// The sigmoid schedule between DDPM's betas.
    pub const SIGMOID: Schedule = Schedule::Sigmoid { beta_start: 1e-4, beta_end: 0.02 };

    /// The name used on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Schedule::Linear { .. } => "linear",
            Schedule::ScaledLinear { .. } => "scaled-linear",
            Schedule::Cosine { .. } => "cosine",
            Schedule::Sigmoid { .. } => "sigmoid",
        }
    }

    fn validate(&self) -> Result<()> {
        let (what, lo, hi) = match *self {
            Schedule::Linear { beta_start: lo, beta_end: hi }
            | Schedule::ScaledLinear { beta_start: lo, beta_end: hi }
            | Schedule::Sigmoid { beta_start: lo, beta_end: hi } => {
                ("beta_start, beta_end", lo, hi)
            }
            Schedule::Cosine { offset: lo, max_beta: hi } => ("offset, max_beta", lo, hi),
        };
        if lo > 0.0 && lo < 1.0 && hi > 0.0 && hi < 1.0 {
            Ok(())
        } else {
            Err(Error::domain(
                what,
                format!("{lo}, {hi}"),
                "both strictly between 0 and 1",
                "a beta is the share of variance replaced in one step",
            ))
        }
    }

    /// `beta_t` for t = 1..=T, in 106 bits.
    fn betas(&self, steps: usize) -> Vec<Dd> {
        // The end points are the given doubles; the values between lie on the real line through
        // them.
        let between = |a: Dd, b: Dd, k: usize| {
            if steps == 1 { a } else { a + (b - a) * (k as f64) / (steps - 1) as f64 }
        };
        (0..steps)
            .map(|k| match *self {
                Schedule::Linear { beta_start, beta_end } => {
                    between(beta_start.into(), beta_end.into(), k)
                }
                Schedule::ScaledLinear { beta_start, beta_end } => {
                    between(Dd::from(beta_start).sqrt(), Dd::from(beta_end).sqrt(), k).powi(2)
                }
                Schedule::Sigmoid { beta_start, beta_end } => {
                    let gate = ((-between((-6.0).into(), 6.0.into(), k)).exp() + 1.0).recip();
                    Dd::from(beta_start) + (Dd::from(beta_end) - beta_start) * gate
                }
                Schedule::Cosine { offset, max_beta } => {
                    // The paper's offset is the decimal 0.008, not the double next to it: where log
                    // SNR crosses 0, in the middle of the schedule, the difference alone is worth 9
                    // ulp. So it is read as the decimal that it prints as.
                    let offset = Dd::from_shortest_decimal(offset);
                    let angle = |k: usize| {
                        (Dd::from(k as f64) / steps as f64 + offset) / (offset + 1.0) * Dd::HALF_PI
                    };
                    let (a, b) = (angle(k), angle(k + 1));
                    // 1 - cos^2 b / cos^2 a by the addition theorem: the quotient is near 1 for
                    // small t.
                    let beta = (b - a).sin() * (b + a).sin() / a.cos().powi(2);
                    if beta < Dd::from(max_beta) { beta } else { max_beta.into() }
                }
            })
            .collect()
    }
}

/// One step of a discrete schedule: the columns of `tweedie tabulate`, each rounded once from 106
/// bits.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Row {
    /// Step, 1..=T.
    pub t: usize,
    /// Variance that the step adds, `q(x_t|x_{t-1}) = N(sqrt(1 - beta) x_{t-1}, beta I)`.
    pub beta: f64,
    /// `1 - beta` (DDPM's alpha_t).
    pub alpha_step: f64,
    /// Product of `alpha_step` up to t.
    pub alpha_bar: f64,
    /// Signal coefficient `sqrt(alpha_bar)`.
    pub alpha: f64,
    /// Noise coefficient `sqrt(1 - alpha_bar)`.
    pub sigma: f64,
    /// `alpha_bar / (1 - alpha_bar)`.
    pub snr: f64,
    /// `ln snr`.
    pub log_snr: f64,
    /// Coefficient of x0 in the mean of q(x_{t-1}|x_t,x0):
    /// `sqrt(alpha_bar_{t-1}) beta / (1 - alpha_bar)`.
    pub posterior_coef_x0: f64,
    /// Coefficient of x_t there: `sqrt(alpha_step) (1 - alpha_bar_{t-1}) / (1 - alpha_bar)`.
    pub posterior_coef_xt: f64,
    /// Variance there: `beta (1 - alpha_bar_{t-1}) / (1 - alpha_bar)`.
    pub posterior_var: f64,
    /// Weight of the eps error in the bound with reverse variance beta:
    /// `beta / (2 alpha_step (1 - alpha_bar))`.
    pub vlb_weight_beta: f64,
    /// The same with the posterior variance, `beta / (2 alpha_step (1 - alpha_bar_{t-1}))`;
    /// infinite at t = 1.
    pub vlb_weight_posterior: f64,
}

/// A discrete schedule of T steps with everything that follows from its betas.
#[derive(Clone, Debug, PartialEq)]
pub struct Table {
    /// The schedule that it was made from, and whether it was rescaled to zero terminal SNR.
    origin: Option<(Schedule, bool)>,
    rows: Vec<Row>,
    /// `alpha` at t = 0..=T in 106 bits, for interpolation.
    alphas: Vec<Scaled>,
}

impl Table {
    /// Tabulates a schedule.
    ///
    /// With `zero_terminal_snr`, `alpha` is shifted and scaled so that it ends at exactly 0 while
    /// its first value stays: `alpha' = (alpha - alpha_T) alpha_1 / (alpha_1 - alpha_T)`. Source:
    /// Lin et al. 2024 (arXiv 2305.08891), algorithm 1.
    ///
    /// # Errors
    /// No steps; parameters outside (0, 1); `zero_terminal_snr` with a single step, which would
    /// have nothing left to scale.
    ///
    /// # Example
    /// ```
    /// use tweedie::diffusion::schedule::{Schedule, Table};
    /// let table = Table::new(Schedule::LINEAR, 1000, false).unwrap();
    /// assert_eq!(table.row(1).unwrap().beta, 1e-4);
    /// assert!((table.row(1000).unwrap().alpha_bar - 4.0358e-5).abs() < 1e-9);
    /// ```
    pub fn new(schedule: Schedule, steps: usize, zero_terminal_snr: bool) -> Result<Self> {
        schedule.validate()?;
        let fewest = if zero_terminal_snr { 2 } else { 1 };
        if steps < fewest || steps > 1_000_000 {
            return Err(Error::domain(
                "number of steps",
                steps,
                format!("{fewest}..=1000000"),
                "DDPM uses 1000",
            ));
        }
        let mut betas = schedule.betas(steps);
        if zero_terminal_snr {
            betas = rescaled_to_zero_terminal_snr(&betas);
        }
        Ok(Self { origin: Some((schedule, zero_terminal_snr)), ..Self::from_betas_dd(&betas) })
    }

    /// Tabulates given betas.
    ///
    /// # Errors
    /// No betas; one outside (0, 1].
    pub fn from_betas(betas: &[f64]) -> Result<Self> {
        if betas.is_empty() {
            return Err(Error::domain("betas", "none", "at least one", "pass one beta a step"));
        }
        if let Some((k, b)) = betas.iter().enumerate().find(|(_, b)| !(**b > 0.0 && **b <= 1.0)) {
            return Err(Error::domain(
                format!("beta at t = {}", k + 1),
                b,
                "(0, 1]",
                "a beta is the share of variance replaced in one step",
            ));
        }
        Ok(Self::from_betas_dd(&betas.iter().map(|b| Dd::from(*b)).collect::<Vec<_>>()))
    }

    fn from_betas_dd(betas: &[Dd]) -> Self {
        let (mut alpha_bar, mut var) = (Scaled { m: Dd::one(), e: 0 }, Dd::zero());
        let mut alphas = vec![alpha_bar];
        let rows = betas
            .iter()
            .enumerate()
            .map(|(k, &beta)| {
                let (before, var_before) = (alpha_bar.root(), var);
                let alpha_step = Dd::one() - beta;
                alpha_bar = alpha_bar.times(alpha_step);
                var += beta * (Dd::one() - var);
                let alpha = alpha_bar.root();
                alphas.push(alpha);
                Row {
                    t: k + 1,
                    beta: beta.hi(),
                    alpha_step: alpha_step.hi(),
                    alpha_bar: alpha_bar.value().hi(),
                    alpha: alpha.value().hi(),
                    sigma: var.sqrt().hi(),
                    snr: Scaled { m: alpha_bar.m / var, ..alpha_bar }.value().hi(),
                    log_snr: (ln_ratio(alpha_bar.m, var) + Dd::LN_2 * f64::from(alpha_bar.e)).hi(),
                    posterior_coef_x0: (before.value() * (beta / var)).hi(),
                    posterior_coef_xt: (alpha_step.sqrt() * (var_before / var)).hi(),
                    posterior_var: (beta * (var_before / var)).hi(),
                    vlb_weight_beta: (beta / (alpha_step * var * 2.0)).hi(),
                    vlb_weight_posterior: (beta / (alpha_step * var_before * 2.0)).hi(),
                }
            })
            .collect();
        Self { origin: None, rows, alphas }
    }

    /// The schedule that it was made from, and whether it was rescaled to zero terminal SNR; none
    /// for given betas.
    pub fn origin(&self) -> Option<(Schedule, bool)> {
        self.origin
    }

    /// All rows, `rows()[t - 1]` for step t.
    pub fn rows(&self) -> &[Row] {
        &self.rows
    }

    /// Number of steps T.
    pub fn steps(&self) -> usize {
        self.rows.len()
    }

    /// The row of step t, 1..=T.
    ///
    /// # Errors
    /// t = 0 (clean data, which no step leads to) or beyond T.
    pub fn row(&self, t: usize) -> Result<&Row> {
        t.checked_sub(1).and_then(|k| self.rows.get(k)).ok_or_else(|| {
            Error::domain(
                "step t",
                t,
                format!("1..={}", self.steps()),
                "steps count from 1; t = 0 is the data",
            )
        })
    }

    /// `(alpha, sigma)` at real time t in [0, 1]: alpha linear between rows,
    /// `sigma^2 = (1 - alpha)(1 + alpha)`.
    pub(crate) fn alpha_sigma<S: Scalar>(&self, t: S) -> (S, S) {
        let steps = self.steps() as f64;
        let position = t * steps;
        // A row belongs to the interval before it.
        let k = (position.re().ceil() as usize).clamp(1, self.steps());
        let [a, b] = [k - 1, k].map(|k| constant::<S>(self.alphas[k].value()));
        let alpha = a + (b - a) * (position - (k - 1) as f64);
        (alpha, ((-alpha + 1.0) * (alpha + 1.0)).sqrt())
    }

    /// `ln(alpha^2 / sigma^2)` of [`alpha_sigma`](Self::alpha_sigma), also where alpha is below
    /// 1e-308.
    pub(crate) fn log_snr(&self, t: Dd) -> Dd {
        let position = t * self.steps() as f64;
        let k = (position.hi().ceil() as usize).clamp(1, self.steps());
        let (a, b) = (self.alphas[k - 1], self.alphas[k]);
        // Both in the unit of the larger one.
        let inner = a.m + (ldexp(b.m, b.e - a.e) - a.m) * (position - (k - 1) as f64);
        let alpha = ldexp(inner, a.e);
        let log = inner.ln() + Dd::LN_2 * f64::from(a.e);
        (log * 2.0) - ((-alpha + 1.0) * (alpha + 1.0)).ln()
    }

    /// Inverse of [`alpha_sigma`](Self::alpha_sigma) in `ln alpha`.
    pub(crate) fn t_from_log_alpha(&self, log_alpha: Dd) -> Dd {
        let k = self.alphas.partition_point(|a| a.ln() > log_alpha).clamp(1, self.steps());
        let (a, b) = (self.alphas[k - 1].ln(), self.alphas[k].ln());
        // (alpha - a) / (b - a) over a, so that alpha near 1 keeps its distance from it.
        ((log_alpha - a).exp_m1() / (b - a).exp_m1() + (k - 1) as f64) / self.steps() as f64
    }
}

/// `m 2^e`: an alpha or alpha_bar below 1e-308 keeps its digits. e is 0 down to 2^-512, and even.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Scaled {
    m: Dd,
    e: i32,
}

impl Scaled {
    fn times(self, factor: Dd) -> Self {
        let m = self.m * factor;
        if m.hi() != 0.0 && m.hi() < 2f64.powi(-512) {
            Self { m: ldexp(m, 512), e: self.e - 512 }
        } else {
            Self { m, ..self }
        }
    }

    fn root(self) -> Self {
        Self { m: self.m.sqrt(), e: self.e / 2 }
    }

    fn value(self) -> Dd {
        ldexp(self.m, self.e)
    }

    fn ln(self) -> Dd {
        self.m.ln() + Dd::LN_2 * f64::from(self.e)
    }
}

/// A double-double constant in whatever scalar is asked for, low part included.
fn constant<S: Scalar>(x: Dd) -> S {
    S::from(x.hi()) + x.lo()
}

/// Betas of `alpha' = (alpha - alpha_T) alpha_1 / (alpha_1 - alpha_T)`.
///
/// # Formula
/// With `r_k = sqrt(1 - beta_k)`, `x_k = 1 - r_k = beta_k / (1 + r_k)` and
/// `p_k = 1 - alpha_T / alpha_k`, which runs backwards from `p_T = 0` by `p_{k-1} = x_k + r_k p_k`:
/// `beta'_k = 1 - (r_k p_k / p_{k-1})^2 = x_k (p_{k-1} + r_k p_k) / p_{k-1}^2`. Nothing is
/// subtracted, so that betas of any size keep their digits.
fn rescaled_to_zero_terminal_snr(betas: &[Dd]) -> Vec<Dd> {
    // p is linear in x: a common unit keeps the low parts of tiny betas in range.
    let unit = -exponent(betas.iter().map(|b| b.hi()).fold(0.0, larger));
    let mut later = Dd::zero();
    let mut rescaled: Vec<Dd> = betas
        .iter()
        .rev()
        .map(|&beta| {
            let r = (Dd::one() - beta).sqrt();
            let (x, kept) = (ldexp(beta, unit) / (r + 1.0), r * later);
            let p = x + kept;
            later = p;
            x / p * ((p + kept) / p)
        })
        .collect();
    rescaled.reverse();
    // The factor keeps alpha_1, so beta_1 stays, to the bit.
    rescaled[0] = betas[0];
    rescaled
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn any_schedule() -> impl Strategy<Value = Schedule> {
        let betas = (1e-6..1e-2f64, 1e-3..0.5f64);
        prop_oneof![
            betas
                .clone()
                .prop_map(|(beta_start, beta_end)| Schedule::Linear { beta_start, beta_end }),
            betas
                .clone()
                .prop_map(|(beta_start, beta_end)| Schedule::ScaledLinear { beta_start, beta_end }),
            betas.prop_map(|(beta_start, beta_end)| Schedule::Sigmoid { beta_start, beta_end }),
            (1e-4..0.1f64, 0.9..0.9999f64)
                .prop_map(|(offset, max_beta)| Schedule::Cosine { offset, max_beta }),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Second route: plain f64 on well-conditioned combinations of the columns.
        #[test]
        fn columns_satisfy_their_identities(schedule in any_schedule(), steps in 2usize..200, zero in any::<bool>()) {
            let table = Table::new(schedule, steps, zero).unwrap();
            let mut log_alpha_bar = 0.0;
            let mut before = (1.0, 0.0);
            for r in table.rows() {
                let close = |a: f64, b: f64| (a - b).abs() <= 64.0 * f64::EPSILON * b.abs();
                prop_assert!(close(r.alpha_step + r.beta, 1.0));
                prop_assert!(close(r.alpha.powi(2) + r.sigma.powi(2), 1.0));
                if r.alpha_step > 0.0 {
                    log_alpha_bar += (-r.beta).ln_1p();
                    prop_assert!((r.alpha_bar.ln() - log_alpha_bar).abs() <= 4.0 * f64::EPSILON * (1.0 + r.t as f64 * log_alpha_bar.abs()));
                    prop_assert!(close(r.snr.ln(), r.log_snr) || (r.snr.ln() - r.log_snr).abs() <= 4.0 * f64::EPSILON);
                    // The posterior's mean is unbiased: E[x_{t-1}|x0] = coef_x0 x0 + coef_xt alpha
                    // x0, and its variance adds up.
                    prop_assert!(close(r.posterior_coef_x0 + r.posterior_coef_xt * r.alpha, before.0));
                    let var = r.posterior_var + (r.posterior_coef_xt * r.sigma).powi(2);
                    prop_assert!((var - before.1 * before.1).abs() <= 64.0 * f64::EPSILON * before.1 * before.1);
                    prop_assert!(close(r.vlb_weight_beta, r.beta / (2.0 * r.alpha_step * r.sigma * r.sigma)));
                }
                before = (r.alpha, r.sigma);
            }
            if zero {
                let last = table.rows()[steps - 1];
                prop_assert_eq!((last.alpha, last.beta, last.log_snr), (0.0, 1.0, f64::NEG_INFINITY));
                prop_assert_eq!(table.rows()[0].beta, Table::new(schedule, steps, false).unwrap().rows()[0].beta);
            }
        }

        #[test]
        fn alpha_bar_decreases_from_near_one(schedule in any_schedule(), steps in 10usize..400) {
            let table = Table::new(schedule, steps, false).unwrap();
            // A cosine table off by one, or built by integer division, fails here
            // (denoising-diffusion-pytorch #19, candle).
            prop_assert!(table.rows()[0].beta < 0.5);
            prop_assert!(table.rows().windows(2).all(|w| w[1].alpha_bar < w[0].alpha_bar && w[1].log_snr < w[0].log_snr));
        }
    }

    #[test]
    fn bad_parameters_are_refused() {
        assert!(Table::new(Schedule::LINEAR, 0, false).is_err());
        assert!(Table::new(Schedule::LINEAR, 1, true).is_err());
        for bad in [0.0, 1.0, -0.1, f64::NAN] {
            assert!(
                Table::new(Schedule::Linear { beta_start: bad, beta_end: 0.02 }, 10, false)
                    .is_err()
            );
            assert!(
                Table::new(Schedule::Cosine { offset: 0.008, max_beta: bad }, 10, false).is_err()
            );
        }
        assert!(Table::from_betas(&[0.1, f64::NAN]).unwrap_err().to_string().contains("t = 2"));
        let table = Table::new(Schedule::COSINE, 10, false).unwrap();
        assert!(table.row(0).is_err() && table.row(11).is_err() && table.row(10).is_ok());
    }

    #[test]
    fn tables_of_given_betas() {
        let table = Table::from_betas(&[0.5, 0.75, 1.0]).unwrap();
        assert_eq!(table.rows().iter().map(|r| r.t).collect::<Vec<_>>(), [1, 2, 3]);
        assert_eq!(table.rows().iter().map(|r| r.alpha_bar).collect::<Vec<_>>(), [0.5, 0.125, 0.0]);
        for bad in [0.0, -0.5, 1.0f64.next_up(), f64::INFINITY, f64::NAN] {
            assert!(Table::from_betas(&[0.1, bad]).is_err(), "{bad}");
        }
        let names =
            [Schedule::LINEAR, Schedule::SCALED_LINEAR, Schedule::COSINE, Schedule::SIGMOID]
                .map(|s| s.name());
        assert_eq!(names, ["linear", "scaled-linear", "cosine", "sigmoid"]);
    }

    #[test]
    fn a_table_knows_where_it_is_from() {
        let schedule = Schedule::Linear { beta_start: 1e-4, beta_end: 0.02 };
        for zero in [false, true] {
            let table = Table::new(schedule, 10, zero).unwrap();
            assert_eq!(table.origin(), Some((schedule, zero)));
        }
        assert_eq!(Table::from_betas(&[0.1, 0.2]).unwrap().origin(), None);
    }
}
