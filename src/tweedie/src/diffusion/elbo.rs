//! The variational bound, term by term, for any reverse mean and variance, in discrete and
//! continuous time.
//!
//! `NELBO = KL(q(x_T|x0) || p(x_T))` (prior)
//! ` + sum_{t=2..T} E KL(q(x_{t-1}|x_t,x0) || p(x_{t-1}|x_t))` (transitions) ` - E ln p(x0|x_1)`
//! (reconstruction), all averaged over the data.
//!
//! The steps are any decreasing sequence of signal-to-noise ratios, so a strided sampler, a learned
//! grid and the T steps of training are one case. A transition depends on the two SNRs, on the
//! error of the denoiser and on the ratio of the reverse variance to the posterior's, and on
//! nothing else of the path: see [`transition`]. For Gaussian data every term is exact in each
//! eigenmode of the covariance ([`gaussian_bound`]); for other data the errors `E||x0 - x0_hat||^2`
//! are given ([`bound`]).

use crate::diffusion::PathPoint;
use crate::diffusion::decoder::{LevelScale, nats_to_bits_per_dim};
use crate::diffusion::level::Level;
use crate::error::{Error, Result, finite};
use crate::math::gaussian::{
    entropy_normal, kl_normal_mean, kl_normal_var, ln_tau_times, x_minus_ln_1p,
};
use crate::math::quadrature::IntervalRule;
use crate::math::scalar::{Scalar, exponent, ldexp, ln_ratio};

/// `snr_s - snr_t` for a step between `s = (alpha, sigma)` and the noisier `t`, positive.
///
/// # Formula
/// `(alpha_s/sigma_s)^2 - (alpha_t/sigma_t)^2 = D (alpha_s sigma_t + alpha_t sigma_s) / (sigma_s
/// sigma_t)^2` with `D = alpha_s sigma_t - alpha_t sigma_s`: the factor that cancels holds the
/// rounding of two products, not of four quotients.
pub fn snr_drop<S: Scalar>(s: (S, S), t: (S, S)) -> S {
    // In units in which both sigmas are of the order of 1; a is then out of range where the SNR is.
    let [s, t] = [s, t].map(|(alpha, sigma)| {
        let e = exponent(sigma.re());
        (ldexp(alpha, -e), ldexp(sigma, -e))
    });
    let (a, b, noise) = (s.0 * t.1, t.0 * s.1, s.1 * t.1);
    if a.re().is_finite() { (a - b) / noise * ((a + b) / noise) } else { a }
}

/// `ln(var_p/var_q)` of the reverse variance `beta`, the forward variance of the step:
/// `ln(sigma_t^2/sigma_s^2)`.
///
/// `var_q = beta sigma_s^2/sigma_t^2` is the posterior's, that of q(x_s|x_t,x0).
pub fn log_ratio_beta<S: Scalar>(s: (S, S), t: (S, S)) -> S {
    // The difference is exact where the two are within a factor 2; late steps of VP have
    // sigma_t/sigma_s = 1 + 1e-6.
    let growth = (t.1 - s.1) / s.1;
    (if growth.re().is_finite() { growth.ln_1p() } else { ln_ratio(t.1, s.1) }) * 2.0
}

/// One transition of one dimension, in nats:
/// `E KL(q(x_s|x_t,x0) || N(coef_xt x_t + coef_x0 x0_hat, var_p))`.
///
/// `log_ratio = ln(var_p/var_q)`, `drop = snr_s - snr_t`, `error = E (x0 - x0_hat)^2`.
///
/// # Formula
/// `(r + e^-r - 1 + e^-r drop error) / 2`, `r = log_ratio`. It is the KL of two normal laws with
/// `coef_x0^2/var_q = snr_s - snr_t` put in: alpha and sigma of the path enter through their ratio
/// alone.
///
/// With `r = 0` (posterior variance) it is `drop error / 2`; the best r is `ln(1 + drop error)`,
/// and leaves half of itself.
///
/// # Source
/// Ho et al. 2020 (arXiv 2006.11239), eq. 5 and 8; Kingma et al. 2021 (arXiv 2107.00630), the
/// discrete-time loss; Bao et al. 2022 (arXiv 2201.06503), theorem 1, for the best variance.
pub fn transition<S: Scalar>(log_ratio: S, drop: S, error: S) -> S {
    // r + e^-r - 1 is of second order where its terms are of first: at r = 1e-9, the last steps of
    // a fine grid, half of the digits.
    let y = (-log_ratio).exp_m1();
    let spread = if log_ratio.re().abs() <= 1.0 { x_minus_ln_1p(y) } else { log_ratio + y };
    // e^-r itself: of y + 1 nothing is left where r is beyond 37.
    let miss = drop * error;
    let left = if miss.re().is_finite() {
        miss * (-log_ratio).exp()
    } else {
        (drop.ln() + error.ln() - log_ratio).exp()
    };
    (spread + left) * 0.5
}

/// The prior term of one dimension, in nats: `E KL(N(alpha x0, sigma^2) || N(0, prior_var))`, with
/// `second_moment = E x0^2`.
///
/// # Formula
/// `(sigma^2/v - 1 - ln(sigma^2/v)) / 2 + alpha^2 second_moment / (2 v)`
///
/// The prior's variance is that of the sampler's first state: 1 for VP, `sigma_T^2` for VE, where
/// the mean term is all that is left.
pub fn prior<S: Scalar>(last: (S, S), second_moment: S, prior_var: S) -> S {
    let noise = last.1 * last.1;
    // Where the square is out of range, its logarithm is not.
    let spread = if noise.re().is_normal() {
        kl_normal_var(noise, prior_var)
    } else {
        (last.1 / prior_var * last.1 - 1.0 - (last.1.ln() * 2.0 - prior_var.ln())) * 0.5
    };
    spread + last.0 * (second_moment / prior_var) * last.0 * 0.5
}

/// The Gaussian reconstruction term of one dimension, in nats: `-E ln N(x0; x0_hat, var)`.
///
/// # Formula
/// `(ln(2 pi var) + error/var) / 2`
pub fn gaussian_reconstruction<S: Scalar>(error: S, var: S) -> S {
    (ln_tau_times(var) + error / var) * 0.5
}

/// `E (x0 - E[x0|x_t])^2` of a Gaussian mode of variance `lambda`: the least error of any denoiser.
///
/// # Formula
/// `lambda sigma^2 / (alpha^2 lambda + sigma^2) = lambda / (1 + snr lambda)`
pub fn mmse<S: Scalar>(lambda: S, at: (S, S)) -> S {
    let (var, e) = Level { alpha: at.0, sigma: at.1 }.split_var(lambda);
    let (noise, spread) = (exponent(at.1.re()), exponent(lambda.re()));
    let sigma = ldexp(at.1, -noise);
    ldexp(ldexp(lambda, -spread) * (sigma * sigma) / var, spread + 2 * (noise - e))
}

/// `E (x0 - x0_hat)^2` of a mode of variance `lambda` for the linear denoiser
/// `x0_hat - mean = gain (x_t - alpha mean)`.
///
/// # Formula
/// `lambda (1 - gain alpha)^2 + gain^2 sigma^2`
pub fn linear_error<S: Scalar>(lambda: S, gain: S, at: (S, S)) -> S {
    let (miss, noise) = (-gain * at.0 + 1.0, gain * at.1);
    lambda * miss * miss + noise * noise
}

/// Weight of `||eps - eps_hat||^2` in a transition: `(snr_s/snr_t - 1) var_q / (2 var_p)`; infinite
/// at `alpha_t = 0`.
///
/// It is `beta_t / (2 alpha_step (1 - alpha_bar_t))` for the variance beta. Of `||x0 - x0_hat||^2`
/// the weight is `drop var_q / (2 var_p)`, finite there too.
///
/// # Source
/// Ho et al. 2020, eq. 12.
pub fn vlb_weight<S: Scalar>(s: (S, S), t: (S, S), log_ratio: S) -> S {
    let [s, t] = [s, t].map(|(alpha, sigma)| Level { alpha, sigma });
    let (s, t) = Level::in_common_units(s, t);
    let (a, b) = (s.alpha * t.sigma, t.alpha * s.sigma);
    (a - b) / b * ((a + b) / b) * (-log_ratio).exp() * 0.5
}

