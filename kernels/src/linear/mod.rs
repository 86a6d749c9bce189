//! Packed weights, quantised activations, and their product.
//!
//! A weight matrix is packed once ([`Packed`]) into panels of 16 rows; a batch of activations is
//! quantised once ([`Acts`]) and may then be multiplied by several matrices in one parallel region
//! ([`linear`]): query, key and value together, or gate and up.
//!
//! - `format`: the packed formats, and how kernels read them
//! - `kernel`, `float`: the products, written once for all formats and tiers
//! - `dot`, `dot_*`: the integer instructions of each tier; `tiers`: the choice among them
//! - `pack`: from file to panels; `acts`, `quantise`: from floats to int8
//! - `gated`: two products, what comes between them and the next, and its quantisation in one

mod acts;
mod dot;
#[cfg(target_arch = "aarch64")]
mod dot_neon;
mod dot_portable;
#[cfg(target_arch = "x86_64")]
mod dot_x86;
mod float;
mod format;
mod gated;
mod kernel;
mod pack;
mod packed;
mod quantise;
mod tiers;

use std::cell::RefCell;
use std::ops::Range;

pub use acts::Acts;
pub use gated::gated;
pub use packed::{PackError, Packed};

use self::acts::{BLOCK_BYTES, TILE};
use self::format::Format;
use self::kernel::{Fetch, Tile};
use self::packed::{PANEL, with_format};
use crate::detect::{self, Tier};
use crate::memory::{Buffer, prefetch};
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
    pool.for_each(grid.items(), |thread, index| {
        // SAFETY: items do not overlap and each is handed out once.
        unsafe { product.run(&grid.item(index, thread)) };
    });
}

/// The cut of a group's panels (and, when they are few, of the tiles of activations) into items.
struct Grid {
    num_panels: usize,
    num_tiles: usize,
    panel_parts: usize,
    tile_parts: usize,
    threads: usize,
}

impl Grid {
    fn new(num_panels: usize, num_tiles: usize, threads: usize) -> Grid {
        let wanted = if threads == 1 { 1 } else { threads * PARTS_PER_THREAD };
        let panel_parts = wanted.min(num_panels);
        let tile_parts = wanted.div_ceil(panel_parts).min(num_tiles);
        Grid { num_panels, num_tiles, panel_parts, tile_parts, threads }
    }

    fn items(&self) -> usize {
        self.panel_parts * self.tile_parts
    }

    /// Item `index`, which `thread` has. Neighbouring items are neighbouring panels.
    fn item(&self, index: usize, thread: usize) -> Item {
        let (panels, tiles) = (self.panel_parts, self.tile_parts);
        let (column, row) = (index % panels, index / panels);
        // A thread goes through its run of items, but of those of others takes one.
        let run = Pool::run(self.items(), thread, self.threads);
        let last =
            if run.contains(&index) { (run.end - 1).min(row * panels + panels - 1) } else { index };
        Item {
            panels: Pool::run(self.num_panels, column, panels),
            tiles: Pool::run(self.num_tiles, row, tiles),
            wanted_end: Pool::run(self.num_panels, last % panels, panels).end,
        }
    }
}

/// Some panels of a group and some tiles.
struct Item {
    panels: Range<usize>,
    tiles: Range<usize>,
    /// The end of the panels that the thread goes through one after another.
    wanted_end: usize,
}

