//! The original server's own inference routes.

use serde_json::{Value, json};

use super::harness::Server;

const CHAT: &str = "/v1/inference/chat/completions";
const TEXT: &str = "/inference/completions";

fn chat(fields: &Value) -> String {
    let mut body = json!({"model": "m", "messages": [{"role": "user", "content": "x"}]});
    for (name, value) in fields.as_object().expect("an object") {
        body[name] = value.clone();
    }
    body.to_string()
}

#[tokio::test]
async fn a_stream_ends_with_all_of_it() {
    let server = Server::new();
    server.load("m").await;
    let text =
        json!({"model": "m", "prompt": "a", "temperature": 0, "maxNewTokens": 3}).to_string();
    let fields = json!({
        "temperature": 0, "maxNewTokens": 3, "topP": 0.9, "randomSeed": 1, "minLength": 2,
        "kvCacheFilePath": "", "seqId": -1, "toolChoice": "auto", "tools": "",
    });
    for (path, body) in [(CHAT, chat(&fields)), (TEXT, text)] {
        let whole = server.post(path, body.clone()).await;
        assert_eq!(whole.status, 200, "{}", whole.text);
        let whole = whole.json();
        let mut fields: Vec<_> = whole.as_object().unwrap().keys().cloned().collect();
        fields.sort();
        assert_eq!(fields, ["text", "tokens", "tps", "ttft"]);
        assert_eq!(whole["tokens"].as_array().unwrap().len(), 3);
        let body = body.replacen('{', "{\"streaming\": true,", 1);
        let stream = server.post(path, body).await;
        let (stream, end) = stream.text.split_at(stream.text.len() - "data: [DONE]\n\n".len());
        assert_eq!(end, "data: [DONE]\n\n");
        let events = stream.split_terminator("\n\n");
        let events: Vec<Value> =
            events.map(|event| serde_json::from_str(&event["data: ".len()..]).unwrap()).collect();
        let (last, parts) = events.split_last().expect("events");
        assert!(last["partial"] == false && parts.iter().all(|part| part["partial"] == true));
        let text: String = parts.iter().map(|part| part["text"].as_str().unwrap()).collect();
        assert_eq!((&last["text"], &last["tokens"]), (&whole["text"], &whole["tokens"]));
        assert_eq!(whole["text"], text);
    }
}

#[tokio::test]
async fn grammars_and_tools_are_kept() {
    let server = Server::scripted();
    server.load_from("m", "P => yes or no").await;
    for (fields, text) in [
        (json!({}), "yes or no"),
        (json!({"grammar": "root ::= \"yes\""}), "yes"),
        (json!({"jsonSchema": "{\"enum\": [1]}"}), "1"),
        (json!({"jsonSchema": {"enum": [1]}}), "1"),
        (
            json!({"response_format": {"type": "json_schema",
            "json_schema": {"name": "n", "schema": {"enum": [2]}}}}),
            "2",
        ),
    ] {
        let reply = server.post(CHAT, chat(&fields)).await;
        assert_eq!((reply.status, &reply.json()["text"]), (200, &json!(text)), "{}", reply.text);
    }
    let tools = json!([{"type": "function", "function": {"name": "f"}}]).to_string();
    let fields = json!({"tools": tools, "toolChoice": "required"});
    let answer = server.post(CHAT, chat(&fields)).await.json();
    assert_eq!(answer["tool_calls"][0]["function"]["name"], "f", "{answer}");
}

#[tokio::test]
async fn what_cannot_be_is_named() {
    let server = Server::new();
    server.load("m").await;
    for (fields, param) in [
        (json!({"kvCacheFilePath": "/tmp/x"}), "kvCacheFilePath"),
        (json!({"seqId": 3}), "seqId"),
        (json!({"randomSeed": -1}), "randomSeed"),
        (json!({"maxNewTokens": 0}), "maxNewTokens"),
        (json!({"topP": 2}), "topP"),
        (json!({"temperature": -1}), "temperature"),
        (json!({"tools": "{}"}), "tools"),
        (json!({"toolChoice": "maybe"}), "toolChoice"),
        (json!({"jsonSchema": "{"}), "jsonSchema"),
        (json!({"jsonSchema": {}, "grammar": "root ::= \"a\""}), "jsonSchema"),
        (json!({"max_tokens": 1}), "max_tokens"),
    ] {
        let reply = server.post(CHAT, chat(&fields)).await;
        let seen = (reply.status, reply.json()["error"]["param"].as_str().map(str::to_owned));
        assert_eq!(seen, (400, Some(param.to_owned())), "{fields}: {}", reply.text);
    }
}
