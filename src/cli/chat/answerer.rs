//! Who answers: a model in this process, or a server that runs.

use std::sync::Arc;
use std::time::Duration;

use reqwest::{Client, RequestBuilder, Response};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::chat::generation::{Beat, BlockKind, End, FinishReason, generate};
use crate::cli::App;
use crate::cli::args::RunArgs;
use crate::cli::assembly::{self, Caller};
use crate::cli::client::{base_url, key};
use crate::cli::failure::{Failure, Outcome};
use crate::config::ModelConfig;
use crate::hub::{client_builder, describe};
use crate::registry::{Loaded, Loader};
use crate::server;

/// Longest wait for a server that may not be there.
const LOOK_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes of an event that a server sends at most.
const MAX_EVENT_BYTES: usize = 16 << 20;

/// What an answer was and what it took.
#[derive(Clone, Debug, Default)]
pub(super) struct Answered {
    /// Without thoughts.
    pub(super) text: String,
    pub(super) finish_reason: String,
    pub(super) prompt_tokens: u64,
    pub(super) cached_tokens: u64,
    pub(super) completion_tokens: u64,
    pub(super) prompt_ms: f64,
    pub(super) ttft_ms: Option<f64>,
    pub(super) decode_ms: f64,
}

/// Who answers.
pub(super) enum Answerer {
    Here(Box<Loaded>),
    There(Remote),
}

/// A server.
pub(super) struct Remote {
    client: Client,
    url: String,
    key: Option<String>,
    /// The name of the engine there.
    model: String,
}

/// What is done with each piece of an answer.
pub(super) type Told<'a> = &'a mut (dyn FnMut(&str) -> Outcome + Send);

impl Answerer {
    /// A server that has the model, or the model itself.
    ///
    /// # Errors
    /// There is neither.
    pub(super) async fn find(app: &App, args: &RunArgs) -> Outcome<Self> {
        let says_how_to_run = args.local || !args.compute.is_empty();
        if !says_how_to_run && let Some(remote) = Remote::find(app, args).await? {
            app.out.note(format!("{} answers at {}", remote.model, remote.url));
            return Ok(Self::There(remote));
        }
        load(app, args).await.map(|loaded| Self::Here(Box::new(loaded)))
    }

    /// Sends a request and tells the answer as it comes.
    ///
    /// # Errors
    /// The request is refused, or the answer fails.
    pub(super) async fn answer(&self, body: Value, told: Told<'_>) -> Outcome<Answered> {
        match self {
            Self::Here(loaded) => here(loaded, &body, told).await,
            Self::There(remote) => remote.answer(body, told).await,
        }
    }
}

async fn load(app: &App, args: &RunArgs) -> Outcome<Loaded> {
    let mut config = app.configure_quietly()?;
    config.engine.n_parallel = 1;
    if let Some(threads) = args.compute.threads {
        config.engine.threads = threads;
    }
    if let Some(list) = &args.compute.cpu_affinity {
        config.engine.cpu_affinity = Some(list.text.clone());
    }
    let model = ModelConfig {
        reference: args.model.clone(),
        n_ctx: args.compute.n_ctx,
        quantize: args.compute.quantize.map(|target| target.name().to_owned()),
        ..ModelConfig::default()
    };
    let spec = assembly::engine_spec(&model, &config.engine).map_err(Failure::usage)?;
    let hub = Arc::new(assembly::hub(&config, Caller::Person)?);
    let loader = assembly::loader(&config, hub, assembly::progress(app.out.quiet));
    let path = loader.locate(&spec).await?;
    let load = move || loader.load(&spec, &path, &CancellationToken::new());
    let loading = tokio::task::spawn_blocking(load);
    let loaded = loading.await.map_err(Failure::failed)?.map_err(Failure::from)?;
    loaded.info.warnings.iter().for_each(|text| app.out.note(text));
    Ok(loaded)
}

async fn here(loaded: &Loaded, body: &Value, told: Told<'_>) -> Outcome<Answered> {
    let request = server::read_chat(body)?;
    let mut generation = generate(&loaded.text, &loaded.engine, request).await?;
    let mut answered = Answered::default();
    while let Some(step) = generation.next().await {
        for beat in step.beats {
            match beat {
                Beat::Progress { .. } | Beat::Open(_) | Beat::Close { .. } => {}
                Beat::Piece(piece) => {
                    told(&piece.text)?;
                    if piece.kind == BlockKind::Text {
                        answered.text.push_str(&piece.text);
                    }
                }
                Beat::End(end) => answered.ended(&end),
                Beat::Failed(error) => return Err(error.into()),
            }
        }
    }
    Ok(answered)
}

impl Answered {
    fn ended(&mut self, end: &End) {
        let reason = match end.reason {
            FinishReason::Stop => "stop",
            FinishReason::ToolCalls => "tool_calls",
            FinishReason::Length => "length",
            FinishReason::Cancelled => "cancelled",
        };
        reason.clone_into(&mut self.finish_reason);
        self.prompt_tokens = end.usage.prompt_tokens.into();
        self.cached_tokens = end.usage.cached_tokens.into();
        self.completion_tokens = end.usage.completion_tokens.into();
        self.prompt_ms = end.timings.prefill_ms;
        self.ttft_ms = Some(end.timings.ttft_ms);
        self.decode_ms = end.timings.decode_ms;
    }

    /// What a chunk of a stream says beside its text.
    fn told_by(&mut self, chunk: &Value) {
        if let Some(reason) = chunk["choices"][0]["finish_reason"].as_str() {
            reason.clone_into(&mut self.finish_reason);
        }
        if let Some(timings) = chunk.get("timings").filter(|timings| timings.is_object()) {
            let count = |name: &str| timings[name].as_u64().unwrap_or_default();
            self.cached_tokens = count("cache_n");
            self.prompt_tokens = count("prompt_n") + self.cached_tokens;
            self.completion_tokens = count("predicted_n");
            self.prompt_ms = timings["prompt_ms"].as_f64().unwrap_or_default();
            self.decode_ms = timings["predicted_ms"].as_f64().unwrap_or_default();
        }
    }

