//! OpenAI's Responses.

use kolosal_server::server::{ApiKeys, Options, ResponseLimits};
use serde_json::{Value, json};

use super::harness::{Reply, Server};

const RESPONSES: &str = "/v1/responses";
/// Templates that write the same whatever they are given.
const PLAIN: &str = "P";

fn request(fields: &Value) -> Value {
    let mut request = json!({ "model": "m", "input": "x", "temperature": 0 });
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request
}

async fn ask(server: &Server, fields: &Value) -> Value {
    let reply = server.post(RESPONSES, request(fields).to_string()).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

/// The events of a stream, whose names are their types and whose numbers go up one by one.
pub(super) fn events(reply: &Reply) -> Vec<Value> {
    assert_eq!(reply.header("content-type"), Some("text/event-stream"));
    let read = |(number, event): (usize, &str)| {
        let (name, data) = event.split_once('\n').expect("a name and data");
        let data: Value = serde_json::from_str(data.strip_prefix("data: ").unwrap()).unwrap();
        assert_eq!(name.strip_prefix("event: "), data["type"].as_str(), "{event}");
        assert_eq!(data["sequence_number"], number, "{event}");
        data
    };
    reply.text.split_terminator("\n\n").enumerate().map(read).collect()
}

/// The output that the events of a stream make, as the official clients put it together.
pub(super) fn assemble(events: &[Value]) -> Value {
    let (mut output, mut open) = (Vec::<Value>::new(), false);
    assert_eq!(events[0]["type"], "response.created");
    assert_eq!(events[1]["type"], "response.in_progress");
    for event in &events[2..events.len() - 1] {
        let at = event["output_index"].as_u64().expect("an index") as usize;
        match event["type"].as_str().unwrap() {
            "response.output_item.added" => {
                assert!(!open && at == output.len(), "{event}");
                assert_eq!(event["item"]["status"], "in_progress");
                open = true;
                output.push(event["item"].clone());
                continue;
            }
            "response.output_item.done" => {
                assert_eq!(event["item"]["id"], output[at]["id"]);
                for field in ["content", "arguments", "input"] {
                    assert_eq!(event["item"][field], output[at][field], "{event}");
                }
                open = false;
                output[at] = event["item"].clone();
                continue;
            }
            _ => assert!(open && at + 1 == output.len(), "{event}"),
        }
        assert_eq!(event["item_id"], output[at]["id"], "{event}");
        let item = &mut output[at];
        let add = |text: &mut Value| {
            *text = (text.as_str().unwrap().to_owned() + event["delta"].as_str().unwrap()).into();
        };
        match event["type"].as_str().unwrap() {
            "response.content_part.added" => {
                let content = item["content"].as_array_mut().unwrap();
                assert_eq!(event["content_index"], content.len());
                content.push(event["part"].clone());
            }
            "response.content_part.done" => assert_eq!(event["part"], item["content"][0]),
            "response.output_text.delta" => {
                add(&mut item["content"][0]["text"]);
                let logprobs = event["logprobs"].as_array().unwrap().iter().cloned();
                item["content"][0]["logprobs"].as_array_mut().unwrap().extend(logprobs);
            }
            "response.reasoning_text.delta" => add(&mut item["content"][0]["text"]),
            "response.output_text.done" | "response.reasoning_text.done" => {
                assert_eq!(event["text"], item["content"][0]["text"]);
            }
            "response.function_call_arguments.delta" => add(&mut item["arguments"]),
            "response.function_call_arguments.done" => {
                assert_eq!(
                    (&event["arguments"], &event["name"]),
                    (&item["arguments"], &item["name"])
                );
            }
            "response.custom_tool_call_input.delta" => add(&mut item["input"]),
            "response.custom_tool_call_input.done" => assert_eq!(event["input"], item["input"]),
            other => panic!("{other}"),
        }
    }
    assert!(!open);
    output.into()
}

/// Ids are different each time.
pub(super) fn without_ids(mut output: Value) -> Value {
    for item in output.as_array_mut().expect("items") {
        item["id"] = "".into();
        if item.get("call_id").is_some() {
            item["call_id"] = "".into();
        }
    }
    output
}

#[tokio::test]
async fn a_stream_brings_what_an_object_is() {
    let text = |text: &str| {
        json!({
            "id": "", "type": "message", "role": "assistant", "status": "completed",
            "content": [{"type": "output_text", "text": text, "annotations": [], "logprobs": []}],
        })
    };
    let thought = |text: &str| {
        json!({
            "id": "", "type": "reasoning", "summary": [], "encrypted_content": null,
            "content": [{"type": "reasoning_text", "text": text}], "status": "completed",
        })
    };
    let call = |arguments: &str| {
        json!({
            "id": "", "type": "function_call", "call_id": "", "name": "f", "status": "completed",
            "arguments": arguments,
        })
    };
    let tools = json!([{"type": "function", "name": "f", "parameters": {
        "type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"],
    }}]);
    let thinks = "P<think>";
    let says_call = "<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call>";
    let cases = [
        (PLAIN, "hello", json!({}), json!([text("hello")]), "completed"),
        (PLAIN, "hello", json!({"tools": tools}), json!([text("hello")]), "completed"),
        (PLAIN, "", json!({}), json!([text("")]), "completed"),
        (thinks, "hm</think>hello", json!({}), json!([thought("hm"), text("hello")]), "completed"),
        (PLAIN, says_call, json!({"tools": tools}), json!([call("{\"x\": 1}")]), "completed"),
        (
            PLAIN,
            "so\n<tool_call>{\"name\": \"f\", \"arguments\": {\"x\": 1}}</tool_call>",
            json!({"tools": tools}),
            json!([text("so\n"), call("{\"x\": 1}")]),
            "completed",
        ),
        (PLAIN, "hello", json!({"max_output_tokens": 2}), Value::Null, "incomplete"),
    ];
    for (template, answer, fields, expected, status) in cases {
        let server = Server::scripted();
        server.load_from("m", &format!("{template} => {answer}")).await;
        let response = ask(&server, &fields).await;
        assert_eq!(response["status"], status, "{answer} {response}");
        let output = without_ids(response["output"].clone());
        if expected.is_null() {
            assert_eq!(response["incomplete_details"], json!({"reason": "max_output_tokens"}));
            assert_eq!(output[0]["status"], "incomplete");
        } else {
            assert_eq!(output, expected, "{answer}");
            assert!(response["completed_at"].is_u64() && response["incomplete_details"].is_null());
        }
        let mut fields = fields.clone();
        fields["stream"] = true.into();
        let reply = server.post(RESPONSES, request(&fields).to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let events = events(&reply);
        assert_eq!(without_ids(assemble(&events)), output, "{answer}");
        let last = events.last().unwrap();
        assert_eq!(last["type"], format!("response.{status}"));
        assert_eq!(without_ids(last["response"]["output"].clone()), output);
        let usage = &last["response"]["usage"];
        assert_eq!(usage["output_tokens"], response["usage"]["output_tokens"]);
        assert_eq!(
            usage["total_tokens"].as_u64(),
            Some(
                usage["input_tokens"].as_u64().unwrap() + usage["output_tokens"].as_u64().unwrap()
            )
        );
        let begun = &events[0]["response"];
        assert_eq!((&begun["status"], &begun["output"]), (&json!("in_progress"), &json!([])));
    }
}

#[tokio::test]
async fn a_response_shows_what_was_asked() {
    let server = Server::scripted();
    server.load_from("m", &format!("{PLAIN} => {{\"a\": 1}}")).await;
    let schema = json!({"type": "object", "properties": {"a": {"type": "integer"}},
        "required": ["a"], "additionalProperties": false});
    let format = json!({"type": "json_schema", "name": "n", "schema": schema, "strict": true});
    let fields = json!({
        "instructions": "i", "metadata": {"k": "v"}, "user": "u", "top_logprobs": 2,
        "include": ["message.output_text.logprobs", "reasoning.encrypted_content"],
        "text": {"format": format, "verbosity": "low"}, "reasoning": {"effort": "low", "summary": "auto"},
        "truncation": "disabled", "parallel_tool_calls": false, "store": false, "conversation": null,
        "tools": [{"type": "function", "name": "f", "parameters": null}], "tool_choice": "none",
    });
    let response = ask(&server, &fields).await;
    for (name, value) in [
        ("object", json!("response")),
        ("instructions", json!("i")),
        ("metadata", json!({"k": "v"})),
        ("user", json!("u")),
        ("top_logprobs", json!(2)),
        ("text", json!({"format": format, "verbosity": "low"})),
        ("reasoning", json!({"effort": "low", "summary": null})),
        ("truncation", json!("disabled")),
        ("parallel_tool_calls", json!(false)),
        ("store", json!(false)),
        ("tool_choice", json!("none")),
        ("temperature", json!(0.0)),
        ("top_p", json!(0.9)),
    ] {
        assert_eq!(response[name], value, "{name}");
    }
    for name in ["error", "incomplete_details", "previous_response_id", "conversation", "prompt"] {
        assert_eq!(response.get(name), Some(&Value::Null), "{name}");
    }
    let part = &response["output"][0]["content"][0];
    let said: Value = serde_json::from_str(part["text"].as_str().unwrap()).unwrap();
    assert_eq!(said, json!({"a": 1}));
    let logprobs = part["logprobs"].as_array().unwrap();
    let tokens: String = logprobs.iter().map(|token| token["token"].as_str().unwrap()).collect();
    assert_eq!(tokens, part["text"].as_str().unwrap());
    assert!(logprobs.iter().all(|token| token["top_logprobs"].as_array().unwrap().len() == 2));
    let id = response["id"].as_str().unwrap();
    assert_eq!(server.get(&format!("{RESPONSES}/{id}")).await.status, 404, "it was not stored");
}

#[tokio::test]
async fn responses_are_kept_and_continued() {
    // The template shows the whole conversation, and its length decides what the fake model says.
    let server = Server::new();
    server.load("m").await;
    let first = ask(&server, &json!({"input": "one", "max_output_tokens": 3})).await;
    let id = first["id"].as_str().unwrap();
    let path = format!("{RESPONSES}/{id}");
    assert_eq!(server.get(&path).await.json(), first);
    let items = server.get(&format!("{path}/input_items")).await.json();
    assert_eq!((&items["object"], &items["has_more"]), (&json!("list"), &json!(false)));
    assert_eq!(items["data"][0]["content"], json!([{"type": "input_text", "text": "one"}]));

    let count = async |input: Value, previous: Option<&str>| {
        let body = json!({"model": "m", "input": input, "previous_response_id": previous});
        let reply = server.post("/v1/responses/input_tokens", body.to_string()).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        let count = reply.json();
        assert_eq!(count["object"], "response.input_tokens");
        count["input_tokens"].as_u64().unwrap()
    };
    let second =
        ask(&server, &json!({"input": "two", "previous_response_id": id, "max_output_tokens": 3}))
            .await;
    assert_eq!(second["previous_response_id"], id);
    assert_eq!(second["usage"]["input_tokens"], count(json!("two"), Some(id)).await);
    let said = first["output"][0].clone();
    let whole = json!([
        {"role": "user", "content": "one"}, said, {"role": "user", "content": "two"},
    ]);
    assert_eq!(second["usage"]["input_tokens"], count(whole, None).await);
    let reference = json!([
        {"role": "user", "content": "one"}, {"type": "item_reference", "id": said["id"]},
        {"role": "user", "content": "two"},
    ]);
    assert_eq!(second["usage"]["input_tokens"], count(reference, None).await);

    let cancelled = server.post(&format!("{path}/cancel"), "").await;
    assert!(cancelled.status == 400 && cancelled.text.contains("incomplete"), "{}", cancelled.text);
    for (query, param) in [("stream=true", "stream"), ("starting_after=1", "starting_after")] {
        let reply = server.get(&format!("{path}?{query}")).await;
        assert!(reply.status == 400 && reply.json()["error"]["param"] == param, "{}", reply.text);
    }
    let gone = server.send("DELETE", &path, "").await;
    assert_eq!(gone.json(), json!({"id": id, "object": "response", "deleted": true}));
    for (method, path) in [
        ("GET", path.clone()),
        ("DELETE", path.clone()),
        ("POST", format!("{path}/cancel")),
        ("GET", format!("{path}/input_items")),
    ] {
        let reply = server.send(method, &path, "").await;
        assert_eq!(
            (reply.status, reply.json()["error"]["code"].as_str()),
            (404, Some("response_not_found"))
        );
    }
    let body = request(&json!({"previous_response_id": id})).to_string();
    let reply = server.post(RESPONSES, body).await;
    assert_eq!(reply.json()["error"]["code"], "previous_response_not_found", "{}", reply.text);
    assert_eq!(reply.status, 400);
}

#[tokio::test]
async fn input_items_come_in_pages() {
    let server = Server::new();
    server.load("m").await;
    let message =
        |i: usize| json!({"role": "user", "content": format!("{i}"), "id": format!("i{i}")});
    let input: Vec<_> = (0..5).map(message).collect();
    let response = ask(&server, &json!({"input": input, "max_output_tokens": 1})).await;
    let path = format!("{RESPONSES}/{}/input_items", response["id"].as_str().unwrap());
    for (query, ids, more) in [
        ("", vec![4, 3, 2, 1, 0], false),
        ("?limit=2", vec![4, 3], true),
        ("?limit=2&order=asc", vec![0, 1], true),
        ("?limit=2&order=asc&after=i2", vec![3, 4], false),
        ("?after=i1", vec![0], false),
    ] {
        let page = server.get(&format!("{path}{query}")).await.json();
        let seen: Vec<_> =
            page["data"].as_array().unwrap().iter().map(|i| i["id"].clone()).collect();
        let expected: Vec<_> = ids.iter().map(|i| json!(format!("i{i}"))).collect();
        assert_eq!((seen, &page["has_more"]), (expected, &json!(more)), "{query}");
    }
    for query in ["?limit=0", "?limit=101", "?order=up", "?after=i9"] {
        let status = server.get(&format!("{path}{query}")).await.status;
        assert!(matches!(status, 400 | 404), "{query}: {status}");
    }
}

#[tokio::test]
async fn the_store_has_limits_and_owners() {
    let limits = ResponseLimits { max_count: 2, ..ResponseLimits::default() };
    let keys = ApiKeys::new(["a", "b"]);
    let server = Server::with(Options { responses: limits, keys, ..Options::default() }, |app| app);
    server.load("m").await;
    let send = async |key: &str, method: &str, path: &str, body: &str| {
        server.request(method, path, &[("x-api-key", key)], body.to_owned()).await
    };
    let create = async |key: &str| {
        let body = request(&json!({"max_output_tokens": 1})).to_string();
        let reply = send(key, "POST", RESPONSES, &body).await;
        assert_eq!(reply.status, 200, "{}", reply.text);
        format!("{RESPONSES}/{}", reply.json()["id"].as_str().unwrap())
    };
    let (one, two) = (create("a").await, create("a").await);
    assert_eq!(send("b", "GET", &one, "").await.status, 404, "another's key");
    assert_eq!(send("a", "GET", &one, "").await.status, 200);
    let three = create("a").await;
    assert_eq!(send("a", "GET", &two, "").await.status, 404, "the least recently used goes");
    for path in [one, three] {
        assert_eq!(send("a", "GET", &path, "").await.status, 200);
    }

    let limits = ResponseLimits { max_count: 0, ..ResponseLimits::default() };
    let server = Server::with(Options { responses: limits, ..Options::default() }, |app| app);
    server.load("m").await;
    let response = ask(&server, &json!({"max_output_tokens": 1})).await;
    assert_eq!(response["store"], false);
    let reply = server.post(RESPONSES, request(&json!({"store": true})).to_string()).await;
    assert_eq!((reply.status, &reply.json()["error"]["param"]), (400, &json!("store")));
}

/// Tools that Codex offers beside functions: those of a namespace, and those that are given a text.
#[tokio::test]
async fn tools_of_codex_are_called_by_their_own_names() {
    let function = json!({"type": "function", "name": "spawn", "description": "d", "strict": false,
        "parameters": {"type": "object", "properties": {"x": {"type": "integer"}}}});
    let format = json!({"type": "grammar", "syntax": "lark", "definition": "start: \"a\""});
    let tools = json!([
        {"type": "namespace", "name": "agents", "description": "d", "tools": [function, {"type": "web_search"}]},
        {"type": "custom", "name": "patch", "description": "d", "format": format},
    ]);
    let call = |name: &str, arguments: Value| {
        format!("<tool_call>{}</tool_call>", json!({"name": name, "arguments": arguments}))
    };
    let cases = [
        (
            call("agents__spawn", json!({"x": 1})),
            json!({"type": "function_call", "namespace": "agents", "name": "spawn", "arguments": "{\"x\":1}"}),
        ),
        (
            call("patch", json!({"input": "*** Begin \"é\"\n"})),
            json!({"type": "custom_tool_call", "name": "patch", "input": "*** Begin \"é\"\n"}),
        ),
    ];
    for (answer, expected) in cases {
        let server = Server::scripted();
        server.load_from("m", &format!("{PLAIN} => {answer}")).await;
        let fields = json!({"tools": tools});
        let reply = server.post(RESPONSES, request(&fields).to_string()).await;
        let told = reply.header("x-kolosal-ignored").unwrap_or_default();
        assert_eq!(told, "tools[0].tools[1] (web_search), tools[1].format");
        let output = reply.json()["output"].clone();
        for (name, value) in expected.as_object().unwrap() {
            assert_eq!(output[0][name], *value, "{output}");
        }
        assert_eq!(reply.json()["tools"][1], {
            let mut tool = tools[1].clone();
            tool["parameters"] = Value::Null;
            tool["strict"] = Value::Null;
            tool
        });
        let fields = json!({"tools": tools, "stream": true});
        let reply = server.post(RESPONSES, request(&fields).to_string()).await;
        assert_eq!(without_ids(assemble(&events(&reply))), without_ids(output.clone()));
        // What was called is read back as it came, with its result.
        let mut item = output[0].clone();
        let id = item["call_id"].clone();
        item["status"] = "completed".into();
        let kind = format!("{}_output", item["type"].as_str().unwrap());
        let result = json!({"type": kind, "call_id": id, "output": "done"});
        let fields = json!({"tools": tools, "input": [{"role": "user", "content": "x"},
            {"type": "reasoning", "summary": [], "encrypted_content": "gAAA"}, item, result]});
        let response = ask(&server, &fields).await;
        assert_eq!(response["status"], "completed");
    }
    let server = Server::scripted();
    server.load_from("m", &format!("{PLAIN} => ok")).await;
    let (name, space) = (json!({"type": "function", "name": "a__b"}), "namespace");
    let inner = json!({"type": "function", "name": "b"});
    for (tools, param) in [
        (json!([{"type": space, "name": "a", "tools": [inner]}, name]), "tools[1].name"),
        (
            json!([{"type": space, "name": "a", "tools": [{"type": space, "name": "c"}]}]),
            "tools[0].tools[0].type",
        ),
        (json!([{"type": "custom", "name": "a", "parameters": {}}]), "tools[0].parameters"),
        (json!([{"type": "function", "name": "a", "format": {}}]), "tools[0].format"),
    ] {
        let reply = server.post(RESPONSES, request(&json!({"tools": tools})).to_string()).await;
        assert_eq!(
            (reply.status, &reply.json()["error"]["param"]),
            (400, &json!(param)),
            "{tools}"
        );
    }
}

#[tokio::test]
async fn a_failure_is_an_event() {
    let server = Server::new();
    server.load("m").await;
    server.drain.expire();
    // The drain is noticed before anything is started.
    let reply = server.post(RESPONSES, request(&json!({"stream": true})).to_string()).await;
    assert_eq!(reply.status, 503);
}

#[tokio::test]
async fn mistakes_are_named() {
    let server = Server::new();
    server.load("m").await;
    let tool = json!({"type": "function", "name": "f"});
    let cases = [
        (json!({"input": null}), "input"),
        (json!({"input": []}), "input"),
        (
            json!({"input": [{"role": "user", "content": [{"type": "input_image"}]}]}),
            "input[0].content[0].type",
        ),
        (json!({"input": [{"type": "web_search_call"}]}), "input[0].type"),
        (json!({"input": [{"type": "item_reference", "id": "i"}]}), "input[0].id"),
        (json!({"background": true, "stream": true}), "background"),
        (json!({"background": true, "store": false}), "background"),
        (json!({"conversation": "c", "previous_response_id": "r"}), "conversation"),
        (json!({"prompt": {"id": "p"}}), "prompt"),
        (json!({"max_output_tokens": 0}), "max_output_tokens"),
        (json!({"temperature": 3}), "temperature"),
        (json!({"top_p": -1}), "top_p"),
        (json!({"top_logprobs": 21}), "top_logprobs"),
        (json!({"stream_options": {}}), "stream_options"),
        (
            json!({"stream": true, "stream_options": {"include_obfuscation": true}}),
            "stream_options.include_obfuscation",
        ),
        (json!({"tools": [tool, tool]}), "tools[1].name"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (
            json!({"tools": [tool], "tool_choice": {"type": "function", "name": "g"}}),
            "tool_choice.name",
        ),
        (json!({"tools": [tool], "tool_choice": {"type": "function"}}), "tool_choice.name"),
        (json!({"text": {"format": {"type": "json_schema", "name": "n"}}}), "text.format.schema"),
        (json!({"text": {"format": {"type": "text", "schema": {}}}}), "text.format.schema"),
    ];
    for (fields, param) in cases {
        let reply = server.post(RESPONSES, request(&fields).to_string()).await;
        assert_eq!(
            (reply.status, reply.json()["error"]["param"].as_str()),
            (400, Some(param)),
            "{fields}: {}",
            reply.text
        );
    }
}