impl Item {
    /// The tiles, in runs that a core's cache holds, of about the same length.
    fn tile_runs(&self, cols: usize) -> impl Iterator<Item = Range<usize>> {
        let tile_bytes = TILE * (cols / 32) * BLOCK_BYTES;
        let most = (ACTS_BYTES / tile_bytes.max(1)).max(4);
        let runs = self.tiles.len().div_ceil(most).max(1);
        let (start, len) = (self.tiles.start, self.tiles.len());
        (0..runs).map(move |run| {
            let run = Pool::run(len, run, runs);
            start + run.start..start + run.end
        })
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
    /// Multiplies the panels of an item by its tiles.
    ///
    /// # Safety
    /// No one else may access these outputs at the same time.
    unsafe fn run(&self, item: &Item) {
        for tiles in item.tile_runs(self.acts.cols()) {
            for matrix in &self.matrices {
                let first = matrix.first_panel;
                let end = item.panels.end.min(first + matrix.weights.num_panels());
                let mut panel = item.panels.start.max(first);
                while panel < end {
                    let count =
                        panels_at_once(self.tier, matrix.weights, self.acts.rows(), end - panel);
                    let tiles = tiles.clone();
                    // SAFETY: the caller's promise.
                    unsafe { self.panels(matrix, panel - first, count, tiles, item.wanted_end) };
                    panel += count;
                }
            }
        }
    }


    unsafe fn panels(
        &self,
        matrix: &Matrix<'_>,
        panel: usize,
        count: usize,
        tiles: Range<usize>,
        wanted_end: usize,
    ) {
        let weights = matrix.weights;
        let task = Task {
            tier: self.tier,
            columns: tiers::columns(self.tier),
            acts: self.acts,
            first_out: tiles.start * TILE,
            tiles,
            out: matrix.out,
            first_row: panel * PANEL,
            panels: count,
            num_rows: (count * PANEL).min(weights.n() - panel * PANEL),
            table: weights.table(),
            wanted_end: weights.panels_end(wanted_end - matrix.first_panel),
        };
        // SAFETY: the caller's promise.
        unsafe { task.run(weights, panel) };
    }
}

/// Of `left` panels, those to multiply side by side by `rows` rows.
fn panels_at_once(tier: Tier, weights: &Packed, rows: usize, left: usize) -> usize {
    match (weights.is_float(), rows) {
        (true, 1) if left >= float::PANELS => float::PANELS,
        (true, _) if left >= 2 => 2,
        // A value that is loaded for two panels costs half: loads are the limit of many full tiles.
        (false, MIN_ROWS_OF_TWO..) if left >= 2 && tiers::columns(tier) == TILE => 2,
        _ => 1,
    }
}

/// Fewer rows are served better one panel at a time.
const MIN_ROWS_OF_TWO: usize = 4 * TILE;

/// Bytes of activations that go through all panels of an item before the next ones do: they are
/// read from the second-level cache.
const ACTS_BYTES: usize = 512 << 10;

/// Bytes of an expanded part of a panel, which is read from the second-level cache.
const EXPANDED_BYTES: usize = 64 << 10;

/// How far ahead of itself a thread fetches weights that it reads once. Memory takes 0.1 to 0.2
/// microseconds to answer, and processors by themselves look ahead no further than a page.
const STREAM_AHEAD: usize = 8 << 10;

/// What a thread needs to expand panels.
struct Scratch {
    /// A part of a panel with a byte per code.
    expanded: Buffer,
    /// Sums of the columns, 16 floats each.
    carry: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        RefCell::new(Scratch { expanded: Buffer::new(0), carry: Buffer::new(0) });
}

/// One panel, or several side by side, times some tiles.
struct Task<'a> {
    tier: Tier,
    /// Columns that a kernel of the tier takes at once.
    columns: usize,
    acts: &'a Acts,
    tiles: Range<usize>,
    out: SharedRows<'a>,
    /// Row of `out` for the first column of the first tile.
    first_out: usize,
    /// Column of `out` for the first row of the panel.
    first_row: usize,
    panels: usize,
    /// Of all panels.
    num_rows: usize,
    table: *const u8,
    /// Where the weights end that this thread will want.
    wanted_end: *const u8,
}

/// A run of the columns of a panel.
struct Part {
    weights: *const u8,
    num_steps: usize,
    /// Blocks of activations before it.
    first_block: usize,
    /// Sums of all columns of all tiles, see [`Tile`].
    sums: *mut f32,
    is_first: bool,
    is_last: bool,
    /// Weights that will be wanted next: fetched meanwhile.
    next: (*const u8, usize),
    /// Bytes from them to those of the panel beside.
    next_panel: usize,
    /// Bytes from these weights to those that are fetched while the last tile is multiplied.
    ahead: usize,
}

impl Part {
    fn whole(weights: *const u8, num_steps: usize, bytes: usize) -> Part {
        Part {
            weights,
            num_steps,
            first_block: 0,
            sums: std::ptr::null_mut(),
            is_first: true,
            is_last: true,
            next: (std::ptr::null(), 0),
            next_panel: 0,
            ahead: bytes,
        }
    }
}

