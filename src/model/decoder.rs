//! The one interpreter of [`ModelSpec`]: runs a flat batch through whatever model the spec describes.

use kolosal_kernels::memory::Floats;

use super::altup;
use super::batch::Batch;
use super::error::ModelError;
use super::latent;
use super::moe;
use super::ops::{KvBlocks, Norm, Ops};
use super::runner::{Logits, Runner, RunnerError, RunnerSpec};
use super::spec::{ActSpec, FfnSpec, HeadSpec, LayerSpec, ModelSpec, QkNorm};
use super::weights::{self, Ffn, Files, Gated, Head, Layer, Qkv, Weights};

/// Limits of a runner, resolved from options and model.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub context_len: usize,
    pub blocks: KvBlocks,
    pub max_rows: usize,
}

/// A model on a back end.
pub struct Decoder<O: Ops> {
    ops: O,
    model: ModelSpec,
    weights: Weights<O>,
    spec: RunnerSpec,
    /// Of the last batch, until they are taken.
    hidden: Vec<f32>,
}

impl<O: Ops> Decoder<O> {
    /// Loads all weights and reserves the KV pool.
    ///
    /// # Errors
    /// See [`ModelError`].
    pub fn load(
        mut ops: O,
        model: ModelSpec,
        files: Files<'_>,
        capacity: Capacity,
    ) -> Result<Self, ModelError> {
        let weights = weights::load(&mut ops, &model, files, capacity.context_len)?;
        let attns: Vec<_> = model.layers.iter().map(|layer| &layer.attn).collect();
        let kv_growth = ops.reserve_kv(&attns, capacity.blocks)?;
        let spec = RunnerSpec {
            vocab_size: model.vocab_size,
            context_len: capacity.context_len,
            num_blocks: capacity.blocks.most,
            kv_growth,
            max_rows: capacity.max_rows,
            kv_bytes_per_block: model.kv_bytes_per_block(),
            weight_bytes: ops.weight_bytes(),
            hidden: match model.head {
                HeadSpec::Logits | HeadSpec::None | HeadSpec::Norm => model.hidden,
                HeadSpec::Classifier { scores, .. } => scores,
            },
            pooling: model.pooling,
            device: ops.device(),
            purpose: model.purpose(),
            one_at_a_time: false,
            warning: ops.warning(),
        };
        Ok(Self { ops, model, weights, spec, hidden: Vec::new() })
    }

    /// (`logit_rows`, vocabulary), from (T) token ids.
    fn run(&mut self, batch: &Batch) -> Result<Floats, ModelError> {
        let (ops, weights, model) = (&mut self.ops, &self.weights, &self.model);
        ops.begin(batch)?;
        let mut x = ops.embed(&weights.table, &batch.tokens, model.embed_scale)?;
        if let Some(table) = &weights.positions {
            let positions = ops.embed(table, &batch.positions, 1.0)?;
            x = ops.add(x, &positions, 1.0)?;
        }
        if let Some(table) = &weights.types {
            // Models that know one type take both texts for the first.
            let last = model.token_types as u32 - 1;
            let mut types: Vec<u32> = batch.types.iter().map(|&ty| ty.min(last)).collect();
            types.resize(batch.len(), 0);
            let types = ops.embed(table, &types, 1.0)?;
            x = ops.add(x, &types, 1.0)?;
        }
        if let Some(norm) = &weights.embed_norm {
            x = ops.norm(&x, norm)?;
        }
        let (ropes, positions) = (&weights.ropes, &batch.positions);
        let layers = weights.layers.iter().zip(&model.layers).enumerate();
        let steps =
            layers.map(|(index, (layer, spec))| LayerStep { index, layer, spec, ropes, positions });
        match &weights.altup {
            Some(altup) => x = altup::run(ops, altup, (&batch.tokens, x), steps)?,
            None => {
                for step in steps {
                    x = step.run(ops, x, model.residual_scale)?;
                }
            }
        }
        self.hidden.clear();
        if !batch.hidden_rows.is_empty() {
            let rows = ops.rows(&x, &batch.hidden_rows)?;
            let rows = match &weights.head {
                Head::Logits { norm, .. } | Head::Norm(norm) => ops.norm(&rows, norm)?,
                Head::None => rows,
                Head::Classifier { inner, out } => classify(ops, rows, inner.as_ref(), out)?,
            };
            self.hidden = ops.host(rows)?.to_vec();
        }
        if batch.logit_rows.is_empty() {
            return Ok(Floats::default());
        }
        let Head::Logits { norm, out } = &weights.head else {
            return Err(ModelError::Limit("an encoder has no logits".to_owned()));
        };
        let x = ops.rows(&x, &batch.logit_rows)?;
        let input = ops.norm_act(&x, norm)?;
        let [logits] = ops.linear(&input, [out])?;
        let mut logits = ops.host(logits)?;
        finish_logits(&mut logits, model);
        Ok(logits)
    }
}