/// The transitions of a Gaussian mode in the limit of infinitely many steps, in nats; only the end
/// points matter.
///
/// # Formula
/// `1/2 int mmse dsnr = 1/2 int_{snr_last}^{snr_first} lambda/(1 + snr lambda) dsnr = 1/2 ln((1 +
/// snr_first lambda)/(1 + snr_last lambda))`
///
/// # Source
/// Kingma et al. 2021 (arXiv 2107.00630), the continuous-time loss; Guo, Shamai and Verdu 2005
/// (I-MMSE).
pub fn continuous_transitions<S: Scalar>(lambda: S, first: (S, S), last: (S, S)) -> S {
    // ln_1p of the relative change: for lambda of 1e-20 the quotient itself is 1.
    let snr_last = (last.0 / last.1).powi(2);
    let growth = snr_drop(first, last) * lambda / (snr_last * lambda + 1.0);
    if growth.re().is_finite() {
        return growth.ln_1p() * 0.5;
    }
    // Out of range, and then far from 0: the logarithms of the deviations in units of the noise.
    let std = |(alpha, sigma): (S, S)| Level { alpha, sigma }.std(lambda).ln() - sigma.ln();
    std(first) - std(last)
}

/// The transitions of any denoiser in continuous time, in nats, from its total error
/// `E||x0 - x0_hat||^2` as a function of log-SNR.
///
/// # Formula
/// `1/2 int_{log_snr_last}^{log_snr_first} e^l error(l) dl`: the same for every path between two
/// end points.
///
/// # Errors
/// Ends that are not finite and increasing, an error that the adaptive quadrature (1e-13 relative)
/// cannot integrate.
///
/// # Source
/// Kingma et al. 2021, the continuous-time loss in terms of the SNR.
pub fn continuous_diffusion_loss(
    log_snr_last: f64,
    log_snr_first: f64,
    error: impl Fn(f64) -> f64,
) -> Result<f64> {
    if !log_snr_first.is_finite() || !log_snr_last.is_finite() || log_snr_last >= log_snr_first {
        return Err(Error::domain(
            "log-SNR range",
            format!("{log_snr_last} to {log_snr_first}"),
            "increasing, from the noisiest point to the cleanest",
            "swap the ends",
        ));
    }
    let rule = IntervalRule::new(20)?;
    Ok(0.5 * rule.adaptive(log_snr_last, log_snr_first, 1e-13, |l| l.exp() * error(l))?)
}

/// The variance of p(x_s|x_t), as a choice made once for all transitions.
#[derive(Clone, Debug, PartialEq)]
pub enum ReverseVar {
    /// The forward variance of the step, sigma_t^2 - (alpha_t/alpha_s)^2 sigma_s^2 (Ho's "fixed
    /// large"; for stride 1 it is beta_t).
    Beta,
    /// The variance of q(x_s|x_t,x0) ("fixed small").
    Posterior,
    /// The one that makes the bound least at the errors given: posterior variance plus
    /// `coef_x0^2 error`, in each mode. At the least error it is the exact variance of q(x_s|x_t),
    /// posterior variance plus `coef_x0^2 Cov[x0|x_t]`.
    Optimal,
    /// `beta^v posterior^(1 - v)`, interpolated in the logarithm by a constant v (Nichol & Dhariwal
    /// 2021, eq. 15).
    Interpolated(f64),
    /// Given numbers, isotropic, `[k]` for the step between points k and k + 1.
    Given(Vec<f64>),
}

impl ReverseVar {
    /// `ln(var_p/var_q)` of step `k` between `s` and `t`.
    fn log_ratio(&self, k: usize, s: &PathPoint, t: &PathPoint, drop: f64, error: f64) -> f64 {
        let beta = || log_ratio_beta((s.alpha, s.sigma), (t.alpha, t.sigma));
        match self {
            ReverseVar::Beta => beta(),
            ReverseVar::Posterior => 0.0,
            ReverseVar::Optimal if (drop * error).is_finite() => (drop * error).ln_1p(),
            ReverseVar::Optimal => drop.ln() + error.ln(),
            ReverseVar::Interpolated(v) => v * beta(),
            ReverseVar::Given(vars) => {
                // var_q = sigma_s^2 (1 - snr_t/snr_s).
                let var_q = (s.sigma * s.sigma / s.alpha).powi(2) * drop;
                let excess = (vars[k] - var_q) / var_q;
                if excess.abs() <= 0.5 { excess.ln_1p() } else { (vars[k] / var_q).ln() }
            }
        }
    }
}

/// What `-ln p(x0|x_1)` is.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Reconstruction {
    /// A Gaussian with, in each mode, the variance that is best for the error at the first point.
    Optimal,
    /// An isotropic Gaussian of this variance (Ho et al.: beta_1).
    Gaussian(f64),
    /// Nats of a whole datum from a decoder, averaged over data and noise
    /// ([`DiscretisedGaussian::nats`](crate::diffusion::decoder::DiscretisedGaussian::nats)).
    Nats(f64),
}

/// The reverse model of a bound, but for its mean.
#[derive(Clone, Debug, PartialEq)]
pub struct Reverse {
    /// Variance of the transitions.
    pub var: ReverseVar,
    /// The last step, to the data.
    pub reconstruction: Reconstruction,
    /// Variance of the prior `p(x_T) = N(0, prior_var I)`.
    pub prior_var: f64,
}

impl Reverse {
    /// The best variances everywhere, under a standard normal prior.
    pub fn optimal() -> Self {
        Self { var: ReverseVar::Optimal, reconstruction: Reconstruction::Optimal, prior_var: 1.0 }
    }
}

/// What the bound needs to know of a Gaussian data law.
#[derive(Clone, Copy, Debug)]
pub struct GaussianData<'a> {
    /// Variances of all d modes, zeros included, in any order.
    pub variances: &'a [f64],
    /// `||mean||^2`.
    pub mean_square: f64,
}

impl GaussianData<'_> {
    /// Differential entropy in nats; `-inf` where a mode has no variance.
    pub fn entropy(&self) -> f64 {
        self.variances.iter().map(|&lambda| entropy_normal(lambda)).sum()
    }

    /// `KL(q(x_T) || N(0, prior_var I))` of the marginal at a point, in nats: not the bound's prior
    /// term, which keeps x0.
    pub fn marginal_kl(&self, at: &PathPoint, prior_var: f64) -> f64 {
        let (alpha_var, noise_var) = (at.alpha * at.alpha, at.sigma * at.sigma);
        let spread: f64 = self
            .variances
            .iter()
            .map(|&lambda| kl_normal_var(alpha_var * lambda + noise_var, prior_var))
            .sum();
        spread + kl_normal_mean(at.alpha * self.mean_square.sqrt(), 0.0, prior_var)
    }

    /// The least NELBO of any reverse model over these points, `entropy + KL(q(x_T) || prior)`:
    /// that of the exact reversal.
    pub fn least_nelbo(&self, last: &PathPoint, prior_var: f64) -> f64 {
        self.entropy() + self.marginal_kl(last, prior_var)
    }
}

/// A term's place in the bound.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Part {
    /// `-E ln p(x0|x_1)`, L_0.
    Reconstruction,
    /// `E KL(q(x_{t-1}|x_t,x0) || p(x_{t-1}|x_t))`, L_{t-1}.
    Transition,
    /// `E KL(q(x_T|x0) || p(x_T))`, L_T.
    Prior,
}

/// One term of a bound.
#[derive(Clone, Copy, Debug, PartialEq, serde::Serialize)]
pub struct Term {
    /// Which.
    pub part: Part,
    /// Number of the point that the term starts from, 1..=T: transition t leads from x_t to
    /// x_{t-1}.
    pub t: usize,
    /// Nats of the whole datum.
    pub nats: f64,
    /// The same in bits per dimension, without the offset of a scaling.
    pub bits_per_dim: f64,
    /// Sum of this and all terms before it, in bits per dimension.
    pub cumulative: f64,
}

/// A negative evidence lower bound as the table of its terms: reconstruction, transitions from t =
/// 2 to T, prior.
#[derive(Clone, Debug, PartialEq)]
pub struct Bound {
    dims: usize,
    terms: Vec<Term>,
}

