//! Ollama's dialect.

use std::{sync::Arc, time::Duration};

use kolosal_server::{
    hub::{Hub, HubConfig},
    server::Options,
};
use serde_json::{Value, json};

use super::harness::Server;
use crate::hub;

/// The objects of an answer, one a line.
async fn lines(server: &Server, path: &str, body: &Value) -> Vec<Value> {
    let reply = server.post(path, body.to_string()).await;
    assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/x-ndjson"));
    reply.text.lines().map(|line| serde_json::from_str(line).expect("an object")).collect()
}

async fn one(server: &Server, path: &str, body: &Value) -> Value {
    let reply = server.post(path, body.to_string()).await;
    assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text);
    assert_eq!(reply.header("content-type"), Some("application/json"));
    reply.json()
}

fn assert_costs(last: &Value) {
    for name in [
        "total_duration",
        "load_duration",
        "prompt_eval_count",
        "prompt_eval_duration",
        "eval_count",
        "eval_duration",
    ] {
        assert!(last[name].is_u64(), "{name}: {last}");
    }
}

#[tokio::test]
async fn a_chat_comes_in_lines_or_at_once() {
    let server = Server::new();
    server.register("e").await;
    let mut request = json!({
        "model": "e",
        "messages": [{"role": "system", "content": "x"}, {"role": "user", "content": "hi"}],
        "options": {"temperature": 0, "num_predict": 3, "num_ctx": 128, "seed": 1},
        "keep_alive": "5m",
        "think": false,
    });
    let parts = lines(&server, "/api/chat", &request).await;
    let (last, others) = parts.split_last().expect("lines");
    let text: String =
        others.iter().map(|part| part["message"]["content"].as_str().expect("text")).collect();
    assert_eq!(text, "abc");
    assert!(others.iter().all(|part| part["done"] == false && part["model"] == "e"));
    assert!(others.iter().all(|part| part["message"]["role"] == "assistant"));
    assert!(others.iter().all(|part| part.get("eval_count").is_none()));
    assert_eq!((&last["done"], &last["done_reason"]), (&json!(true), &json!("length")));
    assert_eq!((&last["eval_count"], &last["message"]["content"]), (&json!(3), &json!("")));
    assert!(last["created_at"].as_str().is_some_and(|time| time.ends_with('Z')));
    assert_costs(last);
    request["stream"] = false.into();
    let answer = one(&server, "/api/chat", &request).await;
    assert_eq!(answer["message"], json!({"role": "assistant", "content": "abc"}));
    assert_eq!((&answer["done"], &answer["done_reason"]), (&json!(true), &json!("length")));
    assert_costs(&answer);
}

#[tokio::test]
async fn a_prompt_is_answered_or_continued() {
    let server = Server::new();
    server.load("e").await;
    let ask = async |fields: Value| {
        let mut request =
            json!({"model": "e:latest", "stream": false, "options": {"temperature": 0}});
        for (name, value) in fields.as_object().expect("fields") {
            request[name] = value.clone();
        }
        one(&server, "/api/generate", &request).await
    };
    let raw = ask(json!({"prompt": "v", "raw": true})).await;
    assert_eq!((&raw["response"], &raw["done_reason"]), (&json!("wxyz"), &json!("stop")));
    assert_eq!((&raw["prompt_eval_count"], &raw["model"]), (&json!(1), &json!("e:latest")));
    let through_template = ask(json!({"prompt": "v", "system": "s"})).await;
    assert_eq!(through_template["response"], "abcdefghijklmnopqrstuvwxyz");
    let options = json!({"temperature": 0, "stop": ["d"]});
    let stopped = ask(json!({"prompt": "x", "options": options})).await;
    assert_eq!(stopped["response"], "abc");
    let parts =
        lines(&server, "/api/generate", &json!({"model": "e", "prompt": "v", "raw": true})).await;
    let text: String = parts.iter().map(|part| part["response"].as_str().expect("text")).collect();
    assert_eq!(text, "wxyz");
}

