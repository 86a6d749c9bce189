//! What the scheduler is given and what it decides.

use std::ops::Range;

use crate::model::SpanState;

/// Limits that do not change while the engine runs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SchedulerConfig {
    pub num_blocks: usize,
    /// Of them, those that are there from the beginning; a sequence may need no more.
    pub first_blocks: usize,
    /// Sequences that hold blocks at the same time.
    pub max_running: usize,
    pub prefix_cache: bool,
    /// A sequence is computed in one step or not at all: its tokens see those after them.
    pub whole_sequences: bool,
    /// Pages of state, for models whose layers carry one from token to token; 0 where none do. At least
    /// twice `max_running`.
    pub num_states: usize,
}

/// How many rows a step may have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// All rows; at least the number of running sequences.
    pub max_rows: usize,
    /// Rows of chunks; at least 1.
    pub chunk_rows: usize,
    /// Rows of chunks in a step in which others decode; at least 1.
    pub chunk_rows_beside_decode: usize,
}

/// Rows of one sequence in a step.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Piece {
    pub sequence: u64,
    /// Position of the first row.
    pub start: usize,
    /// Rows, drafts included; at least 1.
    pub num_rows: usize,
    /// Of them, trailing rows whose tokens are guessed.
    pub num_draft: usize,
    /// Rows within the piece whose logits or hidden states are wanted; they end with the piece or are none.
    pub logits: Range<usize>,
    /// Where the sequence's state is read and written, where it has one.
    pub state: Option<SpanState>,
}

/// What one step computes, and what changed to make room for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    pub pieces: Vec<Piece>,
    pub num_rows: usize,
    /// Leading pieces that are decoding.
    pub num_decode: usize,
    pub admitted: Vec<Admitted>,
    /// Sequences that gave their blocks back.
    pub preempted: Vec<u64>,
}

/// A sequence that got its blocks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Admitted {
    pub sequence: u64,
    /// Tokens that the prefix cache had.
    pub num_cached: usize,
    /// The first token that differs from the cached prompt that has most in common with this one; `None`
    /// where none does.
    pub parted_at: Option<usize>,
    /// Not after a preemption.
    pub is_first: bool,
}

/// Sums since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SchedulerCounts {
    pub preemptions: u64,
    /// Tokens of prompts that were looked up in the prefix cache, and those found.
    pub prefix_queried: u64,
    pub prefix_hit: u64,
}
