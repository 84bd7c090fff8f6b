//! A mixture in the plane: the tilted law and the law that guidance produces, both as densities.

use super::{
    Effort, PlaneSettings, Settings, farthest, geometric, in_errors, least, level, mean_and_stderr,
    squares,
};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, array, s};
use rayon::prelude::*;
use serde::{Deserialize, Serialize};
use std::f64::consts::TAU;
use tweedie::diffusion::{Denoiser, PathPoint};
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::pf_ode::pf_ode_solve;
use tweedie::law::conditional::{ClassifierGuided, Guided};
use tweedie::law::mixture::Mixture;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie::sample::noise_source::standard_start;

/// Which component of the mixture is asked for.
const CLASS: usize = 0;
/// Half the distance over which the flow is differentiated.
const NEAR: f64 = 1e-4;

/// The two laws of one scale at one noise level, as densities at the centres of pixels, top row
/// first.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Map {
    /// Scale.
    pub scale: f64,
    /// Noise level.
    pub sigma: f64,
    /// The tilted law, normalised.
    pub tilted: Vec<f64>,
    /// The produced one, as the flow gives it.
    pub produced: Vec<f64>,
    /// Area of a pixel.
    pub area: f64,
    /// Share that lies in the near part (nearest to the class's second mean) of the tilted and of
    /// the produced law.
    pub shares: [f64; 2],
}

impl Map {
    /// Half the integral of `|tilted - produced|`: the least share of samples that would have to be
    /// moved.
    pub fn total_variation(&self) -> f64 {
        0.5 * self.area
            * self.tilted.iter().zip(&self.produced).map(|(t, p)| (t - p).abs()).sum::<f64>()
    }

    /// How far the produced density is off at least: what its mass lacks of 1.
    fn unsure(&self) -> f64 {
        (self.mass() - 1.0).abs()
    }

    /// Integral of the produced density over the picture.
    pub fn mass(&self) -> f64 {
        self.area * self.produced.iter().sum::<f64>()
    }
}

/// What a scale costs and buys.
#[derive(Clone, Debug, Default, Deserialize, Serialize)]
pub struct Price {
    /// Scales.
    pub scales: Vec<f64>,
    /// `-E ln p(c | x)` under the tilted and under the produced law.
    pub doubt: [Vec<f64>; 2],
    /// `E ln p(x)`.
    pub likelihood: [Vec<f64>; 2],
    /// Root mean square distance from the mean.
    pub spread: [Vec<f64>; 2],
    /// Share in the near part.
    pub near: [Vec<f64>; 2],
}

/// The numbers of the plane.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Plane {
    /// `p(x)` and `p(c | x)` of noised states by noise level, at pixels of the picture stretched by
    /// `sqrt(1 + sigma^2)`.
    pub classifier: Vec<(f64, Vec<f64>, Vec<f64>)>,
    /// The scales' two laws at the lowest noise level.
    pub maps: Vec<Map>,
    /// One scale's two laws at falling noise levels, stretched likewise.
    pub levels: Vec<Map>,
    /// Trajectories of w = 1 and of the largest scale of the pictures, divided by
    /// `sqrt(1 + sigma^2)`, each (points, 2).
    pub trajectories: [Vec<Array2<f64>>; 2],
    /// Price of the scales.
    pub price: Price,
    /// Checks.
    pub evidence: Vec<Evidence>,
    /// Checks of the price.
    pub price_evidence: Vec<Evidence>,
}

/// What all parts share.
struct Scene<'a> {
    settings: &'a PlaneSettings,
    law: Mixture<Mixture>,
    pixels: usize,
    steps: usize,
}

