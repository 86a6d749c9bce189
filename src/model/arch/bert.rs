//! BERT and its relatives: encoders with a norm on each sum; Nomic BERT with rotary positions and a
//! gated feed-forward part, or with experts; Jina BERT 2 with linear biases, 3 with rotary positions; ModernBERT with norms before its parts and
//! windows in most layers.

use super::alibi::{MAX_ALIBI_BIAS, set_alibi};
use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{
    ActSpec, EmbedNorm, FfnSpec, HeadSpec, ModelSpec, MoeSpec, Norms, QkNorm, RopeStyle,
};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture {
        name: "bert",
        models: "BERT, MiniLM, BGE, E5, GTE, XLM-RoBERTa and relatives",
        proof: Proof::Own,
        describe: bert,
    },
    Architecture {
        name: "nomic-bert",
        models: "Nomic Embed 1",
        proof: Proof::Own,
        describe: nomic_bert,
    },
    Architecture {
        name: "jina-bert-v2",
        models: "Jina Embeddings 2",
        proof: Proof::Ours,
        describe: jina_bert_v2,
    },
    Architecture {
        name: "jina-bert-v3",
        models: "Jina Embeddings 3, without its tasks' adapters",
        proof: Proof::Own,
        describe: jina_bert_v3,
    },
    Architecture {
        name: "nomic-bert-moe",
        models: "Nomic Embed 2",
        proof: Proof::Ours,
        describe: nomic_bert_moe,
    },
    Architecture {
        name: "modern-bert",
        models: "ModernBERT and relatives",
        proof: Proof::Own,
        describe: modern_bert,
    },
];

/// More than any published model has.
const MAX_TOKEN_TYPES: usize = 64;
/// Scores of one classifier.
const MAX_SCORES: usize = 4096;

pub(super) fn bert(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = encoder(keys)?;
    spec.ropes.clear();
    spec.learned_positions = true;
    for layer in &mut spec.layers {
        layer.attn_mut().rope = None;
        layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
    }
    Ok(spec)
}

pub(super) fn nomic_bert(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    encoder(keys)
}

/// BERT with rotary positions.
fn jina_bert_v3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = encoder(keys)?;
    for layer in &mut spec.layers {
        layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
    }
    Ok(spec)
}

/// The same with experts in the second of so many layers; what they weigh does not sum to one.
fn nomic_bert_moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = jina_bert_v3(keys)?;
    let every = keys.opt_usize("moe_every_n_layers")?.unwrap_or(0);
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        let FfnSpec::Plain { width, act } = layer.ffn else { continue };
        if every > 0 && index % every == 1 {
            let moe = keys.moe(width)?;
            layer.ffn = FfnSpec::Moe(MoeSpec { act, gated: false, normalise: false, ..moe });
        }
    }
    Ok(spec)
}

/// Gates lie in a tensor of their own or above the up projection; some sizes have none.
pub(super) fn jina_bert_v2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = encoder(keys)?;
    set_alibi(&mut spec, MAX_ALIBI_BIAS);
    let has_norms = keys.has("blk.0.attn_q_norm.weight");
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        if has_norms {
            layer.attn_mut().qk_norm = QkNorm::Full;
        }
        let FfnSpec::Gated { width, act, .. } = &mut layer.ffn else { continue };
        *act = ActSpec::GeluErf;
        let up = keys.gguf.tensor(&format!("blk.{index}.ffn_up.weight"));
        let is_plain = up.is_some_and(|up| up.shape.first() == Some(width));
        if is_plain && !keys.has(&format!("blk.{index}.ffn_gate.weight")) {
            layer.ffn = layer.ffn.plain(ActSpec::GeluErf);
        }
    }
    Ok(spec)
}

/// Layers a layer without a window is the first of.
const MODERN_PERIOD: usize = 3;

/// The first layer has no norm before its attention, as the embedding's serves it.
pub(super) fn modern_bert(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let global = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut local = global.clone();
    local.base = keys.f32("rope.freq_base_swa")?.unwrap_or(local.base);
    let mut spec = keys.dense(keys.layer_norm()?, global)?;
    spec.ropes.push(local);
    spec.embed_norm = EmbedNorm::Learned;
    spec.head = HeadSpec::Norm;
    let act = match keys.str("hidden_activation")? {
        None | Some("gelu") => ActSpec::GeluErf,
        Some("silu" | "swish") => ActSpec::Silu,
        Some(other) => {
            let problem = format!("'{other}' is not supported; supported: gelu, silu");
            return Err(ModelError::BadKey { key: keys.key("hidden_activation"), problem });
        }
    };
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let is_local = keys.windows_but_first(spec.layers.len(), MODERN_PERIOD)?;
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        layer.attn_mut().causal = false;
        if !keys.has(&format!("blk.{index}.attn_norm.weight")) {
            layer.norms.attn = None;
        }
        if let FfnSpec::Gated { act: own, .. } = &mut layer.ffn {
            *own = act;
        }
        if let (Some(window), true) = (window, is_local[index]) {
            // Half of the window lies on each side.
            layer.attn_mut().window = Some(window / 2 + 1);
            layer.attn_mut().rope = Some(1);
        }
    }
    Ok(spec)
}

fn encoder(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = keys.dense(keys.layer_norm()?, rope)?;
    spec.embed_norm = EmbedNorm::Learned;
    spec.token_types = token_types(keys)?;
    spec.head = head(keys)?;
    for layer in &mut spec.layers {
        layer.attn_mut().causal = false;
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
