//! The Gaussian kernels of the forward process between any two times: marginals, posteriors, the
//! DDIM family.
//!
//! Every one of them depends on the path only through (alpha, sigma) at both ends, and loses digits
//! only in one quantity, the share of the signal-to-noise ratio that is lost on the way;
//! [`snr_loss`] forms it once without cancellation.

use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::math::gaussian::log_density_normal;
use crate::math::scalar::Scalar;

/// The share `1 - snr_t / snr_s` of the signal-to-noise ratio lost from level `s` to the noisier
/// level `t`, in [0, 1].
///
/// # Formula
/// `(alpha_s sigma_t - alpha_t sigma_s) (alpha_s sigma_t + alpha_t sigma_s) / (alpha_s sigma_t)^2`
///
/// The difference of products is formed with a fused multiply-add, so that the result is good to a
/// few ulp for the coefficients as given, however close the levels. What it can't repair is that
/// coefficients rounded to f64 know the difference of two levels only to
/// `eps / (1 - sqrt(snr_t / snr_s))`: where the difference of log-SNR is known better than its ends
/// (a path in closed form), pass [`snr_loss_from_log`] to [`Transition::with_loss`] and
/// [`Posterior::with_loss`]; or take `S` = double-double.
///
/// # Errors
/// Coefficients that are negative, not finite or both 0; `t` less noisy than `s`; two levels
/// without noise or both without signal, between which nothing is defined.
pub fn snr_loss<S: Scalar>(s: Level<S>, t: Level<S>) -> Result<S> {
    s.checked()?;
    t.checked()?;
    // The share depends on the ratio of the SNRs alone, and products of tiny coefficients
    // underflow.
    let (given, (s, t)) = ((s, t), Level::in_common_units(s, t));
    let (kept, all) = (t.alpha * s.sigma, s.alpha * t.sigma);
    if all.re() == 0.0 {
        let why = if s.alpha.re() == 0.0 {
            "the earlier level has no signal"
        } else {
            "the later level has no noise"
        };
        return Err(Error::singular(
            "transition kernel",
            describe(given.0, given.1),
            why,
            "choose levels with alpha_s > 0 and sigma_t > 0",
        ));
    }
    // Kahan's difference of products: without a fused multiply-add (dual numbers) the correction is
    // nothing or rounding.
    let correction = (-t.alpha).mul_add(s.sigma, kept);
    let gap = s.alpha.mul_add(t.sigma, -kept) + correction;
    if gap.re() < 0.0 {
        return Err(Error::domain(
            "levels s, t",
            describe(given.0, given.1),
            "snr_t <= snr_s",
            "order them from data to noise",
        ));
    }
    Ok(gap / all * ((all + kept) / all))
}

/// [`snr_loss`] from the log-SNR lost, `drop = log_snr_s - log_snr_t >= 0`.
///
/// # Formula
/// `-expm1(-drop)`
pub fn snr_loss_from_log<S: Scalar>(drop: S) -> S {
    -(-drop).exp_m1()
}

fn describe<S: Scalar>(s: Level<S>, t: Level<S>) -> String {
    let (s, t) = ((s.alpha.re(), s.sigma.re()), (t.alpha.re(), t.sigma.re()));
    format!("(alpha, sigma) = ({}, {}) to ({}, {})", s.0, s.1, t.0, t.1)
}

/// The forward kernel `q(x_t | x_s) = N(scale x_s, var I)`.
///
/// # Formula
/// `scale = alpha_t / alpha_s`,
/// `var = sigma_t^2 - scale^2 sigma_s^2 = sigma_t^2 (1 - snr_t / snr_s)`
///
/// # Source
/// Kingma et al., "Variational Diffusion Models", 2021, appendix A.1.
///
/// # Example
/// ```
/// use tweedie::diffusion::kernel::Transition;
/// use tweedie::diffusion::level::Level;
/// let (s, t) = (Level::new(0.8, 0.6), Level::new(0.6, 0.8));
/// let q: Transition<f64> = Transition::between(s, t).unwrap();
/// assert!((q.scale - 0.75).abs() < 1e-15 && (q.var - (0.64 - 0.75f64.powi(2) * 0.36)).abs() < 1e-15);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Transition<S> {
    /// Factor of `x_s` in the mean.
    pub scale: S,
    /// Variance of each coordinate.
    pub var: S,
}

