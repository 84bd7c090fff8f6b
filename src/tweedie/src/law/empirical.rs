//! The empirical law: point masses at the data. Its exact denoiser is attention over the data set.

use crate::diffusion::{Denoiser, PathPoint};
use crate::error::{Error, Result, finite};
use crate::law::Law;
use crate::law::mixture::choose;
use crate::math::dd::Dd;
use crate::math::matmul::{matmul, matmul_serial};
use crate::math::noise::Noise;
use crate::math::vector::{add_and_max, distance_squared, distance_squared_unrounded, exp_shifted};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Zip, s};
use rayon::prelude::*;
use std::borrow::Cow;
use std::f64::consts::TAU;
use std::ops::Range;

/// `p(x0) = sum_j w_j delta(x0 - y_j)` over m data points: what a network that fits its training
/// set perfectly has learnt.
///
/// # Formula
/// `E[x0|x_t] = sum_j p_j y_j`, `p_j` proportional to `w_j exp(-|x_t - alpha y_j|^2 / (2 sigma^2))`
///
/// Points are streamed in blocks with a running log-sum-exp, so memory grows with neither n m nor n
/// m d. A result has the same bits on any number of threads; the other rows of its batch can change
/// the last bits of its matrix products, and no more.
///
/// # Accuracy
/// Squared distances come from one matrix product where that is accurate. Its rounding moves the
/// exponents by about `eps alpha |y| (|x| + alpha |y|) / sigma^2`; where this exceeds 1e-12, the
/// exponents of all points that can weigh anything are computed again from the differences
/// `x - alpha y` themselves, and where `eps |x - alpha y|^2 / (2 sigma^2)` exceeds it too (ties at
/// tiny sigma, states far off the data), from distances to 106 bits, whose common part is taken out
/// before they are rounded. So the weights are right to about
/// `1e-12 + 1e-32 d |x - alpha y|^2 / sigma^2`: as far as `1e9 sigma` off the data and more, where
/// `f64` distances end at `1e6 sigma`. At sigma = 0, and where `|x - alpha y|^2 / sigma^2`
/// overflows, the nearest point is returned.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::diffusion::{Denoiser, PathPoint};
/// use tweedie::law::empirical::Empirical;
/// let law = Empirical::new(array![[-1.0], [1.0]]).unwrap();
/// let mut x0_hat = ndarray::Array2::zeros((1, 1));
/// law.denoise(array![[0.5]].view(), &PathPoint::still(1.0, 1.0), x0_hat.view_mut()).unwrap();
/// assert!((x0_hat[[0, 0]] - 0.5f64.tanh()).abs() < 1e-15);
/// ```
///
/// # Source
/// Karras et al. 2022, "Elucidating the Design Space of Diffusion-Based Generative Models",
/// equation 57 (appendix B.3).
#[derive(Clone, Debug)]
pub struct Empirical {
    /// Shape (m, d), contiguous.
    points: Array2<f64>,
    /// Normalised, shape (m).
    log_weights: Array1<f64>,
    /// `|y_j|^2`, shape (m).
    square_norms: Array1<f64>,
    /// Largest `|y_j|`.
    largest_norm: f64,
}

/// Exponent error of distances above which they are computed again, more accurately.
const TOLERANCE: f64 = 1e-12;
/// Points whose exponents lie this far below the largest, plus `ln m`, weigh together less than
/// `exp(-40)`, 2^-57.
pub(super) const NEGLIGIBLE: f64 = 40.0;
/// Rows that share one pass over the data.
const ROWS: usize = 256;
/// Points of one matrix product: a block of exponents (ROWS, POINTS) is 2 MB.
const POINTS: usize = 1024;
/// Parts of the data that threads can work on at once; a function of m alone, so that no sum
/// depends on the number of threads.
const PARTS: usize = 16;

impl Empirical {
    /// Equal weights at the rows of `points` (m, d).
    ///
    /// # Errors
    /// No rows; NaN or infinity.
    pub fn new(points: Array2<f64>) -> Result<Self> {
        let m = points.nrows();
        Self::weighted(points, Array1::ones(m))
    }

    /// Weights (m), normalised here, at the rows of `points` (m, d).
    ///
    /// # Errors
    /// No rows; lengths that differ; NaN or infinity; a negative weight; no positive weight.
    pub fn weighted(points: Array2<f64>, weights: Array1<f64>) -> Result<Self> {
        if points.nrows() == 0 || weights.len() != points.nrows() {
            let want = format!("({}, d), one row for each weight and at least one", weights.len());
            return Err(Error::shape(
                "points",
                points.shape(),
                want,
                "pass data rows and as many weights",
            ));
        }
        finite("points", points.iter())?;
        finite("weights", weights.iter())?;
        let total = weights.sum();
        if let Some(w) = weights.iter().find(|w| **w < 0.0).or((total <= 0.0).then_some(&total)) {
            return Err(Error::domain(
                "weight of a point",
                w,
                ">= 0, not all 0",
                "pass counts or probabilities",
            ));
        }
        Ok(Self::with_log_weights(
            points.as_standard_layout().into_owned(),
            weights.mapv(|w| (w / total).ln()),
        ))
    }

    fn with_log_weights(points: Array2<f64>, log_weights: Array1<f64>) -> Self {
        let square_norms = Zip::from(points.rows()).map_collect(|y| y.dot(&y));
        let largest_norm = square_norms.iter().cloned().fold(0.0, f64::max).sqrt();
        Self { log_weights, square_norms, largest_norm, points }
    }

