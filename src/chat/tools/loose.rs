//! Calls that look like code: `NAME(KEY=VALUE, …)` with literals of Python, and Gemma's
//! `call:NAME{KEY:VALUE,…}`. Arguments are sent one by one, as JSON.

use serde_json::{Map, Number, Value};

use super::call::{Definitions, Malformed};
use super::marks::Loose;
use super::objects::check_name;
use super::sink::Sink;
use crate::chat::json_pieces::escaped;

/// Longest name or key.
const HEAD_MAX: usize = 4096;
/// Deepest nesting of an argument.
const DEPTH_MAX: usize = 64;
/// What Gemma puts around texts.
const GEMMA_QUOTE: &str = "<|\"|>";

pub(super) struct LooseReader {
    notation: Loose,
    known_only: bool,
    state: State,
    text: String,
    num_arguments: usize,
    extent: Extent,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum State {
    Between,
    Name,
    Key,
    Value { key: String },
}

/// Finds the end of a value.
#[derive(Debug, Default)]
struct Extent {
    /// The quotation mark that ends the text.
    quote: Option<&'static str>,
    is_escaped: bool,
    depth: usize,
}

impl LooseReader {
    pub(super) fn new(notation: Loose, known_only: bool) -> Self {
        Self {
            notation,
            known_only,
            state: State::Between,
            text: String::new(),
            num_arguments: 0,
            extent: Extent::default(),
        }
    }

    pub(super) fn push(
        &mut self,
        text: &str,
        tools: &Definitions,
        sink: &mut Sink,
    ) -> Result<(), Malformed> {
        text.chars().try_for_each(|c| self.take(c, tools, sink))
    }

    pub(super) fn in_text(&self) -> bool {
        self.extent.quote.is_some()
    }

    /// The answer breaks off: sends what came of a text.
    pub(super) fn cut(&self, sink: &mut Sink) {
        let State::Value { key } = &self.state else { return };
        let Some(quote) = self.extent.quote.filter(|_| self.extent.depth == 0) else { return };
        let text = self.text.trim_start().strip_prefix(quote).unwrap_or_default();
        // An escape that is cut, or part of the mark at the end, is no character.
        let ends =
            (0..=10).filter_map(|n| text.len().checked_sub(n)).filter_map(|end| text.get(..end));
        let read = |text| match Literal::value(&format!("{quote}{text}{quote}")) {
            Ok(Value::String(text)) => Some(text),
            _ => None,
        };
        let Some(text) = ends.into_iter().find_map(read) else { return };
        let separator = if self.num_arguments == 0 { "{" } else { ", " };
        sink.arguments(&format!("{separator}\"{}\": \"{}", escaped(key), escaped(&text)));
    }

    fn take(&mut self, c: char, tools: &Definitions, sink: &mut Sink) -> Result<(), Malformed> {
        let (open, close, equals) = match self.notation {
            Loose::Python => ('(', ')', '='),
            Loose::Gemma => ('{', '}', ':'),
        };
        match &self.state {
            State::Between => {
                if !matches!(c, '[' | ']' | ',' | ';') && !c.is_whitespace() {
                    self.text.push(c);
                    self.state = State::Name;
                }
            }
            State::Name if c == open => {
                let text = std::mem::take(&mut self.text);
                let name = text.strip_prefix("call:").unwrap_or(&text).trim();
                check_name(name, self.known_only.then_some(tools))?;
                sink.start(name);
                self.num_arguments = 0;
                self.state = State::Key;
            }
            State::Name => {
                let fits = c.is_alphanumeric() || matches!(c, '_' | '-' | '.' | ':');
                if !fits || self.text.len() > HEAD_MAX {
                    return Err(Malformed);
                }
                self.text.push(c);
            }
            State::Key if c == close => {
                if !self.text.trim().is_empty() {
                    return Err(Malformed);
                }
                self.end(sink);
            }
            State::Key if c == equals => {
                let key = std::mem::take(&mut self.text);
                let key = key.trim().trim_matches(['"', '\'']).to_owned();
                check_name(&key, None)?;
                self.state = State::Value { key };
            }
            State::Key => {
                if c != ',' && !(c.is_whitespace() && self.text.is_empty()) {
                    self.text.push(c);
                }
                if self.text.len() > HEAD_MAX {
                    return Err(Malformed);
                }
            }
            State::Value { key } => {
                if self.extent.is_outside() && (c == ',' || c == close) {
                    let value = Literal::value(&self.text)?;
                    let separator = if self.num_arguments == 0 { "{" } else { ", " };
                    sink.arguments(&format!("{separator}\"{}\": {value}", escaped(key)));
                    self.num_arguments += 1;
                    self.text.clear();
                    self.state = State::Key;
                    if c == close {
                        self.end(sink);
                    }
                    return Ok(());
                }
                self.text.push(c);
                self.extent.push(c, &self.text)?;
            }
        }
        Ok(())
    }

