//! Calls that are JSON: objects with a name and arguments, alone, in a list, or one after another; or
//! a head with the name before the arguments.

use super::call::{Definitions, Malformed};
use super::sink::Sink;
use crate::chat::json_pieces::{JsonValue, as_object};

/// Longest name, head or key.
const HEAD_MAX: usize = 4096;

/// Reads objects with a name and arguments.
pub(super) struct Objects {
    /// The only key of an object is the name.
    by_name: bool,
    /// A name that is no tool's is no call.
    known_only: bool,
    state: State,
    /// Objects around the keys: the call's own, and one more where it has a `function`.
    depth: usize,
    name: Option<String>,
    arguments: Arguments,
}

enum State {
    /// Between calls.
    Between,
    Key,
    KeyText(JsonValue, String),
    Colon(String),
    Value(String),
    Name(JsonValue, String),
    Arguments(JsonValue),
    /// Arguments as a text that holds JSON.
    Quoted(JsonValue, String),
    /// A value that says nothing.
    Skip(JsonValue),
    SkipWord,
}

/// What of a call's arguments has come.
enum Arguments {
    None,
    /// Read before the name.
    Early(String),
    Sent,
}

impl Objects {
    pub(super) fn new(by_name: bool, known_only: bool) -> Self {
        Self {
            by_name,
            known_only,
            state: State::Between,
            depth: 0,
            name: None,
            arguments: Arguments::None,
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

    /// Whether what comes next is within a text.
    pub(super) fn in_text(&self) -> bool {
        match &self.state {
            State::KeyText(value, _)
            | State::Name(value, _)
            | State::Arguments(value)
            | State::Quoted(value, _)
            | State::Skip(value) => value.in_text(),
            _ => false,
        }
    }

    fn take(&mut self, c: char, tools: &Definitions, sink: &mut Sink) -> Result<(), Malformed> {
        let is_blank = c.is_ascii_whitespace();
        match &mut self.state {
            State::Between => match c {
                '{' => {
                    self.depth = 1;
                    self.state = State::Key;
                }
                '[' | ']' | ',' | ';' => {}
                _ if is_blank => {}
                _ => return Err(Malformed),
            },
            State::Key => match c {
                '"' => self.state = State::KeyText(opened()?, "\"".to_owned()),
                '}' => return self.close(tools, sink),
                ',' => {}
                _ if is_blank => {}
                _ => return Err(Malformed),
            },
            State::KeyText(value, text) => {
                let is_done = value.push(c)?;
                text.push(c);
                limit(text)?;
                if is_done {
                    let key: String = serde_json::from_str(text).map_err(|_| Malformed)?;
                    self.state = State::Colon(key);
                }
            }
            State::Colon(key) => match c {
                ':' => self.state = State::Value(std::mem::take(key)),
                _ if is_blank => {}
                _ => return Err(Malformed),
            },
            State::Value(_) if is_blank => {}
            State::Value(key) => {
                let key = std::mem::take(key);
                return self.value(&key, c, tools, sink);
            }
            State::Name(value, text) => {
                let is_done = value.push(c)?;
                text.push(c);
                limit(text)?;
                if is_done {
                    self.name = Some(serde_json::from_str(text).map_err(|_| Malformed)?);
                    self.state = State::Key;
                }
            }
            State::Arguments(value) => {
                let is_done = value.push(c)?;
                match &mut self.arguments {
                    Arguments::Early(text) => text.push(c),
                    _ => sink.arguments(c.encode_utf8(&mut [0; 4])),
                }
                if is_done {
                    self.state = State::Key;
                }
            }
            State::Quoted(value, text) => {
                let is_done = value.push(c)?;
                text.push(c);
                if is_done {
                    let text: String = serde_json::from_str(text).map_err(|_| Malformed)?;
                    self.arguments = Arguments::Early(as_object(&text).ok_or(Malformed)?);
                    self.state = State::Key;
                    self.start(tools, sink)?;
                }
            }
            State::Skip(value) => {
                if value.push(c)? {
                    self.state = State::Key;
                }
            }
            State::SkipWord => match c {
                ',' | '}' => {
                    self.state = State::Key;
                    return self.take(c, tools, sink);
                }
                c if is_blank || c.is_ascii_alphanumeric() || matches!(c, '+' | '-' | '.') => {}
                _ => return Err(Malformed),
            },
        }
        Ok(())
    }

    /// The first character of a key's value.
    fn value(
        &mut self,
        key: &str,
        c: char,
        tools: &Definitions,
        sink: &mut Sink,
    ) -> Result<(), Malformed> {
        if self.by_name {
            self.name = Some(key.to_owned());
        }
        let is_name = matches!(key, "name" | "tool_name" | "function");
        let is_arguments = self.by_name || matches!(key, "arguments" | "parameters");
        self.state = match c {
            '{' if key == "function" && !self.by_name => {
                self.depth += 1;
                State::Key
            }
            '{' if is_arguments && matches!(self.arguments, Arguments::None) => {
                let mut value = JsonValue::new();
                value.push(c)?;
                self.arguments = Arguments::Early("{".to_owned());
                self.state = State::Arguments(value);
                return self.start(tools, sink);
            }
            '"' if is_arguments => State::Quoted(opened()?, "\"".to_owned()),
            '"' if is_name => State::Name(opened()?, "\"".to_owned()),
            'n' if is_arguments => State::SkipWord,
            _ if is_arguments || is_name => return Err(Malformed),
            '{' | '[' | '"' => {
                let mut value = JsonValue::new();
                value.push(c)?;
                State::Skip(value)
            }
            _ => State::SkipWord,
        };
        Ok(())
    }

    /// Tells of the call as far as it is known, if its name is.
    fn start(&mut self, tools: &Definitions, sink: &mut Sink) -> Result<(), Malformed> {
        let Some(name) = &self.name else { return Ok(()) };
        let Arguments::Early(text) = std::mem::replace(&mut self.arguments, Arguments::Sent) else {
            return Ok(());
        };
        check_name(name, self.known_only.then_some(tools))?;
        sink.start(name);
        sink.arguments(&text);
        Ok(())
    }

    /// The end of an object.
    fn close(&mut self, tools: &Definitions, sink: &mut Sink) -> Result<(), Malformed> {
        self.depth -= 1;
        if self.depth > 0 {
            return Ok(());
        }
        if matches!(self.arguments, Arguments::None) {
            self.arguments = Arguments::Early("{}".to_owned());
        }
        self.start(tools, sink)?;
        if self.name.take().is_none() {
            return Err(Malformed);
        }
        sink.end();
        self.arguments = Arguments::None;
        self.state = State::Between;
        Ok(())
    }
}

/// A text whose opening quote has come.
fn opened() -> Result<JsonValue, Malformed> {
    let mut value = JsonValue::new();
    value.push('"')?;
    Ok(value)
}

fn limit(text: &str) -> Result<(), Malformed> {
    if text.len() > HEAD_MAX { Err(Malformed) } else { Ok(()) }
}

/// Names are no sentences; with `known`, they are those of tools.
pub(super) fn check_name(name: &str, known: Option<&Definitions>) -> Result<(), Malformed> {
    let is_name = !name.is_empty() && !name.contains(char::is_whitespace);
    if is_name && known.is_none_or(|tools| tools.has(name)) { Ok(()) } else { Err(Malformed) }
}

/// Reads a head with the name and the arguments behind it.
pub(super) struct Headed {
    name: fn(&str) -> Option<&str>,
    head: String,
    arguments: JsonValue,
    is_complete: bool,
}

impl Headed {
    pub(super) fn new(name: fn(&str) -> Option<&str>) -> Self {
        Self { name, head: String::new(), arguments: JsonValue::new(), is_complete: false }
    }

    pub(super) fn push(&mut self, text: &str, sink: &mut Sink) -> Result<(), Malformed> {
        for c in text.chars() {
            if self.is_complete {
                // A fence that ends, or blanks.
                continue;
            }
            if !sink.is_open() {
                if c != '{' {
                    self.head.push(c);
                    limit(&self.head)?;
                    continue;
                }
                self.start(sink)?;
            }
            let is_done = self.arguments.push(c)?;
            sink.arguments(c.encode_utf8(&mut [0; 4]));
            if is_done {
                self.is_complete = true;
                sink.end();
            }
        }
        Ok(())
    }

    pub(super) fn in_text(&self) -> bool {
        self.arguments.in_text()
    }

    /// The mark that ends the call has come.
    pub(super) fn close(&mut self, sink: &mut Sink) -> Result<(), Malformed> {
        if !self.is_complete && !sink.is_open() {
            self.start(sink)?;
            sink.arguments("{}");
        }
        Ok(())
    }

    fn start(&self, sink: &mut Sink) -> Result<(), Malformed> {
        let name = (self.name)(&self.head).ok_or(Malformed)?;
        check_name(name, None)?;
        sink.start(name);
        Ok(())
    }
}
