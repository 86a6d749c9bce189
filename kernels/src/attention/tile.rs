//! The kernel: a group of query rows against one segment of keys and values.
#![allow(clippy::inline_always)]

use std::ops::Range;

use super::input::{AttnInput, BLOCK, Kv, Line, SEGMENT, SpanRef};
use super::plan::{Job, Tile, row_lines, visible};
use crate::math;
use crate::memory::prefetch;
use crate::rows::SharedRows;
use crate::simd::{Kernel, LANES, Simd};

/// Most rows that one pass over a segment serves.
const MAX_ROWS: usize = 8;
const SEGMENT_BLOCKS: usize = SEGMENT / BLOCK;
const SEGMENT_LINES: usize = SEGMENT / LANES;

/// Maximum of a row that has seen no key.
const NOTHING: f32 = f32::MIN;

/// What a row sees of a segment, positions counted from the start of the segment.
#[derive(Clone, Debug, Default)]
struct Sight {
    keys: Range<usize>,
    bias: Option<Bias>,
}

/// What scores lose with the distance of their keys.
#[derive(Clone, Copy, Debug)]
struct Bias {
    slope: f32,
    position: f32,
}

/// One thread's buffers.
#[derive(Debug, Default)]
pub(super) struct Work {
    /// Scaled queries, [group of rows][dimension][row].
    queries: Vec<f32>,
    /// States of the tile's rows.
    state: Vec<Line>,
    /// Partial results of one group of rows.
    partial: Vec<Line>,
    /// Scores, then weights, [row][key of the segment].
    scores: Vec<Line>,
}

/// Computes a job: the whole tile into the output, or partial results.
pub(super) struct RunJob<'a> {
    pub(super) input: &'a AttnInput<'a>,
    pub(super) tile: &'a Tile,
    pub(super) job: &'a Job,
    pub(super) work: &'a mut Work,
    pub(super) partial: Option<&'a mut [Line]>,
    pub(super) out: SharedRows<'a>,
    /// What this thread will probably do after it: fetched meanwhile.
    pub(super) next: Option<(&'a Tile, &'a Job)>,
}

/// Folds the partial results of a tile into the output.
pub(super) struct FoldTile<'a> {
    pub(super) input: &'a AttnInput<'a>,
    pub(super) tile: &'a Tile,
    pub(super) work: &'a mut Work,
    pub(super) partial: &'a [Line],
    pub(super) out: SharedRows<'a>,
}

/// One segment of one KV head.
struct Segment<'a> {
    k: [&'a [[u16; LANES]]; SEGMENT_BLOCKS],
    v: [&'a [[u16; LANES]]; SEGMENT_BLOCKS],
    softcap: Option<f32>,
    /// Blocks lie apart, and no prefetcher of a processor follows them. So keys are asked for while
    /// the block before them is computed, and values and what comes after the segment too.
    fetches: bool,
    after: *const u8,
}

/// Rows of a tile: which token and which head.
struct TileRows<'a> {
    input: &'a AttnInput<'a>,
    span: &'a SpanRef<'a>,
    tile: &'a Tile,
    group: usize,
    v_lines: usize,
}

impl<'a> TileRows<'a> {
    fn new(input: &'a AttnInput<'a>, tile: &'a Tile) -> TileRows<'a> {
        let shape = &input.kv.layout.shape;
        TileRows {
            input,
            span: &input.spans[tile.span],
            tile,
            group: input.params.heads / shape.kv_heads,
            v_lines: shape.v_lines(),
        }
    }

    fn len(&self) -> usize {
        self.tile.tokens.len() * self.group
    }

    /// Row of the batch and head of row `i`.
    fn row_and_head(&self, i: usize) -> (usize, usize) {
        let row = self.span.rows.start + self.tile.tokens.start + i / self.group;
        (row, self.tile.kv_head * self.group + i % self.group)
    }

    /// What row `i` sees of segment `segment`.
    fn sight(&self, i: usize, segment: usize) -> Sight {
        let token = self.tile.tokens.start + i / self.group;
        let keys = visible(self.input, self.span, token);
        let inside = |key: usize| key.saturating_sub(segment * SEGMENT).min(SEGMENT);
        let bias = self.input.params.slopes.map(|slopes| {
            let position = self.span.kv_len - self.span.rows.len() + token;
            let slope = slopes[self.tile.kv_head * self.group + i % self.group];
            Bias { slope, position: position as f32 - (segment * SEGMENT) as f32 }
        });
        Sight { keys: inside(keys.start)..inside(keys.end), bias }
    }

    /// The blocks of a segment; where the sequence ends, empty ones.
    fn segment(&self, segment: usize) -> Segment<'a> {
        let Self { input, span, tile, .. } = self;
        let Kv { layout, cache } = input.kv;
        let mut k: [&[[u16; LANES]]; SEGMENT_BLOCKS] = [&[]; SEGMENT_BLOCKS];
        let mut v = k;
        let blocks = span.blocks[..span.kv_len.div_ceil(BLOCK)].iter();
        for (i, block) in blocks.skip(segment * SEGMENT_BLOCKS).take(SEGMENT_BLOCKS).enumerate() {
            let head = &cache.block(*block)[layout.head(tile.kv_head)..][..layout.shape.head_len()];
            let (keys, values) = head.split_at(layout.shape.k_len());
            k[i] = keys.as_chunks().0;
            v[i] = values.as_chunks().0;
        }
        let softcap = input.params.softcap;
        Segment { k, v, softcap, fetches: false, after: std::ptr::null() }
    }

