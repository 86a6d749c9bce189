//! The wire requests of `/v1/messages` and their translation.

use std::sync::Arc;

use poem_openapi::Object;
use serde::Deserialize;
use serde_json::Value;

use super::{
    content::{AnthropicMessage, AnthropicText, CacheControl},
    conversation::conversation,
    tools::{AnthropicTool, AnthropicToolChoice, tool_use},
};
use crate::{
    chat::{
        ChatInput,
        generation::{
            GenerationRequest, MAX_STOP_BYTES, MAX_STOPS, OutputRules, PromptInput, Shape,
        },
        grammar::Grammar,
    },
    error::{Error, Result},
    server::{
        openai::within,
        schema::{
            FreeObject, TextOr, objects, optional_object, optional_objects, text_or_objects,
            wire_enum,
        },
    },
};

wire_enum! {
    /// Whether a reasoning model thinks. Handed to the chat template, which may know it.
    pub(crate) enum ThinkingKind {
        Enabled = "enabled",
        Disabled = "disabled",
        /// As the model is used to.
        Adaptive = "adaptive",
    }
}

wire_enum! {
    /// Whether thoughts are shown: they are, as the model wrote them.
    pub(crate) enum ThinkingDisplay {
        Summarized = "summarized",
    }
}

wire_enum! {
    /// How much a reasoning model thinks. Handed to the chat template, which may know it.
    pub(crate) enum ThinkingEffort {
        Low = "low",
        Medium = "medium",
        High = "high",
        Xhigh = "xhigh",
        Max = "max",
    }
}

wire_enum! {
    /// The form of an answer.
    pub(crate) enum OutputKind {
        JsonSchema = "json_schema",
    }
}

wire_enum! {
    /// A class of service; there is one.
    pub(crate) enum AnthropicTier {
        Auto = "auto",
        StandardOnly = "standard_only",
    }
}

/// Whether the model thinks before it answers.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct Thinking {
    pub r#type: ThinkingKind,
    /// Must be below `max_tokens`, which bounds thinking and answer together; not a bound of its own.
    #[oai(nullable, validator(minimum(value = "1")))]
    pub budget_tokens: Option<u32>,
    #[oai(nullable)]
    pub display: Option<ThinkingDisplay>,
}

/// Who asks.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct MessagesMetadata {
    /// Opaque to this server.
    #[oai(nullable)]
    pub user_id: Option<String>,
}

/// A schema that the answer follows.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OutputFormat {
    pub r#type: OutputKind,
    /// A JSON schema. A keyword that cannot be enforced is refused by name.
    pub schema: FreeObject,
}

/// The form of the answer, and how much is thought about it.
#[derive(Clone, Debug, Default, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct OutputConfig {
    #[oai(nullable)]
    pub effort: Option<ThinkingEffort>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub format: Option<OutputFormat>,
}

/// A conversation to answer. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct MessagesRequest {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// The conversation so far, oldest message first. A last message of the assistant is continued.
    #[oai(validator(min_items = 1, max_items = 8192))]
    #[serde(deserialize_with = "objects")]
    pub messages: Vec<AnthropicMessage>,
    /// Tokens to generate at most, thinking included.
    #[oai(validator(minimum(value = "1")))]
    pub max_tokens: u32,
    /// Text, or a list of texts, before the conversation.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "text_or_objects")]
    pub system: Option<TextOr<AnthropicText>>,
    /// Send the answer in pieces, as server-sent events.
    #[oai(nullable)]
    pub stream: Option<bool>,
    /// 0 always takes the likeliest token; 1, also if absent: the model's own distribution.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub temperature: Option<f64>,
    /// Sample from the likeliest tokens that together have this probability.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub top_p: Option<f64>,
    /// Sample from so many likeliest tokens; 0: all.
    #[oai(nullable)]
    pub top_k: Option<u32>,
    /// Up to 16 strings that end the answer; they are not part of it.
    #[oai(nullable, validator(max_items = 16))]
    pub stop_sequences: Option<Vec<String>>,
    /// Tools that the model may call.
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tools: Option<Vec<AnthropicTool>>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub tool_choice: Option<AnthropicToolChoice>,
    /// Absent: as the model is used to.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub thinking: Option<Thinking>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub output_config: Option<OutputConfig>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub metadata: Option<MessagesMetadata>,
    #[oai(nullable)]
    pub service_tier: Option<AnthropicTier>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub cache_control: Option<CacheControl>,
}

/// A conversation whose tokens are counted. Of parameters that are not listed here, those that
/// decide what an answer is are refused by name, others are ignored and named in `x-kolosal-
/// ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct CountTokensRequest {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// The conversation so far, oldest message first.
    #[oai(validator(min_items = 1, max_items = 8192))]
    #[serde(deserialize_with = "objects")]
    pub messages: Vec<AnthropicMessage>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "text_or_objects")]
    pub system: Option<TextOr<AnthropicText>>,
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tools: Option<Vec<AnthropicTool>>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub tool_choice: Option<AnthropicToolChoice>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub thinking: Option<Thinking>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub output_config: Option<OutputConfig>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub cache_control: Option<CacheControl>,
}

