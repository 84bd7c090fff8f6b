//! The linear-Gaussian VAE (probabilistic PCA): log evidence, ELBO of any Gaussian encoder, and the
//! gap between them.

use crate::diffusion::PathPoint;
use crate::error::{Error, Result, finite};
use crate::law::{Gaussian, Law};
use nalgebra::{Cholesky, DMatrix};
use ndarray::{Array1, Array2, ArrayView1, ArrayView2, Axis, s};
use std::f64::consts::TAU;

/// Decoder `x = mean + weights z + sqrt(noise_var) eps` with the prior `z ~ N(0, I)`.
#[derive(Clone, Debug)]
pub struct LinearVae {
    mean: Array1<f64>,
    weights: Array2<f64>,
    noise_var: f64,
}

/// Encoder `q(z | x) = N(gain (x - mean) + shift, cov)`, with the decoder's mean.
#[derive(Clone, Debug)]
pub struct Encoder {
    /// Shape (k, d).
    pub gain: Array2<f64>,
    /// Shape (k).
    pub shift: Array1<f64>,
    /// Shape (k, k), positive definite.
    pub cov: Array2<f64>,
}

/// The `kept` largest modes as columns, each as long as the decoder's own part of its deviation.
fn scaled_modes(data: &Gaussian, kept: usize, noise_var: f64) -> Array2<f64> {
    &data.modes().slice(s![.., ..kept])
        * &data.variances().slice(s![..kept]).mapv(|l| (l - noise_var).sqrt())
}

impl LinearVae {
    /// From the decoder's mean (d), weights (d, k) and noise variance.
    ///
    /// # Errors
    /// Shapes that do not fit; NaN; a noise variance that is not positive (the evidence is then
    /// singular, or infinite).
    pub fn new(mean: Array1<f64>, weights: Array2<f64>, noise_var: f64) -> Result<Self> {
        finite("mean", mean.iter())?;
        finite("weights", weights.iter())?;
        if weights.nrows() != mean.len() {
            return Err(Error::shape(
                "weights",
                weights.shape(),
                format!("({}, k)", mean.len()),
                "one row for each coordinate",
            ));
        }
        if !(noise_var > 0.0 && noise_var.is_finite()) {
            return Err(Error::domain(
                "noise variance",
                noise_var,
                "positive and finite",
                "add the decoder's noise",
            ));
        }
        Ok(Self { mean, weights, noise_var })
    }

    /// The model of highest likelihood with `k` latent dimensions, for data with the moments of
    /// `data`.
    ///
    /// # Formula
    /// `noise_var = mean of the discarded variances`,
    /// `weights = U_k (Lambda_k - noise_var I)^(1/2)` with the k largest modes.
    ///
    /// # Errors
    /// `k >= d`, or no variance left to discard: the noise variance would be 0 and the likelihood
    /// infinite.
    ///
    /// # Source
    /// Tipping and Bishop 1999, "Probabilistic principal component analysis", eqs. 7 and 8.
    ///
    /// # Example
    /// ```
    /// use ndarray::array;
    /// use tweedie::{exact::vae::LinearVae, law::Gaussian};
    /// let data = Gaussian::diagonal(array![0.0, 0.0, 0.0], array![5.0, 2.0, 0.0]).unwrap();
    /// let vae = LinearVae::max_likelihood(&data, 1).unwrap();
    /// assert_eq!((vae.noise_var(), vae.weights()[[0, 0]]), (1.0, 2.0));
    /// ```
    pub fn max_likelihood(data: &Gaussian, k: usize) -> Result<Self> {
        let (d, r) = (data.dim(), data.rank());
        if k >= d {
            return Err(Error::domain(
                "latent dimensions",
                k,
                format!("less than d = {d}"),
                "keep at least one direction for the noise",
            ));
        }
        let noise_var = data.variances().iter().skip(k).sum::<f64>() / (d - k) as f64;
        let mut weights = Array2::zeros((d, k));
        weights.slice_mut(s![.., ..k.min(r)]).assign(&scaled_modes(data, k.min(r), noise_var));
        Self::new(data.mean().to_owned(), weights, noise_var)
    }

