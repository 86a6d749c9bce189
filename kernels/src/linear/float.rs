//! The matrix product of weights that stay floats: F32, F16, BF16.
//!
//! A panel holds 16 weights, one of each row, per column. Columns are added one after another with
//! a fused multiply-add each, in every tile width and tier. An addition waits for the one before, so
//! several panels run side by side where few columns leave the processor waiting.
#![allow(clippy::inline_always)]

use std::marker::PhantomData;

use super::dot::Dot;
use super::format::F;
use super::kernel::{Tile, store};
use super::layout::PANEL;
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

/// Panels that a kernel takes side by side, at most.
pub(super) const PANELS: usize = 4;

/// Computes `columns` columns for `panels` (4, 2 or 1) panels that follow one another;
/// `tile.num_steps` is the number of columns of the matrix, and `tile.floats` has `tile.width`
/// floats for each of those.
///
/// # Safety
/// As for [`super::kernel::multiply`]; `tile.num_rows` counts the rows of all panels.
#[inline]
pub(super) unsafe fn multiply<T: FloatFormat>(
    tier: Tier,
    columns: usize,
    panels: usize,
    tile: &Tile,
) {
    macro_rules! shapes {
        ($(($c:literal, $p:literal)),*) => {
            match (columns, panels) {
                $(($c, $p) => dispatch(tier, Multiply::<T, $c, $p>(tile, PhantomData)),)*
                _ => unreachable!("a tile has at most 8 columns: this is a bug"),
            }
        };
    }
    shapes!(
        (1, 1),
        (2, 1),
        (3, 1),
        (4, 1),
        (5, 1),
        (6, 1),
        (7, 1),
        (8, 1), //
        (1, 2),
        (2, 2),
        (3, 2),
        (4, 2),
        (5, 2),
        (6, 2),
        (7, 2),
        (8, 2),
        (1, 4)
    );
}

struct Multiply<'a, T, const C: usize, const P: usize>(&'a Tile, PhantomData<T>);

impl<T: FloatFormat, const C: usize, const P: usize> Work for Multiply<'_, T, C, P> {
    type Out = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        if const { C > D::COLUMNS } {
            unreachable!("a tier is asked for its columns: this is a bug");
        }
        let (t, s) = (self.0, d.simd());
        let mut sums = [[s.zero(); C]; P];
        let panel_bytes = t.num_steps * T::BYTES;
        // SAFETY: promised by the caller of `multiply`.
        unsafe {
            let mut w = t.weights;
            let mut x = t.floats.add(4 * t.first);
            let mut fetches = [t.fetch; P];
            for (p, fetch) in fetches.iter_mut().enumerate() {
                fetch.next = fetch.next.wrapping_add(p * panel_bytes);
            }
            for i in 0..t.num_steps {
                if i % (64 / T::BYTES) == 0 {
                    for fetch in &mut fetches {
                        fetch.some();
                    }
                }
                for (p, sums) in sums.iter_mut().enumerate() {
                    let weights = T::load(d, w.add(p * panel_bytes));
                    for (c, sum) in sums.iter_mut().enumerate() {
                        *sum = s.fma(weights, d.broadcast_f32(x.add(4 * c)), *sum);
                    }
                }
                w = w.add(T::BYTES);
                x = x.add(4 * t.width);
            }
            for (p, sums) in sums.into_iter().enumerate() {
                let num_rows = (t.num_rows - PANEL * p).min(PANEL);
                for (c, sum) in sums.into_iter().enumerate() {
                    store(d, sum, t.out.add(c * t.stride + PANEL * p), num_rows);
                }
            }
        }
    }
}
