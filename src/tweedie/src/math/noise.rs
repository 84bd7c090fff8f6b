//! Counter-based noise: every draw is a pure function of (seed, stream, index).
//!
//! # The recipe, to the bit
//! A GPU kernel that follows these five lines makes the same `f64` bits as the CPU:
//! 1. `w = philox4x32(counter, key)` with `key = [seed, seed >> 32]` and
//!    `counter = [b, b >> 32, stream, stream >> 32]` where `b = index / 2`, each cut to its low 32
//!    bits;
//! 2. the draw's 64 bits are `w[0] | w[1] << 32` for an even index and `w[2] | w[3] << 32` for an
//!    odd one;
//! 3. `u = ((bits >> 12) + 0.5) * 2^-52`, on the open interval (0, 1), symmetric about 1/2, every
//!    step exact;
//! 4. `x = `[`normal_quantile`]`(u)`, in the order of operations written there: only `+ - * /` and
//!    `sqrt` on `f64`, each rounded once as IEEE 754 asks, and a logarithm made of the same
//!    operations. No library function, whose last bit may differ;
//! 5. no contraction: a CUDA build passes `--fmad=false` (or calls `__dadd_rn`, `__dmul_rn`). Fused
//!    multiply-adds are not part of the recipe, because x86-64 without the FMA feature would
//!    emulate each in software.
//!
//! # Source
//! Salmon, Moraes, Dror and Shaw, "Parallel random numbers: as easy as 1, 2, 3", SC 2011
//! (Philox4x32-10); Wichura, "Algorithm AS 241: the percentage points of the normal distribution",
//! Applied Statistics 37, 1988 (PPND16).

use super::simd::vectorised;
use ndarray::{Array2, IntoDimension, Ix2};
use rayon::prelude::*;

/// A source of random numbers addressed by (stream, index), the same bits for any thread count and
/// batch split.
///
/// A stream is a use (one layer's noise, one step of a sampler, one data set), an index is an
/// element. `uniform` and `normal` of one address are the same draw seen twice, so an address is
/// for one of them. Copies are the same source; independent sources come from [`Noise::child`].
///
/// # Example
/// ```
/// use tweedie::math::noise::Noise;
/// let noise = Noise::new(7);
/// let mut whole = [0.0; 10];
/// noise.fill_normal(3, &mut whole);
/// let mut tail = [0.0; 4];
/// noise.fill_normal_from(3, 6, &mut tail);
/// assert_eq!(whole[6..], tail);
/// assert_eq!(whole[9], noise.normal(3, 9));
/// ```
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Noise {
    seed: u64,
}

impl Noise {
    /// The source of this seed.
    pub fn new(seed: u64) -> Self {
        Self { seed }
    }

    /// The seed, all that a source is.
    pub fn seed(&self) -> u64 {
        self.seed
    }

    /// An independent source for a part of the work, a pure function of this source and the label.
    ///
    /// The child's seed is `bits(u64::MAX, 2 label)`: the last stream is set aside for that.
    pub fn child(&self, label: u64) -> Self {
        Self { seed: self.blocks::<1>(u64::MAX, label)[0][0] }
    }

    /// The 64 bits of the even and of the odd index of N blocks in a row; block b holds the indices
    /// `2 b` and `2 b + 1`.
    #[inline(always)]
    #[expect(clippy::needless_range_loop, reason = "one counter is a column of four arrays")]
    fn blocks<const N: usize>(&self, stream: u64, first: u64) -> [[u64; N]; 2] {
        // Loops over places: what maps whole arrays also copies them.
        let mut c = [[0; N], [0; N], [stream; N], [stream >> 32; N]];
        for i in 0..N {
            c[0][i] = first.wrapping_add(i as u64);
            c[1][i] = c[0][i] >> 32;
        }
        philox(&mut c, [self.seed as u32, (self.seed >> 32) as u32]);
        let mut bits = [[0; N]; 2];
        for i in 0..N {
            bits[0][i] = c[0][i] | c[1][i] << 32;
            bits[1][i] = c[2][i] | c[3][i] << 32;
        }
        bits
    }

    /// Sixty-four random bits.
    pub fn bits(&self, stream: u64, index: u64) -> u64 {
        self.blocks::<1>(stream, index / 2)[(index % 2) as usize][0]
    }