impl Plane {
    pub(super) fn new(settings: &Settings, effort: Effort, noise: &Noise) -> Result<Self> {
        let s = &settings.plane;
        let scene = Scene {
            settings: s,
            law: mixture(s)?,
            pixels: effort.pixels,
            steps: effort.flow_steps,
        };
        let low = s.range[0];
        let classifier = s.classifier_levels.iter().map(|sigma| scene.classifier(*sigma)).collect();
        let maps =
            settings.scales.par_iter().map(|w| scene.map(*w, low)).collect::<Result<Vec<_>>>()?;
        let levels = s
            .levels
            .par_iter()
            .map(|sigma| scene.map(s.level_scale, *sigma))
            .collect::<Result<Vec<_>>>()?;
        let start = standard_start(noise, effort.draws, 2) * s.range[1];
        let largest = settings.scales[settings.scales.len() - 1];
        let few = start.slice(s![..s.trajectories, ..]).to_owned();
        let trajectories = [scene.paths(1.0, few.clone())?, scene.paths(largest, few)?];
        let scales: Vec<f64> = (0..=(s.largest / s.scale_step).round() as usize)
            .map(|k| k as f64 * s.scale_step)
            .collect();
        let ends = scales
            .par_iter()
            .map(|w| scene.draws(*w, start.clone()))
            .collect::<Result<Vec<_>>>()?;
        let price = scene.price(&scales, &ends)?;

        let mut evidence =
            vec![scene.identity(noise)?, scene.tilted_score(noise)?, scene.flow(&start)?];
        for map in &maps {
            let why = "pixels, and what lies outside of the picture";
            evidence.push(
                Evidence::new(
                    format!("w = {}: mass of the produced density in the picture", map.scale),
                    map.mass(),
                    1.0,
                    0.01,
                )
                .because(why),
            );
        }
        for map in maps.iter().filter(|m| m.scale <= 1.0) {
            let what =
                format!("w = {}: total variation between tilted and produced law", map.scale);
            evidence.push(
                Evidence::new(what, map.total_variation(), 0.0, 0.005)
                    .because("pixels, and a flow of finite steps"),
            );
        }
        let guided: Vec<&Map> = maps.iter().filter(|m| m.scale >= 1.0).collect();
        evidence.push(parting(
            "from w = 1 on: least growth of the total variation from scale to scale".into(),
            &guided,
        ));
        let what = format!(
            "w = {}: least growth of the total variation from level to lower level",
            s.level_scale
        );
        evidence.push(parting(what, &levels.iter().collect::<Vec<_>>()));
        let end =
            &ends[scales.iter().position(|w| *w >= largest - 1e-9).unwrap_or(scales.len() - 1)];
        let got = end.rows().into_iter().filter(|x| scene.is_near(*x)).count() as f64
            / end.nrows() as f64;
        let map = &maps[maps.len() - 1];
        let [tilted, share] = map.shares;
        let stderr = (share * (1.0 - share) / end.nrows() as f64).sqrt();
        let what = format!("w = {largest}: share of draws in the near part, against the density's");
        evidence.push(
            Evidence::new(what, got, share, 4.0 * stderr + 0.01)
                .because("4 standard errors, and pixels"),
        );
        let what = format!(
            "w = {largest}: total variation, against what the near part of the draws lacks of the tilted law's"
        );
        evidence.push(
            Evidence::at_least(what, map.total_variation(), (tilted - got).abs(), 4.0 * stderr + map.unsure())
                .because("no event differs by more; 4 standard errors, and what the density's mass lacks of 1"),
        );
        let price_evidence = scene.price_evidence(&price, &ends, &noise.child(0))?;
        Ok(Self { classifier, maps, levels, trajectories, price, evidence, price_evidence })
    }
}

fn mixture(s: &PlaneSettings) -> Result<Mixture<Mixture>> {
    let pair = |means: &[[f64; 2]; 2]| {
        let parts =
            means.iter().map(|m| Gaussian::isotropic(Array1::from(m.to_vec()), s.std * s.std));
        Mixture::new(array![1.0, 1.0], parts.collect::<Result<Vec<_>>>()?)
    };
    Mixture::new(array![1.0, 1.0], vec![pair(&s.class)?, pair(&s.others)?])
}

