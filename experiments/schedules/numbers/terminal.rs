//! What is left of the data at the end of a schedule, and the brightness that a sampler cannot
//! reach for it.

use super::Settings;
use super::levels::tables;
use ndarray::Array1;
use serde::{Deserialize, Serialize};
use tweedie::diffusion::PathPoint;
use tweedie::diffusion::elbo::{GaussianData, mmse};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::schedule::Table;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::chain::{ancestral, end};
use tweedie::exact::gains::psi;
use tweedie::law::Gaussian;
use tweedie::law::gaussian::wiener_gain;
use tweedie::math::gaussian::entropy_normal;
use tweedie_nn::data::photographs::{Choice, Colour, patches};

/// The end of one schedule.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct End {
    /// Its name.
    pub name: String,
    /// SNR at t = T.
    pub snr: f64,
    /// Signal coefficient there.
    pub alpha: f64,
    /// `KL(q(x_T) || N(0, I))` of the digits' Gaussian, nats.
    pub kl: f64,
    /// Deviation of the brightness produced over the data's, for each side: by the exact flow, by
    /// the exact reverse SDE.
    pub kept: [Vec<f64>; 2],
}

/// All numbers on the ends.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Terminal {
    /// Every schedule.
    pub ends: Vec<End>,
    /// Mean and deviation of the mean brightness of a patch of photographs.
    pub brightness: [f64; 2],
    /// Number of patches.
    pub patches: usize,
    /// Deviations from the mean at which pictures are drawn.
    pub deviations: Vec<f64>,
    /// For the data and some schedules the pictures.
    pub pictures: Vec<(String, Vec<Vec<f64>>)>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Deviation produced over the data's in a mode of variance `lambda`, by the flow and by the
/// reverse SDE from `N(0, sigma^2)`.
fn kept(lambda: f64, last: Level<f64>) -> [f64; 2] {
    let flow = psi(lambda, last, Level::CLEAN) * last.sigma / lambda.sqrt();
    // The stochastic sampler's gain on its start is the regression of x_0 on x_T; the start lacks
    // alpha^2 lambda of variance.
    let gain = wiener_gain(lambda, last.alpha, last.sigma);
    let missing = (gain * last.alpha).powi(2);
    [flow, (1.0 - missing).sqrt()]
}

