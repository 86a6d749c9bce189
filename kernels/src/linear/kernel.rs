//! The matrix product of one panel of 16 rows, written once for all formats and tiers.
//!
//! Per row of weights and column of activations, sub-blocks of 32 are taken in rising order:
//! products are summed in integers (exact, so any order will do), then
//! `sum = fma(integer, scale_w * scale_a, sum)`, then, in formats with minima,
//! `sum = fma(minimum, -scale_a * sum_of_quants, sum)`. Where halves of a sub-block have scales of
//! their own, they are added up first and multiplied by `scale_a` together. This sequence is the same in every kernel,
//! which makes results independent of tile width, tier, threads and of expansion.
#![allow(clippy::inline_always)]

use std::marker::PhantomData;

use super::dot::Dot;
use super::format::{F, Format};
use super::layout::{BLOCK_BYTES, TILE};
use super::tiers::{Work, dispatch};
use crate::detect::Tier;
use crate::memory::prefetch;
use crate::simd::Simd;

/// Weights that will be wanted soon, which are fetched bit by bit while others are multiplied.
#[derive(Clone, Copy)]
pub(super) struct Fetch {
    pub next: *const u8,
    /// Bytes to fetch with each sub-block.
    pub len: usize,
    pub end: *const u8,
}

impl Fetch {
    pub(super) const NONE: Fetch = Fetch { next: std::ptr::null(), len: 0, end: std::ptr::null() };

    #[inline(always)]
    pub(super) fn some(&mut self) {
        if self.next < self.end {
            prefetch(self.next, self.len);
            self.next = self.next.wrapping_add(self.len);
        }
    }
}

/// One panel, or two side by side, against some columns of one tile of activations.
#[derive(Clone, Copy)]
pub(super) struct Tile {
    /// The panel's first step.
    pub weights: *const u8,
    pub num_steps: usize,
    /// Bytes from there to the panel beside.
    pub panel_bytes: usize,
    /// The 64 bytes of the codebook.
    pub table: *const u8,
    /// The tile's first block.
    pub quants: *const u8,
    /// The tile as floats.
    pub floats: *const u8,
    /// Columns of the tile.
    pub width: usize,
    /// The first of the columns wanted.
    pub first: usize,
    /// Where the panel's first row goes for that column.
    pub out: *mut f32,
    /// Floats from one column's output to the next one's.
    pub stride: usize,
    /// Rows of the panels that exist.
    pub num_rows: usize,
    /// Weights that follow.
    pub fetch: Fetch,
    /// 16 floats a column, panel after panel, that hold sums from one part of a panel's columns to the
    /// next, from the first wanted column on; never followed if both of the below are true.
    pub sums: *mut f32,
    pub is_first: bool,
    pub is_last: bool,
}

/// Columns that a kernel takes with two panels.
pub(super) const COLUMNS_OF_TWO: usize = 4;

/// Computes `columns` (at most 8, at most what the tier takes at once) columns for `panels`: one, or
/// two with [`COLUMNS_OF_TWO`] where [`tiers::takes_two_panels`](super::tiers::takes_two_panels).
///
/// # Safety
/// `tile` must describe memory as the packer and the activation quantiser lay it out for `T`, and
/// no one else may access the outputs.
#[inline]
pub(super) unsafe fn multiply<T: Format>(tier: Tier, columns: usize, panels: usize, tile: &Tile) {
    macro_rules! columns {
        ($($c:literal),*) => {
            match (columns, panels) {
                $(($c, 1) => dispatch(tier, Multiply::<T, $c, 1>(tile, PhantomData)),)*
                (COLUMNS_OF_TWO, 2) => {
                    dispatch(tier, Multiply::<T, COLUMNS_OF_TWO, 2>(tile, PhantomData));
                }
                _ => unreachable!("a tile has at most 8 columns: this is a bug"),
            }
        };
    }
    columns!(1, 2, 3, 4, 5, 6, 7, 8);
}

struct Multiply<'a, T, const C: usize, const P: usize>(&'a Tile, PhantomData<T>);

impl<T: Format, const C: usize, const P: usize> Work for Multiply<'_, T, C, P> {
    type Out = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        if const { C > D::COLUMNS || (P == 2 && !D::TAKES_TWO_PANELS) } {
            unreachable!("a tier is asked for its columns and panels: this is a bug");
        }
        // SAFETY: promised by the caller of `multiply`.
        unsafe { tile::<D, T, C, P>(d, self.0) }
    }
}

