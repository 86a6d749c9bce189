//! What a file says and its description did not ask for: of no effect, what the model is anyway, or an
//! error, as an unused tensor is one.

use super::keys::Keys;
use crate::model::error::ModelError;
use crate::model::gguf::{Array, Value};
use crate::model::spec::{
    ActSpec, AttnSpec, FfnSpec, HeadSpec, LayerSpec, ModelSpec, MoeScore, MoeSpec, RopeScaling,
    RopeStyle,
};

/// Keys without effect on what is computed here: counts and widths that the shapes of tensors prove,
/// the epsilon of the kind of norm that a family does not have, labels, notes on how a file was made,
/// and what concerns images.
const HARMLESS: &[&str] = &[
    "attention.layer_norm_epsilon",
    "attention.layer_norm_rms_epsilon",
    "attention.q_lora_rank",
    "attention.sliding_window_pattern",
    "classifier.output_labels",
    "deepstack_mapping",
    "expert_count",
    "expert_feed_forward_length",
    "expert_shared_count",
    "expert_shared_feed_forward_length",
    "expert_used_count",
    "feed_forward_length",
    "interleave_moe_layer_step",
    "leading_dense_block_count",
    "moe_every_n_layers",
    "n_deepstack_layers",
    "rope.scaling.finetuned",
    "tensor_data_layout",
    "use_parallel_residual",
    "vocab_size",
];
/// Beginnings of keys of parts that no text passes through.
const OTHER_PARTS: &[&str] = &["vision.", "audio.", "mm."];
/// Of a value in an error.
const SHOWN: usize = 60;

/// Refuses the first key that could change what the model computes and that nothing has read.
pub(super) fn check(keys: &Keys<'_>, spec: &ModelSpec) -> Result<(), ModelError> {
    let of_effect = |(key, value): &(&str, &Value)| {
        !is_idle(key, value) && agrees(key, value, spec) != Some(true)
    };
    match keys.unread().into_iter().find(of_effect) {
        None => Ok(()),
        Some((key, value)) => Err(not_understood(keys.name, key, value)),
    }
}

fn not_understood(name: &str, key: &str, value: &Value) -> ModelError {
    let shown = match value {
        Value::String(bytes) => format!("{:?}", String::from_utf8_lossy(bytes)),
        Value::F32(number) => number.to_string(),
        Value::F64(number) => number.to_string(),
        Value::Bool(flag) => flag.to_string(),
        Value::Array(_) => value.type_name(),
        integer => integer.as_integer().unwrap_or_default().to_string(),
    };
    let shown: String = shown.chars().take(SHOWN).collect();
    let problem = format!(
        "{shown} is not understood, and may change what the model computes; a newer version may know it"
    );
    ModelError::BadKey { key: format!("{name}.{key}"), problem }
}

/// The key has no effect, or its value is the one that says so: nothing, none, or a factor of one.
fn is_idle(key: &str, value: &Value) -> bool {
    let is_factor = ["scale", "factor", "alpha"].iter().any(|end| key.ends_with(end));
    let idle_number = |number: f64| number == 0.0 || (is_factor && number == 1.0);
    let says_nothing = match value {
        Value::F32(number) => idle_number(f64::from(*number)),
        Value::F64(number) => idle_number(*number),
        Value::Bool(flag) => !flag,
        Value::String(bytes) => bytes.is_empty() || &**bytes == b"none",
        Value::Array(Array::F32(numbers)) => numbers.iter().all(|n| idle_number(f64::from(*n))),
        Value::Array(Array::Bool(flags)) => !flags.contains(&true),
        Value::Array(array) => {
            array.integers().is_some_and(|numbers| numbers.iter().all(|n| *n == 0))
        }
        integer => integer.as_integer() == Some(0),
    };
    // Of a switch that is on by default, off says something.
    let says_nothing = match key {
        "expert_weights_norm" => false,
        "attention.causal" => *value == Value::Bool(true),
        _ => says_nothing,
    };
    says_nothing || HARMLESS.contains(&key) || OTHER_PARTS.iter().any(|part| key.starts_with(part))
}

