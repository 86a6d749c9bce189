//! `down(act(gate(x)) · up(x))`: a gated feed-forward part, or one expert of many, which may have no gate.

use super::error::ModelError;
use super::loader::Loader;
use super::ops::{Load, Ops};
use super::spec::ActSpec;

/// Weights.
pub(super) struct Gated<O: Load> {
    /// Without, it is `down(act(up(x)))`.
    pub(super) gate: Option<O::Linear>,
    pub(super) up: O::Linear,
    pub(super) down: O::Linear,
}

impl<O: Ops> Gated<O> {
    /// (T, hidden).
    pub(super) fn run(
        &self,
        ops: &mut O,
        input: &O::Act,
        act: ActSpec,
    ) -> Result<O::Tensor, ModelError> {
        let hidden = match &self.gate {
            Some(gate) => ops.gated(input, [gate, &self.up], act)?,
            None => {
                let [up] = ops.linear(input, [&self.up])?;
                ops.unary_act(&up, act)?
            }
        };
        let [out] = ops.linear(&hidden, [&self.down])?;
        Ok(out)
    }

    /// The same where a gate counts as far as it lies `deviations` above the mean of its row.
    pub(super) fn run_sparse(
        &self,
        ops: &mut O,
        input: &O::Act,
        (act, deviations): (ActSpec, f32),
    ) -> Result<O::Tensor, ModelError> {
        let Some(gate) = &self.gate else { return self.run(ops, input, act) };
        let [gate, up] = ops.linear(input, [gate, &self.up])?;
        let gate = ops.sparsify(gate, deviations)?;
        let hidden = ops.glu_act(&gate, &up, act)?;
        let [out] = ops.linear(&hidden, [&self.down])?;
        Ok(out)
    }
}

impl<O: Load> Loader<'_, O> {
    /// A part without a gate whose tensors end in `suffix`.
    pub(super) fn plain(
        &mut self,
        index: usize,
        suffix: &str,
        hidden: usize,
        width: usize,
    ) -> Result<Gated<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.ffn_{part}{suffix}");
        let up = self.linear(&name("up"), width, hidden)?;
        Ok(Gated { gate: None, up, down: self.linear(&name("down"), hidden, width)? })
    }

    /// The gated part of layer `index` whose tensors end in `suffix`.
    pub(super) fn gated(
        &mut self,
        index: usize,
        suffix: &str,
        hidden: usize,
        width: usize,
    ) -> Result<Gated<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.ffn_{part}{suffix}");
        if self.gguf.tensor(&format!("{}.weight", name("gate"))).is_some() {
            return Ok(Gated {
                gate: Some(self.linear(&name("gate"), width, hidden)?),
                up: self.linear(&name("up"), width, hidden)?,
                down: self.linear(&name("down"), hidden, width)?,
            });
        }
        // One tensor holds the gate above the up projection (phi3, glm4).
        let mut parts = self.split(&name("up"), &[width, width], hidden)?.into_iter();
        let mut next = || parts.next().ok_or(ModelError::MissingTensor(name("gate.weight")));
        let (gate, up) = (next()?, next()?);
        Ok(Gated { gate: Some(gate), up, down: self.linear(&name("down"), hidden, width)? })
    }
}
