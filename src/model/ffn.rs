//! The feed-forward part of a layer: gated, plain, or a mixture of experts.

use super::error::ModelError;
use super::gated::Gated;
use super::loader::Loader;
use super::moe::Moe;
use super::ops::{Load, Norm, Ops};
use super::spec::{FfnSpec, MoeSpec};

/// Weights of one layer.
pub(super) enum Ffn<O: Load> {
    Gated(Gated<O>),
    Plain { up: O::Linear, down: O::Linear },
    Moe(Moe<O>),
    None,
}

/// What a feed-forward part reads.
pub(super) enum Input<'a, O: Ops> {
    /// The residual stream (T, hidden) through a norm, where there is one.
    Stream(&'a O::Tensor, Option<&'a Norm<O::Vector>>),
    /// As attention reads it, prepared from the residual stream and the norm.
    Shared(&'a O::Act, &'a O::Tensor, Option<&'a Norm<O::Vector>>),
}

impl<O: Ops> Ffn<O> {
    /// (T, hidden).
    pub(super) fn run(
        &self,
        ops: &mut O,
        input: &Input<'_, O>,
        spec: &FfnSpec,
    ) -> Result<O::Tensor, ModelError> {
        if let (Self::Moe(weights), FfnSpec::Moe(spec)) = (self, spec) {
            return experts(ops, input, weights, spec);
        }
        let own;
        let input = match *input {
            Input::Shared(act, ..) => act,
            Input::Stream(x, norm) => {
                own = prepare(ops, x, norm)?;
                &own
            }
        };
        match (self, spec) {
            (Self::Gated(weights), FfnSpec::Gated { act, sparsity: None, .. }) => {
                weights.run(ops, input, *act)
            }
            (Self::Gated(weights), FfnSpec::Gated { act, sparsity: Some(deviations), .. }) => {
                weights.run_sparse(ops, input, (*act, *deviations))
            }
            (Self::Plain { up, down }, FfnSpec::Plain { act, .. }) => {
                let [up] = ops.linear(input, [up])?;
                let hidden = ops.unary_act(&up, *act)?;
                let [out] = ops.linear(&hidden, [down])?;
                Ok(out)
            }
            _ => unreachable!("weights are loaded by the same spec: this is a bug"),
        }
    }
}

/// Experts gather rows before they are quantised.
fn experts<O: Ops>(
    ops: &mut O,
    input: &Input<'_, O>,
    weights: &Moe<O>,
    spec: &MoeSpec,
) -> Result<O::Tensor, ModelError> {
    let (Input::Stream(x, norm) | Input::Shared(_, x, norm)) = *input;
    match norm {
        Some(norm) => {
            let x = ops.norm(x, norm)?;
            weights.run(ops, &x, spec)
        }
        None => weights.run(ops, x, spec),
    }
}

/// `x`, normed where there is a norm, as input of linear layers.
pub(super) fn prepare<O: Ops>(
    ops: &mut O,
    x: &O::Tensor,
    norm: Option<&Norm<O::Vector>>,
) -> Result<O::Act, ModelError> {
    match norm {
        Some(norm) => ops.norm_act(x, norm),
        None => ops.act(x),
    }
}

impl<O: Load> Loader<'_, O> {
    /// The feed-forward part of layer `index`.
    pub(super) fn ffn(
        &mut self,
        index: usize,
        hidden: usize,
        spec: &FfnSpec,
    ) -> Result<Ffn<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.ffn_{part}");
        Ok(match spec {
            FfnSpec::Gated { width, .. } => Ffn::Gated(self.gated(index, "", hidden, *width)?),
            FfnSpec::Plain { width, .. } => Ffn::Plain {
                up: self.linear(&name("up"), *width, hidden)?,
                down: self.linear(&name("down"), hidden, *width)?,
            },
            FfnSpec::None => Ffn::None,
            FfnSpec::Moe(moe) => Ffn::Moe(self.moe(index, hidden, moe)?),
        })
    }
}
