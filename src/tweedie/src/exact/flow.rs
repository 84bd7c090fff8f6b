//! The marginal velocity of a path, and when the flow from noise to data is the optimal transport.

use crate::diffusion::level::{Level, Moving, Rates};
use crate::error::{Error, Result};
use crate::exact::pf_ode::{fitting, mapped};
use crate::law::{Gaussian, Law};
use crate::math::scalar::Scalar;
use ndarray::{Array2, ArrayView2, Zip};

/// Slope of the marginal velocity on one mode: `d ln(std of x_t) / dt`.
///
/// # Formula
/// `(alpha d_alpha lambda + sigma d_sigma) / (alpha^2 lambda + sigma^2)`
pub fn velocity_gain<S: Scalar>(lambda: S, at: &Moving<S>) -> S {
    let Rates { alpha, sigma } = at.rates;
    at.level.projection(Level { alpha, sigma }, lambda)
}

/// Marginal velocity `E[d_alpha x0 + d_sigma eps | x_t = x]` of any law: what flow matching
/// regresses, and the PF-ODE's right-hand side.
///
/// # Formula
/// `d_alpha x0_hat + d_sigma eps_hat` with `eps_hat = (x - alpha x0_hat) / sigma`.
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// `x` that does not fit; a pair that is no level; `sigma = 0`, where `eps_hat` is 0/0.
///
/// # Source
/// Lipman et al. 2023, "Flow matching for generative modeling", eq. 8.
pub fn marginal_velocity(law: &dyn Law, x: ArrayView2<f64>, at: &Moving) -> Result<Array2<f64>> {
    let (level, rates) = (at.level.checked()?, at.rates);
    if level.sigma == 0.0 {
        let why = "the noise in a clean state is 0/0";
        return Err(Error::singular(
            "the marginal velocity",
            "sigma = 0",
            why,
            "take its limit from a small positive sigma",
        ));
    }
    let mut velocity = Array2::zeros(fitting(law.dim(), x)?.dim());
    law.denoise(x, &level.into(), velocity.view_mut())?;
    Zip::from(&mut velocity).and(&x).for_each(|v, x| {
        let eps_hat = (x - level.alpha * *v) / level.sigma;
        *v = rates.alpha * *v + rates.sigma * eps_hat;
    });
    Ok(velocity)
}

/// The marginal velocity of Gaussian data in closed form.
///
/// # Formula
/// `d_alpha mean + sum_k velocity_gain(lambda_k) u_k u_k^T (x - alpha mean)`
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// `x` that does not fit; a pair that is no level; `sigma = 0` with a singular covariance.
pub fn gaussian_velocity(law: &Gaussian, x: ArrayView2<f64>, at: &Moving) -> Result<Array2<f64>> {
    let level = at.level.checked()?;
    if level.sigma == 0.0 && (law.rank() < law.dim() || law.variances().iter().any(|v| *v == 0.0)) {
        let why = "a mode without variance leaves its point at no definite speed";
        return Err(Error::singular(
            "the velocity of a singular covariance",
            "sigma = 0",
            why,
            "take a small positive sigma",
        ));
    }
    mapped(law, x, level.alpha, at.rates.alpha, |lambda| velocity_gain(lambda, at))
}

