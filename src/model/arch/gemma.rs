//! Gemma 1, 2 and 3: scaled embeddings and GELU; from 2 on norms before and after each part and
//! local layers beside global ones; in 3 norms on query and key heads and a rope of its own for
//! the local layers; 3n with several residual streams.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{
    ActSpec, AltUpSpec, FfnSpec, HeadSpec, ModelSpec, Norms, QkNorm, RopeScaling, RopeSpec,
    RopeStyle,
};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "gemma", models: "Gemma 1", proof: Proof::Own, describe: gemma },
    Architecture { name: "gemma2", models: "Gemma 2", proof: Proof::Own, describe: gemma2 },
    Architecture { name: "gemma3", models: "Gemma 3 (text)", proof: Proof::Own, describe: gemma3 },
    Architecture {
        name: "gemma3n",
        models: "Gemma 3n (text)",
        proof: Proof::Own,
        describe: gemma3n,
    },
];

/// It makes embeddings.
pub(super) const ENCODER: &[Architecture] = &[Architecture {
    name: "gemma-embedding",
    models: "EmbeddingGemma",
    proof: Proof::Own,
    describe: gemma_embedding,
}];

/// Layers a global layer is one of, when the file does not say.
const GEMMA2_PATTERN: usize = 2;
const GEMMA3_PATTERN: usize = 6;
const GEMMA2_WINDOW: usize = 4096;
/// Layer counts of the sizes whose scores are scaled by hidden size per head.
const GEMMA2_27B_LAYERS: usize = 46;
const GEMMA3_27B_LAYERS: usize = 62;

pub(super) fn gemma(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    base(keys, rope)
}

pub(super) fn base(keys: &Keys<'_>, rope: RopeSpec) -> Result<ModelSpec, ModelError> {
    let mut spec = keys.dense(keys.rms()?, rope)?;
    spec.embed_scale = (spec.hidden as f32).sqrt();
    for layer in &mut spec.layers {
        if let FfnSpec::Gated { act, .. } = &mut layer.ffn {
            *act = ActSpec::Gelu;
        }
    }
    Ok(spec)
}

pub(super) fn gemma2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut spec = base(keys, rope)?;
    spec.logit_softcap = cap(keys.f32("final_logit_softcapping")?.or(Some(30.0)));
    let softcap = cap(keys.f32("attn_logit_softcapping")?.or(Some(50.0)));
    let window = keys.opt_usize("attention.sliding_window")?.unwrap_or(GEMMA2_WINDOW);
    let is_local = keys.windows(spec.layers.len(), GEMMA2_PATTERN)?;
    let is_27b = spec.layers.len() == GEMMA2_27B_LAYERS;
    for (layer, is_local) in spec.layers.iter_mut().zip(is_local) {
        layer.norms = Norms::PRE_POST;
        layer.attn_mut().softcap = softcap;
        layer.attn_mut().window = (is_local && window > 0).then_some(window);
        if is_27b {
            layer.attn_mut().scale = 1.0 / ((spec.hidden / layer.attn_mut().heads) as f32).sqrt();
        }
    }
    Ok(spec)
}

pub(super) fn gemma3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let global = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    let mut local = global.clone();
    local.base = keys.f32("rope.freq_base_swa")?.unwrap_or(10_000.0);
    // Only the global layers reach far enough to be scaled.
    local.scaling = RopeScaling::None;
    let mut spec = base(keys, global)?;
    spec.ropes.push(local);
    spec.logit_softcap = cap(keys.f32("final_logit_softcapping")?);
    let window = keys.opt_usize("attention.sliding_window")?.filter(|window| *window > 0);
    let is_local = keys.windows(spec.layers.len(), GEMMA3_PATTERN)?;
    let is_27b = spec.layers.len() == GEMMA3_27B_LAYERS;
    for (layer, is_local) in spec.layers.iter_mut().zip(is_local) {
        layer.norms = Norms::PRE_POST;
        layer.attn_mut().qk_norm = QkNorm::PerHead;
        if is_27b {
            layer.attn_mut().scale = 1.0 / ((spec.hidden / layer.attn_mut().heads) as f32).sqrt();
        }
        if let (Some(window), true) = (window, is_local) {
            layer.attn_mut().window = Some(window);
            layer.attn_mut().rope = Some(1);
        }
    }
    Ok(spec)
}

