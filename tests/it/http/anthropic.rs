//! Anthropic's dialect.

use kolosal_server::server::{ApiKeys, Options};
use serde_json::{Value, json};

use super::harness::{Reply, Server};
use super::model::CONTEXT;

const MESSAGES: &str = "/v1/messages";

fn request(fields: &Value) -> Value {
    let mut request = json!({
        "model": "m", "max_tokens": 200, "temperature": 0,
        "messages": [{"role": "user", "content": "x"}],
    });
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}

async fn ask(server: &Server, fields: &Value) -> Value {
    let reply = server.post(MESSAGES, request(fields).to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// The events of a stream, whose names are their types.
pub(super) fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let read = |event: &str| {
        let (name, data) = event.split_once('\n').expect("a name and data");
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str(), "{event}");
        data
    };
    reply.text.split_terminator("\n\n").map(read).collect()
}

/// An input, also one that broke off: as much of the object as came.
fn partial(json: &str) -> Value {
    let call = kolosal_server::chat::ToolCall {
        index: 0,
        id: String::new(),
        name: String::new(),
        arguments: json.to_owned(),
    };
    call.object().into()
}

/// The message that the events of a stream make, as the official clients put it together.
pub(super) fn assemble(events: &[Value]) -> Value {
    assert_eq!((&events[0]["type"], &events[1]["type"]), (&json!("message_start"), &json!("ping")));
    let mut message = events[0]["message"].clone();
    let mut open: Option<(u64, String)> = None;
    let mut is_over = false;
    for event in &events[2..] {
        assert!(!is_over, "{event}");
        let index = event["index"].as_u64();
        let blocks = message["content"].as_array().unwrap().len() as u64;
        match event["type"].as_str().unwrap() {
            "content_block_start" => {
                assert_eq!((open.take(), index), (None, Some(blocks)), "{event}");
                open = Some((blocks, String::new()));
                message["content"].as_array_mut().unwrap().push(event["content_block"].clone());
            }
            "content_block_delta" => {
                let (at, json) = open.as_mut().expect("an open block");
                assert_eq!(Some(*at), index);
                let (block, delta) = (&mut message["content"][*at as usize], &event["delta"]);
                let (kind, field) = match delta["type"].as_str().unwrap() {
                    "text_delta" => ("text", "text"),
                    "thinking_delta" => ("thinking", "thinking"),
                    _ => {
                        assert_eq!(
                            (&delta["type"], &block["type"]),
                            (&json!("input_json_delta"), &json!("tool_use"))
                        );
                        json.push_str(delta["partial_json"].as_str().unwrap());
                        continue;
                    }
                };
                assert_eq!(block["type"], kind);
                let text = block[field].as_str().unwrap().to_owned();
                block[field] = (text + delta[field].as_str().unwrap()).into();
            }
            "content_block_stop" => {
                let (at, json) = open.take().expect("an open block");
                assert_eq!(Some(at), index);
                if !json.is_empty() {
                    message["content"][at as usize]["input"] = partial(&json);
                }
            }
            "message_delta" => {
                for field in ["stop_reason", "stop_sequence"] {
                    message[field] = event["delta"][field].clone();
                }
                message["usage"] = event["usage"].clone();
            }
            kind => {
                assert_eq!(kind, "message_stop");
                is_over = true;
            }
        }
    }
    assert!(is_over && open.is_none());
    message
}

/// The same answer in both forms, without what differs by nature.
async fn both(server: &Server, fields: &Value) -> Value {
    let mut whole = ask(server, fields).await;
    let mut request = request(fields);
    request["stream"] = true.into();
    let mut streamed = assemble(&events(&server.post(MESSAGES, request.to_string()).await));
    for message in [&mut whole, &mut streamed] {
        assert!(message["id"].as_str().is_some_and(|id| id.starts_with("msg_")), "{message}");
        message["id"] = Value::Null;
        // The second request finds the prompt of the first in the cache.
        let usage = message["usage"].take();
        let sum = |names: [&str; 2]| names.iter().map(|name| usage[name].as_u64().unwrap()).sum();
        let prompt: u64 = sum(["input_tokens", "cache_read_input_tokens"]);
        message["usage"] = json!([prompt, usage["output_tokens"]]);
        for block in message["content"].as_array_mut().unwrap() {
            if block["type"] == "tool_use" {
                assert!(block["id"].as_str().is_some_and(|id| id.len() >= 9));
                block["id"] = Value::Null;
            }
        }
    }
    assert_eq!(whole, streamed);
    whole
}