/// The optimal-transport (Monge) map between two Gaussians, applied to `x`.
///
/// # Formula
/// `m_b + A^(-1/2) (A^(1/2) B A^(1/2))^(1/2) A^(-1/2) (x - m_a)`: the one symmetric positive map
/// that carries one covariance into the other.
///
/// The PF-ODE's map is this map between any two marginals of Gaussian data with white noise: both
/// are `sqrt(var_to / var_from)` in the shared modes. With noise whose covariance does not commute
/// with the data's the flow still carries noise to data, but by a map that is not symmetric, and
/// costs more.
///
/// # Shapes
/// `x` (n, d), result (n, d).
///
/// # Errors
/// Dimensions that differ; a singular `from`, out of which no map need exist.
///
/// # Source
/// Knott and Smith 1984; Khrulkov et al. 2023, "Understanding DDPM latent codes through optimal
/// transport".
pub fn monge_map(from: &Gaussian, to: &Gaussian, x: ArrayView2<f64>) -> Result<Array2<f64>> {
    let d = from.dim();
    if to.dim() != d {
        return Err(Error::shape(
            "mean",
            &[to.dim()],
            format!("({d},), the other law's dimension"),
            "pass laws on the same space",
        ));
    }
    if from.rank() < d || from.variances().iter().any(|v| *v == 0.0) {
        let why = "a direction without variance can not be stretched";
        return Err(Error::singular(
            "the Monge map",
            "a singular law",
            why,
            "start from a law of full rank",
        ));
    }
    let (root, inverse_root) = (from.matrix(f64::sqrt), from.matrix(|v| v.sqrt().recip()));
    let middle = root.dot(&to.matrix(|v| v)).dot(&root);
    let middle = Gaussian::new(to.mean().to_owned(), ((&middle + &middle.t()) * 0.5).view())?;
    let matrix = inverse_root.dot(&middle.matrix(f64::sqrt)).dot(&inverse_root);
    Ok((&fitting(d, x)? - &from.mean()).dot(&matrix.t()) + to.mean())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::PathPoint;
    use crate::exact::distance::w2_squared;
    use crate::exact::integrate::integrate;
    use crate::exact::pf_ode::pf_ode_map;
    use crate::exact::testing::*;
    use ndarray::array;
    use proptest::prelude::*;

    /// Law of x_t.
    fn marginal(law: &Gaussian, at: &PathPoint) -> Gaussian {
        let level = Level::from(at);
        Gaussian::from_modes(
            &law.mean() * at.alpha,
            law.variances().mapv(|l| level.var(l)),
            law.modes().to_owned(),
        )
        .unwrap()
    }

    proptest! {
        #[test]
        fn the_closed_velocity_is_that_of_the_denoiser(law in gaussian(4), [at, ..] in three_points(), seed: u64) {
            let (x, at) = (normal_rows(3, 4, seed), at.moving().unwrap());
            let (closed, general) = (gaussian_velocity(&law, x.view(), &at).unwrap(), marginal_velocity(&law, x.view(), &at).unwrap());
            // eps_hat subtracts alpha x0_hat from x, both of size 1 to 10, over sigma.
            let condition = (1.0 + size(&x)) * 10.0 * (at.rates.alpha.abs() + at.rates.sigma.abs() / at.level.sigma);
            prop_assert!(gap(&closed, &general) <= 32.0 * f64::EPSILON * condition);
        }

        #[test]
        fn the_flow_is_the_monge_map_between_its_marginals(law in full_gaussian(4), [a, b, _] in three_points(), seed: u64) {
            let x = normal_rows(3, 4, seed);
            let (flow, monge) = (pf_ode_map(&law, x.view(), a, b).unwrap(), monge_map(&marginal(&law, &a), &marginal(&law, &b), x.view()).unwrap());
            // Two square roots and an inverse one: condition numbers of both marginals, at the size
            // of the result.
            let spread = |at: &PathPoint| { let m = marginal(&law, at); m.variances()[0] / m.variances()[3] };
            let condition = spread(&a) * spread(&b).sqrt();
            prop_assert!(gap(&flow, &monge) <= 64.0 * f64::EPSILON * condition * (1.0 + size(&flow)));
        }
    }

    /// Linear flow matching from N(0, C) to N(0, A): its velocity is linear, and its map solves a
    /// matrix equation.
    fn flow_from(noise: &Gaussian, data: &Gaussian) -> Array2<f64> {
        let (a, c) = (data.matrix(|v| v), noise.matrix(|v| v));
        let f = |t: f64, m: &Array2<f64>, dm: &mut Array2<f64>| {
            let cross = &c * t - &a * (1.0 - t);
            let var = &c * (t * t) + &a * ((1.0 - t) * (1.0 - t));
            let inverse =
                Gaussian::new(ndarray::Array1::zeros(2), var.view()).unwrap().matrix(f64::recip);
            dm.assign(&cross.dot(&inverse).dot(m));
            Ok(())
        };
        integrate(f, Array2::eye(2), (1.0, 0.0), |_, _| Array2::from_elem((2, 2), 1e-13)).unwrap().0
    }

    #[test]
    fn coloured_noise_flows_optimally_only_if_it_commutes() {
        let zero = || array![0.0, 0.0];
        let data = Gaussian::diagonal(zero(), array![4.0, 0.25]).unwrap();
        let commuting = Gaussian::diagonal(zero(), array![0.5, 2.0]).unwrap();
        let skew = Gaussian::new(zero(), array![[1.0, 0.8], [0.8, 1.0]].view()).unwrap();
        let units = Array2::eye(2);
        for (noise, optimal) in [(&commuting, true), (&skew, false)] {
            let flow = flow_from(noise, &data);
            let cov = noise.matrix(|v| v);
            assert!(
                gap(&flow.dot(&cov).dot(&flow.t()), &data.matrix(|v| v)) <= 1e-11,
                "the flow carries noise to data"
            );
            let monge = monge_map(noise, &data, units.view()).unwrap();
            let moved = &flow - &units;
            let excess =
                moved.dot(&cov).dot(&moved.t()).diag().sum() - w2_squared(noise, &data).unwrap();
            if optimal {
                assert!(gap(&flow, &monge) <= 1e-11 && excess.abs() <= 1e-11);
            } else {
                assert!(gap(&flow, &monge) >= 0.01 && excess >= 1e-3, "{flow} {monge} {excess}");
            }
        }
    }

    #[test]
    fn singular_ends_are_refused() {
        let law = Gaussian::diagonal(array![0.0, 0.0], array![1.0, 0.0]).unwrap();
        let x = array![[1.0, 1.0]];
        let data = Moving { level: Level::CLEAN, rates: Rates::STRAIGHT };
        assert!(marginal_velocity(&law, x.view(), &data).is_err());
        assert!(gaussian_velocity(&law, x.view(), &data).is_err());
        assert!(monge_map(&law, &law, x.view()).is_err());
        // A mode that is not stored is as singular as one of variance 0; a full law has its limit
        // at the data.
        let full = Gaussian::diagonal(array![0.0, 0.0], array![2.0, 1.0]).unwrap();
        let flat = full.truncated(1);
        assert!(matches!(gaussian_velocity(&flat, x.view(), &data), Err(Error::Singular { .. })));
        assert!(matches!(monge_map(&flat, &full, x.view()), Err(Error::Singular { .. })));
        assert_eq!(gaussian_velocity(&full, x.view(), &data).unwrap(), array![[-1.0, -1.0]]);
    }
}
