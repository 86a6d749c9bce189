//! Families whose layers differ from Llama's most, through the routes: turns are cached, calls are
//! constrained, company changes nothing, and texts become the vectors of the reference.

use futures_util::future::join_all;
use serde_json::{Value, json};

use super::{harness::Server, tools::tools};

/// Models whose layers carry a state, and one with windows, shared KV and inputs for each layer.
const MODELS: [&str; 3] = ["tiny qwen35", "tiny lfm2", "fixture parity/gemma4-e.gguf"];

async fn serving(model: &str) -> Server {
    let server = Server::scripted();
    server.load_from("m", model).await;
    server
}

async fn chat(server: &Server, messages: &[Value], fields: Value) -> Value {
    let mut request = json!({
        "model": "m", "messages": messages, "temperature": 0, "max_tokens": 40, "ignore_eos": true,
    });
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    let reply = server.post("/v1/chat/completions", request.to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

fn said(body: &Value) -> String {
    body["choices"][0]["message"]["content"].as_str().expect("text").to_owned()
}

#[tokio::test]
async fn turns_of_a_conversation_are_cached_and_change_nothing() {
    for model in MODELS {
        let (warm, cold) = (serving(model).await, serving(model).await);
        let mut messages = Vec::new();
        for turn in 0..3 {
            let question = format!("Question {turn}: {}", "why? ".repeat(12));
            messages.push(json!({"role": "user", "content": question}));
            let body = chat(&warm, &messages, json!({})).await;
            let cached = body["usage"]["prompt_tokens_details"]["cached_tokens"].as_u64();
            assert!(turn == 0 || cached >= Some(64), "{model}, turn {turn}: {cached:?} cached");
            let fresh = chat(&cold, &messages, json!({"cache_prompt": false})).await;
            assert_eq!(fresh["usage"]["prompt_tokens_details"]["cached_tokens"], 0);
            assert_eq!(said(&body), said(&fresh), "{model}, turn {turn}");
            messages.push(json!({"role": "assistant", "content": said(&body)}));
        }
    }
}

#[tokio::test]
async fn company_and_constraints_hold() {
    for model in MODELS {
        let server = serving(model).await;
        let ask = |i: usize| {
            let text = format!("Number {i}. {}", "word ".repeat(5 + 9 * i));
            vec![json!({"role": "user", "content": text})]
        };
        let mut alone = Vec::new();
        for i in 0..5 {
            alone.push(said(&chat(&server, &ask(i), json!({"cache_prompt": false})).await));
        }
        let prompts: Vec<_> = (0..5).map(ask).collect();
        let together =
            join_all(prompts.iter().map(|messages| chat(&server, messages, json!({})))).await;
        assert_eq!(together.iter().map(said).collect::<Vec<_>>(), alone, "{model}");
        let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}},
            "required": ["a"], "additionalProperties": false});
        let format = json!({"response_format": {"type": "json_schema",
            "json_schema": {"name": "s", "strict": true, "schema": schema}}});
        let body = chat(&server, &ask(1), format).await;
        let answer: Value = serde_json::from_str(&said(&body)).expect("JSON");
        assert!(answer["a"].is_boolean(), "{model}: {answer}");
    }
}

#[tokio::test]
async fn anthropics_clients_call_tools() {
    for model in MODELS {
        let server = serving(model).await;
        let tools: Vec<Value> = tools().as_array().expect("tools")[..1]
            .iter()
            .map(|tool| {
                let function = &tool["function"];
                json!({"name": function["name"], "input_schema": function["parameters"]})
            })
            .collect();
        let request = json!({
            "model": "m", "max_tokens": 300, "temperature": 0, "tools": tools,
            "tool_choice": {"type": "any"},
            "messages": [{"role": "user", "content": "How is the weather?"}],
        });
        let reply = server.post("/v1/messages", request.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let call = reply.json()["content"][0].clone();
        assert_eq!((&call["type"], &call["name"]), (&json!("tool_use"), &json!("get_weather")));
        assert!(call["input"]["city"].is_string(), "{model}: {call}");
    }
}

#[tokio::test]
async fn embedding_gemma_gives_the_vectors_of_its_reference() {
    let server = serving("fixture hf/gemma-embedding/model.gguf").await;
    let expected = crate::safetensors::expected("gemma-embedding");
    let wanted = crate::safetensors::floats(&expected["mean"]);
    let texts = json!(["one", "another text"]);
    for input in [json!(expected["tokens"]), json!([expected["tokens"], [1, 2, 3]]), texts] {
        let request = json!({"model": "m", "input": input});
        let reply = server.post("/v1/embeddings", request.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let data = reply.json()["data"].clone();
        let vector = |i: usize| -> Vec<f32> {
            serde_json::from_value(data[i]["embedding"].clone()).expect("numbers")
        };
        assert_eq!(vector(0).len(), wanted.len());
        let length: f32 = vector(0).iter().map(|x| x * x).sum();
        assert!((length - 1.0).abs() < 1e-4, "{length}");
        let cosine = crate::safetensors::cosine(&vector(0), &wanted);
        assert_eq!(cosine > 0.99999, !input[0].is_string(), "{cosine}");
        assert!(data[1].is_null() || vector(0) != vector(1));
    }
}
