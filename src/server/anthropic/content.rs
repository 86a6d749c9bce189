//! Messages and their content blocks on the wire, and their normal form for templates.

use std::collections::HashMap;

use poem_openapi::Object;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{
    error::{Error, Result},
    server::{
        openai::{MAX_MESSAGES, content},
        schema::{FreeObject, TextOr, text_or_objects, wire_enum},
    },
};

wire_enum! {
    /// Who speaks.
    pub(crate) enum Speaker {
        User = "user",
        Assistant = "assistant",
        /// Instructions in the middle of a conversation.
        System = "system",
    }
}

wire_enum! {
    /// What a text is called.
    pub(crate) enum TextKind {
        Text = "text",
    }
}

wire_enum! {
    /// What a block holds. Images, documents and results of search are not supported.
    pub(crate) enum BlockKind {
        Text = "text",
        Thinking = "thinking",
        ToolUse = "tool_use",
        ToolResult = "tool_result",
    }
}

wire_enum! {
    /// How a cached prefix ends.
    pub(crate) enum CacheKind {
        Ephemeral = "ephemeral",
    }
}

wire_enum! {
    /// How long a cached prefix is kept.
    pub(crate) enum CacheSpan {
        Minutes = "5m",
        Hour = "1h",
    }
}

/// A hint what to cache; this server finds every cached prefix without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct CacheControl {
    pub r#type: CacheKind,
    #[oai(nullable)]
    pub ttl: Option<CacheSpan>,
}

/// A text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AnthropicText {
    pub r#type: TextKind,
    pub text: String,
    #[oai(nullable)]
    pub cache_control: Option<CacheControl>,
    /// Of no effect: the text is read without them.
    #[oai(nullable)]
    pub citations: Option<Vec<FreeObject>>,
}

/// One block of a message's content; which fields it has depends on its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AnthropicBlock {
    pub r#type: BlockKind,
    /// Of a `text`.
    #[oai(nullable)]
    pub text: Option<String>,
    /// Of a `text`; of no effect: the text is read without them.
    #[oai(nullable)]
    pub citations: Option<Vec<FreeObject>>,
    /// Of `thinking`: what the assistant thought; templates decide whether it shows.
    #[oai(nullable)]
    pub thinking: Option<String>,
    /// Of `thinking`; this server does not sign what models think, and checks nothing.
    #[oai(nullable)]
    pub signature: Option<String>,
    /// Of a `tool_use`.
    #[oai(nullable)]
    pub id: Option<String>,
    /// Of a `tool_use`: the tool.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Of a `tool_use`: the arguments.
    #[oai(nullable)]
    pub input: Option<FreeObject>,
    /// Of a `tool_result`: which call it answers.
    #[oai(nullable)]
    pub tool_use_id: Option<String>,
    /// Of a `tool_result`: text, or a list of texts.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "text_or_objects")]
    pub content: Option<TextOr<AnthropicText>>,
    /// Of a `tool_result`: the model reads it behind the word `Error:`.
    #[oai(nullable)]
    pub is_error: Option<bool>,
    #[oai(nullable)]
    pub cache_control: Option<CacheControl>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AnthropicMessage {
    pub role: Speaker,
    /// Text, or a list of blocks.
    #[serde(default, deserialize_with = "text_or_objects")]
    pub content: Option<TextOr<AnthropicBlock>>,
}

/// How the block begins in which Claude Code names its build and a number that changes from request to
/// request: it is about the bill, and would keep the rest of the prompt from being found in the cache.
const BILLING: &str = "x-anthropic-billing-header:";

fn is_billing(text: &str) -> bool {
    text.trim_start().starts_with(BILLING) && text.trim().lines().count() == 1
}

/// A conversation in the form that templates read.
pub(super) struct Conversation {
    pub(super) messages: Vec<Value>,
    /// The last message is the assistant's and is to be continued.
    pub(super) continues: bool,
}

/// Checks a conversation and brings it into the form that templates read.
pub(super) fn conversation(
    system: Option<TextOr<AnthropicText>>,
    messages: Vec<AnthropicMessage>,
) -> Result<Conversation> {
    if messages.is_empty() {
        return Err(Error::invalid("messages", "messages: at least one message is required"));
    }
    if messages.len() > MAX_MESSAGES {
        let text = format!("messages: {} messages, limit {MAX_MESSAGES}", messages.len());
        return Err(Error::invalid("messages", text));
    }
    let mut normal = Vec::with_capacity(messages.len() + 1);
    let system = system.map(texts).unwrap_or_default();
    let system: Vec<String> = system.into_iter().filter(|text| !is_billing(text)).collect();
    if system.iter().any(|text| !text.is_empty()) {
        normal.push(json!({ "role": "system", "content": content(system) }));
    }
    let mut names = HashMap::new();
    let mut continues = false;
    for (i, message) in messages.into_iter().enumerate() {
        let path = format!("messages[{i}].content");
        let blocks = message.blocks(&path)?;
        continues = message.role == Speaker::Assistant;
        match message.role {
            Speaker::User => normal.extend(user(blocks, &path, &names)?),
            Speaker::Assistant => normal.push(assistant(blocks, &path, &mut names)?),
            Speaker::System => normal.extend(instructions(blocks, &path)?),
        }
    }
    join_reminders(&mut normal);
    if continues && normal.last().is_some_and(|last| last.get("tool_calls").is_some()) {
        let text = "messages: a message with a tool_use must be followed by its tool_result";
        return Err(Error::invalid("messages", text));
    }
    Ok(Conversation { messages: normal, continues })
}

