//! SmolLM 3: llama that leaves positions out of every fourth layer; earlier ones are llama.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::llama::llama;
use crate::model::error::ModelError;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "smollm3", models: "SmolLM 3", proof: Proof::Own, describe: smollm3 }];

/// SmolLM 3 leaves positions out of every fourth layer.
const SMOLLM3_NOPE_STEP: usize = 4;

pub(super) fn smollm3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = llama(keys)?;
    for layer in spec.layers.iter_mut().skip(SMOLLM3_NOPE_STEP - 1).step_by(SMOLLM3_NOPE_STEP) {
        layer.attn_mut().rope = None;
    }
    Ok(spec)
}
