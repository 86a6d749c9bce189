//! The wire requests of `/v1/responses` and their translation.

use std::{collections::BTreeMap, sync::Arc};

use poem_openapi::Object;
use serde::Deserialize;
use serde_json::Value;

use super::{
    conversation::messages,
    input::{Given, ResponsesInputItem, missing},
    items::{ResponsesItem, ResponsesMessage},
    object::{ResponseKind, ResponseObject, ResponseStatus},
    settings::{
        CacheRetention, Include, ResponsesReasoningOptions, ResponsesText, Truncation, Verbosity,
    },
    store::{Owner, ResponseStore},
    tools::{ResponsesTool, ResponsesToolChoice, tool_use},
};
use crate::{
    chat::{
        ChatInput,
        generation::{GenerationRequest, MAX_LOGPROBS, OutputRules, PromptInput},
    },
    error::{Error, Result},
    server::{
        openai::{
            MAX_MESSAGES,
            chat_request::ReasoningEffort,
            options::{ServiceTier, check_metadata},
            random_id,
            tools::ToolMode,
            unix_time_s, within,
        },
        schema::{TextOr, optional_object, optional_objects, text_or_objects},
    },
};

/// Options of a streamed response; only with `stream`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct ResponsesStreamOptions {
    /// Pad events to hide their length; not supported: must be absent, null or false.
    #[oai(nullable)]
    pub include_obfuscation: Option<bool>,
}

/// A request for a response. Of parameters that are not listed here, those that decide what an
/// answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct CreateResponse {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// Text, or a list of items: messages, calls of functions and their outputs, reasoning.
    #[serde(default, deserialize_with = "text_or_objects")]
    pub input: Option<TextOr<ResponsesInputItem>>,
    /// The system message; not taken over from the previous response.
    #[oai(nullable)]
    pub instructions: Option<String>,
    /// Continue this stored response: its input and output precede `input`.
    #[oai(nullable)]
    pub previous_response_id: Option<String>,
    /// Keep the response, so that it can be retrieved and continued; true if absent, as far as the
    /// server keeps any.
    #[oai(nullable)]
    pub store: Option<bool>,
    /// Send the answer in pieces, as named server-sent events.
    #[oai(nullable)]
    pub stream: Option<bool>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub stream_options: Option<ResponsesStreamOptions>,
    /// Tokens to generate at most, reasoning included; absent: until the context is full.
    #[oai(nullable, validator(minimum(value = "1")))]
    pub max_output_tokens: Option<u32>,
    /// 0 always takes the likeliest token; 1 samples from the model's own distribution.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "2")))]
    pub temperature: Option<f64>,
    /// Sample from the likeliest tokens that together have this probability.
    #[oai(nullable, validator(minimum(value = "0"), maximum(value = "1")))]
    pub top_p: Option<f64>,
    /// Return log-probabilities with so many of the likeliest alternatives per token.
    #[oai(nullable, validator(maximum(value = "20")))]
    pub top_logprobs: Option<u32>,
    /// What the answer includes beside the usual.
    #[oai(nullable)]
    pub include: Option<Vec<Include>>,
    /// Tools that the model may call.
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tools: Option<Vec<ResponsesTool>>,
    /// `auto`, also if absent: the model decides; `none`: it is not shown the tools; `required`, or one
    /// function: the answer is a call whose arguments follow the schema.
    #[oai(nullable)]
    pub tool_choice: Option<ResponsesToolChoice>,
    /// Whether one answer may hold several calls; true if absent.
    #[oai(nullable)]
    pub parallel_tool_calls: Option<bool>,
    /// Bounds calls of tools that the server runs; it runs none.
    #[oai(nullable, validator(minimum(value = "1")))]
    pub max_tool_calls: Option<u32>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub text: Option<ResponsesText>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub reasoning: Option<ResponsesReasoningOptions>,
    /// A conversation is never cut: `disabled`, also if absent.
    #[oai(nullable)]
    pub truncation: Option<Truncation>,
    /// Whoever asks waits: must be absent, null or false.
    #[oai(nullable)]
    pub background: Option<bool>,
    /// Up to 16 labels, which the response shows.
    #[oai(nullable, validator(max_properties = 16))]
    pub metadata: Option<BTreeMap<String, String>>,
    /// `auto` and `default`: there is one tier.
    #[oai(nullable)]
    pub service_tier: Option<ServiceTier>,
    /// Who asks; opaque to this server.
    #[oai(nullable)]
    pub user: Option<String>,
    /// Who asks; opaque to this server.
    #[oai(nullable)]
    pub safety_identifier: Option<String>,
    /// A hint where to look for a cached prefix; this server looks in one cache and finds it without.
    #[oai(nullable)]
    pub prompt_cache_key: Option<String>,
    /// Prefixes are cached as long as there is room.
    #[oai(nullable)]
    pub prompt_cache_retention: Option<CacheRetention>,
}

