//! Finds out what a template takes, by rendering small conversations.

use serde_json::{Value, json};

use super::messages::{Arguments, Content, Contents, Forms, Tools};

const KEY: &str = "needle_key";
const NEEDLE: &str = "needle_value";
const OTHER: &str = "needle_other";

/// Renders messages and tools, if the template can.
type Render<'a> = dyn Fn(Vec<Value>, Option<Value>) -> Option<String> + 'a;

impl Forms {
    pub(super) fn probe(render: &Render<'_>) -> Self {
        let arguments = probe_arguments(render);
        let of = |role| probe_content(render, role, arguments);
        Self {
            arguments,
            contents: Contents {
                system: of("system"),
                user: of("user"),
                assistant: of("assistant"),
                tool: of("tool"),
            },
            tools: probe_tools(render),
        }
    }
}

fn user(content: &str) -> Value {
    json!({"role": "user", "content": content})
}

fn tools(name: &str) -> Value {
    json!([{"type": "function", "function": {
        "name": name, "description": "d", "parameters": {"type": "object", "properties": {}}}}])
}

/// A user's question, a call, and what it gave back.
fn exchange(content: &Value, arguments: &Value, result: &Value) -> Vec<Value> {
    let call = json!({"id": "abcdef123", "type": "function",
        "function": {"name": "f", "arguments": arguments}});
    vec![
        user("u"),
        json!({"role": "assistant", "content": content, "tool_calls": [call]}),
        json!({"role": "tool", "tool_call_id": "abcdef123", "name": "f", "content": result}),
    ]
}

/// Objects, unless only text comes out as JSON.
fn probe_arguments(render: &Render<'_>) -> Arguments {
    // Some templates take the one or the other path for a missing and for an empty content.
    let successes = |arguments: &Value| {
        let works = |content: &&Value| {
            let messages = exchange(content, arguments, &json!("r"));
            let text = render(messages, Some(tools("f"))).unwrap_or_default();
            text.contains(NEEDLE) && !text.contains(&format!("{{'{KEY}'"))
        };
        [Value::Null, json!("")].iter().filter(works).count()
    };
    let object = json!({KEY: NEEDLE});
    let text = Value::String(format!("{{\"{KEY}\": \"{NEEDLE}\"}}"));
    if successes(&object) >= successes(&text) { Arguments::Object } else { Arguments::Text }
}

/// A list that comes out as a list's representation, or not whole, was not understood.
fn probe_content(render: &Render<'_>, role: &str, arguments: Arguments) -> Content {
    let works = |content: Value, needles: &[&str]| {
        let message = json!({"role": role, "content": content});
        let (messages, tools) = match (role, arguments) {
            ("system", _) => (vec![message, user("u")], None),
            ("assistant", _) => (vec![user("u"), message, user("v")], None),
            ("tool", Arguments::Object) => {
                (exchange(&json!(""), &json!({}), &content), Some(tools("f")))
            }
            ("tool", Arguments::Text) => {
                (exchange(&json!(""), &json!("{}"), &content), Some(tools("f")))
            }
            _ => (vec![message], None),
        };
        render(messages, tools).is_some_and(|text| {
            needles.iter().all(|needle| text.contains(needle)) && !text.contains("'text'")
        })
    };
    let part = |text: &str| json!({"type": "text", "text": text});
    let several = works(json!([part(NEEDLE), part(OTHER)]), &[NEEDLE, OTHER]);
    let one = || works(json!([part(NEEDLE)]), &[NEEDLE]);
    match (works(json!(NEEDLE), &[NEEDLE]), several) {
        (true, true) => Content::Any,
        (false, true) => Content::Parts,
        (false, false) if one() => Content::Parts,
        (_, false) => Content::Text,
    }
}

fn probe_tools(render: &Render<'_>) -> Tools {
    let system = |content: &str| json!({"role": "system", "content": content});
    let silent = |messages: Vec<Value>| {
        let text = render(messages, Some(tools(NEEDLE)));
        text.is_some_and(|text| !text.contains(NEEDLE))
    };
    // A template that fails has a reason of its own.
    if !silent(vec![system("s"), user("u")]) && !silent(vec![user("u")]) {
        return Tools::Template;
    }
    let text = render(vec![system(NEEDLE), user("u")], None);
    if text.is_some_and(|text| text.contains(NEEDLE)) { Tools::InSystem } else { Tools::InUser }
}
