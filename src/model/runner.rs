//! The seam between the engine and tensors.

use kolosal_kernels::memory::Floats;

use super::batch::Batch;

/// What the engine must know of a model to schedule for it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct RunnerSpec {
    /// Logits per row.
    pub vocab_size: usize,
    /// Positions a sequence may have.
    pub context_len: usize,
    /// Blocks in the KV pool at most.
    pub num_blocks: usize,
    /// Which of them are there from the beginning.
    pub kv_growth: KvGrowth,
    /// Rows that [`Runner::forward`] accepts in one batch.
    pub max_rows: usize,
    /// Bytes of KV in one block over all layers.
    pub kv_bytes_per_block: usize,
    /// Bytes of resident weights.
    pub weight_bytes: usize,
    /// Values of a row that [`Runner::hidden`] gives: of a hidden state, or the scores of a
    /// classifier; 0 when it gives none.
    pub hidden: usize,
    /// How hidden states become an embedding.
    pub pooling: Pooling,
    /// Where the model runs: `cpu`, `cuda:0`, `metal:0`.
    pub device: String,
    /// What the model is for.
    pub purpose: Purpose,
    /// Pages of state, for models whose layers carry one from token to token; 0 where none do.
    pub num_states: usize,
    /// Bytes of one page: the state of one sequence over all layers.
    pub state_bytes: usize,
    /// Tokens see those after them: a sequence must be computed in one step, and no part of it can be
    /// reused by another.
    pub sees_later: bool,
    /// What did not go as asked while loading, though all works.
    pub warning: Option<String>,
}

/// How a KV pool grows with its use. By default it is there as a whole.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct KvGrowth {
    /// Blocks, those with the highest numbers, that are only there once [`Runner::grow_kv`] got them. The
    /// others suffice for a sequence of the whole context.
    pub later_blocks: usize,
    /// Blocks that come at once.
    pub step_blocks: usize,
}

impl RunnerSpec {
    /// Blocks of the KV pool that are there from the beginning.
    #[must_use]
    pub fn first_blocks(&self) -> usize {
        self.num_blocks.saturating_sub(self.kv_growth.later_blocks)
    }

    /// Sequences that can run at a time, of `wanted`: each may need two pages of state.
    #[must_use]
    pub fn max_running(&self, wanted: usize) -> usize {
        match self.num_states {
            0 => wanted,
            pages => wanted.min(pages / 2).max(1),
        }
    }

    /// The model continues text.
    #[must_use]
    pub fn writes(&self) -> bool {
        self.purpose == Purpose::Generate
    }
}

/// What a model is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Purpose {
    /// It continues text. Its hidden states make embeddings too.
    #[default]
    Generate,
    /// Embeddings alone.
    Embed,
    /// Scores of pairs of texts.
    Rank,
}

/// How the hidden states of a text become one vector.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Pooling {
    /// Their mean.
    #[default]
    Mean,
    /// That of the first token.
    First,
    /// That of the last token.
    Last,
}

/// Logits of the wanted rows on the host, (`logit_rows.len()`, `vocab_size`), row-major.
#[derive(Clone, Debug, Default)]
pub struct Logits {
    pub data: Floats,
    pub vocab_size: usize,
}

impl Logits {
    /// Logits of the `i`-th wanted row, (`vocab_size`).
    #[must_use]
    pub fn row(&self, i: usize) -> &[f32] {
        &self.data[i * self.vocab_size..(i + 1) * self.vocab_size]
    }

    /// As [`Self::row`], for logits processors that edit in place.
    pub fn row_mut(&mut self, i: usize) -> &mut [f32] {
        &mut self.data[i * self.vocab_size..(i + 1) * self.vocab_size]
    }
}

/// A forward pass that failed; the engine ends its jobs with it.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct RunnerError(pub String);

/// Owner of weights and KV pool; lives on the engine thread.
pub trait Runner: Send {
    fn spec(&self) -> &RunnerSpec;

    /// Runs one batch: writes K and V of every row into its slot and computes the wanted logits.
    ///
    /// # Errors
    /// A failed device operation. A batch that contradicts [`RunnerSpec`] is a bug of the caller.
    fn forward(&mut self, batch: &Batch) -> Result<Logits, RunnerError>;

    /// Makes `num_blocks` blocks of the KV pool be there, or as many of them as the system has memory for:
    /// how many are. What blocks hold stays.
    fn grow_kv(&mut self, _num_blocks: usize) -> usize {
        self.spec().num_blocks
    }

    /// Takes back logits that were read, for their memory to be used again.
    fn recycle(&mut self, _logits: Logits) {}

    /// Takes the hidden states after the final norm of the last batch's `hidden_rows`, or what a
    /// classifier makes of them, (`hidden_rows.len()`, `hidden`), row-major.
    fn hidden(&mut self) -> Vec<f32> {
        Vec::new()
    }

    /// Parallel regions that the threads have run so far; 0 where there are none, as on GPUs.
    fn num_regions(&self) -> u64 {
        0
    }
}
