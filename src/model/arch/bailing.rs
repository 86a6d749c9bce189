//! Ling: mixtures with shared experts; in version 2 norms on query and key heads, dense first
//! layers, and experts chosen by groups.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture {
        name: "bailingmoe",
        models: "Ling 1",
        proof: Proof::Relative,
        describe: bailingmoe,
    },
    Architecture {
        name: "bailingmoe2",
        models: "Ling 2",
        proof: Proof::Relative,
        describe: bailingmoe2,
    },
];

pub(super) fn bailingmoe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    keys.mixtures(&mut spec, |_| {})?;
    Ok(spec)
}

pub(super) fn bailingmoe2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        layer.attn_mut().qk_norm = QkNorm::PerHead;
    }
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?.filter(|width| *width > 0);
    let count = keys.opt_usize("expert_shared_count")?.unwrap_or(0);
    keys.mixtures(&mut spec, |moe| {
        let width = shared.unwrap_or(moe.width);
        moe.shared_width = width.checked_mul(count).filter(|width| *width > 0);
    })?;
    Ok(spec)
}
