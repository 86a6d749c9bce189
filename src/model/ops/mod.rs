//! The decoder's operations. Each back end implements all of them: [`cpu`] with our kernels,
//! [`candle`] with portable candle tensors (CUDA, Metal, and the oracle of the CPU back end).
//!
//! They are traits by subject, each on those before: weights ([`Load`]), values ([`Tensors`]), linear
//! layers ([`Products`]), keys and values ([`Attend`]), states ([`Recur`]), and all of it ([`Ops`]).

pub mod candle;
pub mod cpu;

use std::ops::Range;

use kolosal_kernels::memory::Floats;
use kolosal_kernels::quant::GgmlType;

use super::batch::Batch;
use super::carried::{ScanShape, StateSpec};
use super::error::ModelError;
use super::runner::KvGrowth;
use super::spec::{ActSpec, AttnSpec, NormSpec, RopeSpec};

/// A weight matrix as it lies in the file: `n` rows of `k` values.
#[derive(Clone, Copy, Debug)]
pub struct WeightSource<'a> {
    pub name: &'a str,
    pub ty: GgmlType,
    pub n: usize,
    pub k: usize,
    pub bytes: &'a [u8],
    /// Factor on what the matrix makes of an input, before its bias (NVFP4's second scale).
    pub scale: f32,
}

/// Weight and optional bias of a norm.
pub struct Norm<V> {
    pub weight: V,
    pub bias: Option<V>,
    pub spec: NormSpec,
}

/// Blocks of a KV pool.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct KvBlocks {
    /// That there must be before the first step.
    pub first: usize,
    pub most: usize,
}

/// What takes the weights of a model: a back end, or a check of whether one could.
pub trait Load: Sized {
    type Linear: Send;
    type Vector: Send;
    type Rope: Send;
    /// Token embeddings.
    type Table: Send;

    /// Without it, no bytes of weights are looked at: shapes and types alone are.
    const READS: bool = true;

