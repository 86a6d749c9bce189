//! The text side of a model: its tokenizer and its chat template, which together make prompts.

use std::sync::Arc;

use super::{ChatInput, ChatTemplate, Tokenizer};
use crate::error::Error;
use crate::model::gguf::Metadata;

/// Everything that turns conversations into tokens and tokens into text.
pub struct TextModel {
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
    /// User-defined tokens that the template itself writes, ascending: in a user's text they are
    /// text, as control tokens are.
    guarded: Vec<u32>,
}

impl TextModel {
    /// # Errors
    /// The vocabulary cannot be used. A missing or broken template is no error; see
    /// [`ChatTemplate::warning`].
    pub fn from_gguf(meta: &Metadata) -> Result<Self, Error> {
        let tokenizer = Tokenizer::from_gguf(meta)?;
        let template = ChatTemplate::from_gguf(meta, &tokenizer);
        let guarded = guarded(&tokenizer, template.source());
        Ok(Self { tokenizer: Arc::new(tokenizer), template, guarded })
    }

    /// What a person should know about this model's text side.
    pub fn warning(&self) -> Option<&str> {
        self.template.warning()
    }

    /// The prompt of a conversation. Special tokens that the template wrote are tokens, those that
    /// stand in the request's strings are text. BOS is added if the model wants it and the template
    /// did not write it. Blocks for as long as rendering takes.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`].
    pub fn chat_prompt(&self, input: &ChatInput) -> Result<Vec<u32>, Error> {
        let places = |text: &str| self.tokenizer.special_places(text, &self.guarded);
        let rendered = self.template.render(input, &places)?;
        let mut tokens = self.tokenizer.encode_except(&rendered.text, &rendered.protected);
        self.tokenizer.add_bos_to(&mut tokens);
        Ok(tokens)
    }
}

/// User-defined tokens in the text of the template. Some models mark the turns of a conversation with
/// such tokens. Tags of reasoning are left alone: templates look for them in messages.
fn guarded(tokenizer: &Tokenizer, source: &str) -> Vec<u32> {
    let marks_a_turn = |text: &&str| {
        !text.contains("think") && text.trim().chars().count() > 2 && source.contains(*text)
    };
    let texts = tokenizer.user_defined_texts().filter(marks_a_turn);
    let mut ids: Vec<u32> = texts.filter_map(|text| tokenizer.special_id(text)).collect();
    ids.sort_unstable();
    ids
}
