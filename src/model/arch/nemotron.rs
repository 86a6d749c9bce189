//! Nemotron and Minitron: layer norms and squared ReLU.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::starcoder::starcoder2;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "nemotron",
    models: "Nemotron 3 and 4, Minitron",
    proof: Proof::Own,
    describe: nemotron,
}];

/// The converter has added the one that this model's norms count from.
pub(super) fn nemotron(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = starcoder2(keys)?;
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Relu2);
    }
    Ok(spec)
}
