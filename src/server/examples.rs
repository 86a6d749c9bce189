//! Examples of requests, for the document: one for each body that a client may send.

use serde_json::{Value, json};

/// Method, path as the routes have it, and the request.
pub(crate) fn request_examples() -> Vec<(&'static str, &'static str, Value)> {
    let mut examples = openai();
    examples.extend(others());
    examples.extend(ollama());
    examples
}

fn messages() -> Value {
    json!([{ "role": "user", "content": "Say hello." }])
}

fn openai() -> Vec<(&'static str, &'static str, Value)> {
    let chat = json!({ "model": "my-model", "messages": messages(), "max_completion_tokens": 32 });
    vec![
        ("post", "/chat/completions", chat.clone()),
        ("post", "/chat/completions/input_tokens", chat),
        (
            "post",
            "/responses",
            json!({
                "model": "my-model",
                "instructions": "Answer in one sentence.",
                "input": "Say hello.",
                "max_output_tokens": 32,
            }),
        ),
        (
            "post",
            "/conversations",
            json!({ "items": [{ "role": "user", "content": "Say hello." }] }),
        ),
        ("post", "/conversations/{conversation_id}", json!({ "metadata": { "topic": "cats" } })),
        (
            "post",
            "/conversations/{conversation_id}/items",
            json!({ "items": [{ "role": "user", "content": "Say hello." }] }),
        ),
        ("post", "/responses/input_tokens", json!({ "model": "my-model", "input": "Say hello." })),
        (
            "post",
            "/completions",
            json!({ "model": "my-model", "prompt": "Once upon a time", "max_tokens": 32 }),
        ),
        (
            "post",
            "/embeddings",
            json!({ "model": "my-model", "input": ["The cat sleeps.", "A kitten naps."] }),
        ),
    ]
}

fn others() -> Vec<(&'static str, &'static str, Value)> {
    vec![
        (
            "post",
            "/messages",
            json!({ "model": "my-model", "max_tokens": 32, "messages": messages() }),
        ),
        ("post", "/messages/count_tokens", json!({ "model": "my-model", "messages": messages() })),
        (
            "post",
            "/inference/completions",
            json!({ "model": "my-model", "prompt": "Once upon a time", "maxNewTokens": 32 }),
        ),
        (
            "post",
            "/inference/chat/completions",
            json!({ "model": "my-model", "messages": messages(), "maxNewTokens": 32 }),
        ),
        (
            "post",
            "/rerank",
            json!({
                "model": "my-model",
                "query": "What do cats do?",
                "documents": ["The cat sleeps.", "Rain falls."],
                "top_n": 1,
            }),
        ),
        (
            "post",
            "/infill",
            json!({
                "model": "my-model",
                "input_prefix": "def one():\n    return",
                "input_suffix": "\n\nprint(one())",
                "n_predict": 16,
            }),
        ),
        (
            "post",
            "/completion",
            json!({ "model": "my-model", "prompt": "Once upon a time", "n_predict": 16 }),
        ),
        ("post", "/embedding", json!({ "model": "my-model", "content": "The cat sleeps." })),
        (
            "post",
            "/score",
            json!({ "model": "my-model", "text_1": "A cat.", "text_2": ["A kitten.", "Rain."] }),
        ),
        ("post", "/tokenize", json!({ "model": "my-model", "content": "Hello world" })),
        ("post", "/detokenize", json!({ "model": "my-model", "tokens": [11, 12] })),
        ("post", "/apply-template", json!({ "model": "my-model", "messages": messages() })),
        (
            "post",
            "/engines",
            json!({
                "engine_id": "my-other-model",
                "model_path": "/models/my-other-model.Q4_K_M.gguf",
                "load_immediately": false,
                "loading_parameters": { "n_ctx": 4096 },
            }),
        ),
    ]
}

fn ollama() -> Vec<(&'static str, &'static str, Value)> {
    let prompt = "Once upon a time";
    let options = json!({ "num_predict": 32 });
    vec![
        (
            "post",
            "/api/chat",
            json!({ "model": "my-model", "messages": messages(), "options": options }),
        ),
        (
            "post",
            "/api/generate",
            json!({ "model": "my-model", "prompt": prompt, "options": options }),
        ),
        ("post", "/api/embed", json!({ "model": "my-model", "input": "The cat sleeps." })),
        ("post", "/api/embeddings", json!({ "model": "my-model", "prompt": "The cat sleeps." })),
        ("post", "/api/show", json!({ "model": "my-model" })),
        ("post", "/api/pull", json!({ "model": "smollm2:135m" })),
        (
            "post",
            "/api/create",
            json!({ "model": "my-cat", "from": "my-model", "system": "You are a cat." }),
        ),
        ("post", "/api/copy", json!({ "source": "my-model", "destination": "my-copy" })),
        ("delete", "/api/delete", json!({ "model": "my-copy" })),
    ]
}
