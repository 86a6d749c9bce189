//! `tokenizer.json` as GGUF's tokenizer keys.
//!
//! Three kinds of model are known: BPE over bytes, BPE over characters with spaces as U+2581 (the form
//! that SentencePiece models are converted to), unigram, and WordPiece. What a file asks for beyond
//! them is an error: a text that is cut differently is a different text.

use std::path::Path;

use serde_json::Value as Node;

use super::json::Json;
use super::pieces::{self, Pieces};
use crate::model::gguf::{Array, GgufError, Metadata};

/// More than twice the largest published vocabulary.
const MAX_TOKENS: usize = 1 << 20;
const NORMAL: i32 = 1;
const UNKNOWN: i32 = 2;
const CONTROL: i32 = 3;
const USER: i32 = 4;
const UNUSED: i32 = 5;
const BYTE: i32 = 6;

/// The vocabulary in the making.
struct Vocabulary {
    tokens: Vec<Option<String>>,
    kinds: Vec<i32>,
    scores: Vec<f32>,
}

/// Sets the tokenizer's keys for a model whose embedding has `rows` rows.
pub(super) fn read(dir: &Path, rows: usize, metadata: &mut Metadata) -> Result<(), GgufError> {
    let json = Json::read(&dir.join("tokenizer.json"))?;
    let config = Json::read_if_there(&dir.join("tokenizer_config.json"))?;
    let model = json.object("model")?;
    let pieces = Pieces::read(&json)?;
    let mut vocabulary = Vocabulary::new(rows);
    // Old files name the kind in other words only by what they hold.
    let kind = model.opt_str("type")?.unwrap_or("BPE").to_owned();
    match kind.as_str() {
        "BPE" | "WordPiece" => vocabulary.fill_map(&model)?,
        "Unigram" => vocabulary.fill_list(&model)?,
        other => {
            let problem = format!("'{other}' is not supported; BPE, Unigram, WordPiece are");
            return Err(model.bad("type", problem));
        }
    }
    vocabulary.add(&json)?;
    match kind.as_str() {
        "BPE" => byte_pair(&model, &pieces, &mut vocabulary, metadata)?,
        "WordPiece" => word_piece(&model, &pieces, &mut vocabulary, metadata)?,
        _ => unigram(&model, &pieces, metadata)?,
    }
    roles(dir, &json, config.as_ref(), &vocabulary, metadata)?;
    vocabulary.write(metadata);
    Ok(())
}

impl Vocabulary {
    fn new(rows: usize) -> Self {
        let rows = rows.min(MAX_TOKENS);
        Self { tokens: vec![None; rows], kinds: vec![UNUSED; rows], scores: vec![-1e4; rows] }
    }

    fn put(&mut self, what: &Json, id: u64, text: &str, kind: i32) -> Result<(), GgufError> {
        let rows = self.tokens.len();
        let slot = usize::try_from(id).ok().filter(|id| *id < rows);
        let slot = slot.ok_or_else(|| {
            let problem = format!("id {id} of {text:?}: the embedding has {rows} rows");
            what.bad("vocab", problem)
        })?;
        self.tokens[slot] = Some(text.to_owned());
        self.kinds[slot] = kind;
        Ok(())
    }

    /// Texts to ids.
    fn fill_map(&mut self, model: &Json) -> Result<(), GgufError> {
        let vocab = model.object("vocab")?;
        for (text, id) in vocab.entries() {
            let id = id.as_u64().ok_or_else(|| model.bad("vocab", "an id is not a number"))?;
            self.put(model, id, text, NORMAL)?;
        }
        Ok(())
    }

    /// Texts with scores, in the order of ids.
    fn fill_list(&mut self, model: &Json) -> Result<(), GgufError> {
        for (id, node) in model.array("vocab")?.iter().enumerate() {
            let pair = node.as_array().map(Vec::as_slice);
            let Some([Node::String(text), score]) = pair else {
                return Err(model.bad("vocab", format!("entry {id} is not a text and a score")));
            };
            self.put(model, id as u64, text, NORMAL)?;
            self.scores[id] = score.as_f64().unwrap_or_default() as f32;
        }
        if let Some(id) = model.opt_u32("unk_id")?
            && let Some(kind) = self.kinds.get_mut(id as usize)
        {
            *kind = UNKNOWN;
        }
        Ok(())
    }

