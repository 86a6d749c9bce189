//! The events of a streamed response.
//!
//! ```text
//! response.created response.in_progress
//! (output_item.added (content_part.added output_text.delta… output_text.done content_part.done
//!                    | content_part.added reasoning_text.delta… reasoning_text.done content_part.done
//!                    | function_call_arguments.delta… function_call_arguments.done
//!                    | custom_tool_call_input.delta custom_tool_call_input.done) output_item.done)…
//! response.completed | response.incomplete | response.failed
//! ```

use poem_openapi::{Object, Union};
use serde::Serialize;
use serde_json::json;

use super::{
    items::{ResponsesItem, ResponsesOutputText, ResponsesReasoningText},
    object::ResponseObject,
};
use crate::{
    error::Error,
    server::{
        openai::logprobs::TokenLogprob,
        schema::{wire_constants, wire_enum},
        sse::Event,
    },
};

wire_enum! {
    /// How far the response is.
    pub(crate) enum LifeKind {
        Created = "response.created",
        InProgress = "response.in_progress",
        Completed = "response.completed",
        Incomplete = "response.incomplete",
        Failed = "response.failed",
    }
}

wire_enum! {
    /// Whether an item begins or is complete.
    pub(crate) enum ItemEventKind {
        Added = "response.output_item.added",
        Done = "response.output_item.done",
    }
}

wire_enum! {
    /// Whether a part begins or is complete.
    pub(crate) enum PartEventKind {
        Added = "response.content_part.added",
        Done = "response.content_part.done",
    }
}

wire_constants! {
    TextDeltaKind = "response.output_text.delta",
    TextDoneKind = "response.output_text.done",
    ReasoningDeltaKind = "response.reasoning_text.delta",
    ReasoningDoneKind = "response.reasoning_text.done",
    ArgumentsDeltaKind = "response.function_call_arguments.delta",
    ArgumentsDoneKind = "response.function_call_arguments.done",
    InputDeltaKind = "response.custom_tool_call_input.delta",
    InputDoneKind = "response.custom_tool_call_input.done",
}

/// The response as a whole begins, or has ended.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesLifeEvent {
    pub r#type: LifeKind,
    pub sequence_number: u64,
    pub response: ResponseObject,
}

/// An item of the output begins, or is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesItemEvent {
    pub r#type: ItemEventKind,
    pub sequence_number: u64,
    pub output_index: usize,
    pub item: ResponsesItem,
}

/// A part of an item in the output.
#[derive(Clone, Debug, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(crate) enum ResponsesOutputPart {
    Text(ResponsesOutputText),
    Reasoning(ResponsesReasoningText),
}

/// A part of an item begins, empty, or is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesPartEvent {
    pub r#type: PartEventKind,
    pub sequence_number: u64,
    pub item_id: String,
    pub output_index: usize,
    pub content_index: usize,
    pub part: ResponsesOutputPart,
}

/// A piece of text.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesTextDelta {
    pub r#type: TextDeltaKind,
    pub sequence_number: u64,
    pub item_id: String,
    pub output_index: usize,
    pub content_index: usize,
    pub delta: String,
    /// Empty unless asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// A text is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesTextDone {
    pub r#type: TextDoneKind,
    pub sequence_number: u64,
    pub item_id: String,
    pub output_index: usize,
    pub content_index: usize,
    pub text: String,
    /// Empty unless asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// A piece of what the model thinks.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesReasoningDelta {
    pub r#type: ReasoningDeltaKind,
    pub sequence_number: u64,
    pub item_id: String,
    pub output_index: usize,
    pub content_index: usize,
    pub delta: String,
}

/// The model has thought.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesReasoningDone {
    pub r#type: ReasoningDoneKind,
    pub sequence_number: u64,
    pub item_id: String,
    pub output_index: usize,
    pub content_index: usize,
    pub text: String,
}

/// A piece of a call's arguments.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesArgumentsDelta {
    pub r#type: ArgumentsDeltaKind,
    pub sequence_number: u64,
    pub item_id: String,
    pub output_index: usize,
    pub delta: String,
}

/// The arguments of a call are complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesArgumentsDone {
    pub r#type: ArgumentsDoneKind,
    pub sequence_number: u64,
    pub item_id: String,
    pub output_index: usize,
    pub name: String,
    pub arguments: String,
}

/// The text that a tool is given, in one piece.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesInputDelta {
    pub r#type: InputDeltaKind,
    pub sequence_number: u64,
    pub item_id: String,
    pub output_index: usize,
    pub delta: String,
}

/// The text that a tool is given is complete.
#[derive(Clone, Debug, Serialize, Object)]
pub(crate) struct ResponsesInputDone {
    pub r#type: InputDoneKind,
    pub sequence_number: u64,
    pub item_id: String,
    pub output_index: usize,
    pub input: String,
}

/// One event of a streamed response; its name is its type.
#[derive(Clone, Debug, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
#[expect(clippy::large_enum_variant, reason = "moved once when it is sent, never kept")]
pub(crate) enum ResponsesEvent {
    Life(ResponsesLifeEvent),
    Item(ResponsesItemEvent),
    Part(ResponsesPartEvent),
    TextDelta(ResponsesTextDelta),
    TextDone(ResponsesTextDone),
    ReasoningDelta(ResponsesReasoningDelta),
    ReasoningDone(ResponsesReasoningDone),
    ArgumentsDelta(ResponsesArgumentsDelta),
    ArgumentsDone(ResponsesArgumentsDone),
    InputDelta(ResponsesInputDelta),
    InputDone(ResponsesInputDone),
}

impl Event for ResponsesEvent {
    const END: &'static [u8] = b"";

    fn name(&self) -> Option<&'static str> {
        Some(match self {
            Self::Life(event) => event.r#type.wire_text(),
            Self::Item(event) => event.r#type.wire_text(),
            Self::Part(event) => event.r#type.wire_text(),
            Self::TextDelta(event) => event.r#type.wire_text(),
            Self::TextDone(event) => event.r#type.wire_text(),
            Self::ReasoningDelta(event) => event.r#type.wire_text(),
            Self::ReasoningDone(event) => event.r#type.wire_text(),
            Self::ArgumentsDelta(event) => event.r#type.wire_text(),
            Self::ArgumentsDone(event) => event.r#type.wire_text(),
            Self::InputDelta(event) => event.r#type.wire_text(),
            Self::InputDone(event) => event.r#type.wire_text(),
        })
    }

    // What goes wrong in the response is an event of its own; this is for a stream that breaks. Its
    // number is unknown here, and greater than all before.
    fn failure(error: Error) -> Vec<u8> {
        let body = json!({
            "type": "error",
            "sequence_number": u32::MAX,
            "code": error.kind.wire_type(),
            "message": error.message,
            "param": error.param,
        });
        format!("event: error\ndata: {body}\n\n").into_bytes()
    }
}
