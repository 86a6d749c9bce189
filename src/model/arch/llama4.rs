//! Llama 4: three of four layers with positions and norms on query and key heads after them, the
//! fourth with a temperature instead; one expert beside a shared one in some layers.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, ModelSpec, MoeScore, QkNorm, RopeStyle, Temperature};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "llama4",
    models: "Llama 4 (text)",
    proof: Proof::Own,
    describe: llama4,
}];

/// Layers a layer without positions is one of, when the file does not say.
const NOPE_STEP: usize = 4;
/// Layers with positions attend within chunks of this many tokens.
const CHUNK: usize = 8192;
const TEMPERATURE: Temperature = Temperature { scale: 0.1, floor: 8192, offset: 1 };
/// The model of this many experts has no norms on queries and keys.
const MAVERICK_EXPERTS: usize = 128;

pub(super) fn llama4(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    let chunk = keys.opt_usize("attention.sliding_window")?.unwrap_or(CHUNK);
    let has_chunks = chunk > 0;
    let is_maverick = keys.opt_usize("expert_count")? == Some(MAVERICK_EXPERTS);
    let step = keys.usize("interleave_moe_layer_step")?;
    let is_local = keys.windows(spec.layers.len(), NOPE_STEP)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if has_chunks && !is_local[index] {
            layer.attn_mut().rope = None;
            layer.attn_mut().temperature = Some(TEMPERATURE);
        } else {
            layer.attn_mut().chunk = has_chunks.then_some(chunk);
            if !is_maverick {
                layer.attn_mut().qk_norm = QkNorm::Plain;
                layer.attn_mut().qk_norm_late = true;
            }
        }
        let FfnSpec::Gated { width, .. } = layer.ffn else { continue };
        if step > 0 && (index + 1) % step == 0 {
            let mut moe = keys.moe(width)?;
            moe.score = MoeScore::Sigmoid;
            moe.normalise = false;
            moe.weigh_input = true;
            moe.shared_width = Some(moe.width);
            layer.ffn = FfnSpec::Moe(moe);
        }
    }
    Ok(spec)
}
