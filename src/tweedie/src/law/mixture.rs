//! Mixtures of laws; the Gaussian mixture, whose every quantity is a closed form, and sets of
//! classes alike.

use crate::diffusion::{Denoiser, PathPoint};
use crate::error::{Error, Result, finite};
use crate::law::empirical::NEGLIGIBLE;
use crate::law::{Gaussian, Law, SAMPLE_STREAM};
use crate::math::dd::Dd;
use crate::math::larger;
use crate::math::noise::Noise;
use crate::math::scalar::Scalar;
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, ArrayViewMut2, Axis, Zip};

/// `p(x0) = sum_c w_c p_c(x0)`: by default a Gaussian mixture, `Mixture<Box<dyn Law>>` of anything.
///
/// # Formula
/// With the responsibilities `r_c` proportional to `w_c p_c(x_t)` every posterior mean (denoiser,
/// score) is the components' average, and `Cov[x0|x_t] = sum_c r_c (Cov_c + (x0_hat_c -
/// x0_hat)(x0_hat_c - x0_hat)^T)`.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::diffusion::PathPoint;
/// use tweedie::law::{Gaussian, Law, mixture::Mixture};
/// let side = |m: f64| Gaussian::isotropic(array![m], 0.5).unwrap();
/// let law = Mixture::new(array![1.0, 1.0], vec![side(-1.0), side(1.0)]).unwrap();
/// assert_eq!(Law::mean(&law), array![0.0]);
/// assert!((Law::cov(&law)[[0, 0]] - 1.5).abs() < 1e-15);
/// let mut score = ndarray::Array2::zeros((1, 1));
/// law.score(array![[0.0]].view(), &PathPoint::still(1.0, 0.1), score.view_mut()).unwrap();
/// assert_eq!(score[[0, 0]], 0.0);
/// ```
#[derive(Clone, Debug)]
pub struct Mixture<L = Gaussian> {
    /// Normalised.
    log_weights: Array1<f64>,
    components: Vec<L>,
}

/// Rounding of a log density above which differences between components are taken unrounded.
const TOLERANCE: f64 = 1e-11;

impl<L: Law> Mixture<L> {
    /// Weights, normalised here, and as many components of one dimension.
    ///
    /// # Errors
    /// Lengths or dimensions that differ; no component; NaN; a negative weight; no positive weight.
    pub fn new(weights: Array1<f64>, components: Vec<L>) -> Result<Self> {
        if weights.is_empty() || weights.len() != components.len() {
            let want = format!("({},), one weight a component and at least one", components.len());
            return Err(Error::shape(
                "weights",
                weights.shape(),
                want,
                "pass as many weights as components",
            ));
        }
        let d = components[0].dim();
        if let Some(c) = components.iter().find(|c| c.dim() != d) {
            return Err(Error::shape(
                "component",
                &[c.dim()],
                format!("({d},), the first component's dimension"),
                "mix laws of one dimension",
            ));
        }
        finite("weights", weights.iter())?;
        // Numbers whose sum is none have proportions all the same.
        let weights =
            if weights.sum().is_finite() { weights } else { weights.mapv(|w| w / 2f64.powi(64)) };
        let total = weights.sum();
        if let Some(w) = weights.iter().find(|w| **w < 0.0).or((total <= 0.0).then_some(&total)) {
            return Err(Error::domain(
                "weight of a component",
                w,
                ">= 0, not all 0",
                "pass counts or probabilities",
            ));
        }
        Ok(Self { log_weights: weights.mapv(|w| (w / total).ln()), components })
    }

    /// The components.
    pub fn components(&self) -> &[L] {
        &self.components
    }

    /// The components' probabilities, shape (c).
    pub fn weights(&self) -> Array1<f64> {
        self.log_weights.mapv(f64::exp)
    }

