//! MPT: linear biases in place of positions (ALiBi).

use super::alibi::set_alibi;
use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "mpt", models: "MPT", proof: Proof::Own, describe: mpt }];

/// Some have learned positions instead of the biases, and norms over whole queries and keys.
pub(super) fn mpt(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = keys.dense(keys.layer_norm()?, keys.rope(RopeStyle::Neox, keys.head_dim()?)?)?;
    spec.learned_positions = keys.has("position_embd.weight");
    set_alibi(&mut spec, keys.f32("attention.max_alibi_bias")?.unwrap_or(0.0));
    keys.clamp(&mut spec)?;
    let has_norms = keys.has("blk.0.attn_q_norm.weight");
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
        if has_norms {
            layer.attn_mut().qk_norm = QkNorm::Full;
        }
    }
    Ok(spec)
}
