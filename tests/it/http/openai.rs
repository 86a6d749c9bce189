//! Chat and text completions on a model whose answers are known.

use kolosal_server::registry::EngineSpec;
use serde_json::{Value, json};

use super::{
    harness::{Reply, Server},
    model::{CONTEXT, END},
};

const ALPHABET: &str = "abcdefghijklmnopqrstuvwxyz";
/// Tokens of `<|im_start|>user\nhi<|im_end|>\n<|im_start|>assistant\n`, a byte or a control token each.
const HI_TOKENS: u64 = 21;

async fn server() -> Server {
    let server = Server::new();
    server.load("m").await;
    server
}

fn chat(fields: Value) -> String {
    let mut request = json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "temperature": 0,
    });
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request.to_string()
}

fn completion(fields: Value) -> String {
    let mut request = json!({"model": "m", "prompt": "v", "temperature": 0});
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request.to_string()
}

async fn ask(server: &Server, path: &str, body: String) -> Value {
    let reply = server.post(path, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// The data of an event stream, without the closing `[DONE]`.
fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    assert_eq!(reply.header("cache-control"), Some("no-cache"));
    let body = reply.text.strip_suffix("data: [DONE]\n\n").expect("an end");
    let events = body.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
    let data = events.map(|event| event.strip_prefix("data: ").expect("data"));
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

/// The text of one choice of a streamed chat answer.
fn streamed(events: &[Value], index: u64) -> String {
    let choices = events.iter().flat_map(|event| event["choices"].as_array().into_iter().flatten());
    choices
        .filter(|choice| choice["index"] == index)
        .filter_map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str()))
        .collect()
}

#[tokio::test]
async fn a_chat_answer_has_every_field() {
    let server = server().await;
    let mut body = ask(&server, "/v1/chat/completions", chat(json!({"max_tokens": 3}))).await;
    let id = body["id"].as_str().expect("an id").to_owned();
    assert!(id.starts_with("chatcmpl-") && id.len() == "chatcmpl-".len() + 24, "{id}");
    assert!(body["created"].as_u64().is_some_and(|s| s > 1_600_000_000));
    assert!(body["system_fingerprint"].as_str().is_some_and(|f| f.starts_with("fp_")));
    for name in ["id", "created", "system_fingerprint", "timings"] {
        body[name] = Value::Null;
    }
    let expected = json!({
        "id": null,
        "object": "chat.completion",
        "created": null,
        "model": "m",
        "choices": [{
            "index": 0,
            "message": {"role": "assistant", "content": "abc", "refusal": null, "annotations": []},
            "logprobs": null,
            "finish_reason": "length",
        }],
        "usage": {
            "prompt_tokens": HI_TOKENS,
            "completion_tokens": 3,
            "total_tokens": HI_TOKENS + 3,
            "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
            "completion_tokens_details": {
                "reasoning_tokens": 0, "audio_tokens": 0,
                "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
            },
        },
        "service_tier": "default",
        "system_fingerprint": null,
        "timings": null,
    });
    assert_eq!(body, expected);
}

#[tokio::test]
async fn answers_end_for_a_reason() {
    let server = server().await;
    let cases = [
        (json!({}), ALPHABET, "stop"),
        (json!({"max_completion_tokens": 26}), ALPHABET, "length"),
        (json!({"max_completion_tokens": 27}), ALPHABET, "stop"),
        (json!({"max_tokens": 1}), "a", "length"),
        (json!({"stop": "d"}), "abc", "stop"),
        (json!({"stop": "def"}), "abc", "stop"),
        (json!({"stop": ["xyz", "mno", "nop"]}), "abcdefghijkl", "stop"),
        (json!({"stop": "zz"}), ALPHABET, "stop"),
        (json!({"stop": "a"}), "", "stop"),
        (json!({"stop": ["dex"], "max_tokens": 5}), "abcde", "length"),
        (json!({"stop_token_ids": [u32::from(b'e')]}), "abcd", "stop"),
        (json!({"ignore_eos": true, "max_tokens": 30, "stop": "b"}), "a", "stop"),
        (json!({"logit_bias": {END.to_string(): 100}}), "", "stop"),
        (json!({"top_p": 0.001, "temperature": 1, "seed": 1, "max_tokens": 3}), "abc", "length"),
        (json!({"top_k": 1, "temperature": 2, "max_tokens": 3}), "abc", "length"),
    ];
    for (fields, text, reason) in cases {
        let what = fields.to_string();
        let body = ask(&server, "/v1/chat/completions", chat(fields.clone())).await;
        let choice = &body["choices"][0];
        let found = (choice["message"]["content"].as_str(), choice["finish_reason"].as_str());
        assert_eq!(found, (Some(text), Some(reason)), "{what}");
        let mut fields = fields;
        fields["stream"] = json!(true);
        let events = events(&server.post("/v1/chat/completions", chat(fields)).await);
        assert_eq!(streamed(&events, 0), text, "{what}");
        assert_eq!(
            events.last().expect("an event")["choices"][0]["finish_reason"],
            reason,
            "{what}"
        );
    }
}

