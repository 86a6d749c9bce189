//! Tokenizers from GGUF vocabularies: byte-level BPE, SentencePiece BPE and unigram, WordPiece.
//!
//! A tokenizer is built once from untrusted metadata, which it checks, and then only reads: encoding
//! and decoding cannot fail. Two rules hold for every family:
//!
//! - plain text never becomes a control token ([`Special::Plain`]); only text that a template wrote
//!   is parsed for them;
//! - decoding the tokens of a text gives the text back, as far as the family keeps it.
//!
//! The pieces: [`pre`](self) tables and scanners of pre-tokenizers, one file for each family, special
//! tokens. The merges are our own and not those of the `tokenizers` crate: SentencePiece merges by
//! score from the left, which ranked merges cannot express, and a vocabulary from a file must be
//! allowed to be odd without an error or a panic.

mod bpe;
mod encode;
mod error;
mod hash;
mod pre;
mod pre_table;
mod prefix;
mod special;
mod spm;
mod ugm;
mod unicode;
mod unicode_table;
mod until;
mod vocab;
mod wpm;

pub use error::TokenizerError;
pub use special::FillIn;
pub use until::{Patience, Stopped, Until};

use bpe::Bpe;
use special::{Recognise, Roles, Specials};
use spm::Spm;
use ugm::Ugm;
use vocab::{Kind, Scores, Vocab};
use wpm::Wpm;

use crate::model::gguf::Metadata;

/// Whether text may contain special tokens.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Special {
    /// Control tokens are recognised: text of templates and of trusted callers.
    Parse,
    /// Control tokens are text like any other: text of users.
    Plain,
}

impl From<Special> for Recognise<'_> {
    fn from(special: Special) -> Self {
        match special {
            Special::Parse => Self::Parse,
            Special::Plain => Self::Plain,
        }
    }
}

/// Text to token ids and back.
pub struct Tokenizer {
    vocab: Vocab,
    model: Model,
    specials: Specials,
    roles: Roles,
    add_bos: bool,
    add_eos: bool,
    space_prefix: bool,
    /// The space goes before the whole text alone.
    prefixes_first_only: bool,
    /// Of Unicode, to which text is brought first.
    normal_form: Option<NormalForm>,
    /// Words are written in lower case (the tokenizers between spaces).
    lower_case: bool,
    /// What all tokens decode to, one after another; token `i` ends at `ends[i]`.
    bytes: Vec<u8>,
    ends: Vec<u32>,
    /// Bytes of text that one token may stand for; `None`: any number.
    longest: Option<usize>,
}

enum Model {
    Bpe(Box<Bpe>),
    Spm(Spm),
    Wpm(Wpm),
    Ugm(Box<Ugm>),
}

/// What a family decides before the file's own keys are read.
struct Family {
    model: Model,
    vocab: Vocab,
    defaults: Roles,
    add_bos: bool,
    add_eos: bool,
    space_prefix: bool,
    escapes_spaces: bool,
}

#[derive(Clone, Copy)]
enum NormalForm {
    /// NFC.
    Composed,
    /// NFKC.
    Compatible,
}

impl Tokenizer {
    /// Builds the tokenizer that `tokenizer.ggml.*` describes.
    ///
    /// # Errors
    /// Unknown families and pre-types, by name; vocabularies that contradict themselves.
    pub fn from_gguf(meta: &Metadata) -> Result<Self, TokenizerError> {
        let Family { model, mut vocab, defaults, add_bos, add_eos, space_prefix, escapes_spaces } =
            family(meta)?;
        let roles = special::roles(meta, &mut vocab, defaults)?;
        let flag = |key: &str, default: bool| -> Result<bool, TokenizerError> {
            Ok(meta.bool(key)?.unwrap_or(default))
        };
        let forced_bos = matches!(&model, Model::Bpe(bpe) if bpe.forces_bos());
        let add_bos = forced_bos || flag("tokenizer.ggml.add_bos_token", add_bos)?;
        let mut tokenizer = Self {
            specials: Specials::new(meta, &vocab),
            add_bos: add_bos && roles.bos.is_some(),
            add_eos: flag("tokenizer.ggml.add_eos_token", add_eos)? && roles.eos.is_some(),
            space_prefix: flag("tokenizer.ggml.add_space_prefix", space_prefix)?,
            prefixes_first_only: flag("tokenizer.kolosal.space_prefix_first", false)?,
            lower_case: meta.str("tokenizer.ggml.model")? == Some("whitespace")
                && flag("tokenizer.ggml.normalizer.lowercase", false)?,
            normal_form: match (
                flag("tokenizer.kolosal.nfc", false)?,
                flag("tokenizer.kolosal.nfkc", false)?,
            ) {
                (_, true) => Some(NormalForm::Compatible),
                (true, false) => Some(NormalForm::Composed),
                (false, false) => None,
            },
            vocab,
            model,
            roles,
            bytes: Vec::new(),
            ends: Vec::new(),
            longest: None,
        };
        tokenizer.fill_bytes(escapes_spaces);
        tokenizer.longest = tokenizer.longest();
        Ok(tokenizer)
    }

