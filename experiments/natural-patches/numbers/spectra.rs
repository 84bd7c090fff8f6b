//! Power by spatial frequency, and the principal components that go with it.

use super::{Settings, stacked, windows};
use ndarray::{Array2, ArrayView2, Axis, s};
use serde::{Deserialize, Serialize};
use std::f64::consts::PI;
use tweedie::error::Result;
use tweedie::evidence::Evidence;
use tweedie::law::random_field::RandomField;
use tweedie::law::{Gaussian, Law};
use tweedie::math::larger;
use tweedie::math::matmul::matmul;
use tweedie::math::noise::Noise;
use tweedie_nn::data::photographs::Photograph;
use tweedie_report::experiment::{least, mean_and_stderr};

/// The orthonormal cosine basis of an interval of n pixels, a wave in each row (DCT-II, JPEG's).
///
/// Even about both ends, it sees no jump where a photograph's opposite borders meet, as a Fourier
/// transform would.
fn cosines(n: usize) -> Array2<f64> {
    let scale = |k: usize| if k == 0 { 1.0 / n as f64 } else { 2.0 / n as f64 };
    Array2::from_shape_fn((n, n), |(k, i)| {
        scale(k).sqrt() * (PI * k as f64 * (i as f64 + 0.5) / n as f64).cos()
    })
}

/// Frequency of the product of cosines k and l, in cycles a pixel.
fn frequency(k: usize, l: usize, n: usize) -> f64 {
    (k as f64).hypot(l as f64) / (2 * n) as f64
}

/// Coefficients of a square image, shape (n, n).
fn transformed(basis: &Array2<f64>, image: ArrayView2<f64>) -> Array2<f64> {
    let (mut half, mut out) = (Array2::zeros(image.raw_dim()), Array2::zeros(image.raw_dim()));
    matmul(1.0, basis.view(), image, 0.0, half.view_mut());
    matmul(1.0, half.view(), basis.t(), 0.0, out.view_mut());
    out
}

/// Power against spatial frequency.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Spectra {
    /// Of each photograph: its name, mean frequency and mean power of each bin, and the fitted
    /// slope.
    pub photographs: Vec<(String, Vec<f64>, Vec<f64>, f64)>,
    /// Mean over the photographs of their power over their variance, at the frequencies of the
    /// first, and its fitted slope.
    pub mean: (Vec<f64>, Vec<f64>, f64),
    /// The line fitted to that.
    pub(super) line: Fit,
    /// `a` of the power law `a / f^2` nearest to the photographs' mean power.
    pub scale: f64,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Spectra {
    pub(super) fn new(
        settings: &Settings,
        photographs: &[Photograph],
        noise: &Noise,
    ) -> Result<Self> {
        let n = settings.spectrum_side;
        let basis = cosines(n);
        // Mean power of a coefficient over the squares of an image, in each bin.
        let power = |squares: &Array2<f64>| {
            let mut power = Array2::<f64>::zeros((n, n));
            for square in squares.rows() {
                let image = square.to_shape((n, n)).expect("a square").to_owned();
                power += &transformed(&basis, image.view()).mapv(|c| c * c);
            }
            power / squares.nrows() as f64
        };
        let (mut of, mut parseval) = (Vec::new(), 0.0f64);
        for p in photographs {
            let squares = p.windows(n, n)?;
            let power = power(&squares);
            let energy = squares.iter().map(|v| v * v).sum::<f64>() / squares.nrows() as f64;
            parseval = larger(parseval, (power.sum() / energy - 1.0).abs());
            let (f, mean) = binned(&power, settings.bins);
            let slope = fitted(&f, &mean, settings.fit_range).slope;
            of.push((p.name.to_string(), f, mean, slope));
        }
        let count = of.len() as f64;
        let mean: Vec<f64> =
            (0..of[0].1.len()).map(|b| of.iter().map(|o| o.2[b]).sum::<f64>() / count).collect();
        let line = fitted(&of[0].1, &mean, settings.fit_range);
        let within: Vec<usize> =
            (0..mean.len()).filter(|b| inside(of[0].1[*b], settings.fit_range)).collect();
        let scale = (within.iter().map(|b| (mean[*b] * of[0].1[*b].powi(2)).ln()).sum::<f64>()
            / within.len() as f64)
            .exp();

        // The same estimate on fields whose slope is known.
        let field = RandomField::power_law(2 * n, 2 * n, 0.0, 2.0, 1.0, 0.0)?;
        let slopes: Vec<f64> = field
            .sample(settings.fields, noise)
            .rows()
            .into_iter()
            .map(|row| {
                let image =
                    row.to_shape((2 * n, 2 * n)).expect("a field").slice(s![..n, ..n]).to_owned();
                let (f, mean) =
                    binned(&transformed(&basis, image.view()).mapv(|c| c * c), settings.bins);
                fitted(&f, &mean, settings.fit_range).slope
            })
            .collect();
        let [known, stderr] = mean_and_stderr(&slopes);
        let evidence = vec![
            Evidence::new(
                "sum of all power / sum of the squared pixels, farthest from 1 over the photographs",
                parseval,
                0.0,
                1e-12,
            )
            .because("the basis is orthonormal: sums of 16,384 numbers of one sign"),
            Evidence::new(format!("slope fitted to {} random fields of slope 2", settings.fields), known, 2.0, 0.1 + 5.0 * stderr)
                .because("five standard errors, and a tenth for power that leaks to higher frequencies"),
        ];
        Ok(Self {
            mean: (of[0].1.clone(), mean, line.slope),
            line,
            photographs: of,
            scale,
            evidence,
        })
    }
}

