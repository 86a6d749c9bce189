//! The wire answers of `POST /v1/completions`: one object, or a stream of the same kind.

use std::time::Instant;

use poem_openapi::Object;
use serde::Serialize;

use super::{finish::FinishReason, logprobs::CompletionLogprobs, usage::Usage};
use crate::{
    chat::generation::{Beat, Collected, CollectedChoice, Piece, Step},
    server::{
        desk::{
            Begun, Head, Now, PromptLogprobs, PromptProgress, Render, Timings, Wanted, progress,
            prompt_logprobs,
        },
        schema::wire_enum,
        sse::Event,
    },
};

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum CompletionKind {
        TextCompletion = "text_completion",
    }
}

/// Completions of all prompts, or one piece of a stream of them.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct Completion {
    /// `cmpl-` and 24 letters and digits.
    pub id: String,
    pub object: CompletionKind,
    /// Unix time in seconds.
    pub created: u64,
    pub model: String,
    /// Empty in the chunk with the token counts.
    pub choices: Vec<CompletionChoice>,
    /// In a stream: in the last chunk, null before it; only with `stream_options.include_usage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(nullable)]
    #[allow(clippy::option_option)]
    pub usage: Option<Option<Usage>>,
    /// Changes when the program or the model's files change.
    pub system_fingerprint: String,
    /// In a stream: in the last chunk of a completion; in each with `timings_per_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// With `return_progress`, before the completion begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<PromptProgress>,
}

impl Event for Completion {}

/// One completion: the `i`-th of prompt `p` has the index `p * n + i`.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct CompletionChoice {
    pub index: u32,
    pub text: String,
    #[oai(nullable)]
    pub logprobs: Option<CompletionLogprobs>,
    /// Null in a piece that is not the last of its completion.
    #[oai(nullable)]
    pub finish_reason: Option<FinishReason>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
    /// With `return_token_ids`; in a stream, with the first tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
    /// With `prompt_logprobs`: by token id, for each token of the prompt; null for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
}

impl CompletionChoice {
    /// A piece of a stream.
    fn piece(index: u32, text: String) -> Self {
        Self {
            index,
            text,
            logprobs: None,
            finish_reason: None,
            token_ids: None,
            prompt_token_ids: None,
            prompt_logprobs: None,
        }
    }
}

/// How text completions are answered.
pub(crate) struct CompletionRender {
    head: Head,
    wanted: Wanted,
    began: Instant,
    /// Tokens of the prompt of each completion that has not begun, if they are wanted.
    prompts: Vec<Option<Vec<u32>>>,
}

impl CompletionRender {
    pub(crate) fn new(begun: &Begun) -> Self {
        Self {
            head: Head::new("cmpl", begun),
            wanted: begun.wanted,
            began: begun.began,
            prompts: begun.prompts.iter().cloned().map(Some).collect(),
        }
    }

    fn envelope(&self, choices: Vec<CompletionChoice>, now: Now<'_>) -> Completion {
        Completion {
            id: self.head.id.clone(),
            object: CompletionKind::TextCompletion,
            created: self.head.created,
            model: self.head.model.clone(),
            choices,
            usage: Usage::of_piece(self.wanted, now),
            system_fingerprint: self.head.system_fingerprint.clone(),
            timings: None,
            prompt_progress: None,
        }
    }

    fn piece(&mut self, index: u32, piece: Piece) -> Option<CompletionChoice> {
        let Piece { text, tokens, logprobs, .. } = piece;
        let prompt_token_ids = self.prompts.get_mut(index as usize).and_then(Option::take);
        let logprobs = (self.wanted.logprobs && !logprobs.is_empty())
            .then(|| CompletionLogprobs::new(&logprobs));
        let token_ids = self.wanted.tokens.then_some(tokens);
        if text.is_empty() && logprobs.is_none() && token_ids.is_none() {
            return None;
        }
        let piece = CompletionChoice::piece(index, text);
        Some(CompletionChoice { logprobs, token_ids, prompt_token_ids, ..piece })
    }
}

impl Render for CompletionRender {
    type Event = Completion;
    type Whole = Completion;

    fn step(&mut self, Step { index, beats }: Step, now: Now<'_>) -> Vec<Completion> {
        let wants_timings = self.wanted.timings;
        let timings = || wants_timings.then(|| Timings::new(&now()));
        let empty = || CompletionChoice::piece(index, String::new());
        let pieces = beats.into_iter().filter_map(|beat| match beat {
            Beat::Piece(piece) => {
                let choice = self.piece(index, piece)?;
                let timings = timings();
                Some(Completion { timings, ..self.envelope(vec![choice], now) })
            }
            Beat::End(end) => {
                let choice = CompletionChoice { finish_reason: Some(end.reason.into()), ..empty() };
                let timings = Some(Timings::new(&now()));
                Some(Completion { timings, ..self.envelope(vec![choice], now) })
            }
            Beat::Progress { .. } if self.wanted.progress => {
                let (prompt_progress, timings) = (progress(&beat, self.began), timings());
                Some(Completion { timings, prompt_progress, ..self.envelope(vec![empty()], now) })
            }
            Beat::Progress { .. } | Beat::Open(_) | Beat::Close { .. } | Beat::Failed(_) => None,
        });
        pieces.collect()
    }

    /// The token counts, if asked for.
    fn end(&mut self, now: Now<'_>) -> Vec<Completion> {
        let usage = Some(Some(Usage::new(&now())));
        let last = self.wanted.include_usage;
        last.then(|| Completion { usage, ..self.envelope(Vec::new(), now) }).into_iter().collect()
    }

    fn whole(self, Collected { choices, tally }: Collected) -> Completion {
        let wanted = self.wanted;
        let choice = |choice: CollectedChoice| CompletionChoice {
            index: choice.index,
            text: choice.text(),
            logprobs: wanted.logprobs.then(|| CompletionLogprobs::new(&choice.logprobs)),
            finish_reason: Some(choice.reason.into()),
            token_ids: wanted.tokens.then_some(choice.tokens),
            prompt_token_ids: wanted.tokens.then_some(choice.prompt),
            prompt_logprobs: choice.prompt_logprobs.as_deref().map(prompt_logprobs),
        };
        let choices = choices.into_iter().map(choice).collect();
        let (usage, timings) = (Some(Some(Usage::new(&tally))), Some(Timings::new(&tally)));
        Completion { usage, timings, ..self.envelope(choices, &|| tally.clone()) }
    }
}