impl Task<'_> {
    /// # Safety
    /// `self` must be made for this panel of `weights`; no one else may access the outputs.
    unsafe fn run(&self, weights: &Packed, panel: usize) {
        let bytes = weights.panel(panel).as_ptr();
        let num_steps = weights.num_steps();
        with_format!(weights.packing, T => {
            // SAFETY: panels are `num_steps` steps of `T`; outputs by the caller's promise.
            unsafe { self.codes::<T>(bytes, num_steps) }
        }, U => {
            let part = Part::whole(bytes, num_steps, self.panels * weights.panel_bytes);
            self.each_tile(&part, self.columns, |columns, tile| {
                // SAFETY: as above, with `U`.
                unsafe { float::multiply::<U>(self.tier, columns, self.panels, tile) };
            });
        });
    }

    /// With few columns, codes are unpacked in the kernel: weights are read once and memory is
    /// the limit. With many, a part of the panel at a time is unpacked, and the next part fetched
    /// meanwhile.
    unsafe fn codes<T: Format>(&self, weights: *const u8, num_steps: usize) {
        if T::IS_EXPANDABLE && self.tiles.len() > 1 {
            // SAFETY: the caller's promise.
            SCRATCH.with_borrow_mut(|scratch| unsafe {
                self.expanded::<T>(weights, num_steps, scratch);
            });
        } else {
            let bytes = self.panels * num_steps * T::BYTES;
            // SAFETY: the caller's promise.
            unsafe { self.multiply::<T>(&Part::whole(weights, num_steps, bytes)) };
        }
    }

    unsafe fn expanded<T: Format>(
        &self,
        weights: *const u8,
        num_steps: usize,
        scratch: &mut Scratch,
    ) {
        let step_bytes = T::SUB_BLOCKS * T::Expanded::BYTES;
        let panels = self.panels;
        let part_len = (EXPANDED_BYTES / step_bytes / panels).max(1);
        scratch.expanded.reserve(part_len * panels * step_bytes);
        scratch.carry.reserve(self.tiles.len() * TILE * panels * PANEL * 4);
        let expanded = scratch.expanded.as_mut_ptr();
        for start in (0..num_steps).step_by(part_len) {
            let len = part_len.min(num_steps - start);
            // SAFETY: there is room for `part_len` steps; the rest is the caller's promise.
            unsafe {
                let weights = weights.add(start * T::BYTES);
                for panel in 0..panels {
                    let weights = weights.add(panel * num_steps * T::BYTES);
                    let expanded = expanded.add(panel * len * step_bytes);
                    kernel::expand::<T>(self.tier, weights, len, self.table, expanded);
                }
                self.multiply::<T::Expanded>(&Part {
                    weights: expanded,
                    num_steps: len * T::SUB_BLOCKS,
                    first_block: start * T::SUB_BLOCKS,
                    sums: scratch.carry.as_mut_ptr().cast(),
                    is_first: start == 0,
                    is_last: start + len == num_steps,
                    next: (weights.wrapping_add(len * T::BYTES), len * T::BYTES),
                    next_panel: num_steps * T::BYTES,
                    ahead: 0,
                });
            }
        }
    }

    unsafe fn multiply<T: Format>(&self, part: &Part) {
        let abreast = if self.panels == 2 { kernel::COLUMNS_OF_TWO } else { self.columns };
        self.each_tile(part, abreast, |columns, tile| {
            if self.panels == 1 || columns == abreast {
                // SAFETY: the caller's promise.
                unsafe { kernel::multiply::<T>(self.tier, columns, self.panels, tile) };
                return;
            }
            for panel in 0..self.panels {
                let mut tile = *tile;
                tile.weights = tile.weights.wrapping_add(panel * tile.num_steps * T::BYTES);
                tile.out = tile.out.wrapping_add(panel * PANEL);
                tile.num_rows = (self.num_rows - panel * PANEL).min(PANEL);
                tile.sums = tile.sums.wrapping_add(panel * columns * PANEL);
                // SAFETY: the caller's promise.
                unsafe { kernel::multiply::<T>(self.tier, columns, 1, &tile) };
            }
        });
    }

    /// Calls `multiply` for each tile with at most `abreast` columns at once.
    fn each_tile(&self, part: &Part, abreast: usize, multiply: impl Fn(usize, &Tile)) {
        for index in self.tiles.clone() {
            let tile = self.acts.tile(index);
            let nth = index - self.tiles.start;
            // The last tiles find their weights in the innermost cache: time to fetch the next.
            let (next, next_len) = part.next;
            let shares = self.tiles.len();
            let share = next_len * nth / shares..next_len * (nth + 1) / shares;
            for panel in 0..self.panels {
                let next = next.wrapping_add(panel * part.next_panel);
                prefetch(next.wrapping_add(share.start), share.len());
            }
            // One tile alone runs through its weights, only just behind those that are fetched.
            let ahead = if shares == 1 { part.ahead.min(STREAM_AHEAD) } else { part.ahead };
            let fetch = Fetch { ahead, end: self.wanted_end };
            let is_last = nth + 1 == shares;
            let blocks_before = part.first_block * tile.width * BLOCK_BYTES;
            for first in (0..tile.width).step_by(abreast) {
                let columns = abreast.min(tile.width - first);
                let column = nth * TILE + first;
                // Fields one by one: a struct copied as a whole right after its fields were written
                // would wait for all stores of the tile before.
                let tile = Tile {
                    weights: part.weights,
                    num_steps: part.num_steps,
                    fetch: if is_last && first == 0 { fetch } else { Fetch::NONE },
                    table: self.table,
                    quants: tile.quants.wrapping_add(blocks_before),
                    floats: tile.floats,
                    width: tile.width,
                    first,
                    out: self.out.ptr(self.first_out + column, self.first_row),
                    stride: self.out.stride(),
                    num_rows: self.num_rows,
                    sums: part.sums.wrapping_add(column * self.panels * PANEL),
                    is_first: part.is_first,
                    is_last: part.is_last,
                };
                multiply(columns, &tile);
            }
        }
    }
}

#[cfg(test)]
mod tests;
