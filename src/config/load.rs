//! Where the layers come from: files, variables, flags.

use std::path::{Path, PathBuf};

use etcetera::BaseStrategy;
use serde_json::Value;
use serde_saphyr::budget::BudgetBreach;

use super::layers::{ConfigError, Layers, Source};
use super::{env, legacy};

/// A file that is larger than this is no configuration.
const MAX_FILE_BYTES: u64 = 1 << 20;
/// Levels of lists and sections in YAML.
const MAX_YAML_DEPTH: usize = 64;
/// Values in YAML, those that aliases repeat included.
const MAX_YAML_NODES: usize = 100_000;
const MAX_YAML_ALIASES: usize = 1_000;

/// Loads all layers: defaults, the files of [`system_files`] that exist, `file` (which must exist),
/// `variables`, then `flags` as (key, value, flag).
///
/// # Errors
/// A file that cannot be read, an unknown key, or a variable that cannot be understood. Values are
/// checked by [`Layers::build`].
pub fn load(
    file: Option<&Path>,
    variables: &[(String, String)],
    flags: &[(&str, Value, &str)],
) -> Result<Layers, ConfigError> {
    let mut layers = Layers::default();
    for path in system_files().iter().filter(|path| path.exists()) {
        merge_file(&mut layers, path)?;
    }
    let named = variables.iter().find(|(name, _)| name == "KOLOSAL_CONFIG");
    let named = named.map(|(_, path)| Path::new(path));
    if let Some(path) = file.or(named) {
        merge_file(&mut layers, path)?;
    }
    env::merge(&mut layers, variables)?;
    for (key, value, flag) in flags {
        layers.set(key, value.clone(), &Source::Flag((*flag).to_owned()))?;
    }
    Ok(layers)
}

/// Files that are read when they exist: the machine's, then the user's.
pub fn system_files() -> Vec<PathBuf> {
    let mut files = vec![PathBuf::from("/etc/kolosal/config.toml")];
    if let Ok(dirs) = etcetera::choose_base_strategy() {
        files.push(dirs.config_dir().join("kolosal").join("config.toml"));
    }
    files
}

fn merge_file(layers: &mut Layers, path: &Path) -> Result<(), ConfigError> {
    let error = |reason: String| ConfigError::File { path: path.to_owned(), reason };
    let size = std::fs::metadata(path).map_err(|e| error(e.to_string()))?.len();
    if size > MAX_FILE_BYTES {
        return Err(error(format!("{size} bytes exceed the limit of {MAX_FILE_BYTES}")));
    }
    let text = std::fs::read_to_string(path).map_err(|e| error(e.to_string()))?;
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    let values: Value = match extension {
        "yaml" | "yml" => yaml(&text).map_err(error)?,
        "json" => serde_json::from_str(&text).map_err(|e| error(e.to_string()))?,
        _ => toml::from_str(&text).map_err(|e| error(e.to_string().trim_end().to_owned()))?,
    };
    let values = match extension {
        "yaml" | "yml" | "json" => legacy::translate(values, &mut layers.notes).map_err(error)?,
        _ => values,
    };
    layers.merge(values, &Source::File(path.to_owned()))
}

/// Reads YAML 1.2: `yes` and `0123` are texts, a key stands once, and aliases cannot make a file much
/// larger than it is.
///
/// # Errors
/// What is wrong and where, without the text itself: it may hold keys.
pub(super) fn yaml(text: &str) -> Result<Value, String> {
    let options = serde_saphyr::options! {
        budget: serde_saphyr::budget! {
            max_documents: 1,
            max_depth: MAX_YAML_DEPTH,
            flow_nesting_limit: MAX_YAML_DEPTH + 1,
            max_nodes: MAX_YAML_NODES,
            max_aliases: MAX_YAML_ALIASES,
        },
        leading_zero_numbers_as_strings: true,
        underscored_numbers_as_strings: true,
        strict_booleans: true,
        with_snippet: false,
    };
    serde_saphyr::from_str_with_options(text, options).map_err(|error| in_words(&error))
}

