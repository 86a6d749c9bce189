//! Layers of keys and values, and who set what.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;

use serde_json::{Map, Value};

use super::{Config, ModelConfig, Secret};
use crate::param::edit_distance;

/// Where a value came from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    Default,
    File(PathBuf),
    /// Name of an environment variable.
    Env(String),
    /// A command line flag, with its dashes.
    Flag(String),
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File(path) => write!(f, "file {}", path.display()),
            Self::Env(name) => write!(f, "env {name}"),
            Self::Flag(name) => write!(f, "flag {name}"),
        }
    }
}

/// A configuration that cannot be used; the text names key, source and limit.
#[derive(Debug, thiserror::Error)]
pub enum ConfigError {
    #[error("unknown key {key} ({source_}){hint}", hint = did_you_mean(.suggestion.as_deref()))]
    UnknownKey { key: String, source_: Source, suggestion: Option<String> },
    #[error("{key}: {reason} ({source_})")]
    Value { key: String, reason: String, source_: Source },
    #[error("{path}: {reason}", path = .path.display())]
    File { path: PathBuf, reason: String },
}

fn did_you_mean(suggestion: Option<&str>) -> String {
    suggestion.map_or_else(String::new, |word| format!("; did you mean {word}?"))
}

/// Values merged so far, with the source of each.
#[derive(Clone, Debug)]
pub struct Layers {
    values: Value,
    sources: BTreeMap<String, Source>,
    /// Sentences for the log: what was accepted without effect.
    pub notes: Vec<String>,
}

impl Default for Layers {
    fn default() -> Self {
        Self { values: tree(&Config::default()), sources: BTreeMap::new(), notes: Vec::new() }
    }
}

impl Layers {
    /// Lays `layer`, an object of sections, over what is there. Lists are replaced whole.
    ///
    /// # Errors
    /// A key that [`Config`] does not have.
    pub fn merge(&mut self, layer: Value, source: &Source) -> Result<(), ConfigError> {
        let Value::Object(layer) = layer else {
            return Err(ConfigError::Value {
                key: "configuration".to_owned(),
                reason: "expected sections with keys".to_owned(),
                source_: source.clone(),
            });
        };
        let mut values = std::mem::take(&mut self.values);
        let merged = self.merge_object("", object(&mut values), layer, source);
        self.values = values;
        merged
    }

    fn merge_object(
        &mut self,
        prefix: &str,
        into: &mut Map<String, Value>,
        layer: Map<String, Value>,
        source: &Source,
    ) -> Result<(), ConfigError> {
        for (key, value) in layer {
            let path = join(prefix, &key);
            let Some(old) = into.get_mut(&key) else {
                let suggestion = closest(&key, into.keys()).map(|word| join(prefix, &word));
                return Err(ConfigError::UnknownKey {
                    key: path,
                    source_: source.clone(),
                    suggestion,
                });
            };
            match (old, value) {
                (Value::Object(old), Value::Object(new)) => {
                    self.merge_object(&path, old, new, source)?;
                }
                (old, new) => {
                    check_models(&path, &new, source)?;
                    *old = new;
                    self.sources.insert(path, source.clone());
                }
            }
        }
        Ok(())
    }

    /// Sets one key, such as `server.port`.
    ///
    /// # Errors
    /// The key does not exist.
    pub fn set(&mut self, key: &str, value: Value, source: &Source) -> Result<(), ConfigError> {
        let layer = key
            .rsplit('.')
            .fold(value, |inner, word| Value::Object(Map::from_iter([(word.to_owned(), inner)])));
        self.merge(layer, source)
    }

    /// Who set `key`; for the parts of a list, who set the list.
    pub fn source(&self, key: &str) -> Source {
        let key = key.split('[').next().unwrap_or(key);
        self.sources.get(key).cloned().unwrap_or(Source::Default)
    }

    /// The typed and validated result.
    ///
    /// # Errors
    /// A value of the wrong type or outside its limits, with key, value, limit and source.
    pub fn build(&self) -> Result<Config, ConfigError> {
        let config: Config = serde_path_to_error::deserialize(&self.values).map_err(|error| {
            let key = error.path().to_string();
            let source_ = self.source(&key);
            ConfigError::Value { key, reason: error.into_inner().to_string(), source_ }
        })?;
        super::validate::validate(&config).map_err(|(key, reason)| {
            let source_ = self.source(&key);
            ConfigError::Value { key, reason, source_ }
        })?;
        Ok(config)
    }

    /// Every key with its value and source, secrets hidden, in the order of [`Config`].
    pub fn entries(&self) -> Vec<(String, Value, Source)> {
        let mut entries = Vec::new();
        flatten("", &self.values, &mut |key, value| {
            entries.push((key.to_owned(), hide_secrets(key, value), self.source(key)));
        });
        entries
    }
}

/// The keys and values of any part of the configuration.
pub(super) fn tree<T: serde::Serialize>(part: &T) -> Value {
    serde_json::to_value(part)
        .expect("configuration has string keys and finite numbers: this is a bug")
}

/// A configuration with every optional key filled in: it shows each key's type.
pub(super) fn specimen() -> Value {
    let mut config = Config::default();
    config.registry.memory_budget_bytes = Some(0);
    config.engine.cpu_affinity = Some(String::new());
    config.engine.quantize = Some(String::new());
    config.engine.chat_template = Some(String::new());
    config.engine.chat_template_kwargs = Some(String::new());
    config.hub.models_dir = Some(PathBuf::new());
    config.hub.token = Some(Secret::new(""));
    config.hub.endpoint = Some(String::new());
    config.auth.api_keys_file = Some(PathBuf::new());
    config.auth.admin_keys_file = Some(PathBuf::new());
    config.logging.file = Some(PathBuf::new());
    tree(&config)
}

