//! Structured output through the routes: whatever the model would rather say, the answer has the form
//! that was asked for, or the request is refused before anything is computed.

use serde_json::{Value, json};

use super::{
    harness::{Reply, Server},
    schemas::{Dice, is_valid, object},
};

const CHAT: &str = "/v1/chat/completions";
const COMPLETIONS: &str = "/v1/completions";

fn with(mut request: Value, fields: &Value) -> String {
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request.to_string()
}

fn chat(fields: &Value) -> String {
    with(json!({"model": "m", "messages": [{"role": "user", "content": "hi"}], "seed": 1}), fields)
}

fn completion(fields: &Value) -> String {
    with(json!({"model": "m", "prompt": "hi", "seed": 1, "max_tokens": 100}), fields)
}

fn format(schema: &Value) -> Value {
    json!({"type": "json_schema", "json_schema": {"name": "s", "schema": schema, "strict": true}})
}

async fn ask(server: &Server, path: &str, body: String) -> Value {
    let reply = server.post(path, body).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

fn text(body: &Value, choice: usize) -> (&str, &str) {
    let choice = &body["choices"][choice];
    let text = choice["message"]["content"].as_str().or(choice["text"].as_str());
    (text.expect("text"), choice["finish_reason"].as_str().expect("a reason"))
}

pub(super) fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.status, 200, "{}", reply.text);
    let body = reply.text.strip_suffix("data: [DONE]\n\n").expect("an end");
    let events = body.split_terminator("\n\n").filter(|event| !event.starts_with(':'));
    let data = events.map(|event| event.strip_prefix("data: ").expect("data"));
    data.map(|data| serde_json::from_str(data).expect("JSON")).collect()
}

/// The joined pieces of one choice.
fn joined(events: &[Value], index: u64) -> String {
    let choices = events.iter().flat_map(|event| event["choices"].as_array().into_iter().flatten());
    choices
        .filter(|choice| choice["index"] == index)
        .filter_map(|choice| choice["delta"]["content"].as_str().or(choice["text"].as_str()))
        .collect()
}

#[track_caller]
fn check(schema: &Value, text: &str) {
    let document: Value = serde_json::from_str(text).unwrap_or_else(|e| panic!("{e}: {text}"));
    assert!(is_valid(schema, &document, schema), "{text}\n{schema}");
}

#[tokio::test]
async fn random_schemas_are_followed() {
    let server = Server::new();
    server.load("m").await;
    let mut complete = 0;
    for seed in 0..80 {
        let schema = object(&mut Dice::new(seed), 2);
        let mut fields = json!({"seed": seed, "max_tokens": 1200, "temperature": 1, "top_p": 1});
        fields["response_format"] = format(&schema);
        let body = ask(&server, CHAT, chat(&fields)).await;
        let (text, reason) = text(&body, 0);
        if reason == "stop" {
            check(&schema, text);
            complete += 1;
        }
    }
    assert!(complete >= 75, "{complete} of 80 answers were complete");
}

#[tokio::test]
async fn a_real_decoder_follows_schemas() {
    let server = Server::scripted();
    server.load_from("m", "tiny").await;
    let mut complete = 0;
    for seed in 100..112 {
        let schema = object(&mut Dice::new(seed), 1);
        let fields = json!({"response_format": format(&schema), "seed": seed, "max_tokens": 400});
        let body = ask(&server, CHAT, chat(&fields)).await;
        let (text, reason) = text(&body, 0);
        if reason == "stop" {
            check(&schema, text);
            complete += 1;
        }
    }
    assert!(complete >= 10, "{complete} of 12 answers were complete");
}

#[tokio::test]
async fn references_and_recursion_are_followed() {
    let server = Server::new();
    server.load("m").await;
    let schema = json!({
        "type": "object",
        "properties": {"node": {"$ref": "#/$defs/node"}},
        "required": ["node"],
        "additionalProperties": false,
        "$defs": {"node": {
            "type": "object",
            "properties": {
                "id": {"type": "integer", "minimum": 0, "maximum": 9},
                "next": {"anyOf": [{"$ref": "#/$defs/node"}, {"type": "null"}]},
            },
            "required": ["id", "next"],
            "additionalProperties": false,
        }},
    });
    for seed in 0..6 {
        let fields = json!({"response_format": format(&schema), "seed": seed, "max_tokens": 1500});
        let body = ask(&server, CHAT, chat(&fields)).await;
        let (text, reason) = text(&body, 0);
        assert_eq!(reason, "stop", "{text}");
        check(&schema, text);
    }
}

