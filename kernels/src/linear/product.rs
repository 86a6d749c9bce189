//! The product of activations with packed matrices: cut into items for threads, and each item into tiles
//! for kernels.

use std::cell::RefCell;
use std::ops::Range;

use super::acts::Acts;
use super::format::Format;
use super::kernel::{self, Fetch, Tile};
use super::layout::{BLOCK_BYTES, PANEL, TILE};
use super::packed::Packed;
use super::packing::with_format;
use super::{float, tiers};
use crate::detect::{self, Tier};
use crate::memory::{Buffer, CACHE_LINE};
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
pub(super) struct Grid {
    num_panels: usize,
    num_tiles: usize,
    panel_parts: usize,
    tile_parts: usize,
    threads: usize,
}

impl Grid {
    pub(super) fn new(num_panels: usize, num_tiles: usize, threads: usize) -> Grid {
        let wanted = if threads == 1 { 1 } else { threads * PARTS_PER_THREAD };
        let panel_parts = wanted.min(num_panels);
        let tile_parts = wanted.div_ceil(panel_parts).min(num_tiles);
        Grid { num_panels, num_tiles, panel_parts, tile_parts, threads }
    }

    pub(super) fn items(&self) -> usize {
        self.panel_parts * self.tile_parts
    }

    /// Item `index`, which `thread` has. Neighbouring items are neighbouring panels.
    pub(super) fn item(&self, index: usize, thread: usize) -> Item {
        let (panels, tiles) = (self.panel_parts, self.tile_parts);
        let (column, row) = (index % panels, index / panels);
        // A thread goes through its run of items, but of those of others takes one.
        let run = Pool::share(self.items(), thread, self.threads);
        let last =
            if run.contains(&index) { (run.end - 1).min(row * panels + panels - 1) } else { index };
        Item {
            panels: Pool::share(self.num_panels, column, panels),
            tiles: Pool::share(self.num_tiles, row, tiles),
            wanted_end: Pool::share(self.num_panels, last % panels, panels).end,
        }
    }
}

/// Some panels of a group and some tiles.
pub(super) struct Item {
    pub(super) panels: Range<usize>,
    pub(super) tiles: Range<usize>,
    /// The end of the panels that the thread goes through one after another.
    pub(super) wanted_end: usize,
}

impl Item {
    /// The tiles, in runs that a core's cache holds, of about the same length.
    fn tile_runs(&self, cols: usize) -> impl Iterator<Item = Range<usize>> {
        let tile_bytes = TILE * (cols / 32) * BLOCK_BYTES;
        let most = (ACTS_BYTES / tile_bytes.max(1)).max(FETCH_TILES);
        let (start, len) = (self.tiles.start, self.tiles.len());
        let runs = len.div_ceil(most);
        (0..runs).map(move |run| {
            let run = Pool::share(len, run, runs);
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
                    let weights = matrix.weights;
                    let rows = self.acts.rows().min(tiles.len() * TILE);
                    let task = Task {
                        tier: self.tier,
                        weights,
                        panel: panel - first,
                        panels: panels_at_once(self.tier, weights, rows, end - panel),
                        wanted_end: weights.panels_end(item.wanted_end - first),
                        acts: self.acts,
                        tiles: tiles.clone(),
                        out: matrix.out,
                        first_out: tiles.start * TILE,
                        first_row: (panel - first) * PANEL,
                    };
                    // SAFETY: the caller's promise.
                    unsafe { task.run() };
                    panel += task.panels;
                }
            }
        }
    }
}

/// Of `left` panels, those to multiply side by side by `rows` rows.
pub(super) fn panels_at_once(tier: Tier, weights: &Packed, rows: usize, left: usize) -> usize {
    match (weights.is_float(), rows) {
        (true, 1) if left >= float::PANELS => float::PANELS,
        (true, _) if left >= 2 => 2,
        // A value that is loaded for two panels costs half: loads are the limit of many rows.
        (false, MIN_ROWS_OF_TWO..) if left >= 2 && tiers::takes_two_panels(tier) => 2,
        _ => 1,
    }
}

/// Fewer rows are served better by one panel at a time.
const MIN_ROWS_OF_TWO: usize = 4 * TILE;

/// Bytes of activations that go through all panels of an item before the next ones do: they are
/// read from the second-level cache.
const ACTS_BYTES: usize = 512 << 10;

/// Bytes of an expanded part of a panel, which is read from the second-level cache.
const EXPANDED_BYTES: usize = 64 << 10;

/// How far ahead of itself a thread fetches weights that it reads once. Memory takes 0.1 to 0.2
/// microseconds to answer, and processors by themselves look ahead no further than a page.
const STREAM_AHEAD: usize = 8 << 10;

