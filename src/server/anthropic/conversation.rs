//! The conversation that messages and their blocks make.

use std::collections::HashMap;

use super::content::{
    AnthropicBlock, AnthropicMessage, AnthropicResultBlock, AnthropicText, BlockKind, ResultKind,
    Speaker, required,
};
use crate::{
    chat::conversation::{Arguments, Call, Media, Message, Part, Role, Source},
    error::{Error, Result},
    server::{
        common::MAX_MESSAGES,
        schema::{FreeObject, TextOr},
    },
};

/// How the block begins in which Claude Code names its build and a number that changes from request to
/// request: it is about the bill, and would keep the rest of the prompt from being found in the cache.
const BILLING: &str = "x-anthropic-billing-header:";

fn is_billing(text: &str) -> bool {
    text.trim_start().starts_with(BILLING) && text.trim().lines().count() == 1
}

/// A checked conversation.
pub(super) struct Conversation {
    pub(super) messages: Vec<Message>,
    /// The last message is the assistant's and is to be continued.
    pub(super) continues: bool,
}

/// Checks a conversation.
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
    let system = match system {
        None => Vec::new(),
        Some(TextOr::Text(text)) => vec![text],
        Some(TextOr::Items(items)) => items.into_iter().map(|item| item.text).collect(),
    };
    let system: Vec<String> = system.into_iter().filter(|text| !is_billing(text)).collect();
    if system.iter().any(|text| !text.is_empty()) {
        normal.push(Message::new(Role::System, system.into_iter().map(Part::Text).collect()));
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
    if continues && normal.last().is_some_and(|last| !last.calls.is_empty()) {
        let text = "messages: a message with a tool_use must be followed by its tool_result";
        return Err(Error::invalid("messages", text));
    }
    Ok(Conversation { messages: normal, continues })
}

/// Instructions behind the beginning, as the user's: few templates know a system message there.
fn instructions(blocks: Vec<AnthropicBlock>, path: &str) -> Result<Option<Message>> {
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
    Ok(Some(Message::text(Role::User, text)))
}

/// How instructions begin that stand among the messages, as Claude Code itself marks them.
const REMINDER: &str = "<system-reminder>";

/// Makes a reminder and the user's message beside it one: many templates take no two in a row.
fn join_reminders(messages: &mut Vec<Message>) {
    let text = |message: &Message| {
        let mut texts = message.texts().map(str::to_owned);
        texts.next().filter(|_| message.role == Role::User && texts.next().is_none())
    };
    let mut at = 1;
    while at < messages.len() {
        match (text(&messages[at - 1]), text(&messages[at])) {
            (Some(a), Some(b)) if a.starts_with(REMINDER) || b.starts_with(REMINDER) => {
                let both = messages.drain(at - 1..=at).flat_map(|message| message.parts);
                let seen = both.filter(|part| part.as_text().is_none());
                let text = Part::Text(format!("{a}\n\n{b}"));
                let parts = std::iter::once(text).chain(seen).collect();
                messages.insert(at - 1, Message::new(Role::User, parts));
            }
            _ => at += 1,
        }
    }
}

/// Texts and results in their order; what stands between two results is one message.
fn user(
    blocks: Vec<AnthropicBlock>,
    path: &str,
    names: &HashMap<String, String>,
) -> Result<Vec<Message>> {
    let mut messages = Vec::new();
    let mut spoken: Vec<Part> = Vec::new();
    let flush = |spoken: &mut Vec<Part>, messages: &mut Vec<Message>| {
        if !spoken.is_empty() {
            messages.push(Message::new(Role::User, std::mem::take(spoken)));
        }
    };
    for (i, block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        block.check(&path)?;
        match block.r#type {
            BlockKind::Text => spoken.push(Part::Text(required(block.text, &path, "text")?)),
            BlockKind::Image => spoken.push(image(block.source.as_ref(), &path)),
            BlockKind::Document => spoken.push(document(block.source.as_ref(), &path)),
            BlockKind::ToolResult => {
                flush(&mut spoken, &mut messages);
                messages.push(result(block, &path, names)?);
            }
            BlockKind::Thinking | BlockKind::ToolUse => return Err(misplaced(&path, "assistant")),
        }
    }
    flush(&mut spoken, &mut messages);
    Ok(messages)
}