/// States carried along `dx / d ln sigma = x - D(x, sigma)` over noise levels in equal ratios, up
/// or down, by the classical Runge-Kutta method; `see` is shown every state.
fn carried(
    model: &dyn Denoiser,
    mut x: Array2<f64>,
    sigmas: &[f64],
    mut see: impl FnMut(f64, &Array2<f64>),
) -> Result<Array2<f64>> {
    let slope = |x: &Array2<f64>, sigma: f64| Ok(x - &model.denoised(x.view(), &level(sigma))?);
    see(sigmas[0], &x);
    for pair in sigmas.windows(2) {
        let (from, to) = (pair[0], pair[1]);
        let (h, middle) = ((to / from).ln(), (from * to).sqrt());
        let k1 = slope(&x, from)?;
        let k2 = slope(&(&x + &(&k1 * (0.5 * h))), middle)?;
        let k3 = slope(&(&x + &(&k2 * (0.5 * h))), middle)?;
        let k4 = slope(&(&x + &(&k3 * h)), to)?;
        x = x + (k1 + (k2 + k3) * 2.0 + k4) * (h / 6.0);
        see(to, &x);
    }
    Ok(x)
}

impl Scene<'_> {
    fn class(&self) -> Result<&Mixture> {
        self.law.class(CLASS)
    }

    fn guided(&self, w: f64) -> Result<Guided<'_>> {
        Guided::new(self.class()?, &self.law, w)
    }

    /// Centres of the pixels, stretched with the noised law, and the area of one.
    fn lattice(&self, sigma: f64) -> (Array2<f64>, f64) {
        let (n, half) = (self.pixels, self.settings.half_width * sigma.hypot(1.0));
        let side = 2.0 * half / n as f64;
        let at = |k: usize| (k as f64 + 0.5) * side - half;
        let points =
            Array2::from_shape_fn((n * n, 2), |(i, j)| if j == 0 { at(i % n) } else { -at(i / n) });
        (points, side * side)
    }

    /// `ln p(x_t) + w ln p(c | x_t)`.
    fn log_tilted(&self, w: f64, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
        self.law.log_density(x, at)
            + self.law.log_responsibilities(x, at).column(CLASS).mapv(|l| w * l)
    }

    fn classifier(&self, sigma: f64) -> (f64, Vec<f64>, Vec<f64>) {
        let (x, _) = self.lattice(sigma);
        let density = self.law.log_density(x.view(), &level(sigma)).mapv(f64::exp);
        (
            sigma,
            density.to_vec(),
            self.law.responsibilities(x.view(), &level(sigma)).column(CLASS).to_vec(),
        )
    }

    fn sigmas(&self, from: f64, to: f64) -> Vec<f64> {
        let [low, high] = self.settings.range;
        let part = (to / from).ln().abs() / (high / low).ln();
        geometric(from, to, ((self.steps as f64 * part).ceil() as usize).max(4) + 1)
    }

    /// Whether the nearest of the four means is the class's second, the one nearest to the others.
    fn is_near(&self, x: ArrayView1<f64>) -> bool {
        let away = |m: &[f64; 2]| (x[0] - m[0]).hypot(x[1] - m[1]);
        let [first, second] = &self.settings.class;
        self.settings.others.iter().chain([first]).all(|m| away(second) < away(m))
    }

    fn map(&self, scale: f64, sigma: f64) -> Result<Map> {
        let (x, area) = self.lattice(sigma);
        let log = self.log_tilted(scale, x.view(), &level(sigma));
        let largest = log.iter().copied().fold(f64::NEG_INFINITY, larger);
        let mut tilted = log.mapv(|l| (l - largest).exp());
        tilted /= tilted.sum() * area;
        let produced = self.produced(scale, sigma, &x)?;
        let share = |density: &[f64]| {
            let near = x.rows().into_iter().zip(density).filter(|(x, _)| self.is_near(*x));
            near.map(|(_, p)| p).sum::<f64>() / density.iter().sum::<f64>()
        };
        let tilted = tilted.to_vec();
        let shares = [share(&tilted), share(&produced)];
        Ok(Map { scale, sigma, tilted, produced, area, shares })
    }

    /// Density of the guided flow's states: that of pure noise where the flow comes from, times its
    /// stretching, by central differences.
    fn produced(&self, scale: f64, sigma: f64, x: &Array2<f64>) -> Result<Vec<f64>> {
        let (n, high) = (x.nrows(), self.settings.range[1]);
        let h = NEAR * sigma.hypot(1.0);
        let mut around = Array2::zeros((4 * n, 2));
        for (k, step) in [[h, 0.0], [-h, 0.0], [0.0, h], [0.0, -h]].into_iter().enumerate() {
            around
                .slice_mut(s![k * n..(k + 1) * n, ..])
                .assign(&(x + &Array1::from(step.to_vec())));
        }
        let from = carried(&self.guided(scale)?, around, &self.sigmas(sigma, high), |_, _| {})?;
        let density = (0..n).map(|i| {
            let [e, w, u, d] = [0, 1, 2, 3].map(|k| [from[[k * n + i, 0]], from[[k * n + i, 1]]]);
            let det =
                ((e[0] - w[0]) * (u[1] - d[1]) - (e[1] - w[1]) * (u[0] - d[0])) / (4.0 * h * h);
            let middle = [0, 1].map(|j| 0.25 * (e[j] + w[j] + u[j] + d[j]) / high);
            let p = (-0.5 * (middle[0] * middle[0] + middle[1] * middle[1])).exp()
                / (TAU * high * high)
                * det.abs();
            // Far off the flow's image the way back leaves every bound.
            if p.is_finite() { p } else { 0.0 }
        });
        Ok(density.collect())
    }

    fn draws(&self, scale: f64, start: Array2<f64>) -> Result<Array2<f64>> {
        let [low, high] = self.settings.range;
        carried(&self.guided(scale)?, start, &self.sigmas(high, low), |_, _| {})
    }

    fn paths(&self, scale: f64, start: Array2<f64>) -> Result<Vec<Array2<f64>>> {
        let [low, high] = self.settings.range;
        let mut states = Vec::new();
        carried(&self.guided(scale)?, start.clone(), &self.sigmas(high, low), |sigma, x| {
            states.push(x / sigma.hypot(1.0))
        })?;
        let path = |i: usize| Array2::from_shape_fn((states.len(), 2), |(k, j)| states[k][[i, j]]);
        Ok((0..start.nrows()).map(path).collect())
    }

    fn price(&self, scales: &[f64], ends: &[Array2<f64>]) -> Result<Price> {
        let at = level(self.settings.range[0]);
        let (lattice, _) = self.lattice(at.sigma);
        let classified =
            |x: ArrayView2<f64>| self.law.log_responsibilities(x, &at).column(CLASS).to_owned();
        let mut price = Price { scales: scales.to_vec(), ..Price::default() };
        for (w, end) in scales.iter().zip(ends) {
            let log = self.log_tilted(*w, lattice.view(), &at);
            let largest = log.iter().copied().fold(f64::NEG_INFINITY, larger);
            let density = log.mapv(|l| (l - largest).exp());
            let share = &density / density.sum();
            let even = Array1::from_elem(end.nrows(), 1.0 / end.nrows() as f64);
            for (k, (x, share)) in
                [(lattice.view(), &share), (end.view(), &even)].into_iter().enumerate()
            {
                price.doubt[k].push(-share.dot(&classified(x)));
                price.likelihood[k].push(share.dot(&self.law.log_density(x, &at)));
                let mean = share.dot(&x);
                let square: f64 = x
                    .axis_iter(Axis(0))
                    .zip(share)
                    .map(|(x, p)| p * (&x - &mean).mapv(|v| v * v).sum())
                    .sum();
                price.spread[k].push(square.sqrt());
                price.near[k].push(
                    x.rows()
                        .into_iter()
                        .zip(share)
                        .filter(|(x, _)| self.is_near(*x))
                        .map(|(_, p)| p)
                        .sum(),
                );
            }
        }
        Ok(price)
    }

    /// Classifier guidance with the exact noisy classifier, against classifier-free guidance.
    fn identity(&self, noise: &Noise) -> Result<Evidence> {
        let gradient = |x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>| {
            self.law.classifier_score(CLASS, x, at, out)
        };
        let x = standard_start(noise, 256, 2) * 2.0;
        let (free, classifier) =
            (self.guided(4.0)?, ClassifierGuided::new(&self.law, gradient, 4.0)?);
        let gap = |sigma: f64| {
            let gap = free.denoised(x.view(), &level(sigma))?
                - classifier.denoised(x.view(), &level(sigma))?;
            Ok(gap.iter().map(|v| v.abs()).fold(0.0, larger))
        };
        let gaps = [0.2, 1.0, 5.0].into_iter().map(gap).collect::<Result<Vec<f64>>>()?;
        let gap = gaps.into_iter().fold(0.0, larger);
        let what = "classifier-free against classifier guidance with p(c|x_t) by Bayes' rule, w = 4: largest gap of the denoisers";
        Ok(Evidence::new(what, gap, 0.0, 1e-12).because("rounding of numbers of size 10, times w"))
    }

    /// The guided score, against differences of the tilted log density.
    fn tilted_score(&self, noise: &Noise) -> Result<Evidence> {
        let (x, w, h) = (standard_start(noise, 64, 2) * 1.5, 4.0, 1e-5);
        let guided = self.guided(w)?;
        let gap = |sigma: f64| {
            let at = level(sigma);
            let score = (guided.denoised(x.view(), &at)? - &x) / (sigma * sigma);
            let along = |j: usize| {
                let moved = |step: f64| {
                    let mut x = x.clone();
                    x.column_mut(j).mapv_inplace(|v| v + step);
                    self.log_tilted(w, x.view(), &at)
                };
                let gap = (moved(h) - moved(-h)) / (2.0 * h) - score.column(j);
                gap.iter().map(|v| v.abs()).fold(0.0, larger)
            };
            Ok(along(0).max(along(1)))
        };
        let gaps = [0.5, 1.0, 5.0].into_iter().map(gap).collect::<Result<Vec<f64>>>()?;
        let gap = gaps.into_iter().fold(0.0, larger);
        let what =
            "guided score against differences of ln p(x_t) + w ln p(c|x_t), w = 4: largest gap";
        Ok(Evidence::new(what, gap, 0.0, 1e-7).because("numbers of size 100 differenced over 1e-5"))
    }

    /// The Runge-Kutta flow of w = 1, against the reference integrator on the class.
    fn flow(&self, start: &Array2<f64>) -> Result<Evidence> {
        let [low, high] = self.settings.range;
        let few = start.slice(s![..32, ..]);
        let got = self.draws(1.0, few.to_owned())?;
        let want = pf_ode_solve(self.class()?, few, &[level(high), level(low)])?.swap_remove(1);
        let gap = (got - want).iter().map(|v| v.abs()).fold(0.0, larger);
        let what =
            "w = 1: end of the flow against the reference integrator on the class, largest gap";
        // Fourth order: the error per unit of ln sigma is of the step's fourth power.
        let tol = 2.0 * ((high / low).ln() / self.steps as f64).powi(4);
        Ok(Evidence::new(what, gap, 0.0, tol).because("2 h⁴, the method's order"))
    }

    /// How alignment and diversity go with the scale from w = 1 on: the tilted law by identities of
    /// its own, the produced one by pairs of draws from the same starts.
    fn price_evidence(
        &self,
        price: &Price,
        ends: &[Array2<f64>],
        noise: &Noise,
    ) -> Result<Vec<Evidence>> {
        let at = level(self.settings.range[0]);
        let from_one: Vec<usize> =
            (0..price.scales.len()).filter(|k| price.scales[*k] >= 1.0).collect();
        let (first, last) = (from_one[0], from_one[from_one.len() - 1]);
        let (largest, draws) = (price.scales[last], ends[last].nrows());
        let classified =
            |x: ArrayView2<f64>| self.law.log_responsibilities(x, &at).column(CLASS).to_owned();

        // The tilted laws are an exponential family: with the scale the mean of ln p(c | x) rises
        // by its variance.
        let (lattice, _) = self.lattice(at.sigma);
        let logs = classified(lattice.view());
        let moments = |w: f64| {
            let log = self.log_tilted(w, lattice.view(), &at);
            let most = log.iter().copied().fold(f64::NEG_INFINITY, larger);
            let share = log.mapv(|l| (l - most).exp());
            let share = &share / share.sum();
            let mean = share.dot(&logs);
            (mean, share.dot(&logs.mapv(|l| (l - mean).powi(2))))
        };
        let h = 1e-3;
        let rate = from_one.iter().map(|k| {
            let w = price.scales[*k];
            (moments(w + h).0 - moments(w - h).0) / (2.0 * h) / moments(w).1 - 1.0
        });

        // The class's own draws, weighed: `p(x) p(c | x)^w` is `p(x | c) p(c | x)^(w - 1)`, but for
        // a factor.
        let own = Law::sample(self.class()?, draws, noise)
            + noise.child(1).normals(0, (draws, 2)) * at.sigma;
        let weight = classified(own.view()).mapv(|l| ((largest - 1.0) * l).exp());
        let weight = &weight * (draws as f64 / weight.sum());
        let centre = weight.dot(&own) / draws as f64;
        let far = Array1::from(squares(&(&own - &centre)));
        let weighed = weight.dot(&far) / draws as f64;
        let residuals = (&far - weighed) * &weight;
        let stderr = residuals.dot(&residuals).sqrt() / draws as f64;
        let tilted = price.spread[0][last].powi(2);

        let doubts: Vec<Vec<f64>> =
            ends.iter().map(|x| classified(x.view()).mapv(|l| -l).to_vec()).collect();
        let spreads: Vec<Vec<f64>> = ends
            .iter()
            .map(|x| squares(&(x - &x.mean_axis(Axis(0)).unwrap_or_default())))
            .collect();
        let falls = |of: &[Vec<f64>]| {
            least(from_one.windows(2).map(|p| {
                in_errors(of[p[0]].iter().zip(&of[p[1]]).map(|(before, after)| before - after))
            }))
        };
        let pairs = format!("three standard errors, of {draws} pairs from the same noise");
        let [produced, error] = mean_and_stderr(&spreads[last]);
        Ok(vec![
            Evidence::new(
                "tilted law: fall of the doubt with the scale over the variance of ln p(c | x), less 1, worst scale",
                farthest(rate),
                0.0,
                1e-4,
            )
            .because("an exponential family in w; differences over 2e-3"),
            Evidence::at_least(
                "produced law: share of the draws whose doubt falls from scale to scale from w = 1 on, the least",
                least(from_one.windows(2).map(|p| {
                    let fallen = doubts[p[0]].iter().zip(&doubts[p[1]]).filter(|(before, after)| after < before);
                    fallen.count() as f64 / draws as f64
                })),
                0.5 + 1.5 / (draws as f64).sqrt(),
                0.0,
            )
            .because(format!("a half and three standard errors of a half, of {draws} pairs from the same noise")),
            Evidence::at_least(
                "produced law: fall of the squared spread from scale to scale from w = 1 on, the least, in standard errors",
                falls(&spreads),
                3.0,
                0.0,
            )
            .because(&pairs),
            Evidence::new(
                format!("w = {largest}: squared spread of the tilted law, by pixels against {draws} weighed draws of the class"),
                tilted,
                weighed,
                5.0 * stderr,
            )
            .because("five standard errors"),
            Evidence::at_most(
                format!("w = {largest}: squared spread of the draws, over that of w = 1; the tilted law's is the bound"),
                produced / price.spread[1][first].powi(2),
                (tilted - 5.0 * error) / price.spread[0][first].powi(2),
                0.0,
            )
            .because("less by more than five standard errors"),
        ])
    }
}

/// That the total variation grows from each map to the next, by more than their densities are off.
fn parting(what: String, maps: &[&Map]) -> Evidence {
    let growth = maps.windows(2).map(|p| p[1].total_variation() - p[0].total_variation());
    let unsure = farthest(maps.windows(2).map(|p| p[0].unsure() + p[1].unsure()));
    Evidence::at_least(what, least(growth), unsure, 0.0)
        .because("more than the masses of the two densities lack of 1")
}