/// (rows, scores) of hidden states (rows, hidden).
fn classify<O: Ops>(
    ops: &mut O,
    rows: O::Tensor,
    inner: Option<&O::Linear>,
    out: &O::Linear,
) -> Result<O::Tensor, ModelError> {
    let mut input = ops.act(&rows)?;
    if let Some(inner) = inner {
        let [pooled] = ops.linear(&input, [inner])?;
        input = ops.unary_act(&pooled, ActSpec::Tanh)?;
    }
    let [scores] = ops.linear(&input, [out])?;
    Ok(scores)
}

fn finish_logits(logits: &mut [f32], model: &ModelSpec) {
    if model.logit_scale != 1.0 {
        logits.iter_mut().for_each(|logit| *logit *= model.logit_scale);
    }
    if let Some(cap) = model.logit_softcap {
        logits.iter_mut().for_each(|logit| *logit = (*logit / cap).tanh() * cap);
    }
}

impl<O: Ops> Runner for Decoder<O> {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, RunnerError> {
        debug_assert!(batch.len() <= self.spec.max_rows);
        let data = self.run(batch).map_err(|error| RunnerError(error.to_string()))?;
        Ok(Logits { data, vocab_size: self.spec.vocab_size })
    }

    fn grow_kv(&mut self, num_blocks: usize) -> usize {
        self.ops.grow_kv(num_blocks)
    }

    fn recycle(&mut self, logits: Logits) {
        self.ops.recycle(logits.data);
    }

    fn num_regions(&self) -> u64 {
        self.ops.num_regions()
    }

    fn hidden(&mut self) -> Vec<f32> {
        std::mem::take(&mut self.hidden)
    }
}

/// One layer at work.
pub(super) struct LayerStep<'a, O: Ops> {
    index: usize,
    pub(super) layer: &'a Layer<O>,
    pub(super) spec: &'a LayerSpec,
    ropes: &'a [O::Rope],
    positions: &'a [u32],
}

