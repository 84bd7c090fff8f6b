//! Noise paths `x_t = alpha x0 + sigma eps`: VP, VE, EDM, cosine, flow matching, and any discrete
//! table.
//!
//! A path is one formula `t -> (alpha, sigma)`, generic over [`Scalar`]. It is evaluated in
//! double-double with a dual part and rounded once, so values *and rates* are right to the last bit
//! or two and no derivative is written by hand.

use crate::diffusion::level::{Level, Moving, Rates};
use crate::diffusion::schedule::{Schedule, Table};
use crate::error::{Error, Result};
use crate::math::dd::Dd;
use crate::math::scalar::{Scalar, hypot, ln_ratio};
use num_dual::{Dual, DualNum};
use num_traits::One;
use serde::{Deserialize, Serialize};

/// What is known of a noise path at one point: where a model is asked, and a sampler stops.
///
/// `x_t = alpha x0 + sigma eps`; t = 0 is data, t = 1 is noise; x0 is always data, in flow matching
/// too. Every point has a level. Points of a path have their time too, and their rates where those
/// are finite; stages between them, and levels of other programs, have neither. What needs no more
/// than the level takes a [`Level`], what needs rates a [`Moving`].
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct PathPoint {
    /// Signal coefficient (DDPM's sqrt(alpha_bar)).
    pub alpha: f64,
    /// Noise coefficient.
    pub sigma: f64,
    /// Time in [0, 1].
    pub t: Option<f64>,
    /// Rates in that time.
    pub rates: Option<Rates>,
}

impl PathPoint {
    /// Clean data, of no path.
    pub const CLEAN: Self = Self::still(1.0, 0.0);
    /// Pure noise of deviation 1, of no path.
    pub const NOISE: Self = Self::still(0.0, 1.0);

    /// A level as a point, of which no more is known.
    pub const fn still(alpha: f64, sigma: f64) -> Self {
        Self { alpha, sigma, t: None, rates: None }
    }

    /// The two coefficients.
    pub const fn level(&self) -> Level {
        Level { alpha: self.alpha, sigma: self.sigma }
    }

    /// The level with its rates.
    ///
    /// # Errors
    /// A point whose rates are not known.
    pub fn moving(&self) -> Result<Moving> {
        let Some(rates) = self.rates else {
            return Err(Error::singular(
                "velocity",
                format!("alpha = {}, sigma = {}", self.alpha, self.sigma),
                "its rates are not known",
                "take a point with finite rates from a path",
            ));
        };
        Ok(Moving { level: self.level(), rates })
    }

    /// Signal-to-noise ratio `alpha^2 / sigma^2`.
    pub fn snr(&self) -> f64 {
        self.level().snr()
    }

    /// `ln(alpha^2 / sigma^2)`.
    pub fn log_snr(&self) -> f64 {
        self.level().log_snr()
    }

    /// Noise level of the unscaled data, `sigma / alpha` (EDM's sigma).
    pub fn edm_sigma(&self) -> f64 {
        self.level().edm_sigma()
    }
}

impl From<Level> for PathPoint {
    fn from(level: Level) -> Self {
        Self::still(level.alpha, level.sigma)
    }
}

impl From<Moving> for PathPoint {
    fn from(Moving { level, rates }: Moving) -> Self {
        Self { rates: Some(rates), ..level.into() }
    }
}