    /// Tokens that were added to the vocabulary, or take a part of their own in it.
    fn add(&mut self, json: &Json) -> Result<(), GgufError> {
        for token in json.objects("added_tokens")? {
            let text = token.opt_str("content")?.unwrap_or_default();
            let id = token.u32("id")?;
            // Some files add tokens that their model has no embedding for.
            if id as usize >= self.tokens.len() {
                continue;
            }
            let is_special = token.flag("special")?.unwrap_or(false);
            let was_unknown = self.kinds.get(id as usize) == Some(&UNKNOWN);
            let kind = match (is_special, was_unknown) {
                (_, true) => UNKNOWN,
                (true, false) => CONTROL,
                (false, false) => USER,
            };
            self.put(json, id.into(), text, kind)?;
        }
        Ok(())
    }

    fn id(&self, text: &str) -> Option<u32> {
        let at = self.tokens.iter().position(|token| token.as_deref() == Some(text));
        at.map(|at| at as u32)
    }

    /// Byte tokens, `<0x0A>`, are marked as such.
    fn mark_bytes(&mut self) {
        for (token, kind) in self.tokens.iter().zip(&mut self.kinds) {
            let digits = token.as_deref().and_then(|t| t.strip_prefix("<0x")?.strip_suffix('>'));
            let is_byte =
                digits.is_some_and(|d| d.len() == 2 && d.bytes().all(|b| b.is_ascii_hexdigit()));
            if is_byte && *kind == NORMAL {
                *kind = BYTE;
            }
        }
    }

    fn write(self, metadata: &mut Metadata) {
        let padded = self.tokens.into_iter().enumerate();
        let texts = padded.map(|(id, text)| text.unwrap_or_else(|| format!("[PAD{id}]")));
        let texts: Vec<Box<[u8]>> = texts.map(|text| text.into_bytes().into()).collect();
        metadata.set("tokenizer.ggml.tokens", Array::String(texts));
        metadata.set("tokenizer.ggml.token_type", Array::I32(self.kinds));
        if metadata.str("tokenizer.ggml.model").ok().flatten() == Some("t5") {
            metadata.set("tokenizer.ggml.scores", Array::F32(self.scores));
        }
    }
}

fn byte_pair(
    model: &Json,
    pieces: &Pieces,
    vocabulary: &mut Vocabulary,
    metadata: &mut Metadata,
) -> Result<(), GgufError> {
    for key in ["continuing_subword_prefix", "end_of_word_suffix"] {
        if model.opt_str(key)?.is_some_and(|text| !text.is_empty()) {
            return Err(model.bad(key, "it is not supported"));
        }
    }
    let mut merges: Vec<Box<[u8]>> = Vec::new();
    for (i, merge) in model.array("merges")?.iter().enumerate() {
        let text = match merge {
            Node::String(text) => text.clone(),
            Node::Array(pair) => match pair.as_slice() {
                [Node::String(left), Node::String(right)] => format!("{left} {right}"),
                _ => return Err(model.bad("merges", format!("entry {i} is not a pair"))),
            },
            _ => return Err(model.bad("merges", format!("entry {i} is not a pair"))),
        };
        merges.push(text.into_bytes().into());
    }
    let ignores_merges = model.flag("ignore_merges")?.unwrap_or(false);
    metadata.set("tokenizer.ggml.model", "gpt2");
    metadata.set("tokenizer.ggml.pre", pieces.pre_type(ignores_merges)?);
    metadata.set("tokenizer.ggml.merges", Array::String(merges));
    if pieces.escapes_spaces() {
        if model.flag("byte_fallback")? == Some(true) {
            vocabulary.mark_bytes();
        }
        metadata.set("tokenizer.ggml.add_space_prefix", pieces.adds_space());
        metadata.set(pieces::FIRST_KEY, pieces.adds_space_at_start_only());
    }
    forms(pieces, metadata);
    Ok(())
}

/// The normal form that text is brought to.
fn forms(pieces: &Pieces, metadata: &mut Metadata) {
    if pieces.composes() {
        metadata.set(pieces::NFC_KEY, true);
    }
    if pieces.composes_compatibly() {
        metadata.set(pieces::NFKC_KEY, true);
    }
}

