//! Items: what a response reads and what it writes, in the one form in which both are shown and kept.

use poem_openapi::{Object, Union};
use serde::Serialize;

use crate::server::{
    openai::logprobs::TokenLogprob,
    schema::{FreeObject, wire_constants, wire_enum},
};

wire_constants! {
    MessageKind = "message",
    CallKind = "function_call",
    CallOutputKind = "function_call_output",
    ReasoningKind = "reasoning",
    InputTextKind = "input_text",
    OutputTextKind = "output_text",
    RefusalKind = "refusal",
    ReasoningTextKind = "reasoning_text",
    SummaryTextKind = "summary_text",
}

wire_enum! {
    /// Who speaks.
    pub(crate) enum ItemRole {
        User = "user",
        Assistant = "assistant",
        System = "system",
        Developer = "developer",
    }
}

wire_enum! {
    /// How far an item is.
    pub(crate) enum ItemStatus {
        InProgress = "in_progress",
        Completed = "completed",
        Incomplete = "incomplete",
    }
}

/// A text that the model reads.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesInputText {
    pub r#type: InputTextKind,
    pub text: String,
}

/// A text that the model wrote.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesOutputText {
    pub r#type: OutputTextKind,
    pub text: String,
    /// Always empty: the model does not cite.
    pub annotations: Vec<FreeObject>,
    /// Empty unless asked for.
    pub logprobs: Vec<TokenLogprob>,
}

/// What the model refused with.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesRefusal {
    pub r#type: RefusalKind,
    pub refusal: String,
}

/// A text of what the model thought.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesReasoningText {
    pub r#type: ReasoningTextKind,
    pub text: String,
}

/// A text that sums up what a model thought.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesSummaryText {
    pub r#type: SummaryTextKind,
    pub text: String,
}

/// One part of a message's content.
#[derive(Clone, Debug, PartialEq, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(crate) enum ResponsesPart {
    Input(ResponsesInputText),
    Output(ResponsesOutputText),
    Refusal(ResponsesRefusal),
}

/// A message.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesMessage {
    pub id: String,
    pub r#type: MessageKind,
    pub role: ItemRole,
    pub status: ItemStatus,
    pub content: Vec<ResponsesPart>,
}

/// A function that the model calls.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesCall {
    pub id: String,
    pub r#type: CallKind,
    /// To be named by the item that brings the result.
    pub call_id: String,
    pub name: String,
    /// The arguments as JSON text.
    pub arguments: String,
    pub status: ItemStatus,
}

/// What a called function gave back.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesCallOutput {
    pub id: String,
    pub r#type: CallOutputKind,
    pub call_id: String,
    pub output: String,
    pub status: ItemStatus,
}

/// What the model thought before it answered.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesReasoning {
    pub id: String,
    pub r#type: ReasoningKind,
    /// Of what this server generates always empty: thoughts are shown as they are.
    pub summary: Vec<ResponsesSummaryText>,
    pub content: Vec<ResponsesReasoningText>,
    /// Always null: nothing is hidden.
    #[oai(nullable)]
    pub encrypted_content: Option<String>,
    pub status: ItemStatus,
}

/// One item of what a response reads or writes.
#[derive(Clone, Debug, PartialEq, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(crate) enum ResponsesItem {
    Message(ResponsesMessage),
    Call(ResponsesCall),
    CallOutput(ResponsesCallOutput),
    Reasoning(ResponsesReasoning),
}

impl ResponsesItem {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Message(item) => &item.id,
            Self::Call(item) => &item.id,
            Self::CallOutput(item) => &item.id,
            Self::Reasoning(item) => &item.id,
        }
    }

    /// A message of the assistant; without a text, one that has just begun.
    pub(super) fn message(
        id: &str,
        status: ItemStatus,
        text: Option<(String, Vec<TokenLogprob>)>,
    ) -> Self {
        let content =
            text.into_iter().map(|(text, logprobs)| ResponsesPart::output(text, logprobs));
        Self::Message(ResponsesMessage {
            id: id.to_owned(),
            r#type: MessageKind::Only,
            role: ItemRole::Assistant,
            status,
            content: content.collect(),
        })
    }

    /// Thoughts; without a text, thoughts that have just begun.
    pub(super) fn reasoning(id: &str, status: ItemStatus, text: Option<String>) -> Self {
        let part = |text| ResponsesReasoningText { r#type: ReasoningTextKind::Only, text };
        Self::Reasoning(ResponsesReasoning {
            id: id.to_owned(),
            r#type: ReasoningKind::Only,
            summary: Vec::new(),
            content: text.into_iter().map(part).collect(),
            encrypted_content: None,
            status,
        })
    }
}

impl ResponsesMessage {
    pub(super) fn of_user(id: String, text: String) -> Self {
        Self {
            id,
            r#type: MessageKind::Only,
            role: ItemRole::User,
            status: ItemStatus::Completed,
            content: vec![ResponsesPart::input(text)],
        }
    }
}

impl ResponsesPart {
    pub(super) fn input(text: String) -> Self {
        Self::Input(ResponsesInputText { r#type: InputTextKind::Only, text })
    }

    pub(super) fn output(text: String, logprobs: Vec<TokenLogprob>) -> Self {
        let annotations = Vec::new();
        let kind = OutputTextKind::Only;
        Self::Output(ResponsesOutputText { r#type: kind, text, annotations, logprobs })
    }

    pub(super) fn text(&self) -> &str {
        match self {
            Self::Input(part) => &part.text,
            Self::Output(part) => &part.text,
            Self::Refusal(part) => &part.refusal,
        }
    }
}