/// What decides the prompt, and the rules of what follows it.
struct Prompting {
    system: Option<TextOr<AnthropicText>>,
    messages: Vec<AnthropicMessage>,
    tools: Option<Vec<AnthropicTool>>,
    tool_choice: Option<AnthropicToolChoice>,
    thinking: Option<Thinking>,
    output_config: OutputConfig,
}

impl Prompting {
    fn read(self) -> Result<(ChatInput, OutputRules)> {
        let conversation = conversation(self.system, self.messages)?;
        let tools = tool_use(self.tools, self.tool_choice)?;
        let mut input = ChatInput {
            messages: conversation.messages,
            tools: tools.as_ref().map(|tools| tools.definitions.clone()),
            add_generation_prompt: !conversation.continues,
            continue_final_message: conversation.continues,
            ..ChatInput::default()
        };
        let thinks = match self.thinking.map(|thinking| thinking.r#type) {
            Some(ThinkingKind::Enabled) => Some(true),
            Some(ThinkingKind::Disabled) => Some(false),
            Some(ThinkingKind::Adaptive) | None => None,
        };
        if let Some(thinks) = thinks {
            input.kwargs.insert("enable_thinking".to_owned(), thinks.into());
        }
        if let Some(effort) = self.output_config.effort {
            input.kwargs.insert("reasoning_effort".to_owned(), effort.text().into());
        }
        let shape = self.output_config.format.map(|format| Shape {
            grammar: Grammar::JsonSchema(Value::Object(format.schema.0)),
            field: "output_config.format.schema".to_owned(),
            strict: true,
        });
        Ok((input, OutputRules { shape, tools }))
    }
}

impl ThinkingEffort {
    fn text(self) -> &'static str {
        match self {
            Self::Low => "low",
            Self::Medium => "medium",
            Self::High => "high",
            Self::Xhigh => "xhigh",
            Self::Max => "max",
        }
    }
}

impl MessagesRequest {
    /// Checks everything that can be checked without the model.
    pub(super) fn into_generation(self) -> Result<GenerationRequest> {
        if self.max_tokens == 0 {
            return Err(Error::invalid("max_tokens", "max_tokens must be 1 or more, is 0"));
        }
        check_thinking(self.thinking.as_ref(), Some(self.max_tokens))?;
        let stop = stops(self.stop_sequences)?;
        let (input, rules) = Prompting {
            system: self.system,
            messages: self.messages,
            tools: self.tools,
            tool_choice: self.tool_choice,
            thinking: self.thinking,
            output_config: self.output_config.unwrap_or_default(),
        }
        .read()?;
        let mut request = GenerationRequest {
            max_tokens: Some(self.max_tokens),
            stop,
            rules: Some(Arc::new(rules)),
            ..GenerationRequest::new(PromptInput::Chat(input))
        };
        if let Some(value) = self.temperature {
            request.sampling.temperature = within("temperature", value, 0.0..=1.0)? as f32;
        }
        if let Some(value) = self.top_p {
            request.sampling.top_p = within("top_p", value, 0.0..=1.0)? as f32;
        }
        request.sampling.top_k = self.top_k.unwrap_or(0);
        Ok(request)
    }
}

impl CountTokensRequest {
    /// The conversation that is counted.
    pub(super) fn into_input(self) -> Result<ChatInput> {
        check_thinking(self.thinking.as_ref(), None)?;
        let (input, _) = Prompting {
            system: self.system,
            messages: self.messages,
            tools: self.tools,
            tool_choice: self.tool_choice,
            thinking: self.thinking,
            output_config: self.output_config.unwrap_or_default(),
        }
        .read()?;
        Ok(input)
    }
}

fn check_thinking(thinking: Option<&Thinking>, max_tokens: Option<u32>) -> Result<()> {
    let Some(budget) = thinking.and_then(|thinking| thinking.budget_tokens) else { return Ok(()) };
    let field = "thinking.budget_tokens";
    if thinking.is_some_and(|thinking| thinking.r#type != ThinkingKind::Enabled) {
        return Err(Error::invalid(field, format!("{field}: only with the type enabled")));
    }
    match max_tokens {
        Some(max_tokens) if budget >= max_tokens => {
            let text = format!("{field} must be below max_tokens {max_tokens}, is {budget}");
            Err(Error::invalid(field, text))
        }
        _ if budget == 0 => Err(Error::invalid(field, format!("{field} must be 1 or more, is 0"))),
        _ => Ok(()),
    }
}

fn stops(stops: Option<Vec<String>>) -> Result<Vec<String>> {
    let stops = stops.unwrap_or_default();
    if stops.len() > MAX_STOPS {
        let text = format!("stop_sequences has {} strings, limit {MAX_STOPS}", stops.len());
        return Err(Error::invalid("stop_sequences", text));
    }
    for (i, stop) in stops.iter().enumerate() {
        if stop.is_empty() || stop.len() > MAX_STOP_BYTES {
            let field = format!("stop_sequences[{i}]");
            let bytes = stop.len();
            let text = format!("{field} must have 1 to {MAX_STOP_BYTES} bytes, has {bytes}");
            return Err(Error::invalid(field, text));
        }
    }
    Ok(stops)
}
