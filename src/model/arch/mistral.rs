//! Ministral 3: llama whose queries grow beyond the original context.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, RopeScaling, Temperature};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "mistral3",
    models: "Ministral 3",
    proof: Proof::Own,
    describe: mistral3,
}];

pub(super) fn mistral3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = super::llama::llama(keys)?;
    let without_factor = keys.f32("rope.scaling.yarn_log_multiplier")?.is_some_and(|m| m != 0.0);
    let mut original = None;
    for rope in &mut spec.ropes {
        if let RopeScaling::Yarn(yarn) = rope.scaling {
            original = Some(yarn.original_context);
            if without_factor {
                rope.magnitude /= 1.0 + 0.1 * yarn.factor.max(1.0).ln();
            }
        }
    }
    if let Some(scale) = keys.f32("attention.temperature_scale")?.filter(|scale| *scale != 0.0) {
        let key = "rope.scaling.original_context_length";
        let floor = original.map_or_else(|| keys.usize(key), Ok)?;
        for layer in &mut spec.layers {
            layer.attn_mut().temperature = Some(Temperature { scale, floor, offset: 0 });
        }
    }
    Ok(spec)
}
