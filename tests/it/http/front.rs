//! What every request passes: paths, methods, errors, panics, keys, origins, request ids, shutdown.

use kolosal_server::server::{ApiKeys, BodyLimits, Cors, Options};
use poem::{Route, get, handler, web::Path};
use serde_json::{Value, json};

use super::harness::Server;

#[handler]
async fn panics() -> &'static str {
    panic!("on purpose")
}

#[handler]
fn greets(Path(name): Path<String>) -> String {
    format!("hello {name}")
}

#[tokio::test]
async fn unknown_paths_are_404_with_a_body() {
    let server = Server::new();
    let paths = ["/nope", "/v1", "/v1/nope", "/v1/livez", "/v1/chat", "/%00", "/..", "/v2/models"];
    for path in paths {
        let reply = server.get(path).await;
        assert_eq!(reply.status, 404, "{path}");
        let error = &reply.json()["error"];
        assert_eq!(error["type"], "not_found_error", "{path}");
        assert_eq!((&error["param"], &error["code"]), (&Value::Null, &json!("not_found")));
        assert!(error["message"].as_str().is_some_and(|text| !text.is_empty()));
    }
}

#[tokio::test]
async fn wrong_methods_are_405_with_what_is_allowed() {
    let server = Server::new();
    let cases = [
        ("PUT", "/engines", "POST, GET, HEAD, OPTIONS"),
        ("PUT", "/v1/engines", "POST, GET, HEAD, OPTIONS"),
        ("GET", "/v1/chat/completions", "POST, OPTIONS"),
        ("DELETE", "/chat/completions", "POST, OPTIONS"),
        ("GET", "/completions", "POST, OPTIONS"),
        ("POST", "/v1/models", "GET, HEAD, OPTIONS"),
        ("DELETE", "/v1/models/m", "GET, HEAD, OPTIONS"),
        ("GET", "/engines/m", "DELETE, OPTIONS"),
        ("POST", "/v1/engines/m/status", "GET, HEAD, OPTIONS"),
        ("POST", "/health", "GET, HEAD, OPTIONS"),
        ("POST", "/", "GET, HEAD, OPTIONS"),
        ("PATCH", "/docs", "GET, HEAD, OPTIONS"),
    ];
    for (method, path, allow) in cases {
        let reply = server.send(method, path, "").await;
        assert_eq!((reply.status, reply.header("allow")), (405, Some(allow)), "{method} {path}");
        assert_eq!(reply.json()["error"]["type"], "method_not_allowed", "{method} {path}");
        let reply = server.send("OPTIONS", path, "").await;
        assert_eq!((reply.status, reply.header("allow")), (204, Some(allow)), "OPTIONS {path}");
    }
}

#[tokio::test]
async fn head_is_get_without_a_body() {
    let server = Server::new();
    for path in ["/health", "/v1/models", "/engines", "/", "/docs", "/openapi.json"] {
        let reply = server.send("HEAD", path, "").await;
        assert_eq!((reply.status, reply.text.as_str()), (200, ""), "{path}");
    }
    assert_eq!(server.send("HEAD", "/v1/models/nope", "").await.status, 404);
}

