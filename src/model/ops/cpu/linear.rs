//! The CPU back end: our kernels on plain buffers.
//!
//! Every operation computes a row from that row alone, in an order that does not depend on batch,
//! chunking or threads, so logits are bitwise the same whoever else is served.

use std::borrow::Cow;
use std::ops::Range;
use std::sync::Arc;

use kolosal_kernels::RowsMut;
use kolosal_kernels::attention::{
    self, AttnInput, AttnParams, AttnScratch, Kv, KvLayout, KvMut, KvPool, KvShape, SpanRef,
};
use kolosal_kernels::elementwise;
use kolosal_kernels::linear::{self, Acts, PackError, Packed};
use kolosal_kernels::memory::{self, Arena, Floats};
use kolosal_kernels::norm;
use kolosal_kernels::pool::Pool;
use kolosal_kernels::quant::{self, GgmlType, QuantError};
use kolosal_kernels::rope::{self, RopeHeads, RopeTable};

use super::activation::{activation, oai_swiglu};
use super::buffers::{Buffers, CpuAct, CpuTensor};
use super::locking::Locking;
use super::{KvBlocks, Load, Norm, Ops, WeightSource, rows};
use crate::model::batch::{Batch, Span};
use crate::model::error::ModelError;
use crate::model::memory::copied;
use crate::model::runner::KvGrowth;
use crate::model::spec::{ActSpec, AttnSpec, NormKind, RopeSpec, RopeStyle};

/// Weights, KV pool and scratch on the host.
pub struct CpuOps {
    pool: Arc<Pool>,
    /// Where packed weights lie.
    arena: Arena,
    buffers: Buffers,
    kv: KvCache,
    positions: Vec<u32>,
    slots: Vec<u32>,
    spans: Vec<Span>,
    scratch: AttnScratch,
    weight_bytes: usize,
    /// Whether weights are locked in memory, and how that goes.
    locking: Option<Locking>,
    /// What a person should know of why it is this back end.
    note: Option<String>,
    /// Some matrix is kept in floats, so that inputs are kept in floats too.
    has_float_weights: bool,
}

/// The KV of all layers.
#[derive(Default)]
struct KvCache {
    layers: Vec<KvLayout>,
    /// Of each layer, the slopes of its linear biases.
    slopes: Vec<Option<Vec<f32>>>,
    blocks: KvPool,
}

pub struct CpuLinear {
    packed: Arc<Packed>,
    /// Factor on the output, before the bias.
    scale: f32,
    bias: Option<Vec<f32>>,
}

/// Token embeddings: the tied head's packed rows, or the file's own rows copied.
pub enum CpuTable {
    Packed(Arc<Packed>),
    Raw { ty: GgmlType, k: usize, row_bytes: usize, bytes: Vec<u8> },
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

    fn pack(&mut self, source: &WeightSource<'_>) -> Result<Arc<Packed>, ModelError> {
        let (mut ty, n, k) = (source.ty, source.n, source.k);
        let bad = |problem| {
            let name = source.name.to_owned();
            ModelError::BadTensor { name, ty: source.ty.name(), problem }
        };
        let mut bytes = Cow::Borrowed(source.bytes);
        if let Some(exact) = quant::exact_form(ty) {
            let converted = quant::to_exact_form(ty, source.bytes, n * k);
            bytes = Cow::Owned(converted.map_err(|error| match error {
                QuantError::Memory(error) => error.into(),
                error => bad(error.to_string()),
            })?);
            ty = exact;
        }
        let packed = Packed::pack_in(&self.arena, ty, n, k, &bytes, &self.pool);
        let packed = packed.map_err(|error| match error {
            PackError::Memory(error) => error.into(),
            error => bad(error.to_string()),
        })?;
        if let Some(locking) = &mut self.locking {
            locking.take(packed.bytes(), || packed.lock());
        }
        self.weight_bytes += packed.bytes();
        self.has_float_weights |= packed.is_float();
        Ok(Arc::new(packed))
    }

