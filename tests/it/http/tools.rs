//! Tools and reasoning through the routes, with models that say what they are told to.

use serde_json::{Value, json};

use super::{
    harness::Server,
    schemas::{Dice, is_valid, object},
    structured::events,
};

const CHAT: &str = "/v1/chat/completions";

pub(super) fn tools() -> Value {
    json!([
        {"type": "function", "function": {
            "name": "get_weather", "description": "The weather of a city",
            "parameters": {
                "type": "object",
                "properties": {
                    "city": {"type": "string", "maxLength": 6}, "unit": {"enum": ["c", "f"]},
                },
                "required": ["city", "unit"], "additionalProperties": false,
            },
        }},
        {"type": "function", "function": {"name": "clock"}},
    ])
}

fn chat(fields: &Value) -> String {
    let mut request = json!({
        "model": "m", "messages": [{"role": "user", "content": "x"}], "seed": 1, "temperature": 0,
        "max_tokens": 1500,
    });
    for (name, value) in fields.as_object().expect("an object") {
        request[name] = value.clone();
    }
    request.to_string()
}

async fn ask(server: &Server, fields: &Value) -> Value {
    let reply = server.post(CHAT, chat(fields)).await;
    assert_eq!(reply.status, 200, "{}", reply.text);
    reply.json()
}

async fn saying(template: &str, answer: &str) -> Server {
    let server = Server::scripted();
    server.load_from("m", &format!("{{# {template} #}}P => {answer}")).await;
    server
}

/// Names and arguments of the calls of a message.
fn calls(message: &Value) -> Vec<(String, Value)> {
    let calls = message["tool_calls"].as_array().map(Vec::as_slice).unwrap_or_default();
    let call = |call: &Value| {
        assert_eq!(call["type"], "function");
        assert!(call["id"].as_str().is_some_and(|id| id.len() >= 9), "{call}");
        let arguments = call["function"]["arguments"].as_str().expect("text");
        let name = call["function"]["name"].as_str().expect("a name").to_owned();
        (name, serde_json::from_str(arguments).expect("JSON"))
    };
    calls.iter().map(call).collect()
}

/// The message that the pieces of a stream make, and the reason of its end.
pub(super) fn assemble(events: &[Value]) -> (Value, Value) {
    let (mut content, mut reasoning) = (String::new(), String::new());
    let mut calls: Vec<Value> = Vec::new();
    let mut reason = Value::Null;
    for choice in events.iter().flat_map(|event| event["choices"].as_array().unwrap()) {
        let delta = &choice["delta"];
        content += delta["content"].as_str().unwrap_or_default();
        reasoning += delta["reasoning_content"].as_str().unwrap_or_default();
        assert_eq!(delta["reasoning"], delta["reasoning_content"]);
        for piece in delta["tool_calls"].as_array().into_iter().flatten() {
            let index = piece["index"].as_u64().unwrap() as usize;
            if index == calls.len() {
                assert!(piece["id"].is_string() && piece["type"] == "function", "{piece}");
                assert!(piece["function"]["name"].is_string(), "{piece}");
                calls.push(piece.clone());
            } else {
                assert!(piece.get("id").is_none() && piece.get("type").is_none(), "{piece}");
                let arguments = calls[index]["function"]["arguments"].as_str().unwrap().to_owned();
                let more = piece["function"]["arguments"].as_str().unwrap();
                calls[index]["function"]["arguments"] = (arguments + more).into();
            }
        }
        if !choice["finish_reason"].is_null() {
            reason = choice["finish_reason"].clone();
        }
    }
    let message = json!({"content": content, "reasoning_content": reasoning, "tool_calls": calls});
    (message, reason)
}

