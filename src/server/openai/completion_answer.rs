//! The wire answers of `POST /v1/completions`: one object, or a stream of the same kind.

use std::collections::BTreeMap;

use futures_util::Stream;
use poem_openapi::Object;
use serde::Serialize;

use super::{
    answer::{FinishReason, Head, Running},
    logprobs::CompletionLogprobs,
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
}

impl Completion {
    pub(crate) fn new(head: Head, collected: Collected, logprobs: bool) -> Self {
        let choices = collected.choices.into_iter().map(|choice| CompletionChoice {
            index: choice.index,
            logprobs: logprobs.then(|| CompletionLogprobs::new(&choice.logprobs, 0)),
            text: choice.text,
            finish_reason: Some(choice.reason.into()),
        });
        let usage = Usage::new(collected.usage, collected.reasoning_tokens);
        Self::envelope(&head, choices.collect(), Some(Some(usage)))
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
        }
    }
}

/// How text completions are streamed.
pub(crate) struct CompletionStream {
    pub head: Head,
    pub running: Running,
    pub logprobs: bool,
    pub include_usage: bool,
}

/// Characters sent so far, by index of the completion.
type Offsets = BTreeMap<u32, u32>;

impl CompletionStream {
    /// The pieces of all completions as they come, then the token counts if asked for.
    pub(crate) fn chunks(self) -> impl Stream<Item = Result<Completion>> + Send + 'static {
        let state = Some((self, Offsets::new()));
        futures_util::stream::unfold(state, |state| async move {
            let (mut stream, mut offsets) = state?;
            loop {
                match stream.running.generation.next().await {
                    None => return stream.usage_chunk().map(|chunk| (Ok(chunk), None)),
                    Some(Output::Failed { error, .. }) => return Some((Err(error), None)),
                    Some(output) => {
                        if let Some(chunk) = stream.translate(output, &mut offsets) {
                            return Some((Ok(chunk), Some((stream, offsets))));
                        }
                    }
                }
            }
        })
    }

    fn translate(&self, output: Output, offsets: &mut Offsets) -> Option<Completion> {
        let choice = match output {
            Output::Delta(Delta { index, text, logprobs, .. }) => {
                let offset = offsets.entry(index).or_default();
                let logprobs = (self.logprobs && !logprobs.is_empty())
                    .then(|| CompletionLogprobs::new(&logprobs, *offset));
                *offset += text.chars().count() as u32;
                if text.is_empty() && logprobs.is_none() {
                    return None;
                }
                CompletionChoice { index, text, logprobs, finish_reason: None }
            }
            Output::Finished(finished) => CompletionChoice {
                index: finished.index,
                text: String::new(),
                logprobs: None,
                finish_reason: Some(finished.reason.into()),
            },
            Output::Prefill { .. } | Output::Failed { .. } => return None,
        };
        let usage = self.include_usage.then_some(None);
        Some(Completion::envelope(&self.head, vec![choice], usage))
    }

    fn usage_chunk(&self) -> Option<Completion> {
        let generation = &self.running.generation;
        let usage = Usage::new(generation.usage(), generation.reasoning_tokens());
        self.include_usage.then(|| Completion::envelope(&self.head, Vec::new(), Some(Some(usage))))
    }
}
