//! LFM 2 and 2.5: short convolutions, and attention in some layers; as a mixture of experts too.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::carried::ShortConvSpec;
use crate::model::error::ModelError;
use crate::model::spec::{MixerSpec, ModelSpec, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "lfm2", models: "LFM 2 and 2.5", proof: Proof::Own, describe: lfm2 },
    Architecture {
        name: "lfm2moe",
        models: "LFM 2 and 2.5 MoE",
        proof: Proof::Own,
        describe: lfm2moe,
    },
];

fn lfm2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    // The converters took the last norm for one on the embedding.
    spec.last_norm = "token_embd_norm";
    let taps = keys.usize("shortconv.l_cache")?;
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let width = spec.hidden;
    for layer in &mut spec.layers {
        let attn = layer.attn_mut();
        attn.qk_norm = QkNorm::PerHead;
        attn.window = window;
        if attn.kv_heads == 0 {
            layer.mixer = MixerSpec::ShortConv(ShortConvSpec { taps, width });
        }
    }
    Ok(spec)
}

fn lfm2moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = lfm2(keys)?;
    keys.mixtures(&mut spec, |moe| moe.normalise = true)?;
    Ok(spec)
}
