//! `/tokenize`, `/detokenize` and `/apply-template`.

use serde_json::{Value, json};

use super::harness::Server;
use super::model::{CONTEXT, END};

async fn post(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post(path, body.to_string()).await;
    assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text);
    reply.json()
}

/// Path of the wrong field.
async fn refused(server: &Server, path: &str, body: &Value) -> String {
    let reply = server.post(path, body.to_string()).await;
    assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text);
    let error = &reply.json()["error"];
    assert_eq!(error["type"], "invalid_request_error");
    error["param"].as_str().unwrap_or_default().to_owned()
}

#[tokio::test]
async fn text_becomes_tokens_and_text_again() {
    let server = Server::new();
    server.load("e").await;
    let start = END + 1;
    let cases = [
        // llama-server's request, then vLLM's.
        (json!({"content": "ab"}), json!([97, 98])),
        (json!({"content": ""}), json!([])),
        (json!({"model": "e", "prompt": "ab"}), json!([97, 98])),
        (json!({"content": ["a", 98, "<|im_end|>"]}), json!([97, 98, END])),
        (json!({"content": "<|im_start|>", "parse_special": true}), json!([start])),
        (
            json!({"content": "<|im_start|>", "parse_special": false}),
            json!([60, 124, 105, 109, 95, 115, 116, 97, 114, 116, 124, 62]),
        ),
        (json!({"content": "a", "add_special": true}), json!([97])),
        (json!({"prompt": "a", "add_special_tokens": false}), json!([97])),
    ];
    for (request, tokens) in cases {
        for path in ["/tokenize", "/v1/tokenize"] {
            let answer = post(&server, path, &request).await;
            assert_eq!(answer["tokens"], tokens, "{request}");
            assert_eq!(answer["count"], tokens.as_array().map_or(0, Vec::len));
            assert_eq!(
                (&answer["max_model_len"], &answer["token_strs"]),
                (&json!(CONTEXT), &Value::Null)
            );
        }
    }
    let text = "wörld <|im_start|>🦀";
    let tokens = post(&server, "/tokenize", &json!({"content": text})).await["tokens"].clone();
    for path in ["/detokenize", "/v1/detokenize"] {
        let answer = post(&server, path, &json!({"tokens": tokens})).await;
        assert_eq!(answer, json!({"content": text, "prompt": text}));
    }
}

#[tokio::test]
async fn tokens_come_with_their_texts() {
    let server = Server::new();
    server.register("e").await;
    let request =
        json!({"content": "aé<|im_end|>", "with_pieces": true, "return_token_strs": true});
    let answer = post(&server, "/tokenize", &request).await;
    let pieces = json!([
        {"id": 97, "piece": "a"},
        {"id": 0xc3, "piece": [0xc3]},
        {"id": 0xa9, "piece": [0xa9]},
        {"id": END, "piece": "<|im_end|>"},
    ]);
    assert_eq!(answer["tokens"], pieces);
    assert_eq!(answer["token_strs"], json!(["a", "\u{fffd}", "\u{fffd}", "<|im_end|>"]));
}

#[tokio::test]
async fn conversations_are_rendered_as_for_a_chat() {
    let server = Server::new();
    server.load("e").await;
    let messages = json!([{"role": "user", "content": "a<|im_end|>"}]);
    let prompt = "<|im_start|>user\na<|im_end|><|im_end|>\n<|im_start|>assistant\n";
    for path in ["/apply-template", "/v1/apply-template"] {
        let answer = post(&server, path, &json!({"messages": messages})).await;
        assert_eq!(answer, json!({"prompt": prompt}));
    }
    let tokens = post(&server, "/tokenize", &json!({"messages": messages})).await;
    let chat = json!({"model": "e", "messages": messages, "max_tokens": 1});
    let usage = post(&server, "/v1/chat/completions", &chat).await["usage"].clone();
    assert_eq!(tokens["count"], usage["prompt_tokens"]);
    // The marker in the user's text is text: one end of a turn, not two.
    let ends = tokens["tokens"].as_array().expect("ids").iter().filter(|id| **id == END).count();
    assert_eq!(ends, 1);
    let open = json!({
        "messages": [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}],
        "continue_final_message": true,
    });
    let answer = post(&server, "/apply-template", &open).await;
    assert_eq!(answer["prompt"], "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb");
}

