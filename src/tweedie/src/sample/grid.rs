//! Grids: which points of a path a sampler visits, from noise to data.

use crate::choice::Choice;
use crate::diffusion::schedule::Table;
use crate::diffusion::{Path, PathPoint};
use crate::error::{Error, Result};
use statrs::distribution::{Beta, ContinuousCDF};

/// How the points of a grid are spaced.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Spacing {
    /// Evenly in the path's time.
    Uniform,
    /// Evenly in `(sigma / alpha)^(1 / rho)`.
    Karras,
    /// Evenly in log-SNR.
    LogSnr,
    /// DDPM tables: every (T/N)th step counted from the data.
    Leading,
    /// DDPM tables: every (T/N)th step counted from the noise.
    Trailing,
    /// DDPM tables: rounded, from the first step to the last.
    Linspace,
    /// Evenly in ln sigma.
    Exponential,
    /// Quantiles of Beta(0.6, 0.6) in the path's time.
    Beta,
}

impl Choice for Spacing {
    const CHOICES: &'static [Self] = &[
        Self::Uniform,
        Self::Karras,
        Self::LogSnr,
        Self::Leading,
        Self::Trailing,
        Self::Linspace,
        Self::Exponential,
        Self::Beta,
    ];

    fn name(self) -> &'static str {
        match self {
            Self::Uniform => "uniform",
            Self::Karras => "karras",
            Self::LogSnr => "log-snr",
            Self::Leading => "leading",
            Self::Trailing => "trailing",
            Self::Linspace => "linspace",
            Self::Exponential => "exponential",
            Self::Beta => "beta",
        }
    }

    fn about(self) -> &'static str {
        match self {
            Self::Uniform => "Evenly in the path's time",
            Self::Karras => "Evenly in (sigma/alpha)^(1/rho) (--rho)",
            Self::LogSnr => "Evenly in log-SNR",
            Self::Leading => "DDPM tables: every (T/N)th step counted from the data",
            Self::Trailing => "DDPM tables: every (T/N)th step counted from the noise",
            Self::Linspace => "DDPM tables: rounded, from the first step to the last",
            Self::Exponential => "Evenly in ln sigma",
            Self::Beta => "Quantiles of Beta(0.6, 0.6) in the path's time",
        }
    }
}

/// A grid of `steps` steps: `steps` noisy points and, unless `clean` is off, the data.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Grid {
    /// Spacing of the noisy points.
    pub spacing: Spacing,
    /// Number of steps.
    pub steps: usize,
    /// Exponent of [`Spacing::Karras`].
    pub rho: f64,
    /// Highest noise level `sigma / alpha`, cut to what the path has; the tables' spacings start
    /// where the table says.
    pub s_max: f64,
    /// Lowest noise level, cut likewise.
    pub s_min: f64,
    /// Time shift of [`Spacing::Uniform`] and [`Spacing::Beta`], 1 for none: see [`shifted`]. It
    /// moves the ends of the range too.
    pub shift: f64,
    /// Rows by which [`Spacing::Leading`] starts above the first, as some tables were trained with
    /// (`steps_offset`).
    pub offset: usize,
    /// Whether the last step goes to `sigma = 0`; if not, the last point is the lowest level.
    pub clean: bool,
}

/// Time moved towards the noise, `shift t / (1 + (shift - 1) t)`: on flow matching's path it
/// multiplies `sigma / alpha` by `shift`.
///
/// A shift of a shift is the shift by the product, so that one applied twice is one of `shift^2`.
///
/// # Source
/// Esser et al. 2024, "Scaling rectified flow transformers", equation 23.
///
/// # Example
/// ```
/// use tweedie::sample::grid::shifted;
/// assert_eq!(shifted(0.5, 3.0), 0.75);
/// assert!((shifted(shifted(0.3, 3.0), 2.0) - shifted(0.3, 6.0)).abs() < 1e-15);
/// ```
pub fn shifted(t: f64, shift: f64) -> f64 {
    shift * t / (1.0 + (shift - 1.0) * t)
}

impl Grid {
    /// EDM's range, 80 to 0.002, `rho` 7, ending in the data.
    pub fn new(spacing: Spacing, steps: usize) -> Self {
        Self {
            spacing,
            steps,
            rho: 7.0,
            s_max: 80.0,
            s_min: 0.002,
            shift: 1.0,
            offset: 0,
            clean: true,
        }
    }

