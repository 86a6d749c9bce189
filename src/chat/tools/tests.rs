//! Answers in every format, cut in every way.

use super::*;
use serde_json::json;

fn tools() -> Value {
    json!([{"type": "function", "function": {"name": "f", "parameters": {"type": "object",
        "properties": {"s": {"type": "string"}, "n": {"type": "integer"}}}}}])
}

/// Text, and calls as `name(arguments)`, whatever the chunks.
fn parse(format: ToolFormat, answer: &str) -> (String, Vec<String>) {
    let mut whole = None;
    for size in [1, 3, 1000] {
        let mut parser = ToolParser::new(format, tools());
        let chars: Vec<char> = answer.chars().collect();
        let chunks = chars.chunks(size).map(String::from_iter);
        let mut parts: Vec<AnswerPart> =
            chunks.flat_map(|chunk: String| parser.push(&chunk)).collect();
        parts.extend(parser.flush(Ending::Whole));
        let (mut text, mut calls, mut num_complete) = (String::new(), Vec::new(), 0);
        for part in parts {
            match part {
                AnswerPart::Text(more) => text.push_str(&more),
                AnswerPart::Call(delta) => {
                    assert_eq!(delta.start.is_some(), delta.index as usize == calls.len());
                    num_complete += usize::from(delta.add_to(&mut calls).is_some());
                }
            }
        }
        assert_eq!(num_complete, calls.len(), "{answer}");
        assert_eq!(parser.has_calls(), !calls.is_empty());
        let calls: Vec<String> =
            calls.iter().map(|call| format!("{}({})", call.name, call.arguments)).collect();
        let result = (text, calls);
        assert_eq!(whole.get_or_insert_with(|| result.clone()), &result, "{size}: {answer}");
    }
    whole.unwrap()
}

