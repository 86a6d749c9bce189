//! Refact: llama with linear biases in place of positions (ALiBi).

use super::alibi::{MAX_ALIBI_BIAS, set_alibi};
use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] =
    &[Architecture { name: "refact", models: "Refact", proof: Proof::Ours, describe: refact }];

pub(super) fn refact(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    set_alibi(&mut spec, MAX_ALIBI_BIAS);
    Ok(spec)
}