#[tokio::test]
async fn a_streamed_chat_answer_event_by_event() {
    let server = server().await;
    let fields = json!({
        "stream": true, "max_tokens": 2, "stream_options": {"include_usage": true},
    });
    let reply = server.post("/v1/chat/completions", chat(fields)).await;
    let mut events = events(&reply);
    let timings = events[3].as_object_mut().and_then(|event| event.remove("timings"));
    assert_eq!(timings.expect("timings with the last piece")["predicted_n"], 2);
    let chunk = |choices: Value, usage: Value| {
        json!({
            "id": events[0]["id"], "object": "chat.completion.chunk",
            "created": events[0]["created"], "model": "m", "service_tier": "default",
            "system_fingerprint": events[0]["system_fingerprint"],
            "choices": choices, "usage": usage,
        })
    };
    let piece = |delta: Value, reason: Value| {
        let choice = json!({"index": 0, "delta": delta, "logprobs": null, "finish_reason": reason});
        chunk(json!([choice]), Value::Null)
    };
    let usage = json!({
        "prompt_tokens": HI_TOKENS, "completion_tokens": 2, "total_tokens": HI_TOKENS + 2,
        "prompt_tokens_details": {"cached_tokens": 0, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": 0, "audio_tokens": 0,
            "accepted_prediction_tokens": 0, "rejected_prediction_tokens": 0,
        },
    });
    let expected = [
        piece(json!({"role": "assistant", "content": ""}), Value::Null),
        piece(json!({"content": "a"}), Value::Null),
        piece(json!({"content": "b"}), Value::Null),
        piece(json!({}), json!("length")),
        chunk(json!([]), usage),
    ];
    assert_eq!(events, expected);
    let plain = chat(json!({"stream": true, "max_tokens": 1}));
    let plain = self::events(&server.post("/chat/completions", plain).await);
    assert!(plain.iter().all(|event| event.get("usage").is_none()), "usage only when asked for");
}

#[tokio::test]
async fn several_answers_share_a_prompt() {
    let server = server().await;
    let fields = json!({"n": 3, "max_tokens": 4});
    let body = ask(&server, "/v1/chat/completions", chat(fields.clone())).await;
    let choices = body["choices"].as_array().expect("choices");
    assert_eq!(choices.len(), 3);
    for (i, choice) in choices.iter().enumerate() {
        assert_eq!((&choice["index"], &choice["message"]["content"]), (&json!(i), &json!("abcd")));
    }
    let usage = &body["usage"];
    assert_eq!(
        (&usage["prompt_tokens"], &usage["completion_tokens"]),
        (&json!(HI_TOKENS), &json!(12))
    );
    let mut fields = fields;
    fields["stream"] = json!(true);
    let events = events(&server.post("/v1/chat/completions", chat(fields)).await);
    for i in 0..3 {
        assert_eq!(streamed(&events, i), "abcd");
        let of_choice: Vec<_> =
            events.iter().filter(|event| event["choices"][0]["index"] == i).collect();
        assert_eq!(of_choice[0]["choices"][0]["delta"]["role"], "assistant");
        let last = of_choice.last().expect("a last chunk");
        assert_eq!(last["choices"][0]["finish_reason"], "length");
    }
}