fn text(text: &str) -> Value {
    json!({"type": "text", "text": text, "citations": []})
}

async fn saying(template: &str, answer: &str) -> Server {
    let server = Server::scripted();
    server.load_from("m", &format!("{{# {template} #}}P => {answer}")).await;
    server
}

#[tokio::test]
async fn a_message_is_answered_at_once_or_in_events() {
    let server = Server::new();
    server.load("m").await;
    let answer = both(&server, &json!({})).await;
    assert_eq!(
        (&answer["type"], &answer["role"], &answer["model"]),
        (&json!("message"), &json!("assistant"), &json!("m"))
    );
    assert_eq!(answer["content"], json!([text("abcdefghijklmnopqrstuvwxyz")]));
    assert_eq!(
        (&answer["stop_reason"], &answer["stop_sequence"]),
        (&json!("end_turn"), &Value::Null)
    );
    let cases = [
        (json!({"max_tokens": 3}), "abc", "max_tokens", Value::Null),
        (json!({"stop_sequences": ["nope", "de"]}), "abc", "stop_sequence", json!("de")),
        (
            json!({"top_k": 1, "top_p": 0.5, "temperature": 1, "max_tokens": 2}),
            "ab",
            "max_tokens",
            Value::Null,
        ),
        // The assistant's last message is continued.
        (
            json!({"messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "w"}]}),
            "xyz",
            "end_turn",
            Value::Null,
        ),
    ];
    for (fields, content, reason, stop) in cases {
        let answer = both(&server, &fields).await;
        assert_eq!(answer["content"], json!([text(content)]), "{fields}");
        assert_eq!(
            (&answer["stop_reason"], &answer["stop_sequence"]),
            (&json!(reason), &stop),
            "{fields}"
        );
    }
    // Without the prefix, and with all that has no effect.
    let fields = json!({
        "metadata": {"user_id": "u"}, "service_tier": "auto", "cache_control": {"type": "ephemeral"},
        "thinking": {"type": "enabled", "budget_tokens": 100, "display": "summarized"}, "tools": null, "max_tokens": 101,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "1h"}}],
    });
    let headers = [("anthropic-version", "2023-06-01")];
    let reply = server.request("POST", "/messages", &headers, request(&fields).to_string()).await;
    assert_eq!(reply.json()["content"][0]["text"], "abcdefghijklmnopqrstuvwxyz", "{}", reply.text);
}

