//! Qwen 1; Qwen 2 (biases on q, k, v, read from the file) and Qwen 3 (norms on query and key heads), dense
//! and as mixtures of experts; Qwen 3 Next and 3.5, three layers of four with Gated DeltaNet.

use super::family::{Architecture, Proof};
use super::keys::Keys;
use crate::model::carried::{DeltaSpec, Rule};
use crate::model::error::ModelError;
use crate::model::spec::{
    FfnSpec, GateAct, GateSpec, GateWidth, HeadSpec, MixerSpec, ModelSpec, MoeSpec, Norms, QkNorm,
    RopeStyle,
};

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
    Architecture {
        name: "qwen3next",
        models: "Qwen 3 Next",
        proof: Proof::Own,
        describe: qwen3next,
    },
    Architecture {
        name: "qwen35",
        models: "Qwen 3.5, 3.6 and 3.8",
        proof: Proof::Own,
        describe: qwen35,
    },
    Architecture {
        name: "qwen35moe",
        models: "Qwen 3.5, 3.6 and 3.8 MoE",
        proof: Proof::Own,
        describe: qwen35moe,
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

/// A layer with attention comes every so many layers, where the file does not say.
const DELTA_PERIOD: usize = 4;

/// Heads of one group are neighbours.
fn qwen3next(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    let spec = with_delta(keys, qwen3(keys)?, true)?;
    with_shared_experts(keys, spec)
}

/// The converters put the heads of different groups side by side.
fn qwen35(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    keys.has_sections()?;
    with_delta(keys, qwen3(keys)?, false)
}

fn qwen35moe(keys: &Keys<'_>) -> Result<ModelSpec, ModelError> {
    with_shared_experts(keys, qwen35(keys)?)
}

fn with_shared_experts(keys: &Keys<'_>, spec: ModelSpec) -> Result<ModelSpec, ModelError> {
    let shared = keys.opt_usize("expert_shared_feed_forward_length")?;
    with_experts(keys, spec, |moe, width| {
        moe.shared_width = Some(shared.unwrap_or(width));
        moe.shared_gate = true;
    })
}

/// Gates attention, and puts Gated DeltaNet in its place in most layers.
fn with_delta(
    keys: &Keys<'_>,
    mut spec: ModelSpec,
    is_next: bool,
) -> Result<ModelSpec, ModelError> {
    let delta = DeltaSpec {
        taps: keys.usize("ssm.conv_kernel")?,
        shape: keys.scan(Rule::Delta, is_next)?,
        is_fused: is_next,
    };
    let has_attention = keys.attention_layers(spec.layers.len(), DELTA_PERIOD)?;
    for (layer, has_attention) in spec.layers.iter_mut().zip(has_attention) {
        layer.norms = Norms { ffn: Some("post_attention_norm"), ..Norms::PRE };
        if has_attention {
            let gate = GateSpec { act: GateAct::Sigmoid, width: GateWidth::BesideQueries };
            layer.attn_mut().gate = Some(gate);
        } else {
            layer.mixer = MixerSpec::Delta(delta);
        }
    }
    Ok(spec)
}
