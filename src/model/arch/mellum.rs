//! Mellum 2: Qwen 3 MoE with a window in three of four layers.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::qwen::qwen3moe;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, RopeFactors, RopeScaling, RopeSpec};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "mellum", models: "Mellum 2", proof: Proof::Own, describe: mellum }];

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 4;

fn mellum(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = qwen3moe(keys)?;
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let Some(window) = window else { return Ok(spec) };
    // Only the global layers reach far enough to be scaled.
    let local = RopeSpec {
        base: keys.f32("rope.freq_base_swa")?.unwrap_or(spec.ropes[0].base),
        scaling: RopeScaling::None,
        factors: RopeFactors::None,
        magnitude: 1.0,
        ..spec.ropes[0].clone()
    };
    spec.ropes.push(local);
    let is_local = keys.windows(spec.layers.len(), PATTERN)?;
    for (layer, _) in spec.layers.iter_mut().zip(is_local).filter(|(_, is_local)| *is_local) {
        layer.attn_mut().window = Some(window);
        layer.attn_mut().rope = Some(1);
    }
    Ok(spec)
}
