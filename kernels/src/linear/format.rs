//! The packed formats: how 16 rows of weights lie in memory, and how a kernel reads them.
//!
//! A matrix is cut into panels of 16 rows (the last one padded with zero rows); a panel into steps
//! of 32 columns (legacy types) or 256 (K types). Codes lie in 64-byte vectors: "quad" `i` of a
//! sub-block of 32 columns is columns `4 i .. 4 i + 4` of all 16 rows, byte `4 r + t` being row
//! `r`, column `4 i + t`.
//!
//! | piece   | bytes per sub-block | content                                                      |
//! |---------|---------------------|--------------------------------------------------------------|
//! | nibbles | 4 x 64              | vector `g`: quad `g` in the low nibbles, `g + 4` in the high   |
//! | bits    | 64                  | bit `i` of a byte: the byte's place in quad `i`                |
//! | pairs   | 2 x 64              | vector `v`: bits `2 p, 2 p + 1` are quad `4 v + p`             |
//! | bytes   | 8 x 64              | vector `i`: quad `i`                                           |
//!
//! Scales lie beside their codes, sixteen side by side, in the order in which kernels read: one
//! stream of addresses is what the processor fetches ahead. README.md draws every format.
#![allow(clippy::inline_always)]

use super::dot::Dot;
use crate::simd::Simd;

/// Floats on sixteen lanes.
pub(super) type F<D> = <<D as Dot>::S as Simd>::F;

/// One packed format.
///
/// The weight of a code is `(code - OFFSET) * scale - minimum`. In all methods `w` points to a
/// whole step; they read nothing outside of it.
pub(super) trait Format: 'static {
    /// Bytes of a step of 16 rows.
    const BYTES: usize;
    /// Sub-blocks of 32 columns in a step.
    const SUB_BLOCKS: usize;
    /// What is added to codes to make them unsigned: 0 or a power of two up to 128.
    const OFFSET: i32;
    /// Codes reach 128 and above. Implies an offset of 128.
    const IS_FULL: bool = false;
    /// Each half of a sub-block has a scale of its own.
    const HAS_HALVES: bool = false;
    const HAS_MIN: bool = false;

    /// The same weights with a byte per code and float scales: what a panel is expanded to when
    /// many columns of activations pass over it.
    type Expanded: Format;
    /// Whether that pays; codes that take an instruction or two to unpack are as fast as they are.
    const IS_EXPANDABLE: bool = true;

    /// Codes of quad `i` of sub-block `j`.
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, table: D::I) -> D::I;
    /// Scale and minimum of half `half` of sub-block `j`; half 0 where the halves are alike.
    unsafe fn scales<D: Dot>(d: D, w: *const u8, j: usize, half: usize) -> (F<D>, F<D>);
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

/// `[nibbles][d: 16 f16]`
pub(super) struct Q4_0;
/// `[nibbles][d: 16 f16][m: 16 f16]`
pub(super) struct Q4_1;
/// `[nibbles][bits][d: 16 f16]`
pub(super) struct Q5_0;
/// `[nibbles][bits][d: 16 f16][m: 16 f16]`
pub(super) struct Q5_1;
/// `[bytes][d: 16 f16]`
pub(super) struct Q8_0;
/// `[nibbles][d: 16 f16]`, codes looked up
pub(super) struct Iq4Nl;
/// `[nibbles][d: 16 bf16]`, codes looked up
pub(super) struct Mxfp4;
/// `[d: 16 f16][dmin: 16 f16]`, 8 x `[scale and minimum nibbles: 2 x 16 u8][pairs]`
pub(super) struct Q2K;
/// `[d: 16 f16]`, 8 x `[scales: 2 x 16 i8][pairs][bits]`
pub(super) struct Q3K;
/// `[d: 16 f16][dmin: 16 f16]`, 8 x `[scales: 16 u8][minima: 16 u8][nibbles]`
pub(super) struct Q4K;
/// `[d: 16 f16][dmin: 16 f16]`, 8 x `[scales: 16 u8][minima: 16 u8][nibbles][bits]`
pub(super) struct Q5K;
/// `[d: 16 f16]`, 8 x `[scales: 2 x 16 i8][nibbles][pairs]`
pub(super) struct Q6K;
/// `[d: 16 f16]`, 8 x `[scales: 16 i8][nibbles]`, codes looked up
pub(super) struct Iq4Xs;
/// `[d: 16 f32]`, 8 x `[scales: 2 x 16 i8][nibbles]`, codes looked up in a table of the matrix: IQ1,
/// IQ2, IQ3 and TQ
pub(super) struct Book;
/// `[bytes][scale: 16 f32]`, then a scale for the other half, then minima
pub(super) struct Expanded<const FULL: bool, const HALVES: bool, const MIN: bool>;

impl Format for Q4_0 {
    const BYTES: usize = 256 + 32;
    const SUB_BLOCKS: usize = 1;
    const OFFSET: i32 = 8;
    type Expanded = Expanded<false, false, false>;
    const IS_EXPANDABLE: bool = false;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, _: usize, i: usize, _: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe { nibbles(d, w, i) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, _: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        (unsafe { d.load_f16(w.add(256)) }, d.simd().zero())
    }
}