    /// Uniform on the open interval (0, 1): a multiple of `2^-52` plus `2^-53`.
    pub fn uniform(&self, stream: u64, index: u64) -> f64 {
        unit(self.bits(stream, index))
    }

    /// Standard normal, within +-8.21.
    pub fn normal(&self, stream: u64, index: u64) -> f64 {
        normal_quantile(self.uniform(stream, index))
    }

    /// Independent standard normals: entry i, in row-major order, is `normal(stream, i)`.
    pub fn normals(&self, stream: u64, shape: impl IntoDimension<Dim = Ix2>) -> Array2<f64> {
        let mut out = Array2::zeros(shape.into_dimension());
        self.fill_normal(stream, out.as_slice_mut().expect("a new array is contiguous"));
        out
    }

    /// `out[i] = normal(stream, i)`, on all cores.
    pub fn fill_normal(&self, stream: u64, out: &mut [f64]) {
        self.fill_normal_from(stream, 0, out);
    }

    /// `out[i] = normal(stream, first + i)`, on all cores: a part of a longer array, wherever it is
    /// cut.
    pub fn fill_normal_from(&self, stream: u64, first: u64, out: &mut [f64]) {
        // Long enough to be worth a task, short enough for the first cache.
        const CHUNK: usize = 1 << 11;
        let odd = (first % 2) as usize;
        let (head, rest) = out.split_at_mut(odd.min(out.len()));
        head.iter_mut().for_each(|x| *x = self.normal(stream, first));
        let first_block = first / 2 + odd as u64;
        let fill = |(c, chunk): (usize, &mut [f64])| {
            vectorised(
                #[inline(always)]
                || self.fill_chunk::<CHUNK>(stream, first_block + (c * CHUNK / 2) as u64, chunk),
            );
        };
        if rest.len() <= CHUNK {
            fill((0, rest));
        } else {
            // A task is several chunks.
            rest.par_chunks_mut(CHUNK).enumerate().with_min_len(4).for_each(fill);
        }
    }

    /// `out[i] = normal(stream, 2 block + i)` for at most N of them, in loops without a branch.
    #[inline(always)]
    fn fill_chunk<const N: usize>(&self, stream: u64, block: u64, out: &mut [f64]) {
        // Blocks side by side, one to a lane.
        const BLOCKS: usize = 16;
        // The tails, 15 in 100, and where they belong.
        let (mut tails, mut places) = ([0.5; N], [0u32; N]);
        let mut count = 0;
        for (g, part) in out.chunks_mut(2 * BLOCKS).enumerate() {
            let bits = self.blocks::<BLOCKS>(stream, block + (g * BLOCKS) as u64);
            let mut u = [0.0; 2 * BLOCKS];
            for i in 0..BLOCKS {
                u[2 * i] = unit(bits[0][i]);
                u[2 * i + 1] = unit(bits[1][i]);
            }
            // The centre of the law for all.
            let mut x = [0.0; 2 * BLOCKS];
            for i in 0..2 * BLOCKS {
                x[i] = central_quantile(u[i] - 0.5);
            }
            part.copy_from_slice(&x[..part.len()]);
            for (i, u) in u[..part.len()].iter().enumerate() {
                // Written always, kept where it is a tail.
                tails[count] = *u;
                places[count] = (g * 2 * BLOCKS + i) as u32;
                count += usize::from((u - 0.5).abs() > CENTRAL);
            }
        }
        let mut x = [0.0; N];
        for (x, p) in x.iter_mut().zip(&tails[..count]) {
            *x = near_tail_quantile(*p);
        }
        for ((x, p), place) in x.iter().zip(&tails).zip(&places[..count]) {
            out[*place as usize] = *x;
            if is_far(*p) {
                out[*place as usize] = tail_quantile(*p);
            }
        }
    }
}

/// The middle of one of `2^52` equal cells of (0, 1). A grid of `2^53` would not do: its last
/// middle, `1 - 2^-54`, rounds to 1.
#[inline(always)]
fn unit(bits: u64) -> f64 {
    const CELL: f64 = 1.0 / (1u64 << 52) as f64;
    ((bits >> 12) as f64 + 0.5) * CELL
}