pub(super) const FORMATS: &[(&str, &str)] = &[
    (
        "<tool_call>",
        "Sure.<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"unit\": \"c\"}}\n</tool_call>\n<tool_call>{\"name\": \"clock\", \"arguments\": {}}</tool_call>",
    ),
    (
        "<tool_call> <parameter=",
        "Sure.<tool_call><function=get_weather><parameter=city>\nRome\n</parameter><parameter=unit>c</parameter></function></tool_call><tool_call><function=clock></function></tool_call>",
    ),
    (
        "[TOOL_CALLS]",
        "Sure.[TOOL_CALLS][{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"unit\": \"c\"}}, {\"name\": \"clock\", \"arguments\": {}}]",
    ),
    (
        "<|python_tag|>",
        "Sure.<|python_tag|>{\"name\": \"get_weather\", \"parameters\": {\"city\": \"Rome\", \"unit\": \"c\"}}; {\"name\": \"clock\", \"parameters\": {}}",
    ),
    (
        "<function=",
        "Sure.<function=get_weather>{\"city\": \"Rome\", \"unit\": \"c\"}</function><function=clock>{}</function>",
    ),
    (
        "<｜tool▁call▁begin｜>",
        "Sure.<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>get_weather<｜tool▁sep｜>{\"city\": \"Rome\", \"unit\": \"c\"}<｜tool▁call▁end｜><｜tool▁call▁begin｜>clock<｜tool▁sep｜>{}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
    ),
    (
        "<|tool_call_begin|>",
        "Sure.<|tool_calls_section_begin|><|tool_call_begin|>functions.get_weather:0<|tool_call_argument_begin|>{\"city\": \"Rome\", \"unit\": \"c\"}<|tool_call_end|><|tool_call_begin|>functions.clock:1<|tool_call_argument_begin|>{}<|tool_call_end|><|tool_calls_section_end|>",
    ),
    (
        "<arg_key> <tool_call>",
        "Sure.<tool_call>get_weather<arg_key>city</arg_key><arg_value>Rome</arg_value><arg_key>unit</arg_key><arg_value>c</arg_value></tool_call><tool_call>clock</tool_call>",
    ),
    (
        "<minimax:tool_call>",
        "Sure.<minimax:tool_call>\n<invoke name=\"get_weather\">\n<parameter name=\"city\">Rome</parameter>\n<parameter name=\"unit\">c</parameter>\n</invoke>\n<invoke name=\"clock\">\n</invoke>\n</minimax:tool_call>",
    ),
    (
        "<|tool_call>",
        "Sure.<|tool_call>call:get_weather{city:<|\"|>Rome<|\"|>,unit:<|\"|>c<|\"|>}<tool_call|><|tool_call>call:clock{}<tool_call|>",
    ),
    (
        "<|tool_call_start|>",
        "Sure.<|tool_call_start|>[get_weather(city='Rome', unit='c'), clock()]<|tool_call_end|>",
    ),
    (
        "<|START_ACTION|>",
        "Sure.<|START_ACTION|>[{\"tool_call_id\": \"0\", \"tool_name\": \"get_weather\", \"parameters\": {\"city\": \"Rome\", \"unit\": \"c\"}}, {\"tool_call_id\": \"1\", \"tool_name\": \"clock\", \"parameters\": {}}]<|END_ACTION|>",
    ),
    (
        "<|tools_prefix|>",
        "Sure.<|tools_prefix|>[{\"get_weather\": {\"city\": \"Rome\", \"unit\": \"c\"}}, {\"clock\": {}}]<|tools_suffix|>",
    ),
    (
        "<TOOLCALL>",
        "Sure.<TOOLCALL>[{\"name\": \"get_weather\", \"arguments\": {\"city\": \"Rome\", \"unit\": \"c\"}}, {\"name\": \"clock\", \"arguments\": {}}]</TOOLCALL>",
    ),
];

/// Formats that differ from those in their marks only.
const FURTHER: &[&str] = &[
    "<seed:tool_call>",
    "｜DSML｜",
    "<|open|>argument",
    "<|tool_call:begin|>",
    "<tool_calls>",
    "<|tool_call|>",
    "<|function_call|>",
    "<|action_start|>",
    "<function_calls>",
    "functools[",
    "[func_name1(",
];

