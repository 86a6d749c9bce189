//! Writing the cache.

use super::{BLOCK, KvShape};
use crate::parallel::Shared;
use crate::pool::Pool;
use crate::rows::Rows;
use crate::simd::{Kernel, LANES, Level, Simd, dispatch};

/// Fewer values than this are written by the caller alone.
const SERIAL_BELOW: usize = 4 * 1024;

/// The pools of one layer, to be written.
#[derive(Debug)]
pub struct KvMut<'a> {
    pub shape: KvShape,
    /// (blocks, [`KvShape::k_block_len`]).
    pub k: &'a mut [u16],
    /// (blocks, [`KvShape::v_block_len`]).
    pub v: &'a mut [u16],
}

/// Stores rows of keys `k` (T, kv_heads * head_dim_k) and values `v` (T, kv_heads * head_dim_v),
/// rounded to half floats, in `slots` (T), each `block * BLOCK + position % BLOCK`. Where slots
/// repeat, the last row stays.
///
/// Panics if the shapes do not fit or a slot lies outside the pools.
pub fn kv_write(kv: KvMut<'_>, k: Rows<'_>, v: Rows<'_>, slots: &[u32], pool: &Pool) {
    let shape = kv.shape;
    assert_eq!(k.cols, shape.kv_heads * shape.head_dim_k, "columns of the keys");
    assert_eq!(v.cols, shape.kv_heads * shape.head_dim_v, "columns of the values");
    assert!(k.rows == slots.len() && v.rows == slots.len(), "one slot for each row");
    let (k_head, v_head) = (shape.k_head_len(), shape.v_head_len());
    let blocks = (kv.k.len() / shape.k_block_len()).min(kv.v.len() / shape.v_block_len());
    for slot in slots {
        assert!((*slot as usize) < blocks * BLOCK, "slot {slot} of {}", blocks * BLOCK);
    }
    let level = Level::current();
    let (k_pool, v_pool) = (Shared::new(kv.k), Shared::new(kv.v));
    // A thread takes the keys or the values of one head, so no two write to the same place even
    // if slots repeat.
    let write = |_: usize, item: usize| {
        let head = item / 2;
        for (row, slot) in slots.iter().enumerate() {
            let (block, position) = (*slot as usize / BLOCK, *slot as usize % BLOCK);
            if item.is_multiple_of(2) {
                let start = (block * shape.kv_heads + head) * k_head;
                // SAFETY: this item alone touches the keys of this head.
                let tile = unsafe { k_pool.slice(start..start + k_head) };
                let values = &k.row(row)[head * shape.head_dim_k..][..shape.head_dim_k];
                let tile = &mut tile[position / LANES * (k_head / 2)..][..k_head / 2];
                let to = Destination::Column(&mut tile[position % LANES..]);
                dispatch(level, Halve { values, to });
            } else {
                let start = (block * shape.kv_heads + head) * v_head;
                // SAFETY: this item alone touches the values of this head.
                let rows = unsafe { v_pool.slice(start..start + v_head) };
                let values = &v.row(row)[head * shape.head_dim_v..][..shape.head_dim_v];
                let width = v_head / BLOCK;
                let to = Destination::Row(&mut rows[position * width..][..width]);
                dispatch(level, Halve { values, to });
            }
        }
    };
    let items = shape.kv_heads * 2;
    if slots.len() * (k.cols + v.cols) < SERIAL_BELOW {
        (0..items).for_each(|item| write(0, item));
    } else {
        pool.for_each(items, write);
    }
}

/// Copies block `from` to block `to`, keys and values.
///
/// Panics if the pools do not have them.
pub fn copy_block(kv: KvMut<'_>, from: u32, to: u32) {
    let copy = |pool: &mut [u16], len: usize| {
        let start = from as usize * len;
        pool.copy_within(start..start + len, to as usize * len);
    };
    copy(kv.k, kv.shape.k_block_len());
    copy(kv.v, kv.shape.v_block_len());
}

/// Where the halves of one head of one row go.
enum Destination<'a> {
    /// Every sixteenth element.
    Column(&'a mut [u16]),
    /// Side by side, the padding zero.
    Row(&'a mut [u16]),
}

/// Rounds values to half floats.
struct Halve<'a> {
    values: &'a [f32],
    to: Destination<'a>,
}

impl Kernel for Halve<'_> {
    type Out = ();

    #[allow(clippy::inline_always)]
    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let halve = |values: &[f32]| {
            let mut halves = [0; LANES];
            s.store_f16(s.load_part(values), &mut halves);
            halves
        };
        match self.to {
            Destination::Column(column) => {
                let columns = column.chunks_mut(LANES * LANES);
                for (values, column) in self.values.chunks(LANES).zip(columns) {
                    let halves = halve(values);
                    for (i, half) in halves[..values.len()].iter().enumerate() {
                        column[i * LANES] = *half;
                    }
                }
            }
            Destination::Row(row) => {
                let (row, _) = row.as_chunks_mut();
                for (values, row) in self.values.chunks(LANES).zip(row) {
                    *row = halve(values);
                }
            }
        }
    }
}
