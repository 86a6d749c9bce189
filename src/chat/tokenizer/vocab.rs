//! The tokens of a model: texts, types and scores, as the GGUF file lists them.

use super::TokenizerError;
use super::hash::FastMap;
use crate::model::gguf::Metadata;

/// More than twice the largest published vocabulary.
const MAX_TOKENS: usize = 1 << 20;
/// Longest token in bytes; the longest published ones are runs of a few hundred spaces.
const MAX_TOKEN_LEN: usize = 4096;

/// `tokenizer.ggml.token_type`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Normal,
    Unknown,
    /// Recognised only where special tokens are parsed; decodes to nothing.
    Control,
    /// As control, but part of the text: markers that a parser of the output needs to see.
    Marker,
    /// Always split off before anything else.
    User,
    Unused,
    /// `<0x..>`, one byte.
    Byte,
}

/// Whether a vocabulary has scores that mean something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Scores {
    Read,
    Ignore,
}

/// Token texts and their attributes. Texts are unique and not empty.
pub(super) struct Vocab {
    /// All texts one after another; token `i` ends at `ends[i]`.
    texts: Vec<u8>,
    ends: Vec<u32>,
    kinds: Vec<Kind>,
    /// Log probabilities of SPM and unigram vocabularies; empty if the file has none.
    scores: Vec<f32>,
    by_text: FastMap<Box<[u8]>, u32>,
    max_len: usize,
    /// Tokens of single bytes, written `<0x0A>`.
    byte_ids: Vec<Option<u32>>,
}

impl Vocab {
    /// Scores are read only where the tokenizer needs them: files carry odd ones otherwise.
    pub(super) fn load(meta: &Metadata, scores: Scores) -> Result<Self, TokenizerError> {
        let tokens = meta
            .strings("tokenizer.ggml.tokens")?
            .ok_or(TokenizerError::Missing("tokenizer.ggml.tokens"))?;
        if tokens.is_empty() {
            return Err(TokenizerError::Missing("tokens in tokenizer.ggml.tokens"));
        }
        if tokens.len() > MAX_TOKENS {
            let (found, limit) = (tokens.len(), MAX_TOKENS);
            return Err(TokenizerError::TooMany { what: "tokenizer.ggml.tokens", found, limit });
        }
        let mut vocab = Self {
            texts: Vec::with_capacity(tokens.iter().map(|t| t.len()).sum()),
            ends: Vec::with_capacity(tokens.len()),
            kinds: kinds(meta, tokens.len())?,
            scores: match scores {
                Scores::Read => read_scores(meta, tokens.len())?,
                Scores::Ignore => Vec::new(),
            },
            by_text: FastMap::default(),
            max_len: 0,
            byte_ids: Vec::new(),
        };
        vocab.by_text.reserve(tokens.len());
        for token in tokens {
            vocab.push(token)?;
        }
        vocab.check_bytes()?;
        let byte_id = |byte: u8| vocab.id(format!("<0x{byte:02X}>").as_bytes());
        vocab.byte_ids = (0..=255).map(byte_id).collect();
        Ok(vocab)
    }

    fn push(&mut self, text: &[u8]) -> Result<(), TokenizerError> {
        let id = self.ends.len();
        // Converters leave holes empty; a name of its own keeps the texts unique.
        let placeholder = format!("[EMPTY_{id}]");
        let text = if text.is_empty() { placeholder.as_bytes() } else { text };
        if text.len() > MAX_TOKEN_LEN {
            let (length, limit) = (text.len(), MAX_TOKEN_LEN);
            return Err(TokenizerError::TokenTooLong { id, length, limit });
        }
        if let Some(first) = self.by_text.insert(text.into(), id as u32) {
            let text = String::from_utf8_lossy(text).into_owned();
            return Err(TokenizerError::Duplicate { first, second: id as u32, text });
        }
        self.texts.extend_from_slice(text);
        self.ends.push(self.texts.len() as u32);
        self.max_len = self.max_len.max(text.len());
        Ok(())
    }

