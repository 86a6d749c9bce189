//! Grammars that constrain an output, compiled by llguidance for one vocabulary.
//!
//! Everything fails closed: what cannot be compiled is an error before the first token, and a
//! constraint that cannot go on ends its sequence.

use std::fmt;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread;

use llguidance::api::TopLevelGrammar;
use llguidance::toktrie::{TokEnv, TokRxInfo, TokTrie, TokenId, TokenizerEnv};
use llguidance::{Matcher, ParserFactory, TokenParser};
use serde_json::Value;

use super::gbnf::{self, quote};
use super::grammar_cache::{GrammarCache, Kept};
use super::tokenizer::{Special, Tokenizer};
use crate::engine::request::Constraint;

/// Largest grammar or schema, in bytes of its text.
const SOURCE_BYTES_MAX: usize = 1 << 20;
/// Deepest nesting of a schema's text; beyond it, compilers would recurse too far.
const DEPTH_MAX: usize = 128;
/// Rules in a grammar; each may be a level of the compiler's recursion.
const RULES_MAX: usize = 5_000;
/// Stack of a compilation: room for that recursion, unoptimised.
const STACK_BYTES: usize = 512 << 20;
/// Texts to choose from.
const CHOICES_MAX: usize = 10_000;
/// Bytes of forced text that are cut into tokens at a time.
const FORCED_BYTES_MAX: usize = 512;
/// Tokens of an output that a grammar is tried with before it is accepted.
const REHEARSAL_TOKENS: usize = 16;

/// What an output must look like.
#[derive(Clone, Debug, PartialEq)]
pub enum Grammar {
    /// Any JSON object.
    JsonObject,
    JsonSchema(Value),
    /// A schema of which what the compiler does not know is skipped.
    LooseSchema(Value),
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
    #[error("grammar has {num} rules, the limit is {RULES_MAX}")]
    TooManyRules { num: usize },
    #[error("choice list is empty")]
    NoChoice,
    #[error("choice list has {num} texts, the limit is {CHOICES_MAX}")]
    TooManyChoices { num: usize },
    #[error("{0}")]
    Unsupported(String),
}

/// Compiles grammars for one vocabulary. Compiling may take long: keep it off async threads.
pub struct GrammarCompiler {
    factory: ParserFactory,
    cache: Mutex<GrammarCache<CompiledGrammar>>,
}

impl fmt::Debug for GrammarCompiler {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GrammarCompiler").finish_non_exhaustive()
    }
}

/// A grammar that is ready to constrain any number of outputs.
#[derive(Clone)]
pub struct CompiledGrammar {
    /// At its start; never moved on.
    matcher: Arc<Mutex<Matcher>>,
    /// Words of a mask over the vocabulary.
    words: usize,
    /// What it holds in memory, by estimate.
    num_bytes: usize,
}

impl fmt::Debug for CompiledGrammar {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("CompiledGrammar").finish_non_exhaustive()
    }
}

impl CompiledGrammar {
    /// A constraint at its start.
    pub fn constraint(&self) -> Box<dyn Constraint> {
        Box::new(GrammarConstraint { matcher: self.fresh(), words: self.words })
    }

    fn fresh(&self) -> Matcher {
        self.matcher.lock().unwrap_or_else(PoisonError::into_inner).deep_clone()
    }
}

impl Kept for CompiledGrammar {
    fn num_bytes(&self) -> usize {
        self.num_bytes
    }
}

impl GrammarCompiler {
    /// Builds the token tree of `tokenizer`. Of compiled grammars, `cache_bytes` are kept for reuse.
    ///
    /// # Errors
    /// A vocabulary without an end-of-generation token: a constrained output could not end.
    pub fn new(tokenizer: Arc<Tokenizer>, cache_bytes: usize) -> Result<Self, GrammarError> {
        let env: TokEnv = Arc::new(VocabularyEnv::new(tokenizer)?);
        let mut factory = ParserFactory::new_simple(&env).map_err(unsupported)?;
        factory.quiet();
        Ok(Self { factory, cache: Mutex::new(GrammarCache::new(cache_bytes)) })
    }

