//! SmallThinker: experts that are chosen before attention, positions in windows alone.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, ModelSpec, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "smallthinker",
    models: "SmallThinker 4B and 21B",
    proof: Proof::Ours,
    describe: smallthinker,
}];

/// Layers a global layer is the first of, when the file does not say.
const PERIOD: usize = 4;

fn smallthinker(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let is_local = keys.windows_but_first(spec.layers.len(), PERIOD)?;
    for (layer, is_local) in spec.layers.iter_mut().zip(is_local).filter(|_| window.is_some()) {
        layer.attn_mut().window = window.filter(|_| is_local);
        layer.attn_mut().rope = is_local.then_some(0);
    }
    keys.mixtures(&mut spec, |moe| {
        moe.act = ActSpec::Relu;
        moe.normalise = true;
        moe.early = true;
    })?;
    Ok(spec)
}
