//! Conversations that the server keeps, responses in the background, and conversations that are cut.

use std::time::Duration;

use kolosal_server::server::{ApiKeys, Options, ResponseLimits};
use serde_json::{Value, json};

use super::harness::{Reply, Server};

const RESPONSES: &str = "/v1/responses";

async fn server() -> Server {
    let server = Server::new();
    server.load("m").await;
    server
}

async fn post(server: &Server, path: &str, body: Value) -> Value {
    let reply = server.post(path, body.to_string()).await;
    assert_eq!(reply.status, 200, "{path}: {}", reply.text);
    reply.json()
}

fn code(reply: &Reply) -> (u16, Value) {
    (reply.status, reply.json()["error"]["code"].clone())
}

/// Roles and texts of a conversation's items, oldest first.
async fn texts(server: &Server, id: &str) -> Vec<String> {
    let path = format!("/v1/conversations/{id}/items?order=asc&limit=100");
    let list = server.get(&path).await.json();
    let item = |item: &Value| {
        let text = item["content"][0]["text"].as_str().unwrap_or_default();
        format!("{}: {text}", item["role"].as_str().unwrap_or_default())
    };
    list["data"].as_array().expect("a list").iter().map(item).collect()
}

#[tokio::test]
async fn responses_go_on_with_conversations() {
    let server = server().await;
    let items =
        json!([{"role": "user", "content": "one"}, {"role": "assistant", "content": "two"}]);
    let created =
        post(&server, "/v1/conversations", json!({"items": items, "metadata": {"a": "b"}}));
    let created = created.await;
    let id = created["id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("conv_") && created["metadata"]["a"] == "b", "{created}");
    for (store, conversation) in [(true, json!(id)), (false, json!({"id": id}))] {
        let ask = json!({
            "model": "m", "input": "a", "max_output_tokens": 2, "temperature": 0, "store": store,
            "conversation": conversation,
        });
        let response = post(&server, RESPONSES, ask).await;
        assert_eq!(response["conversation"]["id"], id.as_str(), "{response}");
    }
    let said = texts(&server, &id).await;
    assert_eq!(said.len(), 6, "{said:?}");
    assert_eq!((&*said[0], &*said[1], &*said[2]), ("user: one", "assistant: two", "user: a"));
    assert!(said[3].starts_with("assistant: ") && said[5].starts_with("assistant: "), "{said:?}");
    // What was said before is read: a second answer has a longer prompt.
    let alone =
        post(&server, RESPONSES, json!({"model": "m", "input": "a", "max_output_tokens": 1}));
    let alone = alone.await["usage"]["input_tokens"].as_u64();
    let ask = json!({"model": "m", "input": "a", "max_output_tokens": 1, "conversation": id});
    assert!(post(&server, RESPONSES, ask).await["usage"]["input_tokens"].as_u64() > alone);

    let path = format!("/v1/conversations/{id}");
    let relabelled = post(&server, &path, json!({"metadata": {"c": "d"}})).await;
    assert_eq!(relabelled["metadata"], json!({"c": "d"}));
    let added = json!({"items": [{"role": "user", "content": "three"}]});
    let added = post(&server, &format!("{path}/items"), added).await;
    let item = added["data"][0]["id"].as_str().expect("an id").to_owned();
    let found = server.get(&format!("{path}/items/{item}")).await.json();
    assert_eq!(found["content"][0]["text"], "three");
    assert_eq!(server.send("DELETE", &format!("{path}/items/{item}"), "").await.status, 200);
    assert_eq!(server.get(&format!("{path}/items/{item}")).await.status, 404);
    assert_eq!(server.send("DELETE", &path, "").await.json()["deleted"], true);
    let gone = server.get(&path).await;
    assert_eq!(code(&gone), (404, json!("conversation_not_found")));
    let ask = json!({"model": "m", "input": "a", "conversation": id});
    assert_eq!(server.post(RESPONSES, ask.to_string()).await.status, 404);
}

#[tokio::test]
async fn what_is_taken_out_makes_room() {
    let responses = ResponseLimits { max_bytes: 20_000, ..ResponseLimits::default() };
    let server = Server::with(Options { responses, ..Options::default() }, |app| app);
    let created = post(&server, "/v1/conversations", json!({})).await;
    let path = format!("/v1/conversations/{}/items", created["id"].as_str().expect("an id"));
    let long = json!({"items": [{"role": "user", "content": "x".repeat(10_000)}]});
    for _ in 0..10 {
        let added = post(&server, &path, long.clone()).await;
        assert_eq!(server.post(&path, long.to_string()).await.status, 400);
        let item = added["data"][0]["id"].as_str().expect("an id");
        assert_eq!(server.send("DELETE", &format!("{path}/{item}"), "").await.status, 200);
    }
}

#[tokio::test]
async fn conversations_belong_to_their_keys() {
    let keys = ApiKeys::new(["one", "two"]);
    let server = Server::with(Options { keys, ..Options::default() }, |app| app);
    let ask = async |key: &str, method: &str, path: &str, body: &str| {
        server.request(method, path, &[("x-api-key", key)], body.to_owned()).await
    };
    let created = ask("one", "POST", "/v1/conversations", "{}").await.json();
    let path = format!("/v1/conversations/{}", created["id"].as_str().expect("an id"));
    for (method, body) in [("GET", ""), ("DELETE", ""), ("POST", r#"{"metadata": {}}"#)] {
        assert_eq!(ask("two", method, &path, body).await.status, 404, "{method}");
    }
    assert_eq!(ask("one", "GET", &path, "").await.status, 200);
    for (body, param) in [
        (r#"{"items": [{"role": "user"}]}"#, "items[0].content"),
        (r#"{"items": [{"type": "item_reference", "id": "x"}]}"#, "items[0].id"),
    ] {
        let refused = ask("one", "POST", "/v1/conversations", body).await;
        assert_eq!((refused.status, &refused.json()["error"]["param"]), (400, &json!(param)));
    }
}

/// Looks a response up until it has ended.
async fn ended(server: &Server, id: &str) -> Value {
    let path = format!("{RESPONSES}/{id}");
    let looking = async {
        loop {
            let response = server.get(&path).await.json();
            if response["status"] != "in_progress" {
                return response;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::time::timeout(Duration::from_mins(1), looking).await.expect("it ends")
}

#[tokio::test]
async fn responses_go_on_in_the_background() {
    let server = server().await;
    let ask = json!({"model": "m", "input": "a", "max_output_tokens": 3, "background": true});
    let begun = post(&server, RESPONSES, ask).await;
    assert_eq!((&begun["status"], &begun["background"]), (&json!("in_progress"), &json!(true)));
    assert_eq!(begun["output"], json!([]));
    let done = ended(&server, begun["id"].as_str().expect("an id")).await;
    assert_eq!(
        (&done["status"], &done["background"]),
        (&json!("incomplete"), &json!(true)),
        "{done}"
    );
    assert_eq!(done["usage"]["output_tokens"], 3);

    // One that never ends by itself.
    let ask = json!({"model": "m", "input": "7", "instructions": "7", "background": true});
    let begun = post(&server, RESPONSES, ask).await;
    let id = begun["id"].as_str().expect("an id");
    let path = format!("{RESPONSES}/{id}/cancel");
    let cancelled = server.post(&path, "").await;
    if cancelled.status == 200 {
        assert_eq!(cancelled.json()["status"], "cancelled");
    }
    assert!(ended(&server, id).await["usage"].is_object());

    let unknown = json!({"model": "none", "input": "a", "background": true});
    assert_eq!(server.post(RESPONSES, unknown.to_string()).await.status, 404);
    let long = json!({"model": "m", "input": "a".repeat(3000), "background": true});
    let begun = post(&server, RESPONSES, long).await;
    let failed = ended(&server, begun["id"].as_str().expect("an id")).await;
    assert_eq!(
        (&failed["status"], &failed["error"]["code"]),
        (&json!("failed"), &json!("invalid_prompt"))
    );
}

#[tokio::test]
async fn the_oldest_turns_are_left_out_where_that_is_asked_for() {
    let server = server().await;
    let mut items = vec![json!({"role": "system", "content": "s"})];
    for turn in 0..40 {
        items.push(json!({"role": "user", "content": format!("{turn}{}", "x".repeat(100))}));
        items.push(json!({"role": "assistant", "content": "y"}));
    }
    items.push(json!({"role": "user", "content": "the last"}));
    let ask = |truncation: &str| json!({"model": "m", "input": items, "max_output_tokens": 1, "truncation": truncation});
    let refused = server.post(RESPONSES, ask("disabled").to_string()).await;
    assert_eq!(code(&refused), (400, json!("context_length_exceeded")));
    let cut = server.post(RESPONSES, ask("auto").to_string()).await;
    assert_eq!(cut.status, 200, "{}", cut.text);
    let told = cut.header("x-kolosal-ignored").unwrap_or_default();
    assert!(told.contains("truncation") && told.contains("left out"), "{told}");
    let response = cut.json();
    assert_eq!(response["truncation"], "auto");
    // As much stays as fits: the context holds 2048 tokens.
    let read = response["usage"]["input_tokens"].as_u64().expect("a number");
    assert!((1800..2048).contains(&read), "{read}");
    let short = json!({"model": "m", "input": "a", "max_output_tokens": 1, "truncation": "auto"});
    assert!(server.post(RESPONSES, short.to_string()).await.header("x-kolosal-ignored").is_none());
    let single = json!({"model": "m", "input": "x".repeat(3000), "truncation": "auto"});
    let refused = server.post(RESPONSES, single.to_string()).await;
    assert_eq!(code(&refused), (400, json!("context_length_exceeded")));
}
