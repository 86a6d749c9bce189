//! StableLM: llama with layer norms; the 12B with norms on heads.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, Norms, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "stablelm", models: "StableLM", proof: Proof::Own, describe: stablelm }];

/// The 12B of version 2 has norms on query and key heads and both parts side by side.
pub(super) fn stablelm(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    let is_parallel = !keys.has("blk.0.ffn_norm.weight");
    let qk_norm = keys.norms_of_each_head();
    for layer in &mut spec.layers {
        layer.attn_mut().qk_norm = qk_norm;
        if is_parallel {
            layer.norms = Norms::PARALLEL;
        }
    }
    Ok(spec)
}