    fn end(&mut self, sink: &mut Sink) {
        self.text.clear();
        sink.arguments(if self.num_arguments == 0 { "{}" } else { "}" });
        sink.end();
        self.state = State::Between;
    }
}

impl Extent {
    fn is_outside(&self) -> bool {
        self.quote.is_none() && self.depth == 0
    }

    /// Takes a character; `text` is the value so far, with it.
    fn push(&mut self, c: char, text: &str) -> Result<(), Malformed> {
        if std::mem::take(&mut self.is_escaped) {
            return Ok(());
        }
        match (self.quote, c) {
            (Some(GEMMA_QUOTE), _) => {
                if text.ends_with(GEMMA_QUOTE) {
                    self.quote = None;
                }
            }
            (Some(_), '\\') => self.is_escaped = true,
            (Some(quote), c) if quote.starts_with(c) => self.quote = None,
            (Some(_), _) => {}
            (None, '"') if text.ends_with("<|\"") => {}
            (None, '>') if text.ends_with(GEMMA_QUOTE) => self.quote = Some(GEMMA_QUOTE),
            (None, '"') => self.quote = Some("\""),
            (None, '\'') => self.quote = Some("'"),
            (None, '[' | '{' | '(') => self.depth += 1,
            (None, ']' | '}' | ')') => self.depth = self.depth.checked_sub(1).ok_or(Malformed)?,
            (None, _) => {}
        }
        if self.depth > DEPTH_MAX { Err(Malformed) } else { Ok(()) }
    }
}

/// Reads a complete literal.
struct Literal<'a> {
    rest: &'a str,
}

impl<'a> Literal<'a> {
    fn value(text: &'a str) -> Result<Value, Malformed> {
        let mut literal = Self { rest: text.trim() };
        let value = literal.next(0)?;
        if literal.rest.trim().is_empty() { Ok(value) } else { Err(Malformed) }
    }

    fn next(&mut self, depth: usize) -> Result<Value, Malformed> {
        if depth > DEPTH_MAX {
            return Err(Malformed);
        }
        self.rest = self.rest.trim_start();
        match self.rest.chars().next() {
            Some('[') => self.list(depth, ']'),
            Some('(') => self.list(depth, ')'),
            Some('{') => self.object(depth),
            Some('"' | '\'') => self.text().map(Value::String),
            _ if self.rest.starts_with(GEMMA_QUOTE) => self.text().map(Value::String),
            _ => self.word(),
        }
    }

    fn eat(&mut self, text: &str) -> bool {
        self.rest = self.rest.trim_start();
        let rest = self.rest.strip_prefix(text);
        self.rest = rest.unwrap_or(self.rest);
        rest.is_some()
    }

    fn list(&mut self, depth: usize, close: char) -> Result<Value, Malformed> {
        self.rest = &self.rest[1..];
        let mut items = Vec::new();
        loop {
            if self.eat(close.encode_utf8(&mut [0; 4])) {
                return Ok(Value::Array(items));
            }
            items.push(self.next(depth + 1)?);
            if !self.eat(",") && !self.rest.starts_with(close) {
                return Err(Malformed);
            }
        }
    }