    /// `ln p(c | x_t)` of each row, shape (n, c): the posterior of the component, which is the
    /// exact noisy classifier.
    ///
    /// NaN where no component can have made `x_t` (only at `sigma = 0`, off every support).
    ///
    /// # Formula
    /// `ln w_c + ln p_c(x_t) - ln sum_k w_k p_k(x_t)`
    pub fn log_responsibilities(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array2<f64> {
        let (mut joint, largest) = self.log_joint(x, at);
        for (mut row, largest) in joint.rows_mut().into_iter().zip(largest) {
            if largest == f64::INFINITY {
                // Point masses that hit x: their weights alone decide.
                Zip::from(&mut row)
                    .and(&self.log_weights)
                    .for_each(|l, w| *l = if *l == 0.0 { *w } else { f64::NEG_INFINITY });
            } else if largest == f64::NEG_INFINITY {
                row.fill(f64::NAN);
            }
            let log_sum = log_sum_exp(row.view());
            row -= log_sum;
        }
        joint
    }

    /// `p(c | x_t)` of each row, shape (n, c).
    pub fn responsibilities(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array2<f64> {
        self.log_responsibilities(x, at).mapv_into(f64::exp)
    }

    /// `ln w_c + ln p_c(x_t)` less the largest of its row, shape (n, c), and the largest ones,
    /// shape (n).
    ///
    /// Far off the components all are large and their differences small: where the rounding of the
    /// largest would show in a weight, those that weigh anything are computed again, unrounded. The
    /// largest first: what is left is small, and its exponentials sum to 1 to the last bits.
    fn log_joint(&self, x: ArrayView2<f64>, at: &PathPoint) -> (Array2<f64>, Array1<f64>) {
        let mut joint = Array2::zeros((x.nrows(), self.components.len()));
        for ((mut column, law), w) in
            joint.columns_mut().into_iter().zip(&self.components).zip(&self.log_weights)
        {
            // A component without weight stays without, also where its density is infinite.
            column.assign(
                &law.log_density(x, at).mapv(|l| if *w == f64::NEG_INFINITY { *w } else { l + w }),
            );
        }
        let largest = Zip::from(joint.rows_mut()).and(x.rows()).map_collect(|mut row, x| {
            let mut largest = row.iter().copied().fold(f64::NEG_INFINITY, larger);
            if largest.is_finite() && 4.0 * f64::EPSILON * largest.abs() > TOLERANCE {
                // Each is a sum over the coordinates.
                let cutoff =
                    largest - NEGLIGIBLE - 4.0 * x.len() as f64 * f64::EPSILON * largest.abs();
                if row.iter().filter(|l| **l >= cutoff).count() > 1
                    && let Some(exact) = self.unrounded(x, at, row.view(), cutoff)
                {
                    largest =
                        exact.iter().flatten().map(|e| e.hi()).fold(f64::NEG_INFINITY, larger);
                    row.iter_mut().zip(&exact).for_each(|(l, e)| {
                        *l = e.map_or(f64::NEG_INFINITY, |e| (e - largest).hi())
                    });
                    return largest;
                }
            }
            // Infinities of one sign differ by 0.
            row.mapv_inplace(|l| if l == largest { 0.0 } else { l - largest });
            largest
        });
        (joint, largest)
    }

    /// `ln w_c + ln p_c(x_t)` unrounded for those components whose rounded one reaches `cutoff`;
    /// none at all where one is not finite.
    fn unrounded(
        &self,
        x: ArrayView1<f64>,
        at: &PathPoint,
        rounded: ArrayView1<f64>,
        cutoff: f64,
    ) -> Option<Vec<Option<Dd>>> {
        let each = self.components.iter().zip(&self.log_weights).zip(rounded);
        let exact: Vec<_> = each
            .map(|((law, w), l)| (*l >= cutoff).then(|| law.log_density_unrounded(x, at) + *w))
            .collect();
        exact.iter().flatten().all(|e| e.hi().is_finite()).then_some(exact)
    }

    /// `out = sum_c r_c f_c(x)` for each row.
    pub(crate) fn average(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
        f: impl Fn(&L, ArrayViewMut2<f64>) -> Result<()>,
    ) -> Result<()> {
        let r = self.responsibilities(x, at);
        let mut part = Array2::zeros(x.raw_dim());
        out.fill(0.0);
        for (law, r) in self.components.iter().zip(r.columns()) {
            f(law, part.view_mut())?;
            for ((mut out, part), &r) in out.rows_mut().into_iter().zip(part.rows()).zip(r) {
                // 0 times an infinite score would be NaN.
                if r != 0.0 {
                    out.scaled_add(r, &part);
                }
            }
        }
        Ok(())
    }

    /// How far each component's `f` at one state is from their average under the responsibilities
    /// `r`, shape (c, d).
    ///
    /// Taken from the differences to the likeliest component's, so that small weights move it by
    /// their own digits.
    fn deviations(
        &self,
        r: ArrayView1<f64>,
        d: usize,
        f: impl Fn(&L, ArrayViewMut2<f64>) -> Result<()>,
    ) -> Result<Array2<f64>> {
        let mut all = Array2::zeros((self.components.len(), d));
        for (law, row) in self.components.iter().zip(all.axis_chunks_iter_mut(Axis(0), 1)) {
            f(law, row)?;
        }
        let likeliest = (0..r.len())
            .reduce(|a, b| if r[b] > r[a] { b } else { a })
            .expect("a mixture has components");
        let reference = all.row(likeliest).to_owned();
        all -= &reference;
        let mean = r.dot(&all);
        Ok(all - mean)
    }
}

/// `ln sum exp(v)`, shifted by the largest; infinite where the largest is, NaN where one is.
fn log_sum_exp(v: ArrayView1<f64>) -> f64 {
    let largest = v.iter().copied().fold(f64::NEG_INFINITY, larger);
    if largest.is_infinite() && !v.iter().any(|v| v.is_nan()) {
        return largest;
    }
    largest + v.iter().map(|v| (v - largest).exp()).sum::<f64>().ln()
}

impl Mixture {
    /// `ln p(x_t)` of one state over any [`Scalar`], for derivatives in `x`, `alpha` and `sigma`.
    ///
    /// # Shapes
    /// `x` (d).
    pub fn log_density_of<S: Scalar>(&self, x: &[S], alpha: S, sigma: S) -> S {
        let terms: Vec<S> = self
            .components
            .iter()
            .zip(&self.log_weights)
            .map(|(c, &w)| c.log_density_of(x, alpha, sigma) + w)
            .collect();
        let largest = terms.iter().map(|t| t.re()).fold(f64::NEG_INFINITY, larger);
        terms.iter().fold(S::from(0.0), |sum, &t| sum + (t - largest).exp()).ln() + largest
    }
}

impl<L: Law> Denoiser for Mixture<L> {
    fn dim(&self) -> usize {
        self.components[0].dim()
    }

    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.average(x, at, out, |law, part| law.denoise(x, at, part))
    }
}

impl<L: Law> Law for Mixture<L> {
    fn mean(&self) -> Array1<f64> {
        let mut mean = Array1::zeros(self.dim());
        for (law, w) in self.components.iter().zip(&self.weights()) {
            mean.scaled_add(*w, &law.mean());
        }
        mean
    }

