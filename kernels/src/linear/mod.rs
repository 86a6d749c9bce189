//! Packed weights, quantised activations, and their product.
//!
//! A weight matrix is packed once ([`Packed`]) into panels of 16 rows; a batch of activations is
//! quantised once ([`Acts`]) and may then be multiplied by several matrices in one parallel region
//! ([`linear`]): query, key and value together, or gate and up.
//!
//! - `format`: the packed formats, and how kernels read them
//! - `kernel`, `float`: the products, written once for all formats and tiers
//! - `dot`, `dot_*`: the integer instructions of each tier; `tiers`: the choice among them
//! - `pack`: from file to panels; `acts`, `fused`: from floats to int8

mod acts;
mod buffer;
mod dot;
#[cfg(target_arch = "aarch64")]
mod dot_neon;
mod dot_portable;
#[cfg(target_arch = "x86_64")]
mod dot_x86;
mod float;
mod format;
mod fused;
mod kernel;
mod pack;
mod packed;
mod tiers;

use std::cell::RefCell;
use std::ops::Range;

pub use acts::Acts;
pub use packed::{PackError, Packed};

use self::acts::TILE;
use self::buffer::Buffer;
use self::format::Format;
use self::kernel::Tile;
use self::packed::{PANEL, with_format};
use crate::detect::{self, Tier};
use crate::pool::Pool;
use crate::rows::{RowsMut, SharedRows};

/// Parts each thread's share of the panels is cut into, so that a delayed thread can be helped.
const PARTS_PER_THREAD: usize = 4;

/// `out = acts · Wᵀ` for every matrix of the group: row `i` of an output (rows, n) is the product
/// of row `i` of `acts` (rows, k) with every row of the matrix (n, k). The group shares one
/// parallel region.
///
/// Panics if shapes differ, or if `acts` were made for weights of other types
/// ([`Acts::for_weights`]).
pub fn linear(acts: &Acts, group: &mut [(&Packed, RowsMut<'_>)], pool: &Pool) {
    let mut matrices = Vec::with_capacity(group.len());
    let mut num_panels = 0;
    for (weights, out) in group {
        assert_eq!(weights.k(), acts.cols(), "columns of weights and activations");
        assert_eq!((acts.rows(), weights.n()), (out.rows, out.cols), "shape of an output");
        let is_kept = if weights.is_float() { acts.has_floats() } else { acts.has_quants() };
        assert!(is_kept, "these activations were not made for {} weights", weights.ty());
        let first_panel = num_panels;
        num_panels += weights.num_panels();
        matrices.push(Matrix { weights, first_panel, out: out.shared() });
    }
    if num_panels == 0 || acts.rows() == 0 {
        return;
    }
    let grid = Grid::new(num_panels, acts.num_tiles(), pool.threads());
    let product = Product { tier: detect::tier(), acts, matrices };
    pool.for_each(grid.items(), |_, item| {
        let (panels, tiles) = grid.item(item);
        // SAFETY: items do not overlap and each is handed out once.
        unsafe { product.run(panels, tiles) };
    });
}

/// The cut of a group's panels (and, when they are few, of the tiles of activations) into items.
struct Grid {
    num_panels: usize,
    num_tiles: usize,
    panel_parts: usize,
    tile_parts: usize,
}

impl Grid {
    fn new(num_panels: usize, num_tiles: usize, threads: usize) -> Grid {
        let wanted = if threads == 1 { 1 } else { threads * PARTS_PER_THREAD };
        let panel_parts = wanted.min(num_panels);
        let tile_parts = wanted.div_ceil(panel_parts).min(num_tiles);
        Grid { num_panels, num_tiles, panel_parts, tile_parts }
    }

    fn items(&self) -> usize {
        self.panel_parts * self.tile_parts
    }

    /// Panels and tiles of an item. Neighbouring items are neighbouring panels.
    fn item(&self, item: usize) -> (Range<usize>, Range<usize>) {
        let cut =
            |part: usize, parts: usize, len: usize| len * part / parts..len * (part + 1) / parts;
        (
            cut(item % self.panel_parts, self.panel_parts, self.num_panels),
            cut(item / self.panel_parts, self.tile_parts, self.num_tiles),
        )
    }
}

struct Matrix<'a> {
    weights: &'a Packed,
    /// Its first panel among those of the group.
    first_panel: usize,
    out: SharedRows<'a>,
}

struct Product<'a> {
    tier: Tier,
    acts: &'a Acts,
    matrices: Vec<Matrix<'a>>,
}

