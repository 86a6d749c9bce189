//! Grammars that constrain an output, compiled by llguidance for one vocabulary.
//!
//! Everything fails closed: what cannot be compiled is an error before the first token, and a
//! constraint that cannot go on ends its sequence.

use std::collections::HashMap;
use std::fmt;
use std::sync::{Arc, Mutex};

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory};
use serde_json::Value;

use super::gbnf;
use super::tokenizer::{Special, Tokenizer};
use crate::engine::request::Constraint;

/// Largest grammar or schema, in bytes of its text.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of a schema's text; beyond it, compilers would recurse too far.
const DEPTH_MAX: usize = 128;
/// Compiled grammars kept for reuse.
const CACHE_LEN: usize = 64;

/// What an output must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    JsonSchema(Value),
    /// A regular expression for the whole output, in the syntax of Rust's regex crate.
    Regex(String),
    /// llguidance's variant of Lark.
    Lark(String),
    /// llama.cpp's GBNF.
    Gbnf(String),
    /// One of these texts.
    Choice(Vec<String>),
}

/// Why a grammar is refused; the text names the keyword, the limit or the place.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GrammarError {
    #[error("grammar has {bytes} bytes, the limit is {SOURCE_BYTES_MAX}")]
    TooLarge { bytes: usize },
    #[error("grammar nests {depth} deep, the limit is {DEPTH_MAX}")]
    TooDeep { depth: usize },
    #[error("choice list is empty")]
    NoChoice,
    #[error("{0}")]
    Unsupported(String),
}

/// Compiles grammars for one vocabulary. Compiling may take long: keep it off async threads.
pub struct GrammarCompiler {
    factory: ParserFactory,
    cache: Mutex<HashMap<String, Matcher>>,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

impl GrammarCompiler {
    /// Builds the token tree of `tokenizer`.
    ///
    /// # Errors
    /// A vocabulary without an end-of-generation token: a constrained output could not end.
    pub fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, GrammarError> {
        let env: TokEnv = Arc::new(VocabularyEnv::new(tokenizer)?);
        let mut factory = ParserFactory::new_simple(&env).map_err(unsupported)?;
        factory.quiet();
        Ok(Self { factory, cache: Mutex::default() })
    }

    /// A constraint at its start.
    ///
    /// # Errors
    /// See [`GrammarError`].
    pub fn compile(&self, grammar: &Grammar) -> Result<Box<dyn Constraint>, GrammarError> {
        let key = format!("{grammar:?}");
        if key.len() > SOURCE_BYTES_MAX {
            return Err(GrammarError::TooLarge { bytes: key.len() });
        }
        let words = self.factory.tok_env().tok_trie().vocab_size().div_ceil(32);
        if let Some(matcher) = self.cached(&key) {
            return Ok(Box::new(GrammarConstraint { matcher, words }));
        }
        let parser = self.factory.create_parser(top_level(grammar)?);
        let mut matcher = Matcher::new(parser);
        if let Some(error) = matcher.get_error() {
            return Err(GrammarError::Unsupported(first_line(&error)));
        }
        // The first mask proves that the grammar is within the limits of the lexer.
        matcher.compute_mask().map_err(unsupported)?;
        let mut cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if cache.len() >= CACHE_LEN {
            cache.clear();
        }
        cache.insert(key, matcher.deep_clone());
        Ok(Box::new(GrammarConstraint { matcher, words }))
    }