/// Ten rounds of Philox on a 128-bit counter with a 64-bit key.
///
/// # Source
/// Salmon et al. 2011, section 3.3.
///
/// # Example
/// ```
/// use tweedie::math::noise::philox4x32;
/// assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
/// ```
pub fn philox4x32(counter: [u32; 4], key: [u32; 2]) -> [u32; 4] {
    let mut c = counter.map(|word| [word.into()]);
    philox(&mut c, key);
    c.map(|[word]| word as u32)
}

/// The same for N counters side by side: `c[w][i]` is word w of counter i, one to a 64-bit lane,
/// what stands above its 32 bits being of no account before the last round. A lane's product of two
/// words is then one instruction, and nothing is packed or unpacked between rounds.
#[inline(always)]
#[expect(clippy::needless_range_loop, reason = "one counter is a column of four arrays")]
fn philox<const N: usize>(c: &mut [[u64; N]; 4], [mut k0, mut k1]: [u32; 2]) {
    const WORD: u64 = 0xFFFF_FFFF;
    for _ in 0..10 {
        for i in 0..N {
            let (p0, p1) = (0xD251_1F53 * (c[0][i] & WORD), 0xCD9E_8D57 * (c[2][i] & WORD));
            c[0][i] = (p1 >> 32) ^ c[1][i] ^ u64::from(k0);
            c[1][i] = p1;
            c[2][i] = (p0 >> 32) ^ c[3][i] ^ u64::from(k1);
            c[3][i] = p0;
        }
        (k0, k1) = (k0.wrapping_add(0x9E37_79B9), k1.wrapping_add(0xBB67_AE85));
    }
    for i in 0..N {
        (c[0][i], c[1][i], c[2][i], c[3][i]) =
            (c[0][i] & WORD, c[1][i] & WORD, c[2][i] & WORD, c[3][i] & WORD);
    }
}

/// The standard normal's inverse distribution function for `p` in (0, 1), infinite at 0 and 1 and
/// NaN beyond; the same bits on every IEEE 754 machine.
///
/// Exact to about 1e-16 relative in exact arithmetic, a few ulp as computed; odd about 1/2 to the
/// bit wherever `1 - p` is exact.
///
/// # Source
/// Wichura 1988, PPND16: three ratios of polynomials of degree 7.
///
/// # Example
/// ```
/// use tweedie::math::noise::normal_quantile;
/// assert_eq!(normal_quantile(0.5), 0.0);
/// assert!((normal_quantile(0.975) - 1.959963984540054).abs() < 1e-15);
/// ```
pub fn normal_quantile(p: f64) -> f64 {
    let q = p - 0.5;
    if q.abs() <= CENTRAL {
        return central_quantile(q);
    }
    match p {
        0.0 => f64::NEG_INFINITY,
        1.0 => f64::INFINITY,
        // NaN where p is no probability.
        _ => tail_quantile(p),
    }
}

/// Where the central form ends, in `|p - 1/2|`.
const CENTRAL: f64 = 0.425;

#[inline(always)]
fn central_quantile(q: f64) -> f64 {
    let r = 0.180625 - q * q;
    q * (horner(&CENTRE.0, r) / horner(&CENTRE.1, r))
}

fn tail_quantile(p: f64) -> f64 {
    let r = if p.is_subnormal() { subnormal_root(p) } else { tail_root(p) };
    if r <= 5.0 {
        near_tail_quantile(p)
    } else {
        signed(p, horner(&FAR_TAIL.0, r - 5.0) / horner(&FAR_TAIL.1, r - 5.0))
    }
}

/// [`tail_root`] of a subnormal number, from the logarithm of `2^64` times it.
fn subnormal_root(p: f64) -> f64 {
    (64.0 * std::f64::consts::LN_2 - ln(p * 2f64.powi(64))).sqrt()
}

/// Whether [`near_tail_quantile`] may not do, beyond `e^-25` of the mass: 2 draws in 10^10 are
/// looked at again.
#[inline(always)]
fn is_far(p: f64) -> bool {
    p.min(1.0 - p) < 1e-10
}

/// The tail up to `e^-25` of the mass.
#[inline(always)]
fn near_tail_quantile(p: f64) -> f64 {
    let r = tail_root(p) - 1.6;
    signed(p, horner(&TAIL.0, r) / horner(&TAIL.1, r))
}

#[inline(always)]
fn tail_root(p: f64) -> f64 {
    (-ln(if p < 0.5 { p } else { 1.0 - p })).sqrt()
}

