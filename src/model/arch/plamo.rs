//! PLaMo 1: llama with both parts side by side.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, Norms, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "plamo", models: "PLaMo 1", proof: Proof::Ours, describe: plamo }];

/// Attention and feed-forward read the same norm. The converter has put the query heads in the order of
/// the key heads.
pub(super) fn plamo(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        layer.norms = Norms::PARALLEL;
    }
    Ok(spec)
}