/// A noise path over t in [0, 1].
///
/// Written down (JSON, TOML) as its settings, `{"kind": "vp", "beta_min": 0.1, "beta_max": 20.0}`;
/// a table as the schedule that made it or, where there was none, as its betas.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "Settings", into = "Settings")]
pub enum Path {
    /// Variance preserving with `beta(t)` linear: `alpha = exp(-B/2)`, `sigma^2 = 1 - exp(-B)`,
    /// `B = int_0^t beta`. Source: Song et al. 2021 (arXiv 2011.13456), eq. 33.
    Vp { beta_min: f64, beta_max: f64 },
    /// Variance exploding: `alpha = 1`, `sigma = sigma_min (sigma_max/sigma_min)^t`. Source: Song
    /// et al. 2021, eq. 32.
    Ve { sigma_min: f64, sigma_max: f64 },
    /// EDM: `alpha = 1`, `sigma = sigma_max t`, so that noise level is time but for its unit.
    /// Source: Karras et al. 2022 (arXiv 2206.00364), table 1.
    Edm { sigma_max: f64 },
    /// `alpha = cos(pi t / 2)`, `sigma = sin(pi t / 2)`. Source: Salimans & Ho 2022 (arXiv
    /// 2202.00512), section 4.
    Cosine,
    /// Flow matching, rectified flow: `alpha = 1 - t`, `sigma = t`. Source: Liu et al. 2022 (arXiv
    /// 2209.03003).
    FlowMatching,
    /// A discrete table at `t = k / T`, with `alpha` linear between its rows (and from 1 at t = 0):
    /// exact at every row, and defined where alpha reaches 0.
    Discrete(Table),
}

/// A [`Path`] as it is written down.
#[derive(Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "kebab-case", deny_unknown_fields)]
enum Settings {
    Vp {
        beta_min: f64,
        beta_max: f64,
    },
    Ve {
        sigma_min: f64,
        sigma_max: f64,
    },
    Edm {
        sigma_max: f64,
    },
    // With braces, because serde would let unknown keys through without.
    Cosine {},
    Fm {},
    Discrete {
        schedule: Schedule,
        steps: usize,
        #[serde(default)]
        zero_terminal_snr: bool,
    },
    Betas {
        betas: Vec<f64>,
    },
}

impl From<Path> for Settings {
    fn from(path: Path) -> Self {
        match path {
            Path::Vp { beta_min, beta_max } => Self::Vp { beta_min, beta_max },
            Path::Ve { sigma_min, sigma_max } => Self::Ve { sigma_min, sigma_max },
            Path::Edm { sigma_max } => Self::Edm { sigma_max },
            Path::Cosine => Self::Cosine {},
            Path::FlowMatching => Self::Fm {},
            Path::Discrete(table) => match table.origin() {
                Some((schedule, zero_terminal_snr)) => {
                    Self::Discrete { schedule, steps: table.steps(), zero_terminal_snr }
                }
                None => Self::Betas { betas: table.rows().iter().map(|row| row.beta).collect() },
            },
        }
    }
}

impl TryFrom<Settings> for Path {
    type Error = Error;

    fn try_from(settings: Settings) -> Result<Self> {
        match settings {
            Settings::Vp { beta_min, beta_max } => Path::Vp { beta_min, beta_max },
            Settings::Ve { sigma_min, sigma_max } => Path::Ve { sigma_min, sigma_max },
            Settings::Edm { sigma_max } => Path::Edm { sigma_max },
            Settings::Cosine {} => Path::Cosine,
            Settings::Fm {} => Path::FlowMatching,
            Settings::Discrete { schedule, steps, zero_terminal_snr } => {
                Path::Discrete(Table::new(schedule, steps, zero_terminal_snr)?)
            }
            Settings::Betas { betas } => Path::Discrete(Table::from_betas(&betas)?),
        }
        .validated()
    }
}

/// One row of a continuous path's table, each number rounded once from 106 bits.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct PathRow {
    pub t: f64,
    pub alpha: f64,
    pub sigma: f64,
    pub d_alpha: f64,
    pub d_sigma: f64,
    pub snr: f64,
    pub log_snr: f64,
}

impl Path {
    /// VP with Song's defaults, beta from 0.1 to 20.
    pub const VP: Path = Path::Vp { beta_min: 0.1, beta_max: 20.0 };
    /// VE with Song's defaults, sigma from 0.01 to 50.
    pub const VE: Path = Path::Ve { sigma_min: 0.01, sigma_max: 50.0 };
    /// EDM up to its usual sigma of 80.
    pub const EDM: Path = Path::Edm { sigma_max: 80.0 };