    fn object(&mut self, depth: usize) -> Result<Value, Malformed> {
        self.rest = &self.rest[1..];
        let mut map = Map::new();
        loop {
            if self.eat("}") {
                return Ok(Value::Object(map));
            }
            let key = if self.rest.starts_with(['"', '\'']) || self.rest.starts_with(GEMMA_QUOTE) {
                self.text()?
            } else {
                let end = self.rest.find(':').ok_or(Malformed)?;
                let (key, rest) = self.rest.split_at(end);
                self.rest = rest;
                key.trim().to_owned()
            };
            if !self.eat(":") {
                return Err(Malformed);
            }
            map.insert(key, self.next(depth + 1)?);
            if !self.eat(",") && !self.rest.starts_with('}') {
                return Err(Malformed);
            }
        }
    }

    fn text(&mut self) -> Result<String, Malformed> {
        if let Some(rest) = self.rest.strip_prefix(GEMMA_QUOTE) {
            let (text, rest) = rest.split_once(GEMMA_QUOTE).ok_or(Malformed)?;
            self.rest = rest;
            return Ok(text.to_owned());
        }
        let mut chars = self.rest.chars();
        let quote = chars.next().ok_or(Malformed)?;
        let mut text = String::new();
        loop {
            match chars.next().ok_or(Malformed)? {
                '\\' => escape(&mut chars, &mut text)?,
                c if c == quote => break,
                c => text.push(c),
            }
        }
        self.rest = chars.as_str();
        Ok(text)
    }

    fn word(&mut self) -> Result<Value, Malformed> {
        let end = self.rest.find([',', ']', '}', ')', ':', ' ', '\n']).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        Ok(match word {
            "True" | "true" => Value::Bool(true),
            "False" | "false" => Value::Bool(false),
            "None" | "null" => Value::Null,
            // As it stands in JSON, or else as Python may write it.
            _ => match word.parse::<Number>() {
                Ok(number) => Value::Number(number),
                Err(_) => {
                    let number = word.parse::<f64>().ok().and_then(Number::from_f64);
                    Value::Number(number.ok_or(Malformed)?)
                }
            },
        })
    }
}

/// Takes what stands behind a backslash; unknown escapes stand for themselves, as in Python.
fn escape(chars: &mut std::str::Chars<'_>, text: &mut String) -> Result<(), Malformed> {
    let c = chars.next().ok_or(Malformed)?;
    let hex_len = match c {
        'x' => 2,
        'u' => 4,
        'U' => 8,
        _ => 0,
    };
    let c = match c {
        'n' => '\n',
        't' => '\t',
        'r' => '\r',
        '\\' | '\'' | '"' => c,
        _ if hex_len > 0 => {
            let digits: String = chars.by_ref().take(hex_len).collect();
            let code = u32::from_str_radix(&digits, 16).map_err(|_| Malformed)?;
            char::from_u32(code).unwrap_or(char::REPLACEMENT_CHARACTER)
        }
        c => {
            text.push('\\');
            c
        }
    };
    text.push(c);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn literals_are_read() {
        for (text, value) in [
            ("'it\\'s \\u00e9'", json!("it's é")),
            ("\"a\\d\"", json!("a\\d")),
            ("[1, -2.5, True, None,]", json!([1, -2.5, true, null])),
            ("{'a': {\"b\": ()}}", json!({"a": {"b": []}})),
            ("{a:<|\"|>x, y<|\"|>,b:[1]}", json!({"a": "x, y", "b": [1]})),
            (".5", json!(0.5)),
        ] {
            assert_eq!(Literal::value(text), Ok(value), "{text}");
        }
        for text in ["", "f(x)", "'a", "{1", "[1 2]", "inf", "{a:1]}"] {
            assert_eq!(Literal::value(text), Err(Malformed), "{text}");
        }
        let deep = "[".repeat(100) + &"]".repeat(100);
        assert_eq!(Literal::value(&deep), Err(Malformed));
    }
}