    /// The first keys that this tile needs of a segment.
    fn first_keys(&self, segment: usize) -> *const u8 {
        let start = visible(self.input, self.span, self.tile.tokens.start).start;
        let Kv { layout, cache } = self.input.kv;
        let block = (start / BLOCK).max(segment * SEGMENT_BLOCKS);
        let block = self.span.blocks.get(block).copied().unwrap_or(0);
        cache.block(block)[layout.head(self.tile.kv_head)..].as_ptr().cast()
    }

    /// Copies the queries, scaled, so that a dimension's values for `width` rows lie together.
    fn pack_queries(&self, width: usize, packed: &mut Vec<f32>) {
        let dim = self.input.kv.layout.shape.head_dim_k;
        let scale = self.input.params.scale;
        packed.resize(packed.len().max(self.len() * dim), 0.0);
        for first in (0..self.len()).step_by(width) {
            let rows = width.min(self.len() - first);
            let group = &mut packed[first * dim..][..rows * dim];
            for r in 0..rows {
                let (row, head) = self.row_and_head(first + r);
                let query = &self.input.q.row(row)[head * dim..][..dim];
                for (value, x) in group[r..].iter_mut().step_by(rows).zip(query) {
                    *value = x * scale;
                }
            }
        }
    }

    /// Divides by the denominators and writes the rows.
    #[inline(always)]
    fn finish<S: Simd>(&self, s: S, state: &[Line], out: SharedRows<'_>) {
        let dim = self.input.kv.layout.shape.head_dim_v;
        for (i, state) in state.chunks_exact(row_lines(self.v_lines)).enumerate() {
            let (row, head) = self.row_and_head(i);
            let max = s.splat(state[0].0[0]);
            let sum = s.splat(state[0].0[1]);
            let factor = if let Some(sinks) = self.input.params.sinks {
                let sink = s.splat(sinks[head]);
                let top = s.max(max, sink);
                let weight = math::exp(s, s.sub(max, top));
                let sum = s.fma(sum, weight, math::exp(s, s.sub(sink, top)));
                s.div(weight, sum)
            } else {
                let some = s.less(s.zero(), sum);
                s.select(some, s.div(s.splat(1.0), sum), s.zero())
            };
            // SAFETY: this job alone writes the columns of this head in this row.
            let out = unsafe { out.row_mut(row, head * dim..(head + 1) * dim) };
            for (out, line) in out.chunks_mut(LANES).zip(&state[1..]) {
                s.store_part(s.mul(s.load(&line.0), factor), out);
            }
        }
    }
}

/// Forgets all keys.
fn reset(state: &mut [Line], v_lines: usize) {
    state.fill(Line::default());
    for row in state.chunks_exact_mut(row_lines(v_lines)) {
        row[0].0[0] = NOTHING;
    }
}

