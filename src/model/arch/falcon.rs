//! Falcon: both parts side by side after layer norms; its files never say that they have linear biases.
//! Falcon H1: attention and a state-space mixer side by side in every layer.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::starcoder::starcoder2;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, MixerSpec, ModelSpec, Norms, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture {
        name: "falcon",
        models: "Falcon 7B and 40B",
        proof: Proof::Own,
        describe: falcon,
    },
    Architecture { name: "falcon-h1", models: "Falcon H1", proof: Proof::Own, describe: falcon_h1 },
];

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

/// The converter has put the model's many factors into its matrices.
fn falcon_h1(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = keys.dense(keys.rms()?, keys.rope(RopeStyle::Neox, keys.head_dim()?)?)?;
    let ssm = keys.ssm(keys.has("blk.0.ssm_norm.weight"))?;
    for layer in &mut spec.layers {
        let attn = layer.attn_mut().clone();
        layer.mixer = MixerSpec::Both { attn, ssm };
    }
    Ok(spec)
}
