//! Models as samplers meet them: of any prediction type, with clipped x0, guided.
//!
//! Guidance is a denoiser too: [`Guided`](crate::law::conditional::Guided) and
//! [`ClassifierGuided`](crate::law::conditional::ClassifierGuided) wrap others.

use crate::diffusion::level::Rates;
use crate::diffusion::prediction::{Conversion, Frame, Prediction};
use crate::diffusion::{Denoiser, PathPoint};
use crate::error::Result;
use ndarray::{ArrayView2, ArrayViewMut2, Zip};

/// A denoiser whose output goes through another prediction type and back, as a network of that type
/// would be used.
///
/// In exact arithmetic nothing changes; what changes in `f64` is how far a prediction of this kind
/// amplifies rounding at each level. Where x0 is not determined by the prediction (eps at
/// `alpha = 0`) there is an error: ask [`defined`](Self::defined) before a run.
#[derive(Clone, Copy)]
pub struct Predicting<'a> {
    /// What really predicts.
    pub inner: &'a dyn Denoiser,
    /// The type it is taken through.
    pub kind: Prediction,
}

impl Predicting<'_> {
    /// That x0 can be had from this kind of prediction at every evaluated point of a grid.
    ///
    /// # Errors
    /// As [`Conversion::new`], at the first point where it cannot.
    pub fn defined(&self, grid: &[PathPoint]) -> Result<()> {
        grid.iter().filter(|p| p.sigma > 0.0).try_for_each(|p| self.conversions(p).map(drop))
    }

    fn conversions(&self, at: &PathPoint) -> Result<[Conversion<f64>; 2]> {
        let mut frame = Frame::from(at);
        // A stage between grid points has no time: a velocity is then taken along flow matching's
        // straight line.
        frame.rates.get_or_insert(Rates::STRAIGHT);
        Ok([
            Conversion::new(Prediction::X0, self.kind, frame)?,
            Conversion::new(self.kind, Prediction::X0, frame)?,
        ])
    }
}

impl Denoiser for Predicting<'_> {
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        let [there, back] = self.conversions(at)?;
        self.inner.denoise(x, at, out.view_mut())?;
        Zip::from(&mut out).and(&x).for_each(|out, &x| *out = back.apply(there.apply(*out, x), x));
        Ok(())
    }
}

/// A denoiser whose x0 is clipped to `[-bound, bound]`.
///
/// Samplers form eps from the state and this x0, so that `x_t = alpha x0_hat + sigma eps_hat` holds
/// after clipping too; clipping x0 and keeping an older eps breaks it.
#[derive(Clone, Copy)]
pub struct Clipped<'a> {
    /// What predicts.
    pub inner: &'a dyn Denoiser,
    /// Largest absolute value of x0.
    pub bound: f64,
}

impl Denoiser for Clipped<'_> {
    fn dim(&self) -> usize {
        self.inner.dim()
    }

    fn denoise(
        &self,
        x: ArrayView2<f64>,
        at: &PathPoint,
        mut out: ArrayViewMut2<f64>,
    ) -> Result<()> {
        self.inner.denoise(x, at, out.view_mut())?;
        out.mapv_inplace(|x0| x0.clamp(-self.bound, self.bound));
        Ok(())
    }
}
