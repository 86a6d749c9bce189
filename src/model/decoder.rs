//! The one interpreter of [`ModelSpec`]: runs a flat batch through whatever model the spec describes.

use kolosal_kernels::memory::Floats;

use super::attention::Place;
use super::batch::Batch;
use super::error::ModelError;
use super::ops::{KvBlocks, Ops};
use super::runner::{Logits, Runner, RunnerError, RunnerSpec};
use super::spec::{ActSpec, HeadSpec, LayerSpec, ModelSpec};
use super::weights::{self, Files, Head, Weights};

/// Limits of a runner, resolved from options and model.
#[derive(Clone, Copy, Debug)]
pub struct Capacity {
    pub context_len: usize,
    pub blocks: KvBlocks,
    /// Pages of state; 0 for models without.
    pub states: usize,
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
        let attns: Vec<_> = model.layers.iter().map(LayerSpec::attn).collect();
        let kv_growth = ops.reserve_kv(&attns, capacity.blocks)?;
        if capacity.states > 0 {
            let states: Vec<_> = model.layers.iter().map(LayerSpec::state).collect();
            ops.reserve_states(&states, capacity.states)?;
        }
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
                HeadSpec::Dense { out, .. } => out,
                HeadSpec::Classifier { scores, .. } => scores,
                HeadSpec::YesNo => 1,
            },
            pooling: model.pooling,
            device: ops.device(),
            purpose: model.purpose(),
            num_states: capacity.states,
            state_bytes: model.state_bytes(),
            sees_later: model.sees_later(),
            warning: match (model.warning.clone(), ops.warning()) {
                (Some(ours), Some(theirs)) => Some(format!("{ours}; {theirs}")),
                (ours, theirs) => ours.or(theirs),
            },
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
        let inputs = weights.inputs.as_ref();
        let inputs = inputs.map(|inputs| inputs.of(ops, &batch.tokens, &x)).transpose()?;
        let (ropes, positions, inputs) = (&weights.ropes, &batch.positions, inputs.as_ref());
        let layers = weights.layers.iter().zip(&model.layers).enumerate();
        let layers = layers
            .map(|(index, (layer, spec))| (layer, spec, Place { index, ropes, positions, inputs }));
        match &weights.altup {
            Some(altup) => x = altup.run(ops, (&batch.tokens, x), layers)?,
            None => {
                for (layer, spec, place) in layers {
                    x = layer.run(ops, (&place, spec), x, model.residual_scale)?;
                }
            }
        }
        self.hidden.clear();
        if !batch.hidden_rows.is_empty() {
            let rows = ops.rows(&x, &batch.hidden_rows)?;
            self.hidden = result(ops, rows, &weights.head)?;
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

/// What the head makes of hidden states (rows, hidden), on the host.
fn result<O: Ops>(ops: &mut O, rows: O::Tensor, head: &Head<O>) -> Result<Vec<f32>, ModelError> {
    let rows = match head {
        Head::Logits { norm, .. } | Head::Norm(norm) => ops.norm(&rows, norm)?,
        Head::None => rows,
        Head::Dense { norm, layers: [first, last] } => {
            let rows = ops.norm_act(&rows, norm)?;
            let [rows] = ops.linear(&rows, [first])?;
            let rows = ops.act(&rows)?;
            let [rows] = ops.linear(&rows, [last])?;
            rows
        }
        Head::Classifier { inner, out } => classify(ops, rows, inner.as_ref(), out)?,
        Head::YesNo { norm, out } => {
            let rows = ops.norm_act(&rows, norm)?;
            let [logits] = ops.linear(&rows, [out])?;
            let logits = ops.host(logits)?;
            return Ok(logits.chunks_exact(2).map(|pair| pair[0] - pair[1]).collect());
        }
    };
    Ok(ops.host(rows)?.to_vec())
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