    /// The data points, shape (m, d).
    pub fn points(&self) -> ArrayView2<'_, f64> {
        self.points.view()
    }

    /// The points' probabilities, shape (m).
    pub fn weights(&self) -> Array1<f64> {
        self.log_weights.mapv(f64::exp)
    }

    /// Denoises row i by all points but `own[i]`: what a data point looks like to the rest of its
    /// data set.
    ///
    /// # Shapes
    /// `own` (n), indices below m; `x` and `out` (n, d).
    ///
    /// # Errors
    /// Shapes that do not fit; an index out of range; a data set of one point.
    pub fn denoise_leaving_one_out(
        &self,
        own: &[usize],
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        if own.len() != x.nrows() || x.dim() != out.dim() || x.ncols() != self.points.ncols() {
            let want = format!("({}, {})", own.len(), self.points.ncols());
            return Err(Error::shape(
                "states",
                x.shape(),
                want,
                "one own point for each state of the data's dimension",
            ));
        }
        if let Some(j) = own.iter().find(|j| **j >= self.points.nrows()) {
            return Err(Error::domain(
                "own point",
                j,
                format!("below {}", self.points.nrows()),
                "pass row numbers of the data",
            ));
        }
        if self.points.nrows() < 2 {
            return Err(Error::domain(
                "points",
                self.points.nrows(),
                "at least 2",
                "one point leaves nothing when left out",
            ));
        }
        self.average(Some(own), x, at, Some(out.view_mut()));
        Ok(())
    }

    /// Posterior probability of each point, `p(x0 = y_j | x_t)`, shape (n, m): attention weights.
    pub fn responsibilities(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array2<f64> {
        let mut out = Array2::zeros((x.nrows(), self.points.nrows()));
        self.each_posterior(x, at, out.axis_iter_mut(Axis(0)), |mut row, p| {
            row.assign(&ArrayView1::from(p))
        });
        out
    }

    /// Variance of each coordinate of x0 given each row, shape (n, d): the diagonal of the
    /// posterior covariance, its sum the trace.
    ///
    /// # Formula
    /// `sum_j p_j (y_j - x0_hat)^2`, without the cancellation of `E[y^2] - E[y]^2`.
    pub fn posterior_var(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array2<f64> {
        let mut out = Array2::zeros(x.raw_dim());
        self.each_posterior(x, at, out.axis_iter_mut(Axis(0)), |mut var, p| {
            let (origin, mean) = self.likeliest_and_mean(p);
            for (p, y) in p.iter().zip(self.points.rows()).filter(|(p, _)| **p > 0.0) {
                Zip::from(&mut var)
                    .and(y)
                    .and(&origin)
                    .and(&mean)
                    .for_each(|v, y, o, m| *v += p * (y - o - m).powi(2));
            }
        });
        out
    }

    /// The likeliest point, and the mean's distance from it: from there small weights move moments
    /// by their own digits.
    fn likeliest_and_mean(&self, p: &[f64]) -> (ArrayView1<'_, f64>, Array1<f64>) {
        let likeliest =
            (0..p.len()).reduce(|a, b| if p[b] > p[a] { b } else { a }).expect("a law has points");
        let origin = self.points.row(likeliest);
        let mut mean = Array1::zeros(origin.len());
        for (p, y) in p.iter().zip(self.points.rows()).filter(|(p, _)| **p > 0.0) {
            Zip::from(&mut mean).and(y).and(origin).for_each(|m, y, o| *m += p * (y - o));
        }
        (origin, mean)
    }

    /// How many points a denoised state is an average of, `1 / sum_j p_j^2`, from 1 to m, shape
    /// (n).
    pub fn effective_points(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
        let mut out = Array1::zeros(x.nrows());
        self.each_posterior(x, at, out.iter_mut(), |out, p| {
            *out = 1.0 / p.iter().map(|p| p * p).sum::<f64>()
        });
        out
    }

    /// Index of the point whose `alpha y` is nearest to each row, whatever its weight; the first of
    /// several.
    ///
    /// # Shapes
    /// `x` (n, d).
    pub fn nearest(&self, x: ArrayView2<f64>, alpha: f64) -> Vec<usize> {
        let x = x.as_standard_layout();
        let rows: Vec<&[f64]> =
            x.rows().into_iter().map(|x| x.to_slice().expect("standard layout")).collect();
        rows.par_iter()
            .map(|&x| {
                let first_of_the_nearest = |scale| {
                    let x = scaled(x, scale);
                    let mut best = (f64::INFINITY, 0);
                    for j in 0..self.points.nrows() {
                        let distance = distance_squared(&x, alpha, &scaled(self.point(j), scale));
                        if distance < best.0 {
                            best = (distance, j);
                        }
                    }
                    best
                };
                match first_of_the_nearest(1.0) {
                    (f64::INFINITY, _) => first_of_the_nearest(SMALLER).1,
                    (_, j) => j,
                }
            })
            .collect()
    }

    fn point(&self, j: usize) -> &[f64] {
        self.points.row(j).to_slice().expect("points are contiguous")
    }

    /// Calls `f` with the place of each row and the row's posterior probabilities (m), a few rows
    /// at a time on each thread.
    fn each_posterior<T: Send>(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        places: impl IntoIterator<Item = T>,
        f: impl Fn(T, &[f64]) + Sync,
    ) {
        const ROWS: usize = 16;
        let mut places = places.into_iter();
        let tasks: Vec<(ArrayView2<f64>, Vec<T>)> = x
            .axis_chunks_iter(Axis(0), ROWS)
            .map(|x| (x, places.by_ref().take(x.nrows()).collect()))
            .collect();
        tasks.into_par_iter().for_each(|(x, places)| {
            let query = Query::new(self, None, x, at);
            let mut exponents = Array2::zeros((x.nrows(), self.points.nrows()));
            let tops = self.exponents(&query, 0..self.points.nrows(), exponents.view_mut());
            for (i, (row, place)) in exponents.axis_iter_mut(Axis(0)).zip(places).enumerate() {
                let row = row.into_slice().expect("rows are contiguous");
                if tops[i].largest == f64::NEG_INFINITY {
                    self.nearest_weights(&query, i, row);
                } else {
                    let sum = exp_shifted(row, tops[i].largest);
                    row.iter_mut().for_each(|p| *p /= sum);
                }
                f(place, row);
            }
        });
    }

    /// The limit of the posterior for sigma to 0: the weights of the nearest points, normalised.
    fn nearest_weights(&self, query: &Query, i: usize, out: &mut [f64]) {
        let alpha = query.at.alpha;
        let measured = |scale: f64, out: &mut [f64]| {
            let x = scaled(query.row(i), scale);
            let mut shortest = f64::INFINITY;
            for (j, out) in out.iter_mut().enumerate() {
                *out = if self.allowed(query, i, j) {
                    distance_squared(&x, alpha, &scaled(self.point(j), scale))
                } else {
                    f64::INFINITY
                };
                shortest = shortest.min(*out);
            }
            shortest
        };
        let (mut scale, mut shortest) = (1.0, measured(1.0, out));
        if shortest == f64::INFINITY {
            (scale, shortest) = (SMALLER, measured(SMALLER, out));
        }
        let x = scaled(query.row(i), scale);
        // Rounding neither makes a tie nor breaks one: those that it can't tell apart are measured
        // to 106 bits.
        let unit = (self.points.ncols() + 16) as f64 * f64::EPSILON;
        let near: Vec<usize> =
            (0..out.len()).filter(|&j| out[j] <= shortest * (1.0 + unit)).collect();
        if near.len() > 1 {
            let distance =
                |&j: &usize| distance_squared_unrounded(&x, alpha, &scaled(self.point(j), scale));
            let exact: Vec<Dd> = near.iter().map(distance).collect();
            let least = exact
                .iter()
                .copied()
                .reduce(|a, b| if b < a { b } else { a })
                .expect("more than one");
            for (&j, exact) in near.iter().zip(&exact) {
                out[j] = if (*exact - least).hi() <= unit * f64::EPSILON * shortest {
                    shortest
                } else {
                    f64::INFINITY
                };
            }
        }
        let mut sum = 0.0;
        for (j, out) in out.iter_mut().enumerate() {
            // Where the state is infinite or NaN, a point that is not seen is no nearer.
            let nearest = *out == shortest && self.allowed(query, i, j);
            *out = if nearest { self.log_weights[j].exp() } else { 0.0 };
            sum += *out;
        }
        out.iter_mut().for_each(|p| *p /= sum);
    }

    /// Whether row i sees point j at all.
    fn allowed(&self, query: &Query, i: usize, j: usize) -> bool {
        query.own.is_none_or(|own| own[i] != j) && self.log_weights[j] > f64::NEG_INFINITY
    }

    /// Writes the exponents of a range of points for each row of the query and returns each row's
    /// largest.
    ///
    /// Rows that `query.refine` marks hold `ln w_j - (|x - alpha y_j|^2 - base) / (2 sigma^2)`, or
    /// `-inf` where that is negligible; the others lack the row's own term `query.row_term`.
    fn exponents(
        &self,
        query: &Query,
        points: Range<usize>,
        mut out: ArrayViewMut2<f64>,
    ) -> Vec<Top> {
        let Query { at, noise, .. } = query;
        matmul_serial(
            at.alpha / noise,
            query.x.view(),
            self.points.slice(s![points.clone(), ..]).t(),
            0.0,
            out.view_mut(),
        );
        let shift =
            &query.point_terms.as_slice().expect("a new array is contiguous")[points.clone()];
        let row = |(i, out): (usize, ndarray::ArrayViewMut1<f64>)| {
            let out = out.into_slice().expect("rows are contiguous");
            let mut largest = add_and_max(out, shift);
            if let Some(own) = query.own.map(|own| own[i]).filter(|own| points.contains(own)) {
                out[own - points.start] = f64::NEG_INFINITY;
                largest = out.iter().copied().fold(f64::NEG_INFINITY, f64::max);
            }
            // Each sum of d products is off by at most d times its unit.
            let cutoff = largest
                - self.negligible()
                - 2.0 * self.points.ncols() as f64 * query.gram_error[i];
            if query.refine[i] {
                self.refine(query, i, points.start, cutoff, out)
            } else {
                Top { largest, base: Dd::from(0.0) }
            }
        };
        out.axis_iter_mut(Axis(0)).enumerate().map(row).collect()
    }

    /// Exponents this far below the largest weigh nothing, all of them together.
    fn negligible(&self) -> f64 {
        NEGLIGIBLE + (self.points.nrows() as f64).ln()
    }

    /// The exponents of the points from `start` for row i, those above `cutoff`, by differences;
    /// where these round too much, relative to the distance of the likeliest point, with 106 bits.
    fn refine(&self, query: &Query, i: usize, start: usize, cutoff: f64, out: &mut [f64]) -> Top {
        let (x, alpha, twice) = (query.row(i), query.at.alpha, 2.0 * query.noise);
        let (mut top, mut shortest, mut likeliest) = (Top::NONE, 0.0, start);
        for (j, out) in (start..).zip(out.iter_mut()) {
            // A product that overflowed to NaN says nothing.
            if *out < cutoff || !self.allowed(query, i, j) {
                *out = f64::NEG_INFINITY;
                continue;
            }
            let distance = distance_squared(x, alpha, self.point(j));
            *out = self.log_weights[j] - distance / twice;
            if *out > top.largest {
                (top.largest, shortest, likeliest) = (*out, distance, j);
            }
        }
        let rounding = f64::EPSILON * shortest / twice;
        if rounding > TOLERANCE {
            let cutoff =
                top.largest - self.negligible() - (self.points.ncols() + 16) as f64 * rounding;
            let base = distance_squared_unrounded(x, alpha, self.point(likeliest));
            top = Top { largest: f64::NEG_INFINITY, base };
            for (j, out) in (start..).zip(out.iter_mut()) {
                *out = if *out >= cutoff {
                    self.log_weights[j]
                        - (distance_squared_unrounded(x, alpha, self.point(j)) - base).hi() / twice
                } else {
                    f64::NEG_INFINITY
                };
                top.largest = top.largest.max(*out);
            }
        }
        top
    }

    /// Denoises the rows into `out`, where given, and returns
    /// `ln sum_j w_j exp(-|x - alpha y_j|^2 / (2 sigma^2))` of each.
    fn average(
        &self,
        own: Option<&[usize]>,
        x: ArrayView2<f64>,
        at: &PathPoint,
        out: Option<ArrayViewMut2<f64>>,
    ) -> Vec<Dd> {
        let mut log_sums = vec![Dd::from(0.0); x.nrows()];
        let x_blocks = x.axis_chunks_iter(Axis(0), ROWS).enumerate();
        let mut out_blocks = out.map(|out| split_rows(out, ROWS).into_iter());
        let tasks: Vec<_> = x_blocks
            .zip(log_sums.chunks_mut(ROWS))
            .map(|((b, x), log_sums)| {
                let own = own.map(|own| &own[b * ROWS..b * ROWS + x.nrows()]);
                (
                    Query::new(self, own, x, at),
                    log_sums,
                    out_blocks.as_mut().and_then(|blocks| blocks.next()),
                )
            })
            .collect();
        tasks
            .into_par_iter()
            .for_each(|(query, log_sums, out)| self.average_block(&query, log_sums, out));
        log_sums
    }

    fn average_block(&self, query: &Query, log_sums: &mut [Dd], out: Option<ArrayViewMut2<f64>>) {
        let m = self.points.nrows();
        let part = m.div_ceil(PARTS).max(ROWS);
        let starts: Vec<usize> = (0..m).step_by(part).collect();
        let width = if out.is_some() { self.points.ncols() } else { 0 };
        let partials: Vec<Partial> =
            starts.par_iter().map(|&a| self.partial(query, a..(a + part).min(m), width)).collect();

        let twice = 2.0 * query.noise;
        let merge = |i: usize, mut out: ndarray::ArrayViewMut1<f64>| -> Dd {
            let top = partials
                .iter()
                .map(|p| p.top[i])
                .fold(Top::NONE, |a, b| if b.exceeds(a, twice) { b } else { a });
            out.fill(0.0);
            if top.largest == f64::NEG_INFINITY {
                if !out.is_empty() {
                    let mut weights = vec![0.0; m];
                    self.nearest_weights(query, i, &mut weights);
                    for (p, y) in weights.iter().zip(self.points.rows()).filter(|(p, _)| **p != 0.0)
                    {
                        out.scaled_add(*p, &y);
                    }
                }
                return Dd::from(f64::NEG_INFINITY + query.row_terms[i]);
            }
            let mut sum = 0.0;
            for p in &partials {
                let scale = p.top[i].above(top, twice).exp();
                if scale > 0.0 {
                    sum += scale * p.sum[i];
                    out.scaled_add(scale, &p.weighted.row(i));
                }
            }
            // A division, not a product with 1 / sum: one point alone must come back exactly.
            out.mapv_inplace(|v| v / sum);
            Dd::from(top.largest + sum.ln() + query.row_terms[i]) - top.base / twice
        };
        let mut none = Array2::zeros((query.x.nrows(), 0));
        let mut out = out.unwrap_or(none.view_mut());
        let rows: Vec<_> =
            log_sums.iter_mut().zip(out.axis_iter_mut(Axis(0))).enumerate().collect();
        rows.into_par_iter().for_each(|(i, (log_sum, out))| *log_sum = merge(i, out));
    }

    /// Log-sum-exp and weighted sum (n, width) of a range of points, streamed in blocks.
    fn partial(&self, query: &Query, points: Range<usize>, width: usize) -> Partial {
        let (n, twice) = (query.x.nrows(), 2.0 * query.noise);
        let block = points.len().div_ceil(points.len().div_ceil(POINTS));
        let mut p = Partial {
            top: vec![Top::NONE; n],
            sum: vec![0.0; n],
            weighted: Array2::zeros((n, width)),
        };
        let mut exponents = Array2::zeros((n, block));
        for a in points.clone().step_by(block) {
            let range = a..(a + block).min(points.end);
            // Contiguous rows for the last, shorter block too.
            if range.len() < block {
                exponents = Array2::zeros((n, range.len()));
            }
            let tops = self.exponents(query, range.clone(), exponents.view_mut());
            let mut dense = false;
            for (i, row) in exponents.axis_iter_mut(Axis(0)).enumerate() {
                let row = row.into_slice().expect("rows are contiguous");
                let top = tops[i];
                if top.largest == f64::NEG_INFINITY {
                    row.fill(0.0);
                    continue;
                }
                if top.exceeds(p.top[i], twice) {
                    let scale = p.top[i].above(top, twice).exp();
                    p.sum[i] *= scale;
                    if p.top[i].largest > f64::NEG_INFINITY {
                        p.weighted.row_mut(i).mapv_inplace(|v| v * scale);
                    }
                    p.top[i] = top;
                }
                p.sum[i] += exp_shifted(row, p.top[i].seen_from(top.base, twice));
                if query.refine[i] {
                    // Few points are left: they are added one by one, and the product sees zeros.
                    let mut weighted = p.weighted.row_mut(i);
                    for (k, weight) in
                        row.iter_mut().enumerate().filter(|(_, weight)| **weight > 0.0)
                    {
                        if width > 0 {
                            weighted.scaled_add(*weight, &self.points.row(range.start + k));
                        }
                        *weight = 0.0;
                    }
                } else {
                    dense = true;
                }
            }
            if dense && width > 0 {
                matmul_serial(
                    1.0,
                    exponents.view(),
                    self.points.slice(s![range, ..]),
                    1.0,
                    p.weighted.view_mut(),
                );
            }
        }
        p
    }
}

/// What a block of states asks of the data.
struct Query<'a> {
    /// States, contiguous rows.
    x: Array2<f64>,
    /// Point that each state must not see.
    own: Option<&'a [usize]>,
    at: PathPoint,
    noise: f64,
    /// Rows whose distances need more accuracy than the product gives.
    refine: Vec<bool>,
    /// Unit of the product's rounding in an exponent of each row.
    gram_error: Vec<f64>,
    /// `-|x|^2 / (2 sigma^2)` where the exponents lack it.
    row_terms: Vec<f64>,
    /// `ln w_j - alpha^2 |y_j|^2 / (2 sigma^2)`.
    point_terms: Array1<f64>,
}

