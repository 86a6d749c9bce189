//! Ollama's requests and their translation.

use std::sync::Arc;

use poem_openapi::{
    Object,
    registry::{MetaSchema, MetaSchemaRef},
};
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::{
    chat::{
        ChatInput, Infill,
        conversation::{Arguments, Call, Media, Message, Part, Role, Source},
        embedding::EmbedInput,
        generation::{
            GenerationRequest, MAX_STOP_BYTES, MAX_STOPS, OutputRules, PromptInput, Shape, ToolUse,
        },
        grammar::Grammar,
    },
    engine::Sampling,
    error::{Error, Result},
    registry::KeepAlive,
    server::{
        openai::{MAX_MESSAGES, Tool, ToolFields, last_n, mirostat},
        schema::{
            FreeObject, TextOr, object, optional_object, optional_objects, wire_enum, wire_type,
        },
        span::Span,
    },
};

/// Whether and how much a reasoning model thinks.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected a boolean, \"low\", \"medium\" or \"high\"")]
pub(crate) enum Think {
    Switch(bool),
    Effort(Effort),
}

wire_type!(Think, "think", {
    let one_of = vec![bool::schema_ref(), Effort::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

/// The form of an answer: `json` for any object, or a JSON schema; an empty text asks for none.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(untagged, expecting = "expected \"json\" or a JSON schema")]
pub(crate) enum Format {
    Name(String),
    Schema(FreeObject),
}

wire_type!(Format, "format", {
    let names =
        MetaSchema { enum_items: vec!["json".into(), "".into()], ..MetaSchema::new("string") };
    let one_of = vec![MetaSchemaRef::Inline(Box::new(names)), FreeObject::schema_ref()];
    MetaSchema { one_of, ..MetaSchema::ANY }
});

impl Format {
    fn into_shape(self) -> Result<Option<Shape>> {
        let grammar = match self {
            Self::Name(name) if name.is_empty() => return Ok(None),
            Self::Name(name) if name == "json" => Grammar::JsonObject,
            Self::Name(_) => {
                let text = "format: \"json\" or a JSON schema is expected";
                return Err(Error::invalid("format", text));
            }
            Self::Schema(schema) => Grammar::JsonSchema(Value::Object(schema.0)),
        };
        Ok(Some(Shape { grammar, field: "format".to_owned(), strict: false }))
    }
}

wire_enum! {
    /// How much a reasoning model thinks.
    pub(crate) enum Effort {
        Low = "low",
        Medium = "medium",
        High = "high",
    }
}

wire_enum! {
    /// Who speaks.
    pub(crate) enum Speaker {
        System = "system",
        User = "user",
        Assistant = "assistant",
        Tool = "tool",
    }
}

/// A function that the assistant called.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct OllamaFunction {
    pub name: String,
    pub arguments: FreeObject,
}

/// A call of a function in an earlier turn.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize, Object)]
pub(crate) struct OllamaToolCall {
    /// As the answer had it.
    #[oai(nullable)]
    pub id: Option<String>,
    #[serde(deserialize_with = "object")]
    pub function: OllamaFunction,
}

/// One message of a conversation.
#[derive(Clone, Debug, PartialEq, Deserialize, Object)]
pub(crate) struct OllamaMessage {
    pub role: Speaker,
    #[serde(default)]
    pub content: String,
    /// What the assistant thought before it answered; templates decide whether it shows.
    #[oai(nullable)]
    pub thinking: Option<String>,
    /// In base 64. Refused in the last message where the model reads text only, and left out of earlier
    /// ones.
    #[oai(nullable)]
    pub images: Option<Vec<String>>,
    /// Functions that the assistant called.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tool_calls: Option<Vec<OllamaToolCall>>,
    /// Of which function this `tool` message is the result.
    #[oai(nullable)]
    pub tool_name: Option<String>,
    /// Of which call this `tool` message is the result.
    #[oai(nullable)]
    pub tool_call_id: Option<String>,
}

/// How tokens are chosen. An option that is not listed here is refused by name.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Object)]
#[serde(default, deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaOptions {
    /// 0.8 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "100")))]
    pub temperature: Option<f32>,
    /// 40 if absent.
    #[oai(nullable)]
    pub top_k: Option<u32>,
    /// 0.9 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub top_p: Option<f32>,
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub min_p: Option<f32>,
    /// Sample from tokens whose surprise is near the mean, together of this probability; 1: off.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub typical_p: Option<f32>,
    /// 1 or 2: keep the surprise of tokens near `mirostat_tau`, in place of every truncation.
    #[oai(nullable, validator(maximum(value = "2")))]
    pub mirostat: Option<u32>,
    /// 5 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "100")))]
    pub mirostat_tau: Option<f32>,
    /// 0.1 if absent.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub mirostat_eta: Option<f32>,
    /// Last tokens that the penalties look at; 0: off, -1 or absent: all.
    #[oai(nullable, validator(minimum(value = "-1"), maximum(value = "2147483647")))]
    pub repeat_last_n: Option<i64>,
    /// No effect: a context is never cut.
    #[oai(nullable)]
    pub num_keep: Option<i64>,
    /// No effect: how an engine runs is the server's matter.
    #[oai(nullable)]
    pub num_batch: Option<i64>,
    /// No effect: how an engine runs is the server's matter.
    #[oai(nullable)]
    pub num_gpu: Option<i64>,
    /// No effect: how an engine runs is the server's matter.
    #[oai(nullable)]
    pub main_gpu: Option<i64>,
    /// No effect: how an engine runs is the server's matter.
    #[oai(nullable)]
    pub num_thread: Option<i64>,
    /// No effect: how an engine runs is the server's matter.
    #[oai(nullable)]
    pub use_mmap: Option<bool>,
    /// 1, which is off, if absent. Counts the whole prompt and answer.
    #[oai(nullable, validator(minimum(value = "0.01"), maximum(value = "100")))]
    pub repeat_penalty: Option<f32>,
    #[oai(nullable, validator(minimum(value = "-2"), maximum(value = "2")))]
    pub presence_penalty: Option<f32>,
    #[oai(nullable, validator(minimum(value = "-2"), maximum(value = "2")))]
    pub frequency_penalty: Option<f32>,
    /// Same request, same seed: same answer.
    #[oai(nullable)]
    pub seed: Option<i64>,
    /// Strings that end the answer; they are not part of it.
    #[oai(nullable)]
    pub stop: Option<TextOr<String>>,
    /// Tokens to generate at most; negative or absent: until the context is full.
    #[oai(nullable)]
    pub num_predict: Option<i64>,
    /// The context that is needed; refused if the engine's is smaller.
    #[oai(nullable)]
    pub num_ctx: Option<u32>,
}

impl OllamaOptions {
    /// What the engine's context is too small for, if anything: a larger one is a hint.
    pub(super) fn context_note(&self, context: usize) -> Option<String> {
        let wanted = self.num_ctx.filter(|wanted| *wanted as usize > context)?;
        Some(format!("options.num_ctx ({wanted}; the engine has {context})"))
    }

    fn into_generation(self, prompt: PromptInput, rules: OutputRules) -> Result<GenerationRequest> {
        let stop = match self.stop {
            None => Vec::new(),
            Some(TextOr::Text(text)) => vec![text],
            Some(TextOr::Items(texts)) => texts,
        };
        let is_odd = |text: &String| text.is_empty() || text.len() > MAX_STOP_BYTES;
        if stop.len() > MAX_STOPS || stop.iter().any(is_odd) {
            let text = format!("stop: up to {MAX_STOPS} strings of 1 to {MAX_STOP_BYTES} bytes");
            return Err(Error::invalid("options.stop", text));
        }
        let max_tokens = match self.num_predict {
            Some(count) if count >= 0 => {
                let too_many =
                    |_| Error::invalid("options.num_predict", "num_predict is too large");
                Some(u32::try_from(count).map_err(too_many)?)
            }
            _ => None,
        };
        let (tau, eta) = (self.mirostat_tau.unwrap_or(5.0), self.mirostat_eta.unwrap_or(0.1));
        let version = self.mirostat.unwrap_or(0);
        Ok(GenerationRequest {
            max_tokens,
            stop,
            rules: Some(Arc::new(rules)),
            seed: self.seed.filter(|seed| *seed >= 0).map(i64::cast_unsigned),
            sampling: Sampling {
                temperature: self.temperature.unwrap_or(0.8),
                top_k: self.top_k.unwrap_or(40),
                top_p: self.top_p.unwrap_or(0.9),
                min_p: self.min_p.unwrap_or(0.0),
                typical_p: self.typical_p.unwrap_or(1.0),
                mirostat: mirostat("options.mirostat", version, tau, eta)?,
                penalty_last_n: last_n("options.repeat_last_n", self.repeat_last_n)?,
                repetition_penalty: self.repeat_penalty.unwrap_or(1.0),
                presence_penalty: self.presence_penalty.unwrap_or(0.0),
                frequency_penalty: self.frequency_penalty.unwrap_or(0.0),
                ..Sampling::default()
            },
            ..GenerationRequest::new(prompt)
        })
    }
}

/// A chat request. Of parameters that are not listed here, those that decide what an answer is are
/// refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaChatRequest {
    /// The engine to ask; `:latest` may follow its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// The conversation so far; empty: only load the model, or unload it with `keep_alive` 0.
    #[oai(nullable, validator(max_items = 8192))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub messages: Option<Vec<OllamaMessage>>,
    /// One object a line as the answer comes; true if absent.
    #[oai(nullable)]
    pub stream: Option<bool>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub options: Option<OllamaOptions>,
    #[oai(nullable)]
    pub keep_alive: Option<Span>,
    #[oai(nullable)]
    pub think: Option<Think>,
    /// Tools that the model may call; the model decides.
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tools: Option<Vec<Tool>>,
    #[oai(nullable)]
    pub format: Option<Format>,
}

