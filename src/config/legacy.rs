//! Reads `config.yaml` and `config.json` as the original Kolosal Server wrote them.
//!
//! Keys with a counterpart here are renamed, keys that had or have no effect are accepted and noted,
//! and keys that would promise something we do not do are refused. Keys of our own pass unchanged, so
//! that YAML and JSON also work as plain alternatives to TOML.

use serde_json::{Map, Value};

/// What becomes of one key of the original.
enum Rule {
    /// Renamed; the value stays.
    To(&'static str),
    /// Accepted without effect; the note says why.
    Noted(&'static str),
    /// Accepted when false, empty or absent; refused otherwise, with the reason.
    Refused(&'static str),
    /// Needs a look at the value or at other keys; see [`special`].
    Special,
}

const RULES: &[(&str, Rule)] = &[
    ("server.port", Rule::Special),
    ("server.host", Rule::Special),
    ("server.allow_public_access", Rule::Special),
    ("server.allow_internet_access", Rule::Refused("ports of a router are not opened from here")),
    ("server.max_connections", Rule::Noted("connections are limited by the system")),
    ("server.max_request_size", Rule::To("limits.max_body_bytes")),
    ("server.idle_timeout", Rule::To("registry.idle_timeout_s")),
    (
        "server.request_timeout",
        Rule::Noted("generations end by max_tokens, and when the client leaves"),
    ),
    ("logging.level", Rule::Special),
    ("logging.file", Rule::Special),
    ("logging.quiet_mode", Rule::Special),
    ("logging.show_request_details", Rule::Noted("see logging.access_log")),
    ("auth.enabled", Rule::Special),
    ("auth.require_api_key", Rule::Special),
    ("auth.api_keys", Rule::Special),
    ("auth.api_key_header", Rule::Special),
    ("auth.rate_limit.enabled", Rule::Noted("rate limits are not enforced")),
    ("auth.rate_limit.max_requests", Rule::Noted("rate limits are not enforced")),
    ("auth.rate_limit.window_size", Rule::Noted("rate limits are not enforced")),
    ("auth.cors.enabled", Rule::Special),
    ("auth.cors.allowed_origins", Rule::Special),
    ("auth.cors.allow_credentials", Rule::Refused("cookies are not used; keys travel in headers")),
    ("auth.cors.max_age", Rule::Noted("browsers may remember the answer for a day")),
    ("auth.cors.allowed_methods", Rule::Noted("the methods of each route are allowed")),
    ("auth.cors.allowed_headers", Rule::Noted("the headers that routes read are allowed")),
    ("features.health_check", Rule::Noted("health checks are always on")),
    ("features.metrics", Rule::Noted("see the server's metrics route")),
    ("search.enabled", Rule::Refused("web search is not part of this server")),
    ("database.enabled", Rule::Refused("document search is not part of this server")),
    ("database.qdrant.enabled", Rule::Refused("document search is not part of this server")),
    ("database.faiss.enabled", Rule::Refused("document search is not part of this server")),
    ("default_inference_engine", Rule::Noted("candle is the only inference engine")),
    ("inference_engines", Rule::Noted("candle is the only inference engine")),
];

/// Sections of the original whose other keys have no effect once the switch above is off.
const IDLE_SECTIONS: &[&str] = &["search.", "database.", "embedding_autoscaling."];

/// Renames the keys of a parsed file to those of [`super::Config`].
///
/// # Errors
/// A key that asks for something this server does not do; the text names it.
pub(super) fn translate(file: Value, notes: &mut Vec<String>) -> Result<Value, String> {
    let Value::Object(mut sections) = file else {
        return Err("expected sections with keys".into());
    };
    let mut out = Map::new();
    if let Some(models) = sections.remove("models") {
        insert(&mut out, "models", translate_models(models, notes)?);
    }
    let file = Value::Object(sections);
    let mut keys = Vec::new();
    super::layers::flatten("", &file, &mut |key, value| keys.push((key.to_owned(), value.clone())));
    for (key, value) in keys {
        let rule = RULES.iter().find(|(known, _)| *known == key).map(|(_, rule)| rule);
        match rule {
            Some(Rule::To(name)) => insert(&mut out, name, value),
            Some(Rule::Noted(why)) => notes.push(format!("{key} has no effect: {why}")),
            Some(Rule::Refused(why)) if is_set(&value) => return Err(format!("{key}: {why}")),
            Some(Rule::Refused(_)) => {}
            Some(Rule::Special) => special(&mut out, &file, &key, value, notes)?,
            None if IDLE_SECTIONS.iter().any(|section| key.starts_with(section)) => {}
            None => insert(&mut out, &key, value),
        }
    }
    Ok(Value::Object(out))
}

/// Keys whose meaning depends on their value or on a neighbour.
fn special(
    out: &mut Map<String, Value>,
    file: &Value,
    key: &str,
    value: Value,
    notes: &mut Vec<String>,
) -> Result<(), String> {
    let flag = |path: &str| lookup(file, path).and_then(Value::as_bool);
    let text = value.as_str().unwrap_or_default();
    match key {
        "server.port" => insert(out, key, text.parse::<u64>().map_or(value.clone(), Value::from)),
        // The original binds every address only when told to.
        "server.host" if text == "0.0.0.0" && flag("server.allow_public_access") != Some(true) => {
            notes.push("server.host 0.0.0.0 without allow_public_access binds 127.0.0.1".into());
            insert(out, key, Value::from("127.0.0.1"));
        }
        "server.allow_public_access" => {
            if value == true && lookup(file, "server.host").is_none() {
                insert(out, "server.host", Value::from("0.0.0.0"));
            }
        }
        "logging.level" => {
            let level = text.to_lowercase();
            insert(out, key, Value::from(if level == "warning" { "warn".into() } else { level }));
        }
        "logging.file" if text.is_empty() => {}
        "logging.quiet_mode" => {
            if value == true {
                insert(out, "logging.level", Value::from("warn"));
            }
        }
        "auth.enabled" | "auth.cors.enabled" => {}
        "auth.require_api_key" => {
            let keys = lookup(file, "auth.api_keys").and_then(Value::as_array);
            if value == true
                && flag("auth.enabled") != Some(false)
                && keys.is_none_or(Vec::is_empty)
            {
                return Err("auth.require_api_key: auth.api_keys is empty".into());
            }
        }
        "auth.api_keys"
            if flag("auth.require_api_key") != Some(true)
                || flag("auth.enabled") == Some(false) =>
        {
            notes.push("auth.api_keys has no effect: auth.require_api_key is off".into());
        }
        "auth.api_key_header" => {
            if !["x-api-key", "authorization"].contains(&text.to_lowercase().as_str()) {
                return Err(format!("{key}: {text} is not read; use X-API-Key or Authorization"));
            }
        }
        "auth.cors.allowed_origins" => {
            if flag("auth.cors.enabled") != Some(false) && flag("auth.enabled") != Some(false) {
                insert(out, "cors.allowed_origins", value);
            }
        }
        _ => insert(out, key, value),
    }
    Ok(())
}

/// Entries of `models`: `path` is our `reference`, and `load_params` are keys of the entry itself.
fn translate_models(models: Value, notes: &mut Vec<String>) -> Result<Value, String> {
    let Value::Array(models) = models else { return Err("models: expected a list".into()) };
    let models = models.into_iter().enumerate().map(|(index, model)| {
        let Value::Object(model) = model else {
            return Err(format!("models[{index}]: expected keys"));
        };
        let mut out = Map::new();
        for (key, value) in model {
            match key.as_str() {
                "path" | "model_path" => insert(&mut out, "reference", value),
                "load_at_startup" => insert(&mut out, "load_immediately", value),
                "load_params" => match value {
                    Value::Object(params) => out.extend(params),
                    _ => return Err(format!("models[{index}].load_params: expected keys")),
                },
                "preload_context" | "inference_engine" => {
                    notes.push(format!("models[{index}].{key} has no effect"));
                }
                "type" if value == "llm" => {}
                "type" | "vision" | "mm_proj_path" if is_set(&value) => {
                    return Err(format!("models[{index}].{key}: {value} is not supported"));
                }
                "type" | "vision" | "mm_proj_path" => {}
                _ => insert(&mut out, &key, value),
            }
        }
        Ok(Value::Object(out))
    });
    models.collect::<Result<Value, String>>()
}

/// Whether a switch is on or a text is there.
fn is_set(value: &Value) -> bool {
    !matches!(value, Value::Null | Value::Bool(false)) && value.as_str() != Some("")
}

fn lookup<'a>(file: &'a Value, path: &str) -> Option<&'a Value> {
    path.split('.').try_fold(file, |value, key| value.get(key))
}

fn insert(out: &mut Map<String, Value>, path: &str, value: Value) {
    match path.split_once('.') {
        None => {
            out.insert(path.to_owned(), value);
        }
        Some((section, rest)) => {
            let inner = out.entry(section).or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(inner) = inner {
                insert(inner, rest, value);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::config::{Config, Layers, Source};

    fn config(yaml: &str) -> Result<(Config, Vec<String>), String> {
        let mut notes = Vec::new();
        let file = crate::config::load::yaml(yaml)?;
        let values = translate(file, &mut notes)?;
        let mut layers = Layers::default();
        let source = Source::File("config.yaml".into());
        layers.merge(values, &source).map_err(|e| e.to_string())?;
        layers.build().map(|config| (config, notes)).map_err(|e| e.to_string())
    }

    #[test]
    fn a_file_of_the_original_is_understood() {
        let yaml = r#"
server: {port: "9090", host: "0.0.0.0", max_connections: 50, worker_threads: 2, request_timeout: 30,
         max_request_size: 1048576, idle_timeout: 60, allow_public_access: false, allow_internet_access: false}
logging: {level: WARNING, file: "", access_log: true, quiet_mode: false, show_request_details: true}
auth:
  enabled: true
  require_api_key: true
  api_key_header: X-API-Key
  api_keys: [k]
  rate_limit: {enabled: true, max_requests: 100, window_size: 60}
  cors: {enabled: true, allowed_origins: ["https://a.example"], allow_credentials: false, max_age: 5}
models:
  - {id: m, path: /models/m.gguf, load_immediately: false, main_gpu_id: 0, preload_context: false, type: llm,
     load_params: {n_ctx: 2048, n_keep: 1024, use_mmap: true, use_mlock: false, n_parallel: 2, n_gpu_layers: 0}}
features: {health_check: true, metrics: false}
search: {enabled: false, searxng_url: "http://localhost"}
"#;
        let (config, notes) = config(yaml).unwrap();
        assert_eq!((config.server.host.as_str(), config.server.port), ("127.0.0.1", 9090));
        assert_eq!(config.limits.max_body_bytes, 1 << 20);
        assert_eq!(config.registry.idle_timeout_s, 60);
        assert_eq!(config.logging.level, "warn");
        assert_eq!(config.auth.api_keys[0].expose(), "k");
        assert_eq!(config.cors.allowed_origins, ["https://a.example"]);
        let model = &config.models[0];
        assert_eq!((model.reference.as_str(), model.n_ctx), ("/models/m.gguf", Some(2048)));
        assert!(!model.load_immediately);
        assert!(notes.iter().any(|note| note.contains("rate limits")), "{notes:?}");
    }

    #[test]
    fn promises_we_cannot_keep_are_refused() {
        let cases = [
            ("server: {allow_internet_access: true}", "server.allow_internet_access"),
            ("search: {enabled: true}", "search.enabled"),
            ("auth: {require_api_key: true}", "auth.api_keys is empty"),
            ("auth: {api_key_header: X-Custom}", "X-Custom is not read"),
            ("auth: {cors: {allow_credentials: true}}", "cookies are not used"),
            ("models: [{path: a, type: embedding}]", "models[0].type"),
            ("server: {prot: 1}", "did you mean server.port?"),
        ];
        for (yaml, expected) in cases {
            let error = config(yaml).unwrap_err();
            assert!(error.contains(expected), "{yaml}: {error}");
        }
    }

    #[test]
    fn keys_of_our_own_pass() {
        let mut notes = Vec::new();
        let file =
            json!({"engine": {"n_ctx": 128}, "models": [{"reference": "a", "pinned": true}]});
        assert_eq!(translate(file.clone(), &mut notes).unwrap()["engine"], file["engine"]);
    }
}
