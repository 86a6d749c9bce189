//! Conversations: who says what, what is to be seen or heard with it, and which functions are called.
//!
//! A dialect makes these of its requests; what a template is given of them is made in `template`.

use serde_json::{Map, Value};

use crate::error::{Error, Result};

/// A conversation to be rendered.
#[derive(Clone, Debug, Default)]
pub struct ChatInput {
    /// Oldest first.
    pub messages: Vec<Message>,
    /// Tool definitions, an array.
    pub tools: Option<Value>,
    /// Ends with the beginning of the model's turn.
    pub add_generation_prompt: bool,
    /// The last message is the beginning of the model's answer, which it goes on with.
    pub continue_final_message: bool,
    /// Further variables of the template, such as `enable_thinking`.
    pub kwargs: Map<String, Value>,
    /// A chat template of the request's own, by its text or its name.
    pub template: Option<String>,
    /// Where it does not fit the context, the oldest turns may be left out.
    pub may_cut: bool,
}

/// Who speaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    System,
    User,
    Assistant,
    /// The result of a call.
    Tool,
}

impl Role {
    /// The name that templates know.
    #[must_use]
    pub fn name(self) -> &'static str {
        match self {
            Self::System => "system",
            Self::User => "user",
            Self::Assistant => "assistant",
            Self::Tool => "tool",
        }
    }
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq)]
pub struct Message {
    pub role: Role,
    /// In their order; a message that only calls has none.
    pub parts: Vec<Part>,
    /// Functions that the assistant called.
    pub calls: Vec<Call>,
    /// What the assistant thought before it answered.
    pub reasoning: Option<String>,
    /// The speaker's name, or the function of which this is the result.
    pub name: Option<String>,
    /// The call of which this is the result.
    pub call_id: Option<String>,
}

/// A part of a message.
#[derive(Clone, Debug, PartialEq)]
pub enum Part {
    Text(String),
    Image(Media),
    Audio(Media),
    /// A file that is more than its text, such as a PDF.
    Document(Media),
}

/// What a model would see or hear, as the request brought it.
#[derive(Clone, Debug, PartialEq)]
pub struct Media {
    /// The field of the request that says what this is, by the client's own path:
    /// `messages[0].content[1].type`.
    pub field: String,
    /// What the client calls it, such as `image_url`.
    pub kind: &'static str,
    /// If the request names it, such as `image/png`.
    pub media_type: Option<String>,
    /// `None`: the request does not say.
    pub source: Option<Source>,
}

/// Where the bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Source {
    /// Of a server, or with the bytes in it (`data:`).
    Url(String),
    /// The bytes, in base 64.
    Base64(String),
    /// The id of a file that was sent before.
    FileId(String),
}

/// A call of a function.
#[derive(Clone, Debug, PartialEq)]
pub struct Call {
    pub id: String,
    pub name: String,
    pub arguments: Arguments,
}

/// Arguments of a call, as they came.
#[derive(Clone, Debug, PartialEq)]
pub enum Arguments {
    /// JSON text, whole or cut: a model reads what it wrote.
    Text(String),
    Object(Map<String, Value>),
}

impl Message {
    /// A message of these parts and nothing else.
    #[must_use]
    pub fn new(role: Role, parts: Vec<Part>) -> Self {
        Self { role, parts, calls: Vec::new(), reasoning: None, name: None, call_id: None }
    }

    /// A message of one text.
    pub fn text(role: Role, text: impl Into<String>) -> Self {
        Self::new(role, vec![Part::Text(text.into())])
    }

    /// Its texts, in their order.
    pub fn texts(&self) -> impl Iterator<Item = &str> {
        self.parts.iter().filter_map(Part::as_text)
    }

    /// Bytes of what templates are given of it.
    pub(super) fn num_bytes(&self) -> usize {
        let texts: usize = self.texts().map(str::len).sum();
        let others = [&self.reasoning, &self.name, &self.call_id].into_iter().flatten();
        let calls = self.calls.iter().map(|call| {
            let arguments = match &call.arguments {
                Arguments::Text(text) => text.len(),
                Arguments::Object(object) => object.iter().map(|(k, v)| k.len() + bytes(v)).sum(),
            };
            call.id.len() + call.name.len() + arguments
        });
        texts + others.map(String::len).sum::<usize>() + calls.sum::<usize>()
    }
}

/// Bytes of the strings in a value.
pub(super) fn bytes(value: &Value) -> usize {
    match value {
        Value::String(text) => text.len(),
        Value::Array(items) => items.iter().map(bytes).sum(),
        Value::Object(entries) => entries.iter().map(|(key, item)| key.len() + bytes(item)).sum(),
        Value::Null | Value::Bool(_) | Value::Number(_) => 0,
    }
}

impl Part {
    /// The text, if it is one.
    #[must_use]
    pub fn as_text(&self) -> Option<&str> {
        match self {
            Self::Text(text) => Some(text),
            Self::Image(_) | Self::Audio(_) | Self::Document(_) => None,
        }
    }

    /// What a model would have to see or hear, and the word for its kind.
    fn media(&self) -> Option<(&Media, &'static str)> {
        match self {
            Self::Text(_) => None,
            Self::Image(media) => Some((media, "images")),
            Self::Audio(media) => Some((media, "audio")),
            Self::Document(media) => Some((media, "documents")),
        }
    }
}

impl Media {
    /// Where it stands in the request.
    fn place(&self) -> &str {
        self.field.strip_suffix(".type").unwrap_or(&self.field)
    }
}

/// Checks a conversation for a model that reads text only, and says what it leaves out: what messages
/// before the last have beside their texts was answered, so that the conversation goes on without.
///
/// # Errors
/// 400 with the client's path if the last message has something to see or to hear.
pub(super) fn check_text_only(messages: &[Message]) -> Result<Vec<String>> {
    let Some((last, past)) = messages.split_last() else { return Ok(Vec::new()) };
    if let Some((media, kind)) = last.parts.iter().find_map(Part::media) {
        let text = format!("{}: this model reads text only, no {kind}", media.field);
        return Err(Error::invalid(media.field.clone(), text));
    }
    let left_out = past.iter().flat_map(|message| &message.parts).filter_map(Part::media);
    Ok(left_out.map(|(media, _)| format!("{} ({})", media.place(), media.kind)).collect())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(field: &str) -> Part {
        let source = Some(Source::Base64(String::new()));
        let kind = "image_url";
        Part::Image(Media { field: field.to_owned(), kind, media_type: None, source })
    }

    #[test]
    fn what_was_answered_is_left_out_and_what_is_new_is_refused() {
        let text = || Message::text(Role::User, "a");
        let seen = || Message::new(Role::User, vec![image("m[0].content[0].type")]);
        assert_eq!(check_text_only(&[text(), text()]), Ok(vec![]));
        let told = vec!["m[0].content[0] (image_url)".to_owned()];
        assert_eq!(check_text_only(&[seen(), text()]), Ok(told));
        let error = check_text_only(&[text(), seen()]).expect_err("it cannot be seen");
        assert_eq!(error.param.as_deref(), Some("m[0].content[0].type"));
        assert!(error.message.ends_with("reads text only, no images"), "{}", error.message);
    }
}
