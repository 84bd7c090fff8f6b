//! The Wiener filter beside the empirical denoiser: on patches they know, on others of the same
//! photographs, and on other photographs.

use super::{Effort, Part, Settings, stacked};
use ndarray::{Array2, Axis};
use serde::{Deserialize, Serialize};
use tweedie::diffusion::Denoiser;
use tweedie::diffusion::elbo::mmse;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::exact::mismatch::wiener_risk;
use tweedie::law::empirical::Empirical;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::math::noise::Noise;
use tweedie_nn::data::photographs::Photograph;
use tweedie_report::experiment::{energy, geometric, in_errors, least, level, mean_and_stderr};

/// What a law was made from, as seen from the patch that it denoises.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Deserialize, Serialize)]
pub enum Source {
    /// All patches, this one too.
    Known,
    /// Patches of all photographs, none of those that are denoised.
    OtherPatches,
    /// All patches of the other photographs.
    OtherPhotographs,
}

impl Source {
    /// All, from what knows most.
    pub const ALL: [Self; 3] = [Self::Known, Self::OtherPatches, Self::OtherPhotographs];
}

/// Risks of both denoisers, pictures of what they do, and how filters travel.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Denoising {
    /// Noise levels, ascending.
    pub sigmas: Vec<f64>,
    /// Patches in all, and patches denoised.
    pub sizes: [usize; 2],
    /// For each [`Source`]: mean squared error a pixel of the Wiener filter, in closed form.
    pub wiener: [Vec<f64>; 3],
    /// For each: that of the empirical denoiser, sampled.
    pub empirical: [Vec<f64>; 3],
    /// Mean squared distance a pixel to the nearest patch of other photographs: what recall can't
    /// get below.
    pub nearest: f64,
    /// The clean picture, row-major.
    pub clean: Vec<f64>,
    /// At each noise level: noised, filtered, recalled; each with its mean squared error.
    pub pictures: Vec<[(Vec<f64>, f64); 3]>,
    /// Names of the photographs, and for the filter of each (row) the excess over the least linear
    /// risk on each (column).
    pub transfer: (Vec<String>, Array2<f64>),
    /// Checks.
    pub evidence: Vec<Evidence>,
}

/// Tiles of one photograph, and which of them are denoised.
struct Tiles {
    all: Array2<f64>,
    queries: Array2<f64>,
    others: Array2<f64>,
}

/// Laws that one query meets.
struct Laws {
    wiener: Gaussian,
    empirical: Empirical,
}

impl Laws {
    fn new(patches: Array2<f64>) -> Result<Self> {
        Ok(Self {
            wiener: Gaussian::from_data(patches.view())?,
            empirical: Empirical::new(patches)?,
        })
    }
}

