//! MiniCPM: llama with scaled embeddings, residuals and logits; in version 3 with latent attention.

use super::deepseek::attend_to_latent;
use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{LatentSpec, LayerSpec, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture {
        name: "minicpm",
        models: "MiniCPM 1 and 2",
        proof: Proof::Relative,
        describe: minicpm,
    },
    Architecture { name: "minicpm3", models: "MiniCPM 3", proof: Proof::Own, describe: minicpm3 },
];

/// What files leave out, as the models were published.
const EMBED_SCALE: f32 = 12.0;
const DEPTH_SCALE: f32 = 1.4;
const BASE_WIDTH: f32 = 256.0;

pub(super) fn minicpm(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = super::llama::llama(keys)?;
    scale(keys, &mut spec)?;
    Ok(spec)
}

fn scale(keys: &Keys<'_>, spec: &mut ModelSpec) -> Result<(), ModelError> {
    let nonzero = |value: Option<f32>| value.filter(|value| *value != 0.0);
    let depth = DEPTH_SCALE / (spec.layers.len() as f32).sqrt();
    // The file holds the divisor.
    let divisor = nonzero(keys.f32("logit_scale")?).unwrap_or(spec.hidden as f32 / BASE_WIDTH);
    spec.embed_scale = nonzero(keys.f32("embedding_scale")?).unwrap_or(EMBED_SCALE);
    spec.residual_scale = nonzero(keys.f32("residual_scale")?).unwrap_or(depth);
    spec.logit_scale = 1.0 / divisor;
    Ok(())
}

pub(super) fn minicpm3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let turned = keys.usize("rope.dimension_count")?;
    let rope = keys.rope(RopeStyle::Neox, turned)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    let heads = spec.layers.first().and_then(LayerSpec::attn).map_or(1, |attn| attn.heads).max(1);
    let key = keys.usize("attention.key_length")?;
    let still = key.checked_sub(turned).ok_or_else(|| {
        ModelError::Limit(format!("rope dimension {turned} exceeds key length {key}"))
    })?;
    let latent = LatentSpec {
        q_rank: Some(keys.usize("attention.q_lora_rank")?),
        rank: keys.usize("attention.kv_lora_rank")?,
        still,
        turned,
        value: keys.opt_usize("attention.value_length")?.unwrap_or(spec.hidden / heads),
    };
    attend_to_latent(&mut spec, latent, 1.0 / (key as f32).sqrt());
    scale(keys, &mut spec)?;
    Ok(spec)
}
