//! A small input of its own for each layer (Gemma 3n and 4): what a table says of a token, and a projection
//! of the embedding.

use std::f32::consts::FRAC_1_SQRT_2;

use super::error::ModelError;
use super::loader::Loader;
use super::ops::{Load, Norm, Ops};
use super::spec::{ActSpec, ModelSpec, NormSpec};

/// Weights beside those of the layers.
pub struct LayerInputs<O: Load> {
    hidden: usize,
    layers: usize,
    /// Of one layer's input.
    width: usize,
    /// (vocabulary, layers · width).
    table: O::Table,
    /// From the embedding to layers · width.
    project: O::Linear,
    norm: Norm<O::Vector>,
}

/// What a layer does with its input.
pub(super) struct OwnInput<O: Load> {
    width: usize,
    gate: O::Linear,
    project: O::Linear,
    norm: Norm<O::Vector>,
}

impl<O: Ops> LayerInputs<O> {
    /// (T, layers · width), of tokens and their embeddings `x` (T, hidden).
    pub(super) fn of(
        &self,
        ops: &mut O,
        tokens: &[u32],
        x: &O::Tensor,
    ) -> Result<O::Tensor, ModelError> {
        let scale = (self.width as f32).sqrt() * FRAC_1_SQRT_2;
        let of_tokens = ops.embed(&self.table, tokens, scale)?;
        let act = ops.act(x)?;
        let [projected] = ops.linear(&act, [&self.project])?;
        let scaled = ops.scale(projected, (self.hidden as f32).sqrt().recip())?;
        let normed = ops.head_norm(scaled, self.layers, &self.norm)?;
        ops.add(of_tokens, &normed, FRAC_1_SQRT_2)
    }
}

impl<O: Ops> OwnInput<O> {
    /// What layer `index` adds to the residual stream `x` (T, hidden); `inputs` are those of all layers.
    pub(super) fn run(
        &self,
        ops: &mut O,
        x: &O::Tensor,
        (index, inputs): (usize, &O::Tensor),
    ) -> Result<O::Tensor, ModelError> {
        let act = ops.act(x)?;
        let [gate] = ops.linear(&act, [&self.gate])?;
        let width = self.width;
        let input = ops.part(inputs, 1, index * width..(index + 1) * width)?;
        let act = ops.glu_act(&gate, &input, ActSpec::Gelu)?;
        let [own] = ops.linear(&act, [&self.project])?;
        ops.norm(&own, &self.norm)
    }
}

impl<O: Load> Loader<'_, O> {
    /// Inputs of `width` values for each layer.
    pub(super) fn layer_inputs(
        &mut self,
        model: &ModelSpec,
        width: usize,
    ) -> Result<LayerInputs<O>, ModelError> {
        let (hidden, layers) = (model.hidden, model.layers.len());
        let all = layers * width;
        Ok(LayerInputs {
            hidden,
            layers,
            width,
            table: self.table("per_layer_token_embd.weight", &[model.vocab_size, all])?,
            project: self.linear("per_layer_model_proj", all, hidden)?,
            norm: self.norm("per_layer_proj_norm", width, model.norm)?,
        })
    }

    /// What layer `index` does with its input of `width` values.
    pub(super) fn own_input(
        &mut self,
        index: usize,
        (hidden, width): (usize, usize),
        norm: NormSpec,
    ) -> Result<OwnInput<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        Ok(OwnInput {
            width,
            gate: self.linear(&name("inp_gate"), width, hidden)?,
            project: self.linear(&name("proj"), hidden, width)?,
            norm: self.norm(&name("post_norm"), hidden, norm)?,
        })
    }
}