/// Mean frequency and mean power in bins of equal ratios, from the lowest to 1/2 cycle a pixel;
/// without the constant.
fn binned(power: &Array2<f64>, bins: usize) -> (Vec<f64>, Vec<f64>) {
    let n = power.nrows();
    let (lo, hi) = (frequency(0, 1, n), 0.5f64);
    let mut sums = vec![(0.0, 0.0, 0.0); bins];
    for ((k, l), p) in power.indexed_iter() {
        let f = frequency(k, l, n);
        if f >= lo && f < hi {
            let bin = &mut sums[((f / lo).ln() / (hi / lo).ln() * bins as f64) as usize];
            *bin = (bin.0 + f, bin.1 + p, bin.2 + 1.0);
        }
    }
    sums.iter().filter(|b| b.2 > 0.0).map(|b| (b.0 / b.2, b.1 / b.2)).unzip()
}

fn inside(f: f64, [lo, hi]: [f64; 2]) -> bool {
    (lo..=hi).contains(&f)
}

/// Least-squares line through ln power over ln frequency.
#[derive(Clone, Copy, Debug, Deserialize, Serialize)]
pub(super) struct Fit {
    /// Slope, its sign turned.
    pub slope: f64,
    /// What the scatter about the line leaves open of it, a standard error.
    pub stderr: f64,
}

