//! Command R: one layer norm without bias for both parts, scaled logits, in R+ norms on
//! query and key heads; from R7B on positions in
//! windows alone; as a mixture too.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, NormSpec, Norms, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "command-r", models: "Command R", proof: Proof::Own, describe: command_r },
    Architecture {
        name: "cohere2",
        models: "Command R7B, Command A",
        proof: Proof::Own,
        describe: cohere2,
    },
    Architecture {
        name: "cohere2moe",
        models: "North Mini Code",
        proof: Proof::Own,
        describe: cohere2moe,
    },
];

pub(super) fn command_r(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    with_norm(keys, keys.layer_norm()?)
}

fn with_norm(keys: &Keys<'_>, norm: NormSpec) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(norm, rope)?;
    spec.logit_scale = keys.f32("logit_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0);
    let qk_norm = keys.norms_of_each_head();
    for layer in &mut spec.layers {
        layer.norms = Norms::PARALLEL;
        layer.attn_mut().qk_norm = qk_norm;
    }
    Ok(spec)
}

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 4;

pub(super) fn cohere2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = command_r(keys)?;
    keys.rope_in_windows(&mut spec, PATTERN)?;
    Ok(spec)
}

/// Dense layers come first and have positions; what experts and shared experts make is averaged.
fn cohere2moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let has_rms = keys.f32("attention.layer_norm_rms_epsilon")?.is_some_and(|eps| eps > 0.0);
    let mut spec = with_norm(keys, if has_rms { keys.rms()? } else { keys.layer_norm()? })?;
    keys.rope_in_windows(&mut spec, PATTERN)?;
    let dense = keys.opt_usize("leading_dense_block_count")?.unwrap_or(0);
    for layer in spec.layers.iter_mut().take(dense) {
        layer.attn_mut().rope = Some(0);
    }
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?;
    keys.sigmoid_mixtures(&mut spec, |moe| {
        moe.shared_width = moe.shared_width.map(|width| shared.unwrap_or(width));
        if moe.shared_width.is_some() {
            moe.scale *= 0.5;
            moe.shared_scale = 0.5;
        }
    })?;
    Ok(spec)
}
