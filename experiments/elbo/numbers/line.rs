//! A Gaussian mixture on a line with all that its noised marginals know, on a grid of states.

use ndarray::{Array1, Array2, array};
use serde::{Deserialize, Serialize};
use std::f64::consts::{E, TAU};
use tweedie::diffusion::PathPoint;
use tweedie::error::Result;
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;

/// The mixture.
#[derive(Clone, Debug)]
pub struct Line {
    /// The law.
    pub law: Mixture,
    /// Largest distance of a mean from 0, and the largest deviation of a component.
    reach: (f64, f64),
}

/// `x = x0 + eps / sqrt(snr)` on a grid. The trapezoidal rule converges exponentially for functions
/// that vanish at both ends.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Slice {
    /// Signal-to-noise ratio.
    pub snr: f64,
    /// States.
    pub x: Vec<f64>,
    /// Their weights, density times spacing.
    pub weight: Vec<f64>,
    /// `ln p(x)`.
    pub log_density: Vec<f64>,
    /// `E[x0|x]`.
    pub hat: Vec<f64>,
    /// `Var[x0|x]`.
    pub var: Vec<f64>,
}

/// States of a grid.
const NODES: usize = 801;

impl Line {
    /// From (weight, mean, deviation) of each component.
    pub fn new(parts: &[[f64; 3]]) -> Result<Self> {
        let components = parts
            .iter()
            .map(|p| Gaussian::isotropic(array![p[1]], p[2] * p[2]))
            .collect::<Result<Vec<_>>>()?;
        let law = Mixture::new(parts.iter().map(|p| p[0]).collect(), components)?;
        let largest = |k: usize| parts.iter().map(|p| p[k].abs()).fold(0.0, larger);
        Ok(Self { law, reach: (largest(1), largest(2)) })
    }

    /// `E x0^2`.
    pub fn second_moment(&self) -> f64 {
        Law::cov(&self.law)[[0, 0]] + Law::mean(&self.law)[0].powi(2)
    }

    /// The marginal at this log-SNR, at alpha = 1; `inf` is the data.
    pub fn at(&self, log_snr: f64) -> Result<Slice> {
        self.at_over(log_snr, self.reach.0 + 9.5 * self.reach.1.hypot((-0.5 * log_snr).exp()))
    }

    /// The same on states from `-half` to `half`.
    pub fn at_over(&self, log_snr: f64, half: f64) -> Result<Slice> {
        let sigma = (-0.5 * log_snr).exp();
        let spacing = 2.0 * half / (NODES - 1) as f64;
        let x: Array1<f64> = (0..NODES).map(|k| -half + spacing * k as f64).collect();
        let rows = x.view().insert_axis(ndarray::Axis(1));
        let point = PathPoint::still(1.0, sigma);
        let log_density = self.law.log_density(rows, &point);
        let (hat, var) = if sigma > 0.0 {
            let mut hat = Array2::zeros((NODES, 1));
            tweedie::diffusion::Denoiser::denoise(&self.law, rows, &point, hat.view_mut())?;
            let var = rows
                .rows()
                .into_iter()
                .map(|x| Ok(self.law.posterior_cov(x, &point)?[[0, 0]]))
                .collect::<Result<_>>()?;
            (hat.column(0).to_vec(), var)
        } else {
            (x.to_vec(), vec![0.0; NODES])
        };
        let weight = log_density.iter().map(|l| l.exp() * spacing).collect();
        Ok(Slice {
            snr: log_snr.exp(),
            x: x.to_vec(),
            weight,
            log_density: log_density.to_vec(),
            hat,
            var,
        })
    }
}

impl Slice {
    /// `E f(Var[x0|x])`.
    pub fn mean(&self, f: impl Fn(f64) -> f64) -> f64 {
        self.weight.iter().zip(&self.var).map(|(w, v)| w * f(*v)).sum()
    }

    /// The least error, `E Var[x0|x]`.
    pub fn error(&self) -> f64 {
        self.mean(|v| v)
    }

    /// Differential entropy of x, nats.
    pub fn entropy(&self) -> f64 {
        -self
            .weight
            .iter()
            .zip(&self.log_density)
            .filter(|p| *p.0 > 0.0)
            .map(|(w, l)| w * l)
            .sum::<f64>()
    }

    /// Twice the mutual information of x0 and x, nats: entropy less that of the noise.
    pub fn information(&self) -> f64 {
        2.0 * self.entropy() - (TAU * E / self.snr).ln()
    }
}