pub(super) fn fitted(f: &[f64], power: &[f64], range: [f64; 2]) -> Fit {
    let points: Vec<(f64, f64)> = f
        .iter()
        .zip(power)
        .filter(|(f, _)| inside(**f, range))
        .map(|(f, p)| (f.ln(), p.ln()))
        .collect();
    let n = points.len() as f64;
    let (x, y) =
        (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let cross: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let spread = points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
    let slope = cross / spread;
    let rest: f64 = points.iter().map(|p| (p.1 - y - slope * (p.0 - x)).powi(2)).sum();
    Fit { slope: -slope, stderr: (rest / (n - 2.0) / spread).sqrt() }
}

/// Cycles a pixel above which a component is no wave of one frequency, but a mixture from the
/// corner of the plane.
pub(super) const WAVES: f64 = 0.35;

/// Squared cosine coefficients of each mode of a law of n x n pixels, a mode in each row.
fn in_cosines(law: &Gaussian, n: usize) -> Array2<f64> {
    let basis = cosines(n);
    let mut out = Array2::zeros((law.rank(), n * n));
    for (mut out, u) in out.rows_mut().into_iter().zip(law.modes().columns()) {
        let image = u.to_owned().into_shape_with_order((n, n)).expect("a patch");
        out.iter_mut().zip(&transformed(&basis, image.view())).for_each(|(out, c)| *out = c * c);
    }
    out
}

/// Root mean square frequency of each mode of a law of n x n pixels, cycles a pixel.
pub(super) fn frequencies(law: &Gaussian, n: usize) -> Vec<f64> {
    let squares: Vec<f64> = (0..n * n).map(|j| frequency(j / n, j % n, n).powi(2)).collect();
    let mean = |row: ndarray::ArrayView1<f64>| {
        row.iter().zip(&squares).map(|(c, f)| c * f).sum::<f64>().sqrt()
    };
    in_cosines(law, n).rows().into_iter().map(mean).collect()
}

/// Principal components of patches, grey and in colour.
#[derive(Clone, Debug, Deserialize, Serialize)]
pub struct Components {
    /// Number of windows of the grey covariance.
    pub count: usize,
    /// Leading components as rows, (k, patch^2).
    pub leading: Array2<f64>,
    /// Variances of all components, descending.
    pub variances: Vec<f64>,
    /// Root mean square frequency of each component, cycles a pixel.
    pub frequencies: Vec<f64>,
    /// Share of the variance in the first k components, and in the k cosines of largest variance.
    pub shares: [Vec<f64>; 2],
    /// Leading components in colour, (k, 3 side^2), with their variances and the share of their
    /// energy that is grey.
    pub colour: (Array2<f64>, Vec<f64>, Vec<f64>),
    /// Share of the variance in colour that is grey: of the patches' means, and of what remains in
    /// a patch without its mean.
    pub grey_share: [f64; 2],
    /// Slope of the variances against frequency, sign turned: of components from the second on.
    pub slope: f64,
    /// The line fitted to them.
    pub(super) line: Fit,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Components {
    pub(super) fn new(
        settings: &Settings,
        grey: &[Photograph],
        colour: &[Photograph],
        spectra: &Spectra,
    ) -> Result<Self> {
        let n = settings.patch;
        let data = windows(grey, n, settings.step)?;
        let law = Gaussian::from_data(data.view())?;
        let variances = law.variances().to_vec();
        let in_cosines = in_cosines(&law, n);
        let frequencies = frequencies(&law, n);
        // Variance of each cosine: the covariance's diagonal in that basis.
        let mut of_cosines: Vec<f64> = in_cosines
            .columns()
            .into_iter()
            .map(|c| c.iter().zip(&variances).map(|(c, l)| c * l).sum())
            .collect();
        of_cosines.sort_by(|a, b| b.total_cmp(a));
        let total: f64 = variances.iter().sum();
        let shares = [&variances, &of_cosines].map(|v| {
            let mut sum = 0.0;
            v.iter()
                .map(|v| {
                    sum += v;
                    sum / total
                })
                .collect::<Vec<f64>>()
        });
        let ahead =
            shares[1].iter().zip(&shares[0]).map(|(c, p)| c - p).fold(f64::NEG_INFINITY, larger);
        let line = fitted(&frequencies[1..], &variances[1..], [0.0, WAVES]);

        let foreign = lost_abroad(settings, grey, n * n / 8)?;

        let side = settings.colour_patch;
        let in_colour = Gaussian::from_data(windows(colour, side, settings.step)?.view())?;
        let pixels = side * side;
        let grey_energy = |u: ndarray::ArrayView1<f64>| {
            (0..pixels)
                .map(|i| (u[i] + u[pixels + i] + u[2 * pixels + i]).powi(2) / 3.0)
                .sum::<f64>()
        };
        let energies: Vec<f64> = in_colour.modes().columns().into_iter().map(grey_energy).collect();
        let parts =
            colour.iter().map(|p| p.windows(side, settings.step)).collect::<Result<Vec<_>>>()?;
        let all: Vec<&Array2<f64>> = parts.iter().collect();
        let grey_share = shares_of_grey(&stacked(&all));
        let without: Vec<f64> = (0..all.len())
            .map(|k| {
                let rest: Vec<&Array2<f64>> =
                    all.iter().enumerate().filter(|(i, _)| *i != k).map(|(_, x)| *x).collect();
                let [means, detail] = shares_of_grey(&stacked(&rest));
                detail - means
            })
            .collect();
        let k = settings.components;
        let leading_colour = in_colour.modes().slice(s![.., ..k]).t().to_owned();
        let evidence = vec![
            Evidence::new("largest lead of the k best cosines over the k first components, any k", ahead.max(0.0), 0.0, 1e-12)
                .because("no orthonormal k vectors hold more variance (Ky Fan); sums of 256 shares"),
            Evidence::new("variance of all cosines / of all components", shares[1][n * n - 1], 1.0, 1e-12)
                .because("two orthonormal bases: one trace"),
            Evidence::at_most(
                "share of the variance in the first eighth: of components less of as many cosines; less of foreign components the bound",
                -lead(&shares, n * n / 8),
                foreign,
                0.0,
            )
            .because("cosines, which know no photograph, lose less than the components of the other photographs do on each"),
            Evidence::new(
                "slope of the components' variances against their frequency, less that of the photographs' spectrum",
                line.slope - spectra.line.slope,
                0.0,
                4.0 * line.stderr.hypot(spectra.line.stderr),
            )
            .because("four standard errors, of the scatter about both lines"),
            Evidence::at_least(
                "share of the detail in colour that is grey, less that of the patches' means: the least with any one photograph left out",
                least(without),
                0.0,
                0.0,
            )
            .because("hue is the coarser where detail is greyer than means; no single photograph decides it"),
        ];
        Ok(Self {
            count: data.nrows(),
            leading: law.modes().slice(s![.., ..k]).t().to_owned(),
            variances,
            frequencies,
            shares,
            colour: (
                leading_colour,
                in_colour.variances().slice(s![..k]).to_vec(),
                energies[..k].to_vec(),
            ),
            grey_share,
            slope: line.slope,
            line,
            evidence,
        })
    }
}

/// What is grey of the variance in colour: of the patches' means, and of what remains of a patch
/// without its mean.
///
/// # Shapes
/// A patch in each row: all pixels of the first channel, of the second, of the third.
fn shares_of_grey(patches: &Array2<f64>) -> [f64; 2] {
    let centred = patches - &patches.mean_axis(Axis(0)).expect("at least one patch");
    let pixels = centred.ncols() / 3;
    let (mut means, mut rest) = ([0.0; 2], [0.0; 2]);
    for x in centred.rows() {
        // Squared length along (1, 1, 1) / sqrt(3), and whole.
        let add = |sums: &mut [f64; 2], c: [f64; 3], times: f64| {
            sums[0] += times * c.iter().sum::<f64>().powi(2) / 3.0;
            sums[1] += times * c.iter().map(|c| c * c).sum::<f64>();
        };
        let mean =
            [0, 1, 2].map(|c| x.slice(s![c * pixels..(c + 1) * pixels]).sum() / pixels as f64);
        add(&mut means, mean, 1.0);
        (0..pixels).for_each(|i| {
            add(&mut rest, [0, 1, 2].map(|c| x[c * pixels + i] - mean[c]), 1.0 / pixels as f64)
        });
    }
    [means[0] / means[1], rest[0] / rest[1]]
}

/// What the first k components of the other photographs lack of the variance that a photograph's
/// own hold, mean over the photographs.
fn lost_abroad(settings: &Settings, photographs: &[Photograph], k: usize) -> Result<f64> {
    let own = photographs
        .iter()
        .map(|p| p.windows(settings.patch, settings.step))
        .collect::<Result<Vec<_>>>()?;
    let lost = (0..own.len()).map(|i| {
        let rest: Vec<&Array2<f64>> =
            own.iter().enumerate().filter(|(j, _)| *j != i).map(|(_, x)| x).collect();
        let (here, abroad) =
            (Gaussian::from_data(own[i].view())?, Gaussian::from_data(stacked(&rest).view())?);
        let total = here.variances().sum();
        let foreign = abroad.modes().slice(s![.., ..k]).to_owned();
        let seen = foreign.t().dot(&here.modes());
        let held = seen.mapv(|c| c * c).dot(&here.variances()).sum();
        Ok((here.variances().iter().take(k).sum::<f64>() - held) / total)
    });
    Ok(lost.collect::<Result<Vec<f64>>>()?.iter().sum::<f64>() / own.len() as f64)
}

fn lead(shares: &[Vec<f64>; 2], k: usize) -> f64 {
    shares[1][k - 1] - shares[0][k - 1]
}
