//! Reconstruction terms `-ln p(x0|x1)`, and what separates a density in [-1, 1] from bits per
//! integer level.

use crate::error::{Error, Result};
use crate::math::dd::Dd;
use crate::math::normal::{LN_SQRT_TAU, log_mass};
use ndarray::{Array1, ArrayView2, Axis, Zip};
use std::f64::consts::LN_2;

/// How the integer levels `0..levels` of a pixel lie in [-1, 1].
///
/// Two conventions are in use, and mixing them shifts bits/dim by `log2(256/255)`, or by whole bits
/// where the factor 2 is forgotten:
/// - [`end_to_end`](Self::end_to_end): level k lies *at* `-1 + 2 k / (levels - 1)`, the end levels
///   at the ends (Ho et al. 2020);
/// - [`dequantised`](Self::dequantised): level k with u uniform in [0, 1) lies at
///   `-1 + 2 (k + u) / levels`, so that a density on levels fills the interval (Theis et al. 2016;
///   score_sde).
///
/// # Example
/// ```
/// use tweedie::diffusion::decoder::LevelScale;
/// // The uniform density on [-1, 1] knows nothing: 8 bits a pixel of 256 levels. Its density 1/2 alone says 1 bit; the offset is 7.
/// let scale = LevelScale::dequantised(256).unwrap();
/// assert_eq!(scale.bits_offset(), 7.0);
/// assert_eq!(scale.bits_per_dim(3.0 * 2f64.ln(), 3), 8.0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct LevelScale {
    levels: usize,
    /// Number of spacings between -1 and 1.
    intervals: f64,
}

impl LevelScale {
    /// Level k at `-1 + 2 k / (levels - 1)`.
    ///
    /// # Errors
    /// Fewer than 2 levels.
    pub fn end_to_end(levels: usize) -> Result<Self> {
        at_least_two(levels).map(|n| Self { levels, intervals: n - 1.0 })
    }

    /// Level k plus u in [0, 1) at `-1 + 2 (k + u) / levels`.
    ///
    /// # Errors
    /// Fewer than 2 levels.
    pub fn dequantised(levels: usize) -> Result<Self> {
        at_least_two(levels).map(|n| Self { levels, intervals: n })
    }

    /// Number of levels.
    pub fn levels(&self) -> usize {
        self.levels
    }

    /// Where the real level `y` lies in [-1, 1]; `y = k + u` under uniform dequantisation.
    pub fn scaled(&self, y: f64) -> f64 {
        // One rounding: 2 y - intervals is exact for integer levels, and 0 in the middle.
        (2.0 * y - self.intervals) / self.intervals
    }

    /// Distance of two neighbouring levels in [-1, 1].
    pub fn spacing(&self) -> f64 {
        2.0 / self.intervals
    }

    /// Bits per dimension to add to a density in [-1, 1] to make it one per level:
    /// `-log2(spacing)`.
    ///
    /// # Formula
    /// `p_level(y) = p_scaled(x) |dx/dy| = p_scaled(x) spacing`
    pub fn bits_offset(&self) -> f64 {
        -self.spacing().log2()
    }

    /// Bits/dim of integer levels from the negative log-density (nats, all dimensions together) of
    /// the data scaled to [-1, 1].
    ///
    /// For uniformly dequantised data this is an upper bound on the bits/dim of the integer data
    /// (Jensen).
    pub fn bits_per_dim(&self, nats: f64, dims: usize) -> f64 {
        nats_to_bits_per_dim(nats, dims) + self.bits_offset()
    }
}

fn at_least_two(levels: usize) -> Result<f64> {
    if levels < 2 {
        return Err(Error::domain("levels", levels, ">= 2", "8-bit images have 256"));
    }
    Ok(levels as f64)
}

/// `nats / (dims ln 2)`, for a probability of integer data; a density needs
/// [`LevelScale::bits_per_dim`].
pub fn nats_to_bits_per_dim(nats: f64, dims: usize) -> f64 {
    nats / (dims as f64 * LN_2)
}