    /// A byte token must name a byte.
    fn check_bytes(&self) -> Result<(), TokenizerError> {
        for (id, kind) in self.kinds.iter().enumerate() {
            let text = self.text(id as u32);
            if *kind == Kind::Byte && byte_of(text).is_none() {
                let text = String::from_utf8_lossy(text).into_owned();
                return Err(TokenizerError::ByteToken { id, text });
            }
        }
        Ok(())
    }

    pub(super) fn len(&self) -> usize {
        self.ends.len()
    }

    /// Bytes of the longest token.
    pub(super) fn max_len(&self) -> usize {
        self.max_len
    }

    /// Text of a token as in the file; empty for ids outside the vocabulary.
    pub(super) fn text(&self, id: u32) -> &[u8] {
        let i = id as usize;
        let start = i.checked_sub(1).and_then(|p| self.ends.get(p)).copied().unwrap_or(0) as usize;
        self.ends.get(i).and_then(|&end| self.texts.get(start..end as usize)).unwrap_or(&[])
    }

    pub(super) fn id(&self, text: &[u8]) -> Option<u32> {
        self.by_text.get(text).copied()
    }

    /// The token with this text that plain text may become: control tokens never are.
    pub(super) fn plain_id(&self, text: &[u8]) -> Option<u32> {
        self.id(text).filter(|&id| !self.is_control(id))
    }

    /// The token for one byte, written `<0x0A>`.
    pub(super) fn byte_id(&self, byte: u8) -> Option<u32> {
        self.byte_ids.get(usize::from(byte)).copied().flatten()
    }

    pub(super) fn kind(&self, id: u32) -> Kind {
        self.kinds.get(id as usize).copied().unwrap_or(Kind::Unused)
    }

    pub(super) fn set_kind(&mut self, id: u32, kind: Kind) {
        if let Some(slot) = self.kinds.get_mut(id as usize) {
            *slot = kind;
        }
    }

    /// Control tokens and markers: what only parsed text may contain.
    pub(super) fn is_control(&self, id: u32) -> bool {
        matches!(self.kind(id), Kind::Control | Kind::Marker)
    }

    pub(super) fn score(&self, id: u32) -> f32 {
        self.scores.get(id as usize).copied().unwrap_or(0.0)
    }

    pub(super) fn ids(&self) -> std::ops::Range<u32> {
        0..self.len() as u32
    }
}

/// The byte that `<0x0A>` names.
pub(super) fn byte_of(text: &[u8]) -> Option<u8> {
    let digits = text.strip_prefix(b"<0x")?.strip_suffix(b">")?;
    // `from_str_radix` would take a sign.
    if digits.len() != 2 || !digits.iter().all(u8::is_ascii_hexdigit) {
        return None;
    }
    u8::from_str_radix(std::str::from_utf8(digits).ok()?, 16).ok()
}

fn kinds(meta: &Metadata, count: usize) -> Result<Vec<Kind>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.token_type";
    let Some(types) = meta.i32s(KEY)? else {
        return Ok(vec![Kind::Normal; count]);
    };
    if types.len() < count {
        return Err(TokenizerError::Count { what: KEY, found: types.len(), expected: count });
    }
    let kind = |number: &i32| match number {
        1 => Kind::Normal,
        2 => Kind::Unknown,
        3 => Kind::Control,
        4 => Kind::User,
        6 => Kind::Byte,
        _ => Kind::Unused,
    };
    Ok(types.iter().take(count).map(kind).collect())
}

fn read_scores(meta: &Metadata, count: usize) -> Result<Vec<f32>, TokenizerError> {
    const KEY: &str = "tokenizer.ggml.scores";
    let Some(scores) = meta.f32s(KEY)? else {
        return Ok(Vec::new());
    };
    if scores.len() < count {
        return Err(TokenizerError::Count { what: KEY, found: scores.len(), expected: count });
    }
    if let Some(id) = scores.iter().position(|s| s.is_nan()) {
        return Err(TokenizerError::Score { id });
    }
    // Adding zero makes -0 equal to 0 in total order.
    Ok(scores.iter().take(count).map(|s| s + 0.0).collect())
}
