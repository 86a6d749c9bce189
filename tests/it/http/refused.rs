//! A refused request changes nothing, in every dialect.

use std::time::Duration;

use serde_json::{Value, json};

use super::harness::Server;

/// That an engine is in memory and stays there as if nobody had said otherwise.
fn assert_stays(server: &Server, what: &str) {
    let status = server.registry.status("m").expect("registered");
    assert!(status.stats.is_some(), "{what} unloaded the engine");
    let expires = status.expires_in.expect("it stays for a while");
    assert!(expires > Duration::from_mins(1), "{what}: {expires:?}");
}

#[tokio::test]
async fn a_refused_request_changes_nothing() {
    let server = Server::new();
    server.load("m").await;
    let user = json!([{"role": "user", "content": "a"}]);
    let long = "a".repeat(5000);
    let many = json!([{"role": "user", "content": long}]);
    let bias = json!({"999999": 1});
    // Refused by the reader, and by the engine that the request had a seat on.
    let cases = [
        ("/v1/chat/completions", json!({"messages": user, "n": 0})),
        ("/v1/chat/completions", json!({"messages": many})),
        ("/v1/chat/completions", json!({"messages": user, "logit_bias": bias})),
        ("/v1/completions", json!({"prompt": "a", "min_p": 5})),
        ("/v1/completions", json!({"prompt": ["a", long]})),
        ("/v1/completions", json!({"prompt": "a", "logit_bias": bias})),
        ("/infill", json!({"input_prefix": "a", "input_suffix": "b", "min_p": 5})),
        ("/infill", json!({"input_prefix": "a", "input_suffix": "b"})),
        ("/api/chat", json!({"messages": user, "format": {"type": "nonsense"}})),
        ("/api/chat", json!({"messages": many})),
        ("/api/generate", json!({"prompt": long, "raw": true})),
        ("/api/generate", json!({"prompt": "a", "options": {"min_p": 5}})),
        ("/api/embed", json!({"input": "a", "dimensions": 500})),
    ];
    for (path, fields) in &cases {
        for stream in [false, true] {
            let mut body = json!({"model": "m", "keep_alive": "0s"});
            body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
            if *path != "/api/embed" {
                body["stream"] = stream.into();
            }
            let reply = server.post(path, body.to_string()).await;
            assert_eq!(reply.status, 400, "{path} {fields}: {}", reply.text);
            assert_stays(&server, &format!("{path} {fields}"));
        }
    }
}

#[tokio::test]
async fn of_a_refused_response_nothing_is_kept() {
    let server = Server::new();
    server.load("m").await;
    let ask = async |fields: Value| {
        let mut body = json!({"model": "m", "temperature": 0, "max_output_tokens": 16});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        server.post("/v1/responses", body.to_string()).await
    };
    let first = ask(json!({"input": "x"})).await.json();
    let refused = json!({"input": "a".repeat(5000), "previous_response_id": first["id"]});
    assert_eq!(ask(refused).await.status, 400);
    // What it would have continued can still be removed: nothing runs that needs it.
    let path = format!("/v1/responses/{}", first["id"].as_str().expect("an id"));
    assert_eq!(server.send("DELETE", &path, "").await.status, 200);
}

#[tokio::test]
async fn loading_and_unloading_are_told_apart() {
    let server = Server::new();
    server.load("m").await;
    let ask = async |fields: Value| {
        let mut body = json!({"model": "m", "stream": false});
        body.as_object_mut().unwrap().extend(fields.as_object().unwrap().clone());
        server.post("/api/generate", body.to_string()).await.json()["done_reason"].clone()
    };
    assert_eq!(ask(json!({"keep_alive": 0})).await, "unload");
    server.wait_for("m", |status| !status.is_ready()).await;
    assert_eq!(ask(json!({})).await, "load");
    server.wait_for("m", kolosal_server::registry::Status::is_ready).await;
    assert_eq!(ask(json!({"keep_alive": "5m"})).await, "load");
    assert_stays(&server, "a request to load");
}