/// Where the parts of a block of activations lie for the first wanted column. The columns follow
/// one another in each part.
#[derive(Clone, Copy)]
struct Block {
    /// 32 quants a column.
    quants: *const u8,
    /// Four parts of `part` bytes each: scale, negated sum, negated sum of the lower half,
    /// scale times negated sum.
    parts: *const u8,
    part: usize,
}

impl Block {
    #[inline(always)]
    unsafe fn scale<D: Dot>(self, d: D, c: usize) -> F<D> {
        // SAFETY: within the block.
        unsafe { d.broadcast_f32(self.parts.add(4 * c)) }
    }

    #[inline(always)]
    unsafe fn negated_sum<D: Dot>(self, d: D, c: usize) -> D::I {
        // SAFETY: within the block.
        unsafe { d.broadcast(self.parts.add(self.part + 4 * c)) }
    }

    #[inline(always)]
    unsafe fn negated_half_sum<D: Dot>(self, d: D, c: usize, half: usize) -> D::I {
        // SAFETY: within the block.
        let lower = unsafe { d.broadcast(self.parts.add(2 * self.part + 4 * c)) };
        if half == 0 {
            return lower;
        }
        // SAFETY: within the block.
        d.sub(unsafe { self.negated_sum(d, c) }, lower)
    }

    #[inline(always)]
    unsafe fn scaled_sum<D: Dot>(self, d: D, c: usize) -> F<D> {
        // SAFETY: within the block.
        unsafe { d.broadcast_f32(self.parts.add(3 * self.part + 4 * c)) }
    }

    #[inline(always)]
    unsafe fn next(self, width: usize) -> Block {
        // SAFETY: at most one past the last block.
        unsafe {
            Block {
                quants: self.quants.add(width * BLOCK_BYTES),
                parts: self.parts.add(width * BLOCK_BYTES),
                part: self.part,
            }
        }
    }
}

/// Adds the products of the quads `$i` to the accumulators. With few columns two chains of additions
/// run side by side. Unsafe: reads a step and a block.
macro_rules! quads {
    ($d:ident, $t:ident, $c:ident, $w:expr, $j:expr, $block:expr, $table:expr, $sums:ident, [$($i:literal),*]) => {
        $(
            let mut codes = [$table; P];
            for p in 0..P {
                codes[p] = $t::codes($d, $w[p], $j, $i, $table);
            }
            for c in 0..$c {
                let values = $d.broadcast($block.quants.add(32 * c + 4 * $i));
                let chain = if $c <= 2 { ($i / 4 + $i) % 2 } else { 0 };
                for p in 0..P {
                    $sums[p][c][chain] = dot::<D, $t>($d, $sums[p][c][chain], codes[p], values);
                }
            }
        )*
    };
}

/// The same for tiers that take columns two by two. Quad `$i` goes with the one after it.
macro_rules! quad_pairs {
    ($d:ident, $t:ident, $c:ident, $w:expr, $j:expr, $block:expr, $table:expr, $sums:ident, [$($i:literal),*]) => {
        let mut pairs = [[$d.start($sums[0][0][0], 0); 2]; TILE / 2];
        $(
            let codes = [$t::codes($d, $w[0], $j, $i, $table), $t::codes($d, $w[0], $j, $i + 1, $table)];
            let pair = if $t::IS_FULL {
                $d.interleave::<true>(codes[0], codes[1])
            } else {
                $d.interleave::<false>(codes[0], codes[1])
            };
            for p in 0..$c / 2 {
                let values = $block.quants.add(64 * p + 4 * $i);
                let values = [values, values.add(32)];
                pairs[p] = if $t::IS_FULL {
                    $d.dot_pair::<true>(pairs[p], pair, values)
                } else {
                    $d.dot_pair::<false>(pairs[p], pair, values)
                };
            }
            if $c % 2 == 1 {
                for (quad, codes) in codes.into_iter().enumerate() {
                    let values = $d.broadcast($block.quants.add(32 * ($c - 1) + 4 * ($i + quad)));
                    $sums[0][$c - 1][0] = dot::<D, $t>($d, $sums[0][$c - 1][0], codes, values);
                }
            }
        )*
        for p in 0..$c / 2 {
            for (i, sum) in $d.columns(pairs[p]).into_iter().enumerate() {
                $sums[0][2 * p + i][0] = $d.add($sums[0][2 * p + i][0], sum);
            }
        }
    };
}