#[tokio::test]
async fn logprobs_of_a_chat_answer() {
    let server = server().await;
    let fields = json!({"logprobs": true, "top_logprobs": 2, "max_tokens": 2});
    let body = ask(&server, "/v1/chat/completions", chat(fields.clone())).await;
    let logprobs = &body["choices"][0]["logprobs"];
    assert_eq!(logprobs["refusal"], Value::Null);
    let content = logprobs["content"].as_array().expect("tokens");
    assert_eq!(content.len(), 2);
    for (token, text) in content.iter().zip(["a", "b"]) {
        assert_eq!((&token["token"], &token["bytes"]), (&json!(text), &json!(text.as_bytes())));
        let logprob = token["logprob"].as_f64().expect("a number");
        assert!((-0.001..=0.0).contains(&logprob), "{logprob}");
        let top = token["top_logprobs"].as_array().expect("alternatives");
        assert_eq!((top.len(), &top[0]["token"]), (2, &json!(text)));
    }
    let mut fields = fields;
    fields["stream"] = json!(true);
    let events = events(&server.post("/v1/chat/completions", chat(fields)).await);
    let streamed: Vec<_> = events
        .iter()
        .filter_map(|event| event["choices"][0]["logprobs"]["content"].as_array())
        .flatten()
        .cloned()
        .collect();
    assert_eq!(&streamed, content);
}

#[tokio::test]
async fn characters_are_never_torn() {
    let server = server().await;
    for (prompt, text) in [("!", "é"), ("?", "😀")] {
        let fields = json!({"prompt": prompt, "stream": true});
        let events = events(&server.post("/v1/completions", completion(fields)).await);
        let texts: Vec<_> =
            events.iter().filter_map(|e| e["choices"][0]["text"].as_str()).collect();
        assert_eq!(texts, [text, ""], "{prompt}");
    }
}

#[tokio::test]
async fn special_tokens_in_messages_are_text() {
    let server = server().await;
    let message = json!([{"role": "user", "content": "<|im_end|>"}]);
    let body = ask(&server, "/v1/chat/completions", chat(json!({"messages": message}))).await;
    assert_eq!(body["usage"]["prompt_tokens"], HI_TOKENS - 2 + 10);
}

#[tokio::test]
async fn a_final_message_can_be_continued() {
    let server = server().await;
    let fields = json!({
        "messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "stu"}],
        "continue_final_message": true,
    });
    let body = ask(&server, "/v1/chat/completions", chat(fields)).await;
    assert_eq!(body["choices"][0]["message"]["content"], "vwxyz");
}

#[tokio::test]
async fn prefixes_are_cached_and_counted() {
    let server = server().await;
    let message = json!([{"role": "user", "content": "x".repeat(100)}]);
    let request =
        |salt: &str| chat(json!({"messages": message, "max_tokens": 1, "cache_salt": salt}));
    let cached = |body: &Value| body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
    let path = "/v1/chat/completions";
    assert_eq!(cached(&ask(&server, path, request("a")).await), Some(0));
    assert_eq!(cached(&ask(&server, path, request("a")).await), Some(96));
    assert_eq!(cached(&ask(&server, path, request("b")).await), Some(0));
}

#[tokio::test]
async fn the_same_seed_gives_the_same_answer() {
    let server = server().await;
    let mut answers = std::collections::HashSet::new();
    for seed in 0..16 {
        let fields = json!({"prompt": "~", "max_tokens": 1, "temperature": 1, "seed": seed});
        let first = ask(&server, "/v1/completions", completion(fields.clone())).await;
        let second = ask(&server, "/v1/completions", completion(fields)).await;
        assert_eq!(first["choices"], second["choices"], "{seed}");
        answers.insert(first["choices"][0]["text"].as_str().expect("text").to_owned());
    }
    assert!(answers.len() > 1, "{answers:?}");
}

#[tokio::test]
async fn prompts_have_four_forms() {
    let server = server().await;
    let bytes = |text: &str| text.bytes().map(u32::from).collect::<Vec<_>>();
    let cases = [
        (json!("v"), vec!["wxyz"]),
        (json!(["v", "x", " "]), vec!["wxyz", "yz", ALPHABET]),
        (json!(bytes("hi x")), vec!["yz"]),
        (json!([bytes("v"), bytes("w")]), vec!["wxyz", "xyz"]),
    ];
    for (prompt, texts) in cases {
        let fields = json!({"prompt": prompt, "max_tokens": 100});
        for path in ["/v1/completions", "/completions"] {
            let body = ask(&server, path, completion(fields.clone())).await;
            assert_eq!(body["object"], "text_completion");
            assert!(
                body["id"].as_str().is_some_and(|id| id.starts_with("cmpl-") && id.len() == 29)
            );
            let choices: Vec<_> = body["choices"].as_array().expect("choices").clone();
            let expected: Vec<_> = (0..)
                .zip(&texts)
                .map(|(index, text)| {
                    let (index, reason): (u32, _) = (index, "stop");
                    json!({"index": index, "text": text, "logprobs": null, "finish_reason": reason})
                })
                .collect();
            assert_eq!(choices, expected, "{prompt}");
        }
        let mut fields = fields;
        fields["stream"] = json!(true);
        let events = events(&server.post("/v1/completions", completion(fields)).await);
        for (index, text) in (0..).zip(&texts) {
            assert_eq!(&streamed(&events, index), text, "{prompt}");
        }
    }
}

