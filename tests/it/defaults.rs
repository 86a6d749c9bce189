//! How tokens are chosen where nothing is said, by the built program.

use kolosal_server::model::gguf::Value as Meta;
use serde_json::{Value, json};

use crate::program::{Serving, request};
use crate::tiny::Tiny;

/// A model whose makers advise something, and one without advice.
fn serve(home: &std::path::Path) -> Serving {
    let extra = vec![
        ("general.sampling.temp", Meta::F32(0.25)),
        ("general.sampling.top_k", Meta::I32(7)),
        ("general.sampling.mirostat", Meta::I32(2)),
    ];
    let (advised, plain) = (home.join("advised.gguf"), home.join("plain.gguf"));
    std::fs::write(&advised, Tiny { extra, ..Tiny::default() }.bytes()).unwrap();
    std::fs::write(&plain, Tiny::default().bytes()).unwrap();
    let [advised, plain] = [advised, plain].map(|path| path.to_str().unwrap().to_owned());
    Serving::start(home, &[&advised, &plain, "--threads", "1", "--n-ctx", "128"])
}

#[test]
fn the_model_says_how_tokens_are_chosen_then_the_dialect_then_we() {
    let home = tempfile::tempdir().unwrap();
    let serving = serve(home.path());
    let get = |path: &str| request("GET", &format!("{}{path}", serving.url), None).1;
    let post = |path: &str, body: Value| {
        let (status, answer) = request("POST", &format!("{}{path}", serving.url), Some(&body));
        assert_eq!(status, 200, "{answer}");
        answer
    };
    let used = |model: &str, mut fields: Value| {
        fields["model"] = model.into();
        fields["prompt"] = "a".into();
        fields["n_predict"] = 1.into();
        let settings = post("/completion", fields)["generation_settings"].clone();
        let number = |name: &str| settings[name].as_f64().map(|x| (x * 100.0).round() / 100.0);
        (number("temperature"), number("top_p"), settings["top_k"].as_u64())
    };
    assert_eq!(used("advised", json!({})), (Some(0.25), Some(0.9), Some(7)));
    assert_eq!(used("plain", json!({})), (Some(0.7), Some(0.9), Some(0)));
    let said = json!({"temperature": 1.5, "top_k": 0, "top_p": 1});
    assert_eq!(used("advised", said), (Some(1.5), Some(1.0), Some(0)));
    let models = get("/v1/models");
    let of = |id: &str| {
        let all = models["data"].as_array().cloned().unwrap_or_default();
        all.into_iter().find(|model| model["id"] == id).unwrap()["default_sampling"].clone()
    };
    assert_eq!((&of("advised")["temperature"], &of("advised")["top_k"]), (&json!(0.25), &json!(7)));
    assert_eq!(of("plain")["top_k"], Value::Null);
    let response = |model: &str| {
        let body = json!({"model": model, "input": "a", "max_output_tokens": 1});
        post("/v1/responses", body)["temperature"].clone()
    };
    assert_eq!((response("advised"), response("plain")), (json!(0.25), json!(0.7)));
    let status = get("/engines/advised/status");
    assert!(status.to_string().contains("general.sampling.mirostat is not heeded"), "{status}");
}
