//! Sixteen `f32` lanes, the same on every processor.
//!
//! Kernels are written once, generic over [`Simd`], and run on AVX-512, AVX2 or plain Rust through
//! [`dispatch`]. A lane type always has sixteen lanes and every operation rounds as IEEE 754 asks,
//! so a kernel gives the same bits on every tier: only the speed differs. (The one exception is
//! `Portable<false>`, for x86 processors without FMA, where `fma` rounds twice.)
//!
//! Methods are `#[inline(always)]`: a call that is not inlined into the `#[target_feature]`
//! function of [`dispatch`] would pass vectors through memory.
#![allow(clippy::inline_always)]

mod level;
#[cfg(target_arch = "aarch64")]
mod neon;
mod portable;
#[cfg(target_arch = "x86_64")]
mod x86;

pub(crate) use level::{Kernel, Level, dispatch};
pub(crate) use portable::Portable;
#[cfg(target_arch = "x86_64")]
pub(crate) use x86::{Avx2, Avx512};

/// Lanes of a [`Simd::F`].
pub(crate) const LANES: usize = 16;

/// A token that proves that the processor has the instructions, and the operations on sixteen lanes.
pub(crate) trait Simd: Copy + Send + Sync + 'static {
    /// Sixteen `f32`.
    type F: Copy;
    /// Sixteen booleans.
    type M: Copy;

    /// How many `F` the register file holds; kernels choose their tile by it.
    const REGISTERS: usize;

    fn splat(self, x: f32) -> Self::F;
    fn load(self, x: &[f32; LANES]) -> Self::F;
    fn store(self, x: Self::F, out: &mut [f32; LANES]);
    /// Sixteen IEEE half floats, widened exactly.
    fn load_f16(self, x: &[u16; LANES]) -> Self::F;
    /// Rounds to half floats, ties to even.
    fn store_f16(self, x: Self::F, out: &mut [u16; LANES]);

    fn add(self, a: Self::F, b: Self::F) -> Self::F;
    fn sub(self, a: Self::F, b: Self::F) -> Self::F;
    fn mul(self, a: Self::F, b: Self::F) -> Self::F;
    fn div(self, a: Self::F, b: Self::F) -> Self::F;
    /// `a * b + c`, rounded once.
    fn fma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `c - a * b`, rounded once.
    fn fnma(self, a: Self::F, b: Self::F, c: Self::F) -> Self::F;
    /// `if a > b { a } else { b }`: the second operand when either is NaN.
    fn max(self, a: Self::F, b: Self::F) -> Self::F;
    /// `if a < b { a } else { b }`: the second operand when either is NaN.
    fn min(self, a: Self::F, b: Self::F) -> Self::F;
    /// To the nearest integer, ties to even.
    fn round(self, a: Self::F) -> Self::F;
    fn abs(self, a: Self::F) -> Self::F;
    /// `|magnitude|` with the sign of `sign`.
    fn copy_sign(self, magnitude: Self::F, sign: Self::F) -> Self::F;
    /// `x * 2^n` for an integral `n` in -252..=254.
    fn scale_by_pow2(self, x: Self::F, n: Self::F) -> Self::F;

    fn less(self, a: Self::F, b: Self::F) -> Self::M;
    /// Lanes `first <= i < last`.
    fn lanes(self, first: usize, last: usize) -> Self::M;
    /// `mask ? yes : no`.
    fn select(self, mask: Self::M, yes: Self::F, no: Self::F) -> Self::F;
    /// Bit `i` is lane `i`.
    #[cfg(test)]
    fn bits(self, mask: Self::M) -> u16;

    /// Halves added together until one lane is left: 8, 4, 2, 1.
    fn reduce_add(self, x: Self::F) -> f32;
    /// The largest lane, in the same order as [`Self::reduce_add`].
    fn reduce_max(self, x: Self::F) -> f32;

    /// [`Self::reduce_add`] of four, where no order of additions rounds.
    #[inline(always)]
    fn reduce_add4(self, x: [Self::F; 4]) -> [f32; 4] {
        [self.reduce_add(x[0]), self.reduce_add(x[1]), self.reduce_add(x[2]), self.reduce_add(x[3])]
    }

    /// [`Self::reduce_max`] of four. A lane that is not a number may or may not win.
    #[inline(always)]
    fn reduce_max4(self, x: [Self::F; 4]) -> [f32; 4] {
        [self.reduce_max(x[0]), self.reduce_max(x[1]), self.reduce_max(x[2]), self.reduce_max(x[3])]
    }

    #[inline(always)]
    fn zero(self) -> Self::F {
        self.splat(0.0)
    }

    /// The first lanes from `x` (at most sixteen), zero above.
    #[inline(always)]
    fn load_part(self, x: &[f32]) -> Self::F {
        let mut lanes = [0.0; LANES];
        lanes[..x.len()].copy_from_slice(x);
        self.load(&lanes)
    }

    /// The first `out.len()` lanes (at most sixteen).
    #[inline(always)]
    fn store_part(self, x: Self::F, out: &mut [f32]) {
        let mut lanes = [0.0; LANES];
        self.store(x, &mut lanes);
        out.copy_from_slice(&lanes[..out.len()]);
    }
}

#[cfg(test)]
mod tests;