impl Format for Q4_1 {
    const BYTES: usize = 256 + 64;
    const SUB_BLOCKS: usize = 1;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, false, true>;
    const IS_EXPANDABLE: bool = false;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, _: usize, i: usize, _: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe { nibbles(d, w, i) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, _: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        let (scale, m) = unsafe { (d.load_f16(w.add(256)), d.load_f16(w.add(288))) };
        (scale, d.simd().sub(d.simd().zero(), m))
    }
}

impl Format for Q5_0 {
    const BYTES: usize = 256 + 64 + 32;
    const SUB_BLOCKS: usize = 1;
    const OFFSET: i32 = 16;
    type Expanded = Expanded<false, false, false>;
    const IS_EXPANDABLE: bool = false;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, _: usize, i: usize, _: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe { d.or(nibbles(d, w, i), bits(d, w.add(256), i, 4)) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, _: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        (unsafe { d.load_f16(w.add(320)) }, d.simd().zero())
    }
}

impl Format for Q5_1 {
    const BYTES: usize = 256 + 64 + 64;
    const SUB_BLOCKS: usize = 1;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, false, true>;
    const IS_EXPANDABLE: bool = false;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, table: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe { Q5_0::codes(d, w, j, i, table) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, _: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        let (scale, m) = unsafe { (d.load_f16(w.add(320)), d.load_f16(w.add(352))) };
        (scale, d.simd().sub(d.simd().zero(), m))
    }
}

impl Format for Q8_0 {
    const BYTES: usize = 512 + 32;
    const SUB_BLOCKS: usize = 1;
    const OFFSET: i32 = 128;
    const IS_FULL: bool = true;
    type Expanded = Expanded<true, false, false>;
    const IS_EXPANDABLE: bool = false;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, _: usize, i: usize, _: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe { d.load(w.add(64 * i)) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, _: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        (unsafe { d.load_f16(w.add(512)) }, d.simd().zero())
    }
}

impl Format for Iq4Nl {
    const BYTES: usize = 256 + 32;
    const SUB_BLOCKS: usize = 1;
    const OFFSET: i32 = 128;
    const IS_FULL: bool = true;
    type Expanded = Expanded<true, false, false>;
    const IS_EXPANDABLE: bool = false;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, _: usize, i: usize, table: D::I) -> D::I {
        // SAFETY: within the step.
        d.lookup(table, unsafe { nibbles(d, w, i) })
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, _: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        (unsafe { d.load_f16(w.add(256)) }, d.simd().zero())
    }
}

impl Format for Mxfp4 {
    const BYTES: usize = 256 + 32;
    const SUB_BLOCKS: usize = 1;
    const OFFSET: i32 = 64;
    type Expanded = Expanded<false, false, false>;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, _: usize, i: usize, table: D::I) -> D::I {
        // SAFETY: within the step.
        d.lookup(table, unsafe { nibbles(d, w, i) })
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, _: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        (unsafe { d.load_bf16(w.add(256)) }, d.simd().zero())
    }
}

impl Format for Q2K {
    const BYTES: usize = 64 + 8 * (32 + 128);
    const SUB_BLOCKS: usize = 8;
    const OFFSET: i32 = 0;
    const HAS_HALVES: bool = true;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, true, true>;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, _: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe { pairs(d, w.add(64 + 160 * j + 32), i, 0) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, j: usize, half: usize) -> (F<D>, F<D>) {
        // The scale's code is `both - 16 * min`, with `min = floor(both / 16)`: exact in floats.
        let s = d.simd();
        // SAFETY: within the step.
        let (both, factor, min_factor) = unsafe {
            let both = d.load_u8(w.add(64 + 160 * j + 16 * half));
            (both, d.load_f16(w), d.load_f16(w.add(32)))
        };
        // A sixteenth less 15/32 rounds to the floor: never a tie.
        let min = s.round(s.fma(both, s.splat(0.0625), s.splat(-0.468_75)));
        let scale = s.fnma(min, s.splat(16.0), both);
        (s.mul(factor, scale), s.mul(min_factor, min))
    }
}

impl Format for Q3K {
    const BYTES: usize = 32 + 8 * (32 + 192);
    const SUB_BLOCKS: usize = 8;
    const OFFSET: i32 = 4;
    const HAS_HALVES: bool = true;
    type Expanded = Expanded<false, true, false>;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, _: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe {
            let w = w.add(32 + 224 * j + 32);
            d.or(pairs(d, w, i, 0), bits(d, w.add(128), i, 2))
        }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, j: usize, half: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        unsafe { signed_scales(d, w.add(32 + 224 * j + 16 * half), d.load_f16(w)) }
    }
}

