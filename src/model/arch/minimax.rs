//! MiniMax M2: experts, and norms over whole queries and keys.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "minimax-m2",
    models: "MiniMax M2",
    proof: Proof::Own,
    describe: minimax_m2,
}];

pub(super) fn minimax_m2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    for layer in &mut spec.layers {
        layer.attn_mut().qk_norm = QkNorm::Full;
    }
    keys.mixtures(&mut spec, |moe| moe.normalise = true)?;
    Ok(spec)
}
