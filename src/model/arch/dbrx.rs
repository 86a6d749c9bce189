//! DBRX: layer norms, clamped queries, keys and values, a mixture in every layer.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, ModelSpec, Norms, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "dbrx", models: "DBRX", proof: Proof::Own, describe: dbrx }];

pub(super) fn dbrx(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    keys.clamp(&mut spec)?;
    for layer in &mut spec.layers {
        layer.norms = Norms { ffn: Some("attn_output_norm"), ..Norms::PRE };
        if let FfnSpec::Gated { width, .. } = layer.ffn {
            layer.ffn = FfnSpec::Moe(keys.moe(width)?);
        }
    }
    Ok(spec)
}
