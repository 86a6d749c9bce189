//! Nemotron and Minitron: layer norms and squared ReLU. Nemotron H and Nemotron 3: layers that are one part
//! each, a state-space mixer, attention, or a feed-forward part.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::starcoder::starcoder2;
use crate::model::error::ModelError;
use crate::model::spec::{
    ActSpec, FfnSpec, MixerSpec, ModelSpec, MoeScore, MoeSpec, NormKind, NormSpec, Norms, RopeStyle,
};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture {
        name: "nemotron",
        models: "Nemotron 3 and 4, Minitron",
        proof: Proof::Own,
        describe: nemotron,
    },
    Architecture {
        name: "nemotron_h",
        models: "Nemotron H, Nemotron Nano 2",
        proof: Proof::Own,
        describe: nemotron_h,
    },
    Architecture {
        name: "nemotron_h_moe",
        models: "Nemotron 3 Nano and Super",
        proof: Proof::Own,
        describe: nemotron_h,
    },
];

/// The converter has added the one that this model's norms count from.
pub(super) fn nemotron(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = starcoder2(keys)?;
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::Relu2);
    }
    Ok(spec)
}

/// Layers without a feed-forward part have attention where they have heads for keys. There are no positions.
fn nemotron_h(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let norm = match keys.rms() {
        Ok(norm) => norm,
        Err(_) => NormSpec { kind: NormKind::Rms, ..keys.layer_norm()? },
    };
    let mut spec = keys.dense(norm, keys.rope(RopeStyle::Neox, keys.head_dim()?)?)?;
    spec.ropes.clear();
    let ssm = keys.ssm(true)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let FfnSpec::Gated { width, .. } = layer.ffn else { continue };
        if width > 0 {
            layer.mixer = MixerSpec::None;
            layer.norms = Norms { attn: None, ffn: Some("attn_norm"), ..Norms::PRE };
            layer.ffn = match keys.has(&format!("blk.{index}.ffn_gate_inp.weight")) {
                true => FfnSpec::Moe(experts(keys, width)?),
                false => FfnSpec::Plain { width, act: ActSpec::Relu2 },
            };
            continue;
        }
        layer.ffn = FfnSpec::None;
        layer.norms = Norms { ffn: None, ..Norms::PRE };
        let attn = layer.attn_mut();
        attn.rope = None;
        if attn.kv_heads == 0 {
            layer.mixer = MixerSpec::Ssm(ssm);
        }
    }
    Ok(spec)
}

/// Experts without gates, which read a shorter vector in the larger models.
fn experts(keys: &Keys<'_>, width: usize) -> Result<MoeSpec, ModelError> {
    Ok(MoeSpec {
        act: ActSpec::Relu2,
        gated: false,
        score: MoeScore::Sigmoid,
        shared_width: keys
            .opt_usize("expert_shared_feed_forward_length")?
            .filter(|width| *width > 0),
        latent: keys.opt_usize("moe_latent_size")?.filter(|width| *width > 0),
        ..keys.routed(width)?
    })
}
