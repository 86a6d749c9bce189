//! The wire requests of `/v1/messages` and their translation.

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
        generation::{MAX_STOP_BYTES, MAX_STOPS, OutputRules, PromptInput, Shape, ThinkingBound},
        grammar::Grammar,
    },
    error::{Error, Result},
    param::{Given, Kind},
    server::{
        desk::{Ask, Draft, Request, WireParam, params},
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

/// Whether the model thinks before it answers.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct Thinking {
    pub r#type: ThinkingKind,
    /// Tokens of thinking at most; must be below `max_tokens`, which bounds thinking and answer together.
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
#[oai(deny_unknown_fields, rename = "MessagesRequest")]
pub(crate) struct MessagesParts {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    model: String,
    /// The conversation so far, oldest message first. A last message of the assistant is continued.
    #[oai(validator(min_items = 1, max_items = 8192))]
    #[serde(deserialize_with = "objects")]
    messages: Vec<AnthropicMessage>,
    /// Text, or a list of texts, before the conversation.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "text_or_objects")]
    system: Option<TextOr<AnthropicText>>,
    /// Tools that the model may call.
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    tools: Option<Vec<AnthropicTool>>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    tool_choice: Option<AnthropicToolChoice>,
    /// Absent: as the model is used to.
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    thinking: Option<Thinking>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    output_config: Option<OutputConfig>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    metadata: Option<MessagesMetadata>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    cache_control: Option<CacheControl>,
}

type Row = WireParam<Draft>;

/// A request to answer a conversation.
pub(crate) struct MessagesRequest {
    parts: MessagesParts,
    draft: Draft,
}

impl Request for MessagesRequest {
    type Parts = MessagesParts;
    type Target = Draft;
    const PARAMS: &'static [Row] = &[
        params::MAX_TOKENS.saying("Tokens to generate at most, thinking included.").required(),
        params::STREAM,
        params::TEMPERATURE.within(0.0, 1.0),
        params::TOP_P,
        params::TOP_K,
        Row::new(
            "stop_sequences",
            "Up to 16 strings that end the answer; they are not part of it.",
            Kind::Texts {
                max: MAX_STOPS,
                chars: (1, MAX_STOP_BYTES),
                or_one: false,
                set: |draft, texts| draft.request.stop = texts,
            },
        )
        .remarking("up to 16"),
        Row::new(
            "service_tier",
            "There is one tier.",
            Kind::Choice { words: &["auto", "standard_only"], open: true, set: |_, _| {} },
        )
        .idle("there is one tier"),
    ];

    fn new(parts: MessagesParts, mut draft: Draft, given: Given) -> Result<Self> {
        draft.settle(&given)?;
        Ok(Self { parts, draft })
    }
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
    pub(super) fn into_ask(self) -> Result<Ask> {
        let Self { parts, draft } = self;
        check_thinking(parts.thinking.as_ref(), draft.request.max_tokens)?;
        let budget = parts.thinking.as_ref().and_then(|thinking| thinking.budget_tokens);
        let (input, rules) = Prompting {
            system: parts.system,
            messages: parts.messages,
            tools: parts.tools,
            tool_choice: parts.tool_choice,
            thinking: parts.thinking,
            output_config: parts.output_config.unwrap_or_default(),
        }
        .read()?;
        let mut request = draft.request(PromptInput::Chat(input), rules);
        // Agents send it to every model.
        request.thinking = budget.map(|tokens| ThinkingBound {
            tokens,
            path: "thinking.budget_tokens".to_owned(),
            is_hint: true,
        });
        Ok(draft.into_ask(Some(parts.model), vec![request]))
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
