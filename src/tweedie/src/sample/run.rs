//! One run of a sampler over a grid: the state, the model, the noise, and what multistep methods
//! remember.

use super::combine::combine;
use super::{NoiseSource, Sampled};
use crate::diffusion::kernel::snr_loss;
use crate::diffusion::level::Level;
use crate::diffusion::{Denoiser, PathPoint};
use crate::error::{Error, Result};
use ndarray::Array2;

/// What a step of a sampler works on.
pub struct Run<'a> {
    /// The states, (n, d), at [`from`](Self::from) when a step begins and at [`to`](Self::to) when
    /// it ends.
    pub x: Array2<f64>,
    model: &'a dyn Denoiser,
    noise: &'a mut dyn NoiseSource,
    grid: &'a [PathPoint],
    k: usize,
    from: PathPoint,
    past: Vec<Array2<f64>>,
    /// Batches out of use: a step of a long run allocates nothing.
    spare: Vec<Array2<f64>>,
    nfe: usize,
    draws: usize,
}

impl<'a> Run<'a> {
    pub(super) fn new(
        model: &'a dyn Denoiser,
        grid: &'a [PathPoint],
        x: Array2<f64>,
        noise: &'a mut dyn NoiseSource,
    ) -> Self {
        Self {
            x,
            model,
            noise,
            grid,
            k: 0,
            from: grid[0],
            past: Vec::new(),
            spare: Vec::new(),
            nfe: 0,
            draws: 0,
        }
    }

    pub(super) fn at_step(&mut self, k: usize) {
        (self.k, self.from) = (k, self.grid[k]);
    }

    pub(super) fn finish(self) -> Sampled {
        Sampled { x: self.x, nfe: self.nfe, draws: self.draws }
    }

    /// The point where the step begins: the grid's, unless the step has raised its noise.
    pub fn from(&self) -> PathPoint {
        self.from
    }

    /// Says that fresh noise has raised the level of the current states.
    pub(super) fn raise_noise(&mut self, factor: f64) {
        self.from = PathPoint::still(self.from.alpha, self.from.sigma * factor);
    }

    /// The point where the step ends.
    pub fn to(&self) -> PathPoint {
        self.grid[self.k + 1]
    }

    /// The point `back` steps before [`from`](Self::from).
    pub fn before(&self, back: usize) -> PathPoint {
        self.grid[self.k - back]
    }

