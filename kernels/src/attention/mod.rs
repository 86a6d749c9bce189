//! Attention of ragged batches over a paged cache of half floats.
//!
//! A query sees its keys in fixed segments of 256 positions, counted from the start of its
//! sequence. Each segment gives a partial result (maximum, denominator, weighted values), and the
//! partial results are folded from the first segment to the last. Segments are the unit of
//! parallel work too, so the bits of a row do not depend on the number of threads, on the other
//! rows of the batch, or on how a prompt was cut into chunks: a segment that a row does not see
//! leaves its state as it was.
//!
//! Layout of the cache: a block of [`BLOCK`] positions holds all layers side by side, so that a
//! sequence's cache is a few long runs of memory, which huge pages serve. In a block, a layer has for
//! each KV head
//!
//! ```text
//! K: two tiles of 16 positions, [tile][dimension][position]   one vector holds 16 keys
//! V: one row for each position, [position][dimension]         rows padded to 16 dimensions
//! ```

mod cache;
mod input;
mod kv_pool;
mod plan;
mod tile;

pub use cache::{KvMut, kv_write};
pub use input::{AttnInput, AttnParams, BLOCK, Kv, KvLayout, KvShape, SpanRef};
pub use kv_pool::KvPool;

use crate::memory::OutOfMemory;
use crate::parallel::Shared;
use crate::pool::Pool;
use crate::rows::RowsMut;
use crate::simd::{Level, dispatch};
use input::Line;
use plan::Plan;
use tile::{FoldTile, RunJob, Work};

/// Below this many multiply-adds a parallel region costs more than it saves.
const SERIAL_BELOW: usize = 200_000;

/// Buffers that attention reuses from call to call.
#[derive(Debug, Default)]
pub struct AttnScratch {
    plan: Plan,
    /// One for each thread.
    work: Vec<Work>,
    /// Partial results of tiles whose segments are spread over threads.
    partials: Vec<Line>,
}

impl AttnScratch {
    pub fn new() -> AttnScratch {
        AttnScratch::default()
    }
}

/// Softmax attention of every row over its sequence's keys, into `out` (T, heads * head_dim_v).
/// Rows outside all spans are left as they are; a row that sees no key becomes zero.
///
/// Panics if the shapes do not fit, if spans overlap, or if a span names a block that the pools
/// do not have.
///
/// # Errors
/// The system has no memory for partial results.
pub fn attention(
    input: &AttnInput<'_>,
    mut out: RowsMut<'_>,
    scratch: &mut AttnScratch,
    pool: &Pool,
) -> Result<(), OutOfMemory> {
    check(input, &out);
    let level = Level::current();
    let AttnScratch { plan, work, partials } = scratch;
    let total = plan.make(input, pool.threads());
    let missing = plan.partial_lines.saturating_sub(partials.len());
    let wanted = plan.partial_lines.saturating_mul(size_of::<Line>());
    partials.try_reserve(missing).map_err(|_| OutOfMemory { wanted })?;
    partials.resize(partials.len() + missing, Line::default());
    work.resize_with(work.len().max(pool.threads()), Work::default);

    let out = out.shared();
    let work = Shared::new(work);
    let partials = Shared::new(partials);
    let run_job = |thread: usize, job: usize| {
        let next = plan.jobs.get(job + 1).map(|job| (&plan.tiles[job.tile], job));
        let job = &plan.jobs[job];
        let tile = &plan.tiles[job.tile];
        // SAFETY: no two calls with the same thread number overlap.
        let work = unsafe { work.slice(thread..thread + 1) };
        let partial = job.partial.clone().map(|range| {
            // SAFETY: the plan gives every job a range of its own.
            unsafe { partials.slice(range) }
        });
        dispatch(level, RunJob { input, tile, job, work: &mut work[0], partial, out, next });
    };
    if total < SERIAL_BELOW {
        (0..plan.jobs.len()).for_each(|job| run_job(0, job));
    } else {
        pool.for_each(plan.jobs.len(), run_job);
    }
    let fold = |thread: usize, fold: usize| {
        let fold = &plan.folds[fold];
        let tile = &plan.tiles[fold.tile];
        // SAFETY: no two calls with the same thread number overlap.
        let work = unsafe { work.slice(thread..thread + 1) };
        // SAFETY: the jobs that wrote these ranges are done, and each fold has its own.
        let partial = unsafe { partials.slice(fold.partial.clone()) };
        dispatch(level, FoldTile { input, tile, work: &mut work[0], partial, out });
    };
    pool.for_each(plan.folds.len(), fold);
    Ok(())
}

/// Panics on input that would read or write out of bounds.
fn check(input: &AttnInput<'_>, out: &RowsMut<'_>) {
    let AttnInput { q, kv, spans, params } = input;
    let shape = &kv.layout.shape;
    let heads = params.heads;
    assert!(
        shape.kv_heads > 0 && heads.is_multiple_of(shape.kv_heads),
        "{heads} heads are no multiple of {} KV heads",
        shape.kv_heads
    );
    assert!(shape.head_dim_k > 0 && shape.head_dim_v > 0, "a head needs dimensions");
    assert_eq!(q.cols, heads * shape.head_dim_k, "columns of the queries");
    assert_eq!(out.cols, heads * shape.head_dim_v, "columns of the output");
    assert_eq!(q.rows, out.rows, "rows of the output");
    assert!(params.sinks.is_none_or(|sinks| sinks.len() == heads), "one sink for each head");
    assert!(params.slopes.is_none_or(|slopes| slopes.len() == heads), "one slope for each head");
    assert!(params.chunk != Some(0), "a chunk needs positions");
    let blocks = kv.layout.num_blocks(kv.cache);
    let mut covered = 0;
    for span in *spans {
        assert!(covered <= span.rows.start && span.rows.start <= span.rows.end, "spans overlap");
        covered = span.rows.end;
        assert!(covered <= q.rows, "a span ends at row {covered} of {}", q.rows);
        assert!(span.rows.len() <= span.kv_len, "a span is longer than its sequence");
        let needed = span.kv_len.div_ceil(BLOCK);
        assert!(span.blocks.len() >= needed, "{} of {needed} blocks", span.blocks.len());
        for block in &span.blocks[..needed] {
            assert!((*block as usize) < blocks, "block {block} of {blocks}");
        }
    }
}

#[cfg(test)]
mod tests;