    /// What [`Self::longest`] is. WordPiece and unigram drop characters and bring any number under one
    /// unknown token; special tokens may swallow white space.
    fn longest(&self) -> Option<usize> {
        /// No form of a letter has more than four times the bytes of what it is made to.
        const NORMALISED: usize = 4;
        let covers_all = match &self.model {
            Model::Bpe(bpe) => self.roles.unk.is_some() || bpe.covers_all(&self.vocab),
            Model::Spm(_) => self.roles.unk.is_some(),
            Model::Wpm(_) | Model::Ugm(_) => false,
        };
        if !covers_all || self.specials.strips() {
            return None;
        }
        let bytes = |id: u32| match self.bytes(id).len() {
            0 => self.vocab.text(id).len(),
            bytes => bytes,
        };
        let longest = self.vocab.ids().map(bytes).max()?.max(char::MAX_LEN_UTF8);
        let is_changed = self.normal_form.is_some() || self.lower_case;
        Some(if is_changed { NORMALISED * longest } else { longest })
    }

    fn fill_bytes(&mut self, escapes_spaces: bool) {
        self.ends.reserve(self.vocab.len());
        for id in self.vocab.ids() {
            let text = self.vocab.text(id);
            match self.vocab.kind(id) {
                Kind::Control | Kind::Unknown => {}
                Kind::Unused if !matches!(self.model, Model::Wpm(_)) => {}
                Kind::Marker | Kind::User => self.bytes.extend_from_slice(text),
                Kind::Byte => self.bytes.extend(vocab::byte_of(text)),
                Kind::Normal | Kind::Unused if escapes_spaces => unescape(text, &mut self.bytes),
                Kind::Normal | Kind::Unused => decode_byte_level(text, &mut self.bytes),
            }
            self.ends.push(self.bytes.len() as u32);
        }
    }

    /// Places inside the control tokens, and inside the tokens `others` (ascending), that occur in
    /// `text`: ascending byte offsets for [`Self::encode_except`].
    pub fn special_places(&self, text: &str, others: &[u32]) -> Vec<usize> {
        self.specials.places(&self.vocab, text, others)
    }

    /// Tokens of a whole prompt: control tokens parsed, BOS and EOS added as the model asks. A BOS
    /// that the text starts with already is not doubled.
    pub fn encode_prompt(&self, text: &str) -> Vec<u32> {
        self.frame(self.encode(text, Special::Parse))
    }

    /// Adds BOS and EOS as the model asks, unless they are there.
    pub fn frame(&self, mut tokens: Vec<u32>) -> Vec<u32> {
        self.add_bos_to(&mut tokens);
        let last = match self.model {
            Model::Wpm(_) => self.roles.sep,
            _ => self.roles.eos.filter(|_| self.add_eos),
        };
        tokens.extend(last.filter(|last| tokens.last() != Some(last)));
        tokens
    }

