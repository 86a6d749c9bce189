//! The packed formats: how a kernel reads them. Where their parts lie says [`super::layout`].
#![allow(clippy::inline_always)]

use super::dot::Dot;
use super::layout::{self, Codes, Layout, Scales};
use crate::simd::Simd;

/// Floats on sixteen lanes.
pub(super) type F<D> = <<D as Dot>::S as Simd>::F;

/// One packed format.
///
/// The weight of a code is `(code - OFFSET) * scale - minimum`.
pub(super) trait Format: 'static {
    const LAYOUT: Layout;
    /// What is added to codes to make them unsigned: 0 or a power of two up to 128.
    const OFFSET: i32;
    /// Codes reach 128 and above. Implies an offset of 128.
    const IS_FULL: bool = false;
    /// Stored codes are places in a table of 16.
    const IS_LOOKED_UP: bool = false;
    /// Each half of a sub-block has a scale of its own.
    const HAS_HALVES: bool = false;
    const HAS_MIN: bool = false;

    /// The same weights with a byte per code and float scales: what a panel is expanded to when
    /// many columns of activations pass over it.
    type Expanded: Format;
    /// Whether that pays; codes that take an instruction or two to unpack are as fast as they are.
    const IS_EXPANDABLE: bool = true;

    /// Bytes of a step of 16 rows.
    const BYTES: usize = Self::LAYOUT.bytes();
    /// Sub-blocks of 32 columns in a step.
    const SUB_BLOCKS: usize = Self::LAYOUT.sub_blocks;

    /// Codes of quad `i` of sub-block `j`.
    ///
    /// # Safety
    /// `w` must point to a whole step.
    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, table: D::I) -> D::I {
        // A condition that is a constant of the format leaves nothing of the other branches to compile.
        macro_rules! are {
            ($codes:ident) => {
                const { matches!(Self::LAYOUT.codes, Codes::$codes) }
            };
        }
        let layout = const { Self::LAYOUT };
        // SAFETY: within the step.
        let codes = unsafe {
            let (low, high) = (w.add(layout.codes_of(j)), w.wrapping_add(layout.high_of(j)));
            if are!(Nibbles) {
                nibbles(d, low, i)
            } else if are!(NibblesBits) {
                d.or(nibbles(d, low, i), bits(d, high, i, 4))
            } else if are!(NibblesPairs) {
                d.or(nibbles(d, low, i), pairs(d, high, i, 4))
            } else if are!(Pairs) {
                pairs(d, low, i, 0)
            } else if are!(PairsBits) {
                d.or(pairs(d, low, i, 0), bits(d, high, i, 2))
            } else {
                d.load(low.add(64 * i))
            }
        };
        if const { Self::IS_LOOKED_UP } { d.lookup(table, codes) } else { codes }
    }

    /// Scale and minimum of half `half` of sub-block `j`; half 0 where the halves are alike.
    ///
    /// # Safety
    /// `w` must point to a whole step.
    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, j: usize, half: usize) -> (F<D>, F<D>) {
        macro_rules! are {
            ($scales:ident) => {
                const { matches!(Self::LAYOUT.scales, Scales::$scales) }
            };
        }
        let (layout, s) = (const { Self::LAYOUT }, d.simd());
        // SAFETY: within the step.
        unsafe {
            let (factor, min_factor) = (w.add(layout.d), w.wrapping_add(layout.dmin));
            let own = w.wrapping_add(layout.scales_of(j, half));
            if are!(Halves) {
                let scale = d.load_f16(factor);
                if const { Self::HAS_MIN } {
                    return (scale, s.sub(s.zero(), d.load_f16(min_factor)));
                }
                (scale, s.zero())
            } else if are!(Bfloats) {
                (d.load_bf16(factor), s.zero())
            } else if are!(Signed) {
                (s.mul(d.load_f16(factor), d.load_i8(own)), s.zero())
            } else if are!(SignedFloats) {
                (s.mul(d.load_f32(factor), d.load_i8(own)), s.zero())
            } else if are!(Unsigned) {
                let minima = w.add(layout.scales_of(j, 1));
                let scale = s.mul(d.load_f16(factor), d.load_u8(own));
                (scale, s.mul(d.load_f16(min_factor), d.load_u8(minima)))
            } else if are!(Nibbles) {
                // The scale's code is `both - 16 * min`, with `min = floor(both / 16)`: exact in
                // floats. A sixteenth less 15/32 rounds to the floor: never a tie.
                let both = d.load_u8(own);
                let min = s.round(s.fma(both, s.splat(0.0625), s.splat(-0.468_75)));
                let scale = s.fnma(min, s.splat(16.0), both);
                (s.mul(d.load_f16(factor), scale), s.mul(d.load_f16(min_factor), min))
            } else {
                let scale = d.load_f32(factor.add(64 * half));
                if const { Self::HAS_MIN } {
                    return (scale, d.load_f32(min_factor.add(64 * half)));
                }
                (scale, s.zero())
            }
        }
    }
}

/// Codes of a sub-block at `w`, stored as nibbles.
#[inline(always)]
unsafe fn nibbles<D: Dot>(d: D, w: *const u8, i: usize) -> D::I {
    // SAFETY: four vectors lie at `w`, by the caller's promise.
    let vector = unsafe { d.load(w.add(64 * (i % 4))) };
    let vector = if i < 4 { vector } else { d.shift(vector, -4) };
    d.and(vector, d.splat_byte(15))
}

