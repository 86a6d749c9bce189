//! What a dialect asks for, and the checks that turn it into engine requests.

use std::fmt;
use std::hash::{BuildHasher, RandomState};
use std::sync::Arc;
use std::time::Duration;

use xxhash_rust::xxh3::xxh3_64;

use crate::chat::preparation::{conversation_bytes, stopped};
use crate::chat::thinking::ThinkingBudget;
use crate::chat::{
    ChatInput, ChatPrompt, Detokenizer, Infill, Patience, SamplingDefaults, Special, TextModel,
    Tokenizer, Unread, Until,
};
use crate::engine::sampling::{Breakers, MAX_BANNED_LEN};
use crate::engine::{Constraint, LogprobsOf, Request, Sampling};
use crate::error::{Error, Result};
use crate::model::RunnerSpec;

use super::cutting::fitting;
use super::rules::{Compiled, OutputRules, ToolUse};

/// Most choices of one request, `best_of` included.
pub const MAX_CHOICES: u32 = 128;
/// Most stop strings, and bytes in one.
pub const MAX_STOPS: usize = 16;
pub const MAX_STOP_BYTES: usize = 1024;
/// Most stop tokens that a request may add.
pub const MAX_STOP_TOKENS: usize = 256;
/// Most alternatives per token.
pub const MAX_LOGPROBS: u32 = 20;
/// Most texts that end a repetition, and bytes in one.
pub const MAX_BREAKERS: usize = 32;
pub const MAX_BREAKER_BYTES: usize = 40;
/// Most words that may not occur, and bytes in one.
pub const MAX_BAD_WORDS: usize = 256;
pub const MAX_BAD_WORD_BYTES: usize = 256;
/// Bytes of a prediction.
const MAX_PREDICTION_BYTES: usize = 1 << 20;
/// Contexts that the tokens of a prompt may fill before they are counted no more: how far a prompt is
/// too long is worth to be told exactly, but not at any price.
const COUNTED_CONTEXTS: usize = 2;

/// What is to be continued.
#[derive(Clone, Debug)]
pub enum PromptInput {
    /// Messages, through the model's template.
    Chat(ChatInput),
    /// Text, special tokens in it included.
    Text(String),
    /// Token ids, as they are.
    Tokens(Vec<u32>),
    /// A text whose middle is to be filled in.
    Infill(Infill),
    /// Messages that follow on what was said before, as token ids.
    Following { before: Vec<u32>, chat: ChatInput },
}

impl PromptInput {
    /// The wire's name for it, for errors.
    fn field(&self) -> &'static str {
        match self {
            Self::Chat(_) => "messages",
            Self::Following { .. } => "context",
            Self::Text(_) | Self::Tokens(_) => "prompt",
            Self::Infill(infill) => infill.field,
        }
    }

    /// Bytes of its texts.
    pub(super) fn num_bytes(&self) -> usize {
        match self {
            Self::Chat(input) => conversation_bytes(input),
            Self::Following { before, chat } => {
                size_of_val(before.as_slice()) + conversation_bytes(chat)
            }
            Self::Text(text) => text.len(),
            Self::Tokens(tokens) => size_of_val(tokens.as_slice()),
            Self::Infill(infill) => infill.num_bytes(),
        }
    }

    /// Its tokens, as far as they are wanted.
    fn read(&self, text: &TextModel, until: &Until) -> Result<ChatPrompt, Unread> {
        let plain = |tokens| ChatPrompt { tokens, ..ChatPrompt::default() };
        let tokenizer = &text.tokenizer;
        Ok(match self {
            Self::Chat(input) => text.prompt(input, until)?,
            Self::Following { before, chat } => {
                let prompt = text.prompt(chat, until)?;
                let bos = tokenizer.bos().filter(|_| tokenizer.add_bos());
                // The beginning has its token already.
                let begins = !before.is_empty() && prompt.tokens.first().copied() == bos;
                let rest = prompt.tokens.get(usize::from(begins)..).unwrap_or_default();
                ChatPrompt { tokens: [before, rest].concat(), ..prompt }
            }
            Self::Text(text) => {
                let tokens = tokenizer.encode_until(text, Special::Parse, until)?;
                plain(tokenizer.frame(tokens))
            }
            Self::Tokens(tokens) => plain(tokens.clone()),
            Self::Infill(infill) => plain(infill.tokens(tokenizer, until)?),
        })
    }
}

