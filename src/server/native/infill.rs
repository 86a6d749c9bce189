//! `POST /infill`, in llama-server's form: a text whose middle is to be filled in.

use std::{sync::Arc, time::Instant};

use poem::web::Data;
use poem_openapi::{Object, OpenApi};
use serde::Serialize;

use super::{Infills, NativeTag, infill_request::InfillRequest};
use crate::{
    chat::generation::{
        Beat, Collected, End, FinishReason, Piece, Step, Tally, TextLogprobs, TokenText,
    },
    engine::LogprobsOf,
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{
            Begun, Body, Desk, Now, PromptLogprobs, PromptProgress, Render, Served, Timings,
            Wanted, finite, progress, prompt_logprobs,
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
type InfillBody = Served<Json<InfillAnswer>, Events<InfillAnswer>>;

/// A text that is being filled in.
struct InfillRender {
    model: String,
    wanted: Wanted,
    /// Which probabilities are wanted.
    probabilities: Option<LogprobsOf>,
    began: Instant,
}

impl InfillRender {
    fn new(begun: &Begun, probabilities: Option<LogprobsOf>) -> Self {
        let (model, wanted, began) = (begun.model.clone(), begun.wanted, begun.began);
        Self { model, wanted, probabilities, began }
    }

    /// An answer in which nothing new stands.
    fn empty(&self, tally: &Tally) -> InfillAnswer {
        InfillAnswer {
            index: 0,
            content: String::new(),
            tokens: Vec::new(),
            stop: false,
            model: self.model.clone(),
            stop_type: StopType::None,
            stopping_word: String::new(),
            tokens_predicted: tally.usage.completion_tokens,
            tokens_evaluated: tally.usage.prompt_tokens,
            tokens_cached: tally.usage.cached_tokens,
            truncated: false,
            completion_probabilities: None,
            prompt_logprobs: None,
            timings: self.wanted.timings.then(|| Timings::new(tally)),
            prompt_progress: None,
        }
    }

    fn piece(&self, Piece { text, tokens, logprobs, .. }: Piece, tally: &Tally) -> InfillAnswer {
        let all = self.probabilities.map(|of| probabilities(&logprobs, of));
        InfillAnswer {
            content: text,
            tokens: if self.wanted.tokens { tokens } else { Vec::new() },
            completion_probabilities: all.filter(|all| !all.is_empty()),
            ..self.empty(tally)
        }
    }

    fn last(&self, reason: FinishReason, stop: Option<String>, tally: &Tally) -> InfillAnswer {
        InfillAnswer {
            stop: true,
            stop_type: stop_type(reason, stop.as_ref()),
            stopping_word: stop.unwrap_or_default(),
            timings: Some(Timings::new(tally)),
            ..self.empty(tally)
        }
    }
}

impl Render for InfillRender {
    type Event = InfillAnswer;
    type Whole = InfillAnswer;

    fn step(&mut self, Step { beats, .. }: Step, now: Now<'_>) -> Vec<InfillAnswer> {
        let tally = now();
        let pieces = beats.into_iter().filter_map(|beat| match beat {
            Beat::Piece(piece) => Some(self.piece(piece, &tally)),
            Beat::End(End { reason, stop_string, .. }) => {
                Some(self.last(reason, stop_string, &tally))
            }
            Beat::Progress { .. } if self.wanted.progress => {
                let prompt_progress = progress(&beat, self.began);
                Some(InfillAnswer { prompt_progress, ..self.empty(&tally) })
            }
            Beat::Progress { .. } | Beat::Open(_) | Beat::Close { .. } | Beat::Failed(_) => None,
        });
        pieces.collect()
    }

    fn whole(self, Collected { choices, tally }: Collected) -> InfillAnswer {
        let Some(choice) = choices.into_iter().next() else { return self.empty(&tally) };
        InfillAnswer {
            completion_probabilities: self
                .probabilities
                .map(|of| probabilities(&choice.logprobs, of)),
            prompt_logprobs: choice.prompt_logprobs.as_deref().map(prompt_logprobs),
            content: choice.text(),
            tokens: if self.wanted.tokens { choice.tokens } else { Vec::new() },
            ..self.last(choice.reason, choice.stop_string, &tally)
        }
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
        let ask = request.0.into_ask()?;
        let first = ask.prompts.first();
        let probabilities = first.and_then(|first| first.logprobs.map(|_| first.logprobs_of));
        let desk = Desk::new(&self.0, &caller);
        let served = desk.serve(ask, |begun| InfillRender::new(begun, probabilities)).await?;
        Ok(Reply::new(Content(served.events(&self.0.drain))))
    }
}
