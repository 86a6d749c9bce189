//! Log-probabilities of tokens, with their text.

use crate::chat::Tokenizer;
use crate::engine::TokenLogprobs;

/// Log-probability of a token and of its likeliest alternatives, with their text.
#[derive(Clone, Debug, PartialEq)]
pub struct TextLogprobs {
    pub token: TokenText,
    /// Natural logarithm; `None` for the first token of a prompt, which nothing precedes.
    pub logprob: Option<f32>,
    /// 1 for the likeliest token; 0 where nothing precedes.
    pub rank: u32,
    /// Likeliest first.
    pub top: Vec<(TokenText, f32)>,
    /// Where its text begins, in characters of the choice's text; a token within a character begins
    /// where that does.
    pub offset: u32,
}

/// A token as it reads on its own.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TokenText {
    pub id: u32,
    /// With U+FFFD where its bytes are not UTF-8 on their own; the vocabulary's text of a control
    /// token.
    pub text: String,
    /// Empty for control tokens.
    pub bytes: Vec<u8>,
}

impl TokenText {
    fn new(tokenizer: &Tokenizer, id: u32) -> Self {
        let bytes = tokenizer.bytes(id).to_vec();
        let text = if bytes.is_empty() {
            tokenizer.token(id).unwrap_or_default().to_owned()
        } else {
            String::from_utf8_lossy(&bytes).into_owned()
        };
        Self { id, text, bytes }
    }
}

impl TextLogprobs {
    pub(super) fn new(tokenizer: &Tokenizer, logprobs: &TokenLogprobs) -> Self {
        let top =
            logprobs.top.iter().map(|(id, logprob)| (TokenText::new(tokenizer, *id), *logprob));
        Self {
            token: TokenText::new(tokenizer, logprobs.id),
            logprob: Some(logprobs.logprob),
            rank: logprobs.rank,
            top: top.collect(),
            offset: 0,
        }
    }

    pub(super) fn at(self, offset: u32) -> Self {
        Self { offset, ..self }
    }

    /// The first token of a prompt.
    pub(super) fn first(tokenizer: &Tokenizer, id: u32) -> Self {
        let token = TokenText::new(tokenizer, id);
        Self { token, logprob: None, rank: 0, top: Vec::new(), offset: 0 }
    }
}
