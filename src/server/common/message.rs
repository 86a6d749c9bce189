//! Chat messages on the wire, and the conversation that they make.

use poem_openapi::{Object, registry::MetaSchema};
use serde::{Deserialize, Serialize};

use crate::{
    chat::{
        ChatInput,
        conversation::{self, Arguments, Call, Media, Source},
    },
    error::{Error, Result},
    server::schema::{
        FreeObject, TextOr, object, optional_object, optional_objects, text_or_objects, wire_enum,
        wire_type,
    },
};

/// More messages than this are refused.
pub(crate) const MAX_MESSAGES: usize = 8192;

wire_enum! {
    /// Who speaks.
    pub(crate) enum Role {
        System = "system",
        /// The newer name of `system`.
        Developer = "developer",
        User = "user",
        Assistant = "assistant",
        Tool = "tool",
        /// The older form of `tool`.
        Function = "function",
    }
}

wire_enum! {
    /// What a part of a message holds. Images, audio and files are refused in the last message where
    /// the model reads text only, and left out of earlier ones.
    pub(crate) enum PartKind {
        Text = "text",
        Refusal = "refusal",
        ImageUrl = "image_url",
        InputAudio = "input_audio",
        File = "file",
    }
}

wire_enum! {
    /// What a tool call calls.
    pub(crate) enum ToolKind {
        Function = "function",
    }
}

/// An image.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct Image {
    /// Where it is, or its bytes (`data:`).
    pub url: String,
    /// How closely the model looks.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub detail: Option<String>,
}

/// An image, or where it is.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected an object with a url")]
pub(crate) enum ImageOrUrl {
    Url(String),
    Image(Image),
}

wire_type!(
    ImageOrUrl,
    "image_or_url",
    {
        let one_of = vec![String::schema_ref(), Image::schema_ref()];
        MetaSchema { one_of, ..MetaSchema::ANY }
    },
    Image
);

impl ImageOrUrl {
    pub(crate) fn url(&self) -> &str {
        match self {
            Self::Url(url) | Self::Image(Image { url, .. }) => url,
        }
    }
}

/// Sound.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct InputAudio {
    /// The bytes in base 64.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
    /// Such as `wav`.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub format: Option<String>,
}

/// A file.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct InputFile {
    /// The bytes (`data:`).
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_data: Option<String>,
    /// A file that was sent before.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub file_id: Option<String>,
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub filename: Option<String>,
}

/// One part of a message's content; which fields it has depends on its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct Part {
    pub r#type: PartKind,
    /// Required when `type` is `text`.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub text: Option<String>,
    /// Required when `type` is `refusal`.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub refusal: Option<String>,
    /// Of an `image_url`.
    #[oai(nullable)]
    #[serde(skip_serializing_if = "Option::is_none")]
    pub image_url: Option<ImageOrUrl>,
    /// Of an `input_audio`.
    #[oai(nullable)]
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub input_audio: Option<InputAudio>,
    /// Of a `file`.
    #[oai(nullable)]
    #[serde(
        default,
        deserialize_with = "optional_object",
        skip_serializing_if = "Option::is_none"
    )]
    pub file: Option<InputFile>,
}

/// A function that the assistant called in an earlier turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct ToolCall {
    pub id: String,
    pub r#type: ToolKind,
    #[serde(deserialize_with = "object")]
    pub function: FunctionCall,
}

/// Name and arguments of a called function.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct FunctionCall {
    pub name: String,
    /// The arguments as JSON text.
    pub arguments: String,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Deserialize, Object)]
