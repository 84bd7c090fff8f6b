//! Which noise levels a step trains on: quantiles of a law of times, at uniform numbers that may be
//! stratified or drawn by importance.

use super::settings::TimeSettings;
use serde::{Deserialize, Serialize};
use std::fmt;
use std::str::FromStr;
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::{Error, Result};
use tweedie::math::noise::normal_quantile;

/// A law of noise levels on a path.
#[derive(Clone, Copy, Debug, PartialEq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub enum TimeLaw {
    /// `uniform`: in the path's own time.
    Uniform,
    /// `log-snr`: uniform in log-SNR.
    LogSnr,
    /// `log-normal:MEAN:STD`: `ln(sigma / alpha)` is normal (Karras et al., EDM, 2022, table 1:
    /// -1.2 and 1.2), cut to the range.
    LogNormal {
        /// Mean of `ln(sigma / alpha)`.
        mean: f64,
        /// Its deviation, `> 0`.
        std: f64,
    },
}

impl fmt::Display for TimeLaw {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        match self {
            Self::Uniform => f.write_str("uniform"),
            Self::LogSnr => f.write_str("log-snr"),
            Self::LogNormal { mean, std } => write!(f, "log-normal:{mean}:{std}"),
        }
    }
}

impl FromStr for TimeLaw {
    type Err = Error;

    fn from_str(text: &str) -> Result<Self> {
        let parts: Vec<&str> = text.split(':').collect();
        let number = |text: &str| text.parse::<f64>().ok().filter(|x| x.is_finite());
        match parts[..] {
            ["uniform"] => Some(Self::Uniform),
            ["log-snr"] => Some(Self::LogSnr),
            ["log-normal"] => Some(Self::LogNormal { mean: -1.2, std: 1.2 }),
            ["log-normal", mean, std] => match (number(mean), number(std)) {
                (Some(mean), Some(std)) if std > 0.0 => Some(Self::LogNormal { mean, std }),
                _ => None,
            },
            _ => None,
        }
        .ok_or_else(|| {
            let allowed = "uniform, log-snr, log-normal[:MEAN:STD]";
            Error::domain(
                "law of the times",
                text,
                allowed,
                "write a name, with its parameters after colons",
            )
        })
    }
}

impl TryFrom<String> for TimeLaw {
    type Error = Error;
    fn try_from(text: String) -> Result<Self> {
        text.parse()
    }
}

impl From<TimeLaw> for String {
    fn from(law: TimeLaw) -> Self {
        law.to_string()
    }
}

/// A law of times on its path, as a quantile function.
#[derive(Clone, Debug)]
pub struct Times {
    path: Path,
    law: TimeLaw,
    /// Ends in the path's time, of a table its first and last row.
    ends: (f64, f64),
    /// Log-SNR at the ends, infinite where a table has no signal left.
    log_snr: (f64, f64),
}

impl Times {
    /// The law of the settings on a path.
    ///
    /// # Errors
    /// A range that the path does not reach; a law of noise levels on a table that ends without
    /// signal.
    pub fn new(path: &Path, settings: &TimeSettings) -> Result<Self> {
        let lowest = path.still_at(0.0)?.edm_sigma();
        let highest = path.still_at(1.0)?.edm_sigma();
        let rows =
            if let Path::Discrete(table) = path { Some(table.rows().len() as f64) } else { None };
        let cut = |(lo, hi): (f64, f64)| -> Result<(f64, f64)> {
            if !(lo < highest && hi > lowest) {
                let allowed = format!("[{lowest}, {highest}], as the path has them");
                return Err(Error::domain(
                    "times.range",
                    format!("[{lo}, {hi}]"),
                    allowed,
                    "choose levels on the path",
                ));
            }
            Ok((path.t_from_edm_sigma(lo.max(lowest))?, path.t_from_edm_sigma(hi.min(highest))?))
        };
        let ends = match (settings.range, rows) {
            // The first row at or above the lower end, the last at or below the upper one.
            (Some(range), Some(rows)) => {
                let (a, b) = cut(range)?;
                ((a * rows - 1e-9).ceil().max(1.0) / rows, (b * rows + 1e-9).floor() / rows)
            }
            (None, Some(rows)) => (1.0 / rows, 1.0),
            (range, None) => cut(range.unwrap_or((0.002, 80.0)))?,
        };
        if !(ends.0 <= ends.1) {
            return Err(Error::domain(
                "times.range",
                format!("{:?}", settings.range),
                "two levels with a row between",
                "widen it",
            ));
        }
        let at = |t: f64| path.still_at(t).map(|p| p.log_snr());
        let log_snr = (at(ends.0)?, at(ends.1)?);
        if settings.law != TimeLaw::Uniform && !(log_snr.0.is_finite() && log_snr.1.is_finite()) {
            let allowed = "uniform, on a path that ends without signal";
            return Err(Error::domain(
                "times.law",
                settings.law,
                allowed,
                "choose it, or give a range",
            ));
        }
        Ok(Self { path: path.clone(), law: settings.law, ends, log_snr })
    }

