//! The wire answers of `POST /v1/completions`: one object, or a stream of the same kind.

use futures_util::{Stream, StreamExt, stream::SelectAll};
use poem_openapi::Object;
use serde::Serialize;

use super::{
    answer::{Choice, FinishReason, Head, Running},
    logprobs::CompletionLogprobs,
    usage::Usage,
};
use crate::{
    chat::generation::{Output, TextLogprobs},
    error::Result,
    server::schema::wire_enum,
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
    pub(crate) fn new(head: Head, choices: Vec<Choice>, usage: Usage, logprobs: bool) -> Self {
        let choices = (0..).zip(choices).map(|(index, choice)| CompletionChoice {
            index,
            logprobs: logprobs.then(|| CompletionLogprobs::new(&choice.logprobs, 0)),
            text: choice.text,
            finish_reason: Some(choice.reason.unwrap_or(FinishReason::Stop)),
        });
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
    /// One for each prompt.
    pub running: Vec<Running>,
    /// Completions of each prompt.
    pub n: u32,
    pub logprobs: bool,
    pub include_usage: bool,
}

/// A stream's counters.
struct Progress {
    /// By prompt.
    usages: Vec<Usage>,
    /// Characters sent, by index.
    offsets: Vec<u32>,
}

impl CompletionStream {
    /// The pieces of all completions as they come, then the token counts if asked for.
    pub(crate) fn chunks(self) -> impl Stream<Item = Result<Completion>> + Send + 'static {
        let Self { head, running, n, logprobs, include_usage } = self;
        let progress = Progress {
            usages: vec![Usage::default(); running.len()],
            offsets: vec![0; running.len() * n as usize],
        };
        let outputs: SelectAll<_> =
            running.into_iter().enumerate().map(|(p, running)| outputs(p, running)).collect();
        let shape = Shape { head, n, logprobs, include_usage };
        let state = Some((outputs, progress, shape));
        futures_util::stream::unfold(state, |state| async move {
            let (mut outputs, mut progress, shape) = state?;
            loop {
                let Some((prompt, output)) = outputs.next().await else {
                    return shape.usage_chunk(&progress).map(|chunk| (Ok(chunk), None));
                };
                if let Output::Failed { error, .. } = output {
                    return Some((Err(error), None));
                }
                if let Some(chunk) = shape.translate(prompt, output, &mut progress) {
                    return Some((Ok(chunk), Some((outputs, progress, shape))));
                }
            }
        })
    }
}

/// The outputs of one prompt's generation, with the prompt's place.
fn outputs(
    prompt: usize,
    running: Running,
) -> futures_util::stream::BoxStream<'static, (usize, Output)> {
    futures_util::stream::unfold(running, move |mut running| async move {
        let output = running.generation.next().await?;
        Some(((prompt, output), running))
    })
    .boxed()
}

/// What stays the same over a stream.
struct Shape {
    head: Head,
    n: u32,
    logprobs: bool,
    include_usage: bool,
}

impl Shape {
    fn translate(
        &self,
        prompt: usize,
        output: Output,
        progress: &mut Progress,
    ) -> Option<Completion> {
        let index_of = |index: u32| prompt as u32 * self.n + index;
        let choice = match output {
            Output::Delta { index, text, logprobs, .. } => {
                let index = index_of(index);
                let offset = progress.offsets.get_mut(index as usize)?;
                let logprobs = self.pieces(&logprobs, *offset);
                *offset += text.chars().count() as u32;
                if text.is_empty() && logprobs.is_none() {
                    return None;
                }
                CompletionChoice { index, text, logprobs, finish_reason: None }
            }
            Output::Finished { index, reason, usage, .. } => {
                progress.usages.get_mut(prompt)?.add_choice(usage);
                let finish_reason = Some(reason.into());
                let index = index_of(index);
                CompletionChoice { index, text: String::new(), logprobs: None, finish_reason }
            }
            Output::Prefill { .. } | Output::Failed { .. } => return None,
        };
        let usage = self.include_usage.then_some(None);
        Some(Completion::envelope(&self.head, vec![choice], usage))
    }

    fn pieces(&self, logprobs: &[TextLogprobs], offset: u32) -> Option<CompletionLogprobs> {
        (self.logprobs && !logprobs.is_empty()).then(|| CompletionLogprobs::new(logprobs, offset))
    }

    fn usage_chunk(&self, progress: &Progress) -> Option<Completion> {
        if !self.include_usage {
            return None;
        }
        let mut total = Usage::default();
        progress.usages.iter().for_each(|usage| total.add_prompt(usage));
        Some(Completion::envelope(&self.head, Vec::new(), Some(Some(total))))
    }
}