#[inline(always)]
fn dot<D: Dot, T: Format>(d: D, sum: D::I, codes: D::I, values: D::I) -> D::I {
    if T::IS_FULL { d.dot::<true>(sum, codes, values) } else { d.dot::<false>(sum, codes, values) }
}

/// Adds the two chains.
#[inline(always)]
fn joined<D: Dot, const C: usize>(d: D, chains: [D::I; 2]) -> D::I {
    if C <= 2 { d.add(chains[0], chains[1]) } else { chains[0] }
}

#[inline(always)]
unsafe fn tile<D: Dot, T: Format, const C: usize, const P: usize>(d: D, t: &Tile) {
    let s = d.simd();
    let mut sums = [[s.zero(); C]; P];
    let mut w = [t.weights; P];
    // SAFETY: `t` describes valid memory, by the promise to `multiply`.
    unsafe {
        for (p, w) in w.iter_mut().enumerate() {
            *w = w.add(p * t.panel_bytes);
        }
        if !t.is_first {
            for (p, sums) in sums.iter_mut().enumerate() {
                for (c, sum) in sums.iter_mut().enumerate() {
                    *sum = d.load_f32(t.sums.add(16 * (p * C + c)).cast());
                }
            }
        }
        let table = d.load(t.table);
        let mut block = Block {
            quants: t.quants.add(32 * t.first),
            parts: t.quants.add(32 * t.width + 4 * t.first),
            part: 4 * t.width,
        };
        let mut fetch = t.fetch;
        for _ in 0..t.num_steps {
            for j in 0..T::SUB_BLOCKS {
                fetch.some();
                if T::HAS_HALVES {
                    halves::<D, T, C, P>(d, w, j, block, table, &mut sums);
                } else {
                    whole::<D, T, C, P>(d, w, j, block, table, &mut sums);
                }
                block = block.next(t.width);
            }
            for w in &mut w {
                *w = w.add(T::BYTES);
            }
        }
        for (p, sums) in sums.into_iter().enumerate() {
            let num_rows = (t.num_rows - 16 * p).min(16);
            for (c, sum) in sums.into_iter().enumerate() {
                if t.is_last {
                    store(d, sum, t.out.add(c * t.stride + 16 * p), num_rows);
                } else {
                    d.store_f32(sum, t.sums.add(16 * (p * C + c)).cast());
                }
            }
        }
    }
}

/// A sub-block with one scale.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the registers of an inlined inner loop")]
unsafe fn whole<D: Dot, T: Format, const C: usize, const P: usize>(
    d: D,
    w: [*const u8; P],
    j: usize,
    block: Block,
    table: D::I,
    sums: &mut [[F<D>; C]; P],
) {
    let s = d.simd();
    // SAFETY: within the step and the block.
    unsafe {
        let mut chains = [[[block.negated_sum(d, 0); 2]; C]; P];
        for c in 0..C {
            let sum = block.negated_sum(d, c);
            for chains in &mut chains {
                chains[c] = [d.start(sum, T::OFFSET), d.start(sum, 0)];
            }
        }
        if D::HAS_PAIRS && C > 1 {
            quad_pairs!(d, T, C, w, j, block, table, chains, [0, 4, 2, 6]);
        } else {
            quads!(d, T, C, w, j, block, table, chains, [0, 4, 1, 5, 2, 6, 3, 7]);
        }
        for p in 0..P {
            let (scale, min) = T::scales(d, w[p], j, 0);
            for c in 0..C {
                let product = d.to_f32(joined::<D, C>(d, chains[p][c]));
                sums[p][c] = s.fma(product, s.mul(scale, block.scale(d, c)), sums[p][c]);
                if T::HAS_MIN {
                    sums[p][c] = s.fma(min, block.scaled_sum(d, c), sums[p][c]);
                }
            }
        }
    }
}

