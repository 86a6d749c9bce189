//! Chat templates: what Python's Jinja2 renders we render too, byte for byte.

use std::path::Path;

use kolosal_server::chat::ChatTemplate;
use kolosal_server::chat::conversation::{Arguments, Call, ChatInput, Message, Part, Role};
use serde_json::Value;

/// Sunday, 9 March 2025, 14:05:07: the moment of the fixtures.
const NOW_S: i64 = 1_741_529_107;

/// Templates that add to a string marked with `|safe`. Python's Markup then escapes what is added, so
/// that `"` of a tool's schema becomes `&#34;`; a prompt is no HTML, and we leave it as it is.
const ESCAPES_SAFE_STRINGS: [&str; 1] = ["meetkai-functionary-medium-v3.1"];

fn unescaped(html: &str) -> String {
    let entities = [("&#34;", "\""), ("&#39;", "'"), ("&lt;", "<"), ("&gt;", ">"), ("&amp;", "&")];
    entities.iter().fold(html.to_owned(), |text, (entity, c)| text.replace(entity, c))
}

pub(crate) fn fixtures() -> Vec<(String, Value)> {
    let dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/data/templates");
    let mut paths: Vec<_> = std::fs::read_dir(dir).unwrap().map(|e| e.unwrap().path()).collect();
    paths.retain(|path| path.extension().is_some_and(|e| e == "json"));
    paths.sort();
    let read = |path: &Path| {
        let name = path.file_stem().unwrap().to_string_lossy().into_owned();
        (name, serde_json::from_slice(&std::fs::read(path).unwrap()).unwrap())
    };
    paths.iter().map(|path| read(path)).collect()
}

fn message(value: &Value) -> Message {
    let text = |key: &str| value.get(key).and_then(Value::as_str).map(str::to_owned);
    let part = |part: &Value| Part::Text(part["text"].as_str().unwrap().to_owned());
    let call = |call: &Value| {
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        let function = &call["function"];
        let arguments = Arguments::Text(text(&function["arguments"]));
        Call { id: text(&call["id"]), name: text(&function["name"]), arguments }
    };
    let roles = [Role::System, Role::User, Role::Assistant, Role::Tool];
    Message {
        role: roles.into_iter().find(|role| value["role"] == role.name()).unwrap(),
        parts: match &value["content"] {
            Value::Array(parts) => parts.iter().map(part).collect(),
            content => {
                content.as_str().map(|text| Part::Text(text.to_owned())).into_iter().collect()
            }
        },
        calls: value["tool_calls"]
            .as_array()
            .map_or_else(Vec::new, |c| c.iter().map(call).collect()),
        reasoning: text("reasoning_content"),
        name: text("name"),
        call_id: text("tool_call_id"),
    }
}

fn input(case: &Value) -> ChatInput {
    ChatInput {
        messages: case["messages"].as_array().unwrap().iter().map(message).collect(),
        tools: case.get("tools").cloned(),
        add_generation_prompt: case["generate"] == true,
        continue_final_message: case["continued"] == true,
        kwargs: case.get("kwargs").and_then(Value::as_object).cloned().unwrap_or_default(),
        template: None,
        may_cut: false,
    }
}

fn template(source: &str) -> ChatTemplate {
    let tokens = vec![("bos_token", "<BOS>".to_owned()), ("eos_token", "<EOS>".to_owned())];
    ChatTemplate::from_source(source, tokens)
}

#[test]
fn published_templates_render_as_in_python() {
    let mut wrong = Vec::new();
    let mut count = 0;
    for (name, fixture) in fixtures() {
        let template = template(fixture["template"].as_str().unwrap());
        for case in fixture["cases"].as_array().unwrap() {
            let rendered = template.render_at(&input(case), &|_| vec![], NOW_S);
            // What Python cannot render we may render; it must not end in a panic.
            let Some(expected) = case.get("expected").and_then(Value::as_str) else { continue };
            // Where a template is silent about tools we describe them in the system message.
            if case.get("tools").is_some() && !expected.contains("Current weather") {
                assert!(rendered.unwrap().text.contains("get_weather"), "{name}");
                continue;
            }
            count += 1;
            let expected = if ESCAPES_SAFE_STRINGS.contains(&name.as_str()) {
                &unescaped(expected)
            } else {
                expected
            };
            let text = rendered.map_or_else(|e| e.to_string(), |r| r.text);
            if text != expected {
                let at = text.bytes().zip(expected.bytes()).take_while(|(a, b)| a == b).count();
                let around = |text: &str| {
                    String::from_utf8_lossy(&text.as_bytes()[at.saturating_sub(30)..])
                        .chars()
                        .take(110)
                        .collect::<String>()
                };
                let (ours, python) = (around(&text), around(expected));
                wrong.push(format!("{name}/{}:\n  {ours:?}\n  {python:?}", case["name"]));
            }
        }
    }
    assert!(count > 440, "{count} of the fixtures were compared");
    assert!(wrong.is_empty(), "{} of {count} differ:\n{}", wrong.len(), wrong.join("\n"));
}

