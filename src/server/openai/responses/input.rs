//! Items on the wire, as clients send them: checked, and brought into the form of [`items`](super::items).

use poem_openapi::Object;
use serde::{Deserialize, Serialize};

use super::items::{
    CallKind, CallOutputKind, CustomCallKind, ItemRole, ItemStatus, MediaKind, MessageKind,
    ReasoningKind, ReasoningTextKind, RefusalKind, ResponsesCall, ResponsesCallOutput,
    ResponsesCustomCall, ResponsesItem, ResponsesMedia, ResponsesMessage, ResponsesPart,
    ResponsesReasoning, ResponsesReasoningText, ResponsesRefusal, ResponsesSummaryText,
    SummaryTextKind,
};
use crate::{
    error::{Error, Result},
    server::{
        common::{ImageOrUrl, InputAudio},
        desk::random_id,
        schema::{TextOr, optional_object, optional_objects, text_or_objects, wire_enum},
    },
};

wire_enum! {
    /// What an item is. Calls of tools that OpenAI's servers run are not supported.
    pub(crate) enum ItemKind {
        Message = "message",
        FunctionCall = "function_call",
        FunctionCallOutput = "function_call_output",
        CustomToolCall = "custom_tool_call",
        CustomToolCallOutput = "custom_tool_call_output",
        Reasoning = "reasoning",
        /// An item of a stored response.
        ItemReference = "item_reference",
    }
}

wire_enum! {
    /// What a part holds. Images, audio and files are refused in the last item where the model reads
    /// text only, and left out of earlier ones.
    pub(crate) enum InputPartKind {
        InputText = "input_text",
        InputImage = "input_image",
        InputAudio = "input_audio",
        InputFile = "input_file",
        OutputText = "output_text",
        Refusal = "refusal",
        ReasoningText = "reasoning_text",
        SummaryText = "summary_text",
    }
}

/// One part of an item; which fields it has depends on its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct ResponsesInputPart {
    pub r#type: InputPartKind,
    /// Of a text.
    #[oai(nullable)]
    pub text: Option<String>,
    /// Required when `type` is `refusal`.
    #[oai(nullable)]
    pub refusal: Option<String>,
    /// Of an `input_image`.
    #[oai(nullable)]
    pub image_url: Option<ImageOrUrl>,
    /// Of an `input_image` or `input_file`.
    #[oai(nullable)]
    pub file_id: Option<String>,
    /// Of an `input_file`.
    #[oai(nullable)]
    pub file_url: Option<String>,
    /// Of an `input_file`.
    #[oai(nullable)]
    pub file_data: Option<String>,
    /// Of an `input_file`.
    #[oai(nullable)]
    pub filename: Option<String>,
    /// Of an `input_audio`.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub input_audio: Option<InputAudio>,
}

/// One item of the input; which fields it has depends on its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct ResponsesInputItem {
    /// `message` if absent.
    #[oai(nullable)]
    pub r#type: Option<ItemKind>,
    /// As an answer had it; required for an `item_reference`.
    #[oai(nullable)]
    pub id: Option<String>,
    #[oai(nullable)]
    pub status: Option<ItemStatus>,
    /// Of a `message`: who speaks.
    #[oai(nullable)]
    pub role: Option<ItemRole>,
    /// Of a `message`: text, or a list of parts. Of `reasoning`: what the assistant thought; templates
    /// decide whether it shows.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "text_or_objects")]
    pub content: Option<TextOr<ResponsesInputPart>>,
    /// Of a call and its output.
    #[oai(nullable)]
    pub call_id: Option<String>,
    /// Of a call: the namespace of what is called.
    #[oai(nullable)]
    pub namespace: Option<String>,
    /// Of a call.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Of a `custom_tool_call`.
    #[oai(nullable)]
    pub input: Option<String>,
    /// Of a `function_call`: the arguments as JSON text.
    #[oai(nullable)]
    pub arguments: Option<String>,
    /// Of the output of a call: text, or a list of parts.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "text_or_objects")]
    pub output: Option<TextOr<ResponsesInputPart>>,
    /// Of `reasoning`.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_objects")]
    pub summary: Option<Vec<ResponsesInputPart>>,
    /// Of `reasoning`; of no effect: thoughts that another server has encrypted cannot be read.
    #[oai(nullable)]
    pub encrypted_content: Option<String>,
}

/// An item, or where to find it.
pub(super) enum Given {
    Item(ResponsesItem),
    /// The id of an item of a stored response.
    Reference(String),
}

