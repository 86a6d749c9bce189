//! The wire requests of `/tokenize`, `/detokenize` and `/apply-template`.

use poem_openapi::{Object, registry::MetaSchema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    chat::{ChatInput, Special, preparation::conversation_bytes},
    error::{Error, Result},
    server::{
        common::{Message, conversation},
        schema::{FreeObject, TextOr, objects, optional_objects, wire_type},
    },
};

/// Bytes of text in one request.
const MAX_TEXT_BYTES: usize = 4 << 20;
/// Token ids in one request.
pub(super) const MAX_TOKENS: usize = 1 << 20;

/// A piece of mixed content.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a string or a token id")]
pub(crate) enum TextOrToken {
    Text(String),
    Token(u32),
}

wire_type!(TextOrToken, "text_or_token", {
    let one_of = vec![String::schema_ref(), u32::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

/// Text or a conversation to turn into tokens: one of `content`, `prompt` and `messages`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct TokenizeRequest {
    /// The engine whose vocabulary is used; absent or any name if there is only one.
    #[oai(nullable)]
    pub model: Option<String>,
    /// Text, or a list of texts and token ids. No special tokens are added unless `add_special` is true.
    #[oai(nullable)]
    pub content: Option<TextOr<TextOrToken>>,
    /// Text as it would stand in a completion request: special tokens are added unless `add_special`
    /// is false.
    #[oai(nullable)]
    pub prompt: Option<String>,
    /// A conversation: the tokens that a chat completion would read.
    #[oai(nullable, validator(max_items = 8192))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub messages: Option<Vec<Message>>,
    /// Tools for the chat template; only with `messages`.
    #[oai(nullable)]
    pub tools: Option<Vec<FreeObject>>,
    /// Handed to the chat template as variables; only with `messages`.
    #[oai(nullable)]
    pub chat_template_kwargs: Option<FreeObject>,
    /// End the prompt with the header of the assistant's turn; true if absent. Only with `messages`.
    #[oai(nullable)]
    pub add_generation_prompt: Option<bool>,
    /// Leave the last message open, which is the assistant's; only with `messages`.
    #[oai(nullable)]
    pub continue_final_message: Option<bool>,
    /// Add the tokens that the model wants at beginning and end, such as BOS.
    #[oai(nullable)]
    pub add_special: Option<bool>,
    /// Another name of `add_special`.
    #[oai(nullable)]
    pub add_special_tokens: Option<bool>,
    /// Read special tokens in a text as such; true if absent. Never done in `messages`.
    #[oai(nullable)]
    pub parse_special: Option<bool>,
    /// Return objects with `id` and `piece` instead of ids.
    #[oai(nullable)]
    pub with_pieces: Option<bool>,
    /// Return the texts of the tokens in `token_strs`.
    #[oai(nullable)]
    pub return_token_strs: Option<bool>,
}

/// What is to be tokenized.
pub(crate) enum Source {
    Pieces { pieces: Vec<TextOrToken>, special: Special },
    Chat(ChatInput),
}

/// A checked request.
pub(crate) struct Tokenization {
    pub source: Source,
    pub add_special: bool,
}

impl Tokenization {
    /// Bytes of its texts.
    pub(super) fn num_bytes(&self) -> usize {
        let bytes = |piece: &TextOrToken| match piece {
            TextOrToken::Text(text) => text.len(),
            TextOrToken::Token(_) => size_of::<u32>(),
        };
        match &self.source {
            Source::Chat(input) => conversation_bytes(input),
            Source::Pieces { pieces, .. } => pieces.iter().map(bytes).sum(),
        }
    }
}

impl TokenizeRequest {
    /// Checks everything that can be checked without the model.
    pub(crate) fn into_tokenization(self) -> Result<Tokenization> {
        let add_special = match (self.add_special, self.add_special_tokens) {
            (Some(one), Some(other)) if one != other => {
                let text = "add_special_tokens is another name of add_special; they differ";
                return Err(Error::invalid("add_special_tokens", text));
            }
            (one, other) => one.or(other),
        };
        let parse = self.parse_special.unwrap_or(true);
        let special = if parse { Special::Parse } else { Special::Plain };
        let chat = Chat {
            tools: self.tools,
            chat_template_kwargs: self.chat_template_kwargs,
            add_generation_prompt: self.add_generation_prompt,
            continue_final_message: self.continue_final_message,
        };
        let (pieces, adds) = match (self.content, self.prompt, self.messages) {
            (None, None, Some(messages)) => {
                if self.parse_special == Some(true) {
                    let text = "parse_special: special tokens in messages are text";
                    return Err(Error::invalid("parse_special", text));
                }
                let source = Source::Chat(chat.into_input(messages)?);
                return Ok(Tokenization { source, add_special: add_special.unwrap_or(false) });
            }
            (Some(TextOr::Text(text)), None, None) => (vec![TextOrToken::Text(text)], false),
            (Some(TextOr::Items(pieces)), None, None) => (pieces, false),
            (None, Some(text), None) => (vec![TextOrToken::Text(text)], true),
            (None, None, None) => {
                let text = "content: one of content, prompt and messages is required";
                return Err(Error::invalid("content", text));
            }
            _ => {
                let text = "content, prompt and messages exclude each other";
                return Err(Error::invalid("content", text));
            }
        };
        chat.refuse_without_messages()?;
        check_size(&pieces)?;
        let add_special = add_special.unwrap_or(adds);
        Ok(Tokenization { source: Source::Pieces { pieces, special }, add_special })
    }
}

fn check_size(pieces: &[TextOrToken]) -> Result<()> {
    check_count("content", pieces.len())?;
    let bytes: usize = pieces
        .iter()
        .map(|piece| match piece {
            TextOrToken::Text(text) => text.len(),
            TextOrToken::Token(_) => 0,
        })
        .sum();
    if bytes > MAX_TEXT_BYTES {
        let text = format!("content: {bytes} bytes of text, limit {MAX_TEXT_BYTES}");
        return Err(Error::invalid("content", text));
    }
    Ok(())
}

fn check_count(field: &str, count: usize) -> Result<()> {
    if count > MAX_TOKENS {
        let text = format!("{field}: {count} elements, limit {MAX_TOKENS}");
        return Err(Error::invalid(field, text));
    }
    Ok(())
}

/// Token ids to turn into text.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct DetokenizeRequest {
    /// The engine whose vocabulary is used; absent or any name if there is only one.
    #[oai(nullable)]
    pub model: Option<String>,
    #[oai(validator(max_items = 1_048_576))]
    pub tokens: Vec<u32>,
}

impl DetokenizeRequest {
    /// Checks everything that can be checked without the model.
    pub(crate) fn check(&self) -> Result<()> {
        check_count("tokens", self.tokens.len())
    }
}

/// A conversation to turn into a prompt.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ApplyTemplateRequest {
    /// The engine whose chat template is used; absent or any name if there is only one.
    #[oai(nullable)]
    pub model: Option<String>,
    /// The conversation, oldest message first.
    #[oai(validator(min_items = 1, max_items = 8192))]
    #[serde(deserialize_with = "objects")]
    pub messages: Vec<Message>,
    /// Tools for the chat template.
    #[oai(nullable)]
    pub tools: Option<Vec<FreeObject>>,
    /// Handed to the chat template as variables.
    #[oai(nullable)]
    pub chat_template_kwargs: Option<FreeObject>,
    /// End the prompt with the header of the assistant's turn; true if absent.
    #[oai(nullable)]
    pub add_generation_prompt: Option<bool>,
    /// Leave the last message open, which is the assistant's.
    #[oai(nullable)]
    pub continue_final_message: Option<bool>,
}

