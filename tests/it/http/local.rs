//! Parameters of local servers on a model whose answers are known, and texts with a gap.

use serde_json::{Value, json};

use super::harness::Server;

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

async fn ask(server: &Server, path: &str, fields: Value) -> Value {
    let mut body = match path {
        CHAT => json!({"messages": [{"role": "user", "content": "hi"}]}),
        COMPLETIONS => json!({"prompt": "a"}),
        _ => json!({}),
    };
    body["model"] = "m".into();
    for (name, value) in fields.as_object().expect("an object") {
        body[name] = value.clone();
    }
    let reply = server.post(path, body.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

async fn server() -> Server {
    let server = Server::new();
    server.load("m").await;
    server
}

/// The data of an event stream.
fn events(text: &str) -> Vec<Value> {
    let data = text.lines().filter_map(|line| line.strip_prefix("data: "));
    data.filter(|data| *data != "[DONE]")
        .map(|data| serde_json::from_str(data).expect("JSON"))
        .collect()
}

#[tokio::test]
async fn parameters_do_what_they_say() {
    let server = server().await;
    // After a letter comes the next one; `~` is followed by any of a to d.
    let cases = [
        (json!({"max_tokens": 3}), "bcd"),
        (json!({"n_predict": 2}), "bc"),
        (json!({"max_tokens": 9, "stop": "d", "include_stop_str_in_output": true}), "bcd"),
        (json!({"max_tokens": 9, "stop": "d", "include_stop_str_in_output": false}), "bc"),
        (json!({"max_tokens": 2, "samplers": "k", "top_k": 1}), "bc"),
        (json!({"max_tokens": 2, "samplers": ["temperature", "top_p"], "top_p": 0.5}), "bc"),
        (json!({"max_tokens": 2, "mirostat": 2, "mirostat_tau": 0.1}), "bc"),
        (json!({"max_tokens": 2, "mirostat": 1, "mirostat_tau": 0.1}), "bc"),
        (json!({"max_tokens": 2, "adaptive_target": 1.0, "adaptive_decay": 0.5}), "bc"),
        (json!({"max_tokens": 2, "adaptive_target": 1, "samplers": ["min_p", "adaptive_p"]}), "bc"),
        (json!({"max_tokens": 2, "typical_p": 0.5, "top_n_sigma": 2, "min_keep": 1}), "bc"),
        (json!({"max_tokens": 2, "dynatemp_range": 0.5, "top_p": 0.9}), "bc"),
        (json!({"max_tokens": 2, "dry_multiplier": 0.8, "repeat_last_n": 64}), "bc"),
        (json!({"max_tokens": 3, "bad_words": ["z", "xy"], "prompt": "u"}), "vwx"),
        (json!({"max_tokens": 1, "bad_words": ["a", "b", "c"], "prompt": "~", "top_k": 4}), "d"),
        (json!({"max_tokens": 1, "logit_bias": [["abc", false]], "prompt": "~", "top_k": 1}), "d"),
        (json!({"max_tokens": 1, "logit_bias": [[100, 50]], "prompt": "~", "top_k": 1}), "d"),
        (json!({"max_tokens": 2, "cache_prompt": false, "t_max_predict_ms": 60_000}), "bc"),
    ];
    for (fields, text) in cases {
        let answer = ask(&server, COMPLETIONS, fields.clone()).await;
        assert_eq!(answer["choices"][0]["text"], text, "{fields}");
    }
}

#[tokio::test]
async fn answers_have_tokens_probabilities_and_times() {
    let server = server().await;
    let fields = json!({
        "max_tokens": 2, "temperature": 0, "return_token_ids": true, "prompt": "aa",
        "prompt_logprobs": 1, "n_probs": 1, "post_sampling_probs": true,
    });
    let answer = ask(&server, COMPLETIONS, fields).await;
    let choice = &answer["choices"][0];
    assert_eq!(
        (&choice["token_ids"], &choice["prompt_token_ids"]),
        (&json!([98, 99]), &json!([97, 97]))
    );
    assert_eq!(choice["logprobs"]["token_logprobs"], json!([0.0, 0.0]), "the draw was certain");
    let prompt = choice["prompt_logprobs"].as_array().expect("a list");
    assert_eq!((prompt.len(), &prompt[0]), (2, &Value::Null));
    let [likeliest, actual] = [&prompt[1]["98"], &prompt[1]["97"]];
    assert_eq!((&likeliest["rank"], &likeliest["decoded_token"]), (&json!(1), &json!("b")));
    assert_eq!((&actual["rank"], &actual["decoded_token"]), (&json!(2), &json!("a")));
    let timings = &answer["timings"];
    assert_eq!((&timings["prompt_n"], &timings["predicted_n"]), (&json!(2), &json!(2)));
    let fields = json!({"max_tokens": 1, "return_tokens": true, "prompt_logprobs": 0});
    let answer = ask(&server, CHAT, fields).await;
    assert_eq!(answer["choices"][0]["token_ids"], json!([97]));
    let num_prompt = answer["usage"]["prompt_tokens"].as_u64().map(|n| n as usize);
    for name in ["prompt_token_ids", "prompt_logprobs"] {
        assert_eq!(answer[name].as_array().map(Vec::len), num_prompt, "{name}");
    }
}

#[tokio::test]
async fn streams_tell_progress_and_times() {
    let server = server().await;
    let fields = json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "prompt": "a",
        "stream": true, "max_tokens": 2, "temperature": 0, "return_progress": true,
        "timings_per_token": true, "return_tokens": true,
    });
    for path in [CHAT, COMPLETIONS] {
        let mut body = fields.clone();
        let other = if path == CHAT { "prompt" } else { "messages" };
        body.as_object_mut().expect("an object").remove(other);
        let events = events(&server.post(path, body.to_string()).await.text);
        let progress = events.iter().find_map(|event| event.get("prompt_progress"));
        let progress = progress.expect("progress");
        assert_eq!(progress["processed"], progress["total"], "{path}");
        assert!(events.iter().all(|event| event["timings"]["prompt_n"].is_u64()), "{path}");
        let ids = events.iter().filter_map(|event| event["choices"][0]["token_ids"].as_array());
        assert_eq!(ids.flatten().count(), 2, "{path}");
        let prompts = events.iter().filter(|event| {
            event.get("prompt_token_ids").is_some()
                || event["choices"][0].get("prompt_token_ids").is_some()
        });
        assert_eq!(prompts.count(), 1, "{path}");
    }
}