impl Denoising {
    pub(super) fn new(
        settings: &Settings,
        photographs: &[Photograph],
        effort: Effort,
        noise: &Noise,
    ) -> Result<Self> {
        let side = settings.denoise_patch;
        let d = side * side;
        let tiles = tiles(photographs, side, effort.queries)?;
        let apart = |skip: usize| {
            tiles
                .iter()
                .enumerate()
                .filter(move |(k, _)| *k != skip)
                .map(|(_, t)| &t.all)
                .collect::<Vec<_>>()
        };
        let known = Laws::new(stacked(&tiles.iter().map(|t| &t.all).collect::<Vec<_>>()))?;
        let held_out = Laws::new(stacked(&tiles.iter().map(|t| &t.others).collect::<Vec<_>>()))?;
        let elsewhere =
            (0..tiles.len()).map(|k| Laws::new(stacked(&apart(k)))).collect::<Result<Vec<_>>>()?;
        let laws = |source: Source, k: usize| match source {
            Source::Known => &known,
            Source::OtherPatches => &held_out,
            Source::OtherPhotographs => &elsewhere[k],
        };
        let total: usize = tiles.iter().map(|t| t.queries.nrows()).sum();
        let moments = tiles
            .iter()
            .map(|t| Gaussian::from_data(t.queries.view()))
            .collect::<Result<Vec<_>>>()?;

        let sigmas = geometric(settings.sigma_range[0], settings.sigma_range[1], effort.levels);
        let (mut wiener, mut empirical) = ([vec![], vec![], vec![]], [vec![], vec![], vec![]]);
        let (mut farthest, mut behind) = (0.0f64, f64::NEG_INFINITY);
        // Squared errors of recall at the lowest noise, patch by patch, for each source.
        let mut lowest: Vec<Vec<f64>> = Vec::new();
        for &sigma in &sigmas {
            for (source, (wiener, empirical)) in
                Source::ALL.into_iter().zip(wiener.iter_mut().zip(&mut empirical))
            {
                let mut exact = 0.0;
                let (mut filtered, mut recalled) = (Vec::new(), Vec::new());
                for (k, t) in tiles.iter().enumerate() {
                    let law = laws(source, k);
                    exact += wiener_risk(&law.wiener, &moments[k], level(sigma))?
                        * t.queries.nrows() as f64;
                    let errors = |law: &dyn Denoiser| {
                        // Two copies of each patch, with the same noise at every level and for
                        // every law.
                        let copy = |copy: usize| {
                            let mut x = noise.normals((2 * k + copy) as u64, t.queries.raw_dim());
                            x = &t.queries + &(x * sigma);
                            let off = law.denoised(x.view(), &level(sigma))? - &t.queries;
                            Ok(off.map_axis(Axis(1), |e| e.dot(&e)).to_vec())
                        };
                        Ok(copy(0)?.into_iter().zip(copy(1)?).collect::<Vec<(f64, f64)>>())
                    };
                    filtered.extend(errors(&law.wiener)?);
                    recalled.extend(errors(&law.empirical)?);
                }
                let n = total as f64;
                let mean =
                    |pairs: &[(f64, f64)]| pairs.iter().map(|p| 0.5 * (p.0 + p.1)).sum::<f64>() / n;
                // Of the noise alone: the patches are what they are.
                let stderr =
                    filtered.iter().map(|p| (0.5 * (p.0 - p.1)).powi(2)).sum::<f64>().sqrt() / n;
                let z = (mean(&filtered) - exact / n) / stderr;
                farthest = if z.is_nan() { z } else { farthest.max(z.abs()) };
                if source == Source::Known {
                    let lead: Vec<f64> = recalled
                        .iter()
                        .zip(&filtered)
                        .map(|(r, f)| 0.5 * (r.0 + r.1 - f.0 - f.1))
                        .collect();
                    let [mean, stderr] = mean_and_stderr(&lead);
                    behind = larger(behind, mean / stderr);
                }
                if sigma == sigmas[0] {
                    lowest.push(recalled.iter().map(|r| 0.5 * (r.0 + r.1)).collect());
                }
                wiener.push(exact / (n * d as f64));
                empirical.push(mean(&recalled) / d as f64);
            }
        }
        let (mut nearest, mut at_rest) = (0.0, 0.0);
        for (k, t) in tiles.iter().enumerate() {
            let law = &elsewhere[k].empirical;
            let places = law.nearest(t.queries.view(), 1.0);
            nearest += energy(&(law.points().select(Axis(0), &places) - &t.queries));
            at_rest += energy(&(law.denoised(t.queries.view(), &level(1e-5))? - &t.queries));
        }
        let nearest = nearest / (total * d) as f64;
        // Mean square of a pixel of the patches denoised, from the mean of the other photographs.
        let apart = (0..tiles.len())
            .map(|k| energy(&(&tiles[k].queries - &Law::mean(&elsewhere[k].wiener))))
            .sum::<f64>();
        let apart = apart / (total * d) as f64;
        let transfer = transfer(settings, photographs, &tiles)?;
        let (clean, pictures) = pictures(settings, photographs, &elsewhere, &noise.child(0))?;

        let new = 2;
        let off_diagonal = transfer.1.indexed_iter().filter(|((i, j), _)| i != j).map(|(_, v)| *v);
        let own = transfer.1.diag().iter().map(|v| v.abs()).fold(0.0, larger);
        let evidence = vec![
            Evidence::new(
                format!(
                    "Wiener filter's sampled error less its closed form, in standard errors: farthest from 0 of {}",
                    3 * sigmas.len()
                ),
                farthest,
                0.0,
                5.0,
            )
            .because("five standard errors, of the noise alone"),
            Evidence::new(
                "recalled with hardly any noise: error on other photographs / mean distance to the nearest patch",
                at_rest / (total * d) as f64 / nearest,
                1.0,
                1e-9,
            )
            .because("the posterior then is one patch; found by search, without a posterior"),
            Evidence::at_most(
                "known patches: lead of the Wiener filter over recall, largest over the noise levels, in standard errors",
                behind,
                0.0,
                5.0,
            )
            .because(
                "recall is the best denoiser of the law that puts equal weights on all patches; those denoised are a part of them",
            ),
            Evidence::at_most(
                "other photographs, lowest noise: error of the Wiener filter / of leaving the noise where it is",
                wiener[new][0] / sigmas[0].powi(2),
                1.0,
                0.0,
            )
            .because("sigma^2 a pixel is what doing nothing costs"),
            Evidence::at_least(
                "other photographs, lowest noise: error of recall / of leaving the noise where it is",
                empirical[new][0] / sigmas[0].powi(2),
                1.0,
                0.0,
            )
            .because("likewise: recall does harm"),
            Evidence::at_least(
                "recall at the lowest noise: error on other photographs less that on other patches of the same, in standard errors",
                in_errors(lowest[new].iter().zip(&lowest[1]).map(|(other, same)| other - same)),
                2.0,
                0.0,
            )
            .because(format!("two standard errors, of {total} patches with the same noise")),
            Evidence::at_most(
                "Wiener filter at the level of the table, moments of other photographs: error / that of the best filter of one number",
                at(&sigmas, &wiener[new], settings.transfer_sigma) / mmse(apart, (1.0, settings.transfer_sigma)),
                1.0,
                0.0,
            )
            .because("which knows how far these very patches lie from the mean, and nothing of neighbours"),
            Evidence::at_least(
                "smallest excess of a foreign filter over a photograph's own",
                least(off_diagonal),
                0.0,
                1e-12,
            )
            .because("no linear filter is better than the one of the right moments"),
            Evidence::new("excess of each photograph's own filter over the sum of its modes' errors, largest", own, 0.0, 1e-12)
                .because("sums of 64 numbers of one sign"),
        ];
        Ok(Self {
            sizes: [known.empirical.points().nrows(), total],
            sigmas,
            wiener,
            empirical,
            nearest,
            clean,
            pictures,
            transfer,
            evidence,
        })
    }

