//! Maincoder: Hunyuan's graph with llama's pairs in the rotary embedding.

use super::family::{Architecture, Proof};
use super::hunyuan;
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "maincoder",
    models: "Maincoder 1B",
    proof: Proof::Relative,
    describe: maincoder,
}];

fn maincoder(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = hunyuan::dense(keys)?;
    spec.ropes.iter_mut().for_each(|rope| rope.style = RopeStyle::Norm);
    Ok(spec)
}