impl Terminal {
    pub fn new(settings: &Settings, digits: &Gaussian, photo: &Array1<f64>) -> Result<Self> {
        let images = patches(settings.patch, settings.patch, Colour::Grey, Choice::Grid)?.images;
        let means: Vec<f64> = images.rows().into_iter().map(|r| r.sum() / r.len() as f64).collect();
        let n = means.len() as f64;
        let mean = means.iter().sum::<f64>() / n;
        let var = means.iter().map(|m| (m - mean).powi(2)).sum::<f64>() / n;
        let variances = digits.variances().to_vec();
        let data =
            GaussianData { variances: &variances, mean_square: digits.mean().dot(&digits.mean()) };
        // Along the constant picture of unit length the variance is that of the mean times the
        // number of pixels.
        let lambda = |side: usize| var * (side * side) as f64;
        let tables = tables(settings.steps)?;
        let last = |table: &Table| {
            let r = &table.rows()[table.steps() - 1];
            Level::new(r.alpha, r.sigma)
        };
        let ends: Vec<End> = tables
            .iter()
            .map(|(name, table)| {
                let at = last(table);
                let by =
                    |k: usize| settings.sides.iter().map(|s| kept(lambda(*s), at)[k]).collect();
                let point = PathPoint::still(at.alpha, at.sigma);
                End {
                    name: name.clone(),
                    snr: point.snr(),
                    alpha: at.alpha,
                    kl: data.marginal_kl(&point, 1.0),
                    kept: [by(0), by(1)],
                }
            })
            .collect();

        let mut evidence = Vec::new();
        for (name, table) in
            tables.iter().filter(|(name, _)| name == "linear" || name == "scaled-linear")
        {
            let l = lambda(settings.drawn_side);
            let want = kept(l, last(table));
            let points: Vec<PathPoint> =
                table.rows().iter().map(|r| PathPoint::still(r.alpha, r.sigma)).collect();
            let gains: Vec<f64> = points.iter().map(|p| wiener_gain(l, p.alpha, p.sigma)).collect();
            // The exact reverse kernels: posterior variance and what x0 leaves open.
            let vars: Vec<f64> = table
                .rows()
                .iter()
                .map(|r| {
                    r.posterior_var + r.posterior_coef_x0.powi(2) * mmse(l, (r.alpha, r.sigma))
                })
                .collect();
            let (_, by_chain) = end(0.0, 1.0, &ancestral(&points, &gains, &vars)?);
            // At the end the chain started from variance 1, not sigma^2: what that adds is carried
            // by the same gain.
            let first = last(table);
            let gain = wiener_gain(l, first.alpha, first.sigma);
            let adds = gain * gain * first.alpha * first.alpha;
            evidence.push(
                Evidence::new(
                    format!("{name}: variance of the brightness by {} reverse steps over the closed form", settings.steps),
                    by_chain / (l * want[1].powi(2) + adds),
                    1.0,
                    1e-9,
                )
                .because("a thousand steps of exact kernels, rounded"),
            );
            let flow = (1..=points.len()).rev().fold(first.sigma, |std, k| {
                let (t, s) =
                    (&points[k - 1], if k == 1 { PathPoint::CLEAN } else { points[k - 2] });
                let gain = gains[k - 1];
                std * (s.alpha * gain + s.sigma / t.sigma * (1.0 - t.alpha * gain)).abs()
            });
            evidence.push(
                Evidence::new(
                    format!("{name}: deviation of the brightness by {} steps of DDIM over the exact flow's", settings.steps),
                    flow / (l.sqrt() * want[0]),
                    1.0,
                    0.03,
                )
                .because("DDIM's own first-order error in a thousand steps"),
            );
        }
        let at = last(&tables[0].1);
        let spread: f64 = variances
            .iter()
            .map(|l| {
                let v = at.alpha * at.alpha * l + at.sigma * at.sigma;
                0.5 * (v + (std::f64::consts::TAU).ln()) - entropy_normal(v)
            })
            .sum();
        let direct = spread + 0.5 * at.alpha * at.alpha * data.mean_square;
        evidence.push(
            Evidence::new(
                "linear, digits: KL(q(x_T) ‖ N(0, I)) against cross-entropy less entropy, nats",
                ends[0].kl,
                direct,
                1e-12,
            )
            .because("a difference of 64 pairs of numbers near 1.4"),
        );
        let zero = ends.iter().find(|e| e.name.contains("zero")).map_or(f64::NAN, |e| e.kl);
        evidence.push(
            Evidence::new("zero terminal SNR: KL(q(x_T) ‖ N(0, I)), nats", zero, 0.0, 0.0)
                .because("nothing is left"),
        );
        let kept_by = |name: &str, k: usize| {
            let side = settings.sides.iter().position(|s| *s == settings.drawn_side).unwrap_or(0);
            ends.iter().find(|e| e.name == name).map_or(f64::NAN, |e| e.kept[k][side])
        };
        let deviations = vec![-2.0, -1.0, 0.0, 1.0, 2.0];
        let centred = photo.iter().sum::<f64>() / photo.len() as f64;
        let row = |share: f64| {
            deviations
                .iter()
                .map(|z| {
                    photo.mapv(|v| 0.5 * (v - centred) + mean + share * z * var.sqrt()).to_vec()
                })
                .collect()
        };
        let pictures = vec![
            ("data".to_owned(), row(1.0)),
            ("scaled-linear, deterministic".to_owned(), row(kept_by("scaled-linear", 0))),
            ("scaled-linear, stochastic".to_owned(), row(kept_by("scaled-linear", 1))),
            ("linear, deterministic".to_owned(), row(kept_by("linear", 0))),
        ];
        Ok(Self {
            ends,
            brightness: [mean, var.sqrt()],
            patches: means.len(),
            deviations,
            pictures,
            evidence,
        })
    }
}