const ONE: &str = r#"f({"n": 1, "s": "x"})"#;
const CASES: &[(ToolFormat, &str, &str, &[&str])] = &[
    (
        ToolFormat::Hermes,
        "Hi\n<tool_call>\n{\"name\": \"f\", \"arguments\": {\"n\": 1, \"s\": \"x\"}}\n</tool_call>",
        "Hi\n",
        &[ONE],
    ),
    (
        ToolFormat::Hermes,
        "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>\n<tool_call>{\"name\": \"g\"}</tool_call>",
        "",
        &["f({})", "g({})"],
    ),
    (ToolFormat::Hermes, "<tool_call>{\"name\": \"f\", \"arguments\": {}}", "", &["f({})"]),
    (
        ToolFormat::Hermes,
        "a <tool_call>{\"name\"</tool_call> b",
        "a <tool_call>{\"name\"</tool_call> b",
        &[],
    ),
    (ToolFormat::Hermes, "a <tool", "a <tool", &[]),
    (
        ToolFormat::QwenXml,
        "<tool_call>\n<function=f>\n<parameter=n>\n1\n</parameter>\n<parameter=s>\nx\n</parameter>\n</function>\n</tool_call>",
        "",
        &[ONE],
    ),
    (
        ToolFormat::QwenXml,
        "<tool_call><function=f><parameter=s>12</parameter></function></tool_call>",
        "",
        &[r#"f({"s": "12"})"#],
    ),
    (
        ToolFormat::Glm,
        "<tool_call>f\n<arg_key>n</arg_key>\n<arg_value>1</arg_value>\n<arg_key>s</arg_key><arg_value>x</arg_value></tool_call>",
        "",
        &[ONE],
    ),
    (
        ToolFormat::Mistral,
        "[TOOL_CALLS][{\"name\": \"f\", \"arguments\": {\"n\": 1}}, {\"name\": \"g\", \"arguments\": {}}]",
        "",
        &["f({\"n\": 1})", "g({})"],
    ),
    (
        ToolFormat::Mistral,
        "[TOOL_CALLS]f[ARGS]{\"n\": 1}[TOOL_CALLS]g[CALL_ID]abc[ARGS]{}",
        "",
        &["f({\"n\": 1})", "g({})"],
    ),
    (ToolFormat::Llama, "{\"name\": \"f\", \"parameters\": {\"n\": 1}}", "", &["f({\"n\": 1})"]),
    (
        ToolFormat::Llama,
        "<|python_tag|>{\"name\": \"f\", \"parameters\": {}}; {\"name\": \"g\", \"parameters\": {}}",
        "",
        &["f({})", "g({})"],
    ),
    (ToolFormat::Llama, "{\"answer\": 1}", "{\"answer\": 1}", &[]),
    (ToolFormat::Llama, "See {\"name\": \"f\"}", "See {\"name\": \"f\"}", &[]),
    (ToolFormat::Functionary, "<function=f>{\"n\": 1}</function>", "", &["f({\"n\": 1})"]),
    (
        ToolFormat::DeepSeek,
        "Hi<｜tool▁calls▁begin｜><｜tool▁call▁begin｜>f<｜tool▁sep｜>{\"n\": 1}<｜tool▁call▁end｜><｜tool▁calls▁end｜>",
        "Hi",
        &["f({\"n\": 1})"],
    ),
    (
        ToolFormat::DeepSeek,
        "<｜tool▁call▁begin｜>function<｜tool▁sep｜>f\n```json\n{\"n\": 1}\n```<｜tool▁call▁end｜>",
        "",
        &["f({\"n\": 1})"],
    ),
    (
        ToolFormat::Kimi,
        "<|tool_calls_section_begin|><|tool_call_begin|>functions.f:0<|tool_call_argument_begin|>{\"n\": 1}<|tool_call_end|><|tool_calls_section_end|>",
        "",
        &["f({\"n\": 1})"],
    ),
    (
        ToolFormat::Harmony,
        "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{\"n\": 1}<|call|>",
        "",
        &["f({\"n\": 1})"],
    ),
    (
        ToolFormat::Harmony,
        " to=functions.f<|channel|>commentary json<|message|>{\"n\": 1}",
        "",
        &["f({\"n\": 1})"],
    ),
    (
        ToolFormat::Hermes,
        "<tool_call>{\"arguments\": {\"s\": \"</tool_call>\"}, \"name\": \"f\"}</tool_call>.",
        ".",
        &[r#"f({"s": "</tool_call>"})"#],
    ),
    (
        ToolFormat::Hermes,
        "<tool_call>{\"type\": \"function\", \"id\": 7, \"function\": {\"name\": \"f\", \"arguments\": \"{\\\"n\\\": 1}\"}}</tool_call>",
        "",
        &["f({\"n\": 1})"],
    ),
    // A forgotten bracket, and what is no JSON.
    (
        ToolFormat::Hermes,
        "<tool_call>{\"name\": \"f\", \"arguments\": {}</tool_call>",
        "",
        &["f({})"],
    ),
    (
        ToolFormat::Hermes,
        "<tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call>",
        "<tool_call>{\"name\": \"f\", \"arguments\": 3}</tool_call>",
        &[],
    ),
    (
        ToolFormat::Hermes,
        "<tool_call>{\"name\": \"f\", \"arguments\": {\"n\": 1",
        "",
        &["f({\"n\": 1)"],
    ),
    (
        ToolFormat::Hermes,
        "<tool_call><function=f><parameter=n>1</parameter><parameter=s>x</parameter></function></tool_call>",
        "",
        &[ONE],
    ),
    (
        ToolFormat::Seed,
        "<seed:tool_call><function=f>\n<parameter=s>a\n\"b\"\n</parameter>\n</function></seed:tool_call>",
        "",
        &[r#"f({"s": "a\n\"b\""})"#],
    ),
    (ToolFormat::Glm, "<tool_call>f</tool_call>", "", &["f({})"]),
    (
        ToolFormat::Glm,
        "<tool_call>{\"name\": \"f\", \"arguments\": {}}</tool_call>",
        "",
        &["f({})"],
    ),
    (
        ToolFormat::MiniMax,
        "Hm.\n<minimax:tool_call>\n<invoke name=\"f\">\n<parameter name=\"n\">1</parameter>\n<parameter name=\"s\">x</parameter>\n</invoke>\n<invoke name=\"g\">\n</invoke>\n</minimax:tool_call>",
        "Hm.\n",
        &[ONE, "g({})"],
    ),
    (
        ToolFormat::Dsml,
        "<｜DSML｜tool_calls>\n<｜DSML｜invoke name=\"g\">\n<｜DSML｜parameter name=\"a\" string=\"true\">12</｜DSML｜parameter>\n<｜DSML｜parameter name=\"b\" string=\"false\">[12]</｜DSML｜parameter>\n</｜DSML｜invoke>\n</｜DSML｜tool_calls>",
        "",
        &[r#"g({"a": "12", "b": [12]})"#],
    ),
    (
        ToolFormat::KimiK3,
        "<|open|>tools<|sep|><|open|>call tool=\"f\" index=\"1\"<|sep|><|open|>argument key=\"n\" type=\"number\"<|sep|>1<|close|>argument<|sep|><|open|>argument key=\"s\" type=\"string\"<|sep|>x<|close|>argument<|sep|><|close|>call<|sep|><|close|>tools<|sep|>",
        "",
        &[ONE],
    ),
    (
        ToolFormat::Solar,
        "<|tool_calls|><|tool_call:begin|>a1b2<|tool_call:name|>f<|tool_call:args|>{\"n\": 1}<|tool_call:end|>",
        "",
        &["f({\"n\": 1})"],
    ),
    (
        ToolFormat::Gemma,
        "<|tool_call>call:f{n:1,s:<|\"|>x<|\"|>}<tool_call|><|tool_call>call:g{}<tool_call|>",
        "",
        &[ONE, "g({})"],
    ),
    (
        ToolFormat::Gemma,
        "<|tool_call>call:g{a:{b:[<|\"|>},\"<|\"|>,true]}}<tool_call|>",
        "",
        &[r#"g({"a": {"b":["},\"",true]}})"#],
    ),
    (
        ToolFormat::Lfm,
        "<|tool_call_start|>[f(n=1, s='x'), g()]<|tool_call_end|>Done",
        "Done",
        &[ONE, "g({})"],
    ),
    (
        ToolFormat::Lfm,
        "<|tool_call_start|>[{\"name\": \"f\", \"arguments\": {}}]<|tool_call_end|>",
        "",
        &["f({})"],
    ),
    (ToolFormat::Lfm, "<|tool_call_start|>[f(1)]<|tool_call_end|>", "", &["f()"]),
    (
        ToolFormat::Olmo,
        "<function_calls>\nf(n=1, s=\"x\")\ng(a=[1, {'b': None}])\n</function_calls>",
        "",
        &[ONE, r#"g({"a": [1,{"b":null}]})"#],
    ),
    (ToolFormat::Pythonic, "[f(n=1, s=\"x\")]", "", &[ONE]),
    (ToolFormat::Pythonic, "[g(n=1)] is unknown", "[g(n=1)] is unknown", &[]),
    (ToolFormat::Pythonic, "[1] says", "[1] says", &[]),
    (
        ToolFormat::Llama,
        "{\"name\": \"Bob\", \"parameters\": {}}",
        "{\"name\": \"Bob\", \"parameters\": {}}",
        &[],
    ),
    (
        ToolFormat::Nemotron,
        "<TOOLCALL>[{\"name\": \"f\", \"arguments\": {\"n\": 1}}, {\"name\": \"g\", \"arguments\": {}}]</TOOLCALL>",
        "",
        &["f({\"n\": 1})", "g({})"],
    ),
    (
        ToolFormat::ToolCalls,
        "\n<tool_calls>[{\"name\": \"f\", \"arguments\": {}, \"id\": \"a\"}]</tool_calls>",
        "\n",
        &["f({})"],
    ),
    (ToolFormat::Granite, "<|tool_call|>[{\"name\": \"f\", \"arguments\": {}}]", "", &["f({})"]),
    (
        ToolFormat::Cohere,
        "<|START_ACTION|>[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"f\", \"parameters\": {\"n\": 1}}\n]<|END_ACTION|>",
        "",
        &["f({\"n\": 1})"],
    ),
    (ToolFormat::GigaChat, "<|function_call|>{\"name\": \"f\", \"arguments\": {}}", "", &["f({})"]),
    (
        ToolFormat::InternLm,
        "<|action_start|><|plugin|>\n{\"name\": \"f\", \"parameters\": {}}<|action_end|>",
        "",
        &["f({})"],
    ),
    (
        ToolFormat::Firefunction,
        "See functools[{\"name\": \"f\", \"arguments\": {}}]",
        "See ",
        &["f({})"],
    ),
    (
        ToolFormat::Apertus,
        "<|tools_prefix|>[{\"f\": {\"n\": 1}}, {\"g\": {}}]<|tools_suffix|>",
        "",
        &["f({\"n\": 1})", "g({})"],
    ),
];

#[test]
fn calls_are_read_in_every_format() {
    let mut wrong = Vec::new();
    for (format, answer, text, calls) in CASES {
        let found = parse(*format, answer);
        let wanted = ((*text).to_owned(), calls.iter().map(|c| (*c).to_owned()).collect());
        if found != wanted {
            wrong.push(format!("{format:?}: {answer}\n  {found:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn arguments_come_while_they_are_written() {
    let text = "long ".repeat(20);
    for (format, before, after) in [
        (
            ToolFormat::Hermes,
            "<tool_call>{\"name\": \"f\", \"arguments\": {\"s\": \"",
            "\"}}</tool_call>",
        ),
        (
            ToolFormat::QwenXml,
            "<tool_call><function=f><parameter=s>",
            "</parameter></function></tool_call>",
        ),
        (ToolFormat::Mistral, "[TOOL_CALLS]f[ARGS]{\"s\": \"", "\"}"),
        (ToolFormat::Llama, "{\"name\": \"f\", \"parameters\": {\"s\": \"", "\"}}"),
        (
            ToolFormat::Harmony,
            " to=functions.f<|channel|>commentary json<|message|>{\"s\": \"",
            "\"}",
        ),
    ] {
        let mut parser = ToolParser::new(format, tools());
        let mut pieces = Vec::new();
        for chunk in [before, text.as_str(), text.as_str(), after] {
            let parts = parser.push(chunk);
            let len = |part: &AnswerPart| match part {
                AnswerPart::Call(delta) => delta.arguments.len(),
                AnswerPart::Text(text) => panic!("{format:?}: {text}"),
            };
            pieces.push(parts.iter().map(len).sum::<usize>());
        }
        assert!(pieces[1] > 90 && pieces[2] > 90, "{format:?}: {pieces:?}");
        assert!(
            !parser.flush(Ending::Whole).iter().any(|part| matches!(part, AnswerPart::Text(_))),
            "{format:?}"
        );
        assert_eq!(parser.num_complete(), 1, "{format:?}");
    }
}
