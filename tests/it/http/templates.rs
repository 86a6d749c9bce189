//! Conversations over HTTP, in published templates: what Jinja2 makes of them, and what it is given.

use serde_json::{Value, json};

use super::harness::Server;
use crate::template::fixtures;

async fn apply(server: &Server, case: &Value) -> (u16, String) {
    let mut body = json!({"model": "m", "messages": case["messages"]});
    for (field, name) in [("tools", "tools"), ("kwargs", "chat_template_kwargs")] {
        if let Some(value) = case.get(field) {
            body[name] = value.clone();
        }
    }
    body["add_generation_prompt"] = case["generate"].clone();
    let reply = server.post("/apply-template", body.to_string()).await;
    let prompt = if reply.status == 200 { reply.json()["prompt"].clone() } else { Value::Null };
    (reply.status, prompt.as_str().map_or_else(|| reply.text.clone(), str::to_owned))
}

async fn serving(template: &str) -> Server {
    let server = Server::scripted();
    server.load_from("m", &format!("{template} => ok")).await;
    server
}

#[tokio::test]
async fn conversations_over_http_render_as_in_python() {
    let mut count = 0;
    for (name, fixture) in fixtures() {
        let source = fixture["template"].as_str().unwrap();
        // The server knows its own date and no BOS; what those write is tested below it.
        if source.contains("strftime_now")
            || source.contains("bos_token")
            || source.contains(" => ")
        {
            continue;
        }
        let server = serving(source).await;
        for case in fixture["cases"].as_array().unwrap() {
            let Some(expected) = case.get("expected").and_then(Value::as_str) else { continue };
            let describes = case.get("tools").is_some() && !expected.contains("Current weather");
            // To the scripted vocabulary the tags of reasoning are control tokens, which no text has.
            let has_tags = case["name"] == "think_tags";
            if case["continued"] == true || describes || has_tags {
                continue;
            }
            count += 1;
            let (status, text) = apply(&server, case).await;
            let expected = expected.replace("<EOS>", "<|im_end|>");
            assert_eq!((status, text), (200, expected), "{name}/{}", case["name"]);
        }
    }
    assert!(count > 100, "{count} of the fixtures were compared");
}

fn call(arguments: &str) -> Value {
    json!({"generate": true, "messages": [
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": "", "tool_calls": [{"id": "abcdef123", "type": "function",
            "function": {"name": "f", "arguments": arguments}}]},
        {"role": "tool", "tool_call_id": "abcdef123", "content": "r"},
    ]})
}

#[tokio::test]
async fn arguments_read_as_they_were_written() {
    let texts = [
        "{\"b\":1.0,\"a\" : \"\\u00e9\", \"c\":[1,2]}",
        "{ \"x\": 1e2 }",
        // Cut, or no object at all.
        "{\"a\": \"b",
        "nope",
    ];
    let templates = [
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ c.function.arguments | tojson }}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{% if c.function.arguments is string %}{{ c.function.arguments }}{% else %}{{ c.function.arguments | tojson }}{% endif %}{% endfor %}{% endfor %}",
        "{% for m in messages %}{% for c in m.tool_calls or [] %}{{ '' + c.function.arguments }}{% endfor %}{% endfor %}",
    ];
    for template in templates {
        let server = serving(template).await;
        for text in texts {
            assert_eq!(apply(&server, &call(text)).await, (200, text.to_owned()), "{template}");
        }
    }
    let template = "{% for m in messages %}{% for c in m.tool_calls or [] %}{% for k, v in c.function.arguments|items %}{{ k }}={{ v }};{% endfor %}{% endfor %}{% endfor %}";
    let server = serving(template).await;
    for (text, expected) in
        [("{\"a\":1,\"b\":\"c\"}", "a=1;b=c;"), ("{\"a\":1,\"b\":\"c", "a=1;b=c;"), ("nope", "")]
    {
        assert_eq!(apply(&server, &call(text)).await, (200, expected.to_owned()), "{text}");
    }
}

/// A template reads a user's parts and not its own model's.
#[tokio::test]
async fn lists_reach_those_who_read_them() {
    let template = "{% for m in messages %}{% if m.role == 'user' and m.content is not string %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% else %}{{ m.content + ';' }}{% endif %}{% endfor %}";
    let server = serving(template).await;
    let parts = json!([{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]);
    let case = json!({"generate": false, "messages": [
        {"role": "user", "content": parts}, {"role": "assistant", "content": parts},
    ]});
    assert_eq!(apply(&server, &case).await, (200, "<a><b>a\nb;".to_owned()));
}

/// As Gemma 2 does.
#[tokio::test]
async fn tools_are_described_to_models_without_a_system_message() {
    let template = "{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}";
    let server = serving(template).await;
    let tool = json!([{"type": "function", "function": {"name": "get_weather", "parameters": {}}}]);
    let case = json!({"generate": true, "tools": tool,
        "messages": [{"role": "user", "content": "Weather?"}]});
    let (status, text) = apply(&server, &case).await;
    assert_eq!(status, 200, "{text}");
    assert!(text.starts_with("<user>You may call") && text.contains("get_weather"), "{text}");
    assert!(text.ends_with("\n\nWeather?"), "{text}");
}