#[inline(always)]
fn signed(p: f64, x: f64) -> f64 {
    if p < 0.5 { -x } else { x }
}

/// `c[0] + c[1] x + ... + c[7] x^7`, innermost first.
#[inline(always)]
fn horner(c: &[f64; 8], x: f64) -> f64 {
    ((((((c[7] * x + c[6]) * x + c[5]) * x + c[4]) * x + c[3]) * x + c[2]) * x + c[1]) * x + c[0]
}

/// Natural logarithm of a positive normal number by the operations of the recipe alone.
///
/// `x = 2^e m` with m in [sqrt(1/2), sqrt(2)], `ln m = 2 atanh(s)` with `s = (m - 1)/(m + 1)`,
/// `s^2 <= 0.0295`: twelve terms of the series `s + s^3/3 + ...` leave less than 1e-18.
#[inline(always)]
fn ln(x: f64) -> f64 {
    // The upper 32 bits of ln 2, so that their product with an exponent is exact, and the rest.
    const LN2_HI: f64 = f64::from_bits(0x3FE6_2E42_FEE0_0000);
    const LN2_LO: f64 = 1.908_214_929_270_587_7e-10;
    let bits = x.to_bits();
    let mut e = (bits >> 52) as i64 - 1023;
    let mut m = f64::from_bits((bits & 0x000F_FFFF_FFFF_FFFF) | 0x3FF0_0000_0000_0000);
    // Two selections, no branch.
    let large = m > std::f64::consts::SQRT_2;
    m *= if large { 0.5 } else { 1.0 };
    e += i64::from(large);
    let s = (m - 1.0) / (m + 1.0);
    let z = s * s;
    let mut series = 1.0 / 23.0;
    for denominator in [21.0, 19.0, 17.0, 15.0, 13.0, 11.0, 9.0, 7.0, 5.0, 3.0] {
        series = series * z + 1.0 / denominator;
    }
    let e = e as f64;
    e * LN2_HI + (2.0 * s + (2.0 * s * (series * z) + e * LN2_LO))
}