    fn cov(&self) -> Array2<f64> {
        let mean = Law::mean(self);
        let mut cov = Array2::zeros((self.dim(), self.dim()));
        for (law, w) in self.components.iter().zip(&self.weights()) {
            let shift = law.mean() - &mean;
            cov.scaled_add(*w, &(law.cov() + outer(shift.view(), shift.view())));
        }
        cov
    }

    fn log_density(&self, x: ArrayView2<f64>, at: &PathPoint) -> Array1<f64> {
        let (joint, largest) = self.log_joint(x, at);
        // Infinite where the largest is: its own difference is 0.
        joint
            .rows()
            .into_iter()
            .zip(largest)
            .map(|(row, largest)| log_sum_exp(row) + largest)
            .collect()
    }

    fn log_density_unrounded(&self, x: ArrayView1<f64>, at: &PathPoint) -> Dd {
        let joint = self.unrounded(x, at, self.log_weights.view(), f64::MIN);
        let Some(terms) = joint else {
            return self.log_density(x.insert_axis(Axis(0)), at)[0].into();
        };
        let largest = terms
            .iter()
            .flatten()
            .copied()
            .reduce(|a, b| if b > a { b } else { a })
            .expect("a mixture has a component with weight");
        largest + terms.iter().flatten().map(|t| (*t - largest).hi().exp()).sum::<f64>().ln()
    }

    fn translated(&self, by: ArrayView1<f64>) -> Option<Box<dyn Law>> {
        let components =
            self.components.iter().map(|law| law.translated(by)).collect::<Option<Vec<_>>>()?;
        Some(Box::new(Mixture { log_weights: self.log_weights.clone(), components }))
    }

    fn posterior_cov(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        let rows = x.insert_axis(Axis(0));
        let r = self.responsibilities(rows, at);
        let shifts = self.deviations(r.row(0), x.len(), |law, out| law.denoise(rows, at, out))?;
        let mut cov = Array2::zeros((x.len(), x.len()));
        for ((law, r), shift) in
            self.components.iter().zip(r.row(0)).zip(shifts.rows()).filter(|((_, r), _)| **r != 0.0)
        {
            cov.scaled_add(*r, &(law.posterior_cov(x, at)? + outer(shift, shift)));
        }
        Ok(cov)
    }

    /// The component of each draw is found by inversion of the cumulative weights; each component
    /// draws from a source of its own.
    fn sample(&self, n: usize, noise: &Noise) -> Array2<f64> {
        let chosen = choose(&self.weights(), n, noise);
        let mut counts = vec![0; self.components.len()];
        // The k-th draw of component c: the same whatever is drawn after it.
        let turns: Vec<usize> = chosen
            .iter()
            .map(|&c| {
                counts[c] += 1;
                counts[c] - 1
            })
            .collect();
        let key = |c: usize| {
            Noise::new((noise.uniform(SAMPLE_STREAM, u64::MAX - c as u64) * 2f64.powi(53)) as u64)
        };
        let draws: Vec<Array2<f64>> = self
            .components
            .iter()
            .zip(&counts)
            .enumerate()
            .map(|(c, (law, &n))| law.sample(n, &key(c)))
            .collect();
        let mut out = Array2::zeros((n, self.dim()));
        for ((mut row, &c), &k) in out.rows_mut().into_iter().zip(&chosen).zip(&turns) {
            row.assign(&draws[c].row(k));
        }
        out
    }

