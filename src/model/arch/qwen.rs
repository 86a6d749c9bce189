//! Qwen 2 (biases on q, k, v, read from the file) and Qwen 3 (norms on query and key heads).

use super::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, QkNorm, RopeStyle};

pub(super) fn qwen2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    keys.dense(keys.rms()?, rope)
}

pub(super) fn qwen3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = qwen2(keys)?;
    for layer in &mut spec.layers {
        layer.attn.qk_norm = QkNorm::PerHead;
    }
    Ok(spec)
}