#[tokio::test]
async fn calls_of_every_format_are_read_and_streamed() {
    let weather = ("get_weather".to_owned(), json!({"city": "Rome", "unit": "c"}));
    let expected = vec![weather, ("clock".to_owned(), json!({}))];
    for (template, answer) in FORMATS {
        let server = saying(template, answer).await;
        let body = ask(&server, &json!({"tools": tools()})).await;
        let choice = &body["choices"][0];
        assert_eq!(choice["message"]["content"], "Sure.", "{template}");
        assert_eq!(calls(&choice["message"]), expected, "{template}");
        assert_eq!(choice["finish_reason"], "tool_calls", "{template}");
        let fields = json!({"tools": tools(), "stream": true});
        let events = events(&server.post(CHAT, chat(&fields)).await);
        let (message, reason) = assemble(&events);
        // Arguments come while they are written.
        let arguments = |event: &&Value| {
            let piece = event.pointer("/choices/0/delta/tool_calls/0/function/arguments");
            piece.is_some_and(|piece| piece != "")
        };
        assert!(events.iter().filter(arguments).count() > 2, "{template}");
        assert_eq!(message["content"], "Sure.", "{template}");
        assert_eq!(calls(&message), expected, "{template}");
        assert_eq!(reason, "tool_calls", "{template}");
        // Without parallel calls the first one ends the answer.
        let one = json!({"tools": tools(), "parallel_tool_calls": false});
        let body = ask(&server, &one).await;
        assert_eq!(calls(&body["choices"][0]["message"]), expected[..1], "{template}");
        // Without tools nothing is a call.
        for fields in [json!({}), json!({"tools": tools(), "tool_choice": "none"})] {
            let body = ask(&server, &fields).await;
            let choice = &body["choices"][0];
            assert!(choice["message"].get("tool_calls").is_none(), "{template}");
            assert_eq!(choice["finish_reason"], "stop", "{template}");
        }
    }
}

#[tokio::test]
async fn required_calls_validate_in_every_format() {
    let random: Vec<Value> = (0..3).map(|seed| object(&mut Dice::new(seed), 1)).collect();
    let mut tools = tools();
    for (i, schema) in random.iter().enumerate() {
        let function = json!({"name": format!("random-{i}"), "parameters": schema});
        tools.as_array_mut().unwrap().push(json!({"type": "function", "function": function}));
    }
    let templates = FORMATS.iter().map(|(template, _)| template).chain(FURTHER);
    for template in templates {
        let server = saying(template, "I would rather talk.").await;
        let mut complete = 0;
        for seed in 0..8 {
            let fields = json!({
                "tools": tools, "tool_choice": "required", "seed": seed, "temperature": 1,
                "parallel_tool_calls": seed % 2 == 0, "max_tokens": 2500,
            });
            let body = ask(&server, &fields).await;
            let choice = &body["choices"][0];
            if choice["finish_reason"] == "length" {
                continue;
            }
            complete += 1;
            assert_eq!(choice["finish_reason"], "tool_calls", "{template}: {body}");
            assert_eq!(choice["message"]["content"], Value::Null, "{template}: {body}");
            for (name, arguments) in calls(&choice["message"]) {
                let definitions = tools.as_array().unwrap().iter().map(|tool| &tool["function"]);
                let tool = definitions.into_iter().find(|tool| tool["name"] == name).unwrap();
                match tool.get("parameters") {
                    Some(schema) => assert!(is_valid(schema, &arguments, schema), "{arguments}"),
                    None => assert_eq!(arguments, json!({})),
                }
            }
            let mut fields = fields;
            fields["stream"] = json!(true);
            let (message, reason) = assemble(&events(&server.post(CHAT, chat(&fields)).await));
            assert_eq!(calls(&message), calls(&choice["message"]), "{template}");
            assert_eq!((message["content"].as_str(), &reason), (Some(""), &json!("tool_calls")));
        }
        assert!(complete >= 6, "{template}: {complete} of 8 answers were complete");
    }
}