impl<S: Scalar> Transition<S> {
    /// From level `s` to the noisier level `t`; from [`Level::CLEAN`] it is the marginal
    /// `q(x_t | x0)`.
    ///
    /// # Errors
    /// As [`snr_loss`].
    pub fn between(s: Level<S>, t: Level<S>) -> Result<Self> {
        Ok(Self::with_loss(s, t, snr_loss(s, t)?))
    }

    /// The same with the share of SNR lost given, for levels whose difference is known better than
    /// their ends.
    pub fn with_loss(s: Level<S>, t: Level<S>, loss: S) -> Self {
        // From the share outwards: sigma^2 may be out of range where the variance is not.
        Self { scale: t.alpha / s.alpha, var: t.sigma * loss * t.sigma }
    }

    /// This kernel followed by `next`: `q(x_u | x_s)` from `q(x_t | x_s)` and `q(x_u | x_t)`.
    pub fn then(self, next: Self) -> Self {
        Self { scale: self.scale * next.scale, var: next.scale * next.scale * self.var + next.var }
    }

    /// Mean of `x_t`.
    pub fn mean(&self, xs: S) -> S {
        self.scale * xs
    }

    /// `ln q(x_t | x_s)` of one coordinate, in nats.
    pub fn log_density(&self, xt: S, xs: S) -> S {
        log_density_normal(xt, self.mean(xs), self.var)
    }
}

/// The kernel `q(x_s | x_t, x0) = N(coef_x0 x0 + coef_xt x_t, var I)`: the posterior, or one of the
/// DDIM family.
///
/// # Example
/// ```
/// use tweedie::diffusion::kernel::Posterior;
/// use tweedie::diffusion::level::Level;
/// // The random walk x_t = x0 + sqrt(t) eps, from t = 4 to 3: 1/4 x0 + 3/4 x_t, variance 3/4.
/// let q: Posterior<f64> = Posterior::between(Level::new(1.0, 3f64.sqrt()), Level::new(1.0, 2.0)).unwrap();
/// assert!((q.coef_x0 - 0.25).abs() < 1e-15 && (q.coef_xt - 0.75).abs() < 1e-15 && (q.var - 0.75).abs() < 1e-15);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Posterior<S> {
    /// Factor of x0 in the mean.
    pub coef_x0: S,
    /// Factor of `x_t` in the mean.
    pub coef_xt: S,
    /// Variance of each coordinate.
    pub var: S,
}

impl<S: Scalar> Posterior<S> {
    /// The posterior of the Markov chain, any stride: [`Posterior::ddim`] with `eta = 1`.
    ///
    /// # Formula
    /// With `loss = 1 - snr_t / snr_s`: `coef_x0 = alpha_s loss`,
    /// `coef_xt = alpha_t sigma_s^2 / (alpha_s sigma_t^2)`, `var = sigma_s^2 loss`.
    ///
    /// # Errors
    /// As [`snr_loss`].
    ///
    /// # Source
    /// Ho, Jain, Abbeel, "Denoising Diffusion Probabilistic Models", 2020, equations 6 and 7.
    pub fn between(s: Level<S>, t: Level<S>) -> Result<Self> {
        Ok(Self::with_loss(s, t, snr_loss(s, t)?))
    }

    /// The posterior with the share of SNR lost given, for levels whose difference is known better
    /// than their ends.
    pub fn with_loss(s: Level<S>, t: Level<S>, loss: S) -> Self {
        let kept = t.alpha / s.alpha * (s.sigma / t.sigma);
        Self {
            coef_x0: s.alpha * loss,
            coef_xt: kept * (s.sigma / t.sigma),
            var: s.sigma * loss * s.sigma,
        }
    }

