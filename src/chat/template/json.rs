//! `tojson` and `from_json` as Python's `json` module writes and reads.

use std::fmt::Write;

use minijinja::value::{Kwargs, Serde, Value, ValueKind};
use minijinja::{Error, ErrorKind};

use super::protect;
use super::written::Written;

/// Deepest nesting that is written; Python gives up a little later.
const MAX_DEPTH: usize = 200;

/// How Python was asked to write.
struct Style {
    ascii: bool,
    indent: Option<String>,
    item_separator: String,
    key_separator: String,
    sort_keys: bool,
}

/// `json.dumps(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False)`.
pub(super) fn to_json(
    value: &Value,
    ascii: Option<bool>,
    options: Kwargs,
) -> Result<String, Error> {
    let ascii = match ascii {
        Some(ascii) => Some(ascii),
        None => options.get("ensure_ascii")?,
    };
    let indent = match options.get::<Option<Value>>("indent")? {
        Some(indent) if indent.as_str().is_some() => indent.as_str().map(str::to_owned),
        Some(indent) if !indent.is_none() => Some(" ".repeat(indent_width(&indent)?)),
        _ => None,
    };
    let separators: Option<Vec<String>> = match options.get::<Option<Value>>("separators")? {
        Some(pair) if !pair.is_none() => Some(pair.try_iter()?.map(|s| s.to_string()).collect()),
        _ => None,
    };
    let (item_separator, key_separator) = match separators.as_deref() {
        Some([item, key]) => (item.clone(), key.clone()),
        Some(_) => return Err(invalid("separators must be a pair")),
        None if indent.is_some() => (",".to_owned(), ": ".to_owned()),
        None => (", ".to_owned(), ": ".to_owned()),
    };
    let style = Style {
        ascii: ascii.unwrap_or(false),
        indent,
        item_separator,
        key_separator,
        sort_keys: options.get::<Option<bool>>("sort_keys")?.unwrap_or(false),
    };
    options.assert_all_used()?;
    let mut out = String::new();
    write_value(&mut out, value, &style, 0)?;
    Ok(out)
}

/// `json.dumps(value, ensure_ascii=False)`.
pub(super) fn dumps(value: &serde_json::Value) -> String {
    let style = Style {
        ascii: false,
        indent: None,
        item_separator: ", ".to_owned(),
        key_separator: ": ".to_owned(),
        sort_keys: false,
    };
    let mut out = String::new();
    match write_value(&mut out, &Value::from(Serde(value)), &style, 0) {
        Ok(()) => out,
        // It nests deeper than Python writes.
        Err(_) => value.to_string(),
    }
}

fn indent_width(indent: &Value) -> Result<usize, Error> {
    match usize::try_from(indent.clone()) {
        Ok(width) if width <= 64 => Ok(width),
        _ => Err(invalid("indent must be a number up to 64")),
    }
}

impl Style {
    /// `json.dumps(value)`.
    fn is_default(&self) -> bool {
        let separators = (self.item_separator.as_str(), self.key_separator.as_str());
        !self.ascii && !self.sort_keys && self.indent.is_none() && separators == (", ", ": ")
    }
}

/// `json.loads(text)`.
pub(super) fn from_json(text: &str) -> Result<Value, Error> {
    let value: serde_json::Value =
        serde_json::from_str(text).map_err(|e| invalid(format!("not JSON: {e}")))?;
    Ok(Value::from(Serde(&value)))
}

fn invalid(message: impl Into<String>) -> Error {
    Error::new(ErrorKind::InvalidOperation, message.into())
}

fn write_value(out: &mut String, value: &Value, style: &Style, depth: usize) -> Result<(), Error> {
    if depth > MAX_DEPTH {
        return Err(invalid(format!("more than {MAX_DEPTH} levels cannot be written as JSON")));
    }
    if let Some(text) = Written::text(value).filter(|_| style.is_default()) {
        out.push_str(text);
        return Ok(());
    }
    match value.kind() {
        ValueKind::None => out.push_str("null"),
        ValueKind::Bool => out.push_str(if value.is_true() { "true" } else { "false" }),
        ValueKind::Number => write_number(out, value),
        ValueKind::String => {
            write_string(out, value.as_str().unwrap_or_default(), style.ascii);
        }
        ValueKind::Seq | ValueKind::Iterable => {
            let mut items = value.try_iter()?;
            write_items(out, ('[', ']'), style, depth, |out| match items.next() {
                Some(item) => write_value(out, &item, style, depth + 1).map(|()| true),
                None => Ok(false),
            })?;
        }
        ValueKind::Map => {
            let mut entries = Vec::new();
            for key in value.try_iter()? {
                let item = value.get_item(&key)?;
                entries.push((key_text(&key)?, item));
            }
            if style.sort_keys {
                entries.sort_by(|a, b| a.0.cmp(&b.0));
            }
            let mut entries = entries.into_iter();
            write_items(out, ('{', '}'), style, depth, |out| {
                let Some((key, item)) = entries.next() else { return Ok(false) };
                write_string(out, &key, style.ascii);
                out.push_str(&style.key_separator);
                write_value(out, &item, style, depth + 1).map(|()| true)
            })?;
        }
        kind => return Err(invalid(format!("{kind} cannot be written as JSON"))),
    }
    Ok(())
}

