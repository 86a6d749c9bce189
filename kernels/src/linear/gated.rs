//! The first half of a gated feed-forward layer in one parallel region.
//!
//! The products with gate and up stay in a core's own cache until they are activated, multiplied and
//! quantised: between two products no floats go through memory, and no thread waits for another.

use std::cell::RefCell;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

use super::acts::Acts;
use super::layout::{BLOCK_BYTES, PANEL, TILE};
use super::packed::{Packed, SharedBytes};
use super::product::{Grid, Item, Task, panels_at_once};
use super::quantise::GatedBlock;
use super::tiers::dispatch;
use crate::activation::Activation;
use crate::detect::{self, Tier};
use crate::memory::Floats;
use crate::pool::Pool;
use crate::rows::{Rows, RowsMut};

/// Values of a block of activations: two panels of each matrix.
const BLOCK: usize = 32;
const PANELS: usize = BLOCK / PANEL;
/// Products that a thread keeps at a time, for its second-level cache: 128 KiB.
const MAX_PRODUCTS: usize = 32 << 10;

/// `out = activation(acts · gateᵀ) · (acts · upᵀ)`, quantised: the same bits as [`super::linear`]
/// followed by [`Acts::set_glu`], but sooner. False, and nothing is done, if the shapes or the types
/// do not allow it: `gate` and `up` must be quantised, with as many rows, a multiple of 32, and `out`
/// made for quantised weights only.
///
/// Panics if `acts` have other columns than the matrices, or were made for weights of other types.
pub fn gated(
    acts: &Acts,
    [gate, up]: [&Packed; 2],
    activation: Activation,
    out: &mut Acts,
    pool: &Pool,
) -> bool {
    let n = gate.n();
    if gate.is_float() || up.is_float() || up.n() != n || !n.is_multiple_of(BLOCK) {
        return false;
    }
    let Some(quants) = out.quants_mut(acts.rows(), n) else { return false };
    assert!(gate.k() == acts.cols() && up.k() == acts.cols(), "columns of weights and activations");
    assert!(acts.has_quants(), "these activations were not made for {} weights", gate.ty());
    if acts.rows() == 0 {
        return true;
    }
    let spoiled: Vec<AtomicU8> = (0..acts.num_tiles()).map(|_| AtomicU8::new(0)).collect();
    let work = Gated {
        tier: detect::tier(),
        acts,
        matrices: [gate, up],
        activation,
        quants,
        num_blocks: n / BLOCK,
        spoiled: &spoiled,
    };
    let grid = Grid::new(n / BLOCK, acts.num_tiles(), pool.threads());
    pool.for_each(grid.items(), |thread, index| {
        let Item { panels: blocks, tiles, wanted_end } = grid.item(index, thread);
        // With few rows many blocks at a time, so that the weights of a matrix are a long stream.
        let num_tiles = tiles.len().min(MAX_PRODUCTS / (2 * BLOCK * TILE));
        let num_blocks = (MAX_PRODUCTS / (2 * BLOCK * TILE * num_tiles)).max(1);
        for first_block in blocks.clone().step_by(num_blocks) {
            let blocks = first_block..blocks.end.min(first_block + num_blocks);
            for first in tiles.clone().step_by(num_tiles) {
                let tiles = first..tiles.end.min(first + num_tiles);
                // SAFETY: items do not overlap and each is handed out once.
                unsafe { work.run(&Item { panels: blocks.clone(), tiles, wanted_end }) };
            }
        }
    });
    for (tile, columns) in spoiled.iter().enumerate() {
        let columns = columns.load(Relaxed);
        for column in (0..TILE).filter(|column| columns >> column & 1 == 1) {
            out.spoil_row(tile * TILE + column);
        }
    }
    true
}

struct Gated<'a> {
    tier: Tier,
    acts: &'a Acts,
    matrices: [&'a Packed; 2],
    activation: Activation,
    quants: SharedBytes,
    num_blocks: usize,
    /// Columns of each tile that hold a value that is infinite or not a number.
    spoiled: &'a [AtomicU8],
}

thread_local! {
    /// Products of gate and up: (rows, values of gate and then of up).
    static PRODUCTS: RefCell<Floats> = RefCell::new(Floats::default());
}

impl Gated<'_> {
    /// Some blocks of the rows of some tiles.
    ///
    /// # Safety
    /// No one else may access these blocks of these tiles.
    unsafe fn run(&self, item: &Item) {
        PRODUCTS.with_borrow_mut(|products| {
            let first = item.tiles.start * TILE;
            let rows = (item.tiles.end * TILE).min(self.acts.rows()) - first;
            let len = item.panels.len() * BLOCK;
            products.resize(rows * 2 * len);
            // SAFETY: the caller's promise.
            unsafe {
                self.multiply(item, RowsMut::new(products, rows, 2 * len));
                self.finish(item, Rows::new(products, rows, 2 * len));
            }
        });
    }

    unsafe fn multiply(&self, item: &Item, mut out: RowsMut<'_>) {
        let out = out.shared();
        for (index, weights) in self.matrices.iter().enumerate() {
            let first = item.panels.start * PANELS;
            let last = item.panels.end * PANELS;
            let count = panels_at_once(self.tier, weights, out.rows(), PANELS);
            for panel in (first..last).step_by(count) {
                let task = Task {
                    tier: self.tier,
                    weights,
                    panel,
                    panels: count,
                    wanted_end: weights.panels_end(item.wanted_end * PANELS),
                    acts: self.acts,
                    tiles: item.tiles.clone(),
                    out,
                    first_out: 0,
                    first_row: index * item.panels.len() * BLOCK + (panel - first) * PANEL,
                };
                // SAFETY: the products are this thread's.
                unsafe { task.run() };
            }
        }
    }

    unsafe fn finish(&self, item: &Item, products: Rows<'_>) {
        let (blocks, tiles) = (&item.panels, &item.tiles);
        let stride = products.cols;
        for (nth, tile) in tiles.clone().enumerate() {
            let first = nth * TILE;
            let width = TILE.min(products.rows - first);
            let part = |at: usize| {
                Rows::strided(&products.data[first * stride + at..], width, BLOCK, stride)
            };
            let mut spoiled = 0;
            for (i, block) in blocks.clone().enumerate() {
                let before = tile * TILE * self.num_blocks + block * width;
                let work = GatedBlock {
                    gate: part(i * BLOCK),
                    up: part((blocks.len() + i) * BLOCK),
                    activation: self.activation,
                    // SAFETY: the block of this tile lies within the buffer.
                    block: unsafe { self.quants.ptr().add(before * BLOCK_BYTES) },
                };
                spoiled |= dispatch(self.tier, work);
            }
            if spoiled != 0 {
                self.spoiled[tile].fetch_or(spoiled, Relaxed);
            }
        }
    }
}