#[tokio::test]
async fn wrong_requests_name_the_field() {
    let server = Server::new();
    server.load("e").await;
    let user = json!([{"role": "user", "content": "a"}]);
    let cases = [
        ("/tokenize", json!({}), "content"),
        ("/tokenize", json!({"content": "a", "prompt": "b"}), "content"),
        ("/tokenize", json!({"content": "a", "messages": user}), "content"),
        ("/tokenize", json!({"content": 5}), "content"),
        ("/tokenize", json!({"content": ["a", -1]}), "content[1]"),
        ("/tokenize", json!({"content": [258]}), "content[0]"),
        ("/tokenize", json!({"content": "a", "tools": []}), "tools"),
        (
            "/tokenize",
            json!({"content": "a", "add_generation_prompt": true}),
            "add_generation_prompt",
        ),
        ("/tokenize", json!({"messages": user, "parse_special": true}), "parse_special"),
        (
            "/tokenize",
            json!({"content": "a", "add_special": true, "add_special_tokens": false}),
            "add_special_tokens",
        ),
        ("/tokenize", json!({"content": "a", "chat_template": "x"}), "chat_template"),
        ("/tokenize", json!({"content": "x".repeat((4 << 20) + 1)}), "content"),
        ("/tokenize", json!({"content": vec![97; (1 << 20) + 1]}), "content"),
        ("/detokenize", json!({}), "tokens"),
        ("/detokenize", json!({"tokens": "a"}), "tokens"),
        ("/detokenize", json!({"tokens": [97, 258]}), "tokens[1]"),
        ("/detokenize", json!({"tokens": vec![97; (1 << 20) + 1]}), "tokens"),
        ("/apply-template", json!({}), "messages"),
        ("/apply-template", json!({"messages": []}), "messages"),
        ("/apply-template", json!({"messages": [{"role": "user"}]}), "messages[0].content"),
        (
            "/apply-template",
            json!({"messages": user, "chat_template_kwargs": {"messages": []}}),
            "chat_template_kwargs.messages",
        ),
        (
            "/apply-template",
            json!({"messages": user, "continue_final_message": true}),
            "continue_final_message",
        ),
    ];
    for (path, body, param) in cases {
        assert_eq!(refused(&server, path, &body).await, param, "{path} {param}");
    }
}

#[tokio::test]
async fn the_model_may_be_left_out_when_there_is_one() {
    let server = Server::new();
    let body = json!({"content": "a"});
    assert_eq!(refused(&server, "/tokenize", &body).await, "model");
    server.register("e").await;
    assert_eq!(post(&server, "/tokenize", &body).await["tokens"], json!([97]));
    server.register("f").await;
    assert_eq!(refused(&server, "/tokenize", &body).await, "model");
    let named = json!({"content": "a", "model": "f"});
    assert_eq!(post(&server, "/tokenize", &named).await["tokens"], json!([97]));
    let reply = server.post("/tokenize", json!({"content": "a", "model": "g"}).to_string()).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (404, &json!("model_not_found")));
}

#[tokio::test]
async fn a_chat_is_counted_as_it_is_read() {
    let server = Server::new();
    server.load("e").await;
    let body = json!({
        "model": "e", "max_tokens": 1, "messages": [{"role": "user", "content": "hello"}],
    });
    let answer = server.post("/v1/chat/completions", body.to_string()).await.json();
    for path in ["/v1/chat/completions/input_tokens", "/chat/completions/input_tokens"] {
        let counted = server.post(path, body.to_string()).await.json();
        let tokens = &answer["usage"]["prompt_tokens"];
        assert_eq!(counted, json!({"object": "response.input_tokens", "input_tokens": tokens}));
    }
}
