//! Baichuan: llama; the 13B with linear biases in place of positions (ALiBi).

use super::alibi::{MAX_ALIBI_BIAS, set_alibi};
use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::llama::llama;
use crate::model::error::ModelError;
use crate::model::spec::ModelSpec;

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "baichuan",
    models: "Baichuan 7B and 13B",
    proof: Proof::Relative,
    describe: baichuan,
}];

/// The 13B model, of this many layers, has linear biases in place of positions.
const BAICHUAN_13B_LAYERS: usize = 40;

pub(super) fn baichuan(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = llama(keys)?;
    if spec.layers.len() == BAICHUAN_13B_LAYERS {
        set_alibi(&mut spec, MAX_ALIBI_BIAS);
    }
    Ok(spec)
}