impl ResponsesInputItem {
    pub(super) fn read(self, path: &str) -> Result<Given> {
        let kind = self.r#type.unwrap_or(ItemKind::Message);
        self.check(kind, path)?;
        let status = self.status.unwrap_or(ItemStatus::Completed);
        let id = |prefix: &str| match &self.id {
            Some(id) if !id.is_empty() => id.clone(),
            _ => format!("{prefix}_{}", random_id()),
        };
        Ok(Given::Item(match kind {
            ItemKind::ItemReference => {
                return required(self.id, path, "id").map(Given::Reference);
            }
            ItemKind::Message => {
                let id = id("msg");
                let role = required(self.role, path, "role")?;
                let content = required(self.content, path, "content")?;
                ResponsesItem::Message(ResponsesMessage {
                    id,
                    r#type: MessageKind::Only,
                    role,
                    status,
                    content: parts(content, role, &format!("{path}.content"))?,
                })
            }
            ItemKind::FunctionCall => ResponsesItem::Call(ResponsesCall {
                id: id("fc"),
                r#type: CallKind::Only,
                call_id: required(self.call_id, path, "call_id")?,
                namespace: self.namespace,
                name: required(self.name, path, "name")?,
                // Whole or cut, they are the text that the model wrote.
                arguments: required(self.arguments, path, "arguments")?,
                status,
            }),
            ItemKind::CustomToolCall => ResponsesItem::CustomCall(ResponsesCustomCall {
                id: id("ctc"),
                r#type: CustomCallKind::Only,
                call_id: required(self.call_id, path, "call_id")?,
                namespace: self.namespace,
                name: required(self.name, path, "name")?,
                input: required(self.input, path, "input")?,
                status,
            }),
            ItemKind::FunctionCallOutput | ItemKind::CustomToolCallOutput => {
                let (id, kind) = match kind {
                    ItemKind::FunctionCallOutput => (id("fco"), CallOutputKind::Function),
                    _ => (id("ctco"), CallOutputKind::Custom),
                };
                let output = required(self.output, path, "output")?;
                ResponsesItem::CallOutput(ResponsesCallOutput {
                    id,
                    r#type: kind,
                    call_id: required(self.call_id, path, "call_id")?,
                    output: returned(output, &format!("{path}.output"))?,
                    status,
                })
            }
            ItemKind::Reasoning => {
                let id = id("rs");
                ResponsesItem::Reasoning(reasoning(self, id, status, path)?)
            }
        }))
    }

    /// A field that belongs to another type of item is a mistake.
    fn check(&self, kind: ItemKind, path: &str) -> Result<()> {
        use ItemKind::{
            CustomToolCall, CustomToolCallOutput, FunctionCall, FunctionCallOutput, Message,
            Reasoning,
        };

        let fields = [
            ("role", self.role.is_some(), &[Message][..]),
            ("content", self.content.is_some(), &[Message, Reasoning]),
            (
                "call_id",
                self.call_id.is_some(),
                &[FunctionCall, FunctionCallOutput, CustomToolCall, CustomToolCallOutput],
            ),
            // The newest clients name the function of an output as well.
            (
                "name",
                self.name.is_some(),
                &[FunctionCall, FunctionCallOutput, CustomToolCall, CustomToolCallOutput],
            ),
            ("arguments", self.arguments.is_some(), &[FunctionCall]),
            ("input", self.input.is_some(), &[CustomToolCall]),
            ("output", self.output.is_some(), &[FunctionCallOutput, CustomToolCallOutput]),
            ("summary", self.summary.is_some(), &[Reasoning]),
            ("encrypted_content", self.encrypted_content.is_some(), &[Reasoning]),
        ];
        match fields.iter().find(|(_, given, owners)| *given && !owners.contains(&kind)) {
            Some((name, ..)) => {
                let field = format!("{path}.{name}");
                let text = format!("{field}: an item of this type has no such field");
                Err(Error::invalid(field, text))
            }
            None => Ok(()),
        }
    }
}

fn parts(
    content: TextOr<ResponsesInputPart>,
    role: ItemRole,
    path: &str,
) -> Result<Vec<ResponsesPart>> {
    let is_assistant = role == ItemRole::Assistant;
    let items = match content {
        TextOr::Text(text) if is_assistant => return Ok(vec![ResponsesPart::output(text, vec![])]),
        TextOr::Text(text) => return Ok(vec![ResponsesPart::input(text)]),
        TextOr::Items(items) => items,
    };
    if items.is_empty() {
        return Err(Error::invalid(path, format!("{path}: at least one part is required")));
    }
    let read = |(i, part): (usize, ResponsesInputPart)| {
        let path = format!("{path}[{i}]");
        Ok(match part.r#type {
            InputPartKind::InputText => ResponsesPart::input(required(part.text, &path, "text")?),
            InputPartKind::OutputText if is_assistant => {
                ResponsesPart::output(required(part.text, &path, "text")?, Vec::new())
            }
            InputPartKind::Refusal if is_assistant => ResponsesPart::Refusal(ResponsesRefusal {
                r#type: RefusalKind::Only,
                refusal: required(part.refusal, &path, "refusal")?,
            }),
            InputPartKind::InputImage => part.media(MediaKind::Image),
            InputPartKind::InputAudio => part.media(MediaKind::Audio),
            InputPartKind::InputFile => part.media(MediaKind::File),
            _ => return Err(misplaced(&path)),
        })
    };
    items.into_iter().enumerate().map(read).collect()
}

