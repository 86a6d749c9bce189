//! From `config.json` to metadata keys and the way tensors are renamed: decoders here, encoders in
//! [`super::encoder`].

use super::description::{Description, Keys, Naming};
use super::encoder;
use super::json::Json;
use super::names::{self, Change};
use crate::model::gguf::{Array, GgufError};

/// A family that can be read.
struct Family {
    /// In `architectures`.
    names: &'static [&'static str],
    describe: fn(&Json) -> Result<Description, GgufError>,
}

const FAMILIES: &[Family] = &[
    Family { names: &["LlamaForCausalLM", "LlamaModel"], describe: llama },
    Family { names: &["MistralForCausalLM", "MistralModel"], describe: llama },
    Family { names: &["Qwen2ForCausalLM", "Qwen2Model"], describe: qwen2 },
    Family { names: &["Qwen3ForCausalLM", "Qwen3Model"], describe: qwen3 },
    Family { names: &["GemmaForCausalLM", "GemmaModel"], describe: gemma },
    Family { names: &["Gemma2ForCausalLM", "Gemma2Model"], describe: gemma2 },
    Family { names: &["Gemma3ForCausalLM", "Gemma3TextModel"], describe: gemma3 },
    Family { names: encoder::BERT_NAMES, describe: encoder::bert },
    Family { names: encoder::ROBERTA_NAMES, describe: encoder::roberta },
];

/// Names of the architectures that can be read, as configurations write them.
pub(super) fn known() -> impl Iterator<Item = &'static str> {
    FAMILIES.iter().flat_map(|family| family.names.iter().copied())
}

/// Reads a configuration.
pub(super) fn describe(config: &Json) -> Result<Description, GgufError> {
    let name = config.array("architectures")?.first().and_then(|name| name.as_str());
    let name = name.ok_or_else(|| config.bad("architectures", "it names none"))?;
    let Some(family) = FAMILIES.iter().find(|family| family.names.contains(&name)) else {
        let known = known().collect::<Vec<_>>().join(", ");
        let problem = format!("'{name}' is not supported in safetensors; supported: {known}");
        return Err(config.bad("architectures", problem));
    };
    if let Some(method) = config.opt_object("quantization_config")? {
        let method = method.opt_str("quant_method")?.unwrap_or("unknown").to_owned();
        return Err(
            config.bad("quantization_config", format!("method '{method}' is not supported"))
        );
    }
    (family.describe)(config)
}