#[tokio::test]
async fn queries_do_not_disturb_routing() {
    let server = Server::new();
    for path in ["/v1/models?beta=true", "/v1/health?", "/?a=b", "/docs?%ff"] {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn routes_can_be_added() {
    let server = Server::with(Options::default(), |app| {
        app.with_route("/greet/:name", get(greets))
            .with_routes("/team", Route::new().at("/:name", get(greets)))
    });
    assert_eq!(server.get("/greet/ann").await.text, "hello ann");
    assert_eq!(server.get("/team/bob").await.text, "hello bob");
    assert_eq!(server.get("/v1/models").await.status, 200);
    let reply = server.send("POST", "/greet/ann", "").await;
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (405, &json!("method_not_allowed")));
}

#[tokio::test]
async fn a_panic_is_a_500_and_the_server_lives() {
    let server = Server::with(Options::default(), |app| app.with_route("/panic", get(panics)));
    let reply = server.get("/panic").await;
    assert_eq!(reply.status, 500);
    let expected = json!({"error": {
        "message": "internal server error", "type": "server_error", "param": null, "code": null,
    }});
    assert_eq!(reply.json(), expected);
    assert!(reply.header("x-request-id").is_some());
    assert_eq!(server.get("/v1/health").await.status, 200);
}

/// The thread of a kernel panics in the midst of an answer.
#[tokio::test]
async fn an_engine_that_panics_fails_alone_and_can_be_loaded_again() {
    let server = Server::new();
    server.load("bad").await;
    server.load("good").await;
    let ask = |model: &str, prompt: &str| {
        let body = json!({"model": model, "prompt": prompt, "max_tokens": 2000});
        server.post("/v1/completions", body.to_string())
    };
    // Both answers of the bad one end; the other's goes on.
    let (running, broken, other) = tokio::join!(ask("bad", "7"), ask("bad", "^"), ask("good", "w"));
    assert_eq!((broken.status, running.status), (500, 500), "{}", broken.text);
    let error = &broken.json()["error"];
    assert!(error["message"].as_str().is_some_and(|m| m.contains("a kernel broke")), "{error}");
    assert_eq!(other.json()["choices"][0]["text"], "xyz");
    let health = server.get("/v1/health").await;
    assert_eq!(health.status, 200, "{}", health.text);
    // The next request loads it again.
    let again = ask("bad", "w").await;
    assert_eq!(again.json()["choices"][0]["text"], "xyz", "{}", again.text);
}

#[tokio::test]
async fn request_ids_are_echoed_or_made() {
    let server = Server::new();
    let reply = server.request("GET", "/livez", &[("x-request-id", "abc-1")], "").await;
    assert_eq!(reply.header("x-request-id"), Some("abc-1"));
    for bad in ["", "with space", &"x".repeat(1000)] {
        let reply = server.request("GET", "/nope", &[("x-request-id", bad)], "").await;
        let id = reply.header("x-request-id").expect("an id");
        assert!(id.starts_with("req_") && id.len() == 28, "{id}");
    }
}

#[tokio::test]
async fn keys_guard_everything_but_probes_and_pages() {
    let options = Options { keys: ApiKeys::new(["sesame", "other"]), ..Options::default() };
    let server = Server::with(options, |app| app.with_route("/mine", get(greets)));
    let good = [
        ("authorization", "Bearer sesame"),
        ("authorization", "bearer other"),
        ("x-api-key", "sesame"),
    ];
    let bad = [
        ("authorization", "Bearer sesam"),
        ("authorization", "Bearer sesame2"),
        ("authorization", "Bearer "),
        ("authorization", "Basic sesame"),
        ("authorization", "sesame"),
        ("x-api-key", ""),
        ("x-other", "sesame"),
    ];
    for path in ["/v1/models", "/models", "/engines", "/v1/engines/x/status"] {
        for header in good {
            assert_ne!(server.request("GET", path, &[header], "").await.status, 401, "{header:?}");
        }
        for header in bad {
            let reply = server.request("GET", path, &[header], "").await;
            assert_eq!(reply.status, 401, "{path} {header:?}");
            assert_eq!(reply.json()["error"]["type"], "authentication_error");
            assert_eq!(reply.header("www-authenticate"), Some("Bearer"));
            assert!(!reply.text.contains("sesame"));
        }
    }
    // Neither do strangers learn which paths exist, nor are bodies read before the key.
    assert_eq!(server.get("/mine").await.status, 401);
    assert_eq!(server.get("/nope").await.status, 401);
    assert_eq!(server.post("/v1/chat/completions", "{").await.status, 401);
    for path in
        ["/livez", "/readyz", "/health", "/v1/health", "/status", "/docs", "/openapi.json", "/"]
    {
        assert_eq!(server.get(path).await.status, 200, "{path}");
    }
}

#[tokio::test]
async fn open_paths_do_not_name_engines_to_strangers() {
    let options = Options { keys: ApiKeys::new(["sesame"]), ..Options::default() };
    let server = Server::with(options, |app| app);
    server.register("secret-engine").await;
    assert!(!server.page("/").await.text.contains("secret-engine"));
    assert_eq!(server.get("/v1/health").await.json()["engines"], json!([]));
    let key = [("x-api-key", "sesame")];
    let health = server.request("GET", "/v1/health", &key, "").await.json();
    assert_eq!(health["engines"][0]["engine_id"], "secret-engine");
    let key = [("x-api-key", "sesame"), ("accept", "text/html")];
    assert!(server.request("GET", "/", &key, "").await.text.contains("secret-engine"));
}

#[tokio::test]
async fn origins_are_allowed_by_list_only() {
    let ask = [
        ("origin", "https://a.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "content-type"),
    ];
    let allow = |reply: &super::harness::Reply| {
        reply.header("access-control-allow-origin").map(str::to_owned)
    };
    let closed = Server::new();
    assert_eq!(allow(&closed.request("GET", "/v1/models", &ask[..1], "").await), None);
    assert_eq!(allow(&closed.request("OPTIONS", "/v1/models", &ask, "").await), None);
    let cors = Cors::new(vec!["https://a.example".to_owned()]);
    // A browser's question before a request has no key.
    let keys = ApiKeys::new(["sesame"]);
    let open = Server::with(Options { cors, keys, ..Options::default() }, |app| app);
    let preflight = open.request("OPTIONS", "/v1/chat/completions", &ask, "").await;
    assert_eq!(preflight.status, 204);
    assert_eq!(allow(&preflight).as_deref(), Some("https://a.example"));
    assert!(preflight.header("access-control-allow-methods").is_some_and(|m| m.contains("POST")));
    let refused = open.request("GET", "/v1/models", &ask[..1], "").await;
    assert_eq!((refused.status, allow(&refused).as_deref()), (401, Some("https://a.example")));
    let stranger = [("origin", "https://b.example"), ask[1]];
    assert_eq!(allow(&open.request("OPTIONS", "/v1/models", &stranger, "").await), None);
}

#[tokio::test]
async fn bodies_over_the_limit_are_413() {
    let body = BodyLimits { max_bytes: 1000, ..BodyLimits::default() };
    let server = Server::with(Options { body, ..Options::default() }, |app| app);
    let text = format!(r#"{{"model": "m", "prompt": "{}"}}"#, "x".repeat(2000));
    let reply = server.post("/v1/completions", text).await;
    assert_eq!((reply.status, &reply.json()["error"]["code"]), (413, &json!("request_too_large")));
    let message = reply.json()["error"]["message"].as_str().expect("a message").to_owned();
    assert!(message.contains("1000"), "{message}");
}

#[tokio::test]
async fn a_body_that_does_not_come_is_408() {
    let body =
        BodyLimits { read_timeout: std::time::Duration::from_millis(20), ..BodyLimits::default() };
    let server = Server::with(Options { body, ..Options::default() }, |app| app);
    let never = futures_util::stream::pending::<std::io::Result<bytes::Bytes>>();
    let reply = server.post("/v1/completions", poem::Body::from_bytes_stream(never)).await;
    assert_eq!(reply.status, 408);
}

#[tokio::test]
async fn while_draining_only_probes_answer() {
    let server = Server::new();
    assert_eq!(server.get("/readyz").await.status, 200);
    server.drain.start();
    for path in ["/v1/models", "/engines", "/nope"] {
        let reply = server.get(path).await;
        assert_eq!((reply.status, reply.header("retry-after")), (503, Some("5")), "{path}");
        assert_eq!(reply.json()["error"]["code"], "shutting_down");
    }
    assert_eq!(server.get("/readyz").await.status, 503);
    assert_eq!(server.get("/livez").await.status, 200);
    assert_eq!(server.get("/v1/health").await.json()["server"]["uptime"], "draining");
}

#[tokio::test]
async fn query_parameters_that_are_mistyped_are_refused_and_others_told() {
    let server = Server::new();
    let cases = [
        ("GET", "/v1/models?foo=1", None),
        ("HEAD", "/models?foo=1", None),
        ("GET", "/status?verbose", None),
        ("GET", "/v1/responses/r?strem=true", Some("strem")),
        ("GET", "/v1/responses/r/input_items?limit=1&limit=2", Some("limit")),
        ("POST", "/v1/chat/completions?stream=true", None),
        ("POST", "/api/tags?beta=true", None),
        ("GET", "/api/tags?beta=true", None),
        ("POST", "/v1/messages?beta=true", None),
        ("POST", "/v1/messages/count_tokens?beta=true", None),
        ("GET", "/v1/models?beta=true", None),
        ("GET", "/v1/models?", None),
        ("GET", "/docs?theme=dark", None),
        ("GET", "/nope?foo=1", None),
    ];
    for (method, path, want) in cases {
        let reply = server.send(method, path, "").await;
        if want.is_none() || method == "HEAD" {
            assert_eq!(
                reply.status == 400 && !reply.text.contains("body"),
                want.is_some(),
                "{path}"
            );
            continue;
        }
        let json = reply.json();
        assert_eq!(reply.status, 400, "{path}");
        let text = json["error"]["message"].as_str().or(json["error"].as_str()).unwrap();
        assert!(text.contains(&format!("{:?}", want.unwrap())), "{path}: {text}");
    }
}

#[tokio::test]
async fn what_is_ignored_is_told() {
    let server = Server::new();
    server.load("m").await;
    let reply = server.get("/v1/models?client_version=1&limit=20").await;
    assert_eq!(reply.status, 200);
    assert_eq!(reply.header("x-kolosal-ignored"), Some("?client_version, ?limit"));
    let body = json!({"model": "m", "prompt": "a", "max_tokens": 1, "client_metadata": {"a": 1}});
    let reply = server.post("/v1//completions/", body.to_string()).await;
    assert_eq!((reply.status, reply.header("x-kolosal-ignored")), (200, Some("client_metadata")));
    assert_eq!(server.get("/v1/models").await.header("x-kolosal-ignored"), None);
}

#[tokio::test]
async fn pages_of_others_neither_reach_nor_drive_the_server() {
    let server = Server::new();
    server.register("m").await;
    let unload = "/engines/m/unload";
    let rebound = [("host", "evil.example:8080"), ("origin", "http://evil.example:8080")];
    for (method, path) in [("GET", "/engines"), ("DELETE", "/engines/m"), ("POST", unload)] {
        let reply = server.request(method, path, &rebound, "").await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["code"]),
            (403, &json!("host_not_allowed"))
        );
    }
    let foreign: [&[(&str, &str)]; 4] = [
        &[("host", "127.0.0.1:8080"), ("origin", "https://evil.example")],
        &[("host", "127.0.0.1:8080"), ("origin", "null")],
        &[("host", "127.0.0.1:8080"), ("sec-fetch-site", "cross-site")],
        &[("host", "localhost:8080"), ("origin", "http://localhost:3000")],
    ];
    for headers in foreign {
        let reply = server.request("POST", unload, headers, "").await;
        let code = reply.json()["error"]["code"].clone();
        assert_eq!((reply.status, code), (403, json!("origin_not_allowed")), "{headers:?}");
    }
    let own = [("host", "127.0.0.1:8080"), ("origin", "http://127.0.0.1:8080")];
    assert_eq!(server.request("POST", unload, &own, "").await.status, 200);
    // With keys the name does not matter: such a page has none.
    let keys = ApiKeys::new(["sesame"]);
    let keyed = Server::with(Options { keys, ..Options::default() }, |app| app);
    let behind_proxy = [("host", "ai.example.org"), ("x-api-key", "sesame")];
    assert_eq!(keyed.request("GET", "/engines", &behind_proxy, "").await.status, 200);
}

#[tokio::test]
async fn pages_are_not_framed_and_sdks_pass_preflights() {
    let cors = Cors::new(vec!["https://a.example".to_owned()]);
    let server = Server::with(Options { cors, ..Options::default() }, |app| app);
    for path in ["/", "/docs"] {
        let reply = server.page(path).await;
        assert_eq!(reply.header("x-frame-options"), Some("DENY"), "{path}");
        assert_eq!(reply.header("x-content-type-options"), Some("nosniff"), "{path}");
        let policy = reply.header("content-security-policy").expect("a policy");
        assert!(policy.contains("frame-ancestors 'none'"), "{policy}");
    }
    let ask = [
        ("origin", "https://a.example"),
        ("access-control-request-method", "POST"),
        ("access-control-request-headers", "x-stainless-os,anthropic-beta,openai-project,x-evil"),
    ];
    let reply = server.request("OPTIONS", "/v1/chat/completions", &ask, "").await;
    let allowed = reply.header("access-control-allow-headers").expect("headers");
    for name in ["x-stainless-os", "anthropic-beta", "openai-project"] {
        assert!(allowed.contains(name), "{allowed}");
    }
    assert!(!allowed.contains("x-evil"), "{allowed}");
}

#[tokio::test]
async fn the_start_page_has_models_and_snippets_to_copy() {
    let server = Server::new();
    server.load("org/a:q4").await;
    server.register("<b>").await;
    let headers = [("accept", "text/html"), ("host", "box:9000")];
    let page = server.request("GET", "/", &headers, "").await.text;
    for text in [
        "<code>org/a:q4</code></td><td>loaded",
        "<option>&lt;b&gt;</option>",
        "curl http://box:9000/v1/chat/completions",
        "base_url=&quot;http://box:9000/v1&quot;",
        "fetch(&quot;http://box:9000/v1",
        "ANTHROPIC_BASE_URL=http://box:9000 ANTHROPIC_AUTH_TOKEN=none",
        "OPENAI_API_BASE_URL=http://box:9000/v1",
    ] {
        assert!(page.contains(text), "{text}: {page}");
    }
    assert!(
        !page.contains("<b>") && !page.contains("{model}") && !page.contains("{url}"),
        "{page}"
    );
    let forged = [("accept", "text/html"), ("host", "a\"><script>")];
    let page = server.request("GET", "/", &forged, "").await.text;
    assert!(!page.contains("a\">") && !page.contains("&quot;><"), "{page}");
    let keys = ApiKeys::new(["sesame"]);
    let closed = Server::with(Options { keys, ..Options::default() }, |app| app);
    closed.register("secret-engine").await;
    let page = closed.page("/").await.text;
    assert!(page.contains("my-model") && page.contains("YOUR_KEY"), "{page}");
}

#[tokio::test]
async fn routes_of_others_say_what_to_use_instead() {
    let server = Server::new();
    let cases = [
        ("POST", "/v1/moderations", "response_format"),
        ("POST", "/v1/images/generations", "text"),
        ("POST", "/audio/transcriptions", "speech"),
        ("GET", "/v1/files/f-1/content", "messages"),
        ("POST", "/v1/batches", "own routes"),
        ("GET", "/v1/fine_tuning/jobs", "POST /engines"),
        ("POST", "/v1/threads/t/runs", "/v1/responses"),
        ("GET", "/metrics", "/status"),
    ];
    for (method, path, text) in cases {
        let reply = server.send(method, path, "").await;
        let error = reply.json()["error"].clone();
        assert_eq!((reply.status, &error["code"]), (404, &json!("route_not_served")), "{path}");
        assert!(error["message"].as_str().is_some_and(|said| said.contains(text)), "{error}");
    }
    let messages = server.post("/v1/messages/batches", "{}").await;
    assert_eq!((messages.status, messages.json()["type"].clone()), (404, json!("error")));
    let ollama = server.post("/api/push", "{}").await;
    assert!(ollama.json()["error"].as_str().is_some_and(|said| said.contains("published")));
    assert_eq!(server.get("/v1/filesystem").await.json()["error"]["code"], "not_found");
}

#[tokio::test]
async fn engines_with_slashes_and_colons_are_reached_as_they_are_written() {
    let server = Server::new();
    server.register("org/name:q4").await;
    for path in ["/engines/org/name:q4/status", "/v1/engines/org%2Fname%3Aq4/status"] {
        let reply = server.get(path).await;
        assert_eq!(
            (reply.status, &reply.json()["engine_id"]),
            (200, &json!("org/name:q4")),
            "{path}"
        );
    }
    assert_eq!(server.get("/v1/models/org/name:q4/").await.json()["id"], "org/name:q4");
    assert_eq!(server.post("//engines/org/name:q4/load", "").await.status, 200);
    assert_eq!(server.send("DELETE", "/engines/org/name:q4", "").await.status, 200);
}
