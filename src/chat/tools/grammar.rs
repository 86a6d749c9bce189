//! Grammars of tool calls, in the form that each model writes them.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::ToolFormat;
use super::call::Callable;
use super::marks::{Between, Form};
use crate::chat::Tokenizer;
use crate::chat::gate::Wait;
use crate::chat::gbnf::quote;
use crate::chat::grammar::{Grammar, configured};

/// Calls in one answer at most, where several are allowed.
const CALLS_MAX: usize = 32;

/// Calls as a model may write them.
pub(in crate::chat) struct Calls<'a> {
    pub(in crate::chat) format: ToolFormat,
    pub(in crate::chat) tokenizer: &'a Tokenizer,
    pub(in crate::chat) tools: &'a [Callable],
    pub(in crate::chat) parallel: bool,
    /// Blanks may stand wherever JSON allows them: what a model writes by itself is met halfway.
    pub(in crate::chat) lenient: bool,
}

impl Calls<'_> {
    /// A grammar of answers that are calls, or else `content`, a Lark expression.
    pub(in crate::chat) fn answer(&self, content: Option<&str>) -> String {
        let form = self.format.form();
        let calls = self.sequence(form, form.outer.0, form.outer.1);
        let head = match self.format {
            ToolFormat::Harmony => self.literals(&["<|channel|>", "final", "<|message|>"]),
            _ => String::new(),
        };
        let content = content.map(|c| format!("start: calls | {head} content\ncontent: {c}\n"));
        let start = content.unwrap_or_else(|| "start: calls\n".to_owned());
        format!("{start}calls: {calls}\n{}", self.rules(form, form.marker))
    }

    /// A grammar of what follows the marker of a call, up to its end.
    pub(in crate::chat) fn after_marker(&self) -> String {
        let form = self.format.form();
        if form.is_list {
            let before = form.outer.0.get(1..).unwrap_or_default();
            // Without a marker, the first letter is part of it.
            let before = if self.is_bare(form) { form.outer.0 } else { before };
            let calls = self.sequence(form, before, form.outer.1);
            return format!("start: {calls}\n{}", self.rules(form, &[]));
        }
        format!("start: call\n{}", self.rules(form, &[]))
    }

    /// What comes before a call in an answer that is free otherwise.
    pub(in crate::chat) fn wait(&self) -> Wait {
        let form = self.format.form();
        match (self.format.marks().bare, form.is_list) {
            (Some(first), _) => Wait::Start(first),
            (None, true) => Wait::Marker(form.outer.0.first().copied().unwrap_or_default().into()),
            (None, false) => Wait::Marker(form.marker.concat()),
        }
    }

    fn is_bare(&self, form: &Form) -> bool {
        form.is_list && self.format.marks().bare.is_some()
    }

    fn sequence(&self, form: &Form, before: &[&str], after: &[&str]) -> String {
        let more = match (self.parallel, form.between_calls) {
            (false, _) | (_, Between::Never) => String::new(),
            (true, Between::Text("")) => format!("call{{0,{}}}", CALLS_MAX - 1),
            (true, Between::Text(between)) => {
                format!("({} call){{0,{}}}", self.literal(between), CALLS_MAX - 1)
            }
        };
        let parts = [self.literals(before), "call".to_owned(), more, self.literals(after)];
        parts.join(" ")
    }

    /// One rule for each tool.
    fn rules(&self, form: &Form, marker: &[&str]) -> String {
        let names: Vec<String> = (0..self.tools.len()).map(|i| format!("call_{i}")).collect();
        let mut out = format!("call: {}\n", names.join(" | "));
        for (i, tool) in self.tools.iter().enumerate() {
            let head = self.literals(&[marker, form.before_name].concat());
            let name = quote(&tool.name);
            let (middle, tail) =
                (self.literals(form.before_arguments), self.literals(form.after_arguments));
            let mut schema = parameters(&tool.parameters);
            if let (Value::Object(schema), true) = (&mut schema, self.lenient) {
                schema.insert("x-guidance".to_owned(), json!({"whitespace_flexible": true}));
            }
            let schema = configured(schema, tool.loose);
            let _ = writeln!(out, "call_{i}: {head} {name} {middle} arguments_{i} {tail}");
            let _ = writeln!(out, "arguments_{i}: %json {schema}");
        }
        if self.lenient {
            out.push_str("blanks: BLANKS?\nBLANKS: /[ \\t\\r\\n]{1,16}/\n");
        }
        out
    }

    fn literals(&self, pieces: &[&str]) -> String {
        pieces.iter().map(|piece| self.literal(piece)).collect::<Vec<_>>().join(" ")
    }

    fn literal(&self, piece: &str) -> String {
        match self.tokenizer.special_id(piece) {
            Some(id) if self.tokenizer.is_control(id) => format!("<[{id}]>"),
            _ if self.lenient => loose(piece),
            _ => quote(piece),
        }
    }
}