/// One prompt and how to go on from it.
#[derive(Clone)]
pub struct GenerationRequest {
    pub prompt: PromptInput,
    /// How whoever asks calls the prompt, for errors; `None` = by its kind.
    pub prompt_path: Option<&'static str>,
    /// `None` = as many as fit, but no more than `default_max_tokens`. 0 = only read the prompt, for
    /// `echo` or to warm the prefix cache.
    pub max_tokens: Option<u32>,
    /// Cap when `max_tokens` is absent; from the server's configuration.
    pub default_max_tokens: Option<u32>,
    /// Neither stop tokens nor stop strings end a choice before it has so many tokens.
    pub min_tokens: u32,
    /// Choices to return.
    pub n: u32,
    /// Choices to generate, of which the `n` with the highest mean log-probability are returned; only
    /// by [`super::Generation::collect`].
    pub best_of: Option<u32>,
    /// Its `seed` is not used; see [`Self::seed`]. Nor are its banned sequences and DRY's breakers: see
    /// [`Self::bad_words`] and [`Self::dry_breakers`].
    pub sampling: Sampling,
    /// What of `sampling` was asked for: of the rest the model's makers may have a better opinion.
    pub said: SamplingDefaults,
    /// What holds where they have none; else what stands in `sampling`.
    pub otherwise: SamplingDefaults,
    /// As `sampling.logit_bias`, for each token of a text.
    pub text_bias: Vec<(String, f32)>,
    /// Words that may not occur in the output.
    pub bad_words: Vec<String>,
    /// Texts over which repetitions do not reach.
    pub dry_breakers: Vec<String>,
    /// Choice `i` gets `seed + i`; `None` = random.
    pub seed: Option<u64>,
    pub stop: Vec<String>,
    /// The stop string that ended a choice is part of its text.
    pub include_stop: bool,
    /// In addition to the model's own end-of-generation tokens.
    pub stop_token_ids: Vec<u32>,
    /// The model's own end-of-generation tokens do not end a choice.
    pub ignore_eos: bool,
    /// Wanted alternatives per token: `None` = no log-probabilities.
    pub logprobs: Option<u32>,
    pub logprobs_of: LogprobsOf,
    /// The same for the prompt's tokens, without `echo`; only by [`super::Generation::collect`].
    pub prompt_logprobs: Option<u32>,
    /// The prompt's text, and log-probabilities if wanted, come first in each choice.
    pub echo: bool,
    /// Cached prefixes are shared only within one salt.
    pub cache_salt: Option<String>,
    /// No prefix is taken from the cache but those of this request.
    pub cache_apart: bool,
    /// A guess of the output, which may make it faster and never changes it.
    pub prediction: Option<String>,
    /// A choice ends so long after its first token, if there is a line break in it by then.
    pub time_limit: Option<Duration>,
    /// How long the model may reason.
    pub thinking: Option<ThinkingBound>,
    /// What each choice must look like. A stop string ends it wherever it stands, also where it is not
    /// complete; where the rules leave nothing to say it ends, also before `min_tokens`.
    pub rules: Option<Arc<OutputRules>>,
}

