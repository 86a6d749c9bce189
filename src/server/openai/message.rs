//! Chat messages on the wire, and their normal form for templates.

use poem_openapi::Object;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    chat::ChatInput,
    error::{Error, Result},
    server::schema::{FreeObject, TextOr, object, optional_objects, text_or_objects, wire_enum},
};

/// More messages than this are refused.
pub(crate) const MAX_MESSAGES: usize = 8192;

wire_enum! {
    /// Who speaks.
    pub(crate) enum Role {
        System = "system",
        /// The newer name of `system`.
        Developer = "developer",
        User = "user",
        Assistant = "assistant",
        Tool = "tool",
        /// The older form of `tool`.
        Function = "function",
    }
}

wire_enum! {
    /// What a part of a message holds. Images, audio and files are not supported yet.
    pub(crate) enum PartKind {
        Text = "text",
        Refusal = "refusal",
    }
}

wire_enum! {
    /// What a tool call calls.
    pub(crate) enum ToolKind {
        Function = "function",
    }
}

/// One part of a message's content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct Part {
    pub r#type: PartKind,
    /// Required when `type` is `text`.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Required when `type` is `refusal`.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
}

/// A function that the assistant called in an earlier turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct ToolCall {
    pub id: String,
    pub r#type: ToolKind,
    #[serde(deserialize_with = "object")]
    pub function: FunctionCall,
}

/// Name and arguments of a called function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct FunctionCall {
    pub name: String,
    /// The arguments as JSON text.
    pub arguments: String,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Deserialize, Object)]
#[oai(rename = "ChatMessage")]
pub(crate) struct Message {
    pub role: Role,
    /// Text, or a list of parts. May be null only for an assistant message with tool calls.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "text_or_objects")]
    pub content: Option<TextOr<Part>>,
    /// The participant's name; templates decide whether it shows.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Functions that the assistant called.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Of which call this `tool` message is the result.
    #[oai(nullable)]
    pub tool_call_id: Option<String>,
    /// What the assistant refused with.
    #[oai(nullable)]
    pub refusal: Option<String>,
    /// What the assistant thought before it answered; templates decide whether it shows.
    #[oai(nullable)]
    pub reasoning_content: Option<String>,
    /// The older form of `tool_calls`; not supported.
    #[oai(nullable)]
    pub function_call: Option<FreeObject>,
    /// Audio of an earlier answer; not supported.
    #[oai(nullable)]
    pub audio: Option<FreeObject>,
}

/// A conversation for the chat template, as requests of several routes bring it: either the
/// assistant's next turn begins, or its last message goes on.
pub(crate) fn conversation(
    messages: Vec<Message>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
) -> Result<ChatInput> {
    let continues = continue_final_message.unwrap_or(false);
    let add_generation_prompt = add_generation_prompt.unwrap_or(!continues);
    if continues && add_generation_prompt {
        let text = "add_generation_prompt and continue_final_message exclude each other";
        return Err(Error::invalid("continue_final_message", text));
    }
    let messages = normalise(messages)?;
    if continues && messages.last().is_none_or(|last| last["role"] != "assistant") {
        let text = "continue_final_message: the last message must be the assistant's";
        return Err(Error::invalid("continue_final_message", text));
    }
    Ok(ChatInput {
        messages,
        add_generation_prompt,
        continue_final_message: continues,
        ..ChatInput::default()
    })
}

/// Checks a conversation and brings it into the form that templates are given: contents are text or
/// lists of texts as they came, `system` stands for `developer`.
fn normalise(messages: Vec<Message>) -> Result<Vec<Value>> {
    if messages.is_empty() {
        return Err(Error::invalid("messages", "messages: at least one message is required"));
    }
    if messages.len() > MAX_MESSAGES {
        let text = format!("messages: {} messages, limit {MAX_MESSAGES}", messages.len());
        return Err(Error::invalid("messages", text));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(i, message)| message.normalise(&format!("messages[{i}]")))
        .collect()
}