impl ApplyTemplateRequest {
    /// Checks everything that can be checked without the model.
    pub(crate) fn into_input(self) -> Result<ChatInput> {
        let chat = Chat {
            tools: self.tools,
            chat_template_kwargs: self.chat_template_kwargs,
            add_generation_prompt: self.add_generation_prompt,
            continue_final_message: self.continue_final_message,
        };
        chat.into_input(self.messages)
    }
}

/// How a conversation is rendered.
struct Chat {
    tools: Option<Vec<FreeObject>>,
    chat_template_kwargs: Option<FreeObject>,
    add_generation_prompt: Option<bool>,
    continue_final_message: Option<bool>,
}

impl Chat {
    fn into_input(self, messages: Vec<Message>) -> Result<ChatInput> {
        let input =
            conversation(messages, self.add_generation_prompt, self.continue_final_message)?;
        let tools = self.tools.filter(|tools| !tools.is_empty());
        let tools =
            tools.map(|tools| tools.into_iter().map(|tool| Value::Object(tool.0)).collect());
        let kwargs = self.chat_template_kwargs.unwrap_or_default().0;
        Ok(ChatInput { tools, kwargs, ..input })
    }

    fn refuse_without_messages(&self) -> Result<()> {
        let given = [
            ("tools", self.tools.is_some()),
            ("chat_template_kwargs", self.chat_template_kwargs.is_some()),
            ("add_generation_prompt", self.add_generation_prompt.is_some()),
            ("continue_final_message", self.continue_final_message.is_some()),
        ];
        match given.into_iter().find(|(_, is_given)| *is_given) {
            Some((name, _)) => Err(Error::invalid(name, format!("{name} needs messages"))),
            None => Ok(()),
        }
    }
}
