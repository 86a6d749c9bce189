//! BERT and RoBERTa configurations.

use super::description::{Description, Keys, Naming};
use super::json::Json;
use super::names::{self, Change};
use crate::model::gguf::GgufError;

pub(super) const BERT_NAMES: &[&str] =
    &["BertModel", "BertForSequenceClassification", "BertForMaskedLM"];
pub(super) const ROBERTA_NAMES: &[&str] = &[
    "RobertaModel",
    "RobertaForSequenceClassification",
    "RobertaForMaskedLM",
    "XLMRobertaModel",
    "XLMRobertaForSequenceClassification",
    "XLMRobertaForMaskedLM",
    "CamembertModel",
];

pub(super) fn bert(config: &Json) -> Result<Description, GgufError> {
    let mut description = encoder(config, 0)?;
    let naming = &mut description.naming;
    if is_classifier(config)? {
        naming.top.extend(names::BERT_CLASSIFIER);
    } else {
        naming.skipped.push("pooler.");
    }
    Ok(description)
}

/// The first positions are those of padding, which has none here.
pub(super) fn roberta(config: &Json) -> Result<Description, GgufError> {
    let padding = config.opt_u32("pad_token_id")?.unwrap_or(1);
    let mut description = encoder(config, padding.saturating_add(1))?;
    let naming = &mut description.naming;
    if is_classifier(config)? {
        naming.top.extend(names::ROBERTA_CLASSIFIER);
    }
    naming.skipped.push("pooler.");
    Ok(description)
}

fn is_classifier(config: &Json) -> Result<bool, GgufError> {
    let names = config.array("architectures")?;
    let name = names.first().and_then(|name| name.as_str()).unwrap_or_default();
    Ok(name.ends_with("ForSequenceClassification"))
}

/// Positions start at `first_position`.
fn encoder(config: &Json, first_position: u32) -> Result<Description, GgufError> {
    if let Some(act) = config.opt_str("hidden_act")?
        && act != "gelu"
    {
        return Err(config.bad("hidden_act", format!("'{act}' is not supported here; gelu is")));
    }
    if let Some(kind) = config.opt_str("position_embedding_type")?
        && kind != "absolute"
    {
        let problem = format!("'{kind}' is not supported; absolute is");
        return Err(config.bad("position_embedding_type", problem));
    }
    if config.flag("is_decoder")? == Some(true) {
        return Err(config.bad("is_decoder", "a decoder of this kind is not supported"));
    }
    let mut keys = Keys::new("bert");
    for (ours, theirs) in [
        ("block_count", "num_hidden_layers"),
        ("embedding_length", "hidden_size"),
        ("feed_forward_length", "intermediate_size"),
        ("attention.head_count", "num_attention_heads"),
    ] {
        keys.set(ours, config.u32(theirs)?);
    }
    keys.set("attention.layer_norm_epsilon", config.opt_f32("layer_norm_eps")?.unwrap_or(1e-12));
    keys.set("attention.causal", false);
    let positions = config.u32("max_position_embeddings")?;
    let positions = positions.checked_sub(first_position).filter(|positions| *positions > 0);
    let too_few = || config.bad("max_position_embeddings", "too few");
    keys.set("context_length", positions.ok_or_else(too_few)?);
    let mut changes = Vec::new();
    if first_position > 0 {
        changes.push(("position_embd", Change::SkipRows(first_position as usize)));
    }
    Ok(Description {
        architecture: "bert",
        keys: keys.keys,
        extra: Vec::new(),
        naming: Naming {
            prefixes: &["bert.", "roberta."],
            layer: "encoder.layer.",
            parts: names::BERT.to_vec(),
            top: names::BERT_TOP.to_vec(),
            skipped: vec!["embeddings.position_ids", "cls.", "lm_head"],
            changes,
        },
    })
}
