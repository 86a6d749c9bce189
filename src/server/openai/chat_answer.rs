//! The wire answers of `POST /v1/chat/completions`: one object, or a stream of chunks.

use std::{collections::VecDeque, time::Instant};

use futures_util::Stream;
use poem_openapi::Object;
use serde::Serialize;

use super::{
    answer::{FinishReason, Head, Running, Wanted, progress},
    logprobs::{self, ChatLogprobs, PromptLogprobs},
    message::{FunctionCall, Role, ToolCall, ToolKind},
    options::ServiceTier,
    timings::{PromptProgress, Timings},
    usage::Usage,
};
use crate::{
    chat::{
        CallDelta, CallStart,
        generation::{Collected, CollectedChoice, Delta, Output},
    },
    error::Result,
    server::{schema::wire_enum, sse::Event},
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
    pub timings: Timings,
    /// With `prompt_logprobs`: by token id, for each token of the prompt; null for the first.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_logprobs: Option<PromptLogprobs>,
    /// With `return_token_ids`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

/// One answer of a chat completion.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ChatChoice {
    pub index: u32,
    pub message: ChatAnswer,
    #[oai(nullable)]
    pub logprobs: Option<ChatLogprobs>,
    pub finish_reason: FinishReason,
    /// With `return_token_ids`: the answer's tokens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
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
    /// What the model thought before it answered.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The same as `reasoning_content`, under its other name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    /// Functions that the model calls.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCall>>,
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
    /// In the last chunk of an answer; in each with `timings_per_token`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub timings: Option<Timings>,
    /// With `return_progress`, before the answer begins.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_progress: Option<PromptProgress>,
    /// With `return_token_ids`, in the first chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub prompt_token_ids: Option<Vec<u32>>,
}

impl Event for ChatCompletionChunk {}

/// One answer's part of a chunk.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ChatChunkChoice {
    pub index: u32,
    pub delta: ChatDelta,
    #[oai(nullable)]
    pub logprobs: Option<ChatLogprobs>,
    #[oai(nullable)]
    pub finish_reason: Option<FinishReason>,
    /// With `return_token_ids`: the tokens of this chunk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_ids: Option<Vec<u32>>,
}

/// What a chunk adds to the answer.
#[derive(Clone, Debug, Default, Serialize, Object)]
pub(crate) struct ChatDelta {
    /// In the first chunk of an answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub role: Option<Role>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub content: Option<String>,
    /// A piece of what the model thinks before it answers.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning_content: Option<String>,
    /// The same as `reasoning_content`, under its other name.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reasoning: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tool_calls: Option<Vec<ToolCallDelta>>,
}

/// A piece of a call: first its identity and its name, then its arguments.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ToolCallDelta {
    /// Which of the answer's calls this belongs to.
    pub index: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub id: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub r#type: Option<ToolKind>,
    pub function: FunctionDelta,
}

/// A piece of a call's function.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct FunctionDelta {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Pieces put together are the arguments as JSON text.
    pub arguments: String,
}

impl ToolCallDelta {
    /// A piece of a call: its beginning and its arguments are sent apart.
    fn of(call: CallDelta) -> impl Iterator<Item = Self> {
        let CallDelta { index, start, arguments, ends: _ } = call;
        let first = start.map(|CallStart { id, name }| Self {
            index,
            id: Some(id),
            r#type: Some(ToolKind::Function),
            function: FunctionDelta { name: Some(name), arguments: String::new() },
        });
        let rest = (!arguments.is_empty()).then_some(Self {
            index,
            id: None,
            r#type: None,
            function: FunctionDelta { name: None, arguments },
        });
        first.into_iter().chain(rest)
    }
}

impl ChatAnswer {
    fn new(choice: CollectedChoice) -> Self {
        let reasoning = (!choice.reasoning.is_empty()).then_some(choice.reasoning);
        let calls = choice.calls.into_iter().map(|call| ToolCall {
            id: call.id,
            r#type: ToolKind::Function,
            function: FunctionCall { name: call.name, arguments: call.arguments },
        });
        let tool_calls = Some(calls.collect::<Vec<_>>()).filter(|calls| !calls.is_empty());
        let says_nothing = tool_calls.is_some() && choice.text.trim().is_empty();
        Self {
            role: Role::Assistant,
            content: (!says_nothing).then_some(choice.text),
            refusal: None,
            annotations: Vec::new(),
            reasoning_content: reasoning.clone(),
            reasoning,
            tool_calls,
        }
    }
}

impl ChatCompletion {
    pub(crate) fn new(head: Head, collected: Collected, wanted: Wanted) -> Self {
        let first = collected.choices.first();
        let logprobs_of_prompt = first.and_then(|choice| choice.prompt_logprobs.as_deref());
        let prompt_logprobs = logprobs_of_prompt.map(logprobs::prompt_logprobs);
        let prompt_token_ids = first.filter(|_| wanted.extras.tokens).map(|c| c.prompt.clone());
        let choices = collected.choices.into_iter().map(|mut choice| ChatChoice {
            index: choice.index,
            logprobs: wanted.logprobs.then(|| ChatLogprobs::new(&choice.logprobs)),
            finish_reason: choice.reason.into(),
            token_ids: wanted.extras.tokens.then(|| std::mem::take(&mut choice.tokens)),
            message: ChatAnswer::new(choice),
        });
        Self {
            id: head.id,
            object: ChatCompletionKind::ChatCompletion,
            created: head.created,
            model: head.model,
            choices: choices.collect(),
            usage: Usage::new(collected.usage, collected.reasoning_tokens),
            service_tier: ServiceTier::Default,
            system_fingerprint: head.system_fingerprint,
            timings: Timings::new(collected.usage, &collected.timings),
            prompt_logprobs,
            prompt_token_ids,
        }
    }
}

