//! Messages as clients send them, made into what a template expects.
//!
//! Templates are written for the conventions of Hugging Face: arguments of tool calls are objects,
//! contents are strings or lists of parts as the author liked. Clients follow OpenAI: arguments are
//! JSON text, contents are either. What a template understands is found out by rendering small
//! conversations when the model is loaded ([`Forms::probe`]).

use serde_json::{Map, Value, json};

/// What a template wants to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) arguments: Arguments,
    pub(super) content: Content,
}

/// Arguments of tool calls.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Arguments {
    Object,
    /// JSON text: the template writes it out as it is.
    Text,
}

/// Contents of messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Content {
    /// Strings only; text parts are joined with line feeds.
    Text,
    /// Lists of parts only.
    Parts,
    Any,
}

const KEY: &str = "needle_key";
const NEEDLE: &str = "needle_value";

impl Forms {
    /// Finds out what a template takes; `render` renders messages and tools.
    pub(super) fn probe(render: &dyn Fn(Vec<Value>, Option<Value>) -> Option<String>) -> Self {
        Self { arguments: probe_arguments(render), content: probe_content(render) }
    }

    /// Brings `messages` into these forms.
    pub(super) fn apply(self, messages: &mut [Value]) {
        for message in messages {
            let Some(message) = message.as_object_mut() else { continue };
            if let Some(Value::Array(calls)) = message.get_mut("tool_calls") {
                for call in calls {
                    if let Some(arguments) = call.pointer_mut("/function/arguments") {
                        self.apply_arguments(arguments);
                    }
                }
            }
            if let Some(content) = message.get_mut("content") {
                self.apply_content(content);
            }
        }
    }

    fn apply_arguments(self, arguments: &mut Value) {
        match (self.arguments, &*arguments) {
            (Arguments::Object, Value::String(text)) if text.trim().is_empty() => {
                *arguments = Value::Object(Map::new());
            }
            (Arguments::Object, Value::String(text)) => {
                // A model may have written something that is no object; it stays as it was.
                if let Ok(object @ Value::Object(_)) = serde_json::from_str(text) {
                    *arguments = object;
                }
            }
            (Arguments::Text, Value::Object(_) | Value::Array(_)) => {
                *arguments = Value::String(arguments.to_string());
            }
            _ => {}
        }
    }

    fn apply_content(self, content: &mut Value) {
        match (self.content, &*content) {
            (Content::Text, Value::Array(parts)) => {
                let texts: Vec<&str> = parts.iter().filter_map(part_text).collect();
                *content = Value::String(texts.join("\n"));
            }
            (Content::Parts, Value::String(text)) => {
                *content = json!([{"type": "text", "text": text}]);
            }
            _ => {}
        }
    }
}

/// Text of a content part; `None` for images and the like.
fn part_text(part: &Value) -> Option<&str> {
    part.as_str().or_else(|| part.get("text").and_then(Value::as_str))
}

/// Objects, unless only text comes out as JSON.
fn probe_arguments(render: &dyn Fn(Vec<Value>, Option<Value>) -> Option<String>) -> Arguments {
    let tool = json!({"type": "function", "function": {
        "name": "f", "description": "d", "parameters": {"type": "object", "properties": {}}}});
    // Some templates take the one or the other path for a missing and for an empty content.
    let successes = |arguments: &Value| {
        let works = |content: &&Value| {
            let call = json!({"id": "abcdef123", "type": "function",
                "function": {"name": "f", "arguments": arguments}});
            let result = json!({"role": "tool", "tool_call_id": "abcdef123", "name": "f",
                "content": "r"});
            let messages = vec![
                json!({"role": "user", "content": "u"}),
                json!({"role": "assistant", "content": content, "tool_calls": [call]}),
                result,
            ];
            let text = render(messages, Some(json!([tool]))).unwrap_or_default();
            text.contains(NEEDLE) && !text.contains(&format!("{{'{KEY}'"))
        };
        [Value::Null, json!("")].iter().filter(works).count()
    };
    let object = json!({KEY: NEEDLE});
    let text = Value::String(format!("{{\"{KEY}\": \"{NEEDLE}\"}}"));
    if successes(&object) >= successes(&text) { Arguments::Object } else { Arguments::Text }
}

/// A list that comes out as a list's representation was not understood.
fn probe_content(render: &dyn Fn(Vec<Value>, Option<Value>) -> Option<String>) -> Content {
    let works = |content: Value| {
        let text = render(vec![json!({"role": "user", "content": content})], None);
        text.is_some_and(|text| text.contains(NEEDLE) && !text.contains("'text'"))
    };
    let parts = works(json!([{"type": "text", "text": NEEDLE}]));
    match (works(json!(NEEDLE)), parts) {
        (true, true) => Content::Any,
        (false, true) => Content::Parts,
        (_, false) => Content::Text,
    }
}

/// Second try for templates that fail where clients leave things out: no content is empty content.
pub(super) fn fill_gaps(messages: &mut [Value]) {
    for message in messages {
        let Some(message) = message.as_object_mut() else { continue };
        if message.get("content").is_none_or(Value::is_null) {
            message.insert("content".to_owned(), json!(""));
        }
    }
}

/// Appends `mark` to the content of the last message; `false` if it has none.
pub(super) fn mark_last(messages: &mut [Value], mark: &str) -> bool {
    let Some(content) = messages.last_mut().and_then(|message| message.get_mut("content")) else {
        return false;
    };
    let text = match content {
        Value::Array(parts) => parts.iter_mut().rev().find_map(|part| part.get_mut("text")),
        content => Some(content),
    };
    match text {
        Some(Value::String(text)) => {
            text.push_str(mark);
            true
        }
        _ => false,
    }
}
