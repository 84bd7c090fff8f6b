//! Averages of weights: a linear denoiser of the digits, trained by plain stochastic gradient steps
//! that never come to rest.

use super::{Effort, farthest};
use ndarray::{Array1, Array2, Axis};
use serde::{Deserialize, Serialize};
use tweedie::diffusion::elbo::mmse;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::averaging::{lag, variance_ratio, window};
use tweedie::law::{Gaussian, Law};
use tweedie::math::noise::Noise;

/// What the settings hold of this part.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Settings {
    /// Noise level at which it is trained.
    pub sigma: f64,
    /// Noised digits a step.
    pub batch: usize,
    /// Learning rate over the largest at which the mean of the weights is stable.
    pub rate: f64,
    /// Decays of the averages.
    pub decays: Vec<f64>,
    /// Pixel whose weights are shown.
    pub pixel: [usize; 2],
}

/// An average, or at decay 0 the weights themselves.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Average {
    /// Its decay.
    pub decay: f64,
    /// Excess over the least risk, at the steps of [`Numbers::steps`].
    pub excess: Vec<f64>,
    /// Weights with which the pixel is read from the noised digit, at the end.
    pub filter: Vec<f64>,
    /// Mean excess over the second half of the run, over that of the weights themselves: measured,
    /// and by the closed form.
    pub left: [f64; 2],
}

