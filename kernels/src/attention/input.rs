//! What attention reads: the shape of the cache, the spans of a batch, what a layer computes.

use std::ops::Range;

use super::kv_pool::KvPool;
use crate::rows::Rows;
use crate::simd::LANES;

/// Positions in one block of the cache.
pub const BLOCK: usize = 32;
/// Positions whose scores are computed before they are turned into weights.
pub(super) const SEGMENT: usize = 256;

/// The cache of one layer: how many heads, how wide.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvShape {
    pub kv_heads: usize,
    /// Dimensions of a key, any number.
    pub head_dim_k: usize,
    /// Dimensions of a value, any number.
    pub head_dim_v: usize,
}

impl KvShape {
    /// Half floats that one layer takes in a block.
    pub(super) fn len(&self) -> usize {
        self.kv_heads * self.head_len()
    }

    /// Half floats of one head: its keys, then its values.
    pub(super) fn head_len(&self) -> usize {
        self.k_len() + self.v_len()
    }

    /// Half floats of the keys of one head.
    pub(super) fn k_len(&self) -> usize {
        BLOCK * self.head_dim_k
    }

    /// Half floats of the values of one head.
    pub(super) fn v_len(&self) -> usize {
        BLOCK * self.v_lines() * LANES
    }

    /// Vectors that hold one value.
    pub(super) fn v_lines(&self) -> usize {
        self.head_dim_v.div_ceil(LANES)
    }
}

/// Where one layer's keys and values lie in a cache.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvLayout {
    pub shape: KvShape,
    /// Half floats of one block, all layers together.
    pub block_len: usize,
    /// Half floats of the layers before this one.
    pub offset: usize,
}

impl KvLayout {
    /// The layouts of all layers that share a cache.
    pub fn of_layers(shapes: impl IntoIterator<Item = KvShape>) -> Vec<KvLayout> {
        let mut block_len = 0;
        let mut layouts: Vec<KvLayout> = shapes
            .into_iter()
            .map(|shape| {
                let offset = block_len;
                block_len += shape.len();
                KvLayout { shape, block_len: 0, offset }
            })
            .collect();
        layouts.iter_mut().for_each(|layout| layout.block_len = block_len);
        layouts
    }

    /// Where in a block the keys of a head begin; its values follow them.
    pub(super) fn head(&self, kv_head: usize) -> usize {
        self.offset + kv_head * self.shape.head_len()
    }

    /// Blocks of a cache in which this layer has its place.
    pub(super) fn num_blocks(&self, cache: &KvPool) -> usize {
        assert!(self.offset + self.shape.len() <= self.block_len, "a layer outside its block");
        assert_eq!(self.block_len, cache.block_len(), "half floats of a block");
        cache.num_blocks()
    }
}

/// One layer of a cache, shared.
#[derive(Clone, Copy, Debug)]
pub struct Kv<'a> {
    pub layout: KvLayout,
    pub cache: &'a KvPool,
}

/// One sequence's part of a batch.
#[derive(Clone, Debug)]
pub struct SpanRef<'a> {
    /// Rows of the batch; they are the last positions of `kv_len`, in order.
    pub rows: Range<usize>,
    /// Positions in the cache, those of `rows` included.
    pub kv_len: usize,
    /// Physical blocks of positions `0..kv_len`, at least `ceil(kv_len / BLOCK)` of them.
    pub blocks: &'a [u32],
}

/// What a layer's attention computes.
#[derive(Clone, Copy, Debug)]
pub struct AttnParams<'a> {
    /// Query heads, a multiple of the KV heads.
    pub heads: usize,
    /// Factor of the scores, usually `1 / sqrt(head_dim)`.
    pub scale: f32,
    /// A row sees keys up to its own position only.
    pub causal: bool,
    /// A row sees keys less than this many positions away.
    pub window: Option<usize>,
    /// A row sees no key of a chunk of this many positions before its own.
    pub chunk: Option<usize>,
    /// For each head, what a step away from a key takes off its score (ALiBi, arXiv 2108.12409),
    /// (heads).
    pub slopes: Option<&'a [f32]>,
    /// Scores become `cap * tanh(score / cap)`.
    pub softcap: Option<f32>,
    /// For each head, the score of an extra key without a value, (heads).
    pub sinks: Option<&'a [f32]>,
}

/// What [`attention`](super::attention()) reads.
#[derive(Clone, Copy, Debug)]
pub struct AttnInput<'a> {
    /// (T, heads * head_dim_k).
    pub q: Rows<'a>,
    pub kv: Kv<'a>,
    /// Ascending and disjoint.
    pub spans: &'a [SpanRef<'a>],
    pub params: AttnParams<'a>,
}

/// Sixteen floats in one cache line.
#[derive(Clone, Copy, Debug, Default)]
#[repr(align(64))]
pub(super) struct Line(pub(super) [f32; LANES]);
