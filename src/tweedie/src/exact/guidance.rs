//! Guidance on Gaussian classes: the law that guided sampling really produces, against the tilted
//! law that it is said to sample.

use crate::diffusion::level::Level;
use crate::error::{Error, Result};
use crate::exact::gains::psi;
use crate::exact::shared_modes::shared_modes;
use crate::law::Gaussian;
use crate::math::quadrature::IntervalRule;
use ndarray::Array1;

/// The tilted law `p(x_t)^(1 - scale) p(x_t | c)^scale`, normalised, at one level: at every level
/// its score is the guided score.
///
/// # Formula
/// In each mode, with variances `u` and `c` of the two marginals at the level and
/// `denominator = (1 - scale) c + scale u`: `variance = u c / denominator`,
/// `mean = alpha (mean_u + scale (mean_c - mean_u) u / denominator)`: the harmonic mean of the
/// variances.
///
/// Since `p(c | x) = p(x | c) p(c) / p(x)`, it is `p(x) p(c | x)^scale`: classifier guidance with
/// the exact noised classifier and classifier-free guidance are one and the same. Scale 0 is
/// unconditional, 1 conditional.
///
/// # Errors
/// Covariances that do not commute; a point that is no level; a mode in which the tilted law is
/// improper (`denominator <= 0`).
///
/// # Source
/// Dhariwal and Nichol 2021, section 4, classifier guidance; Ho and Salimans 2022, "Classifier-free
/// diffusion guidance", eq. 6 (there `scale = 1 + w`).
pub fn tilted_law(
    unconditional: &Gaussian,
    conditional: &Gaussian,
    scale: f64,
    at: impl Into<Level>,
) -> Result<Gaussian> {
    let level = Level::of(at)?;
    check_scale(scale)?;
    let shared = shared_modes(&[unconditional, conditional])?;
    let mut pull = Array1::zeros(unconditional.dim());
    let mut variances = Array1::zeros(unconditional.dim());
    for (k, (&lambda_u, &lambda_c)) in
        shared.variances[0].iter().zip(&shared.variances[1]).enumerate()
    {
        let (u, c) = (level.var(lambda_u), level.var(lambda_c));
        (pull[k], variances[k]) = match (lambda_u == lambda_c, (1.0 - scale) * c + scale * u) {
            // Also where both variances are 0.
            (true, _) => (scale, u),
            (false, denominator) if denominator > 0.0 => {
                (scale * u / denominator, u * c / denominator)
            }
            (false, denominator) => {
                let what =
                    format!("precision of the tilted law in mode {k} (variances {u} and {c})");
                return Err(Error::domain(
                    what,
                    denominator,
                    "> 0",
                    "lower the scale: the product of the densities has no finite integral",
                ));
            }
        };
    }
    let shift = shared.modes.t().dot(&(&conditional.mean() - &unconditional.mean()));
    let mean = (shared.modes.dot(&(shift * pull)) + unconditional.mean()) * level.alpha;
    Gaussian::from_modes(mean, variances, shared.modes)
}

