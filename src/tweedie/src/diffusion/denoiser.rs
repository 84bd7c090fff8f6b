//! The one interface between whatever predicts (an exact law, a network, a foreign model) and
//! whatever samples.

use crate::diffusion::PathPoint;
use crate::error::Result;
use ndarray::{Array2, ArrayView2, ArrayViewMut2};

/// Anything that estimates `E[x0 | x_t]`.
///
/// Analytic denoisers read `alpha` and `sigma` of the point alone, so they serve every path.
pub trait Denoiser: Sync {
    /// Dimension d of one state.
    fn dim(&self) -> usize;

    /// Writes `E[x0 | x_t = x]` for each row of `x`.
    ///
    /// # Shapes
    /// `x` and `out` (n, d).
    ///
    /// # Errors
    /// What keeps this denoiser from an estimate at this point: a network may not reach its noise
    /// level, or lose its device. What `out` holds then means nothing. Exact laws have none.
    fn denoise(&self, x: ArrayView2<f64>, at: &PathPoint, out: ArrayViewMut2<f64>) -> Result<()>;

    /// [`denoise`](Self::denoise) into a new batch.
    ///
    /// # Errors
    /// As [`denoise`](Self::denoise).
    fn denoised(&self, x: ArrayView2<f64>, at: &PathPoint) -> Result<Array2<f64>> {
        let mut out = Array2::zeros(x.raw_dim());
        self.denoise(x, at, out.view_mut())?;
        Ok(out)
    }
}