impl GenerationRequest {
    /// A request for one choice with OpenAI's defaults.
    #[must_use]
    pub fn new(prompt: PromptInput) -> Self {
        Self {
            prompt,
            prompt_path: None,
            max_tokens: None,
            default_max_tokens: None,
            min_tokens: 0,
            n: 1,
            best_of: None,
            sampling: Sampling::default(),
            said: SamplingDefaults::default(),
            otherwise: SamplingDefaults::default(),
            text_bias: Vec::new(),
            bad_words: Vec::new(),
            dry_breakers: Vec::new(),
            seed: None,
            stop: Vec::new(),
            include_stop: false,
            stop_token_ids: Vec::new(),
            ignore_eos: false,
            logprobs: None,
            logprobs_of: LogprobsOf::Model,
            prompt_logprobs: None,
            echo: false,
            cache_salt: None,
            cache_apart: false,
            prediction: None,
            time_limit: None,
            thinking: None,
            rules: None,
        }
    }

    /// How tokens are chosen on a model that advises this.
    #[must_use]
    pub fn defaults_on(&self, model: SamplingDefaults) -> SamplingDefaults {
        self.said.or(model).or(self.otherwise)
    }

    /// Lets what the engine knows hold where nothing else was said.
    pub(super) fn settle(&mut self, text: &TextModel) {
        self.defaults_on(text.sampling()).put_into(&mut self.sampling);
        if self.stop.is_empty() {
            self.stop.clone_from(&text.defaults().stop);
        }
    }

