//! Where the bits go: rate and distortion along the way, and which noise levels each training
//! objective cares for.

use super::Settings;
use ndarray::{Array2, s};
use serde::{Deserialize, Serialize};
use std::f64::consts::LN_2;
use tweedie::diffusion::elbo::{GaussianData, Part, Reverse, ReverseVar, gaussian_bound, mmse};
use tweedie::diffusion::level::Level;
use tweedie::diffusion::loss::loss_ratio;
use tweedie::diffusion::prediction::{Frame, Prediction};
use tweedie::diffusion::schedule::{self, Table};
use tweedie::diffusion::weighting::{vlb_continuous, vlb_discrete};
use tweedie::diffusion::{Denoiser, Path, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::Gaussian;
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::math::quadrature::IntervalRule;
use tweedie_nn::data::photographs::{Choice, Colour, patches, photographs};
use tweedie_report::experiment::least as least_of;
use tweedie_report::experiment::level;

/// A Gaussian law of pictures and one picture noised and denoised.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Coded {
    /// Name of the data.
    pub name: String,
    /// Height and width of the picture.
    pub shape: (usize, usize),
    /// The picture at each noise level, on the variance-preserving scale.
    pub noised: Vec<Vec<f64>>,
    /// What the Wiener filter makes of it.
    pub denoised: Vec<Vec<f64>>,
    /// Bits a pixel received at each of these levels, mean over the law.
    pub bits: Vec<f64>,
    /// Root mean square error of a pixel there, as a share of the range from black to white.
    pub error: Vec<f64>,
    /// Noise level, bits a pixel, error: along the whole way.
    pub curve: Vec<[f64; 3]>,
}

/// How an objective spreads over the noise levels.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Objective {
    /// Its name.
    pub name: String,
    /// Its share per unit of log-SNR, over the grid.
    pub share: Vec<f64>,
    /// Noise levels (sigma / alpha) above which lie a quarter, half and three quarters of it.
    pub quartiles: [f64; 3],
    /// Bits a pixel that a digit has received at the middle one, and the error there.
    pub at_half: [f64; 2],
}

/// All numbers on bits and weights.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Bits {
    /// Digits and photographs.
    pub coded: [Coded; 2],
    /// t / T and the weights of the squared errors of eps, x0 and v in a transition's divergence, t
    /// = 2..=T.
    pub weights: Vec<[f64; 4]>,
    /// Log-SNR of the objectives' shares.
    pub log_snrs: Vec<f64>,
    /// The objectives.
    pub objectives: Vec<Objective>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// What an objective spends per unit of log-SNR, up to a factor.
type Density<'a> = Box<dyn Fn(f64) -> Result<f64> + 'a>;

/// Nats that `x0 + sigma eps` tells of x0.
fn nats(variances: &[f64], sigma: f64) -> f64 {
    variances.iter().map(|l| 0.5 * (l / (sigma * sigma)).ln_1p()).sum()
}

/// Least squared error of x0 at `sigma`.
fn least(variances: &[f64], sigma: f64) -> f64 {
    variances.iter().map(|l| mmse(*l, (1.0, sigma))).sum()
}

/// Bits a dimension and root mean square error as a share of the range, 2.
fn bits_and_error(variances: &[f64], sigma: f64) -> [f64; 2] {
    let d = variances.len() as f64;
    [nats(variances, sigma) / (d * LN_2), 0.5 * (least(variances, sigma) / d).sqrt()]
}