#[tokio::test]
async fn thoughts_and_calls_are_blocks() {
    let call = "<tool_call>\n{\"name\": \"clock\", \"arguments\": {\"zone\": \"a long name of a zone, longer than one piece of it, at the end of the world\"}}\n</tool_call>";
    let tools = json!([{"name": "clock", "description": "d", "input_schema": {
        "type": "object", "properties": {"zone": {"type": "string"}}, "required": ["zone"]}}]);
    let input = json!({"zone": "a long name of a zone, longer than one piece of it, at the end of the world"});
    let used = json!({"type": "tool_use", "id": null, "name": "clock", "input": input});
    let thought = json!({"type": "thinking", "thinking": "Hm", "signature": ""});
    let server =
        saying("<tool_call> <think>", &format!("<think>Hm</think>Sure.{call}\n{call}")).await;
    let fields = json!({"tools": tools, "max_tokens": 1000});
    let answer = both(&server, &fields).await;
    assert_eq!(answer["content"], json!([thought, text("Sure."), used, used]));
    assert_eq!(answer["stop_reason"], "tool_use");
    let one = json!({"tools": tools, "max_tokens": 1000,
        "tool_choice": {"type": "auto", "disable_parallel_tool_use": true}});
    let answer = both(&server, &one).await;
    assert_eq!(answer["content"], json!([thought, text("Sure."), used]));
    // Without tools nothing is a call.
    for fields in [json!({}), json!({"tools": tools, "tool_choice": {"type": "none"}})] {
        let answer = both(&server, &fields).await;
        assert_eq!(answer["stop_reason"], "max_tokens", "{fields}: {answer}");
        assert!(answer["content"][1]["text"].as_str().unwrap().starts_with("Sure."));
    }
    // Blanks before a call are no text.
    let server = saying("<tool_call>", &format!("\n {call}")).await;
    assert_eq!(both(&server, &fields).await["content"], json!([used]));
    // A call can be required; its arguments follow the schema.
    let server = saying("<tool_call>", "I would rather talk.").await;
    let tools = json!([tools[0], {"name": "dice", "input_schema": {"type": "object",
        "properties": {"sides": {"enum": [6]}}, "required": ["sides"], "additionalProperties": false}}]);
    let choice = json!({"type": "tool", "name": "dice"});
    let answer = both(&server, &json!({"tools": tools, "tool_choice": choice})).await;
    let rolled = json!({"type": "tool_use", "id": null, "name": "dice", "input": {"sides": 6}});
    assert_eq!(
        (&answer["content"], &answer["stop_reason"]),
        (&json!([rolled]), &json!("tool_use"))
    );
    let any = json!({"tools": [tools[1]], "tool_choice": {"type": "any", "disable_parallel_tool_use": true}});
    assert_eq!(both(&server, &any).await["content"], json!([rolled]));
    let auto = json!({"tools": tools, "tool_choice": {"type": "auto"}});
    assert_eq!(both(&server, &auto).await["content"], json!([text("I would rather talk.")]));
    // So can a form of the answer.
    let schema = json!({"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"],
        "additionalProperties": false});
    let format = json!({"output_config": {"format": {"type": "json_schema", "schema": schema}}});
    let answer = both(&server, &format).await;
    let said: Value = serde_json::from_str(answer["content"][0]["text"].as_str().unwrap()).unwrap();
    assert_eq!(said, json!({"a": 1}));
}

#[tokio::test]
async fn tokens_are_counted_as_they_are_generated_from() {
    let server = Server::new();
    server.load("m").await;
    let messages = json!([
        {"role": "user", "content": [{"type": "text", "text": "x"}]},
        {"role": "assistant", "content": [
            {"type": "thinking", "thinking": "hm", "signature": "s"}, text("y"),
            {"type": "tool_use", "id": "t", "name": "f", "input": {}},
        ]},
        {"role": "user", "content": [{"type": "tool_result", "tool_use_id": "t", "content": "z"}]},
    ]);
    let mut fields = json!({"messages": messages, "system": "be brief"});
    let usage = ask(&server, &fields).await["usage"].clone();
    fields["model"] = "m".into();
    let counted = server.post("/v1/messages/count_tokens", fields.to_string()).await.json();
    assert_eq!(counted, json!({"input_tokens": usage["input_tokens"]}));
    // What is cached is not counted twice.
    fields.as_object_mut().unwrap().remove("model");
    let again = ask(&server, &fields).await["usage"].clone();
    let cached = again["cache_read_input_tokens"].as_u64().unwrap();
    assert_eq!(again["input_tokens"].as_u64().unwrap() + cached, usage["input_tokens"]);
    for (name, value) in [
        ("cache_creation_input_tokens", json!(0)),
        ("service_tier", json!("standard")),
        ("output_tokens_details", json!({"thinking_tokens": 0})),
        ("server_tool_use", Value::Null),
    ] {
        assert_eq!(usage[name], value);
    }
}

