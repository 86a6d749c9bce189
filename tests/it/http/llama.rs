//! Routes of llama-server and vLLM that have no counterpart in OpenAI's API, over real sockets.

use serde_json::{Value, json};

use super::{harness::Server, socket::Listening};

const DRAIN: std::time::Duration = std::time::Duration::from_secs(1);

/// The JSON of an answer to a request over a socket, and its status line.
async fn ask(server: &Listening, method: &str, path: &str, body: &Value) -> (String, Value) {
    let body = if body.is_null() { String::new() } else { body.to_string() };
    let mut client = server.connect().await;
    let length = body.len();
    let head = format!("{method} {path} HTTP/1.1\r\nhost: h\r\ncontent-length: {length}\r\n\r\n");
    client.send(&(head + &body)).await;
    let answer = client.response().await;
    let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
    (head.to_owned(), serde_json::from_str(body).unwrap_or_default())
}

#[tokio::test(flavor = "multi_thread")]
async fn texts_go_on_as_on_llama_server() {
    let server = Listening::with(kolosal_server::server::Options::default(), DRAIN).await;
    // Any name means the only engine, and the header says so.
    let body = json!({"model": "gpt-4o", "prompt": "v", "n_predict": 3, "temperature": 0});
    let (head, answer) = ask(&server, "POST", "/completion", &body).await;
    assert!(head.to_lowercase().contains("x-kolosal-ignored: model"), "{head}");
    assert_eq!((&answer["content"], &answer["stop_type"]), (&json!("wxy"), &json!("limit")));
    assert_eq!((&answer["tokens_predicted"], &answer["tokens_evaluated"]), (&json!(3), &json!(1)));
    assert_eq!((&answer["model"], &answer["has_new_line"]), (&json!("m"), &json!(false)));
    assert_eq!(answer["generation_settings"]["temperature"], 0.0);
    assert_eq!(answer["timings"]["predicted_n"], 3);
    let body = json!({"prompt": ["a", "v"], "n_predict": 1, "stop": ["zz"], "cache_prompt": true});
    let (_, answers) = ask(&server, "POST", "/completion", &body).await;
    let texts: Vec<_> = answers.as_array().expect("a list").iter().map(|t| &t["content"]).collect();
    assert_eq!(texts, [&json!("b"), &json!("w")]);
    let body = json!({"prompt": "a", "json_schema": {"type": "boolean"}, "n_predict": 8});
    let (_, answer) = ask(&server, "POST", "/completion", &body).await;
    assert!(
        ["true", "false"].contains(&answer["content"].as_str().unwrap_or_default()),
        "{answer}"
    );
    let (head, answer) =
        ask(&server, "POST", "/completion", &json!({"prompt": "a", "lora": 1})).await;
    assert!(head.starts_with("HTTP/1.1 400"), "{answer}");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_engine_is_described() {
    let server = Listening::with(kolosal_server::server::Options::default(), DRAIN).await;
    let (_, props) = ask(&server, "GET", "/props", &Value::Null).await;
    let settings = &props["default_generation_settings"];
    assert_eq!((&props["model_alias"], &props["is_sleeping"]), (&json!("m"), &json!(false)));
    assert!(settings["n_ctx"].as_u64() > Some(0) && props["chat_template"].is_string(), "{props}");
    let params = &settings["params"];
    assert!(params["temperature"].as_f64().is_some_and(|x| (x - 0.7).abs() < 1e-6), "{params}");
    let (_, models) = ask(&server, "GET", "/v1/models", &Value::Null).await;
    let sampling = &models["data"][0]["default_sampling"];
    assert_eq!(
        (&sampling["temperature"], &sampling["top_k"]),
        (&params["temperature"], &Value::Null)
    );
    let (_, slots) = ask(&server, "GET", "/slots", &Value::Null).await;
    let slots = slots.as_array().expect("a list").clone();
    assert_eq!(slots.len() as u64, props["total_slots"].as_u64().expect("a number"));
    assert_eq!((&slots[0]["id"], &slots[0]["is_processing"]), (&json!(0), &json!(false)));
    let (_, info) = ask(&server, "GET", "/tokenizer_info?model=m", &Value::Null).await;
    assert!(info["vocab_size"].as_u64() > Some(100), "{info}");
    let (head, _) = ask(&server, "GET", "/tokenizer_info?model=none", &Value::Null).await;
    assert!(head.starts_with("HTTP/1.1 404"), "{head}");
}

#[tokio::test]
async fn names_are_needed_where_there_are_several_engines() {
    let server = Server::new();
    for id in ["a", "b"] {
        server.register(id).await;
    }
    let chat = json!({"messages": [{"role": "user", "content": "hi"}]});
    let cases = [
        ("/completion", json!({"prompt": "a"}), 400),
        ("/completion", json!({"model": "none", "prompt": "a"}), 404),
        ("/v1/chat/completions", chat, 400),
        ("/v1/completions", json!({"prompt": "a"}), 400),
        ("/v1/responses", json!({"input": "a"}), 400),
        ("/v1/embeddings", json!({"input": "a"}), 400),
    ];
    for (path, body, status) in cases {
        let reply = server.post(path, body.to_string()).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["param"]), (status, &json!("model")), "{path}: {error}");
    }
    assert_eq!(server.get("/props").await.status, 400);
    let asleep = server.get("/props?model=b").await.json();
    assert_eq!((&asleep["is_sleeping"], &asleep["chat_template"]), (&json!(true), &Value::Null));
}

