//! `POST /infill`, in llama-server's form: a text whose middle is to be filled in.

use std::{sync::Arc, time::Instant};

use futures_util::{Stream, StreamExt};
use poem::web::Data;
use poem_openapi::{Object, OpenApi, ResponseContent};
use serde::Serialize;

use super::{Infills, NativeTag, infill_request::InfillRequest};
use crate::{
    chat::generation::{
        Collected, FinishReason, Finished, Output, TextLogprobs, TokenText, generate,
    },
    engine::LogprobsOf,
    error::{Error, Result},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{Body, Extras},
        drain::Drain,
        lease::lease_named_or_only,
        openai::{
            PromptLogprobs, PromptProgress, Running, Timings, finite, progress, prompt_logprobs,
        },
        reply::{Answer, Content, Reply},
        schema::wire_enum,
        sse::{Event, Events},
    },
};

wire_enum! {
    /// Why a text ends.
    pub(crate) enum StopType {
        /// It goes on.
        None = "none",
        /// The model's end token.
        Eos = "eos",
        /// As many tokens or as much time as was allowed.
        Limit = "limit",
        /// A stop string.
        Word = "word",
    }
}

/// How likely a token was, and which ones were likeliest in its place.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct TokenProbability {
    pub id: u32,
    pub token: String,
    /// The token's bytes; a token may be a part of a character.
    pub bytes: Vec<u8>,
    /// Natural logarithm; without `post_sampling_probs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f32>,
    /// With `post_sampling_probs`, the probability that the token was drawn by.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prob: Option<f32>,
    /// Likeliest first; without `post_sampling_probs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_logprobs: Option<Vec<TopProbability>>,
    /// Likeliest first; with `post_sampling_probs`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub top_probs: Option<Vec<TopProbability>>,
}

/// A token that could have stood there.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct TopProbability {
    pub id: u32,
    pub token: String,
    pub bytes: Vec<u8>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub logprob: Option<f32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prob: Option<f32>,
}

fn probabilities(tokens: &[TextLogprobs], of: LogprobsOf) -> Vec<TokenProbability> {
    let is_drawn = of == LogprobsOf::Draw;
    let log = |logprob: f32| (!is_drawn).then(|| finite(logprob));
    let plain = |logprob: f32| is_drawn.then(|| logprob.exp());
    let top = |(token, logprob): &(TokenText, f32)| TopProbability {
        id: token.id,
        token: token.text.clone(),
        bytes: token.bytes.clone(),
        logprob: log(*logprob),
        prob: plain(*logprob),
    };
    let token = |token: &TextLogprobs| {
        let all: Vec<_> = token.top.iter().map(top).collect();
        let (top_logprobs, top_probs) =
            if is_drawn { (None, Some(all)) } else { (Some(all), None) };
        TokenProbability {
            id: token.token.id,
            token: token.token.text.clone(),
            bytes: token.token.bytes.clone(),
            logprob: token.logprob.and_then(log),
            prob: token.logprob.and_then(plain),
            top_logprobs,
            top_probs,
        }
    };
    tokens.iter().map(token).collect()
}

/// The text for the gap, or a piece of it.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct InfillAnswer {
    /// Always 0: there is one text.
    pub index: u32,
    pub content: String,
    /// With `return_tokens`: ids of the tokens, else empty.
    pub tokens: Vec<u32>,
    /// Whether this is the end.
    pub stop: bool,
    pub model: String,
    pub stop_type: StopType,
    /// The stop string that ended the text.
    pub stopping_word: String,
    /// Tokens generated so far.
    pub tokens_predicted: u32,
    /// Tokens of the prompt.
    pub tokens_evaluated: u32,
    /// Of them, taken from the prefix cache.
    pub tokens_cached: u32,
    /// Always false: a prompt is never cut.
    pub truncated: bool,
    /// With `n_probs`, one for each token of the text.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_probabilities: Option<Vec<TokenProbability>>,
    /// With `prompt_logprobs`: by token id, for each token of the prompt; null for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// At the end; with `timings_per_token` in each piece.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// With `return_progress`, before the text begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<PromptProgress>,
}

impl Event for InfillAnswer {
    /// The last piece says so itself.
    const END: &'static [u8] = b"";
}

/// One object, or a stream of pieces.
#[derive(ResponseContent)]
#[expect(clippy::large_enum_variant, reason = "moved once an answer, never kept")]
pub(crate) enum InfillBody {
    Full(Json<InfillAnswer>),
    Stream(Events<InfillAnswer>),
}

/// A text that is being filled in.
struct Filling {
    model: String,
    running: Running,
    extras: Extras,
    /// Which probabilities are wanted.
    probabilities: Option<LogprobsOf>,
    began: Instant,
}

