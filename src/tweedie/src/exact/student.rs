//! k-step students of Gaussian data: what DDIM in k steps gives, and what progressive distillation
//! makes of it.

use crate::diffusion::PathPoint;
use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::exact::shared_modes::shared_modes;
use crate::law::Gaussian;
use crate::math::scalar::Scalar;
use ndarray::{Array2, ArrayView2, Zip};

/// Gain of one DDIM step (with the exact denoiser) on one mode.
///
/// # Formula
/// `(alpha_to alpha_from lambda + sigma_to sigma_from) / (alpha_from^2 lambda + sigma_from^2)`:
/// `x_to = alpha_to x0_hat + sigma_to eps_hat`, gathered.
///
/// It is at most the PF-ODE's `psi` (Cauchy and Schwarz), so that a sampler of few steps has too
/// little variance in every mode.
///
/// # Source
/// Song et al. 2021, "Denoising diffusion implicit models", eq. 12 with eta = 0.
pub fn ddim_gain<S: Scalar>(lambda: S, from: Level<S>, to: Level<S>) -> S {
    from.projection(to, lambda)
}

/// Gain on one mode of DDIM through `levels`: the product over its steps.
///
/// A student that has learned its progressive-distillation targets perfectly has this gain too, in
/// as few steps as it likes.
pub fn ddim_chain_gain<S: Scalar>(lambda: S, levels: &[Level<S>]) -> S {
    levels.windows(2).fold(S::one(), |gain, step| gain * ddim_gain(lambda, step[0], step[1]))
}

/// Law at the last of `points` of DDIM through them, from a Gaussian `start` at the first.
///
/// # Formula
/// In each mode `variance = gain^2 start`,
/// `mean = alpha_to mean0 + gain (start mean - alpha_from mean0)` with [`ddim_chain_gain`].
///
/// Compare with the data by [`kl`](crate::exact::distance::kl) and
/// [`w2_squared`](crate::exact::distance::w2_squared).
///
/// # Errors
/// No points; a point that is no level; covariances that do not commute; `sigma = 0` before the
/// last point with a singular covariance.
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::{diffusion::PathPoint, exact::student::ddim_law, law::Gaussian};
/// let data = Gaussian::diagonal(array![2.0], array![1.0]).unwrap();
/// let noise = Gaussian::isotropic(array![0.0], 1.0).unwrap();
/// // One step from pure noise gives the mean: all variety is lost.
/// let one = ddim_law(&data, &noise, &[PathPoint::NOISE, PathPoint::CLEAN]).unwrap();
/// assert_eq!((one.mean()[0], one.variances()[0]), (2.0, 0.0));
/// ```
pub fn ddim_law(data: &Gaussian, start: &Gaussian, points: &[PathPoint]) -> Result<Gaussian> {
    let levels = points.iter().map(Level::of).collect::<Result<Vec<_>>>()?;
    let (Some(first), Some(last)) = (levels.first(), levels.last()) else {
        return Err(Error::shape("points", &[0], "at least one", "pass the starting point first"));
    };
    let shared = shared_modes(&[data, start])?;
    let clean_too_early = levels[..levels.len() - 1].iter().any(|l| l.sigma == 0.0);
    if clean_too_early && shared.variances[0].iter().any(|v| *v == 0.0) {
        let why = "eps_hat is 0/0 in the modes without variance";
        return Err(Error::singular(
            "a DDIM step of a singular covariance",
            "from.sigma = 0",
            why,
            "let sigma = 0 be the last point",
        ));
    }
    let gains = shared.variances[0].mapv(|lambda| ddim_chain_gain(lambda, &levels));
    let offset = shared.modes.t().dot(&(&start.mean() - &(&data.mean() * first.alpha)));
    let mean = shared.modes.dot(&(offset * &gains)) + &(&data.mean() * last.alpha);
    Gaussian::from_modes(mean, &gains * &gains * &shared.variances[1], shared.modes)
}

