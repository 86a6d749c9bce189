//! Tool calls that models write in their own ways, read as calls.
//!
//! A call is reported when it is complete: its arguments are only then known to be JSON. What looks
//! like a call but cannot be read as one stays text, so nothing is lost.

use std::hash::{BuildHasher, RandomState};

use serde_json::{Map, Value};

use super::scanner::{Piece, Scanner};

/// How a model writes tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ToolFormat {
    /// `<tool_call>{"name": …, "arguments": {…}}</tool_call>`: Hermes, Qwen; asked of models whose
    /// template has no form of its own.
    Hermes,
    /// `<tool_call><function=NAME><parameter=KEY>VALUE</parameter></function></tool_call>`.
    QwenXml,
    /// `<tool_call>NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value></tool_call>`.
    Glm,
    /// `[TOOL_CALLS][{"name": …, "arguments": {…}}]` or `[TOOL_CALLS]NAME[ARGS]{…}`.
    Mistral,
    /// `{"name": …, "parameters": {…}}` as the whole answer, perhaps after `<|python_tag|>`.
    Llama,
    /// `<function=NAME>{…}</function>`.
    Functionary,
    /// `<｜tool▁call▁begin｜>…NAME…{…}<｜tool▁call▁end｜>`.
    DeepSeek,
    /// `<|tool_call_begin|>functions.NAME:0<|tool_call_argument_begin|>{…}<|tool_call_end|>`.
    Kimi,
    /// `<|channel|>commentary to=functions.NAME <|constrain|>json<|message|>{…}`.
    Harmony,
}

/// What tells a format in a template, the most telling first.
const DETECTED_BY: &[(&str, ToolFormat)] = &[
    ("<|channel|>", ToolFormat::Harmony),
    ("<｜tool▁call▁begin｜>", ToolFormat::DeepSeek),
    ("<|tool_call_begin|>", ToolFormat::Kimi),
    ("[TOOL_CALLS]", ToolFormat::Mistral),
    ("<arg_key>", ToolFormat::Glm),
    ("<parameter=", ToolFormat::QwenXml),
    ("<tool_call>", ToolFormat::Hermes),
    ("<function=", ToolFormat::Functionary),
    ("\"parameters\": ", ToolFormat::Llama),
    ("<|python_tag|>", ToolFormat::Llama),
];

/// A call that is complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToolCall {
    /// Position among the calls of the answer.
    pub index: u32,
    /// Made by us, unique; in the form that the model's template accepts.
    pub id: String,
    pub name: String,
    /// JSON text of an object.
    pub arguments: String,
}

/// A stretch of a model's answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnswerPart {
    Text(String),
    Call(ToolCall),
}

impl ToolFormat {
    /// The format that a chat template teaches, Hermes if it teaches none.
    pub fn detect(template: &str) -> Self {
        let known = DETECTED_BY.iter().find(|(mark, _)| template.contains(mark));
        known.map_or(Self::Hermes, |&(_, format)| format)
    }

    /// Texts that open a call, and the text that closes it; an empty one is the end of the answer.
    fn markers(self) -> (&'static [&'static str], &'static str) {
        match self {
            Self::Hermes | Self::QwenXml | Self::Glm => (&["<tool_call>"], "</tool_call>"),
            Self::Mistral => (&["[TOOL_CALLS]"], ""),
            Self::Llama => (&["<|python_tag|>"], ""),
            Self::Functionary => (&["<function="], "</function>"),
            Self::DeepSeek => (&["<｜tool▁call▁begin｜>"], "<｜tool▁call▁end｜>"),
            Self::Kimi => (&["<|tool_call_begin|>"], "<|tool_call_end|>"),
            Self::Harmony => {
                (&["<|channel|>commentary to=functions.", " to=functions."], "<|call|>")
            }
        }
    }

    /// Texts around calls that are no part of the answer.
    fn noise(self) -> &'static [&'static str] {
        match self {
            Self::DeepSeek => &["<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>"],
            Self::Kimi => &["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>"],
            _ => &[],
        }
    }

    /// All texts that a tokenizer must show for calls to be seen.
    pub fn shown(self) -> Vec<&'static str> {
        let (open, close) = self.markers();
        let inner: &[&str] = match self {
            Self::Mistral => &["[ARGS]", "[CALL_ID]", "[TOOL_CONTENT]"],
            Self::DeepSeek => &["<｜tool▁sep｜>"],
            Self::Kimi => &["<|tool_call_argument_begin|>"],
            Self::Harmony => &["<|channel|>", "<|message|>", "<|constrain|>", "<|start|>"],
            Self::Glm => &["<arg_key>", "</arg_key>", "<arg_value>", "</arg_value>"],
            _ => &[],
        };
        [open, inner, self.noise(), &[close]].concat()
    }
}

