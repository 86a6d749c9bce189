//! Calls that `max_tokens` or a stop string cuts: said in each dialect's way, and taken back.

use serde_json::{Value, json};

use super::{
    harness::{Reply, Server},
    structured::events,
    tools::{FORMATS, assemble, tools},
};

const CHAT: &str = "/v1/chat/completions";

/// `FREE`: nothing constrains the answer, so that each model cuts its own form.
async fn saying(template: &str, answer: &str) -> Server {
    let server = Server::scripted();
    server.load_from("m", &format!("{{# {template} FREE #}}P => {answer}")).await;
    server
}

async fn ask(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post(path, body.to_string()).await;
    assert_eq!(reply.status, 200, "{body}: {}", reply.text);
    reply.json()
}

fn question() -> Value {
    json!([{"role": "user", "content": "x"}])
}

/// The question, and what followed.
fn with(more: &[Value]) -> Value {
    let mut all = question();
    all.as_array_mut().unwrap().extend_from_slice(more);
    all
}

fn named_events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let data = reply.text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter_map(|data| serde_json::from_str(data).ok()).collect()
}

/// Only the answer's own words are content; a call is the same streamed and whole.
async fn check_chat(server: &Server, what: &str, cut: usize) -> Value {
    let mut body = json!({"model": "m", "messages": question(), "temperature": 0,
        "max_tokens": cut, "tools": tools()});
    let whole = ask(server, CHAT, &body).await;
    let choice = &whole["choices"][0];
    let message = &choice["message"];
    let content = message["content"].as_str().unwrap_or_default();
    assert!("Sure.".starts_with(content), "{what}: {message}");
    assert_eq!(choice["finish_reason"], "length", "{what}: {message}");
    body["stream"] = true.into();
    let (streamed, reason) = assemble(&events(&server.post(CHAT, body.to_string()).await));
    assert_eq!((&streamed["content"], &reason), (&json!(content), &json!("length")), "{what}");
    let calls = message.get("tool_calls").cloned().unwrap_or_else(|| json!([]));
    let texts = |calls: &Value| -> Vec<Value> {
        calls.as_array().unwrap().iter().map(|call| call["function"].clone()).collect()
    };
    assert_eq!(texts(&calls), texts(&streamed["tool_calls"]), "{what}");
    // The client sends back what it got.
    let mut more = vec![message.clone()];
    more.extend(
        calls
            .as_array()
            .unwrap()
            .iter()
            .map(|call| json!({"role": "tool", "tool_call_id": call["id"], "content": "cut"})),
    );
    ask(
        server,
        CHAT,
        &json!({"model": "m", "messages": with(&more), "tools": tools(),
        "max_tokens": 1}),
    )
    .await;
    calls
}

/// The tools as Responses have them.
pub(super) fn flat_tools() -> Vec<Value> {
    let flat = |tool: &Value| {
        let mut tool = tool["function"].clone();
        tool["type"] = "function".into();
        tool
    };
    tools().as_array().unwrap().iter().map(flat).collect()
}

/// The tools as Anthropic has them.
pub(super) fn schema_tools() -> Vec<Value> {
    let tool = |tool: &Value| {
        let function = &tool["function"];
        let schema = function.get("parameters").cloned();
        json!({"name": function["name"],
            "input_schema": schema.unwrap_or_else(|| json!({"type": "object"}))})
    };
    tools().as_array().unwrap().iter().map(tool).collect()
}

async fn check_responses(server: &Server, what: &str, cut: usize) {
    let path = "/v1/responses";
    let tools = flat_tools();
    let mut body = json!({"model": "m", "input": question(), "temperature": 0, "tools": tools,
        "max_output_tokens": cut.max(16)});
    let whole = ask(server, path, &body).await;
    assert_eq!(whole["status"], "incomplete", "{what}: {whole}");
    assert_eq!(whole["incomplete_details"]["reason"], "max_output_tokens", "{what}");
    let output = whole["output"].as_array().unwrap();
    for item in output.iter().filter(|item| item["type"] == "function_call") {
        let arguments = item["arguments"].as_str().unwrap();
        let is_whole = serde_json::from_str::<Value>(arguments).is_ok();
        assert!(is_whole || item["status"] == "incomplete", "{what}: {item}");
    }
    let results = output.iter().filter(|item| item["type"] == "function_call").map(
        |call| json!({"type": "function_call_output", "call_id": call["call_id"], "output": "cut"}),
    );
    let results: Vec<Value> = results.collect();
    let items = [output.as_slice(), &results].concat();
    let again = json!({"model": "m", "input": with(&items), "max_output_tokens": 16});
    ask(server, path, &again).await;
    let again = json!({"model": "m", "previous_response_id": whole["id"], "input": results,
        "max_output_tokens": 16});
    if !results.is_empty() {
        ask(server, path, &again).await;
    }
    body["stream"] = true.into();
    let events = named_events(&server.post(path, body.to_string()).await);
    let last = events.last().unwrap();
    assert_eq!(last["type"], "response.incomplete", "{what}: {last}");
    let kinds = |items: &Value| -> Vec<(Value, Value, Value)> {
        let item = |i: &Value| (i["type"].clone(), i["status"].clone(), i["arguments"].clone());
        items.as_array().unwrap().iter().map(item).collect()
    };
    assert_eq!(kinds(&last["response"]["output"]), kinds(&whole["output"]), "{what}");
}

