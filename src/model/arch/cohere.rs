//! Command R: one layer norm without bias for both parts, scaled logits, in R+ norms on
//! query and key heads; from R7B on positions in
//! windows alone.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, Norms, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "command-r", models: "Command R", proof: Proof::Own, describe: command_r },
    Architecture {
        name: "cohere2",
        models: "Command R7B, Command A",
        proof: Proof::Own,
        describe: cohere2,
    },
];

pub(super) fn command_r(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
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