/// Reads an answer for calls.
pub struct ToolParser {
    format: ToolFormat,
    /// Definitions, which tell the types of arguments that are written without quotes.
    tools: Value,
    scanner: Scanner,
    /// The text of the call that is being written, with the marker that opened it.
    open: Option<(&'static str, String)>,
    num_calls: u32,
    /// Only white space has come; what follows may be a call without a marker.
    at_start: bool,
}

impl ToolParser {
    /// `tools` is the array of definitions of the request.
    pub fn new(format: ToolFormat, tools: Value) -> Self {
        let (open, close) = format.markers();
        let mut markers = open.to_vec();
        markers.extend(format.noise());
        // Last, so that its index is known.
        markers.extend((!close.is_empty()).then_some(close));
        let scanner = Scanner::new(markers);
        Self { format, tools, scanner, open: None, num_calls: 0, at_start: true }
    }

    pub fn push(&mut self, text: &str) -> Vec<AnswerPart> {
        let mut parts = Vec::new();
        for piece in self.scanner.push(text) {
            match piece {
                Piece::Text(text) => self.text(text, &mut parts),
                Piece::Marker(marker) => self.marker(marker, &mut parts),
            }
        }
        parts
    }

    /// The rest, when no more text comes.
    pub fn flush(&mut self) -> Vec<AnswerPart> {
        let mut parts = Vec::new();
        let rest = self.scanner.flush();
        self.text(rest, &mut parts);
        self.close("", &mut parts);
        parts
    }

    /// Whether the answer held a call.
    pub fn has_calls(&self) -> bool {
        self.num_calls > 0
    }

    fn text(&mut self, text: String, parts: &mut Vec<AnswerPart>) {
        if let Some((_, body)) = &mut self.open {
            body.push_str(&text);
            return;
        }
        let starts = text.trim_start();
        if self.at_start && self.format == ToolFormat::Llama && starts.starts_with('{') {
            self.open = Some(("", text));
            return;
        }
        // White space between calls says nothing.
        if starts.is_empty() && self.num_calls > 0 {
            return;
        }
        self.at_start &= starts.is_empty();
        if !text.is_empty() {
            parts.push(AnswerPart::Text(text));
        }
    }

    fn marker(&mut self, marker: usize, parts: &mut Vec<AnswerPart>) {
        let (open, close) = self.format.markers();
        if let Some(&open) = open.get(marker) {
            // Mistral opens each call again.
            self.close("", parts);
            self.open = Some((open, String::new()));
        } else if marker == open.len() + self.format.noise().len() {
            self.close(close, parts);
        }
    }

    fn close(&mut self, marker: &str, parts: &mut Vec<AnswerPart>) {
        let Some((open, body)) = self.open.take() else { return };
        let calls = self.read(&body);
        self.at_start = false;
        if calls.is_empty() {
            parts.push(AnswerPart::Text(format!("{open}{body}{marker}")));
        }
        for (name, arguments) in calls {
            let (index, id) = (self.num_calls, new_id(self.format, self.num_calls));
            self.num_calls += 1;
            parts.push(AnswerPart::Call(ToolCall { index, id, name, arguments }));
        }
    }

