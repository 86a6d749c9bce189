//! The wire answers of `POST /v1/chat/completions`: one object, or a stream of chunks.

use std::collections::VecDeque;

use futures_util::Stream;
use poem_openapi::Object;
use serde::Serialize;

use super::{
    answer::{FinishReason, Head, Running},
    logprobs::ChatLogprobs,
    message::Role,
    options::ServiceTier,
    usage::Usage,
};
use crate::{
    chat::generation::{Collected, Output},
    error::Result,
    server::schema::wire_enum,
};

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum ChatCompletionKind {
        ChatCompletion = "chat.completion",
    }
}

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum ChatChunkKind {
        Chunk = "chat.completion.chunk",
    }
}

/// A complete chat answer.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ChatCompletion {
    /// `chatcmpl-` and 24 letters and digits.
    pub id: String,
    pub object: ChatCompletionKind,
    /// Unix time in seconds.
    pub created: u64,
    pub model: String,
    pub choices: Vec<ChatChoice>,
    pub usage: Usage,
    pub service_tier: ServiceTier,
    /// Changes when the program or the model's files change.
    pub system_fingerprint: String,
}

/// One answer of a chat completion.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ChatChoice {
    pub index: u32,
    pub message: ChatAnswer,
    #[oai(nullable)]
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: FinishReason,
}

/// The assistant's message.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ChatAnswer {
    pub role: Role,
    #[oai(nullable)]
    pub content: Option<String>,
    #[oai(nullable)]
    pub refusal: Option<String>,
    /// Always empty: the model does not search.
    pub annotations: Vec<String>,
}

/// One piece of a streamed chat answer.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ChatCompletionChunk {
    pub id: String,
    pub object: ChatChunkKind,
    pub created: u64,
    pub model: String,
    pub service_tier: ServiceTier,
    pub system_fingerprint: String,
    /// Empty in the chunk with the token counts.
    pub choices: Vec<ChatChunkChoice>,
    /// Token counts in the last chunk, null before it; only with `stream_options.include_usage`.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[oai(nullable)]
    #[allow(clippy::option_option)]
    pub usage: Option<Option<Usage>>,
}

/// One answer's part of a chunk.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ChatChunkChoice {
    pub index: u32,
    pub delta: ChatDelta,
    #[oai(nullable)]
    pub logprobs: Option<ChatLogprobs>,
    #[oai(nullable)]
    pub finish_reason: Option<FinishReason>,
}

/// What a chunk adds to the answer.
#[derive(Clone, Debug, Default, Serialize, Object)]
pub(crate) struct ChatDelta {
    /// In the first chunk of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
}

impl ChatCompletion {
    pub(crate) fn new(head: Head, collected: Collected, logprobs: bool) -> Self {
        let choices = collected.choices.into_iter().map(|choice| ChatChoice {
            index: choice.index,
            logprobs: logprobs.then(|| ChatLogprobs::new(&choice.logprobs)),
            message: ChatAnswer {
                role: Role::Assistant,
                content: Some(choice.text),
                refusal: None,
                annotations: Vec::new(),
            },
            finish_reason: choice.reason.into(),
        });
        Self {
            id: head.id,
            object: ChatCompletionKind::ChatCompletion,
            created: head.created,
            model: head.model,
            choices: choices.collect(),
            usage: collected.usage.into(),
            service_tier: ServiceTier::Default,
            system_fingerprint: head.system_fingerprint,
        }
    }
}

/// How a chat answer is streamed.
pub(crate) struct ChatStream {
    pub head: Head,
    pub running: Running,
    pub n: u32,
    pub logprobs: bool,
    pub include_usage: bool,
}

impl ChatStream {
    /// The chunks: one with the role for each answer, their text as it comes, one with the reason at
    /// the end of each, and one with the token counts if asked for.
    pub(crate) fn chunks(self) -> impl Stream<Item = Result<ChatCompletionChunk>> + Send + 'static {
        let roles = (0..self.n).map(|index| {
            let delta = ChatDelta { role: Some(Role::Assistant), content: Some(String::new()) };
            self.chunk(index, delta)
        });
        let state = (roles.collect::<VecDeque<_>>(), Some(self));
        futures_util::stream::unfold(state, |(mut roles, stream)| async move {
            if let Some(chunk) = roles.pop_front() {
                return Some((Ok(chunk), (roles, stream)));
            }
            let mut stream = stream?;
            loop {
                match stream.running.generation.next().await {
                    None => return stream.usage_chunk().map(|chunk| (Ok(chunk), (roles, None))),
                    Some(Output::Failed { error, .. }) => return Some((Err(error), (roles, None))),
                    Some(output) => {
                        if let Some(chunk) = stream.translate(output) {
                            return Some((Ok(chunk), (roles, Some(stream))));
                        }
                    }
                }
            }
        })
    }

    fn translate(&self, output: Output) -> Option<ChatCompletionChunk> {
        match output {
            Output::Delta(delta) => {
                let logprobs = (self.logprobs && !delta.logprobs.is_empty())
                    .then(|| ChatLogprobs::new(&delta.logprobs));
                if delta.text.is_empty() && logprobs.is_none() {
                    return None;
                }
                let content = ChatDelta { role: None, content: Some(delta.text) };
                let mut chunk = self.chunk(delta.index, content);
                chunk.choices.iter_mut().for_each(|choice| choice.logprobs.clone_from(&logprobs));
                Some(chunk)
            }
            Output::Finished(finished) => {
                let mut chunk = self.chunk(finished.index, ChatDelta::default());
                let reason = Some(finished.reason.into());
                chunk.choices.iter_mut().for_each(|choice| choice.finish_reason = reason);
                Some(chunk)
            }
            Output::Prefill { .. } | Output::Failed { .. } => None,
        }
    }

    fn chunk(&self, index: u32, delta: ChatDelta) -> ChatCompletionChunk {
        let choice = ChatChunkChoice { index, delta, logprobs: None, finish_reason: None };
        let usage = self.include_usage.then_some(None);
        self.envelope(vec![choice], usage)
    }

    fn usage_chunk(&self) -> Option<ChatCompletionChunk> {
        let usage = self.running.generation.usage().into();
        self.include_usage.then(|| self.envelope(Vec::new(), Some(Some(usage))))
    }

    #[allow(clippy::option_option)]
    fn envelope(
        &self,
        choices: Vec<ChatChunkChoice>,
        usage: Option<Option<Usage>>,
    ) -> ChatCompletionChunk {
        ChatCompletionChunk {
            id: self.head.id.clone(),
            object: ChatChunkKind::Chunk,
            created: self.head.created,
            model: self.head.model.clone(),
            service_tier: ServiceTier::Default,
            system_fingerprint: self.head.system_fingerprint.clone(),
            choices,
            usage,
        }
    }
}
