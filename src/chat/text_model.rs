//! The text side of a model: its tokenizer and its chat template, which together make prompts.

use std::borrow::Cow;
use std::sync::{Arc, OnceLock};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use super::breakers::{self, DEFAULT_BREAKERS};
use super::conversation::check_text_only;
use super::defaults::SamplingDefaults;
use super::grammar::{GrammarCompiler, GrammarError};
use super::grammar_cache::GRAMMAR_CACHE_BYTES;
use super::preparation::Preparations;
use super::rank_template::RankTemplate;
use super::text_defaults::TextDefaults;
use super::{
    ChatInput, ChatTemplate, Patience, ReasoningTags, Rendered, Stopped, Tokenizer, ToolFormat,
    Until,
};
use crate::engine::sampling::Breakers;
use crate::error::Error;
use crate::model::gguf::Metadata;

/// Grammars that are compiled at the same time.
const COMPILERS: usize = 2;

/// Everything that turns conversations into tokens and tokens into text.
pub struct TextModel {
    pub tokenizer: Arc<Tokenizer>,
    pub template: ChatTemplate,
    /// Of a model that judges documents.
    pub rank_template: Option<RankTemplate>,
    /// User-defined tokens that the template itself writes, ascending: in a user's text they are
    /// text, as control tokens are.
    guarded: Vec<u32>,
    reasoning: Option<ReasoningTags>,
    tool_format: ToolFormat,
    shown: Arc<[u32]>,
    /// Of `shown`, those that mark reasoning.
    reasoning_shown: Arc<[u32]>,
    /// Made for the first request that repeats itself less.
    default_breakers: OnceLock<Arc<Breakers>>,
    /// Made for the first grammar.
    grammars: OnceLock<Result<GrammarCompiler, GrammarError>>,
    options: TextOptions,
    sampling: SamplingDefaults,
    defaults: TextDefaults,
    compilers: Arc<Semaphore>,
    preparations: Arc<Preparations>,
}

/// Why a conversation did not become a prompt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unread {
    Refused(Error),
    Stopped(Stopped),
}

impl From<Error> for Unread {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl From<Stopped> for Unread {
    fn from(stopped: Stopped) -> Self {
        Self::Stopped(stopped)
    }
}

/// What may be configured of a model's text side.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TextOptions {
    /// Bytes of compiled grammars that are kept for reuse.
    pub grammar_cache_bytes: usize,
    /// Calls that a model begins by itself follow the tools' schemas where these compile, whether the
    /// tools are strict or not.
    pub constrain_tools: bool,
    /// Tokens that one request may have generated, all its choices together.
    pub max_request_tokens: u64,
    /// Requests may bring chat templates of their own.
    pub request_templates: bool,
}

impl Default for TextOptions {
    fn default() -> Self {
        Self {
            grammar_cache_bytes: GRAMMAR_CACHE_BYTES,
            constrain_tools: true,
            max_request_tokens: 1 << 20,
            request_templates: false,
        }
    }
}

/// The prompt of a conversation.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ChatPrompt {
    pub tokens: Vec<u32>,
    /// The prompt opened the model's reasoning: the output starts inside it.
    pub in_reasoning: bool,
    /// As of [`Rendered`].
    pub left_out: Vec<String>,
}

impl TextModel {
    /// # Errors
    /// The vocabulary cannot be used. A missing or broken template is no error; see
    /// [`ChatTemplate::warning`].
    pub fn from_gguf(meta: &Metadata) -> Result<Self, Error> {
        Self::with_defaults(meta, TextDefaults::default())
    }

