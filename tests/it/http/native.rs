//! Kolosal's own routes: engines and health.

use serde_json::{Value, json};

use super::harness::Server;

fn engine(fields: &[(&str, Value)]) -> String {
    let mut request =
        json!({"engine_id": "e", "model_path": "alphabet", "load_immediately": false});
    for (name, value) in fields {
        request[*name] = value.clone();
    }
    request.to_string()
}

#[tokio::test]
async fn engines_are_registered_listed_and_removed() {
    let server = Server::new();
    for prefix in ["", "/v1"] {
        let reply = server.post(&format!("{prefix}/engines"), engine(&[])).await;
        assert_eq!((reply.status, reply.header("location")), (201, Some("/engines/e")));
        let body = reply.json();
        assert_eq!(
            (&body["status"], &body["load_immediately"]),
            (&json!("created"), &json!(false))
        );
        assert_eq!(body["loading_parameters"].as_object().map(serde_json::Map::len), Some(12));
        let list = server.get(&format!("{prefix}/engines")).await.json();
        assert_eq!(
            (&list["total_count"], &list["engines"][0]["engine_id"]),
            (&json!(1), &json!("e"))
        );
        let status = server.get(&format!("{prefix}/engines/e/status")).await.json();
        assert_eq!((&status["status"], &status["available"]), (&json!("unloaded"), &json!(true)));
        assert_eq!(status["model_path"], "alphabet");
        let reply = server.send("DELETE", &format!("{prefix}/engines/e"), "").await;
        let removed = json!({
            "engine_id": "e", "status": "removed", "message": "Engine removed successfully",
        });
        assert_eq!((reply.status, reply.json()), (200, removed));
        for (method, path) in
            [("DELETE", "engines/e"), ("GET", "engines/e/status"), ("POST", "engines/e/unload")]
        {
            let reply = server.send(method, &format!("{prefix}/{path}"), "").await;
            let error = &reply.json()["error"];
            assert_eq!(
                (reply.status, &error["param"]),
                (404, &json!("engine_id")),
                "{method} {path}"
            );
            assert_eq!(error["type"], "not_found_error");
        }
    }
}

#[tokio::test]
async fn names_are_taken_once() {
    let server = Server::new();
    assert_eq!(server.post("/engines", engine(&[])).await.status, 201);
    let reply = server.post("/engines", engine(&[])).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["code"]), (409, &json!("engine_id_exists")));
    assert_eq!(error["param"], "engine_id");
}

#[tokio::test]
async fn loading_parameters_stand_in_either_place() {
    let server = Server::new();
    let body = engine(&[
        ("n_ctx", json!(100)),
        ("main_gpu_id", json!(-1)),
        ("loading_parameters", json!({"n_batch": 64, "warmup": true})),
    ]);
    let params = server.post("/engines", body).await.json()["loading_parameters"].clone();
    assert_eq!((&params["n_ctx"], &params["n_batch"]), (&json!(100), &json!(64)));
    assert_eq!((&params["warmup"], &params["main_gpu_id"]), (&json!(true), &json!(-1)));
}

#[tokio::test]
async fn wrong_engines_are_refused() {
    let server = Server::new();
    let cases = [
        ("engine_id", json!(""), "engine_id"),
        ("engine_id", json!("x".repeat(1000)), "engine_id"),
        ("engine_id", json!("a\nb"), "engine_id"),
        ("engine_id", json!(5), "engine_id"),
        ("engine_id", Value::Null, "engine_id"),
        ("model_path", json!(""), "model_path"),
        ("model_path", json!([]), "model_path"),
        ("load_immediately", json!("yes"), "load_immediately"),
        ("main_gpu_id", json!(16), "main_gpu_id"),
        ("n_ctx", json!(-1), "n_ctx"),
        ("loading_parameters", json!({"n_ctx": 1_000_001}), "loading_parameters.n_ctx"),
        ("loading_parameters", json!({"n_ctx": 10, "n_keep": 11}), "loading_parameters.n_keep"),
        ("loading_parameters", json!({"n_parallel": 0}), "loading_parameters.n_parallel"),
        ("loading_parameters", json!({"n_batch": 8193}), "loading_parameters.n_batch"),
        ("loading_parameters", json!({"n_batch": 8, "n_ubatch": 9}), "loading_parameters.n_ubatch"),
        ("loading_parameters", json!({"n_threads": 9}), "loading_parameters.n_threads"),
        ("loading_parameters", json!([]), "loading_parameters"),
        ("kv_cache_path", json!("x"), "kv_cache_path"),
    ];
    for (name, value, param) in cases {
        let reply = server.post("/engines", engine(&[(name, value.clone())])).await;
        let error = reply.json()["error"].clone();
        assert_eq!(
            (reply.status, error["param"].as_str()),
            (400, Some(param)),
            "{name} {value}: {error}"
        );
    }
    assert_eq!(server.get("/engines").await.json()["total_count"], 0);
}

