//! GLM-4 of April 2025: partial rope, norms before and after each part, gate and up in one tensor.

use super::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, Norms, RopeStyle};

pub(super) fn glm4(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        layer.norms = Norms::PRE_POST;
    }
    Ok(spec)
}
