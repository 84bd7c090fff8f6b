//! Plain loops compiled for the vectors that this machine has.

use pulp::{Arch, Simd, WithSimd};

/// Runs `f` compiled for the widest vectors there are, chosen at run time.
///
/// The compiler only vectorises what it can see: whatever `f` calls must be inlined into it
/// (`#[inline(always)]`), and loops are written with `for`, because an iterator's `for_each` and
/// `fold` are calls. It never fuses a multiplication with an addition by itself, so the bits do not
/// depend on the machine.
///
/// # Example
/// ```
/// let mut x = [1.0, 2.0, 3.0];
/// tweedie::math::simd::vectorised(#[inline(always)] || for x in &mut x { *x = *x * *x + 1.0 });
/// assert_eq!(x, [2.0, 5.0, 10.0]);
/// ```
pub fn vectorised<R>(f: impl FnOnce() -> R) -> R {
    struct Plain<F>(F);
    impl<R, F: FnOnce() -> R> WithSimd for Plain<F> {
        type Output = R;

        #[inline(always)]
        fn with_simd<S: Simd>(self, _: S) -> R {
            (self.0)()
        }
    }
    Arch::new().dispatch(Plain(f))
}
