//! StarCoder 2 and CodeShell: layer norms and rotary positions; StarCoder 1 is GPT-2.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture {
        name: "starcoder2",
        models: "StarCoder 2",
        proof: Proof::Own,
        describe: starcoder2,
    },
    Architecture {
        name: "codeshell",
        models: "CodeShell",
        proof: Proof::Relative,
        describe: starcoder2,
    },
];

pub(super) fn starcoder2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Gelu);
    }
    Ok(spec)
}