async fn check_messages(server: &Server, what: &str, cut: usize) {
    let path = "/v1/messages";
    let tools = schema_tools();
    let body = json!({"model": "m", "messages": question(), "temperature": 0, "tools": tools,
        "max_tokens": cut});
    let whole = ask(server, path, &body).await;
    assert_eq!(whole["stop_reason"], "max_tokens", "{what}: {whole}");
    let blocks = whole["content"].as_array().unwrap();
    assert!(blocks.iter().all(|b| b["type"] != "tool_use" || b["input"].is_object()), "{whole}");
    let mut more = vec![json!({"role": "assistant", "content": blocks})];
    let results: Vec<Value> = blocks
        .iter()
        .filter(|block| block["type"] == "tool_use")
        .map(|call| json!({"type": "tool_result", "tool_use_id": call["id"], "content": "cut"}))
        .collect();
    more.push(json!({"role": "user", "content": if results.is_empty() { json!("go on") } else { json!(results) }}));
    ask(server, path, &json!({"model": "m", "messages": with(&more), "max_tokens": 1})).await;
}

async fn check_ollama(server: &Server, what: &str, cut: usize, num_calls: usize) {
    let path = "/api/chat";
    let mut body = json!({"model": "m", "messages": question(), "tools": tools(), "stream": false,
        "options": {"num_predict": cut, "temperature": 0}});
    let whole = ask(server, path, &body).await;
    assert_eq!(whole["done_reason"], "length", "{what}: {whole}");
    let calls = |message: &Value| -> Vec<Value> {
        let calls = message["tool_calls"].as_array().cloned().unwrap_or_default();
        calls.iter().map(|call| call["function"].clone()).collect()
    };
    assert_eq!(calls(&whole["message"]).len(), num_calls, "{what}: {whole}");
    ask(
        server,
        path,
        &json!({"model": "m", "messages": with(&[whole["message"].clone()]),
        "stream": false, "options": {"num_predict": 1}}),
    )
    .await;
    body["stream"] = true.into();
    let reply = server.post(path, body.to_string()).await;
    let lines = reply.text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let streamed: Vec<Value> = lines.flat_map(|line| calls(&line["message"])).collect();
    assert_eq!(streamed, calls(&whole["message"]), "{what}");
}

#[tokio::test]
async fn cut_calls_are_told_and_taken_back_in_every_format() {
    for (template, answer) in FORMATS {
        let server = saying(template, answer).await;
        let mut partial = 0;
        // Wherever it may be cut: in a mark, in a name, in the first call or the second.
        for cut in 1.. {
            let what = format!("{template} cut at {cut}");
            let probe = json!({"model": "m", "messages": question(), "temperature": 0,
                "max_tokens": cut, "tools": tools()});
            let whole = ask(&server, CHAT, &probe).await;
            if whole["choices"][0]["finish_reason"] != "length" {
                break;
            }
            if cut % 5 != 0 {
                continue;
            }
            let calls = check_chat(&server, &what, cut).await;
            let last = calls.as_array().unwrap().last();
            partial += usize::from(last.is_some_and(|call| {
                let text = call["function"]["arguments"].as_str().unwrap();
                !text.is_empty() && serde_json::from_str::<Value>(text).is_err()
            }));
            if cut % 15 == 0 {
                check_responses(&server, &what, cut).await;
                check_messages(&server, &what, cut).await;
                check_ollama(&server, &what, cut, calls.as_array().unwrap().len()).await;
            }
        }
        assert!(partial > 0, "{template}: no cut fell into arguments");
    }
}

#[tokio::test]
async fn a_cut_input_is_the_object_that_came() {
    let answer = "<tool_call>{\"name\": \"clock\", \"arguments\": {\"zone\": [\"Rome\", \"Par";
    let server = saying("<tool_call>", &format!("{answer}is and more\"]}}}}</tool_call>")).await;
    let cut = answer.len() - "<tool_call>".len() + 1;
    let tool = json!([{"name": "clock", "input_schema": {"type": "object"}}]);
    let body = json!({"model": "m", "messages": question(), "temperature": 0, "tools": tool,
        "max_tokens": cut});
    let whole = ask(&server, "/v1/messages", &body).await;
    assert_eq!(whole["content"][0]["input"], json!({"zone": ["Rome", "Par"]}), "{whole}");
}

#[tokio::test]
async fn a_stop_string_within_a_call_is_told() {
    let answer =
        "<tool_call>{\"name\": \"clock\", \"arguments\": {\"a\": \"b STOP c\"}}</tool_call>";
    let server = saying("<tool_call>", answer).await;
    let body = json!({"model": "m", "messages": question(), "temperature": 0, "tools": tools(),
        "stop": ["STOP"]});
    let choice = ask(&server, CHAT, &body).await["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "stop", "{choice}");
    assert_eq!(choice["message"]["tool_calls"][0]["function"]["arguments"], "{\"a\": \"b ");
    // Behind its arguments, a call is whole.
    let body = json!({"model": "m", "messages": question(), "temperature": 0, "tools": tools(),
        "stop": ["</tool_call>"]});
    let choice = ask(&server, CHAT, &body).await["choices"][0].clone();
    assert_eq!(choice["finish_reason"], "tool_calls", "{choice}");
}