impl Product<'_> {
    /// Multiplies some panels of the group by some tiles.
    ///
    /// # Safety
    /// No one else may access these outputs at the same time.
    unsafe fn run(&self, panels: Range<usize>, tiles: Range<usize>) {
        for matrix in &self.matrices {
            let first = matrix.first_panel;
            let last = first + matrix.weights.num_panels();
            for panel in panels.start.max(first)..panels.end.min(last) {
                // SAFETY: the caller's promise.
                unsafe { self.panel(matrix, panel - first, tiles.clone()) };
            }
        }
    }

    unsafe fn panel(&self, matrix: &Matrix<'_>, panel: usize, tiles: Range<usize>) {
        let weights = matrix.weights;
        let task = Task {
            tier: self.tier,
            columns: tiers::columns(self.tier),
            acts: self.acts,
            tiles,
            out: matrix.out,
            first_row: panel * PANEL,
            num_rows: PANEL.min(weights.n() - panel * PANEL),
            table: weights.table(),
        };
        let bytes = weights.panel(panel).as_ptr();
        let num_steps = weights.num_steps();
        with_format!(weights.packing, T => {
            // SAFETY: the panel is `num_steps` steps of `T`; outputs by the caller's promise.
            unsafe { task.codes::<T>(bytes, num_steps) }
        }, U => {
            // SAFETY: the panel is `num_steps` steps of `U`; outputs by the caller's promise.
            unsafe {
                task.each_tile(bytes, num_steps, |tier, columns, tile| {
                    float::multiply::<U>(tier, columns, tile);
                });
            }
        });
    }
}

thread_local! {
    /// A panel with a byte per code.
    static EXPANDED: RefCell<Buffer> = RefCell::new(Buffer::new(0));
}

/// One panel times some tiles.
struct Task<'a> {
    tier: Tier,
    /// Columns that a kernel of the tier takes at once.
    columns: usize,
    acts: &'a Acts,
    tiles: Range<usize>,
    out: SharedRows<'a>,
    first_row: usize,
    num_rows: usize,
    table: *const u8,
}

impl Task<'_> {
    /// With few columns, codes are unpacked in the kernel: weights are read once and memory is
    /// the limit. With many, the panel is unpacked once, into the second-level cache.
    unsafe fn codes<T: Format>(&self, weights: *const u8, num_steps: usize) {
        if !T::IS_EXPANDABLE || self.tiles.len() < 2 {
            // SAFETY: the caller's promise.
            unsafe {
                self.each_tile(weights, num_steps, |tier, columns, tile| {
                    kernel::multiply::<T>(tier, columns, tile);
                });
            }
            return;
        }
        EXPANDED.with_borrow_mut(|expanded| {
            let num_blocks = num_steps * T::SUB_BLOCKS;
            expanded.reserve(num_blocks * T::Expanded::BYTES);
            let out = expanded.as_mut_ptr();
            // SAFETY: there is room for every block; the rest is the caller's promise.
            unsafe {
                kernel::expand::<T>(self.tier, weights, num_steps, self.table, out);
                self.each_tile(out, num_blocks, |tier, columns, tile| {
                    kernel::multiply::<T::Expanded>(tier, columns, tile);
                });
            }
        });
    }

    /// Calls `multiply` for as many columns at once as the tier takes.
    unsafe fn each_tile(
        &self,
        weights: *const u8,
        num_steps: usize,
        multiply: impl Fn(Tier, usize, &Tile),
    ) {
        for index in self.tiles.clone() {
            let tile = self.acts.tile(index);
            for first in (0..tile.width).step_by(self.columns) {
                let columns = self.columns.min(tile.width - first);
                let part = Tile {
                    weights,
                    num_steps,
                    table: self.table,
                    quants: tile.quants,
                    floats: tile.floats,
                    width: tile.width,
                    first,
                    out: self.out.ptr(index * TILE + first, self.first_row),
                    stride: self.out.stride(),
                    num_rows: self.num_rows,
                };
                multiply(self.tier, columns, &part);
            }
        }
    }
}

#[cfg(test)]
mod tests;