#[tokio::test]
async fn what_todays_agents_send_is_taken_and_told() {
    let server = Server::new();
    server.load("m").await;
    let tool = |fields: Value| {
        let mut tool = json!({"name": "a", "input_schema": {"type": "object"}});
        tool.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        json!({"tools": [tool]})
    };
    let text = |more: Value| {
        let mut block = json!({"type": "text", "text": "a"});
        block.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"system": [block]})
    };
    for (fields, told) in [
        (json!({"context_management": {"edits": []}}), "context_management"),
        (
            json!({"thinking": {"type": "adaptive", "display": "omitted"}}),
            "thinking.display (omitted)",
        ),
        (
            text(json!({"cache_control": {"type": "ephemeral", "scope": "x"}})),
            "system[0].cache_control.scope",
        ),
        (tool(json!({"defer_loading": true})), "tools[0].defer_loading"),
        (tool(json!({"allowed_callers": ["x"]})), "tools[0].allowed_callers"),
        (json!({"tools": [{"type": "bash_20250124", "name": "bash"}]}), "tools[0] (bash_20250124)"),
        (json!({"max_tokens": 100_000}), ""),
    ] {
        let reply = server.post(MESSAGES, request(&fields).to_string()).await;
        let got = (reply.status, reply.header("x-kolosal-ignored").unwrap_or_default());
        assert_eq!(got, (200, told), "{fields}: {}", reply.text);
    }
    // Digits never end: the context does.
    let endless = json!({"max_tokens": 100_000, "messages": [
        {"role": "user", "content": "a".repeat(CONTEXT - 60)}, {"role": "assistant", "content": "1"},
    ]});
    let whole = server.post(MESSAGES, request(&endless).to_string()).await.json();
    assert_eq!(whole["stop_reason"], "model_context_window_exceeded", "{whole}");
    let mut streamed = endless;
    streamed["stream"] = true.into();
    let all = events(&server.post(MESSAGES, request(&streamed).to_string()).await);
    let end = all.iter().find(|event| event["type"] == "message_delta").expect("an end");
    assert_eq!(end["delta"]["stop_reason"], whole["stop_reason"]);
    // What changes from request to request at the front does not reach the prompt.
    let tokens = async |system: &str| {
        let fields =
            json!({"system": [{"type": "text", "text": system}, {"type": "text", "text": "b"}]});
        let reply = server.post(MESSAGES, request(&fields).to_string()).await.json();
        reply["usage"]["input_tokens"].clone()
    };
    let billing = "x-anthropic-billing-header: cc_version=2.1; cch=";
    assert_eq!(
        tokens(&format!("{billing}0;")).await,
        tokens(&format!("{billing}{};", "a".repeat(99))).await
    );
    assert_ne!(tokens("c").await, tokens(&format!("{billing}0;")).await);
}

