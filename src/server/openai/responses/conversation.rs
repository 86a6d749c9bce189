//! From items to the messages that chat templates read.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::items::{ItemRole, ResponsesCall, ResponsesItem, ResponsesMessage, ResponsesReasoning};
use crate::server::openai::content;

/// The messages of a conversation. What the assistant did between two turns of others is one message;
/// neighbouring words of the system are one as well, as templates know only one at the beginning.
pub(super) fn messages<'a>(
    instructions: Option<&str>,
    items: impl Iterator<Item = &'a ResponsesItem>,
) -> Vec<Value> {
    let mut talk = Talk::default();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        talk.system(instructions.to_owned());
    }
    for item in items {
        match item {
            ResponsesItem::Message(message) => talk.message(message),
            ResponsesItem::Call(call) => talk.call(call),
            ResponsesItem::CallOutput(output) => talk.result(&output.call_id, &output.output),
            ResponsesItem::Reasoning(reasoning) => talk.reasoning(reasoning),
        }
    }
    talk.close();
    talk.messages
}

#[derive(Default)]
struct Talk {
    messages: Vec<Value>,
    /// What the assistant does now.
    turn: Turn,
    /// Which call is of which function.
    names: HashMap<String, String>,
}

#[derive(Default)]
struct Turn {
    texts: Vec<String>,
    thoughts: Vec<String>,
    calls: Vec<Value>,
}

impl Talk {
    fn message(&mut self, message: &ResponsesMessage) {
        let texts = message.content.iter().map(|part| part.text().to_owned());
        match message.role {
            ItemRole::Assistant => self.turn.texts.extend(texts),
            ItemRole::System | ItemRole::Developer => {
                self.system(texts.collect::<Vec<_>>().join("\n"));
            }
            ItemRole::User => {
                let text = content(texts.collect());
                self.close();
                self.messages.push(json!({ "role": "user", "content": text }));
            }
        }
    }

    fn system(&mut self, text: String) {
        self.close();
        let last = self.messages.last_mut().filter(|last| last["role"] == "system");
        match last.and_then(|last| Some((last["content"].as_str()?.to_owned(), last))) {
            Some((before, last)) => last["content"] = format!("{before}\n\n{text}").into(),
            None => self.messages.push(json!({ "role": "system", "content": text })),
        }
    }

    fn reasoning(&mut self, reasoning: &ResponsesReasoning) {
        self.turn.thoughts.extend(reasoning.content.iter().map(|part| part.text.clone()));
        if reasoning.content.is_empty() {
            self.turn.thoughts.extend(reasoning.summary.iter().map(|part| part.text.clone()));
        }
    }

    fn call(&mut self, call: &ResponsesCall) {
        self.names.insert(call.call_id.clone(), call.name.clone());
        self.turn.calls.push(json!({
            "id": call.call_id,
            "type": "function",
            "function": { "name": call.name, "arguments": call.arguments },
        }));
    }

    fn result(&mut self, call_id: &str, output: &str) {
        self.close();
        let mut message = json!({ "role": "tool", "tool_call_id": call_id, "content": output });
        if let Some(name) = self.names.get(call_id) {
            message["name"] = name.as_str().into();
        }
        self.messages.push(message);
    }

    /// The assistant's turn ends.
    fn close(&mut self) {
        let Turn { texts, thoughts, calls } = std::mem::take(&mut self.turn);
        // Thoughts that led to nothing are no turn.
        if texts.is_empty() && calls.is_empty() {
            return;
        }
        let text = if texts.is_empty() { Value::Null } else { content(texts) };
        let mut message = json!({ "role": "assistant", "content": text });
        if !thoughts.is_empty() {
            message["reasoning_content"] = thoughts.join("\n").into();
        }
        if !calls.is_empty() {
            message["tool_calls"] = calls.into();
        }
        self.messages.push(message);
    }
}

#[cfg(test)]
mod tests {
    use super::super::input::{Given, ResponsesInputItem};
    use super::*;

    #[test]
    fn a_loop_of_tools_becomes_turns() {
        let wire = json!([
            {"role": "developer", "content": "d"},
            {"role": "user", "content": [{"type": "input_text", "text": "q"}]},
            {"type": "reasoning", "id": "r", "summary": [],
                "content": [{"type": "reasoning_text", "text": "hm"}]},
            {"type": "message", "role": "assistant", "content": [{"type": "output_text", "text": "wait"}]},
            {"type": "function_call", "call_id": "1", "name": "f", "arguments": "{\"x\": 1}"},
            {"type": "function_call", "call_id": "2", "name": "g", "arguments": ""},
            {"type": "function_call_output", "call_id": "1", "output": "a"},
            {"type": "function_call_output", "call_id": "2", "output": [{"type": "input_text", "text": "b"}]},
            {"type": "message", "role": "assistant", "content": "so"},
            {"role": "user", "content": "thanks"},
        ]);
        let items: Vec<ResponsesInputItem> = serde_json::from_value(wire).expect("items");
        let read = |item: ResponsesInputItem| match item.read("input").expect("valid") {
            Given::Item(item) => item,
            Given::Reference(_) => panic!("no reference"),
        };
        let items: Vec<_> = items.into_iter().map(read).collect();
        let call = |id: &str, name: &str, arguments: Value| {
            json!({
                "id": id, "type": "function", "function": {"name": name, "arguments": arguments},
            })
        };
        let expected = json!([
            {"role": "system", "content": "i\n\nd"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "wait", "reasoning_content": "hm", "tool_calls": [
                call("1", "f", json!("{\"x\": 1}")), call("2", "g", json!("")),
            ]},
            {"role": "tool", "tool_call_id": "1", "name": "f", "content": "a"},
            {"role": "tool", "tool_call_id": "2", "name": "g", "content": "b"},
            {"role": "assistant", "content": "so"},
            {"role": "user", "content": "thanks"},
        ]);
        assert_eq!(Value::Array(messages(Some("i"), items.iter())), expected);
    }
}
