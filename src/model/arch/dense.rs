//! Dense families that differ from llama in one thing: Arcee and Apertus in the feed-forward part,
//! Seed-OSS in the name of a norm.

use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, Norms, QkNorm, RopeStyle, Xielu};

pub(super) fn arcee(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = super::llama::llama(keys)?;
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Relu2);
    }
    Ok(spec)
}

/// The activation has numbers of its own in each layer.
pub(super) fn apertus(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    let layers = spec.layers.len();
    let p = keys.floats("xielu.alpha_p", layers)?;
    let n = keys.floats("xielu.alpha_n", layers)?;
    let beta = keys.floats("xielu.beta", layers)?;
    let eps = keys.floats("xielu.eps", layers)?;
    let softplus = |x: f32| if x > 20.0 { x } else { x.exp().ln_1p() };
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        layer.attn.qk_norm = QkNorm::PerHead;
        layer.ffn = layer.ffn.plain(ActSpec::Xielu(Xielu {
            p: softplus(p[index]),
            n: beta[index] + softplus(n[index]),
            beta: beta[index],
            eps: eps[index],
        }));
    }
    Ok(spec)
}

pub(super) fn seed_oss(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        // Named for where it stands, this norm is the feed-forward part's own.
        layer.norms = Norms { ffn: Some("post_attention_norm"), ..Norms::PRE };
    }
    Ok(spec)
}