    /// Names and arguments of the calls in the body; none if it cannot be read.
    fn read(&self, body: &str) -> Vec<(String, String)> {
        let body = body.trim();
        let one = |call: Option<(String, String)>| Vec::from_iter(call);
        match self.format {
            ToolFormat::Hermes if body.starts_with("<function=") => one(self.read_xml(body)),
            ToolFormat::QwenXml | ToolFormat::Glm if body.starts_with('{') => read_json(body),
            ToolFormat::Hermes | ToolFormat::Llama => read_json(body),
            ToolFormat::QwenXml => one(self.read_xml(body)),
            ToolFormat::Glm => one(self.read_pairs(body)),
            ToolFormat::Mistral if body.starts_with(['[', '{']) => read_json(body),
            ToolFormat::Mistral => one(read_mistral(body)),
            ToolFormat::Functionary => one(read_split(body, ">")),
            ToolFormat::DeepSeek => one(read_deepseek(body)),
            ToolFormat::Kimi => one(read_split(body, "<|tool_call_argument_begin|>")),
            ToolFormat::Harmony => one(read_split(body, "<|message|>")),
        }
    }

    /// `<function=NAME><parameter=KEY>VALUE</parameter>…</function>`
    fn read_xml(&self, body: &str) -> Option<(String, String)> {
        let (name, mut rest) = body.strip_prefix("<function=")?.split_once('>')?;
        let mut arguments = Map::new();
        while let Some((_, after)) = rest.split_once("<parameter=") {
            let (key, after) = after.split_once('>')?;
            let (value, after) = after.split_once("</parameter>")?;
            let value = value.strip_prefix('\n').unwrap_or(value);
            let value = value.strip_suffix('\n').unwrap_or(value);
            arguments.insert(key.to_owned(), self.typed(name, key, value));
            rest = after;
        }
        Some((name.trim().to_owned(), Value::Object(arguments).to_string()))
    }

    /// `NAME<arg_key>KEY</arg_key><arg_value>VALUE</arg_value>…`
    fn read_pairs(&self, body: &str) -> Option<(String, String)> {
        let name = body.split("<arg_key>").next()?.trim();
        let mut rest = &body[name.len()..];
        let mut arguments = Map::new();
        while let Some((_, after)) = rest.split_once("<arg_key>") {
            let (key, after) = after.split_once("</arg_key>")?;
            let (_, after) = after.split_once("<arg_value>")?;
            let (value, after) = after.split_once("</arg_value>")?;
            arguments.insert(key.to_owned(), self.typed(name, key, value));
            rest = after;
        }
        let call = (name.to_owned(), Value::Object(arguments).to_string());
        (!name.is_empty() && !name.contains(char::is_whitespace)).then_some(call)
    }