/// Law at `to` of the guided PF-ODE, from a Gaussian `start` at `from`.
///
/// # Formula
/// The score is `(1 - scale) score_u + scale score_c`, so each mode obeys a linear equation:
/// `x_to - alpha_to mean_u = gain (x_from - alpha_from mean_u) + scale alpha_to (mean_c - mean_u) pull` with
/// `gain = psi_u^(1 - scale) psi_c^scale` and `pull = 1/2 int gain_bar(tau to tau_to) dtau / (lambda_c + tau)` over `tau = edm_sigma^2` from `tau_to` to `tau_from`
/// (`gain_bar` that of the unscaled state). It is `1 - psi_bar` where the class shares the variance, and is integrated otherwise.
///
/// From far away the variance is `lambda_u^(1 - scale) lambda_c^scale`, the *geometric* mean; the
/// tilted law has the harmonic one. They agree for every scale where class and data share their
/// covariance (from the tilted start exactly, from any start in the limit), and always at scale 0
/// and 1.
///
/// # Errors
/// Covariances that do not commute; a point that is no level; `to` noisier than `from`; a gain that
/// is infinite: `from.sigma = 0`, or a mode without variance at `to.sigma = 0` which one of the two
/// laws is pushed away from.
///
/// # Source
/// Bradley and Nakkiran 2024, "Classifier-free guidance is a predictor-corrector", section 3;
/// Chidambaram et al. 2024, "What does guidance do?".
///
/// # Example
/// ```
/// use ndarray::array;
/// use tweedie::{diffusion::PathPoint, exact::guidance::{guided_law, tilted_law}, law::Gaussian};
/// let law = |mean: f64, var: f64| Gaussian::diagonal(array![mean], array![var]).unwrap();
/// let (data, class) = (law(0.0, 1.0), law(1.0, 0.25));
/// let (noise, clean) = (PathPoint::still(1e-6, 1.0), PathPoint::CLEAN);
/// let start = law(0.0, 1.0);
/// let guided = guided_law(&data, &class, 2.0, &start, &noise, &clean).unwrap();
/// let tilted = tilted_law(&data, &class, 2.0, &clean).unwrap();
/// assert!((guided.variances()[0] - 1.0 / 16.0).abs() < 1e-9); // geometric: 1^-1 (1/4)^2
/// assert!((tilted.variances()[0] - 1.0 / 7.0).abs() < 1e-15); // harmonic: 1 / (-1 + 2 / (1/4))
/// ```
pub fn guided_law(
    unconditional: &Gaussian,
    conditional: &Gaussian,
    scale: f64,
    start: &Gaussian,
    from: impl Into<Level>,
    to: impl Into<Level>,
) -> Result<Gaussian> {
    let (a, b) = (Level::of(from)?, Level::of(to)?);
    check_scale(scale)?;
    if b.sigma * a.alpha > a.sigma * b.alpha {
        let got = format!("edm_sigma {} to {}", a.edm_sigma(), b.edm_sigma());
        return Err(Error::domain(
            "levels of guided sampling",
            got,
            "from noise to data",
            "swap the two points",
        ));
    }
    if a.sigma == 0.0 {
        return Err(Error::singular(
            "guided sampling",
            "from.sigma = 0",
            "nothing is left to sample",
            "start from a positive sigma",
        ));
    }
    let shared = shared_modes(&[unconditional, conditional, start])?;
    let modes = shared.variances[0].iter().zip(&shared.variances[1]);
    let motions = modes
        .map(|(&u, &c)| GuidedMode { u, c, scale }.motion(a, b))
        .collect::<Result<Vec<_>>>()?;
    let gains: Array1<f64> = motions.iter().map(|m| m.gain).collect();
    let pulls: Array1<f64> = motions.iter().map(|m| scale * b.alpha * m.pull).collect();
    let shift = shared.modes.t().dot(&(&conditional.mean() - &unconditional.mean()));
    let offset = shared.modes.t().dot(&(&start.mean() - &(&unconditional.mean() * a.alpha)));
    let mean =
        shared.modes.dot(&(offset * &gains + shift * pulls)) + &(&unconditional.mean() * b.alpha);
    Gaussian::from_modes(mean, &gains * &gains * &shared.variances[2], shared.modes)
}

fn check_scale(scale: f64) -> Result<()> {
    if scale.is_finite() {
        return Ok(());
    }
    Err(Error::domain(
        "guidance scale",
        scale,
        "a finite number",
        "1 is conditional, more is guided",
    ))
}

/// One mode of a pair of laws under guidance.
struct GuidedMode {
    /// Unconditional variance.
    u: f64,
    /// Conditional variance.
    c: f64,
    scale: f64,
}

/// What the guided flow does to one mode.
struct Motion {
    gain: f64,
    pull: f64,
}

impl GuidedMode {
    fn motion(&self, from: Level, to: Level) -> Result<Motion> {
        let Self { u, c, scale } = *self;
        // Unscaled, psi(from.alpha / to.alpha) as a ratio of products that is 0 from alpha = 0.
        let unscaled = |gain: f64| gain * from.alpha / to.alpha;
        if u == c || scale == 1.0 {
            let gain = psi(c, from, to);
            return Ok(Motion { gain, pull: 1.0 - unscaled(gain) });
        }
        if scale == 0.0 {
            return Ok(Motion { gain: psi(u, from, to), pull: 0.0 });
        }
        if to.sigma == 0.0 && u.min(c) == 0.0 {
            // The mode collapses onto the law that has no variance, if its score is weighed
            // positively.
            let (weight, pull) = if c == 0.0 { (scale, 1.0 / scale) } else { (1.0 - scale, 0.0) };
            if weight > 0.0 {
                return Ok(Motion { gain: 0.0, pull });
            }
            let why = "a law without variance in a mode is weighed negatively there";
            return Err(Error::singular(
                "guided sampling",
                "to.sigma = 0",
                why,
                "stop at a small positive sigma",
            ));
        }
        let gain = psi(u, from, to).powf(1.0 - scale) * psi(c, from, to).powf(scale);
        Ok(Motion {
            gain,
            pull: self.pull((from.sigma / from.alpha).powi(2), (to.sigma / to.alpha).powi(2))?,
        })
    }