    fn prompt_field(&self) -> &'static str {
        self.prompt_path.unwrap_or(self.prompt.field())
    }

    /// Tools that the choices may call.
    pub(super) fn tools(&self) -> Option<&ToolUse> {
        self.rules.as_ref()?.tools.as_ref()
    }

    /// Whether the output goes on where the prompt's text ends, so that a space at its beginning
    /// belongs to it. An answer of its own begins without the one that some vocabularies add.
    pub(super) fn continues_text(&self) -> bool {
        match &self.prompt {
            PromptInput::Chat(input) => input.continue_final_message,
            PromptInput::Following { .. } => false,
            PromptInput::Text(_) | PromptInput::Tokens(_) | PromptInput::Infill(_) => true,
        }
    }

    /// Choices to generate.
    pub(super) fn num_candidates(&self) -> u32 {
        self.best_of.unwrap_or(self.n)
    }

    /// Checks everything that does not need the prompt's tokens.
    pub(super) fn validate(&self, text: &TextModel, runner: &RunnerSpec) -> Result<()> {
        within("n", self.n, 1, MAX_CHOICES)?;
        if let Some(best_of) = self.best_of {
            within("best_of", best_of, self.n, MAX_CHOICES)?;
        }
        if let Some(logprobs) = self.logprobs {
            within("logprobs", logprobs, 0, MAX_LOGPROBS)?;
        }
        if let Some(logprobs) = self.prompt_logprobs {
            within("prompt_logprobs", logprobs, 0, MAX_LOGPROBS)?;
        }
        if let Some(max_tokens) = self.max_tokens
            && self.min_tokens > max_tokens
        {
            let text = format!("min_tokens {} exceeds max_tokens {max_tokens}", self.min_tokens);
            return Err(Error::invalid("min_tokens", text));
        }
        self.validate_texts()?;
        self.validate_stops(text.tokenizer.vocab_size().min(runner.vocab_size))?;
        validate_sampling(&self.sampling, runner.vocab_size)
    }

    fn validate_texts(&self) -> Result<()> {
        let lists = [
            ("bad_words", &self.bad_words, MAX_BAD_WORDS, MAX_BAD_WORD_BYTES),
            ("dry_sequence_breakers", &self.dry_breakers, MAX_BREAKERS, MAX_BREAKER_BYTES),
        ];
        for (field, texts, max_texts, max_bytes) in lists {
            within(field, texts.len(), 0, max_texts)?;
            for (i, text) in texts.iter().enumerate() {
                if text.is_empty() || text.len() > max_bytes {
                    let bytes = text.len();
                    let text =
                        format!("{field}: a text has {bytes} bytes, limits 1 and {max_bytes}");
                    return Err(Error::invalid(format!("{field}[{i}]"), text));
                }
            }
        }
        let bytes = self.prediction.as_ref().map_or(0, String::len);
        if bytes > MAX_PREDICTION_BYTES {
            let text = format!("prediction has {bytes} bytes, limit {MAX_PREDICTION_BYTES}");
            return Err(Error::invalid("prediction", text));
        }
        Ok(())
    }

    fn validate_stops(&self, vocab_size: usize) -> Result<()> {
        within("stop", self.stop.len(), 0, MAX_STOPS)?;
        for (i, stop) in self.stop.iter().enumerate() {
            if stop.is_empty() || stop.len() > MAX_STOP_BYTES {
                let bytes = stop.len();
                let text =
                    format!("a stop string must have 1 to {MAX_STOP_BYTES} bytes, has {bytes}");
                return Err(Error::invalid(format!("stop[{i}]"), text));
            }
        }
        within("stop_token_ids", self.stop_token_ids.len(), 0, MAX_STOP_TOKENS)?;
        for (i, id) in self.stop_token_ids.iter().enumerate() {
            known_token(&format!("stop_token_ids[{i}]"), *id, vocab_size)?;
        }
        Ok(())
    }

    /// The engine's requests, one for each candidate.
    pub(super) fn requests(&self, prompt: &Prompt, text: &TextModel) -> Vec<Request> {
        let mut stop_tokens = self.stop_token_ids.clone();
        if !self.ignore_eos {
            stop_tokens.extend_from_slice(text.tokenizer.eog());
        }
        stop_tokens.sort_unstable();
        stop_tokens.dedup();
        let is_chat = matches!(self.prompt, PromptInput::Chat(_) | PromptInput::Following { .. });
        let in_reasoning = is_chat.then_some(prompt.in_reasoning);
        // Candidates are ranked by log-probabilities even if nobody asked to see them.
        let ranked = self.num_candidates() > self.n;
        let logprobs = self.logprobs.or(ranked.then_some(0));
        let seed = self.seed.unwrap_or_else(random_seed);
        let salt = self.cache_salt.as_ref().map_or(0, |s| xxh3_64(s.as_bytes()));
        let cache_salt = if self.cache_apart { random_seed() } else { salt };
        (0..self.num_candidates())
            .map(|i| {
                let mut sampling = self.sampling.clone();
                sampling.seed = seed.wrapping_add(u64::from(i));
                // Zero is the narrowest nucleus: the likeliest token alone.
                sampling.top_p = sampling.top_p.max(f32::MIN_POSITIVE);
                sampling.logit_bias.extend_from_slice(&prompt.bias);
                sampling.banned.clone_from(&prompt.banned);
                sampling.dry.breakers = Arc::clone(&prompt.breakers);
                Request {
                    prompt: prompt.tokens.clone(),
                    max_tokens: prompt.max_tokens.max(1),
                    min_tokens: self.min_tokens.min(prompt.max_tokens.max(1)),
                    stop_tokens: stop_tokens.clone(),
                    sampling,
                    logprobs,
                    logprobs_of: self.logprobs_of,
                    prompt_logprobs: self.logprobs.filter(|_| self.echo).max(self.prompt_logprobs),
                    prediction: prompt.prediction.clone(),
                    cache_salt,
                    constraint: self.constraint(prompt, text, in_reasoning),
                }
            })
            .collect()
    }
}

impl GenerationRequest {
    /// The rules of one choice, those of its reasoning included.
    fn constraint(
        &self,
        prompt: &Prompt,
        text: &TextModel,
        in_reasoning: Option<bool>,
    ) -> Option<Box<dyn Constraint>> {
        let rules = prompt.compiled.as_ref().map(|rules| rules.constraint(text, in_reasoning));
        let Some(((bound, tags), within)) =
            self.thinking.as_ref().zip(text.reasoning()).zip(in_reasoning)
        else {
            return rules;
        };
        let budget = ThinkingBudget::new(&text.tokenizer, (tags, within), bound.tokens, rules);
        Some(Box::new(budget))
    }