    /// The model of highest likelihood with a decoder noise that is given, for data with the
    /// moments of `data`: a latent for each mode of variance above the noise, none for the others,
    /// which have collapsed.
    ///
    /// # Formula
    /// `weights = U_k (Lambda_k - noise_var I)^(1/2)` with the modes of `lambda > noise_var`. Under
    /// its optimal encoder a latent costs `ln(lambda / noise_var) / 2` nats on the average, and
    /// every mode is off by `min(lambda, noise_var)` in mean square: the least rate of any code
    /// with this error ([`rate`](super::rate_distortion::rate)).
    ///
    /// # Errors
    /// A noise variance that is not positive.
    ///
    /// # Source
    /// Tipping and Bishop 1999, appendix A; Lucas et al. 2019, "Don't blame the ELBO!", for the
    /// collapse.
    pub fn with_noise(data: &Gaussian, noise_var: f64) -> Result<Self> {
        let kept = data.variances().iter().filter(|l| **l > noise_var).count();
        Self::new(data.mean().to_owned(), scaled_modes(data, kept, noise_var), noise_var)
    }

    /// Variance of the decoder's noise.
    pub fn noise_var(&self) -> f64 {
        self.noise_var
    }
    /// Weights, shape (d, k).
    pub fn weights(&self) -> ArrayView2<'_, f64> {
        self.weights.view()
    }

    /// Log evidence `ln p(x)` of each row, in nats.
    ///
    /// # Formula
    /// `ln N(x; mean, weights weights^T + noise_var I)`: the noised marginal of a low-rank Gaussian
    /// at `alpha = 1`, `sigma^2 = noise_var`.
    ///
    /// # Shapes
    /// `x` (n, d), result (n).
    ///
    /// # Errors
    /// `x` that does not fit.
    pub fn log_evidence(&self, x: ArrayView2<f64>) -> Result<Array1<f64>> {
        let x = self.fitting(x)?;
        let signal = Gaussian::new(self.mean.clone(), self.weights.dot(&self.weights.t()).view())?;
        Ok(signal.log_density(x, &PathPoint::still(1.0, self.noise_var.sqrt())))
    }

    /// The exact posterior as an encoder: the one that closes the gap.
    ///
    /// # Formula
    /// `precision = I + weights^T weights / noise_var`,
    /// `gain = precision^-1 weights^T / noise_var`, `shift = 0`, `cov = precision^-1`.
    ///
    /// # Source
    /// Tipping and Bishop 1999, eq. 6; Lucas et al. 2019, "Don't blame the ELBO!".
    pub fn optimal_encoder(&self) -> Encoder {
        let cov = Cholesky::new_unchecked(self.posterior_precision()).inverse();
        let cov = Array2::from_shape_fn((self.weights.ncols(), self.weights.ncols()), |(i, j)| {
            0.5 * (cov[(i, j)] + cov[(j, i)])
        });
        Encoder {
            gain: cov.dot(&self.weights.t()) / self.noise_var,
            shift: Array1::zeros(self.weights.ncols()),
            cov,
        }
    }

    /// Evidence lower bound of each row under an encoder, in nats.
    ///
    /// # Formula
    /// `E_q ln p(x | z) - KL(q(z | x) || N(0, I))`, with `m` the encoder's mean at `x`: `-(d ln(2
    /// pi noise_var) + (|x - mean - weights m|^2 + tr(weights cov weights^T)) / noise_var) / 2 -
    /// (tr cov + |m|^2 - k - ln det cov) / 2`.
    ///
    /// # Shapes
    /// `x` (n, d), result (n).
    ///
    /// # Errors
    /// Shapes that do not fit; an encoder covariance that is not positive definite.
    ///
    /// # Source
    /// Kingma and Welling 2014, "Auto-encoding variational Bayes", eq. 3.
    pub fn elbo(&self, x: ArrayView2<f64>, encoder: &Encoder) -> Result<Array1<f64>> {
        let (distortion, rate) = self.distortion_and_rate(x, encoder)?;
        let d = self.mean.len() as f64;
        Ok((distortion / self.noise_var + d * (TAU * self.noise_var).ln()) * -0.5 - rate)
    }

    /// The two parts of the bound, for each row: squared error of the decoded mean, expected under
    /// the encoder, and the nats that its latents cost.
    ///
    /// # Formula
    /// With `m` the encoder's mean at `x`: `|x - mean - weights m|^2 + tr(weights cov weights^T)`,
    /// and `KL(q(z | x) || N(0, I)) = (tr cov + |m|^2 - k - ln det cov) / 2`.
    ///
    /// # Shapes
    /// `x` (n, d), results (n).
    ///
    /// # Errors
    /// As [`elbo`](Self::elbo).
    pub fn distortion_and_rate(
        &self,
        x: ArrayView2<f64>,
        encoder: &Encoder,
    ) -> Result<(Array1<f64>, Array1<f64>)> {
        let (latents, log_det) = self.encode(x, encoder)?;
        let spread = self.weights.dot(&encoder.cov).dot(&self.weights.t()).diag().sum();
        let residual = &x - &self.mean - &latents.dot(&self.weights.t());
        let constant = encoder.cov.diag().sum() - self.weights.ncols() as f64 - log_det;
        Ok((row_squares(&residual) + spread, (row_squares(&latents) + constant) * 0.5))
    }

    /// What the bound misses, for each row, in nats: `KL(q(z | x) || p(z | x))`.
    ///
    /// # Formula
    /// `(tr(precision cov) - k - ln det(precision cov) + (m - m*)^T precision (m - m*)) / 2` with
    /// `m*` the optimal encoder's mean; `elbo + gap = log_evidence`.
    ///
    /// # Shapes
    /// `x` (n, d), result (n).
    ///
    /// # Errors
    /// As [`elbo`](Self::elbo).
    pub fn gap(&self, x: ArrayView2<f64>, encoder: &Encoder) -> Result<Array1<f64>> {
        let (latents, log_det) = self.encode(x, encoder)?;
        let (best, _) = self.encode(x, &self.optimal_encoder())?;
        let k = self.weights.ncols();
        let root = Cholesky::new_unchecked(self.posterior_precision()).l();
        let root_t = Array2::from_shape_fn((k, k), |(i, j)| root[(j, i)]);
        let log_det_precision = 2.0 * root.diagonal().map(f64::ln).sum();
        let trace = root_t.dot(&encoder.cov).dot(&root_t.t()).diag().sum();
        let miss = (latents - best).dot(&root_t.t());
        Ok((row_squares(&miss) + (trace - k as f64 - log_det - log_det_precision)) * 0.5)
    }

    /// Encoder means of each row, shape (n, k), and `ln det` of the encoder's covariance.
    fn encode(&self, x: ArrayView2<f64>, encoder: &Encoder) -> Result<(Array2<f64>, f64)> {
        let x = self.fitting(x)?;
        let (d, k) = self.weights.dim();
        if encoder.gain.dim() != (k, d) || encoder.shift.len() != k || encoder.cov.dim() != (k, k) {
            let want = format!("gain ({k}, {d}), shift ({k}), cov ({k}, {k})");
            return Err(Error::shape(
                "encoder",
                encoder.gain.shape(),
                want,
                "one latent for each column of the weights",
            ));
        }
        let cov = DMatrix::from_fn(k, k, |i, j| encoder.cov[[i, j]]);
        let Some(root) = Cholesky::new(cov) else {
            return Err(Error::domain(
                "encoder covariance",
                "not positive definite",
                "a positive definite matrix",
                "exponentiate log-variances",
            ));
        };
        let log_det = 2.0 * root.l().diagonal().map(f64::ln).sum();
        Ok(((&x - &self.mean).dot(&encoder.gain.t()) + &encoder.shift, log_det))
    }

    /// `I + weights^T weights / noise_var`, at least the identity, hence always with a Cholesky
    /// factor.
    fn posterior_precision(&self) -> DMatrix<f64> {
        let gram = self.weights.t().dot(&self.weights);
        DMatrix::from_fn(gram.nrows(), gram.ncols(), |i, j| {
            gram[[i, j]] / self.noise_var + if i == j { 1.0 } else { 0.0 }
        })
    }

    fn fitting<'a>(&self, x: ArrayView2<'a, f64>) -> Result<ArrayView2<'a, f64>> {
        crate::exact::pf_ode::fitting(self.mean.len(), x)
    }
}