    /// The name used on the command line.
    pub fn name(&self) -> &'static str {
        match self {
            Path::Vp { .. } => "vp",
            Path::Ve { .. } => "ve",
            Path::Edm { .. } => "edm",
            Path::Cosine => "cosine",
            Path::FlowMatching => "fm",
            Path::Discrete(_) => "discrete",
        }
    }

    /// Checks the parameters; every other method assumes that they passed.
    ///
    /// # Errors
    /// A parameter that is not finite, not positive, or out of order.
    pub fn validated(self) -> Result<Self> {
        let ordered = |lo: f64, hi: f64, names: &str| {
            if lo > 0.0 && hi > lo && hi.is_finite() {
                Ok(())
            } else {
                Err(Error::domain(
                    names,
                    format!("{lo}, {hi}"),
                    "0 < first < second < inf",
                    "pass them in ascending order",
                ))
            }
        };
        match self {
            Path::Vp { beta_min, beta_max } => ordered(beta_min, beta_max, "beta_min, beta_max")?,
            Path::Ve { sigma_min, sigma_max } => {
                ordered(sigma_min, sigma_max, "sigma_min, sigma_max")?
            }
            Path::Edm { sigma_max } => ordered(f64::MIN_POSITIVE, sigma_max, "sigma_max")?,
            Path::Cosine | Path::FlowMatching | Path::Discrete(_) => {}
        }
        Ok(self)
    }

    /// `(alpha, sigma)` at t, in whatever number is asked for.
    pub fn alpha_sigma<S: Scalar>(&self, t: S) -> (S, S) {
        match self {
            Path::Vp { beta_min, beta_max } => {
                let b = vp_exponent(t, *beta_min, *beta_max);
                // sigma^2 = -expm1(-B): 1 - exp(-B) has lost every bit at t = 1e-16.
                ((b * -0.5).exp(), (-((-b).exp_m1())).sqrt())
            }
            Path::Ve { sigma_min, sigma_max } => {
                // From the nearer end and in two halves: the ratio of the ends may be beyond
                // 1.8e308.
                let (end, from_end) =
                    if t.re() <= 0.5 { (*sigma_min, t) } else { (*sigma_max, t - 1.0) };
                let half =
                    (from_end * ln_ratio(S::from(*sigma_max), S::from(*sigma_min)) * 0.5).exp();
                (S::one(), half * end * half)
            }
            Path::Edm { sigma_max } => (S::one(), t * *sigma_max),
            // Past the middle from the other end: cos(pi/2) would not be 0 at t = 1, nor its rate
            // at t = 0.
            Path::Cosine if t.re() <= 0.5 => {
                let (sin, cos) = (t * half_pi::<S>()).sin_cos();
                (cos, sin)
            }
            Path::Cosine => ((-t + 1.0) * half_pi::<S>()).sin_cos(),
            Path::FlowMatching => (-t + 1.0, t),
            Path::Discrete(table) => table.alpha_sigma(t),
        }
    }

    /// The point at time t with its rates: [`moving_at`](Self::moving_at) as a point.
    ///
    /// # Errors
    /// t outside [0, 1] or NaN; a time where a rate is not finite (VP at t = 0, where sigma grows
    /// like sqrt(t)).
    ///
    /// # Example
    /// ```
    /// use tweedie::diffusion::path::Path;
    /// let p = Path::FlowMatching.at(0.25).unwrap();
    /// assert_eq!((p.alpha, p.sigma, p.t), (0.75, 0.25, Some(0.25)));
    /// assert!(Path::VP.at(0.0).is_err());
    /// ```
    pub fn at(&self, t: f64) -> Result<PathPoint> {
        Ok(PathPoint { t: Some(t), ..self.moving_at(t)?.into() })
    }

    /// The level at time t with its rates.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    ///
    /// # Example
    /// ```
    /// use tweedie::diffusion::{level::Rates, path::Path};
    /// assert_eq!(Path::FlowMatching.moving_at(0.25).unwrap().rates, Rates::STRAIGHT);
    /// ```
    pub fn moving_at(&self, t: f64) -> Result<Moving> {
        let (alpha, sigma) = self.dual_at(t)?;
        let rates = Rates { alpha: alpha.eps.hi(), sigma: sigma.eps.hi() };
        match sigma.re.hi() {
            sigma if rates.alpha.is_finite() && rates.sigma.is_finite() => {
                Ok(Moving { level: Level { alpha: alpha.re.hi(), sigma }, rates })
            }
            0.0 => Err(self.singular(
                "the rate of the path",
                t,
                "d_sigma is infinite, because sigma grows like the root of t",
            )),
            _ => {
                let got = format!("({}, {}) at t = {t}", rates.alpha, rates.sigma);
                Err(Error::domain(
                    format!("rates of the path {}", self.name()),
                    got,
                    "below 1.8e308",
                    "choose a smaller largest sigma or beta",
                ))
            }
        }
    }

    /// `(alpha, sigma)` at time t, end points included.
    ///
    /// # Errors
    /// t outside [0, 1] or NaN.
    pub fn still_at(&self, t: f64) -> Result<PathPoint> {
        let (alpha, sigma) = self.alpha_sigma(Dd::from(in_unit_interval(t)?));
        Ok(PathPoint { t: Some(t), ..PathPoint::still(alpha.hi(), sigma.hi()) })
    }

    /// `ln(alpha^2 / sigma^2)` at time t, good to the last bits also where it crosses 0.
    ///
    /// # Errors
    /// t outside [0, 1]; an end point where it is infinite.
    pub fn log_snr(&self, t: f64) -> Result<f64> {
        let l = self.log_snr_dd(t)?.hi();
        if l.is_finite() {
            Ok(l)
        } else {
            Err(self.singular("log SNR", t, "alpha or sigma is 0 there"))
        }
    }

    /// From the logarithms of the coefficients, which are finite where a coefficient or their
    /// quotient is out of range.
    fn log_snr_dd(&self, t: f64) -> Result<Dd> {
        let t = Dd::from(in_unit_interval(t)?);
        let half = match self {
            Path::Vp { beta_min, beta_max } => {
                let b = vp_exponent(t, *beta_min, *beta_max);
                return Ok(-b - (-((-b).exp_m1())).ln());
            }
            Path::Ve { sigma_min, sigma_max } => {
                let (low, high) = (Dd::from(*sigma_min), Dd::from(*sigma_max));
                if t <= 0.5 {
                    low.ln() + t * ln_ratio(high, low)
                } else {
                    high.ln() + (t - 1.0) * ln_ratio(high, low)
                }
            }
            Path::Edm { sigma_max } => Dd::from(*sigma_max).ln() + t.ln(),
            Path::Discrete(table) => return Ok(table.log_snr(t)),
            // sin x = x to 106 bits, and its product is a subnormal number where t is.
            Path::Cosine if t < 1e-200 => Dd::HALF_PI.ln() + t.ln(),
            Path::Cosine | Path::FlowMatching => {
                let (alpha, sigma) = self.alpha_sigma(t);
                ln_ratio(sigma, alpha)
            }
        };
        Ok(half * -2.0)
    }

    /// The row of the path's table at time t; at an end point SNR and log SNR may be 0 or infinite,
    /// rates may not.
    ///
    /// # Errors
    /// As [`at`](Self::at).
    pub fn row(&self, t: f64) -> Result<PathRow> {
        let Moving { level: Level { alpha, sigma }, rates } = self.moving_at(t)?;
        let (a, s) = self.alpha_sigma(Dd::from(t));
        let r = a / s;
        Ok(PathRow {
            t,
            alpha,
            sigma,
            d_alpha: rates.alpha,
            d_sigma: rates.sigma,
            snr: (r * r).hi(),
            log_snr: self.log_snr_dd(t)?.hi(),
        })
    }

    /// The time at which `sigma / alpha` has the given value.
    ///
    /// # Errors
    /// A value that the path does not reach within [0, 1].
    ///
    /// # Example
    /// ```
    /// use tweedie::diffusion::path::Path;
    /// let t = Path::VP.t_from_edm_sigma(1.0).unwrap();
    /// assert!((Path::VP.at(t).unwrap().edm_sigma() - 1.0).abs() < 1e-14);
    /// ```
    pub fn t_from_edm_sigma(&self, edm_sigma: f64) -> Result<f64> {
        let (lowest, highest) = (self.edm_sigma_at_end(0.0)?, self.edm_sigma_at_end(1.0)?);
        if !(edm_sigma >= lowest && edm_sigma <= highest) {
            return Err(Error::domain(
                format!("sigma/alpha on the path {}", self.name()),
                edm_sigma,
                format!("[{lowest}, {highest}]"),
                "choose a noise level on the path, or a path that reaches it",
            ));
        }
        self.t_from(Dd::from(edm_sigma).ln() * -2.0)
    }

    /// The time at which `ln(alpha^2 / sigma^2)` has the given value.
    ///
    /// # Errors
    /// A value that the path does not reach within [0, 1].
    pub fn t_from_log_snr(&self, log_snr: f64) -> Result<f64> {
        let (lowest, highest) = (self.log_snr_dd(1.0)?.hi(), self.log_snr_dd(0.0)?.hi());
        // The ends belong to the path: an ulp of rounding outward must not exclude them.
        if !(log_snr >= lowest.next_down() && log_snr <= highest.next_up()) {
            return Err(Error::domain(
                format!("log SNR on the path {}", self.name()),
                log_snr,
                format!("[{lowest}, {highest}]"),
                "choose ln(alpha^2/sigma^2) of a time on the path, or a path that reaches it",
            ));
        }
        self.t_from(log_snr.into())
    }

    /// The time at this log-SNR, which the path is known to reach.
    fn t_from(&self, log_snr: Dd) -> Result<f64> {
        // sigma / alpha, and its logarithm where it is out of range.
        let (s, ln_s) = ((log_snr * -0.5).exp(), log_snr * -0.5);
        let t = match self {
            Path::Vp { beta_min, beta_max } => {
                // e^B = 1 + s^2, then the root of a quadratic whose terms all have one sign.
                let b = softplus(ln_s * 2.0);
                let (lo, slope) = (Dd::from(*beta_min), Dd::from(*beta_max) - *beta_min);
                b * 2.0 / (lo + hypot(lo, slope.sqrt() * (b * 2.0).sqrt()))
            }
            Path::Ve { sigma_min, sigma_max } => {
                let (low, high) = (Dd::from(*sigma_min), Dd::from(*sigma_max));
                (ln_s - low.ln()) / ln_ratio(high, low)
            }
            Path::Edm { sigma_max } => (ln_s - Dd::from(*sigma_max).ln()).exp(),
            Path::Cosine => s.atan() / Dd::HALF_PI,
            Path::FlowMatching if s.hi() == f64::INFINITY => Dd::one(),
            Path::FlowMatching => s / (s + 1.0),
            Path::Discrete(table) => table.t_from_log_alpha(softplus(ln_s * 2.0) * -0.5),
        };
        // The last bit of the inverse may land outside.
        Ok(t.hi().clamp(0.0, 1.0))
    }

    /// `sigma / alpha` at an end of the path, an ulp further out at the noisy one: its rounding
    /// must not exclude the end.
    fn edm_sigma_at_end(&self, t: f64) -> Result<f64> {
        let l = self.log_snr_dd(t)?;
        let s = (l * -0.5).exp().hi();
        // What is finite but beyond 1.8e308 is no number that can be asked for.
        let s = if l.hi().is_finite() { s.min(f64::MAX) } else { s };
        Ok(if t == 0.0 || s >= f64::MAX { s } else { s.next_up() })
    }

    fn dual_at(&self, t: f64) -> Result<(Dual<Dd>, Dual<Dd>)> {
        let t = Dual::new(Dd::from(in_unit_interval(t)?), Dd::one());
        Ok(self.alpha_sigma(t))
    }

    fn singular(&self, what: &str, t: f64, why: &str) -> Error {
        Error::singular(
            format!("{what} {}", self.name()),
            format!("t = {t}"),
            why,
            "keep a distance from the end point, such as t = 1e-5",
        )
    }
}