    /// A bound on the reasoning of a model that has none is an error, or holds anyway and is told.
    fn unthinking(&self, text: &TextModel) -> Result<Option<String>> {
        let Some(bound) = self.thinking.as_ref().filter(|_| text.reasoning().is_none()) else {
            return Ok(None);
        };
        if bound.is_hint {
            return Ok(Some(format!("{} (the model does not reason)", bound.path)));
        }
        let problem = format!("{}: this model writes no reasoning that it could bound", bound.path);
        Err(Error::invalid(&bound.path, problem))
    }
}

/// Tokens of reasoning, after which the model is made to answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ThinkingBound {
    pub tokens: u32,
    /// How whoever asks calls it.
    pub path: String,
    /// Clients send it to every model: it is no error where there is no reasoning.
    pub is_hint: bool,
}

impl fmt::Debug for GenerationRequest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GenerationRequest")
            .field("prompt", &self.prompt)
            .field("max_tokens", &self.max_tokens)
            .field("n", &self.n)
            .field("sampling", &self.sampling)
            .field("stop", &self.stop)
            .finish_non_exhaustive()
    }
}

/// A prompt that fits, and how much may follow.
pub(super) struct Prompt {
    pub(super) tokens: Vec<u32>,
    /// The prompt for `echo`, else empty.
    pub(super) text: String,
    pub(super) max_tokens: u32,
    /// The model's reasoning is open at its end.
    pub(super) in_reasoning: bool,
    /// What of the conversation the model cannot read.
    pub(super) left_out: Vec<String>,
    /// Rules of what follows.
    pub(super) compiled: Option<Arc<Compiled>>,
    /// Of the request's texts.
    pub(super) bias: Vec<(u32, f32)>,
    /// Token sequences that may not follow.
    pub(super) banned: Vec<Vec<u32>>,
    pub(super) breakers: Arc<Breakers>,
    pub(super) prediction: Vec<u32>,
}

/// Tokenizes the prompt and checks that it fits together with what is asked for. Blocks for as long as
/// templates and tokenizers take.
pub(super) fn prepare(
    request: &GenerationRequest,
    text: &TextModel,
    runner: &RunnerSpec,
    patience: &Patience,
) -> Result<Prompt> {
    let field = request.prompt_field();
    let context = runner.context_len;
    let until = Until { max_tokens: COUNTED_CONTEXTS * context, patience: patience.clone() };
    let cut = match &request.prompt {
        PromptInput::Chat(input) if input.may_cut => {
            fitting(input, text, (context, request.max_tokens), patience).transpose()
        }
        _ => None,
    };
    let read = cut.unwrap_or_else(|| request.prompt.read(text, &until)).map_err(|unread| match unread {
        Unread::Refused(error) => error,
        Unread::Stopped(reason) => stopped(reason, field, |at_least| {
            format!(
                "this model's context holds {context} tokens; the prompt has at least {at_least}"
            )
        }),
    });
    let ChatPrompt { mut tokens, in_reasoning, mut left_out } = read?;
    left_out.extend(request.unthinking(text)?);
    if tokens.is_empty() && !matches!(request.prompt, PromptInput::Tokens(_)) {
        tokens.extend(text.tokenizer.bos());
    }
    if tokens.is_empty() {
        let text = "the prompt has no tokens, and the model has no token to begin with";
        return Err(Error::invalid(field, text));
    }
    for (i, id) in tokens.iter().enumerate() {
        known_token(&format!("{field}[{i}]"), *id, runner.vocab_size)?;
    }
    let max_tokens = fit(request, tokens.len(), runner.context_len)?;
    let echoed = match &request.prompt {
        _ if !request.echo => String::new(),
        PromptInput::Text(prompt) => prompt.clone(),
        PromptInput::Chat(_)
        | PromptInput::Following { .. }
        | PromptInput::Tokens(_)
        | PromptInput::Infill(_) => {
            let mut detokenizer = Detokenizer::new(Arc::clone(&text.tokenizer));
            tokens.iter().map(|id| detokenizer.push(*id)).collect()
        }
    };
    let uses_breakers = request.sampling.dry.multiplier > 0.0;
    let bias = |(biased, bias): &(String, f32)| {
        let tokens = text.tokenizer.encode(biased, Special::Plain);
        tokens.into_iter().map(|id| (id, *bias)).collect::<Vec<_>>()
    };
    let encode = |guess: &String| text.tokenizer.encode(guess, Special::Plain);
    Ok(Prompt {
        tokens,
        text: echoed,
        max_tokens,
        in_reasoning,
        left_out,
        compiled: None,
        bias: request.text_bias.iter().flat_map(bias).collect(),
        banned: banned(&request.bad_words, &text.tokenizer)?,
        breakers: if uses_breakers { text.breakers(&request.dry_breakers) } else { Arc::default() },
        prediction: request.prediction.as_ref().map(encode).unwrap_or_default(),
    })
}