    fn prepared(
        &self,
        shape: [usize; 2],
        fill: impl FnOnce(&mut Acts),
    ) -> Result<CpuAct, ModelError> {
        Ok(self.buffers.acts(self.has_float_weights, shape, fill)?)
    }
}

impl Load for CpuOps {
    type Linear = CpuLinear;
    type Vector = Vec<f32>;
    type Rope = (RopeTable, rope::RopeStyle);
    type Table = CpuTable;

    fn load_linear(
        &mut self,
        source: &WeightSource<'_>,
        bias: Option<Vec<f32>>,
    ) -> Result<CpuLinear, ModelError> {
        Ok(CpuLinear { packed: self.pack(source)?, scale: source.scale, bias })
    }

    fn load_vector(&mut self, values: Vec<f32>) -> Result<Vec<f32>, ModelError> {
        self.weight_bytes += values.len() * 4;
        Ok(values)
    }

    fn load_table(&mut self, source: &WeightSource<'_>) -> Result<CpuTable, ModelError> {
        let bytes = copied(source.bytes)?;
        if let Some(locking) = &mut self.locking {
            locking.take(bytes.len(), || memory::lock(&bytes));
        }
        self.weight_bytes += bytes.len();
        Ok(CpuTable::Raw { ty: source.ty, k: source.k, row_bytes: bytes.len() / source.n, bytes })
    }

    fn load_tied_table(
        &mut self,
        source: &WeightSource<'_>,
    ) -> Result<(CpuTable, CpuLinear), ModelError> {
        let packed = self.pack(source)?;
        Ok((CpuTable::Packed(packed.clone()), CpuLinear { packed, scale: 1.0, bias: None }))
    }

    fn load_rope(
        &mut self,
        spec: &RopeSpec,
        factors: Option<&[f32]>,
        context_len: usize,
    ) -> Result<Self::Rope, ModelError> {
        let style = match spec.style {
            RopeStyle::Norm => rope::RopeStyle::Norm,
            RopeStyle::Neox => rope::RopeStyle::Neox,
        };
        let (frequencies, magnitude) = spec.frequencies(factors);
        let mut table = RopeTable::new(frequencies, magnitude);
        table.reserve(context_len)?;
        Ok((table, style))
    }
}

impl Ops for CpuOps {
    type Tensor = CpuTensor;
    type Act = CpuAct;

    fn reserve_kv(
        &mut self,
        layers: &[&AttnSpec],
        blocks: KvBlocks,
    ) -> Result<KvGrowth, ModelError> {
        let slopes = layers.iter().map(|attn| attn.slopes()).collect();
        let shapes = layers.iter().map(|attn| KvShape {
            // What is another layer's takes no room.
            kv_heads: if attn.shares_kv.is_some() { 0 } else { attn.kv_heads },
            head_dim_k: attn.head_dim,
            head_dim_v: attn.value_dim,
        });
        let layers = KvLayout::of_layers(shapes);
        let block_len = layers.first().map_or(0, |layout| layout.block_len);
        let mut pool = KvPool::new(block_len, blocks.most);
        pool.grow_to(blocks.first)?;
        let growth = KvGrowth {
            later_blocks: blocks.most - pool.num_blocks(),
            step_blocks: KvPool::piece_blocks(block_len * 2, blocks.most),
        };
        self.kv = KvCache { layers, slopes, blocks: pool };
        Ok(growth)
    }

    fn grow_kv(&mut self, num_blocks: usize) -> usize {
        // What is refused is no failure: there are as many blocks as there are.
        let _refused = self.kv.blocks.grow_to(num_blocks);
        self.kv.blocks.num_blocks()
    }

    fn weight_bytes(&self) -> usize {
        self.weight_bytes
    }

    fn num_regions(&self) -> u64 {
        self.pool.num_regions()
    }

    fn device(&self) -> String {
        "cpu".to_owned()
    }

    fn warning(&self) -> Option<String> {
        let locking = self.locking.as_ref().and_then(|l| l.warning(self.weight_bytes));
        let all: Vec<String> = [self.note.clone(), locking].into_iter().flatten().collect();
        (!all.is_empty()).then(|| all.join("; "))
    }

