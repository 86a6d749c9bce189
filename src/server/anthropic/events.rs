//! The events of a streamed answer.
//!
//! ```text
//! message_start ping (content_block_start content_block_delta… content_block_stop)… message_delta message_stop
//! ```

use poem_openapi::{Object, Union};
use serde::Serialize;

use super::answer::{AnswerBlock, AnthropicAnswer, MessageUsage, StopReason};
use crate::{
    error::Error,
    server::{
        error::{Dialect, Failure},
        schema::{FreeObject, wire_constants},
        sse::Event,
    },
};

wire_constants! {
    StartKind = "message_start",
    PingKind = "ping",
    BlockStartKind = "content_block_start",
    BlockDeltaKind = "content_block_delta",
    BlockStopKind = "content_block_stop",
    MessageDeltaKind = "message_delta",
    StopKind = "message_stop",
    TextDeltaKind = "text_delta",
    ThinkingDeltaKind = "thinking_delta",
    InputDeltaKind = "input_json_delta",
}

/// The message begins; it has no content yet.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct MessageStart {
    pub r#type: StartKind,
    pub message: AnthropicAnswer,
}

/// Nothing; it keeps the connection open.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct Ping {
    pub r#type: PingKind,
}

/// A block begins, empty.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct BlockStart {
    pub r#type: BlockStartKind,
    pub index: u32,
    pub content_block: AnswerBlock,
}

/// A piece of text.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct TextDelta {
    pub r#type: TextDeltaKind,
    pub text: String,
}

/// A piece of what the model thinks.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ThinkingDelta {
    pub r#type: ThinkingDeltaKind,
    pub thinking: String,
}

/// A piece of a call's arguments.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct InputDelta {
    pub r#type: InputDeltaKind,
    /// Pieces put together are the arguments as JSON text.
    pub partial_json: String,
}

/// A piece of a block.
#[derive(Clone, Debug, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(crate) enum BlockPiece {
    Text(TextDelta),
    Thinking(ThinkingDelta),
    Input(InputDelta),
}

/// A block goes on.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct BlockDelta {
    pub r#type: BlockDeltaKind,
    pub index: u32,
    pub delta: BlockPiece,
}

/// A block is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct BlockStop {
    pub r#type: BlockStopKind,
    pub index: u32,
}

/// Why the answer ends.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct MessageEnd {
    pub stop_reason: StopReason,
    /// The string of `stop_sequences` that ended the answer.
    #[oai(nullable)]
    pub stop_sequence: Option<String>,
    /// Always null: models do not refuse in a way of their own.
    #[oai(nullable)]
    pub stop_details: Option<FreeObject>,
    /// Always null: the server runs no tools.
    #[oai(nullable)]
    pub container: Option<FreeObject>,
}

/// The message is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct MessageDelta {
    pub r#type: MessageDeltaKind,
    pub delta: MessageEnd,
    /// Of the whole request.
    pub usage: MessageUsage,
}

/// The stream is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct MessageStop {
    pub r#type: StopKind,
}

/// One event of a streamed answer. A failure midway is an event `error` with the body of failures.
#[derive(Clone, Debug, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(crate) enum MessageEvent {
    Start(MessageStart),
    Ping(Ping),
    BlockStart(BlockStart),
    BlockDelta(BlockDelta),
    BlockStop(BlockStop),
    Delta(MessageDelta),
    Stop(MessageStop),
}

impl Event for MessageEvent {
    const PATIENCE: &'static [u8] = b"event: ping\ndata: {\"type\":\"ping\"}\n\n";
    const END: &'static [u8] = b"";

    fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Start(_) => "message_start",
            Self::Ping(_) => "ping",
            Self::BlockStart(_) => "content_block_start",
            Self::BlockDelta(_) => "content_block_delta",
            Self::BlockStop(_) => "content_block_stop",
            Self::Delta(_) => "message_delta",
            Self::Stop(_) => "message_stop",
        })
    }

    fn failure(error: Error) -> Vec<u8> {
        let body = Dialect::anthropic_body(&Failure::from(error));
        format!("event: error\ndata: {body}\n\n").into_bytes()
    }
}
