//! The objective: what a network is shown, what it should have said, and what its error costs.

use crate::element::Element;
use crate::pipeline::{Input, Setup};
use ndarray::ArrayView2;
use rayon::prelude::*;
use tweedie::diffusion::prediction::Frame;
use tweedie::diffusion::weighting::Weighting;
use tweedie::error::{Error, Result};

/// The loss of a denoising network.
///
/// # Formula
/// With `x_t = alpha x0 + sigma eps` and `target` the
/// [`Prediction`](tweedie::diffusion::prediction::Prediction) of (x0, eps), `loss = 1/n sum_i
/// weight(t_i) / density(t_i) |network(x_t, t)_i - target_i|^2 / d`.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::diffusion::{Path, prediction::Prediction};
/// use tweedie_nn::pipeline::{Input, Setup, Time};
/// use tweedie_nn::train::objective::{Batch, Objective};
/// let setup = Setup {
///     path: Path::FlowMatching, prediction: Prediction::Velocity, sigma_data: 0.5, input: Input::State, time: Time::Scaled(1000.0),
///     shape: (1, 1, 2), null_class: None,
/// };
/// let mut batch = Batch::<f64>::new(1, &setup);
/// let objective = Objective { setup, weighting: None };
/// objective.prepare(array![[1.0, 0.0]].view(), array![[-1.0, 1.0]].view(), &[0.25], &[1.0], &mut batch).unwrap();
/// // x_t = 3/4 x0 + 1/4 eps; the velocity is eps - x0.
/// assert_eq!((&batch.x[..], &batch.target[..]), (&[0.5, 0.25][..], &[-2.0, 1.0][..]));
/// let mut dy = [0.0; 2];
/// assert_eq!(batch.loss(&[0.0, 1.0], &mut dy), 2.0);
/// assert_eq!(dy, [2.0, 0.0]);
/// ```
#[derive(Clone, Debug, PartialEq)]
pub struct Objective {
    /// Path, prediction, and how the network sees state and time.
    pub setup: Setup,
    /// Weight of the noise levels; without one, 1 on the prediction's own loss at every level.
    pub weighting: Option<Weighting>,
}

/// One batch, as the network sees it and as the loss judges it: n images, channels last.
#[derive(Clone, Debug)]
pub struct Batch<T> {
    /// The network's input, (n, h, w, c).
    pub x: Vec<T>,
    /// The times that the network is told, (n).
    pub times: Vec<f64>,
    /// What it should have said, (n, h, w, c).
    pub target: Vec<T>,
    /// Weight of each image's loss, (n).
    pub weights: Vec<f64>,
    /// Mean squared error of each image without its weight, (n), after [`Batch::loss`].
    pub errors: Vec<f64>,
}

impl<T: Element> Batch<T> {
    /// Memory for `n` images.
    pub fn new(n: usize, setup: &Setup) -> Self {
        let (c, h, w) = setup.shape;
        let images = vec![T::zero(); n * c * h * w];
        Self {
            x: images.clone(),
            times: vec![0.0; n],
            target: images,
            weights: vec![0.0; n],
            errors: vec![0.0; n],
        }
    }

    /// The loss of the network's output `y`, and in `dy` its gradient.
    ///
    /// # Formula
    /// `dy = 2 weight (y - target) / (n d)`
    ///
    /// # Shapes
    /// `y` and `dy` (n, h, w, c).
    pub fn loss(&mut self, y: &[T], dy: &mut [T]) -> f64 {
        let n = self.weights.len();
        let d = self.target.len() / n;
        let images = y
            .par_chunks_exact(d)
            .zip(self.target.par_chunks_exact(d))
            .zip(dy.par_chunks_exact_mut(d));
        images.zip(&self.weights).zip(&mut self.errors).for_each(
            |((((y, target), dy), weight), error)| {
                let scale = T::of(2.0 * weight / (n * d) as f64);
                let mut sum = 0.0;
                for ((y, target), dy) in y.iter().zip(target).zip(dy) {
                    let e = *y - *target;
                    sum += e.wide() * e.wide();
                    *dy = scale * e;
                }
                *error = sum / d as f64;
            },
        );
        // In order, so that the sum does not depend on the number of threads.
        self.errors.iter().zip(&self.weights).map(|(e, w)| e * w).sum::<f64>() / n as f64
    }
}

/// What one time makes of an image.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Coefficients {
    /// What the network is told of the time.
    pub time: f64,
    /// The network's input over the state.
    pub scale: f64,
    /// `x_t = alpha x0 + sigma eps`.
    pub alpha: f64,
    pub sigma: f64,
    /// `target = a x0 + b eps`.
    pub target: (f64, f64),
    /// Of the image's loss.
    pub weight: f64,
}