#[tokio::test]
async fn a_model_that_cannot_be_loaded_is_422_with_details() {
    let server = Server::new();
    let body = engine(&[("load_immediately", json!(true)), ("model_path", json!("nothing.gguf"))]);
    let reply = server.post("/engines", body).await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["type"]), (422, &json!("model_loading_error")));
    assert_eq!(
        (&error["code"], &error["param"]),
        (&json!("model_loading_failed"), &json!("model_path"))
    );
    let details = json!({
        "engine_id": "e", "model_path": "nothing.gguf", "n_ctx": 0, "n_gpu_layers": 100,
        "main_gpu_id": 0,
    });
    assert_eq!(error["details"], details);
    assert_eq!(server.get("/engines").await.json()["total_count"], 0);
}

#[tokio::test]
async fn health_has_the_originals_shape() {
    let server = Server::new();
    server.register("e").await;
    for path in ["/v1/health", "/health", "/status"] {
        let body = server.get(path).await.json();
        assert_eq!(body["status"], "healthy", "{path}");
        assert!(body["timestamp"].as_u64().is_some_and(|ms| ms > 1_000_000_000_000));
        let nodes = json!({
            "total_engines": 1, "loaded_engines": 0, "unloaded_engines": 1, "autoscaling": "enabled",
        });
        assert_eq!(body["node_manager"], nodes);
        assert_eq!(body["engines"], json!([{"engine_id": "e", "status": "unloaded"}]));
    }
    // Looking loads nothing.
    assert_eq!(server.get("/engines/e/status").await.json()["status"], "unloaded");
}

#[tokio::test]
async fn models_are_the_engines() {
    let server = Server::new();
    for id in ["b", "org/a"] {
        server.register(id).await;
    }
    for path in ["/v1/models", "/models"] {
        let body = server.get(path).await.json();
        assert_eq!(body["object"], "list");
        assert_eq!(body["data"][0]["id"], "b");
        assert_eq!(
            (&body["data"][1]["id"], &body["data"][1]["object"]),
            (&json!("org/a"), &json!("model"))
        );
        assert_eq!(body["data"][1]["owned_by"], "kolosal");
        assert!(body["data"][0]["created"].as_u64().is_some());
        assert_eq!(
            body["models"][0],
            json!({"model_id": "b", "status": "unloaded", "type": "llm"})
        );
    }
    for path in ["/v1/models/b", "/models/b", "/v1/models/org%2Fa", "/models/org/a"] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, &reply.json()["object"]), (200, &json!("model")), "{path}");
    }
    let reply = server.get("/v1/models/nope").await;
    let error = &reply.json()["error"];
    assert_eq!((reply.status, &error["code"]), (404, &json!("model_not_found")));
    assert_eq!(error["param"], "model");
}

#[tokio::test]
async fn failures_of_loading_say_whose_fault_they_are() {
    let server = Server::new();
    let cases = [
        ("missing.gguf", 400, "model_loading_error", "model_file_not_found"),
        ("far away", 422, "model_download_error", "model_download_failed"),
        ("nothing.gguf", 422, "model_loading_error", "model_loading_failed"),
    ];
    for (path, status, kind, code) in cases {
        let body = engine(&[("load_immediately", json!(true)), ("model_path", json!(path))]);
        let reply = server.post("/engines", body).await;
        let error = &reply.json()["error"];
        assert_eq!(
            (reply.status, &error["type"], &error["code"]),
            (status, &json!(kind), &json!(code))
        );
        assert_eq!(error["details"]["model_path"], path);
    }
    let body = engine(&[("load_immediately", json!(true)), ("model_path", json!("panic"))]);
    let reply = server.post("/engines", body).await;
    assert!(matches!(reply.status, 422 | 500), "{}", reply.text);
    assert_eq!(server.get("/engines").await.json()["total_count"], 0);
}

#[tokio::test]
async fn engines_load_and_unload() {
    let server = Server::new();
    let status = async || server.get("/engines/e/status").await.json()["status"].clone();
    let body = engine(&[("load_immediately", json!(true))]);
    assert_eq!(server.post("/engines", body).await.json()["status"], "loaded");
    assert_eq!(status().await, "loaded");
    let reply = server.post("/engines/e/unload", "").await;
    assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("unloaded")));
    let reply = server.post("/v1/engines/e/load", "").await;
    assert_eq!((reply.status, &reply.json()["status"]), (200, &json!("loaded")));
    // A request loads it as well.
    assert_eq!(server.post("/engines/e/unload", "").await.status, 200);
    let request = json!({"model": "e", "prompt": "v", "temperature": 0});
    let reply = server.post("/v1/completions", request.to_string()).await;
    assert_eq!((reply.status, &reply.json()["choices"][0]["text"]), (200, &json!("wxyz")));
    let body = server.get("/engines/e/status").await.json();
    assert_eq!((&body["status"], &body["performance"]["loads"]), (&json!("loaded"), &json!(3)));
    assert_eq!(body["performance"]["total_requests"], 1);
    assert_eq!(body["model"]["architecture"], "alphabet");
    let health = server.get("/v1/health").await.json();
    assert_eq!(health["node_manager"]["loaded_engines"], 1);
}
