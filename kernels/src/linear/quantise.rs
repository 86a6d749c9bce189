//! From floats to the blocks of [`super::acts`]: 32 values as int8, their scale and their sums.
#![allow(clippy::inline_always)]

use super::dot::Dot;
use super::format::F;
use super::layout::BLOCK_BYTES;
use super::tiers::Work;
use crate::activation::Activation;
use crate::rows::Rows;
use crate::simd::Simd;

/// Blocks whose values are all smaller are zero: the inverse of their scale is not a float.
const TINY: f32 = 1e-35;
/// Blocks that are quantised side by side, so that they share the sums across lanes.
const ABREAST: usize = 4;

/// A column of a block of activations.
#[derive(Clone, Copy)]
pub(super) struct Column {
    /// The block's first byte.
    pub block: *mut u8,
    /// Columns of the tile.
    pub width: usize,
    pub column: usize,
}

impl Column {
    /// The same column of the block that follows `count` blocks later.
    #[inline(always)]
    fn after(self, count: usize) -> Column {
        let block = self.block.wrapping_add(count * self.width * BLOCK_BYTES);
        Column { block, ..self }
    }

    /// # Safety
    /// The block must be writable, and no one else may access this column of it.
    #[inline(always)]
    unsafe fn write<D: Dot>(self, d: D, quants: [F<D>; 2], scale: f32, sums: [f32; 2]) {
        // Sums of integers up to 127 are exact in floats; those of a row with a NaN are never used.
        let (lower, sum) = (sums[0] as i32, sums[0] as i32 + sums[1] as i32);
        // SAFETY: within the block, which has `width` columns.
        unsafe {
            let at = self.block.add(32 * self.column);
            d.store_i8(quants[0], at);
            d.store_i8(quants[1], at.add(16));
            let parts = self.block.add(32 * self.width + 4 * self.column);
            *parts.cast::<f32>() = scale;
            *parts.add(4 * self.width).cast::<i32>() = -sum;
            *parts.add(8 * self.width).cast::<i32>() = -lower;
            *parts.add(12 * self.width).cast::<f32>() = scale * (-sum) as f32;
        }
    }
}

/// Quantises blocks into their columns; true for those with a value that is infinite or not a number.
///
/// # Safety
/// As for [`Column::write`].
#[inline(always)]
unsafe fn blocks<D: Dot>(d: D, x: [[F<D>; 2]; ABREAST], to: [Column; ABREAST]) -> [bool; ABREAST] {
    let s = d.simd();
    // Loops instead of closures: those would not be compiled for the tier.
    let mut amax = [s.zero(); ABREAST];
    for i in 0..ABREAST {
        amax[i] = s.max(s.abs(x[i][0]), s.abs(x[i][1]));
    }
    let amax = s.load_part(&s.reduce_max4(amax));
    let is_tiny = s.less(amax, s.splat(TINY));
    let mut scales = [0.0; 16];
    let mut inverses = [0.0; 16];
    s.store(s.select(is_tiny, s.zero(), s.div(amax, s.splat(127.0))), &mut scales);
    s.store(s.select(is_tiny, s.zero(), s.div(s.splat(127.0), amax)), &mut inverses);
    let (mut lower, mut upper) = ([s.zero(); ABREAST], [s.zero(); ABREAST]);
    for i in 0..ABREAST {
        let inverse = s.splat(inverses[i]);
        lower[i] = s.round(s.mul(x[i][0], inverse));
        upper[i] = s.round(s.mul(x[i][1], inverse));
    }
    let sums = [s.reduce_add4(lower), s.reduce_add4(upper)];
    let mut are_spoiled = [false; ABREAST];
    for i in 0..ABREAST {
        // SAFETY: the caller's promise.
        unsafe { to[i].write(d, [lower[i], upper[i]], scales[i], [sums[0][i], sums[1][i]]) };
        // An infinity makes the inverse zero, and infinity times zero is not a number.
        are_spoiled[i] = (sums[0][i] + sums[1][i]).is_nan();
    }
    are_spoiled
}

