//! The layer-norm families: GPT-2 and StarCoder 1, GPT-NeoX, StarCoder 2 and CodeShell, StableLM,
//! Falcon, Nemotron, Orion.

use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, Norms, RopeStyle};

pub(super) fn gpt2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    spec.ropes.clear();
    spec.learned_positions = true;
    for layer in &mut spec.layers {
        layer.attn.rope = None;
        layer.ffn = layer.ffn.plain(ActSpec::Gelu);
    }
    Ok(spec)
}

pub(super) fn gptneox(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = starcoder2(keys)?;
    let parallel = keys.metadata.bool(&keys.key("use_parallel_residual"))?.unwrap_or(true);
    for layer in &mut spec.layers {
        layer.norms.parallel = parallel;
        layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
    }
    Ok(spec)
}

pub(super) fn starcoder2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Gelu);
    }
    Ok(spec)
}

/// The 12B of version 2 has norms on query and key heads and both parts side by side.
pub(super) fn stablelm(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    let is_parallel = !keys.has("blk.0.ffn_norm.weight");
    let qk_norm = keys.norms_of_each_head();
    for layer in &mut spec.layers {
        layer.attn.qk_norm = qk_norm;
        if is_parallel {
            layer.norms = Norms::PARALLEL;
        }
    }
    Ok(spec)
}

/// The 40B gives attention a norm of its own.
pub(super) fn falcon(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = starcoder2(keys)?;
    let own = keys.has("blk.0.attn_norm_2.weight");
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
        layer.norms = match own {
            true => Norms { attn: Some("attn_norm_2"), ffn: Some("attn_norm"), ..Norms::PARALLEL },
            false => Norms::PARALLEL,
        };
    }
    Ok(spec)
}

/// The converter has added the one that this model's norms count from.
pub(super) fn nemotron(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = starcoder2(keys)?;
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Relu2);
    }
    Ok(spec)
}

/// Llama with layer norms.
pub(super) fn orion(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    keys.dense(keys.layer_norm()?, rope)
}