    /// The DDIM family `q_eta(x_s | x_t, x0)`, all of which have the marginals `q(x_s | x0)`: the
    /// deterministic map at `eta = 0`, the posterior at `eta = 1`.
    ///
    /// # Formula
    /// `var = eta^2 sigma_s^2 loss`, `coef_xt = sqrt(sigma_s^2 - var) / sigma_t`,
    /// `coef_x0 = alpha_s - alpha_t coef_xt`.
    ///
    /// Both differences are rearranged. With `r = alpha_t sigma_s / (alpha_s sigma_t)` and
    /// `k^2 = 1 - eta^2 + eta^2 r^2`: `coef_xt = k sigma_s / sigma_t` and
    /// `coef_x0 = alpha_s loss (1 + eta^2 r^2) / (1 + k r)`, sums of what is not negative.
    ///
    /// # Errors
    /// As [`snr_loss`]; an `eta` that is negative, or so large that the variance exceeds
    /// `sigma_s^2` (`eta^2 loss > 1`).
    ///
    /// # Source
    /// Song, Meng, Ermon, "Denoising Diffusion Implicit Models", 2021, equations 7, 12 and 16.
    pub fn ddim(s: Level<S>, t: Level<S>, eta: S) -> Result<Self> {
        let loss = snr_loss(s, t)?;
        let r = t.alpha / s.alpha * (s.sigma / t.sigma);
        let (eta2, r2) = (eta * eta, r * r);
        let k2 = (S::one() - eta) * (S::one() + eta) + eta2 * r2;
        if !(eta.re() >= 0.0 && k2.re() >= 0.0) {
            let most = loss.re().sqrt().recip();
            return Err(Error::domain(
                "eta",
                eta.re(),
                format!("0 to {most} between these levels"),
                "1 is the posterior, 0 deterministic",
            ));
        }
        // The root has no derivative at 0, where it is no longer needed: x_s is clean data or all
        // of its noise is fresh.
        let k = if k2.re() == 0.0 { S::zero() } else { k2.sqrt() };
        Ok(Self {
            coef_x0: s.alpha * loss * (eta2 * r2 + 1.0) / (k * r + 1.0),
            coef_xt: k * (s.sigma / t.sigma),
            var: eta2 * (s.sigma * loss * s.sigma),
        })
    }

    /// Mean of `x_s`.
    pub fn mean(&self, x0: S, xt: S) -> S {
        self.coef_x0 * x0 + self.coef_xt * xt
    }

    /// `ln q(x_s | x_t, x0)` of one coordinate, in nats.
    pub fn log_density(&self, xs: S, xt: S, x0: S) -> S {
        log_density_normal(xs, self.mean(x0, xt), self.var)
    }
}

/// The level of the random walk `x_t = x_{t-1} + eps_t` after `t` unit steps:
/// `q(x_t | x0) = N(x0, t I)`.
///
/// # Source
/// The Purdue deck, "The forward process can be collapsed into a single step".
pub fn random_walk<S: Scalar>(t: S) -> Level<S> {
    Level { alpha: S::one(), sigma: if t.re() == 0.0 { S::zero() } else { t.sqrt() } }
}