/// Writes brackets around what `next` writes, which returns whether there was another item.
fn write_items(
    out: &mut String,
    (open, close): (char, char),
    style: &Style,
    depth: usize,
    mut next: impl FnMut(&mut String) -> Result<bool, Error>,
) -> Result<(), Error> {
    let new_line = |out: &mut String, depth: usize| {
        if let Some(indent) = &style.indent {
            out.push('\n');
            (0..depth).for_each(|_| out.push_str(indent));
        }
    };
    out.push(open);
    let mut count = 0;
    loop {
        let before = out.len();
        if count > 0 {
            out.push_str(&style.item_separator);
        }
        new_line(out, depth + 1);
        if !next(out)? {
            out.truncate(before);
            break;
        }
        count += 1;
    }
    if count > 0 {
        new_line(out, depth);
    }
    out.push(close);
    Ok(())
}

/// Keys that are not strings are written as Python does.
fn key_text(key: &Value) -> Result<String, Error> {
    match key.kind() {
        ValueKind::String => Ok(key.as_str().unwrap_or_default().to_owned()),
        ValueKind::Number | ValueKind::Bool | ValueKind::None => {
            let mut text = String::new();
            match key.kind() {
                ValueKind::Number => write_number(&mut text, key),
                ValueKind::None => text.push_str("null"),
                _ => text.push_str(if key.is_true() { "true" } else { "false" }),
            }
            Ok(text)
        }
        kind => Err(invalid(format!("{kind} cannot be a JSON key"))),
    }
}

fn write_number(out: &mut String, value: &Value) {
    if value.is_integer() {
        out.push_str(&value.to_string());
        return;
    }
    match f64::try_from(value.clone()) {
        Ok(number) => out.push_str(&python_float(number)),
        Err(_) => out.push_str(&value.to_string()),
    }
}

/// `repr` of a float: the shortest digits, with an exponent from 1e16 up and below 1e-4.
fn python_float(number: f64) -> String {
    if number.is_nan() {
        return "NaN".to_owned();
    }
    if number.is_infinite() {
        return if number > 0.0 { "Infinity" } else { "-Infinity" }.to_owned();
    }
    let size = number.abs();
    if size == 0.0 || (1e-4..1e16).contains(&size) {
        return format!("{number:?}");
    }
    let text = format!("{number:e}");
    match text.split_once('e') {
        Some((digits, exponent)) => {
            let (sign, exponent) = match exponent.strip_prefix('-') {
                Some(exponent) => ('-', exponent),
                None => ('+', exponent),
            };
            format!("{digits}e{sign}{exponent:0>2}")
        }
        None => text,
    }
}

fn write_string(out: &mut String, text: &str, ascii: bool) {
    out.push('"');
    for c in text.chars() {
        match c {
            '"' => out.push_str("\\\""),
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            c if c < ' ' => push_escape(out, c as u16),
            c if ascii && !c.is_ascii() && !protect::is_sign(c) => {
                c.encode_utf16(&mut [0; 2]).iter().for_each(|&unit| push_escape(out, unit));
            }
            c => out.push(c),
        }
    }
    out.push('"');
}

fn push_escape(out: &mut String, unit: u16) {
    // Writing to a string cannot fail.
    let _ = write!(out, "\\u{unit:04x}");
}

#[cfg(test)]
mod tests {
    use super::*;

    fn render(expression: &str) -> String {
        let mut env = minijinja::Environment::new();
        env.add_filter("tojson", to_json);
        env.add_filter("from_json", from_json);
        env.render_str(expression, ()).unwrap_or_else(|e| e.to_string())
    }

    #[test]
    fn json_is_written_as_python_writes_it() {
        let cases = [
            (
                "{{ {'a': [1, 2.0, none, true], 'b': {}}|tojson }}",
                r#"{"a": [1, 2.0, null, true], "b": {}}"#,
            ),
            ("{{ '<&>\\'é🦙\\n'|tojson }}", "\"<&>'é🦙\\n\""),
            ("{{ 'é🦙'|tojson(ensure_ascii=true) }}", r#""\u00e9\ud83e\udd99""#),
            (
                "{{ {'b': 1, 'a': []}|tojson(sort_keys=true, indent=2) }}",
                "{\n  \"a\": [],\n  \"b\": 1\n}",
            ),
            ("{{ [1, {'a': 2}]|tojson(separators=(',', ':')) }}", r#"[1,{"a":2}]"#),
            ("{{ [1, 2]|tojson(indent=none) }}", "[1, 2]"),
            ("{{ [1e16, 1e-5, 123456.75, -0.0]|tojson }}", "[1e+16, 1e-05, 123456.75, -0.0]"),
            ("{{ ('{\"a\": 1}'|from_json).a }}", "1"),
        ];
        for (expression, expected) in cases {
            assert_eq!(render(expression), expected, "{expression}");
        }
        assert!(render("{{ missing|tojson }}").contains("cannot be written"));
        assert!(render("{{ 1|tojson(colour=2) }}").contains("colour"));
    }
}