    /// As [`Self::from_gguf`], with what somebody knows better.
    ///
    /// # Errors
    /// As [`Self::from_gguf`]; a template that was given does not compile.
    pub fn with_defaults(meta: &Metadata, defaults: TextDefaults) -> Result<Self, Error> {
        let tokenizer = Tokenizer::from_gguf(meta)?;
        let template = match &defaults.template {
            Some(source) => ChatTemplate::in_place(source, meta, &tokenizer)?,
            None => ChatTemplate::from_gguf(meta, &tokenizer),
        };
        let guarded = guarded(&tokenizer, template.source());
        let reasoning = ReasoningTags::detect(template.source());
        let tool_format = ToolFormat::detect(template.tool_source());
        let mark_reasoning = || reasoning.iter().flat_map(ReasoningTags::shown);
        let reasoning_shown = shown(&tokenizer, mark_reasoning());
        let shown = shown(&tokenizer, mark_reasoning().chain(tool_format.shown()));
        Ok(Self {
            tokenizer: Arc::new(tokenizer),
            template,
            rank_template: RankTemplate::from_gguf(meta),
            guarded,
            reasoning,
            tool_format,
            shown,
            reasoning_shown,
            default_breakers: OnceLock::new(),
            grammars: OnceLock::new(),
            options: TextOptions::default(),
            sampling: defaults.sampling.or(SamplingDefaults::from_gguf(meta)),
            defaults,
            compilers: Arc::new(Semaphore::new(COMPILERS)),
            preparations: Arc::default(),
        })
    }

    /// Shares the right to read texts with other models; to be set before it is used.
    #[must_use]
    pub fn sharing(mut self, preparations: Arc<Preparations>) -> Self {
        self.preparations = preparations;
        self
    }

    /// Where texts of requests are read.
    pub fn preparations(&self) -> &Preparations {
        &self.preparations
    }

    /// To be set before it is used.
    #[must_use]
    pub fn with_options(mut self, options: TextOptions) -> Self {
        self.options = options;
        self
    }

    /// What the model's makers advise beyond its metadata, which says more; to be set before it is used.
    #[must_use]
    pub fn advised(mut self, sampling: SamplingDefaults) -> Self {
        self.sampling = self.sampling.or(sampling);
        self
    }

    /// What holds where a request says nothing.
    pub fn defaults(&self) -> &TextDefaults {
        &self.defaults
    }

    /// How tokens are chosen where a request says nothing: as somebody knows better, or as the model's
    /// makers advise.
    pub fn sampling(&self) -> SamplingDefaults {
        self.sampling
    }

    /// See [`TextOptions::constrain_tools`].
    pub(super) fn constrains_tools(&self) -> bool {
        self.options.constrain_tools
    }

    /// Tokens that each of so many choices of a request may have.
    pub(super) fn share(&self, num_choices: usize) -> u32 {
        let share = self.options.max_request_tokens / num_choices.max(1) as u64;
        u32::try_from(share).unwrap_or(u32::MAX).max(1)
    }

    /// How the model marks its reasoning, if it reasons.
    pub fn reasoning(&self) -> Option<ReasoningTags> {
        self.reasoning
    }

    /// How the model writes tool calls.
    pub fn tool_format(&self) -> ToolFormat {
        self.tool_format
    }

    /// Control tokens that a reader of the output must see; for [`super::Detokenizer::showing`].
    pub fn shown_tokens(&self) -> Arc<[u32]> {
        Arc::clone(&self.shown)
    }

    /// Those that a reader must see who does not look for tool calls.
    pub fn shown_reasoning_tokens(&self) -> Arc<[u32]> {
        Arc::clone(&self.reasoning_shown)
    }

    /// The tokens of texts over which repetitions do not reach. Blocks while the vocabulary is searched.
    pub(super) fn breakers(&self, texts: &[String]) -> Arc<Breakers> {
        let make = |texts: &[String]| Arc::new(breakers::find(&self.tokenizer, texts));
        if texts == DEFAULT_BREAKERS {
            return Arc::clone(self.default_breakers.get_or_init(|| make(texts)));
        }
        make(texts)
    }

    /// The compiler of grammars for this vocabulary. Blocks when it is made, at the first call.
    pub(super) fn grammars(&self) -> Result<&GrammarCompiler, GrammarError> {
        let made = self.grammars.get_or_init(|| {
            GrammarCompiler::new(Arc::clone(&self.tokenizer), self.options.grammar_cache_bytes)
        });
        made.as_ref().map_err(Clone::clone)
    }

