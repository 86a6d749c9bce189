//! Activations: quantised to int8 for quantised weights, as floats for float weights.
//!
//! Rows of activations are columns of the product. They lie in tiles of 8 (the last one narrower),
//! so that a kernel reads one stream. With `W` columns in the tile, every 32 values are a block:
//!
//! ```text
//! [W][32] i8   quants
//! [W]     f32  scale: the largest magnitude / 127
//! [W]     i32  minus the sum of the quants
//! [W]     i32  minus the sum of the first 16 quants
//! [W]     f32  scale * minus the sum of the quants
//! ```
//!
//! Floats lie as `[cols][W]` in each tile.

use super::layout::{BLOCK_BYTES, TILE};
use super::packed::{Packed, SharedBytes};
use super::quantise;
use super::tiers::dispatch;
use crate::activation::Activation;
use crate::detect::{self, Tier};
use crate::elementwise::{activate_row, glu_row};
use crate::memory::{Buffer, OutOfMemory};
use crate::norm::{layer_norm_row, rms_norm_row};
use crate::pool::Pool;
use crate::rows::Rows;
use crate::simd::Level;

/// Fewer values than this are quantised by the caller alone: a parallel region would cost more.
const MIN_PARALLEL: usize = 6144;

/// Activations of some rows, ready to be multiplied. The memory is reused from one `set` to the
/// next; a `set` that needs more than [`Acts::reserve`] has seen to panics where there is none.
pub struct Acts {
    rows: usize,
    cols: usize,
    keeps_quants: bool,
    keeps_floats: bool,
    quants: Buffer,
    floats: Buffer,
}

impl Acts {
    /// For weights of any type: keeps quants and floats.
    pub fn new() -> Acts {
        Acts {
            rows: 0,
            cols: 0,
            keeps_quants: true,
            keeps_floats: true,
            quants: Buffer::empty(),
            floats: Buffer::empty(),
        }
    }