    /// All points of the run.
    pub fn grid(&self) -> &'a [PathPoint] {
        self.grid
    }

    /// Number of the step, from 0.
    pub fn index(&self) -> usize {
        self.k
    }

    /// Number of steps in all.
    pub fn steps(&self) -> usize {
        self.grid.len() - 1
    }

    /// Steps after this one.
    pub fn steps_left(&self) -> usize {
        self.grid.len() - 2 - self.k
    }

    /// Both ends of the step as levels, the cleaner one first, as kernels want them.
    pub(super) fn levels(&self) -> (Level<f64>, Level<f64>) {
        (Level::from(&self.to()), Level::from(&self.from()))
    }

    /// A batch to write into; what it holds is arbitrary.
    fn buffer(&mut self) -> Array2<f64> {
        self.spare.pop().unwrap_or_else(|| Array2::zeros(self.x.raw_dim()))
    }

    /// A copy of the current states.
    pub fn copy(&mut self) -> Array2<f64> {
        let mut copy = self.buffer();
        copy.assign(&self.x);
        copy
    }

    /// Gives batches back for reuse.
    pub fn recycle(&mut self, batches: impl IntoIterator<Item = Array2<f64>>) {
        self.spare.extend(batches);
    }

    /// `E[x0 | x]` of any states.
    ///
    /// # Errors
    /// As [`Denoiser::denoise`].
    pub fn x0_hat_of(&mut self, x: &Array2<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        let mut x0_hat = self.buffer();
        self.model.denoise(x.view(), at, x0_hat.view_mut())?;
        self.nfe += 1;
        Ok(x0_hat)
    }

    /// `E[x0 | x]` of the current states.
    ///
    /// # Errors
    /// As [`Denoiser::denoise`].
    pub fn x0_hat(&mut self) -> Result<Array2<f64>> {
        self.x0_hat_at(&self.from())
    }

    /// `E[x0 | x]` of the current states, taken to be at another point than [`from`](Self::from).
    ///
    /// # Errors
    /// As [`Denoiser::denoise`].
    pub fn x0_hat_at(&mut self, at: &PathPoint) -> Result<Array2<f64>> {
        let mut x0_hat = self.buffer();
        self.model.denoise(self.x.view(), at, x0_hat.view_mut())?;
        self.nfe += 1;
        Ok(x0_hat)
    }

    /// `eps_hat = (x - alpha x0_hat) / sigma` of the current states.
    ///
    /// # Errors
    /// As [`Denoiser::denoise`].
    pub fn eps_hat(&mut self) -> Result<Array2<f64>> {
        let mut eps_hat = self.x0_hat()?;
        let at = self.from();
        combine(&mut eps_hat, -at.alpha / at.sigma, &[(1.0 / at.sigma, &self.x)]);
        Ok(eps_hat)
    }

    /// `x0_hat` at `at`, in the state `keep x + sum_j w_j y_j`.
    ///
    /// # Errors
    /// As [`Denoiser::denoise`].
    pub fn x0_hat_from(
        &mut self,
        at: &PathPoint,
        keep: f64,
        terms: &[(f64, &Array2<f64>)],
    ) -> Result<Array2<f64>> {
        let mut x = self.buffer();
        combine(&mut x, 0.0, &[(keep, &self.x)]);
        combine(&mut x, 1.0, terms);
        let x0_hat = self.x0_hat_of(&x, at)?;
        self.recycle([x]);
        Ok(x0_hat)
    }

    /// `x0_hat` at `at`, in the state that the signal frame reaches there:
    /// `(sigma_at / sigma_from) x + alpha_at sum_j w_j x0_hat_j`.
    ///
    /// # Errors
    /// As [`Denoiser::denoise`].
    pub fn x0_hat_after(
        &mut self,
        at: &PathPoint,
        terms: &[(f64, &Array2<f64>)],
    ) -> Result<Array2<f64>> {
        self.x0_hat_from(at, at.sigma / self.from().sigma, &scaled(at.alpha, terms))
    }

    /// `eps_hat` at `at`, in the state that the noise frame reaches there:
    /// `alpha_at (x / alpha_from + sum_j w_j eps_hat_j)`.
    ///
    /// # Errors
    /// As [`Denoiser::denoise`].
    pub fn eps_hat_after(
        &mut self,
        at: &PathPoint,
        terms: &[(f64, &Array2<f64>)],
    ) -> Result<Array2<f64>> {
        let mut x = self.buffer();
        combine(&mut x, 0.0, &[(at.alpha / self.from().alpha, &self.x)]);
        combine(&mut x, 1.0, &scaled(at.alpha, terms));
        let mut eps_hat = self.x0_hat_of(&x, at)?;
        combine(&mut eps_hat, -at.alpha / at.sigma, &[(1.0 / at.sigma, &x)]);
        self.recycle([x]);
        Ok(eps_hat)
    }

    /// `x = keep x + sum_j w_j y_j`.
    pub fn advance(&mut self, keep: f64, terms: &[(f64, &Array2<f64>)]) {
        combine(&mut self.x, keep, terms);
    }

    /// Ends the step in the signal frame:
    /// `x = (sigma_to / sigma_from) x + alpha_to sum_j w_j x0_hat_j`.
    pub fn finish_from_x0(&mut self, terms: &[(f64, &Array2<f64>)]) {
        let (from, to) = (self.from(), self.to());
        combine(&mut self.x, to.sigma / from.sigma, &scaled(to.alpha, terms));
    }

    /// Ends the step in the noise frame: `x = alpha_to (x / alpha_from + sum_j w_j eps_hat_j)`.
    pub fn finish_from_eps(&mut self, terms: &[(f64, &Array2<f64>)]) {
        let (from, to) = (self.from(), self.to());
        combine(&mut self.x, to.alpha / from.alpha, &scaled(to.alpha, terms));
    }

    /// The DDIM step, exact for a constant `x0_hat`: how every method here reaches `sigma = 0`,
    /// unless it says otherwise.
    ///
    /// # Errors
    /// Points that are not from noise to data; as [`Denoiser::denoise`].
    pub fn ddim(&mut self) -> Result<()> {
        let share = self.lambda_step()?.h_phi_1;
        let x0_hat = self.x0_hat()?;
        self.finish_from_x0(&[(share, &x0_hat)]);
        self.recycle([x0_hat]);
        Ok(())
    }

    /// One fresh draw of normals.
    pub fn normals(&mut self) -> Array2<f64> {
        let mut z = self.buffer();
        self.noise.fill(self.draws, &mut z);
        self.draws += 1;
        z
    }

    /// `x += std z` with a fresh draw, or nothing, not even the draw, at `std = 0`.
    pub fn add_noise(&mut self, std: f64) {
        if std != 0.0 {
            let z = self.normals();
            combine(&mut self.x, 1.0, &[(std, &z)]);
            self.recycle([z]);
        }
    }

    /// `x = keep x + sum_j w_j y_j + std z` in one pass; no draw at `std = 0`.
    pub fn advance_noisy(&mut self, keep: f64, terms: &[(f64, &Array2<f64>)], std: f64) {
        if std == 0.0 {
            return self.advance(keep, terms);
        }
        let z = self.normals();
        combine(&mut self.x, keep, &[terms, &[(std, &z)]].concat());
        self.recycle([z]);
    }

    /// What [`keep_history`](Self::keep_history) kept, newest first; hand it back after use.
    pub fn take_history(&mut self) -> Vec<Array2<f64>> {
        std::mem::take(&mut self.past)
    }

    /// Keeps the first `most` of these for the next step.
    pub fn keep_history(&mut self, mut past: Vec<Array2<f64>>, most: usize) {
        self.recycle(past.drain(most.min(past.len())..));
        self.past = past;
    }

    /// What exponential integrators read of this step.
    ///
    /// # Errors
    /// Points that are not from noise to data.
    pub fn lambda_step(&self) -> Result<LambdaStep> {
        LambdaStep::between(&self.from(), &self.to())
    }

    /// `sigma / alpha` where the step begins.
    ///
    /// # Errors
    /// Pure noise, where it is infinite.
    pub fn edm_sigma(&self) -> Result<f64> {
        finite_edm_sigma(&self.from())
    }
}

