//! Llama and what shares its graph: SmolLM, Mistral, Mixtral, TinyLlama, InternLM 3 and others; encoders in
//! its form.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, HeadSpec, MixerSpec, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "llama",
    models: "Llama 1–3, SmolLM, Mistral, Mixtral, TinyLlama, InternLM 3 and relatives",
    proof: Proof::Own,
    describe: llama,
}];

/// Llama of which a search took parts away.
pub(super) const DECI: &[Architecture] = &[Architecture {
    name: "deci",
    models: "DeciLM 7B, Llama Nemotron Super 49B and Ultra 253B",
    proof: Proof::Ours,
    describe: deci,
}];

/// They make embeddings.
pub(super) const ENCODERS: &[Architecture] = &[
    Architecture {
        name: "llama-embed",
        models: "Llama Embed Nemotron",
        proof: Proof::Own,
        describe: llama_embed,
    },
    Architecture {
        name: "eurobert",
        models: "EuroBERT, Jina Embeddings 5",
        proof: Proof::Own,
        describe: eurobert,
    },
];

/// Layers may have no attention, no feed-forward part, or neither; no heads and a width of 0 say so.
fn deci(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = llama(keys)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        match (layer.attn_mut().heads, layer.attn_mut().kv_heads) {
            (0, _) => {
                layer.mixer = MixerSpec::None;
                layer.norms.attn = None;
            }
            (_, 0) => {
                let problem = format!("layer {index} has a matrix in place of attention");
                return Err(ModelError::Limit(format!("{problem}, which is not supported")));
            }
            _ => {}
        }
        if matches!(layer.ffn, FfnSpec::Gated { width: 0, .. }) {
            layer.ffn = FfnSpec::None;
            layer.norms.ffn = None;
        }
    }
    Ok(spec)
}

/// Llama whose tokens see those after them too.
fn llama_embed(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = llama(keys)?;
    spec.layers.iter_mut().for_each(|layer| layer.attn_mut().causal = false);
    spec.head = HeadSpec::Norm;
    Ok(spec)
}

/// The same with other pairs in its rotary embedding.
fn eurobert(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = llama_embed(keys)?;
    spec.ropes.iter_mut().for_each(|rope| rope.style = RopeStyle::Neox);
    Ok(spec)
}

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
