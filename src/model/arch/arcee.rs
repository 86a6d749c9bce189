//! Arcee AFM: llama with squared ReLU and no gate.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::llama::llama;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "arcee", models: "Arcee AFM", proof: Proof::Own, describe: arcee }];

pub(super) fn arcee(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = llama(keys)?;
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Relu2);
    }
    Ok(spec)
}