#[tokio::test]
async fn pairs_are_scored_and_inputs_cut() {
    let server = Server::scripted();
    server.load_from("e", "tiny").await;
    let post = async |path: &str, body: Value| {
        let reply = server.post(path, body.to_string()).await;
        (reply.status, reply.json())
    };
    let texts = json!(["a b", "c d e"]);
    let (_, one) = post("/v1/score", json!({"text_1": "a b", "text_2": texts})).await;
    let score = |answer: &Value, i: usize| answer["data"][i]["score"].as_f64().expect("a score");
    assert!((score(&one, 0) - 1.0).abs() < 1e-3 && score(&one, 1) < 0.999, "{one}");
    assert_eq!((&one["object"], &one["data"][1]["index"]), (&json!("list"), &json!(1)));
    let (_, paired) =
        post("/score", json!({"queries": texts, "documents": ["c d e", "c d e"]})).await;
    assert!((score(&paired, 0) - score(&one, 1)).abs() < 1e-3, "{paired}");
    assert!((score(&paired, 1) - 1.0).abs() < 1e-3, "{paired}");
    let (status, refused) = post("/score", json!({"text_1": ["a", "b"], "text_2": "a"})).await;
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("text_1")));
    let (_, refused) = post("/score", json!({"text_1": ["a", ""], "text_2": ["a", "b"]})).await;
    assert_eq!(refused["error"]["param"], "text_1[1]");

    let embed = async |fields: Value| {
        let mut body = json!({"model": "e"});
        for (name, value) in fields.as_object().expect("an object") {
            body[name] = value.clone();
        }
        post("/v1/embeddings", body).await
    };
    let long = "a b ".repeat(40_000);
    let (status, _) = embed(json!({"input": long})).await;
    assert_eq!(status, 400);
    let (status, whole) = embed(json!({"input": long, "truncate_prompt_tokens": -1})).await;
    assert_eq!(status, 200, "{whole}");
    let (_, cut) = embed(json!({"input": "a b c d e f", "truncate_prompt_tokens": 3})).await;
    assert_eq!(cut["usage"]["prompt_tokens"], 3, "{cut}");
    let (_, listed) = post("/embedding", json!({"content": ["a b", "c"]})).await;
    assert_eq!(listed[1]["index"], 1);
    let (_, plain) = embed(json!({"input": "a b"})).await;
    assert_eq!(listed[0]["embedding"][0], plain["data"][0]["embedding"]);
}

#[tokio::test]
async fn token_counts_come_with_every_chunk_if_asked_for() {
    let server = Server::new();
    server.load("m").await;
    for (path, prompt) in [("/v1/chat/completions", "messages"), ("/v1/completions", "prompt")] {
        let mut body = json!({"stream": true, "max_tokens": 3});
        body["stream_options"] = json!({"include_usage": true, "continuous_usage_stats": true});
        body[prompt] = match prompt {
            "prompt" => "a".into(),
            _ => json!([{"role": "user", "content": "a"}]),
        };
        let reply = server.post(path, body.to_string()).await;
        let data = reply.text.lines().filter_map(|line| line.strip_prefix("data: {"));
        let chunks =
            data.map(|rest| serde_json::from_str::<Value>(&format!("{{{rest}")).expect("JSON"));
        let counts: Vec<_> = chunks.map(|c| c["usage"]["completion_tokens"].as_u64()).collect();
        assert!(counts.iter().all(Option::is_some) && counts.is_sorted(), "{path}: {counts:?}");
        assert_eq!(counts.last(), Some(&Some(3)), "{path}");
    }
}
