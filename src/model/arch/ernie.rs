//! ERNIE 4.5: llama's graph; as mixtures with shared experts in some layers.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "ernie4_5", models: "ERNIE 4.5", proof: Proof::Own, describe: ernie4_5 },
    Architecture {
        name: "ernie4_5-moe",
        models: "ERNIE 4.5 MoE",
        proof: Proof::Own,
        describe: ernie4_5_moe,
    },
];

pub(super) fn ernie4_5(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    keys.dense(keys.rms()?, rope)
}

pub(super) fn ernie4_5_moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = ernie4_5(keys)?;
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?.filter(|width| *width > 0);
    let step = keys.opt_usize("interleave_moe_layer_step")?.unwrap_or(1).max(1);
    let dense: Vec<FfnSpec> = spec.layers.iter().map(|layer| layer.ffn.clone()).collect();
    keys.mixtures(&mut spec, |moe| {
        moe.normalise = true;
        moe.shared_width = shared;
    })?;
    for (index, (layer, dense)) in spec.layers.iter_mut().zip(dense).enumerate() {
        if (index + 1) % step != 0 {
            layer.ffn = dense;
        }
    }
    Ok(spec)
}
