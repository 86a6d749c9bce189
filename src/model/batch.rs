//! The flat, ragged batch: what one step runs.

use std::ops::Range;

pub use kolosal_kernels::recurrence::StateSave;

/// Positions of KV in one block.
pub const BLOCK: usize = 32;

/// Tokens of any mix of sequences, prompt chunks and decode rows alike, as one list of rows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Batch {
    /// Token ids, (T).
    pub tokens: Vec<u32>,
    /// Position of each row in its sequence, (T).
    pub positions: Vec<u32>,
    /// Where each row's K and V go in the pool, (T): `block * BLOCK + position % BLOCK`.
    pub slots: Vec<u32>,
    /// One for every sequence in the step; they cover `0..T` in order.
    pub spans: Vec<Span>,
    /// Ascending rows whose logits are wanted.
    pub logit_rows: Vec<u32>,
    /// Ascending rows whose final hidden states are wanted, for embeddings.
    pub hidden_rows: Vec<u32>,
    /// Which of two texts each row belongs to, (T): 0 or 1. Empty: all to the first.
    pub types: Vec<u32>,
}

/// One sequence's rows in a batch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Span {
    /// Rows in the batch; they are the last `rows.len()` positions of `kv_len`.
    pub rows: Range<u32>,
    /// Positions of the sequence after this step.
    pub kv_len: u32,
    /// Physical blocks of positions `0..kv_len`, in order: `ceil(kv_len / BLOCK)` of them or more.
    pub blocks: Vec<u32>,
    /// Where the sequence's state is, for models whose layers carry one from token to token.
    pub state: Option<SpanState>,
}

/// Pages of state that a step reads and writes for one sequence. No page is written for two sequences,
/// nor read for one and written for another.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SpanState {
    /// The state before the span's rows; `None` at the beginning of the sequence.
    pub from: Option<u32>,
    /// Where the state after them goes; it may be the same page.
    pub to: u32,
    /// Copies of the state after some of the rows, ascending.
    pub saves: Vec<StateSave>,
}

impl Batch {
    #[must_use]
    pub fn len(&self) -> usize {
        self.tokens.len()
    }

    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.tokens.is_empty()
    }
}
