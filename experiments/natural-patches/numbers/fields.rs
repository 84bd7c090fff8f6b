//! Which pixels the linear denoiser reads, and how that grows with the noise.

use super::{Settings, Spectra, windows};
use nalgebra::{DMatrix, DVector};
use ndarray::{Array1, Array2, ArrayView1};
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::receptive_field::{high_noise_field, low_noise_field, receptive_field};
use tweedie::law::Gaussian;
use tweedie_nn::data::photographs::Photograph;
use tweedie_report::experiment::{energy, geometric, level};

/// Rows of the Wiener filter of patches.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Fields {
    /// Windows of the covariance.
    pub count: usize,
    /// For each pixel: its field at each level, and the limit of high noise (the covariance's row).
    pub rows: Vec<([usize; 2], Vec<Vec<f64>>)>,
    /// Noise levels of the radii.
    pub sigmas: Vec<f64>,
    /// Root mean square radius of the first pixel's field, in pixels.
    pub radius: Vec<f64>,
    /// That of the power law `a / f^2` on an unbounded plane.
    pub power_law: Vec<f64>,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Fields {
    pub(super) fn new(
        settings: &Settings,
        photographs: &[Photograph],
        spectra: &Spectra,
    ) -> Result<Self> {
        let side = settings.field_patch;
        let data = windows(photographs, side, settings.step)?;
        let law = Gaussian::from_data(data.view())?;
        let pixels: Vec<usize> = settings.field_pixels.iter().map(|p| side * p[0] + p[1]).collect();
        let mut fields = settings
            .field_sigmas
            .iter()
            .map(|s| receptive_field(&law, &pixels, level(*s)))
            .collect::<Result<Vec<_>>>()?;
        fields.push(high_noise_field(&law, &pixels)?);
        let rows = (0..pixels.len())
            .map(|i| (settings.field_pixels[i], fields.iter().map(|f| f.row(i).to_vec()).collect()))
            .collect();
        let sigmas = geometric(settings.sigma_range[0], settings.sigma_range[1], 25);
        let centre = settings.field_pixels[0];
        let radius = sigmas
            .iter()
            .map(|s| {
                Ok(radius(receptive_field(&law, &pixels[..1], level(*s))?.row(0), centre, side))
            })
            .collect::<Result<Vec<f64>>>()?;
        // The kernel of 1 / (1 + (sigma f)^2 / a) is K0(kappa r) with kappa = 2 pi sqrt(a) / sigma,
        // whose mean square radius is 2 / (3 kappa^2).
        let power_law: Vec<f64> = sigmas
            .iter()
            .map(|s| (2.0f64 / 3.0).sqrt() * s / (TAU * spectra.scale.sqrt()))
            .collect();

        let middle = level(settings.field_sigmas[settings.field_sigmas.len() / 2]);
        let field = receptive_field(&law, &pixels, middle)?;
        let solved = solved(&data, &pixels, middle.sigma);
        let relative = |a: &Array2<f64>, b: &Array2<f64>| (energy(&(a - b)) / energy(b)).sqrt();
        let lowest = 1e-3 * law.variances()[law.rank() - 1].sqrt();
        let highest = 1e3 * law.variances()[0].sqrt();
        let low = relative(
            &receptive_field(&law, &pixels, level(lowest))?,
            &low_noise_field(&law, &pixels)?,
        );
        let high = relative(
            &(receptive_field(&law, &pixels, level(highest))? * highest.powi(2)),
            &high_noise_field(&law, &pixels)?,
        );
        let evidence = vec![
            Evidence::new(
                format!("fields at noise {} against a linear solve with the covariance, relative", middle.sigma),
                relative(&field, &solved),
                0.0,
                1e-9,
            )
            .because("the condition of covariance plus noise, up to 1e4, on covariances summed in another order"),
            Evidence::new("low noise: fields against single pixels, relative", low, 0.0, 1e-5)
                .because("a mode keeps all but sigma^2 / lambda, at most 1e-6"),
            Evidence::new("high noise: squared noise times fields against the covariance, relative", high, 0.0, 1e-5)
                .because("a mode's gain is its variance over squared noise up to 1e-6"),
            Evidence::new(
                "radius of the filter's field at noise 2 / of the power law's",
                super::denoising::at(&sigmas, &radius, 2.0) / super::denoising::at(&sigmas, &power_law, 2.0),
                1.0,
                0.3,
            )
            .because("the fitted law has slope 2 where photographs are a little steeper: a third is taken as agreement"),
        ];
        Ok(Self { count: data.nrows(), rows, sigmas, radius, power_law, evidence })
    }
}

/// Root mean square distance from the centre, weighted by the squared weights.
fn radius(field: ArrayView1<f64>, [row, column]: [usize; 2], side: usize) -> f64 {
    let distance = |i: usize| {
        (i / side).abs_diff(row).pow(2) as f64 + (i % side).abs_diff(column).pow(2) as f64
    };
    let sum = |of: &dyn Fn(usize) -> f64| {
        field.iter().enumerate().map(|(i, w)| w * w * of(i)).sum::<f64>()
    };
    (sum(&distance) / sum(&|_| 1.0)).sqrt()
}

/// Regression of pixels on the noised patch from the data themselves: no eigenvectors.
fn solved(data: &Array2<f64>, pixels: &[usize], sigma: f64) -> Array2<f64> {
    let (n, d) = data.dim();
    let mean: Array1<f64> =
        data.rows().into_iter().fold(Array1::zeros(d), |sum, row| sum + row) / n as f64;
    let centred = data - &mean;
    let cov = centred.t().dot(&centred) / n as f64;
    let state =
        DMatrix::from_fn(d, d, |i, j| cov[[i, j]] + if i == j { sigma * sigma } else { 0.0 });
    let factor = state.cholesky().expect("positive definite with noise");
    let mut out = Array2::zeros((pixels.len(), d));
    for (mut out, &pixel) in out.rows_mut().into_iter().zip(pixels) {
        let weights = factor.solve(&DVector::from_fn(d, |i, _| cov[[i, pixel]]));
        out.iter_mut().zip(&weights).for_each(|(out, w)| *out = *w);
    }
    out
}