/// Tools are described in the system message where the template does not write them.
#[tokio::test]
async fn models_with_a_template_take_tools() {
    let server = Server::scripted();
    server.load_from("m", "P => ok").await;
    let shown = one(&server, "/api/show", &json!({"model": "m"})).await;
    assert_eq!(shown["capabilities"], json!(["completion", "tools", "embedding"]));
}

#[tokio::test]
async fn models_are_loaded_listed_and_unloaded() {
    let server = Server::new();
    server.register("e").await;
    let tags = server.get("/api/tags").await.json();
    assert_eq!(
        (&tags["models"][0]["name"], &tags["models"][0]["model"]),
        (&json!("e"), &json!("e"))
    );
    assert_eq!(server.get("/api/ps").await.json(), json!({"models": []}));
    let shown = one(&server, "/api/show", &json!({"model": "e"})).await;
    assert_eq!((&shown["template"], &shown["capabilities"]), (&json!(""), &json!(["completion"])));
    let loaded = one(&server, "/api/generate", &json!({"model": "e", "stream": false})).await;
    assert_eq!((&loaded["done_reason"], &loaded["response"]), (&json!("load"), &json!("")));
    let running = server.get("/api/ps").await.json()["models"][0].clone();
    assert_eq!((&running["name"], &running["size"]), (&json!("e"), &json!(1)));
    assert_eq!((&running["size_vram"], &running["context_length"]), (&json!(0), &json!(2048)));
    assert_eq!(running["details"]["family"], "alphabet");
    let shown = one(&server, "/api/show", &json!({"model": "e:latest", "verbose": true})).await;
    assert!(shown["template"].as_str().is_some_and(|text| text.contains("im_start")));
    assert_eq!(shown["model_info"]["general.architecture"], "alphabet");
    assert_eq!(shown["capabilities"], json!(["completion", "embedding"]));
    let unload = json!({"model": "e", "messages": [], "keep_alive": 0, "stream": false});
    assert_eq!(one(&server, "/api/chat", &unload).await["done_reason"], "unload");
    assert_eq!(server.get("/api/ps").await.json(), json!({"models": []}));
    // Answered, and then unloaded at once.
    let request = json!({"model": "e", "prompt": "z", "keep_alive": "0s", "stream": false});
    assert_eq!(one(&server, "/api/generate", &request).await["done"], true);
    server.wait_for("e", |status| !status.is_ready()).await;
    assert!(server.get("/api/version").await.json()["version"].is_string());
}

#[tokio::test]
async fn texts_are_embedded() {
    let server = Server::new();
    server.load("e").await;
    let answer = one(&server, "/api/embed", &json!({"model": "e", "input": ["a", "bb"]})).await;
    let vectors = answer["embeddings"].as_array().expect("vectors");
    assert_eq!((&vectors[0][0], &vectors[1][1]), (&json!(1.0), &json!(1.0)));
    assert_eq!((vectors.len(), &answer["prompt_eval_count"]), (2, &json!(3)));
    let request = json!({"model": "e", "input": "a", "dimensions": 2, "keep_alive": -1});
    assert_eq!(one(&server, "/api/embed", &request).await["embeddings"], json!([[1.0, 0.0]]));
}

