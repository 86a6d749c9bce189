//! Messages and their content blocks on the wire.

use poem_openapi::{Object, registry::MetaSchema};
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    server::schema::{FreeObject, TextOr, text_or_objects, wire_enum, wire_type},
};

wire_enum! {
    /// Who speaks.
    pub(crate) enum Speaker {
        User = "user",
        Assistant = "assistant",
        /// Instructions in the middle of a conversation.
        System = "system",
    }
}

wire_enum! {
    /// What a text is called.
    pub(crate) enum TextKind {
        Text = "text",
    }
}

wire_enum! {
    /// What a block holds. Images and documents are refused in the last message where the model reads
    /// text only, and left out of earlier ones; results of search are not supported.
    pub(crate) enum BlockKind {
        Text = "text",
        Image = "image",
        Document = "document",
        Thinking = "thinking",
        ToolUse = "tool_use",
        ToolResult = "tool_result",
    }
}

wire_enum! {
    /// What a block of a tool's result holds. Images and documents: as in messages.
    pub(crate) enum ResultKind {
        Text = "text",
        Image = "image",
        Document = "document",
    }
}

wire_enum! {
    /// How a cached prefix ends.
    pub(crate) enum CacheKind {
        Ephemeral = "ephemeral",
    }
}

wire_enum! {
    /// How long a cached prefix is kept.
    pub(crate) enum CacheSpan {
        Minutes = "5m",
        Hour = "1h",
    }
}

/// A hint what to cache; this server finds every cached prefix without.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct CacheControl {
    pub r#type: CacheKind,
    #[oai(nullable)]
    pub ttl: Option<CacheSpan>,
}

/// A text.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AnthropicText {
    pub r#type: TextKind,
    pub text: String,
    #[oai(nullable)]
    pub cache_control: Option<CacheControl>,
    /// Of no effect: the text is read without them.
    #[oai(nullable)]
    pub citations: Option<Vec<FreeObject>>,
}

/// What a text cites, or whether a document may be cited.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a list of citations, or an object")]
pub(crate) enum Citations {
    List(Vec<FreeObject>),
    Switch(FreeObject),
}

wire_type!(Citations, "citations", {
    let one_of = vec![<Vec<FreeObject>>::schema_ref(), FreeObject::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

/// One block of a message's content; which fields it has depends on its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AnthropicBlock {
    pub r#type: BlockKind,
    /// Of a `text`.
    #[oai(nullable)]
    pub text: Option<String>,
    /// Of a `text` or `document`; of no effect: the text is read without them.
    #[oai(nullable)]
    pub citations: Option<Citations>,
    /// Of an `image` or `document`: the bytes in base 64, or where they are.
    #[oai(nullable)]
    pub source: Option<FreeObject>,
    /// Of a `document`.
    #[oai(nullable)]
    pub title: Option<String>,
    /// Of a `document`.
    #[oai(nullable)]
    pub context: Option<String>,
    /// Of `thinking`: what the assistant thought; templates decide whether it shows.
    #[oai(nullable)]
    pub thinking: Option<String>,
    /// Of `thinking`; this server does not sign what models think, and checks nothing.
    #[oai(nullable)]
    pub signature: Option<String>,
    /// Of a `tool_use`.
    #[oai(nullable)]
    pub id: Option<String>,
    /// Of a `tool_use`: the tool.
    #[oai(nullable)]
    pub name: Option<String>,
    /// Of a `tool_use`: the arguments.
    #[oai(nullable)]
    pub input: Option<FreeObject>,
    /// Of a `tool_result`: which call it answers.
    #[oai(nullable)]
    pub tool_use_id: Option<String>,
    /// Of a `tool_result`: text, or a list of blocks.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "text_or_objects")]
    pub content: Option<TextOr<AnthropicResultBlock>>,
    /// Of a `tool_result`: the model reads it behind the word `Error:`.
    #[oai(nullable)]
    pub is_error: Option<bool>,
    #[oai(nullable)]
    pub cache_control: Option<CacheControl>,
}

/// One block of a tool's result; which fields it has depends on its type.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AnthropicResultBlock {
    pub r#type: ResultKind,
    /// Of a `text`.
    #[oai(nullable)]
    pub text: Option<String>,
    /// Of no effect: the text is read without them.
    #[oai(nullable)]
    pub citations: Option<Citations>,
    /// Of an `image` or `document`: the bytes in base 64, or where they are.
    #[oai(nullable)]
    pub source: Option<FreeObject>,
    /// Of a `document`.
    #[oai(nullable)]
    pub title: Option<String>,
    /// Of a `document`.
    #[oai(nullable)]
    pub context: Option<String>,
    #[oai(nullable)]
    pub cache_control: Option<CacheControl>,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct AnthropicMessage {
    pub role: Speaker,
    /// Text, or a list of blocks.
    #[serde(default, deserialize_with = "text_or_objects")]
    pub content: Option<TextOr<AnthropicBlock>>,
}

impl AnthropicMessage {
    pub(super) fn blocks(&self, path: &str) -> Result<Vec<AnthropicBlock>> {
        match &self.content {
            Some(TextOr::Text(text)) => Ok(vec![AnthropicBlock::of_text(text.clone())]),
            // An answer that was cut before its first word has none.
            Some(TextOr::Items(blocks))
                if !blocks.is_empty() || self.role == Speaker::Assistant =>
            {
                Ok(blocks.clone())
            }
            Some(TextOr::Items(_)) => {
                Err(Error::invalid(path, format!("{path}: at least one block is required")))
            }
            None => Err(missing(path)),
        }
    }
}

impl AnthropicBlock {
    fn of_text(text: String) -> Self {
        Self {
            r#type: BlockKind::Text,
            text: Some(text),
            citations: None,
            source: None,
            title: None,
            context: None,
            thinking: None,
            signature: None,
            id: None,
            name: None,
            input: None,
            tool_use_id: None,
            content: None,
            is_error: None,
            cache_control: None,
        }
    }

    /// A field that belongs to another type of block is a mistake.
    pub(super) fn check(&self, path: &str) -> Result<()> {
        use BlockKind::{Document, Image, Text, Thinking, ToolResult, ToolUse};

        let fields = [
            ("text", self.text.is_some(), &[Text][..]),
            ("citations", self.citations.is_some(), &[Text, Document]),
            ("source", self.source.is_some(), &[Image, Document]),
            ("title", self.title.is_some(), &[Document]),
            ("context", self.context.is_some(), &[Document]),
            ("thinking", self.thinking.is_some(), &[Thinking]),
            ("signature", self.signature.is_some(), &[Thinking]),
            ("id", self.id.is_some(), &[ToolUse]),
            ("name", self.name.is_some(), &[ToolUse]),
            ("input", self.input.is_some(), &[ToolUse]),
            ("tool_use_id", self.tool_use_id.is_some(), &[ToolResult]),
            ("content", self.content.is_some(), &[ToolResult]),
            ("is_error", self.is_error.is_some(), &[ToolResult]),
        ];
        match fields.iter().find(|(_, given, owners)| *given && !owners.contains(&self.r#type)) {
            Some((name, ..)) => {
                let field = format!("{path}.{name}");
                let text = format!("{field}: a block of this type has no such field");
                Err(Error::invalid(field, text))
            }
            None => Ok(()),
        }
    }
}

pub(super) fn required<T>(value: Option<T>, path: &str, name: &str) -> Result<T> {
    value.ok_or_else(|| missing(&format!("{path}.{name}")))
}

pub(super) fn missing(field: &str) -> Error {
    let text = format!("{field}: this required field is missing");
    Error::invalid(field, text).with_code("missing_required_parameter")
}