/// What to do for a request.
pub(super) struct Asked {
    pub(super) model: String,
    pub(super) is_stream: bool,
    pub(super) keep_alive: Option<KeepAlive>,
    pub(super) options: OllamaOptions,
    /// `None`: only load or unload.
    pub(super) generation: Option<GenerationRequest>,
}

impl OllamaChatRequest {
    pub(super) fn into_asked(self) -> Result<Asked> {
        let shape = self.format.map_or(Ok(None), Format::into_shape)?;
        let tools = ToolFields { tools: self.tools, ..ToolFields::default() }.into_use()?;
        let options = self.options.unwrap_or_default();
        let messages = self.messages.unwrap_or_default();
        let generation = if messages.is_empty() {
            None
        } else {
            let input = input(conversation(messages)?, self.think, tools.as_ref());
            let rules = OutputRules { shape, tools };
            Some(options.clone().into_generation(PromptInput::Chat(input), rules)?)
        };
        Ok(Asked {
            model: self.model,
            is_stream: self.stream.unwrap_or(true),
            keep_alive: self.keep_alive.map(|span| span.keep_alive()).transpose()?,
            options,
            generation,
        })
    }
}

/// A request to answer or continue a prompt. Of parameters that are not listed here, those that
/// decide what an answer is are refused by name, others are ignored and named in `x-kolosal-
/// ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaGenerateRequest {
    /// The engine to ask; `:latest` may follow its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// What to answer; empty: only load the model, or unload it with `keep_alive` 0.
    #[oai(nullable)]
    pub prompt: Option<String>,
    /// The system message.
    #[oai(nullable)]
    pub system: Option<String>,
    /// Continue the prompt as it is, without the chat template.
    #[oai(nullable)]
    pub raw: Option<bool>,
    /// One object a line as the answer comes; true if absent.
    #[oai(nullable)]
    pub stream: Option<bool>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub options: Option<OllamaOptions>,
    #[oai(nullable)]
    pub keep_alive: Option<Span>,
    #[oai(nullable)]
    pub think: Option<Think>,
    /// Text that follows the answer, which fills the gap between; for models that have tokens for it.
    #[oai(nullable)]
    pub suffix: Option<String>,
    /// Not supported: must be absent, null or empty.
    #[oai(nullable, validator(max_length = 0))]
    pub template: Option<String>,
    /// In base 64. Refused where the model reads text only.
    #[oai(nullable)]
    pub images: Option<Vec<String>>,
    /// Not supported: must be absent, null or empty. Send the conversation to `/api/chat`.
    #[oai(nullable, validator(max_items = 0))]
    pub context: Option<Vec<u32>>,
    #[oai(nullable)]
    pub format: Option<Format>,
}

