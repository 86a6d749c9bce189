//! Bounds on reasoning: when it has had its tokens, it is closed and the answer follows.

use serde_json::{Value, json};

use super::harness::Server;

/// Asks a model that thinks or says `script`, position by position: a token that is forced on it stands in
/// the place of the one that it would have said.
async fn answer(script: &str, fields: Value) -> (String, String) {
    let server = Server::scripted();
    server.load_from("m", script).await;
    let mut request = json!({
        "model": "m", "messages": [{"role": "user", "content": "x"}], "temperature": 0,
    });
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    let reply = server.post("/v1/chat/completions", request.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let message = reply.json()["choices"][0]["message"].clone();
    let text = |name: &str| message[name].as_str().unwrap_or_default().to_owned();
    (text("reasoning_content"), text("content"))
}

#[tokio::test]
async fn reasoning_ends_when_its_budget_is_spent() {
    let opened = "P<think> => abcdefgh";
    let opens = "{# <think> #}P => <think>abcdefgh";
    let ends = "{# <think> #}P => <think>ab</think>cdefgh";
    let plain = "{# <think> #}P => abcdefgh";
    for (script, budget, reasoning, content) in [
        (opened, 3, "abc", "efgh"),
        (opened, 0, "", "bcdefgh"),
        (opened, -1, "abcdefgh", ""),
        (opened, 100, "abcdefgh", ""),
        (opens, 3, "abc", "efgh"),
        (opens, 0, "", "bcdefgh"),
        (ends, 3, "ab", "cdefgh"),
        (plain, 3, "", "abcdefgh"),
    ] {
        for name in ["reasoning_budget", "thinking_token_budget", "thinking_budget"] {
            let found = answer(script, json!({name: budget})).await;
            let wanted = (reasoning.to_owned(), content.to_owned());
            assert_eq!(found, wanted, "{script}, {name} {budget}");
        }
    }
}

#[tokio::test]
async fn what_follows_may_be_constrained() {
    let script = "P<think> => no?{\"a\": 1} and more";
    let fields = json!({
        "reasoning_budget": 2, "response_format": {"type": "json_object"}, "max_tokens": 200,
    });
    let (reasoning, content) = answer(script, fields).await;
    assert_eq!((&*reasoning, &*content), ("no", "{\"a\": 1}"));
}

#[tokio::test]
async fn a_model_that_does_not_reason_has_no_budget() {
    let server = Server::scripted();
    server.load_from("m", "P => abc").await;
    let messages = json!([{"role": "user", "content": "x"}]);
    let request = json!({"model": "m", "messages": messages, "thinking_token_budget": 5});
    let reply = server.post("/v1/chat/completions", request.to_string()).await;
    assert_eq!(reply.status, 400, "{}", reply.text);
    assert_eq!(reply.json()["error"]["param"], "thinking_token_budget");
    // Anthropic's clients send a budget to every model.
    let thinking = json!({"type": "enabled", "budget_tokens": 5});
    let request =
        json!({"model": "m", "max_tokens": 10, "messages": messages, "thinking": thinking});
    let reply = server.post("/v1/messages", request.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let told = reply.header("x-kolosal-ignored").unwrap_or_default();
    assert!(told.contains("thinking.budget_tokens"), "{told}");
}

#[tokio::test]
async fn anthropics_budget_bounds_thinking() {
    let server = Server::scripted();
    server.load_from("m", "P<think> => abcdefgh").await;
    let request = json!({
        "model": "m", "max_tokens": 50, "messages": [{"role": "user", "content": "x"}],
        "temperature": 0, "thinking": {"type": "enabled", "budget_tokens": 4},
    });
    let reply = server.post("/v1/messages", request.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    let blocks = reply.json()["content"].clone();
    assert_eq!((&blocks[0]["thinking"], &blocks[1]["text"]), (&json!("abcd"), &json!("fgh")));
}