/// Tiles over which the fetching of the next panel is spread: the last ones, which find their own in
/// the innermost cache.
const FETCH_TILES: usize = 4;

/// Tiles up to which codes are unpacked anew for each: bytes take longer to write and read again.
const DIRECT_TILES: usize = 3;

/// What a thread needs to expand panels.
struct Scratch {
    /// A part of a panel with a byte per code.
    expanded: Buffer,
    /// Sums of the columns, 16 floats each.
    carry: Buffer,
}

thread_local! {
    static SCRATCH: RefCell<Scratch> =
        const { RefCell::new(Scratch { expanded: Buffer::empty(), carry: Buffer::empty() }) };
}

/// One panel, or several side by side, times some tiles.
pub(super) struct Task<'a> {
    pub(super) tier: Tier,
    pub(super) weights: &'a Packed,
    /// The first of the panels.
    pub(super) panel: usize,
    pub(super) panels: usize,
    /// Where the weights end that this thread will want.
    pub(super) wanted_end: *const u8,
    pub(super) acts: &'a Acts,
    pub(super) tiles: Range<usize>,
    pub(super) out: SharedRows<'a>,
    /// Row of `out` for the first column of the first tile.
    pub(super) first_out: usize,
    /// Column of `out` for the first row of the panels.
    pub(super) first_row: usize,
}

/// A run of the columns of a panel.
struct Part {
    weights: *const u8,
    num_steps: usize,
    /// Bytes from them to those of the panel beside.
    panel_bytes: usize,
    /// Blocks of activations before it.
    first_block: usize,
    /// Sums of all columns of all tiles, see [`Tile`].
    sums: *mut f32,
    is_first: bool,
    is_last: bool,
    /// Weights that follow, which are fetched meanwhile, and their bytes.
    next: (*const u8, usize),
    /// How often a kernel fetches a piece of them.
    num_fetches: usize,
    /// The last tiles, over which the fetching is spread.
    fetch_tiles: usize,
}

impl Part {
    /// All columns of panels.
    fn whole(weights: *const u8, num_steps: usize, next: (*const u8, usize)) -> Part {
        Part {
            weights,
            num_steps,
            panel_bytes: 0,
            first_block: 0,
            sums: std::ptr::null_mut(),
            is_first: true,
            is_last: true,
            next,
            num_fetches: num_steps,
            fetch_tiles: 1,
        }
    }

    /// What is to be fetched with tile `nth` of `num_tiles`, up to `wanted_end`.
    fn fetch(&self, nth: usize, num_tiles: usize, wanted_end: *const u8) -> Fetch {
        let (next, len) = self.next;
        let shares = self.fetch_tiles.min(num_tiles);
        let Some(share) = (nth + shares).checked_sub(num_tiles) else { return Fetch::NONE };
        let bytes = len * share / shares..len * (share + 1) / shares;
        let piece = bytes.len().div_ceil(self.num_fetches.max(1));
        if num_tiles == 1 {
            // One tile alone runs through its weights, only just behind those that are fetched.
            let ahead = STREAM_AHEAD.min(next.addr() - self.weights.addr());
            return Fetch { next: self.weights.wrapping_add(ahead), len: piece, end: wanted_end };
        }
        // Floats side by side each have a last tile of their own.
        let end = if shares == 1 { wanted_end } else { next.wrapping_add(bytes.end) };
        Fetch {
            next: next.wrapping_add(bytes.start),
            len: piece.next_multiple_of(CACHE_LINE),
            end: wanted_end.min(end),
        }
    }
}