impl<'a> Query<'a> {
    fn new(law: &Empirical, own: Option<&'a [usize]>, x: ArrayView2<f64>, at: &PathPoint) -> Self {
        let noise = at.sigma * at.sigma;
        let norms: Vec<f64> = x.rows().into_iter().map(|x| x.dot(&x).sqrt()).collect();
        let signal = at.alpha.abs() * law.largest_norm;
        let gram_error: Vec<f64> =
            norms.iter().map(|x| f64::EPSILON * signal * (x + signal) / noise).collect();
        // 0 / 0 and NaN want the exact route too.
        let refine: Vec<bool> = gram_error.iter().map(|e| e.is_nan() || *e > TOLERANCE).collect();
        let row_term = |(x, refine): (&f64, &bool)| match refine {
            // A NaN of x is kept; an infinite norm is only a square that overflowed.
            true if x.is_nan() => f64::NAN,
            true => 0.0,
            false => -x * x / (2.0 * noise),
        };
        let row_terms = norms.iter().zip(&refine).map(row_term).collect();
        let half = at.alpha * at.alpha / (2.0 * noise);
        let point_terms =
            Zip::from(&law.log_weights).and(&law.square_norms).map_collect(|w, y| w - half * y);
        Self {
            x: x.as_standard_layout().into_owned(),
            own,
            at: *at,
            noise,
            refine,
            gram_error,
            row_terms,
            point_terms,
        }
    }