/// A request whose tokens are counted. Of parameters that are not listed here, those that decide
/// what an answer is are refused by name, others are ignored and named in `x-kolosal-ignored`.
#[derive(Clone, Debug, Deserialize, Object)]
#[serde(deny_unknown_fields)]
#[oai(deny_unknown_fields)]
pub(crate) struct CountResponseTokens {
    /// The engine to ask, by its `engine_id`.
    #[oai(validator(min_length = 1))]
    pub model: String,
    /// Text, or a list of items.
    #[serde(default, deserialize_with = "text_or_objects")]
    pub input: Option<TextOr<ResponsesInputItem>>,
    #[oai(nullable)]
    pub instructions: Option<String>,
    #[oai(nullable)]
    pub previous_response_id: Option<String>,
    #[oai(nullable, validator(max_items = 128))]
    #[serde(default, deserialize_with = "optional_objects")]
    pub tools: Option<Vec<ResponsesTool>>,
    #[oai(nullable)]
    pub tool_choice: Option<ResponsesToolChoice>,
    #[oai(nullable)]
    pub parallel_tool_calls: Option<bool>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub text: Option<ResponsesText>,
    #[oai(nullable)]
    #[serde(default, deserialize_with = "optional_object")]
    pub reasoning: Option<ResponsesReasoningOptions>,
    #[oai(nullable)]
    pub truncation: Option<Truncation>,
}

/// What decides the prompt, and the rules of what follows it.
struct Prompting<'a> {
    input: Option<TextOr<ResponsesInputItem>>,
    instructions: Option<&'a str>,
    previous: Option<&'a str>,
    tools: &'a [ResponsesTool],
    tool_choice: Option<&'a ResponsesToolChoice>,
    parallel: bool,
    text: Option<&'a ResponsesText>,
    reasoning: Option<&'a ResponsesReasoningOptions>,
}

/// A conversation and what the request adds to it.
struct Prompted {
    chat: ChatInput,
    rules: OutputRules,
    items: Vec<ResponsesItem>,
}

impl Prompting<'_> {
    fn read(self, store: &ResponseStore, owner: &Owner) -> Result<Prompted> {
        let before = match self.previous {
            Some(id) => store.conversation(owner, id)?,
            None => Vec::new(),
        };
        let items = items(self.input, store, owner)?;
        let count = before.len() + items.len();
        if count > MAX_MESSAGES {
            let text = format!("input: a conversation of {count} items, limit {MAX_MESSAGES}");
            return Err(Error::invalid("input", text));
        }
        let messages = messages(self.instructions, &before, &items);
        let shape = match self.text.and_then(|text| text.format.as_ref()) {
            Some(format) => format.shape()?,
            None => None,
        };
        let tools = tool_use(self.tools, self.tool_choice, self.parallel)?;
        let mut chat = ChatInput {
            messages,
            tools: tools.as_ref().map(|tools| tools.definitions.clone()),
            add_generation_prompt: true,
            ..ChatInput::default()
        };
        let mut set = |name: &str, value: Value| drop(chat.kwargs.insert(name.to_owned(), value));
        if let Some(effort) = self.reasoning.and_then(|reasoning| reasoning.effort) {
            set("reasoning_effort", effort.wire_text().into());
            if effort == ReasoningEffort::None {
                set("enable_thinking", false.into());
            }
        }
        if let Some(verbosity) = self.text.and_then(|text| text.verbosity) {
            set("verbosity", verbosity.wire_text().into());
        }
        Ok(Prompted { chat, rules: OutputRules { shape, tools }, items })
    }
}

