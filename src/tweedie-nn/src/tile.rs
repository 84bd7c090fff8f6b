//! The register tile that the network's products share: P rows by one [`TILE`] of columns, held in
//! vector registers while it is summed.

use super::element::Element;
use pulp::Simd;

/// Columns of a tile: two registers of the widest vectors (AVX-512, f32), so that packed weights do
/// not depend on the machine.
pub const TILE: usize = 32;

/// Runs `$task.run::<S, P, V>(simd)` with tiles of P rows by V registers: as many sums as the
/// registers hold beside V of `b` and one broadcast. With 32 registers P is `$half` where two make
/// a tile, `$quarter` where four do. Where `$narrow` (no more than half a tile of columns is
/// wanted) half of the registers do.
macro_rules! in_tiles {
    ($task:expr, $simd:ident, $half:literal, $quarter:literal, narrow: $narrow:expr) => {
        match (S::REGISTER_COUNT >= 32, $crate::tile::TILE / T::lanes::<S>(), $narrow) {
            (true, 2, false) => $task.run::<S, $half, 2>($simd),
            (true, 2, true) => $task.run::<S, $half, 1>($simd),
            (true, 4, false) => $task.run::<S, $quarter, 4>($simd),
            (true, 4, true) => $task.run::<S, $half, 2>($simd),
            (_, 4, false) => $task.run::<S, 2, 4>($simd),
            (_, 4, true) => $task.run::<S, 4, 2>($simd),
            (_, 8, false) => $task.run::<S, 1, 8>($simd),
            (_, 8, true) => $task.run::<S, 2, 4>($simd),
            (_, 16, _) => $task.run::<S, 1, 16>($simd),
            (_, 32, _) => $task.run::<S, 1, 32>($simd),
            (_, lanes, _) => unreachable!("no vectors of {} / {lanes}", $crate::tile::TILE),
        }
    };
}
pub(super) use in_tiles;

/// P rows of sums, V registers each.
pub type Sums<S, T, const P: usize, const V: usize> = [[<T as Element>::Vector<S>; V]; P];

/// Sums of zero.
#[inline(always)]
pub fn zeros<S: Simd, T: Element, const P: usize, const V: usize>(simd: S) -> Sums<S, T, P, V> {
    [[T::splat(simd, T::zero()); V]; P]
}

/// `sums[i] += a[i] b` for P scalars and the first V vectors of `b`.
#[inline(always)]
pub fn accumulate<S: Simd, T: Element, const P: usize, const V: usize>(
    simd: S,
    sums: &mut Sums<S, T, P, V>,
    a: &[T],
    b: &[T],
) {
    assert!(a.len() >= P && b.len() >= V * T::lanes::<S>());
    // SAFETY: lengths as asserted.
    unsafe {
        let b: [T::Vector<S>; V] = std::array::from_fn(|v| {
            b.as_ptr().add(v * T::lanes::<S>()).cast::<T::Vector<S>>().read_unaligned()
        });
        for (sums, a) in sums.iter_mut().zip(a) {
            let a = T::splat(simd, *a);
            for (sum, b) in sums.iter_mut().zip(&b) {
                *sum = T::mul_add_vector(simd, a, *b, *sum);
            }
        }
    }
}

/// Writes one row of sums into the first V vectors of `out`.
#[inline(always)]
pub fn store<S: Simd, T: Element, const V: usize>(sums: [T::Vector<S>; V], out: &mut [T]) {
    assert!(out.len() >= V * T::lanes::<S>());
    // SAFETY: the length as asserted.
    unsafe { out.as_mut_ptr().cast::<[T::Vector<S>; V]>().write_unaligned(sums) };
}

/// Adds one row of sums to the first V vectors of `out`.
#[inline(always)]
pub fn store_added<S: Simd, T: Element, const V: usize>(
    simd: S,
    sums: [T::Vector<S>; V],
    out: &mut [T],
) {
    assert!(out.len() >= V * T::lanes::<S>());
    let at = out.as_mut_ptr().cast::<[T::Vector<S>; V]>();
    // SAFETY: the length as asserted.
    unsafe {
        let old = at.read_unaligned();
        at.write_unaligned(std::array::from_fn(|v| T::add_vector(simd, old[v], sums[v])));
    }
}

/// An output that tasks write at disjoint places.
#[derive(Clone, Copy)]
pub struct Shared<T>(*mut T, usize);
// SAFETY: only `slice` reaches the numbers, whose caller vouches that no other task touches them.
unsafe impl<T: Send> Send for Shared<T> {}
unsafe impl<T: Send> Sync for Shared<T> {}

impl<T> Shared<T> {
    /// Shares a slice, which stays borrowed as long as the caller of [`Shared::slice`] says.
    pub fn new(x: &mut [T]) -> Self {
        Self(x.as_mut_ptr(), x.len())
    }

    /// `len` numbers from `at` on.
    ///
    /// # Safety
    /// The slice is still there, and no other part of these numbers is in use while this one is.
    #[inline(always)]
    #[allow(clippy::mut_from_ref)]
    pub unsafe fn slice(&self, at: usize, len: usize) -> &mut [T] {
        assert!(at <= self.1 && len <= self.1 - at);
        // SAFETY: in bounds as asserted; the caller vouches for the rest.
        unsafe { std::slice::from_raw_parts_mut(self.0.add(at), len) }
    }
}