// Numerator and denominator, constant term first. |p - 1/2| <= 0.425, in 0.180625 - (p - 1/2)^2.
#[expect(clippy::excessive_precision, reason = "the paper's digits")]
const CENTRE: ([f64; 8], [f64; 8]) = (
    [
        3.387_132_872_796_366_608,
        133.141_667_891_784_377_45,
        1_971.590_950_306_551_442_7,
        13_731.693_765_509_461_125,
        45_921.953_931_549_871_457,
        67_265.770_927_008_700_853,
        33_430.575_583_588_128_105,
        2_509.080_928_730_122_672_7,
    ],
    [
        1.0,
        42.313_330_701_600_911_252,
        687.187_007_492_057_908_3,
        5_394.196_021_424_751_107_7,
        21_213.794_301_586_595_867,
        39_307.895_800_092_710_61,
        28_729.085_735_721_942_674,
        5_226.495_278_852_854_561,
    ],
);
// min(p, 1 - p) >= e^-25, in sqrt(-ln min(p, 1 - p)) - 1.6.
#[expect(clippy::excessive_precision, reason = "the paper's digits")]
const TAIL: ([f64; 8], [f64; 8]) = (
    [
        1.423_437_110_749_683_577_34,
        4.630_337_846_156_545_295_9,
        5.769_497_221_460_691_405_5,
        3.647_848_324_763_204_605_04,
        1.270_458_252_452_368_382_58,
        2.417_807_251_774_506_117_7e-1,
        2.272_384_498_926_918_458_33e-2,
        7.745_450_142_783_414_076_4e-4,
    ],
    [
        1.0,
        2.053_191_626_637_758_821_87,
        1.676_384_830_183_803_849_4,
        6.897_673_349_851_000_045_5e-1,
        1.481_039_764_274_800_745_9e-1,
        1.519_866_656_361_645_719_66e-2,
        5.475_938_084_995_344_946e-4,
        1.050_750_071_644_416_843_24e-9,
    ],
);
// The rest, in sqrt(-ln min(p, 1 - p)) - 5.
#[expect(clippy::excessive_precision, reason = "the paper's digits")]
const FAR_TAIL: ([f64; 8], [f64; 8]) = (
    [
        6.657_904_643_501_103_777_2,
        5.463_784_911_164_114_369_9,
        1.784_826_539_917_291_335_8,
        2.965_605_718_285_048_912_3e-1,
        2.653_218_952_657_612_309_3e-2,
        1.242_660_947_388_078_438_6e-3,
        2.711_555_568_743_487_578_15e-5,
        2.010_334_399_292_288_132_65e-7,
    ],
    [
        1.0,
        5.998_322_065_558_879_376_9e-1,
        1.369_298_809_227_358_053_1e-1,
        1.487_536_129_085_061_485_25e-2,
        7.868_691_311_456_132_591e-4,
        1.846_318_317_510_054_681_8e-5,
        1.421_511_758_316_445_888_7e-7,
        2.044_263_103_389_939_785_64e-15,
    ],
);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::math::larger;

    #[test]
    fn both_far_tails_are_looked_at_again() {
        // No test draws so far out: the form that fills a batch has to send these to the one that
        // holds there.
        for p in [1e-300, 1e-12, (-25.0f64).exp(), 1.0 - 1e-12, 1.0 - (-25.0f64).exp()] {
            assert!(is_far(p), "{p}");
        }
        assert!([1e-9, 0.1, 0.5, 0.9, 1.0 - 1e-9].iter().all(|p| !is_far(*p)));
    }
    use proptest::prelude::*;
    use statrs::distribution::{ChiSquared, ContinuousCDF, Normal};

    fn normals(seed: u64, stream: u64, n: usize) -> Vec<f64> {
        let mut x = vec![0.0; n];
        Noise::new(seed).fill_normal(stream, &mut x);
        x
    }

    #[test]
    fn philox_known_answers() {
        // The three vectors of Random123's kat_vectors for philox4x32 with 10 rounds.
        assert_eq!(philox4x32([0; 4], [0; 2]), [0x6627e8d5, 0xe169c58d, 0xbc57ac4c, 0x9b00dbd8]);
        assert_eq!(
            philox4x32([u32::MAX; 4], [u32::MAX; 2]),
            [0x408f276d, 0x41c83b0e, 0xa20bc7c6, 0x6d5451fd]
        );
        assert_eq!(
            philox4x32([0x243f6a88, 0x85a308d3, 0x13198a2e, 0x03707344], [0xa4093822, 0x299f31d0]),
            [0xd16cfe09, 0x94fdcceb, 0x5001e420, 0x24126ea1]
        );
    }

    #[test]
    fn addresses_fill_the_counter() {
        // Every bit of seed, stream and index reaches the block function.
        let noise = Noise::new(0x0123_4567_89AB_CDEF);
        let base = noise.bits(5, 10);
        for bit in 0..64 {
            assert_ne!(base, Noise::new(noise.seed() ^ 1 << bit).bits(5, 10), "seed bit {bit}");
            assert_ne!(base, noise.bits(5 ^ 1 << bit, 10), "stream bit {bit}");
            assert_ne!(base, noise.bits(5, 10 ^ 1 << bit), "index bit {bit}");
            assert_ne!(noise.child(3), noise.child(3 ^ 1 << bit), "label bit {bit}");
        }
    }

    #[test]
    fn end_points_of_uniform_are_open() {
        assert_eq!(unit(0), 2f64.powi(-53));
        assert_eq!(unit(u64::MAX), 1.0 - 2f64.powi(-53));
        assert_eq!(normal_quantile(unit(0)), -normal_quantile(unit(u64::MAX)));
        assert!(normal_quantile(unit(0)) > -8.21);
    }

    proptest! {
        #[test]
        fn any_split_gives_the_same_bits(seed: u64, stream: u64, first in 0u64..1 << 40, n in 0usize..300, cut in 0usize..300) {
            let noise = Noise::new(seed);
            let mut whole = vec![0.0; n];
            noise.fill_normal_from(stream, first, &mut whole);
            let (mut a, mut b) = (vec![0.0; cut.min(n)], vec![0.0; n - cut.min(n)]);
            noise.fill_normal_from(stream, first, &mut a);
            noise.fill_normal_from(stream, first + a.len() as u64, &mut b);
            a.extend(b);
            prop_assert_eq!(&whole, &a);
            for (i, x) in whole.iter().enumerate() {
                prop_assert_eq!(x.to_bits(), noise.normal(stream, first + i as u64).to_bits());
            }
        }

        /// The quantile against libm's erfc, an independent route: Phi(x) = p up to the spacing of
        /// x and erfc's own last bits.
        #[test]
        fn quantile_inverts_the_distribution(bits: u64, shift in 0u32..52) {
            let p = unit(bits >> shift);
            let x = normal_quantile(p);
            let cdf = 0.5 * libm::erfc(-x / std::f64::consts::SQRT_2);
            // d ln Phi/d ln x = x phi/Phi is at most 1 + x^2 in the lower half; 8 eps for x itself,
            // x/sqrt 2, erfc and the ratio.
            prop_assert!((cdf - p).abs() <= 8.0 * f64::EPSILON * p * (1.0 + x * x), "p {p} x {x} cdf {cdf}");
            prop_assert_eq!(normal_quantile(1.0 - p), -x);
        }

        #[test]
        fn own_logarithm(mantissa in 1.0f64..2.0, exponent in -1000i32..1000) {
            let x = mantissa * 2f64.powi(exponent);
            prop_assert!((ln(x) - x.ln()).abs() <= 2.0 * f64::EPSILON * x.ln().abs());
        }
    }

    #[test]
    fn long_fills_have_every_value_in_its_place() {
        // Three tasks and a rest, from an odd index.
        let noise = Noise::new(5);
        assert_eq!(noise.seed(), 5);
        let mut x = vec![0.0; 30_001];
        noise.fill_normal_from(9, 77, &mut x);
        assert!(
            x.iter()
                .enumerate()
                .all(|(i, x)| x.to_bits() == noise.normal(9, 77 + i as u64).to_bits())
        );
    }

    #[test]
    fn threads_do_not_matter() {
        let n = 100_001;
        let one = rayon::ThreadPoolBuilder::new()
            .num_threads(1)
            .build()
            .unwrap()
            .install(|| normals(1, 2, n));
        let five = rayon::ThreadPoolBuilder::new()
            .num_threads(5)
            .build()
            .unwrap()
            .install(|| normals(1, 2, n));
        assert!(one.iter().zip(&five).all(|(a, b)| a.to_bits() == b.to_bits()));
    }

    #[test]
    fn moments_within_standard_errors() {
        let n = 1 << 20;
        let x = normals(11, 0, n);
        // Moments of N(0, 1) with the variance of x^k: E x^2k - (E x^k)^2.
        for (k, mean, var) in
            [(1, 0.0, 1.0), (2, 1.0, 2.0), (3, 0.0, 15.0), (4, 3.0, 96.0), (6, 15.0, 10170.0)]
        {
            let m = x.iter().map(|x| x.powi(k)).sum::<f64>() / n as f64;
            let z = (m - mean) / (var / n as f64).sqrt();
            // Five moments at 4 standard errors: a false alarm in 3000 seeds; the seed is fixed.
            assert!(z.abs() <= 4.0, "moment {k}: {m} is {z} standard errors off");
        }
    }

    #[test]
    fn distribution_by_kolmogorov_smirnov_and_chi_square() {
        let n = 1 << 18;
        let mut x = normals(12, 3, n);
        x.sort_by(f64::total_cmp);
        let law = Normal::new(0.0, 1.0).unwrap();
        let ks = x
            .iter()
            .enumerate()
            .map(|(i, x)| (law.cdf(*x) - (i as f64 + 0.5) / n as f64).abs())
            .fold(0.0, larger);
        // Kolmogorov: P(sqrt(n) D > 1.95) = 1e-3.
        assert!((n as f64).sqrt() * ks <= 1.95, "sqrt(n) D = {}", (n as f64).sqrt() * ks);
        // Equal-probability cells, the outer ones included: notices a wrong tail that the supremum
        // does not.
        let cells = 1 << 10;
        let mut counts = vec![0usize; cells];
        x.iter().for_each(|x| counts[((law.cdf(*x) * cells as f64) as usize).min(cells - 1)] += 1);
        let expected = n as f64 / cells as f64;
        let chi2: f64 = counts.iter().map(|c| (*c as f64 - expected).powi(2) / expected).sum();
        let p = ChiSquared::new((cells - 1) as f64).unwrap().sf(chi2);
        assert!((1e-3..=1.0 - 1e-3).contains(&p), "chi-square {chi2}, p = {p}");
    }

    #[test]
    fn every_bit_is_fair_and_neighbours_are_uncorrelated() {
        let (noise, n) = (Noise::new(13), 1u64 << 16);
        let mut ones = [0u64; 64];
        let mut flips = [0u64; 64];
        for i in 0..n {
            let (b, next) = (noise.bits(0, i), noise.bits(0, i + 1));
            for (k, (one, flip)) in ones.iter_mut().zip(&mut flips).enumerate() {
                *one += b >> k & 1;
                *flip += (b ^ next) >> k & 1;
            }
        }
        for count in ones.into_iter().chain(flips) {
            let z = (count as f64 - n as f64 / 2.0) / (n as f64 / 4.0).sqrt();
            // 128 counts at 4.5 standard errors: a false alarm in 1100 seeds.
            assert!(z.abs() <= 4.5, "a bit is {z} standard errors off");
        }
        let n = 1 << 18;
        let x = normals(13, 1, n + 8);
        let others = [
            normals(13, 2, n),
            normals(14, 1, n),
            normals(Noise::new(13).child(0).seed(), 1, n),
            normals(Noise::new(13).child(1).seed(), 1, n),
        ];
        let lagged = (1..8).map(|lag| x[lag..lag + n].to_vec());
        for (k, y) in lagged.chain(others).enumerate() {
            for power in [1, 2] {
                // x^2 - 1 has variance 2: products have variance 1 and 4.
                let centre = |v: f64| if power == 1 { v } else { v * v - 1.0 };
                let sum: f64 = x[..n].iter().zip(&y).map(|(a, b)| centre(*a) * centre(*b)).sum();
                let z = sum / (n as f64).sqrt() / f64::from(power * power);
                assert!(z.abs() <= 4.0, "pair {k}, power {power}: {z} standard errors");
            }
        }
    }

    #[test]
    fn frozen_bits() {
        // What any other implementation of the recipe, a GPU kernel first of all, has to give.
        let noise = Noise::new(2024);
        let got: Vec<u64> = [(0, 0), (0, 1), (7, 1 << 33), (u64::from(u32::MAX) + 1, 3)]
            .map(|(s, i)| noise.normal(s, i).to_bits())
            .to_vec();
        assert_eq!(
            got,
            [0xbfe3bfceaac35996, 0xbff619bbe77b658d, 0x3feb5ad3d962ddbb, 0x400293c710d1b570]
        );
        // One of each branch: near 1/2, centre, tail, tail, far tail. All made by another program
        // in another language.
        assert_eq!(
            [0.5 + 2f64.powi(-53), 0.2, 0.07, 1e-9, 1e-13].map(|p| normal_quantile(p).to_bits()),
            [
                0x3cb40d931ff62707,
                0xbfeaee8fa73a1333,
                0xbff79cd70d9c27f0,
                0xc017fdc11f44b5a7,
                0xc01d652ace3a0130
            ]
        );
        // The last term of the logarithm's series moves a last bit now and then: this sum, made by
        // that program too, sees it.
        let sum = (1..1 << 16)
            .fold(0u64, |sum, i| sum.wrapping_add(ln(f64::from(i) / 65536.0).to_bits()));
        assert_eq!(sum, 0x2e4e6ce912ad60b);
    }

    #[test]
    fn quantiles_at_the_ends_and_of_no_probability() {
        let inf = f64::INFINITY;
        assert_eq!([0.0, 1.0].map(normal_quantile), [-inf, inf]);
        for p in [-0.1, -1e-300, -1.0, -inf, 1.1, 1.0 + f64::EPSILON, 2.0, 1e300, inf, f64::NAN] {
            assert!(normal_quantile(p).is_nan(), "{p}");
        }
    }

    /// Second route: the asymptotic series of the tail's logarithm, good to 1e-13 out there.
    #[test]
    fn quantiles_of_subnormal_probabilities() {
        for p in [f64::from_bits(1), f64::from_bits(3), 1e-320, 1e-310, 2.2e-308, 3e-308] {
            let z = -normal_quantile(p);
            let w = 1.0 / (z * z);
            let series = 1.0 - w * (1.0 - w * (3.0 - w * (15.0 - w * (105.0 - w * 945.0))));
            let log = -0.5 * z * z - (z * std::f64::consts::TAU.sqrt()).ln() + series.ln();
            assert!((log / p.ln() - 1.0).abs() <= 1e-14, "{p:e}: {log} {}", p.ln());
        }
    }
}