fn row_squares(x: &Array2<f64>) -> Array1<f64> {
    x.map_axis(Axis(1), |row: ArrayView1<f64>| row.dot(&row))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::exact::testing::*;
    use crate::math::gaussian::{Covariance, Normal};
    use nalgebra::DVector;
    use proptest::prelude::*;

    const D: usize = 4;
    const K: usize = 2;

    fn vae() -> impl Strategy<Value = LinearVae> {
        // Weights may be 0, or of rank 1: directions of no effect, as in posterior collapse.
        (any::<u64>(), -2.0..1.0f64, 0u8..3).prop_map(|(seed, e, kind)| {
            let mut weights = normal_rows(D, K, seed);
            match kind {
                0 => weights.fill(0.0),
                1 => weights.column_mut(1).fill(0.0),
                _ => (),
            }
            LinearVae::new(normal_rows(1, D, seed ^ 1).row(0).to_owned(), weights, 10f64.powf(e))
                .unwrap()
        })
    }

    fn encoder() -> impl Strategy<Value = Encoder> {
        any::<u64>().prop_map(|seed| {
            let root = normal_rows(K, K, seed);
            let cov = root.dot(&root.t()) + Array2::<f64>::eye(K) * 0.05;
            Encoder {
                gain: normal_rows(K, D, seed ^ 2),
                shift: normal_rows(1, K, seed ^ 3).row(0).to_owned(),
                cov,
            }
        })
    }

    /// The joint law of (z, x), built without any formula of this file.
    fn joint(vae: &LinearVae) -> Normal {
        let prior = Normal::new(DVector::zeros(K), Covariance::Isotropic(1.0)).unwrap();
        let weights = DMatrix::from_fn(D, K, |i, j| vae.weights[[i, j]]);
        prior
            .joint(
                &weights,
                &DVector::from_iterator(D, vae.mean.iter().copied()),
                Covariance::Isotropic(vae.noise_var),
            )
            .unwrap()
    }

    proptest! {
        #[test]
        fn the_evidence_and_posterior_are_those_of_the_joint(vae in vae(), seed: u64) {
            let x = normal_rows(1, D, seed);
            let row = x.row(0).to_vec();
            let on: Vec<usize> = (K..K + D).collect();
            let want = joint(&vae).marginal(&on).unwrap().log_density(&DVector::from_vec(row.clone())).unwrap();
            let got = vae.log_evidence(x.view()).unwrap()[0];
            // Both solve with a covariance of condition up to 20 / noise_var.
            let condition = 1.0 + 20.0 / vae.noise_var;
            prop_assert!((got - want).abs() <= 64.0 * f64::EPSILON * condition * (1.0 + want.abs()));
            let (posterior, best) = (joint(&vae).condition(&on, &row).unwrap(), vae.optimal_encoder());
            let (mean, _) = vae.encode(x.view(), &best).unwrap();
            for i in 0..K {
                prop_assert!((mean[[0, i]] - posterior.mean()[i]).abs() <= 64.0 * f64::EPSILON * condition * 10.0);
                for j in 0..K {
                    prop_assert!((best.cov[[i, j]] - posterior.cov_matrix()[(i, j)]).abs() <= 64.0 * f64::EPSILON * condition);
                }
            }
        }

        #[test]
        fn the_bound_and_the_gap_make_the_evidence(vae in vae(), encoder in encoder(), seed: u64) {
            let x = normal_rows(3, D, seed);
            let (elbo, gap, evidence) = (vae.elbo(x.view(), &encoder).unwrap(), vae.gap(x.view(), &encoder).unwrap(), vae.log_evidence(x.view()).unwrap());
            for i in 0..3 {
                prop_assert!(gap[i] >= 0.0);
                prop_assert!((elbo[i] + gap[i] - evidence[i]).abs() <= 256.0 * f64::EPSILON * (elbo[i].abs() + 20.0 / vae.noise_var));
            }
            let best = vae.optimal_encoder();
            let (elbo, gap) = (vae.elbo(x.view(), &best).unwrap(), vae.gap(x.view(), &best).unwrap());
            for i in 0..3 {
                let rounding = 256.0 * f64::EPSILON * (1.0 + elbo[i].abs() + 20.0 / vae.noise_var);
                prop_assert!(gap[i].abs() <= rounding && (elbo[i] - evidence[i]).abs() <= rounding);
            }
        }

        /// The gap as the divergence of two dense normals.
        #[test]
        fn the_gap_is_the_divergence_from_the_posterior(vae in vae(), encoder in encoder(), seed: u64) {
            let x = normal_rows(1, D, seed);
            let posterior = joint(&vae).condition(&(K..K + D).collect::<Vec<_>>(), &x.row(0).to_vec()).unwrap();
            let mean = DVector::from_fn(K, |i, _| encoder.shift[i] + (0..D).map(|j| encoder.gain[[i, j]] * (x[[0, j]] - vae.mean[j])).sum::<f64>());
            let cov = DMatrix::from_fn(K, K, |i, j| encoder.cov[[i, j]]);
            let q = Normal::new(mean, Covariance::Full(cov)).unwrap();
            let (got, want) = (vae.gap(x.view(), &encoder).unwrap()[0], q.kl(&posterior).unwrap());
            // The dense route inverts a posterior of condition up to 20 / noise_var, itself the
            // difference of two matrices.
            let condition = (1.0 + 20.0 / vae.noise_var).powi(2);
            prop_assert!((got - want).abs() <= 64.0 * f64::EPSILON * condition * (1.0 + want), "{got} {want}");
        }

        /// Expected log evidence under the data's moments: its value is known in closed form, and
        /// every other model has less.
        #[test]
        fn principal_components_have_the_highest_likelihood(data in full_gaussian(D), k in 0..D, other in vae()) {
            let vae = LinearVae::max_likelihood(&data, k).unwrap();
            // Rows at mean +- sqrt(d lambda_j) u_j have exactly the data's mean and covariance.
            let mut x = Array2::zeros((2 * D, D));
            for j in 0..D {
                let step = &data.modes().column(j) * (D as f64 * data.variances()[j]).sqrt();
                x.row_mut(2 * j).assign(&(&data.mean() + &step));
                x.row_mut(2 * j + 1).assign(&(&data.mean() - &step));
            }
            let average = |vae: &LinearVae| vae.log_evidence(x.view()).unwrap().mean().unwrap();
            let got = average(&vae);
            let kept: f64 = data.variances().slice(s![..k]).mapv(f64::ln).sum();
            let want = -0.5 * (kept + (D - k) as f64 * vae.noise_var.ln() + D as f64 * (1.0 + TAU.ln()));
            // Condition of the covariance: at most 1e4, and the mean of size 3 against deviations
            // down to 0.03.
            prop_assert!((got - want).abs() <= 1e-11 * (1.0 + want.abs()), "{got} {want}");
            if k == K {
                prop_assert!(average(&other) <= got);
                for (i, j, by) in [(0, 0, 1e-3), (1, 1, -1e-3), (3, 0, 1e-3)] {
                    let mut weights = vae.weights.clone();
                    weights[[i, j]] += by;
                    let moved = LinearVae::new(vae.mean.clone(), weights, vae.noise_var).unwrap();
                    prop_assert!(average(&moved) <= got + 1e-11 * (1.0 + got.abs()));
                }
                let louder = LinearVae::new(vae.mean.clone(), vae.weights.clone(), vae.noise_var * 1.01).unwrap();
                prop_assert!(average(&louder) < got);
            }
        }
    }

    proptest! {
        /// A decoder whose noise is given: on rows with exactly the data's moments its code spends
        /// the least rate for its error, and no change of its weights, also towards a direction
        /// that it leaves out, makes the data likelier.
        #[test]
        fn a_given_noise_keeps_what_rises_above_it(data in full_gaussian(D), place in 0.02..0.98f64, seed: u64) {
            let variances = data.variances();
            let noise_var = variances[0] * (variances[D - 1] / variances[0]).powf(place);
            let vae = LinearVae::with_noise(&data, noise_var).unwrap();
            let mut x = Array2::zeros((2 * D, D));
            for j in 0..D {
                let step = &data.modes().column(j) * (D as f64 * variances[j]).sqrt();
                x.row_mut(2 * j).assign(&(&data.mean() + &step));
                x.row_mut(2 * j + 1).assign(&(&data.mean() - &step));
            }
            let (distortion, rate) = vae.distortion_and_rate(x.view(), &vae.optimal_encoder()).unwrap();
            let (distortion, rate) = (distortion.mean().unwrap(), rate.mean().unwrap());
            let want: f64 = variances.iter().map(|l| l.min(noise_var)).sum();
            // Variances from 1e-3 to 10, and a mean of size 3.
            prop_assert!((distortion - want).abs() <= 1e-11 * (1.0 + want / noise_var), "{distortion} {want}");
            let least = crate::exact::rate_distortion::rate(&data, want).unwrap();
            prop_assert!((rate - least).abs() <= 1e-9 * (1.0 + least), "{rate} {least}");
            let average = |weights: Array2<f64>| LinearVae::new(vae.mean.clone(), weights, noise_var).unwrap().log_evidence(x.view()).unwrap().mean().unwrap();
            let got = average(vae.weights.clone());
            let kept = vae.weights.ncols();
            let mut moved = Array2::zeros((D, kept + 1));
            moved.slice_mut(s![.., ..kept]).assign(&vae.weights);
            moved += &(normal_rows(kept + 1, D, seed).t().to_owned() * 0.05);
            prop_assert!(average(moved) <= got + 1e-11 * (1.0 + got.abs()));
        }
    }

    #[test]
    fn what_is_no_model_is_refused() {
        let data = Gaussian::diagonal(Array1::zeros(2), ndarray::array![1.0, 0.0]).unwrap();
        assert!(LinearVae::max_likelihood(&data, 2).is_err());
        assert!(LinearVae::max_likelihood(&data, 1).is_err()); // nothing left for the noise
        let vae = LinearVae::max_likelihood(&data, 0).unwrap();
        assert_eq!(vae.noise_var(), 0.5);
        let encoder = Encoder {
            gain: Array2::zeros((1, 2)),
            shift: Array1::zeros(1),
            cov: Array2::zeros((1, 1)),
        };
        let x = Array2::zeros((1, 2));
        assert!(vae.elbo(x.view(), &encoder).is_err());
        let vae = LinearVae::new(Array1::zeros(2), Array2::ones((2, 1)), 1.0).unwrap();
        assert!(
            vae.elbo(x.view(), &encoder).unwrap_err().to_string().contains("positive definite")
        );
        let fits = Encoder { cov: Array2::eye(1), ..encoder };
        assert!(vae.elbo(x.view(), &fits).is_ok());
        for encoder in [
            Encoder { gain: Array2::zeros((1, 3)), ..fits.clone() },
            Encoder { gain: Array2::zeros((2, 2)), ..fits.clone() },
            Encoder { shift: Array1::zeros(2), ..fits.clone() },
            Encoder { cov: Array2::eye(2), ..fits },
        ] {
            assert!(matches!(vae.elbo(x.view(), &encoder), Err(Error::Shape { .. })));
        }
    }
}
