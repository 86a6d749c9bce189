//! Messages, prompts and tools in OpenAI's form, which requests of several dialects have.

mod message;
mod prompt;
mod tools;

pub(crate) use message::{
    FunctionCall, ImageOrUrl, InputAudio, MAX_MESSAGES, Message, Part, Role, ToolCall, ToolKind,
    conversation,
};
pub(crate) use prompt::Prompt;
pub(crate) use tools::{
    AllowedMode, ChoiceKind, MAX_TOOLS, Tool, ToolChoice, ToolFields, ToolMode, pick,
};
