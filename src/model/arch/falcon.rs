//! Falcon: both parts side by side after layer norms; its files never say that they have linear biases.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::starcoder::starcoder2;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, Norms};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "falcon",
    models: "Falcon 7B and 40B",
    proof: Proof::Own,
    describe: falcon,
}];

/// The 40B gives attention a norm of its own.
pub(super) fn falcon(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = starcoder2(keys)?;
    let own = keys.has("blk.0.attn_norm_2.weight");
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
        layer.norms = match own {
            true => Norms { attn: Some("attn_norm_2"), ffn: Some("attn_norm"), ..Norms::PARALLEL },
            false => Norms::PARALLEL,
        };
    }
    Ok(spec)
}
