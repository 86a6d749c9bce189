//! Phi 2 (attention and feed-forward side by side, layer norm) and Phi 3 and 4 (llama with fused
//! projections and LongRoPE); Phi 3.5 MoE.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{
    ActSpec, FfnSpec, ModelSpec, MoeScore, MoeSpec, NormKind, NormSpec, Norms, RopeStyle,
};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "phi2", models: "Phi 1, 1.5 and 2", proof: Proof::Own, describe: phi2 },
    Architecture { name: "phi3", models: "Phi 3, 3.5 and 4", proof: Proof::Own, describe: phi3 },
    Architecture { name: "phimoe", models: "Phi 3.5 MoE", proof: Proof::Own, describe: phimoe },
];

pub(super) fn phi2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    for layer in &mut spec.layers {
        layer.norms = Norms::PARALLEL;
        layer.ffn = layer.ffn.plain(ActSpec::Gelu);
    }
    Ok(spec)
}

/// Phi 3.5 MoE: layer norms, whose epsilon files name after the other kind, and biases.
pub(super) fn phimoe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let norm = NormSpec { kind: NormKind::Layer, ..keys.rms()? };
    let mut spec = keys.dense(norm, rope)?;
    for layer in &mut spec.layers {
        let FfnSpec::Gated { width, .. } = layer.ffn else { continue };
        let moe = keys.moe(width)?;
        layer.ffn = FfnSpec::Moe(MoeSpec { score: MoeScore::SparseMixer, normalise: false, ..moe });
    }
    Ok(spec)
}

/// The sliding window in some files is left out, as llama.cpp does: its converters fill it wrongly.
pub(super) fn phi3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    keys.leave_out("attention.sliding_window");
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    keys.dense(keys.rms()?, rope)
}
