//! Families whose attention has linear biases in place of positions (ALiBi): BLOOM, MPT, Refact, JAIS.
//! Falcon's files never say that they have them.

use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, QkNorm, RopeStyle};

/// The largest exponent of the slopes, where files do not say it.
pub(super) const MAX_ALIBI_BIAS: f32 = 8.0;

pub(super) fn bloom(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = layer_normed(keys)?;
    spec.embed_norm = true;
    set_alibi(&mut spec, MAX_ALIBI_BIAS);
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Gelu);
    }
    Ok(spec)
}

/// Some have learned positions instead of the biases, and norms over whole queries and keys.
pub(super) fn mpt(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = layer_normed(keys)?;
    spec.learned_positions = keys.has("position_embd.weight");
    set_alibi(&mut spec, keys.f32("attention.max_alibi_bias")?.unwrap_or(0.0));
    keys.clamp(&mut spec)?;
    let has_norms = keys.has("blk.0.attn_q_norm.weight");
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
        if has_norms {
            layer.attn.qk_norm = QkNorm::Full;
        }
    }
    Ok(spec)
}

pub(super) fn refact(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    set_alibi(&mut spec, MAX_ALIBI_BIAS);
    Ok(spec)
}

/// Scores are divided by the width of a head, not by its root.
pub(super) fn jais(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = layer_normed(keys)?;
    set_alibi(&mut spec, keys.f32("attention.max_alibi_bias")?.unwrap_or(0.0));
    for layer in &mut spec.layers {
        layer.attn.scale = 1.0 / layer.attn.head_dim as f32;
    }
    Ok(spec)
}

/// Linear biases by distance in place of rotary positions; none with 0.
pub(super) fn set_alibi(spec: &mut ModelSpec, max_bias: f32) {
    spec.ropes.clear();
    for layer in &mut spec.layers {
        layer.attn.rope = None;
        layer.attn.alibi = (max_bias > 0.0).then_some(max_bias);
    }
}

fn layer_normed(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    keys.dense(keys.layer_norm()?, rope)
}
