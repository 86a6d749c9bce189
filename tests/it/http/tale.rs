//! An answer is told once: in every dialect, the whole is what a client makes of the stream.

use std::collections::BTreeMap;

use proptest::prelude::*;
use serde_json::{Value, json};

use super::{
    anthropic, cut,
    harness::{Reply, Server},
    responses, structured,
    tools::tools,
};

/// As long as the prompts of all routes: nothing else tells the model where its answer begins.
const PROMPT: &str = "PPPPPPPP";
/// Thinks and calls, and nothing constrains it.
const TEMPLATE: &str = "{# <tool_call> <think> FREE #}";

/// Where a document has this, the model fails.
const TORN: char = '\u{7}';

/// What a model says and what it is asked.
#[derive(Clone, Debug)]
struct Case {
    document: String,
    has_tools: bool,
    max_tokens: u32,
    stop: Option<&'static str>,
}

/// The fields that most requests have under these names, and more.
fn asked(fields: Value) -> Value {
    let mut body = json!({"model": "m", "temperature": 0});
    let fields = fields.as_object().expect("an object").clone();
    body.as_object_mut().expect("an object").extend(fields);
    body
}

/// One way to ask: path, request, what of a whole is compared, and a client's fold of a stream.
struct Route {
    path: &'static str,
    request: fn(&Case) -> Value,
    essence: fn(&Value) -> Value,
    fold: fn(&Reply) -> Value,
}

const ROUTES: &[Route] = &[
    Route { path: "/v1/chat/completions", request: chat, essence: of_chat, fold: fold_chat },
    Route {
        path: "/v1/completions",
        request: completion,
        essence: of_completion,
        fold: fold_completion,
    },
    Route { path: "/v1/responses", request: response, essence: of_response, fold: fold_response },
    Route { path: "/v1/messages", request: message, essence: of_message, fold: fold_message },
    Route { path: "/api/chat", request: ollama_chat, essence: of_ollama, fold: fold_ollama },
    Route {
        path: "/api/generate",
        request: ollama_generate,
        essence: of_ollama,
        fold: fold_ollama,
    },
    Route { path: "/infill", request: infill, essence: of_infill, fold: fold_infill },
    Route {
        path: "/v1/inference/chat/completions",
        request: inference,
        essence: of_inference,
        fold: fold_inference,
    },
];

fn question() -> Value {
    json!([{"role": "user", "content": "x"}])
}

fn chat(case: &Case) -> Value {
    let mut body = asked(json!({"messages": question(), "n": 2, "logprobs": true,
        "max_tokens": case.max_tokens, "return_token_ids": true}));
    if case.has_tools {
        body["tools"] = json!(tools());
    }
    if let Some(stop) = case.stop {
        body["stop"] = json!(stop);
    }
    body
}

/// Of a choice: text, thoughts, calls, tokens, their log-probabilities, reason.
type Choice = (Option<String>, String, Vec<(String, String)>, Vec<Value>, Vec<Value>, Value);

