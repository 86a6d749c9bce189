//! Linear recurrences: attention whose keys and values are summed up in one matrix for each head.
//!
//! For each head, with keys `k` and queries `q` of `key_dim`, values `v` of `value_dim`, the state S
//! (key_dim, value_dim), a decay and a gain:
//!
//! ```text
//! u = gain · v                              Rule::Add     (Mamba 2: B = k, C = q, x = v, dt = gain)
//! u = gain · (v - kᵀ (decay ⊙ S))           Rule::Delta   (Gated DeltaNet, arXiv 2412.06464)
//! S = decay ⊙ S + k uᵀ
//! out = qᵀ S
//! ```
//!
//! Columns of S do not see each other. Sixteen of them, (key_dim, 16), lie together and stay in the
//! first cache while the rows of a step pass.
#![allow(clippy::inline_always)]

use std::ops::Range;

use super::{SharedPages, StatePages, StateSpan};
use crate::pool::Pool;
use crate::rows::{Rows, RowsMut, SharedRows};
use crate::simd::{Kernel, LANES, Level, Simd, dispatch};

/// Widest key of a recurrence.
pub const MAX_KEY_DIM: usize = 256;
/// Sums run side by side, so that none waits for the one before.
const SUMS: usize = 4;

/// What is added to the state.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Rule {
    Add,
    Delta,
}

/// The sizes of a recurrence.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ScanShape {
    pub heads: usize,
    /// Keys and queries that heads share.
    pub groups: usize,
    /// Heads of a group are neighbours; else head `h` is of group `h % groups`.
    pub is_grouped: bool,
    pub key_dim: usize,
    pub value_dim: usize,
    pub rule: Rule,
    /// A decay for each key column, not one for each head.
    pub decays_by_key: bool,
}

impl ScanShape {
    /// Floats of one layer's state of one sequence.
    pub fn state_len(&self) -> usize {
        self.heads * self.tiles() * self.tile_len()
    }

    fn tiles(&self) -> usize {
        self.value_dim.div_ceil(LANES)
    }

    fn tile_len(&self) -> usize {
        self.key_dim * LANES
    }

    /// The group that head `head` is of.
    pub fn group(&self, head: usize) -> usize {
        if self.is_grouped { head / (self.heads / self.groups) } else { head % self.groups }
    }

    fn decays(&self) -> usize {
        if self.decays_by_key { self.heads * self.key_dim } else { self.heads }
    }
}

/// What a recurrence reads.
#[derive(Clone, Debug)]
pub struct ScanInput<'a> {
    /// (T, groups · key_dim).
    pub q: Rows<'a>,
    /// (T, groups · key_dim).
    pub k: Rows<'a>,
    /// (T, heads · value_dim).
    pub v: Rows<'a>,
    /// Factors of the state: (T, heads), or (T, heads · key_dim).
    pub decay: &'a [f32],
    /// (T, heads).
    pub gain: &'a [f32],
    pub spans: &'a [StateSpan<'a>],
    pub shape: ScanShape,
}

impl ScanInput<'_> {
    fn check(&self, out: &RowsMut<'_>) {
        let (shape, rows) = (&self.shape, self.v.rows);
        let keys = shape.groups * shape.key_dim;
        assert!((1..=MAX_KEY_DIM).contains(&shape.key_dim), "keys of {}", shape.key_dim);
        assert!(shape.groups > 0 && shape.heads.is_multiple_of(shape.groups), "heads in groups");
        assert!(self.q.cols == keys && self.k.cols == keys, "columns of queries and keys");
        assert!(self.q.rows == rows && self.k.rows == rows, "rows of queries and keys");
        assert_eq!(self.v.cols, shape.heads * shape.value_dim, "columns of the values");
        assert_eq!(self.decay.len(), rows * shape.decays(), "decays");
        assert_eq!(self.gain.len(), rows * shape.heads, "gains");
        assert!(out.rows == rows && out.cols == self.v.cols, "the output has another shape");
        assert!(self.spans.iter().all(|span| span.rows.end <= rows), "rows of the batch");
    }
}

/// Runs the recurrence over the rows of each span: (T, heads · value_dim). The state is `part` of
/// pages, [`ScanShape::state_len`] floats.
///
/// Panics if shapes do not fit, or spans share pages that one of them writes.
pub fn scan(
    input: &ScanInput<'_>,
    (states, part): (&mut StatePages, Range<usize>),
    mut out: RowsMut<'_>,
    pool: &Pool,
) {
    input.check(&out);
    assert_eq!(part.len(), input.shape.state_len(), "the layer's part of a page");
    let states = states.shared(input.spans, &part);
    let (level, out, heads) = (Level::current(), out.shared(), input.shape.heads);
    pool.for_each(input.spans.len() * heads, |_, item| {
        let (span, head) = (&input.spans[item / heads], item % heads);
        dispatch(level, Head { input, span, states: &states, out, head });
    });
}

