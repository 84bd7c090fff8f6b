//! The stochastic and ordinary differential equations whose marginals are those of a path, and
//! Tweedie's formula.
//!
//! Time t runs from data (0) to noise (1) in every coefficient here; samplers run it backwards,
//! `dt < 0`.

use crate::diffusion::level::{Level, Moving};
use crate::diffusion::prediction::{Conversion, Frame, Prediction};
use crate::error::{Error, Result};
use crate::math::scalar::Scalar;

/// The linear SDE `dx = f x dt + g dW` whose solution from x0 is `x_t = alpha x0 + sigma eps`.
///
/// # Source
/// Song et al., "Score-Based Generative Modeling through Stochastic Differential Equations", 2021,
/// equations 5, 6 and 13; Lu et al., "DPM-Solver", 2022, section 2.1, for the coefficients in
/// (alpha, sigma).
///
/// # Example
/// ```
/// use tweedie::diffusion::{path::Path, sde::Sde};
/// let at = Path::FlowMatching.moving_at(0.5).unwrap();
/// assert_eq!(Sde::at(&at).unwrap(), Sde { f: -2.0, g2: 2.0 });
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Sde<S> {
    /// Rate of the linear drift `f x`.
    pub f: S,
    /// Squared diffusion `g^2`, `>= 0`.
    pub g2: S,
}

impl<S: Scalar> Sde<S> {
    /// The coefficients at one point of a path.
    ///
    /// # Formula
    /// `f = d_alpha / alpha`, `g^2 = d(sigma^2)/dt - 2 f sigma^2`, formed as
    /// `2 (sigma / alpha) (alpha d_sigma - sigma d_alpha)`: a sum of positive terms on every usual
    /// path.
    ///
    /// # Errors
    /// [`Error::Singular`] at `alpha = 0`, where f is infinite, or where a rate is not finite;
    /// [`Error::Domain`] where the noise level falls with time, which no diffusion does.
    pub fn at(moving: &Moving<S>) -> Result<Self> {
        Frame::from(moving).check(Prediction::Velocity)?;
        let Moving { level: Level { alpha, sigma }, rates } = *moving;
        let place = || format!("alpha = {}, sigma = {}", alpha.re(), sigma.re());
        if alpha.re() == 0.0 {
            return Err(Error::singular(
                "drift d_alpha / alpha",
                place(),
                "there is no signal",
                "start just below the end of the path",
            ));
        }
        let det = moving.determinant();
        if det.re() < 0.0 {
            let got = format!("{} at {}", det.re(), place());
            return Err(Error::domain(
                "rate alpha d_sigma - sigma d_alpha",
                got,
                ">= 0",
                "let time run from data to noise",
            ));
        }
        let sde = Self { f: rates.alpha / alpha, g2: sigma / alpha * det * 2.0 };
        if sde.f.re().is_finite() && sde.g2.re().is_finite() {
            return Ok(sde);
        }
        let got = format!("({}, {}) at {}", sde.f.re(), sde.g2.re(), place());
        Err(Error::domain(
            "drift and squared diffusion (f, g^2)",
            got,
            "below 1.8e308",
            "measure the data in a larger unit",
        ))
    }

    /// Drift of the SDE with noise `eta g dW` that has the path's marginals, run forward in time.
    ///
    /// # Formula
    /// `f x - (1 - eta^2)/2 g^2 score`: the forward SDE at `eta = 1`, the probability-flow ODE at 0.
    pub fn forward_drift(&self, x: S, score: S, eta: S) -> S {
        self.f * x - (S::one() - eta) * (S::one() + eta) * self.g2 * score * 0.5
    }

    /// Drift of the SDE with noise `eta g dW` that has the path's marginals, run backward in time
    /// (`dx = drift dt`, `dt < 0`, plus `eta g sqrt(|dt|)` noise).
    ///
    /// # Formula
    /// `f x - (1 + eta^2)/2 g^2 score`: Anderson's reverse SDE at `eta = 1`, the probability-flow
    /// ODE at 0.
    ///
    /// # Source
    /// Anderson, "Reverse-time diffusion equation models", 1982; the Harvard deck, "There is a
    /// parametric family of SDE that all reverse the noising process" (`f = 0`, `g = 1` there, and
    /// time reversed).
    pub fn reverse_drift(&self, x: S, score: S, eta: S) -> S {
        self.f * x - (eta * eta + 1.0) * self.g2 * score * 0.5
    }
}