#[tokio::test]
async fn choices_of_tools_are_obeyed() {
    let server = saying("<tool_call>", "No.").await;
    let named = json!({"type": "function", "function": {"name": "clock"}});
    let allowed = |mode: &str| {
        json!({"type": "allowed_tools", "allowed_tools": {
        "mode": mode, "tools": [{"type": "function", "function": {"name": "clock"}}]}})
    };
    for choice in [named, allowed("required")] {
        let fields = json!({"tools": tools(), "tool_choice": choice, "parallel_tool_calls": false});
        let body = ask(&server, &fields).await;
        let expected = vec![("clock".to_owned(), json!({}))];
        assert_eq!(calls(&body["choices"][0]["message"]), expected, "{choice}");
    }
    for choice in [json!("auto"), json!("none"), allowed("auto"), Value::Null] {
        let body = ask(&server, &json!({"tools": tools(), "tool_choice": choice})).await;
        assert_eq!(body["choices"][0]["message"]["content"], "No.", "{choice}");
    }
    // A form of the answer holds where the model does not call.
    let fields = json!({"tools": tools(), "guided_choice": ["yes", "Nope"]});
    let body = ask(&server, &fields).await;
    assert_eq!(body["choices"][0]["message"]["content"], "Nope");
}

#[tokio::test]
async fn strict_tools_are_followed_in_free_answers() {
    let call = "Hm.<tool_call>\n{\"name\": \"get_weather\", \"arguments\": {\"city\": 5, \"unit\": \"kelvin\"}}\n</tool_call>";
    let server = saying("<tool_call>", call).await;
    let mut tools = tools();
    tools[0]["function"]["strict"] = json!(true);
    let schema = tools[0]["function"]["parameters"].clone();
    let body = ask(&server, &json!({"tools": tools, "parallel_tool_calls": false})).await;
    let message = &body["choices"][0]["message"];
    assert_eq!(message["content"], "Hm.");
    let (_, arguments) = calls(message).remove(0);
    assert!(is_valid(&schema, &arguments, &schema), "{arguments}");
    // Without a call nothing is constrained.
    let server = saying("<tool_call>", "Just text.").await;
    let body = ask(&server, &json!({"tools": tools})).await;
    assert_eq!(body["choices"][0]["message"]["content"], "Just text.");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
}

#[tokio::test]
async fn calls_that_a_model_begins_follow_schemas_without_being_strict() {
    // Blanks that JSON allows are left as they are; the unknown unit is not.
    let call = "Hm.<tool_call>{ \"name\":\"get_weather\",\n\"arguments\": {\"city\": \"Rome\",\"unit\":\"kelvin\"}}</tool_call>";
    let mut tools = tools();
    let odd = json!({"type": "function", "function": {"name": "odd", "parameters": {"not": {}}}});
    tools.as_array_mut().unwrap().push(odd);
    let schema = tools[0]["function"]["parameters"].clone();
    let server = saying("<tool_call>", call).await;
    for stream in [false, true] {
        let fields = json!({"tools": tools, "stream": stream, "parallel_tool_calls": false});
        let message = if stream {
            assemble(&events(&server.post(CHAT, chat(&fields)).await)).0
        } else {
            ask(&server, &fields).await["choices"][0]["message"].clone()
        };
        assert_eq!(message["content"], "Hm.");
        let (name, arguments) = calls(&message).remove(0);
        assert_eq!((name.as_str(), &arguments["city"]), ("get_weather", &json!("Rome")));
        assert!(is_valid(&schema, &arguments, &schema), "{arguments}");
    }
    // Reasoning is free, may speak of calls, and may be all that there is.
    for (answer, reasoning, units) in [
        ("<think>a <tool_call> or not</think>Hm.", "a <tool_call> or not", 1),
        ("<think>never ends", "never ends", 0),
    ] {
        let answer = if units > 0 { format!("{answer}{}", &call[3..]) } else { answer.to_owned() };
        let server = saying("<tool_call> <think>", &answer).await;
        let body = ask(&server, &json!({"tools": tools, "parallel_tool_calls": false})).await;
        let message = &body["choices"][0]["message"];
        assert_eq!(message["reasoning_content"], reasoning, "{body}");
        let calls = calls(message);
        assert_eq!(calls.len(), units, "{body}");
        assert!(calls.iter().all(|(_, arguments)| is_valid(&schema, arguments, &schema)));
    }
    // Formats that are not certain, and engines that are told not to, leave calls alone.
    for template in ["<tool_call> FREE", "<tool_call> <parameter="] {
        let server = saying(template, call).await;
        let body = ask(&server, &json!({"tools": tools})).await;
        let (_, arguments) = calls(&body["choices"][0]["message"]).remove(0);
        assert_eq!(arguments["unit"], "kelvin", "{template}");
    }
}

