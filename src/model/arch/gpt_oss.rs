//! gpt-oss: attention sinks, a window in every other layer, experts with biases and a clamped gate.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, FfnSpec, ModelSpec, MoeScore, Norms, RopeScaling, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "gpt-oss", models: "gpt-oss", proof: Proof::Own, describe: gpt_oss }];

const PATTERN: usize = 2;

pub(super) fn gpt_oss(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    if let RopeScaling::Yarn(yarn) = &mut rope.scaling {
        yarn.truncate = false;
    }
    let mut spec = keys.dense(keys.rms()?, rope)?;
    let window = keys.usize("attention.sliding_window")?;
    let is_local = keys.windows(spec.layers.len(), PATTERN)?;
    for (layer, is_local) in spec.layers.iter_mut().zip(is_local) {
        // Named for where it stands, this norm is the feed-forward part's own.
        layer.norms = Norms { ffn: Some("post_attention_norm"), ..Norms::PRE };
        layer.attn_mut().sinks = true;
        layer.attn_mut().window = is_local.then_some(window);
        let FfnSpec::Gated { width, .. } = layer.ffn else { continue };
        let mut moe = keys.moe(width)?;
        moe.act = ActSpec::OaiSwiglu;
        moe.score = MoeScore::SoftmaxAfter;
        moe.normalise = false;
        layer.ffn = FfnSpec::Moe(moe);
    }
    Ok(spec)
}