#[tokio::test]
async fn thoughts_and_calls_come_apart_from_the_answer() {
    let call =
        "<tool_call>\n{\"name\": \"clock\", \"arguments\": {\"zone\": \"Rome\"}}\n</tool_call>";
    let server = Server::scripted();
    let reference = format!("{{# <tool_call> <think> #}}P => <think>Hm</think>Sure.{call}{call}");
    server.load_from("m", &reference).await;
    let tools = json!([{"type": "function", "function": {"name": "clock", "description": "d",
        "parameters": {"type": "object", "properties": {"zone": {"type": "string"}}}}}]);
    let mut request = json!({
        "model": "m", "messages": [{"role": "user", "content": "x"}], "tools": tools,
        "options": {"temperature": 0}, "stream": false,
    });
    let answer = one(&server, "/api/chat", &request).await;
    let message = &answer["message"];
    assert_eq!((&message["thinking"], &message["content"]), (&json!("Hm"), &json!("Sure.")));
    let calls = message["tool_calls"].as_array().expect("calls");
    for (i, call) in calls.iter().enumerate() {
        assert!(call["id"].is_string());
        let expected = json!({"index": i, "name": "clock", "arguments": {"zone": "Rome"}});
        assert_eq!(call["function"], expected);
    }
    assert_eq!((calls.len(), &answer["done_reason"]), (2, &json!("stop")));
    // Calls and their results go back as they came.
    request["messages"] = json!([
        {"role": "user", "content": "x"}, message,
        {"role": "tool", "content": "12", "tool_name": "clock", "tool_call_id": calls[0]["id"]},
    ]);
    request["stream"] = true.into();
    let parts = lines(&server, "/api/chat", &request).await;
    let joined = |field: &str| -> String {
        parts.iter().filter_map(|part| part["message"][field].as_str()).collect()
    };
    assert_eq!((joined("thinking").as_str(), joined("content").as_str()), ("Hm", "Sure."));
    let calls = parts.iter().filter_map(|part| part["message"]["tool_calls"].as_array()).flatten();
    assert_eq!(calls.count(), 2);
    let prompt = json!({"model": "m", "prompt": "x", "options": {"num_predict": 30}});
    let parts = lines(&server, "/api/generate", &prompt).await;
    let thinking: String = parts.iter().filter_map(|part| part["thinking"].as_str()).collect();
    let response: String = parts.iter().filter_map(|part| part["response"].as_str()).collect();
    assert_eq!(thinking, "Hm");
    assert!(response.starts_with("Sure."), "{response}");
}

#[tokio::test]
async fn answers_take_the_form_that_is_asked_for() {
    let server = Server::scripted();
    server.load_from("m", "P => I would rather talk.").await;
    let schema = json!({"type": "object", "properties": {"a": {"enum": [1]}}, "required": ["a"],
        "additionalProperties": false});
    let user = json!([{"role": "user", "content": "x"}]);
    let mut request = json!({"model": "m", "messages": user, "format": schema, "stream": false});
    let answer = one(&server, "/api/chat", &request).await;
    let said = |text: &Value| serde_json::from_str::<Value>(text.as_str().unwrap()).unwrap();
    assert_eq!(said(&answer["message"]["content"]), json!({"a": 1}));
    for raw in [false, true] {
        let prompt =
            json!({"model": "m", "prompt": "P", "raw": raw, "format": schema, "stream": false});
        let answer = one(&server, "/api/generate", &prompt).await;
        assert_eq!(said(&answer["response"]), json!({"a": 1}), "{raw}");
    }
    request["format"] = "json".into();
    request["options"] = json!({"temperature": 0, "num_predict": 1});
    let answer = one(&server, "/api/chat", &request).await;
    assert!(answer["message"]["content"].as_str().unwrap().starts_with('{'), "{answer}");
    request["format"] = "".into();
    request["options"] = json!({"temperature": 0});
    let answer = one(&server, "/api/chat", &request).await;
    assert_eq!(answer["message"]["content"], "I would rather talk.");
}