impl OllamaGenerateRequest {
    pub(super) fn into_asked(self) -> Result<Asked> {
        let has = |text: &Option<String>| text.as_ref().is_some_and(|text| !text.is_empty());
        refuse("template", has(&self.template))?;
        refuse("context", self.context.as_ref().is_some_and(|context| !context.is_empty()))?;
        let raw = self.raw.unwrap_or(false);
        let suffix = self.suffix.filter(|suffix| !suffix.is_empty());
        if (raw || suffix.is_some()) && (has(&self.system) || self.think.is_some()) {
            let name = if self.think.is_some() { "think" } else { "system" };
            let text = format!("{name} needs the template, which raw and suffix leave out");
            return Err(Error::invalid(name, text));
        }
        let images = self.images.unwrap_or_default();
        // Only the template has a place for them.
        refuse("images", !images.is_empty() && (raw || suffix.is_some()))?;
        let shape = self.format.map_or(Ok(None), Format::into_shape)?;
        let rules = OutputRules { shape, tools: None };
        let options = self.options.unwrap_or_default();
        let prompt = self.prompt.unwrap_or_default();
        let generation = if let Some(suffix) = suffix {
            let infill = Infill { prefix: prompt, suffix, extra: Vec::new(), field: "suffix" };
            Some(options.clone().into_generation(PromptInput::Infill(infill), rules)?)
        } else if prompt.is_empty() && images.is_empty() {
            None
        } else if raw {
            Some(options.clone().into_generation(PromptInput::Text(prompt), rules)?)
        } else {
            let system = self.system.filter(|system| !system.is_empty());
            let system = system.map(|system| Message::text(Role::System, system));
            let user = Message::new(Role::User, parts(prompt, images, "images"));
            let messages = system.into_iter().chain([user]).collect();
            let input = input(messages, self.think, None);
            Some(options.clone().into_generation(PromptInput::Chat(input), rules)?)
        };
        Ok(Asked {
            model: self.model,
            is_stream: self.stream.unwrap_or(true),
            keep_alive: self.keep_alive.map(|span| span.keep_alive()).transpose()?,
            options,
            generation,
        })
    }
}