#[tokio::test]
async fn usage_of_several_prompts_is_the_sum() {
    let server = server().await;
    let fields = json!({"prompt": ["v", "hi w"], "n": 2, "max_tokens": 2});
    let body = ask(&server, "/v1/completions", completion(fields)).await;
    let usage = &body["usage"];
    assert_eq!((&usage["prompt_tokens"], &usage["completion_tokens"]), (&json!(5), &json!(8)));
    let indexes: Vec<_> =
        body["choices"].as_array().expect("choices").iter().map(|c| c["index"].clone()).collect();
    assert_eq!(indexes, [0, 1, 2, 3]);
}

#[tokio::test]
async fn completions_default_to_16_tokens() {
    let server = server().await;
    let body = ask(&server, "/v1/completions", completion(json!({"prompt": " "}))).await;
    let choice = &body["choices"][0];
    assert_eq!(
        (&choice["text"], &choice["finish_reason"]),
        (&json!("abcdefghijklmnop"), &json!("length"))
    );
}

#[tokio::test]
async fn offsets_and_likely_tokens_are_exact_within_characters() {
    let server = server().await;
    // `?` is followed by the four bytes of an emoji, `!` by the two of an accented letter.
    let fields = json!({"prompt": "é?", "echo": true, "logprobs": 2, "max_tokens": 5});
    let whole = ask(&server, "/v1/completions", completion(fields.clone())).await;
    let choice = &whole["choices"][0];
    assert_eq!(choice["text"], "é?\u{1f600}");
    let logprobs = &choice["logprobs"];
    let tokens = ["bytes:\\xc3", "bytes:\\xa9", "?"];
    let emoji = ["bytes:\\xf0", "bytes:\\x9f", "bytes:\\x98", "bytes:\\x80"];
    assert_eq!(logprobs["tokens"], json!([&tokens[..], &emoji[..]].concat()));
    assert_eq!(logprobs["text_offset"], json!([0, 0, 1, 2, 2, 2, 2]));
    for (i, token) in emoji.iter().enumerate() {
        let top = logprobs["top_logprobs"][3 + i].as_object().expect("a map");
        assert!(top.len() >= 2 && top.contains_key(*token), "{top:?} {token}");
    }
    // The third token of the prompt is unlikely, and told nevertheless.
    let unlikely = logprobs["top_logprobs"][2].as_object().expect("a map");
    assert!(unlikely.len() == 3 && unlikely.contains_key("?"), "{unlikely:?}");
    let mut streamed = fields;
    streamed["stream"] = true.into();
    let reply = server.post("/v1/completions", completion(streamed)).await;
    let offsets = reply.text.lines().filter_map(|line| line.strip_prefix("data: {"));
    let offsets: Vec<Value> = offsets
        .map(|data| serde_json::from_str::<Value>(&format!("{{{data}")).expect("JSON"))
        .filter_map(|event| event["choices"][0]["logprobs"]["text_offset"].as_array().cloned())
        .flatten()
        .collect();
    assert_eq!(Value::from(offsets), logprobs["text_offset"]);
}

#[tokio::test]
async fn prompts_can_be_echoed_and_scored() {
    let server = server().await;
    let fields = json!({"prompt": "uv", "echo": true, "logprobs": 1, "max_tokens": 2});
    let body = ask(&server, "/v1/completions", completion(fields.clone())).await;
    let choice = &body["choices"][0];
    assert_eq!(choice["text"], "uvwx");
    let logprobs = &choice["logprobs"];
    assert_eq!(logprobs["tokens"], json!(["u", "v", "w", "x"]));
    assert_eq!(logprobs["text_offset"], json!([0, 1, 2, 3]));
    assert_eq!(
        (&logprobs["token_logprobs"][0], &logprobs["top_logprobs"][0]),
        (&Value::Null, &Value::Null)
    );
    for i in 1..4 {
        let logprob = logprobs["token_logprobs"][i].as_f64().expect("a number");
        assert!((-0.001..=0.0).contains(&logprob), "{logprob}");
        assert_eq!(logprobs["top_logprobs"][i].as_object().map(serde_json::Map::len), Some(1));
    }
    let mut scored = fields;
    scored["max_tokens"] = json!(0);
    let body = ask(&server, "/v1/completions", completion(scored)).await;
    assert_eq!(body["choices"][0]["text"], "uv");
    assert_eq!(body["choices"][0]["logprobs"]["tokens"], json!(["u", "v"]));
    assert_eq!(body["usage"]["completion_tokens"], 0);
}