    /// A value written without quotes: text where the schema says so, else JSON if it is JSON.
    fn typed(&self, name: &str, key: &str, text: &str) -> Value {
        let function = |tool: &Value| tool.get("function").cloned().unwrap_or_else(|| tool.clone());
        let tools = self.tools.as_array().map(Vec::as_slice).unwrap_or_default();
        let tool = tools.iter().map(function).find(|f| f.get("name").is_some_and(|n| n == name));
        let schema = tool.and_then(|f| f.pointer("/parameters/properties")?.get(key).cloned());
        let is_text = schema.is_some_and(|s| s.get("type").is_some_and(|t| t == "string"));
        match serde_json::from_str(text) {
            Ok(value) if !is_text => value,
            _ => Value::String(text.to_owned()),
        }
    }
}

/// One or several objects with a name and arguments: alone, in a list, or one after another with
/// white space or `;` between.
fn read_json(body: &str) -> Vec<(String, String)> {
    let mut calls = Vec::new();
    let mut rest = body;
    while !rest.is_empty() {
        let mut values = serde_json::Deserializer::from_str(rest).into_iter::<Value>();
        let Some(Ok(value)) = values.next() else { return Vec::new() };
        rest = rest[values.byte_offset()..].trim_start_matches([';', '\n', ' ', '\r', '\t']);
        let objects = match value {
            Value::Array(objects) => objects,
            object => vec![object],
        };
        for object in &objects {
            let Some(call) = json_call(object) else { return Vec::new() };
            calls.push(call);
        }
    }
    calls
}

fn json_call(object: &Value) -> Option<(String, String)> {
    let object = object.get("function").filter(|f| f.is_object()).unwrap_or(object);
    let name = object.get("name")?.as_str()?.to_owned();
    let arguments = object.get("arguments").or_else(|| object.get("parameters"));
    let arguments = match arguments {
        None | Some(Value::Null) => "{}".to_owned(),
        Some(Value::String(text)) => as_object(text)?,
        Some(object @ Value::Object(_)) => object.to_string(),
        Some(_) => return None,
    };
    Some((name, arguments))
}

/// The text if it is a JSON object.
fn as_object(text: &str) -> Option<String> {
    let text = text.trim();
    let text = if text.is_empty() { "{}" } else { text };
    let value: Value = serde_json::from_str(text).ok()?;
    value.is_object().then(|| text.to_owned())
}

/// `NAME[ARGS]{…}`, perhaps with `[CALL_ID]…` between.
fn read_mistral(body: &str) -> Option<(String, String)> {
    let (head, arguments) = match body.split_once("[ARGS]") {
        Some(parts) => parts,
        None => body.split_at(body.find('{')?),
    };
    let name = head.split("[CALL_ID]").next()?.trim();
    named(name, as_object(arguments)?)
}

/// A name, a separator, arguments. Prefixes and positions around the name are dropped, as in
/// `functions.NAME:0` and `NAME <|constrain|>json`.
fn read_split(body: &str, separator: &str) -> Option<(String, String)> {
    let (head, arguments) = body.split_once(separator)?;
    let head = head.split(['<', ' ']).next()?.trim();
    let head = head.strip_prefix("functions.").unwrap_or(head);
    named(head.split(':').next()?, as_object(arguments)?)
}

/// `NAME<｜tool▁sep｜>{…}`, or the older form with a word before and a fence around.
fn read_deepseek(body: &str) -> Option<(String, String)> {
    let (head, rest) = body.split_once("<｜tool▁sep｜>")?;
    let Some((name, fenced)) = rest.split_once("```json") else {
        return named(head.trim(), as_object(rest)?);
    };
    named(name.trim(), as_object(fenced.trim().trim_end_matches("```"))?)
}

fn named(name: &str, arguments: String) -> Option<(String, String)> {
    (!name.is_empty()).then(|| (name.to_owned(), arguments))
}

/// Templates of Mistral accept nine letters and digits only.
fn new_id(format: ToolFormat, index: u32) -> String {
    // Each state is keyed differently, from the system's randomness.
    let random = RandomState::new();
    let (high, low) = (random.hash_one(index), random.hash_one(!index));
    match format {
        ToolFormat::Mistral => format!("{:09x}", high >> 28),
        _ => format!("call_{:024x}", u128::from(high) << 32 ^ u128::from(low)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn tools() -> Value {
        json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object",
            "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}}}])
    }

    /// Text, and calls as `name(arguments)`, whatever the chunks.
    fn parse(format: ToolFormat, answer: &str) -> (String, Vec<String>) {
        let mut whole = None;
        for size in [1, 3, 1000] {
            let mut parser = ToolParser::new(format, tools());
            let chars: Vec<char> = answer.chars().collect();
            let chunks = chars.chunks(size).map(String::from_iter);
            let mut parts: Vec<AnswerPart> =
                chunks.flat_map(|chunk: String| parser.push(&chunk)).collect();
            parts.extend(parser.flush());
            let (mut text, mut calls) = (String::new(), Vec::new());
            for part in parts {
                match part {
                    AnswerPart::Text(more) => text.push_str(&more),
                    AnswerPart::Call(call) => {
                        assert_eq!(call.index as usize, calls.len());
                        calls.push(format!("{}({})", call.name, call.arguments));
                    }
                }
            }
            assert_eq!(parser.has_calls(), !calls.is_empty());
            let result = (text, calls);
            assert_eq!(whole.get_or_insert_with(|| result.clone()), &result, "{answer}");
        }
        whole.unwrap()
    }

    const ONE: &str = r#"f({"n":1,"s":"x"})"#;
    const CASES: &[(ToolFormat, &str, &str, &[&str])] = &[
        (
            ToolFormat::Hermes,
            "Hi\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\": 1, \"s\": \"x\"}}\n</tool_call>",
            "Hi\n",
            &[ONE],
        ),
        (
            ToolFormat::Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call>",
            "",
            &["f({})", "g({})"],
        ),
        (ToolFormat::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}}", "", &["f({})"]),
        (
            ToolFormat::Hermes,
            "a <tool_call>{\"name\"</tool_call> b",
            "a <tool_call>{\"name\"</tool_call> b",
            &[],
        ),
        (ToolFormat::Hermes, "a <tool", "a <tool", &[]),
        (
            ToolFormat::QwenXml,
            "<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n<parameter=s>\nx\n</parameter>\n</function>\n</tool_call>",
            "",
            &[ONE],
        ),
        (
            ToolFormat::QwenXml,
            "<tool_call><function=f><parameter=s>12</parameter></function></tool_call>",
            "",
            &[r#"f({"s":"12"})"#],
        ),
        (
            ToolFormat::Glm,
            "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n<arg_key>s</arg_key><arg_value>x</arg_value></tool_call>",
            "",
            &[ONE],
        ),
        (
            ToolFormat::Mistral,
            "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"n\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
            "",
            &["f({\"n\":1})", "g({})"],
        ),
        (
            ToolFormat::Mistral,
            "[TOOL_CALLS]f[ARGS]{\"n\": 1}[TOOL_CALLS]g[CALL_ID]abc[ARGS]{}",
            "",
            &["f({\"n\": 1})", "g({})"],
        ),
        (ToolFormat::Llama, "{\"name\": \"f\", \"parameters\": {\"n\": 1}}", "", &["f({\"n\":1})"]),
        (
            ToolFormat::Llama,
            "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
            "",
            &["f({})", "g({})"],
        ),
        (ToolFormat::Llama, "{\"answer\": 1}", "{\"answer\": 1}", &[]),
        (ToolFormat::Llama, "See {\"name\": \"f\"}", "See {\"name\": \"f\"}", &[]),
        (ToolFormat::Functionary, "<function=f>{\"n\": 1}</function>", "", &["f({\"n\": 1})"]),
        (
            ToolFormat::DeepSeek,
            "Hi<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"n\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
            "Hi",
            &["f({\"n\": 1})"],
        ),
        (
            ToolFormat::DeepSeek,
            "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"n\": 1}\n```<｜tool▁call▁end｜>",
            "",
            &["f({\"n\": 1})"],
        ),
        (
            ToolFormat::Kimi,
            "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"n\": 1}<|tool_call_end|><|tool_calls_section_end|>",
            "",
            &["f({\"n\": 1})"],
        ),
        (
            ToolFormat::Harmony,
            "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"n\": 1}<|call|>",
            "",
            &["f({\"n\": 1})"],
        ),
        (
            ToolFormat::Harmony,
            " to=functions.f<|channel|>commentary json<|message|>{\"n\": 1}",
            "",
            &["f({\"n\": 1})"],
        ),
    ];

    #[test]
    fn calls_are_read_in_every_format() {
        for (format, answer, text, calls) in CASES {
            let (found_text, found_calls) = parse(*format, answer);
            assert_eq!(
                (found_text.as_str(), found_calls),
                (*text, calls.iter().map(|c| (*c).to_owned()).collect()),
                "{format:?}: {answer}"
            );
        }
    }

    #[test]
    fn ids_have_the_form_that_templates_accept() {
        let mistral = new_id(ToolFormat::Mistral, 0);
        assert!(mistral.len() == 9 && mistral.chars().all(|c| c.is_ascii_alphanumeric()));
        assert_ne!(new_id(ToolFormat::Hermes, 0), new_id(ToolFormat::Hermes, 0));
    }
}