/// The probability-flow velocity dx/dt at x, from whatever prediction of its expectation there is.
///
/// # Formula
/// `d_alpha x0_hat + d_sigma eps_hat`, the [`Conversion`] to a velocity; from the score
/// `f x - g^2/2 score`.
///
/// # Errors
/// As [`Conversion::new`].
pub fn pf_ode_velocity<S: Scalar>(
    kind: Prediction,
    prediction: S,
    x: S,
    at: &Frame<S>,
) -> Result<S> {
    Ok(Conversion::new(kind, Prediction::Velocity, *at)?.apply(prediction, x))
}

/// The probability-flow velocity of EDM's equation scaled in space, `x~ = alpha x`, from its noise
/// level `edm_sigma`.
///
/// # Formula
/// `(d_alpha / alpha) x~ - alpha^2 d_edm_sigma edm_sigma score`, the score being the gradient in
/// x~.
///
/// # Source
/// The Harvard deck, "Link to Variance-Preserving (VP) ODE", first form.
pub fn scaled_ode_velocity<S: Scalar>(
    x: S,
    score: S,
    alpha: S,
    d_alpha: S,
    edm_sigma: S,
    d_edm_sigma: S,
) -> S {
    d_alpha / alpha * x - alpha * alpha * d_edm_sigma * edm_sigma * score
}

/// The same velocity from the noise coefficient `sigma = alpha edm_sigma` of the scaled variable.
///
/// # Formula
/// `(d_alpha / alpha) x~ - (d_sigma sigma - sigma^2 d_alpha / alpha) score`
///
/// # Source
/// The Harvard deck, "Link to Variance-Preserving (VP) ODE", second form.
pub fn vp_ode_velocity<S: Scalar>(x: S, score: S, alpha: S, d_alpha: S, sigma: S, d_sigma: S) -> S {
    let f = d_alpha / alpha;
    f * x - (d_sigma - sigma * f) * sigma * score
}

/// Tweedie's formula: `E[x0 | x_t = x]` from the score of the noised law, at `alpha > 0`.
///
/// # Formula
/// `(x + sigma^2 score) / alpha`
///
/// # Source
/// Robbins, "An empirical Bayes approach to statistics", 1956; Efron, "Tweedie's formula and
/// selection bias", 2011, equation 2.8.
///
/// # Example
/// ```
/// use tweedie::diffusion::{level::Level, sde};
/// // x0 ~ N(0, 1) at sigma = 1: the score is -x/2 and half of x is signal.
/// assert_eq!(sde::tweedie_x0_hat(3.0, -1.5, Level::new(1.0, 1.0)), 1.5);
/// ```
pub fn tweedie_x0_hat<S: Scalar>(x: S, score: S, at: Level<S>) -> S {
    (x + at.sigma * (at.sigma * score)) / at.alpha
}

/// Tweedie's formula solved for the score, at `sigma > 0`.
///
/// # Formula
/// `(alpha x0_hat - x) / sigma^2`
pub fn tweedie_score<S: Scalar>(x: S, x0_hat: S, at: Level<S>) -> S {
    (at.alpha * x0_hat - x) / at.sigma / at.sigma
}