    /// Two texts as one input of a model that compares them, and where the second begins if the
    /// model tells them apart: `[CLS] a [SEP] b [SEP]` for BERT, `<s> a </s></s> b </s>` elsewhere.
    pub fn pair(&self, first: &[u32], second: &[u32]) -> (Vec<u32>, Option<u32>) {
        let mut tokens = Vec::with_capacity(first.len() + second.len() + 4);
        tokens.extend(self.bos().filter(|_| self.add_bos));
        tokens.extend_from_slice(first);
        let is_bert = matches!(self.model, Model::Wpm(_));
        let sep = self.roles.sep.or(self.roles.eos);
        if !is_bert {
            tokens.extend(self.roles.eos);
        }
        tokens.extend(sep);
        let second_from = is_bert.then_some(tokens.len() as u32);
        tokens.extend_from_slice(second);
        tokens.extend(if is_bert { sep } else { self.roles.eos });
        (tokens, second_from)
    }

    /// Puts BOS in front if the model wants it and it is not there yet.
    pub fn add_bos_to(&self, tokens: &mut Vec<u32>) {
        if let Some(bos) = self.bos().filter(|bos| self.add_bos && tokens.first() != Some(bos)) {
            tokens.insert(0, bos);
        }
    }

    pub fn vocab_size(&self) -> usize {
        self.vocab.len()
    }

    /// Beginning of a text.
    pub fn bos(&self) -> Option<u32> {
        self.roles.bos
    }

    /// End of a text.
    pub fn eos(&self) -> Option<u32> {
        self.roles.eos
    }

    /// Whether prompts start with BOS.
    pub fn add_bos(&self) -> bool {
        self.add_bos
    }

    /// Tokens by which a middle is filled in.
    pub fn fill_in(&self) -> FillIn {
        self.roles.fill_in
    }

    /// All tokens that end a generation, ascending.
    pub fn eog(&self) -> &[u32] {
        &self.roles.eog
    }

    /// Whether text starts with an added space, which decoding takes away again.
    pub fn space_prefix(&self) -> bool {
        match &self.model {
            Model::Bpe(bpe) => self.space_prefix && bpe.escapes_spaces(),
            Model::Spm(_) => self.space_prefix,
            Model::Wpm(_) | Model::Ugm(_) => true,
        }
    }

    /// Text of a token in the vocabulary; `None` outside it and for texts that are not UTF-8.
    pub fn token(&self, id: u32) -> Option<&str> {
        Some(self.vocab.text(id)).filter(|t| !t.is_empty()).and_then(|t| str::from_utf8(t).ok())
    }

    /// What a token decodes to: raw bytes, which need not be UTF-8. Empty for control tokens and ids
    /// outside the vocabulary.
    pub fn bytes(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let start = i.checked_sub(1).and_then(|p| self.ends.get(p)).copied().unwrap_or(0) as usize;
        self.ends.get(i).and_then(|&end| self.bytes.get(start..end as usize)).unwrap_or(&[])
    }

    /// As [`Self::bytes`], and for a control token its text.
    pub fn shown_bytes(&self, id: u32) -> &[u8] {
        if self.is_control(id) { self.vocab.text(id) } else { self.bytes(id) }
    }

    /// Control tokens, which plain text never becomes.
    pub fn is_control(&self, id: u32) -> bool {
        self.vocab.is_control(id)
    }

    /// Text of `ids`; bytes that are not UTF-8 become U+FFFD.
    pub fn decode(&self, ids: &[u32]) -> String {
        self.text_of(ids, Self::bytes)
    }

    /// As [`Self::decode`], with control tokens as their texts.
    pub fn decode_shown(&self, ids: &[u32]) -> String {
        self.text_of(ids, Self::shown_bytes)
    }

    fn text_of<'a>(&'a self, ids: &[u32], bytes_of: impl Fn(&'a Self, u32) -> &'a [u8]) -> String {
        let mut bytes = Vec::with_capacity(ids.len() * 4);
        for &id in ids {
            bytes.extend_from_slice(bytes_of(self, id));
        }
        let prefixed = self.space_prefix() && bytes.first() == Some(&b' ');
        let bytes = if prefixed { bytes.get(1..).unwrap_or(&[]) } else { &bytes };
        String::from_utf8_lossy(bytes).into_owned()
    }

