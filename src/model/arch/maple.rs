//! Maple: Qwen 3 MoE with positions in windows alone, and experts whose inputs to the gate are clamped.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::qwen::qwen3moe;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, FfnSpec, ModelSpec};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "maple", models: "Maple", proof: Proof::Ours, describe: maple }];

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 4;

fn maple(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = qwen3moe(keys)?;
    keys.rope_in_windows(&mut spec, PATTERN)?;
    let limits = keys.limits("swiglu_clamp_exp", spec.layers.len())?;
    for (layer, limit) in spec.layers.iter_mut().zip(limits).filter(|(_, limit)| *limit > 0.0) {
        if let FfnSpec::Moe(moe) = &mut layer.ffn {
            moe.act = ActSpec::ClampedSwiglu { limit };
        }
    }
    Ok(spec)
}