#[tokio::test]
async fn every_field_constrains_and_streams_the_same() {
    let server = Server::new();
    server.load("m").await;
    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}},
        "required": ["a"], "additionalProperties": false});
    let is_schema = |text: &str| matches!(text, "{\"a\": true}" | "{\"a\": false}");
    let is_word = |text: &str| matches!(text, "yes" | "no");
    let is_digits = |text: &str| text.len() == 3 && text.bytes().all(|b| b.is_ascii_digit());
    let gbnf = "root ::= \"yes\" | \"no\"";
    let cases: Vec<(Value, &dyn Fn(&str) -> bool)> = vec![
        (json!({"response_format": format(&schema)}), &is_schema),
        (json!({"response_format": {"type": "json_object", "schema": schema}}), &is_schema),
        (json!({"guided_json": schema}), &is_schema),
        (json!({"guided_json": schema.to_string()}), &is_schema),
        (json!({"structured_outputs": {"json": schema}}), &is_schema),
        (json!({"grammar": {"type": "json_schema", "value": schema}}), &is_schema),
        (json!({"guided_choice": ["yes", "no"]}), &is_word),
        (json!({"structured_outputs": {"choice": ["yes", "no"]}}), &is_word),
        (json!({"grammar": gbnf}), &is_word),
        (json!({"guided_grammar": gbnf}), &is_word),
        (json!({"grammar": "start: \"yes\" | \"no\""}), &is_word),
        (json!({"grammar": {"type": "gbnf", "value": gbnf}}), &is_word),
        (json!({"structured_outputs": {"grammar": gbnf}}), &is_word),
        (json!({"guided_regex": "[0-9]{3}"}), &is_digits),
        (json!({"structured_outputs": {"regex": "[0-9]{3}"}}), &is_digits),
        (json!({"grammar": {"type": "regex", "value": "[0-9]{3}"}}), &is_digits),
    ];
    for (fields, fits) in cases {
        for (path, body) in [
            (CHAT, &chat as &dyn Fn(&Value) -> String),
            (COMPLETIONS, &completion as &dyn Fn(&Value) -> String),
        ] {
            let mut fields = fields.clone();
            fields["n"] = json!(3);
            let full = ask(&server, path, body(&fields)).await;
            fields["stream"] = json!(true);
            let events = events(&server.post(path, body(&fields)).await);
            for index in 0..3 {
                let (text, reason) = text(&full, index);
                assert!(fits(text) && reason == "stop", "{path} {fields}: {text} {reason}");
                assert_eq!(joined(&events, index as u64), text, "{path} {fields}");
            }
        }
    }
}

#[tokio::test]
async fn batches_of_prompts_and_echo_are_constrained() {
    let server = Server::new();
    server.load("m").await;
    let long = "x".repeat(200);
    let fields = json!({
        "prompt": ["a", "b", long], "n": 2, "guided_regex": "[0-9]{2}", "echo": true,
    });
    for _ in 0..2 {
        // The second time the long prompt is in the prefix cache.
        let body = ask(&server, COMPLETIONS, completion(&fields)).await;
        for (i, choice) in body["choices"].as_array().unwrap().iter().enumerate() {
            let prompt = fields["prompt"][i / 2].as_str().unwrap();
            let text = choice["text"].as_str().unwrap().strip_prefix(prompt).unwrap();
            assert!(text.len() == 2 && text.bytes().all(|b| b.is_ascii_digit()), "{text}");
            assert_eq!(choice["finish_reason"], "stop");
        }
    }
}

#[tokio::test]
async fn stops_end_a_document_wherever_they_stand() {
    let server = Server::new();
    server.load("m").await;
    let cases = [
        (json!({"guided_choice": ["{\"abc\": 1}"], "stop": "abc"}), "{\""),
        (json!({"guided_choice": ["{\"abc\": 1}"], "stop": ["c", ":", "}"]}), "{\"ab"),
        (json!({"guided_choice": ["xyz"], "stop_token_ids": [u32::from(b'y')]}), "x"),
        (json!({"grammar": "start: /[a-z]+/", "stop": "d"}), "abc"),
        (json!({"grammar": "start: \"ab\" \"c\"?", "stop": "c"}), "ab"),
        (json!({"grammar": "start: /[a-z]+/", "stop_token_ids": [u32::from(b'e')]}), "abcd"),
        (json!({"grammar": "start: \"ab\" /c*d/", "stop": ["c", "d"]}), "ab"),
        // A minimum holds where the grammar has more to say, and ends where it has not.
        (
            json!({"grammar": "start: /[a-z]+/", "stop": "d", "min_tokens": 5}),
            "abcdefghijklmnopqrstuvwxyz",
        ),
        (json!({"guided_choice": ["xyz"], "min_tokens": 9}), "xyz"),
    ];
    for (fields, expected) in cases {
        let mut fields = fields;
        fields["temperature"] = json!(0);
        let body = ask(&server, CHAT, chat(&fields)).await;
        assert_eq!(text(&body, 0), (expected, "stop"), "{fields}");
    }
}

