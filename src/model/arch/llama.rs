//! Llama and what shares its graph: SmolLM, Mistral, Mixtral, TinyLlama, InternLM 3 and others.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "llama",
    models: "Llama 1–3, SmolLM, Mistral, Mixtral, TinyLlama, InternLM 3 and relatives",
    proof: Proof::Own,
    describe: llama,
}];

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
