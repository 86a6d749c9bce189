//! What the CPU back end holds.

use std::ops::Range;
use std::sync::Arc;

use kolosal_kernels::attention::{AttnScratch, KvLayout, KvPool};
use kolosal_kernels::memory::Arena;
use kolosal_kernels::pool::Pool;
use kolosal_kernels::recurrence::StatePages;

use super::locking::Locking;
use super::tensor::Buffers;
use crate::model::batch::Span;
use crate::model::ops::Ops;

/// Weights, KV pool and scratch on the host.
pub struct CpuOps {
    pub(super) pool: Arc<Pool>,
    /// Where packed weights lie.
    pub(super) arena: Arena,
    pub(super) buffers: Buffers,
    pub(super) kv: KvCache,
    pub(super) states: States,
    pub(super) positions: Vec<u32>,
    pub(super) slots: Vec<u32>,
    pub(super) spans: Vec<Span>,
    pub(super) scratch: AttnScratch,
    pub(super) weight_bytes: usize,
    /// Whether weights are locked in memory, and how that goes.
    pub(super) locking: Option<Locking>,
    /// What a person should know of why it is this back end.
    pub(super) note: Option<String>,
    /// Some matrix is kept in floats, so that inputs are kept in floats too.
    pub(super) has_float_weights: bool,
}

/// The KV of all layers.
#[derive(Default)]
pub(super) struct KvCache {
    pub(super) layers: Vec<KvLayout>,
    /// Of each layer, the slopes of its linear biases.
    pub(super) slopes: Vec<Option<Vec<f32>>>,
    pub(super) blocks: KvPool,
}

/// State of all layers, in pages.
#[derive(Default)]
pub(super) struct States {
    pub(super) pages: StatePages,
    /// Where in a page each layer has the rows of its convolution, and its recurrence.
    pub(super) layers: Vec<[Range<usize>; 2]>,
}

impl CpuOps {
    /// A back end that computes on `pool`.
    #[must_use]
    pub fn new(pool: Arc<Pool>) -> Self {
        Self {
            pool,
            arena: Arena::default(),
            buffers: Buffers::default(),
            kv: KvCache::default(),
            states: States::default(),
            positions: Vec::new(),
            slots: Vec::new(),
            spans: Vec::new(),
            scratch: AttnScratch::new(),
            weight_bytes: 0,
            locking: None,
            note: None,
            has_float_weights: false,
        }
    }

    /// Locks matrices in memory as they are loaded, as far as the system lets it.
    #[must_use]
    pub fn with_locked_weights(mut self) -> Self {
        self.locking = Some(Locking::default());
        self
    }

    /// Says why it is this back end.
    #[must_use]
    pub fn with_note(mut self, note: Option<String>) -> Self {
        self.note = note;
        self
    }
}

impl Ops for CpuOps {
    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    fn device(&self) -> String {
        "cpu".to_owned()
    }

    fn num_regions(&self) -> u64 {
        self.pool.num_regions()
    }

    fn warning(&self) -> Option<String> {
        let locking = self.locking.as_ref().and_then(|l| l.warning(self.weight_bytes));
        let all: Vec<String> = [self.note.clone(), locking].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }
}