impl Message {
    fn normalise(self, path: &str) -> Result<Value> {
        self.refuse_unsupported(path)?;
        let has_calls = self.tool_calls.as_ref().is_some_and(|calls| !calls.is_empty());
        let content = match self.content {
            Some(content) => Some(parts(content, &format!("{path}.content"))?),
            None if self.role == Role::Assistant && (has_calls || self.refusal.is_some()) => None,
            None => {
                let field = format!("{path}.content");
                let text = format!("{field}: a string or an array of parts is required");
                return Err(Error::invalid(field, text));
            }
        };
        if self.role == Role::Tool && self.tool_call_id.is_none() {
            let field = format!("{path}.tool_call_id");
            let text = format!("{field}: a tool message must say which call it answers");
            return Err(Error::invalid(field, text));
        }
        if has_calls && self.role != Role::Assistant {
            let field = format!("{path}.tool_calls");
            let text = format!("{field}: only an assistant message has tool calls");
            return Err(Error::invalid(field, text));
        }
        let role = match self.role {
            Role::System | Role::Developer => "system",
            Role::User => "user",
            Role::Assistant => "assistant",
            Role::Tool | Role::Function => "tool",
        };
        let mut object = Map::new();
        object.insert("role".to_owned(), role.into());
        let refusal = || self.refusal.map(Value::from);
        object.insert("content".to_owned(), content.or_else(refusal).into());
        let texts = [
            ("name", self.name),
            ("tool_call_id", self.tool_call_id),
            ("reasoning_content", self.reasoning_content),
        ];
        for (key, text) in texts {
            if let Some(text) = text {
                object.insert(key.to_owned(), text.into());
            }
        }
        if let Some(calls) = self.tool_calls.filter(|calls| !calls.is_empty()) {
            object.insert("tool_calls".to_owned(), normalise_calls(calls));
        }
        Ok(Value::Object(object))
    }

    fn refuse_unsupported(&self, path: &str) -> Result<()> {
        for (name, present) in
            [("function_call", self.function_call.is_some()), ("audio", self.audio.is_some())]
        {
            if present {
                let field = format!("{path}.{name}");
                let text = format!("{field}: this parameter is not supported");
                return Err(Error::invalid(field, text));
            }
        }
        Ok(())
    }
}

/// A content as templates know it: a text, or a list of texts.
fn parts(content: TextOr<Part>, path: &str) -> Result<Value> {
    let parts = match content {
        TextOr::Text(text) => return Ok(text.into()),
        TextOr::Items(parts) => parts,
    };
    if parts.is_empty() {
        return Err(Error::invalid(path, format!("{path}: at least one part is required")));
    }
    let mut texts = Vec::with_capacity(parts.len());
    for (i, part) in parts.into_iter().enumerate() {
        let (name, text) = match part.r#type {
            PartKind::Text => ("text", part.text),
            PartKind::Refusal => ("refusal", part.refusal),
        };
        texts.push(text.ok_or_else(|| {
            let field = format!("{path}[{i}].{name}");
            let text = format!("{field}: this required field is missing");
            Error::invalid(field, text)
        })?);
    }
    Ok(text_parts(texts))
}

/// Texts as a content that templates know: one is a text, several are a list.
pub(crate) fn content(mut texts: Vec<String>) -> Value {
    match texts.len() {
        0 | 1 => texts.pop().unwrap_or_default().into(),
        _ => text_parts(texts),
    }
}

fn text_parts(texts: Vec<String>) -> Value {
    texts.into_iter().map(|text| json!({ "type": "text", "text": text })).collect()
}

/// Arguments stay the text that they are, whether whole or cut: a model reads what it wrote.
fn normalise_calls(calls: Vec<ToolCall>) -> Value {
    let call = |call: ToolCall| {
        let FunctionCall { name, arguments } = call.function;
        let function = json!({ "name": name, "arguments": arguments });
        json!({ "id": call.id, "type": "function", "function": function })
    };
    calls.into_iter().map(call).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(value: Value) -> Vec<Message> {
        serde_json::from_value(value).expect("messages")
    }

    #[test]
    fn contents_become_what_templates_read() {
        let wire = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}
            ]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ]);
        let normal = normalise(messages(wire)).expect("valid");
        let expected = json!([
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}
            ]},
            {"role": "tool", "content": "2", "tool_call_id": "c1"},
        ]);
        assert_eq!(Value::Array(normal), expected);
    }

    #[test]
    fn errors_name_the_field() {
        let call = |arguments: &str| json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]);
        let cases = [
            (json!([]), "messages"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": []}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0].text",
            ),
            (json!([{"role": "assistant", "content": null}]), "messages[0].content"),
            (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
            (
                json!([{"role": "user", "content": "x", "tool_calls": call("{}")}]),
                "messages[0].tool_calls",
            ),
        ];
        for (wire, param) in cases {
            let error = normalise(messages(wire.clone())).expect_err("invalid");
            assert_eq!(error.param.as_deref(), Some(param), "{wire}");
        }
    }
}
