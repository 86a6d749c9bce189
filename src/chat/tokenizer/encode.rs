//! Text to token ids, all of it or as far as it is wanted.

use std::borrow::Cow;

use tokenizers::NormalizedString;

use super::special::{Fragment, Recognise};
use super::until::Sink;
use super::{Model, NormalForm, Patience, Special, Stopped, Tokenizer, Until};

/// Bytes of text that are read beyond what is wanted, as a word is only known by its end.
const MARGIN: usize = 64 << 10;

impl Tokenizer {
    /// Tokens of `text`, without BOS and EOS.
    pub fn encode(&self, text: &str, special: Special) -> Vec<u32> {
        self.encode_recognising(text, special.into())
    }

    /// Tokens of `text`, with its control tokens parsed except where one would reach over a byte
    /// offset in `protected` (ascending).
    pub fn encode_except(&self, text: &str, protected: &[usize]) -> Vec<u32> {
        self.encode_recognising(text, Recognise::ParseExcept(protected))
    }

    /// [`Self::encode`] of a text that may be too long.
    ///
    /// # Errors
    /// More tokens than are wanted, or nobody waits for them.
    pub fn encode_until(
        &self,
        text: &str,
        special: Special,
        until: &Until,
    ) -> Result<Vec<u32>, Stopped> {
        self.read(text, special.into(), until)
    }

    /// [`Self::encode_except`] of a text that may be too long.
    ///
    /// # Errors
    /// As [`Self::encode_until`].
    pub fn encode_except_until(
        &self,
        text: &str,
        protected: &[usize],
        until: &Until,
    ) -> Result<Vec<u32>, Stopped> {
        self.read(text, Recognise::ParseExcept(protected), until)
    }

    /// The leading `count` tokens of a text, for which the rest of it is not read.
    ///
    /// # Errors
    /// Nobody waits for them.
    pub fn encode_start(
        &self,
        text: &str,
        count: usize,
        patience: &Patience,
    ) -> Result<Vec<u32>, Stopped> {
        let until = Until { max_tokens: count, patience: patience.clone() };
        // So many bytes hold that many tokens, and more than a word behind them.
        let end = self.longest.map_or(text.len(), |longest| count.saturating_mul(longest) + MARGIN);
        let text = &text[..text.floor_char_boundary(end)];
        let mut sink = Sink::new((&self.vocab, self.roles.unk), &until, None);
        match self.read_into(text, Recognise::Plain, &mut sink) {
            Ok(()) | Err(Stopped::TooLong { .. }) => sink.tokens.truncate(count),
            Err(Stopped::GivenUp) => return Err(Stopped::GivenUp),
        }
        Ok(sink.tokens)
    }

    fn encode_recognising(&self, text: &str, recognise: Recognise<'_>) -> Vec<u32> {
        // It does not stop before the end.
        self.read(text, recognise, &Until::default()).unwrap_or_default()
    }

    fn read(
        &self,
        text: &str,
        recognise: Recognise<'_>,
        until: &Until,
    ) -> Result<Vec<u32>, Stopped> {
        let mut sink = Sink::new((&self.vocab, self.roles.unk), until, self.longest);
        sink.check_piece(text.len())?;
        self.read_into(text, recognise, &mut sink)?;
        Ok(sink.tokens)
    }

    fn read_into(
        &self,
        text: &str,
        recognise: Recognise<'_>,
        sink: &mut Sink<'_>,
    ) -> Result<(), Stopped> {
        let mut after_special = true;
        for fragment in self.specials.split(&self.vocab, text, recognise) {
            match fragment {
                Fragment::Token(id) => {
                    sink.tokens.push(id);
                    after_special = true;
                }
                Fragment::Text(range) => {
                    let prefixed = after_special && (!self.prefixes_first_only || range.start == 0);
                    self.encode_text(&text[range], prefixed, sink)?;
                    after_special = false;
                }
            }
            sink.check()?;
        }
        Ok(())
    }

    /// Tokens of a part between special tokens; `prefixed` if a space may go before it.
    fn encode_text(&self, text: &str, prefixed: bool, out: &mut Sink<'_>) -> Result<(), Stopped> {
        match &self.model {
            Model::Bpe(bpe) => {
                let text = self.composed(text);
                if self.space_prefix && prefixed && bpe.escapes_spaces() {
                    bpe.encode(&format!(" {text}"), out)
                } else {
                    bpe.encode(&text, out)
                }
            }
            Model::Wpm(wpm) => wpm.encode(text, out),
            Model::Ugm(ugm) => ugm.encode(text, out),
            Model::Spm(spm) => {
                let prefix = if self.space_prefix && prefixed { "\u{2581}" } else { "" };
                let escaped = format!("{prefix}{}", text.replace(' ', "\u{2581}"));
                spm.encode(&escaped, out)
            }
        }
    }

    fn composed<'t>(&self, text: &'t str) -> Cow<'t, str> {
        if self.lower_case {
            return Cow::Owned(text.chars().flat_map(char::to_lowercase).collect());
        }
        if self.normal_form.is_none() || text.is_ascii() {
            return Cow::Borrowed(text);
        }
        let mut text = NormalizedString::from(text);
        match self.normal_form {
            Some(NormalForm::Compatible) => text.nfkc(),
            _ => text.nfc(),
        };
        Cow::Owned(text.get().to_owned())
    }
}