/// Progressive-distillation target: the x0 with which one DDIM step takes `x_from` to `x_to`.
///
/// # Formula
/// `(sigma_from x_to - sigma_to x_from) / (alpha_to sigma_from - sigma_to alpha_from)`
///
/// With `x_to` the end of two teacher steps this is Salimans and Ho's target; for linear data it is
/// a linear denoiser, whose gain [`distilled_denoiser_gain`] states.
///
/// # Shapes
/// `x_from`, `x_to` and result (n, d).
///
/// # Errors
/// Shapes that differ; a point that is no level; two points of the same SNR, between which a step
/// uses no x0.
///
/// # Source
/// Salimans and Ho 2022, "Progressive distillation", algorithm 2.
pub fn distillation_target(
    x_from: ArrayView2<f64>,
    x_to: ArrayView2<f64>,
    from: impl Into<Level>,
    to: impl Into<Level>,
) -> Result<Array2<f64>> {
    if x_from.dim() != x_to.dim() {
        return Err(Error::shape(
            "x_to",
            x_to.shape(),
            format!("{:?}, the shape of x_from", x_from.shape()),
            "pass the ends of the same rows",
        ));
    }
    let (a, b) = (Level::of(from)?, Level::of(to)?);
    let weight = b.alpha * a.sigma - b.sigma * a.alpha;
    if weight == 0.0 {
        let why = "a step between two points of the same SNR uses no x0";
        return Err(Error::singular(
            "the distillation target",
            format!("snr {}", a.snr()),
            why,
            "pass two different noise levels",
        ));
    }
    let mut target = x_from.to_owned();
    Zip::from(&mut target)
        .and(&x_to)
        .for_each(|x, x_to| *x = (a.sigma * x_to - b.sigma * *x) / weight);
    Ok(target)
}