/// Folds the partial result of the next segment into the state, row by row.
#[inline(always)]
fn fold<S: Simd>(s: S, state: &mut [Line], partial: &[Line], v_lines: usize) {
    let rows = state.chunks_exact_mut(row_lines(v_lines));
    for (state, partial) in rows.zip(partial.chunks_exact(row_lines(v_lines))) {
        let top = state[0].0[0].max(partial[0].0[0]);
        // Lane 0 weighs what was there, lane 1 what comes.
        let heads = [state[0].0[0] - top, partial[0].0[0] - top];
        let mut weights = [0.0; LANES];
        s.store(math::exp(s, s.load_part(&heads)), &mut weights);
        let (old, new) = (s.splat(weights[0]), s.splat(weights[1]));
        let sum = s.fma(s.splat(partial[0].0[1]), new, s.mul(s.splat(state[0].0[1]), old));
        s.store_part(sum, &mut state[0].0[1..2]);
        state[0].0[0] = top;
        for (state, partial) in state[1..].iter_mut().zip(&partial[1..]) {
            let sum = s.fma(s.load(&partial.0), new, s.mul(s.load(&state.0), old));
            s.store(sum, &mut state.0);
        }
    }
}

impl Kernel for FoldTile<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = TileRows::new(self.input, self.tile);
        let lines = rows.len() * row_lines(rows.v_lines);
        let state = &mut self.work.state;
        state.resize(state.len().max(lines), Line::default());
        let state = &mut state[..lines];
        reset(state, rows.v_lines);
        for partial in self.partial.chunks_exact(lines) {
            fold(s, state, partial, rows.v_lines);
        }
        rows.finish(s, state, self.out);
    }
}

impl Kernel for RunJob<'_> {
    type Out = ();

    #[inline(always)]
    fn run<S: Simd>(self, s: S) {
        let rows = TileRows::new(self.input, self.tile);
        let most = match S::REGISTERS {
            32.. => MAX_ROWS,
            8.. => 6,
            _ => 4,
        };
        // Even groups: 9 rows are better served as 5 and 4 than as 8 and 1.
        let width = rows.len().div_ceil(rows.len().div_ceil(most));
        let dim = self.input.kv.layout.shape.head_dim_k;
        let row_lines = row_lines(rows.v_lines);
        let lines = rows.len() * row_lines;
        let Work { queries, state, partial, scores } = self.work;
        rows.pack_queries(width, queries);
        state.resize(state.len().max(lines), Line::default());
        partial.resize(partial.len().max(MAX_ROWS * row_lines), Line::default());
        scores.resize(MAX_ROWS * SEGMENT_LINES, Line::default());
        let state = &mut state[..lines];
        reset(state, rows.v_lines);

        let is_whole = self.partial.is_none();
        let mut wanted = self.partial.map(|partial| partial.chunks_exact_mut(lines));
        for index in self.job.segments.clone() {
            let mut segment = rows.segment(index);
            segment.after = if index + 1 < self.job.segments.end {
                rows.first_keys(index + 1)
            } else {
                self.next.map_or(std::ptr::null(), |(tile, job)| {
                    TileRows::new(self.input, tile).first_keys(job.segments.start)
                })
            };
            let mut wanted = wanted.as_mut().and_then(Iterator::next);
            for first in (0..rows.len()).step_by(width) {
                let count = width.min(rows.len() - first);
                let mut seen: [Sight; MAX_ROWS] = Default::default();
                for (r, sight) in seen[..count].iter_mut().enumerate() {
                    *sight = rows.sight(first + r, index);
                }
                let queries = &queries[first * dim..][..count * dim];
                let at = first * row_lines..(first + count) * row_lines;
                let partial = match &mut wanted {
                    Some(wanted) => &mut wanted[at.clone()],
                    None => &mut partial[..at.len()],
                };
                let scores = &mut scores[..];
                segment.fetches = first == 0;
                match count {
                    1 => segment.run::<S, 1>(s, queries, &seen, scores, partial),
                    2 => segment.run::<S, 2>(s, queries, &seen, scores, partial),
                    3 => segment.run::<S, 3>(s, queries, &seen, scores, partial),
                    4 => segment.run::<S, 4>(s, queries, &seen, scores, partial),
                    5 => segment.run::<S, 5>(s, queries, &seen, scores, partial),
                    6 => segment.run::<S, 6>(s, queries, &seen, scores, partial),
                    7 => segment.run::<S, 7>(s, queries, &seen, scores, partial),
                    _ => segment.run::<S, 8>(s, queries, &seen, scores, partial),
                }
                if is_whole {
                    fold(s, &mut state[at.clone()], &partial[..at.len()], rows.v_lines);
                }
            }
        }
        if is_whole {
            rows.finish(s, state, self.out);
        }
    }
}