    /// The time at which the law's distribution function is `u`; on a table the nearest row.
    ///
    /// # Errors
    /// None that [`Times::new`] has not met.
    pub fn quantile(&self, u: f64) -> Result<f64> {
        let (a, b) = self.ends;
        if let (Path::Discrete(table), TimeLaw::Uniform) = (&self.path, self.law) {
            // As many equal parts as rows.
            let rows = table.rows().len() as f64;
            let (first, last) = ((a * rows).round(), (b * rows).round());
            return Ok((first + (u * (last - first + 1.0)).floor()).min(last) / rows);
        }
        let t = match self.law {
            TimeLaw::Uniform => a + u * (b - a),
            TimeLaw::LogSnr => {
                self.path.t_from_log_snr(self.log_snr.0 + u * (self.log_snr.1 - self.log_snr.0))?
            }
            TimeLaw::LogNormal { mean, std } => {
                // ln(sigma / alpha) = -log_snr / 2; the normal cut to the range, by its
                // distribution function there.
                let cdf = |log_snr: f64| normal_cdf((-0.5 * log_snr - mean) / std);
                let (low, high) = (cdf(self.log_snr.0), cdf(self.log_snr.1));
                let p = (low + u * (high - low)).clamp(f64::MIN_POSITIVE, 1.0 - 1e-16);
                let level = (mean + std * normal_quantile(p))
                    .clamp(-0.5 * self.log_snr.0, -0.5 * self.log_snr.1);
                self.path.t_from_log_snr(-2.0 * level)?
            }
        };
        Ok(match &self.path {
            Path::Discrete(table) => {
                let rows = table.rows().len() as f64;
                (t * rows).round() / rows
            }
            _ => t,
        }
        .clamp(a, b))
    }

    /// `n` points evenly in log-SNR over the range (of a table, the nearest rows), from data to
    /// noise.
    ///
    /// # Errors
    /// None that [`Times::new`] has not met.
    pub fn levels(&self, n: usize) -> Result<Vec<PathPoint>> {
        // A row without signal has no log-SNR: the even steps then end at a sigma / alpha of 1000.
        let (a, b) = (self.log_snr.0, self.log_snr.1.max(-2.0 * 1000f64.ln()));
        let t = (0..n)
            .map(|k| self.path.t_from_log_snr(a + (b - a) * k as f64 / (n - 1).max(1) as f64));
        t.map(|t| {
            let t = match &self.path {
                Path::Discrete(table) => {
                    (t? * table.rows().len() as f64).round() / table.rows().len() as f64
                }
                _ => t?,
            };
            self.path.at(t.clamp(self.ends.0, self.ends.1))
        })
        .collect()
    }
}

fn normal_cdf(x: f64) -> f64 {
    0.5 * libm::erfc(-x * std::f64::consts::FRAC_1_SQRT_2)
}

/// Parts into which importance sampling cuts (0, 1).
pub const PARTS: usize = 64;

/// Importance sampling of the uniform number behind a time: parts of (0, 1) are drawn in proportion
/// to the root mean square of their losses.
///
/// The draw's density goes into the weight of its loss, so that the expected loss stays what it is,
/// and its variance falls.
///
/// # Source
/// Nichol and Dhariwal, "Improved Denoising Diffusion Probabilistic Models", 2021, section 3.3;
/// with running averages in place of ten losses a step.
#[derive(Clone, Debug, PartialEq)]
pub struct Importance {
    /// Running mean of the squared loss of each part, NaN before its first.
    pub mean_square: [f64; PARTS],
}

impl Default for Importance {
    fn default() -> Self {
        Self { mean_square: [f64::NAN; PARTS] }
    }
}

impl Importance {
    /// Share that every part keeps, whatever its losses.
    const FLOOR: f64 = 0.1;
    /// What one loss leaves of the average before it.
    const KEEP: f64 = 0.95;

    /// Probability of each part: uniform until all have been met.
    pub fn probabilities(&self) -> [f64; PARTS] {
        let uniform = 1.0 / PARTS as f64;
        let root = self.mean_square.map(f64::sqrt);
        let total: f64 = root.iter().sum();
        if total > 0.0 && total.is_finite() {
            root.map(|r| (1.0 - Self::FLOOR) * r / total + Self::FLOOR * uniform)
        } else {
            [uniform; PARTS]
        }
    }

    /// The number below which the parts hold the probability `u`, and the density there.
    pub fn warp(&self, probabilities: &[f64; PARTS], u: f64) -> (f64, f64) {
        let mut below = 0.0;
        for (i, p) in probabilities.iter().enumerate() {
            if u < below + p || i + 1 == PARTS {
                let within = ((u - below) / p).clamp(0.0, 1.0);
                return ((i as f64 + within) / PARTS as f64, p * PARTS as f64);
            }
            below += p;
        }
        unreachable!("the last part returns");
    }