/// What a tool gave back.
fn result(block: AnthropicBlock, path: &str, names: &HashMap<String, String>) -> Result<Message> {
    let id = required(block.tool_use_id, path, "tool_use_id")?;
    let mut parts = match block.content {
        None => Vec::new(),
        Some(TextOr::Text(text)) => vec![Part::Text(text)],
        Some(TextOr::Items(items)) => {
            let items = items.into_iter().enumerate();
            let read = |(i, item): (usize, AnthropicResultBlock)| {
                item.into_part(&format!("{path}.content[{i}]"))
            };
            items.map(read).collect::<Result<_>>()?
        }
    };
    if block.is_error == Some(true) {
        let first = parts.iter_mut().find_map(|part| match part {
            Part::Text(text) => Some(text),
            _ => None,
        });
        match first {
            Some(text) => text.insert_str(0, "Error: "),
            None => parts.insert(0, Part::Text("Error: ".to_owned())),
        }
    }
    let name = names.get(&id).cloned();
    Ok(Message { name, call_id: Some(id), ..Message::new(Role::Tool, parts) })
}

impl AnthropicResultBlock {
    fn into_part(self, path: &str) -> Result<Part> {
        Ok(match self.r#type {
            ResultKind::Text => Part::Text(required(self.text, path, "text")?),
            ResultKind::Image => image(self.source.as_ref(), path),
            ResultKind::Document => document(self.source.as_ref(), path),
        })
    }
}

fn image(source: Option<&FreeObject>, path: &str) -> Part {
    Part::Image(media("image", source, path))
}

fn document(source: Option<&FreeObject>, path: &str) -> Part {
    Part::Document(media("document", source, path))
}

fn media(kind: &'static str, source: Option<&FreeObject>, path: &str) -> Media {
    let text = |key: &str| source.and_then(|source| source.0.get(key)?.as_str()).map(str::to_owned);
    let source = text("url").map(Source::Url);
    let source = source.or_else(|| text("file_id").map(Source::FileId));
    Media {
        field: format!("{path}.type"),
        kind,
        media_type: text("media_type"),
        source: source.or_else(|| text("data").map(Source::Base64)),
    }
}

/// One message of text, reasoning and calls. `names` learns which call is of which tool.
fn assistant(
    blocks: Vec<AnthropicBlock>,
    path: &str,
    names: &mut HashMap<String, String>,
) -> Result<Message> {
    let mut message = Message::new(Role::Assistant, Vec::new());
    let mut thoughts = Vec::new();
    for (i, block) in blocks.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        block.check(&path)?;
        match block.r#type {
            BlockKind::Text => {
                message.parts.push(Part::Text(required(block.text, &path, "text")?));
            }
            BlockKind::Thinking => thoughts.push(required(block.thinking, &path, "thinking")?),
            BlockKind::ToolUse => {
                let id = required(block.id, &path, "id")?;
                let name = required(block.name, &path, "name")?;
                let arguments = Arguments::Object(required(block.input, &path, "input")?.0);
                names.insert(id.clone(), name.clone());
                message.calls.push(Call { id, name, arguments });
            }
            BlockKind::Image => message.parts.push(image(block.source.as_ref(), &path)),
            BlockKind::Document => message.parts.push(document(block.source.as_ref(), &path)),
            BlockKind::ToolResult => return Err(misplaced(&path, "user")),
        }
    }
    message.reasoning = (!thoughts.is_empty()).then(|| thoughts.join("\n"));
    Ok(message)
}

fn misplaced(path: &str, role: &str) -> Error {
    let field = format!("{path}.type");
    let text = format!("{field}: only a message of the {role} has blocks of this type");
    Error::invalid(field, text)
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::chat::message_json;

    fn messages(value: Value) -> Vec<AnthropicMessage> {
        serde_json::from_value(value).expect("messages")
    }

    fn shown(messages: &[Message]) -> Value {
        messages.iter().map(message_json).collect()
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
        assert_eq!((shown(&normal.messages), normal.continues), (expected, false));
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
        assert_eq!((shown(&normal.messages), normal.continues), (expected, true));
    }
}