/// A sub-block whose halves have scales of their own.
#[inline(always)]
#[allow(clippy::too_many_arguments, reason = "the registers of an inlined inner loop")]
unsafe fn halves<D: Dot, T: Format, const C: usize, const P: usize>(
    d: D,
    w: [*const u8; P],
    j: usize,
    block: Block,
    table: D::I,
    sums: &mut [[F<D>; C]; P],
) {
    let s = d.simd();
    let mut parts = [[s.zero(); C]; P];
    // SAFETY: within the step and the block.
    unsafe {
        macro_rules! half {
            ($half:literal, $quads:tt, $pairs:tt) => {
                let mut chains = [[[block.negated_sum(d, 0); 2]; C]; P];
                for c in 0..C {
                    let sum = block.negated_half_sum(d, c, $half);
                    for chains in &mut chains {
                        chains[c] = [d.start(sum, T::OFFSET), d.start(sum, 0)];
                    }
                }
                if D::HAS_PAIRS && C > 1 {
                    quad_pairs!(d, T, C, w, j, block, table, chains, $pairs);
                } else {
                    quads!(d, T, C, w, j, block, table, chains, $quads);
                }
                for p in 0..P {
                    let (scale, min) = T::scales(d, w[p], j, $half);
                    for c in 0..C {
                        let product = d.to_f32(joined::<D, C>(d, chains[p][c]));
                        parts[p][c] = if $half == 0 {
                            s.mul(product, scale)
                        } else {
                            s.fma(product, scale, parts[p][c])
                        };
                        if T::HAS_MIN {
                            let sum = d.to_f32(block.negated_half_sum(d, c, $half));
                            parts[p][c] = s.fma(min, sum, parts[p][c]);
                        }
                    }
                }
            };
        }
        half!(0, [0, 1, 2, 3], [0, 2]);
        half!(1, [4, 5, 6, 7], [4, 6]);
        for p in 0..P {
            for c in 0..C {
                sums[p][c] = s.fma(parts[p][c], block.scale(d, c), sums[p][c]);
            }
        }
    }
}

/// Writes the first `num_rows` lanes.
#[inline(always)]
pub(super) unsafe fn store<D: Dot>(d: D, sum: F<D>, out: *mut f32, num_rows: usize) {
    // SAFETY: the output has room for `num_rows` floats, by the promise to `multiply`.
    unsafe {
        if num_rows == 16 {
            d.store_f32(sum, out.cast());
        } else {
            let mut lanes = [0.0; 16];
            d.simd().store(sum, &mut lanes);
            std::ptr::copy_nonoverlapping(lanes.as_ptr(), out, num_rows);
        }
    }
}

/// Expands a panel to `T::Expanded`.
///
/// # Safety
/// `weights` must be `num_steps` steps of `T`; `out` must have room for
/// `num_steps * T::SUB_BLOCKS` steps of `T::Expanded`, 64-byte aligned; `table` must be 64 bytes.
pub(super) unsafe fn expand<T: Format>(
    tier: Tier,
    weights: *const u8,
    num_steps: usize,
    table: *const u8,
    out: *mut u8,
) {
    dispatch(tier, Expand::<T> { weights, num_steps, table, out, format: PhantomData });
}

struct Expand<T> {
    weights: *const u8,
    num_steps: usize,
    table: *const u8,
    out: *mut u8,
    format: PhantomData<T>,
}

impl<T: Format> Work for Expand<T> {
    type Out = ();

    #[inline(always)]
    fn run<D: Dot>(self, d: D) {
        let (mut w, mut out) = (self.weights, self.out);
        // SAFETY: promised by the caller of `expand`.
        unsafe {
            let table = d.load(self.table);
            for _ in 0..self.num_steps {
                for j in 0..T::SUB_BLOCKS {
                    expand_sub_block::<D, T>(d, w, j, table, out);
                    out = out.add(T::Expanded::BYTES);
                }
                w = w.add(T::BYTES);
            }
        }
    }
}

#[inline(always)]
unsafe fn expand_sub_block<D: Dot, T: Format>(
    d: D,
    w: *const u8,
    j: usize,
    table: D::I,
    out: *mut u8,
) {
    let shift = d.splat_byte((T::Expanded::OFFSET - T::OFFSET) as u8);
    macro_rules! expand {
        ($($i:literal),*) => {
            // SAFETY: within the step, and `out` has room for all of the expanded step.
            unsafe { $(
                let codes = d.add_bytes(T::codes(d, w, j, $i, table), shift);
                d.store(codes, out.add(64 * $i));
            )* }
        };
    }
    expand!(0, 4, 1, 5, 2, 6, 3, 7);
    let num_halves = if T::HAS_HALVES { 2 } else { 1 };
    for half in 0..num_halves {
        // SAFETY: as above.
        unsafe {
            let (scale, min) = T::scales(d, w, j, half);
            d.store_f32(scale, out.add(512 + 64 * half));
            if T::HAS_MIN {
                d.store_f32(min, out.add(512 + 64 * (num_halves + half)));
            }
        }
    }
}