    /// Takes in a loss met at `u`, without its importance weight.
    pub fn learn(&mut self, u: f64, loss: f64) {
        let part = &mut self.mean_square[((u * PARTS as f64) as usize).min(PARTS - 1)];
        *part = if part.is_nan() {
            loss * loss
        } else {
            Self::KEEP * *part + (1.0 - Self::KEEP) * loss * loss
        };
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use tweedie::diffusion::schedule::{Schedule, Table};

    fn paths() -> Vec<Path> {
        let table = Path::Discrete(Table::new(Schedule::LINEAR, 50, false).unwrap());
        vec![Path::VP, Path::VE, Path::EDM, Path::Cosine, Path::FlowMatching, table]
    }

    fn laws() -> [TimeLaw; 3] {
        [TimeLaw::Uniform, TimeLaw::LogSnr, TimeLaw::LogNormal { mean: -1.2, std: 1.2 }]
    }

    proptest! {
        #[test]
        fn quantiles_rise_and_stay_in_range(u in 1e-12..1.0f64, v in 1e-12..1.0f64) {
            for path in paths() {
                for law in laws() {
                    let times = Times::new(&path, &TimeSettings { law, range: Some((0.02, 30.0)), ..Default::default() }).unwrap();
                    let (a, b) = (times.quantile(u.min(v)).unwrap(), times.quantile(u.max(v)).unwrap());
                    prop_assert!(a <= b && a >= times.ends.0 && b <= times.ends.1, "{} {law}: {a} {b}", path.name());
                }
            }
        }

        /// Second route: what is drawn has the law's distribution, by counting noise levels below
        /// one.
        #[test]
        fn the_log_normal_is_log_normal(level in -2.5..1.0f64) {
            let law = TimeLaw::LogNormal { mean: -0.8, std: 0.9 };
            let times = Times::new(&Path::Cosine, &TimeSettings { law, ..Default::default() }).unwrap();
            let n = 2000;
            let below = (0..n)
                .filter(|k| Path::Cosine.at(times.quantile((*k as f64 + 0.5) / n as f64).unwrap()).unwrap().edm_sigma().ln() < level)
                .count();
            // The cut at ln 0.002 and ln 80 leaves 1e-8 of the mass out; counting errs by one.
            prop_assert!((below as f64 / n as f64 - normal_cdf((level + 0.8) / 0.9)).abs() <= 1.0 / n as f64 + 1e-7);
        }

        /// Drawn by importance and weighted by the inverse density, an average stays what it is.
        #[test]
        fn importance_leaves_averages_alone(losses in prop::collection::vec(0.01..10.0f64, PARTS)) {
            let mut importance = Importance::default();
            prop_assert_eq!(importance.probabilities(), [1.0 / PARTS as f64; PARTS]);
            for (i, l) in losses.iter().enumerate() {
                importance.learn((i as f64 + 0.5) / PARTS as f64, *l);
            }
            let p = importance.probabilities();
            let n = 20_000;
            // f(u) = u^2 by the midpoint rule in the warped number: 1/3.
            let mean = (0..n).map(|k| {
                let (u, density) = importance.warp(&p, (k as f64 + 0.5) / n as f64);
                u * u / density
            }).sum::<f64>() / n as f64;
            // The integrand jumps at 63 places, by at most 10 (the floor), each within one cell.
            prop_assert!((mean - 1.0 / 3.0).abs() <= 10.0 * PARTS as f64 / n as f64 / 10.0, "{}", mean);
        }
    }

    #[test]
    fn every_row_of_a_table_is_drawn_alike() {
        let path = Path::Discrete(Table::new(Schedule::LINEAR, 10, true).unwrap());
        let times = Times::new(&path, &TimeSettings::default()).unwrap();
        let rows: Vec<f64> =
            (0..20).map(|k| times.quantile((k as f64 + 0.5) / 20.0).unwrap() * 10.0).collect();
        assert_eq!(
            rows.iter().map(|r| r.round()).collect::<Vec<_>>(),
            (0..20).map(|k| (k / 2 + 1) as f64).collect::<Vec<_>>()
        );
        assert!(
            Times::new(&path, &TimeSettings { law: TimeLaw::LogSnr, ..Default::default() })
                .is_err()
        );
    }

    #[test]
    fn laws_have_names() {
        for law in laws() {
            assert_eq!(law.to_string().parse::<TimeLaw>().unwrap(), law);
        }
        for bad in ["normal", "log-normal:1", "log-normal:0:-1", "uniform:2", "log-normal:nan:1"] {
            assert!(bad.parse::<TimeLaw>().is_err(), "{bad}");
        }
        assert!(
            Times::new(
                &Path::VE,
                &TimeSettings { range: Some((60.0, 80.0)), ..Default::default() }
            )
            .is_err()
        );
    }
}
