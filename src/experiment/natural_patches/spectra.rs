//! Power by spatial frequency, and the principal components that go with it.

use super::{Settings, windows};
use crate::data::photographs::Photograph;
use crate::error::Result;
use crate::evidence::Evidence;
use crate::experiment::mean_and_stderr;
use crate::law::random_field::RandomField;
use crate::law::{Gaussian, Law};
use crate::math::larger;
use crate::math::matmul::matmul;
use crate::math::noise::Noise;
use ndarray::{Array2, ArrayView2, s};
use std::f64::consts::PI;

/// The orthonormal cosine basis of an interval of n pixels, a wave in each row (DCT-II, JPEG's).
///
/// Even about both ends, it sees no jump where a photograph's opposite borders meet, as a Fourier transform would.
fn cosines(n: usize) -> Array2<f64> {
    let scale = |k: usize| if k == 0 { 1.0 / n as f64 } else { 2.0 / n as f64 };
    Array2::from_shape_fn((n, n), |(k, i)| scale(k).sqrt() * (PI * k as f64 * (i as f64 + 0.5) / n as f64).cos())
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
#[derive(Clone, Debug)]
pub struct Spectra {
    /// Of each photograph: its name, mean frequency and mean power of each bin, and the fitted slope.
    pub photographs: Vec<(String, Vec<f64>, Vec<f64>, f64)>,
    /// Mean over the photographs of their power over their variance, at the frequencies of the first, and its fitted slope.
    pub mean: (Vec<f64>, Vec<f64>, f64),
    /// `a` of the power law `a / f^2` nearest to the photographs' mean power.
    pub scale: f64,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Spectra {
    pub(super) fn new(settings: &Settings, photographs: &[Photograph], noise: &Noise) -> Result<Self> {
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
            let slope = fitted(&f, &mean, settings.fit_range).0;
            of.push((p.name.to_string(), f, mean, slope));
        }
        let count = of.len() as f64;
        let mean: Vec<f64> = (0..of[0].1.len()).map(|b| of.iter().map(|o| o.2[b]).sum::<f64>() / count).collect();
        let slope = fitted(&of[0].1, &mean, settings.fit_range).0;
        let within: Vec<usize> = (0..mean.len()).filter(|b| inside(of[0].1[*b], settings.fit_range)).collect();
        let scale = (within.iter().map(|b| (mean[*b] * of[0].1[*b].powi(2)).ln()).sum::<f64>() / within.len() as f64).exp();

        // The same estimate on fields whose slope is known.
        let field = RandomField::power_law(2 * n, 2 * n, 0.0, 2.0, 1.0, 0.0)?;
        let slopes: Vec<f64> = field
            .sample(settings.fields, noise)
            .rows()
            .into_iter()
            .map(|row| {
                let image = row.to_shape((2 * n, 2 * n)).expect("a field").slice(s![..n, ..n]).to_owned();
                let (f, mean) = binned(&transformed(&basis, image.view()).mapv(|c| c * c), settings.bins);
                fitted(&f, &mean, settings.fit_range).0
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
        Ok(Self { mean: (of[0].1.clone(), mean, slope), photographs: of, scale, evidence })
    }
}

/// Mean frequency and mean power in bins of equal ratios, from the lowest to 1/2 cycle a pixel; without the constant.
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

/// Least-squares line through ln power over ln frequency: slope with its sign turned, and the power at frequency 1.
pub(super) fn fitted(f: &[f64], power: &[f64], range: [f64; 2]) -> (f64, f64) {
    let points: Vec<(f64, f64)> = f.iter().zip(power).filter(|(f, _)| inside(**f, range)).map(|(f, p)| (f.ln(), p.ln())).collect();
    let n = points.len() as f64;
    let (x, y) = (points.iter().map(|p| p.0).sum::<f64>() / n, points.iter().map(|p| p.1).sum::<f64>() / n);
    let cross: f64 = points.iter().map(|p| (p.0 - x) * (p.1 - y)).sum();
    let slope = cross / points.iter().map(|p| (p.0 - x).powi(2)).sum::<f64>();
    (-slope, (y - slope * x).exp())
}

/// Cycles a pixel above which a component is no wave of one frequency, but a mixture from the corner of the plane.
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
    let mean = |row: ndarray::ArrayView1<f64>| row.iter().zip(&squares).map(|(c, f)| c * f).sum::<f64>().sqrt();
    in_cosines(law, n).rows().into_iter().map(mean).collect()
}

/// Principal components of patches, grey and in colour.
#[derive(Clone, Debug)]
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
    /// Leading components in colour, (k, 3 side^2), with their variances and the share of their energy that is grey.
    pub colour: (Array2<f64>, Vec<f64>, Vec<f64>),
    /// Share of the variance in colour that is grey: of the patches' means, and of what remains in a patch without its mean.
    pub grey_share: [f64; 2],
    /// Slope of the variances against frequency, sign turned: of components from the second on.
    pub slope: f64,
    /// Checks.
    pub evidence: Vec<Evidence>,
}

impl Components {
    pub(super) fn new(settings: &Settings, grey: &[Photograph], colour: &[Photograph]) -> Result<Self> {
        let n = settings.patch;
        let data = windows(grey, n, settings.step)?;
        let law = Gaussian::from_data(data.view())?;
        let variances = law.variances().to_vec();
        let in_cosines = in_cosines(&law, n);
        let frequencies = frequencies(&law, n);
        // Variance of each cosine: the covariance's diagonal in that basis.
        let mut of_cosines: Vec<f64> =
            in_cosines.columns().into_iter().map(|c| c.iter().zip(&variances).map(|(c, l)| c * l).sum()).collect();
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
        let ahead = shares[1].iter().zip(&shares[0]).map(|(c, p)| c - p).fold(f64::NEG_INFINITY, larger);
        let slope = fitted(&frequencies[1..], &variances[1..], [0.0, WAVES]).0;

        let side = settings.colour_patch;
        let in_colour = Gaussian::from_data(windows(colour, side, settings.step)?.view())?;
        let pixels = side * side;
        let grey_energy = |u: ndarray::ArrayView1<f64>| {
            (0..pixels).map(|i| (u[i] + u[pixels + i] + u[2 * pixels + i]).powi(2) / 3.0).sum::<f64>()
        };
        let energies: Vec<f64> = in_colour.modes().columns().into_iter().map(grey_energy).collect();
        // Of the covariance of the three channels, of a patch's mean and of the rest, the part along (1, 1, 1) / sqrt(3).
        let cov = in_colour.matrix(|l| l);
        let sum = |near: bool| {
            let (mut along, mut all) = (0.0, 0.0);
            for ((i, j), c) in cov.indexed_iter() {
                let (same_pixel, same_channel) = (i % pixels == j % pixels, i / pixels == j / pixels);
                if !near || same_pixel {
                    along += c / 3.0;
                    all += if same_channel { *c } else { 0.0 };
                }
            }
            (along, all)
        };
        let (whole, mean) = (sum(true), sum(false));
        let mean = (mean.0 / pixels as f64, mean.1 / pixels as f64);
        let grey_share = [mean.0 / mean.1, (whole.0 - mean.0) / (whole.1 - mean.1)];
        let k = settings.components;
        let leading_colour = in_colour.modes().slice(s![.., ..k]).t().to_owned();
        let evidence = vec![
            Evidence::new("largest lead of the k best cosines over the k first components, any k", ahead.max(0.0), 0.0, 1e-12)
                .because("no orthonormal k vectors hold more variance (Ky Fan); sums of 256 shares"),
            Evidence::new("variance of all cosines / of all components", shares[1][n * n - 1], 1.0, 1e-12)
                .because("two orthonormal bases: one trace"),
            Evidence::new(
                "share of the cosines' variance less the components', at k = one eighth of all",
                lead(&shares, n * n / 8),
                0.0,
                0.02,
            )
            .because("cosines are taken for nearly as good if they hold all but 2 % of it"),
            Evidence::new("slope of the components' variances against their frequency", slope, 2.5, 0.5)
                .because("photographs have slopes of 2 to 3"),
            Evidence::new(
                "share of the detail in colour that is grey, less that of the patches' means",
                grey_share[1] - grey_share[0],
                0.15,
                0.15,
            )
            .because("the text says that hue is the coarser: the difference is not below 0"),
        ];
        Ok(Self {
            count: data.nrows(),
            leading: law.modes().slice(s![.., ..k]).t().to_owned(),
            variances,
            frequencies,
            shares,
            colour: (leading_colour, in_colour.variances().slice(s![..k]).to_vec(), energies[..k].to_vec()),
            grey_share,
            slope,
            evidence,
        })
    }
}

fn lead(shares: &[Vec<f64>; 2], k: usize) -> f64 {
    shares[1][k - 1] - shares[0][k - 1]
}
