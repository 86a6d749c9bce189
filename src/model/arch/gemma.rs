//! Gemma 1, 2 and 3: scaled embeddings and GELU; from 2 on norms before and after each part and
//! local layers beside global ones; in 3 norms on query and key heads and a rope of its own for
//! the local layers.

use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{
    ActSpec, FfnSpec, ModelSpec, Norms, QkNorm, RopeScaling, RopeSpec, RopeStyle,
};

/// Layers a global layer is one of, when the file does not say.
const GEMMA2_PATTERN: usize = 2;
const GEMMA3_PATTERN: usize = 6;
const GEMMA2_WINDOW: usize = 4096;
/// Layer counts of the sizes whose scores are scaled by hidden size per head.
const GEMMA2_27B_LAYERS: usize = 46;
const GEMMA3_27B_LAYERS: usize = 62;

pub(super) fn gemma(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    base(keys, rope)
}

fn base(keys: &Keys<'_>, rope: RopeSpec) -> Result<ModelSpec, ModelError> {
    let mut spec = keys.dense(keys.rms()?, rope)?;
    spec.embed_scale = (spec.hidden as f32).sqrt();
    for layer in &mut spec.layers {
        if let FfnSpec::Gated { act, .. } = &mut layer.ffn {
            *act = ActSpec::Gelu;
        }
    }
    Ok(spec)
}

pub(super) fn gemma2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = base(keys, rope)?;
    spec.logit_softcap = cap(keys.f32("final_logit_softcapping")?.or(Some(30.0)));
    let softcap = cap(keys.f32("attn_logit_softcapping")?.or(Some(50.0)));
    let window = keys.opt_usize("attention.sliding_window")?.unwrap_or(GEMMA2_WINDOW);
    let is_local = keys.windows(spec.layers.len(), GEMMA2_PATTERN)?;
    let is_27b = spec.layers.len() == GEMMA2_27B_LAYERS;
    for (layer, is_local) in spec.layers.iter_mut().zip(is_local) {
        layer.norms = Norms::PRE_POST;
        layer.attn.softcap = softcap;
        layer.attn.window = (is_local && window > 0).then_some(window);
        if is_27b {
            layer.attn.scale = 1.0 / ((spec.hidden / layer.attn.heads) as f32).sqrt();
        }
    }
    Ok(spec)
}

pub(super) fn gemma3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let global = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut local = global.clone();
    local.base = keys.f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
    // Only the global layers reach far enough to be scaled.
    local.scaling = RopeScaling::None;
    let mut spec = base(keys, global)?;
    spec.ropes.push(local);
    spec.logit_softcap = cap(keys.f32("final_logit_softcapping")?);
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let is_local = keys.windows(spec.layers.len(), GEMMA3_PATTERN)?;
    let is_27b = spec.layers.len() == GEMMA3_27B_LAYERS;
    for (layer, is_local) in spec.layers.iter_mut().zip(is_local) {
        layer.norms = Norms::PRE_POST;
        layer.attn.qk_norm = QkNorm::PerHead;
        if is_27b {
            layer.attn.scale = 1.0 / ((spec.hidden / layer.attn.heads) as f32).sqrt();
        }
        if let (Some(window), true) = (window, is_local) {
            layer.attn.window = Some(window);
            layer.attn.rope = Some(1);
        }
    }
    Ok(spec)
}

fn cap(value: Option<f32>) -> Option<f32> {
    value.filter(|cap| *cap > 0.0)
}
