//! One conversation in the words of every dialect is one prompt, in published templates.

use std::path::Path;
use std::sync::{Arc, Mutex};

use kolosal_server::{
    engine::{Engine, EngineConfig},
    error::Result,
    model::{BLOCK, Batch, Logits, Runner, RunnerError, RunnerSpec},
    registry::{EngineSpec, Loaded, Loader, ModelInfo},
    server::Options,
};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::harness::Server;
use crate::{template::fixtures, tiny::byte_text_model};

/// Tokens beside the bytes.
const CONTROLS: &[&str] = &["<|im_end|>", "<|im_start|>"];
const VOCABULARY: usize = 256 + CONTROLS.len();
const END: u32 = 256;
const NUM_BLOCKS: usize = 1024;

/// What was read before an answer, in the order of the answers.
type Prompts = Arc<Mutex<Vec<String>>>;

/// Says nothing, and remembers what it was given to read.
struct Listener {
    spec: RunnerSpec,
    /// The token in each slot of the pool.
    slots: Vec<u32>,
    prompts: Prompts,
}

impl Runner for Listener {
    fn spec(&self) -> &RunnerSpec {
        &self.spec
    }

    fn forward(&mut self, batch: &Batch) -> Result<Logits, RunnerError> {
        for (slot, token) in batch.slots.iter().zip(&batch.tokens) {
            self.slots[*slot as usize] = *token;
        }
        let mut data = vec![0.0; batch.logit_rows.len() * VOCABULARY];
        for (row, logits) in batch.logit_rows.iter().zip(data.chunks_exact_mut(VOCABULARY)) {
            logits[END as usize] = 20.0;
            let span = batch.spans.iter().find(|span| span.rows.contains(row)).unwrap();
            let tokens = (0..span.kv_len as usize).map(|at| {
                let block = span.blocks[at / BLOCK] as usize;
                self.slots[block * BLOCK + at % BLOCK]
            });
            self.prompts.lock().unwrap().push(text(tokens));
        }
        Ok(Logits { data: data.into(), vocab_size: VOCABULARY })
    }
}

fn text(tokens: impl Iterator<Item = u32>) -> String {
    let bytes = tokens.flat_map(|token| match token.checked_sub(256) {
        None => vec![token as u8],
        Some(control) => CONTROLS[control as usize].into(),
    });
    String::from_utf8(bytes.collect()).expect("prompts are text")
}

/// Loads a listener with the template that the reference is.
struct ListenerLoader(Prompts);

impl Loader for ListenerLoader {
    fn estimate(&self, _: &EngineSpec, _: &Path) -> Result<u64> {
        Ok(1)
    }

    fn load(&self, spec: &EngineSpec, _: &Path, _: &CancellationToken) -> Result<Loaded> {
        let text = byte_text_model(CONTROLS, END, &spec.reference);
        let runner = Listener {
            spec: RunnerSpec {
                vocab_size: VOCABULARY,
                context_len: NUM_BLOCKS * BLOCK,
                num_blocks: NUM_BLOCKS,
                max_rows: 512,
                kv_bytes_per_block: 1,
                weight_bytes: 1,
                device: "cpu".to_owned(),
                ..RunnerSpec::default()
            },
            slots: vec![0; NUM_BLOCKS * BLOCK],
            prompts: Arc::clone(&self.0),
        };
        let config = EngineConfig { name: spec.id.clone(), ..EngineConfig::default() };
        let engine = Engine::start(Box::new(runner), config)?;
        let info = ModelInfo { context_len: NUM_BLOCKS * BLOCK, ..ModelInfo::default() };
        Ok(Loaded { engine, text, info })
    }
}

/// A server whose engine `m` listens, with this template.
struct Listening {
    server: Server,
    prompts: Prompts,
}

impl Listening {
    async fn new(template: &str) -> Self {
        let prompts = Prompts::default();
        let loader = Arc::new(ListenerLoader(Arc::clone(&prompts)));
        let server = Server::on(loader, Options::default(), |app| app);
        server.load_from("m", template).await;
        Self { server, prompts }
    }

    /// The prompt that a request makes, or why it makes none.
    async fn prompt(&self, path: &str, body: &Value) -> Result<String, String> {
        let mut body = body.clone();
        body["model"] = "m".into();
        if path == "/v1/messages" {
            body["max_tokens"] = 1.into();
        }
        self.prompts.lock().unwrap().clear();
        let reply = self.server.post(path, body.to_string()).await;
        let heard = self.prompts.lock().unwrap().first().cloned();
        heard.filter(|_| reply.status == 200).ok_or(reply.text)
    }
}