impl AnthropicMessage {
    fn blocks(&self, path: &str) -> Result<Vec<AnthropicBlock>> {
        match &self.content {
            Some(TextOr::Text(text)) => Ok(vec![AnthropicBlock::of_text(text.clone())]),
            // An answer that was cut before its first word has none.
            Some(TextOr::Items(blocks))
                if !blocks.is_empty() || self.role == Speaker::Assistant =>
            {
                Ok(blocks.clone())
            }
            Some(TextOr::Items(_)) => {
                Err(Error::invalid(path, format!("{path}: at least one block is required")))
            }
            None => Err(missing(path)),
        }
    }
}

impl AnthropicBlock {
    fn of_text(text: String) -> Self {
        Self {
            r#type: BlockKind::Text,
            text: Some(text),
            citations: None,
            thinking: None,
            signature: None,
            id: None,
            name: None,
            input: None,
            tool_use_id: None,
            content: None,
            is_error: None,
            cache_control: None,
        }
    }

    /// A field that belongs to another type of block is a mistake.
    fn check(&self, path: &str) -> Result<()> {
        use BlockKind::{Text, Thinking, ToolResult, ToolUse};

        let fields = [
            ("text", self.text.is_some(), Text),
            ("citations", self.citations.is_some(), Text),
            ("thinking", self.thinking.is_some(), Thinking),
            ("signature", self.signature.is_some(), Thinking),
            ("id", self.id.is_some(), ToolUse),
            ("name", self.name.is_some(), ToolUse),
            ("input", self.input.is_some(), ToolUse),
            ("tool_use_id", self.tool_use_id.is_some(), ToolResult),
            ("content", self.content.is_some(), ToolResult),
            ("is_error", self.is_error.is_some(), ToolResult),
        ];
        match fields.iter().find(|(_, given, owner)| *given && *owner != self.r#type) {
            Some((name, ..)) => {
                let field = format!("{path}.{name}");
                let text = format!("{field}: a block of this type has no such field");
                Err(Error::invalid(field, text))
            }
            None => Ok(()),
        }
    }
}

/// Instructions behind the beginning, as the user's: few templates know a system message there.
fn instructions(blocks: Vec<AnthropicBlock>, path: &str) -> Result<Option<Value>> {
    let mut spoken = Vec::new();
    for (i, block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        block.check(&path)?;
        match block.r#type {
            BlockKind::Text => spoken.push(required(block.text, &path, "text")?),
            _ => return Err(misplaced(&path, "user or the assistant")),
        }
    }
    if spoken.iter().all(String::is_empty) {
        return Ok(None);
    }
    let text = format!("{REMINDER}\n{}\n</system-reminder>", spoken.join("\n\n"));
    Ok(Some(json!({ "role": "user", "content": text })))
}

/// How instructions begin that stand among the messages, as Claude Code itself marks them.
const REMINDER: &str = "<system-reminder>";

/// Makes a reminder and the user's message beside it one: many templates take no two in a row.
fn join_reminders(messages: &mut Vec<Value>) {
    let text = |message: &Value| {
        let is_user = message["role"] == "user";
        message["content"].as_str().filter(|_| is_user).map(str::to_owned)
    };
    let mut at = 1;
    while at < messages.len() {
        match (text(&messages[at - 1]), text(&messages[at])) {
            (Some(a), Some(b)) if a.starts_with(REMINDER) || b.starts_with(REMINDER) => {
                messages[at - 1]["content"] = format!("{a}\n\n{b}").into();
                messages.remove(at);
            }
            _ => at += 1,
        }
    }
}

/// Texts and results in their order; neighbouring texts are one message.
fn user(
    blocks: Vec<AnthropicBlock>,
    path: &str,
    names: &HashMap<String, String>,
) -> Result<Vec<Value>> {
    let mut messages = Vec::new();
    let mut spoken: Vec<String> = Vec::new();
    let flush = |spoken: &mut Vec<String>, messages: &mut Vec<Value>| {
        if !spoken.is_empty() {
            let text = content(std::mem::take(spoken));
            messages.push(json!({ "role": "user", "content": text }));
        }
    };
    for (i, block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        block.check(&path)?;
        match block.r#type {
            BlockKind::Text => spoken.push(required(block.text, &path, "text")?),
            BlockKind::ToolResult => {
                flush(&mut spoken, &mut messages);
                let id = required(block.tool_use_id, &path, "tool_use_id")?;
                let mut text = block.content.map(texts).unwrap_or_default();
                if block.is_error == Some(true) {
                    let first = text.first().map_or("", String::as_str);
                    let first = format!("Error: {first}");
                    text.splice(..text.len().min(1), [first]);
                }
                let mut message =
                    json!({ "role": "tool", "tool_call_id": id, "content": content(text) });
                if let Some(name) = names.get(&id) {
                    message["name"] = name.as_str().into();
                }
                messages.push(message);
            }
            BlockKind::Thinking | BlockKind::ToolUse => return Err(misplaced(&path, "assistant")),
        }
    }
    flush(&mut spoken, &mut messages);
    Ok(messages)
}

