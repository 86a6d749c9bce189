//! `KOLOSAL_*` environment variables.
//!
//! `KOLOSAL_SECTION__KEY` sets any key; a few have short names. Numbers and truth values are read by
//! the key's type, lists are separated by commas.

use serde_json::Value;

use super::layers::{ConfigError, Layers, Source, closest, flatten, specimen};

const PREFIX: &str = "KOLOSAL_";

/// Short names. `RUST_LOG` comes first so that the names of our own override it.
const SHORT: &[(&str, &str)] = &[
    ("RUST_LOG", "logging.level"),
    ("KOLOSAL_HOST", "server.host"),
    ("KOLOSAL_PORT", "server.port"),
    ("KOLOSAL_API_KEY", "auth.api_keys"),
    ("KOLOSAL_API_KEY_FILE", "auth.api_keys_file"),
    ("KOLOSAL_ADMIN_KEY", "auth.admin_keys"),
    ("KOLOSAL_ADMIN_KEY_FILE", "auth.admin_keys_file"),
    ("KOLOSAL_LOG_LEVEL", "logging.level"),
    ("KOLOSAL_LOG_FORMAT", "logging.format"),
    ("KOLOSAL_LOG_FILE", "logging.file"),
    ("KOLOSAL_IDLE_TIMEOUT", "registry.idle_timeout_s"),
    ("KOLOSAL_N_CTX", "engine.n_ctx"),
    ("KOLOSAL_N_PARALLEL", "engine.n_parallel"),
    ("KOLOSAL_THREADS", "engine.threads"),
    ("KOLOSAL_MODELS_DIR", "hub.models_dir"),
    ("KOLOSAL_OFFLINE", "hub.offline"),
];

/// Variables with our prefix that are not configuration: read elsewhere, or set by tests.
const OTHERS: &[&str] = &["KOLOSAL_CONFIG", "KOLOSAL_CPU_TIER"];

/// Lays the variables over `layers`.
///
/// # Errors
/// A variable that names no key, or a value that is not of the key's type.
pub(super) fn merge(
    layers: &mut Layers,
    variables: &[(String, String)],
) -> Result<(), ConfigError> {
    let mut keys = Vec::new();
    flatten("", &specimen(), &mut |key, value| keys.push((key.to_owned(), value.clone())));
    for (name, key) in SHORT {
        let set =
            variables.iter().find(|(variable, text)| variable == name && !is_service_link(text));
        if let Some((_, text)) = set {
            set_text(layers, &keys, (name, key), text)?;
        }
    }
    let mut long: Vec<_> = variables.iter().filter(|(name, _)| is_ours(name)).collect();
    long.sort();
    for (name, text) in long {
        let key = name[PREFIX.len()..].to_lowercase().replace("__", ".");
        set_text(layers, &keys, (name, &key), text)?;
    }
    Ok(())
}

/// Container platforms announce a service called `kolosal` by `KOLOSAL_PORT=tcp://…` and
/// `KOLOSAL_SERVICE_*` in every container beside it; those are not ours.
fn is_service_link(text: &str) -> bool {
    text.starts_with("tcp://") || text.starts_with("udp://")
}

fn is_ours(name: &str) -> bool {
    name.starts_with(PREFIX)
        && !OTHERS.contains(&name)
        && !SHORT.iter().any(|(short, _)| *short == name)
        && !["KOLOSAL_SERVICE_", "KOLOSAL_PORT_", "KOLOSAL_TEST_"]
            .iter()
            .any(|p| name.starts_with(p))
}

fn set_text(
    layers: &mut Layers,
    keys: &[(String, Value)],
    (name, key): (&str, &str),
    text: &str,
) -> Result<(), ConfigError> {
    let source = Source::Env(name.to_owned());
    let Some((_, example)) = keys.iter().find(|(known, _)| known == key) else {
        let variable = |key: &str| format!("{PREFIX}{}", key.to_uppercase().replace('.', "__"));
        let names = keys.iter().map(|(key, _)| variable(key));
        let names: Vec<String> = names.chain(SHORT.iter().map(|(n, _)| (*n).to_owned())).collect();
        let suggestion = closest(name, names.iter());
        return Err(ConfigError::UnknownKey { key: key.to_owned(), source_: source, suggestion });
    };
    let value = read(text, example).ok_or_else(|| ConfigError::Value {
        key: key.to_owned(),
        reason: format!("{text:?} is not {}", type_name(example)),
        source_: source.clone(),
    })?;
    layers.set(key, value, &source)
}

/// Reads a text as a value of the same type as `example`.
fn read(text: &str, example: &Value) -> Option<Value> {
    match example {
        Value::Bool(_) => match text {
            "1" | "true" | "yes" | "on" => Some(Value::Bool(true)),
            "0" | "false" | "no" | "off" => Some(Value::Bool(false)),
            _ => None,
        },
        Value::Number(_) => text.parse::<u64>().ok().map(Value::from),
        Value::Array(_) => {
            Some(text.split(',').map(str::trim).filter(|part| !part.is_empty()).collect())
        }
        _ => Some(Value::from(text)),
    }
}

fn type_name(example: &Value) -> &'static str {
    match example {
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a whole number",
        _ => "usable here",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn merged(variables: &[(&str, &str)]) -> Result<Layers, ConfigError> {
        let variables: Vec<_> =
            variables.iter().map(|(n, t)| ((*n).to_owned(), (*t).to_owned())).collect();
        let mut layers = Layers::default();
        merge(&mut layers, &variables).map(|()| layers)
    }

    #[test]
    fn short_and_long_names_set_keys() {
        let layers = merged(&[
            ("KOLOSAL_PORT", "9000"),
            ("KOLOSAL_API_KEY", "a, b"),
            ("KOLOSAL_SERVER__HOST", "::"),
            ("KOLOSAL_HUB__TOKEN", "123"),
            ("KOLOSAL_ENGINE__PREFIX_CACHE", "off"),
            ("KOLOSAL_CPU_TIER", "scalar"),
            ("PATH", "/bin"),
        ])
        .unwrap();
        let config = layers.build().unwrap();
        assert_eq!((config.server.port, config.server.host.as_str()), (9000, "::"));
        assert_eq!(config.auth.api_keys.len(), 2);
        assert_eq!(config.hub.token.unwrap().expose(), "123");
        assert!(!config.engine.prefix_cache);
        assert_eq!(layers.source("server.port").to_string(), "env KOLOSAL_PORT");
    }

    #[test]
    fn service_links_of_container_platforms_are_not_settings() {
        let layers = merged(&[
            ("KOLOSAL_PORT", "tcp://10.0.0.1:8080"),
            ("KOLOSAL_PORT_8080_TCP", "tcp://10.0.0.1:8080"),
            ("KOLOSAL_SERVICE_HOST", "10.0.0.1"),
        ])
        .unwrap();
        assert_eq!(layers.build().unwrap().server.port, 8080);
    }

    #[test]
    fn wrong_variables_are_errors() {
        let cases = [
            ("KOLOSAL_SERVER__PROT", "1", "did you mean KOLOSAL_SERVER__PORT?"),
            ("KOLOSAL_PROT", "1", "did you mean KOLOSAL_PORT?"),
            (
                "KOLOSAL_PORT",
                "http",
                "server.port: \"http\" is not a whole number (env KOLOSAL_PORT)",
            ),
            ("KOLOSAL_OFFLINE", "perhaps", "is not true or false"),
        ];
        for (name, text, expected) in cases {
            let error = merged(&[(name, text)]).unwrap_err().to_string();
            assert!(error.contains(expected), "{error}");
        }
    }
}