/// Calls `visit` with each key that is not a section.
pub(super) fn flatten(prefix: &str, value: &Value, visit: &mut impl FnMut(&str, &Value)) {
    match value {
        Value::Object(map) => {
            for (key, value) in map {
                flatten(&join(prefix, key), value, visit);
            }
        }
        leaf => visit(prefix, leaf),
    }
}

/// The known word nearest to a misspelt one, when it is near enough to be meant.
pub(super) fn closest<'a>(
    word: &str,
    known: impl Iterator<Item = impl AsRef<str> + 'a>,
) -> Option<String> {
    let limit = 1 + word.chars().count() / 3;
    known
        .map(|candidate| (edit_distance(word, candidate.as_ref()), candidate.as_ref().to_owned()))
        .filter(|(distance, _)| *distance <= limit)
        .min()
        .map(|(_, candidate)| candidate)
}

/// Unknown keys of entries of `models` get the same help as those of sections.
fn check_models(path: &str, value: &Value, source: &Source) -> Result<(), ConfigError> {
    let (true, Value::Array(items)) = (path == "models", value) else { return Ok(()) };
    let known = tree(&ModelConfig::default());
    for (index, item) in items.iter().enumerate() {
        let keys = item.as_object().into_iter().flat_map(Map::keys);
        if let Some(key) = keys.into_iter().find(|key| known.get(key.as_str()).is_none()) {
            let words = known.as_object().into_iter().flat_map(Map::keys);
            return Err(ConfigError::UnknownKey {
                key: format!("models[{index}].{key}"),
                source_: source.clone(),
                suggestion: closest(key, words),
            });
        }
    }
    Ok(())
}

fn hide_secrets(key: &str, value: &Value) -> Value {
    let hidden = || Value::String("[secret]".to_owned());
    match (key, value) {
        ("hub.token", Value::String(_)) => hidden(),
        ("auth.api_keys" | "auth.admin_keys", Value::Array(keys)) => {
            keys.iter().map(|_| hidden()).collect()
        }
        _ => value.clone(),
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    value.as_object_mut().expect("a configuration tree is an object: this is a bug")
}

fn join(prefix: &str, key: &str) -> String {
    if prefix.is_empty() { key.to_owned() } else { format!("{prefix}.{key}") }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn file() -> Source {
        Source::File("a.toml".into())
    }

    #[test]
    fn later_layers_win_and_are_remembered() {
        let mut layers = Layers::default();
        layers.merge(json!({"server": {"port": 1, "host": "::1"}}), &file()).unwrap();
        layers.set("server.port", json!(2), &Source::Flag("--port".into())).unwrap();
        let config = layers.build().unwrap();
        assert_eq!((config.server.port, config.server.host.as_str()), (2, "::1"));
        assert_eq!(layers.source("server.port").to_string(), "flag --port");
        assert_eq!(layers.source("server.host").to_string(), "file a.toml");
        assert_eq!(layers.source("engine.n_ctx"), Source::Default);
    }

    #[test]
    fn unknown_keys_are_errors_with_a_hint() {
        let cases = [
            (
                json!({"server": {"prot": 1}}),
                "unknown key server.prot (file a.toml); did you mean server.port?",
            ),
            (json!({"sever": {}}), "unknown key sever (file a.toml); did you mean server?"),
            (json!({"xyzzy": 1}), "unknown key xyzzy (file a.toml)"),
            (
                json!({"models": [{"reference": "a", "n_ctxx": 1}]}),
                "unknown key models[0].n_ctxx (file a.toml); did you mean n_ctx?",
            ),
        ];
        for (layer, text) in cases {
            let error = Layers::default().merge(layer, &file()).unwrap_err();
            assert_eq!(error.to_string(), text);
        }
    }

    #[test]
    fn wrong_values_name_key_limit_and_source() {
        let cases = [
            (
                json!({"server": {"port": 70000}}),
                "server.port: invalid value: integer `70000`, expected u16 (file a.toml)",
            ),
            (
                json!({"server": {"port": "x"}}),
                "server.port: invalid type: string \"x\", expected u16 (file a.toml)",
            ),
            (
                json!({"engine": {"n_parallel": 0}}),
                "engine.n_parallel: 0 is outside 1..=256 (file a.toml)",
            ),
            (
                json!({"server": 1}),
                "server: invalid type: integer `1`, expected struct ServerConfig (file a.toml)",
            ),
        ];
        for (layer, text) in cases {
            let mut layers = Layers::default();
            layers.merge(layer, &file()).unwrap();
            assert_eq!(layers.build().unwrap_err().to_string(), text);
        }
    }

    #[test]
    fn secrets_are_not_shown() {
        let mut layers = Layers::default();
        layers
            .merge(json!({"auth": {"api_keys": ["k1"]}, "hub": {"token": "t"}}), &file())
            .unwrap();
        let shown = format!("{:?}", layers.entries());
        assert!(!shown.contains("k1") && !shown.contains("\"t\""), "{shown}");
        assert_eq!(layers.build().unwrap().auth.api_keys[0].expose(), "k1");
    }

    #[test]
    fn the_specimen_has_no_gaps() {
        flatten("", &specimen(), &mut |key, value| assert!(!value.is_null(), "{key} has no type"));
    }
}