/// A token that continues a word is bare, one that starts it has U+2581 in front.
fn word_piece(
    model: &Json,
    pieces: &Pieces,
    vocabulary: &mut Vocabulary,
    metadata: &mut Metadata,
) -> Result<(), GgufError> {
    let prefix = model.opt_str("continuing_subword_prefix")?.unwrap_or("##");
    if prefix != "##" {
        return Err(model.bad("continuing_subword_prefix", format!("{prefix:?} is not \"##\"")));
    }
    let bert = pieces.bert()?;
    let unknown = model.opt_str("unk_token")?.and_then(|text| vocabulary.id(text));
    for (token, kind) in vocabulary.tokens.iter_mut().zip(&vocabulary.kinds) {
        let Some(text) = token.as_mut().filter(|_| *kind == NORMAL) else { continue };
        *text = match text.strip_prefix(prefix) {
            Some(rest) => rest.to_owned(),
            None => format!("\u{2581}{text}"),
        };
    }
    metadata.set("tokenizer.ggml.model", "bert");
    metadata.set("tokenizer.ggml.normalizer.lowercase", bert.lower_case);
    metadata.set("tokenizer.ggml.normalizer.strip_accents", bert.strip_accents);
    metadata.set(pieces::WORD_KEY, model.opt_u32("max_input_chars_per_word")?.unwrap_or(100));
    if let Some(unknown) = unknown {
        metadata.set("tokenizer.ggml.unknown_token_id", unknown);
    }
    Ok(())
}

fn unigram(model: &Json, pieces: &Pieces, metadata: &mut Metadata) -> Result<(), GgufError> {
    if model.flag("byte_fallback")? == Some(true) {
        return Err(model.bad("byte_fallback", "it is not supported with unigram models"));
    }
    if !pieces.escapes_spaces() {
        return Err(model.bad("type", "a unigram model without U+2581 for spaces is not supported"));
    }
    metadata.set("tokenizer.ggml.model", "t5");
    metadata.set("tokenizer.ggml.pre", "default");
    metadata.set("tokenizer.ggml.add_space_prefix", pieces.adds_space());
    metadata.set("tokenizer.ggml.remove_extra_whitespaces", pieces.joins_spaces());
    forms(pieces, metadata);
    if let Some(map) = pieces.character_map() {
        metadata.set("tokenizer.ggml.precompiled_charsmap", Array::U8(map.to_vec()));
    }
    if let Some(id) = model.opt_u32("unk_id")? {
        metadata.set("tokenizer.ggml.unknown_token_id", id);
    }
    Ok(())
}

/// Which tokens begin and end a text, and whether they are added.
fn roles(
    dir: &Path,
    json: &Json,
    config: Option<&Json>,
    vocabulary: &Vocabulary,
    metadata: &mut Metadata,
) -> Result<(), GgufError> {
    let frame = pieces::frame(json)?;
    let named = |key: &str| -> Option<u32> {
        let node = config?.get(key)?;
        let text = node.as_str().or_else(|| node.get("content")?.as_str())?;
        vocabulary.id(text)
    };
    let generation = Json::read_if_there(&dir.join("generation_config.json"))?;
    // What ends a text comes first, then what ends an answer.
    let mut ends: Vec<u32> = frame.last.into_iter().chain(named("eos_token")).collect();
    if let Some(node) = generation.as_ref().and_then(|generation| generation.get("eos_token_id")) {
        let ids = node.as_array().map_or_else(|| vec![node.clone()], Clone::clone);
        ends.extend(ids.iter().filter_map(Node::as_u64).filter_map(|id| u32::try_from(id).ok()));
    }
    let mut distinct = Vec::new();
    for id in ends {
        if !distinct.contains(&id) {
            distinct.push(id);
        }
    }
    let first = frame.first.or_else(|| named("bos_token"));
    if let Some(first) = first {
        metadata.set("tokenizer.ggml.bos_token_id", first);
    }
    if let (Some(last), Some(_)) = (frame.last, frame.first) {
        metadata.set("tokenizer.ggml.seperator_token_id", last);
    }
    for (key, id) in ["eos", "eot", "eom"].iter().zip(distinct) {
        metadata.set(format!("tokenizer.ggml.{key}_token_id"), id);
    }
    // Older configurations say it in words.
    let said = |key: &str| config.map_or(Ok(None), |config| config.flag(key));
    let adds_bos =
        frame.first.is_some() || (!frame.is_given && said("add_bos_token")?.unwrap_or(false));
    metadata.set("tokenizer.ggml.add_bos_token", adds_bos);
    metadata.set("tokenizer.ggml.add_eos_token", frame.last.is_some());
    for (ours, theirs) in [("padding", "pad_token"), ("mask", "mask_token")] {
        if let Some(id) = named(theirs) {
            metadata.set(format!("tokenizer.ggml.{ours}_token_id"), id);
        }
    }
    Ok(())
}