    /// Tokens and times in a line.
    pub(super) fn summary(&self) -> String {
        let read = self.prompt_tokens.saturating_sub(self.cached_tokens);
        let rate = |count: u64, ms: f64| if ms > 0.0 { count as f64 / ms * 1e3 } else { 0.0 };
        let first = self.ttft_ms.map(|ms| format!(", first token after {:.2} s", ms / 1e3));
        format!(
            "prompt: {} tokens, {} of them cached, {:.2} s, {:.1} tokens/s; answer: {} tokens, {:.2} s, \
             {:.1} tokens/s{}",
            self.prompt_tokens,
            self.cached_tokens,
            self.prompt_ms / 1e3,
            rate(read, self.prompt_ms),
            self.completion_tokens,
            self.decode_ms / 1e3,
            rate(self.completion_tokens, self.decode_ms),
            first.unwrap_or_default(),
        )
    }
}

impl Remote {
    /// The server of the configuration, if it runs and has the model. One that was named must.
    async fn find(app: &App, args: &RunArgs) -> Outcome<Option<Self>> {
        let config = app.configure_quietly()?;
        let url = base_url(&args.client, &config);
        let is_named = args.client.url.is_some();
        let client = client_builder().connect_timeout(LOOK_TIMEOUT).no_proxy().build();
        let client = client.map_err(Failure::failed)?;
        let key = key(&args.client, &config)?;
        let mut remote = Self { client, url, key, model: String::new() };
        let engines = match remote.engines().await {
            Ok(engines) => engines,
            Err(failure) if is_named => return Err(failure),
            Err(_) => return Ok(None),
        };
        let names = |engine: &Value| {
            ["engine_id", "model_path"].into_iter().any(|key| engine[key] == *args.model)
        };
        if let Some(engine) = engines.iter().find(|engine| names(engine)) {
            engine["engine_id"].as_str().unwrap_or_default().clone_into(&mut remote.model);
            return Ok(Some(remote));
        }
        if !is_named {
            return Ok(None);
        }
        let ids: Vec<_> =
            engines.iter().filter_map(|engine| engine["engine_id"].as_str()).collect();
        let ids = if ids.is_empty() { "none".to_owned() } else { ids.join(", ") };
        let (model, url) = (&args.model, &remote.url);
        Err(Failure::failed(format!("the server at {url} has no model {model}; it has {ids}")))
    }

    async fn engines(&self) -> Outcome<Vec<Value>> {
        let request = self.client.get(format!("{}/engines", self.url)).timeout(LOOK_TIMEOUT);
        let response = self.send(request).await?;
        let text = response.text().await.map_err(|error| self.unreachable(&error))?;
        let body: Value = serde_json::from_str(&text).unwrap_or_default();
        Ok(body["engines"].as_array().cloned().unwrap_or_default())
    }

    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        Failure::Unavailable(format!("no server answers at {}: {}", self.url, describe(error)))
    }

    async fn send(&self, mut request: RequestBuilder) -> Outcome<Response> {
        if let Some(key) = &self.key {
            request = request.bearer_auth(key);
        }
        let response = request.send().await.map_err(|error| self.unreachable(&error))?;
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let body: Value =
            serde_json::from_str(&response.text().await.unwrap_or_default()).unwrap_or_default();
        let said = body.pointer("/error/message").and_then(Value::as_str);
        Err(Failure::failed(format!("{status}: {}", said.unwrap_or("no message"))))
    }

    async fn answer(&self, mut body: Value, told: Told<'_>) -> Outcome<Answered> {
        body["model"] = self.model.clone().into();
        body["stream"] = true.into();
        let url = format!("{}/v1/chat/completions", self.url);
        let request = self.client.post(url).header("content-type", "application/json");
        let mut response = self.send(request.body(body.to_string())).await?;
        let mut answered = Answered::default();
        let mut bytes = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|error| self.unreachable(&error))? {
            bytes.extend_from_slice(&chunk);
            while let Some(end) = bytes.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = bytes.drain(..=end).collect();
                take_line(&line, &mut answered, told)?;
            }
            if bytes.len() > MAX_EVENT_BYTES {
                return Err(Failure::failed("the server sent an event without an end"));
            }
        }
        Ok(answered)
    }
}

/// Takes one line of server-sent events.
fn take_line(line: &[u8], answered: &mut Answered, told: Told<'_>) -> Outcome {
    let Some(data) = line.strip_prefix(b"data: ") else { return Ok(()) };
    let Ok(chunk) = serde_json::from_slice::<Value>(data) else { return Ok(()) };
    if let Some(error) = chunk.get("error") {
        let said = error["message"].as_str().unwrap_or("the answer failed");
        return Err(Failure::failed(said));
    }
    let delta = &chunk["choices"][0]["delta"];
    if let Some(thought) = delta["reasoning_content"].as_str() {
        told(thought)?;
    }
    if let Some(text) = delta["content"].as_str() {
        told(text)?;
        answered.text.push_str(text);
    }
    answered.told_by(&chunk);
    Ok(())
}

/// The answer as data.
pub(super) fn as_json(answered: &Answered) -> Value {
    json!({
        "text": answered.text,
        "finish_reason": answered.finish_reason,
        "prompt_tokens": answered.prompt_tokens,
        "completion_tokens": answered.completion_tokens,
        "ttft_ms": answered.ttft_ms,
        "decode_ms": answered.decode_ms,
    })
}
