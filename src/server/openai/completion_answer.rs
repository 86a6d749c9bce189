//! The wire answers of `POST /v1/completions`: one object, or a stream of the same kind.

use std::{collections::BTreeSet, time::Instant};

use futures_util::Stream;
use poem_openapi::Object;
use serde::Serialize;

use super::{
    answer::{FinishReason, Head, Running, Wanted, progress},
    logprobs::{self, CompletionLogprobs, PromptLogprobs},
    timings::{PromptProgress, Timings},
    usage::Usage,
};
use crate::{
    chat::generation::{Collected, Delta, Output},
    error::Result,
    server::{schema::wire_enum, sse::Event},
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

impl Completion {
    pub(crate) fn new(head: Head, collected: Collected, wanted: Wanted) -> Self {
        let timings = Timings::new(collected.usage, &collected.timings);
        let choices = collected.choices.into_iter().map(|choice| CompletionChoice {
            index: choice.index,
            logprobs: wanted.logprobs.then(|| CompletionLogprobs::new(&choice.logprobs)),
            text: choice.text,
            finish_reason: Some(choice.reason.into()),
            token_ids: wanted.extras.tokens.then_some(choice.tokens),
            prompt_token_ids: wanted.extras.tokens.then_some(choice.prompt),
            prompt_logprobs: choice.prompt_logprobs.as_deref().map(logprobs::prompt_logprobs),
        });
        let usage = Usage::new(collected.usage, collected.reasoning_tokens);
        let whole = Self::envelope(&head, choices.collect(), Some(Some(usage)));
        Self { timings: Some(timings), ..whole }
    }

    #[allow(clippy::option_option)]
    fn envelope(head: &Head, choices: Vec<CompletionChoice>, usage: Option<Option<Usage>>) -> Self {
        Self {
            id: head.id.clone(),
            object: CompletionKind::TextCompletion,
            created: head.created,
            model: head.model.clone(),
            choices,
            usage,
            system_fingerprint: head.system_fingerprint.clone(),
            timings: None,
            prompt_progress: None,
        }
    }
}

/// How text completions are streamed.
pub(crate) struct CompletionStream {
    pub head: Head,
    pub running: Running,
    pub wanted: Wanted,
    pub began: Instant,
}

/// Indexes of the completions that have begun.
type Begun = BTreeSet<u32>;

impl CompletionStream {
    /// The pieces of all completions as they come, then the token counts if asked for.
    pub(crate) fn chunks(self) -> impl Stream<Item = Result<Completion>> + Send + 'static {
        let state = Some((self, Begun::new()));
        futures_util::stream::unfold(state, |state| async move {
            let (mut stream, mut begun) = state?;
            loop {
                match stream.running.generation.next().await {
                    None => return stream.usage_chunk().map(|chunk| (Ok(chunk), None)),
                    Some(Output::Failed { error, .. }) => return Some((Err(error), None)),
                    Some(output) => {
                        if let Some(chunk) = stream.translate(output, &mut begun) {
                            return Some((Ok(chunk), Some((stream, begun))));
                        }
                    }
                }
            }
        })
    }

    fn translate(&self, output: Output, begun: &mut Begun) -> Option<Completion> {
        let mut timings = self.wanted.extras.timings.then(|| self.running.timings());
        let mut prompt_progress = None;
        let choice = match output {
            Output::Delta(Delta { index, text, logprobs, tokens, .. }) => {
                let is_first = begun.insert(index);
                let logprobs = (self.wanted.logprobs && !logprobs.is_empty())
                    .then(|| CompletionLogprobs::new(&logprobs));
                let token_ids = self.wanted.extras.tokens.then_some(tokens);
                if text.is_empty() && logprobs.is_none() && token_ids.is_none() {
                    return None;
                }
                let shows_prompt = is_first && token_ids.is_some();
                let prompt = shows_prompt.then(|| self.running.generation.prompt(index).to_vec());
                let piece = CompletionChoice::piece(index, text);
                CompletionChoice { logprobs, token_ids, prompt_token_ids: prompt, ..piece }
            }
            Output::Finished(finished) => {
                timings = Some(self.running.timings());
                let piece = CompletionChoice::piece(finished.index, String::new());
                CompletionChoice { finish_reason: Some(finished.reason.into()), ..piece }
            }
            Output::Prefill { index, processed, cached, total } if self.wanted.extras.progress => {
                prompt_progress = Some(progress(self.began, total, cached, processed));
                CompletionChoice::piece(index, String::new())
            }
            Output::Prefill { .. } | Output::Failed { .. } => return None,
        };
        let usage = self.wanted.include_usage.then_some(None);
        let chunk = Completion::envelope(&self.head, vec![choice], usage);
        Some(Completion { timings, prompt_progress, ..chunk })
    }

    fn usage_chunk(&self) -> Option<Completion> {
        let generation = &self.running.generation;
        let usage = Usage::new(generation.usage(), generation.reasoning_tokens());
        self.wanted
            .include_usage
            .then(|| Completion::envelope(&self.head, Vec::new(), Some(Some(usage))))
    }
}