impl ResponsesInputPart {
    fn media(self, kind: MediaKind) -> ResponsesPart {
        ResponsesPart::Media(ResponsesMedia {
            r#type: kind,
            image_url: self.image_url,
            file_id: self.file_id,
            file_url: self.file_url,
            file_data: self.file_data,
            filename: self.filename,
            input_audio: self.input_audio,
        })
    }
}

/// A result; texts alone are one, joined by line breaks.
fn returned(content: TextOr<ResponsesInputPart>, path: &str) -> Result<TextOr<ResponsesPart>> {
    let items = match content {
        TextOr::Text(text) => return Ok(TextOr::Text(text)),
        TextOr::Items(items) => items,
    };
    use InputPartKind::{InputAudio, InputFile, InputImage};
    let is_media =
        |item: &ResponsesInputPart| matches!(item.r#type, InputImage | InputAudio | InputFile);
    if items.iter().any(is_media) {
        return parts(TextOr::Items(items), ItemRole::User, path).map(TextOr::Items);
    }
    Ok(TextOr::Text(texts(items, InputPartKind::InputText, path)?.join("\n")))
}

fn texts(items: Vec<ResponsesInputPart>, kind: InputPartKind, path: &str) -> Result<Vec<String>> {
    let read = |(i, part): (usize, ResponsesInputPart)| {
        let path = format!("{path}[{i}]");
        if part.r#type != kind {
            return Err(misplaced(&path));
        }
        required(part.text, &path, "text")
    };
    items.into_iter().enumerate().map(read).collect()
}

fn reasoning(
    item: ResponsesInputItem,
    id: String,
    status: ItemStatus,
    path: &str,
) -> Result<ResponsesReasoning> {
    let content = match item.content {
        None => Vec::new(),
        Some(TextOr::Text(text)) => vec![text],
        Some(TextOr::Items(items)) => {
            texts(items, InputPartKind::ReasoningText, &format!("{path}.content"))?
        }
    };
    let summary = item.summary.unwrap_or_default();
    let summary = texts(summary, InputPartKind::SummaryText, &format!("{path}.summary"))?;
    let thought = |text| ResponsesReasoningText { r#type: ReasoningTextKind::Only, text };
    let summed = |text| ResponsesSummaryText { r#type: SummaryTextKind::Only, text };
    Ok(ResponsesReasoning {
        id,
        r#type: ReasoningKind::Only,
        summary: summary.into_iter().map(summed).collect(),
        content: content.into_iter().map(thought).collect(),
        encrypted_content: None,
        status,
    })
}

fn required<T>(value: Option<T>, path: &str, name: &str) -> Result<T> {
    value.ok_or_else(|| missing(&format!("{path}.{name}")))
}

pub(super) fn missing(field: &str) -> Error {
    let text = format!("{field}: this required field is missing");
    Error::invalid(field, text).with_code("missing_required_parameter")
}

fn misplaced(path: &str) -> Error {
    let field = format!("{path}.type");
    let text = format!("{field}: a part of this type does not belong here");
    Error::invalid(field, text)
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn errors_name_the_field() {
        let cases = [
            (json!({"content": "a"}), "i.role"),
            (json!({"role": "user"}), "i.content"),
            (json!({"role": "user", "content": []}), "i.content"),
            (json!({"role": "user", "content": [{"type": "input_text"}]}), "i.content[0].text"),
            (
                json!({"role": "user", "content": [{"type": "output_text", "text": "a"}]}),
                "i.content[0].type",
            ),
            (json!({"role": "user", "content": "a", "call_id": "c"}), "i.call_id"),
            (json!({"type": "function_call", "name": "f", "arguments": "{}"}), "i.call_id"),
            (json!({"type": "function_call_output", "call_id": "c"}), "i.output"),
            (json!({"type": "item_reference"}), "i.id"),
            (
                json!({"type": "reasoning", "content": [{"type": "input_text", "text": "a"}]}),
                "i.content[0].type",
            ),
        ];
        for (wire, param) in cases {
            let item: ResponsesInputItem = serde_json::from_value(wire.clone()).expect("an item");
            let error = item.read("i").err().expect("invalid");
            assert_eq!(error.param.as_deref(), Some(param), "{wire}");
        }
    }
}