/// Tweedie's formula of second order: `Var[x0 | x_t = x]` from the second derivative of
/// `ln p(x_t)`, at `alpha > 0`.
///
/// # Formula
/// `(sigma / alpha)^2 (1 + sigma^2 curvature)`
///
/// # Source
/// Efron, "Tweedie's formula and selection bias", 2011, equation 2.8.
pub fn tweedie_var<S: Scalar>(curvature: S, at: Level<S>) -> S {
    let edm_sigma = at.sigma / at.alpha;
    edm_sigma * edm_sigma * (at.sigma * (at.sigma * curvature) + 1.0)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::kernel::Transition;
    use crate::diffusion::level::Rates;
    use crate::math::gaussian::log_density_normal;
    use num_dual::{Dual64, DualNum, first_derivative, second_derivative};
    use proptest::prelude::*;

    const EPS: f64 = f64::EPSILON;

    /// (alpha, sigma) of three kinds of path, in closed form over any scalar.
    fn path<S: Scalar>(kind: usize, t: S) -> Level<S> {
        let one = S::one();
        match kind {
            0 => Level::new(
                (t * std::f64::consts::FRAC_PI_2).cos(),
                (t * std::f64::consts::FRAC_PI_2).sin(),
            ),
            1 => Level::new(one - t, t),
            // VP with beta from 0.1 to 20.
            _ => {
                let log_alpha = -(t * t * 9.95 + t * 0.1) * 0.5;
                Level::new(log_alpha.exp(), (-(log_alpha * 2.0).exp_m1()).sqrt())
            }
        }
    }

    fn moving(kind: usize, t: f64) -> Moving {
        let at = path(kind, Dual64::from(t).derivative());
        Moving {
            level: Level::new(at.alpha.re, at.sigma.re),
            rates: Rates::new(at.alpha.eps, at.sigma.eps),
        }
    }

    /// The components (weight, mean, variance) of a mixture of data.
    const MIXTURE: [(f64, f64, f64); 2] = [(0.3, -1.0, 0.2), (0.7, 1.5, 0.5)];

    /// The mixture's density at x_t.
    fn density<S: Scalar>(x: S, at: Level<S>) -> S {
        MIXTURE.iter().fold(S::zero(), |sum, &(w, m, v)| {
            sum + log_density_normal(x, at.alpha * m, at.alpha * at.alpha * v + at.sigma * at.sigma)
                .exp()
                * w
        })
    }

    fn lift(at: Level<f64>) -> Level<num_dual::Dual2_64> {
        Level::new(at.alpha.into(), at.sigma.into())
    }

    proptest! {
        #[test]
        fn the_sde_moves_mean_and_variance_as_the_path_does(kind in 0..3usize, t in 0.02..0.98f64, v in 0.0..4.0f64) {
            let sde = Sde::at(&moving(kind, t)).unwrap();
            let at = path(kind, t);
            let (alpha, d_alpha) = first_derivative(|t| path(kind, t).alpha, t);
            prop_assert!((sde.f * alpha - d_alpha).abs() <= 4.0 * EPS * d_alpha.abs());
            // dVar/dt = 2 f Var + g^2 for x0 of any variance v.
            let (var, d_var) = first_derivative(|t| { let p = path(kind, t); p.alpha * p.alpha * v + p.sigma * p.sigma }, t);
            let size = 2.0 * (sde.f * var).abs() + sde.g2;
            prop_assert!((2.0 * sde.f * var + sde.g2 - d_var).abs() <= 16.0 * EPS * size);
            // g^2 is also the rate at which a forward kernel's variance begins to grow.
            let (_, begins) = first_derivative(|u| Transition::between(Level::new(at.alpha.into(), at.sigma.into()), path(kind, u)).unwrap().var, t);
            prop_assert!((begins - sde.g2).abs() <= 64.0 * EPS * (sde.g2 + sde.f.abs() * at.sigma * at.sigma), "{begins} {}", sde.g2);
        }

        #[test]
        fn every_member_of_the_family_solves_fokker_planck(kind in 0..3usize, t in 0.05..0.95f64, x in -3.0..3.0f64, eta in 0.0..2.0f64) {
            let at = moving(kind, t);
            let sde = Sde::at(&at).unwrap();
            let (p, p_x, p_xx) = second_derivative(|x| density(x, lift(at.level)), x);
            let (_, p_t) = first_derivative(|t| density(x.into(), path(kind, t)), t);
            let (score, d_score) = (p_x / p, p_xx / p - (p_x / p).powi(2));
            // The drifts are affine in (x, score), so d/dx of them is their value at (1, d_score).
            for (drift, slope, noise) in [
                (sde.forward_drift(x, score, eta), sde.forward_drift(1.0, d_score, eta), 0.5),
                (sde.reverse_drift(x, score, eta), sde.reverse_drift(1.0, d_score, eta), -0.5),
            ] {
                let diffusion = noise * eta * eta * sde.g2 * p_xx;
                let residual = p_t + slope * p + drift * p_x - diffusion;
                let curvature = sde.g2 * (p_xx.abs() + p_x * p_x / p) * (1.0 + eta * eta);
                let size = p_t.abs() + sde.f.abs() * (p + (x * p_x).abs()) + curvature;
                // 1e-12, not eps: the densities' exponents, up to a few hundred, carry eps each.
                prop_assert!(residual.abs() <= 1e-12 * size, "{residual} of {size}");
            }
        }

        #[test]
        fn all_routes_to_the_pf_ode_velocity_agree(kind in 0..3usize, t in 0.02..0.98f64, x in -3.0..3.0f64, x0_hat in -3.0..3.0f64) {
            let moving = moving(kind, t);
            let (Level { alpha, sigma }, Rates { alpha: d_alpha, sigma: d_sigma }) = (moving.level, moving.rates);
            let (sde, at) = (Sde::at(&moving).unwrap(), Frame::from(&moving));
            let score = tweedie_score(x, x0_hat, moving.level);
            let eps_hat = (x - alpha * x0_hat) / sigma;
            let want = d_alpha * x0_hat + d_sigma * eps_hat;
            // Terms of the score's own size: x and alpha x0_hat over sigma^2.
            let size = (x.abs() + (alpha * x0_hat).abs()) / (sigma * sigma) * sde.g2 + (sde.f * x).abs() + (d_alpha * x0_hat).abs() + (d_sigma * eps_hat).abs();
            // EDM's coordinates by duals: the noise level sigma / alpha and its rate.
            let (edm_sigma, d_edm_sigma) = first_derivative(|t| { let p = path(kind, t); p.sigma / p.alpha }, t);
            let routes = [
                pf_ode_velocity(Prediction::X0, x0_hat, x, &at).unwrap(),
                pf_ode_velocity(Prediction::Eps, eps_hat, x, &at).unwrap(),
                pf_ode_velocity(Prediction::Score, score, x, &at).unwrap(),
                sde.forward_drift(x, score, 0.0),
                sde.reverse_drift(x, score, 0.0),
                scaled_ode_velocity(x, score, alpha, d_alpha, edm_sigma, d_edm_sigma),
                vp_ode_velocity(x, score, alpha, d_alpha, sigma, d_sigma),
            ];
            for (i, v) in routes.into_iter().enumerate() {
                prop_assert!((v - want).abs() <= 16.0 * EPS * size, "route {i}: {v} {want}");
            }
            prop_assert!((tweedie_x0_hat(x, score, moving.level) - x0_hat).abs() <= 8.0 * EPS * (2.0 * x.abs() / alpha + x0_hat.abs()));
        }

        #[test]
        fn tweedie_gives_the_posterior_mean_and_variance_of_a_mixture(kind in 0..3usize, t in 0.05..0.95f64, x in -3.0..3.0f64) {
            let at = path(kind, t);
            let (log_p, score, curvature) = second_derivative(|x| density(x, lift(at)).ln(), x);
            // Bayes by hand: each component's conditional, then the law of total variance.
            let parts = MIXTURE.map(|(w, m, v)| {
                let total = at.alpha * at.alpha * v + at.sigma * at.sigma;
                let share = w * (log_density_normal(x, at.alpha * m, total) - log_p).exp();
                (share, m + v * at.alpha / total * (x - at.alpha * m), v * at.sigma * at.sigma / total)
            });
            let mean: f64 = parts.iter().map(|(w, m, _)| w * m).sum();
            let var: f64 = parts.iter().map(|(w, m, v)| w * (v + (m - mean).powi(2))).sum();
            // x and sigma^2 score, 1 and sigma^2 curvature cancel; both derivatives carry the
            // exponents' eps (up to a hundred).
            let s2 = at.sigma * at.sigma;
            let mean_error = 256.0 * EPS * (x.abs() + s2 * (score.abs() + 1.0)) / at.alpha;
            prop_assert!((tweedie_x0_hat(x, score, at) - mean).abs() <= mean_error, "{} {mean}", tweedie_x0_hat(x, score, at));
            let var_error = 1024.0 * EPS * s2 / (at.alpha * at.alpha) * (1.0 + s2 * (curvature.abs() + score * score));
            prop_assert!((tweedie_var(curvature, at) - var).abs() <= var_error, "{} {var}", tweedie_var(curvature, at));
        }
    }

    fn at(alpha: f64, sigma: f64, rates: Rates) -> Result<Sde<f64>> {
        Sde::at(&Moving { level: Level::new(alpha, sigma), rates })
    }

    #[test]
    fn a_diffusion_out_of_range_is_refused() {
        let refused = at(1.0, 1e200, Rates::new(0.0, 1e200)).unwrap_err().to_string();
        assert!(refused.contains("below 1.8e308"), "{refused}");
    }

    #[test]
    fn ends_without_an_sde_are_refused() {
        assert!(matches!(at(0.0, 1.0, Rates::STRAIGHT), Err(Error::Singular { .. })));
        let infinite = Rates::new(-1.0, f64::INFINITY);
        assert!(matches!(at(1.0, 0.0, infinite), Err(Error::Singular { .. })));
        assert!(matches!(at(0.5, 1.0, Rates::new(1.0, -1.0)), Err(Error::Domain { .. })));
        // Flow matching starts without diffusion: g^2 = 2t/(1 - t).
        assert_eq!(at(1.0, 0.0, Rates::STRAIGHT).unwrap(), Sde { f: -1.0, g2: 0.0 });
    }

    #[test]
    fn a_level_that_stands_still_has_no_diffusion() {
        assert_eq!(at(0.6, 0.8, Rates::new(0.0, 0.0)).unwrap(), Sde { f: 0.0, g2: 0.0 });
    }
}