/// Bit `to` of every byte of quad `i` from the vector of bits at `w`, the other bits zero.
#[inline(always)]
unsafe fn bits<D: Dot>(d: D, w: *const u8, i: usize, to: i32) -> D::I {
    // SAFETY: a vector lies at `w`, by the caller's promise.
    let vector = unsafe { d.load(w) };
    d.and(d.shift(vector, to - i as i32), d.splat_byte(1 << to))
}

/// Bits `to` and `to + 1` of every byte of quad `i` from the pairs at `w`, the others zero.
#[inline(always)]
unsafe fn pairs<D: Dot>(d: D, w: *const u8, i: usize, to: i32) -> D::I {
    // SAFETY: two vectors lie at `w`, by the caller's promise.
    let vector = unsafe { d.load(w.add(64 * (i / 4))) };
    d.and(d.shift(vector, to - 2 * (i % 4) as i32), d.splat_byte(3 << to))
}

/// Codes in bytes, as [`Layout::expanded`] says.
pub(super) struct Expanded<const FULL: bool, const HALVES: bool, const MIN: bool>;

impl<const FULL: bool, const HALVES: bool, const MIN: bool> Format for Expanded<FULL, HALVES, MIN> {
    const LAYOUT: Layout = Layout::expanded(if HALVES { 2 } else { 1 }, MIN);
    const OFFSET: i32 = if FULL { 128 } else { 64 };
    const IS_FULL: bool = FULL;
    const HAS_HALVES: bool = HALVES;
    const HAS_MIN: bool = MIN;
    type Expanded = Self;
    const IS_EXPANDABLE: bool = false;
}

pub(super) struct Q4_0;
pub(super) struct Q4_1;
pub(super) struct Q5_0;
pub(super) struct Q5_1;
pub(super) struct Q8_0;
pub(super) struct Iq4Nl;
pub(super) struct Mxfp4;
pub(super) struct Q2K;
pub(super) struct Q3K;
pub(super) struct Q4K;
pub(super) struct Q5K;
pub(super) struct Q6K;
pub(super) struct Iq4Xs;
pub(super) struct Book;

impl Format for Q4_0 {
    const LAYOUT: Layout = layout::Q4_0;
    const OFFSET: i32 = 8;
    type Expanded = Expanded<false, false, false>;
    const IS_EXPANDABLE: bool = false;
}

impl Format for Q4_1 {
    const LAYOUT: Layout = layout::Q4_1;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, false, true>;
    const IS_EXPANDABLE: bool = false;
}

impl Format for Q5_0 {
    const LAYOUT: Layout = layout::Q5_0;
    const OFFSET: i32 = 16;
    type Expanded = Expanded<false, false, false>;
    const IS_EXPANDABLE: bool = false;
}

impl Format for Q5_1 {
    const LAYOUT: Layout = layout::Q5_1;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, false, true>;
    const IS_EXPANDABLE: bool = false;
}

impl Format for Q8_0 {
    const LAYOUT: Layout = layout::Q8_0;
    const OFFSET: i32 = 128;
    const IS_FULL: bool = true;
    type Expanded = Expanded<true, false, false>;
    const IS_EXPANDABLE: bool = false;
}

impl Format for Iq4Nl {
    const LAYOUT: Layout = layout::Q4_0;
    const OFFSET: i32 = 128;
    const IS_FULL: bool = true;
    const IS_LOOKED_UP: bool = true;
    type Expanded = Expanded<true, false, false>;
    const IS_EXPANDABLE: bool = false;
}

impl Format for Mxfp4 {
    const LAYOUT: Layout = layout::MXFP4;
    const OFFSET: i32 = 64;
    const IS_LOOKED_UP: bool = true;
    type Expanded = Expanded<false, false, false>;
}

impl Format for Q2K {
    const LAYOUT: Layout = layout::Q2_K;
    const OFFSET: i32 = 0;
    const HAS_HALVES: bool = true;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, true, true>;
}

impl Format for Q3K {
    const LAYOUT: Layout = layout::Q3_K;
    const OFFSET: i32 = 4;
    const HAS_HALVES: bool = true;
    type Expanded = Expanded<false, true, false>;
}

impl Format for Q4K {
    const LAYOUT: Layout = layout::Q4_K;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, false, true>;
    const IS_EXPANDABLE: bool = false;
}

impl Format for Q5K {
    const LAYOUT: Layout = layout::Q5_K;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, false, true>;
}

impl Format for Q6K {
    const LAYOUT: Layout = layout::Q6_K;
    const OFFSET: i32 = 32;
    const HAS_HALVES: bool = true;
    type Expanded = Expanded<false, true, false>;
}

impl Format for Iq4Xs {
    const LAYOUT: Layout = layout::IQ4_XS;
    const OFFSET: i32 = 128;
    const IS_FULL: bool = true;
    const IS_LOOKED_UP: bool = true;
    type Expanded = Expanded<true, false, false>;
}

impl Format for Book {
    const LAYOUT: Layout = layout::BOOK;
    const OFFSET: i32 = 64;
    const HAS_HALVES: bool = true;
    const IS_LOOKED_UP: bool = true;
    type Expanded = Expanded<false, true, false>;
}