    /// Noise levels, ascending, at which the Wiener filter has the smaller error on other
    /// photographs.
    pub fn filter_wins(&self) -> Vec<f64> {
        let [.., filtered] = &self.wiener;
        let [.., recalled] = &self.empirical;
        let rows = self.sigmas.iter().zip(filtered.iter().zip(recalled));
        rows.filter(|(_, (f, r))| f < r).map(|(s, _)| *s).collect()
    }
}

/// Value of a curve at a noise level, between its points on a line in both logarithms.
pub(super) fn at(sigmas: &[f64], curve: &[f64], sigma: f64) -> f64 {
    let k = sigmas.partition_point(|s| *s < sigma).clamp(1, sigmas.len() - 1);
    let u = (sigma / sigmas[k - 1]).ln() / (sigmas[k] / sigmas[k - 1]).ln();
    curve[k - 1] * (curve[k] / curve[k - 1]).powf(u)
}

/// Tiles of each photograph; of all of them in a row, evenly spaced ones are denoised, about
/// `queries` a photograph.
fn tiles(photographs: &[Photograph], side: usize, queries: usize) -> Result<Vec<Tiles>> {
    let all = photographs.iter().map(|p| p.windows(side, side)).collect::<Result<Vec<_>>>()?;
    let every =
        (all.iter().map(Array2::nrows).sum::<usize>() / (queries * photographs.len())).max(2);
    let mut before = 0;
    let split = all.into_iter().map(|all| {
        let (asked, rest): (Vec<usize>, Vec<usize>) =
            (0..all.nrows()).partition(|i| (before + i) % every == every / 2);
        before += all.nrows();
        Tiles { queries: all.select(Axis(0), &asked), others: all.select(Axis(0), &rest), all }
    });
    Ok(split.collect())
}

/// Excess over the least linear risk of each photograph's filter on each photograph.
fn transfer(
    settings: &Settings,
    photographs: &[Photograph],
    tiles: &[Tiles],
) -> Result<(Vec<String>, Array2<f64>)> {
    let laws =
        tiles.iter().map(|t| Gaussian::from_data(t.all.view())).collect::<Result<Vec<_>>>()?;
    let at = level(settings.transfer_sigma);
    let mut excess = Array2::zeros((laws.len(), laws.len()));
    for (i, model) in laws.iter().enumerate() {
        for (j, data) in laws.iter().enumerate() {
            let least: f64 = data.variances().iter().map(|l| mmse(*l, (1.0, at.sigma))).sum();
            excess[[i, j]] = wiener_risk(model, data, at)? / least - 1.0;
        }
    }
    Ok((photographs.iter().map(|p| p.name.to_string()).collect(), excess))
}

type Noised = [(Vec<f64>, f64); 3];

/// A part of a photograph, noised and denoised tile by tile by laws of the other photographs.
fn pictures(
    settings: &Settings,
    photographs: &[Photograph],
    elsewhere: &[Laws],
    noise: &Noise,
) -> Result<(Vec<f64>, Vec<Noised>)> {
    let s = settings;
    let part =
        Part::new(photographs, &s.picture_of, s.picture_corner, s.picture_side, s.denoise_patch)?;
    let eps = noise.normals(0, part.tiles.raw_dim());
    let noised = |sigma: &f64| {
        let x = &part.tiles + &(&eps * *sigma);
        let by = |law: &dyn Denoiser| Ok(part.whole(&law.denoised(x.view(), &level(*sigma))?));
        Ok([
            part.whole(&x),
            by(&elsewhere[part.photograph].wiener)?,
            by(&elsewhere[part.photograph].empirical)?,
        ])
    };
    let noised = s.picture_sigmas.iter().map(noised).collect::<Result<_>>()?;
    Ok((part.clean.iter().copied().collect(), noised))
}