impl Format for Q4K {
    const BYTES: usize = 64 + 8 * (32 + 256);
    const SUB_BLOCKS: usize = 8;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, false, true>;
    const IS_EXPANDABLE: bool = false;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, _: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe { nibbles(d, w.add(64 + 288 * j + 32), i) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, j: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        unsafe { k4_scales(d, w, w.add(64 + 288 * j)) }
    }
}

impl Format for Q5K {
    const BYTES: usize = 64 + 8 * (32 + 320);
    const SUB_BLOCKS: usize = 8;
    const OFFSET: i32 = 0;
    const HAS_MIN: bool = true;
    type Expanded = Expanded<false, false, true>;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, table: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe { Q5_0::codes(d, w.add(64 + 352 * j + 32), 0, i, table) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, j: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        unsafe { k4_scales(d, w, w.add(64 + 352 * j)) }
    }
}

impl Format for Q6K {
    const BYTES: usize = 32 + 8 * (32 + 384);
    const SUB_BLOCKS: usize = 8;
    const OFFSET: i32 = 32;
    const HAS_HALVES: bool = true;
    type Expanded = Expanded<false, true, false>;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, _: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe {
            let w = w.add(32 + 416 * j + 32);
            d.or(nibbles(d, w, i), pairs(d, w.add(256), i, 4))
        }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, j: usize, half: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        unsafe { signed_scales(d, w.add(32 + 416 * j + 16 * half), d.load_f16(w)) }
    }
}

impl Format for Iq4Xs {
    const BYTES: usize = 32 + 8 * (16 + 256);
    const SUB_BLOCKS: usize = 8;
    const OFFSET: i32 = 128;
    const IS_FULL: bool = true;
    type Expanded = Expanded<true, false, false>;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, table: D::I) -> D::I {
        // SAFETY: within the step.
        d.lookup(table, unsafe { nibbles(d, w.add(32 + 272 * j + 16), i) })
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, j: usize, _: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        unsafe { signed_scales(d, w.add(32 + 272 * j), d.load_f16(w)) }
    }
}

impl Format for Book {
    const BYTES: usize = 64 + 8 * (32 + 256);
    const SUB_BLOCKS: usize = 8;
    const OFFSET: i32 = 64;
    const HAS_HALVES: bool = true;
    type Expanded = Expanded<false, true, false>;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, j: usize, i: usize, table: D::I) -> D::I {
        // SAFETY: within the step.
        d.lookup(table, unsafe { nibbles(d, w.add(64 + 288 * j + 32), i) })
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, j: usize, half: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        unsafe { signed_scales(d, w.add(64 + 288 * j + 16 * half), d.load_f32(w)) }
    }
}

impl<const FULL: bool, const HALVES: bool, const MIN: bool> Expanded<FULL, HALVES, MIN> {
    const NUM_SCALES: usize = if HALVES { 2 } else { 1 };
    /// Where the minima start.
    const MINIMA: usize = 512 + 64 * Self::NUM_SCALES;
}

impl<const FULL: bool, const HALVES: bool, const MIN: bool> Format for Expanded<FULL, HALVES, MIN> {
    const BYTES: usize = Self::MINIMA + if MIN { 64 * Self::NUM_SCALES } else { 0 };
    const SUB_BLOCKS: usize = 1;
    const OFFSET: i32 = if FULL { 128 } else { 64 };
    const IS_FULL: bool = FULL;
    const HAS_HALVES: bool = HALVES;
    const HAS_MIN: bool = MIN;
    type Expanded = Self;
    const IS_EXPANDABLE: bool = false;

    #[inline(always)]
    unsafe fn codes<D: Dot>(d: D, w: *const u8, _: usize, i: usize, _: D::I) -> D::I {
        // SAFETY: within the step.
        unsafe { d.load(w.add(64 * i)) }
    }

    #[inline(always)]
    unsafe fn scales<D: Dot>(d: D, w: *const u8, _: usize, half: usize) -> (F<D>, F<D>) {
        // SAFETY: within the step.
        unsafe {
            let scale = d.load_f32(w.add(512 + 64 * half));
            let min =
                if MIN { d.load_f32(w.add(Self::MINIMA + 64 * half)) } else { d.simd().zero() };
            (scale, min)
        }
    }
}

/// `factor` times the 16 signed scales at `scales`.
#[inline(always)]
unsafe fn signed_scales<D: Dot>(d: D, scales: *const u8, factor: F<D>) -> (F<D>, F<D>) {
    // SAFETY: the scales lie there, by the caller's promise.
    let scale = unsafe { d.load_i8(scales) };
    (d.simd().mul(factor, scale), d.simd().zero())
}

/// Scales and minima of a sub-block of Q4_K or Q5_K: their factors lie at `w`, they at `scales`.
#[inline(always)]
unsafe fn k4_scales<D: Dot>(d: D, w: *const u8, scales: *const u8) -> (F<D>, F<D>) {
    // SAFETY: all of it lies there, by the caller's promise.
    unsafe {
        let scale = d.simd().mul(d.load_f16(w), d.load_u8(scales));
        let min = d.simd().mul(d.load_f16(w.add(32)), d.load_u8(scales.add(16)));
        (scale, min)
    }
}
