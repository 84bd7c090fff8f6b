//! What the property tests of `exact/` draw from: levels of the three families of paths, Gaussians
//! of any rank.

use crate::diffusion::PathPoint;
use crate::diffusion::level::{Level, Rates};
use crate::law::Gaussian;
use crate::math::larger;
use crate::math::noise::Noise;
use ndarray::{Array1, Array2};
use proptest::prelude::*;

/// A path point of the variance-preserving, variance-exploding or flow-matching family at `t` in
/// (0, 1), with its rates in `t`.
pub fn point(family: u8, t: f64) -> PathPoint {
    let (alpha, sigma, d_alpha, d_sigma) = match family % 3 {
        0 => {
            let q = std::f64::consts::FRAC_PI_2;
            ((q * t).cos(), (q * t).sin(), -q * (q * t).sin(), q * (q * t).cos())
        }
        // sigma = 0.002 (80 / 0.002)^t
        1 => (1.0, 0.002 * 4e4f64.powf(t), 0.0, 0.002 * 4e4f64.powf(t) * 4e4f64.ln()),
        _ => (1.0 - t, t, -1.0, 1.0),
    };
    PathPoint { alpha, sigma, t: Some(t), rates: Some(Rates::new(d_alpha, d_sigma)) }
}

/// Three times in (0.01, 0.99) on one family.
pub fn three_points() -> impl Strategy<Value = [PathPoint; 3]> {
    (0u8..3, prop::array::uniform3(0.01..0.99f64))
        .prop_map(|(family, t)| t.map(|t| point(family, t)))
}

/// One level of any family.
pub fn levels() -> impl Strategy<Value = Level> {
    (0u8..3, 0.001..0.999f64).prop_map(|(family, t)| Level::from(&point(family, t)))
}

/// Random orthonormal columns: Gram-Schmidt, twice, on a normal matrix.
pub fn orthonormal(d: usize, seed: u64) -> Array2<f64> {
    let noise = Noise::new(seed);
    let mut q = Array2::from_shape_fn((d, d), |(i, k)| noise.normal(7, (i * d + k) as u64));
    for k in 0..d {
        for _ in 0..2 {
            for j in 0..k {
                let along = q.column(j).dot(&q.column(k));
                let other = q.column(j).to_owned();
                q.column_mut(k).scaled_add(-along, &other);
            }
            let norm = q.column(k).dot(&q.column(k)).sqrt();
            q.column_mut(k).mapv_inplace(|x| x / norm);
        }
    }
    q
}

/// Variances from 1e-4 to 1e2, some of them 0.
pub fn variances(d: usize) -> impl Strategy<Value = Array1<f64>> {
    prop::collection::vec(
        prop_oneof![1 => Just(0.0), 5 => (-4.0..2.0f64).prop_map(|e| 10f64.powf(e))],
        d,
    )
    .prop_map(Array1::from)
}

/// A Gaussian in `d` dimensions with random modes; its last `d - rank` modes are not stored at all.
pub fn gaussian(d: usize) -> impl Strategy<Value = Gaussian> {
    (prop::collection::vec(-3.0..3.0f64, d), variances(d), 1..=d, any::<u64>()).prop_map(
        move |(mean, variances, rank, seed)| {
            Gaussian::from_modes(Array1::from(mean), variances, orthonormal(d, seed))
                .unwrap()
                .truncated(rank)
        },
    )
}

/// A Gaussian whose covariance has full rank.
pub fn full_gaussian(d: usize) -> impl Strategy<Value = Gaussian> {
    (prop::collection::vec(-3.0..3.0f64, d), prop::collection::vec(-3.0..1.0f64, d), any::<u64>())
        .prop_map(move |(mean, exponents, seed)| {
            let variances = exponents.into_iter().map(|e| 10f64.powf(e)).collect();
            Gaussian::from_modes(Array1::from(mean), variances, orthonormal(d, seed)).unwrap()
        })
}

/// `n` standard normal rows.
pub fn normal_rows(n: usize, d: usize, seed: u64) -> Array2<f64> {
    let noise = Noise::new(seed);
    Array2::from_shape_fn((n, d), |(i, j)| noise.normal(0, (i * d + j) as u64))
}

/// Largest absolute difference, NaN if there is one.
pub fn gap(a: &Array2<f64>, b: &Array2<f64>) -> f64 {
    (a - b).iter().map(|x| x.abs()).fold(0.0, larger)
}

/// Largest absolute value.
pub fn size(a: &Array2<f64>) -> f64 {
    a.iter().map(|x| x.abs()).fold(0.0, larger)
}