    fn row(&self, i: usize) -> &[f64] {
        self.x.row(i).to_slice().expect("standard layout")
    }
}

/// The largest of a row's exponents, `largest - base / (2 sigma^2)`: what all squared distances
/// have in common stays unrounded.
#[derive(Clone, Copy)]
struct Top {
    largest: f64,
    base: Dd,
}

impl Top {
    const NONE: Self = Self { largest: f64::NEG_INFINITY, base: Dd::ZERO };

    /// The exponent as those above another base are written; `twice` is `2 sigma^2`.
    fn seen_from(self, base: Dd, twice: f64) -> f64 {
        // Without a base on either side nothing is divided by a sigma^2 that may be 0.
        if self.base == base {
            self.largest
        } else {
            self.largest - (self.base - base).hi() / twice
        }
    }

    /// By how much the exponent is above another.
    fn above(self, other: Self, twice: f64) -> f64 {
        self.seen_from(other.base, twice) - other.largest
    }

    fn exceeds(self, other: Self, twice: f64) -> bool {
        self.largest > f64::NEG_INFINITY
            && (other.largest == f64::NEG_INFINITY || self.above(other, twice) > 0.0)
    }
}

/// A running softmax average: `sum_j exp(e_j) y_j = exp(top) weighted` and likewise its
/// normalisation `sum`.
struct Partial {
    top: Vec<Top>,
    sum: Vec<f64>,
    weighted: Array2<f64>,
}

/// What numbers are multiplied by where the squares of all distances overflow: the largest is then
/// 2^424, and what underflows is nothing beside such a distance.
const SMALLER: f64 = f64::from_bits((1023 - 600) << 52);

/// A power of two times the numbers.
fn scaled(numbers: &[f64], scale: f64) -> Cow<'_, [f64]> {
    if scale == 1.0 { numbers.into() } else { numbers.iter().map(|v| v * scale).collect() }
}

fn split_rows(mut a: ArrayViewMut2<f64>, rows: usize) -> Vec<ArrayViewMut2<f64>> {
    let mut blocks = Vec::new();
    while a.nrows() > rows {
        let (head, tail) = a.split_at(Axis(0), rows);
        blocks.push(head);
        a = tail;
    }
    blocks.push(a);
    blocks
}

impl Denoiser for Empirical {
    fn dim(&self) -> usize {
        self.points.ncols()
    }

    /// The posterior mean; at `sigma = 0` the nearest point (several at exactly one distance are
    /// averaged), at `alpha = 0` the mean.
    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.average(None, x, at, Some(out));
        Ok(())
    }
}

impl Law for Empirical {
    fn mean(&self) -> Array1<f64> {
        self.weights().dot(&self.points)
    }

    fn cov(&self) -> Array2<f64> {
        self.cov_under(&self.weights().to_vec())
    }

    /// At `sigma = 0`: `+inf` at `alpha y_j` exactly, `-inf` elsewhere.
    fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
        if at.sigma == 0.0 {
            let nearest = self.nearest(x, at.alpha);
            return x
                .rows()
                .into_iter()
                .zip(nearest)
                .map(|(x, j)| {
                    if x == &self.points.row(j) * at.alpha {
                        f64::INFINITY
                    } else {
                        f64::NEG_INFINITY
                    }
                })
                .collect();
        }
        let normalisation = self.log_normalisation(at);
        self.average(None, x, at, None)
            .into_iter()
            .map(|log_sum| log_sum.hi() - normalisation)
            .collect()
    }

    fn log_density_unrounded(&self, x: ArrayView1<f64>, at: &PathPoint) -> Dd {
        let x = x.insert_axis(Axis(0));
        if at.sigma == 0.0 {
            return self.log_density(x, at)[0].into();
        }
        self.average(None, x, at, None)[0] - self.log_normalisation(at)
    }

    fn translated(&self, by: ArrayView1<f64>) -> Option<Box<dyn Law>> {
        Some(Box::new(Self::with_log_weights(&self.points + &by, self.log_weights.clone())))
    }

    fn posterior_cov(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        let p = self.responsibilities(x.insert_axis(Axis(0)), at).into_raw_vec_and_offset().0;
        Ok(self.cov_under(&p))
    }

    /// Where `alpha x0_hat` and `x` cancel (wherever distances are taken from differences), the
    /// average of `(alpha y - x) / sigma^2`.
    fn score(&self, x: ArrayView2<f64>, at: &PathPoint, mut out: ArrayViewMut2<f64>) -> Result<()> {
        let var = at.sigma * at.sigma;
        let refine = Query::new(self, None, x, at).refine;
        let [far, near] = [true, false]
            .map(|far| (0..x.nrows()).filter(|&i| refine[i] == far).collect::<Vec<_>>());
        let x0_hat = self.denoised(x.select(Axis(0), &near).view(), at)?;
        for (x0_hat, &i) in x0_hat.rows().into_iter().zip(&near) {
            Zip::from(out.row_mut(i))
                .and(x0_hat)
                .and(x.row(i))
                .for_each(|s, x0_hat, x| *s = (at.alpha * x0_hat - x) / var);
        }
        let x = x.select(Axis(0), &far);
        let mut scores = Array2::zeros(x.raw_dim());
        self.each_posterior(
            x.view(),
            at,
            scores.axis_iter_mut(Axis(0)).zip(x.rows()),
            |(mut score, x), p| {
                for (p, y) in p.iter().zip(self.points.rows()).filter(|(p, _)| **p != 0.0) {
                    Zip::from(&mut score)
                        .and(y)
                        .and(x)
                        .for_each(|s, y, x| *s += p * at.alpha.mul_add(*y, -x));
                }
                score /= var;
            },
        );
        for (score, &i) in scores.rows().into_iter().zip(&far) {
            out.row_mut(i).assign(&score);
        }
        Ok(())
    }

    fn jacobian(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        if at.sigma == 0.0 {
            // The nearest point does not move with x.
            return Ok(Array2::zeros((x.len(), x.len())));
        }
        Ok(self.posterior_cov(x, at)? * (at.alpha / (at.sigma * at.sigma)))
    }

    /// Draws with replacement, by inversion of the cumulative weights.
    fn sample(&self, n: usize, noise: &Noise) -> Array2<f64> {
        self.points.select(Axis(0), &choose(&self.weights(), n, noise))
    }
}

