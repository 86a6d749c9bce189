//! Messages and tools in OpenAI's form, which requests of several dialects have.

mod message;
mod tools;

pub(crate) use message::{
    FunctionCall, ImageOrUrl, InputAudio, MAX_MESSAGES, Message, Part, Role, ToolCall, ToolKind,
    conversation,
};
pub(crate) use tools::{
    AllowedMode, ChoiceKind, MAX_TOOLS, Tool, ToolChoice, ToolFields, ToolMode, pick,
};
