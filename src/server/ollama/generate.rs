//! `/api/chat`, `/api/generate` and `/api/embed`.

use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::{
    Generates, OllamaTag,
    answer::{
        Dress, OllamaChatAnswer, OllamaGenerateAnswer, OllamaRender, elapsed, nanos, nothing,
    },
    embed_request::{OllamaEmbedRequest, OllamaEmbeddingsRequest},
    models::engine_id,
    request::{Asked, OllamaChatRequest, OllamaGenerateRequest, OllamaOptions},
};
use crate::{
    chat::embedding::{EmbedForm, EmbedInput, Embeddings},
    error::Result,
    registry::KeepAlive,
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{Body, Desk, Seat, Served},
        lines::Lines,
        reply::{Answer, Content, Reply},
        span::Span,
    },
};

/// One object, or one a line.
type OllamaBody<T> = Served<Json<T>, Lines<T>>;

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
    ) -> Answer<Content<OllamaBody<OllamaChatAnswer>>, Generates> {
        Ok(Reply::new(Content(self.answer(&caller, request.0.into_asked()?).await?)))
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
    ) -> Answer<Content<OllamaBody<OllamaGenerateAnswer>>, Generates> {
        Ok(Reply::new(Content(self.answer(&caller, request.0.into_asked()?).await?)))
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
        let (inputs, request) = (request.0.inputs(), request.0);
        let options = request.options();
        let asked = Embedding {
            model: &request.model,
            inputs,
            options,
            keep_alive: request.keep_alive.as_ref(),
            form: EmbedForm {
                dimensions: request.dimensions.map(|count| count as usize),
                max_tokens: None,
            },
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
            form: EmbedForm::default(),
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
    form: EmbedForm,
}

impl OllamaApi {
    /// Gets the engine that a client's name for it means, and tells how large its context is if that is
    /// not what was wanted.
    async fn seat(&self, desk: &Desk<'_>, model: &str, options: &OllamaOptions) -> Result<Seat> {
        let seat = desk.seat(Some(&engine_id(&self.0, model).await)).await?;
        desk.tell(options.context_note(seat.lease.engine.spec().context_len).as_slice());
        Ok(seat)
    }

    /// Vectors, and how long loading and all of it took in nanoseconds.
    async fn embedded(
        &self,
        caller: &Caller,
        asked: Embedding<'_>,
    ) -> Result<(Embeddings, u64, u64)> {
        let began = Instant::now();
        let keep_alive = asked.keep_alive.map(Span::keep_alive).transpose()?;
        let desk = Desk::new(&self.0, caller);
        let seat = self.seat(&desk, asked.model, &asked.options).await?;
        let embedded = desk.embed(&seat, asked.inputs, asked.form).await?;
        // A request that is refused changes nothing.
        if let Some(keep_alive) = keep_alive {
            seat.lease.set_idle_timeout(keep_alive);
        }
        Ok((embedded, nanos(seat.taken - began), elapsed(began)))
    }

    async fn answer<T: Dress>(&self, caller: &Caller, asked: Asked) -> Result<OllamaBody<T>> {
        let began = Instant::now();
        let Asked { model, is_stream, keep_alive, options, ask } = asked;
        let desk = Desk::new(&self.0, caller);
        if let Some(ask) = ask {
            let seat = self.seat(&desk, &model, &options).await?;
            let render = |begun: &_| OllamaRender::new(model, began, begun);
            let served = desk.serve_at(seat, ask, render).await?;
            return Ok(served.lines(&self.0.drain));
        }
        let unloads = keep_alive == Some(KeepAlive::After(Duration::ZERO));
        if unloads {
            self.0.registry.unload(&engine_id(&self.0, &model).await).await?;
        } else {
            let seat = self.seat(&desk, &model, &options).await?;
            if let Some(keep_alive) = keep_alive {
                seat.lease.set_idle_timeout(keep_alive);
            }
        }
        let last = nothing(&model, unloads, began);
        let served = if is_stream {
            Served::Stream(futures_util::stream::iter([Ok(last)]).boxed())
        } else {
            Served::Whole(last)
        };
        Ok(served.lines(&self.0.drain))
    }
}
