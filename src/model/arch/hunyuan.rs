//! Hunyuan: norms on query and key heads after the rotary embedding; as a mixture beside a shared
//! expert too; in the third version norms before it and experts chosen by biased sigmoids.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, ModelSpec, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "hunyuan-dense", models: "Hunyuan", proof: Proof::Own, describe: dense },
    Architecture { name: "hunyuan-moe", models: "Hunyuan A13B", proof: Proof::Own, describe: moe },
    Architecture { name: "hy_v3", models: "Hunyuan 3", proof: Proof::Own, describe: hy_v3 },
];

pub(super) fn dense(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        layer.attn_mut().qk_norm = QkNorm::PerHead;
        layer.attn_mut().qk_norm_late = true;
    }
    Ok(spec)
}

pub(super) fn moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = dense(keys)?;
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?.filter(|width| *width > 0);
    for layer in &mut spec.layers {
        let FfnSpec::Gated { width, .. } = layer.ffn else { continue };
        let mut moe = keys.moe(width)?;
        moe.shared_width = Some(shared.unwrap_or(width));
        layer.ffn = FfnSpec::Moe(moe);
    }
    Ok(spec)
}

fn hy_v3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = dense(keys)?;
    spec.layers.iter_mut().for_each(|layer| layer.attn_mut().qk_norm_late = false);
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?;
    keys.sigmoid_mixtures(&mut spec, |moe| {
        moe.shared_width = Some(shared.unwrap_or(moe.width));
    })?;
    Ok(spec)
}
