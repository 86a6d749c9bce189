//! `/api/chat`, `/api/generate` and `/api/embed`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use poem::web::Data;
use poem_openapi::{Object, OpenApi, ResponseContent};
use serde::Serialize;

use super::{
    Generates, OllamaTag,
    answer::{Answering, Dress, OllamaChatAnswer, OllamaGenerateAnswer, elapsed, nothing},
    models::engine_id,
    request::{
        Asked, OllamaChatRequest, OllamaEmbedRequest, OllamaEmbeddingsRequest,
        OllamaGenerateRequest, OllamaOptions,
    },
};
use crate::{
    chat::{
        embedding::{EmbedInput, Embeddings, embed},
        generation::generate,
    },
    error::Result,
    registry::KeepAlive,
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::Body,
        drain::Drain,
        lease::lease,
        lines::Lines,
        reply::{Answer, Content, Reply},
        span::Span,
    },
};

/// One object, or one a line.
#[derive(ResponseContent)]
pub(crate) enum ChatBody {
    Full(Json<OllamaChatAnswer>),
    Stream(Lines<OllamaChatAnswer>),
}

/// One object, or one a line.
#[derive(ResponseContent)]
pub(crate) enum GenerateBody {
    Full(Json<OllamaGenerateAnswer>),
    Stream(Lines<OllamaGenerateAnswer>),
}

/// Embeddings in the order of the inputs.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaEmbeddings {
    pub model: String,
    /// Vectors of length one.
    pub embeddings: Vec<Vec<f32>>,
    /// In nanoseconds.
    pub total_duration: u64,
    /// In nanoseconds.
    pub load_duration: u64,
    /// Tokens of all inputs.
    pub prompt_eval_count: u32,
}

/// One embedding.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct OllamaEmbedding {
    /// A vector of length one.
    pub embedding: Vec<f32>,
}

/// The routes that compute.
pub(crate) struct OllamaApi(pub Arc<AppState>);

#[OpenApi]
impl OllamaApi {
    /// Answer a conversation, as Ollama does
    #[oai(
        path = "/api/chat",
        method = "post",
        operation_id = "ollamaChat",
        tag = "OllamaTag::Ollama"
    )]
    async fn chat(
        &self,
        caller: Data<&Caller>,
        request: Body<OllamaChatRequest>,
    ) -> Answer<Content<ChatBody>, Generates> {
        let body = match self.answer(&caller, request.0.into_asked()?).await? {
            Answered::Full(answer) => ChatBody::Full(Json(answer)),
            Answered::Stream(lines) => ChatBody::Stream(lines),
        };
        Ok(Reply::new(Content(body)))
    }

    /// Answer or continue a prompt, as Ollama does
    #[oai(
        path = "/api/generate",
        method = "post",
        operation_id = "ollamaGenerate",
        tag = "OllamaTag::Ollama"
    )]
    async fn generate(
        &self,
        caller: Data<&Caller>,
        request: Body<OllamaGenerateRequest>,
    ) -> Answer<Content<GenerateBody>, Generates> {
        let body = match self.answer(&caller, request.0.into_asked()?).await? {
            Answered::Full(answer) => GenerateBody::Full(Json(answer)),
            Answered::Stream(lines) => GenerateBody::Stream(lines),
        };
        Ok(Reply::new(Content(body)))
    }

    /// Embed texts, as Ollama does
    #[oai(
        path = "/api/embed",
        method = "post",
        operation_id = "ollamaEmbed",
        tag = "OllamaTag::Ollama"
    )]
    async fn embed(
        &self,
        caller: Data<&Caller>,
        request: Body<OllamaEmbedRequest>,
    ) -> Answer<Json<OllamaEmbeddings>, Generates> {
        let (inputs, request) = (request.0.inputs()?, request.0);
        let options = request.options();
        let asked = Embedding {
            model: &request.model,
            inputs,
            options,
            keep_alive: request.keep_alive.as_ref(),
            dimensions: request.dimensions.map(|count| count as usize),
        };
        let (embedded, load_duration, total_duration) = self.embedded(&caller, asked).await?;
        Ok(Reply::new(Json(OllamaEmbeddings {
            model: request.model,
            embeddings: embedded.vectors,
            total_duration,
            load_duration,
            prompt_eval_count: embedded.prompt_tokens,
        })))
    }

    /// Embed one text, as Ollama's older route does
    #[oai(
        path = "/api/embeddings",
        method = "post",
        operation_id = "ollamaEmbeddings",
        tag = "OllamaTag::Ollama"
    )]
    async fn embed_one(
        &self,
        caller: Data<&Caller>,
        request: Json<OllamaEmbeddingsRequest>,
    ) -> Answer<Json<OllamaEmbedding>, Generates> {
        let request = request.0;
        let asked = Embedding {
            model: &request.model,
            inputs: vec![EmbedInput::Text(request.prompt.clone())],
            options: request.options(),
            keep_alive: request.keep_alive.as_ref(),
            dimensions: None,
        };
        let (embedded, ..) = self.embedded(&caller, asked).await?;
        let embedding = embedded.vectors.into_iter().next().unwrap_or_default();
        Ok(Reply::new(Json(OllamaEmbedding { embedding })))
    }
}