#[tokio::test]
async fn tools_and_results_reach_the_template() {
    let server = Server::scripted();
    let template = "{% for t in tools or [] %}{{ t.function.name }}{% endfor %}\
        {% for m in messages %}{{ m.role }}{% for c in m.tool_calls or [] %}\
        {{ c.function.name }}{{ c.function.arguments.city }}{% endfor %}{{ m.content }}{% endfor %}";
    server.load_from("m", &format!("{template} => ok")).await;
    let messages = json!([
        {"role": "user", "content": "u"},
        {"role": "assistant", "content": null, "tool_calls": [{"id": "c", "type": "function",
            "function": {"name": "get_weather", "arguments": "{\"city\": \"Rome\"}"}}]},
        {"role": "tool", "tool_call_id": "c", "content": "21"},
    ]);
    let with = ask(&server, &json!({"messages": messages, "tools": tools()})).await;
    let none = json!({"messages": messages, "tools": tools(), "tool_choice": "none"});
    let without = ask(&server, &none).await;
    let tokens = |body: &Value| body["usage"]["prompt_tokens"].as_u64().unwrap();
    assert_eq!(tokens(&with) - tokens(&without), "get_weatherclock".len() as u64);
    let text = "useruassistantget_weatherRomeNonetool21";
    assert!([text.len(), text.len() - 4].contains(&(tokens(&without) as usize)), "{without}");
}

#[tokio::test]
async fn bad_tools_are_refused_by_name() {
    let server = saying("<tool_call>", "x").await;
    let tool = |function: Value| json!({"tools": [{"type": "function", "function": function}]});
    let choose = |choice: Value| json!({"tools": tools(), "tool_choice": choice});
    let named = |name: &str| json!({"type": "function", "function": {"name": name}});
    let twice = json!([tools()[1], tools()[1]]);
    let many: Vec<Value> = (0..5000)
        .map(|i| json!({"type": "function", "function": {"name": format!("f{i}")}}))
        .collect();
    let cases = [
        (tool(json!({})), "tools[0].function.name"),
        (tool(json!({"name": ""})), "tools[0].function.name"),
        (tool(json!({"name": "a b"})), "tools[0].function.name"),
        (tool(json!({"name": "f", "parameters": 5})), "tools[0].function.parameters"),
        (
            tool(json!({"name": "f", "parameters": {"type": "array"}})),
            "tools[0].function.parameters",
        ),
        (tool(json!({"name": "f", "descriptio": 1})), "tools[0].function.descriptio"),
        (json!({"tools": twice}), "tools[1].function.name"),
        (json!({"tools": many}), "tools"),
        (json!({"tool_choice": "required"}), "tool_choice"),
        (json!({"tools": [], "tool_choice": named("f")}), "tool_choice"),
        (choose(json!("any")), "tool_choice"),
        (choose(named("nobody")), "tool_choice.function.name"),
        (choose(json!({"type": "function"})), "tool_choice.function"),
        (choose(json!({"type": "allowed_tools"})), "tool_choice.allowed_tools"),
        (
            choose(
                json!({"type": "allowed_tools", "allowed_tools": {"mode": "auto", "tools": []}}),
            ),
            "tool_choice.allowed_tools.tools",
        ),
        (
            tool(json!({"name": "f", "strict": true, "parameters": {"not": {}}})),
            "tools[0].function.parameters",
        ),
        (json!({"tools": tools(), "guided_regex": "a"}), "guided_regex"),
        (json!({"functions": [{"name": "f"}]}), "functions"),
        (json!({"function_call": "auto"}), "function_call"),
    ];
    for (fields, param) in cases {
        let reply = server.post(CHAT, chat(&fields)).await;
        let what = fields.to_string().chars().take(200).collect::<String>();
        assert_eq!(reply.status, 400, "{what}: {}", reply.text);
        assert_eq!(reply.json()["error"]["param"], param, "{what}: {}", reply.text);
    }
    // What cannot be enforced is fine where nothing enforces it.
    ask(&server, &tool(json!({"name": "f", "parameters": {"not": {}}}))).await;
}

