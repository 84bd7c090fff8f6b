//! Mathematics that knows nothing of diffusion: numbers, linear algebra, Gaussians, quadrature,
//! noise.

pub mod dd;
pub mod eigen;
pub mod gaussian;
pub mod matmul;
pub mod moments;
pub mod noise;
pub mod normal;
pub mod polar;
pub mod quadrature;
pub mod scalar;
pub mod simd;
pub mod vector;

/// The larger of two numbers; NaN if either is NaN, where [`f64::max`] drops it. For the worst of
/// many errors: `fold(0.0, larger)`.
///
/// ```
/// use tweedie::math::larger;
/// assert_eq!([1.0, 3.0, 2.0].into_iter().fold(0.0, larger), 3.0);
/// assert!([1.0, f64::NAN, 2.0].into_iter().fold(0.0, larger).is_nan());
/// ```
pub fn larger(a: f64, b: f64) -> f64 {
    if a.is_nan() || b <= a { a } else { b }
}

/// The smaller of two numbers; NaN if either is NaN, where [`f64::min`] drops it.
pub fn smaller(a: f64, b: f64) -> f64 {
    if a.is_nan() || b >= a { a } else { b }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nan_stays_wherever_it_stands() {
        for values in [[f64::NAN, 1.0, 2.0], [1.0, f64::NAN, 2.0], [1.0, 2.0, f64::NAN]] {
            assert!(values.into_iter().fold(0.0, larger).is_nan());
            assert!(values.into_iter().fold(f64::INFINITY, smaller).is_nan());
        }
        assert_eq!([1.0, 3.0, 2.0].into_iter().fold(0.0, larger), 3.0);
        assert_eq!([3.0, 1.0, 2.0].into_iter().fold(f64::INFINITY, smaller), 1.0);
    }
}
