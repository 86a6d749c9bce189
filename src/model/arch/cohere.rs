//! Command R: one layer norm without bias for both parts, scaled logits; from R7B on positions in
//! windows alone.

use super::keys::Keys;
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

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 4;

pub(super) fn cohere2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = command_r(keys)?;
    keys.rope_in_windows(&mut spec, PATTERN)?;
    Ok(spec)
}
