//! Qwen 1; Qwen 2 (biases on q, k, v, read from the file) and Qwen 3 (norms on query and key heads), dense
//! and as mixtures of experts.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::spec::{FfnSpec, HeadSpec, ModelSpec, MoeSpec, QkNorm, RopeStyle};

pub(super) const FAMILY: &[Architecture] = &[
    Architecture { name: "qwen", models: "Qwen 1", proof: Proof::Relative, describe: qwen },
    Architecture {
        name: "qwen2",
        models: "Qwen 1.5, 2 and 2.5",
        proof: Proof::Own,
        describe: qwen2,
    },
    Architecture {
        name: "qwen2moe",
        models: "Qwen 1.5 MoE, Qwen 2 MoE",
        proof: Proof::Own,
        describe: qwen2moe,
    },
    Architecture {
        name: "qwen2vl",
        models: "Qwen 2 and 2.5 VL (text)",
        proof: Proof::Own,
        describe: qwen2,
    },
    Architecture {
        name: "qwen3",
        models: "Qwen 3, Qwen 3 Reranker",
        proof: Proof::Own,
        describe: qwen3,
    },
    Architecture { name: "qwen3moe", models: "Qwen 3 MoE", proof: Proof::Own, describe: qwen3moe },
    Architecture {
        name: "qwen3vl",
        models: "Qwen 3 VL (text)",
        proof: Proof::Own,
        describe: qwen3,
    },
    Architecture {
        name: "qwen3vlmoe",
        models: "Qwen 3 VL MoE (text)",
        proof: Proof::Own,
        describe: qwen3moe,
    },
];

pub(super) fn qwen2(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let rope = keys.rope(RopeStyle::Neox, keys.head_dim()?)?;
    keys.dense(keys.rms()?, rope)
}

pub(super) fn qwen3(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = qwen2(keys)?;
    for layer in &mut spec.layers {
        layer.attn_mut().qk_norm = QkNorm::PerHead;
    }
    if keys.has("cls.output.weight") {
        spec.head = judge(keys)?;
    }
    Ok(spec)
}

/// A reranker that answers yes or no; its file has the logits of these answers alone.
fn judge(keys: &Keys<'_>) -> Result<HeadSpec, ModelError> {
    let template = "tokenizer.chat_template.rerank";
    if keys.metadata.str(template)?.is_none() {
        return Err(ModelError::MissingKey(template.to_owned()));
    }
    let key = keys.key("classifier.output_labels");
    let labels = keys.metadata.strings(&key)?.unwrap_or_default();
    if !labels.is_empty() && !labels.iter().map(|label| &**label).eq([&b"yes"[..], b"no"]) {
        let problem = "a reranker's labels are yes and no, in this order".to_owned();
        return Err(ModelError::BadKey { key, problem });
    }
    Ok(HeadSpec::YesNo)
}

pub(super) fn qwen2moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let spec = qwen2(keys)?;
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?;
    with_experts(keys, spec, |moe, width| {
        moe.normalise = false;
        moe.shared_width = Some(shared.unwrap_or(width));
        moe.shared_gate = true;
    })
}

pub(super) fn qwen3moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    with_experts(keys, qwen3(keys)?, |_, _| {})
}

fn with_experts(
    keys: &Keys<'_>,
    mut spec: ModelSpec,
    edit: impl Fn(&mut MoeSpec, usize),
) -> Result<ModelSpec, ModelError> {
    for layer in &mut spec.layers {
        let FfnSpec::Gated { width, .. } = layer.ffn else { continue };
        let mut moe = keys.moe(width)?;
        if keys.opt_usize("expert_feed_forward_length")?.is_none() {
            // Older files give the width of all taken experts together.
            moe.width = width / moe.used.max(1);
        }
        edit(&mut moe, width);
        layer.ffn = FfnSpec::Moe(moe);
    }
    Ok(spec)
}

/// The file gives the width of gate and up together.
pub(super) fn qwen(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let mut spec = qwen2(keys)?;
    for layer in &mut spec.layers {
        if let FfnSpec::Gated { width, .. } = &mut layer.ffn {
            *width /= 2;
        }
    }
    Ok(spec)
}