#[tokio::test]
async fn a_prediction_saves_steps_and_changes_nothing() {
    let server = server().await;
    let plain = ask(&server, CHAT, json!({})).await;
    let parts = json!([{"type": "text", "text": "abcdef"}, {"type": "text", "text": "ghi!mnop"}]);
    for content in [json!("abcdefghi!mnop"), parts] {
        let prediction = json!({"type": "content", "content": content});
        let answer = ask(&server, CHAT, json!({"prediction": prediction})).await;
        assert_eq!(answer["choices"], plain["choices"]);
        let details = &answer["usage"]["completion_tokens_details"];
        let timings = &answer["timings"];
        assert!(timings["draft_n_accepted"].as_u64() >= Some(9), "{timings}");
        assert!(timings["draft_n"].as_u64() > timings["draft_n_accepted"].as_u64(), "{timings}");
        assert!(details["accepted_prediction_tokens"].as_u64() >= Some(9), "{details}");
        assert!(details["rejected_prediction_tokens"].as_u64() >= Some(1), "{details}");
    }
}

#[tokio::test]
async fn a_request_says_how_long_its_engine_stays() {
    for keep_alive in [json!({"keep_alive": 0}), json!({"ttl": 0})] {
        let server = server().await;
        ask(&server, CHAT, keep_alive).await;
        server.wait_for("m", |status| !status.is_ready()).await;
    }
}