/// A piece of JSON with blanks where they may be. A quotation mark at its start ends a string.
fn loose(piece: &str) -> String {
    let (mut out, mut text) = (Vec::new(), String::new());
    let mut in_string = piece.starts_with('"');
    for c in piece.chars() {
        match c {
            '{' | '}' | '[' | ']' | ':' | ',' if !in_string => {
                let before = std::mem::take(&mut text);
                out.extend((!before.is_empty()).then(|| quote(&before)));
                out.extend(["blanks".to_owned(), quote(&c.to_string()), "blanks".to_owned()]);
                continue;
            }
            c if c.is_whitespace() && !in_string => continue,
            '"' => in_string = !in_string,
            _ => {}
        }
        text.push(c);
    }
    out.extend((!text.is_empty()).then(|| quote(&text)));
    out.join(" ")
}

/// The schema of arguments, which are an object whether it says so or not.
pub(in crate::chat) fn parameters(schema: &Value) -> Value {
    let mut schema = schema.clone();
    match &mut schema {
        Value::Object(map) if map.is_empty() => {
            json!({"type": "object", "properties": {}, "additionalProperties": false})
        }
        Value::Object(map) => {
            if !["type", "$ref", "anyOf", "oneOf", "allOf"].iter().any(|key| map.contains_key(*key))
            {
                map.insert("type".to_owned(), "object".into());
            }
            if is_a_list_of_fields(map) {
                map.insert("additionalProperties".to_owned(), false.into());
            }
            schema
        }
        _ => schema,
    }
}

/// Whether a schema says no more than which fields there are. Who lists the fields of a tool means no
/// others, and small models like to invent some.
fn is_a_list_of_fields(map: &Map<String, Value>) -> bool {
    const PLAIN: [&str; 9] = [
        "type",
        "properties",
        "required",
        "title",
        "description",
        "$schema",
        "$id",
        "$defs",
        "definitions",
    ];
    let Some(Value::Object(properties)) = map.get("properties") else { return false };
    let required = map.get("required").and_then(Value::as_array).into_iter().flatten();
    map.keys().all(|key| PLAIN.contains(&key.as_str()))
        && required.filter_map(Value::as_str).all(|name| properties.contains_key(name))
}

/// A grammar as a Lark expression, where it can be one.
pub(in crate::chat) fn content(grammar: &Grammar) -> Option<String> {
    match grammar {
        Grammar::JsonObject => {
            Some(format!("%json {}", configured(json!({"type": "object"}), false)))
        }
        Grammar::JsonSchema(schema) => Some(format!("%json {}", configured(schema.clone(), false))),
        Grammar::LooseSchema(schema) => Some(format!("%json {}", configured(schema.clone(), true))),
        Grammar::Choice(choices) if !choices.is_empty() => {
            Some(choices.iter().map(|choice| quote(choice)).collect::<Vec<_>>().join(" | "))
        }
        Grammar::Choice(_) | Grammar::Regex(_) | Grammar::Lark(_) | Grammar::Gbnf(_) => None,
    }
}