/// The normal law of a pixel, collected over bins around equally spaced levels, the end bins open.
///
/// # Formula
/// `P(k) = Phi((c_k + h - mean)/std) - Phi((c_k - h - mean)/std)`, `c_k = -1 + 2 k/(bins - 1)`,
/// `h = 1/(bins - 1)`; the first bin reaches to -inf and the last to +inf, so that the
/// probabilities add up to 1.
///
/// Every logarithm is within 8 ulp of the exact one (2.2 at most over
/// `tests/golden/mp/decoder.csv`), in bins 40 standard deviations away and in one that holds nearly
/// all of the mass as well; a difference of two values of Phi, or its tanh approximation, is wrong
/// there by bits (the tanh leaves half of the mass beyond 4 standard deviations, a seventieth
/// beyond 6).
///
/// # Source
/// Ho et al. 2020 (arXiv 2006.11239), eq. 13.
///
/// # Example
/// ```
/// use tweedie::diffusion::decoder::DiscretisedGaussian;
/// let decoder = DiscretisedGaussian::new(256).unwrap();
/// let total: f64 = (0..256).map(|k| decoder.log_mass(k, 0.3, 0.05).exp()).sum();
/// assert!((total - 1.0).abs() < 1e-14);
/// assert_eq!(decoder.level(-1.0).unwrap(), 0);
/// ```
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct DiscretisedGaussian {
    scale: LevelScale,
}

impl DiscretisedGaussian {
    /// The decoder for this many levels.
    ///
    /// # Errors
    /// Fewer than 2 bins.
    pub fn new(bins: usize) -> Result<Self> {
        LevelScale::end_to_end(bins).map(|scale| Self { scale })
    }

    /// Where the levels lie.
    pub fn scale(&self) -> LevelScale {
        self.scale
    }

    /// `ln P(k)` in nats for `std > 0` and `k < bins`.
    pub fn log_mass(&self, k: usize, mean: f64, std: f64) -> f64 {
        // Edges in 106 bits: x standard deviations out, their last place is worth x^2/2 of the
        // mass's.
        let n = self.scale.intervals;
        let standard = |edge: f64| (Dd::from(edge) - Dd::from(mean) * n) / n / std;
        let middle = 2.0 * k as f64 - n;
        let (low, high, half) = (standard(middle - 1.0), standard(middle + 1.0), 1.0 / n / std);
        let infinite = Dd::from(f64::INFINITY);
        if k == 0 {
            log_mass(-infinite, high, -infinite, infinite.hi())
        } else if k + 1 == self.scale.levels {
            log_mass(low, infinite, infinite, infinite.hi())
        } else {
            log_mass(low, high, standard(middle), half)
        }
    }

    /// The level that lies at `x`.
    ///
    /// # Errors
    /// An `x` more than a thousandth of a spacing away from every level: the data are not levels
    /// scaled this way.
    pub fn level(&self, x: f64) -> Result<usize> {
        let y = 0.5 * (x + 1.0) * self.scale.intervals;
        let k = y.round();
        if (y - k).abs() <= 1e-3 && k >= 0.0 && k <= self.scale.intervals {
            return Ok(k as usize);
        }
        let levels = self.scale.levels;
        Err(Error::domain(
            "pixel",
            x,
            format!("-1 + 2 k/{} for k in 0..{levels}", levels - 1),
            "scale integer levels to [-1, 1] end to end",
        ))
    }

    /// `-ln P(x0)` in nats of each row, the pixels independent given the means.
    ///
    /// # Shapes
    /// `x0` levels scaled to [-1, 1], and `mean`, both (n, d); the result (n).
    ///
    /// # Errors
    /// Shapes that differ, a pixel that is no level, `std` not positive.
    pub fn nats(
        &self,
        x0: ArrayView2<f64>,
        mean: ArrayView2<f64>,
        std: f64,
    ) -> Result<Array1<f64>> {
        check(x0, mean, "std", std)?;
        let mut nats = Array1::zeros(x0.nrows());
        for ((x0, mean), nats) in x0.outer_iter().zip(mean.outer_iter()).zip(&mut nats) {
            for (&x, &m) in x0.iter().zip(&mean) {
                *nats -= self.log_mass(self.level(x)?, m, std);
            }
        }
        Ok(nats)
    }
}

