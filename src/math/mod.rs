//! Mathematics that knows nothing of diffusion: numbers, linear algebra, Gaussians, quadrature, noise.

pub mod dd;
pub mod eigen;
pub mod gaussian;
pub mod matmul;
pub mod moments;
pub mod noise;
pub mod normal;
pub mod quadrature;
pub mod scalar;
pub mod simd;
pub mod vector;