impl Segment<'_> {
    /// The partial results of `R` rows.
    #[inline(always)]
    fn run<S: Simd, const R: usize>(
        &self,
        s: S,
        queries: &[f32],
        seen: &[Sight; MAX_ROWS],
        scores: &mut [Line],
        out: &mut [Line],
    ) {
        let seen = &seen[..R];
        let start = seen.iter().map(|sight| sight.keys.start).min().unwrap_or(0);
        let end = seen.iter().map(|sight| sight.keys.end).max().unwrap_or(0);
        let row_lines = out.len() / R;
        if start >= end {
            reset(out, row_lines - 1);
            return;
        }
        self.scores::<S, R>(s, queries, start / BLOCK..end.div_ceil(BLOCK), scores);
        let lines = start / LANES..end.div_ceil(LANES);
        for (r, sight) in seen.iter().enumerate() {
            let scores = &mut scores[r * SEGMENT_LINES..][..SEGMENT_LINES];
            let (max, sum) = self.weights(s, scores, sight, &lines);
            out[r * row_lines].0[0] = max;
            out[r * row_lines].0[1] = sum;
        }
        let mut column = 0;
        while column < row_lines - 1 {
            let left = row_lines - 1 - column;
            column += match S::REGISTERS {
                32.. if R <= 6 && left >= 4 => {
                    self.values::<S, R, 4>(s, scores, start..end, column, out)
                }
                32.. if left >= 2 => self.values::<S, R, 2>(s, scores, start..end, column, out),
                8.. if R <= 2 && left >= 2 => {
                    self.values::<S, R, 2>(s, scores, start..end, column, out)
                }
                _ => self.values::<S, R, 1>(s, scores, start..end, column, out),
            };
        }
    }

    /// Products of the queries with every key of `blocks`.
    #[inline(always)]
    fn scores<S: Simd, const R: usize>(
        &self,
        s: S,
        queries: &[f32],
        blocks: Range<usize>,
        scores: &mut [Line],
    ) {
        let (queries, _) = queries.as_chunks::<R>();
        let dim = queries.len();
        // What is read after the keys of block `i`.
        let after = |i: usize| match () {
            () if !self.fetches => self.k[i.min(blocks.end - 1)].as_ptr().cast(),
            () if i < blocks.end => self.k[i].as_ptr().cast(),
            () => self.v[(blocks.start + i - blocks.end).min(blocks.end - 1)].as_ptr().cast(),
        };
        let mut block = blocks.start;
        while block < blocks.end {
            let k = self.k[block];
            let line = block * (BLOCK / LANES);
            if S::REGISTERS >= 32 && R <= 2 && block + 1 < blocks.end {
                // Few rows: more keys at once hide the latency of the additions.
                let next = self.k[block + 1];
                let tiles = [&k[..dim], &k[dim..], &next[..dim], &next[dim..]];
                products(s, queries, tiles, [after(block + 2), after(block + 3)], scores, line);
                block += 2;
                continue;
            }
            if S::REGISTERS >= 32 || (S::REGISTERS >= 8 && R <= 2) {
                products(s, queries, [&k[..dim], &k[dim..]], [after(block + 1)], scores, line);
            } else {
                products(s, queries, [&k[..dim]], [after(block + 1)], scores, line);
                products(s, queries, [&k[dim..]], [], scores, line + 1);
            }
            block += 1;
        }
    }

    /// Turns a row's scores into weights relative to their maximum, zero where the row sees no
    /// key, for all of `lines`. Returns the maximum and the sum of the weights.
    #[inline(always)]
    fn weights<S: Simd>(
        &self,
        s: S,
        scores: &mut [Line],
        Sight { keys, bias }: &Sight,
        lines: &Range<usize>,
    ) -> (f32, f32) {
        let nothing = s.splat(NOTHING);
        let mut max = nothing;
        for line in lines.clone() {
            let mut x = s.load(&scores[line].0);
            if let Some(cap) = self.softcap {
                x = math::softcap(s, x, cap);
                s.store(x, &mut scores[line].0);
            }
            if let Some(bias) = bias {
                x = bias.apply(s, x, line);
                s.store(x, &mut scores[line].0);
            }
            max = s.max(max, s.select(mask(s, keys, line), x, nothing));
        }
        let max = s.reduce_max(max);
        let mut sum = s.zero();
        for line in lines.clone() {
            let x = s.sub(s.load(&scores[line].0), s.splat(max));
            let weight = s.select(mask(s, keys, line), math::exp(s, x), s.zero());
            s.store(weight, &mut scores[line].0);
            sum = s.add(sum, weight);
        }
        (max, s.reduce_add(sum))
    }

    /// Sums of the values of `keys` by weight, for `N` vectors of dimensions from `column` on.
    /// Returns `N`.
    #[inline(always)]
    fn values<S: Simd, const R: usize, const N: usize>(
        &self,
        s: S,
        weights: &[Line],
        keys: Range<usize>,
        column: usize,
        out: &mut [Line],
    ) -> usize {
        let row_lines = out.len() / R;
        let v_lines = row_lines - 1;
        let weights = weights.as_ptr().cast::<f32>();
        let mut sums = [[s.zero(); N]; R];
        for block in keys.start / BLOCK..keys.end.div_ceil(BLOCK) {
            let first = keys.start.max(block * BLOCK);
            let last = keys.end.min((block + 1) * BLOCK);
            let values = &self.v[block][..BLOCK * v_lines];
            let is_last = block + 1 == keys.end.div_ceil(BLOCK);
            let ahead = if is_last { self.after } else { self.v[block + 1].as_ptr().cast() };
            let ahead_len = if self.fetches && column == 0 && !ahead.is_null() {
                v_lines * 2 * LANES
            } else {
                0
            };
            for key in first..last {
                prefetch(ahead.wrapping_add(key % BLOCK * ahead_len), ahead_len);
                let row = &values[key % BLOCK * v_lines + column..][..N];
                let mut v = [s.zero(); N];
                for n in 0..N {
                    v[n] = s.load_f16(&row[n]);
                }
                for r in 0..R {
                    // SAFETY: `weights` holds MAX_ROWS rows of SEGMENT floats, r < MAX_ROWS and
                    // key < SEGMENT.
                    let weight = s.splat(unsafe { *weights.add(r * SEGMENT + key) });
                    for n in 0..N {
                        sums[r][n] = s.fma(weight, v[n], sums[r][n]);
                    }
                }
            }
        }
        for r in 0..R {
            for n in 0..N {
                s.store(sums[r][n], &mut out[r * row_lines + 1 + column + n].0);
            }
        }
        N
    }
}

