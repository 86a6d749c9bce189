//! Routes of other servers that this one does not have: what to use in their place.

/// Beginning of a path without `/v1`, and the sentence for it.
const ABSENT: [(&str, &str); 29] = [
    (
        "/moderations",
        "there is no moderation; ask a chat model for a verdict, with `response_format`",
    ),
    ("/images", "images are not made here; this server answers in text"),
    ("/videos", "videos are not made here; this server answers in text"),
    ("/audio", "speech is neither made nor read here; this server reads and answers in text"),
    (
        "/realtime",
        "there are no realtime sessions; use /v1/responses or /v1/chat/completions with `stream`",
    ),
    ("/files", "files are not kept; put their text into the messages of a request"),
    ("/uploads", "files are not kept; put their text into the messages of a request"),
    (
        "/batches",
        "there are no batches; send the requests to their own routes, as many at once as you like",
    ),
    (
        "/messages/batches",
        "there are no batches; send the messages to /v1/messages, as many at once as you like",
    ),
    (
        "/fine_tuning",
        "models are not trained here; train elsewhere and serve the file with POST /engines",
    ),
    (
        "/fine-tunes",
        "models are not trained here; train elsewhere and serve the file with POST /engines",
    ),
    ("/evals", "there are no evaluations; use /v1/chat/completions"),
    ("/assistants", "there are no assistants; use /v1/responses, which keeps what was said"),
    ("/threads", "there are no threads; use /v1/responses, which keeps what was said"),
    ("/vector_stores", "there are no vector stores; use /v1/embeddings and /v1/rerank"),
    ("/containers", "programs are not run here; give the model a function and run what it calls"),
    ("/edits", "use /v1/chat/completions with the text and the instruction"),
    ("/complete", "use /v1/messages"),
    ("/organization", "there are no organizations; keys are in the server's configuration"),
    ("/load_lora_adapter", "adapters are not loaded; merge them into a model"),
    ("/unload_lora_adapter", "adapters are not loaded; merge them into a model"),
    ("/lora-adapters", "adapters are not loaded; merge them into a model"),
    ("/metrics", "there are no metrics; GET /engines/{engine_id}/status has an engine's numbers"),
    ("/pooling", "use /v1/embeddings or /v1/rerank"),
    ("/classify", "use /v1/rerank, or /v1/chat/completions with `structured_outputs.choice`"),
    ("/generate", "use /v1/completions, or /api/generate in Ollama's form"),
    ("/api/push", "models are not published from here"),
    ("/api/blobs", "files are not taken over HTTP; name the model in /api/pull or POST /engines"),
    ("/api/v0", "use /v1/models, /v1/chat/completions, /v1/completions and /v1/embeddings"),
];

/// What to use in place of a path that this server does not have; `None`: it is nobody's that is known.
pub(super) fn instead_of(path: &str) -> Option<&'static str> {
    let path = path.strip_prefix("/v1").filter(|rest| rest.starts_with('/')).unwrap_or(path);
    let is_below = |begin: &str| {
        path.strip_prefix(begin).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    ABSENT.iter().find(|(begin, _)| is_below(begin)).map(|(_, sentence)| *sentence)
}