fn items(
    input: Option<TextOr<ResponsesInputItem>>,
    store: &ResponseStore,
    owner: &Owner,
) -> Result<Vec<ResponsesItem>> {
    match input {
        None => Err(missing("input")),
        Some(TextOr::Text(text)) => {
            let id = format!("msg_{}", random_id());
            Ok(vec![ResponsesItem::Message(ResponsesMessage::of_user(id, text))])
        }
        Some(TextOr::Items(items)) if items.is_empty() => {
            Err(Error::invalid("input", "input: at least one item is required"))
        }
        Some(TextOr::Items(items)) => {
            let read = |(i, item): (usize, ResponsesInputItem)| {
                let path = format!("input[{i}]");
                match item.read(&path)? {
                    Given::Item(item) => Ok(item),
                    Given::Reference(id) => store.item(owner, &id).ok_or_else(|| {
                        let field = format!("{path}.id");
                        let shown: String = id.chars().take(64).collect();
                        let text = format!("{field}: no stored response has an item {shown}");
                        Error::invalid(field, text)
                    }),
                }
            };
            items.into_iter().enumerate().map(read).collect()
        }
    }
}

/// A checked request.
pub(super) struct Asked {
    pub(super) generation: GenerationRequest,
    /// The response as it begins.
    pub(super) response: ResponseObject,
    /// What the request added to the conversation.
    pub(super) items: Vec<ResponsesItem>,
    pub(super) is_stream: bool,
}

impl CreateResponse {
    /// Checks everything that can be checked without the model.
    pub(super) fn into_asked(mut self, store: &ResponseStore, owner: &Owner) -> Result<Asked> {
        self.refuse_unsupported(store)?;
        let logprobs = self.logprobs()?;
        let tools = self.tools.take().unwrap_or_default();
        let prompted = Prompting {
            input: self.input.take(),
            instructions: self.instructions.as_deref(),
            previous: self.previous_response_id.as_deref(),
            tools: &tools,
            tool_choice: self.tool_choice.as_ref(),
            parallel: self.parallel_tool_calls.unwrap_or(true),
            text: self.text.as_ref(),
            reasoning: self.reasoning.as_ref(),
        }
        .read(store, owner)?;
        let mut generation = GenerationRequest {
            max_tokens: self.max_output_tokens,
            logprobs,
            rules: Some(Arc::new(prompted.rules)),
            ..GenerationRequest::new(PromptInput::Chat(prompted.chat))
        };
        let temperature = within("temperature", self.temperature.unwrap_or(1.0), 0.0..=2.0)?;
        let top_p = within("top_p", self.top_p.unwrap_or(1.0), 0.0..=1.0)?;
        generation.sampling.temperature = temperature as f32;
        generation.sampling.top_p = top_p as f32;
        let is_stream = self.stream.unwrap_or(false);
        let keeps = self.store.unwrap_or(true) && store.is_on();
        let response = self.into_response(tools, keeps);
        Ok(Asked { generation, response, items: prompted.items, is_stream })
    }

