//! One growing list of tokens and the KV blocks that hold it. Bookkeeping only.

use super::prefix::{Key, block_hash};
use super::tenant::Owner;
use crate::model::{BLOCK, SpanState};

/// What the scheduler must know of a new sequence.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NewSequence {
    /// Unique in the engine; ascending in order of arrival.
    pub id: u64,
    pub owner: Owner,
    pub prompt: Vec<u32>,
    pub max_tokens: usize,
    pub salt: u64,
    /// Logits of every prompt row are wanted, not of the last alone.
    pub prompt_logits: bool,
    /// Hidden states are wanted in place of logits.
    pub embedded: bool,
    /// Where the second of two texts begins.
    pub second_from: Option<u32>,
    /// Positions at which other prompts may part from this one, such as the ends of messages: states are
    /// kept there.
    pub marks: Vec<u32>,
}

/// A sequence as the scheduler sees it.
///
/// ```text
///   tokens   [ prompt ............ | generated ......... ]
///   KV       [ computed ........................ | pending ]   pending = 1 when decoding
///   blocks   [ committed .... | held ............ ]
/// ```
#[derive(Debug)]
pub struct Sequence {
    id: u64,
    owner: Owner,
    tokens: Vec<u32>,
    prompt_len: usize,
    salt: u64,
    prompt_logits: bool,
    embedded: bool,
    second_from: Option<u32>,
    pub(super) marks: Vec<u32>,
    /// Chained hashes of the full blocks of `tokens`.
    hashes: Vec<u64>,
    /// Prompt rows whose logits were handed out; survives preemption.
    pub(super) num_logits_done: usize,
    /// Physical blocks, in order of position.
    pub(super) blocks: Vec<u32>,
    /// Positions whose KV is written.
    pub(super) num_computed: usize,
    /// Leading blocks that are in the prefix cache.
    pub(super) num_committed: usize,
    /// Another content has the hash of one of its blocks: nothing more can be cached.
    pub(super) has_collided: bool,
    /// It had blocks before: tokens taken from the cache were reported then.
    pub(super) was_admitted: bool,
    /// Guessed continuation, verified by the next step.
    pub(super) draft: Vec<u32>,
    /// Tokens whose rows a decoding sequence computes once more, as its state is that before them.
    pub(super) num_repeated: usize,
    /// For models whose layers carry a state.
    pub(super) state: Carried,
}

/// Where the state of a running sequence is, and where copies of it will be.
#[derive(Debug, Default)]
pub(super) struct Carried {
    /// The page with the state after `num_computed` tokens; none at the beginning.
    pub(super) page: Option<u32>,
    /// Blocks after which a snapshot is wanted, ascending.
    pub(super) wanted: Vec<usize>,
    /// Blocks up to the last snapshot.
    pub(super) num_saved: usize,
    /// The block behind which the last snapshot of generated tokens stands.
    pub(super) trail: Option<u32>,
    /// Pages of the step that is being computed.
    pub(super) flight: Option<SpanState>,
}

impl Sequence {
    #[must_use]
    pub fn new(new: NewSequence) -> Self {
        let mut sequence = Self {
            id: new.id,
            owner: new.owner,
            prompt_len: new.prompt.len(),
            tokens: new.prompt,
            salt: new.salt,
            prompt_logits: new.prompt_logits,
            embedded: new.embedded,
            second_from: new.second_from,
            marks: new.marks,
            hashes: Vec::new(),
            num_logits_done: 0,
            blocks: Vec::new(),
            num_computed: 0,
            num_committed: 0,
            has_collided: false,
            was_admitted: false,
            draft: Vec::new(),
            num_repeated: 0,
            state: Carried::default(),
        };
        sequence.extend_hashes();
        sequence
    }

    #[must_use]
    pub fn id(&self) -> u64 {
        self.id
    }

    #[must_use]
    pub fn salt(&self) -> u64 {
        self.salt
    }

    #[must_use]
    pub fn owner(&self) -> Owner {
        self.owner
    }

    /// Prompt and generated tokens.
    #[must_use]
    pub fn tokens(&self) -> &[u32] {
        &self.tokens
    }

    #[must_use]
    pub fn prompt_len(&self) -> usize {
        self.prompt_len
    }

    /// Hidden states of its rows are wanted in place of logits.
    #[must_use]
    pub fn is_embedded(&self) -> bool {
        self.embedded
    }

    /// Where the second of two texts begins.
    #[must_use]
    pub fn second_from(&self) -> Option<u32> {
        self.second_from
    }

    #[must_use]
    pub fn num_generated(&self) -> usize {
        self.tokens.len() - self.prompt_len
    }

    /// Positions whose KV is written.
    #[must_use]
    pub fn num_computed(&self) -> usize {
        self.num_computed
    }

    /// Tokens whose KV is not written; at least one, because the last token's row gives the next.
    #[must_use]
    pub fn num_pending(&self) -> usize {
        self.tokens.len() - self.num_computed
    }

    /// Its next step gives a token, as the one before did.
    #[must_use]
    pub(super) fn is_decoding(&self) -> bool {
        self.num_pending() <= 1 + self.num_repeated
    }

    /// Physical blocks, in order of position.
    #[must_use]
    pub fn blocks(&self) -> &[u32] {
        &self.blocks
    }

    /// The guessed continuation.
    #[must_use]
    pub fn draft(&self) -> &[u32] {
        &self.draft
    }

    /// Token at a position, counting the draft as continuation.
    #[must_use]
    pub fn token_at(&self, position: usize) -> Option<u32> {
        let known = self.tokens.get(position);
        known.or_else(|| self.draft.get(position.checked_sub(self.tokens.len())?)).copied()
    }

    /// Chained hashes of the full blocks.
    #[must_use]
    pub fn hashes(&self) -> &[u64] {
        &self.hashes
    }

    /// First row whose logits are wanted although it is not the last: with prompt logits, those not
    /// yet handed out.
    #[must_use]
    pub fn logits_from(&self) -> usize {
        if self.prompt_logits && self.num_logits_done < self.prompt_len {
            self.num_logits_done
        } else {
            usize::MAX
        }
    }

    /// Full blocks that may come from the cache: one token stays to be computed, and rows whose
    /// logits are wanted too.
    #[must_use]
    pub fn num_cacheable(&self) -> usize {
        (self.tokens.len() - 1).min(self.logits_from()) / BLOCK
    }

    /// What block `index` contains, when it follows the block `parent`.
    pub(super) fn key(&self, index: usize, parent: Option<u32>) -> Option<Key<'_>> {
        Some(Key {
            hash: *self.hashes.get(index)?,
            parent,
            salt: self.salt,
            tokens: self.tokens.get(index * BLOCK..(index + 1) * BLOCK)?,
        })
    }

    /// Appends a generated token.
    pub(super) fn push(&mut self, token: u32) {
        self.tokens.push(token);
        self.extend_hashes();
    }

    /// Everything must be computed again, generated tokens included.
    pub(super) fn reset(&mut self) -> Vec<u32> {
        self.num_computed = 0;
        self.num_committed = 0;
        self.num_repeated = 0;
        self.draft.clear();
        std::mem::take(&mut self.blocks)
    }

    fn extend_hashes(&mut self) {
        let full = self.tokens.chunks_exact(BLOCK).skip(self.hashes.len());
        for tokens in full {
            let hash = block_hash(self.hashes.last().copied(), self.salt, tokens);
            self.hashes.push(hash);
        }
    }
}