/// The posterior of the random walk for any `0 <= s < t`, from the times themselves: no root is
/// squared again.
///
/// # Formula
/// `q(x_s | x_t, x0) = N((t - s)/t x0 + s/t x_t, s (t - s)/t I)`; for `s = t - 1` the deck's
/// `N((1 - 1/t) x_t + (1/t) x0, (1 - 1/t) I)`.
///
/// # Source
/// The Purdue deck, "The reverse transition conditioned on x0 is known in closed form".
pub fn random_walk_posterior<S: Scalar>(s: S, t: S) -> Posterior<S> {
    let (kept, loss) = (s / t, (t - s) / t);
    Posterior { coef_x0: loss, coef_xt: kept, var: s * loss }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::dd::Dd;
    use crate::math::gaussian::{Covariance, Normal};
    use nalgebra::{DMatrix, DVector};
    use proptest::prelude::*;

    const EPS: f64 = f64::EPSILON;

    fn close(got: f64, want: f64, tol: f64) -> bool {
        (got - want).abs() <= tol * want.abs()
    }

    /// A level of log-SNR `lambda` on a path of scale `c`: `alpha^2 + sigma^2 = c^2`.
    fn level(lambda: f64, c: f64) -> Level<f64> {
        Level::new(c / (1.0 + (-lambda).exp()).sqrt(), c / (1.0 + lambda.exp()).sqrt())
    }

    /// Three levels in order, from clean to noisy and of any scale; strides from 1e-6 to 20 in
    /// log-SNR.
    fn chain() -> impl Strategy<Value = [Level<f64>; 3]> {
        let scale = || (-3.0..3.0f64).prop_map(|e| 10f64.powf(e));
        let stride = || (-6.0..1.3f64).prop_map(|e| 10f64.powf(e));
        (-30.0..40.0f64, stride(), stride(), [scale(), scale(), scale()]).prop_map(
            |(lambda, a, b, c)| {
                [level(lambda, c[0]), level(lambda - a, c[1]), level(lambda - a - b, c[2])]
            },
        )
    }

    /// The same at log-SNR within [-16, 6], strides 0.05 to 5: where brute force keeps most of its
    /// digits.
    fn mild_chain() -> impl Strategy<Value = [Level<f64>; 2]> {
        (-6.0..6.0f64, 0.05..5.0f64, 0.2..5.0f64)
            .prop_map(|(lambda, a, c)| [level(lambda, c), level(lambda - a, 1.0)])
    }

    proptest! {
        #[test]
        fn the_snr_loss_of_rounded_levels_is_that_of_their_log_snr(lambda in -30.0..30.0f64, drop in (-6.0..2.0f64).prop_map(|e| 10f64.powf(e))) {
            let next = lambda - drop;
            let (loss, want) = (snr_loss(level(lambda, 1.0), level(next, 3.0)).unwrap(), snr_loss_from_log(lambda - next));
            // Four coefficients of a few eps each (exp turns an error of lambda eps into one of
            // that size), over the gap.
            let gap = 1.0 - (-drop / 2.0).exp();
            prop_assert!(close(loss, want, (16.0 + lambda.abs() + next.abs()) * EPS / gap), "{loss} {want}");
        }

        #[test]
        fn kernels_of_given_levels_are_good_to_a_few_ulp([s, t, _] in chain(), eta in 0.0..1.0f64) {
            // The same f64 coefficients in 106 bits: a stride of 1e-6 costs nothing. Two half-ulp
            // quotients for the loss's factors, two for the coefficients, and as many products.
            let wide = |l: Level<f64>| Level::new(Dd::from(l.alpha), Dd::from(l.sigma));
            let (q, exact) = (Transition::between(s, t).unwrap(), Transition::between(wide(s), wide(t)).unwrap());
            prop_assert!(close(q.scale, exact.scale.hi(), EPS) && close(q.var, exact.var.hi(), 4.0 * EPS));
            for eta in [eta, 1.0] {
                let (q, exact) = (Posterior::ddim(s, t, eta).unwrap(), Posterior::ddim(wide(s), wide(t), eta.into()).unwrap());
                prop_assert!(close(q.coef_x0, exact.coef_x0.hi(), 5.0 * EPS), "{} {}", q.coef_x0, exact.coef_x0);
                prop_assert!(close(q.coef_xt, exact.coef_xt.hi(), 5.0 * EPS) && close(q.var, exact.var.hi(), 5.0 * EPS));
            }
        }

        #[test]
        fn marginals_form_a_semigroup([s, t, u] in chain()) {
            let q = |a, b| Transition::between(a, b).unwrap();
            let (direct, composed) = (q(s, u), q(s, t).then(q(t, u)));
            // An identity in the six coefficients as given and a sum of positive terms: no
            // condition number at any stride.
            prop_assert!(close(composed.scale, direct.scale, 4.0 * EPS));
            prop_assert!(close(composed.var, direct.var, 16.0 * EPS), "{} {}", composed.var, direct.var);
        }

        #[test]
        fn the_ddim_family_keeps_the_marginal([s, t, _] in chain(), share in 0.0..1.0f64) {
            let most = snr_loss(s, t).unwrap().sqrt().recip();
            for eta in [0.0, share, 1.0, (1.0 + (most - 1.0) * share).min(most * (1.0 - 4.0 * EPS))] {
                let q = Posterior::ddim(s, t, eta).unwrap();
                // x_t = alpha_t x0 + sigma_t eps in, x_s = alpha_s x0 + sigma_s eps' out: positive
                // sums, hence plain eps. For eta > 1, k^2 is a difference of up to eta^2 and its
                // error eta^2 eps enters against 1.
                let slack = 16.0 * EPS * eta.max(1.0).powi(2);
                prop_assert!(close(q.coef_x0 + q.coef_xt * t.alpha, s.alpha, slack));
                prop_assert!(close((q.coef_xt * t.sigma).powi(2) + q.var, s.sigma * s.sigma, slack));
            }
            let (one, posterior) = (Posterior::ddim(s, t, 1.0).unwrap(), Posterior::between(s, t).unwrap());
            prop_assert!(close(one.coef_x0, posterior.coef_x0, 16.0 * EPS));
            prop_assert!(close(one.coef_xt, posterior.coef_xt, 16.0 * EPS));
            prop_assert!(close(one.var, posterior.var, 16.0 * EPS));
        }

        #[test]
        fn the_posterior_is_the_conditional_of_the_joint_gaussian([s, t] in mild_chain(), v0 in 0.3..3.0f64) {
            // (x0, x_s, x_t) as a chain from x0 ~ N(0, v0); any v0 must give the same kernel.
            let one = |a: f64| DMatrix::from_element(1, 1, a);
            let zero = DVector::zeros(1);
            let x0 = Normal::new(zero.clone(), Covariance::Isotropic(v0)).unwrap();
            let first = Transition::between(Level::CLEAN, s).unwrap();
            let x0_xs = x0.joint(&one(first.scale), &zero, Covariance::Isotropic(first.var)).unwrap();
            let step = Transition::between(s, t).unwrap();
            let joint = x0_xs.joint(&DMatrix::from_row_slice(1, 2, &[0.0, step.scale]), &zero, Covariance::Isotropic(step.var)).unwrap();
            let q = Posterior::between(s, t).unwrap();
            // Linear in the values: the mean at (1, 0) and (0, 1) are the two coefficients.
            let at = |x0: f64, xt: f64| joint.condition(&[0, 2], &[x0, xt]).unwrap();
            let cov = joint.marginal(&[0, 2]).unwrap().cov_matrix();
            let condition = cov.norm().powi(2) / cov.determinant();
            let size = s.alpha + s.sigma * (1.0 + 1.0 / t.sigma);
            let tol = 16.0 * EPS * condition;
            prop_assert!((at(1.0, 0.0).mean()[0] - q.coef_x0).abs() <= tol * size);
            prop_assert!((at(0.0, 1.0).mean()[0] - q.coef_xt).abs() <= tol * size);
            let prior = x0_xs.cov_matrix()[(1, 1)];
            prop_assert!((at(0.0, 0.0).cov_matrix()[(0, 0)] - q.var).abs() <= tol * prior);
        }

        #[test]
        fn bayes_rule_holds_for_the_densities([s, t] in mild_chain(), x in [-2.0..2.0f64, -2.0..2.0, -2.0..2.0]) {
            let [x0, es, et] = x;
            let (to_s, to_t, step) = (
                Transition::between(Level::CLEAN, s).unwrap(), Transition::between(Level::CLEAN, t).unwrap(), Transition::between(s, t).unwrap(),
            );
            let xs = to_s.mean(x0) + es * to_s.var.sqrt();
            let xt = step.mean(xs) + et * step.var.sqrt();
            let posterior = Posterior::between(s, t).unwrap().log_density(xs, xt, x0);
            let (forward, prior, evidence) = (step.log_density(xt, xs), to_s.log_density(xs, x0), to_t.log_density(xt, x0));
            // Squares of up to a few deviations; a mean of size m has the relative error eps m /
            // std in its z-score.
            let loss = snr_loss(s, t).unwrap();
            let z = 1.0 + 10.0 * (1.0 + s.alpha / s.sigma) / loss.sqrt();
            let tol = 16.0 * EPS * z * (10.0 + forward.abs() + prior.abs() + evidence.abs());
            prop_assert!((posterior - (forward + prior - evidence)).abs() <= tol, "{posterior} {}", forward + prior - evidence);
        }

        #[test]
        fn the_posterior_is_ho_s_in_terms_of_beta(alpha_bar in 0.05..0.95f64, beta in 1e-3..0.999f64) {
            let next = alpha_bar * (1.0 - beta);
            let (s, t) = (Level::new(alpha_bar.sqrt(), (1.0 - alpha_bar).sqrt()), Level::new(next.sqrt(), (1.0 - next).sqrt()));
            let (q, forward) = (Posterior::between(s, t).unwrap(), Transition::between(s, t).unwrap());
            // Rounded coefficients over the smallest gap, 1 - sqrt(snr_t / snr_s) > beta / 2.
            let tol = 16.0 * EPS / beta;
            prop_assert!(close(forward.var, beta, tol) && close(forward.scale, (1.0 - beta).sqrt(), tol));
            prop_assert!(close(q.coef_x0, alpha_bar.sqrt() * beta / (1.0 - next), tol));
            prop_assert!(close(q.coef_xt, (1.0 - beta).sqrt() * (1.0 - alpha_bar) / (1.0 - next), tol));
            prop_assert!(close(q.var, beta * (1.0 - alpha_bar) / (1.0 - next), tol));
        }

        #[test]
        fn the_random_walk_is_the_path_with_sigma_sqrt_t(s in 0.0..1e3f64, stride in 0.1..1e3f64) {
            let t = s + stride;
            let (q, general) = (random_walk_posterior(s, t), Posterior::between(random_walk(s), random_walk(t)).unwrap());
            // Roots rounded to eps against their difference.
            let tol = 8.0 * EPS / (1.0 - (s / t).sqrt());
            prop_assert!(close(general.coef_x0, q.coef_x0, tol) && close(general.coef_xt, q.coef_xt, tol) && close(general.var, q.var, tol));
        }
    }

    #[test]
    fn unit_steps_of_the_random_walk_compose_to_variance_t() {
        let step = Transition { scale: 1.0, var: 1.0 };
        let mut q = Transition { scale: 1.0, var: 0.0 };
        for t in 1..=1000 {
            q = q.then(step);
            assert_eq!(q, Transition { scale: 1.0, var: t as f64 });
            let marginal = Transition::between(Level::CLEAN, random_walk(t as f64)).unwrap();
            assert!(marginal.scale == 1.0 && close(marginal.var, q.var, EPS));
            let (deck, got) = (1.0 / t as f64, random_walk_posterior((t - 1) as f64, t as f64));
            assert!(
                close(got.coef_x0, deck, EPS)
                    && (got.coef_xt - (1.0 - deck)).abs() <= EPS
                    && (got.var - (1.0 - deck)).abs() <= EPS
            );
        }
    }

    #[test]
    fn both_ends_of_the_path_have_their_limits() {
        let (mid, noise) = (Level::new(0.6, 0.8), Level::NOISE);
        assert_eq!(
            Transition::between(Level::CLEAN, mid).unwrap(),
            Transition { scale: 0.6, var: 0.8 * 0.8 }
        );
        assert_eq!(Transition::between(mid, noise).unwrap(), Transition { scale: 0.0, var: 1.0 });
        for eta in [0.0, 0.5, 1.0] {
            // To clean data: x0 itself. From pure noise: x_t carries nothing of x0, only eps.
            assert_eq!(
                Posterior::ddim(Level::CLEAN, mid, eta).unwrap(),
                Posterior { coef_x0: 1.0, coef_xt: 0.0, var: 0.0 }
            );
            let q = Posterior::ddim(mid, noise, eta).unwrap();
            assert!(q.coef_x0 == 0.6 && close(q.coef_xt, 0.8 * (1.0 - eta * eta).sqrt(), EPS));
        }
        // sigma = 1e-200 neither underflows nor loses the loss.
        let (s, t) = (Level::new(1.0, 1e-200), Level::new(1.0, 2e-200));
        assert_eq!(snr_loss(s, t).unwrap(), 0.75);
    }

    #[test]
    fn what_is_undefined_is_refused() {
        let (mid, noise) = (Level::new(0.6, 0.8), Level::NOISE);
        assert!(matches!(snr_loss(noise, noise), Err(Error::Singular { .. })));
        assert!(matches!(snr_loss(Level::CLEAN, Level::CLEAN), Err(Error::Singular { .. })));
        let message = snr_loss(mid, Level::new(0.8, 0.6)).unwrap_err().to_string();
        assert!(
            message.contains("(0.6, 0.8) to (0.8, 0.6)")
                && message.contains("order them from data to noise"),
            "{message}"
        );
        for bad in [
            Level::new(-0.1, 1.0),
            Level::new(f64::NAN, 1.0),
            Level::new(0.0, 0.0),
            Level::new(1.0, f64::INFINITY),
        ] {
            assert!(matches!(snr_loss(mid, bad), Err(Error::Domain { .. })), "{bad:?}");
        }
        assert!(matches!(Posterior::ddim(mid, noise, -0.1), Err(Error::Domain { .. })));
        assert!(matches!(Posterior::ddim(mid, noise, 1.1), Err(Error::Domain { .. })));
        assert!(matches!(Posterior::ddim(mid, noise, f64::NAN), Err(Error::Domain { .. })));
    }

    #[test]
    fn what_is_singular_is_named() {
        let message = |s, t| snr_loss(s, t).unwrap_err().to_string();
        assert!(
            message(Level::NOISE, Level::new(0.0, 2.0)).contains("the earlier level has no signal")
        );
        assert!(
            message(Level::CLEAN, Level::new(2.0, 0.0)).contains("the later level has no noise")
        );
    }
}
