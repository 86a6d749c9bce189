//! Routes that are not OpenAI's: engines and health, and the text side of a model.

pub(crate) mod engine_request;
pub(crate) mod engine_status;
mod engines;
mod health;
mod inference;
mod inference_request;
mod infill;
mod infill_request;
mod llama_answer;
mod llama_completion;
mod llama_embedding;
mod props;
mod tokens;
mod tokens_request;

pub(crate) use engines::EngineApi;
pub(crate) use health::{HealthApi, ProbeApi};
pub(crate) use inference::InferenceApi;
pub(crate) use inference_request::{InferenceChatRequest, InferenceCompletionRequest};
pub(crate) use infill::InfillApi;
pub(crate) use infill_request::InfillRequest;
pub(crate) use llama_completion::{LlamaCompletionApi, LlamaCompletionRequest};
pub(crate) use llama_embedding::{LlamaEmbeddingApi, LlamaEmbeddingRequest};
use poem_openapi::Tags;
pub(crate) use props::PropsApi;
pub(crate) use tokens::TokenApi;

use super::reply::Outcomes;

/// Headings of the document.
#[derive(Tags)]
pub(crate) enum NativeTag {
    /// The original server's own inference routes.
    Inference,
    /// Register, load, unload and remove engines.
    Engines,
    /// Whether the server lives and serves.
    Health,
    /// Text to tokens and back, and conversations to text.
    Tokens,
    /// Texts that go on, or whose middle is missing, and what there is, in llama-server's form.
    Llama,
}

/// Outcomes of a translation between text and tokens.
pub(crate) struct Translates;

impl Outcomes for Translates {
    const SUCCESS: (u16, &'static str) = (200, "The translation");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 500, 503];
}

/// Outcomes of generating text in llama-server's form.
pub(crate) struct LlamaGenerates;

impl Outcomes for LlamaGenerates {
    const SUCCESS: (u16, &'static str) = (200, "The text; with `stream`, server-sent events");
    const FAILURES: &'static [u16] = &[400, 401, 404, 408, 413, 422, 429, 500, 503, 504];
}

/// Outcomes of registering an engine.
pub(crate) struct Creates;

impl Outcomes for Creates {
    const SUCCESS: (u16, &'static str) = (201, "The engine is registered");
    const FAILURES: &'static [u16] = &[400, 401, 403, 404, 408, 409, 413, 422, 500, 503];
}

/// Outcomes of a change to an engine.
pub(crate) struct Changes;

impl Outcomes for Changes {
    const SUCCESS: (u16, &'static str) = (200, "Done");
    const FAILURES: &'static [u16] = &[400, 401, 403, 404, 409, 422, 500, 503];
}

/// Outcomes of a look at the server as a whole.
pub(crate) struct Probes;

impl Outcomes for Probes {
    const SUCCESS: (u16, &'static str) = (200, "All is well");
    const FAILURES: &'static [u16] = &[500];
}

/// Outcomes of asking whether the server takes requests.
pub(crate) struct ReadyProbes;

impl Outcomes for ReadyProbes {
    const SUCCESS: (u16, &'static str) = (200, "The server takes requests");
    const FAILURES: &'static [u16] = &[500, 503];
}
