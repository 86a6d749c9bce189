//! Items: what a response reads and what it writes, in the one form in which both are shown and kept.

use poem_openapi::{Object, Union};
use serde::Serialize;

use crate::chat::conversation::{Media, Part, Source};
use crate::server::{
    common::{ImageOrUrl, InputAudio},
    openai::logprobs::TokenLogprob,
    schema::{FreeObject, TextOr, wire_constants, wire_enum},
};

wire_constants! {
    MessageKind = "message",
    CallKind = "function_call",
    CustomCallKind = "custom_tool_call",
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
    /// Of what kind of call this is the result.
    pub(crate) enum CallOutputKind {
        Function = "function_call_output",
        Custom = "custom_tool_call_output",
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

wire_enum! {
    /// What is to be seen or heard.
    pub(crate) enum MediaKind {
        Image = "input_image",
        Audio = "input_audio",
        File = "input_file",
    }
}

/// What a model would see or hear, as it came.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesMedia {
    pub r#type: MediaKind,
    /// Of an image.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_url: Option<ImageOrUrl>,
    /// Of an image or a file.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
    /// Of a file.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_url: Option<String>,
    /// Of a file.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_data: Option<String>,
    /// Of a file.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
    /// Of audio.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub input_audio: Option<InputAudio>,
}

/// One part of a message's content.
#[derive(Clone, Debug, PartialEq, Serialize, Union)]
#[serde(untagged)]
#[oai(one_of)]
pub(crate) enum ResponsesPart {
    Input(ResponsesInputText),
    Output(ResponsesOutputText),
    Refusal(ResponsesRefusal),
    Media(ResponsesMedia),
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
    /// Of the tools in whose namespace the function is.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    /// The arguments as JSON text.
    pub arguments: String,
    pub status: ItemStatus,
}

/// A call of a tool that is given a text.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesCustomCall {
    pub id: String,
    pub r#type: CustomCallKind,
    /// To be named by the item that brings the result.
    pub call_id: String,
    /// Of the tools in whose namespace the tool is.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub namespace: Option<String>,
    pub name: String,
    pub input: String,
    pub status: ItemStatus,
}

/// What a called function or tool gave back.
#[derive(Clone, Debug, PartialEq, Serialize, Object)]
pub(crate) struct ResponsesCallOutput {
    pub id: String,
    pub r#type: CallOutputKind,
    pub call_id: String,
    /// Text, or a list of parts if they are more than texts.
    pub output: TextOr<ResponsesPart>,
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
    CustomCall(ResponsesCustomCall),
    CallOutput(ResponsesCallOutput),
    Reasoning(ResponsesReasoning),
}

impl ResponsesItem {
    pub(super) fn id(&self) -> &str {
        match self {
            Self::Message(item) => &item.id,
            Self::Call(item) => &item.id,
            Self::CustomCall(item) => &item.id,
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

    /// The part of a conversation that it is, given the field that says what it is.
    pub(super) fn part(&self, field: &str) -> Part {
        Part::Text(match self {
            Self::Input(part) => part.text.clone(),
            Self::Output(part) => part.text.clone(),
            Self::Refusal(part) => part.refusal.clone(),
            Self::Media(part) => return part.part(field),
        })
    }
}

impl ResponsesMedia {
    fn part(&self, field: &str) -> Part {
        let media = |media_type, source| Media {
            field: field.to_owned(),
            kind: self.r#type.wire_text(),
            media_type,
            source,
        };
        let id = || self.file_id.clone().map(Source::FileId);
        match self.r#type {
            MediaKind::Image => {
                let url = self.image_url.as_ref().map(|image| Source::Url(image.url().to_owned()));
                Part::Image(media(None, url.or_else(id)))
            }
            MediaKind::Audio => {
                let audio = self.input_audio.as_ref();
                let format = audio.and_then(|audio| audio.format.as_deref());
                let data = audio.and_then(|audio| audio.data.clone());
                let media_type = format.map(|format| format!("audio/{format}"));
                Part::Audio(media(media_type, data.map(Source::Base64)))
            }
            MediaKind::File => {
                let url = self.file_url.clone().or_else(|| self.file_data.clone());
                Part::Document(media(None, url.map(Source::Url).or_else(id)))
            }
        }
    }
}