    /// The points on a path, from noise to data.
    ///
    /// # Formula
    /// With u from 0 to 1 over the noisy points: uniform `shifted(t_max + u (t_min - t_max))`;
    /// Karras `s = (s_max^(1/rho) + u (s_min^(1/rho) - s_max^(1/rho)))^rho`; log-SNR
    /// `s_max (s_min / s_max)^u`; exponential the same in sigma; beta the same as uniform with the
    /// quantile of u. On a table of T steps (counted from 1): leading `1 + offset + k floor(T/N)`,
    /// trailing `round(T - k T/N)`, linspace `1 + round(k (T-1)/(N-1))`.
    ///
    /// # Errors
    /// No steps; a table's spacing on a path that is none, or more steps than the table has; a
    /// range that is empty; two equal points.
    ///
    /// # Source
    /// Karras et al. 2022, equation 5; Lin et al. 2024 (arXiv 2305.08891), table 2; Lee et al.
    /// 2024, "Beta sampling is all you need".
    ///
    /// # Example
    /// ```
    /// use tweedie::diffusion::Path;
    /// use tweedie::sample::grid::{Grid, Spacing};
    /// let points = Grid::new(Spacing::Karras, 18).points(&Path::EDM).unwrap();
    /// assert_eq!(points.len(), 19);
    /// assert!((points[0].sigma - 80.0).abs() < 1e-12 && (points[17].sigma - 0.002).abs() < 1e-16);
    /// assert_eq!(points[18].sigma, 0.0);
    /// ```
    pub fn points(&self, path: &Path) -> Result<Vec<PathPoint>> {
        // Points, not steps, when the grid does not end in the data.
        let n = if self.clean { self.steps } else { self.steps + 1 };
        if self.steps == 0 || n < 2 && !self.clean {
            return Err(Error::domain(
                "number of steps",
                self.steps,
                "1 or more",
                "ask for at least one step",
            ));
        }
        let mut points = match (self.spacing, path) {
            (Spacing::Leading | Spacing::Trailing | Spacing::Linspace, Path::Discrete(table)) => {
                self.rows(path, table, n)?
            }
            (Spacing::Leading | Spacing::Trailing | Spacing::Linspace, _) => {
                let (got, allowed) = (
                    format!("the path {}", path.name()),
                    "linear, scaled-linear, cosine or sigmoid with their steps",
                );
                return Err(Error::domain(
                    "spacing of a DDPM table",
                    got,
                    allowed,
                    "use uniform, karras or log-snr on a continuous path",
                ));
            }
            _ => self.continuous(path, n)?,
        };
        if self.clean {
            points.push(clean_end(path)?);
        }
        checked(&points)?;
        Ok(points)
    }

    fn rows(&self, path: &Path, table: &Table, n: usize) -> Result<Vec<PathPoint>> {
        let total = table.steps();
        if n > total {
            return Err(Error::domain(
                "number of steps",
                n,
                format!("at most the table's {total}"),
                "take fewer steps or a longer table",
            ));
        }
        let (all, few) = (total as f64, n as f64);
        (0..n)
            .map(|k| {
                let back = (n - 1 - k) as f64;
                let row = match self.spacing {
                    Spacing::Leading => 1 + self.offset + (n - 1 - k) * (total / n),
                    Spacing::Trailing => (all - k as f64 * all / few).round_ties_even() as usize,
                    _ if n == 1 => 1,
                    _ => 1 + (back * (all - 1.0) / (few - 1.0)).round_ties_even() as usize,
                };
                row_point(path, table, row)
            })
            .collect()
    }

    fn continuous(&self, path: &Path, n: usize) -> Result<Vec<PathPoint>> {
        let (s_max, s_min) = self.range(path)?;
        let (t_max, t_min) = (path.t_from_edm_sigma(s_max)?, path.t_from_edm_sigma(s_min)?);
        let share = |k: usize| if n == 1 { 0.0 } else { k as f64 / (n - 1) as f64 };
        let sigma_at = |t: f64| Ok::<f64, Error>(path.still_at(t)?.sigma);
        let (hi, lo) = (sigma_at(t_max)?, sigma_at(t_min)?);
        (0..n)
            .map(|k| {
                let u = share(k);
                let time = |u: f64| shifted(t_max + u * (t_min - t_max), self.shift);
                match self.spacing {
                    // The ends to the bit: a root raised to its power is not what it was.
                    _ if k == 0 => path.at(shifted(t_max, self.shift)),
                    _ if k == n - 1 => path.at(shifted(t_min, self.shift)),
                    Spacing::Karras => {
                        let (a, b) = (s_max.powf(1.0 / self.rho), s_min.powf(1.0 / self.rho));
                        path.at(path.t_from_edm_sigma((a + u * (b - a)).powf(self.rho))?)
                    }
                    Spacing::LogSnr => {
                        path.at(path.t_from_edm_sigma(s_max * (s_min / s_max).powf(u))?)
                    }
                    Spacing::Exponential => {
                        path.at(t_from_sigma(path, hi * (lo / hi).powf(u), (t_min, t_max))?)
                    }
                    Spacing::Beta => {
                        path.at(time(Beta::new(0.6, 0.6).expect("positive shapes").inverse_cdf(u)))
                    }
                    _ => path.at(time(u)),
                }
            })
            .collect()
    }