/// What the decoder families share.
fn decoder(config: &Json, architecture: &'static str) -> Result<(Keys, Description), GgufError> {
    let mut keys = Keys::new(architecture);
    for (ours, theirs) in [
        ("block_count", "num_hidden_layers"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
    ] {
        keys.set(ours, config.u32(theirs)?);
    }
    let heads = config.u32("num_attention_heads")?;
    let kv_heads = config.opt_u32("num_key_value_heads")?.unwrap_or(heads);
    keys.set("attention.head_count_kv", kv_heads);
    keys.set("attention.layer_norm_rms_epsilon", config.f32("rms_norm_eps")?);
    if let Some(head_dim) = config.opt_u32("head_dim")? {
        keys.set("attention.key_length", head_dim);
        keys.set("attention.value_length", head_dim);
        keys.set("rope.dimension_count", head_dim);
    }
    keys.set("context_length", context(config)?);
    let mut skipped = vec![];
    if config.flag("tie_word_embeddings")? == Some(true) {
        skipped.push("lm_head");
    }
    let description = Description {
        architecture,
        keys: Vec::new(),
        extra: Vec::new(),
        naming: Naming {
            prefixes: &["model."],
            layer: "layers.",
            parts: names::DECODER.to_vec(),
            top: names::DECODER_TOP.to_vec(),
            skipped,
            changes: Vec::new(),
        },
    };
    Ok((keys, description))
}

/// Positions; a window that our decoder of these families does not have bounds them, and then makes no
/// difference.
fn context(config: &Json) -> Result<u32, GgufError> {
    let positions = config.u32("max_position_embeddings")?;
    let has_own_windows =
        config.opt_str("model_type")?.is_some_and(|name| name.starts_with("gemma"));
    let is_used = config.flag("use_sliding_window")?.unwrap_or(true);
    match config.opt_u32("sliding_window")? {
        Some(window) if is_used && !has_own_windows => Ok(positions.min(window)),
        _ => Ok(positions),
    }
}

fn expect_act(config: &Json, key: &str, allowed: &[&str]) -> Result<(), GgufError> {
    match config.opt_str(key)? {
        Some(act) if !allowed.contains(&act) => {
            Err(config.bad(key, format!("'{act}' is not supported here; {}", allowed.join(", "))))
        }
        _ => Ok(()),
    }
}

fn llama(config: &Json) -> Result<Description, GgufError> {
    expect_act(config, "hidden_act", &["silu"])?;
    let (mut keys, mut description) = decoder(config, "llama")?;
    let heads = config.u32("num_attention_heads")?;
    let kv_heads = config.opt_u32("num_key_value_heads")?.unwrap_or(heads);
    description.naming.parts.extend(names::TWO_NORMS);
    description.naming.changes = vec![
        ("attn_q", Change::Interleave(heads as usize)),
        ("attn_k", Change::Interleave(kv_heads as usize)),
    ];
    rope(config, &mut keys, &mut description)?;
    Ok(description.with(keys))
}

fn qwen(config: &Json, architecture: &'static str) -> Result<Description, GgufError> {
    expect_act(config, "hidden_act", &["silu"])?;
    let (mut keys, mut description) = decoder(config, architecture)?;
    description.naming.parts.extend(names::TWO_NORMS);
    rope(config, &mut keys, &mut description)?;
    Ok(description.with(keys))
}

fn qwen2(config: &Json) -> Result<Description, GgufError> {
    qwen(config, "qwen2")
}

fn qwen3(config: &Json) -> Result<Description, GgufError> {
    qwen(config, "qwen3")
}

fn gemma(config: &Json) -> Result<Description, GgufError> {
    let (mut keys, mut description) = gemma_base(config, "gemma")?;
    description.naming.parts.extend(names::TWO_NORMS);
    rope(config, &mut keys, &mut description)?;
    Ok(description.with(keys))
}

/// Norms are stored as what they differ from one by. The embedding is the head in all of them.
fn gemma_base(config: &Json, architecture: &'static str) -> Result<(Keys, Description), GgufError> {
    for key in ["hidden_act", "hidden_activation"] {
        expect_act(config, key, &["gelu_pytorch_tanh", "gelu"])?;
    }
    let (keys, mut description) = decoder(config, architecture)?;
    if config.flag("tie_word_embeddings")?.is_none() {
        description.naming.skipped.push("lm_head");
    }
    description.naming.changes = vec![("norm", Change::PlusOne)];
    Ok((keys, description))
}

fn gemma2(config: &Json) -> Result<Description, GgufError> {
    let (mut keys, mut description) = gemma_base(config, "gemma2")?;
    description.naming.parts.extend(names::FOUR_NORMS);
    rope(config, &mut keys, &mut description)?;
    score_scale(config)?;
    softcaps(config, &mut keys)?;
    local_layers(config, &mut keys, 2)?;
    Ok(description.with(keys))
}

fn gemma3(config: &Json) -> Result<Description, GgufError> {
    let (mut keys, mut description) = gemma_base(config, "gemma3")?;
    description.naming.parts.extend(names::FOUR_NORMS);
    score_scale(config)?;
    if config.get("attn_logit_softcapping").is_some() {
        return Err(config.bad("attn_logit_softcapping", "it is not supported here"));
    }
    softcaps(config, &mut keys)?;
    local_layers(config, &mut keys, 6)?;
    match config.opt_object("rope_parameters")? {
        Some(by_kind) => {
            let global = by_kind.object("full_attention")?;
            rope_of(&global, config, &mut keys, &mut description)?;
            let local = by_kind.object("sliding_attention")?.f32("rope_theta")?;
            keys.set("rope.freq_base_swa", local);
        }
        None => {
            rope(config, &mut keys, &mut description)?;
            if let Some(local) = config.opt_f32("rope_local_base_freq")? {
                keys.set("rope.freq_base_swa", local);
            }
        }
    }
    Ok(description.with(keys))
}

/// Caps on logits and scores; null means none, which 0 says in GGUF.
fn softcaps(config: &Json, keys: &mut Keys) -> Result<(), GgufError> {
    for (ours, theirs) in [
        ("attn_logit_softcapping", "attn_logit_softcapping"),
        ("final_logit_softcapping", "final_logit_softcapping"),
    ] {
        keys.set(ours, config.opt_f32(theirs)?.unwrap_or(0.0));
    }
    Ok(())
}

/// Scores are scaled by the width of a head, but in the largest sizes.
fn score_scale(config: &Json) -> Result<(), GgufError> {
    let Some(scalar) = config.opt_f32("query_pre_attn_scalar")? else { return Ok(()) };
    let (heads, hidden) = (config.u32("num_attention_heads")?.max(1), config.u32("hidden_size")?);
    let head_dim = config.opt_u32("head_dim")?.unwrap_or(hidden / heads);
    let is_27b = matches!(config.u32("num_hidden_layers")?, 46 | 62);
    let expected = if is_27b { hidden / heads } else { head_dim };
    if scalar == expected as f32 {
        return Ok(());
    }
    Err(config.bad("query_pre_attn_scalar", format!("{scalar}; {expected} is supported here")))
}

/// The window, and which layers have it.
fn local_layers(config: &Json, keys: &mut Keys, period: u32) -> Result<(), GgufError> {
    if let Some(window) = config.opt_u32("sliding_window")? {
        keys.set("attention.sliding_window", window);
    }
    let types = config.array("layer_types")?;
    if types.is_empty() {
        let period = config.opt_u32("sliding_window_pattern")?.unwrap_or(period);
        keys.set("attention.sliding_window_pattern", period);
        return Ok(());
    }
    let is_local = types.iter().map(|ty| ty.as_str() == Some("sliding_attention")).collect();
    keys.set("attention.sliding_window_pattern", Array::Bool(is_local));
    Ok(())
}

fn rope(config: &Json, keys: &mut Keys, description: &mut Description) -> Result<(), GgufError> {
    match config.opt_object("rope_parameters")? {
        Some(parameters) => rope_of(&parameters, config, keys, description),
        None => {
            if let Some(base) = config.opt_f32("rope_theta")? {
                keys.set("rope.freq_base", base);
            }
            match config.opt_object("rope_scaling")? {
                Some(scaling) => rope_of(&scaling, config, keys, description),
                None => Ok(()),
            }
        }
    }
}

/// Base and scaling of rotary embeddings.
fn rope_of(
    rope: &Json,
    config: &Json,
    keys: &mut Keys,
    description: &mut Description,
) -> Result<(), GgufError> {
    if let Some(base) = rope.opt_f32("rope_theta")? {
        keys.set("rope.freq_base", base);
    }
    if rope.get("partial_rotary_factor").and_then(serde_json::Value::as_f64).unwrap_or(1.0) != 1.0 {
        return Err(rope.bad("partial_rotary_factor", "it is not supported here"));
    }
    let kind = rope.opt_str("rope_type")?.or(rope.opt_str("type")?).unwrap_or("default");
    match kind {
        "default" => {}
        "linear" => {
            keys.set("rope.scaling.type", "linear");
            keys.set("rope.scaling.factor", rope.f32("factor")?);
        }
        "yarn" => {
            let factor = rope.f32("factor")?;
            keys.set("rope.scaling.type", "yarn");
            keys.set("rope.scaling.factor", factor);
            let original = rope.opt_u32("original_max_position_embeddings")?;
            let original = original.or(config.opt_u32("max_position_embeddings")?).unwrap_or(0);
            keys.set("rope.scaling.original_context_length", original);
            for (ours, theirs) in [("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow")]
            {
                if let Some(value) = rope.opt_f32(theirs)? {
                    keys.set(&format!("rope.scaling.{ours}"), value);
                }
            }
            if let Some(given) = rope.opt_f32("attention_factor")? {
                // Ours multiplies what the paper computes from the factor.
                let computed = 1.0 + 0.1 * factor.max(1.0).ln();
                keys.set("rope.scaling.attn_factor", given / computed);
            }
        }
        "llama3" => description.extra.push(("rope_freqs.weight", llama3_factors(rope, config)?)),
        other => {
            let problem = format!("'{other}' is not supported; default, linear, yarn, llama3 are");
            return Err(rope.bad("rope_type", problem));
        }
    }
    Ok(())
}

/// Divisors of the frequencies in Llama 3.1: 1 for short waves, the factor for long ones, a ramp
/// between.
fn llama3_factors(rope: &Json, config: &Json) -> Result<Vec<f32>, GgufError> {
    const MAX_DIM: u32 = 4096;
    let base = match rope.opt_f32("rope_theta")? {
        Some(base) => base,
        None => config.opt_f32("rope_theta")?.unwrap_or(10_000.0),
    };
    let heads = config.u32("num_attention_heads")?.max(1);
    let dim = config.opt_u32("head_dim")?.unwrap_or(config.u32("hidden_size")? / heads);
    if dim > MAX_DIM {
        let (value, limit) = (dim.into(), MAX_DIM.into());
        return Err(GgufError::Limit { what: "head dimension".into(), value, limit });
    }
    let factor = f64::from(rope.f32("factor")?);
    let (low, high) = (rope.f32("low_freq_factor")?, rope.f32("high_freq_factor")?);
    let original = f64::from(rope.u32("original_max_position_embeddings")?);
    let (low, high) = (f64::from(low), f64::from(high));
    let factors = (0..dim / 2).map(|i| {
        let frequency = f64::from(base).powf(-2.0 * f64::from(i) / f64::from(dim));
        let waves = original * frequency / std::f64::consts::TAU;
        let share = ((waves - low) / (high - low)).clamp(0.0, 1.0);
        (1.0 / ((1.0 - share) / factor + share)) as f32
    });
    Ok(factors.collect())
}