fn coded(
    name: &'static str,
    law: &Gaussian,
    tiles: &Array2<f64>,
    shape: (usize, usize),
    sigmas: &[f64],
    noise: &Noise,
) -> Result<Coded> {
    let variances = law.variances().to_vec();
    let eps = noise.normals(0, tiles.raw_dim());
    // Tiles of 8 x 8 pixels, in rows of the picture.
    let across = shape.1 / 8;
    let whole = |tiles: &Array2<f64>| -> Vec<f64> {
        (0..shape.0 * shape.1)
            .map(|p| (p / shape.1, p % shape.1))
            .map(|(i, j)| tiles[[i / 8 * across + j / 8, i % 8 * 8 + j % 8]])
            .collect()
    };
    let (noised, denoised) = sigmas
        .iter()
        .map(|sigma| {
            let x = tiles + &(&eps * *sigma);
            Ok((
                whole(&(&x / (1.0 + sigma * sigma).sqrt())),
                whole(&law.denoised(x.view(), &level(*sigma))?),
            ))
        })
        .collect::<Result<Vec<_>>>()?
        .into_iter()
        .unzip();
    let along = tweedie_report::experiment::geometric(30.0, 1.0 / 255.0 / 3f64.sqrt(), 121);
    let both = |sigma: &f64| bits_and_error(&variances, *sigma);
    Ok(Coded {
        name: name.into(),
        shape,
        noised,
        denoised,
        bits: sigmas.iter().map(|s| both(s)[0]).collect(),
        error: sigmas.iter().map(|s| both(s)[1]).collect(),
        curve: along.iter().map(|s| [*s, both(s)[0], both(s)[1]]).collect(),
    })
}

