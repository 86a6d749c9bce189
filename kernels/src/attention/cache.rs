//! Writing the cache.

use super::{BLOCK, KvLayout, KvPool};
use crate::pool::Pool;
use crate::rows::Rows;
use crate::simd::{Kernel, LANES, Level, Simd, dispatch};

/// Fewer values than this are written by the caller alone.
const SERIAL_BELOW: usize = 4 * 1024;

/// One layer of a cache, to be written.
#[derive(Debug)]
pub struct KvMut<'a> {
    pub layout: KvLayout,
    pub cache: &'a mut KvPool,
}

/// Stores rows of keys `k` (T, kv_heads * head_dim_k) and values `v` (T, kv_heads * head_dim_v),
/// rounded to half floats, in `slots` (T), each `block * BLOCK + position % BLOCK`. Where slots
/// repeat, the last row stays.
///
/// Panics if the shapes do not fit or a slot lies outside the cache.
pub fn kv_write(kv: KvMut<'_>, k: Rows<'_>, v: Rows<'_>, slots: &[u32], pool: &Pool) {
    let KvMut { layout, cache } = kv;
    let shape = layout.shape;
    assert_eq!(k.cols, shape.kv_heads * shape.head_dim_k, "columns of the keys");
    assert_eq!(v.cols, shape.kv_heads * shape.head_dim_v, "columns of the values");
    assert!(k.rows == slots.len() && v.rows == slots.len(), "one slot for each row");
    let num_slots = layout.num_blocks(cache) * BLOCK;
    for slot in slots {
        assert!((*slot as usize) < num_slots, "slot {slot} of {num_slots}");
    }
    let level = Level::current();
    let (at, pieces) = (cache.locate(), cache.shared());
    // A thread takes the keys or the values of one head, so no two write to the same place even
    // if slots repeat.
    let write = |_: usize, item: usize| {
        let head = item / 2;
        for (row, slot) in slots.iter().enumerate() {
            let (block, position) = (*slot / BLOCK as u32, *slot as usize % BLOCK);
            let start = layout.head(head);
            let (values, range) = if item.is_multiple_of(2) {
                let values = &k.row(row)[head * shape.head_dim_k..][..shape.head_dim_k];
                (values, start..start + shape.k_len())
            } else {
                let values = &v.row(row)[head * shape.head_dim_v..][..shape.head_dim_v];
                (values, start + shape.k_len()..start + shape.head_len())
            };
            let (piece, range) = at.place(block, range);
            // SAFETY: this item alone touches the keys, or the values, of this head.
            let place = unsafe { pieces[piece].slice(range) };
            let to = if item.is_multiple_of(2) {
                let tile = &mut place[position / LANES * (shape.k_len() / 2)..];
                Destination::Column(&mut tile[position % LANES..shape.k_len() / 2])
            } else {
                let width = shape.v_len() / BLOCK;
                Destination::Row(&mut place[position * width..][..width])
            };
            dispatch(level, Halve { values, to });
        }
    };
    let items = shape.kv_heads * 2;
    if slots.len() * (k.cols + v.cols) < SERIAL_BELOW {
        (0..items).for_each(|item| write(0, item));
    } else {
        pool.for_each(items, write);
    }
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
