//! DeepSeek and what follows it: a few shared experts beside many small ones; from V2 on latent
//! attention, from V3 on sigmoid scores with a bias that chooses; in V3.2 and GLM-5 an index that picks the
//! tokens to attend to.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{
    AttnSpec, LatentSpec, MixerSpec, ModelSpec, MoeScore, RopeScaling, RopeStyle, Temperature,
};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture {
        name: "deepseek",
        models: "DeepSeek MoE 16B",
        proof: Proof::Relative,
        describe: deepseek,
    },
    Architecture {
        name: "deepseek2",
        models: "DeepSeek V2, V3 and R1, Kimi K2, GLM-4.7-Flash, GigaChat 3",
        proof: Proof::Own,
        describe: deepseek2,
    },
    Architecture {
        name: "mistral4",
        models: "Mistral 4 (text)",
        proof: Proof::Own,
        describe: deepseek2,
    },
    Architecture {
        name: "deepseek32",
        models: "DeepSeek V3.2, as far as its index picks all tokens",
        proof: Proof::Own,
        describe: deepseek32,
    },
    Architecture {
        name: "glm-dsa",
        models: "GLM-5, as far as its index picks all tokens",
        proof: Proof::Own,
        describe: deepseek32,
    },
];

pub(super) fn deepseek(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    keys.mixtures(&mut spec, |_| {})?;
    Ok(spec)
}

pub(super) fn deepseek2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let turned = keys.usize("rope.dimension_count")?;
    let mut rope = keys.rope(RopeStyle::Norm, turned)?;
    let latent = latent(keys, turned)?;
    let mut scale = 1.0 / ((latent.still + latent.turned) as f32).sqrt();
    let log_multiplier = keys.f32("rope.scaling.yarn_log_multiplier")?;
    if let (RopeScaling::Yarn(yarn), Some(multiplier)) = (&rope.scaling, log_multiplier) {
        // These models take YaRN's factor off the rotated parts, and put their own on the scores.
        let log = yarn.factor.max(1.0).ln();
        rope.magnitude /= 1.0 + 0.1 * log;
        scale *= (1.0 + multiplier * log).powi(2);
    }
    let mut spec = keys.dense(keys.rms()?, rope)?;
    attend_to_latent(&mut spec, latent, scale);
    if let Some(scale) = keys.f32("attention.temperature_scale")?.filter(|scale| *scale != 0.0) {
        let floor = keys.usize("attention.temperature_length")?;
        for layer in &mut spec.layers {
            layer.attn_mut().temperature = Some(Temperature { scale, floor, offset: 0 });
        }
    }
    if keys.opt_usize("expert_count")?.is_some_and(|experts| experts > 0) {
        let silent = keys.opt_usize("expert_gating_func")?.unwrap_or(0) == 0;
        let by_sigmoid = silent && keys.has_selection_bias();
        keys.mixtures(&mut spec, |moe| {
            if by_sigmoid {
                moe.score = MoeScore::Sigmoid;
            }
        })?;
    }
    Ok(spec)
}

/// An index picks `top_k` tokens for each query: all of them in contexts that are no longer. The model is
/// run within such a context, where the index is of no use.
fn deepseek32(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = deepseek2(keys)?;
    for key in ["head_count", "key_length", "types"] {
        keys.leave_out(&format!("attention.indexer.{key}"));
    }
    let top_k = keys.usize("attention.indexer.top_k")?;
    if top_k < spec.context_len {
        spec.context_len = top_k;
        spec.warning = Some(format!(
            "the context ends at {top_k} tokens: beyond it the model attends to tokens that an index \
             picks, which is not supported"
        ));
    }
    spec.left_out = &[".indexer."];
    Ok(spec)
}

/// The widths of latent attention. Files that hold it in its old form give the widths of heads where
/// new ones give those of the latent vector.
pub(super) fn latent(keys: &Keys<'_>, turned: usize) -> Result<LatentSpec, ModelError> {
    let either = |new: &str, old: &str| match keys.opt_usize(new)? {
        Some(width) => Ok(width),
        None => keys.usize(old),
    };
    let key = either("attention.key_length_mla", "attention.key_length")?;
    let value = either("attention.value_length_mla", "attention.value_length")?;
    let still = key.checked_sub(turned).ok_or_else(|| {
        ModelError::Limit(format!("rope dimension {turned} exceeds key length {key}"))
    })?;
    let q_rank = match keys.has("blk.0.attn_q.weight") {
        true => None,
        false => Some(keys.usize("attention.q_lora_rank")?),
    };
    let rank = keys.usize("attention.kv_lora_rank")?;
    Ok(LatentSpec { q_rank, rank, still, turned, value })
}

/// One key and value for all heads: the latent vector.
pub(super) fn attend_to_latent(spec: &mut ModelSpec, latent: LatentSpec, scale: f32) {
    for layer in &mut spec.layers {
        let head_dim = latent.rank.saturating_add(latent.turned);
        let own = layer.attn_mut().clone();
        let attn = AttnSpec { kv_heads: 1, head_dim, value_dim: latent.rank, scale, ..own };
        layer.mixer = MixerSpec::Latent { attn, latent };
    }
}
