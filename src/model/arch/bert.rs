//! BERT and its relatives: encoders with a norm on each sum; Nomic BERT with rotary positions and a
//! gated feed-forward part.

use super::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{ActSpec, HeadSpec, ModelSpec, Norms, RopeStyle};

/// More than any published model has.
const MAX_TOKEN_TYPES: usize = 64;
/// Scores of one classifier.
const MAX_SCORES: usize = 4096;

pub(super) fn bert(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = encoder(keys)?;
    spec.ropes.clear();
    spec.learned_positions = true;
    for layer in &mut spec.layers {
        layer.attn.rope = None;
        layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
    }
    Ok(spec)
}

pub(super) fn nomic_bert(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    encoder(keys)
}

fn encoder(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    spec.embed_norm = true;
    spec.token_types = token_types(keys)?;
    spec.head = head(keys)?;
    for layer in &mut spec.layers {
        layer.attn.causal = false;
        layer.norms = Norms::RESIDUAL;
    }
    Ok(spec)
}

/// Files without the tensor have no types, whatever their metadata counts.
fn token_types(keys: &Keys<'_>) -> Result<usize, ModelError> {
    match keys.gguf.tensor("token_types.weight") {
        None => Ok(0),
        // A single row may be stored as a vector.
        Some(tensor) if tensor.shape.len() == 1 => Ok(1),
        Some(tensor) if tensor.shape[0] <= MAX_TOKEN_TYPES => Ok(tensor.shape[0]),
        Some(tensor) => {
            let rows = tensor.shape[0];
            Err(ModelError::Limit(format!("token type count {rows} exceeds {MAX_TOKEN_TYPES}")))
        }
    }
}

fn head(keys: &Keys<'_>) -> Result<HeadSpec, ModelError> {
    let Some(out) = keys.gguf.tensor("cls.output.weight") else { return Ok(HeadSpec::None) };
    let scores = if out.shape.len() == 1 { 1 } else { out.shape[0] };
    if scores > MAX_SCORES {
        return Err(ModelError::Limit(format!(
            "classifier has {scores} scores, limit {MAX_SCORES}"
        )));
    }
    Ok(HeadSpec::Classifier { inner: keys.has("cls.weight"), scores })
}