/// `-ln N(x0; mean, var I)` in nats of each row: a density in the data's scale, see [`LevelScale`]
/// for what that means in bits.
///
/// # Shapes
/// `x0` and `mean` (n, d); the result (n).
///
/// # Errors
/// Shapes that differ, `var` not positive.
pub fn gaussian_nats(x0: ArrayView2<f64>, mean: ArrayView2<f64>, var: f64) -> Result<Array1<f64>> {
    check(x0, mean, "var", var)?;
    let square = Zip::from(&x0).and(&mean).map_collect(|x, m| (x - m).powi(2)).sum_axis(Axis(1));
    let constant = x0.ncols() as f64 * (LN_SQRT_TAU + 0.5 * var.ln());
    Ok(square.mapv(|s| constant + 0.5 * s / var))
}

fn check(x0: ArrayView2<f64>, mean: ArrayView2<f64>, what: &str, spread: f64) -> Result<()> {
    if x0.dim() != mean.dim() {
        return Err(Error::shape(
            "mean of p(x0|x1)",
            mean.shape(),
            format!("{:?}, x0's", x0.dim()),
            "one mean a pixel",
        ));
    }
    if !(spread > 0.0 && spread.is_finite()) {
        return Err(Error::domain(
            format!("{what} of p(x0|x1)"),
            spread,
            "> 0",
            "the posterior variance at t = 1 is 0: choose beta_1 or a learned one",
        ));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::larger;
    use crate::math::noise::Noise;
    use crate::math::quadrature::{IntervalRule, NormalRule};
    use ndarray::{Array2, array};
    use proptest::prelude::*;

    fn log_sum_exp(terms: impl Iterator<Item = f64> + Clone) -> f64 {
        let top = terms.clone().fold(f64::NEG_INFINITY, larger);
        top + terms.map(|t| (t - top).exp()).sum::<f64>().ln()
    }

    proptest! {
        #[test]
        fn probabilities_add_up_to_one(bins in 2usize..300, mean in -3.0f64..3.0, log_std in -12.0f64..2.0) {
            let (decoder, std) = (DiscretisedGaussian::new(bins).unwrap(), log_std.exp());
            let total = log_sum_exp((0..bins).map(|k| decoder.log_mass(k, mean, std)));
            // Levels, halves and means are rounded to eps of [-1, 1]-ish numbers: neighbouring bins
            // overlap by eps |x - mean|/std standard deviations, weighted by the density there,
            // which sums to at most 1: eps (1 + 3/std) over the bins that matter.
            prop_assert!(total.abs() <= 4.0 * f64::EPSILON * (bins as f64 + 4.0 / std), "{total:e}");
        }

        /// An inner bin is the integral of the density over it.
        #[test]
        fn a_bin_is_an_integral(k in 1usize..255, z in -6.0f64..6.0, std in 0.01f64..2.0) {
            let decoder = DiscretisedGaussian::new(256).unwrap();
            let (c, h) = (decoder.scale().scaled(k as f64), 1.0 / 255.0);
            let mean = c + z * std;
            let density = |x: f64| (-0.5 * ((x - mean) / std).powi(2) - LN_SQRT_TAU).exp() / std;
            let want = IntervalRule::new(20).unwrap().composite(c - h, c + h, 4, density);
            let got = decoder.log_mass(k, mean, std).exp();
            // The rounding of x near 1 moves the density by eps z/std.
            prop_assert!((got - want).abs() <= 16.0 * f64::EPSILON * want * (1.0 + 8.0 / std + 40.0), "{got} {want}");
        }

        /// Uniform dequantisation: the density model's bits bound the discrete model's from above,
        /// by Jensen, and are equal for wide laws.
        #[test]
        fn dequantised_bits_bound_discrete_bits(k in 0usize..32, mean in -1.0f64..1.0, std in 0.02f64..3.0) {
            let scale = LevelScale::dequantised(32).unwrap();
            let standard = |y: f64| (scale.scaled(y) - mean) / std;
            let rule = IntervalRule::new(20).unwrap();
            let nats = rule.integral(0.0, 1.0, |u| LN_SQRT_TAU + std.ln() + 0.5 * standard(k as f64 + u).powi(2));
            let discrete = crate::math::normal::log_cdf_difference(standard(k as f64), standard(k as f64 + 1.0));
            let gap = scale.bits_per_dim(nats, 1) - nats_to_bits_per_dim(-discrete, 1);
            prop_assert!(gap >= -1e-12, "{gap}");
            // -ln p is a parabola: the gap is at most Var over the cell of the log density, to
            // second order.
            let (a, b) = (standard(k as f64), standard(k as f64 + 1.0));
            let slope = a.abs().max(b.abs()) * (b - a);
            prop_assert!(gap <= slope * slope / LN_2 + 1e-12);
        }

        #[test]
        fn levels_round_trip(bins in 2usize..70_000, share in 0.0f64..1.0) {
            let decoder = DiscretisedGaussian::new(bins).unwrap();
            let k = ((bins - 1) as f64 * share) as usize;
            prop_assert_eq!(decoder.level(decoder.scale().scaled(k as f64)).unwrap(), k);
        }

        /// Mean over noise of the Gaussian term: the cross-entropy's closed form, by Gauss-Hermite.
        #[test]
        fn gaussian_term_averages_to_the_cross_entropy(mean in -2.0f64..2.0, v in 0.01f64..2.0, w in 0.01f64..2.0) {
            let rule = NormalRule::new(20).unwrap();
            let got = rule.expectation(0.5, v, |x| gaussian_nats(array![[x]].view(), array![[mean]].view(), w).unwrap()[0]);
            let want = crate::math::gaussian::cross_entropy_normal(0.5, v, mean, w);
            prop_assert!((got - want).abs() <= 1e-13 * (1.0 + ((0.5 - mean).powi(2) + v) / w));
        }
    }

    #[test]
    fn two_conventions_differ_as_stated() {
        let (ends, cells) =
            (LevelScale::end_to_end(256).unwrap(), LevelScale::dequantised(256).unwrap());
        assert_eq!([ends.scaled(0.0), ends.scaled(255.0), ends.scaled(127.5)], [-1.0, 1.0, 0.0]);
        assert_eq!([cells.scaled(0.0), cells.scaled(256.0), cells.scaled(128.0)], [-1.0, 1.0, 0.0]);
        assert_eq!(ends.bits_offset(), 127.5f64.log2());
        // score_sde #51: the offset for data in [-1, 1] is 7 bits, not the 8 of data in [0, 1].
        assert_eq!(cells.bits_offset(), 7.0);
    }

    #[test]
    fn rows_add_their_pixels() {
        let decoder = DiscretisedGaussian::new(17).unwrap();
        let noise = Noise::new(1);
        let x0 = Array2::from_shape_fn((3, 5), |(i, j)| {
            decoder.scale().scaled(((5 * i + 3 * j) % 17) as f64)
        });
        let mean = Array2::from_shape_fn((3, 5), |(i, j)| noise.uniform(0, (5 * i + j) as u64));
        let nats = decoder.nats(x0.view(), mean.view(), 0.2).unwrap();
        let want: f64 =
            (0..5).map(|j| -decoder.log_mass((5 + 3 * j) % 17, mean[[1, j]], 0.2)).sum();
        assert_eq!(nats[1], want);
        assert!(decoder.nats(x0.view(), mean.view(), 0.0).unwrap_err().to_string().contains("std"));
        assert!(
            decoder.nats(mean.view(), x0.view(), 0.1).unwrap_err().to_string().contains("pixel")
        );
        assert!(gaussian_nats(x0.view(), mean.slice(ndarray::s![.., ..4]), 0.1).is_err());
        assert!(DiscretisedGaussian::new(1).is_err() && LevelScale::dequantised(0).is_err());
    }

    #[test]
    fn the_tanh_approximation_costs_bits() {
        // A bin near 6 standard deviations: the approximation that is in use is off by more than a
        // tenth of a bit.
        let tanh_cdf = |x: f64| {
            0.5 * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x.powi(3))).tanh())
        };
        let (decoder, std) = (DiscretisedGaussian::new(256).unwrap(), 0.02);
        let (c, h) = (decoder.scale().scaled(100.0), 1.0 / 255.0);
        let mean = c + 5.0 * std;
        let approximate = (tanh_cdf((c + h - mean) / std) - tanh_cdf((c - h - mean) / std)).ln();
        assert!((approximate - decoder.log_mass(100, mean, std)).abs() / LN_2 > 0.1);
    }

    #[test]
    fn a_scale_knows_its_levels() {
        assert_eq!(
            (
                LevelScale::end_to_end(256).unwrap().levels(),
                LevelScale::dequantised(17).unwrap().levels()
            ),
            (256, 17)
        );
    }
}
