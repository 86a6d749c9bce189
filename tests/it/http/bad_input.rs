//! Bad requests: each gets the right status, names its field, and leaves the server as it was.

use serde_json::{Value, json};

use super::harness::{Reply, Server};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

/// A valid chat request with some fields replaced.
fn chat(fields: Value) -> Value {
    let mut request = json!({"model": "m", "messages": [{"role": "user", "content": "hi"}]});
    merge(&mut request, fields);
    request
}

/// A valid text completion request with some fields replaced.
fn completion(fields: Value) -> Value {
    let mut request = json!({"model": "m", "prompt": "hi"});
    merge(&mut request, fields);
    request
}

fn merge(request: &mut Value, fields: Value) {
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
}

#[track_caller]
fn assert_invalid(reply: &Reply, param: Option<&str>, what: &str) {
    let error = reply.json()["error"].clone();
    assert_eq!(reply.status, 400, "{what}: {error}");
    assert_eq!(error["type"], "invalid_request_error", "{what}");
    assert_eq!(error["param"].as_str(), param, "{what}: {error}");
    let message = error["message"].as_str().expect("a message");
    assert!(!message.is_empty() && message.len() < 1000, "{what}: {message}");
}

#[tokio::test]
async fn bodies_that_are_no_json_object() {
    let server = Server::new();
    let deep = "[".repeat(100_000);
    let bodies: Vec<(&str, Vec<u8>)> = vec![
        ("empty", vec![]),
        ("blank", b" \n\t".to_vec()),
        ("truncated", br#"{"model": "m", "mess"#.to_vec()),
        ("array", br#"["m", [{"role": "user", "content": "hi"}]]"#.to_vec()),
        ("null", b"null".to_vec()),
        ("string", b"\"m\"".to_vec()),
        ("number", b"5".to_vec()),
        ("not UTF-8", b"{\"model\": \"\xff\xfe\"}".to_vec()),
        ("lone surrogate", br#"{"model": "\ud800"}"#.to_vec()),
        ("two objects", br#"{"model": "m", "prompt": "x"} {}"#.to_vec()),
        (
            "a number out of range",
            br#"{"model": "m", "prompt": "x", "temperature": 1e309}"#.to_vec(),
        ),
        ("NaN", br#"{"model": "m", "prompt": "x", "temperature": NaN}"#.to_vec()),
        ("deep in a known field", format!(r#"{{"model": "m", "prompt": {deep}"#).into_bytes()),
        ("deep in an unknown field", format!(r#"{{"model": "m", "x": {deep}"#).into_bytes()),
        ("deep kwargs", format!(r#"{{"chat_template_kwargs": {{"a": {deep}"#).into_bytes()),
        ("gzip", b"\x1f\x8b\x08\x00\x00\x00\x00\x00".to_vec()),
    ];
    for (what, body) in bodies {
        for path in [CHAT, COMPLETIONS, "/engines"] {
            let reply = server.post(path, body.clone()).await;
            assert_eq!(reply.status, 400, "{what} at {path}: {}", reply.text);
            assert_eq!(reply.json()["error"]["type"], "invalid_request_error", "{what}");
        }
    }
    assert_eq!(server.get("/v1/health").await.status, 200);
}

#[tokio::test]
async fn fields_are_named() {
    let server = Server::new();
    let cases = [
        (r#"{"prompt": "x"}"#, "model"),
        (r#"{"model": "m"}"#, "prompt"),
        (r#"{"model": "m", "model": "m", "prompt": "x"}"#, "model"),
        (r#"{"model": 5, "prompt": "x"}"#, "model"),
        (r#"{"model": null, "prompt": "x"}"#, "model"),
        (r#"{"model": "", "prompt": "x"}"#, "model"),
        (r#"{"model": "m", "prompt": null}"#, "prompt"),
        (r#"{"model": "m", "prompt": "x", "temperatur": 1}"#, "temperatur"),
    ];
    for (body, param) in cases {
        assert_invalid(&server.post(COMPLETIONS, body).await, Some(param), body);
    }
}

#[tokio::test]
async fn errors_do_not_repeat_megabytes() {
    let server = Server::new();
    let long = "x".repeat(1 << 20);
    let name = chat(json!({long.as_str(): 1}));
    let bodies = [
        chat(json!({"n": long})),
        chat(json!({"messages": [{"role": long, "content": "x"}]})),
        chat(json!({"logit_bias": {long.as_str(): 1}})),
        name,
    ];
    for body in bodies {
        let reply = server.post(CHAT, body.to_string()).await;
        assert!(reply.status != 200 && reply.text.len() < 2000, "{} bytes", reply.text.len());
        assert!(reply.header("x-kolosal-ignored").is_none_or(|told| told.len() < 2000));
    }
}

#[tokio::test]
async fn content_type_does_not_matter() {
    let server = Server::new();
    let body = completion(json!({"n": 0})).to_string();
    for kind in ["application/json", "application/x-www-form-urlencoded", "nonsense"] {
        let reply =
            server.request("POST", COMPLETIONS, &[("content-type", kind)], body.clone()).await;
        assert_invalid(&reply, Some("n"), kind);
    }
}

#[tokio::test]
async fn parameters_out_of_range() {
    let server = Server::new();
    let many_stops: Vec<_> = (0..10_000).map(|i| i.to_string()).collect();
    let many_biases: Value = (0..10_000).map(|i| (i.to_string(), json!(-100))).collect();
    let cases = [
        (json!({"n": 0}), "n"),
        (json!({"n": -1}), "n"),
        (json!({"n": 129}), "n"),
        (json!({"n": 1_000_000}), "n"),
        (json!({"n": 1_u64 << 63}), "n"),
        (json!({"max_tokens": -2}), "max_tokens"),
        (json!({"max_tokens": 1_000_000_000_000_000_000_u64}), "max_tokens"),
        (json!({"max_tokens": 1.5}), "max_tokens"),
        (json!({"max_tokens": "8"}), "max_tokens"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"temperature": 2.5}), "temperature"),
        (json!({"temperature": "hot"}), "temperature"),
        (json!({"top_p": 5}), "top_p"),
        (json!({"top_p": -1}), "top_p"),
        (json!({"top_k": -5}), "top_k"),
        (json!({"top_k": 1_u64 << 40}), "top_k"),
        (json!({"min_p": 2}), "min_p"),
        (json!({"seed": 1.5}), "seed"),
        (json!({"seed": 1e25}), "seed"),
        (json!({"stop": ""}), "stop"),
        (json!({"stop": ["a", ""]}), "stop[1]"),
        (json!({"stop": many_stops}), "stop"),
        (json!({"stop": "x".repeat(1_000_000)}), "stop"),
        (json!({"stop": 5}), "stop"),
        (json!({"stop": ["a", 5]}), "stop[1]"),
        (json!({"logit_bias": many_biases}), "logit_bias"),
        (json!({"logit_bias": {"x": 101}}), "logit_bias.x"),
        (json!({"logit_bias": {"1": true}}), "logit_bias.1"),
        (json!({"logit_bias": {"-1": 1}}), "logit_bias.-1"),
        (json!({"logit_bias": {"1": 1e30}}), "logit_bias.1"),
        (json!({"logit_bias": {"1": "a"}}), "logit_bias.1"),
        (json!({"logit_bias": [1]}), "logit_bias[0]"),
        (json!({"mirostat": 3}), "mirostat"),
        (json!({"samplers": ["top_k", "x"]}), "samplers[1]"),
        (json!({"dry_sequence_breakers": [5]}), "dry_sequence_breakers[0]"),
        (json!({"bad_words": "a"}), "bad_words"),
        (json!({"keep_alive": "soon"}), "keep_alive"),
        (json!({"post_sampling_probs": true}), "post_sampling_probs"),
        (json!({"n_predict": 5, "max_tokens": 6}), "n_predict"),
        (json!({"presence_penalty": 1e9}), "presence_penalty"),
        (json!({"frequency_penalty": -1e9}), "frequency_penalty"),
        (json!({"repetition_penalty": 0}), "repetition_penalty"),
        (json!({"repeat_penalty": 1e9}), "repeat_penalty"),
        (json!({"stop_token_ids": [-1]}), "stop_token_ids[0]"),
        (json!({"stop_token_ids": vec![1; 1000]}), "stop_token_ids"),
        (json!({"cache_salt": "x".repeat(2000)}), "cache_salt"),
        (json!({"stream_options": {"include_usage": true}}), "stream_options"),
        (json!({"stream": true, "stream_options": [true]}), "stream_options"),
        (json!({"stream": "yes"}), "stream"),
        (json!({"samplers": ["x"]}), "samplers[0]"),
        (json!({"grammar": 5}), "grammar"),
    ];
    for (fields, param) in cases {
        let what = fields.to_string().chars().take(80).collect::<String>();
        let reply = server.post(CHAT, chat(fields.clone()).to_string()).await;
        assert_invalid(&reply, Some(param), &what);
        let reply = server.post(COMPLETIONS, completion(fields).to_string()).await;
        assert_invalid(&reply, Some(param), &what);
    }
}

#[tokio::test]
async fn chat_parameters_out_of_range_or_unsupported() {
    let server = Server::new();
    let cases = [
        (json!({"max_tokens": 0}), "max_tokens"),
        (json!({"max_completion_tokens": 0}), "max_completion_tokens"),
        (json!({"max_tokens": 5, "max_completion_tokens": 6}), "max_tokens"),
        (json!({"logprobs": true, "top_logprobs": 10_000}), "top_logprobs"),
        (json!({"top_logprobs": 2}), "top_logprobs"),
        (json!({"logprobs": 2}), "logprobs"),
        (json!({"tools": [{"type": "function"}]}), "tools[0].function"),
        (json!({"tools": {}}), "tools"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"response_format": {"type": "xml"}}), "response_format.type"),
        (json!({"response_format": {}}), "response_format.type"),
        (json!({"modalities": ["text", "audio"]}), "modalities[1]"),
        (json!({"audio": {"voice": "x"}}), "audio"),
        (json!({"functions": []}), "functions"),
        (json!({"prediction": {}}), "prediction.type"),
        (json!({"prediction": {"type": "content"}}), "prediction.content"),
        (json!({"verbosity": "huge"}), "verbosity"),
        (json!({"web_search_options": {}}), "web_search_options"),
        (json!({"reasoning_effort": "huge"}), "reasoning_effort"),
        (json!({"store": true}), "store"),
        (json!({"metadata": {"a": 1}}), "metadata.a"),
        (json!({"chat_template_kwargs": []}), "chat_template_kwargs"),
        (json!({"continue_final_message": true}), "continue_final_message"),
        (
            json!({"continue_final_message": true, "add_generation_prompt": true}),
            "continue_final_message",
        ),
        (json!({"prompt": "x"}), "prompt"),
        (json!({"echo": true}), "echo"),
    ];
    for (fields, param) in cases {
        let reply = server.post(CHAT, chat(fields.clone()).to_string()).await;
        assert_invalid(&reply, Some(param), &fields.to_string());
    }
}

#[tokio::test]
async fn completion_parameters_out_of_range_or_unsupported() {
    let server = Server::new();
    let many = vec!["x"; 20_000];
    let cases = [
        (json!({"n": 3, "best_of": 2}), "best_of"),
        (json!({"best_of": 1000}), "best_of"),
        (json!({"best_of": 2, "stream": true}), "best_of"),
        (json!({"logprobs": 21}), "logprobs"),
        (json!({"logprobs": true}), "logprobs"),
        (json!({"suffix": "x", "echo": true}), "suffix"),
        (json!({"suffix": "x", "prompt": [1]}), "suffix"),
        (json!({"prompt": []}), "prompt"),
        (json!({"prompt": {}}), "prompt"),
        (json!({"prompt": ["a", 1]}), "prompt"),
        (json!({"prompt": [["a"]]}), "prompt[0]"),
        (json!({"prompt": [-1]}), "prompt[0]"),
        (json!({"prompt": [1_u64 << 40]}), "prompt[0]"),
        (json!({"prompt": many}), "prompt"),
        (json!({"prompt": vec!["x"; 20], "n": 128}), "n"),
        (json!({"messages": []}), "messages"),
    ];
    for (fields, param) in cases {
        let what = fields.to_string().chars().take(80).collect::<String>();
        let reply = server.post(COMPLETIONS, completion(fields).to_string()).await;
        assert_invalid(&reply, Some(param), &what);
    }
}

#[tokio::test]
async fn messages_that_are_wrong() {
    let server = Server::new();
    // Whether an image can be seen is the model's matter.
    server.load("m").await;
    let user = |content: Value| json!([{"role": "user", "content": content}]);
    let part = |part: Value| user(json!([{"type": "text", "text": "a"}, part]));
    let many: Vec<_> = vec![json!({"role": "user", "content": "x"}); 20_000];
    let cases = [
        (json!([]), "messages"),
        (json!(many), "messages"),
        (json!("hi"), "messages"),
        (json!({}), "messages"),
        (json!(["hi"]), "messages[0]"),
        (json!([["user", "hi"]]), "messages[0]"),
        (user(json!([["text", "x"]])), "messages[0].content[0]"),
        (json!([{"content": "x"}]), "messages[0].role"),
        (json!([{"role": "wizard", "content": "x"}]), "messages[0].role"),
        (json!([{"role": "user"}]), "messages[0].content"),
        (user(Value::Null), "messages[0].content"),
        (user(json!(5)), "messages[0].content"),
        (user(json!({})), "messages[0].content"),
        (user(json!([])), "messages[0].content"),
        (user(json!(["x"])), "messages[0].content[0]"),
        (part(json!({"type": "text"})), "messages[0].content[1].text"),
        (part(json!({"text": "x"})), "messages[0].content[1].type"),
        (
            part(json!({"type": "image_url", "image_url": {"url": "http://127.0.0.1/"}})),
            "messages[0].content[1].type",
        ),
        (
            part(json!({"type": "input_audio", "input_audio": {"data": "??"}})),
            "messages[0].content[1].type",
        ),
        (part(json!({"type": "file", "file": {}})), "messages[0].content[1].type"),
        (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
        (json!([{"role": "assistant"}]), "messages[0].content"),
        (
            json!([{"role": "assistant", "tool_calls": [{"id": "c", "type": "function"}]}]),
            "messages[0].tool_calls[0].function",
        ),
        (
            json!([{"role": "assistant", "content": "", "function_call": {"name": "f"}}]),
            "messages[0].function_call",
        ),
    ];
    for (messages, param) in cases {
        let what = messages.to_string().chars().take(80).collect::<String>();
        let reply = server.post(CHAT, chat(json!({"messages": messages})).to_string()).await;
        assert_invalid(&reply, Some(param), &what);
    }
}

#[tokio::test]
async fn models_that_do_not_exist() {
    let server = Server::new();
    let long = "x".repeat(1_000_000);
    for model in ["nope", "../../etc/passwd", "a\u{0}b", " ", "m ", long.as_str()] {
        for (path, body) in [
            (CHAT, chat(json!({"model": model}))),
            (COMPLETIONS, completion(json!({"model": model}))),
        ] {
            let reply = server.post(path, body.to_string()).await;
            let error = &reply.json()["error"];
            assert_eq!((reply.status, &error["code"]), (404, &json!("model_not_found")));
            assert_eq!(error["param"], "model");
            assert!(reply.text.len() < 2000, "the answer does not repeat the name at length");
        }
    }
    for id in ["nope", "..%2f..%2fetc%2fpasswd", "%00", "%ff"] {
        let reply = server.get(&format!("/v1/models/{id}")).await;
        assert!(matches!(reply.status, 400 | 404), "{id}: {}", reply.status);
        let reply = server.get(&format!("/engines/{id}/status")).await;
        assert!(matches!(reply.status, 400 | 404), "{id}: {}", reply.status);
        let reply = server.send("DELETE", &format!("/v1/engines/{id}"), "").await;
        assert!(matches!(reply.status, 400 | 404), "{id}: {}", reply.status);
    }
    assert_eq!(server.get("/v1/health").await.status, 200);
}

#[tokio::test]
async fn null_means_absent() {
    let server = Server::new();
    // The model is looked up only after everything else was found to be right.
    let fields = json!({
        "temperature": null, "stop": null, "tools": null, "stream_options": null, "audio": null,
        "functions": null, "anything": null, "response_format": null, "n": null, "seed": null,
    });
    assert_eq!(server.post(CHAT, chat(fields.clone()).to_string()).await.status, 404);
    let mut wrong = chat(fields);
    wrong["n"] = json!(0);
    assert_invalid(&server.post(CHAT, wrong.to_string()).await, Some("n"), "with nulls beside");
}

#[tokio::test]
async fn harmless_parameters_are_accepted() {
    let server = Server::new();
    let fields = json!({
        "user": "u", "metadata": {"a": "b"}, "store": false, "service_tier": "flex", "tools": [],
        "verbosity": "low", "prompt_cache_retention": "24h", "id_slot": 0, "n_keep": 5,
        "tool_choice": "none", "parallel_tool_calls": true, "modalities": ["text"],
        "response_format": {"type": "text"}, "reasoning_effort": "low", "top_k": -1, "seed": -1,
        "top_p": 0, "prompt_cache_key": "k", "safety_identifier": "s", "logit_bias": {},
        "stop": [], "max_tokens": 5, "max_completion_tokens": 5, "top_logprobs": 0,
    });
    assert_eq!(server.post(CHAT, chat(fields).to_string()).await.status, 404);
}