#[oai(rename = "ChatMessage")]
pub(crate) struct Message {
    pub role: Role,
    /// Text, or a list of parts. May be null only for an assistant message with tool calls.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "text_or_objects")]
    pub content: Option<TextOr<Part>>,
    /// The participant's name; templates decide whether it shows.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Functions that the assistant called.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tool_calls: Option<Vec<ToolCall>>,
    /// Of which call this `tool` message is the result.
    #[oai(nullable)]
    pub tool_call_id: Option<String>,
    /// What the assistant refused with.
    #[oai(nullable)]
    pub refusal: Option<String>,
    /// What the assistant thought before it answered; templates decide whether it shows.
    #[oai(nullable)]
    pub reasoning_content: Option<String>,
    /// The older form of `tool_calls`; not supported.
    #[oai(nullable)]
    pub function_call: Option<FreeObject>,
    /// Audio of an earlier answer; not supported.
    #[oai(nullable)]
    pub audio: Option<FreeObject>,
}

/// A conversation for the chat template, as requests of several routes bring it: either the
/// assistant's next turn begins, or its last message goes on.
pub(crate) fn conversation(
    messages: Vec<Message>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
) -> Result<ChatInput> {
    let continues = continue_final_message.unwrap_or(false);
    let add_generation_prompt = add_generation_prompt.unwrap_or(!continues);
    if continues && add_generation_prompt {
        let text = "add_generation_prompt and continue_final_message exclude each other";
        return Err(Error::invalid("continue_final_message", text));
    }
    let messages = normalise(messages)?;
    let role = messages.last().map(|last| last.role);
    if continues && role != Some(conversation::Role::Assistant) {
        let text = "continue_final_message: the last message must be the assistant's";
        return Err(Error::invalid("continue_final_message", text));
    }
    Ok(ChatInput {
        messages,
        add_generation_prompt,
        continue_final_message: continues,
        ..ChatInput::default()
    })
}

/// Checks the messages; `system` stands for `developer`.
fn normalise(messages: Vec<Message>) -> Result<Vec<conversation::Message>> {
    if messages.is_empty() {
        return Err(Error::invalid("messages", "messages: at least one message is required"));
    }
    if messages.len() > MAX_MESSAGES {
        let text = format!("messages: {} messages, limit {MAX_MESSAGES}", messages.len());
        return Err(Error::invalid("messages", text));
    }
    messages
        .into_iter()
        .enumerate()
        .map(|(i, message)| message.normalise(&format!("messages[{i}]")))
        .collect()
}

impl Message {
    fn normalise(self, path: &str) -> Result<conversation::Message> {
        self.refuse_unsupported(path)?;
        let calls = self.tool_calls.unwrap_or_default();
        let parts = match (self.content, self.refusal) {
            (Some(content), _) => parts(content, &format!("{path}.content"))?,
            (None, Some(refusal)) if self.role == Role::Assistant => {
                vec![conversation::Part::Text(refusal)]
            }
            (None, None) if self.role == Role::Assistant && !calls.is_empty() => Vec::new(),
            (None, _) => {
                let field = format!("{path}.content");
                let text = format!("{field}: a string or an array of parts is required");
                return Err(Error::invalid(field, text));
            }
        };
        if self.role == Role::Tool && self.tool_call_id.is_none() {
            let field = format!("{path}.tool_call_id");
            let text = format!("{field}: a tool message must say which call it answers");
            return Err(Error::invalid(field, text));
        }
        if !calls.is_empty() && self.role != Role::Assistant {
            let field = format!("{path}.tool_calls");
            let text = format!("{field}: only an assistant message has tool calls");
            return Err(Error::invalid(field, text));
        }
        let role = match self.role {
            Role::System | Role::Developer => conversation::Role::System,
            Role::User => conversation::Role::User,
            Role::Assistant => conversation::Role::Assistant,
            Role::Tool | Role::Function => conversation::Role::Tool,
        };
        Ok(conversation::Message {
            role,
            parts,
            calls: calls.into_iter().map(ToolCall::into_call).collect(),
            reasoning: self.reasoning_content,
            name: self.name,
            call_id: self.tool_call_id,
        })
    }

    fn refuse_unsupported(&self, path: &str) -> Result<()> {
        for (name, present) in
            [("function_call", self.function_call.is_some()), ("audio", self.audio.is_some())]
        {
            if present {
                let field = format!("{path}.{name}");
                let text = format!("{field}: this parameter is not supported");
                return Err(Error::invalid(field, text));
            }
        }
        Ok(())
    }
}