/// What is computed of averages.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Numbers {
    /// Steps at which the excess is known.
    pub steps: Vec<f64>,
    /// The weights, then the averages.
    pub averages: Vec<Average>,
    /// The exact weights of the pixel.
    pub exact: Vec<f64>,
    /// Least risk a pixel.
    pub least: f64,
    /// Correlations of the weights from step to step, smallest and largest.
    pub correlation: [f64; 2],
    /// Windows, and for some correlations what an average of them leaves of the variance.
    pub curves: (Vec<f64>, Vec<(f64, Vec<f64>)>),
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Numbers {
    pub(super) fn new(settings: &Settings, effort: Effort, noise: &Noise) -> Result<Self> {
        let images = tweedie_nn::data::load("digits")?.images;
        let law = Gaussian::from_data(images.view())?;
        let (d, var) = (law.dim(), settings.sigma * settings.sigma);
        let images = &images - &Law::mean(&law);
        let exact = law.matrix(|l| l / (l + var));
        // Along each eigenvector of the input's covariance a step keeps 1 - rate * curvature of
        // what is wrong on average.
        let basis = Gaussian::new(Array1::zeros(d), law.matrix(|l| l + var).view())?;
        let curvature = basis.variances().to_owned();
        let rate = settings.rate * 2.0 / curvature[0];
        let least =
            law.variances().iter().map(|l| mmse(*l, (1.0, settings.sigma))).sum::<f64>() / d as f64;

        let decays: Vec<f64> = [0.0].into_iter().chain(settings.decays.iter().copied()).collect();
        let mut weights = vec![Array2::<f64>::zeros((d, d)); decays.len()];
        let mut averages: Vec<Average> = decays
            .iter()
            .map(|g| Average { decay: *g, excess: vec![], filter: vec![], left: [0.0; 2] })
            .collect();
        // Squared distance from the exact weights along each eigenvector, summed over the looks of
        // the second half.
        let mut power = vec![Array1::<f64>::zeros(d); decays.len()];
        let looks = 25;
        let shown: Vec<usize> = {
            let mut shown: Vec<usize> = super::geometric(1.0, effort.steps as f64, 60)
                .iter()
                .map(|s| s.round() as usize)
                .collect();
            shown.dedup();
            shown
        };
        let half = effort.steps / 2;
        let (mut x0, mut x) =
            (Array2::zeros((settings.batch, d)), Array2::zeros((settings.batch, d)));
        for step in 1..=effort.steps {
            noise
                .fill_normal(2 * step as u64, x.as_slice_mut().expect("a new array is contiguous"));
            for (i, mut row) in x0.rows_mut().into_iter().enumerate() {
                let k =
                    (noise.uniform(2 * step as u64 + 1, i as u64) * images.nrows() as f64) as usize;
                row.assign(&images.row(k.min(images.nrows() - 1)));
            }
            x.zip_mut_with(&x0, |x, x0| *x = x0 + settings.sigma * *x);
            let off = x.dot(&weights[0].t()) - &x0;
            weights[0].scaled_add(-rate / settings.batch as f64, &off.t().dot(&x));
            let (now, rest) = weights.split_at_mut(1);
            for (average, g) in rest.iter_mut().zip(&settings.decays) {
                average.zip_mut_with(&now[0], |m, w| *m += (1.0 - g) * (w - *m));
            }
            let (look, show) = (step > half && step % looks == 0, shown.contains(&step));
            if look || show {
                for (k, w) in weights.iter().enumerate() {
                    let along = (w - &exact).dot(&basis.modes()).map_axis(Axis(0), |c| c.dot(&c));
                    if show {
                        averages[k].excess.push(along.dot(&curvature) / (d as f64 * least));
                    }
                    if look {
                        power[k] += &along;
                    }
                }
            }
        }
        let i = 8 * settings.pixel[0] + settings.pixel[1];
        let risk = |power: &Array1<f64>| power.dot(&curvature);
        let correlations = curvature.mapv(|c| 1.0 - rate * c);
        for ((average, w), p) in averages.iter_mut().zip(&weights).zip(&power) {
            average.filter = w.row(i).to_vec();
            let ratios = correlations.mapv(|a| variance_ratio(a, average.decay));
            average.left =
                [risk(p) / risk(&power[0]), risk(&(&power[0] * &ratios)) / risk(&power[0])];
        }

        let mut evidence = Vec::new();
        for average in &averages[1..] {
            let [got, want] = average.left;
            // Averages that do not overlap, in some 300 directions that count of the 64 squared
            // that there are.
            let apart = window(average.decay) + 1.0 / (1.0 - correlations[d - 1]);
            let independent = 300.0 * half as f64 / apart;
            evidence.push(
                Evidence::new(
                    format!(
                        "decay {}: excess of the averaged weights over that of the weights, measured over closed form",
                        average.decay
                    ),
                    got / want,
                    1.0,
                    5.0 * (2.0 / independent).sqrt(),
                )
                .because(format!(
                    "five standard errors of {} steps, of which {:.0} make one average, in some 300 directions",
                    half, apart
                )),
            );
        }
        // The closed form against the recursion of the pair's covariance (w, m), carried until it
        // rests.
        let recursion = |a: f64, g: f64| {
            let (mut ww, mut wm, mut mm) = (1.0 / (1.0 - a * a), 0.0, 0.0);
            for _ in 0..(40.0 / (1.0 - g)).ceil() as usize {
                // m' = g m + (1 - g) w', w' = a w + noise.
                let next = a * a * ww + 1.0;
                let mixed = g * a * wm + (1.0 - g) * next;
                mm = g * g * mm + 2.0 * g * (1.0 - g) * a * wm + (1.0 - g) * (1.0 - g) * next;
                (ww, wm) = (next, mixed);
            }
            mm / ww
        };
        let pairs = [(0.0, 0.9), (0.9, 0.99), (0.99, 0.999), (-0.5, 0.99)];
        evidence.push(
            Evidence::new(
                "closed form over the covariance of weight and average carried until it rests, less 1, worst of 4",
                farthest(pairs.map(|(a, g)| variance_ratio(a, g) / recursion(a, g) - 1.0)),
                0.0,
                1e-10,
            )
            .because("40 windows leave e⁻⁴⁰ of the start; as many roundings"),
        );
        let drift = settings.decays.iter().map(|g| {
            let n = (40.0 / (1.0 - g)).ceil();
            n - (1..=n as usize).fold(0.0, |m, k| m + (1.0 - g) * (k as f64 - m)) - lag(*g)
        });
        evidence.push(
            Evidence::new(
                "lag behind a weight that drifts by 1 a step: the recursion less g/(1 − g), worst",
                farthest(drift),
                0.0,
                1e-6,
            )
            .because("rounding of 40 windows"),
        );

        let windows = super::geometric(1.0, 2e4, 60);
        let decay = |w: f64| (w - 1.0) / (w + 1.0);
        let curves = [0.0, 0.9, 0.99, 0.999]
            .map(|a| (a, windows.iter().map(|w| variance_ratio(a, decay(*w))).collect()));
        Ok(Self {
            steps: shown.iter().map(|s| *s as f64).collect(),
            averages,
            exact: exact.row(i).to_vec(),
            least,
            correlation: [correlations[0], correlations[d - 1]],
            curves: (windows, curves.into()),
            evidence,
        })
    }
}
