//! dots.llm1: DeepSeek's experts with plain attention.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "dots1", models: "dots.llm1", proof: Proof::Own, describe: dots1 }];

pub(super) fn dots1(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        layer.attn_mut().qk_norm = QkNorm::PerHead;
    }
    keys.mixtures(&mut spec, |_| {})?;
    Ok(spec)
}