impl Filling {
    fn piece(&self) -> InfillAnswer {
        let usage = self.running.generation.usage();
        InfillAnswer {
            index: 0,
            content: String::new(),
            tokens: Vec::new(),
            stop: false,
            model: self.model.clone(),
            stop_type: StopType::None,
            stopping_word: String::new(),
            tokens_predicted: usage.completion_tokens,
            tokens_evaluated: usage.prompt_tokens,
            tokens_cached: usage.cached_tokens,
            truncated: false,
            completion_probabilities: None,
            prompt_logprobs: None,
            timings: self.extras.timings.then(|| self.running.timings()),
            prompt_progress: None,
        }
    }

    fn translate(&self, output: Output) -> Option<Result<InfillAnswer>> {
        let piece = self.piece();
        Some(Ok(match output {
            Output::Delta(delta) => {
                let tokens = if self.extras.tokens { delta.tokens } else { Vec::new() };
                let all = self.probabilities.map(|of| probabilities(&delta.logprobs, of));
                let completion_probabilities = all.filter(|all| !all.is_empty());
                InfillAnswer { content: delta.text, tokens, completion_probabilities, ..piece }
            }
            Output::Finished(Finished { reason, stop_string, .. }) => InfillAnswer {
                stop: true,
                stop_type: stop_type(reason, stop_string.as_ref()),
                stopping_word: stop_string.unwrap_or_default(),
                timings: Some(self.running.timings()),
                ..piece
            },
            Output::Prefill { processed, cached, total, .. } if self.extras.progress => {
                let progress = progress(self.began, total, cached, processed);
                InfillAnswer { prompt_progress: Some(progress), ..piece }
            }
            Output::Prefill { .. } => return None,
            Output::Failed { error, .. } => return Some(Err(error)),
        }))
    }

    fn pieces(self) -> impl Stream<Item = Result<InfillAnswer>> + Send + 'static {
        futures_util::stream::unfold(self, |mut filling| async {
            let output = filling.running.generation.next().await?;
            Some((filling.translate(output), filling))
        })
        .filter_map(std::future::ready)
    }

    async fn whole(self, drain: &Drain) -> Result<InfillAnswer> {
        let (piece, extras, wanted) = (self.piece(), self.extras, self.probabilities);
        let Collected { mut choices, usage, timings, .. } = self.running.collect(drain).await?;
        let choice =
            choices.pop().ok_or_else(|| Error::internal("the generation had no choice"))?;
        Ok(InfillAnswer {
            completion_probabilities: wanted.map(|of| probabilities(&choice.logprobs, of)),
            prompt_logprobs: choice.prompt_logprobs.as_deref().map(prompt_logprobs),
            content: choice.text,
            tokens: if extras.tokens { choice.tokens } else { Vec::new() },
            stop: true,
            stop_type: stop_type(choice.reason, choice.stop_string.as_ref()),
            stopping_word: choice.stop_string.unwrap_or_default(),
            tokens_predicted: usage.completion_tokens,
            tokens_cached: usage.cached_tokens,
            timings: Some(Timings::new(usage, &timings)),
            ..piece
        })
    }
}

fn stop_type(reason: FinishReason, stop_string: Option<&String>) -> StopType {
    match (reason, stop_string) {
        (FinishReason::Length, _) => StopType::Limit,
        (_, Some(_)) => StopType::Word,
        (_, None) => StopType::Eos,
    }
}

/// The route for gaps.
pub(crate) struct InfillApi(pub Arc<AppState>);

#[OpenApi]
impl InfillApi {
    /// Fill in the middle of a text
    ///
    /// For models that have tokens for it, such as those for code. With `stream`, the text comes as
    /// server-sent events, of which the last has `stop` set.
    #[oai(path = "/infill", method = "post", operation_id = "infill", tag = "NativeTag::Infill")]
    async fn infill(
        &self,
        caller: Data<&Caller>,
        request: Body<InfillRequest>,
    ) -> Answer<Content<InfillBody>, Infills> {
        let request = request.0;
        let (model, is_stream) = (request.model.clone(), request.stream.unwrap_or(false));
        let (generation, extras) = request.into_generation()?;
        let probabilities = generation.logprobs.map(|_| generation.logprobs_of);
        let lease = lease_named_or_only(&self.0, model.as_deref()).await?;
        let lease = lease.of(caller.tenant());
        let generation = tokio::select! {
            biased;
            started = generate(&lease.text, &lease.engine, generation) => started?,
            () = self.0.drain.expired() => return Err(Drain::error().into()),
        };
        caller.tell(generation.notes());
        if let Some(keep_alive) = extras.keep_alive {
            lease.set_idle_timeout(keep_alive);
        }
        let model = model.unwrap_or_else(|| lease.engine.config().name.clone());
        let running = Running { generation, lease };
        let filling = Filling { model, running, extras, probabilities, began: Instant::now() };
        if is_stream {
            let events = Events::new(filling.pieces(), self.0.drain.clone());
            return Ok(Reply::new(Content(InfillBody::Stream(events))));
        }
        let whole = filling.whole(&self.0.drain).await?;
        Ok(Reply::new(Content(InfillBody::Full(Json(whole)))))
    }
}