#[tokio::test]
async fn gaps_are_filled_in() {
    let server = Server::scripted();
    // Six tokens of prompt: the marks of prefix, suffix and middle, and three letters.
    server.load_from("m", "abcdef => hello\nyou").await;
    let fields = json!({"prompt": "ab", "suffix": "c", "max_tokens": 20, "temperature": 0});
    let answer = ask(&server, COMPLETIONS, fields).await;
    assert_eq!(answer["choices"][0]["text"], "hello\nyou");
    assert_eq!(answer["usage"]["prompt_tokens"], 6);
    let gap = json!({"input_prefix": "a", "prompt": "b", "input_suffix": "c", "temperature": 0});
    let answer = ask(&server, "/infill", gap.clone()).await;
    assert_eq!((&answer["content"], &answer["stop_type"]), (&json!("hello\nyou"), &json!("eos")));
    assert_eq!((&answer["stop"], &answer["tokens_evaluated"]), (&json!(true), &json!(6)));
    let mut streamed = gap.clone();
    streamed["stream"] = true.into();
    streamed["stop"] = "you".into();
    let events = events(&server.post("/infill", streamed.to_string()).await.text);
    let text: String = events.iter().filter_map(|event| event["content"].as_str()).collect();
    assert_eq!(text, "hello\n");
    let last = events.last().expect("an end");
    assert_eq!((&last["stop_type"], &last["stopping_word"]), (&json!("word"), &json!("you")));
    let mut asked = gap.clone();
    asked["n_probs"] = 2.into();
    asked["n_predict"] = 2.into();
    asked["prompt_logprobs"] = 1.into();
    let answer = ask(&server, "/infill", asked.clone()).await;
    let tokens = answer["completion_probabilities"].as_array().expect("a list");
    let first = &tokens[0];
    assert_eq!((tokens.len(), &first["token"], &first["id"]), (2, &json!("h"), &json!(104)));
    assert!(first["logprob"].as_f64().is_some_and(|x| x < 0.0 && x > -0.1), "{first}");
    assert_eq!(first["top_logprobs"].as_array().map(Vec::len), Some(2), "{first}");
    assert_eq!(first["top_logprobs"][0]["logprob"], first["logprob"]);
    assert_eq!(answer["prompt_logprobs"].as_array().map(Vec::len), Some(6));
    asked["post_sampling_probs"] = true.into();
    asked["stream"] = true.into();
    asked["prompt_logprobs"] = Value::Null;
    let pieces = self::events(&server.post("/infill", asked.to_string()).await.text);
    let lists = pieces.iter().filter_map(|piece| piece["completion_probabilities"].as_array());
    let drawn: Vec<&Value> = lists.flatten().collect();
    assert_eq!((drawn.len(), &drawn[0]["prob"]), (2, &json!(1.0)), "the draw was certain");
    assert!(drawn[0].get("logprob").is_none() && drawn[0]["top_probs"].is_array(), "{}", drawn[0]);
    let generate = json!({"prompt": "ab", "suffix": "c", "stream": false});
    assert_eq!(ask(&server, "/api/generate", generate).await["response"], "hello\nyou");
    let mut hurried = gap;
    hurried["n_predict"] = 3.into();
    assert_eq!(ask(&server, "/infill", hurried).await["stop_type"], "limit");
}

#[tokio::test]
async fn a_model_without_the_tokens_fills_in_nothing() {
    let server = server().await;
    let gap = json!({"model": "m", "input_prefix": "a", "input_suffix": "c"});
    let completion = json!({"model": "m", "prompt": "a", "suffix": "c"});
    let cases = [("/infill", gap, "input_suffix"), (COMPLETIONS, completion, "suffix")];
    for (path, body, param) in cases {
        let reply = server.post(path, body.to_string()).await;
        assert_eq!(reply.status, 400, "{}", reply.text);
        assert_eq!(reply.json()["error"]["param"], param, "{path}");
    }
}

#[tokio::test]
async fn documented_limits_are_the_limits() {
    let server = server().await;
    let cases = [
        ("stop_token_ids", json!(vec![1; 256]), 200),
        ("stop_token_ids", json!(vec![1; 257]), 400),
        ("t_max_predict_ms", json!(-1), 200),
        ("t_max_predict_ms", json!(-5), 400),
        ("t_max_predict_ms", json!(86_400_001), 400),
        ("request_id", json!("é".repeat(512)), 200),
        ("request_id", json!("x".repeat(513)), 400),
        ("cache_salt", json!("é".repeat(1024)), 200),
        ("cache_salt", json!("x".repeat(1025)), 400),
    ];
    for (name, value, status) in cases {
        for path in [CHAT, COMPLETIONS] {
            let mut body = json!({"model": "m", "max_tokens": 2});
            match path {
                CHAT => body["messages"] = json!([{"role": "user", "content": "hi"}]),
                _ => body["prompt"] = "a".into(),
            }
            body[name] = value.clone();
            let reply = server.post(path, body.to_string()).await;
            assert_eq!(reply.status, status, "{path} {name}: {}", reply.text);
            if status == 400 {
                assert_eq!(reply.json()["error"]["param"], name);
            }
        }
    }
}
