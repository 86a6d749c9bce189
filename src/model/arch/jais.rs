//! JAIS: GPT with gated parts and linear biases in place of positions (ALiBi).

use super::alibi::set_alibi;
use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "jais", models: "JAIS", proof: Proof::Ours, describe: jais }];

/// Scores are divided by the width of a head, not by its root.
pub(super) fn jais(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = keys.dense(keys.layer_norm()?, keys.rope(RopeStyle::Neox, keys.head_dim()?)?)?;
    set_alibi(&mut spec, keys.f32("attention.max_alibi_bias")?.unwrap_or(0.0));
    for layer in &mut spec.layers {
        layer.attn_mut().scale = 1.0 / layer.attn_mut().head_dim as f32;
    }
    Ok(spec)
}
