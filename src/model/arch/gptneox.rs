//! GPT-NeoX and Pythia.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use super::starcoder::starcoder2;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "gptneox",
    models: "GPT-NeoX, Pythia",
    proof: Proof::Own,
    describe: gptneox,
}];

pub(super) fn gptneox(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = starcoder2(keys)?;
    let parallel = keys.metadata.bool(&keys.key("use_parallel_residual"))?.unwrap_or(true);
    for layer in &mut spec.layers {
        layer.norms.parallel = parallel;
        layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
    }
    Ok(spec)
}
