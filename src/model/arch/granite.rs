//! Granite 3 and the dense 4: llama with four scales, some without positions; as a mixture of experts too,
//! with windows and sinks, and with state-space layers in place of most of its attention.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, MixerSpec, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "granite", models: "Granite 3", proof: Proof::Own, describe: granite },
    Architecture {
        name: "granitemoe",
        models: "Granite 3 MoE",
        proof: Proof::Own,
        describe: granitemoe,
    },
    Architecture {
        name: "granitehybrid",
        models: "Granite 4 (hybrid)",
        proof: Proof::Own,
        describe: granitehybrid,
    },
    Architecture {
        name: "granite_swa",
        models: "Granite with windows, dense and MoE",
        proof: Proof::Own,
        describe: granite_swa,
    },
];

pub(super) fn granite(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    let nonzero = |value: Option<f32>| value.filter(|value| *value != 0.0);
    spec.embed_scale = nonzero(keys.f32("embedding_scale")?).unwrap_or(1.0);
    spec.residual_scale = nonzero(keys.f32("residual_scale")?).unwrap_or(1.0);
    // The file holds the divisor.
    spec.logit_scale = 1.0 / nonzero(keys.f32("logit_scale")?).unwrap_or(1.0);
    // In this family the key says whether there are positions at all.
    let key = keys.key("rope.scaling.finetuned");
    if keys.metadata.bool(&key)? == Some(false) {
        spec.ropes.clear();
        spec.layers.iter_mut().for_each(|layer| layer.attn_mut().rope = None);
    }
    Ok(spec)
}

pub(super) fn granitemoe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = granite(keys)?;
    if keys.opt_usize("expert_count")?.unwrap_or(0) == 0 {
        return Ok(spec);
    }
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?.filter(|width| *width > 0);
    for layer in &mut spec.layers {
        let FfnSpec::Gated { width, .. } = layer.ffn else { continue };
        let mut moe = keys.moe(width)?;
        moe.shared_width = shared;
        layer.ffn = FfnSpec::Moe(moe);
    }
    Ok(spec)
}

/// Layers without key heads are state-space layers.
fn granitehybrid(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = granitemoe(keys)?;
    let ssm = keys.ssm(true)?;
    for layer in &mut spec.layers {
        if layer.attn_mut().kv_heads == 0 {
            layer.mixer = MixerSpec::Ssm(ssm);
        }
    }
    Ok(spec)
}

/// Layers a global layer is the first of, when the file does not say.
const PERIOD: usize = 4;

fn granite_swa(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = granitemoe(keys)?;
    let layers = spec.layers.len();
    let window = keys.usize("attention.sliding_window")?;
    let is_local = keys.windows_but_first(layers, PERIOD)?;
    let has_positions = keys.flags("attention.rope_pattern", layers)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let attn = layer.attn_mut();
        attn.sinks = true;
        attn.window = is_local[index].then_some(window);
        if has_positions.as_ref().is_some_and(|flags| !flags[index]) {
            attn.rope = None;
        }
    }
    Ok(spec)
}
