//! AFMoE: gated attention with positions in windows alone, norms on both sides of each part, experts chosen
//! by biased sigmoids beside shared ones.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{GateAct, GateSpec, GateWidth, ModelSpec, Norms, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "afmoe",
    models: "Trinity (Arcee AFMoE)",
    proof: Proof::Own,
    describe: afmoe,
}];

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 4;

fn afmoe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    spec.embed_scale = (spec.hidden as f32).sqrt();
    keys.rope_in_windows(&mut spec, PATTERN)?;
    for layer in &mut spec.layers {
        layer.norms = Norms::PRE_POST;
        layer.attn_mut().qk_norm = QkNorm::PerHead;
        layer.attn_mut().gate = Some(GateSpec { act: GateAct::Sigmoid, width: GateWidth::Value });
    }
    keys.sigmoid_mixtures(&mut spec, |_| {})?;
    Ok(spec)
}
