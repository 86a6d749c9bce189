//! EXAONE 3 (llama with GPT-NeoX's pairs), 4 (norms after each part and on heads, positions in
//! windows alone) and K-EXAONE (norms before each part, mixtures).

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ModelSpec, Norms, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture {
        name: "exaone",
        models: "EXAONE 3 and 3.5",
        proof: Proof::Relative,
        describe: exaone,
    },
    Architecture { name: "exaone4", models: "EXAONE 4", proof: Proof::Own, describe: exaone4 },
    Architecture {
        name: "exaone-moe",
        models: "K-EXAONE",
        proof: Proof::Own,
        describe: exaone_moe,
    },
];

/// Layers a global layer is one of, when the file does not say.
const PATTERN: usize = 4;

pub(super) fn exaone(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    keys.dense(keys.rms()?, rope)
}

pub(super) fn exaone4(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = exaone(keys)?;
    for layer in &mut spec.layers {
        layer.norms = Norms::POST;
        layer.attn_mut().qk_norm = QkNorm::PerHead;
    }
    keys.rope_in_windows(&mut spec, PATTERN)?;
    Ok(spec)
}

pub(super) fn exaone_moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = exaone(keys)?;
    for layer in &mut spec.layers {
        layer.attn_mut().qk_norm = QkNorm::PerHead;
    }
    keys.rope_in_windows(&mut spec, PATTERN)?;
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?.filter(|width| *width > 0);
    keys.mixtures(&mut spec, |moe| {
        moe.shared_width = shared.or(moe.shared_width).or(Some(moe.width));
    })?;
    Ok(spec)
}