#[tokio::test]
async fn failures_are_a_sentence() {
    let server = Server::new();
    server.load("e").await;
    let user = json!([{"role": "user", "content": "a"}]);
    let cases = [
        ("/api/chat", json!({"model": "f", "messages": user}), 404, "f"),
        ("/api/chat", json!({"messages": user}), 400, "model"),
        ("/api/chat", json!({"model": "e", "messages": user, "format": "yaml"}), 400, "format"),
        ("/api/chat", json!({"model": "e", "messages": user, "format": 5}), 400, "format"),
        ("/api/chat", json!({"model": "e", "messages": user, "tools": [{}]}), 400, "tools"),
        (
            "/api/generate",
            json!({"model": "e", "prompt": "a", "format": {"type": "nothing"}}),
            400,
            "format",
        ),
        (
            "/api/chat",
            json!({"model": "e", "messages": user, "keep_alive": "soon"}),
            400,
            "keep_alive",
        ),
        (
            "/api/chat",
            json!({"model": "e", "messages": user, "options": {"mirostat": 3}}),
            400,
            "mirostat",
        ),
        (
            "/api/chat",
            json!({"model": "e", "messages": user, "options": {"grammar": "root ::= \"a\""}}),
            400,
            "options.grammar",
        ),
        (
            "/api/generate",
            json!({"model": "e", "prompt": "a", "options": {"logit_bias": {"1": 5}}}),
            400,
            "options.logit_bias",
        ),
        (
            "/api/chat",
            json!({"model": "e", "messages": user, "options": {"top_p": 2}}),
            400,
            "top_p",
        ),
        (
            "/api/chat",
            json!({"model": "e", "messages": [{"role": "user", "content": "a", "images": ["x"]}]}),
            400,
            "messages[0].images",
        ),
        ("/api/generate", json!({"model": "e", "prompt": "a", "suffix": "b"}), 400, "suffix"),
        (
            "/api/generate",
            json!({"model": "e", "prompt": "a", "raw": true, "context": [1]}),
            400,
            "context",
        ),
        (
            "/api/generate",
            json!({"model": "e", "prompt": "a", "raw": true, "system": "s"}),
            400,
            "system",
        ),
        ("/api/embed", json!({"model": "e", "input": "a", "truncate": true}), 400, "truncate"),
        ("/api/embed", json!({"model": "e", "input": ""}), 400, "input[0]"),
        ("/api/show", json!({"model": "f"}), 404, "f"),
        ("/api/pull", json!({"model": "f"}), 503, "store"),
        ("/api/push", json!({"model": "f"}), 404, "/api/push"),
        ("/api/copy", json!({"source": "f", "destination": "g"}), 404, "f"),
        ("/api/copy", json!({"source": "e", "destination": "e"}), 409, "e"),
        ("/api/embeddings", json!({"model": "e", "prompt": ""}), 400, "input[0]"),
    ];
    for (path, body, status, word) in cases {
        let reply = server.post(path, body.to_string()).await;
        let error = reply.json()["error"].as_str().map(str::to_owned).unwrap_or_default();
        assert_eq!(reply.status, status, "{path} {body}: {}", reply.text);
        assert!(error.contains(word), "{path} {word}: {}", reply.text);
    }
    // What goes wrong midway is a last line.
    let parts =
        lines(&server, "/api/generate", &json!({"model": "e", "prompt": "#", "raw": true})).await;
    assert!(parts.last().is_some_and(|last| last["error"].is_string()), "{parts:?}");
}

