//! Gemma 3: norms before and after each part, GELU, local and global layers with a rope each.

use super::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, FfnSpec, ModelSpec, Norms, QkNorm, RopeScaling, RopeStyle};

/// Layers per global layer when the file does not say.
const GEMMA3_PATTERN: usize = 6;
/// Layer count of the one size whose scores are scaled by hidden size per head.
const GEMMA3_27B_LAYERS: usize = 62;

pub(super) fn gemma3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let global = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut local = global.clone();
    local.base = keys.f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
    // Only the global layers reach far enough to be scaled.
    local.scaling = RopeScaling::None;
    let mut spec = keys.dense(keys.rms()?, global)?;
    spec.ropes.push(local);
    spec.embed_scale = (spec.hidden as f32).sqrt();
    spec.logit_softcap = keys.f32("final_logit_softcapping")?.filter(|cap| *cap > 0.0);
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let windows = keys.windows(spec.layers.len(), GEMMA3_PATTERN)?;
    let is_27b = spec.layers.len() == GEMMA3_27B_LAYERS;
    for (layer, is_local) in spec.layers.iter_mut().zip(windows) {
        layer.norms = Norms::PRE_POST;
        layer.attn.qk_norm = QkNorm::PerHead;
        if is_27b {
            layer.attn.scale = 1.0 / ((spec.hidden / layer.attn.heads) as f32).sqrt();
        }
        if let (Some(window), true) = (window, is_local) {
            layer.attn.window = Some(window);
            layer.attn.rope = Some(1);
        }
        if let FfnSpec::Gated { act, .. } = &mut layer.ffn {
            *act = ActSpec::Gelu;
        }
    }
    Ok(spec)
}