    /// For these weights only: keeps what they need, which is faster.
    pub fn for_weights<'a>(weights: impl IntoIterator<Item = &'a Packed>) -> Acts {
        let mut acts = Acts { keeps_quants: false, keeps_floats: false, ..Acts::new() };
        for weights in weights {
            acts.keeps_floats |= weights.is_float();
            acts.keeps_quants |= !weights.is_float();
        }
        acts
    }

    /// For quantised weights only.
    pub fn for_quantised() -> Acts {
        Acts { keeps_floats: false, ..Acts::new() }
    }

    /// Rows of activations set last.
    pub fn rows(&self) -> usize {
        self.rows
    }

    /// Values per row set last.
    pub fn cols(&self) -> usize {
        self.cols
    }

    /// The rows of `x` as they are.
    pub fn set(&mut self, x: Rows<'_>, pool: &Pool) {
        self.fill(x, pool, |row, _| Some(row));
    }

    /// `x / sqrt(mean(x^2) + eps) * weight`.
    pub fn set_rms_norm(&mut self, x: Rows<'_>, weight: &[f32], eps: f32, pool: &Pool) {
        assert_eq!(weight.len(), x.cols, "norm weights");
        let level = Level::current();
        self.fill(x, pool, |x, out| {
            out.copy_from_slice(x);
            rms_norm_row(level, out, weight, eps);
            None
        });
    }

    /// `(x - mean) / sqrt(variance + eps) * weight + bias`.
    pub fn set_layer_norm(
        &mut self,
        x: Rows<'_>,
        weight: &[f32],
        bias: Option<&[f32]>,
        eps: f32,
        pool: &Pool,
    ) {
        assert_eq!(weight.len(), x.cols, "norm weights");
        assert!(bias.is_none_or(|bias| bias.len() == x.cols), "norm biases");
        let level = Level::current();
        self.fill(x, pool, |x, out| {
            out.copy_from_slice(x);
            layer_norm_row(level, out, weight, bias, eps);
            None
        });
    }

    /// `act(gate) * up`.
    pub fn set_glu(&mut self, gate: Rows<'_>, up: Rows<'_>, act: Activation, pool: &Pool) {
        assert_eq!((gate.rows, gate.cols), (up.rows, up.cols), "gate and up");
        let level = Level::current();
        self.fill_indexed(gate.rows, gate.cols, pool, |i, out| {
            out.copy_from_slice(gate.row(i));
            glu_row(level, out, up.row(i), act);
            None
        });
    }

    /// `act(x)`.
    pub fn set_act(&mut self, x: Rows<'_>, act: Activation, pool: &Pool) {
        let level = Level::current();
        self.fill(x, pool, |x, out| {
            out.copy_from_slice(x);
            activate_row(level, out, act);
            None
        });
    }

    /// Row `i` as the kernels of quantised weights see it: quants times their scales. For tests.
    #[cfg(test)]
    pub(crate) fn dequantized_row(&self, i: usize) -> Vec<f32> {
        let tile = self.tile(i / TILE);
        let column = i % TILE;
        let mut out = Vec::new();
        for block in 0..self.cols / 32 {
            // SAFETY: within the tile.
            unsafe {
                let block = tile.quants.add(block * tile.width * BLOCK_BYTES);
                let scale = *block.add(32 * tile.width + 4 * column).cast::<f32>();
                let quants = block.add(32 * column).cast::<i8>();
                out.extend((0..32).map(|i| f32::from(*quants.add(i)) * scale));
            }
        }
        out
    }

    pub(super) fn has_quants(&self) -> bool {
        self.keeps_quants && self.cols.is_multiple_of(32)
    }

    pub(super) fn has_floats(&self) -> bool {
        self.keeps_floats
    }

    pub(super) fn num_tiles(&self) -> usize {
        self.rows.div_ceil(TILE)
    }

    pub(super) fn tile(&self, tile: usize) -> ActsTile {
        assert!(tile < self.num_tiles());
        let before = tile * TILE;
        let (quants, floats) = (self.quants.as_ptr(), self.floats.as_ptr());
        ActsTile {
            width: TILE.min(self.rows - before),
            // Pointers past the end of what is not kept are never followed.
            quants: quants.wrapping_add(before * (self.cols / 32) * BLOCK_BYTES),
            floats: floats.wrapping_add(before * self.cols * 4),
        }
    }

    fn fill<'a>(
        &mut self,
        x: Rows<'a>,
        pool: &Pool,
        f: impl Fn(&'a [f32], &mut [f32]) -> Option<&'a [f32]> + Sync,
    ) {
        self.fill_indexed(x.rows, x.cols, pool, |i, out| f(x.row(i), out));
    }

    /// Has memory for `rows` rows of `cols` values, so that setting them needs no more.
    ///
    /// # Errors
    /// The system has none.
    pub fn reserve(&mut self, rows: usize, cols: usize) -> Result<(), OutOfMemory> {
        (self.rows, self.cols) = (0, cols);
        if self.has_quants() {
            self.quants.reserve(rows * (cols / 32) * BLOCK_BYTES)?;
        }
        if self.keeps_floats {
            self.floats.reserve(rows * cols * 4)?;
        }
        self.rows = rows;
        Ok(())
    }

    /// As [`Self::reserve`]; panics without memory.
    fn shape(&mut self, rows: usize, cols: usize) {
        self.reserve(rows, cols).unwrap_or_else(|error| panic!("{error}"));
    }

    /// Room for quants of this shape that threads write side by side; none if floats are kept too.
    pub(super) fn quants_mut(&mut self, rows: usize, cols: usize) -> Option<SharedBytes> {
        self.shape(rows, cols);
        let is_apt = self.has_quants() && !self.keeps_floats;
        is_apt.then(|| SharedBytes(self.quants.as_mut_ptr()))
    }

    /// Makes row `i` not a number throughout.
    pub(super) fn spoil_row(&mut self, i: usize) {
        let first = i / TILE * TILE;
        let (width, num_blocks) = (TILE.min(self.rows - first), self.cols / 32);
        assert!(i < self.rows && self.has_quants());
        // SAFETY: the tile lies within the buffer, which is borrowed exclusively.
        unsafe {
            let tile = self.quants.as_mut_ptr().add(first * num_blocks * BLOCK_BYTES);
            spoil(tile, num_blocks, width, i - first);
        }
    }

    /// Sets all rows. `f` returns row `i`, or writes it to its argument and returns None.
    fn fill_indexed<'a>(
        &mut self,
        rows: usize,
        cols: usize,
        pool: &Pool,
        f: impl Fn(usize, &mut [f32]) -> Option<&'a [f32]> + Sync,
    ) {
        self.shape(rows, cols);
        let writer = RowWriter {
            tier: detect::tier(),
            rows,
            cols,
            quants: self.has_quants().then(|| SharedBytes(self.quants.as_mut_ptr())),
            floats: self.keeps_floats.then(|| SharedBytes(self.floats.as_mut_ptr())),
        };
        let one = |i: usize, scratch: &mut Vec<f32>| {
            scratch.resize(cols, 0.0);
            let row = f(i, scratch);
            // SAFETY: every row is written by one call; the buffers have room for all rows.
            unsafe { writer.write(i, row.unwrap_or(scratch)) };
        };
        if rows * cols < MIN_PARALLEL {
            SCRATCH.with_borrow_mut(|scratch| (0..rows).for_each(|i| one(i, scratch)));
        } else {
            pool.for_each(rows, |_, i| SCRATCH.with_borrow_mut(|scratch| one(i, scratch)));
        }
    }
}

