//! Cuts a batch into tiles, and the work on them into jobs for threads.

use std::ops::Range;

use super::input::{AttnInput, Line, SEGMENT, SpanRef};
use crate::simd::LANES;

/// Rows (tokens times heads of a group) of a tile: enough that a key, once converted, meets many
/// queries; few enough that queries and results stay in the innermost caches.
const TILE_ROWS: usize = 48;
/// Jobs that each thread should get, so that stealing can even them out.
const JOBS_PER_THREAD: usize = 8;
/// Most memory for partial results; past it segments of a tile are not spread over threads.
const MAX_PARTIAL_BYTES: usize = 32 << 20;

/// Some tokens of one span with all the heads of one KV head.
#[derive(Clone, Debug)]
pub(super) struct Tile {
    pub(super) span: usize,
    pub(super) kv_head: usize,
    /// Tokens, counted from the first row of the span.
    pub(super) tokens: Range<usize>,
    /// Segments that any of the tokens sees.
    pub(super) segments: Range<usize>,
}

/// A tile, or some segments of it.
#[derive(Clone, Debug)]
pub(super) struct Job {
    pub(super) tile: usize,
    pub(super) segments: Range<usize>,
    /// Where the partial results of these segments go; None when the job does the whole tile.
    pub(super) partial: Option<Range<usize>>,
}

/// A tile whose partial results are to be folded.
#[derive(Clone, Debug)]
pub(super) struct Fold {
    pub(super) tile: usize,
    pub(super) partial: Range<usize>,
}

/// All work of one call.
#[derive(Debug, Default)]
pub(super) struct Plan {
    pub(super) tiles: Vec<Tile>,
    pub(super) jobs: Vec<Job>,
    pub(super) folds: Vec<Fold>,
    pub(super) partial_lines: usize,
}

/// Lines of one row's state: its maximum and denominator, then its weighted values.
pub(super) fn row_lines(v_lines: usize) -> usize {
    1 + v_lines
}

/// Keys that token `token` of the span sees.
pub(super) fn visible(input: &AttnInput<'_>, span: &SpanRef<'_>, token: usize) -> Range<usize> {
    let position = span.kv_len - span.rows.len() + token;
    let mut end = if input.params.causal { position + 1 } else { span.kv_len };
    let mut start = 0;
    if let Some(window) = input.params.window {
        start = (position + 1).saturating_sub(window);
        end = end.min(position.saturating_add(window));
    }
    if let Some(chunk) = input.params.chunk {
        start = start.max(position / chunk * chunk);
    }
    start..end.max(start)
}

impl Plan {
    /// Plans a call for `threads` threads and returns its multiply-adds.
    pub(super) fn make(&mut self, input: &AttnInput<'_>, threads: usize) -> usize {
        self.tiles.clear();
        self.jobs.clear();
        self.folds.clear();
        self.partial_lines = 0;
        let group = input.params.heads / input.kv.layout.shape.kv_heads;
        let tokens_per_tile = (TILE_ROWS / group).max(1);
        for (index, span) in input.spans.iter().enumerate() {
            for kv_head in 0..input.kv.layout.shape.kv_heads {
                for first in (0..span.rows.len()).step_by(tokens_per_tile) {
                    let tokens = first..(first + tokens_per_tile).min(span.rows.len());
                    let start = visible(input, span, tokens.start).start;
                    let end = visible(input, span, tokens.end - 1).end;
                    let segments = start / SEGMENT..end.div_ceil(SEGMENT);
                    self.tiles.push(Tile { span: index, kv_head, tokens, segments });
                }
            }
        }
        let cost = |tile: &Tile| tile.segments.len() * tile.tokens.len();
        let total: usize = self.tiles.iter().map(cost).sum();
        let target = if threads > 1 { total / (threads * JOBS_PER_THREAD) } else { usize::MAX };
        for index in 0..self.tiles.len() {
            let parts = cost(&self.tiles[index]).checked_div(target).unwrap_or(usize::MAX);
            self.cut(input, index, parts);
        }
        let shape = &input.kv.layout.shape;
        total * group * SEGMENT * (shape.head_dim_k + shape.v_lines() * LANES)
    }

    /// Makes the jobs of a tile, whose segments may be cut into `parts`.
    fn cut(&mut self, input: &AttnInput<'_>, index: usize, parts: usize) {
        let Tile { ref tokens, ref segments, .. } = self.tiles[index];
        let group = input.params.heads / input.kv.layout.shape.kv_heads;
        let lines = tokens.len() * group * row_lines(input.kv.layout.shape.v_lines());
        let parts = parts.min(segments.len());
        let end = self.partial_lines + lines * segments.len();
        if parts < 2 || end * size_of::<Line>() > MAX_PARTIAL_BYTES {
            self.jobs.push(Job { tile: index, segments: segments.clone(), partial: None });
            return;
        }
        let at = |part: usize| segments.start + segments.len() * part / parts;
        for part in 0..parts {
            let segments = at(part)..at(part + 1);
            let partial = self.partial_lines..self.partial_lines + lines * segments.len();
            self.partial_lines = partial.end;
            self.jobs.push(Job { tile: index, segments, partial: Some(partial) });
        }
        let partial = end - lines * segments.len()..end;
        self.folds.push(Fold { tile: index, partial });
    }
}