    /// Compiles a grammar, or finds it among those used lately.
    ///
    /// # Errors
    /// See [`GrammarError`].
    pub fn compile(&self, grammar: &Grammar) -> Result<CompiledGrammar, GrammarError> {
        let key = format!("{grammar:?}");
        if key.len() > SOURCE_BYTES_MAX {
            return Err(GrammarError::TooLarge { bytes: key.len() });
        }
        if let Some(compiled) = self.cache().get(&key) {
            return Ok(compiled);
        }
        let source = top_level(grammar)?;
        let words = self.factory.tok_env().tok_trie().vocab_size().div_ceil(32);
        let compiled = on_deep_stack(|| {
            let mut parser = self.factory.create_parser(source).map_err(unsupported)?;
            parser.start_without_prompt();
            // The first mask proves that the grammar is within the limits of the lexer.
            parser.compute_mask().map_err(unsupported)?;
            let num_bytes = num_bytes(&parser, &key) + words * size_of::<u32>();
            let matcher = Matcher::new(Ok(parser));
            rehearse(matcher.deep_clone())?;
            Ok(CompiledGrammar { matcher: Arc::new(Mutex::new(matcher)), words, num_bytes })
        })?;
        self.cache().put(key, &compiled);
        Ok(compiled)
    }

    fn cache(&self) -> MutexGuard<'_, GrammarCache<CompiledGrammar>> {
        self.cache.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What a parser holds: the tables of its lexer, of which the library tells, and what grows with the
/// text and with the kinds of tokens. Against a counting allocator, between 0.85 and 1.6 of the truth
/// for schemas from 16 bytes to 80 kB.
fn num_bytes(parser: &TokenParser, source: &str) -> usize {
    const PER_LEXEME: usize = 1500;
    const PER_SOURCE_BYTE: usize = 24;
    let num_lexemes = parser.parser.grammar().lexer_spec().lexemes.len();
    let grown = num_lexemes * PER_LEXEME + source.len() * PER_SOURCE_BYTE;
    parser.parser.lexer_stats().num_bytes + grown
}

/// Follows a grammar for some tokens, what it forces and some of what it allows: one that is too large
/// for the limits of its parser mostly shows it here, and not when a prompt has been computed.
fn rehearse(mut matcher: Matcher) -> Result<(), GrammarError> {
    let mut state = 1_u64;
    for _ in 0..REHEARSAL_TOKENS {
        let forced = matcher.compute_ff_tokens();
        matcher.consume_tokens(&forced).map_err(unsupported)?;
        if matcher.is_stopped() {
            break;
        }
        let mask = matcher.compute_mask().map_err(unsupported)?;
        let Ok(env) = matcher.tok_env() else { break };
        let is_text = |id: &TokenId| !env.tok_trie().is_special_token(*id);
        let allowed: Vec<TokenId> = mask.iter().filter(is_text).collect();
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        let Some(&token) = allowed.get((state >> 33) as usize % allowed.len().max(1)) else {
            break;
        };
        matcher.consume_token(token).map_err(unsupported)?;
    }
    Ok(())
}

/// Runs a compilation with room for rules that lead from one to the next, thousands of them: the
/// compiler recurses, and an overflow would end the process. Pages that are not used cost nothing.
fn on_deep_stack<T: Send>(
    compile: impl FnOnce() -> Result<T, GrammarError> + Send,
) -> Result<T, GrammarError> {
    thread::scope(|scope| {
        let thread = thread::Builder::new().name("grammar".to_owned()).stack_size(STACK_BYTES);
        let compiling = thread.spawn_scoped(scope, compile).map_err(|error| {
            GrammarError::Unsupported(format!("no thread to compile it: {error}"))
        })?;
        let panicked = |_| Err(GrammarError::Unsupported("the compiler failed on it".to_owned()));
        compiling.join().unwrap_or_else(panicked)
    })
}

fn top_level(grammar: &Grammar) -> Result<TopLevelGrammar, GrammarError> {
    Ok(match grammar {
        Grammar::JsonObject => {
            let schema = serde_json::json!({"type": "object"});
            TopLevelGrammar::from_json_schema(configured(schema, false))
        }
        Grammar::JsonSchema(schema) | Grammar::LooseSchema(schema) => {
            check_depth(depth(schema))?;
            let is_loose = matches!(grammar, Grammar::LooseSchema(_));
            TopLevelGrammar::from_json_schema(configured(schema.clone(), is_loose))
        }
        Grammar::Regex(regex) => TopLevelGrammar::from_regex(regex),
        Grammar::Lark(lark) => {
            check_depth(lark_depth(lark))?;
            check_rules(lark)?;
            TopLevelGrammar::from_lark(lark.clone())
        }
        Grammar::Gbnf(source) => {
            TopLevelGrammar::from_lark(gbnf::to_lark(source).map_err(GrammarError::Unsupported)?)
        }
        Grammar::Choice(choices) => {
            if choices.is_empty() {
                return Err(GrammarError::NoChoice);
            }
            if choices.len() > CHOICES_MAX {
                return Err(GrammarError::TooManyChoices { num: choices.len() });
            }
            let quoted: Vec<String> = choices.iter().map(|choice| quote(choice)).collect();
            TopLevelGrammar::from_lark(format!("start: {}", quoted.join(" | ")))
        }
    })
}

/// The schema with our options. Blanks only where Python's `json.dumps` writes them, unless the schema
/// says otherwise: a small model can otherwise spend its budget on blanks. What the compiler does not
/// know is skipped in loose schemas alone.
pub(super) fn configured(mut schema: Value, is_loose: bool) -> Value {
    if let Value::Object(map) = &mut schema {
        let options = map.entry("x-guidance").or_insert_with(|| {
            serde_json::json!({
                "whitespace_flexible": false, "item_separator": ", ", "key_separator": ": ",
            })
        });
        if let Value::Object(options) = options {
            options.insert("lenient".to_owned(), Value::Bool(is_loose));
            options.insert("coerce_one_of".to_owned(), Value::Bool(is_loose));
        }
    }
    schema
}

fn check_depth(depth: usize) -> Result<(), GrammarError> {
    if depth > DEPTH_MAX { Err(GrammarError::TooDeep { depth }) } else { Ok(()) }
}

/// Rules begin with a name at the start of a line.
fn check_rules(lark: &str) -> Result<(), GrammarError> {
    let is_rule = |line: &&str| {
        let name = line.split(':').next().unwrap_or_default();
        name.len() < line.len()
            && line.starts_with(|c: char| c.is_alphabetic() || "_?!".contains(c))
    };
    let num = lark.lines().filter(is_rule).count();
    if num > RULES_MAX { Err(GrammarError::TooManyRules { num }) } else { Ok(()) }
}

fn depth(value: &Value) -> usize {
    match value {
        Value::Array(items) => 1 + items.iter().map(depth).max().unwrap_or(0),
        Value::Object(map) => 1 + map.values().map(depth).max().unwrap_or(0),
        _ => 0,
    }
}

/// How deep brackets nest outside of strings and regular expressions.
fn lark_depth(source: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    let mut quote: Option<char> = None;
    let mut chars = source.chars();
    while let Some(c) = chars.next() {
        match (quote, c) {
            (Some(_), '\\') => {
                chars.next();
            }
            (Some(open), c) if c == open || c == '\n' => quote = None,
            (None, '"' | '/') => quote = Some(c),
            (None, '(' | '[' | '{') => depth += 1,
            (None, ')' | ']' | '}') => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

fn unsupported(error: impl fmt::Display) -> GrammarError {
    GrammarError::Unsupported(first_line(&error.to_string()))
}

/// Why a grammar at work cannot go on.
fn complaint(error: impl fmt::Display) -> String {
    first_line(&error.to_string())
}

/// What a person can use of a compiler's complaint: its first line, and what the parser of regular
/// expressions says below.
fn first_line(text: &str) -> String {
    let mut lines = text.lines();
    let first = lines.next().unwrap_or_default();
    let cause = lines.find_map(|line| line.strip_prefix("error: "));
    let line = cause.map_or_else(|| first.to_owned(), |cause| format!("{first} {cause}"));
    let line: String = line.chars().take(500).collect();
    // Options of the compiler are not ours to offer.
    let line = line.split(". Enable '").next().unwrap_or_default();
    if line == "NoExtensionBias" {
        return "no text can begin as the grammar says".to_owned();
    }
    line.replace("Unimplemented keys:", "unsupported keywords")
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
        let allowed = self.matcher.compute_mask_or_eos().map_err(complaint)?;
        let allowed = allowed.as_slice();
        let words = self.words.min(allowed.len()).min(mask.len());
        mask[..words].copy_from_slice(&allowed[..words]);
        // Logits of padding beyond the vocabulary are never allowed.
        mask[words..].fill(0);
        Ok(())
    }

    fn accept(&mut self, token: u32) -> Result<(), String> {
        self.matcher.consume_token(token).map_err(complaint)
    }

    fn is_finished(&self) -> bool {
        self.matcher.is_stopped()
    }

    fn forced(&mut self) -> Vec<u32> {
        self.matcher.compute_ff_tokens()
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
        // Text that is forced is cut again at each step: no more of it than a step can use.
        let bytes = &bytes[..bytes.len().min(FORCED_BYTES_MAX)];
        // What begins within a character is no text; what is returned must cover all of it.
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let tokens = self.tokenizer.encode(text, Special::Plain);
        // Some vocabularies begin a text with a space of their own.
        let is_faithful = !tokens.is_empty() && self.trie.decode_raw(&tokens) == bytes;
        if is_faithful { tokens } else { self.trie.greedy_tokenize(bytes) }
    }

    /// Text that a grammar forces is cut as the model would cut it.
    fn tokenize_is_canonical(&self) -> bool {
        true
    }
}