/// Whether the model does what the value says; `None` for a key that says nothing of it.
fn agrees(key: &str, value: &Value, spec: &ModelSpec) -> Option<bool> {
    let number = || match value {
        Value::F32(number) => Some(*number),
        Value::F64(number) => Some(*number as f32),
        _ => None,
    };
    let count = || value.as_integer().and_then(|count| usize::try_from(count).ok());
    let attns = || spec.layers.iter().filter_map(LayerSpec::attn);
    let all_moes = |holds: &dyn Fn(&MoeSpec) -> bool| moes(spec).all(holds);
    if key.starts_with("rope.") && spec.ropes.is_empty() {
        return Some(true);
    }
    let has_yarn = spec.ropes.iter().any(|rope| matches!(rope.scaling, RopeScaling::Yarn(_)));
    let of_yarn =
        key.starts_with("rope.scaling.yarn_") || key == "rope.scaling.original_context_length";
    if of_yarn && !has_yarn {
        return Some(true);
    }
    Some(match key {
        "rope.dimension_count_swa" => {
            spec.ropes.iter().all(|rope| Some(rope.dim) == count()) || !attns().any(is_local)
        }
        "rope.freq_base_swa" => {
            let is_same = |attn: &AttnSpec| {
                let rope = attn.rope.and_then(|rope| spec.ropes.get(rope));
                rope.is_none_or(|rope| Some(rope.base) == number())
            };
            attns().filter(|attn| is_local(attn)).all(is_same)
        }
        "rope.dimension_sections" => {
            let Value::Array(array) = value else { return Some(false) };
            let fourth = array.integers().and_then(|all| all.get(3).copied());
            spec.ropes.iter().all(|rope| rope.style == RopeStyle::Neox)
                && fourth.is_none_or(|pairs| pairs == 0)
        }
        "attention.key_length_swa" => attns().all(|attn| Some(attn.head_dim) == count()),
        "attention.value_length_swa" => attns().all(|attn| Some(attn.value_dim) == count()),
        // No position is farther than the window reaches.
        "attention.sliding_window" => count().is_some_and(|window| window >= spec.context_len),
        "attention.max_alibi_bias" => attns().all(|attn| attn.alibi == number()),
        "attention.temperature_length" => attns().all(|attn| match attn.temperature {
            None => true,
            Some(temperature) => Some(temperature.floor) == count(),
        }),
        "expert_gating_func" => all_moes(&|moe| {
            let score = match count() {
                Some(1) => MoeScore::Softmax,
                Some(2) => MoeScore::Sigmoid,
                Some(3) => MoeScore::SoftmaxAfter,
                _ => return false,
            };
            moe.score == score
        }),
        "expert_weights_norm" => all_moes(&|moe| *value == Value::Bool(moe.normalise)),
        "expert_weights_scale" => all_moes(&|moe| Some(moe.scale) == number()),
        "expert_group_count" => {
            all_moes(&|moe| moe.groups.map_or(1, |groups| groups.count) == count().unwrap_or(0))
        }
        "expert_group_used_count" => all_moes(&|moe| moe.groups.is_none()),
        "embedding_length_out" => count() == Some(spec.hidden),
        "embedding_scale" => number() == Some(spec.embed_scale),
        "residual_scale" => number() == Some(spec.residual_scale),
        "logit_scale" => number() == Some(spec.logit_scale),
        "final_logit_softcapping" => number() == spec.logit_softcap,
        "hidden_activation" => {
            let Value::String(name) = value else { return Some(false) };
            spec.layers.iter().all(|layer| is_called(&layer.ffn, name))
        }
        // Scores come from the first token, which llama.cpp calls 2, whatever else is made of a text.
        "pooling_type" => true,
        "classifier.pooling_type" => {
            !matches!(spec.head, HeadSpec::Classifier { .. }) || count() == Some(2)
        }
        _ => return None,
    })
}

fn moes(spec: &ModelSpec) -> impl Iterator<Item = &MoeSpec> {
    spec.layers.iter().filter_map(|layer| layer.ffn.moe())
}

/// The layer does not see all that came before.
pub(super) fn is_local(attn: &AttnSpec) -> bool {
    attn.window.is_some() || attn.chunk.is_some()
}

fn is_called(ffn: &FfnSpec, name: &[u8]) -> bool {
    let act = match ffn {
        FfnSpec::Gated { act, .. } | FfnSpec::Plain { act, .. } => *act,
        FfnSpec::Moe(moe) | FfnSpec::Both { moe, .. } => moe.act,
        FfnSpec::None => return true,
    };
    match act {
        ActSpec::Silu => matches!(name, b"silu" | b"swish"),
        ActSpec::Gelu => matches!(name, b"gelu_pytorch_tanh" | b"gelu_new" | b"gelu_fast"),
        ActSpec::GeluErf => name == b"gelu",
        ActSpec::Relu => name == b"relu",
        ActSpec::Relu2 => name == b"relu2",
        ActSpec::Tanh => name == b"tanh",
        ActSpec::Sigmoid => name == b"sigmoid",
        ActSpec::Xielu(_) => name == b"xielu",
        ActSpec::OaiSwiglu
        | ActSpec::LimitedSwiglu { .. }
        | ActSpec::ClampedSwiglu { .. }
        | ActSpec::Softplus => false,
    }
}
