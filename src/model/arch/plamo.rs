//! PLaMo 1: llama with both parts side by side; 3 with norms on both sides of each part, on queries and
//! keys, and windows.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, Norms, QkNorm, RopeSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "plamo", models: "PLaMo 1", proof: Proof::Ours, describe: plamo },
    Architecture { name: "plamo3", models: "PLaMo 3", proof: Proof::Relative, describe: plamo3 },
];

/// Attention and feed-forward read the same norm. The converter has put the query heads in the order of
/// the key heads.
pub(super) fn plamo(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        layer.norms = Norms::PARALLEL;
    }
    Ok(spec)
}

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 8;

/// The converter has put what differs from one in each kind of norm into its weights.
fn plamo3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let global = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let local =
        RopeSpec { base: keys.f32("rope.freq_base_swa")?.unwrap_or(global.base), ..global.clone() };
    let mut spec = keys.dense(keys.rms()?, global)?;
    spec.ropes.push(local);
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let is_local = keys.windows(spec.layers.len(), PATTERN)?;
    for (layer, is_local) in spec.layers.iter_mut().zip(is_local) {
        layer.norms = Norms::PRE_POST;
        let attn = layer.attn_mut();
        attn.qk_norm = QkNorm::PerHead;
        if let (Some(window), true) = (window, is_local) {
            attn.window = Some(window);
            attn.rope = Some(1);
        }
    }
    Ok(spec)
}
