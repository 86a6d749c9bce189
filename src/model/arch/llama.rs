//! Llama and what shares its graph: SmolLM, Mistral, Mixtral, TinyLlama.

use super::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, FfnSpec, ModelSpec, MoeScore, MoeSpec, RopeStyle};

pub(super) fn llama(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    if let Some(experts) = keys.opt_usize("expert_count")?.filter(|experts| *experts > 0) {
        let used = keys.usize("expert_used_count")?;
        for layer in &mut spec.layers {
            let FfnSpec::Gated { width, .. } = layer.ffn else { continue };
            layer.ffn = FfnSpec::Moe(MoeSpec {
                experts,
                used,
                width: keys.opt_usize("expert_feed_forward_length")?.unwrap_or(width),
                act: ActSpec::Silu,
                score: MoeScore::Softmax,
                normalise: true,
                scale: 1.0,
                shared_width: None,
                shared_gate: false,
            });
        }
    }
    Ok(spec)
}
