//! The generated OpenAPI document, and the pages that show it.

use std::path::Path;

use kolosal_server::server::openapi_json;
use serde_json::{Value, json};

use super::harness::Server;

/// `UPDATE=1 cargo test --test it document` writes the committed document anew.
#[test]
fn committed_document_is_the_generated_one() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("openapi/openapi.json");
    if std::env::var_os("UPDATE").is_some() {
        std::fs::write(&path, openapi_json()).expect("the document can be written");
    }
    let committed = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(committed == openapi_json(), "openapi/openapi.json is out of date; set UPDATE=1");
}

#[test]
fn references_and_operation_ids_are_sound() {
    let document: Value = serde_json::from_str(openapi_json()).expect("JSON");
    let schemas = document["components"]["schemas"].as_object().expect("schemas");
    assert!(!schemas.contains_key("Response"), "generated clients have a class of this name");
    let mut references = Vec::new();
    collect_references(&document, &mut references);
    assert!(!references.is_empty());
    for reference in references {
        let name = reference.strip_prefix("#/components/schemas/").expect("a local reference");
        assert!(schemas.contains_key(name), "{reference}");
    }
    let mut ids = std::collections::HashSet::new();
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let id = operation["operationId"].as_str().expect("an operation id");
            assert!(ids.insert(id.to_owned()), "{id} appears twice");
            assert!(operation["summary"].is_string(), "{method} {path} has no summary");
            assert!(operation["tags"].is_array(), "{method} {path} has no tag");
            for response in operation["responses"].as_object().expect("responses").values() {
                assert!(response["content"].is_object(), "{method} {path} has an empty response");
            }
        }
    }
    assert!(!openapi_json().contains("\"nullable\""), "3.1 has no nullable");
    assert!(!openapi_json().contains("charset=utf-8"), "JSON has no charset");
}

#[test]
fn streams_are_documented_beside_json() {
    let document: Value = serde_json::from_str(openapi_json()).expect("JSON");
    for path in ["/v1/chat/completions", "/v1/completions", "/chat/completions", "/completions"] {
        let content = &document["paths"][path]["post"]["responses"]["200"]["content"];
        assert!(content["application/json"]["schema"]["$ref"].is_string(), "{path}");
        let event = &content["text/event-stream"]["schema"]["properties"];
        let data = event["data"]["anyOf"].as_array().expect("what an event may carry");
        let schemas: Vec<_> = data.iter().map(|one| &one["contentSchema"]["$ref"]).collect();
        assert!(schemas[..2].iter().all(|name| name.is_string()), "{path}: {schemas:?}");
        assert_eq!(data[2]["const"], "[DONE]", "{path}");
    }
}

/// Every body that a client may send has an example, and the server takes it.
#[tokio::test]
async fn examples_are_taken() {
    let document: Value = serde_json::from_str(openapi_json()).expect("JSON");
    let server = Server::scripted();
    server.load_from("my-model", "tiny").await;
    let conversation = server.post("/v1/conversations", "{}").await.json();
    let conversation = conversation["id"].as_str().expect("an id");
    let mut taken = 0;
    for (path, operations) in document["paths"].as_object().expect("paths") {
        for (method, operation) in operations.as_object().expect("operations") {
            let Some(body) = operation.get("requestBody") else { continue };
            let example = &body["content"]["application/json"]["example"];
            assert!(example.is_object(), "{method} {path} has no example");
            if path == "/api/delete" {
                let copy = json!({"source": "my-model", "destination": "my-copy"});
                server.post("/api/copy", copy.to_string()).await;
            }
            let reply = server
                .send(
                    &method.to_uppercase(),
                    &path.replace("{conversation_id}", conversation),
                    example.to_string(),
                )
                .await;
            // Without a store, nothing can be pulled; aliases register the same engine again.
            let fits = match path.as_str() {
                "/api/pull" => reply.status == 503,
                // Few models can, and this one is made of random numbers.
                "/infill" | "/v1/infill" => reply.text.contains("infill_not_supported"),
                "/engines" | "/v1/engines" => matches!(reply.status, 201 | 409),
                _ => reply.status == 200,
            };
            assert!(fits, "{method} {path}: {} {}", reply.status, reply.text);
            taken += 1;
        }
    }
    assert!(taken > 20, "{taken}");
}

#[tokio::test]
async fn pages_are_self_contained() {
    let server = Server::new();
    let document = server.get("/openapi.json").await;
    assert_eq!((document.status, document.text.as_str()), (200, openapi_json()));
    assert_eq!(document.header("content-type"), Some("application/json"));
    let docs = server.get("/docs").await;
    assert_eq!(docs.status, 200);
    assert!(docs.text.contains("SwaggerUIBundle") && docs.text.contains("createChatCompletion"));
    for page in [docs, server.page("/").await] {
        assert_eq!(page.header("content-type"), Some("text/html; charset=utf-8"));
        assert!(page.header("content-security-policy").is_some());
        assert!(!page.text.contains("src=\"http") && !page.text.contains("href=\"http"));
    }
}

fn collect_references(value: &Value, found: &mut Vec<String>) {
    match value {
        Value::Object(object) => {
            if let Some(reference) = object.get("$ref").and_then(Value::as_str) {
                found.push(reference.to_owned());
            }
            object.values().for_each(|value| collect_references(value, found));
        }
        Value::Array(items) => items.iter().for_each(|item| collect_references(item, found)),
        _ => {}
    }
}