fn question() -> [&'static str; 2] {
    ["What is 2 + 3?", "Add \"1\" <too>."]
}

/// One dialogue with thoughts, calls and their results in each dialect's words.
fn dialects() -> Vec<(&'static str, Value)> {
    let [first, second] = question();
    let schema = json!({"type": "object", "properties": {"x": {"type": "integer"}}});
    let function = json!({"name": "f", "description": "adds", "parameters": schema});
    let tools = json!([{"type": "function", "function": function}]);
    let (id, other) = ("abcdefgh1", "abcdefgh2");
    let call = |id: &str, x: u32| json!({"id": id, "type": "function", "function": {"name": "f", "arguments": format!("{{\"x\": {x}}}")}});
    let result = |id: &str, text: &str| json!({"role": "tool", "tool_call_id": id, "name": "f", "content": text});
    let chat = json!([
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": first},
        {"role": "assistant", "content": "I add.", "reasoning_content": "Hm.",
            "tool_calls": [call(id, 2), call(other, 3)]},
        result(id, "two"),
        result(other, "three"),
        {"role": "assistant", "content": "Five."},
        {"role": "user", "content": second},
    ]);
    let tool_use =
        |id: &str, x: u32| json!({"type": "tool_use", "id": id, "name": "f", "input": {"x": x}});
    let messages = json!([
        {"role": "user", "content": first},
        {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""},
            {"type": "text", "text": "I add."}, tool_use(id, 2), tool_use(other, 3)]},
        {"role": "user", "content": [
            {"type": "tool_result", "tool_use_id": id, "content": "two"},
            {"type": "tool_result", "tool_use_id": other, "content": [{"type": "text", "text": "three"}]}]},
        {"role": "assistant", "content": "Five."},
        {"role": "user", "content": [{"type": "text", "text": second}]},
    ]);
    let item = |id: &str, x: u32| json!({"type": "function_call", "call_id": id, "name": "f", "arguments": format!("{{\"x\": {x}}}")});
    let output = |id: &str, text: &str| json!({"type": "function_call_output", "call_id": id, "output": text});
    let input = json!([
        {"role": "user", "content": first},
        {"type": "reasoning", "summary": [{"type": "summary_text", "text": "Hm."}], "encrypted_content": "x"},
        {"role": "assistant", "content": [{"type": "output_text", "text": "I add."}]},
        item(id, 2), item(other, 3), output(id, "two"), output(other, "three"),
        {"role": "assistant", "content": "Five."},
        {"role": "user", "content": [{"type": "input_text", "text": second}]},
    ]);
    let mut flat = function.clone();
    flat["type"] = "function".into();
    let used = json!([{"name": "f", "description": "adds", "input_schema": schema}]);
    let mut local = chat.clone();
    local[2]["thinking"] = "Hm.".into();
    for (n, x) in [(0, 2), (1, 3)] {
        local[2]["tool_calls"][n]["function"]["arguments"] = json!({"x": x});
        local[3 + n]["tool_name"] = "f".into();
    }
    vec![
        ("/v1/chat/completions", json!({"messages": chat, "tools": tools})),
        ("/v1/inference/chat/completions", json!({"messages": chat, "tools": tools.to_string()})),
        ("/v1/messages", json!({"system": "Be brief.", "messages": messages, "tools": used})),
        ("/v1/responses", json!({"instructions": "Be brief.", "input": input, "tools": [flat]})),
        ("/api/chat", json!({"messages": local, "tools": tools, "stream": false})),
    ]
}

#[tokio::test]
async fn a_conversation_is_one_prompt_in_every_dialect() {
    let mut count = 0;
    for (name, fixture) in fixtures() {
        let listening = Listening::new(fixture["template"].as_str().unwrap()).await;
        let mut prompts = Vec::new();
        for (path, body) in dialects() {
            prompts.push((path, listening.prompt(path, &body).await));
        }
        let (_, first) = &prompts[0];
        for (path, prompt) in &prompts {
            // What a template refuses it refuses in the words of each.
            assert_eq!(prompt.as_ref().ok(), first.as_ref().ok(), "{name} {path}");
        }
        if let Ok(prompt) = first {
            assert!(question().iter().all(|text| prompt.contains(text)), "{name}: {prompt}");
            count += 1;
        }
    }
    assert!(count > 25, "{count} templates rendered it");
}