impl Bound {
    fn new(dims: usize, nats: impl IntoIterator<Item = (Part, usize, f64)>) -> Self {
        let mut total = 0.0;
        let terms = nats.into_iter().map(|(part, t, nats)| {
            total += nats;
            Term {
                part,
                t,
                nats,
                bits_per_dim: nats_to_bits_per_dim(nats, dims),
                cumulative: nats_to_bits_per_dim(total, dims),
            }
        });
        Self { dims, terms: terms.collect() }
    }

    /// The table.
    pub fn terms(&self) -> &[Term] {
        &self.terms
    }

    /// Dimension of a datum.
    pub fn dims(&self) -> usize {
        self.dims
    }

    /// The bound: an upper limit to `-E ln p(x0)` in nats.
    pub fn nats(&self) -> f64 {
        self.terms.iter().map(|term| term.nats).sum()
    }

    /// All terms of one kind together, in nats.
    pub fn part(&self, part: Part) -> f64 {
        self.terms.iter().filter(|term| term.part == part).map(|term| term.nats).sum()
    }

    /// The bound in bits/dim where the reconstruction is a probability of integer levels (a
    /// discretised decoder).
    pub fn bits_per_dim(&self) -> f64 {
        nats_to_bits_per_dim(self.nats(), self.dims)
    }

    /// The bound in bits/dim of integer levels where the reconstruction is a density of scaled
    /// data.
    pub fn bits_per_dim_of_levels(&self, scale: &LevelScale) -> f64 {
        scale.bits_per_dim(self.nats(), self.dims)
    }
}

/// The bound of Gaussian data, exact in each mode, for a denoiser that acts on each mode by itself.
///
/// `error(point, lambda)` is `E (x0 - x0_hat)^2` of a mode: [`mmse`] for the Wiener filter,
/// [`linear_error`] for another gain. `points` are x_1 to x_T, the cleanest first; only their alpha
/// and sigma are read.
///
/// With the Wiener filter and [`Reverse::optimal`] the bound equals [`GaussianData::least_nelbo`]
/// for any number and spacing of steps: the logarithms
/// `ln(1 + drop mmse_t)/2 = ln((1 + snr_s lambda)/(1 + snr_t lambda))/2` telescope.
///
/// # Errors
/// No points; SNRs that do not fall strictly; sigma = 0; variances or errors negative or not
/// finite; a Gaussian reconstruction of a mode without variance by its best variance 0, where the
/// bound is -inf; given variances that are too few or not positive.
///
/// # Example
/// ```
/// use tweedie::diffusion::PathPoint;
/// use tweedie::diffusion::elbo::{gaussian_bound, mmse, GaussianData, Part, Reverse};
/// let points: Vec<_> = (1..=10).map(|t| 0.1 * t as f64).map(|s: f64| PathPoint::still((1.0 - s * s).sqrt(), s)).collect();
/// let data = GaussianData { variances: &[2.0, 0.1], mean_square: 0.5 };
/// let bound = gaussian_bound(&points, data, |at, lambda| mmse(lambda, (at.alpha, at.sigma)), &Reverse::optimal()).unwrap();
/// assert!((bound.nats() - data.least_nelbo(&points[9], 1.0)).abs() < 1e-14);
/// // The last point has no signal: nothing is left for the prior term.
/// assert_eq!(bound.part(Part::Prior), 0.0);
/// ```
pub fn gaussian_bound(
    points: &[PathPoint],
    data: GaussianData,
    error: impl Fn(&PathPoint, f64) -> f64,
    reverse: &Reverse,
) -> Result<Bound> {
    finite("variances", data.variances)?;
    if let Some(v) =
        data.variances.iter().chain([&data.mean_square]).find(|v| **v < 0.0 || !v.is_finite())
    {
        return Err(Error::domain(
            "variance of a mode or ||mean||^2",
            v,
            ">= 0",
            "pass the covariance's eigenvalues",
        ));
    }
    let d = data.variances.len();
    let second_moment = data.variances.iter().sum::<f64>() + data.mean_square;
    assemble(points, d, second_moment, reverse, |at, _| {
        data.variances.iter().map(|&lambda| (1.0, error(at, lambda))).collect()
    })
}

/// The bound of any data and denoiser, from the errors `E||x0 - x0_hat||^2` at each point and
/// `E||x0||^2`; variances are isotropic.
///
/// [`ReverseVar::Optimal`] is then the best isotropic variance, Analytic-DPM's.
///
/// # Errors
/// As [`gaussian_bound`]; one error a point.
///
/// # Source
/// Bao et al. 2022 (arXiv 2201.06503), theorem 1, for the best isotropic variance.
pub fn bound(
    points: &[PathPoint],
    dims: usize,
    second_moment: f64,
    errors: &[f64],
    reverse: &Reverse,
) -> Result<Bound> {
    if errors.len() != points.len() {
        return Err(Error::shape(
            "errors",
            &[errors.len()],
            format!("({},), the number of points", points.len()),
            "give one error a point",
        ));
    }
    assemble(points, dims, second_moment, reverse, |_, k| {
        vec![(dims as f64, errors[k] / dims as f64)]
    })
}

/// `errors(point, k)` are groups of dimensions that share an error: (how many, error of each).
fn assemble(
    points: &[PathPoint],
    dims: usize,
    second_moment: f64,
    reverse: &Reverse,
    errors: impl Fn(&PathPoint, usize) -> Vec<(f64, f64)>,
) -> Result<Bound> {
    validate(points, dims, second_moment, reverse)?;
    let errors: Vec<Vec<(f64, f64)>> =
        points.iter().enumerate().map(|(k, at)| errors(at, k)).collect();
    if let Some(e) =
        errors.iter().flatten().map(|(_, e)| e).find(|e| !(**e >= 0.0 && e.is_finite()))
    {
        return Err(Error::domain(
            "E||x0 - x0_hat||^2",
            e,
            "finite numbers >= 0",
            "check the denoiser",
        ));
    }
    let (first, last) = (&errors[0], &points[points.len() - 1]);
    let reconstruction = match reverse.reconstruction {
        Reconstruction::Nats(nats) => nats,
        Reconstruction::Gaussian(var) => {
            first.iter().map(|&(n, e)| n * gaussian_reconstruction(e, var)).sum()
        }
        Reconstruction::Optimal if first.iter().all(|&(_, e)| e > 0.0) => {
            first.iter().map(|&(n, e)| n * gaussian_reconstruction(e, e)).sum()
        }
        Reconstruction::Optimal => {
            return Err(Error::singular(
                "-ln p(x0|x_1)",
                "a mode without error",
                "its best variance is 0 and its density infinite",
                "choose a reconstruction variance, or leave out the modes that have no variance",
            ));
        }
    };
    let transitions = points.windows(2).zip(&errors[1..]).enumerate().map(|(k, (pair, errors))| {
        let (s, t) = (&pair[0], &pair[1]);
        let drop = snr_drop((s.alpha, s.sigma), (t.alpha, t.sigma));
        let nats = errors
            .iter()
            .map(|&(n, e)| n * transition(reverse.var.log_ratio(k, s, t, drop, e), drop, e))
            .sum();
        (Part::Transition, k + 2, nats)
    });
    let d = dims as f64;
    let prior = d * prior((last.alpha, last.sigma), second_moment / d, reverse.prior_var);
    let ends = ((Part::Reconstruction, 1, reconstruction), (Part::Prior, points.len(), prior));
    Ok(Bound::new(dims, std::iter::once(ends.0).chain(transitions).chain([ends.1])))
}

