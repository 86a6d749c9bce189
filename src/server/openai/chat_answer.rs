//! The wire answers of `POST /v1/chat/completions`: one object, or a stream of chunks.

use std::collections::VecDeque;

use futures_util::Stream;
use poem_openapi::Object;
use serde::Serialize;

use super::{
    answer::{Choice, FinishReason, Head, Running},
    logprobs::ChatLogprobs,
    message::Role,
    options::ServiceTier,
    usage::Usage,
};
use crate::{
    chat::generation::Output,
    error::{Error, Result},
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
    pub(crate) fn new(head: Head, choices: Vec<Choice>, usage: Usage, logprobs: bool) -> Self {
        let choices = (0..).zip(choices).map(|(index, choice)| ChatChoice {
            index,
            logprobs: logprobs.then(|| ChatLogprobs::new(&choice.logprobs)),
            message: ChatAnswer {
                role: Role::Assistant,
                content: Some(choice.text),
                refusal: None,
                annotations: Vec::new(),
            },
            finish_reason: choice.reason.unwrap_or(FinishReason::Stop),
        });
        Self {
            id: head.id,
            object: ChatCompletionKind::ChatCompletion,
            created: head.created,
            model: head.model,
            choices: choices.collect(),
            usage,
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
        let state = (roles.collect::<VecDeque<_>>(), Usage::default(), Some(self));
        futures_util::stream::unfold(state, |(mut ready, mut usage, stream)| async move {
            if let Some(chunk) = ready.pop_front() {
                return Some((Ok(chunk), (ready, usage, stream)));
            }
            let mut stream = stream?;
            loop {
                match stream.running.generation.next().await {
                    None if stream.include_usage => {
                        return Some((Ok(stream.usage_chunk(usage)), (ready, usage, None)));
                    }
                    None => return None,
                    Some(Output::Failed { error, .. }) => {
                        return Some((Err::<_, Error>(error), (ready, usage, None)));
                    }
                    Some(output) => {
                        if let Some(chunk) = stream.translate(output, &mut usage) {
                            return Some((Ok(chunk), (ready, usage, Some(stream))));
                        }
                    }
                }
            }
        })
    }

    fn translate(&self, output: Output, usage: &mut Usage) -> Option<ChatCompletionChunk> {
        match output {
            Output::Delta { index, text, logprobs, .. } => {
                let logprobs =
                    (self.logprobs && !logprobs.is_empty()).then(|| ChatLogprobs::new(&logprobs));
                if text.is_empty() && logprobs.is_none() {
                    return None;
                }
                let mut chunk = self.chunk(index, ChatDelta { role: None, content: Some(text) });
                chunk.choices[0].logprobs = logprobs;
                Some(chunk)
            }
            Output::Finished { index, reason, usage: of_choice, .. } => {
                usage.add_choice(of_choice);
                let mut chunk = self.chunk(index, ChatDelta::default());
                chunk.choices[0].finish_reason = Some(reason.into());
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

    fn usage_chunk(&self, usage: Usage) -> ChatCompletionChunk {
        self.envelope(Vec::new(), Some(Some(usage)))
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