    /// The range of `sigma / alpha` that both the grid and the path have.
    fn range(&self, path: &Path) -> Result<(f64, f64)> {
        let end = |t: f64| path.still_at(t).map(|p| p.edm_sigma());
        let (s_max, s_min) = (self.s_max.min(end(1.0)?), self.s_min.max(end(0.0)?));
        if self.shift != 1.0 && !matches!(self.spacing, Spacing::Uniform | Spacing::Beta) {
            return Err(Error::domain(
                "shift",
                self.shift,
                "1, except on the uniform and beta grids",
                "the others are not spaced in time",
            ));
        }
        if s_min > 0.0 && s_min < s_max && self.rho > 0.0 && self.shift > 0.0 {
            return Ok((s_max, s_min));
        }
        let got = format!(
            "s_min {}, s_max {}, rho {}, shift {}",
            self.s_min, self.s_max, self.rho, self.shift
        );
        let allowed =
            format!("0 < s_min < s_max within [{}, {}], rho > 0, shift > 0", end(0.0)?, end(1.0)?);
        Err(Error::domain("range of a grid", got, allowed, "choose noise levels that the path has"))
    }
}

/// Where a path ends in data: `sigma = 0` at t = 0, or a point without a time where the path comes
/// no nearer than some noise.
fn clean_end(path: &Path) -> Result<PathPoint> {
    let end = path.still_at(0.0)?;
    let t = (end.sigma == 0.0).then_some(0.0);
    Ok(PathPoint { t, ..PathPoint::still(end.alpha, 0.0) })
}

/// Step `row` of a table as a point: the row's own bits, the path's rates.
fn row_point(path: &Path, table: &Table, row: usize) -> Result<PathPoint> {
    let r = table.row(row)?;
    let at = path.at(row as f64 / table.steps() as f64)?;
    Ok(PathPoint { alpha: r.alpha, sigma: r.sigma, ..at })
}

/// The time in a bracket at which sigma, which grows with it, has a value; by bisection, to the
/// last bit.
fn t_from_sigma(path: &Path, sigma: f64, (mut lo, mut hi): (f64, f64)) -> Result<f64> {
    while lo < hi {
        let middle = lo + 0.5 * (hi - lo);
        if middle <= lo || middle >= hi {
            break;
        }
        if path.still_at(middle)?.sigma < sigma { lo = middle } else { hi = middle }
    }
    Ok(hi)
}

/// That a grid can be sampled on: two points or more, each of them a level, strictly from noise to
/// data.
///
/// # Errors
/// Too few points; coefficients that are no level; a noise level that repeats or rises; `sigma = 0`
/// before the end.
pub fn checked(points: &[PathPoint]) -> Result<()> {
    if points.len() < 2 {
        return Err(Error::shape(
            "grid",
            &[points.len()],
            "at least two points",
            "give a start and an end",
        ));
    }
    for (k, p) in points.iter().enumerate() {
        let level = p.alpha >= 0.0
            && p.sigma >= 0.0
            && (p.alpha + p.sigma).is_finite()
            && p.alpha + p.sigma > 0.0;
        if !level || (p.sigma == 0.0 && k + 1 < points.len()) {
            let (what, got) =
                (format!("grid point {k}"), format!("alpha = {}, sigma = {}", p.alpha, p.sigma));
            return Err(Error::domain(
                what,
                got,
                "finite, >= 0, not both 0, and sigma = 0 only at the end",
                "take points from a path",
            ));
        }
    }
    match points.windows(2).position(|w| w[1].sigma * w[0].alpha >= w[0].sigma * w[1].alpha) {
        None => Ok(()),
        Some(k) => {
            let got =
                format!("sigma/alpha {} then {}", points[k].edm_sigma(), points[k + 1].edm_sigma());
            let what = format!("grid points {k} and {}", k + 1);
            Err(Error::domain(
                what,
                got,
                "noise levels that strictly fall",
                "take fewer steps or another spacing",
            ))
        }
    }
}