fn functions(calls: &Value) -> Vec<(String, String)> {
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    let calls = calls.as_array().into_iter().flatten().map(|call| &call["function"]);
    calls.map(|function| (text(&function["name"]), text(&function["arguments"]))).collect()
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn of_chat(whole: &Value) -> Value {
    let choice = |choice: &Value| -> Choice {
        let message = &choice["message"];
        (
            message["content"].as_str().map(str::to_owned),
            message["reasoning_content"].as_str().unwrap_or_default().to_owned(),
            functions(&message["tool_calls"]),
            list(&choice["token_ids"]),
            list(&choice["logprobs"]["content"]),
            choice["finish_reason"].clone(),
        )
    };
    json!(list(&whole["choices"]).iter().map(choice).collect::<Vec<_>>())
}

fn fold_chat(reply: &Reply) -> Value {
    let mut choices: BTreeMap<u64, Choice> = BTreeMap::new();
    for event in structured::events(reply) {
        for piece in list(&event["choices"]) {
            let choice = choices.entry(piece["index"].as_u64().expect("an index")).or_default();
            let delta = &piece["delta"];
            if let Some(text) = delta["content"].as_str().filter(|text| !text.is_empty()) {
                choice.0.get_or_insert_default().push_str(text);
            }
            choice.1.push_str(delta["reasoning_content"].as_str().unwrap_or_default());
            for (name, arguments) in functions(&delta["tool_calls"]) {
                match choice.2.last_mut() {
                    Some(call) if name.is_empty() => call.1.push_str(&arguments),
                    _ => choice.2.push((name, arguments)),
                }
            }
            choice.3.extend(list(&piece["token_ids"]));
            choice.4.extend(list(&piece["logprobs"]["content"]));
            choice.5 = piece["finish_reason"].clone();
        }
    }
    // A message without calls has a text, even an empty one.
    for choice in choices.values_mut().filter(|choice| choice.2.is_empty()) {
        choice.0.get_or_insert_default();
    }
    json!(choices.into_values().collect::<Vec<_>>())
}

fn completion(case: &Case) -> Value {
    let mut body = asked(json!({"prompt": [PROMPT, PROMPT], "n": 2, "logprobs": 1,
        "max_tokens": case.max_tokens, "return_token_ids": true}));
    if let Some(stop) = case.stop {
        body["stop"] = json!(stop);
    }
    body
}

/// Of a completion: text, the lists of log-probabilities, tokens, those of the prompt, reason.
type Completion = (String, [Vec<Value>; 4], Vec<Value>, Vec<Value>, Value);

fn add_completion(whole: &mut Completion, piece: &Value) {
    whole.0.push_str(piece["text"].as_str().expect("a text"));
    let names = ["tokens", "token_logprobs", "top_logprobs", "text_offset"];
    for (all, name) in whole.1.iter_mut().zip(names) {
        all.extend(list(&piece["logprobs"][name]));
    }
    whole.2.extend(list(&piece["token_ids"]));
    whole.3.extend(list(&piece["prompt_token_ids"]));
    whole.4 = piece["finish_reason"].clone();
}

fn of_completion(whole: &Value) -> Value {
    let mut all: BTreeMap<u64, Completion> = BTreeMap::new();
    for piece in list(&whole["choices"]) {
        add_completion(all.entry(piece["index"].as_u64().expect("an index")).or_default(), &piece);
    }
    // The tokens of a prompt come with the first piece, if there is one.
    all.values_mut().filter(|choice| choice.2.is_empty()).for_each(|choice| choice.3.clear());
    json!(all.into_values().collect::<Vec<_>>())
}

fn fold_completion(reply: &Reply) -> Value {
    let pieces = structured::events(reply);
    of_completion(
        &json!({"choices": pieces.iter().flat_map(|event| list(&event["choices"])).collect::<Vec<_>>()}),
    )
}

fn response(case: &Case) -> Value {
    let mut body = asked(json!({"input": question(), "max_output_tokens": case.max_tokens.max(16),
        "include": ["message.output_text.logprobs"]}));
    if case.has_tools {
        body["tools"] = json!(cut::flat_tools());
    }
    body
}

fn of_response(whole: &Value) -> Value {
    let output = responses::without_ids(whole["output"].clone());
    json!([output, whole["status"], whole["incomplete_details"]])
}

fn fold_response(reply: &Reply) -> Value {
    let events = responses::events(reply);
    let last = &events.last().expect("events")["response"];
    let output = responses::without_ids(responses::assemble(&events));
    assert_eq!(output, responses::without_ids(last["output"].clone()));
    json!([output, last["status"], last["incomplete_details"]])
}

fn message(case: &Case) -> Value {
    let mut body = asked(json!({"messages": question(), "max_tokens": case.max_tokens}));
    if case.has_tools {
        body["tools"] = json!(cut::schema_tools());
    }
    if let Some(stop) = case.stop {
        body["stop_sequences"] = json!(vec![stop]);
    }
    body
}

fn of_message(whole: &Value) -> Value {
    let block = |mut block: Value| {
        if block["type"] == "tool_use" {
            block["id"] = Value::Null;
        }
        block
    };
    let blocks: Vec<_> = list(&whole["content"]).into_iter().map(block).collect();
    json!([blocks, whole["stop_reason"], whole["stop_sequence"], whole["usage"]["output_tokens"]])
}

fn fold_message(reply: &Reply) -> Value {
    of_message(&anthropic::assemble(&anthropic::events(reply)))
}

fn options(case: &Case) -> Value {
    let mut options = json!({"num_predict": case.max_tokens, "temperature": 0});
    if let Some(stop) = case.stop {
        options["stop"] = json!(vec![stop]);
    }
    options
}

fn ollama_chat(case: &Case) -> Value {
    let mut body = json!({"model": "m", "messages": question(), "options": options(case)});
    if case.has_tools {
        body["tools"] = json!(tools());
    }
    body
}

fn ollama_generate(case: &Case) -> Value {
    json!({"model": "m", "prompt": PROMPT, "raw": true, "options": options(case)})
}

/// Of Ollama's: text, thoughts, calls, reason, tokens.
fn of_ollama(whole: &Value) -> Value {
    let mut all = (String::new(), String::new(), Vec::new(), Value::Null, Value::Null);
    add_ollama(&mut all, whole);
    json!(all)
}

fn add_ollama(all: &mut (String, String, Vec<Value>, Value, Value), line: &Value) {
    let message = line.get("message").unwrap_or(line);
    let text = message.get("content").or(message.get("response")).and_then(Value::as_str);
    all.0.push_str(text.expect("a text"));
    all.1.push_str(message["thinking"].as_str().unwrap_or_default());
    all.2.extend(list(&message["tool_calls"]).into_iter().map(|call| call["function"].clone()));
    all.3 = line["done_reason"].clone();
    all.4 = line["eval_count"].clone();
}

fn fold_ollama(reply: &Reply) -> Value {
    let mut all = (String::new(), String::new(), Vec::new(), Value::Null, Value::Null);
    for line in reply.text.lines() {
        add_ollama(&mut all, &serde_json::from_str(line).expect("JSON"));
    }
    json!(all)
}

fn infill(case: &Case) -> Value {
    let mut body =
        asked(json!({"input_prefix": "abc", "input_suffix": "de", "return_tokens": true,
        "n_predict": case.max_tokens, "n_probs": 1}));
    if let Some(stop) = case.stop {
        body["stop"] = json!(vec![stop]);
    }
    body
}

/// Of a gap: text, tokens, probabilities, how it stopped.
fn of_infill(whole: &Value) -> Value {
    fold_pieces(std::slice::from_ref(whole))
}

fn fold_pieces(pieces: &[Value]) -> Value {
    let (mut text, mut tokens, mut likely) = (String::new(), Vec::new(), Vec::new());
    for piece in pieces {
        text += piece["content"].as_str().expect("a text");
        tokens.extend(list(&piece["tokens"]));
        likely.extend(list(&piece["completion_probabilities"]));
    }
    let last = pieces.last().expect("pieces");
    let end = ["stop", "stop_type", "stopping_word", "tokens_predicted", "tokens_evaluated"];
    json!([text, tokens, likely, end.map(|name| last[name].clone())])
}

fn fold_infill(reply: &Reply) -> Value {
    let data = reply.text.lines().filter_map(|line| line.strip_prefix("data: "));
    let pieces: Vec<Value> = data.map(|data| serde_json::from_str(data).expect("JSON")).collect();
    fold_pieces(&pieces)
}

fn inference(case: &Case) -> Value {
    let mut body = asked(json!({"messages": question(), "maxNewTokens": case.max_tokens}));
    if case.has_tools {
        body["tools"] = json!(tools().to_string());
    }
    body
}

/// Of the original's: text, thoughts, tokens, calls.
fn of_inference(whole: &Value) -> Value {
    let reasoning = whole["reasoning"].as_str().unwrap_or_default();
    json!([whole["text"], reasoning, whole["tokens"], functions(&whole["tool_calls"])])
}

fn fold_inference(reply: &Reply) -> Value {
    let mut events = structured::events(reply);
    let last = events.pop().expect("events");
    let (mut text, mut reasoning, mut tokens) = (String::new(), String::new(), Vec::new());
    for part in &events {
        text += part["text"].as_str().expect("a text");
        reasoning += part["reasoning"].as_str().unwrap_or_default();
        tokens.extend(list(&part["tokens"]));
    }
    let calls = events.iter().flat_map(|part| functions(&part["tool_calls"])).collect::<Vec<_>>();
    let folded = json!([text, reasoning, tokens, functions(&last["tool_calls"])]);
    // The last object brings all of it once more, and what broke off.
    assert_eq!(folded, of_inference(&last));
    assert!(functions(&last["tool_calls"]).starts_with(&calls));
    folded
}

/// What models write, piece by piece: texts, blanks, calls whole and broken, thoughts, marks.
fn documents() -> impl Strategy<Value = String> {
    let call = "<tool_call>{\"name\": \"clock\", \"arguments\": {\"zone\": \"a b\"}}</tool_call>";
    let weather = "<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"unit\": \"c\"}}\n</tool_call>";
    let piece = prop_oneof![
        4 => "[abé🎉. ]{1,6}",
        3 => "[ \n]{1,3}",
        3 => Just(call.to_owned()),
        2 => Just(weather.to_owned()),
        1 => Just("<tool_call>{\"name\": \"clock\", ".to_owned()),
        1 => Just("<tool_call>no</tool_call>".to_owned()),
        1 => Just("</tool_call>".to_owned()),
        1 => Just(TORN.to_string()),
    ];
    let thought = prop_oneof![3 => Just(String::new()), 2 => "<think>[ab\n]{0,4}</think>", 1 => "<think>[ab ]{1,4}"];
    (thought, proptest::collection::vec(piece, 0..6))
        .prop_map(|(thought, pieces)| thought + &pieces.concat())
}

fn cases() -> impl Strategy<Value = Case> {
    let stop = prop_oneof![3 => Just(None), 1 => Just(Some("b")), 1 => Just(Some("é")), 1 => Just(Some("</tool_call>"))];
    let max_tokens = prop_oneof![2 => 1_u32..60, 1 => Just(400)];
    (documents(), any::<bool>(), max_tokens, stop).prop_map(
        |(document, has_tools, max_tokens, stop)| {
            // What is computed ahead of a stop may fail or not.
            let stop = stop.filter(|_| !document.contains(TORN));
            Case { document, has_tools, max_tokens, stop }
        },
    )
}

async fn saying(case: &Case) -> Server {
    let server = Server::scripted();
    server.load_from("m", &format!("{TEMPLATE}{PROMPT} => {}", case.document)).await;
    server
}

async fn check(case: &Case) {
    let mut server = saying(case).await;
    for route in ROUTES {
        let path = route.path;
        let mut body = (route.request)(case);
        let mut replies = Vec::new();
        for is_stream in [false, true] {
            let name = if path.contains("inference") { "streaming" } else { "stream" };
            body[name] = is_stream.into();
            replies.push(server.post(path, body.to_string()).await);
            // An engine that has failed is loaded again some time.
            if case.document.contains(TORN) {
                server = saying(case).await;
            }
        }
        let [whole, streamed] = &replies[..] else { panic!("two replies") };
        assert_eq!(streamed.status, 200, "{path}: {}", streamed.text);
        if whole.status != 200 {
            // What fails is no answer in either form.
            assert_eq!(whole.status, 500, "{path}: {}", whole.text);
            assert!(streamed.text.contains("a note is torn"), "{path}: {}", streamed.text);
            continue;
        }
        let wanted = (route.essence)(&whole.json());
        assert_eq!(wanted, (route.fold)(streamed), "{path}: {}\n{}", whole.text, streamed.text);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(40) })]

    /// Whatever a model says and wherever it is cut.
    #[test]
    fn the_whole_is_the_fold_of_its_stream(case in cases()) {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        runtime.block_on(check(&case));
    }
}

/// What a client of the chat sees of an answer, whole and streamed.
#[tokio::test]
async fn blanks_before_a_call_are_nothing_in_every_dialect() {
    let call = "<tool_call>{\"name\": \"clock\", \"arguments\": {}}</tool_call>";
    let case = |document: String| Case { document, has_tools: true, max_tokens: 400, stop: None };
    check(&case(format!("\n \n{call}"))).await;
    check(&case(format!("{call}\n\n{call}"))).await;
    check(&case("\n \n".to_owned())).await;
    // What comes after a call stays behind it.
    let server = Server::scripted();
    server.load_from("m", &format!("{TEMPLATE}{PROMPT} => \n{call}So much.")).await;
    let case = case(String::new());
    let whole = server.post("/v1/messages", message(&case).to_string()).await.json();
    let kinds: Vec<_> = list(&whole["content"]).iter().map(|block| block["type"].clone()).collect();
    assert_eq!(kinds, ["tool_use", "text"], "{whole}");
    let mut body = chat(&case);
    body["stream"] = true.into();
    let text = server.post("/v1/chat/completions", body.to_string()).await.text;
    assert!(!text.contains(r#""content":"\n"#), "{text}");
}