    fn refuse_unsupported(&self, store: &ResponseStore) -> Result<()> {
        if self.background == Some(true) {
            let text = "background: whoever asks must wait; send stream true to see it grow";
            return Err(Error::invalid("background", text));
        }
        if self.store == Some(true) && !store.is_on() {
            let text = "store: this server is configured to keep no responses";
            return Err(Error::invalid("store", text));
        }
        if let Some(options) = &self.stream_options {
            if !self.stream.unwrap_or(false) {
                let text = "stream_options is only allowed when stream is true";
                return Err(Error::invalid("stream_options", text));
            }
            if options.include_obfuscation == Some(true) {
                let text = "stream_options.include_obfuscation: padding is not supported";
                return Err(Error::invalid("stream_options.include_obfuscation", text));
            }
        }
        for (name, value) in
            [("max_output_tokens", self.max_output_tokens), ("max_tool_calls", self.max_tool_calls)]
        {
            if value == Some(0) {
                return Err(Error::invalid(name, format!("{name} must be 1 or more, is 0")));
            }
        }
        check_metadata(self.metadata.as_ref())
    }

    fn logprobs(&self) -> Result<Option<u32>> {
        let count = self.top_logprobs.unwrap_or(0);
        if count > MAX_LOGPROBS {
            let text = format!("top_logprobs must be from 0 to {MAX_LOGPROBS}, is {count}");
            return Err(Error::invalid("top_logprobs", text));
        }
        let is_included =
            self.include.as_ref().is_some_and(|include| include.contains(&Include::Logprobs));
        Ok((is_included || count > 0).then_some(count))
    }

    /// The response as it begins; it shows the rules that hold, also those that are by default.
    fn into_response(self, mut tools: Vec<ResponsesTool>, store: bool) -> ResponseObject {
        tools.iter_mut().for_each(ResponsesTool::complete);
        let mut text = self.text.unwrap_or_default();
        text.format.get_or_insert_default();
        text.verbosity.get_or_insert(Verbosity::Medium);
        let effort = self.reasoning.and_then(|reasoning| reasoning.effort);
        ResponseObject {
            id: format!("resp_{}", random_id()),
            object: ResponseKind::Only,
            created_at: unix_time_s(),
            status: ResponseStatus::InProgress,
            completed_at: None,
            error: None,
            incomplete_details: None,
            instructions: self.instructions,
            model: self.model,
            output: Vec::new(),
            previous_response_id: self.previous_response_id,
            store,
            background: false,
            conversation: None,
            prompt: None,
            max_output_tokens: self.max_output_tokens,
            max_tool_calls: self.max_tool_calls,
            parallel_tool_calls: self.parallel_tool_calls.unwrap_or(true),
            tool_choice: self.tool_choice.unwrap_or(ResponsesToolChoice::Mode(ToolMode::Auto)),
            tools,
            temperature: self.temperature.unwrap_or(1.0),
            top_p: self.top_p.unwrap_or(1.0),
            top_logprobs: self.top_logprobs.unwrap_or(0),
            reasoning: ResponsesReasoningOptions { effort, summary: None },
            text,
            truncation: Truncation::Disabled,
            service_tier: ServiceTier::Default,
            metadata: self.metadata.unwrap_or_default(),
            user: self.user,
            safety_identifier: self.safety_identifier,
            prompt_cache_key: self.prompt_cache_key,
            usage: None,
        }
    }
}

impl CountResponseTokens {
    /// The conversation that is counted.
    pub(super) fn into_input(self, store: &ResponseStore, owner: &Owner) -> Result<ChatInput> {
        let tools = self.tools.unwrap_or_default();
        let prompted = Prompting {
            input: self.input,
            instructions: self.instructions.as_deref(),
            previous: self.previous_response_id.as_deref(),
            tools: &tools,
            tool_choice: self.tool_choice.as_ref(),
            parallel: self.parallel_tool_calls.unwrap_or(true),
            text: self.text.as_ref(),
            reasoning: self.reasoning.as_ref(),
        }
        .read(store, owner)?;
        Ok(prompted.chat)
    }
}