impl Default for Acts {
    fn default() -> Acts {
        Acts::new()
    }
}

impl std::fmt::Debug for Acts {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Acts({} x {})", self.rows, self.cols)
    }
}

thread_local! {
    /// A row on its way from the fused operation to the quantiser.
    static SCRATCH: std::cell::RefCell<Vec<f32>> = const { std::cell::RefCell::new(Vec::new()) };
}

/// Up to 8 rows of activations.
pub(super) struct ActsTile {
    pub width: usize,
    pub quants: *const u8,
    pub floats: *const u8,
}

/// Where rows go.
struct RowWriter {
    tier: Tier,
    rows: usize,
    cols: usize,
    quants: Option<SharedBytes>,
    floats: Option<SharedBytes>,
}

impl RowWriter {
    /// # Safety
    /// No other call may write row `i` at the same time; the buffers must have room for all rows.
    unsafe fn write(&self, i: usize, row: &[f32]) {
        debug_assert!(i < self.rows && row.len() == self.cols);
        let (first, column) = (i / TILE * TILE, i % TILE);
        let width = TILE.min(self.rows - first);
        if let Some(quants) = self.quants {
            // SAFETY: the tile of the row lies within the buffer.
            let tile = unsafe { quants.ptr().add(first * (self.cols / 32) * BLOCK_BYTES) };
            let to = quantise::Column { block: tile, width, column };
            if dispatch(self.tier, quantise::Row { x: row, to }) {
                // SAFETY: as above.
                unsafe { spoil(tile, self.cols / 32, width, column) };
            }
        }
        if let Some(floats) = self.floats {
            // SAFETY: as above.
            let tile = unsafe { floats.ptr().add(first * self.cols * 4).cast::<f32>() };
            for (col, x) in row.iter().enumerate() {
                // SAFETY: within the tile; the buffer is aligned for floats.
                unsafe { *tile.add(col * width + column) = *x };
            }
        }
    }
}

/// Makes a row not a number throughout, as it would be if it were not quantised.
///
/// # Safety
/// `tile` must be a tile of `width` columns and `num_blocks` blocks.
#[cold]
unsafe fn spoil(tile: *mut u8, num_blocks: usize, width: usize, column: usize) {
    for block in 0..num_blocks {
        // SAFETY: within the tile.
        unsafe {
            let parts = tile.add(block * width * BLOCK_BYTES + 32 * width + 4 * column);
            *parts.cast::<f32>() = f32::NAN;
            *parts.add(12 * width).cast::<f32>() = f32::NAN;
        }
    }
}
