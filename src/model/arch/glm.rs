//! GLM: partial rope, gate and up in one tensor; in GLM-4 of April 2025 norms before and after each
//! part; from 4.5 on mixtures with shared experts.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, MoeScore, Norms, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture {
        name: "chatglm",
        models: "ChatGLM 3, GLM-4, GLM-Edge",
        proof: Proof::Relative,
        describe: chatglm,
    },
    Architecture { name: "glm4", models: "GLM-4 (0414)", proof: Proof::Own, describe: glm4 },
    Architecture {
        name: "glm4moe",
        models: "GLM-4.5, 4.6 and 4.7",
        proof: Proof::Own,
        describe: glm4moe,
    },
];

/// The text part of models that see (4.1V, 4.6V) has sections in its rotary embedding, and with them the
/// pairs of GPT-NeoX.
pub(super) fn glm4(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let style = if keys.has_sections()? { RopeStyle::Neox } else { RopeStyle::Norm };
    let rope = keys.rope(style, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        layer.norms = Norms::PRE_POST;
    }
    Ok(spec)
}

/// Gate and up in one tensor here too, norms only before each part.
pub(super) fn chatglm(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    keys.dense(keys.rms()?, rope)
}

pub(super) fn glm4moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    // Sections or not, the pairs are the same.
    keys.has_sections()?;
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    let has_norms = keys.has("blk.0.attn_q_norm.weight");
    for layer in &mut spec.layers {
        // Named for where it stands, this norm is the feed-forward part's own.
        layer.norms = Norms { ffn: Some("post_attention_norm"), ..Norms::PRE };
        if has_norms {
            layer.attn_mut().qk_norm = QkNorm::PerHead;
        }
    }
    let silent = keys.opt_usize("expert_gating_func")?.unwrap_or(0) == 0;
    keys.mixtures(&mut spec, |moe| {
        if silent {
            moe.score = MoeScore::Sigmoid;
        }
    })?;
    Ok(spec)
}
