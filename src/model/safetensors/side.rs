//! The small files beside configuration and weights: chat template, pooling.

use std::path::Path;

use super::json::{self, Json};
use crate::model::gguf::{GgufError, Metadata};

/// Sets what the files of `dir` say.
pub(super) fn read(dir: &Path, config: &Json, metadata: &mut Metadata) -> Result<(), GgufError> {
    templates(dir, metadata)?;
    let architecture = metadata.architecture()?.to_owned();
    let is_classifier = config.array("architectures")?.first().and_then(|name| name.as_str());
    if is_classifier.is_some_and(|name| name.ends_with("ForSequenceClassification")) {
        metadata.set(format!("{architecture}.pooling_type"), 4u32);
        return Ok(());
    }
    if let Some(pooling) = pooling(dir)? {
        metadata.set(format!("{architecture}.pooling_type"), pooling);
    }
    Ok(())
}

/// A file of its own comes before what the tokenizer's configuration holds.
fn templates(dir: &Path, metadata: &mut Metadata) -> Result<(), GgufError> {
    let mut found: Vec<(String, String)> = Vec::new();
    for file in ["tokenizer_config.json", "chat_template.json"] {
        let Some(json) = Json::read_if_there(&dir.join(file))? else { continue };
        match json.get("chat_template") {
            None => {}
            Some(node) if node.is_string() => {
                found.push(("default".into(), node.as_str().unwrap_or_default().into()));
            }
            Some(_) => {
                for named in json.objects("chat_template")? {
                    if let (Some(name), Some(text)) =
                        (named.opt_str("name")?, named.opt_str("template")?)
                    {
                        found.push((name.into(), text.into()));
                    }
                }
            }
        }
    }
    if let Some(text) = json::text_if_there(&dir.join("chat_template.jinja"))? {
        found.push(("default".into(), text));
    }
    for (name, text) in found {
        let key = match name.as_str() {
            "default" => "tokenizer.chat_template".to_owned(),
            name => format!("tokenizer.chat_template.{name}"),
        };
        metadata.set(key, text);
    }
    Ok(())
}

/// How sentence-transformers pools: GGUF's number.
fn pooling(dir: &Path) -> Result<Option<u32>, GgufError> {
    let path = dir.join("modules.json");
    let Some(text) = json::text_if_there(&path)? else { return Ok(None) };
    let bad = |problem: String| GgufError::malformed("modules.json", problem);
    let modules: Vec<serde_json::Value> =
        serde_json::from_str(&text).map_err(|error| bad(error.to_string()))?;
    let mut pooling = None;
    for module in &modules {
        let text = |key: &str| module.get(key).and_then(|value| value.as_str());
        let ty = text("type").unwrap_or_default();
        match ty.rsplit('.').next().unwrap_or_default() {
            "Transformer" | "Normalize" => {}
            "Pooling" => {
                let folder = text("path").unwrap_or_default();
                if folder.is_empty()
                    || folder.contains(['/', '\\', '\0'])
                    || folder.starts_with('.')
                {
                    return Err(bad(format!("{folder:?} is not the name of a folder")));
                }
                pooling = Some(mode(&Json::read(&dir.join(folder).join("config.json"))?)?);
            }
            other => return Err(bad(format!("a module {other:?} is not supported"))),
        }
    }
    Ok(pooling)
}

fn mode(config: &Json) -> Result<u32, GgufError> {
    let mut modes = Vec::new();
    for (key, node) in config.entries() {
        if let Some(name) = key.strip_prefix("pooling_mode_")
            && node.as_bool() == Some(true)
        {
            modes.push(name);
        }
    }
    if let Some(name) = config.opt_str("pooling_mode")? {
        modes.push(name);
    }
    match modes.as_slice() {
        // Vectors are brought to length one, so that a mean by the root of the length is a mean.
        [] | ["mean_tokens" | "mean" | "mean_sqrt_len_tokens"] => Ok(1),
        ["cls_token" | "cls"] => Ok(2),
        ["lasttoken"] => Ok(3),
        other => {
            let problem =
                format!("{} is not supported; mean, cls, lasttoken are", other.join(" + "));
            Err(config.bad("pooling_mode", problem))
        }
    }
}