/// How a chat answer is streamed.
pub(crate) struct ChatStream {
    pub head: Head,
    pub running: Running,
    pub n: u32,
    pub wanted: Wanted,
    pub began: Instant,
}

impl ChatStream {
    /// The chunks: one with the role for each answer, their text as it comes, one with the reason at
    /// the end of each, and one with the token counts if asked for.
    pub(crate) fn chunks(self) -> impl Stream<Item = Result<ChatCompletionChunk>> + Send + 'static {
        let roles = (0..self.n).map(|index| {
            let (role, content) = (Some(Role::Assistant), Some(String::new()));
            self.chunk(index, ChatDelta { role, content, ..ChatDelta::default() })
        });
        let mut roles = roles.collect::<VecDeque<_>>();
        if let Some(first) = roles.front_mut().filter(|_| self.wanted.extras.tokens) {
            first.prompt_token_ids = Some(self.running.generation.prompt(0).to_vec());
        }
        let state = (roles, Some(self));
        futures_util::stream::unfold(state, |(mut ready, stream)| async move {
            if let Some(chunk) = ready.pop_front() {
                return Some((Ok(chunk), (ready, stream)));
            }
            let mut stream = stream?;
            loop {
                match stream.running.generation.next().await {
                    None => return stream.usage_chunk().map(|chunk| (Ok(chunk), (ready, None))),
                    Some(Output::Failed { error, .. }) => return Some((Err(error), (ready, None))),
                    Some(output) => {
                        ready.extend(stream.translate(output));
                        if let Some(chunk) = ready.pop_front() {
                            return Some((Ok(chunk), (ready, Some(stream))));
                        }
                    }
                }
            }
        })
    }

    fn translate(&self, output: Output) -> Vec<ChatCompletionChunk> {
        match output {
            Output::Delta(delta) => self.pieces(delta),
            Output::Finished(finished) => {
                let mut chunk = self.chunk(finished.index, ChatDelta::default());
                let reason = Some(finished.reason.into());
                chunk.choices.iter_mut().for_each(|choice| choice.finish_reason = reason);
                chunk.timings = Some(self.running.timings());
                vec![chunk]
            }
            Output::Prefill { index, processed, cached, total } if self.wanted.extras.progress => {
                let mut chunk = self.chunk(index, ChatDelta::default());
                chunk.prompt_progress = Some(progress(self.began, total, cached, processed));
                vec![chunk]
            }
            Output::Prefill { .. } | Output::Failed { .. } => Vec::new(),
        }
    }

    /// Reasoning, text and calls one after the other; the log-probabilities come with the first.
    fn pieces(&self, delta: Delta) -> Vec<ChatCompletionChunk> {
        let logprobs = (self.wanted.logprobs && !delta.logprobs.is_empty())
            .then(|| ChatLogprobs::new(&delta.logprobs));
        let token_ids =
            Some(delta.tokens).filter(|ids| self.wanted.extras.tokens && !ids.is_empty());
        let mut deltas = Vec::new();
        if !delta.reasoning.is_empty() {
            let reasoning = Some(delta.reasoning);
            let reasoning_content = reasoning.clone();
            deltas.push(ChatDelta { reasoning_content, reasoning, ..ChatDelta::default() });
        }
        let is_bare = deltas.is_empty() && delta.calls.is_empty();
        let is_bare = is_bare && (logprobs.is_some() || token_ids.is_some());
        if !delta.text.is_empty() || is_bare {
            deltas.push(ChatDelta { content: Some(delta.text), ..ChatDelta::default() });
        }
        let calls = delta.calls.into_iter().flat_map(ToolCallDelta::of);
        let calls = calls.map(|call| Some(vec![call]));
        deltas.extend(calls.map(|tool_calls| ChatDelta { tool_calls, ..ChatDelta::default() }));
        let mut chunks: Vec<_> =
            deltas.into_iter().map(|piece| self.chunk(delta.index, piece)).collect();
        let first = chunks.first_mut().and_then(|chunk| chunk.choices.first_mut());
        if let Some(choice) = first {
            choice.logprobs = logprobs;
            choice.token_ids = token_ids;
        }
        chunks
    }

    fn chunk(&self, index: u32, delta: ChatDelta) -> ChatCompletionChunk {
        let choice =
            ChatChunkChoice { index, delta, logprobs: None, finish_reason: None, token_ids: None };
        let usage = self.wanted.include_usage.then_some(None);
        self.envelope(vec![choice], usage)
    }

    fn usage_chunk(&self) -> Option<ChatCompletionChunk> {
        let generation = &self.running.generation;
        let usage = Usage::new(generation.usage(), generation.reasoning_tokens());
        self.wanted.include_usage.then(|| self.envelope(Vec::new(), Some(Some(usage))))
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
            timings: self.wanted.extras.timings.then(|| self.running.timings()),
            prompt_progress: None,
            prompt_token_ids: None,
            choices,
            usage,
        }
    }
}