fn validate(
    points: &[PathPoint],
    dims: usize,
    second_moment: f64,
    reverse: &Reverse,
) -> Result<()> {
    if points.is_empty() || dims == 0 {
        return Err(Error::domain(
            "points, dimensions",
            format!("{}, {dims}", points.len()),
            ">= 1 each",
            "pass x_1 to x_T",
        ));
    }
    let positive = |what: &str, v: f64, mend: &str| {
        if v > 0.0 && v.is_finite() {
            Ok(())
        } else {
            Err(Error::domain(what, v, "> 0 and finite", mend))
        }
    };
    for (k, at) in points.iter().enumerate() {
        let what = format!("point {}: sigma", k + 1);
        positive(
            &what,
            at.sigma,
            "the data themselves are no point of the chain: it starts at x_1",
        )?;
        if !(at.alpha >= 0.0 && at.alpha.is_finite()) {
            return Err(Error::domain(
                format!("point {}: alpha", k + 1),
                at.alpha,
                ">= 0 and finite",
                "pass points of a noise path",
            ));
        }
    }
    for (k, pair) in points.windows(2).enumerate() {
        let drop = snr_drop((pair[0].alpha, pair[0].sigma), (pair[1].alpha, pair[1].sigma));
        if drop.is_nan() || drop <= 0.0 {
            return Err(Error::domain(
                format!("SNR between points {} and {}", k + 1, k + 2),
                format!("a drop of {drop:e}"),
                "> 0",
                "list the points from the cleanest to the noisiest, each once",
            ));
        }
    }
    if !(second_moment >= 0.0 && second_moment.is_finite()) {
        return Err(Error::domain("E||x0||^2", second_moment, ">= 0 and finite", "check the data"));
    }
    positive("variance of the prior", reverse.prior_var, "1 for VP, sigma_T^2 for VE")?;
    match (&reverse.var, reverse.reconstruction) {
        (_, Reconstruction::Gaussian(var)) if !(var > 0.0 && var.is_finite()) => positive(
            "variance of the reconstruction",
            var,
            "the posterior variance at t = 1 is 0: choose beta_1",
        ),
        (_, Reconstruction::Nats(nats)) if !nats.is_finite() => {
            finite("nats of the reconstruction", &[nats])
        }
        (ReverseVar::Given(vars), _) if vars.len() != points.len() - 1 => Err(Error::shape(
            "reverse variances",
            &[vars.len()],
            format!("({},), one a transition", points.len() - 1),
            "the last step, to x0, is the reconstruction",
        )),
        (ReverseVar::Given(vars), _) => vars.iter().try_for_each(|&v| {
            positive("reverse variance", v, "pass variances, not their logarithms")
        }),
        (ReverseVar::Interpolated(v), _) => finite("interpolation of the log variance", &[*v]),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::diffusion::decoder::DiscretisedGaussian;
    use crate::diffusion::path::Path;
    use crate::diffusion::schedule::{Schedule, Table};
    use crate::math::dd::Dd;
    use crate::math::larger;
    use crate::math::quadrature::NormalRule;
    use nalgebra::{DMatrix, DVector};
    use num_dual::DualNum;
    use num_traits::{One, Zero};
    use proptest::prelude::*;
    use std::f64::consts::TAU;

    const SCHEDULES: [Schedule; 4] =
        [Schedule::LINEAR, Schedule::SCALED_LINEAR, Schedule::COSINE, Schedule::SIGMOID];

    fn points(schedule: Schedule, steps: usize, zero_terminal_snr: bool) -> Vec<PathPoint> {
        let table = Table::new(schedule, steps, zero_terminal_snr).unwrap();
        table.rows().iter().map(|row| PathPoint::still(row.alpha, row.sigma)).collect()
    }

    /// A subsequence that keeps the last point, chosen by the bits of `mask`.
    fn strided(all: &[PathPoint], mask: &[bool]) -> Vec<PathPoint> {
        let last = all.len() - 1;
        all.iter()
            .enumerate()
            .filter(|(k, _)| *k == last || mask[k % mask.len()])
            .map(|(_, p)| *p)
            .collect()
    }

    fn wiener(at: &PathPoint, lambda: f64) -> f64 {
        mmse(lambda, (at.alpha, at.sigma))
    }

    fn perfect(points: &[PathPoint], data: GaussianData) -> Bound {
        gaussian_bound(points, data, wiener, &Reverse::optimal()).unwrap()
    }

    /// Sum of |terms|, each mode by itself: what the rounding of a sum is relative to.
    fn magnitude(points: &[PathPoint], data: GaussianData) -> f64 {
        let each = data.variances.iter().map(|lambda| {
            let one = GaussianData { variances: std::slice::from_ref(lambda), mean_square: 0.0 };
            perfect(points, one).terms().iter().map(|term| term.nats.abs()).sum::<f64>()
                + one.entropy().abs()
        });
        each.sum::<f64>() + data.mean_square
    }

    /// The perfect bound at the accuracy asked for: 1e-12 of the NELBO.
    #[test]
    fn perfect_bound_is_entropy_plus_kl() {
        // A spectrum like the digits', 64 variances over seven decades and some nearly empty ones.
        let variances: Vec<f64> = (0..64)
            .map(|k| 2.0 * f64::from(k + 1).powf(-2.0) * (-0.12 * f64::from(k)).exp())
            .chain([1e-9, 1e-14, 1e-30])
            .collect();
        let data = GaussianData { variances: &variances, mean_square: 20.0 };
        let mut worst: f64 = 0.0;
        for schedule in SCHEDULES {
            for steps in [10, 20, 50, 100, 200, 500, 1000] {
                for zero in [false, true] {
                    let points = points(schedule, steps, zero);
                    for stride in [1, 2, 7] {
                        let points: Vec<_> =
                            points.iter().rev().step_by(stride).rev().copied().collect();
                        let (got, want) = (
                            perfect(&points, data).nats(),
                            data.least_nelbo(points.last().unwrap(), 1.0),
                        );
                        worst = larger(worst, (got - want).abs() / want.abs());
                    }
                }
            }
        }
        println!("perfect bound: worst relative deviation {worst:e}");
        assert!(worst <= 1e-12, "{worst:e}");
    }

    /// The same in 106 bits, where theory and code agree or not: no tolerance for rounding to hide
    /// in.
    #[test]
    fn perfect_bound_in_double_double() {
        for betas in [[1e-4, 0.02, 0.3, 0.7, 0.9], [0.5, 1e-7, 0.1, 0.999, 1.0]] {
            let (mut alpha_bar, mut var) = (Dd::one(), Dd::zero());
            let points: Vec<(Dd, Dd)> = betas
                .iter()
                .map(|&beta| {
                    alpha_bar *= Dd::one() - Dd::from(beta);
                    var += (Dd::one() - var) * beta;
                    (alpha_bar.sqrt(), var.sqrt())
                })
                .collect();
            let (first, last) = (points[0], points[4]);
            for lambda in [1e-20, 1e-3, 1.0, 7.0, 1e9] {
                let lambda = Dd::from(lambda);
                let mut nelbo = gaussian_reconstruction(mmse(lambda, first), mmse(lambda, first))
                    + prior(last, lambda, Dd::one());
                for pair in points.windows(2) {
                    let drop = snr_drop(pair[0], pair[1]);
                    let error = mmse(lambda, pair[1]);
                    nelbo += transition((drop * error).ln_1p(), drop, error);
                }
                let marginal = last.0 * last.0 * lambda + last.1 * last.1;
                let want = entropy_normal(lambda) + kl_normal_var(marginal, Dd::one());
                let relative = ((nelbo - want) / want).hi().abs();
                assert!(relative <= 1e-26, "{relative:e} at {lambda:?}");
            }
        }
    }

    prop_compose! {
        fn chain()(
            schedule in prop::sample::select(SCHEDULES.to_vec()),
            steps in 10usize..=1000,
            zero: bool,
            mask in prop::collection::vec(any::<bool>(), 1..40),
        ) -> Vec<PathPoint> {
            strided(&points(schedule, steps, zero), &mask)
        }
    }

    prop_compose! {
        /// A short chain with arbitrary alphas: neither variance preserving nor monotone in alpha
        /// or sigma, only in SNR.
        fn any_short_chain()(steps in prop::collection::vec((0.1f64..3.0, 0.1f64..2.0), 1..6)) -> Vec<PathPoint> {
            let mut log_snr = 6.0;
            steps.iter().map(|&(scale, fall)| {
                log_snr -= fall;
                PathPoint::still(scale, scale * (-0.5 * log_snr).exp())
            }).collect()
        }
    }

    /// NELBO minus entropy by the joint law of (x0, x_1, ..., x_T): KL(q(x0..xT) || p(x0..xT)),
    /// knowing nothing of terms.
    ///
    /// p runs backwards: x_T ~ N(0, prior_var), x_s = coef_xt x_t + coef_x0 gain x_t + noise. Zero
    /// means.
    fn joint_kl(
        points: &[PathPoint],
        lambda: f64,
        gains: &[f64],
        vars: &[f64],
        reconstruction_var: f64,
        prior_var: f64,
    ) -> f64 {
        let n = points.len();
        // q: x_0, then x_t given x_s through the forward kernel; as matrices, x = L z with z
        // independent.
        let mut q = DMatrix::<f64>::zeros(n + 1, n + 1);
        q[(0, 0)] = lambda.sqrt();
        let (mut alpha, mut sigma) = (1.0, 0.0);
        for (k, at) in points.iter().enumerate() {
            let scale = at.alpha / alpha;
            let row = q.row(k) * scale;
            q.set_row(k + 1, &row);
            q[(k + 1, k + 1)] = (at.sigma.powi(2) - (scale * sigma).powi(2)).sqrt();
            (alpha, sigma) = (at.alpha, at.sigma);
        }
        let q = &q * q.transpose();
        // p: the coefficients of q(x_s|x_t,x0) by conditioning q's covariance of (x_s, x_t, x_0),
        // not by their formula.
        let mut p = DMatrix::<f64>::zeros(n + 1, n + 1);
        p[(n, n)] = prior_var.sqrt();
        for t in (1..=n).rev() {
            let s = t - 1;
            let (slope, var) = if s == 0 {
                (gains[0], reconstruction_var)
            } else {
                let given = DMatrix::from_fn(2, 2, |i, j| q[([t, 0][i], [t, 0][j])]);
                let coef =
                    given.lu().solve(&DVector::from_vec(vec![q[(t, s)], q[(0, s)]])).unwrap();
                (coef[0] + coef[1] * gains[t - 1], vars[s - 1])
            };
            let row = p.row(t) * slope;
            p.set_row(s, &row);
            p[(s, s)] = var.sqrt();
        }
        let p = &p * p.transpose();
        let inverse = p.clone().cholesky().unwrap().inverse();
        let log_det = |m: &DMatrix<f64>| {
            2.0 * m.clone().cholesky().unwrap().l().diagonal().map(f64::ln).sum()
        };
        0.5 * ((inverse * &q).trace() - (n + 1) as f64 + log_det(&p) - log_det(&q))
    }

    proptest! {
        #[test]
        fn perfect_bound_on_any_grid_and_spectrum(
            points in chain(),
            logs in prop::collection::vec(-30.0f64..5.0, 1..8),
            mean_square in 0.0f64..10.0,
        ) {
            let variances: Vec<f64> = logs.iter().map(|l| l.exp()).collect();
            let data = GaussianData { variances: &variances, mean_square };
            let (got, want) = (perfect(&points, data).nats(), data.least_nelbo(points.last().unwrap(), 1.0));
            // Relative to what is added up, because a NELBO may pass through 0. alpha and sigma
            // carry half an ulp each, so a drop is good to 2 eps snr/drop, of either sign; the
            // errors of neighbouring drops cancel but for the ends. 1000 additions are below 1e-13.
            prop_assert!((got - want).abs() <= 2e-13 * magnitude(&points, data), "{got} {want}");
        }

        /// The second route: any gains, any variances, any path.
        #[test]
        fn bound_is_the_kl_of_the_joint_laws(
            points in any_short_chain(),
            lambda in 0.05f64..5.0,
            off in prop::collection::vec(0.5f64..1.5, 6),
            factors in prop::collection::vec(0.3f64..3.0, 6),
            reconstruction_var in 0.05f64..2.0,
            prior_var in 0.5f64..4.0,
        ) {
            let gain = |at: &PathPoint, k: usize| off[k] * at.alpha * lambda / (at.alpha.powi(2) * lambda + at.sigma.powi(2));
            let gains: Vec<f64> = points.iter().enumerate().map(|(k, at)| gain(at, k)).collect();
            let vars: Vec<f64> = points.windows(2).zip(&factors).map(|(pair, f)| f * pair[0].sigma.powi(2)).collect();
            let reverse = Reverse { var: ReverseVar::Given(vars.clone()), reconstruction: Reconstruction::Gaussian(reconstruction_var), prior_var };
            let data = GaussianData { variances: &[lambda], mean_square: 0.0 };
            let error = |at: &PathPoint, lambda: f64| {
                let k = points.iter().position(|p| (p.alpha, p.sigma) == (at.alpha, at.sigma)).unwrap();
                linear_error(lambda, gains[k], (at.alpha, at.sigma))
            };
            let got = gaussian_bound(&points, data, error, &reverse).unwrap().nats() - data.entropy();
            let want = joint_kl(&points, lambda, &gains, &vars, reconstruction_var, prior_var);
            // The joint covariances have condition numbers up to 1e6 (SNR e^6, scales 0.1 to 3):
            // 1e6 eps is 2e-10.
            prop_assert!((got - want).abs() <= 1e-9 * (1.0 + want), "{got} {want}");

            // And the named variances against numbers worked out from the forward kernel and the
            // conditioned law.
            for (pick, ratio) in [(ReverseVar::Beta, 1.0), (ReverseVar::Posterior, 0.0), (ReverseVar::Interpolated(0.3), 0.3)] {
                let given = points.windows(2).map(|p| {
                    let beta = p[1].sigma.powi(2) - (p[1].alpha / p[0].alpha * p[0].sigma).powi(2);
                    beta.powf(ratio) * (beta * p[0].sigma.powi(2) / p[1].sigma.powi(2)).powf(1.0 - ratio)
                });
                let by_hand = Reverse { var: ReverseVar::Given(given.collect()), ..reverse.clone() };
                let named = Reverse { var: pick, ..reverse.clone() };
                let [a, b] = [by_hand, named].map(|r| gaussian_bound(&points, data, error, &r).unwrap().nats());
                prop_assert!((a - b).abs() <= 1e-12 * (1.0 + b.abs()), "{a} {b}");
            }
        }

        /// One transition by Gauss-Hermite over (x0, x_t) of the textbook KL of two normal laws.
        #[test]
        fn transition_is_an_average_of_kl(points in any_short_chain(), lambda in 0.05f64..5.0, off in 0.5f64..1.5, factor in 0.2f64..5.0) {
            prop_assume!(points.len() > 1);
            let (s, t) = (points[0], points[1]);
            let step = t.alpha / s.alpha;
            let beta = t.sigma.powi(2) - (step * s.sigma).powi(2);
            let (coef_x0, coef_xt) = (s.alpha * beta / t.sigma.powi(2), step * s.sigma.powi(2) / t.sigma.powi(2));
            let var_q = beta * s.sigma.powi(2) / t.sigma.powi(2);
            let gain = off * t.alpha * lambda / (t.alpha.powi(2) * lambda + t.sigma.powi(2));
            let rule = NormalRule::new(8).unwrap();
            let want = rule.expectation(0.0, lambda, |x0| {
                rule.expectation(t.alpha * x0, t.sigma.powi(2), |xt| {
                    let (mean_q, mean_p) = (coef_xt * xt + coef_x0 * x0, coef_xt * xt + coef_x0 * gain * xt);
                    let var_p = factor * var_q;
                    0.5 * ((mean_q - mean_p).powi(2) / var_p + 1.0 / factor - 1.0 + factor.ln())
                })
            });
            let drop = snr_drop((s.alpha, s.sigma), (t.alpha, t.sigma));
            let got = transition(factor.ln(), drop, linear_error(lambda, gain, (t.alpha, t.sigma)));
            prop_assert!((got - want).abs() <= 1e-12 * (1.0 + want), "{got} {want}");
        }

        /// No other mean or variance does better, to second order.
        #[test]
        fn optimum_is_a_minimum(points in any_short_chain(), lambda in 0.05f64..5.0, off in prop::sample::select(vec![-0.1, -1e-3, 1e-3, 0.1])) {
            let data = GaussianData { variances: &[lambda], mean_square: 0.0 };
            let best = perfect(&points, data).nats();
            let gain_off = |at: &PathPoint, lambda: f64| {
                let gain = (1.0 + off) * at.alpha * lambda / (at.alpha.powi(2) * lambda + at.sigma.powi(2));
                linear_error(lambda, gain, (at.alpha, at.sigma))
            };
            let worse_mean = gaussian_bound(&points, data, gain_off, &Reverse::optimal()).unwrap().nats();
            let vars = points.windows(2).map(|p| {
                let (drop, var_s) = (snr_drop((p[0].alpha, p[0].sigma), (p[1].alpha, p[1].sigma)), p[0].sigma.powi(2));
                (var_s / p[0].alpha).powi(2) * drop * (1.0 + drop * wiener(&p[1], lambda)) * (1.0 + off)
            });
            let worse_var = gaussian_bound(&points, data, wiener, &Reverse { var: ReverseVar::Given(vars.collect()), ..Reverse::optimal() }).unwrap();
            let slack = 1e-13 * (1.0 + best.abs());
            prop_assert!(worse_mean > best + 1e-3 * off * off * wiener(&points[0], lambda).min(1e-3));
            // Half of (ln(1 + off) - off/(1 + off)) a transition.
            let want = (points.len() - 1) as f64 * 0.5 * (f64::ln_1p(off) - off / (1.0 + off));
            prop_assert!((worse_var.nats() - best - want).abs() <= slack + 1e-12, "{} {want}", worse_var.nats() - best);
        }

        /// Isotropic variances: the form for any denoiser, fed the totals, is the sum over modes.
        #[test]
        fn totals_suffice_for_isotropic_variances(points in chain(), logs in prop::collection::vec(-6.0f64..2.0, 1..6), mean_square in 0.0f64..5.0) {
            let variances: Vec<f64> = logs.iter().map(|l| l.exp()).collect();
            let data = GaussianData { variances: &variances, mean_square };
            let errors: Vec<f64> = points.iter().map(|at| variances.iter().map(|&l| wiener(at, l)).sum()).collect();
            let second_moment = variances.iter().sum::<f64>() + mean_square;
            for var in [ReverseVar::Beta, ReverseVar::Posterior, ReverseVar::Interpolated(0.5)] {
                let reverse = Reverse { var, reconstruction: Reconstruction::Gaussian(points[0].sigma.powi(2)), prior_var: 1.0 };
                let a = gaussian_bound(&points, data, wiener, &reverse).unwrap();
                let b = bound(&points, variances.len(), second_moment, &errors, &reverse).unwrap();
                for (a, b) in a.terms().iter().zip(b.terms()) {
                    prop_assert_eq!((a.part, a.t), (b.part, b.t));
                    prop_assert!((a.nats - b.nats).abs() <= 1e-13 * (variances.len() as f64 + a.nats.abs()));
                }
                // One variance for all modes cannot beat one for each.
                prop_assert!(perfect(&points, data).nats() <= a.nats() + 1e-12 * a.nats().abs());
            }
        }

        /// Refining a grid with the posterior variance lowers the bound towards the continuous one,
        /// and the rest falls like 1/T.
        #[test]
        fn continuous_time_is_the_limit(log_lambda in -4.0f64..3.0, path in prop::sample::select(vec![Path::VP, Path::Cosine, Path::FlowMatching])) {
            let lambda = log_lambda.exp();
            let ends = (0.02, 0.98);
            let at = |u: f64| path.still_at(ends.0 + (ends.1 - ends.0) * u).unwrap();
            let sum = |steps: usize| -> f64 {
                let points: Vec<_> = (0..=steps).map(|k| at(k as f64 / steps as f64)).collect();
                let reverse = Reverse { var: ReverseVar::Posterior, ..Reverse::optimal() };
                gaussian_bound(&points, GaussianData { variances: &[lambda], mean_square: 0.0 }, wiener, &reverse).unwrap().part(Part::Transition)
            };
            let (first, last) = (at(0.0), at(1.0));
            let limit = continuous_transitions(lambda, (first.alpha, first.sigma), (last.alpha, last.sigma));
            let gaps = [200, 400, 800].map(|steps| sum(steps) - limit);
            prop_assert!(gaps[0] > gaps[1] && gaps[1] > gaps[2] && gaps[2] > 0.0, "{gaps:?}");
            // A Riemann sum of a smooth monotone integrand: first order, with ratios 2 up to the
            // second-order term.
            prop_assert!((gaps[1] / gaps[2] - 2.0).abs() <= 0.1, "{gaps:?}");
            // With the best variance nothing depends on the number of steps.
            let points: Vec<_> = (0..=5).map(|k| at(f64::from(k) / 5.0)).collect();
            let five = perfect(&points, GaussianData { variances: &[lambda], mean_square: 0.0 }).part(Part::Transition);
            prop_assert!((five - limit).abs() <= 1e-13 * limit);
        }

        /// The integral over time, `-1/2 int dSNR/dt mmse dt`, along each path by the path's own
        /// rates: only the end points matter.
        #[test]
        fn continuous_bound_does_not_see_the_schedule(log_lambda in -4.0f64..3.0, log_snr_first in 1.0f64..6.0, log_snr_last in -6.0f64..0.0) {
            let lambda = log_lambda.exp();
            let closed = {
                let at = |log_snr: f64| (1.0, (-0.5 * log_snr).exp());
                continuous_transitions(lambda, at(log_snr_first), at(log_snr_last))
            };
            let in_log_snr = continuous_diffusion_loss(log_snr_last, log_snr_first, |l| lambda / (1.0 + l.exp() * lambda)).unwrap();
            prop_assert!((in_log_snr - closed).abs() <= 1e-12 * closed);
            let rule = IntervalRule::new(20).unwrap();
            for path in [Path::VP, Path::Cosine, Path::FlowMatching, Path::Ve { sigma_min: 0.01, sigma_max: 50.0 }] {
                let [a, b] = [log_snr_first, log_snr_last].map(|l| path.t_from_log_snr(l).unwrap());
                let in_time = rule.adaptive(a, b, 1e-12, |t| {
                    let p = path.at(t).unwrap();
                    let rates = p.rates.unwrap();
                    let snr_rate = 2.0 * p.snr() * (rates.alpha / p.alpha - rates.sigma / p.sigma);
                    -0.5 * snr_rate * wiener(&p, lambda)
                });
                // The ends in t are rounded: d ln snr/dt is up to 1e3 there.
                prop_assert!((in_time.unwrap() - closed).abs() <= 1e-11 * (closed + 1.0), "{path:?}");
            }
        }
    }

    #[test]
    fn weights_are_those_of_the_table() {
        for schedule in SCHEDULES {
            let table = Table::new(schedule, 1000, false).unwrap();
            for pair in table.rows().windows(2) {
                let (s, t) = ((pair[0].alpha, pair[0].sigma), (pair[1].alpha, pair[1].sigma));
                let drop = snr_drop(s, t);
                for (log_ratio, want) in [
                    (log_ratio_beta(s, t), pair[1].vlb_weight_beta),
                    (0.0, pair[1].vlb_weight_posterior),
                ] {
                    let got = vlb_weight(s, t, log_ratio);
                    // alpha and sigma to half an ulp: 4 eps snr_t/drop of the drop, 4 more of
                    // products.
                    let tol = 4.0 * f64::EPSILON * (2.0 + (t.0 / t.1).powi(2) / drop);
                    assert!(
                        (got / want - 1.0).abs() <= tol,
                        "{schedule:?} t {}: {got} {want}",
                        pair[1].t
                    );
                    // The weight of the eps error times snr_t is that of the x0 error.
                    let x0_weight =
                        transition(log_ratio, drop, 1.0) - transition(log_ratio, drop, 0.0);
                    let scale = x0_weight + transition(log_ratio, drop, 0.0);
                    assert!(
                        (got * (t.0 / t.1).powi(2) - x0_weight).abs()
                            <= 8.0 * f64::EPSILON * scale * (1.0 + (t.0 / t.1).powi(2) / drop)
                    );
                }
            }
        }
    }

    /// Each mutant is a bug that was shipped: the value it gives must be far outside of the
    /// tolerance of the checks above.
    #[test]
    fn shipped_bugs_are_noticed() {
        let variances = [3.0, 0.4, 0.02];
        let data = GaussianData { variances: &variances, mean_square: 1.5 };
        let points = points(Schedule::LINEAR, 100, false);
        let last = *points.last().unwrap();
        let least = data.least_nelbo(&last, 1.0);
        let noticed = |nats: f64| (nats - least).abs() > 1e-9 * least.abs();
        assert!(!noticed(perfect(&points, data).nats()));

        // ddpm-torch #9: the log variance of q(x_t|x0) taken for ln sigma instead of ln sigma^2; it
        // shows in the prior term alone.
        let right = perfect(&points, data);
        let var = last.sigma.powi(2);
        let mutant: f64 = 0.5
            * (3.0 * (var - 1.0 - last.sigma.ln())
                + last.alpha.powi(2) * (variances.iter().sum::<f64>() + 1.5));
        assert!(noticed(right.nats() - right.part(Part::Prior) + mutant));

        // The prior term with the marginal's variance in place of the conditional's: the classic
        // confusion of KL(q(x_T)) and E KL(q(x_T|x0)).
        assert!(noticed(right.nats() - right.part(Part::Prior) + data.marginal_kl(&last, 1.0)));

        // score_sde #64: a VE prior that forgets the mean. The prior term has ||mean||^2/(2
        // sigma_T^2), whatever the variances.
        let (with, without) =
            (prior::<f64>((1.0, 50.0), 0.4 + 9.0, 2500.0), prior((1.0, 50.0), 0.4, 2500.0));
        assert!((with - without - 9.0 / 5000.0).abs() <= 1e-15);

        // diffusers #2090: beta_t of the full table used for a strided step.
        let table = Table::new(Schedule::LINEAR, 100, false).unwrap();
        let rows: Vec<_> = table.rows().iter().step_by(9).collect();
        let sparse: Vec<_> =
            rows.iter().map(|row| PathPoint::still(row.alpha, row.sigma)).collect();
        let with = |var| {
            gaussian_bound(&sparse, data, wiener, &Reverse { var, ..Reverse::optimal() })
                .unwrap()
                .nats()
        };
        let beta = with(ReverseVar::Beta);
        assert!(
            (with(ReverseVar::Given(rows[1..].iter().map(|row| row.beta).collect())) - beta).abs()
                > 1e-2 * beta.abs()
        );

        // diffusers #3006: the learned-range variance interpolated linearly and not in its
        // logarithm.
        let linear = sparse.windows(2).map(|p| {
            let beta = p[1].sigma.powi(2) - (p[1].alpha / p[0].alpha * p[0].sigma).powi(2);
            0.5 * beta * (1.0 + (p[0].sigma / p[1].sigma).powi(2))
        });
        let (got, log) =
            (with(ReverseVar::Given(linear.collect())), with(ReverseVar::Interpolated(0.5)));
        assert!((got - log).abs() > 1e-4 * log.abs(), "{got} {log}");
    }

    #[test]
    fn table_of_terms() {
        let points = points(Schedule::COSINE, 25, true);
        let data = GaussianData { variances: &[1.0, 0.1], mean_square: 0.0 };
        let bound = perfect(&points, data);
        let terms = bound.terms();
        assert_eq!(terms.len(), 26);
        assert_eq!((terms[0].part, terms[0].t), (Part::Reconstruction, 1));
        assert_eq!((terms[1].part, terms[1].t, terms[24].t), (Part::Transition, 2, 25));
        assert_eq!((terms[25].part, terms[25].t, terms[25].nats), (Part::Prior, 25, 0.0));
        assert!((terms[25].cumulative - bound.bits_per_dim()).abs() <= 1e-15);
        assert_eq!(bound.bits_per_dim(), bound.nats() / (2.0 * 2f64.ln()));
        assert_eq!(
            bound.bits_per_dim_of_levels(&LevelScale::dequantised(256).unwrap()),
            bound.bits_per_dim() + 7.0
        );
        let parts =
            [Part::Reconstruction, Part::Transition, Part::Prior].map(|part| bound.part(part));
        assert!((parts.iter().sum::<f64>() - bound.nats()).abs() <= 1e-14);
        let json = serde_json::to_string(&terms[1]).unwrap();
        assert!(json.starts_with(r#"{"part":"transition","t":2,"nats":"#), "{json}");
    }

    /// With a decoder of integer levels the bound is one of a probability: never below the entropy
    /// of the rounded data.
    #[test]
    fn discretised_decoder_bounds_a_discrete_entropy() {
        // One pixel, normal with standard deviation 0.3, rounded to 17 levels; x0 the level. Errors
        // of the best denoiser by quadrature.
        let decoder = DiscretisedGaussian::new(17).unwrap();
        let probabilities: Vec<f64> =
            (0..17).map(|k| decoder.log_mass(k, 0.0, 0.3).exp()).collect();
        let level = |k: usize| decoder.scale().scaled(k as f64);
        let points = points(Schedule::COSINE, 50, false);
        let rule = NormalRule::new(60).unwrap();
        // x0_hat = E[x0|x_t], exactly, by Bayes over the 17 levels.
        let denoise = |at: &PathPoint, x: f64| {
            let logs: Vec<f64> = (0..17)
                .map(|k| {
                    probabilities[k].ln() - 0.5 * ((x - at.alpha * level(k)) / at.sigma).powi(2)
                })
                .collect();
            let top = logs.iter().copied().fold(f64::NEG_INFINITY, larger);
            let (mut sum, mut mean) = (0.0, 0.0);
            for (k, l) in logs.iter().enumerate() {
                sum += (l - top).exp();
                mean += (l - top).exp() * level(k);
            }
            mean / sum
        };
        let average = |at: &PathPoint, f: &dyn Fn(f64, f64) -> f64| -> f64 {
            (0..17)
                .map(|k| {
                    probabilities[k]
                        * rule
                            .expectation(at.alpha * level(k), at.sigma.powi(2), |x| f(level(k), x))
                })
                .sum()
        };
        let errors: Vec<f64> =
            points.iter().map(|at| average(at, &|x0, x| (x0 - denoise(at, x)).powi(2))).collect();
        let nats = average(&points[0], &|x0, x| {
            -decoder.log_mass(decoder.level(x0).unwrap(), denoise(&points[0], x), 0.03)
        });
        let second_moment = (0..17).map(|k| probabilities[k] * level(k).powi(2)).sum();
        let entropy: f64 = -probabilities.iter().map(|p| p * p.ln()).sum::<f64>();
        let reverse = Reverse {
            var: ReverseVar::Optimal,
            reconstruction: Reconstruction::Nats(nats),
            prior_var: 1.0,
        };
        let bound = bound(&points, 1, second_moment, &errors, &reverse).unwrap();
        // The gap is small because the reverse steps are short and nearly normal; the prior's
        // marginal is nearly N(0, 1).
        assert!(bound.nats() >= entropy, "{} {entropy}", bound.nats());
        assert!(bound.nats() <= entropy + 0.1, "{} {entropy}", bound.nats());
    }

    #[test]
    fn bad_input_is_refused() {
        let points = points(Schedule::COSINE, 4, false);
        let data = GaussianData { variances: &[1.0, 0.0], mean_square: 0.0 };
        let run = |points: &[PathPoint], reverse: &Reverse| {
            gaussian_bound(points, data, wiener, reverse).map_err(|e| e.to_string())
        };
        let fixed =
            |var| Reverse { var, reconstruction: Reconstruction::Gaussian(0.1), prior_var: 1.0 };
        assert!(run(&points, &fixed(ReverseVar::Optimal)).is_ok());
        assert!(run(&points, &Reverse::optimal()).unwrap_err().contains("best variance is 0"));
        assert!(run(&[], &fixed(ReverseVar::Beta)).unwrap_err().contains("x_1 to x_T"));
        let reversed: Vec<_> = points.iter().rev().copied().collect();
        assert!(
            run(&reversed, &fixed(ReverseVar::Beta))
                .unwrap_err()
                .contains("cleanest to the noisiest")
        );
        assert!(
            run(&[PathPoint::CLEAN, points[0]], &fixed(ReverseVar::Beta))
                .unwrap_err()
                .contains("starts at x_1")
        );
        assert!(
            run(&points, &fixed(ReverseVar::Given(vec![0.1; 4])))
                .unwrap_err()
                .contains("one a transition")
        );
        assert!(
            run(&points, &fixed(ReverseVar::Given(vec![0.1, -0.1, 0.1])))
                .unwrap_err()
                .contains("reverse variance")
        );
        assert!(run(&points, &fixed(ReverseVar::Interpolated(f64::NAN))).is_err());
        assert!(
            run(&points, &Reverse { prior_var: 0.0, ..fixed(ReverseVar::Beta) })
                .unwrap_err()
                .contains("prior")
        );
        for reconstruction in [
            Reconstruction::Gaussian(0.0),
            Reconstruction::Gaussian(f64::NAN),
            Reconstruction::Nats(f64::INFINITY),
        ] {
            assert!(
                run(&points, &Reverse { reconstruction, ..fixed(ReverseVar::Beta) })
                    .unwrap_err()
                    .contains("reconstruction")
            );
        }
        let bad = GaussianData { variances: &[1.0, f64::NAN], mean_square: 0.0 };
        assert!(gaussian_bound(&points, bad, wiener, &fixed(ReverseVar::Beta)).is_err());
        assert!(gaussian_bound(&points, data, |_, _| f64::NAN, &fixed(ReverseVar::Beta)).is_err());
        assert!(bound(&points, 2, 1.0, &[0.1; 3], &fixed(ReverseVar::Beta)).is_err());
        assert!(continuous_diffusion_loss(2.0, 1.0, |_| 1.0).is_err());
    }

    #[test]
    fn what_is_refused_is_named() {
        let points = points(Schedule::COSINE, 4, false);
        let fixed =
            |var| Reverse { var, reconstruction: Reconstruction::Gaussian(0.1), prior_var: 1.0 };
        let gaussian = |variances: &[f64], mean_square| {
            let data = GaussianData { variances, mean_square };
            gaussian_bound(&points, data, wiener, &fixed(ReverseVar::Beta))
                .map_err(|e| e.to_string())
        };
        // A negative variance hidden by the others, and by the mean.
        assert!(gaussian(&[3.0, -1.0], 5.0).unwrap_err().contains("variance of a mode"));
        assert!(gaussian(&[3.0, 1.0], f64::INFINITY).unwrap_err().contains("variance of a mode"));
        assert_eq!(gaussian(&[3.0, 1.0], 5.0).unwrap().dims(), 2);
        let total = |second_moment, error, reverse: &Reverse| {
            bound(&points, 2, second_moment, &[0.1, error, 0.3, 0.4], reverse)
                .map_err(|e| e.to_string())
        };
        for bad in [-0.1, f64::INFINITY, f64::NAN] {
            assert!(
                total(1.0, bad, &fixed(ReverseVar::Beta)).unwrap_err().contains("x0_hat"),
                "{bad}"
            );
            assert!(
                total(bad, 0.2, &fixed(ReverseVar::Beta)).unwrap_err().contains("E||x0||^2"),
                "{bad}"
            );
        }
        for alpha in [-0.1, f64::INFINITY, f64::NAN] {
            let points = [points[0], PathPoint { alpha, ..points[1] }];
            let message = bound(&points, 1, 1.0, &[0.1; 2], &fixed(ReverseVar::Beta))
                .unwrap_err()
                .to_string();
            assert!(message.contains("point 2: alpha"), "{message}");
        }
        let nats = Reverse {
            reconstruction: Reconstruction::Nats(1.0),
            ..fixed(ReverseVar::Given(vec![0.1; 2]))
        };
        assert!(total(1.0, 0.2, &nats).unwrap_err().contains("one a transition"));
        let inf = f64::INFINITY;
        for (last, first) in [(-inf, 1.0), (-1.0, inf), (1.0, 1.0), (f64::NAN, 1.0)] {
            let message = continuous_diffusion_loss(last, first, |_| 1.0).unwrap_err().to_string();
            assert!(message.contains("log-SNR range"), "{message}");
        }
    }

    /// The best variance leaves half of its own logarithm, however long the step.
    #[test]
    fn long_steps_keep_their_digits() {
        for k in -12..300 {
            let drop = 10f64.powi(k);
            let want = 0.5 * drop.ln_1p();
            assert!(
                (transition(drop.ln_1p(), drop, 1.0) - want).abs() <= 2.0 * f64::EPSILON * want,
                "{drop:e}"
            );
        }
        // 1e200 times 1e150 is out of range, its logarithm is not.
        let (s, t) = (PathPoint::still(1.0, 1e-100), PathPoint::NOISE);
        let r = ReverseVar::Optimal.log_ratio(0, &s, &t, 1e200, 1e150);
        let want = 350.0 * std::f64::consts::LN_10;
        assert!(
            (r - want).abs() <= 4.0 * f64::EPSILON * want
                && (2.0 * transition(r, 1e200, 1e150) - want).abs() <= 1e-12 * want
        );
    }

    /// No model over these points is better than the exact reversal, in one step from almost clean
    /// data to pure noise too.
    #[test]
    fn the_bound_of_one_long_step_is_the_least() {
        for (lambda, k) in [(1.0, 3), (1.0, 6), (1.0, 9), (0.3, 20), (7.0, 70), (1e-3, 150)] {
            let s = 10f64.powi(-k);
            let points = [PathPoint::still(((1.0 - s) * (1.0 + s)).sqrt(), s), PathPoint::NOISE];
            let data = GaussianData { variances: &[lambda], mean_square: 0.0 };
            let (got, want) = (perfect(&points, data).nats(), data.least_nelbo(&points[1], 1.0));
            // Terms of k ln 10 each way.
            assert!(
                (got - want).abs() <= 8.0 * f64::EPSILON * (1.0 + 2.4 * f64::from(k)),
                "s = {s:e}: {got} {want}"
            );
        }
    }

    /// README's 1e-12 on the continuous paths as well.
    #[test]
    fn perfect_bound_on_paths() {
        let variances: Vec<f64> = (0..64).map(|k| 2.0 * f64::from(k + 1).powf(-2.0)).collect();
        let data = GaussianData { variances: &variances, mean_square: 20.0 };
        for path in [Path::VP, Path::Cosine, Path::FlowMatching] {
            for steps in [2, 10, 100, 1000] {
                for first in [1e-5, 1e-3, 0.1] {
                    let time =
                        |k: usize| (first + (1.0 - first) * k as f64 / (steps - 1) as f64).min(1.0);
                    let points: Vec<_> =
                        (0..steps).map(|k| path.still_at(time(k)).unwrap()).collect();
                    let (got, want) = (
                        perfect(&points, data).nats(),
                        data.least_nelbo(points.last().unwrap(), 1.0),
                    );
                    assert!(
                        (got - want).abs() <= 1e-12 * want.abs(),
                        "{} in {steps} from {first}: {:e}",
                        path.name(),
                        got / want - 1.0
                    );
                }
            }
        }
    }

    #[test]
    fn squares_out_of_range_do_not_matter() {
        let close = |got: f64, want: f64| {
            assert!((got / want - 1.0).abs() <= 8.0 * f64::EPSILON, "{got:e} {want:e}")
        };
        close(mmse(1e308, (1.0, 80.0)), 6400.0);
        close(mmse(1e-308, (1.0, 1e200)), 1e-308);
        close(snr_drop((1e190, 1e200), (1e180, 1e200)), 1e-20);
        close(log_ratio_beta((1.0, 1e-300), (1.0, 1e300)), 1200.0 * std::f64::consts::LN_10);
        // KL of a prior that is far too wide: -ln(sigma^2)/2 - 1/2.
        close(prior((0.0, 1e-200), 1.0, 1.0), 200.0 * std::f64::consts::LN_10 - 0.5);
        // ln(prior_var / sigma^2) / 2 - 1/2, and sigma^2 / prior_var / 2 where that is all.
        close(prior((0.0, 1e-200), 1.0, 1e-10), 195.0 * std::f64::consts::LN_10 - 0.5);
        close(prior((0.0, 1e160), 1.0, 1e300), 0.5e20);
        close(
            gaussian_reconstruction(1e308, 1e308),
            0.5 * (TAU.ln() + 308.0 * std::f64::consts::LN_10 + 1.0),
        );
    }

    #[test]
    fn small_ratios_of_variances_keep_their_digits() {
        // (r + e^-r - 1) / 2 = r^2/4 (1 - r/3 + r^2/12 - ...), where its first terms cancel.
        for r in [1e-7, -1e-7, 1e-4f64] {
            let want = r * r / 4.0 * (1.0 - r / 3.0 + r * r / 12.0);
            assert!((transition(r, 0.0, 0.0) / want - 1.0).abs() <= 1e-12, "{r}");
        }
        // One ulp above the posterior variance of 3/4: the logarithm of the rounded quotient would
        // be half too large.
        let (s, t) = (PathPoint::still(1.0, 1.0), PathPoint::still(1.0, 2.0));
        let got = ReverseVar::Given(vec![0.75f64.next_up()]).log_ratio(0, &s, &t, 0.75, 1.0);
        assert!(
            (got / (f64::EPSILON / 2.0 / 0.75).ln_1p() - 1.0).abs() <= 4.0 * f64::EPSILON,
            "{got:e}"
        );
    }
}