    fn begin(&mut self, batch: &Batch) -> Result<(), ModelError> {
        // The caller computes as the pool's first thread.
        self.pool.bind_caller();
        self.positions.clone_from(&batch.positions);
        self.slots.clone_from(&batch.slots);
        self.spans.clone_from(&batch.spans);
        Ok(())
    }

    fn embed(
        &mut self,
        table: &CpuTable,
        ids: &[u32],
        scale: f32,
    ) -> Result<CpuTensor, ModelError> {
        let cols = match table {
            CpuTable::Packed(packed) => packed.k(),
            CpuTable::Raw { k, .. } => *k,
        };
        let mut out = self.buffers.tensor(ids.len(), cols)?;
        for (row, &id) in out.data.chunks_exact_mut(cols).zip(ids) {
            match table {
                CpuTable::Packed(packed) => packed.row(id as usize, row),
                CpuTable::Raw { ty, row_bytes, bytes, .. } => {
                    let bytes = &bytes[id as usize * row_bytes..][..*row_bytes];
                    quant::dequantize(*ty, bytes, row)
                        .map_err(|error| ModelError::Limit(error.to_string()))?;
                }
            }
        }
        if scale != 1.0 {
            elementwise::scale(&mut out.data, scale, &self.pool);
        }
        Ok(out)
    }