#[tokio::test]
async fn reasoning_is_split_off_and_counted() {
    let cases = [
        // The model opens it, or the prompt did.
        ("{# <think> #}P", "<think>\nHm, 1.\n</think>\n\nIt is 4.", "Hm, 1.", "It is 4.", 10),
        ("P<think>\n", "Hm, 1.\n</think>\n\nIt is 4.", "Hm, 1.", "It is 4.", 8),
        ("{# <think> #}P", "It is 4.", "", "It is 4.", 0),
        ("P<think>", "never ends", "never ends", "", 10),
    ];
    for (template, answer, reasoning, content, reasoning_tokens) in cases {
        let server = Server::scripted();
        server.load_from("m", &format!("{template} => {answer}")).await;
        let body = ask(&server, &json!({})).await;
        let message = &body["choices"][0]["message"];
        let found = message["reasoning_content"].as_str().unwrap_or_default();
        assert_eq!((found, message["content"].as_str()), (reasoning, Some(content)), "{answer}");
        assert_eq!(message.get("reasoning"), message.get("reasoning_content"));
        let details = &body["usage"]["completion_tokens_details"];
        assert_eq!(details["reasoning_tokens"], reasoning_tokens, "{answer}");
        let options = json!({"stream": true, "stream_options": {"include_usage": true}});
        let events = events(&server.post(CHAT, chat(&options)).await);
        let usage = &events.last().unwrap()["usage"]["completion_tokens_details"];
        assert_eq!(usage["reasoning_tokens"], reasoning_tokens, "{answer}");
        let (streamed, reason) = assemble(&events);
        assert_eq!(streamed["reasoning_content"], reasoning, "{answer}");
        assert_eq!((&streamed["content"], reason), (&json!(content), json!("stop")), "{answer}");
    }
}

#[tokio::test]
async fn grammars_wait_for_the_end_of_reasoning() {
    let schema = json!({"type": "object", "properties": {"a": {"type": "boolean"}},
        "required": ["a"], "additionalProperties": false});
    for (template, answer, reasoning) in [
        ("{# <think> #}P", "<think>{no} \"json\"</think>Well, then!", "{no} \"json\""),
        ("P<think>", "{no} \"json\"</think>\n\nWell, then!", "{no} \"json\""),
        ("{# <think> #}P", "Well, then!", ""),
        // Reasoning may not end the answer.
        ("P<think>", "Hm", "Hm"),
    ] {
        let server = Server::scripted();
        server.load_from("m", &format!("{{# <tool_call> #}}{template} => {answer}")).await;
        let body = ask(&server, &json!({"guided_json": schema, "max_tokens": 200})).await;
        let choice = &body["choices"][0];
        let found = choice["message"]["reasoning_content"].as_str().unwrap_or_default();
        if answer == "Hm" {
            assert_eq!(choice["finish_reason"], "length", "{body}");
            continue;
        }
        assert_eq!(found, reasoning, "{answer}");
        let content: Value =
            serde_json::from_str(choice["message"]["content"].as_str().unwrap()).unwrap();
        assert!(is_valid(&schema, &content, &schema), "{content}");
        assert_eq!(choice["finish_reason"], "stop");
        let fields = json!({"tools": tools(), "tool_choice": "required", "temperature": 1,
            "parallel_tool_calls": false});
        let body = ask(&server, &fields).await;
        let message = &body["choices"][0]["message"];
        let found = message["reasoning_content"].as_str().unwrap_or_default();
        assert_eq!((found, calls(message).len()), (reasoning, 1), "{answer}: {body}");
    }
}

#[tokio::test]
async fn text_completions_do_not_reason() {
    let server = saying("<think>", "<think>Hm</think>yes").await;
    let request = json!({"model": "m", "prompt": "P", "temperature": 0, "guided_choice": ["yes"]});
    let body = server.post("/v1/completions", request.to_string()).await.json();
    assert_eq!(body["choices"][0]["text"], "yes", "{body}");
    assert_eq!(body["choices"][0]["finish_reason"], "stop");
}
