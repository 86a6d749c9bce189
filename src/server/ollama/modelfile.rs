//! Modelfiles: what a model is made of, as text.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// Instructions of one file.
const MAX_INSTRUCTIONS: usize = 1024;

/// What a model is to be made of.
#[derive(Debug, Default)]
pub(super) struct Making {
    pub(super) from: Option<String>,
    pub(super) system: Option<String>,
    pub(super) template: Option<String>,
    pub(super) parameters: Map<String, Value>,
}

/// Reads the text of a Modelfile over what a request says beside it.
///
/// # Errors
/// An instruction that is none, has no value, or cannot be followed, named with its line.
pub(super) fn read(text: &str, making: &mut Making) -> Result<()> {
    let mut rest = text;
    for _ in 0..MAX_INSTRUCTIONS {
        let Some((line, name, value, behind)) = next(text, rest)? else { return Ok(()) };
        rest = behind;
        match name.to_ascii_uppercase().as_str() {
            "FROM" => making.from = Some(value),
            "SYSTEM" => making.system = Some(value),
            "TEMPLATE" => making.template = Some(value),
            "PARAMETER" => parameter(&value, line, &mut making.parameters)?,
            // Texts for people.
            "LICENSE" | "REQUIRES" => {}
            "ADAPTER" => return Err(at(line, "ADAPTER: adapters are not loaded; merge them")),
            "MESSAGE" => return Err(at(line, "MESSAGE: send messages with requests")),
            other => {
                let shown: String = other.chars().take(32).collect();
                return Err(at(line, &format!("{shown:?} is no instruction")));
            }
        }
    }
    Err(Error::invalid("modelfile", format!("modelfile: over {MAX_INSTRUCTIONS} instructions")))
}

fn at(line: usize, problem: &str) -> Error {
    Error::invalid("modelfile", format!("modelfile: line {line}: {problem}"))
}

/// The next instruction: its line, its name, its value, and what comes behind it.
fn next<'a>(text: &str, rest: &'a str) -> Result<Option<(usize, &'a str, String, &'a str)>> {
    let mut rest = rest;
    loop {
        rest = rest.trim_start();
        if rest.is_empty() {
            return Ok(None);
        }
        if !rest.starts_with('#') {
            break;
        }
        rest = rest.split_once('\n').map_or("", |(_, behind)| behind);
    }
    let line = text[..text.len() - rest.len()].matches('\n').count() + 1;
    let (name, behind) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let behind = behind.trim_start_matches([' ', '\t']);
    // A parameter has a name before its value, which alone may be quoted.
    if name.eq_ignore_ascii_case("PARAMETER") {
        let (value, behind) = behind.split_once('\n').unwrap_or((behind, ""));
        return Ok(Some((line, name, value.trim().to_owned(), behind)));
    }
    let (value, behind) = value(behind).ok_or_else(|| at(line, "a quote is not closed"))?;
    if value.is_empty() {
        return Err(at(line, &format!("{name} has no value")));
    }
    Ok(Some((line, name, value, behind)))
}

/// A value up to its closing quotes, or to the end of the line.
fn value(text: &str) -> Option<(String, &str)> {
    if let Some(quoted) = text.strip_prefix("\"\"\"") {
        let (value, behind) = quoted.split_once("\"\"\"")?;
        return Some((value.to_owned(), behind));
    }
    let (line, behind) = text.split_once('\n').unwrap_or((text, ""));
    Some((unquoted(line.trim()).to_owned(), behind))
}

fn unquoted(text: &str) -> &str {
    text.strip_prefix('"').and_then(|text| text.strip_suffix('"')).unwrap_or(text)
}

/// `temperature 0.5`; a name may come again where its value is a list.
fn parameter(text: &str, line: usize, parameters: &mut Map<String, Value>) -> Result<()> {
    let (name, value) = text
        .split_once(char::is_whitespace)
        .ok_or_else(|| at(line, "PARAMETER has a name and a value"))?;
    let value = value.trim();
    if name == "stop" {
        let text = unquoted(value).replace("\\n", "\n");
        let all = parameters.entry("stop").or_insert_with(|| Value::Array(Vec::new()));
        if let Value::Array(all) = all {
            all.push(text.into());
        }
        return Ok(());
    }
    let value = serde_json::from_str(value).unwrap_or_else(|_| unquoted(value).into());
    parameters.insert(name.to_owned(), value);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn instructions_are_read_over_several_lines() {
        let text = "# a comment\nFROM smollm2:135m\nPARAMETER temperature 0.5\n\
                    parameter stop \"<|end|>\"\nPARAMETER stop you\nSYSTEM \"\"\"\nYou are\na cat.\n\"\"\"\n\
                    LICENSE \"mine\"\n";
        let mut making = Making::default();
        read(text, &mut making).unwrap();
        assert_eq!(making.from.as_deref(), Some("smollm2:135m"));
        assert_eq!(making.system.as_deref(), Some("\nYou are\na cat.\n"));
        let expected = serde_json::json!({"temperature": 0.5, "stop": ["<|end|>", "you"]});
        assert_eq!(Value::Object(making.parameters), expected);
    }

    #[test]
    fn mistakes_are_named_with_their_line() {
        for (text, problem) in [
            ("FROM a\nSYTEM b", "line 2: \"SYTEM\" is no instruction"),
            ("FROM a\n\nSYSTEM \"\"\"b", "line 3: a quote is not closed"),
            ("FROM\n", "line 1: FROM has no value"),
            ("FROM a\nPARAMETER temperature", "line 2: PARAMETER has a name and a value"),
            ("FROM a\nADAPTER b", "line 2: ADAPTER"),
        ] {
            let error = read(text, &mut Making::default()).unwrap_err();
            assert!(error.message.contains(problem), "{text:?}: {}", error.message);
        }
    }
}
