//! The wire answers of `POST /v1/chat/completions`: one object, or a stream of chunks.

use std::{collections::BTreeMap, time::Instant};

use poem_openapi::Object;
use serde::Serialize;

use super::{finish::FinishReason, logprobs::ChatLogprobs, options::ServiceTier, usage::Usage};
use crate::{
    chat::generation::{Beat, Block, BlockKind, Collected, CollectedChoice, End, Piece, Step},
    server::{
        common::{FunctionCall, Role, ToolCall, ToolKind},
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
    fn start(index: u32, id: String, name: String) -> Self {
        let function = FunctionDelta { name: Some(name), arguments: String::new() };
        Self { index, id: Some(id), r#type: Some(ToolKind::Function), function }
    }

    fn more(index: u32, arguments: String) -> Self {
        let function = FunctionDelta { name: None, arguments };
        Self { index, id: None, r#type: None, function }
    }
}

impl From<ToolCallDelta> for ChatDelta {
    fn from(call: ToolCallDelta) -> Self {
        Self { tool_calls: Some(vec![call]), ..Self::default() }
    }
}

impl ChatAnswer {
    fn new(choice: &CollectedChoice) -> Self {
        let reasoning = Some(choice.thinking()).filter(|text| !text.is_empty());
        let calls = choice.calls().into_iter().map(|call| ToolCall {
            id: call.id,
            r#type: ToolKind::Function,
            function: FunctionCall { name: call.name, arguments: call.arguments },
        });
        let tool_calls = Some(calls.collect::<Vec<_>>()).filter(|calls| !calls.is_empty());
        let text = choice.text();
        let says_nothing = tool_calls.is_some() && text.is_empty();
        Self {
            role: Role::Assistant,
            content: (!says_nothing).then_some(text),
            refusal: None,
            annotations: Vec::new(),
            reasoning_content: reasoning.clone(),
            reasoning,
            tool_calls,
        }
    }
}

/// How a chat is answered.
pub(crate) struct ChatRender {
    head: Head,
    /// Answers that are streamed.
    n: u32,
    wanted: Wanted,
    began: Instant,
    /// Tokens of the prompt, if they are wanted.
    prompt: Option<Vec<u32>>,
    /// Calls that have begun and were not told yet, by answer.
    starting: BTreeMap<u32, ToolCallDelta>,
}

impl ChatRender {
    pub(crate) fn new(begun: &Begun, n: u32) -> Self {
        Self {
            head: Head::new("chatcmpl", begun),
            n,
            wanted: begun.wanted,
            began: begun.began,
            prompt: begun.prompts.first().cloned(),
            starting: BTreeMap::new(),
        }
    }

    /// The chunks of a piece; its log-probabilities come with the first.
    fn pieces(&mut self, index: u32, piece: Piece, now: Now<'_>) -> Vec<ChatCompletionChunk> {
        let Piece { kind, text, tokens, logprobs } = piece;
        let logprobs =
            (self.wanted.logprobs && !logprobs.is_empty()).then(|| ChatLogprobs::new(&logprobs));
        let token_ids = Some(tokens).filter(|ids| self.wanted.tokens && !ids.is_empty());
        let mut deltas: Vec<ChatDelta> = Vec::new();
        deltas.extend(self.starting.remove(&index).map(ChatDelta::from));
        if !text.is_empty() {
            deltas.push(match kind {
                BlockKind::Text => ChatDelta { content: Some(text), ..ChatDelta::default() },
                BlockKind::Call { index } => ToolCallDelta::more(index, text).into(),
                BlockKind::Thinking => {
                    let (reasoning_content, reasoning) = (Some(text.clone()), Some(text));
                    ChatDelta { reasoning_content, reasoning, ..ChatDelta::default() }
                }
            });
        }
        if deltas.is_empty() && (logprobs.is_some() || token_ids.is_some()) {
            deltas.push(ChatDelta { content: Some(String::new()), ..ChatDelta::default() });
        }
        let mut chunks: Vec<_> =
            deltas.into_iter().map(|piece| self.chunk(index, piece, now)).collect();
        let first = chunks.first_mut().and_then(|chunk| chunk.choices.first_mut());
        if let Some(choice) = first {
            choice.logprobs = logprobs;
            choice.token_ids = token_ids;
        }
        chunks
    }

    fn last(&self, index: u32, end: &End, now: Now<'_>) -> ChatCompletionChunk {
        let mut chunk = self.chunk(index, ChatDelta::default(), now);
        let reason = Some(end.reason.into());
        chunk.choices.iter_mut().for_each(|choice| choice.finish_reason = reason);
        chunk.timings = Some(Timings::new(&now()));
        chunk
    }

    fn chunk(&self, index: u32, delta: ChatDelta, now: Now<'_>) -> ChatCompletionChunk {
        let choice =
            ChatChunkChoice { index, delta, logprobs: None, finish_reason: None, token_ids: None };
        let usage = Usage::of_piece(self.wanted, now);
        ChatCompletionChunk {
            id: self.head.id.clone(),
            object: ChatChunkKind::Chunk,
            created: self.head.created,
            model: self.head.model.clone(),
            service_tier: ServiceTier::Default,
            system_fingerprint: self.head.system_fingerprint.clone(),
            choices: vec![choice],
            usage,
            timings: self.wanted.timings.then(|| Timings::new(&now())),
            prompt_progress: None,
            prompt_token_ids: None,
        }
    }
}

impl Render for ChatRender {
    type Event = ChatCompletionChunk;
    type Whole = ChatCompletion;

    /// One chunk with the role for each answer.
    fn begin(&mut self, now: Now<'_>) -> Vec<ChatCompletionChunk> {
        let role = |index| {
            let (role, content) = (Some(Role::Assistant), Some(String::new()));
            self.chunk(index, ChatDelta { role, content, ..ChatDelta::default() }, now)
        };
        let mut roles: Vec<_> = (0..self.n).map(role).collect();
        if let Some(first) = roles.first_mut() {
            first.prompt_token_ids = self.prompt.take();
        }
        roles
    }

    fn step(&mut self, Step { index, beats }: Step, now: Now<'_>) -> Vec<ChatCompletionChunk> {
        let mut chunks = Vec::new();
        for beat in beats {
            match beat {
                Beat::Progress { .. } if self.wanted.progress => {
                    let mut chunk = self.chunk(index, ChatDelta::default(), now);
                    chunk.prompt_progress = progress(&beat, self.began);
                    chunks.push(chunk);
                }
                Beat::Open(Block::Call { index: call, id, name }) => {
                    self.starting.insert(index, ToolCallDelta::start(call, id, name));
                }
                Beat::Piece(piece) => chunks.extend(self.pieces(index, piece, now)),
                Beat::End(end) => chunks.push(self.last(index, &end, now)),
                Beat::Progress { .. } | Beat::Open(_) | Beat::Close { .. } | Beat::Failed(_) => {}
            }
        }
        chunks
    }

    /// One chunk with the token counts, if asked for.
    fn end(&mut self, now: Now<'_>) -> Vec<ChatCompletionChunk> {
        if !self.wanted.include_usage {
            return Vec::new();
        }
        let mut chunk = self.chunk(0, ChatDelta::default(), now);
        chunk.choices.clear();
        chunk.usage = Some(Some(Usage::new(&now())));
        vec![chunk]
    }

    fn whole(self, Collected { choices, tally }: Collected) -> ChatCompletion {
        let Self { head, wanted, .. } = self;
        let first = choices.first();
        let logprobs = first.and_then(|choice| choice.prompt_logprobs.as_deref());
        let prompt_token_ids = first.filter(|_| wanted.tokens).map(|c| c.prompt.clone());
        let choice = |choice: &CollectedChoice| ChatChoice {
            index: choice.index,
            message: ChatAnswer::new(choice),
            logprobs: wanted.logprobs.then(|| ChatLogprobs::new(&choice.logprobs)),
            finish_reason: choice.reason.into(),
            token_ids: wanted.tokens.then(|| choice.tokens.clone()),
        };
        ChatCompletion {
            id: head.id,
            object: ChatCompletionKind::ChatCompletion,
            created: head.created,
            model: head.model,
            prompt_logprobs: logprobs.map(prompt_logprobs),
            choices: choices.iter().map(choice).collect(),
            usage: Usage::new(&tally),
            service_tier: ServiceTier::Default,
            system_fingerprint: head.system_fingerprint,
            timings: Timings::new(&tally),
            prompt_token_ids,
        }
    }
}
