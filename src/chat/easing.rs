//! Schemas that cannot be enforced as they are: what may be left out, and what is said of it.
//!
//! A `format` that nobody knows is an annotation, in every schema. In a schema that is not strict, what the
//! compiler cannot express is left out as well; the rest still holds.

use serde_json::Value;

use super::grammar::{Grammar, GrammarCompiler, GrammarError};

/// Changes to one schema.
const MAX_CHANGES: usize = 32;

/// A schema that can be compiled in place of one that cannot.
pub(super) struct Eased {
    pub(super) schema: Value,
    /// What the compiler does not know is to be skipped: see [`Grammar::LooseSchema`].
    pub(super) is_loose: bool,
    pub(super) left_out: Vec<String>,
}

/// Leaves out of a schema what keeps it from being compiled; `None` if nothing may be left out that would
/// help.
pub(super) fn ease(compiler: &GrammarCompiler, schema: &Value, is_strict: bool) -> Option<Eased> {
    let mut eased = Eased { schema: schema.clone(), is_loose: false, left_out: Vec::new() };
    for _ in 0..MAX_CHANGES {
        let text = match compiler.compile(&eased.grammar()) {
            Ok(_) => return Some(eased),
            Err(GrammarError::Unsupported(text)) => text,
            Err(_) => return None,
        };
        if let Some(format) = text.strip_prefix("Unknown format: ") {
            let format = format.trim();
            let is_it = |key: &str, value: &Value| key == "format" && value == format;
            if !remove(&mut eased.schema, &is_it) {
                return None;
            }
            eased.left_out.push(format!("format {format}"));
            continue;
        }
        if is_strict {
            return None;
        }
        let is_regex =
            ["regex", "look-around", "backreference"].iter().any(|word| text.contains(word));
        if is_regex && remove(&mut eased.schema, &|key, value| key == "pattern" && is_beyond(value))
        {
            eased.left_out.push("pattern".to_owned());
            continue;
        }
        if std::mem::replace(&mut eased.is_loose, true) {
            return None;
        }
        eased.left_out.push(text);
    }
    None
}

impl Eased {
    pub(super) fn grammar(&self) -> Grammar {
        let schema = self.schema.clone();
        if self.is_loose { Grammar::LooseSchema(schema) } else { Grammar::JsonSchema(schema) }
    }
}

/// Whether a pattern has what regular expressions without a memory cannot do.
fn is_beyond(pattern: &Value) -> bool {
    let beyond = ["(?=", "(?!", "(?<=", "(?<!", "\\1", "\\2", "\\k<"];
    pattern.as_str().is_some_and(|pattern| beyond.iter().any(|part| pattern.contains(part)))
}

/// Removes keywords, but not properties that have their names: whether there was one.
fn remove(schema: &mut Value, is_it: &dyn Fn(&str, &Value) -> bool) -> bool {
    match schema {
        Value::Array(items) => items.iter_mut().fold(false, |any, item| remove(item, is_it) | any),
        Value::Object(map) => {
            let before = map.len();
            map.retain(|key, value| !is_it(key, value));
            let mut any = map.len() < before;
            for (key, value) in map.iter_mut() {
                let named =
                    ["properties", "patternProperties", "$defs", "definitions", "dependentSchemas"];
                any |= match value {
                    // Values are not schemas.
                    _ if ["const", "enum", "default", "examples"].contains(&key.as_str()) => false,
                    Value::Object(schemas) if named.contains(&key.as_str()) => {
                        schemas.values_mut().fold(false, |any, schema| remove(schema, is_it) | any)
                    }
                    value => remove(value, is_it),
                };
            }
            any
        }
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn keywords_go_and_properties_stay() {
        let mut schema = json!({
            "properties": {"format": {"type": "string", "format": "path"}, "x": {"enum": [{"format": "path"}]}},
            "items": [{"format": "path"}, {"format": "date"}],
        });
        assert!(remove(&mut schema, &|key, value| key == "format" && value == "path"));
        let wanted = json!({
            "properties": {"format": {"type": "string"}, "x": {"enum": [{"format": "path"}]}},
            "items": [{}, {"format": "date"}],
        });
        assert_eq!(schema, wanted);
        assert!(!remove(&mut schema, &|key, _| key == "pattern"));
    }
}