/// `sigma / alpha`, refused at pure noise.
pub(super) fn finite_edm_sigma(at: &PathPoint) -> Result<f64> {
    if at.alpha > 0.0 {
        return Ok(at.edm_sigma());
    }
    Err(Error::singular(
        "a step in sigma / alpha",
        "alpha = 0",
        "pure noise has no finite sigma / alpha",
        "start the grid a little later, or use ddim, dpmpp-2m, dpmpp-3m, unipc or fm-heun, which can start there",
    ))
}

/// The terms with every weight multiplied by `alpha`.
fn scaled<'b>(alpha: f64, terms: &[(f64, &'b Array2<f64>)]) -> Vec<(f64, &'b Array2<f64>)> {
    terms.iter().map(|(w, y)| (alpha * w, *y)).collect()
}

/// A step seen by its noise level: `lambda = ln(alpha / sigma)` grows by `h`.
#[derive(Clone, Copy, Debug)]
pub struct LambdaStep {
    /// Growth of lambda, half that of log-SNR; infinite from `alpha = 0` and to `sigma = 0`.
    pub h: f64,
    /// `1 - exp(-h)`, the weight of a constant `x0_hat` over the step.
    pub h_phi_1: f64,
}

impl LambdaStep {
    /// Between two points, from noise to data.
    ///
    /// # Formula
    /// With `kept = sqrt(snr_from / snr_to)` and `loss = 1 - kept^2`: `h phi_1(-h) = loss / (1 + kept)`
    /// and `h = -ln kept`, between close points `-ln_1p(-loss) / 2`. Each form fails where the
    /// other serves: at `kept = 1 - 1e-10` the first, from alpha = 1e-6 the second.
    ///
    /// # Errors
    /// As [`snr_loss`].
    pub fn between(from: &PathPoint, to: &PathPoint) -> Result<Self> {
        let loss = snr_loss(Level::from(to), Level::from(from))?;
        let kept = from.alpha / to.alpha * (to.sigma / from.sigma);
        let h = if kept < 0.5 { -kept.ln() } else { -0.5 * (-loss).ln_1p() };
        Ok(Self { h, h_phi_1: loss / (1.0 + kept) })
    }
}

/// The level of this `sigma / alpha` in the variance-preserving scale: where stages between two
/// grid points are evaluated.
///
/// The scale is free, because a state and its coefficients are scaled together; this one is
/// representable at every level.
pub(super) fn level_of(edm_sigma: f64) -> PathPoint {
    let radius = edm_sigma.hypot(1.0);
    PathPoint::still(1.0 / radius, edm_sigma / radius)
}