    /// The right to compile a grammar, when it is one's turn.
    pub(super) async fn grammar_permit(&self) -> Option<OwnedSemaphorePermit> {
        // The semaphore is never closed.
        Arc::clone(&self.compilers).acquire_owned().await.ok()
    }

    /// What a person should know about this model's text side.
    pub fn warning(&self) -> Option<&str> {
        self.template.warning()
    }

    /// The prompt of a conversation, whatever its length: see [`Self::prompt`].
    ///
    /// # Errors
    /// As [`Self::render`].
    pub fn chat_prompt(&self, input: &ChatInput) -> Result<Vec<u32>, Error> {
        match self.prompt(input, &Until::default()) {
            Ok(prompt) => Ok(prompt.tokens),
            Err(Unread::Refused(error)) => Err(error),
            Err(Unread::Stopped(_)) => Err(Error::internal("an endless wait ended")),
        }
    }

    /// A conversation as the text that the template makes of it. Blocks for as long as rendering takes.
    /// The model reads text only: what earlier messages had beside it is left out.
    ///
    /// # Errors
    /// As [`ChatTemplate::render`]; the last message has an image, audio or a document.
    pub fn render(&self, input: &ChatInput, patience: &Patience) -> Result<Rendered, Error> {
        let left_out = check_text_only(&input.messages)?;
        let input = &*self.completed(input);
        let own = self.own_template(input)?;
        let template = own.as_ref().unwrap_or(&self.template);
        let places = |text: &str| match patience.has_ended() {
            true => Vec::new(),
            false => self.tokenizer.special_places(text, &self.guarded),
        };
        Ok(Rendered { left_out, ..template.render(input, &places)? })
    }

    /// A conversation with what holds where it does not say otherwise.
    fn completed<'a>(&self, input: &'a ChatInput) -> Cow<'a, ChatInput> {
        if self.defaults.change_nothing() {
            return Cow::Borrowed(input);
        }
        let mut input = input.clone();
        self.defaults.complete(&mut input.messages, &mut input.kwargs);
        Cow::Owned(input)
    }

    /// The template that a request brings.
    fn own_template(&self, input: &ChatInput) -> Result<Option<ChatTemplate>, Error> {
        let Some(source) = &input.template else { return Ok(None) };
        if !self.options.request_templates {
            let text = "chat_template: requests bring no templates here; `engine.request_templates` in the \
                        configuration allows it";
            return Err(Error::invalid("chat_template", text));
        }
        self.template.other(source).map(Some)
    }

    /// The prompt of a conversation, with what a reader of the output needs to know. Special tokens
    /// that the template wrote are tokens, those that stand in the request's strings are text. BOS is
    /// added if the model wants it and the template did not write it. Blocks for as long as rendering
    /// takes.
    ///
    /// # Errors
    /// As [`Self::render`]; the conversation is too long, or nobody waits.
    pub fn prompt(&self, input: &ChatInput, until: &Until) -> Result<ChatPrompt, Unread> {
        let rendered = self.render(input, &until.patience)?;
        let Rendered { text, protected, left_out } = rendered;
        let mut tokens = self.tokenizer.encode_except_until(&text, &protected, until)?;
        self.tokenizer.add_bos_to(&mut tokens);
        let in_reasoning = self.reasoning.is_some_and(|tags| tags.open_at_end(&text));
        Ok(ChatPrompt { tokens, in_reasoning, left_out })
    }
}

/// Control tokens with these texts, ascending.
fn shown<'a>(tokenizer: &Tokenizer, texts: impl Iterator<Item = &'a str>) -> Arc<[u32]> {
    let mut ids: Vec<u32> = texts
        .filter_map(|text| tokenizer.special_id(text))
        .filter(|id| tokenizer.is_control(*id) && !tokenizer.eog().contains(id))
        .collect();
    ids.sort_unstable();
    ids.dedup();
    ids.into()
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