/// `int_0^t beta` for beta linear in t.
fn vp_exponent<S: Scalar>(t: S, beta_min: f64, beta_max: f64) -> S {
    let half_slope = (S::from(beta_max) - S::from(beta_min)) * 0.5;
    t * (t * half_slope + beta_min)
}

/// `ln(1 + e^x)`, and x itself where `e^x` is out of range.
fn softplus(x: Dd) -> Dd {
    if x > 0.0 { x + (-x).exp().ln_1p() } else { x.exp().ln_1p() }
}

/// pi/2 to the precision of S: 106 bits survive in `Dd`, one double in `f64`.
fn half_pi<S: Scalar>() -> S {
    S::from(Dd::HALF_PI.hi()) + Dd::HALF_PI.lo()
}

fn in_unit_interval(t: f64) -> Result<f64> {
    if (0.0..=1.0).contains(&t) {
        Ok(t)
    } else {
        Err(Error::domain(
            "time t",
            t,
            "[0, 1], 0 for data and 1 for noise",
            "divide a step index by the number of steps",
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    pub(crate) fn all_paths() -> Vec<Path> {
        let table = |s| Path::Discrete(Table::new(s, 50, false).unwrap());
        vec![
            Path::VP,
            Path::VE,
            Path::EDM,
            Path::Cosine,
            Path::FlowMatching,
            table(Schedule::LINEAR),
            table(Schedule::COSINE),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(256))]

        /// Second route for the rates: a central difference in double-double, whose error is O(h^2)
        /// with h = 1e-9.
        #[test]
        fn rates_are_the_derivatives(t in 0.001..0.999f64) {
            for path in all_paths() {
                if let Path::Discrete(table) = &path {
                    // Between rows only: at a row the slope jumps.
                    let k = t * table.rows().len() as f64;
                    if (k - k.round()).abs() < 1e-6 { continue; }
                }
                let rates = path.moving_at(t).unwrap().rates;
                let h = 1e-9;
                let ((a0, s0), (a1, s1)) = (path.alpha_sigma(Dd::from(t) - h), path.alpha_sigma(Dd::from(t) + h));
                for (rate, d) in [(rates.alpha, (a1 - a0) / (2.0 * h)), (rates.sigma, (s1 - s0) / (2.0 * h))] {
                    // Third derivatives of sigma reach 1e8 at t = 1e-3 on VP.
                    prop_assert!((rate - d.hi()).abs() <= 1e-9 * (1.0 + rate.abs()), "{} t = {t}: {rate} {d}", path.name());
                }
            }
        }

        /// Inversion: condition number of t -> log SNR -> t is |log SNR eps / (t d log SNR/dt)|.
        #[test]
        fn time_inverts(t in 1e-4..0.9999f64) {
            for path in all_paths() {
                let Moving { level: p, rates } = path.moving_at(t).unwrap();
                let rate = 2.0 * (rates.sigma / p.sigma - rates.alpha / p.alpha);
                let l = path.log_snr(t).unwrap();
                let tolerance = 4.0 * f64::EPSILON * (t + (1.0 + l.abs()) / rate);
                let back = path.t_from_log_snr(l).unwrap();
                prop_assert!((back - t).abs() <= tolerance, "{}: {t} -> {back}", path.name());
                let back = path.t_from_edm_sigma(p.edm_sigma()).unwrap();
                prop_assert!((back - t).abs() <= 4.0 * f64::EPSILON * (t + 2.0 / rate), "{}: {t} -> {back}", path.name());
            }
        }

        #[test]
        fn variance_preserving_paths_preserve_variance(t in 0.0..=1.0f64) {
            for path in all_paths() {
                if matches!(path, Path::Vp { .. } | Path::Cosine | Path::Discrete(_)) {
                    let (a, s) = path.alpha_sigma(Dd::from(t));
                    prop_assert!((a * a + s * s - 1.0).hi().abs() <= 1e-28, "{}", path.name());
                }
            }
        }
    }

    #[test]
    fn end_points() {
        assert!(Path::VP.at(0.0).unwrap_err().to_string().contains("singular at t = 0"));
        assert_eq!(Path::VP.still_at(0.0).unwrap().sigma, 0.0);
        assert_eq!(Path::Cosine.at(1.0).unwrap().alpha, 0.0);
        assert_eq!(Path::Cosine.moving_at(0.0).unwrap().rates.sigma, std::f64::consts::FRAC_PI_2);
        assert!(Path::FlowMatching.log_snr(1.0).is_err());
        assert_eq!(Path::FlowMatching.row(1.0).unwrap().log_snr, f64::NEG_INFINITY);
        for bad in [-1e-9, 1.0 + 1e-9, f64::NAN] {
            assert!(Path::EDM.at(bad).is_err());
        }
        for path in all_paths() {
            assert!(path.t_from_edm_sigma(-1.0).is_err() && path.t_from_log_snr(f64::NAN).is_err());
            assert_eq!(
                path.t_from_edm_sigma(path.still_at(1.0).unwrap().edm_sigma()).unwrap(),
                1.0,
                "{}",
                path.name()
            );
        }
        assert!(Path::VE.t_from_edm_sigma(1e-3).is_err());
        assert!(Path::Vp { beta_min: 2.0, beta_max: 1.0 }.validated().is_err());
    }

    #[test]
    fn log_snr_goes_on_where_alpha_underflows() {
        let steep = Path::Vp { beta_min: 0.1, beta_max: 3000.0 };
        // ln(1 - e^-B) is 0 there: log SNR = -B.
        let b = 0.99 * (0.99 * (3000.0 - 0.1) / 2.0 + 0.1);
        assert!((steep.log_snr(0.99).unwrap() + b).abs() <= 1e-12);
        for t in [0.9, 0.95, 0.99, 1.0] {
            let back = steep.t_from_log_snr(steep.log_snr(t).unwrap()).unwrap();
            assert!((back - t).abs() <= f64::EPSILON, "{t} {back}");
        }
        // Its noise level is finite everywhere, if beyond what a number holds: infinity is not on
        // it, nor on a path that stops short.
        for path in [steep, Path::VP, Path::VE, Path::EDM] {
            assert!(
                path.t_from_edm_sigma(f64::INFINITY).is_err()
                    && path.t_from_log_snr(f64::NEG_INFINITY).is_err(),
                "{}",
                path.name()
            );
            assert!(path.t_from_log_snr(-1e6).is_err());
        }
        assert!(
            Path::VP
                .t_from_log_snr(-1450.0)
                .unwrap_err()
                .to_string()
                .contains("log SNR on the path vp")
        );
        for path in [
            Path::Cosine,
            Path::FlowMatching,
            Path::Discrete(Table::new(Schedule::LINEAR, 20, true).unwrap()),
        ] {
            assert_eq!(path.t_from_edm_sigma(f64::INFINITY).unwrap(), 1.0, "{}", path.name());
            assert_eq!(path.t_from_log_snr(-1450.0).unwrap(), 1.0, "{}", path.name());
        }
    }

    #[test]
    fn a_table_below_the_smallest_number_has_times_and_levels() {
        // alpha_t = 2^-t, so that log SNR is -2 t ln 2 but for the 1 - alpha^2 of the first rows;
        // alpha is subnormal from t = 1022.
        let path = Path::Discrete(Table::from_betas(&[0.75; 1500]).unwrap());
        for row in [100.0, 700.0, 1020.0, 1073.0, 1074.0, 1100.0, 1500.0] {
            let (t, want) = (row / 1500.0, -2.0 * row * std::f64::consts::LN_2);
            let got = path.log_snr(t).unwrap();
            assert!(
                (got - want).abs() <= 4.0 * f64::EPSILON * want.abs(),
                "row {row}: {got} {want}"
            );
            assert!(
                (path.t_from_log_snr(want).unwrap() - t).abs() <= 4.0 * f64::EPSILON,
                "row {row}"
            );
        }
        // Half way between two rows alpha is 3/4 of the first.
        let got = path.log_snr(1100.5 / 1500.0).unwrap();
        let want = 2.0 * (0.75f64.ln() - 1100.0 * std::f64::consts::LN_2);
        assert!((got - want).abs() <= 1e-11, "{got} {want}");
    }

    #[test]
    fn rates_beyond_the_range_are_called_so() {
        let at = Path::Ve { sigma_min: 1.0, sigma_max: 1.7e308 }.at(1.0).unwrap_err().to_string();
        assert!(at.contains("1.8e308") && !at.contains("root"), "{at}");
        let wide = Path::Ve { sigma_min: 1e-300, sigma_max: 1e300 };
        assert_eq!((wide.at(0.0).unwrap().sigma, wide.at(1.0).unwrap().sigma), (1e-300, 1e300));
        assert!((wide.at(0.5).unwrap().sigma - 1.0).abs() <= f64::EPSILON);
    }

    #[test]
    fn parameters_out_of_order_are_refused() {
        type Make = fn(f64, f64) -> Path;
        let makers: [Make; 2] = [
            |beta_min, beta_max| Path::Vp { beta_min, beta_max },
            |sigma_min, sigma_max| Path::Ve { sigma_min, sigma_max },
        ];
        for make in makers {
            assert!(make(0.1, 0.2).validated().is_ok());
            for (lo, hi) in [
                (0.2, 0.1),
                (0.1, 0.1),
                (0.0, 1.0),
                (-1.0, 1.0),
                (1.0, f64::INFINITY),
                (f64::NAN, 1.0),
            ] {
                assert!(make(lo, hi).validated().is_err(), "{lo}, {hi}");
            }
        }
        assert!(
            Path::Edm { sigma_max: 1.0 }.validated().is_ok()
                && Path::Edm { sigma_max: 0.0 }.validated().is_err()
        );
    }

    #[test]
    fn both_ends_belong_to_the_path() {
        for path in all_paths() {
            assert_eq!(
                path.t_from_edm_sigma(path.still_at(0.0).unwrap().edm_sigma()).unwrap(),
                0.0,
                "{}",
                path.name()
            );
        }
        // B = 1000: sigma/alpha is 1e195, whose square overflows.
        let steep = Path::Vp { beta_min: 0.1, beta_max: 2000.0 };
        let t = steep.t_from_edm_sigma(steep.still_at(0.95).unwrap().edm_sigma()).unwrap();
        assert!((t - 0.95).abs() <= 4.0 * f64::EPSILON, "{t}");
        assert_eq!(Path::VP.still_at(0.25).unwrap().t, Some(0.25));
    }

    #[test]
    fn both_ends_of_ve_are_its_parameters_to_the_bit() {
        for (low, high) in [(0.01, 50.0), (0.002, 80.0), (0.03, 157.0), (1e-200, 1e200)] {
            let path = Path::Ve { sigma_min: low, sigma_max: high };
            assert_eq!([0.0, 1.0].map(|t| path.alpha_sigma(t).1), [low, high]);
            for (t, sigma) in [(0.0, low), (1.0, high)] {
                assert_eq!(path.log_snr_dd(t).unwrap(), Dd::from(sigma).ln() * -2.0);
            }
        }
    }

    #[test]
    fn cosine_log_snr_at_the_smallest_numbers() {
        // sigma / alpha = tan(pi t / 2), which is pi t / 2 itself.
        for t in [f64::from_bits(1), 1e-320, 1e-300, 1e-200, 1e-100] {
            let want = -2.0 * (std::f64::consts::FRAC_PI_2.ln() + t.ln());
            let got = Path::Cosine.log_snr(t).unwrap();
            assert!((got / want - 1.0).abs() <= 4.0 * f64::EPSILON, "{t:e}: {got} {want}");
        }
    }
}
