//! Seed-OSS: llama with a norm that is named for where it stands.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, Norms, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "seed_oss", models: "Seed-OSS", proof: Proof::Own, describe: seed_oss }];

pub(super) fn seed_oss(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        // Named for where it stands, this norm is the feed-forward part's own.
        layer.norms = Norms { ffn: Some("post_attention_norm"), ..Norms::PRE };
    }
    Ok(spec)
}