    /// Prepares a weight matrix; `bias` has `n` values.
    fn load_linear(
        &mut self,
        source: &WeightSource<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<Self::Linear, ModelError>;
    fn load_vector(&mut self, values: Vec<f32>) -> Result<Self::Vector, ModelError>;
    fn load_table(&mut self, source: &WeightSource<'_>) -> Result<Self::Table, ModelError>;
    /// An embedding that serves as output head too, held once.
    fn load_tied_table(
        &mut self,
        source: &WeightSource<'_>,
    ) -> Result<(Self::Table, Self::Linear), ModelError>;
    /// Cosines and sines for positions `0..context_len`; `factors` divide the frequencies.
    fn load_rope(
        &mut self,
        spec: &RopeSpec,
        factors: Option<&[f32]>,
        context_len: usize,
    ) -> Result<Self::Rope, ModelError>;
}

/// Values of rows. Tensors are (rows, columns) of f32, one row per row of the batch.
pub trait Tensors: Load + Send {
    type Tensor: Send;

    /// Values brought into `-limit..=limit`.
    fn clamp(&mut self, x: Self::Tensor, limit: f32) -> Result<Self::Tensor, ModelError>;
    /// All values times a factor.
    fn scale(&mut self, x: Self::Tensor, factor: f32) -> Result<Self::Tensor, ModelError>;
    /// Each row times its own factor; or each of equal parts of rows, if there are more factors.
    fn scale_rows(&mut self, x: Self::Tensor, factors: &[f32]) -> Result<Self::Tensor, ModelError>;
    /// Each column times its own factor.
    fn scale_columns(
        &mut self,
        x: Self::Tensor,
        factors: &Self::Vector,
    ) -> Result<Self::Tensor, ModelError>;
    /// `max(0, x - mean - deviations · σ)`, mean and σ those of the row.
    fn sparsify(&mut self, x: Self::Tensor, deviations: f32) -> Result<Self::Tensor, ModelError>;
    /// `x + scale · y`.
    fn add(
        &mut self,
        x: Self::Tensor,
        y: &Self::Tensor,
        scale: f32,
    ) -> Result<Self::Tensor, ModelError>;
    /// `x · y`, value by value.
    fn mul(&mut self, x: Self::Tensor, y: &Self::Tensor) -> Result<Self::Tensor, ModelError>;
    /// `act(x)`.
    fn activate(&mut self, x: Self::Tensor, act: ActSpec) -> Result<Self::Tensor, ModelError>;
    /// The same values once more.
    fn copy(&mut self, x: &Self::Tensor) -> Result<Self::Tensor, ModelError>;
    /// The columns `range` of each of `heads` equal parts of a row, side by side.
    fn part(
        &mut self,
        x: &Self::Tensor,
        heads: usize,
        range: Range<usize>,
    ) -> Result<Self::Tensor, ModelError>;
    /// Of each of `heads` equal parts of a row: the first tensor's part, then the second's, …
    fn join(&mut self, parts: &[&Self::Tensor], heads: usize) -> Result<Self::Tensor, ModelError>;
    /// The named rows, in order.
    fn rows(&mut self, x: &Self::Tensor, rows: &[u32]) -> Result<Self::Tensor, ModelError>;
    /// `x[rows[i]] += weights[i] · y[i]`, `i` ascending; every row at most once.
    fn add_rows(
        &mut self,
        x: Self::Tensor,
        rows: &[u32],
        weights: &[f32],
        y: &Self::Tensor,
    ) -> Result<Self::Tensor, ModelError>;
    /// A tensor of zeros, as large as `like`.
    fn zeros_like(&mut self, like: &Self::Tensor) -> Result<Self::Tensor, ModelError>;
    /// The values on the host, row-major.
    fn host(&mut self, x: Self::Tensor) -> Result<Floats, ModelError>;
    /// Takes back what [`Tensors::host`] gave, for its memory to be used again.
    fn recycle(&mut self, _values: Floats) {}
}

/// Linear layers, and what makes their inputs.
pub trait Products: Tensors {
    /// The prepared input of linear layers (quantised on the CPU).
    type Act: Send;

    /// Rows of the table times `scale`, (ids, hidden).
    fn embed(
        &mut self,
        table: &Self::Table,
        ids: &[u32],
        scale: f32,
    ) -> Result<Self::Tensor, ModelError>;
    fn norm(
        &mut self,
        x: &Self::Tensor,
        norm: &Norm<Self::Vector>,
    ) -> Result<Self::Tensor, ModelError>;
    /// [`Products::norm`], then [`Products::act`].
    fn norm_act(
        &mut self,
        x: &Self::Tensor,
        norm: &Norm<Self::Vector>,
    ) -> Result<Self::Act, ModelError>;
    fn act(&mut self, x: &Self::Tensor) -> Result<Self::Act, ModelError>;
    /// `x · Wᵀ + bias` for several matrices with one input.
    fn linear<const N: usize>(
        &mut self,
        x: &Self::Act,
        weights: [&Self::Linear; N],
    ) -> Result<[Self::Tensor; N], ModelError>;
    /// `act(gate) · up`, prepared as an input.
    fn glu_act(
        &mut self,
        gate: &Self::Tensor,
        up: &Self::Tensor,
        act: ActSpec,
    ) -> Result<Self::Act, ModelError>;
    /// `act(x · gateᵀ + bias) · (x · upᵀ + bias)`, prepared as an input.
    fn gated(
        &mut self,
        x: &Self::Act,
        gate_and_up: [&Self::Linear; 2],
        act: ActSpec,
    ) -> Result<Self::Act, ModelError> {
        let [gate, up] = self.linear(x, gate_and_up)?;
        self.glu_act(&gate, &up, act)
    }
    /// `act(x)`, prepared as an input.
    fn unary_act(&mut self, x: &Self::Tensor, act: ActSpec) -> Result<Self::Act, ModelError>;
    /// The norm over each of `heads` equal parts of a row.
    fn head_norm(
        &mut self,
        x: Self::Tensor,
        heads: usize,
        norm: &Norm<Self::Vector>,
    ) -> Result<Self::Tensor, ModelError>;
}

/// Attention over a pool of keys and values.
pub trait Attend: Tensors {
    /// Reserves the KV pool for these layers, some of which keep none: how the rest of it is had.
    fn reserve_kv(
        &mut self,
        layers: &[Option<&AttnSpec>],
        blocks: KvBlocks,
    ) -> Result<KvGrowth, ModelError>;
    /// See [`Runner::grow_kv`](crate::model::Runner::grow_kv).
    fn grow_kv(&mut self, num_blocks: usize) -> usize;
    /// Takes positions, slots and spans of the batch that the following calls work on.
    fn begin(&mut self, batch: &Batch) -> Result<(), ModelError>;
    /// Rotary embedding of each of `heads` equal parts of a row, at the row's position.
    fn rope(
        &mut self,
        x: Self::Tensor,
        heads: usize,
        rope: &Self::Rope,
    ) -> Result<Self::Tensor, ModelError>;
    /// Writes keys and values into the layer's pool, unless they are there, then attends with the
    /// queries: (rows, heads · value_dim).
    fn attention(
        &mut self,
        layer: usize,
        qkv: (&Self::Tensor, Option<[&Self::Tensor; 2]>),
        spec: &AttnSpec,
        sinks: Option<&Self::Vector>,
    ) -> Result<Self::Tensor, ModelError>;
}

/// A causal convolution of each column.
#[derive(Debug)]
pub struct Conv {
    /// Rows that a row depends on, itself included.
    pub taps: usize,
    /// (taps, columns), the tap of the row itself last.
    pub weights: Vec<f32>,
    /// (columns).
    pub bias: Option<Vec<f32>>,
    /// Of the sum.
    pub act: Option<ActSpec>,
}

/// A linear recurrence; see [`kolosal_kernels::recurrence`] for what it computes.
pub struct Scan<'a, T> {
    /// (T, groups · key_dim).
    pub q: &'a T,
    /// (T, groups · key_dim).
    pub k: &'a T,
    /// (T, heads · value_dim).
    pub v: &'a T,
    /// (T, heads), or (T, heads · key_dim).
    pub decay: &'a [f32],
    /// (T, heads).
    pub gain: &'a [f32],
    pub shape: &'a ScanShape,
}

/// States that layers carry from token to token, in pages that the spans of the batch name.
pub trait Recur: Tensors {
    /// Reserves pages for the states of these layers, some of which carry none.
    fn reserve_states(&mut self, layers: &[StateSpec], pages: usize) -> Result<(), ModelError>;
    /// Each column over the rows of its sequence: (T, columns).
    fn conv(
        &mut self,
        layer: usize,
        x: &Self::Tensor,
        conv: &Conv,
    ) -> Result<Self::Tensor, ModelError>;
    /// What the queries find: (T, heads · value_dim).
    fn scan(
        &mut self,
        layer: usize,
        scan: &Scan<'_, Self::Tensor>,
    ) -> Result<Self::Tensor, ModelError>;
}

/// What the decoder can do.
pub trait Ops: Products + Attend + Recur {
    /// Bytes of resident weights so far.
    fn weight_bytes(&self) -> usize;
    /// `cpu`, `cuda:0`, `metal:0`.
    fn device(&self) -> String;
    /// See [`Runner::num_regions`](crate::model::Runner::num_regions).
    fn num_regions(&self) -> u64 {
        0
    }
    /// What did not go as asked while loading, though all works.
    fn warning(&self) -> Option<String> {
        None
    }
}