/// Denoiser gain of the student whose one step from `from` to `to` has gain `gain` on the state.
///
/// # Formula
/// `(sigma_from gain - sigma_to) / (alpha_to sigma_from - sigma_to alpha_from)`; with
/// `gain = ddim_gain` it is the Wiener gain, with `gain = psi` the step is exact: the perfect
/// student of infinitely many teacher steps.
pub fn distilled_denoiser_gain<S: Scalar>(gain: S, from: Level<S>, to: Level<S>) -> S {
    (from.sigma * gain - to.sigma) / (to.alpha * from.sigma - to.sigma * from.alpha)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::Denoiser;
    use crate::exact::distance::{kl, w2_squared};
    use crate::exact::gains::psi;
    use crate::exact::testing::*;
    use crate::law::gaussian::wiener_gain;
    use crate::math::noise::Noise;
    use ndarray::{Array1, Axis};
    use proptest::prelude::*;

    /// One DDIM step as a sampler takes it, through the denoiser.
    fn ddim_step(law: &Gaussian, x: &Array2<f64>, from: &PathPoint, to: &PathPoint) -> Array2<f64> {
        let mut x0_hat = Array2::zeros(x.dim());
        law.denoise(x.view(), from, x0_hat.view_mut()).unwrap();
        let eps_hat = (x - &(&x0_hat * from.alpha)) / from.sigma;
        &x0_hat * to.alpha + &eps_hat * to.sigma
    }

    proptest! {
        /// By running the sampler: its affine map, applied to the start's mean and covariance.
        #[test]
        fn the_law_is_what_the_sampler_gives(data in gaussian(3), starts in prop::collection::vec(0.0..2.0f64, 3), seed: u64, family in 0u8..3) {
            let start = if data.rank() == 3 {
                Gaussian::from_modes(Array1::ones(3), Array1::from(starts), data.modes().to_owned()).unwrap()
            } else {
                Gaussian::isotropic(Array1::from(starts), 1.5).unwrap()
            };
            let points: Vec<_> = [0.95, 0.7, 0.4, 0.1].iter().map(|t| point(family, t + 0.04 * Noise::new(seed).uniform(1, 1))).collect();
            let law = ddim_law(&data, &start, &points).unwrap();
            let run = |x: Array2<f64>| points.windows(2).fold(x, |x, p| ddim_step(&data, &x, &p[0], &p[1]));
            let mean = run(start.mean().to_owned().insert_axis(Axis(0)));
            let matrix = run(Array2::eye(3) + start.mean()) - &mean;
            // Rows of `matrix` are images of unit vectors: its transpose is the map.
            let want = matrix.t().dot(&start.matrix(|v| v)).dot(&matrix);
            // eps_hat magnifies the rounding of the mean (3) by at most 1 / sigma at the
            // intermediate points, and returns it times sigma.
            let scale = 1.0 + size(&mean) + 3.0;
            prop_assert!(gap(&law.mean().to_owned().insert_axis(Axis(0)), &mean) <= 1e-13 * scale);
            prop_assert!(gap(&law.matrix(|v| v), &want) <= 1e-13 * scale * (1.0 + size(&want)));
        }

        #[test]
        fn few_steps_have_too_little_variance(e in -6.0..3.0f64, points in three_points()) {
            let lambda = 10f64.powf(e);
            let [a, b, c] = points.map(|p| Level::from(&p));
            let bound = 1.0 + 8.0 * f64::EPSILON;
            prop_assert!(ddim_gain(lambda, a, b) <= psi(lambda, a, b) * bound);
            prop_assert!(ddim_chain_gain(lambda, &[a, b, c]) <= psi(lambda, a, c) * bound * bound);
        }

        #[test]
        fn a_student_step_with_its_target_is_its_teachers_steps(law in gaussian(3), points in three_points(), seed: u64) {
            let mut points = points;
            points.sort_by(|a, b| b.edm_sigma().total_cmp(&a.edm_sigma()));
            let [a, b, c] = points;
            prop_assume!(c.edm_sigma() < 0.9 * a.edm_sigma());
            let x = normal_rows(2, 3, seed);
            let end = ddim_step(&law, &ddim_step(&law, &x, &a, &b), &b, &c);
            let x0 = distillation_target(x.view(), end.view(), a, c).unwrap();
            let eps = (&x - &(&x0 * a.alpha)) / a.sigma;
            let again = &x0 * c.alpha + &eps * c.sigma;
            prop_assert!(gap(&again, &end) <= 64.0 * f64::EPSILON * (1.0 + size(&x0) + size(&end) + a.alpha * size(&x0) * c.sigma / a.sigma));
            // The same target by gains, in the modes.
            let levels = points.map(|p| Level::from(&p));
            let gain = |lambda| distilled_denoiser_gain(ddim_chain_gain(lambda, &levels), levels[0], levels[2]);
            let mut by_gain = Array2::zeros(x.dim());
            law.map_modes(x.view(), a.alpha, 1.0, gain, by_gain.view_mut());
            // The target divides a difference by at least a tenth of alpha_to sigma_from; states
            // keep eps of the mean's size (10).
            let condition = (a.sigma * (size(&end) + 10.0) + c.sigma * (size(&x) + 10.0)) / (0.1 * c.alpha * a.sigma) + 10.0;
            prop_assert!(gap(&by_gain, &x0) <= 256.0 * f64::EPSILON * condition * (1.0 + b.sigma / a.sigma));
        }

        #[test]
        fn a_student_of_one_teacher_step_is_the_teacher(e in -3.0..2.0f64, points in three_points()) {
            let lambda = 10f64.powf(e);
            let [a, b, _] = points.map(|p| Level::<f64>::from(&p));
            let log_ratio: f64 = (b.sigma * a.alpha / (a.sigma * b.alpha)).ln();
            prop_assume!(log_ratio.abs() >= 0.1);
            let got = distilled_denoiser_gain(ddim_gain(lambda, a, b), a, b);
            let want = wiener_gain(lambda, a.alpha, a.sigma);
            // sigma_from gain - sigma_to is a difference of terms over at least a tenth of the
            // larger product.
            let condition = (a.sigma * ddim_gain(lambda, a, b) + b.sigma) / (0.09 * (b.alpha * a.sigma).max(b.sigma * a.alpha));
            prop_assert!((got - want).abs() <= 16.0 * f64::EPSILON * (condition + want));
        }
    }

    #[test]
    fn more_steps_come_closer_at_first_order() {
        let data = Gaussian::diagonal(Array1::ones(2), ndarray::array![1.0, 0.05]).unwrap();
        let noise = Gaussian::isotropic(Array1::zeros(2), 1.0).unwrap();
        let distances = [20, 40, 80].map(|n| {
            let points: Vec<_> = (0..=n).rev().map(|i| point(0, i as f64 / n as f64)).collect();
            let law = ddim_law(&data, &noise, &points).unwrap();
            (w2_squared(&law, &data).unwrap().sqrt(), kl(&law, &data).unwrap())
        });
        for pair in distances.windows(2) {
            // Deviations are wrong by O(1/n): W2 halves, KL (quadratic in them) falls fourfold.
            assert!((pair[0].0 / pair[1].0 - 2.0).abs() <= 0.2, "{distances:?}");
            assert!((pair[0].1 / pair[1].1 - 4.0).abs() <= 0.6, "{distances:?}");
        }
    }

    #[test]
    fn what_has_no_step_is_refused() {
        let data = Gaussian::diagonal(Array1::zeros(2), ndarray::array![1.0, 0.0]).unwrap();
        let (clean, noisy) = (PathPoint::CLEAN, PathPoint::still(0.5, 1.0));
        assert!(ddim_law(&data, &data, &[]).is_err());
        assert!(matches!(ddim_law(&data, &data, &[clean, noisy]), Err(Error::Singular { .. })));
        // Clean at the last point is no obstacle, nor is a clean start of a law of full rank.
        assert_eq!(ddim_law(&data, &data, &[noisy, clean]).unwrap().variances()[1], 0.0);
        let full = Gaussian::diagonal(Array1::zeros(2), ndarray::array![4.0, 1.0]).unwrap();
        assert_eq!(
            ddim_law(&full, &full, &[clean, noisy]).unwrap().variances(),
            full.variances().mapv(|v| 0.25 * v)
        );
        let x = Array2::zeros((1, 2));
        assert!(distillation_target(x.view(), x.view(), noisy, noisy).is_err());
    }
}