impl Task<'_> {
    /// # Safety
    /// No one else may access the outputs.
    pub(super) unsafe fn run(&self) {
        let (weights, num_steps) = (self.weights, self.weights.num_steps());
        let start = weights.panel(self.panel).as_ptr();
        with_format!(weights.packing, T => {
            // SAFETY: panels are `num_steps` steps of `T`; outputs by the caller's promise.
            unsafe { self.codes::<T>(start, num_steps) }
        }, U => {
            let next = (start.wrapping_add(self.panels * weights.panel_bytes), weights.panel_bytes);
            let part = Part {
                num_fetches: weights.panel_bytes / CACHE_LINE,
                ..Part::whole(start, num_steps, next)
            };
            self.each_tile(&part, tiers::columns(self.tier), |columns, tile| {
                // SAFETY: as above, with `U`.
                unsafe { float::multiply::<U>(self.tier, columns, self.panels, tile) };
            });
        });
    }

    /// With few tiles, codes are unpacked in the kernel. With many, a part of the panels at a time is
    /// unpacked for all of them.
    unsafe fn codes<T: Format>(&self, weights: *const u8, num_steps: usize) {
        if T::IS_EXPANDABLE && self.tiles.len() > DIRECT_TILES {
            // SAFETY: the caller's promise.
            SCRATCH.with_borrow_mut(|scratch| unsafe {
                self.expanded::<T>(weights, num_steps, scratch);
            });
            return;
        }
        let panel_bytes = num_steps * T::BYTES;
        let len = self.panels * panel_bytes;
        let part = Part {
            panel_bytes,
            num_fetches: num_steps * T::SUB_BLOCKS,
            fetch_tiles: FETCH_TILES,
            ..Part::whole(weights, num_steps, (weights.wrapping_add(len), len))
        };
        // SAFETY: the caller's promise.
        unsafe { self.multiply::<T>(&part) };
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
        let has_room = scratch
            .expanded
            .reserve(part_len * panels * step_bytes)
            .and_then(|()| scratch.carry.reserve(self.tiles.len() * TILE * panels * PANEL * 4));
        has_room.unwrap_or_else(|error| panic!("{error}"));
        let expanded = scratch.expanded.as_mut_ptr();
        for start in (0..num_steps).step_by(part_len) {
            let len = part_len.min(num_steps - start);
            // SAFETY: there is room for `part_len` steps of all panels; the rest is the caller's
            // promise.
            unsafe {
                let weights = weights.add(start * T::BYTES);
                for panel in 0..panels {
                    let weights = weights.add(panel * num_steps * T::BYTES);
                    let expanded = expanded.add(panel * len * step_bytes);
                    kernel::expand::<T>(self.tier, weights, len, self.weights.table(), expanded);
                }
                // Of panels in several parts, only the first one's next part follows at once.
                let next_panels = if len == num_steps { panels } else { 1 };
                self.multiply::<T::Expanded>(&Part {
                    weights: expanded,
                    num_steps: len * T::SUB_BLOCKS,
                    panel_bytes: len * step_bytes,
                    first_block: start * T::SUB_BLOCKS,
                    sums: scratch.carry.as_mut_ptr().cast(),
                    is_first: start == 0,
                    is_last: start + len == num_steps,
                    next: (
                        weights.wrapping_add(next_panels * len * T::BYTES),
                        next_panels * len * T::BYTES,
                    ),
                    num_fetches: len * T::SUB_BLOCKS,
                    fetch_tiles: usize::MAX,
                });
            }
        }
    }

    unsafe fn multiply<T: Format>(&self, part: &Part) {
        let abreast =
            if self.panels == 2 { kernel::COLUMNS_OF_TWO } else { tiers::columns(self.tier) };
        self.each_tile(part, abreast, |columns, tile| {
            if self.panels == 1 || columns == abreast {
                // SAFETY: the caller's promise.
                unsafe { kernel::multiply::<T>(self.tier, columns, self.panels, tile) };
                return;
            }
            for panel in 0..self.panels {
                let mut tile = *tile;
                tile.weights = tile.weights.wrapping_add(panel * part.panel_bytes);
                tile.out = tile.out.wrapping_add(panel * PANEL);
                tile.num_rows = (tile.num_rows - panel * PANEL).min(PANEL);
                tile.sums = tile.sums.wrapping_add(panel * columns * PANEL);
                // SAFETY: the caller's promise.
                unsafe { kernel::multiply::<T>(self.tier, columns, 1, &tile) };
            }
        });
    }

    /// Calls `multiply` for each tile with at most `abreast` columns at once.
    fn each_tile(&self, part: &Part, abreast: usize, multiply: impl Fn(usize, &Tile)) {
        let num_rows = (self.panels * PANEL).min(self.weights.n() - self.panel * PANEL);
        for index in self.tiles.clone() {
            let tile = self.acts.tile(index);
            let nth = index - self.tiles.start;
            let fetch = part.fetch(nth, self.tiles.len(), self.wanted_end);
            let blocks_before = part.first_block * tile.width * BLOCK_BYTES;
            for first in (0..tile.width).step_by(abreast) {
                let columns = abreast.min(tile.width - first);
                let column = nth * TILE + first;
                // Fields one by one: a struct copied as a whole right after its fields were written
                // would wait for all stores of the tile before.
                let tile = Tile {
                    weights: part.weights,
                    num_steps: part.num_steps,
                    panel_bytes: part.panel_bytes,
                    fetch: if first == 0 { fetch } else { Fetch::NONE },
                    table: self.weights.table(),
                    quants: tile.quants.wrapping_add(blocks_before),
                    floats: tile.floats,
                    width: tile.width,
                    first,
                    out: self.out.ptr(self.first_out + column, self.first_row),
                    stride: self.out.stride(),
                    num_rows,
                    sums: part.sums.wrapping_add(column * self.panels * PANEL),
                    is_first: part.is_first,
                    is_last: part.is_last,
                };
                multiply(columns, &tile);
            }
        }
    }
}
