//! From items to the messages of a conversation.

use std::collections::HashMap;

use serde_json::Map;

use super::{
    items::{
        ItemRole, ResponsesCall, ResponsesCallOutput, ResponsesCustomCall, ResponsesItem,
        ResponsesMessage, ResponsesPart, ResponsesReasoning,
    },
    tools::{INPUT, flat_name},
};
use crate::{
    chat::conversation::{Arguments, Call, Message, Part, Role},
    server::schema::TextOr,
};

/// The messages of a conversation: the items of earlier responses, and those of the request. What the
/// assistant did between two turns of others is one message; neighbouring words of the system are one
/// as well, as templates know only one at the beginning.
pub(super) fn messages(
    instructions: Option<&str>,
    before: &[ResponsesItem],
    items: &[ResponsesItem],
) -> Vec<Message> {
    let mut talk = Talk::default();
    if let Some(instructions) = instructions.filter(|text| !text.is_empty()) {
        talk.system(instructions.to_owned(), Vec::new());
    }
    before.iter().for_each(|item| talk.item(item, None));
    items.iter().enumerate().for_each(|(index, item)| talk.item(item, Some(index)));
    talk.close();
    talk.messages
}

#[derive(Default)]
struct Talk {
    messages: Vec<Message>,
    /// What the assistant does now.
    turn: Turn,
    /// Which call is of which function.
    names: HashMap<String, String>,
}

#[derive(Default)]
struct Turn {
    parts: Vec<Part>,
    thoughts: Vec<String>,
    calls: Vec<Call>,
}

impl Talk {
    /// `index` is the item's in the request, if it is of the request.
    fn item(&mut self, item: &ResponsesItem, index: Option<usize>) {
        match item {
            ResponsesItem::Message(message) => self.message(message, index),
            ResponsesItem::Call(call) => self.call(call),
            ResponsesItem::CustomCall(call) => self.custom_call(call),
            ResponsesItem::CallOutput(output) => self.result(output, index),
            ResponsesItem::Reasoning(reasoning) => self.reasoning(reasoning),
        }
    }

    fn message(&mut self, message: &ResponsesMessage, index: Option<usize>) {
        let mut parts = parts(&message.content, index, "content");
        match message.role {
            ItemRole::Assistant => self.turn.parts.append(&mut parts),
            ItemRole::System | ItemRole::Developer => {
                let texts: Vec<&str> = parts.iter().filter_map(Part::as_text).collect();
                let text = texts.join("\n");
                parts.retain(|part| part.as_text().is_none());
                self.system(text, parts);
            }
            ItemRole::User => {
                self.close();
                self.messages.push(Message::new(Role::User, parts));
            }
        }
    }

    /// Words of the system, and what is to be seen with them.
    fn system(&mut self, text: String, seen: Vec<Part>) {
        self.close();
        match self.messages.last_mut().filter(|last| last.role == Role::System) {
            Some(last) => {
                if let Some(Part::Text(before)) = last.parts.first_mut() {
                    before.push_str("\n\n");
                    before.push_str(&text);
                }
                last.parts.extend(seen);
            }
            None => {
                let parts = std::iter::once(Part::Text(text)).chain(seen).collect();
                self.messages.push(Message::new(Role::System, parts));
            }
        }
    }

    fn reasoning(&mut self, reasoning: &ResponsesReasoning) {
        self.turn.thoughts.extend(reasoning.content.iter().map(|part| part.text.clone()));
        if reasoning.content.is_empty() {
            self.turn.thoughts.extend(reasoning.summary.iter().map(|part| part.text.clone()));
        }
    }

    fn call(&mut self, call: &ResponsesCall) {
        let name = flat_name(call.namespace.as_deref(), &call.name);
        self.called(&call.call_id, name, Arguments::Text(call.arguments.clone()));
    }

    fn custom_call(&mut self, call: &ResponsesCustomCall) {
        let name = flat_name(call.namespace.as_deref(), &call.name);
        let input = (INPUT.to_owned(), call.input.as_str().into());
        self.called(&call.call_id, name, Arguments::Object(Map::from_iter([input])));
    }

    fn called(&mut self, call_id: &str, name: String, arguments: Arguments) {
        self.names.insert(call_id.to_owned(), name.clone());
        self.turn.calls.push(Call { id: call_id.to_owned(), name, arguments });
    }

    fn result(&mut self, output: &ResponsesCallOutput, index: Option<usize>) {
        self.close();
        let parts = match &output.output {
            TextOr::Text(text) => vec![Part::Text(text.clone())],
            TextOr::Items(items) => parts(items, index, "output"),
        };
        self.messages.push(Message {
            name: self.names.get(&output.call_id).cloned(),
            call_id: Some(output.call_id.clone()),
            ..Message::new(Role::Tool, parts)
        });
    }

    /// The assistant's turn ends.
    fn close(&mut self) {
        let Turn { parts, thoughts, calls } = std::mem::take(&mut self.turn);
        // Thoughts that led to nothing are no turn.
        if parts.is_empty() && calls.is_empty() {
            return;
        }
        let reasoning = (!thoughts.is_empty()).then(|| thoughts.join("\n"));
        self.messages.push(Message { calls, reasoning, ..Message::new(Role::Assistant, parts) });
    }
}

fn parts(items: &[ResponsesPart], index: Option<usize>, field: &str) -> Vec<Part> {
    let field = |i| match index {
        Some(index) => format!("input[{index}].{field}[{i}].type"),
        None => "previous_response_id".to_owned(),
    };
    items.iter().enumerate().map(|(i, item)| item.part(&field(i))).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::input::{Given, ResponsesInputItem};
    use super::*;
    use crate::chat::message_json;

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
        let messages = messages(Some("i"), &[], &items);
        assert_eq!(messages.iter().map(message_json).collect::<Value>(), expected);
    }
}