fn parts(content: TextOr<Part>, path: &str) -> Result<Vec<conversation::Part>> {
    let parts = match content {
        TextOr::Text(text) => return Ok(vec![conversation::Part::Text(text)]),
        TextOr::Items(parts) => parts,
    };
    if parts.is_empty() {
        return Err(Error::invalid(path, format!("{path}: at least one part is required")));
    }
    let parts = parts.into_iter().enumerate();
    parts.map(|(i, part)| part.normalise(&format!("{path}[{i}]"))).collect()
}

impl Part {
    fn normalise(self, path: &str) -> Result<conversation::Part> {
        let required = |name: &str, text: Option<String>| {
            let field = format!("{path}.{name}");
            let problem = format!("{field}: this required field is missing");
            text.map(conversation::Part::Text).ok_or_else(|| Error::invalid(field, problem))
        };
        let media = |media_type, source| Media {
            field: format!("{path}.type"),
            kind: self.r#type.wire_text(),
            media_type,
            source,
        };
        Ok(match self.r#type {
            PartKind::Text => required("text", self.text)?,
            PartKind::Refusal => required("refusal", self.refusal)?,
            PartKind::ImageUrl => {
                let url = self.image_url.map(|image| Source::Url(image.url().to_owned()));
                conversation::Part::Image(media(None, url))
            }
            PartKind::InputAudio => {
                let (data, format) = self.input_audio.map_or((None, None), |a| (a.data, a.format));
                let media_type = format.map(|format| format!("audio/{format}"));
                conversation::Part::Audio(media(media_type, data.map(Source::Base64)))
            }
            PartKind::File => {
                let (data, id) = self.file.map_or((None, None), |f| (f.file_data, f.file_id));
                let source = data.map(Source::Url).or(id.map(Source::FileId));
                conversation::Part::Document(media(None, source))
            }
        })
    }
}

impl ToolCall {
    fn into_call(self) -> Call {
        let FunctionCall { name, arguments } = self.function;
        Call { id: self.id, name, arguments: Arguments::Text(arguments) }
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;
    use crate::chat::message_json;

    fn messages(value: Value) -> Vec<Message> {
        serde_json::from_value(value).expect("messages")
    }

    #[test]
    fn contents_become_what_templates_read() {
        let wire = json!([
            {"role": "developer", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}
            ]},
            {"role": "tool", "tool_call_id": "c1", "content": "2"},
        ]);
        let normal = normalise(messages(wire)).expect("valid");
        let expected = json!([
            {"role": "system", "content": "be brief"},
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}]},
            {"role": "assistant", "content": null, "tool_calls": [
                {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{\"x\": 1}"}}
            ]},
            {"role": "tool", "content": "2", "tool_call_id": "c1"},
        ]);
        assert_eq!(normal.iter().map(message_json).collect::<Value>(), expected);
    }

    #[test]
    fn errors_name_the_field() {
        let call = |arguments: &str| json!([{"id": "c", "type": "function", "function": {"name": "f", "arguments": arguments}}]);
        let cases = [
            (json!([]), "messages"),
            (json!([{"role": "user"}]), "messages[0].content"),
            (json!([{"role": "user", "content": []}]), "messages[0].content"),
            (
                json!([{"role": "user", "content": [{"type": "text"}]}]),
                "messages[0].content[0].text",
            ),
            (json!([{"role": "assistant", "content": null}]), "messages[0].content"),
            (json!([{"role": "tool", "content": "x"}]), "messages[0].tool_call_id"),
            (
                json!([{"role": "user", "content": "x", "tool_calls": call("{}")}]),
                "messages[0].tool_calls",
            ),
        ];
        for (wire, param) in cases {
            let error = normalise(messages(wire.clone())).expect_err("invalid");
            assert_eq!(error.param.as_deref(), Some(param), "{wire}");
        }
    }
}
