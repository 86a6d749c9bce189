//! Why an answer ends, in OpenAI's words.

use crate::{chat::generation::FinishReason as Reason, server::schema::wire_enum};

wire_enum! {
    /// Why an answer ends.
    pub(crate) enum FinishReason {
        /// The model's end token, or a stop string or token.
        Stop = "stop",
        /// As many tokens as were allowed.
        Length = "length",
        /// The model calls tools.
        ToolCalls = "tool_calls",
    }
}

impl From<Reason> for FinishReason {
    fn from(reason: Reason) -> Self {
        match reason {
            Reason::Stop | Reason::Cancelled => Self::Stop,
            Reason::Length => Self::Length,
            Reason::ToolCalls => Self::ToolCalls,
        }
    }
}