#[tokio::test]
async fn models_are_pulled_copied_and_deleted() {
    let dir = tempfile::tempdir().expect("a folder");
    let body = hub::model_file(300_000, 0);
    let bytes = body.len();
    let files = hub::server::Server::start(move |request, _| {
        hub::server::Reply::file(request, &body, "\"1\"")
    })
    .await;
    let config = || HubConfig {
        allow_private_addresses: true,
        retry_backoff: Duration::from_millis(1),
        ..HubConfig::new(dir.path().join("models"))
    };
    let serve = || {
        let hub = Some(Arc::new(Hub::new(config()).expect("a hub")));
        Server::with(Options { hub, ..Options::default() }, |app| app)
    };
    let server = serve();
    let name = files.url("m.gguf").to_string();
    let parts = lines(&server, "/api/pull", &json!({"model": format!("{name}:latest")})).await;
    assert_eq!(parts[0], json!({"status": "pulling manifest"}));
    assert_eq!(parts.last(), Some(&json!({"status": "success"})));
    let done = &parts[parts.len() - 2];
    assert_eq!((&done["digest"], &done["total"]), (&json!("m.gguf"), &json!(bytes)));
    assert_eq!(done["completed"], bytes);
    let answer = one(&server, "/api/pull", &json!({"name": name, "stream": false})).await;
    assert_eq!(answer, json!({"status": "success"}));
    assert_eq!(files.seen().len(), 1, "what is here is not fetched again");

    let copied = one(&server, "/api/copy", &json!({"source": name, "destination": "c"})).await;
    assert_eq!(copied, json!({"status": "success"}));
    for model in [&name, "c", "c:latest"] {
        one(&server, "/api/show", &json!({"model": model})).await;
    }
    // Another process finds what was pulled, by its name.
    let other = serve();
    one(&other, "/api/show", &json!({"model": name})).await;

    let stored = || Hub::new(config()).expect("a hub").list().len();
    for (model, files_left) in [("c", 1), (name.as_str(), 0)] {
        let body = json!({"model": model}).to_string();
        let reply = server.send("DELETE", "/api/delete", body.clone()).await;
        assert_eq!((reply.status, stored()), (200, files_left), "{}", reply.text);
        assert_eq!(server.send("DELETE", "/api/delete", body).await.status, 404);
    }
    for (body, status, word) in [
        (json!({"model": "no-such-model"}), 404, "catalogue"),
        (json!({"model": "/etc/passwd"}), 400, "path"),
        (json!({"model": "m", "insecure": true}), 400, "insecure"),
        (json!({}), 400, "model"),
    ] {
        let body = json!({"stream": false})
            .as_object()
            .unwrap()
            .clone()
            .into_iter()
            .chain(body.as_object().unwrap().clone())
            .collect::<serde_json::Map<_, _>>();
        let reply = server.post("/api/pull", Value::Object(body).to_string()).await;
        let error = reply.json()["error"].as_str().unwrap_or_default().to_owned();
        assert!(reply.status == status && error.contains(word), "{word}: {}", reply.text);
    }
}

#[tokio::test]
async fn the_older_route_embeds_one_text() {
    let server = Server::scripted();
    server.load_from("e", "tiny").await;
    let whole = one(&server, "/api/embed", &json!({"model": "e", "input": "a b"})).await;
    let single = one(&server, "/api/embeddings", &json!({"model": "e", "prompt": "a b"})).await;
    assert_eq!(single, json!({"embedding": whole["embeddings"][0]}));
}

#[tokio::test]
async fn clients_see_that_somebody_is_there() {
    let server = Server::new();
    assert_eq!(server.send("HEAD", "/", "").await.status, 200);
    for accept in [&[][..], &[("accept", "application/json")], &[("accept", "*/*")]] {
        let reply = server.request("GET", "/", accept, "").await;
        assert_eq!((reply.status, reply.text.as_str()), (200, "Ollama is running"), "{accept:?}");
    }
    let browser = [("accept", "text/html,application/xhtml+xml,*/*;q=0.8")];
    let reply = server.request("GET", "/", &browser, "").await;
    assert_eq!(reply.header("content-type"), Some("text/html; charset=utf-8"));
}

#[tokio::test]
async fn a_refused_request_does_not_change_how_long_an_engine_stays() {
    let server = Server::new();
    server.load("e").await;
    let cases = [
        ("/api/generate", json!({"model": "e", "prompt": "a", "format": {"type": "nonsense"}})),
        ("/api/generate", json!({"model": "e", "prompt": "a", "options": {"min_p": 5}})),
        (
            "/api/chat",
            json!({"model": "e", "messages": [{"role": "user", "content": "a"}], "format": {"type": "nonsense"}}),
        ),
        ("/api/embed", json!({"model": "e", "input": "a", "dimensions": 500})),
    ];
    for (path, mut body) in cases {
        body["keep_alive"] = "0s".into();
        let reply = server.post(path, body.to_string()).await;
        assert_eq!(reply.status, 400, "{path}: {}", reply.text);
        let status = server.registry.status("e").expect("registered");
        assert!(status.stats.is_some(), "{path} {body} unloaded the engine");
        let expires = status.expires_in.expect("it stays for a while");
        assert!(expires.as_secs() > 60, "{path} {body}: {expires:?}");
    }
}
