//! Answers in llama-server's form: one object, several, or a stream of the same kind.

use std::{collections::HashSet, time::Instant};

use poem_openapi::{Object, registry::MetaSchema};
use serde::Serialize;

use super::LlamaGenerates;
use crate::{
    chat::{
        SamplingDefaults,
        generation::{
            Beat, Collected, CollectedChoice, End, FinishReason, Piece, Step, Tally, TextLogprobs,
            TokenText,
        },
    },
    engine::{LogprobsOf, Usage},
    server::{
        AppState,
        auth::Caller,
        body::Json,
        desk::{
            Ask, Begun, Desk, Now, PromptLogprobs, PromptProgress, Render, Served, Timings, Wanted,
            finite, progress, prompt_logprobs, unless_only,
        },
        reply::{Answer, Content, Reply},
        schema::{wire_enum, wire_schema},
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

/// Generated text, or a piece of it.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct LlamaText {
    /// Which of the texts: the `i`-th of prompt `p` has the index `p * n_cmpl + i`.
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
    /// Tokens generated so far; with several texts, those of all of them while they are streamed.
    pub tokens_predicted: u32,
    /// Tokens of the prompt.
    pub tokens_evaluated: u32,
    /// Of them, taken from the prefix cache.
    pub tokens_cached: u32,
    /// Always false: a prompt is never cut.
    pub truncated: bool,
    /// Whether the text so far has a line break.
    pub has_new_line: bool,
    /// At the end: how tokens were chosen, whoever said it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub generation_settings: Option<GenerationSettings>,
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

impl Event for LlamaText {
    /// The last piece says so itself.
    const END: &'static [u8] = b"";
}

/// How tokens are chosen where a request says nothing, or were chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Serialize, Object)]
pub(crate) struct GenerationSettings {
    pub temperature: f32,
    pub top_p: f32,
    /// 0: off.
    pub top_k: u32,
    pub min_p: f32,
    /// 1: off.
    pub repeat_penalty: f32,
}

impl From<SamplingDefaults> for GenerationSettings {
    fn from(said: SamplingDefaults) -> Self {
        Self {
            temperature: said.temperature.unwrap_or(1.0),
            top_p: said.top_p.unwrap_or(1.0),
            top_k: said.top_k.unwrap_or(0),
            min_p: said.min_p.unwrap_or(0.0),
            repeat_penalty: said.repetition_penalty.unwrap_or(1.0),
        }
    }
}

/// One text, or several where several were asked for.
#[derive(Clone, Debug, Serialize)]
#[serde(untagged)]
pub(crate) enum LlamaTexts {
    One(Box<LlamaText>),
    Several(Vec<LlamaText>),
}

wire_schema!(
    LlamaTexts,
    "llama_texts",
    {
        let one_of = vec![LlamaText::schema_ref(), <Vec<LlamaText>>::schema_ref()];
        MetaSchema { one_of, ..MetaSchema::ANY }
    },
    LlamaText
);

/// Texts at once, or a stream of pieces.
pub(crate) type LlamaBody = Served<Json<LlamaTexts>, Events<LlamaText>>;

/// Answers in this form, by the only engine whatever the request calls it.
pub(super) async fn answer(
    state: &AppState,
    caller: &Caller,
    ask: Ask,
) -> Answer<Content<LlamaBody>, LlamaGenerates> {
    let ask = Ask { model: unless_only(state, caller, ask.model), ..ask };
    let probabilities = LlamaRender::probabilities(&ask);
    let desk = Desk::new(state, caller);
    let served = desk.serve(ask, |begun| LlamaRender::new(begun, probabilities)).await?;
    Ok(Reply::new(Content(served.events(&state.drain))))
}

/// How llama-server's clients are answered.
pub(crate) struct LlamaRender {
    model: String,
    wanted: Wanted,
    settings: GenerationSettings,
    /// Which probabilities are wanted.
    probabilities: Option<LogprobsOf>,
    began: Instant,
    /// Texts that have a line break.
    with_lines: HashSet<u32>,
}

impl LlamaRender {
    pub(crate) fn new(begun: &Begun, probabilities: Option<LogprobsOf>) -> Self {
        Self {
            model: begun.model.clone(),
            wanted: begun.wanted,
            settings: begun.sampling.into(),
            probabilities,
            began: begun.began,
            with_lines: HashSet::new(),
        }
    }

    /// Which probabilities a request wants, if any.
    pub(crate) fn probabilities(ask: &Ask) -> Option<LogprobsOf> {
        ask.prompts.first().and_then(|first| first.logprobs.map(|_| first.logprobs_of))
    }

    /// An answer in which nothing new stands.
    fn empty(&self, index: u32, usage: &Usage) -> LlamaText {
        LlamaText {
            index,
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
            has_new_line: self.with_lines.contains(&index),
            generation_settings: None,
            completion_probabilities: None,
            prompt_logprobs: None,
            timings: None,
            prompt_progress: None,
        }
    }

    /// An answer of a stream in which nothing new stands.
    fn going(&self, index: u32, tally: &Tally) -> LlamaText {
        let timings = self.wanted.timings.then(|| Timings::new(tally));
        LlamaText { timings, ..self.empty(index, &tally.usage) }
    }

    fn piece(&mut self, index: u32, piece: Piece, tally: &Tally) -> LlamaText {
        let Piece { text, tokens, logprobs, .. } = piece;
        if text.contains('\n') {
            self.with_lines.insert(index);
        }
        let all = self.probabilities.map(|of| probabilities(&logprobs, of));
        LlamaText {
            content: text,
            tokens: if self.wanted.tokens { tokens } else { Vec::new() },
            completion_probabilities: all.filter(|all| !all.is_empty()),
            ..self.going(index, tally)
        }
    }

    /// What ends a text, of which nothing else is new.
    fn ended(&self, text: LlamaText, reason: FinishReason, stop: Option<String>) -> LlamaText {
        LlamaText {
            stop: true,
            stop_type: stop_type(reason, stop.as_ref()),
            stopping_word: stop.unwrap_or_default(),
            generation_settings: Some(self.settings),
            ..text
        }
    }

    fn complete(&self, choice: CollectedChoice, tally: &Tally) -> LlamaText {
        let content = choice.text();
        let all = self.probabilities.map(|of| probabilities(&choice.logprobs, of));
        let text = LlamaText {
            completion_probabilities: all,
            prompt_logprobs: choice.prompt_logprobs.as_deref().map(prompt_logprobs),
            has_new_line: content.contains('\n'),
            content,
            tokens: if self.wanted.tokens { choice.tokens } else { Vec::new() },
            timings: Some(Timings::new(tally)),
            ..self.empty(choice.index, &choice.usage)
        };
        self.ended(text, choice.reason, choice.stop_string)
    }
}

impl Render for LlamaRender {
    type Event = LlamaText;
    type Whole = LlamaTexts;

    fn step(&mut self, Step { index, beats }: Step, now: Now<'_>) -> Vec<LlamaText> {
        let tally = now();
        let pieces = beats.into_iter().filter_map(|beat| match beat {
            Beat::Piece(piece) => Some(self.piece(index, piece, &tally)),
            Beat::End(End { reason, stop_string, .. }) => {
                let timings = Some(Timings::new(&tally));
                let text = LlamaText { timings, ..self.going(index, &tally) };
                Some(self.ended(text, reason, stop_string))
            }
            Beat::Progress { .. } if self.wanted.progress => {
                let prompt_progress = progress(&beat, self.began);
                Some(LlamaText { prompt_progress, ..self.going(index, &tally) })
            }
            Beat::Progress { .. } | Beat::Open(_) | Beat::Close { .. } | Beat::Failed(_) => None,
        });
        pieces.collect()
    }

    fn whole(self, Collected { choices, tally }: Collected) -> LlamaTexts {
        let texts = choices.into_iter().map(|choice| self.complete(choice, &tally));
        let mut texts: Vec<_> = texts.collect();
        match texts.pop() {
            Some(only) if texts.is_empty() => LlamaTexts::One(Box::new(only)),
            last => {
                texts.extend(last);
                LlamaTexts::Several(texts)
            }
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