impl Empirical {
    /// `d ln(2 pi sigma^2) / 2`.
    fn log_normalisation(&self, at: &PathPoint) -> f64 {
        0.5 * self.points.ncols() as f64 * (TAU.ln() + 2.0 * at.sigma.ln())
    }

    /// `sum_j p_j (y_j - mean)(y_j - mean)^T` over the points that weigh anything.
    fn cov_under(&self, p: &[f64]) -> Array2<f64> {
        let d = self.points.ncols();
        let mut out = Array2::zeros((d, d));
        let (origin, mean) = self.likeliest_and_mean(p);
        let used: Vec<usize> = (0..p.len()).filter(|&j| p[j] > 0.0).collect();
        for indices in used.chunks(POINTS) {
            let mut z = self.points.select(Axis(0), indices) - origin - &mean;
            for (mut z, &j) in z.rows_mut().into_iter().zip(indices) {
                z *= p[j].sqrt();
            }
            matmul(1.0, z.t(), z.view(), 1.0, out.view_mut());
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::law::Gaussian;
    use crate::law::mixture::Mixture;
    use ndarray::array;
    use proptest::prelude::*;

    const EPS: f64 = f64::EPSILON;

    fn random(seed: u64, stream: u64, n: usize, d: usize) -> Array2<f64> {
        let noise = Noise::new(seed);
        Array2::from_shape_fn((n, d), |(i, j)| noise.normal(stream, (i * d + j) as u64))
    }

    fn denoise(law: &impl Denoiser, x: &Array2<f64>, at: &PathPoint) -> Array2<f64> {
        let mut out = Array2::zeros(x.raw_dim());
        law.denoise(x.view(), at, out.view_mut()).unwrap();
        out
    }

    proptest! {
        /// Rotations of one point are equally near to a state on the diagonal, however their
        /// rounded distances differ: each weighs the same, to the rounding of 106 bits.
        #[test]
        fn ties_are_neither_made_nor_broken_by_rounding(
            d in 2usize..40, seed: u64, share in prop::sample::select(vec![0.0, 1e-200, 1e-9, 1e-7, 1e-5]),
            order in prop::sample::select(vec![-150, 0, 150]), off in -1.5..1.5f64,
        ) {
            let y = random(seed, 0, 1, d) * 2f64.powi(order);
            let points = Array2::from_shape_fn((d, d), |(i, j)| y[[0, (i + j) % d]]);
            let law = Empirical::new(points).unwrap();
            let x = Array2::from_elem((1, d), off * 2f64.powi(order));
            let distance = (&x - &y).mapv(|z| z * z).sum().sqrt();
            let p = law.responsibilities(x.view(), &PathPoint::still(1.0, share * distance));
            // Exponents of 1e18 at most, to 1e-32 d.
            prop_assert!(p.iter().all(|p| (p * d as f64 - 1.0).abs() <= 1e-10), "{p}");
        }

        /// Second route: a mixture of Gaussians without variance, whose distances come from
        /// differences and whose sums are not blocked.
        #[test]
        fn equals_a_mixture_of_point_masses(
            m in 1usize..20, d in 1usize..5, seed: u64, alpha in 0.0..1.2f64, log_sigma in -4.0..2.0f64, near: bool,
        ) {
            let points = random(seed, 0, m, d);
            let weights = Array1::from_shape_fn(m, |j| Noise::new(seed).uniform(9, j as u64));
            let law = Empirical::weighted(points.clone(), weights.clone()).unwrap();
            let masses = points.rows().into_iter().map(|y| Gaussian::isotropic(y.to_owned(), 0.0).unwrap()).collect();
            let mixture = Mixture::new(weights, masses).unwrap();
            let at = PathPoint::still(alpha, log_sigma.exp());
            let noise = at.sigma * at.sigma;
            // Typical states, near a point, or far from all.
            let x = if near { &points.slice(s![..1, ..]) * alpha + random(seed, 1, 3, d) * at.sigma } else { random(seed, 1, 3, d) * 2.0 };
            let size = points.iter().chain(&x).fold(1.0, |m: f64, v| m.max(v.abs()));
            // Weights are good to 1e-12 (the product's share) and to the rounding of the smallest
            // exponents, size |x - alpha y| / sigma^2.
            let nearest = law.nearest(x.view(), alpha);
            let distance = (0..3).map(|i| (&x.row(i) - &(&points.row(nearest[i]) * alpha)).mapv(|z| z * z).sum().sqrt()).fold(0.0, f64::max);
            let tol = 2e-12 + 128.0 * d as f64 * EPS * (1.0 + size * (distance + 10.0 * at.sigma) / noise);

            let (got, want) = (denoise(&law, &x, &at), denoise(&mixture, &x, &at));
            prop_assert!((&got - &want).iter().all(|e| e.abs() <= tol * size), "{} {} {}", got, want, tol);
            let (p, q) = (law.log_density(x.view(), &at), mixture.log_density(x.view(), &at));
            prop_assert!(p.iter().zip(&q).all(|(p, q)| (p - q).abs() <= tol * (1.0 + p.abs())), "{} {}", p, q);
            let (p, q) = (law.responsibilities(x.view(), &at), mixture.responsibilities(x.view(), &at));
            prop_assert!((&p - &q).iter().all(|e| e.abs() <= tol));
            let (p, q) = (law.posterior_cov(x.row(0), &at).unwrap(), mixture.posterior_cov(x.row(0), &at).unwrap());
            prop_assert!((&p - &q).iter().all(|e| e.abs() <= 8.0 * tol * size * size));
            let var = law.posterior_var(x.view(), &at);
            for j in 0..d {
                prop_assert!((var[[0, j]] - p[[j, j]]).abs() <= 8.0 * tol * size * size);
            }
            let effective = law.effective_points(x.view(), &at);
            prop_assert!(effective.iter().all(|n| *n >= 1.0 - 1e-12 && *n <= m as f64 * (1.0 + 1e-12)));
            let (mut s, mut t) = (x.clone(), x.clone());
            law.score(x.view(), &at, s.view_mut()).unwrap();
            mixture.score(x.view(), &at, t.view_mut()).unwrap();
            prop_assert!((&s - &t).iter().all(|e| e.abs() <= tol * size / noise));
            prop_assert!((&Law::mean(&law) - &Law::mean(&mixture)).iter().all(|e| e.abs() <= 64.0 * EPS * size));
            prop_assert!((&Law::cov(&law) - &Law::cov(&mixture)).iter().all(|e| e.abs() <= 64.0 * EPS * size * size));
        }

        /// At sigma = 1e-6 the product's squared distances are wrong by 1e-16 / 1e-12 each, in
        /// exponents of any size. Here alpha and all coordinates are dyadic, so that the direct
        /// differences and their squares are exact, in any order.
        #[test]
        fn keeps_its_digits_at_sigma_1e_6(seed: u64, d in 1usize..40, share in 0.0..1.0f64) {
            let noise = Noise::new(seed);
            let unit = 2f64.powi(-22);
            // A pair of points 2^-21 apart per coordinate, a third far away, and a state between
            // the two.
            let base = Array1::from_shape_fn(d, |j| (noise.normal(0, j as u64) * 64.0).round() / 64.0);
            let step = Array1::from_shape_fn(d, |j| if noise.uniform(1, j as u64) < 0.5 { 2.0 * unit } else { 0.0 });
            let mut points = Array2::zeros((3, d));
            points.row_mut(0).assign(&base);
            points.row_mut(1).assign(&(&base + &step));
            points.row_mut(2).assign(&(&base + 1.0));
            let law = Empirical::new(points.clone()).unwrap();
            let x = (&base * 0.5 + Array1::from_shape_fn(d, |j| if noise.uniform(2, j as u64) < share { 0.5 * unit } else { 0.0 })).insert_axis(Axis(0));
            let at = PathPoint::still(0.5, 1e-6);
            let exponent = |j: usize| -(&x.row(0) - &(&points.row(j) * 0.5)).mapv(|z| z * z).sum() / (2.0 * 1e-6 * 1e-6);
            let ratio = (exponent(1) - exponent(0)).exp();
            let p = law.responsibilities(x.view(), &at);
            // Two exponents below 100, each rounded in its division by 2 sigma^2.
            prop_assert!((p[[0, 1]] - ratio / (1.0 + ratio)).abs() <= 8.0 * EPS * (1.0 + exponent(0).abs() + exponent(1).abs()));
            prop_assert_eq!(p[[0, 2]], 0.0);
            let log_density = (0.5 * (exponent(0).exp() + exponent(1).exp()) * 2.0 / 3.0).ln() - 0.5 * d as f64 * (TAU * 1e-12).ln();
            prop_assert!((law.log_density(x.view(), &at)[0] - log_density).abs() <= 64.0 * EPS * (1.0 + log_density.abs() + exponent(0).abs()));
        }

        /// Leaving a point out is the law of the other points; blocks and parts change nothing.
        #[test]
        fn leaving_one_out_is_the_law_without_the_point(m in 2usize..12, d in 1usize..4, own in 0usize..12, seed: u64, log_sigma in -3.0..1.0f64) {
            let (points, own) = (random(seed, 0, m, d), own % m);
            let rest: Vec<usize> = (0..m).filter(|j| *j != own).collect();
            let at = PathPoint::still(0.9, log_sigma.exp());
            let x = &points.slice(s![own..own + 1, ..]) * 0.9 + random(seed, 1, 1, d) * at.sigma;
            let mut got = Array2::zeros((1, d));
            Empirical::new(points.clone()).unwrap().denoise_leaving_one_out(&[own], x.view(), &at, got.view_mut()).unwrap();
            let want = denoise(&Empirical::new(points.select(Axis(0), &rest)).unwrap(), &x, &at);
            prop_assert!((&got - &want).iter().all(|e| e.abs() <= 1e-10), "{} {}", got, want);
        }
    }

    /// Many blocks and parts against sums in one go.
    #[test]
    fn blocks_do_not_show() {
        let (m, d, n) = (5000, 7, 300);
        let law = Empirical::new(random(1, 0, m, d)).unwrap();
        let x = random(1, 1, n, d);
        for (alpha, sigma) in [(1.0, 1.0), (0.5, 0.3), (0.9, 1e-2), (1.0, 1e-3), (1e-3, 1.0)] {
            let at = PathPoint::still(alpha, sigma);
            let got = denoise(&law, &x, &at);
            let log_density = law.log_density(x.view(), &at);
            for i in (0..n).step_by(37) {
                let exponents: Vec<f64> = law
                    .points
                    .rows()
                    .into_iter()
                    .map(|y| {
                        -(&x.row(i) - &(&y * alpha)).mapv(|z| z * z).sum() / (2.0 * sigma * sigma)
                    })
                    .collect();
                let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let p: Array1<f64> = exponents.iter().map(|e| (e - largest).exp()).collect();
                let tol = 4e-12
                    + 64.0 * EPS * largest.abs()
                    + 64.0 * EPS * 5.0 * largest.abs().sqrt() / sigma;
                assert!(
                    (&got.row(i) - &(p.dot(&law.points) / p.sum()))
                        .iter()
                        .all(|e| e.abs() <= 5.0 * tol),
                    "{alpha} {sigma}"
                );
                let want = largest + p.sum().ln()
                    - (m as f64).ln()
                    - 0.5 * d as f64 * (TAU * sigma * sigma).ln();
                assert!((log_density[i] - want).abs() <= tol, "{alpha} {sigma}");
            }
        }
    }

    #[test]
    fn results_depend_on_neither_threads_nor_batch() {
        let law = Empirical::new(random(1, 0, 3000, 33)).unwrap();
        let x = random(1, 1, 270, 33);
        for sigma in [1.0, 1e-3] {
            let at = PathPoint::still(0.7, sigma);
            let on = |threads| {
                rayon::ThreadPoolBuilder::new()
                    .num_threads(threads)
                    .build()
                    .unwrap()
                    .install(|| denoise(&law, &x, &at))
            };
            let want = on(1);
            assert_eq!(on(3), want);
            for range in [0..1, 0..2, 5..20, 250..270] {
                let part = denoise(&law, &x.slice(s![range.clone(), ..]).to_owned(), &at);
                // The product of a single row is summed in another order than that of many.
                let error = (&part - &want.slice(s![range, ..]))
                    .iter()
                    .fold(0.0, |m: f64, e| m.max(e.abs()));
                assert!(error <= 2e-13, "sigma = {sigma}: {error}");
            }
        }
    }

    #[test]
    fn limits_at_both_ends() {
        let law =
            Empirical::weighted(array![[0.1, 0.7], [0.3, -0.2], [0.3, 1.6]], array![1.0, 2.0, 1.0])
                .unwrap();
        // Tiny sigma and 0: the nearest point, to the last bit; two at one distance are averaged by
        // weight.
        let x = array![[0.04, 0.36], [0.15, 0.35]];
        for sigma in [1e-5, 1e-100, 1e-200, 0.0] {
            assert_eq!(
                denoise(&law, &x, &PathPoint::still(0.5, sigma)).row(0),
                law.points().row(0)
            );
        }
        let tie = Empirical::weighted(array![[-1.0], [1.0]], array![1.0, 3.0]).unwrap();
        assert_eq!(denoise(&tie, &array![[0.0]], &PathPoint::CLEAN), array![[0.5]]);
        assert_eq!(
            tie.log_density(array![[1.0], [0.5]].view(), &PathPoint::CLEAN).to_vec(),
            [f64::INFINITY, f64::NEG_INFINITY]
        );
        assert_eq!(tie.jacobian(array![0.2].view(), &PathPoint::CLEAN).unwrap(), array![[0.0]]);
        // alpha = 0: the mean, with or without noise.
        for sigma in [1.0, 1e-9, 0.0] {
            let got = denoise(&law, &x, &PathPoint::still(0.0, sigma));
            assert!((&got - &Law::mean(&law)).iter().all(|e| e.abs() <= 4.0 * EPS), "{got}");
        }
        // A point mass comes back exactly from anywhere.
        let one = Empirical::new(array![[0.1, 0.7]]).unwrap();
        for sigma in [3.0, 0.1, 1e-7, 0.0] {
            assert_eq!(
                denoise(&one, &x, &PathPoint::still(0.3, sigma)),
                array![[0.1, 0.7], [0.1, 0.7]]
            );
        }
        // Points without weight are never seen.
        let hidden = Empirical::weighted(array![[0.0], [1.0]], array![0.0, 1.0]).unwrap();
        assert_eq!(denoise(&hidden, &array![[0.0]], &PathPoint::CLEAN), array![[1.0]]);
        assert_eq!(denoise(&hidden, &array![[0.0]], &PathPoint::still(1.0, 0.1)), array![[1.0]]);
        assert!(
            denoise(&hidden, &array![[f64::NAN]], &PathPoint::still(1.0, 0.1))[[0, 0]].is_nan()
        );
    }

    #[test]
    fn samples_have_the_points_frequencies() {
        let law = Empirical::weighted(array![[0.0], [1.0], [2.0]], array![0.2, 0.5, 0.3]).unwrap();
        let draws = law.sample(10_000, &Noise::new(2));
        for (value, p) in [(0.0, 0.2), (1.0, 0.5), (2.0, 0.3f64)] {
            let share = draws.iter().filter(|v| **v == value).count() as f64 / 1e4;
            assert!((share - p).abs() <= 5.0 * (p * (1.0 - p) / 1e4).sqrt());
        }
    }

    #[test]
    fn refuses_what_is_no_law() {
        assert!(Empirical::new(Array2::zeros((0, 2))).is_err());
        assert!(Empirical::new(array![[f64::NAN]]).is_err());
        assert!(Empirical::weighted(array![[1.0]], array![1.0, 2.0]).is_err());
        assert!(Empirical::weighted(array![[1.0], [2.0]], array![1.0, -2.0]).is_err());
        assert!(Empirical::weighted(array![[1.0]], array![0.0]).is_err());
        let law = Empirical::new(array![[1.0], [2.0]]).unwrap();
        let (x, at, mut out) = (array![[1.0]], PathPoint::still(1.0, 1.0), array![[0.0]]);
        assert!(law.denoise_leaving_one_out(&[2], x.view(), &at, out.view_mut()).is_err());
        assert!(law.denoise_leaving_one_out(&[], x.view(), &at, out.view_mut()).is_err());
        assert!(
            Empirical::new(array![[1.0]])
                .unwrap()
                .denoise_leaving_one_out(&[0], x.view(), &at, out.view_mut())
                .is_err()
        );
    }

    /// More than one block in each part of the data, the last one shorter; and more than one block
    /// of states, each without its own point.
    #[test]
    fn uneven_blocks_do_not_show() {
        let m = PARTS * (POINTS + 1);
        let points = random(3, 0, m, 2) * 0.5;
        let law = Empirical::new(points.clone()).unwrap();
        let x = random(3, 1, 3, 2);
        for sigma in [0.3, 1e-3] {
            let at = PathPoint::still(0.8, sigma);
            let (got, log_density) = (denoise(&law, &x, &at), law.log_density(x.view(), &at));
            for i in 0..3 {
                let exponents: Vec<f64> = points
                    .rows()
                    .into_iter()
                    .map(|y| {
                        -(&x.row(i) - &(&y * 0.8)).mapv(|z| z * z).sum() / (2.0 * sigma * sigma)
                    })
                    .collect();
                let largest = exponents.iter().copied().fold(f64::NEG_INFINITY, f64::max);
                let p: Array1<f64> = exponents.iter().map(|e| (e - largest).exp()).collect();
                let tol = 4e-12
                    + 64.0 * EPS * largest.abs()
                    + 64.0 * EPS * 5.0 * largest.abs().sqrt() / sigma;
                assert!(
                    (&got.row(i) - &(p.dot(&points) / p.sum()))
                        .iter()
                        .all(|e| e.abs() <= 5.0 * tol),
                    "{sigma}"
                );
                let want = largest + p.sum().ln() - (m as f64).ln() - (TAU * sigma * sigma).ln();
                assert!((log_density[i] - want).abs() <= tol, "{sigma}");
            }
        }
        let n = 2 * ROWS + 3;
        let at = PathPoint::still(1.0, 0.05);
        let own: Vec<usize> = (0..n).map(|i| (i * 31) % m).collect();
        let x = points.select(Axis(0), &own) + random(3, 2, n, 2) * 0.05;
        let mut all = Array2::zeros((n, 2));
        law.denoise_leaving_one_out(&own, x.view(), &at, all.view_mut()).unwrap();
        for i in (0..n).step_by(61) {
            let mut one = Array2::zeros((1, 2));
            law.denoise_leaving_one_out(&own[i..=i], x.slice(s![i..=i, ..]), &at, one.view_mut())
                .unwrap();
            assert!((&all.row(i) - &one.row(0)).iter().all(|e| e.abs() <= 1e-11), "row {i}");
        }
    }

    #[test]
    fn far_from_the_origin_the_spread_keeps_its_digits() {
        // Weights are those of the two points around 0; E[y^2] - E[y]^2 would be off by 2.
        let law = Empirical::new(array![[1e8 - 1.0], [1e8 + 1.0]]).unwrap();
        let at = PathPoint::still(1.0, 1.5);
        let x = array![[1e8 + 0.5]];
        let mean = (0.5f64 / 2.25).tanh();
        let var = 1.0 - mean * mean;
        assert!((law.posterior_var(x.view(), &at)[[0, 0]] - var).abs() <= 1e-14);
        assert!((law.jacobian(x.row(0), &at).unwrap()[[0, 0]] - var / 2.25).abs() <= 1e-14);
    }

    #[test]
    fn points_in_equal_shares() {
        // Four points on a circle around the state, another one far away.
        let law =
            Empirical::new(array![[1.0, 0.0], [-1.0, 0.0], [0.0, 1.0], [0.0, -1.0], [50.0, 0.0]])
                .unwrap();
        let (x, at) = (array![[0.0, 0.0], [50.0, 0.0]], PathPoint::still(1.0, 0.5));
        let effective = law.effective_points(x.view(), &at);
        assert!(
            effective.len() == 2
                && (effective[0] - 4.0).abs() <= 1e-12
                && (effective[1] - 1.0).abs() <= 1e-12,
            "{effective}"
        );
        // Of several nearest points the first.
        assert_eq!(law.nearest(x.view(), 1.0), [0, 4]);
    }

    /// As far as numbers reach: what is told of points tells of them times a power of two.
    #[test]
    fn the_nearest_is_found_where_squares_overflow() {
        let points = array![[1.0, 3.0], [-1.0, 0.5], [1.0, 0.5], [0.25, -2.0], [1.0, 0.5]];
        let x = array![[0.9, 0.4], [-1.2, 0.5], [0.0, 0.5], [0.0, -1.8], [1.0, 2.9]];
        let nearest = |points: &Array2<f64>, x: &Array2<f64>, alpha: f64| {
            let law = Empirical::new(points.clone()).unwrap();
            let found = law.nearest(x.view(), alpha);
            // Against the points' own size sigma is 0, also where it is not.
            for sigma in [0.0, 1.0] {
                let at = PathPoint::still(alpha, sigma);
                let (denoised, p) = (denoise(&law, x, &at), law.responsibilities(x.view(), &at));
                for (i, p) in p.rows().into_iter().enumerate() {
                    let equally_near = p.iter().filter(|p| **p > 0.0).count();
                    assert_eq!(equally_near, [2, 1, 3, 1, 1][i], "{p}");
                    if equally_near == 1 {
                        assert_eq!(denoised.row(i), points.row(found[i]));
                    }
                }
            }
            found
        };
        for e in [510, 600, 1000, 1021] {
            let unit = 2f64.powi(e);
            for alpha in [1.0, 0.5] {
                let want = [2, 1, 1, 3, 0];
                assert_eq!(nearest(&(&points * unit), &(&x * (alpha * unit)), alpha), want, "{e}");
            }
        }
    }

    #[test]
    fn what_is_left_out_weighs_nothing() {
        // So far from the origin that the distances are taken from the differences; the second
        // point weighs e^-39.9 of the first.
        let law = Empirical::new(array![[1000.0], [1001.0]]).unwrap();
        let p = law.responsibilities(
            array![[1000.0]].view(),
            &PathPoint::still(1.0, (0.5f64 / 39.9).sqrt()),
        );
        assert!((p[[0, 1]] / (-39.9f64).exp() - 1.0).abs() <= 1e-12, "{p}");
    }

    #[test]
    fn densities_at_tiny_sigma_and_far_away() {
        // At sigma = 1e-9 the product's exponents are off by hundreds: the nearest point is found,
        // and weighs what it does.
        let points = random(7, 0, 50, 40);
        let law = Empirical::new(points.clone()).unwrap();
        let offset = Array1::from_elem(40, 2f64.powi(-30));
        for j in [0, 17, 49] {
            let x = (&points.row(j) + &offset).insert_axis(Axis(0));
            let z = &x.row(0) - &points.row(j);
            let want = -z.dot(&z) / 2e-18 - 50f64.ln() - 20.0 * (TAU * 1e-18).ln();
            assert!(
                (law.log_density(x.view(), &PathPoint::still(1.0, 1e-9))[0] - want).abs()
                    <= 1e-12 * want.abs()
            );
        }
        // A state that is nearer to 0 than to any point: all exponents of the product are negative.
        let law = Empirical::new(array![[1.0], [-1.0], [3.0]]).unwrap();
        let (x, at) = (array![[1e-9]], PathPoint::still(1.0, 1e-4));
        let want = -(1.0 - 1e-9) * (1.0 - 1e-9) / 2e-8 - 3f64.ln() - 0.5 * (TAU * 1e-8).ln()
            + (-2e-9f64 / 1e-8).exp().ln_1p();
        assert!((law.log_density(x.view(), &at)[0] / want - 1.0).abs() <= 1e-14);
        // So far away that the square of the distance overflows, the density is 0.
        assert_eq!(law.log_density(array![[1e160]].view(), &at)[0], f64::NEG_INFINITY);
        let still = PathPoint::still(0.5, 0.0);
        assert_eq!(
            law.log_density(array![[0.5], [1.0], [2.0]].view(), &still).to_vec(),
            [f64::INFINITY, f64::NEG_INFINITY, f64::NEG_INFINITY]
        );
    }

    /// Distances that differ by 1e-20 of themselves: a tie for rounded ones, and none.
    #[test]
    fn the_nearest_is_found_below_the_rounding_of_distances() {
        for order in [-150, 0, 150] {
            let unit = 2f64.powi(order);
            let points = array![[1.0, 1e-10], [1.0, 0.0], [0.0, 1.0], [3.0, 0.0]] * unit;
            let law = Empirical::new(points).unwrap();
            let p = law.responsibilities(array![[0.0, 0.0]].view(), &PathPoint::CLEAN);
            assert_eq!(p, array![[0.0, 0.5, 0.5, 0.0]], "{order}");
        }
    }

    /// Closed form of two points at `y0 +- delta`:
    /// `p = 1 / (1 + exp(-2 (x - y0) delta / sigma^2))`.
    #[test]
    fn far_off_the_data_weights_keep_their_digits() {
        let (delta, far) = (2f64.powi(-27), 2f64.powi(27));
        let law = Empirical::new(array![[1000.0 - delta], [1000.0 + delta]]).unwrap();
        let p = law.responsibilities(array![[1000.0 + far]].view(), &PathPoint::still(1.0, 1.0));
        let want = 1.0 / (1.0 + (-2.0f64).exp());
        assert!((p[[0, 1]] - want).abs() <= 4.0 * EPS, "{p} {want}");
    }

    /// A point that a state must not see stays unseen where every product of states and points
    /// is out of range.
    #[test]
    fn what_is_left_out_is_not_seen_at_tiny_sigma() {
        let law = Empirical::new(array![[1.0], [2.0], [4.0]]).unwrap();
        for sigma in [1e-3, 1e-100, 1e-160, 1e-200, 0.0] {
            let mut out = array![[0.0]];
            let at = PathPoint::still(1.0, sigma);
            law.denoise_leaving_one_out(&[0], array![[1.0]].view(), &at, out.view_mut()).unwrap();
            assert_eq!(out, array![[2.0]], "{sigma}");
        }
    }

    /// One point in several parts is that point: what is left of a variance is another point's
    /// tiny weight, to that weight's own digits.
    #[test]
    fn a_tiny_weight_s_variance_keeps_its_digits() {
        let (x, at) = (array![[0.0]], PathPoint::still(1.0, (1.0f64 / 184.0).sqrt()));
        for parts in 3..40 {
            let mut points = Array2::zeros((parts + 1, 1));
            points[[0, 0]] = 1.0;
            let mut weights = Array1::from_shape_fn(parts + 1, |j| j as f64 + 0.3);
            weights[0] = weights.slice(s![1..]).sum();
            let law = Empirical::weighted(points, weights).unwrap();
            // Weights 1 and 1, exponents -92 and 0.
            let weight = (-92.0f64).exp();
            for var in [
                law.posterior_var(x.view(), &at)[[0, 0]],
                law.posterior_cov(x.row(0), &at).unwrap()[[0, 0]],
            ] {
                assert!((var / weight - 1.0).abs() <= 1e-12, "{parts}: {var} {weight}");
            }
        }
    }

    /// Where `alpha y` and `x` cancel, against their difference to 106 bits.
    #[test]
    fn the_score_keeps_its_digits_beside_a_point() {
        let law = Empirical::new(array![[1.1, -0.3], [5.0, 7.0]]).unwrap();
        let (alpha, sigma) = (0.7, 1e-6);
        let x = array![[0.7 * 1.1 + 1e-9, -0.7 * 0.3 - 1e-9]];
        let mut score = Array2::zeros((1, 2));
        law.score(x.view(), &PathPoint::still(alpha, sigma), score.view_mut()).unwrap();
        for (j, y) in [1.1, -0.3].into_iter().enumerate() {
            let want = ((Dd::from(alpha) * y - x[[0, j]]) / (sigma * sigma)).hi();
            assert!((score[[0, j]] / want - 1.0).abs() <= 4.0 * EPS, "{score} {want}");
        }
    }

    /// The difference of two unrounded densities is that of the squared distances, also where a
    /// rounded density has lost it: closed form as above.
    #[test]
    fn unrounded_densities_keep_their_differences() {
        let (delta, far, sigma) = (2f64.powi(-27), 2f64.powi(27), 0.5);
        let at = PathPoint::still(1.0, sigma);
        let [near, off] = [delta, -delta].map(|y| {
            Empirical::new(array![[1000.0 + y]])
                .unwrap()
                .log_density_unrounded(array![1000.0 + far].view(), &at)
        });
        assert!(((near - off).hi() - 2.0 / (sigma * sigma)).abs() <= 1e-14);
        let law = Empirical::new(array![[0.5], [1.0]]).unwrap();
        let still = PathPoint::still(0.5, 0.0);
        for (x, want) in [(0.5, f64::INFINITY), (0.3, f64::NEG_INFINITY)] {
            assert_eq!(law.log_density_unrounded(array![x].view(), &still).hi(), want);
        }
    }

    /// No state shows a point that it must not see: not one so far away that all distances
    /// overflow, nor one that is no number.
    #[test]
    fn what_is_left_out_is_not_seen_from_anywhere() {
        let law = Empirical::new(array![[1.0], [2.0], [4.0]]).unwrap();
        let mut out = array![[0.0], [0.0]];
        let x = array![[1e200], [f64::NAN]];
        let at = PathPoint::still(1.0, 1.0);
        law.denoise_leaving_one_out(&[0, 0], x.view(), &at, out.view_mut()).unwrap();
        assert!(out[[0, 0]] == 3.0 && out[[1, 0]].is_nan(), "{out}");
    }
}