/// Words as tokens, at the beginning of a text and within it.
fn banned(words: &[String], tokenizer: &Tokenizer) -> Result<Vec<Vec<u32>>> {
    let mut all: Vec<Vec<u32>> = Vec::new();
    for (i, word) in words.iter().enumerate() {
        for text in [word.clone(), format!(" {}", word.trim_start())] {
            let tokens = tokenizer.encode(&text, Special::Plain);
            if tokens.len() > MAX_BANNED_LEN {
                let len = tokens.len();
                let text = format!("bad_words: a word has {len} tokens, limit {MAX_BANNED_LEN}");
                return Err(Error::invalid(format!("bad_words[{i}]"), text));
            }
            if !tokens.is_empty() && !all.contains(&tokens) {
                all.push(tokens);
            }
        }
    }
    Ok(all)
}

/// How many tokens may be generated: as many as are asked for and have room. Of the prompt nothing is ever
/// cut off.
fn fit(request: &GenerationRequest, prompt: usize, context: usize) -> Result<u32> {
    // Even a request for nothing takes one token, which is thrown away.
    if prompt >= context {
        let text = format!(
            "this model's context holds {context} tokens; the prompt has {prompt}, and an answer needs \
             one at least"
        );
        let error = Error::invalid(request.prompt_field(), text);
        return Err(error.with_code("context_length_exceeded"));
    }
    let room = u32::try_from(context - prompt).unwrap_or(u32::MAX);
    let cap = request.default_max_tokens.unwrap_or(u32::MAX).max(request.min_tokens).max(1);
    Ok(request.max_tokens.unwrap_or(cap).min(room))
}

fn validate_sampling(sampling: &Sampling, vocab_size: usize) -> Result<()> {
    let known = |(id, _): &(u32, f32)| known_token(&format!("logit_bias.{id}"), *id, vocab_size);
    sampling.logit_bias.iter().try_for_each(known)?;
    let top_p = sampling.top_p.max(f32::MIN_POSITIVE);
    Sampling { top_p, ..sampling.clone() }.validate(vocab_size)
}

/// NaN is within nothing.
fn within<T: PartialOrd + fmt::Display>(field: &str, value: T, min: T, max: T) -> Result<()> {
    if value >= min && value <= max {
        return Ok(());
    }
    Err(Error::invalid(field, format!("{field} must be from {min} to {max}, is {value}")))
}

fn known_token(field: &str, id: u32, vocab_size: usize) -> Result<()> {
    if (id as usize) < vocab_size {
        return Ok(());
    }
    let text = format!("token {id} is not in the vocabulary of {vocab_size} tokens");
    Err(Error::invalid(field, text))
}

/// Unpredictable enough for sampling: the keys that hash maps are seeded with.
fn random_seed() -> u64 {
    RandomState::new().hash_one(0_u8)
}