/// [`blocks`] for one.
///
/// # Safety
/// As for [`Column::write`].
#[inline(always)]
unsafe fn block<D: Dot>(d: D, x: [F<D>; 2], to: Column) -> bool {
    let s = d.simd();
    let amax = s.reduce_max(s.max(s.abs(x[0]), s.abs(x[1])));
    let is_tiny = amax < TINY;
    let scale = if is_tiny { 0.0 } else { amax / 127.0 };
    let inverse = s.splat(if is_tiny { 0.0 } else { 127.0 / amax });
    let quants = [s.round(s.mul(x[0], inverse)), s.round(s.mul(x[1], inverse))];
    let sums = [s.reduce_add(quants[0]), s.reduce_add(quants[1])];
    // SAFETY: the caller's promise.
    unsafe { to.write(d, quants, scale, sums) };
    (sums[0] + sums[1]).is_nan()
}

#[inline(always)]
fn load<S: Simd>(s: S, x: &[[f32; 16]; 2]) -> [S::F; 2] {
    [s.load(&x[0]), s.load(&x[1])]
}

/// `activation(gate) * up` of 32 values.
#[inline(always)]
fn glu<S: Simd>(s: S, gate: &[f32], up: &[f32], activation: Activation) -> [S::F; 2] {
    let (gate, up) = (gate.as_chunks::<16>().0, up.as_chunks::<16>().0);
    let lower = s.mul(activation.apply(s, s.load(&gate[0])), s.load(&up[0]));
    let upper = s.mul(activation.apply(s, s.load(&gate[1])), s.load(&up[1]));
    [lower, upper]
}

/// Quantises one row into its column of a tile that begins at `to`; its length is a multiple of 32.
/// True if a value is infinite or not a number.
///
/// The column must be writable in all blocks of the row, and no one else may access it.
pub(super) struct Row<'a> {
    pub x: &'a [f32],
    pub to: Column,
}

impl Work for Row<'_> {
    type Out = bool;

    #[inline(always)]
    fn run<D: Dot>(self, d: D) -> bool {
        let s = d.simd();
        let Row { x, mut to } = self;
        let (many, rest) = x.as_chunks::<16>().0.as_chunks::<2>().0.as_chunks::<ABREAST>();
        let mut is_spoiled = false;
        for x in many {
            let x = [load(s, &x[0]), load(s, &x[1]), load(s, &x[2]), load(s, &x[3])];
            let columns = [to, to.after(1), to.after(2), to.after(3)];
            // SAFETY: promised by the maker of `self`.
            is_spoiled |= unsafe { blocks(d, x, columns) } != [false; ABREAST];
            to = to.after(ABREAST);
        }
        for x in rest {
            // SAFETY: as above.
            is_spoiled |= unsafe { block(d, load(s, x), to) };
            to = to.after(1);
        }
        is_spoiled
    }
}

/// Quantises `activation(gate) * up` for one block of all columns of a tile.
///
/// Row `i` of `gate` and `up` are the 32 values of column `i`. The block must be writable and no one
/// else may access it.
pub(super) struct GatedBlock<'a> {
    pub gate: Rows<'a>,
    pub up: Rows<'a>,
    pub activation: Activation,
    pub block: *mut u8,
}

impl Work for GatedBlock<'_> {
    /// Bit `i` is set if a value of column `i` is infinite or not a number.
    type Out = u8;

    #[inline(always)]
    fn run<D: Dot>(self, d: D) -> u8 {
        let s = d.simd();
        let GatedBlock { gate, up, activation, block: start } = self;
        let width = gate.rows;
        let to = Column { block: start, width, column: 0 };
        let mut spoiled = 0;
        let mut column = 0;
        while column + ABREAST <= width {
            let (mut x, mut columns) = ([[s.zero(); 2]; ABREAST], [to; ABREAST]);
            for i in 0..ABREAST {
                x[i] = glu(s, gate.row(column + i), up.row(column + i), activation);
                columns[i].column = column + i;
            }
            // SAFETY: promised by the maker of `self`.
            let are_spoiled = unsafe { blocks(d, x, columns) };
            for i in 0..ABREAST {
                spoiled |= u8::from(are_spoiled[i]) << (column + i);
            }
            column += ABREAST;
        }
        while column < width {
            let x = glu(s, gate.row(column), up.row(column), activation);
            // SAFETY: as above.
            let is_spoiled = unsafe { block(d, x, Column { column, ..to }) };
            spoiled |= u8::from(is_spoiled) << column;
            column += 1;
        }
        spoiled
    }
}