#[tokio::test]
async fn the_best_of_several_is_returned() {
    let server = server().await;
    let fields = json!({"prompt": "~", "best_of": 4, "n": 2, "temperature": 1, "max_tokens": 3});
    let body = ask(&server, "/v1/completions", completion(fields)).await;
    assert_eq!(body["choices"].as_array().map(Vec::len), Some(2));
    assert_eq!(body["usage"]["completion_tokens"], 12);
}

#[tokio::test]
async fn what_does_not_fit_the_context_is_refused() {
    let server = server().await;
    let beyond = json!({"prompt": "1".repeat(CONTEXT - 2), "max_tokens": 100_000});
    let reply = server.post("/v1/completions", completion(beyond)).await.json();
    let end = (&reply["choices"][0]["finish_reason"], &reply["usage"]["completion_tokens"]);
    assert_eq!(end, (&json!("length"), &json!(2)), "an upper bound is a bound");
    let fits = json!({"prompt": "y".repeat(CONTEXT - 2), "max_tokens": 2});
    assert_eq!(server.post("/v1/completions", completion(fits)).await.status, 200);
    for fields in [
        json!({"prompt": "y".repeat(CONTEXT), "max_tokens": 1}),
        json!({"prompt": "y".repeat(10 * CONTEXT)}),
    ] {
        let reply = server.post("/v1/completions", completion(fields)).await;
        let error = &reply.json()["error"];
        assert_eq!((reply.status, &error["code"]), (400, &json!("context_length_exceeded")));
        assert!(error["message"].as_str().is_some_and(|m| m.contains("2048")), "{error}");
    }
}

#[tokio::test]
async fn token_ids_outside_the_vocabulary_are_refused() {
    let server = server().await;
    let cases = [
        (json!({"logit_bias": {"258": 1}}), "logit_bias.258"),
        (json!({"stop_token_ids": [1_000_000]}), "stop_token_ids[0]"),
        (json!({"prompt": [1, 258]}), "prompt[1]"),
    ];
    for (fields, param) in cases {
        let reply = server.post("/v1/completions", completion(fields)).await;
        assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!(param)));
    }
}

#[tokio::test]
async fn a_failing_model_is_a_500_and_loads_again() {
    let server = server().await;
    let path = "/v1/completions";
    let reply = server.post(path, completion(json!({"prompt": "#"}))).await;
    assert_eq!((reply.status, &reply.json()["error"]["type"]), (500, &json!("server_error")));
    assert_eq!(ask(&server, path, completion(json!({}))).await["choices"][0]["text"], "wxyz");
    let reply = server.post(path, completion(json!({"prompt": "#", "stream": true}))).await;
    let events = events(&reply);
    assert_eq!(events.last().expect("an event")["error"]["type"], "server_error");
    assert_eq!(ask(&server, path, completion(json!({}))).await["choices"][0]["text"], "wxyz");
}

#[tokio::test]
async fn a_shutdown_ends_streams_with_an_error_event() {
    let server = std::sync::Arc::new(server().await);
    let fields = json!({"prompt": "7", "max_tokens": 2000, "stream": true});
    let asking = {
        let server = std::sync::Arc::clone(&server);
        tokio::spawn(async move { server.post("/v1/completions", completion(fields)).await })
    };
    server
        .wait_for("m", |status| status.stats.as_ref().is_some_and(|stats| stats.running == 1))
        .await;
    server.drain.expire();
    let events = events(&asking.await.expect("an answer"));
    assert_eq!(events.last().expect("an event")["error"]["code"], "shutting_down");
    server
        .wait_for("m", |status| status.stats.as_ref().is_some_and(|stats| stats.running == 0))
        .await;
}

/// An engine may serve less than was asked for: what it was trained for, or an encoder's positions.
#[tokio::test]
async fn the_list_of_models_tells_the_context_that_is_served() {
    let server = Server::new();
    server.load("m").await;
    let asked = EngineSpec::new("m", "alphabet").params.n_ctx as usize;
    assert_ne!(asked, CONTEXT);
    let list = server.get("/v1/models").await.json();
    assert_eq!(list["data"][0]["max_model_len"], json!(CONTEXT));
}
