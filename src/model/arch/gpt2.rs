//! GPT-2, and StarCoder 1 and SantaCoder, which share its graph: learned positions.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "gpt2", models: "GPT-2", proof: Proof::Own, describe: gpt2 },
    Architecture {
        name: "starcoder",
        models: "StarCoder 1, SantaCoder",
        proof: Proof::Own,
        describe: gpt2,
    },
];

pub(super) fn gpt2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    spec.ropes.clear();
    spec.learned_positions = true;
    for layer in &mut spec.layers {
        layer.attn_mut().rope = None;
        layer.ffn = layer.ffn.plain(ActSpec::Gelu);
    }
    Ok(spec)
}
