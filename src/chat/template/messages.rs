//! Messages of a conversation, made into what a template expects.
//!
//! Templates are written for the conventions of Hugging Face: arguments of tool calls are objects,
//! contents are strings or lists of parts as the author liked. Most clients send arguments as JSON
//! text. What a template understands is found out by rendering small
//! conversations when the model is loaded (`probe`).

use serde_json::{Map, Value, json};

use super::json as written_json;
use crate::chat::conversation::{Arguments as Given, Call, Message};

/// A message in the words of OpenAI's wire: one text is a string, several are a list of parts, and a
/// message that only calls has no content. What is to be seen or heard has no place in it.
pub(crate) fn json(message: &Message) -> Value {
    let texts: Vec<&str> = message.texts().collect();
    let content = match texts.as_slice() {
        [] if !message.calls.is_empty() => Value::Null,
        [] => "".into(),
        [text] => (*text).into(),
        texts => texts.iter().map(|text| json!({"type": "text", "text": text})).collect(),
    };
    let mut object = Map::new();
    object.insert("role".to_owned(), message.role.name().into());
    object.insert("content".to_owned(), content);
    let texts = [
        ("name", &message.name),
        ("tool_call_id", &message.call_id),
        ("reasoning_content", &message.reasoning),
    ];
    for (key, text) in texts {
        if let Some(text) = text {
            object.insert(key.to_owned(), text.as_str().into());
        }
    }
    if !message.calls.is_empty() {
        object.insert("tool_calls".to_owned(), message.calls.iter().map(call).collect());
    }
    Value::Object(object)
}

fn call(call: &Call) -> Value {
    let arguments = match &call.arguments {
        Given::Text(text) => Value::from(text.as_str()),
        Given::Object(object) => Value::Object(object.clone()),
    };
    let function = json!({"name": call.name, "arguments": arguments});
    json!({"id": call.id, "type": "function", "function": function})
}

/// What a template wants to be given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Forms {
    pub(super) arguments: Arguments,
    pub(super) contents: Contents,
    pub(super) tools: Tools,
}

/// Definitions of tools.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Tools {
    /// The template writes them.
    Template,
    /// The template does not know tools; they are described in the system message.
    InSystem,
    /// Nor does it know a system message; they are described in the user's first.
    InUser,
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

/// Contents by who speaks: a template may read a user's parts and not its own model's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Contents {
    pub(super) system: Content,
    pub(super) user: Content,
    pub(super) assistant: Content,
    pub(super) tool: Content,
}

impl Contents {
    fn of(self, message: &Map<String, Value>) -> Content {
        match message.get("role").and_then(Value::as_str) {
            Some("system" | "developer") => self.system,
            Some("assistant") => self.assistant,
            Some("tool") => self.tool,
            _ => self.user,
        }
    }
}

impl Forms {
    /// Everything as clients send it.
    pub(super) const AS_THEY_ARE: Self = Self {
        arguments: Arguments::Object,
        contents: Contents {
            system: Content::Any,
            user: Content::Any,
            assistant: Content::Any,
            tool: Content::Any,
        },
        tools: Tools::Template,
    };

    /// Whether the template looks into the arguments of calls.
    pub(super) fn reads_arguments(self) -> bool {
        self.arguments == Arguments::Object
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
            let content = self.contents.of(message);
            if let Some(value) = message.get_mut("content") {
                apply_content(content, value);
            }
        }
    }

    fn apply_arguments(self, arguments: &mut Value) {
        match (self.arguments, &*arguments) {
            (_, Value::String(text)) if text.trim().is_empty() => {
                *arguments = Value::String("{}".to_owned());
            }
            (Arguments::Text, Value::Object(_) | Value::Array(_)) => {
                *arguments = Value::String(written_json::dumps(arguments));
            }
            _ => {}
        }
    }

    /// Describes `tools` where the template does not, in the words that models of several families
    /// know.
    pub(super) fn describe(self, messages: &mut Vec<Value>, tools: &Value) {
        let tools = tools.as_array().map(Vec::as_slice).unwrap_or_default();
        if tools.is_empty() || self.tools == Tools::Template {
            return;
        }
        let description = description(tools);
        let (role, behind) = match self.tools {
            Tools::InUser => ("user", false),
            Tools::InSystem | Tools::Template => ("system", true),
        };
        let first = messages.iter_mut().find(|message| message["role"] == role);
        match first.and_then(|message| message.get_mut("content")) {
            Some(content) => add(content, &description, behind),
            None => messages.insert(0, json!({"role": role, "content": description})),
        }
    }
}

/// Adds a paragraph before or behind a content.
fn add(content: &mut Value, text: &str, behind: bool) {
    match content {
        Value::Array(parts) => {
            let at = if behind { parts.len() } else { 0 };
            parts.insert(at, json!({"type": "text", "text": text}));
        }
        content => {
            let old = content.as_str().unwrap_or_default();
            let (first, second) = if behind { (old, text) } else { (text, old) };
            *content = format!("{first}\n\n{second}").into();
        }
    }
}

fn apply_content(form: Content, content: &mut Value) {
    match (form, &*content) {
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

/// Text of a content part; `None` for images and the like.
fn part_text(part: &Value) -> Option<&str> {
    part.as_str().or_else(|| part.get("text").and_then(Value::as_str))
}

fn description(tools: &[Value]) -> String {
    let lines: Vec<String> = tools.iter().map(Value::to_string).collect();
    format!(
        "You may call one or more functions to assist with the user query.\n\nThe functions are \
         described within <tools></tools> tags:\n<tools>\n{}\n</tools>\n\nFor each function \
         call, return a JSON object with its name and arguments within <tool_call></tool_call> \
         tags:\n<tool_call>\n{{\"name\": <function-name>, \"arguments\": <object>}}\n</tool_call>",
        lines.join("\n")
    )
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
