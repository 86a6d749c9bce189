//! Llama and what shares its graph: SmolLM, Mistral, Mixtral, TinyLlama, InternLM 2, XVERSE,
//! Baichuan; SmolLM 3; PLaMo 1.

use super::alibi::{MAX_ALIBI_BIAS, set_alibi};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, ModelSpec, Norms, RopeStyle};

/// SmolLM 3 leaves positions out of every fourth layer.
const SMOLLM3_NOPE_STEP: usize = 4;

pub(super) fn llama(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    let is_moe = keys.opt_usize("expert_count")?.is_some_and(|experts| experts > 0);
    for layer in &mut spec.layers {
        if let (FfnSpec::Gated { width, .. }, true) = (&layer.ffn, is_moe) {
            layer.ffn = FfnSpec::Moe(keys.moe(*width)?);
        }
    }
    Ok(spec)
}

pub(super) fn smollm3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = llama(keys)?;
    for layer in spec.layers.iter_mut().skip(SMOLLM3_NOPE_STEP - 1).step_by(SMOLLM3_NOPE_STEP) {
        layer.attn.rope = None;
    }
    Ok(spec)
}

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

/// The 13B model, of this many layers, has linear biases in place of positions.
const BAICHUAN_13B_LAYERS: usize = 40;

pub(super) fn baichuan(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = llama(keys)?;
    if spec.layers.len() == BAICHUAN_13B_LAYERS {
        set_alibi(&mut spec, MAX_ALIBI_BIAS);
    }
    Ok(spec)
}