    fn norm(&mut self, x: &CpuTensor, norm: &Norm<Vec<f32>>) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(x.rows, x.cols)?;
        let (weight, eps) = (&norm.weight, norm.spec.eps);
        match norm.spec.kind {
            NormKind::Rms => norm::rms_norm(x.view(), weight, eps, out.view_mut(), &self.pool),
            NormKind::Layer => {
                let bias = norm.bias.as_deref();
                norm::layer_norm(x.view(), weight, bias, eps, out.view_mut(), &self.pool);
            }
        }
        Ok(out)
    }

    fn norm_act(&mut self, x: &CpuTensor, norm: &Norm<Vec<f32>>) -> Result<CpuAct, ModelError> {
        let (weight, eps) = (&norm.weight, norm.spec.eps);
        self.prepared([x.rows, x.cols], |acts| match norm.spec.kind {
            NormKind::Rms => acts.set_rms_norm(x.view(), weight, eps, &self.pool),
            NormKind::Layer => {
                acts.set_layer_norm(x.view(), weight, norm.bias.as_deref(), eps, &self.pool);
            }
        })
    }

    fn act(&mut self, x: &CpuTensor) -> Result<CpuAct, ModelError> {
        self.prepared([x.rows, x.cols], |acts| acts.set(x.view(), &self.pool))
    }

    fn linear<const N: usize>(
        &mut self,
        x: &CpuAct,
        weights: [&CpuLinear; N],
    ) -> Result<[CpuTensor; N], ModelError> {
        let acts = x.acts.as_ref().expect("acts are present until drop: this is a bug");
        let widths = weights.map(|linear| linear.packed.n());
        let mut out = self.buffers.tensors(acts.rows(), widths)?;
        {
            let mut views = out.each_mut().map(|tensor| Some(tensor.view_mut()));
            let mut group: [(&Packed, RowsMut<'_>); N] = std::array::from_fn(|index| {
                let view = views[index].take().expect("one view a tensor: this is a bug");
                (weights[index].packed.as_ref(), view)
            });
            linear::linear(acts, &mut group, &self.pool);
        }
        for (tensor, linear) in out.iter_mut().zip(weights) {
            rows::scale(&mut tensor.data, linear.scale);
            if let Some(bias) = &linear.bias {
                elementwise::add_bias(tensor.view_mut(), bias, &self.pool);
            }
        }
        Ok(out)
    }

    fn clamp(&mut self, mut x: CpuTensor, limit: f32) -> Result<CpuTensor, ModelError> {
        x.data.iter_mut().for_each(|value| *value = value.clamp(-limit, limit));
        Ok(x)
    }

    fn scale_columns(
        &mut self,
        mut x: CpuTensor,
        factors: &Vec<f32>,
    ) -> Result<CpuTensor, ModelError> {
        rows::scale_columns(&mut x.data, factors);
        Ok(x)
    }

    fn sparsify(&mut self, mut x: CpuTensor, deviations: f32) -> Result<CpuTensor, ModelError> {
        rows::sparsify(&mut x.data, x.cols, deviations);
        Ok(x)
    }

    fn glu_act(
        &mut self,
        gate: &CpuTensor,
        up: &CpuTensor,
        act: ActSpec,
    ) -> Result<CpuAct, ModelError> {
        match activation(act) {
            None if act != ActSpec::OaiSwiglu => {
                Err(ModelError::Limit("xIELU has no gated form".to_owned()))
            }
            Some(act) => {
                let shape = [gate.rows, gate.cols];
                self.prepared(shape, |acts| acts.set_glu(gate.view(), up.view(), act, &self.pool))
            }
            None => {
                let mut out = self.buffers.tensor(gate.rows, gate.cols)?;
                oai_swiglu(&gate.data, &up.data, &mut out.data);
                self.act(&out)
            }
        }
    }

    fn gated(
        &mut self,
        x: &CpuAct,
        [gate, up]: [&CpuLinear; 2],
        act: ActSpec,
    ) -> Result<CpuAct, ModelError> {
        let is_plain = |linear: &CpuLinear| linear.bias.is_none() && linear.scale == 1.0;
        if let (true, Some(act)) = (is_plain(gate) && is_plain(up), activation(act)) {
            let input = x.acts.as_ref().expect("acts are present until drop: this is a bug");
            let mut is_done = false;
            let out = self.prepared([input.rows(), gate.packed.n()], |acts| {
                is_done = linear::gated(input, [&gate.packed, &up.packed], act, acts, &self.pool);
            })?;
            if is_done {
                return Ok(out);
            }
        }
        let [gate, up] = self.linear(x, [gate, up])?;
        self.glu_act(&gate, &up, act)
    }

    fn unary_act(&mut self, x: &CpuTensor, act: ActSpec) -> Result<CpuAct, ModelError> {
        if matches!(act, ActSpec::Tanh | ActSpec::Xielu(_)) {
            let mut out = self.buffers.tensor(x.rows, x.cols)?;
            let apply = |x: f32| match act {
                ActSpec::Xielu(xielu) => xielu.apply(x),
                _ => x.tanh(),
            };
            out.data.iter_mut().zip(&*x.data).for_each(|(out, &x)| *out = apply(x));
            return self.act(&out);
        }
        let act = activation(act)
            .ok_or_else(|| ModelError::Limit("a clamped gate needs two inputs".to_owned()))?;
        self.prepared([x.rows, x.cols], |acts| acts.set_act(x.view(), act, &self.pool))
    }

    fn head_norm(
        &mut self,
        mut x: CpuTensor,
        heads: usize,
        norm: &Norm<Vec<f32>>,
    ) -> Result<CpuTensor, ModelError> {
        debug_assert_eq!(x.cols, heads * norm.weight.len());
        if norm.spec.kind == NormKind::Rms {
            norm::rms_norm_heads(x.view_mut(), &norm.weight, norm.spec.eps, &self.pool);
            return Ok(x);
        }
        let mut out = self.buffers.tensor(x.rows, x.cols)?;
        rows::layer_norm_heads(&x.data, norm, &mut out.data, &self.pool);
        Ok(out)
    }

    fn rope(
        &mut self,
        mut x: CpuTensor,
        heads: usize,
        (table, style): &Self::Rope,
    ) -> Result<CpuTensor, ModelError> {
        let heads = RopeHeads { heads, head_dim: x.cols / heads, offset: 0, style: *style };
        rope::rope(x.view_mut(), &heads, table, &self.positions, &self.pool);
        Ok(x)
    }

    fn attention(
        &mut self,
        layer: usize,
        (q, kv): (&CpuTensor, Option<[&CpuTensor; 2]>),
        spec: &AttnSpec,
        sinks: Option<&Vec<f32>>,
    ) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(q.rows, spec.heads * spec.value_dim)?;
        let layout = self.kv.layers[layer];
        if let Some([k, v]) = kv {
            let kv = KvMut { layout, cache: &mut self.kv.blocks };
            attention::kv_write(kv, k.view(), v.view(), &self.slots, &self.pool);
        }
        let spans: Vec<SpanRef<'_>> = self
            .spans
            .iter()
            .map(|span| SpanRef {
                rows: span.rows.start as usize..span.rows.end as usize,
                kv_len: span.kv_len as usize,
                blocks: &span.blocks,
            })
            .collect();
        let params = AttnParams {
            heads: spec.heads,
            scale: spec.scale,
            window: spec.window,
            chunk: spec.chunk,
            slopes: self.kv.slopes[layer].as_deref(),
            softcap: spec.softcap,
            sinks: sinks.map(Vec::as_slice),
            causal: spec.causal,
        };
        let kv = Kv { layout, cache: &self.kv.blocks };
        let input = AttnInput { q: q.view(), kv, spans: &spans, params };
        attention::attention(&input, out.view_mut(), &mut self.scratch, &self.pool)?;
        Ok(out)
    }

    fn add(
        &mut self,
        mut x: CpuTensor,
        y: &CpuTensor,
        scale: f32,
    ) -> Result<CpuTensor, ModelError> {
        elementwise::add_scaled(&mut x.data, &y.data, scale, &self.pool);
        Ok(x)
    }

    fn part(
        &mut self,
        x: &CpuTensor,
        heads: usize,
        range: Range<usize>,
    ) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(x.rows, heads * range.len())?;
        let heads_of_rows = x.data.chunks_exact(x.cols / heads);
        for (head, target) in heads_of_rows.zip(out.data.chunks_exact_mut(range.len())) {
            target.copy_from_slice(&head[range.clone()]);
        }
        Ok(out)
    }

    fn join(&mut self, parts: &[&CpuTensor], heads: usize) -> Result<CpuTensor, ModelError> {
        let rows = parts.first().map_or(0, |part| part.rows);
        let mut out = self.buffers.tensor(rows, parts.iter().map(|part| part.cols).sum())?;
        let mut at = 0;
        for head in 0..rows * heads {
            for part in parts {
                let width = part.cols / heads;
                out.data[at..at + width].copy_from_slice(&part.data[head * width..][..width]);
                at += width;
            }
        }
        Ok(out)
    }

    fn rows(&mut self, x: &CpuTensor, rows: &[u32]) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(rows.len(), x.cols)?;
        for (target, &row) in out.data.chunks_exact_mut(x.cols).zip(rows) {
            target.copy_from_slice(&x.data[row as usize * x.cols..][..x.cols]);
        }
        Ok(out)
    }

    fn add_rows(
        &mut self,
        mut x: CpuTensor,
        rows: &[u32],
        weights: &[f32],
        y: &CpuTensor,
    ) -> Result<CpuTensor, ModelError> {
        for ((source, &row), &weight) in y.data.chunks_exact(y.cols).zip(rows).zip(weights) {
            let target = &mut x.data[row as usize * y.cols..][..y.cols];
            target.iter_mut().zip(source).for_each(|(to, from)| *to = from.mul_add(weight, *to));
        }
        Ok(x)
    }

    fn zeros_like(&mut self, like: &CpuTensor) -> Result<CpuTensor, ModelError> {
        let mut out = self.buffers.tensor(like.rows, like.cols)?;
        out.data.fill(0.0);
        Ok(out)
    }

    fn host(&mut self, mut x: CpuTensor) -> Result<Floats, ModelError> {
        Ok(std::mem::take(&mut x.data))
    }

    fn recycle(&mut self, values: Floats) {
        self.buffers.give_back(values);
    }
}
