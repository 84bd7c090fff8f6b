//! Log-SNR against time, and the time that each schedule spends at each noise level; pictures on
//! their way.

use super::Settings;
use ndarray::Array1;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::elbo::snr_drop;
use tweedie::diffusion::prediction::Frame;
use tweedie::diffusion::schedule::{Schedule, Table};
use tweedie::diffusion::weighting::vlb_continuous;
use tweedie::diffusion::{Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::math::larger;
use tweedie::math::noise::Noise;

/// A schedule as a curve.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Curve {
    /// Its name.
    pub name: String,
    /// t / T and log-SNR.
    pub log_snr: Vec<(f64, f64)>,
    /// Log-SNR and the share of the time spent per unit of it.
    pub time: Vec<(f64, f64)>,
    /// Share of the time between SNR 100 and 1/100.
    pub middle: f64,
}

/// All numbers on levels.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Levels {
    /// Discrete tables.
    pub tables: Vec<Curve>,
    /// Continuous paths.
    pub paths: Vec<Curve>,
    /// Rows of pictures: schedule, and the state at each share of the way, on the
    /// variance-preserving scale.
    pub strips: Vec<(String, Vec<Vec<f64>>)>,
    /// Side of the strips' pictures.
    pub side: usize,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// The tables of the chapter: name, and table.
pub fn tables(steps: usize) -> Result<Vec<(String, Table)>> {
    let mut all = [Schedule::LINEAR, Schedule::SCALED_LINEAR, Schedule::COSINE, Schedule::SIGMOID]
        .into_iter()
        .map(|kind| Ok((kind.name().to_string(), Table::new(kind, steps, false)?)))
        .collect::<Result<Vec<_>>>()?;
    all.push(("linear, zero terminal SNR".into(), Table::new(Schedule::LINEAR, steps, true)?));
    Ok(all)
}

const MIDDLE: f64 = 4.605_170_185_988_092;

impl Levels {
    pub fn new(settings: &Settings, photo: &Array1<f64>, noise: &Noise) -> Result<Self> {
        let mut evidence = Vec::new();
        let total = settings.steps as f64;
        let tabled = tables(settings.steps)?;
        let tables: Vec<Curve> = tabled
            .iter()
            .map(|(name, table)| {
                let rows = table.rows();
                let time = rows.windows(2).filter(|w| w[1].snr > 0.0).map(|w| {
                    let drop = w[0].log_snr - w[1].log_snr;
                    (0.5 * (w[0].log_snr + w[1].log_snr), 1.0 / (total * drop))
                });
                Curve {
                    name: name.clone(),
                    log_snr: rows.iter().map(|r| (r.t as f64 / total, r.log_snr)).collect(),
                    time: time.collect(),
                    middle: rows.iter().filter(|r| r.log_snr.abs() <= MIDDLE).count() as f64
                        / total,
                }
            })
            .collect();
        let paths = [Path::VP, Path::VE, Path::EDM, Path::Cosine, Path::FlowMatching]
            .into_iter()
            .map(|path| {
                let at: Vec<f64> = (1..400).map(|k| f64::from(k) / 400.0).collect();
                let points = at.iter().map(|t| path.at(*t)).collect::<Result<Vec<PathPoint>>>()?;
                let rates = points.iter().map(|p| Ok(2.0 * vlb_continuous(&Frame::from(p))?.eps)).collect::<Result<Vec<f64>>>()?;
                let bounds = [path.t_from_log_snr(-MIDDLE)?, path.t_from_log_snr(MIDDLE).unwrap_or(0.0)];
                // A rate that is right is the difference quotient of the log-SNR.
                let off = (1..398)
                    .map(|k| {
                        let quotient = (points[k - 1].log_snr() - points[k + 1].log_snr()) * 200.0;
                        (quotient / rates[k] - 1.0).abs() / (1.0 / (400.0 * at[k].min(1.0 - at[k]))).powi(2)
                    })
                    .fold(0.0, larger);
                evidence.push(
                    Evidence::new(format!("{}: rate of log-SNR by dual numbers against its difference quotient, in units of the quotient's own error", path.name()), off, 0.0, 1.5)
                        .because("(step / distance from the end)², to a factor"),
                );
                Ok(Curve {
                    name: match path {
                        Path::Edm { .. } => "edm, even in σ".into(),
                        _ => path.name().to_string(),
                    },
                    log_snr: at.iter().zip(&points).map(|(t, p)| (*t, p.log_snr())).collect(),
                    time: points.iter().zip(&rates).map(|(p, r)| (p.log_snr(), 1.0 / r)).collect(),
                    middle: bounds[0] - bounds[1],
                })
            })
            .collect::<Result<Vec<_>>>()?;
        for (name, table) in &tabled[..4] {
            let rows = table.rows();
            let kept: f64 = rows.iter().map(|r| r.alpha_step).product();
            evidence.push(
                Evidence::new(
                    format!("{name}: product of 1 − β over ᾱ at T"),
                    kept / rows[rows.len() - 1].alpha_bar,
                    1.0,
                    total * f64::EPSILON,
                )
                .because("a product of T factors, rounded"),
            );
            let drops: f64 = rows
                .windows(2)
                .map(|w| snr_drop((w[0].alpha, w[0].sigma), (w[1].alpha, w[1].sigma)))
                .sum();
            evidence.push(
                Evidence::new(
                    format!("{name}: drops of SNR, summed, over its fall from 1 to T"),
                    drops / (rows[0].snr - rows[rows.len() - 1].snr),
                    1.0,
                    1e-11,
                )
                .because("a thousand differences of neighbours, each known to 1e-12 of the SNR"),
            );
        }
        let mut eps = Array1::zeros(photo.len());
        noise.fill_normal(0, eps.as_slice_mut().unwrap_or(&mut []));
        let mut shown: Vec<(String, Path)> =
            tabled.into_iter().map(|(name, table)| (name, Path::Discrete(table))).collect();
        shown.push(("flow matching".into(), Path::FlowMatching));
        let strips = shown
            .iter()
            .map(|(name, path)| {
                let row = settings.strip.iter().map(|t| {
                    let p = path.still_at(*t)?;
                    let scale = 1.0 / p.alpha.hypot(p.sigma);
                    Ok((photo * (p.alpha * scale) + &(&eps * (p.sigma * scale))).to_vec())
                });
                Ok((name.clone(), row.collect::<Result<Vec<_>>>()?))
            })
            .collect::<Result<Vec<_>>>()?;
        let side = (photo.len() as f64).sqrt() as usize;
        Ok(Self { tables, paths, strips, side, evidence })
    }
}
