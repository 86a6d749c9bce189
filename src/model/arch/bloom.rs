//! BLOOM: linear biases in place of positions (ALiBi), and a norm on the embedding.

use super::alibi::{MAX_ALIBI_BIAS, set_alibi};
use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, EmbedNorm, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "bloom", models: "BLOOM", proof: Proof::Own, describe: bloom }];

pub(super) fn bloom(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = keys.dense(keys.layer_norm()?, keys.rope(RopeStyle::Neox, keys.head_dim()?)?)?;
    spec.embed_norm = EmbedNorm::Learned;
    set_alibi(&mut spec, MAX_ALIBI_BIAS);
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Gelu);
    }
    Ok(spec)
}
