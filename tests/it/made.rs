//! Engines that treat texts otherwise than their files say: templates by hand, and models made of
//! others, by the built program.

use std::path::Path;

use serde_json::{Value, json};

use crate::program::{Serving, kolosal, request};
use crate::tiny::Tiny;

fn tiny(home: &Path) -> String {
    let path = home.join("m.gguf");
    std::fs::write(&path, Tiny::default().bytes()).unwrap();
    path.to_str().unwrap().to_owned()
}

fn post(serving: &Serving, path: &str, body: Value) -> (u16, Value) {
    request("POST", &format!("{}{path}", serving.url), Some(&body))
}

fn get(serving: &Serving, path: &str) -> Value {
    request("GET", &format!("{}{path}", serving.url), None).1
}

/// What the template makes of a message.
fn rendered(serving: &Serving, model: &str) -> String {
    let messages = json!([{"role": "user", "content": "hi"}]);
    let (status, answer) =
        post(serving, "/apply-template", json!({"model": model, "messages": messages}));
    assert_eq!(status, 200, "{answer}");
    answer["prompt"].as_str().unwrap().to_owned()
}

#[test]
fn models_are_made_of_others_and_are_there_again() {
    let home = tempfile::tempdir().unwrap();
    let args = [&*tiny(home.path()), "--threads", "1", "--n-ctx", "256"];
    let serving = Serving::start(home.path(), &args);
    let body = json!({
        "model": "cat", "from": "m", "system": "You are a cat.", "stream": false,
        "parameters": {"temperature": 0.25, "stop": ["dog"], "num_ctx": 128, "num_gpu": 1},
    });
    let (status, answer) = post(&serving, "/api/create", body);
    assert_eq!((status, &answer["status"]), (200, &json!("success")), "{answer}");
    let modelfile = "FROM cat\nSYSTEM \"\"\"Purr.\"\"\"\nPARAMETER top_k 5\n";
    let (status, _) =
        post(&serving, "/api/create", json!({"name": "kitten", "modelfile": modelfile}));
    assert_eq!(status, 200);
    for (body, word) in [
        (json!({"model": "x"}), "from"),
        (json!({"model": "x", "from": "m", "template": "{{ .System }} {{ .Prompt }}"}), "Go"),
        (json!({"model": "x", "from": "m", "parameters": {"seed": 1}}), "seed"),
        (json!({"model": "m", "from": "m"}), "m"),
        (json!({"model": "x", "modelfile": "FROM m\nADAPTER a"}), "ADAPTER"),
    ] {
        let (status, answer) = post(&serving, "/api/create", body);
        let said = answer["error"].as_str().unwrap_or_default();
        assert!(status >= 400 && said.contains(word), "{word}: {answer}");
    }
    drop(serving);

    let serving = Serving::start(home.path(), &args);
    let prompt = rendered(&serving, "cat");
    assert!(prompt.contains("You are a cat.") && prompt.contains("hi"), "{prompt}");
    assert!(
        rendered(&serving, "kitten").contains("Purr.") && !rendered(&serving, "m").contains("Purr")
    );
    let (_, shown) = post(&serving, "/api/show", json!({"model": "kitten"}));
    assert_eq!(shown["system"], "Purr.");
    let parameters = shown["parameters"].as_str().unwrap();
    for line in ["temperature 0.25", "top_k 5", "stop \"dog\""] {
        assert!(parameters.lines().any(|found| found == line), "{parameters}");
    }
    let tags = get(&serving, "/api/tags");
    let digests: Vec<_> =
        tags["models"].as_array().unwrap().iter().map(|m| m["digest"].as_str().unwrap()).collect();
    assert!(digests.len() == 3 && digests.iter().all(|digest| digest.len() == 64), "{tags}");
    assert_ne!(digests[0], digests[1]);
    let url = format!("{}/api/delete", serving.url);
    assert_eq!(request("DELETE", &url, Some(&json!({"model": "cat"}))).0, 200);
    drop(serving);
    let serving = Serving::start(home.path(), &args);
    assert_eq!(get(&serving, "/api/tags")["models"].as_array().map(Vec::len), Some(2));
}

