//! JAIS: GPT with gated parts and linear biases in place of positions (ALiBi); the second with rotary ones
//! and squares of ReLU.

use super::alibi::set_alibi;
use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "jais", models: "JAIS", proof: Proof::Ours, describe: jais },
    Architecture { name: "jais2", models: "JAIS 2", proof: Proof::Own, describe: jais2 },
];

fn jais2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = keys.dense(keys.layer_norm()?, keys.rope(RopeStyle::Neox, keys.head_dim()?)?)?;
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Relu2);
    }
    Ok(spec)
}

/// Scores are divided by the width of a head, not by its root.
pub(super) fn jais(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = keys.dense(keys.layer_norm()?, keys.rope(RopeStyle::Neox, keys.head_dim()?)?)?;
    set_alibi(&mut spec, keys.f32("attention.max_alibi_bias")?.unwrap_or(0.0));
    for layer in &mut spec.layers {
        layer.attn_mut().scale = 1.0 / layer.attn_mut().head_dim as f32;
    }
    Ok(spec)
}
