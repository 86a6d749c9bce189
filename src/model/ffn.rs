//! The feed-forward part of a layer: gated, plain, or a mixture of experts.

use super::error::ModelError;
use super::gated::Gated;
use super::loader::Loader;
use super::moe::{Moe, RouterScale};
use super::ops::{Load, Norm, Ops};
use super::spec::{FfnSpec, MoeSpec, NormSpec};

/// Weights of one layer.
pub(super) enum Ffn<O: Load> {
    Gated(Gated<O>),
    Moe(Moe<O>),
    None,
    Both(Box<Both<O>>),
}

/// A gated part and a mixture side by side.
pub(super) struct Both<O: Load> {
    gated: Gated<O>,
    /// On what the gated part makes.
    gated_post: Norm<O::Vector>,
    /// Before the experts, and before their router.
    moe_norm: Norm<O::Vector>,
    router_norm: Norm<O::Vector>,
    moe: Moe<O>,
    /// On what the mixture makes.
    moe_post: Norm<O::Vector>,
}

/// What a feed-forward part reads.
pub(super) enum Input<'a, O: Ops> {
    /// The residual stream (T, hidden) through a norm, where there is one.
    Stream(&'a O::Tensor, Option<&'a Norm<O::Vector>>),
    /// The residual stream through a norm, and what a router reads in its place.
    Routed(&'a O::Tensor, Option<&'a Norm<O::Vector>>, &'a O::Act),
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
        if let (Self::Both(weights), FfnSpec::Both { moe, .. }) = (self, spec) {
            return weights.run(ops, input, moe);
        }
        let own;
        let input = match *input {
            Input::Shared(act, ..) => act,
            Input::Stream(x, norm) | Input::Routed(x, norm, _) => {
                own = prepare(ops, x, norm)?;
                &own
            }
        };
        match (self, spec) {
            (
                Self::Gated(weights),
                FfnSpec::Gated { act, sparsity: None, .. } | FfnSpec::Plain { act, .. },
            ) => weights.run(ops, input, *act),
            (Self::Gated(weights), FfnSpec::Gated { act, sparsity: Some(deviations), .. }) => {
                weights.run_sparse(ops, input, (*act, *deviations))
            }
            _ => unreachable!("weights are loaded by the same spec: this is a bug"),
        }
    }
}

impl<O: Ops> Both<O> {
    /// (T, hidden): the sum of what both parts make.
    fn run(
        &self,
        ops: &mut O,
        input: &Input<'_, O>,
        spec: &MoeSpec,
    ) -> Result<O::Tensor, ModelError> {
        let (Input::Stream(x, norm) | Input::Shared(_, x, norm) | Input::Routed(x, norm, _)) =
            *input;
        let act = prepare(ops, x, norm)?;
        let dense = self.gated.run(ops, &act, spec.act)?;
        let dense = ops.norm(&dense, &self.gated_post)?;
        let routed = ops.norm_act(x, &self.router_norm)?;
        let normed = ops.norm(x, &self.moe_norm)?;
        let mixed = self.moe.run(ops, (&normed, Some(&routed)), spec)?;
        let mixed = ops.norm(&mixed, &self.moe_post)?;
        ops.add(dense, &mixed, 1.0)
    }
}

/// Experts gather rows before they are quantised.
fn experts<O: Ops>(
    ops: &mut O,
    input: &Input<'_, O>,
    weights: &Moe<O>,
    spec: &MoeSpec,
) -> Result<O::Tensor, ModelError> {
    let (x, norm, routed) = match *input {
        Input::Stream(x, norm) | Input::Shared(_, x, norm) => (x, norm, None),
        Input::Routed(x, norm, routed) => (x, norm, Some(routed)),
    };
    match norm {
        Some(norm) => {
            let x = ops.norm(x, norm)?;
            weights.run(ops, (&x, routed), spec)
        }
        None => weights.run(ops, (x, routed), spec),
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
        (hidden, norm): (usize, NormSpec),
        spec: &FfnSpec,
    ) -> Result<Ffn<O>, ModelError> {
        Ok(match spec {
            FfnSpec::Gated { width, .. } => Ffn::Gated(self.gated(index, "", hidden, *width)?),
            FfnSpec::Plain { width, .. } => Ffn::Gated(self.plain(index, "", hidden, *width)?),
            FfnSpec::None => Ffn::None,
            FfnSpec::Moe(moe) => {
                Ffn::Moe(self.moe(index, (hidden, RouterScale::OfResults), moe)?)
            }
            FfnSpec::Both { width, moe } => {
                Ffn::Both(Box::new(self.both(index, (hidden, norm), (*width, moe))?))
            }
        })
    }

    fn both(
        &mut self,
        index: usize,
        (hidden, norm): (usize, NormSpec),
        (width, moe): (usize, &MoeSpec),
    ) -> Result<Both<O>, ModelError> {
        let name = |part: &str| format!("blk.{index}.{part}");
        // The router sees its input divided by the root of its width.
        let mut router_norm = self.floats(&name("ffn_gate_inp.scale"), hidden)?;
        let root = (hidden as f32).sqrt();
        router_norm.iter_mut().for_each(|value| *value /= root);
        let weight = self.ops.load_vector(router_norm)?;
        Ok(Both {
            gated: self.gated(index, "", hidden, width)?,
            gated_post: self.norm(&name("post_ffw_norm_1"), hidden, norm)?,
            moe_norm: self.norm(&name("pre_ffw_norm_2"), hidden, norm)?,
            router_norm: Norm { weight, bias: None, spec: norm },
            moe: self.moe(index, (hidden, RouterScale::OfInputs), moe)?,
            moe_post: self.norm(&name("post_ffw_norm_2"), hidden, norm)?,
        })
    }
}