    fn cached(&self, key: &str) -> Option<Matcher> {
        let cache = self.cache.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        cache.get(key).map(Matcher::deep_clone)
    }
}

fn top_level(grammar: &Grammar) -> Result<TopLevelGrammar, GrammarError> {
    Ok(match grammar {
        Grammar::JsonObject => {
            TopLevelGrammar::from_json_schema(compact(serde_json::json!({"type": "object"})))
        }
        Grammar::JsonSchema(schema) => {
            let depth = depth(schema);
            if depth > DEPTH_MAX {
                return Err(GrammarError::TooDeep { depth });
            }
            TopLevelGrammar::from_json_schema(compact(schema.clone()))
        }
        Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
        Grammar::Lark(lark) => TopLevelGrammar::from_lark(lark.clone()),
        Grammar::Gbnf(source) => {
            TopLevelGrammar::from_lark(gbnf::to_lark(source).map_err(GrammarError::Unsupported)?)
        }
        Grammar::Choice(choices) => {
            if choices.is_empty() {
                return Err(GrammarError::NoChoice);
            }
            let quoted: Vec<String> = choices.iter().map(|choice| quote(choice)).collect();
            TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | ")))
        }
    })
}

/// Asks for JSON without free whitespace, unless the schema says otherwise: a small model can
/// otherwise spend its budget on blanks.
fn compact(mut schema: Value) -> Value {
    if let Value::Object(map) = &mut schema {
        map.entry("x-guidance")
            .or_insert_with(|| serde_json::json!({"whitespace_flexible": false}));
    }
    schema
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// A Lark string literal.
pub(super) fn quote(text: &str) -> String {
    serde_json::to_string(text).unwrap_or_default()
}

fn unsupported(error: impl fmt::Display) -> GrammarError {
    GrammarError::Unsupported(first_line(&error.to_string()))
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().chars().take(500).collect()
}

/// A grammar at work on one sequence.
struct GrammarConstraint {
    matcher: Matcher,
    /// Words of a mask over the vocabulary.
    words: usize,
}

impl fmt::Debug for GrammarConstraint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarConstraint").finish_non_exhaustive()
    }
}

impl Constraint for GrammarConstraint {
    fn mask(&mut self, mask: &mut [u32]) -> Result<(), String> {
        let allowed = self.matcher.compute_mask_or_eos().map_err(|error| error.to_string())?;
        let allowed = allowed.as_slice();
        let words = self.words.min(allowed.len()).min(mask.len());
        mask[..words].copy_from_slice(&allowed[..words]);
        // Logits of padding beyond the vocabulary are never allowed.
        mask[words..].fill(0);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.matcher.consume_token(token).map_err(|error| error.to_string())
    }

    fn is_finished(&self) -> bool {
        self.matcher.is_stopped()
    }
}

/// The vocabulary as llguidance wants it: bytes a token, special tokens marked.
struct VocabularyEnv {
    trie: TokTrie,
    tokenizer: Arc<Tokenizer>,
}

impl VocabularyEnv {
    fn new(tokenizer: Arc<Tokenizer>) -> Result<Self, GrammarError> {
        let eog = tokenizer.eog();
        let Some(&eos) = eog.first() else {
            return Err(GrammarError::Unsupported(
                "the vocabulary has no end-of-generation token".to_owned(),
            ));
        };
        let size = tokenizer.vocab_size() as u32;
        let words: Vec<Vec<u8>> = (0..size).map(|id| word(&tokenizer, id)).collect();
        let trie = TokTrie::from(&TokRxInfo::new(size, eos), &words).with_eos_tokens(eog);
        Ok(Self { trie, tokenizer })
    }
}

/// What a token stands for; special tokens begin with a byte that no text has.
fn word(tokenizer: &Tokenizer, id: u32) -> Vec<u8> {
    if !tokenizer.is_control(id) {
        return tokenizer.bytes(id).to_vec();
    }
    let mut word = vec![TokTrie::SPECIAL_TOKEN_MARKER];
    word.extend(tokenizer.token(id).unwrap_or_default().as_bytes());
    word
}

impl TokenizerEnv for VocabularyEnv {
    fn tok_trie(&self) -> &TokTrie {
        &self.trie
    }

    fn tokenize_bytes(&self, bytes: &[u8]) -> Vec<TokenId> {
        match std::str::from_utf8(bytes) {
            Ok(text) => self.tokenizer.encode(text, Special::Plain),
            Err(_) => self.trie.greedy_tokenize(bytes),
        }
    }

    fn tokenize_is_canonical(&self) -> bool {
        false
    }
}
