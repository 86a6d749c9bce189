//! The wire answers of `/v1/messages`: one object, and the parts that a stream shares with it.

use poem_openapi::{Object, Union};
use serde::Serialize;

use super::content::{Speaker, TextKind};
use crate::{
    chat::generation::Tally,
    engine::Usage,
    server::schema::{FreeObject, wire_enum},
};

wire_enum! {
    /// What kind of object this is.
    pub(crate) enum MessageKind {
        Message = "message",
    }
}

wire_enum! {
    /// What kind of block this is.
    pub(crate) enum ThinkingBlockKind {
        Thinking = "thinking",
    }
}

wire_enum! {
    /// What kind of block this is.
    pub(crate) enum ToolUseKind {
        ToolUse = "tool_use",
    }
}

wire_enum! {
    /// Why an answer ends.
    pub(crate) enum StopReason {
        EndTurn = "end_turn",
        MaxTokens = "max_tokens",
        /// The context is full before `max_tokens` are there.
        ContextFull = "model_context_window_exceeded",
        StopSequence = "stop_sequence",
        ToolUse = "tool_use",
    }
}

wire_enum! {
    /// The class of service; there is one.
    pub(crate) enum UsedTier {
        Standard = "standard",
    }
}

/// A text of the answer.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct TextBlock {
    pub r#type: TextKind,
    pub text: String,
    /// Always empty: nothing is cited. Null would say the same, but not every client reads it.
    pub citations: Vec<FreeObject>,
}

/// What the model thought before it answered.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ThinkingBlock {
    pub r#type: ThinkingBlockKind,
    pub thinking: String,
    /// Always empty: thoughts are not signed.
    pub signature: String,
}

/// A tool that the model calls.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ToolUseBlock {
    pub r#type: ToolUseKind,
    pub id: String,
    pub name: String,
    /// The arguments; of a call that was cut, as much as came of them.
    pub input: FreeObject,
}

/// One block of the answer.
#[derive(Clone, Debug, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(crate) enum AnswerBlock {
    Text(TextBlock),
    Thinking(ThinkingBlock),
    ToolUse(ToolUseBlock),
}

/// Tokens that were written to the prefix cache at a price; there is none.
#[derive(Clone, Copy, Debug, Default, Serialize, Object)]
pub(crate) struct CacheCreation {
    /// Always 0.
    pub ephemeral_5m_input_tokens: u32,
    /// Always 0.
    pub ephemeral_1h_input_tokens: u32,
}

/// About the generated tokens.
#[derive(Clone, Copy, Debug, Serialize, Object)]
#[oai(rename = "AnthropicOutputTokensDetails")]
pub(crate) struct ThinkingTokens {
    /// Of thinking that precedes the answer.
    pub thinking_tokens: u32,
}

/// Tokens that a request took.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct MessageUsage {
    /// Tokens of the prompt that were computed.
    pub input_tokens: u32,
    /// Generated tokens, thinking included.
    pub output_tokens: u32,
    /// Tokens of the prompt that were taken from the prefix cache.
    pub cache_read_input_tokens: u32,
    /// Always 0.
    pub cache_creation_input_tokens: u32,
    pub cache_creation: CacheCreation,
    pub output_tokens_details: ThinkingTokens,
    /// Always null: the server runs no tools.
    #[oai(nullable)]
    pub server_tool_use: Option<FreeObject>,
    /// Always null: the server is where it is.
    #[oai(nullable)]
    pub inference_geo: Option<String>,
    pub service_tier: UsedTier,
}

impl MessageUsage {
    pub(super) fn new(tally: &Tally) -> Self {
        let Tally { usage, reasoning_tokens: thinking_tokens, .. } = *tally;
        Self {
            input_tokens: usage.prompt_tokens.saturating_sub(usage.cached_tokens),
            output_tokens: usage.completion_tokens,
            cache_read_input_tokens: usage.cached_tokens,
            cache_creation_input_tokens: 0,
            cache_creation: CacheCreation::default(),
            output_tokens_details: ThinkingTokens { thinking_tokens },
            server_tool_use: None,
            inference_geo: None,
            service_tier: UsedTier::Standard,
        }
    }
}

/// The assistant's message.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct AnthropicAnswer {
    /// `msg_` and 24 letters and digits.
    pub id: String,
    pub r#type: MessageKind,
    pub role: Speaker,
    pub model: String,
    pub content: Vec<AnswerBlock>,
    /// Null at the beginning of a stream.
    #[oai(nullable)]
    pub stop_reason: Option<StopReason>,
    /// The string of `stop_sequences` that ended the answer.
    #[oai(nullable)]
    pub stop_sequence: Option<String>,
    /// Always null: models do not refuse in a way of their own.
    #[oai(nullable)]
    pub stop_details: Option<FreeObject>,
    /// Always null: the server runs no tools.
    #[oai(nullable)]
    pub container: Option<FreeObject>,
    pub usage: MessageUsage,
}

/// A number of tokens.
#[derive(Clone, Copy, Debug, Serialize, Object)]
pub(crate) struct TokenCount {
    /// Tokens of the prompt that the request makes.
    pub input_tokens: usize,
}

impl AnthropicAnswer {
    /// A message without content yet.
    pub(super) fn begin(id: &str, model: &str, usage: Usage) -> Self {
        Self {
            id: id.to_owned(),
            r#type: MessageKind::Message,
            role: Speaker::Assistant,
            model: model.to_owned(),
            content: Vec::new(),
            stop_reason: None,
            stop_sequence: None,
            stop_details: None,
            container: None,
            usage: MessageUsage::new(&Tally { usage, ..Tally::default() }),
        }
    }
}

impl AnswerBlock {
    pub(super) fn text(text: String) -> Self {
        Self::Text(TextBlock { r#type: TextKind::Text, text, citations: Vec::new() })
    }

    pub(super) fn thinking(thinking: String) -> Self {
        let signature = String::new();
        Self::Thinking(ThinkingBlock { r#type: ThinkingBlockKind::Thinking, thinking, signature })
    }

    pub(super) fn tool_use(id: String, name: String, input: FreeObject) -> Self {
        Self::ToolUse(ToolUseBlock { r#type: ToolUseKind::ToolUse, id, name, input })
    }
}