fn refuse(name: &str, is_given: bool) -> Result<()> {
    if is_given {
        return Err(Error::invalid(name, format!("{name}: this parameter is not supported here")));
    }
    Ok(())
}

fn conversation(messages: Vec<OllamaMessage>) -> Result<Vec<Message>> {
    if messages.len() > MAX_MESSAGES {
        let text = format!("messages: {} messages, limit {MAX_MESSAGES}", messages.len());
        return Err(Error::invalid("messages", text));
    }
    Ok(messages.into_iter().enumerate().map(|(i, message)| message.normalise(i)).collect())
}

impl OllamaMessage {
    fn normalise(self, index: usize) -> Message {
        let role = match self.role {
            Speaker::System => Role::System,
            Speaker::User => Role::User,
            Speaker::Assistant => Role::Assistant,
            Speaker::Tool => Role::Tool,
        };
        let call = |(n, call): (usize, OllamaToolCall)| {
            let OllamaFunction { name, arguments } = call.function;
            let id = call.id.unwrap_or_else(|| format!("call_{index}_{n}"));
            Call { id, name, arguments: Arguments::Object(arguments.0) }
        };
        let calls = self.tool_calls.unwrap_or_default();
        let images = self.images.unwrap_or_default();
        Message {
            role,
            parts: parts(self.content, images, &format!("messages[{index}].images")),
            calls: calls.into_iter().enumerate().map(call).collect(),
            reasoning: self.thinking,
            name: self.tool_name,
            call_id: self.tool_call_id,
        }
    }
}

