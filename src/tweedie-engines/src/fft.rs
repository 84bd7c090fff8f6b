//! Plans of Fourier transforms in f64, unnormalised.

use realfft::{ComplexToReal, RealFftPlanner, RealToComplex};
use rustfft::{Fft, FftPlanner};
use std::sync::Arc;

pub use rustfft::num_complex::Complex64;

/// Of `n` real numbers to the `n / 2 + 1` modes of frequencies 0 to n / 2, and back.
pub struct Real {
    /// Numbers to modes.
    pub forward: Arc<dyn RealToComplex<f64>>,
    /// Modes to numbers, times n.
    pub inverse: Arc<dyn ComplexToReal<f64>>,
}

/// Of `n` complex numbers in their place.
pub struct Complex {
    /// Numbers to modes.
    pub forward: Arc<dyn Fft<f64>>,
    /// Modes to numbers, times n.
    pub inverse: Arc<dyn Fft<f64>>,
}

/// Plans for `n` real numbers.
pub fn real(n: usize) -> Real {
    let mut planner = RealFftPlanner::new();
    Real { forward: planner.plan_fft_forward(n), inverse: planner.plan_fft_inverse(n) }
}

/// Plans for `n` complex numbers.
pub fn complex(n: usize) -> Complex {
    let mut planner = FftPlanner::new();
    Complex { forward: planner.plan_fft_forward(n), inverse: planner.plan_fft_inverse(n) }
}
