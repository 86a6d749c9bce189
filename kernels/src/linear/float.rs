//! The matrix product of weights that stay floats: F32, F16, BF16.
//!
//! A panel holds 16 weights, one of each row, per column. Columns are added one after another with
//! a fused multiply-add each, in every tile width and tier.
#![allow(clippy::inline_always)]

use std::marker::PhantomData;

use super::dot::Dot;
use super::format::F;
use super::kernel::{Tile, store};
use super::tiers::{Work, dispatch};
use crate::detect::Tier;
use crate::simd::Simd;

/// A packed float format.
pub(super) trait FloatFormat: 'static {
    /// Bytes of 16 weights.
    const BYTES: usize;

    unsafe fn load<D: Dot>(d: D, w: *const u8) -> F<D>;
}

pub(super) struct F32;
pub(super) struct F16;
pub(super) struct Bf16;

impl FloatFormat for F32 {
    const BYTES: usize = 64;

    #[inline(always)]
    unsafe fn load<D: Dot>(d: D, w: *const u8) -> F<D> {
        // SAFETY: 16 weights lie at `w`.
        unsafe { d.load_f32(w) }
    }
}

impl FloatFormat for F16 {
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn load<D: Dot>(d: D, w: *const u8) -> F<D> {
        // SAFETY: 16 weights lie at `w`.
        unsafe { d.load_f16(w) }
    }
}

impl FloatFormat for Bf16 {
    const BYTES: usize = 32;

    #[inline(always)]
    unsafe fn load<D: Dot>(d: D, w: *const u8) -> F<D> {
        // SAFETY: 16 weights lie at `w`.
        unsafe { d.load_bf16(w) }
    }
}

/// Computes `columns` columns; `tile.num_steps` is the number of columns of the matrix, and
/// `tile.floats` has `tile.width` floats for each of those.
///
/// # Safety
/// As for [`super::kernel::multiply`].
#[inline]
pub(super) unsafe fn multiply<T: FloatFormat>(tier: Tier, columns: usize, tile: &Tile) {
    macro_rules! columns {
        ($($c:literal),*) => {
            match columns {
                $($c => dispatch(tier, Multiply::<T, $c>(tile, PhantomData)),)*
                _ => unreachable!("a tile has at most 8 columns: this is a bug"),
            }
        };
    }
    columns!(1, 2, 3, 4, 5, 6, 7, 8);
}

struct Multiply<'a, T, const C: usize>(&'a Tile, PhantomData<T>);

impl<T: FloatFormat, const C: usize> Work for Multiply<'_, T, C> {
    type Out = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        if const { C > D::COLUMNS } {
            unreachable!("a tier is asked for its columns: this is a bug");
        }
        let (t, s) = (self.0, d.simd());
        let mut sums = [s.zero(); C];
        // SAFETY: promised by the caller of `multiply`.
        unsafe {
            let mut w = t.weights;
            let mut x = t.floats.add(4 * t.first);
            for _ in 0..t.num_steps {
                let weights = T::load(d, w);
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum = s.fma(weights, d.broadcast_f32(x.add(4 * c)), *sum);
                }
                w = w.add(T::BYTES);
                x = x.add(4 * t.width);
            }
            for (c, sum) in sums.into_iter().enumerate() {
                store(d, sum, t.out.add(c * t.stride), t.num_rows);
            }
        }
    }
}
