//! Orion: llama with layer norms.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "orion", models: "Orion 14B", proof: Proof::Relative, describe: orion }];

/// Llama with layer norms.
pub(super) fn orion(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    keys.dense(keys.layer_norm()?, rope)
}