    /// # Formula
    /// `sum_c r_c (J_c + (x0_hat_c - x0_hat)(score_c - score)^T)`: no division by `sigma^2`.
    fn jacobian(&self, x: ArrayView1<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        let rows = x.insert_axis(Axis(0));
        let r = self.responsibilities(rows, at);
        let hats = self.deviations(r.row(0), x.len(), |law, out| law.denoise(rows, at, out))?;
        let scores = self.deviations(r.row(0), x.len(), |law, out| law.score(rows, at, out))?;
        let mut jacobian = Array2::zeros((x.len(), x.len()));
        for (c, law) in self.components.iter().enumerate().filter(|(c, _)| r[[0, *c]] != 0.0) {
            jacobian
                .scaled_add(r[[0, c]], &(law.jacobian(x, at)? + outer(hats.row(c), scores.row(c))));
        }
        Ok(jacobian)
    }

    /// The average of the components' own scores, which keep their digits at small `sigma`.
    fn score(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()> {
        self.average(x, at, out, |law, part| law.score(x, at, part))
    }
}

/// `n` independent indices with the given probabilities, by inversion of their cumulative sum.
pub(crate) fn choose(weights: &Array1<f64>, n: usize, noise: &Noise) -> Vec<usize> {
    let mut cumulative = weights.clone();
    cumulative.accumulate_axis_inplace(Axis(0), |previous, sum| *sum += previous);
    let last = cumulative.len() - 1;
    let total = cumulative[last];
    let cumulative = cumulative.to_vec();
    (0..n)
        .map(|i| {
            cumulative
                .partition_point(|c| *c <= noise.uniform(SAMPLE_STREAM, i as u64) * total)
                .min(last)
        })
        .collect()
}

fn outer(a: ArrayView1<f64>, b: ArrayView1<f64>) -> Array2<f64> {
    let (column, row) = (a.insert_axis(Axis(1)), b.insert_axis(Axis(0)));
    &column * &row
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::level::Rates;
    use crate::math::moments::{Normalisation, mean_and_cov};
    use crate::math::quadrature::IntervalRule;
    use ndarray::{array, s};
    use num_dual::{Dual2_64, Dual64, DualNum};
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    const EPS: f64 = f64::EPSILON;

    /// `k` components with full covariances in dimension d, deviations from about 0.3 to 1.5.
    fn random_mixture(d: usize, k: usize, seed: u64) -> Mixture {
        let noise = Noise::new(seed);
        let components = (0..k as u64).map(|c| {
            let b = Array2::from_shape_fn((d, d), |(i, j)| {
                0.5 * noise.normal(10 + c, (i * d + j) as u64) + if i == j { 0.7 } else { 0.0 }
            });
            let cov = b.dot(&b.t()) + Array2::<f64>::eye(d) * 0.1;
            Gaussian::new(
                Array1::from_shape_fn(d, |i| 1.5 * noise.normal(100 + c, i as u64)),
                cov.view(),
            )
            .unwrap()
        });
        Mixture::new(
            Array1::from_shape_fn(k, |c| 0.2 + noise.uniform(0, c as u64)),
            components.collect(),
        )
        .unwrap()
    }

    fn state(d: usize, seed: u64) -> Array2<f64> {
        let noise = Noise::new(seed);
        Array2::from_shape_fn((1, d), |(_, j)| 1.5 * noise.normal(5, j as u64))
    }

    proptest! {
        /// Second route: quadrature of the joint density over x0, and nothing of the laws' code.
        #[test]
        fn equals_quadrature_of_the_posterior(
            means in prop::array::uniform3(-2.0..2.0f64), vars in prop::array::uniform3(0.05..2.0f64), weights in prop::array::uniform3(0.1..1.0f64),
            alpha in 0.1..1.2f64, sigma in 0.2..2.0f64, x in -3.0..3.0f64,
        ) {
            let components = means.iter().zip(vars).map(|(m, v)| Gaussian::isotropic(array![*m], v).unwrap()).collect();
            let law = Mixture::new(Array1::from(weights.to_vec()), components).unwrap();
            let at = PathPoint::still(alpha, sigma);
            let normal = |z: f64, var: f64| (-z * z / (2.0 * var)).exp() / (TAU * var).sqrt();
            let prior = |x0: f64| (0..3).map(|c| weights[c] / weights.iter().sum::<f64>() * normal(x0 - means[c], vars[c])).sum::<f64>();
            // Panels of 0.5, below every length scale times 2.5, over 8.5 deviations of the widest
            // component and more.
            let rule = IntervalRule::new(24).unwrap();
            let moment = |f: &dyn Fn(f64) -> f64| -> f64 {
                (-32..32).map(|k| rule.integral(k as f64 * 0.5, (k + 1) as f64 * 0.5, |x0| f(x0) * prior(x0) * normal(x - alpha * x0, sigma * sigma))).sum()
            };
            let density = moment(&|_| 1.0);
            let mean = moment(&|x0| x0) / density;
            let var = moment(&|x0| (x0 - mean).powi(2)) / density;
            let state = array![[x]];
            let mut got = Array2::zeros((1, 1));
            law.denoise(state.view(), &at, got.view_mut()).unwrap();
            // Quadrature of 64 panels rounds to 1e-13 of its largest terms.
            prop_assert!((law.log_density(state.view(), &at)[0] - density.ln()).abs() <= 1e-11);
            prop_assert!((got[[0, 0]] - mean).abs() <= 1e-11 * (1.0 + mean.abs()));
            prop_assert!((law.posterior_cov(state.row(0), &at).unwrap()[[0, 0]] - var).abs() <= 1e-11);
            law.score(state.view(), &at, got.view_mut()).unwrap();
            prop_assert!((got[[0, 0]] - (alpha * mean - x) / sigma.powi(2)).abs() <= 1e-11 / sigma.powi(2));
            prop_assert!((law.jacobian(state.row(0), &at).unwrap()[[0, 0]] - alpha * var / sigma.powi(2)).abs() <= 1e-11 / sigma.powi(2));
        }

        /// Score and Jacobian as first and second dual-number derivatives of the log density, in
        /// any dimension.
        #[test]
        fn score_and_jacobian_are_derivatives(d in 1usize..4, k in 1usize..4, seed: u64, alpha in 0.05..1.2f64, log_sigma in -2.0..1.0f64) {
            let (law, x) = (random_mixture(d, k, seed), state(d, seed));
            let at = PathPoint::still(alpha, log_sigma.exp());
            let mut score = Array2::zeros((1, d));
            law.score(x.view(), &at, score.view_mut()).unwrap();
            let jacobian = law.jacobian(x.row(0), &at).unwrap();
            let by_cov = law.posterior_cov(x.row(0), &at).unwrap() * (alpha / at.sigma.powi(2));
            let noise = at.sigma.powi(2);
            for j in 0..d {
                let dual: Vec<Dual2_64> = (0..d).map(|i| Dual2_64::new(x[[0, i]], f64::from(i == j), 0.0)).collect();
                let l = law.log_density_of(&dual, alpha.into(), at.sigma.into());
                // Sizes of the terms: precision times |x - alpha m|, squared in the second
                // derivative; precisions reach 1 / noise at most.
                let size = 10.0 * (1.0 + x.iter().map(|x| x.abs()).fold(0.0, larger)) / (0.1 * alpha * alpha + noise);
                prop_assert!((law.log_density(x.view(), &at)[0] - l.re).abs() <= 256.0 * EPS * (1.0 + size * size));
                prop_assert!((score[[0, j]] - l.v1).abs() <= 256.0 * EPS * size * (1.0 + size * size));
                // d score / dx = (alpha J - 1) / sigma^2.
                prop_assert!((jacobian[[j, j]] - (1.0 + noise * l.v2) / alpha).abs() <= 1024.0 * EPS * (1.0 + noise * size * size * (1.0 + size * size)) / alpha);
                for i in 0..d {
                    prop_assert!((jacobian[[i, j]] - by_cov[[i, j]]).abs() <= 1024.0 * EPS * (1.0 + size * size) * (1.0 + 1.0 / noise));
                }
            }
        }

        /// The partial differential equations of diffusion, with the time derivative by dual
        /// numbers through alpha(t), sigma(t), and space derivatives by second-order dual numbers:
        /// relative to the sum of the terms' magnitudes.
        #[test]
        fn fokker_planck_liouville_and_heat_equation(d in 1usize..3, k in 1usize..4, seed: u64, t in 0.05..0.95f64) {
            let (law, x) = (random_mixture(d, k, seed), state(d, seed));
            let (mut slope, mut curvature) = (vec![0.0; d], vec![0.0; d]);
            let mut space = |alpha: f64, sigma: f64| {
                for j in 0..d {
                    let dual: Vec<Dual2_64> = (0..d).map(|i| Dual2_64::new(x[[0, i]], f64::from(i == j), 0.0)).collect();
                    let l = law.log_density_of(&dual, alpha.into(), sigma.into());
                    (slope[j], curvature[j]) = (l.v1, l.v2);
                }
                (slope.clone(), curvature.clone())
            };
            let rate = |alpha: Dual64, sigma: Dual64| {
                let fixed: Vec<Dual64> = x.iter().map(|&x| x.into()).collect();
                law.log_density_of(&fixed, alpha, sigma).eps
            };
            let residual = |terms: &[f64]| terms.iter().sum::<f64>().abs() / terms.iter().map(|t| t.abs()).sum::<f64>();
            let time = Dual64::new(t, 1.0);

            // Heat equation: dx = dW has alpha = 1, sigma = sqrt(t), and dp/dt = (1/2) laplacian p.
            let (alpha, sigma) = (Dual64::from(1.0), time.sqrt());
            let (g, c) = space(alpha.re, sigma.re);
            let half_laplacian = |g: &[f64], c: &[f64], diffusion: f64| -> Vec<f64> {
                g.iter().zip(c).flat_map(|(g, c)| [-0.5 * diffusion * c, -0.5 * diffusion * g * g]).collect()
            };
            let mut terms = vec![rate(alpha, sigma)];
            terms.extend(half_laplacian(&g, &c, 1.0));
            prop_assert!(residual(&terms) <= 1e-10);

            // Fokker-Planck of the VP equation dx = -beta x / 2 dt + sqrt(beta) dW with beta = 0.1 + 19.9 t.
            let beta = 0.1 + 19.9 * t;
            let integral = time * 0.1 + time * time * (0.5 * 19.9);
            let (alpha, sigma) = ((integral * -0.5).exp(), (-(-integral).exp_m1()).sqrt());
            let (g, c) = space(alpha.re, sigma.re);
            let mut terms = vec![rate(alpha, sigma), -0.5 * beta * d as f64];
            terms.extend(x.iter().zip(&g).map(|(x, g)| -0.5 * beta * x * g));
            terms.extend(half_laplacian(&g, &c, beta));
            prop_assert!(residual(&terms) <= 1e-10);

            // Liouville with the PF-ODE velocity from the law's own denoiser and Jacobian, on a
            // path of flow matching.
            let (alpha, sigma) = (-time + 1.0, time);
            let (g, _) = space(alpha.re, sigma.re);
            let at = PathPoint { alpha: alpha.re, sigma: sigma.re, t: Some(t), rates: Some(Rates::new(alpha.eps, sigma.eps)) };
            let mut x0_hat = Array2::zeros((1, d));
            law.denoise(x.view(), &at, x0_hat.view_mut()).unwrap();
            let jacobian = law.jacobian(x.row(0), &at).unwrap();
            let mut terms = vec![rate(alpha, sigma)];
            for j in 0..d {
                // velocity = d_alpha x0_hat + d_sigma (x - alpha x0_hat) / sigma
                let rates = at.rates.unwrap();
                let drift = rates.alpha - rates.sigma * at.alpha / at.sigma;
                terms.extend([drift * jacobian[[j, j]], rates.sigma / at.sigma]);
                terms.extend([drift * x0_hat[[0, j]] * g[j], rates.sigma / at.sigma * x[[0, j]] * g[j]]);
            }
            prop_assert!(residual(&terms) <= 1e-10, "{:?}", terms);
        }

        /// Composition: mixing the parts of a split component changes nothing, and a mixture of one
        /// component is that component.
        #[test]
        fn a_split_component_is_the_same_law(d in 1usize..4, seed: u64, share in 0.01..0.99f64, alpha in 0.0..1.2f64, sigma in 0.05..2.0f64) {
            let whole = random_mixture(d, 2, seed);
            let w = whole.weights();
            let c = whole.components();
            let split = Mixture::new(array![w[0] * share, w[0] * (1.0 - share), w[1], 0.0], vec![c[0].clone(), c[0].clone(), c[1].clone(), c[0].clone()]).unwrap();
            let (x, at) = (state(d, seed), PathPoint::still(alpha, sigma));
            let (mut a, mut b) = (Array2::zeros((1, d)), Array2::zeros((1, d)));
            whole.denoise(x.view(), &at, a.view_mut()).unwrap();
            split.denoise(x.view(), &at, b.view_mut()).unwrap();
            let r = split.responsibilities(x.view(), &at);
            prop_assert!((r.sum() - 1.0).abs() <= 8.0 * EPS);
            prop_assert_eq!(r[[0, 3]], 0.0);
            let condition = 1.0 + (x.dot(&x.t())[[0, 0]] + 20.0) / (0.1 * alpha * alpha + sigma * sigma);
            prop_assert!((&a - &b).iter().all(|e| e.abs() <= 64.0 * EPS * condition * 10.0));
            prop_assert!((whole.log_density(x.view(), &at)[0] - split.log_density(x.view(), &at)[0]).abs() <= 64.0 * EPS * condition);
            prop_assert!((&Law::cov(&whole) - &Law::cov(&split)).iter().all(|e| e.abs() <= 64.0 * EPS * 100.0));
            prop_assert!((&Law::mean(&whole) - &Law::mean(&split)).iter().all(|e| e.abs() <= 64.0 * EPS * 10.0));
        }
    }

    #[test]
    fn samples_have_the_law_s_moments() {
        let law = random_mixture(3, 3, 11);
        let n = 40_000;
        let draws = law.sample(n, &Noise::new(3));
        let (mean, cov) = mean_and_cov(draws.view(), Normalisation::Points).unwrap();
        let want = Law::cov(&law);
        for i in 0..3 {
            // Five standard errors; the fourth moment of a mixture is at most a few times the
            // Gaussian's.
            assert!((mean[i] - Law::mean(&law)[i]).abs() <= 5.0 * (want[[i, i]] / n as f64).sqrt());
            for j in 0..3 {
                let error =
                    ((want[[i, i]] * want[[j, j]] + want[[i, j]].powi(2)) / n as f64).sqrt();
                assert!((cov[[i, j]] - want[[i, j]]).abs() <= 7.0 * error);
            }
        }
        assert!(
            (&law.sample(10, &Noise::new(3)) - &draws.slice(s![..10, ..]))
                .iter()
                .all(|e| e.abs() <= 1e-14)
        );
    }

    #[test]
    fn ends() {
        // Two point masses: at sigma = 0 the one that is hit; far from both at small sigma still a
        // probability.
        let point = |m: f64| Gaussian::isotropic(array![m], 0.0).unwrap();
        let law = Mixture::new(array![1.0, 3.0], vec![point(-1.0), point(1.0)]).unwrap();
        let x = array![[1.0], [-1.0], [1e8]];
        assert_eq!(
            law.responsibilities(x.slice(s![..2, ..]), &PathPoint::CLEAN),
            array![[0.0, 1.0], [1.0, 0.0]]
        );
        assert!(
            law.responsibilities(x.slice(s![2.., ..]), &PathPoint::CLEAN)
                .iter()
                .all(|r| r.is_nan())
        );
        assert_eq!(
            law.responsibilities(x.view(), &PathPoint::still(1.0, 1e-3)).column(1).to_vec(),
            [1.0, 0.0, 1.0]
        );
        assert!(
            (&law.responsibilities(x.slice(s![..2, ..]), &PathPoint::NOISE) - &array![0.25, 0.75])
                .iter()
                .all(|e| e.abs() <= 2.0 * EPS)
        );
        let mut out = Array2::zeros((2, 1));
        law.denoise(x.slice(s![..2, ..]), &PathPoint::CLEAN, out.view_mut()).unwrap();
        assert_eq!(out, array![[1.0], [-1.0]]);
        assert!(
            law.jacobian(array![1.0].view(), &PathPoint::CLEAN).unwrap().iter().all(|v| *v == 0.0)
        );
    }

    #[test]
    fn refuses_what_is_no_mixture() {
        let g = |d: usize| Gaussian::isotropic(Array1::zeros(d), 1.0).unwrap();
        assert!(Mixture::<Gaussian>::new(array![], vec![]).is_err());
        assert!(Mixture::new(array![1.0], vec![g(1), g(1)]).is_err());
        assert!(Mixture::new(array![1.0, 1.0], vec![g(1), g(2)]).is_err());
        assert!(Mixture::new(array![1.0, -1.0], vec![g(1), g(1)]).is_err());
        assert!(Mixture::new(array![0.0, 0.0], vec![g(1), g(1)]).is_err());
        assert!(Mixture::new(array![f64::NAN, 0.0], vec![g(1), g(1)]).is_err());
    }

    #[test]
    fn infinities_in_a_log_sum() {
        let inf = f64::INFINITY;
        assert_eq!(log_sum_exp(array![-inf, -inf].view()), -inf);
        assert_eq!(log_sum_exp(array![inf, 0.0].view()), inf);
        assert_eq!(log_sum_exp(array![-inf, 3.0].view()), 3.0);
        assert!(
            log_sum_exp(array![f64::NAN, inf].view()).is_nan()
                && log_sum_exp(array![-inf, f64::NAN].view()).is_nan()
        );
    }

    #[test]
    fn components_draw_from_sources_of_their_own() {
        // Two components of one law: were their sources the same, their k-th draws would be too.
        let part = || Gaussian::isotropic(array![0.0], 1.0).unwrap();
        let law = Mixture::new(array![0.5, 0.5], vec![part(), part()]).unwrap();
        for seed in 0..4 {
            let mut draws = law.sample(200, &Noise::new(seed)).into_raw_vec_and_offset().0;
            draws.sort_by(f64::total_cmp);
            assert!(draws.windows(2).all(|w| w[0] != w[1]), "seed {seed}");
        }
        // And they depend on the seed.
        let [a, b] = [1, 2].map(|seed| law.sample(200, &Noise::new(seed)));
        assert!(a.iter().all(|a| b.iter().all(|b| a != b)));
    }

    fn masses(weights: Array1<f64>, points: &[f64]) -> Mixture {
        let mass = |m: &f64| Gaussian::isotropic(array![*m], 0.0).unwrap();
        Mixture::new(weights, points.iter().map(mass).collect()).unwrap()
    }

    /// Components that differ by a rotation of their means are equally likely on the diagonal,
    /// however far away it is.
    #[test]
    fn ties_survive_the_rounding_of_their_densities() {
        for (d, seed) in [(2, 1), (3, 2), (17, 3), (39, 4), (40, 5)] {
            let noise = Noise::new(seed);
            let y: Vec<f64> = (0..d).map(|j| noise.normal(0, j as u64)).collect();
            let components = (0..d).map(|i| {
                let mean = Array1::from_shape_fn(d, |j| y[(i + j) % d]);
                Gaussian::isotropic(mean, 0.0).unwrap()
            });
            let law = Mixture::new(Array1::ones(d), components.collect()).unwrap();
            let x = Array2::from_elem((1, d), 1.25);
            for sigma in [1e-9, 1e-8, 1e-6, 1e-3] {
                let p = law.responsibilities(x.view(), &PathPoint::still(1.0, sigma));
                assert!(p.iter().all(|p| (p * d as f64 - 1.0).abs() <= 1e-10), "{d} {sigma}: {p}");
            }
        }
    }

    #[test]
    fn far_from_the_origin_the_spread_keeps_its_digits() {
        // As for the empirical law: two points, whose variance is 1 - mean^2 about their middle.
        let far = 2f64.powi(40);
        let law = masses(array![1.0, 1.0], &[far - 1.0, far + 1.0]);
        let (x, at) = (array![far + 0.5], PathPoint::still(1.0, 1.5));
        let var = 1.0 - (0.5f64 / 2.25).tanh().powi(2);
        assert!((law.posterior_cov(x.view(), &at).unwrap()[[0, 0]] - var).abs() <= 1e-14);
        assert!((law.jacobian(x.view(), &at).unwrap()[[0, 0]] - var / 2.25).abs() <= 1e-14);
    }

    /// A component in several parts is that component: what is left of a variance is another
    /// one's tiny weight, to that weight's own digits.
    #[test]
    fn a_tiny_weight_s_variance_keeps_its_digits() {
        let (x, at) = (array![0.0], PathPoint::still(1.0, (1.0f64 / 184.0).sqrt()));
        for parts in 3..40 {
            let mut points = vec![0.0; parts + 1];
            points[0] = 1.0;
            let mut weights = Array1::from_shape_fn(parts + 1, |j| j as f64 + 0.3);
            weights[0] = weights.slice(s![1..]).sum();
            let law = masses(weights, &points);
            let weight = (-92.0f64).exp();
            let var = law.posterior_cov(x.view(), &at).unwrap()[[0, 0]];
            assert!((var / weight - 1.0).abs() <= 1e-12, "{parts}: {var} {weight}");
            let jacobian = law.jacobian(x.view(), &at).unwrap()[[0, 0]];
            assert!((jacobian / (184.0 * weight) - 1.0).abs() <= 1e-12, "{parts}: {jacobian}");
        }
    }

    /// Second route: the empirical law, which sums in another way; and the rounded density.
    #[test]
    fn unrounded_densities_are_those_of_the_law() {
        let (weights, points) = (array![1.0, 2.0, 1.0, 0.0], array![[40.0], [0.25], [-0.5], [0.0]]);
        let law = masses(weights.clone(), points.as_slice().unwrap());
        let empirical = crate::law::empirical::Empirical::weighted(points, weights).unwrap();
        for (x, sigma) in [(0.0, 0.5), (1.0, 0.1), (40.0, 0.3), (20.0, 1.0), (1e7, 0.5)] {
            let at = PathPoint::still(1.0, sigma);
            let got = law.log_density_unrounded(array![x].view(), &at);
            let want = empirical.log_density_unrounded(array![x].view(), &at);
            assert!(((got - want).hi()).abs() <= 1e-13, "{x} {sigma}: {got:?} {want:?}");
            let rounded = law.log_density(array![[x]].view(), &at)[0];
            assert!((got.hi() / rounded - 1.0).abs() <= 4.0 * EPS, "{x} {sigma}");
        }
    }
}