/// Texts to embed.
struct Embedding<'a> {
    model: &'a str,
    inputs: Vec<EmbedInput>,
    options: OllamaOptions,
    keep_alive: Option<&'a Span>,
    dimensions: Option<usize>,
}

/// An answer in either form.
enum Answered<T> {
    Full(T),
    Stream(Lines<T>),
}

impl OllamaApi {
    /// Vectors, and how long loading and all of it took in nanoseconds.
    async fn embedded(
        &self,
        caller: &Caller,
        asked: Embedding<'_>,
    ) -> Result<(Embeddings, u64, u64)> {
        let began = Instant::now();
        let keep_alive = asked.keep_alive.map(Span::keep_alive).transpose()?;
        let lease = lease(&self.0, &engine_id(&self.0, asked.model).await).await?;
        let lease = lease.of(caller.tenant());
        let load_duration = elapsed(began);
        caller.tell(asked.options.context_note(lease.engine.spec().context_len).as_slice());
        let embedded = tokio::select! {
            biased;
            embedded = embed(&lease.text, &lease.engine, asked.inputs, asked.dimensions) => embedded?,
            () = self.0.drain.expired() => return Err(Drain::error()),
        };
        // A request that is refused changes nothing.
        if let Some(keep_alive) = keep_alive {
            lease.set_idle_timeout(keep_alive);
        }
        Ok((embedded, load_duration, elapsed(began)))
    }

    async fn answer<T: Dress>(&self, caller: &Caller, asked: Asked) -> Result<Answered<T>> {
        let began = Instant::now();
        let Asked { model, is_stream, keep_alive, options, generation } = asked;
        let id = engine_id(&self.0, &model).await;
        let unloads = keep_alive == Some(KeepAlive::After(Duration::ZERO));
        let drain = self.0.drain.clone();
        let Some(request) = generation else {
            if unloads {
                self.0.registry.unload(&id).await?;
            } else {
                let lease = lease(&self.0, &id).await?;
                caller.tell(options.context_note(lease.engine.spec().context_len).as_slice());
                if let Some(keep_alive) = keep_alive {
                    lease.set_idle_timeout(keep_alive);
                }
            }
            let last = nothing(&model, unloads, began);
            return Ok(if is_stream {
                Answered::Stream(Lines::new(futures_util::stream::iter([Ok(last)]), drain))
            } else {
                Answered::Full(last)
            });
        };
        let lease = lease(&self.0, &id).await?.of(caller.tenant());
        let load_duration = elapsed(began);
        caller.tell(options.context_note(lease.engine.spec().context_len).as_slice());
        let generation = tokio::select! {
            biased;
            started = generate(&lease.text, &lease.engine, request) => started?,
            () = drain.expired() => return Err(Drain::error()),
        };
        caller.tell(generation.notes());
        // A request that is refused changes nothing.
        if let Some(keep_alive) = keep_alive {
            lease.set_idle_timeout(keep_alive);
        }
        let running = (generation, lease);
        let answering =
            Answering { model, running, calls: Vec::new(), num_shown: 0, began, load_duration };
        if is_stream {
            return Ok(Answered::Stream(Lines::new(answering.stream(), drain)));
        }
        tokio::select! {
            biased;
            answer = answering.collect() => answer.map(Answered::Full),
            () = drain.expired() => Err(Drain::error()),
        }
    }
}