/// A text, and the images beside it.
fn parts(text: String, images: Vec<String>, field: &str) -> Vec<Part> {
    let image = |data| Media {
        field: field.to_owned(),
        kind: "images",
        media_type: None,
        source: Some(Source::Base64(data)),
    };
    let images = images.into_iter().map(|data| Part::Image(image(data)));
    std::iter::once(Part::Text(text)).chain(images).collect()
}

fn input(messages: Vec<Message>, think: Option<Think>, tools: Option<&ToolUse>) -> ChatInput {
    let mut input = ChatInput {
        messages,
        tools: tools.map(|tools| tools.definitions.clone()),
        add_generation_prompt: true,
        ..ChatInput::default()
    };
    let mut set = |name: &str, value: Value| drop(input.kwargs.insert(name.to_owned(), value));
    match think {
        None => {}
        Some(Think::Switch(thinks)) => set("enable_thinking", thinks.into()),
        Some(Think::Effort(effort)) => {
            let effort = match effort {
                Effort::Low => "low",
                Effort::Medium => "medium",
                Effort::High => "high",
            };
            set("enable_thinking", true.into());
            set("reasoning_effort", effort.into());
        }
    }
    input
}

/// A request for embeddings. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaEmbedRequest {
    /// The engine to ask; `:latest` may follow its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// One text or up to 2048.
    pub input: TextOr<String>,
    /// Keep so many leading values of each vector; all if absent.
    #[oai(nullable, validator(minimum(value = "1")))]
    pub dimensions: Option<u32>,
    /// Inputs are never cut: must be absent, null or false.
    #[oai(nullable)]
    pub truncate: Option<bool>,
    #[oai(nullable)]
    pub keep_alive: Option<Span>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub options: Option<EmbedOptions>,
}

/// A request for one embedding. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OllamaEmbeddingsRequest {
    /// The engine to ask; `:latest` may follow its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// The text.
    pub prompt: String,
    #[oai(nullable)]
    pub keep_alive: Option<Span>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub options: Option<EmbedOptions>,
}

/// Options of a request for embeddings.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Object)]
#[serde(default, deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct EmbedOptions {
    /// The context that is needed; refused if the engine's is smaller.
    #[oai(nullable)]
    pub num_ctx: Option<u32>,
}

impl OllamaEmbedRequest {
    pub(super) fn inputs(&self) -> Result<Vec<EmbedInput>> {
        refuse("truncate", self.truncate == Some(true))?;
        Ok(match &self.input {
            TextOr::Text(text) => vec![EmbedInput::Text(text.clone())],
            TextOr::Items(texts) => texts.iter().cloned().map(EmbedInput::Text).collect(),
        })
    }

    pub(super) fn options(&self) -> OllamaOptions {
        context_of(self.options.as_ref())
    }
}

impl OllamaEmbeddingsRequest {
    pub(super) fn options(&self) -> OllamaOptions {
        context_of(self.options.as_ref())
    }
}

fn context_of(options: Option<&EmbedOptions>) -> OllamaOptions {
    let num_ctx = options.and_then(|options| options.num_ctx);
    OllamaOptions { num_ctx, ..OllamaOptions::default() }
}