#[tokio::test]
async fn a_character_that_is_cut_is_left_out() {
    let server = Server::new();
    server.load("m").await;
    for (max_tokens, expected) in
        [(1, ""), (3, ""), (4, "\u{1f600}"), (6, "\u{1f600}"), (7, "\u{1f600}漢")]
    {
        let fields = json!({"guided_choice": ["\u{1f600}漢"], "max_tokens": max_tokens});
        for path in [CHAT, COMPLETIONS] {
            let body = if path == CHAT { chat(&fields) } else { completion(&fields) };
            let whole = ask(&server, path, body.clone()).await;
            assert_eq!(text(&whole, 0).0, expected, "{path} {max_tokens}");
            let mut streamed: Value = serde_json::from_str(&body).expect("JSON");
            streamed["stream"] = true.into();
            let events = events(&server.post(path, streamed.to_string()).await);
            assert_eq!(joined(&events, 0), expected, "{path} {max_tokens} streamed");
        }
        let prompt = json!([[97, 0xf0, 0x9f]]);
        let fields = json!({"prompt": prompt, "echo": true, "max_tokens": 1});
        let body = ask(&server, COMPLETIONS, completion(&fields)).await;
        assert_eq!(text(&body, 0).0, "a", "an echo ends before the character too");
    }
}

#[tokio::test]
async fn what_cannot_be_done_is_refused_by_name() {
    let server = Server::new();
    server.load("m").await;
    let schema = |schema: Value| json!({"response_format": format(&schema)});
    let path = "response_format.json_schema.schema";
    let object = json!({"type": "object"});
    let parens = format!("{}a{}", "(".repeat(50_000), ")".repeat(50_000));
    let cases = [
        (schema(json!({"not": {"type": "string"}})), path, "\"not\""),
        (schema(json!({"type": "array", "uniqueItems": true})), path, "\"uniqueItems\""),
        (schema(json!({"if": {}, "then": {}, "else": {}})), path, "\"if\""),
        (schema(json!({"type": "strin"})), path, "strin"),
        (schema(json!({"type": "string", "pattern": "(a"})), path, "regex"),
        (schema(json!({"type": "string", "pattern": "(?<=a)b"})), path, "look"),
        (schema(json!({"$ref": "#/nowhere"})), path, "nowhere"),
        (schema(json!({"$ref": "https://example.com/s.json"})), path, "example.com"),
        (schema(json!({"x-guidance": {"lenient": true}, "not": {}})), path, "\"not\""),
        (schema(json!({"const": "x".repeat(2 << 20)})), path, "limit"),
        (
            json!({"response_format": {"type": "json_schema"}}),
            "response_format.json_schema",
            "missing",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"name": "s"}}}),
            path,
            "missing",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema": {"schema": {}}}}),
            "response_format.json_schema.name",
            "missing",
        ),
        (
            json!({"response_format": {"type": "json_schema", "json_schema":
                {"name": "a b", "schema": {}}}}),
            "response_format.json_schema.name",
            "letters",
        ),
        (json!({"guided_json": 5}), "guided_json", "object"),
        (json!({"guided_json": "{"}), "guided_json", "JSON schema"),
        (json!({"guided_regex": "(a"}), "guided_regex", "regex"),
        (json!({"guided_regex": parens}), "guided_regex", ""),
        (json!({"guided_choice": []}), "guided_choice", "empty"),
        (json!({"guided_grammar": "root ::= x"}), "guided_grammar", "'x'"),
        (json!({"grammar": "start: nothing"}), "grammar", "nothing"),
        (
            json!({"grammar": format!("start: {}\"a\"{}", "(".repeat(60_000), ")".repeat(60_000))}),
            "grammar",
            "deep",
        ),
        (json!({"grammar": 5}), "grammar", "string"),
        (json!({"grammar": {"type": "llguidance", "value": "x"}}), "grammar", "llguidance"),
        (json!({"grammar": {"type": "regex", "value": 5}}), "grammar.value", "string"),
        (json!({"structured_outputs": {}}), "structured_outputs", "required"),
        (
            json!({"structured_outputs": {"structural_tag": "x"}}),
            "structured_outputs.structural_tag",
            "unknown",
        ),
        (
            json!({"structured_outputs": {"regex": "a", "json": {}}}),
            "structured_outputs.regex",
            "exclude",
        ),
        (json!({"guided_regex": "a", "guided_choice": ["a"]}), "guided_choice", "exclude"),
        (
            json!({"guided_json": object, "response_format": {"type": "json_object"}}),
            "guided_json",
            "exclude",
        ),
    ];
    for (fields, param, word) in cases {
        for (path, body) in [(CHAT, chat(&fields)), (COMPLETIONS, completion(&fields))] {
            let reply = server.post(path, body).await;
            let error = reply.json()["error"].clone();
            let what = fields.to_string().chars().take(200).collect::<String>();
            assert_eq!(reply.status, 400, "{what}: {error}");
            assert_eq!(error["param"], param, "{what}: {error}");
            let message = error["message"].as_str().expect("a message");
            assert!(message.contains(word) && message.len() < 1000, "{what}: {message}");
        }
    }
    let plain = json!({"response_format": {"type": "text"}, "guided_choice": ["a"]});
    let body = ask(&server, CHAT, chat(&plain)).await;
    assert_eq!(text(&body, 0), ("a", "stop"), "text is no form");
}