#[tokio::test]
async fn failures_have_anthropics_form() {
    let server = Server::new();
    server.load("m").await;
    let user = |block: Value| json!({"messages": [{"role": "user", "content": [block]}]});
    let tool = |fields: Value| json!({"tools": [fields]});
    let schema = json!({"type": "object"});
    let plain = |field: &str, value: Value| {
        tool(json!({"name": "a", "input_schema": {"type": "object"}, field: value}))
    };
    let image = json!({"type": "image", "source": {"type": "base64", "media_type": "image/png", "data": ""}});
    let cases = [
        (json!({"max_tokens": 0}), 400, "max_tokens"),
        (json!({"max_tokens": "many"}), 400, "max_tokens"),
        (json!({"temperature": 1.5}), 400, "temperature"),
        (json!({"top_p": -1}), 400, "top_p"),
        (json!({"top_k": -2}), 400, "top_k"),
        (json!({"stop_sequences": [""]}), 400, "stop_sequences[0]"),
        (json!({"stop_sequences": vec!["x"; 20]}), 400, "stop_sequences"),
        (json!({"messages": []}), 400, "messages"),
        (json!({"messages": [{"role": "user"}]}), 400, "messages[0].content"),
        (json!({"messages": [{"role": "user", "content": []}]}), 400, "messages[0].content"),
        (user(image), 400, "messages[0].content[0]"),
        (user(json!({"type": "text"})), 400, "messages[0].content[0].text"),
        (user(json!({"type": "text", "text": "a", "id": "b"})), 400, "messages[0].content[0].id"),
        (
            user(json!({"type": "tool_use", "id": "a", "name": "b", "input": {}})),
            400,
            "messages[0].content[0].type",
        ),
        (user(json!({"type": "tool_result"})), 400, "messages[0].content[0].tool_use_id"),
        (
            json!({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": {}}]}]}),
            400,
            "tool_result",
        ),
        (tool(json!({"name": "a b", "input_schema": schema})), 400, "tools[0].name"),
        (tool(json!({"name": "a"})), 400, "tools[0].input_schema"),
        (
            tool(json!({"name": "a", "input_schema": {"type": "array"}})),
            400,
            "tools[0].input_schema",
        ),
        (plain("input_examples", json!(5)), 400, "tools[0].input_examples"),
        (json!({"tool_choice": {"type": "any"}}), 400, "tool_choice"),
        (json!({"tool_choice": {"type": "tool", "name": "f"}}), 400, "tool_choice.name"),
        (json!({"tool_choice": {"type": "auto", "name": "f"}}), 400, "tool_choice.name"),
        (
            json!({"thinking": {"type": "enabled", "budget_tokens": 200}}),
            400,
            "thinking.budget_tokens",
        ),
        (
            json!({"thinking": {"type": "disabled", "budget_tokens": 1}}),
            400,
            "thinking.budget_tokens",
        ),
        (json!({"mcp_servers": []}), 400, "mcp_servers"),
        (json!({"model": "f"}), 404, "f"),
    ];
    for (fields, status, word) in cases {
        let reply = server.post(MESSAGES, request(&fields).to_string()).await;
        let kind = if status == 404 { "not_found_error" } else { "invalid_request_error" };
        fails(&reply, status, kind, word);
    }
    let mut missing = request(&json!({}));
    missing.as_object_mut().unwrap().remove("max_tokens");
    let reply = server.post(MESSAGES, missing.to_string()).await;
    fails(&reply, 400, "invalid_request_error", "max_tokens");
    fails(&server.post(MESSAGES, "{").await, 400, "invalid_request_error", "JSON");
    fails(&server.get("/messages/count_tokens").await, 405, "invalid_request_error", "method");
    fails(
        &server.get("/v1/messages/batches").await,
        404,
        "not_found_error",
        "/v1/messages/batches",
    );
    // What goes wrong midway is a last event.
    let failing = json!({"stream": true, "messages": [{"role": "user", "content": "x"}, {"role": "assistant", "content": "#"}]});
    let all = events(&server.post(MESSAGES, request(&failing).to_string()).await);
    let last = all.last().expect("an event");
    assert_eq!(
        (&last["type"], &last["error"]["type"]),
        (&json!("error"), &json!("api_error")),
        "{all:?}"
    );
    server.drain.start();
    let reply = server.post(MESSAGES, request(&json!({})).to_string()).await;
    fails(&reply, 503, "overloaded_error", "");
    assert!(reply.header("retry-after").is_some());
}

fn fails(reply: &Reply, status: u16, kind: &str, word: &str) {
    assert_eq!(reply.status, status, "{word}: {}", reply.text);
    let body = reply.json();
    assert_eq!((&body["type"], &body["error"]["type"]), (&json!("error"), &json!(kind)), "{body}");
    assert!(
        body["error"]["message"].as_str().is_some_and(|text| text.contains(word)),
        "{word}: {body}"
    );
}

#[tokio::test]
async fn keys_come_in_anthropics_header() {
    let options = Options { keys: ApiKeys::new(["secret"]), ..Options::default() };
    let server = Server::with(options, |app| app);
    server.load("m").await;
    let body = request(&json!({"max_tokens": 1})).to_string();
    for (headers, status) in [
        (vec![("x-api-key", "secret"), ("anthropic-version", "2023-06-01")], 200),
        (vec![("Authorization", "Bearer secret")], 200),
        (vec![("x-api-key", "guess")], 401),
        (vec![], 401),
    ] {
        let reply = server.request("POST", MESSAGES, &headers, body.clone()).await;
        match status {
            200 => assert_eq!(reply.status, 200, "{headers:?}"),
            _ => fails(&reply, 401, "authentication_error", "API key"),
        }
    }
}