impl Bits {
    pub fn new(
        settings: &Settings,
        digits: &Gaussian,
        images: &Array2<f64>,
        noise: &Noise,
    ) -> Result<Self> {
        let sigmas = &settings.picture_sigmas;
        let digit = images.slice(s![settings.digit..=settings.digit, ..]).to_owned();
        let natural =
            Gaussian::from_data(patches(8, 8, Colour::Grey, Choice::Grid)?.images.view())?;
        let photo = &photographs(Colour::Grey)[0];
        let [top, left] = settings.crop;
        let tiles = Array2::from_shape_fn((64, 64), |(tile, p)| {
            photo.pixels[[0, top + tile / 8 * 8 + p / 8, left + tile % 8 * 8 + p % 8]]
        });
        let coded = [
            coded("digits", digits, &digit, (8, 8), sigmas, &noise.child(1))?,
            coded("photographs", &natural, &tiles, (64, 64), sigmas, &noise.child(2))?,
        ];

        let variances = digits.variances().to_vec();
        let table = Table::new(schedule::Schedule::LINEAR, settings.table_steps, false)?;
        let rows = table.rows();
        let weights = rows
            .windows(2)
            .map(|w| {
                let (s, t) =
                    (Level::new(w[0].alpha, w[0].sigma), Level::new(w[1].alpha, w[1].sigma));
                let weights = vlb_discrete(s, t, w[1].posterior_var)?;
                Ok([
                    w[1].t as f64 / settings.table_steps as f64,
                    weights.eps,
                    weights.x0,
                    weights.v,
                ])
            })
            .collect::<Result<Vec<_>>>()?;

        let (from, to, n) = (-9.0, 9.0, 361);
        let log_snrs: Vec<f64> =
            (0..n).map(|k| from + (to - from) * k as f64 / (n - 1) as f64).collect();
        let error = |l: f64| least(&variances, (-0.5 * l).exp());
        // Time per unit of log-SNR times the loss there.
        let timed = |path: &Path, target: Prediction, l: f64| -> Result<f64> {
            let frame = Frame::from(&path.at(path.t_from_log_snr(l)?)?);
            let rate = 2.0 * vlb_continuous(&frame)?.eps;
            Ok(loss_ratio(target, Prediction::X0, &frame)? * error(l) / rate)
        };
        let kinds: [(&'static str, Density); 4] = [
            ("the bound", Box::new(|l: f64| Ok(0.5 * l.exp() * error(l)))),
            ("ε-loss, linear β", Box::new(|l| timed(&Path::VP, Prediction::Eps, l))),
            ("ε-loss, cosine", Box::new(|l| timed(&Path::Cosine, Prediction::Eps, l))),
            (
                "velocity, flow matching",
                Box::new(|l| timed(&Path::FlowMatching, Prediction::Velocity, l)),
            ),
        ];
        let width = (to - from) / (n - 1) as f64;
        let mut bound_integral = 0.0;
        let objectives = kinds
            .iter()
            .enumerate()
            .map(|(k, (name, of))| {
                let values = log_snrs.iter().map(|l| of(*l)).collect::<Result<Vec<f64>>>()?;
                let mut sum = vec![0.0];
                for w in values.windows(2) {
                    sum.push(sum[sum.len() - 1] + 0.5 * width * (w[0] + w[1]));
                }
                let total = sum[n - 1];
                if k == 0 {
                    bound_integral = total;
                }
                let quantile = |q: f64| {
                    let i = sum.partition_point(|s| *s < q * total).clamp(1, n - 1);
                    let l =
                        log_snrs[i - 1] + width * (q * total - sum[i - 1]) / (sum[i] - sum[i - 1]);
                    (-0.5 * l).exp()
                };
                let quartiles = [0.25, 0.5, 0.75].map(quantile);
                Ok(Objective {
                    name: name.to_string(),
                    share: values.iter().map(|v| v / total).collect(),
                    quartiles,
                    at_half: bits_and_error(&variances, quartiles[1]),
                })
            })
            .collect::<Result<Vec<_>>>()?;

        let mut evidence = Vec::new();
        let points: Vec<PathPoint> =
            rows.iter().map(|r| PathPoint::still(r.alpha, r.sigma)).collect();
        // The blank pixels have no variance, and no best reconstruction: the transitions do not
        // need it.
        let data = GaussianData { variances: &variances, mean_square: 0.0 };
        let reverse = Reverse {
            var: ReverseVar::Posterior,
            reconstruction: tweedie::diffusion::elbo::Reconstruction::Gaussian(rows[0].beta),
            prior_var: 1.0,
        };
        let transitions =
            gaussian_bound(&points, data, |p, l| mmse(l, (p.alpha, p.sigma)), &reverse)?
                .part(Part::Transition);
        for (k, target) in [Prediction::Eps, Prediction::X0, Prediction::V].into_iter().enumerate()
        {
            let sum = weights
                .iter()
                .zip(&points[1..])
                .map(|(w, p)| {
                    let x0 = variances.iter().map(|l| mmse(*l, (p.alpha, p.sigma))).sum::<f64>();
                    Ok(w[k + 1] * loss_ratio(target, Prediction::X0, &Frame::from(p))? * x0)
                })
                .sum::<Result<f64>>()?;
            evidence.push(
                Evidence::new(
                    format!("weights of the {target}-loss times its least value, summed over t, over the bound's transitions"),
                    sum / transitions,
                    1.0,
                    1e-10,
                )
                .because("a thousand weights, each by a difference of neighbouring levels"),
            );
        }
        let worst = weights
            .iter()
            .zip(&rows[1..])
            .map(|(w, r)| (w[1] / r.vlb_weight_posterior - 1.0).abs())
            .fold(0.0, larger);
        evidence.push(
            Evidence::new(
                "weights of the ε-loss over β/(2 α (1 − ᾱ of the step before)), farthest from 1",
                worst,
                0.0,
                1e-10,
            )
            .because("levels rounded to double precision know their difference to 1e-12"),
        );
        let closed = nats(&variances, (-0.5 * to).exp()) - nats(&variances, (-0.5 * from).exp());
        evidence.push(
            Evidence::new(
                "digits: half the ε-loss over log-SNR, integrated, over the information gained",
                bound_integral / closed,
                1.0,
                1e-4,
            )
            .because("trapezoidal rule of 360 intervals"),
        );
        let natural = natural.variances().to_vec();
        let rule = IntervalRule::new(20)?;
        let (lo, hi) = (0.02f64, 4.0f64);
        let by_error = rule.composite(-2.0 * hi.ln(), -2.0 * lo.ln(), 8, |l| {
            0.5 * l.exp() * least(&natural, (-0.5 * l).exp())
        });
        evidence.push(
            Evidence::new(
                "photographs: bits gained from σ = 4 to 0.02, by entropies over by the error's integral",
                (nats(&natural, lo) - nats(&natural, hi)) / by_error,
                1.0,
                1e-12,
            )
            .because("eight panels of 20 nodes"),
        );
        let middle = |k: usize| objectives[k].quartiles[1];
        evidence.push(
            Evidence::at_least(
                "noise level that halves a loss over the one that halves the bound, the least of the losses",
                least_of((1..4).map(|k| middle(k) / middle(0))),
                1.0,
                width,
            )
            .because("levels between two points of the sums"),
        );
        Ok(Self { coded, weights, log_snrs, objectives, evidence })
    }
}
