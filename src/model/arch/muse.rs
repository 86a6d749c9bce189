//! Muse Glimmer: gated attention, positions in windows alone, a norm on the embedding and on both sides of
//! each part.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{
    EmbedNorm, GateAct, GateSpec, GateWidth, ModelSpec, Norms, QkNorm, RopeStyle,
};

pub(super) const FAMILY: &[Architecture] = &[Architecture {
    name: "muse-glimmer",
    models: "Muse Glimmer (text)",
    proof: Proof::Own,
    describe: muse_glimmer,
}];

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 4;
/// No file has a key for it.
const POST_EPS: f32 = 1e-8;

fn muse_glimmer(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Norm, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.rms()?, rope)?;
    spec.embed_norm = EmbedNorm::Plain;
    spec.logit_scale = keys.f32("logit_scale")?.filter(|scale| *scale != 0.0).unwrap_or(1.0);
    spec.logit_softcap = keys.f32("final_logit_softcapping")?.filter(|cap| *cap > 0.0);
    keys.rope_in_windows(&mut spec, PATTERN)?;
    for layer in &mut spec.layers {
        layer.norms = Norms { post_eps: Some(POST_EPS), ..Norms::PRE_POST };
        layer.attn_mut().qk_norm = QkNorm::PerHead;
        layer.attn_mut().gate = Some(GateSpec { act: GateAct::Sigmoid, width: GateWidth::Value });
    }
    Ok(spec)
}
