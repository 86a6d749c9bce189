//! Command R: one layer norm without bias for both parts, scaled logits.

use super::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, Norms, RopeStyle};

pub(super) fn command_r(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    spec.logit_scale = keys.f32("logit_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0);
    for layer in &mut spec.layers {
        layer.norms = Norms::PARALLEL;
    }
    Ok(spec)
}