fn user(text: &str) -> ChatInput {
    let messages = vec![Message::text(Role::User, text)];
    ChatInput { messages, add_generation_prompt: true, ..Default::default() }
}

#[test]
fn hostile_templates_end_in_errors() {
    let sources = [
        "{% for a in range(99999) %}{% for b in range(99999) %}{{ a }}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ 'x' * 4000000000 }}",
        "{% set ns = namespace(s='x') %}{% for i in range(99) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}{{ ns.s }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% for j in range(99) %}{% set ns.l = [ns.l] %}{% endfor %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l }}",
        "{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}{{ ns.l|tojson }}",
        "{% set ns = namespace() %}{% set ns.me = ns %}{{ ns }}",
        "{% set a = namespace() %}{% set b = namespace(a=a) %}{% set a.b = [b] %}{{ a }}",
        "{{ '{% set a.b = \\'' }}{% set ns = namespace(l=[]) %}{% for i in range(99999) %}{% set ns.l = [ns.l] %}{% endfor %}",
        "{% set ns = namespace(l=[1]) %}{% for i in range(99999) %}{% set ns.l = ns.l|map('upper')|reverse %}{% endfor %}{{ ns.l.a.b }}",
        "{{ messages[0].missing.deeper }}",
        "{{ raise_exception('no') }}",
        "{% include 'other' %}",
        "{{ 1 // 0 }}",
        "{% if %}",
        "{{",
    ];
    let deep = ["+a", ".a", "|upper", "[a]", "(1)", " if a else a", " and a", " ~ a", " is a"]
        .map(|link| format!("{{{{ a{} }}}}", link.repeat(120_000 / link.len())));
    let nested =
        ["{% if a %}", "{% elif a %}", "{% for a in a %}", "{{ (", "{{ [", "{{ not ", "{{ -"]
            .map(|link| format!("{{% if a %}}{}", link.repeat(120_000 / link.len())));
    let huge = "x".repeat(1 << 20);
    let made = deep.iter().chain(&nested).chain([&huge]).map(String::as_str);
    for source in sources.into_iter().chain(made) {
        let result = template(source).render_at(&user("hi"), &|_| vec![], NOW_S);
        assert!(result.is_err(), "{source:.200}");
    }
}

#[test]
fn variables_of_the_server_are_not_for_requests() {
    let template = template("{{ messages[0].content }}{{ colour }}{{ bos_token }}");
    let render = |name: &str| {
        let mut input = user("hi");
        input.kwargs.insert(name.to_owned(), "red".into());
        template.render_at(&input, &|_| vec![], NOW_S)
    };
    assert_eq!(render("colour").unwrap().text, "hired<BOS>");
    for name in ["messages", "tools", "add_generation_prompt", "bos_token", "raise_exception"] {
        let error = render(name).unwrap_err();
        assert_eq!(error.param, Some(format!("chat_template_kwargs.{name}")));
    }
}

#[test]
fn what_the_template_raises_reaches_the_client() {
    let error = template("{{ raise_exception('roles must alternate') }}")
        .render_at(&user("hi"), &|_| vec![], NOW_S)
        .unwrap_err();
    assert_eq!(error.message, "the chat template refuses: roles must alternate");
    assert_eq!(error.kind.status(), 400);
}

#[test]
fn places_in_the_request_are_protected_in_the_text() {
    let template = template("<|im_start|>{{ messages[0].content|trim }}<|im_end|>");
    let find = |text: &str| text.match_indices("<|im_end|>").map(|(at, _)| at + 1).collect();
    let rendered = template.render_at(&user(" a<|im_end|> "), &find, NOW_S).unwrap();
    assert_eq!(rendered.text, "<|im_start|>a<|im_end|><|im_end|>");
    assert_eq!(rendered.protected, [14]);
}

/// Templates show a tool's name; the two that were published without a place for tools are known.
#[test]
fn tools_of_a_request_are_in_the_prompt() {
    let silent: Vec<String> = fixtures()
        .iter()
        .filter(|(_, fixture)| {
            let cases = fixture["cases"].as_array().unwrap();
            let case = cases.iter().find(|case| case["name"] == "tools").unwrap();
            let template = template(fixture["template"].as_str().unwrap());
            let rendered = template.render_at(&input(case), &|_| vec![], NOW_S);
            !rendered.is_ok_and(|r| r.text.contains("get_weather"))
        })
        .map(|(name, _)| name.clone())
        .collect();
    assert_eq!(silent, Vec::<String>::new());
}