/// An error of YAML, whose limits the library calls budgets.
fn in_words(error: &serde_saphyr::Error) -> String {
    let breach = match error {
        serde_saphyr::Error::Budget { breach, .. } => breach,
        serde_saphyr::Error::MultipleDocuments { .. } => {
            return "more than one document".to_owned();
        }
        // What an alias stands for went beyond a limit.
        serde_saphyr::Error::AliasError { error, .. } => return in_words(error),
        other => return other.to_string(),
    };
    match breach {
        BudgetBreach::Nodes { .. } => {
            format!("more than {MAX_YAML_NODES} values, those that aliases repeat included")
        }
        BudgetBreach::Depth { .. } => format!("more than {MAX_YAML_DEPTH} levels"),
        BudgetBreach::Aliases { .. } => format!("more than {MAX_YAML_ALIASES} aliases"),
        BudgetBreach::Documents { .. } => "more than one document".to_owned(),
        other => format!("larger than a configuration may be: {other:?}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_text(name: &str, text: &str) -> Result<Layers, ConfigError> {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join(name);
        std::fs::write(&path, text).unwrap();
        let mut layers = Layers::default();
        merge_file(&mut layers, &path).map(|()| layers)
    }

    #[test]
    fn toml_files_are_read() {
        let text = "[server]\nport = 9\n[[models]]\nid = \"m\"\nreference = \"smollm2:135m\"\nn_ctx = 512\n";
        let config = load_text("c.toml", text).unwrap().build().unwrap();
        assert_eq!(config.server.port, 9);
        assert_eq!(config.models[0].n_ctx, Some(512));
        assert!(config.models[0].load_immediately);
    }

    #[test]
    fn a_small_batch_brings_its_chunks_down_with_it() {
        let config = load_text("c.toml", "[engine]\nn_batch = 64\n").unwrap().build().unwrap();
        assert_eq!(config.engine.n_batch, 64);
        let both = load_text("c.toml", "[engine]\nn_batch = 64\nn_ubatch = 1024\n").unwrap();
        let error = both.build().unwrap_err().to_string();
        assert!(error.contains("engine.n_ubatch") && error.contains("512"), "{error}");
    }

    #[test]
    fn broken_files_say_where() {
        let error = load_text("c.toml", "[server]\nport = \n").unwrap_err().to_string();
        assert!(error.contains("c.toml") && error.contains("line 2"), "{error}");
        assert!(load_text("c.json", "{").is_err());
    }

    #[test]
    fn yaml_is_read_strictly_and_within_limits() {
        let plain = yaml("a: yes\nb: 0123\nc: 1_000\nd: 0x10\ne: [1, 2.5, true, null, ~]\n");
        let want = serde_json::json!({
            "a": "yes", "b": "0123", "c": "1_000", "d": 16, "e": [1, 2.5, true, null, null],
        });
        assert_eq!(plain, Ok(want));
        // Ten aliases on each level, nine levels: a thousand million values from a few lines.
        let bomb = (1..10).fold("l0: &l0 x\n".to_owned(), |text, level| {
            let inner = format!("*l{}, ", level - 1).repeat(10);
            format!("{text}l{level}: &l{level} [{inner}]\n")
        });
        let deep = format!("a: {}{}", "[".repeat(500), "]".repeat(500));
        let cases = [
            (bomb.as_str(), "100000 values"),
            (deep.as_str(), "limit exceeded"),
            ("a: 1\na: 2\n", "line 2"),
            ("a: [1\nb: key-of-mine", "line 2"),
            ("a: 1\n---\nb: 2\n", "one document"),
        ];
        for (text, want) in cases {
            let error = yaml(text).unwrap_err();
            assert!(error.contains(want), "{want}: {error}");
            assert!(!error.contains("key-of-mine"), "{error}");
        }
    }

    #[test]
    fn flags_win_over_variables() {
        let variables = [("KOLOSAL_PORT".to_owned(), "1".to_owned())];
        let flags = [("server.port", Value::from(2), "--port")];
        let layers = load(None, &variables, &flags).unwrap();
        assert_eq!(layers.build().unwrap().server.port, 2);
    }

    #[test]
    fn a_named_file_must_exist() {
        let error = load(Some(Path::new("/nonexistent.toml")), &[], &[]).unwrap_err();
        assert!(error.to_string().starts_with("/nonexistent.toml: "), "{error}");
    }
}
