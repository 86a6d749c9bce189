//! OLMo 1; OLMo 2 and 3: norms after each part alone, norms over whole queries and keys; OLMoE.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, Norms, QkNorm, RopeScaling, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "olmo", models: "OLMo 1", proof: Proof::Own, describe: olmo },
    Architecture { name: "olmo2", models: "OLMo 2 and 3", proof: Proof::Own, describe: olmo2 },
    Architecture { name: "olmoe", models: "OLMoE", proof: Proof::Own, describe: olmoe },
];

/// OLMo 3: every fourth layer is global.
const PATTERN: usize = 4;

pub(super) fn olmo2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let global = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut local = global.clone();
    local.base = keys.f32("rope.freq_base_swa")?.unwrap_or(local.base);
    local.scaling = RopeScaling::None;
    local.magnitude = 1.0;
    let mut spec = keys.dense(keys.rms()?, global)?;
    spec.ropes.push(local);
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let is_local = keys.windows(spec.layers.len(), PATTERN)?;
    for (layer, is_local) in spec.layers.iter_mut().zip(is_local) {
        layer.norms = Norms::POST;
        layer.attn_mut().qk_norm = QkNorm::Full;
        if let (Some(window), true) = (window, is_local) {
            layer.attn_mut().window = Some(window);
            layer.attn_mut().rope = Some(1);
        }
    }
    Ok(spec)
}

/// OLMo 1: llama with layer norms that have no weights.
pub(super) fn olmo(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    spec.norms_learned = false;
    keys.clamp(&mut spec)?;
    Ok(spec)
}

pub(super) fn olmoe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        layer.attn_mut().qk_norm = QkNorm::Full;
    }
    keys.mixtures(&mut spec, |_| {})?;
    Ok(spec)
}