/// One head of one span.
struct Head<'a> {
    input: &'a ScanInput<'a>,
    span: &'a StateSpan<'a>,
    states: &'a SharedPages<'a>,
    out: SharedRows<'a>,
    head: usize,
}

/// Sixteen columns of a state.
type Tile = [[f32; LANES]];

/// What one row brings to a head.
struct Row<'a> {
    q: &'a [f32],
    k: &'a [f32],
    /// One, or one for each key column.
    decay: &'a [f32],
    gain: f32,
}

impl<'a> Head<'a> {
    fn row(&self, row: usize) -> Row<'a> {
        let (input, head) = (self.input, self.head);
        let ScanShape { heads, key_dim, decays_by_key, .. } = input.shape;
        let keys = input.shape.group(head) * key_dim..(input.shape.group(head) + 1) * key_dim;
        let width = if decays_by_key { key_dim } else { 1 };
        Row {
            q: &input.q.row(row)[keys.clone()],
            k: &input.k.row(row)[keys],
            decay: &input.decay[(row * heads + head) * width..][..width],
            gain: input.gain[row * heads + head],
        }
    }
}

impl Kernel for Head<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let shape = &self.input.shape;
        let mut floats = [0.0; MAX_KEY_DIM * LANES];
        let tile = &mut floats[..shape.tile_len()];
        for index in 0..shape.tiles() {
            let at = (self.head * shape.tiles() + index) * shape.tile_len();
            let first = self.head * shape.value_dim + index * LANES;
            let columns = first..first + LANES.min(shape.value_dim - index * LANES);
            // SAFETY: only this item writes this tile of a page that the span reads.
            unsafe { self.states.load(self.span.from, at, tile) };
            let mut saves = self.span.saves.iter().peekable();
            for row in self.span.rows.clone() {
                let v = s.load_part(&self.input.v.row(row)[columns.clone()]);
                let (tile_rows, _) = tile.as_chunks_mut();
                let value = match (shape.rule, shape.decays_by_key) {
                    (Rule::Add, false) => step::<S, false, false>(s, &self.row(row), v, tile_rows),
                    (Rule::Add, true) => step::<S, false, true>(s, &self.row(row), v, tile_rows),
                    (Rule::Delta, false) => step::<S, true, false>(s, &self.row(row), v, tile_rows),
                    (Rule::Delta, true) => step::<S, true, true>(s, &self.row(row), v, tile_rows),
                };
                // SAFETY: these columns of the span's rows belong to this item.
                s.store_part(value, unsafe { self.out.row_mut(row, columns.clone()) });
                let done = (row + 1 - self.span.rows.start) as u32;
                if let Some(save) = saves.next_if(|save| save.rows == done) {
                    // SAFETY: this tile of the pages that a span writes belongs to this item.
                    unsafe { self.states.store(save.page, at, tile) };
                }
            }
            // SAFETY: as above.
            unsafe { self.states.store(self.span.to, at, tile) };
        }
    }
}

/// One row through one tile: what the queries find, sixteen columns.
#[inline(always)]
fn step<S: Simd, const DELTA: bool, const BY_KEY: bool>(
    s: S,
    row: &Row<'_>,
    v: S::F,
    tile: &mut Tile,
) -> S::F {
    let decay = s.splat(row.decay[0]);
    let gain = s.splat(row.gain);
    let added = if DELTA {
        let mut sums = [s.zero(); SUMS];
        for (i, (k, column)) in row.k.iter().zip(&*tile).enumerate() {
            let k = if BY_KEY { k * row.decay[i] } else { *k };
            sums[i % SUMS] = s.fma(s.splat(k), s.load(column), sums[i % SUMS]);
        }
        let known = total(s, sums);
        let missing = if BY_KEY { s.sub(v, known) } else { s.fnma(decay, known, v) };
        s.mul(gain, missing)
    } else {
        s.mul(gain, v)
    };
    let mut sums = [s.zero(); SUMS];
    for (i, column) in tile.iter_mut().enumerate() {
        let decay = if BY_KEY { s.splat(row.decay[i]) } else { decay };
        let kept = s.mul(decay, s.load(column));
        let new = s.fma(s.splat(row.k[i]), added, kept);
        s.store(new, column);
        sums[i % SUMS] = s.fma(s.splat(row.q[i]), new, sums[i % SUMS]);
    }
    total(s, sums)
}

#[inline(always)]
fn total<S: Simd>(s: S, sums: [S::F; SUMS]) -> S::F {
    s.add(s.add(sums[0], sums[1]), s.add(sums[2], sums[3]))
}