/// Gemma 3 whose tokens see those after them too, in windows of which half lies on each side.
fn gemma_embedding(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = gemma3(keys)?;
    for layer in &mut spec.layers {
        let attn = layer.attn_mut();
        attn.causal = false;
        attn.window = attn.window.map(|window| window / 2 + 1);
    }
    spec.head = HeadSpec::Norm;
    let rows = |name: &str| keys.gguf.tensor(name).and_then(|found| found.shape.first().copied());
    if let (Some(inner), Some(out)) = (rows("dense_2.weight"), rows("dense_3.weight")) {
        spec.head = HeadSpec::Dense { inner, out };
    }
    for key in ["dense_2_feat_in", "dense_2_feat_out", "dense_3_feat_in", "dense_3_feat_out"] {
        // The tensors' shapes say the same.
        keys.leave_out(key);
    }
    Ok(spec)
}

/// Layers a global layer is one of, and layers whose keys and values serve the rest, when the file does
/// not say.
const GEMMA3N_PATTERN: usize = 5;
const GEMMA3N_OWN_KV: usize = 20;

/// Gemma 3 with several residual streams; the last layers read keys and values of earlier ones.
pub(super) fn gemma3n(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = gemma3(keys)?;
    spec.logit_softcap = cap(keys.f32("final_logit_softcapping")?.or(Some(30.0)));
    let layers = spec.layers.len();
    let window = keys.usize("attention.sliding_window")?;
    let is_local = keys.windows(layers, GEMMA3N_PATTERN)?;
    let num_own = match keys.opt_usize("attention.shared_kv_layers")? {
        Some(shared) => layers.saturating_sub(shared),
        None => GEMMA3N_OWN_KV.min(layers),
    };
    for (index, layer) in spec.layers.iter_mut().enumerate() {
        layer.attn_mut().scale = 1.0;
        layer.attn_mut().value_norm = true;
        layer.attn_mut().window = is_local[index].then_some(window);
        layer.attn_mut().rope = Some(usize::from(is_local[index]));
    }
    share_kv(&mut spec, num_own, &is_local)?;
    for (layer, deviations) in spec.layers.iter_mut().zip(sparsity(keys, layers)?) {
        if let FfnSpec::Gated { sparsity, .. } = &mut layer.ffn {
            *sparsity = deviations;
        }
    }
    let key = "altup.active_idx";
    if keys.opt_usize(key)?.unwrap_or(0) != 0 {
        let problem = "only the first stream can be the active one".to_owned();
        return Err(ModelError::BadKey { key: keys.key(key), problem });
    }
    let rank = keys.gguf.tensor("blk.0.laurel_l.weight").and_then(|low| low.shape.first().copied());
    spec.altup = Some(AltUpSpec {
        hidden: spec.hidden,
        streams: keys.opt_usize("altup.num_inputs")?.unwrap_or(4),
        width: keys.usize("embedding_length_per_layer_input")?,
        rank: rank.ok_or_else(|| ModelError::MissingTensor("blk.0.laurel_l.weight".to_owned()))?,
    });
    Ok(spec)
}

/// Layers from `num_own` on read keys and values of the last layer before them that sees as far.
pub(super) fn share_kv(
    spec: &mut ModelSpec,
    num_own: usize,
    is_local: &[bool],
) -> Result<(), ModelError> {
    for (index, layer) in spec.layers.iter_mut().enumerate().skip(num_own) {
        let source = (0..num_own).rev().find(|other| is_local[*other] == is_local[index]);
        let problem = || ModelError::Limit(format!("no layer has keys for layer {index}"));
        layer.attn_mut().shares_kv = Some(source.ok_or_else(problem)?);
    }
    Ok(())
}

/// Deviations for each layer; without a list, those of the published models.
fn sparsity(keys: &Keys<'_>, layers: usize) -> Result<Vec<Option<f32>>, ModelError> {
    const SPARSE_LAYERS: usize = 10;
    /// Beyond it lie 5 of 100 values of a normal distribution.
    const DEVIATIONS: f32 = 1.644_853_6;
    let key = keys.key("activation_sparsity_scale");
    Ok(match keys.metadata.f32s(&key)? {
        // Minus infinity says that all count.
        Some(scales) => scales.iter().map(|scale| Some(*scale).filter(|s| s.is_finite())).collect(),
        None => (0..layers).map(|index| (index < SPARSE_LAYERS).then_some(DEVIATIONS)).collect(),
    })
}

pub(super) fn cap(value: Option<f32>) -> Option<f32> {
    value.filter(|cap| *cap > 0.0)
}
