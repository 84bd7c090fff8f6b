//! What the network's kernels need of a number: `f32` to be fast, `f64` to be exact.

use pulp::Simd;

/// A real number that the network can be run in.
pub trait Element:
    tweedie::math::matmul::Real
    + num_traits::Float
    + num_traits::NumAssign
    + std::iter::Sum
    + Default
    + bytemuck::Pod
    + std::fmt::Debug
{
    /// A register of them.
    type Vector<S: Simd>: Copy;

    /// How many fit in a register.
    fn lanes<S: Simd>() -> usize {
        size_of::<Self::Vector<S>>() / size_of::<Self>()
    }

    /// Every lane `x`.
    fn splat<S: Simd>(simd: S, x: Self) -> Self::Vector<S>;

    /// `a b + c`, rounded once.
    fn mul_add_vector<S: Simd>(
        simd: S,
        a: Self::Vector<S>,
        b: Self::Vector<S>,
        c: Self::Vector<S>,
    ) -> Self::Vector<S>;

    /// `a + b`.
    fn add_vector<S: Simd>(simd: S, a: Self::Vector<S>, b: Self::Vector<S>) -> Self::Vector<S>;

    /// `exp(x)` by a form that the compiler turns into vector code where `Self` has one.
    fn fast_exp(self) -> Self;

    /// Rounds from `f64`.
    fn of(x: f64) -> Self;

    /// Widens to `f64`.
    fn wide(self) -> f64;
}

impl Element for f64 {
    type Vector<S: Simd> = S::f64s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: Self) -> S::f64s {
        simd.splat_f64s(x)
    }

    #[inline(always)]
    fn mul_add_vector<S: Simd>(simd: S, a: S::f64s, b: S::f64s, c: S::f64s) -> S::f64s {
        simd.mul_add_e_f64s(a, b, c)
    }

    #[inline(always)]
    fn add_vector<S: Simd>(simd: S, a: S::f64s, b: S::f64s) -> S::f64s {
        simd.add_f64s(a, b)
    }

    #[inline(always)]
    fn fast_exp(self) -> Self {
        self.exp()
    }

    #[inline(always)]
    fn of(x: f64) -> Self {
        x
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self
    }
}

impl Element for f32 {
    type Vector<S: Simd> = S::f32s;

    #[inline(always)]
    fn splat<S: Simd>(simd: S, x: Self) -> S::f32s {
        simd.splat_f32s(x)
    }

    #[inline(always)]
    fn mul_add_vector<S: Simd>(simd: S, a: S::f32s, b: S::f32s, c: S::f32s) -> S::f32s {
        simd.mul_add_e_f32s(a, b, c)
    }

    #[inline(always)]
    fn add_vector<S: Simd>(simd: S, a: S::f32s, b: S::f32s) -> S::f32s {
        simd.add_f32s(a, b)
    }

    /// `2^n e^r` with `|r| <= ln 2 / 2`: the Taylor polynomial of degree 7 is off by at most 6e-9
    /// there, below half an ulp of f32.
    ///
    /// Below -87 the result is `exp(-87)` (1.6e-38) instead of a subnormal number, above 88 it is
    /// `exp(88)`.
    #[inline(always)]
    fn fast_exp(self) -> Self {
        let x = self.clamp(-87.0, 88.0);
        // Adding 1.5 2^23 leaves the nearest integer in the low bits of the mantissa.
        const ROUND: f32 = 12_582_912.0;
        let shifted = x * std::f32::consts::LOG2_E + ROUND;
        let n = shifted - ROUND;
        // ln 2 in two parts: n times the first is exact.
        let r = x - n * 0.693_359_4 + n * 2.121_944_4e-4;
        let p = 1.0 / 5040.0;
        let p = p * r + 1.0 / 720.0;
        let p = p * r + 1.0 / 120.0;
        let p = p * r + 1.0 / 24.0;
        let p = p * r + 1.0 / 6.0;
        let p = p * r + 0.5;
        let p = p * r + 1.0;
        let p = p * r + 1.0;
        // NaN stays NaN: clamp keeps it, and so does p.
        p * f32::from_bits(
            ((shifted.to_bits() as i32).wrapping_sub(ROUND.to_bits() as i32).wrapping_add(127)
                as u32)
                << 23,
        )
    }

    #[inline(always)]
    fn of(x: f64) -> Self {
        x as f32
    }

    #[inline(always)]
    fn wide(self) -> f64 {
        self.into()
    }
}