impl<O: Ops> LayerStep<'_, O> {
    /// The residual stream (T, hidden) through attention and feed-forward.
    fn run(&self, ops: &mut O, x: O::Tensor, scale: f32) -> Result<O::Tensor, ModelError> {
        let input = prepare(ops, &x, self.layer.attn_norm.as_ref())?;
        let attn = self.attention(ops, &input)?;
        if self.spec.norms.parallel {
            let shared = self.layer.ffn_norm.is_none().then_some(&input);
            let ffn = self.ffn(ops, &x, shared)?;
            let x = ops.add(x, &attn, scale)?;
            return ops.add(x, &ffn, scale);
        }
        let mut x = ops.add(x, &attn, scale)?;
        if let Some(norm) = &self.layer.attn_sum {
            x = ops.norm(&x, norm)?;
        }
        let ffn = self.ffn(ops, &x, None)?;
        let x = ops.add(x, &ffn, scale)?;
        match &self.layer.ffn_sum {
            Some(norm) => ops.norm(&x, norm),
            None => Ok(x),
        }
    }

    /// (T, hidden), its post-norm applied.
    pub(super) fn attention(&self, ops: &mut O, input: &O::Act) -> Result<O::Tensor, ModelError> {
        let (layer, spec) = (self.layer, &self.spec.attn);
        let (q, kv) = match &layer.qkv {
            Qkv::Heads(weights) => {
                let [q, k, v] = self.heads(ops, input, weights)?;
                (q, Some([k, v]))
            }
            Qkv::Queries(weight) => (self.queries(ops, input, weight)?, None),
            Qkv::Latent(weights) => {
                let rope = spec.rope.map(|rope| &self.ropes[rope]);
                let [q, k, v] = latent::project(ops, input, weights, rope)?;
                (q, Some([k, v]))
            }
        };
        let q = self.tempered(ops, q)?;
        let source = spec.shares_kv.unwrap_or(self.index);
        let qkv = (&q, kv.as_ref().map(|[k, v]| [k, v]));
        let mut mixed = ops.attention(source, qkv, spec, layer.sinks.as_ref())?;
        if let Qkv::Latent(weights) = &layer.qkv {
            mixed = latent::values(ops, &mixed, weights)?;
        }
        let mixed = ops.act(&mixed)?;
        let [out] = ops.linear(&mixed, [&layer.o])?;
        match &layer.attn_post {
            Some(norm) => ops.norm(&out, norm),
            None => Ok(out),
        }
    }

    /// Queries, keys and values of all heads.
    fn heads(
        &self,
        ops: &mut O,
        input: &O::Act,
        [q, k, v]: &[O::Linear; 3],
    ) -> Result<[O::Tensor; 3], ModelError> {
        let spec = &self.spec.attn;
        let [mut q, mut k, mut v] = ops.linear(input, [q, k, v])?;
        if let Some(limit) = spec.clamp {
            q = ops.clamp(q, limit)?;
            k = ops.clamp(k, limit)?;
            v = ops.clamp(v, limit)?;
        }
        if !spec.qk_norm_late {
            (q, k) = self.normed(ops, q, k)?;
        }
        if let Some(rope) = spec.rope {
            q = ops.rope(q, spec.heads, &self.ropes[rope])?;
            k = ops.rope(k, spec.kv_heads, &self.ropes[rope])?;
        }
        if spec.qk_norm_late {
            (q, k) = self.normed(ops, q, k)?;
        }
        if let Some(norm) = &self.layer.v_norm {
            v = ops.head_norm(v, spec.kv_heads, norm)?;
        }
        Ok([q, k, v])
    }

    /// Queries alone.
    fn queries(
        &self,
        ops: &mut O,
        input: &O::Act,
        weight: &O::Linear,
    ) -> Result<O::Tensor, ModelError> {
        let spec = &self.spec.attn;
        let [mut q] = ops.linear(input, [weight])?;
        if let Some(norm) = &self.layer.q_norm {
            q = ops.head_norm(q, spec.heads, norm)?;
        }
        match spec.rope {
            Some(rope) => ops.rope(q, spec.heads, &self.ropes[rope]),
            None => Ok(q),
        }
    }

    fn normed(
        &self,
        ops: &mut O,
        q: O::Tensor,
        k: O::Tensor,
    ) -> Result<(O::Tensor, O::Tensor), ModelError> {
        let spec = &self.spec.attn;
        match (&self.layer.q_norm, &self.layer.k_norm) {
            (Some(q_norm), Some(k_norm)) if spec.qk_norm == QkNorm::Full => {
                Ok((ops.norm(&q, q_norm)?, ops.norm(&k, k_norm)?))
            }
            (Some(q_norm), Some(k_norm)) => {
                let q = ops.head_norm(q, spec.heads, q_norm)?;
                let k = ops.head_norm(k, spec.kv_heads, k_norm)?;
                match &self.layer.qk_columns {
                    Some([of_q, of_k]) => {
                        Ok((ops.scale_columns(q, of_q)?, ops.scale_columns(k, of_k)?))
                    }
                    None => Ok((q, k)),
                }
            }
            _ => Ok((q, k)),
        }
    }

    /// Queries times what their positions ask for.
    fn tempered(&self, ops: &mut O, q: O::Tensor) -> Result<O::Tensor, ModelError> {
        let Some(temperature) = self.spec.attn.temperature else { return Ok(q) };
        let scales: Vec<f32> =
            self.positions.iter().map(|&position| temperature.at(position)).collect();
        let rows: Vec<u32> = (0..scales.len() as u32).collect();
        let zeros = ops.zeros_like(&q)?;
        ops.add_rows(zeros, &rows, &scales, &q)
    }

    /// (T, hidden), its post-norm applied, from the residual stream `x`; `shared` is its input where
    /// attention prepared the same.
    fn ffn(
        &self,
        ops: &mut O,
        x: &O::Tensor,
        shared: Option<&O::Act>,
    ) -> Result<O::Tensor, ModelError> {
        let norm = match shared {
            Some(_) => self.layer.attn_norm.as_ref(),
            None => self.layer.ffn_norm.as_ref(),
        };
        let out = match (&self.layer.ffn, &self.spec.ffn) {
            // Experts gather rows before they are quantised.
            (Ffn::Moe(weights), FfnSpec::Moe(spec)) => match norm {
                Some(norm) => {
                    let x = ops.norm(x, norm)?;
                    moe::mixture(ops, &x, weights, spec)?
                }
                None => moe::mixture(ops, x, weights, spec)?,
            },
            (dense, spec) => {
                let own;
                let input = match shared {
                    Some(shared) => shared,
                    None => {
                        own = prepare(ops, x, norm)?;
                        &own
                    }
                };
                feed_forward(ops, input, dense, spec)?
            }
        };
        match &self.layer.ffn_post {
            Some(norm) => ops.norm(&out, norm),
            None => Ok(out),
        }
    }
}

/// `x`, normed where the layer asks for it, as input of linear layers.
fn prepare<O: Ops>(
    ops: &mut O,
    x: &O::Tensor,
    norm: Option<&Norm<O::Vector>>,
) -> Result<O::Act, ModelError> {
    match norm {
        Some(norm) => ops.norm_act(x, norm),
        None => ops.act(x),
    }
}

/// A feed-forward part that every row takes.
fn feed_forward<O: Ops>(
    ops: &mut O,
    input: &O::Act,
    weights: &Ffn<O>,
    spec: &FfnSpec,
) -> Result<O::Tensor, ModelError> {
    match (weights, spec) {
        (Ffn::Gated(weights), FfnSpec::Gated { act, .. }) => gated(ops, input, weights, *act),
        (Ffn::Plain { up, down }, FfnSpec::Plain { act, .. }) => {
            let [up] = ops.linear(input, [up])?;
            let hidden = ops.unary_act(&up, *act)?;
            let [out] = ops.linear(&hidden, [down])?;
            Ok(out)
        }
        _ => unreachable!("weights are loaded by the same spec"),
    }
}

/// `down(act(gate(x)) · up(x))`.
pub(super) fn gated<O: Ops>(
    ops: &mut O,
    input: &O::Act,
    weights: &Gated<O>,
    act: ActSpec,
) -> Result<O::Tensor, ModelError> {
    let hidden = ops.gated(input, [&weights.gate, &weights.up], act)?;
    let [out] = ops.linear(&hidden, [&weights.down])?;
    Ok(out)
}