    /// The token whose text is `text`, of any type.
    pub fn special_id(&self, text: &str) -> Option<u32> {
        self.vocab.id(text.as_bytes())
    }

    /// Texts of the tokens that are split off even in plain text.
    pub fn user_defined_texts(&self) -> impl Iterator<Item = &str> {
        let user = |id: &u32| self.vocab.kind(*id) == Kind::User;
        self.vocab.ids().filter(user).filter_map(|id| self.token(id))
    }
}

fn family(meta: &Metadata) -> Result<Family, TokenizerError> {
    const KNOWN: &str = "gpt2 (byte-level BPE), gemma4 and whitespace (BPE), llama (SentencePiece), bert \
                         (WordPiece), t5 (unigram)";
    let key = "tokenizer.ggml.model";
    let ids = |bos, eos, unk, sep| Roles { bos, eos, unk, sep, ..Roles::default() };
    match meta.str(key)?.ok_or(TokenizerError::Missing(key))? {
        name @ ("gpt2" | "gemma4" | "whitespace") => byte_pair(meta, name),
        "llama" => {
            let vocab = Vocab::load(meta, Scores::Read)?;
            Ok(Family {
                model: Model::Spm(Spm::new(&vocab)),
                vocab,
                defaults: ids(Some(1), Some(2), Some(0), None),
                add_bos: true,
                add_eos: false,
                space_prefix: true,
                escapes_spaces: true,
            })
        }
        "bert" => {
            let vocab = Vocab::load(meta, Scores::Ignore)?;
            Ok(Family {
                model: Model::Wpm(Wpm::load(meta, &vocab)?),
                vocab,
                defaults: ids(Some(101), None, Some(100), Some(102)),
                add_bos: true,
                add_eos: false,
                space_prefix: false,
                escapes_spaces: true,
            })
        }
        "t5" => {
            let vocab = Vocab::load(meta, Scores::Read)?;
            Ok(Family {
                model: Model::Ugm(Box::new(Ugm::load(meta, &vocab)?)),
                vocab,
                defaults: ids(None, Some(1), Some(2), None),
                add_bos: false,
                add_eos: true,
                space_prefix: false,
                escapes_spaces: true,
            })
        }
        name => Err(TokenizerError::UnknownModel { name: name.to_owned(), known: KNOWN }),
    }
}

fn byte_pair(meta: &Metadata, model: &str) -> Result<Family, TokenizerError> {
    let pre = meta.str("tokenizer.ggml.pre")?.filter(|name| !name.is_empty());
    let name = if model == "gemma4" { "gemma4" } else { pre.unwrap_or("default") };
    let kind = pre_table::pre_type(name).ok_or_else(|| TokenizerError::UnknownPreType {
        name: name.to_owned(),
        known: pre_table::names().join(", "),
    })?;
    let vocab = Vocab::load(meta, Scores::Ignore)?;
    Ok(Family {
        model: Model::Bpe(Box::new(Bpe::load(meta, &vocab, kind)?)),
        vocab,
        defaults: Roles::default(),
        add_bos: kind.add_bos,
        add_eos: false,
        space_prefix: false,
        escapes_spaces: kind.plain_utf8,
    })
}

/// Appends `text` with U+2581 as spaces.
fn unescape(text: &[u8], out: &mut Vec<u8>) {
    const SPACE: &[u8] = "\u{2581}".as_bytes();
    let mut rest = text;
    while let Some(&byte) = rest.first() {
        if let Some(after) = rest.strip_prefix(SPACE) {
            out.push(b' ');
            rest = after;
        } else {
            out.push(byte);
            rest = &rest[1..];
        }
    }
}

/// Appends the bytes that the characters of a byte-level token stand for. Characters outside that
/// alphabet stand for themselves: some vocabularies list added tokens as normal ones.
fn decode_byte_level(text: &[u8], out: &mut Vec<u8>) {
    let Ok(text) = str::from_utf8(text) else {
        out.extend_from_slice(text);
        return;
    };
    if text.chars().all(|c| bpe::byte_of(c).is_some()) {
        out.extend(text.chars().filter_map(bpe::byte_of));
    } else {
        out.extend_from_slice(text.as_bytes());
    }
}