impl Objective {
    /// What is made of an image at a time on the setup's path; its weight is divided by `density`.
    ///
    /// # Errors
    /// As [`Objective::prepare`].
    pub fn coefficients(&self, time: f64, density: f64) -> Result<Coefficients> {
        let Setup { ref path, prediction, sigma_data, input, .. } = self.setup;
        let at = path.at(time)?;
        let frame = Frame::from(&at).with_sigma_data(sigma_data);
        frame.check(prediction)?;
        let weight =
            self.weighting.map_or(Ok(1.0), |weighting| weighting.weight(prediction, &frame))?
                / density;
        if !weight.is_finite() {
            let weighting = self.weighting.map_or("1".into(), |w| w.to_string());
            let what = format!("weighting {weighting} of the {prediction}-loss");
            return Err(Error::singular(
                what,
                format!("t = {time}"),
                "it is infinite there",
                "narrow times.range",
            ));
        }
        let scale = match input {
            Input::State => 1.0,
            Input::UnitVariance => frame.input_std().recip(),
        };
        let target = prediction.coefficients(&frame);
        Ok(Coefficients {
            time: self.setup.time_at(time, at.level())?,
            scale,
            alpha: at.alpha,
            sigma: at.sigma,
            target,
            weight,
        })
    }

    /// Noises clean images into a batch; computed in f64 and rounded once, so that the set-up is
    /// the same in any precision.
    ///
    /// # Shapes
    /// `x0` and `eps` (n, d) in the data sets' order (c, h, w); `times` (n) on the setup's path;
    /// `densities` (n), by which a time's weight is divided: 1 unless times were drawn by
    /// importance.
    ///
    /// # Errors
    /// A time outside the path, or where the prediction, its weight or what the network is told is
    /// infinite.
    pub fn prepare<T: Element>(
        &self,
        x0: ArrayView2<f64>,
        eps: ArrayView2<f64>,
        times: &[f64],
        densities: &[f64],
        batch: &mut Batch<T>,
    ) -> Result<()> {
        let (c, h, w) = self.setup.shape;
        let (n, d) = (times.len(), c * h * w);
        for (what, got) in
            [("x0", x0.dim()), ("eps", eps.dim()), ("batch", (batch.weights.len(), d))]
        {
            if got != (n, d) || densities.len() != n {
                return Err(Error::shape(
                    what,
                    &[got.0, got.1],
                    format!("({n}, {d})"),
                    "pass one row for each time",
                ));
            }
        }
        for i in 0..n {
            let Coefficients { time, scale, alpha, sigma, target: (a, b), weight } =
                self.coefficients(times[i], densities[i])?;
            (batch.weights[i], batch.times[i]) = (weight, time);
            let (x, target) = (&mut batch.x[i * d..][..d], &mut batch.target[i * d..][..d]);
            for (j, (x0, eps)) in x0.row(i).iter().zip(eps.row(i)).enumerate() {
                let place = j % (h * w) * c + j / (h * w);
                x[place] = T::of(scale * (alpha * x0 + sigma * eps));
                target[place] = T::of(a * x0 + b * eps);
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::Time;
    use ndarray::Array2;
    use proptest::prelude::*;
    use tweedie::diffusion::Path;
    use tweedie::diffusion::prediction::{Conversion, Prediction};
    use tweedie::math::larger;
    use tweedie::math::noise::Noise;

    const SHAPE: (usize, usize, usize) = (2, 1, 3);

    fn objective(prediction: Prediction, weighting: Option<Weighting>, input: Input) -> Objective {
        let setup = Setup {
            path: Path::Cosine,
            prediction,
            sigma_data: 0.7,
            input,
            time: Time::LogSnr(1.0),
            shape: SHAPE,
            null_class: None,
        };
        Objective { setup, weighting }
    }

    fn images(seed: u64, n: usize) -> Array2<f64> {
        let noise = Noise::new(seed);
        Array2::from_shape_fn((n, 6), |(i, j)| noise.normal(i as u64, j as u64))
    }

    proptest! {
        /// One function, judged as each prediction under one weighting: equal losses, and gradients
        /// that are equal through the conversion.
        #[test]
        fn reweighted_objectives_agree(seed in 0u64..1000, t in 0.02..0.98f64, log_snr_of_sigmoid in -3.0..3.0f64) {
            let (x0, eps, guess) = (images(seed, 2), images(seed + 1000, 2), images(seed + 2000, 2));
            let weighting = Weighting::Sigmoid { bias: log_snr_of_sigmoid };
            let times = [t, 1.0 - t];
            let mut seen: Vec<(f64, Vec<f64>)> = vec![];
            for prediction in Prediction::ALL {
                let objective = objective(prediction, Some(weighting), Input::State);
                let mut batch = Batch::<f64>::new(2, &objective.setup);
                objective.prepare(x0.view(), eps.view(), &times, &[1.0, 1.0], &mut batch).unwrap();
                // The guess of x0, said as this prediction, channels last.
                let (mut y, mut slope) = (vec![0.0; 12], vec![0.0; 12]);
                for i in 0..2 {
                    let at = Path::Cosine.at(times[i]).unwrap();
                    let frame = Frame::from(&at).with_sigma_data(0.7);
                    let conversion = Conversion::new(Prediction::X0, prediction, frame).unwrap();
                    for j in 0..6 {
                        let xt = at.alpha * x0[[i, j]] + at.sigma * eps[[i, j]];
                        let place = i * 6 + j % 3 * 2 + j / 3;
                        y[place] = conversion.apply(guess[[i, j]], xt);
                        // What y gains when the guess does.
                        slope[place] = conversion.apply(1.0, 0.0) - conversion.apply(0.0, 0.0);
                    }
                }
                let mut dy = vec![0.0; 12];
                let loss = batch.loss(&y, &mut dy);
                seen.push((loss, dy.iter().zip(&slope).map(|(d, s)| d * s).collect()));
            }
            // alpha and sigma stay above 0.03, so that a conversion loses at most a factor 1/0.03^2
            // of eps, twice.
            let (loss, gradient) = &seen[0];
            for (other, g) in &seen[1..] {
                prop_assert!((other - loss).abs() <= 1e-10 * loss, "{other} {loss}");
                let scale = gradient.iter().map(|g| g.abs()).fold(0.0, larger);
                prop_assert!(g.iter().zip(gradient).all(|(a, b)| (a - b).abs() <= 1e-10 * scale), "{g:?} {gradient:?}");
            }
        }

        /// Second route for the gradient: a central difference.
        #[test]
        fn the_gradient_is_the_losss_derivative(seed in 0u64..1000, t in 0.02..0.98f64, place in 0usize..12, density in 0.1..5.0f64) {
            let objective = objective(Prediction::V, Some(Weighting::MinSnr { gamma: 5.0 }), Input::UnitVariance);
            let mut batch = Batch::<f64>::new(2, &objective.setup);
            let (x0, eps) = (images(seed, 2), images(seed + 1000, 2));
            objective.prepare(x0.view(), eps.view(), &[t, 0.5], &[density, 1.0], &mut batch).unwrap();
            let mut y: Vec<f64> = images(seed + 2000, 2).iter().copied().collect();
            let mut dy = vec![0.0; 12];
            let loss = batch.loss(&y, &mut dy);
            let got = dy[place];
            // The loss is a parabola in y: a central difference is exact but for rounding, eps loss
            // / h.
            let h = 1e-3;
            y[place] += h;
            let up = batch.loss(&y, &mut dy);
            y[place] -= 2.0 * h;
            let down = batch.loss(&y, &mut dy);
            prop_assert!((got - (up - down) / (2.0 * h)).abs() <= 1e-11 * (1.0 + loss), "{got}");
        }
    }

    #[test]
    fn edm_shows_unit_variance_and_asks_for_it() {
        let objective = objective(Prediction::F, None, Input::UnitVariance);
        let n = 4000;
        let (x0, eps) = (images(1, n) * 0.7, images(2, n));
        for t in [0.01, 0.3, 0.7, 0.99] {
            let mut batch = Batch::<f64>::new(n, &objective.setup);
            objective
                .prepare(x0.view(), eps.view(), &vec![t; n], &vec![1.0; n], &mut batch)
                .unwrap();
            for x in [&batch.x, &batch.target] {
                let var = x.iter().map(|x| x * x).sum::<f64>() / x.len() as f64;
                // Four standard errors of a variance of 24,000 normals.
                assert!((var - 1.0).abs() <= 4.0 * (2.0 / x.len() as f64).sqrt(), "{t} {var}");
            }
        }
    }

    #[test]
    fn what_has_no_value_is_refused() {
        let mut batch = Batch::<f32>::new(1, &objective(Prediction::X0, None, Input::State).setup);
        let (x0, eps) = (images(1, 1), images(2, 1));
        let mut prepare = |prediction, weighting, t: f64| {
            objective(prediction, weighting, Input::State)
                .prepare(x0.view(), eps.view(), &[t], &[1.0], &mut batch)
                .map_err(|e| e.to_string())
        };
        assert!(prepare(Prediction::X0, None, 0.5).is_ok());
        assert!(
            prepare(Prediction::X0, Some(Weighting::Simple), 0.0)
                .unwrap_err()
                .contains("weighting simple of the x0-loss is singular")
        );
        assert!(prepare(Prediction::X0, None, 1.5).unwrap_err().contains("[0, 1]"));
        assert!(prepare(Prediction::V, None, 1.0).unwrap_err().contains("time of the network"));
    }
}