/// Something to see or to hear, in each dialect's words: alone in the last message, where its path is
/// told; and before it, where it is left out.
fn senses() -> Vec<(&'static str, Value, &'static str)> {
    let png = "iVBORw0KGgo=";
    let chat = |part: Value| json!({"messages": [{"role": "user", "content": [part, {"type": "text", "text": "a"}]}]});
    let message = |part: Value| json!({"messages": [{"role": "user", "content": [{"type": "text", "text": "a"}, part]}]});
    let item = |part: Value| json!({"input": [{"role": "user", "content": [part, {"type": "input_text", "text": "a"}]}]});
    let base64 = |kind: &str, media_type: &str| json!({"type": kind, "source": {"type": "base64", "media_type": media_type, "data": png}});
    let result = json!({"type": "tool_result", "tool_use_id": "t", "content": [base64("image", "image/png")]});
    let output = json!({"input": [{"type": "function_call_output", "call_id": "c",
        "output": [{"type": "input_image", "image_url": "data:image/png;base64,x"}]}]});
    let first = "messages[0].content[0].type";
    vec![
        (
            "/v1/chat/completions",
            chat(
                json!({"type": "image_url", "image_url": {"url": "http://127.0.0.1/", "detail": "low"}}),
            ),
            first,
        ),
        ("/v1/chat/completions", chat(json!({"type": "image_url", "image_url": "data:"})), first),
        (
            "/v1/chat/completions",
            chat(json!({"type": "input_audio", "input_audio": {"data": png, "format": "wav"}})),
            first,
        ),
        ("/v1/chat/completions", chat(json!({"type": "file", "file": {"file_id": "f"}})), first),
        (
            "/apply-template",
            chat(json!({"type": "image_url", "image_url": {"url": "data:"}})),
            first,
        ),
        ("/tokenize", chat(json!({"type": "image_url", "image_url": {"url": "data:"}})), first),
        ("/v1/messages", message(base64("image", "image/png")), "messages[0].content[1].type"),
        (
            "/v1/messages",
            message(json!({"type": "document", "title": "t", "citations": {"enabled": true},
                "source": {"type": "url", "url": "http://127.0.0.1/"}})),
            "messages[0].content[1].type",
        ),
        ("/v1/messages", message(result), "messages[0].content[1].content[0].type"),
        (
            "/v1/messages/count_tokens",
            message(base64("image", "image/png")),
            "messages[0].content[1].type",
        ),
        (
            "/v1/responses",
            item(json!({"type": "input_image", "image_url": "data:", "detail": "auto"})),
            "input[0].content[0].type",
        ),
        (
            "/v1/responses",
            item(json!({"type": "input_file", "filename": "a.pdf", "file_data": "data:"})),
            "input[0].content[0].type",
        ),
        (
            "/v1/responses/input_tokens",
            item(json!({"type": "input_audio", "input_audio": {"data": png, "format": "mp3"}})),
            "input[0].content[0].type",
        ),
        ("/v1/responses", output, "input[0].output[0].type"),
        (
            "/api/chat",
            json!({"stream": false, "messages": [{"role": "user", "content": "a", "images": [png, png]}]}),
            "messages[0].images",
        ),
        ("/api/generate", json!({"stream": false, "prompt": "a", "images": [png]}), "images"),
        ("/api/generate", json!({"stream": false, "images": [png]}), "images"),
    ]
}

#[tokio::test]
async fn what_a_model_cannot_see_is_refused_when_new_and_left_out_when_past() {
    let template = "{% for m in messages %}{{ m.role }}: {{ m.content }}\n{% endfor %}";
    let listening = Listening::new(template).await;
    for (path, mut body, field) in senses() {
        body["model"] = "m".into();
        if path == "/v1/messages" {
            body["max_tokens"] = 1.into();
        }
        let reply = listening.server.post(path, body.to_string()).await;
        assert_eq!(reply.status, 400, "{path} {body}: {}", reply.text);
        let told = reply.text.contains(field) && reply.text.contains("reads text only");
        assert!(told, "{path} {field}: {}", reply.text);
        let Some(list) = ["messages", "input"].into_iter().find(|list| body.get(list).is_some())
        else {
            continue;
        };
        let later = json!({"role": "user", "content": "later"});
        body[list].as_array_mut().unwrap().push(later);
        let reply = listening.server.post(path, body.to_string()).await;
        assert_eq!(reply.status, 200, "{path} {body}: {}", reply.text);
        let told = reply.header("x-kolosal-ignored").unwrap_or_default();
        let place = field.strip_suffix(".type").unwrap_or(field);
        assert!(told.starts_with(&format!("{place} (")), "{path} {field}: {told}");
    }
}