#[test]
fn templates_come_from_flags_requests_and_engines() {
    let home = tempfile::tempdir().unwrap();
    let model = tiny(home.path());
    let file = home.path().join("template.jinja");
    std::fs::write(&file, "{{ kind }}:{{ enable_thinking }}:{{ messages[0].content }}").unwrap();
    let args = [
        &*model,
        "--threads",
        "1",
        "--n-ctx",
        "128",
        "--chat-template",
        file.to_str().unwrap(),
        "--chat-template-kwargs",
        r#"{"kind": "cat"}"#,
        "--reasoning",
        "off",
    ];
    let serving = Serving::start(home.path(), &args);
    assert_eq!(rendered(&serving, "m"), "cat:False:hi");
    let engine = |fields: Value| {
        let mut body = json!({"engine_id": "e", "model_path": model, "load_immediately": false});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        post(&serving, "/engines", body)
    };
    let (status, refused) = engine(json!({"chat_template": "/etc/passwd"}));
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("chat_template")));
    let (status, _) = engine(json!({"chat_template": "chatml", "system": "s"}));
    assert_eq!(status, 201);
    let prompt = rendered(&serving, "e");
    assert!(prompt.starts_with("<|im_start|>system\ns<|im_end|>"), "{prompt}");
    let chat = json!({
        "model": "m", "messages": [{"role": "user", "content": "hi"}], "max_tokens": 1,
        "chat_template": "{% if true %}abc{% endif %}",
    });
    let (status, refused) = post(&serving, "/v1/chat/completions", chat.clone());
    assert_eq!((status, &refused["error"]["param"]), (400, &json!("chat_template")));
    drop(serving);
    let allowed = [("KOLOSAL_ENGINE__REQUEST_TEMPLATES", "true")];
    let serving = Serving::start_with(home.path(), &args, &allowed);
    let (status, answer) = post(&serving, "/v1/chat/completions", chat);
    assert_eq!((status, &answer["usage"]["prompt_tokens"]), (200, &json!(3)), "{answer}");
    drop(serving);
    let run = crate::program::finish(
        kolosal(home.path()).args(["serve", &model, "--port", "0", "--chat-template", "no.jinja"]),
        "",
    );
    assert!(run.code == 2 && run.err.contains("no.jinja"), "{run:?}");
}

#[test]
fn a_context_goes_on_with_what_was_said() {
    let home = tempfile::tempdir().unwrap();
    let args = [&*tiny(home.path()), "--threads", "1", "--n-ctx", "256"];
    let serving = Serving::start(home.path(), &args);
    let ask = |fields: Value| {
        let mut body = json!({"model": "m", "prompt": "hi", "options": {"num_predict": 2}});
        for (name, value) in fields.as_object().unwrap() {
            body[name] = value.clone();
        }
        post(&serving, "/api/generate", body)
    };
    let (_, first) = ask(json!({"stream": false}));
    let said = first["context"].as_array().unwrap().len() as u64;
    assert_eq!(said, first["prompt_eval_count"].as_u64().unwrap() + 2, "{first}");
    let (_, second) = ask(json!({"stream": false, "context": first["context"]}));
    let read = second["prompt_eval_count"].as_u64().unwrap();
    assert_eq!(read, said + first["prompt_eval_count"].as_u64().unwrap(), "{second}");
    let (_, raw) = ask(json!({"stream": false, "raw": true}));
    assert!(raw.get("context").is_none(), "{raw}");
    assert_eq!(ask(json!({"raw": true, "context": [1]})).0, 400);
    assert_eq!(ask(json!({"stream": false, "context": [1_000_000]})).0, 400);
}