    /// `1/2 int (P_u(end) / P_u)^((1 - scale) / 2) (P_c(end) / P_c)^(scale / 2) dtau / P_c` with
    /// `P = variance + tau`, over the logarithm of the smaller P: there the integrand is a product
    /// of powers that change over a unit or more.
    fn pull(&self, start: f64, end: f64) -> Result<f64> {
        let Self { u, c, scale } = *self;
        let (small, large) = (u.min(c), u.max(c));
        let low = (small + end).ln();
        // At infinite noise the integrand has fallen as the square root of P: e^-40 of its size at
        // P = large.
        let high = (small + start).ln().min((large + end).ln() + 80.0);
        let panels = ((high - low) * (1.0 + scale.abs() / 4.0)).ceil().max(1.0);
        let width = (high - low) / panels;
        let rule = IntervalRule::new(16)?;
        let integrand = |log: f64| {
            let smaller = log.exp();
            let larger = smaller + (large - small);
            let (p_u, p_c) = if u < c { (smaller, larger) } else { (larger, smaller) };
            let decay = (1.0 - scale) * ((u + end) / p_u).ln() + scale * ((c + end) / p_c).ln();
            0.5 * (0.5 * decay).exp() * smaller / p_c
        };
        Ok((0..panels as usize)
            .map(|k| rule.integral(low + width * k as f64, low + width * (k + 1) as f64, integrand))
            .sum())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::PathPoint;
    use crate::exact::integrate::integrate;
    use crate::exact::testing::*;
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    fn one(mean: f64, var: f64) -> Gaussian {
        Gaussian::diagonal(array![mean], array![var]).unwrap()
    }

    /// Noisier point first.
    fn ordered([a, b, _]: [PathPoint; 3]) -> (PathPoint, PathPoint) {
        if a.edm_sigma() >= b.edm_sigma() { (a, b) } else { (b, a) }
    }

    proptest! {
        /// By integrating the guided score itself: mean and deviation of a one-dimensional law over
        /// ln(edm_sigma).
        #[test]
        fn the_guided_law_solves_the_guided_ode(u in -3.0..1.0f64, c in -3.0..1.0f64, shift in -2.0..2.0f64, scale in -0.5..4.0f64, start in 0.1..2.0f64, points in three_points()) {
            let (from, to) = ordered(points);
            let (data, class) = (one(0.5, 10f64.powf(u)), one(0.5 + shift, 10f64.powf(c)));
            let law = guided_law(&data, &class, scale, &one(0.3, start), from, to).unwrap();
            if from.edm_sigma() > to.edm_sigma() {
                let message = guided_law(&data, &class, scale, &one(0.3, start), to, from).unwrap_err().to_string();
                prop_assert!(message.contains("from noise to data"), "{message}");
            }
            let stay = guided_law(&data, &class, scale, &one(0.3, start), from, from).unwrap();
            prop_assert!((stay.mean()[0] - 0.3).abs() <= 1e-14 * (1.0 + from.alpha) && (stay.variances()[0] / start - 1.0).abs() <= 1e-14);
            let f = |log: f64, y: &Array2<f64>, dy: &mut Array2<f64>| {
                let tau = (2.0 * log).exp();
                let (p_u, p_c) = (10f64.powf(u) + tau, 10f64.powf(c) + tau);
                let score = |z: f64| -(1.0 - scale) * (z - 0.5) / p_u - scale * (z - 0.5 - shift) / p_c;
                // dz/dtau = -score/2; two solutions, one that starts a deviation away.
                dy.assign(&y.mapv(|z| -score(z) * tau));
                Ok(())
            };
            let states = array![[0.3 / from.alpha, (0.3 + start.sqrt()) / from.alpha]];
            let scale_of = 1.0 + size(&states);
            let allowed = |_: f64, y: &Array2<f64>| Array2::from_elem(y.dim(), 1e-14 * scale_of);
            let end = integrate(f, states, (from.edm_sigma().ln(), to.edm_sigma().ln()), allowed).unwrap().0 * to.alpha;
            let std = (end[[0, 1]] - end[[0, 0]]).abs();
            // 100 steps of 1e-14 of the start's size, each magnified by what guidance amplifies on
            // its way (up to P ratios of 1e4, to the power |scale - 1| / 2).
            let growth = 10f64.powf((u - c).abs() * 0.5 * (scale - 1.0).abs().max(scale.abs()));
            let tol = 1e-12 * scale_of * to.alpha * growth;
            prop_assert!((law.mean()[0] - end[[0, 0]]).abs() <= tol, "{} {}", law.mean()[0], end[[0, 0]]);
            prop_assert!((law.variances()[0].sqrt() - std).abs() <= tol);
        }

        #[test]
        fn the_tilted_score_is_the_guided_score(u in -3.0..1.0f64, c in -3.0..1.0f64, shift in -2.0..2.0f64, scale in 0.0..1.0f64, x in -3.0..3.0f64, [at, ..] in three_points()) {
            // Scales between 0 and 1 are proper for every pair of variances; above 1 for classes
            // narrower than the data.
            let (u, c, scale) = if u > c { (u, c, 4.0 * scale) } else { (u, c, scale) };
            let (data, class) = (one(0.5, 10f64.powf(u)), one(0.5 + shift, 10f64.powf(c)));
            let tilted = tilted_law(&data, &class, scale, at).unwrap();
            let level = Level::from(&at);
            let score = |law: &Gaussian| -(x - at.alpha * law.mean()[0]) / level.var(law.variances()[0]);
            let want = (1.0 - scale) * score(&data) + scale * score(&class);
            let got = -(x - tilted.mean()[0]) / tilted.variances()[0];
            let at_stake = (1.0 + scale) * (x.abs() + 3.0) * (1.0 / level.var(10f64.powf(u)) + 1.0 / level.var(10f64.powf(c)));
            prop_assert!((got - want).abs() <= 32.0 * f64::EPSILON * at_stake);
        }

        #[test]
        fn a_shared_covariance_is_sampled_right(data in gaussian(3), shift in prop::collection::vec(-2.0..2.0f64, 3), scale in -1.0..8.0f64, points in three_points()) {
            let (from, to) = ordered(points);
            let class = Gaussian::from_modes(&data.mean() + &Array1::from(shift), data.variances().to_owned(), data.modes().to_owned()).unwrap();
            let start = tilted_law(&data, &class, scale, from).unwrap();
            let (got, want) = (guided_law(&data, &class, scale, &start, from, to).unwrap(), tilted_law(&data, &class, scale, to).unwrap());
            let size = (1.0 + to.alpha / from.alpha) * (1.0 + scale.abs()) * 10.0;
            prop_assert!((&got.mean() - &want.mean()).iter().all(|g| g.abs() <= 64.0 * f64::EPSILON * size));
            let (got, want) = (got.matrix(|v| v), want.matrix(|v| v));
            prop_assert!(gap(&got, &want) <= 64.0 * f64::EPSILON * (to.alpha / from.alpha).powi(2).max(1.0) * (1.0 + from.sigma * from.sigma + 100.0));
        }

        /// p(c | x) of a class seen through a linear-Gaussian measurement: conditioning by Bayes is
        /// guidance at scale 1.
        #[test]
        fn classifier_guidance_at_scale_one_is_bayes(data in full_gaussian(3), noise_var in 0.01..10.0f64, seed: u64) {
            let y = normal_rows(1, 3, seed).row(0).to_owned();
            let at = PathPoint::still(1.0, noise_var.sqrt());
            // Posterior of x0 given y = x0 + noise: Wiener mean, variance lambda noise_var /
            // (lambda + noise_var).
            let mut mean = Array2::zeros((1, 3));
            crate::diffusion::Denoiser::denoise(&data, y.view().insert_axis(ndarray::Axis(0)), &at, mean.view_mut()).unwrap();
            let posterior = Gaussian::from_modes(mean.row(0).to_owned(), data.variances().mapv(|l| l * noise_var / (l + noise_var)), data.modes().to_owned()).unwrap();
            // Tilting by p(y | x)^scale is a measurement of noise_var / scale.
            let scale = 3.0;
            let tilted = tilted_law(&data, &posterior, scale, PathPoint::CLEAN).unwrap();
            let sharper = PathPoint::still(1.0, (noise_var / scale).sqrt());
            crate::diffusion::Denoiser::denoise(&data, y.view().insert_axis(ndarray::Axis(0)), &sharper, mean.view_mut()).unwrap();
            let condition = 1.0 + 10.0 / noise_var;
            prop_assert!((&tilted.mean() - &mean.row(0)).iter().all(|g| g.abs() <= 64.0 * f64::EPSILON * condition * 10.0));
            let want = data.matrix(|l| l * noise_var / (scale * l + noise_var));
            prop_assert!(gap(&tilted.matrix(|v| v), &want) <= 64.0 * f64::EPSILON * condition * 10.0);
        }
    }

    #[test]
    fn collapsing_modes_have_their_limits() {
        let (noise, clean) = (PathPoint::NOISE, PathPoint::CLEAN);
        let nearly = PathPoint::still(1.0, 1e-9);
        let start = one(0.0, 1.0);
        for (u, c, scale) in [(1.0, 0.0, 2.0), (0.0, 1.0, 0.5), (1.0, 0.0, 1.0), (0.0, 0.0, 3.0)] {
            let law =
                |to| guided_law(&one(0.0, u), &one(1.0, c), scale, &start, noise, to).unwrap();
            let (limit, close) = (law(&clean), law(&nearly));
            // Powers of 1e-9 down to 1/2.
            assert!(
                (limit.mean()[0] - close.mean()[0]).abs() <= 1e-4
                    && (limit.variances()[0] - close.variances()[0]).abs() <= 1e-8,
                "{u} {c} {scale}"
            );
        }
        assert!(guided_law(&one(0.0, 0.0), &one(1.0, 1.0), 2.0, &start, noise, clean).is_err());
        assert!(tilted_law(&one(0.0, 1.0), &one(0.0, 3.0), 2.0, clean).is_err());
        assert!(guided_law(&start, &start, f64::NAN, &start, noise, clean).is_err());
        assert!(guided_law(&start, &start, 1.0, &start, clean, noise).is_err());
    }

    #[test]
    fn what_is_refused_is_named() {
        let (noise, clean) = (PathPoint::still(0.5, 1.0), PathPoint::CLEAN);
        // Denominators of -1 and of 0: the product of the densities has no finite integral.
        for (c, scale) in [(3.0, 2.0), (2.0, 2.0)] {
            let message =
                tilted_law(&one(0.0, 1.0), &one(0.0, c), scale, clean).unwrap_err().to_string();
            assert!(message.contains("precision of the tilted law in mode 0"), "{message}");
        }
        for bad in [f64::NAN, f64::INFINITY] {
            let start = one(0.0, 1.0);
            let messages = [
                tilted_law(&start, &start, bad, clean),
                guided_law(&start, &start, bad, &start, noise, clean),
            ];
            for message in messages.map(|law| law.unwrap_err().to_string()) {
                assert!(message.contains("guidance scale"), "{message}");
            }
        }
    }

    proptest! {
        /// Two legs make one, from pure noise or near it, to the clean end or near it, at any
        /// strength of the guidance.
        #[test]
        fn guided_flows_compose(u in 0.5..2.0f64, c in 0.5..2.0f64, shift in -2.0..2.0f64, scale in -3.0..30.0f64, middle in 0.2..3.0f64) {
            let (data, class, start) = (one(0.5, u), one(0.5 + shift, c), one(0.3, 1.0));
            let middle = PathPoint::still(1.0, middle);
            for from in [PathPoint::NOISE, PathPoint::still(1e-3, 1.0)] {
                for to in [PathPoint::CLEAN, PathPoint::still(1.0, 0.1)] {
                    let run = |start: &Gaussian, from, to| guided_law(&data, &class, scale, start, from, to).unwrap();
                    let (direct, via) = (run(&start, &from, &to), run(&run(&start, &from, &middle), &middle, &to));
                    // Powers of ratios of variances up to 4, to half the scale: their logarithm
                    // times eps; the mean sums such terms.
                    let growth = (u / c).max(c / u).powf(0.5 * scale.abs().max((1.0 - scale).abs()));
                    let tol = 256.0 * f64::EPSILON * (1.0 + scale.abs());
                    prop_assert!((via.variances()[0] / direct.variances()[0] - 1.0).abs() <= tol);
                    let gap = (via.mean()[0] - direct.mean()[0]).abs();
                    prop_assert!(gap <= tol * (1.0 + shift.abs()) * (1.0 + scale.abs()) * growth, "{gap}");
                }
            }
        }
    }
}