/// One message of text, reasoning and calls. `names` learns which call is of which tool.
fn assistant(
    blocks: Vec<AnthropicBlock>,
    path: &str,
    names: &mut HashMap<String, String>,
) -> Result<Value> {
    let (mut spoken, mut thought, mut calls) = (Vec::new(), Vec::new(), Vec::new());
    for (i, block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        block.check(&path)?;
        match block.r#type {
            BlockKind::Text => spoken.push(required(block.text, &path, "text")?),
            BlockKind::Thinking => thought.push(required(block.thinking, &path, "thinking")?),
            BlockKind::ToolUse => {
                let id = required(block.id, &path, "id")?;
                let name = required(block.name, &path, "name")?;
                let input = required(block.input, &path, "input")?.0;
                let function = json!({ "name": name, "arguments": input });
                calls.push(json!({ "id": id, "type": "function", "function": function }));
                names.insert(id, name);
            }
            BlockKind::ToolResult => return Err(misplaced(&path, "user")),
        }
    }
    let is_silent = spoken.is_empty();
    let mut message = json!({ "role": "assistant", "content": content(spoken) });
    if !thought.is_empty() {
        message["reasoning_content"] = thought.join("\n").into();
    }
    if !calls.is_empty() {
        if is_silent {
            message["content"] = Value::Null;
        }
        message["tool_calls"] = calls.into();
    }
    Ok(message)
}

fn texts(content: TextOr<AnthropicText>) -> Vec<String> {
    match content {
        TextOr::Text(text) => vec![text],
        TextOr::Items(items) => items.into_iter().map(|item| item.text).collect(),
    }
}

fn required<T>(value: Option<T>, path: &str, name: &str) -> Result<T> {
    value.ok_or_else(|| missing(&format!("{path}.{name}")))
}

fn missing(field: &str) -> Error {
    let text = format!("{field}: this required field is missing");
    Error::invalid(field, text).with_code("missing_required_parameter")
}

fn misplaced(path: &str, role: &str) -> Error {
    let field = format!("{path}.type");
    let text = format!("{field}: only a message of the {role} has blocks of this type");
    Error::invalid(field, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn messages(value: Value) -> Vec<AnthropicMessage> {
        serde_json::from_value(value).expect("messages")
    }

    #[test]
    fn instructions_in_the_middle_are_the_users() {
        let wire = json!([
            {"role": "user", "content": "a"},
            {"role": "system", "content": [{"type": "text", "text": "s"}, {"type": "text", "text": "t"}]},
            {"role": "assistant", "content": "b"},
            {"role": "system", "content": "u"},
            {"role": "system", "content": "v"},
            {"role": "user", "content": "c"},
            {"role": "system", "content": ""},
        ]);
        let normal = conversation(None, messages(wire)).expect("valid");
        let reminder = |text: &str| format!("<system-reminder>\n{text}\n</system-reminder>");
        let expected = json!([
            {"role": "user", "content": format!("a\n\n{}", reminder("s\n\nt"))},
            {"role": "assistant", "content": "b"},
            {"role": "user", "content": format!("{}\n\n{}\n\nc", reminder("u"), reminder("v"))},
        ]);
        assert_eq!((Value::Array(normal.messages), normal.continues), (expected, false));
    }

    #[test]
    fn blocks_become_what_templates_read() {
        let wire = json!([
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": [
                {"type": "thinking", "thinking": "hm", "signature": ""},
                {"type": "tool_use", "id": "t1", "name": "f", "input": {"x": 1}},
            ]},
            {"role": "user", "content": [
                {"type": "tool_result", "tool_use_id": "t1", "content": [{"type": "text", "text": "2"}]},
                {"type": "tool_result", "tool_use_id": "t2", "content": "3", "is_error": true},
                {"type": "text", "text": "c"},
            ]},
            {"role": "assistant", "content": "so"},
        ]);
        let system = Some(TextOr::Text("s".to_owned()));
        let normal = conversation(system, messages(wire)).expect("valid");
        let expected = json!([
            {"role": "system", "content": "s"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "reasoning_content": "hm", "tool_calls": [
                {"id": "t1", "type": "function", "function": {"name": "f", "arguments": {"x": 1}}}
            ]},
            {"role": "tool", "tool_call_id": "t1", "name": "f", "content": "2"},
            {"role": "tool", "tool_call_id": "t2", "content": "Error: 3"},
            {"role": "user", "content": "c"},
            {"role": "assistant", "content": "so"},
        ]);
        assert_eq!((Value::Array(normal.messages), normal.continues), (expected, true));
    }
}