impl Bias {
    /// The scores of line `line` less what the distance of its keys takes.
    #[inline(always)]
    fn apply<S: Simd>(self, s: S, x: S::F, line: usize) -> S::F {
        const STEPS: [f32; LANES] = {
            let mut steps = [0.0; LANES];
            let mut at = 0;
            while at < LANES {
                steps[at] = at as f32;
                at += 1;
            }
            steps
        };
        let first = s.splat((line * LANES) as f32 - self.position);
        let distance = s.abs(s.add(s.load(&STEPS), first));
        s.fnma(s.splat(self.slope), distance, x)
    }
}

/// Lanes of line `line` that lie in `keys`.
#[inline(always)]
fn mask<S: Simd>(s: S, keys: &Range<usize>, line: usize) -> S::M {
    let base = line * LANES;
    s.lanes(keys.start.saturating_sub(base), keys.end.saturating_sub(base))
}

/// Products of `R` queries with `N` tiles of sixteen keys, into lines `line..line + N` of each
/// row's scores. Every product is one chain of multiply-adds over the dimensions. Meanwhile a block
/// of keys is fetched from each of `ahead`.
#[inline(always)]
fn products<S: Simd, const R: usize, const N: usize, const A: usize>(
    s: S,
    queries: &[[f32; R]],
    tiles: [&[[u16; LANES]]; N],
    ahead: [*const u8; A],
    scores: &mut [Line],
    line: usize,
) {
    const BLOCK_LINE: usize = size_of::<[u16; BLOCK]>();
    for tile in tiles {
        assert_eq!(tile.len(), queries.len(), "dimensions of a key");
    }
    let mut sums = [[s.zero(); N]; R];
    for (i, query) in queries.iter().enumerate() {
        for ahead in ahead {
            prefetch(ahead.wrapping_add(i * BLOCK_LINE), BLOCK_LINE);
        }
        let mut k = [s.zero(); N];
        for n in 0..N {
            // SAFETY: every tile is as long as `queries`.
            k[n] = s.load_f16(unsafe { tiles[n].get_unchecked(i) });
        }
        for r in 0..R {
            let q = s.splat(query[r]);
            for n in 0..N {
                sums[r][n] = s.fma(q, k[n], sums[r][n]);
            }
        }
    }
    for r in 0..R {
        for n in 0..N {
            s.store(sums[r][n], &mut scores[r * SEGMENT_LINES + line + n].0);
        }
    }
}
